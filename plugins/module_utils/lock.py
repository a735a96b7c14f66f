# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock file of a model: which revision, the size and SHA-256 of every file of it, and what is known of the model.

It alone decides whether bytes are right. Sources, mirrors and earlier downloads are not trusted. What it says of the
model (licence, configuration, tensors) is for people and for planning; nothing is refused or accepted because of it.
"""

from __future__ import annotations

import fnmatch
import json
import math
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import TensorTotals, parse_totals

FORMAT_VERSION = 1
DEFAULT_ROOT = "/srv/models"

# What an engine may need and that cannot run code when it is loaded. Matched against the last part of a path.
ACCEPTED_NAMES = (
    "*.safetensors",
    "*.gguf",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.tiktoken",
    "tokenizer.model",
    "tokenizer.model.v*",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# Loading one of these runs code that is in it.
CODE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".py", ".so")

_MODEL_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[A-Za-z0-9]+)")
_FACT_TEXTS = ("license", "license_link", "gated")
_FACT_KEYS = {*_FACT_TEXTS, "formats", "config", "tensors"}
_KEYS = {"format_version", "model", "revision", "source", "total_bytes", "files", *_FACT_KEYS}
_FILE_KEYS = {"path", "size", "sha256"}
_FILE_FACT_KEYS = {"tensors", "gguf"}
# Keys that YAML reads as themselves without quotes; some short words are truth values to it.
_PLAIN_KEY = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[A-Za-z_][A-Za-z0-9_.-]*", re.IGNORECASE)


class LockError(ValueError):
    """A lock that must not be used; carries every problem that was found."""

    def __init__(self, problems: Sequence[str], subject: str = "lock") -> None:
        self.problems = tuple(problems)
        self.subject = subject
        super().__init__(f"{subject}: " + "; ".join(self.problems))


@dataclass(frozen=True)
class LockFile:
    """One file of a model."""

    path: str
    size: int
    sha256: str
    # Of weights, if their header was read.
    tensors: TensorTotals | None = None
    gguf: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {"path": self.path, "size": self.size, "sha256": self.sha256}
        if self.gguf:
            data["gguf"] = dict(sorted(self.gguf.items()))
        if self.tensors is not None:
            data["tensors"] = self.tensors.as_dict()
        return data


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model beside its files. Empty where its source did not say."""

    license: str = ""
    license_link: str = ""
    # How the Hub lets people in: "auto" or "manual", nothing for everybody.
    gated: str = ""
    # Formats of the weights, such as safetensors or gguf.
    formats: tuple[str, ...] = ()
    # config.json, without what says nothing about how the model computes.
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    # Of the weights that an engine loads when it is given the folder; nothing if that is not one model.
    tensors: TensorTotals | None = None

    def as_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = {key: getattr(self, key) for key in _FACT_TEXTS if getattr(self, key)}
        if self.formats:
            data["formats"] = list(self.formats)
        if self.tensors is not None:
            data["tensors"] = self.tensors.as_dict()
        if self.config:
            data["config"] = dict(sorted(self.config.items()))
        return data


@dataclass(frozen=True)
class Lock:
    """A model at one revision."""

    model: str
    revision: str
    files: tuple[LockFile, ...]
    # Where it was locked from: enough to lock it again, except that a folder is not named.
    source: Mapping[str, str] = field(default_factory=dict)
    facts: ModelFacts = field(default_factory=ModelFacts)

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def model_path(self, root: str = DEFAULT_ROOT) -> str:
        """Where a host keeps this revision."""
        return posixpath.join(root, self.model, self.revision)

    def as_dict(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "revision": self.revision,
            "source": dict(sorted(self.source.items())),
            **self.facts.as_dict(),
            "total_bytes": self.total_bytes,
            "files": [file.as_dict() for file in sorted(self.files, key=lambda file: file.path)],
        }


def model_problem(model: object) -> str | None:
    """Why a model's name cannot be used, or nothing. The name becomes two folders."""
    if isinstance(model, str):
        parts = model.split("/")
        if len(parts) == 2 and all(_MODEL_PART.fullmatch(part) and ".." not in part for part in parts):
            return None
    return f"model must be organisation/name of letters, digits, '.', '_' and '-', not {model!r}"


def path_problem(path: object) -> str | None:
    """Why a path must not be written below a model's folder, or nothing."""
    if not isinstance(path, str) or not path:
        return f"a file's path must be a text that is not empty, not {path!r}"
    shown = repr(path)
    if "\0" in path or not path.isprintable():
        return f"{shown}: a path must not hold NUL, line breaks or other control characters"
    if "\\" in path:
        return f"{shown}: a path must not hold a backslash"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return f"{shown}: a path must be relative to the model's folder"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return f"{shown}: a path must not hold empty parts, '.' or '..'"
    if any(part.startswith(".") for part in parts):
        return f"{shown}: names that begin with a dot are reserved"
    if any(len(part.encode()) > 255 for part in parts) or len(path.encode()) > 1024:
        return f"{shown}: a path is at most 1024 bytes long and each part of it at most 255"
    return None


