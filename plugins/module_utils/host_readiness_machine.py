# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is made of and what state it is in, as far as that can be read without changing or installing anything.

Kernel, CPU, memory, disks, limits, clock, names, proxies, packages, firmware and the GPUs on the PCI bus.
`None` means that nobody could say.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import posixpath
import re
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import Package
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_info_boot import (
    installed_kernels,
    next_boot_kernel,
    running_kernel,
)
from ansible_collections.baremetal.llm.plugins.module_utils.parity_facts import driver_version
from ansible_collections.baremetal.llm.plugins.module_utils.pci import (
    read_acs_redirecting_bridges,
    read_iommu,
    read_pci_gpus,
    read_secure_boot,
)
from ansible_collections.baremetal.llm.plugins.module_utils.site import url_host
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

# What a file system lies on, from slow to fast. Other kinds are not compared: nobody knows what is behind them.
DISK_KINDS = ("hdd", "ssd", "nvme")
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "beegfs", "gpfs", "glusterfs", "wekafs", "9p")
CONTAINERS = ("docker", "podman", "lxc", "lxc-libvirt", "systemd-nspawn", "openvz", "rkt", "proot", "container-other")
# SCSI disks that are somebody else's file or volume.
VIRTUAL_VENDORS = ("QEMU", "VMware", "Msft", "Google", "Virtual", "VBOX")

# How long the host may take to resolve all names together, and how long a package manager may need to finish.
RESOLVE_SECONDS = 5.0
LOCK_GRACE_SECONDS = 3.0
PACKAGE_LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock")
# Package states of dpkg in which nothing is left to do, or nothing that apt does not do in passing.
SETTLED_STATES = ("installed", "config-files", "not-installed", "triggers-awaited", "triggers-pending")

_KERNEL_PACKAGE = re.compile(r"linux-(image|headers)-")
_PROXY = re.compile(r'^Acquire::(https?)::Proxy\s+"([^"]*)";$', re.MULTILINE)
# CAP_SYS_RESOURCE: whoever has it raises limits past the hard ones.
_RAISE_LIMITS = 1 << 24
_NOT_SYNCHRONISED = 0x40
# Where DKMS puts the public half of the key that it signs modules with: its own place, and Ubuntu's.
MODULE_KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub")

Resolve = Callable[[str], str]


# CPU, memory, limits


def parse_cpu(cpuinfo: str, cores: int) -> dict[str, Any]:
    """The CPU of /proc/cpuinfo. *cores* is what the topology says; 0 if it says nothing."""
    threads = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return {
        "model": model[1].strip() if model else "",
        "threads": threads,
        "cores": cores or threads,
        "avx": [name for name in ("avx", "avx2", "avx512f") if name in known],
    }


def read_cpu(system: System) -> dict[str, Any]:
    folder = "/sys/devices/system/cpu"
    siblings = {
        (system.read(f"{folder}/{name}/topology/thread_siblings_list") or "").strip()
        for name in system.list(folder)
        if re.fullmatch(r"cpu\d+", name)
    } - {""}
    return parse_cpu(system.read("/proc/cpuinfo") or "", len(siblings))


def read_memory(system: System) -> dict[str, int | None]:
    """Memory and swap in bytes; a container has what its control group leaves it."""
    fields = {
        match[1]: int(match[2]) * 1024
        for match in re.finditer(r"^(\w+):\s+(\d+) kB$", system.read("/proc/meminfo") or "", re.MULTILINE)
    }
    total = fields.get("MemTotal")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = (system.read(path) or "").strip()
        if limit.isdigit() and total is not None:
            total = min(total, int(limit))
    swap, free = fields.get("SwapTotal"), fields.get("SwapFree")
    return {
        "memory_bytes": total,
        "swap_bytes": swap,
        "swap_used_bytes": None if swap is None or free is None else swap - free,
    }


def read_limits(system: System) -> dict[str, Any]:
    """The hard limits of the first process, `None` being no limit, and whether it may raise them for others."""
    text = system.read("/proc/1/limits") or ""

    def hard(name: str) -> int | None:
        match = re.search(rf"^{name}\s+\S+\s+(\d+)", text, re.MULTILINE)
        return int(match[1]) if match else None

    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", system.read("/proc/1/status") or "", re.MULTILINE)
    return {
        "open_files": hard("Max open files"),
        "memlock_bytes": hard("Max locked memory"),
        "may_raise": bool(effective and int(effective[1], 16) & _RAISE_LIMITS),
    }


