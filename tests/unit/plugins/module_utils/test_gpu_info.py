# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts about a host as a whole: their shape, and hosts that have nothing to say."""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import gpu_facts
from ansible_collections.baremetal.llm.plugins.module_utils import gpu_info as subject
from ansible_collections.baremetal.llm.plugins.module_utils.system import CommandResult, System

ROOT = Path(__file__).resolve().parents[4]
MACHINES = sorted(path.parent.name for path in (ROOT / "tests/fakes/hosts").glob("*/facts.json"))


class BareHost(System):
    """No command exists."""

    def run(self, argv: Sequence[str], timeout_seconds: float = 10) -> CommandResult:
        return CommandResult(127, "", f"{argv[0]}: command not found")


def misfits(value: Any, kind: Any, path: str) -> list[str]:
    """Where *value* is not of the type *kind*: a TypedDict, a list, a union or a plain type."""
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != set(hints):
            return [f"{path}: {sorted(set(value) ^ set(hints)) if isinstance(value, dict) else value!r}"]
        return [problem for key in hints for problem in misfits(value[key], hints[key], f"{path}.{key}")]
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            return [f"{path}: {value!r}"]
        (item,) = typing.get_args(kind)
        return [problem for index, each in enumerate(value) for problem in misfits(each, item, f"{path}[{index}]")]
    if isinstance(kind, types.UnionType):
        return [] if any(not misfits(value, each, path) for each in typing.get_args(kind)) else [f"{path}: {value!r}"]
    # A truth is a number to Python, but not to who reads the facts.
    fits = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
    return [] if fits else [f"{path}: {value!r}"]


needs_new_typing = pytest.mark.skipif(
    sys.version_info < (3, 10), reason="Python 3.9 cannot evaluate `str | None` in the TypedDicts"
)


@needs_new_typing
@pytest.mark.parametrize("machine", MACHINES)
def test_the_facts_have_exactly_their_declared_shape(machine: str) -> None:
    facts = json.loads((ROOT / "tests/fakes/hosts" / machine / "facts.json").read_text(encoding="utf-8"))
    assert misfits(facts, gpu_facts.HostFacts, "facts") == []


@needs_new_typing
def test_the_check_of_the_shape_finds_what_does_not_fit() -> None:
    module = {"loaded": 1, "version": None, "flavour": None, "rivals": ["nouveau", 2]}
    assert misfits(module, gpu_facts.LoadedModule, "m") == ["m.loaded: 1", "m.rivals[1]: 2"]
    assert misfits({"loaded": True}, gpu_facts.LoadedModule, "m") == ["m: ['flavour', 'rivals', 'version']"]


def test_a_host_with_nothing_gives_a_whole_answer(tmp_path: Path) -> None:
    facts = subject.read_host(BareHost(str(tmp_path)), None)
    if sys.version_info >= (3, 10):
        assert misfits(facts, gpu_facts.HostFacts, "facts") == []
    assert facts["nvml"]["error"] == "BINDING_NOT_FOUND"
    assert facts["gpus"] == facts["pci_gpus"] == facts["packages"] == facts["kernel_modules"] == []
    assert facts["xid_events"] is None
    assert facts["loaded_module"] == {"loaded": False, "version": None, "flavour": None, "rivals": []}
    assert len(facts["problems"]) == 3
    assert facts["collected_at"].endswith("Z")


def test_a_boot_folder_that_names_no_next_kernel_is_told(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.8.0-139-generic").touch()
    facts = subject.read_host(BareHost(str(tmp_path)), None)
    assert [(module["kernel"], module["next_boot"]) for module in facts["kernel_modules"]] == [
        ("6.8.0-139-generic", False)
    ]
    assert "Nothing in /boot tells which kernel boots next." in facts["problems"]
    assert facts["platform"]["next_boot_rule"] == ""
