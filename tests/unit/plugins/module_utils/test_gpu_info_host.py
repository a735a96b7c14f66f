# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says about its driver, from files and command outputs in their real formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import gpu_info_host as subject
from ansible_collections.baremetal.llm.plugins.module_utils.system import CommandResult, System

# Of Debian 12 with a module built by its DKMS; the two errors go to the other stream.
MODINFO = """\
filename:       /lib/modules/6.1.0-56-cloud-amd64/updates/dkms/nvidia-current-open.ko
alias:          pci:v000010DEd*sv*sd*bc03sc02i00*
version:        535.309.01
license:        Dual MIT/GPL
depends:        \n\
name:           nvidia
sig_id:         PKCS#7
signer:         DKMS module signing key
signature:      06:7F:25:2F:92:B0:C5:7E:64:77:DF:EC:2E:81:9D:B6:D1:7D:4B:0A:
\t\t04:85:5F:BD:60:77:9B:7E:4B:6A:D7:A8:6B:A1:91:1B:DA:E7:87:FF
"""
PROPRIETARY = """\
filename:       /lib/modules/6.1.0-56-cloud-amd64/updates/dkms/nvidia-current.ko.xz
version:        550.163.01
license:        NVIDIA
"""


class Host(System):
    """Files in a folder, and a table of what commands answer."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.folder = root
        self.answers: dict[str, tuple[int, str, str]] = {}
        self.asked: list[str] = []

    def run(self, argv: Sequence[str], timeout_seconds: float = 10) -> CommandResult:
        self.asked.append(" ".join(argv))
        for length in range(len(argv), 0, -1):
            if " ".join(argv[:length]) in self.answers:
                return CommandResult(*self.answers[" ".join(argv[:length])])
        return CommandResult(127, "", f"{argv[0]}: command not found")

    def write(self, path: str, content: str | bytes = "") -> None:
        target = self.folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def link(self, path: str, target: str) -> None:
        link = self.folder / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def pci_gpu(device: str = "10de:2330", driver: str = "nvidia") -> Any:
    return {"pci_address": "0000:18:00.0", "pci_device": device, "pci_class": "0x030200", "driver": driver}


# ---- DKMS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "states", "everywhere"),
    [
        ("", {}, ""),
        ("nvidia/580.178.04, 6.8.0-139-generic, x86_64: installed", {"6.8.0-139-generic": "installed"}, ""),
        ("nvidia, 580.178.04, 5.15.0-160-generic, x86_64: installed", {"5.15.0-160-generic": "installed"}, ""),
        ("nvidia-current-open/535.309.01: added", {}, "added"),
        ("nvidia, 470.57.02: added", {}, "added"),
        ("nvidia-srv/535.1, 6.8.0-1-generic, x86_64: built", {"6.8.0-1-generic": "built"}, ""),
        (
            "nvidia/580.178.04, 6.8.0-1-generic, x86_64: installed (WARNING! Diff between built and installed module!)",
            {"6.8.0-1-generic": "installed"},
            "",
        ),
        ("nvidia/580.178.04, 6.8.0-139-generic, x86_64: broken", {"6.8.0-139-generic": "broken"}, ""),
        # Of two versions for one kernel, the one that is installed; in any order.
        (
            "nvidia/580.159.04, 6.8.0-1-generic, x86_64: installed\nnvidia/580.178.04, 6.8.0-1-generic, x86_64: built",
            {"6.8.0-1-generic": "installed"},
            "",
        ),
        ("nvidia-fs/2.20, 6.8.0-1-generic, x86_64: installed\nzfs/2.2, 6.8.0-1-generic, x86_64: built", {}, ""),
        ("Error! Could not locate dkms.conf file.\nDeprecated feature: REMAKE_INITRD (/x)", {}, ""),
    ],
)
def test_every_form_of_dkms_status(text: str, states: dict[str, str], everywhere: str) -> None:
    assert subject.parse_dkms(text) == (states, everywhere)


def test_dkms_state_of_each_kernel(host: Host) -> None:
    problems: list[str] = []
    assert subject.read_dkms(host, ["a"], problems) is None
    host.answers["dkms status"] = (0, "nvidia/580.178.04, a, x86_64: installed\n", "")
    assert subject.read_dkms(host, ["a", "b"], problems) == {"a": "installed", "b": ""}
    host.answers["dkms status"] = (0, "nvidia/580.178.04: added\n", "")
    assert subject.read_dkms(host, ["a", "b"], problems) == {"a": "added", "b": "added"}
    assert problems == []
    host.answers["dkms status"] = (1, "", "Error! /var/lib/dkms is not readable\n")
    assert subject.read_dkms(host, ["a"], problems) == {"a": ""}
    assert problems == ["dkms status failed: Error! /var/lib/dkms is not readable"]


# ---- Modules ---------------------------------------------------------------------------------------------------------


def test_the_module_of_each_kernel(host: Host) -> None:
    host.write("/proc/sys/kernel/osrelease", "a\n")
    host.write("/lib/modules/a/modules.dep")
    host.write("/usr/src/linux-headers-a/Makefile")
    host.link("/lib/modules/a/build", "/usr/src/linux-headers-a")
    host.link("/lib/modules/b/build", "/usr/src/linux-headers-b")
    host.answers["modinfo -k a"] = (1, MODINFO, "modinfo: ERROR: Module nvidia not found.\n")
    host.answers["modinfo -k b"] = (1, "", "modinfo: ERROR: Module nvidia not found.\n")
    problems: list[str] = []
    first, second, third = subject.read_kernel_modules(host, ["a", "b", "gone"], "b", problems)
    assert first == {
        "kernel": "a",
        "running": True,
        "next_boot": False,
        "version": "535.309.01",
        "flavour": "open",
        "path": "/lib/modules/6.1.0-56-cloud-amd64/updates/dkms/nvidia-current-open.ko",
        "signer": "DKMS module signing key",
        "headers_installed": True,
        "dkms_state": None,
    }
    assert (second["version"], second["flavour"], second["next_boot"]) == (None, None, True)
    assert second["headers_installed"] is False
    assert (third["version"], third["path"]) == (None, None)
    assert not [command for command in host.asked if "gone" in command]
    assert problems == []


def test_a_host_without_modinfo_says_so(host: Host) -> None:
    host.write("/lib/modules/a/modules.dep")
    problems: list[str] = []
    assert subject.read_kernel_modules(host, ["a"], "", problems)[0]["version"] is None
    assert "modinfo" in problems[0]


def test_debian_decides_between_two_modules_in_modprobe_d(host: Host) -> None:
    host.write("/lib/modules/a/modules.dep")
    host.answers["modinfo -k a"] = (1, MODINFO + PROPRIETARY, "")
    assert subject.read_kernel_modules(host, ["a"], "", [])[0]["flavour"] == "open"
    host.write("/etc/modprobe.d/nvidia.conf", "install nvidia modprobe -i nvidia-current $CMDLINE_OPTS\n")
    module = subject.read_kernel_modules(host, ["a"], "", [])[0]
    assert (module["flavour"], module["version"]) == ("proprietary", "550.163.01")
    host.write("/etc/modprobe.d/nvidia.conf", "install nvidia modprobe -i nvidia-tesla-470 $CMDLINE_OPTS\n")
    subject.read_kernel_modules(host, ["a"], "", [])
    assert host.asked[-1].split()[3] == "nvidia-tesla-470"


def test_upstreams_name_wins_over_debians(host: Host) -> None:
    upstream = PROPRIETARY.replace("nvidia-current", "nvidia")
    chosen = subject.choose_module(subject.parse_modinfo(MODINFO + upstream), list(subject.MODULE_NAMES))
    assert chosen["version"] == "550.163.01"


OPEN_LINE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)  Tue Sep 23\n"
)
PROPRIETARY_LINE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.127.05  Tue Oct  8 16:30:26 UTC 2024\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (False, None, None)),
        ({"/proc/driver/nvidia/version": OPEN_LINE}, (True, "580.95.05", "open")),
        ({"/proc/driver/nvidia/version": PROPRIETARY_LINE}, (True, "550.127.05", "proprietary")),
        ({"/sys/module/nvidia/version": "580.95.05\n"}, (True, "580.95.05", None)),
        (
            {"/sys/module/nvidia/version": "580.95.05\n", "/sys/module/nvidia/taint": "OE\n"},
            (True, "580.95.05", "open"),
        ),
        (
            {"/sys/module/nvidia/version": "550.1.2\n", "/sys/module/nvidia/taint": "POE\n"},
            (True, "550.1.2", "proprietary"),
        ),
        ({"/sys/module/nvidia/initstate": "coming\n"}, (True, None, None)),
    ],
)
def test_the_loaded_module(host: Host, files: dict[str, str], expected: tuple[bool, str | None, str | None]) -> None:
    for path, text in files.items():
        host.write(path, text)
    loaded = subject.read_loaded_module(host, [pci_gpu()])
    assert (loaded["loaded"], loaded["version"], loaded["flavour"]) == expected
    assert loaded["rivals"] == []


def test_drivers_that_own_gpus_in_place_of_nvidias(host: Host) -> None:
    gpus = [pci_gpu(driver="nouveau"), pci_gpu(driver="vfio-pci"), pci_gpu(driver=""), pci_gpu()]
    host.write("/sys/module/nova_drm/initstate", "live\n")
    assert subject.read_loaded_module(host, gpus)["rivals"] == ["nouveau", "vfio_pci"]
    assert subject.read_loaded_module(host, [pci_gpu(driver="nova-core")])["rivals"] == ["nova_core", "nova_drm"]


# ---- Packages --------------------------------------------------------------------------------------------------------


def test_packages_with_their_state_and_hold() -> None:
    # As `dpkg-query` prints them on Debian 12: a name that only others mention has no version.
    text = (
        "libnvidia-ml.so.1\t\tnot-installed\tunknown\t\n"
        "nvidia-fabricmanager\t580.178.04-1\tinstalled\thold\tamd64\n"
        "libnvidia-compute-580\t580.178.04-1ubuntu1\thalf-configured\tinstall\tamd64\n"
        "libnvidia-compute-580\t580.178.04-1ubuntu1\tinstalled\tinstall\ti386\n"
        "nvidia-utils-570\t570.1-1\tconfig-files\tdeinstall\tamd64\n"
        "cuda-nvcc-13-0\t13.0.1-1\tinstalled\tinstall\tamd64\n"
        "linux-modules-nvidia-580-server-open-6.8.0-139-generic\t6.8.0-139.139\tinstalled\thold\tamd64\n"
    )
    packages = subject.parse_packages(text)
    assert [(item["name"], item["state"], item["held"], item["architecture"]) for item in packages] == [
        ("libnvidia-compute-580", "half-configured", False, "amd64"),
        ("libnvidia-compute-580", "installed", False, "i386"),
        ("linux-modules-nvidia-580-server-open-6.8.0-139-generic", "installed", True, "amd64"),
        ("nvidia-fabricmanager", "installed", True, "amd64"),
        ("nvidia-utils-570", "config-files", False, "amd64"),
    ]
    assert packages[3]["version"] == "580.178.04-1"


@pytest.mark.parametrize(
    "name",
    [
        "libnvidia-container1",
        "libnvidia-nscq-570",
        "libnvsdm",
        "nvlsm",
        "nvidia-imex",
        "cuda-drivers-580",
        "cuda-compat-13-0",
        "cuda-toolkit-13-config-common",
        "libcuda1",
        "firmware-nvidia-gsp",
        "datacenter-gpu-manager-4-core",
        "nvidia-driver-pinning-610",
    ],
)
def test_packages_that_count(name: str) -> None:
    assert subject.parse_packages(f"{name}\t1\tinstalled\tinstall\tamd64\n")


def test_dpkg_query_is_asked_once_and_may_miss(host: Host) -> None:
    problems: list[str] = []
    assert subject.read_packages(host, problems) == []
    assert "dpkg-query" in problems[0]
    host.answers["dpkg-query"] = (1, "nvlsm\t2025.10.14-1\tinstalled\thold\tamd64\n", "no packages found matching x\n")
    assert len(subject.read_packages(host, [])) == 1
    assert len(host.asked) == 2


# ---- Services --------------------------------------------------------------------------------------------------------

# In the order in which systemd 252 prints the properties: a service begins with others than a timer.
UNITS = """\
MainPID=1201
NRestarts=0
ControlGroup=/system.slice/nvidia-persistenced.service
Id=nvidia-persistenced.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled

