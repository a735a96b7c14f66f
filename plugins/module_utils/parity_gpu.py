# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of `parity` on the GPUs of one host: each by itself, with its neighbours, and with the engine's needs.

A finding is about one GPU; `parity` gathers the same about several GPUs into one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.cuda_requirements import (
    compiles,
    engine_build,
    is_data_centre,
    minimum_driver,
    runs,
    version_key,
)
from ansible_collections.baremetal.llm.plugins.module_utils.finding import size
from ansible_collections.baremetal.llm.plugins.module_utils.gpu_facts import Gpu
from ansible_collections.baremetal.llm.plugins.module_utils.parity_facts import Host, gpu_label
from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import (
    ERROR,
    NOTE,
    SEVERITIES,
    WARNING,
    Finding,
)
from ansible_collections.baremetal.llm.plugins.module_utils.parity_xid import describe

RESET = "Drain the GPU and reset it (`nvidia-smi --gpu-reset`), or reboot the host"
DRIVER_ROLE = "the role nvidia_driver"
THERMAL = ("sw_thermal_slowdown", "hw_thermal_slowdown")
HARDWARE = ("hw_slowdown", "hw_power_brake_slowdown")
RECOVERY = {
    "gpu_reset": RESET,
    "node_reboot": "Drain the host and reboot it",
    "system_reboot": "Drain the host and power it off and on",
    "drain_p2p": "Stop what uses peer-to-peer transfers on the GPU, then reset it",
    "drain_and_reset": "Stop everything on the GPU, then reset it",
    "recover_imex_domain": "Restart nvidia-imex on all hosts of the IMEX domain",
    "bus_reset": "Reset the PCI bus of the GPU, or reboot the host",
}


def _about(gpu: Gpu, code: str, severity: str, expected: Any, actual: Any, cause: str, action: str) -> Finding:
    return Finding(
        code,
        severity,
        gpu_label(gpu),
        str(expected),
        str(actual),
        cause,
        action,
        gpus=frozenset((gpu["pci_address"],)),
    )


def answering(host: Host) -> Iterator[Finding]:
    """Every GPU on the bus is one that the driver offers."""
    known = {gpu["pci_address"] for gpu in host.gpus}
    for lost in host.facts["lost_gpus"]:
        address = lost["pci_address"]
        known.add(address or "")
        yield Finding(
            "gpu-lost",
            ERROR,
            f"GPU {lost['index']} at {address or 'an unknown address'}",
            "an answer",
            lost["error"],
            "the driver knows the GPU and gets no answer from it: it fell off the bus, or waits for a reset",
            "Drain the host, power it off and on; if it comes back, have the GPU replaced",
            gpus=frozenset((address,)) if address else frozenset(),
        )
    if host.nvml["error"] or not host.nvml["binding_version"]:
        return
    for item in host.facts["pci_gpus"]:
        if item["pci_address"] not in known:
            yield Finding(
                "gpu-not-offered",
                ERROR,
                f"GPU at {item['pci_address']}",
                "offered by the driver",
                f"on the PCI bus, driver {item['driver'] or 'none'}",
                "the driver did not start this GPU: broken, without power, or too old for this branch",
                "Read `journalctl -k` for this address; check power and seating, or take a branch that supports it",
                gpus=frozenset((item["pci_address"],)),
            )


# What all GPUs of a kind in one host have alike.
ALIKE: tuple[tuple[str, str, Callable[[Gpu], Any], str, str], ...] = (
    (
        "vbios-mixed",
        WARNING,
        lambda gpu: gpu["vbios_version"],
        "a board was replaced, or an update of the firmware stopped half-way",
        "Bring all boards to one VBIOS with the vendor's tool",
    ),
    (
        "gsp-firmware-mixed",
        WARNING,
        lambda gpu: gpu["gsp_firmware_version"],
        "the GPUs were started by different drivers",
        "Drain the host and reboot it",
    ),
    (
        "mig-mixed",
        WARNING,
        lambda gpu: gpu["mig"]["enabled"],
        "some GPUs are in MIG mode without an instance that could be used, and others are whole",
        "Set one mode (`nvidia-smi -i <GPU> -mig 0|1`), and reset the GPUs; pin `mig_layout` where a mix is meant",
    ),
    (
        "power-limit-mixed",
        WARNING,
        lambda gpu: gpu["power_limit_watts"],
        "a tensor-parallel engine runs at the speed of its slowest GPU",
        f"Set one limit with `nvidia-smi -pl`, or for good with {DRIVER_ROLE}",
    ),
)


