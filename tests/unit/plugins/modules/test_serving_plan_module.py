# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module serving_plan as Ansible runs it: from folders, lock files and configurations, with good and bad input."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.baremetal.llm.plugins.modules import serving_plan

testing = pytest.importorskip("ansible.module_utils.testing")

GIB = 1 << 30
ROOT = Path(__file__).resolve().parents[4]
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
GPU = {"name": "NVIDIA L4", "memory_bytes": 22 * GIB, "compute_capability": "8.9"}
KEYS = {
    "changed", "fits", "settings", "memory", "kv_bytes_per_token", "kv_cache_tokens", "max_concurrency", "interval",
    "explanation", "refusals",
}  # fmt: skip


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
        arguments = {"engine_version": "0.33.0", "gpus": [GPU], "_ansible_check_mode": check, **arguments}
        with testing.patch_module_args(arguments), pytest.raises(SystemExit):
            serving_plan.main()
        return dict(json.loads(capsys.readouterr().out))

    return run


def codes(result: dict[str, Any]) -> list[str]:
    return [refusal["code"] for refusal in result["refusals"]]


def tensors(config: dict[str, Any]) -> dict[str, list[int]]:
    hidden, width, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    found = {
        "model.embed_tokens.weight": [words, hidden],
        "lm_head.weight": [words, hidden],
        "model.norm.weight": [hidden],
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, shape in (
            ("self_attn.q_proj", [hidden, hidden]), ("self_attn.k_proj", [kv, hidden]),
            ("self_attn.v_proj", [kv, hidden]), ("self_attn.o_proj", [hidden, hidden]),
            ("mlp.gate_proj", [width, hidden]), ("mlp.up_proj", [width, hidden]),
            ("mlp.down_proj", [hidden, width]), ("input_layernorm", [hidden]), ("post_attention_layernorm", [hidden]),
        ):  # fmt: skip
            found[f"{prefix}.{name}.weight"] = shape
    return found


def write_weights(path: Path, shapes: dict[str, list[int]]) -> int:
    """A sparse safetensors file: only its header is ever read. Returns the bytes of its tensors."""
    entries, reached = {}, 0
    for name, shape in shapes.items():
        size = 2
        for number in shape:
            size *= number
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [reached, reached + size]}
        reached += size
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + reached)
    return reached


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    write_weights(tmp_path / "model.safetensors", tensors(CONFIG))
    return tmp_path


@pytest.mark.parametrize("check", [False, True])
def test_a_folder_is_planned_and_nothing_changes(run: Any, folder: Path, check: bool) -> None:
    result = run(check, model_path=str(folder))
    assert set(result) >= KEYS and result["changed"] is False and result["fits"] is True
    weights = (folder / "model.safetensors").stat().st_size
    assert result["memory"]["weights"] == pytest.approx(weights, abs=0.12 * GIB)
    assert result["kv_bytes_per_token"] == 2 * 2 * 64 * 2 * 2
    assert "from the files' headers" in " ".join(result["explanation"])


def test_a_configuration_with_weights_and_one_without_are_planned(run: Any) -> None:
    given, estimated = (run(model_config=CONFIG, **more) for more in ({"weights_bytes": 3 * GIB}, {}))
    assert given["memory"]["weights"] / GIB == pytest.approx(3, abs=0.12)
    assert estimated["memory"]["weights"] / GIB < 0.2


@pytest.mark.parametrize("suffix", ["json", "yml"])
def test_a_lock_file_is_planned(run: Any, tmp_path: Path, suffix: str) -> None:
    lock = {
        "format_version": 1,
        "model": "demo/tiny",
        "revision": "a" * 40,
        "source": {"type": "hub"},
        "config": CONFIG,
        "files": [{"path": "model.safetensors", "size": 2 * GIB, "sha256": "b" * 64}],
    }
    path = tmp_path / f"tiny.{suffix}"
    path.write_text(json.dumps(lock), encoding="utf-8")
    result = run(lock=str(path))
    assert result["fits"] and result["memory"]["weights"] / GIB == pytest.approx(2, abs=0.12)
    assert result["explanation"][0].startswith("demo/tiny on 1 x NVIDIA L4")


