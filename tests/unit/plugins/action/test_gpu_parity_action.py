# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gpu_fleets

from ansible_collections.baremetal.llm.plugins.action.gpu_parity import ActionModule


class HostVars(dict):
    """Answers are to be read as they were stored, wishes as templates."""

    def raw_get(self, host):
        return {"asked": dict.__getitem__(self, host)["asked"]}

    def __getitem__(self, host):
        return {"wish": dict.__getitem__(self, host)["wish"]}


def judge(said, /, check_mode=False, diff=False, wanted=None, variables=None, **arguments):
    arguments = {"facts_variable": "asked", **arguments}
    arguments = {key: value for key, value in arguments.items() if value is not None}
    task = mock.MagicMock(async_val=0, args=arguments, check_mode=check_mode, diff=diff)
    action = ActionModule(task, mock.MagicMock(), mock.MagicMock(), DataLoader(), mock.MagicMock(), mock.MagicMock())
    action._display = mock.MagicMock()
    answers = {host: {"gpu": one} if one and "platform" in one else one for host, one in said.items()}
    hostvars = HostVars(
        {host: {"asked": answer, "wish": (variables or {}).get(host)} for host, answer in answers.items()}
    )
    result = action.run(task_vars={"hostvars": hostvars, "ansible_play_hosts_all": list(said)})
    result["printed"] = [call.args[0] for call in action._display.display.call_args_list]
    return result


@pytest.fixture
def healthy():
    return gpu_fleets.fleet("l40s_4", 3)


@pytest.fixture
def faulted(healthy):
    gpu_fleets.packages("libnvidia-compute", state="half-configured")(healthy["h2"])
    return healthy


def test_a_healthy_fleet_passes_the_gate_in_silence(healthy):
    result = judge(healthy)
    assert (result["verdict"], result["changed"], result["findings"], result["printed"]) == ("pass", False, [], [])
    assert result["msg"] == "GPU parity of 3 hosts: nothing found."
    assert result["hosts"]["h1"]["driver_version"] == gpu_fleets.DRIVER
    assert "failed" not in result


def test_the_gate_fails_with_the_report(faulted):
    with pytest.raises(AnsibleError) as caught:
        judge(faulted)
    assert caught.value.message == "GPU parity of 3 hosts: 1 error on 1."
    text = str(caught.value._help_text)
    found = "packages: libnvidia-compute-580-server half-configured; expected installed [package-broken]"
    assert f"== h2 ==\n  * error: {found}\n    dpkg did not finish" in text
    assert "\n    -> Run `dpkg --configure -a`" in text


def test_the_gate_returns_data_when_asked(faulted):
    result = judge(faulted, return_findings=True)
    assert (result["failed"], result["verdict"]) == (True, "fail")
    assert [(item["host"], item["code"]) for item in result["findings"]] == [("h2", "package-broken")]
    assert result["hosts"]["h1"]["verdict"] == "pass"


def test_a_report_never_fails(faulted):
    result = judge(faulted, mode="report")
    assert ("failed" in result, result["verdict"]) == (False, "fail")
    assert "[package-broken]" in result["printed"][0]


def test_warnings_pass_the_gate_and_are_shown(healthy):
    gpu_fleets.put("gpus", "*", "persistence", False)(healthy["h1"])
    result = judge(healthy)
    assert (result["verdict"], "failed" in result) == ("warn", False)
    assert "[persistence-off]" in result["printed"][0]


@pytest.mark.parametrize(
    "answer,reason",
    [
        (None, "gpu_info was not run"),
        ({"unreachable": True, "msg": "Connection refused"}, "Connection refused"),
        ({"msg": "No start of json char found", "module_stderr": "sudo: no\nmore"}, "json char found: sudo: no"),
    ],
)
def test_a_host_without_an_answer(healthy, answer, reason):
    result = judge({**healthy, "h2": answer}, return_findings=True)
    assert [(item["host"], item["code"]) for item in result["findings"]] == [("h2", "host-without-answer")]
    assert reason in result["findings"][0]["cause"]


def test_wishes_of_each_host_go_before_those_of_all(healthy):
    variables = {"h1": {"pins": {"gpu_count": 4}}}
    result = judge(healthy, wanted_variable="wish", variables=variables, return_findings=True)
    assert result["verdict"] == "pass"
    variables["h1"]["pins"]["gpu_count"] = 8
    result = judge(healthy, wanted_variable="wish", variables=variables, return_findings=True)
    assert [(item["host"], item["code"]) for item in result["findings"]] == [("h1", "gpu-missing")]


