#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_unit
short_description: Start, restart and stop the systemd unit of an engine, and know what it was started with
version_added: 0.1.0
description:
  - Brings one unit to O(state) and waits until it is there. For a unit that becomes active only once its engine
    answers, that is until requests are served.
  - Remembers under C(/var/lib/baremetal-llm/units) the O(revision) that a unit was last started with, so that a unit
    whose configuration changed is restarted even when an earlier run was interrupted between the change and the
    restart.
  - Reloads systemd's units only when their files changed.
  - A unit that ran into its start limit is released before it is started.
  - When the unit does not reach its state, the error carries the last lines of its journal.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Also where the unit is not installed yet.
  diff_mode:
    support: full
    details: Shows the unit's state before and after.
  idempotent:
    support: full
  platform:
    support: full
    platforms: Linux with systemd
options:
  unit:
    description: Full name of the unit, such as C(vllm@chat.service).
    type: str
    required: true
  state:
    description: Whether the unit runs.
    type: str
    choices: [started, stopped]
    default: started
  enabled:
    description: Whether the unit starts with the host. Left alone when not given.
    type: bool
  revision:
    description:
      - Any text that changes with everything the unit depends on, usually a digest.
      - A running unit that was started with another one is out of date.
      - Left out, a running unit is never out of date.
    type: str
    default: ''
  restart:
    description:
      - Whether a running unit that is out of date is restarted.
      - V(false) only reports it as RV(restart_required), so that a task of its own can restart the replicas of a
        deployment one host after the other.
    type: bool
    default: true
  journal_lines:
    description: How many lines of the unit's journal an error carries.
    type: int
    default: 40
author:
  - baremetal.llm contributors (@baremetal-llm)
"""

EXAMPLES = r"""
- name: Start the engine where it does not run yet
  baremetal.llm.engine_unit:
    unit: vllm@chat.service
    enabled: true
    revision: "{{ 'my settings' | hash('sha256') }}"
    restart: false
  register: engine

- name: Restart it where its configuration changed, one host at a time
  baremetal.llm.engine_unit:
    unit: vllm@chat.service
    revision: "{{ 'my settings' | hash('sha256') }}"
  when: engine.restart_required
  throttle: 1
"""

RETURN = r"""
actions:
  description: The systemctl verbs that were used, or would be in check mode, in their order.
  returned: success
  type: list
  elements: str
  sample: [daemon-reload, enable, start]
restart_required:
  description: The unit runs with another revision and O(restart) is false.
  returned: success
  type: bool
active_state:
  description: What systemd calls the unit's state at the end.
  returned: success
  type: str
  sample: active
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils.engine_unit import UnitError, Wanted, ensure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
            "enabled": {"type": "bool"},
            "revision": {"type": "str", "default": ""},
            "restart": {"type": "bool", "default": True},
            "journal_lines": {"type": "int", "default": 40},
        },
        supports_check_mode=True,
    )
    # In English whatever the host speaks.
    module.run_command_environ_update = {"LC_ALL": "C.UTF-8"}
    try:
        outcome = ensure(
            lambda arguments: module.run_command(list(arguments)), Wanted(**module.params), module.check_mode
        )
    except UnitError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(outcome.actions),
        actions=outcome.actions,
        restart_required=outcome.restart_required,
        active_state=outcome.after.get("ActiveState", ""),
        diff={"before": outcome.before, "after": outcome.after},
    )


if __name__ == "__main__":
    main()