def test_gpus_are_taken_as_gpu_info_gives_them(run: Any) -> None:
    """NVML counts more memory than a CUDA process sees: 81559 MiB of an H100 are 79.1 to 79.3 GiB."""
    gpu = {"index": 0, "name": "NVIDIA H100", "compute_capability": "9.0", "memory_total_bytes": 81559 << 20, "ecc": {}}
    result = run(model_config=CONFIG, gpus=[gpu])
    assert 79.0 <= result["memory"]["total"] / GIB <= 79.33


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"gpus": []}, "no_gpus"),
        ({"gpus": [{"name": "a"}]}, "gpu_memory"),
        ({"gpus": [{"name": "a", "memory_bytes": -5}]}, "gpu_memory"),
        ({"gpus": [{"name": "a", "memory_total_bytes": 1024}]}, "gpu_memory"),
        ({"gpus": [GPU, {**GPU, "name": "NVIDIA L40S", "memory_bytes": 44 * GIB}]}, "mixed_gpus"),
        ({"engine_version": "yesterday"}, "unknown_engine_version"),
        ({"model_config": {"model_type": "llama"}}, "model_config"),
        ({"model_config": {**CONFIG, "hidden_size": -1}}, "model_config"),
        ({"model_config": {**CONFIG, "num_hidden_layers": "many"}}, "model_config"),
        ({"weights_bytes": -1}, "weights_bytes"),
        ({"calibration": {"a": {"weights": -1}}}, "calibration"),
        ({"engine": "llama_cpp"}, "gguf"),
    ],
)
def test_bad_input_is_refused_with_a_code(run: Any, arguments: dict[str, Any], code: str) -> None:
    result = run(**{"model_config": CONFIG, **arguments})
    assert result["fits"] is False and code in codes(result), result
    assert all(refusal["message"] for refusal in result["refusals"])


def test_what_is_wrong_with_the_model_and_with_the_gpus_is_said_at_once(run: Any) -> None:
    assert codes(run(model_config={"model_type": "llama"}, gpus=[])) == ["no_gpus", "model_config"]


def overlapping() -> bytes:
    entry = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}
    text = json.dumps({"a": entry, "b": entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10_000) + b"{}",
        struct.pack("<Q", 5) + b"hello",
        struct.pack("<Q", 2) + b"[]",
        overlapping(),
    ],
)
def test_hostile_weights_are_refused_in_little_memory(run: Any, folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    tracemalloc.start()
    result = run(model_path=str(folder))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert codes(result) == ["weights_header"] and str(folder) in result["refusals"][0]["message"]
    # Python's buffer for the longest config.json is 16 MiB of it.
    assert peak < 24 << 20


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_hostile_configuration_is_refused(run: Any, folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert codes(run(model_path=str(folder))) == ["model_config"]


def test_a_folder_without_weights_or_that_is_not_there_is_refused(run: Any, folder: Path) -> None:
    assert codes(run(model_path=str(folder / "nothing"))) == ["model_config"]
    (folder / "model.safetensors").unlink()
    assert codes(run(model_path=str(folder))) == ["model_config"]
    (folder / "model.gguf").write_bytes(b"GGUF")
    assert codes(run(model_path=str(folder))) == ["gguf"]


@pytest.mark.parametrize("content", [b"", b"GGML" + bytes(100), b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60)])
def test_a_hostile_gguf_is_refused(run: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    result = run(engine="llama_cpp", engine_version="b11434", model_path=str(path))
    assert result["fits"] is False and codes(result) == ["broken_file"]
    assert codes(run(engine="llama_cpp", engine_version="b11434", model_path=str(tmp_path / "no.gguf")))


def test_llama_cpp_is_planned_from_its_file(run: Any, tmp_path: Path) -> None:
    import sys

    sys.path.insert(0, str(ROOT))
    from tests.fakes import tiny_gguf

    path = tmp_path / "tiny.gguf"
    tiny_gguf.write(tiny_gguf.transformer(), path)
    result = run(engine="llama_cpp", engine_version="b11434", model_path=str(path))
    assert result["fits"] and result["settings"] and result["memory"]["kv_cache"] > 0


def test_one_model_is_needed_and_no_more(run: Any, folder: Path) -> None:
    assert run()["failed"] is True
    assert run(model_config=CONFIG, model_path=str(folder))["failed"] is True
