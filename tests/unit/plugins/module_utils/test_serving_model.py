# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import random
import time

import pytest
from serving_sample import MODELS, config_of, shape_of

from ansible_collections.baremetal.llm.plugins.module_utils.serving_model import ModelConfigError, read_model_shape
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import (
    CHUNKED,
    CROSS,
    ENCODER,
    FULL,
    INDEXER,
    MLA,
    SLIDING_WINDOW,
    STATE,
)

# Parameters, as the headers of the published files add up to (the model cards of the Hugging Face Hub show them).
EXACT = {
    "llama-3.1-8b": 8030261248,
    "llama-3.1-70b": 70553706496,
    "llama-3.1-405b": 405853388800,
    "llama-3.2-1b": 1235814400,
    "qwen2.5-1.5b": 1543714304,
    "qwen2.5-7b": 7615616512,
    "qwen2.5-14b": 14770033664,
    "qwen2.5-72b": 72706203648,
    "qwen3-1.7b": 1720574976,
    "qwen3-14b": 14768307200,
    "qwen3-32b": 32762123264,
    "qwen3-30b-a3b": 30532122624,
    "qwen3-235b-a22b-fp8": 235093634560,
    "qwen3-next-80b-a3b": 79674391296,
    "gemma-2-9b": 9241705984,
    "mixtral-8x7b": 46702792704,
    "gpt-oss-20b": 20914757184,
    "gpt-oss-120b": 116829156672,
    "deepseek-v2-lite": 15706484224,
    "deepseek-v3": 671026419200,
    "kimi-k2": 1026408232448,
    "phi-3-mini-4k": 3821079552,
    "phi-4": 14659507200,
    "falcon-40b": 41839804416,
    "gpt2": 124439808,
    "jamba-1.5-mini": 51570323328,
    "lfm2-1.2b": 1170340608,
    "command-r7b": 8028033024,
    "glm-4.5-air": 106852251264,
    "minimax-m2": 228689748992,
}
# With towers for images and sound, or as the cards round them.
NEARLY = {
    "gemma-3-4b": 4300079472,
    "gemma-3-27b": 27432406640,
    "gemma-3n-e4b": 7.85e9,
    "gemma-4-31b": 31.27e9,
    "llama-4-scout": 108641793536,
    "mistral-small-3.2": 24011361280,
    "qwen2.5-vl-7b": 8292166656,
    "qwen3.5-27b": 27.36e9,
    "nemotron-h-8b": 8.1e9,
    "granite-4.0-h-small": 32.2e9,
    "granite-4.0-micro": 3.4e9,
    "falcon-h1-7b": 7.59e9,
    "kimi-linear-48b-a3b": 49.12e9,
    "glm-5": 744e9,
    "whisper-large-v3": 1543490560,
    "bge-m3": 567754752,
}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_counts_the_weights_of_a_model_of_text(name):
    assert shape_of(name).parameters == pytest.approx(EXACT[name], rel=0.0008)


@pytest.mark.parametrize("name", sorted(NEARLY))
def test_counts_the_weights_of_other_models_nearly(name):
    assert shape_of(name).parameters == pytest.approx(NEARLY[name], rel=0.009)


def test_knows_the_families_of_all_samples():
    assert [name for name in MODELS if not shape_of(name).known] == []


def kinds(name):
    return {(layers.kind, layers.count) for layers in shape_of(name).layers}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-8b", {(FULL, 32)}),
        ("qwen2.5-7b", {(FULL, 28)}),  # use_sliding_window is false
        ("phi-3-mini-4k", {(SLIDING_WINDOW, 32)}),
        ("gemma-2-9b", {(FULL, 21), (SLIDING_WINDOW, 21)}),
        ("gemma-3-27b", {(FULL, 10), (SLIDING_WINDOW, 52)}),
        ("gemma-3n-e4b", {(FULL, 4), (SLIDING_WINDOW, 16)}),  # 15 of 35 layers read what others keep
        ("gpt-oss-20b", {(FULL, 12), (SLIDING_WINDOW, 12)}),
        ("command-r7b", {(FULL, 8), (SLIDING_WINDOW, 24)}),
        ("llama-4-scout", {(FULL, 12), (CHUNKED, 36)}),
        ("qwen3-next-80b-a3b", {(FULL, 12), (STATE, 36)}),
        ("jamba-1.5-mini", {(FULL, 4), (STATE, 28)}),
        ("nemotron-h-8b", {(FULL, 4), (STATE, 24)}),
        ("granite-4.0-h-small", {(FULL, 4), (STATE, 36)}),
        ("falcon-h1-7b", {(FULL, 44), (STATE, 44)}),
        ("lfm2-1.2b", {(FULL, 6), (STATE, 10)}),
        ("kimi-linear-48b-a3b", {(MLA, 7), (STATE, 20)}),
        ("deepseek-v3", {(MLA, 61)}),
        ("deepseek-v3.2", {(MLA, 61), (INDEXER, 61)}),
        ("whisper-large-v3", {(FULL, 32), (CROSS, 32)}),
        ("bge-m3", {(ENCODER, 24)}),
    ],
)
def test_tells_the_kinds_of_layers(name, expected):
    assert kinds(name) == expected


