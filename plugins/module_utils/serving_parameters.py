# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many weights a model has, part by part, counted from its config.json.

The matrices of every layer as the model classes of Hugging Face transformers define them: attention (q, k, v, o; for
multi-head latent attention its compressed projections), states (Mamba, linear attention, short convolution), the
feed-forward network or its experts, norms, embeddings and LM head. Towers for images and sound are estimated from their
own configurations. Each part says how it is divided over GPUs and in how many bits it is held.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_config import Reader
from ansible_collections.baremetal.llm.plugins.module_utils.serving_layers import Mixer
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import (
    AFTER,
    BEFORE,
    ENCODER,
    MLA,
    STATE,
    Experts,
    LayerState,
    Quantization,
    TensorGroup,
)

# Feed-forward networks of two matrices instead of three (gate, up, down).
_UNGATED = {
    "gpt2", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "RefinedWeb", "RefinedWebModel", "mpt", "phi",
    "starcoder2", "nemotron", "nemotron_h", "persimmon", "codegen", "whisper", "arcee", "apertus", "bert", "roberta",
    "xlm-roberta", "camembert", "distilbert", "fuyu", "jais2", "nemotron_h_puzzle", "albert", "electra", "mpnet",
    "ernie", "bert-generation", "megatron-bert", "rembert", "roberta-prelayernorm", "xlm-roberta-xl", "xmod",
    "nanochat",
}  # fmt: skip
# Norms of a layer, each as long as the hidden size; two otherwise.
_NORMS = {"gemma2": 4, "gemma3": 4, "gemma3_text": 4, "gemma4_text": 4, "gemma3n_text": 5, "olmo2": 2, "glm4": 4}
# Biases of q, k and v where config.json does not speak of it.
_QKV_BIAS = {
    "qwen2",
    "qwen2_moe",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen",
    "gpt2",
    "opt",
    "bloom",
    "gpt_bigcode",
    "starcoder2",
}
_MATRICES = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3", "fc1", "fc2", "c_fc", "c_proj")
_NOT_NAMES = {"model", "language_model", "layers", "transformer", "h", "blocks", "d", "re", "weight", "backbone", "s"}


