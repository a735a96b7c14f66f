# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What the roles container_toolkit and cuda_toolkit refuse, and that they refuse nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.package_set_toolkits import (
    CONTAINER_TOOLKIT,
    Settings,
    container_toolkit_problems,
    cuda_toolkit_problems,
    cuda_toolkit_series,
)

SHA256 = "c880576d6cf75a48e5027a871bac70fd0421ab07d2b55f30877b21f1c87959c9"


def settings(role: str = "container_toolkit", **changed: Any) -> Settings:
    return Settings(
        **{
            "role": role,
            "host": "gpu-1",
            "distribution": "Ubuntu",
            "release": "24.04",
            "version": "1.20.0" if role == "container_toolkit" else "13.4.1",
            "repository_url": "https://mirror.example/deb",
            "keyring": "https://mirror.example/key",
            "keyring_sha256": SHA256,
            "environment": {"https_proxy": "http://proxy.example:3128"},
            **changed,
        }
    )


def container(
    changed: dict[str, Any], accepted: tuple[str, ...] = (), engines: tuple[str, ...] = ("podman",), podman: str = ""
) -> list[str]:
    return container_toolkit_problems(settings(**changed), accepted, engines, podman, has_docker=False)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"version": "1.20.0-1"},
        {"version": "1.19.1"},
        {"version": "1.21.0~rc.1-1"},
        {"distribution": "Debian", "release": "12"},
        {"release": "26.04"},
        {"keyring": "keys/mirror.gpg", "keyring_sha256": ""},
    ],
)
def test_what_is_right_is_accepted(changed: dict[str, Any]) -> None:
    assert container(changed) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"distribution": "Fedora", "release": "42"}, "runs Fedora 42"),
        ({"release": "20.04"}, "knows Debian 12, 13 and Ubuntu 22, 24, 26"),
        ({"version": "latest"}, "'latest', which is no version"),
        ({"version": "1"}, "'1', which is no version"),
        ({"keyring": ""}, "container_toolkit_keyring is empty"),
        ({"keyring_sha256": ""}, "container_toolkit_keyring_sha256 is ''"),
        ({"keyring_sha256": SHA256[:-1]}, "which is no SHA-256"),
        ({"repository_url": "https://user:word@mirror.example/"}, "/etc/apt/auth.conf.d"),
        ({"environment": {"https_proxy": "http://user:word@proxy.example"}}, "https_proxy of gpu-1 is a URL with"),
    ],
)
def test_what_is_wrong_is_refused(changed: dict[str, Any], words: str) -> None:
    problems = container(changed)
    assert len(problems) == 1
    assert words in problems[0]
    assert "word@" not in problems[0]


def test_all_problems_are_named_at_once() -> None:
    assert len(container({"release": "20.04", "version": "x", "keyring": ""})) == 3


@pytest.mark.parametrize(
    ("version", "identifiers"),
    [
        ("1.19.0", ["CVE-2026-24260"]),
        ("1.19.1~rc.1-1", ["CVE-2026-24260"]),
        ("1.17.7-1", ["CVE-2026-24260", "CVE-2025-23266"]),
        ("1.17.8", ["CVE-2026-24260"]),
    ],
)
def test_a_version_with_known_holes_needs_each_accepted_by_name(version: str, identifiers: list[str]) -> None:
    refused = container({"version": version})
    assert len(refused) == 1
    assert [each.identifier for each in CONTAINER_TOOLKIT if each.identifier in refused[0]] == identifiers
    assert container({"version": version}, accepted=tuple(identifiers)) == []
    if len(identifiers) > 1:
        assert identifiers[0] not in container({"version": version}, accepted=tuple(identifiers[:1]))[0]


def test_an_accepted_advisory_that_nobody_knows_is_refused() -> None:
    assert "CVE-2026-24261, which accepts nothing" in container({}, accepted=("CVE-2026-24261",))[0]


def test_engines_have_to_be_able_to_do_it() -> None:
    # Debian 12 and Ubuntu 22.04.
    assert container({}, podman="4.3.1+ds1-8+deb12u1") == []
    assert "knows CDI only from 4.1.0" in container({}, podman="3.4.4+ds1-1ubuntu1.22.04.3")[0]
    assert container({}, engines=(), podman="3.4.4+ds1-1ubuntu1") == []
    assert "there is no /usr/bin/dockerd" in container({}, engines=("docker",))[0]
    assert "names crio; it can name podman and docker" in container({}, engines=("crio",))[0]


def cuda(packages: tuple[str, ...] = ("cuda-toolkit",), **changed: Any) -> list[str]:
    return cuda_toolkit_problems(settings("cuda_toolkit", **changed), packages)


def test_a_cuda_toolkit_needs_a_whole_version_and_no_driver() -> None:
    assert cuda() == []
    assert cuda(("cuda-compiler", "cuda-libraries"), version="13.3.0-1") == []
    assert "needs three numbers" in cuda(version="13.4")[0]
    assert "cuda, cuda-drivers, which would bring a driver" in cuda(("cuda-toolkit", "cuda-drivers", "cuda"))[0]
    assert "leave out the numbers" in cuda(("cuda-toolkit-13-4",))[0]
    assert "is empty" in cuda(())[0]


def test_a_cuda_toolkit_from_the_sources_that_apt_has_needs_no_key() -> None:
    assert cuda(repository_url="", keyring="", keyring_sha256="") == []
    assert "cuda_toolkit_keyring is empty" in cuda(keyring="")[0]


def test_the_series_is_part_of_the_names() -> None:
    assert [cuda_toolkit_series(each) for each in ("13.4.1", "12.9.1-1")] == ["13-4", "12-9"]
