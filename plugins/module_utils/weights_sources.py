# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the bytes of a model come from. A source only delivers; whether the bytes are right is decided by the lock."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockError, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import Retry, SourceError
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpAccess, HttpClient, cut

HUB_ENDPOINT = "https://huggingface.co"
# A small file that takes longer costs more than it can save.
_SMALL_FILE_SECONDS = 60.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class FolderStream:
    def __init__(self, descriptor: int, first: int, end: int) -> None:
        self._descriptor = descriptor
        self._position = first
        self._end = end

    def readinto(self, view: memoryview) -> int:
        try:
            count = os.preadv(self._descriptor, [view[: self._end - self._position]], self._position)
        except OSError as error:
            raise SourceError("unreadable", f"cannot be read: {error.strerror}") from error
        self._position += count
        return count

    def interrupt(self) -> None:
        """A read of a file cannot be woken."""

    def close(self) -> None:
        os.close(self._descriptor)


class FolderAccess:
    """One file in a folder."""

    seconds_to_head = 0.0

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._size = size

    def open(self, first: int, end: int, whole: bool = False) -> FolderStream:
        try:
            # A pipe or a device of that name must not hold the run up.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceError("not_found", "no such file") from error
        except OSError as error:
            raise SourceError("unreadable", f"cannot be read: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SourceError("not_found", "is not a regular file")
            if status.st_size != self._size:
                raise SourceError("size", "offers a file of another size", str(self._size), str(status.st_size))
            os.posix_fadvise(descriptor, first, end - first, os.POSIX_FADV_SEQUENTIAL)
        except BaseException:
            os.close(descriptor)
            raise
        return FolderStream(descriptor, first, end)


@dataclass
class FolderSource:
    """A folder on the host that fetches: a network share, a disk that was carried in."""

    path: str
    label: str = ""
    kind: str = "folder"

    def __post_init__(self) -> None:
        self.label = self.label or f"folder {self.path}"

    def check(self) -> None:
        if not os.path.isdir(self.path):
            raise SourceError("source_unavailable", "the folder does not exist on this host (is it mounted?)")

    def access(self, file: LockFile, client: HttpClient) -> FolderAccess:
        return FolderAccess(os.path.join(self.path, *file.path.split("/")), file.size)

    def small_file(self, name: str, limit: int, client: HttpClient) -> bytes | None:
        """The content of a small file beside the others; nothing if there is none. Up to a byte more than `limit`."""
        path = os.path.join(self.path, name)
        try:
            access = FolderAccess(path, os.stat(path).st_size)
            with contextlib.closing(access.open(0, limit + 1)) as stream:
                return _read_all(stream.readinto, limit)
        except (OSError, SourceError):
            return None


@dataclass
class HttpSource:
    """A web server. `url_of` makes a file's address."""

    url_of: Callable[[LockFile], str]
    label: str
    token: str = field(default="", repr=False)
    kind: str = "http"
    signed: bool = False

    def check(self) -> None:
        """Whether it can be reached is seen with the first file."""

    def access(self, file: LockFile, client: HttpClient) -> HttpAccess:
        secrets = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = (lambda: self.url_of(file)) if self.signed else self.url_of(file)
        return HttpAccess(client, url, file.size, secrets, file.path)

    def small_file(self, name: str, limit: int, client: HttpClient) -> bytes | None:
        """As of a folder. It is asked for once: whoever wants it can do without."""
        secrets = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = client.follow(self.url_of(LockFile(name, 0, "")), {}, secrets)
            try:
                return _read_all(answer.stream.readinto, limit) if answer.status == 200 else None
            finally:
                answer.stream.abort()
        except (OSError, http.client.HTTPException, SourceError, Retry):
            return None


def _read_all(readinto: Callable[[memoryview], int], limit: int) -> bytes | None:
    """Everything, up to a byte more than `limit`; nothing if it takes too long or breaks off."""
    content, buffer = bytearray(), memoryview(bytearray(64 * 1024))
    began = time.monotonic()
    while len(content) <= limit:
        count = readinto(buffer)
        if not count:
            break
        content += buffer[:count]
        if time.monotonic() - began > _SMALL_FILE_SECONDS:
            return None
    return bytes(content[: limit + 1])


Source = Any  # FolderSource or HttpSource: label, check() and access(); a Protocol would say no more


def parse_sources(
    specifications: Sequence[Mapping[str, Any]], lock: Lock, token_file: str = ""
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
                sources.append(_http(specification, lock, token_file))
            elif kind == "s3":
                sources.append(_s3(specification))
            else:
                problems.append(f"{where}: type must be folder, http, hub or s3, not {kind!r}")
        except LockError as error:
            problems += [f"{where}: {text}" for text in error.problems]
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


def _http(specification: Mapping[str, Any], lock: Lock, token_file: str) -> HttpSource:
    kind = str(specification["type"])
    key = "url" if kind == "http" else "endpoint"
    base = str(specification.get(key) or (HUB_ENDPOINT if kind == "hub" else "")).rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{key} must begin with https:// or http://, not {cut(base)!r}")
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
    return HttpSource(url_of=lambda file: prefix + quote(file.path), label=label, token=token, kind=kind)


def _s3(specification: Mapping[str, Any]) -> HttpSource:
    # Here, because the other kinds of sources need none of what it imports.
    from ansible_collections.baremetal.llm.plugins.module_utils.lock_s3 import presign, read_credentials

    bucket, region = str(specification.get("bucket") or ""), str(specification.get("region") or "us-east-1")
    endpoint = str(specification.get("endpoint") or f"https://s3.{region}.amazonaws.com").rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise ValueError(f"endpoint must be https://HOST without a path, user or query, not {cut(endpoint)!r}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise ValueError(f"bucket must be the name of a bucket, not {bucket!r}")
    credentials_file = str(specification.get("credentials_file") or "")
    profile = str(specification.get("credentials_profile") or "default")
    credentials = read_credentials(credentials_file, profile) if credentials_file else None
    if credentials and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("endpoint is http://, so signed addresses would travel in clear; use https://")
    prefix = str(specification.get("prefix") or "").strip("/")
    if specification.get("virtual_hosted"):
        base = f"{parts.scheme}://{bucket}.{parts.netloc}/"
    else:
        base = f"{endpoint}/{bucket}/"
    base += quote(f"{prefix}/", safe="/-_.~") if prefix else ""

    def sign(file: LockFile) -> str:
        now = datetime.datetime.now(datetime.timezone.utc)
        return presign(base + quote(file.path, safe="/-_.~"), {}, credentials, region, now)

    label = f"s3://{bucket}/{prefix} on {endpoint}"
    return HttpSource(url_of=sign, label=label, kind="s3", signed=True)


def _read_token(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            token = stream.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"token_file {path} cannot be read: {getattr(error, 'strerror', 'not text')}") from error
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise ValueError(f"token_file {path} must hold one token and nothing else")
    return token
