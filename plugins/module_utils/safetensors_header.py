# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a safetensors file: its tensors, and whether the file can be whole.

Only the header is read, through a function that reads ranges, so that a file far away need not be fetched. The file
may be anybody's: whatever its header claims is checked against the size of the file before it is believed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import DtypeTotals, TensorTotals, add_up

# Returns the bytes from `first` up to, not including, `end`; never fewer.
ReadRange = Callable[[int, int], bytes]

# The format's own limit.
LONGEST_HEADER = 100_000_000
# Nearly every header is shorter, so one request is enough.
_FIRST_READ = 256 * 1024
# Bits of one element. The sub-byte types are stored packed.
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


class HeaderError(ValueError):
    """A file that cannot be what its name says; the text says why."""


@dataclass(frozen=True)
class WeightsHeader:
    """What the header of a file of weights tells."""

    totals: TensorTotals
    names: frozenset[str]
    # Of a GGUF file: the facts about the model that it carries.
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_safetensors_header(read: ReadRange, size: int) -> WeightsHeader:
    """Raises HeaderError."""
    if size < 8:
        raise HeaderError(f"{size} bytes are too few for a safetensors header")
    start = read(0, min(size, _FIRST_READ))
    length = int(struct.unpack("<Q", start[:8])[0])
    if length > LONGEST_HEADER or length > size - 8:
        raise HeaderError(f"its header claims {length} bytes, the file has {size}")
    text = start[8 : 8 + length]
    if len(text) < length:
        text += read(len(start), 8 + length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise HeaderError("its header is not that of a safetensors file") from error
    if not isinstance(header, dict):
        raise HeaderError("its header is not that of a safetensors file")
    header.pop("__metadata__", None)
    spans, parts = [], []
    for name, entry in header.items():
        dtype, totals, first, end = _tensor(name, entry)
        spans.append((first, end, name))
        parts.append((dtype, totals))
    reached = 0
    for first, end, name in sorted(spans):
        if first != reached:
            kind = "overlaps another one" if first < reached else "leaves a gap before it"
            raise HeaderError(f"the tensor {_short(name)} {kind} (from byte {first}, expected {reached})")
        reached = end
    if reached != size - 8 - length:
        raise HeaderError(f"its tensors end at byte {reached + 8 + length}, the file at {size}")
    return WeightsHeader(add_up(parts), frozenset(header))


def _tensor(name: str, entry: object) -> tuple[str, DtypeTotals, int, int]:
    try:
        dtype, shape, (first, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderError(f"the tensor {_short(name)} lacks dtype, shape or data_offsets") from error
    numbers = [*shape, first, end] if isinstance(shape, list) else [None]
    if not isinstance(dtype, str) or any(
        isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63 for number in numbers
    ):
        raise HeaderError(f"the tensor {_short(name)} has no proper dtype, shape or data_offsets")
    parameters = 1
    for number in shape:
        parameters *= number
        if parameters >= 2**63:
            raise HeaderError(f"the tensor {_short(name)} has an absurd shape")
    # A data type that came after this table is counted as it says.
    bits = _BITS.get(dtype)
    if end < first or (bits is not None and parameters * bits != (end - first) * 8):
        raise HeaderError(f"the tensor {_short(name)} has {end - first} bytes, which its shape and {dtype} contradict")
    return dtype, DtypeTotals(1, parameters, end - first), first, end


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:100] + "…")
