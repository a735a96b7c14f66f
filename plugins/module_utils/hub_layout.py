# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a mirror answers in the Hugging Face Hub's URL layout: API documents and nginx locations, made from locks.

Nothing here reads or writes a disk; the same locks give the same bytes. Addresses and headers are those that the
client library `huggingface_hub` 2.4 asks for and reads (`file_download.get_hf_file_metadata`,
`utils._http.hf_raise_for_status`, `hf_api.RepoFile`, `hf_api.ModelInfo`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockError, LockFile, parse_lock
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import PIECES_NAME

# The branch that is meant when a client names none (`huggingface_hub.constants.DEFAULT_REVISION`).
DEFAULT_BRANCH = "main"
# nginx variable that is "recursive" or "top", from the argument `recursive` of a request for a tree.
TREE_VARIABLE = "$baremetal_llm_mirror_tree"
GONE_LOCATION = "@baremetal_llm_mirror_gone"
LOCATIONS_NAME = "locations.conf"
INDEX_NAME = "index.txt"

_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What nginx takes literally in a path, whatever stands before or behind it.
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_RELEASE = "@release@"


@dataclass(frozen=True)
class Mirrored:
    """One revision of a model that is to be served, and the branches that mean it."""

    lock: Lock
    branches: tuple[str, ...] = ()
    # Whether a manifest of its pieces (module_utils/weights_pieces.py) lies beside its files.
    has_pieces: bool = False

    @property
    def revisions(self) -> tuple[str, ...]:
        """Every name that a client may use for it, the commit first."""
        return (self.lock.revision, *self.branches)

    def __str__(self) -> str:
        return f"{self.lock.model} at {self.lock.revision}"


@dataclass(frozen=True)
class Layout:
    """A release: relative path -> content. Its digest, 16 hexadecimal digits, changes with everything in it."""

    digest: str
    files: Mapping[str, bytes]


def parse_models(specifications: Sequence[Mapping[str, Any]]) -> tuple[list[Mirrored], list[str]]:
    """The models that are to be served, sorted, and everything that is wrong with their description.

    Each specification has `lock` (the content of a lock file), `branches` and `allow_files`.
    """
    models: list[Mirrored] = []
    problems: list[str] = []
    branches: dict[tuple[str, str], str] = {}
    for number, specification in enumerate(specifications, 1):
        where = f"models, entry {number}"
        try:
            lock = parse_lock(specification.get("lock"), list(specification.get("allow_files") or []), where)
        except LockError as error:
            problems += [f"{where}: {text}" for text in error.problems]
            continue
        names = tuple(dict.fromkeys(str(name) for name in specification.get("branches") or []))
        for name in names:
            if not _BRANCH.fullmatch(name) or ".." in name or _COMMIT.fullmatch(name):
                problems.append(
                    f"{where} ({lock.model}): {name!r} cannot be a branch: letters, digits, '.', '_' and '-', "
                    "and not 40 hexadecimal digits, which are a commit"
                )
            other = branches.setdefault((lock.model, name), lock.revision)
            if other != lock.revision:
                problems.append(
                    f"{where} ({lock.model}): the branch {name!r} is {other} already; "
                    f"it cannot be {lock.revision} as well"
                )
        if lock.model.startswith("api/"):
            problems.append(f"{where} ({lock.model}): models of 'api' would stand where the Hub's API is")
        if any((lock.model, lock.revision) == (model.lock.model, model.lock.revision) for model in models):
            problems.append(f"{where} ({lock.model}): revision {lock.revision} is listed twice")
        models.append(Mirrored(lock, names))
    return sorted(models, key=lambda model: (model.lock.model, model.lock.revision)), problems


def folder_problem(option: str, path: str) -> str | None:
    """Why a folder's path cannot stand in a configuration of nginx, or nothing."""
    if _PLAIN_PATH.fullmatch(path) and ".." not in path:
        return None
    return f"{option} must be an absolute path of letters, digits, '.', '_' and '-', not {path!r}"


def build(models: Sequence[Mirrored], root: str, release_root: str) -> Layout:
    """Everything that nginx needs beside the weights themselves, which stay at `<root>/<model>/<revision>`.

    The locations name files of the release by absolute path, below `<release_root>/<digest>`.
    """
    files: dict[str, bytes] = {}
    text = [
        "# Made by the module baremetal.llm.hub_layout from lock files; changes here are lost.",
        "# Exact names only: no regular expressions, and what is not listed does not exist.",
    ]
    by_name: dict[str, list[Mirrored]] = {}
    for model in models:
        by_name.setdefault(model.lock.model, []).append(model)
    for name, revisions in sorted(by_name.items()):
        files[f"api/{name}/refs.json"] = _json(references(revisions))
        for model in revisions:
            for document, content in documents(model).items():
                files[f"api/{name}/{model.lock.revision}/{document}"] = _json(content)
        text += _model_locations(name, revisions, root)
    files[INDEX_NAME] = "".join(_index(models)).encode("utf-8")
    locations = "\n".join(text) + "\n"
    digest = hashlib.sha256(f"{release_root}\n{locations}".encode())
    for path, data in sorted(files.items()):
        digest.update(f"{path} {len(data)}\n".encode() + data)
    release = digest.hexdigest()[:16]
    files[LOCATIONS_NAME] = locations.replace(_RELEASE, f"{release_root}/{release}").encode("utf-8")
    return Layout(release, files)


def _index(models: Sequence[Mirrored]) -> Iterable[str]:
    """For people: what is served, one line each."""
    for model in models:
        lock = model.lock
        yield from (f"{lock.model} {branch} is {lock.revision}\n" for branch in model.branches)
        if model.has_pieces:
            yield f"{lock.model} {lock.revision} has a manifest of its pieces\n"
        yield from (f"{lock.model} {lock.revision} {file.sha256} {file.size} {file.path}\n" for file in lock.files)


# --- API documents


def documents(model: Mirrored) -> dict[str, Any]:
    """What the API says of one revision: file name -> document."""
    tree = _tree(model.lock.files)
    made: dict[str, Any] = {"info.json": info(model.lock)}
    for folder in tree:
        below = [entry for other in tree if _is_within(other, folder) for entry in tree[other]]
        made[_tree_name(folder, "recursive")] = sorted(below, key=lambda entry: str(entry["path"]))
        made[_tree_name(folder, "top")] = tree[folder]
    return made


def info(lock: Lock) -> dict[str, Any]:
    """`/api/models/<model>/revision/<revision>`. What a lock does not know is left out."""
    facts = lock.facts
    document: dict[str, Any] = {
        "id": lock.model,
        "modelId": lock.model,
        "author": lock.model.partition("/")[0],
        "sha": lock.revision,
        "private": False,
        # Of this server: whether its owner may let everybody in who reaches it, the licence says.
        "gated": False,
        "disabled": False,
        "tags": [f"license:{facts.license.partition(':')[0]}"] if facts.license else [],
        "siblings": [
            {
                "rfilename": file.path,
                "size": file.size,
                "blobId": pointer_id(file),
                "lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": len(_pointer(file))},
            }
            for file in lock.files
        ],
        "usedStorage": lock.total_bytes,
    }
    config = {key: facts.config[key] for key in ("architectures", "model_type") if key in facts.config}
    if config:
        document["config"] = config
    if facts.tensors is not None and "safetensors" in facts.formats:
        by_type = facts.tensors.as_dict().get("dtypes", {})
        document["safetensors"] = {
            "parameters": {name: entry["parameters"] for name, entry in by_type.items()},
            "total": facts.tensors.as_dict()["parameters"],
        }
    return document


