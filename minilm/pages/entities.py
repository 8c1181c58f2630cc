"""A page with entities, or tags of words, marked in their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from minilm.pages.frame import framed

_HUES = (210, 25, 140, 285, 55, 340, 180, 100)  # of entity types, in the order they appear
_STYLE = """
article { border-top: 1px solid var(--line); padding: .75rem 0; overflow-wrap: anywhere;
  white-space: pre-wrap; }
mark { color: inherit; padding: .1rem .25rem; border-radius: 4px;
  background: hsl(var(--hue) 75% 86%); }
mark small, .key small { font-size: .7rem; font-weight: 600; margin-left: .35rem;
  letter-spacing: .03em; }
.key { display: flex; flex-wrap: wrap; gap: .3rem .8rem; list-style: none; padding: 0;
  margin: .75rem 0; }
@media (prefers-color-scheme: dark) { mark { background: hsl(var(--hue) 45% 27%); } }
"""


def entities_page(
    title: str, found: Sequence[tuple[str, Mapping[str, Any]]], *, note: str = ""
) -> str:
    """An HTML page with every text and its entities or tags.

    Args:
        title: title of the page.
        found: texts with predictions of a model for tagging or utterances, as `minilm.Predictor`
            returns them: "entities" with start, end, type and confidence, or else "tokens" and
            "tags". A prediction with neither, for a blank line, leaves the text as it is.
        note: a line under the title.
    """
    kinds = dict.fromkeys(kind for _, prediction in found for kind in _kinds(prediction))
    hues = {kind: _HUES[number % len(_HUES)] for number, kind in enumerate(kinds)}
    counts = {kind: 0 for kind in kinds}
    for _, prediction in found:
        for kind in _kinds(prediction):
            counts[kind] += 1
    key = "".join(
        f"<li><mark style='--hue:{hues[kind]}'>{escape(kind)}</mark> {counts[kind]:,}</li>"
        for kind in kinds
    )
    body = "".join(f"<article>{_marked(text, each, hues)}</article>\n" for text, each in found)
    return framed(title, f"<ul class='key'>{key}</ul>\n{body}", style=_STYLE, note=note)


def _kinds(prediction: Mapping[str, Any]) -> Sequence[str]:
    if "entities" in prediction:
        return [entity["type"] for entity in prediction["entities"]]
    return list(prediction.get("tags", ()))


def _marked(text: str, prediction: Mapping[str, Any], hues: Mapping[str, int]) -> str:
    if "entities" not in prediction and "tags" in prediction:
        pairs = zip(prediction["tokens"], prediction["tags"], strict=True)
        return " ".join(_mark(word, tag, hues, tag) for word, tag in pairs)
    parts, done = [], 0
    for entity in sorted(prediction.get("entities", ()), key=lambda each: each["start"]):
        start, end = max(entity["start"], done), entity["end"]
        if end <= start:  # inside another entity
            continue
        shown = f"{entity['type']}, confidence {entity['confidence']:.0%}"
        parts += [escape(text[done:start]), _mark(text[start:end], entity["type"], hues, shown)]
        done = end
    return "".join([*parts, escape(text[done:])])


def _mark(text: str, kind: str, hues: Mapping[str, int], title: str) -> str:
    return (
        f"<mark style='--hue:{hues[kind]}' title=\"{escape(title)}\">{escape(text)}"
        f"<small>{escape(kind)}</small></mark>"
    )
