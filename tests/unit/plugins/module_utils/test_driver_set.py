# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages are the driver.

Debian's offers are what `apt-cache` of Debian 12 and 13 printed in November 2026 (driver_set_offers). Those of Ubuntu
and NVIDIA are the descriptions of the stand-in archives (tests/fakes/apt), with published names and versions.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import driver_set_data as data
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set import (
    architecture_of,
    changes_of,
    check_wish,
    fabric_of,
    resolve,
    unattended_text,
)
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_host import (
    make_offers,
    parse_preferences,
    parse_relations,
)
from ansible_collections.baremetal.llm.plugins.module_utils.driver_set_values import (
    AptPin,
    Host,
    Installed,
    Offer,
    Relation,
    Wanted,
    compare_versions,
    is_family,
    same_repository,
    upstream,
    version_key,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tests/fakes/apt"))
import fake_apt_repository  # noqa: E402

CANONICAL = "http://archive.example.net/ubuntu noble-updates/restricted"
CUDA = "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64 "
H100, B200, GB200, V100, T4, RTX_4090 = "10de:2330", "10de:2901", "10de:2941", "10de:1db1", "10de:1eb8", "10de:2684"
KERNEL = "6.8.0-136-generic"

UBUNTU = Host("ubuntu", "24.04", "amd64", kernels=(KERNEL,), gpus=(H100,) * 8)
DEBIAN = Host("debian", "12", "amd64", kernels=("6.1.0-50-cloud-amd64",), gpus=(T4,))


@cache
def recorded(name):
    texts = [(HERE / f"driver_set_offers/{name}_{part}.txt").read_text() for part in ("show", "madison", "policy")]
    return make_offers(*texts)


@cache
def stand_in(description, archive, origin, before="", after=""):
    offers = {}
    for package in fake_apt_repository.packages(fake_apt_repository.load(description)):
        fields = {name: value.replace(before, after) if before else value for name, value in package.control}
        name, version = fields["Package"], fields["Version"]
        offers.setdefault(name, []).append(
            Offer(
                name,
                version,
                ((archive, origin),),
                parse_relations(fields.get("Depends", "")),
                tuple(group[0] for group in parse_relations(fields.get("Provides", ""))),
            )
        )
    for every in offers.values():
        every.sort(key=lambda offer: version_key(offer.version), reverse=True)
    return offers


def merged(*every):
    offers = {}
    for each in every:
        for name, found in each.items():
            offers.setdefault(name, []).extend(found)
    for found in offers.values():
        found.sort(key=lambda offer: version_key(offer.version), reverse=True)
    return offers


def canonical():
    return stand_in("canonical_580", CANONICAL, "Ubuntu")


def suffixed():
    return stand_in("nvidia_cuda_suffixed_580", CUDA, "NVIDIA")


def unsuffixed():
    return stand_in("nvidia_cuda_unsuffixed_610", CUDA, "NVIDIA")


def kernels():
    """The kernels and headers of Ubuntu's archive alone."""
    return {name: found for name, found in canonical().items() if name.startswith(("linux-image", "linux-headers"))}


def codes(chosen):
    return [finding.code for finding in chosen.refusals]


def text(chosen):
    return " ".join(f"{finding.variable} {finding.message} {finding.action}" for finding in chosen.refusals)


def installed(packages, **more):
    return {name: Installed(version, **more) for name, version in packages.items()}


def one_version(chosen):
    """The driver's versions among the packages: there must be one."""
    return {
        upstream(version)
        for name, version in chosen.packages.items()
        if is_family(name)
        and not name.startswith(("linux-", "nvlsm", "nvidia-driver-pinning-6", "nvidia-driver-pinning-5"))
    }


# --- Versions


def test_versions_sort_as_dpkg_sorts_them():
    ordered = [
        "1.0~rc1-1",
        "1.0-1",
        "1.0-1ubuntu1",
        "580.9-1",
        "580.159.04-1ubuntu1",
        "580.178.04-0ubuntu0.24.04.1",
        "580.178.04-1~deb12u1",
        "580.178.04-1",
        "6.8.0-136.136",
        "1:0.1-1",
    ]
    # dpkg has its say in molecule; these come from its manual and from reality.
    ordered = ordered[:3] + ["6.8.0-136.136", "6.8.0-136.136+1", "6.8.0-139.139"] + ordered[3:8] + ordered[9:]
    shuffled = ordered[:]
    random.Random(1).shuffle(shuffled)
    assert sorted(shuffled, key=version_key) == ordered
    assert compare_versions("1.0-0", "1.0-00") == 0


# --- Hardware


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("10de:1db1", "volta"),
        ("10de:1eb8", "turing"),
        ("10de:20b0", "ampere"),
        ("10de:2235", "ampere"),
        ("10de:2184", "turing"),
        ("10de:26b9", "ada"),
        ("10de:2330", "hopper"),
        ("10de:2342", "grace hopper"),
        ("10de:2901", "blackwell"),
        ("10de:2b85", "blackwell"),
        ("10de:3182", "blackwell ultra"),
        ("10de:17c2", "maxwell"),
        ("10de:1b06", "pascal"),
        ("10de:15f8", "pascal"),
        ("10de:102d", "kepler or older"),
        ("10de:7fff", ""),
    ],
)
def test_architectures(device, expected):
    assert architecture_of(device) == expected


