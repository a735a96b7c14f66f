# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam to the host: missing files, missing commands and slow ones are answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import system as subject


@pytest.fixture
def host(tmp_path: Path) -> subject.System:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("gpu-1\n", encoding="utf-8")
    return subject.System(str(tmp_path))


def test_files_are_read_below_the_root_of_the_host(host: subject.System) -> None:
    assert host.read("/etc/hostname") == "gpu-1\n"
    assert host.read_bytes("/etc/hostname") == b"gpu-1\n"
    assert host.list("/etc") == ["hostname"]
    assert host.exists("/etc/hostname")
    assert host.modified_at("/etc/hostname") is not None


def test_what_is_not_there_is_an_answer(host: subject.System) -> None:
    assert host.read("/etc/missing") is None
    assert host.read("/etc") is None
    assert host.list("/missing") == []
    assert not host.exists("/missing")
    assert host.readlink("/etc/hostname") is None
    assert host.modified_at("/missing") is None


def test_broken_text_is_read_all_the_same(host: subject.System, tmp_path: Path) -> None:
    (tmp_path / "vpd").write_bytes(b"\xffSW_MNG\x00")
    assert "SW_MNG" in (host.read("/vpd") or "")


def test_links_are_followed_to_paths_of_the_host(host: subject.System, tmp_path: Path) -> None:
    (tmp_path / "relative").symlink_to("etc/hostname")
    (tmp_path / "absolute").symlink_to("/opt/somewhere")
    assert host.readlink("/relative") == "etc/hostname"
    assert host.resolve("/relative") == "/etc/hostname"
    assert host.resolve("/absolute") == "/opt/somewhere"
    assert host.resolve("/") == "/"


def test_a_command_runs_in_the_c_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/nowhere")
    result = subject.System().run(["sh", "-c", "echo $LC_ALL; echo $PATH; echo oops >&2; exit 3"])
    assert result.stdout.splitlines()[0] == "C"
    assert "/usr/sbin" in result.stdout
    assert (result.code, result.stderr, result.ok, result.found) == (3, "oops\n", False, True)


def test_a_missing_command_a_slow_one_and_a_folder_are_answers(tmp_path: Path) -> None:
    system = subject.System()
    missing = system.run(["no-such-command-anywhere", "-x"])
    assert (missing.code, missing.found) == (127, False)
    assert "no-such-command-anywhere" in missing.stderr
    assert system.run(["sleep", "20"], timeout_seconds=0.05).code == 124
    assert system.run([str(tmp_path)]).code == 126
