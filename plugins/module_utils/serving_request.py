# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plan for what a task asks: the options of the module `serving_plan`, as a mapping, to a `ServingPlan`.

Whatever is wrong with what is given is in the plan's refusals. Nothing is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_calibration import CalibrationError, checked
from ansible_collections.baremetal.llm.plugins.module_utils.serving_input import (
    InputError,
    model_of_config,
    model_of_folder,
    model_of_lock,
    parse_gpus,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp import plan_llama_cpp
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import (
    ModelError,
    read_gguf_model,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_plan import plan, refused
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (
    ENGINES,
    Gpu,
    Refusal,
    ServingPlan,
    Wishes,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import Model

MODEL_INPUTS = ("model_path", "lock", "model_config")


def plan_request(options: Mapping[str, Any]) -> ServingPlan:
    """`options` has the keys of the module's options; those that are missing or `None` are not wished."""
    refusals: list[Refusal] = []
    engine = str(options.get("engine") or "vllm")
    if engine not in ENGINES:
        refusals.append(
            Refusal("unknown_engine", f"engine {engine!r} cannot be planned; possible are {', '.join(ENGINES)}")
        )
    gpus: list[Gpu] = []
    try:
        gpus = parse_gpus(options.get("gpus") or [])
        if not gpus and not (engine == "llama_cpp" and options.get("host_memory_bytes")):
            refusals.append(Refusal("no_gpus", "no GPUs are given; a plan needs at least one, as gpu_info gives them"))
    except InputError as error:
        refusals.append(Refusal(error.code, str(error)))
    try:
        calibration = checked(options.get("calibration") or {})
    except CalibrationError as error:
        calibration = {}
        refusals.append(Refusal("calibration", str(error)))
    wishes, version = wishes_of(options), str(options.get("engine_version") or "")
    try:
        if engine == "llama_cpp":
            gguf = read_gguf_model(_gguf_path(options))
            if not refusals:
                return plan_llama_cpp(gguf, gpus, wishes, version, options.get("host_memory_bytes"))
        elif engine == "vllm":
            model = _model(options)
            if not refusals:
                return plan(model, gpus, wishes, version, calibration)
    except InputError as error:
        refusals.append(Refusal(error.code, str(error)))
    except ModelError as error:
        refusals.append(Refusal(error.code, str(error)))
    except OSError as error:
        refusals.append(Refusal("model_path", f"{error.filename}: {error.strerror}"))
    return refused(refusals)


def wishes_of(options: Mapping[str, Any]) -> Wishes:
    """The wishes among the options of a task."""
    return Wishes(**{item.name: options.get(item.name) for item in fields(Wishes)})


def _given(options: Mapping[str, Any]) -> str:
    given = [name for name in MODEL_INPUTS if options.get(name) is not None]
    if len(given) != 1:
        raise InputError("model", f"exactly one of {', '.join(MODEL_INPUTS)} must be given, not {len(given)}")
    return given[0]


def _model(options: Mapping[str, Any]) -> Model:
    given = _given(options)
    if given == "model_path":
        return model_of_folder(str(options["model_path"]))
    if given == "lock":
        return model_of_lock(str(options["lock"]))
    return model_of_config(options["model_config"], options.get("weights_bytes"), str(options.get("model") or ""))


def _gguf_path(options: Mapping[str, Any]) -> str:
    if _given(options) != "model_path":
        raise InputError(
            "gguf", "llama.cpp serves GGUF files: give the file as model_path, since only it has its tensors' sizes"
        )
    return str(options["model_path"])
