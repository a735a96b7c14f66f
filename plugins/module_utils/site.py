# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a site's deployments belong: from what an inventory says to what one host gets.

Everything here is deterministic: the order is that of the inventory, and a host never appears twice. The functions
look up the variables of the few hosts they name, never of the whole fleet, so that a play over hundreds of hosts
does not cost the square of their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable
from urllib.parse import urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils import deployment_size
from ansible_collections.baremetal.llm.plugins.module_utils.lock import DEFAULT_ROOT, Lock, LockError, read_lock

GPU_GROUP = "gpu_hosts"
GATEWAY_GROUP = "gateway_hosts"
MONITORING_GROUP = "monitoring_hosts"

LOOPBACK = "127.0.0.1"
HUB = "https://huggingface.co"

Groups = Mapping[str, Sequence[str]]
HostVariables = Mapping[str, Any]
LockReader = Callable[[str, Sequence[str]], Lock]


class SiteError(Exception):
    """The site's variables contradict themselves. The message names the variable."""


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


def model_lock(model: Mapping[str, Any], reader: LockReader = read_lock) -> Lock:
    """The lock of an entry of `llm_models`. Raises LockError if it cannot be used."""
    return reader(str(model["lock"]), [str(path) for path in model.get("allow_files") or ()])


def engine_deployments(
    deployments: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    engine: str,
    host: str,
    groups: Groups,
    hostvars: Mapping[str, HostVariables],
    root: str = DEFAULT_ROOT,
    reader: LockReader = read_lock,
    planned: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """What the role of *engine* runs on *host*.

    *planned*: by the name of a deployment, the engine options that its plan chose on this host. They fill what the site
    left open: what stands in `engine_options` always wins, and then what follows from the site's own keys.
    """
    return [
        {
            "name": item["name"],
            "model_path": model_lock(model_named(models, item), reader).model_path(root),
            "served_model_name": served_model_name(item),
            "listen_address": listen_address(host, groups, hostvars),
            "port": int(item["port"]),
            "engine_options": {
                **((planned or {}).get(str(item["name"])) or {}),
                **deployment_size.site_options(item),
                **(item.get("engine_options") or {}),
            },
            "environment": {**deployment_size.site_environment(item), **(item.get("environment") or {})},
        }
        for item in deployments_on(deployments, host, groups)
        if item.get("engine") == engine
    ]


def gpu_engines(
    deployments: Sequence[Mapping[str, Any]], versions: Mapping[str, str], host: str, groups: Groups
) -> list[dict[str, Any]]:
    """What the engines on *host* need of its GPUs, as `gpu_parity` takes it; *versions* has each engine's version.

    The GPUs of one replica are the product of its parallel sizes; a host needs at least those of its largest replica,
    and every one that a deployment names.
    """
    needed: dict[str, int] = {}
    for item in deployments_on(deployments, host, groups):
        engine = str(item.get("engine"))
        needed[engine] = max(deployment_size.gpus_spanned(item), needed.get(engine, 0))
    return [
        {"engine": engine, "version": str(versions[engine]), "gpus": gpus}
        for engine, gpus in needed.items()
        if versions.get(engine)
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


def entries(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in *value*, whatever it is: preflight asks before anything was checked."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return []
    return [item for item in value if isinstance(item, Mapping)]


def readiness_request(
    deployments: Any,
    models: Any,
    host: str,
    groups: Groups,
    root: str = DEFAULT_ROOT,
    gateway_ports: Sequence[int] = (),
    reader: LockReader = read_lock,
    urls: Any = None,
) -> dict[str, Any]:
    """What preflight asks *host* about. Takes any input, since the site has not been checked yet.

    *urls*: what else the host must reach, by the variable that holds it.
    """
    here = deployments_on(entries(deployments), host, groups)
    ports = [item.get("port") for item in here]
    if host in group_hosts(groups, GATEWAY_GROUP):
        ports.extend(gateway_ports)
    wanted = {item["model"] for item in here if isinstance(item.get("model"), str)}
    locks: dict[str, Lock] = {}
    folders: list[dict[str, Any]] = []
    sources: list[str] = []
    for model in entries(models):
        if model.get("name") not in wanted or not isinstance(model.get("lock"), str) or model["lock"] in locks:
            continue
        try:
            lock = model_lock(model, reader)
        except (LockError, TypeError):
            continue  # Validation says what is wrong with it.
        locks[model["lock"]] = lock
        files = [{"path": file.path, "size": file.size} for file in lock.files]
        folders.extend({"path": path, "files": files} for path in source_folders(model))
        sources.extend(source_url(source) for source in entries(model.get("sources")))
    return {
        "paths": [root] if here else [],
        "ports": usable_ports(ports),
        "models": [lock.model_path(root) for lock in locks.values()],
        "source_folders": folders,
        "names": unique(
            [
                name
                for url in (*(urls.values() if isinstance(urls, Mapping) else ()), *sources)
                if (name := url_host(url))
            ]
        ),
    }


def source_folders(model: Mapping[str, Any]) -> list[str]:
    """The folders among the sources of a model."""
    folders = [item.get("path") for item in entries(model.get("sources")) if item.get("type") == "folder"]
    return [path for path in folders if isinstance(path, str)]


def source_url(source: Mapping[str, Any]) -> str:
    """Where a source of a model leads; nothing for a folder."""
    if source.get("type") == "hub":
        return str(source.get("endpoint") or HUB)
    return str(source.get({"http": "url", "s3": "endpoint"}.get(str(source.get("type")), "")) or "")


def url_host(url: Any) -> str:
    """The host name in a URL; nothing if it has none, or an IP address, which nobody has to resolve."""
    try:
        name = urlsplit(str(url)).hostname or ""
    except ValueError:
        return ""
    return "" if ":" in name or name.replace(".", "").isdigit() else name


def usable_ports(values: Sequence[Any]) -> list[int]:
    """The port numbers among *values*."""
    numbers = {value for value in values if isinstance(value, int) and not isinstance(value, bool)}
    return sorted(port for port in numbers if 0 < port < 65536)


@dataclass(frozen=True)
class HostState:
    """What is known about one host: its answer to `host_readiness_info`, and what the site wants of it."""

    readiness: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    unreachable: bool = False
    # The host's own variables: `engine_versions` ({vllm: {version, accepted_advisories}}) and `reserve_bytes`.
    wanted: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """What an inventory says, as it is: nothing here has been checked."""

    deployments: Any
    models: Any
    tenants: Any
    groups: Groups
    # Only its length is needed, so only its length is handed around.
    engine_key_length: int
    model_root: str = DEFAULT_ROOT
    gateway_port: int = 443
    # Hosts that were asked. A host that is not in here is judged by the site's variables alone.
    hosts: Mapping[str, HostState] = field(default_factory=dict)
    # File on the controller with a token of the Hub; empty if the site has none.
    hub_token_file: str = ""
    # Addresses at which the hosts are asked, where the caller knows them.
    addresses: Mapping[str, str] = field(default_factory=dict)
    # Those of the hosts whose address is a name that the controller cannot resolve.
    unresolved: Sequence[str] = ()
