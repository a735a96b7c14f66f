# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the weights of a model are stored, from the quantization_config of its config.json.

Effective bits are those of a weight with its share of scales and zero points: AWQ and GPTQ of 4 bits in groups of 128
have 4 + (16 + 4) / 128, FP8 in blocks 8 + 32 / block, NVFP4 4 + 8 / 16, MXFP4 4 + 8 / 32, bitsandbytes NF4 4 + 32 / 64.
Formats: the documentation of compressed-tensors, TensorRT Model Optimizer, AutoAWQ, GPTQModel, bitsandbytes, and the
Open Compute Project's Microscaling Formats 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import ModelConfigError, Quantization

# What a person may wish for (the engine's `quantization`), for a checkpoint in another format or none.
WISHES: Mapping[str, tuple[str, str, float, int]] = {
    # name: (method, format, bits, group size)
    "fp8": ("fp8", "fp8", 8, 0),
    "int8": ("compressed-tensors", "int8", 8, 0),
    "awq": ("awq", "int4", 4, 128),
    "gptq": ("gptq", "int4", 4, 128),
    "int4": ("compressed-tensors", "int4", 4, 128),
    "nvfp4": ("modelopt_fp4", "nvfp4", 4, 16),
    "mxfp4": ("mxfp4", "mxfp4", 4, 32),
    "bitsandbytes": ("bitsandbytes", "nf4", 4, 64),
    "int2": ("compressed-tensors", "int2", 2, 64),
}
# Methods that the engine applies while it loads a checkpoint of 16 bits.
_ONLINE = {"fp8", "bitsandbytes", "mxfp8", "experts_int8"}
_IGNORED_KEYS = ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers", "llm_int8_skip_modules")
_KV_DTYPES = {"fp8": "fp8_e4m3", "nvfp4": "nvfp4", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"}


def read_quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> Quantization | None:
    """Of config.json and the part of it that describes the language model. Raises ModelConfigError."""
    for place in (config, text):
        for key in ("quantization_config", "compression_config"):
            found = place.get(key)
            if isinstance(found, Mapping) and found:
                return _read(found, text)
    return None


def wished_quantization(name: str, stored: Quantization | None) -> Quantization:
    """What the engine's option `quantization` makes of a checkpoint. Raises ModelConfigError."""
    if stored is not None:
        return stored
    wish = WISHES.get(name.replace("-", "_").lower().partition(" ")[0])
    if wish is None:
        raise ModelConfigError(
            [f"quantization {name!r} is not known for a model of 16 bits; known are {', '.join(sorted(WISHES))}"]
        )
    method, form, bits, group_size = wish
    return Quantization(
        method=method,
        format=form,
        bits=bits,
        effective_bits=effective_bits(form, bits, group_size),
        group_size=group_size,
        scope="experts" if form == "mxfp4" else "linear",
        online=method in _ONLINE,
    )


def effective_bits(form: str, bits: float, group_size: int, block: tuple[int, ...] = (), zeros: bool = True) -> float:
    """Bits per weight with scales. `zeros`: integer formats keep a zero point for each group."""
    if form == "nvfp4":
        return bits + 8 / (group_size or 16)
    if form in ("mxfp4", "mxfp6", "mxfp8"):
        return bits + 8 / (group_size or 32)
    if len(block) == 2:
        return bits + 32 / (block[0] * block[1])
    if group_size <= 0:
        return float(bits)
    if form == "nf4":
        return bits + 32 / group_size
    return bits + (16 + (bits if zeros else 0)) / group_size


def _read(config: Mapping[str, Any], text: Mapping[str, Any]) -> Quantization | None:
    method = str(config.get("quant_method") or "").lower().replace("compressed_tensors", "compressed-tensors")
    inner = config.get("quantization")
    details: Mapping[str, Any] = inner if isinstance(inner, Mapping) else config
    algorithm = str(details.get("quant_algo") or config.get("quant_algo") or "").upper()
    ignored = _ignored(config) + (_ignored(details) if details is not config else ())
    kv_dtype = _kv_dtype(config, details)
    block: tuple[int, ...] = ()
    scope, zeros, group_size, lm_head = "linear", True, 0, bool(config.get("lm_head"))
    if algorithm and (method.startswith("modelopt") or not method):
        form = _modelopt_format(algorithm)
        method = method or ("modelopt_fp4" if form == "nvfp4" else "modelopt")
        bits = 4.0 if "4" in form else 8.0
        group_size = _number(details, "group_size", 16 if form == "nvfp4" else 0)
        zeros = False
    elif method == "compressed-tensors":
        form, bits, group_size, block, zeros, scope = _compressed(config)
    elif method in ("fp8", "fbgemm_fp8", "deepseek_v4_fp8", "ptpc_fp8"):
        form, bits = "fp8", 8.0
        shape = config.get("weight_block_size")
        if isinstance(shape, (list, tuple)) and len(shape) == 2:
            block = tuple(int(size) for size in shape)
    elif method in ("mxfp4", "gpt_oss_mxfp4"):
        form, bits, group_size, scope = "mxfp4", 4.0, 32, "experts"
    elif method == "bitsandbytes":
        four = bool(config.get("load_in_4bit", config.get("_load_in_4bit", False)))
        form, bits, group_size = ("nf4", 4.0, 64) if four else ("int8", 8.0, 0)
        if config.get("bnb_4bit_use_double_quant"):
            # The scales of 256 blocks are stored in 8 bits with one scale of their own.
            return Quantization(
                method, form, bits, 4 + 8 / 64 + 32 / (64 * 256), 64, (), scope, ignored, False, kv_dtype
            )
    elif method in ("experts_int8", "moe_wna16"):
        bits = float(_number(config, "bits", _number(config, "w_bit", 8 if method == "experts_int8" else 4)))
        form, scope, group_size = f"int{bits:g}", "experts", _number(config, "group_size", 128)
    elif method in ("quark", "torchao", "petit_nvfp4"):
        form, bits, group_size = _named_format(config)
        zeros = False
    else:
        bits = float(_number(config, "bits", _number(config, "w_bit", 4 if method else 8)))
        group_size = _number(config, "group_size", _number(config, "q_group_size", 128), least=-1)
        form = f"int{bits:g}"
        if not method:
            method = "unknown"
    fp4 = str(text.get("expert_dtype") or "").lower() in ("fp4", "mxfp4")
    return Quantization(
        expert_bits=effective_bits("mxfp4", 4, 32) if fp4 else 0,
        method=method,
        format=form,
        bits=bits,
        effective_bits=effective_bits(form, bits, group_size, block, zeros),
        group_size=group_size,
        block=block,
        scope=scope,
        ignored=ignored,
        quantizes_lm_head=lm_head,
        kv_cache_dtype=kv_dtype,
    )


def _modelopt_format(algorithm: str) -> str:
    if "NVFP4" in algorithm or "W4A16" in algorithm and "FP4" in algorithm:
        return "nvfp4"
    if "MXFP4" in algorithm:
        return "mxfp4"
    if "MXFP8" in algorithm:
        return "mxfp8"
    if "W4A16" in algorithm or "W4A8" in algorithm or "INT4" in algorithm:
        return "int4"
    return "fp8" if "FP8" in algorithm or "MIXED" in algorithm else "int8"


def _compressed(config: Mapping[str, Any]) -> tuple[str, float, int, tuple[int, ...], bool, str]:
    """Format, bits, group size, block, zero points and scope of the first group of compressed-tensors."""
    groups = config.get("config_groups")
    weights: Mapping[str, Any] = {}
    targets: list[str] = []
    form_name = str(config.get("format") or "")
    if isinstance(groups, Mapping):
        for group in groups.values():
            if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping):
                weights = group["weights"]
                form_name = str(group.get("format") or form_name)
                found = group.get("targets")
                targets = [str(target) for target in found] if isinstance(found, list) else []
                break
    bits = float(_number(weights, "num_bits", 8))
    kind = str(weights.get("type") or "int")
    group_size = _number(weights, "group_size", 0, least=-1)
    block: tuple[int, ...] = ()
    structure = weights.get("block_structure")
    if weights.get("strategy") == "block" and isinstance(structure, (list, tuple)) and len(structure) == 2:
        block = tuple(int(size) for size in structure)
    if "mxfp4" in form_name:
        form = "mxfp4"
    elif "nvfp4" in form_name or (kind == "float" and bits == 4):
        form = "nvfp4"
    elif kind == "float":
        form = "fp8"
    else:
        form = f"int{bits:g}"
    scope = "experts" if targets and all("expert" in target for target in targets) else "linear"
    return form, bits, max(0, group_size), block, not weights.get("symmetric", True), scope


