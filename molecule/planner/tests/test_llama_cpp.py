# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real llama-server needs what is planned, takes a plan's settings and refuses what a plan refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import real_llama_cpp as real  # noqa: E402

from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp import (  # noqa: E402
    LlamaCppOptions,
    plan_llama_cpp,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_memory import (  # noqa: E402
    MemoryOf,
    Placement,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_llama_cpp_model import read_gguf_model  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import GIB, Wishes  # noqa: E402


def model(name: str):
    return read_gguf_model(str(real.MODELS / f"{name}.gguf"))


@pytest.fixture(scope="session")
def version() -> tuple[str, int]:
    return real.version()


@pytest.mark.parametrize(("name", "options"), real.SETTINGS)
def test_what_it_prints_is_what_is_planned(name: str, options: str, version: tuple[str, int]) -> None:
    run = real.start(name, options)
    gguf = model(name)
    memory = MemoryOf(gguf).by_device(real.runtime_of(options, gguf.context_length, version[1]), Placement())
    compared = real.compare(memory, real.parse_memory("\n".join(run.printed)))
    assert len(compared) == 3, run.printed
    for comparison in compared:
        assert comparison.agrees, (comparison, run.printed)


@pytest.mark.parametrize("name", sorted(real.tiny_gguf.MODELS))
def test_it_takes_the_settings_of_a_plan_and_answers(name: str, version: tuple[str, int]) -> None:
    wishes = Wishes(concurrency=2, max_model_len=2000, kv_cache_dtype="f16")
    plan = plan_llama_cpp(model(name), (), wishes, version[0], 4 * GIB)
    assert plan.fits, plan.refusals
    run = real.start(name, real.options_of(dict(plan.settings)), ask=True)
    assert run.answer is not None
    assert run.answer["usage"]["completion_tokens"] == 4
    printed = real.parse_memory("\n".join(run.printed))["host"]
    assert printed.kv_cache + printed.states == pytest.approx(plan.memory.kv_cache / real.MIB, abs=0.011)
    assert f"n_ctx_seq             = {plan.settings['ctx_size'] // 2}" in "\n".join(run.printed)


@pytest.mark.parametrize(
    ("name", "options", "wishes", "own"),
    [
        ("plain", "--cache-type-v q8_0 --flash-attn off", Wishes(kv_cache_dtype="q8_0"), {"flash_attention": False}),
        ("latent", "--cache-type-k q8_0", Wishes(), {"cache_type_k": "q8_0"}),
        ("narrow", "--cache-type-k q4_0", Wishes(), {"cache_type_k": "q4_0"}),
        ("plain", "--parallel 257", Wishes(concurrency=257), {}),
    ],
)
def test_it_refuses_what_the_plan_refuses(name: str, options: str, wishes: Wishes, own: dict[str, object]) -> None:
    plan = plan_llama_cpp(model(name), (), wishes, "", 4 * GIB, LlamaCppOptions(**own))
    assert plan.refusals and not plan.settings
    run = real.start(name, options)
    assert not any(real.STARTED in line or "compute buffer size" in line for line in run.printed), run.printed
