# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes wrong on the way of weights: what the run says, what it leaves on the disk, what the next run does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import weights_host
from weights_host import FILES, LOCK, WEIGHTS, content, found, lock_of, wait_for

from ansible_collections.baremetal.llm.plugins.module_utils import weights_part, weights_plan

certificate, host = weights_host.certificate, weights_host.host
server, servers = weights_host.server, weights_host.servers

SEGMENT = 256 * 1024
PATH = "model.safetensors"
OTHER = bytes(255 - value for value in WEIGHTS[:1000]) + WEIGHTS[1000:]


def published(host):
    return host.target.exists()


def mended(host, source):
    """The next run, with a source that is all right, brings everything; the one after it nothing."""
    host.run(source)
    assert content(host.target) == FILES
    assert not host.run(source).changed
    assert list(host.work.iterdir()) == [host.work / "lock"]


# What a server does to ranges


def test_a_file_that_changes_at_the_source_once_is_begun_anew(host, server):
    server.etags[PATH] = '"one"'

    def changes(handler, path):
        server.etags[PATH] = '"two"'
        server.serve(handler, path)

    server.answers[PATH] = [server.cut_after(1_000_000), changes, server.serve]
    outcome = host.run(server)
    assert content(host.target) == FILES
    assert outcome.findings == []
    assert [request.headers.get("If-Range") for request in server.requests if request.path == PATH][:2] == [
        None,
        '"one"',
    ]
    # All of it came again, since what came before may be of another file.
    assert outcome.bytes_fetched == LOCK.total_bytes + 1_000_000


def test_a_file_that_changes_again_and_again(host, servers):
    bad, good = servers(), servers()
    count = iter(range(100))

    def changes(handler, path):
        bad.etags[PATH] = f'"{next(count)}"'
        bad.cut_after(300_000)(handler, path)

    bad.answers[PATH] = [changes]
    error = host.fails(bad)
    assert (PATH, "source_changed") in found(error)
    assert "source changed" in str(error)
    assert not published(host)
    mended(host, good)


def test_the_size_changes_in_mid_file(host, servers):
    bad, good = servers(), servers()
    bad.answers[PATH] = [bad.cut_after(1_000_000), bad.content(WEIGHTS + b"more")]
    outcome = host.run(bad, good)
    assert {finding.problem for finding in outcome.findings} <= {"source_changed", "size"}
    assert outcome.findings
    assert content(host.target) == FILES


def test_a_range_that_cannot_be_satisfied(host, servers):
    """A server that answers 416 holds a shorter file, or has no idea of ranges."""
    bad, good = servers(), servers()
    bad.answers[PATH] = [
        bad.cut_after(1_000_000),
        bad.status(416, {"Content-Range": f"bytes */{len(WEIGHTS) - 9}"}, b""),
    ]
    outcome = host.run(bad, good)
    assert {finding.problem for finding in outcome.findings} <= {"source_changed", "size"}
    assert outcome.findings
    assert content(host.target) == FILES


def test_416_for_a_range_that_exists(host, server):
    server.answers[PATH] = [server.cut_after(1_000_000), server.status(416), server.serve]
    host.run(server)
    assert server.ranges(PATH)[-1] is None
    assert content(host.target) == FILES


@pytest.mark.parametrize(
    "text", ["bytes 5-9/10", "bytes 0-99/*", "pages 1-2/3", "", f"bytes 1000000-{len(WEIGHTS)}/{len(WEIGHTS)}"]
)
def test_a_range_that_is_another_than_the_one_asked_for(host, servers, text):
    bad, good = servers(), servers()
    bad.answers[PATH] = [bad.cut_after(1_000_000), bad.status(206, {"Content-Range": text}, WEIGHTS[:100])]
    outcome = host.run(bad, good)
    assert {finding.problem for finding in outcome.findings} <= {"range", "size", "source_changed"}
    assert outcome.findings
    assert content(host.target) == FILES


# Which side is at fault


def test_the_same_wrong_bytes_twice_are_the_sources_fault(host, servers):
    bad, good = servers(), servers()
    bad.files[PATH] = OTHER
    error = host.fails(bad)
    (finding,) = [finding for finding in error.findings if finding.path == PATH]
    assert finding.problem == "digest"
    assert "the source is at fault and not this host" in finding.message
    assert finding.actual == hashlib.sha256(OTHER).hexdigest()
    assert not published(host)
    assert bad.paths().count(PATH) == 2
    # Not a byte of it is kept.
    assert sum(part.stat().st_size for part in host.parts()) == LOCK.total_bytes - len(WEIGHTS)
    mended(host, good)


