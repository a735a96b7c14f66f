# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The scrub as the timer runs it: the archive in a process of its own, and its judgement of what it reads."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import zipfile

import pytest
import weights_host
from weights_host import FILES, LOCK, OLD_REVISION, WEIGHTS, fill, lock_of

from ansible_collections.baremetal.llm.plugins.module_utils import weights_scrub
from ansible_collections.baremetal.llm.plugins.module_utils.program_archive import build_archive
from ansible_collections.baremetal.llm.plugins.module_utils.weights_scrub import Brake, main

host = weights_host.host
PIECE = 1024 * 1024
NAME = "model.safetensors"


@pytest.fixture
def published(host):
    """Two revisions of a model, the newer with a piece manifest."""
    old = lock_of({"config.json": b"old"}, OLD_REVISION)
    fill(host.share / "old", {"config.json": b"old"})
    host.run(host.share / "old", lock=old)
    host.run(host.share, piece_bytes=PIECE)
    return host


@pytest.fixture
def scrub(published, tmp_path, capsys):
    def scrub(*options, environment=None):
        result = tmp_path / "result.json"
        code = main(["--root", published.root, "--result", str(result), *options], environment or {})
        return code, capsys.readouterr().out, json.loads(result.read_text()) if result.exists() else None

    return scrub


