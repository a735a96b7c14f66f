# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The toolkits on a real Debian host with the real apt. The later tests move packages, in this order."""

from __future__ import annotations

import json
import re
import time

import pytest
import yaml

PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
SPECIFICATION = "/var/run/cdi/nvidia.yaml"


def versions(gpu, *names: str) -> set[str]:
    return {gpu.package(name).version for name in names or PACKAGES}


def holds(gpu) -> set[str]:
    return set(gpu.check_output("apt-mark showhold").split())


# --- As the playbook left it


def test_the_four_packages_have_one_version_and_are_held(gpu):
    assert versions(gpu) == {"1.20.0-1"}
    assert set(PACKAGES) <= holds(gpu)


def test_the_source_has_its_own_key_and_the_one_with_another_key_is_gone(gpu):
    source = gpu.file("/etc/apt/sources.list.d/baremetal-llm-container-toolkit.sources")
    assert "Signed-By: /etc/apt/keyrings/baremetal-llm-container-toolkit.asc" in source.content_string
    assert not gpu.file("/etc/apt/sources.list.d/nvidia-container-toolkit.list").exists
    # The key is not trusted for anything else.
    assert gpu.check_output("ls /etc/apt/trusted.gpg.d | grep -c baremetal || true") == "0"
    assert gpu.run("apt-get update").rc == 0


def test_what_containers_read_is_written_and_kept_up_to_date(gpu):
    specification = yaml.safe_load(gpu.file(SPECIFICATION).content_string)
    assert specification["kind"] == "nvidia.com/gpu"
    for unit in ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service"):
        assert gpu.service(unit).is_enabled
    assert gpu.service("nvidia-cdi-refresh.path").is_running


def test_a_reload_of_systemd_takes_the_specification_from_nobody_and_a_new_driver_renews_it(gpu):
    gpu.check_output("systemctl daemon-reload")
    assert gpu.file(SPECIFICATION).exists
    gpu.check_output(f"rm {SPECIFICATION}")
    gpu.check_output("echo updates/dkms/nvidia-uvm.ko: >> /lib/modules/$(uname -r)/modules.dep")
    deadline = time.monotonic() + 20
    while not gpu.file(SPECIFICATION).exists and time.monotonic() < deadline:
        time.sleep(0.5)
    assert gpu.file(SPECIFICATION).exists


