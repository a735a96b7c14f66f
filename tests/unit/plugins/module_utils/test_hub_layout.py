# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What a mirror says: API documents and locations of nginx. That clients understand it is shown by molecule/mirror."""

from __future__ import annotations

import json
import re

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import hub_layout
from ansible_collections.baremetal.llm.plugins.module_utils.hub_layout import Mirrored, build, parse_models
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile, ModelFacts, parse_lock

OLD, NEW = "1" * 40, "2" * 40
A, B = "a" * 64, "b" * 64
ROOT, RELEASES = "/srv/models", "/var/lib/mirror"


def lock(revision=NEW, model="org/name", paths=("config.json", "x/b.json", "x/b/c.json"), **facts):
    files = tuple(LockFile(path, 4 if path == "x/b/c.json" else 3, B if path == "x/b/c.json" else A) for path in paths)
    return Lock(model, revision, tuple(sorted(files, key=lambda file: file.path)), facts=ModelFacts(**facts))


def given(revision=NEW, model="org/name", **more):
    return {"lock": lock(revision, model).as_dict(), **more}


def locations(layout):
    """Location as nginx writes it -> what is in it, by a reader of its own, which knows quotes and braces only."""
    text = layout.files["locations.conf"].decode("utf-8")
    found, stack, words = {}, [], []
    for token in re.findall(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|#[^\n]*|[{};]|[^\s{};"\']+', text):
        if token.startswith("#"):
            continue
        if token == "{":
            stack.append((words[-2], re.sub(r"\\(.)", r"\1", words[-1][1:-1])))
            found[stack[-1]] = []
            words = []
        elif token == "}":
            stack.pop()
        elif token == ";":
            found[stack[-1]].append(" ".join(words))
            words = []
        else:
            words.append(token)
    assert not stack
    return found


@pytest.fixture
def layout():
    return build([Mirrored(lock(OLD)), Mirrored(lock(NEW), ("main",))], ROOT, RELEASES)


def document(layout, place, recursive=False):
    """What the API answers at an address."""
    (alias,) = locations(layout)["=", f"/api/models/{place}"]
    path = alias.split()[1].replace("$baremetal_llm_mirror_tree", "recursive" if recursive else "top")
    return json.loads(layout.files[path[len(f"{RELEASES}/{layout.digest}/") :]])


# --- Files


@pytest.mark.parametrize("revision", [NEW, "main"])
def test_a_file_is_known_by_its_digest_size_and_commit(layout, revision):
    inside = locations(layout)["=", f"/org/name/resolve/{revision}/x/b/c.json"]
    assert f"add_header ETag '\"{B}\"'" in inside
    assert f"add_header X-Linked-Etag '\"{B}\"'" in inside
    assert "add_header X-Linked-Size 4" in inside
    assert f"add_header X-Repo-Commit {NEW}" in inside
    around = locations(layout)["^~", f"/org/name/resolve/{revision}/"]
    assert f"alias /srv/models/org/name/{NEW}/" in around


def test_nothing_but_files_of_the_locks_has_a_location(layout):
    served = {name for kind, name in locations(layout) if kind == "=" and "/resolve/" in name}
    assert served == {
        f"/org/name/resolve/{revision}/{path}"
        for revision in (OLD, NEW, "main")
        for path in ("config.json", "x/b.json", "x/b/c.json")
    }


def test_what_is_missing_is_said_as_the_hub_says_it(layout):
    found = locations(layout)
    for place, code in (
        ("/org/name/", "RevisionNotFound"),
        ("/api/models/org/name/", "RevisionNotFound"),
        (f"/org/name/resolve/{OLD}/", "EntryNotFound"),
        (f"/api/models/org/name/tree/{OLD}/", "EntryNotFound"),
    ):
        assert f"add_header X-Error-Code {code} always" in found["^~", place]
        assert any(line.startswith("return 404") for line in found["^~", place])
    assert f"add_header X-Repo-Commit {OLD} always" in found["^~", f"/org/name/resolve/{OLD}/"]


def test_a_name_of_a_file_is_only_a_name():
    odd = """a "b" {c}; $uri # '%41 ü.json"""
    layout = build([Mirrored(lock(paths=(odd, "config.json")))], ROOT, RELEASES)
    assert ("=", f"/org/name/resolve/{NEW}/{odd}") in locations(layout)
    # Where a variable would be read as one, no file is named.
    assert not [line for lines in locations(layout).values() for line in lines if "$uri" in line]


def test_a_manifest_of_pieces_is_served_where_there_is_one_and_promises_nothing():
    place = ("=", f"/org/name/resolve/{NEW}/.baremetal-llm.meta4")
    assert place not in locations(build([Mirrored(lock())], ROOT, RELEASES))
    inside = locations(build([Mirrored(lock(), has_pieces=True)], ROOT, RELEASES))[place]
    assert not [line for line in inside if "ETag" in line]


# --- API documents


def test_main_is_what_was_said_and_else_there_is_none(layout):
    assert document(layout, "org/name")["sha"] == NEW
    assert document(layout, "org/name/revision/main")["sha"] == NEW
    assert document(layout, f"org/name/revision/{OLD}")["sha"] == OLD
    without = locations(build([Mirrored(lock(OLD), ("stable",))], ROOT, RELEASES))
    assert "add_header X-Error-Code RevisionNotFound always" in without["=", "/api/models/org/name"]


def test_branches_are_listed(layout):
    branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": NEW}
    assert document(layout, "org/name/refs")["branches"] == [branch]


def test_tree_of_a_folder_with_and_without_what_is_below(layout):
    def paths(place, recursive):
        return [(entry["type"], entry["path"]) for entry in document(layout, place, recursive)]

    below = [("directory", "x/b"), ("file", "x/b.json"), ("file", "x/b/c.json")]
    assert paths("org/name/tree/main", False) == [("file", "config.json"), ("directory", "x")]
    assert paths("org/name/tree/main", True) == [("file", "config.json"), ("directory", "x"), *below]
    assert paths("org/name/tree/main/x", False) == below[:2]
    assert paths("org/name/tree/main/x", True) == below
    assert paths("org/name/tree/main/x/b", True) == below[2:]


def test_objects_have_the_names_that_git_gives_them(layout):
    """As `git hash-object` and `git mktree` said. A folder is sorted as if its name ended in a slash."""
    entries = {entry["path"]: entry for entry in document(layout, "org/name/tree/main", True)}
    assert entries["x/b.json"]["oid"] == "90ddd6059cf82cb31bb6ca1c0b07ce1323c02527"
    assert entries["x/b/c.json"]["oid"] == "212dd50bf3e7e2e5b6bdc74221867a3ef1640c1c"
    assert entries["x/b"]["oid"] == "36c9303c03b303ecd29ee48fbdf0a672c076c74f"
    assert entries["x"]["oid"] == "8b78be4463479a3dd3f2b2f371c4838ef36373b5"
    assert entries["x/b/c.json"]["lfs"] == {"oid": B, "size": 4, "pointerSize": 126}


def test_facts_are_told_as_far_as_they_are_known():
    assert "safetensors" not in hub_layout.info(lock())
    assert hub_layout.info(lock())["tags"] == []
    tensors = {
        "count": 1,
        "parameters": 7,
        "bytes": 14,
        "dtypes": {"BF16": {"bytes": 14, "count": 1, "parameters": 7}},
    }
    data = {
        **lock().as_dict(),
        "license": "other: nvidia",
        "formats": ["safetensors"],
        "tensors": tensors,
        "config": {"architectures": ["X"], "hidden_size": 8},
    }
    info = hub_layout.info(parse_lock(data))
    assert info["tags"] == ["license:other"]
    assert info["safetensors"] == {"parameters": {"BF16": 7}, "total": 7}
    assert info["config"] == {"architectures": ["X"]}
    assert info["siblings"][0] == {
        "rfilename": "config.json",
        "size": 3,
        "blobId": "90ddd6059cf82cb31bb6ca1c0b07ce1323c02527",
        "lfs": {"sha256": A, "size": 3, "pointerSize": 126},
    }


# --- Releases


def test_the_same_locks_in_any_order_are_the_same_release(layout):
    models, problems = parse_models([given(NEW, branches=["main"]), given(OLD)])
    assert problems == []
    assert build(models, ROOT, RELEASES) == layout


def test_everything_that_is_served_changes_the_release():
    base = build([Mirrored(lock(), ("main",))], ROOT, RELEASES).digest
    others = [
        build([Mirrored(lock(), ("stable",))], ROOT, RELEASES),
        build([Mirrored(lock(license="mit"), ("main",))], ROOT, RELEASES),
        build([Mirrored(lock(paths=("config.json",)), ("main",))], ROOT, RELEASES),
        build([Mirrored(lock(), ("main",), has_pieces=True)], ROOT, RELEASES),
        build([Mirrored(lock(), ("main",))], "/data", RELEASES),
        build([], ROOT, RELEASES),
    ]
    assert len({base, *(other.digest for other in others)}) == len(others) + 1


# --- Refusals


@pytest.mark.parametrize(
    ("specifications", "problem"),
    [
        ([{"lock": {}}], "format_version"),
        ([given(branches=["a/b"])], "'a/b' cannot be a branch"),
        ([given(branches=["3" * 40])], "which are a commit"),
        ([given(branches=["a..b"])], "cannot be a branch"),
        ([given(OLD, branches=["main"]), given(NEW, branches=["main"])], f"the branch 'main' is {OLD} already"),
        ([given(), given()], "listed twice"),
        ([given(model="api/models")], "where the Hub's API is"),
    ],
)
def test_models_that_cannot_be_served_so(specifications, problem):
    assert any(problem in text for text in parse_models(specifications)[1])


@pytest.mark.parametrize("path", ["models", "/srv/mo dels", "/srv/$uri", '/srv/"', "/srv/../etc", "/srv/", "/srv;"])
def test_folders_that_nginx_would_read_as_something_else(path):
    assert hub_layout.folder_problem("root", path)
    assert not hub_layout.folder_problem("root", "/data-1/models_2.d")
