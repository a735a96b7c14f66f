# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each layer of a model does with the tokens before, from the many ways in which a config.json says so.

Full attention is the rule. Else, in this order: a list with the kind of each layer (`layer_types`, `layers_block_type`,
`hybrid_override_pattern`, ...), a period (`full_attention_interval`, `attn_layer_period`, `sliding_window_pattern`,
`no_rope_layers`), a window for all layers. As in vLLM's model classes and Hugging Face transformers' configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_config import Reader
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import (
    CHUNKED,
    ENCODER,
    FULL,
    INDEXER,
    MLA,
    SLIDING_WINDOW,
    STATE,
    AttentionLayers,
    LayerState,
)

# A layer without attention or state, such as one of only a feed-forward network.
NOTHING = "nothing"
# Full attention and a state side by side.
_BOTH = "both"
_NAMES: Mapping[str, str] = {
    "full_attention": FULL,
    "attention": FULL,
    "full": FULL,
    "global": FULL,
    "global_attention": FULL,
    "deepseek_sparse_attention": FULL,
    "*": FULL,
    "compressed_sparse_attention": FULL,
    "heavily_compressed_attention": FULL,
    "sliding_attention": SLIDING_WINDOW,
    "sliding_window": SLIDING_WINDOW,
    "sliding": SLIDING_WINDOW,
    "local": SLIDING_WINDOW,
    "local_attention": SLIDING_WINDOW,
    "chunked_attention": CHUNKED,
    "linear_attention": STATE,
    "mamba": STATE,
    "mamba2": STATE,
    "conv": STATE,
    "short_conv": STATE,
    "m": STATE,
    "hybrid": _BOTH,
    "moe": NOTHING,
    "mlp": NOTHING,
    "e": NOTHING,
    "-": NOTHING,
}
# Families of which a layer without a rope is a layer of full attention among chunks.
_BIDIRECTIONAL = ("bert", "roberta", "electra", "mpnet", "xlm", "gte", "nomic", "eurobert", "albert")
# Sliding by family, where config.json may leave the pattern out: every n-th layer is full attention.
_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gemma3n": 5, "gemma3n_text": 5, "gemma4": 6, "gemma4_text": 6}
_PERIODS.update({"cohere2": 4, "gpt_oss": 2, "olmo3": 4})
# The window of Cohere's models holds the token itself besides (vLLM, commandr.py).
_WINDOW_PLUS_ONE = ("cohere2", "cohere2_moe", "cohere2_vision")


@dataclass(frozen=True)
class Mixer:
    """How a layer mixes tokens: attention or a state. Equal layers are equal objects."""

    kind: str
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    value_head_size: int = 0
    window: int = 0
    state: LayerState | None = None
    # Reads what another layer kept, and keeps nothing.
    shared: bool = False
    indexer: bool = False


@dataclass(frozen=True)
class Mixers:
    """The mixers of every layer, and what was assumed."""

    of_layer: tuple[tuple[Mixer, ...], ...]
    notes: tuple[str, ...] = ()


def is_bidirectional(reader: Reader, model_type: str, architecture: str) -> bool:
    """Whether every token sees every other: an encoder, which keeps nothing."""
    name = model_type.replace("-", "_").lower()
    return (
        any(part in name for part in _BIDIRECTIONAL)
        or "Bidirectional" in architecture
        or reader.config.get("is_causal") is False
        # Models of embeddings; those that speak see only images as a whole, and keep all tokens.
        or (reader.config.get("use_bidirectional_attention") is True and architecture.endswith("Model"))
    ) and not name.endswith("decoder")


