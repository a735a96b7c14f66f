# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.baremetal.llm.plugins.module_utils.serving_choice import division_problems
from ansible_collections.baremetal.llm.plugins.module_utils.serving_defaults import (
    chunked_prefill_by_default,
    parse_engine_version,
    scheduler_problems,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_plan import plan
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (
    GIB,
    CalibrationKey,
    Gpu,
    ServingPlan,
    Wishes,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import Model, read_model

ROOT = Path(__file__).resolve().parents[4]
CONFIGS = ROOT / "tests" / "unit" / "fixtures" / "serving"
H100 = Gpu("NVIDIA H100 80GB HBM3", int(79.18 * GIB), "9.0")
L4 = Gpu("NVIDIA L4", int(21.95 * GIB), "8.9")
NEWEST = "0.33.0"
PARTS = ("weights", "activations", "non_torch", "cuda_graphs", "kv_cache")

_MODELS: dict[tuple[str, int | None], Model] = {}


def model(name: str, weights_bytes: int | None = None) -> Model:
    """Models are kept between tests: what was worked out for one plan is used by the next, as for an inventory."""
    if (name, weights_bytes) not in _MODELS:
        config = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
        _MODELS[name, weights_bytes] = read_model(config, f"example/{name}", weights_bytes)
    return _MODELS[name, weights_bytes]


def codes(found: ServingPlan) -> list[str]:
    return [refusal.code for refusal in found.refusals]


def errors_tool() -> Any:
    spec = importlib.util.spec_from_file_location("serving_plan_errors", ROOT / "tools" / "serving_plan_errors.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    return tool


COMPARISONS = list(errors_tool().compare())
# The log's activations are those of vLLM 0.17 and newer, or of fewer sequences than the default; see the guide.
UNEXPLAINED = {("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "0.11.0")}


@pytest.mark.parametrize(
    "compared", COMPARISONS, ids=lambda one: f"{one.log['model']}-{one.log['vllm_version']}-{one.log['wishes']}"
)
def test_a_published_log_is_met_within_five_per_cent_or_three_quarters_of_a_gibibyte(compared: Any) -> None:
    if (compared.log["model"], compared.log["vllm_version"]) in UNEXPLAINED:
        assert compared.within_goal is False, "explained now: remove it from UNEXPLAINED"
    else:
        assert compared.within_goal in (None, True), compared.error
    assert compared.plan.fits is compared.log["started"]


def test_activations_and_memory_outside_of_torch_follow_the_version() -> None:
    """vLLM 0.15 to 0.18 with one model on one GPU: the sampler shrank in 0.17, what torch does not see grew in 0.18."""
    found = {
        one.log["vllm_version"]: one.plan.memory
        for one in COMPARISONS
        if one.log["model"] == "Qwen/Qwen3-14B" and one.log["gpu"] == "NVIDIA H100 80GB HBM3"
    }
    measured = {"0.15.0": (5.64, 0.13), "0.16.0": (5.64, 0.13), "0.17.0": (2.23, 0.13), "0.18.0": (2.23, 0.25)}
    for version, (activations, non_torch) in measured.items():
        assert found[version].activations / GIB == pytest.approx(activations, abs=0.05)
        assert found[version].non_torch / GIB == pytest.approx(non_torch, abs=0.05)


def test_the_interval_holds_most_of_what_was_measured() -> None:
    inside = [one.in_interval for one in COMPARISONS if one.in_interval is not None]
    assert sum(inside) / len(inside) >= 0.85


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.json")))
def test_every_known_family_can_be_planned(name: str) -> None:
    found = plan(model(name), [replace(H100, memory_bytes=139 * GIB)] * 16, Wishes(), NEWEST)
    assert found.fits, found.explanation
    assert found.memory.requested >= sum(getattr(found.memory, part) for part in PARTS) - 1
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_plan_gives_exactly_what_the_module_promises() -> None:
    found = plan(model("llama-3.1-8b"), [H100], Wishes(), NEWEST).as_dict()
    assert set(found) == {
        "fits", "settings", "memory", "kv_bytes_per_token", "kv_cache_tokens", "max_concurrency", "interval",
        "explanation", "refusals",
    }  # fmt: skip
    assert set(found["memory"]) == {"total", "requested", *PARTS}
    assert found["kv_bytes_per_token"] == 131072
    assert found["settings"]["max_num_batched_tokens"] == 8192
    assert found["settings"]["gpu_memory_utilization"] == 0.92
    assert found["interval"]["kv_cache"]["low"] < found["memory"]["kv_cache"] < found["interval"]["kv_cache"]["high"]


@pytest.mark.parametrize(
    ("version", "gpu", "utilization", "tokens", "sequences"),
    [
        ("0.33.0", H100, 0.92, 8192, 1024),
        ("0.20.0", H100, 0.9, 8192, 1024),
        ("0.33.0", replace(H100, name="NVIDIA A100-SXM4-80GB", compute_capability="8.0"), 0.92, 2048, 256),
        ("0.33.0", L4, 0.92, 2048, 256),
        ("0.33.0", replace(H100, name="NVIDIA B200", memory_bytes=178 * GIB), 0.92, 16384, 1024),
        ("0.27.0", replace(H100, name="NVIDIA B200", memory_bytes=178 * GIB), 0.92, 8192, 1024),
        ("0.33.0", replace(H100, name="NVIDIA GB10", memory_bytes=121 * GIB), 0.92, 2048, 256),
    ],
)
def test_what_is_not_wished_is_what_the_engine_takes(
    version: str, gpu: Gpu, utilization: float, tokens: int, sequences: int
) -> None:
    chosen = plan(model("qwen2.5-1.5b"), [gpu], Wishes(), version).settings
    assert chosen["gpu_memory_utilization"] == utilization
    assert (chosen["max_num_batched_tokens"], chosen["max_num_seqs"]) == (tokens, sequences)


def test_the_fewest_gpus_are_used_on_which_the_whole_context_fits() -> None:
    gpus = [H100] * 8
    assert plan(model("llama-3.1-8b"), gpus, Wishes(), NEWEST).settings["tensor_parallel_size"] == 1
    assert plan(model("llama-3.1-70b"), gpus, Wishes(), NEWEST).settings["tensor_parallel_size"] == 4


def test_a_context_that_does_not_fit_is_shortened_if_nobody_wished_for_it() -> None:
    found = plan(model("llama-3.1-8b"), [L4], Wishes(), NEWEST)
    length = found.settings["max_model_len"]
    assert found.fits and 16384 < length < 131072
    assert plan(model("llama-3.1-8b"), [L4], Wishes(max_model_len=length), NEWEST).fits


def test_every_change_that_is_proposed_makes_it_fit() -> None:
    asked = Wishes(max_model_len=131072, concurrency=2)
    found = plan(model("llama-3.1-8b"), [L4], asked, NEWEST)
    assert codes(found) == ["context_does_not_fit"]
    changes = [found.refusals[0].change, *found.refusals[0].alternatives]
    assert {name for change in changes for name in change.settings} >= {"max_model_len", "gpus"}
    for change in changes:
        wanted = dict(change.settings)
        count, weights = wanted.pop("gpus", 1), wanted.pop("weights_bytes", None)
        again = plan(model("llama-3.1-8b", weights), [L4] * count, replace(asked, **wanted), NEWEST)
        assert again.fits, (change.text, again.explanation)


@pytest.mark.parametrize(
    ("wishes", "version", "expected"),
    [
        (Wishes(max_num_seqs=1024), "0.11.0", "max_num_seqs"),
        (Wishes(kv_cache_dtype="auto"), "0.11.0", "kv_cache_dtype"),
        (Wishes(tensor_parallel_size=1), "0.11.0", "tensor_parallel_size"),
    ],
)
def test_fewer_sequences_an_fp8_cache_and_more_of_the_gpus_are_proposed(
    wishes: Wishes, version: str, expected: str
) -> None:
    """Qwen3-32B with 32000 tokens did not start on an H100 (llm-d-planner, docs/empirical-vllm-memory-results.md)."""
    gpus = [H100] * (2 if wishes.tensor_parallel_size else 1)
    asked = replace(wishes, max_model_len=32000, gpu_memory_utilization=0.9)
    found = plan(model("qwen3-32b"), gpus, asked, version)
    assert not found.fits
    changes = [found.refusals[0].change, *found.refusals[0].alternatives]
    assert any(expected in change.settings for change in changes)


def test_weights_that_do_not_fit_need_more_gpus_or_fewer_bits() -> None:
    found = plan(model("llama-3.1-70b"), [H100], Wishes(), NEWEST)
    assert codes(found) == ["weights_do_not_fit"]
    settings_of = [found.refusals[0].change.settings, *(other.settings for other in found.refusals[0].alternatives)]
    assert {"gpus": 4, "tensor_parallel_size": 4} in settings_of or {
        "gpus": 2,
        "tensor_parallel_size": 2,
    } in settings_of
    assert any(one.get("quantization") == "awq" for one in settings_of)


@pytest.mark.parametrize(
    ("name", "gpus", "wishes", "version", "code"),
    [
        ("llama-3.1-8b", [], Wishes(), NEWEST, "no_gpus"),
        ("llama-3.1-8b", [H100, L4], Wishes(), NEWEST, "mixed_gpus"),
        ("llama-3.1-8b", [H100], Wishes(), "newest", "unknown_engine_version"),
        ("llama-3.1-8b", [H100] * 3, Wishes(tensor_parallel_size=3), NEWEST, "attention_heads"),
        ("llama-3.1-8b", [H100] * 2, Wishes(tensor_parallel_size=4), NEWEST, "too_few_gpus"),
        ("llama-3.1-8b", [H100], Wishes(max_num_seqs=0), NEWEST, "wish_out_of_range"),
        ("llama-3.1-8b", [H100], Wishes(gpu_memory_utilization=1.5), NEWEST, "wish_out_of_range"),
        (
            "llama-3.1-8b",
            [H100],
            Wishes(gpu_memory_utilization=0.9, kv_cache_memory_bytes=GIB),
            NEWEST,
            "contradicting_wishes",
        ),
        ("llama-3.1-8b", [H100], Wishes(concurrency=8, max_num_seqs=4), NEWEST, "contradicting_wishes"),
        (
            "llama-3.1-8b",
            [H100],
            Wishes(max_num_seqs=512, max_num_batched_tokens=256),
            NEWEST,
            "sequences_above_batched_tokens",
        ),
        (
            "llama-3.1-8b",
            [H100],
            Wishes(enable_chunked_prefill=False, max_num_batched_tokens=2048, max_model_len=8192),
            NEWEST,
            "batched_tokens_below_context",
        ),
        ("llama-3.1-8b", [H100], Wishes(max_model_len=200_000), NEWEST, "context_above_model"),
        ("llama-3.1-8b", [H100], Wishes(kv_cache_dtype="fp7"), NEWEST, "unknown_kv_cache_dtype"),
        ("llama-3.1-8b", [H100], Wishes(quantization="fp7"), NEWEST, "unknown_quantization"),
        ("qwen3-235b-a22b-fp8", [H100] * 8, Wishes(quantization="awq"), NEWEST, "quantization_mismatch"),
        (
            "llama-3.1-8b",
            [replace(L4, name="Tesla T4", compute_capability="7.5")],
            Wishes(kv_cache_dtype="fp8"),
            NEWEST,
            "kv_cache_dtype_capability",
        ),
        (
            "gpt-oss-20b",
            [replace(L4, name="Tesla T4", compute_capability="7.5")],
            Wishes(),
            NEWEST,
            "quantization_capability",
        ),
        ("qwen2.5-1.5b", [replace(L4, name="Tesla P100", compute_capability="6.0")], Wishes(), NEWEST, "gpu_too_old"),
        ("qwen2.5-1.5b", [L4], Wishes(kv_cache_memory_bytes=40 * GIB), NEWEST, "kv_cache_memory_does_not_fit"),
        ("llama-3.1-8b", [replace(L4, memory_bytes=17 * GIB)], Wishes(), NEWEST, "no_memory_for_kv_cache"),
        ("qwen3-14b", [H100] * 5, Wishes(tensor_parallel_size=5), NEWEST, "vocabulary"),
        ("llama-3.1-8b", [L4], Wishes(max_model_len=8192, concurrency=64), NEWEST, "concurrency_does_not_fit"),
    ],
)
def test_what_cannot_be_is_refused(name: str, gpus: list[Gpu], wishes: Wishes, version: str, code: str) -> None:
    found = plan(model(name), gpus, wishes, version)
    assert not found.fits
    assert code in codes(found), found.explanation


def test_everything_that_is_wrong_is_said_at_once() -> None:
    asked = Wishes(
        tensor_parallel_size=3, max_model_len=200_000, kv_cache_dtype="fp7", max_num_seqs=9000, quantization="fp7"
    )
    assert set(codes(plan(model("llama-3.1-8b"), [H100], asked, NEWEST))) == {
        "too_few_gpus", "attention_heads", "kv_heads", "unknown_quantization", "unknown_kv_cache_dtype",
        "context_above_model",
    }  # fmt: skip


def test_a_version_that_is_not_known_is_said_and_widens_the_interval() -> None:
    known, unknown = (plan(model("llama-3.1-8b"), [H100], Wishes(), version) for version in (NEWEST, "0.99.0"))
    assert any("0.99.0 is not known" in sentence for sentence in unknown.explanation)
    width = [found.interval["kv_cache"].high - found.interval["kv_cache"].low for found in (known, unknown)]
    assert width[1] > width[0]


def test_what_was_measured_replaces_what_is_estimated() -> None:
    before = plan(model("llama-3.1-8b"), [H100], Wishes(), NEWEST)
    chosen = before.settings
    key = CalibrationKey(
        "example/llama-3.1-8b", "vllm", NEWEST, H100.name, 1, 1,
        chosen["max_num_seqs"], chosen["max_num_batched_tokens"],
        False,
    )  # fmt: skip
    parts = {"activations": 2 * GIB, "cuda_graphs": GIB // 2}
    found = plan(model("llama-3.1-8b"), [H100], Wishes(), NEWEST, {key.text(): parts})
    assert found.memory.activations == 2 * GIB and found.memory.cuda_graphs == GIB // 2
    everything = plan(model("llama-3.1-8b"), [H100], Wishes(), NEWEST, {key.text(): {"non_kv": 17 * GIB}})
    assert everything.memory.requested - everything.memory.kv_cache == 17 * GIB
    widths = [one.interval["kv_cache"].high - one.interval["kv_cache"].low for one in (before, everything)]
    assert widths[1] < widths[0] / 4
    other = plan(model("llama-3.1-8b"), [H100], Wishes(max_num_seqs=64), NEWEST, {key.text(): parts})
    assert other.memory.activations != 2 * GIB


def test_a_cache_of_a_wished_size_has_it_and_says_nothing_of_utilization() -> None:
    found = plan(model("llama-3.1-8b"), [H100], Wishes(kv_cache_memory_bytes=20 * GIB), NEWEST)
    assert found.fits and found.memory.kv_cache == 20 * GIB
    assert found.settings["kv_cache_memory_bytes"] == 20 * GIB
    assert "gpu_memory_utilization" not in found.settings
    assert found.kv_cache_tokens == pytest.approx(20 * GIB / 131072, rel=0.001)


def test_weights_in_eight_bits_are_taken_for_what_they_are() -> None:
    """weights_bytes of a model that vLLM quantizes while it loads may be of before or after."""
    whole, half = 16_060_522_496, 9_081_200_640
    plans = [plan(model("llama-3.1-8b", size), [H100], Wishes(quantization="fp8"), "0.19.0") for size in (whole, half)]
    assert plans[0].memory.weights == pytest.approx(plans[1].memory.weights, rel=0.01)
    assert plans[0].memory.weights / GIB == pytest.approx(8.49, rel=0.01)


gibibytes = st.integers(min_value=8, max_value=200)
names = st.sampled_from(
    [
        "llama-3.1-8b",
        "qwen3-32b",
        "gpt-oss-20b",
        "gemma-3-27b",
        "qwen3-next-80b-a3b",
        "deepseek-v2-lite",
        "mixtral-8x7b",
    ]
)
versions = st.sampled_from(["0.10.2", "0.16.0", "0.19.0", "0.24.0", "0.33.0"])
lengths = st.integers(min_value=64, max_value=131072)
bounded = settings(max_examples=60, deadline=None, derandomize=True)


@bounded
@given(name=names, version=versions, memory=gibibytes, more=st.integers(1, 60), length=lengths, count=st.integers(1, 4))
def test_more_memory_never_turns_a_fit_into_a_refusal(
    name: str, version: str, memory: int, more: int, length: int, count: int
) -> None:
    length = min(length, model(name).shape.max_position_embeddings)
    small, large = (
        plan(
            model(name),
            [replace(H100, memory_bytes=size * GIB)] * count,
            Wishes(max_model_len=length),
            version,
            None,
            False,
        )
        for size in (memory, memory + more)
    )
    assert large.fits or not small.fits


@bounded
@given(name=names, version=versions, memory=gibibytes, first=lengths, second=lengths, count=st.integers(1, 4))
def test_a_longer_context_never_yields_more_concurrency(
    name: str, version: str, memory: int, first: int, second: int, count: int
) -> None:
    gpus = [replace(H100, memory_bytes=memory * GIB)] * count
    short, long = (
        plan(model(name), gpus, Wishes(max_model_len=length), version, None, False)
        for length in sorted((first, second))
    )
    assert long.max_concurrency <= short.max_concurrency


@bounded
@given(
    name=names,
    version=versions,
    memory=gibibytes,
    count=st.integers(1, 8),
    wishes=st.builds(
        Wishes,
        max_model_len=st.none() | lengths,
        max_num_seqs=st.none() | st.integers(1, 4096),
        max_num_batched_tokens=st.none() | st.integers(1, 65536),
        gpu_memory_utilization=st.none() | st.floats(0.1, 1),
        concurrency=st.none() | st.integers(1, 64),
        enable_chunked_prefill=st.none() | st.booleans(),
    ),
)
def test_settings_satisfy_the_engine(name: str, version: str, memory: int, count: int, wishes: Wishes) -> None:
    found = plan(model(name), [replace(H100, memory_bytes=memory * GIB)] * count, wishes, version, None, False)
    if not found.settings:
        assert found.refusals
        return
    chosen, shape = found.settings, model(name).shape
    numbers = parse_engine_version(version)
    assert numbers is not None
    chunked = chosen.get("enable_chunked_prefill", chunked_prefill_by_default(numbers, chosen["max_model_len"]))
    assert scheduler_problems(chosen, chunked) == []
    assert division_problems(shape, chosen["tensor_parallel_size"], chosen["pipeline_parallel_size"]) == []
    assert chosen["tensor_parallel_size"] * chosen["pipeline_parallel_size"] <= count
    assert 1 <= chosen["max_model_len"] <= shape.max_position_embeddings
    assert 0 < chosen["gpu_memory_utilization"] <= 1
    for wish, value in wishes.given().items():
        assert wish == "concurrency" or chosen[wish] == value
    if found.fits:
        assert found.max_concurrency >= (wishes.concurrency or 1)
        assert found.memory.kv_cache > 0
    else:
        assert found.refusals
