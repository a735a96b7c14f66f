# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults of `gpu_fleets` once more, on fake hosts: files, command outputs and an NVML that are read for real.

`CHANGES` has what each fault does to the description of a host. `read_all` reads many hosts with the real `gpu_info`
and the real binding, those with the same library in one process.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FAKES = Path(__file__).resolve().parents[1] / "fakes"
sys.path[:0] = [str(FAKES / "hosts"), str(FAKES / "nvml")]

import fake_host  # noqa: E402  (found through the path above)
from fake_host import FakeHost  # noqa: E402

NEWER = "580.200.01"
OLDER = "580.190.00"
OLD = "580.95.05"
# Ten thousand small files are quicker there.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
Change = Callable[[FakeHost], None]


_described = functools.lru_cache(maxsize=None)(FakeHost)


def healthy(kind: str) -> FakeHost:
    """A host of that kind, to be changed. Reading its description from YAML takes longer than everything else."""
    host = copy.copy(_described(kind))
    host.description, host.files, host.commands = copy.deepcopy((host.description, host.files, host.commands))
    return host


def read_all(hosts: Sequence[FakeHost]) -> list[Any]:
    """What the real `read_host` says of each."""
    answers: dict[str, Any] = {}
    # Faults that lie in what is wanted leave their hosts as they are.
    names = [json.dumps((host.description, host.files, host.commands), default=str) for host in hosts]
    with tempfile.TemporaryDirectory(prefix="gpu-hosts-", dir=MEMORY) as scratch:
        batches: dict[str, list[dict[str, Any]]] = {}
        for number, (name, host) in enumerate(dict(zip(names, hosts)).items()):
            place = Path(scratch) / str(number)
            host.write(place / "root")
            (place / "commands.json").write_text(json.dumps(host.all_commands()), encoding="utf-8")
            environment = {"LD_LIBRARY_PATH": "", "FAKE_NVML_DESCRIPTION": ""}
            if host.description["nvml"] is not None:
                environment = host.fake_nvml.environment(host.fake_nvml.write(host.description["nvml"], place / "nvml"))
            binding = "pynvml" if host.description["binding"] else ""
            item = {
                "name": name,
                "arguments": [str(place / "root"), str(place / "commands.json"), binding],
                "description": environment["FAKE_NVML_DESCRIPTION"],
            }
            batches.setdefault(environment["LD_LIBRARY_PATH"], []).append(item)
        for libraries, batch in batches.items():
            done = subprocess.run(
                [sys.executable, __file__],
                input=json.dumps(batch),
                env={**os.environ, "LD_LIBRARY_PATH": libraries},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(done.stderr)
            answers.update({item["name"]: facts for item, facts in zip(batch, json.loads(done.stdout))})
    return [answers[name] for name in names]


# Small words for changes -----------------------------------------------------------------------------------------


def put(*path: Any) -> Change:
    """Set what lies in the description at the path of all arguments but the last; `*` is every element of a list."""
    *keys, last, value = path

    def change(place: Any, keys: Any = tuple(keys)) -> None:
        for position, key in enumerate(keys):
            if key == "*":
                for element in place.values() if isinstance(place, dict) else place:
                    change(element, keys[position + 1 :])
                return
            place = place[key]
        place[last] = copy.deepcopy(value)

    return lambda host: change(host.description)


def both(*changes: Change) -> Change:
    def change(host: FakeHost) -> None:
        for one in changes:
            one(host)

    return change


def gpu(index: Any, *path: Any) -> Change:
    return put("nvml", "gpus", index, *path)


def packages(prefix: str, **values: Any) -> Change:
    def change(host: FakeHost) -> None:
        chosen = [item for item in host.description["packages"] if item["name"].startswith(prefix)]
        assert chosen, prefix
        for item in chosen:
            item.update(values)

    return change


def without(*prefixes: str) -> Change:
    def change(host: FakeHost) -> None:
        kept = [item for item in host.description["packages"] if not item["name"].startswith(prefixes)]
        assert len(kept) < len(host.description["packages"]), prefixes
        host.description["packages"] = kept

    return change


def add_package(name: str, version: str) -> Change:
    return lambda host: host.description["packages"].append({"name": name, "version": version})


def a_service(name: str, **values: Any) -> Change:
    return lambda host: host.description["services"][name].update(values)


def xid(number: int, index: int = 2, times: int = 2) -> Change:
    def change(host: FakeHost) -> None:
        address = host.description["pci"]["gpus"][index]["address"]
        event = {"xid": number, "pci_address": address, "message": "pid='<unknown>', name=<unknown>"}
        host.description["xid_events"].extend([event] * times)

    return change


def nvml_error(error: str) -> Change:
    return put("nvml", "error", {"nvmlInit": error})


def fabric_down(host: FakeHost) -> None:
    """A dead fabric manager, and what follows from it."""
    if "nvidia-fabricmanager" in host.description["services"]:
        host.description["services"]["nvidia-fabricmanager"].update(active="failed", sub="failed", pid=0)
        gpu("*", "fabric", "state", "not_started")(host)
        put("nvml", "p2p", "*", "read", "topology_not_supported")(host)


no_driver = both(
    nvml_error("driver_not_loaded"), put("loaded_module", None), put("pci", "gpus", "*", "driver", ""), fabric_down
)


def driver_of(version: str) -> Change:
    """The whole host at another version; everything that says {driver} follows."""

    def change(host: FakeHost) -> None:
        host.description["driver_version"] = version
        host.description["nvml"]["driver"]["version"] = version

    return change


def upgraded(host: FakeHost) -> None:
    """apt moved the whole driver, and the host was not rebooted."""
    before = host.description["driver_version"]
    driver_of(NEWER)(host)
    put("loaded_module", "version", before)(host)
    put("cdi", "*", "driver_version", before)(host)
    nvml_error("lib_rm_version_mismatch")(host)
    fabric_down(host)


half_upgraded = both(
    packages("libnvidia-compute", version=f"{NEWER}-1ubuntu1"),
    packages("nvidia-utils", version=f"{NEWER}-1ubuntu1"),
    put("nvml", "driver", "version", NEWER),
    nvml_error("lib_rm_version_mismatch"),
)


def kernel_of(index: int, **values: Any) -> Change:
    return lambda host: host.description["kernels"][index].update(values)


def new_kernel(**values: Any) -> Change:
    """Another kernel was installed and boots next."""

    def change(host: FakeHost) -> None:
        newest = copy.deepcopy(host.description["kernels"][-1])
        newest.update(version="6.8.0-145-generic", **values)
        host.description["kernels"].append(newest)
        host.description["next_boot_kernel"] = "6.8.0-145-generic"

    return change


def booted(**values: Any) -> Change:
    """The host runs a new kernel for which nothing was built."""
    return both(new_kernel(module=None, **values), put("running_kernel", "6.8.0-145-generic"), no_driver)


def gone(index: int, from_bus: bool = True) -> Change:
    """A GPU that NVML does not offer, and that may not be on the bus."""

    def change(host: FakeHost) -> None:
        nvml = host.description["nvml"]
        del nvml["gpus"][index]
        nvml["p2p"] = {
            "-".join(str(number - (number > index)) for number in pair): value
            for name, value in nvml["p2p"].items()
            for pair in [[int(part) for part in name.split("-")]]
            if index not in pair
        }
        if from_bus:
            del host.description["pci"]["gpus"][index]

    return change


def lost(index: int) -> Change:
    def change(host: FakeHost) -> None:
        gpu(index, "error", {"handle": "gpu_is_lost"})(host)
        for number, one in enumerate(host.description["nvml"]["gpus"]):
            if number != index and one.get("nvlinks"):
                one["nvlinks"][0]["active"] = False
        xid(79, index, 1)(host)

    return change


proprietary = both(
    put("loaded_module", "flavour", "proprietary"), put("kernels", "*", "module", "flavour", "proprietary")
)


def bad_memory(**rows: Any) -> Change:
    def change(host: FakeHost) -> None:
        one = host.description["nvml"]["gpus"][3]
        one["remapped_rows"].update(rows)
        one["ecc"].update(uncorrected_volatile=1, uncorrected_aggregate=1)
        one["recovery_action"] = "drain_and_reset"
        for number in (48, 63, 94):
            xid(number, 3)(host)

    return change


def pairs_of(index: int, state: str = "topology_not_supported") -> Change:
    def change(host: FakeHost) -> None:
        for name, pair in host.description["nvml"]["p2p"].items():
            if str(index) in name.split("-"):
                pair.update(read=state, write=state)

    return change


def toolkit_of(version: str) -> Change:
    return both(packages("nvidia-container-toolkit", version=version), packages("libnvidia-container", version=version))


def nothing(host: FakeHost) -> None:
    """Healthy as it is: what is wanted of it makes the fault."""


multinode = both(
    put("platform", "architecture", "aarch64"),
    put("platform", "modules", []),
    without("nvidia-fabricmanager", "nvlsm", "libnvsdm"),
    add_package("nvidia-imex", "{driver}-1"),
    lambda host: host.description["services"].pop("nvidia-fabricmanager"),
    put(
        "services",
        "nvidia-imex",
        {"active": "active", "sub": "running", "file": "enabled", "pid": 1400, "version": "{driver}"},
    ),
    put("nvml", "gpus", "*", "name", "NVIDIA GB200"),
    put("nvml", "gpus", "*", "pci", "device", "10de:2941"),
    put("pci", "gpus", "*", "device", "10de:2941"),
    put("pci", "connectx", []),
)
secure_boot = put("platform", "secure_boot", True)
hot = ["hw_slowdown", "hw_thermal_slowdown"]
busy_link = gpu(0, "pcie", "generation", 5)

CHANGES: dict[str, Change] = {
    "something unreadable": lambda host: host.commands.update({"journalctl": (1, "", "No journal files were found.")}),
    "no GPU at all": both(no_driver, put("pci", "gpus", []), put("pci", "nvswitches", [])),
    "no driver": both(
        put("nvml", None),
        put("loaded_module", None),
        put("pci", "gpus", "*", "driver", ""),
        put("kernels", "*", "module", None),
        put("dkms", None),
        put("packages", []),
        put("services", {}),
        put("cdi", []),
    ),
    "nouveau took the GPUs": both(no_driver, put("pci", "gpus", "*", "driver", "nouveau")),
    "nova took one GPU": both(gone(1, from_bus=False), put("pci", "gpus", 1, "driver", "nova_core")),
    "module not loaded": no_driver,
    "booted a kernel without module": both(booted(), put("dkms", None)),
    "next kernel without module": both(new_kernel(module=None), put("dkms", None)),
    "module gone from disk": kernel_of(-1, module=None),
    "next kernel with another module": new_kernel(
        module={"version": OLD, "flavour": "open", "signer": "somebody"}, dkms_version=OLD
    ),
    "kernel update without headers": new_kernel(module=None, headers=False, dkms=""),
    "booted a kernel without headers": booted(headers=False, dkms=""),
    "DKMS build failed": new_kernel(module=None, dkms="added"),
    "DKMS built, not installed": new_kernel(module=None, dkms="built"),
    "another kernel waits": new_kernel(),
    "proprietary module on Blackwell": proprietary,
    "proprietary module on Blackwell, nothing loaded": both(proprietary, no_driver),
    "proprietary module on Grace Hopper": both(proprietary, put("platform", "architecture", "aarch64")),
    "open module on Volta": both(no_driver, put("pci", "gpus", "*", "device", "10de:1db6")),
    "unsigned module under Secure Boot": both(secure_boot, no_driver, put("kernels", "*", "module", "signer", None)),
    "upgraded under the running module": upgraded,
    "upgraded, the pin knows better": upgraded,
    "the fleet was upgraded, one host not rebooted": upgraded,
    "half an upgrade": half_upgraded,
    "library moved without the rest, by hand": both(
        without(
            *("nvidia-headless", "nvidia-dkms", "nvidia-kernel", "nvidia-utils", "nvidia-compute"),
            *("libnvidia-compute", "libnvidia-cfg1", "libnvidia-gpucomp"),
        ),
        put("nvml", "driver", "version", NEWER),
        nvml_error("lib_rm_version_mismatch"),
    ),
    "dpkg stopped half-way": both(half_upgraded, packages("nvidia-dkms", state="unpacked")),
    "a package half configured": packages("libnvidia-compute", state="half-configured"),
    "library gone": put("nvml", None),
    "NVML may not": nvml_error("no_permission"),
    "no nvidia-ml-py": put("binding", False),
    "a hold is missing": both(packages("libnvidia-compute", held=False), put("platform", "automatic_upgrades", False)),
    "the toolkit is not held": both(
        packages("nvidia-container-toolkit", held=False), put("platform", "automatic_upgrades", False)
    ),
    "unattended upgrades of what is not held": packages("nvidia-utils", held=False),
    "an ended branch": driver_of("550.163.01"),
    "a driver with known holes": driver_of(OLD),
    "half-way with DKMS": both(packages("nvidia-dkms", state="half-configured"), new_kernel(module=None, dkms="added")),
    "upgraded without one package": lambda host: both(
        packages("nvidia-utils", version=f"{host.description['driver_version']}-1ubuntu1"), upgraded
    )(host),
    "the library's package half-way": both(packages("libnvidia-compute", state="half-installed"), put("nvml", None)),
    "driver and kernel upgraded": both(new_kernel(), upgraded),
    "upgraded, the fabric manager runs on": lambda host: both(
        upgraded,
        a_service(
            "nvidia-fabricmanager", active="active", sub="running", pid=1302, version=host.description["driver_version"]
        ),
    )(host),
    "nothing of the fabric installed": both(
        without("nvidia-fabricmanager", "libnvidia-nscq"),
        fabric_down,
        lambda host: host.description["services"].pop("nvidia-fabricmanager"),
    ),
    "the fabric manager moved with the libraries": both(
        half_upgraded, packages("nvidia-fabricmanager", version=f"{NEWER}-1"), fabric_down
    ),
    "fabric manager behind, restarting": both(
        packages("nvidia-fabricmanager", version=f"{OLD}-1"),
        fabric_down,
        a_service("nvidia-fabricmanager", active="activating", sub="auto-restart", restarts=7),
    ),
    "IMEX without a module": both(multinode, no_driver, a_service("nvidia-imex", active="failed", sub="failed", pid=0)),
    "IMEX ends without a module": both(multinode, no_driver, a_service("nvidia-imex", restarts=9)),
    "IMEX runs on after an upgrade": lambda host: both(
        multinode, upgraded, a_service("nvidia-imex", version=host.description["driver_version"])
    )(host),
    "a dead NVLink that the fabric sees": both(
        lambda host: host.description["nvml"]["gpus"][1]["nvlinks"][5].update(active=False),
        xid(74, 1),
        gpu(1, "fabric", "health", {"degraded_bandwidth": True}),
    ),
    "fabric manager not installed": both(
        without("nvidia-fabricmanager"),
        fabric_down,
        lambda host: host.description["services"].pop("nvidia-fabricmanager"),
    ),
    "fabric manager behind": both(packages("nvidia-fabricmanager", version=f"{OLD}-1"), fabric_down),
    "the whole fabric set behind": both(
        packages("nvidia-fabricmanager", version=f"{OLD}-1"),
        packages("libnvidia-nscq", version=f"{OLD}-1"),
        fabric_down,
    ),
    "fabric manager dead, fabric fine": a_service("nvidia-fabricmanager", active="failed", sub="failed", pid=0),
    "fabric manager dead, fabric gone": fabric_down,
    "fabric manager restarting": both(
        fabric_down, a_service("nvidia-fabricmanager", active="activating", sub="auto-restart", restarts=7)
    ),
    "fabric manager runs an older version": a_service("nvidia-fabricmanager", version=OLD),
    "NSCQ missing": without("libnvidia-nscq"),
    "NSCQ behind": packages("libnvidia-nscq", version=f"{OLD}-1"),
    "nvlsm missing": both(without("nvlsm"), fabric_down),
    "NVSDM behind": packages("libnvsdm", version=f"{OLD}-1"),
    "ib_umad missing": both(put("platform", "modules", ["mlx5_core"]), fabric_down),
    "a GPU outside the fabric": gpu(4, "fabric", "state", "in_progress"),
    "fabric sick": gpu(4, "fabric", "health", {"degraded_bandwidth": True}),
    "IMEX down": both(multinode, a_service("nvidia-imex", active="inactive", sub="dead", pid=0)),
    "IMEX restarting": both(multinode, a_service("nvidia-imex", restarts=9)),
    "IMEX older": both(multinode, a_service("nvidia-imex", version=OLD)),
    "a lost GPU": lost(5),
    "a GPU gone from the bus": both(gone(5), put("cdi", "*", "devices", [*map(str, range(7)), "all"])),
    "a GPU gone, on the only host": gone(5),
    "a GPU more than pinned": nothing,
    "another model than pinned": nothing,
    "a GPU that the driver does not offer": gone(6, from_bus=False),
    "ECC off on one GPU": both(gpu(2, "ecc", "enabled", False), gpu(2, "ecc", "pending", False)),
    "ECC switched, reset pending": gpu(2, "ecc", "pending", False),
    "ECC switched on, reset pending": gpu(2, "ecc", "enabled", False),
    "uncorrected memory errors": both(gpu(2, "ecc", "uncorrected_volatile", 4), xid(48)),
    "a row waits to be remapped": bad_memory(pending=True, uncorrectable=1),
    "no spare rows": bad_memory(pending=True, failed=True),
    "a page waits to be retired": both(
        gpu(0, "retired_pages", "pending", True), gpu(0, "ecc", "uncorrected_volatile", 1)
    ),
    "recovery needed": both(gpu(2, "recovery_action", "gpu_reset"), xid(119)),
    "mixed VBIOS": gpu(7, "vbios_version", "96.00.30.00.01"),
    "mixed VBIOS, two GPUs": gpu(1, "vbios_version", "95.02.18.80.57"),
    "mixed GSP firmware": gpu(7, "gsp", "version", OLD),
    "MIG on one GPU only": both(gpu(7, "mig", "enabled", True), gpu(7, "mig", "pending", True)),
    "MIG switched, reset pending": gpu(7, "mig", "pending", True),
    "power limit of one GPU": gpu(7, "power", "limit_milliwatts", 500000),
    "persistence off": gpu("*", "persistence", False),
    "exclusive compute mode": gpu(1, "compute_mode", "exclusive_process"),
    "narrow link": gpu(3, "pcie", "width", 8),
    "slow link of a working GPU": both(gpu(3, "clocks", "event_reasons", []), gpu(3, "pcie", "generation", 3)),
    "a dead NVLink": both(
        lambda host: host.description["nvml"]["gpus"][1]["nvlinks"][5].update(active=False), xid(74, 1), pairs_of(1)
    ),
    "a bridge that reaches fewer links": lambda host: host.description["nvml"]["gpus"][2]["nvlinks"][4].update(
        active=False
    ),
    "broken peer-to-peer": pairs_of(3),
    "too hot": both(gpu(0, "clocks", "event_reasons", hot), gpu(0, "temperature", "gpu_celsius", 95), busy_link),
    "power brake": both(
        gpu(0, "clocks", "event_reasons", ["hw_slowdown", "hw_power_brake_slowdown"]), busy_link, xid(54, 0)
    ),
    "Xid 79 in the log": xid(79),
    "Xid 95, and what it stopped": both(xid(45), xid(43), xid(95)),
    "Xid 94": xid(94),
    "an unknown Xid": xid(4711),
    "a program's own fault": both(xid(13), xid(31), xid(43)),
    "a lost GPU, and what it stopped": both(xid(43, 5), xid(45, 5), lost(5)),
    "recovery needed, and what it stopped": both(gpu(2, "recovery_action", "node_reboot"), xid(45)),
    "ECC switched on for a whole host, reset pending": gpu("*", "ecc", "enabled", False),
    "MIG being switched off, reset pending": both(gpu(7, "mig", "enabled", True), gpu(7, "mig", "pending", False)),
    "narrow and slow link of a working GPU": both(
        gpu(3, "clocks", "event_reasons", []), gpu(3, "pcie", "generation", 3), gpu(3, "pcie", "width", 4)
    ),
    "a lost GPU that an engine needs": lost(3),
    "toolkit incomplete, so no CDI": both(without("nvidia-container-toolkit-base"), put("cdi", [])),
    "another driver, with known holes": driver_of(OLD),
    "a driver that does not compile what the others do": driver_of("580.178.04"),
    "CUDA too new": driver_of("570.211.01"),
    "CUDA newer than the driver's": nothing,
    "CUDA too new, with its forward compatibility package": both(
        driver_of("570.211.01"), add_package("cuda-compat-13-0", "580.65.06-1")
    ),
    "a board for which forward compatibility does nothing": both(
        driver_of("570.211.01"), add_package("cuda-compat-13-0", "580.65.06-1")
    ),
    "too old a GPU": nothing,
    "too little memory": nothing,
    "too few GPUs": nothing,
    "toolkit mixed": packages("libnvidia-container1", version="1.19.1-1"),
    "toolkit incomplete": without("nvidia-container-toolkit-base"),
    "old toolkit everywhere": toolkit_of("1.18.0-1"),
    "no toolkit": both(without("nvidia-container", "libnvidia-container"), put("cdi", [])),
    "CDI of an older driver": put("cdi", "*", "driver_version", OLD),
    "CDI without a GPU": put("cdi", "*", "devices", [*map(str, range(7)), "all"]),
    "no CDI": put("cdi", []),
    "ACS redirects": lambda host: host.description["pci"]["acs_control"].update(
        {host.description["pci"]["gpus"][0]["bridge"]: 0x1D}
    ),
    "IOMMU translates": both(
        put("platform", "iommu", "translated"),
        lambda host: host.description["pci"]["acs_control"].update(
            {host.description["pci"]["gpus"][0]["bridge"]: 0x1D}
        ),
    ),
    "another driver": driver_of(OLDER),
    "another driver, an old one": driver_of("550.163.01"),
    "not the pinned driver": nothing,
    "not the locked driver": driver_of(OLDER),
    "two drivers, equally common": driver_of(OLDER),
    "another flavour": proprietary,
    "another release": put("platform", "distribution_version", "22.04"),
    "another kernel": both(
        lambda host: host.description["kernels"][-1].update(version="6.8.0-145-generic"),
        put("running_kernel", "6.8.0-145-generic"),
        put("next_boot_kernel", "6.8.0-145-generic"),
    ),
    "not rebooted into the kernel that others run": put("running_kernel", "6.8.0-136-generic"),
    "another toolkit": toolkit_of("1.19.1-1"),
    "an old toolkit": toolkit_of("1.18.0-1"),
    "another CUDA toolkit": put("cuda_toolkit_version", "12.9.1"),
    "another nvlsm": packages("nvlsm", version="2025.03.1-1"),
    "another VBIOS": gpu("*", "vbios_version", "96.00.30.00.01"),
    "another GSP firmware": gpu("*", "gsp", "version", OLD),
    "ECC off on a whole host": both(gpu("*", "ecc", "enabled", False), gpu("*", "ecc", "pending", False)),
    "another MIG layout": lambda host: host.description["nvml"]["gpus"][0]["mig"]["instances"].pop(),
    "another power limit": gpu("*", "power", "limit_milliwatts", 500000),
}
# What the hosts without the fault are like, where that is not healthy as it is.
OTHERS: dict[str, Change] = {
    "another CUDA toolkit": put("cuda_toolkit_version", "13.0.2"),
    "the fleet was upgraded, one host not rebooted": driver_of(NEWER),
}
# Nothing that a host could be like.
NOT_OF_A_HOST = {"no answer", "facts of the future"}


def main() -> None:
    answers = []
    for item in json.load(sys.stdin):
        os.environ["FAKE_NVML_DESCRIPTION"] = item["description"]
        answers.append(fake_host.read(*item["arguments"]))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
