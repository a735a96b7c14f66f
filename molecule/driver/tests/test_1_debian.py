# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian 12's real driver 535, its open modules built by DKMS for a real kernel. The tests change the host in turn."""

from __future__ import annotations

import re

import pytest
from conftest import driver_packages, held, one_version

# The open modules exist in this version only; everything else has a newer one in the security archive.
VERSION = "535.261.03"
OWN = ("nvidia-modprobe", "nvidia-persistenced")
SETTINGS = "etc/modprobe.d/baremetal-llm-nvidia-driver.conf"


@pytest.fixture(scope="module")
def kernel(debian) -> str:
    return debian.check_output("ls /lib/modules").split()[0]


def test_the_module_is_built_for_the_kernel(debian, kernel):
    assert f"nvidia-current-open/{VERSION}, {kernel}" in debian.check_output("dkms status")
    assert debian.check_output("modinfo --set-version %s --field version nvidia-current-open", kernel) == VERSION
    licence = debian.check_output("modinfo --set-version %s --field license nvidia-current-open", kernel)
    assert licence == "Dual MIT/GPL"


def test_every_package_is_of_one_version_although_some_have_a_newer_one(debian):
    assert one_version(driver_packages(debian), OWN) == {VERSION}
    offered = debian.check_output("apt-cache madison nvidia-smi")
    assert len(set(re.findall(r"535[^ ]+", offered))) > 1, "the archive no longer has what this test is about"


def test_without_a_gpu_nvidia_smi_fails_as_it_should(debian):
    done = debian.run("nvidia-smi")
    assert done.rc != 0
    assert "driver" in done.stdout


def test_gpu_info_reads_the_real_library_and_the_real_module(gpu_facts, kernel):
    assert gpu_facts["nvml"]["error"] == "DRIVER_NOT_LOADED"
    assert gpu_facts["gpus"] == [] and gpu_facts["problems"] == []
    module = next(item for item in gpu_facts["kernel_modules"] if item["kernel"] == kernel)
    assert (module["version"], module["flavour"], module["dkms_state"]) == (VERSION, "open", "installed")
    assert module["headers_installed"]
    libraries = [item for item in gpu_facts["packages"] if item["name"] == "libnvidia-ml1"]
    assert [(item["version"].split("-")[0], item["held"]) for item in libraries] == [(VERSION, True)]


def test_everything_is_held_kernel_included(debian, kernel):
    packages = set(driver_packages(debian))
    assert packages - held(debian) == set()
    assert {f"linux-headers-{kernel}", "linux-image-cloud-amd64", "linux-headers-cloud-amd64"} <= held(debian)


def test_other_drivers_are_kept_out_in_the_initramfs_too(debian, kernel):
    assert f"{SETTINGS}\n" in debian.check_output("lsinitramfs /boot/initrd.img-%s", kernel) + "\n"
    # What is packed is what is on disk.
    unpacked = "d=$(mktemp -d); unmkinitramfs /boot/initrd.img-%s $d; cat $d/%s $d/main/%s 2>/dev/null"
    packed = debian.run(unpacked, kernel, SETTINGS, SETTINGS).stdout
    assert packed.strip() == debian.check_output("cat /%s", SETTINGS).strip()
    configuration = debian.check_output("/sbin/modprobe --showconfig")
    for module in ("nouveau", "nova_core", "nova_drm"):
        assert f"blacklist {module}\n" in configuration
        assert f"install {module} /bin/false\n" in configuration


def test_persistence_starts_at_boot(debian):
    assert debian.service("nvidia-persistenced").is_enabled


def test_unattended_upgrades_leave_it_alone(debian):
    """Without holds and pins as well, which would otherwise do its work."""
    debian.check_output(
        "mv /etc/apt/preferences.d/baremetal-llm-nvidia-driver /root/pins && apt-mark unhold nvidia-smi"
    )
    try:
        said = debian.run("unattended-upgrade --dry-run --debug 2>&1").stdout
        assert "nvidia-smi" in debian.check_output("apt list --upgradable 2>/dev/null")
        chosen = [line for line in said.splitlines() if line.startswith("pkgs that look like they should be upgraded")]
        assert chosen, said[-2000:]
        assert "nvidia" not in chosen[0]
        assert "linux-image" not in chosen[0]
    finally:
        debian.check_output(
            "mv /root/pins /etc/apt/preferences.d/baremetal-llm-nvidia-driver && apt-mark hold nvidia-smi"
        )


