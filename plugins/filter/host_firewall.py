# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Filters of the role host_firewall; what they decide is in module_utils/firewall.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.baremetal.llm.plugins.module_utils import firewall


def host_firewall_plan(rules: Sequence[Mapping[str, Any]], host: str) -> list[dict[str, Any]]:
    """Return the rules as sets of addresses, host names resolved on the controller."""
    try:
        return firewall.plan(rules, host)
    except firewall.RuleError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The role's decisions as filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"host_firewall_plan": host_firewall_plan}
