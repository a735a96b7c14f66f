# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetching from real folders and real web servers on the loopback interface; nothing of the transport is replaced."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import weights_host
from weights_host import (
    FILES,
    LOCK,
    OLD_REVISION,
    REVISION,
    WEIGHTS,
    content,
    facts,
    fill,
    found,
    kept,
    lock_of,
    safetensors,
    start,
    wait_for,
)

from ansible_collections.baremetal.llm.plugins.module_utils import weights, weights_exclusive, weights_plan
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import walk
from ansible_collections.baremetal.llm.plugins.module_utils.weights_sources import parse_sources

certificate, host = weights_host.certificate, weights_host.host
server, servers = weights_host.server, weights_host.servers


# Good ways


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_publish_then_unchanged(host, server, kind):
    source = server if kind == "http" else host.share
    outcome = host.run(source)
    assert outcome.changed
    assert (outcome.files_fetched, outcome.bytes_fetched) == (5, LOCK.total_bytes)
    assert outcome.path == str(host.target)
    assert content(host.target) == FILES
    assert list(host.work.iterdir()) == [host.work / "lock"]
    server.requests.clear()
    record = (host.target / ".baremetal-llm.json").stat()
    again = host.run(source)
    assert (again.changed, again.files_fetched, again.bytes_fetched, again.before) == (False, 0, 0, "")
    assert server.requests == []
    assert (host.target / ".baremetal-llm.json").stat().st_ctime_ns == record.st_ctime_ns


def test_modes_whatever_the_umask(host):
    before = os.umask(0o077)
    try:
        host.run(host.share)
    finally:
        os.umask(before)
    modes = {path: oct(status.st_mode & 0o7777) for path, status in walk(str(host.target))}
    assert modes["sub"] == "0o755"
    assert {mode for path, mode in modes.items() if path != "sub"} == {"0o644"}
    for folder in (host.target, host.target.parent, host.target.parent.parent, Path(host.root)):
        assert folder.stat().st_mode & 0o7777 == 0o755
    assert host.work.stat().st_mode & 0o7777 == 0o700


