#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_parity
short_description: Compare the GPUs, drivers and fabrics of a fleet with what they should be
version_added: 0.1.0
description:
  - Compares what M(baremetal.llm.gpu_info) said about each host with the site's pins, with what the engines need, with
    itself (library against module, package against process, GPU against GPU) and with the other hosts.
  - Every finding has a stable code, a severity, the host, the subject, what was expected and found, the cause and the
    way out. One fault gives one finding. What follows from another finding on the same host is left out.
  - As a gate it fails if there is an error. As a report it never fails. Both run on the controller, read only, and do
    the same in check mode.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Compares in check mode as well, and writes no file.
  diff_mode:
    support: full
    details: Shows what O(dest) and O(baseline_file) would hold.
  idempotent:
    support: full
    details: Files change when the fleet does. They hold no time of the run.
  platform:
    support: full
    platforms: Linux
options:
  facts_variable:
    description:
      - Name under which the task M(baremetal.llm.gpu_info) registered each host's answer. A host without an answer is
        a finding.
      - Exactly one of O(facts_variable) and O(facts) is needed.
    type: str
  facts:
    description: Facts by host in place of registered answers, for example from files. V(null) is a host without any.
    type: dict
  hosts:
    description: Hosts to compare. By default those of the play, including those that failed or were unreachable.
    type: list
    elements: str
  wanted_variable:
    description:
      - Name of a variable of each host that says what is wanted of it, with the keys of O(wanted). These go before
        those of O(wanted).
    type: str
  wanted:
    description:
      - What is wanted of every host. All keys are optional.
      - V(group) is a text. Hosts are compared with the hosts of the same group only.
      - V(pins) is a mapping from subject to value, for example C(driver_version), C(kernel), C(gpu_count),
        C(mig_layout). All subjects are in C(docs/findings.md). A version may be given by its beginning.
      - V(engines) is a list of mappings with C(engine) and C(version), and optionally C(cuda), C(compute_capability),
        C(memory_bytes) per GPU, and C(gpus).
      - V(accepted) is a list of codes, or of C(code:subject), of findings that become accepted notes.
      - V(container_toolkit) is a boolean that says whether the container toolkit must be there.
    type: dict
    default: {}
  baseline_file:
    description:
      - Lock file on the controller. What stands there is expected of a host that has no pin for it; a file that does
        not exist says nothing. Without either, hosts are compared with the majority.
    type: path
  write_baseline:
    description:
      - Write what most hosts have to O(baseline_file), and compare with the majority instead of with the file. Values
        without a majority, and those of pinned hosts, are not written.
    type: bool
    default: false
  mode:
    description: V(gate) fails if there is an error, V(report) never does.
    type: str
    choices: [gate, report]
    default: gate
  dest:
    description:
      - File on the controller that gets the verdict as JSON, with mode 0644. It is written before a gate fails.
    type: path
  return_findings:
    description:
      - Return the verdict as data when a gate fails. Off by default, because C(ansible-playbook) prints what a failed
        task returned as one line, after the report that is meant to be read.
    type: bool
    default: false
author:
  - baremetal.llm contributors (@baremetal-llm)
notes:
  - What is wanted is checked before anything is compared. An unknown subject or code, a driver pin that an engine
    contradicts, and an engine version whose CUDA is not known end the task in both modes.
seealso:
  - module: baremetal.llm.gpu_info
"""

EXAMPLES = r"""
- name: Ask every host
  baremetal.llm.gpu_info:
  register: host_gpu

- name: Go on only if the fleet is what it should be
  baremetal.llm.gpu_parity:
    facts_variable: host_gpu
    wanted:
      pins:
        driver_version: 580.178.04
        gpu_count: 8
      engines:
        - {engine: vllm, version: 0.33.0, memory_bytes: 68719476736}
    baseline_file: "{{ inventory_dir }}/locks/gpu_baseline.yml"
  run_once: true
  any_errors_fatal: true

- name: Write the verdict for CI and go on
  baremetal.llm.gpu_parity:
    facts_variable: host_gpu
    mode: report
    dest: "{{ playbook_dir }}/gpu_parity.json"
  run_once: true
  register: parity

- name: Judge this host alone, after its reboot
  baremetal.llm.gpu_parity:
    facts_variable: host_gpu
    hosts: ["{{ inventory_hostname }}"]
    wanted:
      pins: {driver_version: "580", gpu_count: 8}
"""

RETURN = r"""
verdict:
  description: V(fail) if there is an error, V(warn) if there is a warning, else V(pass).
  returned: when the task succeeds, or with O(return_findings)
  type: str
  sample: pass
hosts:
  description: By host its verdict, and its value of each subject.
  returned: when the task succeeds, or with O(return_findings)
  type: dict
  sample: {gpu-1: {verdict: pass, driver_version: 580.178.04, gpu_count: 8}}
baseline:
  description:
    - By subject the value that hosts should have, who says so (V(pin), V(lock), V(majority), or V(tie) for nobody), and
      how many of the compared hosts have it. Where kinds of hosts are compared apart, the kind stands behind the
      subject in brackets.
  returned: when the task succeeds, or with O(return_findings)
  type: dict
  sample: {driver_version: {value: 580.178.04, by: majority, having: 15, of: 16}}
findings:
  description: What is not as it should be, by host, the worst first.
  returned: when the task succeeds, or with O(return_findings)
  type: list
  elements: dict
  contains:
    code:
      description: Stable code, as in C(docs/findings.md).
      type: str
      sample: reboot-pending
    severity:
      description: V(error), V(warning) or V(note).
      type: str
    host:
      description: The host.
      type: str
    subject:
      description: What it is about.
      type: str
      sample: GPU 3 at 0000:5d:00.0
    expected:
      description: What should be, and where hosts are compared, who says so.
      type: str
    actual:
      description: What is.
      type: str
    cause:
      description: What that means.
      type: str
    action:
      description: The way out.
      type: str
    accepted:
      description: Whether the site accepts it. It is a note then.
      type: bool
"""
