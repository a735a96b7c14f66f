# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine under a host means for what the site wants of it.

A blocker is what keeps an engine or a driver from being installed or started, or a host from being what the site
demands of its hosts. What only costs speed, or what the roles put right, is a warning. A site accepts each of these by
its code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.finding import (
    ACCEPTED,
    GIB,
    Findings,
    is_list,
    kind,
    size,
    suggestion,
)
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_info_boot import version_key
from ansible_collections.baremetal.llm.plugins.module_utils.host_readiness_machine import DISK_KINDS
from ansible_collections.baremetal.llm.plugins.module_utils.site import (
    GPU_GROUP,
    Site,
    entries,
    source_url,
    url_host,
)

# Certificates and signed package indexes that were made a moment ago must not lie in a host's future.
GREATEST_SKEW_SECONDS = 30
# Without what kernels differ in: NovaCore, nova-core and nova_core are one driver.
RIVALS = ("nouveau", "nova", "novacore", "novadrm")
VIRTUAL_MACHINE_DRIVERS = ("vfio-pci", "pci-stub", "xen-pciback")
DISK_NAMES = {"hdd": "a rotating disk", "ssd": "a SATA or SAS SSD", "nvme": "NVMe"}

# What a site may know and take, by `preflight_accept`.
ACCEPTABLE = (
    "acs-redirects",
    "apt-source-unresolved",
    "clock-not-synchronised",
    "clock-skewed",
    "cpu-cores-too-few",
    "cpu-without-avx2",
    "disk-below-minimum",
    "disk-too-slow",
    "driver-partly-held",
    "gpu-driver-rival",
    "gpu-none",
    "gpu-not-bound",
    "gpu-reserved",
    "gpu-without-driver",
    "host-is-container",
    "iommu-translates",
    "kernel-headers-missing",
    "kernel-reboot-pending",
    "kernel-too-old",
    "limit-too-low",
    "memory-too-small",
    "name-unresolved",
    "package-broken",
    "package-manager-locked",
    "proxy-unresolved",
    "secure-boot-unsigned",
    "shm-too-small",
    "swap-used",
)
NUMBERS = ("cpu_cores", "cpu_cores_per_gpu", "memory_gib", "disk_gib", "shm_gib", "open_files", "memlock_gib")
MINIMUM_KEYS = ("kernel", "disk_class", *NUMBERS)


def model_root(site: Site, host: str) -> str:
    """Where *host* keeps weights: what it was asked about, since a host may have a disk of its own for them."""
    state = site.hosts.get(host)
    root = state.wanted.get("model_root") if state else None
    return root if isinstance(root, str) and root else site.model_root


def gateway_port(site: Site, host: str) -> int:
    """The port on which a gateway on *host* listens for HTTPS: what it was asked about."""
    state = site.hosts.get(host)
    port = state.wanted.get("gateway_port") if state else None
    return port if isinstance(port, int) and not isinstance(port, bool) else site.gateway_port


def minimum_problem(key: str, value: Any) -> str:
    """What is wrong with an entry of a minimum; nothing if it can be used."""
    if key not in MINIMUM_KEYS:
        return f"is no key that exists here; expected one of {', '.join(MINIMUM_KEYS)}.{suggestion(key, MINIMUM_KEYS)}"
    if key == "kernel":
        good = isinstance(value, str) and value[:1].isdigit()
        return "" if good else f"is {kind(value)}, expected a version in quotes, such as '5.15'"
    if key == "disk_class":
        return "" if value in DISK_KINDS else f"is {value!r}, expected one of {', '.join(DISK_KINDS)}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        return f"is {value!r}, expected a number that is not below 0"
    return ""


