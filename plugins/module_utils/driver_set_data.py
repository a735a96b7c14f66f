# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known about NVIDIA's driver: branches, GPUs, and how each source names its packages. Data, no decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KNOWLEDGE = "2026-11"
"""Month of what stands here. A branch that ended before it is an ended branch."""


SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Branch:
    """A driver branch and the month of its last fixes: empty if there is none yet, SUPERSEDED if only that is sure."""

    number: int
    end: str
    kind: str

    @property
    def ended(self) -> bool:
        return self.end == SUPERSEDED or bool(self.end) and self.end < KNOWLEDGE


# NVIDIA Data Center Drivers, "Supported Drivers and CUDA Toolkit Versions", editions of March 2021 (450, 460) and
# September 2026 (535, 580, 595, 610); driver lifecycle (570). The others are in no current table, and get no fixes any
# more.
BRANCHES: Mapping[int, Branch] = {
    branch.number: branch
    for branch in (
        Branch(450, "2023-07", "long-term support branch"),
        Branch(460, "2022-01", "production branch"),
        *(Branch(number, SUPERSEDED, "branch") for number in (470, 510, 515, 520, 525, 530)),
        Branch(535, "2026-06", "long-term support branch"),
        *(Branch(number, SUPERSEDED, "branch") for number in (545, 550, 555, 560, 565)),
        Branch(570, "2026-02", "production branch"),
        Branch(575, SUPERSEDED, "branch"),
        Branch(580, "2028-06", "long-term support branch"),
        Branch(590, SUPERSEDED, "new feature branch"),
        Branch(595, "2027-03", "production branch"),
        # The table lets it end in August 2026, and security bulletin 5861 of September 2026 mended it once more
        # (610.57.04): it has ended when a bulletin leaves it out.
        Branch(610, "", "new feature branch"),
        Branch(615, "", "new feature branch"),
    )
}

UNSUFFIXED_SINCE = 590
"""From this branch on the CUDA repository for Ubuntu has one name per package, whatever the branch."""

FABRIC_UNSUFFIXED_SINCE = 580
"""From this branch on the same holds for fabric manager, NSCQ, NVSDM and IMEX of the CUDA repository."""

PROPRIETARY_UNTIL = 610
"""The last branch with proprietary kernel modules. Those of 615 in Ubuntu are empty and install the open ones."""

OPEN_DEFAULT_SINCE = 560
"""From this branch on NVIDIA recommends the open modules for every GPU that can use them."""


@dataclass(frozen=True)
class Architecture:
    """A generation of GPUs, the branches that run it, and the kernel modules that do."""

    name: str
    first_branch: int
    # 0: still supported.
    last_branch: int = 0
    open_modules: bool = True
    proprietary_modules: bool = True


# README of each driver branch (supported products), the driver installation guide (kernel modules).
ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("kepler or older", 0, 470, open_modules=False),
        Architecture("maxwell", 0, 580, open_modules=False),
        Architecture("pascal", 0, 580, open_modules=False),
        Architecture("volta", 0, 580, open_modules=False),
        Architecture("turing", 410),
        Architecture("ampere", 450),
        Architecture("hopper", 515),
        Architecture("grace hopper", 535, proprietary_modules=False),
        Architecture("ada", 520),
        Architecture("blackwell", 570, proprietary_modules=False),
        # B300, GB300, GB10.
        Architecture("blackwell ultra", 580, proprietary_modules=False),
        Architecture("rubin", 595, proprietary_modules=False),
    )
}

GRACE_HOPPER = frozenset({0x2342, 0x2343, 0x2345, 0x2348})

