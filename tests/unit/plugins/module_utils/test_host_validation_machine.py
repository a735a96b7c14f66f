# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from ansible_collections.baremetal.llm.plugins.module_utils.finding import GIB, MIB, report
from ansible_collections.baremetal.llm.plugins.module_utils.host_validation_machine import ACCEPTABLE
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.site import HostState, Site
from ansible_collections.baremetal.llm.plugins.module_utils.site_validation import validate_site

ROLE = Path(__file__).resolve().parents[4] / "roles" / "preflight"
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
WANTED = {
    "minimum": DEFAULTS["preflight_minimum"],
    "minimum_without_gpu": DEFAULTS["preflight_minimum_without_gpu"],
    "accept": [],
    "urls": {"vllm_index_url": "https://pypi.example/simple/"},
}
GPUS = [
    {"pci_address": f"0000:{bus}:00.0", "pci_device": "10de:2330", "pci_class": "0x030200", "driver": "nvidia"}
    for bus in ("1b", "43")
]
# A server for inference as it should be.
MACHINE = {
    "virtualisation": "none",
    "container": False,
    "cpu": {"model": "AMD EPYC 9654", "threads": 192, "cores": 96, "avx": ["avx", "avx2", "avx512f"]},
    "memory_bytes": 503 * GIB,
    "swap_bytes": 0,
    "swap_used_bytes": 0,
    "shm_bytes": 250 * GIB,
    "limits": {"open_files": 524288, "memlock_bytes": 8 * MIB, "may_raise": True},
    "kernel": {
        "running": "6.8.0-90-generic",
        "next_boot": "6.8.0-90-generic",
        "installed": [
            {"release": "6.8.0-88-generic", "headers": "available", "driver": False},
            {"release": "6.8.0-90-generic", "headers": "installed", "driver": True},
        ],
    },
    "disks": [
        {
            "path": "/srv/models",
            "mount": "/srv",
            "file_system": "ext4",
            "devices": [{"name": "nvme0n1", "kind": "nvme"}],
            "kind": "nvme",
        }
    ],
    "clock": {"now": 1.0, "synchronised": True, "skew_seconds": 0.0},
    "proxies": {"environment": {}, "apt": {}, "exceptions": []},
    "apt_sources": ["http://archive.example/ubuntu", "https://security.example/ubuntu"],
    "names": {name: "" for name in ("archive.example", "security.example", "pypi.example", "mirror.example", "hf.co")},
    "packages": {"broken": [], "driver_held": ["a", "b"], "driver_not_held": [], "kernel_held": [], "lock": None},
    "secure_boot": False,
    "key": "",
    "key_enrolled": None,
    "gpus": GPUS,
    "driver_loaded": True,
    "iommu": "passthrough",
    "acs_redirecting_bridges": [],
}
# A throwaway container without a GPU: no finding in it, or every demo would have some.
SMALL = {
    **MACHINE,
    "virtualisation": "podman",
    "container": True,
    "cpu": {"model": "AMD EPYC", "threads": 2, "cores": 2, "avx": ["avx", "avx2"]},
    "memory_bytes": 7 * GIB,
    "swap_used_bytes": 3 * GIB,
    "shm_bytes": 64 * MIB,
    "limits": {"open_files": 20000, "memlock_bytes": 64 * 1024, "may_raise": False},
    "kernel": {"running": "6.18.44", "next_boot": None, "installed": []},
    "disks": [{"path": "/srv/models", "mount": "/", "file_system": "overlay", "devices": [], "kind": "unknown"}],
    "clock": {"now": 1.0, "synchronised": False, "skew_seconds": 0.4},
    "packages": {"broken": [], "driver_held": [], "driver_not_held": [], "kernel_held": [], "lock": None},
    "secure_boot": None,
    "gpus": [],
    "driver_loaded": False,
    "iommu": None,
    "acs_redirecting_bridges": None,
}
READY = {
    "distribution": {"id": "ubuntu", "version": "24.04", "name": "Ubuntu 24.04.3 LTS"},
    "architecture": "x86_64",
    "python_version": "3.12.3",
    "systemd": True,
    "root": True,
    "space": [
        {"path": "/srv/models", "mount": "/srv", "free_bytes": 800 * GIB, "total_bytes": 1800 * GIB, "read_only": False}
    ],
    "listeners": [],
    "models": [],
    "source_folders": [],
}
SOURCES = [{"type": "http", "url": "https://mirror.example/tiny/"}, {"type": "hub", "endpoint": "https://hf.co"}]


