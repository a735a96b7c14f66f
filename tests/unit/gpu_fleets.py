# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Healthy hosts as `gpu_info` describes them, and everything that can be wrong with them.

`machine` makes the facts of a healthy host of a kind, `FAULTS` is the table of seeded faults: each changes healthy
hosts in one way and names the one code that it must give.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

DRIVER = "580.178.04"
NEWER = "580.200.01"
OLDER = "580.190.00"
KERNEL = "6.8.0-90-generic"
NEXT_KERNEL = "6.8.0-94-generic"
TOOLKIT = "1.20.0"
GIB = 1024**3
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)

DRIVER_PACKAGES = (
    "nvidia-headless",
    "nvidia-dkms",
    "nvidia-kernel",
    "nvidia-utils",
    "libnvidia-compute",
    "libnvidia-cfg1",
)

# name, PCI device, architecture, compute capability, GPUs, memory, VBIOS, NVLinks, PCIe, ECC, watts, fabric
MACHINES: dict[str, tuple[Any, ...]] = {
    "h100_sxm_8": (
        "NVIDIA H100 80GB HBM3", "10de:2330", "hopper", "9.0", 8, 80, "96.00.BC.00.01", 18, (5, 16), True, 700.0,
        "nvswitch",
    ),
    "b200_8": (
        "NVIDIA B200", "10de:2901", "blackwell", "10.0", 8, 180, "97.00.88.00.0F", 18, (5, 16), True, 1000.0, "nvlink5",
    ),
    "l40s_4": ("NVIDIA L40S", "10de:26b9", "ada", "8.9", 4, 45, "95.02.66.00.02", 0, (4, 16), True, 350.0, "none"),
    "rtx4090_2": (
        "NVIDIA GeForce RTX 4090", "10de:2684", "ada", "8.9", 2, 24, "95.02.3C.00.8C", 0, (4, 16), False, 450.0, "none",
    ),
    "a100_mig_4": (
        "NVIDIA A100-SXM4-40GB", "10de:20b0", "ampere", "8.0", 4, 40, "92.00.19.00.01", 12, (4, 16), True, 400.0,
        "none",
    ),
    "t4_1": ("Tesla T4", "10de:1eb8", "turing", "7.5", 1, 15, "90.04.38.00.03", 0, (3, 16), True, 70.0, "none"),
}  # fmt: skip


def gpu(kind: str, index: int) -> dict[str, Any]:
    name, device, architecture, capability, dummy, memory, vbios, links, pcie, ecc, watts, fabric = MACHINES[kind]
    switched = fabric != "none"
    mig = kind == "a100_mig_4"
    newer = architecture not in ("turing",)
    return {
        "index": index,
        "uuid": f"GPU-{index:08x}-0000-0000-0000-000000000000",
        "pci_address": f"0000:{0x1B + index * 0x11:02x}:00.0",
        "pci_device": device,
        "pci_subsystem": "10de:16c1",
        "name": name,
        "serial": f"165302300{index}",
        "architecture": architecture,
        "compute_capability": capability,
        "memory_total_bytes": memory * GIB,
        "memory_used_bytes": GIB,
        "vbios_version": vbios,
        "gsp_firmware_version": DRIVER,
        "gsp_firmware_enabled": True,
        "ecc": {
            "enabled": ecc,
            "enabled_after_reboot": ecc,
            "corrected_volatile": 0 if ecc else None,
            "uncorrected_volatile": 0 if ecc else None,
            "corrected_aggregate": 3 if ecc else None,
            "uncorrected_aggregate": 0 if ecc else None,
        },
        "remapped_rows": {"correctable": 0, "uncorrectable": 0, "pending": False, "failed": False} if newer else None,
        "retired_pages": None if newer else {"single_bit": 0, "double_bit": 0, "pending": False},
        "mig": {
            "enabled": mig if architecture in ("ampere", "hopper", "blackwell") else None,
            "enabled_after_reset": mig if architecture in ("ampere", "hopper", "blackwell") else None,
            "instances": [
                {"index": part, "uuid": f"MIG-{index}-{part}", "profile": "3g.20gb", "memory_bytes": 20 * GIB}
                for part in range(2 if mig else 0)
            ],
        },
        "persistence": True,
        "compute_mode": "default",
        "power_limit_watts": watts,
        "power_limit_default_watts": watts,
        "power_limit_minimum_watts": watts / 2,
        "power_limit_maximum_watts": watts,
        "power_usage_watts": 70.5,
        "clocks_event_reasons": ["gpu_idle"],
        "temperature_celsius": 31,
        "temperature_slowdown_celsius": 87,
        # Asleep: the link is slow, and as wide as ever.
        "pcie": {
            "generation": 1,
            "width": pcie[1],
            "generation_possible": pcie[0],
            "width_possible": pcie[1],
            "replay_count": 0,
        },
        "nvlinks": [
            {"link": link, "active": True, "version": 4, "remote_pci_address": "0000:05:00.0"} for link in range(links)
        ],
        "fabric": {"state": "completed", "status": 0, "clique_id": 0, "cluster_uuid": None, "health": []}
        if switched
        else None,
        "numa_node": index // 4,
        "cpu_affinity": "0-47",
        "recovery_action": "none",
        "compute_processes": 0,
    }


def package(name: str, version: str, held: bool = True) -> dict[str, Any]:
    return {"name": name, "version": version, "state": "installed", "held": held, "architecture": "amd64"}


