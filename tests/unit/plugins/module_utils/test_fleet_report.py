# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import stat

import fleet_report_sample as sample
import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import fleet_report, report_files
from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report import Answer


def row(report, host):
    return next(row for row in report["hosts"] if row["host"] == host)


def cell(report, host, title):
    index = [column["title"] for column in report["columns"]].index(title)
    return row(report, host)["cells"][index]


def text(title, **changes):
    """What the column says of a host with *changes* to its facts."""
    facts = sample.host_facts(2)
    for key, value in changes.items():
        facts[key] = {**facts[key], **value} if isinstance(value, dict) else value
    return cell(sample.report(({"a": Answer(facts)}, None)), "a", title)["text"]


# --- Verdict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", (1, 3, 200))
def test_healthy_fleet(count):
    report = sample.rich(sample.healthy(count))
    assert (report["verdict"], report["reasons"], report["findings"]) == ("pass", [], [])
    assert report["hosts_by_verdict"]["pass"] == len(report["hosts"]) == count
    assert report["gpus"][0]["text"] == f"{8 * count} × {sample.GPU_NAME}"
    assert {cell["state"] for row in report["hosts"] for cell in row["cells"]} == {""}


def test_faulty_fleet():
    report = sample.rich(sample.faulty(200), bad=1)
    assert report["verdict"] == "fail"
    assert report["headline"] == "180 of 200 hosts are as they should be."
    assert report["reasons"] == [
        "1 host gave no facts, so nobody knows how it is.",
        "2 kinds of error on 18 hosts.",
        "1 kind of warning on 1 host.",
        "Endpoints: 1 error in 3 rows.",
    ]
    assert report["hosts_by_verdict"] == {"fail": 18, "absent": 1, "warn": 1, "unknown": 0, "pass": 180}
    assert [row["host"] for row in report["hosts"]][:3] == ["gpu-3", "gpu-4", "gpu-15"]


def test_a_host_that_did_not_answer_fails_a_fleet_that_is_compared_well():
    answers, parity = sample.healthy(3)
    answers["gpu-4"] = Answer(problem="Connection timed out")
    report = sample.report((answers, parity))
    assert (report["verdict"], report["hosts"][0]["verdict"]) == ("fail", "absent")
    assert (report["hosts"][0]["problem"], report["hosts"][0]["cells"]) == ("Connection timed out", [])


def test_a_host_without_gpu_is_shown_and_compared_with_nobody():
    answers, parity = sample.healthy(3)
    answers["bare"] = Answer(sample.bare_facts())
    parity["hosts"]["bare"] = {"verdict": "pass"}
    report = sample.report((answers, parity))
    assert report["verdict"] == "pass"
    assert cell(report, "bare", "GPUs")["text"] == "no GPU"
    assert cell(report, "bare", "Driver") == {"text": "none", "state": "quiet", "hint": ""}
    assert (report["differences"], report["without_gpu"]) == ([], ["bare"])


def test_nothing_compared_is_not_good():
    answers, dummy = sample.healthy(3)
    report = sample.report((answers, None))
    assert (report["verdict"], report["reasons"]) == ("unknown", ["The hosts were not compared."])


def test_a_host_that_was_not_compared_is_not_good():
    answers, parity = sample.healthy(3)
    del parity["hosts"]["gpu-2"]
    report = sample.report((answers, parity))
    assert (report["verdict"], report["reasons"]) == ("unknown", ["1 host answered but was not compared."])


def test_a_compared_host_without_facts_is_missed():
    answers, parity = sample.healthy(3)
    del answers["gpu-2"]
    report = sample.report((answers, parity))
    assert (report["verdict"], row(report, "gpu-2")["verdict"]) == ("fail", "absent")


def test_no_host_at_all():
    report = sample.report(({}, {"verdict": "pass", "hosts": {}, "baseline": {}, "findings": []}))
    assert (report["verdict"], report["headline"]) == ("unknown", "Nothing was verified.")


@pytest.mark.parametrize(
    ("facts", "problem"),
    (
        ({"format_version": 2}, "its facts have format 2, expected 1"),
        ({}, "its facts have format not known, expected 1"),
        ({"format_version": 1}, "its facts are not complete: KeyError 'gpus'"),
    ),
)
def test_facts_of_another_version(facts, problem):
    report = sample.report(({"a": Answer(facts)}, None))
    assert (report["hosts"][0]["problem"], report["verdict"]) == (problem, "fail")


