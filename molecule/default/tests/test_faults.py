# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines that die and engines that hang: nobody has to be woken."""

from __future__ import annotations

import time

import openai
import pytest

UNIT = "vllm@chat.service"
# The demo's watchdog looks three times, each 5 + 20 s, before it kills; then a start with its own completion.
DEADLINE_SECONDS = 300


@pytest.fixture
def engine(engines):
    """One engine; the other one goes on serving and is none of the test's business.

    Five starts in half an hour are the limit, which is right in production and less than this file makes.
    """
    engines[0].check_output("systemctl reset-failed %s", UNIT)
    return engines[0]


def show(host, name: str) -> str:
    return host.check_output("systemctl show --value --property=%s %s", name, UNIT)


def processes(host) -> dict[str, str]:
    """The engine's two kinds of process: the server, and the one that computes."""
    server = show(host, "MainPID")
    return {"server": server, "core": host.check_output("pgrep --parent %s --full VLLM::EngineCore", server)}


def completion(host) -> bool:
    """Whether this very engine completes something, asked on its own host with its own key."""
    program = (
        "import json, sys, urllib.request as r\n"
        "lines = open('/etc/baremetal-llm/vllm/chat.env').read().splitlines()\n"
        "values = dict(line.split('=', 1) for line in lines if '=' in line)\n"
        "values = {name: value.strip('\"') for name, value in values.items()}\n"
        "body = json.dumps({'model': values['ENGINE_MODEL'], 'prompt': 'Hello', 'max_tokens': 2}).encode()\n"
        "headers = {'Authorization': 'Bearer ' + values['VLLM_API_KEY'], 'Content-Type': 'application/json'}\n"
        "request = r.Request(values['ENGINE_URL'] + '/v1/completions', body, headers)\n"
        "answer = json.load(r.build_opener(r.ProxyHandler({})).open(request, timeout=20))\n"
        "sys.exit(answer['usage']['completion_tokens'] == 0)\n"
    )
    return host.run("python3 -c %s", program).rc == 0


def wait_for(host, invocation: str) -> float:
    """Wait until systemd has started the unit anew and it completes something again; return the seconds it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < DEADLINE_SECONDS:
        if (
            show(host, "InvocationID") not in ("", invocation)
            and show(host, "ActiveState") == "active"
            and completion(host)
        ):
            return time.monotonic() - begun
        if show(host, "ActiveState") == "failed":
            break
        time.sleep(2)
    journal = host.run("journalctl --no-pager --lines 60 --unit 'vllm*'").stdout
    pytest.fail(f"{UNIT} is {show(host, 'ActiveState')} {DEADLINE_SECONDS} s later:\n{journal}")


@pytest.mark.parametrize("process", ["server", "core"])
@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_a_process_that_dies_or_hangs_is_replaced(engine, endpoint, process, signal, record_property):
    """KILL: Restart=always. STOP: the process is there but does nothing, so only the watchdog can tell."""
    invocation = show(engine, "InvocationID")
    before = processes(engine)
    assert completion(engine)
    engine.check_output("kill -%s %s", signal, before[process])
    record_property("seconds", round(wait_for(engine, invocation), 1))
    after = processes(engine)
    assert set(after.values()).isdisjoint(before.values())
    assert engine.service("vllm-watchdog@chat.service").is_running
    if signal == "STOP":
        said = engine.check_output("journalctl --no-pager --unit vllm-watchdog@chat.service")
        assert "killed the unit" in said
    # And the endpoint, which has a second replica, serves; a retry is what the SDK does by itself.
    answer = endpoint.client(max_retries=2).chat.completions.create(
        model=endpoint.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=2
    )
    assert answer.choices


def test_the_endpoint_serves_while_one_engine_is_gone(engine, endpoint):
    """A request may fail at the moment of the death; those after it find the other replica."""
    invocation = show(engine, "InvocationID")
    engine.check_output("kill -KILL %s", show(engine, "MainPID"))
    client = endpoint.client(max_retries=2)
    failures = []
    for dummy in range(10):
        try:
            client.chat.completions.create(
                model=endpoint.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=2
            )
        except openai.OpenAIError as error:
            failures.append(str(error))
    assert failures == []
    wait_for(engine, invocation)
