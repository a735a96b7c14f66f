# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read out of published logs; each file of fixtures/vllm_logs names its source in its first line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.baremetal.llm.plugins.module_utils import vllm_boot_log
from ansible_collections.baremetal.llm.plugins.module_utils.vllm_boot_log import GIB, BootLog, BootLogError, parse

LOGS = Path(__file__).resolve().parents[2] / "fixtures" / "vllm_logs"


def log(name: str) -> str:
    return (LOGS / f"{name}.txt").read_text(encoding="utf-8")


# GiB as they are printed; everything else as BootLog has it.
EXPECTED = {
    "0.6_two_numbers_in_a_line": {
        "weights": 14.9888,
        "total": 23.58,
        "requested": 21.222,
        "non_torch": 0.35,
        "activations": 17.06 - 14.9888,
        "kv_cache": 3.81,
        "max_concurrency": 1.56,
        "max_model_len": 20000,
        # 1952 blocks of 16 tokens.
        "kv_cache_tokens": 31232,
    },
    "0.6.5_parts_in_a_sentence": {
        "weights": 7.51,
        "total": 15.77,
        "requested": 14.20,
        "non_torch": 0.39,
        "activations": 2.53,
        "kv_cache": 3.76,
        "kv_cache_tokens": 61632,
        "max_model_len": 40000,
    },
    "0.6.5_parts_in_lines": {"weights": 7.48, "requested": 71.29, "non_torch": 3.58, "activations": 1.26},
    "0.8_pipeline_of_workers": {"weights": 21.21, "requested": 23.35, "kv_cache": 1.57, "activations": 0.37},
    "0.10_two_lines": {"kv_cache": 8.11, "kv_cache_tokens": 178880, "device": "cuda"},
    "0.21_graphs_taken_off": {"kv_cache_tokens": 396928, "max_concurrency": 3.03, "cuda_graphs": 0.11},
    "0.27_estimate_of_graphs": {"kv_cache": 6.87, "cuda_graphs_estimate": 0.36, "gpu_memory_utilization": None},
    "0.28_consumed_memory": {
        "requested": 22.03,
        "total": 23.56,
        "cuda_graphs": 0.1,
        "kv_cache": 1.95,
        "gpu_memory_utilization": 0.935,
        # Consumed is the sum of weights and non-torch, and these two workers did not say their weights.
        "weights": None,
        "non_torch": None,
    },
    "0.29_one_line": {"kv_cache": 2.97, "kv_cache_tokens": 150745, "failure": "out-of-memory", "cuda_graphs": 0.46},
    "0.32_cpu": {
        "device": "cpu",
        "version": "0.32.0",
        "kv_cache_ordered": 1.0,
        "kv_cache": None,
        "kv_cache_tokens": 1048576,
        "max_concurrency": 1024.0,
        "max_num_seqs": 8,
        "max_model_len": 1024,
        "enforce_eager": True,
        "requested": None,
    },
    "tpu_context_too_long": {"failure": "context-too-long"},
}
MEMORY = {
    *("weights", "total", "requested", "non_torch", "activations", "kv_cache", "kv_cache_ordered"),
    *("cuda_graphs", "cuda_graphs_estimate"),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_published_log_is_read(name: str) -> None:
    boot = parse(log(name))
    for field, value in EXPECTED[name].items():
        found = getattr(boot, field)
        if field in MEMORY and value is not None:
            assert found == pytest.approx(value * GIB, abs=0.006 * GIB), field
        else:
            assert found == value, field


def test_every_log_is_expected_of_and_names_its_source() -> None:
    for path in LOGS.glob("*.txt"):
        assert path.stem in {*EXPECTED, "0.6_context_too_long"}
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# https://") or "demo fleet" in first


def test_a_refusal_is_known_with_its_cause() -> None:
    boot = parse(log("0.6_context_too_long"))
    assert boot.failure == "context-too-long"
    assert boot.kv_cache_tokens == 23648


def test_the_last_start_that_succeeded_counts() -> None:
    later = log("0.32_cpu").replace("1,048,576 tokens", "2,097,152 tokens").replace("(1.0/", "(2.0/")
    assert parse(log("0.32_cpu") + later).kv_cache_tokens == 2097152
    failed = (
        "Starting vllm@chat.service\nModel loading took 3.0 GiB\nValueError: No available memory for the cache blocks"
    )
    assert parse(log("0.32_cpu") + failed).failure == ""
    assert parse(failed).failure == "no-memory-for-cache"


def test_a_journal_of_two_starts_is_two_starts() -> None:
    assert [sum("KV cache size" in line for line in lines) for lines in vllm_boot_log.boots(log("0.32_cpu"))] == [1, 1]


def test_the_smallest_rank_decides_and_the_others_fill_in() -> None:
    boot = parse(
        "(Worker_TP0 pid=1) INFO Model loading took 10.0 GiB memory and 3 seconds\n"
        "(Worker_TP1 pid=2) INFO Model loading took 10.5 GiB memory and 3 seconds\n"
        "(Worker_TP0 pid=1) INFO Available KV cache memory: 7.0 GiB\n"
        "(Worker_TP1 pid=2) INFO Available KV cache memory: 6.5 GiB\n"
        "(EngineCore pid=3) INFO GPU KV cache size: 1,000 tokens, "
        "Maximum concurrency for 100 tokens per request: 10.00x\n"
    )
    assert boot.kv_cache == 6.5 * GIB
    assert boot.weights == 10.5 * GIB
    assert boot.kv_bytes_per_token == pytest.approx(6.5 * GIB / 1000)


def test_what_newer_versions_take_off_for_graphs_is_no_activation() -> None:
    """`for peak activation` of 0.27 and later is the sum of both."""
    boot = parse(
        "INFO Model loading took 10.0 GiB memory and 3 seconds\n"
        "INFO Estimated CUDA graph memory: 0.50 GiB total\n"
        "INFO CUDA graph memory profiling is enabled (default since v0.21.0).\n"
        "INFO Available KV cache memory: 8.0 GiB\n"
        "INFO Free memory on device (23.0/24.0 GiB) on startup. Desired GPU memory utilization is (0.9, 21.6 GiB). "
        "Actual usage is 10.2 GiB for consumed memory (weights + non-torch), 1.5 GiB for peak activation, and 0.3 GiB "
        "for CUDAGraph memory.\n"
    )
    assert boot.activations == pytest.approx(1.0 * GIB)
    assert boot.non_torch == pytest.approx(0.2 * GIB)
    assert boot.cuda_graphs_estimate == 0.5 * GIB
    assert boot.cuda_graphs == pytest.approx(0.3 * GIB)


def test_more_free_memory_after_capturing_is_no_measurement() -> None:
    assert parse("Model loading took 1.0 GiB\nGraph capturing finished in 3 secs, took -0.45 GiB").cuda_graphs == 0


def test_a_log_of_something_else_is_refused_with_the_way_out() -> None:
    with pytest.raises(BootLogError, match="rotated"):
        parse("INFO:     10.0.0.1:1 - GET /health\n" * 3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(max_size=300) | st.sampled_from([log(name) for name in EXPECTED]).map(lambda text: text[::2]))
def test_no_text_is_too_odd(text: str) -> None:
    try:
        boot = parse(text)
    except BootLogError:
        return
    assert isinstance(boot, BootLog)
