# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Package sets of apt: versions, plans and refusals, against a small apt of our own.

That the real apt answers like this is shown in molecule/toolkit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import package_set
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import compare_versions
from ansible_collections.baremetal.llm.plugins.module_utils.package_set import (
    Plan,
    Refusal,
    Request,
    carry_out,
    make_plan,
    matching_version,
    newest_first,
    parse_installed,
    parse_offers,
    parse_simulation,
)

TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)


@dataclass
class Answer:
    code: int = 0
    stdout: str = ""
    stderr: str = ""


@dataclass
class FakeApt:
    """A host whose apt takes what is named, else the newest, as the real one does; it knows `=` and `>=` relations."""

    # name -> version -> relations such as "other (= 1.0-1)"
    archive: dict[str, dict[str, list[str]]]
    installed: dict[str, str] = field(default_factory=dict)
    holds: set[str] = field(default_factory=set)
    # What apt's lists have; empty until they are fetched if `stale`.
    stale: bool = False
    removes: dict[str, list[str]] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    keeps_nothing: bool = False

    def run(self, argv: Sequence[str], timeout_seconds: float = 10) -> Answer:
        command = " ".join(argv)
        self.commands.append(command)
        if argv[0] == "dpkg-query":
            lines = [
                f"{name}\t{version}\t{'hold' if name in self.holds else 'install'}\tinstalled"
                for name, version in self.installed.items()
            ]
            return Answer(stdout="\n".join([*lines, "old\t1.0\tdeinstall\tconfig-files"]) + "\n")
        if argv[0] == "apt-cache":
            if self.stale and "Dir::State::Lists" not in command:
                return Answer()
            names = [name for name in argv if name in self.archive]
            return Answer(
                stdout="".join(
                    f" {name} | {version} | file:/srv/x  Packages\n" for name in names for version in self.archive[name]
                )
            )
        if argv[0] == "apt-mark":
            self.holds.update(argv[2:])
            return Answer()
        if "update" in argv:
            if "Dir::State::Lists" not in command:
                self.stale = False
            return Answer()
        return self._install([name for name in argv if re.fullmatch(r"[a-z0-9.+-]+=\d\S*", name)], "--simulate" in argv)

    def _install(self, specifications: Sequence[str], simulate: bool) -> Answer:
        named = dict(each.split("=", 1) for each in specifications)
        chosen: dict[str, str] = {}

        def take(name: str, version: str) -> str | None:
            if chosen.get(name, version) != version or version not in self.archive.get(name, {}):
                return f" {name} : Depends: version {version} but {chosen.get(name)} is to be installed"
            if name in chosen:
                return None
            chosen[name] = version
            for relation in self.archive[name][version]:
                match = re.fullmatch(r"(\S+) \((=|>=) (\S+)\)", relation)
                if match is None:
                    raise ValueError(relation)
                have = named.get(match[1]) or self.installed.get(match[1])
                enough = have and (have == match[3] if match[2] == "=" else compare_versions(have, match[3]) >= 0)
                best = have if enough else newest_first(self.archive[match[1]])[0]
                if match[2] == "=" and best != match[3]:
                    return f" {name} : Depends: {relation} but {best} is to be installed"
                problem = take(match[1], str(best))
                if problem:
                    return problem
            return None

        for name, version in named.items():
            problem = take(name, version)
            if problem:
                return Answer(100, problem, "E: Unable to correct problems, you have held broken packages.\n")
        lines = [f"Remv {gone} [1.0]" for name in chosen for gone in self.removes.get(name, [])]
        moving = {name: version for name, version in chosen.items() if self.installed.get(name) != version}
        lines += [f"Inst {name} ({version} STAND-IN:stand-in [amd64])" for name, version in moving.items()]
        if not simulate and not self.keeps_nothing:
            self.installed.update(moving)
            self.holds -= set(moving)
        return Answer(stdout="\n".join(lines) + "\n")


def toolkit_archive() -> dict[str, dict[str, list[str]]]:
    versions = ["1.19.1-1", "1.20.0-1", "1.20.1-1"]
    return {
        TOOLKIT[0]: {v: [f"{TOOLKIT[1]} (= {v})", f"{TOOLKIT[2]} (= {v})"] for v in versions},
        TOOLKIT[1]: {v: [] for v in versions},
        TOOLKIT[2]: {v: [f"{TOOLKIT[3]} (= {v})"] for v in versions},
        TOOLKIT[3]: {v: [] for v in versions},
    }


