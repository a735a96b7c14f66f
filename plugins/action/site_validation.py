# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.baremetal.llm.plugins.module_utils.finding import ACCEPTED, blockers, report, summary
from ansible_collections.baremetal.llm.plugins.module_utils.site import HostState, Site, listen_address
from ansible_collections.baremetal.llm.plugins.module_utils.site_validation import validate_site


class ActionModule(ActionBase):
    """Judge the site and all hosts in one place, and fail once."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "deployments": {"type": "raw", "required": True},
                "models": {"type": "raw", "required": True},
                "tenants": {"type": "raw", "required": True},
                "engine_key_length": {"type": "int", "required": True},
                "model_root": {"type": "path", "default": "/srv/models"},
                "gateway_port": {"type": "int", "default": 443},
                "hub_token_file": {"type": "path", "default": ""},
                "readiness_variable": {"type": "str", "required": True},
                "return_findings": {"type": "bool", "default": False},
            }
        )[1]
        task_vars = task_vars or {}
        hostvars = task_vars["hostvars"]
        hosts = _states(task_vars["ansible_play_hosts_all"], hostvars, arguments["readiness_variable"])
        addresses = {host: listen_address(host, task_vars["groups"], hostvars) for host in hosts}
        site = Site(
            deployments=arguments["deployments"],
            models=arguments["models"],
            tenants=arguments["tenants"],
            groups=task_vars["groups"],
            engine_key_length=arguments["engine_key_length"],
            model_root=arguments["model_root"],
            gateway_port=arguments["gateway_port"],
            hub_token_file=arguments["hub_token_file"],
            hosts=hosts,
            addresses=addresses,
            unresolved=_unresolved(addresses),
        )
        findings = validate_site(site)
        listed = [finding for finding in findings if finding.severity != ACCEPTED]
        blocking = blockers(findings)
        result.update(
            changed=False,
            findings=[finding.as_dict() for finding in findings]
            if not blocking or arguments["return_findings"]
            else [],
            hosts_checked=sum(bool(state.readiness) for state in hosts.values()),
        )
        if blocking and arguments["return_findings"]:
            return {**result, "failed": True, "msg": f"{summary(findings)}\n\n{report(findings)}"}
        if blocking:
            # The report is the help text and not the message: the message is printed twice, the second time as JSON.
            raise AnsibleError(summary(findings), help_text=report(findings))
        if listed:
            Display().warning(summary(findings), help_text=report(findings))
        return result


def _unresolved(addresses: dict[str, str]) -> list[str]:
    """The hosts whose address is a name that leads nowhere. An IP address is its own answer, without asking anybody."""
    # Together, since a resolver that is down keeps each question waiting.
    with ThreadPoolExecutor(max_workers=32) as pool:
        found = list(pool.map(_resolves, addresses.values()))
    return [host for host, resolved in zip(addresses, found) if not resolved]


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return False


def _states(hosts: list[str], hostvars: Any, variable: str) -> dict[str, HostState]:
    """What each host answered; a host that was not asked answered nothing."""
    states = {}
    for host in hosts:
        answer = hostvars[host].get(variable)
        if answer is None:
            states[host] = HostState(problem=f"the variable {variable} has no answer of this host")
            continue
        states[host] = HostState(
            readiness=answer.get("readiness") or {},
            problem=answer.get("problem") or "",
            unreachable=bool(answer.get("unreachable_host")),
            wanted=answer.get("wanted") or {},
        )
    return states
