# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What fits where: the report, its text and its page."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from ansible_collections.baremetal.llm.plugins.module_utils import serving_fleet, serving_tiers
from ansible_collections.baremetal.llm.plugins.module_utils.finding import Finding
from ansible_collections.baremetal.llm.plugins.module_utils.serving_fleet import Question, build, table
from ansible_collections.baremetal.llm.plugins.module_utils.serving_gate import GateHost, GateResult
from ansible_collections.baremetal.llm.plugins.module_utils.serving_planner import SitePlanner
from ansible_collections.baremetal.llm.plugins.module_utils.serving_site import Hardware, PlannedModel, declared_gpus
from ansible_collections.baremetal.llm.plugins.module_utils.serving_types import Wishes

GPUS = {
    "L4": [{"name": "NVIDIA L4", "memory_gib": 22.49, "compute_capability": "8.9"}],
    "H100": [{"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.65, "compute_capability": "9.0", "count": 8}],
}
HOSTILE = "<script>alert(1)</script>\u202e"


def host(kind):
    return GateHost(Hardware(declared_gpus(GPUS[kind]), "declared"), engine_version="0.33.0")


def hosts(count):
    return {f"gpu-{number}": host("L4" if number % 2 else "H100") for number in range(1, count + 1)}


def model(size="8B", name=""):
    return PlannedModel(name or f"org/{size}", serving_tiers.SIZES[size][1], None)


def report(count=3, models=None, deployments=None, tiers=(), **question):
    planner = SitePlanner()
    found = hosts(count)
    plans = {
        name: {"chat": planner.plan(model("70B"), one.hardware.gpus, Wishes(), one.engine_version).as_dict()}
        for name, one in (found.items() if deployments else ())
    }
    findings = [Finding("plan-kv-cache", "llm_deployments[0]", "cannot serve `it`", "use less", ("gpu-1",))]
    return build(
        found,
        Question({"tiny": model()} if models is None else models, tiers, **question),
        GateResult(plans, findings if deployments else []),
        planner,
        "2026-11-20T20:00:00Z",
        "baremetal.llm 0.1.0",
        {"chat": "big"},
    )


def test_hosts_with_the_same_gpus_are_one_column_the_smallest_first():
    made = report(11)
    assert [(kind["id"], kind["count"]) for kind in made["kinds"]] == [("A", 1), ("B", 8)]
    assert made["kinds"][0]["hosts"] == ["gpu-1", "gpu-3", "gpu-5", "gpu-7", "gpu-9", "gpu-11"]
    assert all(len(row["cells"]) == 2 for row in made["rows"])


def test_a_replica_is_given_the_fewest_gpus_for_what_is_wanted():
    (row,) = report(context_length=8192, concurrency=4, models={"m": model("70B")})["rows"]
    small, large = row["cells"]
    assert (small["state"], small["gpus"]) == ("error", 0)
    assert small["ways"]
    assert small["text"].startswith("no: ")
    assert (large["state"], large["gpus"], large["replicas"], large["max_model_len"]) == ("ok", 4, 2, 8192)
    assert large["max_concurrency"] >= 4
    assert (
        sum(large["memory"][name] for name in ("weights", "activations", "non_torch", "kv_cache"))
        <= (large["memory"]["requested"])
    )


def test_the_tiers_need_what_the_field_says_they_need():
    """Weights of the hardware tiers, in decimal gigabytes, as tutorials round them."""
    said = {
        "8B, 16 bit": 16,
        "8B, 4 bit": 4.5,
        "70B, 16 bit": 140,
        "70B, 8 bit": 75,
        "70B, 4 bit": 40,
        "120B, 4 bit": 70,
    }
    from ansible_collections.baremetal.llm.plugins.module_utils.serving_model import read_model_shape
    from ansible_collections.baremetal.llm.plugins.module_utils.serving_weights import estimated_bytes

    tiers = {tier.name: tier for tier in serving_tiers.tiers()}
    assert len(tiers) == 8 * 4
    for name, gigabytes in said.items():
        assert estimated_bytes(read_model_shape(tiers[name].config)) / 1e9 == pytest.approx(gigabytes, rel=0.3), name
    assert estimated_bytes(read_model_shape(tiers["1T, 16 bit"].config)) > 1.9e12


def test_more_memory_never_loses_a_tier():
    (rows,) = [report(2, models={}, tiers=serving_tiers.tiers())["rows"]]
    for row in rows:
        small, large = row["cells"]
        assert large["state"] == "ok" or small["state"] != "ok", row["name"]


def test_a_model_without_a_lock_and_hosts_without_gpus_are_said_to_be_so():
    planner = SitePlanner()
    found = {
        **hosts(1),
        "cpu-1": GateHost(Hardware(), "none"),
        "down": GateHost(Hardware(problem="it did not answer")),
    }
    broken = PlannedModel("gone", {}, None, "its lock cannot be read")
    made = build(found, Question({"gone": broken}), GateResult({}, []), planner, "2026-11-20T20:00:00Z", "me")
    assert {problem["problem"]: problem["hosts"] for problem in made["absent"]} == {
        "llm_accelerator is none: no GPU memory to plan": ["cpu-1"],
        "it did not answer": ["down"],
    }
    assert made["rows"][0]["cells"] == []
    text = table(made)
    assert "its lock cannot be read" in text
    assert "it did not answer" in text
    nobody = build({}, Question({}), GateResult({}, []), planner, "2026-11-20T20:00:00Z", "me")
    assert table(nobody).startswith("There is no host whose GPUs are known.")


def test_the_text_says_what_the_report_says():
    made = report(3, deployments=True, context_length=8192)
    text = table(made)
    lines = text.splitlines()
    assert lines[0] == made["headline"]
    assert "1 reason why deployments cannot be served where they are placed" in made["headline"]
    assert any(line.startswith("tiny") and made["rows"][0]["cells"][1]["text"] in line for line in lines)
    assert any("deployment chat (big) on gpu-1, gpu-3: does not fit" in line for line in lines)
    assert "Planned for 8192 tokens." in text


def test_letters_go_on_after_z():
    assert [serving_fleet._letters(index) for index in (0, 25, 26, 51, 52)] == ["A", "Z", "AA", "AZ", "BA"]


def test_only_the_time_may_differ_between_equal_reports():
    first, second = report(4), report(4)
    second["generated_at"] = "2026-11-21T00:00:00Z"
    assert serving_fleet.comparable(first) == serving_fleet.comparable(second)
    assert json.loads(json.dumps(first)) == first


@pytest.fixture(scope="module", params=[3, 50], name="page")
def _page(request):
    pytest.importorskip("jinja2")
    from test_fleet_report_page import Page

    from ansible_collections.baremetal.llm.plugins.module_utils.serving_fleet_page import render

    made = report(
        request.param,
        deployments=True,
        tiers=serving_tiers.tiers(),
        models={"tiny": model(), HOSTILE: model(name=HOSTILE)},
    )
    text = render(made)
    return made, text, Page(text)


def test_the_page_is_well_formed_and_fetches_nothing(page):
    _made, text, parsed = page
    assert parsed.faults == []
    links = [one[name] for one in parsed.elements for name in ("href", "src") if name in one]
    assert [link for link in links if not link.startswith("#") and link != "data:,"] == []
    assert [name for one in parsed.elements for name in one if name.startswith("on") or name == "style"] == []
    policy = parsed.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "<script>alert" not in text


def test_every_row_of_the_page_is_as_wide_as_the_head_and_says_its_verdict_in_words(page):
    made, text, parsed = page
    body = text[text.index('id="hosts-table"') :]
    body = body[: body.index("</table>")]
    for row in body.split("<tr")[1:]:
        assert row.count("<td") + row.count("<th") == len(made["kinds"]) + 1
    badges = [one["text"].split() for one in parsed.elements if "badge" in one.get("class", "")]
    assert badges
    assert all(len(words) >= 2 for words in badges)
    said = " ".join(parsed.all("html")[0]["text"].split())
    for row in made["rows"]:
        for cell in row["cells"]:
            assert " ".join(cell["detail"].split()) in said


def test_the_pages_policy_allows_exactly_its_own_style_and_script(page):
    _made, _text, parsed = page
    policy = parsed.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(parsed.all(tag)[0]["text"].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
