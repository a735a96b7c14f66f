# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into the decision about a host's NVIDIA driver and what comes out of it; versions as dpkg compares them."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils import driver_set_data as data
from ansible_collections.baremetal.llm.plugins.module_utils.finding import Finding

_FAMILY = re.compile(data.FAMILY)
_MODULE_PACKAGE = re.compile(data.MODULE_PACKAGES)
_DRIVER_VERSION = re.compile(r"^(\d{3})\.\d+(\.\d+)?$")

# --- Versions, as dpkg compares them


def _order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _compare_part(first: str, second: str) -> int:
    while first or second:
        words = [re.match(r"\D*", text) for text in (first, second)]
        left, right = (match.group() if match else "" for match in words)
        for index in range(max(len(left), len(right))):
            # The end of a text sorts before everything but a tilde.
            orders = [_order(text[index]) if index < len(text) else 0 for text in (left, right)]
            if orders[0] != orders[1]:
                return -1 if orders[0] < orders[1] else 1
        first, second = first[len(left) :], second[len(right) :]
        numbers = [re.match(r"\d*", text) for text in (first, second)]
        left, right = (match.group() if match else "" for match in numbers)
        if int(left or 0) != int(right or 0):
            return -1 if int(left or 0) < int(right or 0) else 1
        first, second = first[len(left) :], second[len(right) :]
    return 0


def compare_versions(first: str, second: str) -> int:
    """-1, 0 or 1, by the rules of Debian's policy manual, section 5.6.12."""
    parts = []
    for version in (first, second):
        epoch, colon, rest = version.partition(":")
        epoch, rest = (epoch, rest) if colon else ("0", version)
        body, _dash, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
        parts.append((epoch, body, revision))
    for left, right in zip(parts[0], parts[1]):
        result = _compare_part(left, right)
        if result:
            return result
    return 0


version_key = functools.cmp_to_key(compare_versions)


def upstream(version: str) -> str:
    """The version of the driver in the version of a package: `580.178.04` in `580.178.04-0ubuntu0.24.04.1`."""
    return version.split(":", 1)[-1].split("-", 1)[0]


def branch_of(version: str) -> int:
    """The branch of a driver's or package's version, or 0."""
    match = _DRIVER_VERSION.match(upstream(version))
    return int(match.group(1)) if match else 0


# --- What goes in


@dataclass(frozen=True)
class Relation:
    """One alternative of a dependency."""

    name: str
    operator: str = ""
    version: str = ""

    def accepts(self, version: str) -> bool:
        if not self.operator:
            return True
        result = compare_versions(version, self.version)
        return {"=": result == 0, ">=": result >= 0, "<=": result <= 0, ">>": result > 0, "<<": result < 0}[
            self.operator
        ]


@dataclass(frozen=True)
class Offer:
    """One version of a package that apt could install."""

    name: str
    version: str
    # `http://archive.example.net/ubuntu noble-updates/restricted`, and `o=` of its Release file.
    archives: tuple[tuple[str, str], ...] = ()
    depends: tuple[tuple[Relation, ...], ...] = ()
    provides: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class Installed:
    """A package that dpkg knows."""

    version: str
    held: bool = False
    # dpkg's word; anything but `installed` is a package in pieces.
    state: str = "installed"


@dataclass(frozen=True)
class AptPin:
    """A record of apt's preferences that pins by version."""

    path: str
    patterns: tuple[str, ...]
    version: str
    priority: int

    def matches(self, name: str) -> bool:
        for pattern in self.patterns:
            if pattern.startswith("/") and pattern.endswith("/") and len(pattern) > 2:
                if re.search(pattern[1:-1], name):
                    return True
            elif fnmatch.fnmatchcase(name, pattern):
                return True
        return False

    def allows(self, version: str) -> bool:
        if self.version.startswith("/") and self.version.endswith("/") and len(self.version) > 2:
            return bool(re.search(self.version[1:-1], version))
        return fnmatch.fnmatchcase(version, self.version)


@dataclass(frozen=True)
class Wanted:
    """What the site wants."""

    source: str = "auto"
    branch: str = ""
    version: str = ""
    flavour: str = "auto"
    modules: str = "auto"
    desktop: bool = False
    accept_end_of_life: bool = False
    # Where the source is mirrored; empty: anything with the source's own origin.
    repository_url: str = ""
    package_versions: Mapping[str, str] = field(default_factory=dict)
    ignored_kernels: tuple[str, ...] = ()
    hold_kernel: bool = True


@dataclass(frozen=True)
class Host:
    """What the host is."""

    distribution: str
    release: str
    architecture: str
    kernels: tuple[str, ...] = ()
    # Device identifiers of the NVIDIA GPUs, as `10de:2330`.
    gpus: tuple[str, ...] = ()
    fabric: str = "none"
    secure_boot: bool | None = None
    # The key that DKMS signs with is enrolled in the firmware.
    dkms_key_enrolled: bool = False
    installed: Mapping[str, Installed] = field(default_factory=dict)
    pins: tuple[AptPin, ...] = ()


Offers = Mapping[str, Sequence[Offer]]


# --- What comes out


@dataclass(frozen=True)
class Change:
    """What happens to one package."""

    name: str
    action: str
    before: str
    after: str


@dataclass
class DriverSet:
    """The set, or why there is none."""

    source: str = ""
    branch: int = 0
    version: str = ""
    flavour: str = ""
    # `prebuilt` or `dkms`.
    modules: str = ""
    module_names: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    preferences: str = ""
    unattended_upgrades: str = ""
    parts: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    refusals: list[Finding] = field(default_factory=list)


def same_repository(archive: str, url: str) -> bool:
    """Whether *archive*, as apt names it, lies at *url*: apt writes `file:/srv/apt`, people three slashes."""
    found, wanted = (re.sub(r"^(file|copy):/+", r"\1:/", text).rstrip("/") for text in (archive.split(" ", 1)[0], url))
    return found == wanted


def is_family(name: str) -> bool:
    """Whether a package belongs to NVIDIA's driver, whatever its branch or source."""
    return bool(_FAMILY.match(name))


def brings_module(name: str) -> bool:
    """Whether a package brings a kernel module, its source, or the pins of one branch."""
    return bool(_MODULE_PACKAGE.match(name))


def is_driver_version(version: str) -> bool:
    return bool(_DRIVER_VERSION.match(upstream(version)))
