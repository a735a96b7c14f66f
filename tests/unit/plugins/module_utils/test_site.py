# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import site
from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockError, LockFile

GROUPS = {
    "all": ["g2", "g1", "w1", "w2", "m1", "lone"],
    "gpu_hosts": ["g2", "g1"],
    "gateway_hosts": ["w1", "w2"],
    "monitoring_hosts": ["m1", "w1"],
}
HOSTVARS = {
    "g1": {"llm_address": "10.0.0.1", "ansible_host": "192.0.2.1"},
    "g2": {"ansible_host": "192.0.2.2"},
    "w1": {"llm_address": "10.0.0.11"},
    "w2": {"llm_address": "2001:db8::2"},
    "m1": {},
    "lone": {"llm_address": "10.0.0.99"},
}
CHAT = {"name": "chat", "engine": "vllm", "model": "tiny", "hosts": ["gpu_hosts"], "port": 8000}
EXTRA = {
    "name": "extra",
    "engine": "vllm",
    "model": "big",
    "served_model_name": "org/big",
    "hosts": ["g1"],
    "port": 8001,
    "engine_options": {"max_model_len": 2048},
    "environment": {"A": "1"},
}
MODELS = [
    {"name": "big", "lock": "big.yml", "sources": [{"type": "hub"}], "allow_files": ["odd.bin"]},
    {"name": "unused", "lock": "unused.yml"},
    {"name": "tiny", "lock": "tiny.yml", "sources": [{"type": "folder", "path": "/mnt/tiny"}]},
]


def read(path: str, allow_files=()) -> Lock:
    if path == "broken.yml":
        raise LockError(["is not YAML"], path)
    name = path.partition(".")[0]
    return Lock(f"org/{name}", "0" * 39 + "a", (LockFile("a.safetensors", 7, "0" * 64),))


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["gpu_hosts"], ["g2", "g1"]),
        (["g1", "gpu_hosts", "g1"], ["g1", "g2"]),
        (["nowhere", "lone"], ["lone"]),
        ([], []),
        (None, []),
        ("gpu_hosts", []),
        ([None, {"a": 1}, 7], []),
    ],
)
def test_deployment_hosts_are_unique_and_in_order(hosts, expected):
    assert site.deployment_hosts({"hosts": hosts}, GROUPS) == expected


@pytest.mark.parametrize(("host", "address"), [("g1", "10.0.0.1"), ("g2", "192.0.2.2"), ("m1", "m1"), ("new", "new")])
def test_address_falls_back_to_what_ansible_uses(host, address):
    assert site.host_address(host, HOSTVARS) == address


def test_engine_deployments_of_a_host():
    found = site.engine_deployments([CHAT, EXTRA], MODELS, "vllm", "g1", GROUPS, HOSTVARS, reader=read)
    assert found == [
        {
            "name": "chat",
            "model_path": "/srv/models/org/tiny/" + "0" * 39 + "a",
            "served_model_name": "tiny",
            "listen_address": "10.0.0.1",
            "port": 8000,
            "engine_options": {},
            "environment": {},
        },
        {
            "name": "extra",
            "model_path": "/srv/models/org/big/" + "0" * 39 + "a",
            "served_model_name": "org/big",
            "listen_address": "10.0.0.1",
            "port": 8001,
            "engine_options": {"max_model_len": 2048},
            "environment": {"A": "1"},
        },
    ]
    on_g2 = site.engine_deployments([CHAT, EXTRA], MODELS, "vllm", "g2", GROUPS, HOSTVARS, "/data", read)
    assert [(item["name"], item["model_path"]) for item in on_g2] == [("chat", "/data/org/tiny/" + "0" * 39 + "a")]


