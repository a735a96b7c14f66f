# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault gives exactly its code, and no other; healthy fleets give none."""

from __future__ import annotations

import re
from pathlib import Path

import gpu_fleets
import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.parity import EXPLAINED_BY, SPREADING, compare
from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import CODES

ROOT = Path(__file__).resolve().parents[2]


def codes(verdict):
    return {(finding.host, finding.code) for finding in verdict.findings}


@pytest.mark.parametrize("kind", gpu_fleets.MACHINES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_healthy_fleet(kind, count):
    hosts = gpu_fleets.fleet(kind, count)
    verdict = compare(hosts, {name: {"engines": [gpu_fleets.VLLM], "container_toolkit": True} for name in hosts})
    assert verdict.as_dict()["findings"] == []
    assert verdict.verdict == "pass"


def test_a_mixed_fleet_is_healthy():
    """Hosts of different kinds are not measured by each other."""
    hosts = {f"{kind}-{number}": gpu_fleets.machine(kind) for kind in gpu_fleets.MACHINES for number in (1, 2)}
    assert codes(compare(hosts, {})) == set()


@pytest.mark.parametrize("fault", gpu_fleets.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_gives_its_code_only(fault):
    hosts = gpu_fleets.seeded(fault)
    verdict = compare(hosts, dict.fromkeys(hosts, fault.wanted), lock=fault.lock)
    expected = fault.found_on or list(hosts)[: fault.hosts or None]
    assert codes(verdict) == {(name, fault.code) for name in expected}


def test_every_code_has_a_fault():
    assert {fault.code for fault in gpu_fleets.FAULTS} == CODES


def test_names_of_faults_differ():
    names = [fault.name for fault in gpu_fleets.FAULTS]
    assert len(names) == len(set(names)) >= 40


def test_causes_are_codes():
    assert CODES.issuperset(EXPLAINED_BY)
    assert CODES.issuperset(code for causes in EXPLAINED_BY.values() for code in causes)
    assert CODES.issuperset(SPREADING)
    assert [code for code, causes in EXPLAINED_BY.items() if code in causes] == []


def test_code_and_document_agree():
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    section = text.split("\n## GPU parity\n", 1)[1].split("\n## ", 1)[0]
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)
    assert sorted(documented) == sorted(CODES)
