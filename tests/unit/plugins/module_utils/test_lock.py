# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import os
import posixpath

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.baremetal.llm.plugins.module_utils.lock import (
    Lock,
    LockError,
    LockFile,
    ModelFacts,
    dump_lock,
    form_of,
    format_problem,
    index_problems,
    missing_shards,
    parse_lock,
    path_problem,
    read_lock,
)
from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import DtypeTotals, TensorTotals

REVISION = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32
GOOD = {
    "format_version": 1,
    "model": "demo/tiny",
    "revision": REVISION,
    "source": {"type": "folder"},
    "total_bytes": 12,
    "files": [
        {"path": "config.json", "size": 2, "sha256": DIGEST},
        {"path": "model.safetensors", "size": 10, "sha256": DIGEST},
    ],
}


def changed(**keys):
    data = copy.deepcopy(GOOD)
    data.update(keys)
    return data


def one_file(**keys):
    return changed(files=[{"path": "model.safetensors", "size": 12, "sha256": DIGEST, **keys}])


def two_files(*paths):
    return changed(files=[{"path": path, "size": 6, "sha256": DIGEST} for path in paths])


TOTALS = {"count": 1, "parameters": 2, "bytes": 4, "dtypes": {"BF16": {"count": 1, "parameters": 2, "bytes": 4}}}


def problems_of(data, allow_files=()):
    with pytest.raises(LockError) as caught:
        parse_lock(data, allow_files)
    return caught.value.problems


def test_good_lock():
    lock = parse_lock(GOOD)
    assert (lock.model, lock.revision, lock.total_bytes) == ("demo/tiny", REVISION, 12)
    assert [file.path for file in lock.files] == ["config.json", "model.safetensors"]
    assert lock.model_path() == f"/srv/models/demo/tiny/{REVISION}"
    assert lock.model_path("/data") == f"/data/demo/tiny/{REVISION}"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "must be a mapping"),
        ([], "must be a mapping"),
        (changed(format_version=2), "format_version"),
        (changed(format_version=True), "format_version"),
        (changed(model="tiny"), "organisation/name"),
        (changed(model="a/b/c"), "organisation/name"),
        (changed(model="../etc"), "organisation/name"),
        (changed(model="demo/.fetch"), "organisation/name"),
        (changed(model=None), "organisation/name"),
        (changed(revision="main"), "40 lower-case"),
        (changed(revision=REVISION.upper()), "40 lower-case"),
        (changed(revision=1234), "40 lower-case"),
        (changed(revision=REVISION + "\n"), "40 lower-case"),
        (changed(source="hub"), "source must"),
        (changed(files=[]), "not empty"),
        (changed(files="config.json"), "not empty"),
        (changed(files=["config.json"]), "entry 1"),
        (changed(surprise=1), "unknown keys surprise"),
        (changed(total_bytes=13), "add up to 12"),
        (changed(total_bytes="12"), "total_bytes must"),
        (changed(license=1), "license must be a text"),
        (changed(formats="gguf"), "formats must be a list"),
        (changed(config=[]), "config must be a mapping"),
        (changed(tensors={"count": 1}), "tensors must have exactly"),
        (changed(tensors=TOTALS | {"bytes": 5}), "not the sums"),
        (changed(tensors=TOTALS | {"count": -1}), "count must be a whole number"),
        (changed(tensors=TOTALS | {"dtypes": {"BF16": {}}}), "tensors.dtypes must"),
        (one_file(tensors=[]), "'model.safetensors': tensors must"),
        (one_file(gguf=[]), "'model.safetensors': gguf must be a mapping"),
        (one_file(digest="x"), "entry 1"),
        (two_files("Model.safetensors", "model.safetensors"), "differ only in case"),
        (two_files("A/config.json", "a/model.safetensors"), "'A' and 'a' differ only in case"),
        (two_files("\u00fc.json", "u\u0308.json"), "how letters are encoded"),
        (one_file(size=-1), "size must"),
        (one_file(size="12"), "size must"),
        (one_file(size=True), "size must"),
        (one_file(sha256=DIGEST[:-1]), "64 lower-case"),
        (one_file(sha256=None), "64 lower-case"),
        (one_file(path="../model.safetensors"), "'..'"),
        (one_file(path="a/../../model.safetensors"), "'..'"),
        (one_file(path="/etc/model.safetensors"), "relative"),
        (one_file(path="C:/model.safetensors"), "relative"),
        (one_file(path="a\\model.safetensors"), "backslash"),
        (one_file(path="model\0.safetensors"), "NUL"),
        (one_file(path="model\n.safetensors"), "control"),
        (one_file(path="a//model.safetensors"), "empty parts"),
        (one_file(path=""), "not empty"),
        (one_file(path=".baremetal-llm.json"), "dot are reserved"),
        (one_file(path="x/.git/config.json"), "dot are reserved"),
        (one_file(path="x" * 256 + ".json"), "255"),
        (one_file(path="model-00001-of-00002.safetensors"), "'model-00002-of-00002.safetensors' is missing"),
        (changed(files=GOOD["files"] + GOOD["files"][:1], total_bytes=14), "listed twice"),
        (
            changed(files=[*GOOD["files"], {"path": "config.json/a.json", "size": 0, "sha256": DIGEST}]),
            "cannot be below it",
        ),
    ],
)
def test_refused(data, words):
    assert any(words in problem for problem in problems_of(data))


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "a.pt",
        "a.pth",
        "a.ckpt",
        "a.pkl",
        "modeling.py",
        "A.BIN",
        "run.sh",
        "weights",
        "original/a.pth",
    ],
)
def test_format_refused_unless_named_exactly(name):
    data = one_file(path=name)
    assert any("allow_files" in problem for problem in problems_of(data))
    assert any("allow_files" in problem for problem in problems_of(data, ["*", name + "x", "x" + name]))
    assert parse_lock(data, [name]).files[0].path == name


