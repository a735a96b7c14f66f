# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says about its GPU driver without the driver's help: modules, packages, services, CDI, kernel log.

One process for each question, however many packages and services there are, and none where a file says the same.
"""

from __future__ import annotations

import json
import platform
import posixpath
import re
from collections.abc import Collection, Iterable
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import gpu_info_boot, pci
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import (
    Cdi,
    KernelModule,
    LoadedModule,
    Package,
    PciGpu,
    Platform,
    Service,
    XidEvent,
)
from ansible_collections.baremetal.llm.plugins.module_utils.host_readiness import parse_os_release
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

# The module's name with NVIDIA's and Ubuntu's packages, and those of Debian's `nvidia-driver` (see its modprobe.d).
MODULE_NAMES = ("nvidia", "nvidia-current-open", "nvidia-current")
_MODPROBE_FOLDERS = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/lib/modprobe.d")

# What dpkg is asked for, and which of its answers belong to the driver, the fabric, CUDA or the container toolkit.
_PACKAGE_PATTERNS = (
    "*nvidia*",
    "cuda-*",
    "libcuda1",
    "libcuda1:*",
    "libnvcuvid1",
    "libnvsdm*",
    "nvlsm*",
    "datacenter-gpu-manager*",
)
_PACKAGE = re.compile(
    r"""^(?:
        (?:lib)?nvidia-.+ | libnvidia\d.* | firmware-nvidia-.+ | xserver-xorg-video-nvidia.*
        | linux-(?:modules|objects|signatures)-nvidia-.+
        | cuda-(?:drivers|toolkit|compat|runtime|libraries).* | libcuda1 | libnvcuvid1
        | libnvsdm.* | nvlsm.* | datacenter-gpu-manager.*
    )$""",
    re.VERBOSE,
)
_PACKAGE_FIELDS = "${Package}\\t${Version}\\t${db:Status-Status}\\t${db:Status-Want}\\t${Architecture}\\n"

# Service, and the program whose version tells how old the process is.
_SERVICES = {
    "nvidia-persistenced": "nvidia-persistenced",
    "nvidia-fabricmanager": "nv-fabricmanager",
    "nvidia-imex": "nvidia-imex",
    "nvidia-cdi-refresh": "",
}
_SERVICE_PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,ControlGroup"
_UPGRADE_TIMER = "apt-daily-upgrade.timer"
_VERSION = re.compile(r"version(?:\s+is)?\s*:?\s+(\d+(?:\.\d+)+)", re.IGNORECASE)

_CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
_CUDA_HOME = "/usr/local/cuda"

_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F]+:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(\.[0-7])?\): (\d+), ?(.*)")
_LONGEST_MESSAGE = 300

# DKMS writes `name/version, kernel, arch: state` from version 3 on, before that `name, version, kernel, arch: state`;
# kernel and architecture are missing while nothing has been built. Words in brackets may follow.
_DKMS = re.compile(
    r"^(?P<name>[^\s,/]+)(?:/|, )(?P<version>[^\s,:]+)(?:, (?P<kernel>[^\s,]+), (?P<arch>[^\s,:]+))?: (?P<state>\w+)"
)
_DKMS_STATES = ("", "broken", "added", "built", "installed")
# Other modules of NVIDIA's that DKMS builds: GPUDirect Storage and RDMA. They have versions of their own.
_DKMS_OTHERS = ("nvidia-fs", "nvidia-peer-memory", "nvidia-peermem", "nvidia-p2p")

_MELLANOX = "0x15b3"
_NVSWITCH_CLASS = "0x0680"
_INFINIBAND_CLASS = "0x0207"
# GB200 and GB300 by their device number.
_MULTINODE_DEVICES = ("10de:2941", "10de:31c2", "10de:31c3")


def read_platform(system: System, pci_gpus: list[PciGpu], names: Iterable[str], next_boot_rule: str) -> Platform:
    """What the GPUs sit in. *names*: of the GPUs, by NVML."""
    release = parse_os_release(system.read("/etc/os-release") or system.read("/usr/lib/os-release") or "")
    return {
        "architecture": (system.read("/proc/sys/kernel/arch") or platform.machine()).strip(),
        "kernel": gpu_info_boot.running_kernel(system),
        "distribution": release.get("ID", "").lower(),
        "distribution_version": release.get("VERSION_ID", ""),
        "boot_id": (system.read("/proc/sys/kernel/random/boot_id") or "").strip(),
        # Says `none` and fails where there is none.
        "virtualisation": system.run(["systemd-detect-virt"]).stdout.strip(),
        "secure_boot": pci.read_secure_boot(system),
        "iommu": pci.read_iommu(system),
        "acs_redirecting_bridges": pci.read_acs_redirecting_bridges(system),
        "infiniband_modules": [name for name in ("ib_umad", "mlx5_core") if system.exists(f"/sys/module/{name}")],
        "fabric_generation": read_fabric_generation(system, pci_gpus, names),
        "automatic_upgrades": None,
        "next_boot_rule": next_boot_rule,
    }


def read_fabric_generation(system: System, pci_gpus: list[PciGpu], names: Iterable[str]) -> str:
    """What connects the GPUs, as far as hardware and drivers show it, with or without NVIDIA's driver."""
    multinode = any(gpu["pci_device"] in _MULTINODE_DEVICES for gpu in pci_gpus)
    if multinode or any(re.search(r"\bGB[23]00\b", name) for name in names):
        return "nvlink5_multinode"
    if system.list("/proc/driver/nvidia-nvswitch/devices"):
        return "nvswitch"
    if not pci_gpus:
        return "none"
    for address in system.list(pci.DEVICES):
        folder = f"{pci.DEVICES}/{address}"
        vendor = (system.read(f"{folder}/vendor") or "").strip()
        pci_class = (system.read(f"{folder}/class") or "").strip()
        if vendor == pci.NVIDIA and pci_class.startswith(_NVSWITCH_CLASS):
            return "nvswitch"
        # The switches of NVLink 5 are managed through ConnectX functions, which say so in their product data.
        managing = vendor == _MELLANOX and pci_class.startswith(_INFINIBAND_CLASS)
        if managing and b"SW_MNG" in (system.read_bytes(f"{folder}/vpd") or b""):
            return "nvlink5"
    return "none"


