# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The settings of a mirror, and what it mirrors of a site's models."""

from __future__ import annotations

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile, dump_lock
from ansible_collections.baremetal.llm.plugins.module_utils.site_mirror import (
    MirrorError,
    mirror_models,
    plan,
    with_locks,
)


def settings(**changes):
    return {
        "allowed_clients": [],
        "listen_address": "127.0.0.1",
        "port": 8090,
        "server_name": "",
        "tls_certificate": "",
        "tls_private_key": "",
        "connections_per_client": 64,
        "send_timeout_seconds": 60,
        **changes,
    }


def lookup(name):
    if name == "gpu-1":
        return ["192.0.2.9", "2001:db8::9"]
    raise OSError("unknown name")


def test_by_default_only_the_host_itself_may_ask():
    planned = plan(settings(), lookup)
    assert planned["problems"] == []
    assert planned["clients"] == ["127.0.0.0/8", "::1/128"]
    assert planned["own_address"] == "127.0.0.1"


def test_clients_without_overlaps_and_the_address_that_is_listened_on():
    planned = plan(
        settings(listen_address="192.0.2.200", allowed_clients=["198.51.100.7/24", "198.51.100.9", "gpu-1"]), lookup
    )
    # nginx warns of a network that is there twice.
    assert planned["clients"] == [
        *("127.0.0.0/8", "192.0.2.9/32", "192.0.2.200/32", "198.51.100.0/24"),
        *("::1/128", "2001:db8::9/128"),
    ]


@pytest.mark.parametrize(
    ("address", "own"), [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]"), ("[2001:db8::5]", "[2001:db8::5]")]
)
def test_where_the_host_asks_itself(address, own):
    planned = plan(settings(listen_address=address), lookup)
    assert planned["problems"] == []
    assert planned["own_address"] == own


def test_everything_that_cannot_work_at_once():
    wrong = settings(
        allowed_clients=["nowhere"],
        listen_address="::",
        port=0,
        server_name="a b;",
        tls_certificate="x.pem",
        connections_per_client=0,
    )
    text = " ".join(plan(wrong, lookup)["problems"])
    for part in (
        "cannot resolve 'nowhere'",
        "IPv6 address in brackets, not '::'",
        "site_mirror_port 0",
        "'a b;' is no host name",
        "set both, or neither",
        "site_mirror_connections_per_client must be at least 1",
    ):
        assert part in text


def test_the_answer_of_health_tells_settings_apart():
    assert plan(settings())["health"] == plan(settings())["health"]
    assert plan(settings())["health"] != plan(settings(port=8091))["health"]
    assert plan(settings())["health"] != plan(settings(allowed_clients=["192.0.2.1"]))["health"]


MODELS = [
    {"name": "a", "lock": "a.yml", "sources": [{"type": "hub", "endpoint": "http://mirror"}], "allow_files": ["x.bin"]}
]


def test_a_mirror_fetches_from_its_own_sources():
    found = mirror_models([{"name": "a", "sources": [{"type": "hub"}], "branches": ["main"]}], MODELS)
    assert found == {
        "fetched": [{"name": "a", "lock": "a.yml", "sources": [{"type": "hub"}], "allow_files": ["x.bin"]}],
        "served": [{"lock": "a.yml", "branches": ["main"], "allow_files": ["x.bin"]}],
    }


def test_a_mirror_that_would_fetch_nothing_or_from_itself():
    with pytest.raises(MirrorError, match="no model of llm_models is called 'b'; there are a"):
        mirror_models([{"name": "b", "sources": [{"type": "hub"}]}], MODELS)
    with pytest.raises(MirrorError, match="'a' has no sources"):
        mirror_models([{"name": "a"}], MODELS)


def test_locks_are_read_on_the_controller(tmp_path):
    lock = Lock("org/name", "1" * 40, (LockFile("config.json", 2, "0" * 64),))
    (tmp_path / "a.yml").write_text(dump_lock(lock), encoding="utf-8")
    (found,) = with_locks([{"lock": str(tmp_path / "a.yml"), "branches": ["main"]}])
    assert found["lock"]["files"] == [{"path": "config.json", "size": 2, "sha256": "0" * 64}]
    assert found["branches"] == ["main"]
    with pytest.raises(MirrorError, match=r"b\.yml.*c\.yml"):
        with_locks([{"lock": str(tmp_path / "b.yml")}, {"lock": str(tmp_path / "c.yml")}])
