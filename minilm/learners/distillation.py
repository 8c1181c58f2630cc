"""Distillation: a student learns from its teacher and from the text at the same time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from minilm.data.batches import TokenBatch
from minilm.errors import InputError, argument
from minilm.learners.base import ModelLearner
from minilm.learners.cached_teacher import CachedTeacher
from minilm.learners.pairs import PAIR_SCORES, count_pairs, pair_loss, pair_scores
from minilm.learners.tokens import (
    MASKED_LM_SCORES,
    check_masked_lm,
    encode,
    layer_sizes,
    masked_lm_scores,
    masked_positions,
    masked_ratio,
    states,
    token_counts,
)
from minilm.losses.distillation import DistillationLoss
from minilm.losses.states import States
from minilm.losses.vocabulary import fused_vocab_losses
from minilm.models.encoder import EncoderModel
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM, ForPreTraining
from minilm.outputs import EncoderOutput

Student = ForMaskedLM | ForPreTraining | EncoderModel
SharedEntries = Tensor | Literal["first"] | None


class DistillationLearner(ModelLearner):
    """Trains a student on the terms of a `DistillationLoss`.

    Both models see the same masked tokens. The teacher sees no token types; the student sees them
    if it learns the order of segments.

    A token id must mean the same to both models, or be translated by `shared_entries`; equal sizes
    of the vocabularies do not show this. If the teacher has more entries than the student, logits
    are compared on the student's entries: both distributions are over these.

    Args:
        student: a model of any of the three architectures, with a masked-LM head. If no term reads
            the student's logits, the head may be missing (`AlbertModel`); `sentence_order` also
            needs a head for pairs (`AlbertForPreTraining`). Without that term such a head and its
            pooler are frozen, as is the pooler of a student without a masked-LM head.
        teacher: a model with a masked-LM head, unless only states are compared.
        loss: terms and weights. The learner trains a copy of it, so that one loss can be given to
            any number of learners. If the widths differ, the copy gets a new projection, trained
            with the student (`learner.loss.projection`).
        shared_entries: the teacher's vocabulary entries for those of the student. None = the
            vocabularies are the same; "first" = the student's is the beginning of the teacher's;
            or (V of the student,) int64, the teacher's entry for each of the student's.
        targets: stores the teacher's outputs, so that it runs once for each sample and mask; None =
            it runs in every step.

    Raises:
        InputError: student, teacher and targets do not fit together.
    """

    def __init__(
        self,
        student: Student,
        teacher: PretrainedModel,
        loss: DistillationLoss,
        *,
        shared_entries: SharedEntries = None,
        targets: CachedTeacher | None = None,
    ) -> None:
        _check_student(student, loss)
        _check_fit(student, teacher, loss, shared_entries)
        super().__init__(student.device, teacher)
        self.student = student
        for part in _unread(student, loss):
            part.requires_grad_(False)  # otherwise weight decay would shrink it
        self.loss = copy.deepcopy(loss)
        self.loss.fit_widths(student.config.hidden_size, teacher.config.hidden_size)
        self.loss.to(device=student.device, dtype=student.dtype)
        if self.loss.compares_layers:
            self.loss.fit_layers(layer_sizes(student), layer_sizes(teacher))
        self._shared = shared_entries
        self.targets = targets
        if targets is not None and targets.stored.top_k and shared_entries is not None:
            raise InputError(
                "The teacher's likeliest words are stored with its own token ids, which differ "
                f"from the student's (shared_entries): leave out {argument('teacher_cache_top_k')}."
            )

    @property
    def teacher(self) -> PretrainedModel:
        """The teacher."""
        return self._unregistered[0]

    def counts(self, batch: TokenBatch) -> dict[str, int]:
        """The numbers that terms are means over: of all tokens ("attended"), of tokens to predict
        ("masked"), and if a term needs them of "sequences" and of labelled "pairs"."""
        # every process counts its part of a step before the counts are summed
        if self.targets is not None:
            self.targets.begin(batch.epoch)
        found = token_counts(batch)
        if self.loss.pooled > 0 or self.loss.pooled_mse > 0:
            found["sequences"] = batch.lengths.shape[0]
        if self.loss.sentence_order > 0:
            found["pairs"] = count_pairs(batch)
        return found

    def forward(self, batch: TokenBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """ "loss", every term with a weight ("kl", "mlm", "cosine", ...), and "masked_share"."""
        if batch.tokens == 0:
            return self.empty_terms(*self.loss.terms, "masked_share")
        encoded, student = self._encode_student(batch)
        labels = encoded.layout.pack(batch.labels)
        teacher = self._learn_from(batch) if self.loss.needs_teacher else None
        pairs = None
        if self.loss.sentence_order > 0:
            assert isinstance(self.student, ForPreTraining)
            pairs = pair_loss(self.student, encoded, batch)
        terms: dict[str, Tensor] = self.loss(student, teacher, labels, counts, pairs)
        return {**terms, "masked_share": masked_ratio(labels, counts)}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """See `eval_step`."""
        if isinstance(self.student, EncoderModel):
            return self.loss.terms
        pairs = PAIR_SCORES if isinstance(self.student, ForPreTraining) else ()
        return (*MASKED_LM_SCORES, *(["masked_kl"] if self.loss.compares_logits else []), *pairs)

    @torch.no_grad()
    def eval_step(self, batch: TokenBatch) -> dict[str, tuple[float, int]]:
        """masked_loss, masked_accuracy and, where logits are compared, masked_kl.

        All are over masked tokens; masked_kl is at the loss's temperature, times its square. With a
        head for pairs also sentence_order_accuracy or next_sentence_accuracy, over pairs. For a
        student without a masked-LM head, the terms of the loss instead, over tokens or sequences.
        """
        if isinstance(self.student, EncoderModel):
            return self._term_scores(batch)
        if batch.sentence_labels is not None and isinstance(self.student, ForPreTraining):
            return pair_scores(self.student, batch)
        encoded = encode(self.student, batch, None)
        labels = encoded.layout.pack(batch.labels)
        student = states(self.student, encoded)
        scores = masked_lm_scores(student, labels)
        if self.loss.compares_logits:
            where = masked_positions(labels)
            kept_whole = self.targets is None or self.targets.stored.top_k is None
            teacher = self._learn_from(batch, itself=not kept_whole)
            sums = fused_vocab_losses(
                student.logit_inputs(where),
                teacher.logit_inputs(where),
                kl=1.0,
                temperature=self.loss.temperature,
            )
            scores["masked_kl"] = (float(sums.kl), where.shape[0])
        return scores

    def _term_scores(self, batch: TokenBatch) -> dict[str, tuple[float, int]]:
        encoded, student = self._encode_student(batch)
        labels = encoded.layout.pack(batch.labels)
        counts = self.counts(batch)
        terms = self.loss(student, self._learn_from(batch), labels, counts)
        items = {name: counts[self.loss.items(name)] for name in self.loss.terms}
        return {name: (float(terms[name]) * count, count) for name, count in items.items()}

    def _encode_student(self, batch: TokenBatch) -> tuple[EncoderOutput, States]:
        types = batch.token_type_ids if self.loss.sentence_order > 0 else None
        reads = self.loss.layers.student_reads if self.loss.compares_layers else None
        encoded = encode(self.student, batch, types, layers=reads is not None)
        return encoded, states(self.student, encoded, reads)

    @torch.no_grad()
    def _teacher_states(self, batch: TokenBatch, *, itself: bool = False) -> States:
        """The teacher's states that the loss reads.

        They are in the same order as the student's, as the layout depends only on the lengths.

        Args:
            batch: the tokens.
            itself: run the teacher even if its outputs are stored.
        """
        if self.targets is not None and not itself:
            return self.targets.states(batch, self.teacher)
        reads = self.loss.layers.teacher_reads if self.loss.compares_layers else None
        encoded = encode(self.teacher, batch, None, layers=reads is not None)
        return states(self.teacher, encoded, reads)

    @torch.no_grad()
    def _learn_from(self, batch: TokenBatch, *, itself: bool = False) -> States:
        """The teacher's states, with logits over the entries of the student's vocabulary."""
        if self._shared is None:
            return self._teacher_states(batch, itself=itself)
        if self._shared == "first":
            found = self._teacher_states(batch, itself=itself)
            entries = torch.arange(self.student.config.vocab_size, device=found.matrix.device)
        else:
            entries = self._shared.to(batch.input_ids.device)
            translated = replace(batch, input_ids=entries[batch.input_ids])
            found = self._teacher_states(translated, itself=itself)
        if found.bias is None:
            return found
        matrix, bias = (x.index_select(0, entries) for x in (found.matrix, found.bias))
        return replace(found, matrix=matrix, bias=bias)

    def teacher_outputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        """The teacher's hidden states, and a number that is finite if its logits are."""
        if batch.tokens == 0:
            return {}
        teacher = self._learn_from(batch, itself=True)
        outputs = {"hidden states": teacher.hidden}
        if self.loss.compares_logits:
            inputs = teacher.logit_inputs(None)
            # the divergence from itself, which does not need all logits in memory at once
            outputs["logits"] = fused_vocab_losses(inputs, inputs, kl=1.0).kl
        return outputs