def read_loaded_module(system: System, pci_gpus: list[PciGpu]) -> LoadedModule:
    """The module in the running kernel, by what it says about itself."""
    text = system.read("/proc/driver/nvidia/version") or ""
    version = (system.read("/sys/module/nvidia/version") or "").strip()
    line = next((line for line in text.splitlines() if line.startswith("NVRM version:")), "")
    if not version:
        match = re.search(r"\s(\d+(?:\.\d+)+)\s", line + " ")
        version = match.group(1) if match else ""
    flavour = None
    if line:
        flavour = "open" if "Open Kernel Module" in line else "proprietary"
    elif version:
        # P: the licence is not one that the kernel knows as free.
        taint = system.read("/sys/module/nvidia/taint")
        flavour = None if taint is None else "proprietary" if "P" in taint else "open"
    rivals = {gpu["driver"].replace("-", "_") for gpu in pci_gpus} - {"", "nvidia"}
    if "nova_core" in rivals and system.exists("/sys/module/nova_drm"):
        rivals.add("nova_drm")
    return {
        "loaded": bool(line or version or system.exists("/sys/module/nvidia")),
        "version": version or None,
        "flavour": flavour,
        "rivals": sorted(rivals),
    }


def read_kernel_modules(system: System, kernels: list[str], next_boot: str, problems: list[str]) -> list[KernelModule]:
    """The NVIDIA module of each installed kernel, as it lies on disk."""
    running = gpu_info_boot.running_kernel(system)
    preferred = _configured_module(system)
    names = list(dict.fromkeys([*([preferred] if preferred else []), *MODULE_NAMES]))
    states = read_dkms(system, kernels, problems)
    modules: list[KernelModule] = []
    for kernel in kernels:
        found: dict[str, str] = {}
        # Without its folder modinfo would only complain: a running kernel in a container, or one that was removed.
        if system.exists(f"/lib/modules/{kernel}"):
            result = system.run(["modinfo", "-k", kernel, *names])
            if result.found:
                found = choose_module(parse_modinfo(result.stdout), names)
            else:
                problems.append(f"The module of kernel {kernel} could not be read: this host has no modinfo (kmod).")
        licence = found.get("license", "")
        modules.append(
            {
                "kernel": kernel,
                "running": kernel == running,
                "next_boot": kernel == next_boot,
                "version": found.get("version"),
                "flavour": None if not found else "proprietary" if licence == "NVIDIA" else "open",
                "path": found.get("filename"),
                "signer": found.get("signer"),
                "headers_installed": _has_headers(system, kernel),
                "dkms_state": None if states is None else states[kernel],
            }
        )
    return modules


