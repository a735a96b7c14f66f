# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of `parity` on a host's software: driver, kernel modules, packages, fabric, container toolkit, platform.

Each is a function from a host to findings, and looks at one question only. What follows from what is not their
business, see `parity.EXPLAINED_BY`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.baremetal.llm.plugins.module_utils.cuda_requirements import (
    SECURE_CONTAINER_TOOLKIT,
    SECURE_DRIVERS,
    branch,
    version_key,
)
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set import architecture_of
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_data import ARCHITECTURES, BRANCHES
from ansible_collections.baremetal.llm.plugins.module_utils.parity_facts import (
    CONTAINER_TOOLKIT,
    FABRIC_PARTS,
    Host,
    upstream,
)
from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import ERROR, NOTE, WARNING, Finding
from ansible_collections.baremetal.llm.plugins.module_utils.parity_fleet import matches

ROLE = "the role nvidia_driver"
FABRIC_MANAGER = "nvidia-fabricmanager"
# The parts of each generation of fabric: what cannot be done without, and what only telemetry misses.
NEEDED_PARTS = {
    "nvswitch": {"fabric manager": ERROR, "NSCQ": WARNING},
    "nvlink5": {"fabric manager": ERROR, "nvlsm": ERROR, "NVSDM": WARNING},
    "nvlink5_multinode": {"IMEX": ERROR},
}
# How often a service may have been started again before it counts as one that does not stay up.
TOLERATED_RESTARTS = 3
EMULATED = ("", "none")


def gpus_and_driver(host: Host) -> Iterator[Finding]:
    """Whether there is a GPU, and a driver that could own it."""
    if not host.on_bus() and not host.gpus:
        if host.wanted.get("pins", {}).get("gpu_count") == 0:
            return
        yield Finding(
            "gpu-none",
            ERROR,
            "gpu_count",
            "at least 1",
            "0",
            "there is no NVIDIA GPU on the PCI bus",
            "Seat the GPU, or enable its slot in the firmware; a host that is to have none pins gpu_count to 0",
        )
        return
    rivals = sorted({item["driver"] for item in host.facts["pci_gpus"]} & set(host.loaded["rivals"]))
    if rivals:
        yield Finding(
            "other-driver-owns-gpu",
            ERROR,
            "kernel driver",
            "nvidia",
            ", ".join(rivals),
            "another kernel driver took the GPU at boot, from the initramfs or because it is not on the deny list",
            f"Deny {' and '.join(rivals)} in /etc/modprobe.d, rebuild the initramfs and reboot ({ROLE} does)",
        )
    modules = [item for item in host.facts["kernel_modules"] if item["version"]]
    if not host.driver_packages and not modules and not host.loaded["loaded"]:
        yield Finding(
            "driver-missing",
            ERROR,
            "driver_version",
            "an installed driver",
            "none",
            f"{len(host.facts['pci_gpus'])} NVIDIA GPUs are on the PCI bus and no driver is installed",
            f"Install the driver with {ROLE}",
        )


def module_loaded(host: Host) -> Iterator[Finding]:
    module = host.running_module
    if host.loaded["loaded"] or not host.on_bus():
        return
    kernel = host.platform["kernel"]
    if module and module["version"]:
        yield Finding(
            "module-not-loaded",
            ERROR,
            "kernel module",
            f"nvidia {module['version']} loaded",
            "not loaded",
            f"the module for the running kernel {kernel} is on disk but the kernel does not have it",
            "Run `modprobe nvidia` and read `journalctl -k`: it says what keeps the module out",
        )
    else:
        yield Finding(
            "module-missing",
            ERROR,
            "kernel module",
            f"a module for {kernel}",
            "none",
            "the running kernel has no NVIDIA module: most often it came with an update that built none",
            f"Install the headers of {kernel} and build the module (`dkms autoinstall`), or boot the kernel before it",
        )


