# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether llama-server serves a GGUF model on given GPUs, or on a host without any, and with which settings.

The settings say everything that decides on memory, so that llama-server has nothing left to adjust: what it would do
itself (`--fit`, common/fit.cpp of build 11434) is done here beforehand, in the same order. It keeps 1024 MiB of each
GPU free, shortens a context that nobody asked for to no less than 4096 tokens, and then leaves layers, of models with
experts the experts first, in the host's memory.

What wishes mean: `max_model_len` is the context of one request, `concurrency` how many of full length are to have room
at once, `max_num_seqs` the slots (`--parallel`), `max_num_batched_tokens` the tokens of one step (`--ubatch-size`),
`kv_cache_dtype` the type of both caches, `tensor_parallel_size` and `pipeline_parallel_size` how many of the GPUs are
used, by layers in either case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_choice import (
    CUDA_CONTEXT,
    HOST_PROCESS,
    LEAST_CONTEXT,
    MIB,
    NEWEST_BUILD,
    LlamaCppOptions,
    Outcome,
    Request,
    choose,
    everything_on_gpus,
    need_of,
    request_of,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_memory import (
    CELLS,
    DeviceMemory,
    LlamaCppMemory,
    MemoryOf,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import GgufModel
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_refusals import (
    gib,
    memory_refusal,
    wish_refusals,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (
    Gpu,
    Interval,
    MemoryPlan,
    Refusal,
    ServingPlan,
    Wishes,
)

# `--cache-ram`: prompts kept in the host's memory, up to so much if nobody says otherwise.
DEFAULT_CACHE_RAM = 8192 * MIB
# The build whose source was read; the newest that was run is NEWEST_BUILD.
READ_BUILD = 11434
# How much wider the interval of the compute buffers is for builds that are not known.
_UNKNOWN_BUILD = (0.8, 1.3)
# Wishes that are vLLM's alone.
_NOT_HERE = (
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "enforce_eager",
    "block_size",
    "enable_chunked_prefill",
    "enable_prefix_caching",
)
_BUILD = re.compile(r"(?:\A\s*b?|build )(\d{4,6})\b")


def parse_build(text: str) -> int:
    """The number of the build in "b11434", "11434" or "0.7.0 (build 11669, commit Debian)"; 0 if there is none."""
    match = _BUILD.search(text)
    return int(match[1]) if match else 0


def _is_known(engine_version: str) -> bool:
    return READ_BUILD <= parse_build(engine_version) <= NEWEST_BUILD


def plan_llama_cpp(
    model: GgufModel,
    gpus: Sequence[Gpu] = (),
    wishes: Wishes | None = None,
    engine_version: str = "",
    host_memory_bytes: int | None = None,
    options: LlamaCppOptions | None = None,
    advise: bool = True,
) -> ServingPlan:
    """The plan of a llama.cpp deployment. Never raises for what it is given: what cannot be is in `refusals`.

    Without GPUs the model is served from the host's memory, `host_memory_bytes`, of which `memory` then speaks. With
    GPUs it is what layers that do not fit on them may take; unknown, it is not checked. Without `advise` refusals have
    no changes, which is faster where many plans are made.
    """
    wishes, options = wishes or Wishes(), options or LlamaCppOptions()
    refusals = wish_refusals(model, gpus, wishes, options, host_memory_bytes)
    if refusals:
        return ServingPlan(False, refusals=refusals)
    request = request_of(MemoryOf(model), gpus, wishes, options, host_memory_bytes, parse_build(engine_version))
    outcome = choose(request)
    if outcome is None:
        refusals = [memory_refusal(request, advise)]
        # What it would need, for who looks at the numbers: the shortest context, everything where it is wanted.
        context = request.context or min(LEAST_CONTEXT, model.context_length or LEAST_CONTEXT)
        outcome = everything_on_gpus(request, context)
    plan = _plan(request, outcome, refusals, engine_version)
    unused = sorted(set(wishes.given()) & set(_NOT_HERE))
    if unused:
        text = f"llama-server has nothing like {', '.join(unused)}: what was wished of it was not used."
        plan = replace(plan, explanation=[*plan.explanation, text])
    return plan


def _plan(request: Request, outcome: Outcome, refusals: Sequence[Refusal], engine_version: str) -> ServingPlan:
    runtime, memory = outcome.runtime, outcome.memory
    everything, window = request.memory.token_bytes(runtime)
    pool = runtime.cells * runtime.streams
    # Of requests as long as the cache takes them, which is in steps.
    concurrency = min(float(request.slots), pool / (-(-outcome.context // CELLS) * CELLS))
    device, total = _tightest(request, memory)
    low, high = (1.0, 1.0) if _is_known(engine_version) else _UNKNOWN_BUILD
    interval = {
        "kv_cache": Interval(device.kv_cache, device.kv_cache),
        "kv_cache_tokens": Interval(pool, pool),
        "max_concurrency": Interval(concurrency, concurrency),
        "activations": Interval(int(device.compute_low * low), int(device.compute_high * high)),
    }
    return ServingPlan(
        fits=not refusals,
        settings=_settings(request, outcome),
        memory=MemoryPlan(
            total=total,
            requested=max(0, total - request.options.margin),
            weights=device.weights,
            activations=device.compute,
            non_torch=CUDA_CONTEXT if request.gpus else HOST_PROCESS,
            cuda_graphs=0,
            kv_cache=device.kv_cache,
        ),
        kv_bytes_per_token=everything,
        kv_cache_tokens=pool,
        max_concurrency=concurrency,
        interval=interval,
        explanation=_explanation(request, outcome, engine_version, window),
        refusals=list(refusals),
    )


def _tightest(request: Request, memory: LlamaCppMemory) -> tuple[DeviceMemory, int]:
    """The GPU that has least left, or the host, and how much memory it has."""
    if not request.gpus:
        return memory.host, request.host_memory or 0
    return min(
        ((one, gpu.memory_bytes) for one, gpu in zip(memory.gpus, request.gpus)),
        key=lambda pair: pair[1] - need_of(request, pair[0]),
    )


def _settings(request: Request, outcome: Outcome) -> dict[str, Any]:
    """llama-server's long options, with underscores."""
    runtime, placement = outcome.runtime, outcome.placement
    settings: dict[str, Any] = {
        "ctx_size": runtime.ctx_size,
        "parallel": runtime.parallel,
        "kv_unified": runtime.kv_unified,
        "cache_type_k": runtime.cache_type_k,
        "cache_type_v": runtime.cache_type_v,
        "batch_size": runtime.batch_size,
        "ubatch_size": runtime.ubatch_size,
        "flash_attn": "on" if runtime.flash_attention else "off",
        "n_gpu_layers": placement.gpu_layers,
    }
    if len(placement.split) > 1:
        settings["tensor_split"] = ",".join(str(layers) for layers in placement.split)
    if placement.host_expert_layers:
        settings["n_cpu_moe"] = placement.host_expert_layers
    if runtime.swa_full:
        settings["swa_full"] = True
    if request.host_memory is not None:
        left = request.host_memory - request.options.margin - outcome.memory.host.total - HOST_PROCESS
        settings["cache_ram"] = max(0, min(DEFAULT_CACHE_RAM, left)) // MIB
    return settings


def _explanation(request: Request, outcome: Outcome, engine_version: str, window_bytes: int) -> list[str]:
    model, runtime, memory = request.model, outcome.runtime, outcome.memory
    count = len(model.layers)
    said = [
        f"The weights are {gib(model.file_weights)} in {count} layers; the matrix of the embeddings, "
        f"{gib(model.input_weights)}, stays in the host's memory."
    ]
    if model.tied_weights and outcome.placement.gpu_layers:
        said.append(f"It is the output's too, so the last GPU has a copy of {gib(model.tied_weights)}.")
    for number, (one, gpu) in enumerate(zip(memory.gpus, request.gpus)):
        compute = f"{gib(one.compute)} ({gib(one.compute_low)} to {gib(one.compute_high)})"
        said.append(
            f"GPU {number} ({gpu.name}, {gib(gpu.memory_bytes)}) has {one.layers} of {count + 1} layers (the "
            f"output's is the last): weights {gib(one.weights)}, KV cache {gib(one.kv_cache)}, compute buffer "
            f"{compute}, CUDA context {gib(CUDA_CONTEXT)}; {gib(request.options.margin)} stay free."
        )
    host = memory.host
    said.append(
        f"The host: weights {gib(host.weights)}, KV cache {gib(host.kv_cache)}, compute and output buffers "
        f"{gib(host.compute)}, the server itself {gib(HOST_PROCESS)}."
    )
    if request.gpus and outcome.placement.gpu_layers <= count:
        left = count + 1 - outcome.placement.gpu_layers
        said.append(f"{left} layers are computed by the host's processor, which is many times slower than a GPU.")
    if outcome.placement.host_expert_layers:
        said.append(
            f"The experts of {outcome.placement.host_expert_layers} layers are computed by the host's processor, "
            "which is slower than a GPU; the attention of all layers is on the GPUs."
        )
    share = "share one cache" if runtime.kv_unified else "have a cache each"
    said.append(
        f"{runtime.parallel} slots {share}, together {runtime.cells * runtime.streams} tokens of "
        f"{request.memory.token_bytes(runtime)[0]} bytes ({runtime.cache_type_k} and {runtime.cache_type_v})."
    )
    if window_bytes:
        said.append(
            f"Layers with a window keep {runtime.window_cells(model.window)} tokens of {window_bytes} bytes in each of "
            f"{runtime.streams} caches, however long the context is."
        )
    if model.skipped_weights:
        said.append(
            f"{gib(model.skipped_weights)} of weights are for predicting further tokens and are not loaded without "
            "speculative decoding."
        )
    if not _is_known(engine_version):
        said.append(
            f"What is known here is of the builds {READ_BUILD} to {NEWEST_BUILD}; {engine_version or 'no version'!r} "
            "is none of them, so the compute buffers are less certain."
        )
    return said
