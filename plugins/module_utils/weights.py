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
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile, index_problems, is_index
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import (
    RECORD_NAME,
    fsync_folder,
    state_of,
    structure_problem,
    walk,
    write_record,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_plan import (
    Finding,
    Outcome,
    Plan,
    Settings,
    WeightsError,
    check_space,
    examine,
    forecast,
    parents_of,
    part_name,
    part_path,
    parts_path,
    space_text,
    tree_path,
    work_path,
    workers,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import (
    DiskError,
    PartWriter,
    Source,
    SourceError,
    Stopped,
    disk_error,
)

_ABANDONED_SECONDS = 7 * 86400


def ensure(lock: Lock, sources: Sequence[Source], settings: Settings, check_mode: bool = False) -> Outcome:
    """Make `<root>/<model>/<revision>` hold exactly the lock's files, or raise WeightsError and leave it as it was."""
    try:
        plan = examine(lock, settings)
        if not plan.changes and not plan.rehashed:
            return Outcome(plan.target, message=f"{lock.model} at {lock.revision} is published and verified")
        check_space(lock, plan, settings)
        if check_mode:
            return forecast(lock, plan, settings)
        with _exclusive(lock, settings) as waited:
            if waited:
                plan = examine(lock, settings)
                check_space(lock, plan, settings)
            outcome = forecast(lock, plan, settings)
            outcome.bytes_fetched = 0
            if plan.wanted:
                outcome.findings, outcome.bytes_fetched = _fetch(lock, plan, sources, settings)
            if plan.changes or plan.rehashed:
                _publish(lock, plan, settings)
            _clean(lock, settings)
    except DiskError as error:
        raise WeightsError(f"{lock.model}: {error}; {space_text(work_path(lock, settings), settings)}") from error
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        raise WeightsError(f"{lock.model}: the host refused to work on{name}: {error.strerror}") from error
    return outcome


# Work folder


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
    work = work_path(lock, settings)
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
    parts, tree = parts_path(lock, settings), tree_path(lock, settings)
    os.makedirs(parts, mode=0o700, exist_ok=True)
    for file in plan.wanted:
        staged, part = os.path.join(tree, file.path), os.path.join(parts, part_name(file))
        if os.path.isfile(staged) and not os.path.islink(staged) and not os.path.lexists(part):
            os.replace(staged, part)
    shutil.rmtree(tree, ignore_errors=True)
    names = {part_name(file) for file in plan.wanted}
    for entry in os.listdir(parts):
        if entry not in names:
            os.unlink(os.path.join(parts, entry))


def _clean(lock: Lock, settings: Settings) -> None:
    work = work_path(lock, settings)
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
        path = part_path(self.lock, file, self.settings)
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
    with ThreadPoolExecutor(workers(settings)) as pool:
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
            os.removedirs(parts_path(lock, settings))
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
            place = part_path(lock, file, settings) if file.path in wanted else os.path.join(plan.target, file.path)
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
    folder = plan.target if plan.exists else tree_path(lock, settings)
    if not plan.exists:
        os.makedirs(folder, mode=0o700)
    for path in plan.extras:
        _remove(os.path.join(folder, path))
    touched = {folder}
    for file in plan.wanted:
        place = os.path.join(folder, file.path)
        for parent in parents_of(file.path):
            parent = os.path.join(folder, parent)
            if os.path.islink(parent) or (os.path.lexists(parent) and not os.path.isdir(parent)):
                os.unlink(parent)
        _make_folders(os.path.dirname(place), settings)
        part = part_path(lock, file, settings)
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
