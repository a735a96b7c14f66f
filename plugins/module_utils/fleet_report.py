# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fleet report says: verdict, differences between hosts, findings with actions, one row per host.

`build` puts facts, the comparison of `gpu_parity` and whatever else was verified into one plain mapping, `Report`. It
is written as JSON, and `fleet_report_page` makes the page of the very same mapping, so the two cannot disagree.

The report judges nothing about GPUs by itself: what is marked was found by `gpu_parity`. It only refuses to call a
fleet good of which a part did not answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, TypedDict, cast

from ansible_collections.baremetal.llm.plugins.module_utils import gpu_facts, report_files
from ansible_collections.baremetal.llm.plugins.module_utils.finding import sentence
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import HostFacts
from ansible_collections.baremetal.llm.plugins.module_utils.parity_facts import Host, upstream
from ansible_collections.baremetal.llm.plugins.module_utils.report_files import Outcome

FORMAT_VERSION = 1

# From worst to best. `absent` is a host that gave no facts: where there is one, the fleet fails. `unknown` is a host,
# or a fleet, that nobody compared: no reason to worry, none to be calm.
VERDICTS = ("fail", "absent", "warn", "unknown", "pass")
SEVERITIES = ("error", "warning", "note")
# What the row of an extra section says about the verdict.
STATE_VERDICTS = {"error": "fail", "warning": "warn"}
SHORTEST_SECRET = 6
LONGEST_TEXT = 2000

NO_GPU = "no GPU"
NONE = "none"
UNKNOWN = "not known"


class Cell(TypedDict):
    """One value. `state`: '' (plain), `quiet` (no value), `note`, `warning`, `error` (an outlier, and how bad)."""

    text: str
    state: str
    # Why it is marked.
    hint: str


class Baseline(TypedDict):
    """What hosts should have. `about` says what of and on which hosts, where the column has several baselines."""

    about: str
    value: str
    # pin, lock, majority, tie.
    by: str
    # How many of the compared hosts have it; 0 of 0 if nobody counted.
    having: int
    of: int


class Column(TypedDict):
    key: str
    title: str
    # What the hosts are measured by; none if there is no such thing.
    baselines: list[Baseline]


class HostFinding(TypedDict):
    code: str
    severity: str


class HostRow(TypedDict):
    host: str
    verdict: str
    # Why there are no facts; '' if there are. A row with a problem has no cells.
    problem: str
    findings: list[HostFinding]
    cells: list[Cell]


class Value(TypedDict):
    """A value and the hosts that have it. `state` is the worst mark that it has on `marked`, part of these hosts."""

    text: str
    state: str
    hosts: list[str]
    marked: list[str]


class Difference(TypedDict):
    """A column in which not all hosts are alike."""

    title: str
    baselines: list[Baseline]
    values: list[Value]


class Case(TypedDict):
    """The same finding, with the same values, on some hosts. `accepted`: the site says that it knows."""

    subject: str
    expected: str
    actual: str
    cause: str
    action: str
    accepted: bool
    # Empty: it is about the whole fleet.
    hosts: list[str]


class FindingGroup(TypedDict):
    """All findings of one code and severity. `cause` and `action` are those that all its cases share, or ''."""

    code: str
    severity: str
    cause: str
    action: str
    cases: list[Case]
    hosts: list[str]


class Unreadable(TypedDict):
    problem: str
    hosts: list[str]


class SectionColumn(TypedDict):
    title: str
    # Differs from run to run: no reason to call the report changed.
    measured: bool


class SectionRow(TypedDict):
    # '', ok, warning, error.
    state: str
    cells: list[str]


class Section(TypedDict):
    """What else was verified. `empty` is said in place of a table without rows."""

    title: str
    description: str
    empty: str
    columns: list[SectionColumn]
    rows: list[SectionRow]


