# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import host_readiness_machine as machine
from ansible_collections.baremetal.llm.plugins.module_utils.host_validation_machine import MachineChecks
from ansible_collections.baremetal.llm.plugins.module_utils.site import HostState, Site
from ansible_collections.baremetal.llm.plugins.module_utils.system import NOT_FOUND, CommandResult, System

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "fakes" / "hosts"))
import fake_host  # noqa: E402  (found through the path above)


class Host(System):
    """A folder in the place of `/`, and a table of what commands print; those that are not in it are not there."""

    def __init__(self, root, commands=()):
        super().__init__(str(root))
        self.commands = dict(commands)
        self.asked = []

    def run(self, argv, timeout_seconds=10):
        self.asked.append(list(argv))
        answer = self.commands.get(argv[0])
        if answer is None:
            return CommandResult(NOT_FOUND, "", "command not found")
        code, text = answer if isinstance(answer, tuple) else (0, answer)
        return CommandResult(code, text, "")


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def write(host, path, text=""):
    target = host.path(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w", encoding="utf-8") as handle:
        handle.write(text)


def link(host, path, target):
    """A link as in /sys: relative, so that it stays below the root."""
    place = host.path(path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.symlink(os.path.relpath(host.path(target), os.path.dirname(place)), place)


def block(host, name, device, parts=(), slaves=(), **files):
    """A block device as /sys shows it."""
    folder = f"/sys/devices/{device}"
    link(host, f"/sys/block/{name}", folder)
    link(host, f"/sys/class/block/{name}", folder)
    write(host, f"{folder}/size", "1")
    for path, text in files.items():
        write(host, f"{folder}/{path.replace('__', '/')}", f"{text}\n")
    for slave in slaves:
        link(host, f"{folder}/slaves/{os.path.basename(slave)}", f"/sys/devices/{slave}")
    for part in parts:
        write(host, f"{folder}/{part}/partition", "1\n")


def mounted(host, number, file_system="ext4", source="/dev/x", mount="/srv"):
    write(host, "/proc/self/mountinfo", f"1 0 9:9 / / rw - ext4 /dev/root rw\n2 1 {number} / {mount} rw shared:3 - "
          f"{file_system} {source} rw\n")  # fmt: skip


CPUINFO = """processor\t: 0
model name\t: AMD EPYC 9654 96-Core Processor
flags\t\t: fpu avx sse4_2 avx2 avx512f avx512bw

processor\t: 1
model name\t: AMD EPYC 9654 96-Core Processor
flags\t\t: fpu avx sse4_2 avx2 avx512f avx512bw
"""


def test_cores_are_counted_without_their_second_threads(host):
    write(host, "/proc/cpuinfo", CPUINFO)
    for number in (0, 1):
        write(host, f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", "0-1\n")
    write(host, "/sys/devices/system/cpu/cpufreq/boost", "1")
    assert machine.read_cpu(host) == {
        "model": "AMD EPYC 9654 96-Core Processor",
        "threads": 2,
        "cores": 1,
        "avx": ["avx", "avx2", "avx512f"],
    }


def test_a_host_that_does_not_tell_its_topology_has_as_many_cores_as_threads(host):
    write(host, "/proc/cpuinfo", CPUINFO)
    assert machine.read_cpu(host)["cores"] == 2


def test_memory_of_a_container_is_what_its_group_leaves_it(host):
    write(
        host,
        "/proc/meminfo",
        "MemTotal:       65536 kB\nSwapTotal:  2048 kB\nSwapFree:   1024 kB\nHugePages_Total: 3\n",
    )
    assert machine.read_memory(host) == {
        "memory_bytes": 64 * 1024**2,
        "swap_bytes": 2 * 1024**2,
        "swap_used_bytes": 1024**2,
    }
    write(host, "/sys/fs/cgroup/memory.max", "max\n")
    assert machine.read_memory(host)["memory_bytes"] == 64 * 1024**2
    write(host, "/sys/fs/cgroup/memory.max", "4096\n")
    assert machine.read_memory(host)["memory_bytes"] == 4096


LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 20000                files
Max locked memory         65536                unlimited            bytes
"""


@pytest.mark.parametrize(("effective", "may_raise"), [("000001ffffffffff", True), ("000001fffeffffff", False)])
def test_limits_are_those_of_the_first_process(host, effective, may_raise):
    write(host, "/proc/1/limits", LIMITS)
    write(host, "/proc/1/status", f"Name:\tsystemd\nCapEff:\t{effective}\n")
    assert machine.read_limits(host) == {"open_files": 20000, "memlock_bytes": None, "may_raise": may_raise}


class TestKernels:
    def kernels(self, host, **more):
        return {item["release"]: item["headers"] for item in machine.read_kernel(host, **more)["installed"]}

    @pytest.fixture
    def host(self, tmp_path):
        host = Host(tmp_path)
        write(host, "/proc/sys/kernel/osrelease", "6.1.0-9-amd64\n")
        for release in ("6.1.0-9-amd64", "6.1.0-41-amd64"):
            write(host, f"/boot/vmlinuz-{release}")
        write(host, "/lib/modules/6.1.0-9-amd64/build/Makefile")
        link(host, "/vmlinuz", "/boot/vmlinuz-6.1.0-41-amd64")
        return host

    def test_headers_of_each_installed_kernel(self, host):
        assert self.kernels(host, apt=False) == {"6.1.0-9-amd64": "installed", "6.1.0-41-amd64": "missing"}
        assert host.asked == []

    @pytest.mark.parametrize(
        ("answer", "headers"),
        [("Package: linux-headers-6.1.0-41-amd64\n", "available"), ("", "missing"), ((100, "E: none"), "missing")],
    )
    def test_missing_headers_are_looked_for_without_writing_caches(self, host, answer, headers):
        host.commands["apt-cache"] = answer
        assert self.kernels(host, apt=True)["6.1.0-41-amd64"] == headers
        (argv,) = host.asked
        assert argv[-1] == "linux-headers-6.1.0-41-amd64"
        assert {"Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="} < set(argv)

    def test_the_kernel_that_boots_next(self, host):
        found = machine.read_kernel(host, apt=False)
        assert (found["running"], found["next_boot"]) == ("6.1.0-9-amd64", "6.1.0-41-amd64")

    @pytest.mark.parametrize(
        "module",
        ["updates/dkms/nvidia.ko", "updates/dkms/nvidia-current-open.ko.xz", "kernel/nvidia-580srv-open/nvidia.ko.zst"],
    )
    def test_a_driver_is_seen_where_packages_and_dkms_put_it(self, host, module):
        write(host, f"/lib/modules/6.1.0-9-amd64/{module}")
        write(host, "/lib/modules/6.1.0-41-amd64/kernel/drivers/platform/nvidia-wmi-ec-backlight.ko")
        found = machine.read_kernel(host, apt=False)["installed"]
        assert {item["release"]: item["driver"] for item in found} == {"6.1.0-9-amd64": True, "6.1.0-41-amd64": False}


class TestDisks:
    def kind(self, host, **more):
        return machine.read_disk(host, "/srv/models", "/srv")["kind"]

    @pytest.mark.parametrize(
        ("name", "files", "kind"),
        [
            ("nvme0n1", {}, "nvme"),
            ("sda", {"queue__rotational": "1", "device__vendor": "ATA"}, "hdd"),
            ("sda", {"queue__rotational": "0", "device__vendor": "ATA"}, "ssd"),
            ("sda", {"queue__rotational": "1", "device__vendor": "QEMU"}, "virtual"),
            ("sda", {"queue__rotational": "1", "device__vendor": "VMware,"}, "virtual"),
            ("sda", {}, "unknown"),
            # Virtual disks say that they rotate.
            ("vda", {"queue__rotational": "1"}, "virtual"),
            ("rbd0", {"queue__rotational": "0"}, "unknown"),
        ],
    )
    def test_kind_of_a_disk_and_of_its_partition(self, host, name, files, kind):
        block(host, name, f"pci0/{name}", parts=["p1"], **files)
        for number, target in (("8:0", f"/sys/devices/pci0/{name}"), ("8:1", f"/sys/devices/pci0/{name}/p1")):
            link(host, f"/sys/dev/block/{number}", target)
            mounted(host, number)
            assert machine.read_disk(host, "/srv/models", "/srv") == {
                "path": "/srv/models",
                "mount": "/srv",
                "file_system": "ext4",
                "devices": [{"name": name, "kind": kind}],
                "kind": kind,
            }

    def test_a_disk_at_the_other_end_of_a_network(self, host):
        block(host, "nvme3n1", "virtual/nvme3n1")
        write(host, "/sys/class/nvme/nvme3/transport", "tcp\n")
        link(host, "/sys/dev/block/259:0", "/sys/devices/virtual/nvme3n1")
        mounted(host, "259:0")
        assert self.kind(host) == "network"

    @pytest.mark.parametrize(
        ("second", "kind"),
        [({"queue__rotational": "1"}, "hdd"), ({"queue__rotational": "0"}, "ssd"), ({}, "unknown")],
    )
    def test_a_volume_is_as_slow_as_its_slowest_disk(self, host, second, kind):
        # LVM on a RAID of an NVMe partition and a whole SATA disk.
        block(host, "nvme0n1", "pci0/nvme0n1", parts=["nvme0n1p2"])
        block(host, "sdb", "pci1/sdb", **second)
        block(host, "md0", "virtual/md0", slaves=["pci0/nvme0n1/nvme0n1p2", "pci1/sdb"])
        block(host, "dm-0", "virtual/dm-0", slaves=["virtual/md0"])
        link(host, "/sys/dev/block/253:0", "/sys/devices/virtual/dm-0")
        mounted(host, "253:0")
        found = machine.read_disk(host, "/srv/models", "/srv")
        assert [item["name"] for item in found["devices"]] == ["nvme0n1", "sdb"]
        assert found["kind"] == kind

    def test_btrfs_has_a_number_of_its_own(self, host):
        block(host, "nvme0n1", "pci0/nvme0n1")
        mounted(host, "0:45", "btrfs", "/dev/nvme0n1")
        assert self.kind(host) == "nvme"

    @pytest.mark.parametrize(
        ("file_system", "kind"),
        [("nfs4", "network"), ("lustre", "network"), ("tmpfs", "memory"), ("overlay", "unknown")],
    )
    def test_what_lies_on_no_disk_of_the_host(self, host, file_system, kind):
        mounted(host, "0:45", file_system, "server:/export")
        assert self.kind(host) == kind

    def test_the_upper_one_of_two_mounts_counts(self, host):
        write(
            host,
            "/proc/self/mountinfo",
            "1 0 8:1 / /a\\040b rw - ext4 /dev/sda rw\n2 1 0:9 / /a\\040b rw - tmpfs t rw\n",
        )
        assert machine.read_disk(host, "/a b", "/a b")["kind"] == "memory"


@pytest.mark.parametrize(
    ("now", "skew"), [(100.0, 0.0), (103.0, 0.0), (110.0, 0.0), (110.5, 0.5), (99.0, -1.0), (3710.0, 3600.0)]
)
def test_the_time_that_the_question_took_is_no_skew(now, skew):
    assert machine.clock_skew(now, 100.0, 110.0) == skew


def test_the_clock_is_that_of_this_host():
    before = time.time()
    found = machine.read_clock()
    assert before <= found["now"] <= time.time()
    assert found["synchronised"] in (True, False, None)


@pytest.mark.parametrize(("status", "synchronised"), [(0x2001, True), (0x40, False), (0x2041, False)])
def test_synchronised_is_what_the_kernel_says(monkeypatch, status, synchronised):
    class Library:
        @staticmethod
        def adjtimex(record):
            struct.pack_into("iiqqqqi", record, 0, 0, 0, 0, 0, 0, 0, status)
            return 0

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda *dummy, **more: Library())
    assert machine.read_clock()["synchronised"] is synchronised


def test_sources_of_both_forms_without_those_that_are_switched_off():
    one_line = """# deb http://commented.example/debian bookworm main
deb [signed-by=/usr/share/keyrings/x.gpg arch=amd64] https://one.example/debian bookworm main
deb-src http://two.example/debian bookworm main
deb file:/srv/packages ./
deb http://two.example/debian bookworm main
"""
    stanzas = """# A comment
Types: deb
URIs: http://three.example/debian
 http://four.example/debian
Suites: trixie
# Signed-By: x

Types: deb
Enabled: no
URIs: http://off.example/debian
"""
    assert machine.parse_apt_sources([("a.list", one_line), ("b.sources", stanzas)]) == [
        "https://one.example/debian",
        "http://two.example/debian",
        "http://three.example/debian",
        "http://four.example/debian",
    ]


def test_sources_are_read_from_all_places(host):
    write(host, "/etc/apt/sources.list", "deb http://a.example/ x main\n")
    write(host, "/etc/apt/sources.list.d/b.sources", "Types: deb\nURIs: http://b.example/\n")
    write(host, "/etc/apt/sources.list.d/c.list.save", "deb http://c.example/ x main\n")
    assert machine.read_apt_sources(host) == ["http://a.example/", "http://b.example/"]


def test_proxies_of_tasks_and_of_apt_without_their_passwords(host):
    host.commands["apt-config"] = (
        'Acquire "";\nAcquire::http "";\nAcquire::http::Proxy "http://me:secret@cache.example:3142";\n'
        'Acquire::http::Proxy::direct.example "DIRECT";\nAcquire::https::Proxy "DIRECT";\n'
    )
    found = machine.read_proxies(
        host, {"HTTPS_PROXY": "http://me:secret@proxy.example:3128", "no_proxy": "localhost, .example,"}
    )
    assert found == {
        "environment": {"https": "http://proxy.example:3128"},
        "apt": {"http": "http://cache.example:3142"},
        "exceptions": ["localhost", ".example"],
    }


class TestNames:
    def test_all_are_asked_at_once_and_none_for_long(self):
        def resolver(name):
            time.sleep({"slow": 30.0, "good": 0.2}.get(name, 0.2))
            return "" if name == "good" else "Name or service not known"

        start = time.monotonic()
        names = ["good", "slow", *(f"bad-{number}" for number in range(8))]
        found = machine.resolve_all(names, resolver, seconds=1.0)
        assert time.monotonic() - start < 1.9
        assert found["good"] == ""
        assert found["slow"] == "no answer within 1 s"
        assert found["bad-7"] == "Name or service not known"

    def test_a_resolver_that_hangs_does_not_keep_the_module_from_ending(self):
        script = (
            f"import sys, time; sys.path[:0] = {sys.path!r};"
            f"from {machine.__name__} import resolve_all;"
            "print(resolve_all(['name'], lambda name: time.sleep(60), 0.1))"
        )
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50)
        assert "no answer within 0.1 s" in done.stdout
        assert time.monotonic() - start < 40

    def test_a_name_that_cannot_be_is_an_answer(self):
        assert machine.resolve("localhost") == ""
        assert machine.resolve("name.invalid")
        assert machine.resolve("x" * 70 + ".example")


LISTED = """install ok installed bash 5.2.15-2
install ok half-configured nvidia-dkms-580-open 580.95.05-0ubuntu1
install reinstreq half-installed broken-one 1
install ok triggers-pending libc-bin 2.36-9
deinstall ok config-files old 1
hold ok installed nvidia-driver-580-open 580.95.05-0ubuntu1
install ok installed libnvidia-compute-580 580.95.05-0ubuntu1
hold ok installed linux-image-amd64 6.1.148-1
install ok installed nvidia-container-toolkit 1.20.0-1
install ok installed libnvidia-container1 1.20.0-1
"""


def test_packages_in_the_middle_of_something_and_holds():
    assert machine.parse_packages(LISTED) == {
        "broken": [
            {"name": "nvidia-dkms-580-open", "state": "half-configured"},
            {"name": "broken-one", "state": "reinstall required"},
        ],
        "driver_held": ["nvidia-driver-580-open"],
        "driver_not_held": ["libnvidia-compute-580"],
        "kernel_held": ["linux-image-amd64"],
    }


def test_dpkg_prints_what_is_parsed():
    """The real dpkg-query, since its fields have names that a table of outputs would not notice."""
    if not os.path.exists("/var/lib/dpkg/status"):
        pytest.skip("no dpkg on this machine")

    class Asked(System):
        def run(self, argv, timeout_seconds=10):
            answer = super().run(argv, timeout_seconds)
            lines.extend(answer.stdout.splitlines())
            return answer

    lines: list[str] = []
    found = machine.read_packages(Asked())
    assert found is not None
    assert len(lines) > 50
    assert [line for line in lines if len(line.split()) not in (4, 5)] == []
    assert [line for line in lines if line.startswith("install ok installed dpkg ")]


def test_a_host_without_dpkg_has_no_packages(host):
    assert machine.read_packages(host) is None


class TestPackageLock:
    HOLD = (
        "import fcntl, sys, time; handle = open(sys.argv[1], 'r+'); fcntl.lockf(handle, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )

    @pytest.fixture
    def hold(self, host):
        write(host, "/var/lib/dpkg/lock-frontend")
        started = []

        def run(seconds):
            path = host.path("/var/lib/dpkg/lock-frontend")
            process = subprocess.Popen([sys.executable, "-c", self.HOLD, path, str(seconds)], stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            started.append(process)
            return process.pid

        yield run
        for process in started:
            process.kill()
            process.communicate()

    def test_who_holds_it_is_named(self, host, hold):
        pid = hold(30)
        write(host, f"/proc/{pid}/comm", "apt-get\n")
        assert machine.read_package_lock(host, 0.3) == {
            "path": "/var/lib/dpkg/lock-frontend",
            "pid": pid,
            "process": "apt-get",
        }

    def test_who_is_done_in_a_moment_is_waited_for(self, host, hold):
        hold(0.5)
        assert machine.read_package_lock(host, 10) is None

    def test_looking_takes_no_lock(self, host):
        write(host, "/var/lib/dpkg/lock-frontend")
        start = time.monotonic()
        assert machine.read_package_lock(host) is None
        assert time.monotonic() - start < 0.5
        with open(host.path("/var/lib/dpkg/lock-frontend"), "r+", encoding="utf-8") as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_what_cannot_be_seen_is_no_lock(self, host):
        assert machine.lock_holder(host.path("/nowhere")) is None


class TestSecureBoot:
    @pytest.fixture
    def host(self, tmp_path):
        host = Host(tmp_path)
        path = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
        write(host, path)
        with open(host.path(path), "wb") as handle:
            handle.write(b"\x06\x00\x00\x00\x01")
        return host

    @pytest.mark.parametrize(
        ("answer", "enrolled"),
        [("/k is already enrolled\n", True), ((1, "/k is not enrolled\n"), False), (None, None)],
    )
    def test_the_key_of_dkms_and_whether_the_firmware_knows_it(self, host, answer, enrolled):
        if answer is not None:
            host.commands["mokutil"] = answer
        assert machine.read_boot_trust(host) == {"secure_boot": True, "key": "", "key_enrolled": None}
        write(host, "/var/lib/dkms/mok.pub")
        assert machine.read_boot_trust(host) == {
            "secure_boot": True,
            "key": "/var/lib/dkms/mok.pub",
            "key_enrolled": enrolled,
        }

    def test_without_secure_boot_no_key_is_looked_for(self, tmp_path):
        assert machine.read_boot_trust(Host(tmp_path)) == {"secure_boot": None, "key": "", "key_enrolled": None}


def test_everything_of_an_empty_host_is_an_answer(host):
    found = machine.read_machine(host, {"/srv/models": "/srv"}, ["name.example"], {}, lambda name: "no")
    assert found["virtualisation"] == ""
    assert found["container"] is False
    assert found["memory_bytes"] is None
    assert found["packages"] is None
    assert found["gpus"] == []
    assert found["names"] == {"name.example": "no"}


def test_names_of_sources_and_proxies_are_asked_too_each_once(host):
    write(host, "/etc/apt/sources.list", "deb http://a.example/ x main\ndeb http://10.0.0.1/ x main\n")
    host.commands["apt-config"] = 'Acquire::http::Proxy "http://cache.example:3142";\n'
    found = machine.read_machine(host, {}, ["a.example"], {"https_proxy": "http://proxy.example"}, lambda name: "")
    assert sorted(found["names"]) == ["a.example", "cache.example", "proxy.example"]


def test_a_gpu_on_the_bus_is_seen_without_a_driver(host):
    host.commands["systemd-detect-virt"] = (1, "none\n")
    folder = "/sys/bus/pci/devices/0000:1b:00.0"
    for name, text in (("vendor", "0x10de"), ("device", "0x2330"), ("class", "0x030200")):
        write(host, f"{folder}/{name}", f"{text}\n")
    found = machine.read_machine(host, {}, (), {})
    assert [(item["pci_device"], item["driver"]) for item in found["gpus"]] == [("10de:2330", "")]
    assert (found["virtualisation"], found["driver_loaded"], found["acs_redirecting_bridges"]) == ("none", False, [])


@pytest.mark.parametrize("name", fake_host.machines())
def test_a_healthy_gpu_host_of_files_and_outputs_gives_no_finding(name, tmp_path):
    """The same machines that gpu_info is tested with, read and judged as preflight does."""
    fake = fake_host.FakeHost(name)
    fake.write(tmp_path)
    packages = [line.split("\t") for line in fake.all_commands()["dpkg-query"][1].splitlines()]
    host = Host(tmp_path)
    host.commands = {
        "systemd-detect-virt": fake.all_commands()["systemd-detect-virt"][:2],
        "dpkg-query": "".join(
            f"{want} ok {state} {name} {version}\n" for name, version, state, want, *dummy in packages
        ),
    }
    found = machine.read_machine(host, {}, (), {}, lambda name: "")
    found["clock"]["synchronised"] = True
    assert len(found["gpus"]) == len(fake.description["pci"]["gpus"]) > 0
    assert found["packages"]["driver_held"]
    state = HostState(readiness={"distribution": machine_of(fake), "machine": found})
    checks = MachineChecks(Site([], [], [], {"gpu_hosts": ["g"]}, 0, hosts={"g": state}))
    checks.check("g", state.readiness, {}, [])
    assert [(item.code, item.message) for item in checks.findings] == []

    # And with one thing changed, exactly that is said.
    fake.description["pci"]["gpus"][-1]["driver"] = "nouveau"
    fake.write(tmp_path / "changed")
    changed = machine.read_machine(Host(tmp_path / "changed", host.commands), {}, (), {}, lambda name: "")
    changed["clock"]["synchronised"] = True
    state.readiness["machine"] = changed
    checks = MachineChecks(checks.site)
    checks.check("g", state.readiness, {}, [])
    assert [item.code for item in checks.findings] == ["gpu-driver-rival"]


def machine_of(fake):
    platform = fake.description["platform"]
    return {"id": platform["distribution"], "version": platform["distribution_version"]}
