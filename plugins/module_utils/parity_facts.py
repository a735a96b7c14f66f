# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's facts mean together, for the checks of `parity`: the parts of one driver, wherever they were seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Optional, TypedDict

from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import (
    Gpu,
    HostFacts,
    KernelModule,
    Package,
    Service,
)

# Packages of the driver, known by a version like 580.95.05 and these beginnings...
_DRIVER_NAMES = (
    "nvidia-",
    "libnvidia-",
    "libcuda1",
    "cuda-drivers",
    "xserver-xorg-video-nvidia",
    "firmware-nvidia-gsp",
)
# ...except those that are numbered alike but need not be of the same version, or move beside the driver.
_BESIDE_DRIVER = re.compile(
    r"nvidia-(settings|modprobe|persistenced|xconfig|firmware|driver-pinning|prime|fabricmanager|imex)\b"
    r"|libnvidia-nscq\b|libnvsdm\b"
)
_DRIVER_VERSION = re.compile(r"(?:\d+:)?(\d{3}\.\d{2,3}(?:\.\d{2})?)(?![\d.])")
# A pinning package of one whole version holds the driver as well as apt-mark does.
_EXACT_PINNING = re.compile(r"nvidia-driver-pinning-\d{3}\.\d+")
# The parts of the fabric: packages that have exactly the driver's version.
FABRIC_PARTS = {
    "fabric manager": re.compile(r"nvidia-fabricmanager(-\d{3})?\Z"),
    "NSCQ": re.compile(r"libnvidia-nscq(-\d{3})?\Z"),
    "NVSDM": re.compile(r"libnvsdm(-\d{3})?\Z"),
    "IMEX": re.compile(r"nvidia-imex(-\d{3})?\Z"),
    "nvlsm": re.compile(r"nvlsm\Z"),
}
CONTAINER_TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
# Packages that were removed, with or without their configuration.
_ABSENT = ("config-files", "not-installed")


class EngineNeed(TypedDict, total=False):
    """What an engine needs. `cuda` and `compute_capability` default to what its build is known to be made for."""

    engine: str
    version: str
    cuda: str
    compute_capability: str
    memory_bytes: int
    gpus: int


class Wanted(TypedDict, total=False):
    """What a site wants of a host."""

    # Hosts are compared with the hosts of the same group only.
    group: str
    # Values by subject (`parity_fleet.SUBJECTS`).
    pins: dict[str, Any]
    engines: list[EngineNeed]
    # Codes, or `code:subject`, of findings that the site knows of.
    accepted: list[str]
    # Whether containers are to see the GPUs.
    container_toolkit: bool


Value = Optional[Any]


def upstream(version: str) -> str:
    """A package's version without epoch and revision."""
    return version.split(":", 1)[-1].split("-", 1)[0]


def driver_version(package: Package) -> str | None:
    """The driver's version that a package is a part of, or `None`."""
    name = package["name"]
    if not name.startswith(_DRIVER_NAMES) or _BESIDE_DRIVER.match(name):
        return None
    match = _DRIVER_VERSION.match(package["version"])
    return match.group(1) if match else None


def most_common(values: Iterable[Any]) -> tuple[Any, int]:
    """The most common value and how many have it; `None` for the value if two are equally common."""
    ranks = Counter(values).most_common(2)
    if not ranks:
        return None, 0
    if len(ranks) == 2 and ranks[0][1] == ranks[1][1]:
        return None, ranks[0][1]
    return ranks[0]


class Host:
    """One host's facts, with what several checks ask for worked out once."""

    def __init__(self, name: str, facts: HostFacts, wanted: Wanted) -> None:
        self.name = name
        self.facts = facts
        self.wanted = wanted
        self.gpus: Sequence[Gpu] = facts["gpus"]
        self.platform = facts["platform"]
        self.nvml = facts["nvml"]
        self.loaded = facts["loaded_module"]
        self.packages: list[Package] = [item for item in facts["packages"] if item["state"] not in _ABSENT]
        self.services = {item["name"]: item for item in facts["services"]}
        self.driver_packages: dict[str, list[Package]] = {}
        for package in self.packages:
            version = driver_version(package)
            if version:
                self.driver_packages.setdefault(version, []).append(package)
        self.toolkit = {item["name"]: upstream(item["version"]) for item in self.packages_of(CONTAINER_TOOLKIT)}
        self.models = Counter(gpu["name"] for gpu in self.gpus)
        # GPUs that are the same product: these are compared with each other.
        self.kinds: dict[tuple[Any, ...], list[Gpu]] = {}
        for gpu in self.gpus:
            self.kinds.setdefault((gpu["name"], gpu["pci_device"], gpu["pci_subsystem"]), []).append(gpu)
        self.model: str = self.models.most_common(1)[0][0] if self.models else ""

    def packages_of(self, names: Iterable[str]) -> list[Package]:
        wanted = set(names)
        return [item for item in self.packages if item["name"] in wanted]

    def fabric_package(self, part: str) -> Package | None:
        return next((item for item in self.packages if FABRIC_PARTS[part].match(item["name"])), None)

    def service(self, name: str) -> Service | None:
        return self.services.get(name)

    @property
    def packaged_version(self) -> str | None:
        """The version of (most of) the installed driver packages."""
        if not self.driver_packages:
            return None
        return max(self.driver_packages, key=lambda version: len(self.driver_packages[version]))

    @property
    def library_version(self) -> str | None:
        """The driver's version that programs load, even where the loaded module refuses it."""
        if self.nvml["driver_version"] and self.nvml["error"] != "LIB_RM_VERSION_MISMATCH":
            return self.nvml["driver_version"]
        # NVML writes its own version as `13.580.95.05`: the newest CUDA's major version, then the driver's.
        match = re.match(r"\d{1,2}\.(\d{3}\..*)", self.nvml["library_version"] or "")
        return match.group(1) if match else self.packaged_version or self.nvml["driver_version"]

    @property
    def driver_version(self) -> str | None:
        """The driver that runs, or would."""
        return self.loaded["version"] or self.library_version

    @property
    def running_module(self) -> KernelModule | None:
        return next((item for item in self.facts["kernel_modules"] if item["running"]), None)

    @property
    def next_module(self) -> KernelModule | None:
        return next((item for item in self.facts["kernel_modules"] if item["next_boot"]), None)

    @property
    def pinned_exactly(self) -> bool:
        return any(_EXACT_PINNING.match(item["name"]) for item in self.packages)

    def on_bus(self) -> bool:
        return bool(self.facts["pci_gpus"])

    def uniform(self, read: Callable[[Gpu], Value]) -> Value:
        """The value that all GPUs of the host's most common model share; `None` if they do not, or nobody knows."""
        values = {read(gpu) for gpu in self.gpus if gpu["name"] == self.model}
        return values.pop() if len(values) == 1 else None

    def odd_ones(self, read: Callable[[Gpu], Value]) -> Iterator[tuple[Gpu, Value, Value]]:
        """GPUs whose value is not that of most of their kind, with their value and that of the others.

        With no majority, all of the kind are odd, and the value of the others is `None`.
        """
        for gpus in self.kinds.values():
            values = [read(gpu) for gpu in gpus]
            known = [value for value in values if value is not None]
            if len(set(known)) < 2:
                continue
            usual = most_common(known)[0]
            for gpu, value in zip(gpus, values):
                if value is not None and value != usual:
                    yield gpu, value, usual


def gpu_label(gpu: Gpu) -> str:
    return f"GPU {gpu['index']} at {gpu['pci_address']}"
