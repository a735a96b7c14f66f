# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the lock of a model from a folder or from the Hugging Face Hub."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import posixpath
import shutil
import stat
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.lock import (
    ACCEPTED_NAMES,
    Lock,
    LockError,
    LockFile,
    dump_lock,
    format_problem,
    index_problems,
    is_index,
    model_problem,
    parse_lock,
    path_problem,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import (
    hash_file,
    structure_problem,
    write_atomically,
)

# What an engine loads from a safetensors model: all that is accepted, but no GGUF, of which a repository often holds a
# dozen quantizations. Matched against the last part of each path.
DEFAULT_PATTERNS = tuple(name for name in ACCEPTED_NAMES if name != "*.gguf")
HUB_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class Selection:
    """Which files of a model belong into its lock."""

    patterns: tuple[str, ...] = DEFAULT_PATTERNS
    exclude: tuple[str, ...] = ()
    allow_files: tuple[str, ...] = ()

    def takes(self, path: str) -> bool:
        if path in self.allow_files:
            return True
        if any(part.startswith(".") for part in path.split("/")):
            return False
        return _matches(path, self.patterns) and not _matches(path, self.exclude)


@dataclass(frozen=True)
class Locked:
    lock: Lock
    left_out: tuple[str, ...]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """A pattern with a slash is about the whole path, one without about the last part of it."""
    return any(
        fnmatch.fnmatchcase(path if "/" in pattern else posixpath.basename(path), pattern) for pattern in patterns
    )


def content_revision(files: Sequence[LockFile]) -> str:
    """The revision of a model that has no commit: the same content has the same one, wherever it lies."""
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def lock_folder(model: str, folder: str, selection: Selection) -> Locked:
    """Hash the files of a folder. Raises LockError with everything that is wrong with them."""
    subject = f"model {model} in {folder}"
    if not os.path.isdir(folder):
        raise LockError(["the folder does not exist on this host"], subject)
    problem = model_problem(model)
    if problem:
        raise LockError([problem], subject)
    taken, left_out = _select(_paths_below(folder), selection, subject)
    places = [os.path.join(folder, path) for path in taken]
    try:
        # hashlib releases the interpreter lock, so threads do hash at the same time.
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(hash_file, places))
        files = [LockFile(path, os.path.getsize(place), digest) for path, place, digest in zip(taken, places, digests)]
        problems = _content_problems(taken, dict(zip(taken, places)))
    except OSError as error:
        raise LockError([f"{error.filename} cannot be read: {error.strerror}"], subject) from error
    return _finish(
        Lock(model, content_revision(files), tuple(files), {"type": "folder"}), selection, problems, left_out, subject
    )


def lock_hub(model: str, revision: str, endpoint: str, token: str, selection: Selection) -> Locked:
    """Ask the Hub what a branch, tag or commit is now, and for the size and SHA-256 of each file at that commit.

    The Hub publishes SHA-256 for large files; small ones are fetched at the commit, compared with git's digest, hashed.
    Raises ImportError without the library huggingface_hub, LockError when the Hub refuses.
    """
    # Before the import: the library reads them once. A mirror cannot serve Xet, and small files need none.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    subject = f"model {model} at {revision} on {endpoint}"
    problem = model_problem(model)
    if problem:
        raise LockError([problem], subject)
    credentials: Any = token or False
    scratch = tempfile.mkdtemp(prefix="baremetal-llm-lock-")
    try:
        api = HfApi(endpoint=endpoint, token=credentials)
        commit = str(api.model_info(model, revision=revision).sha)
        entries = {
            entry.path: entry
            for entry in api.list_repo_tree(model, recursive=True, revision=commit)
            if isinstance(entry, RepoFile)
        }
        taken, left_out = _select(list(entries), selection, subject)
        files, places, problems = [], {}, []
        for path in taken:
            entry = entries[path]
            if entry.lfs is not None:
                files.append(LockFile(path, int(entry.lfs.size), str(entry.lfs.sha256)))
                continue
            place = api.hf_hub_download(model, path, revision=commit, cache_dir=scratch)
            content = _read(place)
            if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != entry.blob_id:
                problems.append(f"{path!r}: what was served is not what the commit holds (git digest {entry.blob_id})")
            files.append(LockFile(path, len(content), hashlib.sha256(content).hexdigest()))
            places[path] = place
        problems += _content_problems(taken, places)
    except LockError:
        raise
    except Exception as error:  # huggingface_hub raises its own, httpx's and the system's errors, in changing families
        raise LockError([_hub_text(error)], subject) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    source = {"type": "hub", "revision": revision}
    if endpoint.rstrip("/") != HUB_ENDPOINT:
        source["endpoint"] = endpoint.rstrip("/")
    return _finish(Lock(model, commit, tuple(files), source), selection, problems, left_out, subject)


def write_lock(path: str, lock: Lock, mode: int, check_mode: bool) -> tuple[bool, str, str]:
    """Write the lock file if it would differ. Returns whether it does, the text before and the text after."""
    after = dump_lock(lock)
    try:
        before = _read(path).decode("utf-8", "replace")
    except FileNotFoundError:
        before = ""
    if before != after and not check_mode:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_atomically(path, after.encode("utf-8"), mode)
    return before != after, before, after


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _paths_below(folder: str) -> list[str]:
    """Every file; a link to a file counts (the Hub's cache is made of them), a link to a folder does not."""
    paths = []
    for parent, _folders, names in os.walk(folder):
        for name in names:
            place = os.path.join(parent, name)
            if stat.S_ISREG(os.stat(place).st_mode if os.path.exists(place) else 0):
                paths.append(os.path.relpath(place, folder).replace(os.sep, "/"))
    return paths


def _select(paths: Sequence[str], selection: Selection, subject: str) -> tuple[list[str], tuple[str, ...]]:
    taken = sorted(path for path in paths if selection.takes(path))
    left_out = tuple(sorted(path for path in paths if not selection.takes(path)))
    problems = [
        text for path in taken for text in (path_problem(path) or format_problem(path, selection.allow_files),) if text
    ]
    problems += [
        f"{path!r} is named in allow_files but is not there" for path in selection.allow_files if path not in paths
    ]
    if not taken:
        problems.append(
            "no file matches the patterns"
            + (f"; there are {', '.join(left_out[:5])}" if left_out else ": there are no files at all")
        )
    elif not any(path.endswith((".safetensors", ".gguf")) or path in selection.allow_files for path in taken):
        problems.append("no weights among the files (*.safetensors; *.gguf needs its own pattern)")
    if problems:
        raise LockError(problems, subject)
    return taken, left_out


def _content_problems(paths: Sequence[str], places: dict[str, str]) -> list[str]:
    problems = []
    for path, place in places.items():
        problem = structure_problem(path, place)
        if problem:
            problems.append(f"{path!r}: {problem}")
        if is_index(path):
            problems += index_problems(path, _read(place), paths)
    return problems


def _finish(
    lock: Lock, selection: Selection, problems: Sequence[str], left_out: tuple[str, ...], subject: str
) -> Locked:
    try:
        # The same judge as on the hosts, so that no lock is written that they would refuse.
        checked = parse_lock(lock.as_dict(), selection.allow_files, subject)
    except LockError as error:
        problems = [*problems, *(text for text in error.problems if text not in problems)]
    if problems:
        raise LockError(problems, subject)
    return Locked(checked, left_out)


def _hub_text(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"the Hub could not be asked: {type(error).__name__}: {text[:400]}"
