# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The fake NVML, asked by the real nvidia-ml-py in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "fakes" / "nvml"))

import fake_nvml  # noqa: E402  (found through the path above)
import pynvml  # noqa: E402

MACHINES = ["a100_mig_4", "b200_8", "h100_sxm_8", "l40s_4", "rtx4090_2", "t4_1"]

# Evaluates expressions that it reads as JSON, each with `n` (pynvml) and the names that steps before gave to their
# values, `h` by default a GPU's handle, and writes the answers: an error as "!" and its name.
ASK = """
import ctypes, json, sys
import pynvml as n

def plain(value):
    if isinstance(value, ctypes.Array):
        return [plain(part) for part in value]
    if isinstance(value, ctypes.Structure):
        return {name: plain(getattr(value, name)) for name, *rest in value._fields_}
    if isinstance(value, n.nvmlFriendlyObject):
        return value.__dict__
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.value if isinstance(value, ctypes._SimpleCData) else value

def filled(function, structure, **members):
    for name, value in members.items():
        setattr(structure, name, value)
    function(names["h"], ctypes.byref(structure))
    return structure

names = {"n": n, "filled": filled}
answers = []
for name, expression in json.load(sys.stdin):
    try:
        value = eval(expression, names)
        answers.append(plain(value) if not name else None)
        if name:
            names[name] = value
    except n.NVMLError as error:
        answers.append("!" + type(error).__name__.replace("NVMLError_", ""))
    except n.NVMLLibraryMismatchError:
        answers.append("!LibraryMismatch")
json.dump(answers, sys.stdout)
"""
START = [("", "n.nvmlInit()"), ("h", "n.nvmlDeviceGetHandleByIndex(0)")]


