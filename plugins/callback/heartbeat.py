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

    def __init__(self, display=None, options=None):
        super().__init__(display=display, options=options)
        self._lock = threading.Lock()
        self._waiting = {}
        self._stopped = threading.Event()

    def v2_playbook_on_start(self, playbook):
        # A daemon, so that an aborted run never waits for it.
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def v2_playbook_on_stats(self, stats):
        self._stopped.set()

    def v2_runner_on_start(self, host, task):
        with self._lock:
            self._waiting[host.get_name()] = (task.get_name(), time.monotonic())

    def _ended(self, result, **kwargs):
        with self._lock:
            self._waiting.pop(result._host.get_name(), None)

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_skipped = v2_runner_on_unreachable = _ended

    def _beat(self):
        interval = self.get_option("interval_seconds")
        while not self._stopped.wait(interval):
            now = time.monotonic()
            with self._lock:
                late = {host: entry for host, entry in self._waiting.items() if now - entry[1] >= interval}
            by_task = {}
            for host, (task, begun) in late.items():
                hosts, first = by_task.get(task, ([], begun))
                by_task[task] = ([*hosts, host], min(first, begun))
            for task, (hosts, begun) in by_task.items():
                self._display.display(heartbeat_line(task, now - begun, hosts))
