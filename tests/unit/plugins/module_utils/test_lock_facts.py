# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.lock_facts import config_facts, custom_code, front_matter


def test_config_keeps_what_a_planner_needs_and_no_more():
    config = {
        "_name_or_path": "/home/somebody/model",
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_experts_per_tok": 8,
        "experts_per_token": 4,
        "kv_lora_rank": 512,
        "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0},
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "layer_types": ["full_attention"] * 100,
        "tie_word_embeddings": False,
        "rope_theta": 1e6,
        "time_step_limit": [0.0, float("inf")],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "eos_token_id": [1, 2],
        "image_token_index": 9,
        "transformers_version": "5.0",
        "half": "\ud800",
        "long": list(range(5000)),
        "text_config": {"hidden_size": 8, "pad_token_id": 0, "torch_dtype": None},
    }
    assert config_facts(json.dumps(config).encode()) == {
        "architectures": ["DeepseekV3ForCausalLM"],
        "experts_per_token": 4,
        "kv_lora_rank": 512,
        "layer_types": ["full_attention"] * 100,
        "num_experts_per_tok": 8,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "rope_scaling": {"factor": 40, "mscale": 1.0, "type": "yarn"},
        "rope_theta": 1e6,
        "text_config": {"hidden_size": 8, "torch_dtype": None},
        "tie_word_embeddings": False,
    }


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a":' * 100_000])
def test_config_that_is_none(content):
    with pytest.raises(ValueError):
        config_facts(content)


def test_custom_code():
    assert custom_code({}) == custom_code({"auto_map": 1}) == custom_code({"auto_map": {}}) == []
    assert custom_code({"auto_map": {"AutoConfig": "configuration_x.X", "AutoModel": "o/r--modeling_x.X"}}) == [
        "configuration_x.py",
        "modeling_x.py",
    ]


def test_front_matter():
    assert front_matter(b"---\nlicense: mit\ntags: [a]\n---\n# M") == {"license": "mit", "tags": ["a"]}
    for text in (
        b"",
        b"# M\n---\nlicense: mit\n---\n",
        b"---\n- a\n---\n",
        b"---\na: [\n---\n",
        b"---\n!!python/x y\n---\n",
    ):
        assert front_matter(text) == {}
