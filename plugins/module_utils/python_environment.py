# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a folder hold exactly what a hashed requirements file names, as a Python virtual environment.

The environment is built at its final path, because scripts inside one carry that path. While it is being built it holds
a folder ``.build``; when everything is in place that folder goes and a marker comes. So an environment with a marker is
whole, and one that an interrupted run left is recognised and built again. An environment that worked stands aside while
its successor is built and comes back when that fails: a mirror that is down must not take a working environment away.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

MARKER = ".baremetal-llm.json"
BUILD_FOLDER = ".build"
MARKER_VERSION = 1
PROBE_TIMEOUT_SECONDS = 60.0
TAIL_LINES = 15
FULL_DISK_BYTES = 16 * 1024 * 1024  # less free space than this is as good as none
INSTALLERS = ("pip", "uv")

# Prints the version, and where this Python believes it is installed: in a broken environment that is somewhere else.
PROBE = "import platform, sys; print(platform.python_version()); print(sys.prefix)"


class EnvironmentProblem(Exception):
    """The one exception of this file: its text is for the user."""


@dataclass(frozen=True)
class Completed:
    """What a command left: its exit status, and its standard output and error in the order they came."""

    rc: int
    output: str


class Runner(Protocol):
    """Runs a command; the only way out of this file."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str], timeout: float) -> Completed: ...


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    path: str
    requirements: str
    python: str = "/usr/bin/python3"
    installer: str = "pip"
    uv: str = ""
    index_url: str = ""
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    ca_file: str = ""
    cache_dir: str = ""
    timeout_seconds: float = 3600.0


@dataclass(frozen=True)
class State:
    """What is on the host before anything is done."""

    status: str  # absent, incomplete, outdated, damaged, current
    reason: str  # why it is to be built; empty when current
    packages: tuple[str, ...]  # name==version


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be."""

    changed: bool
    reason: str
    digest: str | None
    python_version: str | None
    before: State
    packages: tuple[str, ...]


def ensure(request: Request, run: Runner, inherited: Mapping[str, str], check_mode: bool) -> Outcome:
    """Make the environment what ``request`` says; in check mode only find out what that would take."""
    _validate(request)
    path = Path(request.path)
    version = _base_version(request, run, inherited)
    digest = _digest(Path(request.requirements))
    before = _inspect(request, run, inherited, version, digest)
    if not before.reason:
        return Outcome(False, "", digest, version, before, before.packages)
    if check_mode:
        # An earlier task would have brought what is absent now: nothing more can be said about it.
        return Outcome(True, before.reason, digest, version, before, _pins(Path(request.requirements)))
    _refuse_missing(request, version, digest)
    assert_ours(path)
    with _public_umask(), _one_at_a_time(path):
        _replace(request, run, inherited, keep=before.status in ("outdated", "damaged"))
    after = _packages(path)
    return Outcome(True, before.reason, digest, version, before, after)


# ---------------------------------------------------------------------------------------------------------------------
# What is asked, and whether it can be done


def _validate(request: Request) -> None:
    if request.installer not in INSTALLERS:
        raise EnvironmentProblem(f"installer is {request.installer!r}; it can be one of {', '.join(INSTALLERS)}.")
    if request.installer == "uv" and not request.uv:
        raise EnvironmentProblem("installer is uv, and the option uv does not say where that program is.")
    for name, value in (("path", request.path), ("requirements", request.requirements), ("python", request.python)):
        if not os.path.isabs(value):
            raise EnvironmentProblem(f"{name} is {value!r}; it must be an absolute path.")
    if len(Path(os.path.normpath(request.path)).parts) < 3:
        raise EnvironmentProblem(f"path is {request.path!r}; an environment is not made at the top of a file system.")
    if request.no_index and not request.find_links:
        raise EnvironmentProblem("no_index is set and find_links is empty: there is nowhere to take packages from.")
    if request.no_index and request.index_url:
        raise EnvironmentProblem("no_index and index_url contradict each other: leave one of them out.")
    if any(re.search(r"\s", url) for url in (request.index_url, *request.find_links) if "://" in url):
        raise EnvironmentProblem("a URL in index_url or find_links contains a blank: write it as %20.")


