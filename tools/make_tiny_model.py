#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Make a tiny Llama-shaped model with random weights, the same bytes on every run.

It stands in for a real model where no Hub can be reached: about 3 MB that a real engine loads and answers with noise,
so that the whole path from weights to endpoint is walked. Two layers, hidden size 256, four attention heads of 64
(vLLM's CPU attention refuses a head size of 16), two key-value heads and a byte-level BPE tokenizer of 1024 tokens.

usage: make_tiny_model.py FOLDER [--seed N]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 256, 512, 2, 4, 2, 64, 1024
MAX_POSITIONS = 2048
SPECIAL = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
# Some text to learn merges from; any will do that is the same everywhere.
CORPUS = Path(__file__).resolve().parent.parent / "LICENSE"
CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tensors(seed: int) -> dict[str, numpy.ndarray]:
    """Return the weights by their Hugging Face names, float16."""
    generator = numpy.random.default_rng(seed)

    def random(*shape: int) -> numpy.ndarray:
        return (generator.standard_normal(shape, dtype=numpy.float32) * 0.02).astype(numpy.float16)

    ones = numpy.ones(HIDDEN, dtype=numpy.float16)
    result = {"model.embed_tokens.weight": random(VOCABULARY, HIDDEN), "model.norm.weight": ones}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        result |= {
            f"{prefix}.input_layernorm.weight": ones,
            f"{prefix}.post_attention_layernorm.weight": ones,
            f"{prefix}.self_attn.q_proj.weight": random(HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": random(HIDDEN, HEADS * HEAD_DIM),
            f"{prefix}.mlp.gate_proj.weight": random(INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": random(INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": random(HIDDEN, INTERMEDIATE),
        }
    return result | {"lm_head.weight": random(VOCABULARY, HIDDEN)}


def tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer: every byte sequence has tokens."""
    result = Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    result.train([str(CORPUS)], trainer)
    return result


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def make(folder: Path, seed: int) -> None:
    """Write the model's files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(seed), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    begin, end = SPECIAL[0], SPECIAL[1]
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 0,
            "eos_token_id": 1,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "max_position_embeddings": MAX_POSITIONS,
            "model_type": "llama",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": KV_HEADS,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "vocab_size": VOCABULARY,
        },
    )
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": begin,
            "chat_template": CHAT_TEMPLATE,
            "eos_token": end,
            "model_max_length": MAX_POSITIONS,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another model (default: %(default)s)")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.seed)


if __name__ == "__main__":
    main()
