# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import cuda_requirements as subject
from ansible_collections.baremetal.llm.plugins.module_utils.advisories import VLLM_SAFE_MINIMUM
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_data import BRANCHES


@pytest.mark.parametrize(
    "driver,cuda,runs,compiles",
    [
        ("580.65.06", "13.0", True, True),
        ("580.65.05", "13.0", False, False),
        ("575.57.08", "13.0", False, False),
        # Newer minor versions run on the driver of the major version's first, without compiling their PTX.
        ("580.178.04", "13.3", True, False),
        ("610.43.02", "13.3", True, True),
        # What the table does not have cannot be told.
        ("580.178.04", "13.9", True, None),
        ("535.309.01", "12.9", True, False),
        ("580.95.05", "12.9", True, True),
        ("525.60.12", "12.0", False, False),
    ],
)
def test_what_a_driver_runs(driver, cuda, runs, compiles):
    assert (subject.runs(driver, cuda), subject.compiles(driver, cuda)) == (runs, compiles)


def test_a_major_version_that_nobody_knows():
    with pytest.raises(subject.UnknownBuild, match="known are the major versions 11, 12, 13"):
        subject.minimum_driver("14.0")


@pytest.mark.parametrize(
    "need,expected",
    [
        ({"engine": "vllm", "version": "0.33.0"}, ("13.0", "7.5")),
        ({"engine": "vllm", "version": "0.20.1"}, ("13.0", "7.5")),
        ({"engine": "vllm", "version": "0.33.0+cu129"}, ("12.9", "7.5")),
        ({"engine": "vllm", "version": "0.33.0", "compute_capability": "8.0"}, ("13.0", "8.0")),
        ({"engine": "vllm", "version": "0.40.0", "cuda": "13.2"}, ("13.2", "7.5")),
        ({"engine": "llama_cpp", "version": "b11865", "cuda": "12.8"}, ("12.8", "5.0")),
        # As YAML has it without quotes.
        ({"engine": "own", "version": 1, "cuda": 13.0}, ("13.0", "7.5")),
    ],
)
def test_what_an_engine_was_built_for(need, expected):
    assert subject.engine_build(need) == expected


@pytest.mark.parametrize(
    "need,message",
    [
        ({"engine": "vllm", "version": "0.19.0"}, "only of 0.20.0 to 0.33.0"),
        ({"engine": "vllm", "version": "0.34.0"}, "say its `cuda` beside the engine"),
        ({"engine": "vllm", "version": "0.33.0+cu118"}, "+cu129 for 12.9"),
        ({"engine": "vllm", "version": "nightly"}, "its CUDA is not known"),
        ({"engine": "vllm"}, "its CUDA is not known"),
        ({"engine": "tgi", "version": "3.3.7"}, "no build of 'tgi' is known, only of vllm"),
        ({}, "no build of '' is known"),
        ({"engine": "vllm", "version": "0.33.0", "cuda": "cu130"}, "is no version; write it like '13.0'"),
        ({"engine": "vllm", "version": "0.33.0", "cuda": "9.2"}, "no driver is known for CUDA '9.2'"),
    ],
)
def test_builds_that_nobody_knows(need, message):
    with pytest.raises(subject.UnknownBuild) as caught:
        subject.engine_build(need)
    assert message in str(caught.value)


def test_the_version_that_the_collection_serves_is_known():
    assert subject.engine_build({"engine": "vllm", "version": VLLM_SAFE_MINIMUM})


def test_tables_fit_together():
    for cuda, driver in subject.TOOLKIT_DRIVERS.items():
        assert subject.runs(driver, cuda), cuda
    keys = [subject.version_key(driver) for driver in subject.TOOLKIT_DRIVERS.values()]
    assert keys == sorted(keys)
    assert set(subject.MAJOR_DRIVERS) == set(subject.MAJOR_CAPABILITIES)
    for number, driver in subject.SECURE_DRIVERS.items():
        assert subject.branch(driver) == number
    # Every branch that gets fixes has a version from which on it is safe.
    assert {str(item.number) for item in BRANCHES.values() if not item.ended} <= set(subject.SECURE_DRIVERS)


@pytest.mark.parametrize(
    "name,expected",
    [
        ("NVIDIA H100 80GB HBM3", True),
        ("Tesla T4", True),
        ("NVIDIA L40S", True),
        ("NVIDIA GeForce RTX 4090", False),
        ("NVIDIA RTX 6000 Ada Generation", False),
        ("Quadro RTX 8000", False),
        ("NVIDIA TITAN V", False),
    ],
)
def test_boards_that_have_forward_compatibility(name, expected):
    assert subject.is_data_centre(name) is expected
