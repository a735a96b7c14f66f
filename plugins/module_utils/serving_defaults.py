# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vLLM does on a GPU when nobody says otherwise, by version, and what it refuses before it loads anything.

Read in vLLM's source: `engine/arg_utils.py: get_batch_defaults` (tokens and sequences), `config/cache.py`
(utilisation), `config/vllm.py: _set_cudagraph_sizes`, `config/scheduler.py: verify_max_model_len`, the model runners
(`VllmConfig.use_v2_model_runner`), `platforms/cuda.py` and the quantization methods' `get_min_capability`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Gpu

Version = tuple[int, ...]

# Versions whose behaviour was read or whose logs were compared. What comes after is planned like the newest of them.
FIRST_KNOWN: Version = (0, 6)
LAST_KNOWN: Version = (0, 33)
# The V1 engine is the default: chunked prefill, torch.compile, graphs of pieces.
V1_ENGINE: Version = (0, 8)
# Before, a prompt was only spread over steps if the context was longer than this many tokens.
LONGEST_WHOLE_PROMPT = 32768
# An estimate of the CUDA graphs is taken off the KV cache (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS), and 0.92 of the
# memory is used instead of 0.90 to make up for it (vllm-project/vllm#38284).
GRAPHS_TAKEN_OFF: Version = (0, 21)
# `--kv-cache-memory-bytes` (vllm-project/vllm#21489).
KV_CACHE_MEMORY: Version = (0, 11)
# 16384 tokens on GPUs of 160 GiB and more.
LARGE_GPUS: Version = (0, 28)

_VERSION = re.compile(r"\s*v?(\d+)\.(\d+)(?:\.(\d+))?")


def parse_engine_version(text: str) -> Version | None:
    """The numbers at the start of a version such as "0.33.0", "0.27.1+cu129" or "v0.19.0"; nothing if it is none."""
    match = _VERSION.match(text)
    return None if match is None else tuple(int(part) for part in match.groups() if part is not None)


def is_known(version: Version) -> bool:
    return FIRST_KNOWN <= version[:2] <= LAST_KNOWN


def default_utilization(version: Version) -> float:
    """`gpu_memory_utilization` that an engine takes: 0.92, before 0.21 it was 0.90."""
    return 0.92 if version >= GRAPHS_TAKEN_OFF else 0.90


# From how much memory in bytes on the default batch is a larger one, the largest first.
BATCH_STEPS = (160 * GIB, 70 * GIB)


@dataclass(frozen=True)
class Batch:
    """How much one step of the engine may hold: tokens and sequences."""

    max_num_batched_tokens: int
    max_num_seqs: int


def default_batch(version: Version, gpu: Gpu, max_model_len: int) -> Batch:
    """What `vllm serve` takes where neither is wished. `max_model_len` in tokens decides before the V1 engine only."""
    if version < V1_ENGINE:
        # Without chunked prefill a step holds a whole prompt; contexts over 32768 tokens were chunked by 2048.
        return Batch(2048 if max_model_len > LONGEST_WHOLE_PROMPT else max(max_model_len, 2048), 256)
    name = gpu.name.lower()
    if version >= LARGE_GPUS and gpu.memory_bytes >= BATCH_STEPS[0]:
        return Batch(16384, 1024)
    if gpu.memory_bytes >= BATCH_STEPS[1] and "a100" not in name and "gb10" not in name:
        return Batch(8192, 1024 if version >= (0, 9) else 256)
    return Batch(2048, 256)


def chunked_prefill_by_default(version: Version, max_model_len: int) -> bool:
    return version >= V1_ENGINE or max_model_len > LONGEST_WHOLE_PROMPT


def capture_sizes(version: Version, max_num_seqs: int, max_num_batched_tokens: int) -> tuple[int, int]:
    """How many CUDA graphs are captured: of pieces between attention layers, and of the whole decode step.

    Sizes are 1, 2, 4, then every 8 up to 256 and every 16 above, up to twice the sequences and at most 512. V1 before
    0.11 captured pieces of every 8 up to 512, whatever the sequences; V0 only whole steps.
    """
    if version < V1_ENGINE:
        return 0, 3 + min(max_num_seqs, 256) // 8
    if version < (0, 11):
        return 67, 0
    largest = min(2 * max_num_seqs, 512, max_num_batched_tokens)
    sizes = [size for size in (1, 2, 4) if size <= largest]
    sizes += list(range(8, min(largest + 1, 256), 8)) + list(range(256, largest + 1, 16))
    return len(sizes), sum(1 for size in sizes if size <= max_num_seqs)


# Dense models that had the V2 model runner before all dense ones had it in 0.25 (vllm-project/vllm#39337, #44443).
_FIRST_ON_V2: tuple[tuple[Version, frozenset[str]], ...] = (
    ((0, 23), frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"})),
    ((0, 21), frozenset({"Qwen3ForCausalLM"})),
)


def graphs_are_taken_off(version: Version, architecture: str, dense: bool, quantized: bool) -> bool:
    """Whether the KV cache is made smaller by an estimate of the CUDA graphs.

    Since 0.21, but the V2 model runner did not estimate at first (vllm-project/vllm#49224): its KV cache was sized as
    if there were no graphs until 0.27.
    """
    if version < GRAPHS_TAKEN_OFF:
        return False
    if not dense or version >= (0, 28):
        return True
    if version >= (0, 25):
        return False
    return quantized or not any(version >= since and architecture in names for since, names in _FIRST_ON_V2)


@dataclass(frozen=True)
class Problem:
    """Something that the engine refuses; `code` is stable."""

    code: str
    message: str


# The oldest compute capability that can serve weights of a format at all (Marlin's kernels dequantize where the GPU
# cannot compute in the format), and the oldest that computes in it.
_FORMATS: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "fp8": ((7, 5), (8, 9)),
    "int8": ((7, 5), (7, 5)),
    "int4": ((7, 5), (7, 5)),
    "nvfp4": ((7, 5), (10, 0)),
    "mxfp4": ((8, 0), (10, 0)),
    "mxfp8": ((8, 0), (10, 0)),
}
# Before these versions Marlin's kernels needed 8.0.
_MARLIN_ON_TURING: Version = (0, 12)

