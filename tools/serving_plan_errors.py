#!/usr/bin/env python3
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans against published boot logs of vLLM: the table in docs/guides/serving_plan.md.

Each log in tests/unit/fixtures/vllm_boot_logs.json is planned from its model, GPU, version and flags. Weights are
those that the log names, if it names them: the error is that of everything else. With --own-weights they are estimated
from config.json as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".cache" / "collections"))

from ansible_collections.baremetal.llm.plugins.module_utils.serving_defaults import (  # noqa: E402
    LAST_KNOWN,
    V1_ENGINE,
    parse_engine_version,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_overheads import (  # noqa: E402
    Workload,
    forward_bytes,
    sampler_bytes,
    sampler_copies,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_plan import plan  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (  # noqa: E402
    GIB,
    Gpu,
    ServingPlan,
    Wishes,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import (  # noqa: E402
    Engine,
    Model,
    read_model,
)

FIXTURES = ROOT / "tests" / "unit" / "fixtures"
LOGS = FIXTURES / "vllm_boot_logs.json"
# The goal for the KV cache from end to end: within one of them.
GOAL_SHARE, GOAL_GIB = 0.05, 0.75


def read_logs() -> list[dict[str, Any]]:
    logs: list[dict[str, Any]] = json.loads(LOGS.read_text(encoding="utf-8"))
    return logs


def config_of(log: dict[str, Any]) -> dict[str, Any]:
    config = log["config"]
    if isinstance(config, str):
        config = json.loads((FIXTURES / "serving" / f"{config}.json").read_text(encoding="utf-8"))
    return dict(config)


def gpus_of(log: dict[str, Any]) -> list[Gpu]:
    wishes = log["wishes"]
    count = wishes.get("tensor_parallel_size", 1) * wishes.get("pipeline_parallel_size", 1)
    return [Gpu(log["gpu"], round(log["gpu_total_gib"] * GIB), log["compute_capability"])] * count


def model_of(log: dict[str, Any], own_weights: bool = False) -> Model:
    """With the log's weights: those of one GPU, put together so that dividing them again gives them back."""
    config, measured = config_of(log), log["measured"].get("weights_gib")
    if own_weights or measured is None:
        return read_model(config, log["model"])
    wishes = log["wishes"]
    tensor, pipeline = wishes.get("tensor_parallel_size", 1), wishes.get("pipeline_parallel_size", 1)
    gpu = gpus_of(log)[0]
    engine = Engine(parse_engine_version(log["vllm_version"]) or LAST_KNOWN, log["vllm_version"], gpu)
    one, two = (
        read_model(config, log["model"], size).weights(engine, tensor, pipeline).bytes for size in (1 << 40, 2 << 40)
    )
    # A line: what does not depend on the size is what loading takes besides.
    slope = (two - one) / (1 << 40)
    return read_model(config, log["model"], round((float(measured) * GIB - (2 * one - two)) / slope))


@dataclass(frozen=True)
class Comparison:
    """One log beside its plan. Memory in GiB of one GPU."""

    log: dict[str, Any]
    plan: ServingPlan

    @property
    def kv_cache(self) -> float | None:
        value = self.log["measured"].get("kv_cache_gib")
        return None if value is None else float(value)

    @property
    def error(self) -> float | None:
        return None if self.kv_cache is None else self.plan.memory.kv_cache / GIB - max(0.0, self.kv_cache)

    @property
    def share(self) -> float | None:
        if self.error is None or self.kv_cache is None or self.kv_cache <= 0:
            return None
        return self.error / self.kv_cache

    @property
    def within_goal(self) -> bool | None:
        if self.error is None:
            return None
        return abs(self.error) <= GOAL_GIB or (self.share is not None and abs(self.share) <= GOAL_SHARE)

    @property
    def in_interval(self) -> bool | None:
        if self.kv_cache is None or "kv_cache" not in self.plan.interval:
            return None
        interval = self.plan.interval["kv_cache"]
        return interval.low / GIB - 0.01 <= max(0.0, self.kv_cache) <= interval.high / GIB + 0.01


def compare(own_weights: bool = False) -> Iterator[Comparison]:
    for log in read_logs():
        model = model_of(log, own_weights)
        yield Comparison(log, plan(model, gpus_of(log), Wishes(**log["wishes"]), log["vllm_version"]))


def cell(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def table(comparisons: list[Comparison]) -> Iterator[str]:
    yield "| Model | vLLM | GPU | TP x PP | activations: log, plan | non-torch: log, plan | KV: log | plan | error | fits |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for one in comparisons:
        log, memory, measured = one.log, one.plan.memory, one.log["measured"]
        wishes = log["wishes"]
        size = f"{wishes.get('tensor_parallel_size', 1)} x {wishes.get('pipeline_parallel_size', 1)}"
        error = "" if one.error is None else f"{one.error:+.2f}" + ("" if one.share is None else f" ({one.share:+.1%})")
        started = "started" if log["started"] else "failed"
        yield (
            f"| {log['model'].rpartition('/')[2]} | {log['vllm_version']} | {log['gpu'].replace('NVIDIA ', '')} | "
            f"{size} | "
            f"{cell(measured.get('activations_gib'))}, {memory.activations / GIB:.2f} | "
            f"{cell(measured.get('non_torch_gib'))}, {memory.non_torch / GIB:.2f} | "
            f"{cell(one.kv_cache)} | {memory.kv_cache / GIB:.2f} | "
            f"{error}{'' if one.within_goal in (None, True) else ' **missed**'} | "
            f"{'yes' if one.plan.fits else 'no'}, {started} |"
        )


def summary(comparisons: list[Comparison]) -> Iterator[str]:
    errors = [abs(one.error) for one in comparisons if one.error is not None]
    shares = [abs(one.share) for one in comparisons if one.share is not None]
    goals = [one.within_goal for one in comparisons if one.within_goal is not None]
    inside = [one.in_interval for one in comparisons if one.in_interval is not None]
    wrong = sum(1 for one in comparisons if one.plan.fits and not one.log["started"])
    timid = sum(1 for one in comparisons if not one.plan.fits and one.log["started"])
    yield f"{len(comparisons)} logs; {len(errors)} name the memory of the KV cache."
    yield (
        f"Its error: mean {sum(errors) / len(errors):.2f} GiB ({sum(shares) / len(shares):.1%}), largest "
        f"{max(errors):.2f} GiB; {sum(goals)} of {len(goals)} within {GOAL_SHARE:.0%} or {GOAL_GIB} GiB, "
        f"{sum(inside)} of {len(inside)} in the plan's interval."
    )
    yield f"Said to fit and did not start: {wrong}. Said not to fit and started: {timid}."


def leave_one_out(comparisons: list[Comparison]) -> Iterator[str]:
    """The sampler's copies of the logits, found anew from all logs of the same versions but one, and that one's error.

    Only logs of text models whose activations are known and are the sampler's, not the forward pass's.
    """
    eras: dict[float, list[tuple[float, float, float]]] = {}
    for one in comparisons:
        measured = one.log["measured"].get("activations_gib")
        shape, chosen = model_of(one.log).shape, one.plan.settings
        version = parse_engine_version(one.log["vllm_version"]) or LAST_KNOWN
        if measured is None or shape.modalities or shape.is_moe or chosen["pipeline_parallel_size"] > 1:
            continue
        work = Workload(chosen["max_num_batched_tokens"], chosen["max_num_seqs"], chosen["tensor_parallel_size"])
        sampler = sampler_bytes(version, shape, work)
        logits = 4 * min(chosen["max_num_seqs"], chosen["max_num_batched_tokens"]) * shape.vocab_size
        copies = sampler_copies(version)
        if sampler > forward_bytes(shape, work) and (version >= V1_ENGINE or chosen["max_model_len"] <= 32768):
            eras.setdefault(copies, []).append((measured, logits / GIB, (sampler - copies * logits) / GIB))
    yield "| Copies of the logits, as planned | logs | found without one log | largest error of that one, GiB |"
    yield "|---|---|---|---|"
    for copies, logs in sorted(eras.items(), reverse=True):
        found, errors = [], []
        for index, (measured, logits, rest) in enumerate(logs):
            others = [log for place, log in enumerate(logs) if place != index]
            if not others:
                continue
            fitted = statistics.median((activations - more) / size for activations, size, more in others)
            found.append(fitted)
            errors.append(abs(fitted * logits + rest - measured))
        if found:
            yield f"| {copies} | {len(logs)} | {min(found):.2f} to {max(found):.2f} | {max(errors):.2f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own-weights", action="store_true", help="estimate the weights too")
    parser.add_argument("--leave-one-out", action="store_true", help="find the sampler's share without each log")
    arguments = parser.parse_args()
    comparisons = list(compare(arguments.own_weights))
    if arguments.leave_one_out:
        print("\n".join(leave_one_out(comparisons)))
    else:
        print("\n".join((*table(comparisons), "", *summary(comparisons))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
