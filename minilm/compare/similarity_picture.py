"""The layers of models as a picture: how far each moves the tokens, and which do the same."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from minilm.compare.similarity import Similarity
from minilm.training.drawing import COLOURS, check_destination, looks, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "os^Dv"


def draw_similarity(found: Similarity, destination: str | os.PathLike[str]) -> None:
    """Draws the figures of `minilm.compare.similarity.similarity` into a PNG or SVG file.

    The upper part shows, as in ALBERT's figure 1, L2 distance and angle between input and output of
    every application of a layer, a line for each model. The lower part has a row for each student:
    linear CKA of its states with the teacher's, and correlation of their attention.

    Args:
        found: the figures.
        destination: a .png or .svg file in an existing directory; a file that is there is replaced.

    Raises:
        InputError: the file name has another ending.
        CheckpointError: the file cannot be written.
        DependencyError: the package matplotlib is not installed.
    """
    check_destination(destination)
    from matplotlib.figure import Figure

    with looks():
        rows = 1 + len(found.pairs)
        figure = Figure(figsize=(12, 1.2 + 3.2 + 5.0 * len(found.pairs)), dpi=120,
                        layout="constrained")  # fmt: skip
        grid = figure.add_gridspec(rows, 2, height_ratios=[3.2, *[5.0] * len(found.pairs)])
        left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        for number, (name, steps) in enumerate(found.steps.items()):
            colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
            layers = np.arange(1, len(steps.distance) + 1)
            for axes, values in ((left, steps.distance), (right, steps.angle)):
                axes.plot(layers, values, color=colour, marker=marker, label=plain(name))
        _finish(left, "L2 distance between input and output")
        _finish(right, "angle between input and output (degrees)")
        left.legend(frameon=False)
        for row, pair in enumerate(found.pairs, 1):
            cka = figure.add_subplot(grid[row, 0])
            _matrix(figure, cka, np.array(pair.cka), "state", (pair.teacher, pair.student))
            cka.set_title("linear CKA of the states", loc="left", fontsize=11)
            attention = figure.add_subplot(grid[row, 1])
            maps = np.array(pair.attention)
            _matrix(figure, attention, maps, "layer", (pair.teacher, pair.student), first=1)
            attention.set_title("correlation of the attention", loc="left", fontsize=11)
        save(figure, destination)


def _finish(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("application of a layer")
    axes.set_ylim(0, 1.06 * axes.get_ylim()[1])  # room for the highest marker
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _matrix(
    figure: Figure,
    axes: Axes,
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    unit: str,
    names: tuple[str, str],
    first: int = 0,
) -> None:
    """A field for each pair of layers, dark for 0 or less; a dot on each column's highest."""
    from matplotlib.ticker import MaxNLocator

    teacher, student = names
    rows, columns = values.shape
    extent = (first - 0.5, first + columns - 0.5, first - 0.5, first + rows - 0.5)
    shown = axes.imshow(
        values, origin="lower", extent=extent, vmin=0, vmax=1, cmap="viridis", aspect="auto"
    )
    if np.isfinite(values).all():
        axes.plot(first + np.arange(columns), first + values.argmax(axis=0), "wo", ms=4, mec="k")
    axes.set_xlabel(f"{unit} of {plain(student)}")
    axes.set_ylabel(f"{unit} of {plain(teacher)}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(13, integer=True))
    figure.colorbar(shown, ax=axes, shrink=0.8)
