# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring one file into its part, from one source after the other, and say who is at fault if that does not work."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import (
    Changed,
    Sequential,
    SourceError,
    Stopped,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import structure_problem
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpClient
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Line, Transport
from ansible_collections.baremetal.llm.plugins.module_utils.weights_part import Part, unlink
from ansible_collections.baremetal.llm.plugins.module_utils.weights_plan import Finding
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import JOURNAL_SUFFIX, segment_bytes_of
from ansible_collections.baremetal.llm.plugins.module_utils.weights_team import TICK_SECONDS, Team

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
            part = self.opened
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
                    unlink(self.path)
                    unlink(self.path + JOURNAL_SUFFIX)

    @property
    def opened(self) -> Part:
        if self.part is None:
            raise AssertionError("no part is open")
        return self.part

    def _open(self) -> None:
        self.part = Part(self.path, self.file, self._segment_bytes, self.wake)
        self.origins = {_EARLIER} if self.part.resumed else set()

    def _begin_anew(self) -> None:
        self.opened.discard()
        self._open()

    def _complete_already(self) -> bool:
        """Whether the part needs no source: an earlier run came to its end, or the file is empty."""
        part = self.opened
        while part.segments.complete and not part.hasher.finished:
            self.wake.wait(TICK_SECONDS)
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
            digest = self.opened.hasher.sha256()
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
                        str(self.opened.segments.have),
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
