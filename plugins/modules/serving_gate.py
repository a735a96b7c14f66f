#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_gate
short_description: Plan every deployment on every host, and fail before anything is written if one cannot fit
version_added: 0.1.0
description:
  - Plans each deployment of a site for the GPUs that it may use on each host of the play, as
    M(baremetal.llm.serving_plan) does, from the model's lock file, and fails once with everything that cannot fit and
    what would.
  - Deployments that use the same GPU must fit on it together.
  - On hosts without GPUs there is no GPU memory to plan. It is only asked whether the host's memory holds the weights
    and the KV cache, as far as C(VLLM_CPU_KVCACHE_SPACE) says how large it is to be.
  - A model whose lock file does not hold its configuration is not judged. That is a warning.
  - Returns which engine options follow for what the site left open. Runs on the controller, once, and reads only.
extends_documentation_fragment:
  - baremetal.llm.attributes
  - baremetal.llm.planned_hosts
attributes:
  check_mode:
    support: full
    details: In check mode a host that shows no GPU yet is a warning, since the run would install its driver.
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: full
  platform:
    support: full
    platforms: Linux
options:
  deployments:
    description: The site's deployments, as in C(llm_deployments).
    type: list
    elements: dict
    required: true
  models:
    description: The site's models, as in C(llm_models). Lock files are read on the controller.
    type: list
    elements: dict
    required: true
  return_findings:
    description:
      - Return the findings as data when the task fails. Off by default, because C(ansible-playbook) prints what a
        failed task returned as one line, after the report that is meant to be read.
    type: bool
    default: false
author:
  - baremetal.llm contributors (@baremetal-llm)
seealso:
  - module: baremetal.llm.serving_plan
  - module: baremetal.llm.serving_fleet
"""

EXAMPLES = r"""
- name: Read the GPUs
  baremetal.llm.gpu_info:
  register: host_gpu

- name: Go on only with deployments that fit
  baremetal.llm.serving_gate:
    deployments: "{{ llm_deployments }}"
    models: "{{ llm_models }}"
    facts_variable: host_gpu
  register: gate
  run_once: true
  any_errors_fatal: true
"""

RETURN = r"""
plans:
  description: By host and deployment what M(baremetal.llm.serving_plan) returns.
  returned: when the task succeeds, or with O(return_findings)
  type: dict
  sample: {gpu-1: {chat: {fits: true, max_concurrency: 3.48}}}
settings:
  description: By host and deployment the engine options that the site left open and the plan chose.
  returned: when the task succeeds, or with O(return_findings)
  type: dict
  sample: {gpu-1: {chat: {max_model_len: 131072, max_num_seqs: 1024, tensor_parallel_size: 1}}}
calibration_keys:
  description: By host and deployment the key under which a calibration keeps what was measured.
  returned: when the task succeeds, or with O(return_findings)
  type: dict
  sample: {gpu-1: {chat: org/model|vllm|0.33.0|NVIDIA L40S|tp1|pp1|seqs256|tokens2048|graphs}}
findings:
  description: What cannot fit, and what could not be judged; each with its code, variable, hosts, message and way out.
  returned: when the task succeeds, or with O(return_findings)
  type: list
  elements: dict
"""
