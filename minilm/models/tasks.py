"""The heads that every architecture has, each with one forward.

A task model holds its base model as `encoder`. The subclasses in bert.py, distilbert.py and
albert.py only say which encoder that is and what differs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from minilm.blocks.dropout import Dropout
from minilm.blocks.heads import MaskedLMHead
from minilm.config import EncoderConfig
from minilm.errors import InputError
from minilm.models.encoder import Encoded, EncoderModel, EncoderOptions
from minilm.models.inputs import check_labels, gather_labels
from minilm.models.pretrained import PretrainedModel
from minilm.objectives.tasks import problem_type, sequence_loss, span_loss, token_loss
from minilm.outputs import HeadOutput, QuestionAnsweringOutput


class TaskModel(PretrainedModel):
    """An encoder with something on top.

    Args:
        config: of the encoder and the head.
        pools: the head reads a vector for the whole sequence.
    """

    encoder_class: ClassVar[Callable[..., EncoderModel]]

    def __init__(self, config: EncoderConfig, *, pools: bool) -> None:
        super().__init__(config)
        self.encoder = self.encoder_class(config, add_pooling_layer=pools)

    @property
    def base(self) -> EncoderModel:
        return self.encoder

    def pool(self, first: Tensor) -> Tensor:
        """A vector for the sequence from the state of its first token: (B, H) -> (B, H)."""
        assert self.encoder.pooler is not None
        pooled: Tensor = self.encoder.pooler(first)
        return pooled

    def new_masked_lm_head(self) -> MaskedLMHead:
        """A fresh head that fits the encoder."""
        head = MaskedLMHead(
            hidden_size=self.config.hidden_size,
            embedding_size=self.encoder.embeddings.word.embedding_dim,
            vocab_size=self.config.vocab_size,
            activation=self.config.hidden_act,
            norm_eps=self.config.layer_norm_eps,
        )
        self._initialise(head)
        return head

    def new_linear(self, outputs: int) -> nn.Linear:
        """A fresh linear layer, H -> outputs."""
        linear = nn.Linear(self.config.hidden_size, outputs)
        self._initialise(linear)
        return linear

    def masked_lm(
        self, head: MaskedLMHead, encoded: Encoded, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Vocabulary logits in the caller's order, and the loss if there are labels."""
        layout = encoded.layout
        inner: Tensor = head(encoded.last, self.get_input_embeddings().weight)  # (..., V)
        logits = layout.restore(inner)
        if labels is None:
            return logits, None
        inner_labels = gather_labels(layout, labels, inner.shape[-1], tuple(logits.shape[:-1]))
        return logits, token_loss(inner, inner_labels)


class ForMaskedLM(TaskModel):
    """Predict masked tokens."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, pools=False)
        self.masked_lm_head = self.new_masked_lm_head()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> HeadOutput:
        """Score every vocabulary entry at every position.

        Args:
            input_ids, attention_mask, token_type_ids, **options: as in `EncoderModel.forward`.
            labels: (B, S) or (T,) int64 true ids; -100 = not predicted here.

        Returns:
            logits (B, S, V) or (T, V), zero at unattended positions; loss, the mean cross-entropy
            over labelled positions, if labels are given.
        """
        encoded = self.encoder.encode(
            input_ids, attention_mask, token_type_ids, reads_first=False, **options
        )
        logits, loss = self.masked_lm(self.masked_lm_head, encoded, labels)
        return HeadOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class ForPreTraining(TaskModel):
    """Predict masked tokens, and answer a question about two segments."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=True)
        self.masked_lm_head = self.new_masked_lm_head()
        self.dropout = Dropout(dropout)

    @property
    @abstractmethod
    def pair_head(self) -> nn.Linear:
        """Scores the two answers, H -> 2."""

    def pair_logits(self, encoded: Encoded) -> Tensor:
        """(B, 2) scores of the answers, from the pooled first token of every sequence."""
        pooled = self.pool(encoded.first)
        logits: Tensor = self.pair_head(self.dropout(pooled))
        return logits


