# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is wrong with a site, in one list, before anything is changed.

Each finding has a stable code (docs/findings.md), the variable as the operator wrote it, the hosts it is about, what
was found and what was expected, and the way out. No message repeats a value that may be secret: keys, hashes of
keys, environments and engine options are described, not shown.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.deployment_size import SIZE_KEYS
from ansible_collections.baremetal.llm.plugins.module_utils.deployment_size_validation import size_findings
from ansible_collections.baremetal.llm.plugins.module_utils.finding import (
    Finding,
    Findings,
    is_list,
    kind,
    merge,
    suggestion,
)
from ansible_collections.baremetal.llm.plugins.module_utils.host_validation import (
    ADVISORIES,
    EngineAdvisories,
    HostChecks,
)
from ansible_collections.baremetal.llm.plugins.module_utils.host_validation_machine import gateway_port
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockError, read_lock
from ansible_collections.baremetal.llm.plugins.module_utils.site import (
    GATEWAY_GROUP,
    GPU_GROUP,
    LockReader,
    Site,
    deployment_hosts,
    entries,
    group_hosts,
    model_lock,
    unique,
)

ENGINES = ("vllm",)
# Named in the design, refused until their roles exist.
ENGINES_TO_COME = ("llama_cpp", "ollama", "tgi", "ray_serve", "mlc_llm")

# lock_from is for playbooks/lock.yml, whose module checks it; nothing here depends on it.
MODEL_KEYS = ("name", "lock", "lock_from", "sources", "allow_files")
SOURCE_KEYS: Mapping[str, tuple[str, ...]] = {
    "folder": ("type", "path"),
    "http": ("type", "url", "token_file"),
    "hub": ("type", "endpoint", "token_file"),
    "s3": (
        *("type", "endpoint", "bucket", "prefix", "region"),
        *("virtual_hosted", "credentials_file", "credentials_profile"),
    ),
}
DEPLOYMENT_KEYS = (
    "name",
    "engine",
    "model",
    "served_model_name",
    "hosts",
    "port",
    *SIZE_KEYS,
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

SHORTEST_ENGINE_KEY = 16

_INSTANCE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_SERVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,254}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_HEX = re.compile(r"[0-9a-fA-F]*")
_OPTION = re.compile(r"[a-z][a-z0-9_]*")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"https?://[^\s/]+.*")


class SiteChecks(Findings):
    """Judges what is written in the inventory. One method per part of it."""

    def __init__(self, site: Site, reader: LockReader) -> None:
        super().__init__()
        self.site = site
        self.gateways = group_hosts(site.groups, GATEWAY_GROUP)
        self.inventory = set(site.groups.get("all", ()))
        self._reader = reader
        # Locks that can be used, by the name of the model.
        self.locks: dict[str, Lock] = {}

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
        if value is None or (is_list(value) and all(isinstance(entry, str) for entry in value)):
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
        if is_list(model["sources"]) and not model["sources"]:
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
        if source_type == "s3":
            self.text(path, source, "bucket", "the name of the bucket", hosts)
        key = "url" if source_type == "http" else "endpoint"
        if source_type != "http" and source.get(key) is None:
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
        if is_list(self.site.deployments) and not self.site.deployments:
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
            self.findings.extend(size_findings(path, item, hosts))
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
        if not is_list(value) or not all(isinstance(entry, str) for entry in value or ()):
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
            taken[gateway, gateway_port(self.site, gateway)] = ("the gateway", "its HTTPS port")
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
        for key in self._mapping(path, item, "engine_options", hosts):
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
        for key, value in self._mapping(path, item, "environment", hosts).items():
            variable = f"{path}.environment.{key}"
            if not isinstance(key, str) or not _ENVIRONMENT_NAME.fullmatch(key):
                self.add(
                    "environment-name-invalid",
                    variable,
                    "is no name of an environment variable, expected letters, digits and underscores",
                    "Correct the name.",
                    hosts,
                )
            elif value is None or isinstance(value, (Mapping, bool)) or is_list(value):
                self.add(
                    "value-type",
                    variable,
                    f"is {kind(value)}, expected a text or a number",
                    'Write the value in quotes, for example "1" for a switch.',
                    hosts,
                )

    def _mapping(self, path: str, item: Mapping[str, Any], key: str, hosts: Sequence[str]) -> Mapping[Any, Any]:
        value = item.get(key)
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return value
        self.add(
            "value-type",
            f"{path}.{key}",
            f"is {kind(value)}, expected a mapping",
            "Write one 'name: value' per line.",
            hosts,
        )
        return {}

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
        if value is None or value == "" or (is_list(value) and not value):
            self.add("value-missing", variable, "is missing, expected 64 hex digits", f"{hint}.", self.gateways)
            return
        digests = list(value) if is_list(value) else [value]
        for index, digest in enumerate(digests):
            where = f"{variable}[{index}]" if is_list(value) else variable
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
        if is_list(self.site.tenants) and not self.site.tenants:
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

    # llm_hub_token_file

    def hub_token(self) -> None:
        """The file is for the playbook that locks models; no host needs it, and nothing of it is shown."""
        path = self.site.hub_token_file
        if not path:
            return
        variable = "llm_hub_token_file"
        way_out = "Correct the path, or remove the variable: without a token only public models can be locked."
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as handle:
                mode = os.fstat(handle.fileno()).st_mode
                words = handle.read(4096).split()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            self.add(
                "hub-token-unusable", variable, f"is {path}, which cannot be read on the controller: {why}", way_out
            )
            return
        if len(words) != 1:
            found = f"{len(words)} words" if words else "nothing"
            self.add(
                "hub-token-unusable",
                variable,
                f"is {path}, which holds {found}, expected a token alone",
                "Write the token into the file, and nothing else.",
            )
        elif mode & (stat.S_IRGRP | stat.S_IROTH):
            self.warn(
                "hub-token-exposed",
                variable,
                f"is {path}, which others on the controller may read (mode {stat.S_IMODE(mode):04o})",
                f"chmod 600 {path}",
            )


def validate_site(
    site: Site, reader: LockReader = read_lock, advisories: Mapping[str, EngineAdvisories] | None = None
) -> list[Finding]:
    """Everything that would stop *site* from being served, in the order of the inventory."""
    written = SiteChecks(site, reader)
    written.models()
    written.deployments()
    written.tenants()
    written.gateway()
    written.hub_token()
    hosts = HostChecks(site, written.locks, ADVISORIES if advisories is None else advisories)
    hosts.check()
    return merge([*written.findings, *hosts.findings])
