# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a plan is made from: a folder with a model, a lock file, or a configuration; and GPUs as gpu_info gives them.

Of weights only the headers are read (`serving_checkpoint`). What is wrong with a file is refused with its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError, read_lock
from ansible_collections.baremetal.llm.plugins.module_utils.safetensors_header import HeaderError
from ansible_collections.baremetal.llm.plugins.module_utils.serving_checkpoint import read_checkpoint, read_config
from ansible_collections.baremetal.llm.plugins.module_utils.serving_model import read_model_shape
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import ModelConfigError
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Gpu
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import Model, read_model

# What the driver keeps of the memory that NVML names as total, and CUDA does not show: 0.45 GiB of 24, 0.47 of 80,
# 0.6 of 140 and 0.7 of 180 (the logs in docs/guides/serving_plan.md, against nvidia-smi's MiB of those boards).
_KEPT_BY_DRIVER, _KEPT_SHARE = int(0.4 * GIB), 0.0018


class InputError(ValueError):
    """Something that nothing can be planned from; `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def parse_gpus(entries: Sequence[Any]) -> list[Gpu]:
    """GPUs with `name`, `compute_capability` and either `memory_bytes`, what a CUDA process sees as total, or
    `memory_total_bytes` as gpu_info has it from NVML, of which the driver keeps some. Raises InputError.
    """
    gpus = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise InputError("gpus", f"GPU {index}: it must be a mapping with name and memory_bytes, not {entry!r}")
        memory, kept = entry.get("memory_bytes"), 0
        if memory is None:
            memory = entry.get("memory_total_bytes")
            kept = 1
        if isinstance(memory, str) and memory.strip().isdigit():
            memory = int(memory)
        if isinstance(memory, bool) or not isinstance(memory, (int, float)) or not 0 < memory < 2**60:
            raise InputError("gpu_memory", f"GPU {index}: memory_bytes must be a number of bytes, not {memory!r}")
        if kept:
            kept = _KEPT_BY_DRIVER + int(memory * _KEPT_SHARE)
        capability = entry.get("compute_capability")
        gpus.append(
            Gpu(str(entry.get("name") or ""), int(memory) - kept, "" if capability is None else str(capability))
        )
    return gpus


def model_of_config(config: Any, weights_bytes: int | None, name: str = "") -> Model:
    """Raises InputError with everything that is wrong with a config.json."""
    if weights_bytes is not None and weights_bytes <= 0:
        raise InputError("weights_bytes", f"weights_bytes must be more than 0, not {weights_bytes}")
    try:
        return read_model(config, name, weights_bytes)
    except ModelConfigError as error:
        raise InputError("model_config", "; ".join(error.problems)) from error


def model_of_lock(path: str) -> Model:
    """The model of a lock file, which holds its config.json and the sizes of its weights. Raises InputError."""
    try:
        lock = read_lock(path)
    except LockError as error:
        raise InputError("lock", str(error)) from error
    except ImportError as error:
        raise InputError("lock", f"{path}: reading YAML needs Python's yaml library: {error}") from error
    if any(file.path.endswith(".gguf") for file in lock.files):
        raise InputError("gguf", f"{path} is of a GGUF model, which llama.cpp serves: plan it with engine llama_cpp")
    if not lock.facts.config:
        raise InputError("lock", f"{path} does not hold the model's config.json: lock the model again with model_lock")
    totals = lock.facts.tensors
    weights = None if totals is None else totals.all.bytes
    if weights is None:
        weights = sum(file.size for file in lock.files if file.path.endswith(".safetensors")) or None
    return model_of_config(lock.facts.config, weights, lock.model)


def model_of_folder(path: str) -> Model:
    """The model in a folder with config.json and safetensors. Raises InputError."""
    if path.endswith(".gguf") or _has_gguf_only(path):
        raise InputError("gguf", f"{path} is a GGUF model, which llama.cpp serves: plan it with engine llama_cpp")
    try:
        config = read_config(path)
        shape = read_model_shape(config)
        found = read_checkpoint(path, shape)
    except ModelConfigError as error:
        raise InputError("model_config", "; ".join(error.problems)) from error
    except HeaderError as error:
        raise InputError("weights_header", str(error)) from error
    return Model(shape, _name(path), found.total_bytes, found.groups, config)


def _has_gguf_only(path: str) -> bool:
    try:
        names = os.listdir(path)
    except OSError:
        return False
    return any(name.endswith(".gguf") for name in names) and not any(name.endswith(".safetensors") for name in names)


def _name(path: str) -> str:
    """organisation/name of a folder as hosts keep it, <root>/<organisation>/<name>/<revision>; else its own name."""
    parts = os.path.abspath(path).strip("/").split("/")
    if len(parts) >= 3 and len(parts[-1]) == 40 and all(sign in "0123456789abcdef" for sign in parts[-1]):
        return "/".join(parts[-3:-1])
    return parts[-1]