class Ignored:
    """What quantization leaves out, from the names and patterns that config.json lists.

    Patterns may be anybody's, so none is run: only the words in it are looked at. A part is left out if all words of a
    pattern are among its own.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._everywhere: set[frozenset[str]] = set()
        self._in_layer: dict[frozenset[str], set[int]] = {}
        for pattern in patterns:
            words, layer = _words(pattern[:200])
            if layer is not None:
                self._in_layer.setdefault(words, set()).add(layer)
            elif words:
                self._everywhere.add(words)

    def positions(self, words: frozenset[str], positions: Sequence[int]) -> set[int]:
        """Those of the positions at which a part with these words is left out."""
        if any(pattern <= words for pattern in self._everywhere):
            return set(positions)
        found: set[int] = set()
        for pattern, layers in self._in_layer.items():
            if pattern <= words:
                found |= layers
        return found.intersection(positions)


def _words(pattern: str) -> tuple[frozenset[str], int | None]:
    match = re.search(r"(?:layers|h|blocks)\.(\d{1,4})(?:\.|$)", pattern)
    words = re.findall(r"[A-Za-z_][A-Za-z0-9_]*", pattern.replace("\\.", ".").replace("\\d", ""))
    return frozenset(word for word in words if word not in _NOT_NAMES), int(match[1]) if match else None


class Counter:
    """Collects the parts of a model."""

    def __init__(self, quantization: Quantization | None, plain_bits: int) -> None:
        self.groups: list[TensorGroup] = []
        self._quantization = quantization
        self._plain_bits = plain_bits
        self._ignored = Ignored(quantization.ignored if quantization is not None else ())

    def add(
        self,
        name: str,
        role: str,
        split: str,
        parameters: int,
        positions: Sequence[int],
        units: int = 0,
        words: Iterable[str] = (),
    ) -> None:
        if parameters <= 0 or not positions:
            return
        quantization = self._quantization
        reached = quantization is not None and (
            role == "expert"
            or (role == "linear" and quantization.scope == "linear")
            or (role == "lm_head" and quantization.quantizes_lm_head)
        )
        plain = set(positions)
        if reached and quantization is not None:
            plain = self._ignored.positions(frozenset((*name.split("."), *words)), positions)
        stored = quantization.effective_bits if quantization is not None else 0.0
        if quantization is not None and role == "expert" and quantization.expert_bits:
            stored = quantization.expert_bits
        for bits, places in (
            (stored, [p for p in positions if p not in plain]),
            (self._plain_bits, [p for p in positions if p in plain]),
        ):
            if places:
                self.groups.append(TensorGroup(name, role, split, parameters, bits, tuple(places), units))


def count(
    reader: Reader,
    model_type: str,
    mixers: Sequence[tuple[Mixer, ...]],
    experts: Experts | None,
    feed_forward: Mapping[int, Sequence[int]],
    tied: bool,
    quantization: Quantization | None,
    drafts: int = 0,
) -> Counter:
    """The parts of a language model. `feed_forward`: the widths of dense networks, and the layers that have them."""
    counter = Counter(quantization, 16)
    hidden = reader.number("hidden_size")
    layers = len(mixers)
    vocabulary = reader.number("vocab_size")
    counter.add("embed_tokens", "embedding", "vocabulary", vocabulary * hidden, (BEFORE,))
    learned = {"gpt2": "n_positions", "opt": "max_position_embeddings", "gpt_bigcode": "n_positions"}.get(model_type)
    if learned or (mixers and mixers[0] and mixers[0][0].kind == ENCODER):
        length = reader.optional(learned or "max_position_embeddings") or reader.optional("max_position_embeddings")
        counter.add("embed_positions", "small", "none", length * hidden, (BEFORE,))
    if not tied:
        counter.add("lm_head", "lm_head", "vocabulary", vocabulary * hidden, (AFTER,))
    positions_of: dict[Mixer, list[int]] = {}
    for index, of_layer in enumerate(mixers):
        for mixer in of_layer:
            positions_of.setdefault(mixer, []).append(index)
    shared_weights = model_type == "zamba2"
    for mixer, positions in positions_of.items():
        if shared_weights and mixer.kind != STATE:
            # A few blocks of attention are used over and over, on twice the width.
            positions = positions[: max(1, reader.optional("num_mem_blocks"))]
        _add_mixer(counter, reader, model_type, mixer, positions, hidden)
    gates = 2 if model_type in _UNGATED or reader.text("mlp_hidden_act") == "relu2" else 3
    for width, places in feed_forward.items():
        counter.add("mlp", "linear", "tensor", gates * hidden * width, places, words=("feed_forward", *_MATRICES))
    if experts is not None:
        add_experts(counter, experts, hidden, gates, experts.layers)
    norms = _NORMS.get(model_type, 1 if model_type in ("cohere", "cohere2", "falcon", "nemotron_h") else 2)
    counter.add("norms", "small", "none", norms * hidden, range(layers))
    counter.add("norm", "small", "none", hidden, (AFTER,))
    _add_gemma3n(counter, reader, model_type, hidden, layers)
    if drafts and mixers:
        last = mixers[-1][0] if mixers[-1] else Mixer("")
        _add_drafts(counter, reader, model_type, last, experts, hidden, gates, drafts, feed_forward)
    return counter


def add_experts(counter: Counter, experts: Experts, hidden: int, gates: int, positions: Sequence[int]) -> None:
    words = ("feed_forward", "block_sparse_moe", "mixer", *_MATRICES)
    counter.add(
        "mlp.experts",
        "expert",
        "expert",
        experts.count * gates * hidden * experts.intermediate_size,
        positions,
        experts.count,
        words,
    )
    counter.add("mlp.gate", "small", "none", experts.count * hidden, positions)
    counter.add(
        "mlp.shared_experts",
        "linear",
        "tensor",
        gates * hidden * experts.shared_intermediate_size,
        positions,
        words=("shared_expert", *words),
    )


def _add_mixer(
    counter: Counter, reader: Reader, model_type: str, mixer: Mixer, positions: Sequence[int], hidden: int
) -> None:
    if mixer.kind == STATE:
        if mixer.state is not None:
            _add_state(counter, reader, mixer.state, positions, hidden)
        return
    if mixer.kind == MLA:
        _add_mla(counter, reader, mixer, positions, hidden)
        return
    if reader.config.get("kv_lora_rank") is not None:
        # MiniCPM3: compressed projections whose result is kept expanded.
        _add_mla(counter, reader, mixer, positions, hidden)
        return
    if reader.config.get("o_lora_rank") is not None:
        _add_compressed(counter, reader, mixer, positions, hidden)
        return
    heads, size = mixer.heads, mixer.head_size
    width = 2 * hidden if model_type == "zamba2" else hidden
    words = ("self_attn", "attn", "attention", "qkv_proj")
    gate = 2 if reader.flag("attn_output_gate", model_type.startswith(("qwen3_next", "qwen3_5"))) else 1
    counter.add("self_attn.q_proj", "linear", "tensor", gate * width * heads * size, positions, words=words)
    kv_heads = mixer.kv_heads or heads
    if not mixer.shared:
        sides = size + mixer.value_head_size
        if reader.flag("attention_k_eq_v") and mixer.window == 0:
            # The values are the keys: stored once, loaded for both.
            sides = size
            counter.add("self_attn.v_proj", "derived", "kv", width * kv_heads * size, positions, kv_heads)
        counter.add(
            "self_attn.k_proj", "linear", "kv", width * kv_heads * sides, positions, kv_heads, (*words, "v_proj")
        )
    counter.add("self_attn.o_proj", "linear", "tensor", heads * mixer.value_head_size * hidden, positions, words=words)
    if reader.flag("attention_bias", reader.flag("qkv_bias", reader.flag("add_qkv_bias", model_type in _QKV_BIAS))):
        counter.add("self_attn.bias", "small", "tensor", heads * size + kv_heads * 2 * size, positions)


def _add_mla(counter: Counter, reader: Reader, mixer: Mixer, positions: Sequence[int], hidden: int) -> None:
    rank, rope = reader.number("kv_lora_rank"), reader.number("qk_rope_head_dim", 0, least=0)
    nope, value = reader.number("qk_nope_head_dim"), reader.number("v_head_dim")
    q_rank, heads = reader.optional("q_lora_rank"), mixer.heads
    words = ("self_attn", "attn", "attention")
    if q_rank:
        counter.add("self_attn.q_a_proj", "linear", "none", hidden * q_rank, positions, words=words)
        counter.add("self_attn.q_b_proj", "linear", "tensor", q_rank * heads * (nope + rope), positions, words=words)
    else:
        counter.add("self_attn.q_proj", "linear", "tensor", hidden * heads * (nope + rope), positions, words=words)
    counter.add("self_attn.kv_a_proj_with_mqa", "linear", "none", hidden * (rank + rope), positions, words=words)
    up = rank * heads * (nope + value)
    counter.add("self_attn.kv_b_proj", "linear", "tensor", up, positions, words=words)
    counter.add("self_attn.o_proj", "linear", "tensor", heads * value * hidden, positions, words=words)
    if mixer.kind == MLA:
        # Copies of kv_b_proj in 16 bits, one for each side, that decoding multiplies by (vLLM, mla_attention.py).
        counter.add("self_attn.absorbed", "derived", "tensor", up, positions)
    if mixer.indexer:
        size, number = reader.optional("index_head_dim") or 128, reader.optional("index_n_heads") or 64
        total = (q_rank or hidden) * number * size + hidden * (size + number)
        counter.add("self_attn.indexer", "linear", "none", total, positions, words=words)


def _add_compressed(counter: Counter, reader: Reader, mixer: Mixer, positions: Sequence[int], hidden: int) -> None:
    """DeepSeek V4: queries and outputs through low ranks, one head of keys that are values too, and compressors."""
    heads, size, rank = mixer.heads, mixer.head_size, reader.number("q_lora_rank")
    groups, out = reader.number("o_groups", 1), reader.number("o_lora_rank")
    words = ("self_attn", "attn", "attention")
    counter.add("self_attn.q_a_proj", "linear", "none", hidden * (rank + size), positions, words=words)
    counter.add("self_attn.q_b_proj", "linear", "tensor", rank * heads * size, positions, words=words)
    counter.add(
        "self_attn.o_a_proj", "linear", "tensor", out * heads * size + groups * out * hidden, positions, words=words
    )
    compressed = [place for place in positions if place in mixer_ratios(reader, positions)]
    indexed = [place for place in compressed if mixer_ratios(reader, positions)[place] == 4]
    number, index = reader.optional("index_n_heads") or 64, reader.optional("index_head_dim") or 128
    counter.add("self_attn.compressor", "linear", "none", 2 * hidden * size, compressed, words=words)
    total = 2 * hidden * (size + 2 * index) + rank * number * index + hidden * number
    counter.add("self_attn.indexer", "linear", "none", total, indexed, words=words)


def mixer_ratios(reader: Reader, positions: Sequence[int]) -> dict[int, int]:
    """Tokens that share an entry, of the layers that compress (`compress_ratios`, or the kinds of transformers 5)."""
    ratios = reader.config.get("compress_ratios")
    if isinstance(ratios, (list, tuple)):
        found = {index: ratio for index, ratio in enumerate(ratios) if isinstance(ratio, int) and ratio > 1}
    else:
        names, rates = reader.config.get("layer_types") or (), reader.mapping("compress_rates")
        found = {index: rates.get(str(name), 0) for index, name in enumerate(names)}
    return {place: found[place] for place in positions if isinstance(found.get(place), int) and found[place] > 1}


def _add_state(counter: Counter, reader: Reader, state: LayerState, positions: Sequence[int], hidden: int) -> None:
    inner = state.heads * state.head_size
    words = ("mamba", "linear_attn", "mixer", "self_attn", "conv", "in_proj", "out_proj")
    name = {"gated_delta_net": "linear_attn", "kda": "self_attn", "short_conv": "conv"}.get(state.kind, "mamba")
    conv = state.conv_channels * state.conv_kernel
    if state.kind == "mamba1":
        width = state.conv_channels
        rank = reader.config.get("mamba_dt_rank", reader.config.get("time_step_rank"))
        steps = rank if isinstance(rank, int) and rank > 0 else -(-hidden // 16)
        linear = hidden * 2 * width + width * (steps + 2 * state.state_size) + steps * width + width * hidden
        small = conv + width * (state.state_size + 3)
    elif state.kind == "mamba2":
        groups = 2 * state.groups * state.state_size
        linear = hidden * (2 * inner + groups + state.heads) + inner * hidden
        small = (inner + groups) * state.conv_kernel + inner + 3 * state.heads
    elif state.kind == "gated_delta_net":
        keys = state.conv_channels - inner
        linear = hidden * (keys + 2 * inner) + inner * hidden
        small = conv + hidden * 2 * state.heads + 2 * state.heads
    elif state.kind == "kda":
        linear = hidden * 3 * inner + inner * hidden + 2 * (hidden * state.head_size + state.head_size * inner)
        small = conv + hidden * state.heads + 2 * inner
    elif state.kind == "short_conv":
        linear, small = hidden * 3 * state.conv_channels + state.conv_channels * hidden, conv
    else:
        linear, small = hidden * 5 * inner, inner
    counter.add(name, "linear", "tensor", linear, positions, words=words)
    counter.add(f"{name}.small", "small", "tensor", small, positions)


def _add_gemma3n(counter: Counter, reader: Reader, model_type: str, hidden: int, layers: int) -> None:
    """Gemma 3n and 4: embeddings of their own for every layer, and what mixes them in."""
    size = reader.optional("hidden_size_per_layer_input")
    if not size or not model_type.startswith(("gemma3n", "gemma4")):
        return
    vocabulary = reader.optional("vocab_size_per_layer_input") or reader.number("vocab_size")
    counter.add("embed_tokens_per_layer", "embedding", "vocabulary", vocabulary * layers * size, (BEFORE,))
    counter.add("per_layer_model_projection", "small", "none", hidden * layers * size, (BEFORE,))
    counter.add("per_layer_input_gate", "small", "none", 2 * hidden * size, range(layers))
    if model_type.startswith("gemma3n"):
        rank, inputs = reader.optional("laurel_rank") or 64, reader.optional("altup_num_inputs") or 4
        counter.add("laurel", "small", "none", 2 * hidden * rank, range(layers))
        counter.add("altup", "small", "none", 2 * (inputs - 1) * hidden * hidden, (BEFORE,))


def _add_drafts(
    counter: Counter,
    reader: Reader,
    model_type: str,
    mixer: Mixer,
    experts: Experts | None,
    hidden: int,
    gates: int,
    drafts: int,
    feed_forward: Mapping[int, Sequence[int]],
) -> None:
    """Layers of multi-token prediction: like the last layer, with a projection of both inputs before it."""
    inner = Counter(counter._quantization, 16)
    _add_mixer(inner, reader, model_type, mixer, (0,), hidden)
    if experts is not None:
        add_experts(inner, experts, hidden, gates, (0,))
    elif feed_forward:
        inner.add("mlp", "linear", "tensor", gates * hidden * max(feed_forward), (0,), words=_MATRICES)
    inner.add("eh_proj", "small", "none", 2 * hidden * hidden + 3 * hidden, (0,))
    for group in inner.groups:
        if group.role != "derived":
            counter.groups.append(
                TensorGroup(
                    f"mtp.{group.name}",
                    "draft",
                    group.split,
                    group.parameters,
                    group.bits,
                    (AFTER,) * drafts,
                    group.units,
                )
            )


def tower_parameters(config: Mapping[str, Any], hidden: int) -> int:
    """Estimated weights of a tower for images or sound with its projection to `hidden`. 0 if nothing is known of it."""
    reader = Reader(config)

    def first(*names: str) -> int:
        return next((value for value in (reader.optional(name) for name in names) if value), 0)

    size = first("embed_dim", "hidden_size", "width", "d_model", "vt_hidden_size", "encoder_dim")
    layers = first("num_hidden_layers", "depth", "layers", "encoder_layers", "vt_num_hidden_layers", "num_layers")
    if isinstance(config.get("hidden_size"), int) and isinstance(config.get("embed_dim"), int):
        # Qwen2-VL calls the size of what it gives to the language model its hidden size.
        size = min(config["hidden_size"], config["embed_dim"])
    conformers = first("conf_num_hidden_layers")
    if size and conformers:
        # Two feed-forward networks of four times the width, attention and a convolution (gated) in every layer.
        return conformers * 23 * size * size
    named = re.search(r"(\d{1,4})m(?:_|$)", str(config.get("architecture", "")).lower())
    if named and not layers:
        # A network of the timm library, named by its millions of weights.
        return int(named[1]) * 1_000_000
    if not size or not layers or reader.wrong:
        return 0
    ratio = config.get("mlp_ratio", 4)
    wide = first("intermediate_size", "encoder_ffn_dim", "vt_intermediate_size") or int(
        size * (ratio if isinstance(ratio, (int, float)) and 0 < ratio < 64 else 4)
    )
    gated = 3 if config.get("hidden_act") == "silu" or config.get("model_type") in ("pixtral", "qwen2_5_vl") else 2
    out = first("out_hidden_size") or hidden
    total = 0
    if str(config.get("model_type", "")).startswith("glm") and first("out_hidden_size"):
        # GLM's towers are as wide inside as what they give; the width in their configuration is that of the merger.
        total, wide, gated = 3 * out * wide, out, 3
    total += layers * (4 * size * size + gated * size * wide + 13 * size)
    patch = first("patch_size")
    total += size * 3 * patch * patch * (first("temporal_patch_size") or 1)
    if isinstance(config.get("image_size"), int) and patch:
        total += size * (config["image_size"] // patch) ** 2
    merged = size * (first("spatial_merge_size") or 1) ** 2
    # One merger, and one for each layer that is looked at besides (Qwen3-VL).
    deep = config.get("deepstack_visual_indexes")
    mergers = 1 + (len(deep) if isinstance(deep, (list, tuple)) and len(deep) <= layers else 0)
    return total + mergers * (merged * merged + merged * out)
