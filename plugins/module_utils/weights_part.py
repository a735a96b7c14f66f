# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file on disk that the bytes of one file are collected in, until all of them are there and right.

Every writer puts bytes at their own place, and a part is never cut: one that has to begin anew is a new file. Two runs
that do not see each other's lock therefore write the same bytes twice, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import zlib
from collections.abc import Callable

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import disk_error
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import file_system
from ansible_collections.baremetal.llm.plugins.module_utils.weights_hash import JOURNAL_SECONDS, RING, Buffers, Hasher
from ansible_collections.baremetal.llm.plugins.module_utils.weights_piece_files import piece_is_right
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import FilePieces
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import MIB, Journal, Segments, read_claims

# Where the kernel reserves space at once. Elsewhere the C library would write every block instead.
_PREALLOCATE = frozenset({"ext4", "xfs", "btrfs", "tmpfs", "f2fs"})


class Part:
    """The file on disk that bytes are collected in, with its journal, its segments and its hash."""

    def __init__(self, path: str, file: LockFile, segment_bytes: int, wake: threading.Event) -> None:
        self.path = path
        self.file = file
        claims = read_claims(path, file)
        self.resumed = bool(claims)
        self.journal = Journal(path, file)
        self.descriptor = -1
        try:
            if not claims:
                unlink(path)
                self.journal.discard()
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._reserve()
            self.journal.open()
        except OSError as error:
            self._close_files()
            raise disk_error(error, path) from error
        self.segments = Segments(
            file.size,
            segment_bytes,
            [(claim.first, claim.end) for claim in claims],
            smallest_split=min(2 * MIB, segment_bytes),
        )
        self.buffers = Buffers(RING)
        self.hasher = Hasher(
            self.descriptor,
            self.segments,
            self.buffers,
            claims,
            checkpoint=self._checkpoint,
            torn=self.journal.forget,
            checkpoint_bytes=min(segment_bytes, 2 * MIB),
        )
        self._wake = wake
        self.hasher.on_event = wake.set
        self.hasher.start()

    def _checkpoint(self, end: int, sha256: str) -> None:
        self.journal.prefix(end, sha256)

    def _reserve(self) -> None:
        """A full disk is to be seen now, not after an hour."""
        status = os.fstat(self.descriptor)
        if status.st_blocks * 512 >= self.file.size and status.st_size == self.file.size:
            return
        if self.file.size > MIB and file_system(self.path) in _PREALLOCATE:
            os.posix_fallocate(self.descriptor, 0, self.file.size)
        else:
            os.ftruncate(self.descriptor, self.file.size)

    def write(self, view: memoryview, offset: int) -> None:
        try:
            while view:
                count = os.pwrite(self.descriptor, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise disk_error(error, self.path) from error

    def written(self, first: int, end: int, crc32: int) -> None:
        try:
            self.journal.segment(first, end, crc32)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def check(self) -> None:
        error = self.hasher.error
        if isinstance(error, OSError):
            raise disk_error(error, self.path) from error
        if error is not None:
            raise error

    def sync(self) -> None:
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def close(self) -> None:
        self.hasher.close()
        self._close_files()

    def discard(self) -> None:
        """Forget every byte. Not by cutting the file: somebody else may have it open, or have published it."""
        self.close()
        unlink(self.path)
        self.journal.discard()

    def _close_files(self) -> None:
        self.journal.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Stretch:
    """Bytes in a row that were written but not handed to the hasher: the journal gets their CRC-32. The hasher sees to
    those that it was handed."""

    def __init__(self, part: Part, position: int) -> None:
        self._part = part
        self._first = self._position = position
        self._crc = 0
        self._began = time.monotonic()

    def add(self, view: memoryview, hashed: bool) -> None:
        if hashed:
            self.end()
            self._position += len(view)
            self._first = self._position
            return
        self._crc = zlib.crc32(view, self._crc)
        self._position += len(view)
        late = time.monotonic() - self._began > JOURNAL_SECONDS
        if late or self._position - self._first >= min(MIB, self._part.segments.segment_bytes):
            self.end()

    def end(self) -> None:
        if self._first < self._position:
            self._part.written(self._first, self._position, self._crc)
        self._first, self._crc, self._began = self._position, 0, time.monotonic()


def keep_pieces(
    path: str, file: LockFile, pieces: FilePieces, origin: str, look: Callable[[], None] = lambda: None
) -> list[int]:
    """Let the part at `path` be the pieces of the file `origin` that are right, and return the numbers of the others.

    `origin` may be the part itself. The next Part at this path goes on from there, as from what a killed run left: a
    piece is a stretch of its journal. `look` is called between pieces and may raise.
    """
    journal = Journal(path, file)
    source = target = -1
    bad = []
    try:
        journal.discard()
        if origin != path:
            unlink(path)
        target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        source = os.open(origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        journal.open()
        for number in range(len(pieces.digests)):
            look()
            crc32 = _take_piece(source, -1 if origin == path else target, pieces, number)
            if crc32 is None:
                bad.append(number)
            else:
                journal.segment(*pieces.range_of(number), crc32)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        journal.close()
        for descriptor in (source, target):
            if descriptor >= 0:
                os.close(descriptor)
    return bad


def _take_piece(source: int, target: int, pieces: FilePieces, number: int) -> int | None:
    """The CRC-32 of a piece if it is right, nothing if not; copied on the way if there is a target."""
    crc32 = 0

    def take(view: memoryview, offset: int) -> None:
        nonlocal crc32
        crc32 = zlib.crc32(view, crc32)
        while view and target >= 0:
            count = os.pwrite(target, view, offset)
            view, offset = view[count:], offset + count

    return crc32 if piece_is_right(source, pieces, number, take=take) else None


def unlink(path: str) -> None:
    """Remove a file that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