def test_other_wrong_bytes_each_time_are_this_hosts_fault(host, server):
    server.answers[PATH] = [server.content(OTHER), server.content(b"x" + OTHER[1:])]
    error = host.fails(server)
    (finding,) = [finding for finding in error.findings if finding.path == PATH]
    assert "network of this host are at fault" in finding.message
    for data in (OTHER, b"x" + OTHER[1:]):
        assert hashlib.sha256(data).hexdigest() in str(finding)


def test_wrong_once_and_right_the_second_time(host, server):
    server.answers[PATH] = [server.content(OTHER), server.serve]
    outcome = host.run(server)
    assert content(host.target) == FILES
    (finding,) = outcome.findings
    assert "only the second time" in finding.message


def test_two_sources_with_the_same_other_file(host, servers):
    first, second = servers(), servers()
    first.files[PATH] = second.files[PATH] = OTHER
    error = host.fails(first, second)
    assert "the sources hold another file than the lock says" in str(error)
    assert first.paths().count(PATH) == second.paths().count(PATH) == 1


def test_a_lock_with_a_wrong_size(host, server):
    lock = lock_of(FILES)
    files = tuple(
        weights_host.LockFile(file.path, file.size + (5 if file.path == PATH else 0), file.sha256)
        for file in lock.files
    )
    wrong = weights_host.Lock(lock.model, lock.revision, files)
    error = host.fails(server, host.share, lock=wrong)
    assert found(error) == {(PATH, "size")}
    assert f"expected {len(WEIGHTS) + 5}, got {len(WEIGHTS)}" in str(error)
    assert not published(host)


# Busy, slow and silent servers


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        # By the server's clock, an hour wrong here.
        ({"Retry-After": "Fri, 20 Nov 2020 10:00:20 GMT", "Date": "Fri, 20 Nov 2020 10:00:00 GMT"}, 20),
        ({"RateLimit": '"api";r=0;t=11'}, 11),
        ({"RateLimit-Reset": "13"}, 13),
    ],
)
def test_every_form_in_which_a_server_asks_to_wait(host, server, headers, seconds):
    def busy(handler, path):
        handler.send_response_only(429)
        for key, value in {**headers, "Content-Length": "0"}.items():
            handler.send_header(key, value)
        handler.end_headers()

    server.answers[PATH] = [busy, server.serve]
    host.run(server, parallel_files=1)
    assert host.waits[0] == pytest.approx(seconds, abs=0.5)
    assert content(host.target) == FILES


def test_a_pause_is_for_all_files_of_the_source(host, server):
    server.answers[PATH] = [server.status(429, {"Retry-After": "9"}), server.serve]
    host.run(server, parallel_files=1)
    assert len(host.waits) == 1
    host.clock.ahead = 0.0


def test_a_source_without_progress_is_left_after_a_time_not_after_so_many_tries(host, servers):
    bad, good = servers(), servers()
    bad.answers[PATH] = [bad.cut_after(2_000_000), bad.status(503)]
    # File after file, so that all pauses are of this one.
    outcome = host.run(bad, good, transport={"patience_seconds": 200}, parallel_files=1)
    assert 90 < sum(host.waits) <= 200
    (finding,) = [finding for finding in outcome.findings if finding.path == PATH]
    assert finding.problem == "http_status"
    assert "without progress" in finding.message
    # What came from it is kept.
    assert good.ranges(PATH)[0] == f"bytes=2000000-{len(WEIGHTS) - 1}"
    assert content(host.target) == FILES


def test_a_line_that_breaks_often_but_brings_something_is_not_left(host, server):
    server.answers[PATH] = [*(server.cut_after(2**20 + 1) for _number in range(2)), server.serve]
    server.bytes_per_second = 0
    outcome = host.run(server, transport={"retries": 1})
    assert content(host.target) == FILES
    assert outcome.retries >= 2
    assert outcome.findings == []


def test_a_silent_server_is_left(host, servers):
    bad, good = servers(), servers()
    bad.answers[PATH] = [bad.held(500_000, threading.Event(), 3.0)]
    began = time.monotonic()
    outcome = host.run(bad, good, transport={"idle_seconds": 0.3, "patience_seconds": 0.2})
    assert time.monotonic() - began < 3
    assert {finding.problem for finding in outcome.findings} == {"connection"}
    assert "no byte came for too long" in str(outcome.findings[0])
    assert good.ranges(PATH)[0].startswith("bytes=500000-")
    assert content(host.target) == FILES


