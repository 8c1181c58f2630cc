"""The figures of a comparison, each with its unit, its direction and its uncertainty.

Table, page and picture take their figures from here, so that they cannot contradict each other.

A figure has an error where one is known: for a share of right answers it is the standard error of a
share of independent cases; for a time, the quartiles of its rounds. A difference between models
that is smaller than its standard error is not shown as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import quantiles
from typing import Any, Literal

from minilm.metrics.score_table import score_named

Kind = Literal["size", "speed", "score"]
UNKNOWN = "–"
ABOUT_EQUAL = "≈"  # stands for a share of the first model's figure that cannot be told from 1

# the share of right answers of these metrics is that of independent cases
_SHARES = ("accuracy", "exact", "exact_match", "subset_accuracy", "both_right")


@dataclass(frozen=True)
class Value:
    """One model's figure.

    Attributes:
        number: the figure in the unit of its quantity.
        low, high: the ends of the error mark; None where no error is known.
        share: share of the first model's figure; for times, how many times as fast. None for the
            first model itself and where one of the two has no figure.
        differs: whether the difference from the first model is larger than its standard error.
    """

    number: float
    low: float | None = None
    high: float | None = None
    share: float | None = None
    differs: bool = True


@dataclass(frozen=True)
class Quantity:
    """One figure of all models.

    Attributes:
        title: its name, in lower case except for proper names.
        unit: unit of its numbers; "" = none.
        kind: how shares of the first model's figure are written.
        values: value of each model; None = the model does not have it.
        digits: number of decimal places.
        lower_is_better: whether lower is better.
        chance: the score of guessing; None where that is meaningless.
        whole: figure of the longest possible bar; None = the highest of the figures.
        part: whether it is a part of the quantity before it.
    """

    title: str
    unit: str
    kind: Kind
    values: Sequence[Value | None]
    digits: int = 0
    lower_is_better: bool = False
    chance: float | None = None
    whole: float | None = None
    part: bool = False

    @property
    def heading(self) -> str:
        """Title and unit, for a table whose cells have no unit: "file, MB"."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def show(self, value: Value) -> str:
        """The number with its unit: "7.2 ms"."""
        shown = f"{value.number:,.{self.digits}f}"
        return shown + ("%" if self.unit == "%" else f" {self.unit}" if self.unit else "")

    def show_error(self, value: Value) -> str:
        """Half the length of the error mark, "±0.6"; "" where no error is known."""
        if value.low is None or value.high is None:
            return ""
        return f"±{(value.high - value.low) / 2:,.{self.digits}f}"

    def show_share(self, value: Value) -> str:
        """The share of the first model's figure, in brackets: "(59%)", "(1.89x)", "(≈)" or ""."""
        if value.share is None:
            return ""
        if not value.differs:
            return f"({ABOUT_EQUAL})"
        return f"({value.share:.2f}x)" if self.kind == "speed" else f"({value.share:.0%})"

    def cell(self, value: Value | None) -> str:
        """Number, error and share, for a table cell under the heading."""
        if value is None:
            return UNKNOWN
        number = f"{value.number:,.{self.digits}f}"
        parts = (number, self.show_error(value), self.show_share(value))
        return " ".join(part for part in parts if part)


def quantities(result: Mapping[str, Any]) -> list[Quantity]:
    """Every figure of a comparison that at least one model has.

    Args:
        result: what `minilm.compare.measure.compare` returned.
    """
    models = result["models"]
    found = [_size("parameters", "million", 2, models, lambda m: m["parameters"] / 1e6)]
    for part in ("embeddings", "layers", "pooler", "heads"):
        found.append(_size(part, "million", 2, models, _inside("components", part), part=True))
    found += [
        _size("file", "MB", 1, models, lambda m: m["file_bytes"] / 1e6),
        _size("work for a token", "MFLOP", 1, models, lambda m: m["flops_per_token"] / 1e6),
        _times(
            f"one text of {result['workload']['one_text_tokens']} tokens",
            models,
            "one_text_seconds",
        ),
        _times("in bulk, tokens a second", models, "tokens_per_second"),
    ]
    for title, name in (
        ("weights in memory", "weights"),
        ("copies for inference", "copies"),
        ("peak memory", "peak"),
    ):
        found.append(_size(title, "MB", 1, models, _inside("memory", name)))
    found += [
        _score("masked words right", models, _text_score("masked_accuracy", "masked_tokens")),
        _score(
            "sentence order right",
            models,
            _text_score("sentence_order_accuracy", "pairs"),
            chance=50.0,
        ),
    ]
    for name, title in task_titles(models).items():
        metric = next(m["tasks"][name]["metric"] for m in models if name in m["tasks"])
        in_percent = score_named(metric).in_percent
        found.append(_score(title, models, _task_score(name), in_percent=in_percent))
    return [quantity for quantity in found if any(value for value in quantity.values)]


