# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kernels a host has and which boots next, by the files of boot loaders."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import gpu_info_boot as subject
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tests" / "fakes" / "hosts"))

import fake_host  # noqa: E402  (found through the path above)

OLD, NEW = "6.8.0-136-generic", "6.8.0-139-generic"


def write(root: Path, path: str, content: str | bytes = "") -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)


def next_boot(root: Path, kernels: tuple[str, ...] = (OLD, NEW)) -> tuple[str, str]:
    return subject.next_boot_kernel(System(str(root)), kernels)


def grub(root: Path, default: str, environment: str = "") -> None:
    menu = fake_host.grub_menu([NEW, OLD]).replace('set default="${saved_entry}"', f'set default="{default}"')
    write(root, "boot/grub/grub.cfg", menu)
    write(root, "boot/grub/grubenv", ("# GRUB Environment Block\n" + environment).ljust(1024, "#"))


def test_installed_kernels_oldest_first_and_the_running_one_even_if_it_was_removed(tmp_path: Path) -> None:
    for name in ("vmlinuz-6.8.0-139-generic", "vmlinuz-6.8.0-45-generic", "vmlinuz-6.8.0-45-generic.old", "config-1"):
        write(tmp_path, f"boot/{name}")
    write(tmp_path, "lib/modules/6.14.0-1-fedora/vmlinuz")
    # Modules that DKMS built for a kernel that is gone.
    write(tmp_path, "lib/modules/6.5.0-9-generic/updates/dkms/nvidia.ko")
    write(tmp_path, "proc/sys/kernel/osrelease", "6.8.0-100-generic\n")
    assert subject.installed_kernels(System(str(tmp_path))) == [
        "6.8.0-45-generic",
        "6.8.0-100-generic",
        "6.8.0-139-generic",
        "6.14.0-1-fedora",
    ]


@pytest.mark.parametrize(
    ("default", "environment", "expected"),
    [
        ("0", "", NEW),
        ("1>2", "", OLD),
        ("1", "", NEW),
        ("gnulinux-simple-ROOT", "", NEW),
        (f"gnulinux-advanced-ROOT>gnulinux-{OLD}-advanced-ROOT", "", OLD),
        (f"Advanced options for GNU/Linux>GNU/Linux, with Linux {OLD}", "", OLD),
        ("${saved_entry}", "", NEW),
        ("${saved_entry}", f"saved_entry=gnulinux-advanced-ROOT>gnulinux-{OLD}-advanced-ROOT\n", OLD),
        ("${saved_entry}", "saved_entry=no-such-entry\n", NEW),
        # `grub-reboot` counts once, before anything else.
        ("0", "next_entry=1>2\nsaved_entry=0\n", OLD),
        ("0", "next_entry=\n", NEW),
    ],
)
def test_grub(tmp_path: Path, default: str, environment: str, expected: str) -> None:
    grub(tmp_path, default, environment)
    assert next_boot(tmp_path) == (expected, "grub")


def test_an_entry_that_boots_no_installed_kernel_decides_nothing(tmp_path: Path) -> None:
    grub(tmp_path, "2")
    assert next_boot(tmp_path) == ("", "")
    grub(tmp_path, "0")
    assert next_boot(tmp_path, (OLD,)) == ("", "")


def test_grub_that_names_a_link(tmp_path: Path) -> None:
    write(tmp_path, "boot/grub2/grub.cfg", 'menuentry "Linux" {\n  linux /vmlinuz root=/dev/sda1\n}\n')
    (tmp_path / "vmlinuz").symlink_to(f"boot/vmlinuz-{OLD}")
    assert next_boot(tmp_path) == (OLD, "grub")


def loader(root: Path) -> None:
    write(root, f"boot/efi/loader/entries/abc-{OLD}.conf", f"title A\nversion {OLD}\nlinux /abc/{OLD}/linux\n")
    write(root, f"boot/efi/loader/entries/abc-{NEW}.conf", f"# new\ntitle A\nversion {NEW}\nlinux /abc/{NEW}/linux\n")


def test_systemd_boot_takes_the_newest_unless_told(tmp_path: Path) -> None:
    loader(tmp_path)
    assert next_boot(tmp_path) == (NEW, "systemd-boot")
    write(tmp_path, "boot/efi/loader/loader.conf", f"timeout 3\ndefault abc-{OLD}*\n")
    assert next_boot(tmp_path) == (OLD, "systemd-boot")
    write(tmp_path, "boot/efi/loader/loader.conf", "default no-such-*\n")
    assert next_boot(tmp_path) == (NEW, "systemd-boot")


@pytest.mark.parametrize("variable", ["LoaderEntryOneShot", "LoaderEntryDefault"])
def test_systemd_boot_asks_the_firmware_first(tmp_path: Path, variable: str) -> None:
    loader(tmp_path)
    content = b"\x07\0\0\0" + f"abc-{OLD}.conf\0".encode("utf-16-le")
    write(tmp_path, f"sys/firmware/efi/efivars/{variable}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", content)
    assert next_boot(tmp_path) == (OLD, "systemd-boot")


def test_an_entry_without_a_version_is_known_by_its_image(tmp_path: Path) -> None:
    write(tmp_path, "efi/loader/entries/debian.conf", f"title Debian\nlinux /vmlinuz-{OLD}\n")
    assert next_boot(tmp_path) == (OLD, "systemd-boot")


@pytest.mark.parametrize(("link", "target"), [("vmlinuz", f"boot/vmlinuz-{OLD}"), ("boot/vmlinuz", f"vmlinuz-{OLD}")])
def test_the_link_decides_where_there_is_no_boot_loader(tmp_path: Path, link: str, target: str) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / link).symlink_to(target)
    assert next_boot(tmp_path) == (OLD, "link")


def test_nothing_is_guessed(tmp_path: Path) -> None:
    assert next_boot(tmp_path) == ("", "")