def test_docker_learns_of_the_gpus_keeps_its_settings_and_is_not_restarted(gpu):
    settings = json.loads(gpu.file("/etc/docker/daemon.json").content_string)
    assert settings["runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"
    assert settings["features"]["cdi"] is True
    assert settings["log-driver"] == "journald"
    assert settings["runtimes"]["other"]["path"] == "/usr/bin/other"
    assert gpu.file("/var/log/stand-in-dockerd.log").content_string == "started\n"


def test_the_cuda_toolkit_is_whole_pinned_and_held(gpu):
    assert versions(gpu, "cuda-toolkit-13-3", "cuda-compiler-13-3", "cuda-libraries-13-3") == {"13.3.0-1"}
    installed = gpu.check_output("dpkg-query --show --showformat='${Package} ' '*-13-3*'").split()
    assert len(installed) == 6
    assert set(installed) <= holds(gpu)
    # The alternatives of the packages, untouched.
    assert gpu.file("/etc/alternatives/cuda").linked_to == "/usr/local/cuda-13.3"
    assert not [name for name in installed if "driver" in name]


# --- What must not move them


def test_a_full_upgrade_moves_none_of_them(gpu):
    newer = gpu.check_output("apt-cache madison nvidia-container-toolkit cuda-toolkit-13-3")
    assert "1.20.1-1" in newer
    assert "13.3.1-1" in newer
    gpu.check_output("apt-get --yes full-upgrade")
    assert versions(gpu) == {"1.20.0-1"}
    assert versions(gpu, "cuda-toolkit-13-3", "cuda-compiler-13-3") == {"13.3.0-1"}


def test_without_the_holds_the_pin_still_keeps_them(gpu):
    gpu.check_output(f"apt-mark unhold {' '.join(PACKAGES)}")
    try:
        simulation = gpu.check_output("apt-get --simulate full-upgrade")
        assert "Inst nvidia" not in simulation
        assert "Inst libnvidia" not in simulation
    finally:
        gpu.check_output(f"apt-mark hold {' '.join(PACKAGES)}")


def test_unattended_upgrades_leave_them_alone(gpu):
    """Without hold and pin it is the list of the role that keeps the real program away; without that it would go."""
    names = [*PACKAGES, "cuda-toolkit-13-3", "cuda-compiler-13-3", "cuda-libraries-13-3"]
    pin = "/etc/apt/preferences.d/baremetal-llm-container-toolkit"
    lists = [f"/etc/apt/apt.conf.d/52baremetal-llm-{role}-toolkit" for role in ("container", "cuda")]

    def wanted() -> set[str]:
        output = gpu.check_output("unattended-upgrade --dry-run --debug 2>&1")
        chosen = re.search(r"Packages that will be upgraded: ?(.*)", output)
        return set(chosen[1].split()) & set(names) if chosen else set()

    gpu.check_output(f"apt-mark unhold {' '.join(names)} && mv {pin} /root/pin")
    try:
        assert wanted() == set()
        gpu.check_output(f"mkdir -p /root/lists && mv {' '.join(lists)} /root/lists")
        try:
            assert wanted() == set(names)
        finally:
            gpu.check_output("mv /root/lists/* /etc/apt/apt.conf.d/")
    finally:
        gpu.check_output(f"mv /root/pin {pin} && apt-mark hold {' '.join(names)}")


# --- Changes


@pytest.mark.parametrize("version", ["1.20.1", "1.19.1-1"])
def test_the_version_moves_up_and_down_as_one(gpu, converge, version):
    done = converge(container_toolkit_version=version)
    assert done.returncode == 0, done.stdout + done.stderr
    assert versions(gpu) == {version.removesuffix("-1") + "-1"}
    assert set(PACKAGES) <= holds(gpu)
    # A specification of the version that is there, not of the one that was.
    assert f"nvidia-ctk {version.removesuffix('-1')}:" in gpu.file(SPECIFICATION).content_string


def test_a_part_that_somebody_moved_comes_back(gpu, converge):
    """From there the playbook goes back to its own version."""
    others = [name for name in PACKAGES if name != "libnvidia-container1"]
    gpu.check_output(
        "apt-get install --yes --allow-change-held-packages"
        f" {' '.join(f'{name}=1.20.1-1' for name in PACKAGES)} && apt-mark unhold {' '.join(others)}"
    )
    done = converge()
    assert done.returncode == 0, done.stdout + done.stderr
    assert versions(gpu) == {"1.20.0-1"}
    assert set(PACKAGES) <= holds(gpu)


def test_a_version_that_the_source_lacks_is_refused_and_what_it_has_is_named(gpu, converge):
    before = gpu.check_output("cat /etc/apt/preferences.d/baremetal-llm-container-toolkit; dpkg-query --show")
    done = converge(container_toolkit_version="1.20.9")
    assert done.returncode != 0
    text = " ".join(done.stdout.split()) + " ".join(done.stderr.split())
    assert "do not have version 1.20.9 (container_toolkit_version)" in text
    assert "1.20.1-1, 1.20.0-1, 1.19.1-1, 1.19.0-1" in text
    assert gpu.check_output("cat /etc/apt/preferences.d/baremetal-llm-container-toolkit; dpkg-query --show") == before


def test_a_key_with_another_digest_is_not_taken(gpu, converge):
    key = "/etc/apt/keyrings/baremetal-llm-container-toolkit.asc"
    before = gpu.file(key).sha256sum
    done = converge(container_toolkit_keyring_sha256="0" * 64)
    assert done.returncode != 0
    assert "checksum" in (done.stdout + done.stderr).lower()
    assert gpu.file(key).sha256sum == before


def test_docker_is_restarted_once_when_that_is_allowed(gpu, converge):
    log = gpu.file("/var/log/stand-in-dockerd.log")
    done = converge(tags="container_toolkit_configure", container_toolkit_restart_docker_ok=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert log.content_string == "started\n" * 2
    assert "does not know the GPUs yet" not in done.stdout
    gpu.check_output("sleep 1; touch /etc/docker/daemon.json")
    done = converge(tags="container_toolkit_configure")
    assert "changed=0" in done.stdout
    assert "Docker on toolkit-1 does not know the GPUs yet" in done.stdout
    assert log.content_string == "started\n" * 2


def test_a_cuda_toolkit_moves_and_another_series_stays_beside_it(gpu, converge):
    assert converge(tags="cuda_toolkit", cuda_toolkit_version="13.3.1").returncode == 0
    assert versions(gpu, "cuda-toolkit-13-3", "cuda-compiler-13-3") == {"13.3.1-1"}
    assert converge(tags="cuda_toolkit", cuda_toolkit_version="13.4.1").returncode == 0
    assert gpu.file("/etc/alternatives/cuda").linked_to == "/usr/local/cuda-13.4"
    assert {"cuda-toolkit-13-3", "cuda-toolkit-13-4", "cuda-nvcc-13-4"} <= holds(gpu)
