# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Each rule about roles, broken on purpose in an otherwise good role."""

from __future__ import annotations

from pathlib import Path

import check_argument_specs
import pytest
import role_readme

GOOD = {
    "defaults/main.yml": "---\nweb_port: 443\nweb_names: []\n",
    "meta/main.yml": "---\ngalaxy_info:\n  role_name: web\n",
    "meta/argument_specs.yml": """---
argument_specs:
  main:
    short_description: A web server
    options:
      web_port:
        type: int
        default: 443
        description: TCP port, the default of HTTPS.
      web_names:
        type: list
        elements: str
        default: []
        description: Names that the server answers to.
""",
    "README.md": f"# web\n\n{role_readme.BEGIN}\n{role_readme.END}\n",
    "tasks/main.yml": "---\n- name: Configure\n  ansible.builtin.import_tasks: configure.yml\n",
    "tasks/configure.yml": """---
- name: Write the configuration
  ansible.builtin.template:
    src: etc/web.conf
    dest: /etc/web.conf
    mode: "0644"
  when: web_port | int > 0
""",
    "templates/etc/web.conf": """{% for name in web_names %}
server {{ name }} {{ ansible_facts['fqdn'] }};
{% endfor %}
""",
    "vars/main.yml": "---\n__web_folder: /etc/web\n",
}


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A role that breaks no rule, beside another role named database."""
    for name, text in GOOD.items():
        path = tmp_path / "web" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "database").mkdir()
    assert role_readme.main([str(tmp_path / "web")]) == 0
    return tmp_path / "web"


def findings(role: Path) -> list[str]:
    """What the check says, with paths relative to the role."""
    return [
        str(finding).replace(f"{role}/", "") for finding in check_argument_specs.check_role(role, ["database", "web"])
    ]


def change(role: Path, name: str, old: str, new: str) -> None:
    """Replace a text in one of the role's files; the text must be there."""
    path = role / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_good_role(role: Path) -> None:
    assert findings(role) == []


SPEC = "meta/argument_specs.yml"
DEFAULTS = "defaults/main.yml"
TASKS = "tasks/configure.yml"
TEMPLATE = "templates/etc/web.conf"


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (
            SPEC,
            "default: 443",
            "default: 8443",
            f"{SPEC}: web_port: default 8443 differs from 443 in defaults/main.yml",
        ),
        (SPEC, "default: 443", 'default: "443"', f"{SPEC}: web_port: the default '443' is not of type int"),
        (SPEC, "default: 443", 'default: "{{ 443 }}"', f"{SPEC}: web_port: the default is a template"),
        (SPEC, "default: 443", "required: true", f"{DEFAULTS}: web_port: has a default, so `required`"),
        (SPEC, "        default: 443\n", "", f"{SPEC}: web_port: write the default of defaults/main.yml here too"),
        (SPEC, "type: int", "type: integer", f"{SPEC}: web_port: type is 'integer'"),
        (SPEC, "        elements: str\n", "", f"{SPEC}: web_names: a list needs `elements`"),
        (SPEC, "description: TCP port, the default of HTTPS.", 'description: ""', f"{SPEC}: web_port: description is"),
        (SPEC, "web_port:", "port:", f"{SPEC}: port: a public variable of this role starts with web_"),
        (SPEC, "argument_specs:", "arguments:", f"{SPEC}: no argument_specs.main"),
        (DEFAULTS, "web_port: 443\n", "", f"{DEFAULTS}: web_port: is in the specification but has no default here"),
        (DEFAULTS, "web_names: []", "web_names: []\nweb_x: 1", f"{DEFAULTS}: web_x: is not in meta/argument_specs.yml"),
        (TEMPLATE, "web_names", "[]", f"{DEFAULTS}: web_names: nothing in the role reads it"),
        ("README.md", "TCP port", "UDP port", "README.md: the variable table is out of date"),
        ("README.md", role_readme.END, "", "README.md: needs one line"),
        (
            "tasks/main.yml",
            "import_tasks: configure.yml",
            "file: {path: /x}",
            "tasks/main.yml:2: file belongs in a file",
        ),
        (TASKS, "template:", "template:\n  ignore_errors: true\n  x:", f"{TASKS}:2: ignore_errors hides what broke"),
        (TASKS, "web_port | int > 0", "llm_models | length > 0", f"{TASKS}:7: llm_models belongs to the site"),
        (TASKS, "web_port | int > 0", "database_port > 0", f"{TASKS}:7: database_port belongs to the role database"),
        (TASKS, "web_port | int > 0", "web_prot > 0", f"{TASKS}:7: web_prot is read but has no default"),
        (TASKS, "web_port | int > 0", "ansible_fqdn != ''", f"{TASKS}:7: ansible_fqdn is an injected fact"),
        (TASKS, "dest: /etc/web.conf", 'dest: "{{ __database_x }}"', f"{TASKS}:5: __database_x belongs to the role"),
        (TEMPLATE, "{{ name }}", "{{ hostvars[name].llm_address }}", f"{TEMPLATE}:2: llm_address belongs to the site"),
        (TEMPLATE, "{{ name }}", "{{ hostvars['a']['database_x'] }}", f"{TEMPLATE}:2: database_x belongs to the role"),
        (TEMPLATE, "{{ name }}", "{{ lookup('vars', 'llm_x') }}", f"{TEMPLATE}:2: llm_x belongs to the site"),
        (TEMPLATE, "{{ name }}", "{{ name", f"{TEMPLATE}: cannot be read"),
        ("vars/main.yml", "__web_folder", "web_folder", "vars/main.yml: web_folder: nobody can override vars/"),
    ],
)
def test_broken_rule(role: Path, name: str, old: str, new: str, expected: str) -> None:
    change(role, name, old, new)
    assert any(finding.startswith(expected) for finding in findings(role)), findings(role)


