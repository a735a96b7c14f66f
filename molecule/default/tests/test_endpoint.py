# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tenant outside the hosts, with the OpenAI SDK."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

QUESTION = [{"role": "user", "content": "What does a datacenter dream of?"}]


def test_models(endpoint):
    assert [model.id for model in endpoint.client().models.list()] == [endpoint.model]


def test_chat(endpoint):
    answer = endpoint.client().chat.completions.create(
        model=endpoint.model, messages=QUESTION, max_tokens=8, extra_body={"ignore_eos": True}
    )
    assert answer.model == endpoint.model
    assert answer.usage.completion_tokens == 8
    assert answer.choices[0].finish_reason == "length"


def test_completion(endpoint):
    answer = endpoint.client().completions.create(
        model=endpoint.model, prompt="Once", max_tokens=8, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 8


@pytest.fixture
def slow_engines(engines):
    """Both engines at about eighteen tokens a second.

    The tiny model would give one every two milliseconds: less than what a machine with few cores needs to let the
    engine, the gateway and the client have their turns, so that when chunks arrive would say nothing about the gateway.
    """
    program = (Path(__file__).parent / "slow_engine.py").read_text(encoding="utf-8")
    try:
        for engine in engines:
            engine.check_output(
                "systemd-run --collect --unit=slow-engine --property=RuntimeMaxSec=120 python3 -c %s", program
            )
        yield
    finally:
        for engine in engines:
            engine.run("systemctl stop slow-engine.service")


def test_streamed_chunks_arrive_one_by_one(endpoint, slow_engines):
    """Held back to the end, all would arrive within the few milliseconds that their transfer takes; held back in
    blocks, most would arrive together with the one before."""
    tokens = 100
    begun = time.monotonic()
    stream = endpoint.client().chat.completions.create(
        model=endpoint.model, messages=QUESTION, max_tokens=tokens, stream=True, extra_body={"ignore_eos": True}
    )
    times = [time.monotonic() - begun for chunk in stream if chunk.choices]
    # A token whose bytes are not whole characters yet brings no chunk, so fewer chunks than tokens are right.
    assert len(times) > tokens / 4
    spread = times[-1] - times[0]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    what_came = f"{len(times)} chunks, the first after {times[0]:.3f} s, the last after {times[-1]:.3f} s"
    assert spread > 1, what_came
    assert statistics.median(gaps) > spread / len(gaps) / 5, what_came
    assert max(gaps) < spread / 2, what_came


def test_both_replicas_serve(endpoint, gateway, engine_addresses):
    fetch = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())"

    def served(address: str) -> float:
        # From the gateway: nobody else reaches an engine.
        metrics = gateway.check_output("python3 -c %s %s", fetch, f"http://{address}:8000/metrics")
        lines = [line for line in metrics.splitlines() if line.startswith("vllm:request_success_total")]
        assert lines
        return sum(float(line.split()[-1]) for line in lines)

    def ask(_number: int) -> None:
        endpoint.client().chat.completions.create(model=endpoint.model, messages=QUESTION, max_tokens=16)

    before = [served(address) for address in engine_addresses]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(12)))
    after = [served(address) for address in engine_addresses]
    assert all(now > then for now, then in zip(after, before)), (before, after)


def test_wrong_key_is_refused_as_the_sdk_expects(endpoint):
    with pytest.raises(openai.AuthenticationError) as refusal:
        endpoint.client(api_key="sk-wrong").models.list()
    assert refusal.value.body["message"]


def test_unknown_model_is_refused_as_the_sdk_expects(endpoint):
    with pytest.raises(openai.NotFoundError) as refusal:
        endpoint.client().chat.completions.create(model="nobody", messages=QUESTION)
    assert refusal.value.code == "model_not_found"


def test_a_prompt_longer_than_the_context_is_a_400_that_says_so(endpoint):
    with pytest.raises(openai.BadRequestError) as refusal:
        endpoint.client().completions.create(model=endpoint.model, prompt="word " * 4000, max_tokens=8)
    assert "1024" in str(refusal.value)
