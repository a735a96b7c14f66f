# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What llama-server prints about its memory while it starts (with `--log-verbosity 4`), by device.

Formats: llama.cpp build 11434 and Debian's 0.7.0 (build 11669): `load_tensors`, `llama_context`, `llama_kv_cache`,
`llama_memory_recurrent` and `sched_reserve` each print one line for each buffer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MIB = 1 << 20

_BUFFER = re.compile(
    r":\s+(?P<device>\S+)\s+(?P<kind>model|KV|RS|compute|output) +buffer size = +(?P<size>\d+\.\d+) MiB"
)
_KINDS = {"model": "weights", "KV": "kv_cache", "RS": "states", "compute": "compute", "output": "output"}
# The memory of the host has several names: mapped from the file, rearranged for the processor, or pinned for a GPU.
_HOST = re.compile(r"CPU|.*_Host$|.*_Mapped$")


@dataclass
class PrintedMemory:
    """MiB of one device as printed, with two decimals; there may be several buffers of a kind."""

    weights: float = 0.0
    kv_cache: float = 0.0
    states: float = 0.0
    compute: float = 0.0
    output: float = 0.0
    # Buffers that were added up: each was rounded on its own.
    buffers: dict[str, int] = field(default_factory=dict)


def parse_memory(text: str) -> dict[str, PrintedMemory]:
    """What each device has, "host" for the host; empty if the text is no such log."""
    devices: dict[str, PrintedMemory] = {}
    for match in _BUFFER.finditer(text):
        name = "host" if _HOST.match(match["device"]) else match["device"]
        device = devices.setdefault(name, PrintedMemory())
        kind = _KINDS[match["kind"]]
        setattr(device, kind, getattr(device, kind) + float(match["size"]))
        device.buffers[kind] = device.buffers.get(kind, 0) + 1
    return devices
