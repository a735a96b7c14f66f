# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what a site says, and what its hosts are, to what a serving plan is asked: GPUs and wishes. Memory is in bytes.

A host's GPUs are those that `gpu_info` read, or those that the site declares for a rack that is not there yet
(`llm_planned_gpus`). Wishes are what a deployment says itself; what is left open, the plan chooses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import deployment_size
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock
from ansible_collections.baremetal.llm.plugins.module_utils.serving_input import parse_gpus
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Gpu, Wishes
from ansible_collections.baremetal.llm.plugins.module_utils.site import SiteError, entries

_DECLARED_KEYS = ("name", "count", "memory_bytes", "memory_gib", "compute_capability")
_MEMORY_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB", re.MULTILINE)
_NUMBERS = re.compile(r"\d+(,\d+)*")

_WHOLE = (
    *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes", "block_size"),
    *("tensor_parallel_size", "pipeline_parallel_size"),
)
_SWITCHES = ("enforce_eager", "enable_chunked_prefill", "enable_prefix_caching")
_TEXTS = ("kv_cache_dtype", "quantization")


@dataclass(frozen=True)
class Hardware:
    """What a host has to serve with. `source`: facts (read), declared (by the site), none."""

    gpus: tuple[Gpu, ...] = ()
    source: str = "none"
    # Of the host itself, for engines without a GPU.
    memory_bytes: int | None = None
    # Why nothing is known; '' if something is.
    problem: str = ""


def visible(name: str, total: int, compute_capability: str) -> Gpu:
    """A GPU of which NVML counts *total* bytes: a CUDA process sees less, since the driver keeps some for itself."""
    entry = {"name": name, "memory_total_bytes": total, "compute_capability": compute_capability}
    return parse_gpus([entry])[0]


def read_gpus(facts: Mapping[str, Any]) -> tuple[Gpu, ...]:
    """The GPUs of a host's facts, as `gpu_info` returns them, in the order of NVML.

    A GPU in MIG mode is what a process gets of it: its first slice. GPUs that do not say their memory are left out.
    """
    found = []
    for gpu in facts.get("gpus") or []:
        name, memory = str(gpu.get("name") or "GPU"), gpu.get("memory_total_bytes")
        mig = gpu.get("mig") or {}
        if mig.get("enabled"):
            slices = [one for one in mig.get("instances") or [] if one.get("memory_bytes")]
            if not slices:
                continue
            name, memory = f"{name} MIG {slices[0].get('profile') or ''}".strip(), slices[0]["memory_bytes"]
        if isinstance(memory, int) and memory >= GIB:
            found.append(visible(name, memory, str(gpu.get("compute_capability") or "")))
    return tuple(found)