# PCI device identifiers by architecture: the code names of the chips in the PCI ID database, 2026-10-24. Every range
# was checked against all 1000 entries of vendor 10de; bridges, audio and USB functions are filtered out by their class.
DEVICE_RANGES: tuple[tuple[int, int, str], ...] = (
    (0x0000, 0x133F, "kepler or older"),
    (0x1340, 0x15BF, "maxwell"),
    (0x15C0, 0x15FF, "pascal"),
    (0x1600, 0x16FF, "maxwell"),
    (0x1700, 0x173F, "pascal"),
    (0x1740, 0x17FF, "maxwell"),
    (0x1B00, 0x1D7F, "pascal"),
    (0x1D80, 0x1DFF, "volta"),
    (0x1E00, 0x1FFF, "turing"),
    (0x2080, 0x20FF, "ampere"),
    (0x2180, 0x21FF, "turing"),
    (0x2200, 0x227F, "ampere"),
    (0x2300, 0x23FF, "hopper"),
    (0x2400, 0x25FF, "ampere"),
    (0x2680, 0x28FF, "ada"),
    (0x2900, 0x2DFF, "blackwell"),
    (0x2E00, 0x2EFF, "blackwell ultra"),
    (0x2F00, 0x2FFF, "blackwell"),
    (0x3000, 0x30FF, "rubin"),
    (0x3180, 0x33FF, "blackwell ultra"),
)

# Boards without fifth-generation NVLink need no fabric manager; boards with it do, and can be told by their identifier
# before any driver is there. HGX B200 and B300.
NVLINK5_DEVICES = frozenset({0x2901, 0x2909, 0x290A, 0x3182})
# GB200 and GB300: NVLink reaches over several hosts.
NVLINK5_MULTINODE_DEVICES = frozenset({0x2941, 0x31A1, 0x31C2, 0x31C3})

NVSWITCH_CLASS = "0x0680"
"""NVSwitches to Hopper are PCI bridges of NVIDIA of this class."""

DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {"ubuntu": ("22.04", "24.04", "26.04"), "debian": ("12", "13")}

SOURCES: Mapping[str, tuple[str, ...]] = {
    "canonical": ("ubuntu",),
    "nvidia": ("ubuntu", "debian"),
    "debian": ("debian",),
}

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "canonical": ("restricted", "multiverse"),
    "debian": ("contrib", "non-free", "non-free-firmware"),
}
"""Where the distribution's archive keeps the driver, beside `main`."""

# Of cuda-keyring_1.1-1_all.deb, which differs between the repositories. Google's compute-gpu-installation and public
# build recipes agree on them; for the others there is TLS alone.
KEYRING_SHA256: Mapping[str, str] = {
    "ubuntu2204/x86_64": "d93190d50b98ad4699ff40f4f7af50f16a76dac3bb8da1eaaf366d47898ff8df",
    "ubuntu2404/x86_64": "d2a6b11c096396d868758b86dab1823b25e14d70333f1dfa74da5ddaf6a06dba",
    "ubuntu2404/sbsa": "6ea7d2737648936820e85677177957a0f6521b840d98eb0bbae0a4f003fa7249",
    "debian12/x86_64": "e7f219eab6fe4819cdb5c15b98233dc3420302d9c00883219cd3d896857cf48d",
}

# `o=` of the archive's Release file.
ORIGINS: Mapping[str, str] = {"canonical": "Ubuntu", "nvidia": "NVIDIA", "debian": "Debian"}


@dataclass(frozen=True)
class Scheme:
    """How a source names the parts of a driver.

    In names, `{branch}` is the number, `{variant}` is `-server` or nothing, `{open}` is `-open` or nothing, `{kernel}`
    is a kernel's release and `{flavour}` its flavour, such as `generic`.
    """

    name: str
    # The first one decides which versions there are.
    user: tuple[str, ...]
    dkms_open: tuple[str, ...]
    dkms_proprietary: tuple[str, ...]
    desktop: tuple[str, ...]
    # Taken where the source has them in the driver's version.
    optional: tuple[str, ...] = ()
    # Modules that the distribution built and signed, one package per kernel, and the package that follows the flavour.
    prebuilt: str = ""
    prebuilt_meta: str = ""
    # Says which driver a package of prebuilt modules belongs to: it depends on this one at the driver's version.
    prebuilt_witness: str = ""
    # Parts that move with the driver, by what they are; absent where the source has none.
    parts: Mapping[str, str] = field(default_factory=dict)
    # Most wanted first.
    pinning: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("",)
    # nvidia-modprobe and the like need not be of the driver's branch.
    helpers_of_any_branch: bool = False
    # What the kernel module may be called.
    modules: tuple[str, ...] = ("nvidia",)


