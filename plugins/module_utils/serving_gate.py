# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan gate: every deployment on every host is planned before anything is written, and all that cannot fit is told.

A deployment is planned for the GPUs that it may use. Several on one host must fit together: what they ask of a GPU must
not be more than it has. On a host without GPUs there is no GPU memory to plan: it is only asked whether the host's
memory holds the weights, and the KV cache where the site says how large it is to be. All memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.baremetal.llm.plugins.module_utils import deployment_size
from ansible_collections.baremetal.llm.plugins.module_utils.finding import Finding, Findings, merge, sentence, size
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockError, read_lock
from ansible_collections.baremetal.llm.plugins.module_utils.serving_calibration import key as calibration_key
from ansible_collections.baremetal.llm.plugins.module_utils.serving_site import (
    Hardware,
    PlannedModel,
    data_parallel_size,
    deployment_paths,
    gpu_indexes,
    locked_model,
    wishes,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (
    Gpu,
    ServingPlan,
    Wishes,
)
from ansible_collections.baremetal.llm.plugins.module_utils.site import (
    Groups,
    LockReader,
    SiteError,
    deployments_on,
    model_lock,
    model_named,
)

# Engines that the planner knows by their name in `llm_deployments`. Others are not judged.
PLANNED_ENGINES = ("vllm",)
# How much of the host's memory the CPU build takes for its KV cache, in GiB.
CPU_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"


class Planner(Protocol):
    """What plans: `serving_planner.SitePlanner`."""

    def plan(self, model: PlannedModel, gpus: Sequence[Gpu], wishes: Wishes, engine_version: str) -> ServingPlan:
        """The plan of one deployment on GPUs that it may use."""

    def cpu_cache_bytes(self, model: PlannedModel, tokens: int, engine_version: str) -> int | None:
        """Bytes of KV cache that one request needs in the host's memory; nothing if nobody knows."""


@dataclass(frozen=True)
class GateHost:
    """What the gate knows of one host."""

    hardware: Hardware
    # The site's `llm_accelerator`.
    accelerator: str = "nvidia"
    engine_version: str = ""
    # Options of all of the host's engines, as the role has them: they count as said, below those of a deployment.
    engine_defaults: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GateResult:
    """Plans as mappings, by host and by the name of the deployment; `findings` of all of them."""

    plans: Mapping[str, Mapping[str, Mapping[str, Any]]]
    findings: Sequence[Finding]
    # Replicas of all deployments that were looked at, those on hosts without GPUs too.
    judged: int = 0


class Gate(Findings):
    """Plans the deployments of a site. `hosts` are those of the play: of others nothing is known."""

    def __init__(
        self,
        deployments: Sequence[Mapping[str, Any]],
        models: Sequence[Mapping[str, Any]],
        groups: Groups,
        hosts: Mapping[str, GateHost],
        planner: Planner,
        reader: LockReader = read_lock,
        dry: bool = False,
    ) -> None:
        super().__init__()
        self.deployments = deployments
        self.models = models
        self.groups = groups
        self.hosts = hosts
        self.planner = planner
        self.reader = reader
        # In check mode a host may not have its driver yet: that is told, and is no reason to stop.
        self.dry = dry
        self.paths = deployment_paths(deployments)
        self._locked: dict[str, PlannedModel] = {}
        self._planned: dict[Any, ServingPlan] = {}

    def judge(self) -> GateResult:
        plans: dict[str, dict[str, Mapping[str, Any]]] = {}
        judged = 0
        for name, host in self.hosts.items():
            here = [
                item
                for item in deployments_on(self.deployments, name, self.groups)
                if item.get("engine") in PLANNED_ENGINES
            ]
            plans[name] = {}
            shares: dict[int, list[tuple[str, int]]] = {}
            judged += len(here)
            for item in here:
                plan = self._deployment(name, host, item, shares)
                if plan is not None:
                    plans[name][str(item.get("name"))] = plan.as_dict()
            self._together(name, host, shares)
        return GateResult(plans, merge(self.findings), judged)

    def key(self, name: str, item: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
        """The key of a deployment on the host *name* in a calibration, for a plan that has settings."""
        host = self.hosts[name]
        gpu = host.hardware.gpus[gpu_indexes(item, len(host.hardware.gpus))[0]]
        return calibration_key(self._model(item).name, "vllm", host.engine_version, gpu.name, plan["settings"]).text()

    def _model(self, item: Mapping[str, Any]) -> PlannedModel:
        name = str(item.get("model"))
        if name not in self._locked:
            try:
                lock: Lock = model_lock(model_named(self.models, item), self.reader)
                self._locked[name] = locked_model(lock)
            except (LockError, SiteError, KeyError) as error:
                self._locked[name] = PlannedModel(name, {}, None, f"its lock cannot be used: {error}")
        return self._locked[name]

    def _deployment(
        self, name: str, host: GateHost, item: Mapping[str, Any], shares: dict[int, list[tuple[str, int]]]
    ) -> ServingPlan | None:
        model = self._model(item)
        path = self.paths[str(item.get("name"))]
        if model.problem:
            self.warn(
                "plan-unknown",
                f"{path}.model",
                f"is {item.get('model')!r}, for which nothing can be planned: {model.problem}",
                "Until then nobody knows whether it fits; it is served as the site says",
                [name],
            )
            return None
        if host.accelerator == "none":
            self._on_cpu(name, host, item, model, path)
            return None
        gpus = self._gpus(name, host, item, path)
        if not gpus:
            return None
        wanted = wishes(item, host.engine_defaults)
        parts = data_parallel_size(item)
        usable = [host.hardware.gpus[index] for index in gpus]
        plan = self._plan(model, usable[: max(len(usable) // parts, 1)], wanted, host.engine_version)
        if plan.fits:
            count = parts
            for size_name in ("tensor_parallel_size", "pipeline_parallel_size"):
                count *= int(plan.settings.get(size_name) or 1)
            for index in gpus[:count]:
                shares.setdefault(index, []).append((str(item.get("name")), plan.memory.requested))
            return plan
        for refusal in plan.refusals:
            ways = [change.text for change in (refusal.change, *refusal.alternatives) if change is not None]
            self.add(
                f"plan-{refusal.code.replace('_', '-')}",
                path,
                f"({item.get('name')}) cannot serve {item.get('model')} on {describe(usable)}: {refusal.message}",
                "; or: ".join(ways) if ways else "Choose another model, or other GPUs",
                [name],
            )
        return plan

    def _plan(self, model: PlannedModel, gpus: Sequence[Gpu], wanted: Wishes, version: str) -> ServingPlan:
        key = (model.name, tuple(gpus), wanted, version)
        if key not in self._planned:
            self._planned[key] = self.planner.plan(model, gpus, wanted, version)
        return self._planned[key]

    def _gpus(self, name: str, host: GateHost, item: Mapping[str, Any], path: str) -> list[int]:
        """Numbers of the GPUs that a deployment may use; none after saying why."""
        have = len(host.hardware.gpus)
        if not have:
            say = self.warn if self.dry else self.add
            say(
                "plan-gpus-none",
                path,
                f"({item.get('name')}) is placed on a host that shows no GPU"
                + (f": {host.hardware.problem}" if host.hardware.problem else ""),
                "Bring its driver up with the playbook baremetal.llm.provision, set llm_planned_gpus for a host that "
                "is not there yet, or llm_accelerator: none for one that has no GPU",
                [name],
            )
            return []
        wanted = gpu_indexes(item, have)
        absent = [index for index in wanted if index >= have]
        if absent:
            self.add(
                "plan-gpus-absent",
                f"{path}.gpus",
                f"names GPU {', '.join(map(str, absent))}, but the host has {have}, numbered from 0",
                "Correct the numbers, or place the deployment on other hosts.",
                [name],
            )
            return []
        return wanted

    def _together(self, name: str, host: GateHost, shares: Mapping[int, Sequence[tuple[str, int]]]) -> None:
        """Deployments that use the same GPU must fit on it together."""
        clashes: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for index, users in sorted(shares.items()):
            if len(users) > 1 and sum(asked for _user, asked in users) > host.hardware.gpus[index].memory_bytes:
                clashes.setdefault(tuple(users), []).append(index)
        for users, indexes in clashes.items():
            total = host.hardware.gpus[indexes[0]].memory_bytes
            asked = " and ".join(f"{user} for {size(bytes_asked)}" for user, bytes_asked in users)
            self.add(
                "plan-gpus-shared",
                "llm_deployments",
                f"ask together for more than GPU {', '.join(map(str, indexes))} has: {asked} of {size(total)}",
                "Give each deployment GPUs of its own (gpus: [0]), or a part of them "
                "(engine_options.gpu_memory_utilization) such that the parts add up to less than 1",
                [name],
            )

    def _on_cpu(self, name: str, host: GateHost, item: Mapping[str, Any], model: PlannedModel, path: str) -> None:
        """What can be said where the host's own memory serves."""
        if item.get("gpus"):
            self.add(
                "plan-gpus-absent",
                f"{path}.gpus",
                "names GPUs of a host whose llm_accelerator is none",
                "Remove gpus, or place the deployment on hosts with GPUs.",
                [name],
            )
        environment = {**host.environment, **(item.get("environment") or {})}
        cache = _gibibytes(environment.get(CPU_CACHE_VARIABLE))
        memory, weights = host.hardware.memory_bytes, model.weights_bytes or 0
        if memory is not None and weights + (cache or 0) > memory:
            self.add(
                "plan-memory-too-small",
                path,
                f"({item.get('name')}) needs {size(weights)} for weights"
                + (f" and {size(cache)} for its KV cache ({CPU_CACHE_VARIABLE})" if cache else "")
                + f", but the host has {size(memory)} of memory",
                f"Choose a smaller model{', a smaller KV cache' if cache else ''}, or a host with more memory.",
                [name],
            )
        length = wishes(item, host.engine_defaults).max_model_len
        if not cache or not length:
            return
        needed = self.planner.cpu_cache_bytes(model, length, host.engine_version)
        if needed is not None and needed > cache:
            self.add(
                "plan-cache-too-small",
                path,
                f"({item.get('name')}) needs {size(needed)} of KV cache for one request of {length} tokens, but "
                f"{CPU_CACHE_VARIABLE} is {size(cache)}",
                f"Raise {CPU_CACHE_VARIABLE}, or shorten the context.",
                [name],
            )


def _gibibytes(value: Any) -> int | None:
    try:
        return int(float(value) * (1 << 30)) if value not in (None, "") else None
    except (TypeError, ValueError):
        return None


def describe(gpus: Sequence[Gpu]) -> str:
    """`4 x NVIDIA L40S (44.4 GiB)`, kinds of GPUs in their order."""
    counts: dict[tuple[str, int], int] = {}
    for gpu in gpus:
        counts[gpu.name, gpu.memory_bytes] = counts.get((gpu.name, gpu.memory_bytes), 0) + 1
    return ", ".join(f"{count} x {name} ({size(memory)})" for (name, memory), count in counts.items()) or "no GPU"


def summary(findings: Sequence[Finding], judged: int) -> str:
    """The gate's judgement of so many replicas, in one sentence."""
    stopping = [finding for finding in findings if finding.severity == "error"]
    if not stopping:
        return f"Nothing stands in the way of {judged} replica{'' if judged == 1 else 's'}."
    kinds = f"{len(stopping)} reason{'s' if len(stopping) > 1 else ''}"
    return sentence(
        f"The plan gate found {kinds} why deployments cannot be served, listed by host. No unit was written"
    )


def engine_settings(
    plan: Mapping[str, Any], deployment: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Of a plan's settings those that the site left open: neither its options nor the role's defaults have them."""
    said = {*deployment_size.options(deployment), *defaults}
    return {name: value for name, value in (plan.get("settings") or {}).items() if name not in said}
