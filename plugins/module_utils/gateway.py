# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway's configuration must say: checked input, grouped limits, resolved addresses."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Callable

# Routes that carry a JSON body with a `model`, so that the gateway can choose the deployment. Everything else that an
# engine serves (loading adapters, rendering prompts, batches, metrics, tokenizers) stays behind the gateway.
KNOWN_ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v1/responses",
    "/v1/score",
)

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
# What may stand between double quotes in nginx and in a JSON text without any escape.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,254}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_ENGINE_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?)*"
)

# Words that nginx reads as parameters of a map.
_RESERVED = ("default", "hostnames", "include", "volatile")
_LIMITS = (("requests_per_minute", 1), ("burst", 0), ("concurrent_requests", 1))

Resolver = Callable[[str], Sequence[str]]


def resolve(name: str) -> list[str]:
    """Return the addresses of a host name, IPv4 first, in a stable order."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    return sorted(found, key=lambda address: (":" in address, address))


def is_address(text: str) -> bool:
    """Tell an IP address from a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def subject_alternative_names(names: Sequence[str]) -> list[str]:
    """Turn names and addresses into what a certificate request calls them."""
    return [("IP:" if is_address(name) else "DNS:") + name for name in dict.fromkeys(names)]


def server_names(names: Sequence[str]) -> list[str]:
    """Turn names and addresses into what clients write in the Host header."""
    return [f"[{name}]" if ":" in name else name for name in dict.fromkeys(names)]


def plan(settings: Mapping[str, Any], resolver: Resolver = resolve) -> dict[str, Any]:
    """Return everything that the templates need, and every problem found on the way."""
    problems: list[str] = []
    tenants = _tenants(settings.get("tenants") or [], settings.get("tenant_limits") or {}, problems)
    deployments = _deployments(settings.get("deployments") or [], resolver, problems)
    _check_routes(settings.get("routes") or [], problems)
    _check_names(settings.get("server_names") or [], problems)
    _check_engine_key(str(settings.get("engine_api_key") or ""), problems)
    if bool(settings.get("tls_certificate")) != bool(settings.get("tls_private_key")):
        problems.append(
            "gateway_tls_certificate and gateway_tls_private_key belong together: set both, or neither for a site CA"
        )
    return {
        "problems": problems,
        "tenants": tenants,
        "deployments": deployments,
        "rate_classes": _classes(tenants, ("requests_per_minute", "burst")),
        "connection_classes": _classes(tenants, ("concurrent_requests",)),
    }


def _check_engine_key(key: str, problems: list[str]) -> None:
    if not key:
        problems.append(
            "gateway_engine_api_key is empty: set it to the key that the engines were given (site variable "
            "llm_engine_api_key), so that nobody who reaches an engine port can use it"
        )
    elif not _ENGINE_KEY.fullmatch(key):
        problems.append(
            "gateway_engine_api_key must be 16 to 512 characters out of A-Z a-z 0-9 . _ ~ + / = - "
            "(for example the output of: openssl rand -hex 32)"
        )


def _check_names(names: Sequence[str], problems: list[str]) -> None:
    for name in names:
        if not is_address(name) and not _HOST_NAME.fullmatch(name):
            problems.append(f"gateway_server_name, gateway_server_aliases: {name!r} is no host name and no IP address")


def _check_routes(routes: Sequence[str], problems: list[str]) -> None:
    if not routes:
        problems.append("gateway_routes is empty: nothing would be served; leave it at its default")
    for route in routes:
        if route not in KNOWN_ROUTES:
            problems.append(
                f"gateway_routes: {route!r} is not a route that the gateway lets through; "
                f"choose from {', '.join(KNOWN_ROUTES)}"
            )


