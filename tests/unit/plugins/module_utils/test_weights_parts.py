# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pieces that fetching is made of, each alone: segments, journal, hasher, tuner, patience, progress."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_errors import Retry, SourceError
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import file_system
from ansible_collections.baremetal.llm.plugins.module_utils.weights_hash import Buffers, Hasher
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import cut
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Line, Patience, Transport, Tuner
from ansible_collections.baremetal.llm.plugins.module_utils.weights_progress import Progress
from ansible_collections.baremetal.llm.plugins.module_utils.weights_segments import (
    GIB,
    MIB,
    Claim,
    Journal,
    Segments,
    kept_bytes,
    merged,
    read_claims,
    segment_bytes_of,
    without,
)

DATA = random.Random(1).randbytes(3 * MIB + 77)
FILE = LockFile("model.gguf", len(DATA), hashlib.sha256(DATA).hexdigest())


# Segments


intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(intervals, st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_intervals_are_sets_of_bytes(added, removed):
    places: set[int] = set()
    kept: list[tuple[int, int]] = []
    for first, end in added:
        places |= set(range(first, end))
        kept = merged(kept, first, end)
    assert [place for first, end in kept for place in range(first, end)] == sorted(places)
    # Neighbours are one.
    assert all(before[1] < after[0] for before, after in zip(kept, kept[1:]))
    left = without(kept, *removed) if removed[0] < removed[1] else kept
    places -= set(range(*removed))
    assert [place for first, end in left for place in range(first, end)] == sorted(places)


@given(
    st.lists(st.sampled_from(["take", "long", "some", "all", "release", "shorten", "forget"]), max_size=60), st.data()
)
def test_every_byte_is_there_or_free_or_leased(steps, data):
    segments = Segments(1000, 64, smallest_split=20)
    leases = []
    for step in steps:
        if step in ("take", "long"):
            lease = segments.take(long=step == "long")
            if lease is not None:
                leases.append(lease)
        elif step == "shorten":
            segments.shorten()
        elif step == "forget":
            first = data.draw(st.integers(0, 900))
            if not leases:
                segments.forget(first, first + 50)
        elif leases:
            lease = leases[data.draw(st.integers(0, len(leases) - 1))]
            if step != "release" and lease.left:
                segments.advance(lease, lease.left if step == "all" else min(lease.left, 17))
            if step == "release" or not lease.left:
                segments.release(lease)
                leases.remove(lease)
        on_their_way = sum(lease.left for lease in leases)
        assert segments.have + segments.free + on_their_way == 1000
    for lease in leases:
        segments.release(lease)
    while not segments.complete:
        lease = segments.take()
        assert lease is not None
        segments.advance(lease, lease.left)
        segments.release(lease)
    assert segments.reach(0) == 1000


def test_segments_are_handed_out_from_the_beginning_and_the_last_ones_are_shared():
    segments = Segments(100, 40, [(10, 30)], smallest_split=5)
    leases = [segments.take() for _number in range(3)]
    assert [(lease.position, lease.end) for lease in leases] == [(0, 10), (30, 70), (70, 100)]
    segments.advance(leases[1], 20)
    # Nothing is free: half of the longest is taken over.
    shared = segments.take()
    assert (shared.position, shared.end) == (85, 100)
    assert leases[2].end == 85
    again = [segments.take() for _number in range(30)]
    assert again[-1] is None


def test_a_long_lease_gives_the_rest_back():
    segments = Segments(1000, 100)
    lease = segments.take(long=True)
    assert (lease.position, lease.end) == (0, 1000)
    segments.advance(lease, 30)
    segments.shorten()
    assert lease.end == 130
    assert segments.free == 870


@pytest.mark.parametrize(("size", "expected"), [(1, 8 * MIB), (5 * GIB, 16 * MIB), (80 * GIB, 32 * MIB)])
def test_segment_sizes(size, expected):
    assert segment_bytes_of(size) == expected


# Journal


@pytest.fixture
def part(tmp_path):
    path = tmp_path / "x.part"
    path.write_bytes(DATA)
    return str(path)


def journal_of(part, *entries, file=FILE):
    journal = Journal(part, file)
    journal.open()
    for entry in entries:
        if len(entry) == 3:
            journal.segment(*entry)
        elif isinstance(entry[1], str):
            journal.prefix(*entry)
        else:
            journal.forget(*entry)
    journal.close()
    return journal


def test_the_journal_gives_back_what_was_written(part):
    journal_of(part, (100, 200, 7), (50, "a" * 64), (80, "b" * 64), (300, 400, 8))
    assert read_claims(part, FILE) == [
        Claim(0, 50, sha256="a" * 64),
        Claim(50, 80, sha256="b" * 64),
        Claim(100, 200, crc32=7),
        Claim(300, 400, crc32=8),
    ]
    assert kept_bytes(part, FILE) == 280


def test_the_later_line_counts(part):
    journal_of(
        part, (100, 200, 7), (150, 250, 8), (300, 400, 9), (300, 400), (500, 600, 1), (600, "a" * 64), (590, 600)
    )
    assert read_claims(part, FILE) == [Claim(150, 250, crc32=8)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        '{"first": 5}',
        '{"first": -1, "end": 5, "crc32": 1}',
        '{"first": 9, "end": 5, "crc32": 1}',
        '{"first": 0, "end": 99999999999, "crc32": 1}',
        '{"end": "x", "sha256": "y"}',
        '{"first": 1.5, "end": 2}',
        "\0\0\0\0",
    ],
)
def test_a_line_that_makes_no_sense_is_no_claim(part, line):
    journal = journal_of(part, (100, 200, 7))
    with open(journal.path, "a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    journal_of(part, (200, 300, 8))
    assert read_claims(part, FILE) == [Claim(100, 200, crc32=7), Claim(200, 300, crc32=8)]
    with open(journal.path, "a", encoding="utf-8") as stream:
        stream.write('{"first": 300, "end": 400, "crc32": 1}')
    assert kept_bytes(part, FILE) == 200


def test_a_journal_of_another_content_or_without_a_part_is_no_claim(part):
    journal_of(part, (100, 200, 7))
    assert read_claims(part, LockFile(FILE.path, FILE.size, "0" * 64)) == []
    assert read_claims(part, LockFile(FILE.path, FILE.size - 1, FILE.sha256)) == []
    os.unlink(part)
    assert read_claims(part, FILE) == []


# Hasher


def hashed(path, segments, claims=(), **options):
    descriptor = os.open(path, os.O_RDWR)
    try:
        buffers = Buffers(8)
        hasher = Hasher(descriptor, segments, buffers, claims, **options)
        hasher.start()
        yield hasher
        hasher.close()
        assert hasher.error is None
    finally:
        os.close(descriptor)


def wait_until(segments, condition):
    with segments.changed:
        assert segments.changed.wait_for(condition, 10)


def test_bytes_that_arrive_in_any_order(part):
    segments = Segments(FILE.size, 256 * 1024)
    run = hashed(part, segments)
    hasher = next(run)
    leases = [segments.take() for _number in range(13)]
    random.Random(3).shuffle(leases)
    for lease in leases:
        segments.advance(lease, lease.left)
    wait_until(segments, lambda: hasher.finished)
    assert hasher.sha256() == FILE.sha256
    list(run)


def test_bytes_that_are_handed_over_are_not_read_from_the_disk(part, monkeypatch):
    monkeypatch.setattr(os, "preadv", None)
    segments = Segments(FILE.size, 256 * 1024)
    checkpoints = []
    run = hashed(part, segments, checkpoint=lambda *point: checkpoints.append(point), checkpoint_bytes=MIB)
    hasher = next(run)
    lease = segments.take(long=True)
    while lease.left:
        buffer = hasher._buffers.get()
        count = min(len(buffer), lease.left)
        buffer[:count] = DATA[lease.position : lease.position + count]
        assert hasher.offer(buffer, lease.position, count, wait=True)
        segments.advance(lease, count)
    wait_until(segments, lambda: hasher.finished)
    assert hasher.sha256() == FILE.sha256
    list(run)
    assert checkpoints[0] == (MIB, hashlib.sha256(DATA[:MIB]).hexdigest())
    assert checkpoints[-1] == (FILE.size, FILE.sha256)
    assert not hasher.offer(bytearray(5), 5, 5, wait=False)


@pytest.mark.parametrize("damage", [0, 70_000, 1_000_000, MIB - 1, MIB, 2 * MIB + 5, None])
@pytest.mark.parametrize("kind", ["crc32", "sha256"])
def test_claims_are_judged_and_what_is_torn_comes_again(part, kind, damage):
    edges = [0, 65_536, MIB, 2 * MIB, 2 * MIB + 600_000]
    if kind == "crc32":
        claims = [Claim(a, b, crc32=zlib.crc32(DATA[a:b])) for a, b in zip(edges, edges[1:])]
    else:
        claims = [Claim(a, b, sha256=hashlib.sha256(DATA[:b]).hexdigest()) for a, b in zip(edges, edges[1:])]
    if damage is not None:
        with open(part, "r+b") as stream:
            stream.seek(damage)
            stream.write(bytes([DATA[damage] ^ 255]))
    segments = Segments(FILE.size, 256 * 1024, [(0, edges[-1])])
    torn = []
    run = hashed(part, segments, claims, torn=lambda *stretch: torn.append(stretch))
    hasher = next(run)
    expected = [(a, b) for a, b in zip(edges, edges[1:]) if damage is not None and a <= damage < b]
    wait_until(segments, lambda: hasher.position >= edges[-1] or segments.free > FILE.size - edges[-1])
    while not segments.complete:
        lease = segments.take()
        with open(part, "r+b") as stream:
            stream.seek(lease.position)
            stream.write(DATA[lease.position : lease.end])
        segments.advance(lease, lease.left)
        segments.release(lease)
    wait_until(segments, lambda: hasher.finished)
    assert hasher.sha256() == FILE.sha256
    assert torn == expected
    list(run)


# Pace


def climb(tuner, rate_of, seconds=10.0):
    """What the tuner makes of a line that brings `rate_of(connections)`."""
    now = received = 0.0
    while now < seconds:
        now += 0.01
        received += 0.01 * rate_of(tuner.total)
        tuner.tick(now, int(received), tuner.total)
    return tuner.total


@pytest.mark.parametrize(
    ("latency", "rate_of", "expected"),
    [
        # Fast already: a second connection is not even tried.
        (0.0005, lambda count: 600e6, 1),
        # Slow, and no connection helps.
        (0.0005, lambda count: 50e6, 1),
        (0.03, lambda count: 50e6, 8),
        # Each connection brings 40 MB/s, all together 400.
        (0.02, lambda count: min(400e6, 40e6 * count), 16),
        (0.0005, lambda count: min(400e6, 40e6 * count), 16),
        (0.02, lambda count: min(130e6, 40e6 * count), 8),
    ],
)
def test_the_number_of_connections_is_found(latency, rate_of, expected):
    tuner = Tuner()
    assert tuner.total == 1
    tuner.answered(latency)
    assert climb(tuner, rate_of) == expected


def test_the_number_of_connections_that_was_asked_for_stays():
    tuner = Tuner(3)
    tuner.answered(0.5)
    assert climb(tuner, lambda count: count * 1e6) == 3


def test_a_line_that_becomes_slower_is_looked_at_again():
    tuner = Tuner()
    tuner.answered(0.0005)
    assert climb(tuner, lambda count: 600e6) == 1
    now, received = 100.0, 0.0
    for _step in range(3000):
        now += 0.01
        received += 0.01 * 30e6 * tuner.total
        tuner.tick(now, int(received), tuner.total)
    assert tuner.total == 16


def test_a_refused_connection_is_not_asked_for_again():
    tuner = Tuner()
    tuner.answered(0.02)
    tuner.refused(2)
    assert climb(tuner, lambda count: 1e6 * count, seconds=100) == 2


class Source:
    label = "http test"


def patience(clock, **options):
    return Patience(Line(Source(), Transport(clock=clock, jitter=lambda: 0.5, **options)))


def test_pauses_grow_until_something_comes():
    now = [0.0]
    one = patience(lambda: now[0])
    one.line.reached = True
    pauses = []
    for _number in range(4):
        pauses.append(one.pause_after(Retry(SourceError("x", "broke"))))
        now[0] += pauses[-1]
    assert pauses == [1, 2, 4, 8]
    one.add(10 * MIB)
    assert one.pause_after(Retry(SourceError("x", "broke"))) == 1


def test_a_server_that_was_never_reached_is_left_sooner():
    now = [0.0]
    one = patience(lambda: now[0])
    with pytest.raises(SourceError, match="without progress"):
        for _number in range(100):
            now[0] += one.pause_after(Retry(SourceError("x", "refused")))
    assert now[0] <= 30


def test_a_server_that_wants_too_long_a_pause():
    one = patience(lambda: 0.0)
    one.line.reached = True
    with pytest.raises(SourceError, match="asks to wait 3600 s"):
        one.pause_after(Retry(SourceError("x", "busy"), 3600.0))


# Smaller things


def test_progress_has_rate_and_time_left(tmp_path):
    now = [0.0]
    done = [0]
    place = tmp_path / "progress.json"
    progress = Progress(str(place), lambda: {"bytes_done": done[0], "bytes_total": 1000}, clock=lambda: now[0])
    progress.write()
    assert json.loads(place.read_text())["seconds_left"] is None
    now[0], done[0] = 5.0, 500
    progress.write()
    facts = json.loads(place.read_text())
    assert (facts["bytes_per_second"], facts["seconds_left"], facts["process"]) == (100, 5, os.getpid())
    assert [entry.name for entry in tmp_path.iterdir()] == ["progress.json"]


def test_a_disk_that_refuses_the_progress_file_does_not_end_the_run(tmp_path):
    with Progress(str(tmp_path / "absent/progress.json"), lambda: {"bytes_done": 0, "bytes_total": 1}):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET https://x/y?X-Amz-Signature=abc failed", "GET https://x/y?… failed"),
        ("<https://x/y?a=b>", "<https://x/y?…>"),
        ("https://me:secret@x/y", "https://…@x/y"),
    ],
)
def test_what_may_be_secret_is_cut(text, expected):
    assert cut(text) == expected


def test_the_kind_of_a_file_system():
    assert file_system("/proc/self/x") == "proc"
    assert file_system("/sys/x") in ("sysfs", "")
