"""Records without labels, for which a teacher's predictions stand."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from torch import Tensor

import minilm
from minilm.cli import main
from minilm.data.records.base import Skips
from minilm.errors import InputError, MinilmError, TrainingError
from minilm.files.arrays import Floats
from minilm.learners.tasks import SoftTargets, TaskLearner, class_weights
from minilm.learners.teacher_predictions import TeacherPredictions
from minilm.recipes.finetuning import finetune
from minilm.recipes.finetuning_settings import FinetuningSettings
from minilm.tasks.batches import NoBatch, TaskData
from minilm.tasks.catalogue import TASKS
from minilm.tasks.task import Sample, Task, collate
from minilm.tokenization.tokenizer import Tokenizer
from minilm.training.distributed import Processes
from minilm.training.observers import Observer
from task_data import (
    RECORDS,
    VOCABULARY,
    Record,
    colour_texts,
    quick,
    save_start,
    settings_of,
    tiny_model,
)

LABELLED, POOL = 6, 9
# what a record of each task has without its label
LABELS = ("label", "labels", "tags", "intent", "answers")
# tasks with one prediction for each example
OF_EXAMPLES = ("classification", "multi-label", "regression", "choice")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def tokenizer(start: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(start)


@pytest.fixture(scope="module")
def teachers(start: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("teachers")
    for task in RECORDS:
        quick(task, start, RECORDS[task](8), place / task)
    return {task: place / task for task in RECORDS}


def without_labels(records: Sequence[Record]) -> list[Record]:
    return [{k: v for k, v in record.items() if k not in LABELS} for record in records]


def made(name: str, tokenizer: Tokenizer, **options: Any) -> tuple[Task[Any], list[Sample]]:
    """A task with samples of which the last have no labels; some have several windows."""
    options |= {"doc_stride": 4} if name == "answering" else {}
    records = RECORDS[name](LABELLED)
    task = TASKS[name].learn(records, 16, options)
    samples = task.samples(task.examples(records, Skips(), labelled=True), tokenizer)
    pool = without_labels(RECORDS[name](POOL, seed=7))
    more = task.samples(task.examples(pool, Skips(), labelled=False), tokenizer)
    return task, [*samples, *task.unlabelled(more)]


def taught(task: Task[Any], **more: Any) -> TaskLearner:
    """A learner with a teacher, both in float64."""
    teacher = tiny_model("bert", task.head, 7, **task.config()).double()
    model = tiny_model("bert", task.head, 1, **task.config()).double()
    return TaskLearner(model, task, teacher=teacher, **more).eval()


def known(samples: Sequence[Sample]) -> np.ndarray[Any, Any]:
    return np.array([n for n, sample in enumerate(samples) if sample.known])


def learned(
    learner: TaskLearner, batches: Sequence[Any], counts: Mapping[str, float] | None = None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The terms of a step that is these micro-batches, and its gradient."""
    if counts is None:
        added: dict[str, float] = {}
        for batch in batches:
            for name, count in learner.counts(batch).items():
                added[name] = added.get(name, 0) + count
        counts = added
    learner.zero_grad()
    terms: dict[str, float] = {}
    for batch in batches:
        found = learner(batch, counts)
        found["loss"].backward()
        for name, value in found.items():
            terms[name] = terms.get(name, 0.0) + float(value.detach())
    gradient = {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}
    return terms, gradient


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)


# --- losses ---


@pytest.mark.parametrize("name", RECORDS)
def test_samples_without_labels_have_no_label_loss(name: str, tokenizer: Tokenizer) -> None:
    """The loss on labels, its gradient and its counts are those of the labelled samples alone."""
    task, samples = made(name, tokenizer)
    learner = taught(task, soft_targets=SoftTargets(weight=0, label_weight=1))
    every = collate(task, samples, np.arange(len(samples)))
    alone = collate(task, samples, known(samples))
    assert len(alone.samples) < len(every.samples)
    terms, gradient = learned(learner, [every])
    wanted, its_gradient = learned(learner, [alone])
    assert terms["labels"] == pytest.approx(wanted["labels"], rel=1e-9)
    assert terms["labels"] > 0.01
    assert terms["soft_targets"] != pytest.approx(wanted["soft_targets"], rel=1e-3)
    assert_same(gradient, its_gradient)
    assert task.counts(every) == task.counts(alone)
    # the control: were the stand-ins labels, the loss would be another
    mistaken, _ = learned(learner, [every.whole()])
    assert mistaken["labels"] != pytest.approx(wanted["labels"], rel=1e-3)


