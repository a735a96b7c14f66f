# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import socket
import sys

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import host_readiness as readiness

DEBIAN = """PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
# ID=wrong
ID=debian
"""

# As a little-endian kernel prints it: nginx on 443, sshd on 22, an engine on 127.0.0.1:8000, and a connection
# from port 8000 that is established and not listening.
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4001 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4002 1 0 100 0 0 10 0
   2: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000   990        0 4003 1 0 100 0 0 10 0
   3: 0100007F:1F40 0100007F:C350 01 00000000:00000000 00:00000000 00000000   990        0 4004 1 0 100 0 0 10 0
"""
TCP6 = """  sl  local_address                         remote_address                        st queues tr inode
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0:0 00:0 0     0        0 4005 1
   1: B80D0120000000000000000001000000:1F40 00000000000000000000000000000000:0000 0A 0:0 00:0 0     0        0 4006 1
"""

little = pytest.mark.skipif(sys.byteorder != "little", reason="the recorded text is that of a little-endian host")


@pytest.mark.parametrize("place", ["etc", "usr/lib"])
def test_distribution_is_read_from_either_place(tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "os-release").write_text(DEBIAN)
    assert readiness.read_distribution(str(tmp_path)) == {
        "id": "debian",
        "version": "12",
        "name": "Debian GNU/Linux 12 (bookworm)",
    }


def test_a_host_that_does_not_say_its_distribution(tmp_path):
    assert readiness.read_distribution(str(tmp_path)) == {"id": "", "version": "", "name": ""}


@little
def test_listeners_of_wanted_ports_only():
    assert readiness.parse_listeners(TCP, [443, 8000]) == [
        {"port": 443, "address": "0.0.0.0", "inode": "4001"},
        {"port": 8000, "address": "127.0.0.1", "inode": "4003"},
    ]
    assert readiness.parse_listeners(TCP6, [443, 8000]) == [
        {"port": 443, "address": "::", "inode": "4005"},
        {"port": 8000, "address": "2001:db8::1", "inode": "4006"},
    ]
    assert readiness.parse_listeners(TCP, []) == []


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/system-vllm.slice/vllm@chat.service\n", "vllm@chat.service"),
        ("12:memory:/x.service\n1:name=systemd:/docker/abc/system.slice/nginx.service\n0::/\n", "nginx.service"),
        ("0::/system.slice/docker.service/payload\n", "docker.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
        ("", ""),
    ],
)
def test_unit_of_a_process(text, unit):
    assert readiness.parse_unit(text) == unit


def test_the_process_behind_a_socket_is_found():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        (found,) = readiness.read_listeners([port])
    assert (found["port"], found["address"], found["pid"]) == (port, "127.0.0.1", os.getpid())
    assert found["process"]
    assert readiness.read_listeners([port]) == []


def test_a_process_of_another_user_stays_nameless(tmp_path, monkeypatch):
    (tmp_path / "self" / "net").mkdir(parents=True)
    (tmp_path / "self" / "net" / "tcp").write_text(TCP)
    (tmp_path / "17" / "fd").mkdir(parents=True)
    found = readiness.read_listeners([22], str(tmp_path))
    assert [(item["port"], item["pid"], item["process"], item["unit"]) for item in found] == [(22, 0, "", "")]


@little
def test_the_first_process_with_the_socket_is_named(tmp_path):
    (tmp_path / "self" / "net").mkdir(parents=True)
    (tmp_path / "self" / "net" / "tcp").write_text(TCP)
    for pid, name in (("900", "worker"), ("81", "nginx")):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "fd" / "5").symlink_to("socket:[4001]")
        (tmp_path / pid / "comm").write_text(f"{name}\n")
        (tmp_path / pid / "cgroup").write_text("0::/system.slice/nginx.service\n")
    (found,) = readiness.read_listeners([443], str(tmp_path))
    assert found == {"port": 443, "address": "0.0.0.0", "pid": 81, "process": "nginx", "unit": "nginx.service"}


def test_space_is_that_of_the_folder_that_will_be_made(tmp_path):
    deep = str(tmp_path / "not" / "there" / "yet")
    found = readiness.read_space(deep)
    assert found["path"] == deep
    assert os.path.ismount(found["mount"])
    assert str(tmp_path.resolve()).startswith(found["mount"])
    assert 0 < found["free_bytes"] <= found["total_bytes"]
    assert not (tmp_path / "not").exists()


def test_space_follows_a_link(tmp_path):
    (tmp_path / "disk").symlink_to("/proc")
    assert readiness.read_space(str(tmp_path / "disk" / "models"))["mount"] == "/proc"


def test_a_folder_is_compared_by_size(tmp_path):
    (tmp_path / "good").write_bytes(b"1234")
    (tmp_path / "short").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    found = readiness.check_folder(
        str(tmp_path), [{"path": name, "size": 4} for name in ("good", "short", "folder", "missing", "short/below")]
    )
    assert found["exists"] is True
    assert [(item["path"], item["reason"], item["expected"], item["actual"]) for item in found["problems"]] == [
        ("short", "size", 4, 1),
        ("folder", "not a file", 4, None),
        ("missing", "missing", 4, None),
        ("short/below", "Not a directory", 4, None),
    ]
    assert readiness.check_folder(str(tmp_path / "none"), [{"path": "a", "size": 1}]) == {
        "path": str(tmp_path / "none"),
        "exists": False,
        "problems": [],
    }


def test_everything_in_one_answer(tmp_path, monkeypatch):
    # The machine has tests of its own, and this one would resolve its names.
    monkeypatch.setattr(readiness, "read_machine", lambda system, mounts, names: (system.root, mounts, names))
    (tmp_path / "model").mkdir()
    found = readiness.read_readiness(
        paths=[str(tmp_path)],
        ports=[1],
        models=[str(tmp_path / "model"), str(tmp_path / "other")],
        source_folders=[{"path": str(tmp_path), "files": [{"path": "a", "size": 1}]}, {"path": "/nowhere"}],
        names=["pypi.example"],
    )
    assert found["machine"] == ("/", {str(tmp_path): found["space"][0]["mount"]}, ["pypi.example"])
    assert [item["published"] for item in found["models"]] == [True, False]
    assert [item["exists"] for item in found["source_folders"]] == [True, False]
    assert [item["path"] for item in found["space"]] == [str(tmp_path)]
    assert found["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert found["root"] is (os.geteuid() == 0)
    assert sorted(os.listdir(tmp_path)) == ["model"]
