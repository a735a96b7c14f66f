# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet report as one page of HTML that needs nothing else; what all pages share is in report_page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.report_page import render_page

# Up to so many names stand where they belong; more can be unfolded.
SHOWN_HOSTS = 6
# A cell of more characters than that is broken into lines.
LONG_TEXT = 28
# The baselines stand in the head of the table, which stays in view: it must not fill it.
SHOWN_BASELINES = 1

TEMPLATE = """\
{% extends "document" %}
{% macro badge(state) -%}
<span class="badge {{ state }}"><span aria-hidden="true">{{ symbols[state] }}</span> {{ words[state] }}</span>
{%- endmacro %}
{% macro listed(hosts) -%}
{% for host in hosts %}<span class="name">{{ host }}</span>{{ ', ' if not loop.last }}{% endfor %}
{%- endmacro %}
{% macro names(hosts) -%}
{% if hosts | length > shown_hosts %}
{{ listed(hosts[:shown_hosts - 1]) }},
<details><summary>and {{ hosts | length - shown_hosts + 1 }} more</summary>\
{{ listed(hosts[shown_hosts - 1:]) }}</details>
{% else %}{{ listed(hosts) }}{% endif %}
{%- endmacro %}
{% macro some(hosts) -%}
{% if hosts | length > 1 %}<span class="quiet">{{ hosts | length }} hosts</span>\
{{ ': ' if hosts | length <= shown_hosts }}{% endif %}{{ listed(hosts) if hosts | length <= shown_hosts }}
{%- endmacro %}
{% macro outlier(state, text) -%}
<span class="badge {{ state }}"><span aria-hidden="true">{{ symbols[state] }}</span>\
<span class="said"> {{ words[state] }}: </span> {{ text }}</span>
{%- endmacro %}
{% macro measures(baselines) -%}
{% for baseline in baselines %}
<span class="measure">{% if baseline.about %}<span class="quiet">{{ baseline.about }}:</span> {% endif %}\
{{ baseline.value if baseline.by != 'tie' else '' }} <span class="by">{{ sources.get(baseline.by, baseline.by) }}\
{% if baseline.by != 'pin' and baseline.of %}, {{ baseline.having }} of {{ baseline.of }}{% endif %}</span></span>
{% endfor %}
{%- endmacro %}
{% block title %}{{ report.title }}: {{ words[report.verdict] }}{% endblock %}
{% block header %}
<h1>{{ report.title }}</h1>
<p class="quiet small">Verified <time datetime="{{ report.generated_at }}">\
{{ report.generated_at | replace('T', ' ') | replace('Z', ' UTC') }}</time>
by {{ report.generated_by }}</p>
<nav aria-label="On this page" class="small"><a href="#findings">Findings</a> <a href="#hosts">Hosts</a>\
{% for part in report.sections %} <a href="#section-{{ loop.index }}">{{ part.title }}</a>{% endfor %}</nav>
{% endblock %}
{% block main %}
<section class="verdict {{ report.verdict }}" aria-labelledby="verdict">
<h2 id="verdict"><span aria-hidden="true">{{ symbols[report.verdict] }}</span> \
{{ headings[report.verdict] }}</h2>
<p>{{ report.headline }}</p>
{% if report.reasons %}
<ul>
{% for reason in report.reasons %}
<li>{{ reason }}</li>
{% endfor %}
</ul>
{% endif %}
</section>
<dl class="facts">
{% for verdict in verdicts if report.hosts_by_verdict[verdict] %}
<div><dt>{{ host_words[verdict] }}</dt><dd>{{ report.hosts_by_verdict[verdict] }}</dd></div>
{% endfor %}
{% if report.gpus %}
<div><dt>GPUs</dt><dd>{{ report.gpus | map(attribute='text') | join(', ') }}</dd></div>
{% endif %}
</dl>

<section aria-labelledby="findings">
<h2 id="findings">Findings</h2>
{% if not report.findings %}
<p class="quiet">{{ 'None.' if report.verdict != 'unknown' else 'None, but not everything was compared.' }}</p>
{% endif %}
{% for group in report.findings %}
<article class="finding" id="{{ anchor(group) }}">
<h3>{{ badge(group.severity) }} <code>{{ group.code }}</code>
<span class="quiet small">{% if group.hosts | length == 1 %}1 host\
{% elif group.hosts %}{{ group.hosts | length }} hosts{% else %}the whole fleet{% endif %}</span></h3>
{% if group.cause %}<p>{{ group.cause | commands }}</p>{% endif %}
{% if group.action %}<p class="action">{{ group.action | commands }}</p>{% endif %}
<div class="wide">
<table>
<caption class="said">{{ group.code }}: what was expected, what was found, and where</caption>
<thead><tr><th scope="col">About</th><th scope="col">Expected</th><th scope="col">Found</th>
<th scope="col">Hosts</th>{% if not group.cause %}<th scope="col">Cause</th>{% endif %}
{% if not group.action %}<th scope="col">Action</th>{% endif %}</tr></thead>
<tbody>
{% for case in group.cases %}
<tr><td data-of="About">{{ case.subject }}\
{% if case.accepted %} <span class="quiet">(accepted by the site)</span>{% endif %}</td>
<td data-of="Expected">{{ case.expected }}</td>\
<td data-of="Found">{{ case.actual }}</td>
<td data-of="Hosts" class="where">{% if case.hosts %}{{ names(case.hosts) }}{% else %}the whole fleet{% endif %}</td>
{% if not group.cause %}<td data-of="Cause">{{ case.cause | commands }}</td>{% endif %}\
{% if not group.action %}<td data-of="Action">{{ case.action | commands }}</td>{% endif %}</tr>
{% endfor %}
</tbody>
</table>
</div>
</article>
{% endfor %}
</section>

{% if report.hosts | length > 1 and (report.differences or report.alike) %}
<section aria-labelledby="differences">
<h2 id="differences">Where hosts differ</h2>
{% if report.differences %}
<div class="wide" tabindex="0" role="group" aria-label="Table of differences">
<table class="differences">
<caption class="said">Values that differ between hosts, with the number of hosts that have them</caption>
<thead><tr><th scope="col">Of</th><th scope="col">Baseline</th><th scope="col">Values</th></tr></thead>
<tbody>
{% for difference in report.differences %}
<tr><th scope="row">{{ difference.title }}</th>
<td>{% if difference.baselines %}{{ measures(difference.baselines) }}\
{% else %}<span class="quiet">none</span>{% endif %}</td>
<td><ul>
{% for value in difference['values'] %}
<li>{% if value.marked == value.hosts %}{{ outlier(value.state, value.text) }}{% else %}{{ value.text }}{% endif %}
{{ ' ' }}<span class="quiet">on </span>{{ some(value.hosts) }}\
{% if value.marked and value.marked != value.hosts %}<span class="quiet">, a finding on</span> \
{{ outlier(value.state, some(value.marked)) }}{% endif %}</li>
{% endfor %}
</ul></td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% if report.alike %}
<p class="quiet small">\
{{ 'Nowhere. ' if not report.differences }}Alike on all hosts: {{ report.alike | join(', ') }}.</p>
{% endif %}
{% if report.without_gpu %}
<div class="quiet small">Left out here, since they have no GPU: {{ names(report.without_gpu) }}</div>
{% endif %}
</section>
{% endif %}

<section aria-labelledby="hosts">
<h2 id="hosts">Hosts</h2>
<div class="controls" id="controls" hidden>
<label>Filter <input type="search" id="search" autocomplete="off" spellcheck="false"></label>
<label><input type="checkbox" id="only"> only those that are not as they should be</label>
<output id="shown" class="quiet small" for="search only"></output>
</div>
<div class="scroll" tabindex="0" role="group" aria-label="Table of hosts">
<table class="hosts" id="hosts-table" data-noun="hosts">
<caption class="said">Hosts and versions, the worst first. A marked value has a finding.</caption>
<thead>
<tr><th scope="col">Host</th><th scope="col">Verdict</th>\
{% for column in report.columns %}<th scope="col">{{ column.title }}</th>{% endfor %}</tr>
{% if report.columns | selectattr('baselines') | first is defined %}
<tr class="baseline"><th scope="row">Baseline</th><td></td>\
{% for column in report.columns %}<td>\
{% if column.baselines | length <= shown_baselines %}{{ measures(column.baselines) }}\
{% else %}{{ column.baselines | length }} values, by kind of host{% endif %}</td>{% endfor %}</tr>
{% endif %}
</thead>
<tbody>
{% for row in report.hosts %}
<tr{% if row.verdict == 'pass' %} data-good="1"{% endif %}><th scope="row">{{ row.host }}</th>\
<td data-sort="{{ verdicts.index(row.verdict) }}">\
{{ badge(row.verdict) }}\
{% if row.findings %}<span class="codes">{% for found in row.findings %}\
<a href="#{{ anchor(found) }}">{{ found.code }}</a>{{ ', ' if not loop.last }}\
{% endfor %}</span>{% endif %}</td>
{% if row.problem %}
<td colspan="{{ report.columns | length }}" class="empty">{{ row.problem }}</td>
{% else %}
{% for cell in row.cells %}
<td{% set long = 'long' if cell.text | length > long_text else '' %}\
{% if cell.state or long %} class="{{ (cell.state ~ ' ' ~ long) | trim }}"{% endif %}>\
{% if cell.state in symbols %}<span aria-hidden="true">{{ symbols[cell.state] }}&nbsp;</span>\
{% endif %}{{ cell.text }}{% if cell.hint %}<span class="said"> ({{ cell.hint }})</span>{% endif %}</td>
{% endfor %}
{% endif %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
</section>
{% for part in report.sections %}

<section aria-labelledby="section-{{ loop.index }}">
<h2 id="section-{{ loop.index }}">{{ part.title }}</h2>
{% if part.description %}<p class="quiet">{{ part.description }}</p>{% endif %}
{% if part.rows %}
<div class="scroll" tabindex="0" role="group" aria-label="Table: {{ part.title }}">
<table>
<caption class="said">{{ part.title }}</caption>
<thead><tr>{% if part.rows | selectattr('state') | first is defined %}<th scope="col">Result</th>{% endif %}\
{% for column in part.columns %}<th scope="col">{{ column.title }}</th>{% endfor %}</tr></thead>
<tbody>
{% set judged = part.rows | selectattr('state') | first is defined %}
{% for row in part.rows %}
<tr>{% if judged %}<td>{{ badge(row.state) if row.state }}</td>{% endif %}\
{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p>{{ part.empty }}</p>
{% endif %}
</section>
{% endfor %}
{% if report.unreadable %}

<section aria-labelledby="unreadable">
<h2 id="unreadable">What could not be read</h2>
<div class="wide">
<table>
<caption class="said">What the modules could not read, and on which hosts</caption>
<thead><tr><th scope="col">What</th><th scope="col">Hosts</th></tr></thead>
<tbody>
{% for entry in report.unreadable %}
<tr><td>{{ entry.problem }}</td><td>{{ names(entry.hosts) }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
</section>
{% endif %}
{% endblock %}
{% block footer %}
<p>The JSON file beside this page says the same. Each code is explained in docs/findings.md of the collection.
A value that is {{ unknown_text }} is one that driver or GPU cannot tell.</p>
{% endblock %}
"""

