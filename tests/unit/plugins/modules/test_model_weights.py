# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules as Ansible runs them: arguments in, one JSON document out."""

from __future__ import annotations

import getpass
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import PIECES_NAME
from ansible_collections.baremetal.llm.plugins.modules import model_lock, model_scrub_program, model_weights

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "fakes"))

from http_weights_server import WeightsServer  # noqa: E402  (found through the path above)

testing = pytest.importorskip("ansible.module_utils.testing")

MERGES = b"a b\n" * 10
GGUF = b"GGUF" + bytes(100)


@pytest.fixture
def run(capsys):
    def run(module, check=False, **arguments):
        arguments.update(_ansible_check_mode=check, _ansible_diff=True)
        with testing.patch_module_args(arguments), pytest.raises(SystemExit) as caught:
            module.main()
        result = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == bool(caught.value.code)
        return result

    return run


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "merges.txt").write_bytes(MERGES)
    (folder / "model.gguf").write_bytes(GGUF)
    return folder


@pytest.fixture
def lock_arguments(tmp_path, model):
    source = {"type": "folder", "path": str(model), "model": "demo/tiny", "patterns": ["*.gguf", "*.txt"]}
    return {"path": str(tmp_path / "tiny.yml"), "source": source}


@pytest.fixture
def arguments(run, tmp_path, model, lock_arguments):
    return {
        "lock": run(model_lock, **lock_arguments)["lock"],
        "sources": [{"type": "folder", "path": str(model)}],
        "root": str(tmp_path / "models"),
        "owner": getpass.getuser(),
        "group": str(tmp_path.stat().st_gid),
        "reserve_bytes": 0,
    }


def test_lock(run, lock_arguments, tmp_path):
    forecast = run(model_lock, check=True, **lock_arguments)
    assert forecast["changed"] is True
    assert not (tmp_path / "tiny.yml").exists()
    result = run(model_lock, **lock_arguments)
    assert result["changed"] is True
    assert result["diff"]["after"] == forecast["diff"]["after"] == (tmp_path / "tiny.yml").read_text()
    assert result["total_bytes"] == len(MERGES) + len(GGUF)
    assert run(model_lock, **lock_arguments)["changed"] is False


def test_lock_of_a_bad_model(run, lock_arguments, model):
    (model / "model.gguf").write_bytes(b"<html>")
    lock_arguments["source"]["model"] = "tiny"
    assert "organisation/name" in run(model_lock, **lock_arguments)["msg"]
    lock_arguments["source"]["model"] = "demo/tiny"
    result = run(model_lock, **lock_arguments)
    assert result["failed"] is True
    assert result["problems"] == ["'model.gguf': does not begin with the mark of a GGUF file"]


def test_weights(run, arguments, tmp_path):
    path = tmp_path / "models/demo/tiny" / arguments["lock"]["revision"]
    forecast = run(model_weights, check=True, **arguments)
    assert (forecast["changed"], forecast["files_fetched"], forecast["path"]) == (True, 2, str(path))
    assert not (tmp_path / "models").exists()
    result = run(model_weights, **arguments)
    assert (result["changed"], result["files_fetched"], result["findings"]) == (True, 2, [])
    assert result["bytes_fetched"] == len(MERGES) + len(GGUF)
    assert result["diff"]["after"] == forecast["diff"]["after"]
    assert (path / "merges.txt").read_bytes() == MERGES
    again = run(model_weights, **arguments)
    assert (again["changed"], again["files_fetched"], again["bytes_fetched"]) == (False, 0, 0)


def test_pieces(run, arguments, tmp_path):
    path = tmp_path / "models/demo/tiny" / arguments["lock"]["revision"]
    run(model_weights, **arguments)
    assert run(model_weights, check=True, piece_bytes=65536, **arguments)["changed"] is True
    assert not (path / PIECES_NAME).exists()
    assert run(model_weights, piece_bytes=65536, **arguments)["changed"] is True
    assert "<metalink" in (path / PIECES_NAME).read_text()
    assert run(model_weights, piece_bytes=65536, **arguments)["changed"] is False


def test_a_look_that_reads_nothing(run, arguments, tmp_path):
    path = tmp_path / "models/demo/tiny" / arguments["lock"]["revision"]
    run(model_weights, **arguments)
    (path / ".baremetal-llm.json").unlink()
    assert run(model_weights, check=True, **arguments)["files_fetched"] == 0
    looked = run(model_weights, check=True, read_in_check_mode=False, **arguments)
    assert [entry["reason"] for entry in looked["files"]] == ["not verified", "not verified"]
    assert run(model_weights, **arguments)["files_fetched"] == 0


def test_the_program_of_the_scrub(run, tmp_path):
    place = {"path": str(tmp_path / "bin/model-scrub"), "python": sys.executable}
    forecast = run(model_scrub_program, check=True, **place)
    assert forecast["changed"] is True
    assert not (tmp_path / "bin").exists()
    result = run(model_scrub_program, **place)
    assert (result["changed"], result["diff"]) == (True, forecast["diff"])
    assert result["sha256"] == hashlib.sha256(Path(place["path"]).read_bytes()).hexdigest()
    assert run(model_scrub_program, **place)["changed"] is False
    Path(place["path"]).chmod(0o644)
    assert run(model_scrub_program, **place)["changed"] is True
    done = subprocess.run([place["path"], "--root", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:9]) == (0, "all right")
    assert "path must be absolute" in run(model_scrub_program, path="bin/x y")["msg"]