@pytest.mark.parametrize(
    "name",
    [
        "a.safetensors",
        "1_Pooling/config.json",
        "merges.txt",
        "chat_template.jinja",
        "tokenizer.model",
        "q.gguf",
        "a.tiktoken",
    ],
)
def test_format_accepted(name):
    assert format_problem(name) is None


def test_all_problems_at_once():
    data = changed(
        model="x",
        revision="main",
        files=[{"path": "../a.json", "size": -1, "sha256": "0"}, {"path": "b.bin", "size": 1, "sha256": "1"}],
    )
    text = "\n".join(problems_of(data))
    for words in ("organisation/name", "40 lower-case", "'..'", "b.bin", "64 lower-case"):
        assert words in text


names = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFFF), min_size=1, max_size=12)
lock_files = st.lists(
    st.builds(
        LockFile,
        path=st.lists(names, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".json"),
        size=st.integers(0, 2**45),
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda file: file.path,
)


@given(files=lock_files, revision=st.text("0123456789ef", min_size=40, max_size=40))
def test_what_is_written_is_what_is_read(files, revision):
    files = tuple(sorted((file for file in files if path_problem(file.path) is None), key=lambda file: file.path))
    lock = Lock("org/name", revision, files, {"type": "hub", "revision": "1e5"})
    text = dump_lock(lock)
    data = yaml.safe_load(text)
    assert data == lock.as_dict() == json.loads(dump_lock(lock, "json"))
    # In another order, the same text.
    assert dump_lock(Lock("org/name", revision, files[::-1], lock.source)) == text
    try:
        assert parse_lock(data) == lock
    except LockError as error:
        words = ("cannot be below", "differ only in case")
        assert not files or all(any(word in problem for word in words) for problem in error.problems)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "no", "1e5", "0x10", "12:30:00", "2026-01-01", "~", "a: b", "# c", "'", '"', "\\", "\u2028x\x85"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
config_keys = st.sampled_from(["no", "y", "ON", "null", "1", "1e5", "a b", "rope.scaling", "-", "x"])
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(config_keys, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(
    config=st.dictionaries(config_keys, nested, max_size=4), licence=st.text(st.characters(exclude_categories=["Cs"]))
)
def test_facts_survive_every_reader(config, licence):
    totals = TensorTotals((("BF16", DtypeTotals(1, 2, 4)), ("F32", DtypeTotals(2, 3, 12))))
    facts = ModelFacts(licence, "https://example.org/licence", "manual", ("safetensors",), config, totals)
    file = LockFile("model.safetensors", 16, DIGEST, totals, {"block_count": 2})
    lock = Lock("org/name", REVISION, (file,), {"type": "hub"}, facts)
    text = dump_lock(lock)
    for loader in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        assert parse_lock(yaml.load(text, Loader=loader)) == lock
    assert parse_lock(json.loads(dump_lock(lock, "json"))) == lock


def test_facts_are_one_line_each():
    totals = TensorTotals((("BF16", DtypeTotals(1, 2, 4)),))
    facts = ModelFacts("mit", "", "", ("safetensors",), {"rope_scaling": None, "layers": [1, 2], "eps": 1e-06}, totals)
    lock = Lock("org/name", REVISION, (LockFile("model.safetensors", 12, DIGEST, totals),), {"type": "folder"}, facts)
    assert dump_lock(lock).splitlines()[4:] == [
        f'revision: "{REVISION}"',
        "source:",
        '  type: "folder"',
        'license: "mit"',
        'formats: ["safetensors"]',
        "tensors:",
        "  count: 1",
        "  parameters: 2",
        "  bytes: 4",
        "  dtypes:",
        '    BF16: {"bytes": 4, "count": 1, "parameters": 2}',
        "config:",
        "  eps: 1.0e-06",
        "  layers: [1, 2]",
        "  rope_scaling: null",
        "total_bytes: 12",
        "files:",
        '  - path: "model.safetensors"',
        "    size: 12",
        f'    sha256: "{DIGEST}"',
        "    tensors:",
        "      count: 1",
        "      parameters: 2",
        "      bytes: 4",
        "      dtypes:",
        '        BF16: {"bytes": 4, "count": 1, "parameters": 2}',
    ]


hostile_parts = st.sampled_from(["..", ".", "", "a", "/", "\\", "\0", "b.json"])


@given(st.text(max_size=30) | st.lists(hostile_parts, max_size=6).map("/".join))
def test_an_accepted_path_stays_below_the_folder(path):
    if path_problem(path) is None:
        place = posixpath.normpath(posixpath.join("/srv/models/x", path))
        assert place.startswith("/srv/models/x/")
        assert place == "/srv/models/x/" + path
        os.fsencode(place)


keys = st.sampled_from(["files", "model", "path", "size", "sha256", "revision"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
)


@given(anything)
def test_anything_else_is_refused_and_never_crashes(data):
    with pytest.raises(LockError):
        parse_lock(data)


def test_missing_shards():
    assert missing_shards(["a-00001-of-00003.safetensors", "a-00003-of-00003.safetensors"]) == [
        "a-00002-of-00003.safetensors"
    ]
    assert missing_shards(["a-00001-of-00001.safetensors", "b.json"]) == []
    # A name that promises a hundred thousand shards is not a reason to build such a list.
    assert missing_shards(["a-00001-of-99999.safetensors"]) == []


def test_index():
    index = b'{"weight_map": {"x": "a-1.safetensors", "y": "a-2.safetensors"}}'
    assert index_problems("m/i.index.json", index, ["m/a-1.safetensors", "m/a-2.safetensors"]) == []
    assert "a-2.safetensors" in index_problems("m/i.index.json", index, ["m/a-1.safetensors", "a-2.safetensors"])[0]
    for broken in (b"", b"[]", b"{}", b'{"weight_map": 1}', b"\xff"):
        assert "not a readable index" in index_problems("i.index.json", broken, [])[0]


def test_read_lock(tmp_path):
    path = tmp_path / "tiny.yml"
    path.write_text(dump_lock(parse_lock(GOOD)))
    assert read_lock(str(path)) == parse_lock(GOOD)
    assert read_lock(str(path)).facts == ModelFacts()
    other = tmp_path / "tiny.json"
    other.write_text(dump_lock(parse_lock(GOOD), form_of(str(other))))
    assert json.loads(other.read_text()) == GOOD
    assert read_lock(str(other)) == parse_lock(GOOD)
    other.write_text("{")
    with pytest.raises(LockError, match=r"tiny\.json: is not JSON"):
        read_lock(str(other))
    path.write_bytes(b"\xff")
    with pytest.raises(LockError, match="is not text"):
        read_lock(str(path))
    path.write_text("a: [")
    with pytest.raises(LockError, match=r"lock file .*tiny\.yml: is not YAML"):
        read_lock(str(path))
    with pytest.raises(LockError, match=r"absent\.yml: cannot be read: No such file"):
        read_lock(str(tmp_path / "absent.yml"))