def read(path, allow_files=()):
    return Lock("org/tiny", "a" * 40, (LockFile("a.safetensors", GIB, "0" * 64),))


def findings(machine=None, other=None, readiness=None, sources=None, gateway=SMALL, **wanted):
    """Judge a site of two engine hosts, of which the first has *machine*, and a gateway."""
    machines = {"gpu-1": machine or MACHINE, "gpu-2": other or MACHINE, "gw-1": gateway}
    hosts = {
        name: HostState(readiness={**copy.deepcopy(READY), "machine": found}, wanted=WANTED)
        for name, found in machines.items()
    }
    hosts["gpu-1"].readiness.update(readiness or {})
    hosts["gpu-1"] = HostState(readiness=hosts["gpu-1"].readiness, wanted={**WANTED, **wanted})
    site = Site(
        deployments=[{"name": "chat", "engine": "vllm", "model": "tiny", "hosts": ["gpu_hosts"], "port": 8000}],
        models=[{"name": "tiny", "lock": "tiny.yml", "sources": SOURCES if sources is None else sources}],
        tenants=[{"name": "team-a", "key_sha256": "1" * 64}],
        groups={"all": list(machines), "gpu_hosts": ["gpu-1", "gpu-2"], "gateway_hosts": ["gw-1"]},
        engine_key_length=64,
        hosts=hosts,
        addresses={"gpu-1": "10.0.0.1", "gpu-2": "10.0.0.2", "gw-1": "10.0.0.9"},
    )
    return validate_site(site, read)


def less(key, **changes):
    """The machine with some of the values below *key* changed."""
    return {**MACHINE, key: {**MACHINE[key], **changes}}


def but(**changes):
    return {**MACHINE, **changes}


def driven(*drivers, **more):
    return but(gpus=[{**gpu, "driver": driver} for gpu, driver in zip(GPUS, drivers)], **more)


def lost(*names):
    return {**MACHINE["names"], **{name: "Name or service not known" for name in names}}


def disk(kind):
    return [{**MACHINE["disks"][0], "kind": kind, "devices": [{"name": "sda", "kind": kind}]}]


def size_of(total):
    return {"space": [{**READY["space"][0], "total_bytes": total}]}