def service(name: str, running_version: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "load_state": "loaded",
        "active_state": "active",
        "sub_state": "running",
        "unit_file_state": "enabled",
        "running_version": running_version,
        "restarts": 0,
    }


def kernel_module(kernel: str, running: bool, next_boot: bool) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "running": running,
        "next_boot": next_boot,
        "version": DRIVER,
        "flavour": "open",
        "path": f"/lib/modules/{kernel}/updates/dkms/nvidia.ko.zst",
        "signer": "host Secure Boot Module Signature key",
        "headers_installed": True,
        "dkms_state": "installed",
    }


def machine(kind: str) -> dict[str, Any]:
    """The facts of a healthy host."""
    generation = MACHINES[kind][-1]
    gpus = [gpu(kind, index) for index in range(MACHINES[kind][4])]
    own = "580.178.04-0ubuntu0.24.04.1"
    packages = [
        package(name, own)
        for name in (
            "nvidia-headless-no-dkms-580-server-open",
            "nvidia-dkms-580-server-open",
            "nvidia-kernel-source-580-server-open",
            "nvidia-utils-580-server",
            "libnvidia-compute-580-server",
            "libnvidia-cfg1-580-server",
        )
    ]
    packages += [package(name, f"{TOOLKIT}-1") for name in TOOLKIT_PACKAGES]
    services = [service("nvidia-persistenced", DRIVER), service("nvidia-cdi-refresh", None)]
    if generation != "none":
        packages += [package("nvidia-fabricmanager", f"{DRIVER}-1"), package("libnvidia-nscq", f"{DRIVER}-1")]
        services.append(service("nvidia-fabricmanager", DRIVER))
    if generation == "nvlink5":
        packages += [package("libnvsdm", f"{DRIVER}-1"), package("nvlsm", "2025.10.11-1")]
    return {
        "format_version": 1,
        "collected_at": "2026-11-20T16:00:00Z",
        "platform": {
            "architecture": "x86_64",
            "kernel": KERNEL,
            "distribution": "ubuntu",
            "distribution_version": "24.04",
            "boot_id": "6c0b",
            "virtualisation": "none",
            "secure_boot": True,
            "iommu": "passthrough",
            "acs_redirecting_bridges": [],
            "infiniband_modules": ["ib_umad", "mlx5_core"] if generation == "nvlink5" else [],
            "fabric_generation": generation,
            "automatic_upgrades": False,
            "next_boot_rule": "grub",
        },
        "nvml": {
            "error": "",
            "binding_version": "13.615.71",
            "library_version": f"13.{DRIVER}",
            "driver_version": DRIVER,
            "cuda_version": "13.0",
            "not_supported": [],
        },
        "gpus": gpus,
        "lost_gpus": [],
        "p2p": [
            {
                "first": first,
                "second": second,
                "read": "chipset_not_supported" if kind == "rtx4090_2" else "ok",
                "write": "chipset_not_supported" if kind == "rtx4090_2" else "ok",
                "nvlink": "ok" if generation != "none" else "not_supported",
                "topology": "node" if first // 4 == second // 4 else "system",
            }
            for first in range(len(gpus))
            for second in range(first + 1, len(gpus))
        ],
        "pci_gpus": [
            {
                "pci_address": item["pci_address"],
                "pci_device": item["pci_device"],
                "pci_class": "0x030200",
                "driver": "nvidia",
            }
            for item in gpus
        ],
        "loaded_module": {"loaded": True, "version": DRIVER, "flavour": "open", "rivals": []},
        "kernel_modules": [kernel_module(KERNEL, True, True)],
        "packages": packages,
        "services": services,
        "cdi": [
            {
                "path": "/var/run/cdi/nvidia.yaml",
                "modified_at": 1763650000.0,
                "driver_version": DRIVER,
                "devices": [*(str(item["index"]) for item in gpus), "all"],
            }
        ],
        "cuda_toolkit_version": "",
        "xid_events": [],
        "problems": [],
    }


Fleet = dict[str, Any]
VLLM = {"engine": "vllm", "version": "0.33.0", "gpus": 1, "memory_bytes": 10 * GIB}


@dataclass(frozen=True)
class Fault:
    """Something wrong with a fleet of healthy hosts `h1`, `h2`, `h3`, and the code that it must give."""

    name: str
    code: str
    # Changes the facts of a host, or of the fleet.
    change: Callable[[Any], None]
    kind: str = "h100_sxm_8"
    # On how many hosts the fault is; the others stay healthy. 0: *change* takes the whole fleet.
    hosts: int = 1
    of: int = 3
    wanted: dict[str, Any] = field(default_factory=dict)
    # Hosts with a finding; the first ones by default.
    found_on: tuple[str, ...] = ()
    lock: dict[str, Any] | None = None


def fleet(kind: str, count: int) -> Fleet:
    facts = machine(kind)
    return {f"h{number}": copy.deepcopy(facts) for number in range(1, count + 1)}


def seeded(fault: Fault) -> Fleet:
    hosts = fleet(fault.kind, fault.of)
    if not fault.hosts:
        fault.change(hosts)
    for name in list(hosts)[: fault.hosts]:
        fault.change(hosts[name])
    return hosts


# Small words for changes -----------------------------------------------------------------------------------------


def put(*path: Any) -> Callable[[Any], None]:
    """Set what lies at the path of all arguments but the last; `*` stands for every element of a list."""
    *keys, last, value = path

    def change(facts: Any, keys: Any = tuple(keys)) -> None:
        for position, key in enumerate(keys):
            if key == "*":
                for element in facts:
                    change(element, keys[position + 1 :])
                return
            facts = facts[key]
        facts[last] = copy.deepcopy(value)

    return change


