# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which bytes of a file are there, which are on their way, which are still to be fetched; and the same on disk.

The journal beside a part says which of its bytes were written, with a digest of each stretch. It is a claim, not a
promise: after a power cut the data may be missing that it speaks of. So a later run reads the part again, which it must
do for the SHA-256 anyway, and fetches every stretch anew whose digest does not fit.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockFile

MIB = 1024 * 1024
GIB = 1024 * MIB
JOURNAL_SUFFIX = ".journal"
_FORMAT_VERSION = 1
# Below this, a second connection costs more than it brings, unless the first one is stuck.
_SMALLEST_SPLIT = 2 * MIB
_STUCK_SECONDS = 2.0


def segment_bytes_of(size: int) -> int:
    """How much one request on one of several connections asks for: little enough for an even end, much enough that
    the pause between two requests does not count."""
    if size < 4 * GIB:
        return 8 * MIB
    return 16 * MIB if size < 16 * GIB else 32 * MIB


@dataclass(eq=False)
class Lease:
    """Bytes that one connection fetches. `end` can be lowered while it does."""

    position: int
    end: int

    def __post_init__(self) -> None:
        self._first = self.position
        self._began = time.monotonic()

    @property
    def left(self) -> int:
        return max(0, self.end - self.position)

    @property
    def stuck(self) -> bool:
        """Whether it takes seconds to the end of it, as far as one can tell."""
        seconds = time.monotonic() - self._began
        return seconds > _STUCK_SECONDS / 2 and self.left * seconds > (self.position - self._first) * _STUCK_SECONDS


class Segments:
    """The bytes of one file, in three states: there, leased, free. `changed` guards them and is notified."""

    def __init__(
        self, size: int, segment_bytes: int, done: Iterable[tuple[int, int]] = (), smallest_split: int = _SMALLEST_SPLIT
    ) -> None:
        self.size = size
        self.segment_bytes = segment_bytes
        self.changed = threading.Condition(threading.RLock())
        self._smallest_split = smallest_split
        self._leases: list[Lease] = []
        self._done: list[tuple[int, int]] = []
        for first, end in done:
            self._done = merged(self._done, first, min(end, size))
        self._free = [(0, size)] if size else []
        for first, end in self._done:
            self._free = without(self._free, first, end)

    @property
    def have(self) -> int:
        with self.changed:
            return sum(end - first for first, end in self._done)

    @property
    def complete(self) -> bool:
        with self.changed:
            return not self.size or self._done == [(0, self.size)]

    @property
    def untouched(self) -> bool:
        with self.changed:
            return not self._done and not self._leases

    @property
    def free(self) -> int:
        with self.changed:
            return sum(end - first for first, end in self._free)

    @property
    def waiting(self) -> bool:
        """Whether one more connection would find something to do: free bytes, or those of one that is stuck."""
        with self.changed:
            return bool(self._free) or any(lease.left and lease.stuck for lease in self._leases)

    def take(self, long: bool = False) -> Lease | None:
        """The lowest free bytes: one segment, or all up to the next that is not free. When none is free, half of what
        the slowest has still to fetch, so that the end of a file does not wait for one connection."""
        with self.changed:
            if self._free:
                first, end = self._free[0]
                if not long:
                    end = min(end, first + self.segment_bytes)
                lease = Lease(first, end)
                self._free = without(self._free, first, end)
            else:
                slowest = max(self._leases, key=lambda lease: (lease.stuck, lease.left), default=None)
                if slowest is None or not slowest.left:
                    return None
                if slowest.left >= 2 * self._smallest_split:
                    middle = slowest.end - slowest.left // 2
                elif slowest.stuck:
                    middle = slowest.position
                else:
                    return None
                lease = Lease(middle, slowest.end)
                slowest.end = middle
            self._leases.append(lease)
            return lease

    def shorten(self) -> None:
        """Let others have a share of long leases."""
        with self.changed:
            for lease in self._leases:
                end = lease.position + self.segment_bytes
                if lease.end > end:
                    self._free = merged(self._free, end, lease.end)
                    lease.end = end

    def advance(self, lease: Lease, count: int) -> None:
        """The next `count` bytes of a lease are written."""
        with self.changed:
            self._done = merged(self._done, lease.position, lease.position + count)
            # What another connection took over may have been fetched by this one nevertheless.
            self._free = without(self._free, lease.position, lease.position + count)
            lease.position += count
            self.changed.notify_all()

    def release(self, lease: Lease) -> None:
        with self.changed:
            self._leases.remove(lease)
            if lease.left:
                free = merged(self._free, lease.position, lease.end)
                for first, end in self._done:
                    free = without(free, first, end)
                self._free = free
            self.changed.notify_all()

    def forget(self, first: int, end: int) -> None:
        """These bytes turned out to be wrong."""
        with self.changed:
            self._done = without(self._done, first, end)
            self._free = merged(self._free, first, end)
            self.changed.notify_all()

    def reach(self, position: int) -> int:
        """Up to where everything from `position` on is there."""
        with self.changed:
            for first, end in self._done:
                if first <= position < end:
                    return end
            return position


