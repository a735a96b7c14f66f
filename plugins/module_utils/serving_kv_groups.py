# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pages of vLLM's KV cache: how many bytes each kind of layer needs, and which layers share a block table.

Follows `v1/core/kv_cache_utils.py: get_kv_cache_groups`, `v1/kv_cache_interface.py`, `model_executor/layers/mamba/
mamba_utils.py` and `platforms/interface.py: _align_hybrid_block_size` of vLLM 0.32. `serving_kv` says what follows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import (
    CHUNKED,
    DTYPE_BYTES,
    ENCODER,
    FULL,
    INDEXER,
    MLA,
    SLIDING_WINDOW,
    STATE,
    AttentionLayers,
    LayerState,
    ModelShape,
)

# Bytes per token and layer of the packed layouts of MLA (vLLM, mla_attention.py, flashmla_sparse.py).
_PACKED_MLA = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}
# Bits per element; a scale of 4 bytes per token, head and side is added for those that have one.
_BITS = {
    "bfloat16": 16,
    "float16": 16,
    "half": 16,
    "float32": 32,
    "fp8": 8,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
    "fp8_inc": 8,
    "int8": 8,
    "fp8_ds_mla": 8,
    "int8_per_token_head": 8,
    "fp8_per_token_head": 8,
    "int4_per_token_head": 4,
}
_SCALE_BYTES = 4
# Packed pages of DeepSeek V4: tokens of one, and what its bytes are a multiple of (vLLM, models/deepseek_v4).
_PACKED_BLOCK, _PACKED_ALIGNMENT = 256, 576
# Kinds of layers whose pages can be in one group although they differ in size: all keep every token.
_EVERY_TOKEN = (FULL, MLA, INDEXER)
# A model is grouped by its largest kind of layers instead of its smallest when that is less than this times larger.
_NEARLY_AS_MANY = 1.5


class CacheError(ValueError):
    """A cache that the engine does not have: an unknown data type, or one that the model cannot use."""


@dataclass(frozen=True)
class Page:
    """A page of one layer: `bytes` for `block_size` tokens, or for one state."""

    kind: str
    positions: tuple[int, ...]
    bytes: int
    block_size: int
    window: int = 0
    # Of states: versions that offered it keep one for every block, so that any prefix can be taken up again.
    every_block: bool = False


@dataclass(frozen=True)
class Group:
    """Layers with one block table. A block of it takes `bytes_per_block` on the GPU that has all its layers."""

    kind: str
    block_size: int
    window: int
    pages: tuple[Page, ...]

    @property
    def every_block(self) -> bool:
        return self.pages[0].every_block

    @property
    def bytes_per_block(self) -> int:
        return sum(page.bytes * len(page.positions) for page in self.pages)

    def bytes_in(self, positions: range) -> int:
        """Bytes of a block on a GPU that has only these layers."""
        return sum(page.bytes * sum(1 for place in page.positions if place in positions) for page in self.pages)


def parse_version(version: str | None) -> tuple[int, ...]:
    """The leading numbers of a version; the earliest of several ("0.18/0.19"). Empty if it does not begin with one."""
    match = re.match(r"\s*v?(\d+(?:\.\d+)*)", version or "")
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def elements_bytes(dtype: str, elements: int) -> int:
    """Bytes of one side (K or V) of one head and token. Raises CacheError for a data type that is not known."""
    if dtype.startswith("nvfp4"):
        # Two elements to a byte, and a scale of one byte to 16 elements (vLLM, nvfp4_kv_cache_full_dim).
        return elements // 2 + elements // 16
    bits = _BITS.get(dtype)
    if bits is None:
        raise CacheError(f"kv_cache_dtype {dtype!r} is not known; known are auto, {', '.join(sorted(_BITS))} and nvfp4")
    scale = _SCALE_BYTES if elements and dtype.endswith("_per_token_head") else 0
    return elements * bits // 8 + scale