def test_hopper_below_an_arm_host_is_grace_hopper():
    assert architecture_of(H100, "arm64") == "grace hopper"


def test_ranges_do_not_overlap():
    ends = [-1, *(last for _first, last, _name in data.DEVICE_RANGES)]
    assert all(first > before for (first, _last, _name), before in zip(data.DEVICE_RANGES, ends))
    assert {name for _first, _last, name in data.DEVICE_RANGES} <= set(data.ARCHITECTURES)


def test_fabrics():
    assert fabric_of([H100] * 8, 4) == "nvswitch"
    assert fabric_of([H100], 0) == "none"
    assert fabric_of([B200] * 8, 0) == "nvlink5"
    assert fabric_of([GB200] * 4, 0) == "nvlink5_multinode"


# --- Canonical


def test_signed_modules_are_what_canonical_is_for():
    chosen = resolve(Wanted("canonical", "580"), UBUNTU, canonical())
    assert codes(chosen) == []
    assert (chosen.version, chosen.flavour, chosen.modules) == ("580.178.04", "open", "prebuilt")
    assert chosen.packages[f"linux-modules-nvidia-580-server-open-{KERNEL}"] == "6.8.0-136.136+1"
    assert chosen.packages[f"linux-signatures-nvidia-{KERNEL}"] == "6.8.0-136.136+1"
    assert chosen.packages["linux-modules-nvidia-580-server-open-generic"] == "6.8.0-136.136+1"
    assert chosen.packages["nvidia-utils-580-server"] == "580.178.04-0ubuntu0.24.04.1"
    assert one_version(chosen) == {"580.178.04"}
    assert not [name for name in chosen.packages if "dkms" in name and "no-dkms" not in name]


def test_the_same_on_2204_with_its_own_versions():
    offers = stand_in("canonical_580", CANONICAL, "Ubuntu", "0ubuntu0.24.04", "0ubuntu0.22.04")
    chosen = resolve(Wanted("auto", "580"), replace(UBUNTU, release="22.04"), offers)
    assert (chosen.source, chosen.packages["nvidia-utils-580-server"]) == ("canonical", "580.178.04-0ubuntu0.22.04.1")


def test_modules_follow_the_driver_down():
    chosen = resolve(Wanted("canonical", version="580.173.02"), UBUNTU, canonical())
    assert chosen.packages[f"linux-modules-nvidia-580-server-open-{KERNEL}"] == "6.8.0-136.136"
    assert one_version(chosen) == {"580.173.02"}


def test_every_kernel_gets_modules():
    host = replace(UBUNTU, kernels=("6.8.0-139-generic", KERNEL))
    chosen = resolve(Wanted("canonical", "580"), host, canonical())
    assert {f"linux-modules-nvidia-580-server-open-{kernel}" for kernel in host.kernels} <= set(chosen.packages)


