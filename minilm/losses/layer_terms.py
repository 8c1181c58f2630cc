"""The terms that compare layers of a student and its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from minilm.errors import InputError, argument, setting
from minilm.files.progress import counted
from minilm.losses.elementary import LossSum
from minilm.losses.layer_states import LayerMap, hidden_cosine, hidden_mse, layer_pairs
from minilm.losses.relations import Relation, relation_divergence
from minilm.losses.states import LayerPart, LayerReads, LayerSizes, States

RelationKinds = Literal["qq_kk_vv", "qk_vv"]
HIDDEN_TERMS = ("hidden_cosine", "hidden_mse")
LAYER_TERMS = (*HIDDEN_TERMS, "attention", "relations")
PARTS: dict[str, LayerPart] = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True)
class LayerComparison:
    """Which layers of one student and one teacher are compared, and by which terms.

    Attributes:
        terms: the names among `LAYER_TERMS` that are computed.
        pairs: (student's application, teacher's layer), counted from 0.
        heads: attention heads of both, for "attention".
        relation_heads: see `DistillationLoss`.
        relation_kinds: see `DistillationLoss`.
    """

    terms: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    heads: int
    relation_heads: int
    relation_kinds: RelationKinds

    @classmethod
    def of(
        cls,
        student: LayerSizes,
        teacher: LayerSizes,
        *,
        terms: Sequence[str],
        layer_map: LayerMap,
        relation_kinds: RelationKinds,
        relation_heads: int | None,
    ) -> LayerComparison:
        """The comparison for models of these sizes.

        Args:
            student, teacher: depth, width and heads of both.
            terms: the names among `LAYER_TERMS` to compute.
            layer_map, relation_kinds, relation_heads: see `DistillationLoss`.

        Raises:
            InputError: the layer map does not fit them, or heads that a term needs do not.
        """
        if "attention" in terms and student.heads != teacher.heads:
            raise InputError(
                f"{argument('attention')} compares attention maps head by head, but the student "
                f"has {counted(student.heads, 'attention head')} and the teacher {teacher.heads}. "
                f"Give the student {teacher.heads}, or use {setting('relations')} instead."
            )
        heads = relation_heads or teacher.heads
        if "relations" in terms:
            for name, sizes in (("student", student), ("teacher", teacher)):
                if sizes.width % heads:
                    raise InputError(
                        f"{argument('relation_heads')} is {heads}, which does not divide the "
                        f"{name}'s hidden size of {sizes.width}. Give a divisor of "
                        f"{math.gcd(student.width, teacher.width)}, which divides both."
                    )
        pairs = layer_pairs(layer_map, student.depth, teacher.depth)
        return cls(tuple(terms), pairs, teacher.heads, heads, relation_kinds)

    @property
    def student_reads(self) -> LayerReads:
        """The parts of the student's layers that are read; see `States.layers`."""
        return self._reads([one for one, _ in self.pairs])

    @property
    def teacher_reads(self) -> LayerReads:
        """The parts of the teacher's layers that are read; see `States.layers`."""
        return self._reads([other for _, other in self.pairs])

    def _reads(self, layers: Sequence[int]) -> LayerReads:
        found: dict[int, dict[LayerPart, None]] = {layer: {} for layer in layers}
        for parts in found.values():
            if not set(HIDDEN_TERMS).isdisjoint(self.terms):
                parts["output"] = None
            if "attention" in self.terms:
                parts["query"] = parts["key"] = None
        if "relations" in self.terms:
            letters = self.relation_kinds.replace("_", "")
            found[layers[-1]] |= dict.fromkeys(PARTS[letter] for letter in letters)
        return {layer: tuple(parts) for layer, parts in found.items() if parts}

    def losses(
        self, student: States, teacher: States, project: Callable[[Tensor, Tensor], Tensor]
    ) -> dict[str, LossSum]:
        """The terms by name, each over all T tokens.

        Args:
            student: the student's states; they get gradients.
            teacher: states of the same tokens in the same order.
            project: takes states of the student and of the teacher, and returns the first in the
                width of the second.
        """
        found: dict[str, LossSum] = {}
        if not set(HIDDEN_TERMS).isdisjoint(self.terms):
            theirs = [teacher.part(layer, "output") for _, layer in self.pairs]
            ours = [
                project(student.part(layer, "output"), like)
                for (layer, _), like in zip(self.pairs, theirs, strict=True)
            ]
            if "hidden_cosine" in self.terms:
                found["hidden_cosine"] = hidden_cosine(ours, theirs)
            if "hidden_mse" in self.terms:
                found["hidden_mse"] = hidden_mse(ours, theirs)
        if "attention" in self.terms:
            maps = [
                self._divergence(student, teacher, pair, "qk", self.heads) for pair in self.pairs
            ]
            mean = torch.stack([loss.sum for loss in maps]).mean()
            found["attention"] = LossSum(mean, maps[0].items)
        if "relations" in self.terms:
            kinds = [
                self._divergence(student, teacher, self.pairs[-1], kind, self.relation_heads)
                for kind in self.relation_kinds.split("_")
            ]
            total = torch.stack([loss.sum for loss in kinds]).sum()
            found["relations"] = LossSum(total, kinds[0].items)
        return found

    @staticmethod
    def _divergence(
        student: States, teacher: States, pair: tuple[int, int], kind: str, heads: int
    ) -> LossSum:
        """The divergence of one relation, such as "qk", in one pair of layers."""
        one, other = (
            Relation(*(states.part(layer, PARTS[letter]) for letter in kind))
            for states, layer in zip((student, teacher), pair, strict=True)
        )
        return relation_divergence(one, other, student.lengths, heads)


def check_relations(kinds: str, heads: int | None) -> None:
    """Raise InputError for an unknown kind of relations or an impossible number of heads."""
    if kinds not in get_args(RelationKinds):
        raise InputError(
            f"{argument('relation_kinds')} is {kinds!r}: expected one of "
            f"{', '.join(get_args(RelationKinds))}."
        )
    if heads is not None and (type(heads) is not int or heads < 1):
        raise InputError(
            f"{argument('relation_heads')} is {heads!r}: expected a number of at least 1, or None "
            "for the teacher's attention heads."
        )
