#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_fleet
short_description: Write which models fit on which hosts, as text, JSON and one page of HTML
version_added: 0.1.0
description:
  - Plans every model of a site, and sizes of models from 1B to 1T parameters with weights of 16, 8, 4 and 2 bits, for
    the GPUs of every host of the play, and every deployment for its own hosts.
  - Prints a table, and writes a page and beside it the same as JSON. The page needs nothing else and fetches nothing.
  - Hosts with the same GPUs are one column. Hosts that are not there yet are planned by the GPUs that they declare.
  - Runs on the controller, once, and touches no host.
extends_documentation_fragment:
  - baremetal.llm.attributes
  - baremetal.llm.planned_hosts
attributes:
  check_mode:
    support: full
    details: Prints the table, and writes no file.
  diff_mode:
    support: full
    details: Shows the data before and after.
  idempotent:
    support: full
    details: The files are written each time, with the time of the run. They are changed when they say something else.
  platform:
    support: full
    platforms: Linux
options:
  path:
    description: The page, on the controller, ending in C(.html). The data is beside it, ending in C(.json).
    type: path
    required: true
  models:
    description: The site's models, as in C(llm_models). A model without a lock file is a row that says so.
    type: list
    elements: dict
    required: true
  deployments:
    description: The site's deployments, as in C(llm_deployments). They are judged as the plan gate would.
    type: list
    elements: dict
    default: []
  tiers:
    description: Whether sizes of models are planned beside the site's own.
    type: bool
    default: true
  context_length:
    description:
      - Tokens of a request, prompt and answer together. By default the longest context that fits.
    type: int
  concurrency:
    description: How many requests of full length are to have room at once. By default one.
    type: int
  title:
    description: Heading of the page.
    type: str
    default: What fits where
  mode:
    description: Permissions of both files, in octal and in quotes.
    type: str
    default: '0644'
author:
  - baremetal.llm contributors (@baremetal-llm)
seealso:
  - module: baremetal.llm.serving_plan
  - module: baremetal.llm.serving_gate
"""

EXAMPLES = r"""
- name: Read the GPUs
  baremetal.llm.gpu_info:
  register: host_gpu

- name: Say what fits where for sixteen requests of 8192 tokens at once
  baremetal.llm.serving_fleet:
    path: "{{ inventory_dir }}/reports/plan.html"
    models: "{{ llm_models }}"
    deployments: "{{ llm_deployments }}"
    context_length: 8192
    concurrency: 16
    facts_variable: host_gpu
  run_once: true
"""

RETURN = r"""
path:
  description: The page, on the controller.
  returned: success
  type: str
  sample: /srv/site/reports/plan.html
json_path:
  description: The data, on the controller.
  returned: success
  type: str
  sample: /srv/site/reports/plan.json
headline:
  description: The outcome in one sentence.
  returned: success
  type: str
  sample: 2 models against 50 of 50 hosts; each fits somewhere.
findings:
  description: What the plan gate would say of the deployments.
  returned: success
  type: list
  elements: dict
"""
