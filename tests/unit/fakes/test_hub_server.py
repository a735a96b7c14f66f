# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The stand-in for the Hub, asked by the unmodified huggingface_hub."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "fakes"))

from hub_server import FakeHub  # noqa: E402  (found through the path above)

library = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"0123456789" * 1000,
    "sub folder/ünï.json": b"[1]",
    "README.md": b"---\nlicense: mit\n---\n",
}


@pytest.fixture
def hub():
    with FakeHub(page_size=2) as hub:
        yield hub


def api(hub, token=False):
    return library.HfApi(endpoint=hub.url, token=token)


def get(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_the_unmodified_client_downloads_a_model(hub, tmp_path):
    hub.add("demo/tiny", FILES, gated="manual")
    hub.grant("hf_token", "demo/tiny")
    environment = {
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_token",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    hf = Path(sys.executable).parent / "hf"
    done = subprocess.run(
        [hf, "download", "demo/tiny", "--local-dir", tmp_path / "model"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path: (tmp_path / "model" / path).read_bytes() for path in FILES} == FILES
    done = subprocess.run(
        [hf, "cache", "verify", "demo/tiny", "--local-dir", tmp_path / "model"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The CDN would have refused a request with the token.
    assert {(seen.token, seen.status) for seen in hub.seen(server="cdn")} == {("", 200)}


def test_a_branch_moves_and_a_commit_stays(hub):
    first = hub.add("demo/tiny", FILES, card={"license": "mit"})
    second = hub.add("demo/tiny", {"config.json": b"{ }"}, card={"license": "other"})
    assert api(hub).model_info("demo/tiny").sha == second != first
    old = api(hub).model_info("demo/tiny", revision=first)
    assert (old.sha, old.card_data.license, old.gated) == (first, "mit", False)
    assert [sibling.rfilename for sibling in old.siblings] == sorted(FILES)
    with pytest.raises(errors.RevisionNotFoundError):
        api(hub).model_info("demo/tiny", revision="v9")


def test_the_tree_comes_in_pages_with_the_digests_that_git_and_large_file_storage_know(hub):
    commit = hub.add("demo/tiny", FILES)
    entries = list(api(hub).list_repo_tree("demo/tiny", recursive=True, expand=True, revision=commit))
    assert len(hub.seen("/tree/")) == 3
    files = {entry.path: entry for entry in entries if isinstance(entry, library.hf_api.RepoFile)}
    assert sorted(files) == sorted(FILES)
    stored = hub.repositories["demo/tiny"].commits[commit].files
    assert files["model.safetensors"].lfs.sha256 == stored["model.safetensors"].sha256
    assert files["config.json"].lfs is None
    assert files["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git hash-object of "{}"
    flat = [entry.path for entry in api(hub).list_repo_tree("demo/tiny")]
    assert flat == ["README.md", "config.json", "model.safetensors", "sub folder"]


def test_metadata_and_ranges(hub):
    commit = hub.add("demo/tiny", FILES)
    url = library.hf_hub_url("demo/tiny", "model.safetensors", revision="main", endpoint=hub.url)
    metadata = library.get_hf_file_metadata(url, token=False)
    stored = hub.repositories["demo/tiny"].commits[commit].files["model.safetensors"]
    assert (metadata.commit_hash, metadata.etag, metadata.size) == (commit, stored.sha256, 10000)
    assert metadata.location.startswith(hub.cdn_url)
    status, headers, body = get(url, Range="bytes=5-9")
    assert (status, headers["Content-Range"], body) == (206, "bytes 5-9/10000", b"56789")
    assert get(url, Range="bytes=-3")[2] == b"789"
    assert get(url, Range="bytes=9998-20000")[1]["Content-Range"] == "bytes 9998-9999/10000"
    status, headers, body = get(url, Range="bytes=10000-")
    assert (status, headers["Content-Range"]) == (416, "bytes */10000")
    assert get(url, **{"Range": "bytes=5-9", "If-Range": '"another"'})[0] == 200
    small = library.hf_hub_url("demo/tiny", "sub folder/ünï.json", revision=commit, endpoint=hub.url)
    assert library.get_hf_file_metadata(small, token=False).size == 3
    assert get(small)[2] == b"[1]"


def test_the_gate(hub):
    hub.add("demo/gated", FILES, gated="auto")
    hub.grant("hf_in", "demo/gated")
    hub.grant("hf_out")
    assert api(hub).model_info("demo/gated").gated == "auto"
    for token, status in ((False, 401), ("hf_out", 403)):
        with pytest.raises(errors.GatedRepoError) as caught:
            api(hub, token).auth_check("demo/gated")
        assert caught.value.response.status_code == status
        url = library.hf_hub_url("demo/gated", "model.safetensors", endpoint=hub.url)
        with pytest.raises(errors.GatedRepoError):
            library.get_hf_file_metadata(url, token=token)
    api(hub, "hf_in").auth_check("demo/gated")


def test_private_and_unknown_models_look_the_same(hub):
    hub.add("demo/private", FILES, private=True)
    hub.grant("hf_in", "demo/private")
    hub.grant("hf_out")
    for model in ("demo/private", "demo/unknown"):
        for token in (False, "hf_out"):
            with pytest.raises(errors.RepositoryNotFoundError):
                api(hub, token).model_info(model)
    assert api(hub, "hf_in").model_info("demo/private").private
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials") as caught:
        api(hub, "hf_unknown").model_info("demo/private")
    assert not isinstance(caught.value, errors.RepositoryNotFoundError)


def test_an_address_of_the_cdn_expires_and_takes_no_token(hub):
    hub.add("demo/tiny", FILES)
    hub.signature_seconds = -5
    url = f"{hub.url}/demo/tiny/resolve/main/model.safetensors"
    assert get(url)[0] == 403
    hub.signature_seconds = 60
    assert get(url)[0] == 200
    assert get(url, Authorization="Bearer hf_token")[0] == 401
    location = library.get_hf_file_metadata(url, token=False).location
    assert get(location, Authorization="Bearer hf_token")[0] == 400
    assert get(location.replace("Signature=", "Signature=0"))[0] == 403


def test_faults_and_other_bytes_on_request(hub):
    hub.add("demo/tiny", FILES)
    hub.fail("/api/models/demo/tiny", 503, {"Retry-After": "3"}, body=b"later")
    url = f"{hub.url}/api/models/demo/tiny"
    status, headers, body = get(url)
    assert (status, headers["Retry-After"], body) == (503, "3", b"later")
    assert get(url)[0] == 200
    hub.served_instead["demo/tiny", "config.json"] = b"[]"
    assert get(f"{hub.url}/demo/tiny/resolve/main/config.json")[2] == b"[]"