def test_no_signed_modules_for_a_kernel_means_dkms_and_headers():
    host = replace(UBUNTU, kernels=("6.8.0-139-generic",))
    chosen = resolve(Wanted("canonical", version="580.173.02"), host, canonical())
    assert (codes(chosen), chosen.modules) == ([], "dkms")
    assert chosen.packages["nvidia-dkms-580-server-open"] == "580.173.02-0ubuntu0.24.04.1"
    assert chosen.packages["linux-headers-6.8.0-139-generic"] == "6.8.0-139.139"


def test_secure_boot_takes_signed_modules_or_nothing():
    host = replace(UBUNTU, kernels=("6.8.0-139-generic",), secure_boot=True)
    assert resolve(Wanted("canonical", "580"), host, canonical()).modules == "prebuilt"
    refused = resolve(Wanted("canonical", version="580.173.02"), host, canonical())
    assert codes(refused) == ["driver-set-incomplete"]
    assert "is there for 580.178.04" in text(refused)
    assert "Secure Boot" in text(refused)


@pytest.mark.parametrize(("source", "modules"), [("nvidia", "auto"), ("canonical", "dkms")])
def test_secure_boot_refuses_modules_built_on_the_host(source, modules):
    host = replace(UBUNTU, secure_boot=True)
    offers = merged(canonical(), suffixed())
    refused = resolve(Wanted(source, "580", modules=modules), host, offers)
    assert codes(refused) == ["driver-secure-boot-unsigned"]
    assert "canonical" in text(refused)
    assert "mokutil --import" in text(refused)
    assert refused.packages == {}
    enrolled = resolve(Wanted(source, "580", modules=modules), replace(host, dkms_key_enrolled=True), offers)
    assert codes(enrolled) == []


def test_prebuilt_modules_are_canonicals_alone():
    refused = resolve(Wanted("nvidia", "580", modules="prebuilt"), UBUNTU, merged(suffixed(), kernels()))
    assert codes(refused) == ["driver-modules-impossible"]


def test_a_stub_of_an_ended_branch_is_not_that_branch():
    wanted = Wanted("canonical", "570", accept_end_of_life=True)
    refused = resolve(wanted, UBUNTU, canonical())
    assert codes(refused) == ["driver-branch-not-offered"]
    assert "580: 580.178.04, 580.173.02" in text(refused)


def test_what_the_archive_dropped_is_named_with_what_it_has():
    refused = resolve(Wanted("canonical", version="580.159.03"), UBUNTU, canonical())
    assert codes(refused) == ["driver-version-not-offered"]
    assert "580.178.04, 580.173.02" in text(refused)


def test_the_names_of_canonicals_fabric_parts_have_a_branch():
    chosen = resolve(Wanted("canonical", "580"), replace(UBUNTU, fabric="nvswitch"), canonical())
    assert chosen.parts == ("fabric manager", "NSCQ")
    assert chosen.packages["nvidia-fabricmanager-580"] == "580.178.04-0ubuntu0.24.04.1"
    assert chosen.packages["libnvidia-nscq-580"] == "580.178.04-0ubuntu0.24.04.1"


def test_canonical_has_nothing_for_nvlink5():
    refused = resolve(Wanted("canonical", "580"), replace(UBUNTU, gpus=(B200,), fabric="nvlink5"), canonical())
    assert codes(refused) == ["driver-set-incomplete"]
    assert "subnet manager" in text(refused)


# --- NVIDIA, before 590


def test_before_590_names_have_a_branch_but_the_fabric_parts_do_not():
    chosen = resolve(Wanted("nvidia", "580"), replace(UBUNTU, fabric="nvlink5"), merged(suffixed(), kernels()))
    assert codes(chosen) == []
    assert chosen.packages["nvidia-dkms-580-open"] == "580.178.04-1ubuntu1"
    assert chosen.packages["nvidia-fabricmanager"] == "580.178.04-1"
    assert chosen.packages["libnvidia-nscq"] == "580.178.04-1"
    assert chosen.packages["libnvsdm"] == "580.178.04-1"
    assert chosen.packages["nvlsm"] == "2025.10.14-1"
    assert chosen.packages["nvidia-driver-pinning-580.178.04"] == "580.178.04-1ubuntu1"
    assert "nvidia-fabricmanager-580" not in chosen.packages
    assert one_version(chosen) == {"580.178.04"}