def test_a_plan_fills_what_the_site_left_open_and_never_more():
    planned = {"chat": {"max_model_len": 8192, "max_num_seqs": 64, "tensor_parallel_size": 2}, "other": {"seed": 1}}
    sized = {**CHAT, "context_length": 4096, "gpus": [0, 1], "engine_options": {"max_num_seqs": 16}}
    (engine,) = site.engine_deployments([sized], MODELS, "vllm", "g1", GROUPS, HOSTVARS, reader=read, planned=planned)
    assert engine["engine_options"] == {"max_model_len": 4096, "max_num_seqs": 16, "tensor_parallel_size": 2}
    assert engine["environment"] == {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    # Nothing is guessed where nothing was planned.
    (engine,) = site.engine_deployments([sized], MODELS, "vllm", "g1", GROUPS, HOSTVARS, reader=read)
    assert engine["engine_options"] == {"max_model_len": 4096, "max_num_seqs": 16}


def test_engine_deployments_of_another_engine_or_host_are_left_out():
    assert site.engine_deployments([CHAT], MODELS, "ollama", "g1", GROUPS, HOSTVARS, reader=read) == []
    assert site.engine_deployments([CHAT], MODELS, "vllm", "lone", GROUPS, HOSTVARS, reader=read) == []


def test_a_deployment_of_a_model_that_does_not_exist_is_an_error_that_names_it():
    with pytest.raises(site.SiteError, match="llm_models has no model named 'tiny'"):
        site.engine_deployments([CHAT], [], "vllm", "g1", GROUPS, HOSTVARS, reader=read)


@pytest.mark.parametrize(
    ("groups", "address"),
    [
        ({"all": ["g1"], "gpu_hosts": ["g1"], "gateway_hosts": ["g1"]}, "127.0.0.1"),
        ({"all": ["g1", "w1"], "gpu_hosts": ["g1"], "gateway_hosts": ["g1", "w1"]}, "10.0.0.1"),
        ({"all": ["g1", "m1"], "gpu_hosts": ["g1"], "gateway_hosts": ["g1"], "monitoring_hosts": ["m1"]}, "10.0.0.1"),
    ],
)
def test_an_engine_whose_clients_are_all_on_its_host_listens_on_loopback_and_is_asked_there(groups, address):
    (engine,) = site.engine_deployments([CHAT], MODELS, "vllm", "g1", groups, HOSTVARS, reader=read)
    assert engine["listen_address"] == address
    (gateway,) = site.gateway_deployments([CHAT], groups, HOSTVARS)
    assert gateway["replicas"] == [f"{address}:8000"]


def test_host_models_are_those_of_its_deployments_once():
    again = dict(CHAT, name="chat-2", port=8002)
    assert site.host_models([CHAT, EXTRA, again], MODELS, "g1", GROUPS) == [
        {"name": "big", "lock": "big.yml", "sources": [{"type": "hub"}], "allow_files": ["odd.bin"]},
        {
            "name": "tiny",
            "lock": "tiny.yml",
            "sources": [{"type": "folder", "path": "/mnt/tiny"}],
            "allow_files": [],
        },
    ]
    assert site.host_models([CHAT, EXTRA], MODELS, "w1", GROUPS) == []


def test_firewall_lets_in_gateways_and_monitoring_only():
    assert site.firewall_rules([CHAT, EXTRA], "g1", GROUPS, HOSTVARS) == [
        {"name": "chat", "port": 8000, "allow": ["10.0.0.11", "2001:db8::2", "m1"]},
        {"name": "extra", "port": 8001, "allow": ["10.0.0.11", "2001:db8::2", "m1"]},
    ]
    assert site.firewall_rules([CHAT], "w1", GROUPS, HOSTVARS) == []
    alone = {"all": ["g1"], "gpu_hosts": ["g1"], "gateway_hosts": ["g1"]}
    assert site.firewall_rules([CHAT], "g1", alone, HOSTVARS) == [{"name": "chat", "port": 8000, "allow": []}]


def test_gateway_sees_every_replica():
    hostvars = dict(HOSTVARS, g2={"llm_address": "2001:db8::1"})
    assert site.gateway_deployments([CHAT, EXTRA], GROUPS, hostvars) == [
        {"name": "chat", "served_model_name": "tiny", "replicas": ["[2001:db8::1]:8000", "10.0.0.1:8000"]},
        {"name": "extra", "served_model_name": "org/big", "replicas": ["10.0.0.1:8001"]},
    ]


def test_engine_clients_are_addresses_without_repetition():
    assert site.engine_clients(GROUPS, HOSTVARS) == ["10.0.0.11", "2001:db8::2", "m1"]


def test_readiness_request_of_an_engine_host_and_of_a_gateway():
    assert site.readiness_request([CHAT], MODELS, "g1", GROUPS, "/data", [443], read) == {
        "paths": ["/data"],
        "ports": [8000],
        "models": ["/data/org/tiny/" + "0" * 39 + "a"],
        "source_folders": [{"path": "/mnt/tiny", "files": [{"path": "a.safetensors", "size": 7}]}],
        "names": [],
    }
    gateway = site.readiness_request([CHAT], MODELS, "w1", GROUPS, "/data", [443], read)
    assert gateway == {"paths": [], "ports": [443], "models": [], "source_folders": [], "names": []}


def test_names_to_resolve_are_those_of_sources_and_of_other_addresses_each_once():
    sources = [
        {"type": "folder", "path": "/mnt/tiny"},
        {"type": "http", "url": "https://mirror.example:8443/tiny/"},
        {"type": "http", "url": "http://192.0.2.7/tiny/"},
        {"type": "http", "url": "http://[2001:db8::1]/tiny/"},
        {"type": "http", "url": "http://[broken"},
        {"type": "hub"},
        {"type": "hub", "endpoint": "https://hub.example"},
        {"type": "http"},
    ]
    models = [{**model, "sources": sources} for model in MODELS if model["name"] == "tiny"]
    urls = {"vllm_index_url": "https://user:word@pypi.example/simple", "other": "https://mirror.example/", "none": ""}
    names = site.readiness_request([CHAT], models, "g1", GROUPS, "/data", [], read, urls)["names"]
    assert names == ["pypi.example", "mirror.example", "huggingface.co", "hub.example"]
    assert site.readiness_request([CHAT], models, "w1", GROUPS, urls=urls)["names"] == [
        "pypi.example",
        "mirror.example",
    ]
    assert site.readiness_request([CHAT], [], "g1", GROUPS, urls="pypi.example")["names"] == []


@pytest.mark.parametrize(
    ("deployments", "models"),
    [
        (None, None),
        ("chat", "tiny"),
        ([1, None, "x"], [1, None, "x"]),
        ([{"hosts": ["gpu_hosts"], "port": "8000", "model": ["tiny"]}], MODELS),
        ([{"hosts": ["gpu_hosts"], "port": True, "model": "b"}], [{"name": "b", "lock": "broken.yml"}]),
        ([{"hosts": ["gpu_hosts"], "port": 99999, "model": "b"}], [{"name": "b", "lock": 7}]),
        ([{"hosts": ["gpu_hosts"], "model": "b"}], [{"name": "b", "lock": "b.yml", "sources": [{"type": "folder"}]}]),
        ([{"hosts": ["gpu_hosts"], "model": "b"}], [{"name": "b", "lock": "b.yml", "allow_files": 7}]),
    ],
)
def test_readiness_request_takes_any_site(deployments, models):
    request = site.readiness_request(deployments, models, "g1", GROUPS, "/data", [], read)
    assert request["ports"] == []
    assert request["source_folders"] == []


def test_a_host_of_a_fleet_is_placed_without_the_variables_of_the_others():
    hosts = [f"g{number:03}" for number in range(500)]
    groups = {"all": [*hosts, "w1"], "gpu_hosts": hosts, "gateway_hosts": ["w1"]}

    class Watched(dict):
        asked: set = set()

        def __getitem__(self, host):
            self.asked.add(host)
            return super().__getitem__(host)

    hostvars = Watched(
        {host: {"llm_address": f"10.0.{index // 250}.{index % 250}"} for index, host in enumerate(hosts)}
    )
    hostvars["w1"] = {"llm_address": "10.1.0.1"}
    (engine,) = site.engine_deployments([CHAT], MODELS, "vllm", "g007", groups, hostvars, reader=read)
    site.firewall_rules([CHAT], "g007", groups, hostvars)
    assert engine["listen_address"] == "10.0.0.7"
    # Not the variables of the other 499 hosts: with every host asking, that would be their square.
    assert hostvars.asked == {"g007", "w1"}


def test_gpu_engines_of_a_host_count_the_gpus_of_the_largest_replica():
    wide = {**CHAT, "name": "wide", "engine_options": {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}}
    assert site.gpu_engines([CHAT, wide], {"vllm": "0.33.0"}, "g1", GROUPS) == [
        {"engine": "vllm", "version": "0.33.0", "gpus": 6}
    ]
    # A host must have the GPUs that are named, too.
    named = {**CHAT, "gpus": [2, 7]}
    assert site.gpu_engines([named], {"vllm": "0.33.0"}, "g1", GROUPS)[0]["gpus"] == 8
    # Without a version there is nothing to look up, and nothing runs on other hosts.
    assert site.gpu_engines([CHAT], {"vllm": ""}, "g1", GROUPS) == []
    assert site.gpu_engines([CHAT, wide], {"vllm": "0.33.0"}, "w1", GROUPS) == []