def module_for_next_boot(host: Host) -> Iterator[Finding]:
    module, running = host.next_module, host.running_module
    if module is None:
        return
    if module["kernel"] != host.platform["kernel"]:
        yield Finding(
            "kernel-reboot-pending",
            NOTE,
            "kernel",
            module["kernel"],
            host.platform["kernel"],
            "the boot loader would start another kernel than the one that runs",
            "Reboot when the host is drained, after everything else here is in order",
        )
    # A running kernel that lacks its module now is another finding.
    if not module["version"] and (host.loaded["loaded"] or not (running and module["kernel"] == running["kernel"])):
        yield Finding(
            "next-boot-module-missing",
            ERROR,
            f"module of {module['kernel']}",
            host.library_version or "an NVIDIA module",
            "none",
            "the kernel that the next boot starts has no NVIDIA module: the GPUs would be gone after it",
            f"Build the module for {module['kernel']} before any reboot, or make the running kernel the default",
        )
    elif module["version"] and host.library_version and module["version"] != host.library_version:
        yield Finding(
            "next-boot-module-differs",
            ERROR,
            f"module of {module['kernel']}",
            host.library_version,
            module["version"],
            "the kernel that the next boot starts has a module of another version than the driver's libraries",
            f"Build the module of {host.library_version} for {module['kernel']} before any reboot",
        )


def module_build(host: Host) -> Iterator[Finding]:
    """Headers, and what DKMS made of them, for every installed kernel."""
    for module in host.facts["kernel_modules"]:
        state, kernel = module["dkms_state"], module["kernel"]
        if state is None:
            continue
        needed = module["running"] or module["next_boot"]
        if not module["headers_installed"]:
            yield Finding(
                "headers-missing",
                ERROR if needed and state != "installed" else WARNING,
                f"headers of {kernel}",
                "installed",
                "missing",
                "DKMS cannot build the NVIDIA module for a kernel without its headers",
                f"Install the headers of {kernel}, or remove that kernel",
            )
        elif state != "installed" and (state or not module["version"]):
            yield Finding(
                "dkms-not-installed",
                ERROR if needed else WARNING,
                f"DKMS for {kernel}",
                "installed",
                state or "not known to DKMS",
                "DKMS has not built and installed the NVIDIA module for this kernel: its build failed or never ran",
                f"Read /var/lib/dkms/nvidia*/*/build/make.log, then `dkms autoinstall -k {kernel}`",
            )


def module_flavour(host: Host) -> Iterator[Finding]:
    module = host.running_module
    flavour = host.loaded["flavour"] or (module["flavour"] if module else None)
    arm = "arm64" if host.platform["architecture"] == "aarch64" else "amd64"
    kinds = {architecture_of(item["pci_device"], arm) for item in host.facts["pci_gpus"]} & set(ARCHITECTURES)
    only_open = sorted(kind for kind in kinds if not ARCHITECTURES[kind].proprietary_modules)
    only_proprietary = sorted(kind for kind in kinds if not ARCHITECTURES[kind].open_modules)
    if flavour == "proprietary" and only_open:
        yield Finding(
            "open-module-required",
            ERROR,
            "module_flavour",
            "open",
            "proprietary",
            f"the proprietary module does not drive {' and '.join(only_open)} GPUs",
            f"Install the open flavour with {ROLE} and reboot",
        )
    if flavour == "open" and only_proprietary:
        yield Finding(
            "proprietary-module-required",
            ERROR,
            "module_flavour",
            "proprietary",
            "open",
            f"the open module does not drive {' and '.join(only_proprietary)} GPUs, only Turing and newer",
            f"Install the proprietary flavour with {ROLE}, from a branch that still supports the GPU, and reboot",
        )


def module_signature(host: Host) -> Iterator[Finding]:
    if not host.platform["secure_boot"]:
        return
    for module in host.facts["kernel_modules"]:
        if module["version"] and not module["signer"] and (module["running"] or module["next_boot"]):
            yield Finding(
                "module-unsigned",
                ERROR,
                f"module of {module['kernel']}",
                "signed with an enrolled key",
                "unsigned",
                "Secure Boot is on, so this kernel refuses the module without saying so to any program",
                "Use the archive's signed modules (linux-modules-nvidia-*), or enrol a machine owner key for DKMS",
            )
            return


def library_and_module(host: Host) -> Iterator[Finding]:
    """The library that programs load, against the module in the kernel."""
    library, loaded = host.library_version, host.loaded["version"]
    module = host.running_module
    if not host.loaded["loaded"] or not loaded or not library or library == loaded:
        if host.nvml["error"] == "LIB_RM_VERSION_MISMATCH":
            yield _mismatch(library or "of another version", loaded or "unknown")
        return
    if module and module["version"] == library:
        pin = str(host.wanted.get("pins", {}).get("driver_version") or "")
        elsewhere = pin and not matches("driver_version", pin, library)
        yield Finding(
            "reboot-pending",
            ERROR,
            "driver_version",
            library,
            loaded,
            "the driver was upgraded under the running module: new programs fail, and the next boot changes the driver",
            f"The site's pin is {pin}: install that with {ROLE} before any reboot, and hold it"
            if elsewhere
            else "Drain the host and reboot it; hold the packages so that this happens only on purpose",
        )
    else:
        yield _mismatch(library, loaded)


