#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""How fast weights arrive, verified and on the disk, beside what people use today: one run on one machine, as ratios.

Every program starts anew for every row, Ansible's modules as Ansible starts them on a host. Rows of a scenario take
turns, the median of several rounds counts. Before each one, memory is touched and given back: virtual machines hand
free memory to their host, and the first to use it again pays. The load of the machine stands beside each scenario: rows
of a busy machine are worth nothing, run them again.

usage: weights_benchmark.py [--quick] [--rounds 3] [--only SCENARIO,...] [--folder FOLDER]
Scenarios: paced wan unpaced shards copy unchanged resume
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".cache/collections"
MODULE = "ansible_collections.baremetal.llm.plugins.modules.model_weights"
MIB = 1024 * 1024
MODEL = "demo/weights"
REVISION = "1" * 40

sys.path.insert(0, str(COLLECTIONS))


@dataclass(frozen=True)
class Sample:
    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass
class Bench:
    """A folder with files to serve, and what is known of them."""

    folder: Path
    rounds: int
    quick: bool

    @property
    def target(self) -> Path:
        return self.folder / "target"

    def make(self, name: str, count: int, size: int) -> Path:
        """Files of random bytes, with their digests beside them, made once."""
        root = self.folder / f"{name}-{count}x{size // MIB}"
        listing = Path(f"{root}.sha256")
        if not listing.exists():
            root.mkdir(parents=True, exist_ok=True)
            lines = []
            for number in range(count):
                # GGUF: a mark at the beginning is all the structure that is asked for.
                path = root / f"model-{number + 1:05d}.gguf"
                digest = hashlib.sha256()
                with path.open("wb") as stream:
                    left = size
                    while left:
                        block = os.urandom(min(left, 8 * MIB))
                        if left == size:
                            block = b"GGUF" + block[4:]
                        stream.write(block)
                        digest.update(block)
                        left -= len(block)
                lines.append(f"{digest.hexdigest()}  {path.name}\n")
            listing.write_text("".join(lines), encoding="ascii")
        subprocess.run(["cat", *map(str, root.iterdir())], stdout=subprocess.DEVNULL, check=True)
        return root

    def digests(self, root: Path) -> dict[str, str]:
        lines = Path(f"{root}.sha256").read_text(encoding="ascii").splitlines()
        return {line.split()[1]: line.split()[0] for line in lines}

    def lock(self, root: Path) -> dict[str, object]:
        files = [
            {"path": name, "size": (root / name).stat().st_size, "sha256": digest}
            for name, digest in self.digests(root).items()
        ]
        return {"format_version": 1, "model": MODEL, "revision": REVISION, "files": files}

    def ours(self, root: Path, source: dict[str, str], **options: object) -> list[str]:
        arguments = {
            "lock": self.lock(root),
            "sources": [source],
            "root": str(self.target),
            "reserve_bytes": 0,
            **options,
        }
        return self.module(MODULE, arguments)

    def module(self, name: str, arguments: dict[str, object]) -> list[str]:
        """A module as it runs on a host: an interpreter, the arguments, one JSON document."""
        path = self.folder / f"{name.rpartition('.')[2]}-{abs(hash(json.dumps(arguments, sort_keys=True)))}.json"
        path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), encoding="utf-8")
        return [sys.executable, "-m", name, str(path)]

    def prewarm(self) -> None:
        path = self.folder / "prewarm"
        block = bytes(8 * MIB)
        with path.open("wb") as stream:
            for dummy in range(64 if self.quick else 400):
                stream.write(block)
        path.unlink()
        os.sync()

    def run(self, command: list[str] | str) -> Sample:
        """Empty target, touched memory, one command (a text is one for the shell)."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir(parents=True)
        self.prewarm()
        began = time.monotonic()
        process = start(command)
        output, dummy = process.communicate()
        seconds = time.monotonic() - began
        usage = process.usage
        if process.returncode:
            raise SystemExit(f"{command}: exit {process.returncode}\n{output[-2000:]}")
        return Sample(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)

    def compare(self, rows: dict[str, list[str] | str]) -> dict[str, list[Sample]]:
        samples: dict[str, list[Sample]] = {name: [] for name in rows}
        for dummy in range(self.rounds):
            for name, command in rows.items():
                samples[name].append(self.run(command))
        return samples


class Process(subprocess.Popen[str]):
    """Remembers what the process and all its children used."""

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        pid, status, self.usage = os.wait4(self.pid, wait_flags)
        return pid, status


def start(command: list[str] | str) -> Process:
    environment = {
        **os.environ,
        "PYTHONPATH": str(COLLECTIONS),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "no_proxy": "127.0.0.1",
    }
    return Process(
        command,
        shell=isinstance(command, str),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )


@contextlib.contextmanager
def server(root: Path, **options: float) -> Iterator[str]:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    program = Path(__file__).with_name("paced_server.py")
    process = subprocess.Popen(
        [sys.executable, str(program), "--root", str(root), "--model", MODEL, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def peers(bench: Bench, root: Path, url: str, verify: bool = True) -> dict[str, list[str] | str]:
    """What is compared with, each with the checks that it offers."""
    name, digest = next(iter(bench.digests(root).items()))
    tools = Path(sys.executable).parent
    rows: dict[str, list[str] | str] = {
        "get_url with checksum": bench.module(
            "ansible.modules.get_url",
            {"url": url + name, "dest": str(bench.target / name), "checksum": f"sha256:{digest}", "timeout": 60},
        ),
    }
    cache = bench.target / "hub"
    download = f"HF_ENDPOINT={url.rstrip('/')} HF_HUB_CACHE={cache} {tools}/hf download {MODEL}"
    check = f"HF_ENDPOINT={url.rstrip('/')} {tools}/hf cache verify {MODEL} --cache-dir {cache}"
    rows["hf download, unverified"] = download
    if verify:
        rows["hf download, hf cache verify"] = f"{download} && {check}"
    if shutil.which("aria2c"):
        rows["aria2c -x16 with checksum"] = [
            "aria2c", "-q", "-x16", "-s16", "-k1M", "--file-allocation=none", f"--checksum=sha-256={digest}",
            f"--dir={bench.target}", f"--out={name}", url + name,
        ]  # fmt: skip
    return rows


def ratio_table(
    title: str, samples: dict[str, list[Sample]], floor: str, goals: dict[str, tuple[str, float]], size: int
) -> None:
    """`goals` say for a row how its seconds compare with those of ours: at least so many times."""
    ours = statistics.median(sample.seconds for sample in samples["model_weights"])
    base = statistics.median(sample.seconds for sample in samples[floor])
    print(f"\n### {title}\n\n| program | s, median | s, range | MB/s | x floor | x ours | goal | CPU s | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, rows in samples.items():
        seconds = [sample.seconds for sample in rows]
        median = statistics.median(seconds)
        goal = ""
        if name in goals:
            kind, value = goals[name]
            reached = median / base <= value if kind == "<=" else median / ours >= value
            goal = f"{kind} {value} x {'floor' if kind == '<=' else 'ours'}: {'reached' if reached else 'MISSED'}"
        print(
            f"| {name} | {median:.2f} | {min(seconds):.2f}-{max(seconds):.2f} | {size / median / 1e6:.0f} "
            f"| {median / base:.2f} | {median / ours:.2f} | {goal} "
            f"| {statistics.median(sample.cpu_seconds for sample in rows):.1f} "
            f"| {max(sample.peak_mib for sample in rows):.0f} |"
        )
    print(f"\nLoad average at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.", flush=True)


def curl(root: Path, url: str) -> list[str]:
    return ["curl", "-sS", "-o", "/dev/null", url + next(root.iterdir()).name]


def paced(bench: Bench) -> None:
    size = (256 if bench.quick else 2048) * MIB
    root = bench.make("one", 1, size)
    with server(root, total=600e6, round_trip=0.0002) as url:
        rows = {"curl to /dev/null": curl(root, url), "model_weights": bench.ours(root, {"type": "http", "url": url})}
        samples = bench.compare({**rows, **peers(bench, root, url, verify=False)})
    goals = {"model_weights": ("<=", 1.06), "get_url with checksum": (">=", 2.7)}
    ratio_table(f"Link paced at 600 MB/s, one file of {size // MIB} MiB", samples, "curl to /dev/null", goals, size)


def wan(bench: Bench) -> None:
    size = (128 if bench.quick else 512) * MIB
    root = bench.make("one", 1, size)
    with server(root, per_connection=40e6, total=400e6, round_trip=0.02) as url:
        samples = bench.compare(
            {"model_weights": bench.ours(root, {"type": "http", "url": url}), **peers(bench, root, url, verify=False)}
        )
    floor = size / 400e6
    samples = {"size / 400 MB/s (computed)": [Sample(floor, 0.0, 0.0)], **samples}
    goals = {
        "model_weights": ("<=", 1.15),
        "get_url with checksum": (">=", 8.0),
        "hf download, unverified": (">=", 8.0),
    }
    title = f"40 MB/s per connection, 400 MB/s in all, 20 ms, one file of {size // MIB} MiB"
    ratio_table(title, samples, "size / 400 MB/s (computed)", goals, size)


def unpaced(bench: Bench) -> None:
    size = (256 if bench.quick else 2048) * MIB
    root = bench.make("one", 1, size)
    with server(root) as url:
        rows = {"curl to /dev/null": curl(root, url), "model_weights": bench.ours(root, {"type": "http", "url": url})}
        samples = bench.compare({**rows, **peers(bench, root, url)})
    goals = {"get_url with checksum": (">=", 4.5), "hf download, hf cache verify": (">=", 4.0)}
    ratio_table(f"Unpaced loopback, one file of {size // MIB} MiB", samples, "curl to /dev/null", goals, size)


def hash_rate(root: Path, threads: int) -> float:
    """SHA-256 of files in the page cache, bytes per second in sum."""
    from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import hash_file

    files = sorted(root.iterdir())[:threads]
    workers = [threading.Thread(target=hash_file, args=(str(file),)) for file in files]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(file.stat().st_size for file in files) / (time.monotonic() - began)


def shards(bench: Bench) -> None:
    count, each = 8, (64 if bench.quick else 512) * MIB
    root = bench.make("shards", count, each)
    size = count * each
    network = 1000e6
    with server(root, total=network, round_trip=0.0002) as url:
        samples = bench.compare({"model_weights": bench.ours(root, {"type": "http", "url": url})})
    hashing = statistics.median(hash_rate(root, 2) for dummy in range(3))
    best = min(network, hashing)
    floor = f"min(network {network / 1e6:.0f}, SHA-256 in 2 threads {hashing / 1e6:.0f} MB/s)"
    samples = {floor: [Sample(size / best, 0, 0)], **samples}
    goals = {"model_weights": ("<=", round(1 / 0.9, 3))}
    ratio_table(f"{count} shards of {each // MIB} MiB at once, link paced at 1000 MB/s", samples, floor, goals, size)


def copy(bench: Bench) -> None:
    size = (256 if bench.quick else 2048) * MIB
    root = bench.make("one", 1, size)
    name, digest = next(iter(bench.digests(root).items()))
    target = bench.target / name
    samples = bench.compare(
        {
            "cp": f"cp {root / name} {target}",
            "model_weights": bench.ours(root, {"type": "folder", "path": str(root)}),
            "cp && sha256sum": f"cp {root / name} {target} && echo '{digest}  {target}' | sha256sum -c",
            "cp && openssl dgst": f"cp {root / name} {target} && openssl dgst -sha256 {target}",
        }
    )
    ratio_table(f"Local copy, one file of {size // MIB} MiB", samples, "cp", {"cp && sha256sum": (">=", 4.0)}, size)


def unchanged(bench: Bench) -> None:
    """Sparse files that the record vouches for: what a run costs that has nothing to do."""
    from ansible_collections.baremetal.llm.plugins.module_utils import weights_files

    each, count = 3_500_000_000, 40
    folder = bench.target / MODEL / REVISION
    shutil.rmtree(bench.target, ignore_errors=True)
    folder.mkdir(parents=True)
    digest = "0" * 64
    states = {}
    for number in range(count):
        path = folder / f"model-{number:05d}.gguf"
        with path.open("wb") as stream:
            stream.truncate(each)
        path.chmod(0o644)
        states[path.name] = weights_files.state_of(str(path), digest)
    weights_files.write_record(str(folder), MODEL, REVISION, states, 0o644)
    (folder.parent / "current").symlink_to(REVISION)
    for place in (folder, *folder.parents[:3]):
        place.chmod(0o755)
    lock = {
        "format_version": 1,
        "model": MODEL,
        "revision": REVISION,
        "files": [{"path": name, "size": each, "sha256": digest} for name in states],
    }
    command = bench.module(MODULE, {"lock": lock, "sources": [{"type": "hub"}], "root": str(bench.target)})
    inside = (
        "import sys, time, json\n"
        "from ansible_collections.baremetal.llm.plugins.module_utils import weights, weights_plan, lock\n"
        "locked = lock.parse_lock(json.load(open(sys.argv[1]))['ANSIBLE_MODULE_ARGS']['lock'])\n"
        "count = lambda: int(open('/proc/self/io').readline().split()[1])\n"
        f"settings = weights_plan.Settings(root={str(bench.target)!r}, link='current')\n"
        "before, began = count(), time.monotonic()\n"
        "changed = weights.ensure(locked, [], settings).changed\n"
        "print(changed, time.monotonic() - began, count() - before)\n"
    )
    seconds, whole, read = [], [], []
    for dummy in range(max(3, bench.rounds)):
        began = time.monotonic()
        process = start(command)
        output = process.communicate()[0]
        whole.append(time.monotonic() - began)
        assert '"changed": false' in output, output[-500:]
        process = start([sys.executable, "-c", inside, command[-1]])
        changed, took, count_read = process.communicate()[0].split()
        assert changed == "False"
        seconds.append(float(took))
        read.append(int(count_read))
    record = (folder / weights_files.RECORD_NAME).stat().st_size
    median = statistics.median(seconds)
    print(f"\n### No change, {count} files, {count * each / 1e9:.0f} GB (sparse)\n")
    print("| | value | goal |\n| --- | --- | --- |")
    print(f"| seconds in the module's own code | {median:.4f} | <= 0.25: {'reached' if median <= 0.25 else 'MISSED'} |")
    print(f"| seconds with the start of Python and of the module | {statistics.median(whole):.2f} | |")
    reached = "reached" if max(read) < record + 4096 else "MISSED"
    print(f"| bytes read, of which the record | {max(read)}, {record} | no byte of data: {reached} |")
    shutil.rmtree(bench.target)


def resume(bench: Bench) -> None:
    """SIGKILL at half of the file; what comes twice."""
    size = (128 if bench.quick else 1024) * MIB
    root = bench.make("one", 1, size)
    print("\n### Resume after SIGKILL at 50 %\n")
    print("| link | connections | bytes fetched twice | segments of 8 MiB | goal: at most one per connection |")
    print("| --- | --- | --- | --- | --- |")
    for title, options in (
        ("paced at 600 MB/s", {"total": 600e6, "round_trip": 0.0002}),
        (
            "40 MB/s per connection, 400 MB/s in all, 20 ms",
            {"per_connection": 40e6, "total": 400e6, "round_trip": 0.02},
        ),
    ):
        with server(root, **options) as url:
            shutil.rmtree(bench.target, ignore_errors=True)
            bench.target.mkdir(parents=True)
            progress = bench.target / MODEL / ".fetch/progress.json"
            command = bench.ours(root, {"type": "http", "url": url})
            process = start(command)
            time.sleep(0.5 * size / (options["total"]) + 0.4)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it was through before it was killed"
            connections = 1
            with contextlib.suppress(OSError, ValueError):
                connections = max(1, int(json.loads(progress.read_text(encoding="utf-8"))["connections"]))
            part = next((bench.target / MODEL / ".fetch").glob("*/parts*/*.part"))
            written = fetched(part)
            second = start(command)
            result = json.loads(second.communicate()[0])
            assert result["changed"], result
            twice = result["bytes_fetched"] + written - size
            segments = twice / (8 * MIB)
            connections = max(connections, int(result["connections"]))
            reached = "reached" if segments <= connections else "MISSED"
            print(f"| {title} | {connections} | {max(0, twice)} | {max(0.0, segments):.1f} | {reached} |")


def fetched(part: Path) -> int:
    """Bytes of a part that are not zero, in pieces of 64 KiB: random bytes never are."""
    count = 0
    with part.open("rb") as stream:
        while True:
            block = stream.read(65536)
            if not block:
                return count
            count += len(block) if block.strip(b"\0") else 0


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "paced": paced,
    "wan": wan,
    "unpaced": unpaced,
    "shards": shards,
    "copy": copy,
    "unchanged": unchanged,
    "resume": resume,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small files, one round: shows that it works, not how fast"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/benchmarks/weights")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.folder, 1 if options.quick else options.rounds, options.quick)
    print(f"Load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.")
    for name in options.only.split(","):
        SCENARIOS[name](bench)
    shutil.rmtree(bench.target, ignore_errors=True)


if __name__ == "__main__":
    main()
