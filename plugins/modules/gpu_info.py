#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: everything about a host's GPUs and their driver."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Everything about a host's NVIDIA GPUs and their driver
version_added: 0.1.0
author:
  - baremetal.llm contributors (@baremetal-llm)
description:
  - Asks the driver's management library (NVML) about every GPU, and the host about its kernel modules, packages,
    services, CDI specifications and kernel log. Reads only.
  - Never fails for want of a GPU, a driver, a permission or a command. What cannot be known is V(null), what is known
    to be none is an empty list, and what should have been readable and was not is a sentence in RV(gpu.problems).
  - Run it as root. Other users see less, for example not the configuration spaces of PCI bridges.
  - Which kernel boots next is read from the boot loader's own files, and RV(gpu.platform.next_boot_rule) says from
    which. A host that boots from the network has none; then no kernel is marked.
  - The result is compared with what a site wants, and with other hosts, by the module M(baremetal.llm.gpu_parity).
options:
  nvml:
    description:
      - Whether to ask NVML. With V(false) nothing is known of the GPUs but what the PCI bus shows. For a host on which
        the driver hangs, so that every question to it would hang, too.
    type: bool
    default: true
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Reads in check mode, too.
  diff_mode:
    support: none
  idempotent:
    support: full
  platform:
    support: full
    platforms: posix