SYMBOLS = {
    "fail": "✕",
    "absent": "✕",
    "warn": "!",
    "unknown": "?",
    "pass": "✓",
    "error": "✕",
    "warning": "!",
    "note": "i",
    "ok": "✓",
}
WORDS = {
    "fail": "fail",
    "absent": "no answer",
    "warn": "warning",
    "unknown": "not compared",
    "pass": "pass",
    "error": "error",
    "warning": "warning",
    "note": "note",
    "ok": "ok",
}
HEADINGS = {
    "fail": "Not as it should be",
    "warn": "Usable, with warnings",
    "unknown": "Not compared",
    "pass": "As it should be",
}
SOURCES = {"pin": "pinned", "lock": "locked", "majority": "majority", "tie": "no majority"}
HOST_WORDS = {
    "fail": "Hosts that fail",
    "absent": "Hosts without an answer",
    "warn": "Hosts with warnings",
    "unknown": "Hosts not compared",
    "pass": "Hosts that pass",
}


def _anchor(finding: Mapping[str, str]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"finding-{finding['severity']}-{finding['code']}".lower())


def render(report: Mapping[str, Any]) -> str:
    """*report*, as `fleet_report.build` made it, as a page."""
    from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report import UNKNOWN, VERDICTS

    return render_page(
        TEMPLATE,
        report,
        anchor=_anchor,
        symbols=SYMBOLS,
        words=WORDS,
        headings=HEADINGS,
        host_words=HOST_WORDS,
        sources=SOURCES,
        verdicts=VERDICTS,
        unknown_text=UNKNOWN,
        shown_hosts=SHOWN_HOSTS,
        shown_baselines=SHOWN_BASELINES,
        long_text=LONG_TEXT,
    )
