"""What models return: frozen dataclasses that also index and unpack like Hugging Face's.

    out = model(**batch)
    out.logits; out["logits"]; out[0]; loss, logits = out[:2]

Fields that are None do not exist for indexing, iterating and `keys()`. All classes are pytrees, so
they pass through torch.export, torch.func and DDP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor
from torch.utils import _pytree as pytree


class ModelOutput:
    """Tuple-like and dict-like access to the fields that are not None."""

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are not None, in order."""
        names = (spec.name for spec in dataclasses.fields(self))  # type: ignore[arg-type]
        return tuple(name for name in names if getattr(self, name) is not None)

    def to_tuple(self) -> tuple[Any, ...]:
        """Values of the fields that are not None, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    @overload
    def __getitem__(self, key: str | int) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{key!r} is not among {', '.join(self.keys())}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


@dataclass(frozen=True, eq=False)
class EncoderOutput(ModelOutput):
    """Of `BertModel`, `DistilBertModel` and `AlbertModel`.

    Attributes:
        last_hidden_state: (B, S, H), or (T, H) for a packed call; zero at unattended positions
            (differs from Hugging Face, whose values there mean nothing).
        pooler_output: (B, H), if the model has a pooler.
        hidden_states: one such tensor after the embeddings and after each layer, on request.
        attentions: one (B, A, S, S) tensor a layer, on request.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class HeadOutput(ModelOutput):
    """Of masked-LM, sequence, token and multiple-choice heads.

    Attributes:
        loss: scalar, if labels were given.
        logits: masked LM (B, S, V); token classes (B, S, C); sequence classes (B, C); choices
            (B, C). A packed call has (T, ...) instead of (B, S, ...).
        hidden_states, attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class QuestionAnsweringOutput(ModelOutput):
    """Of span heads.

    Attributes:
        loss: scalar mean of the start and end losses, if positions were given.
        start_logits, end_logits: (B, S), or (T,) for a packed call; the smallest finite value at
            unattended positions.
        hidden_states, attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class BertPreTrainingOutput(ModelOutput):
    """Of `BertForPreTraining`.

    Attributes:
        loss: scalar, the sum of the losses whose labels were given.
        prediction_logits: masked LM, (B, S, V) or (T, V).
        seq_relationship_logits: (B, 2); class 0 = the second segment follows, 1 = it is random.
        hidden_states, attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, eq=False)
class AlbertPreTrainingOutput(ModelOutput):
    """Of `AlbertForPreTraining`.

    Attributes:
        loss: scalar, the sum of the losses whose labels were given.
        prediction_logits: masked LM, (B, S, V) or (T, V).
        sop_logits: (B, 2); class 0 = original order, 1 = swapped.
        hidden_states, attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    sop_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


for _cls in (
    EncoderOutput,
    HeadOutput,
    QuestionAnsweringOutput,
    BertPreTrainingOutput,
    AlbertPreTrainingOutput,
):
    pytree.register_dataclass(_cls)