def flip(path, position):
    with open(path, "r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte[0] ^ 1]))


def test_all_right(scrub, published):
    code, output, result = scrub()
    assert code == 0
    assert re.fullmatch(rf"all right: 6 files of 2 revisions, {LOCK.total_bytes + 3} bytes in [\d.]+ s\n", output)
    assert (result["files"], result["bytes"], result["damaged_files"]) == (6, LOCK.total_bytes + 3, 0)
    assert [entry["revision"] for entry in result["revisions"]] == [LOCK.revision, OLD_REVISION]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", result["ended_utc"])


def test_the_archive_needs_nothing_but_python(published, tmp_path):
    """No collection on the path, no site-packages; what it finds is an exit status, a line, and a file of numbers."""
    program = tmp_path / "model-scrub"
    program.write_bytes(build_archive("weights_scrub", weights_scrub.MODULES, sys.executable))
    program.chmod(0o755)
    flip(published.target / NAME, 2 * PIECE)
    flip(published.root + f"/demo/tiny/{OLD_REVISION}/config.json", 0)
    options = ["--root", published.root, "--metrics", str(tmp_path / "scrub.prom")]
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(program), *options],
        env={"JOURNAL_STREAM": "8:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("<3>") for line in lines)
    assert f"{published.target}/{NAME}: has the SHA-256 " in lines[0]
    assert lines[0].endswith(f"damaged in 1 of 3 pieces (bytes 2097152-{len(WEIGHTS) - 1})")
    assert f"{OLD_REVISION}/config.json: has the SHA-256 " in lines[1]
    assert "2 damaged among 6 files of 2 revisions" in lines[2]
    assert "model_weights_verify=full heals it" in lines[2]
    numbers = (tmp_path / "scrub.prom").read_text()
    labels = 'model="demo/tiny",revision="{}"'
    for revision in (LOCK.revision, OLD_REVISION):
        assert f"baremetal_llm_model_scrub_damaged_files{{{labels.format(revision)}}} 1\n" in numbers
    assert re.search(r"^baremetal_llm_model_scrub_end_timestamp_seconds \d{10}\.\d\n", numbers, re.MULTILINE)
    assert all(
        re.fullmatch(r"# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[^{}]*\})? [\d.]+", line) for line in numbers.splitlines()
    )
    with zipfile.ZipFile(program) as archive:
        assert sum(name.endswith("/weights_scrub.py") for name in archive.namelist()) == 1


def test_the_archive_is_the_same_every_time():
    archives = {build_archive("weights_scrub", weights_scrub.MODULES, "/usr/bin/python3") for dummy in range(2)}
    assert len(archives) == 1
    assert archives.pop().startswith(b"#!/usr/bin/python3 -I\n")


def test_damage_of_every_kind_is_one_line_each(scrub, published):
    flip(published.target / NAME, 5)
    os.truncate(published.target / "sub/tokenizer.json", 7)
    (published.target / "config.json").unlink()
    code, output, result = scrub(environment={"JOURNAL_STREAM": "8:1"})
    assert code == 1
    lines = output.splitlines()
    assert [line.partition(f"{LOCK.revision}/")[2].partition(" SHA")[0] for line in lines[:3]] == [
        "config.json: cannot be read: No such file or directory",
        f"{NAME}: has the",
        "sub/tokenizer.json: has 7 bytes instead of 4000",
    ]
    assert len(lines) == 4
    found = {damage["path"]: damage["pieces"] for damage in result["revisions"][0]["damaged"]}
    assert found == {"config.json": [], NAME: [[0, PIECE]], "sub/tokenizer.json": []}


def test_a_bad_sector_is_damage_and_not_the_end(scrub, published, monkeypatch):
    preadv, bad = os.preadv, str(published.target / NAME)

    def broken(descriptor, buffers, offset):
        if offset // PIECE == 1 and os.readlink(f"/proc/self/fd/{descriptor}") == bad:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", broken)
    code, output, dummy = scrub()
    assert code == 1
    assert f"{NAME}: cannot be read: Input/output error, damaged in 1 of 3 pieces (bytes 1048576-2097151)" in output
    assert "1 damaged among 6 files" in output


def test_what_is_right_the_second_time_is_not_the_disks_fault(scrub, monkeypatch):
    digest = weights_scrub._digest
    monkeypatch.setattr(
        weights_scrub,
        "_digest",
        lambda path, brake: (digest(path, brake)[0], "0" * 64) if path.endswith(NAME) else digest(path, brake),
    )
    code, output, dummy = scrub()
    assert code == 1
    assert "right when it was read again: memory, controller or cable change bytes" in output


@pytest.mark.parametrize("name", [".baremetal-llm.json", ".baremetal-llm.meta4"])
def test_a_record_or_manifest_that_rots_is_said(scrub, published, name):
    (published.target / name).write_bytes(b"{")
    code, output, dummy = scrub()
    assert code == 1
    assert ("no readable record" if name.endswith("json") else "the piece manifest is not whole") in output


def test_a_run_that_heals_meanwhile_is_no_damage(scrub, published, monkeypatch):
    flip(published.target / NAME, 5)
    digest = weights_scrub._digest

    def healed(path, brake):
        found = digest(path, brake)
        if path.endswith(NAME):
            published.run(published.share)
        return found

    monkeypatch.setattr(weights_scrub, "_digest", healed)
    code, output, result = scrub()
    assert code == 0
    assert result["revisions"][0]["skipped"] == [NAME]
    assert "was replaced while it was read" in output


def test_a_revision_that_is_removed_meanwhile_is_no_damage(scrub, published, monkeypatch):
    record = weights_scrub.read_record

    def removed(folder, revision):
        found = record(folder, revision)
        if revision == OLD_REVISION:
            weights_host.shutil.rmtree(folder, ignore_errors=True)
        return found

    monkeypatch.setattr(weights_scrub, "read_record", removed)
    code, dummy, result = scrub()
    assert (code, result["damaged_files"], result["revisions"][1]["skipped"]) == (0, 0, ["config.json"])


def test_what_is_no_revision_is_left_alone(scrub, published, tmp_path):
    (published.target.parent / "notes").mkdir()
    (published.target.parent / ("3" * 40)).symlink_to(published.target)
    flip(published.share / NAME, 1)
    assert scrub()[0] == 0


def test_what_cannot_be_done_is_another_exit_status(scrub, published, tmp_path):
    assert main(["--root", str(tmp_path / "absent")], {}) == 2
    code, output, dummy = scrub("--metrics", str(tmp_path / "absent/scrub.prom"))
    assert code == 2
    assert "did not come to its end" in output


def test_the_brake():
    now, waits = [0.0], []
    brake = Brake(100, clock=lambda: now[0], sleep=waits.append)
    for count in (50, 50):
        brake.read(count)
    assert waits == [0.5, 1.0]
    now[0] = 60.0
    brake.read(10)
    assert waits[2] == pytest.approx(0.1)
    Brake(0, sleep=waits.append).read(10**12)
    assert len(waits) == 3


def test_the_page_cache_is_left_to_others(scrub, published, monkeypatch):
    advice = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, first, count, kind: advice.append((count, kind)))
    scrub()
    dropped = [count for count, kind in advice if kind == os.POSIX_FADV_DONTNEED]
    assert sum(dropped) == LOCK.total_bytes + 3
    # Before, so that the disk is read and not the cache.
    assert dropped.count(0) == len(FILES) + 1