@pytest.mark.parametrize("mode", ["gate", "report"])
def test_senseless_wishes_are_refused_before_anything(healthy, mode, tmp_path):
    dest = tmp_path / "verdict.json"
    with pytest.raises(AnsibleError) as caught:
        judge(
            healthy,
            mode=mode,
            dest=str(dest),
            wanted_variable="wish",
            variables=dict.fromkeys(healthy, {"pins": {"driver": "580"}, "accepted": ["gpu-los"]}),
        )
    text = str(caught.value._help_text)
    assert "pins.driver is no subject (did you mean 'driver_version'?)" in text
    assert "'gpu-los' does not exist (did you mean 'gpu-lost'?)" in text
    assert not dest.exists()


def test_the_verdict_for_ci(faulted, tmp_path):
    dest = tmp_path / "new" / "verdict.json"
    assert judge(faulted, mode="report", dest=str(dest), check_mode=True, diff=True)["changed"] is True
    assert not dest.exists()
    result = judge(faulted, mode="report", dest=str(dest), diff=True)
    assert result["changed"] is True and result["diff"][0]["after_header"] == str(dest)
    written = json.loads(dest.read_text())
    assert written == {key: result[key] for key in ("verdict", "hosts", "baseline", "findings")}
    assert dest.stat().st_mode & 0o777 == 0o644
    again = judge(faulted, mode="report", dest=str(dest), diff=True)
    assert (again["changed"], "diff" in again) == (False, False)
    dest.chmod(0o600)
    assert judge(faulted, mode="report", dest=str(dest))["changed"] is True
    assert dest.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in dest.parent.iterdir()] == ["verdict.json"]


def test_the_verdict_is_written_before_the_gate_fails(faulted, tmp_path):
    dest = tmp_path / "verdict.json"
    with pytest.raises(AnsibleError):
        judge(faulted, dest=str(dest))
    assert json.loads(dest.read_text())["verdict"] == "fail"


def test_a_baseline_is_written_and_then_holds(healthy, tmp_path):
    lock = tmp_path / "lock.yml"
    assert judge(healthy, baseline_file=str(lock))["verdict"] == "pass"
    assert not lock.exists()
    assert judge(healthy, baseline_file=str(lock), write_baseline=True)["changed"] is True
    assert yaml.safe_load(lock.read_text())["baseline"]["gpu_count"] == {"all: NVIDIA L40S": 4}
    assert judge(healthy, baseline_file=str(lock), write_baseline=True)["changed"] is False
    for facts in healthy.values():
        gpu_fleets.driver_of(gpu_fleets.NEWER)(facts)
    result = judge(healthy, baseline_file=str(lock), return_findings=True)
    assert {item["code"] for item in result["findings"]} == {"driver-differs"}
    assert result["baseline"]["driver_version"]["by"] == "lock"
    # Other kinds of hosts are added, and the rest is kept.
    other = gpu_fleets.fleet("t4_1", 2)
    judge(other, baseline_file=str(lock), write_baseline=True)
    assert yaml.safe_load(lock.read_text())["baseline"]["gpu_count"] == {"all: NVIDIA L40S": 4, "all: Tesla T4": 1}


@pytest.mark.parametrize(
    "content,expected", [("- 1", "holds no mapping"), ("{", "cannot be read"), ("a: 1", "of format")]
)
def test_a_broken_baseline_is_refused(healthy, tmp_path, content, expected):
    lock = tmp_path / "lock.yml"
    lock.write_text(content)
    with pytest.raises(AnsibleError) as caught:
        judge(healthy, baseline_file=str(lock))
    assert expected in f"{caught.value.message} {caught.value._help_text}"


def test_facts_from_files(healthy):
    result = judge({}, facts_variable=None, facts={**healthy, "h3": None}, return_findings=True)
    assert [(item["host"], item["code"]) for item in result["findings"]] == [("h3", "host-without-answer")]


def test_one_host_by_itself(faulted):
    assert judge(faulted, hosts=["h1"])["verdict"] == "pass"
    assert list(judge(faulted, hosts=["h2"], return_findings=True)["hosts"]) == ["h2"]