def read_size(path: str) -> int | None:
    """Size in bytes of the file system at *path*, `None` if there is none."""
    try:
        values = os.statvfs(path)
    except OSError:
        return None
    return values.f_blocks * values.f_frsize


# Kernel


def read_kernel(system: System, apt: bool) -> dict[str, Any]:
    """The running kernel, the one that boots next, and whether each installed one has its headers.

    *apt*: ask whether missing headers can be installed, which takes a second.
    """
    releases = installed_kernels(system)
    kernels = []
    for release in releases:
        headers = (
            "installed" if system.exists(system.resolve(f"/lib/modules/{release}/build") + "/Makefile") else "missing"
        )
        if headers == "missing" and apt:
            headers = _headers_in_apt(system, release)
        kernels.append({"release": release, "headers": headers, "driver": _has_driver(system, release)})
    upcoming = next_boot_kernel(system, releases)[0] or None
    return {"running": running_kernel(system), "next_boot": upcoming, "installed": kernels}


def _headers_in_apt(system: System, release: str) -> str:
    # Without apt's caches on disk, which it would write.
    memory = ("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")
    shown = system.run(["apt-cache", *memory, "show", "--no-all-versions", f"linux-headers-{release}"], 30)
    return "available" if shown.ok and shown.stdout.strip() else "missing"


def _has_driver(system: System, release: str) -> bool:
    """Whether NVIDIA's module lies where packages and DKMS put it."""
    folder = f"/lib/modules/{release}"
    places = ["updates/dkms", "updates", "extra", "kernel/drivers/video", "kernel/drivers/video/nvidia"]
    places += [f"kernel/{name}" for name in system.list(f"{folder}/kernel") if name.startswith("nvidia")]
    return any(re.match(r"nvidia.*\.ko", name) for place in places for name in system.list(f"{folder}/{place}"))


# Disks


def parse_mounts(text: str) -> list[tuple[str, str, str, str]]:
    """(mount point, device number, type, source) of each line of /proc/self/mountinfo."""
    mounts = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if separator and len(fields) >= 5 and len(rest) >= 2:
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            mounts.append((point, fields[2], rest[0], rest[1]))
    return mounts


def disk_kind(system: System, name: str) -> str:
    """What one disk is: hdd, ssd, nvme, virtual, network or unknown."""
    folder = system.resolve(f"/sys/block/{name}")
    if name.startswith("nvme"):
        controller = re.match(r"nvme\d+", name)
        transport = system.read(f"/sys/class/nvme/{controller[0] if controller else name}/transport") or "pcie"
        return "nvme" if transport.strip() == "pcie" else "network"
    vendor = (system.read(f"/sys/block/{name}/device/vendor") or "").strip()
    if "/virtio" in folder or re.match(r"(vd|xvd)[a-z]", name) or vendor.startswith(VIRTUAL_VENDORS):
        return "virtual"
    if not re.match(r"(sd|hd|mmcblk)", name):
        return "unknown"
    rotational = (system.read(f"/sys/block/{name}/queue/rotational") or "").strip()
    return {"1": "hdd", "0": "ssd"}.get(rotational, "unknown")


def _disks_below(system: System, folder: str) -> list[str]:
    """The names of the disks that the block device at *folder* is made of."""
    if system.exists(f"{folder}/partition"):
        folder = posixpath.dirname(folder)
    slaves = system.list(f"{folder}/slaves")
    if not slaves:
        return [posixpath.basename(folder)]
    names = [name for slave in slaves for name in _disks_below(system, system.resolve(f"{folder}/slaves/{slave}"))]
    return list(dict.fromkeys(names))


