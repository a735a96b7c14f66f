#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""What model_weights and its peers do when sources, processes and disks fail: each fault, each program, as run.

Prints a Markdown table. A cell says how the program ended, whether the file that it left under its final name is the
right one, and for interrupted transfers how many bytes the next run fetched. Takes some minutes; root can also fill a
small file system up.

usage: peer_faults.py [--seconds 25] [--only WORD]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/fakes"), str(ROOT / "benchmarks/weights")]

from http_weights_server import WeightsServer  # noqa: E402  (found through the path above)
from weights_benchmark import MODEL, MODULE, REVISION, Process, start  # noqa: E402

SIZE = 24 * 1024 * 1024
NAME = "model.gguf"
DATA = b"GGUF" + random.Random(7).randbytes(SIZE - 4)
DIGEST = hashlib.sha256(DATA).hexdigest()
HUB_PATH = f"{MODEL}/resolve/{REVISION}/{NAME}"


class Site:
    """A server that speaks plain HTTP and the Hub's API, and a folder to fetch into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = folder / "target"
        self.target.mkdir()
        entry = {"type": "file", "path": NAME, "size": SIZE, "oid": "0" * 40}
        entry["lfs"] = {"oid": DIGEST, "size": SIZE, "pointerSize": 134}
        info = {"id": MODEL, "sha": REVISION, "siblings": [{"rfilename": NAME}]}
        self.server = WeightsServer({NAME: DATA, HUB_PATH: DATA})
        for path in ("revision/main", f"revision/{REVISION}"):
            self.server.files[f"api/models/{MODEL}/{path}"] = json.dumps(info).encode()
        tree = f"api/models/{MODEL}/tree/{REVISION}?recursive=true&expand=false"
        self.server.files[tree] = self.server.files[tree.partition("&")[0]] = json.dumps([entry]).encode()
        self.server.etags[HUB_PATH] = self.server.etags[NAME] = f'"{DIGEST}"'
        self.server.headers[HUB_PATH] = {
            "X-Repo-Commit": REVISION,
            "X-Linked-Etag": f'"{DIGEST}"',
            "X-Linked-Size": str(SIZE),
        }

    def answer(self, *answers: Callable[..., None]) -> None:
        for path in (NAME, HUB_PATH):
            self.server.answers[path] = list(answers)

    def wrong(self, data: bytes) -> None:
        for path in (NAME, HUB_PATH):
            self.server.files[path] = data


@dataclass
class Program:
    name: str
    command: Callable[[Site], list[str] | str]
    result: Callable[[Site], Path | None]


def module(site: Site, name: str, arguments: dict[str, object]) -> list[str]:
    path = site.folder / "arguments.json"
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), encoding="utf-8")
    return [sys.executable, "-m", name, str(path)]


def ours(site: Site) -> list[str]:
    files = [{"path": NAME, "size": SIZE, "sha256": DIGEST}]
    lock = {"format_version": 1, "model": MODEL, "revision": REVISION, "files": files}
    source = {"type": "http", "url": site.server.url}
    options = {"reserve_bytes": 0, "timeout_seconds": 5, "patience_seconds": 60}
    return module(site, MODULE, {"lock": lock, "sources": [source], "root": str(site.target), **options})


def get_url(site: Site) -> list[str]:
    options = {"checksum": f"sha256:{DIGEST}", "timeout": 5}
    arguments = {"url": site.server.url + NAME, "dest": str(site.target / NAME), **options}
    return module(site, "ansible.modules.get_url", arguments)


def hf(site: Site) -> str:
    program = Path(sys.executable).parent / "hf"
    endpoint = f"HF_ENDPOINT={site.server.url.rstrip('/')} HF_HUB_DOWNLOAD_TIMEOUT=5"
    return f"{endpoint} exec {program} download {MODEL} --local-dir {site.target}"


def aria2c(site: Site) -> list[str]:
    options = ["-q", "-x4", "-s4", "-k1M", "-c", "--timeout=5", "--max-tries=5", "--retry-wait=1"]
    places = [f"--checksum=sha-256={DIGEST}", f"--dir={site.target}", f"--out={NAME}", site.server.url + NAME]
    return ["aria2c", *options, *places]


PROGRAMS = [
    Program("model_weights", ours, lambda site: site.target / MODEL / REVISION / NAME),
    Program("get_url", get_url, lambda site: site.target / NAME),
    Program("hf download", hf, lambda site: site.target / NAME),
    Program("aria2c", aria2c, lambda site: site.target / NAME),
]


def state(program: Program, site: Site) -> str:
    place = program.result(site)
    if place is None or not place.exists():
        return "no file"
    if place.with_name(place.name + ".aria2").exists():
        return "unfinished file under its name"
    return "right file" if place.read_bytes() == DATA else "**WRONG file**"


def left_over(program: Program, site: Site) -> str:
    """Bytes on the disk beside the file."""
    place = program.result(site)
    total = sum(file.stat().st_blocks * 512 for file in site.target.rglob("*") if file.is_file() and file != place)
    return f", {total / 1e6:.0f} MB left" if total > 1e6 else ""


def once(program: Program, site: Site, seconds: float) -> str:
    process = start(program.command(site))
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"still trying after {seconds:.0f} s"
    return "ends well" if process.returncode == 0 else "fails"


def simple(prepare: Callable[[Site], None]) -> Callable[[Program, Site, float], str]:
    def run(program: Program, site: Site, seconds: float) -> str:
        prepare(site)
        return f"{once(program, site, seconds)}, {state(program, site)}{left_over(program, site)}"

    return run


def damaged(damage: Callable[[Path], None]) -> Callable[[Program, Site, float], str]:
    """A second run over a file that was damaged, its times set back."""

    def run(program: Program, site: Site, seconds: float) -> str:
        assert once(program, site, seconds) == "ends well", program.name
        place = program.result(site)
        assert place is not None
        times = place.stat()
        damage(place)
        os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
        return f"{once(program, site, seconds)}, {state(program, site)}"

    return run


def killed(number: int) -> Callable[[Program, Site, float], str]:
    def run(program: Program, site: Site, seconds: float) -> str:
        site.server.bytes_per_second = 6e6
        process: Process = start(program.command(site))
        deadline = time.monotonic() + 20
        while site.server.sent < SIZE / 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate()
        time.sleep(0.3)
        site.server.bytes_per_second = 0
        site.server.sent = 0
        ended = once(program, site, seconds)
        fetched = min(SIZE, site.server.sent) / SIZE
        return f"next run {ended}, {state(program, site)}, fetches {fetched:.0%} again{left_over(program, site)}"

    return run


def disk_full(program: Program, site: Site, seconds: float) -> str:
    if os.geteuid() != 0:
        return "not run"
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE // 2}", "tmpfs", str(site.target)]
    if subprocess.run(mount, capture_output=True).returncode:
        return "not run"
    try:
        process = start(program.command(site))
        output = process.communicate(timeout=seconds)[0]
        said = "says so" if "space" in output.lower() else "does not say why"
        early = "before the first byte" if site.server.sent < 1e6 else f"after {site.server.sent / 1e6:.0f} MB"
        return f"{'ends well' if not process.returncode else 'fails'} {early}, {said}"
    finally:
        subprocess.run(["umount", "-l", str(site.target)], check=True)


def two_at_once(program: Program, site: Site, seconds: float) -> str:
    site.server.bytes_per_second = 12e6
    runs = [start(program.command(site)) for _number in range(2)]
    codes = []
    for process in runs:
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        codes.append(process.returncode)
    ended = "both end well" if codes == [0, 0] else f"exit {codes[0]} and {codes[1]}"
    return f"{ended}, {state(program, site)}, {site.server.sent / SIZE:.1f} x the bytes"


def flip(site: Site) -> None:
    site.wrong(DATA[: SIZE // 2] + bytes([DATA[SIZE // 2] ^ 1]) + DATA[SIZE // 2 + 1 :])


def flip_on_disk(place: Path) -> None:
    with place.open("r+b") as stream:
        stream.seek(SIZE // 2)
        stream.write(bytes([DATA[SIZE // 2] ^ 1]))


def signed(site: Site) -> None:
    """Every address is good for two requests."""
    count = [0]
    storage = WeightsServer({})

    def issue(handler: object, path: str) -> None:
        count[0] += 1
        name = f"{path}?signature={count[0]}"
        cut = storage.cut_after(SIZE // 3)
        storage.files[name] = DATA
        storage.answers[name] = [cut, storage.status(403)] if count[0] == 1 else [storage.serve]
        site.server.redirect(storage.url + name)(handler, path)

    site.answer(issue)


FAULTS: dict[str, Callable[[Program, Site, float], str]] = {
    "nothing wrong": simple(lambda site: None),
    "flipped byte at the source, same size": simple(flip),
    "file at the source is shorter": simple(lambda site: site.wrong(DATA[:-1000])),
    "HTML error page with 200": simple(
        lambda site: site.answer(site.server.status(200, {"Content-Type": "text/html"}, b"<html>sorry</html>"))
    ),
    "connection ends in mid-body, three times": simple(
        lambda site: site.answer(*[site.server.cut_after(SIZE // 5)] * 3, site.server.serve)
    ),
    "connection is reset in mid-body, three times": simple(
        lambda site: site.answer(*[site.server.cut_after(SIZE // 5, reset=True)] * 3, site.server.serve)
    ),
    "503 three times": simple(lambda site: site.answer(*[site.server.status(503)] * 3, site.server.serve)),
    "429 with Retry-After: 2": simple(
        lambda site: site.answer(site.server.status(429, {"Retry-After": "2"}), site.server.serve)
    ),
    "200 for a range, after a break": simple(
        lambda site: site.answer(site.server.cut_after(SIZE // 3), site.server.without_ranges)
    ),
    "416 after a break": simple(
        lambda site: site.answer(site.server.cut_after(SIZE // 3), site.server.status(416), site.server.serve)
    ),
    "server falls silent": simple(
        lambda site: site.answer(site.server.held(SIZE // 3, threading.Event(), 60.0), site.server.serve)
    ),
    "one connection trickles at 20 kB/s": simple(
        lambda site: site.answer(site.server.paced(20_000, chunk=1000), site.server.serve)
    ),
    "signed address expires in mid-file": simple(signed),
    "redirect loop": simple(
        lambda site: site.answer(lambda handler, path: site.server.redirect("/" + path)(handler, path))
    ),
    "disk half as large as the file": disk_full,
    "file truncated later, mtime kept": damaged(lambda place: os.truncate(place, 1000)),
    "byte flipped later, mtime kept": damaged(flip_on_disk),
    "SIGKILL at 50 %": killed(signal.SIGKILL),
    "SIGTERM at 50 %": killed(signal.SIGTERM),
    "two runs at once": two_at_once,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    programs = [program for program in PROGRAMS if program.name != "aria2c" or shutil.which("aria2c")]
    print("| fault | " + " | ".join(program.name for program in programs) + " |")
    print("| --- |" + " --- |" * len(programs))
    for fault, run in FAULTS.items():
        if options.only not in fault:
            continue
        cells = []
        for program in programs:
            with tempfile.TemporaryDirectory() as folder:
                site = Site(Path(folder))
                try:
                    cells.append(run(program, site, options.seconds))
                finally:
                    site.server.close()
        print(f"| {fault} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
