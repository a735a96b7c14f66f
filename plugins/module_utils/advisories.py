# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, baremetal.llm contributors
"""Published security advisories of the engines, and which of them a version is affected by.

A table, not a feed: it is as old as this release of the collection. Several vLLM advisories never got a CVE, so
scanners that read CVE records miss them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# The oldest version without a known advisory.
VLLM_SAFE_MINIMUM = "0.33.0"


class Advisory(NamedTuple):
    """One advisory: affected are versions from `introduced` (empty: the first ever) up to but without `fixed`."""

    identifier: str
    introduced: str
    fixed: str
    summary: str


def _rows(identifiers: str, introduced: str, fixed: str, summary: str) -> list[Advisory]:
    """Return one advisory for each of some identifiers that share their range and summary."""
    return [Advisory(identifier, introduced, fixed, summary) for identifier in identifiers.split()]


_CODE_FROM_MODEL = "code from the model repository runs, or its pinned revision is ignored"
_CLUSTER_PICKLE = "pickle over the cluster's own connections lets whoever reaches them run code"
_ENDS_ENGINE = "forged multimodal metadata, structured output or video options end the shared engine"
_OVERLOAD = "a single request (headers, schema, template, n, media, regex, penalties) exhausts the server"
_PROMPT_EMBEDS = "prompt embeddings corrupt memory"

VLLM: tuple[Advisory, ...] = (
    *_rows("GHSA-5r3c-5x4v-8gjh", "", "0.33.0", "fixed in 0.33.0, details were not public when this table was made"),
    # No fixed version is known: counted for everything below the safe minimum.
    *_rows("CVE-2026-105775", "", "0.33.0", "out-of-bounds read in a Mamba kernel; do not serve Mamba models"),
    *_rows("CVE-2026-115911", "0.19", "0.32", "a chat template in a request wedges the renderer"),
    *_rows("CVE-2026-115918", "0.16", "0.32", "/v1/responses skips the check that guards chat templates in requests"),
    *_rows("CVE-2026-105754 CVE-2026-105757 CVE-2026-105760 PYSEC-2026-4353", "", "0.30", _ENDS_ENGINE),
    *_rows("GHSA-fpch-3xrf-7q96", "0.21", "0.28", "one request's data leaks into another in an optional feature"),
    *_rows("GHSA-v97p-wpxp-px84", "0.16", "0.21", "one request's data leaks into another in an optional feature"),
    *_rows("CVE-2026-73558", "", "0.27", "a kernel overflow leaks another user's output"),
    *_rows("CVE-2026-73560 CVE-2026-73556", "", "0.26", "server-side requests and file reads through omni models"),
    *_rows("CVE-2026-48746", "0.3", "0.22", "a forged Host header bypasses the API key"),
    *_rows("CVE-2026-54236", "", "0.24", "an address leak on /v1/messages feeds remote code execution"),
    *_rows("CVE-2026-22778", "0.8.3", "0.14.1", "an address leak through images feeds remote code execution"),
    *_rows("CVE-2026-24779", "", "0.14.1", "server-side requests through media URLs"),
    *_rows("CVE-2025-6242", "", "0.11", "server-side requests through media URLs"),
    *_rows("CVE-2026-34753", "0.16", "0.19", "server-side requests through batch files"),
    *_rows("CVE-2026-22807 CVE-2026-27893 CVE-2026-41523 CVE-2026-47155", "", "0.22", _CODE_FROM_MODEL),
    *_rows("CVE-2025-66448 CVE-2025-24357", "", "0.22", _CODE_FROM_MODEL),
    *_rows("CVE-2025-62164 CVE-2026-56340 CVE-2026-55514", "0.10.2", "0.24", _PROMPT_EMBEDS),
    *_rows("CVE-2025-32444 CVE-2025-47277 CVE-2025-30165 CVE-2025-29783", "", "0.8.5", _CLUSTER_PICKLE),
    *_rows("CVE-2024-9052 CVE-2024-9053 CVE-2024-11041", "", "0.8.5", _CLUSTER_PICKLE),
    *_rows("CVE-2025-9141", "0.10.0", "0.10.1.1", "a tool parser evaluates model output"),
    *_rows("CVE-2025-59425", "", "0.11", "the API key can be guessed by timing"),
    *_rows("CVE-2025-46560 CVE-2025-48942 CVE-2025-48943 CVE-2025-48944 CVE-2025-48956", "", "0.27", _OVERLOAD),
    *_rows("CVE-2025-61620 CVE-2025-62426 CVE-2026-34756 CVE-2026-5497 CVE-2026-9540", "", "0.27", _OVERLOAD),
    *_rows("CVE-2026-44222 CVE-2026-44223 CVE-2026-54233 CVE-2026-54235 CVE-2026-55574", "", "0.27", _OVERLOAD),
    *_rows("CVE-2026-55646", "", "0.27", _OVERLOAD),
    *_rows("CVE-2026-53923", "0.5.5", "0.24", "the GGUF kernel leaks GPU memory"),
    *_rows("CVE-2026-54232", "", "0.22.1", "dependency confusion when an image or environment is built without hashes"),
)

_VERSION = re.compile(
    r"v?(?P<release>\d+(?:\.\d+)*)(?P<pre>\.?(?:a|b|c|rc|alpha|beta|pre|dev)\d*)?(?:\.?(?:post|dev)\d*)*(?:\+[A-Za-z0-9.]+)?\Z"
)


def version_key(version: str) -> tuple[tuple[int, ...], bool]:
    """Return something to order versions by; a pre-release comes before its release, a local label counts nothing.

    Raises ValueError for what is no version.
    """
    match = _VERSION.match(version.strip())
    if match is None:
        raise ValueError(f"{version!r} is not a version")
    release = tuple(int(part) for part in match.group("release").split("."))
    while release and release[-1] == 0:
        release = release[:-1]
    return release, match.group("pre") is None


def affecting(version: str, table: Iterable[Advisory] = VLLM) -> list[Advisory]:
    """Return the advisories that a version is affected by."""
    key = version_key(version)
    return [
        advisory
        for advisory in table
        if (not advisory.introduced or version_key(advisory.introduced) <= key) and key < version_key(advisory.fixed)
    ]


def unaccepted(version: str, accepted: Iterable[str], table: Iterable[Advisory] = VLLM) -> list[Advisory]:
    """Return the advisories that a version is affected by and that nobody accepted by name."""
    names = set(accepted)
    return [advisory for advisory in affecting(version, table) if advisory.identifier not in names]


def unknown(accepted: Iterable[str], table: Iterable[Advisory] = VLLM) -> list[str]:
    """Return the accepted names that are not in the table: most likely misspelled, so they would accept nothing."""
    known = {advisory.identifier for advisory in table}
    return sorted(set(accepted) - known)