_NVIDIA_PARTS = {
    "fabric manager": "nvidia-fabricmanager",
    "NSCQ": "libnvidia-nscq",
    "NVSDM": "libnvsdm",
    "subnet manager": "nvlsm",
    "IMEX": "nvidia-imex",
}
_PINNING = ("nvidia-driver-pinning-{version}", "nvidia-driver-pinning-{branch}")

OWN_VERSION = frozenset({"nvlsm"})
"""Parts that are not versioned with the driver."""

CANONICAL = Scheme(
    name="canonical",
    user=("nvidia-headless-no-dkms-{branch}{variant}{open}", "nvidia-utils-{branch}{variant}"),
    dkms_open=("nvidia-dkms-{branch}{variant}-open",),
    dkms_proprietary=("nvidia-dkms-{branch}{variant}",),
    desktop=("nvidia-driver-{branch}{variant}{open}",),
    optional=("libnvidia-decode-{branch}{variant}", "libnvidia-encode-{branch}{variant}"),
    prebuilt="linux-modules-nvidia-{branch}{variant}{open}-{kernel}",
    prebuilt_meta="linux-modules-nvidia-{branch}{variant}{open}-{flavour}",
    prebuilt_witness="nvidia-kernel-common-{branch}{variant}",
    parts={
        "fabric manager": "nvidia-fabricmanager-{branch}",
        "NSCQ": "libnvidia-nscq-{branch}",
        "IMEX": "nvidia-imex-{branch}",
    },
    # The data-centre builds first.
    variants=("-server", ""),
)

NVIDIA_SUFFIXED = Scheme(
    name="nvidia, names with a branch",
    user=("nvidia-headless-no-dkms-{branch}{open}", "nvidia-utils-{branch}"),
    dkms_open=("nvidia-dkms-{branch}-open",),
    dkms_proprietary=("nvidia-dkms-{branch}",),
    desktop=("nvidia-driver-{branch}{open}",),
    optional=("libnvidia-decode-{branch}", "libnvidia-encode-{branch}"),
    parts=_NVIDIA_PARTS,
    pinning=_PINNING,
)

NVIDIA_UNSUFFIXED = Scheme(
    name="nvidia, names without a branch",
    user=("libnvidia-compute", "nvidia-persistenced"),
    dkms_open=("nvidia-dkms-open",),
    dkms_proprietary=("nvidia-dkms",),
    desktop=("nvidia-driver{open}",),
    optional=("nvidia-headless-no-dkms{open}", "libnvidia-cfg1", "libnvidia-decode", "libnvidia-encode"),
    parts=_NVIDIA_PARTS,
    pinning=_PINNING,
)

NVIDIA_DEBIAN = Scheme(
    name="nvidia, names for Debian",
    user=("nvidia-driver-cuda",),
    dkms_open=("nvidia-kernel-open-dkms",),
    dkms_proprietary=("nvidia-kernel-dkms",),
    desktop=("nvidia-driver",),
    optional=("nvidia-persistenced",),
    parts=_NVIDIA_PARTS,
    pinning=_PINNING,
    modules=("nvidia", "nvidia-current-open", "nvidia-current"),
)

