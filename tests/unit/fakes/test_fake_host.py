# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The six fake hosts through the real read_host, the real binding and the fake NVML: healthy, and with one change.

The golden facts lie beside each description. After a change that is meant to change them, write them anew for each
machine with `python tests/fakes/hosts/fake_host.py --golden MACHINE`, and read the difference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "fakes" / "hosts"))

import fake_host  # noqa: E402  (found through the path above)

MACHINES = ["a100_mig_4", "b200_8", "h100_sxm_8", "l40s_4", "rtx4090_2", "t4_1"]


@pytest.fixture
def host() -> Any:
    return fake_host.FakeHost("h100_sxm_8")


def test_every_machine_is_described() -> None:
    assert fake_host.machines() == MACHINES


@pytest.mark.parametrize("machine", MACHINES)
def test_golden_facts(machine: str) -> None:
    golden = json.loads((ROOT / "tests/fakes/hosts" / machine / "facts.json").read_text(encoding="utf-8"))
    assert fake_host.settled(fake_host.FakeHost(machine).facts()) == golden


@pytest.mark.parametrize("machine", MACHINES)
def test_a_healthy_host_is_of_one_version(machine: str) -> None:
    facts = json.loads((ROOT / "tests/fakes/hosts" / machine / "facts.json").read_text(encoding="utf-8"))
    version = facts["nvml"]["driver_version"]
    assert facts["loaded_module"]["version"] == version
    assert {module["version"] for module in facts["kernel_modules"]} == {version}
    assert {service["running_version"] for service in facts["services"]} <= {version, None}
    assert {specification["driver_version"] for specification in facts["cdi"]} == {version}
    assert all(package["held"] and package["state"] == "installed" for package in facts["packages"])
    assert [module["kernel"] for module in facts["kernel_modules"] if module["running"] and module["next_boot"]]
    assert len(facts["gpus"]) == len(facts["pci_gpus"])
    assert facts["lost_gpus"] == facts["problems"] == facts["xid_events"] == []


def test_a_module_from_before_the_upgrade(host: Any) -> None:
    host.description["loaded_module"]["version"] = "580.159.04"
    facts = host.facts()
    assert facts["loaded_module"]["version"] == "580.159.04"
    assert facts["kernel_modules"][1]["version"] == "580.178.04"


def test_a_gpu_that_the_driver_no_longer_counts_is_still_on_the_bus(host: Any) -> None:
    del host.description["nvml"]["gpus"][7]
    facts = host.facts()
    assert (len(facts["gpus"]), len(facts["pci_gpus"])) == (7, 8)


def test_packages_kernels_and_services_follow_their_description(host: Any) -> None:
    host.package("nvidia-fabricmanager").update(version="580.159.04-1", held=False, state="half-configured")
    host.kernel("6.8.0-139-generic").update(module=None, dkms="added", headers=False)
    host.description["next_boot_kernel"] = "6.8.0-136-generic"
    host.description["services"]["nvidia-fabricmanager"].update(version="580.159.04", restarts=7)
    del host.description["services"]["nvidia-persistenced"]
    facts = host.facts()
    package = next(item for item in facts["packages"] if item["name"] == "nvidia-fabricmanager")
    assert (package["version"], package["held"], package["state"]) == ("580.159.04-1", False, "half-configured")
    older, newer = facts["kernel_modules"]
    assert (older["next_boot"], older["running"], newer["next_boot"], newer["running"]) == (True, False, False, True)
    assert (newer["version"], newer["flavour"], newer["dkms_state"], newer["headers_installed"]) == (
        None,
        None,
        "added",
        False,
    )
    services = {service["name"]: service for service in facts["services"]}
    assert services["nvidia-fabricmanager"]["running_version"] == "580.159.04"
    assert services["nvidia-fabricmanager"]["restarts"] == 7
    assert services["nvidia-persistenced"]["load_state"] == "not-found"


def test_the_bus_the_firmware_and_the_kernel_log_follow_their_description(host: Any) -> None:
    bridge = host.description["pci"]["gpus"][2]["bridge"]
    host.description["pci"]["acs_control"][bridge] = 0x1D
    host.description["pci"]["gpus"][1]["driver"] = "vfio-pci"
    host.description["platform"].update(secure_boot=True, iommu="translated", virtualisation="kvm")
    host.description["xid_events"] = [
        {"xid": 79, "pci_address": "0000:86:00.0", "seconds": 60, "message": "GPU has fallen off the bus."}
    ]
    facts = host.facts()
    assert facts["platform"]["acs_redirecting_bridges"] == [bridge]
    assert facts["loaded_module"]["rivals"] == ["vfio_pci"]
    assert (facts["platform"]["secure_boot"], facts["platform"]["iommu"]) == (True, "translated")
    assert facts["platform"]["virtualisation"] == "kvm"
    assert facts["xid_events"] == [
        {
            "xid": 79,
            "pci_address": "0000:86:00.0",
            "count": 1,
            "last_seen_seconds": 60.0,
            "message": "GPU has fallen off the bus.",
        }
    ]


def test_files_and_commands_can_be_put_over_the_result(host: Any) -> None:
    host.files["/etc/cdi/nvidia.yaml"] = "kind: nvidia.com/gpu\ndevices:\n  - name: all\n"
    host.files["/var/run/cdi/nvidia.yaml"] = None
    host.commands["systemd-detect-virt"] = (0, "qemu\n", "")
    facts = host.facts()
    assert [(item["path"], item["devices"]) for item in facts["cdi"]] == [("/etc/cdi/nvidia.yaml", ["all"])]
    assert facts["platform"]["virtualisation"] == "qemu"


def test_a_host_without_driver_or_binding(host: Any) -> None:
    host.description.update(nvml=None, loaded_module=None)
    facts = host.facts()
    assert (facts["nvml"]["error"], facts["gpus"], len(facts["pci_gpus"])) == ("LIBRARY_NOT_FOUND", [], 8)
    host.description["binding"] = False
    assert host.facts()["nvml"]["error"] == "BINDING_NOT_FOUND"


def test_an_unreadable_host_is_an_error_of_the_test(host: Any) -> None:
    host.commands["dkms status"] = ("not a number",)
    with pytest.raises(RuntimeError, match="read_host failed on h100_sxm_8"):
        host.facts()