class MachineChecks(Findings):
    """Judges the machines, one after the other."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self._engines = set(site.groups.get(GPU_GROUP, ()))
        self._fleet_has_gpus = any(
            (state.readiness.get("machine") or {}).get("gpus")
            for host, state in site.hosts.items()
            if host in self._engines
        )
        # Of the host that is being judged.
        self._host = ""
        self._machine: Mapping[str, Any] = {}
        self._wanted: Mapping[str, Any] = {}

    def check(self, host: str, readiness: Mapping[str, Any], wanted: Mapping[str, Any], fetched: Sequence[str]) -> None:
        """Judge *host*. *fetched*: the names of the models that it has yet to fetch."""
        machine = readiness.get("machine") or {}
        if not machine:
            return
        self._host, self._machine, self._wanted = host, machine, wanted
        before = len(self.findings)
        gpus = machine.get("gpus") or []
        engine = host in self._engines
        carrier = engine and bool(gpus)
        name = "preflight_minimum" if carrier else "preflight_minimum_without_gpu"
        self._minimum(name, len(gpus) if carrier else 0, readiness)
        self._clock()
        self._names(fetched)
        self._packages()
        if engine:
            self._engine()
        if carrier:
            self._graphics(gpus)
        self._accept(before)

    def _error(self, code: str, variable: str, message: str, action: str) -> None:
        self.add(code, variable, message, action, [self._host])

    def _warning(self, code: str, variable: str, message: str, action: str) -> None:
        self.warn(code, variable, message, action, [self._host])

    def _accept(self, before: int) -> None:
        accepted = self._wanted.get("accept")
        codes = list(accepted) if is_list(accepted) and accepted else []
        if accepted is not None and not is_list(accepted):
            self._error(
                "accept-invalid",
                "preflight_accept",
                f"is {kind(accepted)}, expected a list of codes",
                "Write it as a list, one code of docs/findings.md per entry.",
            )
        self.findings[before:] = [
            replace(finding, severity=ACCEPTED) if finding.code in codes and finding.code in ACCEPTABLE else finding
            for finding in self.findings[before:]
        ]
        for code in codes:
            if code not in ACCEPTABLE:
                self._error(
                    "accept-invalid",
                    "preflight_accept",
                    f"names {code!r}, which is no code that can be accepted." + suggestion(str(code), ACCEPTABLE),
                    "Correct or remove it. Only what is said of a machine can be accepted, as listed in "
                    "docs/findings.md; the rest has to be put right.",
                )

    # What the site demands of its hosts

    def _minimum(self, name: str, gpus: int, readiness: Mapping[str, Any]) -> None:
        given = self._wanted.get(name.replace("preflight_", "")) or {}
        if not isinstance(given, Mapping):
            self._error(
                "minimum-invalid",
                name,
                f"is {kind(given)}, expected a mapping",
                f"Write it as a mapping with keys of {', '.join(MINIMUM_KEYS)}. What has no key is not looked at.",
            )
            return
        minimum = {}
        for key, value in given.items():
            problem = minimum_problem(str(key), value)
            if problem:
                self._error("minimum-invalid", f"{name}.{key}", problem, "Correct or remove the entry.")
            else:
                minimum[key] = value
        self._kernel_minimum(name, minimum)
        self._cpu_minimum(name, minimum, gpus)
        self._memory_minimum(name, minimum)
        self._disk_minimum(name, minimum, readiness)
        self._limits_minimum(name, minimum)

    def _kernel_minimum(self, name: str, minimum: Mapping[str, Any]) -> None:
        running = str((self._machine.get("kernel") or {}).get("running") or "")
        least = minimum.get("kernel")
        if not least or not running or version_key(running) >= version_key(least):
            return
        held = (self._machine.get("packages") or {}).get("kernel_held") or []
        hold = f" Its packages are held ({', '.join(held)}): apt-mark unhold lifts that." if held else ""
        self._error(
            "kernel-too-old",
            f"{name}.kernel",
            f"is {least}, but the host runs {running}",
            f"Install a newer kernel of the distribution and reboot.{hold}",
        )

    def _cpu_minimum(self, name: str, minimum: Mapping[str, Any], gpus: int) -> None:
        cores = (self._machine.get("cpu") or {}).get("cores") or 0
        base, per_gpu = minimum.get("cpu_cores", 0), minimum.get("cpu_cores_per_gpu", 0)
        need = base + per_gpu * gpus
        if cores and cores < need:
            terms = f" ({base}, and {per_gpu} for each of {gpus} GPUs)" if per_gpu and gpus else ""
            self._error(
                "cpu-cores-too-few",
                f"{name}.cpu_cores",
                f"asks for {need} cores{terms}, but the host has {cores}",
                "Give the host more cores: processes of an engine that share one keep its GPUs waiting. "
                + _or_less(f"{name}.cpu_cores"),
            )

    def _memory_minimum(self, name: str, minimum: Mapping[str, Any]) -> None:
        memory, least = self._machine.get("memory_bytes"), int(minimum.get("memory_gib", 0) * GIB)
        if memory is not None and memory < least:
            self._error(
                "memory-too-small",
                f"{name}.memory_gib",
                f"asks for {size(least)} of memory, but the host has {size(memory)}",
                "Add memory. " + _or_less(f"{name}.memory_gib"),
            )
        shared, least = self._machine.get("shm_bytes"), int(minimum.get("shm_gib", 0) * GIB)
        if shared is not None and shared < least:
            self._error(
                "shm-too-small",
                f"{name}.shm_gib",
                f"asks for {size(least)} in /dev/shm, through which the processes of an engine talk, but the host has "
                f"{size(shared)}",
                "On a real host remove the line of /dev/shm from /etc/fstab (without one it is half of the memory) and "
                "remount it; a container gets it with --shm-size. " + _or_less(f"{name}.shm_gib"),
            )

    def _disk_minimum(self, name: str, minimum: Mapping[str, Any], readiness: Mapping[str, Any]) -> None:
        least = int(minimum.get("disk_gib", 0) * GIB)
        for space in readiness.get("space") or ():
            total = space.get("total_bytes")
            if space["path"] == model_root(self.site, self._host) and total is not None and total < least:
                self._error(
                    "disk-below-minimum",
                    f"{name}.disk_gib",
                    f"asks for a file system of {size(least)} for {space['path']}, but {space['mount']} has "
                    f"{size(total)}",
                    f"Mount a larger disk at {space['path']}. " + _or_less(f"{name}.disk_gib"),
                )
        slowest = minimum.get("disk_class")
        for disk in self._machine.get("disks") or ():
            found = disk.get("kind")
            # What a virtual disk or a network file system can do is not written on it.
            if slowest in DISK_KINDS and found in DISK_KINDS and DISK_KINDS.index(found) < DISK_KINDS.index(slowest):
                names = ", ".join(device["name"] for device in disk.get("devices") or ())
                self._error(
                    "disk-too-slow",
                    f"{name}.disk_class",
                    f"asks for {DISK_NAMES[slowest]} below {disk['path']}, but {disk['mount']} lies on "
                    f"{DISK_NAMES[found]} ({names}): an engine reads all weights at every start",
                    f"Mount a faster disk at {disk['path']}. " + _or_less(f"{name}.disk_class"),
                )

    def _limits_minimum(self, name: str, minimum: Mapping[str, Any]) -> None:
        limits = self._machine.get("limits") or {}
        if limits.get("may_raise", True):
            return
        wanted = {"open_files": minimum.get("open_files", 0), "memlock_bytes": minimum.get("memlock_gib", 0) * GIB}
        for key, words in (("open_files", "open files"), ("memlock_bytes", "bytes of locked memory")):
            least, actual = int(wanted[key]), limits.get(key)
            if actual is not None and actual < least:
                entry = f"{name}.{key.replace('_bytes', '_gib')}"
                self._error(
                    "limit-too-low",
                    entry,
                    f"asks for {least} {words}, but no service of the host gets more than {actual}",
                    "Raise the limit where the container or virtual machine is made: nothing inside of it can. "
                    + _or_less(entry),
                )

    # What holds for every host

    def _clock(self) -> None:
        clock = self._machine.get("clock") or {}
        skew = clock.get("skew_seconds") or 0.0
        if abs(skew) > GREATEST_SKEW_SECONDS:
            self._error(
                "clock-skewed",
                "ansible_host",
                f"leads to a host whose clock is {'ahead of' if skew > 0 else 'behind'} the controller's by at least "
                f"{abs(skew):.0f} seconds; certificates and signed package indexes would not be valid yet, or no more",
                "Let one of chrony, systemd-timesyncd and ntpd keep the time of the host, and of the controller.",
            )
        elif clock.get("synchronised") is False and not self._machine.get("container"):
            self._warning(
                "clock-not-synchronised",
                "ansible_host",
                "leads to a host whose clock nothing keeps right",
                "Install and start one of chrony, systemd-timesyncd and ntpd. If one runs, look at whether it reaches "
                "its server.",
            )

    def _names(self, fetched: Sequence[str]) -> None:
        names = self._machine.get("names") or {}
        proxies = self._machine.get("proxies") or {}
        apart = proxies.get("environment") or {}
        hint = "Correct the DNS servers of the host (resolvectl status, /etc/resolv.conf), or the address."
        if proxies.get("apt") and not apart:
            hint += " Only apt was given a proxy there; if this should use one too, set https_proxy for the tasks."

        def bad(url: Any) -> str:
            """The name in *url* that the host itself has to resolve and cannot."""
            name = url_host(url)
            if names.get(name) and not _through_proxy(str(url), name, proxies):
                return f"{name} ({names[name]})"
            return ""

        urls = self._wanted.get("urls") or {}
        if not isinstance(urls, Mapping):
            self._error(
                "value-type",
                "preflight_urls",
                f"is {kind(urls)}, expected a mapping",
                "Write it as a mapping from the name of a variable to the URL that it holds.",
            )
            urls = {}
        for variable, url in urls.items():
            if bad(url):
                self._error("name-unresolved", str(variable), f"leads to {bad(url)}: the host cannot resolve it", hint)
        for index, model in enumerate(self.site.models if is_list(self.site.models) else ()):
            if not isinstance(model, Mapping) or model.get("name") not in fetched:
                continue
            sources = [source_url(source) for source in entries(model.get("sources"))]
            lost = [bad(url) for url in sources if bad(url)]
            if lost:
                say = self._error if len(lost) == len(sources) else self._warning
                rest = "no source is left" if len(lost) == len(sources) else "the other sources are left"
                message = f"leads to {', '.join(lost)}: the host cannot resolve it, and {rest}"
                say("name-unresolved", f"llm_models[{index}].sources", message, hint)
        sources = [url for url in self._machine.get("apt_sources") or () if url_host(url)]
        if not apart and not proxies.get("apt"):
            lost = [bad(url) for url in sources if bad(url)]
            if lost:
                say = self._error if len(lost) == len(sources) else self._warning
                shown = ", ".join(dict.fromkeys(lost))
                message = f"lead to {shown}: the host cannot resolve it, so no package comes from there"
                say("apt-source-unresolved", "/etc/apt/sources.list.d", message, hint)
        for where in ("environment", "apt"):
            for scheme, url in (proxies.get(where) or {}).items():
                if names.get(url_host(url)):
                    self._error(
                        "proxy-unresolved",
                        f"{scheme}_proxy" if where == "environment" else f"Acquire::{scheme}::Proxy",
                        f"is {url} on the host, which cannot resolve {url_host(url)} ({names[url_host(url)]})",
                        "Correct the proxy in /etc/environment or /etc/apt/apt.conf.d of the host, or its DNS servers.",
                    )

    def _packages(self) -> None:
        packages = self._machine.get("packages") or {}
        broken = packages.get("broken") or []
        if broken:
            listed = ", ".join(f"{item['name']} ({item['state']})" for item in broken[:6])
            more = f" and {len(broken) - 6} more" if len(broken) > 6 else ""
            self._error(
                "package-broken",
                "ansible_host",
                f"leads to a host with packages that dpkg did not finish: {listed}{more}; until it has, every run of "
                "apt fails, whatever it installs",
                "Run dpkg --configure --pending on the host and read why it fails; apt-get --fix-broken install brings "
                "what is missing.",
            )
        lock = packages.get("lock")
        if lock:
            owner = "a process outside of its container"
            if lock["pid"] > 0:
                owner = f"process {lock['process'] or 'of an unknown name'} (PID {lock['pid']})"
            self._error(
                "package-manager-locked",
                "ansible_host",
                f"leads to a host on which {owner} holds {lock['path']}: packages are being changed there just now",
                "Wait until it is done (an automatic upgrade takes minutes), or answer the question it waits with.",
            )
        held, loose = packages.get("driver_held") or [], packages.get("driver_not_held") or []
        if held and loose:
            self._warning(
                "driver-partly-held",
                "ansible_host",
                f"leads to a host where {len(held)} packages of the NVIDIA driver are held and {len(loose)} are not "
                f"({', '.join(loose[:3])}{', …' if len(loose) > 3 else ''}): the next upgrade moves half of the driver",
                "Let the role nvidia_driver hold the whole set, or hold or release all of them.",
            )

    # What holds for hosts that run engines

    def _engine(self) -> None:
        machine = self._machine
        if self._fleet_has_gpus and not machine.get("gpus"):
            self._error(
                "gpu-none",
                f"groups.{GPU_GROUP}",
                "has a host without any NVIDIA GPU on its PCI bus, while others of the group have some",
                "Look into the host's firmware and its kernel log for a GPU that fell off the bus, pass one through to "
                f"the virtual machine, or take the host out of {GPU_GROUP}.",
            )
        cpu = machine.get("cpu") or {}
        if cpu.get("model") and "avx2" not in (cpu.get("avx") or ()) and self._x86():
            self._warning(
                "cpu-without-avx2",
                "ansible_host",
                f"leads to a host whose CPU ({cpu['model']}) has no AVX2, which parts of the engines are built with",
                "In a virtual machine let the CPU through (cpu: host); otherwise use a newer host.",
            )
        if machine.get("container"):
            return
        used = machine.get("swap_used_bytes") or 0
        if used > GIB:
            self._warning(
                "swap-used",
                "ansible_host",
                f"leads to a host that has swapped out {size(used)}: its memory was too small for what ran there, and "
                "an engine whose memory is swapped answers slowly",
                "Find what uses the memory, give it less, or add memory.",
            )

    def _x86(self) -> bool:
        return self._architecture in ("x86_64", "i686", "")

    @property
    def _architecture(self) -> str:
        return str(self.site.hosts[self._host].readiness.get("architecture") or "")

    def _graphics(self, gpus: Sequence[Mapping[str, Any]]) -> None:
        if self._machine.get("container"):
            self._warning(
                "host-is-container",
                "ansible_host",
                f"leads to a container ({self._machine.get('virtualisation')}) that sees {len(gpus)} NVIDIA GPUs: "
                "their driver, its kernel module and the limits belong to the machine around it",
                "Provision the machine itself. If somebody else does that, leave the role nvidia_driver out.",
            )
            return
        self._drivers(gpus)
        self._kernels()
        self._secure_boot()
        self._peer_to_peer(gpus)

    def _drivers(self, gpus: Sequence[Mapping[str, Any]]) -> None:
        by_driver: dict[str, list[str]] = {}
        for gpu in gpus:
            by_driver.setdefault(str(gpu.get("driver") or ""), []).append(str(gpu["pci_address"]))
        rivals = [
            (driver, addresses)
            for driver, addresses in by_driver.items()
            if driver.lower().replace("_", "").replace("-", "") in RIVALS
        ]
        for driver, addresses in rivals:
            self._warning(
                "gpu-driver-rival",
                f"groups.{GPU_GROUP}",
                f"has a host whose GPUs {', '.join(addresses)} are worked by {driver}: NVIDIA's cannot have them",
                "Let the role nvidia_driver keep it from loading, also in the initramfs, and reboot.",
            )
        for driver, addresses in by_driver.items():
            if driver in VIRTUAL_MACHINE_DRIVERS:
                self._error(
                    "gpu-reserved",
                    f"groups.{GPU_GROUP}",
                    f"has a host whose GPUs {', '.join(addresses)} are kept for virtual machines by {driver}",
                    "Take vfio-pci.ids and the like from the kernel's command line and /etc/modprobe.d, or replace the "
                    f"host in {GPU_GROUP} by its virtual machine.",
                )
        free = by_driver.get("", [])
        if free and "nvidia" in by_driver:
            self._error(
                "gpu-not-bound",
                f"groups.{GPU_GROUP}",
                f"has a host on which the driver works {len(by_driver['nvidia'])} of {len(gpus)} GPUs, but not "
                f"{', '.join(free)}",
                "Look for Xid and RmInitAdapter in the kernel log (journalctl -k): the GPU is at fault or too old or "
                "too new for this driver.",
            )
        elif free:
            loaded = "is not loaded" if not self._machine.get("driver_loaded") else "is loaded without them"
            self._warning(
                "gpu-without-driver",
                f"groups.{GPU_GROUP}",
                f"has a host with {len(free)} NVIDIA GPUs on the PCI bus ({', '.join(free)}) that no driver works; "
                f"NVIDIA's {loaded}",
                "Install the driver, with the role nvidia_driver, before an engine is started.",
            )

    def _kernels(self) -> None:
        kernel = self._machine.get("kernel") or {}
        upcoming, running = kernel.get("next_boot"), kernel.get("running")
        if upcoming and upcoming != running:
            self._warning(
                "kernel-reboot-pending",
                "ansible_host",
                f"leads to a host that runs Linux {running} and boots {upcoming} next",
                "Reboot before the driver is installed, so that the kernel it is built for is the one that runs.",
            )
        bare = [
            str(item["release"])
            for item in kernel.get("installed") or ()
            if item.get("headers") == "missing" and not item.get("driver")
        ]
        if bare:
            self._error(
                "kernel-headers-missing",
                "ansible_host",
                f"leads to a host with Linux {', '.join(bare)}, whose headers are neither installed nor offered by its "
                "package sources: no driver can be built for it",
                "Add the package source that has them (linux-headers-<release>), remove that kernel, or use a driver "
                "that comes built (linux-modules-nvidia-...).",
            )

    def _secure_boot(self) -> None:
        machine = self._machine
        if not machine.get("secure_boot") or machine.get("driver_loaded") or machine.get("key_enrolled"):
            return
        distribution = self.site.hosts[self._host].readiness.get("distribution") or {}
        key = str(machine.get("key") or "")
        ubuntu = distribution.get("id") == "ubuntu"
        path = key or ("/var/lib/shim-signed/mok/MOK.der" if ubuntu else "/var/lib/dkms/mok.pub")
        made = "" if key else " (made when DKMS builds its first module)"
        plan = (
            f"enrol the key that DKMS signs with, {path}{made}: mokutil --import {path} with a one-time password, "
            "reboot, and on the console choose Enroll MOK and give that password; mokutil --test-key then says that it "
            "is enrolled"
        )
        message = (
            "leads to a host with Secure Boot, whose kernel loads only modules that are signed with a key it knows"
        )
        if ubuntu:
            self._warning(
                "secure-boot-unsigned",
                "ansible_host",
                message,
                "Take the driver from Canonical's archive (linux-modules-nvidia-...), whose modules are signed. For one"
                f" that DKMS builds, {plan}.",
            )
        else:
            self._error(
                "secure-boot-unsigned",
                "ansible_host",
                f"{message}; the driver is built on the host, and its key is not enrolled",
                f"{plan[:1].upper()}{plan[1:]}. Or switch Secure Boot off in the firmware.",
            )

    def _peer_to_peer(self, gpus: Sequence[Mapping[str, Any]]) -> None:
        # In a virtual machine these are what the machine around it has set.
        if len(gpus) < 2 or self._machine.get("virtualisation") != "none":
            return
        bridges = self._machine.get("acs_redirecting_bridges") or []
        if bridges:
            self._warning(
                "acs-redirects",
                f"groups.{GPU_GROUP}",
                f"has a host whose PCI bridges {', '.join(bridges)} send traffic between GPUs through the root complex "
                "(Access Control Services): collective operations are slow or hang",
                "Switch ACS off in the firmware, or on these bridges at every boot, unless the host also runs virtual "
                "machines. GPUs that are joined by NVLink suffer less.",
            )
        if self._machine.get("iommu") == "translated":
            self._warning(
                "iommu-translates",
                f"groups.{GPU_GROUP}",
                "has a host whose IOMMU translates the addresses of its GPUs: traffic between them is slow or fails",
                "Boot with iommu=pt, or switch the IOMMU off in the firmware, unless it also runs virtual machines.",
            )


def _or_less(entry: str) -> str:
    return f"If the site is content with less, lower {entry}, or accept the code in preflight_accept."


def _through_proxy(url: str, name: str, proxies: Mapping[str, Any]) -> bool:
    """Whether tasks on the host ask a proxy for *url*, which then resolves the name."""
    if url.partition(":")[0] not in (proxies.get("environment") or {}):
        return False
    exceptions = [str(entry).lower().lstrip("*").lstrip(".") for entry in proxies.get("exceptions") or ()]
    return not any(name == entry or name.endswith(f".{entry}") for entry in exceptions if entry)
