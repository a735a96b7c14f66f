#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_weights
short_description: Make a host hold exactly the files of a model's lock
version_added: 0.1.0
author:
  - baremetal.llm contributors (@baremetal-llm)
description:
  - Fetches the files that are missing or wrong from the first source that serves them right, checks size and SHA-256
    of each against the lock, and publishes the revision by one rename. Until then nothing is to be seen under the
    final name.
  - A file that was damaged after it was published is found and replaced. Other revisions of the model are never
    touched.
  - What an interrupted run fetched is hashed again and continued.
  - A run on a host where nothing changed asks for the status of each file and reads none of them.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: Files whose status is not what the last run recorded are read. Sources are not asked.
  diff_mode:
    support: full
  idempotent:
    support: full
  platform:
    support: full
    platforms: linux
options:
  lock:
    description: What the lock file holds, read on the controller.
    type: dict
    required: true
  sources:
    description: Where the files may come from, in this order. A source that fails for a file is skipped for that
      file only.
    type: list
    elements: dict
    required: true
    suboptions:
      type:
        description:
          - V(folder) is a folder on the host, such as a network share.
          - V(http) is a web server that serves the files below O(sources[].url).
          - V(hub) is the Hugging Face Hub or a mirror that serves C(<endpoint>/<model>/resolve/<revision>/<path>).
        type: str
        required: true
        choices: [folder, http, hub]
      path:
        description: The folder, absolute. Required with O(sources[].type=folder).
        type: str
      url:
        description: The path of each file is appended to it. Required with O(sources[].type=http). It must not hold
          a password or a query.
        type: str
      endpoint:
        description: Only with O(sources[].type=hub).
        type: str
        default: https://huggingface.co
      token_file:
        description: File on the host that holds a token for this source only. The token is sent to this server, over
          TLS, and to no other.
        type: str
  root:
    description: Folder that models are kept below, as C(<root>/<organisation>/<name>/<revision>).
    type: path
    default: /srv/models
  owner:
    description: Owner of published files and folders, a name or a number.
    type: str
    default: root
  group:
    description: Group of published files and folders, a name or a number.
    type: str
    default: root
  mode:
    description: Mode of published files, as octal digits. The users that engines run as must be able to read them
      and no one needs to write.
    type: str
    default: '0644'
  directory_mode:
    description: Mode of published folders, as octal digits.
    type: str
    default: '0755'
  verify:
    description:
      - V(record) trusts a file whose size, times and inode are those that were recorded when it was verified, and
        reads it otherwise.
      - V(full) reads every file again. Use it from time to time, because a disk that forgets bits changes no times.
    type: str
    default: record
    choices: [record, full]
  reserve_bytes:
    description: Bytes that must stay free on the file system after the files have arrived. The default is 1 GiB.
    type: int
    default: 1073741824
  allow_files:
    description: Exact paths of files to accept although their format is refused otherwise. See
      O(baremetal.llm.model_lock#module:source.allow_files).
    type: list
    elements: str
    default: []
  ca_file:
    description: File of CA certificates in PEM form on the host. By default that of the distribution, where it is
      found.
    type: path
  token_file:
    description: File on the host that holds a token for sources of type V(hub).
    type: path
  timeout_seconds:
    description: Seconds that a server may be silent for before the connection counts as broken.
    type: int
    default: 60
  retries:
    description:
      - How often a connection that broke or a server that is busy is tried again before the next source is used. The
        pause doubles from 1 to 60 seconds, or is what the server asks for, up to 300 seconds.
      - The count starts again when 16 MiB have arrived.
    type: int
    default: 5
  parallel_files:
    description: How many files are fetched and hashed at the same time. V(0) means half the processors, at most 4.
    type: int
    default: 0
requirements:
  - requests (only to fetch from V(http) and V(hub); taken from the collection's tool environment when the host's
    Python lacks it)
notes:
  - Symbolic links below O(root) are refused, O(root) itself may be one.
  - Two runs for the same model on one host wait for each other, for up to an hour.
seealso:
  - module: baremetal.llm.model_lock
"""

EXAMPLES = r"""
- name: Bring the model
  baremetal.llm.model_weights:
    lock: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/../locks/tiny.yml') | from_yaml }}"
    sources:
      - {type: folder, path: /mnt/share/models/tiny}
      - {type: http, url: "https://mirror.example/models/tiny/"}
      - {type: hub}

- name: Read everything again, as a monthly job
  baremetal.llm.model_weights:
    lock: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/../locks/tiny.yml') | from_yaml }}"
    sources:
      - {type: http, url: "https://mirror.example/models/tiny/"}
    verify: full
"""

RETURN = r"""
path:
  description: The folder of the revision.
  returned: success
  type: str
files_fetched:
  description: How many files were missing or wrong. In check mode, how many would be fetched.
  returned: success
  type: int
bytes_fetched:
  description: How many bytes were received. In check mode, how many would be.
  returned: success
  type: int
summary:
  description: What was done or would be done, in one line.
  returned: success
  type: str
findings:
  description:
    - What sources did wrong, for each file and source. On success the file came from another source.
    - On failure, every file that could not be had; the revisions published before are as they were.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: Path of the file, empty when the finding is about the whole source.
      type: str
    source:
      description: The source.
      type: str
    problem:
      description: A stable code such as V(not_found), V(size), V(digest), V(connection), V(http_status),
        V(disk_space), V(lock).
      type: str
    message:
      description: The same for a person.
      type: str
    expected:
      description: What the lock says, where it says something.
      type: str
    actual:
      description: What was found.
      type: str
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils import weights, weights_plan
from ansible_collections.baremetal.llm.plugins.module_utils._respawn import use_tool_environment
from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError, parse_lock
from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import (
    HUB_ENDPOINT,
    Transport,
    parse_sources,
    system_ca_file,
)


def fail(module: AnsibleModule, message: str, findings: list[dict[str, str]]) -> None:
    module.fail_json(msg=message, findings=findings)


def read_settings(params: dict[str, Any]) -> weights_plan.Settings:
    modes = {}
    for key in ("mode", "directory_mode"):
        try:
            modes[key] = int(params[key], 8)
        except ValueError:
            raise ValueError(f"{key} must be octal digits in quotes, not {params[key]!r}") from None
    if not os.path.isabs(params["root"]):
        raise ValueError(f"root must be absolute, not {params['root']!r}")
    for key in ("reserve_bytes", "retries", "parallel_files"):
        if params[key] < 0:
            raise ValueError(f"{key} must be 0 or more, not {params[key]}")
    if params["timeout_seconds"] < 1:
        raise ValueError(f"timeout_seconds must be 1 or more, not {params['timeout_seconds']}")
    return weights_plan.Settings(
        root=os.path.normpath(params["root"]),
        uid=weights_plan.resolve_user(params["owner"]),
        gid=weights_plan.resolve_group(params["group"]),
        file_mode=modes["mode"],
        folder_mode=modes["directory_mode"],
        verify=params["verify"],
        reserve_bytes=params["reserve_bytes"],
        parallel_files=params["parallel_files"],
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "lock": {"type": "dict", "required": True},
            "sources": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "type": {"type": "str", "required": True, "choices": ["folder", "http", "hub"]},
                    "path": {"type": "str"},
                    "url": {"type": "str"},
                    "endpoint": {"type": "str", "default": HUB_ENDPOINT},
                    "token_file": {"type": "str", "no_log": False},
                },
                "required_if": [("type", "folder", ["path"]), ("type", "http", ["url"])],
            },
            "root": {"type": "path", "default": "/srv/models"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "mode": {"type": "str", "default": "0644"},
            "directory_mode": {"type": "str", "default": "0755"},
            "verify": {"type": "str", "default": "record", "choices": ["record", "full"]},
            "reserve_bytes": {"type": "int", "default": weights_plan.GIB},
            "allow_files": {"type": "list", "elements": "str", "default": []},
            "ca_file": {"type": "path"},
            "token_file": {"type": "path", "no_log": False},
            "timeout_seconds": {"type": "int", "default": 60},
            "retries": {"type": "int", "default": 5},
            "parallel_files": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        lock = parse_lock(
            params["lock"], params["allow_files"], f"lock of model {params['lock'].get('model', '(without a name)')}"
        )
        settings = read_settings(params)
        transport = Transport(
            ca_file=params["ca_file"] or system_ca_file(),
            timeout_seconds=params["timeout_seconds"],
            retries=params["retries"],
        )
        sources, problems = parse_sources(params["sources"], lock, transport, params["token_file"] or "")
        if problems:
            raise LockError(problems, f"model {lock.model}")
        # On a host where nothing changed, the interpreter at hand will do.
        if (
            not module.check_mode
            and any(source.needs_requests for source in sources)
            and weights_plan.examine(lock, settings, read_bytes=False).changes
        ):
            use_tool_environment(module, "requests")
        outcome = weights.ensure(lock, sources, settings, module.check_mode)
    except LockError as error:
        findings = [
            {"path": "", "source": "", "problem": "lock", "message": text, "expected": "", "actual": ""}
            for text in error.problems
        ]
        fail(module, str(error), findings)
    except weights_plan.WeightsError as error:
        fail(module, str(error), [dict(vars(finding)) for finding in error.findings])
    except ValueError as error:
        fail(module, str(error), [])
    for finding in outcome.findings:
        module.warn(f"{lock.model}: {finding}")
    module.exit_json(
        changed=outcome.changed,
        path=outcome.path,
        files_fetched=outcome.files_fetched,
        bytes_fetched=outcome.bytes_fetched,
        summary=outcome.message,
        findings=[dict(vars(finding)) for finding in outcome.findings],
        diff={
            "before_header": outcome.path,
            "after_header": outcome.path,
            "before": outcome.before,
            "after": outcome.after,
        }
        if outcome.changed
        else {},
    )


if __name__ == "__main__":
    main()
