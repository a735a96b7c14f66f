# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError, read_lock
from ansible_collections.baremetal.llm.plugins.module_utils.weights_locking import (
    Selection,
    lock_folder,
    lock_hub,
    write_lock,
)


def safetensors(count=4):
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(count)


FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": safetensors(),
    "tokenizer.json": b"{}",
    "merges.txt": b"a b",
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"import os",
    "README.md": b"# Model",
    ".gitattributes": b"*",
    ".cache/x.json": b"{}",
}
TAKEN = ["1_Pooling/config.json", "config.json", "merges.txt", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def problems(folder, selection=None):
    with pytest.raises(LockError) as caught:
        lock_folder("demo/tiny", str(folder), selection or Selection())
    return "\n".join(caught.value.problems)


def test_folder(folder):
    locked = lock_folder("demo/tiny", str(folder), Selection())
    assert [file.path for file in locked.lock.files] == TAKEN
    assert [(file.size, file.sha256) for file in locked.lock.files] == [
        (len(FILES[path]), hashlib.sha256(FILES[path]).hexdigest()) for path in TAKEN
    ]
    assert locked.left_out == (".cache/x.json", ".gitattributes", "README.md", "modeling.py", "pytorch_model.bin")
    lines = sorted(f"{hashlib.sha256(FILES[path]).hexdigest()}  {path}\n" for path in TAKEN)
    assert locked.lock.revision == hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def test_the_revision_follows_the_content_and_nothing_else(folder, tmp_path):
    before = lock_folder("demo/tiny", str(folder), Selection()).lock
    os.utime(folder / "config.json", (0, 0))
    folder.rename(tmp_path / "elsewhere")
    assert lock_folder("demo/tiny", str(tmp_path / "elsewhere"), Selection()).lock == before
    (tmp_path / "elsewhere/config.json").write_bytes(b'{"a": 2}')
    assert lock_folder("demo/tiny", str(tmp_path / "elsewhere"), Selection()).lock.revision != before.revision


def test_selection(folder):
    selection = Selection(exclude=("1_Pooling/*", "merges.txt"), allow_files=("pytorch_model.bin",))
    paths = [file.path for file in lock_folder("demo/tiny", str(folder), selection).lock.files]
    assert paths == ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"]


def test_quantizations_beside_the_model_are_locked_only_on_request(folder):
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(100))
    assert [file.path for file in lock_folder("demo/tiny", str(folder), Selection()).lock.files] == TAKEN
    asked_for = lock_folder("demo/tiny", str(folder), Selection(patterns=("*.gguf",))).lock
    assert [file.path for file in asked_for.files] == ["model-Q4_K_M.gguf"]


def test_links_of_the_hub_cache_are_followed(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert [file.path for file in lock_folder("demo/tiny", str(folder), Selection()).lock.files] == TAKEN


def test_what_is_refused_in_a_folder(folder, tmp_path):
    assert "run code" in problems(folder, Selection(patterns=("*.safetensors", "*.bin")))
    assert "'gone.bin' is named in allow_files" in problems(folder, Selection(allow_files=("gone.bin",)))
    assert "no file matches" in problems(folder, Selection(patterns=("*.gguf",)))
    assert "no weights" in problems(folder, Selection(patterns=("*.json",)))
    assert "does not exist" in problems(tmp_path / "absent")
    (folder / "model.safetensors").write_bytes(safetensors()[:-1])
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    text = problems(folder)
    assert "'model.safetensors': its tensors end at byte" in text
    assert "'gone.safetensors'" in text
    (folder / "a-00001-of-00002.safetensors").write_bytes(safetensors())
    assert "'a-00002-of-00002.safetensors' is missing" in problems(folder)


@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2) + b"[]x"])
def test_broken_headers(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    assert "'model.safetensors': " in problems(folder)


def test_write_lock(folder, tmp_path):
    lock = lock_folder("demo/tiny", str(folder), Selection()).lock
    path = tmp_path / "new/locks/tiny.yml"
    assert write_lock(str(path), lock, 0o644, check_mode=True)[:2] == (True, "")
    assert not path.parent.exists()
    assert write_lock(str(path), lock, 0o640, check_mode=False)[0]
    assert path.stat().st_mode & 0o7777 == 0o640
    assert read_lock(str(path)) == lock
    status = path.stat()
    assert not write_lock(str(path), lock, 0o640, check_mode=False)[0]
    assert path.stat().st_ctime_ns == status.st_ctime_ns
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.yml"]


COMMIT = "c0ffee" + "0" * 34


@pytest.fixture
def hub():
    """Answers as the Hub does, for one model with one commit; big.safetensors is in large file storage."""
    pytest.importorskip("huggingface_hub")
    files = {**FILES, "model.safetensors": safetensors(100)}
    state = SimpleNamespace(requests=[], files=files, served=dict(files), commit=COMMIT)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            state.requests.append((path, self.headers.get("Authorization")))
            if path == "/api/models/demo/tiny/revision/main":
                return self.reply(json.dumps({"id": "demo/tiny", "sha": state.commit, "siblings": []}).encode())
            if path == f"/api/models/demo/tiny/tree/{state.commit}":
                return self.reply(json.dumps([self.entry(name) for name in sorted(state.files)]).encode())
            prefix = f"/demo/tiny/resolve/{state.commit}/"
            if path.startswith(prefix) and path[len(prefix) :] in state.served:
                data = state.served[path[len(prefix) :]]
                etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                return self.reply(data, {"ETag": f'"{etag}"', "X-Repo-Commit": state.commit})
            return self.reply(b'{"error": "not found"}', {"X-Error-Code": "RevisionNotFound"}, 404)

        def entry(self, name):
            data = state.files[name]
            entry = {
                "type": "file",
                "path": name,
                "size": len(data),
                "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
            }
            if name.endswith(".safetensors"):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            return entry

        def reply(self, data, headers=None, status=200):
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


def test_hub(hub):
    locked = lock_hub("demo/tiny", "main", hub.url, "", Selection())
    assert locked.lock.revision == COMMIT
    assert dict(locked.lock.source) == {"type": "hub", "revision": "main", "endpoint": hub.url}
    assert {file.path: file.sha256 for file in locked.lock.files} == {
        path: hashlib.sha256(hub.files[path]).hexdigest() for path in TAKEN
    }
    assert {path for path, _token in hub.requests if "/resolve/" in path} == {
        f"/demo/tiny/resolve/{COMMIT}/{path}" for path in TAKEN if path != "model.safetensors"
    }
    assert {token for _path, token in hub.requests} == {None}


def test_hub_token(hub):
    lock_hub("demo/tiny", "main", hub.url, "hf_secret", Selection())
    assert {token for _path, token in hub.requests} == {"Bearer hf_secret"}


def test_hub_that_serves_something_else_than_the_commit(hub):
    hub.served["config.json"] = b'{"a": 9}'
    with pytest.raises(LockError, match=r"'config\.json': what was served is not what the commit holds"):
        lock_hub("demo/tiny", "main", hub.url, "", Selection())


def test_hub_without_the_revision(hub):
    with pytest.raises(LockError, match=r"model demo/tiny at v9 on http.*could not be asked: RevisionNotFoundError"):
        lock_hub("demo/tiny", "v9", hub.url, "", Selection())


def test_hub_commit_is_judged_like_any_other(hub):
    hub.commit = "main"
    with pytest.raises(LockError, match="40 lower-case"):
        lock_hub("demo/tiny", "main", hub.url, "", Selection())
