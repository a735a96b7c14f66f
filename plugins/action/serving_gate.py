# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.baremetal.llm.plugins.module_utils.finding import blockers, report
from ansible_collections.baremetal.llm.plugins.module_utils.serving_calibration import CalibrationError
from ansible_collections.baremetal.llm.plugins.module_utils.serving_gate import Gate, engine_settings, summary
from ansible_collections.baremetal.llm.plugins.module_utils.serving_hosts import (
    HOST_OPTIONS,
    gate_hosts,
    read_calibration,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_planner import SitePlanner
from ansible_collections.baremetal.llm.plugins.module_utils.site import SiteError


class ActionModule(ActionBase):
    """Plan every deployment on every host of the play in one place, and fail once."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "deployments": {"type": "list", "elements": "dict", "required": True},
                "models": {"type": "list", "elements": "dict", "required": True},
                "return_findings": {"type": "bool", "default": False},
                **HOST_OPTIONS,
            }
        )[1]
        task_vars = task_vars or {}
        names = task_vars["ansible_play_hosts_all"]
        try:
            hosts = gate_hosts(names, task_vars["hostvars"], arguments)
            path = arguments["calibration_path"]
            calibration = read_calibration(str(self._loader.path_dwim(path)) if path else None)
        except (SiteError, CalibrationError) as error:
            raise AnsibleActionFail(f"serving_gate: {error}") from error
        gate = Gate(
            arguments["deployments"],
            arguments["models"],
            task_vars["groups"],
            hosts,
            SitePlanner(calibration),
            dry=self._task.check_mode,
        )
        judged = gate.judge()
        blocking = blockers(judged.findings)
        by_name = {str(item.get("name")): item for item in arguments["deployments"]}
        result.update(
            changed=False,
            plans=judged.plans,
            settings={
                host: {
                    name: engine_settings(plan, by_name[name], hosts[host].engine_defaults)
                    for name, plan in plans.items()
                    if plan["fits"]
                }
                for host, plans in judged.plans.items()
            },
            calibration_keys={
                host: {name: gate.key(host, by_name[name], plan) for name, plan in plans.items() if plan["settings"]}
                for host, plans in judged.plans.items()
            },
            findings=[finding.as_dict() for finding in judged.findings],
        )
        text = summary(judged.findings, judged.judged)
        if blocking and arguments["return_findings"]:
            return {**result, "failed": True, "msg": f"{text}\n\n{report(judged.findings)}"}
        if blocking:
            # The report is the help text and not the message: the message is printed twice, the second time as JSON.
            raise AnsibleError(text, help_text=report(judged.findings))
        if judged.findings:
            Display().warning("The plan gate has something to say.", help_text=report(judged.findings))
        return {**result, "msg": text}
