# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The settings of a vLLM deployment that nobody wished for.

- tensor_parallel_size: the smallest with which the whole context that the model can read fits, else the largest that
  the GPUs allow. It does not depend on the wished context, so a longer one never gets more GPUs and more room.
- max_model_len: the model's own, or as much of it as fits.
- max_num_seqs, max_num_batched_tokens, gpu_memory_utilization: what this version of vLLM takes on this GPU by default.
  They are not lowered to make something fit: that is for a person to decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils.serving_defaults import (
    BATCH_STEPS,
    default_batch,
    default_utilization,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv import longest_context
from ansible_collections.baremetal.llm.plugins.module_utils.serving_parallel import (
    Parallel,
    ParallelProblem,
    padded_vocabulary,
    parallel_problems,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import FULL, ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import Wishes
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import (
    Choice,
    Engine,
    Model,
    Outcome,
    evaluate,
    kv_settings,
)

# Contexts that are chosen and shorter than the model's are multiples of this many tokens, if they are longer than it.
_STEP = 256


def division_problems(shape: ModelShape, tensor: int, pipeline: int) -> list[ParallelProblem]:
    """Why a model cannot be divided over so many GPUs: heads, layers, quantization's blocks, vocabulary."""
    problems = parallel_problems(shape, Parallel(tensor=tensor, pipeline=pipeline))
    padded = padded_vocabulary(shape.vocab_size)
    if tensor > 0 and padded % tensor:
        divisors = tuple(size for size in range(1, 65) if padded % size == 0)
        problems.append(
            ParallelProblem(
                "vocabulary",
                f"a vocabulary of {shape.vocab_size}, padded to {padded}, cannot be divided by tensor_parallel_size "
                f"{tensor}",
                divisors,
            )
        )
    return problems


def divisions(model: Model, wishes: Wishes, gpus: int) -> Iterator[tuple[int, int]]:
    """(tensor, pipeline) that the model can be divided by, fewest GPUs first, and of those the widest tensor.

    Powers of 2 only where the heads allow more than one GPU that way: others have no fast all-reduce.
    """
    shape = model.shape
    place = ("divisions", wishes.tensor_parallel_size, wishes.pipeline_parallel_size, gpus)
    found: list[tuple[int, int]] | None = model.memo.get(place)
    if found is None:
        tensors = [wishes.tensor_parallel_size] if wishes.tensor_parallel_size else list(range(1, gpus + 1))
        valid = [size for size in tensors if size <= gpus and not division_problems(shape, size, 1)]
        if not wishes.tensor_parallel_size:
            powers = [size for size in valid if size & (size - 1) == 0]
            valid = powers if len(powers) > 1 or gpus < 2 else valid
        pairs: set[tuple[int, int]] = set()
        for tensor in valid:
            if wishes.pipeline_parallel_size:
                stages = [wishes.pipeline_parallel_size]
            else:
                # Stages only where tensor parallelism alone cannot use the GPUs.
                only_tensor = wishes.tensor_parallel_size is not None or tensor < max(valid)
                stages = [1] if only_tensor else list(range(1, gpus // tensor + 1))
            pairs.update(
                (tensor, count) for count in stages if tensor * count <= gpus and count <= shape.num_hidden_layers
            )
        found = sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[1]))
        model.memo[place] = found
    return iter(found)


def base_choice(engine: Engine, model: Model, wishes: Wishes) -> Choice:
    """The wishes, and what the engine takes by default; for one GPU."""
    length = wishes.max_model_len or model.shape.max_position_embeddings
    batch = default_batch(engine.version, engine.gpu, length)
    sequences = wishes.max_num_seqs or max(batch.max_num_seqs, wishes.concurrency or 1)
    tokens = wishes.max_num_batched_tokens or max(batch.max_num_batched_tokens, wishes.max_num_seqs or 0)
    if wishes.enable_chunked_prefill is False and not wishes.max_num_batched_tokens:
        tokens = max(tokens, length)
    if not wishes.max_num_seqs:
        sequences = min(sequences, tokens)
    return Choice(
        tensor=1,
        pipeline=1,
        max_model_len=length,
        max_num_seqs=sequences,
        max_num_batched_tokens=tokens,
        gpu_memory_utilization=wishes.gpu_memory_utilization or default_utilization(engine.version),
        kv_cache_dtype=wishes.kv_cache_dtype or "auto",
        kv_cache_memory_bytes=wishes.kv_cache_memory_bytes,
        enforce_eager=bool(wishes.enforce_eager),
        block_size=wishes.block_size,
        enable_prefix_caching=wishes.enable_prefix_caching,
        concurrency=wishes.concurrency or 1,
    )


def choose(engine: Engine, model: Model, wishes: Wishes, gpus: int) -> Outcome:
    """What is planned on `gpus` GPUs. Raises CacheError, and ValueError where the model cannot be divided at all."""
    base = base_choice(engine, model, wishes)
    whole = base._replace(max_model_len=model.shape.max_position_embeddings)
    tensor, pipeline = 0, 0
    for tensor, pipeline in divisions(model, wishes, gpus):
        if evaluate(engine, model, whole._replace(tensor=tensor, pipeline=pipeline), exact=False).fits:
            break
    if not tensor:
        raise ValueError("the model cannot be divided over these GPUs")
    choice = base._replace(tensor=tensor, pipeline=pipeline)
    if wishes.max_model_len is None:
        longest = longest_that_fits(engine, model, choice)
        if longest:
            choice = choice._replace(max_model_len=longest)
    outcome = evaluate(engine, model, choice)
    if not outcome.fits and not wishes.max_num_seqs and not wishes.max_num_batched_tokens:
        return _with_batch_of_smaller_gpu(engine, model, wishes, gpus) or outcome
    return outcome


def _with_batch_of_smaller_gpu(engine: Engine, model: Model, wishes: Wishes, gpus: int) -> Outcome | None:
    """The plan of a GPU with so little memory less that its default batch is a smaller one, if that fits.

    vLLM's default batch grows in steps with the memory, and with it what is not left for the KV cache. What fits on
    the smaller GPU must not be refused on the larger one.
    """
    for memory in BATCH_STEPS:
        if engine.gpu.memory_bytes >= memory:
            smaller = replace(engine, gpu=replace(engine.gpu, memory_bytes=memory - 1))
            outcome = choose(smaller, model, wishes, gpus)
            return evaluate(engine, model, outcome.choice) if outcome.fits else None
    return None


def longest_that_fits(engine: Engine, model: Model, choice: Choice) -> int:
    """The longest context in tokens that fits with everything else as chosen, at most the model's; 0 if none does."""
    limit = model.shape.max_position_embeddings
    whole = evaluate(engine, model, choice._replace(max_model_len=limit), exact=False)
    if whole.fits:
        return limit
    if whole.cautious <= 0:
        return 0
    layout = whole.cache
    if len(layout.groups) == 1 and layout.groups[0].kind == FULL and layout.bytes_per_block:
        blocks = whole.cautious // layout.bytes_per_block // choice.concurrency
        longest = min(limit, blocks * layout.block_size)
    else:
        settings = kv_settings(engine, choice)
        longest = min(limit, longest_context(model.shape, settings, whole.cautious, choice.concurrency))
    longest = longest // _STEP * _STEP if longest > _STEP else longest
    while longest > 0 and not evaluate(engine, model, choice._replace(max_model_len=longest), exact=False).fits:
        # The overheads of old versions grow with the context.
        longest = longest * 7 // 8 // _STEP * _STEP
    return longest


def with_wishes(wishes: Wishes, choice: Choice) -> Wishes:
    """The wishes with everything wished as it was chosen, so that planning again changes nothing but what is asked."""
    return replace(
        wishes,
        max_model_len=choice.max_model_len,
        max_num_seqs=choice.max_num_seqs,
        max_num_batched_tokens=choice.max_num_batched_tokens,
        tensor_parallel_size=choice.tensor,
        pipeline_parallel_size=choice.pipeline,
    )
