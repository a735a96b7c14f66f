# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What the vllm role refuses and writes."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.baremetal.llm.plugins.module_utils import vllm_config


def deployment(**changes: Any) -> dict[str, Any]:
    return {
        "name": "chat",
        "model_path": "/srv/models/org/name/rev",
        "served_model_name": "tiny",
        "listen_address": "192.0.2.5",
        "port": 8000,
        "engine_options": {"max_model_len": 2048},
        "environment": {},
        **changes,
    }


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "accepted_advisories": [],
        "allowed_clients": ["192.0.2.1", "2001:db8::/64"],
        "api_key": "k" * 32,
        "deployments": [deployment()],
        "distribution": "Debian 12",
        "environment": {},
        "python": "/usr/bin/python3",
        "requirements": "/lock.txt",
        "requirements_exist": True,
        "supported": True,
        "system_python": "3.11",
        "version": "0.33.0",
        **changes,
    }


def test_good_settings_have_no_problem() -> None:
    assert vllm_config.problems(settings(), "gpu-1") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "0.32.0"}, ["vllm_version", "0.33.0", "GHSA-5r3c-5x4v-8gjh", "vllm_accepted_advisories"]),
        (
            {"version": "0.32.0", "accepted_advisories": ["GHSA-5r3c-5x4v-8gjh"]},
            ["vllm_version", "CVE-2026-105775"],
        ),
        ({"accepted_advisories": ["CVE-1"]}, ["vllm_accepted_advisories", "CVE-1"]),
        ({"version": "newest"}, ["vllm_version", "newest"]),
        ({"requirements_exist": False}, ["vllm_requirements", "/lock.txt"]),
        ({"supported": False, "distribution": "Fedora 41"}, ["Fedora 41", "Debian 12"]),
        ({"system_python": "3.10", "distribution": "Ubuntu 22.04"}, ["vllm_python", "3.10", "3.11"]),
        ({"api_key": "short"}, ["vllm_api_key", "openssl rand"]),
        ({"api_key": "k" * 31 + " k"}, ["vllm_api_key", "blanks"]),
        ({"allowed_clients": ["gateway.example"]}, ["vllm_allowed_clients", "gateway.example"]),
        ({"environment": {"VLLM_API_KEY": "x"}}, ["vllm_environment", "vllm_api_key"]),
        ({"environment": {"VLLM_SERVER_DEV_MODE": 1}}, ["vllm_environment", "VLLM_SERVER_DEV_MODE"]),
        ({"environment": {"A-B": 1}}, ["vllm_environment", "A-B"]),
        ({"environment": {"A": "b\nC=d"}}, ["vllm_environment", "line break"]),
        ({"deployments": [deployment(name="Chat")]}, ["vllm_deployments", "Chat", "lower-case"]),
        ({"deployments": [deployment(name="../x")]}, ["vllm_deployments", "../x"]),
        ({"deployments": [deployment(port=0)]}, ["vllm_deployments", "port 0"]),
        ({"deployments": [deployment(model_path="org/name")]}, ["model_path", "org/name"]),
        ({"deployments": [deployment(listen_address="0.0.0.0")]}, ["listen_address", "0.0.0.0", "every interface"]),
        ({"deployments": [deployment(listen_address="::")]}, ["listen_address", "every interface"]),
        ({"deployments": [deployment(listen_address="gpu-1")]}, ["listen_address", "gpu-1", "IP address"]),
        ({"deployments": [deployment(), deployment(port=8001)]}, ["2 deployments", "chat"]),
        ({"deployments": [deployment(), deployment(name="b")]}, ["port 8000", "chat and b"]),
        ({"deployments": [deployment(environment={"PYTHONOPTIMIZE": 1})]}, ["environment of chat", "PYTHONOPTIMIZE"]),
    ],
)
def test_one_problem_names_variable_host_and_way_out(changes: dict[str, Any], words: list[str]) -> None:
    (problem,) = vllm_config.problems(settings(**changes), "gpu-1")
    assert problem.startswith("gpu-1: ")
    for word in words:
        assert word in problem


@pytest.mark.parametrize("option", [*vllm_config.NEVER_OPTIONS, *vllm_config.ROLE_OPTIONS])
@pytest.mark.parametrize("spelling", [str, lambda option: option.replace("_", "-")])
def test_options_that_must_never_be_set(option: str, spelling: Any) -> None:
    (problem,) = vllm_config.option_problems("chat", {spelling(option): True})
    assert "engine_options." in problem and "chat" in problem and problem.endswith("Remove it")


def test_a_dangerous_option_may_be_switched_off() -> None:
    assert vllm_config.option_problems("chat", {"trust_remote_code": False}) == []


def test_an_option_without_a_value_is_refused() -> None:
    assert "has no value" in vllm_config.option_problems("chat", {"max_model_len": None})[0]


