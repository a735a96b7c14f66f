# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's answer to `host_readiness_info` means for what the site wants of it."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.advisories import (
    VLLM,
    VLLM_SAFE_MINIMUM,
    Advisory,
    unaccepted,
    unknown,
)
from ansible_collections.baremetal.llm.plugins.module_utils.finding import (
    GIB,
    Findings,
    is_list,
    kind,
    size,
    suggestion,
)
from ansible_collections.baremetal.llm.plugins.module_utils.host_validation_machine import (
    MachineChecks,
    gateway_port,
    model_root,
)
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock
from ansible_collections.baremetal.llm.plugins.module_utils.site import (
    GATEWAY_GROUP,
    GPU_GROUP,
    LOOPBACK,
    HostState,
    Site,
    deployment_hosts,
    endpoint,
    entries,
    source_folders,
)

# A listener in one of these units is the collection's own, from an earlier run.
OWN_UNITS = ("vllm@", "nginx.service")
ENGINE_DISTRIBUTIONS = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04", "26.04")}
# The gateway needs nginx's njs module, which Ubuntu 22.04 does not have.
GATEWAY_DISTRIBUTIONS = {"debian": ("12", "13"), "ubuntu": ("24.04", "26.04")}
DISTRIBUTION_NAMES = {"debian": "Debian", "ubuntu": "Ubuntu"}
ACCELERATORS = ("nvidia", "none")
OLDEST_PYTHON = (3, 9)
WILDCARDS = ("0.0.0.0", "::")


class EngineAdvisories:
    """What is published about an engine; an engine without a table has none."""

    def __init__(self, table: Iterable[Advisory], safe_minimum: str) -> None:
        self.table = tuple(table)
        self.safe_minimum = safe_minimum


ADVISORIES: Mapping[str, EngineAdvisories] = {"vllm": EngineAdvisories(VLLM, VLLM_SAFE_MINIMUM)}


