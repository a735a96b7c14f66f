#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_readiness_info
short_description: What a host says about itself before anything is done to it
version_added: 0.1.0
description:
  - Reads, in one task, what decides whether a host can carry what the site wants of it - distribution, free space,
    weights that are there already, folders with weights, who listens on which port, and what the machine is made of and
    in what state - kernel, CPU, memory, disks, limits, clock, names, proxies, packages, Secure Boot and GPUs.
  - Changes nothing. Needs nothing but Python on the host.
  - The task never fails because of the host. If the host cannot be reached, or its Python cannot run the module, the
    return value RV(problem) says so, and the play goes on to the other hosts. That way
    M(baremetal.llm.site_validation) can report it together with everything else.
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
    platforms: Linux
options:
  request:
    description: What the host is asked about. The filter C(baremetal.llm.readiness_request) makes it of a site.
    type: dict
    default: {}
    suboptions:
      paths:
        description: Folders whose file system's free space is asked for. They need not exist yet.
        type: list
        elements: path
        default: []
      ports:
        description: TCP ports for which the listening process, if any, is asked for.
        type: list
        elements: int
        default: []
      models:
        description: Folders of published weights that may be there already.
        type: list
        elements: path
        default: []
      source_folders:
        description: Folders from which the host will copy weights. Only the sizes of the files are looked at.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: The folder, as the host sees it.
            type: path
            required: true
          files:
            description: The files that the model's lock file names.
            type: list
            elements: dict
            default: []
            suboptions:
              path:
                description: Path of the file, relative to the folder.
                type: str
                required: true
              size:
                description: Size in bytes.
                type: int
                required: true
      names:
        description: Host names that the host must be able to resolve, beside those of its package sources and proxies.
        type: list
        elements: str
        default: []
  wanted:
    description:
      - What the site wants of this host, for whoever evaluates the answer. Handed back as it is in RV(wanted).
      - Host variables can so be used by a task that runs once for all hosts.
    type: dict
    default: {}
author:
  - baremetal.llm contributors (@baremetal-llm)
seealso:
  - module: baremetal.llm.site_validation
"""

EXAMPLES = r"""
- name: Ask the host what preflight needs to know
  baremetal.llm.host_readiness_info:
    request:
      paths: [/srv/models]
      ports: [8000]
      models: [/srv/models/Qwen/Qwen3-0.6B/c1899de289a04d12100db370d81485cdf75e47ca]
  register: __my_readiness
"""

RETURN = r"""
readiness:
  description: What the host says. Empty if RV(problem) is not.
  returned: always
  type: dict
  contains:
    distribution:
      description: V(id) and V(version) as in os-release, V(name) for people.
      type: dict
      sample: {id: debian, version: "12", name: Debian GNU/Linux 12 (bookworm)}
    architecture:
      description: Machine type, as C(uname -m) says it.
      type: str
      sample: x86_64
    kernel:
      description: Release of the running kernel.
      type: str
    host_name:
      description: The host's own name.
      type: str
    python_version:
      description: Version of the Python that ran the module.
      type: str
    systemd:
      description: Whether systemd is the init system.
      type: bool
    root:
      description: Whether the module ran as root. If not, processes of other users stay nameless.
      type: bool
    space:
      description: For each of O(request.paths), its mount point, and the bytes there that an ordinary user gets.
      type: list
      elements: dict
      sample: [{path: /srv/models, mount: /srv, free_bytes: 1000, total_bytes: 2000, free_inodes: 10, read_only: false}]
    listeners:
      description: Listening sockets on O(request.ports).
      type: list
      elements: dict
      sample: [{port: 8000, address: 0.0.0.0, pid: 812, process: python3, unit: jupyter.service}]
    models:
      description: For each of O(request.models), whether the folder is there.
      type: list
      elements: dict
      sample: [{path: /srv/models/org/name/revision, published: true}]
    source_folders:
      description: For each of O(request.source_folders), whether it exists, and which files are not as wanted.
      type: list
      elements: dict
      sample:
        - path: /mnt/share
          exists: true
          problems: [{path: a.safetensors, reason: size, expected: 20, actual: 7}]
    machine:
      description:
        - What the machine is made of, and in what state. V(null) means that nobody could say.
        - C(kernel.next_boot) is the kernel that boots next; C(headers) of an installed one are V(installed),
          V(available) or V(missing), and C(driver) tells whether NVIDIA's module lies there for it.
        - C(disks[].kind) is V(hdd), V(ssd), V(nvme), V(virtual), V(network), V(memory) or V(unknown).
        - C(clock.skew_seconds) is by how much the host's clock is ahead of the controller's, at the least.
        - C(names) has for each name why it cannot be resolved, or an empty text.
        - C(packages.lock) is who keeps others from installing packages.
        - C(key_enrolled) tells whether the firmware knows the key with which DKMS signs modules here.
      type: dict
      sample:
        virtualisation: none
        container: false
        cpu: {model: AMD EPYC 9654, threads: 192, cores: 96, avx: [avx, avx2, avx512f]}
        memory_bytes: 811748818944
        swap_bytes: 0
        swap_used_bytes: 0
        shm_bytes: 405874409472
        limits: {open_files: 524288, memlock_bytes: null, may_raise: true}
        kernel:
          running: 6.1.0-41-amd64
          next_boot: 6.1.0-41-amd64
          installed: [{release: 6.1.0-41-amd64, headers: installed, driver: true}]
        disks: [{path: /srv/models, mount: /srv, file_system: ext4, devices: [{name: nvme0n1, kind: nvme}], kind: nvme}]
        clock: {now: 1795193289.75, synchronised: true, skew_seconds: 0.0}
        proxies: {environment: {https: "http://proxy.example:3128"}, apt: {}, exceptions: [localhost]}
        apt_sources: ["http://deb.example.net/debian"]
        names: {deb.example.net: "", index.example.net: Name or service not known}
        packages: {broken: [], driver_held: [nvidia-driver-580-open], driver_not_held: [], kernel_held: [], lock: null}
        secure_boot: false
        key: ""
        key_enrolled: null
        gpus: [{pci_address: "0000:1b:00.0", pci_device: "10de:2330", pci_class: "0x030200", driver: nvidia}]
        driver_loaded: true
        iommu: passthrough
        acs_redirecting_bridges: []
problem:
  description: Why the host could not be asked. Empty if it could.
  returned: always
  type: str
unreachable_host:
  description: Whether the host could not be reached at all.
  returned: always
  type: bool
wanted:
  description: What was given as O(wanted).
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils.host_readiness import read_readiness

REQUEST = {
    "paths": {"type": "list", "elements": "path", "default": []},
    "ports": {"type": "list", "elements": "int", "default": []},
    "models": {"type": "list", "elements": "path", "default": []},
    "names": {"type": "list", "elements": "str", "default": []},
    "source_folders": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": {"type": "str", "required": True}, "size": {"type": "int", "required": True}},
            },
        },
    },
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "request": {"type": "dict", "default": {}, "options": REQUEST},
            "wanted": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    module.exit_json(
        changed=False,
        readiness=read_readiness(**module.params["request"]),
        problem="",
        unreachable_host=False,
        wanted=module.params["wanted"],
    )


if __name__ == "__main__":
    main()
