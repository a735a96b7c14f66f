# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What fits where: every model against the GPUs of every host, and every deployment on its own hosts.

`build` makes one plain mapping, `FleetPlan`. It is written as JSON, `serving_fleet_page` makes a page of it and `table`
a text for the terminal, so the three cannot disagree. Hosts with the same GPUs are one column. Memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, cast

from ansible_collections.baremetal.llm.plugins.module_utils.finding import size
from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report import natural, plural, purify
from ansible_collections.baremetal.llm.plugins.module_utils.serving_gate import GateHost, GateResult, Planner, describe
from ansible_collections.baremetal.llm.plugins.module_utils.serving_site import PlannedModel
from ansible_collections.baremetal.llm.plugins.module_utils.serving_tiers import Tier
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import Gpu, ServingPlan, Wishes

FORMAT_VERSION = 1


class Kind(TypedDict):
    """Hosts with the same GPUs and the same version of the engine. `source`: facts (read) or declared."""

    id: str
    gpus: str
    count: int
    memory_bytes: int
    engine_version: str
    sources: list[str]
    hosts: list[str]


class Cell(TypedDict):
    """One model on one kind of host. `state`: ok, error (it does not fit), or '' (it cannot be planned)."""

    state: str
    # A few words; `detail` is the whole sentence, `ways` what would help.
    text: str
    detail: str
    ways: list[str]
    # Of one replica; 0 where it does not fit.
    gpus: int
    replicas: int
    max_model_len: int
    max_concurrency: float
    kv_cache_tokens: int
    memory: dict[str, int]
    settings: dict[str, Any]


class Row(TypedDict):
    """One model. `group`: model (of the site) or tier (a size that many models have)."""

    name: str
    group: str
    about: str
    problem: str
    cells: list[Cell]


class DeploymentRow(TypedDict):
    """One deployment on hosts that have the same plan of it."""

    name: str
    model: str
    hosts: list[str]
    cell: Cell
    explanation: list[str]


class Absent(TypedDict):
    problem: str
    hosts: list[str]


class FleetPlan(TypedDict):
    format_version: int
    title: str
    # UTC, RFC 3339.
    generated_at: str
    generated_by: str
    headline: str
    # What every request is planned with; '' for the longest context that fits.
    request: str
    kinds: list[Kind]
    rows: list[Row]
    deployments: list[DeploymentRow]
    # What the plan gate would say.
    findings: list[dict[str, Any]]
    # Hosts that are in no column, and why.
    absent: list[Absent]


@dataclass(frozen=True)
class Question:
    """What is planned: models of the site, tiers, and what a request is to be; `None` leaves it to the plan."""

    models: Mapping[str, PlannedModel]
    tiers: Sequence[Tier] = ()
    context_length: int | None = None
    concurrency: int | None = None
    title: str = "What fits where"


def build(
    hosts: Mapping[str, GateHost],
    question: Question,
    gate: GateResult,
    planner: Planner,
    generated_at: str,
    generated_by: str,
    models_of: Mapping[str, str] | None = None,
) -> FleetPlan:
    """The report.

    :param hosts: all hosts of the play
    :param gate: what the plan gate says of the site's deployments on them
    :param models_of: the model of each deployment, by its name
    """
    kinds, members, absent = _kinds(hosts)
    wanted = Wishes(max_model_len=question.context_length, concurrency=question.concurrency)

    def cells(model: PlannedModel) -> list[Cell]:
        return [
            _cell(_smallest(planner, model, gpus, wanted, kind["engine_version"]).as_dict(), len(gpus))
            for kind, gpus in zip(kinds, members)
        ]

    rows: list[Row] = [
        {
            "name": name,
            "group": "model",
            "about": " ".join(filter(None, (model.name, size(model.weights_bytes) if model.weights_bytes else ""))),
            "problem": model.problem,
            "cells": [] if model.problem else cells(model),
        }
        for name, model in question.models.items()
    ]
    rows += [
        {
            "name": tier.name,
            "group": "tier",
            "about": f"as {tier.modelled_on}",
            "problem": "",
            "cells": cells(PlannedModel(tier.name, tier.config, None)),
        }
        for tier in question.tiers
    ]
    report: FleetPlan = {
        "format_version": FORMAT_VERSION,
        "title": question.title,
        "generated_at": generated_at,
        "generated_by": generated_by,
        "headline": _headline(hosts, kinds, rows, gate),
        "request": _request(question),
        "kinds": kinds,
        "rows": rows,
        "deployments": _deployments(hosts, gate, models_of or {}),
        "findings": [finding.as_dict() for finding in gate.findings],
        "absent": absent,
    }
    # Names of hosts, GPUs and models are somebody else's: none of them may hide or turn what is read.
    return cast(FleetPlan, purify(report, ()))


