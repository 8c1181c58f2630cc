"""Trains a task model together with the classifiers of early exit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from minilm.learners.tasks import SoftTargets, TaskLearner
from minilm.learners.teacher_predictions import TeacherPredictions
from minilm.models.early_exit import EveryExit, ExitHeads
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.batches import NoBatch
from minilm.tasks.task import Task, TaskBatch, run_model


def depth_weights(applications: int) -> list[float]:
    """The share of each depth in the loss: k / (1 + 2 + ... + L) after k of L applications.

    Deeper answers count more: the model's own has the largest share, 2 / (L + 1), and the exits do
    not pull the layers away from what deeper ones need.

    References: Zhou et al. 2020, "BERT Loses Patience", equation 3.
    """
    total = applications * (applications + 1) / 2
    return [depth / total for depth in range(1, applications + 1)]


class ExitLearner(TaskLearner):
    """Learns a task at all depths at once.

    The loss is that of `TaskLearner` at every depth, weighted by `depth_weights`. Evaluations, by
    which the best weights are chosen, are of the model at its full depth.

    Args:
        model: a model with the task's head.
        task: the task to learn, one of those on whole texts.
        exits: the model's exits, trained with it.
        teacher, soft_targets, class_weights, predictions: as for `TaskLearner`; all depths learn
            from them.
    """

    def __init__(
        self,
        model: PretrainedModel,
        task: Task[Any],
        exits: ExitHeads,
        *,
        teacher: PretrainedModel | None = None,
        soft_targets: SoftTargets | None = None,
        class_weights: Mapping[str, Tensor] | None = None,
        predictions: TeacherPredictions | None = None,
    ) -> None:
        super().__init__(
            model,
            task,
            teacher=teacher,
            soft_targets=soft_targets,
            class_weights=class_weights,
            predictions=predictions,
        )
        self.exits = exits

    def forward(self, batch: TaskBatch | NoBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """The terms of `TaskLearner` at full depth, "exits", and "loss", over all depths.

        "exits" is the mean loss of the exits before the last layer, weighted by depth.
        """
        terms = super().forward(batch, counts)
        return {**self.empty_terms("exits"), **terms} if isinstance(batch, NoBatch) else terms

    def terms_of(
        self, batch: TaskBatch, counts: Mapping[str, float], given: Tensor | None
    ) -> dict[str, Tensor]:
        (found,) = run_model(EveryExit(self.model, self.exits), batch, batch.lengths)  # (B, L, C)
        *early, last = [self.losses(logits, batch, counts, given) for logits in found.unbind(dim=1)]
        *shares, share = depth_weights(found.shape[1])
        parts = [weight * terms["loss"] for weight, terms in zip(shares, early, strict=True)]
        exits = torch.stack(parts).sum()
        loss = share * last["loss"] + exits
        return {**last, "loss": loss, "exits": exits.detach() / sum(shares)}
