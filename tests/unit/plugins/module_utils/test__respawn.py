# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""use_tool_environment: when a module carries on under another Python, and that its arguments fit on the way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import _respawn as subject


class Module:
    def debug(self, message: str) -> None:
        pass


@pytest.fixture
def respawns(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    calls: list[str] = []
    make_pipe = os.pipe
    monkeypatch.setattr(subject, "respawn_module", calls.append)
    monkeypatch.setattr(subject, "has_respawned", lambda: False)
    yield calls
    os.pipe = make_pipe


@pytest.fixture
def python(tmp_path: Path) -> str:
    program = tmp_path / "python"
    program.touch()
    program.chmod(0o755)
    return str(program)


def test_respawns_where_the_library_is_missing(respawns: list[str], python: str) -> None:
    subject.use_tool_environment(Module(), "no_such_library", python)
    assert respawns == [python]


def test_stays_where_the_library_is(respawns: list[str], python: str) -> None:
    subject.use_tool_environment(Module(), "json", python)
    assert respawns == []


def test_goes_on_without_where_there_is_no_tool_environment(respawns: list[str]) -> None:
    subject.use_tool_environment(Module(), "no_such_library", "/nope/python")
    assert respawns == []


def test_respawns_only_once(respawns: list[str], python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "has_respawned", lambda: True)
    subject.use_tool_environment(Module(), "no_such_library", python)
    assert respawns == []


def _writes_at_once(size: int) -> bool:
    reader, writer = os.pipe()
    done = threading.Event()

    def write() -> None:
        os.write(writer, b"x" * size)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    in_time = done.wait(1)
    os.set_blocking(reader, False)
    while not done.is_set():  # let the writer go
        os.read(reader, 1 << 20)
        done.wait(0.05)
    thread.join()
    os.close(reader)
    os.close(writer)
    return in_time


def test_large_arguments_fit_into_the_pipe(respawns: list[str], python: str) -> None:
    size = 500_000  # the lock of a model with a few thousand files
    assert not _writes_at_once(size), "pipes of this system hold more than they used to: is the remedy still needed?"
    subject.use_tool_environment(Module(), "no_such_library", python)
    assert _writes_at_once(size)


def test_pipes_still_work_where_they_may_not_grow(
    respawns: list[str], python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> Callable[[], None]:
        raise PermissionError

    monkeypatch.setattr("fcntl.fcntl", refuse)
    subject.use_tool_environment(Module(), "no_such_library", python)
    assert _writes_at_once(1000)
