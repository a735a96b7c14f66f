# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.baremetal.llm.plugins.filter.site import FilterModule

FILTERS = FilterModule().filters()
GROUPS = {"all": ["g1", "w1"], "gpu_hosts": ["g1"], "gateway_hosts": ["w1"]}
HOSTVARS = {"g1": {"llm_address": "10.0.0.1"}, "w1": {"llm_address": "10.0.0.2"}}
CHAT = {"name": "chat", "engine": "vllm", "model": "tiny", "hosts": ["gpu_hosts"], "port": 8000}


def test_names_are_those_the_playbooks_use():
    assert sorted(FILTERS) == [
        "engine_clients",
        "engine_deployments",
        "firewall_rules",
        "gateway_deployments",
        "gpu_engines",
        "host_address",
        "host_models",
        "readiness_request",
    ]


def test_a_filter_hands_its_arguments_on():
    assert FILTERS["firewall_rules"]([CHAT], "g1", GROUPS, HOSTVARS) == [
        {"name": "chat", "port": 8000, "allow": ["10.0.0.2"]}
    ]


def test_a_missing_key_is_an_error_that_leads_to_preflight():
    with pytest.raises(AnsibleFilterError, match=r"gateway_deployments.*'model'.*baremetal\.llm\.preflight"):
        FILTERS["gateway_deployments"]([{"name": "chat", "port": 1, "hosts": []}], GROUPS, HOSTVARS)


def test_an_unknown_model_is_named():
    with pytest.raises(AnsibleFilterError, match="llm_models has no model named 'tiny'"):
        FILTERS["engine_deployments"]([CHAT], [], "vllm", "g1", GROUPS, HOSTVARS)


def test_a_lock_file_that_is_not_there_is_named():
    with pytest.raises(AnsibleFilterError, match="/nowhere/tiny.yml: cannot be read"):
        FILTERS["engine_deployments"](
            [CHAT], [{"name": "tiny", "lock": "/nowhere/tiny.yml"}], "vllm", "g1", GROUPS, HOSTVARS
        )
