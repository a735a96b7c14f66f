# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Tiny GGUF models: headers as llama.cpp wants them, and zeros for weights, so that the real server loads them.

They stand in for models: what comes out of them is noise. Each is of another kind of memory: plain attention, windows,
experts, latents, recurrent states. Written from the format's description and from what llama.cpp asks each architecture
for, not by the code that is tested.

usage: tiny_gguf.py FOLDER
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# The number of a type in the file, elements and bytes of a block.
TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
    "MXFP4": (39, 32, 17),
}
ALIGNMENT = 32
_INT32, _FLOAT32, _BOOL, _TEXT, _ARRAY, _UINT32 = 5, 6, 7, 8, 9, 4

Tensor = tuple[str, str, list[int]]


class Model(NamedTuple):
    """A model's metadata and tensors, each (name, type, dimensions)."""

    metadata: dict[str, Any]
    tensors: list[Tensor]


def vocabulary(size: int) -> dict[str, Any]:
    """Byte tokens and fillers: enough for the server to take text in and give text out."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [f"t{number}" for number in range(size - len(tokens))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * size,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (size - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def transformer(
    architecture: str = "llama",
    *,
    layers: int = 4,
    embedding: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 64,
    feed_forward: int = 512,
    words: int = 1024,
    context: int = 8192,
    weights: str = "F16",
    tied: bool = False,
    experts: int = 0,
    norms: tuple[str, ...] = (),
    **more: Any,
) -> Model:
    """A decoder with attention in every layer; `more` are further keys, with `__` for a dot."""
    keys = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": embedding,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "rope.dimension_count": head_size,
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    tensors: list[Tensor] = [
        ("token_embd.weight", weights, [embedding, words]),
        ("output_norm.weight", "F32", [embedding]),
    ]
    if not tied:
        tensors.append(("output.weight", weights, [embedding, words]))
    for number in range(layers):
        block: list[Tensor] = [
            ("attn_norm.weight", "F32", [embedding]),
            ("attn_q.weight", weights, [embedding, heads * head_size]),
            ("attn_k.weight", weights, [embedding, kv_heads * head_size]),
            ("attn_v.weight", weights, [embedding, kv_heads * head_size]),
            ("attn_output.weight", weights, [heads * head_size, embedding]),
            *(
                (f"{name}.weight", "F32", [head_size if name[5:] in ("q_norm", "k_norm") else embedding])
                for name in norms
            ),
        ]
        if architecture != "gpt-oss":
            block.append(("ffn_norm.weight", "F32", [embedding]))
        block += (
            _experts(embedding, feed_forward, experts, weights)
            if experts
            else _network(embedding, feed_forward, weights)
        )
        if architecture == "gpt-oss":
            block += [
                ("attn_sinks.weight", "F32", [heads]),
                ("attn_output.bias", "F32", [embedding]),
                ("ffn_gate_inp.bias", "F32", [experts]),
                ("ffn_gate_exps.bias", "F32", [feed_forward, experts]),
                ("ffn_up_exps.bias", "F32", [feed_forward, experts]),
                ("ffn_down_exps.bias", "F32", [embedding, experts]),
            ]
        tensors += [(f"blk.{number}.{name}", kind, dimensions) for name, kind, dimensions in block]
    return _model(architecture, keys, words, tensors)


def _network(embedding: int, width: int, weights: str) -> list[Tensor]:
    return [
        ("ffn_gate.weight", weights, [embedding, width]),
        ("ffn_up.weight", weights, [embedding, width]),
        ("ffn_down.weight", weights, [width, embedding]),
    ]


def _experts(embedding: int, width: int, count: int, weights: str) -> list[Tensor]:
    return [
        ("ffn_gate_inp.weight", "F32", [embedding, count]),
        ("ffn_gate_exps.weight", weights, [embedding, width, count]),
        ("ffn_up_exps.weight", weights, [embedding, width, count]),
        ("ffn_down_exps.weight", weights, [width, embedding, count]),
    ]


def _model(architecture: str, keys: Mapping[str, Any], words: int, tensors: list[Tensor]) -> Model:
    prefixed = {f"{architecture}.{key}": value for key, value in keys.items()}
    return Model({"general.architecture": architecture, **prefixed, **vocabulary(words)}, tensors)


def _latent() -> Model:
    """DeepSeek's attention: of each token one latent is kept, from which keys and values of all heads are made."""
    layers, embedding, heads, latent, rope, plain, value, words = 3, 256, 4, 128, 64, 64, 64, 1024
    keys = {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": embedding,
        "feed_forward_length": 512,
        "leading_dense_block_count": layers,
        "expert_feed_forward_length": 256,
        "expert_shared_count": 1,
        "attention.head_count": heads,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.q_lora_rank": 128,
        "attention.kv_lora_rank": latent,
        "attention.key_length": latent + rope,
        "attention.value_length": latent,
        "attention.key_length_mla": plain + rope,
        "attention.value_length_mla": value,
        "rope.dimension_count": rope,
    }
    tensors: list[Tensor] = [
        ("token_embd.weight", "F16", [embedding, words]),
        ("output_norm.weight", "F32", [embedding]),
        ("output.weight", "F16", [embedding, words]),
    ]
    for number in range(layers):
        block: list[Tensor] = [
            ("attn_norm.weight", "F32", [embedding]),
            ("attn_q_a_norm.weight", "F32", [128]),
            ("attn_kv_a_norm.weight", "F32", [latent]),
            ("attn_q_a.weight", "F16", [embedding, 128]),
            ("attn_q_b.weight", "F16", [128, heads * (plain + rope)]),
            ("attn_kv_a_mqa.weight", "F16", [embedding, latent + rope]),
            ("attn_k_b.weight", "F16", [plain, latent, heads]),
            ("attn_v_b.weight", "F16", [latent, value, heads]),
            ("attn_output.weight", "F16", [heads * value, embedding]),
            ("ffn_norm.weight", "F32", [embedding]),
            *_network(embedding, 512, "F16"),
        ]
        tensors += [(f"blk.{number}.{name}", kind, dimensions) for name, kind, dimensions in block]
    return _model("deepseek2", keys, words, tensors)


