# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Writes a kernel module that STANDS IN for NVIDIA's: an ELF file with nothing but what modinfo reads.

usage: stand_in_module.py VERSION open|proprietary KERNEL|all FOLDER     (FOLDER below /lib/modules/<kernel>)
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

LICENCES = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}


def module(version: str, flavour: str, kernel: str) -> bytes:
    """A relocatable ELF file with the section .modinfo."""
    words = {
        "version": version,
        "license": LICENCES[flavour],
        "description": "STAND-IN for NVIDIA's kernel module, of the tests of baremetal.llm",
        "name": "nvidia",
        "vermagic": f"{kernel} SMP preempt mod_unload modversions",
    }
    info = b"".join(f"{key}={value}".encode() + b"\0" for key, value in words.items())
    names = b"\0.modinfo\0.shstrtab\0"
    header = 64
    table = -(-(header + len(info) + len(names)) // 8) * 8
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    start = identity + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)

    def section(name: int, kind: int, flags: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, flags, 0, offset, size, 0, 0, 1, 0)

    sections = (
        bytes(64)
        + section(1, 1, 2, header, len(info))
        + section(names.index(b".shstrtab"), 3, 0, header + len(info), len(names))
    )
    return (start + info + names).ljust(table, b"\0") + sections


def main() -> None:
    version, flavour, kernel, folder = sys.argv[1:]
    kernels = [path.name for path in Path("/lib/modules").iterdir()] if kernel == "all" else [kernel]
    for each in kernels:
        path = Path("/lib/modules") / each / folder / "nvidia.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(module(version, flavour, each))
        subprocess.run(["/sbin/depmod", each], check=True)


if __name__ == "__main__":
    main()
