# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_sample import gguf

from ansible_collections.baremetal.llm.plugins.module_utils.gguf_header import read_gguf_header
from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import HeaderError

METADATA = {
    "general.type": "model",
    "general.file_type": 15,
    "general.license": "apache-2.0",
    "general.name": "Not a fact",
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.attention.head_count": [8, 8],
    "llama.attention.layer_norm_rms_epsilon": 0.5,
    "llama.nothing": float("inf"),
    "llama.flag": True,
    "other.block_count": 9,
    "tokenizer.ggml.tokens": [f"token {number}" for number in range(3000)],
    "tokenizer.ggml.token_type": [1] * 3000,
    "tokenizer.chat_template": "x" * 5000,
    "split.count": 2,
}
TENSORS = (("token_embd.weight", "Q4_K", [256, 3]), ("norm", "F32", [5]), ("out", "Q4_K", [512]))


class Reads:
    def __init__(self, data):
        self.data = data
        self.spans = []

    def __call__(self, first, end):
        assert 0 <= first < end <= len(self.data), (first, end)
        self.spans.append((first, end))
        return self.data[first:end]


def header_of(data):
    return read_gguf_header(Reads(data), len(data))


@pytest.mark.parametrize("version", [2, 3])
def test_facts_and_totals(version):
    header = header_of(gguf(METADATA, TENSORS, version=version))
    assert header.facts == {
        "architecture": "llama",
        "attention.head_count": [8, 8],
        "attention.layer_norm_rms_epsilon": 0.5,
        "block_count": 2,
        "context_length": 4096,
        "flag": True,
        "license": "apache-2.0",
        "quantization": "Q4_K_M",
        "split.count": 2,
        "type": "model",
        "vocab_size": 3000,
    }
    assert header.totals.as_dict()["dtypes"] == {
        "F32": {"count": 1, "parameters": 5, "bytes": 20},
        "Q4_K": {"count": 2, "parameters": 1280, "bytes": 720},
    }
    assert header.names == {"token_embd.weight", "norm", "out"}


def test_only_the_header_is_read_and_the_vocabulary_is_passed_over():
    data = gguf({"tokenizer.ggml.scores": [0.5] * 2_000_000, "llama.block_count": 3}, [("w", "F32", [3_000_000])])
    reads = Reads(data)
    assert read_gguf_header(reads, len(data)).facts["block_count"] == 3
    assert sum(end - first for first, end in reads.spans) < 4_000_000 < 8_000_000 < len(data)


def test_other_versions_are_neither_read_nor_refused():
    header = header_of(b"GGUF" + struct.pack("<I", 4) + bytes(20))
    assert (header.facts, header.totals.dtypes) == ({"version": 4}, ())


def count(tensors=0, keys=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


KEY = struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "mark"),
        (b"GGML" + bytes(100), "mark"),
        (b"GGUF\3\0\0\0", "beyond the end"),
        (count(tensors=2**40), "claims 1099511627776 tensors"),
        (count(keys=2**40), "1099511627776 keys"),
        (count(keys=1), "beyond the end"),
        (count(keys=1, rest=struct.pack("<Q", 2**62)), "a text of"),
        (count(keys=1, rest=KEY + struct.pack("<I", 77)), "unknown type 77"),
        (count(keys=1, rest=KEY + struct.pack("<IIQ", 9, 4, 2**60)), "beyond the end"),
        (count(keys=1, rest=KEY + struct.pack("<IIQ", 9, 8, 2**60)), "arrays of"),
        (count(keys=1, rest=KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9), "unknown type 9"),
        (count(tensors=1, rest=KEY + struct.pack("<I", 99)), "99 dimensions"),
        (count(tensors=1, rest=KEY + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0)), "absurd"),
        (count(tensors=2, rest=(KEY + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2 + bytes(64)), "appears twice"),
        (gguf({"general.alignment": 0}), "alignment"),
        (gguf(METADATA, TENSORS, cut=65), "its tensors end at byte"),
        (gguf({}, [("w", "F32", [64])], cut=1), "its tensors end at byte"),
    ],
)
def test_refused(data, words):
    with pytest.raises(HeaderError, match=words):
        header_of(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_found_or_harmless_and_never_a_crash(data):
    whole = bytearray(gguf({"llama.block_count": 2, "tokenizer.ggml.tokens": ["a", "b"], "x": [1, 2]}, TENSORS))
    for _number in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        header_of(damaged)
    except HeaderError as error:
        assert str(error)
