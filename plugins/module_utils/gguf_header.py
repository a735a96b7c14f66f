# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a GGUF file: its metadata and its tensors, and whether the file can be whole.

Read through a function that reads ranges; what is long and says nothing about the model (the vocabulary) is passed
over. The file may be anybody's: every count and length is checked before it is believed.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import (
    HeaderError,
    ReadRange,
    WeightsHeader,
)
from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import DtypeTotals, TensorTotals, add_up

_VERSIONS = (2, 3)
# The vocabulary of the largest tokenizers takes some 10 MB.
_LONGEST_HEADER = 256 * 1024 * 1024
_FIRST_READ = 1024 * 1024
_LARGEST_READ = 16 * 1024 * 1024
_MOST_TENSORS = 1_000_000
_MOST_KEYS = 100_000
# Of all arrays that have to be passed over one by one; vocabularies and their merges together stay below a million.
_MOST_ELEMENTS = 4_000_000
_LONGEST_NAME = 65535
_KEPT_TEXT = 1000
_KEPT_ELEMENTS = 1024

# The number of a value's type in the file: how it is unpacked.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9

# The number of a tensor's type in the file: its name, elements and bytes of a block (llama.cpp, gguf-py constants).
_TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
# general.file_type: what the file as a whole is called.
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
_GENERAL = ("type", "size_label", "license", "license.name", "license.link")


class _Reader:
    """Reads on from byte to byte, in growing pieces."""

    def __init__(self, read: ReadRange, size: int) -> None:
        self._read = read
        self._size = size
        self._buffer = b""
        self._start = 0
        self._step = _FIRST_READ
        self._elements = 0
        self.position = 0

    def pass_over(self, elements: int) -> None:
        self._elements += elements
        if self._elements > _MOST_ELEMENTS:
            raise HeaderError(f"its header claims arrays of {self._elements} elements")

    def take(self, count: int) -> bytes:
        offset = self.position - self._start
        if offset + count > len(self._buffer):
            self._need(count)
            offset = 0
        self.position += count
        return self._buffer[offset : offset + count]

    def skip(self, count: int) -> None:
        self._check(count)
        self.position += count

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self, longest: int, skip: bool = False) -> str:
        length = self.number("Q")
        if length > longest:
            raise HeaderError(f"its header claims a text of {length} bytes")
        if skip:
            self.skip(length)
            return ""
        return self.take(length).decode("utf-8", "replace")

    def _check(self, count: int) -> None:
        if self.position + count > self._size:
            raise HeaderError(f"its header goes on beyond the end of the file, at byte {self._size}")
        if self.position + count > _LONGEST_HEADER:
            raise HeaderError(f"its header is longer than {_LONGEST_HEADER} bytes")

    def _need(self, count: int) -> None:
        self._check(count)
        kept = self._buffer[self.position - self._start :] if self.position < self._start + len(self._buffer) else b""
        first = self.position + len(kept)
        end = min(self._size, first + max(self._step, count - len(kept)))
        self._step = min(2 * self._step, _LARGEST_READ)
        self._buffer = kept + self._read(first, end)
        self._start = self.position


def read_gguf_header(read: ReadRange, size: int) -> WeightsHeader:
    """Raises HeaderError."""
    reader = _Reader(read, size)
    if size < 4 or reader.take(4) != b"GGUF":
        raise HeaderError("does not begin with the mark of a GGUF file")
    version = reader.number("I")
    if version not in _VERSIONS:
        # Another one may be laid out differently: nothing is said about such a file, and nothing held against it.
        return WeightsHeader(TensorTotals(), frozenset(), {"version": version})
    tensors, keys = reader.number("Q"), reader.number("Q")
    if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
        raise HeaderError(f"its header claims {tensors} tensors and {keys} keys")
    metadata: dict[str, Any] = {}
    for _number in range(keys):
        name = reader.text(_LONGEST_NAME)
        metadata[name] = _value(reader, reader.number("I"))
    return _with_tensors(reader, tensors, metadata, size)


def _with_tensors(reader: _Reader, count: int, metadata: dict[str, Any], size: int) -> WeightsHeader:
    parts, names, reached = [], set(), 0
    for _number in range(count):
        name = reader.text(_LONGEST_NAME)
        dimensions = reader.number("I")
        if dimensions > 8:
            raise HeaderError(f"the tensor {name[:100]!r} has {dimensions} dimensions")
        shape = [reader.number("Q") for _dimension in range(dimensions)]
        kind, offset = reader.number("I"), reader.number("Q")
        parameters = math.prod(shape)
        if parameters >= 2**63 or offset >= 2**63:
            raise HeaderError(f"the tensor {name[:100]!r} has an absurd shape or place")
        label, elements, block = _TENSOR_TYPES.get(kind, (f"type {kind}", 0, 0))
        # The size of a type that came after the table above is not known; its tensors are counted without bytes.
        length = -(-parameters // elements) * block if elements else 0
        reached = max(reached, offset + length)
        names.add(name)
        parts.append((label, DtypeTotals(1, parameters, length)))
    if len(names) != count:
        raise HeaderError("the name of a tensor appears twice")
    alignment = metadata.get("general.alignment", 32)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
        raise HeaderError(f"its alignment is {alignment!r}")
    data = -(-reader.position // alignment) * alignment
    if count and data + reached > size:
        raise HeaderError(f"its tensors end at byte {data + reached}, the file at {size}")
    return WeightsHeader(add_up(parts), frozenset(names), _facts(metadata))


def _value(reader: _Reader, kind: int, depth: int = 0) -> Any:
    """A value, or None for one that is too long to be a fact about the model; of an array at least its length."""
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])
    if kind == _TEXT:
        text = reader.text(_LONGEST_HEADER)
        return text if len(text) <= _KEPT_TEXT else None
    if kind != _ARRAY or depth > 3:
        raise HeaderError(f"its header has a value of the unknown type {kind}")
    inner, count = reader.number("I"), reader.number("Q")
    if inner in _SCALARS:
        form = _SCALARS[inner]
        if count > _KEPT_ELEMENTS:
            reader.skip(count * struct.calcsize("<" + form))
            return {"length": count}
        return list(struct.unpack(f"<{count}{form}", reader.take(count * struct.calcsize("<" + form))))
    reader.pass_over(count)
    for _number in range(count):
        if inner == _TEXT:
            reader.text(_LONGEST_HEADER, skip=True)
        else:
            _value(reader, inner, depth + 1)
    return {"length": count}


def _facts(metadata: dict[str, Any]) -> dict[str, Any]:
    """What the metadata say about the model: how it is built, not what is in its vocabulary."""
    facts: dict[str, Any] = {}
    architecture = metadata.get("general.architecture")
    if isinstance(architecture, str):
        facts["architecture"] = architecture
        prefix = architecture + "."
        facts.update({name[len(prefix) :]: value for name, value in metadata.items() if name.startswith(prefix)})
    facts.update({name: metadata["general." + name] for name in _GENERAL if "general." + name in metadata})
    facts.update({name: value for name, value in metadata.items() if name.startswith("split.")})
    kind = metadata.get("general.file_type")
    if isinstance(kind, int):
        facts["quantization"] = _FILE_TYPES.get(kind, f"type {kind}")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, dict):
        facts.setdefault("vocab_size", tokens["length"])
    return {name: value for name, value in sorted(facts.items()) if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(element) for element in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, (bool, int, str))
