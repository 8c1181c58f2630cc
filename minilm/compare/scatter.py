"""A comparison as one picture: the score of each model against its size.

An SVG drawing with its own colours for light and dark, so that it works both in a page and in a
file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10, sqrt
from typing import Any

from minilm.compare.quantities import Quantity, Value, quantities

WIDTH, HEIGHT = 440, 405
LEFT, RIGHT, TOP, BOTTOM = 48, 20, 34, 127  # margins around the plot
LARGEST = 20.0  # radius of the model with the largest file
SMALLEST = 3.0  # radius below which a dot cannot be seen
LETTER = 7.4  # mean width of a letter of a label
LINE = 15.0  # height of a label
SHADES = 5  # colours from slow to fast
SAME_SPEED = 1.5  # the colours stand for at least this ratio, so that noise gets no colour

STYLE = """
.plot { --ink: #1b1f24; --paper: #ffffff; --soft: #5c6670; --line: #d9dee3;
  --s0: #cfe3f7; --s1: #97c2ec; --s2: #5b9bd8; --s3: #2a6fbb; --s4: #123f77;
  font: 13px system-ui, sans-serif; fill: var(--ink); }
.plot .paper { fill: var(--paper); }
.plot .axis { stroke: var(--line); } .plot .tick { fill: var(--soft); font-size: 12px; }
.plot .error { stroke: var(--ink); stroke-width: 1.5; }
.plot .dot { fill-opacity: .9; stroke: var(--soft); }
.plot .s0 { fill: var(--s0); } .plot .s1 { fill: var(--s1); } .plot .s2 { fill: var(--s2); }
.plot .s3 { fill: var(--s3); } .plot .s4 { fill: var(--s4); }
@media (prefers-color-scheme: dark) { .plot { --ink: #e6e9ec; --paper: #14181c; --soft: #9aa4ae;
  --line: #2e363d;
  --s0: #1d3550; --s1: #2b5687; --s2: #3f7fc4; --s3: #7db3ee; --s4: #d3e7fd; } }
"""


@dataclass(frozen=True)
class _Point:
    model: Mapping[str, Any]
    score: Value
    x: float
    y: float
    top: float  # end of the error mark
    bottom: float
    radius: float


def scatter(result: Mapping[str, Any]) -> str | None:
    """Score against parameters; the colour of a dot shows speed in bulk, its area the file's size.

    The score is the masked-LM accuracy, with one standard error up and down, or, if fewer than two
    models have a masked-LM head, the score on the first task.

    Args:
        result: what `minilm.compare.measure.compare` returned.

    Returns:
        An <svg> element, or None where fewer than two models have the same kind of score.
    """
    quantity = scored(result)
    if quantity is None:
        return None
    known = [
        (model, value)
        for model, value in zip(result["models"], quantity.values, strict=True)
        if value is not None
    ]
    ends = [end for _, value in known for end in _ends(value)]
    spread = max(max(ends) - min(ends), 0.02 * (quantity.whole or 1))
    low, high = max(0.0, min(ends) - 0.2 * spread), max(ends) + 0.2 * spread
    widest: float = 1.12 * max(model["parameters"] for model, _ in known)
    largest = max(model["file_bytes"] for model, _ in known)

    def across(parameters: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * parameters / widest

    def up(score: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (score - low) / (high - low)

    points = [
        _Point(
            model,
            value,
            across(model["parameters"]),
            up(value.number),
            up(_ends(value)[1]),
            up(_ends(value)[0]),
            max(SMALLEST, LARGEST * sqrt(model["file_bytes"] / largest)),
        )
        for model, value in sorted(known, key=lambda pair: -pair[1].number)
    ]
    speeds = [point.model["tokens_per_second"] for point in points]
    slowest, fastest = min(*speeds, max(speeds) / SAME_SPEED), max(speeds)

    def shade(speed: float) -> int:
        share = (speed - slowest) / (fastest - slowest)
        return min(int(share * SHADES), SHADES - 1)

    # a ground of its own: whatever a picture stands on may not follow light and dark as it does
    parts = [f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="6"/>']
    parts += list(_axes(across, up, widest, low, high, "%" if quantity.unit == "%" else ""))
    for point in sorted(points, key=lambda point: -point.radius):  # small ones in front
        if point.bottom > point.top:
            parts.append(
                f'<line class="error" x1="{point.x:.1f}" x2="{point.x:.1f}" y1="{point.top:.1f}" '
                f'y2="{point.bottom:.1f}"/>'
            )
        parts.append(
            f'<circle class="dot s{shade(point.model["tokens_per_second"])}" cx="{point.x:.1f}" '
            f'cy="{point.y:.1f}" r="{point.radius:.1f}"><title>{escape(_words(point, quantity))}'
            "</title></circle>"
        )
    parts += _labels(points)
    parts += _legend(result, quantity, slowest, fastest, [p.model["file_bytes"] for p in points])
    summary = f"{quantity.title} against the number of parameters"
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(summary)}">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def scored(result: Mapping[str, Any]) -> Quantity | None:
    """The first score that two models have and that is not relative to chance, or None."""
    for quantity in quantities(result):
        known = sum(value is not None for value in quantity.values)
        if quantity.kind == "score" and quantity.chance is None and known > 1:
            return quantity
    return None


def _ends(value: Value) -> tuple[float, float]:
    low, high = value.low, value.high
    return (value.number, value.number) if low is None or high is None else (low, high)


def _words(point: _Point, quantity: Quantity) -> str:
    model = point.model
    score = " ".join([quantity.show(point.score), quantity.show_error(point.score)]).strip()
    return (
        f"{model['name']}: {model['parameters'] / 1e6:.2f} million parameters, {score}, "
        f"{model['tokens_per_second']:,.0f} tokens a second, file of "
        f"{model['file_bytes'] / 1e6:.1f} MB"
    )


def _axes(across: Any, up: Any, widest: float, low: float, high: float, unit: str) -> Iterator[str]:
    for value in _ticks(0, widest):
        x, text = across(value), f"{value / 1e6:g}M" if value else "0"
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield _text(x, HEIGHT - BOTTOM + 17, text, "tick", "middle")
    for value in _ticks(low, high):
        y = up(value)
        yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(LEFT - 7, y + 4, f"{value:g}{unit}", "tick", "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36, "parameters", "tick", "middle")


def _labels(points: Sequence[_Point]) -> Iterator[str]:
    """The names, where they cover neither a dot nor each other."""
    taken = [(p.x - p.radius, p.x + p.radius, p.y - p.radius, p.y + p.radius) for p in points]
    taken += [(p.x - 1, p.x + 1, p.top, p.bottom) for p in points]  # the error marks
    for point in points:
        length, away = LETTER * len(point.model["name"]), point.radius + 5
        beyond = max(point.radius, point.y - point.top) + LINE / 2 + 2
        middle = min(max(point.x - length / 2, LEFT + 2), WIDTH - 2 - length)
        lines = [beyond + LINE * n for n in range(7)]
        places = [
            (point.x + away, point.y),
            (middle, point.y + beyond),
            (middle, point.y - beyond),
            (point.x - away - length, point.y),
            *((middle, point.y + way) for line in lines for way in (line, -line)),
        ]
        boxes = [(x, x + length, y - LINE / 2, y + LINE / 2) for x, y in places]
        inside = [
            box
            for box in boxes
            if box[0] >= LEFT and box[1] <= WIDTH and box[2] >= TOP and box[3] <= HEIGHT - BOTTOM
        ] or boxes
        box = next((box for box in inside if not any(_overlap(box, b) for b in taken)), inside[0])
        taken.append(box)
        yield _text(box[0], box[2] + LINE / 2 + 4, point.model["name"], "name", "start")


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    """Whether two boxes (left, right, top, bottom) have a point in common."""
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _legend(
    result: Mapping[str, Any],
    quantity: Quantity,
    slowest: float,
    fastest: float,
    sizes: Sequence[int],
) -> Iterator[str]:
    """The title of the score, what colour and area stand for, and where it was measured."""
    error = (
        ", ± one standard error" if any(v and v.low is not None for v in quantity.values) else ""
    )
    yield _text(LEFT, 18, _shortened(f"{quantity.title}{error}"), "tick", "start")
    y = HEIGHT - BOTTOM + 58
    text = f"tokens a second: {slowest:,.0f}"
    yield _text(LEFT, y, text, "tick", "start")
    x = LEFT + 6.4 * len(text) + 6
    for shade in range(SHADES):
        at = x + 14 * shade
        yield f'<rect class="s{shade}" x="{at:.1f}" y="{y - 10}" width="14" height="11"/>'
    yield _text(x + 14 * SHADES + 6, y, f"{fastest:,.0f}", "tick", "start")
    span = sorted({f"{size / 1e6:.1f}" for size in (min(sizes), max(sizes))}, key=float)
    yield _text(LEFT, y + 19, f"area of a dot: file of {' to '.join(span)} MB", "tick", "start")
    machine = result["machine"]
    threads = f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}"
    told = f"minilm compare, {machine['date']}, {threads}"
    yield _text(LEFT, y + 38, told, "tick", "start")
    yield _text(LEFT, y + 53, _shortened(machine["processor"]), "tick", "start")


def _shortened(text: str) -> str:
    """The part of the text that fits into a line of the legend."""
    longest = int((WIDTH - LEFT - RIGHT) / LETTER)
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, four to nine of them."""
    step = 10 ** floor(log10((high - low) / 2))
    while (high - low) / step > 9:
        step *= 2 if (high - low) / step < 18 else 2.5
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)]
