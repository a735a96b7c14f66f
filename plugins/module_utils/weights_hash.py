# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The SHA-256 of a file while it arrives, in a thread of its own (hashlib lets go of the interpreter lock).

What arrives at the very place that the hash has come to is handed over in memory; what arrives elsewhere, and what an
earlier run left, is read from the part once everything before it is there.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import CHUNK
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import MIB, Claim, Segments

# Measured: eight buffers of 1 MiB keep network, disk and hash busy; more gain nothing.
RING = 8
# Asking the kernel to let go of written pages starts their way to the disk early: the fsync at the end is short.
_FLUSH_BYTES = 64 * MIB
# On a slow line a segment takes long: the journal has a line for what came in the meantime.
JOURNAL_SECONDS = 1.0


class Buffers:
    """Buffers of 1 MiB that are used again and again. Not more than `limit` exist."""

    def __init__(self, limit: int) -> None:
        self._condition = threading.Condition()
        self._idle: list[bytearray] = []
        self._left = limit

    def get(self) -> bytearray:
        with self._condition:
            while not self._idle:
                if self._left > 0:
                    self._left -= 1
                    return bytearray(CHUNK)
                self._condition.wait()
            return self._idle.pop()

    def put(self, buffer: bytearray) -> None:
        with self._condition:
            if self._left < 0:
                self._left += 1
            else:
                self._idle.append(buffer)
                self._condition.notify()

    def allow(self, more: int) -> None:
        """One more connection needs one more buffer, one less gives it back when it is idle."""
        with self._condition:
            self._left += more
            while self._left < 0 and self._idle:
                self._idle.pop()
                self._left += 1
            self._condition.notify_all()