def test_a_bad_endpoint_fails_a_healthy_fleet():
    good = sample.rich(sample.healthy(3))
    bad = sample.rich(sample.healthy(3), bad=1)
    assert (good["verdict"], bad["verdict"]) == ("pass", "fail")
    section = bad["sections"][0]
    assert section["rows"][0]["state"] == "error"
    assert section["rows"][0]["cells"][3:5] == ["1 of 2", "stream: the stream ended without [DONE]: it was cut"]


def test_an_endpoint_that_could_not_be_asked_says_why():
    section = fleet_report.endpoint_section([("gateway-1", {"failed": True, "msg": "requests is missing"})])
    assert (section["rows"][0]["state"], section["rows"][0]["cells"][4]) == ("error", "requests is missing")


# --- Marks, differences, findings ------------------------------------------------------------------------------------


def test_outliers_are_marked_where_they_are():
    report = sample.report(sample.faulty(200))
    assert cell(report, "gpu-3", "Driver") == {
        "text": sample.OLD_DRIVER,
        "state": "error",
        "hint": f"driver-differs, expected {sample.DRIVER}",
    }
    assert cell(report, "gpu-3", "Kernel")["state"] == ""
    assert cell(report, "gpu-4", "Loaded module")["state"] == "error"
    assert cell(report, "gpu-2", "VBIOS")["state"] == "warning"
    assert cell(report, "gpu-2", "VBIOS")["text"] == "96.00.99.00.01 ×7, 96.00.74.00.01 ×1"
    assert row(report, "gpu-2")["findings"] == [{"code": "vbios-mixed", "severity": "warning"}]


@pytest.mark.parametrize(
    ("code", "subject", "column"),
    (
        ("driver-insecure", "driver_version", "driver"),
        ("reboot-pending", "driver_version", "module"),
        ("cuda-toolkit-differs", "cuda_toolkit_version", "cuda_toolkit"),
        ("cuda-newer-than-driver", "", "cuda"),
        ("container-toolkit-mixed", "packages", "container_toolkit"),
        ("cdi-stale", "/etc/cdi/nvidia.yaml", "container_toolkit"),
        ("fabric-manager-behind", "nvidia-fabricmanager", "fabric_manager"),
        ("baseline-tie", "kernel", "kernel"),
        ("baseline-tie", "mig_layout", "mig"),
        ("ecc-off", "GPU 0 at 0000:00:00.0", "ecc"),
        # About a counter, not about the mode that the column shows.
        ("ecc-uncorrected", "GPU 0 at 0000:00:00.0", ""),
        ("nvlink-down", "GPU 0 at 0000:00:00.0", ""),
        ("something-of-a-later-version", "", ""),
    ),
)
def test_findings_belong_to_columns(code, subject, column):
    assert fleet_report._column_of(code, subject) == column


def test_baselines_stand_with_their_columns():
    report = sample.report(sample.healthy(3))
    columns = {column["key"]: column["baselines"] for column in report["columns"]}
    assert columns["driver"] == [{"about": "", "value": sample.DRIVER, "by": "pin", "having": 3, "of": 3}]
    assert columns["gpus"] == [
        {"about": sample.GPU_NAME, "value": "8 GPUs", "by": "majority", "having": 3, "of": 3},
    ]
    assert columns["cuda"] == []


def test_differences_name_values_and_hosts():
    report = sample.report(sample.faulty(200))
    found = {item["title"]: item["values"] for item in report["differences"]}
    assert list(found) == ["Driver", "Loaded module", "Fabric manager", "VBIOS"]
    assert [
        (value["text"], value["state"], len(value["hosts"]), value["marked"]) for value in found["Loaded module"]
    ] == [
        ("580.126.09 open", "", 180, []),
        # Wrong on a host whose library is newer, right where the whole driver is that old.
        ("580.105.08 open", "error", 18, ["gpu-4"]),
    ]
    old = found["Driver"][1]
    assert (old["text"], old["state"], old["marked"] == old["hosts"], len(old["hosts"])) == (
        sample.OLD_DRIVER,
        "error",
        True,
        17,
    )
    assert "CUDA" in report["alike"]


