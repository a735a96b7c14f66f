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
  - Resolves a model to one revision and writes the size in bytes and the SHA-256 of each of its files into a YAML file.
  - Everything that later brings the model to a host is checked against this file and nothing else, so keep it in
    version control and review its changes.
  - Runs on the controller; delegate it to C(localhost).
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
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
    description: The lock file to write. Its folder is made when it is missing.
    type: path
    required: true
  mode:
    description: Mode of the lock file, as octal digits. It holds no secrets.
    type: str
    default: '0644'
  source:
    description: The model and where to ask for it.
    type: dict
    required: true
    suboptions:
      type:
        description:
          - V(folder) hashes the files of a folder. The revision is then made from their content, the first 40
            hexadecimal digits of the SHA-256 over the sorted lines of digest and path.
          - V(hub) asks the Hugging Face Hub, or a mirror that speaks its API. The revision is the commit.
        type: str
        required: true
        choices: [folder, hub]
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
        description: Address of the Hub or of a mirror of it. Only with O(source.type=hub).
        type: str
        default: https://huggingface.co
      patterns:
        description:
          - Shell patterns of the files that belong into the lock. A pattern without a slash is compared with the
            last part of a path.
          - The default takes safetensors, JSON, Jinja and text files and the usual tokenizer models.
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
    description: File on the controller that holds a token for the Hub. Only needed for models that are not public.
    type: path
  ca_file:
    description: File of CA certificates in PEM form to trust instead of the library's own, for a site with a CA of
      its own.
    type: path
requirements:
  - huggingface_hub (only with O(source.type=hub))
notes:
  - The module fails, and writes nothing, with a list of everything that is wrong with the files, such as a shard
    that the index names and that is missing, a safetensors file that was cut off, or a format that is refused.
seealso:
  - module: baremetal.llm.model_weights
"""

EXAMPLES = r"""
- name: Lock a model that lies in a folder of the controller
  baremetal.llm.model_lock:
    path: "{{ inventory_dir }}/../locks/tiny.yml"
    source:
      type: folder
      path: /data/models/tiny
      model: demo/tiny
  delegate_to: localhost

- name: Pin the current main branch of a model on the Hub
  baremetal.llm.model_lock:
    path: "{{ inventory_dir }}/../locks/qwen3.yml"
    source:
      type: hub
      model: Qwen/Qwen3-0.6B
      revision: main
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
total_bytes:
  description: Size of the model in bytes.
  returned: success
  type: int
files_left_out:
  description: Files that are there and are not in the lock.
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

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError
from ansible_collections.baremetal.llm.plugins.module_utils.weights_locking import (
    DEFAULT_PATTERNS,
    HUB_ENDPOINT,
    Selection,
    lock_folder,
    lock_hub,
    write_lock,
)


def main() -> None:
    source_options = {
        "type": {"type": "str", "required": True, "choices": ["folder", "hub"]},
        "model": {"type": "str", "required": True},
        "path": {"type": "path"},
        "revision": {"type": "str", "default": "main"},
        "endpoint": {"type": "str", "default": HUB_ENDPOINT},
        "patterns": {"type": "list", "elements": "str"},
        "exclude": {"type": "list", "elements": "str", "default": []},
        "allow_files": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "mode": {"type": "str", "default": "0644"},
            "source": {
                "type": "dict",
                "required": True,
                "options": source_options,
                "required_if": [("type", "folder", ["path"])],
            },
            "token_file": {"type": "path", "no_log": False},
            "ca_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    path, source = module.params["path"], module.params["source"]
    selection = Selection(
        patterns=tuple(source["patterns"] or DEFAULT_PATTERNS),
        exclude=tuple(source["exclude"]),
        allow_files=tuple(source["allow_files"]),
    )
    try:
        if source["type"] == "folder":
            locked = lock_folder(source["model"], source["path"], selection)
        else:
            if module.params["ca_file"]:
                os.environ["SSL_CERT_FILE"] = os.environ["REQUESTS_CA_BUNDLE"] = module.params["ca_file"]
            token = ""
            if module.params["token_file"]:
                with open(module.params["token_file"], encoding="utf-8") as stream:
                    token = stream.read().strip()
            locked = lock_hub(source["model"], source["revision"], source["endpoint"], token, selection)
        changed, before, after = write_lock(path, locked.lock, int(module.params["mode"], 8), module.check_mode)
    except ImportError:
        module.fail_json(msg=missing_required_lib("huggingface_hub"))
    except LockError as error:
        module.fail_json(msg=str(error), problems=list(error.problems))
    except ValueError:
        module.fail_json(msg=f"mode must be octal digits, not {module.params['mode']!r}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename or path}: {error.strerror}")
    module.exit_json(
        changed=changed,
        path=path,
        model=locked.lock.model,
        revision=locked.lock.revision,
        lock=locked.lock.as_dict(),
        total_bytes=locked.lock.total_bytes,
        files_left_out=list(locked.left_out),
        diff={"before_header": path, "after_header": path, "before": before, "after": after},
    )


if __name__ == "__main__":
    main()
