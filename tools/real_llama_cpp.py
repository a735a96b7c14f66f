#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The real llama-server, from Debian's packages, against the planner.

It lives in a root file system of its own in .cache/llama-cpp (15 seconds to make, 180 MB) and runs by chroot, so that
nothing is installed on this machine. The models are tests/fakes/tiny_gguf.py's: real headers, zeros for weights.

usage: real_llama_cpp.py make                   make the root file system, where it is missing, and the models
       real_llama_cpp.py compare [--table]      start it with every setting below, compare, exit 1 if it differs
       real_llama_cpp.py record FILE            keep what it printed, for the unit tests
       real_llama_cpp.py clean                  remove the root file system and the models
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from testbed import CACHE, ROOT, as_root, say

sys.path[:0] = [str(CACHE / "collections"), str(ROOT / "tests" / "fakes")]

import tiny_gguf  # type: ignore[import-not-found]  # noqa: E402

from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_log import (  # noqa: E402
    PrintedMemory,
    parse_memory,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_memory import (  # noqa: E402
    LlamaCppMemory,
    MemoryOf,
    Placement,
    Runtime,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import (  # noqa: E402
    read_gguf_model,
)

FOLDER = CACHE / "llama-cpp"
SYSTEM = FOLDER / "root"
MODELS = FOLDER / "models"
MIB = 1 << 20
SECONDS_TO_START = 30
# Of what it prints: which lines are kept.
KEPT = re.compile(
    r"buffer size|cells|sched copies|n_ctx_seq +=|layers to GPU|quantized V cache|does not divide|must be <="
)
STARTED, FAILED = "reserve took", "exiting due to"

# Models and llama-server's options. Together: every kind of memory, cache types, contexts that are not round, slots
# with contexts of their own and a shared one, windows in full, steps of other sizes, and no flash attention.
SETTINGS: tuple[tuple[str, str], ...] = (
    ("plain", ""),
    ("plain", "--ctx-size 4096 --parallel 1"),
    ("plain", "--ctx-size 5000 --parallel 3"),
    ("plain", "--ctx-size 5000 --parallel 3 --kv-unified"),
    ("plain", "--ctx-size 300 --parallel 2 --batch-size 128 --ubatch-size 64"),
    ("plain", "--ctx-size 4096 --parallel 1 --cache-type-k q8_0 --cache-type-v q8_0"),
    ("plain", "--ctx-size 4096 --parallel 1 --cache-type-k q8_0 --cache-type-v q4_0"),
    ("plain", "--ctx-size 4096 --parallel 1 --cache-type-k q5_1 --cache-type-v iq4_nl"),
    ("plain", "--ctx-size 4096 --parallel 1 --cache-type-k f32 --cache-type-v bf16"),
    ("plain", "--ctx-size 4096 --parallel 1 --flash-attn off"),
    ("wide", "--ctx-size 8192 --parallel 2"),
    ("wide", "--ctx-size 8192 --parallel 2 --flash-attn off"),
    ("wide", "--ctx-size 32768 --parallel 1 --ubatch-size 2048"),
    ("wide", "--ctx-size 131072 --parallel 1 --cache-type-k q8_0 --cache-type-v q8_0"),
    ("tied", "--ctx-size 4096 --parallel 1"),
    ("quantized", "--ctx-size 4096 --parallel 1"),
    ("quantized", "--ctx-size 4096 --parallel 1 --no-repack"),
    ("windows", "--ctx-size 8192 --parallel 2"),
    ("windows", "--ctx-size 8192 --parallel 2 --kv-unified"),
    ("windows", "--ctx-size 8192 --parallel 2 --swa-full"),
    ("windows", "--ctx-size 8192 --parallel 2 --cache-type-k q8_0 --cache-type-v q8_0"),
    ("windows", "--ctx-size 8192 --parallel 1 --flash-attn off"),
    ("experts", "--ctx-size 4096 --parallel 4"),
    ("experts_and_windows", "--ctx-size 8192 --parallel 4"),
    ("latent", "--ctx-size 4096 --parallel 1"),
    ("latent", "--ctx-size 4096 --parallel 2 --cache-type-k q8_0 --cache-type-v q8_0"),
    ("states", "--ctx-size 4096 --parallel 4"),
    ("hybrid", "--ctx-size 4096 --parallel 4"),
    ("hybrid", "--ctx-size 4096 --parallel 4 --kv-unified --cache-type-k q8_0 --cache-type-v q8_0"),
)


@dataclass(frozen=True)
class Run:
    """One start of llama-server: what it was asked for, and what it printed of it."""

    model: str
    options: str
    printed: tuple[str, ...]
    # What it answered to a question, where it was asked one.
    answer: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"model": self.model, "options": self.options, "printed": list(self.printed)}


def runtime_of(options: str, context: int, build: int) -> Runtime:
    """The settings that llama-server's own options mean; `context` is the model's."""
    words = options.split()
    given = {
        word: words[number + 1] if number + 1 < len(words) and not words[number + 1].startswith("--") else ""
        for number, word in enumerate(words)
        if word.startswith("--")
    }
    parallel = int(given.get("--parallel", "-1"))
    return Runtime(
        ctx_size=int(given.get("--ctx-size", "0")) or context,
        parallel=4 if parallel < 0 else parallel,
        kv_unified="--kv-unified" in given or parallel < 0,
        cache_type_k=given.get("--cache-type-k", "f16"),
        cache_type_v=given.get("--cache-type-v", "f16"),
        flash_attention=given.get("--flash-attn") != "off",
        batch_size=int(given.get("--batch-size", "2048")),
        ubatch_size=int(given.get("--ubatch-size", "512")),
        swa_full="--swa-full" in given,
        build=build,
    )


def make_system() -> None:
    """Make the root file system where it is missing, and the models."""
    if not (SYSTEM / "usr/bin/llama-server").exists():
        say("Making a root file system with Debian's llama.cpp (about 15 seconds)")
        FOLDER.mkdir(parents=True, exist_ok=True)
        unfinished = FOLDER / "root.unfinished"
        subprocess.run(as_root("rm", "-rf", str(unfinished), str(SYSTEM)), check=True)
        made = subprocess.run(
            as_root(
                "mmdebstrap",
                "--variant=minbase",
                "--include=llama.cpp",
                # What is at hand of Debian unstable can be past its date.
                '--aptopt=Acquire::Check-Valid-Until "false"',
                "sid",
                str(unfinished),
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise SystemExit(f"mmdebstrap could not make it: {made.stderr.strip()[-2000:]}")
        subprocess.run(as_root("mv", str(unfinished), str(SYSTEM)), check=True)
    shutil.rmtree(MODELS, ignore_errors=True)
    MODELS.mkdir(parents=True)
    for name, make in tiny_gguf.MODELS.items():
        tiny_gguf.write(make(), MODELS / f"{name}.gguf")
    inside = SYSTEM / "models"
    subprocess.run(as_root("rm", "-rf", str(inside)), check=True)
    # By hard links: a chroot sees nothing outside of it.
    subprocess.run(as_root("cp", "-al", str(MODELS), str(inside)), check=True)


def version() -> tuple[str, int]:
    """What `llama-server --version` says, and the number of the build in it."""
    done = subprocess.run(
        as_root("chroot", str(SYSTEM), "llama-server", "--version"), capture_output=True, text=True, check=True
    )
    line = next(line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version"))
    match = re.search(r"build (\d+)", line)
    return line.partition(": ")[2], int(match[1]) if match else 0


def start(model: str, options: str, ask: bool = False) -> Run:
    """Start it, read what it prints until its memory is there, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = as_root(
        *("chroot", str(SYSTEM), "llama-server", "--model", f"/models/{model}.gguf", "--host", "127.0.0.1"),
        *("--port", str(port), "--log-verbosity", "4", "--log-colors", "off", "--no-ui", "--fit", "off"),
        *options.split(),
    )
    # Into a file: a pipe that nobody reads blocks who writes, and one that is silent blocks who reads.
    with (
        tempfile.TemporaryFile("w+") as printed,
        subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, text=True) as process,
    ):
        try:
            lines = _wait_for(process, printed, FAILED if ask else STARTED, port if ask else 0)
            answer = _ask(port) if ask else None
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
    # Without the time and the level at the line's beginning, and without what takes long.
    kept = tuple(re.sub(r"^[\d.]+ \w ", "", line).strip() for line in lines if KEPT.search(line))
    return Run(model, options, tuple(re.sub(r"reserve took [\d.]+ ms, ", "", line) for line in kept), answer)


def options_of(settings: dict[str, Any]) -> str:
    """A plan's settings as llama-server's options."""
    words = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return " ".join(words)


def _wait_for(process: subprocess.Popen[str], printed: TextIO, word: str, port: int) -> list[str]:
    """What was printed until it said the word, was healthy at the port, or ended."""
    until = time.monotonic() + SECONDS_TO_START
    while True:
        ended = process.poll() is not None
        printed.seek(0)
        text = printed.read()
        if ended or word in text or (port and _is_healthy(port)):
            return text.splitlines()
        if time.monotonic() > until:
            raise TimeoutError(f"llama-server was not ready after {SECONDS_TO_START} s: {text[-1000:]}")
        time.sleep(0.02)


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _ask(port: int) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps({"prompt": "hello", "max_tokens": 4, "ignore_eos": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=SECONDS_TO_START) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


@dataclass(frozen=True)
class Comparison:
    """Printed and planned MiB of one kind of memory on one device."""

    device: str
    kind: str
    printed: float
    planned: float
    low: float
    high: float

    @property
    def agrees(self) -> bool:
        return self.low <= self.printed <= self.high


def compare(planned: LlamaCppMemory, printed: dict[str, PrintedMemory]) -> list[Comparison]:
    """Weights and caches must be what is printed, to its last digit; compute buffers within their interval."""
    names = sorted(name for name in printed if name != "host")
    result = []
    for name, memory in zip(("host", *names), (planned.host, *planned.gpus)):
        said = printed.get(name, PrintedMemory())
        cache_buffers = said.buffers.get("kv_cache", 0) + said.buffers.get("states", 0)
        for kind, value, bytes_planned, buffers in (
            ("weights", said.weights, memory.weights, said.buffers.get("weights", 1)),
            ("kv_cache", said.kv_cache + said.states, memory.kv_cache, cache_buffers),
        ):
            # Each buffer is rounded to two decimals, and each tensor's place to a few bytes.
            slack = 0.0051 * max(1, buffers) + (0.001 if kind == "weights" else 0)
            result.append(
                Comparison(
                    name, kind, value, bytes_planned / MIB, bytes_planned / MIB - slack, bytes_planned / MIB + slack
                )
            )
        result.append(
            Comparison(
                name,
                "compute",
                said.compute + said.output,
                memory.compute / MIB,
                memory.compute_low / MIB - 0.01,
                memory.compute_high / MIB + 0.05,
            )
        )
    return result


def compare_all(settings: Sequence[tuple[str, str]] = SETTINGS) -> list[tuple[Run, list[Comparison]]]:
    """Every setting, started and planned."""
    _line, build = version()
    result = []
    for model, options in settings:
        run = start(model, options)
        planned = MemoryOf(gguf := read_gguf_model(str(MODELS / f"{model}.gguf")))
        memory = planned.by_device(runtime_of(options, gguf.context_length, build), Placement())
        result.append((run, compare(memory, parse_memory("\n".join(run.printed)))))
    return result


def table(results: Sequence[tuple[Run, list[Comparison]]]) -> str:
    """What was printed and what was planned, in Markdown."""
    lines = [
        "| Model, options | Weights | planned | KV cache | planned | Compute | planned (interval) |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for run, comparisons in results:
        for device in dict.fromkeys(comparison.device for comparison in comparisons):
            of = {comparison.kind: comparison for comparison in comparisons if comparison.device == device}
            name = (
                run.model + (f" `{run.options}`" if run.options else "") + ("" if device == "host" else f", {device}")
            )
            cells = [
                f"{value:.2f}" for kind in ("weights", "kv_cache") for value in (of[kind].printed, of[kind].planned)
            ]
            compute = of["compute"]
            cells += [f"{compute.printed:.2f}", f"{compute.planned:.1f} ({compute.low:.1f} to {compute.high:.1f})"]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make")
    commands.add_parser("clean")
    commands.add_parser("compare").add_argument("--table", action="store_true", help="print all of it, in Markdown")
    commands.add_parser("record").add_argument("file", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "clean":
        subprocess.run(as_root("rm", "-rf", str(FOLDER)), check=True)
        return 0
    make_system()
    line, build = version()
    if arguments.command == "make":
        return 0
    if arguments.command == "record":
        runs = [start(model, options).as_dict() for model, options in SETTINGS]
        arguments.file.parent.mkdir(parents=True, exist_ok=True)
        arguments.file.write_text(json.dumps({"version": line, "build": build, "runs": runs}, indent=1) + "\n")
        return 0
    results = compare_all()
    if arguments.table:
        print(table(results))
    wrong = [(run, comparison) for run, all_of_it in results for comparison in all_of_it if not comparison.agrees]
    for run, comparison in wrong:
        print(f"{run.model} {run.options}: {comparison}")
    say(f"llama.cpp {line}: {len(results)} starts, {len(wrong)} figures differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
