# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.baremetal.llm.plugins.module_utils.host_readiness_machine import clock_skew


class ActionModule(ActionBase):
    """Ask the host, and hand back why it could not be asked instead of failing.

    A host that is down is one finding among others. If the task failed, the play would end at the first such host and
    the operator would learn about the rest one run at a time.
    """

    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        unreachable = False
        answer: dict[str, Any] = {}
        before = time.time()
        try:
            answer = self._execute_module(
                module_name="baremetal.llm.host_readiness_info", module_args=self._task.args, task_vars=task_vars
            )
        except AnsibleConnectionFailure as error:
            unreachable = True
            problem = _short(str(error))
        else:
            unreachable = bool(answer.get("unreachable"))
            problem = _problem(answer)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)  # type: ignore[no-untyped-call]
        clock = ((answer.get("readiness") or {}).get("machine") or {}).get("clock")
        if clock:
            clock["skew_seconds"] = round(clock_skew(clock["now"], before, time.time()), 3)
        result.update(
            changed=False,
            readiness=answer.get("readiness") or {},
            problem=problem,
            unreachable_host=unreachable,
            wanted=self._task.args.get("wanted") or {},
        )
        return result


def _problem(answer: dict[str, Any]) -> str:
    """Why *answer* is not the module's, on one line; nothing if it is."""
    if answer.get("readiness"):
        return ""
    parts = [str(answer.get(key) or "").strip() for key in ("msg", "module_stderr")]
    return _short(" ".join(part for part in parts if part)) or "the module gave no answer"


def _short(text: str, length: int = 300) -> str:
    """*text* on one line, and no longer than a person reads."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}…"
