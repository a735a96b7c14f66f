# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which CUDA an engine was built for, which driver a CUDA needs, and from which version on drivers are safe.

Tables, not feeds: they are as old as this release of the collection. Sources: NVIDIA's CUDA release notes (driver of
each toolkit, oldest driver of each major version), its security bulletins of September 2026, and the engines' own
release builds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The driver that came with each CUDA. It compiles that CUDA's PTX; an older one runs finished code only.
TOOLKIT_DRIVERS: Mapping[str, str] = {
    "11.8": "520.61.05",
    "12.0": "525.60.13",
    "12.1": "530.30.02",
    "12.2": "535.54.03",
    "12.3": "545.23.06",
    "12.4": "550.54.14",
    "12.5": "555.42.02",
    "12.6": "560.28.03",
    "12.8": "570.26",
    "12.9": "575.51.03",
    "13.0": "580.65.06",
    "13.1": "590.44.01",
    "13.2": "595.45.04",
    "13.3": "610.43.02",
}

# The oldest driver for anything built with a CUDA of that major version ("minor version compatibility").
MAJOR_DRIVERS: Mapping[int, str] = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}

# The oldest GPUs that a CUDA of that major version generates code for.
MAJOR_CAPABILITIES: Mapping[int, str] = {11: "3.5", 12: "5.0", 13: "7.5"}

# By branch the oldest version without a published vulnerability. Which branches get fixes: driver_set_data.BRANCHES.
SECURE_DRIVERS: Mapping[str, str] = {
    "580": "580.178.04",
    "595": "595.91.07",
    "610": "610.57.04",
    "615": "615.71.09",
}
SECURE_CONTAINER_TOOLKIT = "1.19.1"

# Words in the names of GPUs that cannot use CUDA's forward compatibility package.
_NOT_DATA_CENTRE = re.compile(r"\b(GeForce|TITAN|Quadro|RTX)\b", re.IGNORECASE)
_CUDA = re.compile(r"\d+\.\d+\Z")
_VARIANT = re.compile(r"\+cu(\d+)(\d)\Z")


@dataclass(frozen=True)
class EngineBuilds:
    """What an engine's released builds were made for: versions from `first` to `last`, both included."""

    engine: str
    first: str
    last: str
    cuda: str
    compute_capability: str
    # Other builds of the same versions, by the local label of their version.
    variants: tuple[str, ...] = ()


ENGINE_BUILDS: tuple[EngineBuilds, ...] = (
    EngineBuilds("vllm", "0.20.0", "0.33.0", cuda="13.0", compute_capability="7.5", variants=("12.9",)),
)


class UnknownBuild(ValueError):
    """An engine's version whose CUDA nobody wrote down."""


def version_key(version: str) -> tuple[int, ...]:
    """Something to order versions of drivers, CUDA and packages by: the numbers at the start."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[-+~]", version, maxsplit=1)[0]))


def branch(driver: str) -> str:
    """The branch of a driver's version: 580 of 580.95.05."""
    return driver.split(".", 1)[0]


def minimum_driver(cuda: str) -> str:
    """The oldest driver that runs what was built with *cuda* for a GPU that the build has code for.

    Raises UnknownBuild for a major version that is not in the table.
    """
    try:
        return MAJOR_DRIVERS[version_key(cuda)[0]]
    except (IndexError, KeyError):
        known = ", ".join(map(str, MAJOR_DRIVERS))
        raise UnknownBuild(f"no driver is known for CUDA {cuda!r}; known are the major versions {known}") from None


def runs(driver: str, cuda: str) -> bool:
    """Whether *driver* runs what was built with *cuda*."""
    return version_key(driver) >= version_key(minimum_driver(cuda))


def compiles(driver: str, cuda: str) -> bool | None:
    """Whether *driver* also compiles *cuda*'s PTX; `None` for a CUDA that is not in the table."""
    toolkit = TOOLKIT_DRIVERS.get(".".join(cuda.split(".")[:2]))
    return None if toolkit is None else version_key(driver) >= version_key(toolkit)


def is_data_centre(gpu_name: str) -> bool:
    """Whether CUDA's forward compatibility package works on the GPU."""
    return not _NOT_DATA_CENTRE.search(gpu_name)


def engine_build(need: Mapping[str, Any]) -> tuple[str, str]:
    """CUDA and compute capability that an engine needs; what *need* itself says goes first.

    Raises UnknownBuild, naming what is known, if neither *need* nor the table has them.
    """
    engine, version = str(need.get("engine", "")), str(need.get("version", ""))
    cuda, capability = str(need.get("cuda") or ""), str(need.get("compute_capability") or "")
    if cuda and not _CUDA.match(cuda):
        raise UnknownBuild(f"CUDA {cuda!r} of {engine} is no version; write it like '13.0'")
    if cuda:
        minimum_driver(cuda)
        return cuda, capability or MAJOR_CAPABILITIES[version_key(cuda)[0]]
    builds = [item for item in ENGINE_BUILDS if item.engine == engine]
    if not builds:
        known = ", ".join(sorted({item.engine for item in ENGINE_BUILDS}))
        raise UnknownBuild(f"no build of {engine!r} is known, only of {known}; say its `cuda` beside the engine")
    for build in builds:
        if re.match(r"\d", version) and version_key(build.first) <= version_key(version) <= version_key(build.last):
            variant = _VARIANT.search(version)
            wanted = ".".join(variant.groups()) if variant else build.cuda
            if wanted in (build.cuda, *build.variants):
                return wanted, capability or build.compute_capability
    known = "; ".join(_known(builds))
    raise UnknownBuild(
        f"{engine} {version!r}: its CUDA is not known, only of {known}; say its `cuda` beside the engine"
    )


def _known(builds: Sequence[EngineBuilds]) -> Iterator[str]:
    for build in builds:
        others = "".join(f", +cu{variant.replace('.', '')} for {variant}" for variant in build.variants)
        yield f"{build.first} to {build.last} (CUDA {build.cuda}{others})"
