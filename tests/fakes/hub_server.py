# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the Hugging Face Hub: its API, its URL layout and its refusals, for models that a test makes.

The unmodified huggingface_hub, `hf download` included, works against it (`HF_ENDPOINT`). Files in large file storage
are served by a second server with another name, as the Hub's CDN does: through an address that is signed and expires,
and that refuses a request that still carries the Hub's token. Large files may be given as paths; they are not read
into memory.

    with FakeHub() as hub:
        commit = hub.add("demo/tiny", {"config.json": b"{}", "model.safetensors": Path("...")})
        hub.grant("hf_token", "demo/tiny")
        hub.fail("/resolve/", 429, {"Retry-After": "1"}, times=2)

As a program it serves folders: `python hub_server.py --port 8080 demo/tiny=/data/tiny demo/gated=/data/gated:manual`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Callable
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

CHUNK = 1024 * 1024
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".model", ".h5", ".onnx")
LFS_SIZE = 10 * 1000 * 1000
SIGNATURE_SECONDS = 3600.0


@dataclass
class Stored:
    """The content of a file, wherever it is."""

    content: bytes | Path
    size: int
    sha256: str
    blob_id: str

    def open(self) -> BinaryIO:
        return self.content.open("rb") if isinstance(self.content, Path) else io.BytesIO(self.content)


def store(content: bytes | Path) -> Stored:
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with Stored(content, size, "", "").open() as stream:
        for data in iter(lambda: stream.read(CHUNK), b""):
            sha256.update(data)
            blob.update(data)
    return Stored(content, size, sha256.hexdigest(), blob.hexdigest())


@dataclass
class Commit:
    files: dict[str, Stored]
    card: dict[str, Any]


@dataclass
class Repository:
    gated: str = ""  # "", "auto" or "manual"
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit


@dataclass
class Seen:
    """A request as it came in, and how it was answered."""

    server: str  # hub or cdn
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int = 0

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").replace("Bearer ", "")


@dataclass
class Fault:
    pattern: str
    status: int
    headers: dict[str, str]
    body: bytes
    times: int


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        if code:
            self.headers["X-Error-Code"] = code
        if message:
            self.headers["X-Error-Message"] = message
        self.body = json.dumps({"error": message or code}).encode()