def _configured_module(system: System) -> str:
    """The module that `modprobe nvidia` loads on Debian, where an alternative decides between several."""
    for folder in _MODPROBE_FOLDERS:
        for name in system.list(folder):
            text = (system.read(f"{folder}/{name}") or "") if name.endswith(".conf") else ""
            match = re.search(r"^\s*install\s+nvidia\s+.*modprobe\s+(?:-\S+\s+)*(nvidia[\w-]+)", text, re.MULTILINE)
            if match:
                return match.group(1)
    return ""


def parse_modinfo(text: str) -> list[dict[str, str]]:
    """The first value of each field, for each module in the output of modinfo."""
    modules: list[dict[str, str]] = []
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if not separator or key.startswith((" ", "\t")):
            continue
        if key == "filename":
            modules.append({})
        if modules:
            modules[-1].setdefault(key, value.strip())
    return modules


def choose_module(modules: list[dict[str, str]], names: list[str]) -> dict[str, str]:
    """The module that would be loaded: the first of *names* that is there."""

    def rank(module: dict[str, str]) -> int:
        name = posixpath.basename(module["filename"]).partition(".")[0].replace("_", "-")
        return names.index(name) if name in names else len(names)

    return min(modules, key=rank, default={})


def _has_headers(system: System, kernel: str) -> bool:
    # The link `build` names a folder of the host: it is not to be followed out of a root of its own.
    return system.exists(system.resolve(f"/lib/modules/{kernel}/build") + "/Makefile")


def read_dkms(system: System, kernels: Collection[str], problems: list[str]) -> dict[str, str] | None:
    """The state of the driver's module in DKMS for each kernel; `None` if there is no DKMS."""
    result = system.run(["dkms", "status"], timeout_seconds=30)
    if not result.found:
        return None
    if not result.ok:
        problems.append(f"dkms status failed: {_last_line(result.stderr) or f'code {result.code}'}")
    states, everywhere = parse_dkms(result.stdout)
    return {kernel: states.get(kernel, everywhere) for kernel in kernels}


def parse_dkms(text: str) -> tuple[dict[str, str], str]:
    """The furthest state for each kernel, and the state of what has been built for no kernel at all."""
    states: dict[str, str] = {}
    everywhere = ""
    for line in text.splitlines():
        match = _DKMS.match(line.strip())
        if match is None or not re.match(r"nvidia(-|$)", match["name"]) or match["name"] in _DKMS_OTHERS:
            continue
        state = match["state"]
        if state not in _DKMS_STATES:
            continue
        if match["kernel"] is None:
            everywhere = max(everywhere, state, key=_DKMS_STATES.index)
        else:
            states[match["kernel"]] = max(states.get(match["kernel"], ""), state, key=_DKMS_STATES.index)
    return states, everywhere


def read_packages(system: System, problems: list[str]) -> list[Package]:
    """The packages of the driver, the fabric, CUDA and the container toolkit, also half installed ones."""
    # Fails when a pattern matches nothing, and prints what the others match all the same.
    result = system.run(["dpkg-query", "--show", f"--showformat={_PACKAGE_FIELDS}", *_PACKAGE_PATTERNS])
    if not result.found:
        problems.append("Packages could not be read: this host has no dpkg-query.")
        return []
    return parse_packages(result.stdout)


def parse_packages(text: str) -> list[Package]:
    packages: dict[tuple[str, str], Package] = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) != 5 or fields[2] == "not-installed" or not _PACKAGE.match(fields[0]):
            continue
        name, version, state, want, architecture = fields
        packages[name, architecture] = {
            "name": name,
            "version": version,
            "state": state,
            "held": want == "hold",
            "architecture": architecture,
        }
    return [packages[key] for key in sorted(packages)]


