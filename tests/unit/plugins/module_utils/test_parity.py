# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement on facts that are made here. tests/unit/test_seeded_faults.py has the same faults on fake hosts."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

import gpu_fleets  # noqa: E402  (found through the path above)
from gpu_fleets import DRIVER, both, fleet, on_gpu, put  # noqa: E402

from ansible_collections.baremetal.llm.plugins.module_utils import parity  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.parity import (  # noqa: E402
    EXPLAINED_BY,
    SPREADING,
    WantedError,
    compare,
    merge_locks,
)
from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import CODES, Finding  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.parity_fleet import PINS, matches  # noqa: E402


def codes(verdict):
    return {(finding.host, finding.code) for finding in verdict.findings}


# The table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", gpu_fleets.MACHINES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_healthy_fleet(kind, count):
    hosts = fleet(kind, count)
    verdict = compare(hosts, {name: {"engines": [gpu_fleets.VLLM], "container_toolkit": True} for name in hosts})
    assert verdict.as_dict()["findings"] == []
    assert verdict.verdict == "pass"


def test_a_mixed_fleet_is_healthy():
    """Hosts of different kinds are not measured by each other."""
    hosts = {f"{kind}-{number}": gpu_fleets.machine(kind) for kind in gpu_fleets.MACHINES for number in (1, 2)}
    assert codes(compare(hosts, {})) == set()


@pytest.mark.parametrize("fault", gpu_fleets.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_gives_its_code_only(fault):
    hosts = gpu_fleets.seeded(fault)
    verdict = compare(hosts, dict.fromkeys(hosts, fault.wanted), lock=fault.lock)
    expected = fault.found_on or list(hosts)[: fault.hosts or None]
    assert codes(verdict) == {(name, fault.code) for name in expected}


def test_every_code_has_a_fault():
    assert {fault.code for fault in gpu_fleets.FAULTS} == CODES


def test_names_of_faults_differ():
    names = [fault.name for fault in gpu_fleets.FAULTS]
    assert len(names) == len(set(names)) >= 40


def test_code_and_document_agree():
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    section = text.split("\n## GPU parity\n", 1)[1].split("\n## ", 1)[0]
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)
    assert sorted(documented) == sorted(CODES)


def test_subjects_are_documented():
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert [name for name in PINS if f"`{name}`" not in text] == []


def test_an_unknown_code_cannot_be_found():
    with pytest.raises(ValueError, match="no code"):
        Finding("made-up", "error", "", "", "", "", "")


# Causes ----------------------------------------------------------------------------------------------------------


def test_causes_are_codes():
    assert CODES.issuperset(EXPLAINED_BY)
    assert CODES.issuperset(code for causes in EXPLAINED_BY.values() for code in causes)
    assert CODES.issuperset(SPREADING)
    assert [code for code, causes in EXPLAINED_BY.items() if code in causes] == []


def test_causes_are_no_circle():
    """Two findings that explain each other would both be left out."""
    for code in EXPLAINED_BY:
        seen, waiting = set(), list(EXPLAINED_BY[code])
        while waiting:
            cause = waiting.pop()
            if cause not in seen:
                seen.add(cause)
                waiting += EXPLAINED_BY.get(cause, ())
        assert code not in seen


def test_a_cause_on_another_gpu_explains_nothing():
    hosts = fleet("h100_sxm_8", 1)
    gpu_fleets.bad_memory(pending=True)(hosts["h1"])
    on_gpu(6, "ecc", "uncorrected_volatile", 2)(hosts["h1"])
    assert codes(compare(hosts, {})) == {("h1", "row-remap-pending"), ("h1", "ecc-uncorrected")}


def test_a_cause_on_another_host_explains_nothing():
    hosts = fleet("h100_sxm_8", 2)
    gpu_fleets.fabric_down(hosts["h1"])
    on_gpu(1, "fabric", "state", "not_started")(hosts["h2"])
    assert codes(compare(hosts, {})) == {("h1", "fabric-manager-down"), ("h2", "fabric-incomplete")}


