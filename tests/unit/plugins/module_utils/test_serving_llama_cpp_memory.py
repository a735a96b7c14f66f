# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""The plan's memory against what the real llama-server printed: tools/real_llama_cpp.py kept it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
sys.path[:0] = [str(ROOT / "tests" / "fakes")]

import tiny_gguf  # noqa: E402

from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_log import parse_memory  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_memory import (  # noqa: E402
    MemoryOf,
    Placement,
    Runtime,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import (  # noqa: E402
    ModelError,
    model_of,
    read_gguf_model,
)

MIB = 1 << 20
FIXTURES = ROOT / "tests" / "unit" / "fixtures" / "llama_cpp"


def runs(name):
    kept = json.loads((FIXTURES / f"{name}.json").read_text())
    return [pytest.param(run, kept["build"], id=f"{run['model']} {run['options']}") for run in kept["runs"]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, make in tiny_gguf.MODELS.items():
        tiny_gguf.write(make(), folder / f"{name}.gguf")
    return {name: read_gguf_model(str(folder / f"{name}.gguf")) for name in tiny_gguf.MODELS}


def runtime_of(options, context, build):
    words = options.split()
    value = {word: words[number + 1] for number, word in enumerate(words[:-1])}
    parallel = int(value.get("--parallel", 4))
    return Runtime(
        ctx_size=int(value.get("--ctx-size", context)),
        parallel=parallel,
        # llama-server's default, where nobody says how many slots.
        kv_unified="--kv-unified" in words or "--parallel" not in words,
        cache_type_k=value.get("--cache-type-k", "f16"),
        cache_type_v=value.get("--cache-type-v", "f16"),
        flash_attention=value.get("--flash-attn") != "off",
        batch_size=int(value.get("--batch-size", 2048)),
        ubatch_size=int(value.get("--ubatch-size", 512)),
        swa_full="--swa-full" in words,
        build=build,
    )


def assert_printed(printed, planned):
    """Weights and caches to the last digit printed, of every buffer; compute buffers within their interval."""
    weights, caches = (max(1, printed.buffers.get(kind, 0)) for kind in ("weights", "kv_cache"))
    caches += printed.buffers.get("states", 0)
    assert printed.weights == pytest.approx(planned.weights / MIB, abs=0.0051 * weights + 0.001)
    assert printed.kv_cache + printed.states == pytest.approx(planned.kv_cache / MIB, abs=0.0051 * caches)
    compute = printed.compute + printed.output
    assert planned.compute_low / MIB - 0.01 <= compute <= planned.compute_high / MIB + 0.05


@pytest.mark.parametrize(("run", "build"), runs("debian_build_11669"))
def test_what_debians_llama_server_printed_without_a_gpu(run, build, models):
    model = models[run["model"]]
    printed = parse_memory("\n".join(run["printed"]))
    memory = MemoryOf(model).by_device(runtime_of(run["options"], model.context_length, build), Placement())
    assert set(printed) == {"host"}
    assert printed["host"].kv_cache + printed["host"].states > 0
    assert_printed(printed["host"], memory.host)


@pytest.mark.parametrize(("run", "build"), runs("devices_build_11669"))
def test_what_it_printed_with_one_and_two_devices(run, build, models):
    """Devices beside the processor, reached over ggml's RPC: they are given layers as GPUs are."""
    model = models[run["model"]]
    printed = parse_memory("\n".join(run["printed"]))
    runtime = runtime_of(run["options"], model.context_length, build)
    memory = MemoryOf(model).by_device(runtime, Placement(tuple(run["split"]), run["host_expert_layers"]))
    assert_printed(printed.pop("host"), memory.host)
    for number, planned in enumerate(memory.gpus, start=1):
        if planned.layers:
            assert_printed(printed.pop(f"RPC{number}"), planned)
        else:
            assert planned.total == 0
    assert not printed


def test_the_estimate_of_compute_buffers_is_near_the_middle_of_its_interval():
    """An interval could be right by being wide: most plain models are within a tenth."""
    kept = json.loads((FIXTURES / "debian_build_11669.json").read_text())
    near = []
    for run in kept["runs"]:
        if run["model"] in ("plain", "wide", "tied", "quantized", "windows"):
            model = model_of(*parts(tiny_gguf.MODELS[run["model"]]()))
            runtime = runtime_of(run["options"], model.context_length, kept["build"])
            printed = parse_memory("\n".join(run["printed"]))["host"]
            planned = MemoryOf(model).by_device(runtime, Placement()).host.compute / MIB
            near.append(abs(printed.compute + printed.output - planned) / planned)
    assert len(near) > 15
    assert max(near) < 0.1


def parts(model):
    """Facts and tensors, as the header's reader gives them."""
    from ansible_collections.baremetal.llm.plugins.module_utils.gguf_header import read_gguf_header

    start = tiny_gguf.header(model)
    size = len(start) + (1 << 40)
    # Without the rest of the file: only the header is read.
    header = read_gguf_header(lambda first, end: start[first:end].ljust(end - first, b"\0"), size)
    return header.facts, header.tensors


def of(make):
    return model_of(*parts(make))


def test_windows_of_the_architectures():
    def windows(architecture, layers=6, **keys):
        more = {key: value for key, value in keys.items() if value is not None}
        made = tiny_gguf.transformer(architecture, layers=layers, **more)
        model = of(made)
        return "".join("w" if layer.window else "-" for layer in model.layers), model.window

    key = {"attention__sliding_window": 512}
    assert windows("llama", **key) == ("------", 0)
    assert windows("gemma3", **key) == ("wwwww-", 512)
    assert windows("gemma3") == ("------", 0)
    assert windows("gemma2") == ("w-w-w-", 4096)
    assert windows("gpt-oss", **key) == ("w-w-w-", 512)
    assert windows("cohere2moe", **key) == ("-www-w", 512)
    assert windows("llama4") == ("www-ww", 8192)
    assert windows("llama4", attention__sliding_window=0) == ("------", 0)
    assert windows("exaone4") == ("------", 0)
    assert windows("exaone4", layers=64)[1] == 4096
    assert windows("phi3", **key) == ("------", 0)
    pattern = [True, False, True, True, False, False]
    assert windows("gemma4", attention__sliding_window_pattern=pattern, **key) == ("w-ww--", 512)
    assert windows("gemma3", attention__sliding_window_pattern=3, **key) == ("ww-ww-", 512)
    with pytest.raises(ModelError, match="pattern of windows has 2 layers"):
        windows("gemma4", attention__sliding_window_pattern=[True, False], **key)


def test_layers_that_keep_nothing_of_their_own():
    made = tiny_gguf.transformer("glm4moe", layers=4, nextn_predict_layers=1, context=4096)
    model = of(made)
    assert [layer.keys for layer in model.layers] == [128, 128, 128, 0]
    assert model.layers[3].weights == 0 < model.skipped_weights
    shared = of(tiny_gguf.transformer("gemma4", layers=4, attention__shared_kv_layers=2))
    assert [layer.keys for layer in shared.layers] == [128, 128, 0, 0]
    indexed = of(tiny_gguf.transformer("deepseek32", layers=2, attention__indexer__key_length=32))
    assert [layer.keys for layer in indexed.layers] == [160, 160]
    assert all(layer.keys == layer.values == 0 for layer in of(tiny_gguf.transformer("bert")).layers)


@pytest.mark.parametrize(
    ("architecture", "code"),
    [("minimax-m3", "unknown_architecture"), ("t5", "unknown_architecture"), ("clip", "no_language_model")],
)
def test_what_is_not_described_is_not_planned(architecture, code):
    with pytest.raises(ModelError) as refused:
        of(tiny_gguf.transformer(architecture))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_count": 2**32 - 1}, "block_count is 4294967295"),
        ({"block_count": 0}, "block_count is 0"),
        ({"block_count": "many"}, "block_count is many"),
        ({"block_count": 2}, "beyond the 2 it has"),
        ({"embedding_length": 0}, "embedding_length is 0"),
        ({"attention.head_count": [1, 2]}, "not a number for each of 4 layers"),
        ({"attention.head_count": "x" * 1000}, "not a number for each"),
        ({"attention.key_length": 2**31}, "key_length is 2147483648"),
        ({"nextn_predict_layers": 9}, "nextn_predict_layers is 9"),
        ({"expert_used_count": True}, "expert_used_count is not a number"),
    ],
)
def test_absurd_metadata_is_refused(change, words):
    facts, tensors = parts(tiny_gguf.transformer())
    with pytest.raises(ModelError, match=words):
        model_of({**facts, **change}, tensors)