def format_problem(path: str, allow_files: Sequence[str] = ()) -> str | None:
    """Why a file's format is refused, or nothing. `allow_files` are exact paths that a person vouched for."""
    if path in allow_files:
        return None
    name = posixpath.basename(path)
    if name.lower().endswith(CODE_SUFFIXES):
        return (
            f"{path!r}: loading this format can run code that is in it; convert it to safetensors, "
            "or name exactly this path in allow_files"
        )
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ACCEPTED_NAMES):
        return (
            f"{path!r}: neither weights in a safe format nor a tokenizer or configuration file; "
            "name exactly this path in allow_files to accept it"
        )
    return None


def collisions(paths: Sequence[str]) -> list[str]:
    """Paths that are one and the same to a file system that ignores case or Unicode's ways to write a letter."""
    spellings: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            place = "/".join(parts[:count])
            folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", place).casefold())
            spellings.setdefault(folded, set()).add(place)
    return [
        f"{' and '.join(repr(name) for name in sorted(names))} differ only in case or in how letters are encoded; "
        "a disk on which they are carried may keep only one of them"
        for _folded, names in sorted(spellings.items())
        if len(names) > 1
    ]


def missing_shards(paths: Sequence[str]) -> list[str]:
    """Shards that the names of other shards promise (model-00001-of-00003.safetensors)."""
    present = set(paths)
    missing = set()
    for path in paths:
        match = _SHARD.fullmatch(path)
        if match is None:
            continue
        count = int(match["count"])
        if count > 10000:
            continue
        for number in range(1, count + 1):
            shard = f"{match['stem']}-{number:05d}-of-{match['count']}{match['suffix']}"
            if shard not in present:
                missing.add(shard)
    return sorted(missing)