def test_below_580_the_fabric_parts_have_a_branch_too():
    wanted = Wanted("nvidia", "570", accept_end_of_life=True)
    chosen = resolve(wanted, replace(UBUNTU, fabric="nvswitch"), merged(suffixed(), kernels()))
    assert chosen.packages["nvidia-fabricmanager-570"] == "570.211.01-1"
    assert "nvidia-fabricmanager" not in chosen.packages


def test_a_pin_for_what_has_its_own_version():
    wanted = Wanted("nvidia", "580", package_versions={"nvlsm": "2025.10.12-1"})
    host = replace(UBUNTU, fabric="nvlink5")
    assert resolve(wanted, host, merged(suffixed(), kernels())).packages["nvlsm"] == "2025.10.12-1"
    refused = resolve(replace(wanted, package_versions={"nvlsm": "1"}), host, merged(suffixed(), kernels()))
    assert codes(refused) == ["driver-set-incomplete"]


def test_imex_alone_where_nvlink_reaches_over_hosts():
    host = replace(UBUNTU, gpus=(GB200,), fabric="nvlink5_multinode")
    chosen = resolve(Wanted("nvidia", "580"), host, merged(suffixed(), kernels()))
    assert chosen.packages["nvidia-imex"] == "580.178.04-1"
    assert "nvidia-fabricmanager" not in chosen.packages


def test_a_version_without_its_fabric_manager_is_not_taken():
    offers = dict(merged(suffixed(), kernels()))
    offers["nvidia-fabricmanager"] = [
        offer for offer in offers["nvidia-fabricmanager"] if not offer.version.startswith("580.178")
    ]
    chosen = resolve(Wanted("nvidia", "580"), replace(UBUNTU, fabric="nvswitch"), offers)
    assert chosen.version == "580.173.02"
    assert "580.178.04 is offered as well, but not as a whole: nvidia-fabricmanager" in chosen.notes[0]
    refused = resolve(Wanted("nvidia", version="580.178.04"), replace(UBUNTU, fabric="nvswitch"), offers)
    assert codes(refused) == ["driver-set-incomplete"]
    assert "nvidia-fabricmanager (there is 580.173.02-1" in text(refused)


def test_a_version_of_which_a_dependency_is_missing_is_not_taken():
    offers = dict(merged(suffixed(), kernels()))
    offers["libnvidia-gpucomp-580"] = [
        offer for offer in offers["libnvidia-gpucomp-580"] if not offer.version.startswith("580.178")
    ]
    chosen = resolve(Wanted("nvidia", "580"), UBUNTU, offers)
    assert chosen.version == "580.173.02"
    assert "libnvidia-gpucomp-580 (= 580.178.04-1ubuntu1), which libnvidia-compute-580 needs" in chosen.notes[0]


def test_both_archives_at_once_are_not_mixed():
    """Both have nvidia-kernel-common-580 and the like; only what the source has is taken."""
    offers = merged(canonical(), suffixed(), unsuffixed())
    ours = resolve(Wanted("canonical", "580"), UBUNTU, offers)
    theirs = resolve(Wanted("nvidia", "580"), UBUNTU, offers)
    assert not [version for version in ours.packages.values() if version.endswith("-1ubuntu1")]
    assert not [version for name, version in theirs.packages.items() if "0ubuntu0.24.04" in version]


# --- NVIDIA, from 590


def test_from_590_names_have_no_branch_and_the_pinning_package_comes_first():
    wanted = Wanted("nvidia", "595")
    chosen = resolve(wanted, replace(UBUNTU, fabric="nvswitch"), merged(unsuffixed(), kernels()))
    assert codes(chosen) == []
    assert chosen.version == "595.91.07"
    assert chosen.packages["nvidia-driver-pinning-595.91.07"] == "595.91.07-1ubuntu1"
    assert chosen.packages["nvidia-dkms-open"] == chosen.packages["libnvidia-compute"] == "595.91.07-1ubuntu1"
    assert chosen.packages["nvidia-fabricmanager"] == "595.91.07-1ubuntu1"
    assert one_version(chosen) == {"595.91.07"}
    assert not [name for name in chosen.packages if name.startswith("nvidia-driver-pinning-6")]


