# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Build the fake NVML and describe to it the machine that it should be.

    description = fake_nvml.load("h100_sxm_8")
    description["gpus"][3]["ecc"]["enabled"] = False
    description["gpus"][5]["error"] = {"handle": "gpu_is_lost"}
    fake_nvml.write(description, path)
    subprocess.run([...], env={**os.environ, **fake_nvml.environment(path)})

A description is a nested mapping of what NVML would say, with names in place of NVML's numbers. Every key that may
occur stands in `KEYS`; a key that is missing or `None` makes NVML say NOT_SUPPORTED, an unknown one is an error.

usage: fake_nvml.py MACHINE FOLDER    writes the flat description there and prints the environment to use it with
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "fake_nvml.c"
DESCRIPTIONS = HERE / "descriptions"
CACHE = HERE.parents[2] / ".cache" / "fake-nvml"
LIBRARY = "libnvidia-ml.so.1"
FLAGS = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]

# NVML's change log (https://docs.nvidia.com/deploy/nvml-api/change-log.html): the driver branch with which each came.
# A driver of an older branch has no such function.
FUNCTIONS_SINCE = {
    "nvmlDeviceGetComputeRunningProcesses_v3": 535,
    "nvmlDeviceGetCurrentClocksEventReasons": 535,
    "nvmlDeviceGetGpuFabricInfoV": 550,
    "nvmlDeviceGetGpuFabricInfo_v4": 615,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": 535,
    "nvmlDeviceGetHandleByUUIDV": 575,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": 535,
    "nvmlDeviceGetMarginTemperature": 570,
    "nvmlDeviceGetModuleId": 535,
    "nvmlDeviceGetNumaNodeId": 550,
    "nvmlDeviceGetPciInfoExt": 545,
    "nvmlDeviceGetRemappedRows_v2": 580,
    "nvmlDeviceGetRepairStatus": 580,
    "nvmlDeviceGetSramEccErrorStatus": 535,
    "nvmlDeviceGetSupportedClocksEventReasons": 535,
    "nvmlSystemGetDriverBranch": 560,
}
FIELDS_SINCE = {
    **dict.fromkeys((164, 165, 166), 525),
    **dict.fromkeys((185, 186, 187, 188, 189, 190, 192, 193, 194, 195, 196), 535),
    230: 565,
}
FABRIC_INFO_V3_SINCE = 580

