#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Check what every role promises: its variables, its borders and the shape of its tasks.

    tools/check_argument_specs.py [ROLES_DIR]     default: roles/ of the checkout

A variable exists three times, in the defaults, the argument specification and the README, and the three agree. A role
reads no variable of a site (`llm_...`) and none of another role, so that each can be used alone. `tasks/main.yml` is a
table of contents. What Ansible cannot make idempotent by itself (`command`, `shell`, ...) says why it is there.

Every finding is one line: path, line where there is one, what is wrong and what to do.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import jinja2
import jinja2.nodes
import role_readme
import yaml

Node = Union[yaml.MappingNode, yaml.SequenceNode, yaml.ScalarNode]

LONGEST_CONTENTS = 40
# What a table of contents may be made of.
CONTENTS_MODULES = frozenset({"import_tasks", "include_tasks", "import_role", "include_role", "assert", "meta"})
# Modules that need a sentence on why nothing better serves.
EXPLAINED_MODULES = frozenset({"command", "shell", "raw", "script", "set_fact", "expect"})
# Keys whose value is an expression without braces.
EXPRESSION_KEYS = frozenset({"when", "changed_when", "failed_when", "until", "that"})
# Keys of a block, each with tasks below it.
TASK_KEYS = frozenset({"block", "rescue", "always"})
# Variables that Ansible itself provides; every other `ansible_...` is an injected fact.
MAGIC_VARIABLES = frozenset(
    f"ansible_{name}"
    for name in """
        become_user check_mode collection_name config_file connection dependent_role_names diff_mode facts failed_result
        failed_task forks host index_var inventory_sources limit local loop loop_var parent_role_names
        parent_role_paths password play_batch play_hosts play_hosts_all play_name play_role_names playbook_python port
        python_interpreter role_name role_names run_tags search_path skip_tags user verbosity version
    """.split()  # noqa: SIM905 - forty names in quotes are harder to read and to sort
)
SPEC_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "dict": (dict,),
    "float": (int, float),
    "int": (int,),
    "list": (list,),
    "path": (str,),
    "raw": (object,),
    "str": (str,),
}
SITE_PREFIX = "llm_"


@dataclass(frozen=True)
class Finding:
    """One broken promise, with the place where it is broken."""

    path: Path
    message: str
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.message}"


@dataclass
class Reads:
    """Variable names read by a role, each with the places."""

    names: dict[str, list[tuple[Path, int]]] = field(default_factory=dict)

    def add(self, name: str, path: Path, line: int) -> None:
        """Remember that the name is read there."""
        self.names.setdefault(name, []).append((path, line))


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


class _Loader(yaml.SafeLoader):
    """A loader that takes Ansible's own tags for what they hold."""


def _compose(path: Path) -> Node | None:
    loader = _Loader(path.read_text(encoding="utf-8"))
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    return node if isinstance(node, (yaml.MappingNode, yaml.SequenceNode, yaml.ScalarNode)) else None


# ---------------------------------------------------------------------------------------------------------------------
# Variables: defaults, specification, README
# ---------------------------------------------------------------------------------------------------------------------