def read_disk(system: System, path: str, mount: str) -> dict[str, Any]:
    """What the file system at *mount* lies on. `kind` is that of its slowest disk."""
    number, file_system, source = "", "", ""
    for found in parse_mounts(system.read("/proc/self/mountinfo") or ""):
        if found[0] == mount:
            number, file_system, source = found[1:]
    disk: dict[str, Any] = {"path": path, "mount": mount, "file_system": file_system, "devices": [], "kind": "unknown"}
    if file_system in NETWORK_FILE_SYSTEMS:
        disk["kind"] = "network"
    elif file_system in ("tmpfs", "ramfs"):
        disk["kind"] = "memory"
    else:
        entry = f"/sys/dev/block/{number}"
        if not number or not system.exists(entry):
            # Some file systems have a number of their own, and say in the source what they lie on.
            entry = f"/sys/class/block/{posixpath.basename(source)}" if source.startswith("/dev/") else ""
        if entry and system.exists(entry):
            names = _disks_below(system, system.resolve(entry))
            disk["devices"] = [{"name": name, "kind": disk_kind(system, name)} for name in names]
    kinds = [device["kind"] for device in disk["devices"]]
    if kinds:
        strange = [kind for kind in kinds if kind not in DISK_KINDS]
        disk["kind"] = strange[0] if strange else min(kinds, key=DISK_KINDS.index)
    return disk


# Time


def read_clock() -> dict[str, Any]:
    """The host's time in seconds since 1970, and whether the kernel knows it to be synchronised."""
    return {"now": time.time(), "synchronised": _synchronised()}


def _synchronised() -> bool | None:
    # adjtimex(2) with nothing to set, which is what timedatectl asks, without starting a service for it.
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        record = ctypes.create_string_buffer(512)
        state = libc.adjtimex(record)
    except (OSError, AttributeError):
        return None
    if state < 0 or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    (status,) = struct.unpack_from("i", record.raw, 40)
    return not status & _NOT_SYNCHRONISED


def clock_skew(now: float, before: float, after: float) -> float:
    """By how much a clock that said *now* between *before* and *after* of another clock is ahead, at the least."""
    return now - before if now < before else max(0.0, now - after)


# Names and proxies


def parse_apt_sources(texts: Iterable[tuple[str, str]]) -> list[str]:
    """The URLs of the package sources in (file name, text), each once."""
    urls: dict[str, None] = {}
    for name, text in texts:
        if name.endswith(".sources"):
            for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
                fields = dict(re.findall(r"(?m)^([\w-]+):[ \t]*((?:.*)(?:\n[ \t]+.*)*)", stanza))
                if fields.get("Enabled", "yes").strip().lower() not in ("no", "false", "0"):
                    urls.update(dict.fromkeys(fields.get("URIs", "").split()))
        else:
            for line in text.splitlines():
                match = re.match(r"\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)", line)
                if match:
                    urls[match[1]] = None
    return [url for url in urls if re.match(r"(?:mirror\+)?https?://", url)]


def read_apt_sources(system: System) -> list[str]:
    folder = "/etc/apt/sources.list.d"
    paths = ["/etc/apt/sources.list"]
    paths += [f"{folder}/{name}" for name in system.list(folder) if name.endswith((".list", ".sources"))]
    return parse_apt_sources((path, system.read(path) or "") for path in paths)


def without_credentials(url: str) -> str:
    """A proxy's address as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", url)


def read_proxies(system: System, environment: Mapping[str, str]) -> dict[str, Any]:
    """The proxies that tasks on the host see, and those that apt was given."""
    found: dict[str, Any] = {"environment": {}, "apt": {}}
    for scheme in ("http", "https"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            if environment.get(name):
                found["environment"].setdefault(scheme, without_credentials(environment[name]))
    exceptions = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    found["exceptions"] = [part.strip() for part in exceptions.split(",") if part.strip()]
    for scheme, url in _PROXY.findall(system.run(["apt-config", "dump"]).stdout):
        if url and url != "DIRECT":
            found["apt"][scheme] = without_credentials(url)
    return found


def resolve(name: str) -> str:
    """Why the host cannot resolve *name*; nothing if it can."""
    try:
        socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def resolve_all(names: Sequence[str], resolver: Resolve = resolve, seconds: float = RESOLVE_SECONDS) -> dict[str, str]:
    """What *resolver* says of each name, all asked at once; none is waited for longer than *seconds*."""
    answers: dict[str, str] = {}

    def ask(name: str) -> None:
        answers[name] = resolver(name)

    # Daemons, since a resolver that hangs cannot be stopped and must not keep the module from ending.
    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    found = dict(answers)
    return {name: found.get(name, f"no answer within {seconds:g} s") for name in names}


# Packages


def parse_packages(text: str) -> dict[str, Any]:
    """What the lines of dpkg-query mean: packages in the middle of something, and holds of driver and kernel."""
    broken = []
    held: list[str] = []
    loose: list[str] = []
    kernels: list[str] = []
    for line in text.splitlines():
        want, flag, state, name, version = (line.split() + [""] * 5)[:5]
        if not name:
            continue
        if state not in SETTLED_STATES or flag == "reinstreq":
            broken.append({"name": name, "state": "reinstall required" if flag == "reinstreq" else state})
        package: Package = {
            "name": name,
            "version": version,
            "state": state,
            "held": want == "hold",
            "architecture": "",
        }
        if state == "installed" and driver_version(package):
            (held if want == "hold" else loose).append(name)
        elif want == "hold" and _KERNEL_PACKAGE.match(name):
            kernels.append(name)
    return {"broken": broken, "driver_held": held, "driver_not_held": loose, "kernel_held": kernels}


def lock_holder(path: str) -> int | None:
    """The process that has locked the file *path*: 0 if nobody has, `None` if that cannot be seen."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack("hhqqi", fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    # A holder outside of this container has no number here, and is one nevertheless.
    return 0 if answer[0] == fcntl.F_UNLCK else answer[4] or -1


