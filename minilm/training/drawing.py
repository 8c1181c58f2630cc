"""Curves of training runs as a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from minilm.errors import DependencyError, InputError
from minilm.files.arrays import Doubles
from minilm.files.atomic import replace_files
from minilm.metrics.score_table import Score, score_named
from minilm.training.curves import Curve, RunCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

Style: TypeAlias = Literal["-", "--", ":"]

# Okabe and Ito's colours, which colour-blind readers tell apart; without their yellow, too pale for
# lines. Beyond seven runs the lines are dashed, then dotted.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES: tuple[Style, ...] = ("-", "--", ":")

# of what a step logs; held-out scores are in minilm.metrics.score_table
_LABELS = {
    "loss": "loss",
    "mlm": "masked LM loss (nats)",
    "kl": "KL to the teacher × T² (nats)",
    "cosine": "1 − cosine of the states",
    "mse": "squared difference of logits",
    "labels": "loss on the labels",
    "soft_targets": "loss on the teacher's predictions",
    "masked_share": "share of tokens that are masked",
    "sentence_order": "sentence order (nats)",
    "next_sentence": "next sentence (nats)",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
}
_SCHEDULE = ("learning_rate", "gradient_norm")
_RARE = 99.0  # percentile: the gradient norm's axis ends here, not at its highest peak


def draw(runs: Sequence[RunCurves], destination: str | os.PathLike[str]) -> None:
    """Draws the curves of one or several runs into a PNG file.

    On the left the loss and its terms, each as logged (faint) and smoothed; on the right the
    held-out scores; below, small, learning rate and gradient norm. One colour for each run.

    Args:
        runs: as `read_runs` gives them.
        destination: a .png file in an existing directory; a file that is there is replaced.

    Raises:
        InputError: there are no runs, or the name of the file ends otherwise.
        CheckpointError: the file cannot be written.
        DependencyError: without the package matplotlib.
    """
    target = Path(destination)
    if target.suffix.lower() != ".png":
        raise InputError(f"{target}: pictures are written as PNG; give a name that ends in .png.")
    if not runs:
        raise InputError("runs is empty; give at least one run.")
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as problem:
        raise DependencyError(
            "Drawing needs the package matplotlib: pip install 'minilm[plots]'"
        ) from problem

    left = _union(name for run in runs for name in ("loss", *run.terms) if name in run.training)
    right = _union(name for run in runs for name in run.held_out)
    small = [name for name in _SCHEDULE if any(name in run.training for run in runs)]
    looks = [
        Look(COLOURS[index % len(COLOURS)], _STYLES[index // len(COLOURS) % len(_STYLES)])
        for index in range(len(runs))
    ]
    upper = 2.0 * max(len(left) + 1, len(right), 3)  # inches; the loss is as high as two terms
    with matplotlib.style.context(["default", {"font.size": 11, "agg.path.chunksize": 10000}]):
        figure = Figure(figsize=(13, upper + 2.6), dpi=120, layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=[upper, 2.0])
        for name, axes in _stack(figure, grid[0, 0] if right else grid[0, :], left).items():
            _logged(axes, name, [run.training.get(name) for run in runs], looks, "training ")
        for name, axes in _stack(figure, grid[0, 1] if left else grid[0, :], right).items():
            _scores(axes, score_named(name, right), [run.held_out.get(name) for run in runs], looks)
        for column, name in enumerate(small):
            axes = figure.add_subplot(grid[1, column])
            _logged(axes, name, [run.training.get(name) for run in runs], looks)
        figure.legend(
            [Line2D([], [], color=look.colour, linestyle=look.style, lw=2) for look in looks],
            [_plain(run.name) for run in runs],
            loc="outside upper left",
            ncols=3,
            frameon=False,
        )
        replace_files({target: lambda path: figure.savefig(path, format="png")})


@dataclass(frozen=True)
class Look:
    """How the lines of a run are drawn."""

    colour: str
    style: Style


def _stack(figure: Figure, place: SubplotSpec, names: Sequence[str]) -> dict[str, Axes]:
    """A panel for each name, one below the other; that of the loss is twice as high."""
    if not names:
        return {}
    heights = [2 if name == "loss" else 1 for name in names]
    rows = place.subgridspec(len(names), 1, height_ratios=heights)
    return {name: figure.add_subplot(rows[row, 0]) for row, name in enumerate(names)}


def _logged(
    axes: Axes,
    name: str,
    curves: Sequence[Curve | None],
    looks: Sequence[Look],
    before: str = "",
) -> None:
    """A panel of what the lines of steps have: as logged and, unless it is a plan, smoothed."""
    tops = []
    for curve, look in zip(curves, looks, strict=True):
        if curve is None:
            continue
        if name == "learning_rate":
            _line(axes, curve, look)
        else:
            axes.plot(curve.steps, _finite(curve), color=look.colour, alpha=0.25, lw=0.8)
            _line(axes, curve.smoothed(), look)
        if np.isfinite(curve.values).any():
            tops.append(float(np.nanpercentile(_finite(curve), _RARE)))
    _finish(axes, before + _label(name))
    if name == "gradient_norm" and tops:
        axes.set_ylim(0, 1.15 * max(tops) or 1.0)


def _scores(
    axes: Axes, score: Score, curves: Sequence[Curve | None], looks: Sequence[Look]
) -> None:
    """A panel of a held-out score, a point for each evaluation."""
    for curve, look in zip(curves, looks, strict=True):
        if curve is not None:
            if score.in_percent:
                curve = Curve(curve.steps, score.percentage(1.0) * curve.values)
            _line(axes, curve, look, points=True)
    _finish(axes, f"held-out {_plain(score.label)}")
    if score.in_percent:
        axes.set_ylim(bottom=0)


def _line(axes: Axes, curve: Curve, look: Look, *, points: bool = False) -> None:
    axes.plot(
        curve.steps,
        _finite(curve),
        color=look.colour,
        linestyle=look.style,
        linewidth=1.8,
        marker="o" if points or len(curve.steps) == 1 else None,
        markersize=4,
    )


def _finite(curve: Curve) -> Doubles:
    """The values, with gaps instead of infinities."""
    return np.where(np.isfinite(curve.values), curve.values, np.nan)


def _label(name: str) -> str:
    return _LABELS.get(name, _plain(name.replace("_", " ")))


def _plain(text: str) -> str:
    """A text without formulas."""
    return text.replace("$", r"\$")


def _finish(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _union(names: Iterable[str]) -> list[str]:
    """Each name once, in the order in which they first occur."""
    return list(dict.fromkeys(names))
