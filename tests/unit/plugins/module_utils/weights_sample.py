# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Small files of weights, made by their formats' descriptions and not by the code that is tested."""

from __future__ import annotations

import json
import math
import struct

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1, "I32": 4, "I64": 8}
GGUF_TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144)}


def safetensors(tensors=(("w", "U8", [4]),), **metadata):
    """Tensors are (name, dtype, shape)."""
    header, position = ({"__metadata__": metadata} if metadata else {}), 0
    for name, dtype, shape in tensors:
        length = math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + length]}
        position += length
    return raw_safetensors(json.dumps(header).encode(), position)


def raw_safetensors(header, data_length, claimed=None):
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + bytes(data_length)


def _text(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value):
    """The number of the type, and the value."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return (4, struct.pack("<I", value)) if 0 <= value < 2**32 else (11, struct.pack("<q", value))
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, _text(value)
    if value and all(isinstance(element, float) for element in value):
        return 9, struct.pack(f"<IQ{len(value)}f", 6, len(value), *value)
    parts = [_value(element) for element in value]
    kind = parts[0][0] if parts else 4
    return 9, struct.pack("<IQ", kind, len(parts)) + b"".join(part for _kind, part in parts)


def gguf(metadata=None, tensors=(("w", "F32", [4]),), version=3, alignment=32, cut=0):
    """Tensors are (name, type, dimensions)."""
    metadata = {"general.architecture": "llama", **(metadata or {})}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for name, value in metadata.items():
        kind, data = _value(value)
        head += _text(name) + struct.pack("<I", kind) + data
    offset = 0
    for name, label, dimensions in tensors:
        kind, elements, block = GGUF_TYPES[label]
        head += _text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        head += struct.pack("<IQ", kind, offset)
        offset += -(-math.prod(dimensions) // elements * block // alignment) * alignment
    head += bytes(-len(head) % alignment)
    return (head + bytes(offset))[: len(head) + offset - cut]
