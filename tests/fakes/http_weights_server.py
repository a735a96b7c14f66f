# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""A web server for weights that does wrong what a test tells it to: a stand-in for mirrors, the Hub and object stores.

`server.files` is what it serves, `server.answers[path]` a list of answers for the next requests of a path, the last of
which stays. An answer is a function of the request handler and the path; the methods here make the usual ones.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

Reply = Callable[[Any, str], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is part of the tests."""


class WeightsServer:
    def __init__(self, files: dict[str, bytes], certificate: str = "") -> None:
        self.files = dict(files)
        self.requests: list[SimpleNamespace] = []
        self.answers: dict[str, list[Reply]] = {}
        self.etags: dict[str, str] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.latency_seconds = 0.0
        self.bytes_per_second = 0.0
        self.sent = 0
        self.open = self.most_open = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                path = self.path.lstrip("/").replace("%20", " ")
                with outer.lock:
                    outer.requests.append(SimpleNamespace(path=path, headers=dict(self.headers)))
                    outer.open += 1
                    outer.most_open = max(outer.most_open, outer.open)
                    script = outer.answers.get(path, [])
                    answer = script.pop(0) if len(script) > 1 else script[0] if script else outer.serve
                try:
                    if outer.latency_seconds:
                        time.sleep(outer.latency_seconds)
                    answer(self, path)
                finally:
                    with outer.lock:
                        outer.open -= 1

            def do_HEAD(self) -> None:
                """Scripted answers are for GET; a HEAD is always answered honestly."""
                outer.serve(self, self.path.lstrip("/"))

            def log_message(self, *_: Any) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def ranges(self, path: str) -> list[str | None]:
        return [request.headers.get("Range") for request in self.requests if request.path == path]

    # Answers

    def serve(self, handler: Any, path: str) -> None:
        """What an honest server answers, ranges and If-Range included."""
        # A signature in the query is not looked at.
        self._head_and_body(handler, path, self.files.get(path, self.files.get(path.partition("?")[0])))

    def without_ranges(self, handler: Any, path: str) -> None:
        del handler.headers["Range"]
        self.serve(handler, path)

    def redirect(self, target: str, code: int = 302) -> Reply:
        return self.status(code, {"Location": target})

    def content(self, data: bytes, etag: str = "") -> Reply:
        """Other bytes than those of the file."""
        return lambda handler, path: self._head_and_body(handler, path, data, etag=etag)

    def cut_after(self, count: int, reset: bool = False) -> Reply:
        """Promises all that was asked for, and breaks off."""
        return lambda handler, path: self._head_and_body(handler, path, self.files[path], most=count, reset=reset)

    def paced(self, bytes_per_second: float, chunk: int = 4096) -> Reply:
        """One connection that is slow all by itself."""

        def answer(handler: Any, path: str) -> None:
            self._head_and_body(handler, path, self.files[path], pace=bytes_per_second, chunk=chunk)

        return answer

    def held(self, count: int, pause: threading.Event, seconds: float = 20.0) -> Reply:
        """Sends `count` bytes, then waits for the test."""

        def answer(handler: Any, path: str) -> None:
            self._head_and_body(handler, path, self.files[path], pause=(count, pause, seconds))

        return answer

    @staticmethod
    def status(code: int, headers: dict[str, str] | None = None, body: bytes = b"sorry") -> Reply:
        def answer(handler: Any, path: str) -> None:
            handler.send_response(code)
            for key, value in (headers or {}).items():
                handler.send_header(key, value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        return answer

    def _head_and_body(
        self,
        handler: Any,
        path: str,
        data: bytes | None,
        etag: str = "",
        most: int = -1,
        reset: bool = False,
        pace: float = 0.0,
        chunk: int = 65536,
        pause: tuple[int, threading.Event, float] | None = None,
    ) -> None:
        if data is None:
            return self.status(404)(handler, path)
        etag = etag or self.etags.get(path, "")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if asked and handler.headers.get("If-Range", etag) != etag:
            asked = None
        first = int(asked[1]) if asked else 0
        end = min(len(data), int(asked[2]) + 1) if asked and asked[2] else len(data)
        if asked and first >= len(data):
            return self.status(416, {"Content-Range": f"bytes */{len(data)}"}, b"")(handler, path)
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
        if etag:
            handler.send_header("ETag", etag)
        for name, value in self.headers.get(path, {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(end - first))
        handler.end_headers()
        if handler.command == "HEAD":
            return None
        body = memoryview(data)[first:end]
        if most >= 0:
            body = body[:most]
            handler.close_connection = True
        if pause is not None:
            self._send(handler, body[: pause[0]])
            pause[1].wait(pause[2])
            body = body[pause[0] :]
        pace = pace or self.bytes_per_second
        if pace:
            began, sent = time.monotonic(), 0
            while body:
                self._send(handler, body[:chunk])
                sent += min(chunk, len(body))
                body = body[chunk:]
                time.sleep(max(0.0, began + sent / pace - time.monotonic()))
        else:
            self._send(handler, body)
        if reset:
            handler.wfile.flush()
            # No lingering: the kernel answers what is still to come with a reset.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        return None

    def _send(self, handler: Any, body: memoryview) -> None:
        try:
            handler.wfile.write(body)
            with self.lock:
                self.sent += len(body)
        except OSError:
            handler.close_connection = True
            raise