def _check_student(student: PretrainedModel, loss: DistillationLoss) -> None:
    """Raise InputError unless the student has the heads that the terms read."""
    kind = type(student).__name__
    if loss.sentence_order > 0:
        if not isinstance(student, ForPreTraining):
            raise InputError(
                f"student is a {kind}, which has no head for pairs of segments, but sentence_order "
                "has a weight: expected AlbertForPreTraining or BertForPreTraining. Or set the "
                "weight to 0."
            )
        return
    if isinstance(student, EncoderModel):
        if words := [name for name in ("kl", "mlm", "mse") if getattr(loss, name) > 0]:
            raise InputError(
                f"student is a {kind}, which has no masked-LM head, but "
                f"{', '.join(map(argument, words))} compare predicted words: expected "
                "BertForMaskedLM, DistilBertForMaskedLM or AlbertForMaskedLM. Or set these weights "
                "to 0."
            )
    elif not isinstance(student, ForPreTraining):
        check_masked_lm("student", student)


def _unread(student: PretrainedModel, loss: DistillationLoss) -> list[nn.Module]:
    """The parts of a student that no term reads: its pooler and a head for pairs."""
    if loss.sentence_order > 0:
        return []
    parts: list[nn.Module | None] = [student.base.pooler]
    if isinstance(student, ForPreTraining):
        parts.append(student.get_submodule(student.pair_head_name))
    return [part for part in parts if part is not None]


