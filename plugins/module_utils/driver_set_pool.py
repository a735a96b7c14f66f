# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a version of the driver is put together from what a source offers, and what of the host has to go for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils import driver_set_data as data
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_data import Scheme
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import (
    Host,
    Installed,
    Offer,
    Offers,
    Relation,
    Wanted,
    branch_of,
    brings_module,
    compare_versions,
    is_family,
    upstream,
    version_key,
)


@dataclass
class Candidate:
    """One version of the driver with everything that it needs, as far as it is there."""

    version: str
    variant: str
    method: str
    packages: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chosen: dict[str, Offer] = field(default_factory=dict)

    def take(self, offer: Offer) -> None:
        self.packages[offer.name] = offer.version
        self.chosen[offer.name] = offer

    def satisfies(self, relation: Relation) -> bool:
        """Whether a package of the set is what *relation* asks for, or provides it."""
        for offer in self.chosen.values():
            if offer.name == relation.name and relation.accepts(offer.version):
                return True
            for provided in offer.provides:
                if provided.name == relation.name and (not relation.operator or relation.accepts(provided.version)):
                    return True
        return False


class Pool:
    """What the source offers, and how a set is put together from it."""

    def __init__(
        self, ours: Offers, every: Offers, wanted: Wanted, host: Host, scheme: Scheme, branch: int, flavour: str
    ) -> None:
        self.ours = ours
        self.every = every
        self.wanted = wanted
        self.host = host
        self.scheme = scheme
        self.branch = branch
        self.open = "-open" if flavour == "open" else ""
        self.flavour = flavour
        self._providers: dict[str, list[Offer]] = {}
        for offers in ours.values():
            for offer in offers:
                for provided in offer.provides:
                    self._providers.setdefault(provided.name, []).append(offer)

    def _name(self, pattern: str, variant: str = "", **words: str) -> str:
        return pattern.format(branch=self.branch, variant=variant, open=self.open, **words)

    def versions(self, variant: str) -> list[str]:
        """The versions of the first user package that fit the wish, newest first, one per version of the driver."""
        found: dict[str, str] = {}
        for offer in self.ours.get(self._name(self.scheme.user[0], variant), ()):
            # The stubs of an ended branch carry the version of another one.
            if branch_of(offer.version) != self.branch or not self._is_wanted(offer.version):
                continue
            found.setdefault(upstream(offer.version), offer.version)
        return list(found.values())

    def _is_wanted(self, version: str) -> bool:
        wanted = self.wanted.version
        return not wanted or version == wanted or ("-" not in wanted and upstream(version) == wanted)

    def available(self) -> dict[int, list[str]]:
        """Every branch that the source has, with its versions, newest first."""
        found: dict[int, set[str]] = {}
        for name, offers in self.ours.items():
            if re.match(
                r"^(nvidia-headless-no-dkms-|nvidia-utils-|libnvidia-compute|nvidia-driver-cuda$|nvidia-smi$)", name
            ):
                for offer in offers:
                    number = branch_of(offer.version)
                    suffix = re.search(r"-(\d{3})(-|$)", name)
                    if number and (not suffix or int(suffix.group(1)) == number):
                        found.setdefault(number, set()).add(upstream(offer.version))
        return {number: sorted(found[number], key=version_key, reverse=True) for number in sorted(found, reverse=True)}

    def _at(self, name: str, version: str) -> Offer | None:
        """The offer of *name* that belongs to the driver *version* (a package's version), or `None`."""
        offers = self.ours.get(name, ())
        for offer in offers:
            if offer.version == version:
                return offer
        for offer in offers:
            if upstream(offer.version) == upstream(version):
                return offer
        return None

    def _own_version(self, name: str, version: str, relation: Relation | None = None) -> Offer | None:
        """The offer of a package that has a version of its own."""
        wish = self.wanted.package_versions.get(name, "")
        offers = [
            offer
            for offer in self.ours.get(name, ())
            if (not wish or wish in (offer.version, upstream(offer.version)))
            and (relation is None or relation.accepts(offer.version))
            # Debian 13 has the driver of one branch and nvidia-modprobe of another.
            and (branch_of(offer.version) in (0, self.branch) or self.scheme.helpers_of_any_branch)
        ]
        # Rather one that is not newer than the driver: a helper is tested with older drivers least of all.
        fitting = [offer for offer in offers if compare_versions(upstream(offer.version), upstream(version)) <= 0]
        best = fitting or offers
        return best[0] if best else None

    def candidate(self, version: str, variant: str, method: str) -> Candidate:
        """Put the set of *version* together."""
        candidate = Candidate(version, variant, method)
        dkms = self.scheme.dkms_open if self.flavour == "open" else self.scheme.dkms_proprietary
        names = [self._name(pattern, variant) for pattern in self.scheme.user]
        if method == "dkms":
            names += [self._name(pattern, variant) for pattern in dkms]
        if self.wanted.desktop:
            names += [self._name(pattern, variant) for pattern in self.scheme.desktop]
        for name in names:
            self._require(candidate, name)
        if method == "prebuilt":
            self._prebuilt(candidate)
        else:
            self._headers(candidate)
        self._parts(candidate)
        for pattern in self.scheme.optional:
            name = self._name(pattern, variant)
            offer = self._at(name, version) or self._own_version(name, version)
            if offer:
                candidate.take(offer)
        for pattern in self.scheme.pinning:
            pin = self.ours.get(self._name(pattern, version=upstream(version)), ())
            if pin:
                candidate.take(pin[0])
                break
        self._close(candidate)
        return candidate

    def _require(self, candidate: Candidate, name: str) -> None:
        offer = self._at(name, candidate.version)
        if offer:
            candidate.take(offer)
            return
        there = [each.version for each in self.ours.get(name, ())]
        candidate.missing.append(f"{name} (there is {', '.join(there[:3])})" if there else f"{name} (in no version)")

    def _kernels(self) -> list[str]:
        return [kernel for kernel in self.host.kernels if kernel not in self.wanted.ignored_kernels]

    def _driver_of(self, offer: Offer, variant: str) -> str:
        """The driver that prebuilt modules belong to: they say so in what they depend on."""
        witness = self._name(self.scheme.prebuilt_witness, variant)
        for alternatives in offer.depends:
            for relation in alternatives:
                if relation.name == witness and relation.operator == ">=":
                    return upstream(relation.version)
        return ""

    def _prebuilt(self, candidate: Candidate) -> None:
        driver = upstream(candidate.version)
        taken = {}
        for kernel in self._kernels():
            name = self._name(self.scheme.prebuilt, candidate.variant, kernel=kernel)
            fitting = [
                offer for offer in self.ours.get(name, ()) if self._driver_of(offer, candidate.variant) == driver
            ]
            if fitting:
                candidate.take(fitting[0])
                taken[name] = fitting[0].version
                continue
            there = sorted({self._driver_of(offer, candidate.variant) for offer in self.ours.get(name, ())} - {""})
            candidate.missing.append(
                f"signed modules for kernel {kernel} ({name} is there for {', '.join(there)})"
                if there
                else f"signed modules for kernel {kernel} ({name} does not exist)"
            )
        # The package that follows the kernel's flavour, where it leads to exactly these modules.
        for flavour in dict.fromkeys(kernel.split("-", 2)[-1] for kernel in self._kernels()):
            name = self._name(self.scheme.prebuilt_meta, candidate.variant, flavour=flavour)
            for offer in self.ours.get(name, ()):
                target = {
                    relation.name: relation.version for alternatives in offer.depends for relation in alternatives
                }
                if any(target.get(each) == version for each, version in taken.items()):
                    candidate.take(offer)
                    break
        if not self._kernels():
            candidate.missing.append("a kernel: the host has none installed that modules could be for")

    def _headers(self, candidate: Candidate) -> None:
        for kernel in self._kernels():
            name = f"linux-headers-{kernel}"
            installed = self.host.installed.get(name)
            offers = self.every.get(name, ())
            if installed and installed.state == "installed":
                candidate.packages[name] = installed.version
            elif offers:
                newest = max(offers, key=lambda offer: version_key(offer.version))
                candidate.packages[name] = newest.version
            else:
                candidate.missing.append(f"headers of kernel {kernel}")
        # The package that brings each new kernel is followed by the one that brings its headers.
        for image, installed in self.host.installed.items():
            if not re.match(r"^linux-image-(?!\d|unsigned-|extra-|uc-)", image) or installed.state != "installed":
                continue
            name = image.replace("linux-image-", "linux-headers-", 1)
            there = self.host.installed.get(name)
            same = [offer for offer in self.every.get(name, ()) if offer.version == installed.version]
            if same or (there and there.state == "installed"):
                candidate.packages[name] = same[0].version if same else (there.version if there else "")

    def _parts(self, candidate: Candidate) -> None:
        for part in data.PARTS_BY_FABRIC.get(self.host.fabric, ()):
            if part in data.AMD64_ONLY_PARTS and self.host.architecture != "amd64":
                continue
            pattern = data.part_name(self.scheme, part, self.branch)
            if not pattern:
                candidate.missing.append(f"the {part}, which this source does not have at all")
                continue
            name = self._name(pattern, candidate.variant)
            before = len(candidate.missing)
            if part in data.OWN_VERSION_PARTS:
                offer = self._own_version(name, candidate.version)
                if offer:
                    candidate.take(offer)
                else:
                    candidate.missing.append(f"{name} (in no version)")
            else:
                self._require(candidate, name)
            if len(candidate.missing) == before:
                candidate.parts.append(part)

    def _close(self, candidate: Candidate) -> None:
        """Add what the packages of the set depend on, as far as it is of the driver, in versions that fit."""
        waiting = list(candidate.chosen.values())
        while waiting:
            offer = waiting.pop(0)
            for alternatives in offer.depends:
                if not any(is_family(relation.name) or relation.name in self._providers for relation in alternatives):
                    continue
                if any(candidate.satisfies(relation) for relation in alternatives):
                    continue
                found = self._dependency(candidate, alternatives)
                if found:
                    candidate.take(found)
                    waiting.append(found)
                elif all(is_family(relation.name) for relation in alternatives):
                    words = " | ".join(
                        f"{relation.name} ({relation.operator} {relation.version})"
                        if relation.operator
                        else relation.name
                        for relation in alternatives
                    )
                    candidate.missing.append(f"{words}, which {offer.name} needs")

    def _dependency(self, candidate: Candidate, alternatives: Sequence[Relation]) -> Offer | None:
        for relation in alternatives:
            offer = self._at(relation.name, candidate.version)
            if offer and relation.accepts(offer.version):
                return offer
        for relation in alternatives:
            offer = self._own_version(relation.name, candidate.version, relation)
            if offer:
                return offer
        for relation in alternatives:
            for offer in self._providers.get(relation.name, ()):
                if upstream(offer.version) == upstream(candidate.version):
                    return offer
        return None

    def include_installed(self, candidate: Candidate) -> None:
        """What is installed beyond the set and exists in its version moves with it, such as a desktop's libraries."""
        for name, installed in sorted(self.host.installed.items()):
            if name in candidate.packages or not self._is_driver(name, installed) or brings_module(name):
                continue
            offer = self._at(name, candidate.version)
            if offer and branch_of(offer.version) == self.branch and self._same_scheme(name):
                candidate.take(offer)
        self._close(candidate)

    def _same_scheme(self, name: str) -> bool:
        """Whether *name* can stand beside the set: metas that would bring another kernel module cannot."""
        return not re.match(r"^(cuda-drivers|nvidia-open(-\d+)?$|nvidia-(driver|headless)(-|$)(?!cuda|libs|bin))", name)

    def _is_driver(self, name: str, installed: Installed) -> bool:
        return bool(is_family(name)) and installed.state not in ("config-files", "not-installed")

    def to_remove(self, candidate: Candidate) -> list[str]:
        """What is installed of another driver, or of another kind of module."""
        names = []
        for name, installed in self.host.installed.items():
            if name in candidate.packages or not self._is_driver(name, installed):
                continue
            number = branch_of(installed.version)
            other = bool(number) and number != self.branch
            suffix = re.search(r"-(\d{3})(-|$)", name)
            other = other or bool(suffix and int(suffix.group(1)) != self.branch)
            # The source knows no such package of this branch: it is of another source, and conflicts with the set.
            foreign = bool(number) and not any(
                branch_of(offer.version) == self.branch for offer in self.ours.get(name, ())
            )
            # A meta-package that would bring another kernel module, or the next branch.
            stale = foreign or bool(number) and not self._same_scheme(name)
            renamed = bool(suffix) and self.scheme is data.NVIDIA_UNSUFFIXED
            # Firmware has its version in its name as well: the new one comes beside the old one, and conflicts with it.
            named = re.search(r"-(\d{3}\.\d+(\.\d+)?)$", name)
            renamed = renamed or bool(named and named.group(1) != upstream(candidate.version))
            ignored = any(name.endswith(kernel) for kernel in self.wanted.ignored_kernels)
            if (other or stale or renamed or brings_module(name)) and not ignored:
                names.append(name)
        return names

    def kernel_packages(self) -> list[str]:
        """The packages that would bring a new kernel."""
        return [
            name
            for name, installed in self.host.installed.items()
            if installed.state == "installed"
            and re.match(
                r"^linux-(image-|headers-)?(generic|virtual|lowlatency|aws|azure|gcp|oracle|nvidia|amd64|arm64|"
                r"cloud-|rt-)",
                name,
            )
            and not re.match(r"^linux-(modules|objects|signatures)-", name)
        ]