def test_a_full_upgrade_moves_neither_driver_nor_kernel(debian, kernel):
    before = driver_packages(debian)
    wanted = debian.check_output("apt-cache madison linux-image-cloud-amd64").splitlines()
    assert len(wanted) > 1, "there is no newer kernel that could have come"
    debian.check_output("DEBIAN_FRONTEND=noninteractive apt-get --yes full-upgrade")
    assert driver_packages(debian) == before
    assert debian.check_output("ls /lib/modules").split() == [kernel]


def test_the_pins_alone_would_do_it_as_well(debian):
    said = debian.check_output("apt-get --simulate --ignore-hold full-upgrade")
    assert not re.search(r"^Inst (nvidia-smi|libcuda1|libnvidia|firmware-nvidia)", said, re.MULTILINE)


def test_half_an_upgrade_is_brought_back(debian, play):
    """Somebody moved by hand what no exact dependency keeps in its place, and lost a hold. Real packages go down."""
    before = driver_packages(debian)
    newest = debian.check_output("apt-cache madison nvidia-smi").splitlines()[0].split("|")[1].strip()
    moved = f"libnvidia-encode1={newest} nvidia-modprobe={newest}"
    debian.check_output(f"DEBIAN_FRONTEND=noninteractive apt-get --yes --allow-change-held-packages install {moved}")
    assert driver_packages(debian)["libnvidia-encode1"] == newest
    debian.check_output("apt-mark unhold libcuda1")
    said = play("debian-1", "--check")
    assert (said.code, said.changed) == (0, 1), said.text[-2000:]
    assert f"downgrade libnvidia-encode1 {newest} -> {VERSION}-1" in said.words
    assert driver_packages(debian)["libnvidia-encode1"] == newest
    done = play("debian-1")
    assert done.code == 0, done.text[-3000:]
    assert driver_packages(debian) == before
    assert set(before) - held(debian) == set()


def test_a_second_kernel_without_headers_is_refused(debian, play, kernel):
    """A real kernel whose headers the archive dropped, where there is one."""
    names = set(debian.check_output("apt-cache pkgnames linux-").split())
    bare = sorted(
        name
        for name in names
        if re.fullmatch(r"linux-image-6\.1\.0-\d+-cloud-amd64", name)
        and name.replace("image", "headers") not in names
        and "|" in debian.run(f"apt-cache madison {name}").stdout
    )
    other = bare[-1].removeprefix("linux-image-") if bare else "6.1.0-999-cloud-amd64"
    if bare:
        debian.check_output(f"DEBIAN_FRONTEND=noninteractive apt-get --yes --no-install-recommends install {bare[-1]}")
    else:
        debian.check_output(f"mkdir -p /lib/modules/{other} && touch /boot/vmlinuz-{other}")
    refused = play("debian-1")
    assert refused.code != 0
    assert "driver-headers-missing" in refused.words
    assert f"headers of kernel {other}" in refused.words
    assert kernel not in re.findall(r"headers of kernel (\S+?)[:;]", refused.words)
    assert refused.changed == 0
    remove = f"apt-get --yes purge {bare[-1]}" if bare else f"rm -r /lib/modules/{other} /boot/vmlinuz-{other}"
    debian.check_output(f"DEBIAN_FRONTEND=noninteractive {remove}")


def test_a_module_that_was_lost_is_noticed(debian, play, kernel):
    debian.check_output(f"mv /lib/modules/{kernel}/updates /root/updates && depmod {kernel}")
    try:
        done = play("debian-1")
        assert done.code != 0
        assert "driver-module-missing" in done.words
        assert f"for kernel {kernel} there is no module" in done.words
    finally:
        debian.check_output(f"mv /root/updates /lib/modules/{kernel}/updates && depmod {kernel}")


def test_a_refusal_changes_nothing_and_says_what_there_is(play):
    done = play("debian-1", nvidia_driver_branch="580")
    assert done.code != 0
    assert "driver-branch-not-offered" in done.words
    assert "535: 535.309.01, 535.261.03" in done.words
    assert done.changed == 0


def test_a_host_without_a_gpu_is_left_alone(play):
    done = play("debian-1", nvidia_driver_without_gpu=False)
    assert (done.code, done.changed) == (0, 0)
    assert "has no NVIDIA GPU on its PCI bus" in done.words
    assert "Find the set" not in done.text
