# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a model is looked at in order to lock it: what an origin must tell, folders, and files behind a web server.

An origin lists files and hands out their bytes, whole or in part. It decides nothing: which files belong into the lock
and whether they are right is up to `weights_locking`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import posixpath
import random
import re
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError
from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import (
    Changed,
    Retry,
    Sequential,
    SourceError,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import (
    Answer,
    HttpAccess,
    HttpClient,
    cut,
    network_problem,
    wait_of,
)

CHUNK = 1024 * 1024
CHECKSUMS = "SHA256SUMS"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Lists of files, pages of a bucket's content and the like; nothing of a model is read through here.
_LONGEST_DOCUMENT = 64 * 1024 * 1024
_LONGEST_PAUSE = 60.0
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHECKSUM_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?:\./)?(?P<path>[^\r\n]+)")


@dataclass(frozen=True)
class Offered:
    """A file as an origin lists it."""

    # -1 if the list does not tell.
    size: int = -1
    # As the origin says, if that is to be believed; otherwise the file has to be read.
    sha256: str = ""
    # Git's digest of the content, if the origin is a commit.
    blob_id: str = ""


@dataclass(frozen=True)
class Listing:
    """What an origin has."""

    files: Mapping[str, Offered]
    # What the lock says about where it is from.
    source: Mapping[str, str]
    # Nothing if the origin has no revisions: then one is made of the content.
    revision: str = ""
    license: str = ""
    license_link: str = ""
    gated: str = ""


class Origin(Protocol):
    """Raises LockError for what no retry can mend, with the way out."""

    @property
    def label(self) -> str: ...

    @property
    def parallel(self) -> int:
        """How many files are looked at at once."""

    def list(self) -> Listing: ...

    def size(self, path: str) -> int: ...

    def chunks(self, path: str, first: int, end: int) -> Iterator[memoryview]: ...


@dataclass
class FolderOrigin:
    """A folder on the controller."""

    path: str
    parallel: int = 4

    @property
    def label(self) -> str:
        return self.path

    def list(self) -> Listing:
        if not os.path.isdir(self.path):
            raise LockError(["the folder does not exist on this host"], self.label)
        files = {}
        # A folder that cannot be read is not an empty one.
        for parent, _folders, names in os.walk(self.path, onerror=_raise):
            for name in names:
                place = os.path.join(parent, name)
                # A link to a file counts (the Hub's cache is made of them), a link to a folder does not.
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(place)
                    if stat.S_ISREG(status.st_mode):
                        files[os.path.relpath(place, self.path).replace(os.sep, "/")] = Offered(status.st_size)
        return Listing(files, {"type": "folder"})

    def size(self, path: str) -> int:
        return os.path.getsize(os.path.join(self.path, *path.split("/")))

    def chunks(self, path: str, first: int, end: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(CHUNK))
        with open(os.path.join(self.path, *path.split("/")), "rb", buffering=0) as stream:
            stream.seek(first)
            while first < end:
                count = stream.readinto(buffer[: min(CHUNK, end - first)])
                if not count:
                    raise LockError([f"{path!r} became shorter while it was read"], self.label)
                first += count
                yield buffer[:count]


@dataclass
class Patience:
    """How long to go on with a server that refuses or breaks off, while not a byte comes."""

    # When the server asks to wait; the Hub counts requests in windows of five minutes.
    seconds: float = 900.0
    # When it does not. A wrong address fails the same way as a bad line, so nobody should wait long to be told.
    seconds_unasked: float = 45.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def start(self) -> Waiting:
        return Waiting(self)


