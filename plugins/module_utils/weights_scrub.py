# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read all published weights of a host again and say what is damaged. A program of its own; it only reads.

It compares with the record that each revision's folder has of its last verification, so it needs no lock, no Ansible
and no network. It finds what disks, controllers and memory do to bytes. Whoever can write to the folder can write to
the record too: against that, and to heal, `model_weights` with `verify: full` compares with the lock.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import (
    CHUNK,
    FileState,
    read_record,
    write_atomically,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_piece_files import damaged_pieces, read_pieces
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import FilePieces, PiecesError

# What an archive of this program consists of.
MODULES = ("weights_files", "weights_piece_files", "weights_pieces", "weights_scrub")
ALL_RIGHT, DAMAGED, NOT_DONE = 0, 1, 2
FORMAT_VERSION = 1
_HEAL = "ansible-playbook baremetal.llm.weights -e model_weights_verify=full heals it from the model's sources"
# sd-daemon(3): a line that begins so has this priority in the journal.
_PRIORITIES = {"error": "<3>", "notice": "<5>", "info": "<6>"}


@dataclass(frozen=True)
class Damage:
    """A file whose bytes are not those that were verified."""

    path: str
    message: str
    pieces: tuple[tuple[int, int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"path": self.path, "message": self.message, "pieces": [list(stretch) for stretch in self.pieces]}


@dataclass
class Revision:
    """One published revision of a model, and what was found in it."""

    model: str
    revision: str
    folder: str
    files: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)
    # Replaced or removed while they were read.
    skipped: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "revision": self.revision,
            "files": self.files,
            "bytes": self.bytes,
            "damaged": [damage.as_dict() for damage in self.damaged],
            "skipped": sorted(self.skipped),
        }


class Brake:
    """Holds readers back to so many bytes per second in all; 0 lets them run.

    An idle I/O class does the same only where the block layer has a scheduler that knows classes, and NVMe drives
    usually have none.
    """

    def __init__(
        self,
        bytes_per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def read(self, count: int) -> None:
        """So many bytes were read."""
        if not self._rate:
            return
        with self._lock:
            now = self._clock()
            # What was not used is not saved up.
            self._free_at = max(self._free_at, now) + count / self._rate
            wait = self._free_at - now
        self._sleep(wait)


def find_revisions(root: str) -> Iterator[Revision]:
    """Every published revision below `<root>/<organisation>/<name>`, sorted. Links are not followed below the root."""
    for organisation in _folders(root):
        for name in _folders(os.path.join(root, organisation)):
            model = os.path.join(root, organisation, name)
            for revision in _folders(model):
                if re.fullmatch(r"[0-9a-f]{40}", revision):
                    yield Revision(f"{organisation}/{name}", revision, os.path.join(model, revision))


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        )


def scrub(revision: Revision, workers: int, brake: Brake) -> None:
    """Read every file of a revision and note in it what is damaged."""
    record = read_record(revision.folder, revision.revision)
    if not record:
        if os.path.isdir(revision.folder):
            revision.damaged.append(Damage("", "has no readable record of a verification"))
        return
    pieces: Mapping[str, FilePieces] = {}
    try:
        pieces = read_pieces(revision.folder, record)
    except PiecesError as error:
        revision.damaged.append(Damage("", f"the piece manifest {error}"))
    with ThreadPoolExecutor(workers) as pool:
        # The largest first, so that no long one is left alone at the end.
        paths = sorted(record, key=lambda path: (-record[path].size, path))
        found = list(pool.map(lambda path: _judge(revision, path, record[path], pieces.get(path), brake), paths))
    revision.files = len(paths)
    revision.bytes = sum(state.size for state in record.values())
    revision.damaged += sorted((damage for damage in found if damage is not None), key=lambda damage: damage.path)


def _judge(revision: Revision, path: str, known: FileState, pieces: FilePieces | None, brake: Brake) -> Damage | None:
    place = os.path.join(revision.folder, path)
    inode, message = 0, ""
    try:
        inode = os.lstat(place).st_ino
        size, sha256 = _digest(place, brake)
        if size != known.size:
            message = f"has {size} bytes instead of {known.size}"
        elif sha256 != known.sha256:
            message = f"has the SHA-256 {sha256} instead of {known.sha256}"
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
    if not message:
        return None
    if _was_replaced(revision, path, known, inode):
        revision.skipped.append(path)
        return None
    if pieces is None or not inode:
        return Damage(path, message)
    try:
        bad = damaged_pieces(place, pieces, 1, brake.read)
    except OSError:
        return Damage(path, message)
    if not bad:
        return Damage(path, f"{message}, but right when it was read again: memory, controller or cable change bytes")
    return Damage(path, f"{message}, damaged in {pieces.describe(bad)}", tuple(map(pieces.range_of, bad)))


def _was_replaced(revision: Revision, path: str, known: FileState, inode: int) -> bool:
    """Whether a run published something else while the file was read."""
    if not os.path.isdir(revision.folder):
        return True
    record = read_record(revision.folder, revision.revision)
    if path not in record or record[path] != known:
        return True
    try:
        return bool(inode) and os.lstat(os.path.join(revision.folder, path)).st_ino != inode
    except OSError:
        return False