@pytest.mark.parametrize("name", RECORDS)
def test_soft_targets_are_the_mean_over_all_predictions(name: str, tokenizer: Tokenizer) -> None:
    """The same as if all samples had labels: what these say does not matter to the teacher."""
    task, samples = made(name, tokenizer)
    learner = taught(task)
    records = [*RECORDS[name](LABELLED), *RECORDS[name](POOL, seed=7)]
    if name == "tagging":  # without labels all words are learned, with labels those that have one
        assert all(tag for record in records for tag in record["tags"])
    labelled = task.samples(task.examples(records, Skips(), labelled=True), tokenizer)
    numbers = np.arange(len(samples))
    found, _ = learned(learner, [collate(task, samples, numbers)])
    wanted, _ = learned(learner, [collate(task, labelled, numbers)])
    assert found["soft_targets"] == pytest.approx(wanted["soft_targets"], rel=1e-9)
    assert found["soft_targets"] > 0.01


@pytest.mark.parametrize("name", RECORDS)
def test_micro_batches_add_up_even_without_any_label(name: str, tokenizer: Tokenizer) -> None:
    task, samples = made(name, tokenizer)
    learner = taught(task)
    numbers = np.arange(len(samples))
    labelled = known(samples)
    pool = np.setdiff1d(numbers, labelled)
    data = TaskData(task, samples, len(samples), 0)
    whole = [data.batch(0, numbers)]
    parts = [data.batch(0, part) for part in (pool, labelled, pool[:0])]
    assert isinstance(parts[2], NoBatch)
    wanted, its_gradient = learned(learner, whole)
    terms, gradient = learned(learner, parts)
    assert terms == pytest.approx(wanted, rel=1e-6)  # answers are compared in float32
    assert_same(gradient, its_gradient)


def test_a_step_without_any_label_is_learned_from_the_teacher(tokenizer: Tokenizer) -> None:
    for name in RECORDS:
        task, samples = made(name, tokenizer)
        learner = taught(task, soft_targets=SoftTargets(weight=0.3, label_weight=0.7))
        pool = np.setdiff1d(np.arange(len(samples)), known(samples))
        terms, gradient = learned(learner, [collate(task, samples, pool)])
        assert terms["labels"] == 0
        assert terms["loss"] == pytest.approx(0.3 * terms["soft_targets"])
        assert any(bool(value.any()) for value in gradient.values())


# --- the teacher's predictions ---


def predictions_of(task: Task[Any], samples: Sequence[Sample]) -> TeacherPredictions:
    return TeacherPredictions(task, samples)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        *((name, False) for name in RECORDS),
        *((name, True) for name in ("classification", "multi-label", "regression")),
    ],
)
def test_predictions_made_once_are_those_of_the_teacher(
    name: str, windows: bool, tokenizer: Tokenizer
) -> None:
    task, samples = made(name, tokenizer, **({"windows": "mean"} if windows else {}))
    if windows:  # rows of several samples, as of long texts
        samples = [replace(s, rows=s.rows * (1 + n % 3)) for n, s in enumerate(samples)]
    learner = taught(task, predictions=predictions_of(task, samples))
    teacher = learner.teacher
    assert teacher is not None
    calls: list[int] = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    batch = collate(task, samples, np.array([8, 2, 5]))
    found, gradient = learned(learner, [batch])
    assert len(calls) == 1  # all samples are one batch
    learned(learner, [batch])
    assert len(calls) == 1
    learner.predictions = None
    wanted, its_gradient = learned(learner, [batch])
    assert len(calls) == 2
    assert found == pytest.approx(wanted, rel=1e-5)  # they are kept in float32
    for key, value in gradient.items():
        torch.testing.assert_close(value, its_gradient[key], rtol=1e-4, atol=1e-6)


def test_processes_share_the_predictions(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm.learners.teacher_predictions.TOKENS_PER_BATCH", 20)
    task, samples = made("classification", tokenizer)
    teacher = tiny_model("bert", task.head, 7, **task.config())
    shares: dict[int, dict[int, Floats]] = {}

    class Other(Processes):
        def gather(self, arrays: Mapping[int, Floats]) -> dict[int, Floats]:
            shares[self.rank] = dict(arrays)
            return {n: array for share in shares.values() for n, array in share.items()}

    device = torch.device("cpu")
    for rank in (0, 1):
        together = TeacherPredictions(task, samples, Other(rank, 2, device))
        together.make(teacher)
    assert not shares[0].keys() & shares[1].keys()
    assert min(map(len, shares.values())) >= 3
    alone = TeacherPredictions(task, samples)
    alone.make(teacher)
    batch = collate(task, samples, np.arange(len(samples)))
    one, other = alone.logits(batch), together.logits(batch)
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)


