# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver's management library (NVML) says about a host's GPUs, through the vendor's binding `nvidia-ml-py`.

Every question is one that an old driver, a consumer GPU or a broken GPU may not answer. A question that is not
supported is answered with `None` and noted; a GPU that no longer answers is noted as lost, and the others go on.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import uuid
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import (
    P2P,
    Ecc,
    Fabric,
    Gpu,
    LostGpu,
    Mig,
    MigInstance,
    NvLink,
    Nvml,
    PciGpu,
    RemappedRows,
    RetiredPages,
)
from ansible_collections.baremetal.llm.plugins.module_utils.pci import DEVICES
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

BINDING = "nvidia-ml-py"

# NVML's numbers, which never change. They stand here because the binding that a host has may be older than this file.
_NOT_SUPPORTED = 3
_NOT_FOUND = 6
_FUNCTION_NOT_FOUND = 13
_INVALID_ARGUMENT = 2
_GPU_IS_LOST = 15
_RESET_REQUIRED = 16
# All of them say: this driver, or this GPU, does not know the question in this form.
_UNANSWERABLE = (_NOT_SUPPORTED, _FUNCTION_NOT_FOUND, 22, 25, 26, 30)

_ARCHITECTURES = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
    13: "rubin",
}
_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
_CLOCKS_EVENT_REASONS = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
    "board_limit",
    "reliability",
)
_RECOVERY_ACTIONS = (
    "none",
    "gpu_reset",
    "node_reboot",
    "drain_p2p",
    "drain_and_reset",
    "recover_imex_domain",
    "bus_reset",
    "system_reboot",
)
_FIELD_RECOVERY_ACTION = 230
_TOPOLOGY_LEVELS = {0: "internal", 10: "single", 20: "multiple", 30: "hostbridge", 40: "node", 50: "system"}
_P2P_STATES = {
    0: "ok",
    1: "chipset_not_supported",
    2: "gpu_not_supported",
    3: "topology_not_supported",
    4: "disabled_by_regkey",
    5: "not_supported",
    6: "unknown",
}
# What to ask nvmlDeviceGetP2PStatus for. The binding's own name for the first is a tuple, by a stray comma.
_P2P_READ, _P2P_WRITE, _P2P_NVLINK = 0, 1, 2
_MOST_NVLINKS = 36
_NVLINK_GENERATIONS = {1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 6: 4, 7: 5, 8: 6}
_FABRIC_STATES = ("not_supported", "not_started", "in_progress", "completed")
# Two bits each in the health mask: where they lie, what they say when they name a problem, and its name.
_FABRIC_PROBLEMS = (
    (0, 1, "degraded_bandwidth"),
    (2, 1, "route_recovery"),
    (4, 1, "route_unhealthy"),
    (6, 1, "access_timeout_recovery"),
    (12, 2, "partition_not_assigned"),
    (14, 2, "fabric_manager_disconnected"),
)
# Four bits from the eighth on: 0 not supported, 1 none.
_FABRIC_MISCONFIGURATIONS = {
    2: "incorrect_system_guid",
    3: "incorrect_chassis_serial_number",
    4: "no_partition",
    5: "insufficient_nvlinks",
    6: "incompatible_gpu_firmware",
    7: "invalid_location",
    8: "gpu_state_invalid",
}


@dataclass
class NvmlFacts:
    """The part of the facts about a host that NVML knows."""

    nvml: Nvml
    gpus: list[Gpu] = field(default_factory=list)
    lost_gpus: list[LostGpu] = field(default_factory=list)
    p2p: list[P2P] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _LostError(Exception):
    """This GPU answers no more questions."""


