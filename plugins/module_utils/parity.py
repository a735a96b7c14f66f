# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the GPUs, drivers and fabrics of a fleet are what they should be: the judgement behind `gpu_parity`.

`compare` takes what `gpu_info` said about each host and what the site wants of it, and gives a verdict with findings.

One fault has one code. A broken thing shows in many places: a fabric manager that does not run leaves eight GPUs
outside the fabric, and every pair of them without peer-to-peer access. Each check looks at one place only and knows
nothing of the others. Afterwards `EXPLAINED_BY` drops every finding whose cause was found as well:

- a finding is dropped if, on the same host, a finding with one of the codes that explain it stands;
- where both are about GPUs, they must share one, except for `SPREADING`, which a neighbour's fault brings about;
- it does not matter whether the cause is itself explained by something else, so chains need no second look;
- only causes that an operator would mend first are listed. What is left out shows up after they are mended, if it was
  a fault of its own.

Adding a check: a function in `parity_system` or `parity_gpu`, its code in `parity_finding.CODES`, its causes here, its
line in docs/findings.md, and a seeded fault in tests/unit/gpu_fleets.py. The tests miss any of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import parity_gpu, parity_system
from ansible_collections.baremetal.llm.plugins.module_utils.cuda_requirements import (
    UnknownBuild,
    branch,
    engine_build,
    minimum_driver,
    version_key,
)
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_data import BRANCHES
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import FORMAT_VERSION, HostFacts
from ansible_collections.baremetal.llm.plugins.module_utils.parity_facts import Host, Wanted
from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import (
    CODES,
    ERROR,
    NOTE,
    SEVERITIES,
    Finding,
    gather_gpus,
    verdict,
)
from ansible_collections.baremetal.llm.plugins.module_utils.parity_fleet import (
    BY_NAME,
    LOCK_FORMAT_VERSION,
    PINS,
    Baseline,
    compare_fleet,
    describe_baselines,
    lock_of,
)

CHECKS = (*parity_system.CHECKS, *parity_gpu.CHECKS)

_PACKAGES = ("package-broken", "driver-half-upgraded")
_BUILD = ("headers-missing", "dkms-not-installed")
_FLAVOUR = ("open-module-required", "proprietary-module-required")
_VERSIONS = (*_PACKAGES, "reboot-pending", "library-module-mismatch")
# The kernel has no working driver.
_NO_DRIVER = (
    "driver-missing",
    "other-driver-owns-gpu",
    "module-missing",
    "module-not-loaded",
    "module-unsigned",
    *_BUILD,
    *_FLAVOUR,
)
_NO_MANAGER = ("fabric-manager-missing", "fabric-manager-behind")
_MANAGER = (
    *_NO_MANAGER,
    "fabric-manager-down",
    "fabric-manager-restarting",
    "fabric-manager-restart-pending",
)
_FABRIC_PARTS = ("fabric-part-missing", "fabric-part-behind", "fabric-kernel-module-missing")
_FABRIC = (*_MANAGER, *_FABRIC_PARTS, "imex-down", "imex-restarting", "imex-restart-pending")
_GPU_GONE = ("gpu-lost", "gpu-not-offered")
_MEMORY = ("row-remap-failed", "row-remap-pending", "page-retirement-pending", "ecc-uncorrected")
_HARDWARE = (*_GPU_GONE, *_MEMORY, "gpu-recovery-needed", "nvlink-down", "power-brake", "fabric-unhealthy")

