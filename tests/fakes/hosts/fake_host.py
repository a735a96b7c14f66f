# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""A host of files and command outputs, for the real `gpu_info.read_host`, the real binding and the fake NVML.

    host = FakeHost("h100_sxm_8")
    host.description["loaded_module"]["version"] = "580.159.04"      # the module of before the upgrade
    host.description["nvml"]["gpus"][3]["ecc"]["enabled"] = False    # what NVML says, see ../nvml/fake_nvml.py
    del host.description["nvml"]["gpus"][7]                          # still on the PCI bus, but not for the driver
    facts = host.facts()

A description says what the host is like; this file turns it into what /proc, /sys, /boot and the commands would show,
in their real formats. `{driver}` in a text is the driver's version. What no description can say is put over the result:
`host.files["/proc/cmdline"] = ...` (`None` removes a file), `host.commands["dkms status"] = (code, stdout, stderr)`.

What the keys mean stands beside the machine's values in <machine>/host.yml; h100_sxm_8 explains them all.

usage: fake_host.py MACHINE             prints the facts as JSON
       fake_host.py --golden MACHINE    writes them to <machine>/facts.json, which the tests compare with
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, cast

HERE = Path(__file__).resolve().parent
COLLECTIONS = HERE.parents[2] / ".cache" / "collections"

Result = tuple[int, str, str]
# Text, bytes, or where a symbolic link points to.
Content = Union[str, bytes, "Link", None]


class Link(str):
    """The target of a symbolic link."""


def _load_fake_nvml() -> Any:
    if "fake_nvml" not in sys.modules:
        sys.path.insert(0, str(HERE.parent / "nvml"))
    return importlib.import_module("fake_nvml")


def machines() -> list[str]:
    """The machines that are described here."""
    return sorted(path.parent.name for path in HERE.glob("*/host.yml"))


