# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError
from ansible_collections.baremetal.llm.plugins.module_utils.report_files import collection_version, publish
from ansible_collections.baremetal.llm.plugins.module_utils.serving_calibration import CalibrationError
from ansible_collections.baremetal.llm.plugins.module_utils.serving_fleet import Question, build, comparable, table
from ansible_collections.baremetal.llm.plugins.module_utils.serving_fleet_page import render
from ansible_collections.baremetal.llm.plugins.module_utils.serving_gate import Gate
from ansible_collections.baremetal.llm.plugins.module_utils.serving_hosts import (
    COLLECTION,
    HOST_OPTIONS,
    gate_hosts,
    read_calibration,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_planner import SitePlanner
from ansible_collections.baremetal.llm.plugins.module_utils.serving_site import PlannedModel, locked_model
from ansible_collections.baremetal.llm.plugins.module_utils.serving_tiers import tiers
from ansible_collections.baremetal.llm.plugins.module_utils.site import SiteError, entries, model_lock


class ActionModule(ActionBase):
    """Plan every model for every host of the play, and write it down on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "path": {"type": "path", "required": True},
                "models": {"type": "list", "elements": "dict", "required": True},
                "deployments": {"type": "list", "elements": "dict", "default": []},
                "tiers": {"type": "bool", "default": True},
                "context_length": {"type": "int"},
                "concurrency": {"type": "int"},
                "title": {"type": "str", "default": "What fits where"},
                "mode": {"type": "str", "default": "0644"},
                **HOST_OPTIONS,
            }
        )[1]
        task_vars = task_vars or {}
        path = arguments["calibration_path"]
        try:
            hosts = gate_hosts(task_vars["ansible_play_hosts_all"], task_vars["hostvars"], arguments)
            planner = SitePlanner(read_calibration(str(self._loader.path_dwim(path)) if path else None))
            deployments = entries(arguments["deployments"])
            gate = Gate(deployments, arguments["models"], task_vars["groups"], hosts, planner, dry=True)
            report = build(
                hosts,
                Question(
                    {str(model.get("name")): _model(model) for model in arguments["models"]},
                    tiers() if arguments["tiers"] else [],
                    arguments["context_length"],
                    arguments["concurrency"],
                    arguments["title"],
                ),
                gate.judge(),
                planner,
                generated_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                generated_by=f"baremetal.llm {_version()}",
                models_of={str(item.get("name")): str(item.get("model")) for item in deployments},
            )
            outcome = publish(
                report,
                render,
                comparable,
                page=Path(self._loader.path_dwim(arguments["path"])),
                mode=int(arguments["mode"], 8),
                write=not self._task.check_mode,
            )
        except (CalibrationError, SiteError, ValueError) as error:
            raise AnsibleActionFail(f"serving_fleet: {error}") from error
        except OSError as error:
            raise AnsibleActionFail(
                f"What fits where cannot be written on the controller: {error}. Give a path that this user may write."
            ) from error
        text = table(report)
        self._display.display(text)
        diff = {"diff": outcome.diff} if self._task.diff and outcome.changed else {}
        return {
            **result,
            **diff,
            "changed": outcome.changed,
            "path": str(outcome.page),
            "json_path": str(outcome.data),
            "headline": report["headline"],
            "findings": report["findings"],
            "msg": f"{report['headline']} {outcome.page}",
        }


def _model(model: dict[str, Any]) -> PlannedModel:
    """A model of the site; one whose lock is not there yet is a row that says so."""
    try:
        return locked_model(model_lock(model))
    except (LockError, KeyError, TypeError) as error:
        problem = f"its lock cannot be read: {error}"
        return PlannedModel(str(model.get("name")), {}, None, problem)


def _version() -> str:
    files = (COLLECTION / name for name in ("MANIFEST.json", "galaxy.yml"))
    return collection_version(*(file.read_text(encoding="utf-8") if file.is_file() else None for file in files))
