# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python_environment: what it runs, when, and what it leaves behind.

The runner here does what venv, pip and uv would do to the folder, and takes only the exact commands it expects.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import python_environment as subject
from ansible_collections.baremetal.llm.plugins.module_utils.python_environment import (
    Completed,
    EnvironmentProblem,
    Outcome,
    Request,
    ensure,
)

LOCK = "demo==1.0 \\\n    --hash=sha256:00\nother==2.1 ; python_version >= '3.9' \\\n    --hash=sha256:11\n"
SITE = "lib/python3.11/site-packages"
PIP_STEPS = ["venv", "install", "uninstall"]
UV_STEPS = ["venv", "sync"]


class Host:
    """A folder in place of a host, and the runner that acts on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "opt" / "tools"
        self.python = root / "python3"
        self.uv = root / "uv"
        self.requirements = root / "requirements.txt"
        self.version = "3.11.2"
        self.steps: list[str] = []
        self.argv: list[list[str]] = []
        self.env: dict[str, str] = {}
        self.fail_at: str | None = None
        self.failure = Completed(1, "it broke")
        self.record_size = 5
        self.damage: Callable[[], None] = lambda: None
        self.requirements.write_text(LOCK)
        for program in (self.python, self.uv):
            program.touch()
            program.chmod(0o755)

    def request(self, **changes: object) -> Request:
        options: dict[str, object] = {
            "path": str(self.path),
            "requirements": str(self.requirements),
            "python": str(self.python),
            **changes,
        }
        return Request(**options)  # type: ignore[arg-type]

    def uv_request(self, **changes: object) -> Request:
        return self.request(installer="uv", uv=str(self.uv), **changes)

    def __call__(self, argv: Sequence[str], env: Mapping[str, str], timeout: float) -> Completed:
        assert env["LC_ALL"] == "C.UTF-8"
        if list(argv[1:3]) == ["-I", "-c"]:
            return self._probe(argv[0])
        self.argv.append(list(argv))
        self.env = dict(env)
        step = self._step(list(argv))
        self.steps.append(step)
        assert (self.path / subject.BUILD_FOLDER / "tmp").is_dir(), "built without the sign of building"
        assert not (self.path / subject.MARKER).exists(), "the marker is there before the end"
        if step == self.fail_at:
            return self.failure
        if step == "venv":
            (self.path / "bin").mkdir()
            (self.path / "bin" / "python").touch()
            (self.path / "bin" / "python").chmod(0o755)
            (self.path / "pyvenv.cfg").touch()
            self.package("pip", "23.0")
        elif step == "uninstall":
            self.drop("pip")
        else:
            self.package("demo", "1.0")
            self.package("other", "2.1")
            if step == "sync":
                self.drop("pip")
            self.damage()
        return Completed(0, "")

    def _probe(self, python: str) -> Completed:
        prefix = self.path if python == str(self.path / "bin" / "python") else Path("/usr")
        if prefix == self.path and not (self.path / "pyvenv.cfg").exists():
            prefix = Path("/usr")
        return Completed(0, f"{self.version}\n{prefix}\n")

    def _step(self, argv: list[str]) -> str:
        inside = str(self.path / "bin" / "python")
        expected = {
            "venv": (
                [str(self.python), "-I", "-m", "venv", str(self.path)],
                [str(self.uv), "venv", "--allow-existing", "--python", str(self.python), str(self.path)],
            ),
            "install": (
                [inside, "-I", "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:"]
                + ["--requirement", str(self.requirements)],
            ),
            "uninstall": ([inside, "-I", "-m", "pip", "uninstall", "--yes", "setuptools", "pip"],),
            "sync": (
                [str(self.uv), "pip", "sync", "--python", inside, "--require-hashes", "--no-build"]
                + ["--compile-bytecode", str(self.requirements)],
                [str(self.uv), "pip", "sync", "--python", inside, "--require-hashes", "--no-build"]
                + ["--compile-bytecode", str(self.requirements), "--no-index"],
            ),
        }
        found = [step for step, commands in expected.items() if argv in commands]
        assert found, f"unexpected command: {argv}"
        return found[0]

    def package(self, name: str, version: str) -> None:
        site = self.path / SITE
        metadata = site / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        (site / f"{name}.py").write_text("1 + 1")
        (metadata / "RECORD").write_text(
            f'{name}.py,sha256=x,{self.record_size}\n"__pycache__/{name}.cpython-311.pyc",,\n'
            f"{name}-{version}.dist-info/RECORD,,\n"
        )

    def drop(self, name: str) -> None:
        for metadata in (self.path / SITE).glob(f"{name}-*.dist-info"):
            (metadata / "RECORD").unlink()
            metadata.rmdir()

    def ensure(self, request: Request | None = None, check_mode: bool = False) -> Outcome:
        self.steps.clear()
        return ensure(request or self.request(), self, {"PATH": "/bin"}, check_mode)

    def problem(self, request: Request | None = None) -> str:
        with pytest.raises(EnvironmentProblem) as caught:
            self.ensure(request)
        return str(caught.value)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def content(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")} if folder.exists() else set()


class TestBuild:
    def test_pip_builds_once(self, host: Host) -> None:
        first = host.ensure()
        assert host.steps == PIP_STEPS
        assert (first.changed, first.python_version, first.before.status) == (True, "3.11.2", "absent")
        assert first.packages == ("demo==1.0", "other==2.1")
        second = host.ensure()
        assert (second.changed, second.reason, host.steps) == (False, "", [])
        assert second.packages == first.packages and second.digest == first.digest
        assert len(first.digest or "") == 64

    def test_uv_builds_once(self, host: Host) -> None:
        assert host.ensure(host.uv_request()).changed
        assert host.steps == UV_STEPS
        assert not host.ensure(host.uv_request()).changed

    def test_only_the_environment_and_its_marker_are_left(self, host: Host) -> None:
        host.ensure()
        assert {entry.name for entry in host.path.iterdir()} == {"bin", "lib", "pyvenv.cfg", subject.MARKER}
        assert [entry.name for entry in host.path.parent.iterdir()] == ["tools"]

    def test_pip_stays_when_the_file_names_it(self, host: Host) -> None:
        host.requirements.write_text(LOCK + "pip==26.3 \\\n    --hash=sha256:22\n")
        steps = subject.commands(host.request())
        assert steps[-1][1][-3:] == ["uninstall", "--yes", "setuptools"]

    def test_readable_by_all_whatever_the_umask(self, host: Host) -> None:
        former = os.umask(0o077)
        try:
            host.ensure()
        finally:
            os.umask(former)
        assert (host.path / subject.MARKER).stat().st_mode & 0o777 == 0o644
        assert host.path.stat().st_mode & 0o777 == 0o755


class TestRebuild:
    def check(self, host: Host, status: str, words: str, request: Request | None = None) -> None:
        outcome = host.ensure(request)
        assert (outcome.changed, outcome.before.status) == (True, status)
        assert words in outcome.reason
        assert host.steps == PIP_STEPS
        assert not host.ensure(request).changed
        assert not host.path.with_name("tools.previous").exists()

    def test_when_the_requirements_change(self, host: Host) -> None:
        host.ensure()
        host.requirements.write_text(LOCK + "# something\n")
        self.check(host, "outdated", "requirements file changed")

    def test_when_the_marker_is_gone(self, host: Host) -> None:
        host.ensure()
        (host.path / subject.MARKER).unlink()
        self.check(host, "incomplete", "did not finish")

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"format_version": 0}'])
    def test_when_the_marker_cannot_be_read(self, host: Host, text: str) -> None:
        host.ensure()
        (host.path / subject.MARKER).write_text(text)
        self.check(host, "incomplete", "did not finish")

    def test_when_an_interrupted_run_left_half_of_it(self, host: Host) -> None:
        (host.path / subject.BUILD_FOLDER / "tmp").mkdir(parents=True)
        (host.path / subject.BUILD_FOLDER / "tmp" / "half.whl").touch()
        host.package("stray", "9")
        self.check(host, "incomplete", "did not finish")
        assert not (host.path / SITE / "stray.py").exists()

    def test_when_a_file_is_missing(self, host: Host) -> None:
        host.ensure()
        (host.path / SITE / "demo.py").unlink()
        self.check(host, "damaged", "demo.py is missing or not of the size")

    def test_when_a_file_is_truncated(self, host: Host) -> None:
        host.ensure()
        (host.path / SITE / "other.py").write_text("")
        self.check(host, "damaged", "other.py")

    def test_when_a_package_was_added_or_removed(self, host: Host) -> None:
        host.ensure()
        host.package("stray", "9")
        self.check(host, "damaged", "packages in it")
        host.drop("demo")
        self.check(host, "damaged", "packages in it")

    def test_when_its_python_is_gone(self, host: Host) -> None:
        host.ensure()
        (host.path / "bin" / "python").unlink()
        self.check(host, "damaged", "bin/python is missing")

    def test_when_its_python_does_not_belong_to_it(self, host: Host) -> None:
        host.ensure()
        (host.path / "pyvenv.cfg").unlink()
        self.check(host, "damaged", "does not run as the Python of this environment")

    def test_when_the_minor_version_of_python_changes(self, host: Host) -> None:
        host.ensure()
        host.version = "3.13.1"
        self.check(host, "outdated", "3.13.1")

    def test_not_when_only_the_patch_version_changes(self, host: Host) -> None:
        host.ensure()
        host.version = "3.11.9"
        assert not host.ensure().changed

    def test_compiled_files_may_come_and_go(self, host: Host) -> None:
        host.ensure()
        (host.path / SITE / "__pycache__").mkdir()
        (host.path / SITE / "__pycache__" / "demo.cpython-311.pyc").touch()
        assert not host.ensure().changed

    def test_a_wheel_with_a_wrong_record_is_not_built_again_for_ever(self, host: Host) -> None:
        host.record_size = 77
        host.ensure()
        assert not host.ensure().changed

    def test_a_cache_that_holds_the_damage_is_not_used(self, host: Host) -> None:
        caches = []

        def truncate() -> None:
            caches.append(host.env["UV_CACHE_DIR"])
            if host.env["UV_CACHE_DIR"] == "/cache":
                (host.path / SITE / "demo.py").write_text("")

        host.damage = truncate
        request = host.uv_request(cache_dir="/cache")
        host.ensure(request)
        assert caches == ["/cache", str(host.path / subject.BUILD_FOLDER / "cache")]
        assert (host.path / SITE / "demo.py").read_text() == "1 + 1"
        assert not host.ensure(request).changed


class TestFailure:
    @pytest.mark.parametrize("step", PIP_STEPS)
    def test_the_environment_that_worked_comes_back(self, host: Host, step: str) -> None:
        host.ensure()
        before = content(host.path)
        host.requirements.write_text(LOCK + "# changed\n")
        host.fail_at = step
        assert "it broke" in host.problem()
        assert content(host.path) == before
        assert [entry.name for entry in host.path.parent.iterdir()] == ["tools"]
        host.fail_at = None
        assert host.ensure().changed and not host.ensure().changed

    def test_also_when_the_run_is_interrupted(self, host: Host) -> None:
        host.ensure()
        before = content(host.path)
        host.requirements.write_text(LOCK + "# changed\n")

        def stop() -> None:
            raise KeyboardInterrupt

        host.damage = stop
        with pytest.raises(KeyboardInterrupt):
            host.ensure()
        assert content(host.path) == before

    def test_also_in_the_run_after_one_that_was_killed(self, host: Host) -> None:
        host.ensure()
        before = content(host.path)
        # What SIGKILL leaves: the old one aside, half of the new one in its place.
        host.path.rename(host.path.with_name("tools.previous"))
        (host.path / subject.BUILD_FOLDER).mkdir(parents=True)
        host.fail_at = "install"
        host.problem()
        assert content(host.path) == before
        assert not host.path.with_name("tools.previous").exists()

    def test_nothing_is_left_of_a_first_build_that_failed(self, host: Host) -> None:
        host.fail_at = "install"
        host.problem()
        assert not host.path.exists()

    def test_a_timeout_says_so(self, host: Host) -> None:
        def expire() -> None:
            raise subprocess.TimeoutExpired("pip", 5)

        host.damage = expire
        assert "not done after timeout_seconds (5 s)" in host.problem(host.request(timeout_seconds=5))

    def test_two_runs_do_not_build_side_by_side(self, host: Host) -> None:
        with subject._one_at_a_time(host.path):
            assert "Another run is building" in host.problem()
        assert host.ensure().changed


class TestRefusal:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"installer": "conda"}, "installer is 'conda'"),
            ({"installer": "uv"}, "does not say where that program is"),
            ({"path": "tools"}, "must be an absolute path"),
            ({"path": "/opt/../opt"}, "top of a file system"),
            ({"no_index": True}, "nowhere to take packages from"),
            ({"no_index": True, "find_links": ("/w",), "index_url": "https://x/"}, "contradict"),
            ({"index_url": "https://x/a b"}, "contains a blank"),
            ({"python": "/nope"}, "/nope is not on the host or does not run"),
            ({"requirements": "/nope"}, "requirements file /nope is not on the host"),
            ({"installer": "uv", "uv": "/nope"}, "/nope (option uv) is not a program"),
            ({"find_links": ("/nope",)}, "The folder /nope in find_links"),
            ({"ca_file": "/nope"}, "/nope (option ca_file)"),
        ],
    )
    def test_says_what_is_wrong_and_touches_nothing(self, host: Host, changes: dict[str, object], words: str) -> None:
        host.ensure()
        host.requirements.write_text(LOCK + "# changed\n")
        before = content(host.path)
        assert words in host.problem(host.request(**changes))
        assert content(host.path) == before and host.steps == []

    def test_a_folder_that_is_no_environment_is_left_alone(self, host: Host) -> None:
        host.path.mkdir(parents=True)
        (host.path / "thesis.tex").write_text("years")
        assert "not a Python environment" in host.problem()
        assert content(host.path) == {"thesis.tex"}

    def test_neither_a_file_nor_a_link_is_replaced(self, host: Host) -> None:
        (host.root / "elsewhere").mkdir()
        host.path.parent.mkdir()
        host.path.symlink_to(host.root / "elsewhere")
        assert "not a folder" in host.problem()
        host.path.unlink()
        host.path.touch()
        assert "not a folder" in host.problem()


class TestCheckMode:
    def test_says_what_it_would_do_and_does_nothing(self, host: Host) -> None:
        outcome = host.ensure(check_mode=True)
        assert (outcome.changed, host.steps, host.path.exists()) == (True, [], False)
        assert outcome.packages == ("demo==1.0", "other==2.1 ; python_version >= '3.9'")

    def test_on_a_virgin_host(self, host: Host) -> None:
        host.requirements.unlink()
        host.uv.unlink()
        outcome = host.ensure(host.uv_request(python="/nope", find_links=("/nope",)), check_mode=True)
        assert (outcome.changed, outcome.digest, outcome.python_version) == (True, None, None)

    def test_current_is_current(self, host: Host) -> None:
        host.ensure()
        assert not host.ensure(check_mode=True).changed

    def test_a_change_is_seen(self, host: Host) -> None:
        host.ensure()
        (host.path / SITE / "demo.py").unlink()
        assert host.ensure(check_mode=True).before.status == "damaged"


class TestSources:
    SECRET = "https://user:hunter2@mirror.example/simple/"

    def test_pip_gets_them_in_its_environment(self, host: Host, tmp_path: Path) -> None:
        wheels = tmp_path / "wheel house"
        wheels.mkdir()
        ca = tmp_path / "ca.pem"
        ca.touch()
        host.ensure(host.request(index_url=self.SECRET, find_links=(str(wheels), "https://x/w"), ca_file=str(ca)))
        assert host.env["PIP_INDEX_URL"] == self.SECRET
        assert host.env["PIP_FIND_LINKS"] == f"{wheels.as_uri()} https://x/w"
        assert host.env["PIP_CERT"] == str(ca)
        assert "PIP_NO_INDEX" not in host.env
        assert host.env["TMPDIR"].startswith(str(host.path))
        assert "hunter2" not in str(host.argv)

    def test_uv_gets_them_in_its_environment(self, host: Host, tmp_path: Path) -> None:
        wheels = tmp_path / "a,b"
        wheels.mkdir()
        host.ensure(host.uv_request(index_url=self.SECRET, find_links=(str(wheels),)))
        assert host.env["UV_DEFAULT_INDEX"] == self.SECRET
        assert "," not in host.env["UV_FIND_LINKS"] and host.env["UV_FIND_LINKS"].endswith("a%2Cb")
        assert host.env["UV_PYTHON_DOWNLOADS"] == "never"
        assert "hunter2" not in str(host.argv)

    def test_no_index(self, host: Host, tmp_path: Path) -> None:
        host.ensure(host.request(find_links=(str(tmp_path),), no_index=True))
        assert host.env["PIP_NO_INDEX"] == "1"
        uv = host.uv_request(find_links=(str(tmp_path),), no_index=True)
        assert subject.commands(uv)[1][1][-1] == "--no-index"
        assert "--no-index" not in subject.commands(host.uv_request())[1][1]

    def test_settings_of_the_host_do_not_count_but_proxies_do(self, host: Host) -> None:
        inherited = {
            "https_proxy": "http://proxy:3128",
            "PATH": "/bin",
            "PIP_EXTRA_INDEX_URL": "https://evil",
            "UV_INDEX": "https://evil",
            "PYTHONPATH": "/evil",
            "VIRTUAL_ENV": "/evil",
        }
        ensure(host.request(), host, inherited, False)
        assert "evil" not in str(host.env)
        assert (host.env["https_proxy"], host.env["PIP_CONFIG_FILE"]) == ("http://proxy:3128", os.devnull)

    def test_cache_is_shared_when_asked_for_and_gone_otherwise(self, host: Host) -> None:
        host.ensure(host.uv_request(cache_dir="/var/cache/uv"))
        assert host.env["UV_CACHE_DIR"] == "/var/cache/uv"
        assert subject.tool_environment(host.uv_request(), {})["UV_CACHE_DIR"].startswith(str(host.path))

    def test_credentials_are_found(self) -> None:
        urls = [self.SECRET, "https://t0ken@x/", "https://x/a@b", "/srv/wheels", ""]
        assert subject.credentials(urls) == {"hunter2", "t0ken"}

    def test_credentials_are_masked(self) -> None:
        assert subject.mask(f"Looking in {self.SECRET}, a@b") == "Looking in https://***@mirror.example/simple/, a@b"


class TestMessages:
    # The lines that pip 23 and 26 and uv 0.13 really print.
    @pytest.mark.parametrize(
        ("output", "words"),
        [
            ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "is full"),
            ("  cause: failed to write to file `/x`: No space left on device (os error 28)", "is full"),
            ("not created successfully because ensurepip is not\navailable.", "python3-venv"),
            ("/usr/bin/python3: No module named venv", "python3-venv"),
            ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "does not have the digest"),
            ("  cause: Hash mismatch for `idna==3.20`", "does not have the digest"),
            ("ERROR: Hashes are required in --require-hashes mode, but they are missing", "make the lock again"),
            (
                "error: In `--require-hashes` mode, all requirements must have their versions pinned with `==`",
                "make the lock again",
            ),
            ("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "is not trusted here"),
            ("Failed to fetch: https://x\n  cause: invalid peer certificate: UnknownIssuer", "is not trusted here"),
            ("HTTP status client error (401 Unauthorized) for url (https://x)", "refuses access"),
            ("NewConnectionError: [Errno 111] Connection refused\nNo matching distribution found", "cannot be reached"),
            ("  cause: dns error\n  cause: failed to lookup address information", "cannot be reached"),
            ("ERROR: No matching distribution found for idna==3.20", "has no wheel that fits"),
            ("  cause: Because certifi was not found in the provided package locations", "has no wheel that fits"),
            ("something nobody foresaw", "pip failed with exit status 1."),
        ],
    )
    def test_each_cause_has_its_sentence(self, host: Host, output: str, words: str) -> None:
        host.fail_at, host.failure = "install", Completed(1, output)
        problem = host.problem(host.request(index_url="https://user:hunter2@mirror.example/"))
        assert words in problem.splitlines()[0]
        assert problem.endswith(output.splitlines()[-1])
        assert "hunter2" not in problem

    def test_a_full_disk_that_venv_does_not_speak_of(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(subject, "FULL_DISK_BYTES", 1 << 60)
        host.fail_at, host.failure = "venv", Completed(1, "Error: Command 'ensurepip' returned exit status 1.")
        assert "is full" in host.problem()

    def test_only_the_end_of_the_output_is_shown(self, host: Host) -> None:
        host.fail_at = "install"
        host.failure = Completed(1, "\n".join(f"line {number}" for number in range(500)))
        problem = host.problem()
        assert "line 499" in problem and "line 100" not in problem


class TestRunCommand:
    ENV = {"PATH": os.environ["PATH"]}

    def test_output_in_order_and_status(self) -> None:
        done = subject.run_command(["sh", "-c", "echo out; echo err >&2; exit 3"], self.ENV, 10)
        assert done == Completed(3, "out\nerr\n")

    def test_only_the_environment_that_is_given(self) -> None:
        assert "HOME" not in subject.run_command(["env"], self.ENV, 10).output

    def test_absent_program(self) -> None:
        done = subject.run_command(["/nope/program"], self.ENV, 10)
        assert done.rc == 127 and "/nope/program" in done.output

    def test_timeout_ends_the_children_too(self, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        with pytest.raises(subprocess.TimeoutExpired):
            subject.run_command(["sh", "-c", f"sleep 30 & echo $! > {pid_file}; wait"], self.ENV, 1)
        child = int(pid_file.read_text())
        for _attempt in range(100):
            state = Path(f"/proc/{child}/stat")
            if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
                break
            time.sleep(0.05)
        else:
            pytest.fail("the child lives on")


def test_real_venv_without_packages(tmp_path: Path) -> None:
    """The whole way with the real venv and pip; an empty lock needs no network."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# nothing\n")
    request = Request(str(tmp_path / "env"), str(requirements), python=sys.executable, timeout_seconds=120)
    first = ensure(request, subject.run_command, os.environ, False)
    assert first.changed and first.packages == ()
    assert not ensure(request, subject.run_command, os.environ, False).changed
    marker = json.loads((tmp_path / "env" / subject.MARKER).read_text())
    assert marker["requirements_sha256"] == first.digest
    assert subprocess.run([str(tmp_path / "env" / "bin" / "python"), "-c", "import pip"], check=False).returncode == 1