@pytest.mark.parametrize("missing", ["README.md", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml"])
def test_missing_file(role: Path, missing: str) -> None:
    (role / missing).unlink()
    assert f"{missing}: missing" in findings(role)


def test_long_table_of_contents(role: Path) -> None:
    with (role / "tasks" / "main.yml").open("a", encoding="utf-8") as file:
        file.write("# one more\n" * 40)
    assert findings(role) == ["tasks/main.yml: 43 lines; a table of contents has at most 40"]


def test_role_of_one_file(role: Path) -> None:
    (role / "tasks" / "main.yml").write_text((role / TASKS).read_text(encoding="utf-8"), encoding="utf-8")
    assert findings(role) == ["tasks/main.yml:2: template belongs in a file that main.yml imports"]
    (role / TASKS).unlink()
    assert findings(role) == []


@pytest.mark.parametrize("module", ["command", "shell", "set_fact"])
def test_reason(role: Path, module: str) -> None:
    """What Ansible cannot see through needs a comment directly above it, also inside a block."""
    path = role / TASKS
    task = f"    - name: Ask\n      ansible.builtin.{module}:\n        __web_x: 1\n"
    path.write_text(path.read_text(encoding="utf-8") + "- name: Together\n  block:\n" + task, encoding="utf-8")
    assert [finding.split(" needs")[0] for finding in findings(role)] == [f"{TASKS}:10: {module}"]
    change(role, TASKS, task, "    # The program has no module.\n" + task)
    assert findings(role) == []


def test_booleans_are_not_numbers(role: Path) -> None:
    change(role, DEFAULTS, "443", "true")
    change(role, SPEC, "default: 443", "default: 1")
    assert any("default 1 differs from True" in finding for finding in findings(role))


def test_nested_options(role: Path) -> None:
    change(role, SPEC, "elements: str", "elements: dict\n        options:\n          name:\n            type: text")
    assert f"{SPEC}: web_names.name: description is missing or empty" in findings(role)
    assert any(finding.startswith(f"{SPEC}: web_names.name: type is 'text'") for finding in findings(role))


def test_exit_status(role: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (role.parent / "database").rmdir()
    assert check_argument_specs.main([str(role.parent)]) == 0
    change(role, DEFAULTS, "443", "80")
    assert check_argument_specs.main([str(role.parent)]) == 1
    assert "web_port" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("playbooks/site.yml", "- hosts: all\n  roles:\n    - role: web\n      vars: {web_prot: 1, web_port: 2}\n", 4),
        ("inventories/demo/group_vars/all/web.yml", "web_port: 2\nweb_prot: 1\n", 2),
        ("inventories/demo/hosts.yml", "all: {children: {web_hosts: {hosts: {web_1: {\nweb_prot: 1}}}}}\n", 2),
    ],
)
def test_caller_misspells(
    role: Path, tmp_path: Path, name: str, text: str, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    roles = tmp_path / "roles"
    roles.mkdir()
    role.rename(roles / "web")
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert check_argument_specs.main([str(roles)]) == 1
    assert capsys.readouterr().out.splitlines()[:-1] == [
        f"{path}:{expected}: web_prot: the role web has no such variable"
    ]


def test_no_roles_is_not_success(tmp_path: Path) -> None:
    assert check_argument_specs.main([str(tmp_path)]) == 1
