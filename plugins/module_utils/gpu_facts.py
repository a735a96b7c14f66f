# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of what `gpu_info` says about a host, and `gpu_parity` compares.

Plain mappings, since they travel as JSON: through Ansible, into fixtures, into the report. Three rules hold everywhere:

- `None` means that nobody could say: the driver or the GPU does not support the question, or there is no driver. The
  names of the NVML functions that were not supported stand in `nvml.not_supported`.
- An empty list or text means that the answer is known, and is "none".
- Units stand in the names (`_bytes`, `_watts`, `_celsius`, `_mhz`); versions are texts as their source writes them.
"""

from __future__ import annotations

from typing import TypedDict

FORMAT_VERSION = 1


class Ecc(TypedDict):
    """Error correction of a GPU's memory. Counts of uncorrected errors: since the driver was loaded, and in all."""

    enabled: bool | None
    enabled_after_reboot: bool | None
    corrected_volatile: int | None
    uncorrected_volatile: int | None
    corrected_aggregate: int | None
    uncorrected_aggregate: int | None


class RemappedRows(TypedDict):
    """Rows of memory that were replaced by spare ones (Ampere and newer)."""

    correctable: int
    uncorrectable: int
    # A row waits for a reset of the GPU to be replaced.
    pending: bool
    # The spare rows are used up: the GPU is to be replaced.
    failed: bool


class RetiredPages(TypedDict):
    """Pages of memory that are no longer used (before Ampere)."""

    single_bit: int | None
    double_bit: int | None
    pending: bool | None


class MigInstance(TypedDict):
    """One slice of a GPU in MIG mode."""

    index: int
    uuid: str | None
    # For example `1g.10gb`.
    profile: str | None
    memory_bytes: int | None


class Mig(TypedDict):
    """Multi-instance GPU."""

    enabled: bool | None
    enabled_after_reset: bool | None
    instances: list[MigInstance]


class Pcie(TypedDict):
    """The link to the host. `generation_possible` and `width_possible` are what GPU and slot can do together.

    An idle GPU lowers the generation, never the width: a narrower width is a fault at any time.
    """

    generation: int | None
    width: int | None
    generation_possible: int | None
    width_possible: int | None
    replay_count: int | None


class NvLink(TypedDict):
    """One NVLink of a GPU."""

    link: int
    active: bool | None
    version: int | None
    # PCI address of the other end: a GPU or an NVSwitch.
    remote_pci_address: str | None


class Fabric(TypedDict):
    """Membership of the NVSwitch fabric; the whole is `None` where the GPU has none.

    `state`: not_supported, not_started, in_progress, completed. `status`: NVML error of the registration, 0: none.
    `health`: names of the problems that the health mask reports; `None` where the driver has no such mask.
    """

    state: str
    status: int
    clique_id: int | None
    cluster_uuid: str | None
    health: list[str] | None


class Gpu(TypedDict):
    """One GPU, as NVML describes it."""

    index: int
    uuid: str
    # Lower case, with a domain of four digits: `0000:1b:00.0`, as in /sys/bus/pci/devices.
    pci_address: str
    # Vendor and device as in /sys, for example `10de:2330`, and the same of the board's maker.
    pci_device: str | None
    pci_subsystem: str | None
    name: str
    serial: str | None
    # In small letters: kepler, maxwell, pascal, volta, turing, ampere, ada, hopper, blackwell; `None` if NVML has a
    # number for it that this table has no name for.
    architecture: str | None
    # For example `9.0`.
    compute_capability: str | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    vbios_version: str | None
    gsp_firmware_version: str | None
    gsp_firmware_enabled: bool | None
    ecc: Ecc
    remapped_rows: RemappedRows | None
    retired_pages: RetiredPages | None
    mig: Mig
    persistence: bool | None
    # default, exclusive_process, prohibited.
    compute_mode: str | None
    power_limit_watts: float | None
    power_limit_default_watts: float | None
    power_limit_minimum_watts: float | None
    power_limit_maximum_watts: float | None
    power_usage_watts: float | None
    # Why the clocks are lower than they could be, for example `sw_power_cap`, `hw_thermal_slowdown`, `gpu_idle`.
    clocks_event_reasons: list[str] | None
    temperature_celsius: int | None
    # The temperature at which the clocks are lowered.
    temperature_slowdown_celsius: int | None
    pcie: Pcie
    nvlinks: list[NvLink]
    fabric: Fabric | None
    numa_node: int | None
    # The CPUs near the GPU, as the kernel writes lists: `0-47,96-143`.
    cpu_affinity: str | None
    # none, gpu_reset, node_reboot, drain_p2p, drain_and_reset, recover_imex_domain, bus_reset, system_reboot.
    recovery_action: str | None
    # Processes with a compute context on the GPU.
    compute_processes: int | None


class LostGpu(TypedDict):
    """A GPU that NVML counts but that does not answer."""

    index: int
    pci_address: str | None
    # The name of NVML's error, for example `GPU_IS_LOST`.
    error: str