def test_equal_findings_are_merged_over_hosts():
    report = sample.report(sample.faulty(200))
    first = report["findings"][0]
    assert (first["code"], len(first["cases"]), len(first["hosts"])) == ("driver-differs", 1, 17)
    assert first["hosts"][:3] == ["gpu-3", "gpu-15", "gpu-27"]
    assert first["action"] == first["cases"][0]["action"] != ""
    assert [(group["severity"], group["code"]) for group in report["findings"]] == [
        ("error", "driver-differs"),
        ("error", "reboot-pending"),
        ("warning", "vbios-mixed"),
    ]


def test_what_differs_in_a_code_stays_with_its_case():
    answers, parity = sample.faulty(3)
    other = copy.deepcopy(parity["findings"][0])
    parity["findings"].append({**other, "host": "gpu-1", "actual": "570.1", "action": "do `something else`"})
    parity["findings"].append({**other, "host": "gpu-2", "accepted": True})
    group = sample.report((answers, parity))["findings"][0]
    assert (group["action"], group["cause"] != "") == ("", True)
    assert [(case["actual"], case["accepted"], case["hosts"]) for case in group["cases"]] == [
        ("570.1", False, ["gpu-1"]),
        (sample.OLD_DRIVER, True, ["gpu-2"]),
        (sample.OLD_DRIVER, False, ["gpu-3"]),
    ]
    assert group["cases"][0]["action"] == "Do `something else`."


def test_problems_of_reading_are_told_where_no_comparison_tells_them():
    answers, parity = sample.faulty(6)
    assert sample.report((answers, parity))["unreadable"] == []
    assert sample.report((answers, None))["unreadable"] == [
        {"problem": "dmesg could not be read: Operation not permitted", "hosts": ["gpu-4"]}
    ]


# --- Cells -----------------------------------------------------------------------------------------------------------


def test_gpus_that_are_not_offered_or_lost():
    silent = [{"pci_address": f"0000:0{index}:00.0"} for index in range(4)]
    lost = [{"index": 2, "pci_address": "0000:02:00.0", "error": "GPU_IS_LOST"}]
    assert text("GPUs", pci_gpus=silent, lost_gpus=lost) == (f"2 × {sample.GPU_NAME}, 1 lost, 1 on the bus only")
    assert text("GPUs", gpus=[], pci_gpus=silent) == "4 on the bus only"
    assert text("GPUs", gpus=[sample.gpu(0), sample.gpu(1, "B")]) == f"1 × B, 1 × {sample.GPU_NAME}"


def test_driver_and_module():
    assert text("Driver", nvml={"error": "DRIVER_NOT_LOADED", "driver_version": None, "library_version": None}) == (
        "DRIVER_NOT_LOADED"
    )
    assert text("Loaded module", loaded_module={"loaded": False, "rivals": ["nouveau"]}) == "none, but nouveau"
    assert text("Loaded module", loaded_module={"flavour": "proprietary"}) == f"{sample.DRIVER} proprietary"


def test_fabric_manager():
    service = {"name": "nvidia-fabricmanager.service", "active_state": "active", "running_version": "570.1"}
    assert text("Fabric manager") == sample.DRIVER
    assert text("Fabric manager", services=[service]) == f"{sample.DRIVER}, running 570.1"
    assert text("Fabric manager", services=[{**service, "active_state": "failed"}]) == f"{sample.DRIVER}, not running"
    assert text("Fabric manager", packages=[], services=[service]) == "no package, running 570.1"


def test_columns_without_any_value_are_left_out():
    titles = [column["title"] for column in sample.report(({"a": Answer(sample.bare_facts())}, None))["columns"]]
    assert titles == ["GPUs", "Driver", "Loaded module", "CUDA", "System", "Kernel", "VBIOS", "ECC", "MIG"]
    assert text("CUDA toolkit", cuda_toolkit_version="13.0.2") == "13.0.2"


