# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One request to a web server, and a judgement of the answer.

The standard library's client is as fast as any (see benchmarks/weights), needs nothing on the host, and lets a
connection be watched at every read.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import (
    Changed,
    Retry,
    Sequential,
    SourceError,
)

_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
_PORTS = {"http": 80, "https": 443}
_USER_AGENT = "baremetal-llm/0.1"


@dataclass
class Answer:
    """An answer of which the head was read."""

    status: int
    headers: Message
    url: str
    stream: HttpStream
    seconds_to_head: float

    def header(self, name: str) -> str:
        return (self.headers.get(name) or "").strip()


class HttpStream:
    """The body of an answer, received straight into the caller's buffer."""

    def __init__(
        self, client: HttpClient, key: tuple[str, str, int], connection: http.client.HTTPConnection, response: Any
    ) -> None:
        self._client = client
        self._key = key
        self._connection = connection
        self._response = response
        self._left: int | None = None if response.chunked else response.length

    @property
    def length(self) -> int | None:
        """Bytes of the body that are still to come, if the server said so."""
        return self._left

    def readinto(self, view: memoryview) -> int:
        """What is there, at most one read of the socket; 0 at the end."""
        if self._response.chunked or self._left is None:
            data = self._response.read1(len(view))
            view[: len(data)] = data
            return len(data)
        if not self._left:
            return 0
        # Not HTTPResponse.readinto: it waits until the buffer is full, and a trickling connection would not be seen.
        count = int(self._response.fp.readinto1(view[: self._left]))
        self._left -= count
        return count

    def close(self) -> None:
        """Keep the connection if the body was read to its end; otherwise the rest of the body would be in the way."""
        if self._left == 0 and not self._response.will_close:
            self._response.length = 0
            self._response.read()
            self._client.keep(self._key, self._connection)
        else:
            self.abort()

    def interrupt(self) -> None:
        """Wake the thread that reads."""
        self._client.interrupt(self._connection)

    def skip(self) -> None:
        """Leave the body of a redirect or an error; a short one is read, so that the connection can be kept."""
        view = memoryview(bytearray(16384))
        try:
            if self._left is not None and self._left <= len(view):
                while self._left and self.readinto(view):
                    pass
            self.close()
        except (OSError, http.client.HTTPException):
            self.abort()

    def abort(self) -> None:
        self._response.close()
        self._client.drop(self._connection)


