# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Repositories that stand in for vendors' archives say so, resolve as the published ones do, and are made alike."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "fakes" / "apt" / "fake_apt_repository.py"
DESCRIPTIONS = sorted(path.stem for path in (SOURCE.parent / "descriptions").glob("*.yml"))


@pytest.fixture(scope="module")
def fake() -> ModuleType:
    specification = importlib.util.spec_from_file_location("fake_apt_repository", SOURCE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gpg"):
        pytest.skip("needs gpg")
    return tmp_path_factory.mktemp("key")


def example(**more: Any) -> dict[str, Any]:
    return {
        "archive": "Example",
        "stands_in_for": "an archive of nobody",
        "releases": [{"VERSION": "1.0-1", "UPSTREAM": "1.0"}, {"VERSION": "1:1.1-1", "UPSTREAM": "1.1"}],
        "packages": [{"name": "example", **more}],
    }


def members(package: bytes) -> dict[str, bytes]:
    """Return the members of an ``ar`` archive."""
    assert package.startswith(b"!<arch>\n")
    found, at = {}, 8
    while at < len(package):
        name, size = package[at : at + 16].decode().strip(), int(package[at + 48 : at + 58])
        found[name] = package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return found


def test_one_package_per_release_with_placeholders_filled(fake: ModuleType) -> None:
    made = fake.packages(example(depends=["other (= @VERSION@)"], files={"/opt/@UPSTREAM@": "@UPSTREAM@"}))
    assert [(each.version, dict(each.control)["Depends"]) for each in made] == [
        ("1.0-1", "other (= 1.0-1)"),
        ("1:1.1-1", "other (= 1:1.1-1)"),
    ]
    assert made[1].files["/opt/1.1"] == "1.1"
    assert made[1].file_name == "example_1.1-1_amd64.deb"


def test_bad_descriptions_are_refused(fake: ModuleType) -> None:
    with pytest.raises(fake.DescriptionError, match="@MISSING@"):
        fake.packages(example(depends=["other (= @MISSING@)"]))
    with pytest.raises(fake.DescriptionError, match="unknown keys depend$"):
        fake.packages(example(depend=["other"]))
    with pytest.raises(fake.DescriptionError, match="there are: canonical_580"):
        fake.load("nothing")


def test_a_package_is_the_same_bytes_each_time_and_what_dpkg_takes(fake: ModuleType, tmp_path: Path) -> None:
    package = fake.packages(
        example(
            files={"/usr/bin/tool": "#!/bin/sh\n", "/etc/tool.conf": "a\n"},
            links={"/usr/bin/alias": "tool"},
            scripts={"postinst": "#!/bin/sh\n"},
        )
    )[0]
    content = fake.deb(package)
    assert content == fake.deb(package)
    found = members(content)
    assert list(found) == ["debian-binary", "control.tar.gz", "data.tar.gz"]
    with tarfile.open(fileobj=io.BytesIO(found["control.tar.gz"])) as control:
        assert control.extractfile("./conffiles").read() == b"/etc/tool.conf\n"  # type: ignore[union-attr]
        assert control.getmember("./postinst").mode == 0o755
    with tarfile.open(fileobj=io.BytesIO(found["data.tar.gz"])) as data:
        names = data.getnames()
        assert names.index("./usr") < names.index("./usr/bin") < names.index("./usr/bin/tool")
        assert (data.getmember("./usr/bin/tool").mode, data.getmember("./etc/tool.conf").mode) == (0o755, 0o644)
        assert data.getmember("./usr/bin/alias").linkname == "tool"
    if shutil.which("dpkg-deb"):
        path = tmp_path / "package.deb"
        path.write_bytes(content)
        shown = subprocess.run(["dpkg-deb", "--info", path], capture_output=True, text=True, check=True).stdout
        assert "STAND-IN: example" in shown


def test_a_repository_is_signed_and_its_digests_are_right(fake: ModuleType, key_folder: Path, tmp_path: Path) -> None:
    repository = fake.build([example()], tmp_path / "repository", key_folder=key_folder)
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    subprocess.run([*gpg, "--import", repository.keyring], check=True)
    release = subprocess.run(
        [*gpg, "--decrypt", repository.folder / "InRelease"], capture_output=True, text=True, check=True
    ).stdout
    assert "Origin: STAND-IN for Example\n" in release
    index = (repository.folder / "Packages").read_bytes()
    assert f"{hashlib.sha256(index).hexdigest()} {len(index)} Packages\n" in release
    for stanza in index.decode().strip().split("\n\n"):
        fields = dict(re.findall(r"^(\S+): (.*)$", stanza, re.MULTILINE))
        content = (repository.folder / fields["Filename"]).read_bytes()
        assert (fields["Size"], fields["SHA256"]) == (str(len(content)), hashlib.sha256(content).hexdigest())


def test_a_repository_made_anew_keeps_its_key_and_loses_what_is_left_out(
    fake: ModuleType, key_folder: Path, tmp_path: Path
) -> None:
    first = fake.build([example()], tmp_path / "repository", key_folder=key_folder)
    key = first.keyring_sha256
    second = fake.build([example()], tmp_path / "repository", key_folder=key_folder, leave_out=["exam*=1.0-*"])
    assert second.keyring_sha256 == key
    assert [each.version for each in second.packages] == ["1:1.1-1"]
    assert [path.name for path in second.folder.glob("*.deb")] == ["example_1.1-1_amd64.deb"]


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_description_says_what_it_stands_in_for(fake: ModuleType, name: str) -> None:
    description = fake.load(name)
    assert "," not in description["archive"]
    made = fake.packages(description)
    assert len(made) > 10
    for package in made:
        control = dict(package.control)
        assert control["Description"].startswith("STAND-IN: ")
        assert description["stands_in_for"] in control["Description"]
        assert "no vendor" in control["Maintainer"]


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_relations_inside_a_description_can_be_met(fake: ModuleType, name: str) -> None:
    """A package named with an exact version is there at that version; other names are there or in the distribution."""
    made = fake.packages(fake.load(name))
    versions = {(package.name, package.version) for package in made}
    provided = {
        re.split(r"[ (]", each)[0]
        for package in made
        for each in dict(package.control).get("Provides", "").split(", ")
        if each
    }
    names = {package.name for package in made} | provided | {"adduser"}
    for package in made:
        for relation in filter(None, dict(package.control).get("Depends", "").split(", ")):
            alternatives = [each.split(" ", 1) for each in relation.split(" | ")]
            assert {each[0] for each in alternatives} & names, f"{package.name} depends on {relation}"
            exact = re.fullmatch(r"(\S+) \(= (\S+)\)", relation)
            assert exact is None or exact.groups() in versions, (
                f"{package.name} {package.version} depends on {relation}"
            )


def test_the_naming_schemes_are_those_of_the_vendors(fake: ModuleType) -> None:
    def real(name: str) -> set[str]:
        return {package.name for package in fake.packages(fake.load(name))}

    suffixed, unsuffixed = real("nvidia_cuda_suffixed_580"), real("nvidia_cuda_unsuffixed_610")
    assert {"nvidia-driver-580-open", "nvidia-fabricmanager-570", "nvidia-fabricmanager"} <= suffixed
    assert "nvidia-fabricmanager-580" not in suffixed
    assert {"nvidia-driver-open", "nvidia-driver-pinning-610", "nvidia-driver-pinning-610.57.04", "nvlsm"} <= unsuffixed
    assert not [name for name in unsuffixed if re.search(r"(driver|compute|dkms)-\d{3}", name)]
    assert {"linux-modules-nvidia-580-server-open-generic", "nvidia-fabricmanager-580"} <= real("canonical_580")
