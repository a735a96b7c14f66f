# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import gateway

DIGEST = {letter: letter * 64 for letter in "abcdef"}
LIMITS = {"requests_per_minute": 600, "burst": 20, "concurrent_requests": 16}


def resolver(name: str) -> list[str]:
    known = {"engine-1": ["10.0.0.1"], "engine-6": ["fd00::6"], "nothing": []}
    if name not in known:
        raise OSError(name)
    return known[name]


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "server_names": ["llm.example.org"],
        "deployments": [{"name": "chat", "served_model_name": "org/Model-1.5", "replicas": ["10.0.0.5:8000"]}],
        "tenants": [{"name": "team-a", "key_sha256": DIGEST["a"]}],
        "tenant_limits": LIMITS,
        "routes": ["/v1/chat/completions"],
        "engine_api_key": "0123456789abcdef",
        "tls_certificate": "",
        "tls_private_key": "",
        **changes,
    }


def problems(**changes: Any) -> list[str]:
    return gateway.plan(settings(**changes), resolver)["problems"]


def test_a_site_without_problems() -> None:
    plan = gateway.plan(settings(), resolver)
    assert plan["problems"] == []
    assert plan["deployments"] == [{"name": "chat", "served_model_name": "org/Model-1.5", "servers": ["10.0.0.5:8000"]}]
    assert plan["tenants"] == [{"name": "team-a", "digests": [DIGEST["a"]], "retry_after": 1, **LIMITS}]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"engine_api_key": ""}, "gateway_engine_api_key is empty"),
        ({"engine_api_key": "short"}, "gateway_engine_api_key must be 16"),
        ({"engine_api_key": '0123456789abcdef"; evil'}, "gateway_engine_api_key must be 16"),
        ({"engine_api_key": "0123456789abcdef\n"}, "gateway_engine_api_key must be 16"),
        ({"tenants": []}, "gateway_tenants is empty"),
        ({"deployments": []}, "gateway_deployments is empty"),
        ({"routes": []}, "gateway_routes is empty"),
        ({"routes": ["/v1/load_lora_adapter"]}, "'/v1/load_lora_adapter' is not a route"),
        ({"server_names": ["a b"]}, "'a b' is no host name"),
        ({"server_names": ["llm.example.org; evil"]}, "is no host name"),
        ({"tls_certificate": "x.pem"}, "belong together"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], part: str) -> None:
    found = problems(**changes)
    assert len(found) == 1
    assert part in found[0]


@pytest.mark.parametrize(
    ("tenant", "part"),
    [
        ({"name": "Team A"}, "name must be lower-case"),
        ({"name": ""}, "name must be lower-case"),
        ({"name": "default"}, "means something else to nginx"),
        ({"key_sha256": "sk-clear"}, "64 hexadecimal digits"),
        ({"key_sha256": DIGEST["a"] + "\n"}, "64 hexadecimal digits"),
        ({"key_sha256": []}, "key_sha256 is missing"),
        ({"requests_per_minute": 0}, "requests_per_minute must be a whole number, at least 1"),
        ({"burst": -1}, "burst must be a whole number, at least 0"),
        ({"concurrent_requests": "many"}, "concurrent_requests must be a whole number, at least 1"),
    ],
)
def test_a_tenant_that_cannot_work(tenant: dict[str, Any], part: str) -> None:
    found = problems(tenants=[{"name": "team-b", "key_sha256": DIGEST["b"], **tenant}])
    assert len(found) == 1
    assert part in found[0]
    assert "gateway_tenants[0]" in found[0]
    assert "sk-clear" not in found[0], "what was given may be a key in clear text"


def test_one_key_is_one_tenants_and_one_name_is_one_tenants() -> None:
    found = problems(
        tenants=[
            {"name": "one", "key_sha256": DIGEST["a"]},
            {"name": "two", "key_sha256": DIGEST["a"].upper()},
            {"name": "one", "key_sha256": DIGEST["b"]},
        ]
    )
    assert len(found) == 2
    assert "gateway_tenants[1] (two): key_sha256 is already the key of one" in found[0]
    assert "gateway_tenants[2] (one): this name is used twice" in found[1]


