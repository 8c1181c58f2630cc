"""Fine-tuning: a checkpoint and labelled records in, a checkpoint for a task out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minilm.blocks.initialisation import seeded
from minilm.checkpoints.hub import resolve
from minilm.compression.starts import LayerChoice, chosen_layers
from minilm.config import AlbertConfig
from minilm.data.records.base import Skips
from minilm.data.records.frames import as_records
from minilm.errors import CheckpointError, InputError, argument, by_place
from minilm.files.atomic import replace_files
from minilm.files.file_names import EXITS, TASK
from minilm.files.json_file import json_bytes, read_json, without_nan
from minilm.files.progress import counted
from minilm.learners.exits import ExitLearner
from minilm.learners.tasks import TaskLearner, class_weights, freeze, numbers_of, tuned_scores
from minilm.learners.teacher_predictions import TeacherPredictions
from minilm.loader import check_vocabulary
from minilm.models.early_exit import ExitHeads
from minilm.models.pretrained import PretrainedModel
from minilm.recipes.finetuning_settings import FinetuningSettings as FinetuningSettings
from minilm.recipes.finetuning_unlabelled import check_unlabelled, read_unlabelled
from minilm.recipes.hold_out import mean_and_deviation as mean_and_deviation, split_off as split_off
from minilm.recipes.identity import examples_digest, loaded_start, weights_digest
from minilm.recipes.runs import Run
from minilm.recipes.settings import as_json, given_options
from minilm.recipes.task_models import load_teacher, read_config, student_of, with_head
from minilm.tasks.batches import TaskData
from minilm.tasks.catalogue import task_class
from minilm.tasks.exits import check_exits, scores_by_depth
from minilm.tasks.fields import check_dictionaries
from minilm.tasks.layouts import SETTINGS
from minilm.tasks.prediction import TOKENS_PER_BATCH, Predictor
from minilm.tasks.task import Scores, Task, TaskBatch
from minilm.tokenization.tokenizer import Tokenizer
from minilm.training.best import from_json
from minilm.training.distributed import Processes, join
from minilm.training.observers import Observer
from minilm.training.settings import TrainingSettings

Record = Mapping[str, Any]
# longest rows unless told: without padding, a limit above the usual costs nothing
MAX_LENGTH = {"answering": 384, "choice": 256, "tagging": 256, "utterances": 128}
MAX_LENGTH_OF_TEXTS = 256


@dataclass(frozen=True)
class Finetuned:
    """The result of a fine-tuning run.

    Attributes:
        output: the checkpoint.
        finished: False if a signal ended the run early.
        scores: scores of the checkpoint on the dev records, in full precision; {} without dev
            records.
        steps: number of updates done.
        chosen: number of updates after which the run had the weights that were kept.
        exit_code: what a command should exit with.
    """

    output: Path
    finished: bool
    scores: Scores
    steps: int
    chosen: int
    exit_code: int = 0


def finetune(
    task: str,
    model: str | os.PathLike[str] | None,
    train: Sequence[Record],
    output: str | os.PathLike[str],
    *,
    dev: Sequence[Record] | None = None,
    teacher: str | os.PathLike[str] | None = None,
    unlabelled: Sequence[Record] | None = None,
    layers: LayerChoice | None = None,
    settings: FinetuningSettings | None = None,
    skips: Skips | None = None,
    processes: Processes | None = None,
    allow_changes: bool = False,
    observers: Sequence[Observer] = (),
    clean: bool = False,
    command: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Finetuned:
    """Trains a checkpoint for a task.

    The output is a checkpoint in the hub's layout with label names and tokenizer, which
    `minilm.Predictor` and transformers load. An interrupted run resumes when it is called again.

    Args:
        task: "classification", "multi-label", "regression", "tagging", "answering", "choice" or
            "utterances".
        model: checkpoint to start from; None = a student made of layers of the teacher.
        train: records to learn from: dictionaries, as the task's class describes them; also a data
            frame, or a data set of the datasets library, whose class names become label names.
        output: a new directory.
        dev: records to evaluate on; the best evaluation's weights are kept.
        teacher: a checkpoint fine-tuned for the same task; the student also learns its predictions,
            which are made once, before the first step.
        unlabelled: more records to learn from, whose labels are not read: the teacher's predictions
            take their place.
        layers: instead of `model`: which of the teacher's layers to start from, as for
            `minilm.init_student`.
        settings: the settings of the run.
        skips: what to do with bad records; None = they are errors.
        processes: those that take part; None = those that torchrun started, or only this one.
        allow_changes: resume a run that was started with other settings.
        observers: objects whose methods are called at every step, evaluation and snapshot; see
            `minilm.Observer`.
        clean: whether to remove the snapshots and best weights of the finished run, which take
            several times the space of the model; the log and the settings stay.
        command: name and options of the command that started this, as JSON values, for
            settings.json and the card; None = it was started from Python.
        say: receives messages.

    Raises:
        MinilmError: something is wrong with records, checkpoint or settings.

    Example:
        >>> train = [{"text": "win a prize", "label": "spam"}, {"text": "see you", "label": "ham"}]
        >>> minilm.finetune("classification", "bert-base-uncased", train, "spam-filter")
    """
    # joined before anything else: the device decides about the precision
    with join() if processes is None else nullcontext(processes) as joined:
        run, loop, finish = prepare(
            task,
            model,
            train,
            dev=dev,
            teacher=teacher,
            unlabelled=unlabelled,
            layers=layers,
            settings=settings or FinetuningSettings(),
            skips=skips or Skips(),
            device=joined.device,
            processes=joined,
            say=say,
        )
        if command is None:
            command = _from_python(task, model, teacher, layers, settings or FinetuningSettings())
        result = replace(run, command=command, scores=lambda: finish.scores).train(
            loop,
            output,
            processes=joined,
            allow_changes=allow_changes,
            observers=observers,
            clean=clean,
            say=say,
        )
    scores = finish.scores
    if result.finished and not scores:  # it was finished and cleaned before
        stored = read_json(Path(output) / TASK, max_bytes=1_000_000, error=CheckpointError)
        scores = from_json(stored.get("dev", {}))
    return Finetuned(
        Path(output), result.finished, scores, result.step, result.chosen, result.exit_code
    )


def prepare(
    task: str,
    model: str | os.PathLike[str] | None,
    train: Sequence[Record],
    *,
    dev: Sequence[Record] | None,
    teacher: str | os.PathLike[str] | None,
    layers: LayerChoice | None,
    settings: FinetuningSettings,
    skips: Skips,
    device: torch.device,
    say: Callable[[str], None],
    unlabelled: Sequence[Record] | None = None,
    processes: Processes | None = None,
) -> tuple[Run, TrainingSettings, _Finish]:
    """Everything before the first step; see `finetune`."""
    cls = task_class(task)
    if (model is None) == (layers is None):
        raise InputError("Give either a model to start from, or layers of a teacher.")
    if layers is not None and teacher is None:
        raise InputError("layers needs a teacher, whose layers the student starts from.")
    if unlabelled is not None:
        check_unlabelled(teacher, settings)
    start = Path(resolve(model if model is not None else teacher))  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_pretrained(start)
    config = read_config(start)
    if not settings.resize_embeddings:
        check_vocabulary(config, tokenizer)
    limit = config.max_position_embeddings
    length = settings.max_length or min(MAX_LENGTH.get(task, MAX_LENGTH_OF_TEXTS), limit)
    if not 1 <= length <= limit:
        raise InputError(
            f"{argument('max_length')} is {length}: the model takes 1 to {limit} tokens."
        )
    if unknown := [name for name in settings.options if name not in cls.option_names]:
        known = ", ".join(cls.option_names) or "none"
        raise InputError(f"{unknown[0]!r} is not an option of {task}; it has {known}.")
    if dev is None:
        _check_nothing_needs_dev(settings)
    train = as_records(train, "train")
    dev = None if dev is None else as_records(dev, "dev")
    if not len(train):
        raise InputError("There are no records to train on.")
    check_dictionaries(train)
    columns = {name: getattr(settings, name) for name in SETTINGS}
    made = cls.learn(train, length, {**settings.options, **columns})
    if settings.exits:
        check_exits(made)
    examples = made.examples(train, skips, labelled=True)
    if not examples:
        raise InputError(f"There is nothing to train on. {skips.summary()}")
    samples = made.samples(examples, tokenizer)
    # what was read of the records, and what was not: said, and kept in task.json
    said: dict[str, Any] = {"training": [_counts(made, examples, samples), *made.take_notes()]}
    for text in said["training"]:
        say(f"training: {text}")
    labelled = samples
    if unlabelled is not None:
        more, more_samples = read_unlabelled(made, unlabelled, skips, tokenizer)
        said["unlabelled"] = [_counts(made, more, more_samples), *made.take_notes()]
        for text in said["unlabelled"]:
            say(f"unlabelled: {text}")
        examples, samples = [*examples, *more], [*labelled, *more_samples]

    with seeded(settings.seed):
        instructor = None if teacher is None else load_teacher(teacher, made, tokenizer)
        taught_by = None if instructor is None else instructor.model
        network, origin = _network(start, made, taught_by, layers, settings.seed)
        if tokenizer.vocab_size > network.config.vocab_size:
            network.resize_token_embeddings(tokenizer.vocab_size)
        exits = ExitHeads(network) if settings.exits else None
    settings.checkpoint_gradients(network)
    network.to(device)
    freeze(network, embeddings=settings.freeze_embeddings, layers=settings.freeze_layers)
    how: dict[str, Any] = {
        "teacher": taught_by,
        "soft_targets": settings.soft_targets,
        "class_weights": class_weights(made, labelled, settings.balance),
    }
    if instructor is not None:
        read = instructor.samples(examples, samples)
        how["predictions"] = TeacherPredictions(instructor.task, read, processes)
    learner = (
        TaskLearner(network, made, **how)
        if exits is None
        else ExitLearner(network, made, exits.to(device), **how)
    )
    own = defaults(network, task)
    batch_size = settings.batch_size or own["batch_size"]
    data = TaskData(
        made, samples, batch_size, settings.seed, settings.balance, settings.labelled_share
    )
    if unlabelled is not None:
        say(f"{data.labelled_share:.1%} of the samples of an epoch have labels")
    held_out: list[TaskBatch] = []
    dev_examples: list[Any] = []
    if dev is not None:
        dev_examples = made.examples(dev, skips, labelled=True)
        if not dev_examples:
            raise InputError(f"There is nothing to evaluate on. {skips.summary()}")
        dev_samples = made.samples(dev_examples, tokenizer)
        said["dev"] = [_counts(made, dev_examples, dev_samples), *made.take_notes()]
        for text in said["dev"]:
            if text not in said["training"][1:]:
                say(f"dev: {text}")
        _say_strange(made, dev_examples, say)
        _check_select(settings.select, made, dev_examples, tokenizer, network)
        held_out = learner.hold_out(dev_examples, dev_samples, TOKENS_PER_BATCH)
    if skips.count or skips.repaired:
        say(skips.summary())
        said |= {"skipped": dict(skips.reasons), "repaired": skips.repaired}
    description = {
        "task": task,
        "settings": made.settings(),
        "labels": list(made.labels),
        "model": type(network).__name__,
        "config": network.config.to_dict(),
        "start": origin,
        "teacher": None if taught_by is None else weights_digest(taught_by),
        "soft_targets": learner.description,
        "balance": settings.balance,
        "freeze_embeddings": settings.freeze_embeddings,
        "freeze_layers": settings.freeze_layers,
    }
    if exits is not None:
        description["exits"] = {"number": len(exits.classifiers), "seed": settings.seed}
    evaluation = {"dev": examples_digest(dev_examples)} if dev_examples else {}
    finish = _Finish(made, network, tokenizer, dev_examples, said, exits)
    run = Run(
        *(learner, data, held_out, network, tokenizer, description, evaluation, finish),
        notes=[
            f"{part}: {note}"
            for part in ("training", "unlabelled", "dev")
            for note in said.get(part, ())
        ],
    )
    return run, _loop(settings, own, data, made, network, bool(held_out)), finish


def _from_python(
    task: str,
    model: str | os.PathLike[str] | None,
    teacher: str | os.PathLike[str] | None,
    layers: LayerChoice | None,
    settings: FinetuningSettings,
) -> dict[str, Any]:
    """What was given to `finetune`, by the names of the command's options; not the records."""
    given: dict[str, Any] = {"task": task, "model": model, "teacher": teacher, "layers": layers}
    given |= {name: getattr(settings, name) for name in SETTINGS}
    given |= settings.options
    if teacher is not None:
        soft = settings.soft_targets
        given |= {
            "temperature": soft.temperature,
            "soft_targets": soft.weight,
            "labels": soft.label_weight,
        }
    options = {
        name.replace("_", "-"): as_json(value) for name, value in given.items() if value is not None
    }
    return {"name": "finetune", "options": {**options, **given_options(settings)}}


