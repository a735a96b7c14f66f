# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything about a host's GPUs and their driver, in the shape of `gpu_facts`. Reads only, and never fails."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import gpu_info_boot, gpu_info_host, pci
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import FORMAT_VERSION, HostFacts
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_info_nvml import read_nvml
from ansible_collections.baremetal.llm.plugins.module_utils.system import System


def read_host(system: System, nvml: Any) -> HostFacts:
    """The facts about a host. *nvml*: the module `pynvml`, or `None` where it is not installed."""
    problems: list[str] = []
    pci_gpus = pci.read_pci_gpus(system)
    asked = read_nvml(nvml, system, pci_gpus)
    kernels = gpu_info_boot.installed_kernels(system)
    next_boot, next_boot_rule = gpu_info_boot.next_boot_kernel(system, kernels)
    if not next_boot and system.list("/boot"):
        problems.append("Nothing in /boot tells which kernel boots next.")
    platform = gpu_info_host.read_platform(system, pci_gpus, [gpu["name"] for gpu in asked.gpus], next_boot_rule)
    services, upgrade_timer = gpu_info_host.read_services(system, problems)
    platform["automatic_upgrades"] = gpu_info_host.read_automatic_upgrades(system, upgrade_timer)
    return {
        "format_version": FORMAT_VERSION,
        "collected_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "platform": platform,
        "nvml": asked.nvml,
        "gpus": asked.gpus,
        "lost_gpus": asked.lost_gpus,
        "p2p": asked.p2p,
        "pci_gpus": pci_gpus,
        "loaded_module": gpu_info_host.read_loaded_module(system, pci_gpus),
        "kernel_modules": gpu_info_host.read_kernel_modules(system, kernels, next_boot, problems),
        "packages": gpu_info_host.read_packages(system, problems),
        "services": services,
        "cdi": gpu_info_host.read_cdi(system),
        "cuda_toolkit_version": gpu_info_host.read_cuda_toolkit_version(system),
        "xid_events": gpu_info_host.read_xid_events(system, problems),
        "problems": [*asked.problems, *problems],
    }
