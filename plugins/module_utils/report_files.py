# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report on disk: a page, and beside it the same as data, replaced together and compared with what was there.

A report is a plain mapping. What of it counts as a change is up to whoever makes it: `comparable`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, cast

Comparable = Callable[[Mapping[str, Any]], "dict[str, Any]"]
Render = Callable[[Mapping[str, Any]], str]


def as_json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Outcome:
    """What became of a report on disk. `diff` is as Ansible shows it."""

    changed: bool
    page: Path
    data: Path
    diff: dict[str, str]


def publish(
    report: Mapping[str, Any], render: Render, comparable: Comparable, page: Path, mode: int, write: bool
) -> Outcome:
    """Put the page and, beside it, the data where they belong.

    Both are written each time, since a reader must see when the fleet was last verified. `changed` is whether they say
    something else than before, by what `comparable` leaves of it.
    """
    if page.suffix not in (".html", ".htm"):
        raise ValueError(f"the path of the page is {page.name}, expected a name that ends in .html")
    data = page.with_suffix(".json")
    before = read_report(data, comparable)
    old, new = comparable(before), comparable(report)
    changed = old != new or not _is_in_place(before, render, page, data, mode)
    if write:
        page.parent.mkdir(parents=True, exist_ok=True)
        # The data last: it is what the next run compares with.
        _save(page, render(report), mode)
        _save(data, as_json(report), mode)
    header = str(data)
    diff = {
        "before": as_json(old) if before else "",
        "after": as_json(new),
        "before_header": header,
        "after_header": header,
    }
    return Outcome(changed, page, data, diff)


def _is_in_place(before: Mapping[str, Any], render: Render, page: Path, data: Path, mode: int) -> bool:
    """Whether the page is what would be made of the data beside it today, and nobody but those of *mode* can read."""
    if not page.is_file() or any(stat.S_IMODE(path.stat().st_mode) != mode for path in (page, data)):
        return False
    return page.read_text(encoding="utf-8", errors="replace") == render(before)


def read_report(path: Path, comparable: Comparable) -> dict[str, Any]:
    """An earlier report; nothing if there is none that can be compared with."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        comparable(report)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return cast("dict[str, Any]", report)


def _save(path: Path, text: str, mode: int) -> None:
    """Replace the file in one step: who reads it meanwhile reads the old one or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


_VERSION = re.compile(r"^version:\s*['\"]?([\w.+-]+)", re.MULTILINE)


def collection_version(manifest: str | None, galaxy: str | None) -> str:
    """Version of the collection: from MANIFEST.json where it is installed, from galaxy.yml in a checkout."""
    try:
        return str(json.loads(manifest or "")["collection_info"]["version"])
    except (ValueError, KeyError, TypeError):
        found = _VERSION.search(galaxy or "")
        return f"{found[1]} (checkout)" if found else "of an unknown version"