def test_the_pinning_package_of_the_branch_where_there_is_none_of_the_version():
    offers = {name: found for name, found in merged(unsuffixed(), kernels()).items() if name[-7:] != "5.91.07"}
    chosen = resolve(Wanted("nvidia", "595"), UBUNTU, offers)
    assert chosen.packages["nvidia-driver-pinning-595"] == "595-1ubuntu1"


def test_a_newer_branch_in_the_same_names_is_left_alone():
    chosen = resolve(Wanted("nvidia", "595"), UBUNTU, merged(unsuffixed(), kernels()))
    assert not [version for version in chosen.packages.values() if version.startswith("610")]


# --- Debian


def test_debian_12_takes_the_version_that_is_whole():
    """Reality: the security archive had 535.309.01 of everything but the open modules."""
    wanted = Wanted("debian", "535", flavour="open", accept_end_of_life=True)
    chosen = resolve(wanted, DEBIAN, recorded("debian_12_2026-11"))
    assert codes(chosen) == []
    assert chosen.version == "535.261.03"
    assert chosen.packages["nvidia-open-kernel-dkms"] == "535.261.03-1"
    assert chosen.packages["libnvidia-ml1"] == "535.261.03-1"
    assert chosen.packages["linux-headers-6.1.0-50-cloud-amd64"] == "6.1.176-1"
    assert "535.309.01 is offered as well, but not as a whole: nvidia-open-kernel-dkms" in chosen.notes[0]
    # Helpers have versions of their own, and not newer ones than the driver where there is a choice.
    assert chosen.packages["nvidia-modprobe"] == "535.161.07-1~deb12u1"
    assert chosen.packages["nvidia-persistenced"] == "535.171.04-1~deb12u1"


def test_debian_12_has_newer_proprietary_modules():
    chosen = resolve(Wanted("debian", "535", accept_end_of_life=True), DEBIAN, recorded("debian_12_2026-11"))
    assert (chosen.flavour, chosen.version) == ("proprietary", "535.309.01")
    assert chosen.packages["nvidia-kernel-dkms"] == "535.309.01-0+deb12u1"
    assert one_version(replace_without_helpers(chosen)) == {"535.309.01"}


def replace_without_helpers(chosen):
    own = (
        "nvidia-persistenced",
        "nvidia-modprobe",
        "nvidia-support",
        "nvidia-kernel-common",
        "nvidia-installer-cleanup",
    )
    return replace(chosen, packages={name: each for name, each in chosen.packages.items() if name not in own})


def test_debian_13():
    host = replace(DEBIAN, release="13", kernels=("6.12.117+deb13-cloud-amd64",))
    wanted = Wanted("debian", "550", flavour="open", accept_end_of_life=True)
    chosen = resolve(wanted, host, recorded("debian_13_2026-11"))
    assert codes(chosen) == []
    assert chosen.packages["nvidia-open-kernel-dkms"] == "550.163.01-2"
    # Reality: a helper of another branch.
    assert chosen.packages["nvidia-modprobe"] == "570.133.07-1"
    refused = resolve(replace(wanted, branch="580"), host, recorded("debian_13_2026-11"))
    assert codes(refused) == ["driver-branch-not-offered"]
    assert "550: 550.163.01" in text(refused)


def test_headers_of_every_kernel_or_a_refusal():
    host = replace(DEBIAN, kernels=("6.1.0-51-cloud-amd64", "6.1.0-50-cloud-amd64"))
    wanted = Wanted("debian", "535", flavour="open", accept_end_of_life=True)
    refused = resolve(wanted, host, recorded("debian_12_2026-11"))
    assert codes(refused) == ["driver-headers-missing"]
    assert "6.1.0-51-cloud-amd64" in text(refused)
    assert "6.1.0-50-cloud-amd64" not in text(refused)
    ignoring = replace(wanted, ignored_kernels=("6.1.0-51-cloud-amd64",))
    assert codes(resolve(ignoring, host, recorded("debian_12_2026-11"))) == []