# The oldest compute capability for a data type of the KV cache; those that are not here need none.
_KV_CAPABILITIES: Mapping[str, tuple[int, int]] = {
    "fp8": (8, 0),
    "fp8_e4m3": (8, 0),
    "fp8_e5m2": (8, 0),
    "fp8_inc": (8, 0),
    "fp8_ds_mla": (9, 0),
    "fp8_per_token_head": (8, 9),
    "nvfp4": (10, 0),
    "nvfp4_ds_mla": (10, 0),
}

# Names under which the engine serves the same checkpoints.
_METHODS: Mapping[str, str] = {
    "awq_marlin": "awq",
    "gptq_marlin": "gptq",
    "gptq_bitblas": "gptq",
    "modelopt_fp8": "modelopt",
    "modelopt_fp4": "modelopt",
    "modelopt_mixed": "modelopt",
    "compressed_tensors": "compressed-tensors",
    "gpt_oss_mxfp4": "mxfp4",
    "deepseek_v4_fp8": "fp8",
}
# How people write that weights are not quantized.
_UNQUANTIZED = frozenset({"", "none", "auto", "bf16", "bfloat16", "fp16", "float16", "half"})
# What vLLM itself does to weights of 16 bits while it loads them.
ONLINE_QUANTIZATION = frozenset({"fp8", "fp8_per_tensor", "fp8_per_block", "experts_int8", "mxfp8", "bitsandbytes"})


def wished_method(name: str | None) -> str | None:
    """A wished quantization by the name that the planner knows it by; nothing if it asks for none."""
    words = (name or "").strip().lower().replace("-", "_").split()
    if not words or words[0] in _UNQUANTIZED:
        return None
    method = words[0]
    return "fp8" if method.startswith("fp8_per_") else _METHODS.get(method, method)


def same_method(wished: str, checkpoint: str) -> bool:
    """Whether a wished quantization is the one that the checkpoint has."""
    names = [name.replace("_", "-") for name in (_METHODS.get(wished, wished), _METHODS.get(checkpoint, checkpoint))]
    return names[0] == names[1]


def _text(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def capability_problems(
    version: Version, gpu: Gpu, weights_format: str, kv_cache_dtype: str
) -> tuple[list[Problem], list[str]]:
    """What the GPU is too old for, and what is only slower. Nothing is said where its compute capability is unknown."""
    have = gpu.capability
    if have is None:
        return [], [
            f"nothing is known of the compute capability of {gpu.name or 'the GPU'}: whether it supports the "
            "quantization and the KV cache's data type was not checked"
        ]
    problems, notes = [], []
    oldest = (7, 5) if version >= (0, 20) else (7, 0)
    if have < oldest:
        problems.append(
            Problem(
                "gpu_too_old",
                f"vLLM {'.'.join(map(str, version))} needs compute capability {_text(oldest)}, {gpu.name} has "
                f"{_text(have)}",
            )
        )
    if weights_format in _FORMATS:
        least, native = _FORMATS[weights_format]
        if version < _MARLIN_ON_TURING and least == (7, 5) and weights_format in ("fp8", "nvfp4"):
            least = (8, 0)
        if have < least:
            problems.append(
                Problem(
                    "quantization_capability",
                    f"{weights_format} weights need compute capability {_text(least)}, {gpu.name} has {_text(have)}",
                )
            )
        elif have < native:
            notes.append(
                f"{gpu.name} does not compute in {weights_format} (that needs {_text(native)}): its weights are "
                "unpacked by Marlin's kernels, which saves memory but no time"
            )
    least_kv = _KV_CAPABILITIES.get(kv_cache_dtype)
    if least_kv is not None and have < least_kv:
        problems.append(
            Problem(
                "kv_cache_dtype_capability",
                f"a KV cache of {kv_cache_dtype} needs compute capability {_text(least_kv)}, {gpu.name} has "
                f"{_text(have)}",
            )
        )
    return problems, notes


def supports_fp8_cache(gpu: Gpu) -> bool:
    return gpu.capability is None or gpu.capability >= _KV_CAPABILITIES["fp8"]


def supports_format(version: Version, gpu: Gpu, weights_format: str) -> bool:
    problems, _notes = capability_problems(version, gpu, weights_format, "auto")
    return not any(problem.code == "quantization_capability" for problem in problems)


def scheduler_problems(settings: Mapping[str, Any], chunked_prefill: bool) -> list[Problem]:
    """What vLLM's scheduler configuration refuses: `max_model_len`, `max_num_seqs`, `max_num_batched_tokens`."""
    tokens, sequences, length = (
        settings["max_num_batched_tokens"],
        settings["max_num_seqs"],
        settings["max_model_len"],
    )
    problems = []
    if tokens < length and not chunked_prefill:
        problems.append(
            Problem(
                "batched_tokens_below_context",
                f"max_num_batched_tokens {tokens} is less than max_model_len {length}, and without chunked prefill a "
                "prompt has to fit into one step",
            )
        )
    if sequences > tokens:
        problems.append(
            Problem(
                "sequences_above_batched_tokens",
                f"max_num_seqs {sequences} is more than max_num_batched_tokens {tokens}: each sequence of a step has "
                "at least one token",
            )
        )
    return problems
