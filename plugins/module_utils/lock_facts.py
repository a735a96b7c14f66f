# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a model's own files say about it: configuration, licence, index of shards, and which weights make the model."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import WeightsHeader
from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import TensorTotals, add_up

# Names of labels, ids of tokens, where the file came from: they grow long, change often, and nobody plans by them.
_NOT_ABOUT_COMPUTING = re.compile(
    r"_name_or_path|name_or_path|transformers_version|id2label|label2id|task_specific_params|_commit_hash|"
    r".*_token_ids?|.*_token_index|bad_words_ids|suppress_tokens"
)
_LONGEST_LIST = 1024
_LONGEST_TEXT = 1000
_SHARD = re.compile(r"(?P<stem>.*)-\d{5}-of-\d{5}\.gguf")
_FRONT_MATTER = re.compile(r"\A---\r?\n(?P<text>.*?)\r?\n---\s", re.DOTALL)


def config_facts(content: bytes) -> dict[str, Any]:
    """config.json without what says nothing about how the model computes. Raises ValueError if it is no mapping."""
    try:
        data = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError("it is not a mapping")
    kept = _kept(data)
    return kept if isinstance(kept, dict) else {}


def _kept(value: Any, depth: int = 0) -> Any:
    """The value, or Ellipsis for one that is left out."""
    if isinstance(value, dict):
        if depth > 6:
            return ...
        items = {
            key: _kept(item, depth + 1)
            for key, item in sorted(value.items())
            if not _NOT_ABOUT_COMPUTING.fullmatch(key) and _is_text(key)
        }
        return {key: item for key, item in items.items() if item is not ...}
    if isinstance(value, list):
        elements = [_kept(item, depth + 1) for item in value] if len(value) <= _LONGEST_LIST and depth <= 6 else [...]
        return ... if ... in elements else elements
    if isinstance(value, float) and not math.isfinite(value):
        # Python reads NaN and Infinity, other readers of JSON do not.
        return ...
    if isinstance(value, str) and not _is_text(value):
        return ...
    return value


def _is_text(text: str) -> bool:
    # Half of a surrogate pair can be written in JSON and cannot be encoded.
    return len(text) <= _LONGEST_TEXT and not any("\ud800" <= sign <= "\udfff" for sign in text)


def custom_code(config: Mapping[str, Any]) -> list[str]:
    """Files of code that config.json asks an engine to run."""
    mapping = config.get("auto_map")
    if not isinstance(mapping, Mapping):
        return []
    names = [name for value in mapping.values() for name in (value if isinstance(value, list) else [value])]
    return sorted({str(name).rpartition("--")[2].partition(".")[0] + ".py" for name in names if name})


def front_matter(content: bytes) -> dict[str, Any]:
    """The metadata at the top of a README.md, or nothing."""
    match = _FRONT_MATTER.match(content.decode("utf-8", "replace"))
    if match is None:
        return {}
    try:
        import yaml  # lazily: hosts need not have it

        data = yaml.safe_load(match["text"])
    except (ImportError, ValueError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}


def read_index(content: bytes) -> dict[str, str] | None:
    """The shard of each tensor, or nothing if this is no index of shards."""
    try:
        weight_map = json.loads(content.decode("utf-8"))["weight_map"]
        return {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def misplaced_tensors(index_path: str, shard_of: Mapping[str, str], headers: Mapping[str, WeightsHeader]) -> list[str]:
    """Tensors that an index places in a shard whose header does not have them: shards of different models, mixed."""
    folder = posixpath.dirname(index_path)
    missing: dict[str, list[str]] = {}
    for name, shard in shard_of.items():
        header = headers.get(posixpath.join(folder, shard))
        if header is not None and name not in header.names:
            missing.setdefault(shard, []).append(name)
    return [
        f"{index_path!r} places {len(names)} tensors in the shard {shard!r} that are not in it, such as {names[0]!r}"
        for shard, names in sorted(missing.items())
    ]


def weights_of_the_model(headers: Mapping[str, WeightsHeader], indexes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The files that an engine loads when it is given the folder; nothing if there are several models in it."""
    top = [path for path in sorted(headers) if "/" not in path]
    safetensors = [path for path in top if path.endswith(".safetensors")]
    index = indexes.get("model.safetensors.index.json")
    if index is None and len(indexes) == 1:
        index = next((shards for path, shards in indexes.items() if "/" not in path), None)
    if index is not None:
        named = set(index.values())
        return [path for path in safetensors if path in named]
    if safetensors:
        return ["model.safetensors"] if "model.safetensors" in safetensors else safetensors
    groups: dict[str, list[str]] = {}
    for path in sorted(headers):
        # What sees and hears is beside the model, and loaded by an option of its own.
        if path.endswith(".gguf") and headers[path].facts.get("architecture") != "clip":
            match = _SHARD.fullmatch(path)
            groups.setdefault(match["stem"] if match else path, []).append(path)
    return next(iter(groups.values())) if len(groups) == 1 else []


def total(headers: Sequence[WeightsHeader]) -> TensorTotals | None:
    parts = [part for header in headers for part in header.totals.dtypes]
    return add_up(parts) if parts else None
