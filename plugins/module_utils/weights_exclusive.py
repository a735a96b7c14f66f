# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run per model and host: a lock of the kernel where that works, and who holds it where it does not."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock
from ansible_collections.baremetal.llm.plugins.module_utils.weights_plan import (
    Settings,
    WeightsError,
    progress_path,
    work_path,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_progress import read_progress


@contextlib.contextmanager
def exclusive(lock: Lock, settings: Settings) -> Iterator[None]:
    """One run per model at a time. The kernel drops the lock of a run that was killed, so a lock file that lies around
    means nothing. A run that gets on is waited for as long as it takes."""
    work = work_path(lock, settings)
    with contextlib.suppress(FileExistsError):
        os.mkdir(work, 0o700)
    if os.path.islink(work):
        raise WeightsError(f"{lock.model}: {work} is a symbolic link; remove it")
    descriptor = os.open(os.path.join(work, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        waited, seen = 0.0, read_progress(progress_path(lock, settings))
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_running(_holder(descriptor)):
                    break
                # Some network file systems say yes to everybody.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                if error.errno not in (errno.EAGAIN, errno.EACCES) and not _is_running(_holder(descriptor)):
                    break
            if waited >= settings.lock_timeout_seconds:
                holder = _holder(descriptor).partition(" ")[0] or "unknown"
                raise WeightsError(
                    f"{lock.model}: another run (process {holder}) is at work on this model, and did not get on for "
                    f"{waited:.0f} s; wait for it or stop it"
                )
            settings.sleep(1.0)
            now = read_progress(progress_path(lock, settings))
            waited, seen = (waited + 1.0 if now == seen else 0.0), now
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _myself().encode(), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _myself() -> str:
    """This process, in words that no other one has: number, start time, boot of the host."""
    return f"{os.getpid()} {_start_of(os.getpid())} {_boot()}\n"


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 128, 0).decode("ascii", "replace").strip()


def _is_running(holder: str) -> bool:
    """Whether another process of this host says in the lock file that it is at work, and lives."""
    words = holder.split()
    if len(words) != 3 or not words[0].isdigit() or int(words[0]) == os.getpid() or words[2] != _boot():
        return False
    return words[1] != "0" and _start_of(int(words[0])) == words[1]


def _start_of(process: int) -> str:
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return "0"
    # A process that ended and was not fetched yet (a zombie) holds nothing.
    return "0" if fields[0] == "Z" else fields[19]


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return "-"
