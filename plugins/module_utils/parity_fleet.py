# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of `parity` across hosts: what each host has of a subject, against what it should be.

What it should be is said by, in this order: a pin of the host; the lock file, a baseline written down earlier; the
majority, that is the value that more of the compared hosts have than any other. If two values are equally common, no
side is right: each host gets a `baseline-tie` that says who has what.

A subject is compared between the hosts of one scope only, so that a host with L40S is not measured by the VBIOS of one
with H100. A host that does not know a value, or whose GPUs disagree about it, is left out: another check says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.finding import describe_hosts
from ansible_collections.baremetal.llm.plugins.module_utils.parity_facts import (
    CONTAINER_TOOLKIT,
    Host,
    most_common,
    upstream,
)
from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import ERROR, WARNING, Finding

# A lock file: subject, scope, value.
Lock = Mapping[str, Mapping[str, Any]]
LOCK_FORMAT_VERSION = 1
PIN, LOCK, MAJORITY, TIE = "pin", "lock", "majority", "tie"
DRIVER_ROLE = "the role nvidia_driver"


@dataclass(frozen=True)
class Subject:
    """Something that hosts have alike. `name` is what pins, lock files and reports call it."""

    name: str
    code: str
    severity: str
    read: Callable[[Host], Any]
    scope: Callable[[Host], str]
    action: str
    # Code for a number that is higher than expected, where that is another thing.
    higher: str = ""
    # Whether the majority of hosts is any measure.
    by_majority: bool = True


def _group(host: Host) -> str:
    return str(host.wanted.get("group") or "all")


def _same_system(host: Host) -> str:
    platform = host.platform
    return f"{_group(host)}: {platform['distribution']} {platform['distribution_version']} {platform['architecture']}"


def _same_gpus(host: Host) -> str:
    return f"{_group(host)}: {_model(host)}"


def _same_gpus_and_driver(host: Host) -> str:
    """What comes with the driver differs where the driver does, and that is another finding, or a pin."""
    return f"{_same_gpus(host)}, driver {host.driver_version}"


def _model(host: Host) -> str:
    """What the host's GPUs are; by the bus, for a host whose driver says nothing."""
    return host.model or next((item["pci_device"] for item in host.facts["pci_gpus"]), "no GPU")


def _gpu_count(host: Host) -> int | None:
    """Every GPU that anybody knows of: the bus, the driver, or the driver's memory of one that is lost."""
    lost = [item["pci_address"] or f"lost {item['index']}" for item in host.facts["lost_gpus"]]
    seen = {item["pci_address"] for item in host.facts["pci_gpus"]} | {gpu["pci_address"] for gpu in host.gpus}
    return len(seen.union(lost)) or None


def _gpu_names(host: Host) -> str | None:
    return ", ".join(sorted(host.models)) or None


def _mig_layout(host: Host) -> str | None:
    """`off`, or the profiles of each GPU: `3g.40gb+3g.40gb, 7g.80gb`."""
    if not host.gpus or any(gpu["mig"]["enabled"] is None for gpu in host.gpus):
        return None
    if not any(gpu["mig"]["enabled"] for gpu in host.gpus):
        return "off"
    layouts = [
        "+".join(sorted(item["profile"] or "?" for item in gpu["mig"]["instances"])) or "whole" for gpu in host.gpus
    ]
    return ", ".join(layouts)


def _toolkit(host: Host) -> str | None:
    versions = {host.toolkit.get(name) for name in CONTAINER_TOOLKIT}
    return versions.pop() if len(versions) == 1 else None


