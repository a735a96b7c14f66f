# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How hard to pull at a source: how many connections it is worth, when to wait, when to give up. No input or output."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import Retry, SourceError

# A connection that brings this much is not what holds a file up.
_FAST = 400e6
# A server that answers later than this is far away, or slow to begin: several requests at once pay from the start.
_FAR_SECONDS = 0.005
_FAR_CONNECTIONS = 8
_MOST_CONNECTIONS = 16
_WORTH = 1.10
_ASK_AGAIN_SECONDS = 20.0
# What any connection must bring, also the only one.
_FLOOR = 16 * 1024
# Less than this is no progress, however short the time.
_SOME_BYTES = 64 * 1024
_LONGEST_PAUSE = 60.0
_UNREACHED_SECONDS = 30.0
# A pause may end a little early, by the granularity of clocks.
_EARLY_SECONDS = 0.005


def _pause(seconds: float, stopped: threading.Event) -> None:
    stopped.wait(seconds)


@dataclass(frozen=True)
class Transport:
    """How to talk to sources. The functions are replaced by tests. All times are of a clock that nobody sets."""

    ca_file: str = ""
    idle_seconds: float = 30.0
    patience_seconds: float = 300.0
    deadline_seconds: float = 0.0
    retries: int = 0
    connections: int = 0
    segment_bytes: int = 0
    pace_seconds: float = 30.0
    pace_bytes_per_second: float = 256 * 1024
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float, threading.Event], None] = _pause
    jitter: Callable[[], float] = random.random


class Tuner:
    """Finds the number of connections: more of them as long as that brings more than a tenth in sum."""

    def __init__(self, fixed: int = 0) -> None:
        self.total = fixed or 1
        self.settled = bool(fixed)
        self.known = bool(fixed)
        self._fixed = bool(fixed)
        self._most = fixed or _MOST_CONNECTIONS
        self._window = 0.25
        self._best = 0.0
        self._base = self.total
        self._began: float | None = None
        self._received = 0
        self._settled_at = 0.0

    def answered(self, seconds_to_head: float) -> None:
        """The first answer says how far away the server is."""
        if self.known:
            return
        self.known = True
        if seconds_to_head >= _FAR_SECONDS:
            self.total = min(self._most, _FAR_CONNECTIONS)
            self._window = min(2.0, max(0.12, 3 * seconds_to_head))
        self._base = self.total

    def refused(self, connections: int) -> None:
        """The server does not want more than these."""
        if not self._fixed or connections < self.total:
            self._most = self.total = self._base = max(1, connections)
            self.settled = True
            self._settled_at = float("inf")

    def tick(self, now: float, received: int, alive: int) -> None:
        """Look at what came in all since the last look at a full window."""
        if self._fixed or not self.known:
            return
        if self.settled:
            if now - self._settled_at < _ASK_AGAIN_SECONDS:
                return
            self.settled, self._best, self._base, self._began = False, 0.0, self.total, None
        if alive < self.total:
            self._began = None
            return
        if self._began is None:
            self._began, self._received = now, received
            return
        seconds = now - self._began
        if seconds < self._window:
            return
        rate = (received - self._received) / seconds
        self._began = None
        if rate <= self._best * _WORTH:
            self.total = self._base
            self._settle(now)
        else:
            self._best, self._base = rate, self.total
            if self.total >= self._most or rate / self.total >= _FAST:
                self._settle(now)
            else:
                self.total = min(self._most, 2 * self.total)

    def _settle(self, now: float) -> None:
        self.settled = True
        self._settled_at = now


class Line:
    """What one run knows of one source, shared by all files."""

    def __init__(self, source: Any, transport: Transport) -> None:
        self.source = source
        self.label = str(source.label)
        self.transport = transport
        self.tuner = Tuner(transport.connections)
        self.lock = threading.Lock()
        self.down: SourceError | None = None
        self.sequential = False
        self.reached = False
        self.received = 0
        self.retries = 0
        self.alive = 0
        self.most_alive = 0
        self.teams: list[Any] = []
        self.not_before = 0.0
        self._best = 0.0
        self._last_byte = float("-inf")

    def begin(self, team: Any) -> None:
        with self.lock:
            self.teams.append(team)

    def end(self, team: Any) -> None:
        with self.lock:
            self.teams.remove(team)

    def share(self, team: Any) -> int:
        """How many of the source's connections are for one of the files that come from it now."""
        with self.lock:
            if team not in self.teams:
                return 1
            count, number = len(self.teams), self.teams.index(team)
            return max(1, self.tuner.total // count + (number < self.tuner.total % count))

    def connected(self, change: int) -> None:
        with self.lock:
            self.alive += change
            self.most_alive = max(self.most_alive, self.alive)

    def add(self, count: int, now: float) -> None:
        with self.lock:
            self.received += count
            self._last_byte = now

    def tick(self, now: float) -> None:
        with self.lock:
            self.tuner.tick(now, self.received, self.alive)

    def judge_pace(self, count: int, seconds: float, full_window: bool) -> None:
        """Raise Retry for a connection that trickles: an idle timer is set back by every byte and never sees it."""
        rate = count / seconds if seconds > 0 else 0.0
        with self.lock:
            self._best = max(self._best, rate)
            best = self._best
        if full_window and rate < self.transport.pace_bytes_per_second and (rate < best / 8 or rate < _FLOOR):
            raise Retry(
                SourceError("trickle", f"sent only {rate / 1024:.1f} KiB per second"),
                0.0,
            )

    def one_too_many(self, now: float) -> bool:
        """Whether a connection that was refused is refused because others are served."""
        with self.lock:
            if self.alive > 1 and now - self._last_byte < 2.0:
                self.tuner.refused(self.alive - 1)
                return True
            return False


class Patience:
    """When to try a source again for a file, and when not to any more: a matter of time without progress."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._transport = line.transport
        self._attempt = 0
        self._fresh = 0
        self._progress = self._transport.clock()

    def add(self, count: int) -> None:
        self._fresh += count

    def pause_after(self, retry: Retry) -> float:
        """Seconds to wait, or SourceError when it is time for the next source."""
        now = self._transport.clock()
        with self.line.lock:
            self.line.retries += 1
            if self._fresh >= max(_SOME_BYTES, _FLOOR * (now - self._progress)):
                self._attempt, self._progress, self._fresh = 0, now, 0
            patience = self._transport.patience_seconds
            if not self.line.reached:
                patience = min(patience, _UNREACHED_SECONDS)
            # A pause that is too long for anybody must not hold up the other files, which are to go elsewhere too.
            if retry.wait is not None and retry.wait > patience:
                retry.problem.message += f" (asks to wait {retry.wait:.0f} s, longer than patience_seconds)"
                raise retry.problem
            if now >= self.line.not_before - _EARLY_SECONDS or retry.wait is not None:
                self._attempt += 1
                wait = retry.wait
                if wait is None:
                    wait = min(_LONGEST_PAUSE, 2.0 ** min(self._attempt - 1, 16)) * (0.5 + self._transport.jitter())
                self.line.not_before = max(self.line.not_before, now + wait)
            pause = max(0.0, self.line.not_before - now)
        problem = retry.problem
        if self._transport.retries and self._attempt > self._transport.retries:
            problem.message += f" (given up after {self._attempt} tries)"
        elif now + pause - self._progress > patience:
            problem.message += f" (given up after {now - self._progress:.0f} s without progress)"
        else:
            return pause
        raise problem
