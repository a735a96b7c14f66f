# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile, ModelFacts
from ansible_collections.baremetal.llm.plugins.module_utils.lock_change import compare_locks, size_text
from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import DtypeTotals, TensorTotals

TOTALS = TensorTotals((("BF16", DtypeTotals(1, 2, 4)),))
BEFORE = Lock(
    "demo/tiny",
    "1" * 40,
    (LockFile("a.json", 10, "a"), LockFile("b.json", 700, "b"), LockFile("c.json", 30, "c"), LockFile("d", 5, "d")),
    {"type": "hub", "revision": "main"},
    ModelFacts("apache-2.0", "", "", ("safetensors",), {}, TOTALS),
)
AFTER = Lock(
    "demo/tiny",
    "2" * 40,
    (
        LockFile("a.json", 10, "a"),
        LockFile("b.json", 712, "B"),
        LockFile("d", 5, "D"),
        LockFile("e", 4_900_000_000, "e"),
    ),
    {"type": "hub", "revision": "main"},
    ModelFacts("llama3", "", "manual", ("safetensors",), {"auto_map": {}}, TOTALS),
)


def test_what_changed():
    change = compare_locks(BEFORE, AFTER)
    assert change.lines == (
        f"revision: {'1' * 40} -> {'2' * 40}",
        "license: apache-2.0 -> llama3",
        "gated: (none) -> manual",
        "+ e (4.9 GB)",
        "- c.json (30 bytes)",
        "~ b.json (700 bytes -> 712 bytes)",
        "~ d (5 bytes)",
        "4.9 GB in added and changed files",
    )
    assert change.as_dict() == {
        "revision": {"before": "1" * 40, "after": "2" * 40},
        "license": {"before": "apache-2.0", "after": "llama3"},
        "gated": {"before": "", "after": "manual"},
        "files_added": ["e"],
        "files_removed": ["c.json"],
        "files_changed": ["b.json", "d"],
        "bytes_changed": 4_900_000_717,
    }


def test_code_that_the_model_newly_asks_for_is_told():
    after = Lock("demo/tiny", "1" * 40, BEFORE.files, BEFORE.source, ModelFacts(config={"auto_map": {"A": "b.C"}}))
    assert "custom_code: (none) -> yes" in compare_locks(BEFORE, after).lines


def test_nothing_and_everything():
    assert compare_locks(AFTER, AFTER).lines == ()
    first = compare_locks(None, AFTER)
    assert len(first.files_added) == 4
    assert first.values["revision"] == ("", "2" * 40)
    # A person who makes the first lock need not be told that all of it is new.
    assert first.lines == ()


def test_sizes():
    assert [size_text(size) for size in (0, 999, 1000, 1_234_567, 999_999_999)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "1.23 MB",
        "1 GB",
    ]
