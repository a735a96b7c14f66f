# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet report as one page of HTML that needs nothing else.

It may be mailed, printed, kept for years and opened from a file: no other file, no font, no address is fetched, and a
Content-Security-Policy in the page forbids it. Everything is readable without the script, which sorts and filters.

Needs jinja2, which every controller has. It is imported when a page is made, since checks import this file without it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

# Up to so many names stand where they belong; more can be unfolded.
SHOWN_HOSTS = 6
# A cell of more characters than that is broken into lines.
LONG_TEXT = 28
# The baselines stand in the head of the table, which stays in view: it must not fill it.
SHOWN_BASELINES = 1

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --raised: #f5f6f8; --line: #d8dce1; --text: #1b1f24; --quiet: #59626d; --link: #1a4f9c;
  --fail: #a3150c; --fail-back: #fdeceb; --warn: #7a4a00; --warn-back: #fff3d9;
  --note: #1a4f9c; --note-back: #e9f1fc; --pass: #17622c; --pass-back: #e8f5ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --raised: #1d2126; --line: #343b43; --text: #e4e7eb; --quiet: #9ba5b0; --link: #8fb8f2;
    --fail: #ffa199; --fail-back: #421917; --warn: #f0c36a; --warn-back: #3a2b0c;
    --note: #9dc1f5; --note-back: #182c49; --pass: #86d598; --pass-back: #15331d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(0.75rem, 2vw, 2rem) 3rem; max-width: 120rem;
  background: var(--page); color: var(--text);
  font: 0.9375rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
a { color: var(--link); }
h1 { margin: 0; font-size: 1.25rem; line-height: 1.3; }
h2 { margin: 2.25rem 0 0.5rem; font-size: 1.0625rem; line-height: 1.3; }
p { margin: 0.25rem 0; max-width: 75ch; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.quiet { color: var(--quiet); }
.small { font-size: 0.8125rem; }
.name { white-space: nowrap; }
.said {
  position: absolute; width: 1px; height: 1px; margin: -1px; padding: 0; border: 0; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap;
}
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; margin-top: 0.25rem; }

.verdict { margin: 1rem 0 0; padding: 0.75rem 1rem; border-left: 0.375rem solid; border-radius: 0.25rem; }
.verdict h2 { margin: 0; font-size: 1.25rem; }
.verdict p, .verdict ul { color: var(--text); }
.verdict ul { margin: 0.25rem 0 0; padding-left: 1.25rem; }
.fail, .absent, .error { color: var(--fail); background: var(--fail-back); }
.warn, .warning { color: var(--warn); background: var(--warn-back); }
.note { color: var(--note); background: var(--note-back); }
.pass, .ok { color: var(--pass); background: var(--pass-back); }
.unknown { color: var(--quiet); background: var(--raised); }
.badge {
  display: inline-block; padding: 0 0.5em; border-radius: 0.25rem; font-size: 0.8125rem; font-weight: 600;
  white-space: nowrap;
}
td .badge { font-size: inherit; }
.differences .badge { white-space: normal; }
.facts { display: flex; flex-wrap: wrap; gap: 0.25rem 2rem; margin: 0.75rem 0 0; padding: 0; }
.facts div { display: flex; gap: 0.5rem; align-items: baseline; }
.facts dt { color: var(--quiet); font-size: 0.8125rem; }
.facts dd { margin: 0; font-weight: 600; }