def read_mixers(reader: Reader, model_type: str, architecture: str, layers: int) -> Mixers:
    """What is wrong is kept by the reader."""
    if reader.config.get("block_configs"):
        return _of_block_configs(reader, layers)
    kinds, notes = _kinds(reader, model_type, layers)
    attention = _attention(
        reader, model_type, needed=any(kind in (FULL, SLIDING_WINDOW, CHUNKED, _BOTH) for kind in kinds)
    )
    if is_bidirectional(reader, model_type, architecture):
        attention = replace(attention, kind=ENCODER)
    state = Mixer(STATE, state=_state(reader, model_type)) if STATE in kinds or _BOTH in kinds else None
    window = reader.optional("sliding_window") or reader.optional("sliding_window_size")
    if window and model_type in _WINDOW_PLUS_ONE:
        window += 1
    chunk = reader.optional("attention_chunk_size")
    sliding = _sliding(reader, model_type, attention, window)
    attention = _global(reader, attention)
    first_shared = layers - min(layers, reader.optional("num_kv_shared_layers"))
    share_factor = reader.optional("cla_share_factor") if reader.flag("use_cla") else 0
    skips_indexer = _layers_without_indexer(reader, layers)
    sides = {"wide": attention, "local": sliding, "chunk": replace(attention, kind=CHUNKED, window=chunk)}
    result = []
    own = reader.mapping("per_layer_config")
    for index, kind in enumerate(kinds):
        mixers: list[Mixer] = []
        if kind in (FULL, _BOTH):
            mixers.append(sides["wide"])
        elif kind == SLIDING_WINDOW:
            mixers.append(sides["local"] if attention.kind != ENCODER else attention)
        elif kind == CHUNKED:
            mixers.append(sides["chunk"] if chunk and attention.kind != ENCODER else attention)
        if kind in (STATE, _BOTH) and state is not None:
            mixers.append(state)
        if index >= first_shared or (share_factor > 1 and index % share_factor):
            mixers = [mixer if mixer.kind == STATE else replace(mixer, shared=True) for mixer in mixers]
        if attention.kind == MLA and reader.config.get("index_topk") and index not in skips_indexer:
            mixers = [replace(mixer, indexer=True) if mixer.kind == MLA else mixer for mixer in mixers]
        if own:
            mixers = [_own_heads(own.get(str(index), own.get(f"{index:02d}")), mixer) for mixer in mixers]
        result.append(tuple(mixers))
    return Mixers(tuple(result), tuple(notes))


def _own_heads(changes: object, mixer: Mixer) -> Mixer:
    """A layer whose heads config.json gives by itself (per_layer_config of transformers 5)."""
    if not isinstance(changes, Mapping) or mixer.kind in (STATE, MLA):
        return mixer
    inner = Reader(changes)
    size = inner.optional("head_dim") or mixer.head_size
    kv_heads = inner.optional("num_key_value_heads") or mixer.kv_heads
    return replace(mixer, head_size=size, value_head_size=size, kv_heads=kv_heads)


def attention_layers(mixers: Sequence[tuple[Mixer, ...]], index_bytes: int = 0) -> tuple[AttentionLayers, ...]:
    """The layers that keep something, grouped by what they keep; `index_bytes` per token of an indexer."""
    positions: dict[Mixer, list[int]] = {}
    indexers: list[int] = []
    for index, of_layer in enumerate(mixers):
        for mixer in of_layer:
            if not mixer.shared:
                positions.setdefault(replace(mixer, heads=0, indexer=False), []).append(index)
            if mixer.indexer:
                indexers.append(index)
    layers = [
        AttentionLayers(
            kind=mixer.kind,
            positions=tuple(places),
            num_kv_heads=mixer.kv_heads,
            head_size=mixer.head_size,
            value_head_size=mixer.value_head_size,
            window=mixer.window,
            state=mixer.state,
        )
        for mixer, places in positions.items()
    ]
    if indexers and index_bytes:
        layers.append(AttentionLayers(INDEXER, tuple(indexers), 1, index_bytes))
    return tuple(layers)


def indexer_bytes(reader: Reader) -> int:
    """Bytes per token that the indexer of sparse attention keeps: fp8 with a scale of 4 bytes to 128 elements."""
    size = reader.optional("index_head_dim") or 128
    return size + size // 128 * 4 if reader.config.get("index_topk") else 0


def _kinds(reader: Reader, model_type: str, layers: int) -> tuple[list[str], list[str]]:
    """The kind of each layer, and what was assumed."""
    notes: list[str] = []
    if model_type in ("mamba", "mamba2", "falcon_mamba"):
        return [STATE] * layers, notes
    if (
        model_type == "bamba"
        and reader.config.get("attn_layer_indices") is None
        and not reader.config.get("layer_types")
    ):
        return [STATE] * layers, notes
    if model_type == "falcon_h1":
        return [_BOTH] * layers, notes
    linear = reader.mapping("linear_attn_config")
    full = linear.get("full_attn_layers")
    if isinstance(full, (list, tuple)) and linear.get("kda_layers"):
        return [FULL if index + 1 in full else STATE for index in range(layers)], notes
    for name in ("hybrid_override_pattern", "layers_block_type", "layer_types"):
        listed = reader.per_layer(name, layers)
        if listed:
            return _named(reader, model_type, name, listed, notes), notes
    pattern = reader.per_layer("hybrid_layer_pattern", layers)
    if pattern:
        return [SLIDING_WINDOW if item else FULL for item in pattern], notes
    listed = reader.per_layer("attn_type_list", layers)
    if listed:
        return [FULL if item else STATE for item in listed], notes
    for name in ("attn_layer_indices", "full_attn_idxs", "attention_layers_idx"):
        places = reader.positions(name, layers)
        if places is not None:
            return [FULL if index in places else STATE for index in range(layers)], notes
    places = reader.positions("hybrid_layer_ids", layers)
    if places is not None:
        return [_BOTH if index in places else STATE for index in range(layers)], notes
    return _by_period(reader, model_type, layers), notes


