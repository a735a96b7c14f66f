# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Bringing a unit to its state, against a systemctl that records what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.engine_unit import (
    UnitError,
    Wanted,
    ensure,
    journal,
    record,
    record_path,
    recorded,
)

UNIT = "vllm@chat.service"


class Systemd:
    """A unit with a state, and the verbs it was brought there with."""

    def __init__(self, active: str = "active", enabled: str = "enabled", loaded: str = "loaded", reload: str = "no"):
        self.state = {
            "ActiveState": active,
            "UnitFileState": enabled,
            "LoadState": loaded,
            "NeedDaemonReload": reload,
        }
        self.verbs: list[str] = []
        self.fails: set[str] = set()

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        if arguments[0] == "journalctl":
            assert UNIT in arguments
            return 0, "the model does not fit\n", ""
        verb = arguments[1]
        if verb == "show":
            return 0, "".join(f"{key}={value}\n" for key, value in self.state.items()), ""
        self.verbs.append(verb)
        if verb in self.fails:
            return 1, "", "Job failed."
        if verb == "daemon-reload":
            self.state.update(LoadState="loaded", NeedDaemonReload="no")
        if verb in ("start", "restart"):
            self.state["ActiveState"] = "active"
        return 0, "", ""


def wanted(**changes: Any) -> Wanted:
    values: dict[str, Any] = {
        "unit": UNIT,
        "state": "started",
        "enabled": True,
        "revision": "two",
        "restart": True,
        "journal_lines": 40,
    }
    return Wanted(**{**values, **changes})


def test_a_new_unit_is_loaded_enabled_started_and_remembered(tmp_path: Path) -> None:
    systemd = Systemd(active="inactive", enabled="", loaded="not-found")
    outcome = ensure(systemd, wanted(), False, tmp_path / "records")
    assert systemd.verbs == ["daemon-reload", "enable", "start"] == outcome.actions
    assert recorded(UNIT, tmp_path / "records") == "two"
    assert ensure(systemd, wanted(enabled=None), False, tmp_path / "records").actions == []


def test_check_mode_says_the_same_and_does_nothing(tmp_path: Path) -> None:
    systemd = Systemd(active="inactive", enabled="", loaded="not-found")
    outcome = ensure(systemd, wanted(), True, tmp_path / "records")
    assert outcome.actions == ["daemon-reload", "enable", "start"]
    assert outcome.after["ActiveState"] == "active"
    assert systemd.verbs == []
    assert not (tmp_path / "records").exists()


def test_an_outdated_unit_is_restarted_only_where_that_is_allowed(tmp_path: Path) -> None:
    record(UNIT, "one", tmp_path)
    systemd = Systemd()
    outcome = ensure(systemd, wanted(restart=False), False, tmp_path)
    assert (outcome.actions, outcome.restart_required) == ([], True)
    assert recorded(UNIT, tmp_path) == "one"
    outcome = ensure(systemd, wanted(), False, tmp_path)
    assert (systemd.verbs, outcome.restart_required) == (["restart"], False)
    assert recorded(UNIT, tmp_path) == "two"
    assert ensure(systemd, wanted(), False, tmp_path).actions == []


def test_a_failed_start_carries_the_journal_and_is_not_remembered(tmp_path: Path) -> None:
    systemd = Systemd(active="inactive")
    systemd.fails = {"start"}
    with pytest.raises(UnitError, match=r"(?s)start vllm@chat.service` failed: Job failed.*the model does not fit"):
        ensure(systemd, wanted(), False, tmp_path)
    assert recorded(UNIT, tmp_path) == ""


def test_a_failed_restart_is_done_again_by_the_next_run(tmp_path: Path) -> None:
    record(UNIT, "one", tmp_path)
    systemd = Systemd()
    systemd.fails = {"restart"}
    with pytest.raises(UnitError):
        ensure(systemd, wanted(), False, tmp_path)
    systemd.fails = set()
    assert ensure(systemd, wanted(), False, tmp_path).actions == ["restart"]


def test_a_unit_in_its_start_limit_is_released_first(tmp_path: Path) -> None:
    systemd = Systemd(active="failed")
    ensure(systemd, wanted(), False, tmp_path)
    assert systemd.verbs == ["reset-failed", "start"]


def test_a_unit_that_is_starting_with_an_old_configuration_is_started_anew(tmp_path: Path) -> None:
    systemd = Systemd(active="activating")
    ensure(systemd, wanted(), False, tmp_path)
    assert systemd.verbs == ["restart"]


def test_a_unit_that_is_starting_as_wanted_is_waited_for(tmp_path: Path) -> None:
    record(UNIT, "two", tmp_path)
    systemd = Systemd(active="activating")
    ensure(systemd, wanted(), False, tmp_path)
    assert systemd.verbs == ["start"]


def test_without_a_revision_a_running_unit_is_never_outdated(tmp_path: Path) -> None:
    assert ensure(Systemd(), wanted(revision=""), False, tmp_path).actions == []
    assert not record_path(UNIT, tmp_path).exists()


def test_changed_unit_files_are_read_again(tmp_path: Path) -> None:
    record(UNIT, "two", tmp_path)
    systemd = Systemd(reload="yes")
    assert ensure(systemd, wanted(), False, tmp_path).actions == ["daemon-reload"]


def test_a_missing_unit_is_an_error(tmp_path: Path) -> None:
    class Bare(Systemd):
        def __call__(self, arguments: Sequence[str]) -> tuple[int, str, str]:
            result = super().__call__(arguments)
            self.state["LoadState"] = "not-found"
            return result

    with pytest.raises(UnitError, match="there is no such unit"):
        ensure(Bare(active="inactive", loaded="not-found"), wanted(), False, tmp_path)


@pytest.mark.parametrize(
    ("active", "enabled", "verbs"),
    [
        ("active", "enabled", ["stop", "disable"]),
        ("activating", "enabled", ["stop", "disable"]),
        ("failed", "enabled", ["reset-failed", "disable"]),
        ("inactive", "disabled", []),
    ],
)
def test_stopping_forgets_the_unit(tmp_path: Path, active: str, enabled: str, verbs: list[str]) -> None:
    record(UNIT, "two", tmp_path)
    systemd = Systemd(active=active, enabled=enabled)
    ensure(systemd, wanted(state="stopped", enabled=False), False, tmp_path)
    assert systemd.verbs == verbs
    assert recorded(UNIT, tmp_path) == ""


def test_the_journal_names_an_error_that_is_far_above_its_end() -> None:
    lines = ["core.py] ValueError: the model does not fit", *["  File x"] * 60, "RuntimeError: see above"]

    def runner(arguments: Sequence[str]) -> tuple[int, str, str]:
        assert arguments[arguments.index("--lines") + 1] == "400"
        return 0, "\n".join(lines), ""

    text = journal(runner, UNIT, 40).splitlines()
    assert text[:2] == ["Errors that it names:", "core.py] ValueError: the model does not fit"]
    assert text[-41:] == ["Last 40 lines of its journal:", *lines[-40:]]


def test_a_journal_that_cannot_be_read_is_said_so() -> None:
    assert "no journal: no such file" in journal(lambda arguments: (1, "", "no such file"), UNIT, 40)