def _network(
    start: Path,
    task: Task[Any],
    teacher: PretrainedModel | None,
    layers: LayerChoice | None,
    seed: int,
) -> tuple[PretrainedModel, dict[str, Any]]:
    """What is trained, and what identifies its initial weights."""
    if layers is None:
        network = with_head(start, task)
        return network, loaded_start(network, seed)
    assert teacher is not None
    chosen = chosen_layers(layers, len(list(teacher.base.virtual_layers())))
    return student_of(teacher, layers, task), {"layers": list(chosen), "seed": seed}


def defaults(model: PretrainedModel, task: str) -> dict[str, Any]:
    """Learning rate, batch size, epochs and warm-up that suit a model and a task.

    References: Devlin et al. 2019, appendix A.3, and 2e-5 to 5e-5 for 3 epochs; Lan et al. 2020,
    table 14 (ALBERT wants smaller steps); Turc et al. 2019, section 4: compact models take larger
    ones, 1e-4 to 3e-4.
    """
    albert = isinstance(model.config, AlbertConfig)
    rate = 2e-5 if albert else 5e-5
    if model.config.hidden_size < 512:
        rate = 1e-4
    if task in ("answering", "choice"):
        return {"learning_rate": rate, "batch_size": 32, "epochs": 2, "warmup": 0.1}
    if task in ("tagging", "utterances"):
        return {"learning_rate": rate, "batch_size": 16, "epochs": 4, "warmup": 0.1}
    return {"learning_rate": rate, "batch_size": 32, "epochs": 3, "warmup": 0.1}