MainPID=1300
NRestarts=4
ControlGroup=/system.slice/nvidia-fabricmanager.service
Id=nvidia-fabricmanager.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled

MainPID=0
NRestarts=0
ControlGroup=
Id=nvidia-imex.service
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=

Id=apt-daily-upgrade.timer
LoadState=masked
ActiveState=inactive
SubState=dead
UnitFileState=masked
"""


def test_services_and_the_versions_that_run(host: Host) -> None:
    host.answers["systemctl show"] = (0, UNITS, "")
    # An upgrade replaced the file: the process is still the old program.
    host.link("/proc/1201/exe", "/usr/bin/nvidia-persistenced (deleted)")
    host.answers["/proc/1201/exe --version"] = (0, "\nnvidia-persistenced:  version 535.171.04\n\n  The NVIDIA", "")
    # On NVLink 5 a script is the main process, with the subnet manager and the fabric manager beside it.
    host.link("/proc/1300/exe", "/usr/bin/bash")
    host.link("/proc/1301/exe", "/opt/nvidia/nvlsm/sbin/nvlsm")
    host.link("/proc/1302/exe", "/usr/bin/nv-fabricmanager")
    host.write("/sys/fs/cgroup/system.slice/nvidia-fabricmanager.service/cgroup.procs", "1300\n1301\n1302\n")
    host.answers["/proc/1302/exe --version"] = (0, "Fabric Manager version is : 580.159.04\n", "")
    services, timer = subject.read_services(host, [])
    assert [(item["name"], item["active_state"], item["running_version"], item["restarts"]) for item in services] == [
        ("nvidia-persistenced", "active", "535.171.04", 0),
        ("nvidia-fabricmanager", "active", "580.159.04", 4),
        ("nvidia-imex", "inactive", None, 0),
    ]
    assert services[2]["load_state"] == "not-found"
    assert timer["LoadState"] == "masked"
    assert len([command for command in host.asked if command.startswith("systemctl")]) == 1


def test_a_program_that_does_not_say_its_version(host: Host) -> None:
    host.answers["systemctl show"] = (0, UNITS, "")
    host.link("/proc/1201/exe", "/usr/bin/nvidia-persistenced")
    host.answers["/proc/1201/exe --version"] = (1, "", "unrecognised option\n")
    services, _timer = subject.read_services(host, [])
    assert [item["running_version"] for item in services] == [None, None, None]


def test_imex_says_its_version() -> None:
    match = subject._VERSION.search("IMEX version is: 580.105.08\n")
    assert match is not None and match.group(1) == "580.105.08"


@pytest.mark.parametrize(
    ("answer", "words"),
    [(None, "no systemctl"), ((1, "", "System has not been booted with systemd as init system\n"), "not been booted")],
)
def test_a_host_without_systemd(host: Host, answer: tuple[int, str, str] | None, words: str) -> None:
    if answer:
        host.answers["systemctl show"] = answer
    problems: list[str] = []
    assert subject.read_services(host, problems) == ([], {})
    assert words in problems[0]


@pytest.mark.parametrize(
    ("answer", "installed", "timer", "expected"),
    [
        (None, True, {}, None),
        ('APT::Periodic::Unattended-Upgrade "1";\n', True, {"LoadState": "loaded", "ActiveState": "active"}, True),
        ('APT::Periodic::Unattended-Upgrade "1";\n', True, {}, True),
        ('APT::Periodic::Unattended-Upgrade "0";\n', True, {}, False),
        ("", True, {}, False),
        ('APT::Periodic::Unattended-Upgrade "1";\n', False, {}, False),
        ('APT::Periodic::Unattended-Upgrade "1";\n', True, {"LoadState": "masked"}, False),
        (
            'APT::Periodic::Unattended-Upgrade "1";\n',
            True,
            {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"},
            False,
        ),
    ],
)
def test_automatic_upgrades(
    host: Host, answer: str | None, installed: bool, timer: dict[str, str], expected: bool | None
) -> None:
    if answer is not None:
        host.answers["apt-config dump"] = (0, answer, "")
    if installed:
        host.write("/usr/bin/unattended-upgrade")
    assert subject.read_automatic_upgrades(host, timer) is expected


# ---- CDI and CUDA ----------------------------------------------------------------------------------------------------

FLUSH = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  mounts:
  - containerPath: /usr/lib/libcuda.so.580.178.04
    name: not a device
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      name: not a device
  name: "0"
- name: GPU-00000000-0000-0000-0000-000000000000
  containerEdits: {}
hooks: []
"""
# nvidia-ctk has written lists both ways: at the column of their key, and indented.
INDENTED = "".join(f"  {line}" if line[0] in " -" else line for line in FLUSH.splitlines(keepends=True))


