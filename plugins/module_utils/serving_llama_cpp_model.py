# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a GGUF model is to llama.cpp's memory: what each layer weighs, and what it remembers of every token.

Read in llama.cpp's source (build 11434): `llama-hparams.cpp` (sizes of keys, values and recurrent states),
`llama-model.cpp: create_memory` (which layers have which cache) and `models/*.cpp: load_arch_hparams` (which layers
see a window only, which are recurrent). What build 11669 prints is beside it in docs/guides/serving_plan_llama_cpp.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.gguf_header import read_gguf_header
from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import (
    HeaderError,
    TensorEntry,
    WeightsHeader,
)

# LLAMA_MAX_LAYERS.
_MOST_LAYERS = 512
_MOST_FILES = 10_000
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_LAYER = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"blk\.\d+\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\b")
# What is looked up row by row stays in the host's memory, whatever is offloaded.
_INPUT = re.compile(r"(?:token_embd|position_embd|token_types|per_layer_token_embd)\b")

# Every how many layers one sees everything, if the file does not say (`load_swa_pattern`); True: the first of them
# does, otherwise the last. The window is the file's, or the number here.
_WINDOWS: Mapping[str, tuple[int, bool, int]] = {
    "afmoe": (4, False, 0),
    "cohere2": (4, False, 0),
    "cohere2moe": (4, True, 0),
    "exaone4": (4, False, 4096),
    "exaone-moe": (4, False, 128),
    "gemma2": (2, False, 4096),
    "gemma3": (6, False, 0),
    "gemma3n": (5, False, 0),
    "gemma4": (0, False, 0),
    "gpt-oss": (2, False, 0),
    "granite-swa": (0, False, 0),
    "laguna": (4, True, 0),
    "llama4": (4, False, 8192),
    "mellum": (4, False, 0),
    "mimo2": (0, False, 0),
    "olmo2": (4, False, 0),
    "plamo3": (8, False, 0),
    "smallthinker": (4, True, 4096),
    "step35": (0, False, 0),
}
# The window is that number although the file has another one.
_FIXED_WINDOW = ("llama4", "smallthinker")
# The window is a part of the architecture even where the file does not have it.
_ALWAYS_WINDOW = ("exaone4", "gemma2", "llama4")
# Only the model of that many layers has them (`models/exaone4.cpp`).
_EXAONE_WITH_WINDOWS = 64
_RECURRENT = ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7")
# Layers without key-value heads are recurrent.
_NO_HEADS_IS_RECURRENT = (
    "granitehybrid",
    "jamba",
    "kimi-linear",
    "lfm2",
    "lfm2moe",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
)
# Every n-th layer has attention, the others are recurrent.
_INTERVAL_OF_ATTENTION = ("qwen3next", "qwen35", "qwen35moe")
# Both in every layer.
_BOTH = ("falcon-h1",)
# Keys of an indexer beside those of the attention.
_INDEXED = ("deepseek32", "glm-dsa")
# What looks at whole texts, and keeps nothing.
_NO_CACHE = (
    "bert",
    "dream",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "llada",
    "llada-moe",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "rnd1",
    "wavtokenizer-dec",
)
# Their caches are laid out in ways that are not described here: better no plan than a wrong one.
_NOT_DESCRIBED = (
    "bailingmoe3",
    "deepseek4",
    "dflash",
    "dots3note",
    "gemma4-assistant",
    "glm5-next",
    "hy-v4",
    "kimi-k3",
    "minimax-01",
    "minimax-m3",
    "qwen4exp",
    "t5",
    "t5encoder",
)


