# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan against the engines that run: what vLLM's CPU build says in its journal, and what was worked out beforehand.

Reads only. On a host without a GPU there is no GPU memory to compare; the size of the KV cache is said all the same.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / ".cache/collections"))

from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv import (  # noqa: E402
    KvSettings,
    kv_bytes_needed,
    kv_bytes_per_token,
    kv_cache,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_model import read_model_shape  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.serving_weights import estimated_bytes  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils.vllm_boot_log import parse  # noqa: E402

UNIT = "vllm@chat.service"


@pytest.fixture(scope="module", params=[0, 1], ids=["engine-1", "engine-2"], name="started")
def _started(request, engines):
    """What one engine said when it started, and the folder of the model that it serves."""
    host = engines[request.param]
    run = host.check_output("systemctl show --value --property=InvocationID %s", UNIT)
    boot = parse(host.check_output("journalctl --quiet --no-pager --output=cat _SYSTEMD_INVOCATION_ID=%s", run))
    return host, boot, json.loads(host.file(f"{boot.model}/config.json").content_string)


def settings_of(boot):
    return KvSettings(
        max_model_len=boot.max_model_len,
        kv_cache_dtype=boot.kv_cache_dtype or "auto",
        engine_version=boot.version,
        device=boot.device,
    )


def test_the_journal_is_understood(started):
    _host, boot, _config = started
    assert boot.failure == ""
    assert boot.device == "cpu"
    assert (boot.tensor_parallel_size, boot.max_num_seqs, boot.enforce_eager) == (1, 8, True)
    # VLLM_CPU_KVCACHE_SPACE of the demo.
    assert boot.kv_cache_ordered == 1 << 30


def test_the_cache_has_as_many_tokens_as_planned(started):
    _host, boot, config = started
    shape, settings = read_model_shape(config), settings_of(boot)
    planned = kv_cache(shape, settings, boot.kv_cache_ordered)
    assert planned.tokens == pytest.approx(boot.kv_cache_tokens, rel=0.001)
    assert planned.max_concurrency == pytest.approx(boot.max_concurrency, rel=0.001)
    assert kv_bytes_per_token(shape, settings) == pytest.approx(boot.kv_bytes_per_token, rel=0.001)


def test_other_contexts_share_the_same_cache(started):
    """Tokens do not depend on the context, requests do: what vLLM said for one is known for the others."""
    _host, boot, config = started
    shape = read_model_shape(config)
    for length in (128, 512, 2048):
        settings = replace(settings_of(boot), max_model_len=length)
        planned = kv_cache(shape, settings, boot.kv_cache_ordered)
        assert planned.max_concurrency == pytest.approx(boot.kv_cache_tokens / length, rel=0.01)
        assert kv_bytes_needed(shape, settings) <= boot.kv_cache_ordered


def test_the_weights_are_those_of_the_files(started):
    host, boot, config = started
    sizes = host.check_output("stat --format=%%s %s/model.safetensors", boot.model)
    # The header of the file is all that is in it besides.
    assert estimated_bytes(read_model_shape(config)) == pytest.approx(int(sizes), rel=0.01)
