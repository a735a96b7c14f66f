# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shape of a model from its config.json, as vLLM and Hugging Face transformers understand it.

General rules, no table of models: the numbers are found by the names that families of models give them
(`serving_config`), the kinds of the layers by their lists and periods (`serving_layers`), the weights are counted part
by part (`serving_parameters`). An architecture that is not known here but has the ordinary numbers is planned as an
ordinary transformer, with a note and a wider interval; one that no engine here can serve is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_config import Reader, text_config
from ansible_collections.baremetal.llm.plugins.module_utils.serving_layers import (
    Mixer,
    attention_layers,
    indexer_bytes,
    read_mixers,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_parameters import (
    count,
    mixer_ratios,
    tower_parameters,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_quantization import (
    read_quantization,
    wished_quantization,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import (
    BEFORE,
    CROSS,
    ENCODER,
    FULL,
    INDEXER,
    MLA,
    SLIDING_WINDOW,
    STATE,
    AttentionLayers,
    Experts,
    ModelConfigError,
    ModelShape,
    Quantization,
)

__all__ = ["ModelConfigError", "ModelShape", "read_model_shape"]

# Families whose layers are understood here (model_type, of the language model where there are several).
_KNOWN = {
    "afmoe", "apertus", "arcee", "aria_text", "axk1", "baichuan", "bailing_hybrid", "bailing_moe", "bailing_moe_linear",
    "bamba", "bert", "bloom", "camembert", "chatglm", "cohere", "cohere2", "cohere2_moe", "dbrx", "deci", "deepseek",
    "bitnet", "cwm", "helium", "hy_v3", "hyperclovax", "jais2", "solar_open", "vaultgemma", "nanochat", "codegen",
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5", "ernie4_5_moe", "exaone", "exaone4",
    "exaone_moe", "falcon", "falcon_h1", "falcon_mamba", "flex_olmo", "fuyu", "gemma", "gemma2", "gemma3",
    "gemma3_text",
    "gemma3n_text", "gemma4", "gemma4_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "glm4v_moe_text", "glm4v_text",
    "glm_moe_dsa", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoehybrid",
    "granitemoeshared", "grok-1", "hunyuan", "hunyuan_v1_dense", "hunyuan_v1_moe", "internlm2", "internlm3", "jais",
    "jamba", "kimi_k2", "kimi_linear", "lfm2", "lfm2_moe", "llama", "llama4_text", "longcat_flash", "mamba", "mamba2",
    "mimo", "mimo_v2", "mimo_v2_flash", "minicpm", "minicpm3", "minimax", "minimax_m2", "minimax_m1", "minimax_text_01",
    "MiniMaxText01", "MiniMaxM1", "ministral", "ministral3", "mistral", "mistral4", "mixtral", "modernbert", "mpt",
    "nemotron", "nemotron-nas", "nemotron_h", "nomic_bert", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "opt",
    "orion", "ouro", "pangu_ultra_moe", "persimmon", "phi", "phi3", "phi3_v", "phi4mm", "phimoe", "plamo2", "qwen",
    "qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_moe", "qwen2_vl", "qwen2_vl_text", "qwen3", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_omni_moe_text", "qwen3_vl_moe_text", "qwen3_vl_text",
    "RefinedWeb", "RefinedWebModel", "roberta", "seed_oss", "smollm3", "solar", "stablelm", "starcoder2", "step3_text",
    "step3p5", "telechat2", "whisper", "xlm-roberta", "xverse", "zamba2", "qwen2_5_omni_text", "qwen2_audio",
}  # fmt: skip
# Encoder-decoder models that vLLM does not serve.
_REFUSED = {
    "t5",
    "mt5",
    "umt5",
    "bart",
    "mbart",
    "pegasus",
    "longt5",
    "marian",
    "m2m_100",
    "blenderbot",
    "led",
    "switch_transformers",
}
# Embeddings are the LM head too, where config.json does not say.
_TIED = {
    "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n_text", "gemma4", "gemma4_text", "cohere", "cohere2", "gpt2",
    "opt", "bloom", "mpt", "gpt_bigcode", "whisper", "starcoder2", "mamba", "mamba2", "falcon_mamba", "falcon", "lfm2",
    "lfm2_moe", "bert", "roberta", "xlm-roberta", "modernbert", "nomic_bert", "camembert",
}  # fmt: skip
_TOWERS = {
    "vision_config": "vision",
    "visual": "vision",
    "vision_tower_config": "vision",
    "vit_config": "vision",
    "audio_config": "audio",
    "audio_encoder_config": "audio",
    "speech_config": "audio",
}
_ROPE_WITHOUT_FACTOR = (
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
    "mrope",
    "default",
)
# What the engine takes where config.json says nothing of it (vLLM, config/model.py).
_LENGTH = 2048
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)


def read_model_shape(config: Mapping[str, Any], quantization: str | None = None) -> ModelShape:
    """The shape of the model that a config.json (as a mapping) describes.

    `quantization`: the engine's option of that name. It quantizes a checkpoint of 16 bits while it is loaded ("fp8",
    "bitsandbytes"), or stands for another checkpoint of the same model in that format ("awq", "gptq", "int4", "nvfp4",
    "mxfp4", ...); what a quantized checkpoint says of itself wins.

    Raises ModelConfigError with every key that is missing or wrong at once.
    """
    if not isinstance(config, Mapping) or not config:
        raise ModelConfigError(["config.json is empty or not a mapping: give the one of the model itself"])
    text = text_config(config)
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    architecture = _architecture(config, text)
    if model_type in _REFUSED or (config.get("is_encoder_decoder") and model_type != "whisper"):
        raise ModelConfigError(
            [
                f"{architecture or model_type} is an encoder-decoder model, which vLLM does not serve: take a decoder "
                "model (or Whisper for speech)"
            ]
        )
    stored = read_quantization(config, text)
    if quantization:
        stored = wished_quantization(quantization, stored)
    reader = Reader(text)
    if model_type == "whisper":
        shape = _whisper(reader, architecture, stored)
    else:
        shape = _decoder(reader, config, model_type, architecture, stored)
    reader.check(f"config.json of {architecture or model_type or 'an unnamed model'}")
    return shape


def _architecture(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    for place in (config, text):
        names = place.get("architectures")
        if isinstance(names, (list, tuple)) and names and isinstance(names[0], str):
            return names[0]
    return ""


def _decoder(
    reader: Reader, config: Mapping[str, Any], model_type: str, architecture: str, quantization: Quantization | None
) -> ModelShape:
    if model_type == "longcat_flash":
        # Every layer has two of attention and of the dense network (vLLM, longcat_flash.py).
        single = reader.number("num_layers", reader.number("num_hidden_layers", 1), most=2048)
        layers = 2 * single
    else:
        for name in ("layers_block_type", "hybrid_override_pattern"):
            listed = reader.config.get(name)
            if reader.raw("num_hidden_layers") is None and isinstance(listed, (list, str)) and 0 < len(listed) <= 4096:
                reader.config = {**reader.config, "num_hidden_layers": len(listed)}
        layers = reader.layers()
    hidden, vocabulary = reader.number("hidden_size"), reader.number("vocab_size")
    found = read_mixers(reader, model_type, architecture, layers)
    mixers = list(found.of_layer)
    experts, feed_forward = _feed_forward(reader, model_type, hidden, layers, mixers)
    tied = reader.flag("tie_word_embeddings", reader.flag("tie_embedding", model_type in _TIED))
    drafts = reader.number("num_nextn_predict_layers", reader.number("mtp_num_hidden_layers", 0, 0, 64), 0, 64)
    if drafts and reader.config.get("num_nextn_predict_layers") is None and not model_type.startswith("qwen3"):
        drafts = 0
    # Nothing is counted in numbers that are wrong.
    reader.check(f"config.json of {architecture or model_type or 'an unnamed model'}")
    counter = count(reader, model_type, mixers, experts, feed_forward, tied, quantization, drafts)
    modalities = []
    for key, modality in _towers(config):
        counter.add(f"{modality}_tower", "tower", "tensor", tower_parameters(key, hidden), (BEFORE,))
        modalities.append(modality)
    notes = list(found.notes)
    known = (model_type in _KNOWN or model_type.lower() in _KNOWN) and not found.notes
    if not known and not found.notes:
        notes.append(
            f"the architecture {architecture or model_type or 'without a name'} is not known here; it is planned as an "
            "ordinary transformer, and the interval is wider"
        )
    kept = attention_layers(mixers, indexer_bytes(reader))
    if model_type.startswith("deepseek_v4"):
        kept, known = _compressed_layers(reader, layers), False
        notes = ["the packed cache of DeepSeek V4 is planned by its layout in vLLM 0.32; the interval is wider"]
    wide = [mixer for of_layer in mixers for mixer in of_layer if mixer.kind != STATE]
    widest = max(wide, key=lambda mixer: mixer.kv_heads * mixer.head_size, default=Mixer(FULL))
    encoder = bool(kept) and all(layers.kind == ENCODER for layers in kept)
    draft_layers = _draft_layers(kept, mixers, drafts, indexer_bytes(reader))
    dense = max(feed_forward, default=0)
    routed = experts.intermediate_size * experts.per_token + experts.shared_intermediate_size if experts else 0
    return ModelShape(
        architecture=architecture,
        model_type=model_type,
        stored_dtype=_stored_dtype(config, reader.config),
        dtype="float16" if _stored_dtype(config, reader.config) == "float16" else "bfloat16",
        hidden_size=hidden,
        intermediate_size=max(dense, routed),
        dense_intermediate_size=dense,
        num_hidden_layers=layers,
        num_attention_heads=max((mixer.heads for mixer in wide), default=0),
        num_kv_heads=widest.kv_heads,
        head_size=widest.head_size,
        vocab_size=vocabulary,
        max_position_embeddings=_longest(reader, config, model_type),
        layers=kept,
        groups=tuple(counter.groups),
        quantization=quantization,
        experts=experts,
        tie_word_embeddings=tied,
        modalities=tuple(dict.fromkeys(modalities)),
        draft_layers=draft_layers,
        task="pooling" if encoder else "generate",
        known=known,
        notes=tuple(notes),
    )


def _compressed_layers(reader: Reader, layers: int) -> tuple[AttentionLayers, ...]:
    """What DeepSeek V4 keeps, in its packed layout (vLLM, models/deepseek_v4: attention.py, compressor.py).

    Every layer the last tokens of a window, 584 bytes each; layers that compress an entry of 584 bytes for 4 or 128
    tokens, with 4 an indexer's key besides; and what is being compressed, in 32 bits.
    """
    everything, head = tuple(range(layers)), reader.optional("head_dim") or 512
    ratios = mixer_ratios(reader, everything)
    window = reader.optional("sliding_window") or 128
    entry, index = 584, reader.optional("index_head_dim") or 128
    found = [AttentionLayers(SLIDING_WINDOW, everything, 1, head, 0, window, None, entry, 1, 64)]
    for ratio in sorted(set(ratios.values())):
        places = tuple(place for place, value in ratios.items() if value == ratio)
        overlap, block = (2, 4) if ratio == 4 else (1, 8)
        found.append(AttentionLayers(MLA, places, 1, head, 0, 0, None, entry, ratio))
        state = 2 * overlap * head * 4
        found.append(AttentionLayers(SLIDING_WINDOW, places, 1, head, 0, overlap * ratio, None, state, 1, block))
        if ratio == 4:
            found.append(AttentionLayers(INDEXER, places, 1, index, 0, 0, None, index + index // 128 * 4, ratio))
            found.append(
                AttentionLayers(
                    SLIDING_WINDOW, places, 1, index, 0, overlap * ratio, None, 2 * overlap * index * 4, 1, block
                )
            )
    return tuple(found)


def _draft_layers(
    kept: Sequence[AttentionLayers], mixers: Sequence[tuple[Mixer, ...]], drafts: int, index_bytes: int
) -> tuple[AttentionLayers, ...]:
    """What layers of multi-token prediction keep: the same as a layer of full attention, and the indexer's keys."""
    full = [layers for layers in kept if layers.kind in (FULL, MLA)]
    if not drafts or not full:
        return ()
    result = [replace(full[0], positions=tuple(range(drafts)))]
    result += [replace(part, positions=tuple(range(drafts))) for part in kept if part.head_size == index_bytes > 0]
    return tuple(result)


def _towers(config: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    found = []
    places = [config]
    thinker = config.get("thinker_config")
    if isinstance(thinker, Mapping):
        places.append(thinker)
    for place in places:
        for key, modality in _TOWERS.items():
            part = place.get(key)
            if isinstance(part, Mapping) and part:
                found.append((part, modality))
    return found


def _stored_dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    for place in (config, text):
        for key in ("dtype", "torch_dtype"):
            value = place.get(key)
            if isinstance(value, str) and value:
                return value.rpartition(".")[2]
    return "float32" if not isinstance(config.get("vision_config"), Mapping) else "bfloat16"


def _longest(reader: Reader, config: Mapping[str, Any], model_type: str) -> int:
    """The context that the engine derives: the smallest length that config.json names, times a rope factor.

    As vLLM's `config/model.py: _get_and_verify_max_len`, except that a tokenizer's limit is not known here.
    """
    lengths = [
        reader.number(name, 0, least=0) for name in _LENGTHS if isinstance(reader.config.get(name), (int, float))
    ]
    lengths = [length for length in lengths if length > 0]
    command = reader.config.get("model_max_length")
    longest = float(command) if isinstance(command, int) and command > 0 else float(min(lengths, default=_LENGTH))
    rope = reader.config.get("rope_scaling") or reader.config.get("rope_parameters") or {}
    parts: list[Mapping[str, Any]] = [rope] if isinstance(rope, Mapping) else []
    if parts and all(isinstance(value, Mapping) for value in parts[0].values()):
        parts = [value for value in parts[0].values() if isinstance(value, Mapping)]
    for part in parts:
        kind = str(part.get("rope_type") or part.get("type") or "default")
        factor = part.get("factor")
        if kind in ("longrope", "su"):
            original = reader.config.get("original_max_position_embeddings")
            if kind == "longrope" and isinstance(original, int) and original > 0:
                # Longer ones are served only when asked for.
                longest = float(original)
        elif kind not in _ROPE_WITHOUT_FACTOR and "gemma3" not in model_type and isinstance(factor, (int, float)):
            longest *= factor if 0 < factor < 10_000 else 1
    return max(1, int(longest))


def _feed_forward(
    reader: Reader, model_type: str, hidden: int, layers: int, mixers: Sequence[tuple[Mixer, ...]]
) -> tuple[Experts | None, dict[int, list[int]]]:
    """The experts, and the widths of dense networks with the layers that have them."""
    blocks = reader.per_layer("block_configs", layers)
    if blocks:
        return None, _block_widths(blocks, hidden)
    dense_width = _dense_width(reader, model_type, hidden)
    ffn = reader.mapping("ffn_config")
    number = reader.raw("num_experts")
    if isinstance(number, (list, tuple)):
        number = number[0] if number else 0
    if ffn.get("moe_num_experts"):
        number = ffn["moe_num_experts"]
    number = number if isinstance(number, int) and not isinstance(number, bool) and 1 < number <= 1 << 20 else 0
    pattern = reader.per_layer("hybrid_override_pattern", layers) or reader.per_layer("layers_block_type", layers)
    if model_type.startswith("nemotron_h"):
        names = [str(item).lower() for item in pattern]
        routed = [index for index, name in enumerate(names) if name in ("e", "moe")]
        dense = [index for index, name in enumerate(names) if name in ("-", "mlp")]
    elif model_type in ("mamba", "mamba2", "falcon_mamba"):
        return None, {}
    else:
        routed = _layers_with_experts(reader, model_type, layers) if number else []
        chosen = set(routed)
        dense = [index for index in range(layers) if index not in chosen]
    if model_type == "zamba2":
        blocks_used = [i for i, of_layer in enumerate(mixers) if any(m.kind != STATE for m in of_layer)]
        dense = blocks_used[: max(1, reader.optional("num_mem_blocks"))]
    feed_forward: dict[int, list[int]] = {}
    if dense and dense_width:
        feed_forward[dense_width] = list(dense)
    if model_type.startswith("gemma4") and number:
        feed_forward = {dense_width: list(range(layers))}
        routed = list(range(layers))
    if model_type == "longcat_flash":
        feed_forward = {dense_width: list(range(layers))}
        routed = list(range(0, layers, 2))
    if not routed:
        return None, feed_forward
    width = _expert_width(reader, model_type, dense_width, ffn)
    per_token = reader.raw("num_experts_per_tok")
    if isinstance(per_token, (list, tuple)):
        per_token = max((value for value in per_token if isinstance(value, int)), default=1)
    if ffn.get("moe_top_k"):
        per_token = ffn["moe_top_k"]
    per_token = per_token if isinstance(per_token, int) and 0 < per_token <= number else 1
    return Experts(number, per_token, width, tuple(routed), _shared_width(reader, model_type, width)), feed_forward


def _block_widths(blocks: Sequence[Any], hidden: int) -> dict[int, list[int]]:
    widths: dict[int, list[int]] = {}
    for index, block in enumerate(blocks):
        part = block.get("ffn") if isinstance(block, Mapping) else None
        if not isinstance(part, Mapping) or part.get("no_op"):
            continue
        width = part.get("intermediate_size")
        if not isinstance(width, int):
            ratio = part.get("ffn_mult")
            # 2/3 of four times the hidden size, rounded up to a multiple of 256 (DeciLM).
            ratio = ratio if isinstance(ratio, (int, float)) and 0 < ratio < 64 else 1
            width = -(-int(2 * ratio * hidden / 3) // 256) * 256
        widths.setdefault(width, []).append(index)
    return widths


def _dense_width(reader: Reader, model_type: str, hidden: int) -> int:
    if model_type.startswith("llama4") and reader.optional("intermediate_size_mlp"):
        return reader.optional("intermediate_size_mlp")
    if model_type == "granitemoehybrid" or model_type == "granitemoeshared":
        return reader.optional("shared_intermediate_size") or reader.optional("intermediate_size")
    if reader.mapping("ffn_config").get("ffn_hidden_size"):
        return Reader(reader.mapping("ffn_config")).optional("ffn_hidden_size")
    if model_type == "lfm2" or reader.optional("block_ff_dim"):
        width = reader.optional("block_ff_dim") or reader.number("intermediate_size")
        if reader.flag("block_auto_adjust_ff_dim", True):
            width = int(2 * width / 3)
            width = int(reader.decimal("block_ffn_dim_multiplier", 1.0) * width)
            multiple = reader.optional("block_multiple_of") or 256
            width = -(-width // multiple) * multiple
        return width
    raw = reader.raw("intermediate_size")
    if isinstance(raw, (list, tuple)) and raw and all(isinstance(item, int) for item in raw):
        # Gemma 3n: a width for each layer; all are the same in what is published.
        return max(int(item) for item in raw)
    if raw is None and (reader.config.get("expansion_ratio") or model_type in _FOUR_TIMES):
        ratio = reader.config.get("expansion_ratio", 4)
        return int((ratio if isinstance(ratio, (int, float)) and 0 < ratio < 64 else 4) * hidden)
    if model_type in ("mamba", "mamba2", "falcon_mamba"):
        return 0
    wide: int = reader.number("intermediate_size") if raw is not None else 0
    if raw is None and reader.raw("moe_intermediate_size") is None:
        reader.missing.append("intermediate_size")
    return wide // 2 if model_type == "qwen" else wide


_FOUR_TIMES = {"gpt2", "gpt_bigcode", "bloom", "falcon", "RefinedWeb", "RefinedWebModel", "mpt", "gptj", "codegen"}


def _layers_with_experts(reader: Reader, model_type: str, layers: int) -> list[int]:
    everything = range(layers)
    listed = reader.config.get("mlp_layer_types")
    if isinstance(listed, (list, tuple)) and len(listed) >= layers:
        return [index for index in everything if listed[index] == "sparse" or "moe" in str(listed[index])]
    enumerated = reader.config.get("moe_layers_enum")
    if isinstance(enumerated, str):
        chosen = {int(part) for part in enumerated.split(",") if part.strip().isdigit()}
        return [index for index in everything if index in chosen]
    places = reader.config.get("moe_layers")
    if isinstance(places, (list, tuple)) and places and all(isinstance(item, int) for item in places):
        return [index for index in everything if index in set(places)]
    frequency = reader.config.get("moe_layer_freq")
    if isinstance(frequency, (list, tuple)) and len(frequency) >= layers:
        return [index for index in everything if frequency[index]]
    first = reader.number("first_k_dense_replace", reader.number("num_dense_layers", 0, 0), 0)
    last = reader.number("moe_layer_end_index", layers - 1, -1)
    last = layers - 1 if last < 0 else last
    first = max(first, reader.number("moe_layer_start_index", 0, 0))
    if reader.config.get("expert_layer_period"):
        period, offset = reader.number("expert_layer_period"), reader.number("expert_layer_offset", 0, 0)
        return [index for index in everything if index % period == offset % period]
    step = frequency if isinstance(frequency, int) and frequency > 0 else 1
    result = [index for index in everything if first <= index <= last and index % step == 0]
    sparse = reader.optional("decoder_sparse_step") or reader.optional("interleave_moe_layer_step")
    sparse = sparse or reader.optional("moe_layer_interval") or 1
    plain = reader.positions("mlp_only_layers", layers) or frozenset()
    return [index for index in result if (index + 1) % sparse == 0 and index not in plain]


def _expert_width(reader: Reader, model_type: str, dense_width: int, ffn: Mapping[str, Any]) -> int:
    raw = reader.raw("moe_intermediate_size")
    if isinstance(raw, (list, tuple)) and raw and isinstance(raw[0], int):
        return max(1, min(int(raw[0]), 1 << 30))
    if raw is not None:
        return reader.number("moe_intermediate_size")
    if model_type.startswith(("llama4", "granitemoe")):
        return reader.number("intermediate_size")
    return dense_width


def _shared_width(reader: Reader, model_type: str, width: int) -> int:
    for name in ("shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size"):
        if reader.optional(name):
            return reader.optional(name)
    if reader.optional("share_expert_dim"):
        return reader.optional("share_expert_dim")
    if model_type.startswith("llama4"):
        return width
    for name in ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert"):
        number = reader.config.get(name)
        if isinstance(number, (list, tuple)):
            number = number[0] if number else 0
        if isinstance(number, int) and not isinstance(number, bool) and 0 < number < 1024:
            return number * width
    return 0


def _whisper(reader: Reader, architecture: str, quantization: Quantization | None) -> ModelShape:
    """Speech to text: a decoder that also reads what the encoder read, which is kept in full."""
    hidden, heads = reader.number("d_model"), reader.number("decoder_attention_heads")
    decoder, encoder = reader.number("decoder_layers", most=4096), reader.number("encoder_layers", most=4096)
    vocabulary, width = reader.number("vocab_size"), reader.number("decoder_ffn_dim", 4 * hidden)
    source = reader.number("max_source_positions", 1500)
    reader.check("config.json of Whisper")
    size = max(1, hidden // heads)
    places = tuple(range(decoder))
    mixers = [(Mixer(FULL, heads, heads, size, size), Mixer(CROSS, heads, heads, size, size, source))] * decoder
    counter = count(reader, "whisper", mixers, None, {width: places}, True, quantization)
    layer = 4 * hidden * hidden + 2 * hidden * reader.number("encoder_ffn_dim", 4 * hidden)
    counter.add("encoder", "linear", "tensor", layer * encoder, (BEFORE,))
    return ModelShape(
        architecture=architecture,
        model_type="whisper",
        stored_dtype=_stored_dtype(reader.config, reader.config),
        dtype="float16" if _stored_dtype(reader.config, reader.config) == "float16" else "bfloat16",
        hidden_size=hidden,
        intermediate_size=width,
        dense_intermediate_size=width,
        num_hidden_layers=decoder,
        num_attention_heads=heads,
        num_kv_heads=heads,
        head_size=size,
        vocab_size=vocabulary,
        max_position_embeddings=_longest(reader, reader.config, "whisper"),
        layers=attention_layers(mixers),
        groups=tuple(counter.groups),
        quantization=quantization,
        tie_word_embeddings=True,
        modalities=("audio",),
        task="transcription",
    )
