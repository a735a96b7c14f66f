# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the bytes of a model come from. A source only delivers; whether the bytes are right is decided by the lock."""

from __future__ import annotations

import email.utils
import errno
import hashlib
import os
import random
import re
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable
from urllib.parse import quote, urljoin, urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import CHUNK, hash_file

HUB_ENDPOINT = "https://huggingface.co"
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
_LONGEST_WAIT = 300.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class SourceError(Exception):
    """A source that did not deliver a file. `problem` is a stable code."""

    def __init__(self, problem: str, message: str, expected: str = "", actual: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.message = message
        self.expected = expected
        self.actual = actual


class DiskError(Exception):
    """The destination cannot be written: the whole run ends."""


class Stopped(Exception):
    """Another file of the same run ended it."""


@dataclass(frozen=True)
class Transport:
    """How to talk to a source. The functions are replaced by tests."""

    ca_file: str = ""
    timeout_seconds: float = 60.0
    retries: int = 5
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


class PartWriter:
    """A part file that is hashed while it is written. What an earlier run left is hashed first, from byte 0."""

    def __init__(self, path: str, file: LockFile, stop: threading.Event) -> None:
        self.path = path
        self.file = file
        self.received = 0
        self._stop = stop
        self._stream: Any = None
        self._digest = hashlib.sha256()
        self.offset = 0

    def __enter__(self) -> PartWriter:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._stream = os.fdopen(descriptor, "r+b", buffering=0)
        kept = os.fstat(descriptor).st_size
        if kept > self.file.size:
            self.restart()
        elif kept:
            hash_file(self.path, self._digest, kept)
            self.offset = kept
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def restart(self) -> None:
        """Forget every byte."""
        self._stream.truncate(0)
        self._digest = hashlib.sha256()
        self.offset = 0

    def write(self, data: Any) -> None:
        if self._stop.is_set():
            raise Stopped
        if self.offset + len(data) > self.file.size:
            self.restart()
            raise SourceError(
                "size", "sent more bytes than the lock says", str(self.file.size), f"more than {self.file.size}"
            )
        try:
            self._stream.seek(self.offset)
            view = memoryview(data)
            while view:
                view = view[self._stream.write(view) :]
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._digest.update(data)
        self.offset += len(data)
        self.received += len(data)

    def sync(self) -> None:
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise disk_error(error, self.path) from error

    @property
    def complete(self) -> bool:
        return self.offset == self.file.size

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def disk_error(error: OSError, path: str) -> DiskError:
    name = errno.errorcode.get(error.errno or 0, "")
    return DiskError(f"{os.path.dirname(path)} cannot be written: {error.strerror} ({name})")


@dataclass
class FolderSource:
    """A folder on the host that fetches: a network share, a disk that was carried in."""

    path: str
    label: str = ""
    needs_requests: bool = False

    def __post_init__(self) -> None:
        self.label = self.label or f"folder {self.path}"

    def check(self) -> None:
        if not os.path.isdir(self.path):
            raise SourceError("source_unavailable", "the folder does not exist on this host (is it mounted?)")

    def deliver(self, file: LockFile, part: PartWriter) -> None:
        path = os.path.join(self.path, *file.path.split("/"))
        try:
            with open(path, "rb", buffering=0) as stream:
                status = os.fstat(stream.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise SourceError("not_found", "is not a regular file")
                _expect_size(status.st_size, file)
                if part.offset:
                    stream.seek(part.offset)
                buffer = bytearray(CHUNK)
                while True:
                    count = stream.readinto(buffer)
                    if not count:
                        return
                    part.write(memoryview(buffer)[:count])
        except FileNotFoundError as error:
            raise SourceError("not_found", "no such file") from error
        except OSError as error:
            raise SourceError("unreadable", f"cannot be read: {error.strerror}") from error


@dataclass
class HttpSource:
    """A web server. `url_of` makes a file's address."""

    url_of: Callable[[LockFile], str]
    label: str
    transport: Transport
    token: str = field(default="", repr=False)
    needs_requests: bool = True
    _sessions: threading.local = field(default_factory=threading.local, repr=False)

    def check(self) -> None:
        try:
            import requests  # noqa: F401
        except ImportError as error:
            raise SourceError(
                "no_http_client",
                "the Python library requests is missing on this host; run the role host_tools first, "
                "or use a folder source",
            ) from error

    def deliver(self, file: LockFile, part: PartWriter) -> None:
        import requests

        attempt = 0
        while True:
            before = part.received
            try:
                self._once(file, part)
                if part.complete:
                    return
                problem = SourceError("truncated", "the connection ended early", str(file.size), str(part.offset))
                wait = None
            except _Retry as retry:
                problem, wait = retry.problem, retry.wait
            except requests.exceptions.SSLError as error:
                # Not transient, and another try would only hide it.
                raise SourceError("tls", f"TLS failed: {_short(error)}; a site's own CA goes into ca_file") from error
            except (requests.exceptions.RequestException, OSError, _http_error()) as error:
                problem = SourceError(
                    "connection", f"the connection failed: {_short(error)}", str(file.size), str(part.offset)
                )
                wait = None
            # A long transfer over a bad line may break more often than a short one: progress starts the count again.
            attempt = 1 if part.received - before >= 16 * CHUNK else attempt + 1
            if attempt > self.transport.retries:
                problem.message += f" (given up after {attempt} tries)"
                raise problem
            if wait is None:
                wait = min(60.0, 2.0 ** (attempt - 1)) * (0.5 + self.transport.jitter())
            if wait > _LONGEST_WAIT:
                problem.message += f" (asks to wait {wait:.0f} s, which is too long)"
                raise problem
            self.transport.sleep(wait)

    def _once(self, file: LockFile, part: PartWriter) -> None:
        response = self._get(self.url_of(file), part.offset)
        try:
            self._receive(response, file, part)
        finally:
            response.close()

    def _receive(self, response: Any, file: LockFile, part: PartWriter) -> None:
        status = int(response.status_code)
        headers = response.headers
        if status == 416:
            # The file there is shorter than what is kept here: one of both is not the file of the lock.
            part.restart()
            raise _Retry(
                SourceError("range", "refused to continue the part", str(file.size), headers.get("Content-Range", "")),
                0.0,
            )
        if status in _RETRY_STATUS:
            raise _Retry(_status_error(response), _retry_after(headers.get("Retry-After")))
        if status not in (200, 206):
            raise _status_error(response)
        if headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise SourceError(
                "encoding", "sent an encoded body although it was asked not to", "identity", headers["Content-Encoding"]
            )
        length = _whole_number(headers.get("Content-Length"))
        if status == 206:
            start, total = _content_range(headers.get("Content-Range", ""))
            if total is not None:
                _expect_size(total, file)
            if part.offset == 0 or start != part.offset:
                part.restart()
                raise SourceError(
                    "range",
                    "sent another range than it was asked for",
                    f"from byte {part.offset}",
                    f"from byte {start}",
                )
        else:
            if length is not None:
                _expect_size(length, file)
            if part.offset:
                # A server that ignores ranges begins at the first byte.
                part.restart()
        while True:
            data = response.raw.read(CHUNK, decode_content=False)
            if not data:
                return
            part.write(data)

    def _get(self, url: str, offset: int) -> Any:
        import requests

        origin = _origin(url)
        headers = {"Accept-Encoding": "identity", "User-Agent": "baremetal-llm/0.1"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        for _hop in range(_MOST_REDIRECTS + 1):
            sent = dict(headers)
            if self.token and _origin(url) == origin:
                sent["Authorization"] = f"Bearer {self.token}"
            response = self._session(requests).get(
                url,
                headers=sent,
                stream=True,
                allow_redirects=False,
                timeout=self.transport.timeout_seconds,
                verify=self.transport.ca_file or True,
                # Otherwise requests would send what it finds in ~/.netrc.
                auth=_no_authentication,
            )
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                return response
            target = urljoin(url, response.headers["Location"])
            response.close()
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise SourceError(
                    "redirect", "redirects from https to another scheme", "https", urlsplit(target).scheme
                )
            if urlsplit(target).scheme not in ("http", "https"):
                raise SourceError("redirect", "redirects to another scheme", "http or https", urlsplit(target).scheme)
            url = target
        raise SourceError("redirect", f"redirects more than {_MOST_REDIRECTS} times")

    def _session(self, requests: Any) -> Any:
        session = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = requests.Session()
        return session


def system_ca_file() -> str:
    """The distribution's CA certificates. requests would use its own bundle, which no site's CA is ever added to."""
    places = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
    return next((place for place in places if os.path.isfile(place)), "")


Source = Any  # FolderSource or HttpSource: check() and deliver(); a Protocol would say no more


class _Retry(Exception):
    def __init__(self, problem: SourceError, wait: float | None) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.wait = wait


def parse_sources(
    specifications: Sequence[Mapping[str, Any]], lock: Lock, transport: Transport, token_file: str = ""
) -> tuple[list[Source], list[str]]:
    """The sources of a model in order, and what is wrong with their description. Reads nothing but token files."""
    sources: list[Source] = []
    problems: list[str] = []
    for number, specification in enumerate(specifications, 1):
        where = f"sources, entry {number}"
        kind = specification.get("type")
        try:
            if kind == "folder":
                sources.append(_folder(specification))
            elif kind in ("http", "hub"):
                sources.append(_http(specification, lock, transport, token_file))
            else:
                problems.append(f"{where}: type must be folder, http or hub, not {kind!r}")
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if not specifications:
        problems.append("sources is empty: name at least one place that the files may come from")
    return sources, problems


def _folder(specification: Mapping[str, Any]) -> FolderSource:
    path = str(specification.get("path") or "")
    if not path.startswith("/"):
        raise ValueError(f"path of a folder must be absolute, not {path!r}")
    return FolderSource(path)


def _http(specification: Mapping[str, Any], lock: Lock, transport: Transport, token_file: str) -> HttpSource:
    kind = str(specification["type"])
    key = "url" if kind == "http" else "endpoint"
    base = str(specification.get(key) or (HUB_ENDPOINT if kind == "hub" else "")).rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{key} must begin with https:// or http://, not {base!r}")
    if parts.username or parts.password:
        raise ValueError(f"{key} must not hold a user or password; put a token into a file and name it in token_file")
    if parts.query or parts.fragment:
        raise ValueError(f"{key} must not hold a query or fragment: the path of each file is appended to it")
    # The general token is the Hub's; another server gets a token only if its own entry says so.
    own_token_file = str(specification.get("token_file") or (token_file if kind == "hub" else ""))
    token = _read_token(own_token_file) if own_token_file else ""
    if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError(f"{key} is http://, so the token would travel in clear; use https:// or leave token_file out")
    if kind == "hub":
        prefix = f"{base}/{lock.model}/resolve/{lock.revision}/"
        label = f"hub {base}"
    else:
        prefix = f"{base}/"
        label = f"http {base}/"
    return HttpSource(url_of=lambda file: prefix + quote(file.path), label=label, transport=transport, token=token)


def _read_token(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            token = stream.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"token_file {path} cannot be read: {getattr(error, 'strerror', 'not text')}") from error
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise ValueError(f"token_file {path} must hold one token and nothing else")
    return token


def _no_authentication(request: Any) -> Any:
    return request


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _http_error() -> type[Exception]:
    # Reading past requests, from its urllib3, raises urllib3's own exceptions.
    import urllib3

    error: type[Exception] = urllib3.exceptions.HTTPError
    return error


def _expect_size(actual: int, file: LockFile) -> None:
    if actual != file.size:
        raise SourceError("size", "offers a file of another size", str(file.size), str(actual))


def _status_error(response: Any) -> SourceError:
    status = int(response.status_code)
    hint = {401: "; a token_file may be needed", 403: "; the token may lack access", 404: ""}.get(status, "")
    return SourceError(
        "not_found" if status in (404, 410) else "http_status", f"answered HTTP {status}{hint}", "200", str(status)
    )


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]+", text) else None


def _content_range(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", text.strip())
    if match is None:
        return None, None
    return int(match[1]), _whole_number(match[2])


def _retry_after(text: str | None) -> float | None:
    """Seconds that a server asks to wait; it may name a date instead."""
    if not text:
        return None
    seconds = _whole_number(text.strip())
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, IndexError):
        return None


def _short(error: BaseException) -> str:
    # A query string can be a signature, so it is not shown; addresses in memory say nothing to a person.
    text = " ".join(str(error).split())
    text = re.sub(r"\?[^\s'\")]+", "?…", text)
    text = re.sub(r"<[^<>]*object at 0x[0-9a-f]+>:?", "", text)
    return text[:300]
