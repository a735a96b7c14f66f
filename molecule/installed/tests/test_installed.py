# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tarball holds what a user needs and nothing else, and what it deployed serves."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import ansible.release
import pytest

ROOT = Path(__file__).resolve().parents[3]
INSTALLED = ROOT / ".cache/installed/ansible_collections/baremetal/llm"
sys.path.insert(0, str(ROOT / "molecule/default/tests"))

from conftest import *  # noqa: E402, F403  (the fixtures of the default scenario: the same endpoint is asked)
from test_endpoint import *  # noqa: E402, F403  (and the same questions)


@pytest.fixture(scope="module")
def names() -> set[str]:
    (tarball,) = (ROOT / ".cache/build").glob("baremetal-llm-*.tar.gz")
    with tarfile.open(tarball) as archive:
        return {member.name for member in archive if member.isfile()}


def test_the_tarball_holds_what_a_user_needs(names):
    for needed in (
        "README.md",
        "LICENSE",
        "meta/runtime.yml",
        "playbooks/site.yml",
        "plugins/modules/model_weights.py",
        "roles/vllm/meta/argument_specs.yml",
        "roles/host_tools/files/requirements.txt",
        "inventories/example/hosts.yml",
    ):
        assert needed in names


def test_the_tarball_holds_nothing_else(names):
    unwanted = (".", "molecule/", "tests/", "tools/", "requirements/core", "inventories/demo/", "benchmarks/")
    assert [name for name in sorted(names) if name.startswith(unwanted)] == []
    assert [name for name in names if name.endswith((".pyc", "generated.yml"))] == []


def test_the_installed_copy_is_the_one_that_ran(names):
    manifest = json.loads((INSTALLED / "MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest["collection_info"]["name"] == "llm"
    assert not INSTALLED.is_symlink()


def test_this_is_the_newest_core():
    """`make test` runs this scenario with the newest ansible-core; a fall-back to the other would prove nothing new."""
    assert tuple(int(part) for part in ansible.release.__version__.split(".")[:2]) >= (2, 21)
    assert sys.version_info >= (3, 12)
