# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_sample import GIB, MODELS, boot_logs, config_of, shape_of

from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv import (
    KvSettings,
    kv_bytes_needed,
    kv_bytes_per_token,
    kv_cache,
    longest_context,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv_groups import CacheError
from ansible_collections.baremetal.llm.plugins.module_utils.serving_model import read_model_shape
from ansible_collections.baremetal.llm.plugins.module_utils.serving_parallel import valid_tensor_parallel_sizes
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import FULL, AttentionLayers

BOUNDED = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
LOGS = boot_logs()


@pytest.mark.parametrize(
    ("name", "expected"),
    # Layers x KV heads x (K + V) x 2 bytes, as published: LMCache's table of KV cache sizes (LMCache/LMCache#1769), the
    # report of DeepSeek-V3 (70 KB), Gemma 3's and gpt-oss's cards; of hybrid models the layers with attention.
    [
        ("llama-3.1-8b", 131072),
        ("llama-3.1-70b", 327680),
        ("llama-3.1-405b", 516096),
        ("qwen2.5-7b", 57344),
        ("qwen3-32b", 262144),
        ("qwen3-30b-a3b", 98304),
        ("qwen3-next-80b-a3b", 24576),
        ("gemma-2-9b", 344064),
        ("gemma-3-27b", 507904),
        ("gpt-oss-20b", 49152),
        ("gpt-oss-120b", 73728),
        ("mixtral-8x7b", 131072),
        ("deepseek-v3", 70272),
        ("deepseek-v2-lite", 31104),
        ("kimi-k2", 70272),
        ("phi-4", 204800),
        ("gpt2", 36864),
        ("falcon-40b", 122880),
        ("jamba-1.5-mini", 16384),
        ("lfm2-1.2b", 12288),
        ("minimax-m2", 253952),
        ("gemma-3n-e4b", 40960),
        ("bge-m3", 0),
    ],
)
def test_bytes_per_token_are_those_published(name, expected):
    assert kv_bytes_per_token(shape_of(name), KvSettings(max_model_len=1024)) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", 131072),
        ("bfloat16", 131072),
        ("fp8", 65536),
        ("fp8_e5m2", 65536),
        ("int8_per_token_head", 65536 + 32 * 8 * 2 * 4),
        ("nvfp4", 32 * 8 * 2 * (64 + 8)),
    ],
)
def test_bytes_per_token_follow_the_type_of_the_cache(dtype, expected):
    assert kv_bytes_per_token(shape_of("llama-3.1-8b"), KvSettings(1024, kv_cache_dtype=dtype)) == expected


def test_bytes_per_token_of_packed_latent_attention():
    shape = shape_of("deepseek-v3.2")
    # 656 bytes and the indexer's 132 in every layer; not divided by anything.
    for tensor in (1, 8):
        packed = KvSettings(1024, kv_cache_dtype="fp8_ds_mla", tensor_parallel_size=tensor)
        assert kv_bytes_per_token(shape, packed) == 61 * (656 + 132)
    assert kv_bytes_per_token(shape_of("deepseek-v3"), KvSettings(1024, tensor_parallel_size=8)) == 70272
    with pytest.raises(CacheError, match="only for models with multi-head latent attention"):
        kv_bytes_per_token(shape_of("llama-3.1-8b"), KvSettings(1024, kv_cache_dtype="fp8_ds_mla"))


@pytest.mark.parametrize(
    ("version", "capability", "asked", "expected"),
    [
        ("0.11.0", (9, 0), "auto", "fp8_ds_mla"),
        ("0.11.0", (9, 0), "bfloat16", "bfloat16"),
        ("0.32.0", (9, 0), "auto", "bfloat16"),
        ("0.32.0", (9, 0), "fp8", "fp8_ds_mla"),
        ("0.32.0", (10, 0), "fp8", "fp8"),
        ("0.32.0", (12, 0), "auto", "fp8_ds_mla"),
    ],
)
def test_the_type_of_sparse_latent_attention_depends_on_version_and_gpu(version, capability, asked, expected):
    chosen = KvSettings(1024, kv_cache_dtype=asked, engine_version=version, compute_capability=capability)
    assert kv_cache(shape_of("deepseek-v3.2"), chosen, GIB).kv_cache_dtype == expected


def test_a_type_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(CacheError, match=r"'fp3' is not known; known are auto, .*fp8"):
        kv_bytes_per_token(shape_of("llama-3.1-8b"), KvSettings(1024, kv_cache_dtype="fp3"))


def test_kv_heads_are_copied_where_there_are_more_gpus():
    shape = shape_of("qwen3-30b-a3b")
    sizes = [kv_bytes_per_token(shape, KvSettings(1024, tensor_parallel_size=tensor)) for tensor in (1, 2, 4, 8, 16)]
    assert sizes == [98304, 49152, 24576, 24576, 24576]


