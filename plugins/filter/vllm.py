# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Filters of the vllm role; what they decide is in module_utils/vllm_config.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import vllm_config


class FilterModule:
    """The role's decisions as filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "vllm_addresses": vllm_config.addresses,
            "vllm_configurations": vllm_config.configurations,
            "vllm_environment_file": vllm_config.environment_file,
            "vllm_obsolete": vllm_config.obsolete,
            "vllm_problems": vllm_config.problems,
            "vllm_prunable": vllm_config.prunable,
            "vllm_units": vllm_config.units,
        }
