# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engines as a host's administrator sees them. The table in docs/why_not_the_tutorial.md names these tests."""

from __future__ import annotations

import re

import pytest
import yaml

UNIT = "vllm@chat.service"
WATCHDOG = "vllm-watchdog@chat.service"
CONFIGURATION = "/etc/baremetal-llm/vllm"


@pytest.fixture(params=[0, 1], ids=["engine-1", "engine-2"])
def engine(request, engines):
    return engines[request.param]


@pytest.fixture
def address(engine, engines, engine_addresses):
    return engine_addresses[engines.index(engine)]


def properties(host, unit: str, *names: str) -> dict[str, str]:
    shown = host.check_output("systemctl show --property=%s %s", ",".join(names), unit)
    return dict(line.split("=", 1) for line in shown.splitlines())


def status(host, url: str) -> str:
    """What a GET is answered with, or the kind of failure, from one of the hosts and without a proxy."""
    program = (
        "import sys, urllib.request as r, urllib.error as e\n"
        "try: print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=5).status)\n"
        "except e.HTTPError as error: print(error.code)\n"
        "except OSError as error: print('timed out' if 'timed out' in str(error) else 'failed: ' + str(error))\n"
    )
    return host.check_output("python3 -c %s %s", program, url)


def test_the_user_cannot_log_in(engine):
    user = engine.user("vllm")
    assert user.shell == "/usr/sbin/nologin"
    assert user.home == "/var/lib/vllm"
    assert user.uid < 1000
    assert user.groups == ["vllm"]


def test_engine_and_watchdog_run_and_start_with_the_host(engine):
    assert engine.service(UNIT).is_running
    assert engine.service(UNIT).is_enabled
    assert engine.service(WATCHDOG).is_running


def test_the_engine_runs_as_its_user_from_the_current_release(engine):
    shown = properties(engine, UNIT, "MainPID", "User", "ExecStart")
    assert engine.check_output("stat -c %%U /proc/%s", shown["MainPID"]) == "vllm"
    release = engine.check_output("readlink -f /opt/baremetal-llm/vllm/current")
    assert re.fullmatch(r"/opt/baremetal-llm/vllm/releases/[0-9][^/]*-[0-9a-f]{8}", release)
    assert engine.check_output("tr '\\0' ' ' < /proc/%s/cmdline", shown["MainPID"]).startswith(release)


def test_the_unit_is_loaded_without_a_complaint(engine):
    """systemd ignores what it does not know: a directive that does nothing must not pass for protection."""
    for unit in (UNIT, WATCHDOG):
        verified = engine.run("systemd-analyze verify --man=no /etc/systemd/system/%s", unit.replace("chat", ""))
        complaints = [line for line in verified.stderr.splitlines() if "vllm" in line]
        assert complaints == []


def test_the_unit_is_hardened(engine):
    for unit in (UNIT, WATCHDOG):
        report = engine.check_output("systemd-analyze security --no-pager %s", unit)
        score = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)[1])
        assert score <= 2.0, report


def test_the_unit_always_comes_back_but_not_forever(engine):
    shown = properties(engine, UNIT, "Restart", "StartLimitBurst", "StartLimitIntervalUSec", "TimeoutStartUSec", "Type")
    assert shown["Restart"] == "always"
    assert shown["StartLimitBurst"] == "5"
    assert shown["StartLimitIntervalUSec"] == "30min"
    assert shown["TimeoutStartUSec"].startswith("1h")


def test_active_means_that_a_completion_was_answered(engine):
    """The unit's start ends with the probe that asks one; its last run says that it was answered."""
    shown = properties(engine, UNIT, "ExecStartPost")
    assert "engine-probe ready" in shown["ExecStartPost"]
    assert "status=0" in shown["ExecStartPost"]