def _templated(value: Any) -> bool:
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(_templated(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(_templated(part) for part in value)


def _identical(one: Any, other: Any) -> bool:
    """Whether two values are the same in type too: True is not 1, and 1 is not "1"."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_identical(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_identical, one, other))
    return bool(one == other)


def _check_option(label: str, option: Any) -> Iterator[str]:
    if not isinstance(option, dict):
        yield f"{label}: the specification is not a mapping"
        return
    description = option.get("description")
    sentences = description if isinstance(description, list) else [description]
    if not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences):
        yield f"{label}: description is missing or empty"
    kind = option.get("type")
    if kind not in SPEC_TYPES:
        yield f"{label}: type is {kind!r}; write one of {', '.join(sorted(SPEC_TYPES))}"
        return
    if kind == "list" and "elements" not in option:
        yield f"{label}: a list needs `elements`"
    if "default" in option:
        default = option["default"]
        if _templated(default):
            yield f"{label}: the default is a template; a specification is read before facts, write a literal"
        elif not isinstance(default, SPEC_TYPES[kind]) or (kind in ("int", "float") and isinstance(default, bool)):
            yield f"{label}: the default {default!r} is not of type {kind}"
        elif "choices" in option and default not in option["choices"]:
            yield f"{label}: the default {default!r} is none of the choices"
        if option.get("required"):
            yield f"{label}: required and a default contradict each other"
    for name, inner in (option.get("options") or {}).items():
        yield from _check_option(f"{label}.{name}", inner)


def check_variables(role: Path) -> Iterator[Finding]:
    """Compare the role's defaults with its argument specification."""
    specification_path = role / "meta" / "argument_specs.yml"
    try:
        options = role_readme.load_options(role)
    except role_readme.ReadmeError as error:
        yield Finding(specification_path, str(error).removeprefix(f"{specification_path}: "))
        return
    defaults_path = role / "defaults" / "main.yml"
    defaults = (_load(defaults_path) if defaults_path.exists() else None) or {}
    for name, option in options.items():
        if not str(name).startswith(f"{role.name}_"):
            yield Finding(specification_path, f"{name}: a public variable of this role starts with {role.name}_")
        for message in _check_option(str(name), option):
            yield Finding(specification_path, message)
        if not isinstance(option, dict):
            continue
        if option.get("required"):
            if name in defaults:
                yield Finding(defaults_path, f"{name}: has a default, so `required` in the specification never asks")
        elif name not in defaults:
            yield Finding(defaults_path, f"{name}: is in the specification but has no default here")
        elif "default" not in option:
            yield Finding(specification_path, f"{name}: write the default of defaults/main.yml here too")
        elif not _identical(option["default"], defaults[name]):
            yield Finding(
                specification_path,
                f"{name}: default {option['default']!r} differs from {defaults[name]!r} in defaults/main.yml",
            )
    for name in defaults:
        if name not in options:
            yield Finding(defaults_path, f"{name}: is not in meta/argument_specs.yml")


def check_readme(role: Path) -> Iterator[Finding]:
    """Say when the README's table is not the specification's."""
    path = role / "README.md"
    try:
        difference = role_readme.outdated(role)
    except role_readme.ReadmeError as error:
        if "argument_specs" not in str(error):  # that one is reported with the variables
            yield Finding(path, str(error).removeprefix(f"{path}: "))
        return
    if difference is not None:
        yield Finding(path, "the variable table is out of date; run tools/role_readme.py")


# ---------------------------------------------------------------------------------------------------------------------
# Tasks: the table of contents, reasons, forbidden keys
# ---------------------------------------------------------------------------------------------------------------------


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[str, Node]]:
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            yield key.value, value


def _keys(node: yaml.MappingNode) -> list[str]:
    return [pair[0] for pair in _pairs(node)]


def _tasks(node: Node | None) -> Iterator[yaml.MappingNode]:
    """Yield every task of a task file, those inside blocks too."""
    if not isinstance(node, yaml.SequenceNode):
        return
    for task in node.value:
        if isinstance(task, yaml.MappingNode):
            yield task
            for key, value in _pairs(task):
                if key in TASK_KEYS:
                    yield from _tasks(value)


def _module(task: yaml.MappingNode) -> str:
    """Return the short name of the module that the task calls, or nothing for a block."""
    keys = _keys(task)
    if TASK_KEYS.intersection(keys):
        return ""
    for key in keys:
        if key.count(".") >= 2:
            return key.rsplit(".", 1)[1] if key.startswith(("ansible.builtin.", "ansible.legacy.")) else key
    return next((key for key in keys if key in EXPLAINED_MODULES or key in CONTENTS_MODULES), "?")


def _explained(lines: list[str], task: yaml.MappingNode) -> bool:
    """Whether a comment stands directly above the task or inside it."""
    first = task.start_mark.line
    if first and lines[first - 1].lstrip().startswith("#"):
        return True
    return any(line.lstrip().startswith("#") for line in lines[first : task.end_mark.line])


def check_tasks(role: Path) -> Iterator[Finding]:
    """Check the shape of the role's task and handler files."""
    contents = role / "tasks" / "main.yml"
    if not contents.exists():
        yield Finding(contents, "missing")
    else:
        length = len(contents.read_text(encoding="utf-8").splitlines())
        if length > LONGEST_CONTENTS:
            yield Finding(contents, f"{length} lines; a table of contents has at most {LONGEST_CONTENTS}")
        # A role that fits into one file needs no table of contents.
        listed = _tasks(_compose(contents)) if len(list(_yaml_files(role, "tasks"))) > 1 else ()
        for task in listed:
            module = _module(task)
            if module and module not in CONTENTS_MODULES:
                yield Finding(contents, f"{module} belongs in a file that main.yml imports", task.start_mark.line + 1)
    for path in _yaml_files(role, "tasks", "handlers"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for task in _tasks(_compose(path)):
            line = task.start_mark.line + 1
            if "ignore_errors" in _keys(task):
                yield Finding(path, "ignore_errors hides what broke; use failed_when with the one case meant", line)
            module = _module(task)
            if module in EXPLAINED_MODULES and not _explained(lines, task):
                yield Finding(path, f"{module} needs a comment above it that says why nothing else serves", line)


# ---------------------------------------------------------------------------------------------------------------------
# Borders: which variables a role reads
# ---------------------------------------------------------------------------------------------------------------------


def _yaml_files(role: Path, *folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((role / folder).rglob("*.yml"))


def _environment() -> jinja2.Environment:
    return jinja2.Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])


def _template_names(source: str) -> Iterator[tuple[str, int]]:
    """Yield every variable that a template reads, with its line in the template."""
    tree = _environment().parse(source)
    for name in tree.find_all(jinja2.nodes.Name):
        if name.ctx == "load":
            yield name.name, name.lineno
    # hostvars[host].name, hostvars[host]['name'], vars['name'] and lookup('vars', 'name') read a variable as well.
    for attribute in tree.find_all(jinja2.nodes.Getattr):
        if _reaches_variables(attribute.node):
            yield attribute.attr, attribute.lineno
    for item in tree.find_all(jinja2.nodes.Getitem):
        if isinstance(item.arg, jinja2.nodes.Const) and _reaches_variables(item.node):
            yield str(item.arg.value), item.lineno
    for call in tree.find_all(jinja2.nodes.Call):
        constants = [argument.value for argument in call.args if isinstance(argument, jinja2.nodes.Const)]
        if (
            isinstance(call.node, jinja2.nodes.Name)
            and call.node.name in ("lookup", "q", "query")
            and constants[:1] in (["vars"], ["ansible.builtin.vars"])
        ):
            for constant in constants[1:]:
                yield str(constant), call.lineno


def _reaches_variables(node: jinja2.nodes.Node) -> bool:
    if isinstance(node, jinja2.nodes.Name):
        return node.name in ("hostvars", "vars")
    if isinstance(node, (jinja2.nodes.Getattr, jinja2.nodes.Getitem)):
        return isinstance(node.node, jinja2.nodes.Name) and node.node.name == "hostvars"
    return False


def _expression_names(node: Node) -> Iterator[tuple[str, int]]:
    scalars = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for scalar in scalars:
        if isinstance(scalar, yaml.ScalarNode):
            source = scalar.value if "{{" in scalar.value else "{{ " + scalar.value + " }}"
            for name, line in _template_names(source):
                yield name, scalar.start_mark.line + line


def _yaml_names(node: Node | None, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield every variable that a YAML file reads, with its line, and every one that it sets for others."""
    if isinstance(node, yaml.MappingNode):
        for name, value in _pairs(node):
            if key == "vars" or key.endswith("set_fact"):
                yield name, value.start_mark.line + 1
            if name in EXPRESSION_KEYS or (name == "var" and key.endswith("debug")):
                yield from _expression_names(value)
            else:
                yield from _yaml_names(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _yaml_names(value)
    elif isinstance(node, yaml.ScalarNode) and ("{{" in node.value or "{%" in node.value):
        for name, line in _template_names(node.value):
            yield name, node.start_mark.line + line


def role_reads(role: Path) -> tuple[Reads, list[Finding]]:
    """Return the variables that the role reads, and the files that could not be understood."""
    reads, broken = Reads(), []
    for path in _yaml_files(role, "tasks", "handlers", "vars", "defaults"):
        try:
            for name, line in _yaml_names(_compose(path)):
                reads.add(name, path, line)
        except (yaml.YAMLError, jinja2.TemplateSyntaxError) as error:
            broken.append(Finding(path, f"cannot be read: {error}"))
    for path in sorted((role / "templates").rglob("*")):
        if path.is_file():
            try:
                for name, line in _template_names(path.read_text(encoding="utf-8")):
                    reads.add(name, path, line)
            except (UnicodeDecodeError, jinja2.TemplateSyntaxError) as error:
                broken.append(Finding(path, f"cannot be read: {error}"))
    return reads, broken


def _owner(name: str, roles: Iterable[str]) -> str:
    """Return the role whose prefix the name carries: the longest that fits."""
    bare = name[2:] if name.startswith("__") else name
    return max((role for role in roles if bare.startswith(f"{role}_")), key=len, default="")


def check_borders(role: Path, roles: Iterable[str]) -> Iterator[Finding]:
    """Check that the role reads only its own variables, facts by their one name, and every default it has."""
    roles = list(roles)
    reads, broken = role_reads(role)
    yield from broken
    defaults_path = role / "defaults" / "main.yml"
    defaults = (_load(defaults_path) if defaults_path.exists() else None) or {}
    try:
        known = {*defaults, *role_readme.load_options(role)}
    except role_readme.ReadmeError:
        known = set(defaults)
    for name, places in sorted(reads.names.items()):
        path, line = places[0]
        owner = _owner(name, roles)
        if name.startswith(SITE_PREFIX):
            yield Finding(path, f"{name} belongs to the site; the playbook hands it over as {role.name}_...", line)
        elif owner and owner != role.name:
            yield Finding(path, f"{name} belongs to the role {owner}; take a variable of your own", line)
        elif name.startswith("ansible_") and name not in MAGIC_VARIABLES:
            yield Finding(path, f"{name} is an injected fact; read ansible_facts[{name[8:]!r}]", line)
        elif owner == role.name and not name.startswith("__") and name not in known:
            yield Finding(path, f"{name} is read but has no default and no specification", line)
    for name in defaults:
        if name not in reads.names:
            yield Finding(defaults_path, f"{name}: nothing in the role reads it")
    for path in _yaml_files(role, "vars"):
        for name in _load(path) or {}:
            if not str(name).startswith(f"__{role.name}_"):
                yield Finding(
                    path, f"{name}: nobody can override vars/; call it __{role.name}_... or move it to defaults"
                )


# ---------------------------------------------------------------------------------------------------------------------
# Callers: what playbooks and inventories hand to roles
# ---------------------------------------------------------------------------------------------------------------------


def _handed_over(node: Node | None, parent: str = "") -> Iterator[tuple[str, int]]:
    """Yield the names of variables that a playbook or an inventory sets, and other keys that no role's name begins."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            # Below these are names of groups and hosts.
            if name and parent not in ("children", "hosts"):
                yield name, key.start_mark.line + 1
            yield from _handed_over(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _handed_over(value)


def check_callers(root: Path, roles: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Find variables with a role's prefix that the role does not have: misspelt, and silently without effect."""
    files = [
        *(root / "playbooks").glob("*.yml"),
        *(root / "inventories").rglob("*.yml"),
        *(root / "molecule").rglob("*.yml"),
    ]
    for path in sorted(files):
        try:
            names = list(_handed_over(_compose(path)))
        except yaml.YAMLError as error:
            yield Finding(path, f"not YAML: {error}")
            continue
        for name, line in names:
            owner = "" if name.startswith("__") else _owner(name, roles)
            if owner and name not in roles[owner]:
                yield Finding(path, f"{name}: the role {owner} has no such variable", line)


# ---------------------------------------------------------------------------------------------------------------------


def check_role(role: Path, roles: Iterable[str]) -> list[Finding]:
    """Return everything wrong with one role."""
    findings = [
        Finding(role / name, "missing") for name in ("README.md", "meta/main.yml") if not (role / name).exists()
    ]
    for check in (check_variables, check_readme, check_tasks):
        try:
            findings.extend(finding for finding in check(role) if finding not in findings)
        except yaml.YAMLError as error:
            findings.append(Finding(role, f"not YAML: {error}"))
    with contextlib.suppress(yaml.YAMLError):  # said above
        findings.extend(check_borders(role, roles))
    return list(dict.fromkeys(findings))


def main(arguments: list[str] | None = None) -> int:
    """Check every role; the exit status is 1 when there are findings."""
    parser = argparse.ArgumentParser(description="Check what every role promises.")
    parser.add_argument("roles", nargs="?", type=Path, default=Path(__file__).resolve().parents[1] / "roles")
    options = parser.parse_args(arguments)
    roles = sorted(path for path in options.roles.glob("*") if path.is_dir())
    if not roles:
        print(f"{options.roles}: no roles found", file=sys.stderr)
        return 1
    names = [role.name for role in roles]
    findings = [finding for role in roles for finding in check_role(role, names)]
    known: dict[str, set[str]] = {}
    for role in roles:
        with contextlib.suppress(role_readme.ReadmeError):  # said above
            known[role.name] = set(role_readme.load_options(role))
    findings.extend(check_callers(options.roles.resolve().parent, known))
    for finding in findings:
        print(finding)
    print(f"{len(roles)} roles, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
