# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway does with requests: before fake engines, which tell what reached them."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from openai import DefaultHttpxClient, OpenAI


def seen(answer) -> dict:
    """Return what the fake engine says it received."""
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["choices"][0]["message"]["content"])


def assert_error(answer, status: int, code: str) -> None:
    """An error is what an OpenAI client expects of one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == code
    assert answer.headers["X-Request-ID"]
    assert "max-age" in answer.headers["Strict-Transport-Security"]


# --- Keys


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_right_key_whatever_the_case_of_the_scheme(ask, scheme):
    assert ask(headers={"Authorization": f"{scheme} sk-alpha"}).status_code == 200


def test_a_tenant_may_have_two_keys(ask):
    assert ask(key="sk-alpha-old").status_code == 200


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer sk-wrong", "Basic sk-alpha", "sk-alpha"])
def test_no_key_or_a_wrong_one(ask, rested, authorization):
    answer = ask(key=None, headers={} if authorization is None else {"Authorization": authorization})
    assert_error(answer, 401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_digest_of_a_key_is_no_key(ask, rested, gateway):
    digest = gateway.check_output("grep -oE '[0-9a-f]{64} alpha' /etc/nginx/conf.d/baremetal-llm.conf").split()[0]
    assert_error(ask(key=digest), 401, "invalid_api_key")


def test_guessing_keys_is_throttled_and_hurts_nobody_else(ask, rested):
    with ThreadPoolExecutor(4) as pool:
        guesses = list(pool.map(lambda number: ask(key=f"sk-guess-{number}"), range(40)))
        served = ask()
    count = Counter(answer.status_code for answer in guesses)
    assert set(count) == {401, 429}
    assert count[429] > 10, count
    assert count[401] >= 5, count
    throttled = next(answer for answer in guesses if answer.status_code == 429)
    assert_error(throttled, 429, "rate_limit_exceeded")
    assert int(throttled.headers["Retry-After"]) >= 1
    assert served.status_code == 200


def test_the_key_of_the_client_stops_at_the_gateway(ask):
    got = seen(ask(headers={"Cookie": "a=b", "X-Forwarded-For": "203.0.113.1", "X-Api-Key": "sk-alpha"}))
    assert got["headers"]["authorization"] == "Bearer engine-key-0123456789abcdef"
    assert got["headers"]["host"] == "localhost"
    assert not {"cookie", "x-forwarded-for", "x-api-key"} & set(got["headers"])
    assert "sk-alpha" not in json.dumps(got)


# --- Routes and models


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/tokenize",
        "/invocations",
        "/score",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1/chat/completions/render",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/",
        "/v1/audio/transcriptions",
        "/v1/chat/completions/../load_lora_adapter",
        "/v1/chat/completions%2f..%2fload_lora_adapter",
        "/inference/v1/generate",
        "/reset_prefix_cache",
        "/@llm_chat/v1/chat/completions",
    ],
)
def test_other_routes_do_not_exist(ask, rested, path):
    assert_error(ask(path=path), 404, "not_found")
    assert_error(ask(path=path, key=None), 401, "invalid_api_key")


def test_internal_places_do_not_exist(ask):
    assert_error(ask(path="/_unauthenticated"), 404, "not_found")


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions?a=b", "/v1//chat/completions", "/v1/x/../chat/completions", "/v1/chat/%63ompletions"]
)
def test_engines_see_only_paths_of_the_gateways_making(ask, path):
    assert seen(ask(path=path))["path"] == "/v1/chat/completions"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(ask, method):
    answer = ask(method=method, data=b"{}")
    assert_error(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


def test_the_model_chooses_the_deployment(ask):
    assert {seen(ask(model="tiny"))["replica"] for dummy in range(8)} == {"9001", "9002"}
    assert seen(ask(model="org/Code-1"))["replica"] == "9003"


@pytest.mark.parametrize("model", ["nobody", "TINY", "toString", "__proto__", "chat", "tiny ", "x" * 5000])
def test_unknown_model(ask, model):
    answer = ask(model=model)
    assert_error(answer, 404, "model_not_found")
    assert answer.json()["error"]["param"] == "model"


@pytest.mark.parametrize("body", ["", "{", "tiny", '["tiny"]', "null", '{"model": "tiny"', b"\xff\xfe", "{" * 100])
def test_body_that_is_no_json_object(ask, body):
    assert_error(ask(data=body), 400, "invalid_json")


@pytest.mark.parametrize("model", ["{}", '{"model": null}', '{"model": 1}', '{"model": ""}', '{"model": ["tiny"]}'])
def test_body_without_a_model(ask, model):
    assert_error(ask(data=model), 400, "missing_required_parameter")


def test_deeply_nested_json(ask):
    """njs's own JSON parser gives up at 32 levels; JSON schemas of tools can be deeper."""
    schema: object = {"model": "nobody"}
    for dummy in range(40):
        schema = {"properties": [schema, '\\"}]', "é"]}
    assert seen(ask(model="org/Code-1", tools=[schema]))["replica"] == "9003"
    body = json.dumps({"tools": [schema], "mod\u0065l": "tiny"})
    assert seen(ask(data=body))["replica"] in {"9001", "9002"}
    assert_error(ask(model="nobody", tools=[schema]), 404, "model_not_found")
    assert_error(ask(data=json.dumps({"tools": [schema]})), 400, "missing_required_parameter")


