# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Signed local apt repositories that STAND IN for a vendor's archive, made from a description in YAML.

The names, versions and relations in the descriptions are those of the published packages, so that apt resolves them
for real. What the packages hold is not: texts and scripts that say what they are. Nothing of a vendor is in them.

usage: fake_apt_repository.py DESCRIPTION [DESCRIPTION ...] --into FOLDER [--leave-out PACKAGE=VERSION ...]

A description is a name in ``descriptions/`` or the path of a YAML file:

    archive: Vendor Thing             # short: Origin and Label become "STAND-IN for Vendor Thing"
    stands_in_for: what it stands in for, in words     # goes into every package's description
    releases: [{VERSION: 1.0-1, UPSTREAM: "1.0"}]       # each package once per release, @VERSION@ etc. filled in
    packages:
      - name: example
        releases: [...]               # its own, in place of those above
        version: "@UPSTREAM@-1"       # in place of @VERSION@
        architecture: amd64           # or all
        depends: ["other (= @VERSION@)"]          # also pre_depends, recommends, provides, conflicts, breaks, replaces
        description: what it is
        fields: {Section: utils}      # more control fields
        files: {/usr/bin/example: "#!/bin/sh\\n..."}   # executable where it starts with #!; conffile under /etc
        links: {/usr/bin/ex: example}
        scripts: {postinst: "#!/bin/sh\\n..."}    # preinst, prerm, postrm too

A host reads it with ``deb [signed-by=KEYRING] file:FOLDER /`` or through ``python3 -m http.server``.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import gzip
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
DESCRIPTIONS = HERE / "descriptions"
KEY_FOLDER = HERE.parents[2] / ".cache" / "fake-apt"
"""Where the throwaway key lives: kept between runs, so that hosts go on trusting a repository that is made anew."""

KEY_OWNER = "Throwaway key of the tests of baremetal.llm, of no vendor <stand-in@tests.invalid>"
MAINTAINER = "Tests of baremetal.llm (no vendor) <stand-in@tests.invalid>"
RELATIONS = ("pre_depends", "depends", "recommends", "suggests", "provides", "conflicts", "breaks", "replaces")
SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "triggers")
PLACEHOLDER = re.compile(r"@([A-Z][A-Z0-9_]*)@")


class DescriptionError(Exception):
    """A description that cannot be made into packages."""


@dataclass(frozen=True)
class Package:
    """One version of one package."""

    name: str
    version: str
    architecture: str
    control: tuple[tuple[str, str], ...]
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Name of its file: as apt writes it, without the epoch."""
        return f"{self.name}_{self.version.split(':', 1)[-1]}_{self.architecture}.deb"


@dataclass(frozen=True)
class Repository:
    """A repository on disk."""

    folder: Path
    packages: tuple[Package, ...]

    @property
    def keyring(self) -> Path:
        """The public key, armoured as vendors publish theirs."""
        return self.folder / "stand-in.asc"

    @property
    def keyring_sha256(self) -> str:
        return hashlib.sha256(self.keyring.read_bytes()).hexdigest()

    def source(self, uri: str = "", keyring: str = "") -> str:
        """Return the line for sources.list: of this folder, or of ``uri`` where it is served."""
        return f"deb [signed-by={keyring or self.keyring}] {uri or f'file:{self.folder}'} /"


def load(description: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a description, by its name in ``descriptions/``, by its path, or as it is."""
    if isinstance(description, Mapping):
        return description
    path = Path(description)
    if path.suffix not in {".yml", ".yaml"}:
        path = DESCRIPTIONS / f"{description}.yml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in DESCRIPTIONS.glob("*.yml")))
        raise DescriptionError(f"there is no description {description}; there are: {known}")
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, Mapping):
        raise DescriptionError(f"{path} holds no mapping")
    return loaded


def _filled(value: Any, release: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, str):

        def fill(match: re.Match[str]) -> str:
            try:
                return str(release[match[1]])
            except KeyError:
                raise DescriptionError(f"{where}: no {match[0]} in the release {dict(release)}") from None

        return PLACEHOLDER.sub(fill, value)
    if isinstance(value, Mapping):
        return {_filled(key, release, where): _filled(each, release, where) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_filled(each, release, where) for each in value]
    return value


