# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import hashlib
import json
import os

import pytest
from weights_sample import gguf, raw_safetensors, safetensors

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError, read_lock
from ansible_collections.baremetal.llm.plugins.module_utils.lock_origins import FolderOrigin
from ansible_collections.baremetal.llm.plugins.module_utils.weights_locking import (
    DEFAULT_PATTERNS,
    Selection,
    lock_model,
    write_lock,
)

FILES = {
    "config.json": b'{"hidden_size": 8, "architectures": ["X"]}',
    "model.safetensors": safetensors([("w", "BF16", [2, 3])]),
    "tokenizer.json": b"{}",
    "merges.txt": b"a b",
    "empty.txt": b"",
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"import os",
    "README.md": b"---\nlicense: apache-2.0\n---\n# Model",
    ".gitattributes": b"*",
    ".cache/x.json": b"{}",
}
TAKEN = ["1_Pooling/config.json", "config.json", "empty.txt", "merges.txt", "model.safetensors", "tokenizer.json"]
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "model", FILES)
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "sharded"
    weight_map = {"a": SHARDS[0], "b": SHARDS[1]}
    files = {
        "config.json": b"{}",
        SHARDS[0]: safetensors([("a", "BF16", [10])]),
        SHARDS[1]: safetensors([("b", "F32", [5])]),
        INDEX: json.dumps({"weight_map": weight_map}).encode(),
    }
    write(folder, files)
    return folder


def lock(folder, **selection):
    return lock_model("demo/tiny", FolderOrigin(str(folder)), Selection(**selection))


def problems(folder, **selection):
    with pytest.raises(LockError) as caught:
        lock(folder, **selection)
    assert str(caught.value).startswith(f"model demo/tiny in {folder}: ")
    return "\n".join(caught.value.problems)


def test_folder(folder):
    locked = lock(folder)
    assert [file.path for file in locked.lock.files] == TAKEN
    assert [(file.size, file.sha256) for file in locked.lock.files] == [
        (len(FILES[path]), hashlib.sha256(FILES[path]).hexdigest()) for path in TAKEN
    ]
    assert locked.left_out == (".cache/x.json", ".gitattributes", "README.md", "modeling.py", "pytorch_model.bin")
    lines = sorted(f"{hashlib.sha256(FILES[path]).hexdigest()}  {path}\n" for path in TAKEN)
    assert locked.lock.revision == hashlib.sha256("".join(lines).encode()).hexdigest()[:40]
    assert dict(locked.lock.source) == {"type": "folder"}


def test_facts_of_a_folder(folder):
    facts = lock(folder).lock.facts
    assert (facts.license, facts.gated, facts.formats) == ("apache-2.0", "", ("safetensors",))
    assert facts.config == {"architectures": ["X"], "hidden_size": 8}
    assert facts.tensors.as_dict()["dtypes"] == {"BF16": {"count": 1, "parameters": 6, "bytes": 12}}
    weights = [file for file in lock(folder).lock.files if file.tensors is not None]
    assert [(file.path, file.tensors) for file in weights] == [("model.safetensors", facts.tensors)]


def test_the_revision_follows_the_content_and_nothing_else(folder, tmp_path):
    before = lock(folder).lock
    os.utime(folder / "config.json", (0, 0))
    folder.rename(tmp_path / "elsewhere")
    assert lock(tmp_path / "elsewhere").lock == before
    (tmp_path / "elsewhere/config.json").write_bytes(b'{"a": 2}')
    assert lock(tmp_path / "elsewhere").lock.revision != before.revision


def test_selection(folder):
    locked = lock(folder, exclude=("1_Pooling/*", "*.txt"), allow_files=("pytorch_model.bin", "modeling.py"))
    paths = [file.path for file in locked.lock.files]
    assert paths == ["config.json", "model.safetensors", "modeling.py", "pytorch_model.bin", "tokenizer.json"]
    assert locked.lock.facts.formats == ("pickle", "safetensors")


