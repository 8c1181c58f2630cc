"""Curves of training runs as a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
# what a loss is the sum of, in the title of its panel
_SHORT = {"mlm": "MLM", "kl": "KL", "cosine": "cosine", "mse": "MSE"}
_SMALL = ("learning_rate", "gradient_norm", "masked_share")
FORMATS = (".png", ".svg")
_RARE = 99.0  # percentile: the gradient norm's axis ends here, not at its highest peak


def check_destination(destination: str | os.PathLike[str]) -> None:
    """Checks the file name and matplotlib, before anything is computed.

    Raises:
        InputError: the name of the file does not end in .png or .svg.
        DependencyError: the package matplotlib is not installed.
    """
    target = Path(destination)
    if target.suffix.lower() not in FORMATS:
        raise InputError(
            f"{target}: pictures are written as PNG or SVG; give a name that ends in .png or .svg."
        )
    try:
        import matplotlib  # noqa: F401  # whether it is there
    except ImportError as problem:
        raise DependencyError(
            "Drawing needs the package matplotlib: pip install 'minilm[plots]'"
        ) from problem


@contextmanager
def looks() -> Iterator[None]:
    """The style of every picture here, inside the block; the same figures give the same SVG."""
    import matplotlib.style

    own = {
        "font.size": 11,
        "agg.path.chunksize": 10000,
        "svg.hashsalt": "minilm",
        "svg.fonttype": "none",
    }
    with matplotlib.style.context(["default", own]):
        yield


def save(figure: Figure, destination: str | os.PathLike[str]) -> None:
    """Writes a picture whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    target = Path(destination)
    kind = target.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None
    replace_files({target: lambda path: figure.savefig(path, format=kind, metadata=metadata)})