def test_a_trickle_is_dropped(host, servers):
    """Every byte sets an idle timer back; only a rule about the pace sees this."""
    bad, good = servers(), servers()
    bad.answers[PATH] = [bad.paced(8_000, chunk=400)]
    transport = {"pace_seconds": 0.5, "patience_seconds": 0.1}
    outcome = host.run(bad, good, transport=transport)
    (finding,) = [finding for finding in outcome.findings if finding.path == PATH]
    assert finding.problem == "trickle"
    assert "KiB per second" in finding.message
    assert int(re.match(r"bytes=(\d+)-", good.ranges(PATH)[0])[1]) > 0
    assert content(host.target) == FILES


def test_the_deadline_ends_the_run_and_keeps_what_came(host, servers):
    slow, good = servers(), servers()
    slow.answers[PATH] = [slow.paced(600_000)]
    error = host.fails(slow, good, transport={"deadline_seconds": 1, "clock": time.monotonic})
    assert "deadline_seconds (1) passed" in str(error)
    assert good.requests == []
    assert not published(host)
    slow.answers.clear()
    outcome = host.run(slow)
    assert outcome.bytes_fetched < LOCK.total_bytes - 200_000
    assert content(host.target) == FILES


def test_a_clock_that_jumps_changes_nothing(host, server, monkeypatch):
    real = time.time
    count = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (1e8 if next(count) % 2 else -1e8))
    server.answers[PATH] = [server.cut_after(1_000_000), server.status(503, {"Retry-After": "2"}), server.serve]
    outcome = host.run(server, transport={"deadline_seconds": 1000})
    assert sum(host.waits) < 10
    assert outcome.findings == []
    assert content(host.target) == FILES


# Several connections


def test_slow_connections_are_added_up(host, server):
    """40 MB/s from each connection may be all that a provider gives; here it is 1 MB/s from one and 4 from four."""
    server.latency_seconds = 0.02
    server.answers[PATH] = [server.paced(1_000_000)]
    outcome = host.run(server, transport={"connections": 0, "segment_bytes": 128 * 1024})
    assert outcome.connections >= 4
    assert outcome.seconds < 2
    assert content(host.target) == FILES
    firsts = [int(re.match(r"bytes=(\d+)-", text)[1]) for text in server.ranges(PATH)]
    assert len(firsts) == len(set(firsts))
    assert outcome.bytes_fetched == LOCK.total_bytes


def test_connections_that_are_asked_for(host, server):
    server.answers[PATH] = [server.paced(2_000_000)]
    outcome = host.run(server, parallel_files=1, transport={"connections": 3})
    assert outcome.connections == 3
    assert server.most_open == 3
    assert content(host.target) == FILES


def test_a_server_that_refuses_more_connections_gets_fewer(host, server):
    def two_at_most(handler, path):
        if server.open > 2:
            server.status(503)(handler, path)
        else:
            server.paced(3_000_000)(handler, path)

    server.answers[PATH] = [two_at_most]
    outcome = host.run(server, parallel_files=1, transport={"connections": 8})
    assert content(host.target) == FILES
    assert outcome.findings == []
    # None waited for long: the refused ones left the work to the others.
    assert sum(host.waits) < 20
    assert len(server.ranges(PATH)) < 60


def test_connections_that_break_in_mid_segment_lose_nothing(host, server):
    server.answers[PATH] = [server.cut_after(50_000) if number % 2 else server.serve for number in range(12)]
    server.answers[PATH].append(server.serve)
    outcome = host.run(server, transport={"connections": 4})
    assert content(host.target) == FILES
    assert outcome.bytes_fetched == LOCK.total_bytes


def test_the_last_segment_does_not_wait_for_a_connection_that_is_stuck(host, server):
    server.answers[PATH] = [server.paced(10_000, chunk=500), server.serve]
    began = time.monotonic()
    outcome = host.run(server, parallel_files=1, transport={"connections": 2})
    # A segment at 10 kB/s takes 26 seconds.
    assert time.monotonic() - began < 8
    assert content(host.target) == FILES
    assert outcome.findings == []


