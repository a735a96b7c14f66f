# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes into a serving plan and what comes out. All memory is in bytes, of one GPU unless said otherwise.

A calibration is what was measured on running engines, in place of estimates: a mapping from `CalibrationKey.text()` to
a mapping with any of

- `weights`, `activations`, `non_torch`, `cuda_graphs`: bytes of that part on the GPU that has most of it,
- `non_kv`: bytes of everything that vLLM takes off before it sizes the KV cache, for logs that give no parts (newer
  vLLM prints only what is left). Parts beside it win over estimates; the rest is booked under activations.

It is plain data, so that it can be kept as JSON: `{"<key>": {"activations": 5111011082}, ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

GIB = 1 << 30

ENGINES = ("vllm", "llama_cpp")
# What a calibration may say of a key.
MEASURED_PARTS = ("weights", "activations", "non_torch", "cuda_graphs", "non_kv")

Calibration = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Gpu:
    """One GPU. `memory_bytes` is what a CUDA process sees as total: neither what is free nor what the maker says."""

    name: str
    memory_bytes: int
    # As NVML writes it, "9.0"; empty if nobody knows.
    compute_capability: str = ""

    @property
    def capability(self) -> tuple[int, int] | None:
        """The compute capability as numbers that can be compared, or nothing if it is not known."""
        return _capability(self.compute_capability)


@lru_cache(maxsize=256)
def _capability(text: str) -> tuple[int, int] | None:
    major, dot, minor = text.partition(".")
    if not dot or not major.isdigit() or not minor.isdigit():
        return None
    return int(major), int(minor)


@dataclass(frozen=True)
class Wishes:
    """What somebody wants of a deployment. `None`: to be chosen.

    `max_model_len` and `max_num_batched_tokens` are tokens, `max_num_seqs` and `concurrency` are requests,
    `gpu_memory_utilization` is a share of the total memory above 0 and up to 1, `kv_cache_memory_bytes` is of each
    GPU. `concurrency` is how many requests of full length are to have room at once.
    """

    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_dtype: str | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    kv_cache_memory_bytes: int | None = None
    enforce_eager: bool | None = None
    quantization: str | None = None
    concurrency: int | None = None
    block_size: int | None = None
    enable_chunked_prefill: bool | None = None
    enable_prefix_caching: bool | None = None

    def given(self) -> dict[str, Any]:
        """The wishes that were made."""
        return {item.name: getattr(self, item.name) for item in fields(self) if getattr(self, item.name) is not None}


@dataclass(frozen=True)
class MemoryPlan:
    """Where the memory of one GPU goes: of the one that has least left where they differ.

    `requested` is what the engine may use, so requested = weights + activations + non_torch + cuda_graphs + kv_cache
    wherever all of these are inside it. vLLM before 0.21 takes its CUDA graphs from what is not requested.
    """

    total: int
    requested: int
    weights: int
    activations: int
    non_torch: int
    cuda_graphs: int
    kv_cache: int

    def as_dict(self) -> dict[str, int]:
        return {item.name: int(getattr(self, item.name)) for item in fields(self)}


@dataclass(frozen=True)
class Interval:
    """Between which values something is expected to be, both included."""

    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"low": self.low, "high": self.high}


@dataclass(frozen=True)
class Change:
    """Settings or circumstances that would make it fit, found by planning again with them.

    Keys of `settings` are those of `Wishes`, and `gpus` (how many of the same kind), `gpu_memory_bytes` (of each) and
    `weights_bytes` (of the whole model, by quantizing it).
    """

    settings: Mapping[str, Any]
    text: str

    def as_dict(self) -> dict[str, Any]:
        return {"settings": dict(self.settings), "text": self.text}


@dataclass(frozen=True)
class Refusal:
    """Why a deployment cannot be, and the smallest change that would let it.

    `change` is `None` where no change of settings helps, as with a broken file; `alternatives` are other single changes
    that each help as well.
    """

    code: str
    message: str
    change: Change | None = None
    alternatives: tuple[Change, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "change": None if self.change is None else self.change.as_dict(),
            "alternatives": [change.as_dict() for change in self.alternatives],
        }


@dataclass(frozen=True)
class ServingPlan:
    """Whether and how a model is served.

    `settings` has the engine's own names and is empty where nothing could be planned. `kv_cache_tokens` is what the
    engine's log says as the size of its KV cache, `max_concurrency` how many requests of full length that holds.
    `interval` has `kv_cache` (bytes), `kv_cache_tokens` and `max_concurrency`.
    """

    fits: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    memory: MemoryPlan = field(default_factory=lambda: MemoryPlan(0, 0, 0, 0, 0, 0, 0))
    kv_bytes_per_token: int = 0
    kv_cache_tokens: int = 0
    max_concurrency: float = 0.0
    interval: Mapping[str, Interval] = field(default_factory=dict)
    explanation: Sequence[str] = ()
    refusals: Sequence[Refusal] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "fits": self.fits,
            "settings": dict(self.settings),
            "memory": self.memory.as_dict(),
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_cache_tokens": self.kv_cache_tokens,
            "max_concurrency": self.max_concurrency,
            "interval": {name: interval.as_dict() for name, interval in self.interval.items()},
            "explanation": list(self.explanation),
            "refusals": [refusal.as_dict() for refusal in self.refusals],
        }


@dataclass(frozen=True)
class CalibrationKey:
    """Which deployments need the same overhead: the same model and settings, on the same GPU, in the same version.

    `model` is organisation/name, or what `serving_plan.model_key` makes of a configuration that has no name. The KV
    cache's data type and the context's length are not part of it: they decide what is done with the rest, not how much
    there is of it.
    """

    model: str
    engine: str
    engine_version: str
    gpu: str
    tensor_parallel_size: int
    pipeline_parallel_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    enforce_eager: bool

    def text(self) -> str:
        """The key in a calibration's mapping; the same for the same values, in every version of this collection."""
        return "|".join(
            (
                self.model,
                self.engine,
                self.engine_version,
                self.gpu,
                f"tp{self.tensor_parallel_size}",
                f"pp{self.pipeline_parallel_size}",
                f"seqs{self.max_num_seqs}",
                f"tokens{self.max_num_batched_tokens}",
                "eager" if self.enforce_eager else "graphs",
            )
        )