@dataclass
class Waiting:
    patience: Patience
    since: float = field(init=False)
    pause: float = field(init=False)

    def __post_init__(self) -> None:
        self.progress()

    def progress(self) -> None:
        self.since = self.patience.clock()
        self.pause = 1.0

    def wait(self, retry: Retry) -> None:
        """Wait as long as the server asks, or ever longer. Raises SourceError when that would be too long."""
        pause = self.pause * (0.5 + random.random()) if retry.wait is None else retry.wait + 1.0
        self.pause = min(2 * self.pause, _LONGEST_PAUSE)
        spent = self.patience.clock() - self.since
        limit = self.patience.seconds
        if retry.wait is None:
            limit = min(limit, self.patience.seconds_unasked)
        if spent + pause > limit:
            asked = "" if retry.wait is None else f", and asks to wait {retry.wait:.0f} s"
            raise SourceError(
                retry.problem.problem, f"{retry.problem.message}{asked} (given up after {spent:.0f} s without a byte)"
            )
        self.patience.sleep(pause)


@dataclass
class WebFiles:
    """Reads files of a web server, with patience."""

    client: HttpClient
    patience: Patience = field(default_factory=Patience)

    def document(self, url: str, secrets: Mapping[str, str]) -> tuple[int, bytes]:
        """A short document: the status, and the body whatever the status. Only what may pass is tried again."""
        waiting = self.patience.start()
        while True:
            try:
                answer = self.client.follow(url, {}, secrets)
                try:
                    if answer.status in _RETRY_STATUS:
                        raise Retry(SourceError("http_status", f"answered HTTP {answer.status}"), wait_of(answer))
                    body = _body(answer)
                finally:
                    answer.stream.close()
                return answer.status, body
            except Retry as retry:
                waiting.wait(retry)
            except (OSError, http.client.HTTPException) as error:
                waiting.wait(network_problem(error))

    def size(self, url: str, secrets: Mapping[str, str], name: str) -> int:
        # No file has this size, and the refusal says which one it has.
        access = HttpAccess(self.client, url, -1, secrets, name)
        waiting = self.patience.start()
        while True:
            try:
                access.open(0, 1).close()
            except SourceError as error:
                if error.problem == "size" and error.actual.isdigit():
                    return int(error.actual)
                raise
            except Sequential:
                raise SourceError("size", "does not say how long the file is") from None
            except Retry as retry:
                waiting.wait(retry)
            except (OSError, http.client.HTTPException) as error:
                waiting.wait(network_problem(error))

    def chunks(self, access: HttpAccess, first: int, end: int, size: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(CHUNK))
        waiting, ranges = self.patience.start(), True
        while first < end:
            try:
                # A server that knows no ranges is read from its first byte.
                position = first if ranges else 0
                stream = access.open(first, end) if ranges else access.open(0, size, whole=True)
                try:
                    while position < end:
                        count = stream.readinto(buffer[: min(CHUNK, (end if position >= first else first) - position)])
                        if not count:
                            raise Retry(SourceError("truncated", f"ended at byte {position} of {size}"))
                        position += count
                        waiting.progress()
                        if position > first:
                            first = position
                            yield buffer[:count]
                finally:
                    stream.close()
            except Sequential:
                ranges = False
            except Changed as error:
                raise SourceError("changed", "changed while it was read") from error
            except Retry as retry:
                waiting.wait(retry)
            except (OSError, http.client.HTTPException) as error:
                waiting.wait(network_problem(error))


