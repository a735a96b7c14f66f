# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans against what engines said when they started, and what is learnt from it for the next plan.

A calibration is kept as JSON on the controller, one key for each (model, engine version, GPU, settings), one line for
each part, sorted: it is put under version control beside the lock files, and a change reads well in a diff. Its shape
is that of `serving_types.Calibration`. All memory is in bytes of one GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (
    MEASURED_PARTS,
    Calibration,
    CalibrationKey,
)
from ansible_collections.baremetal.llm.plugins.module_utils.vllm_boot_log import BootLog

# What a plan and a running engine must have alike to be compared: settings of the plan, and what the log has of them.
_COMPARED_SETTINGS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enforce_eager",
)
_KEY_DEFAULTS = {"tensor_parallel_size": 1, "pipeline_parallel_size": 1}


class CalibrationError(ValueError):
    """A calibration that cannot be read or made. The message says what is wrong and what to do."""


@dataclass(frozen=True)
class Difference:
    """One quantity, as planned and as measured; bytes, tokens or requests. `share` is of what was measured."""

    name: str
    planned: float
    measured: float
    # Whether the plan's interval holds what was measured; `None` where the plan has none for it.
    expected: bool | None = None

    @property
    def share(self) -> float | None:
        return (self.planned - self.measured) / self.measured if self.measured else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share}


def mismatches(boot: BootLog, plan: Mapping[str, Any], engine_version: str = "") -> list[str]:
    """Why *boot* is not a start of what was planned, one sentence each: then nothing is to be learnt from it.

    :param plan: what `serving_plan` returned
    """
    settings = plan.get("settings") or {}
    found = []
    if boot.version and engine_version and not _same_version(boot.version, engine_version):
        found.append(f"the engine runs version {boot.version}, planned was {engine_version}")
    for name in _COMPARED_SETTINGS:
        measured, planned = getattr(boot, name), settings.get(name, _KEY_DEFAULTS.get(name))
        if measured is not None and planned is not None and measured != planned:
            found.append(f"the engine runs with {name} {measured}, planned was {planned}")
    return found


def _same_version(first: str, second: str) -> bool:
    """A build's own label, as in 0.32.0+cpu, changes nothing about its memory."""
    return first.split("+", 1)[0] == second.split("+", 1)[0]


def compare(boot: BootLog, plan: Mapping[str, Any]) -> list[Difference]:
    """What the log says beside what was planned, for every quantity that both have."""
    memory = plan.get("memory") or {}
    intervals = plan.get("interval") or {}
    graphs = boot.cuda_graphs if boot.cuda_graphs_estimate is None else boot.cuda_graphs_estimate
    kv_cache = boot.kv_cache if boot.kv_cache_ordered is None else boot.kv_cache_ordered
    pairs: tuple[tuple[str, Any, Any], ...] = (
        *((name, memory.get(name), getattr(boot, name)) for name in ("total", "requested", "weights")),
        *((name, memory.get(name), getattr(boot, name)) for name in ("activations", "non_torch")),
        ("cuda_graphs", memory.get("cuda_graphs"), graphs),
        ("kv_cache", memory.get("kv_cache"), kv_cache),
        ("kv_bytes_per_token", plan.get("kv_bytes_per_token"), boot.kv_bytes_per_token),
        ("kv_cache_tokens", plan.get("kv_cache_tokens"), boot.kv_cache_tokens),
        ("max_concurrency", plan.get("max_concurrency"), boot.max_concurrency),
    )
    return [
        Difference(name, planned, measured, _inside(intervals.get(name), measured))
        for name, planned, measured in pairs
        if planned and measured is not None
    ]


def _inside(interval: Any, value: float) -> bool | None:
    if not isinstance(interval, Mapping):
        return None
    return bool(interval["low"] <= value <= interval["high"])


def measured(boot: BootLog, requested: int | None = None) -> dict[str, int]:
    """What *boot* tells of an engine's overhead, in the shape of one entry of a calibration.

    :param requested: bytes that the engine may use, for logs that do not name them (vLLM's total x utilisation)
    """
    parts: dict[str, int] = {}
    for name in ("weights", "activations", "non_torch"):
        value = getattr(boot, name)
        if value is not None and value >= 0:
            parts[name] = value
    graphs = boot.cuda_graphs if boot.cuda_graphs_estimate is None else boot.cuda_graphs_estimate
    if graphs is not None:
        parts["cuda_graphs"] = graphs
    may_use = boot.requested if boot.requested is not None else requested
    # With a cache of ordered size nothing was profiled, so nothing is known of what it left.
    if boot.device != "cpu" and may_use and boot.kv_cache is not None and may_use > boot.kv_cache:
        parts["non_kv"] = may_use - boot.kv_cache
    return parts


