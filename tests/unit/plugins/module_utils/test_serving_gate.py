# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan gate lets through, and what it says where it does not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils.lock import Lock, LockError, LockFile, ModelFacts
from ansible_collections.baremetal.llm.plugins.module_utils.serving_gate import Gate, GateHost, engine_settings, summary
from ansible_collections.baremetal.llm.plugins.module_utils.serving_planner import SitePlanner
from ansible_collections.baremetal.llm.plugins.module_utils.serving_site import Hardware
from ansible_collections.baremetal.llm.plugins.module_utils.serving_tiers import SIZES
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Gpu

L40S = Gpu("NVIDIA L40S", int(44.4 * GIB), "8.9")
GROUPS = {"all": ["gpu-1", "gpu-2"], "gpu_hosts": ["gpu-1", "gpu-2"]}
MODELS = [{"name": name, "lock": f"{name}.yml"} for name in ("8B", "70B", "old", "gone")]


def read(path, allow_files=()):
    name = path[:-4]
    if name == "gone":
        raise LockError(["cannot be read: No such file or directory"], path)
    files = (LockFile("model.safetensors", 16 * GIB, "0" * 64),)
    facts = ModelFacts() if name == "old" else ModelFacts(config=SIZES[name][1])
    return Lock(
        f"org/{name}",
        "0" * 40,
        files if name == "8B" else (LockFile("a.safetensors", 141 * 10**9, "0" * 64),),
        facts=facts,
    )


def deployment(name="chat", model="8B", **changes):
    return {"name": name, "engine": "vllm", "model": model, "hosts": ["gpu_hosts"], "port": 8000, **changes}


def host(*gpus, **changes):
    return GateHost(Hardware(gpus, "facts"), engine_version="0.33.0", **changes)


def judge(*deployments, hosts=None, dry=False):
    hosts = hosts or {"gpu-1": host(L40S)}
    return Gate(deployments, MODELS, GROUPS, hosts, SitePlanner(), read, dry).judge()


def codes(judged):
    return [finding.code for finding in judged.findings]


def test_what_fits_is_planned_and_says_nothing():
    judged = judge(deployment(context_length=8192))
    assert judged.findings == []
    plan = judged.plans["gpu-1"]["chat"]
    assert plan["fits"]
    assert plan["settings"]["max_model_len"] == 8192
    assert judged.judged == 1
    assert summary(judged.findings, 1) == "Nothing stands in the way of 1 replica."


def test_what_cannot_fit_is_told_with_its_place_its_reason_and_a_way_out():
    judged = judge(deployment(model="70B"), hosts={"gpu-1": host(L40S), "gpu-2": host(L40S)})
    (finding,) = judged.findings
    assert finding.severity == "error"
    assert finding.code.startswith("plan-")
    assert "_" not in finding.code
    assert finding.variable == "llm_deployments[0]"
    # The same on two hosts is one finding.
    assert finding.hosts == ("gpu-1", "gpu-2")
    assert "(chat) cannot serve 70B on 1 x NVIDIA L40S" in finding.message
    assert "GPU" in finding.action
    assert "found 1 reason why deployments cannot be served" in summary(judged.findings, 0)
    assert "No unit was written" in summary(judged.findings, 0)


def test_all_that_cannot_be_is_told_at_once():
    judged = judge(deployment("a", "70B"), deployment("b", "8B", engine_options={"max_model_len": 10**6}))
    assert {finding.variable for finding in judged.findings} == {"llm_deployments[0]", "llm_deployments[1]"}


def test_a_deployment_is_planned_for_the_gpus_that_it_names():
    hosts = {"gpu-1": host(*[L40S] * 4)}
    assert codes(judge(deployment(model="70B"), hosts=hosts)) == []
    assert codes(judge(deployment(model="70B", gpus=[1, 2]), hosts=hosts)) != []
    absent = judge(deployment(gpus=[3, 4]), hosts=hosts)
    assert codes(absent) == ["plan-gpus-absent"]
    assert "names GPU 4, but the host has 4" in absent.findings[0].message


def test_deployments_on_one_gpu_must_fit_together():
    both = judge(deployment("a", context_length=4096), deployment("b", context_length=4096))
    assert codes(both) == ["plan-gpus-shared"]
    assert "a for 40.8 GiB and b for 40.8 GiB of 44.4 GiB" in both.findings[0].message
    half = {"engine_options": {"gpu_memory_utilization": 0.48}}
    assert (
        codes(judge(deployment("a", context_length=4096, **half), deployment("b", context_length=4096, **half))) == []
    )
    apart = {"gpu-1": host(L40S, L40S)}
    found = judge(
        deployment("a", context_length=4096, gpus=[0]), deployment("b", context_length=4096, gpus=[1]), hosts=apart
    )
    assert codes(found) == []


