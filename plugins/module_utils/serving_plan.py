# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a model can be served by vLLM on some GPUs, with which settings, and if not, what is the least that helps.

`plan` is the whole of it. It reads no file and asks nobody, and gives the same for the same. `serving_choice` says how
what is not wished is chosen, `serving_vllm` how its memory adds up, `serving_refusals` what would help. A plan says
that something fits only if a part of its uncertainty remains unused. All memory is in bytes of one GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_choice import base_choice, choose
from ansible_collections.baremetal.llm.plugins.module_utils.serving_defaults import (
    LAST_KNOWN,
    capability_problems,
    parse_engine_version,
    wished_method,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv_groups import CacheError
from ansible_collections.baremetal.llm.plugins.module_utils.serving_refusals import (
    batch_refusals,
    gibibytes,
    gpu_refusals,
    memory_refusals,
    model_refusals,
    wish_refusals,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (
    Calibration,
    Gpu,
    Interval,
    Refusal,
    ServingPlan,
    Wishes,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import Engine, Model, Outcome


def refused(refusals: Sequence[Refusal]) -> ServingPlan:
    """A plan that could not be made."""
    return ServingPlan(False, explanation=[refusal.message for refusal in refusals], refusals=list(refusals))


def plan(
    model: Model,
    gpus: Sequence[Gpu],
    wishes: Wishes,
    engine_version: str,
    calibration: Calibration | None = None,
    advise: bool = True,
) -> ServingPlan:
    """The plan of a vLLM deployment. Never raises for what it is given: what cannot be is in `refusals`, all at once.

    `calibration`: what was measured, see `serving_types`. Without `advise` refusals have no changes, which is much
    faster where many models are planned for many GPUs.
    """
    version = parse_engine_version(engine_version)
    refusals = gpu_refusals(gpus)
    if version is None:
        refusals.append(
            Refusal("unknown_engine_version", f"{engine_version!r} is no version of vLLM; write it like 0.33.0", None)
        )
    refusals += wish_refusals(wishes, version or LAST_KNOWN)
    if refusals or version is None:
        return refused(refusals)
    # Of GPUs of one kind the one with least memory decides.
    gpu = min(gpus, key=lambda one: one.memory_bytes)
    engine = Engine(version, engine_version, gpu, calibration or {})
    refusals += model_refusals(engine, model.shape, wishes, len(gpus))
    refusals += batch_refusals(engine, wishes, base_choice(engine, model, wishes))
    if refusals:
        return refused(refusals)
    method = wished_method(wishes.quantization)
    if method and model.shape.quantization is None:
        model = model.quantized(method)
    try:
        outcome = choose(engine, model, wishes, len(gpus))
        if not outcome.fits:
            refusals = memory_refusals(engine, model, wishes, len(gpus), outcome, advise)
    except CacheError as error:
        return refused([Refusal("unknown_kv_cache_dtype", str(error))])
    except ValueError as error:
        return refused([Refusal("division", f"{error}: {len(gpus)} x {gpu.name}")])
    return ServingPlan(
        fits=outcome.fits,
        settings=_settings(engine, model, wishes, outcome),
        memory=outcome.memory,
        kv_bytes_per_token=outcome.cache.bytes_per_token,
        kv_cache_tokens=outcome.cache.tokens,
        max_concurrency=_concurrency(outcome),
        interval=_interval(outcome),
        explanation=_explanation(engine, model, wishes, len(gpus), outcome, refusals),
        refusals=refusals,
    )


def _concurrency(outcome: Outcome) -> float:
    if not outcome.cache.groups:
        # Nothing is kept of a request: what limits them is the scheduler.
        return float(outcome.choice.max_num_seqs)
    return round(outcome.cache.max_concurrency, 2)


def _settings(engine: Engine, model: Model, wishes: Wishes, outcome: Outcome) -> dict[str, Any]:
    choice = outcome.choice
    settings: dict[str, Any] = {
        "tensor_parallel_size": choice.tensor,
        "pipeline_parallel_size": choice.pipeline,
        "max_model_len": choice.max_model_len,
        "max_num_seqs": choice.max_num_seqs,
        "max_num_batched_tokens": choice.max_num_batched_tokens,
        "kv_cache_dtype": choice.kv_cache_dtype,
    }
    if choice.kv_cache_memory_bytes is not None:
        settings["kv_cache_memory_bytes"] = choice.kv_cache_memory_bytes
    else:
        settings["gpu_memory_utilization"] = choice.gpu_memory_utilization
    capability = engine.gpu.capability
    if capability is not None and capability < (8, 0) and model.shape.dtype == "bfloat16":
        # Older GPUs do not compute in bfloat16, and vLLM does not start on them with it.
        settings["dtype"] = "float16"
    if choice.enforce_eager:
        settings["enforce_eager"] = True
    method = wished_method(wishes.quantization)
    if method is not None:
        settings["quantization"] = wishes.quantization
    for name in ("block_size", "enable_prefix_caching", "enable_chunked_prefill"):
        if getattr(wishes, name) is not None:
            settings[name] = getattr(wishes, name)
    return settings


def _interval(outcome: Outcome) -> dict[str, Interval]:
    """Tokens and concurrency follow from the bytes in proportion, down to whole blocks."""
    memory, cache = outcome.memory, outcome.cache
    result = {"kv_cache": Interval(outcome.kv_low, outcome.kv_high)}
    if not cache.bytes_per_block:
        return result
    low, high = outcome.kv_low // cache.bytes_per_block, math.ceil(outcome.kv_high / cache.bytes_per_block)
    per_block = cache.tokens / cache.blocks if cache.blocks else float(cache.block_size) / max(1, len(cache.groups))
    result["kv_cache_tokens"] = Interval(int(low * per_block), math.ceil(high * per_block))
    result["max_concurrency"] = Interval(
        math.floor(low / cache.blocks_per_request * 100) / 100, math.ceil(high / cache.blocks_per_request * 100) / 100
    )
    for name, part in (
        ("activations", outcome.overheads.activations),
        ("non_torch", outcome.overheads.non_torch),
        ("cuda_graphs", outcome.overheads.cuda_graphs),
    ):
        result[name] = Interval(part.low, part.high)
    if "weights" not in outcome.measured:
        result["weights"] = Interval(
            min(outcome.weights.low, memory.weights), max(outcome.weights.high, memory.weights)
        )
    return result


def _explanation(
    engine: Engine, model: Model, wishes: Wishes, gpus: int, outcome: Outcome, refusals: Sequence[Refusal]
) -> list[str]:
    choice, memory, cache, parts = outcome.choice, outcome.memory, outcome.cache, outcome.overheads
    used = choice.tensor * choice.pipeline
    text = [
        f"{model.name} on {used} x {engine.gpu.name or 'GPU'} with vLLM {engine.version_text}: "
        + ("it fits." if outcome.fits else "it does not fit."),
        f"Each GPU has {gibibytes(memory.total)}; the engine may use {gibibytes(memory.requested)} "
        + (
            f"(gpu_memory_utilization {choice.gpu_memory_utilization:g})."
            if choice.kv_cache_memory_bytes is None
            else "(its KV cache has the size that was wished, so gpu_memory_utilization counts for nothing)."
        ),
        f"Weights take {gibibytes(memory.weights)} on each ("
        + {"tensors": "from the files' headers", "weights_bytes": "from the size of the whole model"}.get(
            outcome.weights.source, "estimated from config.json"
        )
        + f"), activations {gibibytes(memory.activations)} at the largest step of {choice.max_num_batched_tokens} "
        f"tokens and {choice.max_num_seqs} sequences, memory outside of torch {gibibytes(memory.non_torch)}.",
    ]
    if choice.enforce_eager:
        text.append("There are no CUDA graphs (enforce_eager).")
    elif parts.graphs_taken_off:
        text.append(f"This version takes an estimate of its CUDA graphs off as well: {gibibytes(memory.cuda_graphs)}.")
    else:
        text.append(
            f"CUDA graphs take about {gibibytes(memory.cuda_graphs)} of what the engine leaves "
            f"({gibibytes(max(0, memory.total - memory.requested))}): this version does not take them off."
        )
    if outcome.measured:
        text.append(f"Measured on a running engine, not estimated: {', '.join(outcome.measured)}.")
    if cache.groups:
        text.append(
            f"That leaves {gibibytes(memory.kv_cache)} for the KV cache (between {gibibytes(outcome.kv_low)} and "
            f"{gibibytes(outcome.kv_high)}): {cache.tokens} tokens at {cache.bytes_per_token} bytes each"
            + (f" in {cache.kv_cache_dtype}" if choice.kv_cache_dtype == "auto" else "")
            + f", room for {cache.max_concurrency:.2f} requests of {choice.max_model_len} tokens at once."
        )
        if outcome.fits and cache.needed_bytes_for_one_request * choice.concurrency > outcome.kv_low:
            text.append("It is tight: at the lower end of the interval it would not start.")
    else:
        text.append("The model keeps nothing of a request, so there is no KV cache.")
    text += _chosen(engine, model, wishes, gpus, outcome)
    notes = list(parts.notes) + list(outcome.weights.notes) + list(cache.notes) + list(model.shape.notes)
    quantization = model.shape.quantization
    _problems, older = capability_problems(
        engine.version, engine.gpu, quantization.format if quantization else "", choice.kv_cache_dtype
    )
    text += [_sentence(note) for note in (*notes, *older)]
    for refusal in refusals:
        text.append(_sentence(refusal.message))
        if refusal.change is not None:
            text.append(_sentence(f"what would fit: {refusal.change.text}"))
    return text


def _chosen(engine: Engine, model: Model, wishes: Wishes, gpus: int, outcome: Outcome) -> list[str]:
    """Why what was not wished is as it is."""
    choice, text = outcome.choice, []
    own = model.shape.max_position_embeddings
    if wishes.max_model_len is None:
        if choice.max_model_len == own:
            text.append(f"max_model_len {own} is what the model can read.")
        else:
            text.append(f"max_model_len {choice.max_model_len} is what fits; the model can read {own} tokens.")
    own_batch = base_choice(engine, model, wishes)
    defaults: list[str] = []
    smaller: list[str] = []
    for name in ("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization"):
        if getattr(wishes, name) is None and not (name[0] == "g" and choice.kv_cache_memory_bytes is not None):
            value = getattr(choice, name)
            (defaults if value == getattr(own_batch, name) else smaller).append(f"{name} {value:g}")
    if defaults:
        text.append(f"By default vLLM {engine.version_text} takes {' and '.join(defaults)} on this GPU.")
    if smaller:
        text.append(
            f"{' and '.join(smaller)} are the defaults of GPUs with less memory: with its own it would not fit."
        )
    if wishes.tensor_parallel_size is None and gpus > 1:
        used = choice.tensor * choice.pipeline
        text.append(
            f"Of {gpus} GPUs {used} are used: tensor_parallel_size {choice.tensor}"
            + (f", pipeline_parallel_size {choice.pipeline}." if choice.pipeline > 1 else ".")
        )
    return text


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
