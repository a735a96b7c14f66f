# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans for models as a site has them: what the gate and the table of what fits where hand to `serving_plan.plan`.

Shapes are read once for each configuration, since one model is planned for many hosts.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv import KvSettings, kv_bytes_needed
from ansible_collections.baremetal.llm.plugins.module_utils.serving_kv_groups import CacheError
from ansible_collections.baremetal.llm.plugins.module_utils.serving_plan import plan
from ansible_collections.baremetal.llm.plugins.module_utils.serving_shape import ModelConfigError
from ansible_collections.baremetal.llm.plugins.module_utils.serving_site import PlannedModel
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import (
    Calibration,
    Gpu,
    Refusal,
    ServingPlan,
    Wishes,
)
from ansible_collections.baremetal.llm.plugins.module_utils.serving_vllm import Model, read_model


class SitePlanner:
    """Plans models of a site; remembers the shapes of those that it has seen."""

    def __init__(self, calibration: Calibration | None = None, advise: bool = True) -> None:
        self.calibration = calibration or {}
        # Without advice, refusals do not say what would help, which is faster where many plans are made.
        self.advise = advise
        self._models: dict[str, Model | ModelConfigError] = {}

    def plan(self, model: PlannedModel, gpus: Sequence[Gpu], wishes: Wishes, engine_version: str) -> ServingPlan:
        """The plan; what cannot be planned at all is a refusal as well."""
        known = self._model(model)
        if isinstance(known, ModelConfigError):
            return ServingPlan(False, refusals=[Refusal("model_config", problem) for problem in known.problems])
        return plan(
            model=known,
            gpus=gpus,
            wishes=wishes,
            engine_version=engine_version,
            calibration=self.calibration,
            advise=self.advise,
        )

    def cpu_cache_bytes(self, model: PlannedModel, tokens: int, engine_version: str) -> int | None:
        """KV cache that one request of so many tokens needs in the host's memory; nothing if nobody knows."""
        known = self._model(model)
        if isinstance(known, ModelConfigError):
            return None
        settings = KvSettings(max_model_len=tokens, engine_version=engine_version, device="cpu")
        try:
            return kv_bytes_needed(known.shape, settings)
        except CacheError:
            return None

    def _model(self, model: PlannedModel) -> Model | ModelConfigError:
        if model.name not in self._models:
            try:
                self._models[model.name] = read_model(model.config, model.name, model.weights_bytes)
            except ModelConfigError as error:
                self._models[model.name] = error
        return self._models[model.name]