def test_reads_numbers_by_the_names_of_each_family():
    gpt2, falcon = shape_of("gpt2"), shape_of("falcon-40b")
    assert (gpt2.hidden_size, gpt2.num_hidden_layers, gpt2.num_kv_heads, gpt2.max_position_embeddings) == (
        768,
        12,
        12,
        1024,
    )
    assert (falcon.num_kv_heads, falcon.head_size, falcon.intermediate_size) == (8, 64, 32768)
    multi_query = {**config_of("falcon-40b"), "new_decoder_architecture": False, "multi_query": True}
    assert read_model_shape(multi_query).num_kv_heads == 1


def test_reads_what_transformers_5_writes():
    kimi = {
        **config_of("kimi-linear-48b-a3b"),
        "linear_num_heads": 32,
        "linear_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }
    kimi["layer_types"] = [
        "full_attention" if n in (4, 8, 12, 16, 20, 24, 27) else "linear_attention" for n in range(1, 28)
    ]
    kimi["mlp_layer_types"] = ["dense"] + ["sparse"] * 26
    del kimi["linear_attn_config"], kimi["first_k_dense_replace"]
    assert read_model_shape(kimi).layers == shape_of("kimi-linear-48b-a3b").layers
    assert read_model_shape(kimi).parameters == shape_of("kimi-linear-48b-a3b").parameters
    gemma = config_of("gemma-4-31b")
    text = gemma["text_config"]
    del text["global_head_dim"], text["attention_k_eq_v"]
    text["per_layer_config"] = {f"{n:02d}": {"head_dim": 512, "num_key_value_heads": 4} for n in range(5, 60, 6)}
    # Not an encoder: only images are seen as a whole.
    text["use_bidirectional_attention"] = "vision"
    assert read_model_shape(gemma).layers == shape_of("gemma-4-31b").layers
    nemotron = {**config_of("nemotron-h-8b"), "num_hidden_layers": None, "hybrid_override_pattern": None}
    names = {"M": "mamba", "-": "mlp", "*": "attention"}
    nemotron["layers_block_type"] = [names[sign] for sign in config_of("nemotron-h-8b")["hybrid_override_pattern"]]
    assert read_model_shape(nemotron) == shape_of("nemotron-h-8b")


def test_takes_the_defaults_of_a_class_for_what_a_multimodal_model_leaves_out():
    shape = shape_of("gemma-3-4b")
    assert (shape.num_attention_heads, shape.num_kv_heads, shape.head_size, shape.vocab_size) == (8, 4, 256, 262208)
    assert shape.tie_word_embeddings and shape.modalities == ("vision",)


def test_only_models_of_embeddings_keep_nothing():
    text = {**config_of("gemma-3-4b")["text_config"], "use_bidirectional_attention": True}
    text = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262144, **text}
    embedding = read_model_shape({**text, "architectures": ["Gemma3TextModel"]})
    assert {layers.kind for layers in embedding.layers} == {ENCODER} and embedding.task == "pooling"
    speaking = read_model_shape({**text, "architectures": ["PaliGemmaForConditionalGeneration"]})
    assert ENCODER not in {layers.kind for layers in speaking.layers} and speaking.task == "generate"


def test_derives_the_longest_context_as_the_engine_does():
    config = config_of("llama-3.1-8b")
    assert read_model_shape(config).max_position_embeddings == 131072
    assert (
        read_model_shape({**config, "rope_scaling": {"type": "linear", "factor": 2.0}}).max_position_embeddings
        == 262144
    )
    assert (
        read_model_shape({**config, "rope_scaling": {"type": "yarn", "factor": 4.0}}).max_position_embeddings == 131072
    )
    long_rope = {**config, "rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}
    assert read_model_shape(long_rope).max_position_embeddings == 4096
    assert read_model_shape({**config, "max_position_embeddings": None}).max_position_embeddings == 2048


def test_expects_drafts_apart_from_the_model():
    shape = shape_of("deepseek-v3")
    assert [layers.kind for layers in shape.draft_layers] == [MLA]
    assert shape.draft_parameters == pytest.approx(11.6e9, rel=0.02)
    # The released file holds both: 685 billion with the draft's own embeddings.
    assert shape.parameters + shape.draft_parameters == pytest.approx(683e9, rel=0.005)


@pytest.mark.parametrize(
    ("quantization", "method", "form", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq", "int4", 4.15625),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "gptq", "int8", 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "fp8", 8.001953125),
        ({"quant_method": "mxfp4"}, "mxfp4", "mxfp4", 4.25),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt", "nvfp4", 4.5),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "modelopt_fp4", "nvfp4", 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "nf4", 4.5),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True}}
                },
            },
            "compressed-tensors",
            "int4",
            4.5,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
            },
            "compressed-tensors",
            "nvfp4",
            4.5,
        ),
    ],
)
def test_reads_how_weights_are_quantized(quantization, method, form, bits):
    found = read_model_shape({**config_of("llama-3.1-8b"), "quantization_config": quantization}).quantization
    assert (found.method, found.format, found.effective_bits) == (method, form, bits)


