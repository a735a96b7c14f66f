# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare a host with the lock of a model: what is right, what is to be done, whether there is room. Writes nothing."""

from __future__ import annotations

import contextlib
import errno
import functools
import grp
import hashlib
import os
import pwd
import re
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible_collections.baremetal.llm.plugins.module_utils.lock import DEFAULT_ROOT, Lock, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import (
    RECORD_NAME,
    FileState,
    file_system,
    hash_file,
    read_record,
    walk,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_piece_files import (
    damaged_pieces,
    ignore,
    pieces_are_written,
    read_pieces,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import PIECES_NAME, FilePieces, PiecesError
from ansible_collections.baremetal.llm.plugins.module_utils.weights_progress import PROGRESS_NAME
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import GIB, kept_bytes

WORK_NAME = ".fetch"
# What the collection itself writes into the folder of a revision.
OWN_NAMES = frozenset({RECORD_NAME, PIECES_NAME})
NOT_VERIFIED = "not verified"
# What a disk, or a file system that keeps checksums, says of bytes that it cannot give back.
_LOST = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
_SHARED = re.compile(r"nfs4?|cifs|smb3|lustre|gpfs|ceph|9p|glusterfs|beegfs|ocfs2|gfs2|afs|fuse(\..*)?")


@dataclass(frozen=True)
class Settings:
    """How a model is kept on a host. None leaves ownership as it is, and keeps all revisions.

    `piece_bytes` is the length of the pieces in the piece manifest of the folder; 0 lets it be as it is.
    """

    root: str = DEFAULT_ROOT
    uid: int | None = None
    gid: int | None = None
    file_mode: int = 0o644
    folder_mode: int = 0o755
    verify: str = "record"
    # Without, files that the record does not vouch for count as to be fetched in check mode.
    read_in_check_mode: bool = True
    reserve_bytes: int = GIB
    parallel_files: int = 0
    # Without any progress of the run that is waited for.
    lock_timeout_seconds: float = 3600.0
    piece_bytes: int = 0
    link: str = ""
    keep_revisions: int | None = None
    statvfs: Callable[[str], Any] = os.statvfs
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with one file, or with a source (then `path` is empty)."""

    path: str
    source: str
    problem: str
    message: str
    expected: str = ""
    actual: str = ""

    def __str__(self) -> str:
        detail = f" (expected {self.expected}, got {self.actual})" if self.expected or self.actual else ""
        return ": ".join(text for text in (self.path, self.source, self.message) if text) + detail


class WeightsError(Exception):
    """The model cannot be made right. What was published before is as it was."""

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        self.findings = tuple(findings)
        lines = [message, *(f"- {finding}" for finding in self.findings)]
        super().__init__("\n".join(lines))


@dataclass
class Plan:
    """What is there and what is to be done; made without writing anything."""

    target: str
    exists: bool = False
    recorded: bool = False
    good: dict[str, FileState] = field(default_factory=dict)
    wanted: list[LockFile] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    extras: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    rehashed: list[str] = field(default_factory=list)
    # Of files that are there and wrong: how many bytes of them are, if a piece manifest says so. Otherwise all are.
    damaged: dict[str, int] = field(default_factory=dict)
    # Files whose bytes are others than were verified although nobody wrote to them.
    rotten: list[str] = field(default_factory=list)
    pieces: bool = False
    link: str = ""
    outdated: list[str] = field(default_factory=list)

    @property
    def content_changes(self) -> bool:
        return bool(not self.exists or not self.recorded or self.wanted or self.extras or self.attributes)

    @property
    def changes(self) -> bool:
        return bool(self.content_changes or self.pieces or self.link or self.outdated)


@dataclass
class Outcome:
    path: str
    changed: bool = False
    files_fetched: int = 0
    bytes_fetched: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    retries: int = 0
    connections: int = 0
    findings: list[Finding] = field(default_factory=list)
    message: str = ""
    before: str = ""
    after: str = ""


def resolve_user(name: str) -> int:
    """The number of a user, given by name or number."""
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise ValueError(f"owner: this host has no user {name!r}") from error


def resolve_group(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise ValueError(f"group: this host has no group {name!r}") from error


def examine(
    lock: Lock,
    settings: Settings,
    read_bytes: bool = True,
    locate: bool = True,
    reads: Callable[[int], None] = ignore,
    read: Callable[[int], None] = ignore,
) -> Plan:
    """Compare what is published with the lock. Files that the record vouches for are only asked for their status.

    With `read_bytes` false nothing is hashed and whatever the record does not vouch for counts as wanted. Otherwise
    `reads` is told how many bytes will be read, and `read` of those that were. With `locate`, damaged files are read
    once more to say where; a run that heals them learns it anyway.
    """
    target = lock.model_path(settings.root)
    _refuse_links(lock, settings.root)
    plan = Plan(target)
    statuses: dict[str, os.stat_result] = {}
    if os.path.isdir(target):
        plan.exists = True
        statuses = dict(walk(target))
        if not _attributes_are_right(os.lstat(target), settings):
            plan.attributes.append("")
    record = read_record(target, lock.revision)
    plan.recorded = bool(record)
    folders = {parent for file in lock.files for parent in parents_of(file.path)}
    doubtful: list[LockFile] = []
    for file in lock.files:
        status = statuses.get(file.path)
        known = record.get(file.path)
        if status is None:
            plan.reasons[file.path] = "missing"
        elif not stat.S_ISREG(status.st_mode):
            plan.reasons[file.path] = "not a regular file"
        elif status.st_size != file.size:
            plan.reasons[file.path] = f"has {status.st_size} bytes instead of {file.size}"
            plan.damaged[file.path] = file.size
        elif known is not None and known.sha256 == file.sha256 and known.matches(status) and settings.verify != "full":
            plan.good[file.path] = known
        elif read_bytes:
            doubtful.append(file)
        else:
            plan.reasons[file.path] = NOT_VERIFIED
    reads(sum(file.size for file in doubtful))
    places = [os.path.join(target, file.path) for file in doubtful]
    for file, digest in zip(doubtful, _hash_all(places, settings, read)):
        if digest == file.sha256:
            # The status from before the hash: a write during the hash makes the next run look again.
            status = statuses[file.path]
            plan.good[file.path] = FileState(
                status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest
            )
            if record.get(file.path) != plan.good[file.path]:
                plan.rehashed.append(file.path)
        else:
            found = f"has the SHA-256 {digest} instead of {file.sha256}"
            plan.reasons[file.path] = found if digest else "cannot be read: the disk has lost some of it"
            plan.damaged[file.path] = file.size
            known = record.get(file.path)
            if known is not None and known.sha256 == file.sha256 and known.matches(statuses[file.path]):
                plan.rotten.append(file.path)
    if read_bytes and locate and plan.damaged:
        _locate(lock, plan, settings)
    plan.pieces = bool(settings.piece_bytes) and not pieces_are_written(
        target, {file.path: file for file in lock.files}, settings.piece_bytes
    )
    plan.wanted = [file for file in lock.files if file.path in plan.reasons]
    paths = {file.path for file in lock.files}
    for path, status in statuses.items():
        if path in paths or path in OWN_NAMES or (path in folders and stat.S_ISDIR(status.st_mode)):
            if (path in plan.good or path in folders) and not _attributes_are_right(status, settings):
                plan.attributes.append(path)
        elif not any(parent in plan.extras or parent in paths for parent in parents_of(path)):
            plan.extras.append(path)
    _examine_revisions(lock, plan, settings)
    return plan


def _locate(lock: Lock, plan: Plan, settings: Settings) -> None:
    """Which pieces of the damaged files are wrong, if the folder has a manifest."""
    known: dict[str, FilePieces] = {}
    with contextlib.suppress(PiecesError):
        known = read_pieces(plan.target, {file.path: file for file in lock.files})
    for path in sorted(plan.damaged.keys() & known.keys()):
        pieces = known[path]
        bad = damaged_pieces(os.path.join(plan.target, path), pieces, workers(settings))
        plan.damaged[path] = sum(end - first for first, end in pieces.ranges_of(bad))
        plan.reasons[path] += f", damaged in {pieces.describe(bad)}"


def _examine_revisions(lock: Lock, plan: Plan, settings: Settings) -> None:
    """Where the link leads, and which earlier revisions are more than are to be kept."""
    folder = os.path.dirname(plan.target)
    if settings.link:
        place = os.path.join(folder, settings.link)
        try:
            leads_to = os.readlink(place)
        except FileNotFoundError:
            leads_to = ""
        except OSError as error:
            raise WeightsError(
                f"{lock.model}: {place} is not a symbolic link; remove it or choose another link"
            ) from error
        if leads_to != lock.revision:
            plan.link = place
    if settings.keep_revisions is None or not os.path.isdir(folder):
        return
    others = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if (
                re.fullmatch(r"[0-9a-f]{40}", entry.name)
                and entry.name != lock.revision
                and entry.is_dir(follow_symlinks=False)
            ):
                try:
                    age = os.stat(os.path.join(entry.path, RECORD_NAME)).st_mtime_ns
                except OSError:
                    age = 0
                others.append((age, entry.path))
    plan.outdated = sorted(path for dummy, path in sorted(others, reverse=True)[settings.keep_revisions :])


def parents_of(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _refuse_links(lock: Lock, root: str) -> None:
    """A link below the root could lead a write by root anywhere. The root itself may be one, if the site wants."""
    path = root
    for part in (*lock.model.split("/"), lock.revision):
        path = os.path.join(path, part)
        if os.path.islink(path):
            raise WeightsError(
                f"{lock.model}: {path} is a symbolic link; a real folder is needed there, remove the link"
            )
        if os.path.lexists(path) and not os.path.isdir(path):
            raise WeightsError(f"{lock.model}: {path} is not a folder; remove it")


def _attributes_are_right(status: os.stat_result, settings: Settings) -> bool:
    mode = settings.folder_mode if stat.S_ISDIR(status.st_mode) else settings.file_mode
    return (
        stat.S_IMODE(status.st_mode) == mode
        and settings.uid in (None, status.st_uid)
        and settings.gid in (None, status.st_gid)
    )


def workers(settings: Settings) -> int:
    # Never one alone: while a file is flushed to the disk at its end, the next one keeps the network busy.
    return settings.parallel_files or min(4, max(2, (os.cpu_count() or 2) // 2))


def _hash_all(paths: Sequence[str], settings: Settings, read: Callable[[int], None]) -> list[str]:
    """The SHA-256 of each file; nothing for one that the disk cannot give back."""

    def one(path: str) -> str:
        try:
            return hash_file(path, read)
        except OSError as error:
            if error.errno in _LOST:
                return ""
            raise

    if not paths:
        return []
    # hashlib releases the interpreter lock, so threads do hash at the same time.
    with ThreadPoolExecutor(workers(settings)) as pool:
        return list(pool.map(one, paths))


def forecast(lock: Lock, plan: Plan, settings: Settings, sources: Sequence[str] = ()) -> Outcome:
    """What a run does, in numbers and as a diff. `sources` are the labels of those that would be asked, in order."""
    outcome = Outcome(plan.target, changed=plan.changes, files_fetched=len(plan.wanted))
    for file in plan.wanted:
        kept = kept_bytes(part_path(lock, file, settings), file)
        missing = file.size - kept if kept else plan.damaged.get(file.path, file.size)
        outcome.bytes_fetched += missing
        outcome.files.append(
            {"path": file.path, "size": file.size, "bytes": missing, "reason": plan.reasons[file.path]}
        )
    outcome.sources = [{"source": label} for label in sources]
    digests = {file.path: f"{file.sha256}  {file.size}  {file.path}" for file in lock.files}
    before = [digests[path] for path in plan.good]
    before += [f"{path}: {reason}" for path, reason in plan.reasons.items() if plan.exists and reason != "missing"]
    before += [f"{path}: not in the lock" for path in plan.extras]
    before += [f"{path or '.'}: other owner or mode" for path in plan.attributes]
    outcome.before = "".join(f"{line}\n" for line in sorted(before))
    outcome.after = "".join(f"{line}\n" for line in sorted(digests.values()))
    acts = []
    if plan.wanted:
        acts.append(
            f"fetch {len(plan.wanted)} of {len(lock.files)} files, {outcome.bytes_fetched} bytes"
            + (f" from {', else '.join(sources)}" if sources else "")
        )
    if plan.extras:
        acts.append(f"remove {len(plan.extras)} that are not in the lock")
    if plan.attributes:
        acts.append(f"set owner and mode of {len(plan.attributes)}")
    if plan.pieces:
        acts.append(f"write down the digests of pieces of {_size_text(settings.piece_bytes)}")
    if plan.link:
        acts.append(f"let {plan.link} lead to it")
    if plan.outdated:
        acts.append(f"remove the earlier revisions {', '.join(map(os.path.basename, plan.outdated))}")
    if not plan.recorded and not plan.wanted:
        acts.append("record that every file was verified")
    outcome.message = f"{lock.model} at {lock.revision}: " + (", ".join(acts) or "verified again")
    return outcome


def _existing(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path


def _mount_of(path: str) -> str:
    path = os.path.realpath(_existing(path))
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def _size_text(count: int) -> str:
    return f"{count} bytes ({count / GIB:.1f} GiB)" if count >= GIB // 10 else f"{count} bytes"


def _free(path: str, settings: Settings) -> int:
    status = settings.statvfs(_existing(path))
    return int(status.f_bavail) * int(status.f_frsize)


def space_text(path: str, settings: Settings) -> str:
    return f"{_mount_of(path)} has {_size_text(_free(path, settings))} free"


def check_space(lock: Lock, plan: Plan, settings: Settings) -> None:
    """Refuse before the first byte is written. Files that only have to be read need no room."""
    need = 0
    for file in plan.wanted:
        if plan.reasons[file.path] == NOT_VERIFIED:
            continue
        with contextlib.suppress(OSError):
            need -= min(file.size, os.stat(part_path(lock, file, settings)).st_blocks * 512)
        need += file.size
    if not need:
        return
    status = settings.statvfs(_existing(plan.target))
    free = int(status.f_bavail) * int(status.f_frsize)
    mount = _mount_of(plan.target)
    if need + settings.reserve_bytes > free:
        raise WeightsError(
            f"{lock.model}: not enough space on {mount}: needs {_size_text(need)} "
            f"and a reserve of {_size_text(settings.reserve_bytes)}, "
            f"{_size_text(free)} are free, {_size_text(need + settings.reserve_bytes - free)} are missing. "
            f"Free space there, mount a larger file system at {settings.root}, or lower the reserve",
            [
                Finding(
                    "",
                    mount,
                    "disk_space",
                    "not enough space for the weights",
                    str(need + settings.reserve_bytes),
                    str(free),
                )
            ],
        )
    if int(status.f_files) and int(status.f_favail) < 2 * len(plan.wanted) + 16:
        raise WeightsError(
            f"{lock.model}: {mount} has only {status.f_favail} inodes free, {2 * len(plan.wanted) + 16} are needed"
        )


def work_path(lock: Lock, settings: Settings) -> str:
    return os.path.join(settings.root, lock.model, WORK_NAME)


def parts_path(lock: Lock, settings: Settings) -> str:
    return os.path.join(work_path(lock, settings), lock.revision, "parts" + _own(settings))


def tree_path(lock: Lock, settings: Settings) -> str:
    return os.path.join(work_path(lock, settings), lock.revision, "tree" + _own(settings))


def progress_path(lock: Lock, settings: Settings) -> str:
    return os.path.join(work_path(lock, settings), PROGRESS_NAME)


def _own(settings: Settings) -> str:
    """On a file system that several hosts share, locks may not be: each host has parts of its own there."""
    return _host_suffix(_existing(settings.root))


@functools.lru_cache(maxsize=8)
def _host_suffix(path: str) -> str:
    if not _SHARED.fullmatch(file_system(os.path.join(path, "x"))):
        return ""
    try:
        with open("/etc/machine-id", encoding="ascii") as stream:
            return "-" + stream.read().strip()[:12]
    except (OSError, UnicodeDecodeError):
        return "-" + hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:12]


def part_name(file: LockFile) -> str:
    # Two files of a model can have the same content; each has its own part.
    return hashlib.sha256(f"{file.sha256} {file.path}".encode()).hexdigest()[:40] + ".part"


def part_path(lock: Lock, file: LockFile, settings: Settings) -> str:
    return os.path.join(parts_path(lock, settings), part_name(file))
