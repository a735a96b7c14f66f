# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the GPUs themselves: power limit, compute mode, MIG layout. Which commands are missing, and no others.

The driver forgets all three at a restart, so a unit sets them again at boot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils.finding import Finding
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

SMI = "/usr/bin/nvidia-smi"
QUERY = ("uuid", "power.limit", "power.min_limit", "power.max_limit", "compute_mode", "mig.mode.current")
# As the command takes them, and as it prints them.
COMPUTE_MODES = {
    "default": ("DEFAULT", "default"),
    "exclusive_process": ("EXCLUSIVE_PROCESS", "exclusive_process"),
    "prohibited": ("PROHIBITED", "prohibited"),
}


@dataclass(frozen=True)
class Settings:
    """What the site wants of every GPU of a host; nothing is left as it is."""

    power_limit_watts: int = 0
    compute_mode: str = ""
    # Profiles such as `3g.40gb`, in the order in which they are made; `off` alone switches MIG off.
    mig_profiles: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.power_limit_watts or self.compute_mode or self.mig_profiles)


@dataclass(frozen=True)
class GpuState:
    """A GPU as it is set. `None`: it does not support that."""

    uuid: str
    power_limit: float | None
    power_minimum: float | None
    power_maximum: float | None
    compute_mode: str
    mig: bool | None
    profiles: tuple[str, ...] = ()


def _number(text: str) -> float | None:
    return float(text) if re.match(r"^\d+(\.\d+)?$", text) else None


def parse_gpus(query: str, listing: str) -> list[GpuState]:
    """The outputs of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits` and of `nvidia-smi --list-gpus`."""
    profiles: dict[str, list[str]] = {}
    uuid = ""
    for line in listing.splitlines():
        match = re.search(r"\(UUID: (GPU-[^)]+)\)", line)
        uuid = match.group(1) if match else uuid
        instance = re.match(r"^\s+MIG (\S+)\s+Device", line)
        if instance:
            profiles.setdefault(uuid, []).append(instance.group(1))
    gpus = []
    for line in query.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(QUERY):
            continue
        mig = {"enabled": True, "disabled": False}.get(fields[5].lower())
        limit, low, high = (_number(field) for field in fields[1:4])
        layout = tuple(profiles.get(fields[0], ()))
        gpus.append(GpuState(fields[0], limit, low, high, fields[4].lower(), mig, layout))
    return gpus


def check(settings: Settings, gpus: Sequence[GpuState]) -> list[Finding]:
    """What a GPU cannot be set to."""
    findings = []
    for gpu in gpus:
        watts, low, high = settings.power_limit_watts, gpu.power_minimum, gpu.power_maximum
        if watts and (low is None or high is None):
            findings.append(
                Finding(
                    "gpu-setting-unsupported",
                    "nvidia_driver_power_limit_watts",
                    f"is set, but {gpu.uuid} has no power limit",
                    "set it to 0 for this host",
                )
            )
        elif watts and low is not None and high is not None and not low <= watts <= high:
            findings.append(
                Finding(
                    "gpu-setting-out-of-range",
                    "nvidia_driver_power_limit_watts",
                    f"is {watts}, and {gpu.uuid} takes {low:g} to {high:g}",
                    "choose a value between them",
                )
            )
        if settings.mig_profiles and settings.mig_profiles != ("off",) and gpu.mig is None:
            findings.append(
                Finding(
                    "gpu-setting-unsupported",
                    "nvidia_driver_mig_profiles",
                    f"is set, but {gpu.uuid} has no MIG",
                    "set it to [] for this host",
                )
            )
    return findings


def commands(settings: Settings, gpus: Sequence[GpuState]) -> list[list[str]]:
    """What has to be run, one after the other, so that every GPU is as wanted; nothing if it is."""
    todo: list[list[str]] = []
    for gpu in gpus:
        smi = [SMI, f"--id={gpu.uuid}"]
        if settings.power_limit_watts and gpu.power_limit != settings.power_limit_watts:
            todo.append([*smi, f"--power-limit={settings.power_limit_watts}"])
        if settings.compute_mode:
            word, shown = COMPUTE_MODES[settings.compute_mode]
            if gpu.compute_mode != shown:
                todo.append([*smi, f"--compute-mode={word}"])
        todo.extend(_mig(settings.mig_profiles, gpu, smi))
    return todo


def _mig(wanted: tuple[str, ...], gpu: GpuState, smi: Sequence[str]) -> list[list[str]]:
    if not wanted or gpu.mig is None:
        return []
    mig = [SMI, "mig", "-i", gpu.uuid]
    empty = [[*mig, "-dci"], [*mig, "-dgi"]] if gpu.profiles else []
    if wanted == ("off",):
        return [*empty, [*smi, "--multi-instance-gpu=0"]] if gpu.mig else []
    if gpu.mig and sorted(gpu.profiles) == sorted(wanted):
        return []
    enable = [] if gpu.mig else [[*smi, "--multi-instance-gpu=1"]]
    return [*enable, *empty, [*mig, "-cgi", ",".join(wanted), "-C"]]


def unit(settings: Settings) -> str:
    """The unit that sets everything again at boot; empty if nothing is to be set."""
    lines = []
    if settings.power_limit_watts:
        lines.append(f"{SMI} --power-limit={settings.power_limit_watts}")
    if settings.compute_mode:
        lines.append(f"{SMI} --compute-mode={COMPUTE_MODES[settings.compute_mode][0]}")
    if settings.mig_profiles == ("off",):
        lines.append(f"{SMI} --multi-instance-gpu=0")
    elif settings.mig_profiles:
        lines.append(f"{SMI} --multi-instance-gpu=1")
        # It fails where the instances are there already.
        lines.append(f"-{SMI} mig -cgi {','.join(settings.mig_profiles)} -C")
    if not lines:
        return ""
    started = "".join(f"ExecStart={line}\n" for line in lines)
    return (
        "# Written by the role nvidia_driver of baremetal.llm: the driver forgets these settings at a restart.\n"
        "[Unit]\nDescription=Settings of the GPUs\n"
        "After=nvidia-persistenced.service\nWants=nvidia-persistenced.service\n"
        "ConditionPathExists=/proc/driver/nvidia/version\n\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\n{started}\n[Install]\nWantedBy=multi-user.target\n"
    )


def read_settings(system: System, wanted: Mapping[str, object]) -> tuple[list[list[str]], str, list[Finding]]:
    """The commands and the unit for the *wanted* settings on this host, and what its GPUs cannot do."""
    profiles = wanted.get("mig_profiles")
    settings = Settings(
        power_limit_watts=int(str(wanted.get("power_limit_watts") or 0)),
        compute_mode=str(wanted.get("compute_mode") or ""),
        mig_profiles=tuple(str(each) for each in profiles) if isinstance(profiles, (list, tuple)) else (),
    )
    if not settings.any:
        return [], "", []
    query = system.run([SMI, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"], 60)
    listing = system.run([SMI, "--list-gpus"], 60)
    if not query.ok:
        return [], unit(settings), []
    gpus = parse_gpus(query.stdout, listing.stdout)
    findings = check(settings, gpus)
    return ([] if findings else commands(settings, gpus)), unit(settings), findings
