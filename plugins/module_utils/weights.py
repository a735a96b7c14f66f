# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a host hold exactly the files of a lock: examine, fetch, verify, publish.

A revision's folder gets its final name only when every byte in it was verified; until then all of it is below
`<root>/<model>/.fetch/<revision>`, on the same file system, so that publishing is one rename.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, index_problems, is_index
from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import (
    DiskError,
    Stopped,
    TooLate,
    disk_error,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_exclusive import exclusive
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import (
    RECORD_NAME,
    fsync_folder,
    state_of,
    walk,
    write_record,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_manifests import Manifests
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Transport
from ansible_collections.baremetal.llm.plugins.module_utils.weights_piece_files import write_pieces
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import PIECES_NAME, PiecesError
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
    progress_path,
    space_text,
    tree_path,
    work_path,
    workers,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_progress import Counter, Progress
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import JOURNAL_SUFFIX
from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import Source
from ansible_collections.baremetal.llm.plugins.module_utils.weights_transfer import FileTransfer, Run

_ABANDONED_SECONDS = 7 * 86400


def ensure(
    lock: Lock,
    sources: Sequence[Source],
    settings: Settings,
    check_mode: bool = False,
    transport: Transport = Transport(),  # noqa: B008  (it is frozen)
) -> Outcome:
    """Make `<root>/<model>/<revision>` hold exactly the lock's files, or raise WeightsError and leave it as it was."""
    labels = [str(source.label) for source in sources]
    try:
        # What is to be read is read once, by the run that holds the lock, or where nothing can be written.
        plan = examine(lock, settings, read_bytes=_reads_at_once(lock, settings, check_mode))
        if not plan.changes and not plan.rehashed:
            return Outcome(plan.target, message=f"{lock.model} at {lock.revision} is published and verified")
        check_space(lock, plan, settings)
        if check_mode:
            return forecast(lock, plan, settings, labels)
        _make_folders(os.path.dirname(work_path(lock, settings)), settings)
        with exclusive(lock, settings):
            return _ensure(lock, sources, settings, transport, labels)
    except DiskError as error:
        raise WeightsError(f"{lock.model}: {error}; {space_text(work_path(lock, settings), settings)}") from error
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        raise WeightsError(f"{lock.model}: the host refused to work on{name}: {error.strerror}") from error


def _reads_at_once(lock: Lock, settings: Settings, check_mode: bool) -> bool:
    """Whether files that the record does not vouch for are read before anything else."""
    if check_mode:
        return settings.read_in_check_mode
    folder = os.path.dirname(lock.model_path(settings.root))
    return os.path.isdir(folder) and not os.access(folder, os.W_OK)


def _ensure(
    lock: Lock, sources: Sequence[Source], settings: Settings, transport: Transport, labels: Sequence[str]
) -> Outcome:
    """The work itself, by the only run that is at it."""
    facts = {"model": lock.model, "revision": lock.revision}
    counter = Counter("verify", facts)
    with Progress(progress_path(lock, settings), counter.look) as progress:
        plan = examine(lock, settings, locate=False, reads=counter.expect, read=counter.add)
        check_space(lock, plan, settings)
        outcome = forecast(lock, plan, settings, labels)
        outcome.bytes_fetched, outcome.sources = 0, []
        if not plan.changes and not plan.rehashed:
            return outcome
        if plan.wanted:
            _fetch(lock, plan, sources, settings, transport, outcome, progress)
        outcome.findings = [*_rotten(plan, outcome), *outcome.findings]
        if plan.content_changes or plan.rehashed or plan.pieces:
            counter = Counter("pieces", facts)
            counter.expect(lock.total_bytes if plan.pieces else 0)
            progress.follow(counter.look)
            _publish(lock, plan, settings, counter)
        _switch(lock, plan, settings)
        _clean(lock, settings)
    return outcome


def _rotten(plan: Plan, outcome: Outcome) -> list[Finding]:
    reasons = {entry["path"]: entry["reason"] for entry in outcome.files}
    return [
        Finding(
            path,
            "",
            "rotten",
            f"{reasons[path]}, although nothing wrote to it since it was verified: disk, controller or memory of "
            "this host change bytes; it was replaced",
        )
        for path in plan.rotten
    ]


# Work folder


def _make_folders(path: str, settings: Settings) -> None:
    """Make the folders that are missing, with the mode and owner of published ones, whatever the umask says."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        # Another run may make it at the same moment.
        with contextlib.suppress(FileExistsError):
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
    names |= {name + JOURNAL_SUFFIX for name in names}
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


def _fetch(
    lock: Lock,
    plan: Plan,
    sources: Sequence[Source],
    settings: Settings,
    transport: Transport,
    outcome: Outcome,
    progress: Progress,
) -> None:
    """Bring every wanted file into its part, or raise with everything that is wrong."""
    _recover(lock, plan, settings)
    run = Run(sources, transport, Manifests(lock.files, plan.target))
    # The largest first, so that no long one is left alone at the end.
    files = sorted(plan.wanted, key=lambda file: -file.size)
    transfers = [
        FileTransfer(
            run,
            file,
            part_path(lock, file, settings),
            os.path.join(plan.target, file.path) if file.path in plan.damaged else "",
        )
        for file in files
    ]
    late = False

    def one(transfer: FileTransfer) -> bool:
        try:
            return transfer.fetch()
        except Stopped:
            return False
        except BaseException:
            run.stop()
            raise

    progress.follow(lambda: _look(lock, run, transfers))
    try:
        with ThreadPoolExecutor(workers(settings)) as pool:
            try:
                results = list(pool.map(one, transfers))
            except BaseException:
                run.stop()
                raise
    except TooLate:
        late = True
        results = [transfer.done for transfer in transfers]
    except OSError as error:
        raise disk_error(error, part_path(lock, files[0], settings)) from error
    finally:
        run.client.abort()
    _note_damage(transfers, outcome)
    outcome.seconds = round(transport.clock() - run.began, 3)
    outcome.bytes_fetched = run.received
    outcome.retries = run.retries
    outcome.connections = max((line.most_alive for line in run.lines), default=0)
    outcome.sources = [
        {
            "source": line.label,
            "bytes": line.received,
            "retries": line.retries,
            "connections": line.most_alive,
        }
        for line in run.lines
    ]
    findings = list(run.findings)
    bad = []
    for transfer, done in zip(transfers, results):
        findings.extend(transfer.findings)
        if not done:
            bad.append(transfer.file)
    outcome.findings = findings
    if bad:
        with contextlib.suppress(OSError):
            os.removedirs(parts_path(lock, settings))
        state = "the files published before are as they were" if plan.exists else "nothing was published"
        have = sum(transfer.have for transfer in transfers)
        total = sum(file.size for file in files)
        reason = f"deadline_seconds ({transport.deadline_seconds:.0f}) passed, " if late else ""
        raise WeightsError(
            f"{lock.model} at {lock.revision}: {reason}{len(bad)} of {len(plan.wanted)} files could not be had, "
            f"{state}; {have} of {total} bytes are kept, and the next run goes on from there",
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


def _note_damage(transfers: Sequence[FileTransfer], outcome: Outcome) -> None:
    """Of files that were damaged, only what was damaged had to come."""
    by_path = {transfer.file.path: transfer for transfer in transfers if transfer.damage}
    for entry in outcome.files:
        transfer = by_path.get(entry["path"])
        if transfer is not None:
            entry["bytes"] = transfer.file.size - transfer.kept
            line = f"{entry['path']}: {entry['reason']}"
            entry["reason"] += f", damaged in {transfer.damage}"
            outcome.before = outcome.before.replace(f"{line}\n", f"{line}, damaged in {transfer.damage}\n")


def _look(lock: Lock, run: Run, transfers: Sequence[FileTransfer]) -> dict[str, Any]:
    """How far the run is, for those who watch."""
    active = [transfer for transfer in transfers if transfer.active]
    return {
        "phase": "fetch",
        "model": lock.model,
        "revision": lock.revision,
        "bytes_total": sum(transfer.file.size for transfer in transfers),
        "bytes_done": sum(transfer.have for transfer in transfers),
        # What an earlier run left is there at once, and says nothing about the network.
        "bytes_moved": run.received,
        "files_total": len(transfers),
        "files_done": sum(transfer.done for transfer in transfers),
        "files": [
            {
                "path": transfer.file.path,
                "size": transfer.file.size,
                "bytes_done": transfer.have,
                "source": transfer.source,
            }
            for transfer in active
        ],
        "source": next((transfer.source for transfer in active if transfer.source), ""),
        "connections": sum(line.alive for line in run.lines),
        "retries": run.retries,
    }


# Publishing


def _publish(lock: Lock, plan: Plan, settings: Settings, counter: Counter) -> None:
    """Let the verified files appear under their final names, with the digests of their pieces if they are wanted."""
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
    if plan.pieces:
        _write_pieces(lock, folder, settings, counter)
    if not plan.exists:
        os.rename(folder, plan.target)
        fsync_folder(os.path.dirname(plan.target))


def _write_pieces(lock: Lock, folder: str, settings: Settings, counter: Counter) -> None:
    files = {file.path: file for file in lock.files}
    try:
        write_pieces(
            folder,
            lock.model,
            lock.revision,
            files,
            settings.piece_bytes,
            workers(settings),
            settings.file_mode,
            counter.add,
        )
    except PiecesError as error:
        raise WeightsError(f"{lock.model} at {lock.revision}: {error}; run again with verify: full") from error
    _set_attributes(os.path.join(folder, PIECES_NAME), settings.file_mode, settings)


def _switch(lock: Lock, plan: Plan, settings: Settings) -> None:
    """Let the link lead to the revision, which is whole now; then remove the revisions that are too many."""
    work = work_path(lock, settings)
    if plan.link:
        temporary = os.path.join(work, "link")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(lock.revision, temporary)
        if settings.uid is not None or settings.gid is not None:
            os.chown(
                temporary,
                -1 if settings.uid is None else settings.uid,
                -1 if settings.gid is None else settings.gid,
                follow_symlinks=False,
            )
        os.replace(temporary, plan.link)
        fsync_folder(os.path.dirname(plan.link))
    for path in plan.outdated:
        # Out of sight first, so that nobody ever sees half of a revision. Who has its files open keeps them.
        grave = os.path.join(work, "removed-" + os.path.basename(path))
        shutil.rmtree(grave, ignore_errors=True)
        os.rename(path, grave)
        shutil.rmtree(grave, ignore_errors=True)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
