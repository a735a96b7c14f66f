# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says that decides about its NVIDIA driver: hardware, kernels, packages and what apt offers. Reads only.

`apt-cache` is asked rather than python-apt, which a host may lack and whose version follows the host's Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils import driver_set_data as data
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set import check_wish, fabric_of, resolve
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_gpu import read_settings
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import (
    AptPin,
    DriverSet,
    Host,
    Installed,
    Offer,
    Relation,
    Wanted,
    is_family,
    same_repository,
    version_key,
)
from ansible_collections.baremetal.llm.plugins.module_utils.finding import Finding, sentence
from ansible_collections.baremetal.llm.plugins.module_utils.host_readiness import parse_os_release
from ansible_collections.baremetal.llm.plugins.module_utils.pci import (
    DEVICES,
    NVIDIA,
    read_pci_gpus,
    read_secure_boot,
)
from ansible_collections.baremetal.llm.plugins.module_utils.system import System

PREFERENCES = "/etc/apt/preferences.d/baremetal-llm-nvidia-driver"
MODPROBE = "/etc/modprobe.d/baremetal-llm-nvidia-driver.conf"
SOURCES = "/etc/apt/sources.list.d/baremetal-llm-nvidia-driver.sources"
PERSISTENCED = "/lib/systemd/system/nvidia-persistenced.service"
SERVICES = ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-imex")
RIVALS = ("nouveau", "nova_core", "nova_drm", "nova")
# Where DKMS of Ubuntu and of Debian keep the key that they sign with.
SIGNING_KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub")
APT_SECONDS = 120


# --- apt


def parse_relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """A relation field of a control file: `a (= 1) | b, c:any (>= 2) [amd64]`."""
    groups = []
    for group in text.split(","):
        alternatives = []
        for item in group.split("|"):
            match = re.match(
                r"^\s*([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9]+)?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*([^)\s]+)\s*\))?", item
            )
            if match:
                alternatives.append(Relation(match.group(1), match.group(2) or "", match.group(3) or ""))
        if alternatives:
            groups.append(tuple(alternatives))
    return tuple(groups)


def parse_show(text: str) -> list[dict[str, str]]:
    """The stanzas that `apt-cache show` prints, each as its fields on one line."""
    stanzas = []
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t")):
                fields[name] = value.strip()
        if "Package" in fields and "Version" in fields:
            stanzas.append(fields)
    return stanzas


def parse_madison(text: str) -> list[tuple[str, str, str]]:
    """Name, version and archive of each line of `apt-cache madison` that is about a binary package."""
    rows = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        # `http://deb.example.net/debian bookworm/contrib amd64 Packages`
        if len(fields) == 3 and fields[2].endswith(" Packages"):
            rows.append((fields[0], fields[1], " ".join(fields[2].split(" ")[:-2])))
    return rows


def parse_origins(text: str) -> dict[str, str]:
    """The `o=` of each archive in what `apt-cache policy` prints without a package's name."""
    origins: dict[str, str] = {}
    archive = ""
    for line in text.splitlines():
        match = re.match(r"^\s*-?\d+ (\S+ .*) Packages$", line)
        if match:
            archive = " ".join(match.group(1).split(" ")[:-1])
        elif archive and line.strip().startswith("release "):
            found = re.search(r"(?:^|[, ])o=([^,]*)", line.strip()[len("release ") :])
            origins[archive] = found.group(1) if found else ""
    return origins


