# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[4]
sys.path[:0] = [str(ROOT / "tests" / "fakes")]

import tiny_gguf  # noqa: E402

from ansible_collections.baremetal.llm.plugins.module_utils.gguf_header import read_gguf_header  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp import (  # noqa: E402
    CUDA_CONTEXT,
    LlamaCppOptions,
    parse_build,
    plan_llama_cpp,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_choice import MARGIN  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_memory import (  # noqa: E402
    CACHE_TYPES,
    MemoryOf,
    Placement,
    Runtime,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import model_of  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Gpu, Wishes  # noqa: E402

BUILD = "b11669"
SHAPES = {
    # Llama 3.1 8B and 70B, Llama 3.2 1B, Gemma 3 27B, Qwen3 30B A3B, as far as memory goes.
    "8b": dict(layers=32, embedding=4096, heads=32, kv_heads=8, head_size=128, feed_forward=14336, words=128256),
    "1b": dict(
        layers=16, embedding=2048, heads=32, kv_heads=8, head_size=64, feed_forward=8192, words=128256, tied=True
    ),
    "70b": dict(layers=80, embedding=8192, heads=64, kv_heads=8, head_size=128, feed_forward=28672, words=128256),
    "gemma": dict(
        architecture="gemma3",
        layers=62,
        embedding=5376,
        heads=32,
        kv_heads=16,
        head_size=128,
        feed_forward=21504,
        words=262208,
        tied=True,
        attention__sliding_window=1024,
    ),
    "experts": dict(
        architecture="qwen3moe",
        layers=48,
        embedding=2048,
        heads=32,
        kv_heads=4,
        head_size=128,
        feed_forward=768,
        words=151936,
        experts=128,
        expert_count=128,
        expert_used_count=8,
        expert_feed_forward_length=768,
    ),
}


# Instead of a vocabulary of 262 208 words, which takes long to write.
FEW_WORDS = 1024


@cache
def model(name, context=131072):
    shape = dict(SHAPES[name])
    words = shape.pop("words")
    made = tiny_gguf.transformer(**{"weights": "Q4_K", "context": context, "words": FEW_WORDS, **shape})
    start = tiny_gguf.header(made)
    header = read_gguf_header(lambda first, end: start[first:end].ljust(end - first, b"\0"), 1 << 42)
    tensors = [
        tensor._replace(bytes=tensor.bytes // FEW_WORDS * words)
        if tensor.name in ("token_embd.weight", "output.weight")
        else tensor
        for tensor in header.tensors
    ]
    return model_of({**header.facts, "vocab_size": words}, tensors)


def gpus(gib, count=1, name="GPU"):
    return [Gpu(name, int(gib * GIB))] * count


def test_what_a_plan_says():
    plan = plan_llama_cpp(model("8b"), gpus(23.52, name="NVIDIA GeForce RTX 4090"), engine_version=BUILD)
    assert plan.fits and not plan.refusals
    assert plan.settings == {
        "ctx_size": 131072,
        "parallel": 4,
        "kv_unified": True,
        "cache_type_k": "f16",
        "cache_type_v": "f16",
        "batch_size": 2048,
        "ubatch_size": 512,
        "flash_attn": "on",
        "n_gpu_layers": 33,
    }
    assert (plan.kv_bytes_per_token, plan.kv_cache_tokens, plan.max_concurrency) == (131072, 131072, 1.0)
    assert plan.memory.kv_cache == 16 * GIB
    assert plan.memory.total - plan.memory.requested == MARGIN
    parts = plan.memory.weights + plan.memory.kv_cache + plan.memory.activations + plan.memory.non_torch
    assert parts <= plan.memory.requested
    assert plan.interval["activations"].low < plan.memory.activations < plan.interval["activations"].high
    text = " ".join(plan.explanation)
    assert "33 of 33 layers" in text and "4 slots share one cache" in text
    json.dumps(plan.as_dict())


def test_the_context_is_shortened_to_what_fits_and_no_further():
    plan = plan_llama_cpp(model("8b"), gpus(14.56), engine_version=BUILD)
    context = plan.settings["ctx_size"]
    assert 65536 < context < 131072 and context % 256 == 0
    assert plan.settings["n_gpu_layers"] == 33
    asked = plan_llama_cpp(model("8b"), gpus(14.56), Wishes(max_model_len=context + 256), BUILD)
    assert not asked.fits
    assert asked.refusals[0].alternatives[0].settings == {"max_model_len": context}


def test_slots_of_their_own_where_so_many_are_to_have_room():
    plan = plan_llama_cpp(model("8b"), gpus(23.52), Wishes(concurrency=8, max_model_len=8000), BUILD)
    assert plan.fits
    assert (plan.settings["parallel"], plan.settings["kv_unified"]) == (8, False)
    assert plan.settings["ctx_size"] == 8 * 8192
    assert plan.max_concurrency == 8
    more = plan_llama_cpp(model("8b"), gpus(23.52), Wishes(concurrency=2, max_num_seqs=16, max_model_len=8192), BUILD)
    assert (more.settings["parallel"], more.settings["kv_unified"]) == (16, True)
    assert (more.settings["ctx_size"], more.max_concurrency) == (16384, 2)


def test_several_gpus_get_layers_by_their_memory():
    plan = plan_llama_cpp(model("70b"), gpus(23.52, 2), engine_version=BUILD)
    assert plan.fits
    assert plan.settings["tensor_split"] == "40,41"
    mixed = plan_llama_cpp(model("70b"), gpus(31.36) + gpus(15.68), engine_version=BUILD)
    first, second = (int(part) for part in mixed.settings["tensor_split"].split(","))
    assert mixed.fits and first + second == 81
    assert first > 1.8 * second
    one = plan_llama_cpp(model("8b"), gpus(23.52, 4), Wishes(tensor_parallel_size=1), BUILD)
    assert one.fits and "tensor_split" not in one.settings


def test_what_is_left_over_goes_to_the_host_if_there_is_room():
    plan = plan_llama_cpp(model("70b"), gpus(23.52), engine_version=BUILD, host_memory_bytes=64 * GIB)
    assert plan.fits
    assert 30 < plan.settings["n_gpu_layers"] < 60
    assert plan.settings["ctx_size"] == 4096
    assert "computed by the host's processor" in " ".join(plan.explanation)
    assert not plan_llama_cpp(model("70b"), gpus(23.52), engine_version=BUILD, host_memory_bytes=16 * GIB).fits
    # Nobody said that the host has any.
    assert not plan_llama_cpp(model("70b"), gpus(23.52), engine_version=BUILD).fits


def test_experts_leave_the_gpu_first():
    plan = plan_llama_cpp(model("experts"), gpus(11.63), engine_version=BUILD, host_memory_bytes=64 * GIB)
    assert plan.fits
    assert plan.settings["n_gpu_layers"] == 49
    assert 10 < plan.settings["n_cpu_moe"] < 40
    assert "experts of" in " ".join(plan.explanation)


def test_a_host_without_gpus():
    plan = plan_llama_cpp(model("8b"), (), engine_version=BUILD, host_memory_bytes=32 * GIB)
    assert plan.fits
    assert plan.settings["n_gpu_layers"] == 0
    # What is left is for prompts that are kept, which would be 8 GiB if nobody said so.
    kept = plan.settings["cache_ram"] << 20
    assert plan.memory.total == 32 * GIB
    used = plan.memory.weights + plan.memory.kv_cache + plan.memory.activations + plan.memory.non_torch
    assert used + kept <= plan.memory.requested
    small = plan_llama_cpp(model("8b"), (), engine_version=BUILD, host_memory_bytes=4 * GIB)
    assert small.refusals[0].code == "host_memory"


def test_a_refusal_names_changes_that_help():
    wishes = Wishes(concurrency=8, max_model_len=16384)
    plan = plan_llama_cpp(model("8b"), gpus(14.56), wishes, BUILD)
    assert not plan.fits
    refusal = plan.refusals[0]
    assert refusal.code == "gpu_memory"
    assert "16384 tokens for each of 8 at once need 20.5" in refusal.message
    changes = [refusal.change, *refusal.alternatives]
    assert {key for change in changes for key in change.settings} == {
        "kv_cache_dtype",
        "concurrency",
        "max_model_len",
        "gpus",
        "gpu_memory_bytes",
    }
    for change in changes:
        changed = replace(wishes, **{key: value for key, value in change.settings.items() if hasattr(wishes, key)})
        memory = change.settings.get("gpu_memory_bytes", 14.56 * GIB) / GIB
        helped = plan_llama_cpp(model("8b"), gpus(memory, change.settings.get("gpus", 1)), changed, BUILD)
        assert helped.fits, change.text
        if "gpu_memory_bytes" in change.settings:
            assert not plan_llama_cpp(model("8b"), gpus(memory - 1), changed, BUILD).fits
    assert not plan_llama_cpp(model("8b"), gpus(14.56), wishes, BUILD, advise=False).refusals[0].change
    large = plan_llama_cpp(model("70b"), gpus(23.52), engine_version=BUILD).refusals[0]
    assert "weights_bytes" in large.alternatives[-1].settings


@pytest.mark.parametrize(
    ("wishes", "options", "code", "change"),
    [
        (Wishes(max_model_len=200_000), None, "context_above_model", {"max_model_len": 131072}),
        (Wishes(max_model_len=0), None, "wish_out_of_range", None),
        (Wishes(concurrency=257), None, "wish_out_of_range", None),
        (Wishes(max_num_seqs=-1), None, "wish_out_of_range", None),
        (Wishes(tensor_parallel_size=4), None, "too_few_gpus", {"gpus": 4}),
        (Wishes(quantization="awq"), None, "unknown_quantization", None),
        (Wishes(kv_cache_dtype="fp8"), None, "unknown_kv_cache_dtype", {"kv_cache_dtype": "q8_0"}),
        (Wishes(kv_cache_dtype="q8_0"), {"flash_attention": False}, "contradicting_wishes", {"kv_cache_dtype": "f16"}),
    ],
)
def test_wishes_that_cannot_be(wishes, options, code, change):
    plan = plan_llama_cpp(model("8b"), gpus(80), wishes, BUILD, options=LlamaCppOptions(**options or {}))
    assert not plan.fits and plan.settings == {}
    assert [refusal.code for refusal in plan.refusals] == [code]
    made = plan.refusals[0].change
    assert (made.settings if made else None) == change


def test_heads_that_are_not_of_whole_blocks_are_not_quantized():
    """What llama-server says: `K cache type q4_0 with block size 32 does not divide n_embd_head_k=48`."""
    narrow = replace(model("8b"), key_size=48, value_size=48)
    plan = plan_llama_cpp(narrow, gpus(80), Wishes(kv_cache_dtype="q4_0"), BUILD)
    assert [refusal.code for refusal in plan.refusals] == ["unknown_kv_cache_dtype"]
    assert plan.refusals[0].change.settings == {"kv_cache_dtype": "f16"}
    short = plan_llama_cpp(narrow, gpus(6), Wishes(max_model_len=131072), BUILD)
    assert short.refusals and "kv_cache_dtype" not in short.refusals[0].change.settings


def test_wishes_that_mean_nothing_here_are_named():
    plan = plan_llama_cpp(model("8b"), gpus(80), Wishes(gpu_memory_utilization=0.5, enforce_eager=True), BUILD)
    assert plan.fits
    assert "nothing like enforce_eager, gpu_memory_utilization" in plan.explanation[-1]


def test_nothing_to_run_on():
    assert plan_llama_cpp(model("8b")).refusals[0].code == "no_gpus"
    assert plan_llama_cpp(model("8b"), gpus(0)).refusals[0].code == "wish_out_of_range"


def test_options_of_the_site_stay():
    options = LlamaCppOptions(cache_type_k="q8_0", cache_type_v="q4_0", batch_size=4096, gpu_layers=20, margin=0)
    plan = plan_llama_cpp(model("8b"), gpus(23), Wishes(max_num_batched_tokens=1024), BUILD, 64 * GIB, options)
    assert plan.fits
    assert plan.settings["n_gpu_layers"] == 20
    assert (plan.settings["cache_type_k"], plan.settings["cache_type_v"]) == ("q8_0", "q4_0")
    assert (plan.settings["batch_size"], plan.settings["ubatch_size"]) == (4096, 1024)
    without = plan_llama_cpp(
        model("8b"), gpus(23), engine_version=BUILD, options=LlamaCppOptions(flash_attention=False)
    )
    assert without.settings["flash_attn"] == "off"
    assert without.memory.activations > 4 * plan.memory.activations


def test_windows_need_less_and_full_ones_more():
    short = plan_llama_cpp(model("gemma"), gpus(80), Wishes(max_model_len=32768), BUILD)
    full = plan_llama_cpp(
        model("gemma"), gpus(80), Wishes(max_model_len=32768), BUILD, options=LlamaCppOptions(swa_full=True)
    )
    assert short.fits and full.fits
    assert full.settings["swa_full"] is True
    # 52 of 62 layers see 1024 tokens.
    assert short.memory.kv_cache < full.memory.kv_cache / 3
    assert "Layers with a window keep" in " ".join(short.explanation)


@pytest.mark.parametrize(
    ("text", "build"),
    [("b11434", 11434), ("11434", 11434), ("0.7.0 (build 11669, commit Debian)", 11669), ("0.7.0", 0), ("", 0)],
)
def test_builds(text, build):
    assert parse_build(text) == build


def test_a_build_that_is_not_known_is_said_and_makes_the_interval_wider():
    known, unknown, old = (
        plan_llama_cpp(model("8b"), gpus(23.52), Wishes(max_model_len=8192), text) for text in (BUILD, "", "b5000")
    )
    assert "none of them" in unknown.explanation[-1] and "none of them" in old.explanation[-1]
    assert "none of them" not in known.explanation[-1]
    assert unknown.interval["activations"].high > known.interval["activations"].high
    # Before, an output was computed for every token of a step.
    assert old.memory.activations - known.memory.activations > 50 << 20


def test_a_published_figure_of_a_build_before_those_that_are_known():
    """ggml-org/llama.cpp#10052: Llama 3.2 1B, b3972, 131072 tokens, no flash attention, on an RTX 2080: 8849.72 MiB."""
    made = model("1b")
    runtime = Runtime(ctx_size=131072, flash_attention=False, build=3972)
    gpu = MemoryOf(made).by_device(runtime, Placement((17,))).gpus[0]
    assert gpu.compute_low < 8849.72 * 1048576 < gpu.compute_high
    assert gpu.compute == pytest.approx(8849.72 * 1048576, rel=0.05)
    assert gpu.kv_cache == 4 * GIB


wishes = st.builds(
    Wishes,
    max_model_len=st.none() | st.integers(1, 131072),
    concurrency=st.none() | st.integers(1, 64),
    max_num_seqs=st.none() | st.integers(1, 64),
    max_num_batched_tokens=st.none() | st.integers(32, 4096),
    kv_cache_dtype=st.none() | st.sampled_from(CACHE_TYPES),
)
names = st.sampled_from(["8b", "70b", "gemma", "experts"])
memories = st.lists(st.floats(4, 192), min_size=0, max_size=4)
host = st.none() | st.floats(2, 512)


def placed(name, memory, host_gib, wished):
    return plan_llama_cpp(
        model(name),
        [Gpu("GPU", int(gib * GIB)) for gib in memory],
        wished,
        BUILD,
        None if host_gib is None else int(host_gib * GIB),
        advise=False,
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(names, memories, host, wishes, st.floats(1, 3))
def test_more_memory_never_turns_a_fit_into_a_refusal(name, memory, host_gib, wished, factor):
    less = placed(name, memory, host_gib, wished)
    more = placed(name, [gib * factor for gib in memory], host_gib and host_gib * factor, wished)
    assert more.fits or not less.fits
    if less.fits:
        assert more.max_concurrency * 1e-9 + more.kv_cache_tokens >= less.kv_cache_tokens * (1 - 1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(names, memories, host, wishes, st.integers(1, 100_000))
def test_a_longer_context_never_yields_more_concurrency(name, memory, host_gib, wished, longer):
    context = min(wished.max_model_len or 4096, 131072)
    short = placed(name, memory, host_gib, replace(wished, max_model_len=context))
    long = placed(name, memory, host_gib, replace(wished, max_model_len=min(131072, context + longer)))
    assert short.fits or not long.fits
    if long.fits:
        assert long.max_concurrency <= short.max_concurrency


@settings(max_examples=60, deadline=None, derandomize=True)
@given(names, memories, host, wishes)
def test_settings_are_what_llama_server_takes_and_hold_what_was_planned(name, memory, host_gib, wished):
    plan = placed(name, memory, host_gib, wished)
    if not plan.fits:
        return
    chosen = plan.settings
    assert 1 <= chosen["parallel"] <= 256
    assert chosen["ubatch_size"] <= chosen["batch_size"]
    assert chosen["ctx_size"] % 256 == 0
    assert 0 <= chosen["n_gpu_layers"] <= len(model(name).layers) + 1
    if wished.max_model_len:
        slots = 1 if chosen["kv_unified"] else chosen["parallel"]
        assert chosen["ctx_size"] // slots >= wished.max_model_len
    if wished.concurrency:
        assert plan.max_concurrency >= min(wished.concurrency, chosen["parallel"])
    split = tuple(int(part) for part in chosen.get("tensor_split", str(chosen["n_gpu_layers"])).split(","))
    assert sum(split) == chosen["n_gpu_layers"]
    runtime = Runtime(
        ctx_size=chosen["ctx_size"],
        parallel=chosen["parallel"],
        kv_unified=chosen["kv_unified"],
        cache_type_k=chosen["cache_type_k"],
        cache_type_v=chosen["cache_type_v"],
        batch_size=chosen["batch_size"],
        ubatch_size=chosen["ubatch_size"],
        build=11669,
    )
    placement = Placement(split if memory else (), chosen.get("n_cpu_moe", 0))
    needed = MemoryOf(model(name)).by_device(runtime, placement)
    for one, gib in zip(needed.gpus, memory):
        assert one.total + CUDA_CONTEXT + MARGIN <= int(gib * GIB)
    if host_gib is not None:
        assert needed.host.total + (chosen["cache_ram"] << 20) + MARGIN <= int(host_gib * GIB)