def _mamba() -> Model:
    """No attention: of each sequence a state is kept, however long it becomes."""
    layers, embedding, words, inner, state, kernel, rank = 4, 256, 1024, 512, 16, 4, 16
    keys = {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": embedding,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    tensors: list[Tensor] = [
        ("token_embd.weight", "F16", [embedding, words]),
        ("output_norm.weight", "F32", [embedding]),
    ]
    for number in range(layers):
        block: list[Tensor] = [
            ("attn_norm.weight", "F32", [embedding]),
            ("ssm_in.weight", "F16", [embedding, 2 * inner]),
            ("ssm_conv1d.weight", "F32", [kernel, inner]),
            ("ssm_conv1d.bias", "F32", [inner]),
            ("ssm_x.weight", "F16", [inner, rank + 2 * state]),
            ("ssm_dt.weight", "F16", [rank, inner]),
            ("ssm_dt.bias", "F32", [inner]),
            ("ssm_a", "F32", [state, inner]),
            ("ssm_d", "F32", [inner]),
            ("ssm_out.weight", "F16", [inner, embedding]),
        ]
        tensors += [(f"blk.{number}.{name}", kind, dimensions) for name, kind, dimensions in block]
    return _model("mamba", keys, words, tensors)


def _hybrid() -> Model:
    """LFM2: short convolutions, with attention in some layers."""
    kv_heads, embedding, words = [0, 0, 2, 0, 0, 2], 256, 1024
    keys = {
        "block_count": len(kv_heads),
        "context_length": 8192,
        "embedding_length": embedding,
        "feed_forward_length": 512,
        "attention.head_count": 4,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "shortconv.l_cache": 3,
        "rope.dimension_count": 64,
    }
    tensors: list[Tensor] = [
        ("token_embd.weight", "F16", [embedding, words]),
        ("token_embd_norm.weight", "F32", [embedding]),
    ]
    for number, heads in enumerate(kv_heads):
        block: list[Tensor] = [
            ("attn_norm.weight", "F32", [embedding]),
            ("ffn_norm.weight", "F32", [embedding]),
            *_network(embedding, 512, "F16"),
        ]
        if heads:
            block += [
                ("attn_q_norm.weight", "F32", [64]),
                ("attn_k_norm.weight", "F32", [64]),
                ("attn_q.weight", "F16", [embedding, embedding]),
                ("attn_k.weight", "F16", [embedding, heads * 64]),
                ("attn_v.weight", "F16", [embedding, heads * 64]),
                ("attn_output.weight", "F16", [embedding, embedding]),
            ]
        else:
            block += [
                ("shortconv.conv.weight", "F32", [3, embedding]),
                ("shortconv.in_proj.weight", "F16", [embedding, 3 * embedding]),
                ("shortconv.out_proj.weight", "F16", [embedding, embedding]),
            ]
        tensors += [(f"blk.{number}.{name}", kind, dimensions) for name, kind, dimensions in block]
    return _model("lfm2", keys, words, tensors)


