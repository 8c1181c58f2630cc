"""The title and unit of every score, and whether a higher or a lower value is better.

All code that selects, draws or prints scores calls `score_named`: for the best weights of a run,
the curves of `minilm plot`, the tables and pages of `minilm compare`, and printed scores.

A name is looked up in this order:

1. as it is: "macro_f1";
2. without a prefix that names a part of the answers: "intent_accuracy" is the accuracy of intents,
   "HasAns_f1" the F1 of questions with an answer;
3. by its ending, after any words: "dev_set_accuracy" is an accuracy, "first_loss" a loss;
4. for any other name higher is better, unless its last word is one of `LOWER_IS_BETTER`; its unit
   is unknown.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["share", "percent", "correlation", "nats", "squared", "count", ""]


@dataclass(frozen=True)
class Score:
    """The properties of a score.

    Attributes:
        title: the title to show, in lower case except for names.
        unit: the unit of its values.
            "share": 0 to 1; shown as a percentage in pictures and comparisons.
            "percent": 0 to 100.
            "correlation": -1 to 1.
            "nats": a loss or divergence, from 0, with natural logarithms.
            "squared": squared units of the predicted values.
            "count": a whole number of items.
            "": unknown.
        higher_is_better: False = lower is better.
    """

    title: str
    unit: Unit = "share"
    higher_is_better: bool = True

    @property
    def in_percent(self) -> bool:
        """Whether pictures and comparisons show the score as a percentage."""
        return self.unit in ("share", "percent")

    @property
    def label(self) -> str:
        """The title and, in brackets, the unit in which it is drawn."""
        unit = "%" if self.in_percent else {"nats": "nats"}.get(self.unit)
        return self.title if unit is None else f"{self.title} ({unit})"

    def percentage(self, value: float) -> float:
        """Converts a value of a score that is shown as a percentage to 0 to 100."""
        return 100.0 * value if self.unit == "share" else value

    def show(self, value: float) -> str:
        """A value formatted for a comparison: "87.3%" or "0.873"."""
        return f"{self.percentage(value):.1f}%" if self.in_percent else f"{value:.3f}"


SCORES = {
    "loss": Score("loss", "nats", higher_is_better=False),
    # language models
    "masked_loss": Score("masked LM loss", "nats", higher_is_better=False),
    "masked_accuracy": Score("accuracy at masked tokens"),
    "masked_kl": Score("KL to the teacher × T²", "nats", higher_is_better=False),
    # students without a masked-LM head, against their teacher
    "cosine": Score("1 - cosine of last states", "", higher_is_better=False),
    "hidden_cosine": Score("1 - cosine of hidden states", "", higher_is_better=False),
    "hidden_mse": Score("squared error of hidden states", "squared", higher_is_better=False),
    "attention": Score("KL of attention maps", "nats", higher_is_better=False),
    "relations": Score("KL of relations", "nats", higher_is_better=False),
    "pooled": Score("1 - cosine of sentence vectors", "", higher_is_better=False),
    "pooled_mse": Score("squared error of sentence vectors", "squared", higher_is_better=False),
    "sentence_order_accuracy": Score("accuracy of sentence order"),
    "next_sentence_accuracy": Score("accuracy of next sentence"),
    # classes
    "accuracy": Score("accuracy"),
    "f1": Score("F1"),
    "macro_f1": Score("macro F1"),
    "micro_f1": Score("micro F1"),
    "precision": Score("precision"),
    "recall": Score("recall"),
    "matthews": Score("Matthews correlation", "correlation"),
    "calibration_error": Score("calibration error", higher_is_better=False),
    "in_scope_accuracy": Score("accuracy in scope"),
    "out_of_scope_recall": Score("recall of out-of-scope"),
    "out_of_scope_precision": Score("precision of out-of-scope"),
    "subset_accuracy": Score("subset accuracy"),
    "chance": Score("accuracy by chance"),
    # numbers
    "pearson": Score("Pearson correlation", "correlation"),
    "spearman": Score("Spearman correlation", "correlation"),
    "mean_squared_error": Score("mean squared error", "squared", higher_is_better=False),
    "squared_error": Score("squared error", "squared", higher_is_better=False),
    # words
    "token_accuracy": Score("token accuracy"),
    "both_right": Score("intent and slots right"),
    # answers, in percent as SQuAD's scripts count
    "exact": Score("exact match", "percent"),
    "exact_match": Score("exact match", "percent"),
    # how much was scored
    "examples": Score("examples", "count"),
    "truncated": Score("truncated", "count"),
}

# the meaning of a prefix, appended to the title of the score after it
PARTS = {
    "intent_": "of intents",
    "slot_": "of slots",
    "HasAns_": "with an answer",
    "NoAns_": "without an answer",
}

LOWER_IS_BETTER = ("loss", "error", "kl", "perplexity", "divergence", "distance")


def score_named(name: str, beside: Collection[str] = ()) -> Score:
    """Looks up the properties of a score.

    Args:
        name: the name of the score in an evaluation.
        beside: the names of all scores of the same evaluation. SQuAD's F1 is a percentage; it is
            recognised by the exact match beside it.

    Example:
        >>> score_named("intent_accuracy").title
        'accuracy of intents'
        >>> score_named("validation_loss").higher_is_better
        False
    """
    found = _known(name)
    if found is None:
        words = name.split("_")
        endings = ("_".join(words[first:]) for first in range(1, len(words)))
        found = next((SCORES[ending] for ending in endings if ending in SCORES), None)
        title = name.replace("_", " ")
        if found is None:
            found = Score(title, "", higher_is_better=words[-1].lower() not in LOWER_IS_BETTER)
        found = replace(found, title=title)
    answers = {"exact", "exact_match"} & set(beside)
    return replace(found, unit="percent") if answers and _base(name) == "f1" else found


def is_known(name: str) -> bool:
    """Whether the table has this score, perhaps with one of the known prefixes."""
    return _known(name) is not None


def _known(name: str) -> Score | None:
    if name in SCORES:
        return SCORES[name]
    for prefix, part in PARTS.items():
        score = SCORES.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if score is not None:
            return replace(score, title=f"{score.title} {part}")
    return None


def _base(name: str) -> str:
    for prefix in PARTS:
        name = name.removeprefix(prefix)
    return name