def read_package_lock(system: System, grace_seconds: float = LOCK_GRACE_SECONDS) -> dict[str, Any] | None:
    """Who keeps others from installing packages, once that has lasted for *grace_seconds*."""
    deadline = time.monotonic() + grace_seconds
    while True:
        holders = [(path, lock_holder(system.path(path))) for path in PACKAGE_LOCKS]
        held = [(path, pid) for path, pid in holders if pid]
        if not held:
            return None
        if time.monotonic() >= deadline:
            path, pid = held[0]
            command = (system.read(f"/proc/{pid}/comm") or "").strip()
            return {"path": path, "pid": pid, "process": command}
        time.sleep(0.25)


def read_packages(system: System) -> dict[str, Any] | None:
    """`None` on a host without dpkg."""
    form = "${db:Status-Want} ${db:Status-Eflag} ${db:Status-Status} ${Package} ${Version}\\n"
    listed = system.run(["dpkg-query", "--show", f"--showformat={form}"])
    if not listed.ok:
        return None
    return {**parse_packages(listed.stdout), "lock": read_package_lock(system)}


# Firmware


def read_boot_trust(system: System) -> dict[str, Any]:
    """Secure Boot, and the key with which DKMS signs modules on this host."""
    trust: dict[str, Any] = {"secure_boot": read_secure_boot(system), "key": "", "key_enrolled": None}
    if trust["secure_boot"]:
        trust["key"] = next((path for path in MODULE_KEYS if system.exists(path)), "")
        if trust["key"]:
            tested = system.run(["mokutil", "--test-key", trust["key"]])
            trust["key_enrolled"] = "already enrolled" in tested.stdout if tested.found else None
    return trust


def read_virtualisation(system: System) -> str:
    """What the host runs in, as systemd names it: `none`, `kvm`, `podman`, … Empty if nobody says."""
    return system.run(["systemd-detect-virt"]).stdout.strip()


def read_machine(
    system: System,
    mounts: Mapping[str, str],
    names: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    resolver: Resolve = resolve,
) -> dict[str, Any]:
    """Everything about the machine. *mounts*: for each path that is asked about, where its file system is mounted."""
    gpus = read_pci_gpus(system)
    virtualisation = read_virtualisation(system)
    container = virtualisation in CONTAINERS
    proxies = read_proxies(system, os.environ if environment is None else environment)
    sources = read_apt_sources(system)
    through = [*proxies["environment"].values(), *proxies["apt"].values()]
    wanted = dict.fromkeys([*names, *(url_host(url) for url in (*sources, *through))])
    return {
        "virtualisation": virtualisation,
        "container": container,
        "cpu": read_cpu(system),
        **read_memory(system),
        "shm_bytes": read_size(system.path("/dev/shm")),
        "limits": read_limits(system),
        "kernel": read_kernel(system, apt=bool(gpus) and not container),
        "disks": [read_disk(system, path, mount) for path, mount in mounts.items()],
        "clock": read_clock(),
        "proxies": proxies,
        "apt_sources": sources,
        "names": resolve_all([name for name in wanted if name], resolver),
        "packages": read_packages(system),
        **read_boot_trust(system),
        "gpus": gpus,
        "driver_loaded": system.exists("/proc/driver/nvidia/version"),
        "iommu": read_iommu(system) if gpus else None,
        "acs_redirecting_bridges": read_acs_redirecting_bridges(system) if gpus else None,
    }
