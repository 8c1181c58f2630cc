"""The training runs: a model and a corpus in, a directory with a trained checkpoint out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minilm.errors import InputError, TrainingError, argument
from minilm.files.file_names import COMPANIONS, CONFIG, INDEX, WEIGHTS
from minilm.learners.cached_teacher import CachedTeacher, kept
from minilm.learners.distillation import DistillationLearner, SharedEntries, Student
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.learners.pairs import PretrainingLearner
from minilm.loader import check_vocabulary
from minilm.losses.distillation import DistillationLoss
from minilm.models.int8 import is_int8
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM, ForPreTraining
from minilm.recipes.card import Card, run_card, write_card
from minilm.recipes.corpus import Corpus, CorpusSettings, open_corpus
from minilm.recipes.identity import frozen_parameters, weights_digest
from minilm.recipes.teacher_cache import TeacherCacheSettings, open_teacher_cache
from minilm.tokenization.tokenizer import Tokenizer
from minilm.training.distributed import Processes, join
from minilm.training.dry_run import DryRun, dry_run
from minilm.training.learner import Learner, TrainingBatch, TrainingData
from minilm.training.log import LOG
from minilm.training.loop import Result, train
from minilm.training.observers import Observer
from minilm.training.record import SETTINGS
from minilm.training.saving import SNAPSHOTS
from minilm.training.settings import TrainingSettings

RECORD = LOG.with_name(SETTINGS)  # in the directory of a run


@dataclass(frozen=True)
class Run:
    """Everything a run needs except the settings of the loop.

    Attributes:
        learner: what is trained, and how its loss is made.
        data: what it is trained on.
        held_out: batches to evaluate on.
        model: the part of the learner that is the result.
        tokenizer: the model's tokenizer.
        description: JSON values that identify what is trained on what.
        evaluation: JSON values that identify what it is evaluated on.
        also: writes further files of the checkpoint into its directory.
        targets: the cached outputs of a teacher; None = none.
        command: name and options of the command that does the same, as JSON values; None = there
            is no such command. settings.json keeps them, `--config` reads them, and the model's
            card shows them.
        scores: computes the scores of the finished model; None = take those of the last evaluation.
        notes: what the card says of the data, a sentence each.
    """

    learner: Learner
    data: TrainingData
    held_out: Sequence[TrainingBatch]
    model: PretrainedModel
    tokenizer: Tokenizer
    description: dict[str, Any]
    evaluation: dict[str, Any] = field(default_factory=dict)
    also: Callable[[Path], None] = lambda _: None
    targets: CachedTeacher | None = None
    command: Mapping[str, Any] | None = None
    scores: Callable[[], Mapping[str, Any]] | None = None
    notes: Sequence[str] = ()

    def train(
        self,
        settings: TrainingSettings,
        output: str | os.PathLike[str],
        *,
        processes: Processes | None = None,
        allow_changes: bool = False,
        observers: Sequence[Observer] = (),
        clean: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> Result:
        """Starts or resumes training; see `minilm.training.loop.train`.

        At the end `output` is a checkpoint in the hub's layout, tokenizer included.

        Args:
            settings: the settings of the loop.
            output: directory of the run and of the checkpoint.
            processes: those that take part; None = those that torchrun started, or only this one.
            allow_changes: resume a run that was started with other settings.
            observers: objects whose methods are called at every step, evaluation and snapshot; see
                `minilm.Observer`.
            clean: whether to remove the snapshots and best weights of the finished run, which take
                several times the space of the model; the log and the settings stay.
            say: receives messages.

        Raises:
            InputError: there is nothing to train.
            TrainingError: `output` holds a model that is not from this run.
        """
        if not any(parameter.requires_grad for parameter in self.learner.parameters()):
            if is_int8(self.learner):
                raise InputError(
                    "The model is quantised to 8 bits and cannot be trained: give the float model "
                    "that it was made from, or one that minilm convert --dtype float32 makes of it."
                )
            raise InputError("All parameters are frozen: there is nothing to train.")
        output = Path(output)
        with join() if processes is None else nullcontext(processes) as joined:
            with joined.waiting_for_first():
                if joined.first and not (output / RECORD).exists():
                    _check_free(output)

            written = False  # by this process, now

            def finish(directory: Path) -> None:
                nonlocal written
                self.model.save_pretrained(directory)
                self.tokenizer.save_pretrained(directory)
                self.also(directory)
                written = True

            def reload(directory: Path) -> None:
                self.model.load_state_dict(type(self.model).from_pretrained(directory).state_dict())

            with kept(self.targets, say):
                result = train(
                    self.learner,
                    self.data,
                    settings,
                    output,
                    processes=joined,
                    finish=finish,
                    held_out=self.held_out,
                    description=self.description,
                    evaluation=self.evaluation,
                    allow_changes=allow_changes,
                    observers=observers,
                    clean=clean,
                    command=self.command,
                    reload=reload,
                    say=say,
                )
            if written and self.command is not None:
                write_card(output, self._card(output, result, self.command), say)
            return result

    def _card(self, output: Path, result: Result, command: Mapping[str, Any]) -> Card:
        return run_card(
            output.absolute().name,
            class_name=type(self.model).__name__,
            parameters=self.model.num_parameters(),
            command=command,
            steps=result.chosen,
            samples=self.data.count_samples(),
            scores=result.held_out if self.scores is None else self.scores(),
            notes=self.notes,
        )

    def dry_run(
        self,
        settings: TrainingSettings,
        processes: Processes,
        output: str | os.PathLike[str] | None = None,
    ) -> DryRun:
        """Measures a few steps, which change the learner and leave nothing on the disk."""
        place = None if output is None else Path(output).absolute()
        if self.targets is not None:
            self.targets.writes = False
        return dry_run(self.learner, self.data, settings, processes, self.held_out, place)


def masked_lm(
    model: ForMaskedLM,
    corpus: CorpusSettings,
    tokenizer: Tokenizer | None = None,
    *,
    start: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Masked-LM pretraining of any of the three architectures.

    Args:
        model: fresh, or a checkpoint to continue from.
        corpus: what to read, in single segments. Its tokenizer must fit the model's vocabulary.
        tokenizer: the checkpoint's tokenizer; the corpus must have been made with it.
        start: JSON values that identify the initial weights; None = a digest of the weights.
        say: receives messages.

    Raises:
        InputError: vocabulary or positions of the model are too small for the corpus; or the corpus
            is to be read in pairs.
        DataError: the corpus was made with another tokenizer.
    """
    if corpus.segments != "single":
        raise InputError(
            f"segments is {corpus.segments!r}, but masked-LM training reads no pairs. Use "
            "pretraining, or segments='single'."
        )
    learner = MaskedLMLearner(model)
    return _language_model(learner, model, {"objective": "mlm"}, corpus, tokenizer, start, say)


