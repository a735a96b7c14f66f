#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What a run of site.yml costs: the first, the one that changes nothing, and the latter on 1, 2, 4 and 8 engine hosts.

Prints Markdown tables: seconds, tasks that each host ran, CPU seconds of the controller, split by playbook. Hosts and
controller share this machine's cores, so compare columns with each other, not with a fleet. Only engine-1 runs the real
vLLM; where there are more engine hosts than the demo has, they run the fake of tests/fakes/fake_vllm, whose files the
role installs, starts and checks in the same way.

usage: site_runs.py [--hosts 1,2,4,8] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/fakes/fake_vllm")]

import build_wheel  # noqa: E402  (these are found through the path above)
import demo  # noqa: E402
from testbed import SHARE, Bed  # noqa: E402

BED = Bed("benchmark")
FAKE_VERSION = "0.33.0"
BOOKS = ("preflight", "provision", "weights", "serve", "verify")


@dataclass(frozen=True)
class Run:
    """One run of site.yml."""

    seconds: float
    cpu_seconds: float
    """User and system time of ansible-playbook and its forks."""
    by_playbook: dict[str, float]
    """Seconds by playbook."""
    tasks: dict[str, int]
    """Tasks that each host ran, skipped ones left out."""
    changed: int


def playbook_of_play() -> dict[str, str]:
    """Return the playbook that each play stands in."""
    names = {}
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in yaml.safe_load(path.read_text(encoding="utf-8")):
            if "hosts" in play:
                names[play["name"]] = path.stem
    return names


def run_site(inventory: Path) -> Run:
    """Run site.yml and say what it cost. Raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.json"
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "benchmarks/callback_plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "task_ledger",
            "TASK_LEDGER": str(ledger),
        }
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [demo.BIN / "ansible-playbook", "-i", inventory, ROOT / "playbooks/site.yml"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"site.yml failed:\n{done.stdout[-4000:]}")
        recorded = json.loads(ledger.read_text(encoding="utf-8"))
    books = playbook_of_play()
    by_playbook: dict[str, float] = {}
    tasks: dict[str, int] = {}
    for play in recorded["plays"]:
        book = books[play["play"]]
        by_playbook[book] = by_playbook.get(book, 0.0) + play["seconds"]
        for host, count in play["tasks"].items():
            tasks[host] = tasks.get(host, 0) + count
    return Run(
        seconds=sum(by_playbook.values()),
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        by_playbook=by_playbook,
        tasks=tasks,
        changed=sum(host["changed"] for host in recorded["hosts"].values()),
    )


def make_inventory(engine_hosts: int) -> Path:
    """Make hosts and an inventory with that many engine hosts, of which the first runs the real engine."""
    inventory = BED.state / "inventory"
    shutil.rmtree(inventory, ignore_errors=True)
    shutil.copytree(demo.INVENTORY, inventory, ignore=shutil.ignore_patterns("generated.yml"))
    engines = [f"engine-{number + 1}" for number in range(engine_hosts)]
    # The gateway keeps its address whatever the number of engines.
    hosts = {
        name: {"ansible_host": f"{{{{ demo_network_prefix }}}}.{12 + index}"} for index, name in enumerate(engines)
    }
    tree = {
        "all": {
            "children": {
                "gpu_hosts": {"hosts": hosts},
                "gateway_hosts": {"hosts": {"gateway-1": {"ansible_host": "{{ demo_network_prefix }}.11"}}},
            }
        }
    }
    (inventory / "hosts.yml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    fakes = SHARE / "fakes"
    _wheel, requirements = build_wheel.build(fakes, FAKE_VERSION)
    for name in engines[1:]:
        variables = {
            "vllm_version": FAKE_VERSION,
            "vllm_requirements": str(requirements),
            "vllm_find_links": ["/mnt/share/fakes"],
            "vllm_accepted_advisories": [],
        }
        path = inventory / "host_vars" / f"{name}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(variables), encoding="utf-8")
    demo.prepare(BED, inventory, demo.TINY, ["gateway-1", *engines])
    return inventory


def row(label: str, run: Run, cpu_seconds: float) -> list[str]:
    """Return one row of the table."""
    books = [f"{run.by_playbook.get(book, 0):.1f}" for book in BOOKS]
    per_host = run.seconds / len(run.tasks)
    tasks = [str(run.tasks[host]) for host in ("engine-1", "gateway-1")]
    return [label, *books, f"{run.seconds:.1f}", f"{per_host:.1f}", f"{cpu_seconds:.1f}", *tasks]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--hosts", default="1,2,4,8", help="numbers of engine hosts, ascending (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="no-change runs of each; the median counts (%(default)s)")
    arguments = parser.parse_args()
    books = [f"{book} s" for book in BOOKS]
    tail = ["all s", "s per host", "controller CPU s", "tasks per engine host", "tasks per gateway"]
    title = ["run, engine hosts + gateway", *books, *tail]
    rows = [title, ["---"] * len(title)]
    BED.down()
    try:
        for number, engine_hosts in enumerate(int(text) for text in arguments.hosts.split(",")):
            inventory = make_inventory(engine_hosts)
            first = run_site(inventory)
            if number == 0:
                rows.append(row(f"first, {engine_hosts} + 1", first, first.cpu_seconds))
            runs = [run_site(inventory) for _ in range(arguments.repeat)]
            if any(run.changed for run in runs):
                sys.exit(f"a run that should change nothing changed something ({engine_hosts} engine hosts)")
            median = sorted(runs, key=lambda each: each.seconds)[len(runs) // 2]
            cpu_seconds = statistics.median(each.cpu_seconds for each in runs)
            rows.append(row(f"no change, {engine_hosts} + 1", median, cpu_seconds))
    finally:
        BED.down()
        # Also what was measured before an interruption.
        print("\n".join("| " + " | ".join(cells) + " |" for cells in rows))


if __name__ == "__main__":
    main()