def test_an_estimate_keeps_nothing_and_steps_go_on(tokenizer: Tokenizer) -> None:
    for name in RECORDS:
        task, samples = made(name, tokenizer)
        predictions = predictions_of(task, samples)
        learner = taught(task, predictions=predictions)
        assert learner.teacher is not None
        assert predictions.estimate(learner.teacher, 0.001) > 0
        batch = collate(task, samples, np.arange(len(samples)))
        terms, _ = learned(learner, [batch])
        assert terms["soft_targets"] == pytest.approx(0, abs=1e-6)
        assert terms["labels"] > 0
        assert learner.teacher_outputs(batch) == {}


def test_a_teacher_that_is_not_finite_is_blamed(tokenizer: Tokenizer) -> None:
    task, samples = made("classification", tokenizer)
    learner = taught(task, predictions=predictions_of(task, samples))
    assert learner.teacher is not None
    with torch.no_grad():
        learner.teacher.base.layers[0].attention.query.weight.fill_(torch.nan)
    batch = collate(task, samples, np.array([0, 8]))
    learned(learner, [batch])
    cause = learner.cause_of_nonfinite(batch)
    assert cause is not None
    assert "The teacher, a BertForSequenceClassification, has weights that are not finite" in cause


# --- which samples make a step ---


def colours(tokenizer: Tokenizer, labelled: int, pool: int) -> tuple[Task[Any], list[Sample]]:
    records = [{"text": "red", "label": "red" if n else "blue"} for n in range(labelled)]
    task = TASKS["classification"].learn(records, 16, {})
    samples = task.samples(task.examples(records, Skips(), labelled=True), tokenizer)
    return task, [*samples, *task.unlabelled(samples[:1] * pool)]


@settings(deadline=None, max_examples=25)
@given(
    labelled=st.integers(2, 12),
    pool=st.integers(1, 30),
    size=st.integers(1, 20),
    share=st.one_of(st.none(), st.floats(0.05, 0.95)),
)
def test_an_epoch_has_every_sample_and_labels_as_often_as_asked(
    tokenizer: Tokenizer, labelled: int, pool: int, size: int, share: float | None
) -> None:
    task, samples = colours(tokenizer, labelled, pool)
    data = TaskData(task, samples, size, 3, labelled_share=share)
    steps = data.steps(2)
    order = np.concatenate(steps)
    counts = np.bincount(order, minlength=labelled + pool)
    assert (counts[labelled:] == 1).all()
    drawn = counts[:labelled]
    assert drawn.max() - drawn.min() <= (0 if share is None else 1)
    if share is None:
        assert drawn.max() == 1
    else:
        wanted = pool * share / (1 - share)
        assert abs(drawn.sum() - wanted) <= 0.5 or drawn.sum() == 1
    assert data.count_samples() == len(order)
    assert data.count_steps(3) == 3 * len(steps)
    assert data.labelled_share == pytest.approx(drawn.sum() / len(order))
    assert np.concatenate(data.steps(2)).tolist() == order.tolist()


def test_classes_are_balanced_among_labelled_samples_alone(tokenizer: Tokenizer) -> None:
    task, samples = colours(tokenizer, 10, 40)
    data = TaskData(task, samples, 8, 3, "sampling", 0.5)
    counts = np.zeros(50)
    for epoch in range(20):
        counts += np.bincount(np.concatenate(data.steps(epoch)), minlength=50)
    assert (counts[10:] == 20).all()
    assert counts[:10].sum() == 800
    assert counts[0] == pytest.approx(400, abs=80)  # one "blue" against nine "red"
    assert class_weights(task, samples[:10], "weights") is not None


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 0.5])
def test_shares_that_cannot_be(tokenizer: Tokenizer, share: float) -> None:
    task, samples = colours(tokenizer, 4, 0 if share == 0.5 else 3)
    with pytest.raises(InputError, match=f"labelled_share is {share}: expected a part of an epoch"):
        TaskData(task, samples, 4, 0, labelled_share=share)