ERRORS = {
    "success": 0,
    "uninitialized": 1,
    "invalid_argument": 2,
    "not_supported": 3,
    "no_permission": 4,
    "already_initialized": 5,
    "not_found": 6,
    "insufficient_size": 7,
    "insufficient_power": 8,
    "driver_not_loaded": 9,
    "timeout": 10,
    "irq_issue": 11,
    "library_not_found": 12,
    "function_not_found": 13,
    "corrupted_inforom": 14,
    "gpu_is_lost": 15,
    "reset_required": 16,
    "operating_system": 17,
    "lib_rm_version_mismatch": 18,
    "in_use": 19,
    "memory": 20,
    "no_data": 21,
    "insufficient_resources": 23,
    "argument_version_mismatch": 25,
    "deprecated": 26,
    "not_ready": 27,
    "gpu_not_found": 28,
    "invalid_state": 29,
    "unknown": 999,
}
BRANDS = {"unknown": 0, "tesla": 2, "geforce": 5, "geforce_rtx": 15, "nvidia_rtx": 13, "nvidia": 14}
ARCHITECTURES = {
    "kepler": 2,
    "maxwell": 3,
    "pascal": 4,
    "volta": 5,
    "turing": 6,
    "ampere": 7,
    "ada": 8,
    "hopper": 9,
    "blackwell": 10,
    "rubin": 13,
}
COMPUTE_MODES = {"default": 0, "exclusive_thread": 1, "prohibited": 2, "exclusive_process": 3}
VIRTUALIZATION_MODES = {"none": 0, "passthrough": 1, "vgpu": 2, "host_vgpu": 3, "host_vsga": 4}
NVLINK_VERSIONS = {"1.0": 1, "2.0": 2, "2.2": 3, "3.0": 4, "3.1": 5, "4.0": 6, "5.0": 7, "6.0": 8}
NVLINK_REMOTES = {"gpu": 0, "ibm_npu": 1, "switch": 2, "unknown": 255}
FABRIC_STATES = {"not_supported": 0, "not_started": 1, "in_progress": 2, "completed": 3}
FABRIC_SUMMARIES = {"not_supported": 0, "healthy": 1, "unhealthy": 2, "limited_capacity": 3}
RECOVERY_ACTIONS = {
    "none": 0,
    "gpu_reset": 1,
    "node_reboot": 2,
    "drain_p2p": 3,
    "drain_and_reset": 4,
    "recover_imex_domain": 5,
    "bus_reset": 6,
    "system_reboot": 7,
}
P2P_STATES = {
    "ok": 0,
    "chipset_not_supported": 1,
    "gpu_not_supported": 2,
    "topology_not_supported": 3,
    "disabled_by_regkey": 4,
    "not_supported": 5,
    "unknown": 6,
}
TOPOLOGY = {"internal": 0, "single": 10, "multiple": 20, "hostbridge": 30, "node": 40, "system": 50}
EVENT_REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
# Two bits each, 1: true, 2: false, 0: not supported.
HEALTH_SHIFTS = {
    "degraded_bandwidth": 0,
    "route_recovery": 2,
    "route_unhealthy": 4,
    "access_timeout_recovery": 6,
    "partition_assigned": 12,
    "gfm_disconnected": 14,
}
INCORRECT_CONFIGURATIONS = {
    "not_supported": 0,
    "none": 1,
    "incorrect_sysguid": 2,
    "incorrect_chassis_sn": 3,
    "no_partition": 4,
    "insufficient_nvlinks": 5,
    "incompatible_gpu_fw": 6,
    "invalid_location": 7,
    "gpu_state_invalid": 8,
}

Description = dict[str, Any]
Convert = Callable[[Any], str]


def text(value: Any) -> str:
    """A text as it is; it is one line by nature."""
    result = str(value)
    if "\n" in result:
        raise ValueError(f"must be one line: {result!r}")
    return result


def integer(value: Any) -> str:
    """A whole number, or a truth as 1 or 0."""
    return str(int(value))


def one_of(names: Mapping[str, int]) -> Convert:
    """NVML's number for a name; numbers pass, so that a test can say what no table holds."""

    def convert(value: Any) -> str:
        if isinstance(value, int):
            return str(int(value))
        if str(value) not in names:
            raise ValueError(f"{value!r} is none of {', '.join(names)}")
        return str(names[str(value)])

    return convert


def event_reasons(value: int | Sequence[str]) -> str:
    """The mask of a list of reasons."""
    if isinstance(value, int):
        return str(value)
    return str(sum(int(one_of(EVENT_REASONS)(name)) for name in value))


def health_mask(value: int | Mapping[str, Any]) -> str:
    """The mask of a fabric's health: true is a problem (or a partition), false is none, missing is not known."""
    if isinstance(value, int):
        return str(value)
    mask = 0
    for name, state in value.items():
        if name == "incorrect_configuration":
            mask |= int(one_of(INCORRECT_CONFIGURATIONS)(state)) << 8
        elif name in HEALTH_SHIFTS:
            if state is None:
                continue
            # The connection to the global fabric manager counts the other way round: 1 is connected.
            bad, good = (2, 1) if name == "gfm_disconnected" else (1, 2)
            mask |= (bad if state else good) << HEALTH_SHIFTS[name]
        else:
            raise ValueError(f"{name!r} is no part of the health mask: {', '.join(HEALTH_SHIFTS)}")
    return str(mask)


def pci_id(value: Any) -> str:
    """Vendor and device, `10de:2330`."""
    vendor, dummy, device = str(value).partition(":")
    int(vendor, 16), int(device, 16)
    return str(value)


