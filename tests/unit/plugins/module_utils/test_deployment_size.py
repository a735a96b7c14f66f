# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From context_length, concurrency and gpus to what an engine is told."""

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import deployment_size


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (8192, 8192),
        ("8192", 8192),
        ("8k", 8000),
        ("8K", 8192),
        ("25.6k", 25600),
        ("1M", 1048576),
        ("auto", None),
        ("1.5K", None),
        (True, None),
        (None, None),
        (1.5, None),
    ],
)
def test_an_amount_is_read_as_the_engine_reads_it(value, number):
    assert deployment_size.amount(value) == number


def test_the_site_says_context_and_gpus_and_nothing_else_is_guessed():
    deployment = {"context_length": 4096, "concurrency": 8, "gpus": [2, 3]}
    assert deployment_size.site_options(deployment) == {"max_model_len": 4096}
    assert deployment_size.site_environment(deployment) == {
        "CUDA_VISIBLE_DEVICES": "2,3",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert deployment_size.site_options({}) == {}
    assert deployment_size.site_environment({}) == {}


def test_gpus_are_counted_and_spanned():
    assert deployment_size.gpus_needed({"engine_options": {"tensor_parallel_size": "4", "data_parallel_size": 2}}) == 8
    assert deployment_size.gpus_needed({"engine_options": ["odd"]}) == 1
    assert deployment_size.gpus_spanned({"gpus": [1, 5]}) == 6