def cuda_archive() -> dict[str, dict[str, list[str]]]:
    return {
        "cuda-toolkit-13-3": {v: [f"cuda-compiler-13-3 (>= {v})"] for v in ("13.3.0-1", "13.3.1-1")},
        "cuda-compiler-13-3": {v: ["cuda-nvcc-13-3 (>= 13.3)"] for v in ("13.3.0-1", "13.3.1-1")},
        "cuda-nvcc-13-3": {v: [] for v in ("13.3.33-1", "13.3.73-1")},
    }


def run(request: Request, host: FakeApt, check_mode: bool = False) -> Plan:
    plan = make_plan(request, host, check_mode)
    if plan.changed and not check_mode:
        carry_out(request, plan, host)
    return plan


# What `dpkg --compare-versions` says of these was tried.
@pytest.mark.parametrize(
    "ordered",
    [
        ["1.0~rc1-1", "1.0-1", "1.0-2", "1.0.1-1", "1.9-1", "1.10-1", "1:0.1-1"],
        ["1.20.0~rc.1-1", "1.20.0-1", "1.20.0-1+b1", "1.20.0-1.1"],
        [
            "580.159.04-1",
            "580.178.04-0ubuntu0.22.04.1",
            "580.178.04-0ubuntu0.24.04.1",
            "580.178.04-1",
            "580.178.04-1ubuntu1",
        ],
        ["6.8.0-136.136", "6.8.0-136.136+1", "6.8.0-139.139"],
        ["1.0", "1.0a", "1.0+b"],
        ["0.9", "1-0", "1-1"],
    ],
)
def test_versions_are_ordered_as_dpkg_orders_them(ordered: list[str]) -> None:
    assert newest_first(ordered) == ordered[::-1]
    for left, right in zip(ordered, ordered[1:]):
        assert compare_versions(left, right) < 0 < compare_versions(right, left)
        assert compare_versions(left, left) == 0
    assert compare_versions("1.0", "1.00") == compare_versions("0:1", "1") == compare_versions("1", "1-0") == 0


def test_a_version_names_itself_or_its_newest_revision() -> None:
    offered = ["1.20.0-1", "1.20.0-2", "1.20.01-1", "1:1.19.1-1"]
    assert matching_version("1.20.0", offered) == "1.20.0-2"
    assert matching_version("1.20.0-1", offered) == "1.20.0-1"
    assert matching_version("1.19.1", offered) == "1:1.19.1-1"
    assert matching_version("1.20", offered) == ""


def test_parsers_read_what_apt_and_dpkg_write() -> None:
    madison = (
        "nvidia-ctk | 1.19.1-1 | https://mirror.example/deb/amd64  Packages\n"
        "nvidia-ctk | 1.20.0-1 | https://mirror.example/deb/amd64  Packages\n"
        "nvidia-ctk | 1.20.0-1 | https://other.example Sources\n"
        "N: Unable to locate package none\n"
    )
    assert parse_offers(madison) == {"nvidia-ctk": ["1.20.0-1", "1.19.1-1"]}
    found = parse_installed(
        "a\t1-1\thold\tinstalled\nb\t2-1\tinstall\tinstalled\nc\t3\tdeinstall\tconfig-files\nd\t4\thold\thalf-configured\n"
    )
    assert {name: (state.version, state.held) for name, state in found.items()} == {
        "a": ("1-1", True),
        "b": ("2-1", False),
    }
    simulation = parse_simulation(
        "NOTE: This is only a simulation!\n"
        "Remv old [1.0-1]\n"
        "Remv again [1.0-1] [other:amd64 ]\n"
        "Inst again [1.0-1] (2.0-1 Origin, with words:stable [amd64]) []\n"
        "Inst new (1:3.0-1 Debian:12.1/oldstable [all])\n"
        "Purg gone [1]\n"
        "Conf new (1:3.0-1 Debian:12.1/oldstable [all])\n"
    )
    assert simulation.install == {"again": "2.0-1", "new": "1:3.0-1"}
    assert simulation.remove == ("old", "gone")


def test_a_set_is_installed_at_one_version_and_held_and_a_second_run_does_nothing() -> None:
    host = FakeApt(toolkit_archive())
    request = Request(TOOLKIT, "1.20.0")
    plan = run(request, host)
    assert sorted(plan.install) == sorted(f"{name}=1.20.0-1" for name in TOOLKIT)
    assert host.installed == dict.fromkeys(TOOLKIT, "1.20.0-1")
    assert host.holds == set(TOOLKIT)
    host.commands.clear()
    assert not run(request, host).changed
    assert not [
        command for command in host.commands if "install" in command or "mark" in command or "update" in command
    ]


