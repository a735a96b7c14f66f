# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVML says: through the real binding and the fake library; for what no library does, a binding of the test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import gpu_info_nvml as subject
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tests" / "fakes" / "hosts"))

import fake_host  # noqa: E402  (found through the path above)


@pytest.fixture
def host() -> Any:
    return fake_host.FakeHost("h100_sxm_8")


def gpus_of(host: Any) -> Any:
    return host.description["nvml"]["gpus"]


# ---- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", ["driver_not_loaded", "lib_rm_version_mismatch", "no_permission", "operating_system", "unknown"]
)
def test_an_nvml_that_does_not_start(host: Any, error: str) -> None:
    host.description["nvml"]["error"] = {"nvmlInit": error}
    facts = host.facts()
    assert facts["nvml"]["error"] == error.upper()
    # The library says what it is all the same: that shows an upgrade under a running module.
    assert facts["nvml"]["library_version"] == "13.580.178.04"
    assert facts["nvml"]["driver_version"] is None
    assert (facts["gpus"], facts["lost_gpus"], facts["p2p"]) == ([], [], [])
    assert len(facts["pci_gpus"]) == 8


def test_a_gpu_without_a_handle_is_lost_and_the_others_are_read(host: Any) -> None:
    gpus_of(host)[5]["error"] = {"handle": "gpu_is_lost"}
    facts = host.facts()
    # Its address is the one on the bus that no other GPU has.
    assert facts["lost_gpus"] == [{"index": 5, "pci_address": "0000:a8:00.0", "error": "GPU_IS_LOST"}]
    assert [gpu["index"] for gpu in facts["gpus"]] == [0, 1, 2, 3, 4, 6, 7]
    assert len(facts["p2p"]) == 21
    assert not [pair for pair in facts["p2p"] if 5 in (pair["first"], pair["second"])]


def test_a_gpu_that_is_lost_while_it_is_asked(host: Any) -> None:
    gpus_of(host)[2]["error"] = {"nvmlDeviceGetEccMode": "gpu_is_lost"}
    gpus_of(host)[3]["error"] = {"nvmlDeviceGetPowerUsage": "reset_required"}
    facts = host.facts()
    assert facts["lost_gpus"] == [
        {"index": 2, "pci_address": "0000:75:00.0", "error": "GPU_IS_LOST"},
        {"index": 3, "pci_address": "0000:86:00.0", "error": "RESET_REQUIRED"},
    ]
    assert len(facts["gpus"]) == 6


def test_a_lost_gpu_keeps_its_place_unknown_where_the_bus_leaves_doubt(host: Any) -> None:
    gpus_of(host)[5]["error"] = {"handle": "unknown"}
    host.description["pci"]["gpus"] = []
    assert host.facts()["lost_gpus"] == [{"index": 5, "pci_address": None, "error": "UNKNOWN"}]


def test_another_error_is_told_and_the_rest_is_read(host: Any) -> None:
    gpus_of(host)[0]["error"] = {"nvmlDeviceGetPowerUsage": "no_permission"}
    facts = host.facts()
    assert facts["gpus"][0]["power_usage_watts"] is None
    assert facts["gpus"][0]["power_limit_watts"] == 700.0
    assert facts["gpus"][1]["power_usage_watts"] == 68.57
    assert facts["problems"] == ["NVML: nvmlDeviceGetPowerUsage failed with NO_PERMISSION."]
    assert "nvmlDeviceGetPowerUsage" not in facts["nvml"]["not_supported"]


def test_an_old_driver_lacks_functions_and_that_is_no_error(host: Any) -> None:
    description = host.description["nvml"]
    description["driver"].update(version="535.309.01", cuda_version="12.2")
    description["absent"] = ["nvmlDeviceGetRemappedRows", "nvmlDeviceGetGspFirmwareMode"]
    facts = host.facts()
    gpu = facts["gpus"][0]
    assert facts["problems"] == facts["lost_gpus"] == []
    assert gpu["remapped_rows"] is None and gpu["gsp_firmware_enabled"] is None
    assert gpu["recovery_action"] is None
    assert {
        "nvmlDeviceGetRemappedRows",
        "nvmlDeviceGetGspFirmwareMode",
        "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION",
    } <= set(facts["nvml"]["not_supported"])
    # These have older names, which answer.
    assert gpu["clocks_event_reasons"] == ["gpu_idle"]
    assert gpu["compute_processes"] == 0
    assert gpu["fabric"] == {
        "state": "completed",
        "status": 0,
        "clique_id": 0,
        "cluster_uuid": None,
        "health": None,
    }