class FakeHub:
    """The Hub and its CDN, each with a port of its own; a context manager."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, page_size: int = 1000) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, set[str]] = {}
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        # (model, path) -> other bytes than the commit holds
        self.served_instead: dict[tuple[str, str], bytes] = {}
        self.page_size = page_size
        self.signature_seconds = SIGNATURE_SECONDS
        self.is_large: Callable[[str, int], bool] = lambda path, size: size > LFS_SIZE or path.endswith(LFS_SUFFIXES)
        self._secret = b"signs the addresses of the CDN"
        self._lock = threading.Lock()
        self._servers = [self._server("hub", host, port), self._server("cdn", host, 0)]
        self.url = f"http://{host}:{self._servers[0].server_port}"
        # Another name than the Hub's, so that a client that looks only at names sees another host too.
        name = "localhost" if host == "127.0.0.1" else host
        self.cdn_url = f"http://{name}:{self._servers[1].server_port}"

    def __enter__(self) -> FakeHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_details: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(
        self,
        model: str,
        files: Mapping[str, bytes | Path],
        branch: str = "main",
        gated: str = "",
        private: bool = False,
        card: Mapping[str, Any] | None = None,
    ) -> str:
        """Commit these files, and nothing else, to a branch. Returns the commit."""
        stored = {path: store(content) for path, content in sorted(files.items())}
        repository = self.repositories.setdefault(model, Repository())
        repository.gated, repository.private = gated, private
        lines = [f"{model} {branch} {len(repository.commits)} {json.dumps(card and dict(card), sort_keys=True)}"]
        lines += [f"{path} {file.sha256}" for path, file in stored.items()]
        commit = hashlib.sha1("\n".join(lines).encode()).hexdigest()
        repository.commits[commit] = Commit(stored, dict(card or {}))
        repository.references[branch] = commit
        return commit

    def add_folder(self, model: str, folder: Path, **how: Any) -> str:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return self.add(model, {path.relative_to(folder).as_posix(): path for path in paths}, **how)

    def grant(self, token: str, *models: str) -> None:
        """Make a token known; it may read these gated or private models."""
        self.tokens.setdefault(token, set()).update(models)

    def fail(
        self, pattern: str, status: int, headers: Mapping[str, str] | None = None, times: int = 1, body: bytes = b""
    ) -> None:
        """Answer the next requests whose path (with query) holds the pattern, a regular expression, like this."""
        self.faults.append(Fault(pattern, status, dict(headers or {}), body, times))

    def seen(self, pattern: str = "", server: str = "") -> list[Seen]:
        return [
            request for request in self.requests if re.search(pattern, request.path) and server in ("", request.server)
        ]

    # --- what the handler asks ---

    def fault_for(self, target: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, target):
                    fault.times -= 1
                    return fault
        return None

    def repository(self, model: str, token: str) -> Repository:
        if token and token not in self.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        repository = self.repositories.get(model)
        if repository is None or (repository.private and model not in self.tokens.get(token, ())):
            # The Hub does not tell a stranger which private models there are.
            if token:
                raise Refusal(404, "RepoNotFound", "Repository not found")
            raise Refusal(401, "RepoNotFound", "Invalid username or password.")
        return repository

    def commit(self, repository: Repository, revision: str) -> tuple[str, Commit]:
        name = repository.references.get(revision, revision)
        name = repository.references.get(re.sub(r"^refs/heads/", "", revision), name)
        if name not in repository.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return name, repository.commits[name]

    def check_gate(self, model: str, repository: Repository, token: str) -> None:
        if repository.gated and model not in self.tokens.get(token, ()):
            text = f"Access to model {model} is restricted."
            if token:
                raise Refusal(403, "GatedRepo", f"{text} Visit {self.url}/{model} to ask for access.")
            raise Refusal(401, "GatedRepo", f"{text} You must have access to it and be authenticated to access it.")

    def info(self, model: str, repository: Repository, revision: str, blobs: bool) -> dict[str, Any]:
        name, commit = self.commit(repository, revision)
        siblings = []
        for path, file in commit.files.items():
            entry: dict[str, Any] = {"rfilename": path}
            if blobs:
                entry.update(self.entry(path, file))
                entry["blobId"] = entry.pop("oid")
                entry.pop("type")
                entry.pop("path")
                if "lfs" in entry:
                    entry["lfs"]["sha256"] = entry["lfs"].pop("oid")
            siblings.append(entry)
        licence = commit.card.get("license")
        return {
            "_id": hashlib.sha1(model.encode()).hexdigest()[:24],
            "id": model,
            "modelId": model,
            "author": model.split("/")[0],
            "sha": name,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "private": repository.private,
            "gated": repository.gated or False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [f"license:{licence}"] if licence else [],
            **({"cardData": commit.card} if commit.card else {}),
            "siblings": siblings,
            "createdAt": "2026-01-01T00:00:00.000Z",
        }

    def entry(self, path: str, file: Stored) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": file.blob_id, "size": file.size, "path": path}
        if self.is_large(path, file.size):
            # What git holds is a pointer, so the blob is not the file's.
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n".encode()
            )
            entry["oid"] = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer)}
        return entry

    def tree(self, commit: Commit, folder: str, recursive: bool, expand: bool) -> list[dict[str, Any]]:
        below = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, file in commit.files.items():
            if not path.startswith(below):
                continue
            parts = path[len(below) :].split("/")
            for depth in range(1, len(parts)):
                place = below + "/".join(parts[:depth])
                if depth == 1 or recursive:
                    oid = hashlib.sha1(place.encode()).hexdigest()
                    entries[place] = {"type": "directory", "oid": oid, "size": 0, "path": place}
            if len(parts) == 1 or recursive:
                entries[path] = self.entry(path, file)
        if folder and not entries:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        if expand:
            last = {"id": "0" * 40, "title": "Add", "date": "2026-01-01T00:00:00.000Z"}
            entries = {path: {**entry, "lastCommit": last} for path, entry in entries.items()}
        return [entries[path] for path in sorted(entries)]

    def file(self, model: str, commit: Commit, path: str) -> Stored:
        file = commit.files.get(path)
        if file is None:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        return file

    def content(self, model: str, path: str, file: Stored) -> Stored:
        """What is really sent."""
        other = self.served_instead.get((model, path))
        return file if other is None else store(other)

    def signed_url(self, model: str, path: str, file: Stored) -> str:
        # A whole second up: the time is written without fractions.
        expires = str(int(time.time() + self.signature_seconds) + 1)
        place = f"/{model}/{file.sha256}"
        query = {"Expires": expires, "Signature": self.signature(place, path, expires), "file": path}
        return f"{self.cdn_url}{quote(place)}?{urlencode(query)}"

    def signature(self, place: str, path: str, expires: str) -> str:
        return hashlib.sha256(self._secret + f"{place} {path} {expires}".encode()).hexdigest()

    def cdn_file(self, path: str, query: Mapping[str, str], token: str) -> Stored:
        if token:
            raise Refusal(400, "", "Only one authentication mechanism is allowed")
        expires = query.get("Expires", "0")
        if query.get("Signature") != self.signature(path, query.get("file", ""), expires):
            raise Refusal(403, "", "the signature does not match")
        if float(expires) < time.time():
            raise Refusal(403, "", "the address has expired")
        model, dummy, digest = path.strip("/").rpartition("/")
        for commit in self.repositories[model].commits.values():
            for name, file in commit.files.items():
                if file.sha256 == digest and name == query["file"]:
                    return self.content(model, name, file)
        raise Refusal(404)

    def _server(self, kind: str, host: str, port: int) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "kind": kind})
        server = ThreadingHTTPServer((host, port), handler)
        server.daemon_threads = True
        return server


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    kind = "hub"
    protocol_version = "HTTP/1.1"
    # A head and a body are two writes; without this the second waits for an acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.request_seen = Seen(self.kind, self.command, unquote(parts.path), query, headers)
        self.hub.requests.append(self.request_seen)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        try:
            fault = self.hub.fault_for(self.path)
            if fault is not None:
                self.reply(fault.body, fault.headers, fault.status)
            elif self.kind == "cdn":
                self.send_file(self.hub.cdn_file(unquote(parts.path), query, self.request_seen.token), {})
            else:
                self.answer(parts.path, query)
        except Refusal as refusal:
            self.reply(refusal.body, refusal.headers, refusal.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def answer(self, path: str, query: Mapping[str, str]) -> None:
        hub, token = self.hub, self.request_seen.token
        match = re.fullmatch(
            r"/api/resolve-cache/models/(?P<model>[^/]+/[^/]+)/(?P<revision>[0-9a-f]{40})/(?P<path>.+)", path
        )
        if match:
            model = unquote(match["model"])
            repository = hub.repository(model, token)
            hub.check_gate(model, repository, token)
            dummy, commit = hub.commit(repository, match["revision"])
            name = unquote(match["path"])
            file = hub.file(model, commit, name)
            headers = {"X-Repo-Commit": match["revision"], "ETag": f'"{file.blob_id}"'}
            return self.send_file(hub.content(model, name, file), headers)
        match = re.fullmatch(r"/(?P<model>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", path)
        if match:
            return self.resolve(unquote(match["model"]), unquote(match["revision"]), unquote(match["path"]))
        if path == "/api/whoami-v2":
            if token not in hub.tokens:
                raise Refusal(401, "", "Invalid username or password.")
            return self.send_json({"type": "user", "name": "somebody", "auth": {"type": "access_token"}})
        match = re.fullmatch(r"/api/models/(?P<model>[^/]+/[^/]+)(?P<rest>/.*)?", path)
        if not match:
            raise Refusal(404, "", f"no such address: {path}")
        model, rest = unquote(match["model"]), match["rest"] or ""
        repository = hub.repository(model, token)
        if rest == "/auth-check":
            hub.check_gate(model, repository, token)
            return self.send_json({})
        if rest == "/refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
                for name, commit in sorted(repository.references.items())
            ]
            return self.send_json({"branches": branches, "tags": [], "converts": []})
        blobs = query.get("blobs", "").lower() in ("true", "1")
        if not rest:
            return self.send_json(hub.info(model, repository, "main", blobs))
        match = re.fullmatch(r"/(?P<verb>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.*))?", rest)
        if not match:
            raise Refusal(404, "", f"no such address: {path}")
        revision = unquote(match["revision"])
        if match["verb"] == "revision":
            return self.send_json(hub.info(model, repository, revision, blobs))
        dummy, commit = hub.commit(repository, revision)
        if match["verb"] == "paths-info":
            asked = json.loads(self.body or b"{}").get("paths", [])
            return self.send_json([hub.entry(name, commit.files[name]) for name in asked if name in commit.files])
        return self.send_tree(commit, unquote(match["path"] or ""), query)

    def send_tree(self, commit: Commit, folder: str, query: Mapping[str, str]) -> None:
        flags = {key: query.get(key, "").lower() in ("true", "1") for key in ("recursive", "expand")}
        entries = self.hub.tree(commit, folder, flags["recursive"], flags["expand"])
        first = int(query.get("cursor") or 0)
        last = first + self.hub.page_size
        headers = {}
        if last < len(entries):
            following = urlencode({**query, "cursor": str(last)})
            headers["Link"] = f'<{self.hub.url}{urlsplit(self.path).path}?{following}>; rel="next"'
        self.send_json(entries[first:last], headers)

    def resolve(self, model: str, revision: str, path: str) -> None:
        hub, token = self.hub, self.request_seen.token
        repository = hub.repository(model, token)
        hub.check_gate(model, repository, token)
        name, commit = hub.commit(repository, revision)
        file = hub.file(model, commit, path)
        large = hub.is_large(path, file.size)
        headers = {
            "X-Repo-Commit": name,
            "X-Linked-Size": str(file.size),
            "X-Linked-Etag": f'"{file.sha256 if large else file.blob_id}"',
            "Accept-Ranges": "bytes",
        }
        if large:
            headers["Location"] = hub.signed_url(model, path, file)
            return self.reply(b"Found", headers, 302)
        original = urlencode({f"/{model}/resolve/{revision}/{path}": "", "etag": f'"{file.blob_id}"'})
        headers["Location"] = f"/api/resolve-cache/models/{model}/{name}/{quote(path)}?{original}"
        return self.reply(b"Temporary Redirect", headers, 307)

    def send_json(self, data: object, headers: Mapping[str, str] | None = None) -> None:
        self.reply(json.dumps(data).encode(), headers)

    def send_file(self, file: Stored, headers: Mapping[str, str]) -> None:
        etag = f'"{file.sha256}"'
        sent = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        first, end, status = 0, file.size, 200
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if match and any(match.groups()) and self.headers.get("If-Range", sent["ETag"]) == sent["ETag"]:
            if not match[1]:
                first = max(0, file.size - int(match[2]))
            else:
                first = int(match[1])
                end = min(file.size, int(match[2]) + 1) if match[2] else file.size
            if first >= file.size or first >= end:
                return self.reply(b"", {"Content-Range": f"bytes */{file.size}"}, 416)
            status = 206
            sent["Content-Range"] = f"bytes {first}-{end - 1}/{file.size}"
        self.head(status, {**sent, "Content-Length": str(end - first)})
        if self.command != "HEAD":
            with file.open() as stream:
                stream.seek(first)
                for data in _pieces(stream, end - first):
                    self.wfile.write(data)

    def reply(self, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        self.head(status, {"Content-Type": "application/json", **(headers or {}), "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.request_seen.status = status
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


def _pieces(stream: BinaryIO, left: int) -> Iterator[bytes]:
    while left > 0:
        data = stream.read(min(CHUNK, left))
        if not data:
            return
        left -= len(data)
        yield data


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve folders as models of a stand-in for the Hugging Face Hub.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", default="", help="a token that may read every model")
    parser.add_argument("models", nargs="+", metavar="org/name=folder[:auto|:manual]")
    arguments = parser.parse_args()
    hub = FakeHub(arguments.host, arguments.port)
    for text in arguments.models:
        model, dummy, rest = text.partition("=")
        match = re.fullmatch(r"(?P<folder>.*?)(?::(?P<gated>auto|manual))?", rest)
        commit = hub.add_folder(model, Path(match["folder"] if match else rest), gated=(match and match["gated"]) or "")
        print(f"{model} at {commit}")
        if arguments.token:
            hub.grant(arguments.token, model)
    with hub:
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
