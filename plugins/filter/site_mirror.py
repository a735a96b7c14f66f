# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role site_mirror and its playbook; what they decide is in module_utils/site_mirror.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.baremetal.llm.plugins.module_utils import site_mirror


def mirror_models(mirrored: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a mirror fetches and serves, from the site's `llm_mirror_models` and `llm_models`."""
    try:
        return site_mirror.mirror_models(mirrored, models)
    except site_mirror.MirrorError as error:
        raise AnsibleFilterError(str(error)) from error


def site_mirror_layouts(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the models with their lock files read, which are on the controller."""
    try:
        return site_mirror.with_locks(models)
    except site_mirror.MirrorError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The role's decisions as filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "mirror_models": mirror_models,
            "site_mirror_layouts": site_mirror_layouts,
            "site_mirror_plan": site_mirror.plan,
        }
