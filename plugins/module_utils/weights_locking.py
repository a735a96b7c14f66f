# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the lock of a model: choose its files, learn their digests, look into their headers, refuse what is not right.

Where the files are is an `Origin`: a folder or a web server (lock_origins), the Hub (lock_hub), a bucket (lock_s3).
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils.gguf_header import read_gguf_header
from ansible_collections.baremetal.llm.plugins.module_utils.lock import (
    ACCEPTED_NAMES,
    CODE_SUFFIXES,
    Lock,
    LockError,
    LockFile,
    ModelFacts,
    collisions,
    dump_lock,
    form_of,
    format_problem,
    load_lock,
    model_problem,
    parse_lock,
    path_problem,
)
from ansible_collections.baremetal.llm.plugins.module_utils.lock_change import LockChange, compare_locks, size_text
from ansible_collections.baremetal.llm.plugins.module_utils.lock_facts import (
    config_facts,
    custom_code,
    front_matter,
    misplaced_tensors,
    read_index,
    total,
    weights_of_the_model,
)
from ansible_collections.baremetal.llm.plugins.module_utils.lock_hub import licence_of
from ansible_collections.baremetal.llm.plugins.module_utils.lock_origins import Listing, Offered, Origin
from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import (
    HeaderError,
    WeightsHeader,
    read_safetensors_header,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import write_atomically

# What an engine loads from a safetensors model: all that is accepted, but no GGUF, of which a repository often holds a
# dozen quantizations. Matched against the last part of each path.
DEFAULT_PATTERNS = tuple(name for name in ACCEPTED_NAMES if name != "*.gguf")
# Files that are looked into and not only hashed; an index of a thousand shards has some 10 MB.
_LARGEST_READ = 64 * 1024 * 1024
_POINTER = b"version https://git-lfs.github.com/spec/v1"
_POINTER_SIZE = 1024


@dataclass(frozen=True)
class Selection:
    """Which files of a model belong into its lock."""

    patterns: tuple[str, ...] = DEFAULT_PATTERNS
    exclude: tuple[str, ...] = ()
    allow_files: tuple[str, ...] = ()

    def takes(self, path: str) -> bool:
        if path in self.allow_files:
            return True
        # What hides is not wanted; what leads out of the folder is no hidden file, and is to be refused.
        if any(part.startswith(".") and part not in (".", "..") for part in path.split("/")):
            return False
        return _matches(path, self.patterns) and not _matches(path, self.exclude)


@dataclass(frozen=True)
class Locked:
    lock: Lock
    left_out: tuple[str, ...]
    # What is no reason to refuse the model, and that a person should know.
    notes: tuple[str, ...] = ()


@dataclass
class _Inspected:
    """What was learned of one file."""

    path: str
    size: int = 0
    sha256: str = ""
    content: bytes | None = None
    header: WeightsHeader | None = None
    problems: list[str] = field(default_factory=list)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """A pattern with a slash is about the whole path, one without about the last part of it."""
    return any(
        fnmatch.fnmatchcase(path if "/" in pattern else posixpath.basename(path), pattern) for pattern in patterns
    )


def content_revision(files: Sequence[LockFile]) -> str:
    """The revision of a model that has no commit: the same content has the same one, wherever it lies."""
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def lock_model(model: str, origin: Origin, selection: Selection) -> Locked:
    """Raises LockError with everything that is wrong with the model."""
    subject = f"model {model} in {origin.label}" if model not in origin.label else f"model {origin.label}"
    problem = model_problem(model)
    if problem:
        raise LockError([problem], subject)
    try:
        listing = origin.list()
        taken, left_out = _select(list(listing.files), selection, subject)
        with ThreadPoolExecutor(origin.parallel) as pool:
            jobs = [pool.submit(_inspect, origin, path, listing.files[path]) for path in taken]
            try:
                inspected = [job.result() for job in jobs]
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise
        card = _card(origin, listing)
    except LockError as error:
        raise LockError(error.problems, subject) from error
    except OSError as error:
        raise LockError([f"{error.filename} cannot be read: {error.strerror}"], subject) from error
    problems = [text for file in inspected for text in file.problems]
    headers = {file.path: file.header for file in inspected if file.header is not None}
    indexes, more = _check_indexes(inspected, headers, listing)
    facts, notes, others = _facts(inspected, headers, indexes, listing, card)
    files = tuple(_lock_file(file) for file in inspected)
    revision = listing.revision or (content_revision(files) if not problems else "0" * 40)
    lock = Lock(model, revision, files, listing.source, facts)
    return _finish(lock, selection, [*problems, *more, *others], left_out, notes, subject)


def write_lock(path: str, lock: Lock, mode: int, check_mode: bool) -> tuple[bool, str, str, LockChange]:
    """Write the lock file if it would differ. Returns whether it does, the text before and after, and the change."""
    after = dump_lock(lock, form_of(path))
    before, old = "", None
    if os.path.lexists(path):
        with open(path, encoding="utf-8", errors="replace") as stream:
            before = stream.read()
        old = _old_lock(path)
    change = compare_locks(old, lock)
    if before != after and not check_mode:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_atomically(path, after.encode("utf-8"), mode)
    return before != after, before, after, change


def _old_lock(path: str) -> Lock | None:
    """The lock that is to be replaced, or nothing for one that cannot be used. Raises LockError for anything else."""
    try:
        data = load_lock(path)
    except LockError:
        data = ""
    if data is None:
        return None
    if not isinstance(data, Mapping) or not {"format_version", "files"} & set(data):
        problem = "there is a file that is not a lock file, which is not overwritten: remove it, or correct path"
        raise LockError([problem], path)
    files = data.get("files")
    paths = [str(entry.get("path")) for entry in files if isinstance(entry, Mapping)] if isinstance(files, list) else []
    try:
        # What it was allowed to hold does not matter any more.
        return parse_lock(data, paths)
    except LockError:
        return None


def _inspect(origin: Origin, path: str, offered: Offered) -> _Inspected:
    """Hash a file unless the origin did, keep it if it is to be looked into, read the header of weights."""
    file = _Inspected(path, offered.size if offered.size >= 0 else origin.size(path), offered.sha256)
    keep = _is_read(path)
    if keep and file.size > _LARGEST_READ:
        file.problems.append(f"{path!r} has {file.size} bytes, more than such a file can have")
        file.sha256 = "0" * 64
    elif keep or not offered.sha256:
        _hash(origin, file, offered, keep)
    read_header = {".safetensors": read_safetensors_header, ".gguf": read_gguf_header}.get(posixpath.splitext(path)[1])
    if read_header is not None and not file.problems:
        try:
            file.header = read_header(
                lambda first, end: b"".join(bytes(part) for part in origin.chunks(path, first, end)), file.size
            )
        except HeaderError as error:
            file.problems.append(f"{path!r}: {error}")
    return file


def _hash(origin: Origin, file: _Inspected, offered: Offered, keep: bool) -> None:
    digest, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % file.size)
    content = bytearray()
    for part in origin.chunks(file.path, 0, file.size):
        digest.update(part)
        if offered.blob_id:
            blob.update(part)
        if keep or file.size <= _POINTER_SIZE:
            content += part
    file.sha256 = digest.hexdigest()
    file.content = bytes(content) if keep else None
    if offered.sha256 and file.sha256 != offered.sha256:
        file.problems.append(
            f"{file.path!r}: what was served is not what is listed (SHA-256 {offered.sha256}, got {file.sha256})"
        )
    elif offered.blob_id and not offered.sha256 and blob.hexdigest() != offered.blob_id:
        file.problems.append(
            f"{file.path!r}: what was served is not what the commit holds (git digest {offered.blob_id})"
        )
    elif content.startswith(_POINTER):
        file.problems.append(
            f"{file.path!r} is a pointer of Git LFS and not the file itself; run `git lfs pull` where it comes from"
        )


