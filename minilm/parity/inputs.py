"""Batches of sequences of unequal length with labels, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from minilm.config import EncoderConfig
from minilm.errors import InputError
from minilm.losses.elementary import IGNORED_LABEL
from minilm.models.pretrained import PretrainedModel

MASKS = ("none", "right", "left", "holes", "empty row")
CHOICES = 2  # rows per question in a batch for multiple choice


@dataclass(frozen=True, eq=False)
class Inputs:
    """One batch of sequences of unequal length.

    Attributes:
        mask: the kind of mask, one of `MASKS`.
        input_ids: (B, S) int64; unattended positions hold random ids, too.
        attended: (B, S) bool.
        token_type_ids: (B, S) int64, or None for a model without token types.
        labels: label arguments by name, as for a padded call.
    """

    mask: str
    input_ids: Tensor
    attended: Tensor
    token_type_ids: Tensor | None
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def attention_mask(self) -> Tensor | None:
        """(B, S) int64, or None for the mask kind "none"."""
        return None if self.mask == "none" else self.attended.long()


def ragged_inputs(
    config: EncoderConfig,
    mask: str,
    *,
    seed: int = 0,
    length: int | None = None,
    labels_for: type[PretrainedModel] | None = None,
) -> Inputs:
    """Draws six rows of random ids and token types with one kind of mask.

    Args:
        config: configuration of the model that will read them.
        mask: one of `MASKS`: everything attended; padding on the right or on the left; holes
            anywhere but in column 0; padding on the right with one row that attends to nothing.
        seed: seed of all random numbers.
        length: S; None = 16, or less if the model accepts less.
        labels_for: also draw labels for this class.

    Raises:
        InputError: the kind of mask is unknown.
    """
    if mask not in MASKS:
        raise InputError(f"mask is {mask!r}: expected one of {', '.join(MASKS)}.")
    generator = torch.Generator().manual_seed(seed)
    size = length or min(16, config.max_position_embeddings)
    # unsorted, with two equal lengths, so that a packed batch has to reorder and group them
    shares = (1.0, 0.6, 0.6, 0.0, 0.3, 1.0)
    counts = torch.tensor([max(1, round(share * size)) for share in shares])  # (B,)
    shape = (len(shares), size)
    ids = torch.randint(config.vocab_size, shape, generator=generator)
    types = getattr(config, "type_vocab_size", 0)
    token_types = torch.randint(types, shape, generator=generator) if types else None
    column = torch.arange(size)
    if mask == "none":
        attended = torch.ones(shape, dtype=torch.bool)
    elif mask == "left":
        attended = column >= size - counts[:, None]
    elif mask == "holes":
        attended = (torch.rand(shape, generator=generator) < 0.6) | (column == 0)
    else:
        counts[2] *= mask != "empty row"
        attended = column < counts[:, None]
    inputs = Inputs(mask, ids, attended, token_types)
    if labels_for is not None:
        inputs = replace(inputs, labels=random_labels(labels_for, config, inputs, generator))
    return inputs


def random_labels(
    model: type[PretrainedModel],
    config: EncoderConfig,
    inputs: Inputs,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Draws labels for a class, of the kind that its configuration asks for.

    Args:
        model: a minilm class; a base model has no labels.
        config: its configuration; `num_labels` and `problem_type` are used.
        inputs: the batch; labels are at its attended positions.
        generator: source of randomness.

    Returns:
        Label arguments by name.
    """
    rows, size = inputs.attended.shape
    head = model.__name__

    def numbers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    if head.endswith("SequenceClassification"):
        several = config.problem_type == "multi_label_classification"
        if several or config.problem_type == "regression" or config.num_labels == 1:
            real = torch.rand((rows, config.num_labels), generator=generator).double()
            return {"labels": real.round() if several else real}
        return {"labels": numbers(config.num_labels, rows)}
    if head.endswith("NextSentencePrediction"):
        return {"labels": numbers(2, rows)}
    if head.endswith("MultipleChoice"):
        return {"labels": numbers(CHOICES, rows // CHOICES)}
    if head.endswith("QuestionAnswering"):
        # a row that attends to nothing has no answer, which is a position beyond the row
        scores = torch.rand((2, rows, size), generator=generator).masked_fill(~inputs.attended, -1)
        best, positions = scores.max(dim=-1)  # (2, B)
        start, end = torch.where(best < 0, size, positions)
        return {"start_positions": start, "end_positions": end}
    if not head.endswith(("MaskedLM", "TokenClassification", "PreTraining")):
        return {}
    classes = config.num_labels if head.endswith("TokenClassification") else config.vocab_size
    labelled = torch.rand((rows, size), generator=generator) < 0.5
    labelled[0] = True  # so that no batch is without a label
    labelled &= inputs.attended
    labels = {"labels": numbers(classes, rows, size).masked_fill(~labelled, IGNORED_LABEL)}
    if head == "BertForPreTraining":
        labels["next_sentence_label"] = numbers(2, rows)
    if head == "AlbertForPreTraining":
        labels["sentence_order_label"] = numbers(2, rows)
    return labels
