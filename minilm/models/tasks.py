"""The models with a task's head, common to all architectures.

A task model holds its base model as `encoder`. The subclasses in bert.py, distilbert.py and
albert.py only define which encoder that is and what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from minilm.blocks import kernels
from minilm.blocks.dropout import Dropout
from minilm.blocks.heads import MaskedLMHead
from minilm.config import EncoderConfig
from minilm.errors import InputError
from minilm.losses.heads import problem_type, sequence_loss, span_loss, token_loss
from minilm.models.encoder import EncoderModel, EncoderOptions
from minilm.models.inputs import check_labels, check_shares, pack_labels
from minilm.models.pretrained import PretrainedModel
from minilm.outputs import EncoderOutput, HeadOutput, ModelOutput, QuestionAnsweringOutput


class TaskModel(PretrainedModel):
    """An encoder with a head.

    Args:
        config: configuration of the encoder and the head.
        pools: whether the head reads a vector for the whole sequence.
    """

    encoder_class: ClassVar[type[EncoderModel]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "encoder_class" in cls.__dict__:
            cls.config_class = cls.encoder_class.config_class
            cls.hub_names = cls.encoder_class.hub_names

    def __init__(self, config: EncoderConfig, *, pools: bool) -> None:
        super().__init__(config)
        self.encoder = self.encoder_class(config, add_pooling_layer=pools)

    @property
    def base(self) -> EncoderModel:
        return self.encoder

    def pool(self, encoded: EncoderOutput) -> Tensor:
        """A vector for each sequence, (B, H).

        The last state is (B, H) here, that of the first tokens only, unless the layout is "padded".
        """
        assert encoded.pooler_output is not None
        return encoded.pooler_output

    def new_masked_lm_head(self) -> MaskedLMHead:
        """A newly initialised masked-LM head that fits the encoder."""
        head = MaskedLMHead(
            hidden_size=self.config.hidden_size,
            embedding_size=self.encoder.embeddings.embedding_size,
            vocab_size=self.config.vocab_size,
            activation=self.config.hidden_act,
            norm_eps=self.config.layer_norm_eps,
        )
        self._initialise(head)
        return head

    def new_linear(self, outputs: int) -> nn.Linear:
        """A newly initialised linear layer, H -> outputs."""
        linear = nn.Linear(self.config.hidden_size, outputs)
        self._initialise(linear)
        return linear


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
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Unpack[EncoderOptions],
    ) -> HeadOutput:
        """Score every vocabulary entry at every position.

        Args:
            labels: (B, S) or (T,) int64 true ids; -100 = no loss here.
            others: as in `EncoderModel.forward`.

        Returns:
            logits (B, S, V) or (T, V), zero at unattended positions; loss, the mean cross-entropy
            over labelled positions, if labels are given.
        """
        tokens = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        encoded: EncoderOutput = self.encoder(*tokens, reads="all", **options)
        words = self.encoder.embeddings.word_matrix
        packed: Tensor = self.masked_lm_head(encoded.get("last_hidden_state"), words)  # (..., V)
        logits = encoded.layout.unpack(packed)
        loss = {} if labels is None else {"loss": _token_loss(encoded, packed, labels, logits)}
        rest = encoded.records() if len(encoded) > 1 else {}
        output = HeadOutput(**loss, logits=logits, **rest)
        return output if return_dict is not False else output.to_tuple()


class ForPreTraining(TaskModel):
    """Predict masked tokens, and answer a question about two segments.

    Attributes:
        pair_head_name: name of the module that scores the two answers, H -> 2.
        pair_label: name of the argument with the right answers.
        pair_logits_name: name of the scores in the output.
        output_class: class of the output of forward.
    """

    pair_head_name: ClassVar[str]
    pair_label: ClassVar[str]
    pair_logits_name: ClassVar[str]
    output_class: ClassVar[type[ModelOutput]]

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=True)
        self.masked_lm_head = self.new_masked_lm_head()
        self.dropout = Dropout(dropout)
        setattr(self, self.pair_head_name, self.new_linear(2))

    @property
    def sentence_pair_head(self) -> nn.Linear:
        """The linear layer that scores the two answers, H -> 2."""
        head: nn.Linear = getattr(self, self.pair_head_name)
        return head

    def pair_logits(self, encoded: EncoderOutput) -> Tensor:
        """The (B, 2) scores of the answers, from the pooled first token of every sequence."""
        logits: Tensor = self.sentence_pair_head(self.dropout(self.pool(encoded)))
        return logits

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Unpack[EncoderOptions],
    ) -> Any:
        """Score the vocabulary at every position, and the two answers for each sequence.

        Args:
            labels: (B, S) or (T,) int64 true ids; -100 = no loss here.
            next_sentence_label: for BERT; (B,) int64, 0 = the second segment follows, 1 = it is a
                random one.
            sentence_order_label: for ALBERT; (B,) int64, 0 = original order, 1 = swapped.
            others: as in `EncoderModel.forward`.

        Returns:
            `BertPreTrainingOutput` or `AlbertPreTrainingOutput`: prediction_logits (B, S, V) or
            (T, V); seq_relationship_logits or sop_logits (B, 2), always two classes (differs from
            Hugging Face's ALBERT, where `num_labels` changes them and breaks the loss); loss, the
            sum of the mean cross-entropies whose labels were given (differs from Hugging Face,
            which needs both).

        Raises:
            InputError: a label of the other architecture is given, or as in `EncoderModel.forward`.
        """
        pair_labels, other = sentence_order_label, next_sentence_label
        if self.pair_label == "next_sentence_label":
            pair_labels, other = other, pair_labels
        if other is not None:
            raise InputError(f"{type(self).__name__} takes only {self.pair_label}.")
        tokens = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        encoded: EncoderOutput = self.encoder(*tokens, reads="all", **options)
        words = self.encoder.embeddings.word_matrix
        packed: Tensor = self.masked_lm_head(encoded.get("last_hidden_state"), words)  # (..., V)
        logits = encoded.layout.unpack(packed)
        pair_logits = self.pair_logits(encoded)  # (B, 2)
        losses = []
        if labels is not None:
            losses.append(_token_loss(encoded, packed, labels, logits))
        if pair_labels is not None:
            check_labels(self.pair_label, pair_labels, 2, (pair_logits.shape[0],))
            losses.append(token_loss(pair_logits, pair_labels))
        predictions = {"prediction_logits": logits, self.pair_logits_name: pair_logits}
        loss = {"loss": torch.stack(losses).sum()} if losses else {}
        rest = encoded.records()
        output = self.output_class(**loss, **predictions, **rest)
        return output if return_dict is not False else output.to_tuple()


class ForSequenceClassification(TaskModel):
    """Predict one label, several labels or a number for a text or a pair of texts."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=True)
        self.dropout = Dropout(dropout)
        self.classifier = self.new_linear(config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Unpack[EncoderOptions],
    ) -> HeadOutput:
        """Classify each sequence.

        Args:
            labels: (B,) int64 classes; (B, C) numbers for regression or, in [0, 1], for several
                labels; (B,) where C is 1.
            others: as in `EncoderModel.forward`.

        Returns:
            logits (B, C); loss, the mean over sequences, by `config.problem_type` or, if that is
            None, by the kind of labels (see `sequence_loss`).

        Raises:
            InputError: labels do not fit. Whether several labels are in [0, 1] is checked only on
                the CPU: on other devices the call would have to wait for the values.
        """
        tokens = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        encoded: EncoderOutput = self.encoder(*tokens, reads="first", **options)
        logits: Tensor = self.classifier(self.dropout(self.pool(encoded)))  # (B, C)
        loss = {}
        if labels is not None:
            kind = problem_type(self.config.problem_type, logits, labels)
            if kind == "single_label_classification":
                check_labels("labels", labels, self.config.num_labels, (logits.shape[0],))
            loss = {"loss": sequence_loss(logits, labels, kind)}  # checks the shape of labels
            if kind == "multi_label_classification":
                check_shares("labels", labels)
        rest = encoded.records() if len(encoded) > 1 else {}
        output = HeadOutput(**loss, logits=logits, **rest)
        return output if return_dict is not False else output.to_tuple()


class ForTokenClassification(TaskModel):
    """Predict a label for every token, as in named-entity recognition."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=False)
        self.dropout = Dropout(dropout)
        self.classifier = self.new_linear(config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Unpack[EncoderOptions],
    ) -> HeadOutput:
        """Classify each token.

        Args:
            labels: (B, S) or (T,) int64 classes; -100 = no label here.
            others: as in `EncoderModel.forward`.

        Returns:
            logits (B, S, C) or (T, C), zero at unattended positions; loss, the mean cross-entropy
            over labelled positions, if labels are given.
        """
        tokens = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        encoded: EncoderOutput = self.encoder(*tokens, reads="all", **options)
        packed: Tensor = self.classifier(self.dropout(encoded.get("last_hidden_state")))  # (..., C)
        logits = encoded.layout.unpack(packed)
        loss = {} if labels is None else {"loss": _token_loss(encoded, packed, labels, logits)}
        rest = encoded.records() if len(encoded) > 1 else {}
        output = HeadOutput(**loss, logits=logits, **rest)
        return output if return_dict is not False else output.to_tuple()


class ForQuestionAnswering(TaskModel):
    """Predict where the answer to a question starts and ends in the text."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=False)
        self.dropout = Dropout(dropout)
        self.span_head = self.new_linear(2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Unpack[EncoderOptions],
    ) -> QuestionAnsweringOutput:
        """Score every token as start and as end of the answer.

        Args:
            start_positions, end_positions: (B,) int64, counted within each row or sequence;
                positions beyond the row count as unlabelled.
            others: as in `EncoderModel.forward`.

        Returns:
            start_logits and end_logits (B, S) or (T,), the lowest finite value at unattended
            positions (differs from Hugging Face, where an argmax can land on padding); loss, the
            mean of both cross-entropies over attended positions, if positions are given.

        Raises:
            InputError: a position is that of an unattended token.
        """
        tokens = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        encoded: EncoderOutput = self.encoder(*tokens, reads="all", **options)
        layout = encoded.layout
        packed: Tensor = self.span_head(self.dropout(encoded.get("last_hidden_state")))  # (..., 2)
        lowest = torch.finfo(packed.dtype).min
        start_logits, end_logits = layout.unpack(packed, lowest).unbind(-1)
        loss = {}
        if start_positions is not None and end_positions is not None:
            rows = layout.to_padded(packed, lowest)  # (B, S, 2)
            attended = layout.to_padded(torch.ones_like(packed[..., 0], dtype=torch.bool), False)
            _check_positions("start_positions", start_positions, attended)
            _check_positions("end_positions", end_positions, attended)
            span = span_loss(rows[..., 0], rows[..., 1], start_positions, end_positions)
            loss = {"loss": span}
        rest = encoded.records() if len(encoded) > 1 else {}
        output = QuestionAnsweringOutput(
            **loss,
            start_logits=start_logits,
            end_logits=end_logits,
            **rest,
        )
        return output if return_dict is not False else output.to_tuple()


class ForMultipleChoice(TaskModel):
    """Choose the best of several continuations, each scored separately."""

    def __init__(self, config: EncoderConfig, *, dropout: float) -> None:
        super().__init__(config, pools=True)
        self.dropout = Dropout(dropout)
        self.classifier = self.new_linear(1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        lengths: Tensor | Sequence[Sequence[int]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> HeadOutput:
        """Score the choices of each question.

        Args:
            input_ids: (B, C, S) int64; or (T,) for a packed call, choice after choice.
            attention_mask, token_type_ids, position_ids: like input_ids.
            labels: (B,) int64, the number of the right choice.
            inputs_embeds: (B, C, S, E) or (T, E).
            lengths: (B, C) sequence lengths of a packed call.
            others: as in `EncoderModel.forward`, for B * C rows.

        Returns:
            logits (B, C); loss, the mean cross-entropy over questions, if labels are given.
        """
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is None:
            raise InputError("Give exactly one of input_ids and inputs_embeds.")
        if lengths is None:
            if tokens.dim() != (3 if input_ids is not None else 4):
                raise InputError(
                    f"Expected (B, C, S) inputs, one row per choice; got {tuple(tokens.shape)}."
                )
            choices = tokens.shape[1]
        else:
            lengths = torch.as_tensor(lengths, device=tokens.device)
            if lengths.dim() != 2:
                raise InputError(f"lengths has shape {tuple(lengths.shape)}: expected (B, C).")
            choices = lengths.shape[1]

        def flat(values: Tensor | None) -> Tensor | None:
            if values is None or lengths is not None or values.dim() < 3:
                return values  # the same row for all, or packed
            return values.flatten(0, 1)

        encoded: EncoderOutput = self.encoder(
            flat(input_ids),
            flat(attention_mask),
            flat(token_type_ids),
            flat(position_ids),
            reads="first",
            inputs_embeds=flat(inputs_embeds),
            lengths=None if lengths is None else lengths.flatten(),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        scores: Tensor = self.classifier(self.dropout(self.pool(encoded)))  # (B * C, 1)
        logits = scores.view(-1, choices)  # (B, C)
        loss = {}
        if labels is not None:
            check_labels("labels", labels, choices, (logits.shape[0],))
            loss = {"loss": token_loss(logits, labels)}
        rest = encoded.records() if len(encoded) > 1 else {}
        output = HeadOutput(**loss, logits=logits, **rest)
        return output if return_dict is not False else output.to_tuple()


def _token_loss(encoded: EncoderOutput, packed: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    """The mean cross-entropy of (..., C) logits in the inner order; labels in the caller's."""
    shape = tuple(logits.shape[:-1])
    return token_loss(packed, pack_labels(encoded.layout, labels, packed.shape[-1], shape))


def _check_positions(name: str, positions: Tensor, attended: Tensor) -> None:
    """Raise InputError unless all positions are (B,) int64 and point at attended tokens."""
    batch, length = attended.shape
    if tuple(positions.shape) != (batch,) or positions.dtype != torch.int64:
        raise InputError(
            f"{name} has shape {tuple(positions.shape)} and dtype {positions.dtype}: expected "
            f"({batch},) int64."
        )
    if kernels.recording(positions):
        return
    inside = positions.clamp(0, length) < length
    found = attended.gather(1, positions.clamp(0, length - 1)[:, None])[:, 0]
    if bool((inside & ~found).any()):
        row = int((inside & ~found).nonzero()[0])
        raise InputError(
            f"{name}[{row}] is {int(positions[row])}, an unattended position. If there is no "
            "answer, give a position beyond the row."
        )