def test_killed_with_several_connections(host, server, tmp_path):
    """What several connections wrote out of order is kept too: at most a segment of each comes twice."""
    files = {PATH: WEIGHTS}
    pause = threading.Event()
    slow = server.paced(400_000)
    server.answers[PATH] = [slow]
    script = weights_host.RUN.format(**weights_host.facts(host), url=server.url)
    script = script.replace("connections=1", "connections=4").replace("256 * 1024", "64 * 1024")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    wait_for(lambda: weights_host.kept(host) > len(WEIGHTS) / 3)
    process.kill()
    process.wait()
    pause.set()
    kept = weights_host.kept(host)
    server.answers.clear()
    sent_before = server.sent
    outcome = host.run(server)
    assert content(host.target) == FILES
    assert outcome.bytes_fetched <= LOCK.total_bytes - kept
    assert sent_before - kept - (LOCK.total_bytes - len(files[PATH])) <= 4 * 64 * 1024 + 4 * 65536


def test_one_torn_segment_is_fetched_again_and_no_other(host, server):
    """A power cut: the journal speaks of bytes that never reached the disk."""
    # The first connection holds the hash up, so that the others' segments are judged by their own line only.
    server.answers[PATH] = [server.paced(30_000), server.paced(400_000)]
    host.fails(
        server, transport={"connections": 4, "deadline_seconds": 1, "clock": time.monotonic, "segment_bytes": 65536}
    )
    server.answers.clear()
    part = max(host.parts(), key=lambda part: part.stat().st_size)
    lines = [json.loads(line) for line in Path(f"{part}.journal").read_text().splitlines()]
    segments = [line for line in lines if "crc32" in line]
    reached = max((line["end"] for line in lines if "sha256" in line and "end" in line), default=0)
    torn = next(line for line in reversed(segments) if line["first"] >= reached)
    with part.open("r+b") as stream:
        stream.seek(torn["first"])
        stream.write(bytes(torn["end"] - torn["first"]))
    forecast = host.run(server, check=True)
    outcome = host.run(server)
    assert outcome.bytes_fetched - forecast.bytes_fetched == torn["end"] - torn["first"]
    assert outcome.findings == []
    assert content(host.target) == FILES


# Redirects and secrets


def test_a_signed_address_that_expires_is_asked_for_again(host, servers):
    front, storage = servers(), servers()
    issued = []

    def sign(handler, path):
        issued.append(len(issued) + 1)
        front.redirect(f"{storage.url}{path}?signature={issued[-1]}")(handler, path)

    front.answers[PATH] = [sign]
    storage.files = {}
    storage.answers[f"{PATH}?signature=1"] = [
        lambda handler, path: storage._head_and_body(handler, path, WEIGHTS, most=1_000_000),
        storage.status(403),
    ]
    storage.answers[f"{PATH}?signature=2"] = [lambda handler, path: storage._head_and_body(handler, path, WEIGHTS)]
    outcome = host.run(front)
    assert issued == [1, 2]
    assert content(host.target) == FILES
    assert outcome.findings == []
    assert storage.ranges(f"{PATH}?signature=2") == [f"bytes=1000000-{len(WEIGHTS) - 1}"]


def test_one_address_is_resolved_once_for_all_connections(host, servers):
    """The Hub counts what is asked of it; the object store behind it does not care."""
    front, storage = servers(), servers()
    front.answers[PATH] = [front.redirect(f"{storage.url}{PATH}?signature=1")]
    storage.answers[f"{PATH}?signature=1"] = [lambda handler, path: storage._head_and_body(handler, path, WEIGHTS)]
    host.run(front, transport={"connections": 4})
    assert content(host.target) == FILES
    assert front.paths().count(PATH) == 1
    assert len(storage.requests) > 4


def test_no_message_shows_a_signature_or_a_token(host, servers, tmp_path, capfd):
    front, storage = servers(), servers()
    token = tmp_path / "token"
    token.write_text("hf_topsecret")
    storage.close()
    prefix = f"demo/tiny/resolve/{weights_host.REVISION}/"
    for path in FILES:
        front.answers[prefix + path] = [front.redirect(f"{storage.url}{path}?X-Amz-Signature=topsecret&x=1")]
    error = host.fails({"type": "hub", "endpoint": front.url}, token_file=str(token))
    assert "topsecret" not in str(error)
    assert "topsecret" not in "".join(map(str, error.findings))
    assert {"".join(request.headers.get("Authorization")) for request in front.requests} == {"Bearer hf_topsecret"}
    assert "topsecret" not in "".join(capfd.readouterr())


@pytest.fixture
def bucket(server, tmp_path):
    """A store for which the address must be signed."""
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = topsecret\n")
    server.files = {f"weights/tiny/{path}": data for path, data in FILES.items()}
    return {
        "type": "s3",
        "endpoint": server.url.rstrip("/"),
        "bucket": "weights",
        "prefix": "tiny",
        "credentials_file": str(credentials),
    }