class Hasher(threading.Thread):
    """Hashes a part from its first byte to its last, judges the claims of its journal on the way, and says what holds.

    `checkpoint(end, sha256)` is called now and then with the digest of everything before `end`, `torn(first, end)` when
    bytes that the journal claimed are not those on the disk.
    """

    def __init__(
        self,
        descriptor: int,
        segments: Segments,
        buffers: Buffers,
        claims: Sequence[Claim] = (),
        checkpoint: Callable[[int, str], None] = lambda end, sha256: None,
        torn: Callable[[int, int], None] = lambda first, end: None,
        checkpoint_bytes: int = 2 * MIB,
    ) -> None:
        super().__init__(name="weights-hash", daemon=True)
        self.position = 0
        self.torn_bytes = 0
        self.error: BaseException | None = None
        self.on_event: Callable[[], None] = lambda: None
        self._descriptor = descriptor
        self._segments = segments
        self._changed = segments.changed
        self._buffers = buffers
        self._pending = deque(sorted(claims, key=lambda claim: (claim.first, claim.end)))
        self._open: list[tuple[Claim, Any, int]] = []
        self._checkpoint = checkpoint
        self._torn = torn
        self._checkpoint_bytes = checkpoint_bytes
        self._checkpointed = max((claim.end for claim in claims if claim.sha256), default=0)
        self._checkpointed_at = time.monotonic()
        self._flushed = 0
        self._ring: deque[tuple[bytearray, int]] = deque()
        self._tail = 0
        self._digest = hashlib.sha256()
        self._stopped = False

    @property
    def finished(self) -> bool:
        return self.position >= self._segments.size and not self._open

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def offer(self, buffer: bytearray, offset: int, count: int, wait: bool) -> bool:
        """Hand a buffer over, if it holds what is to be hashed next. The hasher gives it back to the pool."""
        with self._changed:
            while wait and len(self._ring) >= RING and self.error is None and not self._stopped:
                self._changed.wait(1.0)
            if offset != self._tail or len(self._ring) >= RING or self.error is not None or self._stopped:
                return False
            self._ring.append((buffer, count))
            self._tail += count
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """Come to an end: what was handed over is hashed, what lies on the disk is not."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self.ident is not None:
            self.join()
        self._drop_ring()

    def _drop_ring(self) -> None:
        for buffer, dummy in self._ring:
            self._buffers.put(buffer)
        self._ring.clear()

    def run(self) -> None:
        own = memoryview(bytearray(CHUNK)) if self._segments.have else memoryview(b"")
        try:
            while True:
                item, reach = self._next()
                if item is None and reach == self.position:
                    # What was handed over is in no other line of the journal.
                    if self._checkpointed < self.position:
                        self._checkpoint(self.position, self.sha256())
                    break
                if item is not None:
                    buffer, count = item
                    self._update(memoryview(buffer)[:count])
                    self._buffers.put(buffer)
                else:
                    own = own or memoryview(bytearray(CHUNK))
                    count = os.preadv(self._descriptor, [own[: reach - self.position]], self.position)
                    if not count:
                        raise OSError(5, "the part became shorter while it was read")
                    self._update(own[:count])
        except BaseException as error:
            with self._changed:
                self.error = error
                self._drop_ring()
                self._changed.notify_all()
            self.on_event()

    def _next(self) -> tuple[tuple[bytearray, int] | None, int]:
        """A buffer, or up to where to read from the part, or nothing more."""
        with self._changed:
            self._begin_claims()
            while True:
                if self._ring:
                    item = self._ring.popleft()
                    self._changed.notify_all()
                    return item, self.position
                if self._stopped:
                    return None, self.position
                reach = min(self._segments.reach(self.position), self.position + CHUNK, self._boundary())
                if reach > self.position:
                    self._tail = reach
                    return None, reach
                self._changed.wait()

    def _boundary(self) -> int:
        """Where the next claim begins or ends: a chunk must not go beyond."""
        nearest = min((claim.end for claim, dummy, dummy2 in self._open), default=self._segments.size)
        return min(nearest, self._pending[0].first) if self._pending else nearest

    def _begin_claims(self) -> None:
        while self._pending and self._pending[0].first <= self.position:
            claim = self._pending.popleft()
            if claim.first == self.position:
                self._open.append((claim, self._digest.copy(), 0))

    def _update(self, data: memoryview) -> None:
        self._digest.update(data)
        position = self.position + len(data)
        self._open = [
            (claim, state, zlib.crc32(data, crc) if claim.crc32 is not None else 0) for claim, state, crc in self._open
        ]
        for claim, state, crc in self._open:
            if claim.end == position and not self._holds(claim, crc):
                self._go_back(claim, state)
                return
        with self._changed:
            self._open = [entry for entry in self._open if entry[0].end > position]
            self.position = position
            self._changed.notify_all()
        ahead = position - self._checkpointed
        if ahead >= self._checkpoint_bytes or position == self._segments.size or (ahead > 0 and self._late()):
            self._checkpointed = max(self._checkpointed, position)
            self._checkpointed_at = time.monotonic()
            self._checkpoint(position, self._digest.copy().hexdigest())
        if position == self._segments.size:
            self.on_event()
        if position >= self._flushed + _FLUSH_BYTES:
            os.posix_fadvise(self._descriptor, self._flushed, position - self._flushed, os.POSIX_FADV_DONTNEED)
            self._flushed = position

    def _late(self) -> bool:
        return time.monotonic() - self._checkpointed_at > JOURNAL_SECONDS

    def _holds(self, claim: Claim, crc: int) -> bool:
        if claim.crc32 is not None:
            return crc == claim.crc32
        return self._digest.copy().hexdigest() == claim.sha256

    def _go_back(self, claim: Claim, state: Any) -> None:
        """What the journal claimed is not what the disk holds: let it be fetched again."""
        with self._changed:
            self._digest = state
            self.position = self._tail = claim.first
            self._checkpointed = min(self._checkpointed, claim.first)
            self.torn_bytes += claim.end - claim.first
            self._drop_ring()
            # Claims that overlap the bad one cannot be judged any more; the digest of the whole file will.
            self._open = [entry for entry in self._open if entry[0].end < claim.first]
            self._segments.forget(claim.first, claim.end)
        self._torn(claim.first, claim.end)
        self.on_event()
