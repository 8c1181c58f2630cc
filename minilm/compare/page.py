"""A comparison as one HTML page without any other file, for light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from minilm.compare.report import UNKNOWN, remarks, table_rows, task_titles
from minilm.compare.scatter import scatter
from minilm.metrics.score_table import score_named

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #5c6670;
  --line: #d9dee3; --track: #eef1f4; --c0: #2a6fbb; --c1: #d1762b; --c2: #3f8f5f; --c3: #8a63b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #14181c; --soft: #9aa4ae;
  --line: #2e363d; --track: #20272d; --c0: #6aa6e8; --c1: #e8a063; --c2: #74c294;
  --c3: #b795dd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .75rem; }
p { margin: .4rem 0; color: var(--soft); }
.plot { display: block; width: 100%; max-width: 44rem; margin: 1rem 0; }
.charts { display: grid; gap: 0 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.bar { margin: 0 0 .8rem; }
.bar .label { display: flex; justify-content: space-between; gap: 1rem; font-size: .9rem; }
.bar .label span:last-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
.track { display: flex; height: 1rem; background: var(--track); border-radius: 3px;
  overflow: hidden; }
.track div { height: 100%; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem;
  color: var(--soft); margin: 0 0 .6rem; padding: 0; list-style: none; }
.key i { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px;
  margin-right: .4rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem .4rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
tbody th { font-weight: 500; color: var(--soft); }
.part th { padding-left: 1rem; }
@media (max-width: 40rem) {
  thead { position: absolute; left: -200vw; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  th, td, .part th { display: block; border: 0; padding: .05rem 0; }
  td::before { content: attr(data-model) ": "; color: var(--soft); }
}
"""

PARTS = ("embeddings", "layers", "pooler", "heads")
# heading, where the figure stands in a model's row, how it is shown
CHARTS = (
    ("Tokens a second, in bulk", None, "tokens_per_second", "{:,.0f}"),
    ("Seconds for one text", None, "one_text_seconds", "{:.4f}"),
    ("Masked words right", "scores", "masked_accuracy", "{:.1%}"),
    ("Sentence order right", "scores", "sentence_order_accuracy", "{:.1%}"),
)


def page(result: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        result: of `minilm.compare.measure.compare`.
    """
    names = [model["name"] for model in result["models"]]
    title = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    text = "".join(f"<p>{escape(remark)}</p>" for remark in remarks(result))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{scatter(result) or ''}{text}\n"
        f"<div class='charts'>\n{_charts(result)}</div>\n"
        f"<h2>All figures</h2>\n{_table(result, names)}\n</main>\n</body>\n</html>\n"
    )


def _charts(result: Mapping[str, Any]) -> str:
    models = result["models"]
    largest = max(model["parameters"] for model in models)
    key = "".join(
        f'<li><i style="background:var(--c{n})"></i>{part}</li>' for n, part in enumerate(PARTS)
    )
    charts = f"<section><h2>Parameters</h2><ul class='key'>{key}</ul>"
    for model in models:
        shares = [model["components"][part] / largest for part in PARTS]
        charts += _bar(model["name"], f"{model['parameters'] / 1e6:.2f} million", shares)
    charts += "</section>\n"
    figures = [
        (
            heading,
            [(m["name"], (m if kind is None else m[kind] or {}).get(name)) for m in models],
            shown,
            "%" in shown,
        )
        for heading, kind, name, shown in CHARTS
    ]
    for name, title in task_titles(models).items():
        values = [(m["name"], m["tasks"].get(name, {}).get("score")) for m in models]
        metric = next(m["tasks"][name]["metric"] for m in models if name in m["tasks"])
        shown = "{:.1%}" if score_named(metric).in_percent else "{:.3f}"
        figures.append((title[0].upper() + title[1:], values, shown, True))
    for heading, values, shown, is_score in figures:
        numbers = [number for _, number in values if number is not None]
        if not numbers:
            continue
        top = 1.0 if is_score else max(numbers)
        charts += f"<section><h2>{escape(heading)}</h2>"
        for model, number in values:
            if number is None:
                charts += _bar(model, UNKNOWN, [])
            else:
                charts += _bar(model, shown.format(number), [max(number / top, 0.0)])
        charts += "</section>\n"
    return charts


def _bar(label: str, value: str, shares: list[float]) -> str:
    """One bar of stacked shares of the full width."""
    parts = "".join(
        f'<div style="width:{100 * share:.2f}%;background:var(--c{n})"></div>'
        for n, share in enumerate(shares)
    )
    return (
        f"<div class='bar'><div class='label'><span>{escape(label)}</span>"
        f"<span>{escape(value)}</span></div><div class='track'>{parts}</div></div>"
    )


def _table(result: Mapping[str, Any], names: list[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = ""
    for title, values in table_rows(result):
        cells = "".join(
            f'<td data-model="{escape(name)}">{escape(value)}</td>'
            for name, value in zip(names, values, strict=True)
        )
        kind = " class='part'" if title.startswith(" ") else ""
        body += f"<tr{kind}><th>{escape(title.strip())}</th>{cells}</tr>\n"
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>\n{body}</tbody></table>"
