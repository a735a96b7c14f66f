# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locking over HTTP: from the stand-in for the Hub, and from plain web servers with and without ranges."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
from email.utils import formatdate
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from weights_sample import gguf, safetensors

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError
from ansible_collections.baremetal.llm.plugins.module_utils.lock_hub import HubOrigin, licence_of
from ansible_collections.baremetal.llm.plugins.module_utils.lock_origins import (
    HttpOrigin,
    Patience,
    WebFiles,
    parse_checksums,
    read_token,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_http import HttpClient
from ansible_collections.baremetal.llm.plugins.module_utils.weights_locking import Selection, lock_model

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "fakes"))

from hub_server import FakeHub  # noqa: E402  (found through the path above)

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
FILES = {
    "config.json": b'{"model_type": "llama", "auto_map": {}}',
    SHARDS[0]: safetensors([("a", "BF16", [700_000])]),
    SHARDS[1]: safetensors([("b", "F32", [5])]),
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
    "tokenizer.model": random.Random(1).randbytes(70_000),
    "sub dir/tokenizer ü.json": b"{}",
    "model-Q4_K_M.gguf": gguf({"general.file_type": 15, "llama.context_length": 4096, "llama.block_count": 2}),
    "pytorch_model.bin": b"pickle",
    "README.md": b"# Model",
    ".gitattributes": b"*",
}
TAKEN = sorted(
    path for path in FILES if path not in ("model-Q4_K_M.gguf", "pytorch_model.bin", "README.md", ".gitattributes")
)
DIGESTS = {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.pauses = []

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def patience(self, seconds=900.0):
        return Patience(seconds, sleep=self.sleep, clock=lambda: self.now)


@pytest.fixture
def clock():
    return Clock()


# --- the Hub ---


@pytest.fixture
def hub():
    pytest.importorskip("huggingface_hub")
    with FakeHub(page_size=3) as hub:
        hub.commit_of_main = hub.add("demo/tiny", FILES, card={"license": "apache-2.0"})
        yield hub


def hub_origin(hub, clock=None, **keys):
    web = WebFiles(HttpClient(), (clock or Clock()).patience())
    return HubOrigin("demo/tiny", web, **{"endpoint": hub.url, **keys})


def lock(origin, **selection):
    return lock_model("demo/tiny", origin, Selection(**selection))


def problem(origin, **selection):
    with pytest.raises(LockError) as caught:
        lock(origin, **selection)
    assert "hf_" not in str(caught.value) and "Signature" not in str(caught.value)
    return str(caught.value)


def test_hub(hub):
    locked = lock(hub_origin(hub))
    assert locked.lock.revision == hub.commit_of_main
    assert dict(locked.lock.source) == {"type": "hub", "revision": "main", "endpoint": hub.url}
    assert {file.path: file.sha256 for file in locked.lock.files} == {path: DIGESTS[path] for path in TAKEN}
    assert {file.path: file.size for file in locked.lock.files} == {path: len(FILES[path]) for path in TAKEN}
    facts = locked.lock.facts
    assert (facts.license, facts.gated, facts.formats) == ("apache-2.0", "", ("safetensors",))
    assert facts.config["model_type"] == "llama"
    assert facts.tensors.all.as_dict() == {"count": 2, "parameters": 700_005, "bytes": 1_400_020}
    assert locked.left_out == (".gitattributes", "README.md", "model-Q4_K_M.gguf", "pytorch_model.bin")
    assert {seen.token for seen in hub.requests} == {""}


def test_weights_are_not_downloaded(hub):
    lock(hub_origin(hub))
    ranges = {(seen.query["file"], seen.headers.get("range", "")) for seen in hub.seen(server="cdn")}
    # Of tokenizer.model, which is in large file storage, the Hub tells the digest: nothing of it is fetched.
    assert ranges == {(SHARDS[0], "bytes=0-262143"), (SHARDS[1], f"bytes=0-{len(FILES[SHARDS[1]]) - 1}")}
    # Everything is asked at the commit, so a branch that moves meanwhile mixes nothing.
    assert not hub.seen("/(tree|resolve)/main")


def test_gguf_on_the_hub(hub):
    made = lock(hub_origin(hub), patterns=("*.gguf",)).lock
    assert made.files[0].gguf == {
        "architecture": "llama",
        "block_count": 2,
        "context_length": 4096,
        "quantization": "Q4_K_M",
    }
    assert made.facts.formats == ("gguf",)


def test_a_branch_that_moves(hub):
    before = lock(hub_origin(hub)).lock
    files = {**FILES, "tokenizer.model": b"other"}
    commit = hub.add("demo/tiny", files, card={"license": "llama3"})
    after = lock(hub_origin(hub)).lock
    assert (after.revision, after.facts.license, after.source) == (commit, "llama3", before.source)
    # The old commit is still what it was, except for how it was asked for.
    again = lock(hub_origin(hub, revision=before.revision)).lock
    assert (again.files, again.facts, again.revision) == (before.files, before.facts, before.revision)


def test_a_token_is_for_the_endpoint_only(hub):
    hub.grant("hf_secret")
    locked = lock(hub_origin(hub, token="hf_secret"))
    assert {seen.token for seen in hub.seen(server="hub")} == {"hf_secret"}
    assert {seen.token for seen in hub.seen(server="cdn")} == {""}
    assert "hf_secret" not in repr(locked) + repr(hub_origin(hub, token="hf_secret"))


def test_a_token_comes_from_its_file_only(hub, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("hf_home")
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    lock(hub_origin(hub))
    assert {seen.token for seen in hub.requests} == {""}


def test_a_list_that_goes_on_elsewhere_gets_no_token(hub):
    with FakeHub() as other:
        other.add("demo/tiny", FILES)
        hub.grant("hf_secret")
        hub.fail("/tree/", 200, {"Link": f'<{other.url}/api/models/demo/tiny/tree/main>; rel="next"'}, body=b"[]")
        lock(hub_origin(hub, token="hf_secret"))
        assert [seen.token for seen in other.requests] == [""]


def test_a_gated_model(hub):
    hub.add("demo/tiny", FILES, gated="manual")
    hub.grant("hf_in", "demo/tiny")
    hub.grant("hf_out")
    text = problem(hub_origin(hub))
    assert f"accept its conditions at {hub.url}/demo/tiny" in text and "token_file" in text
    text = problem(hub_origin(hub, token="hf_out"))
    assert f"has no access to it. Ask for it at {hub.url}/demo/tiny" in text
    assert lock(hub_origin(hub, token="hf_in")).lock.facts.gated == "manual"
    # Only headers are read of this one, and the gate is there too.
    assert "accept its conditions" in problem(hub_origin(hub), patterns=("*.gguf",))


def test_a_private_model_an_unknown_one_and_a_wrong_token(hub):
    hub.add("demo/tiny", FILES, private=True)
    hub.grant("hf_out")
    assert "there is no such model, or it is private and a stranger may not see it" in problem(hub_origin(hub))
    assert "the token in token_file may not see it" in problem(hub_origin(hub, token="hf_out"))
    assert "is not valid (any more)" in problem(hub_origin(hub, token="hf_wrong"))


def test_an_unknown_revision(hub):
    assert "no branch, tag or commit 'v9'. Correct revision." in problem(hub_origin(hub, revision="v9"))


def test_a_commit_that_is_none(hub):
    repository = hub.repositories["demo/tiny"]
    repository.commits["not-a-commit"] = repository.commits[hub.commit_of_main]
    repository.references["main"] = "not-a-commit"
    assert "40 lower-case" in problem(hub_origin(hub))


def test_a_mirror_that_serves_something_else_than_the_commit(hub):
    hub.served_instead["demo/tiny", "config.json"] = FILES["config.json"].replace(b"llama", b"LLAMA")
    assert "'config.json': what was served is not what the commit holds (git digest" in problem(hub_origin(hub))
    hub.served_instead = {("demo/tiny", SHARDS[1]): FILES[SHARDS[1]] + b"x"}
    assert f"'{SHARDS[1]}': offers a file of another size" in problem(hub_origin(hub))


def test_an_index_in_large_file_storage_is_read_and_checked(hub):
    hub.is_large = lambda path, size: path.endswith((".safetensors", ".index.json"))
    assert lock(hub_origin(hub)).lock.files
    hub.served_instead["demo/tiny", "model.safetensors.index.json"] = FILES["model.safetensors.index.json"][::-1]
    assert "what was served is not what is listed (SHA-256" in problem(hub_origin(hub))


def test_a_missing_shard(hub):
    hub.add("demo/tiny", {path: data for path, data in FILES.items() if path != SHARDS[1]})
    assert f"names the shard '{SHARDS[1]}', which is not there" in problem(hub_origin(hub))


@pytest.mark.parametrize("path", ["a/../../etc/x.json", "/etc/x.json", "a\\..\\x.json", "CONFIG.json"])
def test_hostile_names(hub, path):
    hub.add("demo/tiny", {**FILES, path: b"{}"})
    assert "x.json" in problem(hub_origin(hub)) or "differ only in case" in problem(hub_origin(hub))
    # Refused before anything is fetched by that name.
    assert not hub.seen("/resolve/")


def test_pickles_and_code_only_by_name(hub):
    assert "'pytorch_model.bin': loading this format can run code" in problem(hub_origin(hub), patterns=("*",))
    made = lock(hub_origin(hub), allow_files=("pytorch_model.bin",)).lock
    assert "pytorch_model.bin" in [file.path for file in made.files]


def test_rate_limits_of_the_hub_are_waited_for(hub, clock):
    hub.fail(
        "/api/models/demo/tiny/revision", 429, {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"q";q=1;w=300'}
    )
    hub.fail("/api/models/demo/tiny/tree", 429, {"Retry-After": "7"})
    hub.fail("/resolve/.*config", 429, {"Retry-After": formatdate(usegmt=True), "Date": formatdate(0, usegmt=True)})
    hub.fail("/resolve/.*00001", 503, {"Retry-After": "9"})
    locked = lock(hub_origin(hub, clock))
    assert locked.lock.revision == hub.commit_of_main
    assert {56.0, 8.0, 10.0} <= set(clock.pauses)
    assert not [pause for pause in clock.pauses if pause > 60 and pause < 1e6]


@pytest.mark.parametrize("place", ["/revision/", "/tree/", "/resolve/"])
def test_a_wait_that_is_too_long_is_refused_at_once(hub, clock, place):
    hub.fail(place, 429, {"Retry-After": "4000"}, times=100)
    assert "HTTP 429, and asks to wait 4000 s" in problem(hub_origin(hub, clock))
    assert clock.pauses == []


def test_errors_without_end_end(hub, clock):
    hub.fail("/resolve/", 500, times=1000)
    assert "HTTP 500" in problem(hub_origin(hub, clock))
    assert sum(clock.pauses) < 8 * 45 * 2


def test_nobody_there(clock, hub):
    assert "the Hub could not be asked: ConnectError" in problem(hub_origin(hub, clock, endpoint="http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"endpoint": "huggingface.co"}, "endpoint must begin with https://"),
        ({"endpoint": "http://mirror.example", "token": "hf_x"}, "would travel in clear"),
        ({"endpoint": "https://user:pass@mirror.example"}, "must not hold a user or password"),
        ({"endpoint": "https://mirror.example/?token=hf_x"}, "must not hold a query"),
    ],
)
def test_endpoints_that_are_refused(keys, words):
    with pytest.raises(LockError, match=words) as caught:
        HubOrigin("demo/tiny", WebFiles(HttpClient()), **keys)
    assert "hf_x" not in str(caught.value) and "pass@" not in str(caught.value)


def test_the_name_of_the_model_is_judged_first(hub):
    with pytest.raises(LockError, match="organisation/name"):
        lock_model("../tiny", hub_origin(hub), Selection())
    assert hub.requests == []


def test_licences():
    assert licence_of({"license": "mit"}) == ("mit", "")
    assert licence_of({"license": ["mit", "gpl-3.0"]}) == ("mit, gpl-3.0", "")
    card = {"license": "other", "license_name": "nvidia", "license_link": "LICENSE"}
    assert licence_of(card) == ("other: nvidia", "LICENSE")
    assert licence_of({}) == ("", "")


# --- plain web servers ---


class Server(SimpleHTTPRequestHandler):
    """The standard library's own: it knows no ranges."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        super().do_GET()

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def site(tmp_path):
    for path, data in FILES.items():
        (tmp_path / "tiny" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiny" / path).write_bytes(data)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path)))
    server.daemon_threads = True
    server.seen = []
    server.url = f"http://127.0.0.1:{server.server_port}/tiny/"
    server.folder = tmp_path / "tiny"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def http_origin(site, clock=None, **keys):
    return HttpOrigin(site.url, WebFiles(HttpClient(), (clock or Clock()).patience()), **keys)


def test_a_web_server_without_ranges(site):
    made = lock(http_origin(site, files=TAKEN)).lock
    assert {file.path: file.sha256 for file in made.files} == {path: DIGESTS[path] for path in TAKEN}
    assert dict(made.source) == {"type": "http", "url": site.url}
    assert made.facts.tensors.all.parameters == 700_005


def test_a_web_server_with_digests(site):
    sums = "".join(f"{DIGESTS[path]}  {path}\n" for path in FILES)
    (site.folder / "SHA256SUMS").write_text(sums)
    locked = lock(http_origin(site))
    assert {file.path: file.sha256 for file in locked.lock.files} == {path: DIGESTS[path] for path in TAKEN}
    assert locked.lock.source["checksums"] == "SHA256SUMS"
    assert "model-Q4_K_M.gguf" in locked.left_out
    # The same content has the same revision wherever it was locked.
    assert locked.lock.revision == lock(http_origin(site, files=TAKEN, checksums="")).lock.revision
    (site.folder / "SHA256SUMS").write_text(sums.replace(DIGESTS["config.json"], "0" * 64))
    assert "'config.json': what was served is not what is listed" in problem(http_origin(site))


def test_a_web_server_with_ranges(hub):
    # The layout of the Hub is that of a plain server, once the commit is known.
    url = f"{hub.url}/demo/tiny/resolve/{hub.commit_of_main}"
    origin = HttpOrigin(url, WebFiles(HttpClient(), Clock().patience()), files=TAKEN, checksums="")
    assert {file.path: file.sha256 for file in lock(origin).lock.files} == {path: DIGESTS[path] for path in TAKEN}


def test_a_web_server_gets_the_token_it_is_for(site):
    secrets = {"Authorization": "Bearer own"}
    lock(http_origin(site, files=TAKEN, secrets=secrets))
    assert {token for _path, token in site.seen} == {"Bearer own"}
    assert "own" not in repr(http_origin(site, files=TAKEN, secrets=secrets))


def test_refusals_of_a_web_server(site, clock):
    assert "'SHA256SUMS' is needed to know which files there are, and is answered with HTTP 404" in problem(
        http_origin(site)
    )
    assert "name them in files" in problem(http_origin(site, checksums=""))
    (site.folder / SHARDS[0]).unlink()
    assert f"'{SHARDS[0]}': answered HTTP 404" in problem(http_origin(site, files=TAKEN))
    (site.folder / "config.json").unlink()
    (site.folder / "config.json").mkdir()
    assert "'config.json': answered HTTP 200 with an HTML page" in problem(
        http_origin(site, files=["config.json", SHARDS[1]])
    )


def test_checksums():
    body = f"# made by hand\n{'a' * 64}  ./x.json\n\n{'b' * 64} *y z.json\n".encode()
    assert {path: file.sha256[0] for path, file in parse_checksums(body, "SUMS", "").items()} == {
        "x.json": "a",
        "y z.json": "b",
    }
    for text, words in (
        ("", "names no file"),
        ("x", "line 1"),
        (f"{'a' * 64}  x\n{'b' * 64}  x\n", "line 2 of 'SUMS' names 'x' again"),
        (f"{'a' * 40}  x\n", "line 1"),
        ("<html>", "line 1"),
    ):
        with pytest.raises(LockError, match=words):
            parse_checksums(text.encode(), "SUMS", "")


def test_tokens(tmp_path):
    path = tmp_path / "token"
    path.write_text("hf_secret\n")
    assert read_token(str(path)) == "hf_secret"
    for content in (b"", b"hf_a hf_b", b"\xff", "hf_ü".encode()):
        path.write_bytes(content)
        with pytest.raises(LockError, match="token_file") as caught:
            read_token(str(path))
        assert "hf_" not in str(caught.value)
    with pytest.raises(LockError, match="No such file"):
        read_token(str(tmp_path / "absent"))