def test_a_bucket(host, server, bucket):
    outcome = host.run(bucket)
    assert content(host.target) == FILES
    assert outcome.sources[0]["source"] == f"s3://weights/tiny on {server.url.rstrip('/')}"
    assert all("X-Amz-Signature=" in path and "topsecret" not in path for path in server.paths())
    assert {request.headers.get("Authorization") for request in server.requests} == {None}


def test_a_bucket_whose_signature_expires(host, server, bucket, monkeypatch):
    signed = []

    def answer(handler, path):
        signed.append(path)
        if len(signed) == 1:
            server._head_and_body(handler, path, WEIGHTS, most=1_000_000)
        elif len(signed) == 2:
            server.status(403)(handler, path)
        else:
            server.serve(handler, path)

    serve = server.serve
    monkeypatch.setattr(
        server, "serve", lambda handler, path: (answer if PATH in path and len(signed) < 2 else serve)(handler, path)
    )
    outcome = host.run(bucket)
    assert content(host.target) == FILES
    assert len(signed) == 2
    assert outcome.findings == []


def test_a_bucket_that_refuses_the_key(host, server, bucket):
    server.serve = server.status(403)
    error = host.fails(bucket)
    assert {problem for _path, problem in found(error)} == {"http_status"}
    assert "AKID" not in str(error)
    assert len(server.requests) == 4


# The disk


