"""Fine-tuning from records to a checkpoint, for every task."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import transformers
from safetensors.torch import load_file

import minilm
from minilm.data.records.base import Records, Skips
from minilm.errors import CheckpointError, InputError, TrainingError
from minilm.learners.tasks import freeze
from minilm.recipes.finetuning import (
    Finetuned,
    FinetuningSettings,
    mean_and_deviation,
    prepare,
    split_off,
)
from minilm.tasks.prediction import CHUNK, Predictor
from minilm.tasks.task import Scores
from minilm.training.updates import Updater
from task_data import (
    ARCHITECTURES,
    RECORDS,
    Record,
    colour_pairs,
    colour_texts,
    quick,
    save_start,
    tagged_words,
    tiny_model,
)

TRAINED = [*RECORDS, "pairs"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, start: Path) -> Callable[[str], Any]:
    """The run of a task, made once, and the records that it was evaluated on."""
    made: dict[str, tuple[Finetuned, list[Record]]] = {}

    def get(name: str) -> tuple[Finetuned, list[Record]]:
        if name not in made:
            make = colour_pairs if name == "pairs" else RECORDS[name]
            dev = make(40, seed=100)
            task = "classification" if name == "pairs" else name
            output = tmp_path_factory.mktemp(name) / "model"
            epochs = 12 if name == "pairs" else 6
            made[name] = quick(task, start, make(160), output, dev=dev, epochs=epochs), dev
        return made[name]

    return get


def assert_same_scores(one: Scores, other: Scores) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, float):
            assert value == pytest.approx(other[name], abs=1e-6), name
        else:
            assert value == other[name], name


def f1(hits: int, found: int, gold: int) -> float:
    return 2 * hits / (found + gold)


def by_hand(task: str, dev: list[Record], found: list[dict[str, Any]]) -> tuple[str, float]:
    """The score by which the task chooses, from predictions alone."""
    pairs = list(zip(dev, found, strict=True))
    if task == "multi-label":
        golds = [(n, label) for n, row in enumerate(dev) for label in row["labels"]]
        said = [(n, label) for n, row in enumerate(found) for label in row["labels"]]
        return "micro_f1", f1(len(set(golds) & set(said)), len(said), len(golds))
    if task == "regression":
        columns = zip(*((row["label"], p["value"]) for row, p in pairs), strict=True)
        return "spearman", float(scipy.stats.spearmanr(*columns).statistic)
    if task == "tagging":
        words = [
            (n, word, tag[2:])
            for n, row in enumerate(dev)
            for word, tag in enumerate(row["tags"])
            if tag != "O"
        ]
        entities = [
            (n, len(" ".join(row["tokens"])[: entity["start"]].split()), entity["type"])
            for n, row in enumerate(found)
            for entity in row["entities"]
        ]
        hits = len(set(words) & set(entities))
        return "f1", f1(hits, len(entities), len(words))
    if task == "answering":
        right = [p["answer"] == (row["answers"] or [{"text": ""}])[0]["text"] for row, p in pairs]
        return "exact", 100 * sum(right) / len(right)
    if task == "utterances":
        right = [(row["intent"], row["tags"]) == (p["intent"], p["tags"]) for row, p in pairs]
        return "both_right", sum(right) / len(right)
    return "accuracy", sum(row["label"] == p["label"] for row, p in pairs) / len(pairs)


FLOORS = {"answering": 90.0, "multi-label": 0.7}


@pytest.mark.parametrize("name", TRAINED)
def test_a_task_is_learned_and_scored_and_saved(name: str, trained: Callable[[str], Any]) -> None:
    run, dev = trained(name)
    assert (run.finished, run.exit_code) == (True, 0)
    assert 0 < run.chosen <= run.steps == (240 if name == "pairs" else 120)
    predictor = Predictor.from_pretrained(run.output)
    again = predictor.evaluate(dev)
    assert again.pop("truncated") == 0
    assert_same_scores(run.scores, again)
    task = predictor.task.name
    metric, value = by_hand(task, dev, predictor.predict(dev))
    assert run.scores[metric] == pytest.approx(value, abs=1e-6)
    assert value > FLOORS.get(name, 0.85)
    assert run.scores["examples"] == 40

    stored = json.loads((run.output / "task.json").read_text())
    assert stored["task"] == task
    numbers = {n: v for n, v in run.scores.items() if isinstance(v, int | float)}
    assert stored["dev"] == pytest.approx(numbers)
    config = json.loads((run.output / "config.json").read_text())
    labels = {
        "classification": ["blue", "green", "red"],
        "multi-label": ["blue", "green", "red"],
        "regression": ["value"],
        "tagging": ["O", "B-COL", "I-COL", "B-LOC", "I-LOC"],
        "utterances": [
            *("O", "B-COL", "I-COL", "B-LOC", "I-LOC"),
            *("intent=ask", "intent=other", "intent=tell"),
        ],
    }
    if task in labels:
        assert list(config["id2label"].values()) == labels[task]
        assert [config["label2id"][label] for label in labels[task]] == list(
            range(len(labels[task]))
        )


@pytest.mark.parametrize("name", TRAINED)
def test_predictions_need_no_labels_and_do_not_depend_on_their_neighbours(
    name: str, trained: Callable[[str], Any]
) -> None:
    run, dev = trained(name)
    predictor = Predictor.from_pretrained(run.output)
    hidden = ("label", "labels", "tags", "intent", "answers")
    bare = [{k: v for k, v in row.items() if k not in hidden} for row in dev[:9]]
    found = predictor.predict(iter(bare))
    json.dumps(found)  # nothing but JSON
    for row, together in zip(bare, found, strict=True):
        alone = predictor.predict([row])[0]
        assert alone.keys() == together.keys()
        for key, value in alone.items():
            if isinstance(value, float):
                assert value == pytest.approx(together[key], abs=1e-4)
            elif isinstance(value, str | int):
                assert value == together[key]
    each = list(predictor.predict_each(bare))
    assert [record for record, _ in each] == bare
    assert [set(prediction) for _, prediction in each] == [set(p) for p in found]


def test_calling_a_predictor_with_texts(trained: Callable[[str], Any]) -> None:
    colour = Predictor.from_pretrained(trained("classification")[0].output)
    assert colour("here is a green thing")["label"] == "green"
    pairs = Predictor.from_pretrained(trained("pairs")[0].output)
    assert pairs("the thing is red", "blue thing is here")["label"] == "blue"
    tags = Predictor.from_pretrained(trained("tagging")[0].output)
    found = tags("the thing in   Paris and red")
    assert [(e["text"], e["start"], e["end"]) for e in found["entities"]] == [
        ("Paris", 15, 20),
        ("red", 25, 28),
    ]
    answers = Predictor.from_pretrained(trained("answering")[0].output)
    found = answers("it is in", "the thing is in   Rome and it is")
    assert (found["answer"], found["start"], found["end"]) == ("Rome", 18, 22)
    assert "id" not in found
    choice = Predictor.from_pretrained(trained("choice")[0].output)
    with pytest.raises(InputError, match=r"use predict\(\[\{...\}\]\)"):
        choice("a")


def test_answers_keep_the_ids_of_their_questions(trained: Callable[[str], Any]) -> None:
    run, dev = trained("answering")
    predictor = Predictor.from_pretrained(run.output)
    rows = [{**dev[n], "id": identity} for n, identity in enumerate(["x", 7, "7"])]
    assert [p["id"] for p in predictor.predict(rows)] == ["x", 7, "7"]
    assert [p["id"] for _, p in predictor.predict_each(rows)] == ["x", 7, "7"]


def test_the_threshold_for_no_answer_is_that_of_the_dev_records(
    trained: Callable[[str], Any],
) -> None:
    run, dev = trained("answering")
    task = Predictor.from_pretrained(run.output).task
    predictor = Predictor.from_pretrained(run.output)
    predictor.task = type(task).restore((), {**task.settings(), "null_threshold": 0.0})
    examples = predictor.task.examples(dev, Skips(), labelled=True)
    tuned = predictor.task.tune(examples, predictor.predict(dev))
    stored = json.loads((run.output / "task.json").read_text())
    assert stored["null_threshold"] == pytest.approx(tuned.settings()["null_threshold"], abs=1e-3)
    assert stored["null_threshold"] != 0
    assert stored["unanswerable"] is True


def test_more_records_than_are_read_at_once(trained: Callable[[str], Any]) -> None:
    predictor = Predictor.from_pretrained(trained("classification")[0].output)
    texts = colour_texts(CHUNK + 3, seed=5)
    found = predictor.predict(texts)
    assert len(found) == CHUNK + 3
    right = [p["label"] == row["label"] for p, row in zip(found, texts, strict=True)]
    assert np.mean(right[-3:]) == 1
    assert np.mean(right) > 0.9


# --- what transformers makes of the output ---

HEADS: Mapping[str, Any] = {
    "classification": transformers.AutoModelForSequenceClassification,
    "multi-label": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "tagging": transformers.AutoModelForTokenClassification,
    "answering": transformers.AutoModelForQuestionAnswering,
    "choice": transformers.AutoModelForMultipleChoice,
    "utterances": transformers.AutoModelForTokenClassification,
}


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each architecture, with a head of three classes that has to go."""
    place = tmp_path_factory.mktemp("starts")
    return {
        name: save_start(place / name, name, "ForSequenceClassification", num_labels=3)
        for name in ARCHITECTURES
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("task", RECORDS)
def test_transformers_loads_the_output(
    task: str, architecture: str, starts: dict[str, Path], tmp_path: Path
) -> None:
    quick(task, starts[architecture], RECORDS[task](8), tmp_path / "out")
    ours = minilm.load(tmp_path / "out")
    oracle = HEADS[task].from_pretrained(tmp_path / "out", local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    batch = dict(tokenizer(["the red thing", "is it here"], ["in paris", "a"], padding=True,
                           return_tensors="pt"))  # fmt: skip
    if task == "choice":
        batch = {name: value[None] for name, value in batch.items()}
    if architecture == "distilbert":
        batch.pop("token_type_ids", None)
    with torch.no_grad():
        found, wanted = ours(**batch), oracle(**batch)
    attended = batch["attention_mask"].bool()
    exact: Any = {"rtol": 0, "atol": 1e-5}
    if task == "answering":
        for side in ("start_logits", "end_logits"):
            mine, theirs = getattr(found, side), getattr(wanted, side)
            torch.testing.assert_close(mine[attended], theirs[attended], **exact)
    elif task in ("tagging", "utterances"):
        torch.testing.assert_close(found.logits[attended], wanted.logits[attended], **exact)
    else:
        torch.testing.assert_close(found.logits, wanted.logits, **exact)
        assert wanted.logits.abs().max() > 1e-3
    if task in ("classification", "multi-label", "regression"):
        assert oracle.config.problem_type == ours.config.problem_type is not None
    names = [oracle.config.id2label[n] for n in range(oracle.config.num_labels)]
    assert names == [ours.config.id2label[n] for n in range(ours.config.num_labels)]


def test_a_checkpoint_from_elsewhere_says_its_task_by_head_and_labels(tmp_path: Path) -> None:
    names = {
        "ForSequenceClassification": "classification",
        "ForTokenClassification": "tagging",
        "ForQuestionAnswering": "answering",
        "ForMultipleChoice": "choice",
    }
    for head, task in names.items():
        directory = save_start(tmp_path / head, "bert", head)
        assert Predictor.from_pretrained(directory).task.name == task
    more: dict[str, dict[str, Any]] = {
        "multi-label": {"problem_type": "multi_label_classification"},
        "regression": {"num_labels": 1},
    }
    for task, changes in more.items():
        directory = save_start(tmp_path / task, "bert", "ForSequenceClassification", **changes)
        predictor = Predictor.from_pretrained(directory)
        assert predictor.task.name == task
        assert predictor.task.max_length == 64  # the positions, fewer than the usual limit
    labels = {0: "O", 1: "intent=a", 2: "intent=b"}
    directory = save_start(tmp_path / "u", "bert", "ForTokenClassification", id2label=labels)
    assert Predictor.from_pretrained(directory)("a thing").keys() == {
        *("intent", "confidence", "tokens", "tags")
    }


# --- runs: stopping, choosing, going on ---


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(directory / "model.safetensors"))


def test_a_stopped_run_goes_on(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"dev": tagged_words(10, seed=9), "epochs": 3}
    train = tagged_words(40)
    whole = quick("tagging", start, train, tmp_path / "whole", **arguments)
    evaluate, calls = Updater.evaluate, []

    def stopping(self: Updater, *arguments: Any) -> dict[str, float] | None:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *arguments)

    monkeypatch.setattr(Updater, "evaluate", stopping)
    stopped = quick("tagging", start, train, tmp_path / "out", **arguments)
    assert (stopped.finished, stopped.exit_code, stopped.scores) == (False, 143, {})
    assert stopped.steps < 15
    assert not (tmp_path / "out/config.json").exists()
    said: list[str] = []
    again = quick("tagging", start, train, tmp_path / "out", say=said.append, **arguments)
    assert any(text.startswith("going on after step") for text in said)
    assert (again.finished, again.steps, again.chosen) == (True, 15, whole.chosen)
    assert_same_scores(again.scores, whole.scores)
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "out")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(TrainingError, match="the training records differ"):
        quick("tagging", start, tagged_words(40, seed=3), tmp_path / "out", **arguments)


