# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans against boot logs, and the file that keeps what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import serving_calibration
from ansible_collections.baremetal.llm.plugins.module_utils.serving_calibration import CalibrationError, Difference
from ansible_collections.baremetal.llm.plugins.module_utils.vllm_boot_log import GIB, BootLog, parse

LOGS = Path(__file__).resolve().parents[2] / "fixtures" / "vllm_logs"
SETTINGS = {"max_num_seqs": 8, "max_num_batched_tokens": 2048, "max_model_len": 1024, "enforce_eager": True}
BOOT = BootLog(
    version="0.32.0",
    device="cuda",
    requested=20 * GIB,
    weights=10 * GIB,
    activations=GIB,
    cuda_graphs=GIB // 4,
    cuda_graphs_estimate=GIB // 2,
    kv_cache=8 * GIB,
    kv_cache_tokens=65536,
    max_concurrency=64.0,
    max_model_len=1024,
    max_num_seqs=8,
)


def test_what_was_measured_is_what_the_next_plan_needs() -> None:
    """The graphs' estimate, not what they took: that is what is taken off before the cache is sized."""
    assert serving_calibration.measured(BOOT) == {
        "weights": 10 * GIB,
        "activations": GIB,
        "cuda_graphs": GIB // 2,
        "non_kv": 12 * GIB,
    }


def test_what_may_be_used_comes_from_the_plan_where_the_log_is_silent() -> None:
    boot = parse((LOGS / "0.27_estimate_of_graphs.txt").read_text(encoding="utf-8"))
    assert "non_kv" not in serving_calibration.measured(boot)
    assert serving_calibration.measured(boot, 20 * GIB)["non_kv"] == 20 * GIB - boot.kv_cache


def test_the_cpu_build_measures_no_gpu() -> None:
    boot = parse((LOGS / "0.32_cpu.txt").read_text(encoding="utf-8"))
    assert serving_calibration.measured(boot, 20 * GIB) == {}


def test_differences_are_of_what_was_measured_and_know_the_interval() -> None:
    plan = {
        "memory": {"weights": 11 * GIB, "kv_cache": 7 * GIB},
        "kv_bytes_per_token": 131072,
        "kv_cache_tokens": 57344,
        "interval": {"kv_cache": {"low": 6 * GIB, "high": 7.5 * GIB}},
    }
    found = {one.name: one for one in serving_calibration.compare(BOOT, plan)}
    assert found["weights"] == Difference("weights", 11 * GIB, 10 * GIB)
    assert found["weights"].share == pytest.approx(0.1)
    assert found["kv_cache"].expected is False
    assert found["kv_bytes_per_token"].share == 0
    assert "activations" not in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"max_num_seqs": 16}, ["the engine runs with max_num_seqs 8, planned was 16"]),
        ({"tensor_parallel_size": 2}, []),
    ],
)
def test_another_engine_than_the_planned_one_teaches_nothing(change: dict[str, int], said: list[str]) -> None:
    assert serving_calibration.mismatches(BOOT, {"settings": {**SETTINGS, **change}}, "0.32.0+cpu") == said


def test_another_version_teaches_nothing() -> None:
    assert serving_calibration.mismatches(BOOT, {"settings": SETTINGS}, "0.33.0") == [
        "the engine runs version 0.32.0, planned was 0.33.0"
    ]


def test_a_key_holds_what_the_overhead_depends_on() -> None:
    text = serving_calibration.key("org/model", "vllm", "0.33.0", "NVIDIA L40S", SETTINGS).text()
    assert text == "org/model|vllm|0.33.0|NVIDIA L40S|tp1|pp1|seqs8|tokens2048|eager"
    with pytest.raises(CalibrationError, match="max_num_batched_tokens"):
        serving_calibration.key("org/model", "vllm", "0.33.0", "NVIDIA L40S", {"max_num_seqs": 8})


def test_of_several_engines_the_largest_part_counts_and_old_values_go() -> None:
    kept = {"a": {"weights": 9, "non_torch": 3}, "b": {"weights": 1}}
    merged = serving_calibration.merge(kept, [("a", {"weights": 7, "non_kv": 8}), ("a", {"weights": 5}), ("c", {})])
    assert merged == {"a": {"weights": 7, "non_kv": 8}, "b": {"weights": 1}}


def test_a_file_is_the_same_for_the_same_content_and_one_line_for_each_part() -> None:
    text = serving_calibration.dump({"b": {"weights": 2, "activations": 1}, "a": {"non_kv": 3}})
    assert text == serving_calibration.dump({"a": {"non_kv": 3}, "b": {"activations": 1, "weights": 2}})
    assert '\n  "activations": 1,\n  "weights": 2\n' in text
    assert serving_calibration.parse(text) == {"b": {"weights": 2, "activations": 1}, "a": {"non_kv": 3}}
    assert serving_calibration.parse("  \n") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "mapping from keys"),
        ('{"a": 1}', "mapping with any of"),
        ('{"a": {"wheight": 1}}', "wheight is none of"),
        ('{"a": {"weights": -1}}', "number of bytes"),
        ('{"a": {"weights": true}}', "number of bytes"),
        ('{"a": {"weights": 1.5}}', "number of bytes"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        serving_calibration.parse(text, "llm_calibration_path")
