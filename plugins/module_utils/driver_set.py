# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages, in exactly which versions, are a host's NVIDIA driver: one set that moves as a whole, or not at all.

What is decided here is decided from plain values; `driver_set_host` reads them from a host. Nothing here changes one.

The set is the newest version of the wanted branch for which the source offers *every* part: modules for all installed
kernels, utilities, and what the GPUs' fabric needs. A version that is newer in one part only is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.baremetal.llm.plugins.module_utils import driver_set_data as data
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_data import Scheme
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_pool import Candidate, Pool
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import (
    Change,
    DriverSet,
    Host,
    Installed,
    Offer,
    Offers,
    Wanted,
    branch_of,
    compare_versions,
    is_driver_version,
    is_family,
    same_repository,
    upstream,
    version_key,
)
from ansible_collections.baremetal.llm.plugins.module_utils.finding import Findings, suggestion

PIN_PRIORITY = 1001
"""Above 1000, so that apt moves packages down as well."""


# --- Hardware


def architecture_of(device: str, host_architecture: str = "amd64") -> str:
    """The generation of a GPU by its PCI identifier (`10de:2330`), or an empty text if it is not known."""
    number = int(device.rpartition(":")[2] or "0", 16)
    if number in data.GRACE_HOPPER:
        return "grace hopper"
    for first, last, name in data.DEVICE_RANGES:
        if first <= number <= last:
            # Every Hopper below an Arm host is one half of a superchip.
            return "grace hopper" if name == "hopper" and host_architecture == "arm64" else name
    return ""


def fabric_of(devices: Iterable[str], nvswitches: int) -> str:
    """What connects the GPUs, by what is on the PCI bus: none, nvswitch, nvlink5 or nvlink5_multinode."""
    numbers = {int(device.rpartition(":")[2] or "0", 16) for device in devices}
    if numbers & data.NVLINK5_MULTINODE_DEVICES:
        return "nvlink5_multinode"
    if numbers & data.NVLINK5_DEVICES:
        return "nvlink5"
    return "nvswitch" if nvswitches else "none"


# --- The decision