def test_all_problems_are_found_in_one_go() -> None:
    bad = settings(
        version="0.31.0", api_key="", deployments=[deployment(port=8000, engine_options={"host": "x"}), deployment()]
    )
    assert len(vllm_config.problems(bad, "gpu-1")) == 5


def test_a_python_of_the_sites_own_is_not_judged_by_the_distributions() -> None:
    assert vllm_config.problems(settings(system_python="3.10", python="/opt/python/bin/python3.12"), "h") == []


def test_configuration() -> None:
    written = vllm_config.engine_configuration(
        deployment(engine_options={"max_model_len": 2048, "disable-fastapi-docs": False}),
        {"disable_fastapi_docs": True, "sse_keep_alive_interval": 15},
    )
    assert written == {
        "disable-fastapi-docs": False,
        "host": "192.0.2.5",
        "max-model-len": 2048,
        "model": "/srv/models/org/name/rev",
        "port": 8000,
        "served-model-name": ["tiny"],
        "sse-keep-alive-interval": 15,
    }
    assert list(written) == sorted(written)


def test_an_ipv6_address_is_bracketed_in_the_url() -> None:
    assert vllm_config.engine_url(deployment(listen_address="2001:db8::5")) == "http://[2001:db8::5]:8000"


def test_environment_file() -> None:
    text = vllm_config.environment_file(
        deployment(environment={"B": "site $HOME"}), {"A": True, "B": "common"}, 'quo"te'
    )
    assert 'A="1"\n' in text
    assert 'B="site \\$HOME"\n' in text
    assert 'VLLM_API_KEY="quo\\"te"\n' in text
    assert 'ENGINE_URL="http://192.0.2.5:8000"\n' in text
    assert 'ENGINE_MODEL="tiny"\n' in text


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_quoted_values_come_back_as_they_were(text: str) -> None:
    # A POSIX shell reads a double-quoted word without expansions as systemd reads it.
    quoted = vllm_config.quote(text)
    assert shlex.split(quoted.replace("\\$", "$").replace("\\`", "`")) == [text]


def test_a_revision_changes_with_each_part() -> None:
    base = vllm_config.revision({"a": 1}, "text", "0.33.0")
    assert base == vllm_config.revision({"a": 1}, "text", "0.33.0")
    assert (
        len({base, vllm_config.revision({"a": 2}, "text", "0.33.0"), vllm_config.revision({"a": 1}, "", "0.33.0")}) == 3
    )


def test_addresses_hold_the_hosts_own_and_the_clients_once() -> None:
    found = vllm_config.addresses([deployment(), deployment(name="b")], ["192.0.2.1", "192.0.2.5"])
    assert found == ["192.0.2.1", "192.0.2.5"]


def test_obsolete_deployments_are_those_with_any_file_left() -> None:
    paths = ["/etc/x/chat.yaml", "/etc/x/chat.env", "/etc/x/old.env", "/etc/x/older.yaml"]
    assert vllm_config.obsolete(paths, [deployment()]) == ["old", "older"]


@pytest.mark.parametrize(
    ("current", "keep", "expected"),
    [
        ("/r/c", 2, ["/r/a"]),
        ("/r/a", 2, ["/r/b"]),
        ("/r/a", 1, ["/r/c", "/r/b"]),
        ("/r/a", 0, ["/r/c", "/r/b"]),
        ("/r/a", 3, []),
        ("/r/new", 2, ["/r/b", "/r/a"]),
    ],
)
def test_the_newest_releases_stay_and_the_current_one_always(current: str, keep: int, expected: list[str]) -> None:
    releases = [{"path": "/r/a", "ctime": 1.0}, {"path": "/r/c", "ctime": 3.0}, {"path": "/r/b", "ctime": 2.0}]
    assert vllm_config.prunable(releases, current, keep) == expected


def test_what_is_shown_of_a_deployment_holds_no_environment() -> None:
    shown = vllm_config.configurations([deployment(environment={"TOKEN": "secret"})], {})
    assert shown[0]["name"] == "chat"
    assert "secret" not in str(shown)


def test_units_are_outdated_by_their_own_changes_and_by_those_of_all() -> None:
    def revisions(*everywhere: str, key: str = "k", **changes: Any) -> list[str]:
        both = [deployment(**changes), deployment(name="b", port=8001)]
        return [unit["revision"] for unit in vllm_config.units(both, {}, {}, key, everywhere)]

    chat, other = revisions("unit")
    assert revisions("unit", environment={"A": "1"}) != [chat, other]
    assert revisions("unit", environment={"A": "1"})[1] == other
    assert all(new != old for new, old in zip(revisions("unit 2"), [chat, other]))
    assert all(new != old for new, old in zip(revisions("unit", key="l"), [chat, other]))
