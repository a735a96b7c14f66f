# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why something cannot be planned or does not fit, and the smallest change that would help.

Changes are not guessed: each is found by planning again with it. They are tried in the order in which they cost
somebody something: a shorter context, fewer sequences, a KV cache in 8 bits, more of the memory, more GPUs, a smaller
quantization, then two at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_choice import (
    division_problems,
    divisions,
    longest_that_fits,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_defaults import (
    KV_CACHE_MEMORY,
    Version,
    capability_problems,
    chunked_prefill_by_default,
    same_method,
    scheduler_problems,
    supports_format,
    supports_fp8_cache,
    wished_method,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv_groups import CacheError, elements_bytes
from ansible_collections.baremetal.llm.plugins.module_utils.serving_quantization import (
    WISHES,
    wished_quantization,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Change, Gpu, Refusal, Wishes
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import (
    Choice,
    Engine,
    Model,
    Outcome,
    evaluate,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_weights import estimated_bytes

# Contexts below this are no use to anybody, so they are not proposed.
_SHORTEST = 512
# A context that is left open has at least this many tokens in proposals, or what the model can read.
_USEFUL = 8192
# How many GPUs of the same kind are proposed at most: eight hosts of eight.
_MOST_GPUS = 64
_HIGHEST_UTILIZATION = 0.96
# Memory of GPUs with one name differs by what the driver keeps, not by more than this share.
_SAME_MEMORY = 0.02


def gibibytes(count: float) -> str:
    """Bytes as people read them: 14.99 GiB."""
    return f"{count / GIB:.2f} GiB"


def gpu_refusals(gpus: Sequence[Gpu]) -> list[Refusal]:
    """No GPUs, GPUs without memory, GPUs of several kinds.

    vLLM gives every GPU of a deployment the same share of the model and the KV cache of the smallest, so another kind
    beside it is refused, not planned with: it would idle, or lack what the first one can do.
    """
    if not gpus:
        return [Refusal("no_gpus", "no GPUs are given; a plan needs at least one, as gpu_info gives them")]
    refusals = [
        Refusal("gpu_memory", f"GPU {index} ({gpu.name or 'without a name'}): its memory is {gpu.memory_bytes} bytes")
        for index, gpu in enumerate(gpus)
        if gpu.memory_bytes <= 0
    ]
    kinds: dict[tuple[str, str], list[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault((gpu.name, gpu.compute_capability), []).append(gpu)
    sizes = [gpu.memory_bytes for gpu in gpus]
    if len(kinds) > 1 or max(sizes) > min(sizes) * (1 + _SAME_MEMORY):
        listed = ", ".join(
            f"{len(of_kind)} x {name or 'without a name'} with {gibibytes(min(gpu.memory_bytes for gpu in of_kind))}"
            for (name, _capability), of_kind in kinds.items()
        )
        most = max(kinds.values(), key=lambda of_kind: (len(of_kind), of_kind[0].memory_bytes))
        refusals.append(
            Refusal(
                "mixed_gpus",
                f"the GPUs differ ({listed}): an engine gives each the same share of the model, so the smallest would "
                "decide for all. Plan for GPUs of one kind",
                Change(
                    {"gpus": len(most), "gpu_name": most[0].name},
                    f"plan for the {len(most)} x {most[0].name or 'GPUs of one kind'} alone",
                )
                if len(kinds) > 1
                else None,
            )
        )
    return refusals


def wish_refusals(wishes: Wishes, version: Version) -> list[Refusal]:
    """Wishes that are out of range or contradict each other."""
    refusals = [
        Refusal("wish_out_of_range", f"{name} must be 1 or more, not {value}")
        for name, value in wishes.given().items()
        if isinstance(value, int) and not isinstance(value, bool) and value < 1
    ]
    share = wishes.gpu_memory_utilization
    if share is not None and not 0 < share <= 1:
        refusals.append(
            Refusal("wish_out_of_range", f"gpu_memory_utilization must be above 0 and at most 1, not {share}")
        )
    if wishes.kv_cache_memory_bytes is not None and share is not None:
        refusals.append(
            Refusal(
                "contradicting_wishes",
                "with kv_cache_memory_bytes vLLM ignores gpu_memory_utilization; wish for one of them",
            )
        )
    if wishes.kv_cache_memory_bytes is not None and version < KV_CACHE_MEMORY:
        refusals.append(Refusal("unknown_option", "vLLM has kv_cache_memory_bytes since 0.11 only"))
    if wishes.concurrency and wishes.max_num_seqs and wishes.concurrency > wishes.max_num_seqs:
        refusals.append(
            Refusal(
                "contradicting_wishes",
                f"concurrency {wishes.concurrency} is more than max_num_seqs {wishes.max_num_seqs}: no more than those "
                "are served at once",
                Change(
                    {"max_num_seqs": wishes.concurrency}, f"set max_num_seqs to {wishes.concurrency}, or wish for less"
                ),
            )
        )
    return refusals


def model_refusals(engine: Engine, shape: ModelShape, wishes: Wishes, gpus: int) -> list[Refusal]:
    """What the engine refuses before it loads anything: division, data types, quantization, context."""
    refusals = []
    tensor, pipeline = wishes.tensor_parallel_size or 1, wishes.pipeline_parallel_size or 1
    if tensor > 0 and pipeline > 0:
        if tensor * pipeline > gpus:
            refusals.append(
                Refusal(
                    "too_few_gpus",
                    f"tensor_parallel_size {tensor} x pipeline_parallel_size {pipeline} are {tensor * pipeline} GPUs, "
                    f"given are {gpus}",
                    Change({"gpus": tensor * pipeline}, f"{tensor * pipeline} GPUs, or smaller sizes"),
                )
            )
        for problem in division_problems(shape, tensor, pipeline):
            allowed = [size for size in problem.values if size <= gpus and not division_problems(shape, size, 1)]
            best = max((size for size in allowed if size <= tensor), default=None)
            change = None if best is None else Change({"tensor_parallel_size": best}, f"tensor_parallel_size {best}")
            refusals.append(Refusal(problem.code, problem.message, change))
    checkpoint, method = shape.quantization, wished_method(wishes.quantization)
    if method and checkpoint is None and method not in WISHES:
        refusals.append(
            Refusal(
                "unknown_quantization",
                f"quantization {wishes.quantization} is not known; known are {', '.join(sorted(WISHES))}",
            )
        )
    if method and checkpoint is not None and not same_method(method, checkpoint.method):
        refusals.append(
            Refusal(
                "quantization_mismatch",
                f"quantization {wishes.quantization} is wished, but the model's files are quantized by "
                f"{checkpoint.method}; leave the wish out",
                Change({"quantization": checkpoint.method}, f"quantization {checkpoint.method}, which is the default"),
            )
        )
    dtype = wishes.kv_cache_dtype or "auto"
    if dtype != "auto":
        try:
            elements_bytes(dtype, 128)
        except CacheError as error:
            refusals.append(Refusal("unknown_kv_cache_dtype", str(error)))
    if checkpoint is None and method in WISHES:
        checkpoint = wished_quantization(str(method), None)
    problems, _notes = capability_problems(engine.version, engine.gpu, checkpoint.format if checkpoint else "", dtype)
    for one in problems:
        change = None
        if one.code == "kv_cache_dtype_capability":
            change = Change({"kv_cache_dtype": "auto"}, "kv_cache_dtype auto, which every GPU has")
        refusals.append(Refusal(one.code, one.message, change))
    own = shape.max_position_embeddings
    if wishes.max_model_len and own and wishes.max_model_len > own:
        refusals.append(
            Refusal(
                "context_above_model",
                f"max_model_len {wishes.max_model_len} is more than the {own} tokens that the model's config.json "
                "allows; vLLM refuses that, since the model was not made for it",
                Change({"max_model_len": own}, f"max_model_len {own}"),
            )
        )
    return refusals


def batch_refusals(engine: Engine, wishes: Wishes, choice: Choice) -> list[Refusal]:
    """What the engine's scheduler refuses of the wishes together with its own defaults."""
    chunked = wishes.enable_chunked_prefill
    if chunked is None:
        chunked = chunked_prefill_by_default(engine.version, choice.max_model_len)
    refusals = []
    for problem in scheduler_problems(choice._asdict(), chunked):
        if problem.code == "sequences_above_batched_tokens":
            value = choice.max_num_batched_tokens
            change = Change({"max_num_seqs": value}, f"max_num_seqs {value}, or more tokens in a step")
        else:
            change = Change(
                {"max_num_batched_tokens": choice.max_model_len},
                f"max_num_batched_tokens {choice.max_model_len}, or chunked prefill",
            )
        refusals.append(Refusal(problem.code, problem.message, change))
    return refusals


def memory_refusals(
    engine: Engine, model: Model, wishes: Wishes, gpus: int, outcome: Outcome, advise: bool
) -> list[Refusal]:
    """Why *outcome* does not fit, with what would."""
    choice, memory, cache = outcome.choice, outcome.memory, outcome.cache
    spread = choice.tensor * choice.pipeline
    on = engine.gpu.name or "a GPU"
    if choice.kv_cache_memory_bytes is not None and outcome.cautious < 0:
        code = "kv_cache_memory_does_not_fit"
        message = (
            f"kv_cache_memory_bytes {choice.kv_cache_memory_bytes} and everything else need "
            f"{gibibytes(memory.requested)} of the {gibibytes(memory.total)} of {on}"
        )
    elif memory.weights > memory.requested:
        code = "weights_do_not_fit"
        message = (
            f"the weights alone take {gibibytes(memory.weights)} on each of {spread} x {on}, where the engine may use "
            f"{gibibytes(memory.requested)}"
        )
    elif outcome.left <= 0 or outcome.cautious < cache.bytes_per_block:
        code = "no_memory_for_kv_cache"
        message = (
            f"weights ({gibibytes(memory.weights)}), activations ({gibibytes(memory.activations)}), memory outside of "
            f"torch ({gibibytes(memory.non_torch)}) and CUDA graphs ({gibibytes(memory.cuda_graphs)}) leave nothing of "
            f"the {gibibytes(memory.requested)} on each of {spread} x {on} for the KV cache"
        )
    elif outcome.concurrency < 1:
        code = "context_does_not_fit"
        message = (
            f"one request of {choice.max_model_len} tokens needs {gibibytes(cache.needed_bytes_for_one_request)} of KV "
            f"cache on each of {spread} x {on}, and {gibibytes(max(0, outcome.cautious))} can be counted on"
        )
    else:
        code = "concurrency_does_not_fit"
        message = (
            f"{choice.concurrency} requests of {choice.max_model_len} tokens at once need "
            f"{gibibytes(cache.needed_bytes_for_one_request * choice.concurrency)} of KV cache on each of {spread} x "
            f"{on}, and {gibibytes(max(0, outcome.cautious))} can be counted on, which is room for "
            f"{outcome.concurrency:.2f}"
        )
    changes = list(_changes(engine, model, wishes, gpus, choice)) if advise else []
    return [Refusal(code, message, changes[0] if changes else None, tuple(changes[1:]))]


def _changes(engine: Engine, model: Model, wishes: Wishes, gpus: int, choice: Choice) -> Iterator[Change]:
    found = False
    for change in _single_changes(engine, model, wishes, gpus, choice):
        found = True
        yield change
    if found:
        return
    for name, smaller in _smaller_models(engine, model):
        text, settings = _smaller_text(smaller, name)
        for change in _single_changes(engine, smaller, wishes, gpus, choice, quantize=False):
            yield Change({**settings, **change.settings}, f"{text}, and {change.text}")
            return


def _single_changes(
    engine: Engine, model: Model, wishes: Wishes, gpus: int, choice: Choice, quantize: bool = True
) -> Iterator[Change]:
    def fits(other: Choice, of: Model = model) -> bool:
        return evaluate(engine, of, other, exact=False).fits

    if wishes.max_model_len is None:
        # The context is still to be chosen, so it is enough that a useful one fits.
        choice = choice._replace(max_model_len=min(choice.max_model_len, _USEFUL))

    length = longest_that_fits(engine, model, choice)
    if _SHORTEST <= length < choice.max_model_len:
        yield Change({"max_model_len": length}, f"a context of {length} tokens instead of {choice.max_model_len}")
    if choice.concurrency > 1:
        held = int(evaluate(engine, model, choice._replace(concurrency=1), exact=False).concurrency)
        if 1 <= held < choice.concurrency:
            yield Change(
                {"concurrency": held}, f"{held} requests of full length at once instead of {choice.concurrency}"
            )
    fewer = _fewest_less(choice.max_num_seqs, choice.concurrency, lambda n: fits(choice._replace(max_num_seqs=n)))
    if fewer:
        yield Change(
            {"max_num_seqs": fewer}, f"{fewer} sequences at once (max_num_seqs) instead of {choice.max_num_seqs}"
        )
    if choice.kv_cache_memory_bytes is not None:
        smaller = _fewest_less(
            choice.kv_cache_memory_bytes, 1, lambda n: fits(choice._replace(kv_cache_memory_bytes=n))
        )
        if smaller:
            yield Change({"kv_cache_memory_bytes": smaller}, f"kv_cache_memory_bytes {smaller} ({gibibytes(smaller)})")
    if choice.kv_cache_dtype in ("auto", "bfloat16", "float16") and supports_fp8_cache(engine.gpu):
        try:
            if fits(choice._replace(kv_cache_dtype="fp8")):
                yield Change({"kv_cache_dtype": "fp8"}, "a KV cache in 8 bits (kv_cache_dtype fp8)")
        except CacheError:
            pass
    if choice.kv_cache_memory_bytes is None:
        yield from _more_of_the_memory(engine, model, choice)
    yield from _more_gpus(engine, model, wishes, gpus, choice)
    if quantize:
        for name, smaller_model in _smaller_models(engine, model):
            if fits(choice, smaller_model):
                text, settings = _smaller_text(smaller_model, name)
                yield Change(settings, text)
                break


def _fewest_less(value: int, least: int, fits: Any) -> int | None:
    """The largest number below *value*, and not below *least*, that fits; nothing if none does."""
    low = least
    if low >= value or not fits(low):
        return None
    high = value
    while high - low > max(1, value // 1024):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _more_of_the_memory(engine: Engine, model: Model, choice: Choice) -> Iterator[Change]:
    start = math.floor(choice.gpu_memory_utilization * 100) + 1
    for percent in range(start, int(_HIGHEST_UTILIZATION * 100) + 1):
        if evaluate(engine, model, choice._replace(gpu_memory_utilization=percent / 100), exact=False).fits:
            yield Change(
                {"gpu_memory_utilization": percent / 100},
                f"gpu_memory_utilization {percent / 100} instead of {choice.gpu_memory_utilization}, if nothing else "
                "runs on the GPU",
            )
            return


def _more_gpus(engine: Engine, model: Model, wishes: Wishes, gpus: int, choice: Choice) -> Iterator[Change]:
    used = choice.tensor * choice.pipeline
    free = replace(wishes, tensor_parallel_size=None, pipeline_parallel_size=None)
    for limit in (gpus, 8, _MOST_GPUS):
        if limit < gpus:
            continue
        for tensor, pipeline in divisions(model, free, limit):
            if tensor * pipeline <= used or (tensor, pipeline) == (choice.tensor, choice.pipeline):
                continue
            if not evaluate(engine, model, choice._replace(tensor=tensor, pipeline=pipeline), exact=False).fits:
                continue
            needed = tensor * pipeline
            settings: dict[str, Any] = {"tensor_parallel_size": tensor}
            if pipeline > 1:
                settings["pipeline_parallel_size"] = pipeline
            spread = f"tensor_parallel_size {tensor}" + (f", pipeline_parallel_size {pipeline}" if pipeline > 1 else "")
            if needed > gpus:
                yield Change({"gpus": needed, **settings}, f"{needed} of these GPUs instead of {gpus} ({spread})")
            else:
                yield Change(settings, f"{needed} of the {gpus} GPUs instead of {used} ({spread})")
            return


def _smaller_models(engine: Engine, model: Model) -> Iterator[tuple[str, Model]]:
    if not model.config:
        return
    have = model.shape.quantization.effective_bits if model.shape.quantization else 16.0
    for name in ("fp8", "awq"):
        wish = wished_quantization(name, None)
        if wish.effective_bits < have - 1 and supports_format(engine.version, engine.gpu, wish.format):
            yield name, model.quantized(name)


def _smaller_text(smaller: Model, name: str) -> tuple[str, dict[str, Any]]:
    total = smaller.weights_bytes or estimated_bytes(smaller.shape)
    bits = "8 bits (FP8)" if name == "fp8" else "4 bits (such as AWQ or GPTQ)"
    settings: dict[str, Any] = {"weights_bytes": total, "quantization": name}
    return f"the model quantized to {bits}, about {gibibytes(total)} of weights", settings
