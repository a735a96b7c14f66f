# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages of apt that only work together at one version: which versions there are, what has to move, what to hold.

apt is asked first what it would do, and nothing is done if it would remove or change what nobody asked for. The set
moves in one transaction, up or down, and is held afterwards: dpkg forgets a hold when it unpacks the package.
"""

from __future__ import annotations

import fnmatch
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import version_key

# Ours to move, so a hold on them is no reason to stop; what else is held is looked after in `_refuse_collateral`.
_APT_GET = (
    "env",
    "DEBIAN_FRONTEND=noninteractive",
    # Ubuntu's needrestart would restart services, container engines among them, behind our back.
    "NEEDRESTART_MODE=l",
    "NEEDRESTART_SUSPEND=1",
    "apt-get",
)
_INSTALL = (
    *("--yes", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages"),
    *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
)
_QUERY_FORMAT = "${Package}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\n"
# Anything else is a package in pieces, which apt has to put in place.
_INSTALLED = ("installed", "triggers-awaited", "triggers-pending")
_ACTION = re.compile(r"(Inst|Remv|Purg) (\S+)(?: \[([^\]]*)\])?(?: \((\S+) )?")
_MOST_ROUNDS = 8


class Refusal(Exception):
    """Something that a person has to decide or repair. Nothing was changed, unless the text says so."""


class Result(Protocol):
    """How a command ended."""

    @property
    def code(self) -> int: ...

    @property
    def stdout(self) -> str: ...

    @property
    def stderr(self) -> str: ...


class Host(Protocol):
    """Where commands run: `module_utils.system.System`, or a table in a test."""

    def run(self, argv: Sequence[str], timeout_seconds: float = ...) -> Result: ...


@dataclass(frozen=True)
class Request:
    """What is wanted. `companions` are patterns of names that move along where they can, and are held in any case."""

    packages: tuple[str, ...]
    version: str
    companions: tuple[str, ...] = ()
    source_file: str = ""
    source_pending: bool = False
    setting: str = "version"
    timeout_seconds: float = 900.0


@dataclass(frozen=True)
class Installed:
    """A package on the host."""

    version: str
    held: bool


@dataclass(frozen=True)
class Simulation:
    """What apt would do: versions that it would install, and what it would remove."""

    install: Mapping[str, str]
    remove: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be done. `unknown` says why more cannot be said before an earlier step was taken (check mode)."""

    versions: Mapping[str, str]
    install: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    unknown: str = ""
    before: Mapping[str, Installed] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return bool(self.install or self.hold or self.unknown)


# ---------------------------------------------------------------------------------------------------------------------
# Versions


def split_version(version: str) -> tuple[int, str, str]:
    """Return epoch, upstream version and revision of a package."""
    epoch, colon, rest = version.partition(":")
    if not colon or not epoch.isdigit():
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch), upstream if dash else rest, revision if dash else ""


def newest_first(versions: Iterable[str]) -> list[str]:
    return sorted(set(versions), key=version_key, reverse=True)


def matching_version(wanted: str, offered: Iterable[str]) -> str:
    """Return the offered version that `wanted` names: itself, or its newest revision; empty if there is none."""
    for version in newest_first(offered):
        if wanted in (version, split_version(version)[1]):
            return version
    return ""


# ---------------------------------------------------------------------------------------------------------------------
# What apt and dpkg say


def parse_offers(madison: str) -> dict[str, list[str]]:
    """Return the versions of each package, the newest first, from the output of `apt-cache madison`."""
    found: dict[str, list[str]] = {}
    for line in madison.splitlines():
        columns = [column.strip() for column in line.split("|")]
        if len(columns) == 3 and columns[2].split()[-1:] == ["Packages"]:
            found.setdefault(columns[0], []).append(columns[1])
    return {name: newest_first(versions) for name, versions in found.items()}


def parse_installed(query: str) -> dict[str, Installed]:
    """Return what is installed, from the output of dpkg-query."""
    found = {}
    for line in query.splitlines():
        columns = line.split("\t")
        if len(columns) == 4 and columns[3] in _INSTALLED:
            found[columns[0]] = Installed(columns[1], columns[2] == "hold")
    return found


def parse_simulation(output: str) -> Simulation:
    """Return what apt would do, from the output of `apt-get --simulate install`."""
    install, remove = {}, []
    for line in output.splitlines():
        match = _ACTION.match(line)
        if match and match[1] == "Inst":
            install[match[2]] = match[4] or ""
        elif match:
            remove.append(match[2])
    # What is removed and installed again is an upgrade in two steps.
    return Simulation(install, tuple(name for name in remove if name not in install))


def _read_installed(host: Host) -> dict[str, Installed]:
    result = host.run(("dpkg-query", "--show", f"--showformat={_QUERY_FORMAT}"), 60)
    if result.code == 127:
        raise Refusal("There is no dpkg on this host: package sets are for Debian and Ubuntu.")
    if result.code:
        raise Refusal(f"dpkg-query failed: {_reason(result)}")
    return parse_installed(result.stdout)


