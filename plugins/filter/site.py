# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.baremetal.llm.plugins.module_utils import site
from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockError


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what bad site variables raise into a message that says which filter was asked for what."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (site.SiteError, LockError) as error:
            raise AnsibleFilterError(f"baremetal.llm.{name}: {error}") from error
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise AnsibleFilterError(
                f"baremetal.llm.{name}: the site's variables cannot be used ({type(error).__name__}: {error}). "
                "Run the playbook baremetal.llm.preflight: it names every wrong value."
            ) from error

    return wrapper


class FilterModule:
    """From what a site writes to the variables of one role on one host."""

    def filters(self) -> Mapping[str, Callable[..., Any]]:
        functions: dict[str, Callable[..., Any]] = {
            "engine_clients": site.engine_clients,
            "engine_deployments": site.engine_deployments,
            "firewall_rules": site.firewall_rules,
            "gateway_deployments": site.gateway_deployments,
            "gpu_engines": site.gpu_engines,
            "host_address": site.host_address,
            "host_models": site.host_models,
            "readiness_request": site.readiness_request,
        }
        return {name: _named(name, function) for name, function in functions.items()}