class _Finish:
    """Writes task.json: what was read, thresholds that suit the dev records, scores on them.

    With exits, it also writes their weights beside the model's.
    """

    def __init__(
        self,
        task: Task[Any],
        model: PretrainedModel,
        tokenizer: Tokenizer,
        dev: Sequence[Any],
        said: Mapping[str, Any],
        exits: ExitHeads | None = None,
    ) -> None:
        self._task, self._model, self._tokenizer = task, model, tokenizer
        self._dev, self._said, self._exits = dev, dict(said), exits
        self.scores: Scores = {}

    def __call__(self, directory: Path) -> None:
        task = self._task
        if self._dev:
            samples = task.samples(self._dev, self._tokenizer)
            outputs = Predictor(self._model, self._tokenizer, task).outputs(samples)
            task, scores = tuned_scores(task, self._dev, samples, outputs)
            self.scores = {**scores, "examples": len(self._dev)}
            if unknown := task.unknown(self._dev).total():
                self.scores["unknown_labels"] = unknown
        dev = without_nan(numbers_of(self.scores))
        known = {**task.settings(), "records": self._said, "dev": dev}
        writers: dict[Path, Callable[[Path], object]] = {}
        if self._exits is not None:
            known["exits"] = self._describe(self._exits, task)
            writers[directory / EXITS] = self._exits.write
        content = json_bytes({"task": task.name, **known})
        replace_files({**writers, directory / TASK: lambda path: path.write_bytes(content)})

    def _describe(self, exits: ExitHeads, task: Task[Any]) -> dict[str, Any]:
        """What task.json says of the exits: how many applications, the score after each of them."""
        found: dict[str, Any] = {"applications": len(exits.classifiers) + 1}
        if self._dev:
            samples = task.samples(self._dev, self._tokenizer)
            exits.eval()
            scores = scores_by_depth(self._model, exits, task, self._dev, samples, TOKENS_PER_BATCH)
            found["dev"] = {"metric": task.metric, "by_depth": without_nan(scores)}
        return found


