# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Over how many GPUs a model can be divided, and which layers each of them gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import MLA, STATE, ModelShape

# The vocabulary is padded to a multiple of this before it is divided (vLLM, vocab_parallel_embedding.py).
VOCABULARY_PADDING = 64
# The narrowest tile of the kernels for packed 4-bit weights (vLLM, marlin_utils.py): output and input per GPU.
MARLIN_OUTPUT, MARLIN_INPUT = 64, 128


@dataclass(frozen=True)
class Parallel:
    """How one engine is spread over GPUs. `tensor` x `pipeline` GPUs hold one copy of the model."""

    tensor: int = 1
    pipeline: int = 1
    # Experts are shared out whole instead of each being cut into slices.
    expert: bool = False
    # Copies of everything but, under expert parallelism, the experts.
    data: int = 1
    # GPUs of a tensor-parallel group that share out the tokens of the KV cache.
    decode_context: int = 1

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data


def stages(layers: int, pipeline: int) -> list[range]:
    """The layers of each stage of a pipeline, as vLLM's `get_pp_indices` shares them out.

    What does not divide evenly goes to the stages before the last one, which has the LM head.
    """
    counts = [layers // pipeline] * pipeline
    for place in range(layers % pipeline):
        counts[-2 - place] += 1
    starts = [sum(counts[:index]) for index in range(pipeline)]
    return [range(start, start + count) for start, count in zip(starts, counts)]


def padded_vocabulary(vocab_size: int) -> int:
    return -(-vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING


@dataclass(frozen=True)
class ParallelProblem:
    """Why a model cannot be divided so; `code` is stable, `values` what would do."""

    code: str
    message: str
    values: tuple[int, ...] = ()


def parallel_problems(shape: ModelShape, parallel: Parallel) -> list[ParallelProblem]:
    """What the engine itself would refuse, before it loads anything. Empty if it can be divided so.

    Sources: vLLM `config/model.py: verify_with_parallel_config` (heads, pipeline), `layers/linear.py` (KV heads are
    divided or replicated), `layers/vocab_parallel_embedding.py` (any vocabulary, padded to 64), `layers/quantization/
    fp8.py: validate_fp8_block_shape` (blocks), `quantization/gptq_marlin.py` (groups), `layers/mamba/mamba_mixer2.py`.
    """
    problems: list[ParallelProblem] = []
    for name, value in (
        ("tensor_parallel_size", parallel.tensor),
        ("pipeline_parallel_size", parallel.pipeline),
        ("data_parallel_size", parallel.data),
        ("decode_context_parallel_size", parallel.decode_context),
    ):
        if value < 1:
            problems.append(ParallelProblem("parallel_size", f"{name} must be 1 or more, not {value}"))
    if problems:
        return problems
    tensor = parallel.tensor
    problems += _head_problems(shape, tensor)
    if parallel.pipeline > shape.num_hidden_layers:
        problems.append(
            ParallelProblem(
                "pipeline_stages",
                f"pipeline_parallel_size {parallel.pipeline} is more than the {shape.num_hidden_layers} layers",
            )
        )
    if tensor % parallel.decode_context:
        problems.append(
            ParallelProblem(
                "decode_context",
                f"decode_context_parallel_size {parallel.decode_context} must divide tensor_parallel_size {tensor}",
            )
        )
    elif parallel.decode_context > 1 and not shape.uses_mla:
        replicas = max(1, tensor // max(1, shape.num_kv_heads))
        if parallel.decode_context > replicas:
            problems.append(
                ParallelProblem(
                    "decode_context",
                    f"decode_context_parallel_size {parallel.decode_context} is more than the {replicas} GPUs that "
                    f"hold the same KV heads ({shape.num_kv_heads} KV heads over {tensor} GPUs)",
                )
            )
    return problems + _quantization_problems(shape, parallel)


def valid_tensor_parallel_sizes(shape: ModelShape, gpus: int) -> list[int]:
    """The values of tensor_parallel_size, up to `gpus`, over which the model can be divided; 1 may be missing."""
    return [size for size in range(1, gpus + 1) if not parallel_problems(shape, Parallel(tensor=size))]


def _head_problems(shape: ModelShape, tensor: int) -> list[ParallelProblem]:
    problems = []
    heads = shape.num_attention_heads
    if heads and heads % tensor:
        divisors = tuple(size for size in range(1, heads + 1) if heads % size == 0 and size <= 64)
        problems.append(
            ParallelProblem(
                "attention_heads",
                f"{heads} attention heads cannot be divided by tensor_parallel_size {tensor}; "
                f"possible are {', '.join(map(str, divisors))}",
                divisors,
            )
        )
    for layers in shape.layers:
        kv_heads = layers.num_kv_heads
        if layers.kind != MLA and kv_heads > 1 and kv_heads % tensor and tensor % kv_heads:
            problems.append(
                ParallelProblem(
                    "kv_heads",
                    f"{kv_heads} KV heads can be divided by tensor_parallel_size {tensor} neither evenly nor by "
                    "copying each to equally many GPUs",
                    tuple(size for size in range(1, 65) if kv_heads % size == 0 or size % kv_heads == 0),
                )
            )
            break
    for layers in shape.layers:
        state = layers.state
        if layers.kind != STATE or state is None:
            continue
        if state.heads and state.heads % tensor:
            problems.append(
                ParallelProblem(
                    "state_heads", f"{state.heads} heads of the {state.kind} layers cannot be divided by {tensor}"
                )
            )
        elif state.groups > 1 and state.groups % tensor:
            # One group is copied to every GPU, several are not (vLLM, mamba_mixer2.py).
            problems.append(
                ParallelProblem(
                    "state_groups", f"{state.groups} groups of the {state.kind} layers cannot be divided by {tensor}"
                )
            )
    return problems


def _quantization_problems(shape: ModelShape, parallel: Parallel) -> list[ParallelProblem]:
    quantization, tensor = shape.quantization, parallel.tensor
    if quantization is None or tensor == 1:
        return []
    problems = []
    experts = shape.experts
    widths: list[tuple[str, int]] = []
    if experts is not None and not parallel.expert:
        widths.append(("the experts", experts.intermediate_size))
    if quantization.scope == "linear" and (experts is None or len(experts.layers) < shape.num_hidden_layers):
        widths.append(("the feed-forward layers", shape.dense_intermediate_size))
    for name, width in widths:
        step, what = 1, ""
        if len(quantization.block) == 2 and max(quantization.block) > 1:
            step, what = max(quantization.block), f"blocks of {quantization.block[0]} x {quantization.block[1]} weights"
        elif quantization.format in ("int4", "int8") and quantization.group_size > 0:
            step, what = quantization.group_size, f"groups of {quantization.group_size} weights"
        elif quantization.format in ("nvfp4", "mxfp4"):
            step, what = quantization.group_size or 16, f"groups of {quantization.group_size or 16} weights"
            if quantization.format == "mxfp4":
                # The kernels pad each slice themselves (vLLM, mxfp4.py).
                step = 1
        if step > 1 and width and (width % tensor or (width // tensor) % step):
            problems.append(
                ParallelProblem(
                    "quantization_blocks",
                    f"{name} are {width} wide: {width}/{tensor} is no multiple of the {what} that share a scale",
                    tuple(size for size in range(1, 65) if width % size == 0 and (width // size) % step == 0),
                )
            )
    return problems


def as_dict(parallel: Parallel) -> dict[str, Any]:
    """As the engine's options."""
    options: dict[str, Any] = {"tensor_parallel_size": parallel.tensor}
    if parallel.pipeline > 1:
        options["pipeline_parallel_size"] = parallel.pipeline
    if parallel.expert:
        options["enable_expert_parallel"] = True
    if parallel.data > 1:
        options["data_parallel_size"] = parallel.data
    if parallel.decode_context > 1:
        options["decode_context_parallel_size"] = parallel.decode_context
    return options
