# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input is refused in one go, with the variable and the host, and nothing changes."""

from __future__ import annotations

import re

import pytest

SECRET = "sk-this-was-pasted-by-mistake"
# Answers nothing: the port is that of no service.
GHOST = {"ansible_host": "127.0.0.1", "ansible_port": 1}


def sections(output: str) -> dict[str, list[tuple[str, str, str]]]:
    """The report's findings as (variable, code, line), by the hosts in their heading."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    heading = ""
    for line in output.splitlines():
        if match := re.fullmatch(r"== (.*) ==", line):
            heading = match[1]
            found[heading] = []
        elif match := re.fullmatch(r"  (?:\*|- warning:) (\S+) (.*) \[([a-z0-9-]+)\]", line):
            found[heading].append((match[1], match[3], line))
    return found


def recap(output: str) -> dict[str, dict[str, int]]:
    """The counts of every host."""
    lines = re.findall(r"^(\S+) +: (ok=.*)$", output, re.MULTILINE)
    return {host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in lines}


def test_a_good_site_passes_and_costs_little(run, site):
    done = run("preflight", site)
    assert done.returncode == 0, done.stdout
    counts = recap(done.stdout)
    assert sorted(counts) == ["engine-1", "engine-2", "gateway-1"]
    for host, count in counts.items():
        assert count["changed"] == count["failed"] == count["unreachable"] == 0, host
        # The role's argument check, one question to the host, and on one host the judgement.
        assert count["ok"] <= 3, host


@pytest.fixture
def bad_site(site):
    site["vllm_version"] = "0.31.0"
    site["llm_models"].append({"name": "loose", "sources": [{"type": "hub"}]})
    site["llm_models"].append({"name": "lost", "lock": "/nowhere/lost.yml", "sources": [{"type": "hub"}]})
    site["llm_deployments"] += [
        {"name": "code", "engine": "vlm", "model": "loose", "hosts": ["engine-1"], "port": 8000},
        {"name": "Draft", "engine": "ollama", "model": "lost", "hosts": ["engine-2", "engine-9"], "port": 8001},
        {
            "name": "draft",
            "engine": "vllm",
            "model": "tinny",
            "served_model_name": "x",
            "hosts": ["gateway-1"],
            "prot": 1,
        },
    ]
    site["llm_tenants"] += [
        {"name": "team-b", "key_sha256": SECRET},
        {"name": "team-c", "key_sha256": "abc123", "requests_per_minute": 0},
        {"name": "team-a", "key_sha256": "1" * 64},
    ]
    site["llm_engine_api_key"] = ""
    site["preflight_minimum_without_gpu"] = {"shm_gib": 1}
    return site


# (variable, code) by the hosts that the message is about.
EXPECTED = {
    "engine-1": {
        ("llm_models[1].lock", "model-without-lock"),
        ("llm_deployments[1].engine", "engine-unknown"),
        ("llm_deployments[1].port", "port-duplicate"),
        ("llm_models", "disk-too-small"),
        ("llm_models[0].sources", "source-file-size"),
        ("llm_deployments[0].port", "port-taken"),
        ("ansible_host", "package-broken"),
    },
    "engine-2": {
        ("llm_models[2].lock", "lock-invalid"),
        ("llm_deployments[2].name", "name-invalid"),
        ("llm_deployments[2].engine", "engine-not-built"),
        ("groups.gpu_hosts", "distribution-unsupported"),
        ("preflight_minimum_without_gpu.shm_gib", "shm-too-small"),
        ("ansible_host", "package-manager-locked"),
    },
    "engine-9": {("llm_deployments[2].hosts[1]", "deployment-host-unknown")},
    "gateway-1": {
        ("llm_deployments[3].prot", "key-unknown"),
        ("llm_deployments[3].model", "model-unknown"),
        ("llm_deployments[3].hosts", "deployment-host-not-gpu"),
        ("llm_deployments[3].port", "value-missing"),
        ("llm_tenants[1].key_sha256", "tenant-key-plaintext"),
        ("llm_tenants[2].key_sha256", "tenant-key-hash-invalid"),
        ("llm_tenants[2].requests_per_minute", "tenant-limit-invalid"),
        ("llm_tenants[3].key_sha256", "tenant-key-duplicate"),
        ("llm_tenants[3].name", "name-duplicate"),
        ("gateway_https_port", "port-taken"),
        ("/etc/apt/sources.list.d", "apt-source-unresolved"),
    },
    "engine-1, engine-2, ghost": {("vllm_version", "engine-version-unsafe")},
    "gateway-1, engine-1, engine-2, ghost": {("llm_engine_api_key", "engine-key-missing")},
    "ghost": {("ansible_host", "host-unreachable")},
}


@pytest.mark.usefixtures("bad_hosts")
class TestBadHostsAndBadSite:
    @pytest.mark.parametrize(
        ("playbook", "arguments"),
        [("preflight", ()), ("site", ()), ("site", ("--check", "--diff"))],
        ids=["preflight", "site", "site in check mode"],
    )
    def test_every_blocker_in_one_go_and_nothing_changed(self, run, bad_site, snapshot, playbook, arguments):
        before = snapshot()
        done = run(playbook, bad_site, *arguments, more={"children": {"gpu_hosts": {"hosts": {"ghost": GHOST}}}})
        assert done.returncode != 0, done.stdout
        found = sections(done.stdout)
        assert {
            host: {(variable, code) for variable, code, dummy in entries} for host, entries in found.items()
        } == EXPECTED
        count = sum(map(len, EXPECTED.values()))
        assert f"Preflight found {count} blockers, listed by host. Nothing was changed on any host." in done.stdout

        # Nothing came after the first play, on any host.
        assert re.findall(r"^PLAY \[(.*?)\]", done.stdout, re.MULTILINE) == ["Check the site and its hosts"]
        assert all(counts["changed"] == 0 for counts in recap(done.stdout).values())
        after = snapshot()
        assert {host: before[host] ^ after[host] for host in before} == {host: set() for host in before}
        assert sum(map(len, before.values())) > 3000, "the comparison looked at next to nothing"

    def test_messages_say_what_was_found_and_what_was_expected(self, run, bad_site, hosts):
        listed = hosts["engine-1"].check_output(
            "cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true"
        )
        archives = set(re.findall(r"https?://([^/\s]+)", listed))
        assert archives
        done = run("preflight", bad_site)
        lines = {code: line for entries in sections(done.stdout).values() for dummy, code, line in entries}
        for code, words in {
            "engine-unknown": ["'vlm'", "expected one of vllm", "Did you mean 'vllm'?"],
            "engine-version-unsafe": ["0.31.0", "expected 0.33.0 or newer", "GHSA-5r3c-5x4v-8gjh"],
            "disk-too-small": ["needs 1.0 GiB in /srv/models", "16.0 MiB of weights", "/srv/models has 8.0 MiB free"],
            "source-file-size": ["/var/models/tiny/model.safetensors", "5242880 bytes, expected 16777216", "truncated"],
            "distribution-unsupported": ["Fedora Linux 44", "Debian 12, 13; Ubuntu 22.04, 24.04, 26.04"],
            "tenant-key-hash-invalid": ["6 hex digits, expected 64"],
            "deployment-host-unknown": ["'engine-9'", "neither a host nor a group"],
            "lock-invalid": ["/nowhere/lost.yml", "No such file or directory"],
            "package-broken": ["stuck (half-configured)"],
            "package-manager-locked": ["process python3 (PID ", "/var/lib/dpkg/lock-frontend"],
            "shm-too-small": ["asks for 1.0 GiB in /dev/shm", "the host has 64.0 MiB"],
            "apt-source-unresolved": sorted(archives),
        }.items():
            assert [word for word in words if word not in lines[code]] == [], code
        taken = [
            line for entries in sections(done.stdout).values() for dummy, code, line in entries if code == "port-taken"
        ]
        assert len(taken) == 2
        assert all("python3" in line and "of unit squatter.service" in line for line in taken)


def test_a_key_that_was_pasted_is_shown_nowhere(run, bad_site):
    done = run("preflight", bad_site, "-vvv")
    assert "tenant-key-plaintext" in done.stdout
    assert SECRET not in done.stdout


def test_a_host_that_is_down_stops_all_hosts_and_is_named(run, site):
    done = run("site", site, more={"children": {"gpu_hosts": {"hosts": {"ghost": GHOST}}}})
    assert done.returncode != 0
    assert {host: [code for dummy, code, dummy in entries] for host, entries in sections(done.stdout).items()} == {
        "ghost": ["host-unreachable"]
    }
    assert len(re.findall(r"^PLAY \[", done.stdout, re.MULTILINE)) == 1


def test_an_accepted_advisory_is_no_blocker(run, site):
    site["vllm_version"] = "0.32.0"
    done = run("preflight", site)
    assert [code for entries in sections(done.stdout).values() for dummy, code, dummy in entries] == [
        "engine-version-unsafe"
    ]
    names = re.findall(r"(?:GHSA|CVE|PYSEC)-[\w-]+", done.stdout)
    site["vllm_accepted_advisories"] = sorted(set(names))
    done = run("preflight", site)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def lost_mirror(hosts):
    """One package source of several with a name that does not exist."""
    path = "/etc/apt/sources.list.d/lost.list"
    hosts["engine-1"].check_output(f"echo deb http://mirror.invalid/debian bookworm main > {path}")
    yield
    hosts["engine-1"].check_output(f"rm {path}")


@pytest.mark.usefixtures("lost_mirror")
def test_a_warning_is_shown_and_stops_nothing(run, site):
    done = run("preflight", site, "--check", "--diff")
    assert done.returncode == 0, done.stdout
    assert "Preflight found no blocker and 1 warning" in done.stdout
    found = sections(done.stdout)
    assert list(found) == ["engine-1"]
    variable, code, line = found["engine-1"][0]
    assert (variable, code) == ("/etc/apt/sources.list.d", "apt-source-unresolved")
    assert "mirror.invalid" in line
    assert len(found["engine-1"]) == 1


def test_a_site_accepts_what_it_knows(run, site):
    site.update(preflight_minimum_without_gpu={"shm_gib": 1000}, preflight_accept=["shm-too-small"])
    done = run("preflight", site)
    assert done.returncode == 0, done.stdout
    assert "shm-too-small" not in done.stdout