class ModelError(ValueError):
    """A model that cannot be planned; `code` is for programs, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Layer:
    """One layer: bytes of its weights, elements that it keeps of every token, bytes that it keeps of every sequence."""

    weights: int
    # Of these, the experts among which a router chooses: they can stay in the host's memory.
    expert_weights: int
    keys: int
    values: int
    window: bool
    state_bytes: int


@dataclass(frozen=True)
class GgufModel:
    """A model as llama.cpp holds it. All sizes are in elements unless they say bytes.

    `attention`, `attention_keys`, `feed_forward` and `recurrence` are widths of what the widest layer computes.
    """

    architecture: str
    layers: tuple[Layer, ...]
    input_weights: int
    output_weights: int
    # The matrix of the embeddings is the output's too: a GPU needs a copy, since the input stays with the host.
    tied_weights: int
    skipped_weights: int
    largest_tensor: int
    context_length: int
    vocabulary: int
    embedding: int
    heads: int
    key_size: int
    value_size: int
    attention: int
    attention_keys: int
    feed_forward: int
    recurrence: int
    experts: int
    experts_used: int
    window: int
    # How well the compute buffers can be known: "plain", "experts" or "other".
    family: str

    @property
    def file_weights(self) -> int:
        """Bytes of all tensors, once each."""
        return (
            sum(layer.weights for layer in self.layers)
            + self.input_weights
            + self.output_weights
            + self.skipped_weights
        )


def read_gguf_model(path: str) -> GgufModel:
    """The model in a GGUF file, with all its parts if it is the first of several. Raises ModelError and OSError."""
    folder, name = os.path.split(path)
    match = _SHARD.fullmatch(name)
    count = int(match["count"]) if match else 1
    if not 1 <= count <= _MOST_FILES:
        raise ModelError("broken_file", f"{name} says that it is one of {count} files")
    names = [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)] if match else [name]
    headers = []
    for part in names:
        try:
            headers.append(_read_header(os.path.join(folder, part)))
        except FileNotFoundError:
            raise ModelError("missing_file", f"{part} is missing; the model is in {count} files") from None
        except HeaderError as error:
            raise ModelError("broken_file", f"{part}: {error}") from error
    first = headers[0].facts
    if first.get("split.count", 1) != count and (count > 1 or first.get("split.count", 0) > 1):
        raise ModelError("missing_file", f"{names[0]} says that the model is in {first.get('split.count', 1)} files")
    tensors = [tensor for header in headers for tensor in header.tensors]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ModelError("broken_file", f"{name}: the same tensor is in more than one of its files")
    return model_of(first, tensors)


def _read_header(path: str) -> WeightsHeader:
    with open(path, "rb") as file:

        def read(first: int, end: int) -> bytes:
            file.seek(first)
            data = file.read(end - first)
            if len(data) != end - first:
                raise HeaderError("the file became shorter while it was read")
            return data

        header = read_gguf_header(read, os.fstat(file.fileno()).st_size)
    if not header.tensors and "version" in header.facts:
        raise HeaderError(f"version {header.facts['version']} of the format is not known here")
    return header


def model_of(facts: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> GgufModel:
    """The model that a header tells of: `facts` as `read_gguf_header` gives them. Raises ModelError."""
    architecture = facts.get("architecture")
    if not isinstance(architecture, str) or not tensors:
        raise ModelError("broken_file", "the header names no architecture or has no tensors")
    if architecture == "clip" or facts.get("type", "model") not in ("model", ""):
        raise ModelError("no_language_model", f"it holds {facts.get('type', architecture)}, not a language model")
    if architecture in _NOT_DESCRIBED:
        raise ModelError("unknown_architecture", f"how llama.cpp keeps the memory of {architecture} is not known here")
    count = _whole(facts, "block_count", 1, _MOST_LAYERS)
    embedding = _whole(facts, "embedding_length", 1, 1 << 24)
    heads = _per_layer(facts, "attention.head_count", count, 0)
    kv_heads = _per_layer(facts, "attention.head_count_kv", count, None) or heads
    feed_forward = _per_layer(facts, "feed_forward_length", count, 0) or [0] * count
    if not heads or not feed_forward:
        raise ModelError("broken_file", "the numbers of heads of its layers cannot be read")
    trunk = count - _whole(facts, "nextn_predict_layers", 0, count, 0)
    plain_size = embedding // heads[0] if heads[0] else 0
    key_size = _whole(facts, "attention.key_length", 0, 1 << 20, plain_size)
    value_size = _whole(facts, "attention.value_length", 0, 1 << 20, plain_size)
    sizes_in_window = (
        _whole(facts, "attention.key_length_swa", 0, 1 << 20, key_size),
        _whole(facts, "attention.value_length_swa", 0, 1 << 20, value_size),
    )
    latent = "attention.key_length_mla" in facts and "attention.value_length_mla" in facts
    window, in_window = _windows(architecture, facts, count, trunk)
    recurrent = _recurrent_layers(architecture, facts, kv_heads, feed_forward, trunk)
    indexer = _whole(facts, "attention.indexer.key_length", 0, 1 << 20, 0) if architecture in _INDEXED else 0
    kept_layers = _layers_that_keep(architecture, facts, count)
    weights, experts, rest = _weights_of(tensors, count)
    layers = []
    for number in range(count):
        keys = values = 0
        attends = (not recurrent[number] or architecture in _BOTH) and architecture not in _NO_CACHE
        if attends and number < min(trunk, kept_layers):
            key, value = sizes_in_window if in_window[number] else (key_size, value_size)
            keys = kv_heads[number] * key + indexer
            values = 0 if latent else kv_heads[number] * value
        is_left_out = number >= trunk
        layers.append(
            Layer(
                weights=0 if is_left_out else weights[number],
                expert_weights=0 if is_left_out else experts[number],
                keys=keys,
                values=values,
                window=in_window[number] and keys > 0,
                state_bytes=_state_bytes(architecture, facts, heads) if recurrent[number] else 0,
            )
        )
    used = max(_per_layer(facts, "expert_used_count", count, 0) or [0])
    used_width = max(_per_layer(facts, "expert_feed_forward_length", count, 0) or [0]) or max(feed_forward)
    embeddings = rest.get("token_embd.weight", 0)
    is_plain = not any(recurrent) and not latent
    return GgufModel(
        architecture=architecture,
        layers=tuple(layers),
        input_weights=sum(size for name, size in rest.items() if _INPUT.match(name)),
        output_weights=sum(size for name, size in rest.items() if not _INPUT.match(name)),
        tied_weights=0 if "output.weight" in rest else embeddings,
        skipped_weights=sum(weights[trunk:]),
        largest_tensor=max(tensor.bytes for tensor in tensors),
        context_length=_whole(facts, "context_length", 0, 1 << 40, 0),
        vocabulary=_whole(facts, "vocab_size", 0, 1 << 30, 0),
        embedding=embedding,
        heads=max(heads),
        key_size=key_size,
        value_size=value_size,
        attention=max(heads) * max(key_size, sizes_in_window[0], value_size),
        attention_keys=max(layer.keys for layer in layers),
        feed_forward=used_width if used else max(feed_forward),
        recurrence=_whole(facts, "ssm.inner_size", 0, 1 << 24, 0) if any(recurrent) else 0,
        experts=_whole(facts, "expert_count", 0, 1 << 16, 0),
        experts_used=used,
        window=window,
        family=("experts" if used else "plain") if is_plain else "other",
    )


def _weights_of(tensors: Sequence[TensorEntry], count: int) -> tuple[list[int], list[int], dict[str, int]]:
    """Bytes of each layer, of its experts, and of every tensor that is of no layer."""
    weights, experts, rest = [0] * count, [0] * count, {}
    for tensor in tensors:
        match = _LAYER.match(tensor.name)
        if match is None:
            rest[tensor.name] = tensor.bytes
            continue
        number = int(match[1])
        if number >= count:
            raise ModelError("broken_file", f"the tensor {tensor.name[:100]!r} is of a layer beyond the {count} it has")
        weights[number] += tensor.bytes
        if _EXPERTS.match(tensor.name):
            experts[number] += tensor.bytes
    return weights, experts, rest


def _windows(architecture: str, facts: Mapping[str, Any], count: int, trunk: int) -> tuple[int, list[bool]]:
    """The window in tokens, 0 for none, and which layers see no further."""
    everything = [False] * count
    if architecture not in _WINDOWS or (architecture == "exaone4" and count != _EXAONE_WITH_WINDOWS):
        if architecture in ("lfm2", "lfm2moe") and _whole(facts, "attention.sliding_window", 0, 1 << 40, 0):
            return _whole(facts, "attention.sliding_window", 0, 1 << 40), [number < trunk for number in range(count)]
        return 0, everything
    period, first, default = _WINDOWS[architecture]
    stated = _whole(facts, "attention.sliding_window", 0, 1 << 40, default if architecture in _ALWAYS_WINDOW else 0)
    if not stated:
        return 0, everything
    window = default if architecture in _FIXED_WINDOW else stated
    pattern = facts.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if len(pattern) < count:
            raise ModelError("broken_file", f"its pattern of windows has {len(pattern)} layers, the model {count}")
        return window, [bool(item) and number < trunk for number, item in enumerate(pattern[:count])]
    period = _whole(facts, "attention.sliding_window_pattern", 0, 1 << 16, period)
    place: Callable[[int], bool] = lambda number: number % period != (0 if first else period - 1)  # noqa: E731
    return window, [number < trunk and (period == 0 or place(number)) for number in range(count)]


def _recurrent_layers(
    architecture: str, facts: Mapping[str, Any], kv_heads: list[int], feed_forward: list[int], trunk: int
) -> list[bool]:
    count = len(kv_heads)
    if architecture in _RECURRENT or architecture in _BOTH:
        return [number < trunk for number in range(count)]
    if architecture in _NO_HEADS_IS_RECURRENT:
        # A layer of Nemotron-H has one of: attention, a state, or a feed-forward network.
        alone = architecture.startswith("nemotron_h")
        return [
            number < trunk and kv_heads[number] == 0 and not (alone and feed_forward[number]) for number in range(count)
        ]
    if architecture in _INTERVAL_OF_ATTENTION:
        listed = facts.get("attention.recurrent_layers")
        if isinstance(listed, list) and len(listed) >= count:
            return [number < trunk and bool(listed[number]) for number in range(count)]
        interval = _whole(facts, "full_attention_interval", 1, 1 << 16, 4)
        return [number < trunk and (number + 1) % interval != 0 for number in range(count)]
    return [False] * count


def _layers_that_keep(architecture: str, facts: Mapping[str, Any], count: int) -> int:
    """The number of layers from the first that have keys and values of their own; later ones read theirs."""
    if architecture == "gemma3n":
        return 20
    if architecture == "gemma4":
        return count - _whole(facts, "attention.shared_kv_layers", 0, count, 0)
    return count


def _state_bytes(architecture: str, facts: Mapping[str, Any], heads: list[int]) -> int:
    """Bytes that a recurrent layer keeps of one sequence: always 32 bits an element (`n_embd_r`, `n_embd_s`)."""
    embedding = _whole(facts, "embedding_length", 1, 1 << 24)

    def of(key: str, default: int = 0) -> int:
        return _whole(facts, key, 0, 1 << 32, default)

    kernel = of("ssm.conv_kernel")
    if of("wkv.head_size"):
        elements = of("token_shift_count", 2) * embedding + embedding * of("wkv.head_size")
    elif of("shortconv.l_cache"):
        elements = embedding * (of("shortconv.l_cache") - 1) + of("ssm.state_size") * of("ssm.inner_size")
    elif of("kda.head_dim"):
        size = of("kda.head_dim")
        elements = 3 * (kernel - 1 if kernel else 3) * heads[0] * size + size * size * heads[0]
    else:
        width = of("ssm.inner_size") + 2 * of("ssm.group_count") * of("ssm.state_size")
        elements = max(0, kernel - 1) * width + of("ssm.state_size") * of("ssm.inner_size")
    return 4 * elements


def _whole(facts: Mapping[str, Any], key: str, least: int, most: int, default: int | None = None) -> int:
    value = facts.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ModelError("broken_file", f"its {key} is {str(value)[:100]}, which must be from {least} to {most}")
    return value


def _per_layer(facts: Mapping[str, Any], key: str, count: int, default: int | None) -> list[int]:
    """A number for every layer; the file has one for all, or a list. Nothing if there is none and no default."""
    value = facts.get(key, default)
    if value is None:
        return []
    numbers = value if isinstance(value, list) else [value] * count
    if len(numbers) < count or any(
        isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 32 for number in numbers
    ):
        raise ModelError("broken_file", f"its {key} is not a number for each of {count} layers")
    return numbers[:count]
