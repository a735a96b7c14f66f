#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Serve a folder as a link of a given kind would: so many bytes per second for each connection and in sum, so far away.

A web server's own rate limits let a burst through at the start of each request, which requests for short ranges never
leave. Here every connection and the sum have a clock of their own. A new connection pays the round trip twice.

Also answers as the Hub does for one model (`--model ORG/NAME`), so that the Hub's own client can be measured.

usage: paced_server.py --root FOLDER [--per-connection BYTES] [--total BYTES] [--round-trip SECONDS] [--model ORG/NAME]
Prints its port.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import socket
import threading
import time
from pathlib import Path
from urllib.parse import unquote

CHUNK = 256 * 1024
BURST_SECONDS = 0.005
REVISION = "1" * 40


class Clock:
    """When the next bytes may leave."""

    def __init__(self, bytes_per_second: float) -> None:
        self.rate = bytes_per_second
        self.next = 0.0
        self.lock = threading.Lock()

    def book(self, count: int) -> float:
        if not self.rate:
            return 0.0
        with self.lock:
            self.next = max(self.next, time.monotonic() - BURST_SECONDS) + count / self.rate
            return self.next


class Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.total = Clock(options.total)
        self.digests: dict[Path, str] = {}
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)

    def run(self) -> None:
        print(self.socket.getsockname()[1], flush=True)
        while True:
            connection, dummy = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        clock = Clock(self.options.per_connection)
        stream = connection.makefile("rb")
        trips = 2
        try:
            while True:
                line = stream.readline().decode("latin-1").split()
                headers = {}
                while True:
                    header = stream.readline().decode("latin-1").strip()
                    if not header:
                        break
                    name, dummy, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                if len(line) < 2:
                    return
                if self.options.round_trip:
                    time.sleep(trips * self.options.round_trip)
                trips = 1
                self.answer(connection, clock, line[0], unquote(line[1].partition("?")[0]), headers)
                if headers.get("connection", "").lower() == "close":
                    return
        except OSError:
            pass
        finally:
            stream.close()
            connection.close()

    def answer(self, connection: socket.socket, clock: Clock, method: str, path: str, headers: dict[str, str]) -> None:
        model = self.options.model
        if path.startswith(f"/api/models/{model}/tree/"):
            return self.send_json(connection, method, self.tree())
        if path.startswith(f"/api/models/{model}"):
            names = [{"rfilename": file.name} for file in self.files()]
            return self.send_json(connection, method, {"id": model, "sha": REVISION, "siblings": names})
        name = re.sub(rf"^/{re.escape(model)}/resolve/[^/]+/", "/", path)
        file = Path(self.options.root, name.lstrip("/"))
        if not file.is_file():
            return self.send(connection, method, "404 Not Found", {}, b"no such file")
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        first = int(asked[1]) if asked else 0
        end = min(size, int(asked[2]) + 1) if asked and asked[2] else size
        lines = {"ETag": f'"{self.digest(file)}"', "Accept-Ranges": "bytes", "Content-Length": str(end - first)}
        if name != path:
            lines.update({"X-Repo-Commit": REVISION, "X-Linked-Etag": lines["ETag"], "X-Linked-Size": str(size)})
        if asked:
            lines["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        head = "206 Partial Content" if asked else "200 OK"
        self.send(connection, method, head, lines)
        if method == "GET":
            self.send_file(connection, clock, file, first, end)
        return None

    def send_file(self, connection: socket.socket, clock: Clock, file: Path, first: int, end: int) -> None:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            while first < end:
                count = min(CHUNK if self.total.rate or clock.rate else 16 * CHUNK, end - first)
                wait = max(clock.book(count), self.total.book(count)) - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                while count:
                    sent = os.sendfile(connection.fileno(), descriptor, first, count)
                    if not sent:
                        raise ConnectionError
                    first, count = first + sent, count - sent
        finally:
            os.close(descriptor)

    def files(self) -> list[Path]:
        return sorted(file for file in Path(self.options.root).iterdir() if file.is_file())

    def digest(self, file: Path) -> str:
        if file not in self.digests:
            text = Path(f"{self.options.root}.sha256").read_text(encoding="ascii")
            self.digests = {Path(self.options.root, line.split()[1]): line.split()[0] for line in text.splitlines()}
        return self.digests[file]

    def tree(self) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = []
        for file in self.files():
            size = file.stat().st_size
            entries.append(
                {
                    "type": "file",
                    "path": file.name,
                    "size": size,
                    "oid": hashlib.sha1(file.name.encode()).hexdigest(),
                    "lfs": {"oid": self.digest(file), "size": size, "pointerSize": 134},
                }
            )
        return entries

    def send_json(self, connection: socket.socket, method: str, data: object) -> None:
        self.send(connection, method, "200 OK", {"Content-Type": "application/json"}, json.dumps(data).encode())

    def send(
        self, connection: socket.socket, method: str, status: str, lines: dict[str, str], body: bytes = b""
    ) -> None:
        lines.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + (body if method == "GET" else b""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--per-connection", type=float, default=0.0)
    parser.add_argument("--total", type=float, default=0.0)
    parser.add_argument("--round-trip", type=float, default=0.0)
    parser.add_argument("--model", default="demo/weights")
    Server(parser.parse_args()).run()


if __name__ == "__main__":
    main()