def make_offers(show: str, madison: str, policy: str) -> dict[str, list[Offer]]:
    """What apt offers, from the outputs of its three commands."""
    origins = parse_origins(policy)
    archives: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, version, archive in parse_madison(madison):
        archives.setdefault((name, version), []).append((archive, origins.get(archive, "")))
    offers: dict[str, list[Offer]] = {}
    for stanza in parse_show(show):
        key = (stanza["Package"], stanza["Version"])
        if key not in archives:  # installed, but offered no more
            continue
        offer = Offer(
            *key,
            archives=tuple(archives.pop(key)),
            depends=parse_relations(stanza.get("Pre-Depends", "")) + parse_relations(stanza.get("Depends", "")),
            provides=tuple(group[0] for group in parse_relations(stanza.get("Provides", ""))),
        )
        offers.setdefault(key[0], []).append(offer)
    for every in offers.values():
        every.sort(key=lambda offer: version_key(offer.version), reverse=True)
    return offers


def parse_preferences(path: str, text: str) -> list[AptPin]:
    """The records of a preferences file that pin named packages by version."""
    pins = []
    for block in re.split(r"\n\s*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith((" ", "\t")) and name:
                fields[name] += " " + line.strip()
                continue
            name, colon, value = line.partition(":")
            name = name.strip().lower()
            if colon:
                fields[name] = value.strip()
        kind, _space, version = fields.get("pin", "").partition(" ")
        priority = fields.get("pin-priority", "")
        if kind == "version" and re.match(r"^-?\d+$", priority):
            pins.append(AptPin(path, tuple(fields.get("package", "").split()), version.strip(), int(priority)))
    return pins


def read_pins(system: System) -> tuple[AptPin, ...]:
    """Every pin by version on the host but our own, and those of NVIDIA's pinning packages, which go with them."""
    folder = "/etc/apt/preferences.d"
    paths = ["/etc/apt/preferences", *(f"{folder}/{name}" for name in system.list(folder))]
    pins: list[AptPin] = []
    for path in paths:
        # apt reads only names without an extension, or with .pref.
        if path == PREFERENCES or re.search(r"\.(?!pref$)[^/]*$", path):
            continue
        found = parse_preferences(path, system.read(path) or "")
        owner = system.run(["dpkg-query", "--search", path]).stdout if found else ""
        if not owner.startswith("nvidia-driver-pinning"):
            pins.extend(found)
    return tuple(pins)


def parse_dpkg(text: str) -> dict[str, Installed]:
    """The lines of `dpkg-query --show` in the format of `read_installed`."""
    installed = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) != 4:
            continue
        name, version, want, state = fields
        if state not in ("config-files", "not-installed"):
            installed[name] = Installed(version, want == "hold", state)
    return installed


def read_installed(system: System) -> dict[str, Installed]:
    """The packages of the driver and of the kernels that dpkg knows."""
    listed = system.run(
        ["dpkg-query", "--show", "--showformat=${Package}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\n"]
    )
    every = parse_dpkg(listed.stdout)
    return {name: each for name, each in every.items() if is_family(name) or name.startswith("linux-")}


def _asked_names(names: Iterable[str], installed: Iterable[str], kernels: Sequence[str], branch: int) -> list[str]:
    """The packages worth asking apt about. Ubuntu alone has thousands of signed modules, for every kernel there was."""
    flavours = {kernel.split("-", 2)[-1] for kernel in kernels}
    wanted = set(installed)
    for name in names:
        if name.startswith("linux-headers-"):
            if name[len("linux-headers-") :] in {*kernels, *flavours}:
                wanted.add(name)
        elif re.match(r"^linux-(modules|objects|signatures)-nvidia-", name):
            if f"-nvidia-{branch}-" in name or "-signatures-" in name:
                ours = [kernel for kernel in kernels if name.endswith(f"-{kernel}")]
                metas = [
                    flavour for flavour in flavours if name.endswith(f"-{flavour}") and not re.search(r"-\d+\.\d", name)
                ]
                if ours or metas:
                    wanted.add(name)
        elif is_family(name):
            wanted.add(name)
    return sorted(wanted)


def parse_targets(text: str) -> list[dict[str, str]]:
    """The index files in apt's sources, as `apt-get indextargets` prints them."""
    targets = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "Repo-URI" in fields:
            targets.append(fields)
    return targets