class _Questions:
    """NVML's functions, asked by name: what they return, or `None`."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding
        self.not_supported: dict[str, None] = {}
        self.problems: dict[str, None] = {}
        self._names = {
            getattr(binding, name): name[len("NVML_ERROR_") :]
            for name in dir(binding)
            if name.startswith("NVML_ERROR_")
        }

    def error_name(self, code: int) -> str:
        return self._names.get(code, f"ERROR_{code}")

    def ask(self, function: str, *arguments: Any, quiet: tuple[int, ...] = (), note: bool = True) -> Any:
        """What *function* answers. *quiet*: errors that are an ordinary answer. *note* it if it is not supported."""
        return self.ask_first((function,), *arguments, quiet=quiet, note=note)

    def ask_first(
        self, functions: tuple[str, ...], *arguments: Any, quiet: tuple[int, ...] = (), note: bool = True
    ) -> Any:
        """What the first of *functions* that the driver knows answers: they are new and old names of one question."""
        for function in functions:
            call = getattr(self.binding, function, None)
            if call is None:  # an old binding
                continue
            try:
                return call(*arguments)
            except self.binding.NVMLError as error:
                code = int(getattr(error, "value", 999))
                if code in (_GPU_IS_LOST, _RESET_REQUIRED):
                    raise _LostError(self.error_name(code)) from error
                if code in quiet:
                    return None
                if code not in _UNANSWERABLE:
                    self.problems[f"NVML: {function} failed with {self.error_name(code)}."] = None
                    return None
            except UnicodeDecodeError:
                self.problems[f"NVML: {function} answered with something that is no text."] = None
                return None
        if note:
            self.not_supported[functions[0]] = None
        return None


def read_nvml(binding: Any, system: System, pci_gpus: list[PciGpu]) -> NvmlFacts:
    """Ask NVML through *binding*, the module `pynvml`, or `None` on a host that has none."""
    facts = NvmlFacts(
        {
            "error": "BINDING_NOT_FOUND",
            "binding_version": None,
            "library_version": None,
            "driver_version": None,
            "cuda_version": None,
            "not_supported": [],
        }
    )
    if binding is None:
        return facts
    facts.nvml["binding_version"] = _binding_version()
    questions = _Questions(binding)
    try:
        binding.nvmlInit()
        facts.nvml["error"] = ""
    except binding.NVMLError as error:
        facts.nvml["error"] = questions.error_name(int(getattr(error, "value", 999)))
    if facts.nvml["error"] != "LIBRARY_NOT_FOUND":
        # Needs no driver: with a library that does not fit the loaded module, it is the only thing that can be told.
        facts.nvml["library_version"] = _text(questions.ask("nvmlSystemGetNVMLVersion"))
    if not facts.nvml["error"]:
        try:
            _read_all(questions, system, pci_gpus, facts)
        finally:
            questions.ask("nvmlShutdown")
    facts.nvml["not_supported"] = sorted(questions.not_supported)
    facts.problems = list(questions.problems)
    return facts


def _binding_version() -> str:
    try:
        return importlib.metadata.version(BINDING)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read_all(questions: _Questions, system: System, pci_gpus: list[PciGpu], facts: NvmlFacts) -> None:
    facts.nvml["driver_version"] = _text(questions.ask("nvmlSystemGetDriverVersion"))
    # The newer function looks for libcuda, which a host for containers alone may lack; the older one does not.
    cuda = questions.ask("nvmlSystemGetCudaDriverVersion_v2", quiet=(12,))
    if cuda is None:
        cuda = questions.ask("nvmlSystemGetCudaDriverVersion")
    facts.nvml["cuda_version"] = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"

    handles: list[tuple[int, Any]] = []
    for index in range(questions.ask("nvmlDeviceGetCount") or 0):
        address = None
        try:
            handle = questions.binding.nvmlDeviceGetHandleByIndex(index)
            pci = questions.ask("nvmlDeviceGetPciInfo", handle)
            address = None if pci is None else _pci_address(pci)
            facts.gpus.append(_read_gpu(questions, system, handle, index, pci))
            handles.append((index, handle))
        except _LostError as lost:
            facts.lost_gpus.append({"index": index, "pci_address": address, "error": str(lost)})
        except questions.binding.NVMLError as error:
            name = questions.error_name(int(getattr(error, "value", 999)))
            facts.lost_gpus.append({"index": index, "pci_address": address, "error": name})
    _find_lost(facts, pci_gpus)
    for position, (first, first_handle) in enumerate(handles):
        for second, second_handle in handles[position + 1 :]:
            facts.p2p.append(_read_pair(questions, first, first_handle, second, second_handle))


def _find_lost(facts: NvmlFacts, pci_gpus: list[PciGpu]) -> None:
    """Say where the lost GPUs are, if the bus leaves no doubt: as many unknown addresses as GPUs without one."""
    known = {gpu["pci_address"] for gpu in facts.gpus} | {gpu["pci_address"] for gpu in facts.lost_gpus}
    rest = [gpu["pci_address"] for gpu in pci_gpus if gpu["pci_address"] not in known]
    nameless = [gpu for gpu in facts.lost_gpus if gpu["pci_address"] is None]
    if len(rest) == len(nameless):
        for lost, address in zip(nameless, rest):
            lost["pci_address"] = address


def _read_gpu(questions: _Questions, system: System, handle: Any, index: int, pci: Any) -> Gpu:
    ask = questions.ask
    address = "" if pci is None else _pci_address(pci)
    architecture = ask("nvmlDeviceGetArchitecture", handle)
    capability = ask("nvmlDeviceGetCudaComputeCapability", handle)
    memory = _read_memory(questions, handle)
    gsp_mode = ask("nvmlDeviceGetGspFirmwareMode", handle)
    limits = ask("nvmlDeviceGetPowerManagementLimitConstraints", handle) or (None, None)
    clocks = questions.ask_first(
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"), handle
    )
    processes = questions.ask_first(
        ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"), handle
    )
    return {
        "index": index,
        "uuid": _text(ask("nvmlDeviceGetUUID", handle)) or "",
        "pci_address": address,
        "pci_device": None if pci is None else _pci_numbers(pci.pciDeviceId),
        "pci_subsystem": None if pci is None else _pci_numbers(pci.pciSubSystemId),
        "name": _text(ask("nvmlDeviceGetName", handle)) or "",
        "serial": _text(ask("nvmlDeviceGetSerial", handle)),
        "architecture": _ARCHITECTURES.get(architecture),
        "compute_capability": None if capability is None else f"{capability[0]}.{capability[1]}",
        "memory_total_bytes": None if memory is None else int(memory.total),
        "memory_used_bytes": None if memory is None else int(memory.used),
        "vbios_version": _text(ask("nvmlDeviceGetVbiosVersion", handle)),
        "gsp_firmware_version": _text(ask("nvmlDeviceGetGspFirmwareVersion", handle)),
        "gsp_firmware_enabled": None if gsp_mode is None else bool(gsp_mode[0]),
        "ecc": _read_ecc(questions, handle),
        "remapped_rows": _read_remapped_rows(questions, handle),
        "retired_pages": _read_retired_pages(questions, handle),
        "mig": _read_mig(questions, handle),
        "persistence": _flag(ask("nvmlDeviceGetPersistenceMode", handle)),
        "compute_mode": _COMPUTE_MODES.get(ask("nvmlDeviceGetComputeMode", handle)),
        "power_limit_watts": _watts(ask("nvmlDeviceGetPowerManagementLimit", handle)),
        "power_limit_default_watts": _watts(ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)),
        "power_limit_minimum_watts": _watts(limits[0]),
        "power_limit_maximum_watts": _watts(limits[1]),
        "power_usage_watts": _watts(ask("nvmlDeviceGetPowerUsage", handle)),
        "clocks_event_reasons": None if clocks is None else _bit_names(int(clocks), _CLOCKS_EVENT_REASONS),
        "temperature_celsius": questions.ask_first(
            ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), handle, 0
        ),
        "temperature_slowdown_celsius": ask("nvmlDeviceGetTemperatureThreshold", handle, 1),
        "pcie": {
            "generation": ask("nvmlDeviceGetCurrPcieLinkGeneration", handle),
            "width": ask("nvmlDeviceGetCurrPcieLinkWidth", handle),
            "generation_possible": ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
            "width_possible": ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
            "replay_count": ask("nvmlDeviceGetPcieReplayCounter", handle),
        },
        "nvlinks": _read_nvlinks(questions, handle),
        "fabric": _read_fabric(questions, handle),
        "numa_node": _read_numa_node(system, address),
        "cpu_affinity": (system.read(f"{DEVICES}/{address}/local_cpulist") or "").strip() or None,
        "recovery_action": _read_recovery_action(questions, handle),
        "compute_processes": None if processes is None else len(processes),
    }


def _read_memory(questions: _Questions, handle: Any) -> Any:
    """Version 2 counts what the driver keeps for itself apart from what is used, as `nvidia-smi` does."""
    version = getattr(questions.binding, "nvmlMemory_v2", None)
    memory = None if version is None else questions.ask("nvmlDeviceGetMemoryInfo", handle, version, note=False)
    return questions.ask("nvmlDeviceGetMemoryInfo", handle) if memory is None else memory


def _read_ecc(questions: _Questions, handle: Any) -> Ecc:
    mode = questions.ask("nvmlDeviceGetEccMode", handle) or (None, None)
    # Where ECC is off, NVML says that it does not support counting: nothing would be learnt.
    counts = [
        questions.ask("nvmlDeviceGetTotalEccErrors", handle, kind, since) if mode[0] else None
        for since in (0, 1)
        for kind in (0, 1)
    ]
    return {
        "enabled": _flag(mode[0]),
        "enabled_after_reboot": _flag(mode[1]),
        "corrected_volatile": counts[0],
        "uncorrected_volatile": counts[1],
        "corrected_aggregate": counts[2],
        "uncorrected_aggregate": counts[3],
    }


def _read_remapped_rows(questions: _Questions, handle: Any) -> RemappedRows | None:
    rows = questions.ask("nvmlDeviceGetRemappedRows", handle)
    if rows is None:
        return None
    return {
        "correctable": int(rows[0]),
        "uncorrectable": int(rows[1]),
        "pending": bool(rows[2]),
        "failed": bool(rows[3]),
    }


def _read_retired_pages(questions: _Questions, handle: Any) -> RetiredPages | None:
    single = questions.ask("nvmlDeviceGetRetiredPages", handle, 0)
    double = questions.ask("nvmlDeviceGetRetiredPages", handle, 1)
    pending = questions.ask("nvmlDeviceGetRetiredPagesPendingStatus", handle)
    if single is None and double is None and pending is None:
        return None
    return {
        "single_bit": None if single is None else len(single),
        "double_bit": None if double is None else len(double),
        "pending": _flag(pending),
    }


def _read_mig(questions: _Questions, handle: Any) -> Mig:
    mode = questions.ask("nvmlDeviceGetMigMode", handle) or (None, None)
    instances: list[MigInstance] = []
    if mode[0]:
        for index in range(questions.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            # The numbers need not be without gaps: a place that nothing fills is no error.
            quiet = (_NOT_FOUND, _INVALID_ARGUMENT)
            instance = questions.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, index, quiet=quiet)
            if instance is None:
                continue
            attributes = questions.ask("nvmlDeviceGetAttributes", instance)
            name = _text(questions.ask("nvmlDeviceGetName", instance)) or ""
            instances.append(
                {
                    "index": index,
                    "uuid": _text(questions.ask("nvmlDeviceGetUUID", instance)),
                    # NVML calls it `NVIDIA A100-SXM4-80GB MIG 1g.10gb`.
                    "profile": name.rpartition(" MIG ")[2] if " MIG " in name else None,
                    "memory_bytes": None if attributes is None else int(attributes.memorySizeMB) * 1024 * 1024,
                }
            )
    return {"enabled": _flag(mode[0]), "enabled_after_reset": _flag(mode[1]), "instances": instances}


def _read_nvlinks(questions: _Questions, handle: Any) -> list[NvLink]:
    links: list[NvLink] = []
    for link in range(_MOST_NVLINKS):
        # After its last link a GPU says that the number is wrong, or that it does not support the question.
        quiet = (_INVALID_ARGUMENT,)
        active = questions.ask("nvmlDeviceGetNvLinkState", handle, link, quiet=quiet, note=not links)
        if active is None:
            break
        version = questions.ask("nvmlDeviceGetNvLinkVersion", handle, link, quiet=quiet)
        remote = None
        if active:
            remote = questions.ask("nvmlDeviceGetNvLinkRemotePciInfo", handle, link, quiet=quiet)
        links.append(
            {
                "link": link,
                "active": bool(active),
                "version": _NVLINK_GENERATIONS.get(version),
                "remote_pci_address": _remote_address(remote),
            }
        )
    return links


def _read_fabric(questions: _Questions, handle: Any) -> Fabric | None:
    """Version 2 of the answer has a health mask; drivers before 550 know version 1 alone."""
    forms = (
        ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
        ("nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"),
    )
    for function, structure in forms:
        if hasattr(questions.binding, structure):
            info = getattr(questions.binding, structure)()
            if questions.ask(function, handle, ctypes.byref(info), note=False) is not None:
                return _fabric(info)
    questions.not_supported[forms[0][0]] = None
    return None


def _fabric(info: Any) -> Fabric:
    cluster = bytes(info.clusterUuid)
    state = int(info.state)
    return {
        "state": _FABRIC_STATES[state] if state < len(_FABRIC_STATES) else f"state_{state}",
        "status": int(info.status),
        "clique_id": int(info.cliqueId) if state == len(_FABRIC_STATES) - 1 else None,
        "cluster_uuid": str(uuid.UUID(bytes=cluster)) if any(cluster) else None,
        "health": fabric_health(int(getattr(info, "healthMask", 0))),
    }


def fabric_health(mask: int) -> list[str] | None:
    """The problems in a health mask. A mask of zero says of every problem that it is not supported."""
    if not mask:
        return None
    problems = [name for shift, value, name in _FABRIC_PROBLEMS if mask >> shift & 0x3 == value]
    misconfiguration = mask >> 8 & 0xF
    if misconfiguration > 1:
        problems.append(_FABRIC_MISCONFIGURATIONS.get(misconfiguration, f"incorrect_configuration_{misconfiguration}"))
    return problems


def _read_numa_node(system: System, address: str) -> int | None:
    """By the kernel: NVML's own function speaks of GPUs that are NUMA nodes themselves, as in Grace Hopper."""
    text = (system.read(f"{DEVICES}/{address}/numa_node") or "").strip()
    return int(text) if text.isdigit() else None