class HttpClient:
    """Connections to web servers, kept for the next request. Used by many threads."""

    def __init__(self, ca_file: str = "", idle_seconds: float = 30.0, connect_seconds: float = 20.0) -> None:
        self.ca_file = ca_file
        self.idle_seconds = idle_seconds
        self.connect_seconds = min(connect_seconds, idle_seconds)
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._idle: dict[tuple[str, str, int], list[http.client.HTTPConnection]] = {}
        self._busy: dict[http.client.HTTPConnection, socket.socket | None] = {}
        self._aborted = False

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Send one request. What may be better next time is a Retry, what no retry can mend a SourceError."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            key = (parts.scheme, host, parts.port or _PORTS[parts.scheme])
        except ValueError as error:
            raise SourceError("redirect", f"the address {cut(url)} has no valid port") from error
        proxy = _proxy_of(parts.scheme, host)
        path = _quoted(parts.path or "/") + (f"?{_quoted(parts.query)}" if parts.query else "")
        sent = {"Accept-Encoding": "identity", "User-Agent": _USER_AGENT, "Accept": "*/*", **headers}
        target = path
        if proxy and parts.scheme == "http":
            target = f"http://{parts.netloc}{path}"
            sent.update(_proxy_headers(proxy))
        while True:
            connection, fresh = self._connection(key, proxy)
            started = time.monotonic()
            try:
                connection.request("GET", target, headers=sent)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self.drop(connection)
                if not fresh and isinstance(error, (http.client.RemoteDisconnected, ConnectionError)):
                    # The server had closed a connection that was kept: no fault.
                    continue
                raise network_problem(error) from error
            stream = HttpStream(self, key, connection, response)
            seconds = time.monotonic() - started
            return Answer(response.status, response.headers, url, stream, seconds)

    def follow(self, url: str, headers: Mapping[str, str], secret_headers: Mapping[str, str]) -> Answer:
        """Follow redirects by hand: the secret headers are for the first server only, and TLS is never given up."""
        origin = origin_of(url)
        for _hop in range(_MOST_REDIRECTS + 1):
            sent = {**headers, **secret_headers} if origin_of(url) == origin else headers
            answer = self.get(url, sent)
            location = answer.header("Location")
            if answer.status not in _REDIRECTS or not location:
                return answer
            answer.stream.skip()
            target = urljoin(url, location)
            scheme, host = urlsplit(target).scheme, urlsplit(target).hostname
            if scheme not in _PORTS or not host:
                raise SourceError("redirect", "redirects to another scheme", "http or https", scheme)
            if url.startswith("https:") and scheme != "https":
                raise SourceError("redirect", "redirects from https to another scheme", "https", scheme)
            url = target
        raise SourceError("redirect", f"redirects more than {_MOST_REDIRECTS} times")

    def keep(self, key: tuple[str, str, int], connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.pop(connection, None)
            if not self._aborted:
                self._idle.setdefault(key, []).append(connection)
                return
        connection.close()

    def drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.pop(connection, None)
        connection.close()

    def interrupt(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            sock = self._busy.get(connection)
        _shut(sock)

    def abort(self) -> None:
        """End every request that is on its way, so that no thread waits for a silent server."""
        with self._lock:
            self._aborted = True
            busy, self._busy = list(self._busy.values()), {}
            idle = [connection for connections in self._idle.values() for connection in connections]
            self._idle.clear()
        for sock in busy:
            _shut(sock)
        for connection in idle:
            connection.close()

    def _connection(self, key: tuple[str, str, int], proxy: str) -> tuple[http.client.HTTPConnection, bool]:
        scheme, host, port = key
        with self._lock:
            kept = self._idle.get(key)
            if kept:
                connection = kept.pop()
                self._busy[connection] = connection.sock
                return connection, False
        through = urlsplit(proxy) if proxy else None
        address = (through.hostname or "", through.port or 8080) if through is not None else (host, port)
        if scheme == "https":
            connection = http.client.HTTPSConnection(*address, timeout=self.connect_seconds, context=self._tls())
            if through is not None:
                connection.set_tunnel(host, port, _proxy_headers(proxy))
        else:
            connection = http.client.HTTPConnection(*address, timeout=self.connect_seconds)
        with self._lock:
            if self._aborted:
                raise Retry(SourceError("connection", "the run was stopped"))
            self._busy[connection] = None
        try:
            connection.connect()
        except ssl.SSLError as error:
            self.drop(connection)
            # Not transient, and another try would only hide it.
            raise SourceError(
                "tls", f"TLS failed: {short(error)}; the certificates of a site's own CA go into ca_file"
            ) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            self.drop(connection)
            raise network_problem(error) from error
        connection.sock.settimeout(self.idle_seconds)
        with self._lock:
            self._busy[connection] = connection.sock
        return connection, True

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                try:
                    self._context = ssl.create_default_context(cafile=self.ca_file or None)
                except OSError as error:
                    raise SourceError(
                        "tls", f"the CA certificates in {self.ca_file} cannot be read: {error.strerror or error}"
                    ) from error
            return self._context


class HttpAccess:
    """One file on one server: where it is after redirects, and what all answers about it must agree on."""

    def __init__(
        self,
        client: HttpClient,
        url: str | Callable[[], str],
        size: int,
        secret_headers: Mapping[str, str],
        name: str = "",
    ) -> None:
        """`url` may be a function that signs an address; it is called again when the signature has expired."""
        self._client = client
        self._sign = None if isinstance(url, str) else url
        self._url = url if isinstance(url, str) else url()
        self._secret_headers = secret_headers
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._final_url = ""
        self._etag = ""
        self._answered = False
        self.seconds_to_head = 0.0

    def open(self, first: int, end: int, whole: bool = False) -> HttpStream:
        """The bytes from `first` up to `end`; with `whole` the file from its beginning, without asking for a range."""
        headers = {}
        if not whole:
            headers["Range"] = f"bytes={first}-{end - 1}"
            if self._etag:
                headers["If-Range"] = self._etag
        answer = self._ask(headers)
        try:
            self._judge(answer, first, end, whole)
        except BaseException:
            answer.stream.abort()
            raise
        self.seconds_to_head = answer.seconds_to_head
        return answer.stream

    def _ask(self, headers: Mapping[str, str]) -> Answer:
        final = self._final_url
        if final:
            # A signed address needs no token, and must not get one.
            same = origin_of(final) == origin_of(self._url)
            answer = self._client.follow(final, headers, self._secret_headers if same else {})
            if answer.status not in (401, 403) or (final == self._url and self._sign is None):
                return answer
            # The signature has expired: ask the first server again, once for all connections.
            answer.stream.skip()
        with self._lock:
            if self._final_url in ("", final):
                if final and self._sign is not None:
                    self._url = self._sign()
                answer = self._client.follow(self._url, headers, self._secret_headers)
                if answer.status < 400:
                    self._final_url = answer.url
                return answer
        return self._ask(headers)

    def _judge(self, answer: Answer, first: int, end: int, whole: bool) -> None:
        status = answer.status
        if status in _RETRY_STATUS:
            raise Retry(_status_problem(answer), wait_of(answer))
        if status == 416:
            total = whole_number(answer.header("Content-Range").rpartition("/")[2])
            if total is not None and total != self._size:
                raise self._other_size(total)
            raise Sequential
        if status == 412:
            raise Changed(self._etag, answer.header("ETag"))
        if status not in (200, 206):
            raise _status_problem(answer)
        encoding = answer.header("Content-Encoding").lower()
        if encoding not in ("", "identity"):
            raise SourceError("encoding", "sent an encoded body although it was asked not to", "identity", encoding)
        if "text/html" in answer.header("Content-Type").lower() and not self._name.endswith((".html", ".htm")):
            raise SourceError(
                "error_page", f"answered HTTP {status} with an HTML page, perhaps an error or a login page"
            )
        etag = answer.header("ETag")
        strong = etag if etag.startswith('"') else ""
        if self._etag and strong and strong != self._etag:
            raise Changed(self._etag, strong)
        if status == 200:
            length = answer.stream.length
            if length is not None and length != self._size:
                raise self._other_size(length)
            if not whole:
                raise Sequential
        else:
            self._judge_range(answer, first, end, whole)
        self._etag = strong or self._etag
        self._answered = True

    def _judge_range(self, answer: Answer, first: int, end: int, whole: bool) -> None:
        text = answer.header("Content-Range")
        match = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)", text)
        if match is None or whole:
            raise SourceError(
                "range", "sent a range that it does not name", f"bytes {first}-{end - 1}/{self._size}", text
            )
        total = whole_number(match[3])
        if total is not None and total != self._size:
            raise self._other_size(total)
        start, last = int(match[1]), int(match[2])
        if start != first or last < first or last >= end:
            raise SourceError(
                "range", "sent another range than it was asked for", f"{first}-{end - 1}", f"{start}-{last}"
            )
        length = answer.stream.length
        if length is not None and length != last + 1 - start:
            raise Retry(
                SourceError("range", "sent a body of another length than its range", str(last + 1 - start), str(length))
            )

    def _other_size(self, actual: int) -> Exception:
        if self._answered:
            return Changed(str(self._size), str(actual))
        return SourceError("size", "offers a file of another size", str(self._size), str(actual))


def _shut(sock: socket.socket | None) -> None:
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def origin_of(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def network_problem(error: BaseException) -> Retry:
    return Retry(SourceError("connection", f"the connection failed: {short(error)}"))


def whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


def system_ca_file() -> str:
    """The distribution's CA certificates, which a site's own CA is added to."""
    places = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
    return next((place for place in places if os.path.isfile(place)), "")


def cut(text: str) -> str:
    """A text without what may be a secret in an address: the query, which can be a signature, and user and password."""
    text = re.sub(r"\?[^\s'\")>]+", "?…", text)
    return re.sub(r"(https?://)[^/\s@]+@", r"\1…@", text)


def short(error: BaseException) -> str:
    text = cut(" ".join(str(error).split()) or type(error).__name__)
    if isinstance(error, (TimeoutError, socket.timeout)):
        text = "no byte came for too long (timed out)"
    return text[:300]


def _quoted(text: str) -> str:
    return quote(text, safe="!#$%&'()*+,/:;=?@[]~")


def _status_problem(answer: Answer) -> SourceError:
    hint = {401: "; a token_file may be needed", 403: "; the token may lack access"}.get(answer.status, "")
    return SourceError(
        "not_found" if answer.status in (404, 410) else "http_status",
        f"answered HTTP {answer.status}{hint}",
        "200 or 206",
        str(answer.status),
    )


def wait_of(answer: Answer) -> float | None:
    """Seconds that a server asks to wait, in one of the forms that are in use."""
    text = answer.header("Retry-After")
    if text:
        seconds = whole_number(text)
        if seconds is not None:
            return float(seconds)
        try:
            until = email.utils.parsedate_to_datetime(text).timestamp()
            # By the server's own clock where it tells it: the one of this host may be wrong.
            date = answer.header("Date")
            now = email.utils.parsedate_to_datetime(date).timestamp() if date else time.time()
            return max(0.0, until - now)
        except (TypeError, ValueError, IndexError, OverflowError):
            pass
    # RateLimit: "api";r=0;t=55 is the Hub's form, RateLimit-Reset: 55 an older one.
    match = re.search(r"(?:^|;)\s*t=([0-9]{1,9})", answer.header("RateLimit"))
    if match:
        return float(match[1])
    seconds = whole_number(answer.header("RateLimit-Reset"))
    return None if seconds is None or seconds > 86400 else float(seconds)


def _proxy_of(scheme: str, host: str) -> str:
    """The proxy that the environment names for a host, as every other program on it would use."""
    proxy = getproxies().get(scheme, "")
    if not proxy or proxy_bypass(host):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _proxy_headers(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if not parts.username:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}
