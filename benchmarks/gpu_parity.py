#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What the comparison of a fleet costs: seconds and memory for 1 to 1000 hosts with eight H100 each.

Prints a Markdown table. The facts are those of the fake host h100_sxm_8, as the real gpu_info read them, copied for
each host; in the faulted fleet every tenth host has one of three faults. Each row is measured in a process of its own:
`facts` is the memory that the facts take (they come from JSON, as from Ansible), `comparison` what comparing adds at
its peak, `written` the time to make the JSON for CI.

usage: gpu_parity.py [--hosts 1,10,100,1000] [--repeat 5]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT / "tests/fakes/hosts/h100_sxm_8/facts.json"
sys.path.insert(0, str(ROOT / ".cache/collections"))

MIB = 1024 * 1024
GOAL = "1000 hosts in less than 2 s"


def fleet(count: int, faulted: bool) -> dict[str, Any]:
    """Every host with facts of its own in memory, as if each had answered."""
    text = FACTS.read_text(encoding="utf-8")
    hosts = {f"gpu-{number:04d}": json.loads(text) for number in range(count)}
    if faulted:
        for number, facts in enumerate(hosts.values()):
            if number % 30 == 0:
                facts["loaded_module"]["version"] = "580.95.05"
            elif number % 30 == 10:
                for gpu in facts["gpus"]:
                    gpu["fabric"]["state"] = "not_started"
                next(item for item in facts["services"] if item["name"] == "nvidia-fabricmanager").update(
                    active_state="failed", running_version=None
                )
            elif number % 30 == 20:
                facts["gpus"][3]["remapped_rows"]["pending"] = True
    return hosts


def measure(count: int, faulted: bool, repeat: int) -> dict[str, Any]:
    """One row, in this process."""
    from ansible_collections.baremetal.llm.plugins.module_utils.parity import compare

    wanted = {"engines": [{"engine": "vllm", "version": "0.33.0"}], "pins": {"gpu_count": 8}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    hosts = fleet(count, faulted)
    facts = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    wishes = dict.fromkeys(hosts, wanted)
    seconds, written = [], []
    for dummy in range(repeat):
        # CPU seconds: other work on this machine is not the comparison's.
        start = time.process_time()
        verdict = compare(hosts, wishes)
        seconds.append(time.process_time() - start)
        start = time.process_time()
        json.dumps(verdict.as_dict(), indent=1)
        written.append(time.process_time() - start)
    tracemalloc.start()
    verdict = compare(hosts, wishes)
    peak = tracemalloc.get_traced_memory()[1] / MIB
    return {
        "seconds": statistics.median(seconds),
        "written": statistics.median(written),
        "facts": facts,
        "peak": peak,
        "findings": len(verdict.findings),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the comparison of a fleet.")
    parser.add_argument("--hosts", default="1,10,100,1000")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        count, faulted = options.measure.split(",")
        print(json.dumps(measure(int(count), faulted == "faulted", options.repeat)))
        return 0
    print(f"Goal: {GOAL}. Median of {options.repeat}, CPU seconds, Python {sys.version.split()[0]}.\n")
    print("| Hosts | Fleet | Seconds | Findings | Written, s | Facts, MiB | Comparison, MiB |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for count in map(int, options.hosts.split(",")):
        for name in ("healthy", "faulted"):
            command = [sys.executable, __file__, "--measure", f"{count},{name}", "--repeat", str(options.repeat)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"| {count} | {name} | {row['seconds']:.3f} | {row['findings']} | {row['written']:.3f} "
                f"| {row['facts']:.0f} | {row['peak']:.1f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