def read_services(system: System, problems: list[str]) -> tuple[list[Service], dict[str, str]]:
    """The driver's services, and what systemd says about the timer of automatic upgrades."""
    units = [f"{name}.service" for name in _SERVICES]
    result = system.run(["systemctl", "show", f"--property={_SERVICE_PROPERTIES}", *units, _UPGRADE_TIMER])
    if not result.ok:
        reason = "this host has no systemctl" if not result.found else _last_line(result.stderr)
        problems.append(f"Services could not be read: {reason.rstrip('.')}.")
        return [], {}
    shown = {unit.get("Id", ""): unit for unit in parse_units(result.stdout)}
    services: list[Service] = []
    for name, program in _SERVICES.items():
        unit = shown.get(f"{name}.service")
        if unit is None:
            continue
        services.append(
            {
                "name": name,
                "load_state": unit.get("LoadState", ""),
                "active_state": unit.get("ActiveState", ""),
                "sub_state": unit.get("SubState", ""),
                "unit_file_state": unit.get("UnitFileState", ""),
                "running_version": _running_version(system, unit, program) if program else None,
                "restarts": int(unit["NRestarts"]) if unit.get("NRestarts", "").isdigit() else 0,
            }
        )
    return services, shown.get(_UPGRADE_TIMER, {})


def parse_units(text: str) -> list[dict[str, str]]:
    """The units in the output of `systemctl show`, which separates them by an empty line."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return [dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line) for block in blocks if block]


def _running_version(system: System, unit: dict[str, str], program: str) -> str | None:
    """The version of the process itself, which may be older than the file on disk.

    The kernel keeps a running program even after an upgrade has replaced its file: /proc/<pid>/exe is that program.
    """
    pid = unit.get("MainPID", "0")
    group = unit.get("ControlGroup", "")
    members: list[str] = []
    if group:
        for tree in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd"):
            members.extend((system.read(f"{tree}{group}/cgroup.procs") or "").split())
    # A start script may be the unit's main process, or a helper run beside the program.
    for candidate in dict.fromkeys([pid, *members]):
        executable = system.readlink(f"/proc/{candidate}/exe") or ""
        if posixpath.basename(executable.replace(" (deleted)", "")) == program:
            result = system.run([f"/proc/{candidate}/exe", "--version"], timeout_seconds=5)
            match = _VERSION.search(result.stdout + result.stderr)
            return match.group(1) if match else None
    return None


def read_automatic_upgrades(system: System, timer: dict[str, str]) -> bool | None:
    """Whether apt upgrades packages by itself: its setting, and the timer that acts on it."""
    result = system.run(["apt-config", "dump", "APT::Periodic::Unattended-Upgrade"])
    if not result.found:
        return None
    match = re.search(r'^APT::Periodic::Unattended-Upgrade "([^"]*)";', result.stdout, re.MULTILINE)
    wanted = match is not None and match.group(1) not in ("", "0")
    program = any(system.exists(f"/usr/bin/{name}") for name in ("unattended-upgrade", "unattended-upgrades"))
    # Without word of the timer, it is taken to be there as apt brings it.
    stopped = timer.get("LoadState") in ("masked", "not-found") or (
        timer.get("ActiveState") == "inactive" and timer.get("UnitFileState") in ("disabled", "masked")
    )
    return wanted and program and not stopped


def read_cdi(system: System) -> list[Cdi]:
    """The CDI specifications for NVIDIA's GPUs."""
    specifications: list[Cdi] = []
    for folder in _CDI_FOLDERS:
        for name in system.list(folder):
            path = f"{folder}/{name}"
            text = system.read(path) if name.endswith((".yaml", ".yml", ".json")) else None
            if text is None or not re.search(r"""["']?kind["']?\s*:\s*["']?nvidia\.com/gpu""", text):
                continue
            version = re.search(r"lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)*)", text)
            specifications.append(
                {
                    "path": path,
                    "modified_at": system.modified_at(path) or 0.0,
                    "driver_version": version.group(1) if version else None,
                    "devices": cdi_devices(text),
                }
            )
    return specifications