def _tenants(
    tenants: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any], problems: list[str]
) -> list[dict[str, Any]]:
    if not tenants:
        problems.append(
            "gateway_tenants is empty: nobody could use the endpoint; list at least one tenant with name and "
            "key_sha256 (printf %s KEY | sha256sum)"
        )
    result: list[dict[str, Any]] = []
    names: set[str] = set()
    owner: dict[str, str] = {}
    for position, tenant in enumerate(tenants):
        name = str(tenant.get("name") or "")
        where = f"gateway_tenants[{position}] ({name or 'without a name'})"
        if not _NAME.fullmatch(name):
            problems.append(f"{where}: name must be lower-case letters, digits, '.', '_' and '-', at most 63")
        if name in _RESERVED:
            problems.append(f"{where}: the name {name!r} means something else to nginx; choose another")
        if name in names:
            problems.append(f"{where}: this name is used twice; a tenant with two keys lists both under key_sha256")
        names.add(name)
        given = tenant.get("key_sha256") or []
        digests = [str(digest).lower() for digest in ([given] if isinstance(given, str) else given)]
        if not digests:
            problems.append(f"{where}: key_sha256 is missing (printf %s KEY | sha256sum)")
        for digest in digests:
            if not _DIGEST.fullmatch(digest):
                problems.append(f"{where}: key_sha256 must be 64 hexadecimal digits (printf %s KEY | sha256sum)")
            elif digest in owner:
                problems.append(f"{where}: key_sha256 is already the key of {owner[digest]}")
            else:
                owner[digest] = name
        limits = {}
        for key, least in _LIMITS:
            try:
                limits[key] = int(tenant[key] if key in tenant else defaults[key])
            except (KeyError, TypeError, ValueError):
                limits[key] = -1
            if limits[key] < least:
                problems.append(f"{where}: {key} must be a whole number, at least {least}")
                limits[key] = least
        result.append(
            {
                "name": name,
                "digests": digests,
                "retry_after": max(1, math.ceil(60 / limits["requests_per_minute"])),
                **limits,
            }
        )
    return result


def _classes(tenants: Sequence[Mapping[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Group tenants that share limits: nginx wants a zone per limit, not per tenant.

    The name is made of the limits alone. nginx refuses to reload when a zone of a known name changes its key, so a
    zone must not get another meaning when a tenant comes or goes.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for tenant in tenants:
        groups.setdefault(tuple(int(tenant[key]) for key in keys), []).append(str(tenant["name"]))
    return [
        {"name": "_".join(map(str, values)), **dict(zip(keys, values)), "tenants": sorted(members)}
        for values, members in sorted(groups.items())
    ]


def _deployments(
    deployments: Sequence[Mapping[str, Any]], resolver: Resolver, problems: list[str]
) -> list[dict[str, Any]]:
    if not deployments:
        problems.append("gateway_deployments is empty: there is nothing to pass requests to")
    result: list[dict[str, Any]] = []
    names: set[str] = set()
    models: dict[str, str] = {}
    for position, deployment in enumerate(deployments):
        name = str(deployment.get("name") or "")
        model = str(deployment.get("served_model_name") or "")
        where = f"gateway_deployments[{position}] ({name or 'without a name'})"
        if not _NAME.fullmatch(name):
            problems.append(f"{where}: name must be lower-case letters, digits, '.', '_' and '-', at most 63")
        if name in names:
            problems.append(f"{where}: this name is used twice")
        names.add(name)
        if not _MODEL.fullmatch(model):
            problems.append(f"{where}: served_model_name {model!r} must be letters, digits and . _ : / @ + -")
        elif model in models:
            problems.append(
                f"{where}: served_model_name {model!r} is also that of {models[model]}; replicas of one model belong "
                "in one deployment"
            )
        models.setdefault(model, name)
        replicas = [str(replica) for replica in deployment.get("replicas") or []]
        if not replicas:
            problems.append(f"{where}: replicas is empty; list address:port of at least one engine")
        servers = [_server(replica, where, resolver, problems) for replica in replicas]
        result.append(
            {
                "name": name,
                "served_model_name": model,
                "servers": list(dict.fromkeys(server for server in servers if server)),
            }
        )
    return result


def _server(replica: str, where: str, resolver: Resolver, problems: list[str]) -> str:
    """Return address:port. A name would keep nginx from starting whenever it cannot be resolved, at boot for one."""
    host, colon, port = replica.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        not colon
        or not port.isdigit()
        or not 0 < int(port) < 65536
        or not (is_address(host) or _HOST_NAME.fullmatch(host))
    ):
        problems.append(f"{where}: replica {replica!r} is not address:port")
        return ""
    if not is_address(host):
        try:
            host = resolver(host)[0]
        except (OSError, IndexError):
            problems.append(
                f"{where}: the controller cannot resolve {host!r} of replica {replica!r}; give the engine host an "
                "address (site variable llm_address)"
            )
            return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