def test_two_faults_are_two_findings():
    hosts = fleet("h100_sxm_8", 1)
    both(gpu_fleets.lost(5), put("cdi", 0, "driver_version", "580.95.05"), on_gpu(0, "persistence", False))(hosts["h1"])
    assert codes(compare(hosts, {})) == {("h1", code) for code in ("gpu-lost", "cdi-stale", "persistence-off")}


def test_the_same_on_several_gpus_is_one_finding():
    hosts = fleet("l40s_4", 1)
    both(on_gpu(1, "pcie", "width", 8), on_gpu(3, "pcie", "width", 8), on_gpu(2, "pcie", "width", 4))(hosts["h1"])
    found = compare(hosts, {}).findings
    assert [(item.actual, item.subject) for item in found] == [
        ("x8", "GPU 1 at 0000:2c:00.0, GPU 3 at 0000:4e:00.0"),
        ("x4", "GPU 2 at 0000:3d:00.0"),
    ]


# What a finding says ---------------------------------------------------------------------------------------------


def test_a_pending_reboot_goes_forward_or_back():
    hosts = fleet("h100_sxm_8", 1)
    gpu_fleets.upgraded(hosts["h1"])
    forward = compare(hosts, {}).findings[0]
    assert (forward.expected, forward.actual) == (gpu_fleets.NEWER, DRIVER)
    assert "reboot it" in forward.action
    back = compare(hosts, {"h1": {"pins": {"driver_version": DRIVER}}}).findings[0]
    assert (back.code, f"pin is {DRIVER}" in back.action) == ("reboot-pending", True)


@pytest.mark.parametrize("recovery,severity", [("none", "warning"), (None, "error")])
def test_an_xid_that_the_driver_is_over_with(recovery, severity):
    """The log keeps an error until the next boot, a reset mends the GPU before; an old driver says nothing of that."""
    hosts = fleet("h100_sxm_8", 1)
    both(gpu_fleets.xid(95), gpu_fleets.xid(13), on_gpu(2, "recovery_action", recovery))(hosts["h1"])
    (found,) = compare(hosts, {}).findings
    assert (found.code, found.severity, found.actual) == ("xid-hardware", severity, "Xid 95 (2x)")
    assert "reset" in found.action


def test_half_an_upgrade_names_the_odd_packages():
    hosts = fleet("h100_sxm_8", 1)
    gpu_fleets.half_upgraded(hosts["h1"])
    (found,) = compare(hosts, {}).findings
    assert (
        found.actual == f"libnvidia-compute-580-server {gpu_fleets.NEWER}, nvidia-utils-580-server {gpu_fleets.NEWER}"
    )
    assert DRIVER in found.expected


def test_a_tie_names_both_sides():
    hosts = fleet("l40s_4", 4)
    for name in ("h1", "h3"):
        gpu_fleets.driver_of(gpu_fleets.OLDER)(hosts[name])
    verdict = compare(hosts, {})
    assert codes(verdict) == {(name, "baseline-tie") for name in hosts}
    assert verdict.verdict == "fail"
    assert f"{gpu_fleets.OLDER} on h1, h3; {DRIVER} on h2, h4" in verdict.findings[0].cause
    assert verdict.as_dict()["baseline"]["driver_version"] == {"value": None, "by": "tie", "having": 2, "of": 4}