def references(models: Sequence[Mirrored]) -> dict[str, Any]:
    """`/api/models/<model>/refs`."""
    branches = {branch: model.lock.revision for model in models for branch in model.branches}
    return {
        "branches": [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in sorted(branches.items())
        ],
        "tags": [],
        "converts": [],
    }


def _pointer(file: LockFile) -> bytes:
    """What git holds in place of a large file (Git LFS specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n".encode()


def _object_id(kind: str, content: bytes) -> str:
    """The name of a git object: SHA-1 of its kind, length and content."""
    # git's names, not a protection.
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def pointer_id(file: LockFile) -> str:
    """The git object that stands for a file. Every file is offered as a large one, since locks know SHA-256 only."""
    return _object_id("blob", _pointer(file))


def _tree(files: Sequence[LockFile]) -> dict[str, list[dict[str, Any]]]:
    """Folder -> entries directly in it, sorted by path. The folder of the model itself is ''."""
    folders: dict[str, list[dict[str, Any]]] = {"": []}
    for file in files:
        parts = file.path.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault("/".join(parts[:depth]), [])
        folders["/".join(parts[:-1])].append(
            {
                "type": "file",
                "oid": pointer_id(file),
                "size": file.size,
                "lfs": {"oid": file.sha256, "size": file.size, "pointerSize": len(_pointer(file))},
                "path": file.path,
            }
        )
    # The deepest first, since a folder's name depends on what is in it.
    for folder in sorted(folders, key=lambda path: path.count("/"), reverse=True):
        if folder:
            parent = folder.rpartition("/")[0]
            oid = _tree_id(folders[folder])
            folders[parent].append({"type": "directory", "oid": oid, "size": 0, "path": folder})
    return {folder: sorted(entries, key=lambda entry: str(entry["path"])) for folder, entries in folders.items()}


def _tree_id(entries: Sequence[Mapping[str, Any]]) -> str:
    """The name of the git tree of a folder. git sorts folders as if their names ended in a slash."""
    lines = []
    for entry in entries:
        name = str(entry["path"]).rpartition("/")[2].encode()
        is_folder = entry["type"] == "directory"
        line = (b"40000 " if is_folder else b"100644 ") + name + b"\0" + bytes.fromhex(str(entry["oid"]))
        lines.append((name + b"/" if is_folder else name, line))
    return _object_id("tree", b"".join(line for _key, line in sorted(lines)))


def _is_within(inner: str, outer: str) -> bool:
    return not outer or inner == outer or inner.startswith(outer + "/")


def _tree_name(folder: str, depth: str) -> str:
    place = hashlib.sha256(folder.encode()).hexdigest()[:16] + "-" if folder else ""
    return f"tree-{place}{depth}.json"


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


# --- Locations


def quoted(text: str) -> str:
    """A name as nginx reads it: in double quotes, where only the quote and the backslash mean something."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _refusal(code: str, message: str, commit: str = "", indent: str = "    ") -> list[str]:
    """A 404 from which the client library knows what is missing."""
    lines = [f"add_header X-Error-Code {code} always;", f'add_header X-Error-Message "{message}" always;']
    if commit:
        # The library remembers that this commit has no such file.
        lines.append(f"add_header X-Repo-Commit {commit} always;")
    lines.append(f'return 404 \'{{"error":"{message}"}}\';')
    return [indent + line for line in lines]