def index_problems(index_path: str, content: bytes, paths: Sequence[str]) -> list[str]:
    """What is wrong with an index of shards (`*.index.json`), given the paths of all files of the model."""
    try:
        weight_map = json.loads(content.decode("utf-8"))["weight_map"]
        shards = sorted({str(shard) for shard in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{index_path!r}: not a readable index of shards (weight_map is missing or the file is not JSON)"]
    folder = posixpath.dirname(index_path)
    return [
        f"{index_path!r} names the shard {shard!r}, which is not among the files"
        for shard in shards
        if posixpath.join(folder, shard) not in paths
    ]


def is_index(path: str) -> bool:
    return path.endswith(".safetensors.index.json")


def parse_lock(data: object, allow_files: Sequence[str] = (), subject: str = "lock") -> Lock:
    """Turn what a lock file holds into a Lock, or raise LockError with every problem at once."""
    if not isinstance(data, Mapping):
        raise LockError(
            [f"must be a mapping with the keys {', '.join(sorted(_KEYS))}, not {type(data).__name__}"], subject
        )
    problems: list[str] = []
    unknown = sorted(str(key) for key in data if key not in _KEYS)
    if unknown:
        problems.append(f"unknown keys {', '.join(unknown)}")
    version = data.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        problems.append(f"format_version must be {FORMAT_VERSION}, not {version!r}")
    model, revision = data.get("model"), data.get("revision")
    problem = model_problem(model)
    if problem:
        problems.append(problem)
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
        problems.append(
            f"revision must be a text of 40 lower-case hexadecimal digits (a commit, not a branch), not {revision!r}"
        )
    source = data.get("source", {})
    if not isinstance(source, Mapping) or not all(isinstance(value, str) for value in source.values()):
        problems.append("source must be a mapping of texts")
        source = {}
    files = _parse_files(data.get("files"), allow_files, problems)
    facts = _parse_facts(data, problems)
    total = data.get("total_bytes")
    if total is not None and (isinstance(total, bool) or not isinstance(total, int)):
        problems.append(f"total_bytes must be a whole number, not {total!r}")
    elif not problems and total is not None and total != sum(file.size for file in files):
        problems.append(
            f"total_bytes is {total}, but the sizes of the files add up to {sum(file.size for file in files)}"
        )
    if problems:
        raise LockError(problems, subject)
    return Lock(
        model=str(model),
        revision=str(revision),
        files=tuple(sorted(files, key=lambda file: file.path)),
        source={str(key): value for key, value in source.items()},
        facts=facts,
    )


def _parse_facts(data: Mapping[str, Any], problems: list[str]) -> ModelFacts:
    texts = {key: data.get(key, "") for key in _FACT_TEXTS}
    problems.extend(
        f"{key} must be a text, not {value!r}" for key, value in texts.items() if not isinstance(value, str)
    )
    formats = data.get("formats", [])
    if not isinstance(formats, (list, tuple)) or not all(isinstance(name, str) for name in formats):
        problems.append("formats must be a list of texts")
        formats = []
    return ModelFacts(
        **{key: str(value) for key, value in texts.items()},
        formats=tuple(formats),
        config=_parse_mapping("config", data.get("config", {}), problems),
        tensors=_parse_tensors("", data.get("tensors"), problems),
    )


def _parse_mapping(name: str, value: object, problems: list[str]) -> dict[str, Any]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    problems.append(f"{name} must be a mapping, not {type(value).__name__}")
    return {}


def _parse_tensors(where: str, value: object, problems: list[str]) -> TensorTotals | None:
    if value is None:
        return None
    try:
        return parse_totals(value)
    except ValueError as error:
        problems.append(f"{where}{error}")
        return None


def _parse_files(value: object, allow_files: Sequence[str], problems: list[str]) -> list[LockFile]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        problems.append("files must be a list that is not empty")
        return []
    files: list[LockFile] = []
    seen: set[str] = set()
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, Mapping) or set(entry) - _FILE_FACT_KEYS != _FILE_KEYS:
            problems.append(
                f"files, entry {number}: must have the keys path, sha256 and size, and beside them "
                f"only {' and '.join(sorted(_FILE_FACT_KEYS))}"
            )
            continue
        path, size, sha256 = entry["path"], entry["size"], entry["sha256"]
        problem = path_problem(path)
        if problem:
            problems.append(problem)
            continue
        path = str(path)
        problem = format_problem(path, allow_files)
        if problem:
            problems.append(problem)
        if path in seen:
            problems.append(f"{path!r} is listed twice")
        seen.add(path)
        size_is_right = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if not size_is_right:
            problems.append(f"{path!r}: size must be a whole number of bytes, 0 or more, not {size!r}")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            problems.append(f"{path!r}: sha256 must be a text of 64 lower-case hexadecimal digits, not {sha256!r}")
        elif size_is_right:
            tensors = _parse_tensors(f"{path!r}: ", entry.get("tensors"), problems)
            gguf = _parse_mapping(f"{path!r}: gguf", entry.get("gguf", {}), problems)
            files.append(LockFile(path, int(size), sha256, tensors, gguf))
    problems.extend(collisions(sorted(seen)))
    for path in sorted(seen):
        parent = posixpath.dirname(path)
        while parent:
            if parent in seen:
                problems.append(f"{parent!r} is a file, so {path!r} cannot be below it")
            parent = posixpath.dirname(parent)
    problems.extend(f"the shard {shard!r} is missing" for shard in missing_shards(sorted(seen)))
    return files


def dump_lock(lock: Lock, form: str = "yaml") -> str:
    """The text of a lock file: the same for the same lock, one line per fact, so that a change reads well in a diff."""
    data = lock.as_dict()
    if form == "json":
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    comment = "# Written by baremetal.llm.model_lock. Do not edit: lock the model again instead."
    return "\n".join(["---", comment, *_yaml(data)]) + "\n"


def form_of(path: str) -> str:
    """How a lock file is written: as its name says, and as YAML if that says nothing."""
    return "json" if path.lower().endswith(".json") else "yaml"


def read_lock(path: str, allow_files: Sequence[str] = ()) -> Lock:
    """Read and check a lock file. Raises LockError for everything that is wrong with it, its absence included."""
    return parse_lock(load_lock(path), allow_files, f"lock file {path}")


def load_lock(path: str) -> object:
    """What a lock file holds, not checked. Raises LockError if it cannot be read."""
    subject = f"lock file {path}"
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except OSError as error:
        raise LockError([f"cannot be read: {error.strerror}"], subject) from error
    except UnicodeDecodeError as error:
        raise LockError(["is not text in UTF-8"], subject) from error
    return _load(text, form_of(path), subject)


def _load(text: str, form: str, subject: str) -> object:
    if form == "json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LockError([f"is not JSON: {error}"], subject) from error
    import yaml  # lazily: hosts need not have it

    try:
        # The loader in C is ten times faster, and not everywhere there.
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise LockError(["is not YAML: " + " ".join(str(error).split())], subject) from error


def _yaml(data: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of YAML that every reader of YAML 1.1 and 1.2 understands alike: texts are always quoted.

    Forty digits without a letter, or 12e34…, would otherwise be read as a number.
    """
    for key, value in data.items():
        name = indent + (key if _PLAIN_KEY.fullmatch(key) else _quote(key)) + ":"
        if isinstance(value, Mapping) and value and not _is_count(value):
            yield name
            yield from _yaml(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, Mapping) and item for item in value):
            yield name
            for item in value:
                lines = list(_yaml(item, indent + "    "))
                yield f"{indent}  - {lines[0].lstrip()}"
                yield from lines[1:]
        else:
            yield f"{name} {_flow(value)}"


def _is_count(value: Mapping[str, Any]) -> bool:
    """Whether a mapping is so short that a line for each key would be too much, such as the totals of a data type."""
    return len(value) <= 3 and all(isinstance(item, int) and not isinstance(item, bool) for item in value.values())


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quote(str(key))}: {_flow(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, float) and math.isfinite(value):
        # YAML 1.1 takes a number for one only if it has a point.
        mantissa, exponent, power = repr(value).partition("e")
        return mantissa + ("" if "." in mantissa else ".0") + exponent + power
    return _quote(value) if isinstance(value, str) else json.dumps(value, allow_nan=False)


def _quote(text: str) -> str:
    """A JSON string is a YAML string too, if nothing in it is taken for a line break or refused as unprintable."""
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(
        sign if sign.isprintable() else (f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}")
        for sign in quoted
    )