def test_leaves_out_of_quantization_what_the_checkpoint_leaves_out():
    plain, experts = shape_of("gpt-oss-20b"), shape_of("gpt-oss-20b").experts
    assert {group.bits for group in plain.groups if group.role == "expert"} == {4.25}
    assert {group.bits for group in plain.groups if group.role != "expert"} == {16}
    assert experts.count == 32
    config = {**config_of("llama-3.1-8b")}
    ignore = ["re:.*self_attn.*", "model.layers.0.mlp.down_proj", "lm_head"]
    config["quantization_config"] = {"quant_method": "compressed-tensors", "ignore": ignore}
    groups = read_model_shape(config).groups
    assert {group.bits for group in groups if "self_attn" in group.name} == {16}
    assert {group.bits: group.positions for group in groups if group.name == "mlp"}[16] == (0,)


def test_does_not_run_the_patterns_of_a_checkpoint():
    config = config_of("llama-3.1-8b")
    config["quantization_config"] = {"quant_method": "fp8", "ignored_layers": ["re:(a+)+$" + "a" * 5000] * 1000}
    started = time.monotonic()
    read_model_shape(config)
    assert time.monotonic() - started < 1


def test_asks_for_every_missing_key_at_once():
    with pytest.raises(ModelConfigError) as error:
        read_model_shape({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    message = str(error.value)
    for key in ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "intermediate_size"):
        assert key in message
    assert "LlamaForCausalLM" in message and "give the config.json" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_hidden_layers": -3}, "num_hidden_layers must be a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number"),
        ({"hidden_size": "wide"}, "hidden_size must be a whole number"),
        ({"vocab_size": True}, "vocab_size must be a whole number"),
        ({"num_key_value_heads": 64}, "num_key_value_heads 64 is more than num_attention_heads 32"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 elements for 32 layers"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_refuses_a_config_that_cannot_be(change, expected):
    with pytest.raises(ModelConfigError, match=expected):
        read_model_shape({**config_of("llama-3.1-8b"), **change})


def test_says_so_when_it_does_not_know_an_architecture():
    shape = read_model_shape(
        {**config_of("llama-3.1-8b"), "model_type": "novel", "architectures": ["NovelForCausalLM"]}
    )
    assert not shape.known and "NovelForCausalLM is not known here" in shape.notes[0]
    listed = {**config_of("llama-3.1-8b"), "layer_types": ["telepathy"] * 32}
    assert "telepathy" in read_model_shape(listed).notes[0] and not read_model_shape(listed).known


@pytest.mark.parametrize("config", [{}, [], None, {"model_type": "llama", "text_config": {"text_config": {}}}])
def test_refuses_what_is_no_config(config):
    with pytest.raises(ModelConfigError):
        read_model_shape(config)


def test_survives_whatever_a_config_says():
    """Every number, list and mapping of every sample in turn replaced by something else."""
    source = random.Random(1)
    values = [None, -1, 0, 2**63, 1.5, "x", [], {}, [0] * 3, True, {"a": {"b": 1}}, float("nan"), "9" * 500]
    for name in MODELS:
        config = config_of(name)
        for place in (config, config.get("text_config") or {}):
            for key in place:
                changed = copy.deepcopy(config)
                target = changed if place is config else changed["text_config"]
                target[key] = source.choice(values)
                try:
                    shape = read_model_shape(changed)
                except ModelConfigError:
                    continue
                assert shape.parameters > 0 and shape.num_hidden_layers > 0


def test_reads_a_model_quickly():
    configs = [config_of(name) for name in MODELS]
    started = time.process_time()
    for config in configs:
        read_model_shape(config)
    assert (time.process_time() - started) / len(configs) < 0.01


def test_is_the_same_for_equal_configs():
    text = json.dumps(config_of("qwen3.5-27b"))
    assert read_model_shape(json.loads(text)) == read_model_shape(json.loads(text))