class _Decision(Findings):
    def __init__(self, wanted: Wanted, host: Host) -> None:
        super().__init__()
        self.wanted = wanted
        self.host = host
        self.result = DriverSet()
        self.architectures = tuple(
            dict.fromkeys(name for name in (architecture_of(gpu, host.architecture) for gpu in host.gpus) if name)
        )

    # What can be said before apt is asked.

    def check_wish(self) -> None:
        """Source, branch, version and GPUs against each other."""
        wanted, host, result = self.wanted, self.host, self.result
        result.architectures = self.architectures
        unknown = [gpu for gpu in host.gpus if not architecture_of(gpu, host.architecture)]
        if unknown:
            result.notes.append(
                f"{', '.join(unknown)} is in no table of this collection: taken for a GPU newer than all of them"
            )
        releases = data.DISTRIBUTIONS.get(host.distribution, ())
        if host.release not in releases:
            supported = ", ".join(
                f"{name.capitalize()} {', '.join(known)}" for name, known in data.DISTRIBUTIONS.items()
            )
            self.add(
                "driver-distribution-unsupported",
                "nvidia_driver_source",
                f"does not know {host.distribution} {host.release}",
                f"use {supported}, or exclude the host",
            )
            return
        source = wanted.source
        if source == "auto":
            source = "canonical" if host.distribution == "ubuntu" else "nvidia"
        result.source = source
        if host.distribution not in data.SOURCES.get(source, ()):
            fitting = [name for name, known in data.SOURCES.items() if host.distribution in known]
            self.add(
                "driver-source-unfit",
                "nvidia_driver_source",
                f"is {source!r}, which has no packages for {host.distribution.capitalize()} {host.release}",
                f"choose {' or '.join(fitting)}",
            )
        self._check_branch()
        if result.branch:
            self._check_gpus()
            self._choose_flavour()

    def _check_branch(self) -> None:
        wanted, result = self.wanted, self.result
        known = ", ".join(str(number) for number, branch in data.BRANCHES.items() if not branch.ended)
        if wanted.version and not is_driver_version(wanted.version):
            self.add(
                "driver-version-invalid",
                "nvidia_driver_version",
                f"is {wanted.version!r}, which is no version of a driver",
                "write it as 580.178.04, or as the package's whole version, or leave it empty",
            )
            return
        if wanted.branch and not re.match(r"^\d{3}$", wanted.branch):
            self.add(
                "driver-branch-unknown",
                "nvidia_driver_branch",
                f"is {wanted.branch!r}, which is no branch",
                f"write three digits, for example one of {known}",
            )
            return
        if not wanted.branch and not wanted.version:
            self.add(
                "driver-branch-unknown",
                "nvidia_driver_branch",
                "and nvidia_driver_version are both empty",
                f"set a branch, for example one of {known}",
            )
            return
        of_version = branch_of(wanted.version) if wanted.version else 0
        number = int(wanted.branch) if wanted.branch else of_version
        if of_version and of_version != number:
            self.add(
                "driver-pins-contradict",
                "nvidia_driver_version",
                f"is {wanted.version}, which belongs to branch {of_version}, but nvidia_driver_branch is {number}",
                "remove one of them, or make them agree",
            )
            return
        branch = data.BRANCHES.get(number)
        newest = max(data.BRANCHES)
        if branch is None and number < newest:
            self.add(
                "driver-branch-unknown",
                "nvidia_driver_branch",
                f"is {number}, a branch that NVIDIA never released"
                + suggestion(str(number), [str(each) for each in data.BRANCHES]),
                f"choose one of {known}",
            )
            return
        result.branch = number
        if branch is None:
            result.notes.append(f"branch {number} is newer than this collection, which knows up to {newest}")
        elif branch.ended and not self.wanted.accept_end_of_life:
            since = (
                "is no longer in NVIDIA's support matrix"
                if branch.end == data.SUPERSEDED
                else f"got its last fixes in {branch.end}"
            )
            self.add(
                "driver-branch-ended",
                "nvidia_driver_branch",
                f"is {number}, a {branch.kind} that {since}",
                f"choose one of {known}, or set nvidia_driver_accept_end_of_life to true",
            )
        if wanted.version:
            for name, version in sorted(wanted.package_versions.items()):
                if branch_of(version) and upstream(version) != upstream(wanted.version):
                    self.add(
                        "driver-pins-contradict",
                        "nvidia_driver_package_versions",
                        f"pins {name} to {version}, but nvidia_driver_version is {wanted.version}",
                        "remove the pin: everything that is versioned with the driver follows it",
                    )

    def _check_gpus(self) -> None:
        number = self.result.branch
        for name in self.architectures:
            architecture = data.ARCHITECTURES[name]
            if architecture.last_branch and number > architecture.last_branch:
                self.add(
                    "driver-gpu-unsupported",
                    "nvidia_driver_branch",
                    f"is {number}, which no longer runs the {name.capitalize()} GPU of this host",
                    f"use branch {architecture.last_branch}, the last one for it, or replace the GPU",
                )
            elif number < architecture.first_branch:
                self.add(
                    "driver-gpu-too-new",
                    "nvidia_driver_branch",
                    f"is {number}, which does not know the {name.capitalize()} GPU of this host yet",
                    f"use branch {architecture.first_branch} or a newer one",
                )

    def _choose_flavour(self) -> None:
        wanted, result = self.wanted, self.result
        known = [data.ARCHITECTURES[name] for name in self.architectures]
        only_open = [each.name for each in known if not each.proprietary_modules]
        only_proprietary = [each.name for each in known if not each.open_modules]
        if only_open and only_proprietary:
            self.add(
                "driver-flavour-impossible",
                "nvidia_driver_flavour",
                f"cannot be chosen: {', '.join(only_open)} needs the open modules and "
                f"{', '.join(only_proprietary)} the proprietary ones, and a host loads one kind",
                "put these GPUs into different hosts",
            )
            return
        flavour = wanted.flavour
        if flavour == "auto":
            if only_proprietary:
                flavour = "proprietary"
            elif only_open or result.branch >= data.OPEN_DEFAULT_SINCE:
                flavour = "open"
            else:
                flavour = "proprietary"
        elif flavour == "open" and only_proprietary:
            self.add(
                "driver-flavour-impossible",
                "nvidia_driver_flavour",
                f"is 'open', which {', '.join(only_proprietary)} cannot run",
                "set it to 'auto' or 'proprietary'",
            )
        elif flavour == "proprietary" and only_open:
            self.add(
                "driver-flavour-impossible",
                "nvidia_driver_flavour",
                f"is 'proprietary', which {', '.join(only_open)} cannot run",
                "set it to 'auto' or 'open'",
            )
        if flavour == "proprietary" and result.branch > data.PROPRIETARY_UNTIL:
            self.add(
                "driver-flavour-impossible",
                "nvidia_driver_flavour",
                f"is proprietary, which branch {result.branch} no longer has",
                f"set it to 'open', or use branch {data.PROPRIETARY_UNTIL} or an older one",
            )
        result.flavour = flavour

    # What apt offers.

    def choose(self, offers: Offers) -> None:
        """Find the newest complete set."""
        result = self.result
        scheme = data.scheme_of(result.source, self.host.distribution, result.branch)
        ours = {
            name: sorted(
                (offer for offer in every if self._from_source(offer)),
                key=lambda offer: version_key(offer.version),
                reverse=True,
            )
            for name, every in offers.items()
        }
        pool = Pool(ours, offers, self.wanted, self.host, scheme, result.branch, result.flavour)
        if not self._check_offered(pool):
            return
        methods = self._methods(scheme)
        if not methods:
            return
        complete: Candidate | None = None
        nearest: Candidate | None = None
        for method in methods:
            for variant in scheme.variants:
                for version in pool.versions(variant):
                    candidate = pool.candidate(version, variant, method)
                    if nearest is None or len(candidate.missing) < len(nearest.missing):
                        nearest = candidate
                    if not candidate.missing:
                        complete = candidate
                        break
                if complete:
                    break
            if complete:
                break
        if complete is None:
            self._refuse_incomplete(nearest, methods)
            return
        newest = max((offer for variant in scheme.variants for offer in pool.versions(variant)), key=version_key)
        if upstream(newest) != upstream(complete.version) and not self.wanted.version:
            lacking = pool.candidate(newest, complete.variant, complete.method).missing
            result.notes.append(
                f"{upstream(newest)} is offered as well, but not as a whole: {'; '.join(lacking[:3])}"
                if lacking
                else f"{upstream(newest)} is offered as well"
            )
        result.version = upstream(complete.version)
        result.modules = complete.method
        result.module_names = scheme.modules
        result.parts = tuple(complete.parts)
        result.notes.extend(complete.notes)
        pool.include_installed(complete)
        self._check_pins(complete)
        self._finish(complete, pool)

    def _from_source(self, offer: Offer) -> bool:
        url = self.wanted.repository_url
        if url:
            return any(same_repository(archive, url) for archive, _origin in offer.archives)
        return any(origin == data.ORIGINS[self.result.source] for _archive, origin in offer.archives)

    def _check_offered(self, pool: Pool) -> bool:
        """Whether the source has the branch, and the version, at all."""
        result, wanted = self.result, self.wanted
        where = wanted.repository_url or f"the source {result.source!r}"
        available = pool.available()
        if any(pool.versions(variant) for variant in pool.scheme.variants):
            return True
        if not available:
            self.add(
                "driver-source-empty",
                "nvidia_driver_repository_url" if wanted.repository_url else "nvidia_driver_source",
                f"leads to no NVIDIA driver at all: apt knows no package of {where}",
                "check that the archive is in apt's sources, with the components that hold it (restricted and "
                "multiverse, or contrib, non-free and non-free-firmware), and that its lists were fetched",
            )
            return False
        listed = "; ".join(f"{branch}: {', '.join(versions[:4])}" for branch, versions in available.items())
        if result.branch not in available:
            self.add(
                "driver-branch-not-offered",
                "nvidia_driver_branch",
                f"is {result.branch}, which {where} does not have",
                f"choose what it has ({listed}), or another nvidia_driver_source",
            )
        else:
            self.add(
                "driver-version-not-offered",
                "nvidia_driver_version",
                f"is {wanted.version}, which {where} does not have"
                if wanted.version
                else f"is empty, and {where} has no {result.flavour} driver of branch {result.branch} that can be used",
                f"choose what it has ({listed}), or mirror the versions that you use: archives drop old ones",
            )
        return False

    def _methods(self, scheme: Scheme) -> list[str]:
        """The ways to get kernel modules that this host can use, the best one first."""
        wanted, host = self.wanted, self.host
        methods = [method for method in ("prebuilt", "dkms") if method == "dkms" or scheme.prebuilt]
        if wanted.modules != "auto":
            if wanted.modules not in methods:
                self.add(
                    "driver-modules-impossible",
                    "nvidia_driver_modules",
                    f"is 'prebuilt', which only the source 'canonical' has, not {self.result.source!r}",
                    "set it to 'auto' or 'dkms', or set nvidia_driver_source to 'canonical'",
                )
                return []
            methods = [wanted.modules]
        if host.secure_boot and "dkms" in methods and not host.dkms_key_enrolled:
            methods.remove("dkms")
            if not methods:
                self.add(
                    "driver-secure-boot-unsigned",
                    "nvidia_driver_source" if wanted.modules == "auto" else "nvidia_driver_modules",
                    "builds the modules on the host, and with Secure Boot the kernel loads none whose key is not "
                    "enrolled",
                    (
                        "set nvidia_driver_source to 'canonical', whose modules are signed, "
                        if host.distribution == "ubuntu"
                        else ""
                    )
                    + "or enrol the key of DKMS: install dkms, run `dkms generate_mok` and `mokutil --import "
                    "/var/lib/dkms/mok.pub`, reboot and confirm it at the console; or switch Secure Boot off",
                )
        return methods

    def _refuse_incomplete(self, candidate: Candidate | None, methods: Sequence[str]) -> None:
        if candidate is None:  # pragma: no cover - _check_offered has found a version
            return
        kernels = [text for text in candidate.missing if text.startswith("headers ")]
        if kernels and len(kernels) == len(candidate.missing):
            self.add(
                "driver-headers-missing",
                "nvidia_driver_ignored_kernels",
                f"does not name them, but no source of apt has the {'; the '.join(kernels)}: without headers no module "
                "can be built, and a boot into that kernel would have no GPU",
                "remove the kernel (apt purge linux-image-<release>), install its headers from where the kernel came "
                "from, or name the kernel in nvidia_driver_ignored_kernels if it will never be booted",
            )
            return
        signed = (
            " With Secure Boot only modules that the distribution built and signed can be loaded."
            if self.host.secure_boot and methods == ["prebuilt"]
            else ""
        )
        self.add(
            "driver-set-incomplete",
            "nvidia_driver_version" if self.wanted.version else "nvidia_driver_branch",
            f"leads to {upstream(candidate.version)}, of which parts are missing: "
            f"{'; '.join(candidate.missing)}.{signed}",
            "choose another version or branch, or a source that has them: nvidia has every part, canonical has no "
            "subnet manager, debian has nothing for NVSwitch",
        )

    def _check_pins(self, candidate: Candidate) -> None:
        """Pins of others that would pull a package of the set away again."""
        for name, version in sorted(self.wanted.package_versions.items()):
            chosen = candidate.packages.get(name)
            if chosen is not None and chosen != version:
                self.add(
                    "driver-pins-contradict",
                    "nvidia_driver_package_versions",
                    f"pins {name} to {version}, but the set of {upstream(candidate.version)} needs {chosen}",
                    "remove the pin, or set nvidia_driver_version to what it belongs to",
                )
            elif chosen is None:
                self.add(
                    "driver-pins-contradict",
                    "nvidia_driver_package_versions",
                    f"pins {name}, which is no part of this host's driver" + suggestion(name, list(candidate.packages)),
                    "remove it, or correct the name",
                )
        contradicted: dict[tuple[str, str], list[str]] = {}
        for pin in self.host.pins:
            if pin.priority < 990:
                continue
            for name, version in candidate.packages.items():
                if pin.matches(name) and not pin.allows(version):
                    contradicted.setdefault((pin.path, pin.version), []).append(f"{name}={version}")
        for (path, version), names in contradicted.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            self.add(
                "driver-pins-contradict",
                "nvidia_driver_version",
                f"leads to {', '.join(names[:3])}{more}, but {path} on the host pins to {version}",
                f"remove that pin from {path}, or set nvidia_driver_version to what it asks for",
            )

    def _finish(self, candidate: Candidate, pool: Pool) -> None:
        result, host = self.result, self.host
        if self.findings:
            return
        result.packages = dict(sorted(candidate.packages.items()))
        result.remove = tuple(sorted(pool.to_remove(candidate)))
        kernel = pool.kernel_packages() if self.wanted.hold_kernel else []
        result.hold = tuple(sorted({*result.packages, *kernel}))
        result.changes = tuple(changes_of(result.packages, result.remove, host.installed))
        result.preferences = preferences_text(
            {name: version for name, version in result.packages.items() if is_family(name)}
        )
        result.unattended_upgrades = unattended_text(self.wanted.hold_kernel)


