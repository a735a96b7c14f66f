# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The heartbeat names the hosts that a task waits for, and stops naming one that has answered."""

from __future__ import annotations

import time

from ansible_collections.baremetal.llm.plugins.callback.heartbeat import CallbackModule, heartbeat_line


class Named:
    def __init__(self, name):
        self.name = name

    def get_name(self):
        return self.name


class Result:
    def __init__(self, host):
        self._host = Named(host)


class Display:
    verbosity = 0

    def __init__(self):
        self.lines = []

    def display(self, line, *args, **kwargs):
        self.lines.append(line)


def test_line_names_hosts_in_order_and_counts_the_rest():
    assert heartbeat_line("Load", 61.9, ["b", "a"]) == "  ... 61 s: Load: waiting for a, b"
    assert heartbeat_line("Load", 20, [f"h{n}" for n in range(7)]).endswith("h0, h1, h2, h3, h4 and 2 more")


def test_only_hosts_that_have_not_answered_are_named(monkeypatch):
    display = Display()
    callback = CallbackModule(display=display)
    monkeypatch.setattr(callback, "get_option", lambda name: 0.05)
    callback.v2_playbook_on_start(None)
    callback.v2_runner_on_start(Named("slow"), Named("Load a model"))
    callback.v2_runner_on_start(Named("quick"), Named("Load a model"))
    callback.v2_runner_on_ok(Result("quick"))
    deadline = time.monotonic() + 5
    while not display.lines and time.monotonic() < deadline:
        time.sleep(0.01)
    callback.v2_playbook_on_stats(None)
    assert display.lines
    assert all("waiting for slow" in line and "quick" not in line for line in display.lines)
