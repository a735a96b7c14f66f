#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment
short_description: Make a folder hold exactly what a hashed requirements file names
version_added: 0.1.0
description:
  - Builds a Python virtual environment at O(path) from a requirements file in which every package has its version and
    the SHA-256 digests of its files, and leaves it alone while it is as it was built.
  - An environment is built again when the requirements file changed, when the Python it is made with changed in its
    major or minor version, when an earlier run did not finish, and when files of it are missing or have another size.
  - The environment that worked stands aside while its successor is built and comes back when that fails.
  - Only wheels are installed. The Python of the operating system is never changed.
  - pip and uv take their settings from the options of this module and from the proxy variables of the task, not from
    configuration files or C(PIP_*) and C(UV_*) variables on the host.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Also where the interpreter, uv or the requirements file are still absent.
  diff_mode:
    support: full
    details: Lists the packages before and after.
  idempotent:
    support: full
  platform:
    support: full
    platforms: Linux
options:
  path:
    description:
      - Folder of the environment, an absolute path. Its parent folders are made when they are absent.
      - A folder that holds something other than an environment is refused.
    type: path
    required: true
  requirements:
    description:
      - Requirements file on the host, an absolute path.
      - Each line needs C(==) and at least one C(--hash).
    type: path
    required: true
  python:
    description: The Python that the environment is made with, an absolute path on the host.
    type: path
    default: /usr/bin/python3
  installer:
    description:
      - V(pip) uses the C(venv) module of O(python) and the pip that comes with it; both pip and setuptools are removed
        from the environment at the end unless O(requirements) names them.
      - V(uv) is several times faster and can share files between environments, see O(cache_dir).
    type: str
    choices: [pip, uv]
    default: pip
  uv:
    description: The program C(uv) on the host, an absolute path. Needed when O(installer=uv).
    type: path
  index_url:
    description:
      - Package index to use in place of PyPI, for instance C(https://mirror.example/simple/).
      - A user name and password in it are not shown in any output or process list.
    type: str
  find_links:
    description:
      - Folders on the host (absolute paths) or URLs of pages with wheels, used beside the index or in place of it.
    type: list
    elements: str
    default: []
  no_index:
    description: Use only what is in O(find_links), no package index.
    type: bool
    default: false
  ca_file:
    description:
      - File with the CA certificates that a package index may be signed by, PEM.
      - Without it pip and uv use their own lists.
    type: path
  cache_dir:
    description:
      - Folder in which pip or uv keep what they fetched, for the next environment.
      - With O(installer=uv), and on the same file system as O(path), files that environments have in common are hard
        links into it and take space once.
      - Without it nothing is kept.
    type: path
  timeout_seconds:
    description: Seconds that one call of pip or uv may take; the default of an hour fits 10 GB over a slow line.
    type: int
    default: 3600
author:
  - baremetal.llm contributors (@baremetal-llm)
"""

EXAMPLES = r"""
- name: Install the tools that modules run in
  baremetal.llm.python_environment:
    path: /opt/baremetal-llm/tools
    requirements: /etc/baremetal-llm/tools-requirements.txt

- name: Install an engine from a folder of wheels, without a way out
  baremetal.llm.python_environment:
    path: /opt/baremetal-llm/vllm/releases/0.33.0-1f0c5b7e
    requirements: /opt/baremetal-llm/vllm/requirements.txt
    python: /usr/bin/python3.12
    installer: uv
    uv: /opt/baremetal-llm/tools/bin/uv
    find_links: [/mnt/usb/wheels]
    no_index: true
    cache_dir: /var/cache/baremetal-llm/uv
"""

RETURN = r"""
path:
  description: The folder of the environment.
  returned: success
  type: str
  sample: /opt/baremetal-llm/tools
digest:
  description: SHA-256 of the requirements file. Null in check mode when the file is not on the host yet.
  returned: success
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
python_version:
  description: Version of O(python). Null in check mode when that is not on the host yet.
  returned: success
  type: str
  sample: 3.11.2
reason:
  description: Why the environment was built, or would be; empty when it is as it should be.
  returned: success
  type: str
  sample: the requirements file changed
packages:
  description: Name and version of everything in the environment; in check mode the pins of the requirements file.
  returned: success
  type: list
  elements: str
  sample: ["requests==2.34.0"]
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils.python_environment import (
    EnvironmentProblem,
    Request,
    credentials,
    ensure,
    run_command,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "requirements": {"type": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "installer": {"type": "str", "choices": ["pip", "uv"], "default": "pip"},
            "uv": {"type": "path"},
            "index_url": {"type": "str"},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "no_index": {"type": "bool", "default": False},
            "ca_file": {"type": "path"},
            "cache_dir": {"type": "path"},
            "timeout_seconds": {"type": "int", "default": 3600},
        },
        required_if=[("installer", "uv", ["uv"])],
        supports_check_mode=True,
    )
    options = {name: value for name, value in module.params.items() if value is not None}
    options["find_links"] = tuple(options["find_links"])
    # Only the password, not the whole option: a message that does not name the index helps nobody.
    module.no_log_values.update(credentials([options.get("index_url", ""), *options["find_links"]]))
    request = Request(**options)
    try:
        outcome = ensure(request, run_command, os.environ, module.check_mode)
    except EnvironmentProblem as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(
        changed=outcome.changed,
        path=request.path,
        digest=outcome.digest,
        python_version=outcome.python_version,
        reason=outcome.reason,
        packages=list(outcome.packages),
        diff={
            "before": "".join(f"{package}\n" for package in outcome.before.packages),
            "after": "".join(f"{package}\n" for package in outcome.packages),
            "before_header": f"{request.path} ({outcome.before.status})",
            "after_header": request.path,
        },
    )


if __name__ == "__main__":
    main()