_ECC_LOCATIONS = ("l1_cache", "l2_cache", "device_memory", "register_file", "texture", "texture_shared", "cbu", "sram")
_ECC_COUNTS = [f"{kind}_{span}" for kind in ("corrected", "uncorrected") for span in ("volatile", "aggregate")]
_CLOCKS = ("graphics", "sm", "memory", "video")
_PROCESS_LISTS = ("compute_processes", "graphics_processes", "mps_processes")
_ATTRIBUTES = (
    "multiprocessors",
    "copy_engines",
    "decoders",
    "encoders",
    "jpeg_engines",
    "ofa_engines",
    "gpu_slices",
    "compute_slices",
)


def _processes(prefix: str) -> dict[str, Convert]:
    keys = ("pid", "used_bytes", "gpu_instance_id", "compute_instance_id")
    return {f"{prefix}{kind}.*.{key}": integer for kind in _PROCESS_LISTS for key in keys}


# Every key of a GPU, with what turns its value into what the library reads. `*` is a position in a list or any name.
GPU_KEYS: dict[str, Convert] = {
    "name": text,
    "brand": one_of(BRANDS),
    "uuid": text,
    "serial": text,
    "board_part_number": text,
    "vbios_version": text,
    "inforom_image_version": text,
    "minor_number": integer,
    "module_id": integer,
    "architecture": one_of(ARCHITECTURES),
    "compute_capability": text,
    "performance_state": integer,
    "persistence": integer,
    "compute_mode": one_of(COMPUTE_MODES),
    "display_active": integer,
    "virtualization_mode": one_of(VIRTUALIZATION_MODES),
    "pci.address": text,
    "pci.device": pci_id,
    "pci.subsystem": pci_id,
    "pci.class": text,
    "gsp.version": text,
    "gsp.enabled": integer,
    "gsp.default": integer,
    "memory.total_bytes": integer,
    "memory.reserved_bytes": integer,
    "memory.used_bytes": integer,
    "bar1.total_bytes": integer,
    "bar1.used_bytes": integer,
    "ecc.enabled": integer,
    "ecc.pending": integer,
    "ecc.default": integer,
    **{f"ecc.{count}": integer for count in _ECC_COUNTS},
    **{f"ecc.{count}_{location}": integer for count in _ECC_COUNTS for location in _ECC_LOCATIONS},
    "sram.threshold_exceeded": integer,
    **{
        f"sram.{span}_{kind}": integer
        for span in ("aggregate", "volatile")
        for kind in ("uncorrected_parity", "uncorrected_secded", "corrected")
    },
    "repair.channel_pending": integer,
    "repair.tpc_pending": integer,
    "remapped_rows.correctable": integer,
    "remapped_rows.uncorrectable": integer,
    "remapped_rows.pending": integer,
    "remapped_rows.failed": integer,
    **{f"remapped_rows.histogram.{name}": integer for name in ("max", "high", "partial", "low", "none")},
    "retired_pages.single_bit": integer,
    "retired_pages.double_bit": integer,
    "retired_pages.pending": integer,
    "power.limit_milliwatts": integer,
    "power.enforced_milliwatts": integer,
    "power.default_milliwatts": integer,
    "power.minimum_milliwatts": integer,
    "power.maximum_milliwatts": integer,
    "power.usage_milliwatts": integer,
    **{f"clocks.{name}_mhz": integer for name in _CLOCKS},
    **{f"clocks.maximum_{name}_mhz": integer for name in _CLOCKS},
    "clocks.event_reasons": event_reasons,
    "clocks.supported_event_reasons": event_reasons,
    "temperature.gpu_celsius": integer,
    "temperature.memory_celsius": integer,
    **{
        f"temperature.{name}_celsius": integer
        for name in (
            "shutdown",
            "slowdown",
            "memory_maximum",
            "gpu_maximum",
            "acoustic_minimum",
            "acoustic_current",
            "acoustic_maximum",
            "gps_current",
        )
    },
    # How far it is to the next threshold, and where the thresholds lie from the highest temperature of operation.
    "temperature.margin_celsius": integer,
    **{
        f"temperature.{name}_margin_celsius": integer
        for name in ("shutdown", "slowdown", "memory_maximum", "gpu_maximum")
    },
    "utilization.gpu_percent": integer,
    "utilization.memory_percent": integer,
    "pcie.generation": integer,
    "pcie.generation_maximum": integer,
    "pcie.generation_maximum_gpu": integer,
    "pcie.width": integer,
    "pcie.width_maximum": integer,
    "pcie.replay_count": integer,
    "pcie.speed_megatransfers": integer,
    "numa_node_id": integer,
    "cpu_affinity": text,
    "memory_affinity": text,
    "nvlinks.*.active": integer,
    "nvlinks.*.version": one_of(NVLINK_VERSIONS),
    "nvlinks.*.speed_megabytes": integer,
    "nvlinks.*.remote_type": one_of(NVLINK_REMOTES),
    "nvlinks.*.remote_pci_address": text,
    "nvlinks.*.remote_pci_device": pci_id,
    **{f"nvlinks.*.{name}_errors": integer for name in ("replay", "recovery", "crc_flit", "crc_data", "ecc_data")},
    "fabric.state": one_of(FABRIC_STATES),
    "fabric.status": one_of(ERRORS),
    "fabric.clique_id": integer,
    "fabric.cluster_uuid": text,
    "fabric.health": health_mask,
    "fabric.health_summary": one_of(FABRIC_SUMMARIES),
    "recovery_action": one_of(RECOVERY_ACTIONS),
    **_processes(""),
    "mig.enabled": integer,
    "mig.pending": integer,
    "mig.maximum": integer,
    "mig.instances.*.uuid": text,
    "mig.instances.*.name": text,
    "mig.instances.*.gpu_instance_id": integer,
    "mig.instances.*.compute_instance_id": integer,
    "mig.instances.*.memory.total_bytes": integer,
    "mig.instances.*.memory.reserved_bytes": integer,
    "mig.instances.*.memory.used_bytes": integer,
    **{f"mig.instances.*.attributes.{name}": integer for name in _ATTRIBUTES},
    **_processes("mig.instances.*."),
    # Any field value by its number, and by the number of a link or another scope.
    "field.*": integer,
    "field.*.*": integer,
    # handle: every way to get the GPU's handle; *: everything after it; else a function or `field.<number>`.
    "error.*": one_of(ERRORS),
    "error.field.*": one_of(ERRORS),
}
KEYS: dict[str, Convert] = {
    "driver.version": text,
    "driver.nvml_version": text,
    "driver.branch": text,
    "driver.cuda_version": lambda value: str(cuda_number(value)),
    # nvmlInit: what the start of the library answers; *: everything after it; else the name of a function.
    "error.*": one_of(ERRORS),
    "process_name.*": text,
    "absent": lambda value: ",".join(text(name) for name in value),
    **{f"p2p.*.{name}": one_of(P2P_STATES) for name in ("read", "write", "nvlink", "atomics", "pci")},
    "p2p.*.topology": one_of(TOPOLOGY),
    **{f"gpus.*.{key}": convert for key, convert in GPU_KEYS.items()},
}
# Mappings and lists that are one value.
_WHOLE = {"absent", "gpus.*.clocks.event_reasons", "gpus.*.clocks.supported_event_reasons", "gpus.*.fabric.health"}


