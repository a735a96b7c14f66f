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
from ansible_collections.baremetal.llm.plugins.module_utils.weights_manifests import Manifests
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Line, Transport
from ansible_collections.baremetal.llm.plugins.module_utils.weights_part import Part, keep_pieces, unlink
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import FilePieces
from ansible_collections.baremetal.llm.plugins.module_utils.weights_plan import Finding
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import (
    JOURNAL_SUFFIX,
    read_claims,
    segment_bytes_of,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_team import TICK_SECONDS, Team

_MOST_RESTARTS = 3
# Where bytes of a part can come from, beside the sources.
_EARLIER = "an earlier run"
_PIECES = "pieces that are right"


class Run:
    """What all files of one run share."""

    def __init__(self, sources: Sequence[Any], transport: Transport, manifests: Manifests | None = None) -> None:
        self.transport = transport
        self.manifests = manifests or Manifests(())
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

    def pieces_of(self, file: LockFile) -> tuple[FilePieces, str] | None:
        """The pieces of a file and whose manifest says so, if anybody's does."""
        return self.manifests.find(file, self.lines, self.client, self.findings.append)

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
    """One file of one run. `damaged` is where it is published, but not right."""

    def __init__(self, run: Run, file: LockFile, path: str, damaged: str = "") -> None:
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
        # What of the published file was wrong, and how many bytes of it were right.
        self.damage = ""
        self.kept = 0
        # By source: where what it delivered was wrong.
        self._places: dict[str, str] = {}
        self._damaged = damaged
        self._mended = False
        self._without_pieces = False
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
            salvaged = bool(self._damaged) and self._salvage()
            self._open()
            if salvaged:
                self.origins = {_PIECES}
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

    def _salvage(self) -> bool:
        """Take over what is right of a published file, if a manifest knows its pieces. The file itself is left alone:
        a process that has it open keeps it."""
        if read_claims(self.path, self.file):
            return False
        found = self.run.pieces_of(self.file)
        if found is None:
            return False
        pieces, dummy = found
        bad = keep_pieces(self.path, self.file, pieces, self._damaged, self._look)
        self.damage = pieces.describe(bad)
        self.kept = self.file.size - sum(end - first for first, end in pieces.ranges_of(bad))
        return self.kept > 0

    def _look(self) -> None:
        if self.run.stopped.is_set():
            raise Stopped

    def _mend(self) -> str:
        """After a wrong digest: keep the pieces of the part that are right, and say which were not. Without a manifest,
        or with one that is of no use, begin anew and say nothing."""
        found = None if self._without_pieces else self.run.pieces_of(self.file)
        if found is not None:
            pieces, label = found
            self.opened.close()
            bad = keep_pieces(self.path, self.file, pieces, self.path, self._look)
            if bad and len(bad) < len(pieces.digests):
                self._open()
                self.origins = {_PIECES}
                self._mended = True
                return pieces.describe(bad)
            self._without_pieces = True
            if not bad:
                text = "calls pieces right of which the whole is not what the lock says; it is not used"
                self.findings.append(Finding(self.file.path, label, "pieces", f"the piece manifest {text}"))
        self._begin_anew()
        return ""

    def _complete_already(self) -> bool:
        """Whether the part needs no source: an earlier run came to its end, or the file is empty."""
        part = self.opened
        while part.segments.complete and not part.hasher.finished:
            self.wake.wait(TICK_SECONDS)
            self.wake.clear()
            part.check()
            self._look()
        if not part.hasher.finished:
            return False
        if part.hasher.sha256() == self.file.sha256:
            return True
        self._mend()
        return False

    def _from_any_source(self) -> bool:
        wrong: list[tuple[Line, str]] = []
        skipped: list[Finding] = []
        if self._from_each(wrong, skipped):
            return True
        others = [line for line in self.run.lines if line.down is None and line not in [bad for bad, dummy in wrong]]
        if self._mended and others:
            # It may be the manifest that is wrong. Whoever delivered only pieces is asked for all of the file.
            labels = {line.label for line in others}
            self.findings = [finding for finding in self.findings if finding.source not in labels]
            skipped.clear()
            self._without_pieces = True
            self._begin_anew()
            if self._from_each(wrong, skipped):
                return True
        if wrong and self._once_more(wrong):
            return True
        self.findings += skipped
        return False

    def _from_each(self, wrong: list[tuple[Line, str]], skipped: list[Finding]) -> bool:
        """Ask one source after the other. Those that delivered all of the file, and it was wrong, are noted with its
        digest and not asked again."""
        for line in self.run.lines:
            if line.down is not None:
                skipped.append(finding_of(self.file.path, line.label, line.down))
            elif line not in [bad for bad, dummy in wrong]:
                digest, whole = self._from(line)
                if digest == self.file.sha256:
                    return True
                if digest and whole:
                    wrong.append((line, digest))
        return False

    def _from(self, line: Line, single: bool = False) -> tuple[str, bool]:
        """The digest of the file once it has come from this source, or nothing if it did not come; and whether all of
        it came from there."""
        self.source = line.label
        while True:
            try:
                self._fill(line, single)
            except SourceError as error:
                self.findings.append(finding_of(self.file.path, line.label, error))
                return "", False
            digest = self.opened.hasher.sha256()
            if digest == self.file.sha256:
                return digest, True
            whole, rest = self.origins == {line.label}, self.origins == {line.label, _PIECES}
            mended = self._mend()
            if whole or (rest and mended):
                where = self._places[line.label] = f", in {mended}" if mended else ""
                text = f"delivered other bytes than the lock says (SHA-256){where}"
                self.findings.append(
                    Finding(self.file.path, line.label, "digest", text, self.file.sha256, digest),
                )
                return digest, whole
            # What came from an earlier run or another source may be what is wrong, or the manifest.

    def _once_more(self, wrong: Sequence[tuple[Line, str]]) -> bool:
        """Nobody delivered the right bytes. Find out whether the sources or this host is at fault, and say so."""
        line, digest = wrong[0]
        same = [other.label for other, found in wrong[1:] if found == digest]
        where = self._places.get(line.label, "")
        if same:
            verdict = (
                f"delivered the same other bytes as {same[0]}{where}: the sources hold another file than the lock "
                "says; mend them, or lock the model again"
            )
        else:
            again, dummy = self._from(line, single=True)
            if not again:
                return False
            blamed = self._blamed(line)
            self.findings = [finding for finding in self.findings if finding not in blamed]
            if again == self.file.sha256:
                verdict = (
                    f"delivered the right bytes only the second time (first SHA-256 {digest}{where}): memory, disk or "
                    "network between it and this host change bytes now and then"
                )
            elif again == digest:
                verdict = (
                    f"delivered the same other bytes twice{where}, so the source is at fault and not this host: it "
                    "holds another file than the lock says; mend or remove the source, or lock the model again"
                )
            else:
                verdict = (
                    f"delivered bytes with another wrong SHA-256 each time ({digest}, then {again}), so memory, disk, "
                    "file system or network of this host are at fault; test them before the host serves anything"
                )
            digest = again
        self.findings.append(Finding(self.file.path, line.label, "digest", verdict, self.file.sha256, digest))
        return digest == self.file.sha256

    def _blamed(self, line: Line) -> list[Finding]:
        return [finding for finding in self.findings if (finding.source, finding.problem) == (line.label, "digest")]

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
