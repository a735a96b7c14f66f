# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mirror's disk: whether models are verified and readable there, and releases of what is said of them.

A release is a folder `<release_root>/<digest>` with everything that nginx needs beside the weights. The configuration
that is in use names the release that is in use, so a configuration that fails its test changes nothing.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils.hub_layout import (
    INDEX_NAME,
    Layout,
    Mirrored,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import read_record, walk, write_atomically
from ansible_collections.baremetal.llm.plugins.module_utils.weights_piece_files import read_pieces
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import PIECES_NAME, PiecesError

_RELEASE = re.compile(r"[0-9a-f]{16}")
_SHOWN = 5


@dataclass(frozen=True)
class Reader:
    """The user that nginx's workers run as."""

    name: str
    uid: int
    gids: frozenset[int]

    def may(self, status: os.stat_result, bit: int) -> bool:
        """Whether the mode lets this user read (4) a file or pass (1) a folder. Access lists are not looked at."""
        if not self.uid:
            return True
        if status.st_uid == self.uid:
            return bool(status.st_mode >> 6 & bit)
        return bool(status.st_mode >> (3 if status.st_gid in self.gids else 0) & bit)


def reader_named(name: str) -> Reader:
    """The user of that name, with all its groups. Raises ValueError if this host has none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise ValueError(f"user: this host has no user {name!r}") from error
    groups = {entry.pw_gid, *(group.gr_gid for group in grp.getgrall() if name in group.gr_mem)}
    return Reader(name, entry.pw_uid, frozenset(groups))


def obstacles(model: Mirrored, root: str, reader: Reader | None = None) -> list[str]:
    """Why a model must not be served from this disk; nothing if every file is as it was verified against the lock.

    Asks each file for its status and reads none. `reader` is left out where nginx's user does not exist yet.
    """
    lock = model.lock
    folder = lock.model_path(root)
    place = root
    for part in (*lock.model.split("/"), lock.revision):
        place = os.path.join(place, part)
        if os.path.islink(place):
            return [f"{place} is a symbolic link"]
    if not os.path.isdir(folder):
        return [f"{folder} does not exist: it was not fetched yet"]
    record = read_record(folder, lock.revision)
    if not record:
        return [f"{folder} has no record of a verification for this revision"]
    statuses = dict(walk(folder))
    problems = []
    for file in lock.files:
        status, known = statuses.get(file.path), record.get(file.path)
        if status is None or not stat.S_ISREG(status.st_mode):
            problems.append(f"{file.path} is missing or not a regular file")
        elif known is None or known.sha256 != file.sha256 or known.size != file.size:
            problems.append(f"{file.path} was not verified against this lock")
        elif not known.matches(status):
            problems.append(f"{file.path} was touched after it was verified")
        elif reader is not None and not reader.may(status, 4):
            problems.append(f"{file.path} cannot be read by {reader.name}, the user of nginx")
    if reader is not None:
        problems += _closed_folders(folder, statuses, reader)
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [f"and {len(problems) - _SHOWN} more"]
    return problems


def _closed_folders(folder: str, statuses: dict[str, os.stat_result], reader: Reader) -> list[str]:
    above = [folder]
    while above[-1] != os.path.dirname(above[-1]):
        above.append(os.path.dirname(above[-1]))
    folders = {path: os.stat(path) for path in reversed(above)}
    folders.update(
        {os.path.join(folder, path): status for path, status in statuses.items() if stat.S_ISDIR(status.st_mode)}
    )
    return [
        f"{path} cannot be entered by {reader.name}, the user of nginx"
        for path, status in folders.items()
        if not reader.may(status, 1)
    ]


def has_pieces(model: Mirrored, root: str, reader: Reader | None = None) -> bool:
    """Whether there is a manifest of its pieces that is of these files and that nginx can read."""
    folder = model.lock.model_path(root)
    try:
        status = os.lstat(os.path.join(folder, PIECES_NAME))
        read_pieces(folder, {file.path: file for file in model.lock.files})
    except (OSError, PiecesError):
        return False
    return stat.S_ISREG(status.st_mode) and (reader is None or reader.may(status, 4))


def release_in_use(configuration: str, release_root: str) -> str:
    """The digest of the release that a configuration of nginx names, or nothing."""
    try:
        with open(configuration, encoding="utf-8", errors="replace") as stream:
            text = stream.read()
    except OSError:
        return ""
    match = re.search(re.escape(release_root) + r"/(?P<digest>[0-9a-f]{16})/", text)
    return match["digest"] if match else ""


def index_of(release_root: str, digest: str) -> str:
    """What a release serves, one line each; nothing if there is no such release."""
    if not digest:
        return ""
    try:
        with open(os.path.join(release_root, digest, INDEX_NAME), encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError):
        return ""


def is_written(layout: Layout, release_root: str) -> bool:
    """Whether the release is on the disk, byte for byte and with nothing else in it."""
    folder = os.path.join(release_root, layout.digest)
    if not os.path.isdir(folder) or os.path.islink(folder):
        return False
    present = {path for path, status in walk(folder) if not stat.S_ISDIR(status.st_mode)}
    return present == set(layout.files) and all(
        _content(os.path.join(folder, path)) == data for path, data in layout.files.items()
    )


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return None


def write(layout: Layout, release_root: str, keep: Sequence[str] = ()) -> None:
    """Write the release, and remove all others but those of `keep` (digests)."""
    folder = os.path.join(release_root, layout.digest)
    if not is_written(layout, release_root):
        # Of this content only: nothing can be right about another one under this name.
        shutil.rmtree(folder, ignore_errors=True)
        for path, data in sorted(layout.files.items()):
            _make_folders(os.path.dirname(os.path.join(folder, path)))
            write_atomically(os.path.join(folder, path), data, 0o644)
    for name in os.listdir(release_root):
        if _RELEASE.fullmatch(name) and name not in (layout.digest, *keep):
            shutil.rmtree(os.path.join(release_root, name), ignore_errors=True)


def _make_folders(path: str) -> None:
    """Make the folders that are missing, open to nginx whatever the umask says."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for place in reversed(missing):
        os.mkdir(place)
        os.chmod(place, 0o755)
