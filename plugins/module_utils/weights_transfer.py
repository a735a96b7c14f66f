# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring one file into its part, from one source after the other, over as many connections as are worth it.

Every writer puts the bytes of the file at their own place, and a part is never cut: one that has to begin anew is a new
file. Two runs that do not see each other's lock therefore write the same bytes twice, and nothing else.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import (
    Changed,
    Retry,
    Sequential,
    SourceError,
    Stopped,
    TooLate,
    disk_error,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import CHUNK, file_system, structure_problem
from ansible_collections.baremetal.llm.plugins.module_utils.weights_hash import (
    JOURNAL_SECONDS,
    RING,
    Buffers,
    Hasher,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpClient, network_problem
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Line, Patience, Transport
from ansible_collections.baremetal.llm.plugins.module_utils.weights_plan import Finding
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import (
    JOURNAL_SUFFIX,
    MIB,
    Journal,
    Lease,
    Segments,
    read_claims,
    segment_bytes_of,
)

# Where the kernel reserves space at once. Elsewhere the C library would write every block instead.
_PREALLOCATE = frozenset({"ext4", "xfs", "btrfs", "tmpfs", "f2fs"})
_TICK_SECONDS = 0.02
_MOST_RESTARTS = 3
_EARLIER = "an earlier run"


class Run:
    """What all files of one run share."""

    def __init__(self, sources: Sequence[Any], transport: Transport) -> None:
        self.transport = transport
        self.client = HttpClient(transport.ca_file, transport.idle_seconds)
        self.stopped = threading.Event()
        self.findings: list[Finding] = []
        self.lines: list[Line] = []
        self.began = transport.clock()
        for source in sources:
            try:
                source.check()
                self.lines.append(Line(source, transport))
            except SourceError as error:
                self.findings.append(finding_of("", source.label, error))

    def stop(self) -> None:
        """End all at once; what has come stays in the parts."""
        self.stopped.set()
        for line in self.lines:
            for team in list(line.teams):
                team.stopping.set()
        self.client.abort()

    @property
    def late(self) -> bool:
        limit = self.transport.deadline_seconds
        return bool(limit) and self.transport.clock() - self.began > limit

    @property
    def received(self) -> int:
        return sum(line.received for line in self.lines)

    @property
    def retries(self) -> int:
        return sum(line.retries for line in self.lines)


def finding_of(path: str, label: str, error: SourceError) -> Finding:
    return Finding(path, label, error.problem, error.message, error.expected, error.actual)


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
                _unlink(path)
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
        _unlink(self.path)
        self.journal.discard()

    def _close_files(self) -> None:
        self.journal.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class FileTransfer:
    """One file of one run."""

    def __init__(self, run: Run, file: LockFile, path: str) -> None:
        self.run = run
        self.file = file
        self.path = path
        self.findings: list[Finding] = []
        self.wake = threading.Event()
        self.origins: set[str] = set()
        self.source = ""
        self.part: Part | None = None
        self.active = False
        self.done = False
        self._segment_bytes = run.transport.segment_bytes or segment_bytes_of(file.size)

    @property
    def have(self) -> int:
        part = self.part
        return part.segments.have if part is not None else 0

    def fetch(self) -> bool:
        """Whether the part now is what the lock says. If not, `findings` say why, and what was right so far is kept."""
        if self.run.stopped.is_set():
            raise Stopped
        self.active = True
        try:
            self._open()
            if not self._complete_already() and not self._from_any_source():
                return False
            part = self._part
            problem = structure_problem(self.file.path, self.path)
            if problem:
                self.findings.append(
                    Finding(
                        self.file.path,
                        "",
                        "structure",
                        f"is what the lock says, but {problem}: the lock was made from a broken file, "
                        "lock the model again",
                    )
                )
                part.discard()
                return False
            part.sync()
            self.done = True
            return True
        finally:
            self.active = False
            if self.part is not None:
                empty = not self.part.segments.have and self.file.size
                self.part.close()
                if empty:
                    _unlink(self.path)
                    _unlink(self.path + JOURNAL_SUFFIX)

    @property
    def _part(self) -> Part:
        if self.part is None:
            raise AssertionError("no part is open")
        return self.part

    def _open(self) -> None:
        self.part = Part(self.path, self.file, self._segment_bytes, self.wake)
        self.origins = {_EARLIER} if self.part.resumed else set()

    def _begin_anew(self) -> None:
        self._part.discard()
        self._open()

    def _complete_already(self) -> bool:
        """Whether the part needs no source: an earlier run came to its end, or the file is empty."""
        part = self._part
        while part.segments.complete and not part.hasher.finished:
            self.wake.wait(_TICK_SECONDS)
            self.wake.clear()
            part.check()
            if self.run.stopped.is_set():
                raise Stopped
        if not part.hasher.finished:
            return False
        if part.hasher.sha256() == self.file.sha256:
            return True
        self._begin_anew()
        return False

    def _from_any_source(self) -> bool:
        wrong: list[tuple[Line, str]] = []
        skipped: list[Finding] = []
        for line in self.run.lines:
            if line.down is not None:
                skipped.append(finding_of(self.file.path, line.label, line.down))
                continue
            digest = self._from(line)
            if digest == self.file.sha256:
                return True
            if digest:
                wrong.append((line, digest))
        if wrong and self._once_more(wrong):
            return True
        self.findings += skipped
        return False

    def _from(self, line: Line, single: bool = False) -> str:
        """The digest of the file once it has come from this source, or nothing if it did not come."""
        self.source = line.label
        while True:
            try:
                self._fill(line, single)
            except SourceError as error:
                self.findings.append(finding_of(self.file.path, line.label, error))
                return ""
            digest = self._part.hasher.sha256()
            if digest == self.file.sha256:
                return digest
            clean = self.origins == {line.label}
            self._begin_anew()
            if clean:
                self.findings.append(
                    Finding(
                        self.file.path,
                        line.label,
                        "digest",
                        "delivered other bytes than the lock says (SHA-256)",
                        self.file.sha256,
                        digest,
                    )
                )
                return digest
            # The beginning came from an earlier run or another source and may be what is wrong.

    def _once_more(self, wrong: Sequence[tuple[Line, str]]) -> bool:
        """Nobody delivered the right bytes. Find out whether the sources or this host is at fault, and say so."""
        line, digest = wrong[0]
        same = [other.label for other, found in wrong[1:] if found == digest]
        if same:
            verdict = (
                f"delivered the same other bytes as {same[0]}: the sources hold another file than the lock says; "
                "mend them, or lock the model again"
            )
        else:
            again = self._from(line, single=True)
            if not again:
                return False
            self.findings = [
                finding for finding in self.findings if (finding.source, finding.problem) != (line.label, "digest")
            ]
            if again == self.file.sha256:
                verdict = (
                    f"delivered the right bytes only the second time (first SHA-256 {digest}): memory, disk or network "
                    "between it and this host change bytes now and then"
                )
            elif again == digest:
                verdict = (
                    "delivered the same other bytes twice, so the source is at fault and not this host: it holds "
                    "another file than the lock says; mend or remove the source, or lock the model again"
                )
            else:
                verdict = (
                    f"delivered bytes with another wrong SHA-256 each time ({digest}, then {again}), so memory, disk, "
                    "file system or network of this host are at fault; test them before the host serves anything"
                )
            digest = again
        self.findings.append(Finding(self.file.path, line.label, "digest", verdict, self.file.sha256, digest))
        return digest == self.file.sha256

    def _fill(self, line: Line, single: bool) -> None:
        """Until every byte is there and hashed."""
        changes = streams = 0
        while True:
            try:
                Team(self, line, single).work()
                return
            except Sequential as error:
                if line.sequential:
                    streams += 1
                if streams > _MOST_RESTARTS:
                    raise SourceError(
                        "truncated",
                        f"knows no ranges and broke off {streams} times",
                        str(self.file.size),
                        str(self._part.segments.have),
                    ) from error
                line.sequential = True
                self._begin_anew()
            except Changed as error:
                changes += 1
                if changes > 1:
                    raise SourceError(
                        "source_changed",
                        "the file changes at the source while it is fetched (source changed)",
                        error.expected,
                        error.actual,
                    ) from error
                self._begin_anew()


class Team:
    """The connections that fetch one file from one source, led by the thread that called work()."""

    def __init__(self, transfer: FileTransfer, line: Line, single: bool) -> None:
        self.transfer = transfer
        self.run = transfer.run
        self.line = line
        self.part = transfer._part
        self.segments = self.part.segments
        self.stopping = threading.Event()
        self._single = single or line.sequential
        self._access = line.source.access(transfer.file, self.run.client)
        self._patience = Patience(line)
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._alive = 0
        self._threads: list[threading.Thread] = []
        self._streams: set[Any] = set()

    def work(self) -> None:
        self.line.begin(self)
        try:
            while not self.part.hasher.finished:
                self._look()
                self.transfer.wake.wait(_TICK_SECONDS)
                self.transfer.wake.clear()
            self.part.check()
        finally:
            self.stopping.set()
            with self._lock:
                streams = list(self._streams)
            for stream in streams:
                stream.interrupt()
            for thread in self._threads:
                thread.join()
            self.line.end(self)

    @property
    def share(self) -> int:
        return 1 if self._single else self.line.share(self)

    def _look(self) -> None:
        if self.run.stopped.is_set():
            raise Stopped
        if self.run.late:
            raise TooLate
        self.part.check()
        if self._failure is not None:
            raise self._failure
        self.line.tick(self.run.transport.clock())
        share = self.share
        if share > 1:
            self.segments.shorten()
        with self._lock:
            if self._failure is None and self._alive < share and self.segments.waiting:
                self._alive += 1
                thread = threading.Thread(target=self._connection, name="weights-fetch", daemon=True)
                self._threads = [*(other for other in self._threads if other.is_alive()), thread]
                self.part.buffers.allow(1)
                thread.start()
                # The next look is for the next one.
                self.transfer.wake.set()

    def _connection(self) -> None:
        """Lease after lease, until nothing is left or this connection is one too many."""
        self.line.connected(1)
        try:
            while not self.stopping.is_set():
                with self._lock:
                    if self._alive > self.share:
                        return
                lease = self.segments.take(long=self._single or (self.share == 1 and self.line.tuner.known))
                if lease is None:
                    return
                try:
                    if not self._attempt(lease):
                        return
                except BaseException as error:
                    # Before the lease is there for others, who would ask for the same again.
                    self._fail(error)
                    return
                finally:
                    self.segments.release(lease)
        except BaseException as error:
            self._fail(error)
        finally:
            self.line.connected(-1)
            self.part.buffers.allow(-1)
            with self._lock:
                self._alive -= 1
            self.transfer.wake.set()

    def _attempt(self, lease: Lease) -> bool:
        """Ask for the lease; whether this connection is to go on."""
        try:
            self._fetch(lease)
        except Retry as retry:
            return self._wait(retry)
        return True

    def _fail(self, error: BaseException) -> None:
        """The first failure counts. A stream that was interrupted on purpose fails too."""
        with self._lock:
            if self._failure is None and not self.stopping.is_set():
                self._failure = error

    def _wait(self, retry: Retry) -> bool:
        transport = self.run.transport
        if self.stopping.is_set():
            return False  # what broke was broken off
        if retry.wait is None and retry.refused and self._alive > 1 and self.line.one_too_many(transport.clock()):
            return False
        try:
            pause = self._patience.pause_after(retry)
        except SourceError as error:
            # The other files need not find out for themselves.
            self.line.down = error
            raise
        if pause > 0:
            transport.pause(pause, self.stopping)
        return True

    def _fetch(self, lease: Lease) -> None:
        line, size = self.line, self.transfer.file.size
        if line.sequential and lease.position:
            raise Sequential
        pause = line.not_before - self.run.transport.clock()
        if pause > 0:
            self.run.transport.pause(pause, self.stopping)
        if line.down is not None:
            raise line.down
        whole = line.sequential or (lease.position == 0 and lease.end == size)
        try:
            stream = self._access.open(lease.position, lease.end, whole)
        except Retry as retry:
            retry.refused = True
            raise
        with self._lock:
            self._streams.add(stream)
        try:
            line.reached = True
            line.tuner.answered(self._access.seconds_to_head)
            self.transfer.wake.set()
            self._receive(stream, lease)
        finally:
            with self._lock:
                self._streams.discard(stream)
            stream.close()

    def _receive(self, stream: Any, lease: Lease) -> None:
        """Until the lease is written, or raise; what came is written in both cases."""
        stretch = Stretch(self.part, lease.position)
        pace = Pace(self.line)
        problem: Retry | None = None
        try:
            while lease.left and problem is None:
                buffer = self.part.buffers.get()
                kept = False
                try:
                    view = memoryview(buffer)[: min(CHUNK, lease.left)]
                    count, problem = self._read(stream, view, pace)
                    if count:
                        self.part.write(view[:count], lease.position)
                        self.transfer.origins.add(self.line.label)
                        self._patience.add(count)
                        kept = self.part.hasher.offer(buffer, lease.position, count, wait=self.share == 1)
                        stretch.add(view[:count], kept)
                        self.segments.advance(lease, count)
                finally:
                    if not kept:
                        self.part.buffers.put(buffer)
        finally:
            stretch.end()
        pace.end()
        if problem is not None:
            problem.problem.expected = problem.problem.expected or str(self.transfer.file.size)
            problem.problem.actual = problem.problem.actual or str(self.segments.have)
            raise problem

    def _read(self, stream: Any, view: memoryview, pace: Pace) -> tuple[int, Retry | None]:
        """Fill the buffer, but not longer than a second: what came slowly is not to be lost with the connection."""
        clock = self.run.transport.clock
        began = clock()
        filled = 0
        try:
            while filled < len(view):
                try:
                    count = stream.readinto(view[filled:])
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise network_problem(error) from error
                if not count:
                    raise Retry(SourceError("truncated", "the connection ended early"))
                filled += count
                now = clock()
                pace.add(count, now)
                if self.stopping.is_set():
                    raise Retry(SourceError("connection", "the connection was not needed any more"))
                if now - began > 1.0:
                    break
        except Retry as problem:
            return filled, problem
        return filled, None


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


class Pace:
    """What one connection brings."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._transport = line.transport
        self._began = self._transport.clock()
        self._count = 0

    def add(self, count: int, now: float) -> None:
        self._line.add(count, now)
        self._count += count
        if now - self._began >= self._transport.pace_seconds:
            count, self._count = self._count, 0
            began, self._began = self._began, now
            self._line.judge_pace(count, now - began, True)

    def end(self) -> None:
        if self._count >= MIB // 4:
            seconds = max(0.01, self._transport.clock() - self._began)
            self._line.judge_pace(self._count, seconds, False)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