def _read_recovery_action(questions: _Questions, handle: Any) -> str | None:
    name = "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"
    values = questions.ask("nvmlDeviceGetFieldValues", handle, [_FIELD_RECOVERY_ACTION])
    if values is None or values[0].nvmlReturn != 0:
        questions.not_supported[name] = None
        return None
    action = int(values[0].value.uiVal)
    return _RECOVERY_ACTIONS[action] if action < len(_RECOVERY_ACTIONS) else f"action_{action}"


def _read_pair(questions: _Questions, first: int, first_handle: Any, second: int, second_handle: Any) -> P2P:
    def state(kind: int) -> str | None:
        answer = questions.ask("nvmlDeviceGetP2PStatus", first_handle, second_handle, kind)
        return _P2P_STATES.get(answer)

    pair: P2P = {"first": first, "second": second, "read": None, "write": None, "nvlink": None, "topology": None}
    try:
        pair["read"], pair["write"], pair["nvlink"] = state(_P2P_READ), state(_P2P_WRITE), state(_P2P_NVLINK)
        level = questions.ask("nvmlDeviceGetTopologyCommonAncestor", first_handle, second_handle)
        pair["topology"] = _TOPOLOGY_LEVELS.get(level)
    except _LostError as lost:
        questions.problems[f"NVML: GPU {first} or {second} was lost while it was asked ({lost})."] = None
    return pair


def _pci_address(pci: Any) -> str:
    """NVML writes a domain of eight digits in capitals, the kernel one of four in small letters."""
    domain, _colon, rest = (_text(pci.busId) or "").lower().partition(":")
    return f"{int(domain or '0', 16):04x}:{rest}"


def _remote_address(pci: Any) -> str | None:
    """NVML writes only ones for an NVSwitch that is no PCI device of this host, as on HGX B200."""
    address = None if pci is None else _pci_address(pci)
    return None if address is None or address.startswith("ffffffff:") else address


def _pci_numbers(number: int) -> str:
    return f"{number & 0xFFFF:04x}:{number >> 16 & 0xFFFF:04x}"


def _bit_names(mask: int, names: tuple[str, ...]) -> list[str]:
    known = [name for bit, name in enumerate(names) if mask >> bit & 1]
    unknown = mask >> len(names)
    return known + ([f"unknown_{unknown << len(names):#x}"] if unknown else [])


def _text(value: Any) -> str | None:
    """The binding returns bytes from some functions and texts from others."""
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _watts(milliwatts: Any) -> float | None:
    return None if milliwatts is None else round(int(milliwatts) / 1000, 3)