def test_who_says_what_is_right():
    hosts = fleet("l40s_4", 3)
    gpu_fleets.driver_of(gpu_fleets.OLDER)(hosts["h1"])
    lock = {"format_version": 1, "baseline": {"driver_version": {"all": gpu_fleets.OLDER}}}
    by_majority, by_lock = compare(hosts, {}), compare(hosts, {}, lock=lock)
    assert codes(by_majority) == {("h1", "driver-differs")}
    assert by_majority.findings[0].expected == f"{DRIVER} (as 2 of 3 hosts)"
    assert codes(by_lock) == {("h2", "driver-differs"), ("h3", "driver-differs")}
    assert by_lock.findings[0].expected == f"{gpu_fleets.OLDER} (the lock file)"
    pinned = compare(hosts, dict.fromkeys(hosts, {"pins": {"driver_version": DRIVER}}), lock=lock)
    assert codes(pinned) == {("h1", "driver-differs")}
    assert pinned.findings[0].expected == f"{DRIVER} (the site's pin)"
    assert [one.as_dict()["baseline"]["driver_version"]["by"] for one in (by_majority, by_lock, pinned)] == [
        "majority",
        "lock",
        "pin",
    ]


def test_a_pinned_host_has_no_vote():
    hosts = fleet("l40s_4", 3)
    for name in ("h1", "h2"):
        gpu_fleets.driver_of(gpu_fleets.OLDER)(hosts[name])
    wanted = {name: {"pins": {"driver_version": gpu_fleets.OLDER}} for name in ("h1", "h2")}
    assert codes(compare(hosts, wanted)) == set()


def test_groups_are_compared_apart():
    hosts = fleet("l40s_4", 4)
    for name in ("h1", "h2"):
        gpu_fleets.driver_of(gpu_fleets.OLDER)(hosts[name])
        hosts[name]["platform"]["kernel"] = hosts[name]["kernel_modules"][0]["kernel"] = "6.8.0-88-generic"
    groups = {name: {"group": "canary" if name in ("h1", "h2") else ""} for name in hosts}
    assert codes(compare(hosts, groups)) == set()
    assert {code for dummy, code in codes(compare(hosts, {}))} == {"baseline-tie"}


def test_a_lock_from_the_verdict_holds():
    hosts = fleet("h100_sxm_8", 3)
    lock = compare(hosts, {}).lock()
    assert codes(compare(hosts, {}, lock=lock)) == set()
    assert lock["baseline"]["gpu_count"] == {"all: NVIDIA H100 80GB HBM3": 8}
    del hosts["h1"], hosts["h2"]
    gpu_fleets.absent(3)(hosts["h3"])
    assert codes(compare(hosts, {}, lock=lock)) == {("h3", "gpu-missing")}
    assert codes(compare(hosts, {})) == set()


def test_a_new_lock_keeps_what_it_did_not_look_at():
    old = {"format_version": 1, "baseline": {"kernel": {"a": "1", "b": "1"}, "gpu_count": {"a": 8}}}
    new = {"format_version": 1, "baseline": {"kernel": {"b": "2"}}}
    assert merge_locks(old, new)["baseline"] == {"kernel": {"a": "1", "b": "2"}, "gpu_count": {"a": 8}}
    assert merge_locks({}, new) == new


@pytest.mark.parametrize(
    "subject,expected,actual,fits",
    [
        ("driver_version", "580", "580.95.05", True),
        ("driver_version", "580.9", "580.95.05", False),
        ("driver_version", 580, "580.95.05", True),
        ("kernel", "6.8.0-90", "6.8.0-90-generic", True),
        ("kernel", "6.8.0-9", "6.8.0-90-generic", False),
        ("gpu_count", "8", 8, True),
        ("gpu_count", 8, 80, False),
        ("power_limit_watts", 700, 700.0, True),
        ("ecc_enabled", True, False, False),
        ("vbios_version", "96", "96.00.BC.00.01", False),
    ],
)
def test_what_fits_a_pin(subject, expected, actual, fits):
    assert matches(subject, expected, actual) is fits


# Accepted --------------------------------------------------------------------------------------------------------


def test_accepted_findings_stay_as_notes():
    hosts = fleet("l40s_4", 1)
    both(on_gpu(1, "pcie", "width", 8), on_gpu(3, "pcie", "width", 4))(hosts["h1"])
    verdict = compare(hosts, {"h1": {"accepted": ["pcie-width-narrow:GPU 1 at 0000:2c:00.0"]}})
    assert [(item.severity, item.accepted) for item in verdict.findings] == [("error", False), ("note", True)]
    assert compare(hosts, {"h1": {"accepted": ["pcie-width-narrow"]}}).verdict == "pass"


