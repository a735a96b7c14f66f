# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway before a real engine. What it does with every kind of request is tested in the scenario `gateway`."""

from __future__ import annotations

import json
import time
from collections import Counter

import openai
import pytest
import requests


@pytest.fixture
def ask(endpoint):
    """Return a function that sends one request as the tenant."""

    def send(method: str, path: str, key: str | None = None, **more) -> requests.Response:
        url = endpoint.base_url.removesuffix("/v1") + path
        headers = {"Authorization": f"bearer {endpoint.api_key if key is None else key}"}
        return requests.request(method, url, headers=headers, verify=endpoint.ca_file, timeout=60, **more)

    return send


@pytest.mark.parametrize("path", ["/health", "/metrics", "/version"])
def test_what_the_engine_tells_the_gateways_host_it_tells_no_tenant(ask, gateway, engine_addresses, path):
    code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).status)"
    assert gateway.check_output("python3 -c %s %s", code, f"http://{engine_addresses[0]}:8000{path}") == "200"
    answer = ask("GET", path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path", ["/tokenize", "/invocations", "/v1/load_lora_adapter", "/v1/chat/completions/render", "/reset_prefix_cache"]
)
def test_routes_that_are_not_for_tenants(ask, endpoint, path):
    answer = ask("POST", path, json={"model": endpoint.model, "prompt": "Hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_key_of_the_engines_is_no_key_of_the_gateway(ask, secrets):
    assert ask("GET", "/v1/models", key=secrets["engine_api_key"]).status_code == 401


def test_a_request_can_be_followed_from_the_client_to_the_replica(ask, gateway, endpoint, engine_addresses):
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    answer = ask("POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    lines = gateway.file("/var/log/nginx/baremetal-llm.log").content_string.splitlines()
    entries = [json.loads(line) for line in lines]
    entry = next(entry for entry in entries if entry["request_id"] == answer.headers["X-Request-ID"])
    assert entry["tenant"]
    assert entry["deployment"] == "chat"
    assert entry["upstream"] in {f"{address}:8000" for address in engine_addresses}


def test_wrong_keys_are_throttled_and_the_right_one_is_not(endpoint):
    statuses = Counter()
    try:
        for number in range(15):
            with pytest.raises(openai.APIStatusError) as refusal:
                endpoint.client(api_key=f"sk-guess-{number}").models.list()
            statuses[refusal.value.status_code] += 1
        assert endpoint.client().models.list().data
    finally:
        # Whatever asks next with a wrong key expects a 401: five answers of burst come back at one in two seconds.
        time.sleep(12)
    assert set(statuses) == {401, 429}