@pytest.mark.parametrize("version", ["1.20.1", "1.19.1-1"])
def test_a_set_moves_up_and_down_in_one_transaction_although_it_is_held(version: str) -> None:
    host = FakeApt(toolkit_archive(), dict.fromkeys(TOOLKIT, "1.20.0-1"), set(TOOLKIT))
    run(Request(TOOLKIT, version), host)
    assert set(host.installed.values()) == {matching_version(version, toolkit_archive()[TOOLKIT[0]])}
    assert host.holds == set(TOOLKIT)
    installs = [each for each in host.commands if "--simulate" not in each and " install " in each]
    assert len(installs) == 1
    assert "--allow-downgrades --allow-change-held-packages" in installs[0]
    assert "NEEDRESTART_SUSPEND=1" in installs[0]


def test_a_missing_hold_is_a_change_and_nothing_else_is_done() -> None:
    host = FakeApt(toolkit_archive(), dict.fromkeys(TOOLKIT, "1.20.0-1"), set(TOOLKIT[1:]))
    plan = run(Request(TOOLKIT, "1.20.0"), host)
    assert (plan.changed, plan.install, plan.hold) == (True, (), TOOLKIT[:1])


def test_half_a_set_is_completed() -> None:
    host = FakeApt(toolkit_archive(), {TOOLKIT[1]: "1.20.1-1"})
    run(Request(TOOLKIT, "1.20.0"), host)
    assert host.installed == dict.fromkeys(TOOLKIT, "1.20.0-1")


def test_an_installed_version_that_the_source_dropped_stays() -> None:
    archive = toolkit_archive()
    for versions in archive.values():
        del versions["1.20.0-1"]
    host = FakeApt(archive, dict.fromkeys(TOOLKIT, "1.20.0-1"), set(TOOLKIT))
    assert not run(Request(TOOLKIT, "1.20.0"), host).changed


def test_an_unknown_version_is_refused_and_what_there_is_is_named() -> None:
    host = FakeApt(toolkit_archive())
    with pytest.raises(Refusal) as refused:
        run(Request(TOOLKIT, "1.20.9", setting="container_toolkit_version"), host)
    assert "version 1.20.9 (container_toolkit_version)" in str(refused.value)
    assert "They have them in 1.20.1-1, 1.20.0-1, 1.19.1-1." in str(refused.value)
    assert not host.installed


def test_a_set_that_the_source_has_in_part_is_refused_by_name() -> None:
    archive = toolkit_archive()
    del archive[TOOLKIT[3]]["1.20.0-1"]
    del archive[TOOLKIT[2]]
    with pytest.raises(Refusal) as refused:
        run(Request(TOOLKIT, "1.20.0"), FakeApt(archive))
    assert f"of {TOOLKIT[2]}, {TOOLKIT[3]}. " in str(refused.value)
    assert f"{TOOLKIT[2]} in no version; {TOOLKIT[3]} in 1.20.1-1, 1.19.1-1" in str(refused.value)


def test_lists_are_fetched_only_when_something_moves_and_only_those_of_the_source() -> None:
    host = FakeApt(toolkit_archive(), stale=True)
    for _run in range(2):
        run(Request(TOOLKIT, "1.20.0", source_file="/etc/apt/sources.list.d/x.sources"), host)
    updates = [command for command in host.commands if command.endswith(" update")]
    assert len(updates) == 1
    assert "Dir::Etc::sourcelist=/etc/apt/sources.list.d/x.sources" in updates[0]
    assert "APT::Update::Error-Mode=any" in updates[0]
    assert host.installed


def test_check_mode_changes_nothing_and_says_the_same() -> None:
    host = FakeApt(toolkit_archive(), dict.fromkeys(TOOLKIT, "1.20.0-1"), set(TOOLKIT))
    planned = run(Request(TOOLKIT, "1.19.1"), host, check_mode=True)
    assert host.installed == dict.fromkeys(TOOLKIT, "1.20.0-1")
    done = run(Request(TOOLKIT, "1.19.1"), host)
    assert (planned.install, planned.hold, planned.versions) == (done.install, done.hold, done.versions)