def test_findings_of_a_source_that_serves_other_bytes(run, arguments, model):
    (model / "merges.txt").write_bytes(b"A b\n" * 10)
    result = run(model_weights, **arguments)
    assert result["failed"] is True
    (finding,) = result["findings"]
    assert finding["expected"] == hashlib.sha256(MERGES).hexdigest()
    assert finding["problem"] == "digest"
    assert all(text in result["msg"] for text in ("demo/tiny", "merges.txt", finding["expected"], finding["actual"]))


def test_a_source_that_was_passed_over_is_a_warning(run, arguments, monkeypatch):
    # What becomes of a warning depends on what else this process imported from ansible-core.
    warnings = []
    monkeypatch.setattr(model_weights.AnsibleModule, "warn", lambda self, text, **more: warnings.append(text))
    arguments["sources"].insert(0, {"type": "folder", "path": "/nonexistent"})
    result = run(model_weights, **arguments)
    assert result["changed"] is True
    assert any("/nonexistent" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": []}, "sources is empty"),
        ({"sources": [{"type": "http"}]}, "url"),
        ({"sources": [{"type": "http", "url": "ftp://x"}]}, "url must begin with https"),
        ({"mode": "rw"}, "mode must be octal"),
        ({"piece_bytes": 4096}, "piece_bytes must be 0 or at least 65536"),
        ({"piece_bytes": -1}, "piece_bytes must be 0 or more"),
        ({"root": "models/../x"}, "root must be absolute"),
        ({"reserve_bytes": -1}, "reserve_bytes must be 0 or more"),
        ({"timeout_seconds": 0}, "timeout_seconds must be 1 or more"),
        ({"connections": -1}, "connections must be 0 or more"),
        ({"link": "../x"}, "link must be a plain name"),
        ({"link": "1" * 40}, "link must be a plain name"),
        ({"owner": "no-such-user"}, "no user 'no-such-user'"),
    ],
)
def test_bad_options(run, arguments, tmp_path, changes, words):
    arguments.update(changes)
    result = run(model_weights, **arguments)
    assert result["failed"] is True
    assert words in result["msg"]
    assert not (tmp_path / "models").exists()


def test_bad_lock_with_every_problem(run, arguments, tmp_path):
    arguments["lock"].update(revision="main", format_version=2)
    arguments["lock"]["files"][0]["path"] = "../../etc/passwd"
    result = run(model_weights, **arguments)
    assert "lock of model demo/tiny" in result["msg"]
    assert len(result["findings"]) == 3
    assert {finding["problem"] for finding in result["findings"]} == {"lock"}
    assert not (tmp_path / "models").exists()


def test_nothing_but_the_standard_library_is_needed(run, arguments, monkeypatch, model):
    """A host that host_tools has not seen yet can fetch, and no run pays for the start of another Python."""
    monkeypatch.setitem(sys.modules, "requests", None)
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    server = WeightsServer(files)
    try:
        arguments["sources"] = [{"type": "http", "url": server.url}]
        forecast = run(model_weights, check=True, **arguments)
        assert server.requests == []
        result = run(model_weights, **arguments)
    finally:
        server.close()
    label = f"http {server.url}"
    assert forecast["sources"] == [{"source": label}]
    assert {file["path"]: file["bytes"] for file in forecast["files"]} == {
        path: len(data) for path, data in files.items()
    }
    assert f"from {label}" in forecast["summary"]
    total = len(MERGES) + len(GGUF)
    (source,) = result["sources"]
    assert (source["source"], source["bytes"], source["retries"]) == (label, total, 0)
    assert (result["bytes_fetched"], result["retries"]) == (total, 0)
    assert result["connections"] >= 1
    assert result["seconds"] > 0
    assert result["bytes_per_second"] > 0


def test_the_link_and_the_revisions_that_are_kept(run, arguments, model, lock_arguments, tmp_path):
    models = tmp_path / "models/demo/tiny"
    first = arguments["lock"]["revision"]
    run(model_weights, **arguments)
    assert (models / "current").readlink().name == first
    (model / "merges.txt").write_bytes(b"c d")
    arguments["lock"] = run(model_lock, **lock_arguments)["lock"]
    arguments["keep_revisions"] = 1
    run(model_weights, **arguments)
    second = arguments["lock"]["revision"]
    assert (models / "current").readlink().name == second
    assert (models / first / "merges.txt").read_bytes() == MERGES
    forecast = run(model_weights, check=True, **{**arguments, "keep_revisions": 0})
    assert first in forecast["summary"]
    assert (models / first).is_dir()
    assert run(model_weights, **{**arguments, "keep_revisions": 0})["changed"] is True
    assert sorted(entry.name for entry in models.iterdir()) == sorted([".fetch", "current", second])
    assert run(model_weights, **{**arguments, "keep_revisions": 0})["changed"] is False
