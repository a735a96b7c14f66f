# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What the vllm role decides: what it refuses, and what goes into an engine's files."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import advisories

NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# Room for a key of 128 bits in any spelling; shorter ones are words.
SHORTEST_KEY = 32

# Options that hand the engine, or the host, to whoever sends a request or made the model.
NEVER_OPTIONS = {
    "trust_remote_code": "it runs code that comes with the model; convert the model to one that vLLM knows by itself",
    "enable_prompt_embeds": "prompt embeddings corrupt memory (CVE-2025-62164 and its successors)",
    "trust_request_chat_template": "a chat template in a request runs in the server (CVE-2026-115911)",
    "trust_request_mm_kwargs": "processor arguments in a request reach the model's own code",
    "allowed_local_media_path": "requests could read files of the host",
}
# Options that have their own place.
ROLE_OPTIONS = {
    "api_key": "the key is vllm_api_key: an option would be readable in the configuration and in `ps`",
    "config": "the role writes the configuration file",
    "host": "the address is listen_address of the deployment",
    "model": "the model is model_path of the deployment",
    "port": "the port is port of the deployment",
    "served_model_name": "the name is served_model_name of the deployment",
    "uds": "the gateway and the readiness check reach the engine at listen_address and port",
}
NEVER_ENVIRONMENT = {
    "PYTHONOPTIMIZE": "it removes checks that vLLM relies on (CVE-2026-22807 and its kin)",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "it brings pickle back to the engine's own connections",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "requests could load adapters from anywhere",
    "VLLM_SERVER_DEV_MODE": "it opens routes that pause the engine and change its weights",
}
ROLE_ENVIRONMENT = {
    "ENGINE_API_KEY": "the key is vllm_api_key",
    "ENGINE_MODEL": "the role sets it",
    "ENGINE_URL": "the role sets it",
    "VLLM_API_KEY": "the key is vllm_api_key",
}


def _truthy(value: Any) -> bool:
    """Whether a value switches an option on, however an inventory spells it."""
    return str(value).strip().lower() not in ("", "0", "false", "no", "off", "none")