def pretraining(
    model: ForPreTraining,
    corpus: CorpusSettings,
    tokenizer: Tokenizer | None = None,
    *,
    pair_weight: float = 1.0,
    start: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Pretraining on masked tokens and pairs of segments, of BERT or ALBERT.

    Args:
        model: fresh, or a checkpoint to continue from.
        corpus: what to read; `segments` says what is predicted for the pairs. Its tokenizer must
            fit the model's vocabulary.
        tokenizer: the checkpoint's tokenizer; the corpus must have been made with it.
        pair_weight: weight of the pairs' loss; that of masked tokens has weight 1.
        start: JSON values that identify the initial weights; None = a digest of the weights.
        say: receives messages.

    Raises:
        InputError: vocabulary or positions of the model are too small for the corpus; or the corpus
            is to be read in single segments.
        DataError: the corpus was made with another tokenizer, or it gives no pairs.
    """
    if corpus.segments == "single":
        raise InputError(
            "segments is 'single', but pretraining learns from pairs: expected 'sentence_order' or "
            "'next_sentence'. For masked tokens alone there is masked_lm."
        )
    learner = PretrainingLearner(model, corpus.segments, pair_weight=pair_weight)
    objective: dict[str, Any] = {"objective": f"mlm+{corpus.segments}"}
    if pair_weight != 1:  # runs of before there was a weight go on
        objective["pair_weight"] = pair_weight
    return _language_model(learner, model, objective, corpus, tokenizer, start, say)


def _language_model(
    learner: Learner,
    model: PretrainedModel,
    objective: Mapping[str, Any],
    corpus: CorpusSettings,
    tokenizer: Tokenizer | None,
    start: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> Run:
    opened = open_corpus(corpus, say)
    _check_fit(model, opened.tokenizer, corpus)
    if tokenizer is not None:
        opened.store.check_tokenizer(tokenizer)
    description = {
        **objective,
        "model": type(model).__name__,
        "config": model.config.to_dict(),
        "start": _start(model, start),
        "frozen": frozen_parameters(model),
    }
    return _run(learner, opened, corpus, model, description)


def distillation(
    student: Student,
    teacher: PretrainedModel,
    loss: DistillationLoss,
    corpus: CorpusSettings,
    tokenizer: Tokenizer | None = None,
    *,
    shared_entries: SharedEntries = None,
    start: Mapping[str, Any] | None = None,
    cache: TeacherCacheSettings | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Distillation of a teacher into a student.

    Args:
        student: see `minilm.init_student`.
        teacher: it has the student's vocabulary and, unless only states are compared, a masked-LM
            head.
        loss: its terms and their weights.
        corpus: what to read; in pairs of segments if the student learns their order.
        tokenizer: the teacher's tokenizer; the corpus must have been made with it.
        shared_entries: see `DistillationLearner`.
        start: JSON values that identify the student's initial weights; None = a digest of the
            weights.
        cache: where to store the teacher's outputs; None = the teacher runs in every step.
        say: receives messages.

    Raises:
        InputError: teacher, student and corpus do not fit together.
        DataError: the corpus was made with another tokenizer than the teacher's; or the cache is
            damaged or belongs to another run.
    """
    _check_segments(loss, corpus)
    opened = open_corpus(corpus, say)
    for model in (student, teacher):
        _check_fit(model, opened.tokenizer, corpus)
    if tokenizer is not None:
        opened.store.check_tokenizer(tokenizer)
    targets = None
    if cache is not None:
        targets = open_teacher_cache(cache, loss, teacher, opened.data, corpus, say)
    learner = DistillationLearner(
        student, teacher, loss, shared_entries=shared_entries, targets=targets
    )
    description = {
        "objective": "distillation",
        "student": type(student).__name__,
        "config": student.config.to_dict(),
        "start": _start(student, start),
        "frozen": frozen_parameters(student),
        "teacher": weights_digest(teacher),
        "loss": {**loss.to_dict(), "projection": learner.loss.projection is not None},
    }
    if targets is not None and not targets.stored.is_exact:
        description["targets"] = {"dtype": targets.stored.dtype, "top_k": targets.stored.top_k}
    return replace(_run(learner, opened, corpus, student, description), targets=targets)


def _check_segments(loss: DistillationLoss, corpus: CorpusSettings) -> None:
    """Raise InputError unless pairs are read if, and only if, their order is learned."""
    wanted = "sentence_order" if loss.sentence_order > 0 else "single"
    if corpus.segments != wanted:
        raise InputError(
            f"segments is {corpus.segments!r}, but the loss has "
            f"{'a' if loss.sentence_order > 0 else 'no'} weight for sentence_order: expected "
            f"segments={wanted!r}."
        )


def _start(model: PretrainedModel, start: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"weights": weights_digest(model)} if start is None else dict(start)


def _run(
    learner: Learner,
    opened: Corpus,
    corpus: CorpusSettings,
    model: PretrainedModel,
    description: dict[str, Any],
) -> Run:
    evaluation = {"held_out": corpus.held_out, "tokens": corpus.tokens_per_evaluation}
    return Run(
        learner,
        opened.data,
        opened.held_out,
        model,
        opened.tokenizer,
        description,
        evaluation if corpus.held_out else {},
    )


def has_begun(output: str | os.PathLike[str]) -> bool:
    """Whether there is a snapshot, from which a run resumes instead of from its initial weights."""
    snapshots = (Path(output) / LOG).with_name(SNAPSHOTS)
    return snapshots.is_dir() and any(snapshots.glob("step-*"))


def _check_free(output: Path) -> None:
    """A run writes its model at the end; then it is too late to find another one there."""
    names = [name for name in (CONFIG, WEIGHTS, INDEX, *COMPANIONS) if (output / name).exists()]
    if names:
        raise TrainingError(
            f"{output} holds {', '.join(names)}, but no run: the trained model would take its "
            "place. Give a new directory."
        )


def _check_fit(model: PretrainedModel, tokenizer: Tokenizer, corpus: CorpusSettings) -> None:
    config = model.config
    check_vocabulary(config, tokenizer)
    if config.max_position_embeddings < corpus.max_length:
        raise InputError(
            f"{argument('max_length')} is {corpus.max_length}, {type(model).__name__} has "
            f"positions for {config.max_position_embeddings} tokens."
        )
