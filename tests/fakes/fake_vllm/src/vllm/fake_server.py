# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The server process of the fake: `vllm serve --config FILE`."""

from __future__ import annotations

import hmac
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKETS = (0.001, 0.01, 0.1, 1.0, 10.0)


def read_configuration(path: str) -> dict[str, Any]:
    """Read the flat YAML that the role writes: `key: value`, and lists of plain values."""
    found: dict[str, Any] = {}
    key = ""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("- "):
            found[key] = [*(found[key] or []), text[2:].strip("'\"")]
            continue
        key, dummy, value = text.partition(":")
        found[key] = value.strip().strip("'\"") or None
    return found


class Engine:
    """The engine process and what is counted about it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["VLLM::EngineCore", str(Path(__file__).with_name("fake_engine_core.py"))],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lock = threading.Lock()
        self.counts_lock = threading.Lock()
        self.token_seconds = float(os.environ.get("FAKE_VLLM_TOKEN_SECONDS", "0"))
        self.running = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.succeeded = 0
        self.first_token_seconds: list[float] = []

    def alive(self) -> bool:
        """Whether the engine process is there; a stopped one is."""
        return self.process.poll() is None

    def tokens(self, words: list[str], limit: int) -> Iterator[str]:
        """Send words through the engine process, one at a time."""
        started = time.monotonic()
        with self.counts_lock:
            self.running += 1
        try:
            for number, word in enumerate((words * (limit // max(len(words), 1) + 1))[:limit]):
                if self.token_seconds:
                    time.sleep(self.token_seconds)
                with self.lock:
                    if self.process.stdin is None or self.process.stdout is None:
                        return
                    self.process.stdin.write(json.dumps(word) + "\n")
                    self.process.stdin.flush()
                    token = json.loads(self.process.stdout.readline())
                with self.counts_lock:
                    self.generation_tokens += 1
                    if number == 0:
                        # Like the real one, after the prefill: a request that hangs moves no counter.
                        self.prompt_tokens += len(words)
                        self.first_token_seconds.append(time.monotonic() - started)
                yield token + " "
            with self.counts_lock:
                self.succeeded += 1
        finally:
            with self.counts_lock:
                self.running -= 1

    def metrics(self, model: str) -> str:
        """Return the counts under vLLM's names, as Prometheus reads them."""
        labels = f'engine="0",model_name="{model}"'
        lines = []
        for name, kind, value in (
            ("num_requests_running", "gauge", float(self.running)),
            ("num_requests_waiting", "gauge", 0.0),
            ("kv_cache_usage_perc", "gauge", min(self.running / 16, 1.0)),
            ("num_preemptions_total", "counter", 0.0),
            ("prefix_cache_queries_total", "counter", float(self.prompt_tokens)),
            ("prefix_cache_hits_total", "counter", 0.0),
            ("prompt_tokens_total", "counter", float(self.prompt_tokens)),
            ("generation_tokens_total", "counter", float(self.generation_tokens)),
        ):
            lines += [f"# TYPE vllm:{name} {kind}", f"vllm:{name}{{{labels}}} {value}"]
        lines += [
            "# TYPE vllm:request_success_total counter",
            f'vllm:request_success_total{{{labels},finished_reason="length"}} {float(self.succeeded)}',
            "# TYPE vllm:time_to_first_token_seconds histogram",
        ]
        for bucket in (*BUCKETS, float("inf")):
            count = sum(seconds <= bucket for seconds in self.first_token_seconds)
            name = "+Inf" if bucket == float("inf") else str(bucket)
            lines.append(f'vllm:time_to_first_token_seconds_bucket{{{labels},le="{name}"}} {float(count)}')
        lines += [
            f"vllm:time_to_first_token_seconds_count{{{labels}}} {float(len(self.first_token_seconds))}",
            f"vllm:time_to_first_token_seconds_sum{{{labels}}} {sum(self.first_token_seconds)}",
        ]
        return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    """Answers like vLLM's API server."""

    protocol_version = "HTTP/1.1"
    engine: Engine
    model: str

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the name of the base class)
        """Say nothing about requests."""

    def answer(self, status: int, body: Any, kind: str = "application/json") -> None:
        """Send a whole answer."""
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def authorised(self) -> bool:
        """Whether the request carries the key; without a key everybody does."""
        key = os.environ.get("VLLM_API_KEY", "")
        if not key or not self.path.startswith("/v1"):
            return True
        if hmac.compare_digest(self.headers.get("Authorization", "").encode(), f"Bearer {key}".encode()):
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def do_GET(self) -> None:
        """Answer what reads."""
        if not self.authorised():
            return
        if self.path in ("/health", "/ping"):
            self.answer(200 if self.engine.alive() else 503, "", "text/plain")
        elif self.path == "/metrics":
            self.answer(200, self.engine.metrics(self.model), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/version":
            self.answer(200, {"version": importlib.metadata.version("vllm")})
        elif self.path == "/load":
            self.answer(200, {"server_load": self.engine.running})
        elif self.path == "/v1/models":
            one = {"id": self.model, "object": "model", "created": int(time.time()), "owned_by": "vllm"}
            self.answer(200, {"object": "list", "data": [one]})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        """Answer what generates."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if not self.authorised():
            return
        chat = self.path == "/v1/chat/completions"
        if not chat and self.path != "/v1/completions":
            self.answer(404, {"detail": "Not Found"})
            return
        try:
            request = json.loads(body)
        except ValueError:
            self.error(400, "the body is not JSON")
            return
        if request.get("model") != self.model:
            self.error(404, f"The model `{request.get('model')}` does not exist.")
            return
        prompt = str(request["messages"][-1]["content"] if chat else request.get("prompt", ""))
        limit = int(request.get("max_completion_tokens") or request.get("max_tokens") or 16)
        words = prompt.split() or ["nothing"]
        if request.get("stream"):
            self.stream(chat, words, limit, bool((request.get("stream_options") or {}).get("include_usage")))
            return
        text = "".join(self.engine.tokens(words, limit))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        choice.update({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
        self.answer(200, {**self.frame(chat, False), "choices": [choice], "usage": self.usage(words, limit)})

    def error(self, status: int, message: str) -> None:
        """Send an error in OpenAI's shape."""
        self.answer(status, {"error": {"message": message, "type": "invalid_request_error", "code": status}})

    def frame(self, chat: bool, streaming: bool) -> dict[str, Any]:
        """Return what every answer has around its choices."""
        kind = ("chat.completion.chunk" if streaming else "chat.completion") if chat else "text_completion"
        return {"id": f"cmpl-{time.monotonic_ns()}", "object": kind, "created": int(time.time()), "model": self.model}

    def usage(self, words: list[str], tokens: int) -> dict[str, int]:
        """Return the count of tokens."""
        return {"prompt_tokens": len(words), "completion_tokens": tokens, "total_tokens": len(words) + tokens}

    def stream(self, chat: bool, words: list[str], limit: int, usage: bool) -> None:
        """Send an answer as server-sent events, one per token."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        frame = self.frame(chat, True)
        last = limit - 1
        for number, token in enumerate(self.engine.tokens(words, limit)):
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if number == last else None}
            choice.update({"delta": {"content": token}} if chat else {"text": token})
            self.event({**frame, "choices": [choice]})
        if usage:
            self.event({**frame, "choices": [], "usage": self.usage(words, limit)})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, data: dict[str, Any]) -> None:
        """Send one event at once."""
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    """A server for either family of addresses."""

    daemon_threads = True
    request_queue_size = 128


def leave_with_the_engine(engine: Engine) -> None:
    """End the server with exit code 0 when the engine process dies, as the real one can do."""
    engine.process.wait()
    print("ERROR EngineCore died unexpectedly, shutting down", file=sys.stderr, flush=True)
    os._exit(0)


def main() -> int:
    """Serve until told to stop."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-v"]):
        print(importlib.metadata.version("vllm"))
        return 0
    if len(arguments) != 3 or arguments[:2] != ["serve", "--config"]:
        print("usage: vllm serve --config FILE", file=sys.stderr)
        return 2
    configuration = read_configuration(arguments[2])
    model = Path(str(configuration["model"]))
    if not (model / "config.json").is_file():
        print(f"ValueError: {model} holds no config.json", file=sys.stderr)
        return 1
    time.sleep(float(os.environ.get("FAKE_VLLM_START_SECONDS", "0")))
    names = configuration.get("served-model-name") or [str(model)]
    host = str(configuration.get("host") or "127.0.0.1")
    Handler.engine = Engine()
    Handler.model = names[0] if isinstance(names, list) else str(names)
    Server.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = Server((host, int(configuration.get("port") or 8000)), Handler)
    threading.Thread(target=leave_with_the_engine, args=[Handler.engine], daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(f"INFO fake vLLM serves {Handler.model} at {host}:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
    return 0