def _refuse_missing(request: Request, version: str | None, digest: str | None) -> None:
    """Say what is not on the host before the environment that is there is touched."""
    if version is None:
        raise EnvironmentProblem(
            f"{request.python} is not on the host or does not run: install that Python or set the option python."
        )
    if digest is None:
        raise EnvironmentProblem(f"The requirements file {request.requirements} is not on the host.")
    if request.installer == "uv" and not os.access(request.uv, os.X_OK):
        raise EnvironmentProblem(f"{request.uv} (option uv) is not a program on the host.")
    for place in request.find_links:
        if "://" not in place and not os.path.isdir(place):
            raise EnvironmentProblem(f"The folder {place} in find_links is not on the host.")
    if request.ca_file and not os.path.isfile(request.ca_file):
        raise EnvironmentProblem(f"The file {request.ca_file} (option ca_file) is not on the host.")


def assert_ours(path: Path) -> None:
    """Refuse to replace a folder that is not an environment: a wrong path must not cost somebody's data."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise EnvironmentProblem(f"{path} is not a folder; an environment is not made in its place.")
    names = {entry.name for entry in path.iterdir()}
    if names and not names & {MARKER, BUILD_FOLDER, "pyvenv.cfg"}:
        raise EnvironmentProblem(f"{path} holds something that is not a Python environment; it is left as it is.")


def _digest(requirements: Path) -> str | None:
    try:
        return hashlib.sha256(requirements.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _pins(requirements: Path) -> tuple[str, ...]:
    """Return the name==version of a requirements file, for the diff of a check mode run."""
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(sorted(line.rstrip("\\ ") for line in lines if re.match(r"[A-Za-z0-9]", line)))


# ---------------------------------------------------------------------------------------------------------------------
# What is there


def _base_version(request: Request, run: Runner, inherited: Mapping[str, str]) -> str | None:
    if not os.access(request.python, os.X_OK):
        return None
    done = run([request.python, "-I", "-c", PROBE], _base_environment(inherited), PROBE_TIMEOUT_SECONDS)
    return done.output.splitlines()[0].strip() if done.rc == 0 and done.output.strip() else None


def _inspect(
    request: Request, run: Runner, inherited: Mapping[str, str], version: str | None, digest: str | None
) -> State:
    path = Path(request.path)
    if not path.is_dir() or not any(path.iterdir()):
        return State("absent", "there is no environment yet", ())
    packages = _packages(path)
    marker = _read_marker(path)
    if marker is None:
        return State("incomplete", "an earlier run did not finish it", packages)
    if digest is not None and marker.get("requirements_sha256") != digest:
        return State("outdated", "the requirements file changed", packages)
    if digest is None:
        return State("outdated", "the requirements file is not on the host yet", packages)
    if version is None or marker.get("python") != request.python or marker.get("python_minor") != _minor(version):
        return State(
            "outdated", f"the Python it is to be built with changed (now {request.python} {version})", packages
        )
    python = path / "bin" / "python"
    if not os.access(python, os.X_OK):
        return State("damaged", f"{python} is missing", packages)
    done = run([str(python), "-I", "-c", PROBE], _base_environment(inherited), PROBE_TIMEOUT_SECONDS)
    said = done.output.splitlines()
    if (
        done.rc != 0
        or len(said) != 2
        or os.path.realpath(said[1]) != os.path.realpath(path)
        or _minor(said[0]) != _minor(version)
    ):
        return State("damaged", f"{python} does not run as the Python of this environment", packages)
    if list(packages) != marker.get("packages"):
        return State("damaged", "the packages in it are not the ones that were installed", packages)
    accepted = marker.get("record_mismatches")
    faults = [file for file in _faults(path) if not isinstance(accepted, list) or file not in accepted]
    if faults:
        return State("damaged", f"{path / faults[0]} is missing or not of the size it was installed with", packages)
    return State("current", "", packages)


def _minor(version: str) -> str:
    return ".".join(version.strip().split(".")[:2])


def _read_marker(path: Path) -> dict[str, object] | None:
    try:
        content = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("format_version") != MARKER_VERSION:
        return None
    return content


def _site_packages(path: Path) -> list[Path]:
    return sorted(path.glob("lib/python*/site-packages"))


def _packages(path: Path) -> tuple[str, ...]:
    """Return name==version of every installed package, from the names of their metadata folders."""
    found = set()
    for site in _site_packages(path):
        for folder in site.glob("*.dist-info"):
            name, *version = folder.name[: -len(".dist-info")].split("-", 1)
            found.add("==".join([name.replace("_", "-").lower(), *version]))
    return tuple(sorted(found))


def _faults(path: Path) -> list[str]:
    """Compare each installed file with the size in its package's RECORD; return those that are not right.

    Sizes, not digests: reading several gigabytes at every run is not worth it, and this finds what happens in practice,
    deleted and truncated files. Compiled files are left out, since Python may write them again.
    """
    found = []
    for site in _site_packages(path):
        for folder in sorted(site.glob("*.dist-info")):
            try:
                with open(folder / "RECORD", encoding="utf-8", newline="") as record:
                    rows = list(csv.reader(record))
            except OSError:
                found.append(str((folder / "RECORD").relative_to(path)))
                continue
            for row in rows:
                if len(row) != 3 or not row[2].isdigit() or row[0].endswith(".pyc"):
                    continue
                file = os.path.join(site, row[0])
                try:
                    right = os.stat(file).st_size == int(row[2])
                except OSError:
                    right = False
                if not right:
                    found.append(os.path.relpath(file, path))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Building


def _replace(request: Request, run: Runner, inherited: Mapping[str, str], keep: bool) -> None:
    path = Path(request.path)
    previous = path.with_name(path.name + ".previous")
    if keep:
        _remove(previous)
        path.rename(previous)
    try:
        _build(request, run, inherited)
        if request.cache_dir and _faults(path):
            # Linked files are one with their copy in the cache: what truncated one truncated the other.
            _build(replace(request, cache_dir=""), run, inherited)
        _finish(request, run, inherited)
    except BaseException:
        # Also when the run is interrupted: whatever stops it, the environment that worked stays in service.
        _remove(path)
        if previous.is_dir():
            previous.rename(path)
        raise
    _remove(previous)


def _build(request: Request, run: Runner, inherited: Mapping[str, str]) -> None:
    path = Path(request.path)
    work = path / BUILD_FOLDER
    try:
        _empty(path)
        work.joinpath("tmp").mkdir(parents=True)
    except OSError as error:
        raise EnvironmentProblem(f"Cannot make {path}: {error}") from error
    env = tool_environment(request, inherited)
    for step, argv in commands(request):
        try:
            done = run(argv, env, request.timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise EnvironmentProblem(
                f"Cannot {step}: not done after timeout_seconds ({request.timeout_seconds:g} s). {argv[0]} was stopped."
            ) from error
        if done.rc != 0:
            raise EnvironmentProblem(explain(request, step, done))


def _finish(request: Request, run: Runner, inherited: Mapping[str, str]) -> None:
    """Take the sign of building away and put the marker there."""
    path = Path(request.path)
    # The version of what was built, not of what was asked for a while ago.
    version = _base_version(request, run, inherited)
    _remove(path / BUILD_FOLDER)
    # uv leaves its lock writable for everybody.
    (path / ".lock").unlink(missing_ok=True)
    marker = {
        "format_version": MARKER_VERSION,
        "requirements_sha256": _digest(Path(request.requirements)),
        "python": request.python,
        "python_minor": _minor(version or ""),
        "installer": request.installer,
        "packages": list(_packages(path)),
        # A few publishers ship wheels whose RECORD is wrong from the start.
        "record_mismatches": _faults(path),
    }
    unfinished = path / (MARKER + ".new")
    with open(unfinished, "w", encoding="utf-8") as out:
        json.dump(marker, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    unfinished.rename(path / MARKER)


def commands(request: Request) -> list[tuple[str, list[str]]]:
    """Return what is run, in order, each with the words that an error message starts with.

    Everything that may hold a credential is in the environment (see tool_environment), because arguments are visible to
    every user of the host. Wheels only: building a source package runs code whose own dependencies no hash covers.
    """
    python = os.path.join(request.path, "bin", "python")
    if request.installer == "uv":
        return [
            (
                "make the environment",
                [request.uv, "venv", "--allow-existing", "--python", request.python, request.path],
            ),
            (
                "install the packages",
                [
                    *(request.uv, "pip", "sync", "--python", python, "--require-hashes", "--no-build"),
                    # A service user cannot write there, so nothing would ever be compiled later.
                    *("--compile-bytecode", request.requirements),
                    # uv reads no variable for this.
                    *(["--no-index"] if request.no_index else []),
                ],
            ),
        ]
    return [
        ("make the environment", [request.python, "-I", "-m", "venv", request.path]),
        (
            "install the packages",
            [
                *(python, "-I", "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:"),
                *("--requirement", request.requirements),
            ],
        ),
        *_removal_of_the_installer(request, python),
    ]


def _removal_of_the_installer(request: Request, python: str) -> list[tuple[str, list[str]]]:
    """The environment is to hold what the file names: pip and setuptools came with venv, in the version of the OS."""
    named = {re.split(r"[\s=;\[]", pin, maxsplit=1)[0].lower() for pin in _pins(Path(request.requirements))}
    strays = [name for name in ("setuptools", "pip") if name not in named]
    if not strays:
        return []
    return [("remove what came with venv", [python, "-I", "-m", "pip", "uninstall", "--yes", *strays])]


def _base_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for every command: proxies and the like stay, what redirects pip, uv and Python goes."""
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("PIP_", "UV_", "PYTHON")) and name not in ("VIRTUAL_ENV", "CONDA_PREFIX")
    }
    return {**kept, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", "NO_COLOR": "1"}


def tool_environment(request: Request, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the installer: where packages come from, and nothing of the host's own settings."""
    work = os.path.join(request.path, BUILD_FOLDER)
    # Not /tmp: that is often small, and files can be linked only inside one file system.
    env = {**_base_environment(inherited), "TMPDIR": os.path.join(work, "tmp")}
    cache = request.cache_dir or os.path.join(work, "cache")
    links = [place if "://" in place else Path(place).as_uri() for place in request.find_links]
    if request.installer == "uv":
        env.update(UV_CACHE_DIR=cache, UV_NO_CONFIG="1", UV_NO_PROGRESS="1", UV_PYTHON_DOWNLOADS="never")
        if request.index_url:
            env["UV_DEFAULT_INDEX"] = request.index_url
        if links:
            env["UV_FIND_LINKS"] = ",".join(link.replace(",", "%2C") for link in links)
        if request.ca_file:
            env["SSL_CERT_FILE"] = request.ca_file
    else:
        env.update(PIP_CACHE_DIR=cache, PIP_CONFIG_FILE=os.devnull, PIP_NO_INPUT="1", PIP_PROGRESS_BAR="off")
        env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore")
        if request.index_url:
            env["PIP_INDEX_URL"] = request.index_url
        if links:
            env["PIP_FIND_LINKS"] = " ".join(links)
        if request.no_index:
            env["PIP_NO_INDEX"] = "1"
        if request.ca_file:
            env["PIP_CERT"] = request.ca_file
    return env


# ---------------------------------------------------------------------------------------------------------------------
# Messages

_DISK_FULL = "the file system of {path} is full: free space there, or put path on a larger one."

# The first that fits wins: a certificate that is refused also looks like a network that fails.
_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded|os error 28",
        _DISK_FULL,
    ),
    (
        r"ensurepip is not|No module named '?(venv|ensurepip)",
        "{python} has no venv module: install the distribution's package for it (python3-venv on Debian and Ubuntu).",
    ),
    (
        r"DO NOT MATCH THE HASHES|Hash mismatch",
        "a package does not have the digest that {requirements} names. The index or the wheel folder serves other"
        " files than the ones that were locked: find out which is right before the lock is made again.",
    ),
    (
        r"Hashes are required|all requirements must have their versions pinned|must have a hash|missing a hash",
        "{requirements} does not have a version and a hash for everything that is to be installed: make the lock again"
        " with hashes.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|invalid peer certificate|UnknownIssuer|certificate verify failed",
        "the certificate of the package index is not trusted here: add its CA certificate to the host"
        " (host_tools_extra_ca_certificates does that) and name the bundle in ca_file.",
    ),
    (
        r"\b(401|403|407)\b.{0,40}(Unauthorized|Forbidden|Authentication|Error)|(Unauthorized|Forbidden)",
        "the package index or the proxy refuses access: check the credentials in index_url and the proxy variables.",
    ),
    (
        r"Name or service not known|Temporary failure in name resolution|nodename nor servname|Connection refused"
        r"|Network is unreachable|No route to host|Failed to establish a new connection|ConnectTimeout|timed out"
        r"|dns error|tcp connect error|error sending request|ProxyError|Failed to fetch|Connection reset",
        "the package index ({source}) cannot be reached from this host. Without a way to it use a mirror (index_url),"
        " a proxy, or a folder of wheels (find_links with no_index).",
    ),
    (
        r"No matching distribution|Could not find a version|no wheels? (with|are) |no version of|was not found in"
        r"|No solution found|has no usable wheels|no usable wheels|not found in the (package registry|provided)",
        "{source} has no wheel that fits this host's Python and CPU for something that {requirements} names.",
    ),
)