@pytest.mark.parametrize(
    "log",
    [log for log in LOGS if "log_kv_cache_tokens" in log and "log_available_kv_cache_gib" in log],
    ids=lambda log: f"{log['model']} {log['vllm_version']}",
)
def test_tokens_are_those_of_published_logs(log):
    shape = shape_of(log["config"])
    cache = kv_cache(
        shape,
        KvSettings(
            log["max_model_len"],
            log.get("max_num_batched_tokens", 2048),
            tensor_parallel_size=log["tensor_parallel_size"],
            engine_version=log["vllm_version"],
            kv_cache_dtype=log.get("kv_cache_dtype", "auto"),
            enable_prefix_caching=log.get("enable_prefix_caching"),
        ),
        int(log["log_available_kv_cache_gib"] * GIB),
    )
    # Logs round the memory to 0.01 GiB, and name the first GPU's where another one decided.
    rounding = 0.005 / log["log_available_kv_cache_gib"]
    tolerance = 0.015 if log.get("smallest_rank") else max(0.001, rounding)
    assert cache.tokens == pytest.approx(log["log_kv_cache_tokens"], rel=tolerance)
    if "log_max_concurrency" in log:
        assert cache.max_concurrency == pytest.approx(log["log_max_concurrency"], rel=0.005)


def test_versions_name_different_numbers_for_the_same_blocks():
    # vllm-project/vllm#40691: 290,864 tokens and 33.04 requests of 32,768, in one log of 0.19.
    shape = shape_of("qwen3.5-27b")
    old = KvSettings(32768, 16384, engine_version="0.19.0")
    block = kv_cache(shape, old, GIB).bytes_per_block
    cache = kv_cache(shape, old, 1487 * block)
    assert (cache.tokens, round(cache.max_concurrency, 2), cache.block_size) == (290864, 33.04, 784)
    new = kv_cache(shape, replace(old, engine_version="0.22.0", enable_prefix_caching=False), 1487 * block)
    assert new.tokens == int(new.max_concurrency * 32768) == 1082800 and new.blocks == cache.blocks


def test_gemma_4_gains_ten_times_the_tokens_in_the_log_of_a_newer_version():
    # vllm-project/vllm#43308: about 55,000 and 525,000 tokens in about 50 GB.
    shape = shape_of("gemma-4-31b")
    old = kv_cache(shape, KvSettings(262144, 2048, engine_version="0.20.0"), 50 * GIB)
    new = kv_cache(shape, KvSettings(262144, 2048, engine_version="0.21.0"), 50 * GIB)
    assert old.tokens == pytest.approx(55000, rel=0.01)
    assert 9 < new.tokens / old.tokens < 11 and new.blocks == old.blocks


@pytest.mark.parametrize(
    ("name", "groups", "block_size"),
    # Groups of equally many layers, and pages as large as a state (logs: "Setting attention block size to 544 tokens").
    [
        ("qwen3-next-80b-a3b", 4, 544),
        ("qwen3.5-27b", 4, 784),
        ("granite-4.0-h-small", 10, 528),
        ("falcon-h1-7b", 2, 1568),
        ("gemma-3-27b", 7, 16),
        ("gpt-oss-20b", 2, 16),
        ("llama-4-scout", 1, 16),
        ("deepseek-v3.2", 1, 64),
        ("llama-3.1-8b", 1, 16),
    ],
)
def test_groups_of_layers_share_a_pool(name, groups, block_size):
    cache = kv_cache(shape_of(name), KvSettings(8192), 10 * GIB)
    assert (len(cache.groups), cache.block_size) == (groups, block_size)


def test_a_window_is_kept_with_what_is_in_flight():
    shape = shape_of("gpt-oss-20b")
    blocks = kv_cache(shape, KvSettings(131072, 2048, engine_version="0.22.0"), GIB).blocks_per_request
    assert blocks == 131072 // 16 + (128 - 1 + 2048 + 15) // 16 + 1
    # From 0.26 a second batch is in flight (vllm-project/vllm#47728).
    newer = kv_cache(shape, KvSettings(131072, 2048, engine_version="0.26.0"), GIB).blocks_per_request
    assert newer == blocks + 128
    every = KvSettings(131072, 2048, disable_hybrid_kv_cache_manager=True)
    assert kv_cache(shape, every, GIB).blocks_per_request == 131072 // 16


