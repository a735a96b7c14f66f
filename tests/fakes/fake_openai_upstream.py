#!/usr/bin/env python3
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A FAKE engine: it speaks just enough of the OpenAI API to show what a gateway does with requests and streams.

It has no model. Chat completions say which replica answered and which headers and path arrived, so that a test can see
what the gateway passed on. With ``"stream": true`` it sends ten chunks, ``"chunk_seconds"`` apart (default 0.2).
``"sleep_seconds"`` delays any answer. It refuses requests without its key, as an engine does.

    FAKE_API_KEY=KEY fake_openai_upstream.py --port 9001
"""

from __future__ import annotations

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers as an engine would."""

    protocol_version = "HTTP/1.1"
    replica = ""
    key = ""
    hung_up = 0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Keep quiet: requests carry the key of the engines."""

    def do_GET(self) -> None:
        """Count what clients broke off; anything else does not exist."""
        if self.path == "/hung_up":
            self._send(200, {"hung_up": Handler.hung_up})
        else:
            self._send(404, {"error": {"message": "Not Found", "type": "NotFoundError", "param": None, "code": 404}})

    def do_POST(self) -> None:
        """Answer a completion, whole or as a stream."""
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            self._send(401, {"error": "Unauthorized"})
            return
        body = json.loads(raw)
        time.sleep(float(body.get("sleep_seconds", 0)))
        if "status" in body:
            error = {"message": "as told", "type": "fake", "param": None, "code": body["status"]}
            self._send(int(body["status"]), {"error": error})
        elif body.get("stream"):
            self._stream(body)
        else:
            seen = {
                "replica": self.replica,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body_bytes": len(raw),
            }
            self._send(200, self._completion(body, {"message": {"role": "assistant", "content": json.dumps(seen)}}))

    def _completion(self, body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if "delta" in choice else "chat.completion"
        choices = [{"index": 0, "finish_reason": None, **choice}]
        return {"id": "fake", "object": kind, "created": 0, "model": body.get("model"), "choices": choices}

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Request-Id", "from-the-engine")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(int(body.get("chunks", 10))):
                event = self._completion(body, {"delta": {"content": f"{number} "}})
                self._chunk(f"data: {json.dumps(event)}\n\n".encode())
                time.sleep(float(body.get("chunk_seconds", 0.2)))
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except OSError:
            Handler.hung_up += 1
            self.close_connection = True


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    Handler.replica, Handler.key = str(options.port), os.environ["FAKE_API_KEY"]
    ThreadingHTTPServer((options.address, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