def test_headers_follow_the_package_that_brings_kernels():
    there = installed({"linux-image-cloud-amd64": "6.1.176-1", "linux-image-6.1.0-50-cloud-amd64": "6.1.176-1"})
    wanted = Wanted("debian", "535", flavour="open", accept_end_of_life=True)
    chosen = resolve(wanted, replace(DEBIAN, installed=there), recorded("debian_12_2026-11"))
    assert chosen.packages["linux-headers-cloud-amd64"] == "6.1.176-1"
    assert {"linux-image-cloud-amd64", "linux-headers-cloud-amd64"} <= set(chosen.hold)
    free = resolve(replace(wanted, hold_kernel=False), replace(DEBIAN, installed=there), recorded("debian_12_2026-11"))
    assert "linux-image-cloud-amd64" not in free.hold


def test_debian_has_nothing_for_nvswitch():
    host = replace(DEBIAN, gpus=(H100,), fabric="nvswitch")
    refused = resolve(Wanted("debian", "535", accept_end_of_life=True), host, recorded("debian_12_2026-11"))
    assert codes(refused) == ["driver-set-incomplete"]
    assert "fabric manager, which this source does not have at all" in text(refused)


# --- Wishes that cannot be met


@pytest.mark.parametrize(
    ("wanted", "host", "code", "words"),
    [
        (Wanted("canonical", "580", "595.91.07"), UBUNTU, "driver-pins-contradict", "branch 595"),
        (
            Wanted("nvidia", "580", "580.178.04", package_versions={"nvidia-fabricmanager": "580.173.02-1"}),
            UBUNTU,
            "driver-pins-contradict",
            "nvidia-fabricmanager",
        ),
        (Wanted("canonical", "585"), UBUNTU, "driver-branch-unknown", "Did you mean"),
        (Wanted("canonical", "latest"), UBUNTU, "driver-branch-unknown", "three digits"),
        (Wanted("canonical"), UBUNTU, "driver-branch-unknown", "both empty"),
        (Wanted("canonical", version="newest"), UBUNTU, "driver-version-invalid", "580.178.04"),
        (Wanted("canonical", "535"), UBUNTU, "driver-branch-ended", "2026-06"),
        (Wanted("canonical", "570"), UBUNTU, "driver-branch-ended", "nvidia_driver_accept_end_of_life"),
        (Wanted("nvidia", "595"), replace(UBUNTU, gpus=(V100,)), "driver-gpu-unsupported", "580"),
        (
            Wanted("canonical", "535", accept_end_of_life=True),
            replace(UBUNTU, gpus=(B200,)),
            "driver-gpu-too-new",
            "570",
        ),
        (
            Wanted("canonical", "580", flavour="open"),
            replace(UBUNTU, gpus=(V100,)),
            "driver-flavour-impossible",
            "volta",
        ),
        (
            Wanted("canonical", "580", flavour="proprietary"),
            replace(UBUNTU, gpus=(B200,)),
            "driver-flavour-impossible",
            "blackwell",
        ),
        (
            Wanted("canonical", "580"),
            replace(UBUNTU, gpus=(V100, B200)),
            "driver-flavour-impossible",
            "different hosts",
        ),
        (Wanted("nvidia", "615", flavour="proprietary"), UBUNTU, "driver-flavour-impossible", "610"),
        (Wanted("canonical", "580"), DEBIAN, "driver-source-unfit", "nvidia or debian"),
        (Wanted("debian", "580"), UBUNTU, "driver-source-unfit", "canonical or nvidia"),
        (Wanted("canonical", "580"), replace(UBUNTU, release="20.04"), "driver-distribution-unsupported", "22.04"),
    ],
)
def test_refused_before_apt_is_asked(wanted, host, code, words):
    refused = check_wish(wanted, host)
    assert codes(refused) == [code]
    assert words in text(refused)
    resolved = resolve(wanted, host, merged(canonical(), suffixed(), unsuffixed()))
    assert codes(resolved) == [code]
    assert (resolved.packages, resolved.changes) == ({}, ())


def test_an_unknown_gpu_is_a_note_and_a_newer_branch_too():
    chosen = check_wish(Wanted("nvidia", "640"), replace(UBUNTU, gpus=("10de:7fff",)))
    assert codes(chosen) == []
    assert chosen.flavour == "open"
    assert "10de:7fff" in chosen.notes[0]
    assert "640" in chosen.notes[1]


