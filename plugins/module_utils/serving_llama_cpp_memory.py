# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What llama-server allocates, by device, for given settings. All memory is in bytes.

Weights, KV cache, recurrent states and output buffer follow from the source (llama.cpp build 11434:
`llama-model.cpp: load_tensors`, `llama-kv-cache.cpp`, `llama-kv-cache-iswa.cpp`, `llama-memory-recurrent.cpp`,
`llama-context.cpp: llama_context, output_reserve`) and are exact. A compute buffer is the highest level that ggml's
allocator reaches over a graph of hundreds of operations: the mask of the attention in it is exact, the rest is an
estimate from the widest operations, with an interval (`_UNCERTAINTY`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ansible_collections.baremetal.llm.plugins.module_utils.gguf_header import BLOCKS
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import GgufModel

# `llama-server --help`: what --cache-type-k and --cache-type-v take.
CACHE_TYPES = ("f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
# llama-server's own, if nobody says otherwise (`--help`, common/arg.cpp, tools/server/server.cpp).
DEFAULT_BATCH = 2048
DEFAULT_UBATCH = 512
DEFAULT_PARALLEL = 4
# LLAMA_MAX_SEQ.
MOST_PARALLEL = 256
# Contexts are rounded up to it (`llama_context`, ggml-org/llama.cpp#17046), caches of windows too (#17037).
CELLS = 256
# The build from which on one row of the output is computed for each sequence, not one for each token of a batch. Not
# the first such build: the oldest that was read.
_FEW_OUTPUTS_BUILD = 11434
# GGML_SCHED_MAX_COPIES: of the inputs, when several GPUs work on a batch one behind the other.
_COPIES = 4
_FLOAT = 4
# Of the estimated part of a compute buffer: at least, and at most, that share of the estimate. "other" has states or
# latents, whose graphs differ from model to model.
_UNCERTAINTY = {"plain": (0.65, 1.5), "experts": (0.65, 1.5), "other": (0.25, 3.0)}


@dataclass(frozen=True)
class Runtime:
    """The settings that decide on memory. `ctx_size` is in tokens and of all sequences together."""

    ctx_size: int
    parallel: int = 1
    kv_unified: bool = False
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: bool = True
    batch_size: int = DEFAULT_BATCH
    ubatch_size: int = DEFAULT_UBATCH
    swa_full: bool = False
    # 0 where it is not known.
    build: int = 0

    @property
    def context(self) -> int:
        """`ctx_size` as it is rounded up first."""
        return _up(self.ctx_size, CELLS)

    @property
    def cells(self) -> int:
        """Tokens that the cache holds in each of its streams."""
        return self.context if self.kv_unified else _up(self.context // self.parallel, CELLS)

    @property
    def streams(self) -> int:
        return 1 if self.kv_unified else self.parallel

    @property
    def step(self) -> int:
        """Tokens that are computed at once."""
        return min(self.ctx_size, self.batch_size, self.ubatch_size or self.batch_size)

    def window_cells(self, window: int) -> int:
        """Tokens that the cache of a layer with a window holds in each stream."""
        if self.swa_full:
            return self.cells
        return _up(min(self.cells, window * (self.parallel if self.kv_unified else 1) + self.step), CELLS)


@dataclass(frozen=True)
class Placement:
    """What is on which GPU. Layers count from the last one back; the output layer counts as one more behind them.

    `split` is how many of these layers each GPU has; the experts of the first `host_expert_layers` layers stay in the
    host's memory wherever the rest of the layer is.
    """

    split: tuple[int, ...] = ()
    host_expert_layers: int = 0

    @property
    def gpu_layers(self) -> int:
        return sum(self.split)


@dataclass(frozen=True)
class DeviceMemory:
    """What is allocated on one device; `compute` is an estimate that lies between `compute_low` and `compute_high`."""

    weights: int
    kv_cache: int
    compute: int
    compute_low: int
    compute_high: int
    layers: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True)
class LlamaCppMemory:
    gpus: tuple[DeviceMemory, ...]
    # The host's has the output buffer in `compute`.
    host: DeviceMemory


def row_bytes(cache_type: str, elements: int) -> int:
    """Bytes of that many elements of the type; the caller sees to it that they are whole blocks."""
    block, size = BLOCKS[cache_type.upper()]
    return elements // block * size


def block_elements(cache_type: str) -> int:
    return BLOCKS[cache_type.upper()][0]


@dataclass(frozen=True)
class _Role:
    """What a GPU does in the whole: how many batches are on their way, and what comes before it."""

    copies: int
    is_first: bool
    # Some layers are computed by the host.
    is_partial: bool
    has_experts: bool
    # Some experts of its layers stay with the host.
    streams_experts: bool
    begin: int
    end: int


class MemoryOf:
    """The memory of one model, for many settings: what is added up over layers is added up once."""

    def __init__(self, model: GgufModel) -> None:
        self.model = model
        layers = model.layers
        self._weights = _sums([layer.weights for layer in layers])
        self._experts = _sums([layer.expert_weights for layer in layers])
        self._keys = _sums([0 if layer.window else layer.keys for layer in layers])
        self._values = _sums([0 if layer.window else layer.values for layer in layers])
        self._window_keys = _sums([layer.keys if layer.window else 0 for layer in layers])
        self._window_values = _sums([layer.values if layer.window else 0 for layer in layers])
        self._with_values = _sums([int(bool(layer.values) and not layer.window) for layer in layers])
        self._window_with_values = _sums([int(bool(layer.values) and layer.window) for layer in layers])
        self._states = _sums([layer.state_bytes for layer in layers])
        self._most_values = max(layer.values for layer in layers)

    def token_bytes(self, runtime: Runtime, first: int = 0, end: int | None = None) -> tuple[int, int]:
        """Bytes of one cell in the layers from `first` to `end`: of those that see everything, and those that do not.

        Without flash attention the values lie the other way round, and all layers' are as wide as the widest.
        """
        end = len(self.model.layers) if end is None else end
        parts = []
        for keys, values, with_values in (
            (self._keys, self._values, self._with_values),
            (self._window_keys, self._window_values, self._window_with_values),
        ):
            wide = values[end] - values[first]
            if not runtime.flash_attention:
                wide = (with_values[end] - with_values[first]) * self._most_values
            parts.append(
                row_bytes(runtime.cache_type_k, keys[end] - keys[first]) + row_bytes(runtime.cache_type_v, wide)
            )
        return parts[0], parts[1]

    def kv_cache(self, runtime: Runtime, first: int = 0, end: int | None = None) -> int:
        """Bytes of the KV cache and of the recurrent states in the layers from `first` to `end`."""
        end = len(self.model.layers) if end is None else end
        everything, window = self.token_bytes(runtime, first, end)
        states = (self._states[end] - self._states[first]) * runtime.parallel
        cells = everything * runtime.cells + (window * runtime.window_cells(self.model.window) if window else 0)
        return cells * runtime.streams + states

    def weights(self, first: int, end: int, host_expert_layers: int = 0) -> tuple[int, int]:
        """Bytes of the layers from `first` to `end`: all but the experts that stay with the host, and these experts."""
        stay = max(first, min(end, host_expert_layers))
        experts = self._experts[stay] - self._experts[first]
        return self._weights[end] - self._weights[first] - experts, experts

    def by_device(self, runtime: Runtime, placement: Placement) -> LlamaCppMemory:
        """What each device holds."""
        model, count = self.model, len(self.model.layers)
        first = max(0, count + 1 - placement.gpu_layers)
        on_host = min(first, count)
        host_weights, host_cache = self.weights(0, on_host)[0], self.kv_cache(runtime, 0, on_host)
        used = [number for number, layers in enumerate(placement.split) if layers]
        copies = _COPIES if len(placement.split) > 1 and used and first == 0 and not placement.host_expert_layers else 1
        gpus = []
        place = first
        for number, layers in enumerate(placement.split):
            begin, end = min(place, count), min(place + layers, count)
            weights, staying = self.weights(begin, end, placement.host_expert_layers)
            host_weights += staying
            if layers and place + layers > count:
                weights += model.output_weights + model.tied_weights
            compute = (0, 0, 0)
            if layers:
                role = _Role(
                    copies, number == used[0], first > 0, staying < self._own(begin, end), staying > 0, begin, end
                )
                compute = self._gpu_compute(runtime, role)
            gpus.append(DeviceMemory(weights, self.kv_cache(runtime, begin, end), *compute, layers))
            place += layers
        if not placement.gpu_layers:
            host_weights += model.output_weights
        host_compute = self._host_compute(runtime, bool(used), copies, first, placement.host_expert_layers > 0)
        output = model.vocabulary * runtime.parallel * _FLOAT
        point, low, high = (part + output for part in host_compute)
        host = DeviceMemory(host_weights + model.input_weights, host_cache, point, low, high, on_host)
        return LlamaCppMemory(tuple(gpus), host)

    def _own(self, first: int, end: int) -> int:
        """Bytes of the experts in these layers, or 1 where there are none."""
        return self._experts[end] - self._experts[first] or 1

    def _mask(self, runtime: Runtime, first: int = 0, end: int | None = None) -> int:
        """Which token sees which: for each token of a step and each cell of a stream, of both kinds of layers."""
        end = len(self.model.layers) if end is None else end
        cells = 0
        if self._keys[end] > self._keys[first]:
            cells += runtime.cells
        if self._window_keys[end] > self._window_keys[first]:
            cells += runtime.window_cells(self.model.window)
        return cells * runtime.step * (2 if runtime.flash_attention else _FLOAT)

    def _widest(self, runtime: Runtime, with_experts: bool = True) -> tuple[int, int]:
        """The widest part of a layer beside the stream between layers: feed-forward network, and attention."""
        model, step = self.model, runtime.step * _FLOAT
        stream, queries = step * model.embedding, step * model.attention
        # Gate, up and their product; of experts also what each of them gives back, and that with its share.
        width = 3 * model.feed_forward
        if model.experts_used:
            width = max(width * model.experts_used, 2 * model.embedding * model.experts_used) if with_experts else 0
        attention = 2 * queries + 2 * step * model.attention_keys
        if not runtime.flash_attention:
            attention += step * runtime.cells * model.heads
        # A state's input, gate, convolution, step and outputs, counted in what the server prints.
        return step * width + min(2 * queries, 2 * stream), max(attention, 7 * step * model.recurrence)

    def _outputs(self, runtime: Runtime) -> int:
        rows = runtime.parallel if runtime.build >= _FEW_OUTPUTS_BUILD else runtime.step
        return min(rows, runtime.step) * self.model.vocabulary * _FLOAT

    def _host_compute(
        self, runtime: Runtime, has_gpus: bool, copies: int, layers: int, has_experts: bool
    ) -> tuple[int, int, int]:
        stream = runtime.step * self.model.embedding * _FLOAT
        mask = self._mask(runtime)
        # Only what goes into the first layer.
        inputs = self._interval(mask * copies, stream * (4 if copies == 1 else 10))
        if has_gpus and not layers and not has_experts:
            return inputs
        point, low, high = self._interval(mask, 3 * stream + max(*self._widest(runtime), self._outputs(runtime)))
        return point, low if layers or not has_gpus else min(low, inputs[1]), high

    def _gpu_compute(self, runtime: Runtime, role: _Role) -> tuple[int, int, int]:
        model, mask = self.model, self._mask(runtime, role.begin, role.end)
        stream = runtime.step * model.embedding * _FLOAT
        if role.begin == role.end:
            # The output layer alone: of each sequence, or of each token of a step, what goes in and what comes out.
            return self._interval(0, self._outputs(runtime) * (1 + 4 * model.embedding // max(1, model.vocabulary)))
        network, attention = self._widest(runtime, role.has_experts or not model.experts_used)
        network = max(0, network - min(2 * runtime.step * model.attention * _FLOAT, 2 * stream))
        widest = max(network, attention, self._outputs(runtime))
        # What comes from the host or from the GPU before it, as often as batches are on their way, and what goes on.
        if role.is_partial:
            inputs = 2 * stream
        elif role.is_first:
            inputs = 4 * stream * role.copies
        else:
            inputs = (3 + role.copies) * stream
        point, low, high = self._interval(mask * role.copies, inputs + widest)
        if role.end - role.begin == 1 and role.end == len(model.layers):
            # Behind the last layer's attention only the tokens are left of which an output is wanted.
            low = self._interval(mask * role.copies, inputs)[1]
        if role.is_partial or role.streams_experts:
            # Weights that stay in the host's memory are copied to the GPU for large batches (`--op-offload`), by the
            # tensor. Where they are not, as between machines, it is less.
            point, high = point + model.largest_tensor, high + 2 * model.largest_tensor
        return point, low, high

    def _interval(self, exact: int, estimate: int) -> tuple[int, int, int]:
        """The point, and the lowest and highest value expected."""
        low, high = _UNCERTAINTY[self.model.family]
        return exact + estimate, exact + int(estimate * low), exact + int(estimate * high)


def _sums(numbers: Sequence[int]) -> list[int]:
    """The sums of the first 0, 1, ... of them."""
    return list(accumulate(numbers, initial=0))


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