def test_of_two_models_both_sides_take_the_last(ask):
    answer = ask(data='{"model": "org/Code-1", "model": "tiny"}')
    assert seen(answer)["replica"] in {"9001", "9002"}
    assert answer.json()["model"] == "tiny"


def test_models_are_listed_from_the_configuration(ask, address, ca_file, rested):
    trust = ssl.create_default_context(cafile=ca_file)
    with DefaultHttpxClient(verify=trust, trust_env=False) as http:
        client = OpenAI(base_url=f"https://{address}/v1", api_key="sk-alpha", http_client=http, max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny", "org/Code-1", "locked", "gone"]
        assert client.models.retrieve("org/Code-1").id == "org/Code-1"
    assert_error(ask(path="/v1/models/nobody", method="GET"), 404, "model_not_found")
    assert_error(ask(path="/v1/models", method="DELETE"), 405, "method_not_allowed")
    assert_error(ask(path="/v1/models", method="GET", key=None), 401, "invalid_api_key")


def test_health_needs_no_key_and_tells_nothing(ask):
    answer = ask(path="/healthz", method="GET", key=None)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


# --- Limits


def test_rate_limit_of_one_tenant_is_not_that_of_another(ask):
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(ask, key="sk-slow") for dummy in range(20)]
        other = [pool.submit(ask, key="sk-alpha") for dummy in range(20)]
        slow_count = Counter(answer.result().status_code for answer in slow)
        assert {answer.result().status_code for answer in other} == {200}
    # One and a burst of four at once, then one a second.
    assert 5 <= slow_count[200] <= 10, slow_count
    assert slow_count[200] + slow_count[429] == 20
    refused = next(answer.result() for answer in slow if answer.result().status_code == 429)
    assert_error(refused, 429, "rate_limit_exceeded")
    assert refused.headers["Retry-After"] == "1"


def test_concurrent_requests_of_a_tenant(ask):
    with ThreadPoolExecutor(8) as pool:
        narrow = [pool.submit(ask, key="sk-narrow", sleep_seconds=2) for dummy in range(6)]
        other = [pool.submit(ask, key="sk-alpha", sleep_seconds=1) for dummy in range(6)]
        assert Counter(answer.result().status_code for answer in narrow) == {200: 2, 429: 4}
        assert {answer.result().status_code for answer in other} == {200}
    assert ask(key="sk-narrow").status_code == 200, "the connections are given back"


def test_large_bodies(ask):
    megabyte = "x" * 1024 * 1024
    assert seen(ask(prompt=megabyte * 31))["body_bytes"] > 31 * 1024 * 1024
    assert_error(ask(prompt=megabyte * 33), 413, "request_too_large")


# --- Streams


@pytest.fixture
def streaming(ask):
    """Ask for a stream of the given shape."""

    def start(chunks: int = 10, chunk_seconds: float = 0.2, **more):
        body = {
            "model": "tiny",
            "messages": [],
            "stream": True,
            "chunks": chunks,
            "chunk_seconds": chunk_seconds,
        }
        return ask(data=json.dumps(body), stream=True, **more)

    return start