def _address(text: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an IP address, or None for what is none."""
    try:
        return ipaddress.ip_address(str(text))
    except ValueError:
        return None


def version_problems(version: str, accepted: Sequence[str]) -> list[str]:
    """Return why a version is refused."""
    found = [
        f"vllm_accepted_advisories: {name} is not in this collection's table of advisories, so it accepts nothing; "
        "check its spelling"
        for name in advisories.unknown(accepted)
    ]
    try:
        open_ones = advisories.unaccepted(version, accepted)
    except ValueError:
        return [*found, f"vllm_version: {version!r} is not a version; write one such as 0.33.0"]
    if open_ones:
        names = "; ".join(f"{advisory.identifier} ({advisory.summary})" for advisory in open_ones)
        found.append(
            f"vllm_version: {version} is below the safe minimum {advisories.VLLM_SAFE_MINIMUM} and affected by {names}."
            f" Set vllm_version to {advisories.VLLM_SAFE_MINIMUM} or newer, or accept each by its name in"
            " vllm_accepted_advisories"
        )
    return found


def option_problems(name: str, options: Mapping[str, Any]) -> list[str]:
    """Return what is refused in a deployment's engine options."""
    found = []
    for option, value in options.items():
        key = str(option).replace("-", "_").lower()
        where = f"vllm_deployments: engine_options.{option} of {name}"
        if key in ROLE_OPTIONS:
            found.append(f"{where} cannot be set there: {ROLE_OPTIONS[key]}. Remove it")
        elif key in NEVER_OPTIONS and _truthy(value):
            found.append(f"{where} is refused: {NEVER_OPTIONS[key]}. Remove it")
        elif value is None:
            found.append(f"{where} has no value: vLLM would read the word None. Give it one or remove it")
    return found


def environment_problems(where: str, environment: Mapping[str, Any]) -> list[str]:
    """Return what is refused in environment variables."""
    found = []
    for variable, value in environment.items():
        if not ENVIRONMENT_NAME.match(str(variable)):
            found.append(f"{where}: {variable!r} is not the name of an environment variable")
        elif variable in ROLE_ENVIRONMENT:
            found.append(f"{where}: {variable} cannot be set there: {ROLE_ENVIRONMENT[variable]}. Remove it")
        elif variable in NEVER_ENVIRONMENT and _truthy(value):
            found.append(f"{where}: {variable} is refused: {NEVER_ENVIRONMENT[variable]}. Remove it")
        elif re.search(r"[\0\r\n]", str(value)):
            found.append(f"{where}: the value of {variable} has a line break, which an environment file cannot hold")
    return found


def deployment_problems(deployments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is refused in the list of deployments."""
    found: list[str] = []
    names: dict[str, int] = {}
    ports: dict[int, list[str]] = {}
    for deployment in deployments:
        name = str(deployment["name"])
        names[name] = names.get(name, 0) + 1
        ports.setdefault(int(deployment["port"]), []).append(name)
        if not NAME.match(name):
            found.append(
                f"vllm_deployments: the name {name!r} is refused, since it becomes the name of a unit and of files: use"
                " lower-case letters, digits and hyphens"
            )
        if not 1 <= int(deployment["port"]) <= 65535:
            found.append(f"vllm_deployments: port {deployment['port']} of {name} is not between 1 and 65535")
        if not str(deployment["model_path"]).startswith("/"):
            found.append(
                f"vllm_deployments: model_path {deployment['model_path']!r} of {name} is not an absolute path;"
                " engines only serve what is on the host and fetch nothing"
            )
        address = _address(deployment["listen_address"])
        if address is None:
            found.append(
                f"vllm_deployments: listen_address {deployment['listen_address']!r} of {name} is not an IP address;"
                " give the host's own address"
            )
        elif address.is_unspecified:
            found.append(
                f"vllm_deployments: listen_address {address} of {name} would listen on every interface; give the one"
                " address that the gateway reaches the host at, or 127.0.0.1"
            )
        found += option_problems(name, deployment.get("engine_options") or {})
        found += environment_problems(f"vllm_deployments: environment of {name}", deployment.get("environment") or {})
    found += [
        f"vllm_deployments: {count} deployments have the name {name}; give each its own"
        for name, count in names.items()
        if count > 1
    ]
    found += [
        f"vllm_deployments: port {port} is used by {' and '.join(users)}; give each its own"
        for port, users in ports.items()
        if len(users) > 1
    ]
    return found


def client_problems(clients: Sequence[str]) -> list[str]:
    """Return what is refused among the addresses that may connect."""
    found = []
    for client in clients:
        try:
            ipaddress.ip_network(str(client), strict=False)
        except ValueError:
            found.append(
                f"vllm_allowed_clients: {client!r} is neither an IP address nor a network; systemd filters by address,"
                " so give the gateway's address"
            )
    return found


def problems(settings: Mapping[str, Any], host: str) -> list[str]:
    """Return everything that is wrong with a host's settings, each with its variable, the host and the way out.

    Keys of the settings are the role's variables without their prefix, and what the role found out: `distribution`
    (its name), `supported` (whether the role has data for it), `system_python` (version of its Python),
    `requirements_exist` (whether the file is there on the controller).
    """
    found: list[str] = []
    if not settings["supported"]:
        found.append(f"{settings['distribution']} is not supported: use Debian 12 or 13, or Ubuntu 22.04 or 24.04")
    found += version_problems(str(settings["version"]), settings["accepted_advisories"])
    if not settings["requirements_exist"]:
        found.append(
            f"vllm_requirements: there is no file {settings['requirements']} on the controller; give a requirements"
            f" file with hashes that names vllm=={settings['version']} and everything it needs, or set vllm_version to"
            " a version that this collection has one for"
        )
    if settings["python"] == "/usr/bin/python3" and settings["supported"]:
        system = tuple(int(part) for part in str(settings["system_python"]).split("."))
        if system < (3, 11):
            found.append(
                f"vllm_python: {settings['distribution']} has Python {settings['system_python']}, vLLM needs 3.11 or"
                " newer; install one and give its path"
            )
    if len(str(settings["api_key"])) < SHORTEST_KEY:
        found.append(
            f"vllm_api_key: give a key of at least {SHORTEST_KEY} characters, for instance from `openssl rand -hex 32`"
        )
    elif re.search(r"[^\x21-\x7e]", str(settings["api_key"])):
        found.append("vllm_api_key: only printable ASCII characters without blanks can be sent in a header")
    found += environment_problems("vllm_environment", settings["environment"])
    found += client_problems(settings["allowed_clients"])
    found += deployment_problems(settings["deployments"])
    return [f"{host}: {problem}." for problem in found]


def engine_configuration(deployment: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the file that `vllm serve --config` reads; the deployment's options win over defaults.

    vLLM leaves out a false value whose option has no `--no-` form, so a default can always be switched off.
    """
    options = {str(key).replace("_", "-"): value for key, value in defaults.items()}
    options.update(
        {str(key).replace("_", "-"): value for key, value in (deployment.get("engine_options") or {}).items()}
    )
    options.update(
        {
            "host": str(deployment["listen_address"]),
            "model": str(deployment["model_path"]),
            "port": int(deployment["port"]),
            "served-model-name": [str(deployment["served_model_name"])],
        }
    )
    return dict(sorted(options.items()))


def engine_url(deployment: Mapping[str, Any]) -> str:
    """Return the address at which the engine answers on its own host."""
    address = str(deployment["listen_address"])
    return f"http://[{address}]:{deployment['port']}" if ":" in address else f"http://{address}:{deployment['port']}"


def quote(value: Any) -> str:
    """Return a value as systemd reads it in an environment file: in double quotes, nothing of it with a meaning."""
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return '"' + re.sub(r'(["\\`$])', r"\\\1", text) + '"'


def environment_file(deployment: Mapping[str, Any], common: Mapping[str, Any], api_key: str) -> str:
    """Return an engine's environment file; the deployment's variables win over the common ones."""
    values: dict[str, Any] = {**common, **(deployment.get("environment") or {})}
    values.update(ENGINE_URL=engine_url(deployment), ENGINE_MODEL=deployment["served_model_name"], VLLM_API_KEY=api_key)
    lines = [f"{name}={quote(value)}" for name, value in sorted(values.items())]
    return "# Written by the role vllm. Holds a key: readable by root alone.\n" + "\n".join(lines) + "\n"


def revision(*parts: Any) -> str:
    """Return a digest of everything that a running engine depends on: when it differs, the engine is out of date."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def configurations(deployments: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name and configuration of each deployment: what may be shown, unlike its environment."""
    return [{"name": one["name"], "configuration": engine_configuration(one, defaults)} for one in deployments]


def units(
    deployments: Iterable[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    environment: Mapping[str, Any],
    api_key: str,
    everywhere: Sequence[Any],
) -> list[dict[str, str]]:
    """Return name and revision of each deployment; `everywhere` is what all of them depend on."""
    return [
        {
            "name": str(one["name"]),
            "revision": revision(
                engine_configuration(one, defaults), environment_file(one, environment, api_key), *everywhere
            ),
        }
        for one in deployments
    ]


def addresses(deployments: Iterable[Mapping[str, Any]], clients: Iterable[str]) -> list[str]:
    """Return whom the engines may talk with besides loopback: the clients, and the host at its own address."""
    own = [str(deployment["listen_address"]) for deployment in deployments]
    return sorted({*own, *(str(client) for client in clients)})


def obsolete(paths: Iterable[str], deployments: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of deployments that have files on the host and are no longer wanted."""
    wanted = {str(deployment["name"]) for deployment in deployments}
    present = {path.rsplit("/", 1)[-1].rsplit(".", 1)[0] for path in paths}
    return sorted(present - wanted)


def prunable(releases: Sequence[Mapping[str, Any]], current: str, keep: int) -> list[str]:
    """Return the folders of releases to remove: all but the newest `keep`, and never the current one.

    Releases are what the find module returns: `path` and `ctime`, the time of their last change.
    """
    others = sorted(
        (release for release in releases if str(release["path"]) != current),
        key=lambda release: float(release["ctime"]),
        reverse=True,
    )
    return [str(release["path"]) for release in others[max(keep - 1, 0) :]]
