# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the PCI bus and the firmware say about a host's GPUs, with or without a driver."""

from __future__ import annotations

import posixpath
import re
import struct

from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import PciGpu
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

DEVICES = "/sys/bus/pci/devices"
NVIDIA = "0x10de"
# VGA controllers and 3D controllers. A GPU's audio and USB functions, and NVSwitches, have other classes.
DISPLAY_CLASSES = ("0x0300", "0x0302")

_ADDRESS = re.compile(r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")

# Where the chain of a PCI Express function's extended capabilities starts, and the one of Access Control Services.
_EXTENDED_CAPABILITIES = 0x100
_EXTENDED_END = 0x1000
_ACCESS_CONTROL_SERVICES = 0x000D
_ACS_CONTROL = 6
# Requests and completions between two devices below a switch go up to the root complex instead of straight across.
_ACS_REQUEST_REDIRECT = 0x04
_ACS_COMPLETION_REDIRECT = 0x08

_EFI_VARIABLES = "/sys/firmware/efi/efivars"
_EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
_EFI_NON_VOLATILE = 0x1


def read_pci_gpus(system: System) -> list[PciGpu]:
    """Every NVIDIA GPU on the bus, in the order of its address."""
    gpus: list[PciGpu] = []
    for address in system.list(DEVICES):
        folder = f"{DEVICES}/{address}"
        if _attribute(system, folder, "vendor") != NVIDIA:
            continue
        pci_class = _attribute(system, folder, "class")
        if not pci_class.startswith(DISPLAY_CLASSES):
            continue
        gpus.append(
            {
                "pci_address": address,
                "pci_device": f"{NVIDIA[2:]}:{_attribute(system, folder, 'device')[2:]}",
                "pci_class": pci_class,
                "driver": posixpath.basename(system.readlink(f"{folder}/driver") or ""),
            }
        )
    return gpus


def read_iommu(system: System) -> str | None:
    """How the IOMMU treats the GPUs, or without GPUs the devices of the host: off, passthrough or translated.

    `None` if /sys is not there.
    """
    if not system.exists("/sys/kernel"):
        return None
    groups = "/sys/kernel/iommu_groups"
    numbers = system.list(groups)
    if not numbers:
        return "off"
    kinds = {
        (system.read(f"{DEVICES}/{gpu['pci_address']}/iommu_group/type") or "").strip() for gpu in read_pci_gpus(system)
    } - {""}
    if not kinds:
        kinds = {(system.read(f"{groups}/{number}/type") or "").strip() for number in numbers} - {""}
    if kinds:
        return "passthrough" if kinds == {"identity"} else "translated"
    # Old kernels do not say how a group is translated: what they were told at boot decides.
    words = (system.read("/proc/cmdline") or "").split()
    return "passthrough" if "iommu=pt" in words or "iommu.passthrough=1" in words else "translated"


def read_acs_redirecting_bridges(system: System) -> list[str] | None:
    """The bridges above GPUs that redirect traffic between GPUs through the root, by their PCI address.

    `None` if that cannot be seen: only root reads more than the first 64 bytes of a configuration space.
    """
    bridges: dict[str, None] = {}
    for gpu in read_pci_gpus(system):
        parents = system.resolve(f"{DEVICES}/{gpu['pci_address']}").split("/")[:-1]
        bridges.update(dict.fromkeys(part for part in parents if _ADDRESS.match(part)))
    found = []
    for bridge in bridges:
        content = system.read_bytes(f"{DEVICES}/{bridge}/config")
        if content is None or len(content) <= 64:
            return None
        if acs_control(content) & (_ACS_REQUEST_REDIRECT | _ACS_COMPLETION_REDIRECT):
            found.append(bridge)
    return sorted(found)


def acs_control(config: bytes) -> int:
    """The control word of Access Control Services in a configuration space; 0 if it has none."""
    offset = _EXTENDED_CAPABILITIES
    seen: set[int] = set()
    while _EXTENDED_CAPABILITIES <= offset <= min(len(config), _EXTENDED_END) - 8 and offset not in seen:
        seen.add(offset)
        (header,) = struct.unpack_from("<I", config, offset)
        # No extended capabilities: all zeros on a device that has none, all ones on one that does not answer.
        if header in (0, 0xFFFFFFFF):
            return 0
        if header & 0xFFFF == _ACCESS_CONTROL_SERVICES:
            (control,) = struct.unpack_from("<H", config, offset + _ACS_CONTROL)
            return int(control)
        offset = header >> 20
    return 0


def read_secure_boot(system: System) -> bool | None:
    """Whether the kernel enforces Secure Boot, by the rule of the kernel's own EFI stub.

    `None` if there are no EFI variables: a host that booted without EFI has no Secure Boot.
    """
    if not system.list(_EFI_VARIABLES):
        return None
    enabled = _efi_variable(system, "SecureBoot", _EFI_GLOBAL)
    if enabled is None or enabled[1] == 0:
        return False
    setup_mode = _efi_variable(system, "SetupMode", _EFI_GLOBAL)
    if setup_mode is not None and setup_mode[1] == 1:
        return False
    # `mokutil --disable-validation` leaves Secure Boot on and tells the shim and the kernel to act as if it were off.
    shim = _efi_variable(system, "MokSBStateRT", _SHIM)
    return not (shim is not None and shim[1] == 1 and not shim[0] & _EFI_NON_VOLATILE)


def _efi_variable(system: System, name: str, vendor: str) -> tuple[int, int] | None:
    """Attributes and value of a variable of one byte."""
    content = system.read_bytes(f"{_EFI_VARIABLES}/{name}-{vendor}")
    if content is None or len(content) < 5:
        return None
    (attributes,) = struct.unpack_from("<I", content)
    return int(attributes), content[4]


def _attribute(system: System, folder: str, name: str) -> str:
    return (system.read(f"{folder}/{name}") or "").strip()