def declared_gpus(value: Any, variable: str = "llm_planned_gpus") -> tuple[Gpu, ...]:
    """The GPUs that a site declares for a host: a list of `{name, memory_gib or memory_bytes, compute_capability,
    count}`. Raises SiteError, which names the variable.

    The memory is what the vendor's tools show (`nvidia-smi`), so that the number can be read off a data sheet.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise SiteError(f"{variable}: expected a list of mappings with {', '.join(_DECLARED_KEYS)}")
    found: list[Gpu] = []
    for index, item in enumerate(value):
        where = f"{variable}[{index}]"
        if not isinstance(item, Mapping):
            raise SiteError(f"{where}: expected a mapping with {', '.join(_DECLARED_KEYS)}")
        unknown = [str(key) for key in item if key not in _DECLARED_KEYS]
        if unknown:
            raise SiteError(f"{where}: {', '.join(unknown)} is not a key that exists here: {', '.join(_DECLARED_KEYS)}")
        memory = item.get("memory_bytes")
        if memory is None and _is_number(item.get("memory_gib")):
            memory = round(item["memory_gib"] * GIB)
        if isinstance(memory, bool) or not isinstance(memory, int) or not GIB <= memory < 1 << 60:
            raise SiteError(f"{where}: set memory_gib, the memory of one GPU as nvidia-smi shows it, in GiB")
        count = item.get("count", 1)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= 1024:
            raise SiteError(f"{where}.count: expected a whole number of GPUs, at least 1")
        capability = str(item.get("compute_capability") or "")
        if capability and not re.fullmatch(r"\d+\.\d+", capability):
            raise SiteError(f'{where}.compute_capability: expected two numbers in quotes, such as "9.0"')
        found += [visible(str(item.get("name") or "GPU"), memory, capability)] * count
    return tuple(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def memory_total(meminfo: str) -> int | None:
    """The memory of a host, from the text of its /proc/meminfo."""
    match = _MEMORY_TOTAL.search(meminfo)
    return int(match[1]) * 1024 if match else None


def wishes(deployment: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Wishes:
    """What a deployment asks for: its engine options, then the site's own keys, then *defaults* of all deployments.

    An option that says `auto`, or that cannot be read as a number, is left to the engine and to the plan.
    """
    options = {**(defaults or {}), **deployment_size.site_options(deployment), **deployment_size.options(deployment)}
    said: dict[str, Any] = {"concurrency": deployment.get("concurrency")}
    for name in _WHOLE:
        number = deployment_size.amount(options.get(name))
        said[name] = number if number is not None and number > 0 else None
    for name in _SWITCHES:
        said[name] = _switch(options.get(name))
    for name in _TEXTS:
        said[name] = None if options.get(name) in (None, "", "auto") else str(options[name])
    utilization = options.get("gpu_memory_utilization")
    try:
        said["gpu_memory_utilization"] = None if utilization is None else float(utilization)
    except (TypeError, ValueError):
        said["gpu_memory_utilization"] = None
    known = {item.name for item in fields(Wishes)}
    return Wishes(**{name: value for name, value in said.items() if name in known and value is not None})


def _switch(value: Any) -> bool | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip().lower() in ("1", "true", "yes", "on")
    return bool(value)


def gpu_indexes(deployment: Mapping[str, Any], count: int) -> list[int]:
    """The numbers of the GPUs that a deployment may use on a host with *count* of them, in the order of its devices."""
    named = deployment.get("gpus")
    if named:
        return [int(index) for index in named]
    environment = deployment.get("environment")
    visible = environment.get("CUDA_VISIBLE_DEVICES") if isinstance(environment, Mapping) else None
    # UUIDs and MIG slices name devices that are not numbered here: then all of them are possible.
    if visible is not None and _NUMBERS.fullmatch(str(visible)):
        return [int(index) for index in str(visible).split(",")]
    return list(range(count))


def data_parallel_size(deployment: Mapping[str, Any]) -> int:
    """How many engines one deployment is, each with GPUs and a cache of its own."""
    return max(deployment_size.amount(deployment_size.options(deployment).get("data_parallel_size")) or 1, 1)


@dataclass(frozen=True)
class PlannedModel:
    """A model as a plan needs it. `weights_bytes` is of the whole model. `problem`: why it cannot be planned, or ''."""

    name: str
    config: Mapping[str, Any]
    weights_bytes: int | None
    problem: str = ""


def locked_model(lock: Lock) -> PlannedModel:
    """A model out of its lock file, which says more than enough if it was made since it keeps the configuration."""
    tensors = lock.facts.tensors
    weights = tensors.all.bytes if tensors is not None else None
    if weights is None:
        weights = sum(file.size for file in lock.files if file.path.endswith(".safetensors")) or None
    if not lock.facts.config:
        return PlannedModel(
            lock.model,
            {},
            weights,
            "its lock file does not hold the model's configuration: lock it again with the playbook baremetal.llm.lock",
        )
    return PlannedModel(lock.model, lock.facts.config, weights)


def hardware(
    accelerator: str, facts: Mapping[str, Any] | None, planned: Any, meminfo: str, problem: str = ""
) -> Hardware:
    """What a host has. What was read comes before what was declared. Raises SiteError if the declaration is wrong.

    :param accelerator: the site's `llm_accelerator`
    :param facts: the host's facts as `gpu_info` returns them, if it was asked
    :param planned: the site's `llm_planned_gpus` for this host, if it has any
    :param meminfo: the host's /proc/meminfo, if it was read
    """
    memory = memory_total(meminfo)
    if accelerator == "none":
        return Hardware(memory_bytes=memory, problem=problem)
    gpus = read_gpus(facts or {})
    if gpus:
        return Hardware(gpus, "facts", memory)
    if planned is not None:
        return Hardware(declared_gpus(planned), "declared", memory)
    return Hardware((), "facts" if facts else "none", memory, problem)


def deployment_paths(deployments: Any) -> dict[str, str]:
    """Where each deployment stands in `llm_deployments`, by its name."""
    return {str(item.get("name")): f"llm_deployments[{index}]" for index, item in enumerate(entries(deployments))}
