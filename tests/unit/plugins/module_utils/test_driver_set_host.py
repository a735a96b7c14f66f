# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from a host, and what is said about it afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_host import (
    MODPROBE,
    cuda_repository,
    initramfs_problem,
    make_offers,
    missing_components,
    parse_dpkg,
    parse_origins,
    parse_simulation,
    parse_targets,
    persistence_drop_in,
    read_fabric,
    read_host,
    read_kernels,
    read_pins,
    read_set,
    simulate,
    verify,
)
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import (
    DriverSet,
    Host,
    Installed,
    Wanted,
)
from ansible_collections.baremetal.llm.plugins.module_utils.system import CommandResult, System

HERE = Path(__file__).resolve().parent
KERNEL = "6.1.0-50-cloud-amd64"

TARGETS = """MetaKey: main/binary-amd64/Packages
Release: bookworm
Component: main
Repo-URI: http://deb.example.net/debian/
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Sourcesentry: /etc/apt/sources.list.d/debian.sources:1

MetaKey: main/binary-amd64/Packages
Release: bookworm-security
Component: main
Repo-URI: http://security.example.net/debian-security/
Sourcesentry: /etc/apt/sources.list:2

MetaKey: non-free/binary-amd64/Packages
Release: bookworm-security
Component: non-free
Repo-URI: http://security.example.net/debian-security/
Sourcesentry: /etc/apt/sources.list:2

MetaKey: Packages
Release: /
Component:
Repo-URI: http://elsewhere.example/
Sourcesentry: /etc/apt/sources.list.d/elsewhere.list:1
"""

SIMULATION = """Reading package lists...
Remv nvidia-utils-580-server [580.173.02-0ubuntu0.24.04.1]
Remv datacenter-tool [1.0]
Inst libnvidia-compute-580 [580.173.02-1ubuntu1] (580.178.04-1ubuntu1 NVIDIA:stand-in [amd64])
Inst dkms (3.0.10-8+deb12u1 Debian:12.15/oldstable [all])
Conf dkms (3.0.10-8+deb12u1 Debian:12.15/oldstable [all])
"""