def packages(description: Mapping[str, Any]) -> tuple[Package, ...]:
    """Return every version of every package of ``description``."""
    made: dict[tuple[str, str, str], Package] = {}
    for template in description["packages"]:
        releases = template.get("releases", description.get("releases", []))
        if not releases:
            raise DescriptionError(f"{template['name']}: no releases")
        for release in releases:
            package = _package(template, release, description["stands_in_for"])
            # A package without a placeholder in its version is the same in each release.
            made[(package.name, package.version, package.architecture)] = package
    return tuple(made.values())


def _package(template: Mapping[str, Any], release: Mapping[str, Any], stands_in_for: str) -> Package:
    where = template["name"]
    unknown = set(template) - {
        *RELATIONS,
        *("name", "releases", "version", "architecture", "description", "fields", "files", "links", "scripts"),
    }
    if unknown:
        raise DescriptionError(f"{where}: unknown keys {', '.join(sorted(unknown))}")
    own = _filled({key: value for key, value in template.items() if key != "releases"}, release, where)
    version = str(own.get("version", release["VERSION"]))
    architecture = own.get("architecture", "amd64")
    if set(own.get("scripts", {})) - set(SCRIPTS):
        raise DescriptionError(f"{where}: scripts are {', '.join(SCRIPTS)}")
    files = {
        f"/usr/share/doc/{own['name']}/README.stand-in": f"Stands in for {stands_in_for}.\n",
        **own.get("files", {}),
    }
    control = {
        "Package": own["name"],
        "Version": version,
        "Architecture": architecture,
        "Maintainer": MAINTAINER,
        "Installed-Size": str(sum(len(text) for text in files.values()) // 1024 + 1),
        "Section": "misc",
        "Priority": "optional",
        **own.get("fields", {}),
    }
    for relation in RELATIONS:
        if own.get(relation):
            control[relation.replace("_", "-").title()] = ", ".join(own[relation])
    control["Description"] = (
        f"STAND-IN: {own.get('description', own['name'])}\n"
        f" Stands in for {stands_in_for}\n in the tests of baremetal.llm. It does nothing."
    )
    return Package(
        name=own["name"],
        version=version,
        architecture=architecture,
        control=tuple(control.items()),
        files=files,
        links=own.get("links", {}),
        scripts=own.get("scripts", {}),
    )


def _tar(entries: Iterable[tuple[str, str | bytes, int, str]]) -> bytes:
    """Return a tar.gz of (path, content, mode, link target), with the folders above them; the same bytes each time."""
    buffer = io.BytesIO()
    folders: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:

        def add(
            path: str, content: bytes = b"", mode: int = 0o755, kind: bytes = tarfile.DIRTYPE, link: str = ""
        ) -> None:
            member = tarfile.TarInfo(f".{path}")
            member.size, member.mode, member.type, member.linkname = len(content), mode, kind, link
            member.uname = member.gname = "root"
            archive.addfile(member, io.BytesIO(content))

        add("/")
        for path, content, mode, link in sorted(entries):
            for folder in reversed(Path(path).parents):
                if str(folder) != "/" and str(folder) not in folders:
                    folders.add(str(folder))
                    add(str(folder))
            encoded = content.encode() if isinstance(content, str) else content
            add(path, encoded, mode, tarfile.SYMTYPE if link else tarfile.REGTYPE, link)
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)


def deb(package: Package) -> bytes:
    """Return the package's file: an ``ar`` archive of a version, a control archive and a data archive."""
    data = [(path, text, 0o755 if text.startswith("#!") else 0o644, "") for path, text in package.files.items()]
    data += [(path, "", 0o777, target) for path, target in package.links.items()]
    control: list[tuple[str, str | bytes, int, str]] = [("/control", _stanza(package.control), 0o644, "")]
    control += [(f"/{name}", text, 0o755, "") for name, text in package.scripts.items()]
    conffiles = sorted(path for path in package.files if path.startswith("/etc/"))
    if conffiles:
        control.append(("/conffiles", "\n".join(conffiles) + "\n", 0o644, ""))
    archive = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.gz", _tar(control)), ("data.tar.gz", _tar(data))):
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        archive += b"\n" * (len(content) % 2)
    return archive