def _smallest(planner: Planner, model: PlannedModel, gpus: Sequence[Gpu], wanted: Wishes, version: str) -> ServingPlan:
    """The plan with the fewest GPUs for what is wanted, so that a reader sees what a replica costs.

    Without a context the plan itself chooses: the fewest GPUs that hold the longest one.
    """
    count = 1
    while wanted.max_model_len is not None and count <= len(gpus):
        tried = planner.plan(
            model, gpus, replace(wanted, tensor_parallel_size=count, pipeline_parallel_size=1), version
        )
        if tried.fits:
            return tried
        count *= 2
    return planner.plan(model, gpus, wanted, version)


def _kinds(hosts: Mapping[str, GateHost]) -> tuple[list[Kind], list[tuple[Gpu, ...]], list[Absent]]:
    groups: dict[tuple[tuple[Gpu, ...], str], list[str]] = {}
    absent: dict[str, list[str]] = {}
    for name in sorted(hosts, key=natural):
        host = hosts[name]
        if host.hardware.gpus:
            groups.setdefault((host.hardware.gpus, host.engine_version), []).append(name)
        elif host.accelerator == "none":
            absent.setdefault("llm_accelerator is none: no GPU memory to plan", []).append(name)
        else:
            absent.setdefault(
                host.hardware.problem or "no GPU was read, and llm_planned_gpus declares none", []
            ).append(name)
    kinds: list[Kind] = []
    members: list[tuple[Gpu, ...]] = []
    # The largest hosts last, as a reader looks for the smallest that will do.
    for (gpus, version), names in sorted(groups.items(), key=lambda item: (_memory(item[0][0]), item[1])):
        members.append(gpus)
        kinds.append(
            {
                "id": _letters(len(kinds)),
                "gpus": describe(gpus),
                "count": len(gpus),
                "memory_bytes": _memory(gpus),
                "engine_version": version,
                "sources": sorted({hosts[name].hardware.source for name in names}),
                "hosts": names,
            }
        )
    return kinds, members, [{"problem": problem, "hosts": names} for problem, names in absent.items()]


def _memory(gpus: Sequence[Gpu]) -> int:
    return sum(gpu.memory_bytes for gpu in gpus)


