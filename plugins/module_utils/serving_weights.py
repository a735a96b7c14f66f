# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many bytes of weights each GPU holds, from the sizes of the tensors, from their sum, or from config.json alone.

Linear layers are divided over a tensor-parallel group, embeddings and LM head too (by vocabulary), norms, routers and
the projections of latent attention are held by every GPU, KV projections by more than one where there are fewer KV
heads than GPUs. A tower for images or sound is divided like the rest unless its heads cannot be. Layers of multi-token
prediction are only loaded for speculative decoding. Sources: vLLM `model_executor/layers/linear.py`,
`vocab_parallel_embedding.py`, `fused_moe/layer.py`, `models/utils.py: make_layers`.
"""

from __future__ import annotations

from dataclasses import dataclass

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
# Loading takes this much more than the tensors have, in bytes: allocator rounding, rotary tables, scales in another
# layout (six published loads without repacking: 0.03-0.1 GiB).
LOADING_LOW, LOADING, LOADING_HIGH = int(0.005 * GIB), int(0.03 * GIB), int(0.1 * GIB)


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


def estimated_bytes(shape: ModelShape, speculative: bool = False, derived: bool = False) -> int:
    """Bytes of the weights of the whole model, from config.json alone; `derived`: with what loading adds to them."""
    return round(
        sum(
            group.bytes * len(group.positions)
            for group in shape.groups
            if (speculative or group.role != "draft") and (derived or group.role != "derived")
        )
    )


def share(shape: ModelShape, group: TensorGroup, parallel: Parallel) -> float:
    """The part of one of the group's tensors that a GPU holds."""
    tensor = parallel.tensor
    if group.split == "tensor":
        return 1 / tensor
    if group.split == "vocabulary":
        return padded_vocabulary(shape.vocab_size) / max(1, shape.vocab_size) / tensor
    if group.split == "kv":
        return 1 / min(tensor, max(1, group.units))
    if group.split == "expert":
        if not parallel.expert:
            return 1 / tensor
        units = max(1, group.units)
        return -(-units // (tensor * parallel.data)) / units
    return 1.0


def model_weights(
    shape: ModelShape,
    parallel: Parallel,
    weights_bytes: int | None = None,
    speculative: bool = False,
) -> Weights:
    """The weights of one GPU, from the size of the whole model (`weights_bytes`, all GPUs together) or without it.

    `speculative`: layers of multi-token prediction are loaded too. With `weights_bytes` the estimate of every part is
    scaled so that they add up to it; the interval then covers how the parts may share it.
    """
    groups = [group for group in shape.groups if speculative or group.role != "draft"]
    everything = estimated_bytes(shape, speculative=True)
    ratio, source, notes = 1.0, "estimate", []
    spread = 0.03 if shape.known else 0.15
    if weights_bytes is not None:
        ratio, source = weights_bytes / max(1, everything), "weights_bytes"
        spread = 0.002
        loaded = estimated_bytes(shape, speculative)
        if shape.draft_parameters and abs(weights_bytes / max(1, loaded) - 1) < abs(ratio - 1):
            # What was given does not hold the layers that are not loaded.
            ratio = weights_bytes / max(1, loaded)
        if abs(ratio - 1) > 0.05:
            spread = 0.03
            notes.append(f"weights_bytes is {ratio:.2f} times what config.json lets expect; its parts are scaled alike")
    spans = stages(shape.num_hidden_layers, parallel.pipeline)
    per_stage = []
    for index, span in enumerate(spans):
        total = 0.0
        for group in groups:
            count = sum(1 for place in group.positions if place in span)
            if index == 0:
                count += group.positions.count(BEFORE)
            if index == len(spans) - 1:
                count += group.positions.count(AFTER)
                if shape.tie_word_embeddings and index and group.role == "embedding":
                    # The last stage needs the embeddings as its LM head.
                    count += group.positions.count(BEFORE)
            total += count * group.bytes * share(shape, group, parallel)
        per_stage.append(round(total * ratio))
    largest = max(per_stage)
    return Weights(
        bytes=largest + LOADING,
        low=round(largest * (1 - spread)) + LOADING_LOW,
        high=round(largest * (1 + spread)) + LOADING_HIGH,
        total_bytes=round(estimated_bytes(shape, speculative) * ratio),
        per_stage=tuple(part + LOADING for part in per_stage),
        source=source,
        notes=tuple(notes),
    )
