# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host, its playbook, and the archives that stand in for NVIDIA's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / ".cache/testbed/toolkit/inventory"
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".cache/collections")


@pytest.fixture(scope="session")
def gpu() -> testinfra.host.Host:
    return testinfra.get_host("ansible://toolkit-1", ansible_inventory=str(INVENTORY), sudo=True)


@pytest.fixture(scope="session")
def converge() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the scenario's playbook with changed variables, by default only the packages."""

    def run(tags: str = "container_toolkit_install", **variables: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                *("-i", str(INVENTORY)),
                *("--tags", tags),
                *("--extra-vars", json.dumps(variables)),
                str(ROOT / "molecule/toolkit/converge.yml"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
