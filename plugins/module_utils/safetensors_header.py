# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a safetensors file: its tensors, and whether the file can be whole.

Only the header is read, through a function that reads ranges, so that a file far away need not be fetched. The file
may be anybody's: whatever its header claims is checked against the size of the file before it is believed.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import DtypeTotals, TensorTotals

# Returns the bytes from `first` up to, not including, `end`; never fewer.
ReadRange = Callable[[int, int], bytes]

# The format's own limit.
LONGEST_HEADER = 100_000_000
# Nearly every header is shorter, so one request is enough.
_FIRST_READ = 256 * 1024
# A tensor takes some eight; the largest models have 100 000 tensors in all their files. What is parsed takes some 40
# bytes of memory for each, so that a header of the greatest length cannot take more than a few hundred MB.
_MOST_VALUES = 4_000_000
# What json.loads would drop without a word, or take long for; looked for as bytes, since a call of Python for each
# tensor takes half of all the time. Either may be harmless: then the slow way finds out.
_SPACED_QUOTE = re.compile(rb'"[ \t\r\n]')
_LONG_NUMBER = re.compile(rb"[0-9]{20}")
_INTEGERS_ARE_LIMITED = hasattr(sys, "get_int_max_str_digits")
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


class TensorEntry(NamedTuple):
    """One tensor of a file of weights. The shape is as the file has it: GGUF begins with the innermost dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class WeightsHeader:
    """What the header of a file of weights tells."""

    totals: TensorTotals
    names: frozenset[str]
    # Of a GGUF file: the facts about the model that it carries.
    facts: Mapping[str, Any] = field(default_factory=dict)
    # In the order of their names' appearance.
    tensors: tuple[TensorEntry, ...] = ()


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
    header = _parse(text)
    header.pop("__metadata__", None)
    spans: list[tuple[int, int, str]] = []
    tensors: list[TensorEntry] = []
    sums: dict[str, list[int]] = {}
    for name, entry in header.items():
        tensor, first, end, parameters = _tensor(name, entry)
        spans.append((first, end, name))
        tensors.append(tensor)
        totals = sums.get(tensor.dtype)
        if totals is None:
            totals = sums[tensor.dtype] = [0, 0, 0]
        totals[0] += 1
        totals[1] += parameters
        totals[2] += end - first
    spans.sort()
    reached = 0
    for first, end, name in spans:
        if first != reached:
            kind = "overlaps another one" if first < reached else "leaves a gap before it"
            raise HeaderError(f"the tensor {_short(name)} {kind} (from byte {first}, expected {reached})")
        reached = end
    if reached != size - 8 - length:
        raise HeaderError(f"its tensors end at byte {reached + 8 + length}, the file at {size}")
    dtypes = tuple(sorted((dtype, DtypeTotals(*parts)) for dtype, parts in sums.items()))
    return WeightsHeader(TensorTotals(dtypes), frozenset(header), tensors=tuple(tensors))


def _parse(text: bytes) -> dict[str, Any]:
    values = text.count(b",")
    if values > _MOST_VALUES:
        raise HeaderError(f"its header has {values} values")
    try:
        if not _INTEGERS_ARE_LIMITED and _LONG_NUMBER.search(text):
            return _mapping(json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_int=_integer))
        header = _mapping(json.loads(text.decode("utf-8")))
        # Without a backslash no text can hold a quotation mark, so `":` ends a name, or begins a text with a colon:
        # where there are as many as names were kept, none was dropped.
        if (
            text.count(b'":') != len(header) + sum(len(entry) for entry in header.values() if isinstance(entry, dict))
            or b"\\" in text
            or _SPACED_QUOTE.search(text)
        ):
            return _mapping(json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates))
    except (ValueError, RecursionError, MemoryError) as error:
        raise HeaderError("its header is not that of a safetensors file") from error
    return header


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number of more than 64 bits")
    return int(digits)


def _tensor(name: str, entry: object) -> tuple[TensorEntry, int, int, int]:
    """The tensor, where it begins and ends, and how many elements it has."""
    try:
        dtype, shape, (first, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderError(f"the tensor {_short(name)} lacks dtype, shape or data_offsets") from error
    # JSON's true and false are whole numbers to Python. Written out, for it is done for every tensor.
    if (
        not isinstance(dtype, str)
        or not isinstance(shape, list)
        or not isinstance(first, int)
        or not isinstance(end, int)
        or first is True
        or first is False
        or end is True
        or end is False
        or not 0 <= first < 1 << 63
        or not 0 <= end < 1 << 63
    ):
        raise HeaderError(f"the tensor {_short(name)} has no proper dtype, shape or data_offsets")
    parameters = 1
    for number in shape:
        if not isinstance(number, int) or number is True or number is False or not 0 <= number < 1 << 63:
            raise HeaderError(f"the tensor {_short(name)} has no proper dtype, shape or data_offsets")
        parameters *= number
        if parameters >= 1 << 63:
            raise HeaderError(f"the tensor {_short(name)} has an absurd shape")
    # A data type that came after this table is counted as it says.
    bits = _BITS.get(dtype)
    if end < first or (bits is not None and parameters * bits != (end - first) * 8):
        raise HeaderError(f"the tensor {_short(name)} has {end - first} bytes, which its shape and {dtype} contradict")
    return TensorEntry(name, dtype, tuple(shape), end - first), first, end, parameters


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:100] + "…")