def _mismatch(library: str, loaded: str) -> Finding:
    return Finding(
        "library-module-mismatch",
        ERROR,
        "driver_version",
        loaded,
        library,
        "the driver's library is of another version than the module, and a reboot alone would not change that",
        f"Install one version of the whole driver with {ROLE}, then reboot",
    )


def nvml_answers(host: Host) -> Iterator[Finding]:
    error = host.nvml["error"]
    if not host.nvml["binding_version"] and host.on_bus():
        yield Finding(
            "nvml-binding-missing",
            ERROR,
            "nvidia-ml-py",
            "installed",
            "missing",
            "without it nobody can ask the driver, so nothing is known of the GPUs",
            "Run the role host_tools on the host",
        )
    elif error and host.loaded["loaded"]:
        code, cause = (
            ("library-missing", "the module is loaded and the library that programs need is not installed")
            if error == "LIBRARY_NOT_FOUND"
            else ("nvml-failed", "the driver's management library did not start")
        )
        yield Finding(
            code,
            ERROR,
            "NVML",
            "an answer",
            error,
            cause,
            f"Install the compute library at the driver's version with {ROLE}"
            if code == "library-missing"
            else "Read `journalctl -k` and the rights of /dev/nvidia*; then reload the driver or reboot",
        )


def packages_whole(host: Host) -> Iterator[Finding]:
    """One version of the driver's packages, all of them in order."""
    broken = [f"{item['name']} {item['state']}" for item in host.packages if item["state"] != "installed"]
    if broken:
        yield Finding(
            "package-broken",
            ERROR,
            "packages",
            "installed",
            ", ".join(broken),
            "dpkg did not finish with these: an upgrade was interrupted, or a script of theirs failed",
            "Run `dpkg --configure -a` and `apt-get -f install`, and read why it failed",
        )
    if len(host.driver_packages) > 1:
        usual = host.packaged_version or ""
        odd = [
            f"{package['name']} {version}"
            for version, packages in host.driver_packages.items()
            if version != usual
            for package in packages
        ]
        yield Finding(
            "driver-half-upgraded",
            ERROR,
            "driver packages",
            f"all of one version ({usual} for most)",
            ", ".join(sorted(odd)),
            "part of the driver was upgraded without the rest",
            f"Install the whole set at one version with {ROLE}",
        )


def packages_held(host: Host) -> Iterator[Finding]:
    """Nobody but the site moves the driver, its fabric and the container toolkit."""
    driver = [item for packages in host.driver_packages.values() for item in packages]
    driver += [item for part in FABRIC_PARTS for item in [host.fabric_package(part)] if item]
    free = [item["name"] for item in driver if not item["held"] and not host.pinned_exactly]
    free += [item["name"] for item in host.packages_of(CONTAINER_TOOLKIT) if not item["held"]]
    if not free:
        return
    automatic = host.platform["automatic_upgrades"]
    yield Finding(
        "automatic-upgrade-of-driver" if automatic else "hold-missing",
        ERROR if automatic else WARNING,
        "packages",
        "held",
        f"not held: {', '.join(sorted(free))}",
        "unattended-upgrades is active and may move these packages at any night"
        if automatic
        else "the next `apt upgrade` may move these packages without the rest of their set",
        f"Hold them with `apt-mark hold`, as {ROLE} and the role container_toolkit do",
    )


def driver_supported(host: Host) -> Iterator[Finding]:
    version = host.driver_version
    if not version or not branch(version).isdigit():
        return
    number = branch(version)
    known, minimum = BRANCHES.get(int(number)), SECURE_DRIVERS.get(number)
    if (known and known.ended) or int(number) < min(BRANCHES):
        alive = ", ".join(str(item.number) for item in BRANCHES.values() if not item.ended)
        yield Finding(
            "driver-branch-ended",
            ERROR,
            "driver_version",
            f"a branch with fixes: {alive}",
            version,
            f"branch {number} gets no fixes any more, and its published vulnerabilities stay open",
            f"Move to a supported branch with {ROLE}; if the GPU needs this one, accept the code",
        )
    elif minimum and version_key(version) < version_key(minimum):
        yield Finding(
            "driver-insecure",
            ERROR,
            "driver_version",
            f"at least {minimum}",
            version,
            "NVIDIA's bulletins list vulnerabilities of the kernel modules below that version",
            f"Move to {minimum} or newer with {ROLE}",
        )