@pytest.mark.parametrize(
    "accepted,severities",
    [
        ("GPU 1 at 0000:2c:00.0", ["error", "note"]),
        ("GPU 1 at 0000:2c:00.0, GPU 3 at 0000:4e:00.0", ["note"]),
        ("GPU 2 at 0000:3d:00.0", ["error"]),
    ],
)
def test_gpus_are_accepted_by_themselves_and_as_the_report_names_them(accepted, severities):
    hosts = fleet("l40s_4", 1)
    both(on_gpu(1, "pcie", "width", 8), on_gpu(3, "pcie", "width", 8))(hosts["h1"])
    found = compare(hosts, {"h1": {"accepted": [f"pcie-width-narrow:{accepted}"]}}).findings
    assert [item.severity for item in found] == severities


def test_an_accepted_cause_still_explains():
    hosts = fleet("h100_sxm_8", 1)
    gpu_fleets.fabric_down(hosts["h1"])
    verdict = compare(hosts, {"h1": {"accepted": ["fabric-manager-down"]}})
    assert (verdict.verdict, len(verdict.findings)) == ("pass", 1)


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted,message",
    [
        ({"pins": {"driver": "580"}}, "pins.driver is no subject (did you mean 'driver_version'?)"),
        ({"pins": {"driver_version": "newest"}}, "is no version"),
        ({"accepted": ["gpu-los:GPU 1"]}, "'gpu-los' does not exist (did you mean 'gpu-lost'?)"),
        ({"engines": [{"engine": "vllm", "version": "9.9"}]}, "0.20.0 to 0.33.0 (CUDA 13.0, +cu129 for 12.9)"),
        ({"engines": [{"engine": "vlm", "version": "0.33.0"}]}, "only of vllm"),
        ({"engines": [{"engine": "x", "version": "1", "cuda": "twelve"}]}, "is no version"),
        ({"engines": [{"engine": "x", "version": "1", "cuda": "99.0"}]}, "known are the major versions 11, 12, 13"),
        (
            {"pins": {"driver_version": "570"}, "engines": [gpu_fleets.VLLM]},
            "pins.driver_version 570 contradicts vllm 0.33.0, built for CUDA 13.0, which needs 580.65.06",
        ),
        (
            {"pins": {"driver_version": "470", "module_flavour": "open"}},
            "open modules exist from 515 on",
        ),
    ],
)
def test_senseless_wishes(wanted, message):
    hosts = fleet("l40s_4", 5)
    with pytest.raises(WantedError) as caught:
        compare(hosts, dict.fromkeys(hosts, wanted))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("h1, h2, h3 and others: ")
    assert message in caught.value.problems[0]


def test_a_branch_may_be_pinned_whose_newest_version_does():
    assert compare(fleet("l40s_4", 1), {"h1": {"pins": {"driver_version": "580"}, "engines": [gpu_fleets.VLLM]}})


def test_all_problems_at_once():
    with pytest.raises(WantedError) as caught:
        compare({}, {"a": {"pins": {"x": 1}, "accepted": ["y"]}}, lock={"format_version": 1, "baseline": {"z": {}}})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("lock", [{"format_version": 2, "baseline": {}}, {"format_version": 1}, {"a": 1}])
def test_a_lock_of_another_format(lock):
    with pytest.raises(WantedError, match="write it again"):
        compare({}, {}, lock=lock)


