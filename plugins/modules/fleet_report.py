#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_report
short_description: Write what is known of a GPU fleet as one page, and as data
version_added: 0.1.0
description:
  - Writes one HTML page on the controller that needs no other file and no network, and a JSON file beside it that says
    the same. At the top the verdict and the reasons for it, then the findings with their actions, where hosts differ,
    and one row for each host with its versions, the values that have a finding marked.
  - Judges no GPU itself. What is marked was found by M(baremetal.llm.gpu_parity). A fleet is called good only if every
    host answered, all were compared, and nothing else in the report failed.
  - Runs on the controller, for all hosts of the play. Run it once, after every host was asked.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Makes the report and writes nothing.
  diff_mode:
    support: full
    details: Shows the change of the data, without the time and without what is measured anew each time.
  idempotent:
    support: partial
    details:
      - The files are written each time, since a reader must see when the fleet was last verified. RV(ignore:changed)
        is whether they say something else than before, apart from that time and from measured seconds.
  platform:
    support: full
    platforms: Linux
options:
  path:
    description:
      - Where the page goes, on the controller. The name ends in C(.html); the data goes beside it, with C(.json) in its
        place. A relative path begins at the playbook's folder. Missing folders are made.
    type: path
    required: true
  hosts:
    description:
      - Hosts that the report is about. By default all of the play, those that could not be reached included.
    type: list
    elements: str
  facts_variable:
    description: Name under which the task M(baremetal.llm.gpu_info) registered each host's answer.
    type: str
    required: true
  parity:
    description:
      - What M(baremetal.llm.gpu_parity) returned. Without it the report says that nothing was compared.
    type: dict
    default: {}
  columns:
    description: Further columns of the table of hosts, for example the versions of engines.
    type: list
    elements: dict
    default: []
    suboptions:
      title:
        description: Heading of the column.
        type: str
        required: true
      values:
        description: Value of each host that has one.
        type: dict
        required: true
      expected:
        description: What the value should be. A host with another one is marked, and has a warning.
        type: raw
  sections:
    description: What else was verified, each a table below the hosts.
    type: list
    elements: dict
    default: []
    suboptions:
      title:
        description: Heading of the section.
        type: str
        required: true
      description:
        description: One or two sentences below it.
        type: str
        default: ''
      empty:
        description: What is said if there are no rows.
        type: str
        default: Nothing.
      columns:
        description:
          - Headings of the columns. A mapping with C(title) and C(measured=true) in place of a text says that the
            values differ from run to run, which is no change.
        type: list
        elements: raw
        required: true
      rows:
        description:
          - Lists of values, or mappings with C(cells) and C(state). The state is V(ok), V(warning) or V(error); the
            latter two are part of the verdict.
        type: list
        elements: raw
        required: true
  endpoint_variables:
    description:
      - Names under which tasks registered what M(baremetal.llm.openai_endpoint_info) returned, in a loop or not, on any
        host of the inventory. They become a section with one row for each endpoint.
    type: list
    elements: str
    default: []
  secrets:
    description:
      - Texts of at least 6 characters that are replaced wherever they appear. Nothing secret is wanted in the other
        options; this is for error messages that repeat what they should not. What looks like a key, a bearer token or a
        password in an address is replaced in any case.
    type: list
    elements: str
    default: []
  title:
    description: Heading of the page.
    type: str
    default: GPU fleet
  mode:
    description: Permissions of both files, in octal and in quotes.
    type: str
    default: '0640'
author:
  - baremetal.llm contributors (@baremetal-llm)
notes:
  - The task succeeds whatever the verdict is. To fail on it, use RV(verdict) in the next task.
seealso:
  - module: baremetal.llm.gpu_info
  - module: baremetal.llm.gpu_parity
  - module: baremetal.llm.openai_endpoint_info
"""

EXAMPLES = r"""
- name: Ask every host
  baremetal.llm.gpu_info:
  register: __verify_gpu

- name: Write the fleet report
  baremetal.llm.fleet_report:
    path: "{{ inventory_dir }}/reports/fleet.html"
    facts_variable: __verify_gpu
    parity: "{{ __verify_parity }}"
    columns:
      - title: vLLM
        values: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'vllm_version'))) }}"
        expected: 0.33.0
    endpoint_variables: [__verify_replicas]
    secrets: ["{{ llm_engine_api_key }}"]
  register: __verify_report
  run_once: true

- name: Fail if the fleet is not as it should be
  ansible.builtin.assert:
    that: __verify_report.verdict in ['pass', 'warn']
    fail_msg: "{{ __verify_report.msg }}"
  run_once: true
"""

RETURN = r"""
path:
  description: The page, on the controller.
  returned: success
  type: str
  sample: /srv/site/reports/fleet.html
json_path:
  description: The data, on the controller.
  returned: success
  type: str
  sample: /srv/site/reports/fleet.json
verdict:
  description:
    - V(fail) if a finding is an error, a host did not answer, or a row of a section failed; V(warn) if there are
      warnings only; V(unknown) if not everything was compared; V(pass) if all is well.
  returned: success
  type: str
  sample: pass
headline:
  description: The verdict in one sentence.
  returned: success
  type: str
  sample: All 200 hosts are as they should be.
reasons:
  description: Why the verdict is not a better one, and what was noted, one sentence each.
  returned: success
  type: list
  elements: str
  sample: [2 kinds of error on 18 hosts.]
"""
