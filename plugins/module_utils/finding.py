# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings: what stands in the way of a site, and how a person is told.

Each has a stable code (docs/findings.md), the variable as the operator wrote it, the hosts it is about, what was found
and what was expected, and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.site import unique

ERROR = "error"
WARNING = "warning"
# Known to the site, which takes it: counted, and no longer listed.
ACCEPTED = "accepted"

GIB = 1024**3
MIB = 1024**2

SHOWN_HOSTS = 6
WHOLE_SITE = "the whole site"

_KINDS = {dict: "a mapping", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a boolean"}


@dataclass(frozen=True)
class Finding:
    """One blocker, or, by its severity, something that a site can live with."""

    code: str
    variable: str
    message: str
    action: str
    hosts: tuple[str, ...] = ()
    severity: str = ERROR

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hosts": list(self.hosts)}


class Findings:
    """Collects findings. What checks something derives from it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, code: str, variable: str, message: str, action: str, hosts: Sequence[str] = ()) -> None:
        self.findings.append(Finding(code, variable, message, action, tuple(hosts)))

    def warn(self, code: str, variable: str, message: str, action: str, hosts: Sequence[str] = ()) -> None:
        self.findings.append(Finding(code, variable, message, action, tuple(hosts), WARNING))


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def kind(value: Any) -> str:
    """What *value* is, in the words of a person. Never the value itself."""
    if value is None:
        return "empty"
    for python_type in (bool, int, float, str):
        if isinstance(value, python_type):
            return _KINDS[python_type]
    if isinstance(value, Mapping):
        return _KINDS[dict]
    return _KINDS[list] if isinstance(value, Sequence) else "of another type"


def suggestion(word: str, choices: Iterable[str]) -> str:
    """` Did you mean …?`, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def size(count: int) -> str:
    """A number of bytes as people say it, and exactly."""
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count} bytes"


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """The same finding on several hosts is one finding with several hosts."""
    merged: dict[Finding, list[str]] = {}
    for finding in findings:
        merged.setdefault(replace(finding, hosts=()), []).extend(finding.hosts)
    return [replace(finding, hosts=tuple(unique(hosts))) for finding, hosts in merged.items()]


def describe_hosts(hosts: Sequence[str]) -> str:
    """`a, b, c`, or the first of them and how many more."""
    if not hosts:
        return WHOLE_SITE
    shown = ", ".join(hosts[:SHOWN_HOSTS])
    return shown if len(hosts) <= SHOWN_HOSTS else f"{shown} and {len(hosts) - SHOWN_HOSTS} more"


def blockers(findings: Iterable[Finding]) -> list[Finding]:
    """Those that stop a run."""
    return [finding for finding in findings if finding.severity == ERROR]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def summary(findings: Sequence[Finding]) -> str:
    """The findings in one sentence."""
    stopping = len(blockers(findings))
    warnings = sum(finding.severity == WARNING for finding in findings)
    counts = [_count(stopping, "blocker")] if stopping or not warnings else ["no blocker"]
    if warnings:
        counts.append(_count(warnings, "warning"))
    return f"Preflight found {' and '.join(counts)}, listed by host. Nothing was changed on any host."


def sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def report(findings: Sequence[Finding]) -> str:
    """The findings as a text to read in a terminal, grouped by host, blockers before warnings."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        if finding.severity != ACCEPTED:
            groups.setdefault(finding.hosts, []).append(finding)
    lines = []
    # What concerns the whole site first, then hosts with blockers, then in the order of their first finding.
    for hosts in sorted(groups, key=lambda hosts: (bool(hosts), not blockers(groups[hosts]))):
        lines.append(f"== {describe_hosts(hosts)} ==")
        for finding in sorted(groups[hosts], key=lambda finding: finding.severity != ERROR):
            mark = "*" if finding.severity == ERROR else "- warning:"
            lines.append(f"  {mark} {finding.variable} {sentence(finding.message)} [{finding.code}]")
            lines.append(f"    -> {sentence(finding.action)}")
        lines.append("")
    accepted = [f"{finding.code} ({describe_hosts(finding.hosts)})" for finding in _by_code(findings)]
    if accepted:
        lines += [f"Accepted by preflight_accept, and so not listed: {'; '.join(accepted)}.", ""]
    lines.append("Each code is explained in docs/findings.md of the collection.")
    return "\n".join(lines)


def _by_code(findings: Iterable[Finding]) -> list[Finding]:
    """What was accepted, one for each code."""
    return merge(
        replace(finding, variable="", message="", action="") for finding in findings if finding.severity == ACCEPTED
    )
