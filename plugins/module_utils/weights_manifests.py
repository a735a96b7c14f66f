# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The piece manifest that a run uses: that of the revision's folder, or the first that a source has and that fits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpClient
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Line
from ansible_collections.baremetal.llm.plugins.module_utils.weights_piece_files import read_pieces
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import (
    LARGEST_MANIFEST,
    PIECES_NAME,
    FilePieces,
    PiecesError,
    parse_pieces,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_plan import Finding

# Below this, to fetch a file again costs less than to ask how it could be avoided.
_WORTH_BYTES = 8 * 1024 * 1024


class Manifests:
    """Knows the pieces of files, from the first manifest that is about what the lock says."""

    def __init__(self, files: Sequence[LockFile], folder: str = "") -> None:
        """`files` are all of the revision, `folder` is where it is or will be published."""
        self._files = {file.path: file for file in files}
        self._folder = folder
        self._lock = threading.Lock()
        self._own: Mapping[str, FilePieces] | None = None
        self._others: Mapping[str, FilePieces] | None = None
        self._origin = ""

    def find(
        self, file: LockFile, lines: Sequence[Line], client: HttpClient, report: Callable[[Finding], None]
    ) -> tuple[FilePieces, str] | None:
        """The pieces of a file and whose manifest says so; nothing if nobody knows them. What is wrong with a manifest
        is reported, and the next one is asked for."""
        with self._lock:
            if self._own is None:
                self._own = self._read(report)
            if file.path in self._own:
                return self._own[file.path], self._folder
            if file.size < _WORTH_BYTES:
                return None
            if self._others is None:
                self._others = self._ask(lines, client, report)
            return (self._others[file.path], self._origin) if file.path in self._others else None

    def _read(self, report: Callable[[Finding], None]) -> Mapping[str, FilePieces]:
        try:
            return read_pieces(self._folder, self._files) if self._folder else {}
        except PiecesError as error:
            report(_refused(self._folder, error))
            return {}

    def _ask(
        self, lines: Sequence[Line], client: HttpClient, report: Callable[[Finding], None]
    ) -> Mapping[str, FilePieces]:
        for line in lines:
            content = None
            if line.down is None:
                content = line.source.small_file(PIECES_NAME, LARGEST_MANIFEST, client)
            # Some servers have a page for whatever is not there.
            if content is None or b"metalink" not in content[:4096]:
                continue
            try:
                pieces = parse_pieces(content, self._files)
            except PiecesError as error:
                report(_refused(line.label, error))
                continue
            if pieces:
                self._origin = line.label
                return pieces
        return {}


def _refused(label: str, error: PiecesError) -> Finding:
    return Finding(PIECES_NAME, label, "pieces", f"the piece manifest {error}; it is not used")
