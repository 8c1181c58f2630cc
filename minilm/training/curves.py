"""Curves from the log of a run, one for every number in it, during the run or after it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minilm.errors import DataError
from minilm.files.arrays import Doubles, Integers
from minilm.metrics.score_table import score_named
from minilm.training.log import LOG

# In the lines of steps, besides the loss and its terms. A step number is not a curve.
BESIDES = (
    "epoch",
    "tokens",
    "learning_rate",
    "gradient_norm",
    "tokens_per_second",
    "seconds",
    "masked_share",
)
_SMOOTHED_POINTS = 1000


@dataclass(frozen=True, eq=False)
class Curve:
    """One number over the steps of a run.

    Attributes:
        steps: (n,) int64, rising.
        values: (n,) float64; NaN and infinity are possible, a run may diverge.
    """

    steps: Integers
    values: Doubles

    def best(self, *, highest: bool) -> tuple[int, float] | None:
        """The step with the best finite value, and that value; None if no value is finite."""
        finite = np.isfinite(self.values)
        if not finite.any():
            return None
        kept = self.values[finite]
        index = int(kept.argmax() if highest else kept.argmin())
        return int(self.steps[finite][index]), float(kept[index])

    def smoothed(self) -> Curve:
        """Weighted means over a Hann window of a fifteenth of the curve, at up to 1,000 steps.

        The window is centred at each step, so nothing is delayed; it is cut off at the ends. Values
        that are not finite are left out; the mean is NaN where the window has no others.
        """
        n_values = len(self.values)
        half = n_values // 30
        window = np.hanning(2 * half + 3)[1:-1]
        finite = np.isfinite(self.values)
        known = np.where(finite, self.values, 0.0)
        centres = np.unique(np.linspace(0, n_values - 1, _SMOOTHED_POINTS).round().astype(int))
        means = []
        for centre in centres:
            inside = slice(max(centre - half, 0), centre + half + 1)
            shape = window[inside.start - centre + half :][: len(finite[inside])]
            weight = float(shape @ finite[inside])
            means.append(float(shape @ known[inside]) / weight if weight else math.nan)
        return Curve(self.steps[centres], np.array(means))


@dataclass(frozen=True, eq=False)
class RunCurves:
    """The curves of one run.

    Attributes:
        name: the name of its directory.
        log: the log file.
        training: "loss", its terms, and those of `BESIDES` that were logged.
        held_out: the scores of the evaluations, such as "masked_loss" and "masked_accuracy".
    """

    name: str
    log: Path
    training: Mapping[str, Curve]
    held_out: Mapping[str, Curve]

    @property
    def step(self) -> int:
        """The last step in the log."""
        curves = (*self.training.values(), *self.held_out.values())
        return max(int(curve.steps[-1]) for curve in curves)

    @property
    def terms(self) -> list[str]:
        """The terms of the loss, without those that are the loss itself."""
        loss = self.training.get("loss")
        return [
            name
            for name, curve in self.training.items()
            if name not in ("loss", *BESIDES)
            and not (loss and np.array_equal(curve.values, loss.values, equal_nan=True))
        ]

    @property
    def objective(self) -> tuple[tuple[str, float | None], ...]:
        """The terms whose sum is the loss, with their weights, as the log shows them.

        Losses of runs with different objectives are different quantities. Weights are None where
        the log does not determine them: too few steps, or terms that do not add up to the loss.
        """
        names = [name for name in self.training if name not in ("loss", *BESIDES)]
        unknown = tuple((name, None) for name in names)
        loss = self.training.get("loss")
        if loss is None or not names:
            return unknown
        if any(len(self.training[name].steps) != len(loss.steps) for name in names):
            return unknown
        terms = np.stack([self.training[name].values for name in names], axis=-1)  # (n, terms)
        rows = np.isfinite(terms).all(axis=-1) & np.isfinite(loss.values)
        if rows.sum() <= len(names):
            return unknown
        weights, _, rank, _ = np.linalg.lstsq(terms[rows], loss.values[rows], rcond=1e-9)
        if rank < len(names):
            return unknown
        rounded = [float(f"{weight:.3g}") for weight in weights]
        if not np.allclose(terms[rows] @ rounded, loss.values[rows], rtol=1e-3, atol=1e-6):
            return unknown
        return tuple(zip(names, rounded, strict=True))

    def summary(self) -> dict[str, Any]:
        """The last and best figures, as JSON. A number that is not finite is None.

        `minilm.metrics.score_table` says whether a high or a low score is better.
        """
        return {
            "name": self.name,
            "log": str(self.log),
            "step": self.step,
            "training": {
                name: _json_number(curve.values[-1]) for name, curve in self.training.items()
            },
            "held_out": {
                name: _last_and_best(curve, score_named(name, self.held_out).higher_is_better)
                for name, curve in self.held_out.items()
            },
        }


def read_runs(runs: Sequence[str | os.PathLike[str]]) -> list[RunCurves]:
    """Reads the logs of runs.

    Args:
        runs: each the directory of a run, the directory that holds log.jsonl, or that file. They
            are named after their directories; where two names are equal, by their paths.

    Raises:
        DataError: see `read_run`.
    """
    curves = [read_run(run) for run in runs]
    names = [run.name for run in curves]
    return [
        run
        if names.count(run.name) == 1
        else RunCurves(str(path), run.log, run.training, run.held_out)
        for run, path in zip(curves, runs, strict=True)
    ]


def read_run(run: str | os.PathLike[str]) -> RunCurves:
    """Reads log.jsonl of one run.

    A last line that is only half there is left out: the run may be writing it.

    Args:
        run: see `read_runs`.

    Raises:
        DataError: there is no log, it has no step yet, or it is damaged; names file and line.
    """
    log = _find_log(Path(run))
    training: dict[str, tuple[list[int], list[float]]] = {}
    held_out: dict[str, tuple[list[int], list[float]]] = {}
    for number, row in _rows(log):
        if "event" in row:
            continue
        where = f"{log}, line {number}"
        step = row.pop("step", None)
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
            raise DataError(f'{where}: "step" is {step!r:.40}, expected a whole number. {_DAMAGED}')
        scores = row.pop("held_out", None)
        row.pop("skipped", None)
        _append(training, step, row, where)
        if scores is not None:
            if not isinstance(scores, dict):
                raise DataError(f'{where}: "held_out" is not an object {{...}}. {_DAMAGED}')
            _append(held_out, step, scores, where)
    if not training and not held_out:
        raise DataError(f"{log} has no step yet. Wait until the run has logged one.")
    folder = log.resolve().parent
    name = (folder.parent if folder.name == LOG.parent.name else folder).name
    return RunCurves(name, log, _curves(training), _curves(held_out))


_DAMAGED = "The log is damaged; remove the line or restore the file."


def _find_log(run: Path) -> Path:
    for path in (run, run / LOG, run / LOG.name):
        if path.is_file():
            return path
    if not run.exists():
        raise DataError(f"{run} does not exist. Give the directory of a run.")
    if runs := sorted(path.parents[1] for path in run.glob(f"*/{LOG}")):
        some = ", ".join(map(str, runs[:4]))
        raise DataError(f"{run} is not a training run, but holds {len(runs)}. Name them: {some}.")
    raise DataError(f"{run} is not a training run: {run / LOG} does not exist.")


def _rows(log: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered lines, parsed."""
    try:
        with log.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as problem:
                    if not line.endswith(b"\n"):  # the last line
                        return
                    raise DataError(
                        f"{log}, line {number}: no valid JSON ({problem}). {_DAMAGED}"
                    ) from problem
                if not isinstance(row, dict):
                    raise DataError(f"{log}, line {number}: no object {{...}}. {_DAMAGED}")
                yield number, row
    except OSError as problem:
        raise DataError(f"{log} cannot be read: {problem.strerror or problem}.") from problem


def _append(
    curves: dict[str, tuple[list[int], list[float]]], step: int, row: dict[str, Any], where: str
) -> None:
    for name, value in row.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (isinstance(value, int) and abs(value) >= 2**63):
            raise DataError(f"{where}: {name!r} is {value!r:.40}, expected a number. {_DAMAGED}")
        steps, values = curves.setdefault(name, ([], []))
        if steps and step <= steps[-1]:
            raise DataError(f"{where}: step {step} comes after step {steps[-1]}. {_DAMAGED}")
        steps.append(step)
        values.append(float(value))


def _curves(columns: dict[str, tuple[list[int], list[float]]]) -> dict[str, Curve]:
    return {
        name: Curve(np.array(steps, dtype=np.int64), np.array(values))
        for name, (steps, values) in columns.items()
    }


def _last_and_best(curve: Curve, highest: bool) -> dict[str, Any]:
    best = curve.best(highest=highest)
    return {
        "step": int(curve.steps[-1]),
        "last": _json_number(curve.values[-1]),
        "best": best[1] if best else None,
        "best_step": best[0] if best else None,
    }


def _json_number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