def _nvlsm(host: Host) -> str | None:
    package = host.fabric_package("nvlsm")
    return upstream(package["version"]) if package else None


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "driver_version",
        "driver-differs",
        ERROR,
        lambda host: host.driver_version,
        _group,
        f"Move the host to the expected version with {DRIVER_ROLE}",
    ),
    Subject(
        "module_flavour",
        "module-flavour-differs",
        WARNING,
        lambda host: host.loaded["flavour"],
        _same_gpus,
        f"Install the expected flavour with {DRIVER_ROLE} and reboot",
    ),
    Subject(
        "distribution",
        "distribution-differs",
        WARNING,
        lambda host: f"{host.platform['distribution']} {host.platform['distribution_version']}",
        _group,
        "Install the host anew with the expected release, or give it a group of its own",
    ),
    Subject(
        "kernel",
        "kernel-differs",
        WARNING,
        lambda host: host.platform["kernel"],
        _same_system,
        "Bring the host to the expected kernel, with its headers and its NVIDIA module",
    ),
    Subject(
        "container_toolkit_version",
        "container-toolkit-differs",
        ERROR,
        _toolkit,
        _group,
        "Move the host to the expected version with the role container_toolkit",
    ),
    Subject(
        "cuda_toolkit_version",
        "cuda-toolkit-differs",
        WARNING,
        lambda host: host.facts["cuda_toolkit_version"] or None,
        _group,
        "Move the host to the expected version with the role cuda_toolkit",
    ),
    Subject(
        "nvlsm_version",
        "nvlsm-differs",
        WARNING,
        _nvlsm,
        _same_gpus,
        f"Move the host to the expected version with {DRIVER_ROLE}",
    ),
    Subject(
        "gpu_count",
        "gpu-missing",
        ERROR,
        _gpu_count,
        _same_gpus,
        "Look for the GPU with `lspci -d 10de:`; check its seating and power, and the firmware's log",
        higher="gpu-unexpected",
    ),
    Subject(
        "gpu_names",
        "gpu-model-differs",
        ERROR,
        _gpu_names,
        _group,
        "Put the expected GPUs into the host, or correct its pin",
        by_majority=False,
    ),
    Subject(
        "vbios_version",
        "vbios-differs",
        WARNING,
        lambda host: host.uniform(lambda gpu: gpu["vbios_version"]),
        _same_gpus,
        "Bring the boards to the expected VBIOS with the vendor's tool",
    ),
    Subject(
        "gsp_firmware_version",
        "gsp-firmware-differs",
        WARNING,
        lambda host: host.uniform(lambda gpu: gpu["gsp_firmware_version"]),
        _same_gpus_and_driver,
        f"The firmware comes with the driver: install that again with {DRIVER_ROLE} and reboot",
    ),
    Subject(
        "ecc_enabled",
        "ecc-differs",
        ERROR,
        lambda host: host.uniform(lambda gpu: gpu["ecc"]["enabled"]),
        _same_gpus,
        "Switch error correction (`nvidia-smi -e 0|1`) and reset the GPUs",
    ),
    Subject(
        "mig_layout",
        "mig-differs",
        ERROR,
        _mig_layout,
        _same_gpus,
        f"Set the layout with {DRIVER_ROLE}, or pin this host's own",
    ),
    Subject(
        "power_limit_watts",
        "power-limit-differs",
        WARNING,
        lambda host: host.uniform(lambda gpu: gpu["power_limit_watts"]),
        _same_gpus,
        f"Set the limit with {DRIVER_ROLE}, or pin this host's own",
    ),
)
BY_NAME: Mapping[str, Subject] = {subject.name: subject for subject in SUBJECTS}
# Subjects that can be pinned without being compared: another check looks at them.
PINS = (*BY_NAME, "compute_mode")
_VERSIONS = ("driver_version", "kernel", "container_toolkit_version", "cuda_toolkit_version", "distribution")


@dataclass(frozen=True)
class Baseline:
    """What hosts of one scope should have of a subject, and who says so."""

    subject: str
    scope: str
    by: str
    value: Any
    # How many of the compared hosts have it.
    having: int
    of: int


def matches(subject: str, expected: Any, actual: Any) -> bool:
    """Whether a host has what it should; a version may be given by its beginning: 580 or 580.95."""
    if subject in _VERSIONS:
        text, wanted = str(actual), str(expected)
        return text == wanted or text.startswith((f"{wanted}.", f"{wanted}-"))
    if isinstance(actual, float) or isinstance(expected, float):
        return float(actual) == float(expected)
    return bool(actual == expected) or str(actual) == str(expected)


def compare_fleet(hosts: Iterable[Host], lock: Lock) -> tuple[list[Finding], list[Baseline]]:
    """Every host against its pins, the lock file, or its neighbours."""
    findings: list[Finding] = []
    baselines: list[Baseline] = []
    everybody = list(hosts)
    for subject in SUBJECTS:
        scopes: dict[str, list[tuple[Host, Any]]] = {}
        for host in everybody:
            value = subject.read(host)
            if value is not None:
                scopes.setdefault(subject.scope(host), []).append((host, value))
        for scope, members in scopes.items():
            # A pin is a host's own, so it takes the host out of the vote.
            voters = [(host, value) for host, value in members if subject.name not in host.wanted.get("pins", {})]
            baseline = _baseline(subject, scope, voters, lock)
            if baseline:
                baselines.append(baseline)
                findings += _judge(subject, baseline, voters)
            pinned = [(host, value) for host, value in members if subject.name in host.wanted.get("pins", {})]
            for baseline, group in _pinned(subject, scope, pinned):
                baselines.append(baseline)
                findings += _judge(subject, baseline, group)
    return findings, baselines


