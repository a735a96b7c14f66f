# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import HostFacts
from ansible_collections.baremetal.llm.plugins.module_utils.parity import Verdict, WantedError, compare, merge_locks
from ansible_collections.baremetal.llm.plugins.module_utils.parity_facts import Wanted
from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import report, summary

MODE = 0o644
LOCK_HEADER = "# What the GPU hosts had in common when this was written, by gpu_parity with write_baseline.\n"


class ActionModule(ActionBase):
    """Compare what the hosts of the play said, in one place, and fail once."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "facts_variable": {"type": "str"},
                "facts": {"type": "dict"},
                "hosts": {"type": "list", "elements": "str"},
                "wanted_variable": {"type": "str"},
                "wanted": {"type": "dict", "default": {}},
                "baseline_file": {"type": "path"},
                "write_baseline": {"type": "bool", "default": False},
                "mode": {"type": "str", "choices": ["gate", "report"], "default": "gate"},
                "dest": {"type": "path"},
                "return_findings": {"type": "bool", "default": False},
            },
            mutually_exclusive=[["facts_variable", "facts"], ["facts", "hosts"]],
            required_one_of=[["facts_variable", "facts"]],
            required_if=[["write_baseline", True, ["baseline_file"]]],
        )[1]
        hosts, reasons = _facts(arguments, task_vars or {})
        wanted = _wanted(arguments, hosts, task_vars or {})
        lock = self._lock(arguments["baseline_file"])
        try:
            # A baseline that is to be written is not measured by the one that it replaces.
            verdict = compare(hosts, wanted, {} if arguments["write_baseline"] else lock, reasons)
        except WantedError as error:
            raise AnsibleError(
                "GPU parity compared nothing, because what is wanted makes no sense.",
                help_text="\n".join(f"  * {problem}" for problem in error.problems),
            ) from error
        text = "\n\n".join(part for part in (summary(verdict.findings, len(hosts)), report(verdict.findings)) if part)
        changed, diffs = False, []
        for path, content in self._files(arguments, verdict, lock):
            written, diff = self._write(path, content)
            changed = changed or written
            diffs += diff
        result.update(changed=changed, msg=text, **verdict.as_dict())
        if diffs:
            result["diff"] = diffs
        if verdict.verdict != "fail" or arguments["mode"] == "report":
            if verdict.findings:
                self._display.display(text)
            return result
        if arguments["return_findings"]:
            return {**result, "failed": True}
        # The report is the help text and not the message: the message is printed twice, the second time as JSON.
        raise AnsibleError(summary(verdict.findings, len(hosts)), help_text=report(verdict.findings))

    def _lock(self, path: str | None) -> dict[str, Any]:
        """The lock file; one that is not there yet says nothing."""
        place = self._path(path)
        if place is None or not os.path.exists(place):
            return {}
        try:
            with open(place, encoding="utf-8") as handle:
                content = yaml.safe_load(handle)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise AnsibleActionFail(f"The baseline file {place} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise AnsibleActionFail(f"The baseline file {place} holds no mapping; write it with write_baseline.")
        return content

    def _files(self, arguments: Mapping[str, Any], verdict: Verdict, lock: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What is to be written where."""
        files = []
        dest, baseline_file = self._path(arguments["dest"]), self._path(arguments["baseline_file"])
        if dest:
            files.append((dest, json.dumps(verdict.as_dict(), indent=1) + "\n"))
        if baseline_file and arguments["write_baseline"]:
            content = yaml.safe_dump(merge_locks(lock, verdict.lock()), sort_keys=True, allow_unicode=True)
            files.append((baseline_file, LOCK_HEADER + content))
        return files

    def _path(self, path: str | None) -> str | None:
        return str(self._loader.path_dwim(path)) if path else None

    def _write(self, path: str, content: str) -> tuple[bool, list[dict[str, str]]]:
        """Make a file hold *content*; returns whether it did not, and the difference where somebody asked for it."""
        try:
            with open(path, encoding="utf-8") as handle:
                before = handle.read()
        except FileNotFoundError:
            before = ""
        except (OSError, UnicodeDecodeError) as error:
            raise AnsibleActionFail(f"{path} cannot be read on the controller: {error}") from error
        if before == content and os.stat(path).st_mode & 0o777 == MODE:
            return False, []
        if not self._task.check_mode:
            _replace(path, content)
        return True, [{"before": before, "after": content, "before_header": path, "after_header": path}][
            : 1 if self._task.diff else 0
        ]


def _replace(path: str, content: str) -> None:
    """Never a half-written file, for whoever reads it meanwhile."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, delete=False) as handle:
            handle.write(content)
        os.chmod(handle.name, MODE)
        os.replace(handle.name, path)
    except OSError as error:
        raise AnsibleActionFail(f"{path} cannot be written on the controller: {error}") from error


def _facts(
    arguments: Mapping[str, Any], task_vars: Mapping[str, Any]
) -> tuple[dict[str, HostFacts | None], dict[str, str]]:
    """The facts of each host, and of those without facts the reason."""
    if arguments["facts"] is not None:
        return dict(arguments["facts"]), {}
    names: Sequence[str] | None = arguments["hosts"]
    if names is None:
        names = task_vars["ansible_play_hosts_all"]
    hosts: dict[str, HostFacts | None] = {}
    reasons: dict[str, str] = {}
    for name in names:
        answer = _stored(name, task_vars["hostvars"]).get(arguments["facts_variable"])
        facts = answer.get("gpu") if isinstance(answer, Mapping) else None
        hosts[name] = facts if isinstance(facts, Mapping) else None  # type: ignore[assignment]
        if hosts[name] is None and isinstance(answer, Mapping):
            reasons[name] = _reason(answer)
    return hosts, reasons


def _reason(answer: Mapping[str, Any]) -> str:
    """Why a task gave nothing: its message, and what stood first on the module's error output."""
    texts = (str(answer.get(key) or "").strip().split("\n", 1)[0] for key in ("msg", "module_stderr"))
    return ": ".join(text for text in texts if text)


def _wanted(arguments: Mapping[str, Any], hosts: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Wanted]:
    wanted: dict[str, Any] = {}
    for name in hosts:
        own: Mapping[str, Any] = {}
        # What a site writes may be a template, and is small.
        if arguments["wanted_variable"] and name in task_vars["hostvars"]:
            own = task_vars["hostvars"][name].get(arguments["wanted_variable"]) or {}
        wanted[name] = {**arguments["wanted"], **own}
    return wanted


def _stored(host: str, hostvars: Any) -> Mapping[str, Any]:
    """A host's variables as they were stored: what modules returned is no template, and for 1000 hosts to look for
    templates in it takes 20 seconds in place of a tenth."""
    if host not in hostvars:
        return {}
    found: Mapping[str, Any] = hostvars.raw_get(host) if hasattr(hostvars, "raw_get") else hostvars[host]
    return found
