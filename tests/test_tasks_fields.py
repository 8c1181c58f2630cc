"""Columns that the user named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from minilm.data.records.base import Skips
from minilm.errors import DataError, InputError
from minilm.tasks.catalogue import TASKS
from task_data import colour_texts, quick, save_start

OTHER: dict[str, Any] = {"label": "x", "labels": ["x"], "intent": "x"}


@pytest.mark.parametrize(
    ("task", "record", "expected"),
    [
        ("classification", {"text": "a", "mine": "good", **OTHER}, ["good"]),
        ("multi-label", {"text": "a", "mine": ["good", "old"], **OTHER}, ["good", "old"]),
        ("multi-label", {"text": "a", "mine": "good, old", **OTHER}, ["good", "old"]),
        (
            "tagging",
            {"tokens": ["a", "b"], "mine": ["B-X", "O"], "tags": ["B-Y", "O"], **OTHER},
            ["B-X", "O"],
        ),
        (
            "utterances",
            {"tokens": ["a", "b"], "tags": ["B-X", "O"], "mine": "good", **OTHER},
            ["intent=good"],
        ),
    ],
)
def test_the_label_column_goes_before_fields_of_the_usual_names(
    task: str, record: dict[str, Any], expected: list[str]
) -> None:
    other = {**record, "mine": "bad" if isinstance(record["mine"], str) else record["mine"]}
    labels = TASKS[task].learn([record, other], 16, {"label_column": "mine"}).labels
    assert set(expected) <= set(labels)
    assert not {"x", "intent=x", "B-Y"} & set(labels)


def test_a_column_that_is_not_there_is_named() -> None:
    task = TASKS["classification"]
    with pytest.raises(DataError, match="record 0: There is no field 'mine' for text; it has 'a'"):
        task.learn([{"a": "a", "label": x} for x in "xy"], 16, {"text_column": "mine"})
    with pytest.raises(InputError, match="pair_column=...: tagging has no such field"):
        TASKS["tagging"].learn([{}], 16, {"pair_column": "mine"})


QNLI = [{"question": f"q{x}", "sentence": f"s{x}", "label": x, "idx": 0} for x in "xy"]


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ({}, [("qx", "sx"), ("qy", "sy")]),
        ({"text_column": "sentence"}, [("sx", None), ("sy", None)]),
        ({"pair_column": "question"}, [("sx", "qx"), ("sy", "qy")]),
        ({"text_column": "sentence", "pair_column": "question"}, [("sx", "qx"), ("sy", "qy")]),
    ],
)
def test_one_text_or_two_as_named(options: dict[str, str], read: list[tuple[str, Any]]) -> None:
    task = TASKS["classification"].learn(QNLI, 16, options)
    assert [(e.text, e.pair) for e in task.examples(QNLI, Skips(), labelled=True)] == read
    # a checkpoint reads what training read
    again = TASKS["classification"].restore(task.labels, task.settings()).remember(task.settings())
    assert [(e.text, e.pair) for e in again.examples(QNLI, Skips(), labelled=False)] == read
    own = [{"text": "a", "text_pair": "b"}]
    (example,) = again.examples(own, Skips(), labelled=False)
    assert (example.text, example.pair) == ("a", "b")


def test_what_was_read_is_said_once() -> None:
    task = TASKS["classification"].learn(QNLI, 16, {})
    for _ in range(2):
        task.examples(QNLI, Skips(), labelled=True)
    assert task.take_notes() == [
        "text from question, text_pair from sentence, label from label; not read: idx"
    ]
    assert not task.take_notes()


def test_records_of_several_layouts_are_all_read() -> None:
    records = [*QNLI, {"text": "only", "label": "x"}, {"title": "t", "text": "b", "label": "y"}]
    task = TASKS["classification"].learn(records, 16, {})
    examples = task.examples(records, Skips(), labelled=True)
    assert [(e.text, e.pair) for e in examples[2:]] == [("only", None), ("t", "b")]
    assert task.take_notes() == [
        "text from question, text_pair from sentence, label from label; not read: idx "
        "(of 2 records)",
        "text from text, label from label (of 1 record)",
        "text from title, text_pair from text, label from label (of 1 record)",
    ]


def test_what_was_read_and_what_was_not_is_kept_with_the_model(tmp_path: Path) -> None:
    start = save_start(tmp_path / "start")
    train = [*[{**record, "url": "x", "idx": 1} for record in colour_texts(9)]]
    train[3]["label"] = None
    dev = [{"sentence": record["text"], "label": record["label"]} for record in colour_texts(4)]
    said: list[str] = []
    quick("classification", start, train, tmp_path / "out", dev=dev, skips=Skips("skip"),
          say=said.append, max_length=4)  # fmt: skip
    records = json.loads((tmp_path / "out/task.json").read_text())["records"]
    assert records["training"][1:] == ["text from text, label from label; not read: url, idx"]
    assert records["dev"][1:] == ["text from sentence, label from label"]
    assert re.fullmatch(r"8 examples, [1-8] of them cut at 4 tokens", records["training"][0])
    assert sum(records["skipped"].values()) == 1
    for part in ("training", "dev"):
        for text in records[part]:
            assert said.count(f"{part}: {text}") == 1
