# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report import (
    Answer,
    Section,
    build,
    endpoint_section,
    publish,
    section,
)
from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report_page import render
from ansible_collections.baremetal.llm.plugins.module_utils.report_files import collection_version
from ansible_collections.baremetal.llm.plugins.module_utils.site import unique

COLLECTION = Path(__file__).resolve().parents[2]


class ActionModule(ActionBase):
    """Gather what the hosts of the play said, and write it down on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "path": {"type": "path", "required": True},
                "hosts": {"type": "list", "elements": "str"},
                "facts_variable": {"type": "str", "required": True},
                "parity": {"type": "dict", "default": {}},
                "columns": {
                    "type": "list",
                    "elements": "dict",
                    "default": [],
                    "options": {
                        "title": {"type": "str", "required": True},
                        "values": {"type": "dict", "required": True},
                        "expected": {"type": "raw"},
                    },
                },
                "sections": {
                    "type": "list",
                    "elements": "dict",
                    "default": [],
                    "options": {
                        "title": {"type": "str", "required": True},
                        "description": {"type": "str", "default": ""},
                        "empty": {"type": "str", "default": "Nothing."},
                        "columns": {"type": "list", "elements": "raw", "required": True},
                        "rows": {"type": "list", "elements": "raw", "required": True},
                    },
                },
                "endpoint_variables": {"type": "list", "elements": "str", "default": []},
                "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
                "title": {"type": "str", "default": "GPU fleet"},
                "mode": {"type": "str", "default": "0640"},
            }
        )[1]
        task_vars = task_vars or {}
        hosts = arguments["hosts"] if arguments["hosts"] is not None else task_vars["ansible_play_hosts_all"]
        names = [arguments["facts_variable"], *arguments["endpoint_variables"]]
        registered = _registered(unique([*hosts, *task_vars["groups"]["all"]]), task_vars["hostvars"], names)
        report = build(
            answers={host: _answer(registered[host].get(arguments["facts_variable"])) for host in hosts},
            # What a task registered that was skipped is no comparison.
            parity=arguments["parity"] if arguments["parity"].get("verdict") else None,
            generated_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            generated_by=f"baremetal.llm {_version()}",
            title=arguments["title"],
            columns=arguments["columns"],
            sections=[
                *_endpoints(arguments["endpoint_variables"], registered),
                *(section(written) for written in arguments["sections"]),
            ],
            secrets=arguments["secrets"],
        )
        try:
            outcome = publish(
                report,
                render,
                page=Path(self._loader.path_dwim(arguments["path"])),
                mode=_mode(arguments["mode"]),
                write=not self._task.check_mode,
            )
        except ValueError as error:
            raise AnsibleActionFail(f"fleet_report: {error}") from error
        except OSError as error:
            raise AnsibleActionFail(
                f"The fleet report cannot be written on the controller: {error}. Give a path that this user may write."
            ) from error
        diff = {"diff": outcome.diff} if self._task.diff and outcome.changed else {}
        return {
            **result,
            **diff,
            "changed": outcome.changed,
            "path": str(outcome.page),
            "json_path": str(outcome.data),
            "verdict": report["verdict"],
            "headline": report["headline"],
            "reasons": report["reasons"],
            "msg": f"{report['headline']} {outcome.page}",
        }


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise AnsibleActionFail(f"fleet_report: mode is {text!r}, expected octal digits in quotes, as '0640'") from None


def _version() -> str:
    return collection_version(*(_text(COLLECTION / name) for name in ("MANIFEST.json", "galaxy.yml")))


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _registered(hosts: Sequence[str], hostvars: Any, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The variables called *names* of each host. Looking into a host's variables is slow, so it is done once."""
    found: dict[str, dict[str, Any]] = {host: {} for host in hosts}
    for host in hosts:
        if host in hostvars:
            variables = hostvars[host]
            found[host] = {name: variables[name] for name in names if name in variables}
    return found


def _answer(answer: Any) -> Answer:
    """What a host said. A host that left the play, because it could not be reached, said nothing."""
    if not isinstance(answer, Mapping):
        return Answer(problem="did not answer: it could not be reached, or was not asked")
    if isinstance(answer.get("gpu"), Mapping):
        return Answer(facts=answer["gpu"])
    return Answer(problem=str(answer.get("msg") or "its answer holds no facts"))


def _endpoints(names: Sequence[str], registered: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """What any host learnt when it asked an endpoint, in a loop or once."""
    answers: list[tuple[str, Mapping[str, Any]]] = []
    for name in names:
        for host, variables in registered.items():
            answer = variables.get(name)
            if not isinstance(answer, Mapping):
                continue
            rounds = [item for item in answer.get("results") or [] if isinstance(item, Mapping) and _is_loop(item)]
            answers += [(host, item) for item in rounds or [answer] if not item.get("skipped")]
    return [endpoint_section(answers)] if names else []


def _is_loop(item: Mapping[str, Any]) -> bool:
    """Whether *item* is what one round of a loop returned, and not the answer to one question."""
    return "ansible_loop_var" in item
