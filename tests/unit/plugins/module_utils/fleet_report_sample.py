# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fleets for the tests of the report: plain facts, and what a comparison would have said about them."""

from __future__ import annotations

import copy

from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report import Answer, build, endpoint_section

DRIVER = "580.126.09"
OLD_DRIVER = "580.105.08"
GPU_NAME = "NVIDIA H100 80GB HBM3"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&\u202egpj.exe\x1b[31m"


def gpu(index, name=GPU_NAME):
    return {
        "index": index,
        "name": name,
        "pci_address": f"0000:{index:02x}:00.0",
        "pci_device": "10de:2330",
        "pci_subsystem": "10de:16c1",
        "vbios_version": "96.00.99.00.01",
        "ecc": {"enabled": True, "enabled_after_reboot": True},
        "mig": {"enabled": False, "enabled_after_reset": False, "instances": []},
    }


def package(name, version):
    return {"name": name, "version": version, "state": "installed", "held": True, "architecture": "amd64"}


def host_facts(gpus=8, driver=DRIVER, name=GPU_NAME):
    """The part of a host's facts that the report reads."""
    return {
        "format_version": 1,
        "platform": {"kernel": "6.8.0-90-generic", "distribution": "ubuntu", "distribution_version": "24.04"},
        "nvml": {
            "error": "",
            "library_version": driver,
            "driver_version": driver,
            "cuda_version": "13.0",
        },
        "gpus": [gpu(index, name) for index in range(gpus)],
        "lost_gpus": [],
        "pci_gpus": [{"pci_address": f"0000:{index:02x}:00.0"} for index in range(gpus)],
        "loaded_module": {"loaded": True, "version": driver, "flavour": "open", "rivals": []},
        "kernel_modules": [{"kernel": "6.8.0-90-generic", "running": True, "next_boot": True}],
        "packages": [
            package("nvidia-fabricmanager-580", f"{driver}-1"),
            *(
                package(part, "1.18.1-1")
                for part in (
                    "nvidia-container-toolkit",
                    "nvidia-container-toolkit-base",
                    "libnvidia-container-tools",
                    "libnvidia-container1",
                )
            ),
        ],
        "services": [
            {"name": "nvidia-fabricmanager.service", "active_state": "active", "running_version": driver},
        ],
        "cuda_toolkit_version": "",
        "problems": [],
    }


def bare_facts():
    """A host without GPU and without driver."""
    facts = host_facts(0)
    facts["nvml"] = {
        "error": "LIBRARY_NOT_FOUND",
        "library_version": None,
        "driver_version": None,
        "cuda_version": None,
    }
    facts["loaded_module"] = {"loaded": False, "version": None, "flavour": None, "rivals": []}
    facts["packages"] = []
    facts["services"] = []
    return facts


def finding(host, code, severity, subject, expected, actual, cause, action):
    return {
        "code": code,
        "severity": severity,
        "host": host,
        "subject": subject,
        "expected": expected,
        "actual": actual,
        "cause": cause,
        "action": action,
    }


def healthy(count):
    names = [f"gpu-{number}" for number in range(1, count + 1)]
    answers = {name: Answer(host_facts()) for name in names}
    parity = {
        "verdict": "pass",
        "hosts": {name: {"verdict": "pass"} for name in names},
        "baseline": {
            "driver_version": {"value": DRIVER, "by": "pin", "having": count, "of": count},
            "kernel": {"value": "6.8.0-90-generic", "by": "majority", "having": count, "of": count},
            "vbios_version": {"value": "96.00.99.00.01", "by": "majority", "having": count, "of": count},
            "gpu_count (NVIDIA H100 80GB HBM3)": {"value": 8, "by": "majority", "having": count, "of": count},
        },
        "findings": [],
    }
    return answers, parity


def faulty(count):
    """A fleet with an old driver, a mixed VBIOS, a reboot pending, a host without GPU and one that is down."""
    answers, parity = copy.deepcopy(healthy(count))
    names = list(answers)
    late = names[2 :: max(3, count // 16)]
    for name in late:
        answers[name] = Answer(host_facts(driver=OLD_DRIVER))
        parity["hosts"][name]["verdict"] = "fail"
        parity["findings"].append(
            finding(
                name,
                "driver-differs",
                "error",
                "driver_version",
                DRIVER,
                OLD_DRIVER,
                "The driver was left behind when the others were upgraded.",
                "Run playbooks/provision.yml on these hosts.",
            )
        )
    if count > 3:
        mixed, waiting, bare, down = names[1], names[3], names[4], names[5]
        answers[mixed].facts["gpus"][3]["vbios_version"] = "96.00.74.00.01"
        parity["hosts"][mixed]["verdict"] = "warn"
        parity["findings"].append(
            finding(
                mixed,
                "vbios-mixed",
                "warning",
                "GPU 3 at 0000:03:00.0",
                "96.00.99.00.01",
                "96.00.74.00.01",
                "A GPU was replaced and came with another VBIOS.",
                "Flash the vendor's VBIOS of the other GPUs.",
            )
        )
        answers[waiting].facts["loaded_module"]["version"] = OLD_DRIVER
        answers[waiting].facts["problems"].append("dmesg could not be read: Operation not permitted")
        parity["hosts"][waiting]["verdict"] = "fail"
        parity["findings"].append(
            finding(
                waiting,
                "reboot-pending",
                "error",
                "loaded_module",
                DRIVER,
                OLD_DRIVER,
                "The driver's libraries were upgraded, the module that runs is the old one.",
                "Drain the host and reboot it, or run the role with nvidia_driver_reboot_ok.",
            )
        )
        answers[bare] = Answer(bare_facts())
        parity["hosts"][bare]["verdict"] = "pass"
        answers[down] = Answer(problem="Connection timed out during banner exchange")
        del parity["hosts"][down]
    parity["verdict"] = "fail"
    return answers, parity


def endpoint_answers(bad=0, count=3):
    """As `openai_endpoint_info` registers them."""
    return [
        (
            "gateway-1",
            {
                "ok": index >= bad,
                "invocation": {
                    "module_args": {
                        "base_url": f"http://10.0.0.{index}:8000/v1",
                        "model": "qwen3-32b",
                        "api_key": "sk-this-must-never-be-seen",
                    }
                },
                "results": [
                    {"name": "models", "ok": True, "seconds": 0.0123, "message": "1 model"},
                    {
                        "name": "stream",
                        "ok": index >= bad,
                        "seconds": 0.4211,
                        "message": "8 chunks" if index >= bad else "the stream ended without [DONE]: it was cut",
                        "time_to_first_token": 0.0512 if index >= bad else None,
                    },
                ],
            },
        )
        for index in range(count)
    ]


def report(fleet, **more):
    answers, parity = fleet
    options = {"generated_at": "2026-11-20T17:00:00Z", "generated_by": "baremetal.llm 0.1.0", **more}
    return build(answers, parity, **options)


def rich(fleet, **more):
    """With a column of engine versions and the endpoint's section."""
    engines = {"title": "vLLM", "values": {name: "0.33.0" for name in fleet[0]}, "expected": "0.33.0"}
    return report(
        fleet, columns=[engines], sections=[endpoint_section(endpoint_answers(bad=more.pop("bad", 0)))], **more
    )
