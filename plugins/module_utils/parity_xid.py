# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver's Xid errors mean for an operator: NVIDIA's Xid catalogue, in five kinds.

The catalogue names an immediate action for each number. RESTART_APP and IGNORE ask nothing of a host and are notes
here; RESET_GPU and its workflows, RESTART_BM and CHECK_MECHANICALS are errors with that action; CONTACT_SUPPORT stands
for numbers that a healthy GPU never reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import ERROR, NOTE, WARNING


class Xid(NamedTuple):
    """What one number, or several that are treated alike, stands for."""

    severity: str
    meaning: str
    action: str


_RESTART = "Nothing to do on the host: whoever ran the program restarts it, and looks for the fault there"
_RESET = "Drain the GPU and reset it (`nvidia-smi --gpu-reset`); reboot if it cannot be reset"
_LINK = "Reset the GPUs of this fabric together; if it comes back, check seating, cables and switches"
_REPLACE = "Power the host off and on; if it comes back, have the GPU replaced"

APPLICATION = Xid(NOTE, "a program's own fault", _RESTART)
FOLLOWING = Xid(NOTE, "work was stopped after another error, or by a person", "Look for the error before it")
INFORMATION = Xid(NOTE, "the driver tells that it handled something", "Nothing to do by itself")
CONTAINED = Xid(
    WARNING,
    "a memory error that ended only the program that used the memory",
    "Restart the program; reset the GPU when its rows are to be remapped",
)
UNKNOWN = Xid(
    WARNING, "an error that the catalogue has no action for", "Look it up in NVIDIA's Xid catalogue, or ask support"
)

XIDS: Mapping[int, Xid] = {
    **dict.fromkeys((8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80), APPLICATION),
    **dict.fromkeys((82, 83, 84, 85, 86, 88, 89, *range(96, 106), *range(126, 136), 139), APPLICATION),
    **dict.fromkeys((43, 44, 45), FOLLOWING),
    **dict.fromkeys((14, 37, 38, 63, 66, 67, 92, 93, 106, 107, 121, 137, 141, 152, 153, 154, 157, 161), INFORMATION),
    94: CONTAINED,
    46: Xid(ERROR, "the GPU stopped processing", _RESET),
    48: Xid(ERROR, "a memory error that could not be corrected", _RESET),
    54: Xid(ERROR, "the auxiliary power of the board is missing", "Check the power cables of the GPU"),
    62: Xid(ERROR, "the power management unit of the GPU halted", _RESET),
    64: Xid(ERROR, "a bad row or page of memory could not be recorded", f"{_RESET}; then have the GPU replaced"),
    74: Xid(ERROR, "an NVLink failed", _LINK),
    78: Xid(ERROR, "a virtual GPU did not start", "Bring driver, firmware and hypervisor to versions that fit"),
    79: Xid(ERROR, "the GPU has fallen off the PCI bus", _REPLACE),
    95: Xid(ERROR, "a memory error that was not contained: every program on the GPU is hit", _RESET),
    109: Xid(ERROR, "a context switch of the GPU timed out", _RESET),
    110: Xid(ERROR, "the security engine of the GPU failed", _RESET),
    119: Xid(ERROR, "the GPU's system processor (GSP) does not answer", _RESET),
    120: Xid(ERROR, "the GPU's system processor (GSP) failed", _RESET),
    136: Xid(ERROR, "an NVLink could not be trained", _LINK),
    140: Xid(ERROR, "a memory error that could not be corrected, outside the protected parts", _RESET),
    143: Xid(ERROR, "the GPU could not be initialised", _RESET),
    **dict.fromkeys(range(144, 151), Xid(ERROR, "a part of a fifth-generation NVLink failed", _LINK)),
    151: Xid(ERROR, "the keys of confidential computing could not be rotated", "Restart the virtual machine"),
    155: Xid(ERROR, "an NVLink was taken down by software", _LINK),
    156: Xid(ERROR, "a part of the GPU is to be retired", _RESET),
    158: Xid(ERROR, "the GPU timed out for good", _RESET),
    160: Xid(ERROR, "a memory channel is to be retired", "Drain the host and reboot it"),
    162: Xid(ERROR, "the GPU needs a reset", _RESET),
}


def describe(number: int) -> Xid:
    return XIDS.get(number, UNKNOWN)
