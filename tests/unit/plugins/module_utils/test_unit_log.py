# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a unit's present run, read from its beginning."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import unit_log
from ansible_collections.baremetal.llm.plugins.module_utils.system import CommandResult, System
from ansible_collections.baremetal.llm.plugins.module_utils.unit_log import UnitLogError


class Host(System):
    def __init__(self, answer: CommandResult) -> None:
        super().__init__()
        self.answer = answer

    def run(self, argv, timeout_seconds=10):
        assert argv[-1] == "vllm@chat.service"
        return self.answer


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journalctl that repeats its last argument for ever."""
    program = tmp_path / "journalctl"
    program.write_text('#!/bin/sh\nfor last; do :; done\nexec yes "$last"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_the_beginning_of_the_present_run_is_read_and_no_more(journalctl: Path) -> None:
    started = time.monotonic()
    text = unit_log.unit_log("vllm@chat.service", Host(CommandResult(0, "abc123\n", "")), most_bytes=1000)
    assert len(text) == 1000
    assert text.startswith("_SYSTEMD_INVOCATION_ID=abc123\n")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("answer", [CommandResult(0, "\n", ""), CommandResult(127, "", "systemctl: command not found")])
def test_a_unit_that_never_ran_is_said_to_be_one(answer: CommandResult) -> None:
    with pytest.raises(
        UnitLogError, match=r"vllm@chat.service has not run since this host was started.*start it first"
    ):
        unit_log.unit_log("vllm@chat.service", Host(answer))


def test_a_journal_that_is_gone_is_said_to_be(journalctl: Path) -> None:
    journalctl.write_text("#!/bin/sh\n", encoding="utf-8")
    with pytest.raises(UnitLogError, match="rotated away"):
        unit_log.unit_log("vllm@chat.service", Host(CommandResult(0, "abc123\n", "")))