def test_a_driver_before_the_newest_names(host: Any) -> None:
    host.description["nvml"]["absent"] = [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlSystemGetCudaDriverVersion_v2",
    ]
    facts = host.facts()
    gpu = facts["gpus"][0]
    assert gpu["memory_total_bytes"] == 85520809984
    assert gpu["temperature_celsius"] == 29
    assert gpu["clocks_event_reasons"] == ["gpu_idle"]
    assert facts["nvml"]["cuda_version"] == "13.0"
    assert "nvmlDeviceGetMemoryInfo" not in facts["nvml"]["not_supported"]


# ---- Values ----------------------------------------------------------------------------------------------------------


def test_memory_errors(host: Any) -> None:
    first, second = gpus_of(host)[:2]
    first["ecc"].update(enabled=False, pending=True)
    second["ecc"].update(uncorrected_volatile=3, corrected_aggregate=9)
    second["remapped_rows"].update(correctable=1, uncorrectable=2, pending=True, failed=True)
    facts = host.facts()
    assert facts["gpus"][0]["ecc"] == {
        "enabled": False,
        "enabled_after_reboot": True,
        "corrected_volatile": None,
        "uncorrected_volatile": None,
        "corrected_aggregate": None,
        "uncorrected_aggregate": None,
    }
    ecc = facts["gpus"][1]["ecc"]
    assert (ecc["uncorrected_volatile"], ecc["corrected_aggregate"], ecc["corrected_volatile"]) == (3, 9, 0)
    assert facts["gpus"][1]["remapped_rows"] == {
        "correctable": 1,
        "uncorrectable": 2,
        "pending": True,
        "failed": True,
    }


def test_retired_pages_before_ampere() -> None:
    host = fake_host.FakeHost("t4_1")
    gpus_of(host)[0]["retired_pages"] = {"single_bit": 2, "double_bit": 1, "pending": True}
    gpu = host.facts()["gpus"][0]
    assert gpu["retired_pages"] == {"single_bit": 2, "double_bit": 1, "pending": True}
    assert gpu["remapped_rows"] is None


def test_links_clocks_and_limits(host: Any) -> None:
    gpu = gpus_of(host)[0]
    gpu["pcie"].update(width=8, generation=1, replay_count=12)
    gpu["clocks"]["event_reasons"] = ["sw_power_cap", "hw_thermal_slowdown"]
    gpu["nvlinks"][3].update(active=False)
    gpu["recovery_action"] = "drain_and_reset"
    gpu["persistence"] = False
    gpu["compute_mode"] = "exclusive_process"
    gpu["power"]["limit_milliwatts"] = 350500
    gpu["compute_processes"] = [{"pid": 4711, "used_bytes": 1024}, {"pid": 4712, "used_bytes": 1024}]
    facts = host.facts()["gpus"][0]
    assert (facts["pcie"]["width"], facts["pcie"]["width_possible"], facts["pcie"]["generation"]) == (8, 16, 1)
    assert facts["pcie"]["replay_count"] == 12
    assert facts["clocks_event_reasons"] == ["sw_power_cap", "hw_thermal_slowdown"]
    assert facts["nvlinks"][3] == {"link": 3, "active": False, "version": 4, "remote_pci_address": None}
    assert len(facts["nvlinks"]) == 18
    assert (facts["recovery_action"], facts["persistence"]) == ("drain_and_reset", False)
    assert (facts["compute_mode"], facts["power_limit_watts"]) == ("exclusive_process", 350.5)
    assert facts["compute_processes"] == 2


def test_what_no_table_has_a_name_for(host: Any) -> None:
    gpu = gpus_of(host)[0]
    gpu["architecture"] = 99
    gpu["recovery_action"] = 77
    gpu["clocks"]["event_reasons"] = 1 << 20 | 4
    facts = host.facts()["gpus"][0]
    assert facts["architecture"] is None
    assert facts["recovery_action"] == "action_77"
    assert facts["clocks_event_reasons"] == ["sw_power_cap", "unknown_0x100000"]


def test_pairs_of_gpus(host: Any) -> None:
    host.description["nvml"]["p2p"]["0-1"] = {"read": "ok", "write": "chipset_not_supported", "topology": "system"}
    pair = host.facts()["p2p"][0]
    assert (pair["first"], pair["second"]) == (0, 1)
    assert (pair["read"], pair["write"], pair["topology"]) == ("ok", "chipset_not_supported", "system")