def task_titles(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A heading for every task that a model was scored on."""
    return {
        name: f"{score_named(task['metric']).title} on {name}"
        for model in models
        for name, task in model["tasks"].items()
    }


def share_error(share: float, cases: int) -> float:
    """The standard error of a share of independent cases.

    Args:
        share: share of right cases, 0 to 1.
        cases: number of cases.
    """
    return sqrt(share * (1 - share) / max(cases, 1))


def median_error(values: Sequence[float]) -> float:
    """The standard error of a median, from the quartiles: 0 for a single value.

    For normal values it is 1.2533 standard deviations over the root of their number, and the
    quartiles are 1.349 standard deviations apart; a few slow rounds change it little.
    """
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return 1.2533 / 1.349 * (high - low) / sqrt(len(values))


def _size(
    title: str,
    unit: str,
    digits: int,
    models: Sequence[Mapping[str, Any]],
    read: Callable[[Any], float | None],
    *,
    part: bool = False,
) -> Quantity:
    """A count, which has no error. A part of 0 is one that the model does not have."""
    numbers = [read(model) for model in models]
    first = numbers[0]
    values = [
        None
        if not number
        else Value(number, share=number / first if n and first and not part else None)
        for n, number in enumerate(numbers)
    ]
    return Quantity(title, unit, "size", values, digits, lower_is_better=True, part=part)


def _times(title: str, models: Sequence[Mapping[str, Any]], name: str) -> Quantity:
    """A speed: its quartiles over the rounds, and how much faster than the first model it is."""
    is_time = name == "one_text_seconds"
    scale = 1000.0 if is_time else 1.0
    rounds = [model.get("rounds", {}).get(name, []) for model in models]
    values = []
    for model, own in zip(models, rounds, strict=True):
        low = high = None
        if len(own) > 1:
            low, _, high = (scale * value for value in quantiles(own, n=4, method="inclusive"))
        if model is models[0]:
            values.append(Value(scale * model[name], low, high))
            continue
        share = model[name] / models[0][name]
        ratios = [one / first for one, first in zip(own, rounds[0], strict=False)]
        if is_time:
            share, ratios = 1 / share, [1 / ratio for ratio in ratios]
        differs = abs(share - 1) > median_error(ratios)
        values.append(Value(scale * model[name], low, high, share, differs))
    return Quantity(
        title,
        "ms" if is_time else "",
        "speed",
        values,
        digits=1 if is_time else 0,
        lower_is_better=is_time,
    )


def _score(
    title: str,
    models: Sequence[Mapping[str, Any]],
    read: Callable[[Any], tuple[float, float | None] | None],
    *,
    in_percent: bool = True,
    chance: float | None = None,
) -> Quantity:
    """A score from 0 to 1, with its standard error where that is known."""
    scale = 100.0 if in_percent else 1.0
    found = [read(model) for model in models]
    first = found[0]
    values: list[Value | None] = []
    for n, own in enumerate(found):
        if own is None:
            values.append(None)
            continue
        score, error = own
        share, differs = None, True
        if n and first and first[0]:
            share = score / first[0]
            differs = abs(score - first[0]) > hypot(error or 0.0, first[1] or 0.0)
        low, high = (None, None) if error is None else (score - error, score + error)
        values.append(
            Value(
                scale * score,
                None if low is None else scale * low,
                None if high is None else scale * high,
                share,
                differs,
            )
        )
    return Quantity(
        title,
        "%" if in_percent else "",
        "score",
        values,
        digits=1 if in_percent else 3,
        chance=chance,
        whole=scale,
    )


def _text_score(name: str, cases: str) -> Callable[[Any], tuple[float, float | None] | None]:
    def read(model: Mapping[str, Any]) -> tuple[float, float | None] | None:
        scores = model["scores"] or {}
        value = scores.get(name)
        return None if value is None else (value, share_error(value, scores[cases]))

    return read


def _task_score(name: str) -> Callable[[Any], tuple[float, float | None] | None]:
    def read(model: Mapping[str, Any]) -> tuple[float, float | None] | None:
        task = model["tasks"].get(name)
        if task is None:
            return None
        cases = task.get("examples")
        is_share = task["metric"] in _SHARES and cases
        return task["score"], share_error(task["score"], cases) if is_share else None

    return read


def _inside(table: str, name: str) -> Callable[[Any], float | None]:
    """Reads millions out of a table that a model may not have."""
    return lambda model: model[table][name] / 1e6 if table in model else None
