# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a mirror: which clients may ask, where it listens, and what it mirrors of a site's models."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.firewall import networks, resolve
from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError, read_lock

_LOOPBACK = ("127.0.0.0/8", "::1")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_SERVER_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class MirrorError(ValueError):
    """Site variables that contradict each other; the text names them and the way out."""


def plan(settings: Mapping[str, Any], lookup: Callable[[str], Sequence[str]] = resolve) -> dict[str, Any]:
    """What the template needs, and every problem.

    `clients` are networks without overlaps; `own_address` is where the host itself asks, for a URL; `health` is the
    answer to that, which changes with the settings, so that a reload that did not happen is seen.
    """
    problems: list[str] = []
    address = str(settings["listen_address"])
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        version = ipaddress.ip_address(bare).version
        if (version == 6) != (bare != address):
            raise ValueError
    except ValueError:
        bare = ""
        problems.append(
            f"site_mirror_listen_address must be an IPv4 address, or an IPv6 address in brackets, not {address!r}"
        )
    if not 1 <= int(settings["port"]) <= 65535:
        problems.append(f"site_mirror_port {settings['port']} is not between 1 and 65535")
    for name in ("connections_per_client", "send_timeout_seconds"):
        if int(settings[name]) < 1:
            problems.append(f"site_mirror_{name} must be at least 1")
    if settings["server_name"] and not _SERVER_NAME.fullmatch(str(settings["server_name"])):
        problems.append(f"site_mirror_server_name: {settings['server_name']!r} is no host name")
    if bool(settings["tls_certificate"]) != bool(settings["tls_private_key"]):
        problems.append(
            "site_mirror_tls_certificate and site_mirror_tls_private_key belong together: set both, or neither for HTTP"
        )
    # The host itself always: it asks whether the mirror answers, from the address that it listens on.
    sources = [*_LOOPBACK, *([bare] if bare and address not in _EVERYWHERE else [])]
    for client in settings["allowed_clients"]:
        try:
            networks([client], lookup)
            sources.append(str(client))
        except OSError as error:
            problems.append(
                f"site_mirror_allowed_clients: the controller cannot resolve {str(client)!r} ({error}); "
                "give its address"
            )
    allowed = networks(sources, lookup)
    clients = [str(one) for one in ipaddress.collapse_addresses(n for n in allowed if n.version == 4)]
    clients += [str(one) for one in ipaddress.collapse_addresses(n for n in allowed if n.version == 6)]
    digest = hashlib.sha256(json.dumps([dict(settings), clients], sort_keys=True, default=str).encode()).hexdigest()
    return {
        "problems": problems,
        "clients": clients,
        "own_address": _EVERYWHERE.get(address, address),
        "health": digest[:16],
    }


def mirror_models(mirrored: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a mirror does with each of `llm_mirror_models`, of which `llm_models` says the lock.

    `fetched` is for the role model_weights, `served` for the role site_mirror. Raises MirrorError for a name that
    `llm_models` does not have, and for an entry without sources.
    """
    by_name = {str(model.get("name")): model for model in models}
    fetched, served = [], []
    for entry in mirrored:
        name = str(entry.get("name"))
        model = by_name.get(name)
        if model is None:
            raise MirrorError(
                f"llm_mirror_models: no model of llm_models is called {name!r}; there are {', '.join(sorted(by_name))}"
            )
        if not entry.get("sources"):
            raise MirrorError(
                f"llm_mirror_models: {name!r} has no sources. Say where the mirror itself fetches from; "
                "those of llm_models are for the hosts that ask the mirror"
            )
        same = {"lock": model["lock"], "allow_files": list(model.get("allow_files") or [])}
        fetched.append({"name": name, "sources": list(entry["sources"]), **same})
        served.append({"branches": list(entry.get("branches") or []), **same})
    return {"fetched": fetched, "served": served}


def with_locks(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The models with the content of their lock files in the place of the paths, as the module hub_layout takes them.

    Raises MirrorError with everything that is wrong with the lock files.
    """
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for model in models:
        allow_files = list(model.get("allow_files") or [])
        try:
            lock = read_lock(str(model["lock"]), allow_files)
        except LockError as error:
            problems.append(str(error))
            continue
        found.append(
            {"lock": lock.as_dict(), "branches": list(model.get("branches") or []), "allow_files": allow_files}
        )
    if problems:
        raise MirrorError("site_mirror_models: " + "; ".join(problems))
    return found