def test_fabric(host: Any) -> None:
    gpus_of(host)[0]["fabric"].update(state="in_progress")
    gpus_of(host)[1]["fabric"].update(status="unknown", health={"degraded_bandwidth": True, "route_unhealthy": False})
    gpus_of(host)[2]["fabric"].update(cluster_uuid="01020304-0506-0708-090a-0b0c0d0e0f10", clique_id=7)
    gpus_of(host)[3]["fabric"] = None
    facts = host.facts()["gpus"]
    assert (facts[0]["fabric"]["state"], facts[0]["fabric"]["clique_id"]) == ("in_progress", None)
    assert (facts[1]["fabric"]["status"], facts[1]["fabric"]["health"]) == (999, ["degraded_bandwidth"])
    assert facts[2]["fabric"]["cluster_uuid"] == "01020304-0506-0708-090a-0b0c0d0e0f10"
    assert facts[2]["fabric"]["clique_id"] == 7
    assert facts[3]["fabric"] is None


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (0, None),
        (0x2, []),
        (0x1 | 0x1 << 2 | 0x1 << 4 | 0x1 << 6, ["degraded_bandwidth", "route_recovery", "route_unhealthy"]),
        (0x2 | 1 << 8, []),
        (5 << 8, ["insufficient_nvlinks"]),
        (12 << 8, ["incorrect_configuration_12"]),
        (1 << 12 | 1 << 14, []),
        (2 << 12 | 2 << 14, ["partition_not_assigned", "fabric_manager_disconnected"]),
    ],
)
def test_fabric_health_mask(mask: int, expected: list[str] | None) -> None:
    health = subject.fabric_health(mask)
    assert (health[:3] if health else health) == expected


def test_mig_instances_need_not_be_numbered_without_gaps() -> None:
    host = fake_host.FakeHost("a100_mig_4")
    instances = gpus_of(host)[0]["mig"]["instances"]
    assert len(instances) == 4
    gpus_of(host)[0]["mig"]["instances"] = [instances[0], None, instances[3]]
    gpus_of(host)[1]["mig"].update(pending=True)
    facts = host.facts()
    first, second = facts["gpus"][:2]
    assert [(item["index"], item["profile"]) for item in first["mig"]["instances"]] == [(0, "3g.40gb"), (2, "1g.10gb")]
    assert (second["mig"]["enabled"], second["mig"]["enabled_after_reset"]) == (False, True)
    assert facts["problems"] == []


# ---- A binding of the test -------------------------------------------------------------------------------------------


class BindingError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value


def raising(code: int) -> Any:
    def function(*_arguments: Any) -> Any:
        raise BindingError(code)

    return function


def binding(**functions: Any) -> Any:
    """A binding so old that it knows only what is given, and no name of an error but one."""
    return SimpleNamespace(
        NVMLError=BindingError,
        NVML_ERROR_GPU_IS_LOST=15,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        **functions,
    )


def test_an_old_binding_and_an_error_without_a_name(tmp_path: Path) -> None:
    old = binding(nvmlSystemGetNVMLVersion=lambda: b"11.470.1", nvmlDeviceGetCount=raising(1234))
    facts = subject.read_nvml(old, System(str(tmp_path)), [])
    assert (facts.nvml["error"], facts.nvml["library_version"], facts.gpus) == ("", "11.470.1", [])
    assert facts.problems == ["NVML: nvmlDeviceGetCount failed with ERROR_1234."]
    assert "nvmlSystemGetDriverVersion" in facts.nvml["not_supported"]


def test_a_host_without_libcuda_still_knows_its_cuda(tmp_path: Path) -> None:
    container_host = binding(
        nvmlSystemGetCudaDriverVersion_v2=raising(12), nvmlSystemGetCudaDriverVersion=lambda: 12020
    )
    facts = subject.read_nvml(container_host, System(str(tmp_path)), [])
    assert (facts.nvml["cuda_version"], facts.problems) == ("12.2", [])


def test_a_text_that_is_none_is_told(tmp_path: Path) -> None:
    def broken() -> str:
        return b"\xff".decode("utf-8")

    odd = binding(nvmlSystemGetDriverVersion=broken)
    facts = subject.read_nvml(odd, System(str(tmp_path)), [])
    assert facts.nvml["driver_version"] is None
    assert "no text" in facts.problems[0]


def test_nvml_is_shut_down_whatever_happens(tmp_path: Path) -> None:
    calls: list[str] = []
    watched = binding(nvmlDeviceGetCount=lambda: 1, nvmlDeviceGetHandleByIndex=lambda index: 1 / 0)
    watched.nvmlShutdown = lambda: calls.append("shutdown")
    with pytest.raises(ZeroDivisionError):
        subject.read_nvml(watched, System(str(tmp_path)), [])
    assert calls == ["shutdown"]


def test_two_gpus_of_which_one_is_lost_between_them(tmp_path: Path) -> None:
    pair = binding(
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetP2PStatus=raising(15),
    )
    facts = subject.read_nvml(pair, System(str(tmp_path)), [])
    assert facts.p2p == [{"first": 0, "second": 1, "read": None, "write": None, "nvlink": None, "topology": None}]
    assert facts.problems == ["NVML: GPU 0 or 1 was lost while it was asked (GPU_IS_LOST)."]
