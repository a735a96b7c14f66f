# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a site's deployments belong: from what an inventory says to what one host gets.

Everything here is deterministic: the order is that of the inventory, and a host never appears twice. The functions
look up the variables of the few hosts they name, never of the whole fleet, so that a play over hundreds of hosts
does not cost the square of their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

GPU_GROUP = "gpu_hosts"
GATEWAY_GROUP = "gateway_hosts"
MONITORING_GROUP = "monitoring_hosts"

DEFAULT_MODEL_ROOT = "/srv/models"
LOOPBACK = "127.0.0.1"

Groups = Mapping[str, Sequence[str]]
HostVariables = Mapping[str, Any]
ModelPathReader = Callable[[str, str], str]


class SiteError(Exception):
    """The site's variables contradict themselves. The message names the variable."""


def read_model_path(lock: str, root: str) -> str:
    """Path of the published model that the lock file at *lock* describes, under *root* on a host."""
    # Imported here: placing a deployment must not depend on the lock reader, nor on YAML.
    from ansible_collections.baremetal.llm.plugins.module_utils.lock import read_lock

    return str(read_lock(lock).model_path(root))


def unique(names: Sequence[str]) -> list[str]:
    """*names* without repetitions, in their order."""
    return list(dict.fromkeys(names))


def group_hosts(groups: Groups, *names: str) -> list[str]:
    """The hosts of the groups *names*, in the inventory's order; a group that does not exist has none."""
    return unique([host for name in names for host in groups.get(name, ())])


def deployment_hosts(deployment: Mapping[str, Any], groups: Groups) -> list[str]:
    """The inventory hosts of a deployment, whose `hosts` names hosts and groups.

    Names that are neither are left out: preflight reports them.
    """
    entries = deployment.get("hosts") or []
    if isinstance(entries, str) or not isinstance(entries, Sequence):
        return []
    known = set(groups.get("all", ()))
    hosts: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            continue
        if entry in groups:
            hosts.extend(groups[entry])
        elif entry in known:
            hosts.append(entry)
    return unique(hosts)


def deployments_on(deployments: Sequence[Mapping[str, Any]], host: str, groups: Groups) -> list[Mapping[str, Any]]:
    """The deployments with a replica on *host*, in the order of `llm_deployments`."""
    return [item for item in deployments if host in deployment_hosts(item, groups)]


def host_address(host: str, hostvars: Mapping[str, HostVariables]) -> str:
    """The address at which other hosts reach *host*: `llm_address`, else `ansible_host`, else its name."""
    if host in hostvars:
        variables = hostvars[host]
        for name in ("llm_address", "ansible_host"):
            if variables.get(name):
                return str(variables[name])
    return host


def engine_clients(groups: Groups, hostvars: Mapping[str, HostVariables]) -> list[str]:
    """Addresses that may ask an engine: those of the gateways and of the monitoring hosts."""
    return unique([host_address(host, hostvars) for host in group_hosts(groups, GATEWAY_GROUP, MONITORING_GROUP)])


def listen_address(host: str, groups: Groups, hostvars: Mapping[str, HostVariables]) -> str:
    """The address an engine on *host* listens on: loopback if nothing on another host asks it."""
    if set(group_hosts(groups, GATEWAY_GROUP, MONITORING_GROUP)) <= {host}:
        return LOOPBACK
    return host_address(host, hostvars)


def endpoint(address: str, port: int) -> str:
    """`address:port`, with brackets around an IPv6 address."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def served_model_name(deployment: Mapping[str, Any]) -> str:
    """The name under which clients ask for a deployment's model."""
    return str(deployment.get("served_model_name") or deployment["model"])


