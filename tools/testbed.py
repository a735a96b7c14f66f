#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Throwaway hosts: podman containers with systemd as PID 1, reached over SSH as a fleet is.

A bed is a set of hosts with a name (``demo``, ``test``). Everything a bed makes outside its state folder (containers,
network, image, volume) carries the label ``baremetal-llm.bed``, so that removing a bed touches nothing else.

usage: testbed.py up NAME HOST [HOST ...]   |   testbed.py down NAME
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
SHARE = CACHE / "share"
"""What the hosts see read-only at /mnt/share, as a site's NFS export: wheels and models."""

LABEL = "baremetal-llm.bed"
IMAGE = "localhost/baremetal-llm-host"
UV_CACHE_VOLUME = "baremetal-llm-uv-cache"
USER = "ops"
RELEASE = "bookworm"
# A cloud image's contents, more or less: what a racked server has before anybody's playbook.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "sudo", "iproute2", "ca-certificates")
PREPARE_HOST = f"""
set -eu
id {USER} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {USER}
echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}
install -d -m 0700 -o {USER} -g {USER} /home/{USER}/.ssh
cat > /home/{USER}/.ssh/authorized_keys
chown {USER}:{USER} /home/{USER}/.ssh/authorized_keys
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -A
systemctl restart ssh
"""


class BedError(Exception):
    """Something that a person has to do before hosts can be made."""


def say(text: str) -> None:
    """Tell the person watching what happens now."""
    print(f"==> {text}", flush=True)


def as_root(*command: str) -> list[str]:
    """Return ``command`` so that it runs as root: podman's networks and systemd hosts need it."""
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def containers_conf() -> Path | None:
    """Write podman's settings for machines with a hybrid cgroup tree or low limits; ``None`` where none are needed."""
    settings = {"engine": "", "containers": ""}
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        settings["engine"] = 'runtime = "runc"\n'  # crun refuses hybrid cgroups
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1048576:  # podman's own default, which it cannot set without CAP_SYS_RESOURCE
        _soft, processes = resource.getrlimit(resource.RLIMIT_NPROC)
        limits = [f"nofile={hard}:{hard}"] + ([f"nproc={hard}:{hard}"] if processes > hard or processes < 0 else [])
        settings["containers"] = f"default_ulimits = {json.dumps(limits)}\n"
    text = "".join(f"[{name}]\n{body}" for name, body in settings.items() if body)
    if not text:
        return None
    path = CACHE / "containers.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def podman(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """Run podman as root and return what it printed."""
    conf = containers_conf()
    prefix = ["env", f"CONTAINERS_CONF={conf}"] if conf else []
    done = subprocess.run(
        as_root(*prefix, "podman", *arguments), input=stdin, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise BedError(f"podman {' '.join(arguments[:3])} ... failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip()


def image() -> str:
    """Return the base image's name, made where it is missing."""
    recipe = hashlib.sha256(" ".join((RELEASE, *PACKAGES)).encode()).hexdigest()[:12]
    name = f"{IMAGE}:{RELEASE}-{recipe}"
    if podman("image", "exists", name, check=False) == "" and podman("images", "--quiet", name):
        return name
    say(f"Making the base image {name} (about half a minute)")
    archive = CACHE / "base.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        as_root("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", RELEASE, str(archive)),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise BedError(f"mmdebstrap could not make a Debian {RELEASE} image: {made.stderr.strip()[-2000:]}")
    try:
        podman("import", "--change", f"LABEL {LABEL}=image", str(archive), name)
    finally:
        subprocess.run(as_root("rm", "-f", str(archive)), check=True)
    return name