def test_old_gpus_get_proprietary_modules():
    chosen = resolve(Wanted("canonical", "580"), replace(UBUNTU, gpus=(V100,)), canonical())
    assert chosen.flavour == "proprietary"
    assert f"linux-modules-nvidia-580-server-{KERNEL}" in chosen.packages
    assert not [name for name in chosen.packages if "-open" in name]


def test_no_offers_at_all():
    refused = resolve(Wanted("nvidia", "580"), UBUNTU, canonical())
    assert codes(refused) == ["driver-source-empty"]
    mirror = resolve(Wanted("nvidia", "580", repository_url="file:///srv/cuda"), UBUNTU, suffixed())
    assert "file:///srv/cuda" in text(mirror)


def test_a_mirror_is_taken_whatever_it_calls_itself():
    offers = merged(stand_in("nvidia_cuda_suffixed_580", "file:/srv/cuda ", "a mirror"), kernels())
    assert codes(resolve(Wanted("nvidia", "580", repository_url="file:///srv/cuda/"), UBUNTU, offers)) == []
    assert codes(resolve(Wanted("nvidia", "580"), UBUNTU, offers)) == ["driver-source-empty"]
    assert not same_repository("http://mirror/cuda2 x/y", "http://mirror/cuda")


# --- Other pins on the host


def test_a_pin_of_somebody_else_is_found():
    pins = parse_preferences(
        "/etc/apt/preferences.d/team-a",
        "# why\nPackage: libnvidia-compute-580* nvidia-utils-*\nPin: version 580.159.*\nPin-Priority: 1000\n\n"
        "Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: 600\n",
    )
    assert len(pins) == 1
    refused = resolve(Wanted("canonical", "580"), replace(UBUNTU, pins=tuple(pins)), canonical())
    assert codes(refused) == ["driver-pins-contradict"]
    assert "/etc/apt/preferences.d/team-a" in text(refused)
    assert "580.159.*" in text(refused)


@pytest.mark.parametrize(
    "pin",
    [
        AptPin("/etc/apt/preferences.d/x", ("nvidia-*",), "580.178.04*", 1001),
        AptPin("/etc/apt/preferences.d/x", ("/^nvidia-/",), "/580.178/", 1001),
        AptPin("/etc/apt/preferences.d/x", ("nvidia-*",), "570.*", 500),
        AptPin("/etc/apt/preferences.d/x", ("cuda-*",), "12.*", 1001),
    ],
)
def test_pins_that_agree_or_are_weak_do_not_matter(pin):
    assert codes(resolve(Wanted("canonical", "580"), replace(UBUNTU, pins=(pin,)), canonical())) == []


# --- Moving


def test_up_and_down_move_every_package():
    before = resolve(Wanted("canonical", version="580.173.02"), UBUNTU, canonical())
    host = replace(UBUNTU, installed=installed(before.packages, held=True))
    after = resolve(Wanted("canonical", version="580.178.04"), host, canonical())
    kinds = {change.action for change in after.changes}
    assert kinds == {"upgrade", "install", "remove"}
    # Firmware has its version in its name.
    assert after.remove == ("nvidia-firmware-580-server-580.173.02",)
    back = resolve(
        Wanted("canonical", version="580.173.02"),
        replace(UBUNTU, installed=installed(after.packages, held=True)),
        canonical(),
    )
    assert {change.action for change in back.changes} == {"downgrade", "install", "remove"}
    assert back.packages == before.packages


def test_nothing_changes_where_everything_is_there():
    chosen = resolve(Wanted("nvidia", "595"), UBUNTU, merged(unsuffixed(), kernels()))
    again = resolve(
        Wanted("nvidia", "595"), replace(UBUNTU, installed=installed(chosen.packages)), merged(unsuffixed(), kernels())
    )
    assert again.changes == ()
    assert again.packages == chosen.packages


def test_another_source_takes_everything_of_the_first_away():
    """The same version with other names: what stays would conflict."""
    before = resolve(Wanted("canonical", "580"), replace(UBUNTU, fabric="nvswitch"), canonical())
    host = replace(UBUNTU, fabric="nvswitch", installed=installed(before.packages))
    after = resolve(Wanted("nvidia", "580"), host, merged(canonical(), suffixed()))
    assert set(after.remove) == set(before.packages)
    assert after.packages["nvidia-fabricmanager"] == "580.178.04-1"


