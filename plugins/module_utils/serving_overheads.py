# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vLLM needs on a GPU besides weights and KV cache: activations, memory outside of torch, CUDA graphs.

vLLM measures it when it starts: it runs its largest batch once, then its sampler on as many sequences as there may be,
and takes torch's peak (`v1/worker/gpu_worker.py: determine_available_memory`, `profile_run`, `_dummy_sampler_run`).
So activations = max(forward, sampler), and each is the sum of the tensors that are alive at its peak:

* forward: of each token the residual, the attention's output and the norm's (3 x hidden size), and the feed-forward
  layer's two halves and their product (3 x intermediate size); of a mixture of experts, of each token and expert, the
  larger of both halves and the output, and the product.
* sampler: the batch's hidden states, and copies of the logits of every sequence in fp32. How many copies there are is
  the version's doing: torch's own sort and softmax needed 9.5, fewer from 0.17 on (3.6), since 0.27 the logits
  themselves and their fp32 copy (1.6 with rounding).

The numbers below are few, and each is what is left when the tensors above are taken off published logs: 60 starts of
vLLM 0.19.0 on H100 and seven of 0.15 to 0.18 (llm-d-incubation/llm-d-planner, accuracy/), eight of 0.11.0 (the same,
docs/empirical-vllm-memory-results.md), and single logs of 0.6 to 0.31 on L40S, A100, B200, B300 and GeForce cards.
docs/guides/serving_plan.md has every log with the plan's error. All memory is in bytes of one GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils.serving_defaults import (
    V1_ENGINE,
    Version,
    capture_sizes,
    graphs_are_taken_off,
    is_known,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import STATE, ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Gpu

MIB = 1 << 20

# Copies of the logits in fp32 that are alive at the sampler's peak, from a version on; the bf16 logits are half a one.
_SAMPLER_COPIES: tuple[tuple[Version, float], ...] = (((0, 27), 1.6), ((0, 17), 3.6), ((0, 0), 9.5))
# What torch has besides at both peaks: input buffers, workspaces of the matrix multiplications.
_BUFFERS = int(0.065 * GIB)
# Tensors of hidden size and of intermediate size per token that are alive together.
_HIDDEN_COPIES, _INTERMEDIATE_COPIES = 3, 3
_ACTIVATION_BYTES = 2
# What the tower of a multimodal model leaves beside its outputs.
_TOWER = int(0.12 * GIB)
# The workspace of experts stays allocated while the sampler runs (vLLM, v1/worker/workspace.py).
_WORKSPACE_STAYS: Version = (0, 13)
# Of each layer and CUDA graph: kernels' parameters and the graph's nodes. 0.84 GiB for 32 layers and 102 graphs in
# 0.19.0; 0.15 to 0.28 over the other logs.
_GRAPH_OF_A_LAYER = int(0.24 * MIB)
_GRAPH_POOL = int(0.05 * GIB)
# A GPU of a tensor-parallel group registers its buffers with the others for every graph (72B at 4 GPUs: 2.62 GiB).
_GRAPH_OF_A_GROUP = 1.4


@dataclass(frozen=True)
class Estimate:
    """Bytes, and between which they are expected to be."""

    bytes: int
    low: int
    high: int


@dataclass(frozen=True)
class Overheads:
    """What one GPU needs besides weights and KV cache."""

    activations: Estimate
    non_torch: Estimate
    cuda_graphs: Estimate
    # Whether the graphs come out of what the engine may use; otherwise they come out of what is left beside it.
    graphs_taken_off: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workload:
    """The settings that overheads depend on."""

    max_num_batched_tokens: int
    max_num_seqs: int
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    enforce_eager: bool = False
    # The V0 engine with a context over 32768 tokens: its largest batch has prompts that are not finished, so nothing
    # is sampled while it is measured.
    prompts_in_chunks_of_v0: bool = False


def sampler_copies(version: Version) -> float:
    """Copies of the logits in fp32 that are alive at the sampler's peak."""
    return next(count for since, count in _SAMPLER_COPIES if version >= since)


def sampler_bytes(version: Version, shape: ModelShape, work: Workload) -> int:
    """torch's peak while the sampler runs on the last stage: see this file's docstring."""
    sequences = min(work.max_num_seqs, work.max_num_batched_tokens)
    logits = 4 * sequences * shape.vocab_size
    return (
        int(sampler_copies(version) * logits)
        + _ACTIVATION_BYTES * work.max_num_batched_tokens * shape.hidden_size
        + _BUFFERS
    )


