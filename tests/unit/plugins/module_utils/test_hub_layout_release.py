# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Which models of a disk may be served, and how releases come and go."""

from __future__ import annotations

import hashlib
import os

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import hub_layout_release as release
from ansible_collections.baremetal.llm.plugins.module_utils.hub_layout import Mirrored, build
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import state_of, write_record
from ansible_collections.baremetal.llm.plugins.module_utils.weights_piece_files import write_pieces

REVISION = "1" * 40
CONTENT = {"config.json": b"{}", "x/model.safetensors": b"weights" * 20000}
NOBODY = release.Reader("nobody", 65534, frozenset({65534}))


@pytest.fixture
def root(tmp_path):
    # Folders of a test are closed to others.
    place = tmp_path
    while place != place.parent and place.stat().st_uid == os.getuid() and place.name != "tmp":
        place.chmod(place.stat().st_mode | 0o011)
        place = place.parent
    return tmp_path / "models"


@pytest.fixture
def model(root):
    """Published and verified."""
    files = tuple(LockFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in CONTENT.items())
    lock = Lock("org/name", REVISION, files)
    for path, data in CONTENT.items():
        place = root / "org/name" / REVISION / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    record(root, lock)
    return Mirrored(lock)


def record(root, lock, **other):
    folder = str(root / lock.model / lock.revision)
    states = {
        file.path: state_of(os.path.join(folder, file.path), other.get("sha256", file.sha256)) for file in lock.files
    }
    write_record(folder, lock.model, lock.revision, states, 0o644)


def place_of(root, path=""):
    return root / "org/name" / REVISION / path


def test_a_verified_model_may_be_served(model, root):
    assert release.obstacles(model, str(root), NOBODY) == []
    assert release.obstacles(model, str(root)) == []


def test_a_flipped_byte_is_an_obstacle_though_size_and_time_are_kept(model, root):
    place = place_of(root, "x/model.safetensors")
    before = place.stat()
    with open(place, "r+b") as stream:
        stream.write(b"W")
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert release.obstacles(model, str(root)) == ["x/model.safetensors was touched after it was verified"]


def test_no_record_and_one_of_another_lock(model, root):
    record(root, model.lock, sha256="0" * 64)
    assert release.obstacles(model, str(root)) == [f"{path} was not verified against this lock" for path in CONTENT]
    place_of(root, ".baremetal-llm.json").unlink()
    (problem,) = release.obstacles(model, str(root))
    assert "has no record of a verification" in problem


def test_a_missing_file_and_a_link_in_the_place_of_one(model, root):
    place_of(root, "config.json").unlink()
    os.rename(place_of(root, "x"), root / "elsewhere")
    place_of(root, "x").symlink_to(root / "elsewhere")
    assert release.obstacles(model, str(root)) == [f"{path} is missing or not a regular file" for path in CONTENT]


def test_nothing_fetched_yet_and_a_linked_folder(model, root):
    os.rename(place_of(root), root / "elsewhere")
    (problem,) = release.obstacles(model, str(root))
    assert "does not exist: it was not fetched yet" in problem
    place_of(root).symlink_to(root / "elsewhere")
    (problem,) = release.obstacles(model, str(root))
    assert problem == f"{place_of(root)} is a symbolic link"


def test_what_nginx_cannot_read_is_an_obstacle(model, root):
    place_of(root, "config.json").chmod(0o640)
    place_of(root, "x").chmod(0o750)
    record(root, model.lock)
    assert release.obstacles(model, str(root), NOBODY) == [
        "config.json cannot be read by nobody, the user of nginx",
        f"{place_of(root, 'x')} cannot be entered by nobody, the user of nginx",
    ]
    member = release.Reader("member", 65534, frozenset({os.getgid()}))
    assert release.obstacles(model, str(root), member) == []
    root.chmod(0o700)
    assert f"{root} cannot be entered by nobody, the user of nginx" in release.obstacles(model, str(root), NOBODY)


def test_many_obstacles_are_counted(root):
    lock = Lock("org/name", REVISION, tuple(LockFile(f"{n}.json", 1, "0" * 64) for n in range(9)))
    place_of(root).mkdir(parents=True)
    place_of(root, "0.json").write_bytes(b"0")
    one = Lock("org/name", REVISION, lock.files[:1])
    record(root, one)
    found = release.obstacles(Mirrored(lock), str(root))
    assert len(found) == 6
    assert found[-1] == "and 3 more"


def test_a_manifest_of_pieces_counts_if_it_is_of_these_files(model, root):
    assert not release.has_pieces(model, str(root))
    files = {file.path: file for file in model.lock.files}
    write_pieces(str(place_of(root)), "org/name", REVISION, files, 65536)
    assert release.has_pieces(model, str(root), NOBODY)
    other = Lock("org/name", REVISION, (LockFile("x/model.safetensors", 5, "0" * 64),))
    assert not release.has_pieces(Mirrored(other), str(root))
    place_of(root, ".baremetal-llm.meta4").chmod(0o600)
    assert not release.has_pieces(model, str(root), NOBODY)


def test_releases_come_and_go(model, root, tmp_path):
    releases, configuration = str(tmp_path / "releases"), tmp_path / "mirror.conf"
    assert release.release_in_use(str(configuration), releases) == ""
    made = [build([Mirrored(model.lock, branches)], str(root), releases) for branches in ((), ("a",), ("b",))]
    for layout in made[:2]:
        assert not release.is_written(layout, releases)
        release.write(layout, releases, [made[0].digest])
        assert release.is_written(layout, releases)
    configuration.write_text(f"include {releases}/{made[0].digest}/locations.conf;")
    assert release.release_in_use(str(configuration), releases) == made[0].digest
    assert release.index_of(releases, made[1].digest).startswith(f"org/name a is {REVISION}\n")
    # The second one never came into use; the first is.
    release.write(made[2], releases, [made[0].digest])
    assert sorted(os.listdir(releases)) == sorted([made[0].digest, made[2].digest])


def test_a_release_that_was_changed_is_written_again(model, root, tmp_path):
    releases = str(tmp_path / "releases")
    layout = build([model], str(root), releases)
    release.write(layout, releases)
    folder = tmp_path / "releases" / layout.digest
    assert {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()} == {"0o644"}
    (folder / "locations.conf").write_text("location / { root /; }")
    (folder / "added.conf").write_text("")
    assert not release.is_written(layout, releases)
    release.write(layout, releases)
    assert release.is_written(layout, releases)


def test_a_reader_is_a_user_of_this_host():
    assert release.reader_named("root").may(os.stat("/"), 1)
    with pytest.raises(ValueError, match="no user 'nobody-of-that-name'"):
        release.reader_named("nobody-of-that-name")
