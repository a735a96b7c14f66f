# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of a model's files each GPU holds, tensor by tensor, from the headers of its safetensors files.

No tensor is read. A tensor's name says its layer and what it is, and so how it is divided; names are those of Hugging
Face transformers, which vLLM's loaders map. Of a folder with very many tensors (hundreds of experts in every layer)
only the sizes are read, which is exact for the sum; `serving_weights` then divides it by the counts of config.json.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ansible_collections.baremetal.llm.plugins.module_utils.lock_facts import read_index, weights_of_the_model
from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import (
    LONGEST_HEADER,
    HeaderError,
    ReadRange,
    TensorEntry,
    WeightsHeader,
    read_safetensors_header,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import (
    AFTER,
    BEFORE,
    ModelConfigError,
    ModelShape,
    TensorGroup,
)
from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import TensorTotals

# Headers of more than this are not taken apart: some 40,000 tensors, a third of a second.
_MOST_HEADER_BYTES = 6 * 1024 * 1024
_LARGEST_CONFIG = 16 * 1024 * 1024
_MOST_FILES = 20_000
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer|block)\.(\d{1,5})\.")
_TOWER = re.compile(
    r"(?:^|\.)(?:visual|vision_\w+|vision|audio_\w+|audio|multi_modal_projector|mm_projector|mlp1|image_newline|"
    r"embed_vision|embed_audio|patch_merge_mlp|vpm|resampler|speech_\w+|vit|img_\w+|encoder)\."
)
# What engines of text do not load: what speaks, and tables that are made again.
_NOT_LOADED = re.compile(r"(?:^|\.)(?:talker|token2wav|code2wav|code_predictor)\.|rotary_emb\.inv_freq|masked_bias$")
_DRAFT = re.compile(r"(?:^|\.)(?:mtp|mtp_layers|mtp_block|eagle\w*|medusa\w*|nextn\w*)\.")
_EMBEDDING = re.compile(r"(?:embed_tokens(?:_per_layer)?|word_embeddings|wte|tok_embeddings|embed_in|embeddings)\.\w+$")
_LM_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output|head)\.\w+$")
_REPLICATED = re.compile(
    r"norm|(?:^|\.)ln_|\.gate\.(?:weight|e_score|bias)|router|q_a_proj|kv_a_proj|indexer|e_score_correction|wpe\.|"
    r"embed_positions|position_embeddings|eh_proj|enorm|hnorm|per_layer_|altup|laurel"
)
_KV = re.compile(r"\.(?:k_proj|v_proj|wk|wv|key|value)\.")
_EXPERT = re.compile(r"\.experts?\.|experts\.(?:gate|up|down|w\d)|\.local_experts\.")
_FUSED_QKV = re.compile(r"\.(?:qkv_proj|query_key_value|c_attn|Wqkv|wqkv|attn_qkv)\.")


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a folder, as far as an engine loads them."""

    # Of all tensors in the files that an engine loads, those that it leaves aside included.
    total_bytes: int
    # As they are divided; empty where only the sum was read.
    groups: tuple[TensorGroup, ...] = ()
    totals: TensorTotals | None = None
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()


def read_checkpoint(folder: str, shape: ModelShape | None = None) -> Checkpoint:
    """Read config.json and the headers of the safetensors files in a folder.

    With a shape the tensors are sorted by what becomes of them (`groups`); without it only their sum is given. Raises
    ModelConfigError for a folder without config.json or weights, HeaderError for a file that cannot be what its name
    says; nothing is read but the beginnings of the files.
    """
    config = read_config(folder)
    paths = _weights(folder)
    if not paths:
        raise ModelConfigError(
            [f"{folder} has no safetensors file: fetch the weights first, or give model_config with weights_bytes"]
        )
    sizes = {path: _data_size(os.path.join(folder, path)) for path in paths}
    headers_bytes = sum(header for header, _data in sizes.values())
    total = sum(data for _header, data in sizes.values())
    if shape is None or headers_bytes > _MOST_HEADER_BYTES:
        notes = () if shape is None else (f"{len(paths)} files have more tensors than are looked at one by one",)
        return Checkpoint(total, config=config, notes=notes)
    headers = [_header(os.path.join(folder, path)) for path in paths]
    tensors = [tensor for header in headers for tensor in header.tensors]
    return Checkpoint(total, sort_tensors(shape, tensors), config=config)


def read_config(folder: str) -> dict[str, Any]:
    """config.json of a folder as a mapping, with the quantization that hf_quant_config.json beside it tells.

    Raises ModelConfigError.
    """
    path = os.path.join(folder, "config.json")
    try:
        config = _mapping(path)
    except FileNotFoundError as error:
        raise ModelConfigError([f"{path} does not exist: give the folder that holds the model itself"]) from error
    if not config.get("quantization_config"):
        try:
            extra = _mapping(os.path.join(folder, "hf_quant_config.json"))
        except (OSError, ModelConfigError):
            extra = {}
        if extra.get("quantization"):
            config["quantization_config"] = extra
    return config


def _mapping(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_CONFIG + 1)
        if len(content) > _LARGEST_CONFIG:
            raise ModelConfigError([f"{path} is larger than {_LARGEST_CONFIG} bytes"])
        data = json.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise ModelConfigError([f"{path} is not JSON: {error}"]) from error
    if not isinstance(data, dict):
        raise ModelConfigError([f"{path} is not a mapping"])
    return data


def _weights(folder: str) -> list[str]:
    """Names of the files that an engine loads."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))[:_MOST_FILES]
    except OSError as error:
        raise ModelConfigError([f"{folder} cannot be read: {error.strerror}"]) from error
    indexes: dict[str, Mapping[str, str]] = {}
    try:
        with open(os.path.join(folder, "model.safetensors.index.json"), "rb") as file:
            content = file.read(LONGEST_HEADER)
    except OSError:
        content = b""
    # The map of hundreds of thousands of tensors takes longer than all the rest, and adds nothing where all is there.
    if content and len(content) <= _LARGEST_CONFIG // 4:
        index = read_index(content)
        if index is not None:
            indexes["model.safetensors.index.json"] = index
            missing = sorted(set(index.values()) - set(names))
            if missing:
                raise ModelConfigError(
                    [f"{folder} lacks {len(missing)} of the files that its index names, such as {missing[0]}"]
                )
    nothing = WeightsHeader(TensorTotals(), frozenset())
    return weights_of_the_model({name: nothing for name in names}, indexes)


