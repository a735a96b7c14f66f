# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gpu_fleets  # noqa: E402  (found through the path above)

from ansible_collections.baremetal.llm.plugins.module_utils.parity_facts import (  # noqa: E402
    Host,
    driver_version,
    most_common,
    upstream,
)


@pytest.mark.parametrize(
    "name,version,expected",
    [
        ("libnvidia-compute-580-server", "580.95.05-0ubuntu0.24.04.2", "580.95.05"),
        ("libnvidia-compute", "610.43.02-1ubuntu1", "610.43.02"),
        ("nvidia-kernel-open-dkms", "580.95.05-1", "580.95.05"),
        ("libcuda1", "535.261.03-1~deb12u1", "535.261.03"),
        ("libcuda1", "1:570.26-1", "570.26"),
        ("firmware-nvidia-gsp", "550.163.01-2", "550.163.01"),
        ("cuda-drivers-580", "580.95.05-1", "580.95.05"),
        # Of the driver, but of a version of their own.
        ("linux-modules-nvidia-580-server-open-generic", "6.8.0-85.85+1", None),
        ("nvidia-settings", "535.216.01-1", None),
        ("nvidia-persistenced", "535.171.04-1~deb12u1", None),
        ("nvidia-modprobe", "580.95.05-1", None),
        # Kernels that are not removed yet keep the firmware of their module.
        ("nvidia-firmware-580-580.82.07", "580.82.07-0ubuntu1", None),
        ("nvidia-driver-pinning-580", "580-1ubuntu1", None),
        # Compared with the driver by another check.
        ("nvidia-fabricmanager", "580.95.05-1", None),
        ("nvidia-fabricmanager-575", "575.57.08-1", None),
        ("libnvidia-nscq", "580.95.05-1", None),
        ("nvidia-imex", "580.95.05-1", None),
        # Not of the driver.
        ("nvidia-container-toolkit", "1.20.0-1", None),
        ("libnvidia-container1", "1.20.0-1", None),
        ("nvidia-cuda-toolkit", "12.0.140~12.0.1-2", None),
        ("nvidia-support", "20220217+3", None),
        ("cuda-compat-13-0", "580.95.05-0ubuntu1", None),
        ("libnvidia-egl-wayland1", "1:1.1.13-1build1", None),
    ],
)
def test_the_version_that_a_package_is_a_part_of(name, version, expected):
    assert driver_version(gpu_fleets.package(name, version)) == expected


@pytest.mark.parametrize(
    "version,expected", [("1.20.0-1", "1.20.0"), ("1:580.95.05-0ubuntu1", "580.95.05"), ("2025.10.11-1", "2025.10.11")]
)
def test_upstream(version, expected):
    assert upstream(version) == expected


@pytest.mark.parametrize(
    "values,expected", [([], (None, 0)), ([1], (1, 1)), ([1, 2, 2], (2, 2)), ([1, 1, 2, 2, 3], (None, 2))]
)
def test_most_common(values, expected):
    assert most_common(values) == expected


@pytest.mark.parametrize(
    "nvml,expected",
    [
        ({}, gpu_fleets.DRIVER),
        # The library on disk speaks even where the module refuses it, and with the CUDA before the driver.
        ({"error": "LIB_RM_VERSION_MISMATCH", "library_version": "13.580.200.01"}, "580.200.01"),
        ({"error": "DRIVER_NOT_LOADED", "driver_version": None, "library_version": "12.570.26"}, "570.26"),
        # Nobody but the packages know.
        ({"error": "LIBRARY_NOT_FOUND", "driver_version": None, "library_version": None}, gpu_fleets.DRIVER),
    ],
)
def test_the_version_that_programs_load(nvml, expected):
    facts = gpu_fleets.machine("t4_1")
    facts["nvml"].update(nvml)
    assert Host("h", facts, {}).library_version == expected


def test_gpus_of_different_kinds_are_not_odd():
    facts = gpu_fleets.machine("l40s_4")
    other = gpu_fleets.gpu("t4_1", 4)
    facts["gpus"].append(other)
    host = Host("h", facts, {})
    assert list(host.odd_ones(lambda gpu: gpu["vbios_version"])) == []
    assert host.uniform(lambda gpu: gpu["vbios_version"]) == facts["gpus"][0]["vbios_version"]


def test_odd_ones_without_a_majority():
    facts = gpu_fleets.machine("rtx4090_2")
    facts["gpus"][0]["vbios_version"] = "x"
    host = Host("h", facts, {})
    odd = [(gpu["index"], value, usual) for gpu, value, usual in host.odd_ones(lambda gpu: gpu["vbios_version"])]
    assert odd == [(0, "x", None), (1, facts["gpus"][1]["vbios_version"], None)]
    assert host.uniform(lambda gpu: gpu["vbios_version"]) is None