def _named(reader: Reader, model_type: str, name: str, listed: Sequence[Any], notes: list[str]) -> list[str]:
    kinds, unknown = [], []
    for item in listed:
        kind = _NAMES.get(str(item).lower())
        if kind is None:
            unknown.append(str(item)[:40])
            kind = FULL
        kinds.append(kind)
    if unknown:
        notes.append(
            f"{name} has kinds of layers that are not known here ({', '.join(sorted(set(unknown))[:5])}); they are "
            "planned as full attention"
        )
    if model_type == "zamba2":
        # Every layer has a state, some share a layer of attention besides.
        kinds = [_BOTH if kind == _BOTH else STATE for kind in kinds]
    if SLIDING_WINDOW in kinds and not (reader.optional("sliding_window") or reader.optional("sliding_window_size")):
        kinds = [FULL if kind == SLIDING_WINDOW else kind for kind in kinds]
    return kinds


def _by_period(reader: Reader, model_type: str, layers: int) -> list[str]:
    everything = range(layers)
    interval = reader.optional("full_attention_interval") or (
        4 if model_type.startswith(("qwen3_next", "qwen3_5")) else 0
    )
    if interval and reader.config.get("linear_num_value_heads"):
        return [FULL if (index + 1) % interval == 0 else STATE for index in everything]
    group = reader.optional("layer_group_size")
    if group and reader.config.get("linear_silu") is not None:
        # Ling's linear models: the last layer of a group, and what is left over at the end.
        rest = layers // group * group
        return [FULL if (index + 1) % group == 0 or index >= rest else STATE for index in everything]
    period = reader.optional("attn_layer_period")
    if period:
        offset = reader.number("attn_layer_offset", 0, least=0)
        return [FULL if index % period == offset else STATE for index in everything]
    if reader.config.get("mamba_enabled") and reader.optional("mamba_step"):
        step = reader.optional("mamba_step")
        return [
            FULL
            if (layers <= step // 2 and index == layers - 1) or (layers > step // 2 and index % step == step // 2)
            else STATE
            for index in everything
        ]
    if reader.optional("attention_chunk_size") and model_type.startswith("llama4"):
        flags = reader.per_layer("no_rope_layers", layers)
        every = reader.optional("no_rope_layer_interval") or 4
        has_rope = [bool(flag) for flag in flags] if flags else [bool((index + 1) % every) for index in everything]
        return [CHUNKED if rope else FULL for rope in has_rope]
    window = reader.optional("sliding_window") or reader.optional("sliding_window_size")
    if not window or reader.config.get("use_sliding_window") is False:
        return [FULL] * layers
    pattern = reader.config.get("sliding_window_pattern") or reader.config.get("_sliding_window_pattern")
    if isinstance(pattern, str):
        # "LLLG": local, local, local, global.
        return [SLIDING_WINDOW if pattern[index % len(pattern)].upper() == "L" else FULL for index in everything]
    period = pattern if isinstance(pattern, int) and pattern > 0 else _PERIODS.get(model_type, 0)
    if period:
        return [FULL if (index + 1) % period == 0 else SLIDING_WINDOW for index in everything]
    if reader.config.get("use_sliding_window") and reader.config.get("max_window_layers") is not None:
        first = reader.number("max_window_layers", layers, least=0)
        return [SLIDING_WINDOW if index >= first else FULL for index in everything]
    if model_type.startswith("qwen2") and reader.config.get("use_sliding_window") is None:
        # The class's default is not to use it.
        return [FULL] * layers
    return [SLIDING_WINDOW] * layers


def _attention(reader: Reader, model_type: str, needed: bool) -> Mixer:
    """Of the layers with full attention. `needed`: there are some, so its numbers must be there."""
    if not needed:
        return Mixer(FULL)
    dbrx = reader.mapping("attn_config")
    heads = reader.number("num_attention_heads")
    if reader.config.get("kv_lora_rank") is not None and model_type != "minicpm3":
        rank = reader.number("kv_lora_rank")
        rope = reader.number("qk_rope_head_dim", 0, least=0)
        return Mixer(MLA, heads, 1, rank + rope)
    kv_heads = _kv_heads(reader, model_type, heads, dbrx)
    if reader.config.get("kv_lora_rank") is not None:
        # MiniCPM3: the latent is expanded before it is kept.
        head_size = reader.number("qk_nope_head_dim") + reader.number("qk_rope_head_dim")
        return Mixer(FULL, heads, heads, head_size, head_size)
    head_size = reader.optional("head_dim")
    if not head_size:
        hidden = reader.number("hidden_size")
        head_size = max(1, hidden // heads)
    value_head_size = reader.optional("v_head_dim") or head_size
    return Mixer(FULL, heads, kv_heads, head_size, value_head_size)


def _kv_heads(reader: Reader, model_type: str, heads: int, attention_config: Mapping[str, Any]) -> int:
    if attention_config.get("kv_n_heads"):
        return Reader(attention_config).number("kv_n_heads", heads)
    falcon = model_type in ("falcon", "RefinedWeb", "RefinedWebModel")
    if (
        falcon
        and not reader.flag("new_decoder_architecture")
        and reader.flag("multi_query", model_type != "RefinedWeb")
    ):
        return 1
    if model_type == "gpt_bigcode" and reader.flag("multi_query", True):
        return 1
    if model_type == "chatglm" and not reader.flag("multi_query_attention"):
        return heads
    kv_heads = reader.number("num_key_value_heads", heads)
    if kv_heads > heads:
        reader.wrong.append(f"num_key_value_heads {kv_heads} is more than num_attention_heads {heads}")
    return kv_heads


def _sliding(reader: Reader, model_type: str, attention: Mixer, window: int) -> Mixer:
    """Of the layers with a window, which may have other heads than the layers with full attention."""
    local = replace(attention, kind=SLIDING_WINDOW, window=window)
    if reader.config.get("hybrid_layer_pattern"):
        head_size = reader.optional("swa_head_dim") or local.head_size
        local = replace(
            local,
            heads=reader.optional("swa_num_attention_heads") or local.heads,
            kv_heads=reader.optional("swa_num_key_value_heads") or local.kv_heads,
            head_size=head_size,
            value_head_size=reader.optional("swa_v_head_dim") or head_size,
        )
    other = reader.mapping("attention_other_setting")
    if other.get("attention_type") == "sliding_attention":
        inner = Reader(other)
        head_size = inner.optional("head_dim") or local.head_size
        local = replace(
            local,
            heads=inner.optional("num_attention_heads") or local.heads,
            kv_heads=inner.optional("num_attention_groups") or local.kv_heads,
            head_size=head_size,
            value_head_size=head_size,
        )
    return local


def _global(reader: Reader, attention: Mixer) -> Mixer:
    """Gemma 4: layers with full attention have heads of another size than those with a window."""
    size = reader.optional("global_head_dim")
    if not size or attention.kind not in (FULL, ENCODER):
        return attention
    kv_heads = attention.kv_heads
    if reader.flag("attention_k_eq_v"):
        kv_heads = reader.optional("num_global_key_value_heads") or kv_heads
    return replace(attention, head_size=size, value_head_size=size, kv_heads=kv_heads)


def _layers_without_indexer(reader: Reader, layers: int) -> frozenset[int]:
    """Layers that use the selection of an earlier one (vLLM, deepseek_v2.py: index_topk_freq, index_topk_pattern)."""
    pattern = reader.config.get("index_topk_pattern")
    if isinstance(pattern, (str, list, tuple)):
        return frozenset(index for index in range(layers) if index < len(pattern) and pattern[index] == "S")
    every = reader.optional("index_topk_freq") or 1
    offset = reader.optional("index_skip_topk_offset")
    return frozenset(index for index in range(layers) if max(index - offset + 1, 0) % every)


def _state(reader: Reader, model_type: str) -> LayerState:
    """The state of the layers without attention, by the numbers that config.json has."""
    config = reader.config
    kimi = reader.mapping("linear_attn_config")
    if kimi:
        inner = Reader(kimi)
        heads, size = inner.number("num_heads"), inner.number("head_dim")
        reader.missing.extend(f"linear_attn_config.{name}" for name in inner.missing)
        kernel = inner.number("short_conv_kernel_size", 4)
        return LayerState("kda", 3 * heads * size, kernel, 0, heads, size, size, "float32")
    if config.get("linear_num_heads") is not None and config.get("linear_head_dim") is not None:
        heads, size = reader.number("linear_num_heads"), reader.number("linear_head_dim")
        kernel = reader.number("linear_conv_kernel_dim", 4)
        return LayerState("kda", 3 * heads * size, kernel, 0, heads, size, size, "float32")
    if config.get("linear_num_value_heads") is not None:
        key_heads, heads = reader.number("linear_num_key_heads"), reader.number("linear_num_value_heads")
        key_size, size = reader.number("linear_key_head_dim"), reader.number("linear_value_head_dim")
        kernel = reader.number("linear_conv_kernel_dim", 4)
        dtype = reader.text("mamba_ssm_dtype", "auto")
        channels = 2 * key_heads * key_size + heads * size
        return LayerState("gated_delta_net", channels, kernel, key_heads, heads, size, key_size, dtype)
    if config.get("conv_L_cache") is not None:
        channels = reader.optional("conv_dim") or reader.number("hidden_size")
        return LayerState("short_conv", channels, reader.number("conv_L_cache"))
    minimax = model_type.lower().startswith("minimax")
    if minimax or config.get("attn_type_list") is not None or config.get("linear_silu") is not None:
        heads = reader.number("num_attention_heads")
        size = reader.optional("head_dim") or max(1, reader.number("hidden_size") // heads)
        return LayerState("linear_attention", 0, 0, 0, heads, size, size)
    return _mamba(reader, model_type)


def _mamba(reader: Reader, model_type: str) -> LayerState:
    config = reader.config
    hidden = reader.number("hidden_size")
    if model_type == "mamba2":
        heads, size = reader.number("num_heads"), reader.number("head_dim")
        channels = int(reader.decimal("expand", 2) * hidden)
        groups, elements, kernel = (
            reader.number("n_groups", 1),
            reader.number("state_size"),
            reader.number("conv_kernel", 4),
        )
        return LayerState("mamba2", channels, kernel, groups, heads, size, elements)
    if config.get("mamba_num_heads") is not None and config.get("ssm_state_size") is not None:
        heads, size = reader.number("mamba_num_heads"), reader.number("mamba_head_dim")
        dtype = reader.text("mamba_ssm_cache_dtype", "float32")
        groups, kernel = reader.number("n_groups"), reader.number("conv_kernel", 4)
        return LayerState("mamba2", heads * size, kernel, groups, heads, size, reader.number("ssm_state_size"), dtype)
    if config.get("mamba_num_heads") is not None:
        heads, size = reader.number("mamba_num_heads"), reader.number("hidden_size_per_head")
        return LayerState(
            "mamba2", heads * size, reader.number("mamba_d_conv", 4), 0, heads, size, reader.number("mamba_d_state", 64)
        )
    channels = int(reader.decimal("mamba_expand", reader.decimal("expand", 2)) * hidden)
    kernel = reader.number("mamba_d_conv", reader.number("conv_kernel", 4))
    if config.get("mamba_n_heads") is not None or config.get("n_mamba_heads") is not None:
        zamba = config.get("n_mamba_heads") is not None
        heads = reader.number("n_mamba_heads" if zamba else "mamba_n_heads")
        groups = reader.number("mamba_ngroups" if zamba else "mamba_n_groups", 1)
        written = reader.config.get("mamba_headdim" if zamba else "mamba_d_head")
        size = written if isinstance(written, int) and written > 0 else max(1, channels // heads)
        channels = reader.optional("mamba_d_ssm") or channels
        return LayerState("mamba2", channels, kernel, groups, heads, size, reader.number("mamba_d_state"))
    if config.get("mamba_d_state") is not None or config.get("state_size") is not None:
        elements = reader.number("mamba_d_state", reader.number("state_size", 16))
        if model_type in ("mamba", "falcon_mamba"):
            channels = reader.number("intermediate_size", channels)
        return LayerState("mamba1", channels, kernel, 0, channels, 1, elements)
    reader.missing.append("mamba_d_state")
    return LayerState("mamba1")


def _of_block_configs(reader: Reader, layers: int) -> Mixers:
    """Models found by a search (DeciLM, Nemotron-NAS): every layer has a configuration of its own."""
    heads = reader.number("num_attention_heads")
    head_size = reader.optional("head_dim") or max(1, reader.number("hidden_size") // heads)
    result: list[tuple[Mixer, ...]] = []
    for block in reader.per_layer("block_configs", layers):
        attention = block.get("attention") if isinstance(block, Mapping) else None
        attention = attention if isinstance(attention, Mapping) else {}
        group = attention.get("n_heads_in_group")
        if attention.get("no_op") or attention.get("replace_with_linear") or not isinstance(group, int) or group < 1:
            result.append(())
        else:
            result.append((Mixer(FULL, heads, max(1, heads // group), head_size, head_size),))
    return Mixers(tuple(result) or ((),) * layers)
