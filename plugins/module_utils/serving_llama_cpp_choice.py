# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a model goes on the GPUs of a host: how long a context, and which layers where.

In the order of llama-server's own `--fit` (common/fit.cpp of build 11434): a context that nobody asked for becomes
shorter, down to 4096 tokens, before layers leave the GPUs; of models with experts these leave first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_memory import (
    CELLS,
    DEFAULT_BATCH,
    DEFAULT_PARALLEL,
    DEFAULT_UBATCH,
    DeviceMemory,
    LlamaCppMemory,
    MemoryOf,
    Placement,
    Runtime,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import GgufModel
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import Gpu, Wishes

MIB = 1 << 20

# `--fit-target`: what stays free of each GPU, or of the host's memory.
MARGIN = 1024 * MIB
# `--fit-ctx`: a context that nobody asked for is not made shorter.
LEAST_CONTEXT = 4096
# What the CUDA driver takes of a GPU beside what llama.cpp allocates: 451 and 456 MiB on an RTX 4090, as
# ggml-org/llama.cpp#15860 prints ("unaccounted").
CUDA_CONTEXT = 455 * MIB
# llama-server itself, without model and caches: 46 MB were measured with a small vocabulary.
HOST_PROCESS = 128 * MIB
# The newest build that was run; what says nothing of its build is taken for it.
NEWEST_BUILD = 11669
_NEVER_FLASH = ("grok",)
# What says of which precision a cache is in the wishes of other engines.
_SAME_TYPE = {"auto": "f16", "float16": "f16", "half": "f16", "bfloat16": "bf16", "float32": "f32"}


@dataclass(frozen=True)
class LlamaCppOptions:
    """What a site sets of llama-server's own options; `None`: to be chosen.

    `gpu_layers` counts the output layer as one, `margin` is in bytes and of each GPU, or of the host.
    """

    gpu_layers: int | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    batch_size: int | None = None
    flash_attention: bool | None = None
    swa_full: bool = False
    margin: int = MARGIN


@dataclass(frozen=True)
class Request:
    """What is to be planned, with everything decided but the length of the context and where the layers are."""

    memory: MemoryOf
    gpus: tuple[Gpu, ...]
    host_memory: int | None
    runtime: Runtime
    slots: int
    # Requests of full length that are to have room at once.
    concurrency: int
    options: LlamaCppOptions
    # 0: as long as it goes.
    context: int

    @property
    def model(self) -> GgufModel:
        return self.memory.model

    def at(self, context: int) -> Runtime:
        """The settings for so many tokens a request; with slots of their own each has as many."""
        return replace(self.runtime, ctx_size=_up(context, CELLS) * self.concurrency)


@dataclass(frozen=True)
class Outcome:
    runtime: Runtime
    placement: Placement
    memory: LlamaCppMemory
    context: int


def cache_types(model: GgufModel, wishes: Wishes, options: LlamaCppOptions) -> tuple[str, str]:
    wished = _SAME_TYPE.get(wishes.kv_cache_dtype or "auto", wishes.kv_cache_dtype or "f16")
    return options.cache_type_k or wished, options.cache_type_v or wished


def uses_flash_attention(model: GgufModel, options: LlamaCppOptions) -> bool:
    return options.flash_attention is not False and model.architecture not in _NEVER_FLASH


def request_of(
    memory: MemoryOf,
    gpus: Sequence[Gpu],
    wishes: Wishes,
    options: LlamaCppOptions,
    host_memory: int | None,
    build: int,
) -> Request:
    model = memory.model
    used = (wishes.tensor_parallel_size or 1) * (wishes.pipeline_parallel_size or 1)
    if wishes.tensor_parallel_size is None and wishes.pipeline_parallel_size is None:
        used = len(gpus)
    concurrency = wishes.concurrency or 1
    slots = max(wishes.max_num_seqs or (DEFAULT_PARALLEL if wishes.concurrency is None else concurrency), concurrency)
    key_type, value_type = cache_types(model, wishes, options)
    step = wishes.max_num_batched_tokens or DEFAULT_UBATCH
    runtime = Runtime(
        ctx_size=CELLS,
        parallel=slots,
        # Requests of full length have room each only if none can take another's. More slots than that share a pool.
        kv_unified=slots != concurrency,
        cache_type_k=key_type,
        cache_type_v=value_type,
        flash_attention=uses_flash_attention(model, options),
        batch_size=max(options.batch_size or DEFAULT_BATCH, step),
        ubatch_size=step,
        swa_full=options.swa_full,
        build=build or NEWEST_BUILD,
    )
    return Request(
        memory, tuple(gpus[:used]), host_memory, runtime, slots, concurrency, options, wishes.max_model_len or 0
    )


def choose(request: Request) -> Outcome | None:
    """In the order of llama-server's own: a shorter context before layers leave the GPUs. Nothing if nothing fits."""
    longest = request.model.context_length or LEAST_CONTEXT
    if request.context:
        return _on_gpus(request, request.context) or _partly_on_gpus(request, request.context)
    shortest = min(LEAST_CONTEXT, longest)
    place = _on_gpus if request.gpus else _partly_on_gpus
    context = largest(shortest, longest, lambda tokens: place(request, tokens) is not None, CELLS)
    if context:
        return place(request, context)
    return _partly_on_gpus(request, shortest)


def _on_gpus(request: Request, context: int) -> Outcome | None:
    """All layers on the GPUs, or as many as the site says."""
    if not request.gpus:
        return None
    count = len(request.model.layers) + 1
    wanted = count if request.options.gpu_layers is None else min(count, max(0, request.options.gpu_layers))
    return _placed(request, context, wanted, 0)


def _partly_on_gpus(request: Request, context: int) -> Outcome | None:
    """As much on the GPUs as fits, the rest in the host's memory; of experts as few layers as possible."""
    count = len(request.model.layers)
    if not request.gpus:
        return _placed(request, context, 0, 0)
    if request.options.gpu_layers is not None:
        return None
    if request.model.experts:
        kept = largest(0, count, lambda layers: _placed(request, context, count + 1, count - layers) is not None)
        found = _placed(request, context, count + 1, count - (kept or 0))
        if found:
            return found
    layers = largest(0, count, lambda number: _placed(request, context, number, 0) is not None)
    return None if layers is None else _placed(request, context, layers, 0)


def _placed(request: Request, context: int, gpu_layers: int, host_expert_layers: int) -> Outcome | None:
    """The layers on the GPUs, by their memory, or as they go in; nothing if they do not."""
    runtime = request.at(context)
    # Most of what does not fit is known at once, before any splits are made.
    begin = max(0, min(len(request.model.layers), len(request.model.layers) + 1 - gpu_layers))
    least = request.memory.weights(begin, len(request.model.layers), host_expert_layers)[0]
    least += request.memory.kv_cache(runtime, begin)
    if gpu_layers and least > sum(max(0, budget_of(request, gpu) - CUDA_CONTEXT) for gpu in request.gpus):
        return None
    for split in _splits(request, runtime, gpu_layers, host_expert_layers):
        placement = Placement(split, host_expert_layers)
        memory = request.memory.by_device(runtime, placement)
        if _host_fits(request, memory) and all(
            need_of(request, one) <= budget_of(request, gpu) for one, gpu in zip(memory.gpus, request.gpus)
        ):
            return Outcome(runtime, placement, memory, context)
    return None


def _splits(request: Request, runtime: Runtime, gpu_layers: int, host_expert_layers: int) -> list[tuple[int, ...]]:
    """First evenly by memory, as llama.cpp does it, then what fills one GPU after the other."""
    gpus = request.gpus
    if len(gpus) <= 1:
        return [(gpu_layers,) * len(gpus)]
    total, parts, reached = sum(gpu.memory_bytes for gpu in gpus), [], 0.0
    for gpu in gpus:
        before = round(gpu_layers * reached / total)
        reached += gpu.memory_bytes
        parts.append(round(gpu_layers * reached / total) - before)
    filled: list[int] = []
    for number, gpu in enumerate(gpus):
        left = gpu_layers - sum(filled)

        def holds(layers: int, number: int = number, gpu: Gpu = gpu, left: int = left) -> bool:
            # The others' layers do not matter to this one, but those behind it must be there to be counted.
            behind = [0] * (len(gpus) - number - 1)
            if behind:
                behind[-1] = left - layers
            split = (*filled, layers, *behind)
            if sum(split) != gpu_layers:
                return False
            memory = request.memory.by_device(runtime, Placement(split, host_expert_layers))
            return need_of(request, memory.gpus[number]) <= budget_of(request, gpu)

        if number == len(gpus) - 1:
            filled.append(left)
        else:
            filled.append(largest(0, left, holds) or 0)
    return list(dict.fromkeys((tuple(parts), tuple(filled))))


def need_of(request: Request, device: DeviceMemory) -> int:
    """What a GPU must have beside the margin; the margin itself is for compute buffers that turn out larger."""
    larger = device.compute_high - device.compute - request.options.margin
    return device.total + CUDA_CONTEXT + (max(0, larger) if device.layers else 0)


def budget_of(request: Request, gpu: Gpu) -> int:
    return gpu.memory_bytes - request.options.margin


def _host_fits(request: Request, memory: LlamaCppMemory) -> bool:
    if request.host_memory is None:
        # The embeddings and buffers may stay there in any case; layers only where it is known that there is room.
        return memory.host.kv_cache == 0 and memory.host.weights <= request.model.input_weights
    return memory.host.total + HOST_PROCESS <= request.host_memory - request.options.margin


def everything_on_gpus(request: Request, context: int) -> Outcome:
    """Not whether it fits, but what it would be."""
    count, runtime = len(request.model.layers) + 1, request.at(context)
    wanted = count if request.options.gpu_layers is None else min(count, max(0, request.options.gpu_layers))
    split = _splits(request, runtime, wanted, 0)[0] if request.gpus else ()
    placement = Placement(split)
    return Outcome(runtime, placement, request.memory.by_device(runtime, placement), context)


def largest(least: int, most: int, holds: Callable[[int], bool], step: int = 1) -> int | None:
    """The largest number, `least` and a multiple of `step` or `most`, for which it holds, if it holds for `least`."""
    if least > most or not holds(least):
        return None
    if holds(most):
        return most
    low, high = least // step, -(-most // step)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(max(least, middle * step)):
            low = middle
        else:
            high = middle
    return max(least, low * step)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
