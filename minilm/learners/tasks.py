"""Trains a model on a task: the loss, distillation from a teacher, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import torch
from torch import Tensor, nn

from minilm.errors import InputError
from minilm.files.arrays import Floats
from minilm.files.progress import counted
from minilm.learners.base import ModelLearner
from minilm.learners.soft_targets import SoftTargets as SoftTargets
from minilm.learners.teacher_predictions import TeacherPredictions
from minilm.losses.soft_targets import label_loss, soft_target_loss
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.batches import Balance, NoBatch, batches
from minilm.tasks.task import Sample, Scores, Task, TaskBatch

SOFT = "soft_"  # prefix of the names of counts of a teacher's predictions


class TaskLearner(ModelLearner):
    """Learns a task from labels, optionally also from a teacher.

    Args:
        model: a model with the task's head.
        task: the task to learn.
        teacher: a model with the same head and labels; kept in eval mode, never trained.
        soft_targets: how to learn from the teacher.
        class_weights: (C,) weights for terms of the loss, by name; see the function
            `class_weights`. The loss on held-out samples is not weighted.
        predictions: the teacher's predictions for all training samples; None = it runs for every
            batch, and must have the student's vocabulary.
    """

    def __init__(
        self,
        model: PretrainedModel,
        task: Task[Any],
        *,
        teacher: PretrainedModel | None = None,
        soft_targets: SoftTargets | None = None,
        class_weights: Mapping[str, Tensor] | None = None,
        predictions: TeacherPredictions | None = None,
    ) -> None:
        super().__init__(model.device, teacher)
        self.predictions = predictions
        self.model = model
        self.task = task
        self.soft_targets = soft_targets or SoftTargets()
        for name in task.parts:  # buffers move with the learner
            self.register_buffer(
                f"_{name}_weights", (class_weights or {}).get(name), persistent=False
            )
        self._held_out: tuple[Sequence[Any], Sequence[Sample]] = ((), ())

    @property
    def description(self) -> dict[str, Any]:
        """JSON values that describe how a teacher is used; {} without one."""
        return asdict(self.soft_targets) if self.teacher is not None else {}

    def hold_out(
        self, examples: Sequence[Any], samples: Sequence[Sample], tokens_per_batch: int
    ) -> list[TaskBatch]:
        """Batches of exactly these samples for evaluation, shortest first."""
        self._held_out = (examples, samples)
        return batches(self.task, samples, tokens_per_batch)

    def counts(self, batch: TaskBatch | NoBatch) -> Mapping[str, int]:
        """The number of predictions of each term: with a label, and with a teacher's prediction."""
        nothing = dict.fromkeys(self.task.parts, 0)
        if isinstance(batch, NoBatch):  # the same names as in processes that have a batch
            return nothing if self.teacher is None else nothing | _soft(nothing)
        counts = self.task.counts(batch)
        return counts if self.teacher is None else counts | _soft(self.task.counts(batch.whole()))

    def forward(self, batch: TaskBatch | NoBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """ "loss" and its parts: "labels", and with a teacher "soft_targets".

        "labels" is the mean over the predictions of the step that have a label, 0 if none has;
        "soft_targets" is the mean over all predictions.
        """
        if self.predictions is not None and self.teacher is not None:
            self.predictions.make(self.teacher)
        if isinstance(batch, NoBatch):
            return self.empty_terms("labels", *(() if self.teacher is None else ("soft_targets",)))
        return self.terms_of(batch, counts, self._teacher_logits(batch))

    def terms_of(
        self, batch: TaskBatch, counts: Mapping[str, float], given: Tensor | None
    ) -> dict[str, Tensor]:
        """The terms that `forward` returns for a batch with samples, given the teacher's logits."""
        return self.losses(self.task.logits(self.model, batch), batch, counts, given)

    def losses(
        self, logits: Tensor, batch: TaskBatch, counts: Mapping[str, float], given: Tensor | None
    ) -> dict[str, Tensor]:
        """The terms for logits of the model, or of one of its exits."""
        terms = self.task.terms(logits, batch)
        labels = logits.new_zeros((), dtype=torch.float32)
        for term in terms:
            share = term.weight / max(counts[term.name], 1)
            weights: Tensor | None = getattr(self, f"_{term.name}_weights")
            labels = labels + share * label_loss(term.kind, *term.of_labels(), weights).sum
        if self.teacher is None:
            return {"loss": labels, "labels": labels.detach()}
        teacher = self.task.terms(logits.detach() if given is None else given, batch)
        soft = torch.zeros_like(labels)
        for own, other in zip(terms, teacher, strict=True):
            share = own.weight / max(counts[SOFT + own.name], 1)
            temperature = self.soft_targets.temperature
            found = soft_target_loss(own.kind, own.logits, other.logits, temperature)
            soft = soft + share * found.sum
        loss = self.soft_targets.label_weight * labels + self.soft_targets.weight * soft
        return {"loss": loss, "labels": labels.detach(), "soft_targets": soft.detach()}

    @torch.no_grad()
    def _teacher_logits(self, batch: TaskBatch) -> Tensor | None:
        """The teacher's logits for a batch; None without a teacher, or if they were left out."""
        if self.predictions is not None:
            return self.predictions.logits(batch)
        return None if self.teacher is None else self.task.logits(self.teacher, batch)

    def teacher_outputs(self, batch: TaskBatch | NoBatch) -> dict[str, Tensor]:
        """The teacher's logits."""
        logits = None if isinstance(batch, NoBatch) else self._teacher_logits(batch)
        return {} if logits is None else {"logits": logits}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The terms of the loss; see `eval_scores`."""
        return self.task.parts

    def eval_step(self, batch: TaskBatch) -> Mapping[str, tuple[float, float]]:
        """The terms of the loss on the labels, without class weights: (sum, predictions)."""
        return self.eval_outputs(batch)[0]

    @torch.no_grad()
    def eval_outputs(
        self, batch: TaskBatch
    ) -> tuple[Mapping[str, tuple[float, float]], Mapping[int, Floats]]:
        """The result of `eval_step`, and the outputs that the task keeps, by sample number."""
        logits = self.task.logits(self.model, batch)
        outputs = self.task.outputs(logits, batch)
        counts = self.task.counts(batch)
        losses = {}
        for term in self.task.terms(logits, batch):
            assert term.labels is not None
            loss = label_loss(term.kind, term.logits, term.labels)
            losses[term.name] = (term.weight * float(loss.sum), counts[term.name])
        return losses, dict(zip(batch.samples.tolist(), outputs, strict=True))

    def eval_scores(
        self, means: Mapping[str, float], outputs: Mapping[int, Floats]
    ) -> dict[str, float]:
        """The task's scores that are numbers, and the loss on the labels.

        Thresholds are first set to their best values for these examples, as at the end of a run, so
        that evaluations are compared by the scores that are reported.
        """
        examples, samples = self._held_out
        ordered = [outputs[number] for number in range(len(samples))]
        _, scores = tuned_scores(self.task, examples, samples, ordered)
        return {
            **numbers_of(scores),
            "loss": sum(means.get(name, 0.0) for name in self.task.parts),
        }


def _soft(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of predictions, renamed to those of a teacher's predictions."""
    return {SOFT + name: count for name, count in counts.items()}


def tuned_scores(
    task: Task[Any],
    examples: Sequence[Any],
    samples: Sequence[Sample],
    outputs: Sequence[Floats],
) -> tuple[Task[Any], Scores]:
    """The task with thresholds tuned on labelled examples, and its scores with these.

    Args:
        task: the task, whose thresholds are tuned if it is set to do so.
        examples: labelled examples.
        samples: the samples of these examples.
        outputs: the model's outputs for each sample; see `Task.outputs`.
    """
    if task.tune_thresholds:
        likeliest = task.without_thresholds().decode(examples, samples, outputs)
        task = task.tune(examples, likeliest)
    return task, task.scores(examples, task.decode(examples, samples, outputs))


def numbers_of(scores: Scores) -> dict[str, float]:
    """The scores that are numbers, without tables."""
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}