@pytest.mark.parametrize("text", [FLUSH, INDENTED, "---\n" + FLUSH])
def test_devices_of_a_cdi_specification(text: str) -> None:
    assert subject.cdi_devices(text) == ["0", "GPU-00000000-0000-0000-0000-000000000000"]


def test_cdi_devices_agree_with_a_yaml_parser() -> None:
    yaml = pytest.importorskip("yaml")
    for text in (FLUSH, INDENTED):
        assert subject.cdi_devices(text) == [device["name"] for device in yaml.safe_load(text)["devices"]]


def test_cdi_specifications_of_gpus_in_both_folders(host: Host) -> None:
    host.write("/etc/cdi/old.yaml", FLUSH.replace("580.178.04", "570.86.10"))
    host.write("/etc/cdi/other.yaml", "kind: example.com/nic\ndevices:\n- name: x\n")
    host.write("/etc/cdi/README", FLUSH)
    content = {"kind": "nvidia.com/gpu", "devices": [{"name": "all"}], "mounts": ["libnvidia-ml.so.580.178.04"]}
    host.write("/var/run/cdi/nvidia.json", json.dumps(content))
    host.write("/var/run/cdi/broken.json", '{"kind": "nvidia.com/gpu", ')
    specifications = subject.read_cdi(host)
    assert [(item["path"], item["driver_version"], item["devices"]) for item in specifications] == [
        ("/etc/cdi/old.yaml", "570.86.10", ["0", "GPU-00000000-0000-0000-0000-000000000000"]),
        ("/var/run/cdi/broken.json", None, []),
        ("/var/run/cdi/nvidia.json", "580.178.04", ["all"]),
    ]
    assert specifications[0]["modified_at"] > 1.7e9


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ""),
        ({"version.json": '{"cuda": {"name": "CUDA SDK", "version": "13.4.1"}}'}, "13.4.1"),
        ({"version.json": "{"}, ""),
        ({"version.txt": "CUDA Version 10.2.89\n"}, "10.2.89"),
    ],
)
def test_cuda_toolkit(host: Host, files: dict[str, str], expected: str) -> None:
    for name, text in files.items():
        host.write(f"/usr/local/cuda/{name}", text)
    assert subject.read_cuda_toolkit_version(host) == expected


