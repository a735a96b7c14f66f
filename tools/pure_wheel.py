# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Write a pure-Python wheel whose bytes depend on its contents alone, so that its SHA-256 can stand in a lock file.

Build back ends stamp the time and their own version into what they make; fixed time stamps, a fixed order and no
compression are what is wanted here.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

# The oldest time that a zip archive can hold.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


def record_line(name: str, data: bytes) -> str:
    """Return a wheel's record of one file: its digest in URL-safe base64 without padding, and its size in bytes."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(data)}\n"


def write_wheel(
    folder: Path, name: str, version: str, summary: str, command: str, files: Mapping[str, bytes], requires: str = ""
) -> Path:
    """Write the wheel of a distribution into ``folder`` and return its path.

    :param command: a console script, as ``name = package.module:function``
    :param files: the distribution's own files, by their path in the wheel
    :param requires: what it depends on, as ``Requires-Dist`` says it
    """
    folder.mkdir(parents=True, exist_ok=True)
    information = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    kind = "Wheel-Version: 1.0\nGenerator: baremetal.llm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members = dict(files) | {
        f"{information}/METADATA": metadata.encode(),
        f"{information}/WHEEL": kind.encode(),
        f"{information}/entry_points.txt": f"[console_scripts]\n{command}\n".encode(),
    }
    # The record comes last and has no digest of itself: so wants it the format.
    record = "".join(record_line(path, data) for path, data in members.items())
    members[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n".encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for path, data in members.items():
            entry = zipfile.ZipInfo(path, TIMESTAMP)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return wheel
