#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Write the variable table of every role's README from its argument specification.

    tools/role_readme.py [--check] [ROLE_DIR ...]     default: every folder below roles/

The table goes between two marker lines of the README; the prose around it belongs to people. With --check nothing is
written, and a table that differs from its specification is an error.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

BEGIN = "<!-- BEGIN ARGUMENTS -->"
END = "<!-- END ARGUMENTS -->"
# A longer default makes the column unreadable; the README then points to the file that has it.
LONGEST_DEFAULT = 60


class ReadmeError(Exception):
    """A README or a specification that the table cannot be made from."""


def load_options(role: Path, entry_point: str = "main") -> dict[str, Any]:
    """Return the options of one entry point of the role's argument specification."""
    path = role / "meta" / "argument_specs.yml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReadmeError(f"{path}: missing") from error
    except yaml.YAMLError as error:
        raise ReadmeError(f"{path}: {error}") from error
    try:
        options = document["argument_specs"][entry_point].get("options") or {}
    except (KeyError, TypeError, AttributeError) as error:
        raise ReadmeError(f"{path}: no argument_specs.{entry_point}") from error
    if not isinstance(options, dict):
        raise ReadmeError(f"{path}: argument_specs.{entry_point}.options is not a mapping")
    return options


# Ansible's own markup in descriptions: V(value), O(option), C(code) and their like.
MARKUP = re.compile(r"\b(?:RV|[BCEIMOPUV])\(((?:[^()\\]|\\.)*)\)")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _markdown(text: str) -> str:
    return MARKUP.sub(lambda match: "`" + re.sub(r"\\(.)", r"\1", match.group(1)) + "`", text)


def _type(option: Mapping[str, Any]) -> str:
    kind = str(option.get("type", "str"))
    return f"list of {option['elements']}" if kind == "list" and "elements" in option else kind


def _default(option: Mapping[str, Any]) -> str:
    if option.get("required"):
        return "required"
    if "default" not in option:
        return "none"
    text = json.dumps(option["default"], ensure_ascii=False)
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "see [defaults](defaults/main.yml)"


def _description(option: Mapping[str, Any]) -> str:
    description = option.get("description", "")
    parts = [str(part) for part in description] if isinstance(description, list) else [str(description)]
    if option.get("choices"):
        parts.append("One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + ".")
    return _markdown(" ".join(parts))


def _rows(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        label = f"{prefix}{name}"
        cells = (f"`{label}`", _type(option), _default(option), _description(option))
        yield "| " + " | ".join(_cell(cell) for cell in cells) + " |"
        if isinstance(option.get("options"), dict):
            yield from _rows(option["options"], f"{label}[]." if option.get("type") == "list" else f"{label}.")


def table(options: Mapping[str, Any]) -> str:
    """Return the Markdown table of the options, in the order of the specification."""
    if not options:
        return "This role has no variables.\n"
    head = ["| Variable | Type | Default | Meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *_rows(options)]) + "\n"


def render(readme: str, options: Mapping[str, Any]) -> str:
    """Return the README's text with the table between its markers brought up to date."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ReadmeError(f"needs one line {BEGIN} and, below it, one line {END}")
    head, rest = readme.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n\n{table(options)}\n{END}{tail}"


def outdated(role: Path) -> tuple[str, str] | None:
    """Return the README's present and right text when they differ."""
    path = role / "README.md"
    try:
        present = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ReadmeError(f"{path}: missing") from error
    try:
        right = render(present, load_options(role))
    except ReadmeError as error:
        raise ReadmeError(str(error) if str(error).startswith(str(role)) else f"{path}: {error}") from error
    return None if present == right else (present, right)


def main(arguments: list[str] | None = None) -> int:
    """Write or check the tables; the exit status is 1 when something was wrong."""
    parser = argparse.ArgumentParser(description="Write the variable table of every role's README.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a table is out of date")
    parser.add_argument("roles", nargs="*", type=Path, metavar="ROLE_DIR")
    options = parser.parse_args(arguments)
    root = Path(__file__).resolve().parents[1]
    failed = False
    for role in options.roles or sorted(path for path in (root / "roles").glob("*") if path.is_dir()):
        try:
            difference = outdated(role)
        except ReadmeError as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        if difference is None:
            continue
        if options.check:
            print(f"{role / 'README.md'}: the table is out of date; run tools/role_readme.py", file=sys.stderr)
            failed = True
        else:
            (role / "README.md").write_text(difference[1], encoding="utf-8")
            print(f"wrote {role / 'README.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