.scroll, .wide { position: relative; }
.scroll { overflow: auto; max-height: 85vh; border: 1px solid var(--line); border-radius: 0.25rem; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 0.8125rem; line-height: 1.125rem; }
caption { padding: 0.375rem 0.625rem; text-align: left; color: var(--quiet); }
th, td { padding: 0.25rem 0.625rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead { position: sticky; top: 0; z-index: 2; }
thead th, thead td { background: var(--raised); vertical-align: bottom; }
thead th { font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; }
thead th button {
  margin: 0; padding: 0 0.25rem; border: 0; background: none; color: var(--quiet); font: inherit; cursor: pointer;
}
thead th button::after { content: "\\2195"; }
thead th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--text); }
thead th[aria-sort=descending] button::after { content: "\\2193"; color: var(--text); }
.hosts tbody th, .hosts thead tr > :first-child {
  position: sticky; left: 0; z-index: 1; background: var(--page); border-right: 1px solid var(--line);
}
.hosts thead tr > :first-child { background: var(--raised); }
.hosts td, .hosts tbody th { white-space: nowrap; }
.hosts td.long { min-width: 11rem; white-space: normal; }
.hosts .codes { display: block; width: max-content; max-width: 17rem; white-space: normal; }
.hosts .codes a { white-space: nowrap; }
.hosts tbody tr:hover > * { background-color: var(--raised); }
.hosts tbody tr:hover > .error { background-color: var(--fail-back); }
.hosts tbody tr:hover > .warning { background-color: var(--warn-back); }
.hosts tbody tr:hover > .note { background-color: var(--note-back); }
td.error, td.warning { font-weight: 600; }
td.empty { color: var(--quiet); }
.baseline td, .baseline th { font-weight: 400; color: var(--quiet); vertical-align: top; }
.measure { display: block; }
.measure .by { white-space: nowrap; }
.by { color: var(--quiet); font-size: 0.85em; }
.baseline .by { display: block; }

.controls { display: flex; flex-wrap: wrap; gap: 0.5rem 1.25rem; align-items: center; margin: 0.5rem 0; }
.controls[hidden] { display: none; }
.controls label { display: flex; gap: 0.5rem; align-items: center; }
.controls input[type=search] {
  width: min(20rem, 100%); padding: 0.25rem 0.5rem; border: 1px solid var(--quiet); border-radius: 0.25rem;
  background: var(--page); color: inherit; font: inherit;
}
.finding { margin: 0.75rem 0 0; padding: 0.625rem 0 0; border-top: 1px solid var(--line); }
.finding h3 { display: flex; flex-wrap: wrap; gap: 0.25rem 0.625rem; align-items: baseline; margin: 0 0 0.25rem; }
.finding h3 { font-size: 0.9375rem; }
.finding h3 code { padding: 0; background: none; font: inherit; }
code { padding: 0 0.25em; border-radius: 0.1875rem; background: var(--raised); font: 0.9em ui-monospace, monospace; }
.finding table { width: auto; margin-top: 0.375rem; }
.finding td, .finding thead th { padding-left: 0; padding-right: 1.5rem; background: none; white-space: normal; }
.finding thead { position: static; }
.finding .where { min-width: 12rem; }
.finding thead th { font-weight: 400; color: var(--quiet); }
.finding .action::before { content: "\\2192\\00a0"; color: var(--quiet); }
:target { scroll-margin-top: 0.5rem; }
summary { cursor: pointer; color: var(--link); }
.wide { overflow-x: auto; }
.differences td:last-child { min-width: 16rem; }
.differences { width: auto; min-width: min(100%, 48rem); }
.differences ul { margin: 0; padding: 0; list-style: none; }
.differences details { display: inline-block; vertical-align: top; }
footer { margin-top: 2.5rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }

