#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What it costs to know everything about an 8-GPU host: seconds and peak memory of read_host, in new processes.

The host is the fake `h100_sxm_8`: the real read_host, the real nvidia-ml-py, the fake NVML, files in a folder. A fake
library answers at once, and canned commands start no process: this is the cost of our own code, not of a driver. Beside
it:

- the same questions asked of this machine, with as many of the commands as it has
- with `--nvidia-smi FILE`, an output of `nvidia-smi -q -x` of a real 8-GPU host, parsed with the standard library. That
  is parsing alone: what `nvidia-smi` itself takes cannot be had without a GPU, and its text has no packages, modules,
  kernels, services or kernel log.

usage: gpu_info.py [--machine h100_sxm_8] [--repeat 9] [--nvidia-smi FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOSTS = ROOT / "tests" / "fakes" / "hosts"
sys.path.insert(0, str(HOSTS))

# What each measured process does. Imports count: a module pays them, too. The peak is that of this program alone, which
# getrusage would not tell from its parent's.
MEASURE = """
import json, os, re, sys, time
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
times = os.times()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
print(json.dumps([seconds, times.user + times.system + times.children_user + times.children_system, peak]))
"""
FAKE = "sys.path.insert(0, {hosts!r}); import fake_host; result = fake_host.read({root!r}, {commands!r}, {binding!r})"
REAL = """
sys.path.insert(0, {collections!r})
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_info import read_host
from ansible_collections.baremetal.llm.plugins.module_utils.system import System
import pynvml
result = read_host(System(), pynvml)
"""
PARSE = """
import xml.etree.ElementTree as tree
def plain(node):
    return {{child.tag: plain(child) for child in node}} if len(node) else (node.text or "").strip()
document = tree.parse({path!r}).getroot()
result = [plain(gpu) for gpu in document.findall("gpu")]
"""


@dataclass(frozen=True)
class Cost:
    """Medians over the repeats."""

    seconds: float
    cpu_seconds: float
    """Of the whole process, its start and its commands included."""
    mebibytes: float


def measure(work: str, repeat: int, environment: dict[str, str] | None = None) -> Cost:
    """Run *work* in a new process, *repeat* times."""
    samples: list[tuple[float, float, float]] = []
    for _repeat in range(repeat):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE.format(work=work)],
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        seconds, cpu_seconds, kibibytes = json.loads(done.stdout)
        samples.append((seconds, cpu_seconds, kibibytes / 1024))
    return Cost(*(statistics.median(column) for column in zip(*samples, strict=True)))


def main() -> int:
    parser = argparse.ArgumentParser(description="What it costs to know everything about an 8-GPU host.")
    parser.add_argument("--machine", default="h100_sxm_8", help="one of tests/fakes/hosts")
    parser.add_argument("--repeat", type=int, default=9, help="processes for each line")
    parser.add_argument("--nvidia-smi", metavar="FILE", help="output of `nvidia-smi -q -x` to parse beside it")
    options = parser.parse_args()

    import fake_host

    host = fake_host.FakeHost(options.machine)
    rows: list[tuple[str, Cost]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root, commands = f"{scratch}/root", f"{scratch}/commands.json"
        host.write(root)
        Path(commands).write_text(json.dumps(host.all_commands()), encoding="utf-8")
        flat = host.fake_nvml.write(host.description["nvml"], f"{scratch}/nvml")
        environment = host.fake_nvml.environment(flat)
        place = {"hosts": str(HOSTS), "root": root, "commands": commands}
        rows.append(("Python alone", measure("result = None", options.repeat)))
        whole = measure(FAKE.format(**place, binding="pynvml"), options.repeat, environment)
        rows.append((f"read_host, {options.machine}, canned commands", whole))
        without = measure(FAKE.format(**place, binding=""), options.repeat)
        rows.append(("the same without NVML", without))
    collections = str(ROOT / ".cache" / "collections")
    rows.append(
        ("read_host, this machine's own commands", measure(REAL.format(collections=collections), options.repeat))
    )
    if options.nvidia_smi:
        path = str(Path(options.nvidia_smi).resolve())
        size = Path(path).stat().st_size // 1024
        rows.append((f"parsing nvidia-smi -q -x ({size} KiB)", measure(PARSE.format(path=path), options.repeat)))

    print("| what | seconds | CPU s, with Python's start | peak MiB |")
    print("|---|---|---|---|")
    for name, cost in rows:
        print(f"| {name} | {cost.seconds:.3f} | {cost.cpu_seconds:.2f} | {cost.mebibytes:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
