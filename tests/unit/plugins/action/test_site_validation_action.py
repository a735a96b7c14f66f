# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from unittest import mock

import pytest
from ansible.errors import AnsibleError

from ansible_collections.baremetal.llm.plugins.action.site_validation import ActionModule

LOCK = """
format_version: 1
model: org/tiny
revision: "{}"
total_bytes: 5
files: [{{path: a.safetensors, size: 5, sha256: "{}"}}]
""".format("a" * 40, "b" * 64)
READY = {
    "distribution": {"id": "debian", "version": "12", "name": "Debian 12"},
    "python_version": "3.11.2",
    "systemd": True,
    "root": True,
    "space": [{"path": "/srv/models", "mount": "/", "free_bytes": 2**40, "read_only": False}],
    "listeners": [],
    "models": [],
    "source_folders": [],
}


def address(host):
    return "name.invalid" if host == "lost" else f"192.0.2.{host[1:]}"


def judge(tmp_path, port=8000, answers=None, **more):
    (tmp_path / "tiny.yml").write_text(LOCK, encoding="utf-8")
    arguments = {
        "deployments": [{"name": "chat", "engine": "vllm", "model": "tiny", "hosts": ["gpu_hosts"], "port": port}],
        "models": [{"name": "tiny", "lock": str(tmp_path / "tiny.yml"), "sources": [{"type": "hub"}]}],
        "tenants": [{"name": "a", "key_sha256": "1" * 64}],
        "engine_key_length": 32,
        "readiness_variable": "asked",
        **more,
    }
    answers = {"g1": {"asked": {"readiness": READY}}, **(answers or {})}
    task = mock.MagicMock(async_val=0, args=arguments)
    action = ActionModule(
        task, mock.MagicMock(), mock.MagicMock(), mock.MagicMock(), mock.MagicMock(), mock.MagicMock()
    )
    groups = {"all": list(answers), "gpu_hosts": list(answers), "gateway_hosts": ["g1"]}
    return action.run(
        task_vars={
            "hostvars": {host: {"llm_address": address(host), **answer} for host, answer in answers.items()},
            "groups": groups,
            "ansible_play_hosts_all": list(answers),
        },
    )


def test_a_good_site_passes(tmp_path):
    result = judge(tmp_path)
    assert (result["changed"], result["findings"], result["hosts_checked"]) == (False, [], 1)
    assert "failed" not in result


def test_the_report_is_the_help_of_the_error(tmp_path):
    with pytest.raises(AnsibleError) as caught:
        judge(tmp_path, port=1, answers={"g2": {"asked": {"problem": "down", "unreachable_host": True}}})
    assert caught.value.message.startswith("Preflight found 2 blockers")
    text = str(caught.value._help_text)
    assert "== g1, g2 ==\n  * llm_deployments[0].port is 1" in text
    assert "== g2 ==\n  * ansible_host does not lead to the host: down" in text


WITHOUT_NAMES = {**READY, "machine": {"apt_sources": ["http://a.example/"], "names": {"a.example": "lost"}}}
UNFINISHED = {**READY, "machine": {"packages": {"broken": [{"name": "x", "state": "half-configured"}]}}}
SWAPPED = {**READY, "machine": {"swap_used_bytes": 2**34}}


def test_a_warning_is_shown_and_returned_and_fails_nothing(tmp_path):
    with mock.patch("ansible.utils.display.Display.warning") as warning:
        result = judge(tmp_path, answers={"g2": {"asked": {"readiness": SWAPPED}}})
    assert "failed" not in result
    assert [(item["code"], item["severity"]) for item in result["findings"]] == [("swap-used", "warning")]
    (message,) = warning.call_args.args
    assert message.startswith("Preflight found no blocker and 1 warning")
    assert "== g2 ==\n  - warning: ansible_host leads to" in warning.call_args.kwargs["help_text"]


def test_what_is_accepted_is_returned_and_neither_fails_nor_is_shown(tmp_path):
    wanted = {"accept": ["package-broken"]}
    with mock.patch("ansible.utils.display.Display.warning") as warning:
        result = judge(tmp_path, answers={"g2": {"asked": {"readiness": UNFINISHED, "wanted": wanted}}})
    assert "failed" not in result
    assert [(item["code"], item["severity"]) for item in result["findings"]] == [("package-broken", "accepted")]
    warning.assert_not_called()


def test_warnings_stand_beside_what_fails(tmp_path):
    answers = {"g2": {"asked": {"readiness": WITHOUT_NAMES}}, "g3": {"asked": {"readiness": SWAPPED}}}
    with pytest.raises(AnsibleError) as caught:
        judge(tmp_path, answers=answers)
    assert caught.value.message.startswith("Preflight found 1 blocker and 1 warning")
    assert str(caught.value._help_text).index("apt-source-unresolved") < str(caught.value._help_text).index("swap-used")


def test_a_token_that_is_not_there_is_a_finding(tmp_path):
    result = judge(tmp_path, hub_token_file=str(tmp_path / "none"), return_findings=True)
    assert [item["code"] for item in result["findings"]] == ["hub-token-unusable"]


def test_findings_as_data_when_asked_for(tmp_path):
    result = judge(tmp_path, port=1, return_findings=True)
    assert result["failed"] is True
    assert [(item["code"], item["hosts"]) for item in result["findings"]] == [("port-invalid", ["g1"])]
    assert "-> Choose another port." in result["msg"]


def test_a_host_that_was_never_asked_is_a_finding(tmp_path):
    result = judge(tmp_path, answers={"g2": {}}, return_findings=True)
    assert [(item["code"], item["hosts"]) for item in result["findings"]] == [("host-not-readable", ["g2"])]
    assert result["hosts_checked"] == 1


def test_a_name_that_cannot_be_resolved_is_a_finding(tmp_path):
    result = judge(tmp_path, answers={"lost": {"asked": {"readiness": READY}}}, return_findings=True)
    assert [(item["code"], item["hosts"]) for item in result["findings"]] == [("address-unresolved", ["lost"])]


def test_versions_are_those_of_each_host(tmp_path):
    wanted = {"engine_versions": {"vllm": {"version": "0.20.0"}}}
    answers = {"g2": {"asked": {"readiness": READY, "wanted": wanted}}}
    result = judge(tmp_path, answers=answers, return_findings=True)
    assert [(item["code"], item["hosts"]) for item in result["findings"]] == [("engine-version-unsafe", ["g2"])]
