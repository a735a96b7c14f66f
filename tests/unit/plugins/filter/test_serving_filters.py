# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the module serving_calibration registered in a loop to the file that a site keeps."""

from __future__ import annotations

import json

import pytest

errors = pytest.importorskip("ansible.errors")
serving = pytest.importorskip("ansible_collections.baremetal.llm.plugins.filter.serving")

GIB = 1 << 30
DIFFERENCE = {"name": "kv_cache", "planned": 8 * GIB, "measured": 10 * GIB, "share": -0.2, "expected": False}
TOKENS = {"name": "kv_cache_tokens", "planned": 1000.0, "measured": 1000.0, "share": 0.0, "expected": True}


def answer(unit="vllm@chat.service", key="a|vllm|0.33.0|L4|tp1", measured=None, **more):
    return {
        "invocation": {"module_args": {"unit": unit, "key": key}},
        "boot": {"failure": ""},
        "differences": [DIFFERENCE, TOKENS],
        "mismatches": [],
        "measured": {"weights": 5} if measured is None else measured,
        **more,
    }


def test_what_all_hosts_measured_goes_into_the_file_beside_what_it_held():
    existing = json.dumps({"old|vllm|0.30.0|L4|tp1": {"weights": 1}})
    hosts = [{"results": [answer()]}, {"results": [answer(measured={"weights": 7})]}, {"skipped": True}, None]
    text = serving.calibration_text(existing, hosts)
    assert json.loads(text) == {"a|vllm|0.33.0|L4|tp1": {"weights": 7}, "old|vllm|0.30.0|L4|tp1": {"weights": 1}}
    # The same again changes nothing.
    assert serving.calibration_text(text, hosts) == text


def test_a_file_that_somebody_broke_is_refused_with_the_way_out():
    with pytest.raises(errors.AnsibleFilterError, match="llm_calibration_path is not JSON.*version control"):
        serving.calibration_text("{", [])


def test_the_comparison_reads_well():
    assert serving.calibration_report({"results": [answer()]}) == [
        "vllm@chat.service:",
        "  kv_cache: planned 8.00 GiB, measured 10.00 GiB (-20.0%), outside of what the plan expects",
        "  kv_cache_tokens: planned 1,000, measured 1,000 (+0.0%)",
    ]
    mismatch = answer(mismatches=["the engine runs with max_num_seqs 8, planned was 16"], measured={})
    lines = serving.calibration_report({"results": [mismatch]})
    assert "  not compared: the engine runs with max_num_seqs 8, planned was 16" in lines
    assert lines[-1] == "  nothing to keep"