def cuda_number(version: Any) -> int:
    """NVML's number of a CUDA version: 13.2 is 13020."""
    major, dummy, minor = str(version).partition(".")
    return 1000 * int(major) + 10 * int(minor or 0)


def _merge(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return copy.deepcopy(change)
    return {
        key: _merge(base[key], change[key]) if key in base and key in change else copy.deepcopy({**base, **change}[key])
        for key in {**base, **change}
    }


def _expand_nvlinks(gpu: Description) -> None:
    """`nvlink`, what all links of a GPU have in common, becomes the list `nvlinks`."""
    common = gpu.pop("nvlink", None)
    if common is None:
        return
    remotes = [address for address, links in common.pop("remotes", {}).items() for dummy in range(links)]
    count = common.pop("count", len(remotes))
    gpu["nvlinks"] = [
        {**common, **({"remote_pci_address": remotes[link]} if link < len(remotes) else {})} for link in range(count)
    ]


def _expand_p2p(rule: Description, gpus: Sequence[Description]) -> Description:
    """What all pairs have in common becomes one entry per pair, `0-1`; near is a pair on one node of memory."""
    rule = copy.deepcopy(rule)
    near = rule.pop("topology_near", None)
    far = rule.pop("topology_far", None)
    pairs = rule.pop("pairs", {})
    result: Description = {}
    for second in range(len(gpus)):
        for first in range(second):
            same = gpus[first].get("memory_affinity") == gpus[second].get("memory_affinity")
            name = f"{first}-{second}"
            result[name] = {**rule, "topology": near if same else far, **pairs.get(name, {})}
    return result


def load(name: str) -> Description:
    """Read a machine's description and write out what all of its GPUs, links and pairs have in common."""
    path = DESCRIPTIONS / f"{name}.yml"
    if not path.is_file():
        raise ValueError(f"no machine {name!r}; there are: {', '.join(machines())}")
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    common = raw.pop("gpu", {})
    gpus = [_merge(common, gpu) for gpu in raw.get("gpus", [])]
    for index, gpu in enumerate(gpus):
        gpu.setdefault("minor_number", index)
        _expand_nvlinks(gpu)
    raw["gpus"] = gpus
    raw["p2p"] = _expand_p2p(raw.get("p2p", {}), gpus)
    raw.setdefault("absent", [])
    raw.setdefault("error", {})
    result: Description = raw
    return result


def machines() -> list[str]:
    """The names that `load` knows."""
    return sorted(path.stem for path in DESCRIPTIONS.glob("*.yml"))


def _generic(path: str) -> str:
    """The path with `*` for every position in a list and every pair of GPUs."""
    return ".".join("*" if part.replace("-", "").isdigit() else part for part in path.split("."))


def _pattern_of(path: str) -> str | None:
    """The key in `KEYS` that a path is an instance of; names of functions and numbers of processes are free."""
    generic = _generic(path)
    if generic in KEYS:
        return generic
    free = generic.rpartition(".")[0] + ".*"
    return free if free in KEYS and free.split(".")[-2] in ("error", "process_name") else None


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    whole = _generic(path) in _WHOLE
    if isinstance(value, dict) and not whole:
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and not whole:
        for index, part in enumerate(value):
            yield from _leaves(part, f"{path}.{index}")
    elif value is not None:
        yield path, value


def absent_functions(description: Mapping[str, Any]) -> list[str]:
    """The functions that the described driver lacks: those that came later, and those that the description names."""
    branch = int(str(description["driver"]["version"]).partition(".")[0])
    newer = [name for name, since in FUNCTIONS_SINCE.items() if branch < since]
    return sorted({*newer, *description.get("absent", [])})


def flatten(description: Mapping[str, Any]) -> dict[str, str]:
    """The keys and values that the library reads."""
    driver = dict(description["driver"])
    version = str(driver["version"])
    branch = int(version.partition(".")[0])
    # The form is the real one (`r560_78`), the second number made up.
    driver.setdefault("branch", f"r{branch}_00")
    driver.setdefault("nvml_version", f"{cuda_number(driver['cuda_version']) // 1000}.{version}")
    result: dict[str, str] = {}
    for path, value in _leaves({**description, "driver": driver, "absent": absent_functions(description)}, ""):
        pattern = _pattern_of(path)
        if pattern is None:
            close = difflib.get_close_matches(_generic(path), KEYS, n=3)
            raise ValueError(f"unknown key {path!r} in the description; close ones: {', '.join(close) or 'none'}")
        try:
            converted = KEYS[pattern](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        path = path.replace("gpus.", "gpu.", 1) if path.startswith("gpus.") else path
        path = path[: -len("health")] + "health_mask" if path.endswith(".fabric.health") else path
        result[path] = converted.replace("{driver}", version)
    gpus = description.get("gpus", [])
    result["gpu_count"] = str(len(gpus))
    result["driver.fabric_info_version"] = "3" if branch >= FABRIC_INFO_V3_SINCE else "2"
    for field, since in FIELDS_SINCE.items():
        if branch < since:
            result[f"absent_field.{field}"] = "1"
    for index, gpu in enumerate(gpus):
        links = gpu.get("nvlinks")
        if links:
            result[f"gpu.{index}.nvlink_count"] = str(len(links))
            result[f"gpu.{index}.nvswitch_link_count"] = str(
                sum(link.get("remote_type") == "switch" for link in links if link.get("active"))
            )
            if links[0].get("speed_megabytes") is not None:
                result[f"gpu.{index}.nvlink_speed_megabytes"] = integer(links[0]["speed_megabytes"])
    return result


def write(description: Mapping[str, Any], path: str | Path) -> Path:
    """Write a description for the library; all of it is checked first."""
    lines = [f"{key}={value}\n" for key, value in sorted(flatten(description).items())]
    target = Path(path)
    target.write_text("".join(lines), encoding="utf-8")
    return target


def build(absent: Sequence[str] = ()) -> Path:
    """Return a folder that holds the library without the named functions, building it if the source is new."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    source = SOURCE.read_text(encoding="utf-8")
    unknown = [name for name in absent if name not in source and name not in FUNCTIONS_SINCE]
    if unknown:
        raise ValueError(f"the fake NVML has no function {', '.join(unknown)}, so it cannot be made absent")
    names = sorted(set(absent))
    digest = hashlib.sha256("\0".join([source, *FLAGS, *names]).encode()).hexdigest()[:16]
    folder = CACHE / digest
    if (folder / LIBRARY).is_file():
        return folder
    if compiler is None:
        raise RuntimeError("building the fake NVML takes a C compiler and libc's headers: apt install gcc libc6-dev")
    CACHE.mkdir(parents=True, exist_ok=True)
    # Several tests may build at once: each builds for itself, and the first to finish gives it its name.
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        work = Path(scratch) / "build"
        work.mkdir()
        script = Path(scratch) / "symbols.map"
        hidden = "".join(f"{name}; " for name in names)
        script.write_text(f"{{ global: nvml*; local: {hidden}*; }};\n", encoding="utf-8")
        command = [compiler, *FLAGS, f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script={script}"]
        done = subprocess.run(
            [*command, "-o", str(work / LIBRARY), str(SOURCE)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{compiler} cannot build {SOURCE.name}:\n{done.stdout}{done.stderr}")
        # If the folder is there now, somebody else was faster, with the same result.
        with contextlib.suppress(OSError):
            work.rename(folder)
    return folder


def environment(path: str | Path) -> dict[str, str]:
    """The environment variables that make programs find the library, and the library this written description."""
    absent: list[str] = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, dummy, value = line.partition("=")
        if key == "absent":
            absent = [name for name in value.split(",") if name]
    folders = [str(build(absent)), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"FAKE_NVML_DESCRIPTION": str(Path(path).resolve()), "LD_LIBRARY_PATH": ":".join(folders)}


def main() -> int:
    """Write one machine's description and print the environment for a shell."""
    if len(sys.argv) != 3:
        print(__doc__.rpartition("usage: ")[2].strip(), file=sys.stderr)
        print("machines:", ", ".join(machines()), file=sys.stderr)
        return 2
    path = write(load(sys.argv[1]), Path(sys.argv[2]) / f"{sys.argv[1]}.nvml")
    for name, value in environment(path).items():
        print(f"export {name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
