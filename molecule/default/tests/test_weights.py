# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights on real hosts: what is served was verified, and bad bytes never replace it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml
from make_tiny_model import make
from testbed import SHARE

REVISIONS = "/srv/models/demo/tiny"


@pytest.fixture
def next_model(tmp_path, run_playbook):
    """A second revision of the model, locked, with one byte flipped after that; as extra variables for a run."""
    folder = SHARE / "models/tiny-next"
    make(folder, seed=1)
    model = {
        "name": "tiny",
        "lock": str(tmp_path / "tiny.yml"),
        "lock_from": {"type": "folder", "path": str(folder), "model": "demo/tiny"},
        "sources": [{"type": "folder", "path": "/mnt/share/models/tiny-next"}],
    }
    variables = json.dumps({"llm_models": [model]})
    locked = run_playbook("lock", "--extra-vars", variables)
    assert locked.returncode == 0, locked.stdout
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    revision = yaml.safe_load((tmp_path / "tiny.yml").read_text(encoding="utf-8"))["revision"]
    yield variables, revision
    shutil.rmtree(folder)


def test_published_files_belong_to_root_and_cannot_be_written_by_the_engine(engines):
    for engine in engines:
        published = engine.check_output("find %s -type f -not -path '*/.fetch/*' -printf '%%U %%m %%f\\n'", REVISIONS)
        assert "model.safetensors" in published
        assert {line.rsplit(" ", maxsplit=1)[0] for line in published.splitlines()} == {"0 644"}


def test_bytes_that_are_not_in_the_lock_are_refused_and_the_old_revision_stays_in_service(
    next_model, run_playbook, engines, endpoint
):
    variables, revision = next_model
    before = [engine.check_output("ls %s", REVISIONS) for engine in engines]
    configurations = [engine.check_output("cat /etc/baremetal-llm/vllm/chat.yaml") for engine in engines]
    done = run_playbook("site", "--extra-vars", variables)
    assert done.returncode != 0
    assert "model.safetensors" in done.stdout
    assert "holds another file than the lock says" in done.stdout
    assert re.search(r"expected [0-9a-f]{64}, got [0-9a-f]{64}", done.stdout)
    for engine in ("engine-1", "engine-2"):
        assert f"fatal: [{engine}]" in done.stdout or f"failed: [{engine}]" in done.stdout
    assert "changed=0" in done.stdout.split("PLAY RECAP", maxsplit=1)[1]
    assert [engine.check_output("ls %s", REVISIONS) for engine in engines] == before
    assert all(revision not in names for names in before)
    assert [engine.check_output("cat /etc/baremetal-llm/vllm/chat.yaml") for engine in engines] == configurations
    answer = endpoint.client().completions.create(model=endpoint.model, prompt="Once", max_tokens=2)
    assert answer.choices


SCRUB = "baremetal-llm-model-scrub"
# Beside the file and then by a rename: the engine keeps the bytes that it has open.
FLIP = """
import os, shutil, sys
path = os.path.realpath(sys.argv[1])
shutil.copy2(path, path + ".new")
with open(path + ".new", "r+b") as stream:
    stream.seek(2 * 1024 * 1024)
    byte = stream.read(1)
    stream.seek(-1, os.SEEK_CUR)
    stream.write(bytes([byte[0] ^ 1]))
os.replace(path + ".new", path)
"""


def test_the_timer_of_the_scrub_runs_and_its_service_is_hardened(engines):
    for engine in engines:
        assert engine.service(f"{SCRUB}.timer").is_running
        assert engine.service(f"{SCRUB}.timer").is_enabled
    verified = engines[0].run("systemd-analyze verify --man=no /etc/systemd/system/%s.timer", SCRUB)
    assert [line for line in verified.stderr.splitlines() if SCRUB in line] == []
    report = engines[0].check_output("systemd-analyze security --no-pager %s.service", SCRUB)
    assert float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)[1]) <= 2.0, report


def test_the_scrub_finds_a_flipped_byte_and_a_full_verification_heals_its_piece(engines, run_playbook):
    engine, path = engines[0], f"{REVISIONS}/current/model.safetensors"
    assert engine.run("systemctl start %s", SCRUB).rc == 0
    since = engine.check_output("date +%s")
    engine.check_output("python3 -c %s %s", FLIP, path)
    damaged = engine.check_output("stat -Lc %%i %s", path)
    assert engine.run("systemctl start %s", SCRUB).rc != 0
    journal = engine.check_output("journalctl -u %s --since @%s -p err -o cat --no-pager", SCRUB, since)
    assert re.search(r"/model\.safetensors: has the SHA-256 .* damaged in 1 of \d+ pieces \(bytes 2097152-", journal)
    result = json.loads(engine.check_output("cat /var/lib/baremetal-llm/model-scrub/result.json"))
    assert (result["damaged_files"], result["revisions"][0]["damaged"][0]["pieces"][0][0]) == (1, 2 * 1024 * 1024)
    healed = run_playbook("weights", "--diff", "--extra-vars", "model_weights_verify=full")
    assert healed.returncode == 0, healed.stdout
    assert "damaged in 1 of" in healed.stdout
    assert engine.check_output("stat -Lc %%i %s", path) != damaged
    assert engine.run("systemctl start %s", SCRUB).rc == 0