def changes_of(packages: Mapping[str, str], remove: Iterable[str], installed: Mapping[str, Installed]) -> list[Change]:
    """What would happen to each package, one by one."""
    changes = []
    for name, version in packages.items():
        before = installed.get(name)
        if before is None or before.state in ("config-files", "not-installed"):
            changes.append(Change(name, "install", "", version))
        elif before.version != version:
            up = compare_versions(before.version, version) < 0
            changes.append(Change(name, "upgrade" if up else "downgrade", before.version, version))
        elif before.state != "installed":
            changes.append(Change(name, "repair", f"{before.version} ({before.state})", version))
    changes.extend(Change(name, "remove", installed[name].version, "") for name in remove)
    return changes


def preferences_text(packages: Mapping[str, str]) -> str:
    """The file for /etc/apt/preferences.d that keeps the set where it is."""
    versions: dict[str, list[str]] = {}
    for name, version in sorted(packages.items()):
        versions.setdefault(version, []).append(name)
    records = [
        f"Package: {' '.join(names)}\nPin: version {version}\nPin-Priority: {PIN_PRIORITY}\n"
        for version, names in versions.items()
    ]
    head = "# Written by the role nvidia_driver of baremetal.llm: the driver moves as one set, or not at all.\n\n"
    return head + "\n".join(records)


def unattended_text(hold_kernel: bool) -> str:
    """The file for /etc/apt/apt.conf.d that keeps unattended-upgrades away from the set."""
    patterns = (*data.UNATTENDED_BLACKLIST, *(data.UNATTENDED_KERNEL if hold_kernel else ()))
    lines = "".join(f'    "{pattern}";\n' for pattern in patterns)
    return (
        "// Written by the role nvidia_driver of baremetal.llm: engines break when the driver is replaced under them.\n"
        f"Unattended-Upgrade::Package-Blacklist {{\n{lines}}};\n"
    )


def check_wish(wanted: Wanted, host: Host) -> DriverSet:
    """What can be decided without knowing what apt offers: source, branch, flavour, or refusals."""
    decision = _Decision(wanted, host)
    decision.check_wish()
    decision.result.refusals = decision.findings
    return decision.result


def resolve(wanted: Wanted, host: Host, offers: Offers) -> DriverSet:
    """The whole set, or refusals."""
    decision = _Decision(wanted, host)
    decision.check_wish()
    if not decision.findings:
        decision.choose(offers)
    decision.result.refusals = decision.findings
    return decision.result