# What is not reported beside what it follows from.
EXPLAINED_BY: Mapping[str, Sequence[str]] = {
    # Driver and kernel modules
    "driver-half-upgraded": ("package-broken",),
    "module-missing": ("driver-missing", *_BUILD, *_PACKAGES),
    "module-not-loaded": ("other-driver-owns-gpu", "module-unsigned", *_FLAVOUR, *_PACKAGES),
    "next-boot-module-missing": ("driver-missing", "module-missing", *_BUILD, *_PACKAGES),
    "next-boot-module-differs": ("library-module-mismatch", *_BUILD, *_PACKAGES),
    "dkms-not-installed": ("package-broken",),
    "kernel-reboot-pending": (
        "reboot-pending",
        "kernel-differs",
        "module-missing",
        "next-boot-module-missing",
        "next-boot-module-differs",
        *_BUILD,
    ),
    "reboot-pending": _PACKAGES,
    "library-module-mismatch": (*_PACKAGES, *_BUILD),
    "library-missing": ("driver-missing", *_PACKAGES),
    "nvml-failed": (*_NO_DRIVER, *_VERSIONS, "gpu-lost"),
    "gpu-not-offered": _NO_DRIVER,
    # An old driver is one fault, whatever it is too old for
    "driver-branch-ended": ("driver-differs", "cuda-too-new", "reboot-pending"),
    "driver-insecure": ("driver-differs", "cuda-too-new", "reboot-pending"),
    "cuda-too-new": ("driver-differs", *_VERSIONS),
    "cuda-newer-than-driver": ("driver-differs", *_VERSIONS),
    # Fabric
    "fabric-manager-behind": _PACKAGES,
    "fabric-part-missing": ("fabric-manager-missing",),
    "fabric-part-behind": ("fabric-manager-behind", *_PACKAGES),
    "fabric-manager-restart-pending": ("fabric-manager-behind", *_VERSIONS),
    "fabric-manager-down": (*_NO_DRIVER, *_VERSIONS, *_FABRIC_PARTS, *_NO_MANAGER),
    "fabric-manager-restarting": (*_NO_DRIVER, *_VERSIONS, *_FABRIC_PARTS, *_NO_MANAGER),
    "imex-restart-pending": _VERSIONS,
    "imex-down": (*_NO_DRIVER, *_VERSIONS, *_FABRIC_PARTS),
    "imex-restarting": (*_NO_DRIVER, *_VERSIONS, *_FABRIC_PARTS),
    "nvlink-down": (*_GPU_GONE, *_MANAGER),
    "fabric-incomplete": (*_FABRIC, *_VERSIONS, *_GPU_GONE, "nvlink-down", "gpu-recovery-needed"),
    "fabric-unhealthy": (*_FABRIC, *_GPU_GONE, "nvlink-down"),
    "p2p-broken": (*_FABRIC, *_GPU_GONE, "nvlink-down", "fabric-incomplete", "fabric-unhealthy"),
    # GPUs
    "ecc-uncorrected": ("gpu-lost", "row-remap-failed", "row-remap-pending", "page-retirement-pending"),
    "gpu-recovery-needed": (*_GPU_GONE, *_MEMORY, "mig-change-pending"),
    "xid-hardware": (*_HARDWARE, "fabric-incomplete"),
    "xid-application": (*_HARDWARE, "fabric-incomplete"),
    "ecc-off": ("ecc-change-pending",),
    "mig-mixed": ("mig-change-pending",),
    "power-brake": ("thermal-slowdown",),
    "pcie-generation-low": ("pcie-width-narrow",),
    "gpus-too-few": ("gpu-missing", *_GPU_GONE),
    # Containers and platform
    "cdi-missing": ("container-toolkit-mixed",),
    "container-toolkit-insecure": ("container-toolkit-differs",),
    "acs-redirects": ("iommu-translates",),
    # Across hosts: a host with a fault of its own need not be told that it is unlike the others
    "driver-differs": _VERSIONS,
    "module-flavour-differs": _FLAVOUR,
    "kernel-differs": ("module-missing", *_BUILD),
    "ecc-differs": ("ecc-change-pending",),
    "mig-differs": ("mig-change-pending", "mig-mixed"),
}
SPREADING = frozenset({"nvlink-down", "fabric-incomplete", "fabric-unhealthy", "p2p-broken"})


