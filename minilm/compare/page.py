"""A comparison as one HTML page without any other file, for light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from minilm.compare.quantities import UNKNOWN, Quantity, Value, quantities
from minilm.compare.report import descriptions, machine_line, remarks, table_rows
from minilm.compare.scatter import scatter
from minilm.pages.frame import framed

STYLE = """
:root { --track: #eef1f4; --c0: #2a6fbb; --c1: #d1762b; --c2: #3f8f5f; --c3: #8a63b8; }
@media (prefers-color-scheme: dark) { :root { --track: #20272d; --c0: #4f8fd6; --c1: #e8a063;
  --c2: #74c294; --c3: #b795dd; } }
main { max-width: 68rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .2rem; }
p { color: var(--soft); } section p { margin: 0 0 .7rem; font-size: .85rem; }
.first { display: grid; gap: 0 2.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.plot { display: block; width: 100%; max-width: 34rem; margin: 1rem 0 0; }
dl { margin: 1rem 0 0; } dt { font-weight: 600; margin-top: .7rem; }
dd { margin: 0; color: var(--soft); font-size: .9rem; }
.charts { display: grid; gap: 0 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
.bar { margin: 0 0 .7rem; }
.bar .label { display: flex; justify-content: space-between; gap: 1rem; font-size: .9rem; }
.bar .label span { overflow-wrap: anywhere; }
.bar .label span:last-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
.track { position: relative; display: flex; height: 1rem; background: var(--track);
  border-radius: 3px; }
.track div { height: 100%; } .track div:first-child { border-radius: 3px 0 0 3px; }
.track .error { position: absolute; top: .42rem; height: .16rem; min-width: 2px;
  background: var(--ink); }
.track .error::before, .track .error::after { content: ""; position: absolute; top: -.2rem;
  width: 2px; height: .56rem; background: var(--ink); }
.track .error::before { left: -1px; } .track .error::after { right: -1px; }
.track .chance { position: absolute; top: -.15rem; height: 1.3rem; width: 0;
  border-left: 2px dashed var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem;
  color: var(--soft); margin: 0 0 .6rem; padding: 0; list-style: none; }
.key i { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px;
  margin-right: .4rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem .4rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
td { font-variant-numeric: tabular-nums; }
tbody th { font-weight: 500; color: var(--soft); width: 11.5rem; }
.part th { padding-left: 1rem; }
@media (max-width: 40rem) {
  thead { position: absolute; left: -200vw; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  th, td, .part th { display: block; width: auto; border: 0; padding: .05rem 0; }
  td.none { display: none; }
  td::before { content: attr(data-model) ": "; color: var(--soft); }
}
"""


NONE = ' class="none"'  # a cell that a narrow page leaves out


def page(result: Mapping[str, Any]) -> str:
    """The whole page.

    First comes the picture of sizes and scores, with a description of the models beside it; then a
    chart for every figure; then a table of all figures, and how they were measured.

    Args:
        result: what `minilm.compare.measure.compare` returned.
    """
    names = [model["name"] for model in result["models"]]
    title = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    what = "models, compared" if len(names) > 1 else "model, measured"
    # the first remark stands in the first paragraph
    notes = "".join(f"<p>{escape(remark)}</p>\n" for remark in remarks(result)[1:])
    body = (
        f"<p>{len(names)} {what} by <code>minilm compare</code>: size, "
        f"speed on a processor, and what they get right. {escape(machine_line(result))}</p>\n"
        f"<div class='first'>\n{scatter(result) or ''}{_models(result)}</div>\n"
        f"<div class='charts'>\n{_charts(result)}</div>\n"
        f"<h2>All figures</h2>\n{_table(result, names)}\n"
        f"<h2>How they were measured</h2>\n{notes}"
    )
    return framed(title, body, style=STYLE)


def _models(result: Mapping[str, Any]) -> str:
    """A description of the models, in words."""
    found = ""
    for model in result["models"]:
        found += f"<dt>{escape(model['name'])}</dt>"
        for title, text in descriptions(model).items():
            found += f"<dd>{escape(title.capitalize())}: {escape(text)}</dd>"
        found += "\n"
    return f"<dl>\n{found}</dl>\n"


def _charts(result: Mapping[str, Any]) -> str:
    names = [model["name"] for model in result["models"]]
    every = quantities(result)
    parts = [quantity for quantity in every if quantity.part]
    charts = ""
    for quantity in every:
        if quantity.title == "parameters":
            charts += _chart(names, quantity, parts)
        elif not quantity.part:
            charts += _chart(names, quantity, ())
    return charts


def _chart(names: Sequence[str], quantity: Quantity, parts: Sequence[Quantity]) -> str:
    """A bar with its error for every model that has the figure; the others are named."""
    known = [value for value in quantity.values if value is not None]
    top = quantity.whole or max(max(value.number, value.high or 0.0) for value in known)
    title = quantity.title[0].upper() + quantity.title[1:]
    unit = " (ms)" if quantity.unit == "ms" else ""
    chart = f"<section><h2>{escape(title)}{unit}</h2>\n<p>{escape(_legend(quantity))}</p>\n"
    if parts:
        chart += "<ul class='key'>" + "".join(
            f'<li><i style="background:var(--c{n})"></i>{escape(part.title)}</li>'
            for n, part in enumerate(parts)
        )
        chart += "</ul>\n"
    for number, (name, value) in enumerate(zip(names, quantity.values, strict=True)):
        if value is None:
            continue
        stacked = [part.values[number] for part in parts] or [value]
        chart += _bar(name, quantity, value, [0.0 if v is None else v.number for v in stacked], top)
    lacking = [name for name, value in zip(names, quantity.values, strict=True) if value is None]
    if lacking:
        chart += f"<p>Not measured for {escape(', '.join(lacking))}.</p>"
    return chart + "</section>\n"


def _legend(quantity: Quantity) -> str:
    """What a long bar means, and what the marks are."""
    words = "Shorter is better" if quantity.lower_is_better else "Longer is better"
    if any(value is not None and value.low is not None for value in quantity.values):
        marks = "one standard error" if quantity.kind == "score" else "the quartiles of the rounds"
        words += f"; the mark is {marks}"
    if quantity.chance is not None:
        words += f"; dashed: guessing ({quantity.chance:.0f}%)"
    return words + "."


def _bar(label: str, quantity: Quantity, value: Value, numbers: Sequence[float], top: float) -> str:
    """One bar of parts beside each other, `top` = the full width."""

    def width(number: float) -> float:
        return min(max(100 * number / top, 0.0), 100.0)

    parts = "".join(
        f'<div style="width:{width(number):.2f}%;background:var(--c{n})"></div>'
        for n, number in enumerate(numbers)
    )
    if value.low is not None and value.high is not None:
        low, high = width(value.low), width(value.high)
        parts += f'<div class="error" style="left:{low:.2f}%;width:{high - low:.2f}%"></div>'
    if quantity.chance is not None:
        parts += f'<div class="chance" style="left:{width(quantity.chance):.2f}%"></div>'
    shown = " ".join([quantity.show(value), quantity.show_error(value)]).strip()
    return (
        f"<div class='bar'><div class='label'><span>{escape(label)}</span>"
        f"<span>{escape(shown)}</span></div><div class='track'>{parts}</div></div>\n"
    )


def _table(result: Mapping[str, Any], names: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = ""
    for title, values in table_rows(result):
        cells = "".join(
            f'<td data-model="{escape(name)}"{NONE if value == UNKNOWN else ""}>'
            f"{escape(value)}</td>"
            for name, value in zip(names, values, strict=True)
        )
        kind = " class='part'" if title.startswith(" ") else ""
        body += f"<tr{kind}><th>{escape(title.strip())}</th>{cells}</tr>\n"
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>\n{body}</tbody></table>"
