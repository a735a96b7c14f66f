# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the controller asks a host that fetches weights, and what it says to the person who watches."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.lock_change import size_text
from ansible_collections.baremetal.llm.plugins.module_utils.weights_plan import WORK_NAME
from ansible_collections.baremetal.llm.plugins.module_utils.weights_progress import PROGRESS_NAME

# A run writes its progress once a second. A file that is older was left by one that was killed.
STALE_SECONDS = 6
_MARK = "baremetal-llm-job"
# What else than fetching takes long.
_PHASES = {"verify": "read ", "pieces": "read for the piece manifest "}
# Text from a host must not move the cursor of the terminal it is shown on.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]+")


@dataclass(frozen=True)
class Answer:
    """What a host said about its job."""

    running: bool
    # Of the run that is at work now; nothing before and after that.
    progress: Mapping[str, Any] | None


def progress_file(model_path: str) -> str:
    """Where a run for the revision at `model_path` (`<root>/<organisation>/<name>/<revision>`) says how far it is."""
    return os.path.join(os.path.dirname(model_path), WORK_NAME, PROGRESS_NAME)


def wait_script(job_file: str, progress: str, steps: int, step_seconds: str) -> str:
    """Wait on the host until the job has ended, or for so many steps, then say how it stands.

    The host waits, so that the controller opens one session for many seconds and still learns of the end at once.
    But for `sleep` the loop starts no process.
    """
    job, progress = shlex.quote(job_file), shlex.quote(progress)
    # async_wrapper replaces the file in one rename; a result never begins with "started".
    return (
        f"n=0; while :; do s=ended; l=; [ ! -e {job} ] || read -r l < {job} || :; "
        """case "$l" in '{"started": '*'"finished": false'*) s=running;; esac; """
        f'[ "$s" = running ] && [ "$n" -lt {steps} ] || break; n=$((n+1)); sleep {step_seconds}; done; '
        f'echo "{_MARK} $s $(date +%s)"; cat {progress} 2>/dev/null || :'
    )


def alive_script(job_file: str) -> str:
    """Say whether a process of the job is there. In brackets, so that this command does not find itself."""
    job = os.path.basename(job_file).partition(".")[0]
    return (
        f"if grep -qs '[{job[0]}]{job[1:]}' /proc/[0-9]*/cmdline; then echo {_MARK} alive; else echo {_MARK} dead; fi"
    )


def remove_script(job_file: str) -> str:
    return f"rm -f {shlex.quote(job_file)}"


def read_answer(output: str) -> Answer | None:
    """Read what `wait_script` printed; nothing where it did not come to that."""
    found = re.search(rf"^{_MARK} (running|ended) (\d+)\s*$", output, re.MULTILINE)
    if not found:
        return None
    facts: Any = None
    with contextlib.suppress(ValueError):
        facts = json.loads(output[found.end() :])
    written = facts.get("updated") if isinstance(facts, dict) else None
    if not isinstance(written, (int, float)) or int(found.group(2)) - written > STALE_SECONDS:
        facts = None
    return Answer(found.group(1) == "running", facts)


def is_dead(output: str) -> bool:
    return re.search(rf"^{_MARK} dead\s*$", output, re.MULTILINE) is not None


def progress_line(host: str, model: str, seconds: float, progress: Mapping[str, Any] | None) -> str:
    """The line for one host, in the form of the heartbeat's."""
    begin = f"  ... {int(seconds)} s: {host}: {_clean(model)}: "
    done, total = (0, 0) if progress is None else (_count(progress, "bytes_done"), _count(progress, "bytes_total"))
    phase = _PHASES.get(str((progress or {}).get("phase")), "")
    if progress is None or (phase and not total):
        return f"{begin}no transfer now: files are checked or published, or another run is waited for"
    rate, retries = _count(progress, "bytes_per_second"), _count(progress, "retries")
    parts = [f"{phase}{size_text(done)} of {size_text(total)} ({done * 100 // total if total else 100} %)"]
    parts.append(f"{size_text(rate)}/s" if rate else "nothing in the last seconds")
    if progress.get("seconds_left") is not None and done < total:
        parts.append(f"{_time_text(_count(progress, 'seconds_left'))} left")
    if progress.get("source"):
        parts.append(f"from {_clean(str(progress['source']))}")
    if retries:
        parts.append(f"{retries} {'retry' if retries == 1 else 'retries'}")
    return begin + ", ".join(parts)


def _clean(text: str, length: int = 200) -> str:
    text = _UNPRINTABLE.sub(" ", text)
    return text if len(text) <= length else f"{text[:length]}..."


def _count(progress: Mapping[str, Any], key: str) -> int:
    value = progress.get(key)
    return max(0, int(value)) if isinstance(value, (int, float)) else 0


def _time_text(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    minutes = (seconds + 30) // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
