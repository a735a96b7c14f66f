# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with the size that a site gives a deployment, before anything is planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.deployment_size import (
    DEVICE_VARIABLES,
    amount,
    gpus_needed,
    options,
)
from ansible_collections.baremetal.llm.plugins.module_utils.finding import Finding, Findings, is_list, kind


class SizeChecks(Findings):
    """Judges the deployment at *path*, which is to run on *hosts*."""

    def __init__(self, path: str, deployment: Mapping[str, Any], hosts: Sequence[str]) -> None:
        super().__init__()
        self.path = path
        self.deployment = deployment
        self.hosts = hosts
        self.options = options(deployment)

    def numbers(self) -> None:
        for key, unit in (("context_length", "tokens"), ("concurrency", "requests")):
            value = self.deployment.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                self.add(
                    "value-type",
                    f"{self.path}.{key}",
                    f"is {kind(value)}, expected a whole number of {unit}",
                    "Write the number in digits and without quotes, or remove the key.",
                    self.hosts,
                )
            elif value is not None and value < 1:
                self.add(
                    "deployment-size-invalid",
                    f"{self.path}.{key}",
                    f"is {value}, expected at least 1",
                    "Raise it, or remove the key: what a site leaves open is planned.",
                    self.hosts,
                )

    def contradictions(self) -> None:
        length, limit = self.deployment.get("context_length"), self.options.get("max_model_len")
        if isinstance(length, int) and limit is not None and amount(limit) != length:
            self.add(
                "deployment-size-contradiction",
                f"{self.path}.context_length",
                f"is {length}, and engine_options.max_model_len beside it says something else",
                "Keep one of the two: context_length is the engine's max_model_len.",
                self.hosts,
            )
        wanted, most = self.deployment.get("concurrency"), amount(self.options.get("max_num_seqs"))
        if isinstance(wanted, int) and most is not None and most < wanted:
            self.add(
                "deployment-size-contradiction",
                f"{self.path}.concurrency",
                f"is {wanted}, but engine_options.max_num_seqs lets the engine take fewer requests at once",
                f"Raise max_num_seqs to at least {wanted}, remove it, or lower concurrency.",
                self.hosts,
            )

    def gpus(self) -> None:
        gpus = self.deployment.get("gpus")
        variable = f"{self.path}.gpus"
        if gpus is None:
            return
        way_out = "List the numbers of the GPUs as nvidia-smi shows them, each once, for example [0, 1]."
        if not is_list(gpus) or any(isinstance(index, bool) or not isinstance(index, int) for index in gpus):
            self.add("value-type", variable, f"is {kind(gpus)}, expected a list of whole numbers", way_out, self.hosts)
            return
        if not gpus or min(gpus) < 0 or len(set(gpus)) < len(gpus):
            self.add(
                "deployment-size-invalid",
                variable,
                f"is {list(gpus)}, expected at least one number, none below 0, each once",
                way_out,
                self.hosts,
            )
            return
        environment = self.deployment.get("environment")
        for name in DEVICE_VARIABLES:
            if isinstance(environment, Mapping) and name in environment:
                self.add(
                    "deployment-size-contradiction",
                    variable,
                    f"stands beside environment.{name}, which says the same in another way",
                    f"Remove {name}: it is set from gpus.",
                    self.hosts,
                )
        if gpus_needed(self.deployment) > len(gpus):
            self.add(
                "deployment-size-contradiction",
                variable,
                f"names {len(gpus)}, but the parallel sizes in engine_options need {gpus_needed(self.deployment)}",
                "Name as many GPUs as the product of the parallel sizes, or lower them.",
                self.hosts,
            )


def size_findings(path: str, deployment: Mapping[str, Any], hosts: Sequence[str]) -> list[Finding]:
    """What is wrong with the size of the deployment at *path*, as preflight reports it."""
    checks = SizeChecks(path, deployment, hosts)
    checks.numbers()
    checks.contradictions()
    checks.gpus()
    return checks.findings
