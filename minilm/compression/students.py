"""Builds a student of any architecture and shape from its teacher's weights, where they fit.

References: Sanh et al. 2019, section 3; scripts/extract_distilbert.py of the released code. For
students that share layers: Bae et al. 2024, Relaxed Recursive Transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch

from minilm.blocks.heads import MaskedLMHead
from minilm.blocks.initialisation import materialize, on_meta
from minilm.blocks.transformer import TransformerLayer
from minilm.compression.starts import STARTS, LayerChoice, Start, chosen_layers, sources_of
from minilm.compression.transfer import Transfer
from minilm.config import AlbertConfig, BertConfig, DistilBertConfig, EncoderConfig
from minilm.errors import ConfigError, InputError, argument, by_place, setting
from minilm.files.progress import counted
from minilm.models.albert import AlbertForMaskedLM, AlbertModel
from minilm.models.bert import BertForMaskedLM, BertModel
from minilm.models.distilbert import DistilBertForMaskedLM, DistilBertModel
from minilm.models.encoder import EncoderModel
from minilm.models.int8 import is_int8, to_float
from minilm.models.pretrained import PretrainedModel

Architecture = Literal["distilbert", "albert", "bert"]
_CLASSES: dict[str, tuple[type[EncoderModel], type[PretrainedModel], type[EncoderConfig]]] = {
    "distilbert": (DistilBertModel, DistilBertForMaskedLM, DistilBertConfig),
    "albert": (AlbertModel, AlbertForMaskedLM, AlbertConfig),
    "bert": (BertModel, BertForMaskedLM, BertConfig),
}
# fields that a student inherits from its teacher, unless they are given
_SAME = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "layer_norm_eps",
    "initializer_range",
    "initializer",
    "pad_token_id",
)


# names of configuration fields on the command line
_COMMAND_NAMES = {
    "num_hidden_layers": "layers",
    "num_hidden_groups": "groups",
    "inner_group_num": "inner_layers",
}


@torch.no_grad()
def init_student(
    teacher: PretrainedModel,
    layers: LayerChoice | None = None,
    *,
    student: Architecture = "distilbert",
    start: Start | Sequence[int] | None = None,
    fold_token_types: bool = True,
    copy_mlm_transform: bool = True,
    freeze_position_embeddings: bool = False,
    masked_lm: bool | None = None,
    **shape: Any,
) -> PretrainedModel:
    """Build a student of any architecture and shape from its teacher's weights, where they fit.

    Parts of the same shape are copies, equal to the teacher's to the bit: layers, embeddings
    (except for the fold) and the masked-LM head. Embeddings of another width are projections of the
    teacher's on the directions of most variance (see `minilm.compression.factorisation`), with the
    head converted accordingly. Narrower feed-forward blocks have the teacher's neurons with the
    largest weights. All other parts are drawn at random. `student.student_report` lists every part.

    An ALBERT has `inner_group_num` times `num_hidden_groups` layers of its own and applies
    `num_hidden_layers` times `inner_group_num`: 3 layers used 4 times are `inner_group_num=3,
    num_hidden_layers=4`, in the order 0, 1, 2, 0, 1, 2, ...; with `num_hidden_groups=3,
    num_hidden_layers=12` the order is 0, 0, 0, 0, 1, 1, 1, 1, ....

    Args:
        teacher: a BERT, DistilBERT or ALBERT, with any head or none.
        layers: which of the teacher's layers the student's are made of, counted from 0:
            "every_other" = 0, 2, 4, ...; "published" = 0, 2, 4, 7, 9, 11, as in the released
            DistilBERT (only for 12 layers); or numbers, in the student's order. They also determine
            the number of the student's layers. None = "every_other", except for an ALBERT and if
            `num_hidden_layers` or `start` is given; with `start` alone the number is the same.
        student: the student's architecture.
        start: which of the teacher's layers the student's start from, if the shape determines their
            number: "interval" = at equal distances, including the first and the last;
            "average" = the mean of all layers that a shared one replaces; "random" = none; or
            numbers, one for each. None = "average" if layers are shared, else "interval".
        fold_token_types: if the student has no token types, add the teacher's vector of token type
            0 to every position vector. The student's embeddings then compute what the teacher's do
            for a single segment. Differs from the released script, which leaves that vector out.
        copy_mlm_transform: copy the dense layer and norm of the masked-LM head; otherwise they are
            drawn at random, as in the released script by default. The bias is always copied.
        freeze_position_embeddings: do not train the position table of this student, as in the
            released training. This is not saved: a loaded student is trained as a whole.
        masked_lm: True = with a masked-LM head, which the teacher must have; False = without;
            None = as in the teacher.
        **shape: fields of the student's configuration, such as `num_hidden_layers`, `hidden_size`,
            `num_attention_heads`, `intermediate_size`, `max_position_embeddings`, `vocab_size`,
            and for an ALBERT `embedding_size`, `inner_group_num`, `num_hidden_groups`. Others are
            those of the teacher; an ALBERT applies as many layers as its teacher, and has one,
            unless the numbers are given. With another vocabulary or number of positions, the first
            entries are the teacher's.

    Returns:
        The student in eval mode, `…ForMaskedLM` or, without a head, `…Model`, with the teacher's
        device, dropouts and activation. Its weights are float32, or float64 if the teacher's are: a
        student of a float16 or bfloat16 teacher holds the same numbers in float32, because an
        optimiser's small steps are lost in 16 bits. For inference only, convert it:
        `student.half()`.

    Raises:
        InputError: the teacher is not a model of minilm or lacks the head, a layer does not exist,
            or numbers contradict each other.
        ConfigError: the student's configuration does not have or accept a field; or the teacher's
            `layer_norm_eps` is not DistilBERT's, 1e-12.

    Example:
        >>> teacher = minilm.BertForMaskedLM(minilm.BertConfig(num_hidden_layers=4))
        >>> student = minilm.init_student(teacher)
        >>> student.config.num_hidden_layers, student.num_parameters() < teacher.num_parameters()
        (2, True)
        >>> shared = minilm.init_student(teacher, student="albert", embedding_size=128)
        >>> shared.student_report.layers
        ((0, 1, 2, 3),)
    """
    if not isinstance(teacher, PretrainedModel):
        raise InputError(
            f"teacher is a {type(teacher).__name__}: expected a model of minilm, such as "
            "BertForMaskedLM; minilm.load reads one from a directory or hub name."
        )
    if student not in _CLASSES:
        raise InputError(
            f"student is {student!r}: expected one of {', '.join(map(repr, _CLASSES))}."
        )
    if is_int8(teacher):
        teacher = to_float(teacher)  # the student starts from the dequantised weights
    source_head = getattr(teacher, "masked_lm_head", None)
    if masked_lm and source_head is None:
        raise InputError(
            f"The teacher, a {type(teacher).__name__}, has no masked-LM head to copy. Load it as "
            "BertForMaskedLM or BertForPreTraining, or leave masked_lm out for a student without."
        )
    taught = cast("list[TransformerLayer]", list(teacher.base.virtual_layers()))
    chosen, config = _planned(teacher, layers, student, start, shape, len(taught))

    base_class, masked_lm_class, _ = _CLASSES[student]
    with_head = isinstance(source_head, MaskedLMHead) and masked_lm is not False
    pooled = teacher.base.pooler is not None and student != "distilbert"
    with on_meta():
        if with_head:
            made: PretrainedModel = masked_lm_class(config)
        else:
            made = base_class(config, add_pooling_layer=pooled)
    materialize(made, torch.promote_types(teacher.dtype, torch.float32), teacher.device)

    transfer = Transfer(teacher, made)
    mapped = transfer.embeddings(fold_token_types)
    sources = sources_of(chosen, list(made.base.virtual_layers()), len(taught))
    sources = transfer.layers(taught, sources)
    if isinstance(source_head, MaskedLMHead) and with_head:
        transfer.masked_lm_head(source_head, mapped, taught[-1], copy_mlm_transform)
    transfer.pooler()
    made.student_report = transfer.report(sources, mapped)
    made.base.embeddings.position.weight.requires_grad_(not freeze_position_embeddings)
    return made.eval()


def _named(field: str) -> str:
    """The name of a configuration field as in Python or on the command line."""
    return by_place(python=field, command=argument(_COMMAND_NAMES[field]))


def _planned(
    teacher: PretrainedModel,
    layers: LayerChoice | None,
    student: Architecture,
    start: Start | Sequence[int] | None,
    shape: dict[str, Any],
    depth: int,
) -> tuple[Start | tuple[int, ...], EncoderConfig]:
    """The layers that the student's layers start from, and its configuration."""
    if layers is not None and start is not None:
        raise InputError(
            f"{argument('layers')} is {layers!r} and {argument('start')} is {start!r}: give one of "
            "the two. The first also determines the number of the student's layers; with the "
            "second the shape does."
        )
    if isinstance(start, str) and start not in STARTS:
        raise InputError(
            f"{argument('start')} is {start!r}: expected "
            f"{', '.join(map(repr, STARTS))}, or numbers of the "
            f"teacher's layers, 0 to {depth - 1}."
        )
    shape = dict(shape)
    for name in ("num_hidden_layers", "num_hidden_groups", "inner_group_num"):
        if name in shape:  # checked before they are computed with
            _CLASSES[student][2](**{name: shape[name]})
    if layers is None and start is None and student != "albert":
        layers = None if "num_hidden_layers" in shape else "every_other"
    chosen: Start | tuple[int, ...]
    if layers is not None:
        chosen = chosen_layers(layers, depth)
    elif start is not None and not isinstance(start, str):
        chosen = chosen_layers(cast(LayerChoice, start), depth, "start")
    else:
        chosen = start or "interval"
    given = None if isinstance(chosen, str) else len(chosen)

    if student == "albert":
        groups = shape.setdefault("num_hidden_groups", 1)
        inner = shape.setdefault("inner_group_num", max(1, (given or 1) // max(1, groups)))
        if "num_hidden_layers" not in shape:
            if depth % inner:
                raise InputError(
                    f"The teacher has {counted(depth, 'layer')}, no multiple of "
                    f"{_named('inner_group_num')} {inner}: give {_named('num_hidden_layers')}, the "
                    "number of times that the student applies them."
                )
            shape["num_hidden_layers"] = depth // inner
        count = groups * inner
        if groups > shape["num_hidden_layers"]:
            raise InputError(
                f"{_named('num_hidden_groups')} is {groups} for only "
                f"{counted(shape['num_hidden_layers'], 'application')} "
                f"({_named('num_hidden_layers')}): some groups would never be applied."
            )
    else:
        usual = given or len(chosen_layers("every_other", depth))
        inner, count = 1, shape.setdefault("num_hidden_layers", usual)
    if layers is None and start is None and count < shape["num_hidden_layers"] * inner:
        chosen = "average"
    config = _config(teacher, student, shape)
    if given is not None and given != count:
        raise InputError(
            f"The choice has {counted(given, 'layer')} of the teacher, but the student has {count} "
            "of its own: choose one for each."
        )
    return chosen, config


def _config(
    teacher: PretrainedModel, student: Architecture, shape: dict[str, Any]
) -> EncoderConfig:
    """The configuration: the teacher's values of fields that both have, and the given ones."""
    source, config_class = teacher.config, _CLASSES[student][2]
    values = {name: getattr(source, name) for name in _SAME}
    hidden = shape.get("hidden_size", source.hidden_size)
    if hidden != source.hidden_size:
        # heads as wide as the teacher's, feed-forward blocks in the same ratio to the width
        width = source.hidden_size // source.num_attention_heads
        if hidden % width == 0:
            values["num_attention_heads"] = hidden // width
        values["intermediate_size"] = source.intermediate_size * hidden // source.hidden_size
    epsilon = shape.get("layer_norm_eps", source.layer_norm_eps)
    if config_class is DistilBertConfig and epsilon != 1e-12:
        raise ConfigError(
            f"The teacher's layer_norm_eps is {source.layer_norm_eps}, but a DistilBERT has 1e-12, "
            "and its config.json no key for another value. If so small a difference does no harm, "
            f"load the teacher with {setting('layer_norm_eps', 1e-12)}."
        )
    if config_class is not DistilBertConfig:
        values["type_vocab_size"] = getattr(source, "type_vocab_size", 2)
    if config_class is AlbertConfig:
        usual = source if isinstance(source, AlbertConfig) else AlbertConfig()
        values["embedding_size"] = min(usual.embedding_size, hidden)
    config = config_class(**{**values, **shape})
    if isinstance(config, AlbertConfig) and config.embedding_size < 2:
        raise InputError(
            f"embedding_size is {config.embedding_size}: the norm of the embeddings would turn a "
            "single number into 0. Expected 2 or more."
        )
    return config