def test_every_problem_is_found_in_one_go() -> None:
    assert len(gateway.plan({}, resolver)["problems"]) == 4


def test_tenants_with_equal_limits_share_a_zone_whose_name_is_its_limits() -> None:
    tenants = [
        {"name": "b", "key_sha256": DIGEST["b"]},
        {"name": "a", "key_sha256": [DIGEST["a"], DIGEST["c"]]},
        {"name": "c", "key_sha256": DIGEST["d"], "burst": 5, "requests_per_minute": 7},
    ]
    plan = gateway.plan(settings(tenants=tenants), resolver)
    assert plan["rate_classes"] == [
        {"name": "7_5", "requests_per_minute": 7, "burst": 5, "tenants": ["c"]},
        {"name": "600_20", "requests_per_minute": 600, "burst": 20, "tenants": ["a", "b"]},
    ]
    assert plan["connection_classes"] == [{"name": "16", "concurrent_requests": 16, "tenants": ["a", "b", "c"]}]
    assert [tenant["retry_after"] for tenant in plan["tenants"]] == [1, 1, 9]


@pytest.mark.parametrize(
    ("replica", "server"),
    [
        ("10.0.0.5:8000", "10.0.0.5:8000"),
        ("engine-1:8000", "10.0.0.1:8000"),
        ("engine-6:8000", "[fd00::6]:8000"),
        ("[fd00::7]:8000", "[fd00::7]:8000"),
    ],
)
def test_replicas_become_addresses(replica: str, server: str) -> None:
    deployments = [{"name": "chat", "served_model_name": "m", "replicas": [replica]}]
    plan = gateway.plan(settings(deployments=deployments), resolver)
    assert (plan["problems"], plan["deployments"][0]["servers"]) == ([], [server])


@pytest.mark.parametrize(
    ("deployment", "part"),
    [
        ({"replicas": []}, "replicas is empty"),
        ({"replicas": ["10.0.0.5"]}, "is not address:port"),
        ({"replicas": ["10.0.0.5:0"]}, "is not address:port"),
        ({"replicas": ["10.0.0.5:8000; evil"]}, "is not address:port"),
        ({"replicas": ["unknown:8000"]}, "cannot resolve 'unknown'"),
        ({"replicas": ["nothing:8000"]}, "cannot resolve 'nothing'"),
        ({"name": "Chat"}, "name must be lower-case"),
        ({"served_model_name": "it's"}, "served_model_name"),
        ({"served_model_name": "$model"}, "served_model_name"),
    ],
)
def test_a_deployment_that_cannot_work(deployment: dict[str, Any], part: str) -> None:
    given = {"name": "chat", "served_model_name": "m", "replicas": ["10.0.0.5:8000"], **deployment}
    found = problems(deployments=[given])
    assert len(found) == 1
    assert part in found[0]


def test_one_model_is_one_deployments() -> None:
    first = {"name": "one", "served_model_name": "m", "replicas": ["10.0.0.5:8000"]}
    assert "is also that of one" in problems(deployments=[first, {**first, "name": "two"}])[0]
    assert "used twice" in problems(deployments=[first, {**first, "served_model_name": "n"}])[0]


def test_names_for_the_certificate_and_for_host_headers() -> None:
    names = ["llm.example.org", "10.0.0.1", "fd00::1", "10.0.0.1"]
    assert gateway.subject_alternative_names(names) == ["DNS:llm.example.org", "IP:10.0.0.1", "IP:fd00::1"]
    assert gateway.server_names(names) == ["llm.example.org", "10.0.0.1", "[fd00::1]"]


def test_names_resolve_in_a_stable_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", (address, 0)) for address in ("fd00::1", "10.0.0.2", "10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr(gateway.socket, "getaddrinfo", lambda *_args, **_options: found)
    assert gateway.resolve("engine-1") == ["10.0.0.1", "10.0.0.2", "fd00::1"]
