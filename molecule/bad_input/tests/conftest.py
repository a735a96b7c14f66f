# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three hosts, a site that is right, and ways to make both wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / ".cache/testbed/bad_input/inventory"
HOSTS = ("engine-1", "engine-2", "gateway-1")
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".cache/collections")

MIB = 1024 * 1024
FOLDER = "/var/models/tiny"
# What may change when somebody merely logs in and looks, and what all beds share.
SHARED = ["/mnt/share", "/var/cache/baremetal-llm/uv"]
FLEETING = ["/dev", "/proc", "/run", "/sys", "/tmp", "/var/log", "/var/tmp", *SHARED]

Site = dict[str, Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def hosts() -> dict[str, testinfra.host.Host]:
    return {
        name: testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY), sudo=True) for name in HOSTS
    }


@pytest.fixture(scope="session")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lock of a model of 16 MiB, whose folder is on both engine hosts."""
    files = [("config.json", 20), ("model.safetensors", 16 * MIB)]
    path = tmp_path_factory.mktemp("locks") / "tiny.yml"
    content = {
        "format_version": 1,
        "model": "demo/tiny",
        "revision": "a" * 40,
        "source": {},
        "total_bytes": sum(size for dummy, size in files),
        "files": [{"path": name, "size": size, "sha256": "b" * 64} for name, size in files],
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture
def site(lock: Path) -> Site:
    """A site that preflight has nothing to say about, for each test to change."""
    return {
        "llm_models": [{"name": "tiny", "lock": str(lock), "sources": [{"type": "folder", "path": FOLDER}]}],
        "llm_deployments": [
            {"name": "chat", "engine": "vllm", "model": "tiny", "hosts": ["gpu_hosts"], "port": 8000},
        ],
        "llm_tenants": [{"name": "team-a", "key_sha256": "1" * 64}],
        "llm_engine_api_key": "0123456789abcdef0123456789abcdef",
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs a playbook of the collection for a site."""

    def ansible_playbook(
        playbook: str, site: Site, *arguments: str, more: dict[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        variables = tmp_path / "site.yml"
        variables.write_text(yaml.safe_dump({"all": {"vars": site, **(more or {})}}), encoding="utf-8")
        return subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                *("-i", str(INVENTORY / "hosts.yml"), "-i", str(variables)),
                str(ROOT / f"playbooks/{playbook}.yml"),
                *arguments,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            # What an operator sees: everything, in order.
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )

    return ansible_playbook


@pytest.fixture(scope="session", autouse=True)
def folders(hosts: dict[str, testinfra.host.Host]) -> None:
    """The folder with the model on both engine hosts: the sizes are right, and only they are looked at."""
    for name in ("engine-1", "engine-2"):
        hosts[name].check_output(
            f"mkdir -p {FOLDER} && truncate -s 20 {FOLDER}/config.json && truncate -s 16M {FOLDER}/model.safetensors"
        )


# Unpacks, and then cannot be configured: what a driver leaves behind when its module does not build.
HALF_CONFIGURED = r"""
set -eu
mkdir -p /root/stuck/DEBIAN
printf 'Package: stuck\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: fails\n' \
  > /root/stuck/DEBIAN/control
printf '#!/bin/sh\nexit 1\n' > /root/stuck/DEBIAN/postinst
chmod 0755 /root/stuck/DEBIAN/postinst
dpkg-deb --build /root/stuck /root/stuck.deb
! dpkg --install /root/stuck.deb
"""
LOCK_DPKG = (
    "import fcntl, time; handle = open('/var/lib/dpkg/lock-frontend', 'r+'); fcntl.lockf(handle, fcntl.LOCK_EX);"
    "time.sleep(3600)"
)


@pytest.fixture(scope="class")
def bad_hosts(hosts: dict[str, testinfra.host.Host]) -> Iterator[None]:
    """Hosts with everything that a host can have wrong."""
    squatter = "systemd-run --quiet --unit=squatter --property=Restart=always /usr/bin/python3 -m http.server"
    engine_1, engine_2, gateway_1 = hosts.values()
    # Too small for the weights, a port that somebody else has, a copy that broke off.
    engine_1.check_output("mkdir -p /srv/models && mount -t tmpfs -o size=8m tmpfs /srv/models")
    engine_1.check_output(f"truncate -s 5M {FOLDER}/model.safetensors && {squatter} 8000")
    engine_2.check_output(
        "mv /etc/os-release /etc/os-release.kept && "
        "printf 'ID=fedora\\nVERSION_ID=44\\nPRETTY_NAME=\"Fedora Linux 44\"\\n' > /etc/os-release"
    )
    gateway_1.check_output(f"{squatter} 443")
    for host, port in ((engine_1, 8000), (gateway_1, 443)):
        host.check_output(f"for try in $(seq 50); do ss -Htln sport = :{port} | grep -q . && break; sleep 0.2; done")
    # A package that was not finished, somebody who installs, little shared memory, a name server that is gone.
    engine_1.check_output(HALF_CONFIGURED)
    engine_2.check_output(
        f'systemd-run --quiet --unit=upgrade /usr/bin/python3 -c "{LOCK_DPKG}" && mount -o remount,size=64m /dev/shm'
    )
    gateway_1.check_output("cp /etc/resolv.conf /root/resolv.conf && echo nameserver 127.0.0.9 > /etc/resolv.conf")
    yield
    engine_1.check_output("dpkg --purge stuck && rm -r /root/stuck /root/stuck.deb")
    engine_2.check_output("systemctl stop upgrade && mount -o remount,size=2g /dev/shm")
    gateway_1.check_output("cat /root/resolv.conf > /etc/resolv.conf && rm /root/resolv.conf")
    engine_1.check_output(f"systemctl stop squatter; umount /srv/models; truncate -s 16M {FOLDER}/model.safetensors")
    engine_2.check_output("mv /etc/os-release.kept /etc/os-release")
    gateway_1.check_output("systemctl stop squatter")


@pytest.fixture(scope="session")
def snapshot(hosts: dict[str, testinfra.host.Host]) -> Callable[[], dict[str, set[str]]]:
    """Return a function that lists every file, unit and listening port of every host, with size, mode and time."""
    pruned = " -o ".join(f"-path {path}" for path in FLEETING)
    find = f"find / -xdev \\( {pruned} \\) -prune -o -printf '%p %y %m %u:%g %s %T@\\n'"
    units = "systemctl list-units --all --plain --no-legend --type=service | awk '{print $1, $3}'"
    ports = "ss -Htln | awk '{print $4}'"

    def everything() -> dict[str, set[str]]:
        return {
            name: {line for command in (find, units, ports) for line in host.check_output(command).splitlines()}
            for name, host in hosts.items()
        }

    return everything