def missing_components(targets: Iterable[Mapping[str, str]], codename: str, components: Sequence[str]) -> str:
    """Entries for apt's sources that add *components* to the distribution's own archives; empty if they are there.

    They repeat address and key of the entry that they add to: apt refuses entries of one archive that differ there.
    """
    archives: dict[tuple[str, str], tuple[str, set[str]]] = {}
    for target in targets:
        suite = target.get("Release", "")
        if target.get("Sourcesentry", "").startswith(SOURCES) or suite.split("-")[0].split("/")[0] != codename:
            continue
        found = archives.setdefault((target["Repo-URI"], suite), (target.get("Signed-By", ""), set()))
        found[1].add(target.get("Component", ""))
    text = ""
    for (uri, suite), (key, there) in sorted(archives.items()):
        missing = [component for component in components if component not in there]
        if "main" in there and missing and not suite.endswith("-backports"):
            signed = f"Signed-By: {key}\n" if key else ""
            text += f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(missing)}\n{signed}\n"
    return text


def distribution_entries(system: System, source: str) -> str:
    """What apt's sources lack of the distribution's own archives."""
    components = data.COMPONENTS.get(source, ())
    if not components:
        return ""
    release = parse_os_release(system.read("/etc/os-release") or "")
    listed = system.run(["apt-get", "indextargets", "Created-By: Packages"], APT_SECONDS)
    return missing_components(parse_targets(listed.stdout), release.get("VERSION_CODENAME", ""), components)


def cuda_repository(host: Host) -> tuple[str, str]:
    """Folder of NVIDIA's CUDA repository for a host, and the SHA-256 of its keyring package where it is known."""
    machine = "x86_64" if host.architecture == "amd64" else "sbsa"
    name = f"{host.distribution}{host.release.replace('.', '')}"
    url = f"https://developer.download.nvidia.com/compute/cuda/repos/{name}/{machine}"
    return url, data.KEYRING_SHA256.get(f"{name}/{machine}", "")


def persistence_drop_in(unit: str) -> str:
    """What a unit of nvidia-persistenced lacks: Ubuntu's switches persistence off, and nothing starts it at boot."""
    text = ""
    match = re.search(r"^ExecStart=(.*--no-persistence-mode.*)$", unit, re.MULTILINE)
    if match:
        command = re.sub(r"\s+--no-persistence-mode", "", match.group(1))
        text += f"[Service]\nExecStart=\nExecStart={command}\n"
    if unit and not re.search(r"^WantedBy=", unit, re.MULTILINE):
        text += "[Install]\nWantedBy=multi-user.target\n"
    return text


def read_offers(
    system: System, kernels: Sequence[str], installed: Iterable[str], branch: int
) -> dict[str, list[Offer]]:
    """Everything that apt offers of the driver, and of the headers of *kernels*."""
    listed = system.run(["apt-cache", "pkgnames"], APT_SECONDS).stdout.split()
    headers = [
        name.replace("linux-image-", "linux-headers-", 1) for name in installed if name.startswith("linux-image-")
    ]
    known = set(listed)
    names = _asked_names(listed, [name for name in (*installed, *headers) if name in known], kernels, branch)
    if not names:
        return {}
    show = system.run(["apt-cache", "show", *names], APT_SECONDS).stdout
    madison = system.run(["apt-cache", "madison", *names], APT_SECONDS).stdout
    policy = system.run(["apt-cache", "policy"], APT_SECONDS).stdout
    return make_offers(show, madison, policy)


# --- The host


def read_kernels(system: System) -> tuple[str, ...]:
    """The releases of the kernels that the boot loader could start, the newest first."""
    kernels = [
        name[len("vmlinuz-") :]
        for name in system.list("/boot")
        if name.startswith("vmlinuz-") and system.exists(f"/lib/modules/{name[len('vmlinuz-') :]}")
    ]
    return tuple(sorted(kernels, key=version_key, reverse=True))


