#!/usr/bin/python
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hub_layout
short_description: Write what nginx needs to serve verified models as the Hugging Face Hub does
version_added: 0.1.0
description:
  - Writes a release, a folder below O(release_root) named after its content, with the API documents of each model and a
    file C(locations.conf) for nginx, which names every file that is served and nothing else. The weights stay where
    they are.
  - A model is in it only if its folder has the record of a verification and each file is still as it was recorded and
    is what the lock says. The others are in RV(withheld), with the reasons. No byte of the weights is read.
  - A manifest of a model's pieces (C(.baremetal-llm.meta4), RFC 5854) that lies beside its files and is of these files
    is served along with them.
  - Starts and reloads nothing. The configuration of nginx includes C(locations.conf), so what was served before stays
    until that configuration changes.
  - Removes earlier releases, but not the one that O(configuration) names.
extends_documentation_fragment:
  - baremetal.llm.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Shows branches and files that are served no longer or from now on, compared with the release in use.
  idempotent:
    support: full
  platform:
    support: full
    platforms: Linux
options:
  models:
    description: Models that are to be served.
    type: list
    elements: dict
    required: true
    suboptions:
      lock:
        description: Content of the lock file that M(baremetal.llm.model_lock) wrote.
        type: dict
        required: true
      branches:
        description:
          - Names under which clients may ask for this revision, beside its commit. V(main) is what they ask for when
            they name none.
          - A branch of a model means one revision.
        type: list
        elements: str
        default: []
      allow_files:
        description: Exact paths of files to accept although their format can run code when it is loaded.
        type: list
        elements: str
        default: []
  root:
    description: Folder that models are kept below, as C(<root>/<organisation>/<name>/<revision>).
    type: str
    default: /srv/models
  release_root:
    description: Folder that releases are written below. Its parent must exist.
    type: str
    default: /var/lib/baremetal-llm/mirror
  configuration:
    description: File of nginx that includes C(locations.conf) of the release in use.
    type: path
    default: /etc/nginx/conf.d/baremetal-llm-mirror.conf
  user:
    description:
      - User of nginx's workers, who must be able to read what is served. Empty means that this is not looked at, for a
        host on which nginx is not installed yet.
    type: str
    default: www-data
author:
  - baremetal.llm contributors (@baremetal-llm)
"""

EXAMPLES = r"""
- name: Say what is served
  baremetal.llm.hub_layout:
    models:
      - lock: "{{ lookup('ansible.builtin.file', 'locks/tiny.yml') | from_yaml }}"
        branches: [main]
  register: layout
"""

RETURN = r"""
release:
  description: Folder of the release.
  returned: success
  type: str
  sample: /var/lib/baremetal-llm/mirror/1f0c2b7a9d3e4f56
models:
  description: What is served.
  returned: success
  type: list
  elements: dict
  contains:
    model: {description: Name of the model., type: str}
    revision: {description: Commit., type: str}
    branches: {description: Branches that mean this commit., type: list, elements: str}
    files: {description: How many files., type: int}
    bytes: {description: Their size together., type: int}
    has_pieces: {description: Whether a manifest of their pieces is served as well., type: bool}
withheld:
  description: Models that are not served, each with the reasons in one text. They are warnings as well.
  returned: success
  type: list
  elements: str
  sample: ["demo/tiny at 7cf80f551317d7237f36932e23eb49b3c87a0da3: config.json was touched after it was verified"]
"""

import dataclasses
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.baremetal.llm.plugins.module_utils import hub_layout, hub_layout_release


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "models": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "lock": {"type": "dict", "required": True},
                    "branches": {"type": "list", "elements": "str", "default": []},
                    "allow_files": {"type": "list", "elements": "str", "default": []},
                },
            },
            "root": {"type": "str", "default": "/srv/models"},
            "release_root": {"type": "str", "default": "/var/lib/baremetal-llm/mirror"},
            "configuration": {"type": "path", "default": "/etc/nginx/conf.d/baremetal-llm-mirror.conf"},
            "user": {"type": "str", "default": "www-data"},
        },
        supports_check_mode=True,
    )
    params = module.params
    root, release_root = params["root"], params["release_root"]
    models, problems = hub_layout.parse_models(params["models"])
    problems += filter(None, (hub_layout.folder_problem(name, params[name]) for name in ("root", "release_root")))
    reader = None
    if params["user"]:
        try:
            reader = hub_layout_release.reader_named(params["user"])
        except ValueError as error:
            problems.append(str(error))
    if problems:
        module.fail_json(msg="Nothing was written: " + "; ".join(problems))
    served, withheld = [], []
    for model in models:
        obstacles = hub_layout_release.obstacles(model, root, reader)
        if obstacles:
            withheld.append(f"{model}: {'; '.join(obstacles)}")
        else:
            pieces = hub_layout_release.has_pieces(model, root, reader)
            served.append(dataclasses.replace(model, has_pieces=pieces))
    layout = hub_layout.build(served, root, release_root)
    in_use = hub_layout_release.release_in_use(params["configuration"], release_root)
    changed = not hub_layout_release.is_written(layout, release_root)
    if changed and not module.check_mode:
        try:
            hub_layout_release.write(layout, release_root, [in_use])
        except OSError as error:
            module.fail_json(msg=f"{error.filename or release_root}: {error.strerror}")
    for text in withheld:
        module.warn(f"not served: {text}")
    module.exit_json(
        changed=changed,
        release=os.path.join(release_root, layout.digest),
        models=[
            {
                "model": model.lock.model,
                "revision": model.lock.revision,
                "branches": list(model.branches),
                "files": len(model.lock.files),
                "bytes": model.lock.total_bytes,
                "has_pieces": model.has_pieces,
            }
            for model in served
        ],
        withheld=withheld,
        diff={
            "before_header": f"served by {in_use or 'nothing'}",
            "after_header": f"served by {layout.digest}",
            "before": hub_layout_release.index_of(release_root, in_use),
            "after": layout.files[hub_layout.INDEX_NAME].decode("utf-8"),
        },
    )


if __name__ == "__main__":
    main()
