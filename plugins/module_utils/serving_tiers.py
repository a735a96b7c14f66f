# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shapes of models of each size, to plan hardware by before a model is chosen: 1B to 1T parameters, 16 to 2 bits.

Each size has the shape of a published model of that size, which stands beside it; others of the size differ by some
percent in weights and by more in KV cache (a model without grouped queries needs four to eight times as much of it).
Bits are those of the weights of the layers; embeddings stay at 16: 8 bits are FP8, 4 and 2 are GPTQ in groups of 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BITS = (16, 8, 4, 2)

_DENSE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "head_dim": 128,
    "max_position_embeddings": 131072,
}


def _dense(layers: int, hidden: int, heads: int, intermediate: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        **_DENSE,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        **more,
    }


# By size: what it is modelled on, and its config.json.
SIZES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "1B": ("Llama 3.2 1B", _dense(16, 2048, 32, 8192, 128256, head_dim=64, tie_word_embeddings=True)),
    "3B": ("Llama 3.2 3B", _dense(28, 3072, 24, 8192, 128256, tie_word_embeddings=True)),
    "8B": ("Llama 3.1 8B", _dense(32, 4096, 32, 14336, 128256)),
    "14B": ("Qwen3 14B", _dense(40, 5120, 40, 17408, 151936)),
    "30B": ("Qwen3 32B", _dense(64, 5120, 64, 25600, 151936)),
    "70B": ("Llama 3.1 70B", _dense(80, 8192, 64, 28672, 128256)),
    "120B": ("Mistral Large 123B", _dense(88, 12288, 96, 28672, 32768)),
    "1T": (
        "Kimi K2, a mixture of 384 experts",
        {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "torch_dtype": "bfloat16",
            "tie_word_embeddings": False,
            "num_hidden_layers": 61,
            "hidden_size": 7168,
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 384,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "vocab_size": 163840,
            "max_position_embeddings": 131072,
        },
    ),
}
_QUANTIZATIONS: Mapping[int, Mapping[str, Any] | None] = {
    16: None,
    8: {"quant_method": "fp8", "activation_scheme": "dynamic"},
    4: {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
    2: {"quant_method": "gptq", "bits": 2, "group_size": 128, "desc_act": False, "sym": True},
}


@dataclass(frozen=True)
class Tier:
    """One size at one number of bits."""

    name: str
    size: str
    bits: int
    modelled_on: str
    config: Mapping[str, Any]


def tiers() -> list[Tier]:
    """All tiers, the smallest size first and the most bits first."""
    found = []
    for name, (modelled_on, config) in SIZES.items():
        for bits in BITS:
            quantization = _QUANTIZATIONS[bits]
            found.append(
                Tier(
                    name=f"{name}, {bits} bit",
                    size=name,
                    bits=bits,
                    modelled_on=modelled_on,
                    config={**config, **({"quantization_config": quantization} if quantization else {})},
                )
            )
    return found