def read_fabric(system: System, devices: Iterable[str]) -> str:
    """What connects the GPUs, as far as the PCI bus and the InfiniBand devices show it without a driver."""
    nvswitches = 0
    for address in system.list(DEVICES):
        folder = f"{DEVICES}/{address}"
        if (system.read(f"{folder}/vendor") or "").strip() == NVIDIA and (
            system.read(f"{folder}/class") or ""
        ).startswith(data.NVSWITCH_CLASS):
            nvswitches += 1
    fabric = fabric_of(devices, nvswitches)
    if fabric == "none":
        # The bridges of fifth-generation NVSwitches carry this mark in their vital product data.
        for device in system.list("/sys/class/infiniband"):
            if b"SW_MNG" in (system.read_bytes(f"/sys/class/infiniband/{device}/device/vpd") or b""):
                return "nvlink5"
    return fabric


def read_architecture(system: System) -> str:
    """dpkg's word for the machine: amd64, arm64."""
    return system.run(["dpkg", "--print-architecture"]).stdout.strip() or "amd64"


def dkms_key_enrolled(system: System) -> bool:
    """Whether the firmware trusts the key that DKMS signs modules with."""
    for path in SIGNING_KEYS:
        # Its words tell, not how it ends.
        if system.exists(path) and "is already enrolled" in system.run(["mokutil", "--test-key", path]).stdout:
            return True
    return False


def read_host(system: System, fabric: str = "auto") -> Host:
    """Everything about a host that decides about its driver, but for what apt offers."""
    release = parse_os_release(system.read("/etc/os-release") or system.read("/usr/lib/os-release") or "")
    gpus = tuple(gpu["pci_device"] for gpu in read_pci_gpus(system))
    secure_boot = read_secure_boot(system)
    return Host(
        distribution=release.get("ID", "").lower(),
        release=release.get("VERSION_ID", ""),
        architecture=read_architecture(system),
        kernels=read_kernels(system),
        gpus=gpus,
        fabric=read_fabric(system, gpus) if fabric == "auto" else fabric,
        secure_boot=secure_boot,
        dkms_key_enrolled=dkms_key_enrolled(system) if secure_boot else False,
        installed=read_installed(system),
        pins=read_pins(system),
    )


# --- What apt would do, and what is there afterwards


def transaction(chosen: DriverSet) -> list[str]:
    """The one command that moves the set."""
    return [
        "apt-get",
        "--yes",
        "--no-install-recommends",
        "--allow-downgrades",
        "--allow-change-held-packages",
        "--option=Dpkg::Options::=--force-confdef",
        "--option=Dpkg::Options::=--force-confold",
        "--option=DPkg::Lock::Timeout=600",
        "install",
        *(f"{name}={version}" for name, version in chosen.packages.items()),
        *(f"{name}-" for name in chosen.remove),
    ]


def parse_simulation(text: str) -> tuple[list[str], list[str]]:
    """What `apt-get --simulate` would install (as `name=version`), and remove."""
    install, remove = [], []
    for line in text.splitlines():
        match = re.match(r"^Inst (\S+)(?: \[[^]]*\])? \((\S+)", line)
        if match:
            install.append(f"{match.group(1).split(':')[0]}={match.group(2)}")
        match = re.match(r"^(?:Remv|Purg) (\S+)", line)
        if match:
            remove.append(match.group(1).split(":")[0])
    return install, remove