def test_chunks_arrive_one_by_one(streaming):
    begun = time.monotonic()
    with streaming(headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert "Content-Encoding" not in answer.headers
        arrivals = [time.monotonic() - begun for line in answer.iter_lines(chunk_size=1) if line]
    assert len(arrivals) == 11
    gaps = [later - earlier for earlier, later in zip(arrivals, arrivals[1:])]
    assert arrivals[0] < 1
    assert min(gaps[:9]) > 0.1, gaps


def test_a_reload_cuts_no_stream(streaming, gateway, ask):
    with streaming(chunks=20) as answer:
        lines = answer.iter_lines(chunk_size=1)
        begun = [line for line in (next(lines) for dummy in range(6)) if line]
        workers = gateway.check_output("pgrep -f 'nginx: worker process$'")
        gateway.check_output("systemctl reload nginx")
        rest = [line for line in lines if line]
    assert len(begun + rest) == 21
    assert rest[-1] == b"data: [DONE]"
    assert gateway.check_output("pgrep -f 'nginx: worker process$'") != workers, "it was reloaded"
    assert ask().status_code == 200


def test_a_client_that_hangs_up_ends_its_generation(streaming, gateway):
    def hung_up() -> int:
        fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
        counts = [
            gateway.check_output("python3 -c %s %s", fetch, f"http://127.0.0.1:{port}/hung_up") for port in (9001, 9002)
        ]
        return sum(json.loads(count)["hung_up"] for count in counts)

    before = hung_up()
    with streaming(chunks=100, chunk_seconds=0.1) as answer:
        next(answer.iter_lines(chunk_size=1))
    deadline = time.monotonic() + 5
    while hung_up() == before:
        assert time.monotonic() < deadline, "the engine goes on for nobody"
        time.sleep(0.2)


def test_a_client_that_hangs_up_before_the_first_token_ends_its_request(address, ca_file, gateway):
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            f"https://{address}/v1/chat/completions",
            json={"model": "org/Code-1", "messages": [], "sleep_seconds": 4},
            headers={"Authorization": "Bearer sk-alpha"},
            verify=ca_file,
            timeout=(10, 0.5),
        )
    time.sleep(1)
    log = gateway.file("/var/log/nginx/baremetal-llm.log").content_string.splitlines()
    # nginx's status for a client that has gone; the request to the engine ended with it.
    assert json.loads(log[-1])["status"] == "499"


# --- Engines that fail


def test_errors_of_an_engine_about_a_request_are_passed_on(ask):
    for status in (400, 404, 413, 422, 429, 500):
        answer = ask(status=status)
        assert (answer.status_code, answer.json()["error"]["message"]) == (status, "as told")


def test_an_engine_that_refuses_the_gateway_is_not_the_clients_fault(ask):
    assert_error(ask(model="locked"), 502, "engine_refused_gateway")


def test_no_engine(ask):
    assert_error(ask(model="gone"), 502, "engine_unreachable")


def test_an_engine_that_does_not_answer(ask):
    assert_error(ask(model="org/Code-1", sleep_seconds=7), 504, "engine_timeout")


def test_a_replica_that_is_down_is_not_noticed_by_clients(ask, gateway):
    gateway.check_output("systemctl stop fake-engine@9001")
    try:
        assert {seen(ask())["replica"] for dummy in range(20)} == {"9002"}
        gateway.check_output("systemctl stop fake-engine@9002")
        assert_error(ask(), 502, "engine_unreachable")
    finally:
        gateway.check_output("systemctl start fake-engine@9001 fake-engine@9002")
    deadline = time.monotonic() + 20
    while ask().status_code != 200:
        assert time.monotonic() < deadline, "replicas that are back are not used again"
        time.sleep(0.5)


def test_a_request_that_an_engine_has_begun_is_never_sent_twice(ask, gateway):
    """An engine that dies over a request gives the client an error, not another engine the same request."""
    answers = []
    killed = threading.Thread(target=lambda: answers.append(ask(sleep_seconds=3)))
    killed.start()
    time.sleep(1)
    gateway.check_output("systemctl kill --signal=SIGKILL fake-engine@9001 fake-engine@9002")
    killed.join()
    gateway.check_output("systemctl start fake-engine@9001 fake-engine@9002")
    assert_error(answers[0], 502, "engine_unreachable")
    log = [json.loads(line) for line in gateway.file("/var/log/nginx/baremetal-llm.log").content_string.splitlines()]
    mine = next(line for line in log if line["request_id"] == answers[0].headers["X-Request-ID"])
    assert "," not in mine["upstream"], mine
