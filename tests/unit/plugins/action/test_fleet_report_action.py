# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail, AnsibleError

from ansible_collections.baremetal.llm.plugins.action.fleet_report import ActionModule

FACTS = {
    "format_version": 1,
    "platform": {"kernel": "6.8.0-90-generic", "distribution": "ubuntu", "distribution_version": "24.04"},
    "nvml": {
        "error": "LIBRARY_NOT_FOUND",
        "library_version": None,
        "driver_version": None,
        "cuda_version": None,
    },
    "gpus": [],
    "lost_gpus": [],
    "pci_gpus": [],
    "loaded_module": {"loaded": False, "version": None, "flavour": None, "rivals": []},
    "kernel_modules": [],
    "packages": [],
    "services": [],
    "cuda_toolkit_version": "",
    "problems": [],
}
PARITY = {"verdict": "pass", "hosts": {"g1": {"verdict": "pass"}}, "baseline": {}, "findings": []}


def write(tmp_path, hostvars=None, check_mode=False, diff=False, **more):
    hostvars = hostvars or {"g1": {"asked": {"gpu": FACTS}}}
    arguments = {"path": str(tmp_path / "site" / "fleet.html"), "facts_variable": "asked", "parity": PARITY, **more}
    task = mock.MagicMock(async_val=0, args=arguments, check_mode=check_mode, diff=diff)
    loader = mock.MagicMock()
    loader.path_dwim.side_effect = lambda path: path if path.startswith("/") else f"{tmp_path}/play/{path}"
    action = ActionModule(task, mock.MagicMock(), mock.MagicMock(), loader, mock.MagicMock(), mock.MagicMock())
    return action.run(
        task_vars={
            "hostvars": hostvars,
            "groups": {"all": list(hostvars)},
            "ansible_play_hosts_all": [host for host in hostvars if host.startswith("g")],
        },
    )


def read(result):
    with open(result["json_path"], encoding="utf-8") as file:
        return json.load(file)


def test_writes_page_and_data(tmp_path):
    result = write(tmp_path)
    assert (result["changed"], result["verdict"], result["reasons"]) == (True, "pass", [])
    assert result["path"] == str(tmp_path / "site" / "fleet.html")
    with open(result["path"], encoding="utf-8") as file:
        assert "As it should be" in file.read()
    report = read(result)
    assert [row["host"] for row in report["hosts"]] == ["g1"]
    assert report["generated_by"].startswith("baremetal.llm 0.")


def test_second_run_is_no_change(tmp_path):
    assert [write(tmp_path)["changed"] for dummy in range(2)] == [True, False]


def test_check_mode_writes_nothing(tmp_path):
    result = write(tmp_path, check_mode=True, diff=True)
    assert result["changed"] is True
    assert result["diff"]["before"] == ""
    assert '"verdict": "pass"' in result["diff"]["after"]
    assert list(tmp_path.iterdir()) == []


def test_diff_only_when_asked_for_and_changed(tmp_path):
    assert "diff" not in write(tmp_path)
    assert "diff" not in write(tmp_path, diff=True)
    assert "diff" in write(tmp_path, diff=True, title="Other")


def test_hosts_that_did_not_answer(tmp_path):
    hostvars = {
        "g1": {"asked": {"gpu": FACTS}},
        "g2": {},
        "g3": {"asked": {"failed": True, "msg": "MODULE FAILURE"}},
        "g4": {"asked": {"unreachable": True}},
    }
    result = write(tmp_path, hostvars)
    problems = {row["host"]: row["problem"] for row in read(result)["hosts"]}
    assert result["verdict"] == "fail"
    assert problems == {
        "g1": "",
        "g2": "did not answer: it could not be reached, or was not asked",
        "g3": "MODULE FAILURE",
        "g4": "its answer holds no facts",
    }


def test_hosts_of_choice_and_nothing_compared(tmp_path):
    result = write(tmp_path, hosts=["g1"], parity={"skipped": True, "changed": False})
    assert (result["verdict"], result["reasons"]) == ("unknown", ["The hosts were not compared."])


def test_a_host_that_the_inventory_does_not_have(tmp_path):
    report = read(write(tmp_path, hosts=["g1", "typo"]))
    assert {row["host"]: row["verdict"] for row in report["hosts"]} == {"typo": "absent", "g1": "pass"}


def test_endpoints_asked_in_a_loop_and_once(tmp_path):
    good = {"ok": True, "results": [{"name": "models", "ok": True, "seconds": 0.1, "message": "1 model"}]}
    asked = {
        **good,
        "ansible_loop_var": "__item",
        "invocation": {"module_args": {"base_url": "http://u:very-secret@h/v1", "model": "m", "api_key": "k" * 20}},
    }
    hostvars = {
        "g1": {"asked": {"gpu": FACTS}, "looped": {"results": [asked, {**asked, "skipped": True}]}},
        "edge": {"looped": {"skipped": True}, "once": good},
    }
    result = write(tmp_path, hostvars, endpoint_variables=["looped", "once", "absent"])
    section = read(result)["sections"][0]
    assert (section["title"], result["verdict"]) == ("Endpoints", "pass")
    assert sorted(row["cells"][:4] for row in section["rows"]) == [
        ["", "", "edge", "1 of 1"],
        ["m", "http://(removed)@h/v1", "g1", "1 of 1"],
    ]
    with open(result["path"], encoding="utf-8") as file:
        page = file.read()
    assert "very-secret" not in page
    assert "k" * 20 not in page


def test_relative_path_begins_at_the_playbook(tmp_path):
    assert write(tmp_path, path="fleet.html")["path"] == str(tmp_path / "play" / "fleet.html")


def test_more_columns_sections_and_secrets(tmp_path):
    result = write(
        tmp_path,
        columns=[{"title": "vLLM", "values": {"g1": "0.32.0"}, "expected": "0.33.0"}],
        sections=[{"title": "Disks", "columns": ["Host"], "rows": [["keep out"]]}],
        secrets=["keep out"],
    )
    report = read(result)
    assert result["verdict"] == "warn"
    assert report["hosts"][0]["cells"][-1]["text"] == "0.32.0"
    assert report["sections"][0]["rows"][0]["cells"] == ["(removed)"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    (
        ({"path": "/x/fleet.txt"}, "ends in .html"),
        ({"mode": "rw"}, "mode"),
        ({"path": "/proc/fleet.html"}, "cannot be written on the controller"),
    ),
)
def test_wrong_options(tmp_path, wrong, message):
    with pytest.raises(AnsibleActionFail, match=message):
        write(tmp_path, **wrong)


def test_a_column_without_title_is_refused(tmp_path):
    with pytest.raises(AnsibleError, match="title"):
        write(tmp_path, columns=[{"values": {}}])
