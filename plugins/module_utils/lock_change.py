# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What changed between two locks of a model, for the person who is to agree to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class LockChange:
    """What is different; a pair is (before, after)."""

    values: dict[str, tuple[str, str]]
    files_added: tuple[str, ...]
    files_removed: tuple[str, ...]
    files_changed: tuple[str, ...]
    # Of the files that were added or changed.
    bytes_changed: int
    lines: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: {"before": before, "after": after} for name, (before, after) in self.values.items()},
            "files_added": list(self.files_added),
            "files_removed": list(self.files_removed),
            "files_changed": list(self.files_changed),
            "bytes_changed": self.bytes_changed,
        }


def compare_locks(before: Lock | None, after: Lock) -> LockChange:
    """What changes; without a lock before, everything does, and there are no lines to say so."""
    old = {} if before is None else {file.path: file for file in before.files}
    new = {file.path: file for file in after.files}
    added = tuple(sorted(set(new) - set(old)))
    removed = tuple(sorted(set(old) - set(new)))
    changed = tuple(sorted(path for path in set(new) & set(old) if new[path].sha256 != old[path].sha256))
    values = {
        name: (was, now)
        for name, now in _values(after).items()
        for was in [_values(before)[name] if before is not None else ""]
        if was != now
    }
    lines = [f"{name}: {was or '(none)'} -> {now or '(none)'}" for name, (was, now) in values.items()]
    lines += [f"+ {path} ({size_text(new[path].size)})" for path in added]
    lines += [f"- {path} ({size_text(old[path].size)})" for path in removed]
    for path in changed:
        sizes = size_text(old[path].size), size_text(new[path].size)
        lines.append(f"~ {path} ({sizes[0]} -> {sizes[1]})" if sizes[0] != sizes[1] else f"~ {path} ({sizes[0]})")
    bytes_changed = sum(new[path].size for path in (*added, *changed))
    if added or changed:
        lines.append(f"{size_text(bytes_changed)} in added and changed files")
    return LockChange(values, added, removed, changed, bytes_changed, tuple(lines) if before is not None else ())


def _values(lock: Lock) -> dict[str, str]:
    tensors = lock.facts.tensors
    return {
        "model": lock.model,
        "revision": lock.revision,
        "source": ", ".join(f"{key}={value}" for key, value in sorted(lock.source.items())),
        "license": lock.facts.license,
        "license_link": lock.facts.license_link,
        "gated": lock.facts.gated,
        "formats": ", ".join(lock.facts.formats),
        "parameters": str(tensors.all.parameters) if tensors is not None else "",
        "tensor_bytes": str(tensors.all.bytes) if tensors is not None else "",
        "custom_code": "yes" if lock.facts.config.get("auto_map") else "",
    }


def size_text(count: int) -> str:
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{count} bytes" if unit == 0 else f"{size:.3g} {_UNITS[unit]}"
