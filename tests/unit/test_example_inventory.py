# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documented fleet is one that preflight would let through, once its models are locked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.site import Site
from ansible_collections.baremetal.llm.plugins.module_utils.site_validation import validate_site

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def inventory():
    """The example as Ansible reads it, warnings being errors."""
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", ROOT / "inventories/example", "--list"],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_INVENTORY_UNPARSED_FAILED": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "WARNING" not in done.stderr
    return json.loads(done.stdout)


def hosts_of(inventory, group):
    """The hosts of a group and of the groups below it."""
    entry = inventory.get(group, {})
    below = [host for child in entry.get("children", []) for host in hosts_of(inventory, child)]
    return list(dict.fromkeys([*entry.get("hosts", []), *below]))


def test_it_is_the_fleet_that_it_says_it_is(inventory):
    assert len(hosts_of(inventory, "gpu_hosts")) == 4
    assert len(hosts_of(inventory, "gateway_hosts")) == 2


def test_preflight_finds_nothing_once_the_models_are_locked(inventory):
    def locked(path, allow_files=()):
        return Lock("org/model", "a" * 40, (LockFile("model.safetensors", 1, "0" * 64),))

    variables = inventory["_meta"]["hostvars"]["gpu-a1"]
    groups = {name: hosts_of(inventory, name) for name in [*inventory, "all"] if name != "_meta"}
    site = Site(
        deployments=variables["llm_deployments"],
        models=variables["llm_models"],
        tenants=variables["llm_tenants"],
        groups=groups,
        engine_key_length=len(variables["llm_engine_api_key"]),
    )
    assert validate_site(site, reader=locked) == []
    deployed = {host for item in variables["llm_deployments"] for name in item["hosts"] for host in groups[name]}
    assert deployed == set(groups["gpu_hosts"])