def _check_nothing_needs_dev(settings: FinetuningSettings) -> None:
    """Raise InputError if a setting needs dev records and there are none."""
    asked = {
        "select": settings.select not in (None, "last"),
        "patience": settings.patience is not None,
        "evaluate_every": settings.evaluate_every,
        "tune_thresholds": settings.options.get("tune_thresholds"),
    }
    if name := next((name for name, wanted in asked.items() if wanted), None):
        raise InputError(
            by_place(
                python=f"{name} needs an evaluation: give dev records.",
                command=f"--{name.replace('_', '-')} needs an evaluation: give --dev or "
                "--hold-out.",
            )
        )


def _check_select(
    name: str | None,
    task: Task[Any],
    examples: Sequence[Any],
    tokenizer: Tokenizer,
    model: PretrainedModel,
) -> None:
    """Raise InputError unless the task gives a score of this name, before anything is trained."""
    if name in (None, "last", "loss", task.metric):
        return
    few = examples[:64]
    samples = task.samples(few, tokenizer)
    outputs = Predictor(model, tokenizer, task).outputs(samples)
    known = [*numbers_of(task.scores(few, task.decode(few, samples, outputs))), "loss"]
    if name not in known:
        raise InputError(
            f"select is {name!r}: expected last or a score of {task.name}: {', '.join(known)}."
        )


