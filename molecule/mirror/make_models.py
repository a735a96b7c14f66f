# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make three folders of weights of noise, the same bytes wherever it runs: two revisions of a model, and another one.

usage: make_models.py FOLDER
"""

from __future__ import annotations

import json
import random
import struct
import sys
from pathlib import Path

MIB = 1024 * 1024
# A name with everything in it that means something to nginx, to a shell or in a URL.
ODD_NAME = "odd $uri {a};'\"#%41?+ü.txt"


def safetensors(name: str, count: int, seed: int) -> bytes:
    """One tensor of `count` bytes."""
    header = json.dumps({name: {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(count)


def model(seed: int, sizes: list[int]) -> dict[str, bytes]:
    """The files of a model with one shard for each size."""
    shards = {f"model-{n:05d}-of-{len(sizes):05d}.safetensors": (f"w{n}", size) for n, size in enumerate(sizes, 1)}
    files = {path: safetensors(*shard, seed) for path, shard in shards.items()}
    index = {"metadata": {}, "weight_map": {tensor: path for path, (tensor, _size) in shards.items()}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    files["config.json"] = json.dumps(
        {"architectures": ["NoiseForCausalLM"], "model_type": "noise", "seed": seed}
    ).encode()
    files["original/params.json"] = b"{}"
    files["original/deep/er.txt"] = b"deep"
    files["empty.txt"] = b""
    files[ODD_NAME] = b"odd"
    return files


def main() -> None:
    folder = Path(sys.argv[1])
    models = {"old": model(1, [MIB]), "new": model(2, [24 * MIB, 3 * MIB]), "other": model(3, [MIB])}
    for name, files in models.items():
        for path, content in files.items():
            place = folder / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


if __name__ == "__main__":
    main()