def _data_size(path: str) -> tuple[int, int]:
    """Bytes of the header and of the tensors. Raises HeaderError."""
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise ModelConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    if len(start) < 8:
        raise HeaderError(f"{path}: {size} bytes are too few for a safetensors header")
    length = int(struct.unpack("<Q", start)[0])
    if length > LONGEST_HEADER or length > size - 8:
        raise HeaderError(f"{path}: its header claims {length} bytes, the file has {size}")
    return length, size - 8 - length


def _header(path: str) -> WeightsHeader:
    try:
        with open(path, "rb") as file:
            return read_safetensors_header(_reader(file), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise ModelConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    except HeaderError as error:
        raise HeaderError(f"{path}: {error}") from error


def _reader(file: BinaryIO) -> ReadRange:
    def read(first: int, end: int) -> bytes:
        file.seek(first)
        return file.read(end - first)

    return read


def sort_tensors(shape: ModelShape, tensors: Iterable[TensorEntry]) -> tuple[TensorGroup, ...]:
    """The tensors that an engine loads, summed up by layer and by how they are divided. `bits` are 8 per byte."""
    kv_heads = max((layers.num_kv_heads for layers in shape.layers), default=0)
    experts = shape.experts.count if shape.experts is not None else 0
    sums: dict[tuple[str, str, int, int], int] = {}
    for tensor in tensors:
        found = _fate(shape, tensor.name, kv_heads, experts)
        if found is not None:
            size = tensor.bytes // 2 if tensor.dtype == "F32" and shape.stored_dtype == "float32" else tensor.bytes
            sums[found] = sums.get(found, 0) + size
    groups = [
        TensorGroup(f"{role} {split}", role, split, size, 8.0, (position,), units)
        for (role, split, position, units), size in sums.items()
    ]
    return (*groups, *(group for group in shape.groups if group.role == "derived"))


def _fate(shape: ModelShape, name: str, kv_heads: int, experts: int) -> tuple[str, str, int, int] | None:
    """Role, split, layer and units of a tensor; nothing if it is not loaded."""
    if _NOT_LOADED.search(name):
        return None
    if _DRAFT.search(name):
        return "draft", "tensor", AFTER, 0
    if shape.modalities and _TOWER.search(name) and not name.startswith("model.layers."):
        return "tower", "tensor", BEFORE, 0
    match = _LAYER.search(name)
    if match is None:
        if _LM_HEAD.search(name):
            return None if shape.tie_word_embeddings else ("lm_head", "vocabulary", AFTER, 0)
        if _EMBEDDING.search(name):
            return "embedding", "vocabulary", BEFORE, 0
        return "small", "none", AFTER, 0
    layer = int(match[1])
    if layer >= shape.num_hidden_layers:
        return ("draft", "tensor", AFTER, 0) if shape.draft_parameters else ("linear", "tensor", AFTER, 0)
    if _EXPERT.search(name) and ".shared_expert" not in name:
        return "expert", "expert", layer, experts
    if _REPLICATED.search(name):
        return "small", "none", layer, 0
    if _KV.search(name):
        return "linear", "kv", layer, kv_heads
    if _FUSED_QKV.search(name) and kv_heads:
        return "linear", "qkv", layer, kv_heads
    return "linear", "tensor", layer, 0