def _stanza(fields: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{key}: {value}\n" for key, value in fields)


def _digests(content: bytes) -> dict[str, str]:
    return {"MD5sum": hashlib.md5(content).hexdigest(), "SHA256": hashlib.sha256(content).hexdigest()}


def build(
    descriptions: Sequence[str | Path | Mapping[str, Any]],
    folder: Path,
    *,
    leave_out: Sequence[str] = (),
    key_folder: Path = KEY_FOLDER,
) -> Repository:
    """Make ``folder`` the repository of ``descriptions``; nothing else stays in it.

    ``leave_out`` holds patterns ``package=version`` of what the archive no longer has, as vendors withdraw versions.
    """
    loaded = [load(each) for each in descriptions]
    chosen = tuple(
        package
        for description in loaded
        for package in packages(description)
        if not any(fnmatch.fnmatchcase(f"{package.name}={package.version}", pattern) for pattern in leave_out)
    )
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("*.deb"), *folder.glob("*Release*"), *folder.glob("Packages*")]:
        stale.unlink()
    stanzas = []
    for package in sorted(chosen, key=lambda each: (each.name, each.version, each.architecture)):
        content = deb(package)
        (folder / package.file_name).write_bytes(content)
        more = {"Filename": f"./{package.file_name}", "Size": str(len(content)), **_digests(content)}
        stanzas.append(_stanza([*package.control, *more.items()]))
    index = "\n".join(stanzas).encode()
    (folder / "Packages").write_bytes(index)
    compressed = gzip.compress(index, mtime=0)
    (folder / "Packages.gz").write_bytes(compressed)
    names = " and ".join(description["stands_in_for"] for description in loaded)
    # No commas: apt's preferences and unattended-upgrades take these apart at commas.
    origin = "STAND-IN for " + " and ".join(dict.fromkeys(description["archive"] for description in loaded))
    release = _stanza(
        [
            ("Origin", origin),
            ("Label", origin),
            ("Suite", "stand-in"),
            ("Architectures", "amd64 all"),
            ("Date", datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S UTC")),
            ("Description", f"Made by the tests of baremetal.llm. Stands in for {names}"),
        ]
    )
    release += "SHA256:\n" + "".join(
        f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n"
        for name, content in (("Packages", index), ("Packages.gz", compressed))
    )
    (folder / "Release").write_text(release, encoding="utf-8")
    _sign(folder, key_folder)
    return Repository(folder, chosen)


def _sign(folder: Path, key_folder: Path) -> None:
    """Sign ``folder``'s Release with the throwaway key, made where it is missing, and put its public half beside it."""
    secret = key_folder / "throwaway.asc"
    # A short path: gpg-agent's socket must fit into 108 characters.
    with tempfile.TemporaryDirectory(prefix="fake-apt-") as home:

        def gpg(*arguments: str, stdin: bytes = b"") -> bytes:
            command = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-tty", *arguments]
            done = subprocess.run(command, input=stdin, capture_output=True, check=False)
            if done.returncode:
                raise DescriptionError(f"{' '.join(command)} failed: {done.stderr.decode().strip()}")
            return done.stdout

        try:
            if secret.is_file():
                gpg("--import", str(secret))
            else:
                gpg("--passphrase", "", "--quick-generate-key", KEY_OWNER, "ed25519", "sign", "never")
                key_folder.mkdir(parents=True, exist_ok=True)
                secret.touch(mode=0o600)
                secret.write_bytes(gpg("--armor", "--export-secret-keys"))
            release = str(folder / "Release")
            gpg("--digest-algo", "SHA512", "--clearsign", "--output", str(folder / "InRelease"), release)
            gpg("--digest-algo", "SHA512", "--detach-sign", "--armor", "--output", f"{release}.gpg", release)
            (folder / "stand-in.asc").write_bytes(gpg("--armor", "--export"))
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], capture_output=True, check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a repository from the command line and print its folder and its key's SHA-256."""
    parser = argparse.ArgumentParser(description="Build an apt repository that stands in for a vendor's archive.")
    parser.add_argument("descriptions", nargs="+", help="names in descriptions/, or paths")
    parser.add_argument("--into", required=True, type=Path, help="folder that becomes the repository")
    parser.add_argument("--leave-out", action="append", default=[], metavar="PACKAGE=VERSION", help="patterns")
    options = parser.parse_args(arguments)
    try:
        repository = build(options.descriptions, options.into, leave_out=options.leave_out)
    except DescriptionError as error:
        print(error, file=sys.stderr)
        return 1
    print(repository.folder, repository.keyring_sha256)
    return 0


if __name__ == "__main__":
    sys.exit(main())