def _named_format(config: Mapping[str, Any]) -> tuple[str, float, int]:
    """Of formats that name themselves somewhere inside (Quark, torchao): the first name that is known."""
    text = repr(config)[:20000].lower()
    for pattern, found in (
        (r"nvfp4", ("nvfp4", 4.0, 16)),
        (r"mxfp4|fp4", ("mxfp4", 4.0, 32)),
        (r"mxfp6|fp6", ("mxfp6", 6.0, 32)),
        (r"int4|uint4", ("int4", 4.0, 128)),
        (r"fp8|float8", ("fp8", 8.0, 0)),
    ):
        if re.search(pattern, text):
            return found
    return "int8", 8.0, 0


def _ignored(config: Mapping[str, Any]) -> tuple[str, ...]:
    for key in _IGNORED_KEYS:
        found = config.get(key)
        if isinstance(found, (list, tuple)):
            return tuple(str(name) for name in found[:100_000])
    return ()


def _kv_dtype(config: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    scheme = config.get("kv_cache_scheme")
    if isinstance(scheme, Mapping):
        if scheme.get("type") == "float":
            return {8: "fp8_e4m3", 4: "nvfp4"}.get(_number(scheme, "num_bits", 8), "")
        return ""
    algorithm = details.get("kv_cache_quant_algo") or config.get("kv_cache_quant_algo")
    return _KV_DTYPES.get(str(algorithm).lower(), "") if algorithm else ""


def _number(config: Mapping[str, Any], name: str, default: int, least: int = 0) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 65536:
        return default
    return int(value)
