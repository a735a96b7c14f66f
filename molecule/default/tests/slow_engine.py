# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on an engine's host: lets the engine compute for a moment at a time only, until it is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

USER = "vllm"
# In 3 ms the tiny model computes about one token. The pause is many times what a machine needs to carry a token to its
# reader, so that tokens which arrive together were held back together.
COMPUTE_SECONDS = 0.003
PAUSE_SECONDS = 0.05


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    found = subprocess.run(["pgrep", "--uid", USER], capture_output=True, text=True, check=True)
    engine = [int(pid) for pid in found.stdout.split()]
    try:
        while True:
            for number, seconds in ((signal.SIGSTOP, PAUSE_SECONDS), (signal.SIGCONT, COMPUTE_SECONDS)):
                for pid in engine:
                    os.kill(pid, number)
                time.sleep(seconds)
    finally:
        for pid in engine:
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    main()
