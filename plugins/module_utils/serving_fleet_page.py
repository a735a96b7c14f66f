# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What fits where, as one page of HTML that needs nothing else; what all pages share is in report_page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.baremetal.llm.plugins.module_utils.report_page import render_page

# Up to so many names stand where they belong; more can be unfolded.
SHOWN_HOSTS = 6
# The parts of a GPU's memory, in the order in which the engine takes them.
PARTS = (
    ("weights", "weights"),
    ("activations", "activations"),
    ("non_torch", "outside of torch"),
    ("cuda_graphs", "CUDA graphs"),
    ("kv_cache", "KV cache"),
)

STYLE = """
.plans tbody th .about { display: block; font-weight: 400; color: var(--quiet); }
.plans details { max-width: 24rem; }
.plans details[open] { white-space: normal; padding-bottom: 0.25rem; }
.plans summary, .deployed summary { color: inherit; }
.deployed .name, .deployed summary, .kinds td:nth-child(2) { white-space: nowrap; }
.deployed td:last-child details, .kinds details { display: inline-block; vertical-align: top; }
.kinds, .deployed { width: auto; min-width: min(100%, 48rem); }
.parts { display: flex; flex-wrap: wrap; gap: 0 0.75rem; margin: 0; padding: 0; list-style: none; }
.parts li { white-space: nowrap; }
.explained { margin: 0.25rem 0 0; padding-left: 1.25rem; max-width: 75ch; }
@media screen and (max-width: 40rem) { .deployed .parts { display: block; } }
@media print {
  .plans summary, .deployed td:nth-child(3) summary { display: block; }
  .plans details::details-content, .deployed td:nth-child(3) details::details-content { display: none; }
}
"""

