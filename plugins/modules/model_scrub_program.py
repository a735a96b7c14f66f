#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_scrub_program
short_description: Install the program that reads published weights again
version_added: 0.1.0
author:
  - baremetal.llm contributors (@baremetal-llm)
description:
  - Writes a program to the host that reads every file of every published revision below a folder, compares it with the
    record of its verification, and says what is damaged. It needs Python and nothing else, changes no model, and is
    made of the very parts of this collection that M(baremetal.llm.model_weights) uses.
  - The role M(baremetal.llm.model_weights) has a timer for it (C(model_weights_scrub)). C(--help) shows its options.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Shows the digest of the program, which is an archive.
  idempotent:
    support: full
  platform:
    support: full
    platforms: linux
options:
  path:
    description: Where the program is. Folders that are missing are made.
    type: path
    default: /opt/baremetal-llm/bin/model-scrub
  python:
    description: Python that runs the program, 3.9 or later. The path of it on the host.
    type: path
    default: /usr/bin/python3
seealso:
  - module: baremetal.llm.model_weights
"""

EXAMPLES = r"""
- name: Install the scrub
  baremetal.llm.model_scrub_program:

- name: Read everything now
  ansible.builtin.command: /opt/baremetal-llm/bin/model-scrub --root /srv/models --result /var/tmp/scrub.json
  changed_when: false
"""

RETURN = r"""
path:
  description: Where the program is.
  returned: success
  type: str
sha256:
  description: Its SHA-256.
  returned: success
  type: str
"""

import hashlib
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils import weights_scrub
from ansible_collections.baremetal.llm.plugins.module_utils.program_archive import build_archive
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import write_atomically

_MODE = 0o755


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/opt/baremetal-llm/bin/model-scrub"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        supports_check_mode=True,
    )
    path, python = module.params["path"], module.params["python"]
    for name, value in (("path", path), ("python", python)):
        if not os.path.isabs(value) or any(sign.isspace() for sign in value):
            module.fail_json(msg=f"{name} must be absolute and without spaces, not {value!r}")
    archive = build_archive("weights_scrub", weights_scrub.MODULES, python)
    digest = hashlib.sha256(archive).hexdigest()
    before, mode = "", 0
    try:
        with open(path, "rb") as stream:
            before = hashlib.sha256(stream.read()).hexdigest()
            mode = os.fstat(stream.fileno()).st_mode & 0o7777
    except FileNotFoundError:
        pass
    except OSError as error:
        module.fail_json(msg=f"{path} cannot be read: {error.strerror}")
    changed = (before, mode) != (digest, _MODE)
    if changed and not module.check_mode:
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            write_atomically(path, archive, _MODE)
        except OSError as error:
            module.fail_json(msg=f"{path} cannot be written: {error.strerror}")
    module.exit_json(
        changed=changed,
        path=path,
        sha256=digest,
        diff={
            "before_header": path,
            "after_header": path,
            "before": f"SHA-256 {before}, mode {mode:04o}\n" if before else "",
            "after": f"SHA-256 {digest}, mode {_MODE:04o}\n",
        }
        if changed
        else {},
    )


if __name__ == "__main__":
    main()
