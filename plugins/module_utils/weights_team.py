# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connections that bring one file from one source: how many, what each asks for, when to try again."""

from __future__ import annotations

import http.client
import threading
from typing import TYPE_CHECKING, Any

from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import (
    Retry,
    Sequential,
    SourceError,
    Stopped,
    TooLate,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import CHUNK
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import network_problem
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Line, Patience
from ansible_collections.baremetal.llm.plugins.module_utils.weights_part import Stretch
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import MIB, Lease

if TYPE_CHECKING:
    from ansible_collections.baremetal.llm.plugins.module_utils.weights_transfer import FileTransfer

TICK_SECONDS = 0.02


class Team:
    """The connections that fetch one file from one source, led by the thread that called work()."""

    def __init__(self, transfer: FileTransfer, line: Line, single: bool) -> None:
        self.transfer = transfer
        self.run = transfer.run
        self.line = line
        self.part = transfer.opened
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
                self.transfer.wake.wait(TICK_SECONDS)
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