_GEMMA_NORMS = ("attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm")
MODELS: dict[str, Callable[[], Model]] = {
    "plain": transformer,
    "narrow": lambda: transformer(layers=2, head_size=48),
    "wide": lambda: transformer(layers=8, embedding=512, heads=8, feed_forward=2048, words=4096),
    "tied": lambda: transformer(
        layers=8, embedding=512, heads=8, feed_forward=2048, words=4096, weights="Q8_0", tied=True
    ),
    "quantized": lambda: transformer(
        embedding=512, heads=8, kv_heads=4, feed_forward=2048, words=32000, weights="Q4_K"
    ),
    "windows": lambda: transformer("gemma3", layers=6, tied=True, norms=_GEMMA_NORMS, attention__sliding_window=512),
    "experts": lambda: transformer(
        "qwen3moe",
        experts=8,
        norms=("attn_q_norm", "attn_k_norm"),
        expert_count=8,
        expert_used_count=2,
        expert_feed_forward_length=512,
    ),
    "experts_and_windows": lambda: transformer(
        "gpt-oss",
        layers=6,
        heads=8,
        experts=8,
        feed_forward=256,
        weights="MXFP4",
        norms=("post_attention_norm",),
        attention__sliding_window=128,
        expert_count=8,
        expert_used_count=4,
        expert_feed_forward_length=256,
    ),
    "latent": _latent,
    "states": _mamba,
    "hybrid": _hybrid,
}


def header(model: Model) -> bytes:
    """The file's bytes up to where the weights begin."""
    data = b"GGUF" + struct.pack("<IQQ", 3, len(model.tensors), len(model.metadata))
    for key, value in model.metadata.items():
        kind, packed = _packed(value)
        data += _text(key) + struct.pack("<I", kind) + packed
    offset = 0
    for name, label, dimensions in model.tensors:
        number, elements, block = TYPES[label]
        data += _text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, number, offset)
        offset += _aligned(math.prod(dimensions) // elements * block)
    return data + bytes(-len(data) % ALIGNMENT)


def write(model: Model, path: Path) -> None:
    """The whole file; the weights are a hole in it."""
    start = header(model)
    weights = sum(
        _aligned(math.prod(dimensions) // TYPES[label][1] * TYPES[label][2])
        for _name, label, dimensions in model.tensors
    )
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + weights)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _packed(value: Any) -> tuple[int, bytes]:
    """The number of the type, and the value."""
    if isinstance(value, bool):
        return _BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return _UINT32, struct.pack("<I", value)
    if isinstance(value, float):
        return _FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return _TEXT, _text(value)
    kind = _packed(value[0])[0]
    if kind == _UINT32:
        return _ARRAY, struct.pack(f"<IQ{len(value)}i", _INT32, len(value), *value)
    return _ARRAY, struct.pack("<IQ", kind, len(value)) + b"".join(_packed(element)[1] for element in value)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in MODELS.items():
        write(make(), folder / f"{name}.gguf")


if __name__ == "__main__":
    main()