def test_container_toolkit_kernel_and_modes():
    mixed = [sample.package("nvidia-container-toolkit", "1.18.1-1"), sample.package("libnvidia-container1", "1.17.8-1")]
    assert text("Container toolkit", packages=mixed) == "1.17.8 ×1, 1.18.1 ×1"
    kernels = [{"kernel": "6.8.0-95-generic", "running": False, "next_boot": True}]
    assert text("Kernel", kernel_modules=kernels) == "6.8.0-90-generic, next 6.8.0-95-generic"
    off, unknown, sliced = sample.gpu(0), sample.gpu(1), sample.gpu(2)
    off["ecc"]["enabled"] = False
    unknown["ecc"]["enabled"] = None
    slices = [{"profile": "1g.10gb"}] * 7
    sliced["mig"] = {"enabled": True, "enabled_after_reset": True, "instances": slices}
    assert text("ECC", gpus=[off]) == "off, on after a reset"
    assert text("ECC", gpus=[unknown]) == "not known"
    assert text("MIG", gpus=[sliced]) == "on (1g.10gb ×7)"


def test_extra_columns():
    answers, parity = sample.healthy(3)
    column = {"title": "vLLM", "values": {"gpu-1": "0.33.0", "gpu-2": "0.32.0"}, "expected": "0.33.0"}
    report = sample.report((answers, parity), columns=[column])
    assert cell(report, "gpu-1", "vLLM")["state"] == ""
    assert cell(report, "gpu-2", "vLLM") == {"text": "0.32.0", "state": "warning", "hint": "expected 0.33.0"}
    assert cell(report, "gpu-3", "vLLM") == {"text": "none", "state": "quiet", "hint": ""}
    assert (report["verdict"], row(report, "gpu-2")["verdict"]) == ("warn", "warn")


def test_sections():
    section = fleet_report.section(
        {
            "title": "Disks",
            "columns": ["Host", {"title": "MB/s", "measured": True}],
            "rows": [["a", 5.25], {"state": "warning", "cells": ["b", None, "too much"]}, {"state": "x", "cells": []}],
        }
    )
    assert [(row["state"], row["cells"]) for row in section["rows"]] == [
        ("", ["a", "5.25"]),
        ("warning", ["b", ""]),
        ("", ["", ""]),
    ]
    report = sample.report(sample.healthy(2), sections=[section])
    assert (report["verdict"], report["reasons"]) == ("warn", ["Disks: 1 warning in 3 rows."])


# --- Text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    (
        ("a\x1b[31mb\u202ec\x00", "a\ufffd[31mb\ufffdc\ufffd"),
        (" a\n\t b ", "a b"),
        ("\ud800", "\ufffd"),
        ("https://user:hunter2@mirror.example/x", "https://(removed)@mirror.example/x"),
        ("Authorization: Bearer abcdefghijklmnopqrstuvwx", "Authorization: Bearer (removed)"),
        ("<urllib3.HTTPConnection object at 0x7f10a2b3>", "<urllib3.HTTPConnection object>"),
        ("key sk-abcdefghijklmnop1234 was refused", "key (removed) was refused"),
        ("GET /?api_key=abcdefgh&x=1", "GET /?api_key=(removed)&x=1"),
        ("time to first token: 0.3", "time to first token: 0.3"),
        ("x" * 3000, "x" * 2000 + "…"),
    ),
)
def test_clean(written, read):
    assert fleet_report.clean(written) == read


def test_no_secret_in_any_text():
    secret = "correct horse battery staple"
    answers, parity = sample.faulty(6)
    answers["gpu-1"] = Answer(sample.host_facts(name=f"GPU {secret}"))
    answers["gpu-6"] = Answer(problem=f"refused: {secret}")
    parity["findings"][0]["cause"] = f"because of {secret}"
    section = fleet_report.section({"title": secret, "columns": [secret], "rows": [[secret]]})
    endpoint = fleet_report.endpoint_section(sample.endpoint_answers())
    report = sample.report(
        (answers, parity),
        title=f"Site {secret}",
        columns=[{"title": secret, "values": {"gpu-1": {secret: secret}}}],
        sections=[section, endpoint],
        secrets=[secret, "short"],
    )
    written = report_files.as_json(report)
    assert secret not in written
    assert "sk-this" not in written
    assert written.count("(removed)") > 6


