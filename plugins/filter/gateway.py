# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role gateway; what they decide is in module_utils/gateway.py."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.baremetal.llm.plugins.module_utils import gateway


class FilterModule:
    """Filters of the role gateway."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {
            "gateway_plan": gateway.plan,
            "gateway_server_names": gateway.server_names,
            "gateway_subject_alternative_names": gateway.subject_alternative_names,
        }
