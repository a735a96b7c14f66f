# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says about itself before anything is done to it. Reads only, with the standard library alone."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.host_readiness_machine import read_machine
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

LISTEN_STATE = "0A"


def parse_os_release(text: str) -> dict[str, str]:
    """The fields of an os-release file, without their quotes."""
    fields = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith("#"):
            fields[key] = value.strip().strip("\"'")
    return fields


def read_distribution(root: str = "/") -> dict[str, str]:
    """Identifier (`debian`, `ubuntu`), version and full name; empty texts where the host does not say."""
    fields: dict[str, str] = {}
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            with open(os.path.join(root, name), encoding="utf-8", errors="replace") as handle:
                fields = parse_os_release(handle.read())
            break
        except OSError:
            continue
    return {
        "id": fields.get("ID", "").lower(),
        "version": fields.get("VERSION_ID", ""),
        "name": fields.get("PRETTY_NAME", ""),
    }


def nearest_existing(path: str) -> str:
    """*path*, or the closest folder above it that exists: there a missing folder would be made."""
    current = os.path.abspath(path)
    while not os.path.exists(current):
        current = os.path.dirname(current)
    return os.path.realpath(current)


def mount_point(path: str) -> str:
    """The mount point that holds *path*."""
    current = os.path.realpath(path)
    while not os.path.ismount(current):
        current = os.path.dirname(current)
    return current


def read_space(path: str) -> dict[str, Any]:
    """Space on the file system on which *path* lies, or would lie."""
    existing = nearest_existing(path)
    values = os.statvfs(existing)
    return {
        "path": path,
        "mount": mount_point(existing),
        "free_bytes": values.f_bavail * values.f_frsize,
        "total_bytes": values.f_blocks * values.f_frsize,
        # File systems without a fixed number of inodes say 0 for both.
        "free_inodes": values.f_favail if values.f_files else None,
        "read_only": bool(values.f_flag & os.ST_RDONLY),
    }


def check_folder(path: str, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare the sizes of the files in folder *path* with those wanted. Reads no content."""
    if not os.path.isdir(path):
        return {"path": path, "exists": False, "problems": []}
    problems = []
    for wanted in files:
        problem: dict[str, Any] = {"path": wanted["path"], "expected": wanted["size"], "actual": None, "reason": ""}
        try:
            found = os.stat(os.path.join(path, wanted["path"]))
        except FileNotFoundError:
            problem["reason"] = "missing"
        except OSError as error:
            problem["reason"] = error.strerror or str(error)
        else:
            if not stat.S_ISREG(found.st_mode):
                problem["reason"] = "not a file"
            elif found.st_size != wanted["size"]:
                problem.update(reason="size", actual=found.st_size)
        if problem["reason"]:
            problems.append(problem)
    return {"path": path, "exists": True, "problems": problems}


def decode_address(text: str) -> str:
    """An address as the kernel prints it in /proc/net/tcp: hexadecimal, 32-bit words in the host's byte order."""
    words = [int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def parse_listeners(text: str, ports: Iterable[int]) -> list[dict[str, Any]]:
    """The listening sockets on *ports* in the text of /proc/net/tcp or tcp6."""
    wanted = set(ports)
    listeners = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != LISTEN_STATE:
            continue
        address, _colon, port = fields[1].rpartition(":")
        if int(port, 16) in wanted:
            listeners.append({"port": int(port, 16), "address": decode_address(address), "inode": fields[9]})
    return listeners


def parse_unit(text: str) -> str:
    """The systemd service in the text of /proc/<pid>/cgroup, or nothing."""
    for line in text.splitlines():
        _number, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers in ("", "name=systemd"):
            for part in reversed(path.split("/")):
                if part.endswith(".service"):
                    return part
    return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


def socket_owners(inodes: Iterable[str], proc: str = "/proc") -> dict[str, dict[str, Any]]:
    """The process and unit that hold each socket, as far as this user may see."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    owners: dict[str, dict[str, Any]] = {}
    if not wanted:
        return owners
    # In ascending order, so that the first one found is the process that opened the socket and not its children.
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
        folder = os.path.join(proc, str(pid), "fd")
        try:
            descriptors = os.listdir(folder)
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                target = os.readlink(os.path.join(folder, descriptor))
            except OSError:
                continue
            inode = wanted.get(target)
            if inode is not None and inode not in owners:
                owners[inode] = {
                    "pid": pid,
                    "process": _read(os.path.join(proc, str(pid), "comm")).strip(),
                    "unit": parse_unit(_read(os.path.join(proc, str(pid), "cgroup"))),
                }
    return owners


def read_listeners(ports: Sequence[int], proc: str = "/proc") -> list[dict[str, Any]]:
    """Who listens on *ports*: address, process, PID and systemd unit (empty where they cannot be seen)."""
    if not ports:
        return []
    found: list[dict[str, Any]] = []
    for name in ("tcp", "tcp6"):
        found.extend(parse_listeners(_read(os.path.join(proc, "self", "net", name)), ports))
    owners = socket_owners({item["inode"] for item in found}, proc)
    listeners = []
    for item in found:
        owner = owners.get(item["inode"], {"pid": 0, "process": "", "unit": ""})
        listeners.append({"port": item["port"], "address": item["address"], **owner})
    return sorted(listeners, key=lambda item: (item["port"], item["address"]))


def read_readiness(
    paths: Sequence[str] = (),
    ports: Sequence[int] = (),
    models: Sequence[str] = (),
    source_folders: Sequence[Mapping[str, Any]] = (),
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything preflight wants to know about this host, in one answer."""
    space = [read_space(path) for path in paths]
    return {
        "distribution": read_distribution(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "host_name": socket.gethostname(),
        "python_version": platform.python_version(),
        # The same test as sd_booted(3).
        "systemd": os.path.isdir("/run/systemd/system"),
        "root": os.geteuid() == 0,
        "space": space,
        "listeners": read_listeners(ports),
        "models": [{"path": path, "published": os.path.isdir(path)} for path in models],
        "source_folders": [check_folder(str(item["path"]), item.get("files") or []) for item in source_folders],
        "machine": read_machine(System(), {item["path"]: item["mount"] for item in space}, names),
    }