@pytest.fixture
def small_disk(host, tmp_path):
    """The model root on a file system of its own, as small as the test wants."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    mounted = []

    def mount(options):
        Path(host.root).mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", host.root], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("cannot mount here")
        mounted.append(host.root)

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def remount(host, options):
    subprocess.run(["mount", "-o", f"remount,{options}", host.root], check=True)


def test_a_disk_that_fills_up_in_the_middle(host, server, small_disk):
    small_disk("size=2500k")
    # Somebody else takes the space after it was asked for.
    error = host.fails(server, statvfs=lambda path: os.statvfs("/"))
    assert "No space left on device (ENOSPC)" in str(error)
    assert f"{host.root} has" in str(error)
    assert "free" in str(error)
    assert not published(host)
    remount(host, "size=20m")
    mended(host, server)


def test_a_disk_that_fills_up_where_space_cannot_be_reserved(host, server, small_disk, monkeypatch):
    """As on NFS. What came before the disk was full is kept."""
    monkeypatch.setattr(weights_part, "_PREALLOCATE", frozenset())
    small_disk("size=2500k")
    error = host.fails(server, statvfs=lambda path: os.statvfs("/"))
    assert "No space left on device (ENOSPC)" in str(error)
    # All at once: no other file went on, no other source was asked.
    assert len(server.ranges(PATH)) <= 1
    remount(host, "size=20m")
    outcome = host.run(server)
    assert outcome.bytes_fetched < LOCK.total_bytes - 1_000_000
    assert content(host.target) == FILES


def test_no_inode_is_left(host, server, small_disk):
    small_disk("size=20m,nr_inodes=8")
    error = host.fails(server)
    assert "inodes" in str(error)
    assert server.requests == []
    error = host.fails(server, statvfs=lambda path: os.statvfs("/"))
    assert "ENOSPC" in str(error)
    remount(host, "nr_inodes=100")
    mended(host, server)


def test_a_read_only_file_system(host, server, small_disk):
    small_disk("size=20m")
    host.run(server)
    (host.target / PATH).write_bytes(b"damaged")
    before = content(host.target)
    remount(host, "ro")
    error = host.fails(server)
    assert "Read-only file system" in str(error)
    assert content(host.target) == before
    remount(host, "rw")
    mended(host, server)


def test_a_quota_that_is_used_up(host, server, monkeypatch):
    written = []
    pwrite = os.pwrite

    def refuse(descriptor, data, offset):
        if len(data) > 100_000:
            written.append(offset)
            if len(written) > 1:
                raise OSError(122, os.strerror(122))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    error = host.fails(server)
    assert "Disk quota exceeded (EDQUOT)" in str(error)
    assert host.waits == []
    monkeypatch.undo()
    mended(host, server)


# The run as a whole


def test_progress_can_be_watched(host, server):
    seen = []
    pause = threading.Event()
    server.answers[PATH] = [server.held(1_500_000, pause)]

    def watch():
        place = host.work / "progress.json"
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and not pause.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.append(json.loads(place.read_text()))
            if seen and seen[-1]["bytes_done"] > 1_000_000 and seen[-1]["bytes_per_second"]:
                pause.set()
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    host.run(server)
    thread.join()
    last = seen[-1]
    assert last["model"] == LOCK.model
    assert last["bytes_total"] == LOCK.total_bytes
    assert 1_000_000 < last["bytes_done"] < LOCK.total_bytes
    assert last["seconds_left"] >= 0
    assert last["files_total"] == 5
    assert [file["path"] for file in last["files"]] == [PATH]
    assert last["source"] == f"http {server.url}"
    assert len({entry["updated"] for entry in seen}) < 15
    assert not (host.work / "progress.json").exists()


def test_every_folder_and_file_kind_as_a_source(host, tmp_path):
    for path in FILES:
        (host.share / path).unlink()
        (host.share / path).mkdir()
    assert {problem for _path, problem in found(host.fails(host.share))} == {"not_found"}
    (host.share / PATH).rmdir()
    os.mkfifo(host.share / PATH)
    assert (PATH, "not_found") in found(host.fails(host.share))


def test_a_share_that_breaks_in_the_middle_is_followed_by_the_next_source(host, server, monkeypatch):
    preadv = os.preadv
    reads = []

    def breaks(descriptor, buffers, offset):
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        if target.endswith(PATH):
            reads.append(offset)
            if len(reads) > 2:
                raise OSError(116, os.strerror(116))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", breaks)
    outcome = host.run(host.share, server)
    assert found_in(outcome) == {(PATH, "unreadable")}
    assert server.ranges(PATH) == [f"bytes={2 * 2**20}-{len(WEIGHTS) - 1}"]
    assert content(host.target) == FILES


def found_in(outcome):
    return {(finding.path, finding.problem) for finding in outcome.findings}


def test_memory_does_not_grow_with_the_file(host, tmp_path):
    """160 MiB over eight connections and from the disk: the peak is far below the size."""
    big = tmp_path / "big"
    big.mkdir()
    size = 160 * 2**20
    with (big / "model.gguf").open("wb") as stream:
        stream.write(b"GGUF")
        stream.truncate(size)
    digest = hashlib.sha256()
    with (big / "model.gguf").open("rb") as stream:
        for block in iter(lambda: stream.read(2**20), b""):
            digest.update(block)
    script = (
        f"import sys; sys.path[:0] = {[place for place in sys.path if place]!r}\n"
        "from ansible_collections.baremetal.llm.plugins.module_utils import weights, weights_plan\n"
        "from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile\n"
        "from ansible_collections.baremetal.llm.plugins.module_utils.weights_pace import Transport\n"
        "from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import FolderSource\n"
        f"lock = Lock('demo/big', '3' * 40, (LockFile('model.gguf', {size}, {digest.hexdigest()!r}),))\n"
        f"settings = weights_plan.Settings(root={host.root!r}, reserve_bytes=0)\n"
        f"weights.ensure(lock, [FolderSource({str(big)!r})], settings, transport=Transport(connections=8))\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    peak = int(subprocess.check_output([sys.executable, "-c", script]))
    assert peak < 80 * 1024


def test_proxies_of_the_environment_are_used(host, server, servers, monkeypatch):
    """The request goes to the proxy with the whole address, and names in no_proxy go straight."""
    proxy = servers()
    asked = []

    def through(handler, path):
        asked.append(handler.path)
        path = path.split("/", 3)[-1]
        proxy.serve(handler, path)

    for path in FILES:
        proxy.answers[f"http://mirror.invalid/{path}"] = [through]
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    host.run({"type": "http", "url": "http://mirror.invalid/"})
    assert f"http://mirror.invalid/{PATH}" in asked
    assert content(host.target) == FILES
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (host.target / PATH).unlink()
    host.run(server)
    assert server.paths()


def test_parts_are_the_hosts_own_on_a_file_system_that_hosts_share(host, monkeypatch):
    settings = weights_plan.Settings(root=host.root)
    alone = weights_plan.parts_path(LOCK, settings)
    weights_plan._host_suffix.cache_clear()
    monkeypatch.setattr(weights_plan, "file_system", lambda path: "nfs4")
    try:
        shared = weights_plan.parts_path(LOCK, settings)
        assert shared.startswith(alone + "-")
        host.run(host.share)
        assert content(host.target) == FILES
    finally:
        weights_plan._host_suffix.cache_clear()