def _digest(path: str, brake: Brake) -> tuple[int, str]:
    """Size and SHA-256 of a file, as the disk has it and not as the page cache remembers it."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        position = 0
        # Pages that a process has mapped stay: what an engine uses is not taken away from it.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while True:
            count = os.preadv(descriptor, [buffer], position)
            if not count:
                return position, digest.hexdigest()
            digest.update(buffer[:count])
            os.posix_fadvise(descriptor, position, count, os.POSIX_FADV_DONTNEED)
            position += count
            brake.read(count)
    finally:
        os.close(descriptor)


def summary(revisions: Sequence[Revision], root: str, began: float, seconds: float) -> dict[str, Any]:
    """The result as it is written to a file. Times in seconds since 1970, sizes in bytes."""
    return {
        "format_version": FORMAT_VERSION,
        "root": root,
        "began": round(began, 1),
        "ended": round(began + seconds, 1),
        "ended_utc": datetime.datetime.fromtimestamp(began + seconds, datetime.timezone.utc).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        ),
        "seconds": round(seconds, 1),
        "files": sum(revision.files for revision in revisions),
        "bytes": sum(revision.bytes for revision in revisions),
        "damaged_files": sum(len(revision.damaged) for revision in revisions),
        "revisions": [revision.as_dict() for revision in revisions],
    }


def metrics(result: Mapping[str, Any]) -> str:
    """The same for the textfile collector of node_exporter (Prometheus text format 0.0.4)."""
    lines = []
    for name, text, key in (
        ("damaged_files", "Files whose bytes are not those that were verified.", "damaged"),
        ("files", "Files that were read.", "files"),
        ("bytes", "Bytes that were read.", "bytes"),
    ):
        full = f"baremetal_llm_model_scrub_{name}"
        lines += [f"# HELP {full} {text}", f"# TYPE {full} gauge"]
        for entry in result["revisions"]:
            value = len(entry[key]) if key == "damaged" else entry[key]
            lines.append(f'{full}{{model="{entry["model"]}",revision="{entry["revision"]}"}} {value}')
    for name, text, number in (
        ("end_timestamp_seconds", "When the last scrub ended.", result["ended"]),
        ("duration_seconds", "How long it took.", result["seconds"]),
    ):
        full = f"baremetal_llm_model_scrub_{name}"
        lines += [f"# HELP {full} {text}", f"# TYPE {full} gauge", f"{full} {number}"]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Returns 0 if everything is right, 1 if something is damaged, 2 if not everything could be read."""
    options = _parser().parse_args(arguments)
    say = _speaker("JOURNAL_STREAM" in (os.environ if environment is None else environment))
    began, started = time.time(), time.monotonic()
    brake = Brake(options.bytes_per_second)
    revisions = []
    try:
        for revision in find_revisions(options.root):
            scrub(revision, options.jobs, brake)
            revisions.append(revision)
            for damage in revision.damaged:
                name = os.path.join(revision.folder, damage.path) if damage.path else revision.folder
                say("error", f"{name}: {damage.message}")
            for path in revision.skipped:
                say("notice", f"{os.path.join(revision.folder, path)}: was replaced while it was read, not judged")
        result = summary(revisions, options.root, began, time.monotonic() - started)
        if options.result:
            write_atomically(options.result, (json.dumps(result, indent=1) + "\n").encode("utf-8"), 0o644)
        if options.metrics:
            write_atomically(options.metrics, metrics(result).encode("utf-8"), 0o644)
    except OSError as error:
        say("error", f"{error.filename or options.root}: {error.strerror}; the scrub did not come to its end")
        return NOT_DONE
    read = f"{result['files']} files of {len(revisions)} revisions, {result['bytes']} bytes in {result['seconds']} s"
    if result["damaged_files"]:
        say("error", f"{result['damaged_files']} damaged among {read}; {_HEAL}")
        return DAMAGED
    say("info", f"all right: {read}")
    return ALL_RIGHT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="model-scrub", description="Read all published weights again and say what is damaged. Changes nothing."
    )
    parser.add_argument("--root", default="/srv/models", help="folder that models are kept below")
    parser.add_argument("--result", default="", help="file to write the result to, as JSON")
    parser.add_argument("--metrics", default="", help="file for the textfile collector of node_exporter (*.prom)")
    parser.add_argument("--jobs", type=int, default=2, help="files that are read at the same time")
    parser.add_argument("--bytes-per-second", type=int, default=0, help="most to read in all; 0 is as fast as it goes")
    return parser


def _speaker(journal: bool) -> Callable[[str, str], None]:
    def say(priority: str, text: str) -> None:
        # A name on a disk can hold anything; a line stays a line.
        text = "".join(sign if sign.isprintable() else "?" for sign in text)
        sys.stdout.write(f"{_PRIORITIES[priority] if journal else ''}{text}\n")
        sys.stdout.flush()

    return say
