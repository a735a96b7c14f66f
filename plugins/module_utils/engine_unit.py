# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Bring a systemd unit to a state, knowing which configuration it was started with."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

# Where the revisions are remembered that units were started with.
RECORDS = Path("/var/lib/baremetal-llm/units")
PROPERTIES = "LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,Result"
RUNNING = ("active", "reloading")


class Runner(Protocol):
    """Runs a command and returns its exit status, output and error output."""

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        """Run it."""


class Wanted(NamedTuple):
    """What a unit should be like."""

    unit: str
    state: str
    enabled: bool | None
    revision: str
    restart: bool
    journal_lines: int


class Outcome(NamedTuple):
    """What was done, or would be done, to a unit, and what is left to do."""

    actions: list[str]
    restart_required: bool
    before: dict[str, str]
    after: dict[str, str]


class UnitError(Exception):
    """A unit that is not there, or that did not reach its state; the text says why, with its journal."""


def properties(runner: Runner, unit: str) -> dict[str, str]:
    """Return what systemd says about a unit."""
    code, output, errors = runner(["systemctl", "show", unit, "--no-pager", f"--property={PROPERTIES}"])
    if code != 0:
        raise UnitError(f"systemd does not answer about {unit}: {errors.strip() or output.strip()}")
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def causes(text: str, most: int = 5) -> list[str]:
    """Return the distinct lines that name an error, since the first one may be far above the last lines."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.search(r"\b([A-Za-z_.]*(?:Error|Exception)\b\S*:? .*|.*cannot open shared object.*)", line)
        if match:
            found.setdefault(match.group(1).strip(), line.strip())
    return list(found.values())[:most]


def journal(runner: Runner, unit: str, lines: int) -> str:
    """Return what a unit wrote last, the lines that name an error before the very last ones."""
    # Engines end with tracebacks of hundreds of lines, of which the last ones only say that something above went wrong.
    code, output, errors = runner(
        ["journalctl", "--unit", unit, "--lines", str(lines * 10), "--no-pager", "--quiet", "--output", "short-iso"]
    )
    text = output.strip()
    if code != 0 or not text:
        return f"(no journal: {errors.strip() or 'it is empty'})"
    last = text.splitlines()[-lines:]
    named = [line for line in causes(text) if line not in last]
    above = ["Errors that it names:", *named, ""] if named else []
    return "\n".join([*above, f"Last {len(last)} lines of its journal:", *last])


def record_path(unit: str, records: Path = RECORDS) -> Path:
    """Return the file that remembers a unit's revision."""
    return records / re.sub(r"[^A-Za-z0-9@._-]", "_", unit)


def recorded(unit: str, records: Path = RECORDS) -> str:
    """Return the revision that a unit was last started with, empty when unknown."""
    try:
        return record_path(unit, records).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def record(unit: str, revision: str, records: Path = RECORDS) -> None:
    """Remember the revision that a unit was started with."""
    records.mkdir(parents=True, exist_ok=True, mode=0o755)
    path = record_path(unit, records)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(revision + "\n", encoding="ascii")
    temporary.replace(path)


def act(runner: Runner, wanted: Wanted, verb: str) -> None:
    """Start, restart or stop a unit and wait for it; the error of a failure carries the unit's journal."""
    code, output, errors = runner(["systemctl", verb, wanted.unit])
    if code == 0:
        return
    raise UnitError(
        f"`systemctl {verb} {wanted.unit}` failed: {errors.strip() or output.strip()}\n"
        f"{journal(runner, wanted.unit, wanted.journal_lines)}"
    )


def plan(wanted: Wanted, now: dict[str, str], known: str) -> tuple[list[str], bool]:
    """Return the systemctl verbs that lead from what is to what is wanted, and whether a restart is left to do."""
    verbs: list[str] = []
    loaded = now.get("LoadState") == "loaded"
    active = now.get("ActiveState")
    enabled = now.get("UnitFileState") in ("enabled", "enabled-runtime")
    if wanted.state == "stopped":
        if active not in ("inactive", "failed", None):
            verbs.append("stop")
        if active == "failed":
            verbs.append("reset-failed")
        if wanted.enabled is False and enabled:
            verbs.append("disable")
        return verbs, False
    if not loaded or now.get("NeedDaemonReload") == "yes":
        verbs.append("daemon-reload")
    if wanted.enabled is True and not enabled:
        verbs.append("enable")
    if wanted.enabled is False and enabled:
        verbs.append("disable")
    outdated = bool(wanted.revision) and wanted.revision != known
    if active in RUNNING:
        if outdated and wanted.restart:
            verbs.append("restart")
        return verbs, outdated and not wanted.restart
    if active == "failed":
        # Otherwise a unit that ran into its start limit would be refused although its cause may be gone.
        verbs.append("reset-failed")
    # A start of a unit that is starting joins it, with the configuration that it has read already.
    verbs.append("restart" if active == "activating" and outdated else "start")
    return verbs, False


def ensure(runner: Runner, wanted: Wanted, check: bool, records: Path = RECORDS) -> Outcome:
    """Bring a unit to the wanted state; with `check` only say how."""
    before = properties(runner, wanted.unit)
    verbs, restart_required = plan(wanted, before, recorded(wanted.unit, records))
    for verb in verbs:
        if check:
            continue
        if verb == "daemon-reload":
            code, dummy, errors = runner(["systemctl", "daemon-reload"])
            if code != 0:
                raise UnitError(f"`systemctl daemon-reload` failed: {errors.strip()}")
            if properties(runner, wanted.unit).get("LoadState") != "loaded":
                raise UnitError(f"{wanted.unit}: there is no such unit; its file must be there before")
        else:
            act(runner, wanted, verb)
    if not check and wanted.state == "started" and {"start", "restart"} & set(verbs) and wanted.revision:
        record(wanted.unit, wanted.revision, records)
    if not check and wanted.state == "stopped":
        record_path(wanted.unit, records).unlink(missing_ok=True)
    if check or not verbs:
        after = {**before, "ActiveState": "active"} if {"start", "restart"} & set(verbs) else dict(before)
        if "stop" in verbs:
            after["ActiveState"] = "inactive"
    else:
        after = properties(runner, wanted.unit)
    return Outcome(verbs, restart_required, before, after)
