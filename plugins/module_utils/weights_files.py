# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of a model on disk: hashing, durable writing, structure checks and the record of a verification."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

# Measured: 1 MiB reads are twice as fast as 64 KiB, and larger ones gain nothing.
CHUNK = 1024 * 1024
RECORD_NAME = ".baremetal-llm.json"
RECORD_VERSION = 1
_HEADER_LIMIT = 100_000_000


def hash_file(path: str, read: Callable[[int], None] = lambda count: None) -> str:
    """The SHA-256 of a file. `read` is told of bytes as they are read."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as stream:
        while True:
            count = stream.readinto(buffer)
            if not count:
                return digest.hexdigest()
            digest.update(buffer[:count])
            read(count)


def write_atomically(path: str, content: bytes, mode: int) -> None:
    """Write a small file so that a reader sees the old or the new content, also after a power cut."""
    folder = os.path.dirname(path) or "."
    descriptor, temporary = tempfile.mkstemp(prefix=".baremetal-llm.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_folder(folder)


def file_system(path: str) -> str:
    """The kind of file system that a path lies on, as mountinfo calls it; nothing if that cannot be said."""
    folder = os.path.realpath(os.path.dirname(path) or ".")
    best, kind = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            for line in stream:
                left, dummy, right = line.partition(" - ")
                mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split()[4])
                inside = folder == mount or folder.startswith(mount.rstrip("/") + "/")
                if inside and len(mount) >= len(best):
                    best, kind = mount, right.split()[0]
    except (OSError, IndexError):
        return ""
    return kind


def fsync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def safetensors_problem(path: str) -> str | None:
    """Why a safetensors file cannot be whole, judged by its header only, or nothing."""
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            return f"{size} bytes are too few for a safetensors header"
        length = struct.unpack("<Q", prefix)[0]
        if length > _HEADER_LIMIT or length > size - 8:
            return f"its header claims {length} bytes, the file has {size}"
        header = stream.read(length)
    try:
        tensors = json.loads(header.decode("utf-8"))
        end = max(
            (int(entry["data_offsets"][1]) for name, entry in tensors.items() if name != "__metadata__"), default=0
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "its header is not that of a safetensors file"
    if end != size - 8 - length:
        return f"its tensors end at byte {end + 8 + length}, the file at {size}"
    return None


def gguf_problem(path: str) -> str | None:
    with open(path, "rb") as stream:
        return None if stream.read(4) == b"GGUF" else "does not begin with the mark of a GGUF file"


def structure_problem(name: str, path: str) -> str | None:
    """Why the file at `path`, known as `name`, cannot be what its name says, or nothing."""
    if name.endswith(".safetensors"):
        return safetensors_problem(path)
    if name.endswith(".gguf"):
        return gguf_problem(path)
    return None


@dataclass(frozen=True)
class FileState:
    """What a stat says about a verified file. Any write to it changes at least ctime, which nobody can set back.

    The device number is left out: it differs between mounts of the same network file system.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    ino: int
    sha256: str

    def matches(self, status: os.stat_result) -> bool:
        return (self.size, self.mtime_ns, self.ctime_ns, self.ino) == (
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        )


def state_of(path: str, sha256: str) -> FileState:
    status = os.lstat(path)
    return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, sha256)


def read_record(folder: str, revision: str) -> dict[str, FileState]:
    """The states that an earlier run verified. Whatever is unreadable counts as not verified, never as an error."""
    try:
        with open(os.path.join(folder, RECORD_NAME), encoding="utf-8") as stream:
            data = json.load(stream)
        if data["format_version"] != RECORD_VERSION or data["revision"] != revision:
            return {}
        return {
            str(path): FileState(
                int(entry["size"]),
                int(entry["mtime_ns"]),
                int(entry["ctime_ns"]),
                int(entry["ino"]),
                str(entry["sha256"]),
            )
            for path, entry in data["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_record(folder: str, model: str, revision: str, states: Mapping[str, FileState], mode: int) -> None:
    data = {
        "format_version": RECORD_VERSION,
        "model": model,
        "revision": revision,
        "files": {path: dict(vars(state)) for path, state in sorted(states.items())},
    }
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    write_atomically(os.path.join(folder, RECORD_NAME), text.encode("utf-8"), mode)


def walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below a folder as (relative path, lstat), parents before children, links never followed."""
    pending = [""]
    while pending:
        relative = pending.pop()
        with os.scandir(os.path.join(folder, relative)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{relative}/{entry.name}" if relative else entry.name
                status = entry.stat(follow_symlinks=False)
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    pending.append(path)
