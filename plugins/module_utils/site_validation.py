# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is wrong with a site, in one list, before anything is changed.

Each finding has a stable code (docs/findings.md), the variable as the operator wrote it, the hosts it is about, what
was found and what was expected, and the way out. No message repeats a value that may be secret: keys, hashes of
keys, environments and engine options are described, not shown.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.advisories import (
    VLLM,
    VLLM_SAFE_MINIMUM,
    Advisory,
    unaccepted,
    unknown,
)
from ansible_collections.baremetal.llm.plugins.module_utils.lock import DEFAULT_ROOT, Lock, LockError, read_lock
from ansible_collections.baremetal.llm.plugins.module_utils.site import (
    GATEWAY_GROUP,
    GPU_GROUP,
    Groups,
    LockReader,
    deployment_hosts,
    endpoint,
    entries,
    group_hosts,
    model_lock,
    source_folders,
    unique,
)

ENGINES = ("vllm",)
# Named in the design, refused until their roles exist.
ENGINES_TO_COME = ("llama_cpp", "ollama", "tgi", "ray_serve", "mlc_llm")
# A listener in one of these units is the collection's own, from an earlier run.
OWN_UNITS = ("vllm@", "nginx.service")

# lock_from is for playbooks/lock.yml, whose module checks it; nothing here depends on it.
MODEL_KEYS = ("name", "lock", "lock_from", "sources", "allow_files")
SOURCE_KEYS: Mapping[str, tuple[str, ...]] = {
    "folder": ("type", "path"),
    "http": ("type", "url"),
    "hub": ("type", "endpoint"),
}
DEPLOYMENT_KEYS = (
    "name",
    "engine",
    "model",
    "served_model_name",
    "hosts",
    "port",
    "engine_options",
    "environment",
)
TENANT_KEYS = ("name", "key_sha256", "requests_per_minute", "burst", "concurrent_requests")
# The smallest value of each limit.
TENANT_LIMITS = {"requests_per_minute": 1, "burst": 0, "concurrent_requests": 1}
# Engine options that the deployment's own keys decide, and where they come from.
RESERVED_OPTIONS = {
    "api_key": "llm_engine_api_key",
    "host": "the host's llm_address",
    "model": "model",
    "port": "port",
    "served_model_name": "served_model_name",
}

ENGINE_DISTRIBUTIONS = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04", "26.04")}
# The gateway needs nginx's njs module, which Ubuntu 22.04 does not have.
GATEWAY_DISTRIBUTIONS = {"debian": ("12", "13"), "ubuntu": ("24.04", "26.04")}
DISTRIBUTION_NAMES = {"debian": "Debian", "ubuntu": "Ubuntu"}
OLDEST_PYTHON = (3, 9)
SHORTEST_ENGINE_KEY = 16
WILDCARDS = ("0.0.0.0", "::")

GIB = 1024**3

_INSTANCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_SERVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,254}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_HEX = re.compile(r"[0-9a-fA-F]*")
_OPTION = re.compile(r"[a-z][a-z0-9_]*")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"https?://[^\s/]+.*")