def test_states_take_what_the_engine_says():
    # vLLM, mamba_utils.py: gated delta net of 32 heads of 128 x 128 and 8192 channels of which 3 steps are kept.
    cache = kv_cache(shape_of("qwen3-next-80b-a3b"), KvSettings(8192, engine_version="0.19.0"), GIB)
    state = 2 * (32 * 128 * 128 + 3 * 8192)
    page = 544 * 2048
    assert state <= page and cache.state_bytes_per_request == 36 * page
    # A prefix that is kept takes a second one; by default since vllm-project/vllm#50991.
    for kept in (KvSettings(8192, engine_version="0.19.0", enable_prefix_caching=True), KvSettings(8192)):
        assert kv_cache(shape_of("qwen3-next-80b-a3b"), kept, GIB).state_bytes_per_request == 2 * 36 * page
    # Mamba kept one for every block where that was asked for.
    every = KvSettings(10400, engine_version="0.19.0", enable_prefix_caching=True)
    assert kv_cache(shape_of("nemotron-h-8b"), every, GIB).blocks_per_request == 7 * 10


def test_a_model_without_attention_keeps_only_states():
    config = {
        "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 64,
        "num_heads": 128, "head_dim": 64, "n_groups": 8, "state_size": 128, "conv_kernel": 4, "expand": 2,
        "vocab_size": 32768, "tie_word_embeddings": False,
    }  # fmt: skip
    shape = read_model_shape(config)
    cache = kv_cache(shape, KvSettings(1 << 20, enable_prefix_caching=False), 10 * GIB)
    state = 64 * 2 * (128 * 64 * 128 + 3 * (8192 + 2 * 8 * 128))
    assert (cache.bytes_per_token, cache.state_bytes_per_request, cache.blocks) == (0, state, 10 * GIB // state)
    assert shape.parameters == pytest.approx(7285403648, rel=0.001)


def test_deepseek_v4_packs_pages_of_different_sizes():
    # vllm-project/vllm#51041: five groups, some 150,000 tokens in 7.7 GiB with a length of 121,344.
    config = {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_size": 4096,
        "num_hidden_layers": 43, "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512,
        "q_lora_rank": 1024, "o_lora_rank": 1024, "o_groups": 8, "index_head_dim": 128, "index_n_heads": 64,
        "index_topk": 512, "sliding_window": 128, "compress_ratios": [0, 0, *[4, 128] * 20, 4], "vocab_size": 129280,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 6, "moe_intermediate_size": 2048,
        "max_position_embeddings": 1048576, "tie_word_embeddings": False, "expert_dtype": "fp4",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }  # fmt: skip
    shape = read_model_shape(config)
    cache = kv_cache(shape, KvSettings(121344, 8192, engine_version="0.26.0", kv_cache_dtype="fp8"), int(7.7 * GIB))
    assert len(cache.groups) == 5 and cache.bytes_per_block == 21 * (37440 + 8640) + 20 * 1728
    assert cache.tokens == pytest.approx(150_000, rel=0.08)
    assert cache.bytes_per_token == 21 * (146 + 33) + 20 * 5
    assert shape.parameters == pytest.approx(284.3e9, rel=0.001)


def test_decode_context_parallelism_multiplies_the_tokens():
    shape = shape_of("kimi-k2")
    one = kv_cache(shape, KvSettings(131072, tensor_parallel_size=8), 20 * GIB)
    eight = kv_cache(shape, KvSettings(131072, tensor_parallel_size=8, decode_context_parallel_size=8), 20 * GIB)
    # vllm-project/recipes, Kimi-K2-Think.md: exactly eight times.
    assert eight.tokens == pytest.approx(8 * one.tokens, rel=0.001)


def test_the_deepest_stage_of_a_pipeline_decides():
    shape = shape_of("llama-3.1-8b")
    assert kv_bytes_per_token(shape, KvSettings(1024, pipeline_parallel_size=3)) == 131072 * 11 // 32
    cache = kv_cache(shape, KvSettings(1024, pipeline_parallel_size=2), [GIB, 2 * GIB])
    assert cache.blocks == kv_cache(shape, KvSettings(1024), 2 * GIB).blocks
    with pytest.raises(CacheError, match="3 amounts of memory are given for 2 stages"):
        kv_cache(shape, KvSettings(1024, pipeline_parallel_size=2), [GIB] * 3)


def test_some_versions_ask_every_stage_for_the_whole_depth():
    # vllm-project/vllm#34076: 24.0 GiB are needed for 262,144 tokens of Qwen3-30B-A3B on either of two stages.
    shape = shape_of("qwen3-30b-a3b")
    cache = kv_cache(shape, KvSettings(262144, pipeline_parallel_size=2, engine_version="0.15.2"), 20 * GIB)
    assert cache.needed_bytes_for_one_request == 24 * GIB and not cache.fits and cache.max_concurrency > 1
    assert kv_cache(shape, KvSettings(262144, pipeline_parallel_size=2, engine_version="0.19"), 20 * GIB).fits


def test_drafts_take_their_part():
    shape = shape_of("llama-3.1-8b")
    eagle = AttentionLayers(FULL, (0,), 8, 128, 128)
    with_draft = KvSettings(1024, num_speculative_tokens=3, draft_layers=(eagle,))
    assert kv_bytes_per_token(shape, with_draft) == 131072 * 33 // 32
    assert kv_cache(shape, with_draft, 33 * GIB).blocks == kv_cache(shape, KvSettings(1024), 32 * GIB).blocks
    mtp = KvSettings(1024, num_speculative_tokens=1, draft_layers=shape_of("deepseek-v3").draft_layers)
    assert kv_bytes_per_token(shape_of("deepseek-v3"), mtp) == 62 * 1152


def test_a_checkpoint_may_ask_for_the_type_of_its_cache():

    scheme = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    shape = read_model_shape({**config_of("llama-3.1-8b"), "quantization_config": scheme})
    assert kv_cache(shape, KvSettings(1024), GIB).kv_cache_dtype == "fp8_e4m3"
    assert kv_bytes_per_token(shape, KvSettings(1024)) == 65536
    assert kv_bytes_per_token(shape, KvSettings(1024, kv_cache_dtype="bfloat16")) == 131072


names = st.sampled_from([name for name in MODELS if name not in ("bge-m3", "whisper-large-v3")])
versions = st.sampled_from(["0.10.1", "0.15.2", "0.20.0", "0.26.0", "0.33.0", None])
lengths = st.integers(1, 300_000)
amounts = st.integers(0, 400 * GIB)


def compatible(name, tensor):
    return tensor in valid_tensor_parallel_sizes(shape_of(name), 16)


@BOUNDED
@given(names, versions, lengths, lengths, amounts, st.sampled_from([1, 2, 4]))
def test_a_longer_context_never_gives_more_concurrency(name, version, one, other, amount, pipeline):
    short, long = sorted((one, other))
    found = [
        kv_cache(shape_of(name), KvSettings(length, engine_version=version, pipeline_parallel_size=pipeline), amount)
        for length in (short, long)
    ]
    assert found[0].max_concurrency >= found[1].max_concurrency
    assert found[0].needed_bytes_for_one_request <= found[1].needed_bytes_for_one_request


@BOUNDED
@given(names, versions, lengths, amounts, amounts)
def test_more_memory_never_holds_fewer_tokens(name, version, length, one, other):
    less, more = (
        kv_cache(shape_of(name), KvSettings(length, engine_version=version), amount) for amount in sorted((one, other))
    )
    assert less.tokens <= more.tokens and less.max_concurrency <= more.max_concurrency
    assert more.fits or not less.fits


@BOUNDED
@given(names, lengths, st.sampled_from([(1, 2), (2, 4), (4, 8), (1, 8), (8, 16)]), st.sampled_from(["auto", "fp8"]))
def test_more_gpus_never_hold_more_each(name, length, tensors, dtype):
    if not all(compatible(name, tensor) for tensor in tensors):
        return
    few, many = (KvSettings(length, tensor_parallel_size=tensor, kv_cache_dtype=dtype) for tensor in tensors)
    shape = shape_of(name)
    assert kv_bytes_per_token(shape, few) >= kv_bytes_per_token(shape, many)
    assert kv_bytes_needed(shape, few) >= kv_bytes_needed(shape, many)


@BOUNDED
@given(names, versions, lengths, st.floats(0.1, 100))
def test_what_is_needed_is_enough(name, version, length, concurrency):
    chosen = KvSettings(length, engine_version=version)
    needed = kv_bytes_needed(shape_of(name), chosen, concurrency)
    assert kv_cache(shape_of(name), chosen, needed).max_concurrency >= concurrency
    block = kv_cache(shape_of(name), chosen, needed).bytes_per_block
    assert kv_cache(shape_of(name), chosen, max(0, needed - block)).max_concurrency < concurrency


@BOUNDED
@given(names, versions, amounts, st.integers(1, 20))
def test_the_longest_context_is_the_longest(name, version, amount, concurrency):
    chosen = KvSettings(1, engine_version=version)
    length = longest_context(shape_of(name), chosen, amount, concurrency)
    if length:
        assert kv_cache(shape_of(name), replace(chosen, max_model_len=length), amount).max_concurrency >= concurrency
    if length < 1 << 27:
        longer = kv_cache(shape_of(name), replace(chosen, max_model_len=length + 1), amount)
        assert longer.max_concurrency < concurrency