COUNT = """
import sys; sys.path[:0] = {path!r}
from ansible_collections.baremetal.llm.plugins.module_utils import weights, weights_exclusive, weights_plan
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile
lock = Lock({model!r}, {revision!r}, tuple(LockFile(*file) for file in {files!r}))
count = lambda: int(open("/proc/self/io").readline().split()[1])
before = count()
changed = weights.ensure(lock, [], weights_plan.Settings(root={root!r}, verify={verify!r})).changed
print(changed, count() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the kernel does not count reads")
def test_second_run_reads_no_data(host):
    """Counted by the kernel, in a process of its own: everything that read(2) returned."""
    host.run(host.share)

    def run(verify):
        script = COUNT.format(**facts(host), verify=verify)
        changed, count = subprocess.check_output([sys.executable, "-c", script], text=True).split()
        assert changed == "False"
        return int(count)

    record = (host.target / ".baremetal-llm.json").stat().st_size
    assert run("record") < record + 4096
    assert run("full") > LOCK.total_bytes


def test_check_mode_writes_nothing(host):
    outcome = host.run(host.share, check=True)
    assert (outcome.changed, outcome.files_fetched, outcome.bytes_fetched) == (True, 5, LOCK.total_bytes)
    assert outcome.before == ""
    assert f"{hashlib.sha256(WEIGHTS).hexdigest()}  {len(WEIGHTS)}  model.safetensors\n" in outcome.after
    assert not os.path.exists(host.root)


def test_an_old_revision_is_untouched(host):
    old = lock_of({"config.json": b"old", "model.safetensors": safetensors(5)}, OLD_REVISION)
    fill(host.share / "old", {"config.json": b"old", "model.safetensors": safetensors(5)})
    host.run(host.share / "old", lock=old)
    folder = Path(old.model_path(host.root))
    before = dict(walk(str(folder)))
    (host.share / "model.safetensors").write_bytes(WEIGHTS[:-1])
    error = host.fails(host.share)
    assert found(error) == {("model.safetensors", "size")}
    assert not host.target.exists()
    fill(host.share, FILES)
    host.run(host.share)
    assert dict(walk(str(folder))) == before


def test_hub_layout_and_names_in_urls(host, server):
    server.files = {f"demo/tiny/resolve/{REVISION}/{path}": data for path, data in FILES.items()}
    host.run({"type": "hub", "endpoint": server.url})
    assert content(host.target) == FILES


# Bad sources


def test_flipped_byte_then_the_next_source(host, servers):
    bad, good = servers(), servers()
    flipped = bytearray(WEIGHTS)
    flipped[1_000_000] ^= 1
    bad.files["model.safetensors"] = bytes(flipped)
    outcome = host.run(bad, good)
    assert content(host.target) == FILES
    finding = outcome.findings[0]
    assert (finding.path, finding.problem, finding.source) == ("model.safetensors", "digest", f"http {bad.url}")
    assert finding.expected == hashlib.sha256(WEIGHTS).hexdigest()
    assert finding.actual == hashlib.sha256(flipped).hexdigest()
    assert set(good.paths()) == {"model.safetensors"}


def test_every_bad_file_at_once_and_nothing_published(host, server):
    server.files["model.safetensors"] = WEIGHTS[:-5]
    server.files["config.json"] = b'{"b": 1}'
    del server.files["sub/tokenizer.json"]
    error = host.fails(server)
    assert found(error) == {
        ("model.safetensors", "size"),
        ("config.json", "digest"),
        ("sub/tokenizer.json", "not_found"),
    }
    for words in (
        "3 of 5 files",
        "nothing was published",
        "model.safetensors",
        str(len(WEIGHTS)),
        str(len(WEIGHTS) - 5),
    ):
        assert words in str(error)
    assert not host.target.exists()
    # Only what is right is kept for the next run.
    assert sorted(part.stat().st_size for part in host.parts()) == [0, 4000]
    server.files = dict(FILES)
    server.requests.clear()
    host.run(server)
    assert set(server.paths()) == {"config.json", "model.safetensors", "sub/tokenizer.json"}
    assert content(host.target) == FILES


def test_404_then_second_source(host, servers):
    bad, good = servers(), servers()
    bad.files = {}
    assert {finding.problem for finding in host.run(bad, good).findings} == {"not_found"}
    # An empty file needs no source.
    assert len(bad.requests) == 4
    assert content(host.target) == FILES


@pytest.mark.parametrize("status", [401, 403, 410, 451])
def test_final_answers_are_not_tried_again(host, server, status):
    server.answers["config.json"] = [server.status(status)]
    host.fails(server)
    assert server.paths().count("config.json") == 1
    assert host.waits == []


def test_an_unmounted_share_is_said_once(host):
    error = host.fails("/nonexistent/share")
    assert found(error) == {("", "source_unavailable")}


def test_an_error_page_with_status_200(host, server):
    page = server.status(200, {"Content-Type": "text/html"}, b"<html>")
    server.answers["model.safetensors"] = [page]
    assert found(host.fails(server)) == {("model.safetensors", "error_page")}


def test_an_endless_body_is_cut(host, server):
    def endless(handler, path):
        handler.close_connection = True
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    server.answers["config.json"] = [endless]
    assert found(host.fails(server)) == {("config.json", "digest")}
    assert sum(part.stat().st_size for part in host.parts()) <= LOCK.total_bytes


def test_an_encoded_body_is_refused(host, server):
    server.answers["config.json"] = [server.status(200, {"Content-Encoding": "gzip"}, b"12345678")]
    assert found(host.fails(server)) == {("config.json", "encoding")}
    assert all(request.headers["Accept-Encoding"] == "identity" for request in server.requests)


# Trouble on the way


def test_busy_server_with_both_forms_of_retry_after(host, server):
    later = email.utils.formatdate(time.time() + 20, usegmt=True)
    server.answers["config.json"] = [
        server.status(503, {"Retry-After": "7"}),
        server.status(429, {"Retry-After": later}),
        server.serve,
    ]
    host.run(server)
    assert host.waits[0] == 7
    assert 17 <= host.waits[1] <= 20
    assert content(host.target) == FILES


def test_backoff_grows_and_ends(host, server):
    server.answers["config.json"] = [server.status(502)]
    # File after file, and this one last: otherwise others that were not asked for yet would be left out with it.
    error = host.fails(server, transport={"retries": 3}, parallel_files=1)
    assert found(error) == {("config.json", "http_status")}
    assert host.waits == [1, 2, 4]
    assert server.paths().count("config.json") == 4


def test_a_server_that_wants_an_hour_is_left(host, servers):
    busy, good = servers(), servers()
    busy.answers["config.json"] = [busy.status(429, {"Retry-After": "3600"})]
    host.run(busy, good)
    assert host.waits == []
    assert content(host.target) == FILES


def test_nobody_listens(host, servers):
    closed, good = servers(), servers()
    closed.close()
    outcome = host.run(closed, good)
    assert {finding.problem for finding in outcome.findings} == {"connection"}
    assert content(host.target) == FILES


@pytest.mark.parametrize("reset", [False, True])
def test_broken_connection_goes_on_where_it_broke(host, server, reset):
    server.answers["model.safetensors"] = [
        server.cut_after(100_000, reset),
        server.cut_after(1_000_000, reset),
        server.serve,
    ]
    outcome = host.run(server)
    ranges = server.ranges("model.safetensors")
    assert ranges[0] is None
    firsts = [int(re.match(r"bytes=(\d+)-", text)[1]) for text in ranges[1:]]
    assert firsts == sorted(firsts)
    assert content(host.target) == FILES
    assert outcome.retries >= 2
    assert outcome.findings == []
    if not reset:
        # A reset throws away what the kernel had received; an early end costs nothing.
        assert firsts[0] == 100_000
        assert outcome.bytes_fetched == LOCK.total_bytes


def test_a_server_without_ranges_starts_again(host, server):
    server.answers["model.safetensors"] = [server.cut_after(100_000), server.without_ranges]
    host.run(server)
    assert content(host.target) == FILES
    assert server.ranges("model.safetensors")[-1] is None


def test_a_server_without_ranges_that_always_breaks_off_is_left(host, servers):
    bad, good = servers(), servers()

    def breaks_off(handler, path):
        del handler.headers["Range"]
        bad.cut_after(2_000_000)(handler, path)

    bad.answers["model.safetensors"] = [breaks_off]
    outcome = host.run(bad, good)
    assert {finding.problem for finding in outcome.findings} == {"truncated"}
    assert "knows no ranges" in str(outcome.findings[0])
    assert content(host.target) == FILES


def test_a_part_is_resumed_by_the_next_run_and_by_another_source(host, servers):
    first, second = servers(), servers()
    first.answers["model.safetensors"] = [first.cut_after(1_500_000), first.status(503)]
    # File after file, and this one first: the others are not asked for any more.
    error = host.fails(first, transport={"patience_seconds": 0.01}, parallel_files=1)
    assert not host.target.exists()
    kept = int(re.search(r"(\d+) of \d+ bytes are kept", str(error))[1])
    assert kept == 1_500_000
    forecast = host.run(second, check=True)
    assert forecast.bytes_fetched == LOCK.total_bytes - kept
    outcome = host.run(second)
    assert second.ranges("model.safetensors") == [f"bytes=1500000-{len(WEIGHTS) - 1}"]
    assert outcome.bytes_fetched == forecast.bytes_fetched
    assert content(host.target) == FILES


def test_the_next_source_goes_on_in_the_middle_of_a_file(host, servers):
    first, second = servers(), servers()
    first.answers["model.safetensors"] = [first.cut_after(1_500_000), first.status(503)]
    outcome = host.run(first, second, host.share, transport={"patience_seconds": 20})
    assert {finding.problem for finding in outcome.findings} == {"http_status"}
    assert outcome.bytes_fetched == LOCK.total_bytes
    sent = {source["source"]: source["bytes"] for source in outcome.sources}
    assert sent[f"http {first.url}"] >= 1_500_000
    assert sent[f"http {second.url}"] == LOCK.total_bytes - sent[f"http {first.url}"]
    assert second.ranges("model.safetensors")[0].startswith(f"bytes={1_500_000}-")
    assert sent[f"folder {host.share}"] == 0
    assert content(host.target) == FILES


def test_a_rotten_part_costs_the_stretch_that_is_rotten(host, server):
    server.answers["model.safetensors"] = [server.cut_after(2_000_000), server.status(503)]
    host.fails(server, transport={"patience_seconds": 0.01})
    part = max(host.parts(), key=lambda part: part.stat().st_size)
    data = bytearray(part.read_bytes())
    data[300_000] ^= 255
    part.write_bytes(data)
    server.answers.clear()
    forecast = host.run(server, check=True)
    server.sent = 0
    outcome = host.run(server)
    assert content(host.target) == FILES
    assert outcome.findings == []
    assert 0 < outcome.bytes_fetched - forecast.bytes_fetched <= 2 * 2**20


def test_a_complete_part_is_hashed_again(host, server):
    server.files.pop("config.json")
    host.fails(server)
    part = max(host.parts(), key=lambda part: part.stat().st_size)
    data = bytearray(part.read_bytes())
    data[-1] ^= 255
    part.write_bytes(data)
    server.files = dict(FILES)
    server.requests.clear()
    host.run(server)
    assert content(host.target) == FILES
    assert "model.safetensors" in server.paths()


def test_a_part_that_is_longer_than_the_file(host, server):
    server.files.pop("config.json")
    host.fails(server)
    for part in host.parts():
        part.write_bytes(part.read_bytes() + b"more")
    server.files = dict(FILES)
    host.run(server)
    assert content(host.target) == FILES


# Redirects and secrets


def test_token_stays_with_its_server(host, servers, tmp_path):
    mirror, storage = servers(), servers()
    token = tmp_path / "token"
    token.write_text("hf_secret\n")
    prefix = f"demo/tiny/resolve/{REVISION}/"
    for path in FILES:
        target = storage.url + path.replace(" ", "%20") + "?signature=abc"
        storage.answers[f"{path}?signature=abc"] = [lambda handler, path: storage.serve(handler, path.split("?")[0])]
        mirror.answers[prefix + path] = [mirror.status(302, {"Location": target})]
    host.run({"type": "hub", "endpoint": mirror.url}, token_file=str(token))
    assert content(host.target) == FILES
    assert {request.headers.get("Authorization") for request in mirror.requests} == {"Bearer hf_secret"}
    assert {request.headers.get("Authorization") for request in storage.requests} == {None}


def test_the_general_token_and_netrc_are_not_for_mirrors(host, server, tmp_path, monkeypatch):
    token, netrc = tmp_path / "token", tmp_path / "netrc"
    token.write_text("hf_secret")
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    host.run(server, token_file=str(token))
    assert {request.headers.get("Authorization") for request in server.requests} == {None}


def test_redirect_loops_end(host, server):
    server.answers["config.json"] = [server.status(302, {"Location": "/config.json"})]
    assert found(host.fails(server)) == {("config.json", "redirect")}


def test_redirect_to_a_file_is_refused(host, server):
    server.answers["config.json"] = [server.status(302, {"Location": "file:///etc/passwd"})]
    assert found(host.fails(server)) == {("config.json", "redirect")}


def test_tls_with_the_ca_of_the_site(host, servers, certificate):
    server = servers(certificate)
    error = host.fails(server)
    assert {finding.problem for finding in error.findings} == {"tls"}
    assert "ca_file" in str(error)
    assert host.waits == []
    host.run(server, transport={"ca_file": certificate})
    assert content(host.target) == FILES


def test_redirect_from_https_to_http_is_refused(host, servers, certificate):
    server, plain = servers(certificate), servers()
    server.answers["config.json"] = [server.status(302, {"Location": plain.url + "config.json"})]
    assert found(host.fails(server, transport={"ca_file": certificate})) == {("config.json", "redirect")}
    assert plain.requests == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"type": "ftp"}, "type must be"),
        ({"type": "folder", "path": "models"}, "absolute"),
        ({"type": "http", "url": "mirror/x"}, "must begin with https"),
        ({"type": "http", "url": "https://me:pw@mirror/x"}, "user or password"),
        ({"type": "http", "url": "https://mirror/x?token=1"}, "query"),
        ({"type": "http", "url": "http://mirror/x", "token_file": "TOKEN"}, "in clear"),
        ({"type": "hub", "token_file": "/nonexistent"}, "cannot be read"),
        ({"type": "s3", "bucket": "A/b"}, "name of a bucket"),
        ({"type": "s3", "bucket": "abc", "endpoint": "https://s3/x"}, "without a path"),
        ({"type": "s3", "bucket": "abc", "credentials_file": "/nonexistent"}, "cannot be read"),
    ],
)
def test_bad_descriptions_of_sources(tmp_path, source, words):
    (tmp_path / "token").write_text("secret")
    if source.get("token_file") == "TOKEN":
        source = {**source, "token_file": str(tmp_path / "token")}
    sources, problems = parse_sources([{"type": "hub"}, source], LOCK)
    assert len(sources) == 1
    assert len(problems) == 1
    assert "entry 2" in problems[0]
    assert words in problems[0]
    assert "secret" not in problems[0]


def test_no_source():
    assert parse_sources([], LOCK)[1]


# What is on the host already


@pytest.mark.parametrize("keep_times", [True, False])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "folder", "link"])
def test_damage_is_found_and_replaced(host, server, damage, keep_times):
    host.run(server)
    place = host.target / "model.safetensors"
    status = place.stat()
    if damage == "flip":
        with place.open("r+b") as stream:
            stream.seek(1000)
            stream.write(b"\xff")
    elif damage == "truncate":
        os.truncate(place, 1000)
    else:
        place.unlink()
        if damage == "folder":
            place.mkdir()
            (place / "x").write_text("x")
        elif damage == "link":
            place.symlink_to(host.share / "model.safetensors")
    if keep_times and damage in ("flip", "truncate"):
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    server.requests.clear()
    forecast = host.run(server, check=True)
    assert (forecast.changed, forecast.files_fetched) == (True, 1)
    assert server.requests == []
    outcome = host.run(server)
    assert (outcome.changed, outcome.files_fetched) == (True, 1)
    assert set(server.paths()) == {"model.safetensors"}
    assert content(host.target) == FILES
    assert not place.is_symlink()
    assert not host.run(server).changed


def test_damage_stays_in_place_when_no_source_can_mend_it(host, server):
    """An engine may still serve from the other files; half a repair would help nobody."""
    host.run(server)
    (host.target / "config.json").write_bytes(b"?")
    os.truncate(host.target / "model.safetensors", 5)
    before = content(host.target)
    del server.files["model.safetensors"]
    error = host.fails(server)
    assert "the files published before are as they were" in str(error)
    assert content(host.target) == before


def test_bit_rot_is_found_by_a_full_verification(host, monkeypatch):
    host.run(host.share)
    place = host.target / "model.safetensors"
    with place.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"\xff")
    # A disk that forgets changes no times: make the record say that nothing happened.
    record = json.loads((host.target / ".baremetal-llm.json").read_text())
    status = place.stat()
    record["files"]["model.safetensors"].update(mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)
    (host.target / ".baremetal-llm.json").write_text(json.dumps(record))
    assert not host.run(host.share).changed
    assert host.run(host.share, verify="full").changed
    assert content(host.target) == FILES


def test_touched_but_right_files_change_nothing(host, server):
    host.run(server)
    os.utime(host.target / "model.safetensors")
    server.requests.clear()
    assert not host.run(server).changed
    assert server.requests == []
    plan = weights_plan.examine(LOCK, weights_plan.Settings(root=host.root), read_bytes=False)
    assert not plan.changes


def test_a_folder_that_was_copied_by_hand_is_adopted(host, server):
    fill(host.target, FILES)
    for path, _status in walk(str(host.target)):
        os.chmod(host.target / path, 0o755 if path == "sub" else 0o644)
    os.chmod(host.target, 0o755)
    outcome = host.run(server)
    assert outcome.changed
    assert server.requests == []
    assert not host.run(server).changed


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}', '{"format_version": 9, "files": {}}'])
def test_a_damaged_record_costs_a_read_and_nothing_else(host, server, text):
    host.run(server)
    (host.target / ".baremetal-llm.json").write_text(text)
    server.requests.clear()
    host.run(server)
    assert server.requests == []
    assert not host.run(server).changed


def test_what_is_not_in_the_lock_is_removed(host):
    host.run(host.share)
    (host.target / "modeling.py").write_text("import os")
    (host.target / "more/deep").mkdir(parents=True)
    (host.target / "more/deep/x.json").write_text("{}")
    (host.target / "link").symlink_to("/etc")
    forecast = host.run(host.share, check=True)
    assert "modeling.py: not in the lock" in forecast.before
    assert (host.target / "modeling.py").exists()
    assert host.run(host.share).changed
    assert content(host.target) == FILES
    assert sorted(entry.name for entry in host.target.iterdir()) == [
        ".baremetal-llm.json",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "sub",
    ]
    assert not host.run(host.share).changed


def test_modes_are_mended_without_reading_or_fetching(host, server):
    host.run(server)
    (host.target / "config.json").chmod(0o600)
    (host.target / "sub").chmod(0o777)
    server.requests.clear()
    assert host.run(server).changed
    assert server.requests == []
    assert (host.target / "config.json").stat().st_mode & 0o7777 == 0o644
    assert (host.target / "sub").stat().st_mode & 0o7777 == 0o755
    assert not weights_plan.examine(LOCK, weights_plan.Settings(root=host.root), read_bytes=False).changes


@pytest.mark.parametrize("link", ["demo", "demo/tiny", f"demo/tiny/{REVISION}", "demo/tiny/.fetch"])
def test_links_below_the_root_are_refused(host, tmp_path, link):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = Path(host.root) / link
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    assert "symbolic link" in str(host.fails(host.share))
    assert list(elsewhere.iterdir()) == []


# Space, structure, interruption, concurrency


def space(free, inodes=10**6):
    return lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_files=10**6, f_favail=inodes)


def test_disk_too_small_is_said_before_anything_is_written(host, server):
    error = host.fails(server, statvfs=space(4096 * 700), reserve_bytes=1000)
    for words in (
        "not enough space on /",
        f"{LOCK.total_bytes} bytes",
        "reserve of 1000 bytes",
        f"{4096 * 700} bytes are free",
    ):
        assert words in str(error)
    assert found(error) == {("", "disk_space")}
    assert server.requests == []
    assert not os.path.exists(host.root)
    assert "not enough space" in str(host.fails(server, statvfs=space(4096 * 700), check=True))
    assert "inodes" in str(host.fails(server, statvfs=space(2**40, inodes=3)))
    room = space(LOCK.total_bytes + 8192)
    assert "8193 bytes" in str(host.fails(server, statvfs=room, reserve_bytes=8193))
    host.run(server, statvfs=room, reserve_bytes=4096, check=True)
    # Nothing to fetch needs no space.
    host.run(server)
    assert not host.run(server, statvfs=space(0)).changed


def test_space_of_parts_counts_once(host, server):
    server.files.pop("config.json")
    host.fails(server)
    server.files = dict(FILES)
    host.run(server, statvfs=space(64 * 1024))
    assert content(host.target) == FILES


def test_a_lock_of_a_broken_file_is_not_published(host, server):
    broken = WEIGHTS[:-3]
    server.files["model.safetensors"] = broken
    error = host.fails(server, lock=lock_of({**FILES, "model.safetensors": broken}))
    assert found(error) == {("model.safetensors", "structure")}
    assert "the lock was made from a broken file" in str(error)
    assert not host.target.exists()


def test_an_index_that_names_a_missing_shard_is_not_published(host, server):
    files = {
        **FILES,
        "model.safetensors.index.json": b'{"weight_map": {"w": "model.safetensors", "v": "gone.safetensors"}}',
    }
    server.files = files
    error = host.fails(server, lock=lock_of(files))
    assert found(error) == {("model.safetensors.index.json", "index")}
    assert "gone.safetensors" in str(error)
    assert not host.target.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.99])
def test_killed_and_resumed(host, server, number, share):
    pause = threading.Event()
    segment = 256 * 1024
    held = int(len(WEIGHTS) * share)
    server.answers["model.safetensors"] = [server.held(held, pause)]
    process = start(host, server)
    # What came is seen a moment later than it was sent: a connection that goes quiet is written out within a second.
    wait_for(lambda: server.sent >= held and kept(host) >= held - 2**20)
    process.send_signal(number)
    assert process.wait(20) == -number
    process.stdout.close()
    pause.set()
    assert not host.target.exists()
    server.answers.clear()
    server.requests.clear()
    outcome = host.run(server)
    assert outcome.changed
    assert content(host.target) == FILES
    # At most one segment, and what was in the buffer of the one connection.
    again = outcome.bytes_fetched - (len(WEIGHTS) - held)
    assert again <= segment + 2**20 + sum(len(data) for path, data in FILES.items() if path != "model.safetensors")


@pytest.mark.parametrize("call", ["replace", "rename", "fsync"])
@pytest.mark.parametrize("number", range(1, 9))
def test_killed_anywhere_while_publishing(host, server, monkeypatch, call, number):
    """Whatever call a run dies at, nothing wrong is to be seen, and the next run mends it without fetching again."""

    class Killed(BaseException):
        pass

    calls = []
    original = getattr(os, call)

    def die(*arguments, **keys):
        calls.append(arguments)
        if len(calls) == number:
            raise Killed
        return original(*arguments, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, die)
        with contextlib.suppress(Killed):
            host.run(server, parallel_files=1)
    if host.target.exists():
        assert content(host.target) == FILES
    fetched = set(server.paths())
    server.requests.clear()
    host.run(server)
    assert content(host.target) == FILES
    assert not host.run(server).changed
    assert list(host.work.iterdir()) == [host.work / "lock"]
    assert fetched.isdisjoint(server.paths())


@pytest.mark.parametrize("flock_works", [True, False])
def test_two_runs_at_once_wait_for_each_other(host, server, monkeypatch, flock_works):
    """Also where flock says yes to everybody, as it does on some network file systems."""
    if not flock_works:
        monkeypatch.setattr(weights_exclusive.fcntl, "flock", lambda descriptor, operation: None)
    pause = threading.Event()
    server.answers["model.safetensors"] = [server.held(2_000_000, pause), server.serve]
    process = start(host, server, flock_works)
    try:
        wait_for(lambda: kept(host) >= 1_000_000)
        error = host.fails(server, lock_timeout_seconds=3, sleep=host.waits.append)
        assert f"another run (process {process.pid})" in str(error)
        assert host.waits == [1, 1, 1]
        # Once the other is through, there is nothing left to do.
        outcome = host.run(server, sleep=lambda seconds: (pause.set(), time.sleep(0.1)))
        assert not outcome.changed
        assert outcome.bytes_fetched == 0
        assert process.communicate(timeout=20)[0] == "True\n"
    finally:
        pause.set()
        process.kill()
        process.wait()
        process.stdout.close()
    assert len(server.ranges("model.safetensors")) == 1


def others_are_whole(host):
    """Whether every file but the large one lies complete in its part."""
    settings = weights_plan.Settings(root=host.root)
    paths = {file.path: Path(weights_plan.part_path(LOCK, file, settings)) for file in LOCK.files}
    return all(
        path.exists() and path.stat().st_size == len(FILES[name])
        for name, path in paths.items()
        if name != "model.safetensors"
    )


def test_an_orphan_that_no_lock_shows_does_no_harm(host, server, monkeypatch):
    """The worst case: neither flock nor the lock file tells, and both write the same part at the same time."""
    monkeypatch.setattr(weights_exclusive.fcntl, "flock", lambda descriptor, operation: None)
    monkeypatch.setattr(weights_exclusive, "_is_running", lambda holder: False)
    pause = threading.Event()
    server.answers["model.safetensors"] = [server.held(1_500_000, pause), server.serve]
    process = start(host, server, flock_works=False)
    try:
        # The small files too, so that the two meet in the part that is asked about here.
        wait_for(lambda: kept(host) >= 600_000 and others_are_whole(host))
        assert host.run(server).changed
        assert content(host.target) == FILES
        pause.set()
        process.communicate(timeout=20)
    finally:
        pause.set()
        process.kill()
        process.wait()
    assert content(host.target) == FILES
    assert not list(host.run(server).findings)
    assert content(host.target) == FILES


def test_two_runs_that_make_the_same_folders_at_once(host, monkeypatch):
    mkdir = os.mkdir

    def late(path, mode=0o777):
        mkdir(path, mode)
        if not path.endswith(".fetch"):
            raise FileExistsError(17, "File exists", path)

    with monkeypatch.context() as patch:
        patch.setattr(weights.os, "mkdir", late)
        weights._make_folders(str(host.target), weights_plan.Settings())
    assert host.target.is_dir()
    host.run(host.share)
    assert content(host.target) == FILES


def test_a_stale_lock_file_is_harmless(host):
    host.work.mkdir(parents=True)
    (host.work / "lock").write_text("4711\n")
    host.run(host.share)
    assert content(host.target) == FILES


def test_leftovers_are_swept_but_not_what_may_still_be_resumed(host, server):
    fresh, old = host.work / ("a" * 40) / "parts", host.work / ("b" * 40) / "parts"
    for folder in (fresh, old):
        folder.mkdir(parents=True)
        (folder / "x.part").write_bytes(b"x")
    long_ago = time.time() - 8 * 86400
    for path in (old / "x.part", old, old.parent):
        os.utime(path, (long_ago, long_ago))
    unknown = host.work / REVISION / "parts"
    unknown.mkdir(parents=True)
    (unknown / "unknown.part").write_bytes(b"x")
    host.run(server)
    assert sorted(entry.name for entry in host.work.iterdir()) == ["a" * 40, "lock"]


def test_owner_by_name_and_number():
    assert weights_plan.resolve_user("root") == 0
    assert weights_plan.resolve_group("1234") == 1234
    with pytest.raises(ValueError, match="no user 'nobody-of-that-name'"):
        weights_plan.resolve_user("nobody-of-that-name")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner(host):
    host.run(host.share, uid=12345, gid=54321)
    for path in (".", "sub", "sub/tokenizer.json", ".baremetal-llm.json"):
        status = (host.target / path).stat()
        assert (status.st_uid, status.st_gid) == (12345, 54321)
    assert not host.run(host.share, uid=12345, gid=54321).changed
    assert host.run(host.share, uid=0, gid=0).changed
    assert not host.run(host.share, uid=0, gid=0).changed