def test_engines_beside_each_other_each_have_gpus_of_their_own():
    twice = deployment(context_length=4096, engine_options={"data_parallel_size": 2, "tensor_parallel_size": 1})
    other = deployment("b", context_length=4096, gpus=[1])
    assert codes(judge(twice, other, hosts={"gpu-1": host(L40S, L40S)})) == ["plan-gpus-shared"]


@pytest.mark.parametrize(("dry", "severity"), [(False, "error"), (True, "warning")])
def test_a_host_that_shows_no_gpu_is_a_fault_unless_its_driver_is_yet_to_come(dry, severity):
    empty = {
        "gpu-1": GateHost(Hardware(problem="the driver's library says DRIVER_NOT_LOADED"), engine_version="0.33.0")
    }
    judged = judge(deployment(), hosts=empty, dry=dry)
    assert [(finding.code, finding.severity) for finding in judged.findings] == [("plan-gpus-none", severity)]
    assert "DRIVER_NOT_LOADED" in judged.findings[0].message


@pytest.mark.parametrize("model", ["old", "gone"])
def test_a_model_of_which_nothing_is_known_is_a_warning(model):
    judged = judge(deployment(model=model))
    assert [(finding.code, finding.severity) for finding in judged.findings] == [("plan-unknown", "warning")]
    assert judged.plans == {"gpu-1": {}}


def cpu(memory=64 * GIB, **environment):
    hardware = Hardware(memory_bytes=memory)
    return {"gpu-1": GateHost(hardware, "none", "0.32.0", environment=environment)}


def test_without_gpus_the_hosts_memory_must_hold_what_is_known():
    assert codes(judge(deployment(context_length=8192), hosts=cpu(VLLM_CPU_KVCACHE_SPACE="8"))) == []
    # Nothing is guessed: there is no plan, so no settings.
    assert judge(deployment(), hosts=cpu()).plans == {"gpu-1": {}}
    assert judge(deployment(), hosts=cpu()).judged == 1
    small = judge(deployment(), hosts=cpu(memory=20 * GIB, VLLM_CPU_KVCACHE_SPACE="8"))
    assert codes(small) == ["plan-memory-too-small"]
    assert "16.0 GiB for weights and 8.0 GiB for its KV cache" in small.findings[0].message
    # 128 KiB for each token of an 8B model: 32768 of them need 4 GiB.
    short = judge(deployment(context_length=32768), hosts=cpu(VLLM_CPU_KVCACHE_SPACE="2"))
    assert codes(short) == ["plan-cache-too-small"]
    assert "4.0 GiB of KV cache for one request of 32768 tokens" in short.findings[0].message
    assert codes(judge(deployment(gpus=[0]), hosts=cpu())) == ["plan-gpus-absent"]


def test_other_engines_are_not_judged():
    assert judge(deployment(engine="ollama", model="70B")).findings == []


def test_the_options_of_the_role_are_said_and_not_planned_over():
    """What stands in vllm_engine_defaults is planned with, and the plan never writes over it."""
    hosts = {"gpu-1": host(L40S, engine_defaults={"gpu_memory_utilization": 0.6, "disable_fastapi_docs": True})}
    plan = judge(deployment(context_length=4096), hosts=hosts).plans["gpu-1"]["chat"]
    assert plan["memory"]["requested"] == pytest.approx(0.6 * L40S.memory_bytes, rel=1e-6)
    settings = engine_settings(plan, deployment(engine_options={"max_num_seqs": 4}), hosts["gpu-1"].engine_defaults)
    assert "gpu_memory_utilization" not in settings
    assert "max_num_seqs" not in settings
    assert settings["max_model_len"] == 4096
    assert settings["tensor_parallel_size"] == 1


def planner_codes():
    """Every code that a plan of vLLM can refuse with, as it stands in the planner's source."""
    folder = Path(__file__).resolve().parents[4] / "plugins/module_utils"
    found = set()
    for path in folder.glob("serving_*.py"):
        # What these two refuse concerns other input than a site's, and another engine.
        if "llama_cpp" in path.name or path.name in ("serving_request.py", "serving_input.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Refusal", "Problem", "ParallelProblem"):
                found |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
                found |= {node.value.value} if isinstance(node.value, ast.Constant) else set()
    return {f"plan-{code.replace('_', '-')}" for code in found}


def own_codes():
    source = (Path(__file__).resolve().parents[4] / "plugins/module_utils/serving_gate.py").read_text(encoding="utf-8")
    return set(re.findall(r'"(plan-[a-z-]+[a-z])"', source))


def test_every_code_is_documented():
    text = (Path(__file__).resolve().parents[4] / "docs/findings.md").read_text(encoding="utf-8")
    section = text.split("\n## Plan gate\n", 1)[1].split("\n## ", 1)[0]
    documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE))
    assert len(own_codes()) == 6
    assert documented == planner_codes() | own_codes()