def test_say():
    values = (None, True, 1.23456, ["b", "a"], {"b", "a"}, {"x": None}, [], 7)
    assert [fleet_report.say(value) for value in values] == [
        "not known",
        "yes",
        "1.23",
        "b, a",
        "a, b",
        "x: not known",
        "none",
        "7",
    ]


# --- On disk ---------------------------------------------------------------------------------------------------------


def render(report):
    return f"<p>{report.get('generated_at')} {report.get('verdict')}</p>"


def write(tmp_path, report, draw=render, write=True, mode=0o640):
    return fleet_report.publish(report, draw, tmp_path / "reports" / "fleet.html", mode, write)


def test_deterministic():
    first, second = (report_files.as_json(sample.rich(sample.faulty(30))) for dummy in range(2))
    assert first == second
    assert json.loads(first) == sample.rich(sample.faulty(30))


def test_second_run_refreshes_the_time_and_reports_no_change(tmp_path):
    assert write(tmp_path, sample.rich(sample.healthy(3))).changed
    slower = sample.endpoint_answers()
    slower[0][1]["results"][1]["seconds"] = 9.0
    again = sample.rich(sample.healthy(3), generated_at="2026-11-21T00:00:00Z")
    again["sections"] = [fleet_report.endpoint_section(slower)]
    outcome = write(tmp_path, again)
    assert not outcome.changed
    assert "2026-11-21" in outcome.page.read_text(encoding="utf-8")
    assert json.loads(outcome.data.read_text(encoding="utf-8"))["generated_at"] == "2026-11-21T00:00:00Z"


def test_what_another_fleet_says_is_a_change(tmp_path):
    write(tmp_path, sample.report(sample.healthy(3)))
    outcome = write(tmp_path, sample.report(sample.faulty(3)))
    assert outcome.changed
    assert '"verdict": "pass"' in outcome.diff["before"]
    assert '"verdict": "fail"' in outcome.diff["after"]
    assert "generated_at" not in outcome.diff["before"] + outcome.diff["after"]


@pytest.mark.parametrize("broken", ("", "{}", "[1]", '{"format_version": 1, "sections": [{"rows": 3}]}', "\x00"))
def test_an_unusable_earlier_report_is_replaced(tmp_path, broken):
    outcome = write(tmp_path, sample.rich(sample.healthy(3)))
    outcome.data.write_text(broken, encoding="utf-8")
    assert write(tmp_path, sample.rich(sample.healthy(3))).changed
    assert not write(tmp_path, sample.rich(sample.healthy(3))).changed


def test_a_touched_page_is_a_change(tmp_path):
    outcome = write(tmp_path, sample.rich(sample.healthy(3)))
    outcome.page.write_text("all is well", encoding="utf-8")
    assert write(tmp_path, sample.rich(sample.healthy(3))).changed
    outcome.page.unlink()
    assert write(tmp_path, sample.rich(sample.healthy(3))).changed


def test_permissions(tmp_path):
    outcome = write(tmp_path, sample.rich(sample.healthy(3)))
    assert {stat.S_IMODE(path.stat().st_mode) for path in (outcome.page, outcome.data)} == {0o640}
    assert write(tmp_path, sample.rich(sample.healthy(3)), mode=0o600).changed
    assert {stat.S_IMODE(path.stat().st_mode) for path in (outcome.page, outcome.data)} == {0o600}
    assert sorted(path.name for path in outcome.page.parent.iterdir()) == ["fleet.html", "fleet.json"]


def test_check_mode_writes_nothing(tmp_path):
    assert write(tmp_path, sample.rich(sample.healthy(3)), write=False).changed
    assert list(tmp_path.iterdir()) == []


def test_path_must_be_a_page(tmp_path):
    with pytest.raises(ValueError, match=r"fleet\.txt, expected a name that ends in \.html"):
        fleet_report.publish(sample.report(sample.healthy(1)), render, tmp_path / "fleet.txt", 0o640, True)


@pytest.mark.parametrize(
    ("manifest", "galaxy", "version"),
    (
        ('{"collection_info": {"version": "1.2.3"}}', None, "1.2.3"),
        (None, "name: llm\nversion: 0.1.0\n", "0.1.0 (checkout)"),
        ("{}", None, "of an unknown version"),
    ),
)
def test_version(manifest, galaxy, version):
    assert report_files.collection_version(manifest, galaxy) == version