def _letters(index: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    text = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def _cell(plan: Mapping[str, Any], count: int) -> Cell:
    """*plan* as a mapping, on a host with *count* GPUs."""
    settings = dict(plan["settings"])
    fits = bool(plan["fits"])
    used = int(settings.get("tensor_parallel_size") or 1) * int(settings.get("pipeline_parallel_size") or 1)
    length = int(settings.get("max_model_len") or 0)
    # A model that keeps nothing of a request holds any number of them.
    concurrency = round(float(plan["max_concurrency"]), 2) if plan["max_concurrency"] < 1e9 else 0.0
    changes = [
        change
        for refusal in plan["refusals"]
        for change in (refusal["change"], *refusal["alternatives"])
        if change is not None
    ]
    if fits:
        text = f"{plural(used, 'GPU')}, {tokens(length)} × {concurrency:g}"
        detail = (
            f"{plural(used, 'GPU')} for each replica, {plural(count // used, 'replica')} on a host; "
            f"{concurrency:g} requests of {length} tokens at once"
        )
    else:
        text = _short(changes)
        detail = " ".join(_sentence(str(refusal["message"])) for refusal in plan["refusals"])
    return {
        "state": "ok" if fits else "error",
        "text": text,
        "detail": detail,
        "ways": [str(change["text"]) for change in changes],
        "gpus": used if fits else 0,
        "replicas": count // used if fits else 0,
        "max_model_len": length if fits else 0,
        "max_concurrency": concurrency if fits else 0.0,
        "kv_cache_tokens": int(plan["kv_cache_tokens"]) if fits else 0,
        "memory": dict(plan["memory"]),
        "settings": settings,
    }


def _short(changes: Sequence[Mapping[str, Any]]) -> str:
    """What would help, in three words: more GPUs, or a shorter context."""
    for change in changes:
        # More GPUs alone: with a quantized model besides it would be another row.
        if "gpus" in change["settings"] and "weights_bytes" not in change["settings"]:
            return f"no: {plural(int(change['settings']['gpus']), 'GPU')}"
    for change in changes:
        if set(change["settings"]) == {"max_model_len"}:
            return f"no: {tokens(int(change['settings']['max_model_len']))}"
    return "no"


def tokens(count: int) -> str:
    """A number of tokens as people say it: 131072 is 128K."""
    return f"{count // 1024}K" if count and count % 1024 == 0 else f"{count:,}"


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def _request(question: Question) -> str:
    parts = []
    if question.concurrency:
        parts.append(plural(question.concurrency, "request"))
    if question.context_length:
        parts.append(f"{question.context_length} tokens")
    return " of ".join(parts)


def _deployments(hosts: Mapping[str, GateHost], gate: GateResult, models_of: Mapping[str, str]) -> list[DeploymentRow]:
    merged: dict[str, DeploymentRow] = {}
    for host in sorted(gate.plans, key=natural):
        for name, plan in gate.plans[host].items():
            cell = _cell(plan, len(hosts[host].hardware.gpus))
            key = f"{name} {cell}"
            row = merged.setdefault(
                key,
                {
                    "name": name,
                    "model": models_of.get(name, ""),
                    "hosts": [],
                    "cell": cell,
                    "explanation": [str(line) for line in plan.get("explanation") or ()],
                },
            )
            row["hosts"].append(host)
    return list(merged.values())


def _headline(hosts: Mapping[str, GateHost], kinds: Sequence[Kind], rows: Sequence[Row], gate: GateResult) -> str:
    if not kinds:
        return "There is no host whose GPUs are known."
    models = [row for row in rows if row["group"] == "model" and not row["problem"]]
    nowhere = [row["name"] for row in models if not any(cell["state"] == "ok" for cell in row["cells"])]
    planned = sum(len(kind["hosts"]) for kind in kinds)
    parts = [f"{plural(len(models), 'model')} against {planned} of {plural(len(hosts), 'host')}"]
    if models:
        parts.append(f"{', '.join(nowhere)} fits nowhere" if nowhere else "each fits somewhere")
    stopping = [finding for finding in gate.findings if finding.severity == "error"]
    if stopping:
        parts.append(f"{plural(len(stopping), 'reason')} why deployments cannot be served where they are placed")
    return "; ".join(parts) + "."


def comparable(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says, without when: the measure of `changed`."""
    return {key: value for key, value in report.items() if key != "generated_at"}


def table(report: FleetPlan) -> str:
    """The report for a terminal: the kinds of hosts, and a line for each model."""
    lines = [report["headline"], ""]
    for kind in report["kinds"]:
        shown = ", ".join(kind["hosts"][:4]) + (f" and {len(kind['hosts']) - 4} more" if len(kind["hosts"]) > 4 else "")
        declared = " (declared)" if kind["sources"] == ["declared"] else ""
        lines.append(f"  {kind['id']}: {kind['gpus']}, vLLM {kind['engine_version']}{declared}: {shown}")
    for group in report["absent"]:
        lines.append(f"  -: {', '.join(group['hosts'][:6])}: {group['problem']}")
    if not report["kinds"]:
        return "\n".join(lines)
    lines += ["", *_lines([["", *(kind["id"] for kind in report["kinds"])], *map(_texts, report["rows"])])]
    about = report["request"] or "the longest context that fits"
    lines += ["", f"A cell: GPUs of one replica, tokens of a request × such requests at once. Planned for {about}."]
    for row in report["deployments"]:
        verdict = row["cell"]["text"] if row["cell"]["state"] == "ok" else f"does not fit: {row['cell']['detail']}"
        lines.append(f"  deployment {row['name']} ({row['model']}) on {', '.join(row['hosts'][:4])}: {verdict}")
        lines += [f"    -> {way}" for way in row["cell"]["ways"][:1]]
    return "\n".join(lines)


def _texts(row: Row) -> list[str]:
    return [row["name"], row["problem"]] if row["problem"] else [row["name"], *(cell["text"] for cell in row["cells"])]


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """*rows* in columns; a row with fewer cells (a problem) does not widen them."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[index]) for row in whole) for index in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
