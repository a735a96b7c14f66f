# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.advisories import VLLM, affecting
from ansible_collections.baremetal.llm.plugins.module_utils.finding import (
    GIB,
    Finding,
    describe_hosts,
    merge,
    report,
    summary,
)
from ansible_collections.baremetal.llm.plugins.module_utils.host_validation_machine import ACCEPTABLE
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockError, LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.site import HostState, Site
from ansible_collections.baremetal.llm.plugins.module_utils.site_validation import validate_site

ROOT = Path(__file__).resolve().parents[4]
REVISION = "0" * 39 + "a"
HASHES = ["1" * 64, "2" * 64, "a" * 64]
SECRET = "sk-this-is-the-key-itself"

READY = {
    "distribution": {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12 (bookworm)"},
    "python_version": "3.11.2",
    "systemd": True,
    "root": True,
    "space": [{"path": "/srv/models", "mount": "/srv", "free_bytes": 10 * GIB, "read_only": False}],
    "listeners": [],
    "models": [{"path": f"/srv/models/org/tiny/{REVISION}", "published": False}],
    "source_folders": [{"path": "/mnt/tiny", "exists": True, "problems": []}],
}


def read(path, allow_files=()):
    if path == "absent.yml":
        raise LockError(["cannot be read: No such file or directory"], path)
    if path == "broken.yml":
        raise LockError(["unknown keys colour", "files must be a list that is not empty"], path)
    list(allow_files)
    return Lock(f"org/{path[:-4]}", REVISION, (LockFile("a.safetensors", 4 * GIB, "0" * 64),))


def good():
    """A site without a finding, to be spoiled in one place by each case."""
    return {
        "models": [
            {"name": "tiny", "lock": "tiny.yml", "sources": [{"type": "folder", "path": "/mnt/tiny"}]},
            {
                "name": "Big-1.5",
                "lock": "big.yml",
                "sources": [{"type": "http", "url": "https://mirror.example/big/"}, {"type": "hub"}],
                "allow_files": ["odd.bin"],
            },
        ],
        "deployments": [
            {
                "name": "chat",
                "engine": "vllm",
                "model": "tiny",
                "hosts": ["gpu_hosts"],
                "port": 8000,
                "engine_options": {"max_model_len": 2048},
                "environment": {"VLLM_LOGGING_LEVEL": "INFO", "OMP_NUM_THREADS": 4},
            },
            {
                "name": "big",
                "engine": "vllm",
                "model": "Big-1.5",
                "served_model_name": "org/big",
                "hosts": ["gpu-2"],
                "port": 8001,
            },
        ],
        "tenants": [
            {"name": "team-a", "key_sha256": HASHES[0], "requests_per_minute": 60, "burst": 0},
            {"name": "team-b", "key_sha256": [HASHES[1], HASHES[2]], "concurrent_requests": 1},
        ],
        "groups": {
            "all": ["gpu-1", "gpu-2", "gw-1", "spare"],
            "gpu_hosts": ["gpu-1", "gpu-2"],
            "gateway_hosts": ["gw-1"],
            "empty": [],
        },
        "engine_key_length": 64,
        "hosts": {
            "gpu-1": HostState(readiness=copy.deepcopy(READY)),
            "gpu-2": HostState(readiness=copy.deepcopy(READY)),
            "gw-1": HostState(readiness={**copy.deepcopy(READY), "space": [], "models": [], "source_folders": []}),
        },
        "addresses": {"gpu-1": "10.0.0.1", "gpu-2": "10.0.0.2", "gw-1": "10.0.0.9"},
    }


def findings(site):
    return validate_site(Site(**site), read)


def at(section, index, **changes):
    """Change keys of an entry of a list of the site; ... removes the key."""

    def spoil(site):
        for key, value in changes.items():
            if value is ...:
                del site[section][index][key]
            else:
                site[section][index][key] = value

    return spoil


def whole(**changes):
    return lambda site: site.update(changes)


def group(name, hosts):
    return lambda site: site["groups"].update({name: hosts})


def ready(host, **changes):
    def spoil(site):
        site["hosts"][host].readiness.update(changes)

    return spoil


def state(host, **changes):
    def spoil(site):
        site["hosts"][host] = replace(site["hosts"][host], **changes)

    return spoil


def both(*spoilers):
    def spoil(site):
        for spoiler in spoilers:
            spoiler(site)

    return spoil


def versions(version, accepted=()):
    return {"engine_versions": {"vllm": {"version": version, "accepted_advisories": list(accepted)}}}


def listener(port, address="0.0.0.0", unit="jupyter.service", process="python3"):
    return [{"port": port, "address": address, "pid": 77, "process": process, "unit": unit}]


def source_file(reason, actual=None):
    problem = {"path": "a.safetensors", "reason": reason, "expected": 4 * GIB, "actual": actual}
    return [{"path": "/mnt/tiny", "exists": True, "problems": [problem]}]


OLD = [advisory.identifier for advisory in affecting("0.31.0", VLLM)]
GPUS = ["gpu-1", "gpu-2"]

# Each case: how the good site is spoiled, the one code that must come of it, the variable, the hosts, and words that
# the message must hold: what was found and what was expected.
CASES = {
    # Shapes
    "models are a text": (
        both(whole(models="tiny"), at("deployments", 0, model="x"), at("deployments", 1, model="y")),
        {"value-type": 1, "model-unknown": 2},
        None,
        None,
        (),
    ),
    "deployments are a mapping": (whole(deployments={"chat": {}}), "value-type", "llm_deployments", [], ["a mapping"]),
    "deployment is a text": (
        lambda site: site["deployments"].append("chat"),
        "value-type",
        "llm_deployments[2]",
        [],
        ["a text", "a mapping"],
    ),
    "tenants are missing": (whole(tenants=None), "value-type", "llm_tenants", ["gw-1"], ["empty", "a list"]),
    "no deployments": (whole(deployments=[]), "deployments-none", "llm_deployments", [], ["empty"]),
    "unknown key": (
        lambda site: site["deployments"][0].update(engine_option=site["deployments"][0].pop("engine_options")),
        "key-unknown",
        "llm_deployments[0].engine_option",
        GPUS,
        ["Did you mean 'engine_options'?"],
    ),
    "unknown key of a model": (
        at("models", 0, license="MIT"),
        "key-unknown",
        "llm_models[0].license",
        GPUS,
        ["expected one of name, lock"],
    ),
    "unknown key of a tenant": (at("tenants", 0, key=SECRET), "key-unknown", "llm_tenants[0].key", ["gw-1"], ["key_"]),
    "unknown key of a source": (
        at("models", 0, sources=[{"type": "folder", "path": "/mnt/tiny", "url": "x"}]),
        "key-unknown",
        "llm_models[0].sources[0].url",
        GPUS,
        ["type, path"],
    ),
    # Names
    "deployment without a name": (
        at("deployments", 0, name=...),
        "value-missing",
        "llm_deployments[0].name",
        GPUS,
        ["missing"],
    ),
    "deployment with a bad name": (
        at("deployments", 0, name="Chat_1"),
        "name-invalid",
        "llm_deployments[0].name",
        GPUS,
        ["'Chat_1'", "lower-case"],
    ),
    "deployment name is a number": (
        at("deployments", 0, name=7),
        "value-type",
        "llm_deployments[0].name",
        GPUS,
        ["text"],
    ),
    "deployment name twice": (
        at("deployments", 1, name="chat"),
        "name-duplicate",
        "llm_deployments[1].name",
        ["gpu-2"],
        ["'chat'", "llm_deployments[0]"],
    ),
    "model name twice": (
        lambda site: site["models"].append(dict(site["models"][0])),
        "name-duplicate",
        "llm_models[2].name",
        GPUS,
        ["'tiny'", "llm_models[0]"],
    ),
    "model with a bad name": (
        lambda site: site["models"].append({"name": "a b", "lock": "x.yml", "sources": [{"type": "hub"}]}),
        "name-invalid",
        "llm_models[2].name",
        [],
        ["'a b'"],
    ),
    "tenant name twice": (
        at("tenants", 1, name="team-a"),
        "name-duplicate",
        "llm_tenants[1].name",
        ["gw-1"],
        ["'team-a'", "llm_tenants[0]"],
    ),
    "tenant with a bad name": (
        at("tenants", 1, name="Team B"),
        "name-invalid",
        "llm_tenants[1].name",
        ["gw-1"],
        ["'Team B'"],
    ),
    "served name with a quote": (
        at("deployments", 1, served_model_name='a"b'),
        "name-invalid",
        "llm_deployments[1].served_model_name",
        ["gpu-2"],
        ["expected letters"],
    ),
    "served name twice": (
        at("deployments", 1, served_model_name="tiny"),
        "served-model-name-duplicate",
        "llm_deployments[1].served_model_name",
        ["gpu-2"],
        ["'tiny'", "llm_deployments[0]"],
    ),
    # Engines and models
    "unknown engine": (
        at("deployments", 0, engine="vlm"),
        "engine-unknown",
        "llm_deployments[0].engine",
        GPUS,
        ["'vlm'", "expected one of vllm", "Did you mean 'vllm'?"],
    ),
    "engine of a later version": (
        at("deployments", 1, engine="ollama"),
        "engine-not-built",
        "llm_deployments[1].engine",
        ["gpu-2"],
        ["'ollama'", "yet"],
    ),
    "no engine": (at("deployments", 0, engine=...), "value-missing", "llm_deployments[0].engine", GPUS, ["missing"]),
    "unknown model": (
        at("deployments", 0, model="tin"),
        "model-unknown",
        "llm_deployments[0].model",
        GPUS,
        ["'tin'", "tiny, Big-1.5", "Did you mean 'tiny'?"],
    ),
    "model without lock": (at("models", 0, lock=...), "model-without-lock", "llm_models[0].lock", GPUS, ["'tiny'"]),
    "lock is a mapping": (at("models", 0, lock={"a": 1}), "value-type", "llm_models[0].lock", GPUS, ["a mapping"]),
    "lock file is not there": (
        at("models", 1, lock="absent.yml"),
        "lock-invalid",
        "llm_models[1].lock",
        ["gpu-2"],
        ["absent.yml", "No such file"],
    ),
    "lock file is damaged": (
        at("models", 1, lock="broken.yml"),
        "lock-invalid",
        "llm_models[1].lock",
        ["gpu-2"],
        ["unknown keys colour; files must be"],
    ),
    "allow_files is a number": (
        at("models", 1, allow_files=7),
        "value-type",
        "llm_models[1].allow_files",
        ["gpu-2"],
        ["a whole number", "a list"],
    ),
    "no sources": (at("models", 0, sources=...), "value-missing", "llm_models[0].sources", GPUS, ["missing"]),
    "empty sources": (at("models", 0, sources=[]), "value-missing", "llm_models[0].sources", GPUS, ["empty"]),
    "unknown source": (
        at("models", 0, sources=[{"type": "flder", "path": "/x"}]),
        "source-invalid",
        "llm_models[0].sources[0].type",
        GPUS,
        ["'flder'", "folder, http, hub", "Did you mean 'folder'?"],
    ),
    "relative folder": (
        at("models", 0, sources=[{"type": "folder", "path": "models/tiny"}]),
        "source-invalid",
        "llm_models[0].sources[0].path",
        GPUS,
        ["'models/tiny'", "begins with '/'"],
    ),
    "address without a scheme": (
        at("models", 1, sources=[{"type": "http", "url": "mirror.example/big"}]),
        "source-invalid",
        "llm_models[1].sources[0].url",
        ["gpu-2"],
        ["https://"],
    ),
    "s3 source without bucket": (
        at("models", 1, sources=[{"type": "s3", "endpoint": "https://s3.example"}]),
        "value-missing",
        "llm_models[1].sources[0].bucket",
        ["gpu-2"],
        ["missing"],
    ),
    "http source without url": (
        at("models", 1, sources=[{"type": "http"}]),
        "value-missing",
        "llm_models[1].sources[0].url",
        ["gpu-2"],
        ["missing"],
    ),
    "unknown accelerator": (
        state("gpu-1", wanted={"accelerator": "nvida"}),
        "accelerator-unknown",
        "llm_accelerator",
        ["gpu-1"],
        ["'nvida'", "Did you mean 'nvidia'"],
    ),
    # Hosts of deployments
    "host is not in the inventory": (
        at("deployments", 1, hosts=["gpu-2", "gpu-3"]),
        "deployment-host-unknown",
        "llm_deployments[1].hosts[1]",
        ["gpu-3"],
        ["'gpu-3'", "neither a host nor a group", "Did you mean"],
    ),
    "group without hosts": (
        at("deployments", 1, hosts=["empty"]),
        "deployment-without-host",
        "llm_deployments[1].hosts",
        [],
        ["no host", "'big'"],
    ),
    "no hosts": (
        at("deployments", 1, hosts=[]),
        "deployment-without-host",
        "llm_deployments[1].hosts",
        [],
        ["no host"],
    ),
    "hosts are missing": (
        at("deployments", 1, hosts=...),
        "value-missing",
        "llm_deployments[1].hosts",
        [],
        ["missing"],
    ),
    "hosts are a text": (
        at("deployments", 1, hosts="gpu_hosts"),
        "value-type",
        "llm_deployments[1].hosts",
        [],
        ["a text", "a list"],
    ),
    "host is no GPU host": (
        at("deployments", 1, hosts=["gpu-2", "spare"]),
        "deployment-host-not-gpu",
        "llm_deployments[1].hosts",
        ["spare"],
        ["not in the group gpu_hosts"],
    ),
    # Ports
    "port twice on a host": (
        at("deployments", 1, port=8000),
        "port-duplicate",
        "llm_deployments[1].port",
        ["gpu-2"],
        ["8000", "'chat' of llm_deployments[0]", "'big'"],
    ),
    "port of the gateway": (
        both(group("gateway_hosts", ["gw-1", "gpu-2"]), whole(gateway_port=8001)),
        "port-duplicate",
        "llm_deployments[1].port",
        ["gpu-2"],
        ["8001", "the gateway"],
    ),
    "port is a text": (at("deployments", 0, port="8000"), "value-type", "llm_deployments[0].port", GPUS, ["a text"]),
    "port is missing": (at("deployments", 0, port=...), "value-missing", "llm_deployments[0].port", GPUS, ["missing"]),
    "port is privileged": (
        at("deployments", 0, port=80),
        "port-invalid",
        "llm_deployments[0].port",
        GPUS,
        ["80", "1024"],
    ),
    "port is too high": (at("deployments", 0, port=70000), "port-invalid", "llm_deployments[0].port", GPUS, ["65535"]),
    "port of a gateway that has its own": (
        both(group("gateway_hosts", ["gw-1", "gpu-2"]), state("gpu-2", wanted={"gateway_port": 8001})),
        "port-duplicate",
        "llm_deployments[1].port",
        ["gpu-2"],
        ["8001", "the gateway"],
    ),
    # Options and environment
    "option with dashes": (
        at("deployments", 0, engine_options={"--max-model-len": SECRET}),
        "engine-option-invalid",
        "llm_deployments[0].engine_options.--max-model-len",
        GPUS,
        ["underscores"],
    ),
    "option that is decided elsewhere": (
        at("deployments", 0, engine_options={"api_key": SECRET}),
        "engine-option-reserved",
        "llm_deployments[0].engine_options.api_key",
        GPUS,
        ["llm_engine_api_key"],
    ),
    "context is a text": (
        at("deployments", 1, context_length="32k"),
        "value-type",
        "llm_deployments[1].context_length",
        ["gpu-2"],
        ["a text", "whole number of tokens"],
    ),
    "concurrency is a boolean": (
        at("deployments", 1, concurrency=True),
        "value-type",
        "llm_deployments[1].concurrency",
        ["gpu-2"],
        ["a boolean"],
    ),
    "no context": (
        at("deployments", 1, context_length=0),
        "deployment-size-invalid",
        "llm_deployments[1].context_length",
        ["gpu-2"],
        ["is 0", "at least 1"],
    ),
    "two contexts": (
        at("deployments", 0, context_length=4096),
        "deployment-size-contradiction",
        "llm_deployments[0].context_length",
        GPUS,
        ["4096", "max_model_len"],
    ),
    "a context and one that the engine chooses": (
        at("deployments", 1, context_length=4096, engine_options={"max_model_len": "auto"}),
        "deployment-size-contradiction",
        "llm_deployments[1].context_length",
        ["gpu-2"],
        ["max_model_len"],
    ),
    "more requests than the engine takes": (
        at("deployments", 1, concurrency=16, engine_options={"max_num_seqs": 8}),
        "deployment-size-contradiction",
        "llm_deployments[1].concurrency",
        ["gpu-2"],
        ["16", "max_num_seqs"],
    ),
    "GPUs are a number": (
        at("deployments", 1, gpus=1),
        "value-type",
        "llm_deployments[1].gpus",
        ["gpu-2"],
        ["a whole number", "a list"],
    ),
    "the same GPU twice": (
        at("deployments", 1, gpus=[0, 0]),
        "deployment-size-invalid",
        "llm_deployments[1].gpus",
        ["gpu-2"],
        ["[0, 0]", "each once"],
    ),
    "no GPU": (at("deployments", 1, gpus=[]), "deployment-size-invalid", "llm_deployments[1].gpus", ["gpu-2"], ["[]"]),
    "GPUs in two places": (
        at("deployments", 1, gpus=[1], environment={"CUDA_VISIBLE_DEVICES": "0"}),
        "deployment-size-contradiction",
        "llm_deployments[1].gpus",
        ["gpu-2"],
        ["environment.CUDA_VISIBLE_DEVICES"],
    ),
    "fewer GPUs than it divides over": (
        at("deployments", 1, gpus=[0, 1], engine_options={"tensor_parallel_size": 2, "pipeline_parallel_size": "2"}),
        "deployment-size-contradiction",
        "llm_deployments[1].gpus",
        ["gpu-2"],
        ["names 2", "need 4"],
    ),
    "options are a list": (
        at("deployments", 0, engine_options=["--eager"]),
        "value-type",
        "llm_deployments[0].engine_options",
        GPUS,
        ["a list", "a mapping"],
    ),
    "environment with a bad name": (
        at("deployments", 0, environment={"A B": SECRET}),
        "environment-name-invalid",
        "llm_deployments[0].environment.A B",
        GPUS,
        ["letters"],
    ),
    "environment with a boolean": (
        at("deployments", 0, environment={"A": True}),
        "value-type",
        "llm_deployments[0].environment.A",
        GPUS,
        ["a boolean"],
    ),
    # Tenants and keys
    "no tenants": (whole(tenants=[]), "tenants-none", "llm_tenants", ["gw-1"], ["empty"]),
    "no hash": (at("tenants", 0, key_sha256=...), "value-missing", "llm_tenants[0].key_sha256", ["gw-1"], ["64"]),
    "empty list of hashes": (
        at("tenants", 1, key_sha256=[]),
        "value-missing",
        "llm_tenants[1].key_sha256",
        ["gw-1"],
        ["64"],
    ),
    "hash is too short": (
        at("tenants", 0, key_sha256="a" * 63),
        "tenant-key-hash-invalid",
        "llm_tenants[0].key_sha256",
        ["gw-1"],
        ["63 hex digits", "expected 64"],
    ),
    "hash is a number": (
        at("tenants", 0, key_sha256=int("1" * 64)),
        "value-type",
        "llm_tenants[0].key_sha256",
        ["gw-1"],
        ["a whole number", "64 hex digits"],
    ),
    "key in place of its hash": (
        at("tenants", 0, key_sha256=SECRET),
        "tenant-key-plaintext",
        "llm_tenants[0].key_sha256",
        ["gw-1"],
        ["looks like the key itself", "expected 64"],
    ),
    "second key in place of its hash": (
        at("tenants", 1, key_sha256=[HASHES[1], SECRET]),
        "tenant-key-plaintext",
        "llm_tenants[1].key_sha256[1]",
        ["gw-1"],
        ["looks like the key itself"],
    ),
    "key of another tenant": (
        at("tenants", 0, key_sha256=HASHES[2].upper()),
        "tenant-key-duplicate",
        "llm_tenants[1].key_sha256[1]",
        ["gw-1"],
        ["llm_tenants[0].key_sha256"],
    ),
    "limit of nothing": (
        at("tenants", 0, requests_per_minute=0),
        "tenant-limit-invalid",
        "llm_tenants[0].requests_per_minute",
        ["gw-1"],
        ["is 0", "at least 1"],
    ),
    "burst below nothing": (
        at("tenants", 0, burst=-1),
        "tenant-limit-invalid",
        "llm_tenants[0].burst",
        ["gw-1"],
        ["is -1"],
    ),
    "limit is a text": (
        at("tenants", 1, concurrent_requests="16"),
        "value-type",
        "llm_tenants[1].concurrent_requests",
        ["gw-1"],
        ["a text", "whole number"],
    ),
    "no engine key": (
        whole(engine_key_length=0),
        "engine-key-missing",
        "llm_engine_api_key",
        ["gw-1", *GPUS],
        ["empty"],
    ),
    "short engine key": (
        whole(engine_key_length=8),
        "engine-key-short",
        "llm_engine_api_key",
        ["gw-1", *GPUS],
        ["8 characters", "at least 16"],
    ),
    "no gateway": (group("gateway_hosts", []), "gateway-none", "groups.gateway_hosts", [], ["no host"]),
    # Versions
    "version with advisories": (
        state("gpu-1", wanted=versions("0.31.0")),
        "engine-version-unsafe",
        "vllm_version",
        ["gpu-1"],
        ["0.31.0", "0.33.0", *OLD],
    ),
    "version with one advisory that is not accepted": (
        state("gpu-2", wanted=versions("0.31.0", OLD[1:])),
        "engine-version-unsafe",
        "vllm_version",
        ["gpu-2"],
        [OLD[0]],
    ),
    "version is a number": (
        state("gpu-1", wanted=versions(0.33)),
        "engine-version-invalid",
        "vllm_version",
        ["gpu-1"],
        ["a number"],
    ),
    "version is no version": (
        state("gpu-1", wanted=versions("latest")),
        "engine-version-invalid",
        "vllm_version",
        ["gpu-1"],
        ["'latest'", "0.33.0"],
    ),
    "accepted advisory that does not exist": (
        state("gpu-1", wanted=versions("0.33.0", ["CVE-1-1"])),
        "advisory-unknown",
        "vllm_accepted_advisories",
        ["gpu-1"],
        ["CVE-1-1"],
    ),
    # Hosts
    "host does not answer": (
        state("gpu-1", readiness={}, problem="Connection timed out", unreachable=True),
        "host-unreachable",
        "ansible_host",
        ["gpu-1"],
        ["Connection timed out"],
    ),
    "host has no Python": (
        state("gw-1", readiness={}, problem="python3: not found"),
        "host-not-readable",
        "ansible_python_interpreter",
        ["gw-1"],
        ["python3: not found"],
    ),
    "distribution": (
        ready("gpu-1", distribution={"id": "fedora", "version": "44", "name": "Fedora Linux 44"}),
        "distribution-unsupported",
        "groups.gpu_hosts",
        ["gpu-1"],
        ["Fedora Linux 44", "Debian 12, 13; Ubuntu 22.04, 24.04, 26.04"],
    ),
    "old distribution": (
        ready("gpu-1", distribution={"id": "debian", "version": "11", "name": "Debian GNU/Linux 11"}),
        "distribution-unsupported",
        "groups.gpu_hosts",
        ["gpu-1"],
        ["Debian GNU/Linux 11"],
    ),
    "gateway on Ubuntu 22.04": (
        ready("gw-1", distribution={"id": "ubuntu", "version": "22.04", "name": "Ubuntu 22.04.5 LTS"}),
        "distribution-unsupported",
        "groups.gateway_hosts",
        ["gw-1"],
        ["Ubuntu 22.04.5 LTS", "a gateway: Debian 12, 13; Ubuntu 24.04, 26.04"],
    ),
    "no systemd": (ready("gpu-1", systemd=False), "systemd-missing", "ansible_host", ["gpu-1"], ["not systemd"]),
    "not root": (ready("gpu-1", root=False), "become-missing", "ansible_become", ["gpu-1"], ["root"]),
    "old Python": (
        ready("gpu-1", python_version="3.8.10"),
        "python-too-old",
        "ansible_python_interpreter",
        ["gpu-1"],
        ["3.8.10", "3.9"],
    ),
    "name that the controller cannot resolve": (
        both(lambda site: site["addresses"].update({"gpu-1": "gpu-1.example"}), whole(unresolved=["gpu-1"])),
        "address-unresolved",
        "llm_address",
        ["gpu-1"],
        ["'gpu-1.example'", "controller"],
    ),
    "address twice": (
        lambda site: site["addresses"].update({"gpu-1": "10.0.0.2"}),
        "address-duplicate",
        "llm_address",
        ["gpu-1", "gpu-2"],
        ["10.0.0.2"],
    ),
    # Space
    "disk too small for one model": (
        ready("gpu-1", space=[{"path": "/srv/models", "mount": "/srv", "free_bytes": 4 * GIB, "read_only": False}]),
        "disk-too-small",
        "llm_models",
        ["gpu-1"],
        ["needs 5.0 GiB", "4.0 GiB of weights", "/srv has 4.0 GiB free", "1.0 GiB are missing"],
    ),
    "disk too small for two models": (
        ready("gpu-2", space=[{"path": "/srv/models", "mount": "/srv", "free_bytes": 6 * GIB, "read_only": False}]),
        "disk-too-small",
        "llm_models",
        ["gpu-2"],
        ["needs 9.0 GiB", "3.0 GiB are missing"],
    ),
    "disk too small for a large reserve": (
        state("gpu-1", wanted={"reserve_bytes": 8 * GIB}),
        "disk-too-small",
        "llm_models",
        ["gpu-1"],
        ["needs 12.0 GiB", "8.0 GiB to stay free"],
    ),
    "disk is read-only": (
        ready("gpu-1", space=[{"path": "/srv/models", "mount": "/srv", "free_bytes": 9 * GIB, "read_only": True}]),
        "disk-read-only",
        "llm_models",
        ["gpu-1"],
        ["/srv", "read-only"],
    ),
    "disk too small at a place of the host's own": (
        both(
            state("gpu-1", wanted={"model_root": "/data"}),
            ready("gpu-1", space=[{"path": "/data", "mount": "/data", "free_bytes": GIB, "read_only": False}]),
        ),
        "disk-too-small",
        "llm_models",
        ["gpu-1"],
        ["in /data", "/data has 1.0 GiB free"],
    ),
    # Folders with weights
    "folder is not mounted": (
        ready("gpu-1", source_folders=[{"path": "/mnt/tiny", "exists": False, "problems": []}]),
        "source-folder-missing",
        "llm_models[0].sources",
        ["gpu-1"],
        ["/mnt/tiny"],
    ),
    "file is truncated": (
        ready("gpu-2", source_folders=source_file("size", 12)),
        "source-file-size",
        "llm_models[0].sources",
        ["gpu-2"],
        ["/mnt/tiny/a.safetensors", "12 bytes", f"expected {4 * GIB}", "truncated"],
    ),
    "file is another": (
        ready("gpu-2", source_folders=source_file("size", 5 * GIB)),
        "source-file-size",
        "llm_models[0].sources",
        ["gpu-2"],
        ["another file"],
    ),
    "file is missing": (
        ready("gpu-1", source_folders=source_file("missing")),
        "source-file-missing",
        "llm_models[0].sources",
        ["gpu-1"],
        ["/mnt/tiny/a.safetensors", "missing"],
    ),
    # Ports that are taken
    "port of an engine is taken": (
        ready("gpu-1", listeners=listener(8000)),
        "port-taken",
        "llm_deployments[0].port",
        ["gpu-1"],
        ["8000", "'chat'", "python3 (PID 77) of unit jupyter.service", "0.0.0.0:8000"],
    ),
    "port of an engine is taken on its address": (
        ready("gpu-1", listeners=listener(8000, "10.0.0.1", "")),
        "port-taken",
        "llm_deployments[0].port",
        ["gpu-1"],
        ["10.0.0.1:8000"],
    ),
    "port of the gateway is taken": (
        ready("gw-1", listeners=listener(443, "::", "apache2.service", "apache2")),
        "port-taken",
        "gateway_https_port",
        ["gw-1"],
        ["443", "the gateway", "apache2", "[::]:443"],
    ),
    "port that one gateway has of its own is taken": (
        both(state("gw-1", wanted={"gateway_port": 8443}), ready("gw-1", listeners=listener(8443))),
        "port-taken",
        "gateway_https_port",
        ["gw-1"],
        ["8443"],
    ),
}


def test_a_good_site_has_no_finding():
    assert findings(good()) == []


@pytest.mark.parametrize("case", CASES)
def test_one_mistake_gives_exactly_its_finding(case):
    spoil, code, variable, hosts, words = CASES[case]
    site = good()
    spoil(site)
    found = findings(site)
    if isinstance(code, dict):
        assert {name: [item.code for item in found].count(name) for name in code} == code
        assert len(found) == sum(code.values())
        return
    assert [(item.code, item.variable, list(item.hosts)) for item in found] == [(code, variable, hosts)]
    assert [word for word in words if word not in found[0].message] == []
    assert found[0].action


@pytest.mark.parametrize(
    "spoil",
    [
        # A gateway with a port of its own does not need the site's.
        both(state("gw-1", wanted={"gateway_port": 8443}), ready("gw-1", listeners=listener(443))),
        # Weights that are there at a place of the host's own.
        both(
            state("gpu-1", wanted={"model_root": "/data"}),
            ready("gpu-1", models=[{"path": f"/data/org/tiny/{REVISION}", "published": True}], space=[]),
            ready("gpu-1", source_folders=[{"path": "/mnt/tiny", "exists": False, "problems": []}]),
        ),
        # What is there already needs no source, no space and no folder.
        both(
            ready("gpu-1", models=[{"path": f"/srv/models/org/tiny/{REVISION}", "published": True}], space=[]),
            ready("gpu-1", source_folders=[{"path": "/mnt/tiny", "exists": False, "problems": []}]),
        ),
        # Another source has what the folder lacks.
        both(
            at("models", 0, sources=[{"type": "folder", "path": "/mnt/tiny"}, {"type": "hub"}]),
            ready("gpu-1", source_folders=source_file("missing")),
        ),
        both(
            at("models", 0, sources=[{"type": "folder", "path": "/mnt/tiny"}, {"type": "folder", "path": "/mnt/b"}]),
            ready(
                "gpu-1",
                source_folders=[*source_file("missing"), {"path": "/mnt/b", "exists": True, "problems": []}],
            ),
        ),
        # The collection's own services, and those on another address.
        ready("gpu-1", listeners=listener(8000, unit="vllm@chat.service")),
        ready("gw-1", listeners=listener(443, unit="nginx.service")),
        ready("gpu-1", listeners=listener(8000, "127.0.0.1")),
        ready("gpu-1", listeners=listener(8001)),
        # A risk that was accepted by name, and a version without one.
        state("gpu-1", wanted=versions("0.31.0", OLD)),
        state("gpu-1", wanted=versions("0.33.0")),
        state("gpu-1", wanted=versions("")),
        # Gateways run no engine.
        state("gw-1", wanted=versions("0.31.0")),
        ready("gpu-1", distribution={"id": "ubuntu", "version": "22.04", "name": "Ubuntu 22.04.5 LTS"}),
        ready("gw-1", distribution={"id": "ubuntu", "version": "26.04", "name": "Ubuntu 26.04 LTS"}),
        # One machine is everything: its engines listen on loopback.
        lambda site: site["addresses"].update({"gpu-1": "127.0.0.1", "gpu-2": "127.0.0.1"}),
        # The same port on different hosts.
        both(at("deployments", 0, hosts=["gpu-1"]), at("deployments", 1, port=8000)),
        # A host that was not asked is judged by the site's variables alone.
        lambda site: site["hosts"].pop("gpu-2"),
    ],
)
def test_what_is_no_mistake_gives_no_finding(spoil):
    site = good()
    spoil(site)
    assert findings(site) == []


def test_all_mistakes_are_found_in_one_go():
    site = good()
    for spoil in (
        at("deployments", 0, engine="vlm"),
        at("models", 0, lock=...),
        at("deployments", 1, port=8000, hosts=["gpu-2", "gpu-3"]),
        at("tenants", 0, key_sha256="abc"),
        whole(engine_key_length=0),
        state("gpu-1", wanted=versions("0.31.0")),
        ready("gpu-2", space=[{"path": "/srv/models", "mount": "/srv", "free_bytes": 0, "read_only": False}]),
        ready("gw-1", distribution={"id": "alpine", "version": "3.22", "name": "Alpine Linux v3.22"}),
    ):
        spoil(site)
    assert {item.code for item in findings(site)} == {
        "engine-unknown",
        "model-without-lock",
        "port-duplicate",
        "deployment-host-unknown",
        "tenant-key-hash-invalid",
        "engine-key-missing",
        "engine-version-unsafe",
        "disk-too-small",
        "distribution-unsupported",
    }


def test_no_finding_shows_a_secret():
    for case, (spoil, *dummy) in CASES.items():
        site = good()
        spoil(site)
        text = report(findings(site))
        assert SECRET not in text, case
        assert not any(digest in text for digest in HASHES), case


@pytest.mark.parametrize("value", [None, "", "text", 7, True, 1.5, [], {}, [None], ["x"], [[]], [{}], [{"name": []}]])
@pytest.mark.parametrize("section", ["models", "deployments", "tenants"])
def test_any_type_is_a_finding_and_never_an_exception(section, value):
    site = good()
    site[section] = value
    assert findings(site)


@pytest.mark.parametrize("value", [None, "", "text", 7, True, 1.5, [], {}, [None], [[]], [{}], {"a": []}])
@pytest.mark.parametrize(
    ("section", "key"),
    [
        (section, key)
        for section, keys in {
            "models": ("name", "lock", "sources", "allow_files"),
            "deployments": ("name", "engine", "model", "served_model_name", "hosts", "port", "engine_options"),
            "tenants": ("name", "key_sha256", "requests_per_minute", "burst"),
        }.items()
        for key in keys
    ],
)
def test_any_type_in_an_entry_raises_nothing(section, key, value):
    site = good()
    site[section][0][key] = value
    assert isinstance(findings(site), list)


def test_the_same_finding_on_several_hosts_is_one():
    a = Finding("c", "v", "m", "a", ("h1",))
    assert merge([a, replace(a, hosts=("h2",)), replace(a, hosts=("h1",)), replace(a, code="d")]) == [
        replace(a, hosts=("h1", "h2")),
        replace(a, code="d"),
    ]


def test_hundreds_of_hosts_are_one_line():
    hosts = [f"gpu-{number}" for number in range(300)]
    assert describe_hosts(hosts) == "gpu-0, gpu-1, gpu-2, gpu-3, gpu-4, gpu-5 and 294 more"
    site = good()
    site["groups"].update(all=[*hosts, "gw-1"], gpu_hosts=hosts)
    site["deployments"] = site["deployments"][:1]
    site["hosts"] = {host: HostState(problem="Connection refused", unreachable=True) for host in hosts}
    found = findings(site)
    assert [(item.code, len(item.hosts)) for item in found] == [("host-unreachable", 300)]


def test_the_report_is_grouped_by_host_and_says_the_way_out():
    text = report(
        [
            Finding("code-b", "llm_b", "is 2, expected 1", "Set it to 1", ("gpu-1",)),
            Finding("code-a", "llm_a", "is wrong. Did you mean 'x'?", "Write x.", ()),
            Finding("code-c", "llm_c", "is 3.", "Set it to 1.", ("gpu-1",)),
        ]
    )
    assert text.splitlines()[:9] == [
        "== the whole site ==",
        "  * llm_a is wrong. Did you mean 'x'? [code-a]",
        "    -> Write x.",
        "",
        "== gpu-1 ==",
        "  * llm_b is 2, expected 1. [code-b]",
        "    -> Set it to 1.",
        "  * llm_c is 3. [code-c]",
        "    -> Set it to 1.",
    ]


def finding(code, severity="error", hosts=("gpu-1",)):
    return Finding(code, "llm_a", "is 2", "Set it to 1", tuple(hosts), severity)


def test_warnings_come_after_the_blockers_of_their_host_and_say_what_they_are():
    lines = report([finding("code-w", "warning"), finding("code-e")]).splitlines()
    assert lines[:3] == ["== gpu-1 ==", "  * llm_a is 2. [code-e]", "    -> Set it to 1."]
    assert lines[3] == "  - warning: llm_a is 2. [code-w]"


def test_what_is_accepted_is_counted_in_one_line_and_not_listed():
    found = [finding("code-a", "accepted"), finding("code-a", "accepted", ["gpu-2"]), finding("code-e")]
    text = report(found)
    assert "[code-a]" not in text
    assert "Accepted by preflight_accept, and so not listed: code-a (gpu-1, gpu-2).\n" in text
    assert "1 blocker," in summary(found)


@pytest.mark.parametrize(
    ("errors", "warnings", "words"),
    [
        (2, 0, "found 2 blockers, listed"),
        (1, 0, "found 1 blocker, listed"),
        (1, 2, "found 1 blocker and 2 warnings, listed"),
        (0, 1, "found no blocker and 1 warning, listed"),
    ],
)
def test_blockers_and_warnings_are_counted_apart(errors, warnings, words):
    assert words in summary([finding("e")] * errors + [finding("w", "warning")] * warnings)


class TestTokenOfTheHub:
    def found(self, path):
        return validate_site(Site(**good(), hub_token_file=str(path)), read)

    def test_a_file_with_one_word_that_only_its_owner_reads(self, tmp_path):
        path = tmp_path / "token"
        path.write_text(f"{SECRET}\n")
        path.chmod(0o600)
        assert self.found(path) == []

    @pytest.mark.parametrize(
        ("content", "words"),
        [(None, "No such file"), (b"", "nothing"), (b"a b\n", "2 words"), (b"\xff\xfe", "no text")],
    )
    def test_a_file_that_holds_no_token(self, tmp_path, content, words):
        path = tmp_path / "token"
        if content is not None:
            path.write_bytes(content)
        (item,) = self.found(path)
        assert (item.code, item.variable, item.severity) == ("hub-token-unusable", "llm_hub_token_file", "error")
        assert str(path) in item.message
        assert words in item.message

    def test_a_file_that_others_read(self, tmp_path):
        path = tmp_path / "token"
        path.write_text(SECRET)
        path.chmod(0o644)
        (item,) = self.found(path)
        assert (item.code, item.severity) == ("hub-token-exposed", "warning")
        assert "0644" in item.message
        assert SECRET not in report([item])


PARTS = ("site_validation", "deployment_size_validation", "host_validation", "host_validation_machine")
TELLING = ("add", "warn", "say", "_error", "_warning")


def codes_in_source(*parts):
    folder = ROOT / "plugins" / "module_utils"
    trees = [ast.parse((folder / f"{part}.py").read_text(encoding="utf-8")) for part in parts]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) >= 4]
    names = [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls]
    first = [call.args[0] for call, name in zip(calls, names) if name in TELLING]
    expressions = [
        part for node in first for part in ((node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,))
    ]
    return {node.value for node in expressions if isinstance(node, ast.Constant)}


def test_a_size_said_twice_and_alike_is_no_contradiction():
    site = good()
    site["deployments"][0].update(context_length=2048, concurrency=8, gpus=[2, 3])
    site["deployments"][0]["engine_options"].update(max_model_len="2K", max_num_seqs=8, tensor_parallel_size=2)
    assert findings(site) == []


def test_every_code_is_tested():
    tested = {code for dummy, code, *dummy in CASES.values() if isinstance(code, str)}
    parts = ("site_validation", "deployment_size_validation", "host_validation")
    assert codes_in_source(*parts) == tested | {"hub-token-unusable", "hub-token-exposed"}


def test_every_code_of_a_machine_can_be_accepted():
    assert sorted(ACCEPTABLE) == list(ACCEPTABLE)
    assert codes_in_source("host_validation_machine") - {"accept-invalid", "minimum-invalid", "value-type"} == set(
        ACCEPTABLE
    )


def test_every_code_is_documented():
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    section = text.split("\n## Preflight\n", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)) == codes_in_source(*PARTS)
