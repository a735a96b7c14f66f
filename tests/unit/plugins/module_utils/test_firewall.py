# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Whom the role host_firewall lets through."""

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.firewall import RuleError, plan


def lookup(name: str) -> list[str]:
    if name == "gateway":
        return ["192.0.2.1", "2001:db8::1"]
    if name == "printer":
        return ["fe80::1%eth0"]
    raise OSError(f"unknown name {name}")


def test_sources_are_split_by_family_and_overlaps_go() -> None:
    rules = [
        {"name": "b", "port": 8001},
        {"name": "a", "port": 8000, "allow": ["192.0.2.7", "192.0.2.0/24", "192.0.2.9/24", "gateway", "printer"]},
    ]
    assert plan(rules, "gpu-1", lookup) == [
        {"name": "a", "port": 8000, "ipv4": ["192.0.2.0/24"], "ipv6": ["2001:db8::1/128", "fe80::1/128"]},
        {"name": "b", "port": 8001, "ipv4": [], "ipv6": []},
    ]


def test_all_problems_at_once_with_variable_and_host() -> None:
    rules = [
        {"name": 'quote"', "port": 8000},
        {"name": "b", "port": 8000},
        {"name": "c", "port": 70000},
        {"name": "d", "port": 8001, "allow": ["nowhere"]},
    ]
    with pytest.raises(RuleError) as error:
        plan(rules, "gpu-1", lookup)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("gpu-1: host_firewall_rules: ") for line in lines)
    for line, word in zip(lines, ('quote"', "port 8000 is in", "70000", "unknown name nowhere")):
        assert word in line
