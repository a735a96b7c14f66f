# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Hub's own client library, as it is published, with another endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, HfFileSystem, errors

MODEL = "demo/noise"


def assert_whole(folder: str | Path, lock) -> None:
    """Exactly the lock's files, byte for byte."""
    found = {}
    for path in Path(folder).rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith(".cache/"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == {file.path: file.sha256 for file in lock.files}


@pytest.fixture
def api(url) -> HfApi:
    return HfApi(endpoint=url)


@pytest.mark.parametrize("branch", [None, "main", "stable"])
def test_a_branch_is_the_revision_that_the_site_says_it_is(url, tmp_path, lock, branch):
    folder = huggingface_hub.snapshot_download(MODEL, revision=branch, endpoint=url, cache_dir=tmp_path)
    assert Path(folder).name == lock("new").revision
    assert_whole(folder, lock("new"))


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_commit_is_downloaded_whatever_the_branch_is(url, tmp_path, lock, name):
    folder = huggingface_hub.snapshot_download(MODEL, revision=lock(name).revision, endpoint=url, cache_dir=tmp_path)
    assert_whole(folder, lock(name))


def test_program_downloads_and_verifies_with_nothing_but_the_environment(url, tmp_path, lock):
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
    program = str(Path(sys.executable).parent / "hf")
    for arguments in (["download", MODEL], ["cache", "verify", MODEL]):
        done = subprocess.run(
            [program, *arguments, "--local-dir", str(tmp_path / "model")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "All checksums match" in done.stdout
    assert_whole(tmp_path / "model", lock("new"))


def test_a_download_goes_on_where_the_connection_was_cut(cutting_proxy, tmp_path, lock, mirror):
    file = next(file for file in lock("new").files if file.path == "model-00001-of-00002.safetensors")
    place = huggingface_hub.hf_hub_download(
        MODEL, file.path, revision=lock("new").revision, endpoint=cutting_proxy.url, cache_dir=tmp_path
    )
    assert cutting_proxy.cuts == 0
    assert hashlib.sha256(Path(place).read_bytes()).hexdigest() == file.sha256
    entries = [
        json.loads(line) for line in mirror.file("/var/log/nginx/baremetal-llm-mirror.log").content_string.splitlines()
    ]
    resumed = [entry["range"] for entry in entries if entry["path"].endswith(file.path) and entry["status"] == "206"]
    assert resumed[-2:] == ["bytes=10485760-", "bytes=20971520-"]


def test_a_download_is_not_repeated_while_nothing_changed(url, tmp_path, mirror):
    def count() -> int:
        log = mirror.file("/var/log/nginx/baremetal-llm-mirror.log").content_string
        return sum('"GET"' in line and "/resolve/" in line for line in log.splitlines())

    huggingface_hub.snapshot_download(MODEL, endpoint=url, cache_dir=tmp_path)
    before = count()
    huggingface_hub.snapshot_download(MODEL, endpoint=url, cache_dir=tmp_path)
    assert count() == before


def test_what_is_missing_is_missing_in_the_librarys_own_words(api, url, tmp_path, lock):
    def get(model: str, path: str, revision: str | None = None) -> str:
        return huggingface_hub.hf_hub_download(model, path, revision=revision, endpoint=url, cache_dir=tmp_path)

    with pytest.raises(errors.EntryNotFoundError):
        get(MODEL, "absent.json")
    # The library notes for the commit that there is none, as for the Hub.
    assert (tmp_path / "models--demo--noise/.no_exist" / lock("new").revision / "absent.json").exists()
    with pytest.raises(errors.EntryNotFoundError):
        list(api.list_repo_tree(MODEL, "absent"))
    for revision in ("absent", "0" * 40):
        with pytest.raises(errors.RevisionNotFoundError):
            get(MODEL, "config.json", revision)
        with pytest.raises(errors.RevisionNotFoundError):
            api.model_info(MODEL, revision=revision)
    # Without `main`, since nobody said what it is.
    with pytest.raises(errors.RevisionNotFoundError):
        get("demo/other", "config.json")
    assert get("demo/other", "config.json", lock("other").revision)
    for model in ("demo/absent", "absent/noise"):
        with pytest.raises(errors.RepositoryNotFoundError):
            get(model, "config.json")
        with pytest.raises(errors.RepositoryNotFoundError):
            api.model_info(model)
        with pytest.raises(errors.RepositoryNotFoundError):
            list(api.list_repo_tree(model))


def test_what_the_library_learns_of_a_model(api, url, lock):
    info = api.model_info(MODEL, files_metadata=True)
    assert info.sha == lock("new").revision
    assert {entry.rfilename: entry.lfs.sha256 for entry in info.siblings} == {
        file.path: file.sha256 for file in lock("new").files
    }
    assert info.safetensors.total == sum((24 * 1024**2, 3 * 1024**2))
    assert {branch.name: branch.target_commit for branch in api.list_repo_refs(MODEL).branches} == {
        "main": lock("new").revision,
        "stable": lock("new").revision,
    }
    paths = {file.path for file in lock("old").files}
    assert set(api.list_repo_files(MODEL, revision=lock("old").revision)) == paths
    tree = list(api.list_repo_tree(MODEL, revision=lock("old").revision))
    assert {entry.path for entry in tree} == {path.split("/")[0] for path in paths}
    assert HfFileSystem(endpoint=url).ls(f"{MODEL}/original", detail=False) == [
        f"{MODEL}/original/deep",
        f"{MODEL}/original/params.json",
    ]
    file = next(file for file in lock("new").files if file.path == "config.json")
    metadata = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(MODEL, file.path, endpoint=url))
    assert (metadata.etag, metadata.size, metadata.commit_hash) == (file.sha256, file.size, lock("new").revision)


def test_a_model_is_locked_from_the_mirror_as_from_the_hub(url, tmp_path, lock, playbook):
    """What model_lock asks of the Hub, it is told here: the same commit, files and digests."""
    source = {"type": "hub", "model": MODEL, "endpoint": url, "patterns": ["*"], "exclude": ["odd*"]}
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible"),
            *("localhost", "-i", "localhost,", "-c", "local", "-m", "baremetal.llm.model_lock"),
            *("-e", f"ansible_python_interpreter={sys.executable}"),
            *("-a", json.dumps({"path": str(tmp_path / "lock.json"), "source": source})),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads((tmp_path / "lock.json").read_text())
    assert made["revision"] == lock("new").revision
    assert {(file["path"], file["sha256"]) for file in made["files"]} == {
        (file.path, file.sha256) for file in lock("new").files if not file.path.startswith("odd")
    }
