"""Distillation: a student learns from its teacher and from the text at the same time."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from minilm.data.batches import TokenBatch
from minilm.errors import InputError
from minilm.learners.base import ModelLearner
from minilm.learners.tokens import (
    MASKED_LM_SCORES,
    check_masked_lm,
    encode,
    masked_lm_scores,
    masked_positions,
    masked_ratio,
    states,
    token_counts,
)
from minilm.losses.distillation import DistillationLoss, States
from minilm.losses.vocabulary import fused_vocab_losses
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM


class DistillationLearner(ModelLearner):
    """Trains a student on the terms of a `DistillationLoss`.

    Both models see the same masked tokens, without token types.

    Args:
        student: with a masked-LM head; of any of the three architectures.
        teacher: with the student's vocabulary and, unless only states are compared, a masked-LM
            head.
        loss: terms and weights. The learner has a copy of it: what is trained belongs to the
            learner alone, and one loss can be given to any number of learners. If the widths
            differ, the copy gets a fresh projection, trained with the student
            (`learner.loss.projection`).

    Raises:
        InputError: student and teacher do not fit together.
    """

    def __init__(
        self, student: ForMaskedLM, teacher: PretrainedModel, loss: DistillationLoss
    ) -> None:
        check_masked_lm("student", student)
        _check_fit(student, teacher, loss)
        super().__init__(student.device, teacher)
        self.student = student
        self.loss = copy.deepcopy(loss)
        self.loss.fit_widths(student.config.hidden_size, teacher.config.hidden_size)
        self.loss.to(device=student.device, dtype=student.dtype)

    @property
    def teacher(self) -> PretrainedModel:
        """The teacher."""
        return self._unregistered[0]

    def counts(self, batch: TokenBatch) -> dict[str, int]:
        """How many tokens there are ("attended"), and how many to predict ("masked")."""
        return token_counts(batch)

    def forward(self, batch: TokenBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """ "loss", every term with a weight ("kl", "mlm", "cosine", "mse"), and "masked_share"."""
        if batch.tokens == 0:
            return self.empty_terms(*self.loss.terms, "masked_share")
        encoded = encode(self.student, batch, None)
        labels = encoded.layout.pack(batch.labels)
        teacher = self._teacher_states(batch) if self.loss.needs_teacher else None
        terms: dict[str, Tensor] = self.loss(states(self.student, encoded), teacher, labels, counts)
        return {**terms, "masked_share": masked_ratio(labels, counts)}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """See `eval_step`."""
        return (*MASKED_LM_SCORES, *(["masked_kl"] if self.loss.compares_logits else []))

    @torch.no_grad()
    def eval_step(self, batch: TokenBatch) -> dict[str, tuple[float, int]]:
        """masked_loss, masked_accuracy and, where logits are compared, masked_kl.

        All are over masked tokens; masked_kl is at the loss's temperature, times its square.
        """
        encoded = encode(self.student, batch, None)
        labels = encoded.layout.pack(batch.labels)
        student = states(self.student, encoded)
        scores = masked_lm_scores(student, labels)
        if self.loss.compares_logits:
            where = masked_positions(labels)
            teacher = self._teacher_states(batch)
            sums = fused_vocab_losses(
                student.logit_inputs(where),
                teacher.logit_inputs(where),
                kl=1.0,
                temperature=self.loss.temperature,
            )
            scores["masked_kl"] = (float(sums.kl), where.shape[0])
        return scores

    @torch.no_grad()
    def _teacher_states(self, batch: TokenBatch) -> States:
        """In the same order as the student's: the layout depends on the lengths alone."""
        return states(self.teacher, encode(self.teacher, batch, None))

    def teacher_outputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Its hidden states, and a number that is finite where its logits are."""
        if batch.tokens == 0:
            return {}
        teacher = self._teacher_states(batch)
        outputs = {"hidden states": teacher.hidden}
        if self.loss.compares_logits:
            inputs = teacher.logit_inputs(None)
            # the divergence from itself: never are all logits there at once
            outputs["logits"] = fused_vocab_losses(inputs, inputs, kl=1.0).kl
        return outputs


def _check_fit(student: ForMaskedLM, teacher: PretrainedModel, loss: DistillationLoss) -> None:
    names = f"{type(student).__name__} (student) and {type(teacher).__name__} (teacher)"
    sizes = student.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{names} have vocabularies of {sizes[0]} and {sizes[1]} entries: they must be the "
            "same. Build the student with init_student, or with the teacher's vocab_size."
        )
    if loss.compares_logits and not hasattr(teacher, "masked_lm_head"):
        raise InputError(
            f"The teacher is a {type(teacher).__name__}, which has no masked-LM head, but kl or "
            "mse compare logits. Load it as BertForMaskedLM, or set both weights to 0."
        )
    if teacher is student:
        raise InputError("student and teacher are the same model.")
