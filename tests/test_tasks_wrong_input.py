"""Records, checkpoints and settings that cannot be used: what is said, and what remains."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import minilm
from minilm.data.records.base import Records, Skips
from minilm.errors import CheckpointError, DataError, InputError, MinilmError, TrainingError
from minilm.recipes.finetuning import finetune, prepare
from minilm.tasks.catalogue import TASKS, is_finetuned, task_class
from minilm.tasks.fields import in_order
from minilm.tasks.prediction import Predictor
from task_data import RECORDS, VOCABULARY, Record, colour_texts, quick, save_start, settings_of

WORDS = ["the", "red", "thing"]
PLACE = "the thing is in paris"
TEN_TO_THE_400 = 10**400


def asked(*answers: Any, **more: Any) -> Record:
    return {"question": "it is in", "context": PLACE, "answers": list(answers), **more}


def answer(text: str, start: Any) -> Record:
    return {"text": text, "answer_start": start}


def tagged(tokens: Any, tags: Any, **more: Any) -> Record:
    return {"tokens": tokens, "tags": tags, **more}


def spoken(intent: Any) -> Record:
    return tagged(WORDS, ["O"] * 3, intent=intent)


def chosen(choices: Any, label: Any = 0, prompt: Any = "the thing") -> Record:
    return {"prompt": prompt, "choices": choices, "label": label}


# records that are bad whether or not they need labels
UNREADABLE: list[tuple[str, Record, str, str]] = [
    ("classification", {"text": "", "label": "red"}, "text is empty. Remove", "empty text"),
    ("classification", {"text": " \t\u00a0\n", "label": "red"}, "text is empty", "empty text"),
    ("classification", {"text": None, "label": "red"}, "'text' holds nothing (null)", "no text"),
    ("classification", {"label": "red"}, "Say which field it is (text_column=...)", "no text"),
    ("classification", {}, "There is no 'text'; the record has nothing", "no text"),
    ("classification", {"text": 5, "label": "red"}, "text is a int (5)", "text is not a string"),
    ("classification", {"text": ["a"], "label": "red"}, "expected a string",
     "text is not a string"),
    ("classification", {"text": b"a", "label": "red"}, "text is a bytes", "text is not a string"),
    ("classification", {"text": math.nan, "label": "red"}, "is a float", "text is not a string"),
    ("classification", {"text": "a \ud800 b", "label": "red"}, "pair at character 2. Read the file "
     "with its right encoding", "text is not valid Unicode"),
    ("classification", {"text": "a", "text_pair": "", "label": "red"}, "text_pair is empty",
     "empty text_pair"),
    ("classification", {"text": "a", "text_pair": 3, "label": "red"}, "text_pair is a int",
     "text_pair is not a string"),
    ("tagging", tagged([], []), "expected a list of at least one word", "no list of words"),
    ("tagging", tagged("a b", ["O", "O"]), "tokens is 'a b', expected a list", "no list of words"),
    ("tagging", tagged(["a", ""], ["O", "O"]), "a word of tokens is empty",
     "empty a word of tokens"),
    ("tagging", tagged(["a", "\u2003"], ["O", "O"]), "a word of tokens is empty",
     "empty a word of tokens"),
    ("tagging", tagged(["a", 5], ["O", "O"]), "a word of tokens is a int",
     "a word of tokens is not a string"),
    ("tagging", tagged(["a", None], ["O", "O"]), "is a NoneType",
     "a word of tokens is not a string"),
    ("tagging", tagged(["\udc00"], ["O"]), "surrogate", "a word of tokens is not valid Unicode"),
    ("answering", asked(question=""), "question is empty", "empty question"),
    ("answering", asked(question=None), "There is no 'question'", "no question"),
    ("answering", asked(context=" \n"), "context is empty", "empty context"),
    ("answering", asked(context=["a"]), "context is a list", "context is not a string"),
    ("choice", chosen(["a"]), "expected a list of at least two texts", "no list of choices"),
    ("choice", chosen([]), "choices is [], expected a list", "no list of choices"),
    ("choice", chosen("ab"), "choices is 'ab', expected a list", "no list of choices"),
    ("choice", chosen(None), "There is no 'choices'", "no choices"),
    ("choice", chosen(["a", ""]), "a choice is empty", "empty a choice"),
    ("choice", chosen(["a", 5]), "a choice is a int", "a choice is not a string"),
    ("choice", chosen(["a", "b"], prompt=""), "prompt is empty", "empty prompt"),
]  # fmt: skip
# and those whose labels are bad
UNLABELLED: list[tuple[str, Record, str, str]] = [
    ("classification", {"text": "a"}, "There is no 'label'; the record has 'text'. Say which "
     "field it is (label_column=...)", "no label"),
    ("classification", {"text": "a", "label": None}, "There is no 'label'", "no label"),
    ("classification", {"text": "a", "label": " "}, "expected a name or a whole number",
     "no proper label"),
    ("classification", {"text": "a", "label": 1.5}, "The label is 1.5", "no proper label"),
    ("classification", {"text": "a", "label": math.inf}, "The label is inf", "no proper label"),
    ("classification", {"text": "a", "label": ["red"]}, "The label is ['red']", "no proper label"),
    ("regression", {"text": "a"}, "There is no 'label'", "no label"),
    ("regression", {"text": "a", "label": math.nan}, "The target is nan, expected a finite number",
     "target is not a number"),
    ("regression", {"text": "a", "label": "nan"}, "The target is 'nan'", "target is not a number"),
    ("regression", {"text": "a", "label": -math.inf}, "The target is -inf",
     "target is not a number"),
    ("regression", {"text": "a", "label": "1e999"}, "The target is '1e999'",
     "target is not a number"),
    ("regression", {"text": "a", "label": "five"}, "The target is 'five'",
     "target is not a number"),
    ("regression", {"text": "a", "label": [1]}, "The target is [1]", "target is not a number"),
    ("regression", {"text": "a", "label": True}, "The target is True", "target is not a number"),
    ("regression", {"text": "a", "label": TEN_TO_THE_400}, "expected a finite number",
     "target is not a number"),
    ("multi-label", {"text": "a"}, "There is no 'labels'", "no labels"),
    ("multi-label", {"text": "a", "labels": 5}, "labels is 5, expected a list of names",
     "no list of labels"),
    ("multi-label", {"text": "a", "labels": {"red": 1}}, "expected a list of names",
     "no list of labels"),
    ("multi-label", {"text": "a", "labels": ["red", None]}, "The label is None", "no proper label"),
    ("multi-label", {"text": "a", "labels": ["red", ""]}, "The label is ''", "no proper label"),
    ("tagging", {"tokens": WORDS}, "There is no 'tags'", "no tags"),
    ("tagging", tagged(WORDS, ["O", "O"]), "tokens and tags differ: 3 tokens, 2 tags",
     "tokens and tags differ"),
    ("tagging", tagged(WORDS, ["O"] * 4), "tokens and tags differ: 3 tokens, 4 tags",
     "tokens and tags differ"),
    ("tagging", tagged(WORDS, "OOO"), "tags is 'OOO', expected a list", "no list of labels"),
    ("tagging", tagged(WORDS, ["O", 1.5, "O"]), "expected a list of labels", "no list of labels"),
    ("tagging", tagged(WORDS, ["O", "COL", "O"]), "'COL' is not a tag", "malformed tag"),
    ("tagging", tagged(WORDS, ["O", "B-", "O"]), "'B-' is not a tag", "malformed tag"),
    ("tagging", tagged(WORDS, ["O", "B-A,B-B", "O"]), "is several tags", "malformed tag"),
    ("utterances", spoken(None), "There is no 'intent'", "no intent"),
    ("utterances", spoken([]), "The label is []", "no proper label"),
    ("answering", {"question": "a", "context": "b"}, "There is no 'answers'", "no answers"),
    ("answering", asked(answers="paris"), 'expected a list of {"text", "answer_start"}',
     "no list of answers"),
    ("answering", asked(5), "answers is [5]", "no list of answers"),
    ("answering", asked({"text": "paris"}), "expected a list of", "no list of answers"),
    ("answering", asked(answer("paris", "16")), "expected a list of", "no list of answers"),
    ("answering", asked(answers={"text": ["paris"], "answer_start": []}), "expected a list of",
     "no list of answers"),
    ("answering", asked(answer("", 0)), "An answer is empty", "empty answer"),
    ("answering", asked(answer("paris", 16), answer(" ", 3)), "An answer is empty", "empty answer"),
    ("answering", asked(answer("rome", 16)), "it is nowhere in the context",
     "answer not at its offset"),
    ("answering", asked(answer("paris", 15)), "is not at its answer_start 15: it is at 16. Mend",
     "answer not at its offset"),
    ("answering", asked(answer("paris", -5)), "answer_start -5: it is at 16",
     "answer not at its offset"),
    ("answering", asked(answer("paris", 1000)), "answer_start 1000: it is at 16",
     "answer not at its offset"),
    ("choice", chosen(["a", "b"], 2), "The label is 2, expected the number of the right choice, 0 "
     "to 1", "no proper label"),
    ("choice", chosen(["a", "b"], -1), "The label is -1", "no proper label"),
    ("choice", chosen(["a", "b"], "c"), "The label is 'c'", "no proper label"),
    ("choice", chosen(["a", "b"], "C"), "The label is 'C'", "no proper label"),
    ("choice", chosen(["b", "b"], "b"), "The label is 'b'", "no proper label"),
    ("classification", {"text": "a", "label": -100}, "which marks records without a label. Remove",
     "no proper label"),
    ("classification", {"text": "a", "label": "-100"}, "The label is -100", "no proper label"),
    ("choice", chosen(["a", "b"], True), "The label is True", "no proper label"),
    ("choice", chosen(["a", "b"], 1.5), "The label is 1.5", "no proper label"),
    ("choice", chosen(["a", "b"], None), "The label is None", "no proper label"),
]  # fmt: skip
# a label that training did not have, and how often it stands in the record
UNKNOWN: list[tuple[str, Record, str]] = [
    ("classification", {"text": "a", "label": "pink"}, "pink"),
    ("classification", {"text": "a", "label": "Red"}, "Red"),
    ("multi-label", {"text": "a", "labels": ["red", "pink"]}, "pink"),
    ("multi-label", {"text": "a", "labels": "red, pink"}, "pink"),
    ("tagging", tagged(WORDS, ["O", "B-PET", "O"]), "B-PET"),
    ("utterances", spoken("sing"), "sing"),
    ("utterances", tagged(WORDS, ["B-PET", "O", "O"], intent="ask"), "B-PET"),
]


def named(records: Sequence[Record]) -> Records:
    return Records(list(records), [f"line {n + 2}" for n in range(len(records))], "a.tsv")


def with_bad(task: str, bad: Record) -> list[Record]:
    good = RECORDS[task](8)
    return [*good[:3], bad, *good[3:]]


def titled(case: Any) -> str:
    return case if isinstance(case, str) and case in TASKS else ""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, start: Path) -> dict[str, Path]:
    """A checkpoint for every task."""
    place = tmp_path_factory.mktemp("models")
    for task, make in RECORDS.items():
        quick(task, start, make(16), place / task)
    return {task: place / task for task in RECORDS}


@pytest.mark.parametrize(
    ("task", "bad", "message", "reason"), [*UNREADABLE, *UNLABELLED], ids=titled
)
def test_a_bad_record_is_an_error_or_left_out(
    task: str, bad: Record, message: str, reason: str
) -> None:
    records = with_bad(task, bad)
    made = TASKS[task].learn(records, 32, {})
    for given, place in ((records, "record 3"), (named(records), "a.tsv, line 5")):
        with pytest.raises(DataError) as caught:
            made.examples(given, Skips(), labelled=True)
        assert str(caught.value).startswith(f"{place}: ")
        assert message in str(caught.value)
    skips = Skips("skip")
    good = made.examples(records, skips, labelled=True)
    # arrays have no equality of their own
    assert str(good) == str(made.examples([*records[:3], *records[4:]], Skips(), labelled=True))
    assert (skips.total, skips.count, dict(skips.reasons)) == (9, 1, {reason: 1})
    assert skips.summary().startswith(f"1 of 9 records skipped: 1 {reason}; first: record 3: ")


@pytest.mark.parametrize(("task", "bad", "message", "reason"), UNREADABLE, ids=titled)
def test_a_bad_record_has_an_error_for_a_prediction(
    task: str, bad: Record, message: str, reason: str, models: dict[str, Path]
) -> None:
    predictor = Predictor.from_pretrained(models[task])
    records = with_bad(task, bad)
    with pytest.raises(DataError, match="^input, record 3: "):
        predictor.predict(records)
    skips = Skips("skip")
    assert len(predictor.predict(records, skips=skips)) == 8
    assert skips.summary().startswith(f"1 of 9 records skipped: 1 {reason}")
    each = list(predictor.predict_each(named(records), "skip"))
    assert [record for record, _ in each] == records
    assert [number for number, (_, p) in enumerate(each) if "error" in p] == [3]
    assert each[3][1]["error"].startswith("a.tsv, line 5: ")
    assert message in each[3][1]["error"]


@pytest.mark.parametrize(("task", "strange", "label"), UNKNOWN)
def test_labels_that_training_did_not_have_are_counted_as_wrong(
    task: str, strange: Record, label: str, start: Path, tmp_path: Path
) -> None:
    train, dev = RECORDS[task](16), named(with_bad(task, strange))
    said: list[str] = []
    run = quick(task, start, train, tmp_path / "out", dev=dev, say=said.append)
    told = f"dev: 1 label that training does not have ({label}), counted as wrong"
    assert said.count(told) == 1
    assert (run.scores["examples"], run.scores["unknown_labels"]) == (9, 1)
    predictor = Predictor.from_pretrained(tmp_path / "out")
    assert label not in predictor.task.labels
    # nothing but the strange record: all of it is wrong
    with_known = [strange, train[0]]
    alone, both = (predictor.evaluate(records) for records in ([train[0]], with_known))
    for name in ("accuracy", "subset_accuracy", "both_right"):
        if name in both:
            assert both[name] == alone[name] / 2
    assert both["unknown_labels"] == 1
    assert "unknown_labels" not in alone


@pytest.mark.parametrize("task", ["classification", "utterances"])
def test_labels_of_another_data_set_altogether(task: str, models: dict[str, Path]) -> None:
    field = "label" if task == "classification" else "intent"
    records = [{**record, field: f"LABEL_{n % 2}"} for n, record in enumerate(RECORDS[task](4))]
    with pytest.raises(DataError, match="None of the 4 records has a label of training. The label"):
        Predictor.from_pretrained(models[task]).evaluate(records)


# --- settings of a run ---

SAME = {"text": "a", "label": "red"}


@pytest.mark.parametrize(
    ("task", "train", "message"),
    [
        ("classification", [SAME] * 3, r"1 label \(red\) under 'label': there is nothing to tell"),
        ("classification", [{"text": "a"}] * 3, r"record 0: There is no 'label'; .*label_column="),
        ("tagging", [tagged(WORDS, ["O"] * 3)] * 3, r"1 label \(O\) under 'tags'"),
        ("tagging", [{"tokens": WORDS}], "record 0: There is no 'tags'"),
        ("tagging", [tagged(WORDS, 5)], "record 0: tags is 5, expected a list of labels"),
        ("multi-label", [{"text": "a", "labels": []}] * 3, r"0 labels \(none\) under 'labels'"),
        ("utterances", [spoken("ask")] * 2, r"1 label \(ask\) under 'intent'"),
        ("utterances", [tagged(["a", "b"], ["intent=a", "O"], intent=x) for x in "xy"],
         "The tag 'intent=a' begins with 'intent='"),
        ("classification", [{"text": "a", "label": x} for x in (0.5, 1.5)],
         "record 0: The label is 0.5, expected a name or a whole number"),
        ("tagging", [tagged(["a", "b"], ["NN", "B-VB"])] * 2, "record 0: 'NN' is not a tag"),
        ("classification", [*colour_texts(9), "red"], "record 9 is a str: expected a dictionary"),
        ("tagging", [["a", "b"]], "record 0 is a list: expected a dictionary"),
        ("answering", ["a"], "record 0 is a str"),
        ("regression", [None], "record 0 is a NoneType"),
    ],
)  # fmt: skip
def test_records_that_teach_nothing(
    task: str, train: list[Any], message: str, start: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        quick(task, start, train, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"max_length": 65}, InputError, "max_length is 65: the model takes 1 to 64 tokens"),
        ({"max_length": -1}, InputError, "max_length is -1"),
        ({"max_length": 1}, InputError, "max_length is 1, but the special tokens alone need 2"),
        ({"patience": 2}, InputError, "patience needs an evaluation: give dev records"),
        ({"select": "accuracy"}, InputError, "select needs an evaluation: give dev records"),
        ({"patience": 2, "select": "last", "dev": True}, TrainingError, "patience needs select"),
        (
            {"select": "f7", "dev": True},
            InputError,
            "select is 'f7': expected last or a score of classification: accu",
        ),
        ({"balance": "some"}, InputError, "balance is 'some': expected one of none, weights"),
        ({"batch_size": -1}, InputError, "batch_size is -1: expected a whole number from 1"),
        ({"epochs": -1}, InputError, "epochs is -1: expected a whole number from 1"),
        ({"warmup": -0.1}, InputError, "warmup is -0.1: expected a share of all steps"),
        ({"learning_rate": math.nan}, TrainingError, "learning_rate"),
        ({"freeze_layers": 3}, InputError, "The model has 2 layers: 3 cannot be frozen"),
        ({"layers": [0]}, InputError, "either a model to start from, or layers of a teacher"),
        (
            {"options": {"out_of_scope": "red", "tune_thresholds": True}},
            InputError,
            "tune_thresholds needs an evaluation: give dev records",
        ),
        ({"options": {"out_of_scope": "pink"}}, DataError, "out_of_scope is 'pink', but no train"),
        ({"dev": []}, InputError, "nothing to evaluate on. 0 of 20 records skipped"),
    ],
)
def test_settings_that_cannot_be(
    more: dict[str, Any], error: type[MinilmError], message: str, start: Path, tmp_path: Path
) -> None:
    if more.get("dev") is True:
        more = {**more, "dev": colour_texts(4)}
    with pytest.raises(error, match=message):
        quick("classification", start, colour_texts(20), tmp_path / "out", **more)


def test_start_and_task_must_be_named(start: Path, tmp_path: Path) -> None:
    train = colour_texts(8)
    with pytest.raises(InputError, match="task is 'sorting': expected one of classification, mul"):
        quick("sorting", start, train, tmp_path)
    with pytest.raises(InputError, match="task is ''"):
        task_class("")
    with pytest.raises(InputError, match="either a model to start from, or layers"):
        quick("classification", None, train, tmp_path)
    with pytest.raises(InputError, match="layers needs a teacher"):
        quick("classification", None, train, tmp_path, layers=[0])
    with pytest.raises(MinilmError, match="nowhere"):
        quick("classification", tmp_path / "nowhere", train, tmp_path / "out")
    with pytest.raises(InputError, match="no records to train on"):
        quick("classification", start, [], tmp_path / "out")


@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
def test_records_that_are_all_left_out(balance: str, start: Path, tmp_path: Path) -> None:
    train = [{"text": "", "label": "red"}, {"text": " ", "label": "blue"}]
    with pytest.raises(InputError, match="nothing to train on. 2 of 2 records skipped: 2 empty te"):
        quick("classification", start, train, tmp_path / "out", skips=Skips("skip"),
              balance=balance)  # fmt: skip
    dev = [{"text": "", "label": "red"}]
    with pytest.raises(InputError, match="nothing to evaluate on. 1 of 9 records skipped"):
        quick("classification", start, colour_texts(8), tmp_path / "out", skips=Skips("skip"),
              dev=dev)  # fmt: skip


def test_what_was_left_out_is_said(start: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train = [*colour_texts(10), {"text": "", "label": "red"}, {"text": "a"}]
    run = quick("classification", start, train, tmp_path / "out", skips=Skips("skip"),
                say=said.append)  # fmt: skip
    assert run.steps == 2
    assert "training: 10 examples" in said
    assert any(
        text.startswith("2 of 12 records skipped: 1 empty text, 1 no label; first: record 10")
        for text in said
    )


def test_a_place_that_is_taken_or_cannot_be_made(start: Path, tmp_path: Path) -> None:
    other = save_start(tmp_path / "other")
    with pytest.raises(TrainingError, match=r"holds config.json, .*Give a new directory"):
        quick("classification", start, colour_texts(8), other)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be created"):
        quick("classification", start, colour_texts(8), tmp_path / "file")


# --- teachers ---


def test_teachers_that_do_not_fit(models: dict[str, Path], start: Path, tmp_path: Path) -> None:
    def taught(teacher: Path, train: Sequence[Record], task: str = "classification") -> None:
        quick(task, start, train, tmp_path / "out", teacher=teacher)

    others = [{"text": "a", "label": label} for label in ("x", "y")]
    with pytest.raises(InputError, match="has the labels blue, green, red, the training records x"):
        taught(models["classification"], others)
    with pytest.raises(
        InputError, match="is a BertModel, with no head for classification: fine-tu"
    ):
        taught(start, colour_texts(8))
    with pytest.raises(InputError, match="BertForSequenceClassification, with no head for tagging"):
        taught(models["classification"], RECORDS["tagging"](8), "tagging")
    vocabulary = [*VOCABULARY[:-1], "extra"]
    base = save_start(tmp_path / "base", vocabulary=vocabulary)
    quick("tagging", base, RECORDS["tagging"](8), tmp_path / "stranger")
    with pytest.raises(InputError, match="stranger has another vocabulary than the student"):
        taught(tmp_path / "stranger", RECORDS["tagging"](8), "tagging")
    assert not (tmp_path / "out").exists()


def test_students_have_layers_of_their_teacher(tmp_path: Path) -> None:
    base = save_start(tmp_path / "albert", "albert")
    quick("classification", base, colour_texts(8), tmp_path / "teacher")
    quick("classification", None, colour_texts(8), tmp_path / "unrolled",
          teacher=tmp_path / "teacher", layers=[0])  # fmt: skip
    assert type(minilm.load(tmp_path / "unrolled")).__name__ == (
        "DistilBertForSequenceClassification"
    )
    base = save_start(tmp_path / "bert")
    quick("classification", base, colour_texts(8), tmp_path / "other")
    with pytest.raises(InputError, match="2"):
        quick("classification", None, colour_texts(8), tmp_path / "out",
              teacher=tmp_path / "other", layers=[2])  # fmt: skip


# --- checkpoints ---


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("classification", "{", "not valid JSON"),
        ("classification", "", "not valid JSON"),
        ("classification", "[]", "holds a list at the top level"),
        ("classification", '{"task": "tagging"}', "with no head for a task 'tagging'"),
        ("classification", '{"task": "sorting"}', "with no head for a task 'sorting'"),
        ("classification", '{"task": []}', "is a BertForSequenceClassification, with no head"),
        ("classification", '{"task": ["classification"]}', "with no head"),
        ("classification", '{"max_length": 0}', "max_length is 0, expected 1 to 64"),
        ("classification", '{"max_length": "9"}', "max_length is '9'"),
        ("classification", '{"max_length": 1000}', "max_length is 1000, expected 1 to 64"),
        ("classification", '{"out_of_scope": "pink"}', "out_of_scope is 'pink'"),
        ("utterances", '{"task": "utterances", "out_of_scope": 3}', "out_of_scope is 3"),
        ("answering", '{"doc_stride": -1}', "doc_stride is -1: expected a whole number from 1"),
        ("answering", '{"n_best": "x"}', "n_best is 'x'"),
        ("answering", '{"null_threshold": "x"}', "task.json"),
        ("answering", '{"null_threshold": [1]}', "task.json"),
    ],
)
def test_a_damaged_task_file(
    task: str, content: str, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "copy"
    directory.mkdir()
    for file in models[task].iterdir():
        if file.is_file():
            (directory / file.name).symlink_to(file)
    (directory / "task.json").unlink()
    (directory / "task.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        Predictor.from_pretrained(directory)
    assert message in str(caught.value)
    assert str(directory) in str(caught.value)


def test_heads(models: dict[str, Path], start: Path) -> None:
    assert is_finetuned(models["choice"])
    assert not is_finetuned(start)
    with pytest.raises(CheckpointError, match="Fine-tune it first: minilm finetune --help"):
        Predictor.from_pretrained(start)


def test_nothing_to_evaluate_on(models: dict[str, Path]) -> None:
    predictor = Predictor.from_pretrained(models["classification"])
    with pytest.raises(InputError, match="nothing to evaluate on. 0 of 0"):
        predictor.evaluate([])
    bad = [{"text": "", "label": "red"}] * 2
    with pytest.raises(InputError, match="2 of 2 records skipped: 2 empty text"):
        predictor.evaluate(bad, skips=Skips("skip"))
    assert predictor.predict([]) == []
    assert predictor.predict(bad, skips=Skips("skip")) == []
    assert [p.keys() for _, p in predictor.predict_each(bad, "skip")] == [{"error"}] * 2


def test_texts_that_a_predictor_refuses(models: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="text is empty"):
        Predictor.from_pretrained(models["classification"])(" ")
    with pytest.raises(DataError, match="There is no 'context'"):
        Predictor.from_pretrained(models["answering"])("it is in")
    strange: Any = [["a"]]
    for task in ("classification", "tagging", "answering", "choice"):
        predictor = Predictor.from_pretrained(models[task])
        with pytest.raises(DataError, match="record 0 is a list: expected a dictionary"):
            predictor.predict(strange)


# --- room ---


def test_questions_that_leave_no_room(start: Path, tmp_path: Path) -> None:
    train = RECORDS["answering"](8)
    with pytest.raises(InputError, match=r"question of 3 tokens .*larger max_length or a smaller "):
        quick("answering", start, train, tmp_path / "out", max_length=6)
    run = quick("answering", start, train, tmp_path / "out", max_length=6,
                options={"max_query": 2})  # fmt: skip
    assert run.finished
    for name in ("doc_stride", "max_answer"):
        with pytest.raises(InputError, match=f"{name} is -1: expected a whole number from 1"):
            quick("answering", start, train, tmp_path / "b", options={name: -1})


def test_words_that_have_no_room(start: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_length is 2: there is no room for any token"):
        quick("tagging", start, RECORDS["tagging"](8), tmp_path / "out", max_length=2)


LONG = "the red thing is in paris " * 3847  # 100,022 characters


def test_a_very_long_text_is_cut_and_that_is_said(start: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train = [*colour_texts(8), {"text": LONG, "label": "red"}]
    dev = [{"text": LONG, "text_pair": LONG, "label": "red"}, *colour_texts(2)]
    run = quick("classification", start, train, tmp_path / "out", say=said.append, dev=dev)
    assert "training: 9 examples, 1 of them cut at 64 tokens" in said
    assert "dev: 3 examples, 1 of them cut at 64 tokens" in said
    predictor = Predictor.from_pretrained(run.output)
    assert predictor.evaluate(dev)["truncated"] == 1
    with pytest.warns(UserWarning, match="^1 of 1 record was longer than 64 tokens and was cut"):
        found = predictor(LONG)
    assert found["label"] in ("red", "blue", "green")
    assert found["truncated"] is True
    choice = [*RECORDS["choice"](8), chosen([LONG, "a"])]
    said.clear()
    quick("choice", start, choice, tmp_path / "choice", say=said.append)
    assert "training: 9 examples, 1 of them cut at 64 tokens" in said


@pytest.mark.parametrize("task", ["tagging", "utterances"])
def test_a_very_long_text_is_tagged_to_its_end(
    task: str, models: dict[str, Path], start: Path, tmp_path: Path
) -> None:
    words = LONG.split()
    record = tagged(words, ["O"] * len(words), intent="tell")
    predictor = Predictor.from_pretrained(models[task])
    (found,) = predictor.predict([record])
    assert found["tokens"] == words
    assert len(found["tags"]) == len(words)
    examples = predictor.task.examples([record], Skips(), labelled=True)
    samples = predictor.task.samples(examples, predictor.tokenizer)
    assert len(samples) > 400
    assert predictor.task.truncated(samples) == 0
    labels = predictor.task.labels_of(samples)
    assert int((labels == 0).sum()) == len(words)


def test_a_very_long_context_is_searched_to_its_end(models: dict[str, Path]) -> None:
    predictor = Predictor.from_pretrained(models["answering"])
    context = LONG + "rome"
    record = {"question": "it is in", "context": context,
              "answers": [{"text": "rome", "answer_start": len(LONG)}]}  # fmt: skip
    (found,) = predictor.predict([record])
    assert found["n_best"]
    for one in found["n_best"]:
        assert context[one["start"] : one["end"]] == one["answer"]
    examples = predictor.task.examples([record], Skips(), labelled=True)
    samples = predictor.task.samples(examples, predictor.tokenizer)
    assert [sample.label != (0, 0) for sample in samples[-3:]] == [False, False, True]
    assert sum(sample.label != (0, 0) for sample in samples) == 1


# --- names of labels ---


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ({"b", "a", "B"}, ["B", "a", "b"]),
        ({"10", "9", "-1"}, ["-1", "9", "10"]),
        ({"1", "01", "001"}, ["001", "01", "1"]),
        ({"--1", "2"}, ["--1", "2"]),
        ({"-", "2"}, ["-", "2"]),
        ({"²", "2"}, ["2", "²"]),
    ],
)
def test_labels_have_one_order(labels: set[str], wanted: list[str]) -> None:
    assert in_order(labels) == wanted


def test_whole_numbers_are_names_however_they_are_written(start: Path, tmp_path: Path) -> None:
    labels: list[Any] = [0, "1", 2.0, " 1 ", True, 10]
    train = [{"text": "red", "label": label} for label in labels]
    quick("classification", start, train, tmp_path / "out")
    config: Mapping[str, Any] = json.loads((tmp_path / "out/config.json").read_text())
    assert list(config["id2label"].values()) == ["0", "1", "10", "2", "true"]


def test_names_stay_what_they_are(start: Path, tmp_path: Path) -> None:
    for number, (labels, names) in enumerate(
        [
            (["1.0", "2.0"], ["1.0", "2.0"]),
            ([True, False], ["false", "true"]),
            (["True", "False"], ["False", "True"]),
            ([1.0, 2.0], ["1", "2"]),
        ]
    ):
        train = [{"text": "red", "label": label} for label in labels]
        out = tmp_path / str(number)
        quick("classification", start, train, out)
        assert list(json.loads((out / "config.json").read_text())["id2label"].values()) == names
        assert list(Predictor.from_pretrained(out).task.labels) == names


def test_what_is_prepared_is_checked_before_anything_is_written(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (prepare, finetune):
        arguments: dict[str, Any] = {"dev": None, "teacher": None, "layers": None,
                                     "settings": settings_of(max_length=500)}  # fmt: skip
        if call is prepare:
            arguments |= {"skips": Skips(), "device": None, "say": lambda _: None}
            positional: tuple[Any, ...] = ("classification", start, colour_texts(8))
        else:
            positional = ("classification", start, colour_texts(8), "out")
        with pytest.raises(InputError, match="max_length is 500"):
            call(*positional, **arguments)
    assert not list(tmp_path.iterdir())
