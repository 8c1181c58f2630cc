"""Outputs of models: dictionaries with attributes, like Hugging Face's ModelOutput.

    out = model(**batch)
    out.logits; out["logits"]; out[0]; loss, logits = out.to_tuple()

A field that is None is not an item: `keys()`, iteration (over names) and positions leave it out;
only the attribute returns None. All classes are pytrees, so they work with torch.export,
torch.func, FSDP and DDP.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from minilm.blocks.layout import Layout


class _Carried(dict[str, Any]):
    """Attributes of an output that are not items: neither part of its tree structure nor copied."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Carried)

    def __deepcopy__(self, _: object) -> _Carried:
        return _Carried()


@torch.jit.ignore  # jit tracing must see a dictionary, not a class to compile
class ModelOutput(OrderedDict[str, Any]):
    """A dictionary whose items are also attributes and have positions: `out[0]`."""

    fields: ClassVar[frozenset[str]]

    def __init_subclass__(cls) -> None:
        cls.fields = frozenset(k for c in cls.__mro__ for k in inspect.get_annotations(c))

        def flatten(out: ModelOutput) -> tuple[list[Any], Any]:
            return list(out.values()), (tuple(out), _Carried(vars(out)))

        def unflatten(values: Iterable[Any], context: Any) -> ModelOutput:
            out = cls(zip(context[0], values, strict=True))
            vars(out).update(context[1])
            return out

        def flatten_with_keys(out: ModelOutput) -> tuple[list[Any], Any]:
            leaves, context = flatten(out)
            return [(pytree.MappingKey(k), v) for k, v in zip(out, leaves, strict=True)], context

        pytree.register_pytree_node(
            cls,
            flatten,
            unflatten,
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
            flatten_with_keys_fn=flatten_with_keys,
            to_dumpable_context=lambda context: list(context[0]),
            from_dumpable_context=lambda context: (tuple(context), _Carried()),
        )

    def to_tuple(self) -> Any:
        """The values in order, as a tuple."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return self.to_tuple()[key]

    def __getattr__(self, name: str) -> Any:
        if name in self.fields and name not in ("fields", "layout"):
            return self.get(name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}, only {', '.join(self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)

    def __copy__(self) -> Self:
        return type(self)(self)


class EncoderOutput(ModelOutput):
    """Output of `BertModel`, `DistilBertModel` and `AlbertModel`.

    Attributes:
        last_hidden_state: (B, S, H), or (T, H) for a packed call; zero at unattended positions
            (differs from Hugging Face, whose values there are meaningless).
        pooler_output: (B, H), if the model has a pooler.
        hidden_states: such a tensor after the embeddings and after each layer, on request.
        attentions: a (B, A, S, S) tensor for each layer, on request.
        layout: where sequences begin and end; not an item, and only present when a head calls its
            encoder. The last state is then (..., H) in the order of this layout, or (B, H), the
            states of first tokens.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    layout: Layout

    def records(self) -> dict[str, Any]:
        """The hidden states and attentions that were requested, for heads to pass on."""
        return {name: self[name] for name in ("hidden_states", "attentions") if name in self}


class HeadOutput(ModelOutput):
    """Output of masked-LM, sequence, token, next-sentence and multiple-choice heads.

    Attributes:
        loss: scalar, if labels were given.
        logits: masked LM (B, S, V); token classes (B, S, C); sequence classes (B, C); choices
            (B, C). A packed call has (T, ...) instead of (B, S, ...).
        hidden_states, attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class QuestionAnsweringOutput(ModelOutput):
    """Output of span heads.

    Attributes:
        loss: scalar mean of the start and end losses, if positions were given.
        start_logits, end_logits: (B, S), or (T,) for a packed call; the smallest finite value at
            unattended positions.
        hidden_states, attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class BertPreTrainingOutput(ModelOutput):
    """Output of `BertForPreTraining`.

    Attributes:
        loss: scalar, the sum of the losses whose labels were given.
        prediction_logits: masked LM, (B, S, V) or (T, V).
        seq_relationship_logits: (B, 2); class 0 = the second segment follows, 1 = it is random.
        hidden_states, attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None
    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class AlbertPreTrainingOutput(ModelOutput):
    """Output of `AlbertForPreTraining`.

    Attributes:
        loss: scalar, the sum of the losses whose labels were given.
        prediction_logits: masked LM, (B, S, V) or (T, V).
        sop_logits: (B, 2); class 0 = original order, 1 = swapped.
        hidden_states, attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None
    prediction_logits: Tensor
    sop_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
