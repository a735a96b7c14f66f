# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a host hold exactly the files of a lock: examine, fetch, verify, publish.

A revision's folder gets its final name only when every byte in it was verified; until then all of it is below
`<root>/<model>/.fetch/<revision>`, on the same file system, so that publishing is one rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import hashlib
import os
import pwd
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible_collections.baremetal.llm.plugins.module_utils.lock import (
    DEFAULT_ROOT,
    Lock,
    LockFile,
    index_problems,
    is_index,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import (
    RECORD_NAME,
    FileState,
    fsync_folder,
    hash_file,
    read_record,
    state_of,
    structure_problem,
    walk,
    write_record,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import (
    DiskError,
    PartWriter,
    Source,
    SourceError,
    Stopped,
    disk_error,
)

WORK_NAME = ".fetch"
GIB = 1024**3
_ABANDONED_SECONDS = 7 * 86400


@dataclass(frozen=True)
class Settings:
    """How a model is kept on a host. `uid` and `gid` of None leave ownership as it is."""

    root: str = DEFAULT_ROOT
    uid: int | None = None
    gid: int | None = None
    file_mode: int = 0o644
    folder_mode: int = 0o755
    verify: str = "record"
    reserve_bytes: int = GIB
    parallel_files: int = 0
    lock_timeout_seconds: float = 3600.0
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

    @property
    def changes(self) -> bool:
        return bool(not self.exists or not self.recorded or self.wanted or self.extras or self.attributes)


@dataclass
class Outcome:
    path: str
    changed: bool = False
    files_fetched: int = 0
    bytes_fetched: int = 0
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


def examine(lock: Lock, settings: Settings, read_bytes: bool = True) -> Plan:
    """Compare what is published with the lock. Files that the record vouches for are only asked for their status.

    With `read_bytes` false nothing is hashed and whatever the record does not vouch for counts as wanted.
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
    folders = {parent for file in lock.files for parent in _parents(file.path)}
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
        elif known is not None and known.sha256 == file.sha256 and known.matches(status) and settings.verify != "full":
            plan.good[file.path] = known
        elif read_bytes:
            doubtful.append(file)
        else:
            plan.reasons[file.path] = "not verified"
    for file, digest in zip(doubtful, _hash_all([os.path.join(target, file.path) for file in doubtful], settings)):
        if digest == file.sha256:
            # The status from before the hash: a write during the hash makes the next run look again.
            status = statuses[file.path]
            plan.good[file.path] = FileState(
                status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest
            )
            if record.get(file.path) != plan.good[file.path]:
                plan.rehashed.append(file.path)
        else:
            plan.reasons[file.path] = f"has the SHA-256 {digest} instead of {file.sha256}"
    plan.wanted = [file for file in lock.files if file.path in plan.reasons]
    paths = {file.path for file in lock.files}
    for path, status in statuses.items():
        if path in paths or path == RECORD_NAME or (path in folders and stat.S_ISDIR(status.st_mode)):
            if (path in plan.good or path in folders) and not _attributes_are_right(status, settings):
                plan.attributes.append(path)
        elif not any(parent in plan.extras or parent in paths for parent in _parents(path)):
            plan.extras.append(path)
    return plan


def ensure(lock: Lock, sources: Sequence[Source], settings: Settings, check_mode: bool = False) -> Outcome:
    """Make `<root>/<model>/<revision>` hold exactly the lock's files, or raise WeightsError and leave it as it was."""
    try:
        plan = examine(lock, settings)
        if not plan.changes and not plan.rehashed:
            return Outcome(plan.target, message=f"{lock.model} at {lock.revision} is published and verified")
        _check_space(lock, plan, settings)
        if check_mode:
            return _forecast(lock, plan, settings)
        with _exclusive(lock, settings) as waited:
            if waited:
                plan = examine(lock, settings)
                _check_space(lock, plan, settings)
            outcome = _forecast(lock, plan, settings)
            outcome.bytes_fetched = 0
            if plan.wanted:
                outcome.findings, outcome.bytes_fetched = _fetch(lock, plan, sources, settings)
            if plan.changes or plan.rehashed:
                _publish(lock, plan, settings)
            _clean(lock, settings)
    except DiskError as error:
        raise WeightsError(f"{lock.model}: {error}; {_space_text(_work(lock, settings), settings)}") from error
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        raise WeightsError(f"{lock.model}: the host refused to work on{name}: {error.strerror}") from error
    return outcome


# Examining


def _parents(path: str) -> list[str]:
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


def _workers(settings: Settings) -> int:
    return settings.parallel_files or min(4, max(1, (os.cpu_count() or 2) // 2))


def _hash_all(paths: Sequence[str], settings: Settings) -> list[str]:
    if not paths:
        return []
    # hashlib releases the interpreter lock, so threads do hash at the same time.
    with ThreadPoolExecutor(_workers(settings)) as pool:
        return list(pool.map(hash_file, paths))


def _forecast(lock: Lock, plan: Plan, settings: Settings) -> Outcome:
    """What a run does, in numbers and as a diff."""
    outcome = Outcome(plan.target, changed=plan.changes, files_fetched=len(plan.wanted))
    outcome.bytes_fetched = sum(file.size - _part_size(lock, file, settings) for file in plan.wanted)
    digests = {file.path: f"{file.sha256}  {file.size}  {file.path}" for file in lock.files}
    before = [digests[path] for path in plan.good]
    before += [f"{path}: {reason}" for path, reason in plan.reasons.items() if plan.exists and reason != "missing"]
    before += [f"{path}: not in the lock" for path in plan.extras]
    before += [f"{path or '.'}: other owner or mode" for path in plan.attributes]
    outcome.before = "".join(f"{line}\n" for line in sorted(before))
    outcome.after = "".join(f"{line}\n" for line in sorted(digests.values()))
    acts = []
    if plan.wanted:
        acts.append(f"fetch {len(plan.wanted)} of {len(lock.files)} files, {outcome.bytes_fetched} bytes")
    if plan.extras:
        acts.append(f"remove {len(plan.extras)} that are not in the lock")
    if plan.attributes:
        acts.append(f"set owner and mode of {len(plan.attributes)}")
    if not plan.recorded and not plan.wanted:
        acts.append("record that every file was verified")
    outcome.message = f"{lock.model} at {lock.revision}: " + (", ".join(acts) or "verified again")
    return outcome


# Space


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


def _space_text(path: str, settings: Settings) -> str:
    return f"{_mount_of(path)} has {_size_text(_free(path, settings))} free"


def _check_space(lock: Lock, plan: Plan, settings: Settings) -> None:
    """Refuse before the first byte is written."""
    need = 0
    for file in plan.wanted:
        with contextlib.suppress(OSError):
            need -= min(file.size, os.stat(_part_path(lock, file, settings)).st_blocks * 512)
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


# Work folder


def _work(lock: Lock, settings: Settings) -> str:
    return os.path.join(settings.root, lock.model, WORK_NAME)


def _parts(lock: Lock, settings: Settings) -> str:
    return os.path.join(_work(lock, settings), lock.revision, "parts")


def _tree(lock: Lock, settings: Settings) -> str:
    return os.path.join(_work(lock, settings), lock.revision, "tree")


def _part_name(file: LockFile) -> str:
    # Two files of a model can have the same content; each has its own part.
    return hashlib.sha256(f"{file.sha256} {file.path}".encode()).hexdigest()[:40] + ".part"


def _part_path(lock: Lock, file: LockFile, settings: Settings) -> str:
    return os.path.join(_parts(lock, settings), _part_name(file))


def _part_size(lock: Lock, file: LockFile, settings: Settings) -> int:
    try:
        return min(file.size, os.path.getsize(_part_path(lock, file, settings)))
    except OSError:
        return 0


def _make_folders(path: str, settings: Settings) -> None:
    """Make the folders that are missing, with the mode and owner of published ones, whatever the umask says."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        os.mkdir(folder, 0o700)
        _set_attributes(folder, settings.folder_mode, settings)
        fsync_folder(os.path.dirname(folder))


def _set_attributes(path: str, mode: int, settings: Settings) -> None:
    if settings.uid is not None or settings.gid is not None:
        os.chown(
            path,
            -1 if settings.uid is None else settings.uid,
            -1 if settings.gid is None else settings.gid,
            follow_symlinks=False,
        )
    os.chmod(path, mode)


@contextlib.contextmanager
def _exclusive(lock: Lock, settings: Settings) -> Iterator[bool]:
    """One run per model at a time; yields whether it had to wait. The kernel drops the lock of a run that was killed,
    so a lock file that lies around means nothing."""
    work = _work(lock, settings)
    _make_folders(os.path.dirname(work), settings)
    with contextlib.suppress(FileExistsError):
        os.mkdir(work, 0o700)
    if os.path.islink(work):
        raise WeightsError(f"{lock.model}: {work} is a symbolic link; remove it")
    descriptor = os.open(os.path.join(work, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        waited = 0.0
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if waited >= settings.lock_timeout_seconds:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise WeightsError(
                    f"{lock.model}: another run (process {holder}) has been fetching this model for {waited:.0f} s; "
                    "wait for it or stop it"
                )
            settings.sleep(1.0)
            waited += 1.0
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield waited > 0
    finally:
        os.close(descriptor)


def _recover(lock: Lock, plan: Plan, settings: Settings) -> None:
    """Take over what a killed run left, drop what nobody wants any more. All is hashed again before it counts."""
    parts, tree = _parts(lock, settings), _tree(lock, settings)
    os.makedirs(parts, mode=0o700, exist_ok=True)
    for file in plan.wanted:
        staged, part = os.path.join(tree, file.path), os.path.join(parts, _part_name(file))
        if os.path.isfile(staged) and not os.path.islink(staged) and not os.path.lexists(part):
            os.replace(staged, part)
    shutil.rmtree(tree, ignore_errors=True)
    names = {_part_name(file) for file in plan.wanted}
    for entry in os.listdir(parts):
        if entry not in names:
            os.unlink(os.path.join(parts, entry))


def _clean(lock: Lock, settings: Settings) -> None:
    work = _work(lock, settings)
    shutil.rmtree(os.path.join(work, lock.revision), ignore_errors=True)
    # Parts of other revisions may be resumed, but not for ever.
    with os.scandir(work) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and time.time() - _newest(entry.path) > _ABANDONED_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)


def _newest(folder: str) -> float:
    return max([os.lstat(folder).st_mtime, *(status.st_mtime for dummy, status in walk(folder))])


# Fetching


class _Fetch:
    """The state that the files of one run share."""

    def __init__(self, lock: Lock, sources: Sequence[Source], settings: Settings) -> None:
        self.lock = lock
        self.settings = settings
        self.stop = threading.Event()
        self.sources: list[Source] = []
        self.unavailable: list[Finding] = []
        for source in sources:
            try:
                source.check()
                self.sources.append(source)
            except SourceError as error:
                self.unavailable.append(_finding("", source, error))

    def one(self, file: LockFile) -> tuple[bool, list[Finding], int]:
        """Fetch one file: whether it is right now, what went wrong on the way, how many bytes came."""
        path = _part_path(self.lock, file, self.settings)
        findings: list[Finding] = []
        try:
            with PartWriter(path, file, self.stop) as part:
                done = self._take_over(part)
                for source in () if done else self.sources:
                    try:
                        self._deliver(source, file, part)
                        done = True
                        break
                    except SourceError as error:
                        findings.append(_finding(file.path, source, error))
                if done:
                    part.sync()
                received, empty = part.received, part.offset == 0
        except Stopped:
            return False, findings, 0
        except DiskError:
            self.stop.set()
            raise
        except OSError as error:
            self.stop.set()
            raise disk_error(error, path) from error
        if done:
            problem = structure_problem(file.path, path)
            if problem:
                findings.append(
                    Finding(
                        file.path,
                        "",
                        "structure",
                        f"is what the lock says, but {problem}: the lock was made from a broken file, "
                        "lock the model again",
                    )
                )
                done, empty = False, True
        if not done and empty:
            os.unlink(path)
        return done, findings, received

    @staticmethod
    def _take_over(part: PartWriter) -> bool:
        """Whether what is there needs no source: a part that came to its end, and every file that is empty."""
        if part.complete:
            if part.sha256 == part.file.sha256:
                return True
            part.restart()
        return False

    @staticmethod
    def _deliver(source: Source, file: LockFile, part: PartWriter) -> None:
        while True:
            resumed = part.offset > 0
            source.deliver(file, part)
            if not part.complete:
                raise SourceError("truncated", "delivered too few bytes", str(file.size), str(part.offset))
            digest = part.sha256
            if digest == file.sha256:
                return
            part.restart()
            if not resumed:
                raise SourceError("digest", "delivered other bytes than the lock says (SHA-256)", file.sha256, digest)
            # The beginning came from an earlier run or another source and may be what is wrong.


def _finding(path: str, source: Source, error: SourceError) -> Finding:
    return Finding(path, str(source.label), error.problem, error.message, error.expected, error.actual)


def _fetch(lock: Lock, plan: Plan, sources: Sequence[Source], settings: Settings) -> tuple[list[Finding], int]:
    """Bring every wanted file into its part, or raise with everything that is wrong."""
    _recover(lock, plan, settings)
    fetch = _Fetch(lock, sources, settings)
    with ThreadPoolExecutor(_workers(settings)) as pool:
        results = list(pool.map(fetch.one, plan.wanted))
    findings = list(fetch.unavailable)
    bad = []
    received = 0
    for file, (done, found, count) in zip(plan.wanted, results):
        findings.extend(found)
        received += count
        if not done:
            bad.append(file)
    if bad:
        with contextlib.suppress(OSError):
            os.removedirs(_parts(lock, settings))
        state = "the files published before are as they were" if plan.exists else "nothing was published"
        raise WeightsError(
            f"{lock.model} at {lock.revision}: {len(bad)} of {len(plan.wanted)} files could not be had, {state}",
            findings,
        )
    problems: list[Finding] = []
    wanted = {file.path for file in plan.wanted}
    paths = [file.path for file in lock.files]
    for file in lock.files:
        if is_index(file.path):
            place = _part_path(lock, file, settings) if file.path in wanted else os.path.join(plan.target, file.path)
            with open(place, "rb") as stream:
                problems.extend(
                    Finding(file.path, "", "index", text) for text in index_problems(file.path, stream.read(), paths)
                )
    if problems:
        raise WeightsError(
            f"{lock.model} at {lock.revision}: the model is not complete; lock it again with all its shards", problems
        )
    return findings, received


# Publishing


def _publish(lock: Lock, plan: Plan, settings: Settings) -> None:
    """Let the verified files appear under their final names."""
    folder = plan.target if plan.exists else _tree(lock, settings)
    if not plan.exists:
        os.makedirs(folder, mode=0o700)
    for path in plan.extras:
        _remove(os.path.join(folder, path))
    touched = {folder}
    for file in plan.wanted:
        place = os.path.join(folder, file.path)
        for parent in _parents(file.path):
            parent = os.path.join(folder, parent)
            if os.path.islink(parent) or (os.path.lexists(parent) and not os.path.isdir(parent)):
                os.unlink(parent)
        _make_folders(os.path.dirname(place), settings)
        part = _part_path(lock, file, settings)
        _set_attributes(part, settings.file_mode, settings)
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        os.replace(part, place)
        touched.add(os.path.dirname(place))
    for path in [*plan.attributes, *([] if plan.exists else [""])]:
        place = os.path.join(folder, path) if path else folder
        mode = settings.folder_mode if os.path.isdir(place) else settings.file_mode
        _set_attributes(place, mode, settings)
    for path in sorted(touched):
        fsync_folder(path)
    changed = {file.path for file in plan.wanted} | set(plan.attributes)
    # Owner, mode and rename change ctime, so the record is made after them. What was not touched keeps the state that
    # was seen when it was verified.
    states = {
        file.path: state_of(os.path.join(folder, file.path), file.sha256)
        if file.path in changed
        else plan.good[file.path]
        for file in lock.files
    }
    write_record(folder, lock.model, lock.revision, states, settings.file_mode)
    _set_attributes(os.path.join(folder, RECORD_NAME), settings.file_mode, settings)
    if not plan.exists:
        os.rename(folder, plan.target)
        fsync_folder(os.path.dirname(plan.target))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