def key(model: str, engine: str, engine_version: str, gpu: str, settings: Mapping[str, Any]) -> CalibrationKey:
    """The key of a deployment whose plan has *settings*. Raises CalibrationError where they do not say enough."""
    missing = [name for name in ("max_num_seqs", "max_num_batched_tokens") if not settings.get(name)]
    if missing:
        raise CalibrationError(
            f"the plan of {model} does not say {' and '.join(missing)}, so nothing can be kept of it"
        )
    return CalibrationKey(
        model=model,
        engine=engine,
        engine_version=engine_version,
        gpu=gpu,
        tensor_parallel_size=int(settings.get("tensor_parallel_size") or 1),
        pipeline_parallel_size=int(settings.get("pipeline_parallel_size") or 1),
        max_num_seqs=int(settings["max_num_seqs"]),
        max_num_batched_tokens=int(settings["max_num_batched_tokens"]),
        enforce_eager=bool(settings.get("enforce_eager")),
    )


def calibrate(boot: BootLog, plan: Mapping[str, Any] | None, name: str = "") -> dict[str, Any]:
    """Everything that *boot* tells: `differences` from *plan*, `mismatches`, and what was `measured`.

    *name* is the deployment's key. Without a plan there is nothing to compare with. What does not run as it was planned
    teaches nothing.
    """
    found: dict[str, Any] = {"differences": [], "mismatches": [], "measured": {}}
    if plan is None:
        return {**found, "measured": measured(boot)}
    found["mismatches"] = mismatches(boot, plan, version_of(name))
    found["differences"] = [one.as_dict() for one in compare(boot, plan)]
    if not found["mismatches"] and not boot.failure:
        found["measured"] = measured(boot, (plan.get("memory") or {}).get("requested"))
    return found


def version_of(name: str) -> str:
    """The engine's version in a key of a calibration; '' if it is none."""
    parts = name.split("|")
    return parts[2] if len(parts) > 2 else ""


def report(name: str, boot: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What was learnt about the deployment *name*, as lines for a terminal."""
    lines = [f"{name}:" + (f" did not start: {boot['failure']}" if boot.get("failure") else "")]
    lines += [f"  not compared: {reason}" for reason in found.get("mismatches") or []]
    for one in found.get("differences") or []:
        share = "" if one["share"] is None else f" ({one['share']:+.1%})"
        outside = ", outside of what the plan expects" if one["expected"] is False else ""
        lines.append(
            f"  {one['name']}: planned {_said(one, 'planned')}, measured {_said(one, 'measured')}{share}{outside}"
        )
    if not found.get("measured"):
        lines.append("  nothing to keep")
    return lines


def _said(one: Mapping[str, Any], which: str) -> str:
    value = float(one[which])
    if one["name"] in ("kv_cache_tokens", "max_concurrency", "kv_bytes_per_token"):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{value / (1 << 30):.2f} GiB"


def merge(kept: Calibration, found: Iterable[tuple[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """*kept* with what was *found* now: (key, parts) of each engine that was asked.

    What is found replaces what was kept under the same key. Of several engines with one key the largest value of each
    part counts: the plan is to hold on all of them.
    """
    fresh: dict[str, dict[str, int]] = {}
    for name, parts in found:
        if not parts:
            continue
        entry = fresh.setdefault(name, {})
        for part, value in parts.items():
            entry[part] = max(int(value), entry.get(part, 0))
    return {**{name: dict(parts) for name, parts in kept.items()}, **fresh}


def parse(text: str, subject: str = "calibration") -> dict[str, dict[str, int]]:
    """A calibration out of the text of its file; an empty text holds nothing. Raises CalibrationError."""
    if not text.strip():
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(
            f"{subject} is not JSON: {error}. Restore it from version control, or remove it and calibrate again"
        ) from error
    return checked(data, subject)


def checked(data: object, subject: str = "calibration") -> dict[str, dict[str, int]]:
    """*data* as a calibration. Raises CalibrationError with the first thing that is wrong with it."""
    if not isinstance(data, Mapping):
        raise CalibrationError(f"{subject} must be a mapping from keys to measured parts")
    found: dict[str, dict[str, int]] = {}
    for name, parts in data.items():
        if not isinstance(parts, Mapping):
            raise CalibrationError(f"{subject}: {name} must be a mapping with any of {', '.join(MEASURED_PARTS)}")
        for part, value in parts.items():
            if part not in MEASURED_PARTS:
                raise CalibrationError(f"{subject}: {name}: {part} is none of {', '.join(MEASURED_PARTS)}")
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise CalibrationError(f"{subject}: {name}: {part} must be a number of bytes, not {value!r}")
        found[str(name)] = {str(part): int(value) for part, value in parts.items()}
    return found


def dump(calibration: Calibration) -> str:
    """The text of a calibration's file: the same for the same content."""
    return json.dumps({name: dict(parts) for name, parts in calibration.items()}, indent=1, sort_keys=True) + "\n"
