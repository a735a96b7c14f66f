# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a systemd unit wrote since it was started last, from its beginning and in bounded memory.

An engine says what it needs in the first seconds of a run that may have lasted for months since.
"""

from __future__ import annotations

import subprocess

from ansible_collections.baremetal.llm.plugins.module_utils.system import System

# The start of an engine writes about 100 KB; what follows are requests.
MOST_BYTES = 4 << 20


class UnitLogError(Exception):
    """A unit without a log. The message names the unit and says why."""


def unit_log(unit: str, system: System | None = None, most_bytes: int = MOST_BYTES) -> str:
    """The first *most_bytes* of what *unit* wrote in its present run, or in its last one. Raises UnitLogError."""
    system = system or System()
    asked = system.run(["systemctl", "show", "--property=InvocationID", "--value", unit])
    run = asked.stdout.strip()
    if asked.code != 0 or not run:
        raise UnitLogError(f"{unit} has not run since this host was started{_because(asked.stderr)}; start it first")
    text = first_output(
        ["journalctl", "--quiet", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={run}"], most_bytes
    )
    if not text.strip():
        raise UnitLogError(f"the journal of {unit} holds nothing of its present run: it was rotated away; restart it")
    return text


def _because(reason: str) -> str:
    return f" ({reason.strip()})" if reason.strip() else ""


def first_output(argv: list[str], most_bytes: int) -> str:
    """The first *most_bytes* of what a command writes; what would follow is not waited for. '' if it cannot be run."""
    try:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function,consider-using-with
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return ""
    try:
        output = process.stdout.read(most_bytes) if process.stdout else b""
    finally:
        process.kill()
        process.communicate()
    return output.decode("utf-8", "replace")
