# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What a header may cost: seconds and bytes, whoever wrote it; and what a header of the largest models costs."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weights_sample import gguf, safetensors

from ansible_collections.baremetal.llm.plugins.module_utils.gguf_header import read_gguf_header
from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import (
    HeaderError,
    read_safetensors_header,
)

MIB = 1 << 20
KEY = struct.pack("<Q", 1) + b"k"


class Claimed:
    """A file of a claimed size that begins with some bytes and has zeros, or a pattern over and over, after them."""

    def __init__(self, start, size=1 << 45, pattern=b"\0"):
        self.start, self.size, self.pattern, self.read_bytes = start, size, pattern, 0

    def __call__(self, first, end):
        assert 0 <= first < end <= self.size
        self.read_bytes += end - first
        known = self.start[first:end]
        rest = end - first - len(known)
        shift = max(0, first - len(self.start)) % len(self.pattern)
        return known + (self.pattern * (rest // len(self.pattern) + 2))[shift : shift + rest]


def count(tensors=0, keys=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def st_header(text):
    return struct.pack("<Q", len(text)) + text


def measured(read_header, source, size=None):
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        with pytest.raises(HeaderError) as refused:
            read_header(source, source.size if size is None else size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return str(refused.value), time.perf_counter() - begin, peak


HOSTILE_GGUF = {
    "a name of 2^63 bytes": count(keys=1, rest=struct.pack("<Q", 2**63)),
    "a text of 2^63 bytes": count(keys=1, rest=KEY + struct.pack("<IQ", 8, 2**63)),
    "a text of 300 MB": count(keys=1, rest=KEY + struct.pack("<IQ", 8, 300 * MIB)),
    "an array of 2^63 texts": count(keys=1, rest=KEY + struct.pack("<IIQ", 9, 8, 2**63)),
    "texts of 2^63 bytes in an array": count(keys=1, rest=KEY + struct.pack("<IIQQ", 9, 8, 3, 2**63)),
    "an array of 2^61 numbers": count(keys=1, rest=KEY + struct.pack("<IIQ", 9, 4, 2**61)),
    "an array in an array": count(keys=1, rest=KEY + struct.pack("<IIQ", 9, 9, 2**40)),
    "a million tensors": count(tensors=1_000_000),
    "a tensor with a name of 2^63 bytes": count(tensors=1, rest=struct.pack("<Q", 2**63)),
    "2^32 - 1 dimensions": count(tensors=1, rest=KEY + struct.pack("<I", 2**32 - 1)),
    "a negative dimension beside a 0": count(tensors=1, rest=KEY + struct.pack("<IQQIQ", 2, 2**64 - 1, 0, 0, 0)),
    "a place of 2^64 - 1": count(tensors=1, rest=KEY + struct.pack("<IQIQ", 1, 4, 0, 2**64 - 1)),
}


@pytest.mark.parametrize("what", HOSTILE_GGUF)
def test_a_hostile_gguf_costs_next_to_nothing(what):
    source = Claimed(HOSTILE_GGUF[what])
    words, seconds, peak = measured(read_gguf_header, source)
    assert words
    assert peak < 8 * MIB
    assert seconds < 1
    assert source.read_bytes <= 4 * MIB


def test_names_without_end_are_given_up_in_bounded_memory():
    """A header that is as long as the file lets it be: every key claims the most that is kept."""
    entry = struct.pack("<Q", 8) + b"%08d"
    keys = b"".join(entry % number + struct.pack("<IIQ", 9, 0, 1024) + bytes(1024) for number in range(4100))
    words, seconds, peak = measured(read_gguf_header, Claimed(count(keys=100_000, rest=keys)))
    assert "arrays of" in words
    assert peak < 100 * MIB
    assert seconds < 5


DEEP = 300_000
HOSTILE_SAFETENSORS = {
    "lists in lists": b"[" * DEEP,
    "mappings in mappings": b'{"a":' * DEEP,
    "lists in a shape": b'{"a":{"dtype":"U8","shape":' + b"[" * DEEP + b"]" * DEEP + b',"data_offsets":[0,0]}}',
    "not UTF-8": b'{"\xff":{}}',
    "half of a surrogate pair, twice": b'{"\\ud800":1,"\\ud800":2}',
    "not a number": b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}',
    "a number of 100 000 digits": b'{"a":{"dtype":"U8","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,0]}}',
    "a number too large for a file": b'{"a":{"dtype":"U8","shape":[1e400],"data_offsets":[0,0]}}',
    "five million values": b'{"a":[' + b"0," * 5_000_000 + b"0]}",
    "a name twice, spelled differently": b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},'
    b'"\\u0061":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}',
    "a name twice, beside a text with a colon": b'{"__metadata__":{"x":":"},'
    b'"a" :{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}',
    "a key of a tensor twice": b'{"a":{"dtype":"U8","shape":[],"shape":[1],"data_offsets":[0,1]}}',
}


@pytest.mark.parametrize("what", HOSTILE_SAFETENSORS)
def test_a_hostile_safetensors_header_costs_little(what):
    text = HOSTILE_SAFETENSORS[what]
    data = st_header(text)
    words, seconds, peak = measured(read_safetensors_header, Claimed(data, len(data) + 1))
    assert words
    assert peak < 64 * MIB
    assert seconds < 2


def test_what_a_header_claims_is_not_read_when_the_file_is_shorter():
    source = Claimed(struct.pack("<Q", 99_999_999) + b"{", size=1000)
    words, _seconds, peak = measured(read_safetensors_header, source)
    assert "claims 99999999 bytes" in words
    assert peak < MIB


def test_texts_in_metadata_that_look_like_names_are_no_names_twice():
    text = json.dumps({"__metadata__": {"a": ":", "b": 'say \\"a\\": 1'}, "w": entry_of(0, 4)}).encode()
    assert read_safetensors_header(Claimed(st_header(text), len(text) + 12), len(text) + 12).names == {"w"}
    spaced = text.replace(b'"w":', b'"w" :').replace(b"{", b"{\n ")
    assert read_safetensors_header(Claimed(st_header(spaced), len(spaced) + 12), len(spaced) + 12).names == {"w"}


def entry_of(first, end):
    return {"dtype": "U8", "shape": [end - first], "data_offsets": [first, end]}


def test_the_tensors_of_both_formats():
    data = safetensors([("a", "BF16", [3, 4]), ("b", "F32", [])])
    assert [tuple(tensor) for tensor in read_safetensors_header(Claimed(data, len(data)), len(data)).tensors] == [
        ("a", "BF16", (3, 4), 24),
        ("b", "F32", (), 4),
    ]
    data = gguf({}, [("token_embd.weight", "Q4_K", [256, 3]), ("norm", "F32", [5])])
    assert [tuple(tensor) for tensor in read_gguf_header(Claimed(data, len(data)), len(data)).tensors] == [
        ("token_embd.weight", "Q4_K", (256, 3), 432),
        ("norm", "F32", (5,), 20),
    ]


def tensors(*places):
    """A GGUF file's tensors of type and place; each has 64 elements."""
    return b"".join(
        struct.pack("<Q", 2) + b"t%d" % number + struct.pack("<IQIQ", 1, 64, kind, place)
        for number, (kind, place) in enumerate(places)
    )


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (tensors((0, 0), (0, 128)), "overlaps another one"),
        (tensors((0, 0), (0, 288)), "leaves a gap"),
        (tensors((0, 256), (0, 0)), "leaves a gap"),
        (tensors((12, 0), (0, 64)), "rows of 64, not of whole blocks"),
    ],
)
def test_gguf_tensors_follow_one_another(rest, words):
    data = count(tensors=2, rest=rest) + bytes(1024)
    with pytest.raises(HeaderError, match=words):
        read_gguf_header(Claimed(data, len(data)), len(data))


