# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What no tool checks: links between documents, scenarios that test nothing, actions that float."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OURS = ("*.md", "docs/**/*.md", "roles/*/README.md", "inventories/**/*.md", "molecule/**/*.md", "benchmarks/**/*.md")
DOCUMENTS = sorted({path for pattern in OURS for path in ROOT.glob(pattern)})
LINK = re.compile(r"\]\(([^)\s]+)\)")
PINNED = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40}$")


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _broken_links(document: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in LINK.findall(text):
        if re.match(r"^[a-z]+:", target):
            continue
        name, _hash, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists():
            broken.append(target)
        elif anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            if anchor not in map(_anchor, headings):
                broken.append(target)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(document: Path) -> None:
    assert _broken_links(document) == []


def test_broken_link_is_seen(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "# One two\n[a](a.md#one-two) [b](b.md) [c](#three) [d](https://example.org/x)\n", encoding="utf-8"
    )
    assert _broken_links(document) == ["b.md", "#three"]


@pytest.mark.parametrize("scenario", sorted(ROOT.glob("molecule/*/molecule.yml")), ids=lambda path: path.parent.name)
def test_scenario_verifies(scenario: Path) -> None:
    """Molecule calls a scenario without tests successful."""
    tests = list(scenario.parent.glob("tests/test_*.py"))
    assert any(re.search(r"^def test_", path.read_text(encoding="utf-8"), flags=re.MULTILINE) for path in tests)


def test_every_test_that_a_document_names_exists() -> None:
    """The documents promise behaviour and name the test that shows it."""
    promised = {
        (document.relative_to(ROOT), name)
        for document in DOCUMENTS
        for name in re.findall(r"`(test_\w+)`", document.read_text(encoding="utf-8"))
    }
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("molecule/*/tests/test_*.py")]
    known = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, flags=re.MULTILINE)}
    assert sorted((document, name) for document, name in promised if name not in known) == []


def test_actions_are_pinned_by_commit() -> None:
    """A tag of somebody else's repository can be moved."""
    floating = []
    for path in ROOT.glob(".github/workflows/*.yml"):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            floating += [step["uses"] for step in job["steps"] if "uses" in step and not PINNED.match(step["uses"])]
    assert floating == []
