# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `gpu_parity` finds, and how a person is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.finding import describe_hosts, sentence
from ansible_collections.baremetal.llm.plugins.module_utils.site import unique

ERROR = "error"
WARNING = "warning"
NOTE = "note"
SEVERITIES = (ERROR, WARNING, NOTE)
# What a host, and the fleet, gets for the worst of its findings.
VERDICTS: Mapping[str, str] = {ERROR: "fail", WARNING: "warn", NOTE: "pass"}


# Every code that there is. They never change their meaning; docs/findings.md explains each.
CODES = frozenset(
    """
    acs-redirects automatic-upgrade-of-driver
    baseline-tie
    cdi-missing cdi-stale compute-capability-too-low compute-mode-unexpected container-toolkit-differs
    container-toolkit-insecure container-toolkit-missing container-toolkit-mixed
    cuda-newer-than-driver cuda-too-new cuda-toolkit-differs
    distribution-differs dkms-not-installed driver-branch-ended driver-differs driver-half-upgraded driver-insecure
    driver-missing
    ecc-change-pending ecc-differs ecc-off ecc-uncorrected
    fabric-incomplete fabric-kernel-module-missing fabric-manager-behind fabric-manager-down fabric-manager-missing
    fabric-manager-restart-pending fabric-manager-restarting fabric-part-behind fabric-part-missing fabric-unhealthy
    facts-incomplete
    gpu-lost gpu-memory-too-small gpu-missing gpu-model-differs gpu-none gpu-not-offered gpu-recovery-needed
    gpu-unexpected gpus-too-few gsp-firmware-differs gsp-firmware-mixed
    headers-missing hold-missing host-without-answer
    imex-down imex-restart-pending imex-restarting iommu-translates
    kernel-differs kernel-reboot-pending
    library-missing library-module-mismatch
    mig-change-pending mig-differs mig-mixed module-flavour-differs module-missing module-not-loaded module-unsigned
    next-boot-module-differs next-boot-module-missing nvlink-down nvlsm-differs nvml-binding-missing nvml-failed
    open-module-required other-driver-owns-gpu
    p2p-broken package-broken page-retirement-pending pcie-generation-low pcie-width-narrow persistence-off power-brake
    power-limit-differs power-limit-mixed proprietary-module-required
    reboot-pending row-remap-failed row-remap-pending
    thermal-slowdown
    vbios-differs vbios-mixed
    xid-application xid-hardware
    """.split()  # noqa: SIM905 - a hundred names in quotes are harder to read and to sort
)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, on one host.

    `subject` is what it is about (`GPU 3 at 0000:5d:00.0`, `driver_version`, the name of a package); `expected` and
    `actual` are its values in the words of whoever said them.
    """

    code: str
    severity: str
    subject: str
    expected: str
    actual: str
    cause: str
    action: str
    host: str = ""
    # PCI addresses of the GPUs that it is about; none: the whole host.
    gpus: frozenset[str] = frozenset()
    # The site said that it knows.
    accepted: bool = False

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"{self.code!r} is no code of parity_finding.CODES")

    def as_dict(self) -> dict[str, Any]:
        keys = ("code", "severity", "host", "subject", "expected", "actual", "cause", "action", "accepted")
        return {key: getattr(self, key) for key in keys}


def verdict(findings: Iterable[Finding]) -> str:
    """pass, warn or fail."""
    found = {finding.severity for finding in findings}
    return next((VERDICTS[severity] for severity in SEVERITIES if severity in found), "pass")


def gather_gpus(findings: Iterable[Finding], of: int) -> list[Finding]:
    """The same about several of a host's *of* GPUs is one finding about all of them."""
    gathered: dict[Finding, list[Finding]] = {}
    for finding in findings:
        key = replace(finding, subject="", gpus=frozenset()) if finding.gpus else finding
        gathered.setdefault(key, []).append(finding)
    return [_gathered(same, of) for same in gathered.values()]


def _gathered(same: Sequence[Finding], of: int) -> Finding:
    gpus = frozenset().union(*(finding.gpus for finding in same))
    # Pairs of GPUs are named: which of them is in all pairs tells the most.
    if len(gpus) == of > 1 and all(len(finding.gpus) == 1 for finding in same):
        return replace(same[0], subject=f"all {of} GPUs", gpus=gpus)
    return replace(same[0], subject=", ".join(unique([finding.subject for finding in same])), gpus=gpus)


def summary(findings: Sequence[Finding], hosts: int) -> str:
    """The verdict in one sentence."""
    said = []
    for severity in SEVERITIES:
        count = sum(finding.severity == severity for finding in findings)
        if count:
            said.append(f"{count} {severity}{'s' if count > 1 else ''}")
    of_hosts = "1 host" if hosts == 1 else f"{hosts} hosts"
    if not said:
        return f"GPU parity of {of_hosts}: nothing found."
    affected = len({finding.host for finding in findings})
    return f"GPU parity of {of_hosts}: {', '.join(said)} on {affected}."


def report(findings: Sequence[Finding]) -> str:
    """The findings as a text to read in a terminal: the worst first, those that several hosts share only once."""
    shared: dict[Finding, list[str]] = {}
    for finding in findings:
        shared.setdefault(replace(finding, host="", gpus=frozenset()), []).append(finding.host)
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding, hosts in sorted(shared.items(), key=lambda item: SEVERITIES.index(item[0].severity)):
        groups.setdefault(tuple(unique(hosts)), []).append(finding)
    lines: list[str] = []
    for names, found in groups.items():
        lines.append(f"== {describe_hosts(names)} ==")
        for finding in found:
            lines.append(f"  * {finding.severity}: {_compared(finding)} [{finding.code}]")
            lines.append(f"    {sentence(finding.cause)}")
            lines.append(f"    -> {'Accepted by the site. ' if finding.accepted else ''}{sentence(finding.action)}")
        lines.append("")
    if lines:
        lines.append("Each code is explained in docs/findings.md of the collection.")
    return "\n".join(lines)


def _compared(finding: Finding) -> str:
    return f"{finding.subject}: {finding.actual}; expected {finding.expected}"
