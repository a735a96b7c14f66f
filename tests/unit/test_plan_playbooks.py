# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks that plan, against an inventory of racks that are not there: nothing but this machine is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockFile, ModelFacts, dump_lock
from ansible_collections.baremetal.llm.plugins.module_utils.serving_tiers import SIZES
from ansible_collections.baremetal.llm.plugins.module_utils.tensor_totals import DtypeTotals, TensorTotals

ROOT = Path(__file__).resolve().parents[2]
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.65, "compute_capability": "9.0", "count": 8}
L4 = {"name": "NVIDIA L4", "memory_gib": 22.49, "compute_capability": "8.9"}


def lock(size: str, weights: int) -> str:
    totals = TensorTotals((("BF16", DtypeTotals(1, weights // 2, weights)),))
    files = (LockFile("model.safetensors", weights + 1000, "0" * 64, totals),)
    facts = ModelFacts(formats=("safetensors",), config=SIZES[size][1], tensors=totals)
    return dump_lock(Lock(f"demo/{size}", "0" * 39 + "a", files, facts=facts))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "big.yml").write_text(lock("70B", 141107412992), encoding="utf-8")
    (folder / "small.yml").write_text(lock("8B", 16060522496), encoding="utf-8")
    deployment = {"engine": "vllm", "context_length": 8192}
    inventory = {
        "all": {
            "vars": {
                "ansible_connection": "local",
                "ansible_become": False,
                "ansible_python_interpreter": sys.executable,
                "llm_engine_api_key": "0" * 32,
                "llm_models": [
                    {"name": name, "lock": str(folder / f"{name}.yml"), "sources": [{"type": "hub"}]}
                    for name in ("big", "small")
                ],
                "llm_deployments": [
                    {**deployment, "name": "chat", "model": "big", "hosts": ["gpu_hosts"], "port": 8000},
                    {**deployment, "name": "help", "model": "small", "hosts": ["rack-1"], "port": 8001, "gpus": [0]},
                ],
            },
            "children": {
                "gpu_hosts": {"hosts": {"rack-1": {"llm_planned_gpus": [H100]}, "edge-1": {"llm_planned_gpus": [L4]}}}
            },
        }
    }
    (folder / "inventory.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    return folder


def play(site: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            *("-i", str(site / "inventory.yml"), str(ROOT / f"playbooks/{name}.yml"), *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_fits_where_is_printed_and_written(site: Path) -> None:
    page = site / "reports/plan.html"
    done = play(site, "plan", "-e", f"llm_plan_path={page}", "-e", "llm_plan_context_length=8192")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 models against 2 of 2 hosts; each fits somewhere; 2 reasons why" in done.stdout
    lines = done.stdout.splitlines()
    (big,) = [line for line in lines if line.startswith("big ")]
    assert "no: 16 GPUs" in big
    assert "8K × " in big
    assert any(line.startswith("1T, 4 bit ") for line in lines)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    data = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert [kind["hosts"] for kind in data["kinds"]] == [["edge-1"], ["rack-1"]]
    assert data["rows"][1]["cells"][0]["state"] == "ok"


def test_no_unit_is_written_for_what_cannot_fit(site: Path) -> None:
    """In check mode, so that a gate that lets it through would be a failing test and not a changed machine."""
    done = play(site, "serve", "--check")
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "The plan gate found 2 reasons why deployments cannot be served" in output
    assert "llm_deployments[0] (chat) cannot serve big on 1 x NVIDIA L4" in output
    assert "16 of these GPUs instead of 1" in output
    assert "ask together for more than GPU 0 has: chat for" in output
    assert "TASK [baremetal.llm." not in output


def test_the_gate_comes_first_and_runs_with_every_part_that_needs_its_settings() -> None:
    (engines, _gateway) = yaml.safe_load((ROOT / "playbooks/serve.yml").read_text(encoding="utf-8"))
    gate = [task for task in engines["pre_tasks"] if "baremetal.llm.serving_gate" in task]
    assert len(gate) == 1
    assert gate[0]["any_errors_fatal"] is True
    assert "tasks" not in engines
    tasks = yaml.safe_load((ROOT / "roles/vllm/tasks/main.yml").read_text(encoding="utf-8"))
    parts = ("configure.yml", "service.yml")
    configuring = {tag for task in tasks if task["ansible.builtin.import_tasks"] in parts for tag in task["tags"]}
    assert "vllm_configure" in configuring
    assert configuring <= set(gate[0]["tags"])
    role = next(role for role in engines["roles"] if role["role"] == "baremetal.llm.vllm")
    assert "planned=" in role["vars"]["vllm_deployments"]
