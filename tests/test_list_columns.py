"""Lists that a table holds as texts, and the classes in them that a held-out part leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from minilm.data.records.base import RecordError, Skips
from minilm.recipes.hold_out import split_off
from minilm.tasks.fields import list_of
from minilm.tasks.multi_label import MultiLabel
from minilm.tasks.tagging import Tagging
from minilm.tasks.texts import Classification

WORDS = ["it's", 'say "x"', "B-PER", ", ", "[", "..."]


@pytest.mark.parametrize(
    "values", [WORDS, ["a"], [], [0, 1, -100], [1.0, 0.0], [True, False], WORDS * 30]
)
def test_arrays_as_pandas_writes_them(values: list[Any]) -> None:
    for kind in (object, None) if values else (object,):
        assert list_of(str(np.array(values, dtype=kind))) == values
    assert list_of(str(values)) == values
    assert list_of(str(tuple(values))) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('["a", null, true]', ["a", None, True]),
        ("['a', nan]", ["a", None]),
        ("[very good, bad]", ["very good", "bad"]),
        ("[x, 'y, z']", ["x", "y, z"]),
        ("a, b", ["a", "b"]),
        ("Sci-Fi, Fantasy|Drama", ["Sci-Fi, Fantasy", "Drama"]),
        ("news; sports, outdoors", ["news", "sports, outdoors"]),
        ("27", ["27"]),
        ("(a)", ["(a)"]),
        (" ", []),
    ],
)
def test_lists_as_people_write_them(text: str, values: list[Any]) -> None:
    assert list_of(text) == values


def test_a_shortened_array_is_refused() -> None:
    for array in (np.array(["word"] * 2000, dtype=object), np.arange(2000)):
        with pytest.raises(RecordError, match="abbreviated"):
            list_of(str(array))
    assert list_of("['a', '...', 'b']") == ["a", "...", "b"]


def test_tokens_and_tags_in_arrays() -> None:
    row = {"tokens": "['EU' 'rejects']", "ner_tags": "['B-ORG' 'O']"}
    task = Tagging.learn([row, row], 32, {})
    assert task.labels == ("O", "B-ORG", "I-ORG")
    (example,) = task.examples([row], Skips(), labelled=True)
    assert (example.words, example.tags) == (["EU", "rejects"], ("B-ORG", "O"))


def test_indicators_in_arrays() -> None:
    rows = [{"text": "x", "labels": text} for text in ("[0 1 0]", "[1 1 0]", "[0 0 0]")]
    task = MultiLabel.learn(rows, 32, {})
    assert task.indicator
    found = [e.label.tolist() for e in task.examples(rows, Skips(), labelled=True)]
    assert found == [[0, 1, 0], [1, 1, 0], [0, 0, 0]]


def classes_left(task: str, rows: Sequence[Any], holds: Any) -> bool:
    parts = (split_off(rows, 0.3, seed, task=task)[0] for seed in range(20))
    return all(any(map(holds, part)) for part in parts)


def test_the_only_one_of_a_class_stays_in_training() -> None:
    for flags in ([1, 0], [0, 1]):
        rows = [{"text": "x", "labels": [*flags, int(n == 7)]} for n in range(20)]
        assert classes_left("multi-label", rows, lambda row: row["labels"][2])
    written = [{"text": "x", "labels": str(row["labels"])} for row in rows]
    assert classes_left("multi-label", written, lambda row: row["labels"].endswith("1]"))


def test_tags_with_blanks_between_them_are_classes_one_by_one() -> None:
    rows = [{"text": "w " * (n + 1), "tags": "O " * n + "B-X"} for n in range(20)]
    rest, held_out = split_off(rows, 0.3, 1, task="tagging")
    assert (len(rest), len(held_out)) == (14, 6)
    rows[7]["tags"] = "B-Y"
    assert classes_left("tagging", rows, lambda row: row["tags"] == "B-Y")


def test_thresholds_are_tuned_on_classes_that_training_did_not_have() -> None:
    rows = [{"text": "x", "label": label} for label in ("out", "b", "c")]
    task = Classification.learn(rows, 8, {"out_of_scope": "out", "tune_thresholds": True})
    examples = task.examples([rows[0], {"text": "x", "label": "new"}], Skips(), labelled=True)
    found = [{"label": "b", "confidence": sure} for sure in (0.5, 0.9)]
    assert 0.5 < task.tune(examples, found).min_confidence < 1