def class_weights(
    task: Task[Any], samples: Sequence[Sample], balance: Balance
) -> dict[str, Tensor] | None:
    """Weights of the loss that compensate for classes of unequal frequency.

    Args:
        task: classification, multi-label, tagging or utterances.
        samples: the training samples.
        balance: how classes are balanced; only "weights" leads to weights.

    Returns:
        (C,) weights for every term of the loss; see `minilm.tasks.balance`.

    Raises:
        InputError: the balance is unknown, or the task has no classes.
    """
    if balance not in get_args(Balance):
        raise InputError(f"balance is {balance!r}: expected one of {', '.join(get_args(Balance))}.")
    return task.class_weights(samples) if balance == "weights" else None


def freeze(model: PretrainedModel, *, embeddings: bool = False, layers: int = 0) -> None:
    """Freezes parts of an encoder.

    Args:
        model: a model with a head.
        embeddings: freeze all embedding tables, their norm and projection.
        layers: freeze this many layers, from the first.

    Raises:
        InputError: there are not that many layers, or some of them are shared with later ones.
    """
    encoder = model.base
    stack = list(encoder.virtual_layers())
    if not 0 <= layers <= len(stack):
        found = counted(len(stack), "layer")
        raise InputError(f"The model has {found}: {layers} cannot be frozen.")
    above = {id(layer) for layer in stack[layers:]}
    if any(id(layer) in above for layer in stack[:layers]):
        raise InputError(
            f"The first {layers} of {len(stack)} layers share weights with those above: freeze "
            "none or all."
        )
    parts: list[nn.Module] = [*stack[:layers], *([encoder.embeddings] if embeddings else [])]
    for part in parts:
        part.requires_grad_(False)