def test_the_chosen_weights_are_those_of_the_best_evaluation(start: Path, tmp_path: Path) -> None:
    train, dev = colour_texts(32), colour_texts(16, seed=7)
    run = quick("classification", start, train, tmp_path / "a", dev=dev, epochs=8, select="loss",
                evaluate_every=2, learning_rate=0.05)  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "a/run/log.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["held_out"]["loss"] for row in rows if "held_out" in row}
    assert len(losses) == 16
    assert run.chosen == min(losses, key=lambda step: losses[step]) < run.steps == 32
    last = quick("classification", start, train, tmp_path / "b", dev=dev, epochs=8, select="last",
                 evaluate_every=2, learning_rate=0.05)  # fmt: skip
    assert last.chosen == last.steps == 32
    assert any(
        not torch.equal(value, weights_of(tmp_path / "b")[name])
        for name, value in weights_of(tmp_path / "a").items()
    )


def test_patience_ends_a_run_early(start: Path, tmp_path: Path) -> None:
    train = colour_texts(32)
    run = quick("classification", start, train, tmp_path / "out", dev=train[:8], epochs=20,
                evaluate_every=1, patience=2, learning_rate=1e-60)  # fmt: skip
    assert (run.steps, run.chosen, run.finished) == (3, 1, True)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    start: Path, tmp_path: Path
) -> None:
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        quick("classification", start, colour_texts(16), tmp_path / name, seed=seed)
        made[name] = weights_of(tmp_path / name)
    assert all(torch.equal(made["a"][key], made["b"][key]) for key in made["a"])
    assert not torch.equal(made["a"]["classifier.weight"], made["c"]["classifier.weight"])
    for name, seed in (("d", 1), ("e", 2)):  # the fresh head alone is another one
        quick("classification", start, colour_texts(16), tmp_path / name, seed=seed,
              learning_rate=1e-60)  # fmt: skip
        made[name] = weights_of(tmp_path / name)
    differing = {key for key in made["d"] if not torch.equal(made["d"][key], made["e"][key])}
    assert "classifier.weight" in differing
    assert not differing & weights_of(start).keys()


