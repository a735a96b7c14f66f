# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a site says about the size of a deployment: `context_length`, `concurrency`, `gpus`.

They say what is wanted, whichever engine serves it; the engine's own options say how, and always win. What a site
leaves open is chosen by the plan (`serving_plan`). Two ways to say one thing must say the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Of the site's own keys, and of the options that say the same, in the order of their report.
SIZE_KEYS = ("context_length", "concurrency", "gpus")
# Their product is the number of GPUs of one replica.
PARALLEL_OPTIONS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
# NVML counts GPUs by their PCI address, CUDA by their speed unless it is told otherwise.
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")

# vLLM reads 32k as 32,000 and 32K as 32,768 (`human_readable_int` in vllm/engine/arg_utils.py).
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([kmgt])|(\d+)([KMGT])?")
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def amount(value: Any) -> int | None:
    """A number of tokens or requests as vLLM's options take it (8192, "8k", "8K"); `None` for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    if match[1]:
        return int(float(match[1]) * _DECIMAL[match[2]])
    return int(match[3]) * _BINARY[match[4] or ""]


def options(deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    """The engine options that a deployment was given; nothing if they are no mapping, which preflight says."""
    value = deployment.get("engine_options")
    return value if isinstance(value, Mapping) else {}


def gpus_needed(deployment: Mapping[str, Any]) -> int:
    """How many GPUs one replica is told to use: the product of its parallel sizes."""
    count = 1
    for name in PARALLEL_OPTIONS:
        count *= amount(options(deployment).get(name)) or 1
    return count


def gpus_spanned(deployment: Mapping[str, Any]) -> int:
    """How many GPUs a host must have for a deployment: those that it uses, and those before the last one it names."""
    named = deployment.get("gpus") or ()
    return max(gpus_needed(deployment), max(named, default=-1) + 1)


def site_options(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Engine options that follow from the site's own keys alone, on any hardware."""
    length = deployment.get("context_length")
    return {} if length is None else {"max_model_len": length}


def site_environment(deployment: Mapping[str, Any]) -> dict[str, str]:
    """Variables of the engine's environment that follow from the site's own keys."""
    gpus = deployment.get("gpus")
    if not gpus:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
