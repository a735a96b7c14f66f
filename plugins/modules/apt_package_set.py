#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_package_set
short_description: Keep packages of apt together at one version, and held
version_added: 0.1.0
description:
  - Brings several packages to one version in a single transaction, up or down, and holds them, so that neither
    C(apt full-upgrade) nor C(unattended-upgrades) nor another package moves a part of the set.
  - apt is asked first. If it would remove something else, or change something else that is held, or if the sources do
    not have the version, the module fails, says what there is, and has changed nothing.
  - When something has to move, the lists of apt are fetched first, those of O(source_file) only.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: The lists of apt stay as they are. Where they lack the version, they are fetched into a temporary folder.
  diff_mode:
    support: full
    details: Lists the packages of the set, their versions and holds before and after.
  idempotent:
    support: full
  platform:
    support: full
    platforms: Debian, Ubuntu
options:
  packages:
    description: Names of the packages that have to be installed.
    type: list
    elements: str
    required: true
  version:
    description:
      - Version of all of them, either as apt writes it (V(1.20.0-1)) or without epoch and revision (V(1.20.0)), which
        means the newest revision of it that the sources have.
    type: str
    required: true
  companions:
    description:
      - Patterns of names of packages that belong to the set when they are there, such as C(*-13-4).
      - What apt brings along and matches is taken at O(version) if the sources have it at that version, else at the
        version that apt chooses. Meta packages that ask for at least a version need this.
      - Installed packages that match are held like O(packages).
    type: list
    elements: str
    default: []
  source_file:
    description:
      - File in C(/etc/apt/sources.list.d) that the packages come from. Only its lists are fetched.
      - Without it all lists are fetched.
    type: path
  source_pending:
    description:
      - Whether apt cannot know the source yet, because an earlier task would only have made it (check mode).
      - In check mode the module then says what it would install, instead of failing because nobody has it. Without
        O(source_file) only if apt knows none of the packages at all.
    type: bool
    default: false
  version_setting:
    description: Name of the variable that O(version) comes from, for messages.
    type: str
    default: version
  timeout_seconds:
    description: Seconds to wait for another program that uses apt, and for each fetch of lists.
    type: int
    default: 900
author:
  - baremetal.llm contributors (@baremetal-llm)
"""

EXAMPLES = r"""
- name: Install the container toolkit as one set
  baremetal.llm.apt_package_set:
    packages:
      - nvidia-container-toolkit
      - nvidia-container-toolkit-base
      - libnvidia-container-tools
      - libnvidia-container1
    version: 1.20.0

- name: Install a CUDA toolkit with everything that belongs to it
  baremetal.llm.apt_package_set:
    packages: [cuda-toolkit-13-4]
    version: 13.4.1
    companions: ["*-13-4", "*-13-4-*"]
"""

RETURN = r"""
packages:
  description: Version of each package of the set, after the run or as it would be.
  returned: success
  type: dict
  sample: {nvidia-container-toolkit: 1.20.0-1}
previous:
  description: Version of each package of the set before the run; those that were absent are not in it.
  returned: success
  type: dict
  sample: {nvidia-container-toolkit: 1.19.1-1}
installed:
  description: What apt was told to install, empty if all was there.
  returned: success
  type: list
  elements: str
  sample: [nvidia-container-toolkit=1.20.0-1]
held:
  description: Packages that were not held, or that lost their hold in the installation, and are held now.
  returned: success
  type: list
  elements: str
  sample: [nvidia-container-toolkit]
removed:
  description: Packages of the set that the new version replaces.
  returned: success
  type: list
  elements: str
  sample: []
unknown:
  description: Why check mode cannot say more; else empty.
  returned: success
  type: str
  sample: ""
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils.package_set import (
    Plan,
    Refusal,
    Request,
    carry_out,
    make_plan,
)
from ansible_collections.baremetal.llm.plugins.module_utils.system import System


def _diff(plan: Plan) -> dict[str, str]:
    before = [f"{name}={state.version}{' (held)' if state.held else ''}" for name, state in sorted(plan.before.items())]
    after = [f"{name}={version} (held)" for name, version in sorted(plan.versions.items())]
    return {
        "before": "".join(f"{line}\n" for line in before),
        "after": "".join(f"{line}\n" for line in after),
        "before_header": "packages",
        "after_header": "packages",
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "version": {"type": "str", "required": True},
            "companions": {"type": "list", "elements": "str", "default": []},
            "source_file": {"type": "path"},
            "source_pending": {"type": "bool", "default": False},
            "version_setting": {"type": "str", "default": "version"},
            "timeout_seconds": {"type": "int", "default": 900},
        },
        supports_check_mode=True,
    )
    request = Request(
        packages=tuple(module.params["packages"]),
        version=module.params["version"],
        companions=tuple(module.params["companions"]),
        source_file=module.params["source_file"] or "",
        source_pending=module.params["source_pending"],
        setting=module.params["version_setting"],
        timeout_seconds=module.params["timeout_seconds"],
    )
    host = System()
    try:
        plan = make_plan(request, host, module.check_mode)
        if plan.changed and not module.check_mode:
            carry_out(request, plan, host)
    except Refusal as refusal:
        module.fail_json(msg=str(refusal))
    module.exit_json(
        changed=plan.changed,
        packages=dict(plan.versions),
        previous={name: state.version for name, state in plan.before.items()},
        installed=list(plan.install),
        held=list(plan.hold),
        removed=list(plan.remove),
        unknown=plan.unknown,
        diff=_diff(plan),
    )


if __name__ == "__main__":
    main()
