# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Canonical's and NVIDIA's names, in repositories that STAND IN for theirs. The set moves up, down and across."""

from __future__ import annotations

from conftest import driver_packages, held, one_version

KERNEL = "6.8.0-136-generic"
CUDA = {"nvidia_driver_source": "nvidia", "nvidia_driver_accept_end_of_life": True}
SUFFIXED = {**CUDA, "nvidia_driver_repository_url": "file:///mnt/share/driver-apt/stand-in-cuda-suffixed"}
UNSUFFIXED = {**CUDA, "nvidia_driver_repository_url": "file:///mnt/share/driver-apt/stand-in-cuda-unsuffixed"}


def module(ubuntu) -> str:
    return ubuntu.check_output("modinfo --set-version %s --field version nvidia", KERNEL)


def assert_whole(ubuntu, version: str) -> dict[str, str]:
    packages = driver_packages(ubuntu)
    assert one_version(packages) == {version}
    assert module(ubuntu) == version
    assert set(packages) - held(ubuntu) == set()
    # No package of it is left over for a resolver to stumble upon.
    ubuntu.check_output("apt-get check")
    before = ubuntu.check_output("apt-get --simulate full-upgrade")
    assert "Inst nvidia" not in before
    assert "Inst libnvidia" not in before
    return packages


def test_signed_modules_of_canonical(ubuntu):
    packages = assert_whole(ubuntu, "580.173.02")
    assert packages[f"linux-modules-nvidia-580-server-open-{KERNEL}"] == "6.8.0-136.136"
    assert packages[f"linux-signatures-nvidia-{KERNEL}"] == "6.8.0-136.136"
    assert packages["nvidia-fabricmanager-580"] == packages["libnvidia-nscq-580"] == "580.173.02-0ubuntu0.24.04.1"
    assert ubuntu.service("nvidia-fabricmanager").is_enabled


def test_up(ubuntu, play):
    done = play("ubuntu-1", nvidia_driver_version="580.178.04")
    assert done.code == 0, done.text[-3000:]
    packages = assert_whole(ubuntu, "580.178.04")
    assert packages[f"linux-modules-nvidia-580-server-open-{KERNEL}"] == "6.8.0-136.136+1"
    assert packages["nvidia-fabricmanager-580"] == "580.178.04-0ubuntu0.24.04.1"
    # Firmware has its version in its name.
    assert "nvidia-firmware-580-server-580.173.02" not in packages


def test_down(ubuntu, play):
    done = play("ubuntu-1")
    assert done.code == 0, done.text[-3000:]
    assert "downgrade nvidia-utils-580-server" in done.words
    assert assert_whole(ubuntu, "580.173.02")["nvidia-fabricmanager-580"] == "580.173.02-0ubuntu0.24.04.1"


def test_across_to_nvidias_names_with_a_branch(ubuntu, play):
    wishes = {**SUFFIXED, "nvidia_driver_version": "580.178.04"}
    check = play("ubuntu-1", "--check", **wishes)
    assert check.code == 0, check.text[-3000:]
    assert "can only be said then" in check.words
    assert one_version(driver_packages(ubuntu)) == {"580.173.02"}
    done = play("ubuntu-1", **wishes)
    assert done.code == 0, done.text[-3000:]
    packages = assert_whole(ubuntu, "580.178.04")
    assert packages["nvidia-dkms-580-open"] == "580.178.04-1ubuntu1"
    # The suffixed name is virtual there.
    assert packages["nvidia-fabricmanager"] == packages["libnvidia-nscq"] == "580.178.04-1"
    assert not [name for name in packages if "-server" in name or name.startswith("linux-")]


def test_to_names_without_a_branch(ubuntu, play):
    done = play("ubuntu-1", **UNSUFFIXED, nvidia_driver_version="610.57.04")
    assert done.code == 0, done.text[-3000:]
    packages = assert_whole(ubuntu, "610.57.04")
    assert packages["nvidia-driver-pinning-610.57.04"] == "610.57.04-1ubuntu1"
    assert packages["nvidia-dkms-open"] == packages["nvidia-fabricmanager"] == "610.57.04-1ubuntu1"
    assert not [name for name in packages if "580" in name]


def test_down_a_branch_where_the_archive_rolls_forward(ubuntu, play):
    done = play("ubuntu-1", **UNSUFFIXED, nvidia_driver_version="", nvidia_driver_branch="595")
    assert done.code == 0, done.text[-3000:]
    packages = assert_whole(ubuntu, "595.91.07")
    assert "nvidia-driver-pinning-595.91.07" in packages
    assert "nvidia-driver-pinning-610.57.04" not in packages
    again = play("ubuntu-1", **UNSUFFIXED, nvidia_driver_version="", nvidia_driver_branch="595")
    assert again.changed == 0, again.text[-3000:]


def test_a_pin_of_somebody_else_is_refused(ubuntu, play):
    record = "Package: libnvidia-compute nvidia-*\\nPin: version 595.71.*\\nPin-Priority: 1001\\n"
    ubuntu.check_output(f"printf '{record}' > /etc/apt/preferences.d/team-a")
    try:
        done = play("ubuntu-1", **UNSUFFIXED, nvidia_driver_version="", nvidia_driver_branch="595")
        assert done.code != 0
        assert "driver-pins-contradict" in done.words
        assert "/etc/apt/preferences.d/team-a" in done.words
        assert done.changed == 0
    finally:
        ubuntu.check_output("rm /etc/apt/preferences.d/team-a")