def test_a_gguf_type_of_the_future_takes_what_is_between_it_and_the_next():
    data = count(tensors=2, rest=tensors((77, 0), (0, 320)))
    data += bytes(-len(data) % 32 + 320 + 256)
    header = read_gguf_header(Claimed(data, len(data)), len(data))
    assert [(tensor.dtype, tensor.bytes) for tensor in header.tensors] == [("type 77", 320), ("F32", 256)]


def test_a_gguf_key_twice():
    with pytest.raises(HeaderError, match="the key 'k' appears twice"):
        read_gguf_header(Claimed(count(keys=2, rest=(KEY + struct.pack("<IB", 0, 1)) * 2)), 1 << 20)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_to_a_header_is_found_or_harmless(data):
    whole = bytearray(
        data.draw(
            st.sampled_from(
                [
                    gguf(
                        {"llama.block_count": 2, "x": ["a", "b"], "y": [1, 2]}, [("a", "Q8_0", [64]), ("b", "F16", [9])]
                    ),
                    safetensors([("a", "BF16", [3, 4]), ("b", "F32", [2])], format="pt"),
                ]
            )
        )
    )
    for _number in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(whole) - 1))
        piece = data.draw(
            st.sampled_from([b"\xff" * 8, b"\0" * 8, b"[", b'"', b"}", b"\\", b"9" * 30]) | st.binary(max_size=4)
        )
        whole[place : place + data.draw(st.integers(0, 8))] = piece
        if not whole:
            return
    for read_header in (read_gguf_header, read_safetensors_header):
        source = Claimed(bytes(whole), data.draw(st.sampled_from([len(whole), len(whole) + 100, 1 << 40])))
        try:
            header = read_header(source, source.size)
        except HeaderError as error:
            assert str(error)
        else:
            assert sum(tensor.bytes for tensor in header.tensors) >= header.totals.all.bytes


def shard(number):
    """A shard of a model built as DeepSeek's are: FP8 experts with a scale for each block of 128 x 128."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for expert in range(100):
        for part, shape in (("gate_proj", [2048, 8192]), ("up_proj", [2048, 8192]), ("down_proj", [8192, 2048])):
            name = f"model.layers.{number}.mlp.experts.{expert}.{part}.weight"
            for suffix, dtype, dimensions, size in (
                ("", "F8_E4M3", shape, shape[0] * shape[1]),
                ("_scale_inv", "F32", [-(-side // 128) for side in shape], shape[0] * shape[1] // 4096),
            ):
                header[name + suffix] = {"dtype": dtype, "shape": dimensions, "data_offsets": [end, end + size]}
                end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    return Claimed(st_header(text), 8 + len(text) + end)


def test_the_headers_of_a_trillion_parameters_in_200_shards():
    shards = [shard(number) for number in range(200)]
    begin = time.process_time()
    headers = [read_safetensors_header(source, source.size) for source in shards]
    seconds = time.process_time() - begin
    # 0.2 s of one core where it was written; the bound is for slow machines.
    assert seconds < 1
    assert sum(len(header.tensors) for header in headers) == 120_000
    assert 1e12 < sum(header.totals.all.parameters for header in headers) < 1.01e12