# ---- Kernel log ------------------------------------------------------------------------------------------------------


def journal(*messages: tuple[int, Any]) -> str:
    entries = ({"MESSAGE": text, "_SOURCE_MONOTONIC_TIMESTAMP": str(stamp)} for stamp, text in messages)
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_xid_events_are_counted_by_gpu_and_number(host: Host) -> None:
    text = journal(
        (5_000_000, "NVRM: Xid (PCI:0000:3B:00): 31, pid=1234, name=python3, Ch 00000008, intr 10000000. MMU Fault"),
        (7_500_000, "NVRM: Xid (PCI:0000:3b:00): 31, pid=99, name=vllm, MMU Fault: second"),
        (9_000_000, "NVRM: Xid (PCI:0000:5e:00): 79, GPU has fallen off the bus."),
        (9_100_000, list(b"NVRM: Xid (PCI:0000:5e:00.0): 154, \xff GPU recovery action changed")),
        (9_200_000, "NVRM: GPU at PCI:0000:5e:00: GPU-1234"),
    )
    host.answers["journalctl"] = (0, text, "")
    events = subject.read_xid_events(host, [])
    assert events is not None
    assert [(item["pci_address"], item["xid"], item["count"], item["last_seen_seconds"]) for item in events] == [
        ("0000:3b:00.0", 31, 2, 7.5),
        ("0000:5e:00.0", 79, 1, 9.0),
        ("0000:5e:00.0", 154, 1, 9.1),
    ]
    assert events[0]["message"] == "pid=99, name=vllm, MMU Fault: second"