DEBIAN = {"distribution": {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12"}}
HEADERLESS = [*MACHINE["kernel"]["installed"], {"release": "6.5.0-1-mine", "headers": "missing", "driver": False}]
LOCKED = {"path": "/var/lib/dpkg/lock-frontend", "pid": 812, "process": "unattended-upgr"}

# Each case: what findings() is given, the one code and severity that must come of it, the variable, words of the
# message, and words of the way out.
CASES = {
    # The minimum
    "kernel": (
        {"machine": less("kernel", running="5.4.0-200-generic", next_boot="5.4.0-200-generic")},
        ("kernel-too-old", "error"),
        "preflight_minimum.kernel",
        ["is 5.15, but the host runs 5.4.0-200-generic"],
        ["newer kernel"],
    ),
    "kernel that is held": (
        {
            "machine": {
                **less("kernel", running="5.4.0-200-generic", next_boot=None),
                "packages": {**MACHINE["packages"], "kernel_held": ["linux-image-generic"]},
            }
        },
        ("kernel-too-old", "error"),
        "preflight_minimum.kernel",
        [],
        ["held (linux-image-generic)", "apt-mark unhold"],
    ),
    "cores": (
        {"machine": less("cpu", cores=3)},
        ("cpu-cores-too-few", "error"),
        "preflight_minimum.cpu_cores",
        ["asks for 4 cores (2, and 1 for each of 2 GPUs), but the host has 3"],
        ["preflight_accept"],
    ),
    "memory": (
        {"machine": but(memory_bytes=31 * GIB)},
        ("memory-too-small", "error"),
        "preflight_minimum.memory_gib",
        ["asks for 59.0 GiB of memory, but the host has 31.0 GiB"],
        ["lower preflight_minimum.memory_gib"],
    ),
    "shared memory": (
        {"machine": but(shm_bytes=64 * MIB)},
        ("shm-too-small", "error"),
        "preflight_minimum.shm_gib",
        ["2.0 GiB in /dev/shm", "64.0 MiB"],
        ["/etc/fstab", "--shm-size"],
    ),
    "disk": (
        {"readiness": size_of(440 * GIB)},
        ("disk-below-minimum", "error"),
        "preflight_minimum.disk_gib",
        ["850.0 GiB for /srv/models, but /srv has 440.0 GiB"],
        ["larger disk"],
    ),
    "rotating disk": (
        {"machine": but(disks=disk("hdd"))},
        ("disk-too-slow", "error"),
        "preflight_minimum.disk_class",
        ["asks for NVMe below /srv/models, but /srv lies on a rotating disk (sda)"],
        ["faster disk"],
    ),
    "SATA": (
        {"machine": but(disks=disk("ssd"))},
        ("disk-too-slow", "error"),
        "preflight_minimum.disk_class",
        ["a SATA or SAS SSD (sda)"],
        [],
    ),
    "open files": (
        {"machine": but(limits={"open_files": 20000, "memlock_bytes": None, "may_raise": False})},
        ("limit-too-low", "error"),
        "preflight_minimum.open_files",
        ["65536 open files", "more than 20000"],
        ["container"],
    ),
    "locked memory": (
        {"machine": but(limits={"open_files": None, "memlock_bytes": 65536, "may_raise": False})},
        ("limit-too-low", "error"),
        "preflight_minimum.memlock_gib",
        [f"{GIB} bytes of locked memory", "more than 65536"],
        [],
    ),
    "minimum with a key that does not exist": (
        {"minimum": {"memory": 64}},
        ("minimum-invalid", "error"),
        "preflight_minimum.memory",
        ["memory_gib", "Did you mean"],
        [],
    ),
    "minimum with a text for a number": (
        {"minimum": {"memory_gib": "64"}},
        ("minimum-invalid", "error"),
        "preflight_minimum.memory_gib",
        ["'64'", "a number"],
        [],
    ),
    "minimum with a number for a version": (
        {"minimum": {"kernel": 5.15}},
        ("minimum-invalid", "error"),
        "preflight_minimum.kernel",
        ["a number", "'5.15'"],
        [],
    ),
    "minimum of a kind that does not exist": (
        {"minimum": {"disk_class": "fast"}},
        ("minimum-invalid", "error"),
        "preflight_minimum.disk_class",
        ["'fast'", "hdd, ssd, nvme"],
        [],
    ),
    "minimum is a list": (
        {"minimum": ["nvme"]},
        ("minimum-invalid", "error"),
        "preflight_minimum",
        ["a list, expected a mapping"],
        [],
    ),
    # What is accepted
    "accepted code that does not exist": (
        {"accept": ["disk-to-slow"]},
        ("accept-invalid", "error"),
        "preflight_accept",
        ["'disk-to-slow'", "Did you mean 'disk-too-slow'?"],
        [],
    ),
    "accepted code that cannot be": (
        {"accept": ["engine-key-missing"]},
        ("accept-invalid", "error"),
        "preflight_accept",
        ["'engine-key-missing'"],
        ["put right"],
    ),
    "accepted is a text": (
        {"accept": "disk-too-slow"},
        ("accept-invalid", "error"),
        "preflight_accept",
        ["a text, expected a list"],
        [],
    ),
    "addresses are a text": (
        {"urls": "https://pypi.example"},
        ("value-type", "error"),
        "preflight_urls",
        ["a text, expected a mapping"],
        [],
    ),
    # Clock
    "clock is ahead": (
        {"machine": less("clock", skew_seconds=3600.2)},
        ("clock-skewed", "error"),
        "ansible_host",
        ["ahead of the controller's by at least 3600 seconds"],
        ["chrony"],
    ),
    "clock is behind, in a container too": (
        {"machine": less("clock", skew_seconds=-31.0, synchronised=False)},
        ("clock-skewed", "error"),
        "ansible_host",
        ["behind the controller's by at least 31 seconds"],
        [],
    ),
    "clock that nobody keeps": (
        {"machine": less("clock", synchronised=False)},
        ("clock-not-synchronised", "warning"),
        "ansible_host",
        ["nothing keeps right"],
        ["chrony"],
    ),
    # Names
    "index": (
        {"machine": but(names=lost("pypi.example"))},
        ("name-unresolved", "error"),
        "vllm_index_url",
        ["pypi.example (Name or service not known)"],
        ["resolv.conf"],
    ),
    "index, and apt has a proxy": (
        {
            "machine": but(
                names=lost("pypi.example"), proxies={**MACHINE["proxies"], "apt": {"http": "http://10.0.0.3"}}
            )
        },
        ("name-unresolved", "error"),
        "vllm_index_url",
        [],
        ["Only apt was given a proxy", "https_proxy"],
    ),
    "index that the proxy does not serve": (
        {
            "machine": but(
                names=lost("pypi.example"),
                proxies={"environment": {"https": "http://10.0.0.3"}, "apt": {}, "exceptions": ["*.example"]},
            )
        },
        ("name-unresolved", "error"),
        "vllm_index_url",
        [],
        [],
    ),
    "one source of two": (
        {"machine": but(names=lost("mirror.example"))},
        ("name-unresolved", "warning"),
        "llm_models[0].sources",
        ["mirror.example", "the other sources are left"],
        [],
    ),
    "all sources": (
        {"machine": but(names=lost("mirror.example", "hf.co"))},
        ("name-unresolved", "error"),
        "llm_models[0].sources",
        ["mirror.example", "hf.co", "no source is left"],
        [],
    ),
    "one package source of two": (
        {"machine": but(names=lost("security.example"))},
        ("apt-source-unresolved", "warning"),
        "/etc/apt/sources.list.d",
        ["security.example"],
        [],
    ),
    "all package sources": (
        {"machine": but(names=lost("security.example", "archive.example"))},
        ("apt-source-unresolved", "error"),
        "/etc/apt/sources.list.d",
        ["archive.example", "security.example"],
        ["resolv.conf"],
    ),
    "proxy of tasks": (
        {
            "machine": but(
                names={**lost("archive.example", "pypi.example"), "proxy.example": "Name or service not known"},
                proxies={"environment": {"https": "http://proxy.example:3128"}, "apt": {}, "exceptions": []},
            )
        },
        ("proxy-unresolved", "error"),
        "https_proxy",
        ["http://proxy.example:3128", "cannot resolve proxy.example"],
        ["/etc/environment"],
    ),
    "proxy of apt": (
        {
            "machine": but(
                names={**lost("archive.example", "security.example"), "proxy.example": "Name or service not known"},
                proxies={"environment": {}, "apt": {"http": "http://proxy.example:3142"}, "exceptions": []},
            )
        },
        ("proxy-unresolved", "error"),
        "Acquire::http::Proxy",
        ["proxy.example:3142"],
        ["/etc/apt/apt.conf.d"],
    ),
    # Packages
    "package": (
        {"machine": less("packages", broken=[{"name": "nvidia-dkms-580-open", "state": "half-configured"}])},
        ("package-broken", "error"),
        "ansible_host",
        ["nvidia-dkms-580-open (half-configured)"],
        ["dpkg --configure --pending"],
    ),
    "lock": (
        {"machine": less("packages", lock=LOCKED)},
        ("package-manager-locked", "error"),
        "ansible_host",
        ["process unattended-upgr (PID 812) holds /var/lib/dpkg/lock-frontend"],
        ["Wait"],
    ),
    "lock of nobody here": (
        {"machine": less("packages", lock={**LOCKED, "pid": -1, "process": ""})},
        ("package-manager-locked", "error"),
        "ansible_host",
        ["outside of its container"],
        [],
    ),
    "holds": (
        {"machine": less("packages", driver_not_held=["libnvidia-compute-580"])},
        ("driver-partly-held", "warning"),
        "ansible_host",
        ["2 packages of the NVIDIA driver are held and 1 are not", "libnvidia-compute-580"],
        ["nvidia_driver"],
    ),
    # Engine hosts
    "no GPU": (
        {"machine": but(gpus=[], acs_redirecting_bridges=None)},
        ("gpu-none", "error"),
        "groups.gpu_hosts",
        ["without any NVIDIA GPU"],
        ["fell off the bus"],
    ),
    "old CPU": (
        {"machine": less("cpu", avx=["avx"])},
        ("cpu-without-avx2", "warning"),
        "ansible_host",
        ["AMD EPYC 9654"],
        ["cpu: host"],
    ),
    "swap": (
        {"machine": but(swap_used_bytes=2 * GIB)},
        ("swap-used", "warning"),
        "ansible_host",
        ["2.0 GiB"],
        ["memory"],
    ),
    "container with GPUs": (
        {"machine": but(container=True, virtualisation="docker", driver_loaded=False)},
        ("host-is-container", "warning"),
        "ansible_host",
        ["container (docker)", "2 NVIDIA GPUs"],
        ["machine itself"],
    ),
    # GPUs
    "no driver": (
        {"machine": driven("", "", driver_loaded=False)},
        ("gpu-without-driver", "warning"),
        "groups.gpu_hosts",
        ["2 NVIDIA GPUs", "0000:1b:00.0, 0000:43:00.0", "is not loaded"],
        ["nvidia_driver"],
    ),
    "driver for one GPU of two": (
        {"machine": driven("nvidia", "")},
        ("gpu-not-bound", "error"),
        "groups.gpu_hosts",
        ["1 of 2 GPUs, but not 0000:43:00.0"],
        ["journalctl -k"],
    ),
    "nouveau": (
        {"machine": driven("nouveau", "nouveau", driver_loaded=False)},
        ("gpu-driver-rival", "warning"),
        "groups.gpu_hosts",
        ["0000:1b:00.0, 0000:43:00.0", "nouveau"],
        ["initramfs"],
    ),
    "nova": (
        {"machine": driven("NovaCore", "NovaCore", driver_loaded=False)},
        ("gpu-driver-rival", "warning"),
        "groups.gpu_hosts",
        ["NovaCore"],
        [],
    ),
    "kept for virtual machines": (
        {"machine": driven("nvidia", "vfio-pci")},
        ("gpu-reserved", "error"),
        "groups.gpu_hosts",
        ["0000:43:00.0", "vfio-pci"],
        ["vfio-pci.ids"],
    ),
    # Kernels
    "reboot": (
        {"machine": less("kernel", next_boot="6.8.0-91-generic")},
        ("kernel-reboot-pending", "warning"),
        "ansible_host",
        ["runs Linux 6.8.0-90-generic and boots 6.8.0-91-generic next"],
        ["Reboot"],
    ),
    "headers": (
        {"machine": less("kernel", installed=HEADERLESS)},
        ("kernel-headers-missing", "error"),
        "ansible_host",
        ["Linux 6.5.0-1-mine"],
        ["linux-headers-", "linux-modules-nvidia-"],
    ),
    # Secure Boot
    "Secure Boot on Ubuntu": (
        {"machine": but(secure_boot=True, driver_loaded=False, gpus=GPUS)},
        ("secure-boot-unsigned", "warning"),
        "ansible_host",
        ["Secure Boot"],
        ["linux-modules-nvidia-", "mokutil --import /var/lib/shim-signed/mok/MOK.der", "made when DKMS builds"],
    ),
    "Secure Boot on Debian": (
        {
            "machine": but(secure_boot=True, driver_loaded=False, key="/var/lib/dkms/mok.pub", key_enrolled=False),
            "readiness": DEBIAN,
        },
        ("secure-boot-unsigned", "error"),
        "ansible_host",
        ["not enrolled"],
        ["mokutil --import /var/lib/dkms/mok.pub", "Enroll MOK", "mokutil --test-key"],
    ),
    # GPU to GPU
    "ACS": (
        {"machine": but(acs_redirecting_bridges=["0000:19:01.0"])},
        ("acs-redirects", "warning"),
        "groups.gpu_hosts",
        ["0000:19:01.0"],
        ["NVLink"],
    ),
    "IOMMU": (
        {"machine": but(iommu="translated")},
        ("iommu-translates", "warning"),
        "groups.gpu_hosts",
        ["translates"],
        ["iommu=pt"],
    ),
}


def test_a_good_fleet_and_a_small_gateway_have_no_finding():
    assert findings() == []


def test_hosts_without_gpu_are_judged_by_the_smaller_minimum():
    assert findings(SMALL, SMALL, readiness=size_of(10 * GIB)) == []
    found = findings(gateway={**SMALL, "memory_bytes": 512 * MIB})
    assert [(item.code, item.variable, item.hosts) for item in found] == [
        ("memory-too-small", "preflight_minimum_without_gpu.memory_gib", ("gw-1",))
    ]


def test_a_gateway_with_a_graphics_card_is_no_engine_host():
    assert findings(gateway={**SMALL, "container": False, "gpus": [{**GPUS[0], "driver": "nouveau"}]}) == findings(
        gateway={**SMALL, "container": False}
    )


@pytest.mark.parametrize("case", CASES)
def test_one_fault_gives_exactly_its_finding(case):
    given, code, variable, words, ways_out = CASES[case]
    found = findings(**given)
    assert [(item.code, item.severity) for item in found] == [code]
    (item,) = found
    assert (item.variable, item.hosts) == (variable, ("gpu-1",))
    assert [word for word in words if word not in item.message] == []
    assert [word for word in ways_out if word not in item.action] == []


def test_every_code_has_a_case():
    assert {code for dummy, (code, dummy), *dummy in CASES.values()} == {
        *ACCEPTABLE,
        "accept-invalid",
        "minimum-invalid",
        "value-type",
    }


@pytest.mark.parametrize("case", [case for case, (dummy, (code, dummy), *dummy) in CASES.items() if code in ACCEPTABLE])
def test_what_is_accepted_stops_nothing_and_is_not_listed(case):
    given, (code, dummy), *dummy = CASES[case]
    found = findings(**{**given, "accept": [code]})
    assert [(item.code, item.severity) for item in found] == [(code, "accepted")]
    assert f"[{code}]" not in report(found)


def test_a_code_is_accepted_for_the_host_that_says_so():
    slow = but(disks=disk("ssd"))
    found = findings(slow, slow, accept=["disk-too-slow"])
    assert [(item.severity, item.hosts) for item in found] == [("accepted", ("gpu-1",)), ("error", ("gpu-2",))]


@pytest.mark.parametrize(
    "given",
    [
        # Nobody knows what is behind a virtual disk or an export.
        {"machine": but(disks=disk("virtual"))},
        {"machine": but(disks=disk("network"))},
        # The role installs headers that the package sources have; a driver that is there needs none.
        {"machine": less("kernel", installed=[{**HEADERLESS[-1], "headers": "available"}])},
        {"machine": less("kernel", installed=[{**HEADERLESS[-1], "driver": True}])},
        # What the firmware knows, and what is loaded already, was signed.
        {"machine": but(secure_boot=True, driver_loaded=True)},
        {"machine": but(secure_boot=True, driver_loaded=False, key="/k", key_enrolled=True), "readiness": DEBIAN},
        # Set by the machine around it.
        {"machine": but(virtualisation="kvm", iommu="translated", acs_redirecting_bridges=["0000:19:01.0"])},
        {"machine": but(gpus=GPUS[:1], iommu="translated", acs_redirecting_bridges=["0000:19:01.0"])},
        # systemd raises it for the unit.
        {"machine": but(limits={"open_files": 1024, "memlock_bytes": 65536, "may_raise": True})},
        # Weights that are there are fetched from nowhere.
        {
            "machine": but(names=lost("mirror.example", "hf.co")),
            "readiness": {"models": [{"path": f"/srv/models/org/tiny/{'a' * 40}", "published": True}]},
        },
        {
            "machine": but(
                names=lost("mirror.example", "hf.co", "pypi.example", "archive.example", "security.example"),
                proxies={"environment": {"https": "http://10.0.0.3", "http": "http://10.0.0.3"}, "apt": {}},
            )
        },
        # Half a minute is no skew, and ARM has no AVX.
        {"machine": less("clock", skew_seconds=29.9)},
        {"machine": less("cpu", avx=[]), "readiness": {"architecture": "aarch64"}},
        # What nobody could say is no fault.
        {"machine": {"gpus": GPUS}},
        {"machine": {"virtualisation": "", "gpus": GPUS, "packages": None, "memory_bytes": None, "shm_bytes": None}},
        # A site that does not want to know.
        {"machine": but(memory_bytes=GIB, disks=disk("hdd")), "minimum": {}},
        {"machine": but(memory_bytes=GIB, disks=disk("hdd")), "minimum": None},
    ],
)
def test_what_is_no_fault_gives_no_finding(given):
    assert findings(**given) == []


def test_all_faults_are_found_in_one_go():
    machine = {
        **driven("nouveau", ""),
        "memory_bytes": GIB,
        "shm_bytes": MIB,
        "disks": disk("hdd"),
        "clock": {"skew_seconds": 99.0},
        "packages": {**MACHINE["packages"], "lock": LOCKED, "broken": [{"name": "x", "state": "unpacked"}]},
    }
    assert {item.code for item in findings(machine)} == {
        "memory-too-small",
        "shm-too-small",
        "disk-too-slow",
        "clock-skewed",
        "package-manager-locked",
        "package-broken",
        "gpu-driver-rival",
        "gpu-without-driver",
    }


def test_the_same_fault_of_many_hosts_is_said_once():
    small = but(memory_bytes=31 * GIB)
    (item,) = findings(small, small)
    assert item.hosts == ("gpu-1", "gpu-2")


@pytest.mark.parametrize("value", [None, "", "x", 7, True, [], [None], [[]], {}, {"a": []}])
@pytest.mark.parametrize("key", ["minimum", "minimum_without_gpu", "accept", "urls"])
def test_any_type_raises_nothing(key, value):
    assert isinstance(findings(**{key: value}), list)