DEBIAN = Scheme(
    name="debian",
    user=("nvidia-smi", "libcuda1", "libnvidia-cfg1"),
    dkms_open=("nvidia-open-kernel-dkms", "nvidia-open-kernel-support", "firmware-nvidia-gsp"),
    dkms_proprietary=("nvidia-kernel-dkms", "nvidia-kernel-support", "firmware-nvidia-gsp"),
    desktop=("nvidia-driver",),
    # persistenced has a version of its own here.
    optional=("nvidia-persistenced", "libnvcuvid1", "libnvidia-encode1"),
    helpers_of_any_branch=True,
    modules=("nvidia-current-open", "nvidia-current", "nvidia"),
)


def scheme_of(source: str, distribution: str, branch: int) -> Scheme:
    """How *source* names the packages of *branch* for *distribution*."""
    if source == "canonical":
        return CANONICAL
    if source == "debian":
        return DEBIAN
    if distribution == "debian":
        return NVIDIA_DEBIAN
    return NVIDIA_UNSUFFIXED if branch >= UNSUFFIXED_SINCE else NVIDIA_SUFFIXED


def part_name(scheme: Scheme, part: str, branch: int) -> str:
    """The package that holds *part*, as a pattern; empty if the source has none."""
    name = scheme.parts.get(part, "")
    if name and scheme is NVIDIA_SUFFIXED and part not in OWN_VERSION_PARTS and branch < FABRIC_UNSUFFIXED_SINCE:
        return name + "-{branch}"
    return name


OWN_VERSION_PARTS = frozenset({"subnet manager"})

PARTS_BY_FABRIC: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "nvswitch": ("fabric manager", "NSCQ"),
    "nvlink5": ("fabric manager", "NSCQ", "NVSDM", "subnet manager"),
    # The fabric manager runs on the switch trays there.
    "nvlink5_multinode": ("IMEX",),
}

AMD64_ONLY_PARTS = frozenset({"NVSDM"})

# The packages of the driver, of any branch and source: what is looked up, and what must not stay behind. Neither the
# container toolkit nor the CUDA toolkit.
FAMILY = (
    r"^(?!libnvidia-container|nvidia-container|nvidia-cuda-|nvidia-cudnn|nvidia-docker|nvidia-fs|nvidia-gds|nvidia-openjdk"
    r"|nvidia-profiler|nvidia-visual-profiler|nvidia-ctk|nvidia-detect$|nvidia-prime|nvidia-texture-tools|nvidia-cg-"
    r"|nvidia-opencl-dev|nvidia-nsight|nvidia-primus|nvidia-mlnx|nvidia-vaapi|libnvidia-egl-|nvidia-settings)"
    r"(nvidia-|libnvidia-|libcuda1(-|$)|libcuda[a-z]*debugger|libnvcuvid|libnvoptix|libnvsdm|nvlsm$|nvlink5|cuda-drivers"
    r"|firmware-nvidia-|xserver-xorg-video-nvidia|lib(gl|egl|gles|glx)[0-9]*-nvidia|linux-(modules|objects|signatures)-nvidia-)"
)

# Packages that bring a kernel module or its source: of these nothing but the set's own may stay.
MODULE_PACKAGES = (
    r"^(nvidia(-[0-9a-z]+)*-dkms|nvidia-dkms(-.*)?|nvidia(-.*)?-kernel(-open)?-dkms|nvidia-open-kernel-(dkms|source|support)"
    r"|nvidia-kernel-source(-.*)?|nvidia-kernel-support|linux-(modules|objects|signatures)-nvidia-.*|nvidia-driver-pinning-.*)$"
)

# What unattended-upgrades leaves alone: regular expressions on names.
UNATTENDED_BLACKLIST = (
    "^nvidia-(?!container-)",
    "^libnvidia-(?!container)",
    "^libcuda1",
    "^libnv(cuvid|optix|sdm)",
    "^nvlsm$",
    "^nvlink5",
    "^cuda-drivers",
    "^firmware-nvidia-",
    "^xserver-xorg-video-nvidia",
    "^linux-(modules|objects|signatures)-nvidia-",
)
UNATTENDED_KERNEL = ("^linux-(image|headers|modules|generic|virtual|aws|azure|gcp|oracle|nvidia|lowlatency)",)
