# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the PCI bus and the firmware say, read from folders that look like /sys."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import pci as subject
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

BRIDGE = "0000:00:01.0"
SWITCH = "0000:17:00.0"


def write(root: Path, path: str, content: str | bytes) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)


def config_space(control: int | None, length: int = 4096) -> bytes:
    """A configuration space whose chain is: advanced error reporting at 0x100, then, if wanted, ACS at 0x148."""
    space = bytearray(length)
    if length > 0x148:
        struct.pack_into("<I", space, 0x100, 0x0001 | 2 << 16 | (0x148 << 20 if control is not None else 0))
        if control is not None:
            struct.pack_into("<IHH", space, 0x148, 0x000D | 1 << 16, 0x5F, control)
    return bytes(space)


def device(root: Path, address: str, *, parents: tuple[str, ...] = (), driver: str = "", **attributes: str) -> None:
    folder = "/".join(("sys/devices/pci0000:00", *parents, address))
    for name, value in attributes.items():
        write(root, f"{folder}/{name}", value + "\n")
    listed = root / "sys/bus/pci/devices"
    listed.mkdir(parents=True, exist_ok=True)
    (listed / address).symlink_to(f"../../../../{folder}")
    if driver:
        (root / folder / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")


def gpu(root: Path, address: str, parents: tuple[str, ...] = (), driver: str = "nvidia") -> None:
    device(root, address, parents=parents, driver=driver, vendor="0x10de", device="0x2330", **{"class": "0x030200"})


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A GPU behind a switch, one straight on a root port, its audio function, an NVSwitch and a network card."""
    (tmp_path / "sys/kernel").mkdir(parents=True)
    for bridge, parents in ((BRIDGE, ()), (SWITCH, (BRIDGE,))):
        device(tmp_path, bridge, parents=parents, vendor="0x1000", device="0xc030", **{"class": "0x060400"})
        write(tmp_path, f"sys/bus/pci/devices/{bridge}/config", config_space(0))
    gpu(tmp_path, "0000:18:00.0", (BRIDGE, SWITCH))
    gpu(tmp_path, "0000:9a:00.0", driver="")
    device(tmp_path, "0000:9a:00.1", vendor="0x10de", device="0x22ba", **{"class": "0x040300"})
    device(tmp_path, "0000:05:00.0", vendor="0x10de", device="0x22a3", **{"class": "0x068000"})
    device(tmp_path, "0000:06:00.0", vendor="0x15b3", device="0x1021", **{"class": "0x020700"})
    return tmp_path


def test_gpus_are_found_with_and_without_a_driver(host: Path) -> None:
    assert subject.read_pci_gpus(System(str(host))) == [
        {"pci_address": "0000:18:00.0", "pci_device": "10de:2330", "pci_class": "0x030200", "driver": "nvidia"},
        {"pci_address": "0000:9a:00.0", "pci_device": "10de:2330", "pci_class": "0x030200", "driver": ""},
    ]


def test_a_host_without_a_pci_bus_has_no_gpus(tmp_path: Path) -> None:
    system = System(str(tmp_path))
    assert subject.read_pci_gpus(system) == []
    assert subject.read_acs_redirecting_bridges(system) == []
    assert subject.read_iommu(system) is None
    assert subject.read_secure_boot(system) is None


@pytest.mark.parametrize(
    ("types", "command_line", "expected"),
    [
        ({}, "", "off"),
        ({"0": "DMA-FQ", "1": "DMA"}, "", "translated"),
        ({"0": "identity"}, "", "passthrough"),
        ({"0": "identity", "1": "DMA"}, "iommu=pt", "translated"),
        ({"0": ""}, "quiet iommu=pt", "passthrough"),
        ({"0": ""}, "quiet", "translated"),
    ],
)
def test_iommu_of_a_host(tmp_path: Path, types: dict[str, str], command_line: str, expected: str) -> None:
    (tmp_path / "sys/kernel").mkdir(parents=True)
    for number, kind in types.items():
        (tmp_path / f"sys/kernel/iommu_groups/{number}").mkdir(parents=True)
        if kind:
            write(tmp_path, f"sys/kernel/iommu_groups/{number}/type", kind + "\n")
    write(tmp_path, "proc/cmdline", command_line + "\n")
    assert subject.read_iommu(System(str(tmp_path))) == expected


def test_the_iommu_groups_of_the_gpus_decide_where_there_are_gpus(host: Path) -> None:
    write(host, "sys/kernel/iommu_groups/0/type", "DMA-FQ\n")
    for address in ("0000:18:00.0", "0000:9a:00.0"):
        write(host, f"sys/bus/pci/devices/{address}/iommu_group/type", "identity\n")
    assert subject.read_iommu(System(str(host))) == "passthrough"
    write(host, "sys/bus/pci/devices/0000:9a:00.0/iommu_group/type", "DMA\n")
    assert subject.read_iommu(System(str(host))) == "translated"


@pytest.mark.parametrize(
    ("control", "redirects"),
    [(0x00, False), (0x01, False), (0x04, True), (0x08, True), (0x1D, True), (0x10, False)],
)
def test_only_redirection_counts_not_source_validation(host: Path, control: int, redirects: bool) -> None:
    write(host, f"sys/bus/pci/devices/{SWITCH}/config", config_space(control))
    expected = [SWITCH] if redirects else []
    assert subject.read_acs_redirecting_bridges(System(str(host))) == expected


def test_a_bridge_that_is_not_above_a_gpu_does_not_matter(host: Path) -> None:
    device(host, "0000:00:1c.0", vendor="0x8086", device="0x7ab8", **{"class": "0x060400"})
    write(host, "sys/bus/pci/devices/0000:00:1c.0/config", config_space(0x1D))
    assert subject.read_acs_redirecting_bridges(System(str(host))) == []


def test_without_the_right_to_read_configuration_spaces_nobody_can_say(host: Path) -> None:
    write(host, f"sys/bus/pci/devices/{SWITCH}/config", config_space(0x1D, length=64))
    assert subject.read_acs_redirecting_bridges(System(str(host))) is None
    os.unlink(host / f"sys/bus/pci/devices/{SWITCH}/config")
    assert subject.read_acs_redirecting_bridges(System(str(host))) is None


@pytest.mark.parametrize("config", [config_space(None), b"\xff" * 4096, b"", bytes(256), config_space(0x1D, 256)])
def test_a_configuration_space_without_access_control_services(config: bytes) -> None:
    assert subject.acs_control(config) == 0


def test_a_chain_that_runs_in_a_circle_ends() -> None:
    space = bytearray(4096)
    struct.pack_into("<I", space, 0x100, 0x0001 | 0x140 << 20)
    struct.pack_into("<I", space, 0x140, 0x0003 | 0x100 << 20)
    assert subject.acs_control(bytes(space)) == 0


SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SETUP_MODE = "SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SHIM = "MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\x07\0\0\0\0\0"}, False),
        ({SECURE_BOOT: b"\x06\0\0\0\x00"}, False),
        ({SECURE_BOOT: b"\x06\0\0\0\x01"}, True),
        ({SECURE_BOOT: b"\x06\0\0\0\x01", SETUP_MODE: b"\x06\0\0\0\x00"}, True),
        ({SECURE_BOOT: b"\x06\0\0\0\x01", SETUP_MODE: b"\x06\0\0\0\x01"}, False),
        ({SECURE_BOOT: b"\x06\0\0\0\x01", SHIM: b"\x06\0\0\0\x01"}, False),
        # A variable that anybody could have written is no word of the shim.
        ({SECURE_BOOT: b"\x06\0\0\0\x01", SHIM: b"\x07\0\0\0\x01"}, True),
        ({SECURE_BOOT: b"\x06\0"}, False),
    ],
)
def test_secure_boot_by_the_kernels_own_rule(tmp_path: Path, variables: dict[str, bytes], expected: bool) -> None:
    for name, content in variables.items():
        write(tmp_path, f"sys/firmware/efi/efivars/{name}", content)
    assert subject.read_secure_boot(System(str(tmp_path))) is expected
