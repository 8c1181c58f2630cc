"""Tags of words: how they are spelled, which words have none, and what their scores are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minilm.data.records.base import Skips
from minilm.errors import DataError
from minilm.metrics.entities import entity_scores
from minilm.tasks.catalogue import TASKS
from minilm.tasks.prediction import Predictor
from minilm.tasks.tagging import Tagging, WordWindow
from minilm.tasks.task import Sample
from task_data import quick, save_start

WORDS = ["the", "red", "paris", "is", "here"]
Record = dict[str, Any]


def tagged(*tags: Any) -> list[Record]:
    """A record for each string of tags, and for each list."""
    lists = [given.split() if isinstance(given, str) else given for given in tags]
    return [{"tokens": WORDS[: len(given)], "tags": given} for given in lists]


def learned(records: list[Record], task: str = "tagging") -> tuple[Any, list[Any]]:
    made = TASKS[task].learn(records, 16, {})
    return made, made.examples(records, Skips(), labelled=True)


def scores(made: Any, examples: list[Any], *predicted: str) -> dict[str, Any]:
    found: dict[str, Any] = made.scores(examples, [{"tags": tags.split()} for tags in predicted])
    return found


@pytest.mark.parametrize(
    ("tags", "labels", "first"),
    [
        (["B I O", "O O B"], ("O", "B", "I"), "B I O"),
        (["I I O B", "O I"], ("O", "B", "I"), "B I O B"),
        (["B E O S"], ("O", "B", "I"), "B I O B"),
        (["B I L O U"], ("O", "B", "I"), "B I I O B"),
        (["B M E O S"], ("O", "B", "I"), "B I I O B"),
        (["B-X I-X L-X O U-Y"], ("O", "B-X", "I-X", "B-Y", "I-Y"), "B-X I-X I-X O B-Y"),
        (["b-per i-per o"], ("O", "B-per", "I-per"), "B-per I-per O"),
        (["B_PER I_PER O"], ("O", "B-PER", "I-PER"), "B-PER I-PER O"),
        (["I-X I-X B-X O"], ("O", "B-X", "I-X"), "B-X I-X B-X O"),
        (["B-X O", "o o"], ("O", "B-X", "I-X"), "B-X O"),
    ],
)
def test_tags_of_entities(tags: list[str], labels: tuple[str, ...], first: str) -> None:
    made, examples = learned(tagged(*tags))
    assert made.labels == labels
    assert (made.has_entities, made.metric) == (True, "f1")
    assert list(examples[0].tags) == first.split()
    right = scores(made, examples, *(" ".join(example.tags) for example in examples))
    assert (right["f1"], right["precision"], right["token_accuracy"]) == (1, 1, 1)
    wrong = scores(made, examples, *("O " * len(example.tags) for example in examples))
    assert wrong["f1"] == 0 < wrong["token_accuracy"]
    assert made.take_notes() == ["tokens from tokens, tags from tags"]


@pytest.mark.parametrize(
    ("tags", "labels", "why"),
    [
        (["DET NOUN VERB"], ("DET", "NOUN", "VERB"), "without B- and I-"),
        (["PER O O LOC"], ("O", "LOC", "PER"), "without B- and I-"),
        (["X DET X"], ("DET", "X"), "without B- and I-"),  # X is a part of speech
        ([[3, 0, 10]], ("0", "3", "10"), "numbers without names"),
    ],
)
def test_other_tags_are_scored_word_by_word(
    tags: list[Any], labels: tuple[str, ...], why: str
) -> None:
    made, examples = learned(tagged(*tags))
    assert made.labels == labels
    assert (made.has_entities, made.metric) == (False, "token_accuracy")
    found = scores(made, examples, " ".join([labels[0]] * len(examples[0].tags)))
    assert list(found) == ["token_accuracy", "macro_f1", "classes"]
    assert found["token_accuracy"] < 1
    assert made.take_notes()[0] == f"tags are {why}: they are scored word by word, not as entities"


@pytest.mark.parametrize("mark", [-100, "-100", None, "", "X", "[PAD]"])
def test_words_without_a_tag_are_neither_learned_nor_scored(mark: Any) -> None:
    made, examples = learned(tagged(["B-P", mark, "I-P", "O", mark], "O B-P"))
    assert made.labels == ("O", "B-P", "I-P")
    # as if the word were not there
    assert examples[0].tags == ("B-P", None, "I-P", "O", None)
    assert scores(made, examples, "B-P O I-P O B-P", "O B-P")["f1"] == 1
    assert scores(made, examples, "B-P I-P I-P O O", "O O")["token_accuracy"] == 0.8


@pytest.mark.parametrize("mark", [-100, "-100", None, ""])
def test_numbers_of_tags_with_marks(mark: Any, tmp_path: Path) -> None:
    records = tagged([1, mark, 0], [0, 1])
    start = save_start(tmp_path / "start")
    quick("tagging", start, records, tmp_path / "out", dev=records)
    predictor = Predictor.from_pretrained(tmp_path / "out")
    assert predictor.task.labels == ("0", "1")
    found = predictor.evaluate(records)
    assert sum(part["support"] for part in found["classes"].values()) == 4


def test_scores_and_predictions_of_tags_without_types(tmp_path: Path) -> None:
    records = tagged("O B I O O", "B O O B O") * 4
    quick("tagging", save_start(tmp_path / "start"), records, tmp_path / "out", epochs=6)
    predictor = Predictor.from_pretrained(tmp_path / "out")
    found = predictor.predict(records)
    gold = [record["tags"] for record in records]
    assert predictor.evaluate(records)["f1"] == pytest.approx(
        entity_scores(gold, [prediction["tags"] for prediction in found]).micro.f1
    )
    assert all(
        {entity["type"] for entity in prediction["entities"]} <= {"_"} for prediction in found
    )


def test_tags_that_training_did_not_have() -> None:
    made, _ = learned(tagged("B-X I-X O"))
    dev = made.examples(tagged("B-X I-X B-Y O"), Skips(), labelled=True)
    assert made.unknown(dev) == {"B-Y": 1}
    found = scores(made, dev, "B-X I-X O O")
    assert (found["precision"], found["recall"], found["token_accuracy"]) == (1, 0.5, 0.75)


def test_a_malformed_tag_is_named_where_no_record_can_be_used() -> None:
    for tags, message in (
        (["B-X Z-X", "B-X Z-X"], "record 0: 'Z-X' is not a tag. Expected O, or B, I, E or S"),
        (["NN B-VB"], "record 0: 'NN' is not a tag"),
        ([[True, False]], "record 0: tags is"),
    ):
        with pytest.raises(DataError, match=message):
            learned(tagged(*tags))


def test_slots_of_an_assistant_that_are_no_entities() -> None:
    records = [{**tagged("city O")[0], "intent": x} for x in "ab"]
    made, examples = learned(records, "utterances")
    assert made.metric == "both_right"
    predictions = [{"tags": ["city", "city"], "intent": "a", "confidence": 1.0}] * 2
    found = made.scores(examples, predictions)
    assert found["slot_token_accuracy"] == 0.5
    assert "slot_f1" not in found


def test_tags_and_words_written_as_text() -> None:
    records = [{"text": "the red thing", "slots": "O B-col O", "intent": x} for x in "ab"]
    _, examples = learned(records, "utterances")
    assert examples[0].words == ["the", "red", "thing"]
    assert examples[0].tags == ("O", "B-col", "O")
    table = [{"tokens": "['the', 'red']", "tags": "['O', 'B-col']"}]
    _, examples = learned(table)
    assert (examples[0].words, examples[0].tags) == (["the", "red"], ("O", "B-col"))


@pytest.mark.parametrize(
    "labels", ["O B-X I-X L-X U-X", "O B-X I-X E-X S-X", "o b_X i_X e_X s_X", "O B I L U"]
)
def test_checkpoints_from_elsewhere_in_other_schemes(labels: str) -> None:
    made = TASKS["tagging"].restore(labels.split(), {"max_length": 16})
    assert made.has_entities
    kind = "-X" if "X" in labels else ""
    records = tagged(f"B{kind} I{kind} I{kind} O B{kind}")
    (example,) = made.examples(records, Skips(), labelled=True)
    outputs = np.eye(5)[[1, 2, 3, 0, 4]]
    word = WordWindow(np.arange(5), np.arange(5), True)
    (prediction,) = made.decode([example], [Sample(0, (), None, word)], [outputs])
    assert prediction["tags"] == records[0]["tags"]
    assert [(entity["type"], entity["text"]) for entity in prediction["entities"]] == [
        (kind[1:] or "_", "the red paris"),
        (kind[1:] or "_", "here"),
    ]
    found = made.scores([example], [prediction])
    assert (found["f1"], found["token_accuracy"]) == (1, 1)


@pytest.mark.parametrize("other", ["X", "[CLS]", "misc"])
@pytest.mark.parametrize("tags", [("O", "B-PER", "I-PER"), ("O", "B-PER", "E-PER", "S-PER")])
def test_outputs_of_other_heads_that_are_no_tags(tags: tuple[str, ...], other: str) -> None:
    task = Tagging([*tags, other], 16)
    record = {"tokens": ["a", "b", "c"], "tags": ["B-PER", "O", "O"]}
    examples = task.examples([record], Skips(), labelled=True)
    output = np.full((5, len(task.labels)), -5.0, np.float32)
    output[[1, 2, 3], [1, len(tags), 0]] = 5
    where = WordWindow(np.arange(3), np.arange(1, 4), True)
    (found,) = task.decode(examples, [Sample(0, (), None, where)], [output])
    assert [(e["text"], e["type"]) for e in found["entities"]] == [("a", "PER")]
    assert task.scores(examples, [found])["f1"] == 1