def _is_read(path: str) -> bool:
    return path == "config.json" or path.endswith(".index.json")


def _lock_file(file: _Inspected) -> LockFile:
    header = file.header
    return LockFile(
        file.path,
        file.size,
        file.sha256,
        header.totals if header is not None and header.totals.dtypes else None,
        header.facts if header is not None else {},
    )


def _card(origin: Origin, listing: Listing) -> Mapping[str, object]:
    """The metadata of the model's README, if the origin did not tell the licence itself."""
    readme = listing.files.get("README.md")
    if listing.license or readme is None:
        return {}
    size = readme.size if readme.size >= 0 else origin.size("README.md")
    if not 0 < size <= _LARGEST_READ:
        return {}
    return front_matter(b"".join(bytes(part) for part in origin.chunks("README.md", 0, size)))


def _check_indexes(
    inspected: Sequence[_Inspected], headers: Mapping[str, WeightsHeader], listing: Listing
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The shards of each tensor by index, and what is wrong with them."""
    taken = {file.path for file in inspected}
    indexes, problems = {}, []
    for file in inspected:
        if not file.path.endswith(".index.json") or file.content is None or file.problems:
            continue
        safetensors = file.path.endswith(".safetensors.index.json")
        shard_of = read_index(file.content)
        if shard_of is None:
            if safetensors:
                problems.append(f"{file.path!r}: not a readable index of shards (weight_map is missing)")
            continue
        folder = posixpath.dirname(file.path)
        shards = {shard: posixpath.join(folder, shard) for shard in sorted(set(shard_of.values()))}
        # An index of files that are not wanted, such as the same weights as pickles, is only a text.
        if not safetensors and not taken & set(shards.values()):
            continue
        for shard, path in shards.items():
            if path not in listing.files:
                problems.append(
                    f"{file.path!r} names the shard {shard!r}, which is not there: the upload or copy is not complete"
                )
            elif path not in taken:
                problems.append(
                    f"{file.path!r} names the shard {shard!r}, which patterns and exclude leave out: take it, or "
                    "exclude the index too"
                )
        problems += misplaced_tensors(file.path, shard_of, headers)
        indexes[file.path] = shard_of
    return indexes, problems


def _facts(
    inspected: Sequence[_Inspected],
    headers: Mapping[str, WeightsHeader],
    indexes: Mapping[str, Mapping[str, str]],
    listing: Listing,
    card: Mapping[str, object],
) -> tuple[ModelFacts, list[str], list[str]]:
    notes, problems, config = [], [], {}
    for file in inspected:
        if file.path == "config.json" and file.content is not None:
            try:
                config = config_facts(file.content)
            except ValueError as error:
                problems.append(f"'config.json' cannot be read: {error}")
    code = [name for name in custom_code(config) if name not in {file.path for file in inspected}]
    if code:
        notes.append(
            f"config.json asks for code of the model's own ({', '.join(code)}), which is not in the lock: engines that "
            "know the architecture do without. Read that code before you name it in allow_files."
        )
    loaded = weights_of_the_model(headers, indexes)
    beside = [path for path in headers if "/" not in path and path not in loaded and path.endswith(".safetensors")]
    if loaded and beside:
        size = sum(file.size for file in inspected if file.path in beside)
        notes.append(
            f"{', '.join(sorted(beside))} ({size_text(size)}) in the lock beside the weights that an engine loads; "
            "name in exclude what is not wanted"
        )
    licence, link = listing.license, listing.license_link
    if not licence:
        licence, link = licence_of(card)
    if not licence:
        licence = next((str(item.facts["license"]) for item in headers.values() if item.facts.get("license")), "")
    formats = {_format(file.path) for file in inspected} - {""}
    facts = ModelFacts(
        license=licence,
        license_link=link,
        gated=listing.gated,
        formats=tuple(sorted(formats)),
        config=config,
        tensors=total([headers[path] for path in loaded]),
    )
    return facts, notes, problems


def _format(path: str) -> str:
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in (".safetensors", ".gguf"):
        return suffix[1:]
    return "pickle" if suffix in CODE_SUFFIXES and suffix not in (".py", ".so") else ""


def _select(paths: Sequence[str], selection: Selection, subject: str) -> tuple[list[str], tuple[str, ...]]:
    taken = sorted(path for path in paths if selection.takes(path))
    left_out = tuple(sorted(path for path in paths if not selection.takes(path)))
    problems = [
        text for path in taken for text in (path_problem(path) or format_problem(path, selection.allow_files),) if text
    ]
    problems += collisions(taken)
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


def _finish(
    lock: Lock,
    selection: Selection,
    problems: Sequence[str],
    left_out: tuple[str, ...],
    notes: Sequence[str],
    subject: str,
) -> Locked:
    try:
        # The same judge as on the hosts, so that no lock is written that they would refuse.
        checked = parse_lock(lock.as_dict(), selection.allow_files, subject)
    except LockError as error:
        problems = [*problems, *(text for text in error.problems if text not in problems)]
    if problems:
        raise LockError(problems, subject)
    return Locked(checked, left_out, tuple(notes))