def _document(name: str, path: str) -> str:
    return f"location = {quoted(name)} {{ alias {_RELEASE}/api/{path}; }}"


def _model_locations(name: str, models: Sequence[Mirrored], root: str) -> list[str]:
    api = f"/api/models/{name}"
    lines = ["", f"# {name}"]
    for place in (f"/{name}/", f"{api}/"):
        lines += [f"location ^~ {quoted(place)} {{", *_refusal("RevisionNotFound", "Revision not found"), "}"]
    default = next((model for model in models if DEFAULT_BRANCH in model.branches), None)
    if default is None:
        lines += [f"location = {quoted(api)} {{", *_refusal("RevisionNotFound", "Revision not found"), "}"]
    else:
        lines.append(_document(api, f"{name}/{default.lock.revision}/info.json"))
    lines.append(_document(f"{api}/refs", f"{name}/refs.json"))
    for model in models:
        commit = model.lock.revision
        folders = sorted(_tree(model.lock.files))
        for revision in model.revisions:
            lines.append(_document(f"{api}/revision/{revision}", f"{name}/{commit}/info.json"))
            for folder in folders:
                tree = _tree_name(folder, TREE_VARIABLE)
                place = f"{api}/tree/{revision}" + (f"/{folder}" if folder else "")
                lines.append(_document(place, f"{name}/{commit}/{tree}"))
            lines += [
                f"location ^~ {quoted(f'{api}/tree/{revision}/')} {{",
                *_refusal("EntryNotFound", "Entry not found", commit),
                "}",
            ]
            lines += _file_locations(model, revision, root)
    return lines


def _file_locations(model: Mirrored, revision: str, root: str) -> list[str]:
    """The files of a revision under one of its names. Each takes its place on the disk from the location around it, so
    that no name of a file is ever read as anything but a name."""
    lock = model.lock
    prefix = f"/{lock.model}/resolve/{revision}/"
    lines = [
        f"location ^~ {quoted(prefix)} {{",
        f"    alias {lock.model_path(root)}/;",
        *_refusal("EntryNotFound", "Entry not found", lock.revision),
    ]
    for file in lock.files:
        etag = f"'\"{file.sha256}\"'"
        lines += [
            f"    location = {quoted(prefix + file.path)} {{",
            "        default_type application/octet-stream;",
            f"        add_header ETag {etag};",
            f"        add_header X-Linked-Etag {etag};",
            f"        add_header X-Linked-Size {file.size};",
            f"        add_header X-Repo-Commit {lock.revision};",
            "    }",
        ]
    if model.has_pieces:
        # Not of the lock, and so without a digest: what is in it is believed by nobody.
        lines += [
            f"    location = {quoted(prefix + PIECES_NAME)} {{",
            "        default_type application/metalink4+xml;",
            f"        add_header X-Repo-Commit {lock.revision};",
            "        etag on;",
            "    }",
        ]
    return [*lines, "}"]