class FakeHost:
    """One machine, healthy until its description is changed."""

    def __init__(self, machine: str) -> None:
        import yaml

        self.machine = machine
        text = (HERE / machine / "host.yml").read_text(encoding="utf-8")
        self.fake_nvml = _load_fake_nvml()
        self.description: dict[str, Any] = yaml.safe_load(text)
        self.description["nvml"] = self.fake_nvml.load(machine)
        self.description.setdefault("driver_version", self.description["nvml"]["driver"]["version"])
        self.description.setdefault("binding", True)
        self._place_gpus()
        self.files: dict[str, Content] = {}
        self.commands: dict[str, Result] = {}

    def _place_gpus(self) -> None:
        """Put NVML's GPUs on the bus, each below a bridge of its own. From then on the bus is on its own."""
        pci = self.description.setdefault("pci", {})
        pci["gpus"] = [
            {
                "address": gpu["pci"]["address"].lower(),
                "device": gpu["pci"]["device"].lower(),
                "class": f"0x{gpu['pci'].get('class', '0302')}00",
                "driver": "nvidia",
                "numa_node": int(gpu.get("memory_affinity") or 0),
                "cpus": gpu.get("cpu_affinity", "0-31"),
                "bridge": _bridge_above(gpu["pci"]["address"].lower()),
            }
            for gpu in self.description["nvml"]["gpus"]
        ]
        pci.setdefault("acs_control", {})
        pci.setdefault("nvswitches", [])
        pci.setdefault("connectx", [])

    @property
    def driver_version(self) -> str:
        return str(self.description["driver_version"])

    def package(self, name: str) -> dict[str, Any]:
        """The package of that name, to be changed."""
        return next(item for item in self.description["packages"] if self._fill(item["name"]) == name)

    def kernel(self, version: str) -> dict[str, Any]:
        """The installed kernel of that version, to be changed."""
        return next(item for item in self.description["kernels"] if item["version"] == version)

    def _fill(self, value: Any) -> str:
        return str(value).replace("{driver}", self.driver_version)

    def facts(self) -> Any:
        """What `read_host` says about this host: HostFacts."""
        environment = dict(os.environ)
        with tempfile.TemporaryDirectory(prefix="fake-host-") as scratch:
            root = Path(scratch) / "root"
            self.write(root)
            (Path(scratch) / "commands.json").write_text(json.dumps(self.all_commands()), encoding="utf-8")
            if self.description["nvml"] is not None:
                flat = self.fake_nvml.write(self.description["nvml"], Path(scratch) / "nvml")
                environment.update(self.fake_nvml.environment(flat))
            binding = "pynvml" if self.description["binding"] else ""
            done = subprocess.run(
                [
                    sys.executable,
                    str(Path(__file__).resolve()),
                    "--read",
                    str(root),
                    f"{scratch}/commands.json",
                    binding,
                ],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode != 0:
            raise RuntimeError(f"read_host failed on {self.machine}:\n{done.stderr}")
        return json.loads(done.stdout)

    def write(self, root: str | Path) -> None:
        """Write the host's files below *root*."""
        files = {**self._all_files(), **self.files}
        for path, content in sorted(files.items()):
            if content is None:
                continue
            target = Path(root) / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                target.symlink_to(content)
            elif isinstance(content, bytes):
                target.write_bytes(content)
            else:
                target.write_text(content, encoding="utf-8")
        for specification in self.description.get("cdi", []):
            written = Path(root) / specification["path"].lstrip("/")
            if written.exists():
                os.utime(written, (specification["modified_at"],) * 2)

    # ---- Files ------------------------------------------------------------------------------------------------------

    def _all_files(self) -> dict[str, Content]:
        return {
            **self._platform_files(),
            **self._pci_files(),
            **self._kernel_files(),
            **self._module_files(),
            **self._service_files(),
            **{item["path"]: self._cdi(item) for item in self.description.get("cdi", [])},
            **self._cuda_files(),
        }

    def _platform_files(self) -> dict[str, Content]:
        platform = self.description["platform"]
        name, version = platform["distribution"], platform["distribution_version"]
        files: dict[str, Content] = {
            "/etc/os-release": f'PRETTY_NAME="{name.title()} {version}"\nVERSION_ID="{version}"\nID={name}\n',
            "/proc/sys/kernel/arch": platform["architecture"] + "\n",
            "/proc/sys/kernel/osrelease": self.description["running_kernel"] + "\n",
            "/proc/sys/kernel/random/boot_id": platform["boot_id"] + "\n",
            "/proc/cmdline": f"BOOT_IMAGE=/boot/vmlinuz-{self.description['running_kernel']} root=/dev/md0 ro quiet\n",
            "/sys/kernel/notes": b"",
        }
        for module in platform["modules"]:
            files[f"/sys/module/{module}/initstate"] = "live\n"
        if platform["unattended_upgrades_installed"]:
            files["/usr/bin/unattended-upgrade"] = "#!/usr/bin/python3\n"
        if platform["secure_boot"] is not None:
            vendor = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
            value = bytes([6, 0, 0, 0, 1 if platform["secure_boot"] else 0])
            files[f"/sys/firmware/efi/efivars/SecureBoot-{vendor}"] = value
            files[f"/sys/firmware/efi/efivars/SetupMode-{vendor}"] = b"\x06\0\0\0\0"
        return files

    def _pci_files(self) -> dict[str, Content]:
        pci = self.description["pci"]
        files: dict[str, Content] = {}
        kind = {"translated": "DMA-FQ", "passthrough": "identity", "off": None}[self.description["platform"]["iommu"]]

        def device(address: str, parents: Sequence[str], **attributes: Any) -> str:
            domain, bus = (parents[0] if parents else address).split(":")[:2]
            folder = "/".join((f"/sys/devices/pci{domain}:{bus}", *parents, address))
            files[f"/sys/bus/pci/devices/{address}"] = Link(f"../../../..{folder}")
            for name, value in attributes.items():
                files[f"{folder}/{name}"] = value if isinstance(value, (bytes, Link)) else f"{value}\n"
            return folder

        for number, gpu in enumerate(pci["gpus"]):
            vendor, code = gpu["device"].split(":")
            above = (gpu["bridge"],) if gpu["bridge"] else ()
            for bridge in above:
                config = _bridge_config(pci["acs_control"].get(bridge, 0))
                device(bridge, (), **{"vendor": "0x8086", "device": "0x352a", "class": "0x060400", "config": config})
            attributes = {
                "vendor": f"0x{vendor}",
                "device": f"0x{code}",
                "class": gpu["class"],
                "numa_node": gpu["numa_node"],
                "local_cpulist": gpu["cpus"],
            }
            folder = device(gpu["address"], above, **attributes)
            if gpu["driver"]:
                files[f"{folder}/driver"] = Link(f"../../../../bus/pci/drivers/{gpu['driver']}")
            if kind:
                files[f"{folder}/iommu_group"] = Link(f"../../../../kernel/iommu_groups/{number}")
                files[f"/sys/kernel/iommu_groups/{number}/type"] = kind + "\n"
        for address in pci["nvswitches"]:
            device(address, (), **{"vendor": "0x10de", "device": "0x22a3", "class": "0x068000"})
            if self.description["loaded_module"]:
                files[f"/proc/driver/nvidia-nvswitch/devices/{address}"] = "Type: NVSwitch\n"
        for card in pci["connectx"]:
            text = b"\x82\x2c\x00NVIDIA ConnectX-7\x90\x10\x00V2" + (b"SW_MNG" if card.get("sw_mng") else b"MCX755")
            attributes = {"vendor": "0x15b3", "device": "0x1021", "class": card.get("class", "0x020700"), "vpd": text}
            device(card["address"], (), **attributes)
        return files

    def _kernel_files(self) -> dict[str, Content]:
        files: dict[str, Content] = {}
        versions = []
        for kernel in self.description["kernels"]:
            version = kernel["version"]
            versions.append(version)
            files[f"/boot/vmlinuz-{version}"] = b"MZ"
            files[f"/lib/modules/{version}/modules.dep"] = ""
            headers = f"/usr/src/linux-headers-{version}"
            files[f"/lib/modules/{version}/build"] = Link(headers)
            if kernel["headers"]:
                files[f"{headers}/Makefile"] = "# SPDX-License-Identifier: GPL-2.0\n"
        newest_first = list(reversed(versions))
        files["/boot/grub/grub.cfg"] = grub_menu(newest_first)
        chosen = self.description["next_boot_kernel"]
        # GRUB's own default is the newest kernel; for another one an administrator has written its identifier.
        entry = "" if chosen == newest_first[0] else f"gnulinux-advanced-ROOT>gnulinux-{chosen}-advanced-ROOT"
        saved = f"saved_entry={entry}\n" if entry else ""
        files["/boot/grub/grubenv"] = ("# GRUB Environment Block\n" + saved).ljust(1024, "#")
        files["/boot/vmlinuz"] = Link(f"vmlinuz-{newest_first[0]}")
        return files

    def _module_files(self) -> dict[str, Content]:
        loaded = self.description["loaded_module"]
        if not loaded:
            return {}
        version = self._fill(loaded["version"])
        word = "Open Kernel Module for x86_64" if loaded["flavour"] == "open" else "x86_64 Kernel Module"
        build = "Release Build  (dvs-builder@U22-I3-AE18-23-3)  " if loaded["flavour"] == "open" else ""
        return {
            "/proc/driver/nvidia/version": (
                f"NVRM version: NVIDIA UNIX {word}  {version}  {build}Tue Sep 22 10:11:16 UTC 2026\n"
                "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
            ),
            "/sys/module/nvidia/version": version + "\n",
            "/sys/module/nvidia/taint": "OE\n" if loaded["flavour"] == "open" else "POE\n",
        }

    def _service_files(self) -> dict[str, Content]:
        programs = {"nvidia-fabricmanager": "nv-fabricmanager"}
        files: dict[str, Content] = {}
        for name, service in self.description["services"].items():
            if service.get("pid"):
                files[f"/proc/{service['pid']}/exe"] = Link(f"/usr/bin/{programs.get(name, name)}")
        return files

    def _cdi(self, specification: dict[str, Any]) -> str:
        version = self._fill(specification["driver_version"])
        names = specification.get("devices") or [*map(str, range(len(self.description["pci"]["gpus"]))), "all"]
        lines = ["---", "cdiVersion: 0.5.0", "containerEdits:", "  deviceNodes:", "  - path: /dev/nvidiactl", "  env:"]
        lines += ["  - NVIDIA_VISIBLE_DEVICES=void", "  hooks:", "  - args:", "    - nvidia-cdi-hook"]
        lines += ["    hookName: createContainer", "    path: /usr/bin/nvidia-cdi-hook", "  mounts:"]
        for library in ("libcuda", "libnvidia-ml"):
            path = f"/usr/lib/x86_64-linux-gnu/{library}.so.{version}"
            lines += [f"  - containerPath: {path}", f"    hostPath: {path}", "    options:", "    - ro"]
        lines.append("devices:")
        for name in names:
            lines += ["- containerEdits:", "    deviceNodes:", "    - path: /dev/nvidia0", f'  name: "{name}"']
        return "\n".join([*lines, "kind: nvidia.com/gpu", ""])

    def _cuda_files(self) -> dict[str, Content]:
        version = self.description.get("cuda_toolkit_version")
        if not version:
            return {}
        return {"/usr/local/cuda/version.json": json.dumps({"cuda": {"name": "CUDA SDK", "version": version}})}

    # ---- Commands ---------------------------------------------------------------------------------------------------

    def all_commands(self) -> dict[str, Result]:
        """What each command answers, by its first words."""
        virtualisation = self.description["platform"]["virtualisation"]
        periodic = "1" if self.description["platform"]["automatic_upgrades"] else "0"
        commands: dict[str, Result] = {
            "systemd-detect-virt": (1 if virtualisation == "none" else 0, virtualisation + "\n", ""),
            "dpkg-query": (1, self._packages(), "dpkg-query: no packages found matching nvlsm*\n"),
            "systemctl show": (0, self._units(), ""),
            "apt-config dump": (0, f'APT::Periodic::Unattended-Upgrade "{periodic}";\n', ""),
            "journalctl": self._journal(),
            **self._modinfo(),
            **self._versions(),
        }
        if self.description["dkms"]:
            commands["dkms status"] = (0, self._dkms(), "")
        return {**commands, **self.commands}

    def _packages(self) -> str:
        lines = ["nvidia-current\t\tnot-installed\tunknown\t"]
        for package in self.description["packages"]:
            state, held = package.get("state", "installed"), package.get("held", True)
            values = (package["name"], package["version"], state, "hold" if held else "install")
            lines.append("\t".join((*map(self._fill, values), package.get("architecture", "amd64"))))
        return "\n".join(lines) + "\n"

    def _units(self) -> str:
        blocks = []
        for name in ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-imex", "nvidia-cdi-refresh"):
            service = self.description["services"].get(name)
            if service is None:
                service = {"load": "not-found", "active": "inactive", "sub": "dead", "file": ""}
            blocks.append(
                f"MainPID={service.get('pid') or 0}\nNRestarts={service.get('restarts', 0)}\nControlGroup=\n"
                f"Id={name}.service\nLoadState={service.get('load', 'loaded')}\n"
                f"ActiveState={service['active']}\nSubState={service['sub']}\nUnitFileState={service['file']}\n"
            )
        blocks.append(
            "Id=apt-daily-upgrade.timer\nLoadState=loaded\nActiveState=active\nSubState=waiting\nUnitFileState=enabled\n"
        )
        return "\n".join(blocks)

    def _versions(self) -> dict[str, Result]:
        forms = {
            "nvidia-persistenced": "\nnvidia-persistenced:  version {}\n\n  The NVIDIA Persistence Daemon.\n",
            "nvidia-fabricmanager": "Fabric Manager version is : {}\n",
            "nvidia-imex": "IMEX version is: {}\n",
        }
        return {
            f"/proc/{service['pid']}/exe --version": (0, forms[name].format(self._fill(service["version"])), "")
            for name, service in self.description["services"].items()
            if service.get("pid")
        }

    def _modinfo(self) -> dict[str, Result]:
        missing = "modinfo: ERROR: Module {} not found.\n"
        others = missing.format("nvidia-current-open") + missing.format("nvidia-current")
        commands = {}
        for kernel in self.description["kernels"]:
            module = kernel.get("module")
            text = self._modinfo_text(kernel["version"], module) if module else ""
            errors = others if module else missing.format("nvidia") + others
            commands[f"modinfo -k {kernel['version']}"] = (1, text, errors)
        return commands

    def _modinfo_text(self, kernel: str, module: dict[str, Any]) -> str:
        version = self._fill(module["version"])
        place = self._fill(module.get("path", "updates/dkms/nvidia.ko.zst"))
        lines = [
            f"filename:       /lib/modules/{kernel}/{place}",
            "alias:          char-major-195-*",
            f"version:        {version}",
            "supported:      external",
            f"license:        {'Dual MIT/GPL' if module['flavour'] == 'open' else 'NVIDIA'}",
            f"firmware:       nvidia/{version}/gsp_tu10x.bin",
            f"firmware:       nvidia/{version}/gsp_ga10x.bin",
            "srcversion:     5C1C9B7B0E8D2FD9D8A3A45",
            "alias:          pci:v000010DEd*sv*sd*bc03sc02i00*",
            "depends:        ",
            "retpoline:      Y",
            "name:           nvidia",
            f"vermagic:       {kernel} SMP preempt mod_unload modversions ",
        ]
        if module.get("signer"):
            lines += ["sig_id:         PKCS#7", f"signer:         {module['signer']}", "sig_hashalgo:   sha512"]
            lines += ["signature:      30:65:02:30:0B:63:7B:44:B1:A9:7C:62:A2:34:3E:6A:6D:4D:2B:90:", "\t\t8E:2F:13"]
        return "\n".join([*lines, "parm:           NVreg_RegistryDwords:charp", ""])

    def _dkms(self) -> str:
        dkms = self.description["dkms"]
        lines = []
        for kernel in self.description["kernels"]:
            if not kernel.get("dkms"):
                continue
            version = self._fill(kernel.get("dkms_version", "{driver}"))
            name = f"{dkms['name']}, {version}" if dkms.get("old_format") else f"{dkms['name']}/{version}"
            lines.append(
                f"{name}, {kernel['version']}, {self.description['platform']['architecture']}: {kernel['dkms']}"
            )
        return "\n".join([*lines, ""])

    def _journal(self) -> Result:
        lines = []
        for number, event in enumerate(self.description.get("xid_events", [])):
            seconds = float(event.get("seconds", 3600 + number))
            entry = {
                "MESSAGE": f"NVRM: Xid (PCI:{event['pci_address'][:-2]}): {event['xid']}, {event['message']}",
                "_SOURCE_MONOTONIC_TIMESTAMP": str(int(seconds * 1e6)),
                "__CURSOR": f"s=0;i={number}",
                "_BOOT_ID": self.description["platform"]["boot_id"].replace("-", ""),
            }
            lines.append(json.dumps(entry))
        return (0, "\n".join(lines) + "\n", "") if lines else (1, "", "")


def _bridge_above(address: str) -> str:
    """A bridge for a GPU; a virtual machine's GPU on the first bus has none."""
    bus = int(address[5:7], 16)
    return f"{address[:5]}{bus - 1:02x}:01.0" if bus else ""


def _bridge_config(control: int) -> bytes:
    """A configuration space with error reporting and Access Control Services in its chain of capabilities."""
    space = bytearray(4096)
    struct.pack_into("<I", space, 0x100, 0x0001 | 2 << 16 | 0x148 << 20)
    struct.pack_into("<IHH", space, 0x148, 0x000D | 1 << 16, 0x5F, control)
    return bytes(space)


def grub_menu(kernels: Sequence[str]) -> str:
    """What update-grub makes of the installed kernels, newest first, with `GRUB_DEFAULT=saved`."""

    def entry(title: str, identifier: str, kernel: str, indent: str = "") -> str:
        return (
            f"{indent}menuentry '{title}' --class gnu-linux --class os $menuentry_id_option '{identifier}' {{\n"
            f"{indent}\tload_video\n{indent}\tif [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi\n"
            f"{indent}\techo\t'Loading Linux {kernel} ...'\n"
            f"{indent}\tlinux\t/boot/vmlinuz-{kernel} root=UUID=ROOT ro quiet\n"
            f"{indent}\tinitrd\t/boot/initrd.img-{kernel}\n{indent}}}\n"
        )

    advanced = "".join(
        entry(f"GNU/Linux, with Linux {kernel}", f"gnulinux-{kernel}-advanced-ROOT", kernel, "\t")
        + entry(f"GNU/Linux, with Linux {kernel} (recovery mode)", f"gnulinux-{kernel}-recovery-ROOT", kernel, "\t")
        for kernel in kernels
    )
    return (
        "if [ -s $prefix/grubenv ]; then\n  set have_grubenv=true\n  load_env\nfi\n"
        'if [ "${next_entry}" ] ; then\n   set default="${next_entry}"\n   set next_entry=\n   save_env next_entry\n'
        'else\n   set default="${saved_entry}"\nfi\n'
        'function savedefault {\n  if [ -z "${boot_once}" ]; then\n    saved_entry="${chosen}"\n  fi\n}\n'
        + entry("GNU/Linux", "gnulinux-simple-ROOT", kernels[0])
        + "submenu 'Advanced options for GNU/Linux' $menuentry_id_option 'gnulinux-advanced-ROOT' {\n"
        + advanced
        + "}\nmenuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {\n\tfwsetup\n}\n"
    )


def read(root: str, commands_path: str, binding: str) -> Any:
    """Run the real read_host on a folder of files and a table of command outputs."""
    sys.path.insert(0, str(COLLECTIONS))
    from ansible_collections.baremetal.llm.plugins.module_utils.gpu_info import read_host
    from ansible_collections.baremetal.llm.plugins.module_utils.system import NOT_FOUND, CommandResult, System

    table = cast("dict[str, list[Any]]", json.loads(Path(commands_path).read_text(encoding="utf-8")))

    class CannedSystem(System):
        """Answers a command with the entry whose words it begins with: the longest one."""

        def run(self, argv: Sequence[str], timeout_seconds: float = 10) -> CommandResult:
            for length in range(len(argv), 0, -1):
                answer = table.get(" ".join(argv[:length]))
                if answer is not None:
                    return CommandResult(*answer)
            return CommandResult(NOT_FOUND, "", f"{argv[0]}: command not found")

    nvml: Any = None
    if binding:
        import pynvml as nvml
    return read_host(CannedSystem(root), nvml)


def settled(facts: Any) -> Any:
    """Facts without what changes from run to run and from environment to environment."""
    return {
        **facts,
        "collected_at": "2026-11-20T12:00:00Z",
        "nvml": {**facts["nvml"], "binding_version": facts["nvml"]["binding_version"] and "13.615.71"},
    }


def main() -> int:
    if len(sys.argv) == 5 and sys.argv[1] == "--read":
        json.dump(read(*sys.argv[2:]), sys.stdout)
        return 0
    if len(sys.argv) == 3 and sys.argv[1] == "--golden" and sys.argv[2] in machines():
        text = json.dumps(settled(FakeHost(sys.argv[2]).facts()), indent=1)
        (HERE / sys.argv[2] / "facts.json").write_text(text + "\n", encoding="utf-8")
        return 0
    if len(sys.argv) != 2 or sys.argv[1] not in machines():
        print(f"usage: fake_host.py [--golden] MACHINE    (one of {', '.join(machines())})", file=sys.stderr)
        return 2
    json.dump(FakeHost(sys.argv[1]).facts(), sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
