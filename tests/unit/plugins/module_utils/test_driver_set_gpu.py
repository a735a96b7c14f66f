# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power limit, compute mode and MIG layout: the commands that are missing, and no others."""

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_gpu import (
    Settings,
    check,
    commands,
    parse_gpus,
    read_settings,
    unit,
)
from ansible_collections.baremetal.llm.plugins.module_utils.system import CommandResult, System

A, B = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-0d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a00"
QUERY = f"{A}, 400.00, 100.00, 400.00, Default, Enabled\n{B}, 300.00, 100.00, 400.00, Exclusive_Process, Disabled\n"
LIST = f"""GPU 0: NVIDIA A100-SXM4-80GB (UUID: {A})
  MIG 3g.40gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 4g.40gb     Device  1: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fe)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: {B})
"""
GPUS = parse_gpus(QUERY, LIST)
SMI = "/usr/bin/nvidia-smi"


def words(settings, gpus=None):
    return [" ".join(each) for each in commands(settings, GPUS if gpus is None else gpus)]


def test_what_is_read():
    assert (GPUS[0].power_limit, GPUS[0].mig, GPUS[0].profiles) == (400.0, True, ("3g.40gb", "4g.40gb"))
    assert (GPUS[1].compute_mode, GPUS[1].mig, GPUS[1].profiles) == ("exclusive_process", False, ())
    assert parse_gpus("GPU-x, [N/A], [N/A], [N/A], Default, [N/A]\n", "")[0].mig is None


def test_only_what_differs_is_set():
    assert words(Settings(power_limit_watts=300)) == [f"{SMI} --id={A} --power-limit=300"]
    assert words(Settings(compute_mode="exclusive_process")) == [f"{SMI} --id={A} --compute-mode=EXCLUSIVE_PROCESS"]
    assert words(Settings(compute_mode="default")) == [f"{SMI} --id={B} --compute-mode=DEFAULT"]
    assert words(Settings()) == []


def test_a_layout_is_made_anew_where_it_differs():
    assert words(Settings(mig_profiles=("4g.40gb", "3g.40gb"))) == [
        f"{SMI} --id={B} --multi-instance-gpu=1",
        f"{SMI} mig -i {B} -cgi 4g.40gb,3g.40gb -C",
    ]
    assert words(Settings(mig_profiles=("7g.80gb",)), GPUS[:1]) == [
        f"{SMI} mig -i {A} -dci",
        f"{SMI} mig -i {A} -dgi",
        f"{SMI} mig -i {A} -cgi 7g.80gb -C",
    ]


def test_mig_off():
    assert words(Settings(mig_profiles=("off",))) == [
        f"{SMI} mig -i {A} -dci",
        f"{SMI} mig -i {A} -dgi",
        f"{SMI} --id={A} --multi-instance-gpu=0",
    ]


@pytest.mark.parametrize(
    ("settings", "line", "code"),
    [
        (Settings(power_limit_watts=500), QUERY, "gpu-setting-out-of-range"),
        (Settings(power_limit_watts=200), "GPU-x, [N/A], [N/A], [N/A], Default, [N/A]\n", "gpu-setting-unsupported"),
        (Settings(mig_profiles=("1g.10gb",)), "GPU-x, 1, 1, 1, Default, [N/A]\n", "gpu-setting-unsupported"),
    ],
)
def test_what_a_gpu_cannot_do_is_refused(settings, line, code):
    assert {finding.code for finding in check(settings, parse_gpus(line, ""))} == {code}


def test_the_unit_sets_it_again_at_boot():
    text = unit(Settings(300, "exclusive_process", ("3g.40gb", "3g.40gb")))
    assert f"ExecStart={SMI} --power-limit=300\n" in text
    assert f"ExecStart={SMI} --compute-mode=EXCLUSIVE_PROCESS\n" in text
    assert f"ExecStart=-{SMI} mig -cgi 3g.40gb,3g.40gb -C\n" in text
    assert unit(Settings()) == ""


class Fake(System):
    def __init__(self, code=0):
        super().__init__()
        self.code = code
        self.asked = []

    def run(self, argv, timeout_seconds=10):
        self.asked.append(list(argv))
        return CommandResult(self.code, QUERY if "--query-gpu" in argv[1] else LIST, "")


def test_nothing_is_asked_where_nothing_is_wanted():
    system = Fake()
    assert read_settings(system, {"power_limit_watts": 0, "compute_mode": "", "mig_profiles": []}) == ([], "", [])
    assert system.asked == []


def test_without_a_running_driver_the_unit_is_written_all_the_same():
    todo, text, findings = read_settings(Fake(code=9), {"power_limit_watts": 300})
    assert (todo, findings) == ([], [])
    assert "--power-limit=300" in text


def test_a_refusal_runs_nothing():
    todo, _text, findings = read_settings(Fake(), {"power_limit_watts": 900, "compute_mode": "default"})
    assert todo == []
    assert len(findings) == 2
