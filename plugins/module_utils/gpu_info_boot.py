# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kernels a host has, and which of them it boots next.

The boot loader's own files are read, in this order, and the first that names an installed kernel decides: GRUB's menu
with its environment, the entries of systemd-boot, the link /vmlinuz that Debian and Ubuntu keep. A host that boots
from the network has none of them; then nobody here can say, and no guess is made.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils.system import System

_GRUB_FOLDERS = ("/boot/grub", "/boot/grub2")
_LOADER_FOLDERS = ("/efi", "/boot/efi", "/boot")
_LINKS = ("/vmlinuz", "/boot/vmlinuz")
_EFI_VARIABLES = "/sys/firmware/efi/efivars"
_SYSTEMD_BOOT = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_IMAGES = ("vmlinuz-", "vmlinux-")


def running_kernel(system: System) -> str:
    return (system.read("/proc/sys/kernel/osrelease") or "").strip()


def installed_kernels(system: System) -> list[str]:
    """The kernels that could be booted, and the running one even if its image has been removed; oldest first.

    A folder in /lib/modules is not enough: modules that DKMS built outlive the kernel that they were built for.
    """
    kernels = {name[len(prefix) :] for name in system.list("/boot") for prefix in _IMAGES if name.startswith(prefix)}
    kernels.update(name for name in system.list("/lib/modules") if system.exists(f"/lib/modules/{name}/vmlinuz"))
    kernels = {name for name in kernels if not name.endswith((".old", ".dpkg-bak", ".dpkg-new", ".efi.signed"))}
    running = running_kernel(system)
    if running:
        kernels.add(running)
    return sorted(kernels, key=version_key)


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Sort `6.8.0-100-generic` after `6.8.0-45-generic`."""
    parts = re.findall(r"\d+|[^\d.+~-]+", version)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def next_boot_kernel(system: System, kernels: Collection[str]) -> tuple[str, str]:
    """The kernel that boots next and the rule that says so: `grub`, `systemd-boot`, `link`. Empty if none does."""
    for rule, read in (("grub", _read_grub), ("systemd-boot", _read_systemd_boot), ("link", _read_link)):
        kernel = read(system)
        if kernel in kernels:
            return kernel, rule
    return "", ""


@dataclass
class _Entry:
    """An entry of GRUB's menu: a kernel, or a menu of its own."""

    title: str
    identifier: str
    kernel: str = ""
    entries: list[_Entry] = field(default_factory=list)


def _read_grub(system: System) -> str:
    for folder in _GRUB_FOLDERS:
        text = system.read(f"{folder}/grub.cfg")
        if text is None:
            continue
        environment = _parse_environment(system.read(f"{folder}/grubenv") or "")
        entry = _select(_parse_menu(text), _default_entry(text, environment))
        if entry is not None:
            return _kernel_of_image(system, entry.kernel)
    return ""


def _parse_environment(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key: value for key, separator, value in pairs if separator}


def _default_entry(text: str, environment: dict[str, str]) -> str:
    """What the menu's own `set default` amounts to: `grub-reboot` first, then what is configured."""
    if environment.get("next_entry"):
        return environment["next_entry"]
    choices = [choice for choice in re.findall(r'set default="([^"]*)"', text) if choice != "${next_entry}"]
    choice = choices[-1] if choices else "0"
    return environment.get("saved_entry") or "0" if choice == "${saved_entry}" else choice


def _parse_menu(text: str) -> list[_Entry]:
    top = _Entry("", "")
    # Functions and other blocks have braces, too: they are pushed, but are no entries.
    stack: list[_Entry | None] = [top]
    for line in text.splitlines():
        words = line.strip()
        if words.endswith("{"):
            entry = _parse_entry(words)
            parent = next((item for item in reversed(stack) if item is not None), top)
            if entry is not None:
                parent.entries.append(entry)
            stack.append(entry)
        elif words == "}" and len(stack) > 1:
            stack.pop()
        elif stack[-1] is not None:
            image = re.match(r"linux(?:efi|16)?\s+(\S+)", words)
            if image and not stack[-1].kernel:
                stack[-1].kernel = image.group(1)
    return top.entries


def _parse_entry(words: str) -> _Entry | None:
    match = re.match(r"(?:menuentry|submenu)\s+(?:'([^']*)'|\"([^\"]*)\")", words)
    if match is None:
        return None
    identifier = re.search(r"(?:\$menuentry_id_option|--id)[ =]+['\"]?([^'\"\s{]+)", words)
    return _Entry(match.group(1) or match.group(2) or "", identifier.group(1) if identifier else "")


def _select(entries: list[_Entry], choice: str) -> _Entry | None:
    """The entry that *choice* names: numbers, titles or identifiers, one for each menu, joined by `>`."""
    entry: _Entry | None = None
    for part in choice.split(">"):
        named = [item for item in entries if part in (item.identifier, item.title)]
        if named:
            entry = named[0]
        elif part.isdigit() and int(part) < len(entries):
            entry = entries[int(part)]
        else:
            # What GRUB does with a default that it does not find.
            entry = entries[0] if entries else None
        entries = entry.entries if entry else []
    while entry is not None and entry.entries:
        entry = entry.entries[0]
    return entry


def _read_systemd_boot(system: System) -> str:
    for folder in _LOADER_FOLDERS:
        entries = {
            name: _parse_loader(system.read(f"{folder}/loader/entries/{name}") or "")
            for name in system.list(f"{folder}/loader/entries")
            if name.endswith(".conf")
        }
        if not entries:
            continue
        versions = {name: entry.get("version", name) for name, entry in entries.items()}
        newest_first = sorted(versions, key=lambda name: version_key(versions[name]), reverse=True)
        wanted = (
            _loader_variable(system, "LoaderEntryOneShot"),
            _loader_variable(system, "LoaderEntryDefault"),
            _parse_loader(system.read(f"{folder}/loader/loader.conf") or "").get("default", ""),
            "*",
        )
        for pattern in filter(None, wanted):
            for name in newest_first:
                if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name[: -len(".conf")], pattern):
                    entry = entries[name]
                    return entry.get("version") or _kernel_of_image(system, entry.get("linux", ""))
    return ""


def _parse_loader(text: str) -> dict[str, str]:
    pairs = (line.strip().split(None, 1) for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _loader_variable(system: System, name: str) -> str:
    content = system.read_bytes(f"{_EFI_VARIABLES}/{name}-{_SYSTEMD_BOOT}") or b""
    return content[4:].decode("utf-16-le", "replace").rstrip("\0")


def _read_link(system: System) -> str:
    for link in _LINKS:
        target = system.readlink(link)
        if target is not None:
            return _kernel_of_image(system, target)
    return ""


def _kernel_of_image(system: System, path: str) -> str:
    """`6.8.0-45-generic` of `/boot/vmlinuz-6.8.0-45-generic`, also where GRUB names a link to it."""
    name = posixpath.basename(path)
    if name in ("vmlinuz", "vmlinuz.old"):
        name = posixpath.basename(system.readlink(f"/boot/{name}") or system.readlink(f"/{name}") or "")
    return next((name[len(prefix) :] for prefix in _IMAGES if name.startswith(prefix)), "")
