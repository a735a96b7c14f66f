# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Damage is found, and healed by fetching what is damaged and nothing else; a manifest that lies costs time only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
import weights_host
from weights_host import content, found, lock_of, safetensors, start, wait_for

from ansible_collections.baremetal.llm.plugins.module_utils import weights_exclusive, weights_files, weights_plan
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import (
    PIECES_NAME,
    FilePieces,
    parse_pieces,
    render_pieces,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_progress import Counter, Progress, read_progress

host, server, servers = weights_host.host, weights_host.server, weights_host.servers

MIB = 1024 * 1024
NAME = "model.safetensors"
# Each MiB differs from the others.
DATA = safetensors(12 * MIB - 200)[: 12 * MIB - 12 * MIB % 8]
DATA = DATA[:4096] + b"".join(hashlib.sha256(str(block).encode()).digest() * 128 for block in range(len(DATA) // 4096))
DATA = DATA[: len(safetensors(12 * MIB - 200))]
FILES = {"config.json": b"{}", NAME: DATA}
LOCK = lock_of(FILES)
KNOWN = {file.path: file for file in LOCK.files}


def flip(data, *positions):
    changed = bytearray(data)
    for position in positions:
        changed[position] ^= 1
    return bytes(changed)


def manifest(data=DATA, known=KNOWN, piece=MIB, lie=()):
    digests = [hashlib.sha256(data[first : first + piece]).digest() for first in range(0, len(data), piece)]
    for number in lie:
        digests[number] = bytes(32)
    return render_pieces(LOCK.model, LOCK.revision, known, {NAME: FilePieces(len(data), piece, tuple(digests))})


@pytest.fixture
def mirror(servers):
    """A mirror that has the files and their manifest."""
    made = servers()
    made.files = {**FILES, PIECES_NAME: manifest()}
    return made


@pytest.fixture
def bad(servers):
    """A source with a byte flipped in the sixth MiB, and without a manifest."""
    made = servers()
    made.files = {**FILES, NAME: flip(DATA, 5 * MIB + 17)}
    return made


def rot(path, *positions):
    """Change bytes so that no status tells it."""
    status = path.stat()
    path.write_bytes(flip(path.read_bytes(), *positions))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def piece(number):
    return f"bytes={number * MIB}-{min(len(DATA), (number + 1) * MIB) - 1}"


# A published file


def test_one_flipped_byte_in_64_mib_costs_one_piece(host, server):
    big = DATA * 6
    files = {NAME: big[: 64 * MIB]}
    files[NAME] = safetensors(64 * MIB - 4096)[:4096] + files[NAME][4096 : len(safetensors(64 * MIB - 4096))]
    lock = lock_of(files)
    server.files = dict(files)
    host.run(server, lock=lock, piece_bytes=4 * MIB)
    assert (host.target / PIECES_NAME).stat().st_mode & 0o7777 == 0o644
    server.requests.clear()
    server.sent = 0
    published = host.target / NAME
    with open(published, "rb") as engine:
        rot(published, 32 * MIB)
        outcome = host.run(server, lock=lock, verify="full", piece_bytes=4 * MIB)
        # Who has the file open keeps it.
        assert os.fstat(engine.fileno()).st_nlink == 0
        assert engine.read() == flip(files[NAME], 32 * MIB)
    assert published.read_bytes() == files[NAME]
    assert server.ranges(NAME) == [f"bytes={32 * MIB}-{36 * MIB - 1}"]
    assert server.sent == 4 * MIB
    assert server.paths() == [NAME]
    assert outcome.bytes_fetched == 4 * MIB
    assert outcome.files[0]["bytes"] == 4 * MIB
    assert "damaged in 1 of 16 pieces (bytes 33554432-37748735)" in outcome.files[0]["reason"]
    assert outcome.files[0]["reason"] in outcome.before
    assert not host.run(server, lock=lock, verify="full", piece_bytes=4 * MIB).changed


def test_the_manifest_of_a_source_heals_as_well(host, mirror, bad):
    """The first source is asked first, and delivers right pieces too."""
    host.run(mirror, lock=LOCK)
    assert not (host.target / PIECES_NAME).exists()
    mirror.requests.clear()
    rot(host.target / NAME, 0, 7 * MIB, 8 * MIB, len(DATA) - 1)
    outcome = host.run(bad, mirror, lock=LOCK, verify="full")
    assert content(host.target) == FILES
    assert bad.ranges(NAME) == [piece(0), f"bytes={7 * MIB}-{9 * MIB - 1}", piece(11)]
    assert mirror.paths() == [PIECES_NAME]
    assert "4 of 12 pieces (bytes 0-1048575, 7340032-9437183, 11534336-" in outcome.files[0]["reason"]
    assert outcome.files[0]["bytes"] == outcome.bytes_fetched


def test_bits_that_rot_are_said_and_a_program_that_writes_is_not(host, mirror, monkeypatch):
    host.run(mirror, lock=LOCK, piece_bytes=MIB)
    path = host.target / NAME
    rot(path, MIB)
    assert host.run(mirror, lock=LOCK, verify="full").findings == []
    path.write_bytes(flip(DATA, MIB))
    monkeypatch.setattr(weights_files.FileState, "matches", lambda state, status: True)
    (finding,) = host.run(mirror, lock=LOCK, verify="full").findings
    assert (finding.path, finding.problem) == (NAME, "rotten")
    assert "1 of 12 pieces (bytes 1048576-2097151), although nothing wrote to it" in finding.message


def written(path: Path) -> tuple[int, ...]:
    """What writing changes, and reading does not."""
    state = path.stat()
    return (state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def test_check_mode_says_where_and_changes_nothing(host, mirror):
    host.run(mirror, lock=LOCK, piece_bytes=MIB)
    rot(host.target / NAME, 3 * MIB)
    before = written(host.target / NAME)
    outcome = host.run(mirror, lock=LOCK, verify="full", check=True)
    assert (outcome.bytes_fetched, outcome.files[0]["bytes"]) == (MIB, MIB)
    assert "1 of 12 pieces (bytes 3145728-4194303)" in outcome.before
    assert written(host.target / NAME) == before


@pytest.mark.parametrize("change", ["shorter", "longer", "unreadable"])
def test_what_is_left_of_a_file_is_kept(host, mirror, monkeypatch, change):
    host.run(mirror, lock=LOCK, piece_bytes=MIB)
    path = host.target / NAME
    if change == "unreadable":
        preadv, opened = os.preadv, str(path)

        def broken(descriptor, buffers, offset):
            if offset // MIB == 4 and os.readlink(f"/proc/self/fd/{descriptor}") == opened:
                raise OSError(errno.EIO, "Input/output error")
            return preadv(descriptor, buffers, offset)

        def lost(place, read):
            raise OSError(errno.EIO, "Input/output error", place)

        monkeypatch.setattr(os, "preadv", broken)
        monkeypatch.setattr(weights_plan, "hash_file", lost)
    else:
        os.truncate(path, 8 * MIB - 5 if change == "shorter" else len(DATA) + 5)
    mirror.requests.clear()
    host.run(mirror, lock=LOCK, verify="full")
    expected = {"shorter": [f"bytes={7 * MIB}-{len(DATA) - 1}"], "longer": [], "unreadable": [piece(4)]}
    assert mirror.ranges(NAME) == expected[change]
    monkeypatch.undo()
    assert content(host.target) == FILES


def test_without_a_manifest_the_file_comes_again(host, bad, mirror):
    del mirror.files[PIECES_NAME]
    host.run(mirror, lock=LOCK)
    rot(host.target / NAME, MIB)
    mirror.requests.clear()
    assert host.run(mirror, lock=LOCK, verify="full").bytes_fetched == len(DATA)
    assert mirror.paths() == [PIECES_NAME, NAME]


def test_a_small_file_is_not_worth_the_question(host, mirror):
    host.run(mirror, lock=LOCK)
    (host.target / "config.json").write_bytes(b"[]")
    mirror.requests.clear()
    host.run(mirror, lock=LOCK)
    assert mirror.paths() == ["config.json"]


def test_healing_goes_on_after_a_kill(host, mirror):
    """The copy of what is right is a part like any other."""
    host.run(mirror, lock=LOCK, piece_bytes=MIB)
    rot(host.target / NAME, 2 * MIB, 9 * MIB)
    mirror.answers[NAME] = [mirror.serve, mirror.status(404)]
    host.fails(mirror, lock=LOCK, verify="full")
    assert (host.target / NAME).read_bytes() == flip(DATA, 2 * MIB, 9 * MIB)
    mirror.answers.clear()
    mirror.requests.clear()
    host.run(mirror, lock=LOCK, verify="full")
    assert mirror.ranges(NAME) == [piece(9)]
    assert content(host.target) == FILES


# A source


def test_a_damaged_source_is_mended_by_the_next_one(host, bad, mirror):
    outcome = host.run(bad, mirror, lock=LOCK)
    assert content(host.target) == FILES
    assert bad.ranges(NAME) == [None]
    assert mirror.ranges(NAME) == [piece(5)]
    (finding,) = outcome.findings
    assert (finding.source, finding.problem) == (f"http {bad.url}", "digest")
    assert "in 1 of 12 pieces (bytes 5242880-6291455)" in finding.message


def test_the_only_source_is_asked_for_the_piece_again_and_is_at_fault(host, bad):
    bad.files[PIECES_NAME] = manifest()
    error = host.fails(bad, lock=LOCK)
    assert bad.ranges(NAME) == [None, piece(5)]
    (finding,) = error.findings
    assert (finding.path, finding.problem) == (NAME, "digest")
    assert "delivered the same other bytes twice, in 1 of 12 pieces (bytes 5242880-6291455)" in finding.message
    assert "the source is at fault and not this host" in finding.message
    assert not host.target.exists()


def test_a_piece_that_was_wrong_once_is_this_hosts_or_the_networks_fault(host, bad):
    bad.files = {**FILES, PIECES_NAME: manifest()}
    bad.answers[NAME] = [bad.content(flip(DATA, 5 * MIB)), bad.serve]
    (finding,) = host.run(bad, lock=LOCK).findings
    assert bad.ranges(NAME) == [None, piece(5)]
    assert "right bytes only the second time" in finding.message
    assert "in 1 of 12 pieces" in finding.message
    assert content(host.target) == FILES


def test_the_same_piece_is_damaged_at_every_source(host, servers, bad, mirror):
    """All are asked for all of it before it is said that they hold another file."""
    mirror.files[NAME] = bad.files[NAME]
    error = host.fails(bad, mirror, lock=LOCK)
    assert mirror.ranges(NAME) == [piece(5), None]
    assert any("the sources hold another file than the lock says" in finding.message for finding in error.findings)
    assert not host.target.exists()


def test_what_an_earlier_run_left_is_mended_too(host, mirror):
    """The journal of a part that was changed while it lay there cannot tell: a claim of all of it fits."""
    mirror.answers[NAME] = [mirror.cut_after(6 * MIB), mirror.status(404)]
    host.fails(mirror, lock=LOCK)
    mirror.answers[NAME] = [mirror.content(b"")]
    (part,) = [place for place in host.parts() if place.stat().st_size > MIB]
    journal = Path(f"{part}.journal")
    header = journal.read_text().splitlines()[0]
    data = flip(DATA[: 6 * MIB], 2 * MIB)
    part.write_bytes(data + bytes(len(DATA) - len(data)))
    claim = {"end": 6 * MIB, "sha256": hashlib.sha256(data).hexdigest()}
    journal.write_text(f"{header}\n{json.dumps(claim)}\n")
    mirror.answers.clear()
    mirror.requests.clear()
    host.run(mirror, lock=LOCK)
    assert mirror.ranges(NAME) == [f"bytes={6 * MIB}-{len(DATA) - 1}", piece(2)]
    assert content(host.target) == FILES


def test_a_source_without_ranges_heals_by_the_whole_file(host, bad, mirror):
    mirror.answers[NAME] = [mirror.without_ranges]
    host.run(bad, mirror, lock=LOCK)
    assert content(host.target) == FILES


# A manifest that is not to be trusted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lambda: manifest()[:-30], "is not whole"),
        (lambda: manifest(flip(DATA, 1), {**KNOWN, NAME: lock_of({NAME: flip(DATA, 1)}).files[0]}), "is about another"),
        (lambda: manifest().replace(b"?>", b"?><!DOCTYPE metalink>"), "document type"),
        (lambda: manifest().replace(str(len(DATA)).encode(), b"1"), "is about another"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_and_the_next_one_is_asked_for(host, servers, bad, mirror, text, words):
    bad.files[PIECES_NAME] = text()
    outcome = host.run(bad, mirror, lock=LOCK)
    assert content(host.target) == FILES
    assert mirror.ranges(NAME) == [piece(5)]
    assert {(finding.source, finding.problem) for finding in outcome.findings} == {
        (f"http {bad.url}", "pieces"),
        (f"http {bad.url}", "digest"),
    }
    assert words in next(finding.message for finding in outcome.findings if finding.problem == "pieces")


def test_a_page_for_whatever_is_not_there_is_no_manifest(host, bad, mirror):
    bad.answers[PIECES_NAME] = [bad.status(200, {"Content-Type": "text/html"}, b"<html>nothing here</html>")]
    (finding,) = host.run(bad, mirror, lock=LOCK).findings
    assert finding.problem == "digest"


def test_a_manifest_that_calls_wrong_pieces_right(host, bad, mirror):
    """It says of the wrong piece that it is right, and of a right one that it is wrong."""
    lie = manifest(bad.files[NAME], lie=[3])
    bad.files[PIECES_NAME] = lie
    outcome = host.run(bad, mirror, lock=LOCK)
    assert content(host.target) == FILES
    assert mirror.ranges(NAME) == [piece(3), None]
    assert {finding.source for finding in outcome.findings} == {f"http {bad.url}"}


def test_a_manifest_that_calls_all_right(host, bad, mirror):
    bad.files[PIECES_NAME] = manifest(bad.files[NAME])
    outcome = host.run(bad, mirror, lock=LOCK)
    assert content(host.target) == FILES
    assert mirror.ranges(NAME) == [None]
    assert found(outcome) == {(NAME, "digest"), (NAME, "pieces")}


def test_a_lying_manifest_beside_a_damaged_file(host, mirror):
    """The published file was damaged in one place; the manifest says another."""
    host.run(mirror, lock=LOCK)
    rot(host.target / NAME, 5 * MIB)
    mirror.files[PIECES_NAME] = manifest(flip(DATA, 5 * MIB), lie=[1])
    mirror.requests.clear()
    host.run(mirror, lock=LOCK, verify="full")
    assert content(host.target) == FILES
    assert mirror.ranges(NAME)[-1] is None


def test_the_hosts_own_manifest_is_checked_as_any_other(host, mirror):
    host.run(mirror, lock=LOCK, piece_bytes=MIB)
    (host.target / PIECES_NAME).write_bytes(b"<metalink")
    rot(host.target / NAME, 5 * MIB)
    mirror.requests.clear()
    outcome = host.run(mirror, lock=LOCK, verify="full", piece_bytes=MIB)
    assert mirror.ranges(NAME) == [piece(5)]
    assert found(outcome) == {(PIECES_NAME, "pieces")}
    assert (host.target / PIECES_NAME).read_bytes() == manifest()


# Writing it


def test_the_manifest_appears_with_the_files_and_goes_with_them(host, mirror):
    del mirror.files[PIECES_NAME]
    outcome = host.run(mirror, lock=LOCK, piece_bytes=MIB)
    assert outcome.changed
    digests = host.target / PIECES_NAME
    assert digests.read_bytes() == manifest()
    before = written(digests)
    assert not host.run(mirror, lock=LOCK, piece_bytes=MIB).changed
    assert not host.run(mirror, lock=LOCK).changed
    assert written(digests) == before
    # Other pieces, and a manifest for a folder that has none yet: a change, and no file is fetched.
    forecast = host.run(mirror, lock=LOCK, piece_bytes=2 * MIB, check=True)
    assert forecast.changed and "digests of pieces of 2097152 bytes" in forecast.message
    mirror.requests.clear()
    assert host.run(mirror, lock=LOCK, piece_bytes=2 * MIB).changed
    assert mirror.requests == []
    assert set(parse_pieces(digests.read_bytes(), KNOWN)) == {NAME}


def test_no_manifest_of_damaged_files(host, mirror, monkeypatch):
    host.run(mirror, lock=LOCK)
    (host.target / NAME).write_bytes(flip(DATA, 5))
    monkeypatch.setattr(weights_files.FileState, "matches", lambda state, status: True)
    error = host.fails(mirror, lock=LOCK, piece_bytes=MIB)
    assert "run again with verify: full" in str(error)
    assert not (host.target / PIECES_NAME).exists()
    host.run(mirror, lock=LOCK, piece_bytes=MIB, verify="full")
    assert (host.target / PIECES_NAME).read_bytes() == manifest()


def test_a_folder_with_a_manifest_is_a_source_that_heals(host, tmp_path, mirror):
    share = tmp_path / "carried in"
    weights_host.fill(share, {**FILES, PIECES_NAME: manifest()})
    host.run(share, lock=LOCK)
    rot(host.target / NAME, MIB)
    assert host.run(share, lock=LOCK, verify="full").bytes_fetched == MIB


# Reading once, and being waited for


def test_files_that_the_record_does_not_know_are_read_once(host, mirror, monkeypatch):
    host.run(mirror, lock=LOCK)
    (host.target / ".baremetal-llm.json").unlink()
    count, hash_file = [], weights_plan.hash_file
    monkeypatch.setattr(weights_plan, "hash_file", lambda path, read: count.append(path) or hash_file(path, read))

    # As the action plugin looks first: without reading, and without asking for room for files that are there.
    def room(path):
        return os.statvfs_result((4096, 4096, 10, 10, 0, 0, 10, 10, 0, 255))

    looked = host.run(mirror, lock=LOCK, check=True, read_in_check_mode=False, statvfs=room)
    assert looked.changed and looked.files_fetched == 2
    assert count == []
    mirror.requests.clear()
    host.run(mirror, lock=LOCK, statvfs=room)
    assert sorted(count) == sorted(str(host.target / path) for path in FILES)
    assert mirror.requests == []


def test_a_run_that_gets_on_is_waited_for(host, server, monkeypatch):
    """Longer than the limit, which is for one that does not."""
    go_on = threading.Event()
    server.answers[NAME] = [server.held(1000, go_on)]
    process = start(host, server)
    waits = []
    try:
        wait_for(lambda: NAME in server.paths())
        progress = iter(range(10))

        def sleep(seconds):
            waits.append(seconds)
            if len(waits) == 12:
                go_on.set()
                process.wait()

        with monkeypatch.context() as patch:
            patch.setattr(weights_exclusive, "read_progress", lambda path: next(progress, "no more"))
            assert not host.run(server, lock_timeout_seconds=5, sleep=sleep).changed
        assert len(waits) == 12
    finally:
        go_on.set()
        process.communicate()


def test_what_counts_as_getting_on(tmp_path):
    place = tmp_path / "progress.json"
    assert read_progress(str(place)) == ()
    now, counter = [0.0], Counter("verify", {"model": "demo/tiny"})
    counter.expect(100)
    progress = Progress(str(place), counter.look, clock=lambda: now[0])
    progress.write()
    before = read_progress(str(place))
    now[0] = 5.0
    progress.write()
    assert read_progress(str(place)) == before
    counter.add(10)
    progress.write()
    assert read_progress(str(place)) != before
    place.write_text("[]")
    assert read_progress(str(place)) == ()


def test_what_was_there_is_not_what_came(tmp_path):
    """A run that goes on has most of the file at once; that is no speed."""
    now, facts = [0.0], {"bytes_total": 1000, "bytes_done": 0, "bytes_moved": 0}
    progress = Progress(str(tmp_path / "progress.json"), lambda: dict(facts), clock=lambda: now[0])
    progress.write()
    now[0], facts["bytes_done"], facts["bytes_moved"] = 2.0, 920, 20
    progress.write()
    written = json.loads((tmp_path / "progress.json").read_text())
    assert (written["bytes_per_second"], written["seconds_left"]) == (10, 8)
