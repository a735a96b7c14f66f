# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options that say where the hosts of a play tell what they can serve; `serving_hosts.HOST_OPTIONS` declares them."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  facts_variable:
    description: Name under which the task M(baremetal.llm.gpu_info) registered each host's answer.
    type: str
    required: true
  memory_variable:
    description:
      - Name under which M(ansible.builtin.slurp) registered C(/proc/meminfo) of hosts without a GPU. Without it their
        memory is not looked at.
    type: str
    default: ''
  calibration_path:
    description:
      - File on the controller with what was measured on running engines, as the playbook C(calibrate) writes it. A file
        that does not exist says nothing.
    type: path
  accelerator_variable:
    description: Name of the variable of a host that is V(none) where it has no GPU.
    type: str
    default: llm_accelerator
  planned_gpus_variable:
    description: Name of the variable of a host that declares its GPUs, where it is not there yet to be asked.
    type: str
    default: llm_planned_gpus
  engine_version_variable:
    description: Name of the variable of a host with the version of vLLM; by default the version that the role pins.
    type: str
    default: vllm_version
  engine_defaults_variable:
    description: Name of the variable of a host with options for all of its engines. They count as said.
    type: str
    default: vllm_engine_defaults
  environment_variable:
    description: Name of the variable of a host with the environment of all of its engines.
    type: str
    default: vllm_environment
"""
