# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the settings of the roles container_toolkit and cuda_toolkit, all at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ansible_collections.baremetal.llm.plugins.module_utils.advisories import version_key
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import compare_versions
from ansible_collections.baremetal.llm.plugins.module_utils.package_set import split_version

# NVIDIA's packages are the same for all of these.
RELEASES: Mapping[str, tuple[str, ...]] = {"Debian": ("12", "13"), "Ubuntu": ("22", "24", "26")}

ENGINES = ("podman", "docker")

# NVIDIA's installation guide: the first podman that knows CDI.
PODMAN_WITH_CDI = "4.1.0"

# These bring a driver, which belongs to the role nvidia_driver.
WITH_DRIVER = frozenset({"cuda", "cuda-drivers", "cuda-runtime", "cuda-demo-suite", "nvidia-open"})

_VERSION = re.compile(r"[0-9]+(\.[0-9]+)+(~[a-z0-9.]+)?")
_CREDENTIALS = re.compile(r"://[^/]*@")


class Advisory(NamedTuple):
    """A published hole in every version older than `fixed`."""

    identifier: str
    fixed: str
    summary: str


# Bulletins in NVIDIA/product-security.
CONTAINER_TOOLKIT: tuple[Advisory, ...] = (
    Advisory("CVE-2026-24260", "1.19.1", "a container can run code on the host"),
    Advisory("CVE-2025-23266", "1.17.8", "a container can run code on the host while it is set up"),
)


class Settings(NamedTuple):
    """What a site wrote for one of the roles, and what the host is."""

    role: str
    host: str
    distribution: str
    release: str
    version: str
    repository_url: str
    keyring: str
    keyring_sha256: str
    environment: Mapping[str, str]


def common_problems(settings: Settings) -> list[str]:
    """Return what both roles refuse."""
    role, problems = settings.role, []
    known = RELEASES.get(settings.distribution, ())
    if settings.release.split(".")[0] not in known:
        listing = " and ".join(f"{name} {', '.join(releases)}" for name, releases in RELEASES.items())
        problems.append(
            f"Host {settings.host} runs {settings.distribution} {settings.release}; the role {role} knows {listing}."
        )
    if not _VERSION.fullmatch(split_version(settings.version)[1]):
        problems.append(
            f"{role}_version is {settings.version!r}, which is no version. Write one like 1.20.0 or 1.20.0-1."
        )
    if settings.repository_url:
        problems += _source_problems(settings)
    leaking = [name for name, value in settings.environment.items() if _CREDENTIALS.search(str(value))]
    if leaking:
        problems.append(
            f"{role}_environment: {', '.join(leaking)} of {settings.host} is a URL with credentials. Ansible puts these"
            " variables into command lines, which every user of the host can read: use a proxy that knows the hosts by"
            " their addresses, or a package mirror."
        )
    return problems


def _source_problems(settings: Settings) -> list[str]:
    role, problems = settings.role, []
    if _CREDENTIALS.search(settings.repository_url):
        problems.append(
            f"{role}_repository_url has credentials in it, and apt's sources can be read by every user of the host."
            " Write them into a file in /etc/apt/auth.conf.d (apt_auth.conf(5)) and leave them out here."
        )
    if not settings.keyring:
        problems.append(
            f"{role}_keyring is empty: a repository needs the key that it is signed with, a URL or the path of a file"
            " on the controller."
        )
    elif "://" in settings.keyring and not re.fullmatch(r"[0-9a-f]{64}", settings.keyring_sha256.lower()):
        problems.append(
            f"{role}_keyring is a URL, and {role}_keyring_sha256 is {settings.keyring_sha256!r}, which is no SHA-256."
            " Fetch the key once, compare its fingerprint with the vendor's, and write down what sha256sum says."
        )
    return problems


def container_toolkit_problems(
    settings: Settings, accepted: Sequence[str], engines: Sequence[str], podman: str, has_docker: bool
) -> list[str]:
    """Return what the role container_toolkit refuses. `podman` is the installed version, empty if there is none."""
    problems = common_problems(settings)
    upstream = split_version(settings.version)[1]
    if _VERSION.fullmatch(upstream):
        open_holes = [
            each
            for each in CONTAINER_TOOLKIT
            if compare_versions(upstream, each.fixed) < 0 and each.identifier not in accepted
        ]
        if open_holes:
            listing = "; ".join(f"{each.identifier}, {each.summary}" for each in open_holes)
            problems.append(
                f"container_toolkit_version is {settings.version}, which has known holes ({listing}). Take"
                f" {CONTAINER_TOOLKIT[0].fixed} or newer, or name them in container_toolkit_accepted_advisories."
            )
    unknown = sorted(set(accepted) - {each.identifier for each in CONTAINER_TOOLKIT})
    if unknown:
        problems.append(
            f"container_toolkit_accepted_advisories names {', '.join(unknown)}, which accepts nothing: known are"
            f" {', '.join(each.identifier for each in CONTAINER_TOOLKIT)}."
        )
    strangers = sorted(set(engines) - set(ENGINES))
    if strangers:
        problems.append(f"container_toolkit_engines names {', '.join(strangers)}; it can name {' and '.join(ENGINES)}.")
    if "podman" in engines and podman:
        upstream = split_version(podman)[1].split("+")[0].split("~")[0]
        if version_key(upstream) < version_key(PODMAN_WITH_CDI):
            problems.append(
                f"podman on {settings.host} is {podman}, and knows CDI only from {PODMAN_WITH_CDI}. Install a newer"
                " podman, or leave it out of container_toolkit_engines."
            )
    if "docker" in engines and not has_docker:
        problems.append(
            f"container_toolkit_engines of {settings.host} names docker, and there is no /usr/bin/dockerd. Install"
            " Docker first, or leave it out."
        )
    return problems


def cuda_toolkit_series(version: str) -> str:
    """Return the part of the package names that stands for a version: 13-4 for 13.4.1-1."""
    return "-".join(split_version(version)[1].split(".")[:2])


def cuda_toolkit_problems(settings: Settings, packages: Sequence[str]) -> list[str]:
    """Return what the role cuda_toolkit refuses."""
    problems = common_problems(settings)
    if len(split_version(settings.version)[1].split(".")) < 3:
        problems.append(
            f"cuda_toolkit_version is {settings.version!r}; it needs three numbers, as in 13.4.1: the first two choose"
            " the packages, the third the build."
        )
    drivers = sorted(WITH_DRIVER.intersection(packages))
    if drivers:
        problems.append(
            f"cuda_toolkit_packages names {', '.join(drivers)}, which would bring a driver. Name cuda-toolkit,"
            " cuda-compiler or another meta package of the toolkit; the driver is the task of the role nvidia_driver."
        )
    numbered = [name for name in packages if re.search(r"-[0-9]+(-[0-9]+)?$", name)]
    if numbered:
        problems.append(
            f"cuda_toolkit_packages names {', '.join(numbered)}: leave out the numbers at the end, they come from"
            " cuda_toolkit_version."
        )
    if not packages:
        problems.append("cuda_toolkit_packages is empty. Name a package, or do not use the role.")
    return problems