def test_no_match_in_the_journal_is_no_event(host: Host) -> None:
    host.answers["journalctl"] = (1, "", "")
    assert subject.read_xid_events(host, []) == []
    assert not [command for command in host.asked if command.startswith("dmesg")]


@pytest.mark.parametrize(
    "answer", [None, (1, "", "No journal files were found.\n"), (1, "", "Compiled without pattern matching support\n")]
)
def test_the_kernels_buffer_answers_where_the_journal_does_not(host: Host, answer: tuple[int, str, str] | None) -> None:
    if answer:
        host.answers["journalctl"] = answer
    host.answers["dmesg"] = (0, "[    0.000000] Linux\n[ 4711.250000] NVRM: Xid (PCI:0000:3b:00): 63, Row remap\n", "")
    events = subject.read_xid_events(host, [])
    assert events is not None
    assert [(item["xid"], item["last_seen_seconds"]) for item in events] == [(63, 4711.25)]


def test_a_kernel_log_that_nobody_may_read(host: Host) -> None:
    host.answers["journalctl"] = (1, "", "No journal files were opened due to insufficient permissions.\n")
    host.answers["dmesg"] = (1, "", "dmesg: read kernel buffer failed: Operation not permitted\n")
    problems: list[str] = []
    assert subject.read_xid_events(host, problems) is None
    assert "insufficient permissions" in problems[0] and "not permitted" in problems[0]


