# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading numbers out of a config.json, whatever its family of models calls them.

A config.json may be anybody's: every number is checked before it is believed, everything that is wrong is collected,
and said at once. Multimodal models keep the configuration of the language model in a mapping of its own, and may leave
out what is the default of its class; those defaults are below (Hugging Face transformers, the configuration classes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import ModelConfigError

# The names that families of models give to the same number; the first is the one that messages name.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "model_dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": (
        "n_head_kv",
        "num_kv_heads",
        "num_key_value_heads",
        "multi_query_group_num",
        "num_attention_groups",
    ),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "d_ff", "decoder_ffn_dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "head_dim": ("head_dim", "hidden_size_per_head", "attention_head_dim", "kv_channels"),
    "num_experts": ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"),
    "num_experts_per_tok": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "top_k_experts",
        "moe_topk",
        "moe_top_k",
        "moe_k",
        "num_selected_experts",
    ),
    "moe_intermediate_size": ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_intermediate_dim"),
}
# Mappings that hold the configuration of the language model (vLLM, transformers_utils/config.py: get_hf_text_config).
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "language_model", "decoder_config")
# What a class of language models takes for granted when it is part of another model. Only what is left out in
# published files is listed.
_LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
_GEMMA = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True}
_QWEN_LINEAR = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    "gemma2": {**_GEMMA, "vocab_size": 256000, "sliding_window": 4096, "max_position_embeddings": 8192},
    "gemma3_text": {
        **_GEMMA,
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
    },
    "gemma3n_text": {
        **_GEMMA,
        "num_key_value_heads": 2,
        "vocab_size": 262400,
        "vocab_size_per_layer_input": 262144,
        "hidden_size_per_layer_input": 256,
        "num_kv_shared_layers": 15,
        "sliding_window": 512,
        "max_position_embeddings": 32768,
    },
    "gemma4_text": {
        **_GEMMA,
        "vocab_size": 262144,
        "vocab_size_per_layer_input": 262144,
        "hidden_size_per_layer_input": 256,
        "sliding_window": 512,
        "max_position_embeddings": 131072,
    },
    "qwen2": {"vocab_size": 151936, "max_position_embeddings": 32768},
    "qwen3_5_text": {**_QWEN_LINEAR, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 248320},
    "qwen3_5_moe_text": {**_QWEN_LINEAR, "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 248320},
    "qwen3_next": _QWEN_LINEAR,
    "cohere2": {"sliding_window": 4096, "vocab_size": 256000, "tie_word_embeddings": True},
}
_MOST = 1 << 40
_MOST_LAYERS = 4096


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the language model: the mapping itself, or the part that a multimodal model keeps it in."""
    for name in _TEXT_PARTS:
        part = config.get(name)
        if isinstance(part, Mapping) and part:
            inner = text_config(part)
            defaults = _CLASS_DEFAULTS.get(str(inner.get("model_type", "")), {})
            merged = {**defaults, **{key: value for key, value in inner.items() if value is not None}}
            for key in ("tie_word_embeddings", "quantization_config", "torch_dtype", "dtype"):
                if key not in inner and config.get(key) is not None:
                    merged[key] = config[key]
            return merged
    return config


class Reader:
    """The numbers of one mapping, and everything that is wrong with them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.missing: list[str] = []
        self.wrong: list[str] = []

    def raw(self, name: str) -> Any:
        for alias in ALIASES.get(name, (name,)):
            value = self.config.get(alias)
            if value is not None:
                return value
        return None

    def number(self, name: str, default: int | None = None, least: int = 1, most: int = _MOST) -> int:
        """A whole number. Missing without a default, or out of bounds, is kept for `check`; then it is `least`."""
        value = self.raw(name)
        if value is None:
            if default is None:
                self.missing.append(name)
                return least
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            if default == 0 and value in (0, False):
                return 0
            self.wrong.append(f"{name} must be a whole number from {least} to {most}, not {_short(value)}")
            return least
        return value

    def optional(self, name: str, least: int = 1) -> int:
        """A whole number, or 0 if it is missing, null or 0."""
        return self.number(name, 0, least)

    def decimal(self, name: str, default: float) -> float:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _MOST:
            self.wrong.append(f"{name} must be a number above 0, not {_short(value)}")
            return default
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.config.get(name)
        return default if value is None else bool(value)

    def text(self, name: str, default: str = "") -> str:
        value = self.config.get(name)
        return value if isinstance(value, str) else default

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.config.get(name)
        return value if isinstance(value, Mapping) else {}

    def per_layer(self, name: str, layers: int) -> Sequence[Any]:
        """A list with an element for every layer; nothing if there is none. A shorter one is a problem."""
        value = self.config.get(name)
        if value is None:
            return ()
        if not isinstance(value, (list, tuple, str)):
            self.wrong.append(f"{name} must be a list with an element for each layer, not {_short(value)}")
            return ()
        if len(value) < layers:
            self.wrong.append(f"{name} has {len(value)} elements for {layers} layers")
            return ()
        return value[:layers]

    def positions(self, name: str, layers: int) -> frozenset[int] | None:
        """A list of indexes of layers; nothing if there is none."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, int) for item in value):
            self.wrong.append(f"{name} must be a list of indexes of layers, not {_short(value)}")
            return frozenset()
        return frozenset(item for item in value if 0 <= item < layers)

    def layers(self) -> int:
        return self.number("num_hidden_layers", most=_MOST_LAYERS)

    def check(self, subject: str) -> None:
        """Raises ModelConfigError if anything was missing or wrong."""
        problems = []
        if self.missing:
            names = list(dict.fromkeys(self.missing))
            problems.append(
                f"{subject} lacks {', '.join(names)}: give the config.json of the model itself, in the format of "
                "Hugging Face transformers (a GGUF file is planned for llama.cpp from the file alone)"
            )
        problems.extend(dict.fromkeys(self.wrong))
        if problems:
            raise ModelConfigError(problems)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
