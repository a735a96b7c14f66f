# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shape of a model, as far as memory depends on it: what any config.json of the Hugging Face format says.

`ModelShape` is what the arithmetic of the planner starts from: `serving_kv` (bytes of the KV cache), `serving_weights`
(bytes of the weights) and `serving_parallel` (over how many GPUs it can be divided). `read_model_shape` in
`serving_model` makes it from the mapping of a config.json. Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Kinds of layers, by what they keep of a request.
FULL = "full"  # keys and values of every token
SLIDING_WINDOW = "sliding_window"  # of the last `window` tokens
CHUNKED = "chunked"  # of the tokens of the chunk of `window` tokens that the last one is in
MLA = "mla"  # one latent vector of every token, the same on every GPU
INDEXER = "indexer"  # one key of every token, by which sparse attention selects; the same on every GPU
STATE = "state"  # a state of constant size (Mamba, linear attention, short convolution)
CROSS = "cross"  # keys and values of what the encoder read
ENCODER = "encoder"  # nothing

# Bytes of one element of what models are computed in; vLLM computes in 16 bits what is stored in 32.
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class ModelConfigError(ValueError):
    """A config.json that nothing can be planned from; `problems` are all that is wrong, each with the way out."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


@dataclass(frozen=True)
class LayerState:
    """The state that a layer keeps of each request, whatever its length.

    `kind` is one of mamba1, mamba2, gated_delta_net, kda, linear_attention, short_conv. The numbers are those of the
    whole model; `serving_kv.state_bytes` divides them over the GPUs (sizes as in vLLM's
    `model_executor/layers/mamba/mamba_utils.py`).
    """

    kind: str
    # Elements of the convolution's input that it keeps, besides those of the groups, and how many steps of them.
    conv_channels: int = 0
    conv_kernel: int = 0
    # Mamba 2: groups of the input and output matrices (B and C), each of `state_size` elements. Gated delta net: heads
    # of keys.
    groups: int = 0
    heads: int = 0
    head_size: int = 0
    state_size: int = 0
    # dtype of the recurrent state: "auto" is that of the model.
    dtype: str = "auto"


@dataclass(frozen=True)
class AttentionLayers:
    """Layers that keep the same of a request. `num_kv_heads` and the head sizes are those of the whole model."""

    kind: str
    # Index of each layer in the model, from 0: pipeline parallelism divides them.
    positions: tuple[int, ...]
    num_kv_heads: int = 0
    head_size: int = 0
    value_head_size: int = 0
    # Tokens, of a sliding window or a chunk.
    window: int = 0
    state: LayerState | None = None
    # Packed layouts: bytes of an entry instead of heads and sizes, tokens that share one, and tokens of a page.
    entry_bytes: int = 0
    tokens_per_entry: int = 1
    block_size: int = 0

    @property
    def count(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Quantization:
    """How weights are stored. `bits` are those of a quantized weight, `effective_bits` with scales and zero points."""

    # As config.json names it: awq, gptq, fp8, compressed-tensors, modelopt, modelopt_fp4, mxfp4, bitsandbytes, gguf...
    method: str
    # What the weights are: int4, int8, fp8, nvfp4, mxfp4 ...
    format: str
    bits: float
    effective_bits: float
    # Weights that share a scale, along the input of a matrix; 0 for one scale per output or matrix, -1 if not known.
    group_size: int = 0
    # Weights of a block that share a scale (FP8 of DeepSeek: 128 x 128), or nothing.
    block: tuple[int, ...] = ()
    # What of the model is quantized: "linear" (all matrices of the layers) or "experts" (only those).
    scope: str = "linear"
    # Parts of the model that config.json excludes, as it writes them.
    ignored: tuple[str, ...] = ()
    quantizes_lm_head: bool = False
    # dtype of the KV cache that the checkpoint asks for, or nothing.
    kv_cache_dtype: str = ""
    # Weights are stored in more bits and quantized when they are loaded.
    online: bool = False
    # Of experts, where they are stored otherwise; 0 if not.
    expert_bits: float = 0


@dataclass(frozen=True)
class Experts:
    """Mixture of experts. `layers` are the indexes of the layers that have them."""

    count: int
    per_token: int
    intermediate_size: int
    layers: tuple[int, ...]
    # Size of what every token passes besides, over all shared experts.
    shared_intermediate_size: int = 0


@dataclass(frozen=True)
class TensorGroup:
    """Weights of the same size and the same fate when a model is divided.

    `split` is how tensor parallelism treats them: "tensor" (divided), "vocabulary" (divided, the vocabulary padded),
    "kv" (divided down to one KV head per GPU), "expert" (divided, or shared out under expert parallelism), "none".
    `role`: "linear", "expert", "embedding", "lm_head", "small" (norms, biases, routers), "tower" (multimodal parts),
    "draft" (only loaded for speculative decoding), "derived" (made while loading, not in the checkpoint).
    """

    name: str
    role: str
    split: str
    # Elements of one of them, and bits of an element as it is held, with its share of scales.
    parameters: int
    bits: float
    # Index of each layer that has it; BEFORE for what comes before the first layer, AFTER for what follows the last.
    positions: tuple[int, ...]
    # Of "kv" the KV heads, of "expert" the experts: it cannot be divided further.
    units: int = 0

    @property
    def total(self) -> int:
        return self.parameters * len(self.positions)

    @property
    def bytes(self) -> float:
        """Of one of them."""
        return self.parameters * self.bits / 8


BEFORE, AFTER = -1, -2


@dataclass(frozen=True)
class ModelShape:
    """A model. Sizes are those of the whole model, before any division over GPUs."""

    architecture: str
    model_type: str
    # What the checkpoint says of itself; float32 is halved when it is loaded.
    stored_dtype: str
    # What is computed in, as the engine resolves "auto" on a GPU: float16 or bfloat16.
    dtype: str
    hidden_size: int
    # The largest width of a feed-forward layer that a token passes: dense, or its experts and shared ones together.
    intermediate_size: int
    # The width of the dense feed-forward layers; 0 if there are none.
    dense_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    # Of the widest attention; 0 if there is none. 1 for MLA.
    num_kv_heads: int
    head_size: int
    vocab_size: int
    # The longest context that the engine derives from config.json, in tokens.
    max_position_embeddings: int
    layers: tuple[AttentionLayers, ...]
    groups: tuple[TensorGroup, ...]
    quantization: Quantization | None = None
    experts: Experts | None = None
    tie_word_embeddings: bool = False
    # Names of parts that read something else than text: vision, audio.
    modalities: tuple[str, ...] = ()
    # Layers of the checkpoint that only speculative decoding loads (multi-token prediction), and what they keep.
    draft_layers: tuple[AttentionLayers, ...] = ()
    # "generate", "pooling" (encoder-only: no KV cache) or "transcription" (encoder and decoder).
    task: str = "generate"
    # False: an architecture that is not known here; planned as an ordinary transformer, with a wider interval.
    known: bool = True
    # Sentences about what was assumed.
    notes: tuple[str, ...] = ()

    @property
    def is_moe(self) -> bool:
        return self.experts is not None

    @property
    def uses_mla(self) -> bool:
        return any(layers.kind == MLA for layers in self.layers)

    @property
    def is_hybrid(self) -> bool:
        """Whether layers with a state of constant size are mixed with attention."""
        kinds = {layers.kind for layers in self.layers}
        return STATE in kinds and len(kinds) > 1

    @property
    def parameters(self) -> int:
        """Elements of all weights, without layers that only speculative decoding loads."""
        return sum(group.total for group in self.groups if group.role not in ("draft", "derived"))

    @property
    def draft_parameters(self) -> int:
        return sum(group.total for group in self.groups if group.role == "draft")