def alike(host: Host) -> Iterator[Finding]:
    """GPUs of one kind in one host are set up alike."""
    # Whoever made instances on some GPUs only meant to.
    empty = any(gpu["mig"]["enabled"] and not gpu["mig"]["instances"] for gpu in host.gpus)
    meant = not empty or "mig_layout" in host.wanted.get("pins", {})
    for code, severity, read, cause, action in ALIKE:
        if code == "mig-mixed" and meant:
            continue
        for gpu, value, usual in host.odd_ones(read):
            yield _about(
                gpu, code, severity, "one value for all" if usual is None else _word(usual), _word(value), cause, action
            )


def _word(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def memory_errors(host: Host) -> Iterator[Finding]:
    protected = {gpu["name"] for gpu in host.gpus if gpu["ecc"]["enabled"]}
    for gpu in host.gpus:
        ecc, rows, pages = gpu["ecc"], gpu["remapped_rows"], gpu["retired_pages"]
        if ecc["enabled"] is not None and ecc["enabled_after_reboot"] not in (None, ecc["enabled"]):
            yield _about(
                gpu,
                "ecc-change-pending",
                ERROR,
                _word(ecc["enabled_after_reboot"]),
                _word(ecc["enabled"]),
                "error correction was switched, which counts from the next reset of the GPU only",
                RESET,
            )
        if ecc["enabled"] is False and gpu["name"] in protected:
            yield _about(
                gpu,
                "ecc-off",
                ERROR,
                "on",
                "off",
                "error correction is off on this GPU and on for others of its kind: flipped bits go unnoticed",
                "Switch it on (`nvidia-smi -i <GPU> -e 1`) and reset the GPU",
            )
        if rows and rows["failed"]:
            yield _about(
                gpu,
                "row-remap-failed",
                ERROR,
                "spare rows left",
                "none",
                "a row of memory is bad and no spare is left to replace it",
                "Take the GPU out of service and have it replaced",
            )
        elif rows and rows["pending"]:
            yield _about(
                gpu,
                "row-remap-pending",
                ERROR,
                "no row waiting",
                f"waiting ({rows['uncorrectable']} replaced for uncorrectable errors so far)",
                "a bad row of memory is replaced at the next reset of the GPU",
                RESET,
            )
        if pages and pages["pending"]:
            yield _about(
                gpu,
                "page-retirement-pending",
                ERROR,
                "no page waiting",
                "waiting",
                "a bad page of memory is taken out of use when the driver is loaded again",
                RESET,
            )
        if ecc["uncorrected_volatile"]:
            yield _about(
                gpu,
                "ecc-uncorrected",
                ERROR,
                "0 errors since the driver was loaded",
                ecc["uncorrected_volatile"],
                "memory errors were found that could not be corrected: whatever ran then may have gone wrong",
                RESET,
            )


def settings(host: Host) -> Iterator[Finding]:
    """What an operator sets on a GPU."""
    mode = str(host.wanted.get("pins", {}).get("compute_mode") or "default")
    for gpu in host.gpus:
        mig = gpu["mig"]
        if mig["enabled"] is not None and mig["enabled_after_reset"] not in (None, mig["enabled"]):
            yield _about(
                gpu,
                "mig-change-pending",
                ERROR,
                _word(mig["enabled_after_reset"]),
                _word(mig["enabled"]),
                "the MIG mode was switched, which counts from the next reset of the GPU only",
                RESET,
            )
        if gpu["persistence"] is False:
            yield _about(
                gpu,
                "persistence-off",
                WARNING,
                "on",
                "off",
                "the driver lets go of an unused GPU: the next program waits for seconds, and settings are lost",
                "Enable and start nvidia-persistenced",
            )
        if gpu["compute_mode"] not in (None, mode):
            yield _about(
                gpu,
                "compute-mode-unexpected",
                ERROR if gpu["compute_mode"] == "prohibited" else WARNING,
                mode,
                gpu["compute_mode"],
                "the compute mode decides how many programs may use the GPU",
                f"Set it (`nvidia-smi -i <GPU> -c`), or pin compute_mode to {gpu['compute_mode']}",
            )


def links(host: Host) -> Iterator[Finding]:
    """PCI Express and NVLink are as wide as they can be."""
    most_active: dict[str, int] = {}
    for gpu in host.gpus:
        active = sum(link["active"] is True for link in gpu["nvlinks"])
        most_active[gpu["name"]] = max(active, most_active.get(gpu["name"], 0))
    switched = host.platform["fabric_generation"] != "none"
    for gpu in host.gpus:
        pcie, reasons = gpu["pcie"], gpu["clocks_event_reasons"]
        if pcie["width"] and pcie["width_possible"] and pcie["width"] < pcie["width_possible"]:
            yield _about(
                gpu,
                "pcie-width-narrow",
                ERROR,
                f"x{pcie['width_possible']}",
                f"x{pcie['width']}",
                "the link has fewer lanes than GPU and slot can do: most often a contact or a riser",
                "Reseat the GPU or its riser; if it stays, replace the riser, then the GPU",
            )
        if (
            pcie["generation"]
            and pcie["generation_possible"]
            and pcie["generation"] < pcie["generation_possible"]
            # An idle GPU slows its link down to save power.
            and reasons is not None
            and "gpu_idle" not in reasons
        ):
            yield _about(
                gpu,
                "pcie-generation-low",
                WARNING,
                pcie["generation_possible"],
                pcie["generation"],
                "the link of a working GPU is slower than GPU and slot can do",
                "Read `journalctl -k` for AER errors of this address; check the firmware's setting for the slot",
            )
        down = [link["link"] for link in gpu["nvlinks"] if link["active"] is False]
        # Without switches, boards may be wired with fewer links: what others of the kind have is then the measure.
        active = sum(link["active"] is True for link in gpu["nvlinks"])
        if down and (switched or active < most_active[gpu["name"]]):
            yield _about(
                gpu,
                "nvlink-down",
                ERROR,
                f"{len(down) + active if switched else most_active[gpu['name']]} active NVLinks",
                f"{active} (down: {', '.join(map(str, down))})",
                "the GPU reaches its neighbours through fewer links than it could",
                "Reset all GPUs of the host together; if it stays, check bridges, seating and switches",
            )


def peers(host: Host) -> Iterator[Finding]:
    """GPUs that reach each other as other pairs of their kind, equally far apart, do."""
    gpus = {gpu["index"]: gpu for gpu in host.gpus if not gpu["mig"]["enabled"]}
    groups: dict[tuple[str, str, str | None], list[Any]] = {}
    for pair in host.facts["p2p"]:
        first, second = gpus.get(pair["first"]), gpus.get(pair["second"])
        if first and second and pair["read"]:
            groups.setdefault((first["name"], second["name"], pair["topology"]), []).append((first, second, pair))
    for pairs in groups.values():
        words = [pair["read"] for dummy, dummy, pair in pairs]
        # Nothing is wrong where no pair can: many boards, and many chipsets, do not.
        if "ok" not in words or words.count("ok") == len(words):
            continue
        for first, second, pair in pairs:
            if pair["read"] == "ok":
                continue
            yield Finding(
                "p2p-broken",
                ERROR,
                f"GPU {first['index']} with GPU {second['index']}",
                "ok",
                pair["read"],
                "these two do not reach each other's memory, and other pairs like them do",
                "Look for a failed NVLink, a bridge with ACS, or a GPU behind another switch; then reset both",
                gpus=frozenset((first["pci_address"], second["pci_address"])),
            )


def fabric(host: Host) -> Iterator[Finding]:
    for gpu in host.gpus:
        member = gpu["fabric"]
        if member is None or member["state"] == "not_supported":
            continue
        if member["state"] != "completed" or member["status"]:
            yield _about(
                gpu,
                "fabric-incomplete",
                ERROR,
                "completed",
                f"{member['state']}, status {member['status']}",
                "the GPU did not join the NVSwitch fabric: CUDA answers 802, system not yet initialised",
                "Read `journalctl -u nvidia-fabricmanager` for this GPU, restart it, else reset all GPUs together",
            )
        elif member["health"]:
            yield _about(
                gpu,
                "fabric-unhealthy",
                ERROR,
                "no problem",
                ", ".join(member["health"]),
                "the GPU joined the fabric, which has a fault that it sees",
                "Reset all GPUs of the host together; if it stays, check switches and cables",
            )


def recovery(host: Host) -> Iterator[Finding]:
    for gpu in host.gpus:
        if gpu["recovery_action"] not in (None, "none"):
            yield _about(
                gpu,
                "gpu-recovery-needed",
                ERROR,
                "none",
                gpu["recovery_action"],
                "the driver says that the GPU must be recovered before it can be relied on",
                RECOVERY.get(str(gpu["recovery_action"]), RESET),
            )


def clocks(host: Host) -> Iterator[Finding]:
    for gpu in host.gpus:
        reasons = gpu["clocks_event_reasons"] or []
        heat, limit = gpu["temperature_celsius"], gpu["temperature_slowdown_celsius"]
        hot = [reason for reason in reasons if reason in THERMAL]
        if hot or (heat and limit and heat >= limit):
            yield _about(
                gpu,
                "thermal-slowdown",
                ERROR if "hw_thermal_slowdown" in hot else WARNING,
                f"below {limit} °C" if limit else "no slowdown",
                f"{heat} °C" if heat else ", ".join(hot),
                "the GPU lowers its clocks because it is too hot",
                "Check fans, air flow and inlet temperature; compare with its neighbours",
            )
        braked = [reason for reason in reasons if reason in HARDWARE]
        if braked:
            yield _about(
                gpu,
                "power-brake",
                ERROR,
                "no slowdown",
                ", ".join(braked),
                "the board or the power supply tells the GPU to slow down",
                "Check power supplies, cables and the rack's power limit",
            )


def xid_events(host: Host) -> Iterator[Finding]:
    """Errors in the kernel log: for each GPU the worst kind, with everything of that kind."""
    by_gpu: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for event in host.facts["xid_events"] or ():
        severity = describe(event["xid"]).severity
        by_gpu.setdefault(event["pci_address"], {}).setdefault(severity, []).append((event["xid"], event["count"]))
    gpus = {gpu["pci_address"]: gpu for gpu in host.gpus}
    for address, kinds in by_gpu.items():
        worst = min(kinds, key=SEVERITIES.index)
        events = sorted(kinds[worst])
        known = describe(events[0][0])
        gpu = gpus.get(address)
        # The log remembers what a reset has mended since; the driver knows how the GPU is now.
        mended = worst == ERROR and gpu is not None and gpu["recovery_action"] == "none"
        yield Finding(
            "xid-application" if worst == NOTE else "xid-hardware",
            WARNING if mended else worst,
            gpu_label(gpu) if gpu else f"GPU at {address}",
            "no Xid since boot",
            ", ".join(f"Xid {number} ({count}x)" for number, count in events),
            f"Xid {events[0][0]}: {known.meaning}{'; the driver wants no recovery now' if mended else ''}",
            f"If the GPU was not reset since: {known.action}" if mended else known.action,
            gpus=frozenset((address,)),
        )


def engine_needs(host: Host) -> Iterator[Finding]:
    """Each engine that the site wants here finds the driver and the GPUs that its build needs."""
    driver = host.driver_version
    for need in host.wanted.get("engines", ()):
        cuda, capability = engine_build(need)
        name = f"{need.get('engine', 'engine')} {need.get('version', '')}".strip()
        if driver:
            yield from _cuda(host, driver, name, cuda)
        for gpu in host.gpus:
            own, memory = gpu["compute_capability"], need.get("memory_bytes") or 0
            if own and version_key(own) < version_key(capability):
                yield _about(
                    gpu,
                    "compute-capability-too-low",
                    ERROR,
                    f"at least {capability}",
                    own,
                    f"{name} has no code for {gpu['name']}",
                    "Use another engine, or an older build of this one, on this host",
                )
            if memory and gpu["memory_total_bytes"] is not None and gpu["memory_total_bytes"] < memory:
                yield _about(
                    gpu,
                    "gpu-memory-too-small",
                    ERROR,
                    f"at least {size(memory)}",
                    size(gpu["memory_total_bytes"]),
                    f"{name} is to use more memory than the GPU has",
                    "Spread the model over more GPUs, choose a smaller one, or another host",
                )
        if host.gpus and need.get("gpus") and len(host.gpus) < int(need["gpus"]):
            yield Finding(
                "gpus-too-few",
                ERROR,
                "gpu_count",
                f"at least {need['gpus']}",
                str(len(host.gpus)),
                f"{name} is to use more GPUs than the host has",
                "Place it on another host, or lower its number of GPUs",
            )


def _cuda(host: Host, driver: str, name: str, cuda: str) -> Iterator[Finding]:
    if runs(driver, cuda):
        if compiles(driver, cuda) is False:
            yield Finding(
                "cuda-newer-than-driver",
                NOTE,
                "driver_version",
                f"the driver of CUDA {cuda}",
                driver,
                f"{name} runs on this driver, which does not compile CUDA {cuda}'s PTX",
                "Nothing as long as it has code for this GPU; on error 222 (unsupported PTX) take a newer driver",
            )
        return
    compatible = any(item["name"].startswith(f"cuda-compat-{cuda.split('.')[0]}-") for item in host.packages)
    # It then depends on whether the engine loads that package, which no driver knows.
    if compatible and host.gpus and all(is_data_centre(gpu["name"]) for gpu in host.gpus):
        return
    yield Finding(
        "cuda-too-new",
        ERROR,
        "driver_version",
        f"at least {minimum_driver(cuda)}",
        driver,
        f"{name} was built for CUDA {cuda}, which this driver does not run",
        f"Move to a newer driver with {DRIVER_ROLE}, or take a build of the engine for an older CUDA",
    )


CHECKS = (
    answering,
    memory_errors,
    recovery,
    alike,
    settings,
    links,
    fabric,
    peers,
    clocks,
    xid_events,
    engine_needs,
)