def merged(intervals: Sequence[tuple[int, int]], first: int, end: int) -> list[tuple[int, int]]:
    """Sorted disjoint intervals with one more."""
    if first >= end:
        return list(intervals)
    before = [interval for interval in intervals if interval[1] < first]
    after = [interval for interval in intervals if interval[0] > end]
    touching = intervals[len(before) : len(intervals) - len(after)]
    if touching:
        first, end = min(first, touching[0][0]), max(end, touching[-1][1])
    return [*before, (first, end), *after]


def without(intervals: Sequence[tuple[int, int]], first: int, end: int) -> list[tuple[int, int]]:
    """Sorted disjoint intervals less one."""
    left: list[tuple[int, int]] = []
    for start, stop in intervals:
        if start < min(stop, first):
            left.append((start, min(stop, first)))
        if max(start, end) < stop:
            left.append((max(start, end), stop))
    return left


@dataclass(frozen=True)
class Claim:
    """What the journal says of a stretch: its CRC-32, or the SHA-256 of everything up to its end."""

    first: int
    end: int
    crc32: int | None = None
    sha256: str = ""


class Journal:
    """One line for each stretch that was written. Lines are appended with one write each, and a line that cannot be
    read is no claim, so two writers at once or a cut line do no harm."""

    def __init__(self, part: str, file: LockFile) -> None:
        self.path = part + JOURNAL_SUFFIX
        self._file = file
        self._descriptor = -1

    def open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        if not os.fstat(self._descriptor).st_size:
            header = {"format_version": _FORMAT_VERSION, "size": self._file.size, "sha256": self._file.sha256}
            self._append(header)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def segment(self, first: int, end: int, crc32: int) -> None:
        self._append({"first": first, "end": end, "crc32": crc32})

    def prefix(self, end: int, sha256: str) -> None:
        self._append({"end": end, "sha256": sha256})

    def forget(self, first: int, end: int) -> None:
        self._append({"first": first, "end": end})

    def discard(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _append(self, entry: dict[str, object]) -> None:
        os.write(self._descriptor, (json.dumps(entry) + "\n").encode("ascii"))


def read_claims(part: str, file: LockFile) -> list[Claim]:
    """What the journal of a part says, sorted; nothing if there is none or it is about another content."""
    try:
        if os.lstat(part).st_size > file.size:
            return []
        with open(part + JOURNAL_SUFFIX, encoding="ascii", errors="replace") as stream:
            lines = stream.readlines(64 * MIB)
    except OSError:
        return []
    entries = [entry for entry in map(_parse, lines) if entry is not None]
    header = {"format_version": _FORMAT_VERSION, "size": file.size, "sha256": file.sha256}
    if not entries or entries[0] != header:
        return []
    segments: list[Claim] = []
    prefixes: dict[int, str] = {}
    for entry in entries[1:]:
        first, end, crc32, sha256 = entry.get("first"), entry.get("end"), entry.get("crc32"), entry.get("sha256")
        if not isinstance(end, int) or end > file.size or end <= 0:
            continue
        if isinstance(first, int) and 0 <= first < end and isinstance(crc32, int):
            segments.append(Claim(first, end, crc32=crc32))
        elif isinstance(first, int):
            # Found to be wrong by a later run.
            segments = [claim for claim in segments if claim.end <= first or claim.first >= end]
            prefixes = {place: digest for place, digest in prefixes.items() if not first < place <= end}
        elif isinstance(sha256, str):
            prefixes[end] = sha256
    claims = []
    reached = 0
    for end, sha256 in sorted(prefixes.items()):
        claims.append(Claim(reached, end, sha256=sha256))
        reached = end
    # A stretch that was fetched twice is judged by the later line.
    taken: list[tuple[int, int]] = []
    for claim in reversed(segments):
        if claim.end > reached and _outside(claim, taken) == [(claim.first, claim.end)]:
            claims.append(claim)
            taken = merged(taken, claim.first, claim.end)
    return sorted(claims, key=lambda claim: (claim.first, claim.end))


def kept_bytes(part: str, file: LockFile) -> int:
    """How many bytes of a file need not be fetched again, as far as the journal knows."""
    done: list[tuple[int, int]] = []
    for claim in read_claims(part, file):
        done = merged(done, claim.first, claim.end)
    return sum(end - first for first, end in done)


def _outside(claim: Claim, intervals: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    left = [(claim.first, claim.end)]
    for first, end in intervals:
        left = without(left, first, end)
    return left


def _parse(line: str) -> dict[str, object] | None:
    if not line.endswith("\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