def _counts(task: Task[Any], examples: Sequence[Any], samples: Sequence[Any]) -> str:
    """How many examples there are, and how many of them lost tokens."""
    text = counted(len(examples), "example")
    if len(samples) != len(examples):
        text += f" in {counted(len(samples), 'window')}"
    if cut := task.truncated(samples):
        text += f", {cut:,} of them cut at {task.limit} tokens"
    return text


def _say_strange(task: Task[Any], dev: Sequence[Any], say: Callable[[str], None]) -> None:
    """How many labels of dev records training does not have."""
    if unknown := task.unknown(dev):
        some = ", ".join(list(unknown)[:8]) + (", ..." if len(unknown) > 8 else "")
        say(
            f"dev: {counted(unknown.total(), 'label')} that training does not have ({some}), "
            "counted as wrong"
        )


def _loop(
    settings: FinetuningSettings,
    own: Mapping[str, Any],
    data: TaskData,
    task: Task[Any],
    model: PretrainedModel,
    has_dev: bool,
) -> TrainingSettings:
    epochs = settings.epochs or own["epochs"]
    steps = data.count_steps(epochs)
    an_epoch = data.count_steps(1)
    warmup = own["warmup"] if settings.warmup is None else settings.warmup
    if not 0 <= warmup < 1:
        raise InputError(f"warmup is {warmup}: expected a share of all steps, from 0 to below 1.")
    select = settings.select or task.metric
    rate = own["learning_rate"] if settings.learning_rate is None else settings.learning_rate
    every, snapshot_every = settings.evaluate_every, settings.snapshot_every
    return TrainingSettings(
        **{
            **settings.same_in_the_loop(),
            "steps": steps,
            "learning_rate": rate,
            "warmup": round(warmup * steps),
            "evaluate_every": max(an_epoch // 2, 1) if every is None else every,
            "snapshot_every": an_epoch if snapshot_every is None else snapshot_every,
            "precision": settings.precision_on(model.device),
            "select": select if has_dev and select != "last" else None,
            "patience": settings.patience if has_dev else None,
        }
    )
