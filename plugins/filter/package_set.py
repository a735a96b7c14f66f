# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that the roles container_toolkit and cuda_toolkit use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import package_set_toolkits as toolkits


def _settings(role: str, values: Mapping[str, Any], host: str) -> toolkits.Settings:
    """Pick the settings that both roles have; YAML makes numbers of some versions."""
    return toolkits.Settings(
        role=role,
        host=host,
        distribution=values["distribution"],
        release=str(values["release"]),
        version=str(values["version"]),
        repository_url=values["repository_url"],
        keyring=values["keyring"],
        keyring_sha256=values["keyring_sha256"],
        environment=values["environment"],
    )


def container_toolkit_problems(values: Mapping[str, Any], host: str) -> list[str]:
    """Return what is wrong with the settings of the role container_toolkit."""
    return toolkits.container_toolkit_problems(
        _settings("container_toolkit", values, host),
        accepted=values["accepted_advisories"],
        engines=values["engines"],
        podman=values["podman"],
        has_docker=values["has_docker"],
    )


def cuda_toolkit_problems(values: Mapping[str, Any], host: str) -> list[str]:
    """Return what is wrong with the settings of the role cuda_toolkit."""
    packages: Sequence[str] = values["packages"]
    return toolkits.cuda_toolkit_problems(_settings("cuda_toolkit", values, host), packages)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "container_toolkit_problems": container_toolkit_problems,
            "cuda_toolkit_problems": cuda_toolkit_problems,
            "cuda_toolkit_series": lambda version: toolkits.cuda_toolkit_series(str(version)),
        }
