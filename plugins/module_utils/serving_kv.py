# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many tokens of context vLLM keeps in a given amount of memory, and how much memory a given number needs.

The arithmetic is that of vLLM's `v1/core/kv_cache_utils.py` and `v1/kv_cache_interface.py` (0.32, with the differences
of earlier versions where they are known):

* Every GPU keeps, per token and layer, max(1, KV heads / tensor_parallel_size) x (K size + V size) elements. An MLA
  layer keeps one latent vector (kv_lora_rank + qk_rope_head_dim elements) that is not divided.
* Memory is handed out in pages of `block_size` tokens. Layers that keep the same are grouped, all groups hold equally
  many layers and draw from one pool: bytes per block = layers of a group x bytes of a page, blocks = memory // that.
* A request of full length takes of each group: full attention cdiv(length, block size) blocks; a sliding window
  cdiv(min(window - 1 + tokens in flight, length), block size) + 1; a state one block (two and more when prefixes are
  cached). Concurrency = blocks / their sum.
* The log's "KV cache size" is int(concurrency x length) since 0.21, and blocks // groups x block size before, which
  for models with several groups is another number at the same memory.

All sizes are bytes of one GPU, all lengths tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv_groups import (
    CacheError,
    Group,
    PageSettings,
    group_layers,
    parse_version,
    token_bytes,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_parallel import stages
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import (
    CHUNKED,
    CROSS,
    FULL,
    INDEXER,
    SLIDING_WINDOW,
    STATE,
    AttentionLayers,
    ModelShape,
)

# The log's number of tokens is concurrency x length from here on (vllm-project/vllm#40691, #43308).
_TOKENS_BY_CONCURRENCY = (0, 21)
# Blocks that leave a window are kept until a second batch in flight is done (vllm-project/vllm#47728, July 2026).
_TWO_BATCHES_IN_FLIGHT = (0, 26)
# Models with states cache prefixes by default, for which a request keeps two states (vllm-project/vllm#50991). Before,
# who asked for it got a state for every block of models that could ("all", Mamba), and two of others ("align").
_STATES_ARE_CACHED = (0, 28)
# The packed layout was the default of sparse latent attention before.
_PACKED_BY_DEFAULT_BEFORE = (0, 17)
# Versions whose pool has room for all layers on the GPUs of each stage of a pipeline (one log of 0.10.2, which
# vllm-project/vllm#23974 began), and versions that only refuse to start as if it were so (#32105, #33698).
_WHOLE_DEPTH, _WHOLE_DEPTH_CHECKED = ((0, 10, 2), (0, 11)), ((0, 14), (0, 16))
# The longest length that is tried when a context is sought.
_LONGEST = 1 << 27


@dataclass(frozen=True)
class KvSettings:
    """The engine's settings that the KV cache depends on, by the names of its options."""

    max_model_len: int
    max_num_batched_tokens: int = 8192
    kv_cache_dtype: str = "auto"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    decode_context_parallel_size: int = 1
    # Tokens of a block; nothing leaves it to the engine.
    block_size: int | None = None
    # Such as "0.33.0"; nothing is taken for the newest that is known here.
    engine_version: str | None = None
    # Nothing: as the engine's version does by default.
    enable_prefix_caching: bool | None = None
    disable_hybrid_kv_cache_manager: bool | None = None
    mamba_cache_dtype: str = "auto"
    mamba_ssm_cache_dtype: str = "auto"
    # Speculative decoding: tokens drafted at once, and the layers of the draft (of `ModelShape.draft_layers`, or the
    # layers of another model), which the last stage of a pipeline holds.
    num_speculative_tokens: int = 0
    draft_layers: tuple[AttentionLayers, ...] = ()
    # "cuda" or "cpu", and the compute capability of the GPU, such as (9, 0).
    device: str = "cuda"
    compute_capability: tuple[int, int] = (9, 0)

    @property
    def version(self) -> tuple[int, ...]:
        return parse_version(self.engine_version) or (999,)


@dataclass(frozen=True)
class KvCache:
    """What fits into the KV cache of an engine."""

    # Per token of the context, all attention layers of the GPU that holds most; states are not in it.
    bytes_per_token: int
    # Of each request, whatever its length: states of Mamba and linear attention.
    state_bytes_per_request: int
    block_size: int
    bytes_per_block: int
    blocks: int
    blocks_per_request: int
    # As the engine's log names it ("GPU KV cache size").
    tokens: int
    # Requests of `max_model_len` at once.
    max_concurrency: float
    # Per GPU, without which the engine does not start.
    needed_bytes_for_one_request: int
    # Whether one request of full length fits, without which the engine does not start.
    fits: bool
    # What "auto" came to.
    kv_cache_dtype: str
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()


def resolved_kv_dtype(shape: ModelShape, settings: KvSettings) -> str:
    """What kv_cache_dtype "auto" and the short names come to for this model and GPU. Raises CacheError.

    "auto" is what the checkpoint asks for (kv_cache_scheme, kv_cache_quant_algo), else the dtype of the model. Sparse
    MLA with an fp8 cache uses the packed layout fp8_ds_mla, except on compute capability 10; it was the default of
    early versions, and is that of compute capability 12 (vLLM, models/config.py, mla_attention.py, platforms/cuda.py).
    """
    dtype = settings.kv_cache_dtype
    if dtype == "auto" and shape.quantization is not None and shape.quantization.kv_cache_dtype:
        dtype = shape.quantization.kv_cache_dtype
    sparse = any(layers.kind == INDEXER for layers in shape.layers)
    if sparse:
        early, major = settings.version < _PACKED_BY_DEFAULT_BEFORE, settings.compute_capability[0]
        if dtype == "auto" and major == 10 and shape.model_type == "glm_moe_dsa" and not early:
            dtype = "fp8_e4m3"
        if (dtype == "auto" and (early or major == 12)) or (dtype.startswith("fp8") and (early or major != 10)):
            dtype = "fp8_ds_mla"
    return shape.dtype if dtype == "auto" else dtype


def cache_groups(shape: ModelShape, settings: KvSettings) -> list[Group]:
    """The groups of layers that share a block table, for one GPU of the whole depth. Raises CacheError."""
    if settings.max_model_len < 1:
        raise CacheError(f"max_model_len must be 1 or more, not {settings.max_model_len}")
    block_size, alignment = _block_size(shape, settings)
    chunks = any(layers.kind == CHUNKED for layers in shape.layers)
    keep_all = settings.disable_hybrid_kv_cache_manager
    if keep_all is None:
        # vLLM keeps chunked attention in full, for its latency, unless an environment variable says otherwise.
        keep_all = chunks
    after = shape.num_hidden_layers
    drafts = tuple(
        replace(layers, positions=tuple(after + place for place in range(layers.count)))
        for layers in settings.draft_layers
    )
    return group_layers(
        shape,
        (*shape.layers, *drafts),
        PageSettings(
            dtype=resolved_kv_dtype(shape, settings),
            tensor=settings.tensor_parallel_size,
            block_size=block_size,
            alignment=alignment,
            mamba_cache_dtype=settings.mamba_cache_dtype,
            mamba_ssm_cache_dtype=settings.mamba_ssm_cache_dtype,
            drafts=settings.num_speculative_tokens,
            keep_all_tokens=keep_all,
        ),
    )


def kv_bytes_per_token(shape: ModelShape, settings: KvSettings) -> int:
    """Bytes per token on the GPU that holds most, over all its attention layers, with draft layers. Raises CacheError.

    The sum over layers of max(1, KV heads / tensor_parallel_size) x (K size + V size) x element bytes. Layers with a
    window keep that much of the tokens inside of it only; states are not counted.
    """
    dtype = resolved_kv_dtype(shape, settings)
    tensor = settings.tensor_parallel_size
    cells = [(part.positions, token_bytes(part, dtype, tensor)) for part in shape.layers]
    drafts = sum(part.count * token_bytes(part, dtype, tensor) for part in settings.draft_layers)
    if settings.pipeline_parallel_size == 1:
        return drafts + sum(len(positions) * cell for positions, cell in cells)
    spans = stages(shape.num_hidden_layers, settings.pipeline_parallel_size)
    sums = [sum(cell * sum(1 for place in positions if place in span) for positions, cell in cells) for span in spans]
    sums[-1] += drafts
    return max(sums)


def kv_cache(shape: ModelShape, settings: KvSettings, available_bytes: int | Sequence[int]) -> KvCache:
    """What fits into `available_bytes` of each GPU, or of the GPUs of each stage of a pipeline. Raises CacheError."""
    groups = cache_groups(shape, settings)
    dtype = resolved_kv_dtype(shape, settings)
    if not groups:
        return KvCache(0, 0, 0, 0, 0, 0, 0, 0.0, 0, True, dtype, (), ("the model keeps nothing of a request",))
    per_stage = _bytes_per_block(shape, settings, groups)
    if isinstance(available_bytes, int):
        available: Sequence[int] = [available_bytes] * len(per_stage)
    else:
        available = available_bytes
    if len(available) != len(per_stage):
        raise CacheError(f"{len(available)} amounts of memory are given for {len(per_stage)} stages of the pipeline")
    blocks = min(max(0, have) // need for have, need in zip(available, per_stage) if need)
    per_request = _blocks_per_request(settings, groups)
    concurrency = blocks / per_request
    needed = per_request * max(per_stage)
    fits = blocks >= per_request
    if _WHOLE_DEPTH_CHECKED[0] <= settings.version < _WHOLE_DEPTH_CHECKED[1]:
        needed = per_request * max(group.bytes_per_block for group in groups)
        fits = fits and min(available) >= needed
    return KvCache(
        bytes_per_token=kv_bytes_per_token(shape, settings),
        state_bytes_per_request=sum(
            group.bytes_per_block * _blocks_of(group, settings) for group in groups if group.kind == STATE
        ),
        block_size=min(
            group.block_size
            for group in groups
            if group.kind == FULL or not any(other.kind == FULL for other in groups)
        ),
        bytes_per_block=max(per_stage),
        blocks=blocks,
        blocks_per_request=per_request,
        tokens=_tokens(settings, groups, blocks, concurrency),
        max_concurrency=concurrency,
        needed_bytes_for_one_request=needed,
        fits=fits,
        kv_cache_dtype=dtype,
        groups=tuple(groups),
        notes=_notes(shape, settings, groups),
    )


def kv_bytes_needed(shape: ModelShape, settings: KvSettings, concurrency: float = 1.0) -> int:
    """Bytes per GPU for `concurrency` requests of full length at once, on the GPU that needs most. Raises CacheError.

    The reverse of `kv_cache`: with this much of memory its `max_concurrency` is at least `concurrency`.
    """
    groups = cache_groups(shape, settings)
    if not groups:
        return 0
    blocks = math.ceil(concurrency * _blocks_per_request(settings, groups))
    return blocks * max(_bytes_per_block(shape, settings, groups))


def longest_context(
    shape: ModelShape, settings: KvSettings, available_bytes: int | Sequence[int], concurrency: float = 1.0
) -> int:
    """The largest max_model_len, in tokens, with which `concurrency` requests of full length fit; 0 if none does.

    `settings.max_model_len` is ignored. Nothing here keeps it below what the model can read.
    """

    def fits(length: int) -> bool:
        cache = kv_cache(shape, replace(settings, max_model_len=length), available_bytes)
        return cache.max_concurrency >= concurrency or not cache.groups

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < _LONGEST and fits(high):
        low, high = high, high * 2
    if high >= _LONGEST:
        return _LONGEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _block_size(shape: ModelShape, settings: KvSettings) -> tuple[int, int]:
    """Tokens of a page before states are considered, and what it must be a multiple of."""
    default, alignment = 16, 16
    if settings.device == "cpu":
        default, alignment = 128, 32
    elif shape.uses_mla and (
        any(layers.kind == INDEXER for layers in shape.layers) or settings.compute_capability[0] in (9, 10)
    ):
        # FlashMLA, FlashInfer and the sparse kernels. Others take any multiple of 16.
        default, alignment = 64, 64
    return settings.block_size or default, alignment


def _bytes_per_block(shape: ModelShape, settings: KvSettings, groups: Sequence[Group]) -> list[int]:
    """Of each stage of a pipeline: groups share one pool, so the largest group of a stage decides."""
    if settings.pipeline_parallel_size == 1:
        return [max(group.bytes_per_block for group in groups)]
    spans = stages(shape.num_hidden_layers, settings.pipeline_parallel_size)
    # Draft layers come after the last layer.
    spans[-1] = range(spans[-1].start, _LONGEST)
    if _WHOLE_DEPTH[0] <= settings.version < _WHOLE_DEPTH[1]:
        return [max(group.bytes_per_block for group in groups)] * len(spans)
    return [max(group.bytes_in(span) for group in groups) for span in spans]


def _in_flight(settings: KvSettings) -> int:
    if settings.version < _TWO_BATCHES_IN_FLIGHT:
        return settings.max_num_batched_tokens
    return (settings.pipeline_parallel_size + 1) * settings.max_num_batched_tokens


def _blocks_of(group: Group, settings: KvSettings) -> int:
    length, size = settings.max_model_len, group.block_size
    if group.kind == STATE:
        default = settings.version >= _STATES_ARE_CACHED
        cached = default if settings.enable_prefix_caching is None else settings.enable_prefix_caching
        if cached and not default and group.every_block:
            return -(-length // size)
        return 1 + bool(cached) + settings.num_speculative_tokens
    if group.kind == SLIDING_WINDOW:
        return -(-min(group.window - 1 + _in_flight(settings), length) // size) + 1
    if group.kind == CHUNKED:
        return -(-min(group.window + _in_flight(settings), length) // size)
    if group.kind == CROSS:
        # What the encoder read, in full.
        return -(-group.window // size)
    local = -(-length // settings.decode_context_parallel_size)
    return -(-local // size)


def _blocks_per_request(settings: KvSettings, groups: Sequence[Group]) -> int:
    return sum(_blocks_of(group, settings) for group in groups)


def _tokens(settings: KvSettings, groups: Sequence[Group], blocks: int, concurrency: float) -> int:
    if settings.version >= _TOKENS_BY_CONCURRENCY:
        return int(concurrency * settings.max_model_len)
    smallest = min((group.block_size for group in groups if group.kind != STATE), default=settings.max_model_len)
    return blocks // len(groups) * smallest * settings.decode_context_parallel_size


def _notes(shape: ModelShape, settings: KvSettings, groups: Sequence[Group]) -> tuple[str, ...]:
    notes = []
    if len(groups) > 1:
        kinds: Mapping[str, int] = {
            kind: sum(len(page.positions) for group in groups if group.kind == kind for page in group.pages)
            for kind in dict.fromkeys(group.kind for group in groups)
        }
        notes.append(
            f"{len(groups)} groups of layers ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}) share "
            f"one pool of blocks of {max(group.bytes_per_block for group in groups)} bytes"
        )
        if settings.version < _TOKENS_BY_CONCURRENCY:
            notes.append("before vLLM 0.21 the log names fewer tokens than fit, because each group is counted in full")
    if any(layers.kind == CHUNKED for layers in shape.layers) and not any(group.kind == CHUNKED for group in groups):
        notes.append("chunked attention is kept like full attention: vLLM turns its hybrid cache off for it")
    return tuple(notes)