class FakeSystem(System):
    """A folder for `/`, and outputs for the commands whose line begins so."""

    def __init__(self, root, outputs=None):
        super().__init__(str(root))
        self.outputs = outputs or {}
        self.asked = []

    def run(self, argv, timeout_seconds=10):
        line = " ".join(argv)
        self.asked.append(line)
        for start, output in self.outputs.items():
            if line.startswith(start):
                return output if isinstance(output, CommandResult) else CommandResult(0, output, "")
        return CommandResult(127, "", f"{argv[0]}: command not found")

    def write(self, path, content=""):
        target = Path(self.path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.write_text(content)


def pci(system, address, device, kind="0x030200"):
    for name, value in (("vendor", "0x10de"), ("device", device), ("class", kind)):
        system.write(f"/sys/bus/pci/devices/{address}/{name}", value + "\n")


def recorded(name):
    return {
        "apt-cache pkgnames": "nvidia-smi\nnvidia-open-kernel-dkms\n",
        "apt-cache show": (HERE / f"driver_set_offers/{name}_show.txt").read_text(),
        "apt-cache madison": (HERE / f"driver_set_offers/{name}_madison.txt").read_text(),
        "apt-cache policy": (HERE / f"driver_set_offers/{name}_policy.txt").read_text(),
    }


@pytest.fixture
def debian(tmp_path):
    system = FakeSystem(
        tmp_path,
        {
            **recorded("debian_12_2026-11"),
            "dpkg --print-architecture": "amd64\n",
            "dpkg-query --show": f"linux-image-{KERNEL}\t6.1.176-1\tinstall\tinstalled\nbash\t5\tinstall\tinstalled\n",
            "apt-get --simulate": "Inst nvidia-smi (535.261.03-1 Debian:12 [amd64])\n"
            "Inst pciutils (1:3.9 Debian:12 [amd64])\n",
        },
    )
    system.write("/etc/os-release", 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    system.write(f"/boot/vmlinuz-{KERNEL}")
    system.write("/boot/vmlinuz-5.10.0-1-amd64")  # without modules: left by a kernel that is gone
    system.write(f"/lib/modules/{KERNEL}/modules.dep")
    pci(system, "0000:3b:00.0", "0x1eb8")
    return system


# --- Reading


def test_a_host(debian):
    host = read_host(debian)
    assert (host.distribution, host.release, host.architecture) == ("debian", "12", "amd64")
    assert (host.gpus, host.fabric, host.kernels, host.secure_boot) == (("10de:1eb8",), "none", (KERNEL,), None)
    assert host.installed == {f"linux-image-{KERNEL}": Installed("6.1.176-1")}


def test_kernels_are_sorted_by_version(tmp_path):
    system = FakeSystem(tmp_path)
    for kernel in ("6.8.0-9-generic", "6.8.0-136-generic", "6.14.0-1-generic"):
        system.write(f"/boot/vmlinuz-{kernel}")
        system.write(f"/lib/modules/{kernel}/modules.dep")
    assert read_kernels(system) == ("6.14.0-1-generic", "6.8.0-136-generic", "6.8.0-9-generic")


def test_nvswitches_and_infiniband_bridges(tmp_path):
    system = FakeSystem(tmp_path)
    pci(system, "0000:3b:00.0", "0x2330")
    assert read_fabric(system, ["10de:2330"]) == "none"
    system.write("/sys/class/infiniband/mlx5_0/device/vpd", b"\x82NIC SW_MNG\x00")
    assert read_fabric(system, ["10de:9999"]) == "nvlink5"
    pci(system, "0000:05:00.0", "0x22a3", "0x068000")
    assert read_fabric(system, ["10de:2330"]) == "nvswitch"


def test_the_key_of_dkms_counts_only_where_it_is_enrolled(debian):
    debian.write("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0\0\0\x01")
    debian.write("/var/lib/dkms/mok.pub")
    assert read_host(debian).secure_boot is True
    assert read_host(debian).dkms_key_enrolled is False
    debian.outputs["mokutil --test-key"] = "/var/lib/dkms/mok.pub is not enrolled\n"
    assert read_host(debian).dkms_key_enrolled is False
    debian.outputs["mokutil --test-key"] = "/var/lib/dkms/mok.pub is already enrolled\n"
    assert read_host(debian).dkms_key_enrolled is True


def test_packages_in_pieces_and_holds():
    packages = parse_dpkg("a\t1\thold\tinstalled\nb\t2\tinstall\thalf-configured\nc\t3\tdeinstall\tconfig-files\nodd\n")
    assert packages == {"a": Installed("1", True), "b": Installed("2", False, "half-configured")}


def test_pins_but_our_own_and_those_of_pinning_packages(tmp_path):
    system = FakeSystem(
        tmp_path, {"dpkg-query --search /etc/apt/preferences.d/nvidia-driver-pin": "nvidia-driver-pinning-610: x"}
    )
    record = "Package: nvidia-*\nPin: version 1.*\nPin-Priority: 1001\n"
    for name in ("baremetal-llm-nvidia-driver", "nvidia-driver-pin", "team.pref", "old.bak"):
        system.write(f"/etc/apt/preferences.d/{name}", record)
    assert [pin.path for pin in read_pins(system)] == ["/etc/apt/preferences.d/team.pref"]


def test_origins():
    text = recorded("debian_12_2026-11")["apt-cache policy"]
    assert parse_origins(text)["http://deb.example.net/debian bookworm/contrib"] == "Debian"


# --- Sources


def test_components_are_added_with_the_address_and_key_of_the_entry_they_add_to():
    text = missing_components(parse_targets(TARGETS), "bookworm", ("contrib", "non-free"))
    assert text == (
        "Types: deb\nURIs: http://deb.example.net/debian/\nSuites: bookworm\nComponents: contrib non-free\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        "Types: deb\nURIs: http://security.example.net/debian-security/\nSuites: bookworm-security\n"
        "Components: contrib\n\n"
    )


def test_what_we_added_before_is_still_ours_to_add():
    ours = TARGETS + (
        "\n\nRelease: bookworm\nComponent: contrib\nRepo-URI: http://deb.example.net/debian/\n"
        "Sourcesentry: /etc/apt/sources.list.d/baremetal-llm-nvidia-driver.sources:1\n"
    )
    before = missing_components(parse_targets(TARGETS), "bookworm", ("contrib", "non-free"))
    assert missing_components(parse_targets(ours), "bookworm", ("contrib", "non-free")) == before


def test_nothing_is_added_where_everything_is():
    assert missing_components(parse_targets(TARGETS), "bookworm", ("main",)) == ""


@pytest.mark.parametrize(
    ("distribution", "release", "architecture", "end", "known"),
    [
        ("ubuntu", "24.04", "amd64", "ubuntu2404/x86_64", True),
        ("ubuntu", "26.04", "arm64", "ubuntu2604/sbsa", False),
        ("debian", "12", "amd64", "debian12/x86_64", True),
    ],
)
def test_nvidias_repository(distribution, release, architecture, end, known):
    url, digest = cuda_repository(Host(distribution, release, architecture))
    assert url.endswith(f"/cuda/repos/{end}")
    assert bool(digest) is known


# --- apt's answer


def test_a_simulation():
    assert parse_simulation(SIMULATION) == (
        ["libnvidia-compute-580=580.178.04-1ubuntu1", "dkms=3.0.10-8+deb12u1"],
        ["nvidia-utils-580-server", "datacenter-tool"],
    )


def test_what_is_not_of_the_driver_must_not_go(tmp_path):
    chosen = DriverSet(version="580.178.04", packages={"libnvidia-compute-580": "580.178.04-1ubuntu1"})
    also, refusals = simulate(FakeSystem(tmp_path, {"apt-get --simulate": SIMULATION}), chosen)
    assert "dkms=3.0.10-8+deb12u1" in also
    assert "nvidia-utils-580-server (removed)" in also
    assert [finding.code for finding in refusals] == ["driver-removes-others"]
    assert "datacenter-tool" in refusals[0].message


def test_apt_says_no(tmp_path):
    words = " a : Depends: b (= 1) but 2 is to be installed\nE: Unable to correct problems\n"
    system = FakeSystem(tmp_path, {"apt-get --simulate": CommandResult(100, words, "")})
    _also, refusals = simulate(system, DriverSet(version="580.178.04", packages={"a": "1"}))
    assert [finding.code for finding in refusals] == ["driver-apt-refuses"]
    assert "a : Depends: b (= 1)" in refusals[0].message


# --- Afterwards


OPEN = {
    f"modinfo --set-version {KERNEL} --field version nvidia-current-open": "535.261.03\n",
    f"modinfo --set-version {KERNEL} --field license nvidia-current-open": "Dual MIT/GPL\n",
}


def chosen_set(**more):
    values = {"version": "535.261.03", "flavour": "open", "module_names": ("nvidia-current-open", "nvidia"), **more}
    return DriverSet(**values)


def host_with(**more):
    return Host(**{"distribution": "debian", "release": "12", "architecture": "amd64", "kernels": (KERNEL,), **more})


def test_a_module_for_every_kernel(tmp_path):
    system = FakeSystem(tmp_path, dict(OPEN))
    state, problems = verify(system, host_with(), chosen_set(), Wanted())
    assert problems == []
    assert state["kernels"][0]["version"] == "535.261.03"
    both = host_with(kernels=("6.1.0-56-cloud-amd64", KERNEL))
    _state, problems = verify(system, both, chosen_set(), Wanted())
    assert [finding.code for finding in problems] == ["driver-module-missing"]
    assert "6.1.0-56-cloud-amd64" in problems[0].message
    assert verify(system, both, chosen_set(), Wanted(ignored_kernels=("6.1.0-56-cloud-amd64",)))[1] == []


@pytest.mark.parametrize("wanted", [{"version": "535.309.01"}, {"flavour": "proprietary"}])
def test_another_module_is_no_module(tmp_path, wanted):
    _state, problems = verify(FakeSystem(tmp_path, dict(OPEN)), host_with(), chosen_set(**wanted), Wanted())
    assert [finding.code for finding in problems] == ["driver-module-missing"]
    assert "535.261.03 (open)" in problems[0].message


def test_reasons_to_restart(tmp_path):
    system = FakeSystem(tmp_path, dict(OPEN))
    gpus = host_with(gpus=("10de:1eb8",))

    def reasons(host):
        return " ".join(verify(system, host, chosen_set(), Wanted())[0]["reboot_reasons"])

    assert reasons(host_with()) == ""
    assert "not loaded" in reasons(gpus)
    system.write("/sys/module/nouveau/refcnt", "1")
    assert "nouveau is loaded" in reasons(gpus)
    os.remove(system.path("/sys/module/nouveau/refcnt"))
    os.rmdir(system.path("/sys/module/nouveau"))
    system.write("/sys/module/nvidia/version", "535.216.03\n")
    assert "the loaded module is 535.216.03, the installed one 535.261.03" in reasons(gpus)
    system.write("/sys/module/nvidia/version", "535.261.03\n")
    assert reasons(gpus) == ""


def test_holds_that_are_missing(tmp_path):
    installed = {"nvidia-smi": Installed("1", True), "libcuda1": Installed("1")}
    state, _problems = verify(
        FakeSystem(tmp_path, dict(OPEN)),
        host_with(installed=installed),
        chosen_set(hold=("nvidia-smi", "libcuda1", "not-there")),
        Wanted(),
    )
    assert state["not_held"] == ["libcuda1"]


def test_the_initramfs_must_hold_the_settings(tmp_path):
    system = FakeSystem(tmp_path, {"lsinitramfs": "etc/modprobe.d/other.conf\nusr/lib/modules/nouveau.ko\n"})
    assert initramfs_problem(system, KERNEL) == ""  # there is none
    system.write(f"/boot/initrd.img-{KERNEL}")
    assert "is not there" in initramfs_problem(system, KERNEL)
    system.write(MODPROBE, "blacklist nouveau\n")
    os.utime(system.path(f"/boot/initrd.img-{KERNEL}"), (1, 1))
    assert "older" in initramfs_problem(system, KERNEL)
    os.utime(system.path(MODPROBE), (1, 1))
    assert "does not hold" in initramfs_problem(system, KERNEL)
    system.outputs["lsinitramfs"] = MODPROBE.lstrip("/") + "\n"
    assert initramfs_problem(system, KERNEL) == ""


def test_dracut_is_asked_where_there_is_no_initramfs_tools(tmp_path):
    system = FakeSystem(tmp_path, {"lsinitrd": "nothing of ours\n"})
    system.write(f"/boot/initrd.img-{KERNEL}")
    system.write(MODPROBE)
    os.utime(system.path(MODPROBE), (1, 1))
    assert "does not hold" in initramfs_problem(system, KERNEL)


def test_ubuntus_unit_switches_persistence_off():
    unit = (
        "[Service]\nType=forking\n"
        "ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose\n"
    )
    text = persistence_drop_in(unit)
    assert "ExecStart=\nExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --verbose\n" in text
    assert "WantedBy=multi-user.target" in text
    debian_unit = (
        "[Service]\nExecStart=/usr/bin/nvidia-persistenced --user nvpd\n[Install]\nWantedBy=multi-user.target\n"
    )
    assert persistence_drop_in(debian_unit) == ""
    assert persistence_drop_in("") == ""


# --- All of it


WANTED = Wanted("debian", "535", flavour="open", accept_end_of_life=True)


def test_the_whole_answer(debian):
    answer = read_set(debian, WANTED)
    assert answer["refusals"] == []
    assert answer["source_known"] is True
    assert answer["set"]["version"] == "535.261.03"
    assert "install nvidia-open-kernel-dkms 535.261.03-1" in answer["set"]["changes"]
    assert answer["also"] == ["pciutils=1:3.9"]
    assert answer["command"][0] == "apt-get"
    assert "nvidia-open-kernel-dkms=535.261.03-1" in answer["command"]
    assert "--allow-downgrades" in answer["command"]
    assert [problem["code"] for problem in answer["problems"]] == ["driver-module-missing"]


def test_before_apt_is_asked_nothing_of_it_is_read(debian):
    answer = read_set(debian, Wanted("debian", "535"), hardware_only=True)
    assert [each["code"] for each in answer["refusals"]] == ["driver-branch-ended"]
    assert "nvidia_driver_accept_end_of_life" in answer["refusal_text"]
    assert not [line for line in debian.asked if line.startswith("apt")]


def test_nothing_is_ever_changed(debian):
    read_set(debian, WANTED)
    read_set(debian, WANTED, hardware_only=True)
    for line in debian.asked:
        assert line.startswith(
            ("apt-cache ", "apt-get --simulate", "apt-get indextargets", "dpkg", "modinfo", "mokutil")
        ), line


# --- Flat repositories, as NVIDIA's are: no suite, no component


FLAT = "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64"


def test_a_flat_repository_is_known_by_its_owner():
    policy = (
        "Package files:\n 100 /var/lib/dpkg/status\n     release a=now\n"
        f" 600 {FLAT}  Packages\n     release o=NVIDIA,l=NVIDIA CUDA,c=,b=amd64\n"
    )
    madison = f"libnvidia-compute | 595.91.07-1ubuntu1 | {FLAT}  Packages\n"
    show = "Package: libnvidia-compute\nVersion: 595.91.07-1ubuntu1\nDepends: libnvidia-gpucomp\n"
    (offer,) = make_offers(show, madison, policy)["libnvidia-compute"]
    assert offer.archives == ((FLAT, "NVIDIA"),)
    assert offer.depends[0][0].name == "libnvidia-gpucomp"


def test_what_is_installed_but_offered_no_more_is_no_offer():
    show = "Package: libnvidia-compute\nVersion: 580.95.05-0ubuntu1\n"
    assert make_offers(show, "", "") == {}