@media screen and (max-width: 40rem) {
  .finding thead { display: none; }
  .finding table, .finding tbody, .finding tr, .finding td { display: block; border: 0; }
  .hosts tbody th { min-width: 7.5rem; max-width: 8rem; white-space: normal; overflow-wrap: anywhere; }
  .finding tr { padding: 0.25rem 0; }
  .finding td { padding: 0; }
  .finding td::before { content: attr(data-of) ": "; color: var(--quiet); }
}
@media screen and (min-width: 70rem) { .differences .measure { white-space: nowrap; } }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --raised: #ffffff; --line: #b6bcc4; --text: #000000; --quiet: #444c55; --link: #000000;
    --fail: #8c0f08; --fail-back: #fdeceb; --warn: #6b4100; --warn-back: #fff3d9;
    --note: #17457f; --note-back: #e9f1fc; --pass: #12501f; --pass-back: #e8f5ec;
  }
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; }
  table { font-size: 8pt; line-height: 1.3; }
  .scroll, .wide { max-height: none; overflow: visible; border: 0; }
  .hosts { font-size: 6.5pt; }
  .hosts .codes { width: auto; max-width: none; }
  .hosts td:nth-child(3):not([colspan]) { min-width: 78pt; }
  .hosts th, .hosts td, .hosts td.long, .hosts thead th { padding: 1.5pt 3pt; white-space: normal; min-width: 0; }
  thead, .hosts tbody th, .hosts thead tr > :first-child { position: static; }
  thead { display: table-header-group; }
  tr, .finding h3, .verdict { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  .controls, nav, summary, thead th button { display: none; }
  details::details-content { content-visibility: visible; display: block; }
  a { text-decoration: none; }
  .badge, .error, .warning, .note, .fail, .warn, .pass, .ok { print-color-adjust: exact; }
}
"""

SCRIPT = """
"use strict";
(() => {
  const table = document.getElementById("hosts-table");
  const controls = document.getElementById("controls");
  if (!table || !controls) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const search = document.getElementById("search");
  const only = document.getElementById("only");
  const shown = document.getElementById("shown");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, index) => {
      const fits = words.every((word) => texts[index].includes(word)) && !(only.checked && row.dataset.good);
      row.hidden = !fits;
      count += fits ? 1 : 0;
    });
    shown.textContent = count + " of " + rows.length + " hosts shown";
  };
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const key = (row, index) => {
    const cell = row.cells[index];
    return cell && cell.colSpan === 1 ? cell.dataset.sort || cell.textContent.trim() : "";
  };
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, index) => {
    // Beside the text, since a button is not printed at the head of each page.
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", "Sort by " + head.textContent.trim());
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = rows.map((row) => [key(row, index), row]);
      sorted.sort((first, second) => (down ? -1 : 1) * compare(first[0], second[0]));
      body.append(...sorted.map((pair) => pair[1]));
    });
  });
  search.addEventListener("input", filter);
  only.addEventListener("change", filter);
  controls.hidden = false;
  filter();
})();
"""

TEMPLATE = """\
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
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex">
<meta name="generator" content="{{ report.generated_by }}">
<link rel="icon" href="data:,">
<title>{{ report.title }}: {{ words[report.verdict] }}</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ report.title }}</h1>
<p class="quiet small">Verified <time datetime="{{ report.generated_at }}">\
{{ report.generated_at | replace('T', ' ') | replace('Z', ' UTC') }}</time>
by {{ report.generated_by }}</p>
<nav aria-label="On this page" class="small"><a href="#findings">Findings</a> <a href="#hosts">Hosts</a>\
{% for part in report.sections %} <a href="#section-{{ loop.index }}">{{ part.title }}</a>{% endfor %}</nav>
</header>
<main>
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
<table class="hosts" id="hosts-table">
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
</main>
<footer class="quiet small">
<p>The JSON file beside this page says the same. Each code is explained in docs/findings.md of the collection.
A value that is {{ unknown_text }} is one that driver or GPU cannot tell.</p>
</footer>
<script>{{ script }}</script>
</body>
</html>
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


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def policy() -> str:
    """Nothing may be loaded, and of what stands in the page only our own style and script may run."""
    return (
        f"default-src 'none'; style-src {_digest(STYLE)}; script-src {_digest(SCRIPT)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _anchor(finding: Mapping[str, str]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"finding-{finding['severity']}-{finding['code']}".lower())


def _in_code(match: re.Match[str]) -> str:
    return f"<code>{match[1]}</code>"


def render(report: Mapping[str, Any]) -> str:
    """*report*, as `fleet_report.build` made it, as a page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    from ansible_collections.baremetal.llm.plugins.module_utils.fleet_report import UNKNOWN, VERDICTS

    def commands(text: str) -> Markup:
        """What stands between backticks is a command."""
        return Markup(re.sub("`([^`]+)`", _in_code, str(escape(text))))

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["commands"] = commands
    return environment.from_string(TEMPLATE).render(
        report=report,
        # Our own, and free of anything that ends the element they stand in.
        style=Markup(STYLE),
        script=Markup(SCRIPT),
        policy=policy(),
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