@dataclass
class HttpOrigin:
    """A folder of a plain web server, which cannot be listed: a file of checksums or the caller names the files."""

    url: str
    web: WebFiles
    files: Sequence[str] = ()
    checksums: str = CHECKSUMS
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    parallel: int = 8
    _sizes: dict[str, int] = field(default_factory=dict, init=False)

    @property
    def label(self) -> str:
        return self.url

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/") + "/"
        check_address("url", self.url, bool(self.secrets))

    def list(self) -> Listing:
        listed = self._checksums()
        names = {posixpath.normpath(path): Offered() for path in self.files} or listed
        files = {path: Offered(sha256=listed[path].sha256 if path in listed else "") for path in names}
        source = {"type": "http", "url": self.url}
        if listed:
            source["checksums"] = self.checksums
        return Listing(files, source)

    def _checksums(self) -> dict[str, Offered]:
        if not self.checksums:
            if self.files:
                return {}
            raise LockError(["a web server has no list of files: name them in files, or a file of checksums"], self.url)
        with told(self.url, self.checksums):
            status, body = self.web.document(self.url + quote(self.checksums), self.secrets)
        if status in (404, 410) and self.files:
            return {}
        if status != 200:
            raise LockError(
                [
                    f"{self.checksums!r} is needed to know which files there are, and is answered with HTTP {status}; "
                    "make it with `sha256sum` in that folder, or name the files in files"
                ],
                self.url,
            )
        return parse_checksums(body, self.checksums, self.url)

    def size(self, path: str) -> int:
        if path not in self._sizes:
            with told(self.url, path):
                self._sizes[path] = self.web.size(self.url + quote(path), self.secrets, path)
        return self._sizes[path]

    def chunks(self, path: str, first: int, end: int) -> Iterator[memoryview]:
        size = self.size(path)
        access = HttpAccess(self.web.client, self.url + quote(path), size, self.secrets, path)
        with told(self.url, path):
            yield from self.web.chunks(access, first, end, size)


def parse_checksums(body: bytes, name: str, subject: str) -> dict[str, Offered]:
    """The lines that `sha256sum` writes."""
    files = {}
    for number, line in enumerate(body.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _CHECKSUM_LINE.fullmatch(line)
        if match is None:
            raise LockError([f"line {number} of {name!r} is not one that sha256sum writes"], subject)
        if match["path"] in files:
            raise LockError([f"line {number} of {name!r} names {match['path']!r} again"], subject)
        files[match["path"]] = Offered(sha256=match["sha256"])
    if not files:
        raise LockError([f"{name!r} names no file"], subject)
    return files


def check_address(name: str, url: str, with_secret: bool) -> None:
    """Raises LockError for an address that cannot be used, or to which no secret should be sent."""
    parts = urlsplit(url)
    problem = ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        problem = f"{name} must begin with https:// or http://, not {cut(url)!r}"
    elif parts.username or parts.password:
        problem = f"{name} must not hold a user or password; put a token into a file and name it in token_file"
    elif parts.query or parts.fragment:
        problem = f"{name} must not hold a query or fragment: the path of each file is appended to it"
    elif with_secret and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        problem = f"{name} is http://, so a token would travel in clear; use https:// or leave token_file out"
    if problem:
        raise LockError([problem], cut(url))


def check_ca_file(path: str) -> str:
    """The path, if it can be used. Raises LockError: a library may say anything, or take its own certificates."""
    if path:
        try:
            ssl.create_default_context(cafile=path)
        except ssl.SSLError as error:
            raise LockError([f"ca_file {path} holds no certificate in PEM form"]) from error
        except OSError as error:
            raise LockError([f"ca_file {path} cannot be read: {error.strerror}"]) from error
    return path


def read_token(path: str) -> str:
    """The token in a file. Raises LockError, which never shows what is in the file."""
    try:
        with open(path, encoding="utf-8") as stream:
            token = stream.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LockError([f"token_file {path} cannot be read: {getattr(error, 'strerror', 'not text')}"]) from error
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise LockError([f"token_file {path} must hold one token and nothing else"])
    return token


@contextlib.contextmanager
def told(subject: str, path: str) -> Iterator[None]:
    """Say which file a problem of a source is about."""
    try:
        yield
    except SourceError as error:
        beside = f" (expected {error.expected}, got {error.actual})" if error.expected and error.actual else ""
        raise LockError([f"{path!r}: {error.message}{beside}"], subject) from error


def _raise(error: OSError) -> None:
    raise error


def _body(answer: Answer) -> bytes:
    buffer, body = memoryview(bytearray(65536)), bytearray()
    while True:
        count = answer.stream.readinto(buffer)
        if not count:
            return bytes(body)
        body += buffer[:count]
        if len(body) > _LONGEST_DOCUMENT:
            raise SourceError("size", f"sent more than {_LONGEST_DOCUMENT} bytes")
