# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The variable table of a README."""

from __future__ import annotations

from pathlib import Path

import pytest
import role_readme

SPEC = """
argument_specs:
  main:
    options:
      web_mode:
        type: str
        default: fast
        choices: [fast, safe]
        description: ["How V(fast\\\\)) it works, see O(web_x).", "Either a|b."]
      web_sites:
        type: list
        elements: dict
        required: true
        description: The sites.
        options:
          name:
            type: str
            description: Its name.
      web_headers:
        type: dict
        default: {a: "12345678901234567890", b: "12345678901234567890", c: "12345678901234567890"}
        description: Long.
"""
README = f"# web\n\nProse.\n\n{role_readme.BEGIN}\nold\n{role_readme.END}\n\nMore prose.\n"


@pytest.fixture
def role(tmp_path: Path) -> Path:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "argument_specs.yml").write_text(SPEC, encoding="utf-8")
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    return tmp_path


def test_table(role: Path) -> None:
    assert role_readme.table(role_readme.load_options(role)).splitlines()[2:] == [
        '| `web_mode` | str | `"fast"` | How `fast)` it works, see `web_x`. Either a\\|b. One of `fast`, `safe`. |',
        "| `web_sites` | list of dict | required | The sites. |",
        "| `web_sites[].name` | str | none | Its name. |",
        "| `web_headers` | dict | see [defaults](defaults/main.yml) | Long. |",
    ]


def test_check_writes_nothing(role: Path) -> None:
    assert role_readme.main(["--check", str(role)]) == 1
    assert (role / "README.md").read_text(encoding="utf-8") == README


def test_write_keeps_the_prose_and_then_agrees(role: Path) -> None:
    assert role_readme.main([str(role)]) == 0
    text = (role / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# web\n\nProse.\n\n<!-- BEGIN")
    assert text.endswith("<!-- END ARGUMENTS -->\n\nMore prose.\n")
    assert "old" not in text
    assert role_readme.main(["--check", str(role)]) == 0


@pytest.mark.parametrize("text", ["no markers", f"{role_readme.END}\n{role_readme.BEGIN}", role_readme.BEGIN * 2])
def test_markers_missing(role: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (role / "README.md").write_text(text, encoding="utf-8")
    assert role_readme.main([str(role)]) == 1
    assert "README.md: needs one line" in capsys.readouterr().err


def test_no_options() -> None:
    assert role_readme.table({}) == "This role has no variables.\n"
