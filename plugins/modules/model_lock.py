#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_lock
short_description: Write the lock file of a model
version_added: 0.1.0
author:
  - baremetal.llm contributors (@baremetal-llm)
description:
  - Resolves a model to one revision and writes the size in bytes and the SHA-256 of each of its files into a YAML or
    JSON file, with its licence, its gating, its C(config.json) and the number of its tensors and parameters.
  - Weights are not downloaded for that. Their digests come from the Hub, and their headers are read by requests for
    ranges. Files whose digest nobody knows are read once and kept nowhere.
  - Everything that later brings the model to a host is checked against this file and nothing else, so keep it in
    version control and review its changes. With C(--diff) an update lists them by file, below the text's own diff.
  - Runs on the controller; delegate it to C(localhost).
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
    details: The model is looked at as otherwise; only the file is not written.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: A branch or tag on the Hub can move. The lock then changes, which is what running this module asks for.
  platform:
    support: full
    platforms: posix
options:
  path:
    description:
      - The lock file to write, as JSON if its name ends in C(.json) and as YAML otherwise. Its folder is made when it
        is missing.
      - A file that is there and is not a lock file is not overwritten.
    type: path
    required: true
  mode:
    description: Mode of the lock file when it is written, as octal digits. It holds no secrets.
    type: str
    default: '0644'
  source:
    description: The model and where to ask for it.
    type: dict
    required: true
    suboptions:
      type:
        description:
          - V(hub) asks the Hugging Face Hub, or a mirror that speaks its API. The revision is the commit. The branch
            is noted in the lock.
          - V(folder) hashes the files of a folder.
          - V(http) reads the files of a folder of a web server. They are named by O(source.checksums) or
            O(source.files).
          - V(s3) reads the objects below a prefix of a bucket in an S3-compatible store.
          - Without a commit, the revision is made from the content, the first 40 hexadecimal digits of the SHA-256
            over the sorted lines of digest and path.
        type: str
        required: true
        choices: [folder, http, hub, s3]
      model:
        description: Organisation and name, such as V(Qwen/Qwen3-0.6B). Hosts keep the model below a folder of this
          name.
        type: str
        required: true
      path:
        description: The folder. Required with O(source.type=folder).
        type: path
      revision:
        description: Branch, tag or commit. Only with O(source.type=hub).
        type: str
        default: main
      endpoint:
        description:
          - Address of the Hub or of a mirror of it, what C(HF_ENDPOINT) is for other programs; by default
            V(https://huggingface.co). With O(source.type=s3) address of the store, by default that of Amazon for the
            region.
          - With a token, or with the credentials of a store, it must begin with C(https://), unless it is this host.
        type: str
      url:
        description: Address of the folder. Required with O(source.type=http). The path of each file is appended.
        type: str
      files:
        description: Paths of the files that there are, for a web server without a file of checksums. Only with
          O(source.type=http).
        type: list
        elements: str
        default: []
      checksums:
        description:
          - Name of a file beside the weights with lines as C(sha256sum) writes them. Its digests are taken as they
            are, which spares reading the weights. An empty text does without.
          - Only with O(source.type=http), where it is required unless O(source.files) is given, and O(source.type=s3),
            where it is used if it is there.
        type: str
        default: SHA256SUMS
      bucket:
        description: The bucket. Required with O(source.type=s3).
        type: str
      prefix:
        description: The folder in the bucket. Only with O(source.type=s3).
        type: str
        default: ''
      region:
        description: Region of the store, a part of the signature. Only with O(source.type=s3).
        type: str
        default: us-east-1
      virtual_hosted:
        description: Whether the bucket is a part of the store's host name and not of the path. Only with
          O(source.type=s3).
        type: bool
        default: false
      credentials_file:
        description: File on the controller with the credentials of the store, in the form of C(~/.aws/credentials).
          Only with O(source.type=s3), and only needed for buckets that are not public.
        type: path
      credentials_profile:
        description: Section of O(source.credentials_file).
        type: str
        default: default
      token_file:
        description: File on the controller with a token for this source, in place of O(token_file). A web server is
          sent a token only if it has one here.
        type: path
      patterns:
        description:
          - Shell patterns of the files that belong into the lock. A pattern without a slash is compared with the
            last part of a path.
          - The default takes safetensors, JSON, Jinja and text files and the usual tokenizer models. GGUF files are
            taken only when a pattern asks for them, because a repository often has a dozen quantizations.
        type: list
        elements: str
      exclude:
        description: Shell patterns of files that O(source.patterns) would take and that are not wanted, such as
          V(consolidated*.safetensors).
        type: list
        elements: str
        default: []
      allow_files:
        description:
          - Exact paths of files to take although their format is refused otherwise, because loading it can run code
            that is in it (C(.bin), C(.pt), C(.pth), C(.ckpt), C(.pkl), C(.py)) or because it is not known.
          - O(baremetal.llm.model_weights#module:allow_files) must name them as well.
        type: list
        elements: str
        default: []
  token_file:
    description: File on the controller that holds a token for the Hub or a mirror of it. Only needed for models that
      are gated or private.
    type: path
  ca_file:
    description: File of CA certificates in PEM form to trust instead of the system's, for a site with a CA of its own.
    type: path
  retry_seconds:
    description: How long in seconds to wait at most for a server that asks to wait, such as for a rate limit, while
      nothing arrives. The Hub counts requests in windows of 300 seconds. Connections that fail are tried for at most
      45 seconds.
    type: int
    default: 900
requirements:
  - huggingface_hub >= 1.2 (only with O(source.type=hub))
notes:
  - The module fails, and writes nothing, with a list of everything that is wrong with the files, such as a shard
    that the index names and that is missing, a safetensors file that was cut off, or a format that is refused.
  - Tokens and credentials come from files only. They are sent to no other host, and are in no message.
seealso:
  - module: baremetal.llm.model_weights
"""

EXAMPLES = r"""
- name: Pin the current main branch of a model on the Hub
  baremetal.llm.model_lock:
    path: "{{ inventory_dir }}/../locks/qwen3.yml"
    source:
      type: hub
      model: Qwen/Qwen3-0.6B
      revision: main
  delegate_to: localhost

- name: Lock one quantization of a gated model
  baremetal.llm.model_lock:
    path: "{{ inventory_dir }}/../locks/example.json"
    source:
      type: hub
      model: example/model-GGUF
      patterns: ['*Q4_K_M*.gguf']
    token_file: /etc/baremetal-llm/hub-token
  delegate_to: localhost

- name: Lock a model that lies in a folder of the controller
  baremetal.llm.model_lock:
    path: "{{ inventory_dir }}/../locks/tiny.yml"
    source:
      type: folder
      path: /data/models/tiny
      model: demo/tiny
  delegate_to: localhost

- name: Lock a model in a store of the site
  baremetal.llm.model_lock:
    path: "{{ inventory_dir }}/../locks/tiny.yml"
    source:
      type: s3
      endpoint: https://store.example.org:9000
      bucket: models
      prefix: demo/tiny
      model: demo/tiny
      credentials_file: /etc/baremetal-llm/store-credentials
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The lock file.
  returned: success
  type: str
model:
  description: Organisation and name.
  returned: success
  type: str
revision:
  description: The revision, 40 hexadecimal digits.
  returned: success
  type: str
lock:
  description: What the lock file holds (or would hold, in check mode).
  returned: success
  type: dict
changes:
  description:
    - What is different from the lock file that was there. Of each value that changed, such as C(revision) or
      C(license), C(before) and C(after); the files that were added, removed and changed, and how many bytes those have
      that were added or changed.
  returned: success
  type: dict
  sample:
    revision: {before: 1cfa9a7208912126459214e8b04321603b3df60c, after: c1899de289a04d12100db370d81485cdf75e47ca}
    files_added: []
    files_removed: [vocab.json]
    files_changed: [config.json]
    bytes_changed: 726
total_bytes:
  description: Size of the model in bytes.
  returned: success
  type: int
files_left_out:
  description: Files that are there and are not in the lock.
  returned: success
  type: list
  elements: str
notes:
  description: What is no reason to refuse the model and should be known, such as code of its own that it asks for.
    They are shown as warnings too.
  returned: success
  type: list
  elements: str
problems:
  description: Everything that is wrong with the model.
  returned: failure because of the model
  type: list
  elements: str
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError
from ansible_collections.baremetal.llm.plugins.module_utils.lock_hub import HUB_ENDPOINT, HubOrigin
from ansible_collections.baremetal.llm.plugins.module_utils.lock_origins import (
    CHECKSUMS,
    FolderOrigin,
    HttpOrigin,
    Origin,
    Patience,
    WebFiles,
    check_ca_file,
    read_token,
)
from ansible_collections.baremetal.llm.plugins.module_utils.lock_s3 import S3Origin, read_credentials
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpClient
from ansible_collections.baremetal.llm.plugins.module_utils.weights_locking import (
    DEFAULT_PATTERNS,
    Selection,
    lock_model,
    write_lock,
)

SOURCE_OPTIONS = {
    "type": {"type": "str", "required": True, "choices": ["folder", "http", "hub", "s3"]},
    "model": {"type": "str", "required": True},
    "path": {"type": "path"},
    "revision": {"type": "str", "default": "main"},
    "endpoint": {"type": "str"},
    "url": {"type": "str"},
    "files": {"type": "list", "elements": "str", "default": []},
    "checksums": {"type": "str", "default": CHECKSUMS},
    "bucket": {"type": "str"},
    "prefix": {"type": "str", "default": ""},
    "region": {"type": "str", "default": "us-east-1"},
    "virtual_hosted": {"type": "bool", "default": False},
    "credentials_file": {"type": "path"},
    "credentials_profile": {"type": "str", "default": "default"},
    "token_file": {"type": "path", "no_log": False},
    "patterns": {"type": "list", "elements": "str"},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "allow_files": {"type": "list", "elements": "str", "default": []},
}
REQUIRED = [("type", "folder", ["path"]), ("type", "http", ["url"]), ("type", "s3", ["bucket"])]


def origin_of(parameters: dict[str, Any]) -> Origin:
    source = parameters["source"]
    if source["type"] == "folder":
        return FolderOrigin(source["path"])
    ca_file = check_ca_file(parameters["ca_file"] or "")
    web = WebFiles(HttpClient(ca_file), Patience(float(parameters["retry_seconds"])))
    # The general token is the Hub's: another server gets one only if it has its own.
    token_file = source["token_file"] or (parameters["token_file"] if source["type"] == "hub" else None)
    token = read_token(token_file) if token_file else ""
    if source["type"] == "hub":
        if ca_file:
            # The library that asks the Hub takes it from there.
            os.environ["SSL_CERT_FILE"] = ca_file
        return HubOrigin(source["model"], web, source["revision"], source["endpoint"] or HUB_ENDPOINT, token)
    if source["type"] == "http":
        secrets = {"Authorization": f"Bearer {token}"} if token else {}
        return HttpOrigin(source["url"], web, source["files"], source["checksums"], secrets)
    credentials = None
    if source["credentials_file"]:
        credentials = read_credentials(source["credentials_file"], source["credentials_profile"])
    return S3Origin(
        bucket=source["bucket"],
        web=web,
        prefix=source["prefix"],
        endpoint=source["endpoint"] or "",
        region=source["region"],
        credentials=credentials,
        virtual_hosted=source["virtual_hosted"],
        checksums=source["checksums"],
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "mode": {"type": "str", "default": "0644"},
            "source": {"type": "dict", "required": True, "options": SOURCE_OPTIONS, "required_if": REQUIRED},
            "token_file": {"type": "path", "no_log": False},
            "ca_file": {"type": "path"},
            "retry_seconds": {"type": "int", "default": 900},
        },
        supports_check_mode=True,
    )
    path, source = module.params["path"], module.params["source"]
    try:
        mode = int(module.params["mode"], 8)
    except ValueError:
        module.fail_json(msg=f"mode must be octal digits, not {module.params['mode']!r}")
    selection = Selection(
        patterns=tuple(source["patterns"] or DEFAULT_PATTERNS),
        exclude=tuple(source["exclude"]),
        allow_files=tuple(source["allow_files"]),
    )
    try:
        locked = lock_model(source["model"], origin_of(module.params), selection)
        changed, before, after, change = write_lock(path, locked.lock, mode, module.check_mode)
    except ImportError:
        module.fail_json(msg=missing_required_lib("huggingface_hub"))
    except LockError as error:
        module.fail_json(msg=str(error), problems=list(error.problems))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or path}: {error.strerror}")
    for note in locked.notes:
        module.warn(f"{locked.lock.model}: {note}")
    diff = {"before_header": path, "after_header": path, "before": before, "after": after}
    if change.lines:
        diff["prepared"] = "\n".join([f"{locked.lock.model}:", *(f"  {line}" for line in change.lines), ""])
    module.exit_json(
        changed=changed,
        path=path,
        model=locked.lock.model,
        revision=locked.lock.revision,
        lock=locked.lock.as_dict(),
        changes=change.as_dict(),
        total_bytes=locked.lock.total_bytes,
        files_left_out=list(locked.left_out),
        notes=list(locked.notes),
        diff=diff,
    )


if __name__ == "__main__":
    main()
