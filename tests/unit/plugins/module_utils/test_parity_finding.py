# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.baremetal.llm.plugins.module_utils.parity_finding import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    gather_gpus,
    report,
    summary,
    verdict,
)


def finding(code="gpu-lost", severity=ERROR, host="h1", subject="GPU 1", accepted=False, gpus=()):
    return Finding(
        code, severity, subject, "an answer", "none", "it is gone", "Look for it", host, frozenset(gpus), accepted
    )


def test_the_worst_finding_decides():
    assert verdict([]) == "pass"
    assert verdict([finding(severity=NOTE)]) == "pass"
    assert verdict([finding(severity=NOTE), finding(severity=WARNING)]) == "warn"
    assert verdict([finding(severity=WARNING), finding(severity=ERROR)]) == "fail"


def test_summary():
    found = [finding(), finding(host="h2"), finding(severity=NOTE)]
    assert summary(found, 12) == "GPU parity of 12 hosts: 2 errors, 1 note on 2."
    assert summary([], 1) == "GPU parity of 1 host: nothing found."


def test_the_report_says_what_hosts_share_once_and_the_worst_first():
    found = [
        finding(code="hold-missing", severity=WARNING),
        finding(code="hold-missing", severity=WARNING, host="h2"),
        finding(code="xid-application", severity=NOTE, host="h2", accepted=True),
        finding(host="h3"),
    ]
    assert report(found).splitlines() == [
        "== h3 ==",
        "  * error: GPU 1: none; expected an answer [gpu-lost]",
        "    it is gone.",
        "    -> Look for it.",
        "",
        "== h1, h2 ==",
        "  * warning: GPU 1: none; expected an answer [hold-missing]",
        "    it is gone.",
        "    -> Look for it.",
        "",
        "== h2 ==",
        "  * note: GPU 1: none; expected an answer [xid-application]",
        "    it is gone.",
        "    -> Accepted by the site. Look for it.",
        "",
        "Each code is explained in docs/findings.md of the collection.",
    ]
    assert report([]) == ""


def test_a_report_of_many_hosts_stays_short():
    text = report([finding(host=f"h{number}") for number in range(200)])
    assert text.startswith("== h0, h1, h2, h3, h4, h5 and 194 more ==\n")
    assert len(text.splitlines()) == 6


def test_the_same_about_several_gpus_is_one_finding():
    found = gather_gpus(
        [
            finding(subject="GPU 1", gpus=["a"]),
            finding(subject="GPU 2", gpus=["b"]),
            finding(subject="host"),
            finding(subject="GPU 3", gpus=["c"], severity=WARNING),
        ],
        of=3,
    )
    assert [(item.subject, sorted(item.gpus)) for item in found] == [
        ("GPU 1, GPU 2", ["a", "b"]),
        ("host", []),
        ("GPU 3", ["c"]),
    ]


def test_all_gpus_are_not_listed_but_pairs_are():
    each = [finding(subject=f"GPU {number}", gpus=[number]) for number in "abc"]
    assert [item.subject for item in gather_gpus(each, of=3)] == ["all 3 GPUs"]
    pairs = [finding(subject=f"GPU {one} with GPU c", gpus=[one, "c"]) for one in "ab"]
    assert [item.subject for item in gather_gpus(pairs, of=3)] == ["GPU a with GPU c, GPU b with GPU c"]
    assert [item.subject for item in gather_gpus(each[:1], of=1)] == ["GPU a"]
