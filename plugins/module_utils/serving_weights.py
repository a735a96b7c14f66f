# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many bytes of weights each GPU holds, from the sizes of the tensors, from their sum, or from config.json alone.

Linear layers are divided over a tensor-parallel group, embeddings and LM head too (by vocabulary), norms, routers and
the projections of latent attention are held by every GPU, KV projections by more than one where there are fewer KV
heads than GPUs. A tower for images or sound is divided like the rest. Layers of multi-token prediction are only loaded
for speculative decoding. MXFP4 experts are padded to the tiles of the kernels. Sources: vLLM `model_executor/layers/
linear.py`, `vocab_parallel_embedding.py`, `fused_moe/layer.py`, `fused_moe/oracle/mxfp4.py`, `mla_attention.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv_groups import parse_version
from ansible_collections.baremetal.llm.plugins.module_utils.serving_parallel import (
    Parallel,
    padded_vocabulary,
    stages,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import (
    AFTER,
    BEFORE,
    ModelShape,
    TensorGroup,
)

GIB = 1 << 30
# What loading takes besides the tensors, in GiB: rounding of the allocator, rotary tables, workspaces. Medians of some
# 40 published logs (tests/unit/fixtures): 0.01-0.07, and 0.01-0.15 from 0.26 on.
_LOADING, _LOADING_NEW, _NEW_LOADING = 0.03, 0.09, (0, 26)
# How far a load may be from the sum of the tensors, as a part of it: kernels that want another layout.
_REPACKED_SPREAD = 0.015


@dataclass(frozen=True)
class Weights:
    """Bytes of weights of one GPU: the one that holds most of them."""

    # The best estimate, and the interval that it is in; loading overhead included.
    bytes: int
    low: int
    high: int
    # Of the whole model as it is stored, all GPUs together, without layers that are not loaded.
    total_bytes: int
    # Best estimate for a GPU of each stage of a pipeline.
    per_stage: tuple[int, ...]
    # "tensors", "weights_bytes" or "estimate".
    source: str
    notes: tuple[str, ...] = ()


def estimated_bytes(shape: ModelShape, speculative: bool = False) -> int:
    """Bytes of the weights of the whole model as it is stored, from config.json alone."""
    return _sum(group for group in shape.groups if group.role != "derived" and (speculative or group.role != "draft"))


def _sum(groups: Iterable[TensorGroup]) -> int:
    return round(sum(group.bytes * len(group.positions) for group in groups))


def share(shape: ModelShape, group: TensorGroup, parallel: Parallel) -> float:
    """The part of one of the group's tensors that a GPU holds."""
    tensor, units = parallel.tensor, max(1, group.units)
    if group.split == "tensor":
        return 1 / tensor
    if group.split == "vocabulary":
        return padded_vocabulary(shape.vocab_size) / max(1, shape.vocab_size) / tensor
    if group.split == "kv":
        return 1 / min(tensor, units)
    if group.split == "qkv":
        # Queries are divided, keys and values only as far as there are heads of them.
        heads = max(1, shape.num_attention_heads)
        return (heads / tensor + 2 * units / min(tensor, units)) / (heads + 2 * units)
    if group.split == "expert":
        if not parallel.expert:
            return 1 / tensor
        return -(-units // (tensor * parallel.data)) / units
    return 1.0


def model_weights(
    shape: ModelShape,
    parallel: Parallel,
    weights_bytes: int | None = None,
    speculative: bool = False,
    *,
    groups: Sequence[TensorGroup] = (),
    engine_version: str | None = None,
    compute_capability: tuple[int, int] = (9, 0),
) -> Weights:
    """The weights of one GPU: by tensor (`groups`, of `serving_checkpoint`), by their sum, or by config.json alone.

    `weights_bytes` is the size of the whole model as it is stored, all GPUs together; the estimate of every part is
    scaled so that they add up to it. `speculative`: layers of multi-token prediction are loaded too. Sizes in bytes.
    """
    notes: list[str] = []
    found = [group for group in groups or shape.groups if speculative or group.role != "draft"]
    # Counts of text models are exact; towers are estimated.
    spread = 0.15 if not shape.known else 0.03 if shape.modalities else 0.01
    ratio, source = 1.0, "estimate"
    if groups:
        source, spread = "tensors", 0.002
    elif weights_bytes is not None:
        source, spread = "weights_bytes", 0.003
        ratio = _ratio(shape, weights_bytes)
        if abs(ratio - 1) > 0.05:
            spread = 0.03
            notes.append(f"weights_bytes is {ratio:.2f} times what config.json lets expect; all parts are scaled alike")
    if shape.quantization is not None:
        spread = max(spread, _REPACKED_SPREAD)
    scaled = [(group, ratio if group.role != "derived" else 1.0) for group in found]
    padding, most = _padding(shape, parallel, compute_capability)
    if most > 1:
        notes.append(f"the experts are padded to the tiles of the kernels, by {100 * (padding - 1):.0f} %")
    per_stage, with_most = [], 0.0
    spans = stages(shape.num_hidden_layers, parallel.pipeline)
    for index, span in enumerate(spans):
        total, padded_more = 0.0, 0.0
        for group, factor in scaled:
            count = _count(shape, group, span, index == 0, index == len(spans) - 1)
            size = count * group.bytes * factor * share(shape, group, parallel) if count else 0.0
            if group.role == "expert":
                padded_more += size * (most - padding)
                size *= padding
            total += size
        per_stage.append(round(total))
        with_most = max(with_most, total + padded_more)
    largest = max(per_stage)
    loading = _loading(engine_version)
    return Weights(
        bytes=largest + loading,
        low=round(largest * (1 - spread)),
        high=round(with_most * (1 + spread)) + loading + round(0.1 * GIB * (1 if parallel.tensor == 1 else 2)),
        total_bytes=_sum(group for group, _factor in scaled if group.role != "derived")
        if source != "weights_bytes"
        else round(ratio * estimated_bytes(shape, speculative)),
        per_stage=tuple(part + loading for part in per_stage),
        source=source,
        notes=tuple(notes),
    )


def _ratio(shape: ModelShape, weights_bytes: int) -> float:
    """How much larger the parts are than config.json lets expect, so that they add up to `weights_bytes`."""
    whole, loaded = estimated_bytes(shape, speculative=True), estimated_bytes(shape)
    # What is given may or may not have the layers for speculative decoding, and may be in 32 bits.
    stored = (1.0, 0.5) if shape.stored_dtype == "float32" and shape.quantization is None else (1.0,)
    ratios = [weights_bytes * part / max(1, total) for part in stored for total in (whole, loaded)]
    return min(ratios, key=lambda ratio: abs(ratio - 1))


def _count(shape: ModelShape, group: TensorGroup, span: range, first: bool, last: bool) -> int:
    """How many of the group's tensors a stage of a pipeline holds."""
    positions = group.positions
    if span.start == 0 and span.stop == shape.num_hidden_layers and first and last:
        return len(positions)
    count = sum(1 for place in positions if place in span)
    if first:
        count += positions.count(BEFORE)
    if last:
        count += positions.count(AFTER)
        if shape.tie_word_embeddings and not first and group.role == "embedding":
            # The last stage needs the embeddings as its LM head.
            count += positions.count(BEFORE)
    return count


def _padding(shape: ModelShape, parallel: Parallel, capability: tuple[int, int]) -> tuple[float, float]:
    """How much larger experts in MXFP4 get on this GPU, and at most (vLLM, fused_moe/oracle/mxfp4.py).

    Marlin and TensorRT-LLM's kernels pad the width to 128 and the hidden size to 256; Triton's, on Hopper, pad one of
    both (64.4 and 66.0 GiB of the same model of 120B parameters, vllm-project/vllm#33155 and #23278).
    """
    experts, quantization = shape.experts, shape.quantization
    if experts is None or quantization is None or quantization.format != "mxfp4" or not experts.intermediate_size:
        return 1.0, 1.0
    width = experts.intermediate_size if parallel.expert else -(-experts.intermediate_size // parallel.tensor)
    hidden = _up(shape.hidden_size, 256) / shape.hidden_size
    triton, marlin = _up(width, 64) / width * hidden, _up(width, 128) / width * hidden
    return (triton if capability[0] == 9 else marlin), max(triton, marlin)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _loading(engine_version: str | None) -> int:
    version = parse_version(engine_version) or (999,)
    return round((_LOADING_NEW if version >= _NEW_LOADING else _LOADING) * GIB)
