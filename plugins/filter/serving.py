# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the playbook calibrate; what they decide is in module_utils/serving_calibration.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.baremetal.llm.plugins.module_utils import serving_calibration


def _rounds(registered: Iterable[Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The arguments and the answer of each round of the loops that tasks registered, one loop for each host."""
    for answer in registered:
        for one in (answer.get("results") or []) if isinstance(answer, Mapping) else []:
            if isinstance(one, Mapping) and "boot" in one:
                yield (one.get("invocation") or {}).get("module_args") or {}, one


def calibration_text(existing: str, registered: Iterable[Any]) -> str:
    """The text of the calibration's file: what it holds, and what was measured now in place of what it had of it."""
    try:
        kept = serving_calibration.parse(existing, "llm_calibration_path")
    except serving_calibration.CalibrationError as error:
        raise AnsibleFilterError(str(error)) from error
    found = [(str(arguments["key"]), one["measured"]) for arguments, one in _rounds(registered) if arguments.get("key")]
    return serving_calibration.dump(serving_calibration.merge(kept, found))


def calibration_report(registered: Any) -> list[str]:
    """What one host's loop learnt, as lines for a terminal."""
    return [
        line
        for arguments, one in _rounds([registered])
        for line in serving_calibration.report(str(arguments.get("unit")), one["boot"], one)
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"calibration_report": calibration_report, "calibration_text": calibration_text}