def both(*changes: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        for one in changes:
            one(facts)

    return change


def on_gpu(index: int, *path: Any) -> Callable[[Any], None]:
    return put("gpus", index, *path)


def packages(prefix: str, **values: Any) -> Callable[[Any], None]:
    """Change the packages whose name begins like that."""

    def change(facts: Any) -> None:
        chosen = [item for item in facts["packages"] if item["name"].startswith(prefix)]
        assert chosen, prefix
        for item in chosen:
            item.update(values)

    return change


def without_packages(*prefixes: str) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        before = len(facts["packages"])
        facts["packages"] = [item for item in facts["packages"] if not item["name"].startswith(prefixes)]
        assert len(facts["packages"]) < before, prefixes

    return change


def a_service(name: str, **values: Any) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        next(item for item in facts["services"] if item["name"] == name).update(values)

    return change


def xid(number: int, index: int = 2) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        facts["xid_events"].append(
            {
                "xid": number,
                "pci_address": facts["gpus"][index]["pci_address"],
                "count": 2,
                "last_seen_seconds": 4000.0,
                "message": "NVRM: Xid",
            }
        )

    return change


def no_driver(error: str) -> Callable[[Any], None]:
    """What everything looks like without a driver in the kernel: NVML says so, and knows of no GPU."""
    return both(
        put("nvml", "error", error),
        put("nvml", "driver_version", None),
        put("nvml", "cuda_version", None),
        put("gpus", []),
        put("p2p", []),
        put("loaded_module", {"loaded": False, "version": None, "flavour": None, "rivals": []}),
        put("pci_gpus", "*", "driver", ""),
        fabric_down,
    )


def fabric_down(facts: Any) -> None:
    """A dead fabric manager, and what follows from it on each GPU."""
    for item in facts["services"]:
        if item["name"] == "nvidia-fabricmanager":
            item.update(active_state="failed", sub_state="failed", running_version=None)
            for one in facts["gpus"]:
                one["fabric"].update(state="not_started")
            put("p2p", "*", "read", "topology_not_supported")(facts)


def driver_of(version: str) -> Callable[[Any], None]:
    """The whole host at another version of the driver, everything in order."""

    def change(facts: Any) -> None:
        for item in facts["packages"]:
            item["version"] = item["version"].replace(DRIVER, version)
        for one in facts["gpus"]:
            one["gsp_firmware_version"] = version
        facts["nvml"].update(driver_version=version, library_version=f"13.{version}")
        facts["loaded_module"]["version"] = version
        for module in facts["kernel_modules"]:
            module["version"] = version
        for item in facts["services"]:
            if item["running_version"]:
                item["running_version"] = version
        facts["cdi"][0]["driver_version"] = version

    return change


def upgraded(facts: Any) -> None:
    """apt moved the whole driver, and the host was not rebooted."""
    driver_of(NEWER)(facts)
    facts["loaded_module"]["version"] = DRIVER
    for one in facts["gpus"]:
        one["gsp_firmware_version"] = DRIVER
    facts["nvml"].update(error="LIB_RM_VERSION_MISMATCH", driver_version=None, cuda_version=None)
    facts["gpus"], facts["p2p"] = [], []
    facts["cdi"][0]["driver_version"] = DRIVER
    fabric_down(facts)


def half_upgraded(facts: Any) -> None:
    """The libraries moved, the module's source did not."""
    packages("libnvidia-compute", version=f"{NEWER}-0ubuntu0.24.04.1")(facts)
    packages("nvidia-utils", version=f"{NEWER}-0ubuntu0.24.04.1")(facts)
    facts["nvml"].update(
        error="LIB_RM_VERSION_MISMATCH", driver_version=None, cuda_version=None, library_version=f"13.{NEWER}"
    )
    facts["gpus"], facts["p2p"] = [], []


def new_kernel(**values: Any) -> Callable[[Any], None]:
    """Another kernel was installed and boots next."""

    def change(facts: Any) -> None:
        facts["kernel_modules"][0]["next_boot"] = False
        facts["kernel_modules"].append({**kernel_module(NEXT_KERNEL, False, True), **values})

    return change


def booted_new_kernel(facts: Any) -> None:
    """The host runs a kernel for which nothing was built."""
    no_driver("DRIVER_NOT_LOADED")(facts)
    facts["platform"]["kernel"] = NEXT_KERNEL
    facts["kernel_modules"][0].update(running=False, next_boot=False)
    facts["kernel_modules"].append(
        {**kernel_module(NEXT_KERNEL, True, True), **NO_MODULE, "dkms_state": None, "headers_installed": True}
    )
    facts["kernel_modules"][0]["dkms_state"] = None


NO_MODULE: dict[str, Any] = {"version": None, "flavour": None, "path": None, "signer": None}


def lost(index: int) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        gone = facts["gpus"].pop(index)
        facts["lost_gpus"].append({"index": index, "pci_address": gone["pci_address"], "error": "GPU_IS_LOST"})
        facts["p2p"] = [pair for pair in facts["p2p"] if index not in (pair["first"], pair["second"])]
        for one in facts["gpus"]:
            if one["nvlinks"]:
                one["nvlinks"][0]["active"] = False
        facts["xid_events"].append(
            {"xid": 79, "pci_address": gone["pci_address"], "count": 1, "last_seen_seconds": 9.0, "message": ""}
        )

    return change


def absent(index: int) -> Callable[[Any], None]:
    """The GPU is not even on the bus."""

    def change(facts: Any) -> None:
        gone = facts["gpus"].pop(index)
        facts["pci_gpus"] = [item for item in facts["pci_gpus"] if item["pci_address"] != gone["pci_address"]]
        facts["p2p"] = [pair for pair in facts["p2p"] if index not in (pair["first"], pair["second"])]

    return change


def not_offered(index: int) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        facts["gpus"].pop(index)
        facts["p2p"] = [pair for pair in facts["p2p"] if index not in (pair["first"], pair["second"])]

    return change


def volta(facts: Any) -> None:
    """GPUs that the open module does not drive."""
    no_driver("DRIVER_NOT_LOADED")(facts)
    for item in facts["pci_gpus"]:
        item["pci_device"] = "10de:1db6"


def proprietary(facts: Any) -> None:
    facts["loaded_module"]["flavour"] = "proprietary"
    for module in facts["kernel_modules"]:
        module["flavour"] = "proprietary"


def bad_memory(**rows: Any) -> Callable[[Any], None]:
    """A row that went bad shows in the counters, in the log and in the recovery action as well."""

    def change(facts: Any) -> None:
        facts["gpus"][3]["remapped_rows"].update(rows)
        facts["gpus"][3]["ecc"].update(uncorrected_volatile=1, uncorrected_aggregate=1)
        facts["gpus"][3]["recovery_action"] = "drain_and_reset"
        for number in (48, 63, 94):
            xid(number, 3)(facts)

    return change


def _first_link_down(facts: Any) -> None:
    facts["gpus"][1]["nvlinks"][5]["active"] = False
    xid(74, 1)(facts)
    for pair in facts["p2p"]:
        if 1 in (pair["first"], pair["second"]):
            pair.update(read="topology_not_supported")


def _p2p_of_three(facts: Any) -> None:
    for pair in facts["p2p"]:
        if 3 in (pair["first"], pair["second"]):
            pair.update(read="topology_not_supported", write="topology_not_supported")


def _old_toolkit(facts: Any) -> None:
    for name in TOOLKIT_PACKAGES:
        packages(name, version="1.18.0-1")(facts)


def _multinode(facts: Any) -> None:
    """A compute tray of a GB200."""
    facts["platform"].update(fabric_generation="nvlink5_multinode", architecture="aarch64", infiniband_modules=[])
    facts["packages"] = [
        item for item in facts["packages"] if not item["name"].startswith(("nvidia-fabricmanager", "nvlsm", "libnvsdm"))
    ]
    facts["packages"].append(package("nvidia-imex", f"{DRIVER}-1"))
    facts["services"] = [item for item in facts["services"] if item["name"] != "nvidia-fabricmanager"]
    facts["services"].append(service("nvidia-imex", DRIVER))


def imex(**values: Any) -> Callable[[Any], None]:
    return both(_multinode, a_service("nvidia-imex", **values))


def _fabric_restarting(facts: Any) -> None:
    fabric_down(facts)
    a_service("nvidia-fabricmanager", active_state="activating", sub_state="auto-restart", restarts=7)(facts)


def _all_new_but_utils(facts: Any) -> None:
    """Everything was upgraded except one package, and the host was not rebooted."""
    upgraded(facts)
    packages("nvidia-utils", version=f"{DRIVER}-0ubuntu0.24.04.1")(facts)


def _small_hosts_upgraded(hosts: Any) -> None:
    """All but one host moved to a branch that compiles a newer CUDA."""
    for name, facts in hosts.items():
        if name != "h1":
            driver_of("595.91.07")(facts)


MODULE_GONE = {**NO_MODULE, "dkms_state": None}

FAULTS: tuple[Fault, ...] = (
    # Whether there is anything to judge
    Fault("no answer", "host-without-answer", lambda hosts: hosts.update(h2=None), hosts=0, found_on=("h2",)),
    Fault("facts of the future", "host-without-answer", put("format_version", 99)),
    Fault(
        "no GPU at all",
        "gpu-none",
        both(no_driver("DRIVER_NOT_LOADED"), put("pci_gpus", []), put("platform", "fabric_generation", "none")),
    ),
    Fault("something unreadable", "facts-incomplete", put("problems", ["The kernel log could not be read."])),
    # Driver and kernel modules
    Fault(
        "no driver",
        "driver-missing",
        both(
            no_driver("LIBRARY_NOT_FOUND"),
            put("nvml", "library_version", None),
            put("kernel_modules", 0, {**kernel_module(KERNEL, True, True), **NO_MODULE, "dkms_state": None}),
            put("packages", []),
            put("cdi", []),
        ),
        kind="l40s_4",
    ),
    Fault(
        "nouveau took the GPUs",
        "other-driver-owns-gpu",
        both(
            no_driver("DRIVER_NOT_LOADED"),
            put("loaded_module", "rivals", ["nouveau"]),
            put("pci_gpus", "*", "driver", "nouveau"),
        ),
        kind="l40s_4",
    ),
    Fault(
        "nova took one GPU",
        "other-driver-owns-gpu",
        both(
            not_offered(1),
            put("loaded_module", "rivals", ["nova_core"]),
            put("pci_gpus", 1, "driver", "nova_core"),
        ),
        kind="l40s_4",
    ),
    Fault("module not loaded", "module-not-loaded", no_driver("DRIVER_NOT_LOADED")),
    Fault("booted a kernel without module", "module-missing", booted_new_kernel),
    Fault("next kernel without module", "next-boot-module-missing", new_kernel(**MODULE_GONE)),
    Fault("module gone from disk", "next-boot-module-missing", put("kernel_modules", 0, "version", None)),
    Fault("next kernel with another module", "next-boot-module-differs", new_kernel(version="580.95.05")),
    Fault(
        "kernel update without headers",
        "headers-missing",
        new_kernel(**NO_MODULE, headers_installed=False, dkms_state=""),
    ),
    Fault(
        "booted a kernel without headers",
        "headers-missing",
        both(
            booted_new_kernel,
            put("kernel_modules", 0, "dkms_state", "installed"),
            put("kernel_modules", 1, "dkms_state", ""),
            put("kernel_modules", 1, "headers_installed", False),
        ),
    ),
    Fault("DKMS build failed", "dkms-not-installed", new_kernel(**NO_MODULE, dkms_state="added")),
    Fault("DKMS built, not installed", "dkms-not-installed", new_kernel(**NO_MODULE, dkms_state="built")),
    Fault("another kernel waits", "kernel-reboot-pending", new_kernel()),
    Fault("proprietary module on Blackwell", "open-module-required", proprietary, kind="b200_8"),
    Fault(
        "proprietary module on Blackwell, nothing loaded",
        "open-module-required",
        both(proprietary, no_driver("DRIVER_NOT_LOADED")),
        kind="b200_8",
    ),
    Fault(
        "proprietary module on Grace Hopper",
        "open-module-required",
        both(proprietary, put("platform", "architecture", "aarch64")),
        of=1,
    ),
    Fault("open module on Volta", "proprietary-module-required", volta, kind="l40s_4"),
    Fault(
        "unsigned module under Secure Boot",
        "module-unsigned",
        both(no_driver("DRIVER_NOT_LOADED"), put("kernel_modules", 0, "signer", None)),
    ),
    Fault("upgraded under the running module", "reboot-pending", upgraded),
    Fault("upgraded, the pin knows better", "reboot-pending", upgraded, wanted={"pins": {"driver_version": DRIVER}}),
    Fault(
        "the fleet was upgraded, one host not rebooted",
        "reboot-pending",
        lambda hosts: [(upgraded if name == "h1" else driver_of(NEWER))(facts) for name, facts in hosts.items()],
        hosts=0,
        found_on=("h1",),
    ),
    Fault("half an upgrade", "driver-half-upgraded", half_upgraded),
    Fault(
        "library moved without the rest, by hand",
        "library-module-mismatch",
        both(half_upgraded, without_packages(*DRIVER_PACKAGES)),
    ),
    Fault("dpkg stopped half-way", "package-broken", both(half_upgraded, packages("nvidia-dkms", state="unpacked"))),
    Fault("a package half configured", "package-broken", packages("libnvidia-compute", state="half-configured")),
    Fault(
        "library gone",
        "library-missing",
        both(
            put("nvml", "error", "LIBRARY_NOT_FOUND"),
            put("nvml", "driver_version", None),
            put("nvml", "library_version", None),
            put("gpus", []),
            put("p2p", []),
        ),
    ),
    Fault(
        "NVML may not",
        "nvml-failed",
        both(put("nvml", "error", "NO_PERMISSION"), put("gpus", []), put("p2p", [])),
    ),
    Fault(
        "no nvidia-ml-py",
        "nvml-binding-missing",
        both(
            put("nvml", "error", "BINDING_NOT_FOUND"),
            put("nvml", "binding_version", None),
            put("nvml", "driver_version", None),
            put("gpus", []),
            put("p2p", []),
        ),
    ),
    Fault("a hold is missing", "hold-missing", packages("libnvidia-compute", held=False)),
    Fault("the toolkit is not held", "hold-missing", packages("nvidia-container-toolkit", held=False)),
    Fault(
        "unattended upgrades of what is not held",
        "automatic-upgrade-of-driver",
        both(packages("nvidia-utils", held=False), put("platform", "automatic_upgrades", True)),
    ),
    Fault("an ended branch", "driver-branch-ended", driver_of("550.163.01"), hosts=3),
    Fault("a driver with known holes", "driver-insecure", driver_of("580.95.05"), hosts=3),
    Fault(
        "half-way with DKMS",
        "package-broken",
        both(packages("nvidia-dkms", state="half-configured"), new_kernel(**NO_MODULE, dkms_state="added")),
    ),
    Fault("upgraded without one package", "driver-half-upgraded", _all_new_but_utils),
    Fault(
        "the library's package half-way",
        "package-broken",
        both(
            packages("libnvidia-compute", state="half-installed"),
            put("nvml", "error", "LIBRARY_NOT_FOUND"),
            put("nvml", "driver_version", None),
            put("nvml", "library_version", None),
            put("gpus", []),
            put("p2p", []),
        ),
    ),
    Fault("driver and kernel upgraded", "reboot-pending", both(new_kernel(), upgraded)),
    Fault(
        "upgraded, the fabric manager runs on",
        "reboot-pending",
        both(
            upgraded,
            a_service("nvidia-fabricmanager", active_state="active", sub_state="running", running_version=DRIVER),
        ),
    ),
    # Fabric
    Fault(
        "nothing of the fabric installed",
        "fabric-manager-missing",
        both(without_packages("nvidia-fabricmanager", "libnvidia-nscq"), fabric_down),
    ),
    Fault(
        "the fabric manager moved with the libraries",
        "driver-half-upgraded",
        both(half_upgraded, packages("nvidia-fabricmanager", version=f"{NEWER}-1"), fabric_down),
    ),
    Fault(
        "fabric manager behind, restarting",
        "fabric-manager-behind",
        both(packages("nvidia-fabricmanager", version="580.95.05-1"), _fabric_restarting),
    ),
    Fault(
        "IMEX without a module",
        "module-not-loaded",
        both(imex(active_state="failed"), no_driver("DRIVER_NOT_LOADED")),
        kind="b200_8",
        of=1,
    ),
    Fault(
        "IMEX ends without a module",
        "module-not-loaded",
        both(imex(restarts=9), no_driver("DRIVER_NOT_LOADED")),
        kind="b200_8",
        of=1,
    ),
    Fault(
        "IMEX runs on after an upgrade",
        "reboot-pending",
        both(_multinode, upgraded, a_service("nvidia-imex", running_version=DRIVER)),
        kind="b200_8",
        of=1,
    ),
    Fault(
        "a dead NVLink that the fabric sees",
        "nvlink-down",
        both(_first_link_down, on_gpu(1, "fabric", "health", ["degraded_bandwidth"])),
    ),
    Fault(
        "fabric manager not installed",
        "fabric-manager-missing",
        both(without_packages("nvidia-fabricmanager"), fabric_down),
    ),
    Fault(
        "fabric manager behind",
        "fabric-manager-behind",
        both(packages("nvidia-fabricmanager", version="580.95.05-1"), fabric_down),
    ),
    Fault(
        "the whole fabric set behind",
        "fabric-manager-behind",
        both(
            packages("nvidia-fabricmanager", version="580.95.05-1"),
            packages("libnvidia-nscq", version="580.95.05-1"),
            fabric_down,
        ),
    ),
    Fault(
        "fabric manager dead, fabric fine",
        "fabric-manager-down",
        a_service("nvidia-fabricmanager", active_state="failed"),
    ),
    Fault("fabric manager dead, fabric gone", "fabric-manager-down", fabric_down),
    Fault(
        "fabric manager restarting",
        "fabric-manager-restarting",
        both(
            fabric_down,
            a_service("nvidia-fabricmanager", active_state="activating", sub_state="auto-restart", restarts=7),
        ),
    ),
    Fault(
        "fabric manager runs an older version",
        "fabric-manager-restart-pending",
        a_service("nvidia-fabricmanager", running_version="580.95.05"),
    ),
    Fault("NSCQ missing", "fabric-part-missing", without_packages("libnvidia-nscq")),
    Fault("NSCQ behind", "fabric-part-behind", packages("libnvidia-nscq", version="580.95.05-1")),
    Fault("nvlsm missing", "fabric-part-missing", both(without_packages("nvlsm"), fabric_down), kind="b200_8"),
    Fault("NVSDM behind", "fabric-part-behind", packages("libnvsdm", version="580.95.05-1"), kind="b200_8"),
    Fault(
        "ib_umad missing",
        "fabric-kernel-module-missing",
        both(put("platform", "infiniband_modules", ["mlx5_core"]), fabric_down),
        kind="b200_8",
    ),
    Fault("a GPU outside the fabric", "fabric-incomplete", on_gpu(4, "fabric", "state", "in_progress")),
    Fault("fabric sick", "fabric-unhealthy", on_gpu(4, "fabric", "health", ["degraded_bandwidth"])),
    Fault("IMEX down", "imex-down", imex(active_state="inactive"), kind="b200_8", of=1),
    Fault("IMEX restarting", "imex-restarting", imex(restarts=9), kind="b200_8", of=1),
    Fault("IMEX older", "imex-restart-pending", imex(running_version="580.95.05"), kind="b200_8", of=1),
    # GPUs
    Fault("a lost GPU", "gpu-lost", lost(5)),
    Fault("a GPU gone from the bus", "gpu-missing", absent(5)),
    Fault("a GPU gone, on the only host", "gpu-missing", absent(5), of=1, wanted={"pins": {"gpu_count": 8}}),
    Fault("a GPU more than pinned", "gpu-unexpected", lambda facts: None, of=1, wanted={"pins": {"gpu_count": 7}}),
    Fault(
        "another model than pinned",
        "gpu-model-differs",
        lambda facts: None,
        of=1,
        wanted={"pins": {"gpu_names": "NVIDIA H200"}},
    ),
    Fault("a GPU that the driver does not offer", "gpu-not-offered", not_offered(6)),
    Fault(
        "ECC off on one GPU",
        "ecc-off",
        both(on_gpu(2, "ecc", "enabled", False), on_gpu(2, "ecc", "enabled_after_reboot", False)),
    ),
    Fault("ECC switched, reset pending", "ecc-change-pending", on_gpu(2, "ecc", "enabled_after_reboot", False)),
    Fault(
        "ECC switched on, reset pending",
        "ecc-change-pending",
        on_gpu(2, "ecc", "enabled", False),
    ),
    Fault("uncorrected memory errors", "ecc-uncorrected", both(on_gpu(2, "ecc", "uncorrected_volatile", 4), xid(48))),
    Fault("a row waits to be remapped", "row-remap-pending", bad_memory(pending=True, uncorrectable=1)),
    Fault("no spare rows", "row-remap-failed", bad_memory(pending=True, failed=True)),
    Fault(
        "a page waits to be retired",
        "page-retirement-pending",
        both(on_gpu(0, "retired_pages", "pending", True), on_gpu(0, "ecc", "uncorrected_volatile", 1)),
        kind="t4_1",
    ),
    Fault("recovery needed", "gpu-recovery-needed", both(on_gpu(2, "recovery_action", "gpu_reset"), xid(119))),
    Fault("mixed VBIOS", "vbios-mixed", on_gpu(7, "vbios_version", "96.00.30.00.01")),
    Fault("mixed VBIOS, two GPUs", "vbios-mixed", on_gpu(1, "vbios_version", "95.02.18.80.57"), kind="rtx4090_2"),
    Fault("mixed GSP firmware", "gsp-firmware-mixed", on_gpu(7, "gsp_firmware_version", "580.95.05")),
    Fault(
        "MIG on one GPU only",
        "mig-mixed",
        both(on_gpu(7, "mig", "enabled", True), on_gpu(7, "mig", "enabled_after_reset", True)),
    ),
    Fault("MIG switched, reset pending", "mig-change-pending", on_gpu(7, "mig", "enabled_after_reset", True)),
    Fault("power limit of one GPU", "power-limit-mixed", on_gpu(7, "power_limit_watts", 500.0)),
    Fault("persistence off", "persistence-off", put("gpus", "*", "persistence", False)),
    Fault("exclusive compute mode", "compute-mode-unexpected", on_gpu(1, "compute_mode", "exclusive_process")),
    Fault("narrow link", "pcie-width-narrow", on_gpu(3, "pcie", "width", 8)),
    Fault(
        "slow link of a working GPU",
        "pcie-generation-low",
        both(on_gpu(3, "clocks_event_reasons", []), on_gpu(3, "pcie", "generation", 3)),
    ),
    Fault("a dead NVLink", "nvlink-down", _first_link_down),
    Fault(
        "a bridge that reaches fewer links",
        "nvlink-down",
        put("gpus", 2, "nvlinks", 4, "active", False),
        kind="a100_mig_4",
    ),
    Fault("broken peer-to-peer", "p2p-broken", _p2p_of_three, kind="l40s_4"),
    Fault(
        "too hot",
        "thermal-slowdown",
        both(
            on_gpu(0, "clocks_event_reasons", ["hw_slowdown", "hw_thermal_slowdown"]),
            on_gpu(0, "temperature_celsius", 88),
            on_gpu(0, "pcie", "generation", 5),
        ),
    ),
    Fault(
        "power brake",
        "power-brake",
        both(
            on_gpu(0, "clocks_event_reasons", ["hw_slowdown", "hw_power_brake_slowdown"]),
            on_gpu(0, "pcie", "generation", 5),
            xid(54, 0),
        ),
    ),
    Fault("Xid 79 in the log", "xid-hardware", xid(79)),
    Fault("Xid 95, and what it stopped", "xid-hardware", both(xid(45), xid(43), xid(95))),
    Fault("Xid 94", "xid-hardware", xid(94)),
    Fault("an unknown Xid", "xid-hardware", xid(4711)),
    Fault("a program's own fault", "xid-application", both(xid(13), xid(31), xid(43))),
    Fault("a lost GPU, and what it stopped", "gpu-lost", both(xid(43, 5), xid(45, 5), lost(5))),
    Fault(
        "recovery needed, and what it stopped",
        "gpu-recovery-needed",
        both(on_gpu(2, "recovery_action", "node_reboot"), xid(45)),
    ),
    Fault(
        "ECC switched on for a whole host, reset pending",
        "ecc-change-pending",
        put("gpus", "*", "ecc", "enabled", False),
    ),
    Fault(
        "MIG being switched off, reset pending",
        "mig-change-pending",
        both(on_gpu(7, "mig", "enabled", True), on_gpu(7, "mig", "enabled_after_reset", False)),
    ),
    Fault(
        "narrow and slow link of a working GPU",
        "pcie-width-narrow",
        both(on_gpu(3, "clocks_event_reasons", []), on_gpu(3, "pcie", "generation", 3), on_gpu(3, "pcie", "width", 4)),
    ),
    Fault(
        "a lost GPU that an engine needs", "gpu-lost", lost(3), kind="l40s_4", wanted={"engines": [{**VLLM, "gpus": 4}]}
    ),
    # Engines
    Fault("CUDA too new", "cuda-too-new", driver_of("570.211.01"), hosts=3, wanted={"engines": [VLLM]}, kind="l40s_4"),
    Fault(
        "CUDA newer than the driver's",
        "cuda-newer-than-driver",
        lambda facts: None,
        wanted={"engines": [{"engine": "llama_cpp", "version": "b11865", "cuda": "13.3"}]},
        hosts=3,
    ),
    Fault(
        "CUDA too new, with its forward compatibility package",
        "driver-branch-ended",
        both(
            driver_of("570.211.01"),
            lambda facts: facts["packages"].append(package("cuda-compat-13-0", "580.65.06-1")),
        ),
        wanted={"engines": [VLLM]},
        hosts=3,
    ),
    Fault(
        "a board for which forward compatibility does nothing",
        "cuda-too-new",
        both(
            driver_of("570.211.01"),
            lambda facts: facts["packages"].append(package("cuda-compat-13-0", "580.65.06-1")),
        ),
        kind="rtx4090_2",
        wanted={"engines": [VLLM]},
        hosts=3,
    ),
    Fault(
        "too old a GPU",
        "compute-capability-too-low",
        lambda facts: None,
        kind="t4_1",
        wanted={"engines": [{**VLLM, "compute_capability": "8.0"}]},
        hosts=3,
    ),
    Fault(
        "too little memory",
        "gpu-memory-too-small",
        lambda facts: None,
        kind="rtx4090_2",
        wanted={"engines": [{**VLLM, "memory_bytes": 40 * GIB}]},
        hosts=3,
    ),
    Fault(
        "too few GPUs",
        "gpus-too-few",
        lambda facts: None,
        kind="l40s_4",
        wanted={"engines": [{**VLLM, "gpus": 8}]},
        hosts=3,
    ),
    # Containers and platform
    Fault(
        "toolkit incomplete, so no CDI",
        "container-toolkit-mixed",
        both(without_packages("nvidia-container-toolkit-base"), put("cdi", [])),
    ),
    Fault("toolkit mixed", "container-toolkit-mixed", packages("libnvidia-container1", version="1.19.1-1")),
    Fault("toolkit incomplete", "container-toolkit-mixed", without_packages("nvidia-container-toolkit-base")),
    Fault("old toolkit everywhere", "container-toolkit-insecure", _old_toolkit, hosts=3),
    Fault(
        "no toolkit",
        "container-toolkit-missing",
        both(without_packages("nvidia-container", "libnvidia-container"), put("cdi", [])),
        wanted={"container_toolkit": True},
    ),
    Fault("CDI of an older driver", "cdi-stale", put("cdi", 0, "driver_version", "580.95.05")),
    Fault("CDI without a GPU", "cdi-stale", put("cdi", 0, "devices", ["0", "1", "2", "3", "4", "5", "6", "all"])),
    Fault("no CDI", "cdi-missing", put("cdi", [])),
    Fault("ACS redirects", "acs-redirects", put("platform", "acs_redirecting_bridges", ["0000:15:01.0"])),
    Fault(
        "IOMMU translates",
        "iommu-translates",
        both(put("platform", "iommu", "translated"), put("platform", "acs_redirecting_bridges", ["0000:15:01.0"])),
    ),
    # Across hosts
    Fault("another driver", "driver-differs", driver_of(OLDER)),
    Fault("another driver, with known holes", "driver-differs", driver_of("580.95.05")),
    Fault(
        "a driver that does not compile what the others do",
        "driver-differs",
        _small_hosts_upgraded,
        hosts=0,
        found_on=("h1",),
        kind="l40s_4",
        wanted={"engines": [{"engine": "llama_cpp", "version": "b11865", "cuda": "13.2"}]},
    ),
    Fault("another driver, an old one", "driver-differs", driver_of("550.163.01"), wanted={"engines": [VLLM]}),
    Fault(
        "not the pinned driver",
        "driver-differs",
        lambda facts: None,
        hosts=3,
        wanted={"pins": {"driver_version": "610"}},
    ),
    Fault(
        "not the locked driver",
        "driver-differs",
        driver_of(OLDER),
        hosts=3,
        lock={"format_version": 1, "baseline": {"driver_version": {"all": DRIVER}}},
    ),
    Fault("two drivers, equally common", "baseline-tie", driver_of(OLDER), of=2, found_on=("h1", "h2")),
    Fault(
        "another flavour",
        "module-flavour-differs",
        both(put("loaded_module", "flavour", "proprietary"), put("kernel_modules", 0, "flavour", "proprietary")),
    ),
    Fault(
        "another release",
        "distribution-differs",
        both(put("platform", "distribution_version", "22.04"), put("platform", "kernel", KERNEL)),
    ),
    Fault(
        "another kernel",
        "kernel-differs",
        both(put("platform", "kernel", NEXT_KERNEL), put("kernel_modules", 0, "kernel", NEXT_KERNEL)),
    ),
    Fault(
        "not rebooted into the kernel that others run",
        "kernel-differs",
        both(
            put("platform", "kernel", "6.8.0-85-generic"),
            put("kernel_modules", [kernel_module("6.8.0-85-generic", True, False), kernel_module(KERNEL, False, True)]),
        ),
    ),
    Fault(
        "another toolkit",
        "container-toolkit-differs",
        both(*(packages(name, version="1.19.1-1") for name in TOOLKIT_PACKAGES)),
    ),
    Fault("an old toolkit", "container-toolkit-differs", _old_toolkit),
    Fault(
        "another CUDA toolkit",
        "cuda-toolkit-differs",
        lambda hosts: [
            facts.update(cuda_toolkit_version=version)
            for facts, version in zip(hosts.values(), ("12.9", "13.0", "13.0"))
        ],
        hosts=0,
        found_on=("h1",),
    ),
    Fault("another nvlsm", "nvlsm-differs", packages("nvlsm", version="2025.03.1-1"), kind="b200_8"),
    Fault("another VBIOS", "vbios-differs", put("gpus", "*", "vbios_version", "96.00.30.00.01")),
    Fault("another GSP firmware", "gsp-firmware-differs", put("gpus", "*", "gsp_firmware_version", "580.95.05")),
    Fault(
        "ECC off on a whole host",
        "ecc-differs",
        both(put("gpus", "*", "ecc", "enabled", False), put("gpus", "*", "ecc", "enabled_after_reboot", False)),
    ),
    Fault(
        "another MIG layout",
        "mig-differs",
        put(
            "gpus",
            0,
            "mig",
            "instances",
            [{"index": 0, "uuid": "MIG-0", "profile": "7g.40gb", "memory_bytes": 40 * GIB}],
        ),
        kind="a100_mig_4",
    ),
    Fault("another power limit", "power-limit-differs", put("gpus", "*", "power_limit_watts", 500.0)),
)
