# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Models that the tests of the planner's arithmetic share."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.serving_model import ModelShape, read_model_shape

FIXTURES = Path(__file__).resolve().parents[3] / "unit" / "fixtures"
MODELS = sorted(path.stem for path in (FIXTURES / "serving").glob("*.json"))
GIB = 1 << 30


def config_of(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / "serving" / f"{name}.json").read_text())


@cache
def shape_of(name: str, quantization: str | None = None) -> ModelShape:
    return read_model_shape(config_of(name), quantization)


def boot_logs() -> list[dict[str, Any]]:
    return json.loads((FIXTURES / "vllm-boot-logs.json").read_text())
