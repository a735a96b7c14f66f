#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Build the fake vLLM as a wheel named `vllm`, and the requirements file with its hash that the role asks for.

The bytes depend on the sources and the version alone.

usage: build_wheel.py FOLDER [--version 0.33.0]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import zipfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "src"
# The oldest time that a zip archive can hold.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


def build(folder: Path, version: str) -> tuple[Path, Path]:
    """Write the wheel and its requirements file into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = f"vllm-{version}.dist-info"
    files = {path.relative_to(SOURCES).as_posix(): path.read_bytes() for path in sorted(SOURCES.rglob("*.py"), key=str)}
    files[f"{metadata}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nSummary: A fake of vLLM for tests\n".encode()
    )
    files[f"{metadata}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: fake_vllm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{metadata}/entry_points.txt"] = b"[console_scripts]\nvllm = vllm.fake_server:main\n"
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for name, data in files.items()
    )
    files[f"{metadata}/RECORD"] = (record + f"{metadata}/RECORD,,\n").encode()
    wheel = folder / f"vllm-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            information = zipfile.ZipInfo(name, TIMESTAMP)
            information.create_system = 3
            information.external_attr = 0o644 << 16
            archive.writestr(information, data)
    requirements = folder / f"vllm-{version}.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"vllm=={version} \\\n    --hash=sha256:{digest}\n", encoding="utf-8")
    return wheel, requirements


def main() -> None:
    """Build and print what was written."""
    parser = argparse.ArgumentParser(description="Build the fake vLLM as a wheel named vllm.")
    parser.add_argument("folder", type=Path, help="where the wheel and its requirements file go")
    parser.add_argument("--version", default="0.33.0", help="the version it claims to be (default: %(default)s)")
    options = parser.parse_args()
    for path in build(options.folder, options.version):
        print(path)


if __name__ == "__main__":
    main()