class WantedError(ValueError):
    """What the site wants contradicts itself, or cannot be judged: one sentence for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Verdict:
    """The judgement on a fleet."""

    verdict: str
    hosts: Mapping[str, Mapping[str, Any]]
    baselines: Sequence[Baseline]
    findings: Sequence[Finding]

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "hosts": {name: dict(said) for name, said in self.hosts.items()},
            "baseline": describe_baselines(self.baselines),
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def lock(self) -> dict[str, Any]:
        """The content of a lock file for what the hosts are now."""
        return {"format_version": LOCK_FORMAT_VERSION, "baseline": lock_of(self.baselines)}


def compare(
    hosts: Mapping[str, HostFacts | None],
    wanted: Mapping[str, Wanted],
    lock: Mapping[str, Any] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Verdict:
    """Judge the hosts. `None` in place of facts is a host that gave no answer, for the reason in *reasons*.

    *wanted* may lack hosts, of which nothing but health and likeness is wanted. Raises WantedError before anything is
    judged if what is wanted makes no sense.
    """
    problems = [*_lock_problems(lock), *wanted_problems(wanted)]
    if problems:
        raise WantedError(problems)
    answered: list[Host] = []
    found: dict[str, list[Finding]] = {}
    summaries: dict[str, dict[str, Any]] = {}
    for name, facts in hosts.items():
        try:
            found[name], summaries[name] = _judge(name, facts, wanted.get(name, {}), answered)
        except _Unreadable as error:
            reason = (reasons or {}).get(name, "") if facts is None else str(error)
            found[name] = [_without_answer(facts, reason)]
    across, baselines = compare_fleet(answered, (lock or {}).get("baseline") or {})
    for finding in across:
        found[finding.host].append(finding)
    findings: list[Finding] = []
    judged: dict[str, dict[str, Any]] = {}
    for name, everything in found.items():
        accepted = wanted.get(name, {}).get("accepted", ())
        # Before gathering for a GPU by itself, and afterwards for whoever copied the subject from a report.
        single = [_accept(item, accepted) for item in unexplained(everything)]
        gathered = gather_gpus(single, of=summaries.get(name, {}).get("gpu_count") or 0)
        own = [_accept(replace(item, host=name), accepted) for item in gathered]
        own.sort(key=lambda item: SEVERITIES.index(item.severity))
        findings += own
        judged[name] = {"verdict": verdict(own), **summaries.get(name, {})}
    return Verdict(verdict(findings), judged, baselines, findings)


class _Unreadable(ValueError):
    """Facts that are none."""


def _judge(
    name: str, facts: HostFacts | None, wanted: Wanted, answered: list[Host]
) -> tuple[list[Finding], dict[str, Any]]:
    """What is found on one host by itself, and its summary."""
    if facts is None:
        raise _Unreadable
    if facts.get("format_version") != FORMAT_VERSION:
        raise _Unreadable(f"this version of the collection reads format {FORMAT_VERSION}")
    try:
        host = Host(name, facts, wanted)
        found = [finding for check in CHECKS for finding in check(host)]
        summary = _summary(host)
    except (AttributeError, KeyError, TypeError) as error:
        # Out of a cache or a file, from another state of the collection: the other hosts are still to be judged.
        raise _Unreadable(f"its facts are not complete: {type(error).__name__} {error}") from error
    answered.append(host)
    return found, summary


def merge_locks(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """*new*, with what *old* says about hosts of a kind that were not looked at."""
    before: Mapping[str, Mapping[str, Any]] = old.get("baseline") or {}
    after: Mapping[str, Mapping[str, Any]] = new["baseline"]
    names = sorted({*before, *after})
    return {**new, "baseline": {name: {**before.get(name, {}), **after.get(name, {})} for name in names}}


def unexplained(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of one host without those that follow from another."""
    causes: dict[str, list[frozenset[str]]] = {}
    for finding in findings:
        causes.setdefault(finding.code, []).append(finding.gpus)
    return [finding for finding in findings if not any(_explains(finding, code, causes) for code in _causes(finding))]


def _causes(finding: Finding) -> Sequence[str]:
    return EXPLAINED_BY.get(finding.code, ())