class Asker:
    """Writes a description and asks the library about it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "machine.nvml"

    def __call__(self, description: dict[str, Any], *expressions: str, start: Any = None) -> list[Any]:
        fake_nvml.write(description, self.path)
        steps = [*(START if start is None else start), *(("", expression) for expression in expressions)]
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            input=json.dumps(steps),
            env={**os.environ, **fake_nvml.environment(self.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        return answers[len(steps) - len(expressions) :]


@pytest.fixture
def ask(tmp_path: Path) -> Asker:
    return Asker(tmp_path)


def value_of(description: dict[str, Any], path: str) -> Any:
    """What the description says at a dotted path below the first GPU, None for nothing."""
    value: Any = description["gpus"][0]
    for part in path.split("."):
        if value is None:
            return None
        value = value[int(part)] if isinstance(value, list) else value.get(part)
    return int(value) if isinstance(value, bool) else value


def at(path: str) -> Any:
    return lambda description: value_of(description, path)


def all_at(*paths: str) -> Any:
    def values(description: dict[str, Any]) -> Any:
        found = [value_of(description, path) for path in paths]
        return None if None in found else found

    return values


def named(path: str, names: dict[str, int]) -> Any:
    def number(description: dict[str, Any]) -> Any:
        value = value_of(description, path)
        return None if value is None else names[value]

    return number


def mask(names_at: str) -> Any:
    def number(description: dict[str, Any]) -> Any:
        value = value_of(description, names_at)
        return int(fake_nvml.event_reasons(value))

    return number


def bits(path: str, words: int) -> Any:
    def numbers(description: dict[str, Any]) -> Any:
        members: set[int] = set()
        for part in value_of(description, path).split(","):
            first, dummy, last = part.partition("-")
            members.update(range(int(first), int(last or first) + 1))
        return [sum(1 << bit for bit in range(64) if 64 * word + bit in members) for word in range(words)]

    return numbers


def pci(description: dict[str, Any]) -> dict[str, Any]:
    found = description["gpus"][0]["pci"]
    domain, bus, rest = found["address"].split(":")

    def together(text: str) -> int:
        vendor, device = text.split(":")
        return int(device + vendor, 16)

    return {
        "busIdLegacy": found["address"].upper(),
        "domain": int(domain, 16),
        "bus": int(bus, 16),
        "device": int(rest.partition(".")[0], 16),
        "pciDeviceId": together(found["device"]),
        "pciSubSystemId": together(found["subsystem"]),
        "busId": "0000" + found["address"].upper(),
    }


def pci_ext(description: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in pci(description).items() if key != "busIdLegacy"}
    subclass = int(description["gpus"][0]["pci"]["class"][2:], 16)
    return {"version": pynvml.nvmlPciInfoExt_v1, **found, "baseClass": 3, "subClass": subclass}


def memory(description: dict[str, Any]) -> dict[str, Any]:
    found = description["gpus"][0]["memory"]
    used = found["used_bytes"] + found["reserved_bytes"]
    return {"total": found["total_bytes"], "used": used, "free": found["total_bytes"] - used}


def memory_v2(description: dict[str, Any]) -> dict[str, Any]:
    found = description["gpus"][0]["memory"]
    return {
        **memory(description),
        "version": pynvml.nvmlMemory_v2,
        "reserved": found["reserved_bytes"],
        "used": found["used_bytes"],
    }


def bar1(description: dict[str, Any]) -> dict[str, Any]:
    found = description["gpus"][0]["bar1"]
    total, used = found["total_bytes"], found["used_bytes"]
    return {"bar1Total": total, "bar1Used": used, "bar1Free": total - used}


def fabric(version: int | None) -> Any:
    def info(description: dict[str, Any]) -> Any:
        found = description["gpus"][0].get("fabric")
        if found is None:
            return None
        result = {
            "clusterUuid": [0] * 16,
            "status": 0,
            "cliqueId": 0,
            "state": pynvml.NVML_GPU_FABRIC_STATE_COMPLETED,
        }
        if version is not None:
            result["version"] = version
            result["healthMask"] = int(fake_nvml.health_mask(found["health"]))
        if version == pynvml.nvmlGpuFabricInfo_v3:
            result["healthSummary"] = fake_nvml.FABRIC_SUMMARIES[found["health_summary"]]
        return result

    return info


def link(member: str, names: dict[str, int] | None = None) -> Any:
    path = f"nvlinks.0.{member}"
    return at(path) if names is None else named(path, names)


def remote(description: dict[str, Any]) -> Any:
    address = value_of(description, "nvlinks.0.remote_pci_address")
    if address is None:
        return None
    domain, bus, rest = address.upper().split(":")
    return f"{domain:0>8}:{bus}:{rest}"


def error_counter(description: dict[str, Any]) -> Any:
    gone = description["gpus"][0]["architecture"] == "blackwell"
    return None if gone or value_of(description, "nvlinks.0") is None else 0


def pair(member: str, names: dict[str, int]) -> Any:
    return lambda description: names[description["p2p"]["0-1"][member]] if description["p2p"] else "!InvalidArgument"


def counted(path: str) -> Any:
    """A count of errors, which only ECC makes."""
    return lambda description: value_of(description, path) if value_of(description, "ecc.enabled") else None


def pages(path: str) -> Any:
    return lambda description: None if value_of(description, path) is None else []


H = "n.nvmlDeviceGet{}(h)".format
SRAM = "filled(n.nvmlDeviceGetSramEccErrorStatus, n.c_nvmlEccSramErrorStatus_v1_t()).bThresholdExceeded"
ROWS_V2 = "filled(n.nvmlDeviceGetRemappedRows_v2, n.c_nvmlRemappedRowsInfo_v2_t())"
PCI_EXT = "filled(n.nvmlDeviceGetPciInfoExt, n.nvmlPciInfoExt_v1_t(), version=n.nvmlPciInfoExt_v1)"
ROWS = ("correctable", "uncorrectable", "pending", "failed")
SUPPORTED = "clocks.supported_event_reasons"

# For each function of the library, how pynvml asks it about the first GPU, and what the answer is by the description.
# None there stands for: not supported.
QUESTIONS: dict[str, tuple[str, Any]] = {
    "nvmlDeviceGetArchitecture": (H("Architecture"), named("architecture", fake_nvml.ARCHITECTURES)),
    "nvmlDeviceGetBAR1MemoryInfo": (H("BAR1MemoryInfo"), bar1),
    "nvmlDeviceGetBoardPartNumber": (H("BoardPartNumber"), at("board_part_number")),
    "nvmlDeviceGetBrand": (H("Brand"), named("brand", fake_nvml.BRANDS)),
    "nvmlDeviceGetClockInfo": ("n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)", at("clocks.memory_mhz")),
    "nvmlDeviceGetComputeMode": (H("ComputeMode"), named("compute_mode", fake_nvml.COMPUTE_MODES)),
    "nvmlDeviceGetComputeRunningProcesses_v2": (H("ComputeRunningProcesses_v2"), lambda description: []),
    "nvmlDeviceGetComputeRunningProcesses_v3": (H("ComputeRunningProcesses"), lambda description: []),
    "nvmlDeviceGetCpuAffinity": ("n.nvmlDeviceGetCpuAffinity(h, 6)", bits("cpu_affinity", 6)),
    "nvmlDeviceGetCpuAffinityWithinScope": (
        "n.nvmlDeviceGetCpuAffinityWithinScope(h, 6, n.NVML_AFFINITY_SCOPE_SOCKET)",
        bits("cpu_affinity", 6),
    ),
    "nvmlDeviceGetCudaComputeCapability": (
        H("CudaComputeCapability"),
        lambda description: [int(part) for part in value_of(description, "compute_capability").split(".")],
    ),
    "nvmlDeviceGetCurrPcieLinkGeneration": (H("CurrPcieLinkGeneration"), at("pcie.generation")),
    "nvmlDeviceGetCurrPcieLinkWidth": (H("CurrPcieLinkWidth"), at("pcie.width")),
    "nvmlDeviceGetCurrentClocksEventReasons": (H("CurrentClocksEventReasons"), mask("clocks.event_reasons")),
    "nvmlDeviceGetCurrentClocksThrottleReasons": (H("CurrentClocksThrottleReasons"), mask("clocks.event_reasons")),
    "nvmlDeviceGetDefaultEccMode": (H("DefaultEccMode"), all_at("ecc.default")),
    "nvmlDeviceGetDisplayActive": (H("DisplayActive"), at("display_active")),
    "nvmlDeviceGetEccMode": (H("EccMode"), all_at("ecc.enabled", "ecc.pending")),
    "nvmlDeviceGetEnforcedPowerLimit": (H("EnforcedPowerLimit"), at("power.limit_milliwatts")),
    "nvmlDeviceGetGpuFabricInfo": (
        "filled(n.nvmlDeviceGetGpuFabricInfo, n.c_nvmlGpuFabricInfo_t())",
        fabric(None),
    ),
    "nvmlDeviceGetGpuFabricInfoV": (
        "filled(n.nvmlDeviceGetGpuFabricInfoV, n.c_nvmlGpuFabricInfo_v3_t())",
        fabric(pynvml.nvmlGpuFabricInfo_v3),
    ),
    "nvmlDeviceGetGpuMaxPcieLinkGeneration": (H("GpuMaxPcieLinkGeneration"), at("pcie.generation_maximum_gpu")),
    "nvmlDeviceGetGraphicsRunningProcesses_v2": (H("GraphicsRunningProcesses_v2"), lambda description: []),
    "nvmlDeviceGetGraphicsRunningProcesses_v3": (H("GraphicsRunningProcesses"), lambda description: []),
    "nvmlDeviceGetGspFirmwareMode": (H("GspFirmwareMode"), all_at("gsp.enabled", "gsp.default")),
    "nvmlDeviceGetGspFirmwareVersion": (
        H("GspFirmwareVersion"),
        lambda description: description["driver"]["version"],
    ),
    "nvmlDeviceGetHandleByPciBusId_v2": (
        "n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByPciBusId(n.nvmlDeviceGetPciInfo(h).busIdLegacy.lower()))",
        lambda description: 0,
    ),
    "nvmlDeviceGetHandleBySerial": (
        "n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleBySerial(n.nvmlDeviceGetSerial(h)))",
        lambda description: 0 if value_of(description, "serial") else None,
    ),
    "nvmlDeviceGetHandleByUUID": (
        "n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(h)))",
        lambda description: 0,
    ),
    "nvmlDeviceGetHandleByUUIDV": (
        "n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUIDV(n.nvmlDeviceGetUUID(h), n.NVML_UUID_TYPE_ASCII))",
        lambda description: 0,
    ),
    "nvmlDeviceGetIndex": (H("Index"), lambda description: 0),
    "nvmlDeviceGetInforomImageVersion": (H("InforomImageVersion"), at("inforom_image_version")),
    "nvmlDeviceGetMPSComputeRunningProcesses_v2": (H("MPSComputeRunningProcesses_v2"), lambda description: []),
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": (H("MPSComputeRunningProcesses"), lambda description: []),
    "nvmlDeviceGetMarginTemperature": (H("MarginTemperature"), at("temperature.margin_celsius")),
    "nvmlDeviceGetMaxClockInfo": ("n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM)", at("clocks.maximum_sm_mhz")),
    "nvmlDeviceGetMaxMigDeviceCount": (
        H("MaxMigDeviceCount"),
        lambda description: 7 if value_of(description, "mig.enabled") else 0,
    ),
    "nvmlDeviceGetMaxPcieLinkGeneration": (H("MaxPcieLinkGeneration"), at("pcie.generation_maximum")),
    "nvmlDeviceGetMaxPcieLinkWidth": (H("MaxPcieLinkWidth"), at("pcie.width_maximum")),
    "nvmlDeviceGetMemoryAffinity": (
        "n.nvmlDeviceGetMemoryAffinity(h, 1, n.NVML_AFFINITY_SCOPE_NODE)",
        bits("memory_affinity", 1),
    ),
    "nvmlDeviceGetMemoryErrorCounter": (
        "n.nvmlDeviceGetMemoryErrorCounter(h, 0, n.NVML_AGGREGATE_ECC, n.NVML_MEMORY_LOCATION_DRAM)",
        counted("ecc.corrected_aggregate"),
    ),
    "nvmlDeviceGetMemoryInfo": (H("MemoryInfo"), memory),
    "nvmlDeviceGetMemoryInfo_v2": ("n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2)", memory_v2),
    "nvmlDeviceGetMigMode": (H("MigMode"), all_at("mig.enabled", "mig.pending")),
    "nvmlDeviceGetMinorNumber": (H("MinorNumber"), at("minor_number")),
    "nvmlDeviceGetModuleId": (H("ModuleId"), at("module_id")),
    "nvmlDeviceGetName": (H("Name"), at("name")),
    "nvmlDeviceGetNumaNodeId": (H("NumaNodeId"), at("numa_node_id")),
    "nvmlDeviceGetNvLinkCapability": (
        "n.nvmlDeviceGetNvLinkCapability(h, 0, n.NVML_NVLINK_CAP_P2P_SUPPORTED)",
        lambda description: None if value_of(description, "nvlinks.0") is None else 1,
    ),
    "nvmlDeviceGetNvLinkErrorCounter": (
        "n.nvmlDeviceGetNvLinkErrorCounter(h, 0, n.NVML_NVLINK_ERROR_DL_REPLAY)",
        error_counter,
    ),
    "nvmlDeviceGetNvLinkRemoteDeviceType": (
        "n.nvmlDeviceGetNvLinkRemoteDeviceType(h, 0)",
        link("remote_type", fake_nvml.NVLINK_REMOTES),
    ),
    "nvmlDeviceGetNvLinkRemotePciInfo_v2": ("n.nvmlDeviceGetNvLinkRemotePciInfo(h, 0).busId", remote),
    "nvmlDeviceGetNvLinkState": ("n.nvmlDeviceGetNvLinkState(h, 0)", link("active")),
    "nvmlDeviceGetNvLinkVersion": ("n.nvmlDeviceGetNvLinkVersion(h, 0)", link("version", fake_nvml.NVLINK_VERSIONS)),
    "nvmlDeviceGetPciInfoExt": (PCI_EXT, pci_ext),
    "nvmlDeviceGetPciInfo_v3": (H("PciInfo"), pci),
    "nvmlDeviceGetPcieReplayCounter": (H("PcieReplayCounter"), at("pcie.replay_count")),
    "nvmlDeviceGetPcieSpeed": (H("PcieSpeed"), at("pcie.speed_megatransfers")),
    "nvmlDeviceGetPerformanceState": (H("PerformanceState"), at("performance_state")),
    "nvmlDeviceGetPersistenceMode": (H("PersistenceMode"), at("persistence")),
    "nvmlDeviceGetPowerManagementDefaultLimit": (H("PowerManagementDefaultLimit"), at("power.default_milliwatts")),
    "nvmlDeviceGetPowerManagementLimit": (H("PowerManagementLimit"), at("power.limit_milliwatts")),
    "nvmlDeviceGetPowerManagementLimitConstraints": (
        H("PowerManagementLimitConstraints"),
        all_at("power.minimum_milliwatts", "power.maximum_milliwatts"),
    ),
    "nvmlDeviceGetPowerUsage": (H("PowerUsage"), at("power.usage_milliwatts")),
    "nvmlDeviceGetRemappedRows": (H("RemappedRows"), all_at(*(f"remapped_rows.{row}" for row in ROWS))),
    "nvmlDeviceGetRemappedRows_v2": (f"{ROWS_V2}.corrActiveRemaps", at("remapped_rows.correctable")),
    "nvmlDeviceGetRepairStatus": (H("RepairStatus"), all_at("repair.channel_pending", "repair.tpc_pending")),
    "nvmlDeviceGetRetiredPages": ("n.nvmlDeviceGetRetiredPages(h, 0)", pages("retired_pages.single_bit")),
    "nvmlDeviceGetRetiredPagesPendingStatus": (H("RetiredPagesPendingStatus"), at("retired_pages.pending")),
    "nvmlDeviceGetRetiredPages_v2": ("n.nvmlDeviceGetRetiredPages_v2(h, 1)", pages("retired_pages.double_bit")),
    "nvmlDeviceGetRowRemapperHistogram": (H("RowRemapperHistogram"), at("remapped_rows.histogram")),
    "nvmlDeviceGetSerial": (H("Serial"), at("serial")),
    "nvmlDeviceGetSramEccErrorStatus": (SRAM, at("sram.threshold_exceeded")),
    "nvmlDeviceGetSupportedClocksEventReasons": (H("SupportedClocksEventReasons"), mask(SUPPORTED)),
    "nvmlDeviceGetSupportedClocksThrottleReasons": (H("SupportedClocksThrottleReasons"), mask(SUPPORTED)),
    "nvmlDeviceGetTemperature": (
        "n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)",
        at("temperature.gpu_celsius"),
    ),
    "nvmlDeviceGetTemperatureThreshold": (
        "n.nvmlDeviceGetTemperatureThreshold(h, n.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)",
        at("temperature.slowdown_celsius"),
    ),
    "nvmlDeviceGetTemperatureV": (
        "n.nvmlDeviceGetTemperatureV(h, n.NVML_TEMPERATURE_GPU)",
        at("temperature.gpu_celsius"),
    ),
    "nvmlDeviceGetTotalEccErrors": (
        "n.nvmlDeviceGetTotalEccErrors(h, n.NVML_MEMORY_ERROR_TYPE_CORRECTED, n.NVML_AGGREGATE_ECC)",
        counted("ecc.corrected_aggregate"),
    ),
    "nvmlDeviceGetUUID": (H("UUID"), at("uuid")),
    "nvmlDeviceGetUtilizationRates": (H("UtilizationRates") + ".gpu", at("utilization.gpu_percent")),
    "nvmlDeviceGetVbiosVersion": (H("VbiosVersion"), at("vbios_version")),
    "nvmlDeviceGetVirtualizationMode": (
        H("VirtualizationMode"),
        named("virtualization_mode", fake_nvml.VIRTUALIZATION_MODES),
    ),
    "nvmlDeviceGetP2PStatus": (
        "n.nvmlDeviceGetP2PStatus(h, n.nvmlDeviceGetHandleByIndex(1), n.NVML_P2P_CAPS_INDEX_WRITE)",
        pair("write", fake_nvml.P2P_STATES),
    ),
    "nvmlDeviceGetTopologyCommonAncestor": (
        "n.nvmlDeviceGetTopologyCommonAncestor(n.nvmlDeviceGetHandleByIndex(1), h)",
        pair("topology", fake_nvml.TOPOLOGY),
    ),
    "nvmlDeviceOnSameBoard": ("n.nvmlDeviceOnSameBoard(h, h)", lambda description: True),
    "nvmlDeviceIsMigDeviceHandle": ("n.nvmlDeviceIsMigDeviceHandle(h).value", lambda description: 0),
    "nvmlDeviceGetCount_v2": ("n.nvmlDeviceGetCount()", lambda description: len(description["gpus"])),
    "nvmlDeviceGetFieldValues": (
        "[(v.fieldId, v.nvmlReturn, v.value.siVal) "
        "for v in n.nvmlDeviceGetFieldValues(h, [230, 82, 194, 91, (166, 0)])]",
        lambda description: [
            [field, 3 if value is None else 0, value or 0]
            for field, value in (
                (230, 0),
                (82, value_of(description, "temperature.memory_celsius")),
                (194, value_of(description, "temperature.slowdown_margin_celsius")),
                (91, len(description["gpus"][0].get("nvlinks", [])) or None),
                (166, link("version", fake_nvml.NVLINK_VERSIONS)(description)),
            )
        ],
    ),
    "nvmlErrorString": ("n.nvmlErrorString(18)", lambda description: "Driver/library version mismatch"),
    "nvmlSystemGetCudaDriverVersion": (
        "n.nvmlSystemGetCudaDriverVersion()",
        lambda description: fake_nvml.cuda_number(description["driver"]["cuda_version"]),
    ),
    "nvmlSystemGetCudaDriverVersion_v2": (
        "n.nvmlSystemGetCudaDriverVersion_v2()",
        lambda description: {"13.0": 13000, "13.2": 13020}[description["driver"]["cuda_version"]],
    ),
    "nvmlSystemGetDriverBranch": (
        "n.nvmlSystemGetDriverBranch().branch",
        lambda description: f"r{description['driver']['version'][:3]}_00",
    ),
    "nvmlSystemGetDriverVersion": (
        "n.nvmlSystemGetDriverVersion()",
        lambda description: description["driver"]["version"],
    ),
    "nvmlSystemGetNVMLVersion": (
        "n.nvmlSystemGetNVMLVersion()",
        lambda description: f"13.{description['driver']['version']}",
    ),
}
# Asked in tests of their own.
ELSEWHERE = {
    "nvmlInitWithFlags",
    "nvmlInit_v2",
    "nvmlShutdown",
    "nvmlSystemGetProcessName",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetGpuFabricInfo_v4",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
    "nvmlDeviceGetAttributes_v2",
}


def exported(folder: Path) -> set[str]:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(folder / fake_nvml.LIBRARY)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1] for line in listing.stdout.splitlines()}


@pytest.fixture(scope="module")
def symbols() -> set[str]:
    return exported(fake_nvml.build())


def test_the_library_exports_only_what_the_binding_asks_for(symbols: set[str]) -> None:
    source = Path(pynvml.__file__).read_text(encoding="utf-8")
    asked = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', source))
    # The binding starts NVML with flags; other programs do it this way.
    assert symbols - asked == {"nvmlInit_v2"}


def test_every_function_is_asked_here(symbols: set[str]) -> None:
    assert set(QUESTIONS) | ELSEWHERE == symbols


def test_every_machine_is_tested_and_says_where_its_values_come_from() -> None:
    assert fake_nvml.machines() == MACHINES
    for machine in MACHINES:
        head = (fake_nvml.DESCRIPTIONS / f"{machine}.yml").read_text(encoding="utf-8").partition("\ndriver:")[0]
        assert re.search(r"nvidia-smi -q|-q -x", head), machine
        assert all(line.startswith("#") for line in head.splitlines())


@pytest.mark.parametrize("machine", MACHINES)
def test_every_function_answers_as_the_machine_is_described(ask: Asker, machine: str) -> None:
    description = fake_nvml.load(machine)
    answers = ask(description, *(question for question, dummy in QUESTIONS.values()))
    wanted = {name: wanted_of(description) for name, (dummy, wanted_of) in QUESTIONS.items()}
    given = dict(zip(QUESTIONS, answers))
    assert given == {name: "!NotSupported" if value is None else value for name, value in wanted.items()}


@pytest.mark.parametrize("machine", MACHINES)
def test_gpus_have_their_own_identity_and_links(ask: Asker, machine: str) -> None:
    description = fake_nvml.load(machine)
    every = "[{} for i in range(n.nvmlDeviceGetCount())]".format
    handle = "n.nvmlDeviceGetHandleByIndex(i)"
    links = {"h100_sxm_8": 18, "b200_8": 18, "a100_mig_4": 12}.get(machine, 0)
    uuids, addresses, minors, states, beyond = ask(
        description,
        every(f"n.nvmlDeviceGetUUID({handle})"),
        every(f"n.nvmlDeviceGetPciInfo({handle}).busIdLegacy"),
        every(f"n.nvmlDeviceGetMinorNumber({handle})"),
        every(f"[n.nvmlDeviceGetNvLinkState({handle}, link) for link in range({links})]"),
        f"n.nvmlDeviceGetNvLinkState(h, {links})",
    )
    gpus = len(description["gpus"])
    assert len(set(uuids)) == len(set(addresses)) == gpus
    assert minors == list(range(gpus))
    assert states == [[1] * links] * gpus
    assert beyond == ("!InvalidArgument" if links else "!NotSupported")


def test_pairs_answer_the_same_from_both_sides(ask: Asker) -> None:
    description = fake_nvml.load("h100_sxm_8")
    description["p2p"]["2-5"].update(read="chipset_not_supported", nvlink="disabled_by_regkey", topology="system")
    # A comprehension inside eval does not see the names around it, so they come as defaults.
    status = "n.nvmlDeviceGetP2PStatus(g[a], g[b], n.NVML_P2P_CAPS_INDEX_NVLINK)"
    matrix = f"(lambda r=r, g=g: [[{status} for b in r if a != b] for a in r])()"
    start = [
        ("", "n.nvmlInit()"),
        ("r", "range(8)"),
        ("g", "[n.nvmlDeviceGetHandleByIndex(i) for i in r]"),
    ]
    nvlink, there, back, near, node, far = ask(
        description,
        matrix,
        "n.nvmlDeviceGetP2PStatus(g[2], g[5], 1)",
        "n.nvmlDeviceGetP2PStatus(g[5], g[2], n.NVML_P2P_CAPS_INDEX_NVLINK)",
        "n.nvmlDeviceGetTopologyCommonAncestor(g[0], g[1])",
        "n.nvmlDeviceGetTopologyCommonAncestor(g[0], g[2])",
        "n.nvmlDeviceGetTopologyCommonAncestor(g[7], g[2])",
        start=start,
    )
    assert sum(map(sum, nvlink)) == 2 * pynvml.NVML_P2P_STATUS_DISABLED_BY_REGKEY
    assert there == 0
    assert back == pynvml.NVML_P2P_STATUS_DISABLED_BY_REGKEY
    assert (near, node, far) == (
        pynvml.NVML_TOPOLOGY_MULTIPLE,
        pynvml.NVML_TOPOLOGY_NODE,
        pynvml.NVML_TOPOLOGY_SYSTEM,
    )


def test_a_gpu_in_mig_mode_has_devices_of_their_own(ask: Asker) -> None:
    description = fake_nvml.load("a100_mig_4")
    description["gpus"][0]["mig"]["instances"][3]["compute_processes"] = [{"pid": 4711, "used_bytes": 1048576}]
    first = "n.nvmlDeviceGetMigDeviceHandleByIndex(h, 0)"
    last = "n.nvmlDeviceGetMigDeviceHandleByIndex(h, 3)"
    given = ask(
        description,
        f"n.nvmlDeviceGetName({first})",
        f"n.nvmlDeviceGetUUID({first})",
        f"n.nvmlDeviceGetMemoryInfo({first}).total",
        f"n.nvmlDeviceGetAttributes({first})",
        f"n.nvmlDeviceGetGpuInstanceId({last})",
        f"n.nvmlDeviceGetComputeInstanceId({last})",
        f"[p.pid for p in n.nvmlDeviceGetComputeRunningProcesses({last})]",
        f"n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle({last}))",
        f"n.nvmlDeviceIsMigDeviceHandle({last}).value",
        f"n.nvmlDeviceGetPowerUsage({last})",
        f"n.nvmlDeviceGetCudaComputeCapability({last})",
        f"n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID({last})))",
        "n.nvmlDeviceGetMigDeviceHandleByIndex(h, 4)",
        "n.nvmlDeviceGetMigDeviceHandleByIndex(n.nvmlDeviceGetHandleByIndex(1), 0)",
        "n.nvmlDeviceGetAttributes(h)",
        "n.nvmlDeviceGetUtilizationRates(h)",
    )
    gpu = description["gpus"][0]
    attributes = {
        "multiprocessorCount": 42,
        "sharedCopyEngineCount": 3,
        "sharedDecoderCount": 2,
        "sharedEncoderCount": 0,
        "sharedJpegCount": 0,
        "sharedOfaCount": 0,
        "gpuInstanceSliceCount": 3,
        "computeInstanceSliceCount": 3,
        "memorySizeMB": 40192,
    }
    assert given == [
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        gpu["mig"]["instances"][0]["uuid"],
        40192 * 1048576,
        attributes,
        14,
        0,
        [4711],
        gpu["uuid"],
        1,
        "!NotSupported",
        [8, 0],
        gpu["mig"]["instances"][3]["uuid"],
        "!NotFound",
        "!NotFound",
        "!NotSupported",
        "!NotSupported",
    ]


@pytest.mark.parametrize("name", ["compute_processes", "graphics_processes", "mps_processes"])
def test_processes_are_listed_with_what_is_known_of_them(ask: Asker, name: str) -> None:
    description = fake_nvml.load("t4_1")
    description["gpus"][0][name] = [{"pid": 100 + number, "used_bytes": 1024} for number in range(20)] + [{"pid": 7}]
    description["process_name"] = {100: "/usr/bin/python3"}
    function = {"compute": "Compute", "graphics": "Graphics", "mps": "MPSCompute"}[name.partition("_")[0]]
    processes, known, unknown = ask(
        description,
        H(f"{function}RunningProcesses"),
        "n.nvmlSystemGetProcessName(100)",
        "n.nvmlSystemGetProcessName(7)",
    )
    assert [process["pid"] for process in processes] == [*range(100, 120), 7]
    assert processes[0]["usedGpuMemory"] == 1024
    assert processes[-1]["usedGpuMemory"] is None
    assert known == "/usr/bin/python3"
    assert unknown == "!NotFound"


def test_what_is_none_or_missing_is_not_supported(ask: Asker) -> None:
    description = fake_nvml.load("h100_sxm_8")
    del description["gpus"][0]["fabric"]
    description["gpus"][0]["serial"] = None
    description["gpus"][0]["nvlinks"] = []
    assert (
        ask(description, H("Serial"), QUESTIONS["nvmlDeviceGetGpuFabricInfoV"][0], "n.nvmlDeviceGetNvLinkState(h, 0)")
        == ["!NotSupported"] * 3
    )


def test_counts_of_errors_end_with_ecc_itself(ask: Asker) -> None:
    description = fake_nvml.load("h100_sxm_8")
    description["gpus"][0]["ecc"].update(uncorrected_volatile=3, uncorrected_volatile_sram=1)
    question = "n.nvmlDeviceGetTotalEccErrors(h, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, n.NVML_VOLATILE_ECC)"
    where = "n.nvmlDeviceGetMemoryErrorCounter(h, 1, n.NVML_VOLATILE_ECC, n.NVML_MEMORY_LOCATION_SRAM)"
    assert ask(description, question, where) == [3, 1]
    description["gpus"][0]["ecc"]["enabled"] = False
    assert ask(description, question, H("EccMode")) == ["!NotSupported", [0, 1]]


def test_retired_pages_are_as_many_as_described(ask: Asker) -> None:
    description = fake_nvml.load("t4_1")
    description["gpus"][0]["retired_pages"].update(double_bit=3, pending=True)
    given = ask(description, "len(n.nvmlDeviceGetRetiredPages_v2(h, 1))", H("RetiredPagesPendingStatus"))
    assert given == [3, 1]


def test_fabric_says_its_health_in_the_binding_s_bits(ask: Asker) -> None:
    description = fake_nvml.load("h100_sxm_8")
    description["gpus"][0]["fabric"].update(
        state="in_progress",
        status="not_ready",
        clique_id=4026,
        cluster_uuid="9c6f5af3-53bf-49b5-a436-b66766c413c3",
        health={
            "degraded_bandwidth": True,
            "route_unhealthy": False,
            "incorrect_configuration": "insufficient_nvlinks",
            "gfm_disconnected": True,
        },
        health_summary="unhealthy",
    )
    (info,) = ask(description, QUESTIONS["nvmlDeviceGetGpuFabricInfoV"][0])

    def part(name: str) -> int:
        shift = getattr(pynvml, f"NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_{name}")
        return info["healthMask"] >> shift & getattr(pynvml, f"NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_{name}")

    assert info["state"] == pynvml.NVML_GPU_FABRIC_STATE_IN_PROGRESS
    assert info["status"] == pynvml.NVML_ERROR_NOT_READY
    assert info["cliqueId"] == 4026
    assert bytes(info["clusterUuid"]).hex() == "9c6f5af353bf49b5a436b66766c413c3"
    assert info["healthSummary"] == pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY
    assert part("DEGRADED_BW") == pynvml.NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_TRUE
    assert part("ROUTE_RECOVERY") == pynvml.NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_RECOVERY_NOT_SUPPORTED
    assert part("ROUTE_UNHEALTHY") == pynvml.NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_FALSE
    assert part("GFM_STATE") == pynvml.NVML_GPU_FABRIC_HEALTH_MASK_GFM_STATE_DISCONNECTED
    assert (
        part("INCORRECT_CONFIGURATION")
        == pynvml.NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_INSUFFICIENT_NVLINKS
    )


def test_names_stand_for_the_binding_s_numbers() -> None:
    def same(names: dict[str, int], prefix: str, **renamed: str) -> None:
        for name, number in names.items():
            assert getattr(pynvml, prefix + renamed.get(name, name).upper().replace(".", "_")) == number, name

    same({name: number for name, number in fake_nvml.ERRORS.items() if number}, "NVML_ERROR_")
    same(fake_nvml.BRANDS, "NVML_BRAND_")
    same(fake_nvml.ARCHITECTURES, "NVML_DEVICE_ARCH_")
    same(fake_nvml.COMPUTE_MODES, "NVML_COMPUTEMODE_")
    same(fake_nvml.VIRTUALIZATION_MODES, "NVML_GPU_VIRTUALIZATION_MODE_")
    same(fake_nvml.NVLINK_VERSIONS, "NVML_NVLINK_VERSION_")
    same(fake_nvml.NVLINK_REMOTES, "NVML_NVLINK_DEVICE_TYPE_", ibm_npu="ibmnpu")
    same(fake_nvml.FABRIC_STATES, "NVML_GPU_FABRIC_STATE_")
    same(fake_nvml.FABRIC_SUMMARIES, "NVML_GPU_FABRIC_HEALTH_SUMMARY_")
    same(fake_nvml.RECOVERY_ACTIONS, "NVML_GPU_RECOVERY_ACTION_")
    same(fake_nvml.P2P_STATES, "NVML_P2P_STATUS_", topology_not_supported="ioh_topology_not_supported")
    same(fake_nvml.TOPOLOGY, "NVML_TOPOLOGY_")
    same(fake_nvml.INCORRECT_CONFIGURATIONS, "NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_")
    for name, bit in fake_nvml.EVENT_REASONS.items():
        words = "".join(word.capitalize() for word in name.split("_"))
        assert getattr(pynvml, f"nvmlClocksEventReason{words}") == bit


# Errors.


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("driver_not_loaded", "!DriverNotLoaded"),
        ("lib_rm_version_mismatch", "!LibRmVersionMismatch"),
        (999, "!Unknown"),
    ],
)
def test_the_start_can_fail_and_the_library_still_says_its_version(ask: Asker, error: Any, name: str) -> None:
    description = fake_nvml.load("t4_1")
    description["error"] = {"nvmlInit": error}
    given = ask(
        description,
        "n.nvmlInit()",
        "n.nvmlSystemGetNVMLVersion()",
        "n.nvmlSystemGetDriverVersion()",
        "n.nvmlDeviceGetCount()",
        start=[],
    )
    assert given == [name, "13.595.91.07", "!Uninitialized", "!Uninitialized"]


def test_starts_and_ends_are_counted(ask: Asker) -> None:
    count = "n.nvmlDeviceGetCount()"
    end = "n.nvmlShutdown()"
    given = ask(fake_nvml.load("t4_1"), "n.nvmlInit()", "n.nvmlInit()", end, count, end, count, end, start=[])
    assert given == [None, None, None, 1, None, "!Uninitialized", "!Uninitialized"]


def test_without_a_description_the_start_fails_and_says_why(ask: Asker, tmp_path: Path) -> None:
    description = fake_nvml.load("t4_1")
    fake_nvml.write(description, ask.path)
    environment = {**os.environ, **fake_nvml.environment(ask.path)}
    del environment["FAKE_NVML_DESCRIPTION"]
    done = subprocess.run(
        [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "FAKE_NVML_DESCRIPTION names no readable file" in done.stderr
    assert "NVMLError_Unknown" in done.stderr


def test_a_lost_gpu_gives_no_handle_but_is_counted(ask: Asker) -> None:
    description = fake_nvml.load("h100_sxm_8")
    description["gpus"][5]["error"] = {"handle": "gpu_is_lost"}
    gpu = description["gpus"][5]
    given = ask(
        description,
        "n.nvmlDeviceGetCount()",
        "n.nvmlDeviceGetHandleByIndex(5)",
        f"n.nvmlDeviceGetHandleByUUID({gpu['uuid']!r})",
        f"n.nvmlDeviceGetHandleByPciBusId({gpu['pci']['address']!r})",
        f"n.nvmlDeviceGetHandleBySerial({gpu['serial']!r})",
        "n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByIndex(4))",
        "n.nvmlDeviceGetHandleByIndex(8)",
        "n.nvmlDeviceGetHandleByUUID('GPU-none')",
        "n.nvmlDeviceGetHandleByPciBusId('0000:ff:00.0')",
        "n.nvmlDeviceGetHandleByPciBusId('nonsense')",
    )
    assert given == [8, *["!GpuIsLost"] * 4, 4, "!InvalidArgument", "!NotFound", "!NotFound", "!InvalidArgument"]


def test_a_gpu_can_get_lost_after_its_handle(ask: Asker) -> None:
    description = fake_nvml.load("h100_sxm_8")
    description["gpus"][0]["error"] = {"*": "gpu_is_lost"}
    other = "n.nvmlDeviceGetHandleByIndex(1)"
    given = ask(
        description,
        H("Name"),
        "n.nvmlDeviceGetFieldValues(h, [230])",
        f"n.nvmlDeviceGetP2PStatus({other}, h, 1)",
        f"n.nvmlDeviceGetName({other})",
    )
    assert given == ["!GpuIsLost", "!GpuIsLost", "!GpuIsLost", "NVIDIA H100 80GB HBM3"]


def test_one_function_can_fail_on_one_gpu_or_on_all(ask: Asker) -> None:
    description = fake_nvml.load("l40s_4")
    description["error"] = {"nvmlDeviceGetPowerUsage": "no_permission"}
    description["gpus"][0]["error"] = {"nvmlDeviceGetTemperatureV": 999, "field": {230: "no_data"}}
    other = "n.nvmlDeviceGetHandleByIndex(1)"
    given = ask(
        description,
        "n.nvmlDeviceGetTemperatureV(h, 0)",
        f"n.nvmlDeviceGetTemperatureV({other}, 0)",
        H("PowerUsage"),
        f"n.nvmlDeviceGetPowerUsage({other})",
        "[v.nvmlReturn for v in n.nvmlDeviceGetFieldValues(h, [230, 91, 94])]",
    )
    assert given == ["!Unknown", 29, "!NoPermission", "!NoPermission", [21, 3, 0]]


def test_structures_of_an_unknown_version_are_refused(ask: Asker) -> None:
    given = ask(
        fake_nvml.load("h100_sxm_8"),
        "filled(n.nvmlDeviceGetGpuFabricInfoV, n.c_nvmlGpuFabricInfo_v3_t(), version=0x04000028)",
        "n.nvmlDeviceGetMemoryInfo(h, version=1)",
        "filled(n.nvmlDeviceGetPciInfoExt, n.nvmlPciInfoExt_v1_t(), version=7)",
        "filled(n.nvmlDeviceGetSramEccErrorStatus, n.c_nvmlEccSramErrorStatus_v1_t(), version=7)",
    )
    assert given == ["!ArgumentVersionMismatch"] * 4


# Drivers of other branches.


def test_an_absent_function_is_no_symbol(ask: Asker, symbols: set[str]) -> None:
    description = fake_nvml.load("l40s_4")
    description["absent"] = ["nvmlDeviceGetP2PStatus"]
    assert ask(description, QUESTIONS["nvmlDeviceGetP2PStatus"][0], H("Name")) == ["!FunctionNotFound", "NVIDIA L40S"]
    left = exported(fake_nvml.build(["nvmlDeviceGetP2PStatus"]))
    assert symbols - left == {"nvmlDeviceGetP2PStatus"}


def test_a_driver_lacks_what_came_later(ask: Asker) -> None:
    description = fake_nvml.load("h100_sxm_8")
    description["driver"] = {"version": "535.288.01", "cuda_version": "12.2"}
    fabric_v2 = "filled(n.nvmlDeviceGetGpuFabricInfoV, n.c_nvmlGpuFabricInfo_v2_t()).state"
    fabric_v3 = "filled(n.nvmlDeviceGetGpuFabricInfoV, n.c_nvmlGpuFabricInfo_v3_t()).state"
    fabric_v4 = "filled(n.nvmlDeviceGetGpuFabricInfo_v4, n.c_nvmlGpuFabricInfo_v4_t()).state"
    field = "[v.nvmlReturn for v in n.nvmlDeviceGetFieldValues(h, [230, 94])]"
    questions = [
        "n.nvmlSystemGetNVMLVersion()",
        H("GspFirmwareVersion"),
        "n.nvmlSystemGetDriverBranch().branch",
        fabric_v2,
        fabric_v3,
        fabric_v4,
        field,
    ]
    missing = "!FunctionNotFound"
    version = "535.288.01"
    assert ask(description, *questions) == [f"12.{version}", version, missing, missing, missing, missing, [2, 0]]
    description["driver"] = {"version": "570.211.01", "cuda_version": "12.8"}
    mismatch = "!ArgumentVersionMismatch"
    assert ask(description, *questions)[2:] == ["r570_00", 3, mismatch, missing, [0, 0]]
    description["driver"] = {"version": "615.71.09", "cuda_version": "13.4"}
    assert ask(description, *questions)[2:] == ["r615_00", 3, 3, 3, [0, 0]]


def test_what_came_when_is_known_of_functions_that_are_there(symbols: set[str]) -> None:
    assert set(fake_nvml.FUNCTIONS_SINCE) <= symbols


# The Python side.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ecc": {"enabeld": True}}, r"unknown key 'gpus\.0\.ecc\.enabeld'.*gpus\.\*\.ecc\.enabled"),
        ({"architecture": "hoper"}, r"gpus\.0\.architecture: 'hoper' is none of kepler"),
        ({"error": {"handle": "lost"}}, r"gpus\.0\.error\.handle: 'lost' is none of"),
        ({"name": "two\nlines"}, r"must be one line"),
        ({"memory": {"total_bytes": "much"}}, r"gpus\.0\.memory\.total_bytes: invalid literal"),
        ({"fabric": {"health": {"sick": True}}}, r"'sick' is no part of the health mask"),
        ({"pci": {"device": "2330"}}, r"gpus\.0\.pci\.device"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    description = fake_nvml.load("t4_1")
    description["gpus"][0].update(change)
    with pytest.raises(ValueError, match=message):
        fake_nvml.write(description, tmp_path / "wrong.nvml")
    assert not (tmp_path / "wrong.nvml").exists()


def test_an_unknown_machine_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no machine 'h200_8'; there are: a100_mig_4, b200_8"):
        fake_nvml.load("h200_8")


def test_machines_are_loaded_anew_each_time() -> None:
    fake_nvml.load("h100_sxm_8")["gpus"][0]["nvlinks"][0]["active"] = False
    assert fake_nvml.load("h100_sxm_8")["gpus"][0]["nvlinks"][0]["active"] is True
    description = fake_nvml.load("h100_sxm_8")
    description["gpus"][0]["ecc"]["enabled"] = False
    description["gpus"][0]["nvlinks"][0]["active"] = False
    assert description["gpus"][1]["ecc"]["enabled"] is True
    assert description["gpus"][0]["nvlinks"][1]["active"] is True
    assert description["gpus"][1]["nvlinks"][0]["active"] is True


def test_the_library_is_built_once_for_each_set_of_functions() -> None:
    plain = fake_nvml.build()
    built = (plain / fake_nvml.LIBRARY).stat().st_mtime_ns
    assert fake_nvml.build() == plain
    assert (plain / fake_nvml.LIBRARY).stat().st_mtime_ns == built
    assert fake_nvml.build(["nvmlDeviceGetP2PStatus"]) != plain


def test_only_functions_that_are_there_can_be_absent() -> None:
    with pytest.raises(ValueError, match="has no function nvmlDeviceGetP2PState,"):
        fake_nvml.build(["nvmlDeviceGetP2PState"])


def test_without_a_compiler_the_builder_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fake_nvml, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(RuntimeError, match="apt install gcc libc6-dev"):
        fake_nvml.build()


def test_an_existing_library_path_is_kept(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/other")
    fake_nvml.write(fake_nvml.load("t4_1"), ask.path)
    environment = fake_nvml.environment(ask.path)
    folder = fake_nvml.build(fake_nvml.absent_functions(fake_nvml.load("t4_1")))
    assert environment["LD_LIBRARY_PATH"] == f"{folder}:/opt/other"
    assert environment["FAKE_NVML_DESCRIPTION"] == str(ask.path)


def test_the_command_line_prints_an_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["fake_nvml.py", "t4_1", str(tmp_path)])
    assert fake_nvml.main() == 0
    assert f"export FAKE_NVML_DESCRIPTION={tmp_path / 't4_1.nvml'}\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["fake_nvml.py"])
    assert fake_nvml.main() == 2
    assert "machines: a100_mig_4" in capsys.readouterr().err