# ---- Platform --------------------------------------------------------------------------------------------------------


def pci_device(host: Host, address: str, vendor: str, pci_class: str, vpd: bytes = b"") -> None:
    folder = f"/sys/bus/pci/devices/{address}"
    host.write(f"{folder}/vendor", vendor + "\n")
    host.write(f"{folder}/class", pci_class + "\n")
    if vpd:
        host.write(f"{folder}/vpd", vpd)


def test_fabric_generations(host: Host) -> None:
    gpus = [pci_gpu()]
    pci_device(host, "0000:18:00.0", "0x10de", "0x030200")
    pci_device(host, "0000:19:00.0", "0x15b3", "0x020700", b"\x82ConnectX-7")
    assert subject.read_fabric_generation(host, gpus, []) == "none"
    pci_device(host, "0000:1a:00.0", "0x15b3", "0x020700", b"\x82ConnectX-7 \xffSW_MNG\x00")
    assert subject.read_fabric_generation(host, gpus, []) == "nvlink5"
    # Not without GPUs: a switch's management port in another kind of machine.
    assert subject.read_fabric_generation(host, [], []) == "none"
    assert subject.read_fabric_generation(host, gpus, ["NVIDIA GB200"]) == "nvlink5_multinode"
    assert subject.read_fabric_generation(host, [pci_gpu("10de:31c2")], []) == "nvlink5_multinode"


def test_nvswitches_are_seen_without_a_driver(host: Host) -> None:
    pci_device(host, "0000:05:00.0", "0x10de", "0x068000")
    assert subject.read_fabric_generation(host, [pci_gpu()], []) == "nvswitch"


def test_nvswitches_are_seen_through_the_driver(host: Host) -> None:
    host.write("/proc/driver/nvidia-nvswitch/devices/0000:05:00.0", "x")
    assert subject.read_fabric_generation(host, [pci_gpu()], []) == "nvswitch"


def test_platform_of_a_host_that_says_nothing(host: Host) -> None:
    platform = subject.read_platform(host, [], [], "")
    assert (platform["kernel"], platform["distribution"], platform["virtualisation"]) == ("", "", "")
    assert platform["architecture"]
    assert platform["infiniband_modules"] == []


def test_platform(host: Host) -> None:
    host.write("/etc/os-release", 'ID=ubuntu\nVERSION_ID="24.04"\n')
    host.write("/proc/sys/kernel/arch", "aarch64\n")
    host.write("/proc/sys/kernel/random/boot_id", "abc\n")
    host.write("/sys/module/ib_umad/initstate", "live\n")
    host.answers["systemd-detect-virt"] = (1, "none\n", "")
    platform = subject.read_platform(host, [], [], "grub")
    assert (platform["distribution"], platform["distribution_version"]) == ("ubuntu", "24.04")
    assert (platform["architecture"], platform["boot_id"]) == ("aarch64", "abc")
    assert (platform["virtualisation"], platform["infiniband_modules"]) == ("none", ["ib_umad"])
    assert platform["next_boot_rule"] == "grub"