def is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class HostChecks(Findings):
    """Judges each host that was asked."""

    def __init__(self, site: Site, locks: Mapping[str, Lock], advisories: Mapping[str, EngineAdvisories]) -> None:
        super().__init__()
        self.site = site
        # Locks that can be used, by the name of the model.
        self.locks = locks
        self._advisories = advisories

    def check(self) -> None:
        self._addresses()
        machines = MachineChecks(self.site)
        for host, state in self.site.hosts.items():
            if host in self.site.groups.get(GPU_GROUP, ()):
                self._versions(host, state)
                self._accelerator(host, state)
            if state.problem or not state.readiness:
                self._no_answer(host, state)
                continue
            self._system(host, state.readiness)
            here = [item for item in entries(self.site.deployments) if host in deployment_hosts(item, self.site.groups)]
            self._folders(host, state.readiness, here)
            self._disk(host, state, here)
            self._listeners(host, state.readiness, here)
            models = [str(model["name"]) for _index, model, _lock in self._models_to_fetch(host, state.readiness, here)]
            machines.check(host, state.readiness, state.wanted, models)
        self.findings.extend(machines.findings)

    def _addresses(self) -> None:
        for host in self.site.unresolved:
            self.add(
                "address-unresolved",
                "llm_address",
                f"is {self.site.addresses.get(host, host)!r} (the default is ansible_host, then the host's name), "
                "which the controller cannot resolve, expected an address for gateway and firewall",
                "Set llm_address of the host to the IP address at which other hosts reach it.",
                [host],
            )
        users: dict[str, list[str]] = {}
        for host in self.site.groups.get(GPU_GROUP, ()):
            if host in self.site.addresses:
                users.setdefault(self.site.addresses[host], []).append(host)
        for address, hosts in users.items():
            if len(hosts) > 1 and address != LOOPBACK:
                self.add(
                    "address-duplicate",
                    "llm_address",
                    f"is {address} on more than one engine host: a gateway could not tell them apart",
                    "Give each host its own llm_address, in its host_vars.",
                    hosts,
                )

    def _no_answer(self, host: str, state: HostState) -> None:
        if state.unreachable:
            self.add(
                "host-unreachable",
                "ansible_host",
                f"does not lead to the host: {state.problem}",
                "Bring the host back, correct its address, user or key, or take it out of the inventory. "
                "To go on without it, exclude it with --limit.",
                [host],
            )
            return
        self.add(
            "host-not-readable",
            "ansible_python_interpreter",
            f"cannot be used: {state.problem or 'the host gave no answer'}",
            "Install python3 (3.9 or newer) on the host and let the user become root (ansible_become).",
            [host],
        )

    def _system(self, host: str, readiness: Mapping[str, Any]) -> None:
        distribution = readiness.get("distribution") or {}
        actual = str(distribution.get("name") or distribution.get("id") or "a distribution without os-release")
        for group, supported, why in (
            (GPU_GROUP, ENGINE_DISTRIBUTIONS, "an engine host"),
            (GATEWAY_GROUP, GATEWAY_DISTRIBUTIONS, "a gateway"),
        ):
            if host not in self.site.groups.get(group, ()):
                continue
            if distribution.get("version") not in supported.get(str(distribution.get("id")), ()):
                expected = "; ".join(
                    f"{DISTRIBUTION_NAMES[name]} {', '.join(versions)}" for name, versions in supported.items()
                )
                self.add(
                    "distribution-unsupported",
                    f"groups.{group}",
                    f"has a host with {actual}, expected for {why}: {expected}",
                    "Install a supported distribution on the host, or take it out of the group.",
                    [host],
                )
        if not readiness.get("systemd"):
            self.add(
                "systemd-missing",
                "ansible_host",
                "leads to a host whose init system is not systemd, which runs the services",
                "Use a host, virtual machine or container that boots with systemd.",
                [host],
            )
        if not readiness.get("root"):
            self.add(
                "become-missing",
                "ansible_become",
                "does not make the tasks run as root, which everything after this needs",
                "Set ansible_become: true and the password if sudo asks for one (--ask-become-pass).",
                [host],
            )
        version = str(readiness.get("python_version") or "")
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_PYTHON:
            self.add(
                "python-too-old",
                "ansible_python_interpreter",
                f"is Python {version or 'of an unknown version'}, expected 3.9 or newer",
                "Install a newer Python and point ansible_python_interpreter to it.",
                [host],
            )

    def _accelerator(self, host: str, state: HostState) -> None:
        accelerator = state.wanted.get("accelerator", ACCELERATORS[0])
        if accelerator not in ACCELERATORS:
            self.add(
                "accelerator-unknown",
                "llm_accelerator",
                f"is {accelerator!r}, expected one of {', '.join(ACCELERATORS)}."
                + suggestion(str(accelerator), ACCELERATORS),
                "Correct it: with another value the host would get no driver, and nobody would miss it.",
                [host],
            )

    def _versions(self, host: str, state: HostState) -> None:
        versions = state.wanted.get("engine_versions") or {}
        for engine, published in self._advisories.items():
            entry = versions.get(engine) if isinstance(versions, Mapping) else None
            version = entry.get("version") if isinstance(entry, Mapping) else None
            if version in (None, ""):
                continue
            accepted = entry.get("accepted_advisories") if isinstance(entry, Mapping) else None
            names = [str(name) for name in accepted] if is_list(accepted) and accepted else []
            self._version(engine, version, names, published, host)

    def _version(self, engine: str, version: Any, accepted: list[str], published: EngineAdvisories, host: str) -> None:
        try:
            affected = unaccepted(version, accepted, published.table) if isinstance(version, str) else None
        except ValueError:
            affected = None
        if affected is None:
            self.add(
                "engine-version-invalid",
                f"{engine}_version",
                f"is {version!r} ({kind(version)}), expected a version such as {published.safe_minimum}",
                "Write the version in quotes.",
                [host],
            )
        elif affected:
            names = ", ".join(advisory.identifier for advisory in affected)
            self.add(
                "engine-version-unsafe",
                f"{engine}_version",
                f"is {version}, expected {published.safe_minimum} or newer: it is affected by {names}",
                f"Raise {engine}_version. If you know the risk and accept it, name each of them in "
                f"{engine}_accepted_advisories.",
                [host],
            )
        for name in unknown(accepted, published.table):
            self.add(
                "advisory-unknown",
                f"{engine}_accepted_advisories",
                f"names {name!r}, which this version of the collection does not know, so it accepts nothing",
                "Correct the identifier, or remove it.",
                [host],
            )

    def _models_to_fetch(
        self, host: str, readiness: Mapping[str, Any], here: Sequence[Mapping[str, Any]]
    ) -> list[tuple[int, Mapping[str, Any], Lock]]:
        """The models of a host that are not published there: index in llm_models, entry, lock."""
        published = {item["path"] for item in readiness.get("models") or () if item.get("published")}
        names = {item["model"] for item in here if isinstance(item.get("model"), str)}
        wanted: dict[str, tuple[int, Mapping[str, Any], Lock]] = {}
        for index, model in enumerate(self.site.models if is_list(self.site.models) else ()):
            name = model.get("name") if isinstance(model, Mapping) else None
            if not isinstance(name, str) or name not in names or name not in self.locks:
                continue
            path = self.locks[name].model_path(model_root(self.site, host))
            if path not in published:
                wanted.setdefault(path, (index, model, self.locks[name]))
        return list(wanted.values())

    def _folders(self, host: str, readiness: Mapping[str, Any], here: Sequence[Mapping[str, Any]]) -> None:
        """A model that only folders can serve must be whole in them; others have somewhere else to turn to."""
        checked = {item["path"]: item for item in readiness.get("source_folders") or ()}
        for index, model, _lock in self._models_to_fetch(host, readiness, here):
            folders = source_folders(model)
            if not folders or any(item.get("type") in ("http", "hub", "s3") for item in entries(model.get("sources"))):
                continue
            states = [checked[folder] for folder in folders if folder in checked]
            bad = [{problem["path"] for problem in state["problems"]} for state in states if state["exists"]]
            missing = [state["path"] for state in states if not state["exists"]]
            variable = f"llm_models[{index}].sources"
            if missing and not bad:
                self.add(
                    "source-folder-missing",
                    variable,
                    f"names {', '.join(missing)}, which is not on the host, and no other source",
                    "Mount or copy the folder on the host, or add another source.",
                    [host],
                )
            # What one folder lacks may be whole in another.
            nowhere = set.intersection(*bad) if bad else set()
            for state in states:
                for problem in state["problems"]:
                    if problem["path"] in nowhere:
                        nowhere.discard(problem["path"])
                        self._source_file(host, variable, state["path"], problem)

    def _source_file(self, host: str, variable: str, folder: str, problem: Mapping[str, Any]) -> None:
        path = posixpath.join(folder, problem["path"])
        if problem["reason"] == "size":
            shorter = problem["actual"] < problem["expected"]
            self.add(
                "source-file-size",
                variable,
                f"leads to {path}, which has {problem['actual']} bytes, expected {problem['expected']} as in the lock "
                f"file: it is {'truncated' if shorter else 'another file'}",
                "Copy the file again. If the model was meant to change, lock it again.",
                [host],
            )
            return
        self.add(
            "source-file-missing",
            variable,
            f"leads to {path}, which cannot be used ({problem['reason']}), expected a file of "
            f"{problem['expected']} bytes",
            "Copy the file into the folder, or add another source.",
            [host],
        )

    def _disk(self, host: str, state: HostState, here: Sequence[Mapping[str, Any]]) -> None:
        total = sum(wanted[2].total_bytes for wanted in self._models_to_fetch(host, state.readiness, here))
        if not total:
            return
        reserve = state.wanted.get("reserve_bytes")
        if isinstance(reserve, bool) or not isinstance(reserve, int) or reserve < 0:
            reserve = GIB
        root = model_root(self.site, host)
        for space in state.readiness.get("space") or ():
            if space["path"] != root:
                continue
            if space.get("read_only"):
                self.add(
                    "disk-read-only",
                    "llm_models",
                    f"needs {size(total)} in {root}, but its file system {space['mount']} is mounted read-only",
                    "Mount it writable.",
                    [host],
                )
            elif space["free_bytes"] < total + reserve:
                need = total + reserve
                self.add(
                    "disk-too-small",
                    "llm_models",
                    f"needs {size(need)} in {root} ({size(total)} of weights not there yet and "
                    f"{size(reserve)} to stay free), but {space['mount']} has {size(space['free_bytes'])} free: "
                    f"{size(need - space['free_bytes'])} are missing",
                    f"Free space on {space['mount']}, mount a larger disk at {root}, or place fewer "
                    "models on the host.",
                    [host],
                )

    def _listeners(self, host: str, readiness: Mapping[str, Any], here: Sequence[Mapping[str, Any]]) -> None:
        wanted: dict[int, tuple[str, str, str]] = {}
        if host in self.site.groups.get(GATEWAY_GROUP, ()):
            wanted[gateway_port(self.site, host)] = ("gateway_https_port", "the gateway", "")
        for index, item in enumerate(self.site.deployments if is_list(self.site.deployments) else ()):
            port = item.get("port") if isinstance(item, Mapping) else None
            if item in here and isinstance(port, int) and not isinstance(port, bool):
                address = self.site.addresses.get(host, "")
                wanted.setdefault(port, (f"llm_deployments[{index}].port", f"deployment {item.get('name')!r}", address))
        for listener in readiness.get("listeners") or ():
            if listener["port"] not in wanted or str(listener["unit"]).startswith(OWN_UNITS):
                continue
            variable, user, address = wanted.pop(listener["port"])
            if not listener["process"] and not readiness.get("root"):
                continue  # Who it is cannot be seen without root, which is a finding of its own.
            if address and listener["address"] not in (*WILDCARDS, address) and is_ip_address(address):
                continue
            owner = f"process {listener['process'] or 'of an unknown name'} (PID {listener['pid']})"
            if listener["unit"]:
                owner += f" of unit {listener['unit']}"
            self.add(
                "port-taken",
                variable,
                f"is {listener['port']}, which {user} needs, but {owner} listens on "
                f"{endpoint(listener['address'], listener['port'])}",
                "Stop that service, or choose another port.",
                [host],
            )
