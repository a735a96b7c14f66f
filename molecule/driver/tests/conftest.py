# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two hosts, and the role run again with other wishes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / ".cache/testbed/driver/inventory"
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".cache/collections")


@dataclass(frozen=True)
class Play:
    """How a run of the role ended."""

    code: int
    text: str
    changed: int

    @property
    def words(self) -> str:
        """What it said, without the breaks and escapes of Ansible's output."""
        return re.sub(r"\s+", " ", self.text.replace("\\n", " "))


@pytest.fixture(scope="session")
def play() -> Callable[..., Play]:
    """Return a function that runs the role on one host with some variables set otherwise."""

    def run(host: str, *options: str, **variables: Any) -> Play:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "--inventory", str(INVENTORY)]
        command += ["--limit", f"{host},localhost", "--extra-vars", json.dumps(variables), *options]
        done = subprocess.run(
            [*command, str(ROOT / "molecule/driver/converge.yml")],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            # Molecule asks for colours, which would have to be taken out again.
            env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
        )
        text = done.stdout + done.stderr
        recap = re.search(rf"^{host}\s+: ok=\d+\s+changed=(\d+)", text, re.MULTILINE)
        return Play(done.returncode, text, int(recap.group(1)) if recap else -1)

    return run


@pytest.fixture(scope="module")
def gpu_facts(tmp_path_factory) -> dict[str, Any]:
    """What gpu_info says of debian-1, with the driver's real library."""
    answer = tmp_path_factory.mktemp("gpu") / "facts.json"
    variables = {"nvml_binding": pynvml.__file__, "answer": str(answer)}
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "--inventory", str(INVENTORY)]
    command += ["--extra-vars", json.dumps(variables), str(ROOT / "molecule/driver/ask_gpu.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    facts: dict[str, Any] = json.loads(answer.read_text())
    return facts


@pytest.fixture(scope="session")
def debian() -> testinfra.host.Host:
    return testinfra.get_host("ansible://debian-1", ansible_inventory=str(INVENTORY), sudo=True)


@pytest.fixture(scope="session")
def ubuntu() -> testinfra.host.Host:
    return testinfra.get_host("ansible://ubuntu-1", ansible_inventory=str(INVENTORY), sudo=True)


NAMES = ("nvidia-", "libnvidia-", "libcuda1", "libnvcuvid", "libnvsdm", "nvlsm", "firmware-nvidia")
FAMILY = rf"^({'|'.join(NAMES)}|linux-(modules|objects|signatures)-nvidia)"


def driver_packages(host: testinfra.host.Host) -> dict[str, str]:
    """The installed packages of the driver and their versions."""
    listed = host.check_output(r"dpkg-query --show --showformat='${db:Status-Status} ${Package} ${Version}\n'")
    rows = [line.split() for line in listed.splitlines() if line.startswith("installed ")]
    return {name: version for _state, name, version in rows if re.match(FAMILY, name)}


def held(host: testinfra.host.Host) -> set[str]:
    return set(host.check_output("apt-mark showhold").split())


def one_version(packages: dict[str, str], own: tuple[str, ...] = ()) -> set[str]:
    """The versions of the driver among its packages, but for those that have a version of their own."""
    return {
        version.split("-")[0]
        for name, version in packages.items()
        if name not in own and not name.startswith("linux-") and re.match(r"\d{3}\.", version)
    }
