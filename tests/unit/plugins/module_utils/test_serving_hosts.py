# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the variables of a play to what is known of its hosts."""

from __future__ import annotations

import base64

import pytest

from ansible_collections.baremetal.llm.plugins.doc_fragments.planned_hosts import ModuleDocFragment
from ansible_collections.baremetal.llm.plugins.module_utils import serving_hosts
from ansible_collections.baremetal.llm.plugins.module_utils.site import SiteError

yaml = pytest.importorskip("yaml")

GIB = 1 << 30
OPTIONS = {
    **{name: option.get("default") for name, option in serving_hosts.HOST_OPTIONS.items()},
    "facts_variable": "__gpu",
    "memory_variable": "__memory",
}
FACTS = {
    "gpus": [{"name": "NVIDIA L4", "memory_total_bytes": 22 * GIB, "compute_capability": "8.9"}],
    "nvml": {"error": ""},
}


def test_the_options_are_described_as_they_are_declared():
    described = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    assert {
        name: {key: value for key, value in option.items() if key != "description"}
        for name, option in described.items()
    } == serving_hosts.HOST_OPTIONS


def known(**variables):
    return serving_hosts.gate_hosts(["gpu-1"], {"gpu-1": variables}, OPTIONS)["gpu-1"]


def test_facts_and_the_site_make_a_host():
    host = known(
        __gpu={"gpu": FACTS},
        vllm_version="0.32.0",
        vllm_engine_defaults={"max-num-seqs": 4},
        vllm_environment={"A": "1"},
    )
    assert host.hardware.source == "facts"
    assert host.hardware.gpus[0].name == "NVIDIA L4"
    assert (host.engine_version, dict(host.engine_defaults), dict(host.environment)) == (
        "0.32.0",
        {"max_num_seqs": 4},
        {"A": "1"},
    )


def test_what_a_site_does_not_say_is_what_the_role_pins():
    host = known()
    assert host.accelerator == "nvidia"
    assert host.engine_version == serving_hosts.role_version()
    assert host.engine_version.count(".") == 2


def test_a_host_without_gpus_has_the_memory_that_it_says():
    meminfo = base64.b64encode(b"MemTotal:       2048 kB\nMemFree: 1 kB\n").decode()
    host = known(llm_accelerator="none", __memory={"content": meminfo}, __gpu={"skipped": True})
    assert (host.hardware.gpus, host.hardware.memory_bytes) == ((), 2 << 20)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"msg": "ssh: no route\nmore"}, "ssh: no route"),
        ({"gpu": {"gpus": [], "nvml": {"error": "DRIVER_NOT_LOADED"}}}, "the driver's library says DRIVER_NOT_LOADED"),
        ({"skipped": True}, ""),
        (None, ""),
    ],
)
def test_why_there_are_no_gpus(answer, problem):
    assert known(__gpu=answer).hardware.problem == problem


def test_a_wrong_declaration_names_its_host():
    with pytest.raises(SiteError, match=r"gpu-1: llm_planned_gpus\[0\]"):
        known(llm_planned_gpus=["H100"])


def test_a_calibration_that_is_not_there_yet_says_nothing(tmp_path):
    assert serving_hosts.read_calibration(None) == {}
    assert serving_hosts.read_calibration(str(tmp_path / "none.json")) == {}
    (tmp_path / "some.json").write_text('{"a": {"weights": 1}}', encoding="utf-8")
    assert serving_hosts.read_calibration(str(tmp_path / "some.json")) == {"a": {"weights": 1}}