def test_check_mode_looks_into_stale_lists_beside_the_host() -> None:
    host = FakeApt(toolkit_archive(), stale=True)
    plan = run(Request(TOOLKIT, "1.20.0"), host, check_mode=True)
    assert plan.changed
    assert plan.unknown
    assert set(plan.versions.values()) == {"1.20.0-1"}
    assert host.stale
    with pytest.raises(Refusal, match=r"They have them in 1\.20\.1-1"):
        run(Request(TOOLKIT, "9"), host, check_mode=True)


def test_check_mode_on_a_host_without_the_source_says_what_it_cannot_know() -> None:
    host = FakeApt({})
    plan = run(Request(TOOLKIT, "1.20.0", source_pending=True), host, check_mode=True)
    assert (plan.changed, plan.versions) == (True, dict.fromkeys(TOOLKIT, "1.20.0"))
    assert "does not know the source yet" in plan.unknown
    with pytest.raises(Refusal, match="no version"):
        run(Request(TOOLKIT, "1.20.0", source_pending=True), host)


def test_meta_packages_that_ask_for_at_least_a_version_bring_that_version() -> None:
    host = FakeApt(cuda_archive())
    run(Request(("cuda-toolkit-13-3",), "13.3.0", companions=("*-13-3",)), host)
    assert host.installed == {
        "cuda-toolkit-13-3": "13.3.0-1",
        "cuda-compiler-13-3": "13.3.0-1",
        # Has versions of its own: the newest.
        "cuda-nvcc-13-3": "13.3.73-1",
    }
    assert host.holds == set(host.installed)


def test_companions_that_somebody_moved_come_back_and_those_without_a_hold_get_one() -> None:
    installed = {"cuda-toolkit-13-3": "13.3.0-1", "cuda-compiler-13-3": "13.3.1-1", "cuda-nvcc-13-3": "13.3.73-1"}
    host = FakeApt(cuda_archive(), installed, {"cuda-toolkit-13-3"})
    request = Request(("cuda-toolkit-13-3",), "13.3.0", companions=("*-13-3",))
    run(request, host)
    assert host.installed["cuda-compiler-13-3"] == "13.3.0-1"
    assert host.holds == set(host.installed)
    assert not run(request, host).changed


def test_nothing_foreign_is_removed() -> None:
    host = FakeApt(toolkit_archive(), {"nvidia-docker2": "1.0"}, removes={TOOLKIT[1]: ["nvidia-docker2"]})
    with pytest.raises(Refusal, match="apt would remove nvidia-docker2"):
        run(Request(TOOLKIT, "1.20.0"), host)
    assert TOOLKIT[0] not in host.installed


def test_nothing_that_somebody_else_holds_is_changed() -> None:
    archive = {"a": {"1.0-1": ["b (= 2.0-1)"]}, "b": {"1.0-1": [], "2.0-1": []}}
    host = FakeApt(archive, {"b": "1.0-1"}, {"b"})
    with pytest.raises(Refusal, match="apt would change b, which somebody holds"):
        run(Request(("a",), "1.0"), host)
    assert host.installed == {"b": "1.0-1"}


def test_what_apt_cannot_resolve_is_refused_with_its_reason() -> None:
    host = FakeApt({"a": {"1.0-1": ["b (= 3.0-1)"]}, "b": {"2.0-1": []}})
    with pytest.raises(Refusal, match=r"no way to install a=1\.0-1: a : Depends: b \(= 3\.0-1\)"):
        run(Request(("a",), "1.0"), host)


def test_an_installation_that_did_not_come_out_right_is_no_success() -> None:
    host = FakeApt(toolkit_archive(), keeps_nothing=True)
    with pytest.raises(Refusal, match="nvidia-container-toolkit is absent"):
        run(Request(TOOLKIT, "1.20.0"), host)


def test_a_host_without_dpkg_is_told_so() -> None:
    class Bare:
        def run(self, argv: Sequence[str], timeout_seconds: float = 10) -> Answer:
            return Answer(127)

    with pytest.raises(Refusal, match="no dpkg"):
        make_plan(Request(("a",), "1"), Bare(), False)


def test_apt_that_changes_its_mind_forever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_set, "_MOST_ROUNDS", 1)
    with pytest.raises(Refusal, match="does not come to rest"):
        run(Request(("cuda-toolkit-13-3",), "13.3.0", companions=("*-13-3",)), FakeApt(cuda_archive()))
