"""Data frames and data sets of other libraries as records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import minilm
from minilm.data.records.base import Skips
from minilm.data.records.frames import Rows, as_records
from minilm.errors import DataError, InputError
from minilm.tasks.catalogue import TASKS
from minilm.tasks.prediction import Predictor
from task_data import colour_texts, quick, save_start

TEXTS = ["red", "blue", "the red", "a blue thing"]
WORDS = [["paris", "is", "here"], ["the", "thing"]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


def hub(columns: dict[str, Any], **features: Any) -> Any:
    import datasets

    given = datasets.Dataset.from_dict(columns).features
    return datasets.Dataset.from_dict(columns, features=datasets.Features({**given, **features}))


def classes(*names: str) -> Any:
    import datasets

    return datasets.ClassLabel(names=list(names))


def sentiment() -> Any:
    return hub({"text": TEXTS, "label": [1, 0, 1, 0]}, label=classes("zero", "one", "never"))


def names_of(out: Path) -> list[str]:
    return list(json.loads((out / "config.json").read_text())["id2label"].values())


def as_iterable(data: Any) -> Any:
    return data.to_iterable_dataset()


def as_tensors(data: Any) -> Any:
    return data.with_format("torch")


@pytest.mark.parametrize("change", [lambda data: data, as_iterable, as_tensors])
def test_class_names_of_a_data_set_name_the_labels(
    change: Callable[[Any], Any], start: Path, tmp_path: Path
) -> None:
    data = change(sentiment())
    out = tmp_path / "out"
    run = quick("classification", start, data, out, dev=data)
    assert names_of(out) == ["zero", "one", "never"]
    assert run.scores["examples"] == 4
    predictor = Predictor.from_pretrained(out)
    assert predictor.evaluate(data)["examples"] == 4
    assert len(predictor.predict(data)) == 4
    assert predictor("red")["label"] in ("zero", "one", "never")


def test_class_names_in_lists(start: Path, tmp_path: Path) -> None:
    import datasets

    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    tags = hub(
        {"tokens": WORDS, "ner_tags": [[3, 0, 0], [0, 1]], "pos_tags": [[1, 2, 3], [4, 5]]},
        ner_tags=datasets.Sequence(classes(*names)),
    )
    out = tmp_path / "tags"
    said: list[str] = []
    run = quick("tagging", start, tags, out, dev=tags, say=said.append)
    assert names_of(out) == names
    assert {"f1", "precision", "recall"} <= set(run.scores)
    assert "training: tokens from tokens, tags from ner_tags; not read: pos_tags" in said
    sets = hub({"text": TEXTS[:2], "labels": [[1], [0, 2]]}, labels=datasets.List(classes(*"abc")))
    assert TASKS["multi-label"].learn(as_records(sets, "train"), 16, {}).labels == ("a", "b", "c")
    # without names they are numbers, and none of their scores is called f1
    plain = [{"tokens": words, "ner_tags": [3, 0, 0][: len(words)]} for words in WORDS]
    run = quick("tagging", start, plain, tmp_path / "plain", dev=plain, say=said.append)
    assert any("tags are numbers without names: they are scored word by word" in x for x in said)
    assert "f1" not in run.scores
    assert {"token_accuracy", "macro_f1"} <= set(run.scores)


def test_labels_that_are_not_published_are_missing() -> None:
    data = hub({"text": ["a"], "label": [-1]}, label=classes("no", "yes"))
    assert as_records(data, "dev") == [{"text": "a", "label": None}]


def test_data_frames(start: Path, tmp_path: Path) -> None:
    import pandas

    frame = pandas.DataFrame({"text": TEXTS, "label": ["b", "a", "b", None]}, index=[5, 5, 7, 9])
    assert as_records(frame, "train")[3] == {"text": TEXTS[3], "label": None}
    out = tmp_path / "out"
    quick("classification", start, frame[:3], out)
    assert names_of(out) == ["a", "b"]
    predictor = Predictor.from_pretrained(out)
    assert len(predictor.predict(frame)) == 4
    assert predictor.evaluate(frame[:3])["examples"] == 3
    with pytest.raises(DataError, match="record 3: There is no 'label'"):
        predictor.evaluate(frame)
    with pytest.raises(InputError, match="train is one column of a data frame"):
        quick("classification", start, frame["text"], tmp_path / "none")
    gaps = pandas.DataFrame({"text": TEXTS, "label": [1, 0, 1, np.nan]})[:3]
    quick("classification", start, gaps, tmp_path / "gaps")
    assert names_of(tmp_path / "gaps") == ["0", "1"]


def test_lists_of_a_parquet_file(tmp_path: Path) -> None:
    import pandas

    frame = pandas.DataFrame({"tokens": WORDS, "tags": [["B-X", "O", "O"], ["O", "O"]]})
    frame.to_parquet(tmp_path / "a.parquet")
    records = as_records(pandas.read_parquet(tmp_path / "a.parquet"), "train")
    assert isinstance(records[0]["tokens"], np.ndarray)
    task = TASKS["tagging"].learn(records, 16, {})
    examples = task.examples(records, Skips(), labelled=True)
    assert [example.words for example in examples] == WORDS
    assert examples[0].tags == ("B-X", "O", "O")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([0, 1, 1, 0]), ("0", "1")),
        (np.array([True, False, True, False]), ("false", "true")),
        (np.array([0, 1, 1, 0], np.float32), ("0", "1")),
        (np.array(["b", "a", "b", "a"]), ("a", "b")),
    ],
)
def test_numbers_of_numpy_are_labels(labels: Any, names: tuple[str, ...]) -> None:
    records = [
        {"text": np.str_(text), "label": label} for text, label in zip(TEXTS, labels, strict=True)
    ]
    task = TASKS["classification"].learn(records, 16, {})
    assert task.labels == names
    examples = task.examples(records, Skips(), labelled=True)
    shown = [str(label).lower() for label in labels.tolist()]
    assert [task.labels[example.label] for example in examples] == [
        name.removesuffix(".0") for name in shown
    ]
    assert all(type(example.text) is str for example in examples)


def test_arrays_in_the_fields_of_every_task() -> None:
    records: list[tuple[str, dict[str, Any]]] = [
        ("regression", {"text": "a", "label": np.float32(0.5)}),
        ("multi-label", {"text": "a", "labels": np.array(["x", "y"])}),
        ("tagging", {"tokens": np.array(["a", "b"]), "tags": np.array([1, 0])}),
        ("utterances", {"tokens": np.array(["a"]), "tags": np.array(["O"]), "intent": np.int64(1)}),
        ("choice", {"prompt": "a", "choices": np.array(["b", "c"]), "label": np.int64(1)}),
        (
            "answering",
            {
                "question": "a",
                "context": "b c",
                "answers": {"text": np.array(["c"], object), "answer_start": np.array([2])},
            },
        ),
    ]
    for name, record in records:
        other = {**record, "tags": np.array(["B-X"]), "intent": np.int64(2)}
        task = TASKS[name].learn([record, other] if name == "utterances" else [record], 16, {})
        (example,) = task.examples([record], Skips(), labelled=True)
        assert "array" not in str(example) or name == "multi-label"


def test_other_things_that_hold_records() -> None:
    given = [{"text": "a"}]
    assert as_records(given, "train") is given
    assert as_records((row for row in given), "train") == given
    assert isinstance(Rows(given, {"label": ["x"]})[:1], Rows)
    for data, message in (
        ({"train": [], "test": []}, "train is a dict of 'train', 'test'. Expected a list"),
        ("train.csv", "train is 'train.csv': expected records. Read a file"),
        (Path("train.csv"), "expected records"),
        (5, "train is a int: expected a sequence of dictionaries"),
    ):
        with pytest.raises(InputError, match=message):
            as_records(data, "train")


def test_all_splits_at_once_are_refused() -> None:
    import datasets

    splits = datasets.DatasetDict({"train": sentiment(), "test": sentiment()})
    with pytest.raises(InputError, match="a DatasetDict of 'train', 'test'. Give one of its spl"):
        as_records(splits, "train")


@pytest.mark.filterwarnings("ignore")  # of datasets about its own parts
@pytest.mark.parametrize("kind", ["stream", "stream without features", "filtered", "frame"])
def test_training_on_what_is_no_list(tmp_path: Path, start: Path, kind: str) -> None:
    """Data sets that are read once, and data frames, are the same run as a list is."""
    import datasets
    import pandas

    rows = colour_texts(16)
    names = sorted({row["label"] for row in rows})
    numbered = [{**row, "label": names.index(row["label"])} for row in rows]
    whole = datasets.Dataset.from_list(numbered).cast_column("label", classes(*names))
    given: dict[str, Any] = {
        "stream": whole.to_iterable_dataset(num_shards=2),
        "stream without features": datasets.IterableDataset.from_generator(lambda: iter(rows)),
        "filtered": whole.to_iterable_dataset().filter(lambda row: True).shuffle(seed=1),
        "frame": pandas.DataFrame(rows, index=[7] * 16),
    }
    run = quick("classification", start, given[kind], tmp_path / "out", dev=given[kind])
    expected = rows
    if kind == "filtered":
        expected = [{**row, "label": names[row["label"]]} for row in given[kind]]
    again = quick("classification", start, expected, tmp_path / "list", dev=expected)
    assert run.scores == again.scores
    assert minilm.Predictor.from_pretrained(run.output).task.labels == tuple(names)
    weights = [load_file(each.output / "model.safetensors") for each in (run, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_all_splits_of_a_stream_are_refused(tmp_path: Path, start: Path) -> None:
    import datasets

    splits = datasets.IterableDatasetDict({"train": sentiment().to_iterable_dataset()})
    with pytest.raises(InputError, match="IterableDatasetDict of 'train'"):
        minilm.finetune("classification", start, splits, tmp_path / "out")


def test_a_column_of_a_frame_is_refused(tmp_path: Path, start: Path) -> None:
    import pandas

    with pytest.raises(InputError, match="train is one column of a data frame: expected the data"):
        minilm.finetune("classification", start, pandas.Series(TEXTS), tmp_path / "out")
