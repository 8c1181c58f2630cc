"""What a distillation loss reads from a model: states of packed tokens, not the model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from minilm.errors import InputError
from minilm.losses.top_predictions import TopPredictions
from minilm.losses.vocabulary import LogitInputs

# parts of one layer application: its output, and what its attention computes from its input
LayerPart = Literal["output", "query", "key", "value"]
# the applications, counted from 0, and the parts of each that are read
LayerReads = Mapping[int, tuple[LayerPart, ...]]


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of a model's layers, for a loss that compares them.

    Attributes:
        depth: L, the number of layer applications; a shared layer counts each time it is applied.
        width: H.
        heads: A, attention heads.
    """

    depth: int
    width: int
    heads: int


@dataclass(frozen=True, eq=False)
class States:
    """The states of a language model for packed tokens, and the parts that predict words from them.

    Attributes:
        hidden: (T, H) last hidden states.
        transform: (N, H) -> (N, E), the part of the masked-LM head before the vocabulary; None = no
            such head.
        matrix: (V, E) word embeddings.
        bias: (V,) bias of the masked-LM head; None = no such head.
        lengths: tokens of each sequence, in the order of the states; needed if sequences are
            compared.
        layers: for each application, the parts of it that are read, (T, H) each.
    """

    hidden: Tensor
    transform: Callable[[Tensor], Tensor] | None
    matrix: Tensor
    bias: Tensor | None
    lengths: tuple[int, ...] = ()
    layers: Mapping[int, Mapping[LayerPart, Tensor]] = field(default_factory=dict)

    def logit_inputs(self, where: Tensor | None) -> LogitInputs:
        """The inputs of the logits of the tokens with the numbers `where`; None = all tokens."""
        if self.transform is None or self.bias is None:
            raise InputError("These states come from a model without a masked-LM head.")
        rows = self.hidden if where is None else self.hidden.index_select(0, where)
        return LogitInputs(self.transform(rows), self.matrix, self.bias)

    def targets(self, where: Tensor | None) -> LogitInputs | TopPredictions:
        """The targets for another model's predictions for these tokens."""
        return self.logit_inputs(where)

    def part(self, layer: int, part: LayerPart) -> Tensor:
        """One part of one layer application, (T, H)."""
        return self.layers[layer][part]
