# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every seeded fault on fake hosts, from the description to the code: files, commands and a fake NVML, which the real
binding and the real gpu_info read, and gpu_parity judges. One fault gives exactly its code; healthy fleets give none.
"""

from __future__ import annotations

from typing import Any

import gpu_fleets
import gpu_host_faults
import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.parity import compare

KINDS = list(gpu_fleets.MACHINES)
FAULTS = [fault for fault in gpu_fleets.FAULTS if fault.name not in gpu_host_faults.NOT_OF_A_HOST]


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What gpu_info says of each healthy machine, of each fault, and of what is beside it."""
    hosts = {kind: gpu_host_faults.healthy(kind) for kind in KINDS}
    for fault in FAULTS:
        for name, changes in ((fault.name, gpu_host_faults.CHANGES), (f"beside {fault.name}", gpu_host_faults.OTHERS)):
            if fault.name in changes:
                hosts[name] = gpu_host_faults.healthy(fault.kind)
                changes[fault.name](hosts[name])
    return dict(zip(hosts, gpu_host_faults.read_all(list(hosts.values()))))


def codes(verdict: Any) -> set[tuple[str, str]]:
    return {(finding.host, finding.code) for finding in verdict.findings}


@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_fleet(facts: dict[str, Any], kind: str) -> None:
    hosts = {f"h{number}": facts[kind] for number in range(3)}
    verdict = compare(hosts, {name: {"engines": [gpu_fleets.VLLM], "container_toolkit": True} for name in hosts})
    assert (codes(verdict), verdict.verdict) == (set(), "pass")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_gives_its_code_only(facts: dict[str, Any], fault: gpu_fleets.Fault) -> None:
    hosts = {
        f"h{number}": facts[fault.name]
        if number <= max(fault.hosts, 1)
        else facts.get(f"beside {fault.name}", facts[fault.kind])
        for number in range(1, fault.of + 1)
    }
    verdict = compare(hosts, dict.fromkeys(hosts, fault.wanted), lock=fault.lock)
    expected = fault.found_on or list(hosts)[: fault.hosts or None]
    assert codes(verdict) == {(name, fault.code) for name in expected}


def test_every_fault_is_seeded_in_a_host() -> None:
    assert {fault.name for fault in FAULTS} == set(gpu_host_faults.CHANGES)
