# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway as a host and as its tenants see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import testinfra
import yaml

ROOT = Path(__file__).resolve().parents[3]
STATE = ROOT / ".cache/testbed/gateway"
INVENTORY = STATE / "inventory"
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".cache/collections")


@pytest.fixture(scope="session")
def gateway() -> testinfra.host.Host:
    return testinfra.get_host("ansible://gateway-1", ansible_inventory=str(INVENTORY), sudo=True)


@pytest.fixture(scope="session")
def address() -> str:
    inventory = yaml.safe_load((INVENTORY / "hosts.yml").read_text(encoding="utf-8"))
    return inventory["gateway_hosts"]["hosts"]["gateway-1"]["ansible_host"]


@pytest.fixture(scope="session")
def ca_file() -> str:
    return str(STATE / "ca.pem")


@pytest.fixture
def ask(address: str, ca_file: str) -> Callable[..., requests.Response]:
    """Return a function that sends one request, by default a chat completion of tenant alpha."""

    def send(
        path: str = "/v1/chat/completions",
        key: str | None = "sk-alpha",
        model: str = "tiny",
        method: str = "POST",
        data: bytes | str | None = None,
        headers: dict[str, str] | None = None,
        stream: bool = False,
        **body: Any,
    ) -> requests.Response:
        sent = {"Content-Type": "application/json", **(headers or {})}
        if key is not None:
            sent.setdefault("Authorization", f"Bearer {key}")
        if data is None and method == "POST":
            data = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], **body})
        # Prepared by hand: requests would tidy up the path.
        request = requests.Request(method, f"https://{address}/", data=data, headers=sent).prepare()
        request.url = f"https://{address}{path}"
        with requests.Session() as session:
            session.trust_env = False
            return session.send(request, verify=ca_file, timeout=30, stream=stream)

    return send


@pytest.fixture
def rested() -> None:
    """Let the limit for requests without a tenant, 10 a second, run empty."""
    time.sleep(0.8)


@pytest.fixture(scope="session")
def converge() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the scenario's playbook, with changed variables if wanted."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                *("-i", str(INVENTORY)),
                str(ROOT / "molecule/gateway/converge.yml"),
                *arguments,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