def simulate(system: System, chosen: DriverSet) -> tuple[list[str], list[Finding]]:
    """Ask apt whether it can do it. Returns what it would bring beside the set, and what stands against it."""
    command = transaction(chosen)
    # The file with our own pins is not there yet: without it apt would take other versions for what is only implied.
    done = system.run([command[0], "--simulate", *command[1:]], APT_SECONDS)
    if not done.ok:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        reasons = [line for line in lines if re.search(r"^(E:|\S+ : )|(Depends|Conflicts|Breaks):", line)]
        return [], [
            Finding(
                "driver-apt-refuses",
                "nvidia_driver_version",
                f"leads to {chosen.version}, which apt cannot install: "
                + (" ".join(reasons[-6:]) or "it does not say why"),
                "run `apt-get --fix-broken install` on the host; otherwise look for a package that conflicts, with "
                "`apt-get --simulate install` and the versions above",
            )
        ]
    install, remove = parse_simulation(done.stdout)
    others = [name for name in remove if not is_family(name) and name not in chosen.remove]
    findings = []
    if others:
        findings.append(
            Finding(
                "driver-removes-others",
                "nvidia_driver_source",
                f"leads to a set for which apt would remove {', '.join(others)}, which is not of the driver",
                "remove these packages by hand if they are not needed, or choose another version or source",
            )
        )
    extra = [item for item in install if item.partition("=")[0] not in chosen.packages]
    extra += [f"{name} (removed)" for name in remove if name not in chosen.remove]
    return sorted(extra), findings


def module_version(system: System, kernel: str, names: Sequence[str]) -> tuple[str, str]:
    """Version and flavour of the NVIDIA module on disk for *kernel*; empty texts if there is none."""
    for name in names:
        done = system.run(["modinfo", "--set-version", kernel, "--field", "version", name])
        if done.ok and done.stdout.strip():
            licence = system.run(["modinfo", "--set-version", kernel, "--field", "license", name]).stdout
            return done.stdout.split()[0], "open" if "MIT" in licence else "proprietary"
    return "", ""


def loaded_version(system: System) -> str:
    """The version of the module in the running kernel."""
    return (system.read("/sys/module/nvidia/version") or "").strip()


def initramfs_problem(system: System, kernel: str) -> str:
    """Why the initramfs of *kernel* does not keep the rival drivers out; empty if it does, or if there is none."""
    image = f"/boot/initrd.img-{kernel}"
    if not system.exists(image):
        return ""
    written, settings = system.modified_at(image), system.modified_at(MODPROBE)
    if settings is None:
        return f"{MODPROBE} is not there"
    if written is not None and written < settings:
        return "it is older than the settings"
    listed = system.run(["lsinitramfs", image], 60)
    if not listed.found:
        listed = system.run(["lsinitrd", image], 60)
    if not listed.ok:
        return "" if not listed.found else "it cannot be listed"
    if MODPROBE.lstrip("/") not in listed.stdout:
        return f"it does not hold {MODPROBE}"
    return ""


def verify(system: System, host: Host, chosen: DriverSet, wanted: Wanted) -> tuple[dict[str, Any], list[Finding]]:
    """What is on the host now, against the set."""
    findings: list[Finding] = []
    kernels = []
    for kernel in host.kernels:
        version, flavour = module_version(system, kernel, chosen.module_names)
        kernels.append(
            {"kernel": kernel, "version": version, "flavour": flavour, "initramfs": initramfs_problem(system, kernel)}
        )
        if kernel in wanted.ignored_kernels:
            continue
        if version != chosen.version or (flavour and flavour != chosen.flavour):
            findings.append(
                Finding(
                    "driver-module-missing",
                    "nvidia_driver_version",
                    f"is {chosen.version} ({chosen.flavour}), but for kernel {kernel} there is "
                    + (f"the module of {version} ({flavour})" if version else "no module"),
                    "read /var/lib/dkms/nvidia*/*/build/make.log on the host; do not boot that kernel before this is "
                    "solved. A kernel that is newer than the driver often cannot be built for: remove it, or use a "
                    "newer driver",
                )
            )
    loaded = loaded_version(system)
    rivals = [name for name in RIVALS if system.exists(f"/sys/module/{name}")]
    reasons = []
    if host.gpus:
        if rivals:
            reasons.append(f"{', '.join(rivals)} is loaded in place of NVIDIA's module")
        if loaded and loaded != chosen.version:
            reasons.append(f"the loaded module is {loaded}, the installed one {chosen.version}")
        elif not loaded and not rivals:
            reasons.append("NVIDIA's module is not loaded")
    state = {
        "kernels": kernels,
        "loaded_version": loaded,
        "rivals": rivals,
        "stale_initramfs": [each["kernel"] for each in kernels if each["initramfs"]],
        "not_held": [name for name in chosen.hold if name in host.installed and not host.installed[name].held],
        "reboot_reasons": reasons,
        "persistence_drop_in": persistence_drop_in(system.read(PERSISTENCED) or ""),
        "services": [name for name in SERVICES if system.exists(f"/lib/systemd/system/{name}.service")],
    }
    return state, findings