def cdi_devices(text: str) -> list[str]:
    """The names of the devices in a specification.

    A line is looked at, not a document: a host need not have PyYAML, which takes longer for this than all else here.
    """
    if text.lstrip().startswith("{"):
        try:
            devices = json.loads(text).get("devices", [])
        except ValueError:
            return []
        return [str(device.get("name", "")) for device in devices]
    names: list[str] = []
    indent: int | None = None
    inside = False
    for line in text.splitlines():
        if re.match(r"\w", line):
            inside, indent = line.startswith("devices:"), None
            continue
        item = re.match(r"(\s*)-(\s+)\S", line) if inside else None
        if item and indent is None:
            indent = len(item.group(1))
        if not inside or indent is None:
            continue
        name = re.match(r"(\s*)(-\s+)?name:\s*[\"']?([^\"'\s]+)", line)
        # Of the item itself, not of something deeper in it.
        if name and len(name.group(1)) + len(name.group(2) or "") == indent + 2:
            names.append(name.group(3))
    return names


def read_cuda_toolkit_version(system: System) -> str:
    text = system.read(f"{_CUDA_HOME}/version.json")
    if text is not None:
        try:
            return str(json.loads(text)["cuda"]["version"])
        except (ValueError, KeyError, TypeError):
            return ""
    match = re.search(r"CUDA Version (\S+)", system.read(f"{_CUDA_HOME}/version.txt") or "")
    return match.group(1) if match else ""


def read_xid_events(system: System, problems: list[str]) -> list[XidEvent] | None:
    """The driver's errors in the kernel log since the host booted: by the journal, else by the kernel's own buffer."""
    argv = ["journalctl", "--dmesg", "--boot", "--no-pager", "--output=json", "--grep=NVRM: Xid"]
    result = system.run([*argv, "--output-fields=MESSAGE,_SOURCE_MONOTONIC_TIMESTAMP"], timeout_seconds=30)
    # It ends with 1 when nothing matches, and when there is no journal or no support for patterns: then it says so.
    if result.found and (result.ok or (result.code == 1 and not result.stderr.strip())):
        return group_xid_events(parse_journal(result.stdout))
    reason = (
        "no journalctl" if not result.found else _last_line(result.stderr) or f"journalctl ended with {result.code}"
    )
    buffer = system.run(["dmesg"])
    if buffer.ok:
        return group_xid_events(parse_dmesg(buffer.stdout))
    problems.append(f"The kernel log could not be read: {reason}; {_last_line(buffer.stderr) or 'no dmesg'}.")
    return None


def parse_journal(text: str) -> list[tuple[float, str]]:
    """Seconds since boot and text of each message in the journal's JSON lines."""
    messages = []
    for line in text.splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        message = entry.get("MESSAGE") or ""
        if isinstance(message, list):  # how the journal writes what is no text
            message = bytes(message).decode("utf-8", "replace")
        stamp = entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry.get("__MONOTONIC_TIMESTAMP") or 0
        messages.append((int(stamp) / 1e6, str(message)))
    return messages


def parse_dmesg(text: str) -> list[tuple[float, str]]:
    """Seconds since boot and text of each line of dmesg."""
    lines = (re.match(r"\[\s*(\d+\.\d+)\]\s(.*)", line) for line in text.splitlines())
    return [(float(line.group(1)), line.group(2)) for line in lines if line]


def group_xid_events(messages: Iterable[tuple[float, str]]) -> list[XidEvent]:
    """One event for each number and GPU, with the text of the last one."""
    events: dict[tuple[str, int], XidEvent] = {}
    for seconds, message in messages:
        match = _XID.search(message)
        if match is None:
            continue
        address = f"{int(match.group(1).split(':')[0], 16):04x}:{match.group(1).partition(':')[2].lower()}"
        address += match.group(2) or ".0"
        number = int(match.group(3))
        count = events[address, number]["count"] if (address, number) in events else 0
        events[address, number] = {
            "xid": number,
            "pci_address": address,
            "count": count + 1,
            "last_seen_seconds": round(seconds, 6),
            "message": match.group(4).strip()[:_LONGEST_MESSAGE],
        }
    return [events[key] for key in sorted(events)]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