def _read_offers(host: Host, names: Iterable[str], options: Sequence[str] = ()) -> dict[str, list[str]]:
    wanted = sorted(set(names))
    return parse_offers(host.run(("apt-cache", *options, "madison", *wanted), 60).stdout) if wanted else {}


def _simulate(host: Host, specifications: Sequence[str]) -> Simulation:
    result = host.run((*_APT_GET, "--simulate", *_INSTALL, "install", *specifications), 120)
    if result.code:
        raise Refusal(f"apt finds no way to install {' '.join(specifications)}: {_reason(result)}")
    return parse_simulation(result.stdout)


def _reason(result: Result) -> str:
    """Return what apt means, without its preamble."""
    lines = [line.strip() for line in (result.stdout + "\n" + result.stderr).splitlines() if line.strip()]
    telling = [line for line in lines if "Depends:" in line or "Breaks:" in line or "Conflicts:" in line]
    telling += [line for line in lines if line.startswith("E: ")]
    return " ".join((telling or lines)[-12:]) or f"exit status {result.code}"


# ---------------------------------------------------------------------------------------------------------------------
# What is to be done


def make_plan(request: Request, host: Host, check_mode: bool) -> Plan:
    """Decide what has to be done; may refresh apt's knowledge of the source, and changes nothing else."""
    installed = _read_installed(host)
    relevant = {name: state for name, state in installed.items() if _concerns(request, name)}
    offers = _read_offers(host, [*request.packages, *relevant])
    versions = _choose(request, offers, installed)
    if "" in versions.values() and check_mode:
        if request.source_pending and (request.source_file or not any(offers.values())):
            return Plan(
                versions={name: request.version for name in request.packages},
                unknown="apt on the host does not know the source yet, so it cannot be asked what it has",
                before=relevant,
            )
        return _outlook(request, host, relevant, installed)
    if not check_mode and any(
        not version or _version(installed, name) != version for name, version in versions.items()
    ):
        # What is to be downloaded must still be there.
        _refresh(request, host)
        offers = _read_offers(host, [*request.packages, *relevant])
        versions = _choose(request, offers, installed)
    if "" in versions.values():
        raise Refusal(_missing(request, versions, offers))
    versions = {**versions, **_companions(request, versions, relevant, offers)}
    moving = {name: version for name, version in versions.items() if _version(installed, name) != version}
    simulation = Simulation({}, ())
    if moving:
        versions, simulation = _settle(request, host, versions, installed)
    held = {name for name in {*relevant, *versions, *simulation.install} if _concerns(request, name)}
    held -= set(simulation.remove)
    return Plan(
        versions={
            name: simulation.install.get(name) or _version(installed, name) or versions.get(name, "")
            for name in sorted(held)
        },
        install=tuple(f"{name}={versions[name]}" for name in sorted(versions)) if moving else (),
        # dpkg forgets the hold of what it unpacks.
        hold=tuple(
            sorted(
                name for name in held if name in simulation.install or name not in installed or not installed[name].held
            )
        ),
        remove=simulation.remove,
        before=relevant,
    )


