# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from unittest import mock

import pytest
from ansible.errors import AnsibleConnectionFailure

from ansible_collections.baremetal.llm.plugins.action.host_readiness_info import ActionModule

ARGUMENTS = {"request": {"ports": [8000]}, "wanted": {"reserve_bytes": 7}}


def ask(answer):
    """Run the action with a host that gives *answer*, or raises it."""
    task = mock.MagicMock(async_val=0, args=ARGUMENTS)
    action = ActionModule(
        task, mock.MagicMock(), mock.MagicMock(), mock.MagicMock(), mock.MagicMock(), mock.MagicMock()
    )
    side_effect = answer if isinstance(answer, Exception) else [answer]
    with (
        mock.patch.object(ActionModule, "_execute_module", side_effect=side_effect) as execute,
        mock.patch.object(ActionModule, "_remove_tmp_path") as remove,
    ):
        result = action.run(task_vars={})
    assert execute.call_args.kwargs["module_args"] == ARGUMENTS
    remove.assert_called_once()
    assert result["changed"] is False
    assert "failed" not in result
    assert result["wanted"] == {"reserve_bytes": 7}
    return result


@pytest.mark.parametrize(("ahead", "skew"), [(0, 0), (3600, 3600), (-3600, -3600)])
def test_the_clock_is_compared_with_the_controllers(ahead, skew):
    readiness = {"machine": {"clock": {"now": time.time() + ahead}}}
    clock = ask({"readiness": readiness})["readiness"]["machine"]["clock"]
    assert clock["skew_seconds"] == pytest.approx(skew, abs=5)


def test_an_answer_is_handed_on():
    result = ask({"readiness": {"systemd": True}, "changed": False})
    assert (result["readiness"], result["problem"], result["unreachable_host"]) == ({"systemd": True}, "", False)


@pytest.mark.parametrize(
    ("answer", "problem", "unreachable"),
    [
        (AnsibleConnectionFailure("Connection\r\n  timed out"), "Connection timed out", True),
        ({"unreachable": True, "msg": "No route"}, "No route", True),
        ({"failed": True, "msg": "no python", "module_stderr": "sh: not found\n"}, "no python sh: not found", False),
        ({"failed": True, "msg": "x" * 1000}, "x" * 300 + "…", False),
        ({}, "the module gave no answer", False),
    ],
)
def test_a_host_that_cannot_be_asked_is_an_answer_too(answer, problem, unreachable):
    result = ask(answer)
    assert (result["readiness"], result["problem"], result["unreachable_host"]) == ({}, problem, unreachable)
