#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_set
short_description: Find the packages that are a host's NVIDIA driver, in exact versions
version_added: 0.1.0
description:
  - Reads the GPUs on the PCI bus, Secure Boot, the installed kernels, the installed packages and what apt offers, and
    decides which packages, in exactly which versions, are the driver of this host - kernel modules or their headers for
    every installed kernel, utilities, and what the fabric between the GPUs needs. They are one set.
  - The set is the newest version of the wanted branch that the source has as a whole. What contradicts itself, or
    what the
    source does not have, is refused with the versions that there are.
  - Changes nothing. The role P(baremetal.llm.nvidia_driver#role) acts on the answer, and asks again afterwards
    whether the
    host is as decided.
  - Needs C(apt-cache), C(apt-get), C(dpkg) and C(dpkg-query) on the host. Must run as root, since apt simulates the
    change.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Reads only, in check mode as well.
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: full
  platform:
    support: full
    platforms: Debian 12 and 13, Ubuntu 22.04, 24.04 and 26.04
options:
  source:
    description:
      - Whose packages. V(canonical) is Ubuntu's archive, V(nvidia) NVIDIA's CUDA repository, V(debian) Debian's
        C(non-free).
      - V(auto) is V(canonical) on Ubuntu and V(nvidia) on Debian, whose own archive has ended branches only.
    type: str
    choices: [auto, canonical, nvidia, debian]
    default: auto
  repository_url:
    description:
      - The URL of a mirror or a local repository, as it stands in apt's sources. Only packages from there are taken.
      - Empty means every archive whose Release file names the source's owner as its origin.
    type: str
    default: ""
  branch:
    description: The driver's branch, three digits. May be empty if O(version) is set.
    type: str
    default: ""
  version:
    description: >-
      The driver's version, V(580.178.04), or a package's whole version. Empty means the newest one of the branch
      that the source has
      as a whole.
    type: str
    default: ""
  flavour:
    description:
      - The kind of kernel modules. V(auto) is V(proprietary) for Maxwell, Pascal and Volta, V(open) for Grace
        Hopper, Blackwell
        and newer, and otherwise V(open) from branch 560 on.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  modules:
    description:
      - Where kernel modules come from. V(prebuilt) are the ones that Canonical built and signed, one package per
        kernel. V(dkms)
        are built on the host. V(auto) is V(prebuilt) where there are any for all installed kernels, else V(dkms).
    type: str
    choices: [auto, prebuilt, dkms]
    default: auto
  fabric:
    description: What connects the GPUs. V(auto) reads it from the PCI bus and the InfiniBand devices.
    type: str
    choices: [auto, none, nvswitch, nvlink5, nvlink5_multinode]
    default: auto
  desktop:
    description: Whether the libraries for a graphical desktop belong to the set.
    type: bool
    default: false
  accept_end_of_life:
    description: Whether a branch that gets no fixes any more is taken.
    type: bool
    default: false
  package_versions:
    description: Exact versions of packages that are not versioned with the driver, such as C(nvlsm).
    type: dict
    default: {}
  ignored_kernels:
    description: Releases of installed kernels that will never be booted, and for which no module is needed.
    type: list
    elements: str
    default: []
  hold_kernel:
    description: Whether the packages that bring new kernels are to be held with the driver.
    type: bool
    default: true
  gpu_settings:
    description: What is wanted of every GPU. The answer has the commands that are missing, and a unit for later boots.
    type: dict
    default: {}
    suboptions:
      power_limit_watts:
        description: Power limit in watts. 0 leaves it as it is.
        type: int
        default: 0
      compute_mode:
        description: Compute mode. Empty leaves it as it is.
        type: str
        choices: ["", default, exclusive_process, prohibited]
        default: ""
      mig_profiles:
        description: >-
          MIG profiles to make on each GPU, such as V(3g.40gb), or V(off) alone. Empty leaves them as they are. A layout
          that differs is destroyed, which fails while something uses it.
        type: list
        elements: str
        default: []
  hardware_only:
    description: Decide only what can be decided without apt. Used before an apt source is added.
    type: bool
    default: false
author:
  - baremetal.llm contributors (@baremetal-llm)
"""

EXAMPLES = r"""
- name: Find the driver of this host
  baremetal.llm.nvidia_driver_set:
    source: nvidia
    branch: "580"
  register: __my_driver

- name: Show what would change
  ansible.builtin.debug:
    msg: "{{ __my_driver.set.changes }}"
"""

RETURN = r"""
set:
  description: The set. Without packages if RV(refusals) is not empty, or with O(hardware_only).
  returned: always
  type: dict
  contains:
    source: {description: The source., type: str}
    branch: {description: The branch., type: int}
    version: {description: "The driver's version, without the packages' revision.", type: str}
    flavour: {description: V(open) or V(proprietary)., type: str}
    modules: {description: V(prebuilt) or V(dkms)., type: str}
    module_names: {description: What the kernel module may be called., type: list, elements: str}
    architectures: {description: Generations of the GPUs., type: list, elements: str}
    parts: {description: Parts beside the driver that the fabric needs., type: list, elements: str}
    packages: {description: Every package with its exact version., type: dict}
    remove: {description: Packages of other drivers that have to go in the same transaction., type: list, elements: str}
    hold: {description: Packages to be held., type: list, elements: str}
    changes: {description: "What would happen to each package, one line each.", type: list, elements: str}
    preferences: {description: Text for apt's preferences., type: str}
    unattended_upgrades: {description: "Text for apt's configuration, which keeps unattended-upgrades away.", type: str}
    notes: {description: What a person may want to know., type: list, elements: str}
refusals:
  description: Why there is no set. Each has code, variable, message, action and hosts.
  returned: always
  type: list
  elements: dict
problems:
  description: What on the host is not as the set wants it, although its packages are there. As RV(refusals).
  returned: always
  type: list
  elements: dict
gpus:
  description: PCI identifiers of the NVIDIA GPUs on the bus.
  returned: always
  type: list
  elements: str
  sample: ["10de:2330"]
fabric:
  description: What connects the GPUs.
  returned: always
  type: str
  sample: nvswitch
secure_boot:
  description: Whether the kernel enforces Secure Boot. Null on a host that booted without EFI.
  returned: always
  type: bool
kernels:
  description: Releases of the installed kernels.
  returned: always
  type: list
  elements: str
source_known:
  description: Whether apt has lists of the source. If not, nothing can be said about its packages.
  returned: always
  type: bool
also:
  description: What else apt would bring or remove for the set.
  returned: always
  type: list
  elements: str
command:
  description: The one command that moves the set. Empty if every package is there.
  returned: always
  type: list
  elements: str
gpu_commands:
  description: The commands that bring the GPUs to O(gpu_settings). Empty if they are as wanted, or no driver runs.
  returned: always
  type: list
  elements: list
gpu_unit:
  description: A systemd unit that does the same at boot. Empty if nothing is wanted.
  returned: always
  type: str
state:
  description: What is there - modules and initramfs of every kernel, the loaded module, missing holds, reasons to
    reboot.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_host import read_set
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import Wanted
from ansible_collections.baremetal.llm.plugins.module_utils.system import System


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "choices": ["auto", "canonical", "nvidia", "debian"], "default": "auto"},
            "repository_url": {"type": "str", "default": ""},
            "branch": {"type": "str", "default": ""},
            "version": {"type": "str", "default": ""},
            "flavour": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
            "modules": {"type": "str", "choices": ["auto", "prebuilt", "dkms"], "default": "auto"},
            "fabric": {
                "type": "str",
                "choices": ["auto", "none", "nvswitch", "nvlink5", "nvlink5_multinode"],
                "default": "auto",
            },
            "desktop": {"type": "bool", "default": False},
            "accept_end_of_life": {"type": "bool", "default": False},
            "package_versions": {"type": "dict", "default": {}},
            "ignored_kernels": {"type": "list", "elements": "str", "default": []},
            "hold_kernel": {"type": "bool", "default": True},
            "gpu_settings": {
                "type": "dict",
                "default": {},
                "options": {
                    "power_limit_watts": {"type": "int", "default": 0},
                    "compute_mode": {
                        "type": "str",
                        "choices": ["", "default", "exclusive_process", "prohibited"],
                        "default": "",
                    },
                    "mig_profiles": {"type": "list", "elements": "str", "default": []},
                },
            },
            "hardware_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    fabric, hardware_only = options.pop("fabric"), options.pop("hardware_only")
    settings = options.pop("gpu_settings")
    options["ignored_kernels"] = tuple(options["ignored_kernels"])
    options["package_versions"] = {name: str(version) for name, version in options["package_versions"].items()}
    module.exit_json(changed=False, **read_set(System(), Wanted(**options), fabric, hardware_only, settings))


if __name__ == "__main__":
    main()
