"""Thresholds: chosen where they are best, stored with the model, used and overridden."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import f1_score

import minilm
from minilm.data.records.base import Skips
from minilm.tasks.answering import QuestionAnswering
from minilm.tasks.multi_label import MultiLabel
from minilm.tasks.task import Task
from minilm.tasks.texts import Classification
from minilm.tasks.thresholds import best_f1_threshold, best_threshold
from minilm.tasks.utterances import Utterances
from task_data import colour_sets, colour_texts, quick, save_start

FEW = st.integers(0, 6).map(lambda n: n / 6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FEW, st.sampled_from([-1.0, 0.0, 1.0])), min_size=1, max_size=12))
def test_the_best_threshold_is_the_best_of_all(pairs: list[tuple[float, float]]) -> None:
    values, gains = (np.array(column) for column in zip(*pairs, strict=True))
    found = best_threshold(values, gains)
    best = max(gains[values < cut].sum() for cut in np.linspace(-1, 2, 200))
    assert gains[values < found].sum() == best


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(FEW, st.integers(0, 1)), min_size=2, max_size=12).filter(
        lambda pairs: any(gold for _, gold in pairs)
    )
)
def test_the_best_f1_is_the_best_of_all(pairs: list[tuple[float, int]]) -> None:
    probabilities, gold = (np.array(column)[:, None] for column in zip(*pairs, strict=True))
    found = best_f1_threshold(probabilities, gold)
    assert 0 <= found <= 1

    def score(cut: float) -> float:
        return f1_score(gold[:, 0], probabilities[:, 0] >= cut, zero_division=0)

    assert math.isclose(score(found), max(map(score, np.linspace(0, 1, 61))))


def restored(task: Task[Any]) -> Task[Any]:
    return type(task).restore(task.labels, json.loads(json.dumps(task.settings())))


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (Classification(["a", "b"], 8), "min_confidence"),
        (Utterances(["O", "B-x", "intent=a", "intent=b"], 8), "min_confidence"),
        (MultiLabel(["a", "b"], 8), "threshold"),
        (QuestionAnswering((), 8), "null_threshold"),
    ],
)
def test_thresholds_are_stored_and_checked(task: Task[Any], name: str) -> None:
    if name == "min_confidence":
        task.out_of_scope = "b"  # type: ignore[attr-defined]
    task.set_thresholds({name: 0.25, "other": "x"})
    assert restored(task).thresholds == {name: 0.25}
    task.set_thresholds({name: None})
    assert task.thresholds == {name: 0.25}
    for wrong in ("0.5", 1e10, math.nan, True, -2e9):
        with pytest.raises(minilm.InputError, match=f"{name} is .*: expected a number from"):
            task.set_thresholds({name: wrong})


def test_old_models_have_the_old_thresholds() -> None:
    assert Classification.restore(["a", "b"], {"max_length": 8}).min_confidence == 0
    assert MultiLabel.restore(["a", "b"], {"max_length": 8}).threshold == 0.5
    assert QuestionAnswering.restore((), {"max_length": 8}).null_threshold == 0


def test_a_confidence_needs_a_class_that_is_out_of_scope() -> None:
    rows = colour_texts(8)
    for option in ({"min_confidence": 0.5}, {"tune_thresholds": True}):
        with pytest.raises(minilm.InputError, match="Say which label such texts have"):
            Classification.learn(rows, 8, option)
    task = Classification.learn(rows, 8, {"out_of_scope": "red", "min_confidence": 0.5})
    assert task.min_confidence == 0.5


def test_the_confidence_of_the_highest_accuracy() -> None:
    task = Classification(["a", "b", "none"], 8)
    task.out_of_scope = "none"
    rows = [{"text": "x", "label": label} for label in ("a", "none", "b", "none", "a")]
    examples = task.examples(rows, Skips(), labelled=True)
    found = [{"label": "a", "confidence": sure} for sure in (0.9, 0.6, 0.5, 0.4, 0.8)]
    tuned = task.tune(examples, found)
    assert 0.6 < tuned.min_confidence < 0.8
    assert task.min_confidence == 0
    assert tuned.without_thresholds().min_confidence == 0


def test_a_tuned_multi_label_model(tmp_path: Path) -> None:
    start = save_start(tmp_path / "start")
    train, dev = colour_sets(40), colour_sets(20, 9)
    run = quick("multi-label", start, train, tmp_path / "plain", dev=dev)
    tuned = quick(
        "multi-label", start, train, tmp_path / "tuned", dev=dev, options={"tune_thresholds": True}
    )
    stored = json.loads((tuned.output / "task.json").read_text())
    assert 0 < stored["threshold"] < 1
    assert stored["threshold"] != 0.5
    assert tuned.scores["micro_f1"] >= run.scores["micro_f1"]
    predictor = minilm.Predictor.from_pretrained(tuned.output)
    for row in predictor.predict(dev):
        sure = row["probabilities"].items()
        assert row["labels"] == [name for name, p in sure if p >= stored["threshold"]]
    assert predictor.evaluate(dev)["micro_f1"] == tuned.scores["micro_f1"]
    plain = minilm.Predictor.from_pretrained(run.output)
    assert plain.task.thresholds == {"threshold": 0.5}
    again = minilm.Predictor.from_pretrained(tuned.output)  # its weights were the best when tuned
    again.task.set_thresholds({"threshold": 0.5})
    again.tune(dev)
    assert again.task.thresholds == predictor.task.thresholds
    plain.task.set_thresholds({"threshold": 0.0})
    assert all(len(row["labels"]) == 3 for row in plain.predict(dev))


def test_no_threshold_to_tune(tmp_path: Path) -> None:
    path = save_start(tmp_path / "model", head="ForSequenceClassification", num_labels=3)
    with pytest.raises(minilm.InputError, match="nothing to tune"):
        minilm.Predictor.from_pretrained(path).tune(colour_texts(4))