def _explains(finding: Finding, code: str, causes: Mapping[str, Sequence[frozenset[str]]]) -> bool:
    """Whether a finding with *code* stands on what *finding* is about."""
    whole_host = not finding.gpus or finding.code in SPREADING
    return any(whole_host or not gpus or gpus & finding.gpus for gpus in causes.get(code, ()))


def _without_answer(facts: HostFacts | None, reason: str) -> Finding:
    actual = "none" if facts is None else f"facts of format {facts.get('format_version')!r}"
    return Finding(
        "host-without-answer",
        ERROR,
        "gpu_info",
        "facts of the host",
        actual,
        reason or "gpu_info was not run on the host, or did not come to an end",
        "Make the host reachable and run gpu_info again; to go on without it, exclude it with --limit",
    )


def _accept(finding: Finding, accepted: Iterable[str]) -> Finding:
    """An accepted finding stays visible and fails nothing."""
    if {finding.code, f"{finding.code}:{finding.subject}"} & set(accepted):
        return replace(finding, severity=NOTE, accepted=True)
    return finding


def _summary(host: Host) -> dict[str, Any]:
    """What a table of hosts shows of one."""
    manager = host.fabric_package("fabric manager")
    values = {name: subject.read(host) for name, subject in BY_NAME.items()}
    return {
        **values,
        "cuda_version": host.nvml["cuda_version"],
        "library_version": host.library_version,
        "packaged_version": host.packaged_version,
        "fabric_manager_version": manager["version"] if manager else None,
        "next_kernel": host.next_module["kernel"] if host.next_module else None,
        "collected_at": host.facts["collected_at"],
    }


def wanted_problems(wanted: Mapping[str, Wanted]) -> list[str]:
    """What cannot be wanted, each problem once with the hosts that it concerns."""
    problems: dict[str, list[str]] = {}
    for name, item in wanted.items():
        for problem in _problems(item):
            problems.setdefault(problem, []).append(name)
    return [
        f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}: {text}" for text, names in problems.items()
    ]


def _problems(wanted: Wanted) -> Iterator[str]:
    pins = wanted.get("pins", {})
    for name in pins:
        if name not in PINS:
            yield f"pins.{name} is no subject{_close(name, PINS)}; there are {', '.join(PINS)}"
    for accepted in wanted.get("accepted", ()):
        code = str(accepted).split(":", 1)[0]
        if code not in CODES:
            yield f"accepted code {code!r} does not exist{_close(code, CODES)}; docs/findings.md lists all"
    driver = str(pins.get("driver_version") or "")
    if driver and not driver[:3].isdigit():
        yield f"pins.driver_version {driver!r} is no version; write it like '580' or '580.178.04'"
        driver = ""
    for need in wanted.get("engines", ()):
        try:
            cuda = engine_build(need)[0]
        except UnknownBuild as error:
            yield str(error)
            continue
        # A branch may still be fulfilled by its newest version.
        if driver and version_key(driver + ".999" * (driver.count(".") == 0)) < version_key(minimum_driver(cuda)):
            alive = ", ".join(str(item.number) for item in BRANCHES.values() if not item.ended)
            yield (
                f"pins.driver_version {driver} contradicts {need.get('engine')} {need.get('version', '')}, built for "
                f"CUDA {cuda}, which needs {minimum_driver(cuda)}; branches with fixes are {alive}"
            )
    if driver and pins.get("module_flavour") == "open" and int(branch(driver)) < 515:
        yield f"pins.module_flavour open contradicts pins.driver_version {driver}: open modules exist from 515 on"


def _lock_problems(lock: Mapping[str, Any] | None) -> Iterator[str]:
    if not lock:
        return
    if lock.get("format_version") != LOCK_FORMAT_VERSION or not isinstance(lock.get("baseline"), Mapping):
        found = lock.get("format_version")
        yield f"the lock file is of format {found!r}, expected {LOCK_FORMAT_VERSION}; write it again"
        return
    for name in lock["baseline"]:
        if name not in BY_NAME:
            yield f"the lock file has {name!r}, which is no subject{_close(str(name), BY_NAME)}"


def _close(word: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
