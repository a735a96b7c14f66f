#!/usr/bin/env python3
# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a serving plan costs, and whose error is smaller: Markdown tables.

Speed: a model of 1T parameters in 200 files (sparse ones: only headers are read), with one tensor per expert and with
few large tensors; and 500 models planned for 50 kinds of GPUs, with and without advice in the refusals.

Error: the same published boot logs of vLLM (tests/unit/fixtures/vllm_boot_logs.json) by this planner, and by

- hf-mem: the weights, divided by the GPUs; its own functions are called where it is installed (`--hf-mem PYTHON`,
  default .cache/peers/hf-mem/bin/python: `python3 -m venv .cache/peers/hf-mem` and `pip install hf-mem==0.5.6`);
- accelerate estimate-memory: the weights and 20 % for inference, its documentation's rule;
- GPUStack's selector: weights x 1.2 + 2 GiB.

None of them knows utilisation, so what they leave for the KV cache is taken from the engine's requested memory.

usage: serving_plan.py [--repeat 3] [--only speed|errors] [--hf-mem PYTHON]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".cache/collections"))

from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv import KvSettings, kv_cache  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_plan import plan  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_request import plan_request  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Gpu, Wishes  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import Model, read_model  # noqa: E402

CONFIGS = ROOT / "tests/unit/fixtures/serving"
NEWEST = "0.33.0"
H200 = {"name": "NVIDIA H200", "memory_bytes": int(139.8 * GIB), "compute_capability": "9.0"}
# Sums up a header, and the KV cache of one request, by hf-mem itself.
HF_MEM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from hf_mem.safetensors.kv_cache import compute_safetensors_kv_cache_size
from hf_mem.safetensors.metadata import parse_safetensors_metadata
results = []
for case in json.load(sys.stdin):
    weights = parse_safetensors_metadata({"Transformer": {"weights": {"dtype": "U8", "shape": [case["weights"]]}}})
    try:
        cache = compute_safetensors_kv_cache_size(case["config"], case["dtype"], case["max_model_len"])
    except KeyError:
        cache = None
    results.append([weights.bytes_count, cache])