def test_files_are_closed(engine):
    for path, owner, group, mode in (
        (CONFIGURATION, "root", "vllm", 0o750),
        (f"{CONFIGURATION}/chat.yaml", "root", "vllm", 0o640),
        (f"{CONFIGURATION}/chat.env", "root", "root", 0o600),
        ("/etc/systemd/system/vllm@.service", "root", "root", 0o644),
        ("/var/lib/vllm/chat", "vllm", "vllm", 0o700),
        ("/var/cache/vllm/chat", "vllm", "vllm", 0o700),
    ):
        file = engine.file(path)
        assert (file.user, file.group, oct(file.mode)) == (owner, group, oct(mode)), path


def test_the_configuration_is_what_was_asked_for(engine, address, endpoint):
    configuration = yaml.safe_load(engine.file(f"{CONFIGURATION}/chat.yaml").content_string)
    assert configuration["host"] == address
    assert configuration["served-model-name"] == [endpoint.model]
    assert configuration["model"].startswith("/srv/models/")
    assert configuration["disable-fastapi-docs"] is True
    assert "api-key" not in configuration


def test_the_engines_key_is_nowhere_but_in_its_file(engine, secrets):
    key = secrets["engine_api_key"]
    assert key in engine.file(f"{CONFIGURATION}/chat.env").content_string
    for command in (
        "ps -eo args",
        "journalctl --no-pager",
        f"systemctl show {UNIT} {WATCHDOG}",
        f"systemctl cat {UNIT} {WATCHDOG}",
        f"cat {CONFIGURATION}/chat.yaml",
    ):
        assert key not in engine.check_output(command), command


def test_the_engine_asks_for_its_key(engine, address):
    assert status(engine, f"http://{address}:8000/v1/models") == "401"


def test_the_engine_listens_at_one_address_only(engine, address):
    assert engine.socket(f"tcp://{address}:8000").is_listening
    assert not engine.socket("tcp://0.0.0.0:8000").is_listening
    assert not engine.socket("tcp://127.0.0.1:8000").is_listening


def test_the_engine_documents_itself_to_nobody(engine, address):
    assert status(engine, f"http://{address}:8000/health") == "200"
    assert status(engine, f"http://{address}:8000/docs") == "404"
    assert status(engine, f"http://{address}:8000/openapi.json") == "404"


def test_only_the_gateway_reaches_the_engine(engines, engine_addresses, gateway):
    """From a host that is not the gateway packets are dropped: no refusal, no answer."""
    for address, stranger in zip(engine_addresses, reversed(engines)):
        url = f"http://{address}:8000/health"
        assert status(gateway, url) == "200"
        assert status(stranger, url) == "timed out"


def test_the_firewall_survives_the_distributions_service(engines, engine_addresses):
    """nftables.service flushes every table when it starts, reloads and stops: ours is put back each time."""
    try:
        for verb in ("start", "reload", "stop"):
            engines[0].check_output("systemctl %s nftables.service", verb)
            assert "dport 8000" in engines[0].check_output("nft list table inet baremetal_llm"), verb
    finally:
        engines[0].run("systemctl stop nftables.service")
    assert status(engines[1], f"http://{engine_addresses[0]}:8000/health") == "timed out"


def test_the_engine_is_told_to_stay_offline(engine):
    environment = properties(engine, UNIT, "MainPID")
    variables = engine.check_output("tr '\\0' '\\n' < /proc/%s/environ", environment["MainPID"]).splitlines()
    for wanted in ("HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "VLLM_NO_USAGE_STATS=1", "VLLM_MAX_N_SEQUENCES=16"):
        assert wanted in variables


def test_the_engine_cannot_reach_out(engines, engine_addresses):
    """A process among the engine's own gets no packet to another host, whatever a request makes it fetch."""
    program = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], 22), timeout=3); print('connected')\n"
        "except OSError as error: print(error)\n"
    )
    join = (
        "tree=$(awk '$3 == \"cgroup2\" {print $2; exit}' /proc/mounts); "
        f"echo $$ > $tree$(systemctl show --value --property=ControlGroup {UNIT})/cgroup.procs; "
    )
    stranger = engine_addresses[1]
    ask = 'exec python3 -c "$1" "$2"'
    assert engines[0].check_output("sh -c %s sh %s %s", ask, program, stranger) == "connected"
    assert engines[0].check_output("sh -c %s sh %s %s", join + ask, program, stranger) == "timed out"
