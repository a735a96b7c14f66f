# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a site's words and a host's facts to GPUs and wishes."""

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import serving_site
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile, ModelFacts
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Wishes
from ansible_collections.baremetal.llm.plugins.module_utils.site import SiteError
from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import DtypeTotals, TensorTotals

MIB = 1 << 20


def gpu(total=81559 * MIB, name="NVIDIA H100 80GB HBM3", **changes):
    return {
        "name": name,
        "memory_total_bytes": total,
        "compute_capability": "9.0",
        "mig": {"enabled": False},
        **changes,
    }


@pytest.mark.parametrize(
    ("nvml_mib", "least", "most"),
    [
        # What torch saw of them in published logs, in GiB.
        (81559, 78.9, 79.33),
        (46068, 44.2, 44.55),
        (24576, 23.4, 23.6),
        (183359, 178.1, 178.5),
        (15360, 14.4, 14.75),
    ],
)
def test_what_an_engine_sees_is_less_than_nvml_counts(nvml_mib, least, most):
    assert least * GIB <= serving_site.visible("a", nvml_mib * MIB, "").memory_bytes <= most * GIB


def test_gpus_are_read_in_their_order_and_slices_count_as_what_a_process_gets():
    sliced = {"enabled": True, "instances": [{"profile": "3g.40gb", "memory_bytes": 40 * GIB}, {"memory_bytes": GIB}]}
    found = serving_site.read_gpus(
        {"gpus": [gpu(), gpu(mig=sliced), gpu(mig={"enabled": True, "instances": []}), gpu(None)]}
    )
    assert [(one.name, one.compute_capability) for one in found] == [
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "9.0"),
    ]
    assert found[1].memory_bytes < 40 * GIB
    assert serving_site.read_gpus({}) == ()


def test_gpus_that_are_not_there_yet_are_declared_as_a_data_sheet_has_them():
    found = serving_site.declared_gpus([{"name": "L4", "memory_gib": 22.5, "count": 2, "compute_capability": 8.9}])
    assert found == (serving_site.visible("L4", int(22.5 * GIB), "8.9"),) * 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("8 x H100", "expected a list"),
        (["H100"], r"llm_planned_gpus\[0\]: expected a mapping"),
        ([{"name": "H100"}], "set memory_gib"),
        ([{"memory_gib": 80, "memory": 1}], "memory is not a key"),
        ([{"memory_gib": -1}], "set memory_gib"),
        ([{"memory_gib": 80, "count": 0}], "count: expected"),
        ([{"memory_gib": 80, "count": 10**9}], "count: expected"),
        ([{"memory_gib": 80, "compute_capability": "nine"}], "compute_capability"),
    ],
)
def test_a_declaration_that_cannot_be_used_names_its_place(value, said):
    with pytest.raises(SiteError, match=said):
        serving_site.declared_gpus(value)


def test_what_was_read_comes_before_what_was_declared():
    declared = [{"name": "B200", "memory_gib": 179}]
    assert serving_site.hardware("nvidia", {"gpus": [gpu()]}, declared, "").source == "facts"
    assert serving_site.hardware("nvidia", {"gpus": []}, declared, "").gpus[0].name == "B200"
    assert serving_site.hardware("nvidia", None, None, "", "it is down") == serving_site.Hardware(problem="it is down")
    without = serving_site.hardware("none", {"gpus": [gpu()]}, None, "MemTotal:  1024 kB\n")
    assert (without.gpus, without.memory_bytes) == ((), MIB)


def test_wishes_are_what_is_said_the_deployment_before_the_host():
    deployment = {
        "concurrency": 8,
        "context_length": 4096,
        "engine_options": {
            "max_num_seqs": "1k",
            "gpu_memory_utilization": "0.5",
            "enforce_eager": "false",
            "kv_cache_dtype": "auto",
            "tensor_parallel_size": 2,
            "seed": 1,
        },
    }
    defaults = {"tensor_parallel_size": 4, "enable_prefix_caching": True, "quantization": "fp8"}
    assert serving_site.wishes(deployment, defaults) == Wishes(
        concurrency=8,
        max_model_len=4096,
        max_num_seqs=1000,
        gpu_memory_utilization=0.5,
        enforce_eager=False,
        tensor_parallel_size=2,
        enable_prefix_caching=True,
        quantization="fp8",
    )
    assert (
        serving_site.wishes({"engine_options": {"max_model_len": "auto", "gpu_memory_utilization": "most"}}) == Wishes()
    )


@pytest.mark.parametrize(
    ("deployment", "indexes"),
    [
        ({"gpus": [2, 3]}, [2, 3]),
        ({"environment": {"CUDA_VISIBLE_DEVICES": "1,0"}}, [1, 0]),
        ({"environment": {"CUDA_VISIBLE_DEVICES": "GPU-11111111"}}, [0, 1, 2, 3]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_the_gpus_that_a_deployment_may_use(deployment, indexes):
    assert serving_site.gpu_indexes(deployment, 4) == indexes


def test_a_lock_says_what_a_plan_needs_or_why_not():
    totals = TensorTotals((("BF16", DtypeTotals(1, 2, 4)),))
    files = (LockFile("model.safetensors", 900, "0" * 64), LockFile("tokenizer.json", 50, "0" * 64))
    full = Lock("org/m", "0" * 40, files, facts=ModelFacts(config={"hidden_size": 1}, tensors=totals))
    assert serving_site.locked_model(full).weights_bytes == 4
    old = Lock("org/m", "0" * 40, files)
    assert serving_site.locked_model(old).weights_bytes == 900
    assert "lock it again" in serving_site.locked_model(old).problem
