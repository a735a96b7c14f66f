# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of the scenario, and the endpoint as somebody outside sees it."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import testinfra
import yaml
from openai import DefaultHttpxClient, OpenAI

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / ".cache/testbed/test/inventory"
GENERATED = yaml.safe_load((INVENTORY / "group_vars/all/generated.yml").read_text(encoding="utf-8"))
STATE = Path(GENERATED["demo_state"])
sys.path.insert(0, str(ROOT / "tools"))
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
# testinfra calls ansible-inventory by its name.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


ADDRESSES = {
    name: f"{GENERATED['demo_network_prefix']}.{last}"
    for name, last in {"engine-1": 11, "engine-2": 12, "gateway-1": 13}.items()
}


def host(name: str) -> testinfra.host.Host:
    return testinfra.get_host(
        f"ssh://ops@{ADDRESSES[name]}",
        sudo=True,
        ssh_identity_file=str(STATE / "ssh/id_ed25519"),
        ssh_extra_args=f"-o UserKnownHostsFile={STATE / 'ssh/known_hosts'} -o StrictHostKeyChecking=yes",
    )


@dataclass(frozen=True)
class Endpoint:
    """What a tenant is given."""

    base_url: str
    ca_file: str
    api_key: str = field(repr=False)
    model: str

    def client(self, api_key: str | None = None, max_retries: int = 0, timeout: float = 60) -> OpenAI:
        """An OpenAI SDK client, which by default does not hide a failure by trying again."""
        trust = ssl.create_default_context(cafile=self.ca_file)
        return OpenAI(
            base_url=self.base_url,
            api_key=self.api_key if api_key is None else api_key,
            max_retries=max_retries,
            timeout=timeout,
            http_client=DefaultHttpxClient(verify=trust, trust_env=False),
        )


@pytest.fixture(scope="session")
def engines() -> list[testinfra.host.Host]:
    return [host("engine-1"), host("engine-2")]


@pytest.fixture(scope="session")
def engine_addresses() -> list[str]:
    return [ADDRESSES["engine-1"], ADDRESSES["engine-2"]]


@pytest.fixture(scope="session")
def gateway() -> testinfra.host.Host:
    return host("gateway-1")


@pytest.fixture(scope="session")
def endpoint() -> Endpoint:
    return Endpoint(
        base_url=f"https://{ADDRESSES['gateway-1']}/v1",
        ca_file=str(STATE / "ca.crt"),
        api_key=(STATE / "secrets/tenant_api_key").read_text(encoding="utf-8"),
        model="tiny",
    )


@pytest.fixture(scope="session")
def secrets() -> dict[str, str]:
    """Every secret of the site, by the name of its file."""
    return {path.name: path.read_text(encoding="utf-8") for path in (STATE / "secrets").iterdir()}


@pytest.fixture
def restart_host():
    """Return a function that restarts a host as a reboot does."""
    from testbed import Bed

    return Bed("test").restart


@pytest.fixture(scope="session")
def run_playbook():
    """Return a function that runs a playbook of the collection and gives back the finished process."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(INVENTORY)]
        return subprocess.run(
            [*command, str(ROOT / f"playbooks/{name}.yml"), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
