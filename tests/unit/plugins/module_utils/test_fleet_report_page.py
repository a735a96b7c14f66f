# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import fleet_report_sample as sample
import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import fleet_report
from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report import Answer
from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report_page import render

# The page is made on the controller; the oldest Python of hosts has no jinja2.
pytest.importorskip("jinja2")

VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """The elements of a page, and what is wrong with their nesting."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.faults, self.elements, self.text = [], [], [], []
        self.captions = 0
        self.cells = {}
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag, dummy in self.open]

    def handle_starttag(self, tag, attrs):
        names = [name for name, dummy in attrs]
        if len(set(names)) != len(names):
            self.faults.append(f"an attribute of <{tag}> is given twice")
        element = {"tag": tag, "inside": [name for name, dummy in self.open], **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append((tag, element))
            element["text"] = ""

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} closes {self.open[-1:]}")
            return
        self.open.pop()

    def handle_data(self, data):
        for dummy, element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag and all(element.get(name) == value for name, value in attributes.items())
        ]


def hostile():
    """A fleet that somebody else named."""
    nasty = sample.HOSTILE
    answers, parity = sample.faulty(6)
    answers["gpu-1"] = Answer(sample.host_facts(name=nasty, driver=nasty))
    answers[nasty] = Answer(problem=nasty)
    answers["gpu-2"].facts["problems"].append(nasty)
    parity["hosts"][nasty] = {"verdict": "fail"}
    parity["findings"].append(sample.finding("gpu-1", *[nasty] * 7))
    parity["findings"].append(sample.finding("gpu-1", nasty, "error", *[nasty] * 5))
    parity["baseline"]["driver_version"] = {"value": nasty, "by": nasty}
    parity["baseline"][f"kernel ({nasty})"] = {"value": [nasty], "by": "lock"}
    section = fleet_report.section(
        {
            "title": nasty,
            "description": nasty,
            "columns": [nasty],
            "rows": [[nasty], {"state": nasty, "cells": [{nasty: nasty}]}, {"state": "error", "cells": [nasty]}],
        }
    )
    return sample.report(
        (answers, parity),
        title=nasty,
        generated_by=nasty,
        columns=[{"title": nasty, "values": {"gpu-1": nasty}, "expected": nasty}],
        sections=[section],
    )


FLEETS = {
    "healthy-1": lambda: sample.rich(sample.healthy(1)),
    "healthy-3": lambda: sample.rich(sample.healthy(3)),
    "healthy-200": lambda: sample.rich(sample.healthy(200)),
    "faulty-3": lambda: sample.rich(sample.faulty(3), bad=1),
    "faulty-200": lambda: sample.rich(sample.faulty(200), bad=2),
    "not-compared": lambda: sample.report((sample.faulty(6)[0], None)),
    "no-host": lambda: sample.report(({}, None), sections=[fleet_report.endpoint_section([])]),
    "hostile": hostile,
}


@pytest.fixture(scope="module", params=FLEETS, name="made")
def _made(request):
    report = FLEETS[request.param]()
    text = render(report)
    return report, text, Page(text)


def test_well_formed(made):
    dummy, text, page = made
    assert page.faults == []
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    ids = [element["id"] for element in page.elements if "id" in element]
    assert sorted(ids) == sorted(set(ids))


def test_self_contained(made):
    """Nothing is fetched, and nothing runs but what the policy names by its digest."""
    dummy, text, page = made
    links = [
        element[name] for element in page.elements for name in ("href", "src", "action", "data") if name in element
    ]
    assert [link for link in links if not link.startswith("#") and link != "data:,"] == []
    assert [name for element in page.elements for name in element if name.startswith("on") or name == "style"] == []
    assert {element["tag"] for element in page.elements} & {"iframe", "object", "img", "form", "base", "embed"} == set()
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        assert len(page.all(tag)) == 1
        digest = base64.b64encode(hashlib.sha256(page.all(tag)[0]["text"].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert "url(" not in text
    assert "@import" not in text


def test_accessible(made):
    dummy, text, page = made
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert [cell for cell in page.all("th") if cell.get("scope") not in ("col", "row")] == []
    assert len(page.all("caption")) == len(page.all("table"))
    ids = {element["id"] for element in page.elements if "id" in element}
    named = [element["aria-labelledby"] for element in page.elements if "aria-labelledby" in element]
    assert named
    assert set(named) <= ids
    targets = {element["href"][1:] for element in page.all("a")}
    assert targets <= ids
    # What colour says, a word says as well.
    assert [
        badge for badge in page.elements if "badge" in badge.get("class", "") and len(badge["text"].split()) < 2
    ] == []
    marked = [cell for cell in page.all("td") if {"error", "warning", "note"} & set(cell.get("class", "").split())]
    assert [cell for cell in marked if "(" not in cell["text"]] == []


def test_rows_are_as_wide_as_the_head(made):
    report, dummy, page = made
    head = [cell for cell in page.all("th", scope="col") if "id" not in cell]
    assert len(head) >= len(report["columns"]) + 2
    text = render(report)
    table = text[text.index('id="hosts-table"') :]
    table = table[: table.index("</table>")]
    for row in table.split("<tr")[1:]:
        cells = len(re.findall(r"<t[hd][ >]", row)) + sum(int(span) - 1 for span in re.findall(r'colspan="(\d+)"', row))
        assert cells == len(report["columns"]) + 2


def test_says_what_the_report_says(made):
    report, dummy, page = made
    said = " ".join(page.all("html")[0]["text"].split())
    for text in (
        report["headline"],
        *report["reasons"],
        *(group["code"] for group in report["findings"]),
        *(case[key] for group in report["findings"] for case in group["cases"] for key in ("actual", "action")),
        *(row["host"] for row in report["hosts"]),
        *(row["problem"] for row in report["hosts"]),
        *(cell["text"] for row in report["hosts"] for cell in row["cells"]),
        *(cell for section in report["sections"] for row in section["rows"] for cell in row["cells"]),
    ):
        assert " ".join(text.replace("`", "").split()) in said.replace("`", "")


def test_hostile_text_stays_text():
    text = render(hostile())
    page = Page(text)
    assert "<script>alert" not in text
    assert "<img" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text)
    assert (
        "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&\ufffdgpj.exe\ufffd[31m" in page.all("h1")[0]["text"]
    )


def test_style_and_script_cannot_end_early():
    text = render(sample.report(sample.healthy(1)))
    assert (text.count("</style>"), text.count("</script>")) == (1, 1)


@pytest.mark.parametrize(("fleet", "verdict"), (("healthy", "As it should be"), ("faulty", "Not as it should be")))
def test_verdict_is_at_the_top(fleet, verdict):
    page = Page(render(sample.rich(getattr(sample, fleet)(200))))
    assert verdict in page.all("h2")[0]["text"]
    assert page.all("time")[0]["datetime"] == "2026-11-20T17:00:00Z"
    assert "baremetal.llm 0.1.0" in page.all("header")[0]["text"]


def test_200_hosts_are_small_and_their_findings_few():
    text = render(sample.rich(sample.faulty(200), bad=2))
    assert len(text.encode()) < 1_500_000
    page = Page(text)
    assert len(page.all("article")) == 3
    assert len(page.all("tr")) < 230
    # Seventeen names: five to read, twelve to unfold.
    assert "and 12 more" in page.all("article")[0]["text"]


def test_commands_are_set_apart_and_escaped():
    answers, parity = sample.healthy(1)
    parity["findings"].append(sample.finding("gpu-1", "x", "error", "a", "b", "c", "d", "run `a <b> & c` now"))
    text = render(sample.report((answers, parity)))
    assert "Run <code>a &lt;b&gt; &amp; c</code> now." in text


def test_deterministic():
    assert render(sample.rich(sample.faulty(30))) == render(sample.rich(sample.faulty(30)))


def test_readable_without_script():
    """What only the script makes work is not there without it."""
    page = Page(render(sample.rich(sample.healthy(3))))
    assert "hidden" in page.all("div", id="controls")[0]
    assert page.all("button") == []
    assert [row for row in page.all("tr") if "hidden" in row] == []
