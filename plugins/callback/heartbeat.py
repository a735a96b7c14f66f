# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say which hosts a long task is still waiting for."""

from __future__ import annotations

DOCUMENTATION = """
name: heartbeat
type: notification
short_description: Show that long steps are alive
version_added: 0.1.0
author: baremetal.llm contributors (@baremetal-llm)
description:
  - Installing an engine, fetching weights and loading a model take minutes,
    in which C(ansible-playbook) prints nothing.
  - This callback prints one line every O(interval_seconds) seconds that names the task,
    the time it has taken and the hosts that have not answered.
options:
  interval_seconds:
    description: Seconds between two lines.
    type: int
    default: 20
    env:
      - name: BAREMETAL_LLM_HEARTBEAT_SECONDS
    ini:
      - section: callback_heartbeat
        key: interval_seconds
requirements:
  - Listed in C(callbacks_enabled).
"""

import threading
import time
from typing import Any

from ansible.plugins.callback import CallbackBase


def heartbeat_line(task: str, seconds: float, hosts: list[str], most: int = 5) -> str:
    """Return the line for a task that has run for ``seconds`` and still waits for ``hosts``; names at most ``most``."""
    named = ", ".join(sorted(hosts)[:most])
    more = f" and {len(hosts) - most} more" if len(hosts) > most else ""
    return f"  ... {int(seconds)} s: {task}: waiting for {named}{more}"


class CallbackModule(CallbackBase):
    """Watches which hosts have begun a task and not ended it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "baremetal.llm.heartbeat"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, display: Any = None, options: Any = None) -> None:
        super().__init__(display=display, options=options)
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[str, float]] = {}
        self._stopped = threading.Event()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        # A daemon, so that an aborted run never waits for it.
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._stopped.set()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        with self._lock:
            self._waiting[host.get_name()] = (task.get_name(), time.monotonic())

    def v2_runner_on_ok(self, result: Any) -> None:
        self._ended(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._ended(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._ended(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._ended(result)

    def _ended(self, result: Any) -> None:
        with self._lock:
            self._waiting.pop(result._host.get_name(), None)

    def _beat(self) -> None:
        interval: float = self.get_option("interval_seconds")  # type: ignore[no-untyped-call]  # ansible-core has no types
        while not self._stopped.wait(interval):
            now = time.monotonic()
            by_task: dict[str, tuple[float, list[str]]] = {}
            with self._lock:
                for host, (task, begun) in self._waiting.items():
                    if now - begun >= interval:
                        first, hosts = by_task.get(task, (begun, []))
                        by_task[task] = (min(first, begun), [*hosts, host])
            for task, (begun, hosts) in by_task.items():
                self._display.display(heartbeat_line(task, now - begun, hosts))
