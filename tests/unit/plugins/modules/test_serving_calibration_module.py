# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module serving_calibration as Ansible runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.modules import serving_calibration

testing = pytest.importorskip("ansible.module_utils.testing")
LOGS = Path(__file__).resolve().parents[2] / "fixtures" / "vllm_logs"
LOG = (LOGS / "0.6.5_parts_in_a_sentence.txt").read_text(encoding="utf-8")
GIB = 1 << 30
KEY = "org/model|vllm|0.6.5|Tesla V100|tp1|pp1|seqs256|tokens2048|graphs"
PLAN = {
    "settings": {"max_model_len": 40000, "max_num_seqs": 256, "max_num_batched_tokens": 2048},
    "memory": {"weights": 7 * GIB, "requested": 14 * GIB, "kv_cache": 4 * GIB},
    "kv_cache_tokens": 65536,
}


@pytest.fixture
def run(capsys):
    def run(**arguments):
        with testing.patch_module_args(arguments), pytest.raises(SystemExit):
            serving_calibration.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_a_log_and_its_plan_become_a_calibration(run):
    result = run(log=LOG, plan=PLAN, key=KEY)
    assert result["changed"] is False
    assert result["measured"]["activations"] == round(2.53 * GIB)
    assert result["measured"]["non_kv"] == round(14.20 * GIB) - round(3.76 * GIB)
    weights = next(one for one in result["differences"] if one["name"] == "weights")
    assert weights["share"] == pytest.approx((7 - 7.51) / 7.51)


def test_other_settings_than_planned_are_named_and_nothing_is_learnt(run):
    plan = {**PLAN, "settings": {**PLAN["settings"], "max_model_len": 8192}}
    result = run(log=LOG, plan=plan, key=KEY)
    assert result["mismatches"] == ["the engine runs with max_model_len 40000, planned was 8192"]
    assert result["measured"] == {}


def test_another_version_than_that_of_the_key_teaches_nothing(run):
    log = LOG + "INFO Initializing a V1 LLM engine (v0.8.0) with config: model='m'\n"
    result = run(log=log, plan=PLAN, key=KEY)
    assert result["mismatches"] == ["the engine runs version 0.8.0, planned was 0.6.5"]
    assert result["measured"] == {}


def test_without_a_plan_the_log_is_read(run):
    result = run(log=LOG)
    assert result["boot"]["kv_cache_tokens"] == 61632
    assert result["differences"] == []


def test_a_log_of_something_else_fails_with_the_way_out(run):
    result = run(log="nothing")
    assert result["failed"] is True
    assert "start it again" in result["msg"]