# Facts as they come ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change,cause",
    [
        (lambda facts: facts.pop("gpus"), "its facts are not complete: KeyError 'gpus'"),
        (lambda facts: facts.update(packages=None), "its facts are not complete: TypeError"),
        (lambda facts: facts["gpus"][3].update(ecc=None), "its facts are not complete: TypeError"),
        (lambda facts: facts.update(format_version=2), "reads format 1"),
        (lambda facts: facts.clear(), "reads format 1"),
    ],
)
def test_broken_facts_of_one_host_leave_the_others_judged(change, cause):
    hosts = fleet("h100_sxm_8", 3)
    change(hosts["h1"])
    gpu_fleets.fabric_down(hosts["h2"])
    verdict = compare(hosts, {})
    assert codes(verdict) == {("h1", "host-without-answer"), ("h2", "fabric-manager-down")}
    assert cause in verdict.findings[0].cause
    assert verdict.hosts["h1"] == {"verdict": "fail"}


def test_nothing_is_changed():
    hosts = fleet("b200_8", 2)
    gpu_fleets.upgraded(hosts["h1"])
    before = copy.deepcopy(hosts)
    compare(hosts, {})
    assert hosts == before


def test_hosts_in_which_everything_is_unknown():
    """What no driver says is no fault of its own, and breaks nothing."""

    hosts = fleet("t4_1", 2)
    for facts in hosts.values():
        for gpu in facts["gpus"]:
            for key in list(gpu):
                if key not in ("index", "uuid", "pci_address", "name"):
                    if isinstance(gpu[key], dict):
                        gpu[key] = {part: [] if isinstance(value, list) else None for part, value in gpu[key].items()}
                    elif isinstance(gpu[key], list):
                        gpu[key] = []
                    else:
                        gpu[key] = None
            gpu.update(remapped_rows=None, retired_pages=None, fabric=None)
        facts["xid_events"] = None
        facts["platform"].update(secure_boot=None, iommu=None, acs_redirecting_bridges=None, automatic_upgrades=None)
    assert codes(compare(hosts, {})) == set()


def test_no_hosts():
    assert compare({}, {}).as_dict() == {"verdict": "pass", "hosts": {}, "baseline": {}, "findings": []}


def test_an_idle_link_is_no_finding():
    hosts = fleet("h100_sxm_8", 1)
    assert {one["pcie"]["generation"] for one in hosts["h1"]["gpus"]} == {1}
    assert codes(compare(hosts, {})) == set()


def test_a_host_that_is_to_have_no_gpu():
    hosts = fleet("l40s_4", 1)
    wanted = {"h1": {"pins": {"gpu_count": 0}}}
    assert codes(compare(hosts, wanted)) == {("h1", "gpu-unexpected")}
    both(gpu_fleets.no_driver("DRIVER_NOT_LOADED"), put("pci_gpus", []))(hosts["h1"])
    assert codes(compare(hosts, {})) == {("h1", "gpu-none")}
    assert codes(compare(hosts, wanted)) == set()


def test_virtual_machines_are_not_asked_for_acs():
    hosts = fleet("l40s_4", 1)
    put("platform", "acs_redirecting_bridges", ["0000:15:01.0"])(hosts["h1"])
    put("platform", "virtualisation", "kvm")(hosts["h1"])
    assert codes(compare(hosts, {})) == set()


def test_an_exact_pinning_package_holds_the_driver():
    hosts = fleet("l40s_4", 1)
    gpu_fleets.packages("libnvidia-compute", held=False)(hosts["h1"])
    hosts["h1"]["packages"].append(gpu_fleets.package(f"nvidia-driver-pinning-{DRIVER}", "1"))
    assert codes(compare(hosts, {})) == set()
    hosts["h1"]["packages"][-1]["name"] = "nvidia-driver-pinning-580"
    assert codes(compare(hosts, {})) == {("h1", "hold-missing")}


def test_removed_packages_count_nothing():
    hosts = fleet("l40s_4", 1)
    rest = {**gpu_fleets.package("libnvidia-compute-550", "550.54.14-1", held=False), "state": "config-files"}
    hosts["h1"]["packages"].append(rest)
    assert codes(compare(hosts, {})) == set()


def test_every_check_is_listed():
    for module in (parity.parity_system, parity.parity_gpu):
        functions = {
            value
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
        }
        assert functions == set(module.CHECKS)
