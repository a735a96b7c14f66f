# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `gpu_parity` finds arrives in the report: nothing is lost, and it is marked where it belongs."""

from __future__ import annotations

import re

import gpu_fleets
import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report import FACT_COLUMNS, Answer, build
from ansible_collections.baremetal.llm.plugins.module_utils.parity import compare
from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import CODES
from ansible_collections.baremetal.llm.plugins.module_utils.parity_fleet import BY_NAME


def report(hosts, wanted=None, lock=None):
    parity = compare(hosts, dict.fromkeys(hosts, wanted or {}), lock=lock).as_dict()
    answers = {name: Answer(facts, "" if facts else "down") for name, facts in hosts.items()}
    return build(answers, parity, "2026-11-20T17:00:00Z", "baremetal.llm 0.1.0")


@pytest.mark.parametrize("kind", gpu_fleets.MACHINES)
def test_healthy_hosts(kind):
    made = report(gpu_fleets.fleet(kind, 3))
    assert (made["verdict"], made["differences"]) == ("pass", [])
    assert {cell["state"] for row in made["hosts"] for cell in row["cells"]} <= {"", "quiet"}


def test_healthy_hosts_of_several_kinds():
    hosts = {f"{kind}-{number}": gpu_fleets.machine(kind) for kind in gpu_fleets.MACHINES for number in (1, 2)}
    made = report(hosts)
    assert made["verdict"] == "pass"
    # Each kind has a VBIOS of its own to be measured by, and none is an outlier.
    vbios = next(item for item in made["differences"] if item["title"] == "VBIOS")
    assert {item["about"] for item in vbios["baselines"]} == {machine[0] for machine in gpu_fleets.MACHINES.values()}
    assert {value["state"] for value in vbios["values"]} == {""}


@pytest.mark.parametrize("fault", gpu_fleets.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_told_with_its_action(fault):
    hosts = gpu_fleets.seeded(fault)
    made = report(hosts, fault.wanted, fault.lock)
    expected = set(fault.found_on or list(hosts)[: fault.hosts or None])
    # One code can be found with two severities; the worst comes first.
    assert {group["code"] for group in made["findings"]} == {fault.code}
    group = made["findings"][0]
    assert set(group["hosts"]) == expected
    assert all(case["action"] and case["cause"] for case in group["cases"])
    assert {row["host"] for row in made["hosts"] if row["findings"]} == expected
    assert made["verdict"] == {"error": "fail", "warning": "warn", "note": "pass"}[group["severity"]]
    column = next((column.title for column in FACT_COLUMNS if re.fullmatch(column.codes, fault.code)), None)
    titles = [item["title"] for item in made["columns"]]
    if column in titles and fault.code != "baseline-tie":
        marked = [
            row["host"] for row in made["hosts"] if row["cells"][titles.index(column)]["state"] == group["severity"]
        ]
        assert set(marked) == expected


def test_columns_know_what_there_is_to_find():
    assert {subject for column in FACT_COLUMNS for subject in column.subjects} <= set(BY_NAME)
    for column in FACT_COLUMNS:
        for pattern in column.codes.split("|") if "(" not in column.codes else [column.codes]:
            assert any(re.fullmatch(pattern, code) for code in CODES), f"{column.title}: nothing is called {pattern}"
    for code in CODES:
        assert sum(bool(re.fullmatch(column.codes, code)) for column in FACT_COLUMNS) <= 1


def test_a_host_that_was_not_asked():
    made = report({**gpu_fleets.fleet("t4_1", 2), "h3": None})
    assert (made["verdict"], made["hosts"][0]["verdict"], made["hosts"][0]["problem"]) == ("fail", "absent", "down")
    assert [group["code"] for group in made["findings"]] == ["host-without-answer"]