TEMPLATE = """\
{% extends "document" %}
{% macro verdict(cell) -%}
<span class="badge {{ cell.state or 'unknown' }}"><span aria-hidden="true">{{ symbols[cell.state] }}</span> \
{{ words[cell.state] }}</span>
{%- endmacro %}
{% macro names(hosts) -%}
{% for host in hosts[:shown_hosts] %}<span class="name">{{ host }}</span>{{ ', ' if not loop.last }}{% endfor %}
{% if hosts | length > shown_hosts %}, <details><summary>and {{ hosts | length - shown_hosts }} more</summary>\
{% for host in hosts[shown_hosts:] %}<span class="name">{{ host }}</span>{{ ', ' if not loop.last }}{% endfor %}\
</details>{% endif %}
{%- endmacro %}
{% macro memory(cell) -%}
<ul class="parts">{% for key, label in parts if cell.memory.get(key) %}
<li><span class="quiet">{{ label }}</span> {{ gib(cell.memory[key]) }}</li>{% endfor %}</ul>
{%- endmacro %}
{% block title %}{{ report.title }}{% endblock %}
{% block header %}
<h1>{{ report.title }}</h1>
<p class="quiet small">Planned <time datetime="{{ report.generated_at }}">\
{{ report.generated_at | replace('T', ' ') | replace('Z', ' UTC') }}</time>
by {{ report.generated_by }}</p>
<nav aria-label="On this page" class="small"><a href="#models">Models</a> <a href="#kinds">Hosts</a>\
{% if report.deployments or report.findings %} <a href="#deployments">Deployments</a>{% endif %}</nav>
{% endblock %}
{% block main %}
<p>{{ report.headline }}</p>
{% if report.findings or report.deployments %}

<section aria-labelledby="deployments">
<h2 id="deployments">Deployments</h2>
{% for found in report.findings %}
<article class="finding">
<h3><span class="badge {{ found.severity }}"><span aria-hidden="true">{{ symbols[found.severity] }}</span> \
{{ found.severity }}</span> <code>{{ found.code }}</code>
<span class="quiet small">{{ found.variable }}</span></h3>
<p>{{ names(found.hosts) }}: {{ found.message | commands }}</p>
<p class="action">{{ found.action | commands }}</p>
</article>
{% endfor %}
{% if report.deployments %}
<div class="wide">
<table class="deployed">
<caption class="said">Deployments with their plans on their hosts</caption>
<thead><tr><th scope="col">Deployment</th><th scope="col">Result</th><th scope="col">Replica</th>\
<th scope="col">Memory of one GPU</th><th scope="col">Hosts</th></tr></thead>
<tbody>
{% for row in report.deployments %}
<tr><th scope="row">{{ row.name }}<span class="quiet"> {{ row.model }}</span></th><td>{{ verdict(row.cell) }}</td>
<td>{% if row.explanation %}<details>\
<summary>{{ row.cell.text.replace('no: ', '').replace('no', 'why') }}</summary><ul class="explained">
{% for line in row.explanation %}<li>{{ line }}</li>{% endfor %}</ul></details>
{% else %}{{ row.cell.text }}{% endif %}</td>
<td>{{ memory(row.cell) }}</td><td>{{ names(row.hosts) }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
</section>
{% endif %}

<section aria-labelledby="models">
<h2 id="models">Models</h2>
<p class="quiet">A cell has the GPUs of one replica, the tokens of a request, and how many such requests have room at
once{% if report.request %}; planned are {{ report.request }}{% else %}; planned is the longest context that \
fits{% endif %}.
Where a model does not fit, the cell has how many of these GPUs would do, or which context. Each cell unfolds.</p>
{% if report.kinds and report.rows %}
<div class="controls" id="controls" hidden>
<label>Filter <input type="search" id="search" autocomplete="off" spellcheck="false"></label>
<label><input type="checkbox" id="only"> only those that do not fit everywhere</label>
<output id="shown" class="quiet small" for="search only"></output>
</div>
<div class="scroll" tabindex="0" role="group" aria-label="Table of models">
<table class="hosts plans" id="hosts-table" data-noun="models">
<caption class="said">Models against kinds of hosts</caption>
<thead><tr><th scope="col">Model</th>\
{% for kind in report.kinds %}<th scope="col">{{ kind.id }}: {{ kind.gpus }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in report.rows %}
{% set good = row.cells and row.cells | rejectattr('state', 'equalto', 'ok') | first is not defined %}
<tr{% if good %} data-good="1"{% endif %}>\
<th scope="row">{{ row.name }}<span class="about small">{{ row.about }}</span></th>
{% if row.problem %}
<td colspan="{{ report.kinds | length }}" class="empty">{{ row.problem }}</td>
{% else %}
{% for cell in row.cells %}
<td data-sort="{{ '%09d' | format(cell.max_concurrency * 100) }}"><details><summary>{{ verdict(cell) }}\
{% if cell.text != 'no' %} {{ cell.text.replace('no: ', '') }}{% endif %}</summary>{{ cell.detail }}
{% for way in cell.ways %}<p class="action">{{ way }}</p>{% endfor %}
{% if cell.state == 'ok' %}{{ memory(cell) }}{% endif %}</details></td>
{% endfor %}
{% endif %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p>{{ 'No model was asked for.' if report.kinds else 'There is no host to plan for.' }}</p>
{% endif %}
</section>

<section aria-labelledby="kinds">
<h2 id="kinds">Hosts</h2>
{% if report.kinds %}
<div class="wide">
<table class="kinds">
<caption class="said">Kinds of hosts: which GPUs they have, and how that is known</caption>
<thead><tr><th scope="col">Kind</th><th scope="col">GPUs</th><th scope="col">Memory that engines see</th>\
<th scope="col">Engine</th><th scope="col">Known from</th><th scope="col">Hosts</th></tr></thead>
<tbody>
{% for kind in report.kinds %}
<tr><th scope="row">{{ kind.id }}</th><td>{{ kind.gpus }}</td><td>{{ gib(kind.memory_bytes) }}</td>
<td>vLLM {{ kind.engine_version }}</td><td>{{ kind.sources | map('replace', 'facts', 'read from the host') \
| map('replace', 'declared', 'declared by the site') | join(', ') }}</td>
<td>{{ names(kind.hosts) }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% for group in report.absent %}
<p class="quiet">Not planned for: {{ names(group.hosts) }}: {{ group.problem }}</p>
{% endfor %}
</section>
{% endblock %}
{% block footer %}
<p>The JSON file beside this page says the same, with every setting. How a plan is made and how far it can be trusted
stands in docs/guides/serving_plan.md of the collection.</p>
{% endblock %}
"""

SYMBOLS = {"ok": "✓", "error": "✕", "warning": "!", "": "?"}
WORDS = {"ok": "fits", "error": "no", "": "not planned"}


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def render(report: Mapping[str, Any]) -> str:
    """*report*, as `serving_fleet.build` made it, as a page."""
    return render_page(
        TEMPLATE,
        report,
        STYLE,
        gib=_gib,
        parts=PARTS,
        shown_hosts=SHOWN_HOSTS,
        symbols=SYMBOLS,
        words=WORDS,
    )
