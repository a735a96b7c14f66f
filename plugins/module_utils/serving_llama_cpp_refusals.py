# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why llama-server cannot serve a model as wished, and the smallest changes that would let it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_choice import (
    HOST_PROCESS,
    LEAST_CONTEXT,
    MIB,
    LlamaCppOptions,
    Request,
    budget_of,
    cache_types,
    choose,
    everything_on_gpus,
    largest,
    need_of,
    uses_flash_attention,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_memory import (
    CACHE_TYPES,
    CELLS,
    MOST_PARALLEL,
    MemoryOf,
    block_elements,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import GgufModel
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Change, Gpu, Refusal, Wishes

_MOST_GPUS = 16
_LARGEST_GPU = 1024
_PARTS = 64
# What costs least of the model's answers first.
_SMALLER_CACHES = ("q8_0", "q5_1", "q4_0")


def wish_refusals(
    model: GgufModel, gpus: Sequence[Gpu], wishes: Wishes, options: LlamaCppOptions, host_memory: int | None
) -> list[Refusal]:
    refusals = []
    if not gpus and host_memory is None:
        refusals.append(Refusal("no_gpus", "there are no GPUs, and how much memory the host has is not known"))
    if any(gpu.memory_bytes <= 0 for gpu in gpus) or (host_memory is not None and host_memory <= 0):
        refusals.append(Refusal("wish_out_of_range", "a GPU, or the host, has no memory"))
    for name, value, most in (
        ("max_model_len", wishes.max_model_len, 1 << 31),
        ("concurrency", wishes.concurrency, MOST_PARALLEL),
        ("max_num_seqs", wishes.max_num_seqs, MOST_PARALLEL),
        ("max_num_batched_tokens", wishes.max_num_batched_tokens, 1 << 20),
        ("batch_size", options.batch_size, 1 << 20),
    ):
        if value is not None and not 1 <= value <= most:
            refusals.append(Refusal("wish_out_of_range", f"{name} is {value}, which must be from 1 to {most}"))
    asked = (wishes.tensor_parallel_size or 1) * (wishes.pipeline_parallel_size or 1)
    if asked > max(1, len(gpus)) or asked < 1:
        change = Change({"gpus": asked}, f"with {asked} GPUs") if asked > 1 else None
        refusals.append(Refusal("too_few_gpus", f"{asked} GPUs are wished, there are {len(gpus)}", change))
    if wishes.max_model_len and model.context_length and wishes.max_model_len > model.context_length:
        refusals.append(
            Refusal(
                "context_above_model",
                f"max_model_len is {wishes.max_model_len}, the model was made for {model.context_length} tokens",
                Change({"max_model_len": model.context_length}, f"with {model.context_length} tokens"),
            )
        )
    if wishes.quantization is not None:
        refusals.append(
            Refusal("unknown_quantization", "a GGUF file is as it was quantized; llama-server does not quantize")
        )
    return refusals + _cache_refusals(model, wishes, options)


def _cache_refusals(model: GgufModel, wishes: Wishes, options: LlamaCppOptions) -> list[Refusal]:
    """What llama.cpp refuses of types of caches (`llama_init_from_model`)."""
    types = cache_types(model, wishes, options)
    unknown = [name for name in types if name not in CACHE_TYPES]
    if unknown:
        change = Change({"kv_cache_dtype": "q8_0"}, "with the type q8_0, of 8.5 bits")
        text = f"llama.cpp has no cache of the type {unknown[0]}; it has {', '.join(CACHE_TYPES)}"
        return [Refusal("unknown_kv_cache_dtype", text, change)]
    plain = Change({"kv_cache_dtype": "f16"}, "with the type f16")
    for name, size in zip(types, (model.key_size, model.value_size)):
        if size % block_elements(name):
            text = f"heads of {size} cannot be kept as {name}, whose blocks have {block_elements(name)} elements"
            return [Refusal("unknown_kv_cache_dtype", text, plain)]
    if not uses_flash_attention(model, options) and block_elements(types[1]) > 1:
        return [Refusal("contradicting_wishes", f"values are kept as {types[1]} with flash attention only", plain)]
    latent = any(layer.keys and not layer.values for layer in model.layers)
    if latent and types[0] != types[1]:
        text = f"keys as {types[0]} and values as {types[1]}: {model.architecture} keeps both in one"
        return [Refusal("contradicting_wishes", text, plain)]
    return []


def memory_refusal(request: Request, advise: bool) -> Refusal:
    context = request.context or min(LEAST_CONTEXT, request.model.context_length or LEAST_CONTEXT)
    outcome = everything_on_gpus(request, context)
    if request.gpus:
        need = sum(need_of(request, gpu) for gpu in outcome.memory.gpus)
        have = sum(budget_of(request, gpu) for gpu in request.gpus)
        where = f"{len(request.gpus)} x {request.gpus[0].name}"
        code = "gpu_memory"
    else:
        need, have = outcome.memory.host.total + HOST_PROCESS, (request.host_memory or 0) - request.options.margin
        where, code = "the host's memory", "host_memory"
    message = (
        f"{context} tokens for each of {request.concurrency} at once need {gib(need)}, of which the weights are "
        f"{gib(request.model.file_weights)}; of {where} there is {gib(max(0, have))} beside the margin"
    )
    if request.gpus and request.host_memory is not None:
        message += f", and what is left over does not fit in the host's {gib(request.host_memory)} either"
    changes = _changes(request) if advise else []
    return Refusal(code, message, changes[0] if changes else None, tuple(changes[1:]))


def _changes(request: Request) -> list[Change]:
    """Single changes that would make it fit, each found by planning with it; what costs least first."""
    changes = []

    def fits(changed: Request) -> bool:
        return choose(changed) is not None

    for name in _SMALLER_CACHES:
        smaller = replace(request.runtime, cache_type_k=name, cache_type_v=name)
        sizes = (request.model.key_size, request.model.value_size)
        if (
            request.runtime.flash_attention
            and not any(size % block_elements(name) for size in sizes)
            and name != request.runtime.cache_type_k
            and fits(replace(request, runtime=smaller))
        ):
            changes.append(Change({"kv_cache_dtype": name}, f"with a KV cache of the type {name}"))
            break
    if request.concurrency > 1:

        def with_fewer(number: int) -> Request:
            runtime = replace(request.runtime, parallel=number, kv_unified=False)
            return replace(request, runtime=runtime, slots=number, concurrency=number)

        fewer = largest(1, request.concurrency - 1, lambda number: fits(with_fewer(number)))
        if fewer:
            changes.append(Change({"concurrency": fewer}, f"with {fewer} requests of full length at once"))
    if request.context:
        shorter = largest(CELLS, request.context, lambda tokens: fits(replace(request, context=tokens)), CELLS)
        if shorter and shorter < request.context:
            changes.append(Change({"max_model_len": shorter}, f"with {shorter} tokens"))
    if request.gpus:
        for count in range(len(request.gpus) + 1, _MOST_GPUS + 1):
            if fits(replace(request, gpus=request.gpus + request.gpus[-1:] * (count - len(request.gpus)))):
                changes.append(Change({"gpus": count}, f"with {count} GPUs of the kind"))
                break
        needed = _smallest_gpu(request)
        if needed:
            changes.append(Change({"gpu_memory_bytes": needed}, f"with GPUs of {gib(needed)}"))
    share = largest(1, _PARTS - 1, lambda parts: fits(_with_weights(request, parts)))
    if share:
        left = request.model.file_weights * share // _PARTS
        changes.append(Change({"weights_bytes": left}, f"with a quantization of {gib(left)} or less"))
    return changes


def _with_weights(request: Request, parts: int) -> Request:
    """The same model with every tensor so many 64ths of what it is."""
    model = request.model
    layers = tuple(
        replace(layer, weights=layer.weights * parts // _PARTS, expert_weights=layer.expert_weights * parts // _PARTS)
        for layer in model.layers
    )
    smaller = replace(
        model,
        layers=layers,
        input_weights=model.input_weights * parts // _PARTS,
        output_weights=model.output_weights * parts // _PARTS,
        tied_weights=model.tied_weights * parts // _PARTS,
        largest_tensor=model.largest_tensor * parts // _PARTS,
    )
    return replace(request, memory=MemoryOf(smaller))


def _smallest_gpu(request: Request) -> int | None:
    """Bytes that each GPU must have, in whole GiB, up to 1024."""
    step, least = GIB, min(gpu.memory_bytes for gpu in request.gpus)

    def enough(number: int) -> bool:
        larger = tuple(replace(gpu, memory_bytes=max(gpu.memory_bytes, number * step)) for gpu in request.gpus)
        return choose(replace(request, gpus=larger)) is not None

    low, high = least // step, _LARGEST_GPU
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high * step


def gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / MIB:.1f} MiB"
