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
    TensorEntry,
    WeightsHeader,
)
from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import DtypeTotals, TensorTotals

_VERSIONS = (2, 3)
# The vocabulary of the largest tokenizers takes some 10 MB.
_LONGEST_HEADER = 256 * 1024 * 1024
_FIRST_READ = 1024 * 1024
_LARGEST_READ = 16 * 1024 * 1024
# Experts are kept together here, so that the largest models have a few thousand.
_MOST_TENSORS = 250_000
_MOST_KEYS = 100_000
# Of all arrays that are kept or have to be passed over one by one; vocabularies with their merges stay below a million.
_MOST_ELEMENTS = 4_000_000
# ggml itself takes 63 bytes for a tensor; builds with longer names are about.
_LONGEST_TENSOR_NAME = 1024
_LONGEST_NAME = 65535
_KEPT_TEXT = 1000
_KEPT_ELEMENTS = 1024

# The number of a value's type in the file: how it is unpacked.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9

# The number of a tensor's type in the file: its name, elements and bytes of a block (llama.cpp: enum ggml_type in
# ggml.h, the blocks' structures in ggml-common.h; gguf-py: GGML_QUANT_SIZES). Numbers left out were withdrawn.
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
    42: ("Q2_0", 64, 18),
}
# By name: elements and bytes of a block.
BLOCKS = {name: (elements, size) for name, elements, size in _TENSOR_TYPES.values()}
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
    41: "Q2_0",
}
_MOST_DIMENSIONS = 4
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
        return self.numbers(form)[0]

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def text(self, longest: int) -> str:
        length = self.number("Q")
        if length > longest:
            raise HeaderError(f"its header claims a text of {length} bytes")
        return self.take(length).decode("utf-8", "replace")

    def short_text(self) -> str | None:
        """A text, or None for one that is too long to be a fact about the model, as a template for chats."""
        length = self.number("Q")
        if length > 4 * _KEPT_TEXT:
            self.skip(length)
            return None
        text = self.take(length).decode("utf-8", "replace")
        return text if len(text) <= _KEPT_TEXT else None

    def skip_texts(self, count: int) -> None:
        """A vocabulary and its merges have half a million texts: those that lie in the buffer are passed in one go."""
        length_of = struct.Struct("<Q").unpack_from
        while count:
            buffer, start, end = self._buffer, self._start, len(self._buffer) - 8
            offset = self.position - start
            while count and 0 <= offset <= end:
                offset += 8 + length_of(buffer, offset)[0]
                count -= 1
            self.skip(start + offset - self.position)
            if count:
                self.skip(self.number("Q"))
                count -= 1

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
        if name in metadata:
            raise HeaderError(f"the key {name[:100]!r} appears twice")
        metadata[name] = _value(reader, reader.number("I"))
    return _with_tensors(reader, tensors, metadata, size)


def _with_tensors(reader: _Reader, count: int, metadata: dict[str, Any], size: int) -> WeightsHeader:
    sums: dict[str, list[int]] = {}
    # Name, data type, shape, elements, bytes (0 for a type that came after the table above), place.
    found: list[tuple[str, str, tuple[int, ...], int, int, int]] = []
    for _number in range(count):
        name = reader.text(_LONGEST_TENSOR_NAME)
        dimensions = reader.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise HeaderError(f"the tensor {name[:100]!r} has {dimensions} dimensions")
        *shape, kind, offset = reader.numbers(f"{dimensions}QIQ")
        parameters = math.prod(shape)
        if parameters >= 2**63 or offset >= 2**63 or any(number >= 2**63 for number in shape):
            raise HeaderError(f"the tensor {name[:100]!r} has an absurd shape or place")
        label, elements, block = _TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        if (shape[0] if shape else 1) % elements:
            raise HeaderError(f"the tensor {name[:100]!r} of {label} has rows of {shape[0]}, not of whole blocks")
        length = parameters // elements * block
        found.append((name, label, tuple(shape), parameters, length, offset))
        totals = sums.setdefault(label, [0, 0, 0])
        totals[0] += 1
        totals[1] += parameters
        totals[2] += length
    names = frozenset(entry[0] for entry in found)
    if len(names) != count:
        raise HeaderError("the name of a tensor appears twice")
    alignment = metadata.get("general.alignment", 32)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
        raise HeaderError(f"its alignment is {alignment!r}")
    if alignment & (alignment - 1):
        raise HeaderError(f"its alignment is {alignment!r}")
    data = _up(reader.position, alignment)
    reached = max((entry[5] + entry[4] for entry in found), default=0)
    if count and data + reached > size:
        raise HeaderError(f"its tensors end at byte {data + reached}, the file at {size}")
    totals_by_type = TensorTotals(tuple(sorted((label, DtypeTotals(*parts)) for label, parts in sums.items())))
    return WeightsHeader(totals_by_type, names, _facts(metadata), _in_their_places(found, alignment, size - data))


def _in_their_places(
    found: list[tuple[str, str, tuple[int, ...], int, int, int]], alignment: int, size: int
) -> tuple[TensorEntry, ...]:
    """The tensors; they must follow one another in the order of the header, as llama.cpp's reader has it.

    The bytes of a type that came after the table are those up to the next tensor.
    """
    expected, entries = 0, []
    for number, (name, label, shape, _parameters, length, offset) in enumerate(found):
        if offset != expected:
            kind = "overlaps another one" if offset < expected else "leaves a gap before it"
            raise HeaderError(f"the tensor {name[:100]!r} {kind} (from byte {offset}, expected {expected})")
        if label not in BLOCKS:
            following = found[number + 1][5] if number + 1 < len(found) else size
            length = max(0, following - offset)
        entries.append(TensorEntry(name, label, shape, length))
        expected = _up(offset + length, alignment)
    return tuple(entries)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _value(reader: _Reader, kind: int) -> Any:
    """A value, or None for one that is too long to be a fact about the model; of an array at least its length."""
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])
    if kind == _TEXT:
        return reader.short_text()
    if kind != _ARRAY:
        raise HeaderError(f"its header has a value of the unknown type {kind}")
    inner, count = reader.number("I"), reader.number("Q")
    if inner in _SCALARS:
        form = _SCALARS[inner]
        if count > _KEPT_ELEMENTS:
            reader.skip(count * struct.calcsize("<" + form))
            return {"length": count}
        reader.pass_over(count)
        return list(reader.numbers(f"{count}{form}"))
    if inner != _TEXT:
        # llama.cpp takes no arrays of arrays either.
        raise HeaderError(f"its header has an array of the unknown type {inner}")
    reader.pass_over(count)
    reader.skip_texts(count)
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
