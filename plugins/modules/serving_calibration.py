#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_calibration
short_description: Read what a running engine said about its memory, and compare it with its plan
version_added: 0.1.0
description:
  - Reads the start of an engine out of the journal of its unit, or out of a text, and returns what it said about
    memory. The sentences of vLLM from 0.6 on are known, those of its CPU build included.
  - With O(plan) it returns the differences as RV(differences). RV(measured) under O(key) is what
    M(baremetal.llm.serving_plan) takes as O(baremetal.llm.serving_plan#module:calibration) for the next plan.
  - Reads only.
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
    platforms: Linux; systemd for O(unit)
options:
  unit:
    description:
      - Unit whose journal is read, for example C(vllm@chat.service). Its present run counts, or its last one.
      - Exactly one of O(unit) and O(log) is needed.
    type: str
  log:
    description: The log itself. Of several starts in it the last one counts that came as far as its KV cache.
    type: str
  plan:
    description: What M(baremetal.llm.serving_plan) returned for this deployment on this host.
    type: dict
  key:
    description:
      - The deployment's key in a calibration, as M(baremetal.llm.serving_gate) returns it. The version that was planned
        for is taken from it.
    type: str
    default: ''
author:
  - baremetal.llm contributors (@baremetal-llm)
notes:
  - An engine that runs with other settings or in another version than was planned is no measure of the plan. The task
    succeeds, RV(mismatches) says what differs, and RV(measured) is empty.
seealso:
  - module: baremetal.llm.serving_plan
"""

EXAMPLES = r"""
- name: Compare the engine with its plan
  baremetal.llm.serving_calibration:
    unit: vllm@chat.service
    plan: "{{ gate.plans[inventory_hostname].chat }}"
    key: "{{ gate.keys[inventory_hostname].chat }}"
  register: chat_calibration

- name: Read a log that somebody sent
  baremetal.llm.serving_calibration:
    log: "{{ lookup('ansible.builtin.file', 'boot.log') }}"
"""

RETURN = r"""
boot:
  description:
    - What the engine said, V(null) where it did not. Memory is in bytes of the GPU with the least left, as exact as two
      decimals of a GiB are.
  returned: success
  type: dict
  sample: {version: 0.32.0, weights: 16094101452, kv_cache: 4090956349, kv_cache_tokens: 31232, failure: ''}
differences:
  description:
    - For each quantity that both name what was C(planned) and C(measured), in bytes, tokens or requests, the difference
      as a C(share) of what was measured, and whether that was C(expected) by the plan's interval.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: weights, planned: 16060522496, measured: 16094101452, share: -0.0021, expected: null}
mismatches:
  description: Why the engine is not a start of what was planned, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ['the engine runs with max_num_seqs 8, planned was 16']
measured:
  description: The engine's overhead in bytes, as a calibration keeps it. Empty if there is nothing to learn.
  returned: success
  type: dict
  sample: {weights: 16094101452, activations: 2223934065, non_torch: 375809638, non_kv: 18696032640}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils.serving_calibration import calibrate
from ansible_collections.baremetal.llm.plugins.module_utils.unit_log import UnitLogError, unit_log
from ansible_collections.baremetal.llm.plugins.module_utils.vllm_boot_log import BootLogError, parse


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str"},
            "log": {"type": "str"},
            "plan": {"type": "dict"},
            "key": {"type": "str", "default": "", "no_log": False},
        },
        mutually_exclusive=[["unit", "log"]],
        required_one_of=[["unit", "log"]],
        supports_check_mode=True,
    )
    arguments = module.params
    try:
        boot = parse(unit_log(arguments["unit"]) if arguments["log"] is None else arguments["log"])
        found = calibrate(boot, arguments["plan"], arguments["key"])
    except (BootLogError, UnitLogError) as error:
        module.fail_json(msg=f"{arguments['unit'] or 'log'}: {error}")
    module.exit_json(changed=False, boot=boot.as_dict(), **found)


if __name__ == "__main__":
    main()