requirements:
  - nvidia-ml-py (the module finds it in the tool environment that the role P(baremetal.llm.host_tools#role) makes).
    Without it RV(gpu.nvml.error) is V(BINDING_NOT_FOUND) and the rest is there all the same.
seealso:
  - module: baremetal.llm.gpu_parity
"""

EXAMPLES = r"""
- name: Read everything about the GPUs
  baremetal.llm.gpu_info:
  become: true
  register: host_gpu

- name: Show each GPU with its memory errors
  ansible.builtin.debug:
    msg: "{{ item.pci_address }} {{ item.name }}: {{ item.ecc.uncorrected_aggregate }} uncorrected errors"
  loop: "{{ host_gpu.gpu.gpus }}"
  loop_control:
    label: "{{ item.uuid }}"

- name: Stop where a GPU fell off the bus
  ansible.builtin.assert:
    that: host_gpu.gpu.lost_gpus == []
    fail_msg: "Lost: {{ host_gpu.gpu.lost_gpus }}"
"""

RETURN = r"""
gpu:
  description:
    - What is known of the host. Its whole shape, with a comment on each field, stands in
      C(plugins/module_utils/gpu_facts.py) of the collection.
  returned: always
  type: dict
  contains:
    format_version:
      description: Version of this shape.
      type: int
      sample: 1
    collected_at:
      description: When this was read, in UTC, as in RFC 3339.
      type: str
      sample: '2026-11-20T16:52:29Z'
    platform:
      description:
        - What the GPUs sit in. Architecture, running kernel, distribution, boot id, virtualisation, Secure Boot, IOMMU,
          the PCI bridges that redirect traffic between GPUs, fabric generation, automatic upgrades, next boot rule.
      type: dict
      sample: {kernel: 6.8.0-139-generic, secure_boot: false, iommu: passthrough, fabric_generation: nvswitch,
        next_boot_rule: grub}
      contains:
        next_boot_rule:
          description:
            - What told which kernel boots next. V(grub), V(systemd-boot), V(link) (C(/vmlinuz)), or an empty text.
          type: str
          sample: grub
    nvml:
      description: The driver's management library, and the functions that this driver or these GPUs do not support.
      type: dict
      contains:
        error:
          description:
            - Empty if NVML started, else the name of its error, for example V(DRIVER_NOT_LOADED), V(LIBRARY_NOT_FOUND),
              V(LIB_RM_VERSION_MISMATCH). V(BINDING_NOT_FOUND) if the host has no nvidia-ml-py, V(NOT_ASKED) with
              O(nvml=false).
          type: str
          sample: ''
        binding_version:
          description: Version of nvidia-ml-py.
          type: str
          sample: 13.615.71
        library_version:
          description: Version of the library on disk, with the major version of its CUDA before that of the driver.
          type: str
          sample: 13.580.178.04
        driver_version:
          description: Version of the driver.
          type: str
          sample: 580.178.04
        cuda_version:
          description: The newest CUDA that the driver runs.
          type: str
          sample: '13.0'
        not_supported:
          description: Functions of NVML that were asked and are not supported.
          type: list
          elements: str
          sample: [nvmlDeviceGetRetiredPages]
    gpus:
      description:
        - One entry for each GPU that answers. Index, UUID, PCI address and device, name, architecture, compute
          capability, memory (bytes), VBIOS, GSP firmware, ECC modes and counts, remapped rows, retired pages, MIG,
          persistence, compute mode, power limits (watts), clocks event reasons, temperatures (degrees Celsius), PCIe
          link now and possible, NVLinks, fabric, NUMA node, CPU affinity, recovery action, number of compute processes.
      type: list
      elements: dict
      sample:
        - {index: 0, uuid: GPU-00000000-0000-0000-0000-000000000000, pci_address: '0000:53:00.0',
           name: NVIDIA H100 80GB HBM3, compute_capability: '9.0', memory_total_bytes: 85520809984}
    lost_gpus:
      description: GPUs that NVML counts and that do not answer, with the name of the error.
      type: list
      elements: dict
      sample: [{index: 5, pci_address: '0000:a8:00.0', error: GPU_IS_LOST}]
    p2p:
      description: For each pair of GPUs, whether they reach each other's memory, and what lies between them.
      type: list
      elements: dict
      sample: [{first: 0, second: 1, read: ok, write: ok, nvlink: ok, topology: node}]
    pci_gpus:
      description: NVIDIA GPUs on the PCI bus, whether a driver knows them or not.
      type: list
      elements: dict
      sample: [{pci_address: '0000:53:00.0', pci_device: '10de:2330', pci_class: '0x030200', driver: nvidia}]
    loaded_module:
      description: The NVIDIA module in the running kernel, its flavour, and other drivers that own NVIDIA GPUs.
      type: dict
      sample: {loaded: true, version: 580.178.04, flavour: open, rivals: []}
    kernel_modules:
      description:
        - For each installed kernel, the module on disk, its flavour and signer, whether headers are installed, the
          state in DKMS, and whether that kernel runs now or boots next.
      type: list
      elements: dict
      sample:
        - {kernel: 6.8.0-139-generic, running: true, next_boot: true, version: 580.178.04, flavour: open,
           headers_installed: true, dkms_state: installed}
    packages:
      description: Packages of the driver, the fabric, CUDA and the container toolkit, with dpkg's state and holds.
      type: list
      elements: dict
      sample: [{name: nvidia-fabricmanager, version: 580.178.04-1, state: installed, held: true, architecture: amd64}]
    services:
      description: The driver's services as systemd sees them, and the version of the process that runs.
      type: list
      elements: dict
      sample: [{name: nvidia-fabricmanager, active_state: active, running_version: 580.178.04, restarts: 0}]
    cdi:
      description: CDI specifications for GPUs, with the driver's version that they mount. C(modified_at) is in seconds.
      type: list
      elements: dict
      sample: [{path: /var/run/cdi/nvidia.yaml, modified_at: 1795000000.0, driver_version: 580.178.04, devices: [all]}]
    cuda_toolkit_version:
      description: Version of the CUDA toolkit at C(/usr/local/cuda); empty if there is none.
      type: str
      sample: ''
    xid_events:
      description: The driver's errors in the kernel log since the host booted; V(null) if the log could not be read.
      type: list
      elements: dict
      sample:
        - {xid: 79, pci_address: '0000:a8:00.0', count: 1, last_seen_seconds: 5025.5,
           message: GPU has fallen off the bus.}
    problems:
      description: What should have been readable and was not, one sentence each.
      type: list
      elements: str
      sample: []
"""

import importlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils._respawn import use_tool_environment
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_info import read_host
from ansible_collections.baremetal.llm.plugins.module_utils.system import System


def main() -> None:
    module = AnsibleModule(argument_spec={"nvml": {"type": "bool", "default": True}}, supports_check_mode=True)
    binding = None
    if module.params["nvml"]:
        use_tool_environment(module, "pynvml")
        try:
            binding = importlib.import_module("pynvml")
        except ImportError:
            binding = None
    facts = read_host(System(), binding)
    if not module.params["nvml"]:
        facts["nvml"]["error"] = "NOT_ASKED"
    module.exit_json(changed=False, gpu=facts)


if __name__ == "__main__":
    main()
