"""A comparison as one picture: what each model gets right against how large it is.

A drawing in SVG that carries its own colours for light and dark, so that it stands in a page as
well as in a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import ceil, floor, log10, sqrt
from typing import Any

from minilm.compare.report import task_titles
from minilm.metrics.score_table import score_named

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 28, 56  # margins around the plot
LARGEST = 20.0  # radius of the fastest model
LETTER = 7.2  # mean width of a letter of a label

STYLE = """
.plot { --ink: #1b1f24; --soft: #5c6670; --line: #d9dee3; --dot: #2a6fbb;
  font: 13px system-ui, sans-serif; fill: var(--ink); }
.plot .axis { stroke: var(--line); } .plot .tick { fill: var(--soft); font-size: 12px; }
.plot .error { stroke: var(--dot); stroke-width: 1.5; }
.plot circle { fill: var(--dot); fill-opacity: .25; stroke: var(--dot); stroke-width: 1.5; }
.plot .centre { fill-opacity: 1; }
@media (prefers-color-scheme: dark) { .plot { --ink: #e6e9ec; --soft: #9aa4ae; --line: #2e363d;
  --dot: #6aa6e8; } }
"""


def scatter(result: Mapping[str, Any]) -> str | None:
    """Parameters against a score, the area of a dot for speed.

    The score is masked-LM accuracy, with one standard error up and down, or where no model has a
    masked-LM head, the score on the first task.

    Args:
        result: of `minilm.compare.measure.compare`.

    Returns:
        An <svg> element, or None where fewer than two models have the same kind of score.
    """
    title, is_percent, points = _points(result)
    if len(points) < 2:
        return None
    scores = [float(score) for _, score, _ in points]
    spread = max(max(scores) - min(scores), 0.02)
    low, high = max(0.0, min(scores) - 0.25 * spread), max(scores) + 0.25 * spread
    widest: float = 1.12 * max(model["parameters"] for model, _, _ in points)
    fastest = max(model["tokens_per_second"] for model, _, _ in points)

    def across(parameters: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * parameters / widest

    def up(score: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (score - low) / (high - low)

    parts = []
    for value in _ticks(0, widest):
        x, text = across(value), f"{value / 1e6:g}M" if value else "0"
        parts += [
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{text}</text>",
        ]
    for value in _ticks(low, high):
        y, text = up(value), f"{100 * value:g}%" if is_percent else f"{value:g}"
        parts += [
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
        ]
    taken: list[tuple[float, float, float]] = []  # from, to, height of each label
    for model, score, error in sorted(points, key=lambda point: -point[1]):
        x, y = across(model["parameters"]), up(score)
        radius = LARGEST * sqrt(model["tokens_per_second"] / fastest)
        if error:
            top, bottom = up(score + error), up(score - error)
            parts.append(
                f'<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
            )
        shown = f"{score:.1%}" if is_percent else f"{score:.3f}"
        words = (
            f"{model['name']}: {model['parameters'] / 1e6:.2f} million parameters, {shown}, "
            f"{model['tokens_per_second']:,.0f} tokens a second"
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            f"<title>{escape(words)}</title></circle>",
            f'<circle class="centre" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>',
        ]
        length = LETTER * len(model["name"])
        right = x + radius + 4 + length <= WIDTH - RIGHT
        start = x + radius + 4 if right else x - radius - 4 - length
        height = y + 4
        while any(
            start < other_end and other_start < start + length and abs(height - line) < 15
            for other_start, other_end, line in taken
        ):
            height += 15
        taken.append((start, start + length, height))
        anchor = "start" if right else "end"
        at = start if right else start + length
        parts.append(
            f'<text x="{at:.1f}" y="{height:.1f}" text-anchor="{anchor}">'
            f"{escape(model['name'])}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts += [
        f'<text class="tick" x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">'
        "parameters; the area of a dot is speed in bulk</text>",
        f'<text class="tick" x="{LEFT}" y="16">{escape(title)}</text>',
    ]
    summary = f"{title} against the number of parameters"
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(summary)}">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _points(
    result: Mapping[str, Any],
) -> tuple[str, bool, list[tuple[Mapping[str, Any], float, float]]]:
    """The axis' title, whether it is in percent, and each model with its score and error."""
    models = result["models"]
    points = [
        (model, model["scores"]["masked_accuracy"], _standard_error(model["scores"]))
        for model in models
        if model["scores"]
    ]
    if points:
        return "masked words right", True, points
    for name, title in task_titles(models).items():
        scored = [(m, m["tasks"][name]["score"], 0.0) for m in models if name in m["tasks"]]
        return title, score_named(scored[0][0]["tasks"][name]["metric"]).in_percent, scored
    return "", False, []


def _standard_error(scores: Mapping[str, Any]) -> float:
    """Of a share of independent cases, all as likely to be right."""
    share = float(scores["masked_accuracy"])
    return sqrt(share * (1 - share) / max(scores["masked_tokens"], 1))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, four to nine of them."""
    step = 10 ** floor(log10((high - low) / 2))
    while (high - low) / step > 9:
        step *= 2 if (high - low) / step < 18 else 2.5
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)]