# --- runs ---


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "run/log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RECORDS)
def test_every_task_learns_from_records_without_labels(
    name: str, start: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    """Where a prediction is of a whole example, the student may have another vocabulary."""
    if name in OF_EXAMPLES:
        start = save_start(tmp_path / "start", "distilbert", vocabulary=VOCABULARY[:-20])
    said: list[str] = []
    pool = without_labels(RECORDS[name](20, seed=5))
    result = finetune(
        name,
        start,
        RECORDS[name](8),
        tmp_path / "out",
        teacher=teachers[name],
        unlabelled=pool,
        dev=RECORDS[name](8, seed=9),
        settings=settings_of(epochs=1, log_every=1),
        say=said.append,
    )
    assert result.finished
    assert result.steps == 4  # 28 samples, 8 a step
    losses = [row for row in rows(tmp_path / "out") if "loss" in row]
    assert all(row["soft_targets"] > 0 for row in losses)
    assert any(row["labels"] > 0 for row in losses)
    assert any(text.startswith("unlabelled: 20 examples") for text in said)
    assert "28.6% of the samples of an epoch have labels" in said
    stored = json.loads((tmp_path / "out/task.json").read_text())
    assert stored["records"]["unlabelled"][0] == "20 examples"
    assert minilm.Predictor.from_pretrained(tmp_path / "out").predict(pool)


@pytest.mark.parametrize("name", ["tagging", "utterances", "answering"])
def test_what_is_predicted_token_by_token_needs_the_same_tokens(
    name: str, teachers: dict[str, Path], tmp_path: Path
) -> None:
    base = save_start(tmp_path / "base", vocabulary=[*VOCABULARY[:-1], "extra"])
    with pytest.raises(InputError, match=f"another vocabulary than the student: for {name} it"):
        quick(name, base, RECORDS[name](8), tmp_path / "out", teacher=teachers[name])
    assert not (tmp_path / "out").exists()


def test_a_student_of_another_vocabulary_learns_what_its_teacher_says(
    teachers: dict[str, Path], tmp_path: Path
) -> None:
    """From few labels and the teacher's predictions, on texts that it has not seen."""
    vocabulary = [*VOCABULARY[:5], *VOCABULARY[5:][::-1]]  # other numbers for the same tokens
    base = save_start(tmp_path / "base", vocabulary=vocabulary)
    good = save_start(tmp_path / "good")
    train = colour_texts(96)
    quick("classification", good, train, tmp_path / "teacher", epochs=6)
    dev = colour_texts(64, seed=50)
    labels = [{"text": colour, "label": colour} for colour in ("red", "blue", "green")]

    def score(name: str, **more: Any) -> float:
        done = finetune(
            "classification",
            base,
            labels,
            tmp_path / name,
            dev=dev,
            settings=settings_of(epochs=8, select="last"),
            **more,
        )
        return float(done.scores["accuracy"])

    taught = score(
        "taught", teacher=tmp_path / "teacher", unlabelled=without_labels(colour_texts(96, seed=3))
    )
    assert taught > 0.9
    assert taught > score("alone") + 0.1


class StopAt(Observer):
    """Asks for the end of a run, as a user would."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, row: Mapping[str, Any]) -> None:
        if row["step"] == self._step:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_run_that_goes_on_is_the_same_to_the_bit(
    start: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    def run(name: str, **more: Any) -> Any:
        return finetune(
            "classification",
            start,
            colour_texts(8),
            tmp_path / name,
            teacher=teachers["classification"],
            unlabelled=without_labels(colour_texts(20, seed=more.pop("pool", 5))),
            settings=settings_of(epochs=2, **more.pop("settings", {})),
            **more,
        )

    assert run("whole").steps == 8
    assert not run("parts", observers=[StopAt(5)]).finished
    assert run("parts").finished
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    with pytest.raises(TrainingError, match=r"data\.unlabelled: "):
        run("whole", pool=6)
    with pytest.raises(TrainingError, match=r"data\.labelled_share: None then, 0\.5 now"):
        run("whole", settings={"labelled_share": 0.5})


def test_a_run_without_unlabelled_records_is_named_as_before(start: Path, tmp_path: Path) -> None:
    quick("classification", start, colour_texts(8), tmp_path)
    stored = json.loads((tmp_path / "run/settings.json").read_text())
    assert stored["data"].keys() == {"samples", "batch_size", "seed", "balance"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "unlabelled needs a teacher, whose predictions stand for the labels"),
        (
            {"teacher": True, "soft_targets": SoftTargets(weight=0)},
            r"soft_targets\.weight is 0, so nothing would be learned from these records",
        ),
        ({"teacher": True, "unlabelled": []}, "There are no unlabelled records that can be used"),
        ({"teacher": True, "unlabelled": ["red"]}, "dictionar"),
        ({"teacher": True, "unlabelled": [{"text": ""}]}, "text"),
        ({"teacher": True, "unlabelled": "many.txt"}, "unlabelled is 'many.txt': expected records"),
        (
            {"teacher": True, "unlabelled": [{"words": "a red thing"}]},
            "There is no 'text'; the record has 'words'",
        ),
    ],
)
def test_unlabelled_records_that_are_refused(
    arguments: dict[str, Any],
    words: str,
    start: Path,
    teachers: dict[str, Path],
    tmp_path: Path,
) -> None:
    teacher = teachers["classification"] if arguments.pop("teacher", False) else None
    given: dict[str, Any] = {"unlabelled": [{"text": "a red thing"}], **arguments}
    soft = given.pop("soft_targets", SoftTargets())
    with pytest.raises(MinilmError, match=words):
        finetune(
            "classification",
            start,
            colour_texts(8),
            tmp_path / "out",
            teacher=teacher,
            settings=FinetuningSettings(epochs=1, soft_targets=soft),
            **given,
        )
    assert not (tmp_path / "out").exists()


# --- the command ---


def command(*arguments: object) -> Result:
    loop = ["--precision", "float32", "--batch-size", 8, "--epochs", 1]
    return CliRunner().invoke(main, [str(each) for each in ("finetune", *arguments, *loop)])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    lines = [f"{row['text']}\t{row['label']}" for row in colour_texts(24)]
    (tmp_path / "few.tsv").write_text("sms\tcolour\n" + "\n".join(lines) + "\n")
    texts = [row["text"] for row in colour_texts(30, seed=5)]
    (tmp_path / "many.txt").write_text("\n".join([*texts[:9], "", *texts[9:]]) + "\n")
    return tmp_path


def test_a_text_file_beside_a_table(files: Path, start: Path, teachers: dict[str, Path]) -> None:
    """Named columns and options of the table say nothing about the text file."""
    wanted = ["--task", "classification", "--model", start, "--teacher", teachers["classification"],
              "--train", files / "few.tsv", "--text-column", "sms", "--label-column", "colour",
              "--delimiter", "\\t", "--unlabelled", files / "many.txt"]  # fmt: skip
    result = command(*wanted, "--output", files / "out", "--hold-out", 0.25)
    assert result.exit_code == 0, result.output
    assert "training: 18 examples" in result.stderr
    assert "unlabelled: 30 examples" in result.stderr
    assert "37.5% of the samples of an epoch have labels" in result.stderr
    assert result.stdout.startswith("accuracy")
    more = command(*wanted, "--output", files / "more", "--labelled-share", 0.5)
    assert more.exit_code == 0, more.output
    assert "50.0% of the samples of an epoch have labels" in more.stderr


def test_a_dry_run_counts_the_teacher_once(
    files: Path, start: Path, teachers: dict[str, Path]
) -> None:
    (files / "many.jsonl").write_text('{"sms": "a red thing", "colour": null}\n' * 20)
    result = command("--task", "classification", "--model", start, "--teacher",
                     teachers["classification"], "--train", files / "few.tsv", "--text-column",
                     "sms", "--label-column", "colour", "--unlabelled", files / "many.jsonl",
                     "--output", files / "out", "--dry-run", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["steps"] == 6  # 44 samples, 8 a step
    assert 0 < found["seconds_of_teacher"] < found["seconds"]
    assert found["hours"] == pytest.approx(found["seconds"] / 3600, abs=1e-3)
    assert not (files / "out").exists()


def test_wrong_use_of_the_command(files: Path, start: Path, teachers: dict[str, Path]) -> None:
    common = ["--task", "classification", "--model", start, "--train", files / "few.tsv",
              "--label-column", "colour", "--output", files / "out"]  # fmt: skip
    refused = command(*common, "--unlabelled", files / "many.txt")
    assert refused.exit_code == 2
    assert "--unlabelled needs a --teacher" in refused.stderr
    taught = [*common, "--teacher", teachers["classification"]]
    refused = command(*taught, "--unlabelled", files / "many.txt", "--soft-targets", 0)
    assert refused.exit_code == 2
    assert "--soft-targets is 0, so nothing would be learned" in refused.stderr
    refused = command(*taught, "--labelled-share", 0.5)
    assert refused.exit_code == 2
    assert "--labelled-share can be used with --unlabelled only" in refused.stderr
    refused = command(*taught, "--unlabelled", files / "nowhere.txt")
    assert refused.exit_code == 2
    assert "nowhere.txt" in refused.stderr
    assert not (files / "out").exists()