class Report(TypedDict):
    format_version: int
    title: str
    # UTC, RFC 3339.
    generated_at: str
    generated_by: str
    verdict: str
    # One sentence, then the reasons for the verdict.
    headline: str
    reasons: list[str]
    # Number of hosts by verdict, of GPUs by name, of findings by severity.
    hosts_by_verdict: dict[str, int]
    gpus: list[Value]
    columns: list[Column]
    differences: list[Difference]
    alike: list[str]
    # Hosts that are not in `differences`, since they have no GPU to be compared by.
    without_gpu: list[str]
    findings: list[FindingGroup]
    hosts: list[HostRow]
    unreadable: list[Unreadable]
    sections: list[Section]


@dataclass(frozen=True)
class Answer:
    """What a host said to `gpu_info`, or why it did not."""

    facts: Mapping[str, Any] | None = None
    problem: str = ""


# --- Text ------------------------------------------------------------------------------------------------------------

# Control characters, and those that turn the direction of writing: a name that holds them could show something else
# than it is.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_SPACE = re.compile(r"\s+")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+\b")
_REMOVED = "(removed)"
# The last net below callers that hand over what they should not.
_SECRETS = (
    (re.compile(r"(://)[^/\s@]+@"), rf"\1{_REMOVED}@"),
    (re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]{16,}"), rf"\1 {_REMOVED}"),
    (re.compile(r"\b(?:sk|hf|ghp|glpat|nvapi)[-_][\w-]{12,}"), _REMOVED),
    (re.compile(r"(?i)\b(api[_-]?key|token|password|passwd|secret)=[^\s&]{6,}"), rf"\1={_REMOVED}"),
)


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key by which gpu-2 comes before gpu-10."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def clean(text: str, secrets: Sequence[str] = ()) -> str:
    """*text* on one line, without secrets and without characters that hide or turn others."""
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, _REMOVED)
    # Where an object lies in memory says nothing, and differs from run to run.
    text = _ADDRESS.sub("", text)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    text = _SPACE.sub(" ", _INVISIBLE.sub("\ufffd", text)).strip()
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def purify(value: Any, secrets: Sequence[str]) -> Any:
    """Every text of *value* through `clean`: nothing reaches a file without having passed here."""
    if isinstance(value, str):
        return clean(value, secrets)
    if isinstance(value, Mapping):
        return {clean(str(key), secrets): purify(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [purify(item, secrets) for item in value]
    return value


def say(value: Any) -> str:
    """A value of a finding or a section as people write it."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {say(value[key])}" for key in sorted(value, key=str)) or NONE
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [say(item) for item in value]
        return ", ".join(sorted(parts) if isinstance(value, (set, frozenset)) else parts) or NONE
    return str(value)


def counted(texts: Iterable[str]) -> str:
    """`a` if all are alike, `a ×7, b ×1` if not; the most frequent first."""
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    if len(counts) <= 1:
        return "".join(counts)
    return ", ".join(f"{text} ×{counts[text]}" for text in sorted(counts, key=lambda text: (-counts[text], text)))


def _sentence(text: str) -> str:
    return sentence(text[:1].upper() + text[1:]) if text else ""


def plural(count: int, noun: str, nouns: str = "") -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


# --- Columns ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FactColumn:
    """A column made of a host's facts."""

    key: str
    title: str
    text: Callable[[Host], str]
    # What `gpu_parity` calls it, and the codes of findings that say that the value is not what it should be.
    subjects: tuple[str, ...] = ()
    codes: str = ""
    # Left out if no host has a value.
    optional: bool = False


def _gpus(host: Host) -> str:
    parts = [f"{count} × {name}" for name, count in sorted(host.models.items(), key=lambda item: (-item[1], item[0]))]
    lost = host.facts["lost_gpus"]
    if lost:
        parts.append(f"{len(lost)} lost")
    silent = len(host.facts["pci_gpus"]) - len(host.gpus) - len(lost)
    if silent > 0:
        parts.append(f"{silent} on the bus only")
    return ", ".join(parts) or NO_GPU


def _driver(host: Host) -> str:
    error = host.nvml["error"]
    # No driver is no error of NVML where there is no GPU.
    if error and host.on_bus():
        return ", ".join(filter(None, (host.library_version, error)))
    return host.library_version or NONE


def _module(host: Host) -> str:
    loaded = host.loaded
    if not loaded["loaded"]:
        return f"none, but {' and '.join(loaded['rivals'])}" if loaded["rivals"] else NONE
    return f"{loaded['version'] or UNKNOWN} {loaded['flavour'] or ''}".strip()


def _fabric_manager(host: Host) -> str:
    package = host.fabric_package("fabric manager")
    services = [service for service in host.facts["services"] if service["name"].startswith("nvidia-fabricmanager")]
    running = [service["running_version"] for service in services if service["active_state"] == "active"]
    if not package and not running:
        return NONE
    installed = upstream(package["version"]) if package else "no package"
    if not running:
        return f"{installed}, not running"
    return installed if running[0] in (None, installed) else f"{installed}, running {running[0]}"


def _container_toolkit(host: Host) -> str:
    return counted(host.toolkit.values()) or NONE


def _kernel(host: Host) -> str:
    running = host.platform["kernel"]
    following = host.next_module
    return running if not following or following["kernel"] == running else f"{running}, next {following['kernel']}"


def _system(host: Host) -> str:
    platform = host.platform
    return f"{platform['distribution']} {platform['distribution_version']}".strip() or UNKNOWN


def _of_gpus(host: Host, texts: Iterable[str | None]) -> str:
    return counted(UNKNOWN if text is None else text for text in texts) if host.gpus else NONE


def _switch(value: bool | None, after: bool | None = None) -> str | None:
    if value is None:
        return None
    text = "on" if value else "off"
    return text if after is None or after == value else f"{text}, {'on' if after else 'off'} after a reset"


def _vbios(host: Host) -> str:
    return _of_gpus(host, (gpu["vbios_version"] for gpu in host.gpus))


def _ecc(host: Host) -> str:
    return _of_gpus(host, (_switch(gpu["ecc"]["enabled"], gpu["ecc"]["enabled_after_reboot"]) for gpu in host.gpus))


def _mig(host: Host) -> str:
    texts: list[str | None] = []
    for gpu in host.gpus:
        mig = gpu["mig"]
        text = _switch(mig["enabled"], mig["enabled_after_reset"])
        slices = counted(instance["profile"] or UNKNOWN for instance in mig["instances"])
        # One profile has no count of its own.
        if text and mig["enabled"] and slices:
            text += f" ({slices})" if "×" in slices else f" ({slices} ×{len(mig['instances'])})"
        texts.append(text)
    return _of_gpus(host, texts)


FACT_COLUMNS = (
    FactColumn(
        "gpus",
        "GPUs",
        _gpus,
        ("gpu_count", "gpu_names"),
        "gpu-(none|lost|not-offered|missing|unexpected|model-differs|memory-too-small)|gpus-too-few"
        "|compute-capability-too-low",
    ),
    FactColumn("driver", "Driver", _driver, ("driver_version",), "driver-.*|automatic-upgrade-of-driver|nvml-.*"),
    FactColumn(
        "module",
        "Loaded module",
        _module,
        ("module_flavour",),
        "module-.*|(open|proprietary)-module-required|other-driver-owns-gpu|reboot-pending|library-.*",
    ),
    FactColumn("cuda", "CUDA", lambda host: host.nvml["cuda_version"] or NONE, (), "cuda-(?!toolkit-).*"),
    FactColumn(
        "cuda_toolkit",
        "CUDA toolkit",
        lambda host: host.facts["cuda_toolkit_version"] or NONE,
        ("cuda_toolkit_version",),
        "cuda-toolkit-.*",
        optional=True,
    ),
    FactColumn(
        "fabric_manager",
        "Fabric manager",
        _fabric_manager,
        ("nvlsm_version",),
        "fabric-.*|nvlsm-.*|imex-.*",
        optional=True,
    ),
    FactColumn(
        "container_toolkit",
        "Container toolkit",
        _container_toolkit,
        ("container_toolkit_version",),
        "container-toolkit-.*|cdi-.*",
        optional=True,
    ),
    FactColumn("system", "System", _system, ("distribution",), "distribution-.*"),
    FactColumn("kernel", "Kernel", _kernel, ("kernel",), "kernel-.*|next-boot-.*|headers-.*|dkms-.*"),
    FactColumn("vbios", "VBIOS", _vbios, ("vbios_version",), "vbios-.*"),
    FactColumn("ecc", "ECC", _ecc, ("ecc_enabled",), "ecc-(off|differs|change-pending)"),
    FactColumn("mig", "MIG", _mig, ("mig_layout",), "mig-.*"),
)
_COLUMN_OF_SUBJECT = {subject: column.key for column in FACT_COLUMNS for subject in column.subjects}


def _column_of(code: str, subject: str) -> str:
    """Key of the column that a finding is marked in, or ''.

    A finding without a column is no fault: it stands beside the host's verdict anyway.
    """
    for column in FACT_COLUMNS:
        if re.fullmatch(column.codes, code):
            return column.key
    return _COLUMN_OF_SUBJECT.get(subject, "")


# What `gpu_parity` says before the kind of host where the site has made no groups.
_ALL_HOSTS = re.compile(r"^all(: |\Z)")


def _baseline_value(subject: str, value: Any) -> str:
    """As the cells of the column say it."""
    if isinstance(value, bool):
        return str(_switch(value))
    if subject == "gpu_count" and isinstance(value, int):
        return plural(value, "GPU")
    return f"nvlsm {say(value)}" if subject == "nvlsm_version" else say(value)


def _worst(verdicts: Iterable[str]) -> str:
    return min(verdicts, key=VERDICTS.index, default="pass")


class _Builder:
    """Puts a report together; every method makes one part of it."""

    def __init__(self, answers: Mapping[str, Answer], parity: Mapping[str, Any] | None) -> None:
        self.parity = parity or {}
        self.answers = dict(answers)
        for host in self.parity.get("hosts") or {}:
            self.answers.setdefault(host, Answer(problem="there are no facts of this host in the report"))
        self.names = sorted(self.answers, key=natural)
        # A severity that nobody here knows is not taken lightly.
        self.found = [
            finding if finding.get("severity") in SEVERITIES else {**finding, "severity": SEVERITIES[0]}
            for finding in self.parity.get("findings") or []
        ]
        self.by_host: dict[str, list[Mapping[str, Any]]] = {}
        for finding in self.found:
            self.by_host.setdefault(str(finding.get("host") or ""), []).append(finding)
        self.texts: dict[str, list[str]] = {}
        self.problems: dict[str, str] = {}
        self.without_gpu: list[str] = []
        for host in self.names:
            self._read(host, self.answers[host])

    def _read(self, host: str, answer: Answer) -> None:
        if answer.facts is None:
            self.problems[host] = answer.problem or "did not answer"
            return
        version = answer.facts.get("format_version")
        if version != gpu_facts.FORMAT_VERSION:
            self.problems[host] = f"its facts have format {say(version)}, expected {gpu_facts.FORMAT_VERSION}"
            return
        try:
            asked = Host(host, cast(HostFacts, answer.facts), {})
            self.texts[host] = [column.text(asked) for column in FACT_COLUMNS]
        except (AttributeError, KeyError, TypeError) as error:
            # Facts of another version of gpu_info, out of a cache for example.
            self.problems[host] = f"its facts are not complete: {type(error).__name__} {error}"
            return
        if self.texts[host][0] == NO_GPU:
            self.without_gpu.append(host)

    def baselines(self) -> dict[str, list[Baseline]]:
        """By column, what hosts are measured by and where that comes from."""
        found: dict[str, list[Baseline]] = {}
        for name, entry in (self.parity.get("baseline") or {}).items():
            # `subject`, or `subject (hosts it is about)`.
            subject, dummy, about = str(name).partition(" ")
            key = _column_of("", subject)
            if key and isinstance(entry, Mapping):
                found.setdefault(key, []).append(
                    {
                        "about": _ALL_HOSTS.sub("", about.strip("()")),
                        "value": _baseline_value(subject, entry.get("value")),
                        "by": str(entry.get("by") or ""),
                        "having": int(entry.get("having") or 0),
                        "of": int(entry.get("of") or 0),
                    }
                )
        return found

    def table(self, extra: Sequence[Mapping[str, Any]]) -> tuple[list[Column], list[HostRow]]:
        baselines = self.baselines()
        columns: list[Column] = []
        kept: list[int] = []
        for index, column in enumerate(FACT_COLUMNS):
            texts = [texts[index] for texts in self.texts.values()]
            if not column.optional or any(text not in (NONE, UNKNOWN) for text in texts):
                kept.append(index)
                columns.append({"key": column.key, "title": column.title, "baselines": baselines.get(column.key, [])})
        for written in extra:
            expected = written.get("expected")
            pins: list[Baseline] = []
            if expected not in (None, ""):
                pins.append({"about": "", "value": say(expected), "by": "pin", "having": 0, "of": 0})
            columns.append({"key": "", "title": say(written.get("title")), "baselines": pins})
        rows = [self._row(host, kept, extra) for host in self.names]
        rows.sort(key=lambda row: VERDICTS.index(row["verdict"]))
        return columns, rows

    def _row(self, host: str, kept: Sequence[int], extra: Sequence[Mapping[str, Any]]) -> HostRow:
        findings = sorted(
            {(str(finding.get("code")), str(finding.get("severity"))) for finding in self.by_host.get(host, [])},
            key=lambda pair: (SEVERITIES.index(pair[1]), pair[0]),
        )
        cells: list[Cell] = []
        if host in self.texts:
            marks = self._marks(host)
            for index in kept:
                text = self.texts[host][index]
                state, hint = marks.get(FACT_COLUMNS[index].key, ("quiet" if text in (NONE, UNKNOWN) else "", ""))
                cells.append({"text": text, "state": state, "hint": hint})
            cells += [_extra_cell(column, host) for column in extra]
        return {
            "host": host,
            "verdict": self._verdict(host, [cell["state"] for cell in cells]),
            "problem": self.problems.get(host, ""),
            "findings": [{"code": code, "severity": severity} for code, severity in findings],
            "cells": cells,
        }

    def _marks(self, host: str) -> dict[str, tuple[str, str]]:
        marks: dict[str, tuple[str, str]] = {}
        for finding in sorted(
            self.by_host.get(host, []), key=lambda found: SEVERITIES.index(str(found.get("severity")))
        ):
            key = _column_of(str(finding.get("code") or ""), str(finding.get("subject") or ""))
            severity = str(finding.get("severity"))
            if key and key not in marks:
                marks[key] = (severity, f"{finding.get('code')}, expected {say(finding.get('expected'))}")
        return marks

    def _verdict(self, host: str, states: Iterable[str]) -> str:
        if host in self.problems:
            return "absent"
        verdicts = [STATE_VERDICTS[state] for state in states if state in STATE_VERDICTS]
        judged = (self.parity.get("hosts") or {}).get(host)
        given = str(judged.get("verdict")) if isinstance(judged, Mapping) else "unknown"
        verdicts.append(given if given in VERDICTS else "unknown")
        return _worst(verdicts)

    def differences(self, columns: Sequence[Column], rows: Sequence[HostRow]) -> tuple[list[Difference], list[str]]:
        """Where the hosts are not alike, and the titles of the columns in which they are."""
        found: list[Difference] = []
        alike: list[str] = []
        answered = sorted(
            (row for row in rows if row["cells"] and row["host"] not in self.without_gpu),
            key=lambda row: natural(row["host"]),
        )
        for index, column in enumerate(columns):
            values: dict[str, Value] = {}
            for row in answered:
                text, state = row["cells"][index]["text"], row["cells"][index]["state"]
                value = values.setdefault(text, {"text": text, "state": "", "hosts": [], "marked": []})
                value["hosts"].append(row["host"])
                # A value may be right on one host and wrong on another.
                if state in STATE_VERDICTS:
                    value["marked"].append(row["host"])
                    value["state"] = min(value["state"] or state, state, key=SEVERITIES.index)
            if len(values) > 1:
                ordered = sorted(values.values(), key=lambda value: (-len(value["hosts"]), natural(value["text"])))
                found.append({"title": column["title"], "baselines": column["baselines"], "values": ordered})
            elif values:
                alike.append(column["title"])
        return found, alike

    def findings(self) -> list[FindingGroup]:
        """Equal findings of several hosts are one case; cases of one code are one group. The worst first."""
        groups: dict[tuple[str, str], dict[tuple[str, ...], list[str]]] = {}
        for finding in self.found:
            # Strings from here on: what is equal to a reader is equal.
            case = tuple(say(finding.get(key)) for key in ("subject", "expected", "actual"))
            case += tuple(_sentence(str(finding.get(key) or "")) for key in ("cause", "action"))
            case += ("accepted" if finding.get("accepted") else "",)
            cases = groups.setdefault((str(finding.get("severity")), str(finding.get("code"))), {})
            hosts = cases.setdefault(case, [])
            if finding.get("host"):
                hosts.append(str(finding["host"]))
        made = [_group(severity, code, cases) for (severity, code), cases in groups.items()]
        made.sort(key=lambda group: (SEVERITIES.index(group["severity"]), -len(group["hosts"]), group["code"]))
        return made

    def gpus(self) -> list[Value]:
        """How many GPUs of each name there are."""
        owners: dict[str, list[str]] = {}
        for host in self.texts:
            for gpu in cast(HostFacts, self.answers[host].facts)["gpus"]:
                owners.setdefault(gpu["name"], []).append(host)
        return [
            {
                "text": f"{len(owners[name])} × {name}",
                "state": "",
                "hosts": sorted(set(owners[name]), key=natural),
                "marked": [],
            }
            for name in sorted(owners, key=lambda name: (-len(owners[name]), name))
        ]

    def unreadable(self) -> list[Unreadable]:
        """What `gpu_info` could not read although it should have. A comparison has this among its findings."""
        problems: dict[str, list[str]] = {}
        if self.parity:
            return []
        for host in self.texts:
            for problem in cast(HostFacts, self.answers[host].facts)["problems"]:
                problems.setdefault(str(problem), []).append(host)
        return [{"problem": problem, "hosts": hosts} for problem, hosts in problems.items()]


def _group(severity: str, code: str, found: Mapping[tuple[str, ...], Iterable[str]]) -> FindingGroup:
    cases: list[Case] = []
    hosts: set[str] = set()
    for (subject, expected, actual, cause, action, accepted), owners in found.items():
        own = sorted(set(owners), key=natural)
        hosts.update(own)
        cases.append(
            {
                "subject": subject,
                "expected": expected,
                "actual": actual,
                "cause": cause,
                "action": action,
                "accepted": bool(accepted),
                "hosts": own,
            }
        )
    cases.sort(
        key=lambda case: (-len(case["hosts"]), natural(case["subject"]), [natural(host) for host in case["hosts"]])
    )
    causes = {case["cause"] for case in cases}
    actions = {case["action"] for case in cases}
    return {
        "code": code,
        "severity": severity,
        "cause": causes.pop() if len(causes) == 1 else "",
        "action": actions.pop() if len(actions) == 1 else "",
        "cases": cases,
        "hosts": sorted(hosts, key=natural),
    }


def _extra_cell(column: Mapping[str, Any], host: str) -> Cell:
    values = column.get("values") or {}
    if host not in values:
        return {"text": NONE, "state": "quiet", "hint": ""}
    text = say(values[host])
    expected = column.get("expected")
    if expected not in (None, "") and text != say(expected):
        return {"text": text, "state": "warning", "hint": f"expected {say(expected)}"}
    return {"text": text, "state": "quiet" if text in (NONE, UNKNOWN, "") else "", "hint": ""}


# --- Sections --------------------------------------------------------------------------------------------------------


def section(written: Mapping[str, Any]) -> Section:
    """A section as a caller writes it: columns are titles or mappings, rows lists or mappings."""
    columns: list[SectionColumn] = []
    for column in written.get("columns") or []:
        if isinstance(column, Mapping):
            columns.append({"title": say(column.get("title")), "measured": bool(column.get("measured"))})
        else:
            columns.append({"title": say(column), "measured": False})
    rows: list[SectionRow] = []
    for row in written.get("rows") or []:
        cells = row.get("cells") or [] if isinstance(row, Mapping) else row
        state = str(row.get("state") or "") if isinstance(row, Mapping) else ""
        texts = ["" if cell is None else say(cell) for cell in cells][: len(columns)]
        rows.append(
            {
                "state": state if state in ("ok", *STATE_VERDICTS) else "",
                "cells": texts + [""] * (len(columns) - len(texts)),
            }
        )
    return {
        "title": say(written.get("title")),
        "description": str(written.get("description") or ""),
        "empty": str(written.get("empty") or "Nothing."),
        "columns": columns,
        "rows": rows,
    }


def endpoint_section(answers: Sequence[tuple[str, Mapping[str, Any]]]) -> Section:
    """What `openai_endpoint_info` returned, one row for each address: (who asked, the registered result).

    Only named keys are taken: the arguments of a module may hold a key.
    """
    rows: list[dict[str, Any]] = []
    for asker, answer in answers:
        arguments = (answer.get("invocation") or {}).get("module_args") or {}
        results = [result for result in answer.get("results") or [] if isinstance(result, Mapping)]
        good = sum(bool(result.get("ok")) for result in results)
        failed = [f"{result.get('name')}: {result.get('message')}" for result in results if not result.get("ok")]
        if not results:
            failed = [str(answer.get("msg") or "no answer of the module")]
        first = [result["time_to_first_token"] for result in results if result.get("time_to_first_token") is not None]
        slowest = max((float(result.get("seconds") or 0) for result in results), default=None)
        rows.append(
            {
                "state": "error" if failed else "ok",
                "cells": [
                    arguments.get("model") or "",
                    arguments.get("base_url") or "",
                    asker,
                    f"{good} of {len(results)}",
                    "; ".join(failed),
                    "" if not first else f"{min(first):.3f}",
                    "" if slowest is None else f"{slowest:.3f}",
                ],
            }
        )
    rows.sort(key=lambda row: (row["state"] != "error", [natural(str(cell)) for cell in row["cells"][:3]]))
    return section(
        {
            "title": "Endpoints",
            "description": "Questions that a client would ask, streaming included, and what came back.",
            "empty": "No endpoint was asked.",
            "columns": [
                "Model",
                "Address",
                "Host",
                "Good answers",
                "What failed",
                {"title": "First token, seconds", "measured": True},
                {"title": "Slowest answer, seconds", "measured": True},
            ],
            "rows": rows,
        }
    )


# --- The whole -------------------------------------------------------------------------------------------------------


def build(
    answers: Mapping[str, Answer],
    parity: Mapping[str, Any] | None,
    generated_at: str,
    generated_by: str,
    title: str = "GPU fleet",
    columns: Sequence[Mapping[str, Any]] = (),
    sections: Sequence[Section] = (),
    secrets: Sequence[str] = (),
) -> Report:
    """The report.

    :param answers: by host, what it said
    :param parity: what `gpu_parity` returned; nothing if hosts were not compared
    :param columns: further columns of the table of hosts: `title`, `values` by host, `expected`
    :param sections: what else was verified
    :param secrets: texts that must not be in the report, whoever wrote them there
    """
    builder = _Builder(answers, parity)
    table, rows = builder.table(columns)
    differences, alike = builder.differences(table, rows)
    findings = builder.findings()
    verdict, reasons = _judge(builder, rows, findings, sections)
    by_verdict = {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS}
    report: Report = {
        "format_version": FORMAT_VERSION,
        "title": title,
        "generated_at": generated_at,
        "generated_by": generated_by,
        "verdict": verdict,
        "headline": _headline(verdict, by_verdict, len(rows)),
        "reasons": reasons,
        "hosts_by_verdict": by_verdict,
        "gpus": builder.gpus(),
        "columns": table,
        "differences": differences,
        "alike": alike,
        "without_gpu": builder.without_gpu,
        "findings": findings,
        "hosts": rows,
        "unreadable": builder.unreadable(),
        "sections": list(sections),
    }
    return cast(Report, purify(report, secrets))


def _judge(
    builder: _Builder, rows: Sequence[HostRow], findings: Sequence[FindingGroup], sections: Sequence[Section]
) -> tuple[str, list[str]]:
    """The verdict, and why it is not a better one."""
    verdicts = [row["verdict"] for row in rows]
    reasons = []
    if builder.problems:
        count = len(builder.problems)
        reasons.append(
            f"{plural(count, 'host')} gave no facts, so nobody knows how {'it is' if count == 1 else 'they are'}."
        )
    given = builder.parity.get("verdict")
    if given is None:
        verdicts.append("unknown")
        reasons.append("The hosts were not compared.")
    else:
        verdicts.append(str(given) if given in VERDICTS else "unknown")
    for severity in SEVERITIES:
        groups = [group for group in findings if group["severity"] == severity]
        if groups:
            hosts = {host for group in groups for host in group["hosts"]}
            kinds = plural(len(groups), f"kind of {severity}", f"kinds of {severity}")
            reasons.append(f"{kinds} on {plural(len(hosts), 'host')}." if hosts else f"{kinds} about the whole fleet.")
    unjudged = sum(row["verdict"] == "unknown" for row in rows)
    if unjudged and given is not None:
        reasons.append(f"{plural(unjudged, 'host')} answered but {'was' if unjudged == 1 else 'were'} not compared.")
    for part in sections:
        for state, verdict in STATE_VERDICTS.items():
            count = sum(row["state"] == state for row in part["rows"])
            if count:
                verdicts.append(verdict)
                reasons.append(f"{part['title']}: {plural(count, state)} in {plural(len(part['rows']), 'row')}.")
    if not rows:
        verdicts.append("unknown")
        reasons.append("There is no host in the report.")
    return _worst("fail" if verdict == "absent" else verdict for verdict in verdicts), reasons


def _headline(verdict: str, by_verdict: Mapping[str, int], count: int) -> str:
    good = by_verdict["pass"]
    if verdict == "pass":
        return f"All {count} hosts are as they should be." if count > 1 else "The host is as it should be."
    if not count:
        return "Nothing was verified."
    return f"{good} of {plural(count, 'host')} {'is as it' if good == 1 else 'are as they'} should be."


def comparable(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says, without when and without what is measured anew each time: the measure of `changed`."""
    said = {key: value for key, value in report.items() if key != "generated_at"}
    said["sections"] = [
        {
            **part,
            "rows": [
                {
                    **row,
                    "cells": [
                        cell for cell, column in zip(row["cells"], part["columns"]) if not column.get("measured")
                    ],
                }
                for row in part["rows"]
            ],
        }
        for part in report.get("sections") or []
    ]
    return said


def publish(report: Report, render: Callable[[Mapping[str, Any]], str], page: Path, mode: int, write: bool) -> Outcome:
    """Put the page and, beside it, the data where they belong.

    Both are written each time, since a reader must see when the fleet was last verified. `changed` is whether they say
    something else than before, the time and what is measured apart.
    """
    return report_files.publish(report, render, comparable, page, mode, write)