def _check_fit(
    student: Student,
    teacher: PretrainedModel,
    loss: DistillationLoss,
    shared_entries: SharedEntries,
) -> None:
    names = f"{type(student).__name__} (student) and {type(teacher).__name__} (teacher)"
    own, theirs = student.config.vocab_size, teacher.config.vocab_size
    if isinstance(shared_entries, Tensor):
        _check_entries(shared_entries, own, theirs)
    elif own != theirs and (shared_entries is None or own > theirs):
        raise InputError(
            f"{names} have vocabularies of {own} and {theirs} entries: they must be the same. "
            "Build the student with init_student, or with the teacher's vocab_size. If the "
            "student's vocabulary is the beginning of the teacher's, give shared_entries='first'; "
            "otherwise give the teacher's entry for each of the student's."
        )
    if loss.compares_logits and not hasattr(teacher, "masked_lm_head"):
        raise InputError(
            f"The teacher is a {type(teacher).__name__}, which has no masked-LM head, but kl or "
            "mse compare logits. Load it as BertForMaskedLM, or set both weights to 0: states can "
            "be compared without a head."
        )
    if teacher is student:
        raise InputError("student and teacher are the same model.")


def _check_entries(entries: Tensor, own: int, theirs: int) -> None:
    if tuple(entries.shape) != (own,) or entries.dtype != torch.int64:
        raise InputError(
            f"shared_entries: expected ({own},) int64, one entry of the teacher for each of the "
            f"student's; got {tuple(entries.shape)} {entries.dtype}."
        )
    if bool(((entries < 0) | (entries >= theirs)).any()):
        raise InputError(
            f"shared_entries has numbers from {int(entries.min())} to {int(entries.max())}: the "
            f"teacher has entries 0 to {theirs - 1}."
        )