def fabric_packages(host: Host) -> Iterator[Finding]:
    """The parts of the fabric are there, at exactly the driver's version."""
    driver = host.packaged_version or host.driver_version
    needed = NEEDED_PARTS.get(host.platform["fabric_generation"], {})
    for part in FABRIC_PARTS if needed else ():
        package, manager = host.fabric_package(part), part == "fabric manager"
        # NVIDIA builds NVSDM for amd64 only.
        if package is None and part in needed and (part != "NVSDM" or host.platform["architecture"] == "x86_64"):
            yield Finding(
                "fabric-manager-missing" if manager else "fabric-part-missing",
                needed[part],
                part,
                driver or "installed",
                "not installed",
                "GPUs behind NVSwitches do not start without it" if manager else f"this fabric needs {part}",
                f"Install the fabric's parts with {ROLE}, in one transaction with the driver",
            )
        # nvlsm is numbered by itself.
        elif package and part != "nvlsm" and driver and upstream(package["version"]) != driver:
            yield Finding(
                "fabric-manager-behind" if manager else "fabric-part-behind",
                needed.get(part, WARNING),
                part,
                driver,
                upstream(package["version"]),
                f"{part} is of another version than the driver, and works with exactly its own only",
                f"Move the driver and the parts of its fabric as one set with {ROLE}",
            )


def fabric_services(host: Host) -> Iterator[Finding]:
    """The fabric manager (or IMEX) runs, stays up, and is the one on disk."""
    generation = host.platform["fabric_generation"]
    # Services that could not be asked say nothing, and the facts tell of that themselves.
    if not host.services:
        return
    for part, name, code in (("fabric manager", FABRIC_MANAGER, "fabric-manager"), ("IMEX", "nvidia-imex", "imex")):
        if part not in NEEDED_PARTS.get(generation, {}):
            continue
        package, service = host.fabric_package(part), host.service(name)
        state = service["active_state"] if service else "not there"
        if service and (service["restarts"] > TOLERATED_RESTARTS or service["sub_state"] == "auto-restart"):
            yield Finding(
                f"{code}-restarting",
                ERROR,
                name,
                "running",
                f"{state}, started again {service['restarts']} times",
                "the service ends and systemd starts it again",
                f"Read `journalctl -u {name}`",
            )
        elif state != "active":
            yield Finding(
                f"{code}-down",
                ERROR,
                name,
                "active",
                state,
                "the service does not run: CUDA answers 802, system not yet initialised",
                f"Read `journalctl -u {name}`, then `systemctl enable --now {name}`",
            )
        elif service and package and service["running_version"] not in (None, upstream(package["version"])):
            yield Finding(
                f"{code}-restart-pending",
                ERROR,
                name,
                upstream(package["version"]),
                str(service["running_version"]),
                "the package was upgraded under the process that runs",
                f"Drain the host and restart {name}",
            )


def fabric_kernel_modules(host: Host) -> Iterator[Finding]:
    if host.platform["fabric_generation"] != "nvlink5":
        return
    missing = [name for name in ("ib_umad", "mlx5_core") if name not in host.platform["infiniband_modules"]]
    if missing:
        yield Finding(
            "fabric-kernel-module-missing",
            ERROR,
            "kernel modules",
            "ib_umad and mlx5_core loaded",
            f"without {' and '.join(missing)}",
            "the subnet manager of fifth-generation NVLink reaches the switches through these modules",
            f"Load {' and '.join(missing)} at boot (/etc/modules-load.d) and restart {FABRIC_MANAGER}",
        )


