# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small file that says how far a run has come, for whoever watches it from another process."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

PROGRESS_NAME = "progress.json"
FORMAT_VERSION = 1
# The rate is that of the last seconds, so that the time left follows what the network does now.
_WINDOW_SECONDS = 10.0


class Progress:
    """Writes what `look` returns, with rate and time left, once a second and never with a half-written file.

    What is there can grow at once, by what an earlier run left; the rate is that of `bytes_moved`, where `look` says
    it. Nothing waits for it: no fsync, and a disk that refuses it does not end the run.
    """

    def __init__(
        self,
        path: str,
        look: Callable[[], dict[str, Any]],
        interval_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._look = look
        self._interval = interval_seconds
        self._clock = clock
        self._began = clock()
        self._seen: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weights-progress", daemon=True)

    def __enter__(self) -> Progress:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def follow(self, look: Callable[[], dict[str, Any]]) -> None:
        """Look at something else from now on."""
        with self._lock:
            self._look = look
            self._seen.clear()
        self.write()

    def write(self) -> None:
        with self._lock:
            self._write()

    def _write(self) -> None:
        facts = self._look()
        now = self._clock()
        done, total = int(facts["bytes_done"]), int(facts["bytes_total"])
        moved = int(facts.get("bytes_moved", done))
        self._seen.append((now, moved))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        # Bytes that turned out to be wrong make it go back for a moment.
        rate = max(0.0, (moved - before) / (now - began)) if now > began else 0.0
        facts = {
            "format_version": FORMAT_VERSION,
            "process": os.getpid(),
            "updated": round(time.time(), 1),
            "seconds": round(now - self._began, 1),
            **facts,
            "bytes_per_second": int(rate),
            "seconds_left": int((total - done) / rate) if rate else None,
        }
        temporary = f"{self.path}.{os.getpid()}.tmp"
        with contextlib.suppress(OSError):
            with open(temporary, "w", encoding="utf-8") as stream:
                json.dump(facts, stream)
                stream.write("\n")
            os.replace(temporary, self.path)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.write()


class Counter:
    """Counts the bytes that several threads read, for a Progress."""

    def __init__(self, phase: str, facts: dict[str, Any]) -> None:
        self._facts = {"phase": phase, **facts}
        self._lock = threading.Lock()
        self._total = self._done = 0

    def expect(self, count: int) -> None:
        """So many bytes will be read."""
        with self._lock:
            self._total += count

    def add(self, count: int) -> None:
        """So many bytes were read."""
        with self._lock:
            self._done += count

    def look(self) -> dict[str, Any]:
        with self._lock:
            return {**self._facts, "bytes_total": self._total, "bytes_done": self._done}


def read_progress(path: str) -> tuple[object, ...]:
    """What of the progress of another run changes when it gets on; empty if it says nothing."""
    try:
        with open(path, encoding="utf-8") as stream:
            facts = json.load(stream)
        return tuple(facts.get(key) for key in ("process", "phase", "bytes_done", "bytes_moved", "files_done"))
    except (OSError, ValueError, AttributeError):
        return ()
