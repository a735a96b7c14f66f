# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The run itself: what it prints, what it costs, and a host that restarts."""

from __future__ import annotations

import base64
import re
import time

import openai
import pytest

RECAP = re.compile(
    r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+).*?failed=(?P<failed>\d+)", re.MULTILINE
)


@pytest.fixture(scope="module")
def second_run(run_playbook):
    """A whole run on hosts that are as they should be, as talkative as Ansible gets, with diffs."""
    return run_playbook("site", "-vvv", "--diff")


def test_second_run_changes_nothing(second_run):
    assert second_run.returncode == 0, second_run.stdout[-3000:] + second_run.stderr[-3000:]
    recap = {match["host"]: match for match in RECAP.finditer(second_run.stdout)}
    assert {"engine-1", "engine-2", "gateway-1"} <= set(recap)
    assert {host: match["changed"] for host, match in recap.items() if match["changed"] != "0"} == {}


def test_no_secret_in_the_most_talkative_output(second_run, secrets):
    output = second_run.stdout + second_run.stderr
    assert "engine-1" in output
    assert [name for name, secret in secrets.items() if secret in output] == []


def test_an_engine_host_costs_at_most_60_tasks(second_run):
    recap = {match["host"]: int(match["ok"]) for match in RECAP.finditer(second_run.stdout)}
    assert 0 < recap["engine-1"] <= 60


def files_with(host, secret: str) -> list[str]:
    """Return the files of a host that hold a secret. It travels encoded: sudo writes command lines into the journal."""
    encoded = base64.b64encode(secret.encode()).decode()
    places = "/etc /opt /srv /var/lib /var/log /run /root /home /tmp"
    return host.run(f"echo {encoded} | base64 -d | grep -rlF -f - {places}").stdout.split()


def test_the_tenants_key_is_on_no_host(engines, gateway, secrets):
    for host in (*engines, gateway):
        assert files_with(host, secrets["tenant_api_key"]) == []


def test_only_root_can_read_the_engines_key(engines, gateway, secrets):
    for host in (*engines, gateway):
        holders = files_with(host, secrets["engine_api_key"])
        assert holders, "the engine's key is nowhere: the search is broken"
        for path in holders:
            file = host.file(path)
            assert (file.user, file.mode & 0o077) == ("root", 0), f"{path} shows the engine's key"


def test_no_secret_in_any_command_line(engines, gateway, secrets):
    for host in (*engines, gateway):
        processes = host.check_output("ps -eo args")
        assert "systemd" in processes
        assert [name for name, secret in secrets.items() if secret in processes] == []


@pytest.mark.parametrize("name", ["engine-1", "gateway-1"])
def test_everything_comes_back_after_a_restart_of(name, restart_host, endpoint, engines, gateway):
    restart_host(name)
    deadline = time.monotonic() + 240
    while True:
        try:
            endpoint.client(timeout=30).chat.completions.create(
                model=endpoint.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
            )
            break
        except openai.OpenAIError:
            assert time.monotonic() < deadline, f"the endpoint is not back 240 s after a restart of {name}"
            time.sleep(2)
    host = gateway if name == "gateway-1" else engines[0]
    if name == "engine-1":
        while host.run("systemctl is-active vllm@chat.service").stdout.strip() != "active":
            assert time.monotonic() < deadline, host.run("journalctl --no-pager -n 30 -u vllm@chat").stdout
            time.sleep(2)
        assert host.service("vllm-watchdog@chat").is_running
        assert "baremetal_llm" in host.check_output("nft list ruleset")
    assert host.run("systemctl --failed --no-legend").stdout.strip() == ""