def container_toolkit(host: Host) -> Iterator[Finding]:
    versions = host.toolkit
    missing = [name for name in CONTAINER_TOOLKIT if name not in versions]
    if len(missing) == len(CONTAINER_TOOLKIT):
        if host.wanted.get("container_toolkit"):
            yield Finding(
                "container-toolkit-missing",
                ERROR,
                "container_toolkit_version",
                "installed",
                "none",
                "containers on this host are to see the GPUs, and the toolkit is not installed",
                "Install it with the role container_toolkit",
            )
        return
    if missing or len(set(versions.values())) > 1:
        yield Finding(
            "container-toolkit-mixed",
            ERROR,
            "container_toolkit_version",
            "four packages of one version",
            ", ".join(f"{name} {versions.get(name, 'missing')}" for name in CONTAINER_TOOLKIT),
            "the toolkit's packages depend on each other's exact version",
            "Install all four at one version with the role container_toolkit",
        )
        return
    version = versions[CONTAINER_TOOLKIT[0]]
    if version_key(version) < version_key(SECURE_CONTAINER_TOOLKIT):
        yield Finding(
            "container-toolkit-insecure",
            ERROR,
            "container_toolkit_version",
            f"at least {SECURE_CONTAINER_TOOLKIT}",
            version,
            "a container can run code on the host (CVE-2026-24260)",
            f"Move to {SECURE_CONTAINER_TOOLKIT} or newer with the role container_toolkit",
        )


def cdi_specification(host: Host) -> Iterator[Finding]:
    if not host.toolkit or not host.gpus:
        return
    if not host.facts["cdi"]:
        yield Finding(
            "cdi-missing",
            WARNING,
            "CDI specification",
            "/var/run/cdi/nvidia.yaml",
            "none",
            "without it containers lose their GPUs at the next `systemctl daemon-reload`",
            "Start nvidia-cdi-refresh.service, or run `nvidia-ctk cdi generate`",
        )
    for specification in host.facts["cdi"]:
        named = specification["driver_version"]
        if named and host.library_version and named != host.library_version:
            yield Finding(
                "cdi-stale",
                ERROR,
                specification["path"],
                host.library_version,
                named,
                "the specification mounts the libraries of a driver that is not there any more",
                "Generate it again: `systemctl restart nvidia-cdi-refresh.service`",
            )
        elif not any(gpu["mig"]["enabled"] for gpu in host.gpus):
            known = set(specification["devices"])
            absent = [gpu for gpu in host.gpus if not {str(gpu["index"]), gpu["uuid"]} & known]
            if absent:
                yield Finding(
                    "cdi-stale",
                    ERROR,
                    specification["path"],
                    f"{len(host.gpus)} GPUs",
                    f"without GPU {', '.join(str(gpu['index']) for gpu in absent)}",
                    "the specification was generated when the host had fewer GPUs",
                    "Generate it again: `systemctl restart nvidia-cdi-refresh.service`",
                )


def peer_to_peer_paths(host: Host) -> Iterator[Finding]:
    """What stands between GPUs that talk to each other over PCI Express. Inside a virtual machine others decide."""
    if len(host.facts["pci_gpus"]) < 2 or host.platform["virtualisation"] not in EMULATED:
        return
    if host.platform["iommu"] == "translated":
        yield Finding(
            "iommu-translates",
            WARNING,
            "IOMMU",
            "off or passthrough",
            "translated",
            "every transfer between GPUs is translated: slow, and NCCL may hang",
            "Boot with `iommu=pt` (and intel_iommu=on or amd_iommu=on), or turn the IOMMU off in the firmware",
        )
    bridges = host.platform["acs_redirecting_bridges"]
    if bridges:
        yield Finding(
            "acs-redirects",
            WARNING,
            "PCI bridges",
            "no redirection between GPUs",
            ", ".join(bridges),
            "Access Control Services send traffic between GPUs through the root complex: slow, and NCCL may hang",
            "Turn ACS off in the firmware, or clear it on these bridges at boot with setpci",
        )


def facts_complete(host: Host) -> Iterator[Finding]:
    for problem in host.facts["problems"]:
        yield Finding(
            "facts-incomplete",
            NOTE,
            "gpu_info",
            "everything read",
            problem,
            "part of the host could not be looked at, so nothing was judged about it",
            "Run gpu_info as root and read its `problems`",
        )


CHECKS = (
    gpus_and_driver,
    packages_whole,
    module_build,
    module_loaded,
    module_for_next_boot,
    module_flavour,
    module_signature,
    library_and_module,
    nvml_answers,
    packages_held,
    driver_supported,
    fabric_packages,
    fabric_services,
    fabric_kernel_modules,
    container_toolkit,
    cdi_specification,
    peer_to_peer_paths,
    facts_complete,
)