def token_bytes(layers: AttentionLayers, dtype: str, tensor: int) -> int:
    """Bytes per token of one such layer on one GPU. 0 for layers that keep no tokens. Raises CacheError."""
    if layers.kind in (STATE, ENCODER):
        return 0
    if layers.entry_bytes:
        # What is in a window is small there, and soon does not grow any more.
        return 0 if layers.kind == SLIDING_WINDOW else -(-layers.entry_bytes // layers.tokens_per_entry)
    if layers.kind == INDEXER:
        return layers.head_size
    if layers.kind == MLA:
        packed = _PACKED_MLA.get(dtype)
        return packed if packed is not None else elements_bytes(dtype, layers.head_size)
    if dtype in _PACKED_MLA:
        raise CacheError(f"kv_cache_dtype {dtype!r} is only for models with multi-head latent attention (MLA)")
    heads = max(1, layers.num_kv_heads // tensor)
    return heads * (elements_bytes(dtype, layers.head_size) + elements_bytes(dtype, layers.value_head_size))


def state_bytes(state: LayerState, tensor: int, model_dtype: str, cache_dtype: str, ssm_dtype: str, drafts: int) -> int:
    """Bytes of the state of one layer and request on one GPU, with room for `drafts` speculative tokens."""
    conv_dtype = model_dtype if cache_dtype == "auto" else cache_dtype
    recurrent_dtype = state.dtype if ssm_dtype == "auto" else ssm_dtype
    if recurrent_dtype == "auto":
        recurrent_dtype = conv_dtype
    groups = state.groups if state.kind == "mamba2" else 0
    if groups and groups % tensor:
        # Every GPU needs the whole group of its heads (vLLM, extra_groups_for_head_shards).
        groups = max(groups, tensor)
    channels = state.conv_channels + 2 * groups * state.state_size if state.kind == "mamba2" else state.conv_channels
    # Mamba 1 does not roll its input back for drafts.
    steps = max(0, state.conv_kernel - 1) + (drafts if state.kind != "mamba1" else 0)
    conv = -(-channels // tensor) * steps * _dtype_bytes(conv_dtype)
    recurrent = -(-state.heads // tensor) * state.head_size * state.state_size * _dtype_bytes(recurrent_dtype)
    return conv + recurrent


def _dtype_bytes(dtype: str) -> int:
    if dtype not in DTYPE_BYTES:
        raise CacheError(f"a state cannot be kept as {dtype!r}; possible are {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]


@dataclass(frozen=True)
class PageSettings:
    """What the size of a page depends on besides the model."""

    dtype: str
    tensor: int
    # Tokens of a page before it is aligned, and the number that it must be a multiple of.
    block_size: int
    alignment: int
    mamba_cache_dtype: str
    mamba_ssm_cache_dtype: str
    drafts: int
    # Sliding windows and chunks are kept like full attention.
    keep_all_tokens: bool


def group_layers(shape: ModelShape, layers: Sequence[AttentionLayers], settings: PageSettings) -> list[Group]:
    """The groups of a model's layers. Empty for a model that keeps nothing. Raises CacheError."""
    kept = [part for part in layers if part.kind != ENCODER and part.count]
    if settings.keep_all_tokens and any(part.kind in _EVERY_TOKEN for part in kept):
        kept = [replace(part, kind=FULL, window=0) if part.kind in (SLIDING_WINDOW, CHUNKED) else part for part in kept]
    pages = _pages(shape, kept, settings)
    if not pages:
        return []
    if any(part.entry_bytes for part in kept):
        return _packed(pages)
    kinds = {(page.kind, page.window) for page in pages if page.kind not in _EVERY_TOKEN}
    some_keep_all = any(page.kind in _EVERY_TOKEN for page in pages)
    states = {page.bytes for page in pages if page.kind == STATE}
    if (not kinds and some_keep_all) or (len(kinds) == 1 and not some_keep_all and len(states) < 2):
        # Everything has the same life: one group, whatever the sizes.
        first = pages[0]
        return [Group(FULL if not kinds else first.kind, first.block_size, first.window, tuple(pages))]
    return _split(_same_size(pages))


def _pages(shape: ModelShape, layers: Sequence[AttentionLayers], settings: PageSettings) -> list[Page]:
    per_token = {id(part): token_bytes(part, settings.dtype, settings.tensor) for part in layers}
    states = {
        id(part): state_bytes(
            part.state,
            settings.tensor,
            shape.dtype,
            settings.mamba_cache_dtype,
            settings.mamba_ssm_cache_dtype,
            settings.drafts,
        )
        for part in layers
        if part.state is not None
    }
    block_size = settings.block_size
    largest_state = max(states.values(), default=0)
    attention = [per_token[id(part)] for part in layers if part.kind in (FULL, MLA, SLIDING_WINDOW)]
    padded_state = largest_state
    if largest_state and attention:
        # A page of attention is made at least as large as a state, and the state padded to it.
        one_token = attention[0]
        align = math.lcm(settings.alignment, 128) if shape.uses_mla else settings.alignment
        align = max(align, block_size)
        block_size = max(block_size, align * -(-largest_state // (align * one_token)))
        padded_state = block_size * one_token
    pages = []
    for part in layers:
        if part.entry_bytes:
            tokens = part.block_size or max(block_size, _PACKED_BLOCK)
            entries = max(1, tokens // part.tokens_per_entry)
            size = -(-entries * part.entry_bytes // _PACKED_ALIGNMENT) * _PACKED_ALIGNMENT
            pages.append(Page(part.kind, part.positions, size, tokens, part.window))
        elif part.kind == STATE:
            size = padded_state if attention else states[id(part)]
            every_block = part.state is not None and part.state.kind in ("mamba1", "mamba2")
            pages.append(Page(STATE, part.positions, size, block_size, every_block=every_block))
        else:
            pages.append(Page(part.kind, part.positions, per_token[id(part)] * block_size, block_size, part.window))
    return [page for page in pages if page.bytes]


def _packed(pages: Sequence[Page]) -> list[Group]:
    """Pages of different sizes side by side: what keeps every token is one group, what does not is cut to fit beside.

    As vLLM's `_get_packed_kv_cache_groups` for DeepSeek V4 ("5-group layout", vllm-project/vllm#51041).
    """
    whole = tuple(page for page in pages if page.kind in _EVERY_TOKEN)
    groups = [Group(FULL, whole[0].block_size, 0, whole)] if whole else []
    room = sum(page.bytes * len(page.positions) for page in whole)
    buckets: dict[tuple[int, int], list[Page]] = {}
    for page in pages:
        if page.kind not in _EVERY_TOKEN:
            buckets.setdefault((page.window, page.block_size), []).append(page)
    for (window, block_size), found in buckets.items():
        size = sum(page.bytes * len(page.positions) for page in found)
        number = max(1, -(-size // room)) if room else 1
        for index in range(number):
            parts = tuple(replace(page, positions=page.positions[index::number]) for page in found)
            groups.append(Group(found[0].kind, block_size, window, parts))
    return groups


def _same_size(pages: Sequence[Page]) -> list[Page]:
    """Pages of one size: smaller ones take more tokens, or are padded where that does not come out even."""
    largest = max(page.bytes for page in pages)
    result = []
    for page in pages:
        if page.kind != STATE and largest % page.bytes == 0:
            page = replace(page, block_size=page.block_size * (largest // page.bytes))
        result.append(replace(page, bytes=largest))
    return result


def _split(pages: Sequence[Page]) -> list[Group]:
    """Groups of equally many layers of pages of one size."""
    kinds: dict[tuple[str, int, int, bool], list[int]] = {}
    for page in pages:
        kind = FULL if page.kind in _EVERY_TOKEN else page.kind
        kinds.setdefault((kind, page.block_size, page.window, page.every_block), []).extend(page.positions)
    counts = [len(positions) for positions in kinds.values()]
    size = max(counts) if max(counts) < _NEARLY_AS_MANY * min(counts) else min(counts)
    groups = []
    for (kind, block_size, window, every_block), positions in kinds.items():
        number = -(-len(positions) // size)
        for index in range(number):
            places = tuple(sorted(positions)[index::number])
            page = Page(kind, places, pages[0].bytes, block_size, window, every_block)
            groups.append(Group(kind, block_size, window, (page,)))
    return groups
