# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the variables of a play say about its hosts, for the plan gate and for the table of what fits where.

For controllers: reads the variables as Ansible hands them to an action, and files of the collection and of the site.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import serving_calibration
from ansible_collections.baremetal.llm.plugins.module_utils.serving_gate import GateHost
from ansible_collections.baremetal.llm.plugins.module_utils.serving_site import hardware
from ansible_collections.baremetal.llm.plugins.module_utils.site import SiteError

COLLECTION = Path(__file__).resolve().parents[2]

# Options of the actions, described by the fragment `planned_hosts`: under which names a host's variables say what is to
# be known of it.
HOST_OPTIONS: dict[str, dict[str, Any]] = {
    "facts_variable": {"type": "str", "required": True},
    "memory_variable": {"type": "str", "default": ""},
    "calibration_path": {"type": "path"},
    "accelerator_variable": {"type": "str", "default": "llm_accelerator"},
    "planned_gpus_variable": {"type": "str", "default": "llm_planned_gpus"},
    "engine_version_variable": {"type": "str", "default": "vllm_version"},
    "engine_defaults_variable": {"type": "str", "default": "vllm_engine_defaults"},
    "environment_variable": {"type": "str", "default": "vllm_environment"},
}


def gate_hosts(names: Sequence[str], hostvars: Any, options: Mapping[str, Any]) -> dict[str, GateHost]:
    """What is known of each host. Raises SiteError for a declaration that cannot be used.

    :param options: the keys of HOST_OPTIONS
    """
    pinned = role_version()
    found = {}
    for name in names:
        stored = _stored(name, hostvars)
        said = hostvars.get(name, {})
        accelerator = str(said.get(options["accelerator_variable"]) or "nvidia")
        answer = stored.get(options["facts_variable"])
        try:
            built = hardware(
                accelerator,
                answer.get("gpu") if isinstance(answer, Mapping) else None,
                said.get(options["planned_gpus_variable"]),
                _slurped(stored.get(options.get("memory_variable") or "")),
                _problem(answer),
            )
        except SiteError as error:
            raise SiteError(f"{name}: {error}") from error
        found[name] = GateHost(
            hardware=built,
            accelerator=accelerator,
            engine_version=str(said.get(options["engine_version_variable"]) or pinned),
            # Options may be written as on a command line, too.
            engine_defaults={
                name.replace("-", "_"): value
                for name, value in _mapping(said.get(options["engine_defaults_variable"])).items()
            },
            environment=_mapping(said.get(options["environment_variable"])),
        )
    return found


def role_version() -> str:
    """The version of vLLM that the role pins, for a site that does not say one."""
    import yaml  # lazily: hosts need not have it

    text = (COLLECTION / "roles" / "vllm" / "defaults" / "main.yml").read_text(encoding="utf-8")
    return str(yaml.safe_load(text)["vllm_version"])


def read_calibration(path: str | None) -> dict[str, dict[str, int]]:
    """The calibration at *path* on the controller; none if the site has no such file yet. Raises CalibrationError."""
    if not path or not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as handle:
        return serving_calibration.parse(handle.read(), f"calibration {path}")


def _stored(host: str, hostvars: Any) -> Mapping[str, Any]:
    """What tasks registered, as it was stored: it is no template, and to look for templates in it takes long."""
    if host not in hostvars:
        return {}
    found: Mapping[str, Any] = hostvars.raw_get(host) if hasattr(hostvars, "raw_get") else hostvars[host]
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return {str(name): item for name, item in value.items()} if isinstance(value, Mapping) else {}


def _slurped(answer: Any) -> str:
    content = answer.get("content") if isinstance(answer, Mapping) else None
    return base64.b64decode(content).decode("utf-8", "replace") if content else ""


def _problem(answer: Any) -> str:
    """Why `gpu_info` gave no GPUs, as far as it said."""
    if not isinstance(answer, Mapping) or answer.get("skipped"):
        return ""
    facts = answer.get("gpu")
    if not isinstance(facts, Mapping):
        return str(answer.get("msg") or "it did not answer").strip().split("\n", 1)[0]
    error = (facts.get("nvml") or {}).get("error")
    return f"the driver's library says {error}" if error else ""