def test_quantizations_beside_the_model_are_locked_only_on_request(folder):
    write(folder, {"model-Q4_K_M.gguf": gguf({"general.file_type": 15, "llama.block_count": 2})})
    assert [file.path for file in lock(folder).lock.files] == TAKEN
    asked_for = lock(folder, patterns=("*.gguf",)).lock
    assert [file.path for file in asked_for.files] == ["model-Q4_K_M.gguf"]
    assert asked_for.facts.formats == ("gguf",)
    assert asked_for.files[0].gguf["quantization"] == "Q4_K_M"
    assert asked_for.facts.tensors == asked_for.files[0].tensors


def test_the_total_is_of_one_model(tmp_path):
    vision = gguf({"general.architecture": "clip"}, [("v", "F32", [9])])
    write(tmp_path, {"a-Q4.gguf": gguf(), "mmproj.gguf": vision})
    assert lock(tmp_path, patterns=("*.gguf",)).lock.facts.tensors.all.parameters == 4
    write(tmp_path, {"a-00001-of-00002.gguf": gguf(), "a-00002-of-00002.gguf": gguf()})
    assert lock(tmp_path, patterns=("a-0*.gguf",)).lock.facts.tensors.all.parameters == 8
    # Two quantizations are two models.
    assert lock(tmp_path, patterns=("*.gguf",)).lock.facts.tensors is None


def test_weights_beside_the_model_are_told_and_not_counted(sharded):
    write(sharded, {"consolidated.safetensors": safetensors([("z", "F32", [100])])})
    locked = lock(sharded)
    assert locked.lock.facts.tensors.all.as_dict() == {"count": 2, "parameters": 15, "bytes": 40}
    assert len(locked.notes) == 1 and "consolidated.safetensors (" in locked.notes[0]
    assert lock(sharded, exclude=("consolidated*",)).notes == ()


def test_code_of_the_models_own_is_told(folder):
    config = {"auto_map": {"AutoModel": "modeling.Model", "AutoTokenizer": ["other/repo--tok.T", None]}}
    write(folder, {"config.json": json.dumps(config).encode()})
    assert "modeling.py, tok.py" in lock(folder).notes[0]
    assert "(tok.py)" in lock(folder, allow_files=("modeling.py",)).notes[0]