# --- parts that stay as they are ---


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_frozen_parts_are_not_trained_and_the_others_are(
    architecture: str, embeddings: bool, layers: int, starts: dict[str, Path], tmp_path: Path
) -> None:
    if architecture == "albert" and layers == 1:
        with pytest.raises(InputError, match="share weights with those above: freeze none or all"):
            freeze(tiny_model("albert"), layers=1)
        return
    quick("classification", starts[architecture], colour_texts(16), tmp_path / "out",
          freeze_embeddings=embeddings, freeze_layers=layers)  # fmt: skip
    before = weights_of(starts[architecture])
    after = weights_of(tmp_path / "out")
    frozen = {
        name for name in before.keys() & after.keys() if torch.equal(before[name], after[name])
    }
    mapped = {name for name in after if ".embedding_hidden_mapping_in." in name}
    tables = {name for name in after if ".embeddings." in name} | mapped
    if architecture == "albert":
        below = {name for name in after if ".albert_layer_groups." in name} if layers else set()
    else:
        below = {name for name in after for n in range(layers) if f".layer.{n}." in name}
    assert tables
    assert frozen == (tables if embeddings else set()) | below


def test_layers_that_are_not_there_cannot_be_frozen() -> None:
    with pytest.raises(InputError, match="The model has 2 layers: 3 cannot be frozen"):
        freeze(tiny_model("bert"), layers=3)
    with pytest.raises(InputError, match="-1 cannot"):
        freeze(tiny_model("bert"), layers=-1)