def model_named(models: Sequence[Mapping[str, Any]], deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry of `llm_models` that *deployment* refers to."""
    for model in models:
        if model.get("name") == deployment["model"]:
            return model
    raise SiteError(f"llm_deployments: {deployment.get('name')}: llm_models has no model named {deployment['model']!r}")


def engine_deployments(
    deployments: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    engine: str,
    host: str,
    groups: Groups,
    hostvars: Mapping[str, HostVariables],
    root: str = DEFAULT_MODEL_ROOT,
    model_path: ModelPathReader = read_model_path,
) -> list[dict[str, Any]]:
    """What the role of *engine* runs on *host*."""
    return [
        {
            "name": item["name"],
            "model_path": model_path(str(model_named(models, item)["lock"]), root),
            "served_model_name": served_model_name(item),
            "listen_address": listen_address(host, groups, hostvars),
            "port": int(item["port"]),
            "engine_options": dict(item.get("engine_options") or {}),
            "environment": dict(item.get("environment") or {}),
        }
        for item in deployments_on(deployments, host, groups)
        if item.get("engine") == engine
    ]


def host_models(
    deployments: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]], host: str, groups: Groups
) -> list[dict[str, Any]]:
    """The models that *host* must hold, each once, in the order of `llm_models`."""
    wanted = {item.get("model") for item in deployments_on(deployments, host, groups)}
    return [
        {
            "name": model["name"],
            "lock": model["lock"],
            "sources": list(model.get("sources") or []),
            "allow_files": list(model.get("allow_files") or []),
        }
        for model in models
        if model.get("name") in wanted
    ]


def firewall_rules(
    deployments: Sequence[Mapping[str, Any]], host: str, groups: Groups, hostvars: Mapping[str, HostVariables]
) -> list[dict[str, Any]]:
    """For each engine port on *host*: who may reach it. Nobody but loopback if all its clients are on the host."""
    here = deployments_on(deployments, host, groups)
    if not here:
        return []
    others = [name for name in group_hosts(groups, GATEWAY_GROUP, MONITORING_GROUP) if name != host]
    allow = unique([host_address(name, hostvars) for name in others])
    return [{"name": item["name"], "port": int(item["port"]), "allow": list(allow)} for item in here]


def gateway_deployments(
    deployments: Sequence[Mapping[str, Any]], groups: Groups, hostvars: Mapping[str, HostVariables]
) -> list[dict[str, Any]]:
    """What a gateway puts itself in front of: every deployment with the addresses of its replicas."""
    return [
        {
            "name": item["name"],
            "served_model_name": served_model_name(item),
            "replicas": [
                endpoint(listen_address(host, groups, hostvars), int(item["port"]))
                for host in deployment_hosts(item, groups)
            ],
        }
        for item in deployments
    ]


def _entries(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in *value*, whatever it is: preflight asks before anything was checked."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return []
    return [item for item in value if isinstance(item, Mapping)]


def readiness_request(
    deployments: Any,
    models: Any,
    host: str,
    groups: Groups,
    root: str = DEFAULT_MODEL_ROOT,
    gateway_ports: Sequence[int] = (),
    reader: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """What preflight asks *host* about. Takes any input, since the site has not been checked yet."""
    here = deployments_on(_entries(deployments), host, groups)
    ports = [item.get("port") for item in here]
    if host in group_hosts(groups, GATEWAY_GROUP):
        ports.extend(gateway_ports)
    request: dict[str, Any] = {
        "paths": [root] if here else [],
        "ports": unique_ports(ports),
        "models": [],
        "source_folders": [],
    }
    wanted = {item["model"] for item in here if isinstance(item.get("model"), str)}
    seen: set[str] = set()
    for model in _entries(models):
        lock_path = model.get("lock")
        if model.get("name") not in wanted or not isinstance(lock_path, str) or lock_path in seen:
            continue
        seen.add(lock_path)
        lock = _readable_lock(lock_path, reader)
        if lock is None:
            continue
        request["models"].append(str(lock.model_path(root)))
        for source in _entries(model.get("sources")):
            if source.get("type") == "folder" and isinstance(source.get("path"), str):
                files = [{"path": entry.path, "size": entry.size} for entry in lock.files]
                request["source_folders"].append({"path": source["path"], "files": files})
    return request


def unique_ports(values: Sequence[Any]) -> list[int]:
    """The usable port numbers among *values*."""
    ports = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return sorted({port for port in ports if 0 < port < 65536})


def _readable_lock(path: str, reader: Callable[[str], Any] | None) -> Any:
    """The lock at *path*, or None when it cannot be used: validation says why, with the path."""
    if not os.path.isfile(path):
        return None
    if reader is None:
        from ansible_collections.baremetal.llm.plugins.module_utils.lock import read_lock as reader
    try:
        return reader(path)
    except (OSError, ValueError):
        return None