def test_from_names_with_a_branch_to_names_without():
    before = resolve(Wanted("nvidia", "580"), UBUNTU, merged(suffixed(), kernels()))
    host = replace(UBUNTU, installed=installed(before.packages))
    after = resolve(Wanted("nvidia", "595"), host, merged(suffixed(), unsuffixed(), kernels()))
    left = set(before.packages) - set(after.remove) - set(after.packages)
    assert [name for name in left if is_family(name)] == []
    assert "nvidia-driver-pinning-580.178.04" in after.remove


def test_from_open_to_proprietary():
    before = resolve(Wanted("canonical", "580"), UBUNTU, canonical())
    host = replace(UBUNTU, installed=installed(before.packages))
    after = resolve(Wanted("canonical", "580", flavour="proprietary"), host, canonical())
    assert f"linux-modules-nvidia-580-server-open-{KERNEL}" in after.remove
    assert "nvidia-headless-no-dkms-580-server-open" not in after.packages


def test_what_is_installed_beyond_the_set_moves_with_it():
    there = installed({"libnvidia-gl-580-server": "580.173.02-0ubuntu0.24.04.1"})
    chosen = resolve(Wanted("canonical", "580"), replace(UBUNTU, installed=there), canonical())
    assert chosen.packages["libnvidia-gl-580-server"] == "580.178.04-0ubuntu0.24.04.1"
    assert chosen.packages["libnvidia-common-580-server"] == "580.178.04-0ubuntu0.24.04.1"


def test_a_package_in_pieces_is_repaired():
    changes = changes_of({"a": "1"}, [], {"a": Installed("1", state="half-configured")})
    assert [change.action for change in changes] == ["repair"]


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-container-toolkit",
        "libnvidia-container1",
        "nvidia-cuda-toolkit",
        "nvidia-settings",
        "datacenter-gpu-manager-4-core",
    ],
)
def test_what_is_of_no_driver_is_never_touched(name):
    assert not is_family(name)
    chosen = resolve(Wanted("canonical", "580"), replace(UBUNTU, installed=installed({name: "1.19.1-1"})), canonical())
    assert name not in {*chosen.packages, *chosen.remove, *chosen.hold}


# --- Files


def test_the_pins_are_exact_and_strong_enough_to_go_down():
    chosen = resolve(Wanted("nvidia", "580"), UBUNTU, merged(suffixed(), kernels()))
    pins = parse_preferences("ours", chosen.preferences)
    pinned = {name: pin.version for pin in pins for name in pin.patterns}
    assert pinned == {name: version for name, version in chosen.packages.items() if is_family(name)}
    assert {pin.priority for pin in pins} == {1001}


def test_unattended_upgrades_leave_the_set_alone():
    import re

    def blacklisted(name, hold_kernel=True):
        return any(re.match(each, name) for each in re.findall(r'"(.*)"', unattended_text(hold_kernel)))

    for chosen in (
        resolve(Wanted("canonical", "580"), replace(UBUNTU, fabric="nvswitch"), canonical()),
        resolve(Wanted("nvidia", "580"), replace(UBUNTU, fabric="nvlink5"), merged(suffixed(), kernels())),
        resolve(Wanted("debian", "535", accept_end_of_life=True), DEBIAN, recorded("debian_12_2026-11")),
    ):
        assert [name for name in chosen.packages if not blacklisted(name)] == []
    assert not blacklisted("nvidia-container-toolkit")
    assert not blacklisted("libnvidia-container1")
    assert not blacklisted("openssl")
    assert not blacklisted("linux-image-generic", hold_kernel=False)


def test_relations():
    assert parse_relations("a (>= 1.0~), b | c:any (= 2) [amd64], d") == (
        (Relation("a", ">=", "1.0~"),),
        (Relation("b"), Relation("c", "=", "2")),
        (Relation("d"),),
    )


def test_every_living_branch_is_in_the_table():
    living = {number for number, branch in data.BRANCHES.items() if not branch.ended}
    # Those that security bulletin 5861 has a fix for.
    assert living == {580, 595, 610, 615}