json.dump(results, sys.stdout)
"""


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    return config


def timed(action: Callable[[], Any], repeat: int) -> str:
    """Median seconds of the clock and of the CPU, as cells of a table: they differ where the machine has more to do."""
    clock, cpu = [], []
    for _number in range(repeat):
        start, start_cpu = time.perf_counter(), time.process_time()
        action()
        clock.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return f"{statistics.median(clock):.3f} | {statistics.median(cpu):.3f}"


def write_shard(path: Path, tensors: list[tuple[str, list[int]]]) -> None:
    entries, reached = {}, 0
    for name, shape in tensors:
        size = 1
        for number in shape:
            size *= number
        entries[name] = {"dtype": "F8_E4M3", "shape": shape, "data_offsets": [reached, reached + size]}
        reached += size
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + reached)


def trillion(folder: Path, every_expert: bool, shards: int = 200) -> int:
    """Kimi K2: 61 layers of 384 experts. Returns how many tensors there are."""
    config = config_of("kimi-k2")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    hidden, width, experts = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
    tensors: list[tuple[str, list[int]]] = []
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        tensors += [
            (f"{prefix}.self_attn.{part}.weight", [hidden, 1536]) for part in ("q_a_proj", "q_b_proj", "o_proj")
        ]
        parts = [("gate_proj", [width, hidden]), ("up_proj", [width, hidden]), ("down_proj", [hidden, width])]
        if every_expert:
            for expert in range(experts):
                for part, shape in parts:
                    tensors.append((f"{prefix}.mlp.experts.{expert}.{part}.weight", shape))
        else:
            tensors += [(f"{prefix}.mlp.experts.{part}", [experts, *shape]) for part, shape in parts]
    tensors += [("model.embed_tokens.weight", [163840, hidden]), ("lm_head.weight", [163840, hidden])]
    shards = min(shards, len(tensors))
    for number in range(shards):
        write_shard(folder / f"model-{number + 1:05d}-of-{shards:05d}.safetensors", tensors[number::shards])
    return len(tensors)


def models(count: int) -> list[Model]:
    """Models of every family there is a configuration of, in several depths."""
    names = sorted(path.stem for path in CONFIGS.glob("*.json"))
    found = []
    for number in range(count):
        config = config_of(names[number % len(names)])
        # A vocabulary of its own makes it another model, so that nothing is known of it from the one before.
        place = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
        place["vocab_size"] = int(place.get("vocab_size", 32000)) + 64 * (number // len(names))
        found.append(read_model(config, f"example/{names[number % len(names)]}-{number}"))
    return found


def kinds_of_gpus(count: int) -> list[Gpu]:
    return [
        Gpu(f"GPU {number}", int((8 + 5.6 * number) * GIB), ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0")[number % 6])
        for number in range(count)
    ]


def speed(repeat: int) -> Iterator[str]:
    yield "| What | seconds | CPU seconds | goal, seconds |"
    yield "|---|---|---|---|"
    options = {"engine_version": NEWEST, "gpus": [H200] * 16}
    for every_expert in (True, False):
        with tempfile.TemporaryDirectory() as name:
            tensors = trillion(Path(name), every_expert)
            found = plan_request({**options, "model_path": name})
            seconds = timed(lambda path=name: plan_request({**options, "model_path": path}), repeat)
        weights = f"{found.memory.weights / GIB:.1f} GiB of weights on each"
        answer = f"fits: {'yes' if found.fits else 'no'}, {weights}"
        yield f"| 1T parameters, 200 files, {tensors} tensors, 16 x H200 ({answer}) | {seconds} | 0.5 |"
    gpus = kinds_of_gpus(50)
    for advise in (False, True):
        fitting = []

        def all_plans(advise: bool = advise, fitting: list[bool] = fitting) -> None:
            for model in models(500):
                fitting.extend(plan(model, [gpu], Wishes(), NEWEST, None, advise).fits for gpu in gpus)

        seconds = timed(all_plans, 1)
        how = "with advice" if advise else "without advice"
        yield f"| 500 models x 50 GPUs, {how}: {len(fitting)} plans, {sum(fitting)} fit | {seconds} | 10 |"


def errors(hf_mem: Path) -> Iterator[str]:
    spec = importlib.util.spec_from_file_location("serving_plan_errors", ROOT / "tools/serving_plan_errors.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    compared = [one for one in tool.compare() if one.kv_cache and one.kv_cache > 0]
    by_hf_mem = peer(hf_mem, tool, compared)
    ours: list[float] = []
    theirs: dict[str, list[float]] = {"hf-mem 0.5.6": [], "accelerate estimate-memory": [], "GPUStack": []}
    tokens: dict[str, list[float]] = {"this planner": [], "hf-mem 0.5.6": []}
    for index, one in enumerate(compared):
        wishes = one.log["wishes"]
        gpus = wishes.get("tensor_parallel_size", 1) * wishes.get("pipeline_parallel_size", 1)
        weights = (one.log["measured"].get("weights_gib") or 0) * gpus
        requested = one.plan.memory.requested / GIB
        ours.append(one.error)
        summed = by_hf_mem[index][0] / GIB if by_hf_mem else weights
        theirs["hf-mem 0.5.6"].append(requested - summed / gpus - one.kv_cache)
        theirs["accelerate estimate-memory"].append(requested - weights * 1.2 / gpus - one.kv_cache)
        theirs["GPUStack"].append(requested - (weights * 1.2 + 2) / gpus - one.kv_cache)
        logged = one.log["measured"].get("kv_cache_tokens")
        if logged:
            tokens["this planner"].append(abs(tokens_of(tool, one) / logged - 1))
            if by_hf_mem and by_hf_mem[index][1]:
                per_token = by_hf_mem[index][1] / wishes["max_model_len"]
                tokens["hf-mem 0.5.6"].append(abs(one.kv_cache * GIB * gpus / per_token / logged - 1))
    yield f"| {len(ours)} logs | mean error of KV, GiB | largest | within 5 % or 0.75 GiB | error of its tokens |"
    yield "|---|---|---|---|---|"
    for name, found in {"this planner": ours, **theirs}.items():
        good = sum(
            1
            for error, one in zip(found, compared)
            if abs(error) <= tool.GOAL_GIB or abs(error) <= tool.GOAL_SHARE * one.kv_cache
        )
        share = tokens.get(name)
        text = f"{statistics.mean(share):.2%} of {len(share)}" if share else "not said"
        sizes = [abs(error) for error in found]
        yield f"| {name} | {statistics.mean(sizes):.2f} | {max(sizes):.2f} | {good} of {len(found)} | {text} |"
    if not by_hf_mem:
        yield f"\nhf-mem is not installed at {hf_mem}: its weights are those of the log, its tokens are left out."


def tokens_of(tool: Any, one: Any) -> int:
    """How many tokens the planner puts into the memory that the log names for the KV cache."""
    log, chosen = one.log, one.plan.settings
    settings = KvSettings(
        max_model_len=chosen["max_model_len"],
        max_num_batched_tokens=chosen["max_num_batched_tokens"],
        kv_cache_dtype=chosen["kv_cache_dtype"],
        tensor_parallel_size=chosen["tensor_parallel_size"],
        pipeline_parallel_size=chosen["pipeline_parallel_size"],
        block_size=chosen.get("block_size"),
        engine_version=log["vllm_version"],
        compute_capability=tool.gpus_of(log)[0].capability,
    )
    return kv_cache(tool.model_of(log).shape, settings, round(one.kv_cache * GIB)).tokens


def peer(python: Path, tool: Any, compared: list[Any]) -> list[list[int | None]]:
    if not python.exists():
        return []
    cases = []
    for one in compared:
        wishes = one.log["wishes"]
        gpus = wishes.get("tensor_parallel_size", 1) * wishes.get("pipeline_parallel_size", 1)
        config = tool.config_of(one.log)
        config = {**config, **config.get("text_config", {})}
        dtype = "F8_E4M3" if wishes.get("kv_cache_dtype") == "fp8" else "BF16"
        weights = round((one.log["measured"].get("weights_gib") or 0) * gpus * GIB)
        cases.append({"config": config, "weights": weights, "dtype": dtype, "max_model_len": wishes["max_model_len"]})
    done = subprocess.run(
        [str(python), "-c", HF_MEM], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    found: list[list[int | None]] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=["speed", "errors"])
    parser.add_argument("--hf-mem", type=Path, default=ROOT / ".cache/peers/hf-mem/bin/python")
    arguments = parser.parse_args()
    if arguments.only != "errors":
        print("\n".join(speed(arguments.repeat)), end="\n\n")
    if arguments.only != "speed":
        print("\n".join(errors(arguments.hf_mem)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
