# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The units that the role vllm writes, as systemd judges them without running them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from ansible_collections.baremetal.llm.plugins.filter.vllm import FilterModule

ROLE = Path(__file__).resolve().parents[4] / "roles/vllm"
UNITS = ["vllm@.service", "vllm-watchdog@.service"]
# Ubuntu 22.04 has 249, the oldest that the role supports; these came later, so it would ignore them.
NEWER_THAN_249 = {
    "BindLogSockets",
    "ConditionFirmware",
    "ConditionMemoryPressure",
    "DelegateSubgroup",
    "ExitType",
    "ExtensionDirectories",
    "FileDescriptorStorePreserve",
    "ImportCredential",
    "LoadCredentialEncrypted",
    "MemoryPressureWatch",
    "MemoryZSwapMax",
    "OpenFile",
    "PrivatePIDs",
    "RestartMaxDelaySec",
    "RestartMode",
    "RestartSteps",
    "RestrictFileSystems",
    "RootEphemeral",
    "SetCredentialEncrypted",
    "SetLoginEnvironment",
    "StartupAllowedCPUs",
    "SurviveFinalKillSignal",
}


def render(unit: str) -> str:
    values: dict[str, Any] = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    private = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))
    values.update({name: value for name, value in private.items() if "{{" not in str(value)})
    values["vllm_allowed_clients"] = ["192.0.2.1"]
    values["vllm_deployments"] = [{"name": "chat", "listen_address": "192.0.2.5"}]
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters.update({f"baremetal.llm.{name}": call for name, call in FilterModule().filters().items()})
    template = ROLE / "templates/etc/systemd/system" / f"{unit}.j2"
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


@pytest.mark.parametrize("unit", UNITS)
def test_no_directive_that_the_oldest_systemd_does_not_know(unit: str) -> None:
    directives = set(re.findall(r"^([A-Za-z]+)=", render(unit), re.MULTILINE))
    assert {"ExecStart", "ProtectSystem", "EnvironmentFile"} <= directives
    assert directives & NEWER_THAN_249 == set()


def test_the_engine_talks_with_loopback_itself_and_the_gateway_only() -> None:
    text = render("vllm@.service")
    assert "IPAddressDeny=any\n" in text
    assert "IPAddressAllow=localhost 192.0.2.1 192.0.2.5\n" in text
    assert "IPAddressAllow=localhost 192.0.2.5\n" in render("vllm-watchdog@.service")


def test_what_would_break_cuda_is_left_out() -> None:
    directives = set(re.findall(r"^([A-Za-z]+=\S*)", render("vllm@.service"), re.MULTILINE))
    names = {line.split("=")[0] for line in directives}
    assert names.isdisjoint({"PrivateDevices", "MemoryDenyWriteExecute", "PrivateNetwork", "PrivateUsers"})
    assert {"ProcSubset=all", "DevicePolicy=closed", "DeviceAllow=char-nvidia-uvm"} <= directives


def test_no_key_in_a_unit() -> None:
    for unit in UNITS:
        assert "API_KEY" not in render(unit)


@pytest.mark.parametrize("unit", UNITS)
def test_the_exposure_level_is_at_most_2(unit: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if (
        analyze is None
        or "--offline" not in subprocess.run([analyze, "--help"], capture_output=True, text=True, check=False).stdout
    ):
        pytest.skip("systemd-analyze without --offline (before 251); the scenario default asks the hosts' own")
    instance = tmp_path / unit.replace("@", "@chat")
    instance.write_text(render(unit), encoding="utf-8")
    report = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(instance)], capture_output=True, text=True, check=True
    ).stdout
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert level is not None and float(level[1]) <= 2.0, report