def draw(runs: Sequence[RunCurves], destination: str | os.PathLike[str]) -> None:
    """Draws the curves of one or several runs into a PNG or SVG file.

    On the left are the loss and its terms, each as logged (faint) and smoothed; runs whose losses
    are sums of different terms, such as a teacher and its student, have a loss panel each. On the
    right are the held-out scores; below, small, are learning rate, gradient norm and mask ratio.
    Each run has its own colour.

    Args:
        runs: the curves that `read_runs` returns.
        destination: a .png or .svg file in an existing directory; a file that is there is replaced.

    Raises:
        InputError: there are no runs, or the file name has another ending.
        CheckpointError: the file cannot be written.
        DependencyError: the package matplotlib is not installed.
    """
    check_destination(destination)
    if not runs:
        raise InputError("runs is empty; give at least one run.")
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    losses = _losses(runs)
    terms = _union(name for run in runs for name in run.terms)
    right = _union(name for run in runs for name in run.held_out)
    small = [name for name in _SMALL if any(name in run.training for run in runs)]
    styles = [
        Look(COLOURS[index % len(COLOURS)], _STYLES[index // len(COLOURS) % len(_STYLES)])
        for index in range(len(runs))
    ]
    # inches; the loss is as high as two terms
    upper = 2.0 * max(2 * len(losses) + len(terms), len(right), 3)
    with looks():
        figure = Figure(figsize=(13, upper + 2.6), dpi=120, layout="constrained")
        grid = figure.add_gridspec(2, 1, height_ratios=[upper, 2.0])
        columns = grid[0].subgridspec(1, 2 if right and (losses or terms) else 1)
        heights = {**dict.fromkeys(losses, 2), **dict.fromkeys(terms, 1)}
        panels = _stack(figure, columns[0, 0], heights)
        for title, members in losses.items():
            curves = [run.training["loss"] if run in members else None for run in runs]
            _logged(panels[title], "loss", curves, styles, title)
        for name in terms:
            curves = [run.training.get(name) for run in runs]
            _logged(panels[name], name, curves, styles, f"training {_label(name)}")
        held_out = _stack(figure, columns[0, -1], dict.fromkeys(right, 1))
        for name, axes in held_out.items():
            curves = [run.held_out.get(name) for run in runs]
            _scores(axes, score_named(name, right), curves, styles)
        below = grid[1].subgridspec(1, max(len(small), 1))
        for column, name in enumerate(small):
            axes = figure.add_subplot(below[0, column])
            _logged(axes, name, [run.training.get(name) for run in runs], styles, _label(name))
        figure.legend(
            [Line2D([], [], color=look.colour, linestyle=look.style, lw=2) for look in styles],
            [plain(run.name) for run in runs],
            loc="outside upper left",
            ncols=3,
            frameon=False,
        )
        save(figure, destination)


def _losses(runs: Sequence[RunCurves]) -> dict[str, list[RunCurves]]:
    """The runs whose losses are the same quantity, by the title of their panel."""
    found: dict[str, list[RunCurves]] = {}
    for run in runs:
        if "loss" in run.training:
            found.setdefault(_loss_title(run), []).append(run)
    return found


def _loss_title(run: RunCurves) -> str:
    """What the loss is the sum of: "training loss = 5 KL + 2 MLM + cosine"."""
    terms = []
    for name, weight in run.objective:
        short = _SHORT.get(name, plain(name.replace("_", " ")))
        terms.append(short if weight in (None, 1.0) else f"{weight:g} {short}")
    if not terms:
        return "training loss"
    if any(weight is None for _, weight in run.objective):
        return f"training loss of {', '.join(terms)}"
    return f"training loss = {' + '.join(terms)}"


@dataclass(frozen=True)
class Look:
    """How the lines of a run are drawn."""

    colour: str
    style: Style


def _stack(figure: Figure, place: SubplotSpec, heights: Mapping[str, int]) -> dict[str, Axes]:
    """A panel for each name, one below the other."""
    if not heights:
        return {}
    rows = place.subgridspec(len(heights), 1, height_ratios=list(heights.values()))
    return {name: figure.add_subplot(rows[row, 0]) for row, name in enumerate(heights)}


def _logged(
    axes: Axes,
    name: str,
    curves: Sequence[Curve | None],
    styles: Sequence[Look],
    title: str,
) -> None:
    """A panel of what the lines of steps have: as logged and, unless it is a plan, smoothed."""
    tops = []
    for curve, look in zip(curves, styles, strict=True):
        if curve is None:
            continue
        if name == "masked_share":
            curve = Curve(curve.steps, 100 * curve.values)
        if name == "learning_rate":
            _line(axes, curve, look)
        else:
            axes.plot(curve.steps, _finite(curve), color=look.colour, alpha=0.25, lw=0.8)
            _line(axes, curve.smoothed(), look)
        if np.isfinite(curve.values).any():
            tops.append(float(np.nanpercentile(_finite(curve), _RARE)))
    _finish(axes, title, percent=name == "masked_share")
    if name == "masked_share":
        axes.set_ylim(bottom=0)
    if name == "gradient_norm" and tops:
        axes.set_ylim(0, 1.15 * max(tops) or 1.0)


def _scores(
    axes: Axes, score: Score, curves: Sequence[Curve | None], styles: Sequence[Look]
) -> None:
    """A panel of a held-out score, a point for each evaluation."""
    for curve, look in zip(curves, styles, strict=True):
        if curve is not None:
            if score.in_percent:
                curve = Curve(curve.steps, score.percentage(1.0) * curve.values)
            _line(axes, curve, look, points=True)
    title = score.title if score.in_percent else score.label  # the axis has percent signs
    _finish(axes, f"held-out {plain(title)}", percent=score.in_percent)
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
    return _LABELS.get(name, plain(name.replace("_", " ")))


def plain(text: str) -> str:
    """A text without formulas."""
    return text.replace("$", r"\$")


def _finish(axes: Axes, title: str, *, percent: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if percent:
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _union(names: Iterable[str]) -> list[str]:
    """Each name once, in the order in which they first occur."""
    return list(dict.fromkeys(names))
