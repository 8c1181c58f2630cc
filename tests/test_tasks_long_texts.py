"""Whole texts longer than a row: windows over them, pooled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import minilm
from minilm.data.records.base import Skips
from minilm.tasks.batches import collate
from minilm.tasks.long_texts import LongTexts
from minilm.tasks.texts import Classification
from task_data import COLOURS, FILLERS, VOCABULARY, Record, colour_texts, quick, save_start

LENGTH = 16


def long_texts(count: int, seed: int) -> list[Record]:
    """The colour that is the label stands beyond what a row holds."""
    draw = random.Random(seed)
    records = []
    for number in range(count):
        words = draw.choices(FILLERS, k=40)
        colour = COLOURS[number % 3]
        words.insert(draw.randint(LENGTH + 4, 40), colour)
        records.append({"text": " ".join(words), "label": colour})
    return records


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "start")


@pytest.fixture(scope="module")
def tokenizer(start: Path) -> minilm.Tokenizer:
    return minilm.Tokenizer.from_pretrained(start)


def task_of(**options: Any) -> Classification:
    return Classification.learn(long_texts(6, 0), LENGTH, options)


def test_windows_cover_every_token(tokenizer: minilm.Tokenizer) -> None:
    task = task_of(windows="mean", doc_stride=5)
    examples = task.examples(long_texts(4, 1), Skips(), labelled=True)
    for example, sample in zip(examples, task.samples(examples, tokenizer), strict=True):
        ids = tokenizer.pieces(example.text)[0].ids.tolist()
        seen = [row.ids[1:-1].tolist() for row in sample.rows]
        assert all(len(row.ids) <= LENGTH for row in sample.rows)
        assert seen[0] + [token for row in seen[1:] for token in row[LENGTH - 2 - 5 :]] == ids
    assert task.truncated(task.samples(examples, tokenizer)) == 0


def test_a_short_text_is_read_as_without_windows(tokenizer: minilm.Tokenizer) -> None:
    rows = [{"text": "the red"}, {"text": "the", "text_pair": "a blue thing"}]
    with_windows, without = (
        task.samples(task.examples(rows, Skips(), labelled=False), tokenizer)
        for task in (task_of(windows="max"), task_of())
    )
    for one, other in zip(with_windows, without, strict=True):
        assert [row.ids.tolist() for row in one.rows] == [row.ids.tolist() for row in other.rows]
        assert one.rows[0].type_ids.tolist() == other.rows[0].type_ids.tolist()


@pytest.mark.parametrize("swapped", [False, True])
def test_the_shorter_text_of_a_pair_stands_in_every_window(
    swapped: bool, tokenizer: minilm.Tokenizer
) -> None:
    short, long = "the red thing", "is in a very " * 8
    texts = (long, short) if swapped else (short, long)
    task = task_of(windows="max")
    examples = task.examples([{"text": texts[0], "text_pair": texts[1]}], Skips(), labelled=False)
    (sample,) = task.samples(examples, tokenizer)
    own = tokenizer.pieces(short)[0].ids.tolist()
    assert len(sample.rows) > 2
    for row in sample.rows:
        assert len(row.ids) <= LENGTH
        begin = row.starts[0 if not swapped else 1]
        assert row.ids[begin : begin + len(own)].tolist() == own
        assert tokenizer.sep_token_id in row.ids
    assert not task.is_truncated(sample)
    both = task.examples([{"text": long, "text_pair": long}], Skips(), labelled=False)
    assert task.is_truncated(task.samples(both, tokenizer)[0])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_logits_of_windows_are_pooled(
    pooling: Any, start: Path, tokenizer: minilm.Tokenizer, tmp_path: Path
) -> None:
    path = save_start(tmp_path / "model", head="ForSequenceClassification", num_labels=3)
    model = minilm.load(path)
    task = task_of(windows=pooling)
    rows = [*long_texts(2, 3), {"text": "red", "label": "red"}]
    samples = task.samples(task.examples(rows, Skips(), labelled=True), tokenizer)
    with torch.no_grad():
        found = task.logits(model, collate(task, samples, torch.arange(3).numpy()))  # (3, C)
        for sample, logits in zip(samples, found, strict=True):
            single = torch.cat(
                [model(torch.from_numpy(row.ids)[None]).logits for row in sample.rows]
            )
            expected = single.mean(0) if pooling == "mean" else single.amax(0)
            torch.testing.assert_close(logits, expected)


@pytest.mark.filterwarnings("ignore:.*(was|were) cut")
@pytest.mark.parametrize(("pooling", "at_least"), [("mean", 0.5), ("max", 0.9)])
def test_the_decisive_word_may_stand_anywhere(
    pooling: str, at_least: float, start: Path, tmp_path: Path
) -> None:
    train, dev = [*colour_texts(90), *long_texts(30, 1)], long_texts(30, 2)
    run = quick("classification", start, train, tmp_path / "out", dev=dev, epochs=6,
                max_length=LENGTH, options={"windows": pooling})  # fmt: skip
    assert run.scores["accuracy"] > at_least
    stored = json.loads((run.output / "task.json").read_text())
    assert (stored["windows"], stored["doc_stride"]) == (pooling, None)
    predictor = minilm.Predictor.from_pretrained(run.output)
    scores = predictor.evaluate(dev)
    assert (scores["accuracy"], scores["truncated"]) == (run.scores["accuracy"], 0)
    assert "truncated" not in predictor(dev[0]["text"])
    predictor.task.long_texts = None  # type: ignore[attr-defined]
    cut = predictor.evaluate(dev)
    assert cut["truncated"] == 30
    assert cut["accuracy"] < 0.45  # the word is not seen, and chance is 1/3


def test_regression_and_several_labels_have_windows_too(start: Path, tmp_path: Path) -> None:
    rows = long_texts(12, 4)
    numbers = [{"text": row["text"], "label": float(n)} for n, row in enumerate(rows)]
    several = [{"text": row["text"], "labels": [row["label"]]} for row in rows]
    for task, records in (("regression", numbers), ("multi-label", several)):
        run = quick(task, start, records, tmp_path / task, max_length=LENGTH,
                    options={"windows": "max", "doc_stride": 7})  # fmt: skip
        predictor = minilm.Predictor.from_pretrained(run.output)
        assert predictor.task.long_texts == LongTexts("max", 7)  # type: ignore[attr-defined]
        assert "truncated" not in predictor.predict(records)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": "sum"}, "windows is 'sum': expected mean or max"),
        ({"windows": "max", "doc_stride": 0}, "doc_stride is 0"),
        ({"doc_stride": 5}, "choose windows"),
    ],
)
def test_wrong_windows(options: dict[str, Any], message: str) -> None:
    with pytest.raises(minilm.InputError, match=message):
        task_of(**options)


def test_no_room(tokenizer: minilm.Tokenizer) -> None:
    ids = tokenizer.pieces(VOCABULARY[6])[0].ids
    with pytest.raises(minilm.InputError, match="no room"):
        LongTexts("max").rows(tokenizer, 2, ids, None)
    with pytest.raises(minilm.InputError, match="no room"):
        LongTexts("max").rows(tokenizer, 4, ids, ids)
