#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: site_validation
short_description: Report everything that is wrong with a site at once
version_added: 0.1.0
description:
  - Checks what a site's inventory says, and what its hosts answered to M(baremetal.llm.host_readiness_info), and fails
    once with the complete list of what would stop the site from being served.
  - A finding is a blocker or a warning. Warnings are shown and do not fail the task. A code in C(preflight_accept) of a
    host, which M(baremetal.llm.host_readiness_info) hands on in its O(ignore:wanted), is neither for that host.
  - Every finding has a stable code, the variable, the hosts it is about, what was found and what was expected, and the
    way out. No finding repeats a key, a hash of a key, an engine option's or an environment variable's value.
  - Runs on the controller and changes nothing. Run it once, after every host was asked.
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
  deployments:
    description: The site's deployments, as in C(llm_deployments). Any type is taken, since a wrong one is a finding.
    type: raw
    required: true
  models:
    description: The site's models, as in C(llm_models). Lock files are read on the controller.
    type: raw
    required: true
  tenants:
    description: The site's tenants, as in C(llm_tenants).
    type: raw
    required: true
  engine_key_length:
    description: Number of characters of the key between gateway and engines. The key itself is not wanted here.
    type: int
    required: true
  model_root:
    description: Folder for published weights on the hosts.
    type: path
    default: /srv/models
  gateway_port:
    description: Port on which the gateways listen for HTTPS.
    type: int
    default: 443
  hub_token_file:
    description: File on the controller with a token of the Hub, as in C(llm_hub_token_file). Empty if there is none.
    type: path
    default: ""
  readiness_variable:
    description: Name under which the task M(baremetal.llm.host_readiness_info) registered each host's answer.
    type: str
    required: true
  return_findings:
    description:
      - Return RV(findings) as data when the task fails. Off by default, because C(ansible-playbook) prints what a
        failed task returned as one line, after the report that is meant to be read.
    type: bool
    default: false
author:
  - baremetal.llm contributors (@baremetal-llm)
notes:
  - The hosts that are looked at are those of the play, and the groups those of the whole inventory.
seealso:
  - module: baremetal.llm.host_readiness_info
"""

EXAMPLES = r"""
- name: Report everything that stands in the way
  baremetal.llm.site_validation:
    deployments: "{{ preflight_deployments }}"
    models: "{{ preflight_models }}"
    tenants: "{{ preflight_tenants }}"
    engine_key_length: "{{ preflight_engine_api_key | length }}"
    readiness_variable: __preflight_readiness
  run_once: true
  any_errors_fatal: true
"""

RETURN = r"""
findings:
  description: What was found. Empty when the task fails, unless O(return_findings).
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: Stable code of the kind of finding, as in C(docs/findings.md).
      type: str
      sample: port-duplicate
    variable:
      description: Where the wrong value is written.
      type: str
      sample: llm_deployments[1].port
    hosts:
      description: Hosts it is about. Empty if it is about the whole site.
      type: list
      elements: str
      sample: [gpu-1]
    message:
      description: What was found and what was expected.
      type: str
    action:
      description: The way out.
      type: str
    severity:
      description: V(error) fails the task, V(warning) does not, and V(accepted) was accepted by the site.
      type: str
hosts_checked:
  description: Number of hosts that answered.
  returned: always
  type: int
"""
