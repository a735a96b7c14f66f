# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection's pages have in common: one page of HTML that needs nothing else.

It may be mailed, printed, kept for years and opened from a file: no other file, no font, no address is fetched, and a
Content-Security-Policy in the page forbids it. Everything is readable without the script, which sorts and filters the
table with the id `hosts-table`; its `data-noun` is what a row is.

Needs jinja2, which every controller has. It is imported when a page is made, since checks import this file without it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

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
    shown.textContent = count + " of " + rows.length + " " + table.dataset.noun + " shown";
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

# A page fills the blocks `title`, `header`, `main` and `footer`; its report says `generated_by`.
DOCUMENT = """\
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
<title>{% block title %}{% endblock %}</title>
<style>{{ style }}</style>
</head>
<body>
<header>
{% block header %}{% endblock %}
</header>
<main>
{% block main %}{% endblock %}
</main>
<footer class="quiet small">
{% block footer %}{% endblock %}
</footer>
<script>{{ script }}</script>
</body>
</html>
"""


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def policy(style: str = STYLE) -> str:
    """Nothing may be loaded, and of what stands in the page only our own style and script may run."""
    return (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(SCRIPT)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _in_code(match: re.Match[str]) -> str:
    return f"<code>{match[1]}</code>"


def render_page(template: str, report: Mapping[str, Any], style: str = "", **values: Any) -> str:
    """*report* as a page: *template* extends `document`, *style* is added to that of all pages."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup, escape

    def commands(text: str) -> Markup:
        """What stands between backticks is a command."""
        return Markup(re.sub("`([^`]+)`", _in_code, str(escape(text))))

    environment = Environment(
        loader=DictLoader({"document": DOCUMENT, "page": template}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["commands"] = commands
    return environment.get_template("page").render(
        report=report,
        # Our own, and free of anything that ends the element they stand in.
        style=Markup(STYLE + style),
        script=Markup(SCRIPT),
        policy=policy(STYLE + style),
        **values,
    )