# --- a teacher ---


def test_layers_of_a_teacher_make_a_student(starts: dict[str, Path], tmp_path: Path) -> None:
    train = colour_texts(16)
    quick("classification", starts["bert"], train, tmp_path / "teacher")
    run = quick("classification", None, train, tmp_path / "student", teacher=tmp_path / "teacher",
                layers=[1], dev=train[:8], learning_rate=1e-60)  # fmt: skip
    assert run.steps == 2
    student: Any = minilm.load(tmp_path / "student")
    assert type(student).__name__ == "DistilBertForSequenceClassification"
    assert student.config.num_hidden_layers == 1
    teacher: Any = minilm.load(tmp_path / "teacher")
    wanted = teacher.base.layers[1].feed_forward.state_dict()
    assert all(
        torch.equal(value, wanted[name])
        for name, value in student.base.layers[0].feed_forward.state_dict().items()
    )
    rows = [
        json.loads(line) for line in (tmp_path / "student/run/log.jsonl").read_text().splitlines()
    ]
    losses = next(row for row in rows if "loss" in row)
    assert losses["loss"] == pytest.approx((losses["labels"] + losses["soft_targets"]) / 2)


@pytest.mark.parametrize("task", RECORDS)
def test_every_task_can_have_a_teacher(task: str, starts: dict[str, Path], tmp_path: Path) -> None:
    train = RECORDS[task](8)
    quick(task, starts["bert"], train, tmp_path / "teacher")
    run = quick(task, starts["distilbert"], train, tmp_path / "out", teacher=tmp_path / "teacher",
                loop={"log_every": 1})  # fmt: skip
    assert run.finished
    row = json.loads((tmp_path / "out/run/log.jsonl").read_text().splitlines()[0])
    assert row["soft_targets"] > 0