def explain(request: Request, step: str, done: Completed) -> str:
    """Turn the failure of a tool into one sentence for the user, followed by the end of what the tool said."""
    output = mask(done.output)
    source = ", ".join(mask(place) for place in request.find_links) if request.no_index else mask(request.index_url)
    words = {
        "path": request.path,
        "python": request.python,
        "requirements": request.requirements,
        "source": source or "PyPI",
    }
    for pattern, text in _CAUSES:
        if re.search(pattern, output):
            cause = text.format(**words)
            break
    else:
        # venv swallows what its ensurepip said, so the reason has to be looked for.
        full = shutil.disk_usage(request.path).free < FULL_DISK_BYTES
        cause = _DISK_FULL.format(**words) if full else f"{request.installer} failed with exit status {done.rc}."
    tail = "\n".join([line for line in output.splitlines() if line.strip()][-TAIL_LINES:])
    return f"Cannot {step} in {request.path}: {cause}\nThe last lines of {request.installer}:\n{tail}"


def mask(text: str) -> str:
    """Hide what stands between the scheme and the host of a URL."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def credentials(urls: Sequence[str]) -> set[str]:
    """Return the secrets in URLs, so that the caller can keep them out of everything that is logged."""
    secrets = set()
    for url in urls:
        user, separator, host = urlsplit(url).netloc.rpartition("@")
        if separator and host:
            name, colon, password = user.partition(":")
            secrets.add(password if colon and password else name)
    return secrets - {""}


# ---------------------------------------------------------------------------------------------------------------------
# Acts on the host


def run_command(argv: Sequence[str], env: Mapping[str, str], timeout: float) -> Completed:
    """Run a command to its end or to the timeout, and leave none of its children behind."""
    try:
        # What modules hand in as their runner. AnsibleModule.run_command, which ansible-test would have here, has no
        # time limit and cannot keep the caller's environment out.
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return Completed(127, f"{argv[0]}: {error}")
    try:
        output = process.communicate(timeout=timeout)[0]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return Completed(process.returncode, output.decode("utf-8", errors="replace"))


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise EnvironmentProblem(f"Cannot remove {path}: {error}") from error


def _empty(path: Path) -> None:
    """Leave a folder that holds nothing but the sign that it is being built, without a moment in between."""
    path.mkdir(parents=True, exist_ok=True)
    (path / BUILD_FOLDER).mkdir(exist_ok=True)
    for entry in [entry for entry in path.iterdir() if entry.name != BUILD_FOLDER]:
        if entry.is_dir() and not entry.is_symlink():
            _remove(entry)
        else:
            entry.unlink()
    for entry in (path / BUILD_FOLDER).iterdir():
        _remove(entry)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Two runs that build side by side would mix their files: the second is refused."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise EnvironmentProblem(f"Cannot use {path.parent}: {error}") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentProblem(
                f"Another run is building an environment in {path.parent}: wait for its end."
            ) from error
        yield
    finally:
        os.close(folder)


@contextmanager
def _public_umask() -> Iterator[None]:
    """Hardened hosts give root a umask of 077; the users of the services must be able to read the environment."""
    former = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(former)
