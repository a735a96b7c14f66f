# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Which advisories affect a version."""

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import advisories
from ansible_collections.baremetal.llm.plugins.module_utils.advisories import Advisory


def names(version: str) -> set[str]:
    return {advisory.identifier for advisory in advisories.affecting(version)}


def test_the_safe_minimum_has_no_advisory_and_anything_before_it_has_one() -> None:
    assert names(advisories.VLLM_SAFE_MINIMUM) == set()
    assert names("0.34.1") == set()
    for version in ("0.32.9", "0.33.0rc1", "0.33.0.dev7", "0.1"):
        assert "GHSA-5r3c-5x4v-8gjh" in names(version)


def test_the_minor_before_the_minimum_has_exactly_two() -> None:
    assert names("0.32.0+cpu") == {"GHSA-5r3c-5x4v-8gjh", "CVE-2026-105775"}


@pytest.mark.parametrize(
    ("version", "affected"),
    [("0.15.9", False), ("0.16", True), ("0.16.0", True), ("0.18.99", True), ("0.19", False), ("0.19.0", False)],
)
def test_both_ends_of_a_range(version: str, affected: bool) -> None:
    # CVE-2026-34753: from 0.16, fixed in 0.19.
    assert ("CVE-2026-34753" in names(version)) is affected


def test_four_part_versions_are_ordered() -> None:
    assert "CVE-2025-9141" in names("0.10.1")
    assert "CVE-2025-9141" not in names("0.10.1.1")
    assert "CVE-2025-9141" not in names("0.9.9")


def test_a_post_release_is_not_older_than_its_release() -> None:
    assert names("0.33.0.post1") == set()


def test_only_accepted_ones_are_let_off() -> None:
    table = (Advisory("A", "", "2", ""), Advisory("B", "1", "3", ""))
    assert [one.identifier for one in advisories.unaccepted("1.5", ["A"], table)] == ["B"]
    assert advisories.unaccepted("1.5", ["A", "B"], table) == []
    assert [one.identifier for one in advisories.unaccepted("2.5", [], table)] == ["B"]
    assert advisories.unknown(["A", "C"], table) == ["C"]


@pytest.mark.parametrize("text", ["", "latest", "0.33.x", "1;2"])
def test_what_is_no_version_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not a version"):
        advisories.affecting(text)


def test_the_table_is_sound() -> None:
    identifiers = [advisory.identifier for advisory in advisories.VLLM]
    assert len(set(identifiers)) == len(identifiers)
    for advisory in advisories.VLLM:
        assert advisory.summary
        low = advisories.version_key(advisory.introduced or "0")
        assert low < advisories.version_key(advisory.fixed) <= advisories.version_key(advisories.VLLM_SAFE_MINIMUM)