@dataclass(frozen=True)
class Bed:
    """A named set of hosts and the folder that holds what belongs to them."""

    name: str

    @property
    def state(self) -> Path:
        """Keys, secrets and known hosts of this bed."""
        return CACHE / "testbed" / self.name

    @property
    def network(self) -> str:
        return f"baremetal-llm-{self.name}"

    @property
    def private_key(self) -> Path:
        return self.state / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.state / "ssh" / "known_hosts"

    def container(self, host: str) -> str:
        return f"{self.network}-{host}"

    def containers(self) -> list[str]:
        """Return the names of this bed's containers, running or not."""
        listed = podman("ps", "--all", "--filter", f"label={LABEL}={self.name}", "--format", "{{.Names}}")
        return listed.split()

    def network_prefix(self) -> str:
        """Return the first three numbers of the bed's /24 network, which podman chose to be free."""
        described = json.loads(podman("network", "inspect", self.network))[0]
        if "subnets" in described:
            subnet = described["subnets"][0]["subnet"]
        else:  # podman 3 speaks CNI
            subnet = described["plugins"][0]["ipam"]["ranges"][0][0]["subnet"]
        return str(subnet).rsplit(".", 1)[0]

    def up(self, hosts: Sequence[str]) -> dict[str, str]:
        """Make the hosts that are missing, start those that are stopped, and return their addresses."""
        if not self.private_key.exists():
            self.remove_hosts()  # of another checkout, whose keys are not here
        base = image()
        if podman("network", "ls", "--quiet", "--filter", f"name=^{self.network}$") == "":
            podman("network", "create", "--label", f"{LABEL}={self.name}", self.network)
        prefix = self.network_prefix()
        if not self.private_key.exists():
            self.private_key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"baremetal-llm {self.name}"]
            subprocess.run([*generate, "-f", str(self.private_key)], check=True)
        (SHARE / "wheels").mkdir(parents=True, exist_ok=True)
        (SHARE / "models").mkdir(parents=True, exist_ok=True)
        # Numbered from 11 in the order given, so that an inventory can name addresses.
        addresses = {host: f"{prefix}.{11 + index}" for index, host in enumerate(hosts)}
        existing = self.containers()
        new = [host for host in hosts if self.container(host) not in existing]
        for host in hosts:
            if host in new:
                self._run(base, host, addresses[host])
            else:
                podman("start", self.container(host))
        for host in hosts:
            self._wait(host)
        for host in new:
            self._admit(host)
        self._write_known_hosts(addresses)
        return addresses

    def _run(self, base: str, host: str, address: str) -> None:
        say(f"Starting host {host} at {address}")
        podman(
            *("run", "--detach", "--name", self.container(host), "--hostname", host),
            *("--label", f"{LABEL}={self.name}", "--network", self.network, "--ip", address),
            *("--privileged", "--systemd=always", "--shm-size=2g"),
            *("--volume", f"{SHARE}:/mnt/share:ro"),
            *("--volume", f"{UV_CACHE_VOLUME}:/var/cache/baremetal-llm/uv"),
            *(base, "/lib/systemd/systemd"),
        )

    def _wait(self, host: str, seconds: int = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = podman("exec", self.container(host), "systemctl", "is-system-running", check=False)
            if state in ("running", "degraded"):
                return
            time.sleep(0.5)
        raise BedError(f"systemd on host {host} is not up after {seconds} s: see `podman logs {self.container(host)}`")

    def restart(self, host: str, seconds: int = 120) -> None:
        """Restart a host as a reboot does: every process dies, systemd starts anew. Returns when SSH answers again."""
        podman("restart", "--time", "20", self.container(host))
        self._wait(host)
        described = json.loads(podman("inspect", self.container(host)))[0]
        address = described["NetworkSettings"]["Networks"][self.network]["IPAddress"]
        deadline = time.monotonic() + seconds
        while True:
            try:
                # Its network card is a new one: neighbours need a moment to learn that.
                socket.create_connection((address, 22), timeout=2).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise BedError(f"host {host} does not answer SSH {seconds} s after its restart: {error}") from error
                time.sleep(0.5)

    def _admit(self, host: str) -> None:
        public_key = self.private_key.with_suffix(".pub").read_text(encoding="utf-8")
        podman("exec", "--interactive", self.container(host), "sh", "-c", PREPARE_HOST, stdin=public_key)

    def _write_known_hosts(self, addresses: dict[str, str]) -> None:
        lines = []
        for host, address in addresses.items():
            key = podman("exec", self.container(host), "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()
            lines.append(f"{address} {key[0]} {key[1]}\n")
        self.known_hosts.write_text("".join(lines), encoding="utf-8")

    def remove_hosts(self) -> None:
        """Remove the bed's containers and its network."""
        for container in self.containers():
            # A container that ends of itself in the moment in which podman kills it is an error to podman; next time it
            # finds it stopped.
            podman("rm", "--force", "--time", "2", container, check=False)
        for container in self.containers():
            podman("rm", "--force", "--time", "2", container)
        for network in podman(
            "network", "ls", "--filter", f"label={LABEL}={self.name}", "--format", "{{.Name}}"
        ).split():
            podman("network", "rm", "--force", network)

    def down(self) -> None:
        """Remove the bed's hosts, network and state."""
        self.remove_hosts()
        shutil.rmtree(self.state, ignore_errors=True)

    @staticmethod
    def remove_shared() -> None:
        """Remove image, volume and share, unless another bed still has hosts."""
        if podman("ps", "--all", "--quiet", "--filter", f"label={LABEL}"):
            say("Another bed still has hosts: the base image, wheels and caches stay")
            return
        for name in podman("images", "--quiet", "--filter", f"label={LABEL}=image").split():
            podman("rmi", "--force", name)
        podman("volume", "rm", "--force", UV_CACHE_VOLUME, check=False)
        for folder in (SHARE, CACHE / "testbed"):
            shutil.rmtree(folder, ignore_errors=True)
        (CACHE / "containers.conf").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="make or start hosts")
    up.add_argument("name")
    up.add_argument("hosts", nargs="+")
    down = verbs.add_parser("down", help="remove a bed")
    down.add_argument("name")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "up":
            for host, address in Bed(arguments.name).up(arguments.hosts).items():
                print(f"{host} {address}")
        else:
            Bed(arguments.name).down()
    except BedError as error:
        sys.exit(f"testbed: {error}")


if __name__ == "__main__":
    main()
