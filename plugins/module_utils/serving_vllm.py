# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The memory of one vLLM deployment whose settings are all chosen: what `serving_plan` compares when it chooses.

requested = ceil(total x utilisation); the KV cache gets what weights, memory outside of torch, activations and, since
0.21, an estimate of the CUDA graphs leave of it (vLLM, `v1/worker/gpu_worker.py: determine_available_memory`). With
`kv_cache_memory_bytes` the cache has that size and utilisation counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ansible_collections.baremetal.llm.plugins.module_utils.serving_defaults import (
    LONGEST_WHOLE_PROMPT,
    V1_ENGINE,
    Version,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv import KvCache, KvSettings, kv_cache
from ansible_collections.baremetal.llm.plugins.module_utils.serving_model import read_model_shape
from ansible_collections.baremetal.llm.plugins.module_utils.serving_overheads import (
    Estimate,
    Overheads,
    Workload,
    overheads,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_parallel import Parallel
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import FULL, ModelShape, TensorGroup
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (
    GIB,
    Calibration,
    CalibrationKey,
    Gpu,
    MemoryPlan,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_weights import (
    Weights,
    estimated_bytes,
    model_weights,
)

# What a plan keeps free of a GPU when the engine is told how large its cache is, and utilisation does not limit it:
# the driver's own context and what other processes take.
_KEPT_FREE = int(0.3 * GIB)
# How far a measured part may be off at the next start: a share of it, and what logs round to.
_MEASURED_SPREAD, _MEASURED_ROUNDING = 0.01, int(0.01 * GIB)
# The part of the lower half of the interval that must remain before a plan says that something fits: a start that
# fails is worse than a GPU that has some memory left.
_CAUTION = 0.25


@dataclass(frozen=True)
class Model:
    """A model to plan for, as `read_model` makes it.

    `weights_bytes` is of the whole model, all GPUs together; without it they are estimated from config.json.
    """

    shape: ModelShape
    # organisation/name, or what `model_key` makes of a configuration that has no name.
    name: str
    weights_bytes: int | None = None
    # The tensors of the files, summed up by how they are divided (`serving_checkpoint`), where they were read.
    groups: tuple[TensorGroup, ...] = field(default=(), compare=False, repr=False)
    # config.json as a mapping.
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    # Results that do not depend on the GPU, by settings: planning for many GPUs asks again and again.
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def quantized(self, name: str) -> Model:
        """The same model with weights of a quantization that config.json does not name: while they are loaded, or in
        another checkpoint of it. `weights_bytes` is taken for what it resembles: of these weights, or before it.

        Raises ModelConfigError for a quantization that is not known.
        """
        found: Model | None = self.memo.get(("quantized", name))
        if found is None:
            shape = read_model_shape(_unquantized(self.config), name)
            weights, before, after = self.weights_bytes, estimated_bytes(self.shape), estimated_bytes(shape)
            if weights is not None and weights > math.sqrt(before * after):
                weights = round(weights * after / max(1, before))
            found = self.memo[("quantized", name)] = Model(shape, self.name, weights, config=self.config)
        return found

    def weights(self, engine: Engine, tensor: int, pipeline: int) -> Weights:
        """What each GPU holds of the weights, when they are divided so."""
        capability = engine.gpu.capability or (9, 0)
        # Only the kernels of quantized weights pad them, each to the tiles of its GPU.
        place = ("weights", tensor, pipeline, engine.version, capability if self.shape.quantization else None)
        found: Weights | None = self.memo.get(place)
        if found is None:
            found = self.memo[place] = model_weights(
                self.shape,
                Parallel(tensor=tensor, pipeline=pipeline),
                self.weights_bytes,
                groups=self.groups,
                engine_version=".".join(map(str, engine.version)),
                compute_capability=capability,
            )
        return found


def read_model(
    config: Mapping[str, Any],
    name: str = "",
    weights_bytes: int | None = None,
) -> Model:
    """The model of a config.json. Raises ModelConfigError with everything that is wrong with it."""
    return Model(read_model_shape(config), name or model_key(config, weights_bytes), weights_bytes, config=config)


def _unquantized(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the same model in 16 bits."""
    found = {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}
    return {key: _unquantized(value) if isinstance(value, Mapping) else value for key, value in found.items()}


def model_key(config: Mapping[str, Any], weights_bytes: int | None) -> str:
    """What a model without a name is called in a calibration: the same for the same configuration and weights."""
    text = json.dumps([config, weights_bytes], sort_keys=True, default=str)
    return "config-" + hashlib.sha256(text.encode()).hexdigest()[:12]


class Choice(NamedTuple):
    """All settings of a deployment that its memory depends on."""

    tensor: int
    pipeline: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | None = None
    enforce_eager: bool = False
    block_size: int | None = None
    enable_prefix_caching: bool | None = None
    # Requests of full length that are to have room at once.
    concurrency: int = 1


@dataclass(frozen=True)
class Outcome:
    """What becomes of a choice."""

    choice: Choice
    memory: MemoryPlan
    cache: KvCache
    # Between which the KV cache's bytes are expected to be.
    kv_low: int
    kv_high: int
    weights: Weights
    overheads: Overheads
    # What is left for the cache, below 0 if it is not even that, and what a cautious plan counts on.
    left: int
    cautious: int
    # Requests of full length in what a cautious plan counts on; infinite for models that keep nothing of a request.
    concurrency: float
    # The parts that were measured and not estimated.
    measured: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the engine starts and holds as many requests of full length as it is to."""
        return self.cautious >= 0 and self.concurrency >= self.choice.concurrency


@dataclass(frozen=True)
class Engine:
    """Where a model is to be served, apart from the choice."""

    version: Version
    version_text: str
    gpu: Gpu
    calibration: Calibration = field(default_factory=dict)


def kv_settings(engine: Engine, choice: Choice) -> KvSettings:
    return KvSettings(
        max_model_len=choice.max_model_len,
        max_num_batched_tokens=choice.max_num_batched_tokens,
        kv_cache_dtype=choice.kv_cache_dtype,
        tensor_parallel_size=choice.tensor,
        pipeline_parallel_size=choice.pipeline,
        block_size=choice.block_size,
        engine_version=".".join(map(str, engine.version)),
        enable_prefix_caching=choice.enable_prefix_caching,
        compute_capability=engine.gpu.capability or (9, 0),
    )


def requested_bytes(gpu: Gpu, utilization: float) -> int:
    return math.ceil(gpu.memory_bytes * utilization)


def evaluate(engine: Engine, model: Model, choice: Choice, exact: bool = True) -> Outcome:
    """The memory of *choice*. Raises CacheError for a KV cache that the model cannot have.

    Without *exact* the cache's size in tokens and its concurrency are left as they are for no memory at all; whether
    it fits does not depend on them, and a search for settings does without.
    """
    weights = model.weights(engine, choice.tensor, choice.pipeline)
    parts = _overheads(engine, model, choice)
    measured: Mapping[str, int] = {}
    if engine.calibration:
        measured = engine.calibration.get(_key(engine, model, choice).text(), {})
    weights_part = Estimate(weights.bytes, weights.low, weights.high)
    if measured:
        weights_part, parts = _measured(weights_part, parts, measured)
    graphs = parts.cuda_graphs if parts.graphs_taken_off else Estimate(0, 0, 0)
    taken = (weights_part, parts.activations, parts.non_torch, graphs)
    others = sum(part.bytes for part in taken)
    above = math.sqrt(sum((part.bytes - part.low) ** 2 for part in taken))
    below = math.sqrt(sum((part.high - part.bytes) ** 2 for part in taken))
    # The stage of a pipeline that has most weights decides; only the last one runs the sampler.
    total = engine.gpu.memory_bytes
    if choice.kv_cache_memory_bytes is None:
        requested = requested_bytes(engine.gpu, choice.gpu_memory_utilization)
        kv_bytes = requested - others
        low, high = kv_bytes - int(below), kv_bytes + int(above)
        cautious = kv_bytes - int(_CAUTION * below)
    else:
        kv_bytes = low = high = choice.kv_cache_memory_bytes
        requested = others + kv_bytes + (0 if parts.graphs_taken_off else parts.cuda_graphs.bytes)
        cautious = kv_bytes if requested + int(_CAUTION * below) <= total - _KEPT_FREE else -1
    layout, per_request = _layout(engine, model, choice)
    blocks = max(0, cautious) // layout.bytes_per_block if layout.bytes_per_block else 0
    return Outcome(
        choice=choice,
        memory=MemoryPlan(
            total=total,
            requested=requested,
            weights=weights_part.bytes,
            activations=parts.activations.bytes,
            non_torch=parts.non_torch.bytes,
            cuda_graphs=parts.cuda_graphs.bytes,
            kv_cache=max(0, kv_bytes),
        ),
        cache=kv_cache(model.shape, kv_settings(engine, choice), max(0, kv_bytes)) if exact else layout,
        kv_low=max(0, low),
        kv_high=max(0, high),
        weights=weights,
        overheads=parts,
        left=kv_bytes,
        cautious=cautious,
        concurrency=blocks / per_request if per_request else math.inf,
        measured=tuple(sorted(measured)),
    )


def _layout(engine: Engine, model: Model, choice: Choice) -> tuple[KvCache, int]:
    """The blocks of the KV cache, with no memory in it, and how many of them a request of full length takes.

    Where all layers keep every token the blocks do not depend on the length, so they are worked out once.
    """
    capability = engine.gpu.capability
    place = (
        "layout",
        engine.version,
        # Only the kernels of latent attention have blocks of their own on some GPUs.
        capability if model.shape.uses_mla else None,
        choice.tensor,
        choice.pipeline,
        choice.kv_cache_dtype,
        choice.block_size,
    )
    found: KvCache | None = model.memo.get(place)
    if found is not None:
        return found, -(-choice.max_model_len // found.block_size)
    by_length = (*place, choice.max_model_len, choice.max_num_batched_tokens, choice.enable_prefix_caching)
    found = model.memo.get(by_length)
    if found is None:
        found = kv_cache(model.shape, kv_settings(engine, choice), 0)
        simple = len(found.groups) == 1 and found.groups[0].kind == FULL
        model.memo[place if simple else by_length] = found
    return found, found.blocks_per_request


def _overheads(engine: Engine, model: Model, choice: Choice) -> Overheads:
    in_chunks = engine.version < V1_ENGINE and choice.max_model_len > LONGEST_WHOLE_PROMPT
    place = (
        "overheads",
        engine.version,
        engine.gpu.capability,
        "nvl" in engine.gpu.name.lower(),
        choice.max_num_batched_tokens,
        choice.max_num_seqs,
        choice.tensor,
        choice.pipeline,
        choice.enforce_eager,
        in_chunks,
    )
    found: Overheads | None = model.memo.get(place)
    if found is None:
        work = Workload(
            choice.max_num_batched_tokens,
            choice.max_num_seqs,
            choice.tensor,
            choice.pipeline,
            choice.enforce_eager,
            in_chunks,
        )
        found = model.memo[place] = overheads(engine.version, model.shape, engine.gpu, work)
    return found


def _key(engine: Engine, model: Model, choice: Choice) -> CalibrationKey:
    return CalibrationKey(
        model=model.name,
        engine="vllm",
        engine_version=engine.version_text,
        gpu=engine.gpu.name,
        tensor_parallel_size=choice.tensor,
        pipeline_parallel_size=choice.pipeline,
        max_num_seqs=choice.max_num_seqs,
        max_num_batched_tokens=choice.max_num_batched_tokens,
        enforce_eager=choice.enforce_eager,
    )


def _measured(weights: Estimate, parts: Overheads, measured: Mapping[str, int]) -> tuple[Estimate, Overheads]:
    """What was measured in place of what was estimated; what is left of `non_kv` is booked under activations."""

    def part(name: str, estimate: Estimate) -> Estimate:
        value = measured.get(name)
        if value is None:
            return estimate
        spread = int(value * _MEASURED_SPREAD) + _MEASURED_ROUNDING
        return Estimate(value, max(0, value - spread), value + spread)

    weights = part("weights", weights)
    activations = part("activations", parts.activations)
    non_torch, graphs = part("non_torch", parts.non_torch), part("cuda_graphs", parts.cuda_graphs)
    everything = measured.get("non_kv")
    if everything is not None:
        graphs_inside = graphs if parts.graphs_taken_off else Estimate(0, 0, 0)
        rest = max(0, everything - weights.bytes - non_torch.bytes - graphs_inside.bytes)
        others = weights.bytes + non_torch.bytes + graphs_inside.bytes
        if others > everything:
            # The estimates beside it were too large: what was measured for all of them counts.
            non_torch = Estimate(max(0, non_torch.bytes - (others - everything)), 0, non_torch.high)
        spread = int(everything * _MEASURED_SPREAD)
        activations = Estimate(rest, max(0, rest - spread), rest + spread)
        weights, non_torch, graphs_inside = (_exactly(one) for one in (weights, non_torch, graphs_inside))
        graphs = graphs_inside if parts.graphs_taken_off else graphs
    return weights, replace(parts, activations=activations, non_torch=non_torch, cuda_graphs=graphs)


def _exactly(estimate: Estimate) -> Estimate:
    return Estimate(estimate.bytes, estimate.bytes, estimate.bytes)
