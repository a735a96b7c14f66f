# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module gpu_info as Ansible runs it: on this machine, whatever it has, it answers and changes nothing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from ansible_collections.baremetal.llm.plugins.modules import gpu_info

testing = pytest.importorskip("ansible.module_utils.testing")


@pytest.fixture
def run(capsys):
    def run(check=False, **arguments):
        arguments["_ansible_check_mode"] = check
        with testing.patch_module_args(arguments), pytest.raises(SystemExit) as caught:
            gpu_info.main()
        assert not caught.value.code
        return json.loads(capsys.readouterr().out)

    return run


def test_it_answers_and_changes_nothing(run):
    result = run()
    assert result["changed"] is False
    assert result["gpu"]["format_version"] == 1
    assert result["gpu"]["platform"]["kernel"]
    assert result["gpu"]["nvml"]["binding_version"]
    assert sorted(run(check=True)["gpu"]) == sorted(result["gpu"])


def test_without_the_binding_the_rest_is_there(run, monkeypatch):
    real = importlib.import_module

    def no_pynvml(name, package=None):
        if name == "pynvml":
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", no_pynvml)
    monkeypatch.setattr(gpu_info, "use_tool_environment", lambda module, name: None)
    nvml = run()["gpu"]["nvml"]
    assert (nvml["error"], nvml["binding_version"]) == ("BINDING_NOT_FOUND", None)


def test_the_tool_environment_is_asked_for_the_binding(run, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu_info, "use_tool_environment", lambda module, name: asked.append(name))
    run()
    assert asked == ["pynvml"]


def test_nvml_is_left_alone_when_told(run, monkeypatch):
    monkeypatch.setattr(gpu_info, "use_tool_environment", lambda module, name: pytest.fail("respawned for nothing"))
    assert run(nvml=False)["gpu"]["nvml"]["error"] == "NOT_ASKED"


def test_module_utils_of_gpu_info_need_no_ansible():
    """They run wherever Python runs: a host's Python is asked with ansible made unimportable."""
    code = (
        "import sys; sys.modules['ansible'] = None\n"
        "from ansible_collections.baremetal.llm.plugins.module_utils import gpu_info\n"
        "print(gpu_info.read_host(gpu_info.System('/nowhere'), None)['format_version'])"
    )
    path = next(entry for entry in sys.path if entry.endswith(".cache/collections"))
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("1", "")