class P2P(TypedDict):
    """Whether two GPUs reach each other's memory directly: ok, chipset_not_supported, gpu_not_supported,
    topology_not_supported, disabled_by_regkey, not_supported, unknown."""

    first: int
    second: int
    read: str | None
    write: str | None
    nvlink: str | None
    # What lies between them: internal, single, multiple, hostbridge, node, system.
    topology: str | None


class Nvml(TypedDict):
    """The driver's management library, as loaded by the module."""

    # '' if everything is well, else the name of the error of NVML's start, for example LIBRARY_NOT_FOUND,
    # DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH. BINDING_NOT_FOUND: this host has no nvidia-ml-py.
    # NOT_ASKED: the site said so.
    error: str
    # Of the binding (nvidia-ml-py) itself; `None` where it is not installed.
    binding_version: str | None
    # As the library on disk says it, also while the driver does not answer. NVML puts the major version of its CUDA
    # before the driver's: `13.580.178.04`.
    library_version: str | None
    # The driver's version as the loaded library says it, `580.178.04`.
    driver_version: str | None
    # The newest CUDA that this driver runs, `13.0`.
    cuda_version: str | None
    not_supported: list[str]


class KernelModule(TypedDict):
    """The NVIDIA module of one kernel, as it lies on disk."""

    kernel: str
    running: bool
    # The kernel that the boot loader would take now.
    next_boot: bool
    # `None` if there is no module for this kernel.
    version: str | None
    # open or proprietary, by the module's licence.
    flavour: str | None
    path: str | None
    signer: str | None
    headers_installed: bool
    # added, built, installed; '' if DKMS does not know this kernel; `None` if there is no DKMS.
    dkms_state: str | None


class LoadedModule(TypedDict):
    """The NVIDIA module in the running kernel."""

    loaded: bool
    version: str | None
    flavour: str | None
    # Other drivers that own NVIDIA GPUs: nouveau, nova_core, nova_drm, vfio_pci.
    rivals: list[str]


class Package(TypedDict):
    """One installed package of the driver, the fabric, CUDA or the container toolkit."""

    name: str
    version: str
    # dpkg's word: installed, half-configured, half-installed, unpacked, config-files, ...
    state: str
    held: bool
    architecture: str


class Service(TypedDict):
    """A systemd service of the driver: nvidia-persistenced, nvidia-fabricmanager, nvidia-imex, nvidia-cdi-refresh."""

    name: str
    # As systemctl says it.
    load_state: str
    active_state: str
    sub_state: str
    unit_file_state: str
    # Of the process that runs, which can be older than the package on disk; `None` if nothing runs or says.
    running_version: str | None
    restarts: int


class Cdi(TypedDict):
    """A CDI specification, which tells container engines what belongs to a GPU."""

    path: str
    modified_at: float
    # The driver's version in the names of the libraries that it mounts.
    driver_version: str | None
    devices: list[str]


class XidEvent(TypedDict):
    """Errors of one kind that the driver reported to the kernel log since the host booted."""

    xid: int
    pci_address: str
    count: int
    # Seconds since boot, of the last one.
    last_seen_seconds: float
    message: str


class PciGpu(TypedDict):
    """An NVIDIA GPU on the PCI bus, whether a driver knows it or not."""

    pci_address: str
    pci_device: str
    pci_class: str
    # Kernel driver bound to it; '' if none.
    driver: str


class Platform(TypedDict):
    """What the GPUs sit in."""

    architecture: str
    kernel: str
    distribution: str
    distribution_version: str
    boot_id: str
    virtualisation: str
    # `None`: no EFI variables, so no Secure Boot.
    secure_boot: bool | None
    # off, passthrough, translated.
    iommu: str | None
    # PCI bridges above GPUs on which Access Control Services redirect peer-to-peer traffic through the root.
    acs_redirecting_bridges: list[str] | None
    # Kernel modules ib_umad and mlx5_core, which the subnet manager of NVLink 5 needs.
    infiniband_modules: list[str]
    # none, nvswitch (to Hopper), nvlink5 (Blackwell HGX), nvlink5_multinode (GB200, GB300).
    fabric_generation: str
    # Whether the host installs upgrades by itself; `None` if it has no apt.
    automatic_upgrades: bool | None
    # What told which kernel boots next: grub, systemd-boot, link (/vmlinuz); '' if nothing did.
    next_boot_rule: str


class HostFacts(TypedDict):
    """Everything about one host. Made by `gpu_info.read_host`, judged by `parity`."""

    format_version: int
    # UTC, RFC 3339.
    collected_at: str
    platform: Platform
    nvml: Nvml
    gpus: list[Gpu]
    lost_gpus: list[LostGpu]
    p2p: list[P2P]
    pci_gpus: list[PciGpu]
    loaded_module: LoadedModule
    kernel_modules: list[KernelModule]
    packages: list[Package]
    services: list[Service]
    cdi: list[Cdi]
    # Version of the CUDA toolkit at /usr/local/cuda; '' if there is none.
    cuda_toolkit_version: str
    xid_events: list[XidEvent] | None
    # What could not be read although it should have been, one sentence each: never a reason to fail.
    problems: list[str]