_KINDS = {dict: "a mapping", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a boolean"}


@dataclass(frozen=True)
class Finding:
    """One blocker."""

    code: str
    variable: str
    message: str
    action: str
    hosts: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hosts": list(self.hosts)}


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
    # Addresses the engines will listen on, where the caller knows them.
    addresses: Mapping[str, str] = field(default_factory=dict)


class EngineAdvisories:
    """What is published about an engine; an engine without a table has none."""

    def __init__(self, table: Iterable[Advisory], safe_minimum: str) -> None:
        self.table = tuple(table)
        self.safe_minimum = safe_minimum


ADVISORIES: Mapping[str, EngineAdvisories] = {"vllm": EngineAdvisories(VLLM, VLLM_SAFE_MINIMUM)}


def kind(value: Any) -> str:
    """What *value* is, in the words of a person. Never the value itself."""
    if value is None:
        return "empty"
    for python_type in (bool, int, float, str):
        if isinstance(value, python_type):
            return _KINDS[python_type]
    if isinstance(value, Mapping):
        return _KINDS[dict]
    return _KINDS[list] if isinstance(value, Sequence) else "of another type"


def suggestion(word: str, choices: Iterable[str]) -> str:
    """` Did you mean …?`, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def size(count: int) -> str:
    """A number of bytes as people say it, and exactly."""
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / 1024**2:.1f} MiB" if count >= 1024**2 else f"{count} bytes"


class _Validation:
    """Collects findings. One method per part of the site."""

    def __init__(self, site: Site, reader: LockReader, advisories: Mapping[str, EngineAdvisories]) -> None:
        self.site = site
        self.findings: list[Finding] = []
        self.gateways = group_hosts(site.groups, GATEWAY_GROUP)
        self.inventory = set(site.groups.get("all", ()))
        self._reader = reader
        self._advisories = advisories
        # Locks that can be used, by the name of the model.
        self.locks: dict[str, Lock] = {}

    def add(self, code: str, variable: str, message: str, action: str, hosts: Sequence[str] = ()) -> None:
        self.findings.append(Finding(code, variable, message, action, tuple(hosts)))

    # The shape of what was written

    def listed(self, name: str, value: Any, keys: Sequence[str], hosts: Sequence[str]) -> list[tuple[str, Any]]:
        """The mappings in the list *name* with their paths; reports whatever is not one."""
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            self.add(
                "value-type",
                name,
                f"is {kind(value)}, expected a list of mappings",
                f"Write {name} as a list: one entry with the keys {', '.join(keys)} per line that begins with '- '.",
                hosts,
            )
            return []
        found = []
        for index, item in enumerate(value):
            path = f"{name}[{index}]"
            if isinstance(item, Mapping):
                found.append((path, item))
            else:
                self.add(
                    "value-type",
                    path,
                    f"is {kind(item)}, expected a mapping",
                    f"Write the entry as a mapping with the keys {', '.join(keys)}.",
                    hosts,
                )
        return found

    def keys(self, path: str, item: Mapping[str, Any], known: Sequence[str], hosts: Sequence[str]) -> None:
        for key in item:
            if key not in known:
                self.add(
                    "key-unknown",
                    f"{path}.{key}",
                    f"is not a key that exists here; expected one of {', '.join(known)}."
                    + suggestion(str(key), [name for name in known if name not in item]),
                    "Correct the name of the key, or remove it.",
                    hosts,
                )

    def text(self, path: str, item: Mapping[str, Any], key: str, why: str, hosts: Sequence[str]) -> str | None:
        """The text at *key*, or None after saying that it is missing or is no text."""
        value = item.get(key)
        if isinstance(value, str) and value:
            return value
        if value is None or value == "":
            self.add("value-missing", f"{path}.{key}", "is missing", f"Set {key}: {why}.", hosts)
        else:
            self.add(
                "value-type",
                f"{path}.{key}",
                f"is {kind(value)}, expected a text",
                f"Set {key} to a text: {why}. Put it in quotes if YAML takes it for something else.",
                hosts,
            )
        return None

    def name(
        self, path: str, item: Mapping[str, Any], pattern: re.Pattern[str], rule: str, hosts: Sequence[str]
    ) -> str:
        name = self.text(path, item, "name", rule, hosts)
        if name is None:
            return ""
        if not pattern.fullmatch(name):
            self.add("name-invalid", f"{path}.name", f"is {name!r}, expected {rule}", "Choose another name.", hosts)
        return name

    def names_once(self, named: Sequence[tuple[str, str, Sequence[str]]]) -> None:
        """Every (path, name, hosts) must have a name of its own."""
        first: dict[str, str] = {}
        for path, name, hosts in named:
            if name and name in first:
                self.add(
                    "name-duplicate",
                    f"{path}.name",
                    f"is {name!r}, which is already the name of {first[name]}",
                    "Give each entry a name of its own, or remove the one that is too much.",
                    hosts,
                )
            first.setdefault(name, path)

    # llm_models

    def models(self) -> None:
        users = self._model_users()
        named = []
        for path, model in self.listed("llm_models", self.site.models, MODEL_KEYS, ()):
            hosts = users.get(model.get("name"), []) if isinstance(model.get("name"), str) else []
            self.keys(path, model, MODEL_KEYS, hosts)
            rule = "letters, digits, '.', '_' and '-', beginning with a letter or digit"
            name = self.name(path, model, _MODEL_NAME, rule, hosts)
            named.append((path, name, hosts))
            self._allow_files(path, model, hosts)
            self._sources(path, model, hosts)
            self._lock(path, name, model, hosts)
        self.names_once(named)

    def _model_users(self) -> dict[Any, list[str]]:
        users: dict[Any, list[str]] = {}
        for item in entries(self.site.deployments):
            if isinstance(item.get("model"), str):
                hosts = deployment_hosts(item, self.site.groups)
                users[item["model"]] = unique([*users.get(item["model"], []), *hosts])
        return users

    def _allow_files(self, path: str, model: Mapping[str, Any], hosts: Sequence[str]) -> None:
        value = model.get("allow_files")
        if value is None or (_is_list(value) and all(isinstance(entry, str) for entry in value)):
            return
        self.add(
            "value-type",
            f"{path}.allow_files",
            f"is {kind(value)}, expected a list of texts",
            "List the exact paths of the files, or remove the key.",
            hosts,
        )

    def _sources(self, path: str, model: Mapping[str, Any], hosts: Sequence[str]) -> None:
        if model.get("sources") is None:
            self.add(
                "value-missing",
                f"{path}.sources",
                "is missing",
                "List where the files may come from, best first: {type: folder, path: …}, {type: http, url: …} "
                "or {type: hub}.",
                hosts,
            )
            return
        listed = self.listed(f"{path}.sources", model["sources"], ("type", "path or url"), hosts)
        if _is_list(model["sources"]) and not model["sources"]:
            self.add("value-missing", f"{path}.sources", "is empty", "List at least one source.", hosts)
        for where, source in listed:
            self._source(where, source, hosts)

    def _source(self, path: str, source: Mapping[str, Any], hosts: Sequence[str]) -> None:
        choices = ", ".join(SOURCE_KEYS)
        source_type = self.text(path, source, "type", f"one of {choices}", hosts)
        if source_type is None:
            return
        if source_type not in SOURCE_KEYS:
            self.add(
                "source-invalid",
                f"{path}.type",
                f"is {source_type!r}, expected one of {choices}." + suggestion(source_type, SOURCE_KEYS),
                "Correct the type of the source.",
                hosts,
            )
            return
        self.keys(path, source, SOURCE_KEYS[source_type], hosts)
        if source_type == "folder":
            folder = self.text(path, source, "path", "the folder as the host sees it", hosts)
            if folder is not None and not posixpath.isabs(folder):
                self.add(
                    "source-invalid",
                    f"{path}.path",
                    f"is {folder!r}, expected a path that begins with '/'",
                    "Write the whole path of the folder on the host.",
                    hosts,
                )
            return
        key = "url" if source_type == "http" else "endpoint"
        if source_type == "hub" and source.get(key) is None:
            return
        url = self.text(path, source, key, "an address that begins with https:// or http://", hosts)
        if url is not None and not _URL.fullmatch(url):
            self.add(
                "source-invalid",
                f"{path}.{key}",
                "is no address, expected one that begins with https:// or http://",
                "Correct the address.",
                hosts,
            )

    def _lock(self, path: str, name: str, model: Mapping[str, Any], hosts: Sequence[str]) -> None:
        variable = f"{path}.lock"
        value = model.get("lock")
        if value is None or value == "":
            self.add(
                "model-without-lock",
                variable,
                f"is missing: model {name!r} has no lock file, so nobody could tell whether its weights are right",
                "Make one with the playbook baremetal.llm.lock or the module baremetal.llm.model_lock, keep it beside "
                'the inventory, and set lock: "{{ inventory_dir }}/locks/<name>.yml".',
                hosts,
            )
            return
        if not isinstance(value, str):
            self.add(
                "value-type",
                variable,
                f"is {kind(value)}, expected a text",
                "Set lock to the path of the lock file on the controller.",
                hosts,
            )
            return
        try:
            lock = model_lock(model, self._reader)
        except LockError as error:
            self.add(
                "lock-invalid",
                variable,
                f"is {value}, which cannot be used: " + "; ".join(error.problems),
                "Correct the path, or lock the model again. A lock file is not edited by hand.",
                hosts,
            )
        except TypeError:
            return  # allow_files is no list, which was said.
        else:
            self.locks.setdefault(name, lock)

    # llm_deployments

    def deployments(self) -> None:
        listed = self.listed("llm_deployments", self.site.deployments, DEPLOYMENT_KEYS, ())
        if _is_list(self.site.deployments) and not self.site.deployments:
            self.add(
                "deployments-none",
                "llm_deployments",
                "is empty: nothing would be served",
                "Define at least one deployment, in a place that every host sees (group_vars/all).",
            )
        named: list[tuple[str, str, Sequence[str]]] = []
        served: list[tuple[str, str, Sequence[str]]] = []
        ports: list[tuple[str, int, str, str]] = []
        for path, item in listed:
            hosts = deployment_hosts(item, self.site.groups)
            self.keys(path, item, DEPLOYMENT_KEYS, hosts)
            rule = "lower-case letters, digits and '-', at most 63, with a letter or digit at both ends"
            name = self.name(path, item, _INSTANCE_NAME, rule, hosts)
            named.append((path, name, hosts))
            self._engine(path, item, hosts)
            served.append((path, self._model(path, item, hosts), hosts))
            self._hosts(path, name, item, hosts)
            port = self._port(path, item, hosts)
            if port is not None:
                ports.extend((host, port, path, name) for host in hosts)
            self._engine_options(path, item, hosts)
            self._environment(path, item, hosts)
        self.names_once(named)
        self._served_names_once(served)
        self._ports_once(ports)

    def _engine(self, path: str, item: Mapping[str, Any], hosts: Sequence[str]) -> None:
        engine = self.text(path, item, "engine", f"one of {', '.join(ENGINES)}", hosts)
        if engine is None or engine in ENGINES:
            return
        if engine in ENGINES_TO_COME:
            self.add(
                "engine-not-built",
                f"{path}.engine",
                f"is {engine!r}, which this version of the collection cannot serve yet; "
                f"expected one of {', '.join(ENGINES)}",
                f"Choose one of {', '.join(ENGINES)}, or take the deployment out until the collection has {engine}.",
                hosts,
            )
            return
        self.add(
            "engine-unknown",
            f"{path}.engine",
            f"is {engine!r}, which is no engine; expected one of {', '.join(ENGINES)}."
            + suggestion(engine, [*ENGINES, *ENGINES_TO_COME]),
            "Correct the name of the engine.",
            hosts,
        )

    def _model(self, path: str, item: Mapping[str, Any], hosts: Sequence[str]) -> str:
        """Check the model that a deployment names, and return the name it is served under."""
        known = [str(model["name"]) for model in entries(self.site.models) if isinstance(model.get("name"), str)]
        model = self.text(path, item, "model", "the name of an entry of llm_models", hosts)
        if model is not None and model not in known:
            self.add(
                "model-unknown",
                f"{path}.model",
                f"is {model!r}, expected the name of an entry of llm_models ({', '.join(known) or 'which is empty'})."
                + suggestion(model, known),
                "Correct the name, or add the model to llm_models.",
                hosts,
            )
        if item.get("served_model_name") is None:
            return model or ""
        served = self.text(path, item, "served_model_name", "the model name that clients send", hosts)
        if served is not None and not _SERVED_NAME.fullmatch(served):
            self.add(
                "name-invalid",
                f"{path}.served_model_name",
                f"is {served!r}, expected letters, digits and . _ : / @ + - only, beginning with a letter or digit",
                "Choose another name.",
                hosts,
            )
        return served or ""

    def _hosts(self, path: str, name: str, item: Mapping[str, Any], hosts: Sequence[str]) -> None:
        variable = f"{path}.hosts"
        value = item.get("hosts")
        if not _is_list(value) or not all(isinstance(entry, str) for entry in value or ()):
            self.add(
                "value-missing" if value is None else "value-type",
                variable,
                "is missing" if value is None else f"is {kind(value)}, expected a list of texts",
                f"List names of hosts or groups of the inventory, for example [{GPU_GROUP}].",
                hosts,
            )
            return
        known = [*self.site.groups, *self.inventory]
        unknown = [entry for entry in value or () if entry not in self.site.groups and entry not in self.inventory]
        for entry in unique(unknown):
            self.add(
                "deployment-host-unknown",
                f"{variable}[{list(value or ()).index(entry)}]",
                f"is {entry!r}, which is neither a host nor a group of the inventory." + suggestion(entry, known),
                f"Add the host to the group {GPU_GROUP} of the inventory, or correct the name.",
                [entry],
            )
        if not hosts and not unknown:
            self.add(
                "deployment-without-host",
                variable,
                f"names no host: deployment {name!r} would run nowhere",
                f"Name at least one host, or put hosts into the group {', '.join(value or ()) or GPU_GROUP}.",
            )
        engines = set(group_hosts(self.site.groups, GPU_GROUP))
        outside = [host for host in hosts if host not in engines]
        if outside:
            self.add(
                "deployment-host-not-gpu",
                variable,
                f"places deployment {name!r} on a host that is not in the group {GPU_GROUP}, so no engine is "
                "installed there",
                f"Put the host into {GPU_GROUP}, or take it out of the deployment.",
                outside,
            )

    def _port(self, path: str, item: Mapping[str, Any], hosts: Sequence[str]) -> int | None:
        value = item.get("port")
        if value is None:
            self.add("value-missing", f"{path}.port", "is missing", "Set port: a number from 1024 to 65535.", hosts)
        elif isinstance(value, bool) or not isinstance(value, int):
            self.add(
                "value-type",
                f"{path}.port",
                f"is {kind(value)}, expected a whole number",
                "Write the port as a number, without quotes.",
                hosts,
            )
        elif not 1024 <= value <= 65535:
            self.add(
                "port-invalid",
                f"{path}.port",
                f"is {value}, expected a number from 1024 to 65535 (engines run without privileges)",
                "Choose another port.",
                hosts,
            )
        else:
            return value
        return None

    def _ports_once(self, ports: Sequence[tuple[str, int, str, str]]) -> None:
        taken: dict[tuple[str, int], tuple[str, str]] = {}
        for gateway in self.gateways:
            taken[gateway, self.site.gateway_port] = ("the gateway", "its HTTPS port")
        clashes: dict[tuple[str, str, str, int], list[str]] = {}
        for host, port, path, name in ports:
            first = taken.setdefault((host, port), (path, f"deployment {name!r}"))
            if first[0] != path:
                clashes.setdefault((path, name, " of ".join(reversed(first)), port), []).append(host)
        for (path, name, other, port), hosts in clashes.items():
            self.add(
                "port-duplicate",
                f"{path}.port",
                f"is {port}, which is used twice on the same host: by {other} and by deployment {name!r}",
                "Give one of them another port.",
                hosts,
            )

    def _served_names_once(self, served: Sequence[tuple[str, str, Sequence[str]]]) -> None:
        first: dict[str, str] = {}
        for path, name, hosts in served:
            if name and name in first:
                self.add(
                    "served-model-name-duplicate",
                    f"{path}.served_model_name",
                    f"is {name!r} (it defaults to the model's name), which is also that of {first[name]}: "
                    "the gateway could not tell whom a client asks for",
                    "Replicas of one model belong in one deployment; otherwise give one of them another "
                    "served_model_name.",
                    hosts,
                )
            first.setdefault(name, path)

    def _engine_options(self, path: str, item: Mapping[str, Any], hosts: Sequence[str]) -> None:
        for key, _ in self._mapping(path, item, "engine_options", hosts):
            variable = f"{path}.engine_options.{key}"
            if not isinstance(key, str) or not _OPTION.fullmatch(key):
                self.add(
                    "engine-option-invalid",
                    variable,
                    "is no name of an option, expected lower-case letters, digits and underscores",
                    "Write the engine's long option without the leading dashes and with underscores: "
                    f"{str(key).lstrip('-').replace('-', '_')}.",
                    hosts,
                )
            elif key in RESERVED_OPTIONS:
                self.add(
                    "engine-option-reserved",
                    variable,
                    f"is decided elsewhere: by {RESERVED_OPTIONS[key]}",
                    f"Remove it here and set {RESERVED_OPTIONS[key]}.",
                    hosts,
                )

    def _environment(self, path: str, item: Mapping[str, Any], hosts: Sequence[str]) -> None:
        for key, value in self._mapping(path, item, "environment", hosts):
            variable = f"{path}.environment.{key}"
            if not isinstance(key, str) or not _ENVIRONMENT_NAME.fullmatch(key):
                self.add(
                    "environment-name-invalid",
                    variable,
                    "is no name of an environment variable, expected letters, digits and underscores",
                    "Correct the name.",
                    hosts,
                )
            elif value is None or isinstance(value, (Mapping, bool)) or _is_list(value):
                self.add(
                    "value-type",
                    variable,
                    f"is {kind(value)}, expected a text or a number",
                    'Write the value in quotes, for example "1" for a switch.',
                    hosts,
                )

    def _mapping(self, path: str, item: Mapping[str, Any], key: str, hosts: Sequence[str]) -> list[tuple[Any, Any]]:
        value = item.get(key)
        if value is None:
            return []
        if isinstance(value, Mapping):
            return list(value.items())
        self.add(
            "value-type",
            f"{path}.{key}",
            f"is {kind(value)}, expected a mapping",
            "Write one 'name: value' per line.",
            hosts,
        )
        return []

    # llm_tenants and what belongs to the gateway

    def tenants(self) -> None:
        named = []
        owners: dict[str, str] = {}
        for path, tenant in self.listed("llm_tenants", self.site.tenants, TENANT_KEYS, self.gateways):
            self.keys(path, tenant, TENANT_KEYS, self.gateways)
            rule = "lower-case letters, digits, '.', '_' and '-', at most 63, with a letter or digit at both ends"
            named.append((path, self.name(path, tenant, _NAME, rule, self.gateways), self.gateways))
            self._key_hashes(path, tenant, owners)
            for key, least in TENANT_LIMITS.items():
                self._limit(f"{path}.{key}", tenant.get(key), least)
        self.names_once(named)

    def _key_hashes(self, path: str, tenant: Mapping[str, Any], owners: dict[str, str]) -> None:
        value = tenant.get("key_sha256")
        variable = f"{path}.key_sha256"
        hint = "Set key_sha256 to the output of: printf %s \"$KEY\" | sha256sum | cut -d' ' -f1"
        if value is None or value == "" or (_is_list(value) and not value):
            self.add("value-missing", variable, "is missing, expected 64 hex digits", f"{hint}.", self.gateways)
            return
        digests = list(value) if _is_list(value) else [value]
        for index, digest in enumerate(digests):
            where = f"{variable}[{index}]" if _is_list(value) else variable
            if not isinstance(digest, str):
                self.add(
                    "value-type",
                    where,
                    f"is {kind(digest)}, expected a text of 64 hex digits",
                    f"{hint}, in quotes.",
                    self.gateways,
                )
            elif not _DIGEST.fullmatch(digest):
                self._bad_hash(where, digest, hint)
            elif digest.lower() in owners:
                self.add(
                    "tenant-key-duplicate",
                    where,
                    f"is the hash that {owners[digest.lower()]} has already: two tenants must not share a key",
                    "Make a key of its own for each tenant, and remove the hash that is too much.",
                    self.gateways,
                )
            else:
                owners[digest.lower()] = where

    def _bad_hash(self, variable: str, digest: str, hint: str) -> None:
        if _HEX.fullmatch(digest):
            self.add(
                "tenant-key-hash-invalid",
                variable,
                f"has {len(digest)} hex digits, expected 64",
                f"{hint}. The whole output belongs here.",
                self.gateways,
            )
            return
        self.add(
            "tenant-key-plaintext",
            variable,
            f"has {len(digest)} characters that are not all hex digits, expected 64 hex digits. It looks like the key "
            "itself, which is not shown here",
            f"If it is the key, replace the key: it was written down. {hint}.",
            self.gateways,
        )

    def _limit(self, variable: str, value: Any, least: int) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            self.add(
                "value-type",
                variable,
                f"is {kind(value)}, expected a whole number of at least {least}",
                "Write the limit as a number, without quotes.",
                self.gateways,
            )
        elif value < least:
            self.add(
                "tenant-limit-invalid",
                variable,
                f"is {value}, expected a whole number of at least {least}",
                "Raise the limit. To shut a tenant out, remove its entry.",
                self.gateways,
            )

    def gateway(self) -> None:
        if not self.gateways:
            self.add(
                "gateway-none",
                f"groups.{GATEWAY_GROUP}",
                "has no host: nobody could reach the engines, which are open to the gateway only",
                f"Put at least one host into the group {GATEWAY_GROUP}; it may be one of {GPU_GROUP}.",
            )
        if _is_list(self.site.tenants) and not self.site.tenants:
            self.add(
                "tenants-none",
                "llm_tenants",
                "is empty: nobody could use the endpoint",
                "Define at least one tenant with name and key_sha256.",
                self.gateways,
            )
        length = self.site.engine_key_length
        if length < SHORTEST_ENGINE_KEY:
            self.add(
                "engine-key-missing" if not length else "engine-key-short",
                "llm_engine_api_key",
                "is empty: an engine would answer whoever reaches its port"
                if not length
                else f"has {length} characters, expected at least {SHORTEST_ENGINE_KEY}",
                "Set it to the output of: openssl rand -hex 32. Keep it in a vault.",
                unique([*self.gateways, *group_hosts(self.site.groups, GPU_GROUP)]),
            )

    # Hosts

    def hosts(self) -> None:
        for host, state in self.site.hosts.items():
            if host in self.site.groups.get(GPU_GROUP, ()):
                self._versions(host, state)
            if state.problem or not state.readiness:
                self._no_answer(host, state)
                continue
            self._system(host, state.readiness)
            here = [item for item in entries(self.site.deployments) if host in self._placed(item)]
            self._folders(host, state.readiness, here)
            self._disk(host, state, here)
            self._listeners(host, state.readiness, here)

    def _placed(self, item: Mapping[str, Any]) -> list[str]:
        return deployment_hosts(item, self.site.groups)

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

    def _versions(self, host: str, state: HostState) -> None:
        versions = state.wanted.get("engine_versions") or {}
        for engine, published in self._advisories.items():
            entry = versions.get(engine) if isinstance(versions, Mapping) else None
            version = entry.get("version") if isinstance(entry, Mapping) else None
            if version in (None, ""):
                continue
            accepted = entry.get("accepted_advisories") if isinstance(entry, Mapping) else None
            names = [str(name) for name in accepted] if _is_list(accepted) and accepted else []
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
        self, readiness: Mapping[str, Any], here: Sequence[Mapping[str, Any]]
    ) -> list[tuple[int, Mapping[str, Any], Lock]]:
        """The models of a host that are not published there: index in llm_models, entry, lock."""
        published = {item["path"] for item in readiness.get("models") or () if item.get("published")}
        names = {item["model"] for item in here if isinstance(item.get("model"), str)}
        wanted: dict[str, tuple[int, Mapping[str, Any], Lock]] = {}
        for index, model in enumerate(self.site.models if _is_list(self.site.models) else ()):
            name = model.get("name") if isinstance(model, Mapping) else None
            if not isinstance(name, str) or name not in names or name not in self.locks:
                continue
            path = self.locks[name].model_path(self.site.model_root)
            if path not in published:
                wanted.setdefault(path, (index, model, self.locks[name]))
        return list(wanted.values())

    def _folders(self, host: str, readiness: Mapping[str, Any], here: Sequence[Mapping[str, Any]]) -> None:
        """A model that only folders can serve must be whole in them; others have somewhere else to turn to."""
        checked = {item["path"]: item for item in readiness.get("source_folders") or ()}
        for index, model, _ in self._models_to_fetch(readiness, here):
            folders = source_folders(model)
            if not folders or any(item.get("type") in ("http", "hub") for item in entries(model.get("sources"))):
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
        total = sum(lock.total_bytes for _, _, lock in self._models_to_fetch(state.readiness, here))
        if not total:
            return
        reserve = state.wanted.get("reserve_bytes")
        if isinstance(reserve, bool) or not isinstance(reserve, int) or reserve < 0:
            reserve = GIB
        for space in state.readiness.get("space") or ():
            if space["path"] != self.site.model_root:
                continue
            if space.get("read_only"):
                self.add(
                    "disk-read-only",
                    "llm_models",
                    f"needs {size(total)} in {self.site.model_root}, but its file system {space['mount']} is mounted "
                    "read-only",
                    "Mount it writable.",
                    [host],
                )
            elif space["free_bytes"] < total + reserve:
                need = total + reserve
                self.add(
                    "disk-too-small",
                    "llm_models",
                    f"needs {size(need)} in {self.site.model_root} ({size(total)} of weights not there yet and "
                    f"{size(reserve)} to stay free), but {space['mount']} has {size(space['free_bytes'])} free: "
                    f"{size(need - space['free_bytes'])} are missing",
                    f"Free space on {space['mount']}, mount a larger disk at {self.site.model_root}, or place fewer "
                    "models on the host.",
                    [host],
                )

    def _listeners(self, host: str, readiness: Mapping[str, Any], here: Sequence[Mapping[str, Any]]) -> None:
        wanted: dict[int, tuple[str, str, str]] = {}
        if host in self.gateways:
            wanted[self.site.gateway_port] = ("gateway_https_port", "the gateway", "")
        for index, item in enumerate(self.site.deployments if _is_list(self.site.deployments) else ()):
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
            if address and listener["address"] not in (*WILDCARDS, address) and _is_ip_address(address):
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


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_ip_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """The same finding on several hosts is one finding with several hosts."""
    merged: dict[Finding, list[str]] = {}
    for finding in findings:
        merged.setdefault(replace(finding, hosts=()), []).extend(finding.hosts)
    return [replace(finding, hosts=tuple(unique(hosts))) for finding, hosts in merged.items()]


def validate_site(
    site: Site, reader: LockReader = read_lock, advisories: Mapping[str, EngineAdvisories] = ADVISORIES
) -> list[Finding]:
    """Everything that would stop *site* from being served, in the order of the inventory."""
    validation = _Validation(site, reader, advisories)
    validation.models()
    validation.deployments()
    validation.tenants()
    validation.gateway()
    validation.hosts()
    return merge(validation.findings)


# For people

SHOWN_HOSTS = 6
WHOLE_SITE = "the whole site"


def describe_hosts(hosts: Sequence[str]) -> str:
    """`a, b, c`, or the first of them and how many more."""
    if not hosts:
        return WHOLE_SITE
    shown = ", ".join(hosts[:SHOWN_HOSTS])
    return shown if len(hosts) <= SHOWN_HOSTS else f"{shown} and {len(hosts) - SHOWN_HOSTS} more"


def summary(findings: Sequence[Finding]) -> str:
    """The findings in one sentence."""
    count = "1 blocker" if len(findings) == 1 else f"{len(findings)} blockers"
    return f"Preflight found {count}, listed by host. Nothing was changed on any host."


def sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def report(findings: Sequence[Finding]) -> str:
    """The findings as a text to read in a terminal, grouped by host."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.hosts, []).append(finding)
    lines = []
    # What concerns the whole site first, then in the order of their first finding.
    for hosts in sorted(groups, key=bool):
        lines.append(f"== {describe_hosts(hosts)} ==")
        for finding in groups[hosts]:
            lines.append(f"  * {finding.variable} {sentence(finding.message)} [{finding.code}]")
            lines.append(f"    -> {sentence(finding.action)}")
        lines.append("")
    lines.append("Each code is explained in docs/findings.md of the collection.")
    return "\n".join(lines)