def experts_bytes(shape: ModelShape, work: Workload) -> int:
    """The workspace of a mixture of experts, which stays allocated: per token and expert that it goes to."""
    experts = shape.experts
    if experts is None:
        return 0
    if shape.quantization is not None and shape.quantization.format == "mxfp4":
        # Their kernels gather and scatter without a copy per expert.
        return 0
    width = -(-experts.intermediate_size // work.tensor_parallel_size)
    rows = work.max_num_batched_tokens * experts.per_token
    return _ACTIVATION_BYTES * rows * (max(2 * width, shape.hidden_size) + width)


def forward_bytes(shape: ModelShape, work: Workload) -> int:
    """torch's peak during a forward pass of a full batch, without the workspace of experts."""
    width = shape.dense_intermediate_size if shape.is_moe else shape.intermediate_size
    if shape.experts is not None:
        width = max(width, shape.experts.shared_intermediate_size)
    elements = _HIDDEN_COPIES * shape.hidden_size + _INTERMEDIATE_COPIES * -(-width // work.tensor_parallel_size)
    return _ACTIVATION_BYTES * work.max_num_batched_tokens * elements + _BUFFERS


def _activations(version: Version, shape: ModelShape, work: Workload) -> Estimate:
    # The last stage of a pipeline runs the sampler, and it is the one with most.
    forward, experts = forward_bytes(shape, work), experts_bytes(shape, work)
    sampler = 0 if work.prompts_in_chunks_of_v0 else sampler_bytes(version, shape, work)
    peak = max(forward + experts, sampler + (experts if version >= _WORKSPACE_STAYS else 0))
    low, high = int(peak * 0.8), int(peak * 1.25) + int(0.15 * GIB)
    if shape.modalities:
        # The outputs of the largest images that a batch holds are kept while the sampler runs.
        outputs = _ACTIVATION_BYTES * work.max_num_batched_tokens * shape.hidden_size
        peak += outputs + _TOWER
        low, high = low + outputs, high + outputs + _TOWER + GIB
    if version >= (0, 26):
        # Where FlashInfer's sampler is missing, torch's own is back: logs of 0.26 to 0.31 have up to 1.1 GiB more.
        high += int(0.5 * GIB)
    return Estimate(peak, low, high)


def has_nvlink_switch(gpu: Gpu) -> bool:
    """Whether GPUs of this kind are usually linked by NVLink with multicast: data-centre boards since Hopper."""
    capability = gpu.capability
    return capability is not None and capability[0] in (9, 10) and "nvl" not in gpu.name.lower().split()


def _non_torch(version: Version, shape: ModelShape, gpu: Gpu, work: Workload) -> Estimate:
    """CUDA context that grew, NCCL, all-reduce buffers, and what compiled kernels reserve.

    H100: 0.13 GiB, 0.25 since 0.18; tensor parallel 0.55, 2.1 since 0.18 (NVLink multicast buffers). Cards without
    it: 0.02 to 0.25. Since 0.27 it also holds what loading left behind: 0.26 to 0.56.
    """
    tensor = work.tensor_parallel_size
    data_centre = gpu.capability is None or gpu.capability in ((9, 0), (10, 0), (10, 3))
    if tensor > 1:
        if version >= (0, 27):
            value, low, high = 1.7, 0.4, 2.5
        elif version >= (0, 18):
            value, low, high = (2.1, 0.5, 2.6) if has_nvlink_switch(gpu) else (0.3, 0.15, 1.3)
        else:
            value, low, high = (0.55, 0.2, 2.2) if data_centre else (0.25, 0.05, 0.7)
    elif work.pipeline_parallel_size > 1:
        value, low, high = 0.1, 0.02, 0.5
    elif version >= (0, 27):
        value, low, high = 0.35, 0.1, 0.65
    elif version >= (0, 18):
        value, low, high = (0.25, 0.05, 0.6) if data_centre else (0.15, 0.02, 0.5)
    else:
        value, low, high = (0.13, 0.02, 0.4) if data_centre else (0.06, 0.0, 0.35)
    if any(layers.kind == STATE for layers in shape.layers):
        # Kernels of linear attention are tuned while the batch runs, which torch does not see.
        value, high = value + 0.5, high + 3.0
    return Estimate(int(value * GIB), int(low * GIB), int(high * GIB))


def _graphs(version: Version, shape: ModelShape, work: Workload) -> Estimate:
    if work.enforce_eager:
        return Estimate(0, 0, 0)
    pieces, whole = capture_sizes(version, work.max_num_seqs, work.max_num_batched_tokens)
    layers = -(-shape.num_hidden_layers // work.pipeline_parallel_size)
    value = _GRAPH_POOL + (pieces + whole) * layers * _GRAPH_OF_A_LAYER
    if work.tensor_parallel_size > 1:
        value = int(value * _GRAPH_OF_A_GROUP)
    # What vLLM extrapolates from two graphs has been many times too much for large mixtures of experts (#45178).
    return Estimate(value, int(value * 0.3), int(value * (4 if shape.is_moe else 2)))


def overheads(version: Version, shape: ModelShape, gpu: Gpu, work: Workload) -> Overheads:
    """The overheads of an engine of *version*; versions that are not known are taken for the nearest that is."""
    notes = []
    activations = _activations(version, shape, work)
    non_torch, graphs = _non_torch(version, shape, gpu, work), _graphs(version, shape, work)
    taken_off = graphs_are_taken_off(version, shape.architecture, not shape.is_moe, shape.quantization is not None)
    if not is_known(version):
        name = ".".join(map(str, version))
        notes.append(
            f"vLLM {name} is not known here: it was planned like the nearest known version, with a wider interval"
        )
        activations, non_torch, graphs = (_wider(part) for part in (activations, non_torch, graphs))
    if not shape.known:
        notes.append("the architecture is not known here: activations may differ, and the interval is wider")
        activations = _wider(activations)
    if version < V1_ENGINE and not work.enforce_eager:
        notes.append("CUDA graphs of the V0 engine take 1 to 3 GiB beside what it may use")
    return Overheads(activations, non_torch, graphs, taken_off and not work.enforce_eager, tuple(notes))


def _wider(part: Estimate) -> Estimate:
    return Estimate(part.bytes, int(part.low * 0.5), int(part.high * 1.5))