def read_set(
    system: System,
    wanted: Wanted,
    fabric: str = "auto",
    hardware_only: bool = False,
    gpu_settings: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """The answer of the module: the host, the set or the refusals, and what is there already."""
    host = read_host(system, fabric)
    early = check_wish(wanted, host)
    answer: dict[str, Any] = {
        "gpus": list(host.gpus),
        "fabric": host.fabric,
        "secure_boot": host.secure_boot,
        "kernels": list(host.kernels),
        "source_known": False,
        "also": [],
        "command": [],
        "gpu_commands": [],
        "gpu_unit": "",
        "state": {},
        "problems": [],
    }
    chosen = early
    problems: list[Finding] = []
    if hardware_only and not early.refusals:
        answer["source_known"] = source_known(system, wanted, early.source)
        answer["cuda_repository_url"], answer["cuda_keyring_sha256"] = cuda_repository(host)
        if not wanted.repository_url:
            answer["distribution_entries"] = distribution_entries(system, early.source)
    if not hardware_only and not early.refusals:
        offers = read_offers(system, host.kernels, host.installed, early.branch)
        answer["source_known"] = source_known(system, wanted, early.source)
        chosen = resolve(wanted, host, offers)
        if not chosen.refusals:
            if chosen.changes:
                answer["also"], chosen.refusals = simulate(system, chosen)
            answer["command"] = transaction(chosen) if chosen.changes else []
            answer["state"], problems = verify(system, host, chosen, wanted)
            todo, unit, impossible = read_settings(system, gpu_settings or {})
            answer["gpu_commands"], answer["gpu_unit"] = todo, unit
            problems += impossible
            answer["problems"] = [problem.as_dict() for problem in problems]
    answer["set"] = as_plain(chosen)
    answer["refusals"] = [finding.as_dict() for finding in chosen.refusals]
    answer["refusal_text"] = as_text(chosen.refusals)
    answer["problem_text"] = as_text(problems)
    return answer


def as_text(findings: Iterable[Finding]) -> str:
    """Findings of one host, for a terminal."""
    return "\n".join(
        f"* {finding.variable} {sentence(finding.message)} [{finding.code}]\n  -> {sentence(finding.action)}"
        for finding in findings
    )


def source_known(system: System, wanted: Wanted, source: str) -> bool:
    """Whether apt has fetched lists of the archive that the set comes from."""
    origins = parse_origins(system.run(["apt-cache", "policy"], APT_SECONDS).stdout)
    if wanted.repository_url:
        return any(same_repository(archive, wanted.repository_url) for archive in origins)
    return data.ORIGINS[source] in origins.values()


def as_plain(chosen: DriverSet) -> dict[str, Any]:
    """A set as the module returns it."""
    plain = asdict(chosen)
    del plain["refusals"]
    plain["changes"] = [
        f"{change.action} {change.name} " + " -> ".join(version for version in (change.before, change.after) if version)
        for change in chosen.changes
    ]
    plain["module_names"] = list(chosen.module_names)
    for name in ("architectures", "remove", "hold", "parts"):
        plain[name] = list(plain[name])
    return plain