def _outlook(
    request: Request, host: Host, relevant: Mapping[str, Installed], installed: Mapping[str, Installed]
) -> Plan:
    """Say in check mode what can be said of a version that apt's lists on the host do not have.

    They may be old. So they are fetched into a folder that goes again, and the host stays as it is.
    """
    with tempfile.TemporaryDirectory(prefix="baremetal-llm-apt-") as folder:
        aside = ("-o", f"Dir::State::Lists={folder}", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")
        # The user that apt fetches as.
        os.chmod(folder, 0o755)
        _refresh(request, host, aside)
        offers = _read_offers(host, request.packages, aside)
    versions = _choose(request, offers, installed)
    if "" in versions.values():
        raise Refusal(_missing(request, versions, offers))
    return Plan(
        versions=versions,
        install=tuple(f"{name}={version}" for name, version in sorted(versions.items())),
        hold=tuple(sorted(versions)),
        unknown="the lists of apt on the host are older than the version: what else would move is not known",
        before=relevant,
    )


def _concerns(request: Request, name: str) -> bool:
    return name in request.packages or any(fnmatch.fnmatchcase(name, pattern) for pattern in request.companions)


def _version(installed: Mapping[str, Installed], name: str) -> str:
    return installed[name].version if name in installed else ""


def _choose(
    request: Request, offers: Mapping[str, Sequence[str]], installed: Mapping[str, Installed]
) -> dict[str, str]:
    """Return the exact version of each package; empty where there is none. What is installed need not be offered."""
    return {
        name: matching_version(
            request.version, [*offers.get(name, ()), *([installed[name].version] if name in installed else [])]
        )
        for name in request.packages
    }


def _companions(
    request: Request,
    versions: Mapping[str, str],
    relevant: Mapping[str, Installed],
    offers: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """Return installed companions that the source has at the set's version, and that therefore belong there."""
    found = {
        name: matching_version(request.version, [*offers.get(name, ()), state.version])
        for name, state in relevant.items()
        if name not in versions
    }
    return {name: version for name, version in found.items() if version}


def _settle(
    request: Request, host: Host, versions: Mapping[str, str], installed: Mapping[str, Installed]
) -> tuple[dict[str, str], Simulation]:
    """Name every companion that apt would bring at another version although the source has it at the right one.

    Vendors' meta packages ask for "at least" a version, so that an exact meta package still brings the newest of all
    else.
    """
    named = dict(versions)
    for _round in range(_MOST_ROUNDS):
        simulation = _simulate(host, [f"{name}={version}" for name, version in sorted(named.items())])
        strangers = [name for name in simulation.install if name not in named and _concerns(request, name)]
        offers = _read_offers(host, strangers)
        found = {name: matching_version(request.version, offers.get(name, ())) for name in strangers}
        more = {name: version for name, version in found.items() if version}
        if not more:
            _refuse_collateral(request, simulation, installed)
            return named, simulation
        named.update(more)
    raise Refusal(f"apt does not come to rest on version {request.version} of {', '.join(request.packages)}.")


def _refuse_collateral(request: Request, simulation: Simulation, installed: Mapping[str, Installed]) -> None:
    removed = [name for name in simulation.remove if not _concerns(request, name)]
    if removed:
        raise Refusal(
            f"To install version {request.version} of {', '.join(request.packages)}, apt would remove"
            f" {', '.join(removed)}. Remove what is not needed yourself, or choose another version ({request.setting})."
        )
    held = [
        name
        for name in simulation.install
        if not _concerns(request, name) and name in installed and installed[name].held
    ]
    if held:
        raise Refusal(
            f"To install version {request.version} of {', '.join(request.packages)}, apt would change"
            f" {', '.join(held)}, which somebody holds. Release the hold with `apt-mark unhold`, or choose another"
            f" version ({request.setting})."
        )


def _refresh(request: Request, host: Host, options: Sequence[str] = ()) -> None:
    """Let apt read the source anew: only that one where it has a file of its own."""
    only: tuple[str, ...] = ()
    if request.source_file:
        only = (
            *("-o", f"Dir::Etc::sourcelist={request.source_file}", "-o", "Dir::Etc::sourceparts=-"),
            *("-o", "APT::Get::List-Cleanup=0"),
        )
    # Without this, a source that cannot be read is a warning, and old lists pass for new ones.
    strict = ("-o", "APT::Update::Error-Mode=any")
    result = host.run((*_APT_GET, "--quiet", *options, *only, *strict, "update"), request.timeout_seconds)
    if result.code:
        raise Refusal(f"apt cannot read {request.source_file or 'its sources'}: {_reason(result)}")


def _missing(request: Request, versions: Mapping[str, str], offers: Mapping[str, Sequence[str]]) -> str:
    absent = [name for name, version in versions.items() if not version]
    # Most often the same for all.
    having: dict[tuple[str, ...], list[str]] = {}
    for name in absent:
        having.setdefault(tuple(offers.get(name, ())), []).append(name)
    parts = [
        f"{', '.join(names) if len(having) > 1 else 'them'} in {', '.join(found) or 'no version'}"
        for found, names in having.items()
    ]
    return (
        f"The sources of apt on this host do not have version {request.version} ({request.setting}) of"
        f" {', '.join(absent)}. They have {'; '.join(parts)}."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Doing it


def carry_out(request: Request, plan: Plan, host: Host) -> None:
    """Do what the plan says, and check that it came out that way."""
    if plan.install:
        lock = ("-o", f"DPkg::Lock::Timeout={int(request.timeout_seconds)}")
        result = host.run((*_APT_GET, *_INSTALL, *lock, "install", *plan.install), request.timeout_seconds * 2)
        if result.code:
            raise Refusal(
                f"apt began to install {' '.join(plan.install)} and failed: {_reason(result)} Look at `apt-get check`"
                " and `dpkg --audit` on the host, then run this again."
            )
    if plan.hold:
        result = host.run(("apt-mark", "hold", *plan.hold), 60)
        if result.code:
            raise Refusal(f"apt-mark hold {' '.join(plan.hold)} failed: {_reason(result)}")
    installed = _read_installed(host)
    wrong = []
    for name, version in plan.versions.items():
        state = installed.get(name)
        if state is None:
            wrong.append(f"{name} is absent")
        elif state.version != version or not state.held:
            wrong.append(f"{name} is {state.version}{'' if state.held else ' without a hold'}")
    if wrong:
        raise Refusal(f"After the installation of {' '.join(plan.install)}: {', '.join(wrong)}.")
