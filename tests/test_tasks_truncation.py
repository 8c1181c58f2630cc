"""What is cut is always said: in the prediction, and once with a count."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import minilm
from minilm.data.records.base import Skips
from task_data import Record, save_start

LONG = "the red thing is in " * 20
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("ForSequenceClassification", {"num_labels": 3}),
    "multi-label": ("ForSequenceClassification",
                    {"num_labels": 3, "problem_type": "multi_label_classification"}),
    "regression": ("ForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "choice": ("ForMultipleChoice", {}),
    "answering": ("ForQuestionAnswering", {}),
    "tagging": ("ForTokenClassification", {"num_labels": 3}),
}  # fmt: skip
TEXT = ("classification", "multi-label", "regression")


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, minilm.Predictor]:
    home = tmp_path_factory.mktemp("models")
    return {
        task: minilm.Predictor.from_pretrained(save_start(home / task, head=head, **more))
        for task, (head, more) in HEADS.items()
    }


def text(words: str) -> Record:
    return {"text": words}


def pair(words: str) -> Record:
    return {"text": "the red", "text_pair": words}


def choice(words: str) -> Record:
    return {"prompt": "the", "choices": ["red", words]}


def question(words: str) -> Record:
    return {"question": words, "context": "the thing"}


CASES = [
    *((task, form, "records", 64) for task in TEXT for form in (text, pair)),
    ("choice", choice, "records", 64),
    ("answering", question, "questions", 64),
]


@pytest.mark.parametrize(("task", "form", "what", "limit"), CASES)
def test_cut_records_are_counted_and_marked(
    task: str,
    form: Callable[[str], Record],
    what: str,
    limit: int,
    predictors: dict[str, minilm.Predictor],
) -> None:
    predictor = predictors[task]
    if task == "answering":
        predictor.task.max_query = limit = 7  # type: ignore[attr-defined]
    records = [form(words) for words in ("red", LONG, "blue", LONG)]
    said = f"^2 of 4 {what} were longer than {limit} tokens and were cut"
    for ask in (
        predictor.predict,
        lambda rows: list(predictor.predict_stream(rows, skips=Skips())),
        lambda rows: [found for _, found in predictor.predict_each(rows)],
    ):
        with pytest.warns(UserWarning, match=said) as warned:
            found = ask(records)
        assert len(warned) == 1
        assert [prediction.get("truncated") for prediction in found] == [None, True, None, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "truncated" not in predictor.predict(records[:1])[0]


def test_windows_cut_nothing(predictors: dict[str, minilm.Predictor]) -> None:
    assert "truncated" not in predictors["tagging"](LONG)
    assert "truncated" not in predictors["answering"]("it", LONG)


def test_a_bad_record_does_not_hide_what_was_cut(predictors: dict[str, minilm.Predictor]) -> None:
    each = predictors["classification"].predict_each([text(LONG), text(" "), text("red")])
    assert next(each)[1]["truncated"] is True
    with (
        pytest.warns(UserWarning, match="^1 of 1 record was longer"),
        pytest.raises(minilm.DataError, match="input, record 1: text is empty"),
    ):
        next(each)


def test_one_text_says_it_too(predictors: dict[str, minilm.Predictor], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="^1 of 1 record was longer than 64 tokens"):
        assert predictors["regression"](LONG)["truncated"] is True
    with pytest.warns(UserWarning, match="^1 of 1 record was longer than 64 tokens"):
        assert predictors["classification"]("red", LONG)["truncated"] is True
