# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What the role host_firewall lets through, as sets of addresses for nftables."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class RuleError(ValueError):
    """Rules that cannot be applied; the text lists everything that is wrong with them."""


def resolve(name: str) -> list[str]:
    """Return the addresses of a host name, as the machine that runs this resolves it."""
    return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})


def networks(sources: Sequence[Any], lookup: Callable[[str], Sequence[str]] = resolve) -> list[Network]:
    """Return the networks that addresses, networks and host names stand for."""
    found: list[Network] = []
    for source in sources:
        try:
            found.append(ipaddress.ip_network(str(source), strict=False))
        except ValueError:
            found += [ipaddress.ip_network(address.split("%")[0]) for address in lookup(str(source))]
    return found


def plan(
    rules: Sequence[Mapping[str, Any]], host: str, lookup: Callable[[str], Sequence[str]] = resolve
) -> list[dict[str, Any]]:
    """Return for each rule its name, port and who is let through, by family, sorted and without overlaps.

    Raises RuleError with everything that is wrong, each with the variable, the host and the way out.
    """
    problems: list[str] = []
    planned: list[dict[str, Any]] = []
    ports: dict[int, str] = {}
    for rule in rules:
        name, port = str(rule["name"]), int(rule["port"])
        where = f"{host}: host_firewall_rules: "
        if not NAME.match(name):
            problems.append(f"{where}the name {name!r} may have letters, digits, dots, hyphens and underscores only.")
        if not 1 <= port <= 65535:
            problems.append(f"{where}port {port} of {name} is not between 1 and 65535.")
        if port in ports:
            problems.append(
                f"{where}port {port} is in {ports[port]} and in {name}; write one rule with the addresses of both."
            )
        ports.setdefault(port, name)
        try:
            allowed = networks(rule.get("allow") or [], lookup)
        except OSError as error:
            problems.append(
                f"{where}{name} allows a host that the controller cannot resolve ({error}); give its address."
            )
            continue
        planned.append(
            {
                "name": name,
                "port": port,
                "ipv4": [str(one) for one in ipaddress.collapse_addresses(n for n in allowed if n.version == 4)],
                "ipv6": [str(one) for one in ipaddress.collapse_addresses(n for n in allowed if n.version == 6)],
            }
        )
    if problems:
        raise RuleError("\n".join(problems))
    return sorted(planned, key=lambda rule: int(rule["port"]))