@pytest.mark.parametrize("missing", ["architecture", "block_count", "embedding_length"])
def test_metadata_without_what_is_needed(missing):
    facts, tensors = parts(tiny_gguf.transformer())
    with pytest.raises(ModelError):
        model_of({key: value for key, value in facts.items() if key != missing}, tensors)
    with pytest.raises(ModelError, match="no tensors"):
        model_of(facts, [])


def split_model(folder, count=3):
    whole = tiny_gguf.MODELS["plain"]()
    size = -(-len(whole.tensors) // count)
    names = [f"model-{number + 1:05}-of-{count:05}.gguf" for number in range(count)]
    for number, name in enumerate(names):
        metadata = {"split.no": number, "split.count": count, "split.tensors.count": len(whole.tensors)}
        metadata.update(whole.metadata if number == 0 else {"general.architecture": "llama"})
        tiny_gguf.write(tiny_gguf.Model(metadata, whole.tensors[number * size : (number + 1) * size]), folder / name)
    return [folder / name for name in names]


def test_a_model_in_several_files(tmp_path):
    files = split_model(tmp_path)
    whole = tmp_path / "whole.gguf"
    tiny_gguf.write(tiny_gguf.MODELS["plain"](), whole)
    assert read_gguf_model(str(files[0])) == read_gguf_model(str(whole))
    files[1].unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.gguf is missing; the model is in 3 files"):
        read_gguf_model(str(files[0]))
    alone = tmp_path / "alone.gguf"
    files[0].rename(alone)
    with pytest.raises(ModelError, match="the model is in 3 files"):
        read_gguf_model(str(alone))


def test_broken_files(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(8))
    with pytest.raises(ModelError, match="version 0 of the format is not known"):
        read_gguf_model(str(path))
    path.write_bytes(b"GGUF\3" + bytes(8))
    with pytest.raises(ModelError, match=r"broken\.gguf: its header goes on beyond the end") as refused:
        read_gguf_model(str(path))
    assert refused.value.code == "broken_file"
    doubled = tmp_path / "model-00001-of-00002.gguf"
    for name in (doubled, tmp_path / "model-00002-of-00002.gguf"):
        made = tiny_gguf.MODELS["plain"]()
        tiny_gguf.write(tiny_gguf.Model({**made.metadata, "split.count": 2}, made.tensors), name)
    with pytest.raises(ModelError, match="the same tensor is in more than one"):
        read_gguf_model(str(doubled))
    absurd = tmp_path / "model-00001-of-99999.gguf"
    absurd.touch()
    with pytest.raises(ModelError, match="one of 99999 files"):
        read_gguf_model(str(absurd))


def test_a_log_of_something_else():
    assert parse_memory("") == {}
    assert parse_memory("model buffer size = many MiB") == {}
    cuda = parse_memory(
        "load_tensors:        CUDA0 model buffer size =  4403.49 MiB\n"
        "load_tensors:   CPU_Mapped model buffer size =   281.81 MiB\n"
        "llama_context:  CUDA_Host  output buffer size =     1.98 MiB\n"
    )
    assert (cuda["CUDA0"].weights, cuda["host"].weights, cuda["host"].output) == (4403.49, 281.81, 1.98)
