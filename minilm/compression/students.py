"""A student made of some of its teacher's layers.

References: Sanh et al. 2019, section 3; scripts/extract_distilbert.py of the released code.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from minilm.blocks.heads import MaskedLMHead
from minilm.blocks.initialisation import materialize, on_meta
from minilm.config import DistilBertConfig
from minilm.errors import ConfigError, InputError, setting
from minilm.models.bert import BertModel
from minilm.models.distilbert import DistilBertForMaskedLM, DistilBertModel
from minilm.models.pretrained import PretrainedModel

LayerChoice = Literal["every_other", "published"] | list[int] | tuple[int, ...] | range

# what the released DistilBERT was made of; the paper says "one layer out of two"
PUBLISHED_LAYERS = (0, 2, 4, 7, 9, 11)
PUBLISHED_DEPTH = 12


@torch.no_grad()
def init_student(
    teacher: PretrainedModel,
    layers: LayerChoice = "every_other",
    *,
    fold_token_types: bool = True,
    copy_mlm_transform: bool = True,
    freeze_position_embeddings: bool = False,
    masked_lm: bool | None = None,
) -> DistilBertForMaskedLM | DistilBertModel:
    """Build a DistilBERT from a BERT of any depth.

    The embeddings, the chosen layers and the masked-LM head are copies, equal to the teacher's to
    the bit (except for the fold). A DistilBERT has no token types, pooler or other heads.

    Args:
        teacher: a BertModel, or a BERT with any head.
        layers: which of the teacher's layers, counted from 0: "every_other" = 0, 2, 4, ...;
            "published" = 0, 2, 4, 7, 9, 11, what the released DistilBERT was made of (12 layers
            only); or numbers, in the student's order.
        fold_token_types: add the teacher's vector of token type 0 to every position vector. The
            student's embeddings then compute what the teacher's do for a single segment. Differs
            from the released script, which leaves that vector out.
        copy_mlm_transform: copy the dense layer and norm of the masked-LM head; otherwise they
            start fresh, as in the released script by default. Its bias is always copied.
        freeze_position_embeddings: do not train the position table of this student, as in the
            released training. Nothing of it is saved: who loads the student trains all of it.
        masked_lm: True = with a masked-LM head, which the teacher must have; False = without;
            None = as the teacher has it.

    Returns:
        The student in eval mode, with the teacher's device, dropouts and activation. Its weights
        are float32, or float64 if the teacher's are: a student of a float16 or bfloat16 teacher
        holds the same numbers in float32, because an optimiser's small steps are lost in 16 bits.
        For inference alone convert it: `student.half()`.

    Raises:
        InputError: the teacher is not a BERT or lacks the head, or a layer that does not exist.
        ConfigError: the teacher's `layer_norm_eps` is not DistilBERT's, 1e-12.

    Example:
        >>> teacher = minilm.BertForMaskedLM(minilm.BertConfig(num_hidden_layers=4))
        >>> student = minilm.init_student(teacher)
        >>> student.config.num_hidden_layers, student.num_parameters() < teacher.num_parameters()
        (2, True)
    """
    source = teacher.base if isinstance(teacher, PretrainedModel) else None
    if not isinstance(source, BertModel):
        raise InputError(
            f"teacher is a {type(teacher).__name__}: expected a BERT, such as BertForMaskedLM, "
            "BertForPreTraining or BertModel. Layers of other models cannot start a DistilBERT; in "
            "fine-tuning, name the student's own model instead of layers."
        )
    source_head = getattr(teacher, "masked_lm_head", None)
    if masked_lm and source_head is None:
        raise InputError(
            f"The teacher, a {type(teacher).__name__}, has no masked-LM head to copy. Load it as "
            "BertForMaskedLM or BertForPreTraining, or leave masked_lm out for a DistilBertModel."
        )
    chosen = chosen_layers(layers, len(source.layers))
    config = _config(source, len(chosen))

    with_head = isinstance(source_head, MaskedLMHead) and masked_lm is not False
    student: DistilBertForMaskedLM | DistilBertModel
    with on_meta():
        student = DistilBertForMaskedLM(config) if with_head else DistilBertModel(config)
    materialize(student, torch.promote_types(teacher.dtype, torch.float32), teacher.device)

    target = student.base
    assert isinstance(target, DistilBertModel)
    for part in ("word", "position", "norm"):
        _copy(getattr(source.embeddings, part), getattr(target.embeddings, part))
    if fold_token_types:
        assert source.embeddings.token_type is not None
        target.embeddings.position.weight.add_(source.embeddings.token_type.weight[0])
    for copy, number in zip(target.layers, chosen, strict=True):
        _copy(source.layers[number], copy)
    if isinstance(student, DistilBertForMaskedLM):
        assert isinstance(source_head, MaskedLMHead)
        head = student.masked_lm_head
        _copy(source_head, head)
        if not copy_mlm_transform:
            student._initialise(head.dense)
            student._initialise(head.norm)
    target.embeddings.position.weight.requires_grad_(not freeze_position_embeddings)
    return student.eval()


def chosen_layers(layers: LayerChoice, depth: int) -> tuple[int, ...]:
    """The numbers of the teacher's layers that a choice means.

    Args:
        layers: as for `init_student`.
        depth: how many layers the teacher has.

    Raises:
        InputError: names what exists.
    """
    if isinstance(layers, str):
        if layers == "every_other":
            return tuple(range(0, depth, 2))
        if layers == "published":
            return _published(depth)
    elif isinstance(layers, list | tuple | range) and len(layers) > 0:
        for number in layers:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < depth:
                raise InputError(
                    f"layers contains {number!r}: the teacher has layers 0 to {depth - 1}."
                )
        return tuple(layers)
    raise InputError(
        f"layers is {layers!r}: expected 'every_other', 'published' or numbers from 0 to "
        f"{depth - 1}, at least one."
    )


def _published(depth: int) -> tuple[int, ...]:
    if depth != PUBLISHED_DEPTH:
        raise InputError(
            f"layers is 'published', which is {PUBLISHED_LAYERS} of {PUBLISHED_DEPTH} layers; the "
            f"teacher has {depth}. Use 'every_other' or give numbers."
        )
    return PUBLISHED_LAYERS


def _config(source: BertModel, depth: int) -> DistilBertConfig:
    """The teacher's configuration, as far as a DistilBERT has the same fields."""
    if source.config.layer_norm_eps != 1e-12:
        raise ConfigError(
            f"The teacher's layer_norm_eps is {source.config.layer_norm_eps}, a DistilBERT has "
            "1e-12 and its config.json no key for another. If so small a difference does no harm, "
            f"load the teacher with {setting('layer_norm_eps', 1e-12)}."
        )
    shared = (
        "vocab_size",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "max_position_embeddings",
        "initializer_range",
        "initializer",
        "pad_token_id",
    )
    return DistilBertConfig(
        **{name: getattr(source.config, name) for name in shared},
        num_hidden_layers=depth,
    )


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())
