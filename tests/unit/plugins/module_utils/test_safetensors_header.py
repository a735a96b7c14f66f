# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_sample import raw_safetensors, safetensors

from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import (
    HeaderError,
    read_safetensors_header,
)

TENSORS = (("a", "BF16", [3, 4]), ("b", "F32", []), ("c", "BF16", [0, 7]), ("q", "U8", [5]))


class Reads:
    def __init__(self, data):
        self.data = data
        self.spans = []

    def __call__(self, first, end):
        assert 0 <= first < end <= len(self.data), (first, end)
        self.spans.append((first, end))
        return self.data[first:end]


def header_of(data):
    return read_safetensors_header(Reads(data), len(data))


def test_totals():
    header = header_of(safetensors(TENSORS, format="pt"))
    assert header.names == {"a", "b", "c", "q"}
    assert header.totals.as_dict() == {
        "count": 4,
        "parameters": 18,
        "bytes": 33,
        "dtypes": {
            "BF16": {"count": 2, "parameters": 12, "bytes": 24},
            "F32": {"count": 1, "parameters": 1, "bytes": 4},
            "U8": {"count": 1, "parameters": 5, "bytes": 5},
        },
    }


def test_only_the_header_is_read():
    data = safetensors([("w", "U8", [3_000_000])])
    reads = Reads(data)
    read_safetensors_header(reads, len(data))
    assert reads.spans == [(0, 256 * 1024)]
    long = safetensors([(f"{'x' * 100}{number}", "U8", [1]) for number in range(5000)])
    reads = Reads(long)
    assert read_safetensors_header(reads, len(long)).totals.all.count == 5000
    assert [first for first, _end in reads.spans] == [0, 256 * 1024]
    assert reads.spans[1][1] == len(long) - 5000


def test_what_the_library_writes():
    library, numpy = pytest.importorskip("safetensors.numpy"), pytest.importorskip("numpy")
    data = library.save({"w": numpy.zeros([2, 3], numpy.float16)}, {"format": "np"})
    assert header_of(data).totals.as_dict()["dtypes"] == {"F16": {"count": 1, "parameters": 6, "bytes": 12}}


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def one(**keys):
    return json.dumps({"w": entry(**keys)}).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too few"),
        (b"1234567", "too few"),
        (struct.pack("<Q", 2**40) + b"{}", "claims 1099511627776 bytes"),
        (raw_safetensors(b"{}", 0, claimed=3), "claims 3 bytes, the file has 10"),
        (raw_safetensors(b"[]", 0), "not that of a safetensors file"),
        (raw_safetensors(b"{\xff", 0), "not that of a safetensors file"),
        (raw_safetensors(b'{"a":' * 100_000, 0), "not that of a safetensors file"),
        (raw_safetensors(b'{"w": {}, "w": {}}', 0), "not that of a safetensors file"),
        (raw_safetensors(b'{"w": 1}', 0), "lacks"),
        (raw_safetensors(b'{"w": {"dtype": "U8", "shape": [4], "data_offsets": 4}}', 4), "lacks"),
        (raw_safetensors(b'{"w": {"dtype": "U8", "shape": 4, "data_offsets": [0, 4]}}', 4), "no proper"),
        (raw_safetensors(one(dtype=1), 4), "no proper"),
        (raw_safetensors(one(shape=[4.0]), 4), "no proper"),
        (raw_safetensors(one(shape=[-4]), 4), "no proper"),
        (raw_safetensors(one(shape=[2**40, 2**40]), 4), "absurd"),
        (raw_safetensors(one(shape=[5]), 4), "contradict"),
        (raw_safetensors(one(offsets=[4, 0]), 4), "contradict"),
        (raw_safetensors(one(), 3), "end at byte"),
        (raw_safetensors(one(), 5), "end at byte"),
        (raw_safetensors(one(offsets=[1, 5]), 5), "leaves a gap"),
        (raw_safetensors(json.dumps({"v": entry(), "w": entry(offsets=[2, 6])}).encode(), 6), "overlaps"),
    ],
)
def test_refused(data, words):
    with pytest.raises(HeaderError, match=words):
        header_of(data)


def test_a_data_type_of_the_future_is_counted():
    data = raw_safetensors(one(dtype="F2", shape=[16]), 4)
    assert header_of(data).totals.as_dict()["dtypes"] == {"F2": {"count": 1, "parameters": 16, "bytes": 4}}


positions = st.integers(0, 8) | st.sampled_from([-1, 2**63, 2**64, True, None, "1"])
hostile = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["U8", "F4", "BF16", "X", None]),
            "shape": st.lists(positions, max_size=3),
            "data_offsets": st.lists(positions, min_size=2, max_size=2),
        }
    ),
    max_size=2,
)


@settings(max_examples=150, deadline=None)
@given(hostile, st.integers(0, 12))
def test_what_is_accepted_is_what_the_library_accepts(header, length):
    library = pytest.importorskip("safetensors")
    data = raw_safetensors(json.dumps(header).encode(), length)
    try:
        ours = header_of(data)
    except HeaderError:
        return
    if not ours.totals.dtypes or any(name == "X" for name, _totals in ours.totals.dtypes) or "__metadata__" in header:
        return
    assert {name for name, _tensor in library.deserialize(data)} == ours.names
