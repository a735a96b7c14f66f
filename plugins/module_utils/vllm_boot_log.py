# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vLLM says about memory while it starts, out of its log: from 0.6 to the versions of autumn 2026.

The sentences change from version to version, so each is looked for by itself, and what a version does not say stays
unknown. All memory is in bytes of one GPU (or of the host's memory, with the CPU build); what the log calls GB are
GiB (`vllm/utils/mem_utils.py` divides by 2**30), printed with two to four decimals, so nothing here is exact.

Where the sentences come from: `vllm/worker/worker.py` (to 0.8), `vllm/v1/worker/gpu_worker.py` and
`gpu_model_runner.py` (`Model loading took`, `Available KV cache memory`, `Actual usage is`, `Graph capturing finished`,
`Estimated CUDA graph memory`), `vllm/v1/worker/cpu_worker.py` (`Explicitly set`, `Auto set`) and
`vllm/v1/core/kv_cache_utils.py` (`KV cache size`, `Maximum concurrency`: two lines to 0.28, one line since).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

GIB = 1 << 30

# Where one start of the engine ends and the next begins in a journal: systemd's line, and the server's own banner.
_START = re.compile(r"Starting vllm@|vLLM API server version |█\s+version \d")
# Which process of the engine speaks: (Worker_TP0 pid=11), (VllmWorkerProcess pid=521), (EngineCore_DP1 pid=7).
_SPEAKER = re.compile(r"\(([A-Za-z][\w-]*) pid=(\d+)\)")
_NUMBER = r"(-?[\d,]+(?:\.\d+)?)"
_MEMORY = _NUMBER + r"\s*G(?:i)?B"


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


# Said once for the whole engine. Keys are fields of BootLog.
_ENGINE_TEXTS = {
    "version": _text(r"Initializing an? (?:V\d )?LLM engine \(v([^)\s]+)\)"),
    "model": _text(r"LLM engine .*?\bmodel='([^']+)'"),
    "device": _text(r"LLM engine .*?\bdevice_config=(\w+)"),
    "kv_cache_dtype": _text(r"LLM engine .*?\bkv_cache_dtype=([\w.]+)"),
}
_ENGINE_NUMBERS = {
    "max_model_len": _text(r"LLM engine .*?\bmax_seq_len=(\d+)"),
    "tensor_parallel_size": _text(r"LLM engine .*?\btensor_parallel_size=(\d+)"),
    "pipeline_parallel_size": _text(r"LLM engine .*?\bpipeline_parallel_size=(\d+)"),
    "max_num_seqs": _text(r"non-default args: .*?'max_num_seqs': (\d+)"),
    "max_num_batched_tokens": _text(
        r"(?:non-default args: .*?'max_num_batched_tokens': |prefill is enabled with max_num_batched_tokens=)(\d+)"
    ),
}
_EAGER = _text(r"LLM engine .*?\benforce_eager=(True|False)")
_UTILIZATION = _text(
    r"(?:non-default args: .*?'gpu_memory_utilization': |Desired GPU memory utilization is \("
    r"|gpu_memory_utilization[ =]\(?)([\d.]+)"
)
_CACHE_SIZE = _text(r"([A-Z]+)(?: \+ host)? KV cache size: ([\d,]+) tokens")
# The first is the GPU's, `# GPU blocks: 1952, # CPU blocks: 2048`: those of the CPU are for swapping.
_BLOCKS = _text(r"\w+ blocks: (\d+)")
_CONCURRENCY = _text(r"Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x")

# Said by each process. Keys are fields of _Rank, values are GiB.
_RANK_MEMORY = {
    "weights": (
        _text(r"(?:Loading model weights|Model loading) took " + _MEMORY),
        _text(r"model weights take\s+" + _MEMORY),
        _text(r"Actual usage is " + _MEMORY + r" for weight\b"),
    ),
    "total": (
        _text(r"total_gpu_memory[ =]\(?" + _MEMORY),
        _text(r"Free memory on device \([\d.]+/" + _NUMBER + r"\s*GiB\)"),
        _text(r"(?:Explicitly|Auto) set \([\d.]+/" + _NUMBER + r"\)\s*GiB for KV cache"),
    ),
    "requested": (
        _text(r"gpu_memory_utilization \([\d.]+\) = " + _MEMORY),
        _text(r"the current vLLM instance can use\s+" + _MEMORY),
        _text(r"Desired GPU memory utilization is \([\d.]+, " + _MEMORY),
        _text(r"with " + _MEMORY + r" requested memory for the worker"),
    ),
    "non_torch": (
        _text(r"non_torch_memory(?: takes)?[ =]\s*" + _MEMORY),
        _text(_MEMORY + r" for non-torch memory"),
    ),
    "activations": (
        _text(r"PyTorch activation peak memory(?: takes)?\s+" + _MEMORY),
        _text(_MEMORY + r" for peak activation"),
    ),
    "torch_peak": (_text(r"peak_torch_memory=" + _MEMORY),),
    # Weights and what is not torch's, in one sum: vLLM since 0.27.
    "consumed": (
        _text(r"Actual usage is " + _MEMORY + r" for consumed memory"),
        _text(_MEMORY + r" memory was consumed by non-kv usages"),
    ),
    "kv_cache": (
        _text(r"Available KV cache memory: " + _MEMORY),
        _text(r"the memory reserved for KV Cache is " + _MEMORY),
        _text(r"available_kv_cache_memory\s+" + _MEMORY),
        _text(r"\bkv_cache_size=" + _MEMORY),
        _text(r"Current kv cache memory in use is " + _MEMORY),
        _text(r"Auto set \(" + _NUMBER + r"/[\d.]+\)\s*GiB for KV cache"),
    ),
    "kv_cache_ordered": (
        _text(r"reserved " + _MEMORY + r" memory for KV Cache as specified"),
        _text(r"Explicitly set \(" + _NUMBER + r"/[\d.]+\)\s*GiB for KV cache"),
    ),
    "cuda_graphs": (
        _text(r"Graph capturing finished in .*?, took " + _MEMORY),
        _text(r"CUDA graph pool memory: " + _MEMORY + r" \(actual\)"),
        _text(_MEMORY + r" for CUDAGraph memory"),
    ),
    "cuda_graphs_estimate": (_text(r"Estimated CUDA graph memory: " + _MEMORY + r" total"),),
}
_ESTIMATE_TAKEN = "CUDA graph memory profiling is enabled"
_FAILURES = (
    (
        "context-too-long",
        _text(r"ValueError: .*?(?:KV cache is needed, which is larger|max seq len .*? is larger than)"),
    ),
    ("no-memory-for-cache", _text(r"No available memory for the cache blocks")),
    ("memory-in-use", _text(r"on startup is less than desired GPU memory utilization")),
    ("out-of-memory", _text(r"OutOfMemoryError|CUDA out of memory")),
)


class BootLogError(ValueError):
    """A text in which no start of an engine can be found. The message says what was looked for."""


@dataclass(frozen=True)
class BootLog:
    """One start of an engine. `None`: the log does not say. Memory is in bytes of the rank with least left.

    `kv_cache` is what profiling left for the cache, and `kv_cache_ordered` what the operator set it to; one of them is
    `None`. `cuda_graphs` is what capturing took; `cuda_graphs_estimate` is what vLLM took off beforehand, and `None`
    where it took nothing off (before 0.21). `activations` never holds that estimate. `failure` is '' or why the engine
    did not start: context-too-long, no-memory-for-cache, memory-in-use, out-of-memory.
    """

    version: str = ""
    model: str = ""
    # cuda, cpu, ...; '' if the log does not say.
    device: str = ""
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool | None = None
    kv_cache_dtype: str = ""
    gpu_memory_utilization: float | None = None
    total: int | None = None
    requested: int | None = None
    weights: int | None = None
    activations: int | None = None
    non_torch: int | None = None
    cuda_graphs: int | None = None
    cuda_graphs_estimate: int | None = None
    kv_cache: int | None = None
    kv_cache_ordered: int | None = None
    kv_cache_tokens: int | None = None
    max_concurrency: float | None = None
    failure: str = ""

    @property
    def kv_bytes_per_token(self) -> float | None:
        """Bytes of the cache for one token of the whole model on one GPU, as far as printed decimals tell."""
        memory = self.kv_cache if self.kv_cache_ordered is None else self.kv_cache_ordered
        return memory / self.kv_cache_tokens if memory and self.kv_cache_tokens else None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _bytes(text: str) -> int:
    return round(float(text.replace(",", "")) * GIB)


def boots(text: str) -> list[list[str]]:
    """The lines of each start of the engine in *text*, in their order; what precedes the first start is its own."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        # Banner, systemd and server name one and the same start, one after the other.
        if _START.search(line) and any(_is_about_memory(one) for one in found[-1]):
            found.append([])
        found[-1].append(line)
    return found


def _is_about_memory(line: str) -> bool:
    return any(pattern.search(line) for patterns in _RANK_MEMORY.values() for pattern in patterns)


def parse(text: str) -> BootLog:
    """The last start of the engine in *text* that came as far as its cache; else the last one, with its failure.

    Raises BootLogError if there is none.
    """
    starts = [_parse_boot(lines) for lines in boots(text)]
    whole = [boot for boot in starts if boot.kv_cache_tokens is not None and not boot.failure]
    if whole:
        return whole[-1]
    said = [boot for boot in starts if boot.failure or (boot.weights or boot.kv_cache or boot.requested) is not None]
    if not said:
        raise BootLogError(
            "there is no start of vLLM in this log: neither 'Model loading took' nor 'KV cache size' is in it. "
            "The journal may have been rotated since the engine started; start it again, or give the log as a file"
        )
    return said[-1]


def _parse_boot(lines: list[str]) -> BootLog:
    engine = _engine_facts(lines)
    ranks = _rank_facts(lines)
    rank = _tightest(ranks)
    taken = any(_ESTIMATE_TAKEN in line for line in lines)
    estimate = rank.get("cuda_graphs_estimate") if taken else None
    weights = rank.get("weights")
    activations = rank.get("activations")
    if activations is None and weights is not None and "torch_peak" in rank:
        activations = rank["torch_peak"] - weights
    non_torch = rank.get("non_torch")
    if "consumed" in rank and weights is not None:
        non_torch = max(rank["consumed"] - weights, 0)
        if activations is not None and estimate is not None:
            # `peak_activation_memory` of gpu_worker.py holds the estimate of the graphs, too.
            activations = max(activations - estimate, 0)
    total, utilization = rank.get("total"), engine.get("gpu_memory_utilization")
    requested = rank.get("requested")
    if requested is None and total is not None and utilization is not None and engine.get("device") != "cpu":
        requested = round(total * utilization)
    ordered = rank.get("kv_cache_ordered")
    return BootLog(
        **engine,
        total=total,
        requested=requested,
        weights=weights,
        activations=activations,
        non_torch=non_torch,
        # More free memory after capturing than before, as some logs have it, is not measured but disturbed.
        cuda_graphs=max(rank["cuda_graphs"], 0) if "cuda_graphs" in rank else None,
        cuda_graphs_estimate=estimate,
        kv_cache=rank.get("kv_cache") if ordered is None else None,
        kv_cache_ordered=ordered,
    )


def _engine_facts(lines: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    blocks: int | None = None
    for line in lines:
        for name, pattern in _ENGINE_TEXTS.items():
            match = pattern.search(line)
            if match:
                facts[name] = match[1]
        for name, pattern in _ENGINE_NUMBERS.items():
            match = pattern.search(line)
            if match:
                facts[name] = int(match[1])
        match = _EAGER.search(line)
        if match:
            facts["enforce_eager"] = match[1] == "True"
        match = _UTILIZATION.search(line)
        if match:
            facts["gpu_memory_utilization"] = float(match[1])
        match = _CACHE_SIZE.search(line)
        if match:
            # Engines beside each other (data parallel) each say theirs: the plan is about one of them.
            facts["kv_cache_tokens"] = min(_whole(match[2]), facts.get("kv_cache_tokens", _whole(match[2])))
            facts.setdefault("device", "cuda" if match[1] == "GPU" else match[1].lower())
        match = _BLOCKS.search(line)
        if match:
            blocks = int(match[1]) if blocks is None else min(blocks, int(match[1]))
        match = _CONCURRENCY.search(line)
        if match:
            facts["max_model_len"] = _whole(match[1])
            facts["max_concurrency"] = min(float(match[2]), facts.get("max_concurrency", float(match[2])))
        for code, pattern in _FAILURES:
            if pattern.search(line):
                facts.setdefault("failure", code)
    if "kv_cache_tokens" not in facts and blocks and "max_concurrency" in facts:
        # Before 0.7.4 only blocks were named; how many tokens one has follows from the concurrency beside them.
        facts["kv_cache_tokens"] = blocks * round(facts["max_concurrency"] * facts["max_model_len"] / blocks)
    return facts


def _rank_facts(lines: list[str]) -> dict[str, dict[str, int]]:
    """What each process said; what it said more than once counts as said last."""
    ranks: dict[str, dict[str, int]] = {}
    for line in lines:
        speaker = _SPEAKER.search(line)
        rank = f"{speaker[1]} {speaker[2]}" if speaker else ""
        for name, patterns in _RANK_MEMORY.items():
            for pattern in patterns:
                match = pattern.search(line)
                if match:
                    ranks.setdefault(rank, {})[name] = _bytes(match[1])
    return ranks


def _tightest(ranks: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The rank with the least memory for its cache, which is what decides; what it did not say, others did.

    Most sentences are printed by one rank only: for what is missing, the largest value of the others is taken.
    """
    everything: dict[str, int] = {}
    for facts in ranks.values():
        for name, value in facts.items():
            everything[name] = max(value, everything.get(name, value))
    with_cache = [facts for facts in ranks.values() if "kv_cache" in facts]
    if with_cache:
        return {**everything, **min(with_cache, key=lambda facts: facts["kv_cache"])}
    return everything