class ForSequenceClassification(TaskModel):
    """One label, several labels or a number for a whole text or pair of texts."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=True)
        self.dropout = Dropout(dropout)
        self.classifier = self.new_linear(config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> HeadOutput:
        """Classify each sequence.

        Args:
            input_ids, attention_mask, token_type_ids, **options: as in `EncoderModel.forward`.
            labels: (B,) int64 classes, or floats for regression (B,) or several labels (B, C).

        Returns:
            logits (B, C); loss, the mean over sequences, by `config.problem_type` or, if that is
            None, by the kind of labels (see `sequence_loss`).
        """
        encoded = self.encoder.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            reads_first=True,
            reads_others=False,
            **options,
        )
        pooled = self.pool(encoded.first)
        logits: Tensor = self.classifier(self.dropout(pooled))  # (B, C)
        loss = None
        if labels is not None:
            kind = problem_type(self.config.problem_type, logits, labels)
            if kind == "single_label_classification":
                check_labels("labels", labels, self.config.num_labels, (logits.shape[0],))
            loss = sequence_loss(logits, labels, kind)
        return HeadOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class ForTokenClassification(TaskModel):
    """A label for every token, as in named-entity recognition."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=False)
        self.dropout = Dropout(dropout)
        self.classifier = self.new_linear(config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> HeadOutput:
        """Classify each token.

        Args:
            input_ids, attention_mask, token_type_ids, **options: as in `EncoderModel.forward`.
            labels: (B, S) or (T,) int64 classes; -100 = no label here.

        Returns:
            logits (B, S, C) or (T, C), zero at unattended positions; loss, the mean cross-entropy
            over labelled positions, if labels are given.
        """
        encoded = self.encoder.encode(
            input_ids, attention_mask, token_type_ids, reads_first=False, **options
        )
        layout = encoded.layout
        inner: Tensor = self.classifier(self.dropout(encoded.last))  # (..., C)
        logits = layout.restore(inner)
        loss = None
        if labels is not None:
            shape = tuple(logits.shape[:-1])
            loss = token_loss(inner, gather_labels(layout, labels, inner.shape[-1], shape))
        return HeadOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class ForQuestionAnswering(TaskModel):
    """The span of the text that answers a question: where it starts and where it ends."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=False)
        self.dropout = Dropout(dropout)
        self.span_head = self.new_linear(2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> QuestionAnsweringOutput:
        """Score every token as start and as end of the answer.

        Args:
            input_ids, attention_mask, token_type_ids, **options: as in `EncoderModel.forward`.
            start_positions, end_positions: (B,) int64, counted within each row or sequence;
                positions beyond the row count as unlabelled.

        Returns:
            start_logits and end_logits (B, S) or (T,), the smallest finite value at unattended
            positions (differs from Hugging Face, where an argmax can land on padding); loss, the
            mean of both cross-entropies over attended positions, if positions are given.

        Raises:
            InputError: a position that lies at an unattended place.
        """
        encoded = self.encoder.encode(
            input_ids, attention_mask, token_type_ids, reads_first=False, **options
        )
        layout = encoded.layout
        inner: Tensor = self.span_head(self.dropout(encoded.last))  # (..., 2)
        lowest = torch.finfo(inner.dtype).min
        start_logits, end_logits = layout.restore(inner, lowest).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            rows = layout.rows(inner, lowest)  # (B, S, 2)
            attended = layout.rows(torch.ones_like(inner[..., 0], dtype=torch.bool), False)
            _check_positions("start_positions", start_positions, attended)
            _check_positions("end_positions", end_positions, attended)
            loss = span_loss(rows[..., 0], rows[..., 1], start_positions, end_positions)
        return QuestionAnsweringOutput(
            loss, start_logits, end_logits, encoded.hidden_states, encoded.attentions
        )


class ForMultipleChoice(TaskModel):
    """The best of several continuations, each scored on its own."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=True)
        self.dropout = Dropout(dropout)
        self.classifier = self.new_linear(1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lengths: Tensor | Sequence[Sequence[int]] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> HeadOutput:
        """Score the choices of each question.

        Args:
            input_ids: (B, C, S) int64; or (T,) for a packed call, choice after choice.
            attention_mask, token_type_ids, position_ids: like input_ids.
            labels: (B,) int64, the number of the right choice.
            inputs_embeds: (B, C, S, E) or (T, E).
            lengths: (B, C) sequence lengths of a packed call.
            output_attentions, output_hidden_states: as in `EncoderModel.forward`, for B * C rows.

        Returns:
            logits (B, C); loss, the mean cross-entropy over questions, if labels are given.
        """
        words = input_ids if input_ids is not None else inputs_embeds
        if words is None:
            raise InputError("Give exactly one of input_ids and inputs_embeds.")
        if lengths is None:
            if words.dim() != (3 if input_ids is not None else 4):
                raise InputError(
                    f"Expected (B, C, S) inputs, one row a choice; got {tuple(words.shape)}."
                )
            choices = words.shape[1]
        else:
            lengths = torch.as_tensor(lengths, device=words.device)
            if lengths.dim() != 2:
                raise InputError(f"lengths has shape {tuple(lengths.shape)}: expected (B, C).")
            choices = lengths.shape[1]

        def flat(values: Tensor | None) -> Tensor | None:
            if values is None or lengths is not None or values.dim() < 3:
                return values  # one row for all, or packed
            return values.flatten(0, 1)

        encoded = self.encoder.encode(
            flat(input_ids),
            flat(attention_mask),
            flat(token_type_ids),
            reads_first=True,
            reads_others=False,
            position_ids=flat(position_ids),
            inputs_embeds=flat(inputs_embeds),
            lengths=None if lengths is None else lengths.flatten(),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        pooled = self.pool(encoded.first)  # (B * C, H)
        scores: Tensor = self.classifier(self.dropout(pooled))  # (B * C, 1)
        logits = scores.view(-1, choices)  # (B, C)
        loss = None
        if labels is not None:
            check_labels("labels", labels, choices, (logits.shape[0],))
            loss = token_loss(logits, labels)
        return HeadOutput(loss, logits, encoded.hidden_states, encoded.attentions)


def _check_positions(name: str, positions: Tensor, attended: Tensor) -> None:
    """Raise InputError unless all positions are (B,) int64 and point at attended tokens."""
    batch, length = attended.shape
    if tuple(positions.shape) != (batch,) or positions.dtype != torch.int64:
        raise InputError(
            f"{name} has shape {tuple(positions.shape)} and dtype {positions.dtype}: expected "
            f"({batch},) int64."
        )
    if torch.compiler.is_compiling():
        return
    inside = positions.clamp(0, length) < length
    found = attended.gather(1, positions.clamp(0, length - 1)[:, None])[:, 0]
    if bool((inside & ~found).any()):
        row = int((inside & ~found).nonzero()[0])
        raise InputError(
            f"{name}[{row}] is {int(positions[row])}, an unattended position. Use a position "
            "beyond the row for 'no answer here'."
        )
