# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mirror as its clients see it: the Hub's own library here, model_weights on a host of the site."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import testinfra
import yaml

ROOT = Path(__file__).resolve().parents[3]
STATE = ROOT / ".cache/testbed/mirror"
INVENTORY = STATE / "inventory"
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".cache/collections")
# Nothing of this machine's own use of the Hub.
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
    del os.environ[name]


def _host(name: str) -> testinfra.host.Host:
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY), sudo=True)


@pytest.fixture(scope="session")
def mirror() -> testinfra.host.Host:
    return _host("mirror-1")


@pytest.fixture(scope="session")
def client() -> testinfra.host.Host:
    return _host("client-1")


@pytest.fixture(scope="session")
def address() -> str:
    inventory = yaml.safe_load((INVENTORY / "hosts.yml").read_text(encoding="utf-8"))
    return inventory["all"]["children"]["mirror_hosts"]["hosts"]["mirror-1"]["ansible_host"]


@pytest.fixture(scope="session")
def url(address: str) -> str:
    return f"http://{address}:8090"


@dataclass(frozen=True)
class File:
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Lock:
    """What the tests need of a lock file."""

    model: str
    revision: str
    files: tuple[File, ...]

    def folder(self, root: str = "/srv/models") -> str:
        return f"{root}/{self.model}/{self.revision}"


@pytest.fixture(scope="session")
def gateway_ca_file() -> str:
    return str(STATE / "ca.pem")


@pytest.fixture(scope="session")
def lock() -> Callable[[str], Lock]:
    """Return a function that gives the lock of one of the models."""

    def read(name: str) -> Lock:
        data = yaml.safe_load((STATE / f"locks/{name}.yml").read_text(encoding="utf-8"))
        files = (File(file["path"], file["size"], file["sha256"]) for file in data["files"])
        return Lock(data["model"], data["revision"], tuple(files))

    return read


@pytest.fixture(scope="session")
def playbook() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs one of the scenario's playbooks, with changed variables if wanted."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                *("-i", str(INVENTORY)),
                str(ROOT / name),
                *arguments,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@dataclass
class CuttingProxy:
    """Passes connections on to the mirror, and cuts the first answers that are long, in their middle."""

    upstream: tuple[str, int]
    cuts: int
    after: int
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                near, _peer = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.upstream)
            for source, target, is_answer in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass, args=(source, target, is_answer), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if is_answer and passed > self.after and self.cuts:
                    self.cuts -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cutting_proxy(address: str) -> Iterator[CuttingProxy]:
    # The library writes down 10 MiB at a time; what was cut off of that it asks for again.
    proxy = CuttingProxy((address, 8090), cuts=2, after=12_000_000)
    threading.Thread(target=proxy.serve, daemon=True).start()
    yield proxy
    proxy.listener.close()