# --- records and figures ---


def test_split_off_takes_records_once_and_always_the_same() -> None:
    records = [{"text": str(number)} for number in range(50)]
    rest, taken = split_off(records, 0.2, seed=3)
    assert (len(rest), len(taken)) == (40, 10)
    assert sorted([*rest, *taken], key=lambda row: int(row["text"])) == records
    for part in (rest, taken):
        assert list(part) == sorted(part, key=lambda row: int(row["text"]))
    assert split_off(records, 0.2, seed=3) == (rest, taken)
    assert split_off(records, 0.2, seed=4) != (rest, taken)
    named = Records(list(records), [f"line {n + 1}" for n in range(50)], "a.tsv")
    again, there = split_off(named, 0.2, seed=3)
    assert (list(again), list(there)) == (rest, taken)
    assert isinstance(there, Records)
    assert there.where(0) == f"a.tsv, line {int(taken[0]['text']) + 1}"
    assert [len(part) for part in split_off(records[:2], 0.01, seed=0)] == [1, 1]
    assert [len(part) for part in split_off(records[:3], 0.99, seed=0)] == [1, 2]


@pytest.mark.parametrize(
    ("share", "count"), [(0, 5), (1, 5), (-0.1, 5), (float("nan"), 5), (0.5, 1)]
)
def test_shares_that_cannot_be_split_off(share: float, count: int) -> None:
    with pytest.raises(InputError, match="cannot be held out: expected a number between 0 and 1"):
        split_off([{"text": "a"}] * count, share, seed=0)


def test_mean_and_deviation() -> None:
    runs = [
        {"accuracy": 0.5, "examples": 4, "only": 1.0, "classes": {"a": {}}},
        {"accuracy": 0.7, "examples": 4, "classes": {"a": {}}},
        {"accuracy": 0.9, "examples": 4, "classes": {"a": {}}},
    ]
    found = mean_and_deviation(runs)
    assert found.keys() == {"accuracy", "examples"}
    assert found["accuracy"] == pytest.approx(
        {"mean": 0.7, "deviation": 0.2, "lowest": 0.5, "highest": 0.9}
    )
    assert found["examples"]["deviation"] == 0
    assert mean_and_deviation(runs[:1])["only"] == {
        "mean": 1.0, "deviation": 0.0, "lowest": 1.0, "highest": 1.0
    }  # fmt: skip


def test_what_is_not_said_suits_model_and_task(starts: dict[str, Path]) -> None:
    def loop(task: str, architecture: str, **settings: Any) -> Any:
        return prepare(task, starts[architecture], RECORDS[task](64), dev=None, teacher=None,
                       layers=None, settings=FinetuningSettings(**settings), skips=Skips(),
                       device=None, say=lambda _: None)  # fmt: skip

    recipe, settings, _ = loop("classification", "bert")
    assert (settings.steps, settings.learning_rate, settings.warmup) == (6, 1e-4, 1)
    assert (settings.select, settings.snapshot_every) == (None, 2)
    assert recipe.description["labels"] == ["blue", "green", "red"]
    assert loop("tagging", "albert")[1].steps == 16
    assert loop("choice", "bert")[1].steps == 4
    changed = loop("classification", "bert", epochs=2, batch_size=10, warmup=0.5,
                   loop={"weight_decay": 0.2})[1]  # fmt: skip
    assert (changed.steps, changed.warmup, changed.weight_decay) == (14, 7, 0.2)
    with pytest.raises(InputError, match="warmup is 1"):
        loop("classification", "bert", warmup=1.0)


def test_a_predictor_takes_only_checkpoints_with_a_head(start: Path) -> None:
    with pytest.raises(CheckpointError, match=r"BertModel, with no head.*minilm finetune --help"):
        Predictor.from_pretrained(start)