def _baseline(subject: Subject, scope: str, voters: Sequence[tuple[Host, Any]], lock: Lock) -> Baseline | None:
    if not voters:
        return None
    values = [value for dummy, value in voters]
    locked = lock.get(subject.name, {}).get(scope)
    if locked is not None:
        having = sum(matches(subject.name, locked, value) for value in values)
        return Baseline(subject.name, scope, LOCK, locked, having, len(values))
    if not subject.by_majority:
        return None
    value, having = most_common(values)
    return Baseline(subject.name, scope, TIE if value is None else MAJORITY, value, having, len(values))


def _pinned(
    subject: Subject, scope: str, members: Iterable[tuple[Host, Any]]
) -> Iterator[tuple[Baseline, list[tuple[Host, Any]]]]:
    groups: dict[str, list[tuple[Host, Any]]] = {}
    for host, value in members:
        groups.setdefault(str(host.wanted["pins"][subject.name]), []).append((host, value))
    for group in groups.values():
        pin = group[0][0].wanted["pins"][subject.name]
        having = sum(matches(subject.name, pin, value) for dummy, value in group)
        yield Baseline(subject.name, scope, PIN, pin, having, len(group)), group


def _judge(subject: Subject, baseline: Baseline, members: Sequence[tuple[Host, Any]]) -> Iterator[Finding]:
    if baseline.by == TIE:
        sides = _sides(members)
        for host, value in members:
            yield Finding(
                "baseline-tie",
                subject.severity,
                subject.name,
                "one value for all",
                _text(value),
                f"the hosts disagree and no value is the most common: {sides}",
                f"Pin {subject.name}, or write a lock file, to say which is right",
                host=host.name,
            )
        return
    source = {
        PIN: "the site's pin",
        LOCK: "the lock file",
        MAJORITY: f"as {baseline.having} of {baseline.of} hosts",
    }[baseline.by]
    for host, value in members:
        if matches(subject.name, baseline.value, value):
            continue
        higher = subject.higher and value > int(baseline.value)
        yield Finding(
            subject.higher if higher else subject.code,
            WARNING if higher else subject.severity,
            subject.name,
            f"{_text(baseline.value)} ({source})",
            _text(value),
            "the host is not like the others of its kind"
            if baseline.by == MAJORITY
            else "the host is not what the site wrote down",
            "Count the host's GPUs, and correct the pin or the lock file" if higher else subject.action,
            host=host.name,
        )


def _sides(members: Sequence[tuple[Host, Any]]) -> str:
    sides: dict[str, list[str]] = {}
    for host, value in members:
        sides.setdefault(_text(value), []).append(host.name)
    return "; ".join(f"{value} on {describe_hosts(names)}" for value, names in sides.items())


def _text(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def describe_baselines(baselines: Iterable[Baseline]) -> dict[str, dict[str, Any]]:
    """By subject; by `subject (scope)` where a subject has several."""
    listed = list(baselines)
    counts = Counter(baseline.subject for baseline in listed)
    described: dict[str, dict[str, Any]] = {}
    for item in listed:
        name = item.subject if counts[item.subject] == 1 else f"{item.subject} ({item.scope})"
        if name in described:
            name = f"{name} {item.by} {_text(item.value)}"
        described[name] = {"value": item.value, "by": item.by, "having": item.having, "of": item.of}
    return described


def lock_of(baselines: Iterable[Baseline]) -> dict[str, dict[str, Any]]:
    """What a lock file is to say: what the majority has. Pins speak for themselves, and a tie says nothing."""
    lock: dict[str, dict[str, Any]] = {}
    for item in baselines:
        if item.by == MAJORITY:
            lock.setdefault(item.subject, {})[item.scope] = item.value
    return {name: dict(sorted(scopes.items())) for name, scopes in sorted(lock.items())}
