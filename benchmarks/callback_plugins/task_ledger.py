# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write down, for each play, how long it took and how many tasks each host ran."""

from __future__ import annotations

DOCUMENTATION = """
name: task_ledger
type: aggregate
short_description: Write a JSON file with seconds and tasks by play and host
description: For the benchmarks only. The file is named by the environment variable TASK_LEDGER.
"""

import collections
import json
import os
import time

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_ledger"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self._plays = []

    def v2_playbook_on_play_start(self, play):
        now = time.monotonic()
        self._close(now)
        self._plays.append({"play": play.get_name(), "begun": now, "tasks": collections.Counter()})

    def _ran(self, result, **kwargs):
        self._plays[-1]["tasks"][result._host.get_name()] += 1

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_unreachable = _ran

    def _close(self, now):
        if self._plays:
            self._plays[-1]["seconds"] = now - self._plays[-1].pop("begun")

    def v2_playbook_on_stats(self, stats):
        self._close(time.monotonic())
        hosts = {host: stats.summarize(host) for host in stats.processed}
        with open(os.environ["TASK_LEDGER"], "w", encoding="utf-8") as file:
            json.dump({"plays": self._plays, "hosts": hosts}, file)