def test_links_of_the_hub_cache_are_followed_and_dead_ones_are_not_there(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    (folder / "gone.json").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.json")
    assert [file.path for file in lock(folder).lock.files] == TAKEN


def test_what_is_refused_in_a_folder(folder, tmp_path):
    assert "run code" in problems(folder, patterns=("*.safetensors", "*.bin"))
    assert "'modeling.py': loading this format can run code" in problems(folder, patterns=("*",))
    assert "'gone.bin' is named in allow_files" in problems(folder, allow_files=("gone.bin",))
    assert "no file matches" in problems(folder, patterns=("*.gguf",))
    assert "no weights" in problems(folder, patterns=("*.json",))
    assert "does not exist" in problems(tmp_path / "absent")
    write(folder, {"Config.json": b"{}"})
    assert "'Config.json' and 'config.json' differ only in case" in problems(folder)
    (folder / "Config.json").unlink()
    write(folder, {"a\\b.json": b"{}"})
    assert "backslash" in problems(folder)


def test_all_damage_is_told_at_once(folder):
    write(folder, {"model.safetensors": FILES["model.safetensors"][:-1], "x.gguf": b"<html>", "config.json": b"["})
    text = problems(folder, patterns=(*DEFAULT_PATTERNS, "*.gguf"))
    assert "'model.safetensors': its tensors end at byte" in text
    assert "'x.gguf': does not begin with the mark" in text
    assert "'config.json' cannot be read" in text


def test_a_pointer_is_not_the_file(folder):
    write(folder, {"tokenizer.json": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"})
    assert "'tokenizer.json' is a pointer of Git LFS" in problems(folder)


def test_a_file_that_cannot_be_read(folder):
    class Broken(FolderOrigin):
        def chunks(self, path, first, end):
            raise OSError(errno.EIO, "Input/output error", path)

    with pytest.raises(LockError, match=r"\.json cannot be read: Input/output error"):
        lock_model("demo/tiny", Broken(str(folder)), Selection())


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("1_Pooling"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "1_Pooling cannot be read: Permission denied" in problems(folder)


def test_a_file_that_shrinks_while_it_is_read(folder):
    class Shrinking(FolderOrigin):
        def chunks(self, path, first, end):
            return super().chunks(path, first, end + 1)

    with pytest.raises(LockError, match="became shorter while it was read"):
        lock_model("demo/tiny", Shrinking(str(folder)), Selection())


def test_shards_and_index_agree(sharded):
    lock_of_shards = lock(sharded).lock
    assert lock_of_shards.facts.tensors.as_dict()["dtypes"]["F32"]["parameters"] == 5


def test_a_missing_shard(sharded):
    (sharded / SHARDS[1]).unlink()
    text = problems(sharded)
    assert f"names the shard '{SHARDS[1]}', which is not there: the upload or copy is not complete" in text
    # Without an index, the names of the others tell.
    (sharded / INDEX).unlink()
    assert f"the shard '{SHARDS[1]}' is missing" in problems(sharded)


def test_a_shard_that_is_left_out(sharded):
    write(sharded, {"x.gguf": gguf()})
    assert "patterns and exclude leave out" in problems(sharded, patterns=("*.gguf", "*.json"))
    assert lock(sharded, patterns=("*.gguf", "*.json"), exclude=("*.index.json",))


def test_shards_of_different_models_mixed(sharded):
    write(sharded, {SHARDS[1]: safetensors([("c", "F32", [5])])})
    assert f"places 1 tensors in the shard '{SHARDS[1]}' that are not in it, such as 'b'" in problems(sharded)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"weight_map": 1}', b"\xff"])
def test_an_index_that_is_none(sharded, content):
    write(sharded, {INDEX: content})
    assert "not a readable index" in problems(sharded)


def test_an_index_of_pickles_counts_only_with_them(sharded):
    index = b'{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}'
    write(sharded, {"pytorch_model.bin.index.json": index, "pytorch_model-00001-of-00002.bin": b"x"})
    assert lock(sharded)
    text = problems(sharded, allow_files=("pytorch_model-00001-of-00002.bin",))
    assert "names the shard 'pytorch_model-00002-of-00002.bin', which is not there" in text


@pytest.mark.parametrize("data", [b"", b"1234567", raw_safetensors(b"{}", 0, 2**40), raw_safetensors(b"[]x", 0, 2)])
def test_broken_headers(folder, data):
    write(folder, {"model.safetensors": data})
    assert "'model.safetensors': " in problems(folder)


@pytest.mark.parametrize("name", ["tiny.yml", "tiny.json"])
def test_write_lock(folder, tmp_path, name):
    made = lock(folder).lock
    path = tmp_path / "new/locks" / name
    assert write_lock(str(path), made, 0o644, check_mode=True)[:2] == (True, "")
    assert not path.parent.exists()
    assert write_lock(str(path), made, 0o640, check_mode=False)[0]
    assert path.stat().st_mode & 0o7777 == 0o640
    assert read_lock(str(path)) == made
    assert path.read_text().startswith("{" if name.endswith("json") else "---")
    status = path.stat()
    changed, before, after, change = write_lock(str(path), made, 0o640, check_mode=False)
    assert (changed, before, change.lines) == (False, after, ())
    assert path.stat().st_ctime_ns == status.st_ctime_ns
    assert [entry.name for entry in path.parent.iterdir()] == [name]


def test_what_is_no_lock_is_not_overwritten(folder, tmp_path):
    made = lock(folder).lock
    path = tmp_path / "site.yml"
    for text in ("llm_models: []\n", "- a\n", "just words\n", "a: [\n"):
        path.write_text(text)
        with pytest.raises(LockError, match=r"site\.yml: there is a file that is not a lock file"):
            write_lock(str(path), made, 0o644, check_mode=False)
        assert path.read_text() == text
    # A lock that cannot be used any more, and an empty file, are replaced.
    for text in ("", "format_version: 0\nfiles: []\n"):
        path.write_text(text)
        assert write_lock(str(path), made, 0o644, check_mode=False)[3].files_added == tuple(TAKEN)


def test_the_change_of_a_lock_with_opted_in_files_is_told(folder, tmp_path):
    path = str(tmp_path / "tiny.yml")
    write_lock(path, lock(folder, allow_files=("pytorch_model.bin",)).lock, 0o644, check_mode=False)
    change = write_lock(path, lock(folder).lock, 0o644, check_mode=False)[3]
    assert (change.files_removed, change.files_added) == (("pytorch_model.bin",), ())
