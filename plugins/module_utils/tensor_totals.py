# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many tensors, parameters and bytes of each data type a file of weights, or a whole model, has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_KEYS = ("count", "parameters", "bytes")


@dataclass(frozen=True)
class DtypeTotals:
    """What there is of one data type. A parameter is an element as it is stored: packed weights count as packed."""

    count: int
    parameters: int
    bytes: int

    def __add__(self, other: DtypeTotals) -> DtypeTotals:
        return DtypeTotals(self.count + other.count, self.parameters + other.parameters, self.bytes + other.bytes)

    def as_dict(self) -> dict[str, int]:
        return {key: getattr(self, key) for key in _KEYS}


_NOTHING = DtypeTotals(0, 0, 0)


@dataclass(frozen=True)
class TensorTotals:
    """The totals by data type, sorted by its name."""

    dtypes: tuple[tuple[str, DtypeTotals], ...] = ()

    @property
    def all(self) -> DtypeTotals:
        return sum((totals for _name, totals in self.dtypes), _NOTHING)

    def as_dict(self) -> dict[str, Any]:
        return {**self.all.as_dict(), "dtypes": {name: totals.as_dict() for name, totals in self.dtypes}}


def add_up(parts: Iterable[tuple[str, DtypeTotals]]) -> TensorTotals:
    """The totals of tensors, or of totals, each with the name of its data type."""
    sums: dict[str, DtypeTotals] = {}
    for name, totals in parts:
        sums[name] = sums.get(name, _NOTHING) + totals
    return TensorTotals(tuple(sorted(sums.items())))


def parse_totals(data: object) -> TensorTotals:
    """The reverse of `as_dict`. Raises ValueError when the sums are not those of their parts."""
    if not isinstance(data, Mapping) or set(data) != {*_KEYS, "dtypes"} or not isinstance(data["dtypes"], Mapping):
        raise ValueError(f"tensors must have exactly the keys {', '.join((*_KEYS, 'dtypes'))}")
    parts = []
    for name, entry in data["dtypes"].items():
        if not isinstance(name, str) or not isinstance(entry, Mapping) or set(entry) != set(_KEYS):
            raise ValueError(f"tensors.dtypes must map names to {', '.join(_KEYS)}")
        parts.append((name, DtypeTotals(*(_whole(entry[key], key) for key in _KEYS))))
    totals = TensorTotals(tuple(sorted(parts)))
    if {key: _whole(data[key], key) for key in _KEYS} != totals.all.as_dict():
        raise ValueError("tensors: the totals are not the sums over its dtypes")
    return totals


def _whole(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"tensors: {key} must be a whole number, 0 or more, not {value!r}")
    return value
