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
  - A file that was damaged after it was published is found and replaced; where it is damaged, and that nothing else of
    it has to be fetched, is learned from a piece manifest (O(piece_bytes)) in the folder or at a source. A process that
    has the file open keeps what it has. Other revisions of the model are never touched.
  - What an interrupted run fetched is hashed again and continued, from whatever source comes first this time, and by
    any number of sources in turn. Each byte that is there is kept.
  - A source that lets every connection crawl is asked over several at once, up to 16, as long as more of them bring
    more than a tenth; a fast one over a single connection.
  - While it fetches, C(<root>/<organisation>/<name>/.fetch/progress.json) says once a second how far it is.
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
          - V(hub) is the Hugging Face Hub, or a mirror or another host that serves
            C(<endpoint>/<model>/resolve/<revision>/<path>).
          - V(s3) is a folder of a bucket in an S3-compatible store.
        type: str
        required: true
        choices: [folder, http, hub, s3]
      path:
        description: The folder, absolute. Required with O(sources[].type=folder).
        type: str
      url:
        description: The path of each file is appended to it. Required with O(sources[].type=http). It must not hold
          a password or a query.
        type: str
      endpoint:
        description: Address of the Hub, by default V(https://huggingface.co), or of the store with
          O(sources[].type=s3), by default that of Amazon for the region.
        type: str
      bucket:
        description: The bucket. Required with O(sources[].type=s3).
        type: str
      prefix:
        description: The folder in the bucket. Only with O(sources[].type=s3).
        type: str
      region:
        description: Region of the store, a part of the signature; by default V(us-east-1). Only with
          O(sources[].type=s3).
        type: str
      virtual_hosted:
        description: Whether the bucket is a part of the store's host name and not of the path. Only with
          O(sources[].type=s3).
        type: bool
        default: false
      credentials_file:
        description: File on the host with the credentials of the store, in the form of C(~/.aws/credentials). Only with
          O(sources[].type=s3), and only needed for buckets that are not public.
        type: str
      credentials_profile:
        description: Section of O(sources[].credentials_file), by default V(default).
        type: str
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
  link:
    description: Name of a symbolic link beside the folder of the revision that leads to it once every file of it is
      right. Empty for none.
    type: str
    default: current
  keep_revisions:
    description:
      - How many earlier revisions of the model to keep, the latest ones, once this one is published and the link leads
        to it. Without it, all are kept.
      - A process that has files of a removed revision open keeps them until it ends, but cannot start again from them.
        So keep at least one where engines are moved to the new revision later.
    type: int
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
    description: Seconds that a server may be silent for before the connection counts as broken. A connection that sends
      less than 256 KiB per second for 30 seconds, and less than an eighth of the best one, is given up as well.
    type: int
    default: 30
  patience_seconds:
    description:
      - Seconds without progress after which a source is given up for a file and the next one is asked. Until then a
        connection that broke or a server that is busy is tried again after a pause that doubles from 1 to 60 seconds,
        or is what the server asks for. A server that was never reached in this run is given up after 30 seconds.
    type: int
    default: 300
  deadline_seconds:
    description: Seconds after which a run that has not fetched everything fails. What came is kept. V(0) means never.
    type: int
    default: 0
  retries:
    description: How often a connection that brings nothing is tried again before the next source is asked, if that is
      reached before O(patience_seconds). V(0) means that only time counts.
    type: int
    default: 0
  connections:
    description: How many connections to use for each source at the same time, over all files. V(0) means that the
      module finds out.
    type: int
    default: 0
  parallel_files:
    description: How many files are fetched and hashed at the same time. V(0) means half the processors, at least 2
      and at most 4.
    type: int
    default: 0
  piece_bytes:
    description:
      - Length in bytes of the pieces whose SHA-256 are written into C(.baremetal-llm.meta4) in the folder of the
        revision, a piece manifest as in RFC 5854 (Metalink). V(0) writes none and leaves one that is there.
      - With it, a damaged file is healed by fetching only what is damaged of it, on this host and on all that have it
        as a source. Of a file that is no longer than a piece, the whole is the piece. The smallest length is V(65536);
        V(16777216) is a good one. Every file is read once more after it was fetched.
    type: int
    default: 0
  read_in_check_mode:
    description: Whether files whose status is not what the last run recorded are read in check mode. If not, they count
      as files to be fetched. The action plugin sets it for its own first look, so that they are read only once.
    type: bool
    default: true
  progress:
    description:
      - Whether to show how far the host is while it fetches. The module then runs as an asynchronous job on the host,
        which goes on if the connection breaks. V(false) runs it in one go.
      - Read on the controller, so it has no effect where the module is run without its action plugin.
    type: bool
    default: true
notes:
  - Symbolic links below O(root) are refused, O(root) itself may be one.
  - Two runs for the same model on one host wait for each other, as long as the other one gets on, and for an hour if it
    does not. On a file system that hosts share, each host collects parts of its own.
  - Proxies are taken from the environment, C(https_proxy) and C(no_proxy) for example.
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

- name: Keep what a mirror serves, so that others can heal from it
  baremetal.llm.model_weights:
    lock: "{{ lookup('ansible.builtin.file', inventory_dir ~ '/../locks/tiny.yml') | from_yaml }}"
    sources:
      - {type: hub}
    piece_bytes: 16777216
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
files:
  description: The files that were missing or wrong.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Path of the file.
      type: str
    size:
      description: Bytes of it.
      type: int
    bytes:
      description: Bytes of it that had not been there, or had been wrong, when the run began.
      type: int
    reason:
      description: What was wrong; with a piece manifest, also where.
      type: str
sources:
  description: What came from where, in the order of O(sources). In check mode, which would be asked.
  returned: success
  type: list
  elements: dict
  contains:
    source:
      description: The source.
      type: str
    bytes:
      description: Bytes that came from it. Not in check mode.
      type: int
    retries:
      description: How often it was tried again. Not in check mode.
      type: int
    connections:
      description: The most connections that were used at once. Not in check mode.
      type: int
seconds:
  description: Seconds that fetching and verifying took.
  returned: success
  type: float
bytes_per_second:
  description: Bytes received per second, hashing and flushing to the disk included.
  returned: success
  type: int
retries:
  description: How often sources were tried again.
  returned: success
  type: int
connections:
  description: The most connections to one source that were used at once.
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
        V(disk_space), V(pieces), V(rotten), V(lock).
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
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils import weights, weights_plan
from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError, parse_lock
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import system_ca_file
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Transport
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import SMALLEST_PIECE_BYTES
from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import parse_sources


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
    for key in (
        "reserve_bytes",
        "retries",
        "parallel_files",
        "keep_revisions",
        "patience_seconds",
        "deadline_seconds",
        "connections",
        "piece_bytes",
    ):
        if params[key] is not None and params[key] < 0:
            raise ValueError(f"{key} must be 0 or more, not {params[key]}")
    if 0 < params["piece_bytes"] < SMALLEST_PIECE_BYTES:
        raise ValueError(f"piece_bytes must be 0 or at least {SMALLEST_PIECE_BYTES}, not {params['piece_bytes']}")
    if params["timeout_seconds"] < 1:
        raise ValueError(f"timeout_seconds must be 1 or more, not {params['timeout_seconds']}")
    if params["link"] and not re.fullmatch(r"(?![0-9a-f]{40}$)[A-Za-z0-9_][A-Za-z0-9._-]*", params["link"]):
        raise ValueError(f"link must be a plain name that is not that of a revision, not {params['link']!r}")
    return weights_plan.Settings(
        root=os.path.normpath(params["root"]),
        uid=weights_plan.resolve_user(params["owner"]),
        gid=weights_plan.resolve_group(params["group"]),
        file_mode=modes["mode"],
        folder_mode=modes["directory_mode"],
        verify=params["verify"],
        reserve_bytes=params["reserve_bytes"],
        parallel_files=params["parallel_files"],
        link=params["link"],
        keep_revisions=params["keep_revisions"],
        piece_bytes=params["piece_bytes"],
        read_in_check_mode=params["read_in_check_mode"],
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
                    "type": {"type": "str", "required": True, "choices": ["folder", "http", "hub", "s3"]},
                    "path": {"type": "str"},
                    "url": {"type": "str"},
                    "endpoint": {"type": "str"},
                    "bucket": {"type": "str"},
                    "prefix": {"type": "str"},
                    "region": {"type": "str"},
                    "virtual_hosted": {"type": "bool", "default": False},
                    "credentials_file": {"type": "str", "no_log": False},
                    "credentials_profile": {"type": "str", "no_log": False},
                    "token_file": {"type": "str", "no_log": False},
                },
                "required_if": [("type", "folder", ["path"]), ("type", "http", ["url"]), ("type", "s3", ["bucket"])],
            },
            "root": {"type": "path", "default": "/srv/models"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "mode": {"type": "str", "default": "0644"},
            "directory_mode": {"type": "str", "default": "0755"},
            "verify": {"type": "str", "default": "record", "choices": ["record", "full"]},
            "link": {"type": "str", "default": "current"},
            "keep_revisions": {"type": "int"},
            "reserve_bytes": {"type": "int", "default": 1024**3},
            "allow_files": {"type": "list", "elements": "str", "default": []},
            "ca_file": {"type": "path"},
            "token_file": {"type": "path", "no_log": False},
            "timeout_seconds": {"type": "int", "default": 30},
            "patience_seconds": {"type": "int", "default": 300},
            "deadline_seconds": {"type": "int", "default": 0},
            "retries": {"type": "int", "default": 0},
            "connections": {"type": "int", "default": 0},
            "parallel_files": {"type": "int", "default": 0},
            "piece_bytes": {"type": "int", "default": 0},
            "read_in_check_mode": {"type": "bool", "default": True},
            "progress": {"type": "bool", "default": True},
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
            idle_seconds=params["timeout_seconds"],
            patience_seconds=params["patience_seconds"],
            deadline_seconds=params["deadline_seconds"],
            retries=params["retries"],
            connections=params["connections"],
        )
        sources, problems = parse_sources(params["sources"], lock, params["token_file"] or "")
        if problems:
            raise LockError(problems, f"model {lock.model}")
        outcome = weights.ensure(lock, sources, settings, module.check_mode, transport)
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
        files=outcome.files,
        sources=outcome.sources,
        seconds=outcome.seconds,
        bytes_per_second=int(outcome.bytes_fetched / outcome.seconds) if outcome.seconds else 0,
        retries=outcome.retries,
        connections=outcome.connections,
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
