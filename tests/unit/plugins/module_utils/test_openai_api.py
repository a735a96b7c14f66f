# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to a real local HTTP server that answers well, badly, or not to the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.openai_api import (
    CHECKS,
    Client,
    EndpointError,
    ask,
    error_text,
    stream_events,
)


class Endpoint(ThreadingHTTPServer):
    """A server whose faults a test switches on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: set[str] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self) -> bool:
        if "no_key_check" in self.server.faults or self.headers.get("Authorization") == "Bearer right":
            return False
        self.answer(401, {"error": {"message": "invalid key"}})
        return True

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(503 if "unhealthy" in self.server.faults else 200, b"")
        elif not self.refused():
            self.answer(200, {"data": [{"id": "other" if "other_model" in self.server.faults else "tiny"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        if "error_500" in self.server.faults:
            self.answer(500, {"error": {"message": "engine dead"}})
        elif request.get("stream"):
            chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("a", "b", "")]
            body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
            self.answer(200, body if "cut" in self.server.faults else body + b"data: [DONE]\n\n")
        elif "no_choice" in self.server.faults:
            self.answer(200, {"choices": []})
        else:
            self.answer(200, {"choices": [{"text": "x", "message": {}}], "usage": {"completion_tokens": 3}})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def report(endpoint: Endpoint, *checks: str) -> Any:
    return ask(Client(endpoint.base_url, "tiny", "right", timeout=5), checks or CHECKS)


def test_a_good_endpoint_passes_every_check(endpoint: Endpoint) -> None:
    result = report(endpoint)
    assert result.ok, result.failures()
    assert [entry.name for entry in result.results] == list(CHECKS)


def test_stream_counts_only_chunks_with_text_and_times_the_first(endpoint: Endpoint) -> None:
    (result,) = report(endpoint, "stream").results
    assert result.chunks == 2
    assert result.time_to_first_token is not None
    assert 0 <= result.time_to_first_token <= result.seconds


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("unhealthy", "health", "HTTP 503"),
        ("other_model", "models", "tiny is not among the models served: other"),
        ("error_500", "chat", "HTTP 500: engine dead"),
        ("error_500", "completion", "engine dead"),
        ("no_choice", "chat", "no choice"),
        ("cut", "stream", "without [DONE]"),
        ("no_key_check", "wrong_key", "HTTP 200, not 401"),
    ],
)
def test_a_fault_fails_its_check_with_the_reason(endpoint: Endpoint, fault: str, check: str, words: str) -> None:
    endpoint.faults.add(fault)
    result = report(endpoint)
    assert not result.ok
    assert [line for line in result.failures() if line.startswith(f"{check}: ") and words in line], result.failures()


def test_every_check_is_asked_though_the_first_failed(endpoint: Endpoint) -> None:
    endpoint.faults.add("unhealthy")
    result = report(endpoint, "health", "chat")
    assert [entry.ok for entry in result.results] == [False, True]


def test_no_server_is_a_sentence_not_a_trace() -> None:
    client = Client("http://127.0.0.1:9/v1", "tiny", timeout=2)
    (result,) = ask(client, ("chat",)).results
    assert not result.ok
    assert "no answer from http://127.0.0.1:9/v1/chat/completions" in result.message


def test_an_event_that_is_not_json_is_an_error() -> None:
    with pytest.raises(EndpointError, match="not JSON"):
        list(stream_events(iter([b"data: {"])))


def test_error_text_takes_the_message_or_what_there_is() -> None:
    assert error_text(429, '{"error": {"message": "slow down"}}') == "HTTP 429: slow down"
    assert error_text(502, "<html>") == "HTTP 502: <html>"
