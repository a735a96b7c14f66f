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
import hashlib
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "src"
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

from pure_wheel import write_wheel  # noqa: E402  (found through the path above)


def build(folder: Path, version: str) -> tuple[Path, Path]:
    """Write the wheel and its requirements file into a folder and return their paths."""
    sources = sorted(SOURCES.rglob("*.py"), key=str)
    files = {path.relative_to(SOURCES).as_posix(): path.read_bytes() for path in sources}
    wheel = write_wheel(folder, "vllm", version, "A fake of vLLM for tests", "vllm = vllm.fake_server:main", files)
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
