# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Make the collection importable under its real name, whatever started pytest.

Under ``ansible-test units`` it already is. Under a bare ``pytest`` the checkout is reached through the link
``.cache/collections/ansible_collections/baremetal/llm``, the same that ansible.cfg uses; it is made here when missing.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _link_collection() -> Path:
    collections = ROOT / ".cache" / "collections"
    link = collections / "ansible_collections" / "baremetal" / "llm"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        # Another worker may have made it a moment ago.
        with contextlib.suppress(FileExistsError):
            link.symlink_to(Path("..", "..", "..", ".."), target_is_directory=True)
    return collections


def _importable_from_here() -> bool:
    try:
        spec = importlib.util.find_spec("ansible_collections.baremetal.llm")
    except ModuleNotFoundError:
        return False
    if spec is None:
        return False
    # An installed copy of the collection must not be tested in place of the checkout.
    return any(Path(place).resolve() == ROOT for place in spec.submodule_search_locations or [])


if not _importable_from_here():
    # First on the path, so that the folders of the `ansible` package in site-packages only add to it.
    sys.path.insert(0, str(_link_collection()))
    for name in [name for name in sys.modules if name.split(".")[0] == "ansible_collections"]:
        del sys.modules[name]
    importlib.invalidate_caches()

# The project's own scripts are tested as modules.
sys.path.insert(0, str(ROOT / "tools"))

# Hypothesis remembers failing examples; like everything that is made here, it belongs in .cache.
with contextlib.suppress(ImportError):
    from hypothesis.configuration import set_hypothesis_home_dir

    set_hypothesis_home_dir(ROOT / ".cache" / "hypothesis")
