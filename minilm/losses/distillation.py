"""The losses of distillation: learn from the teacher's logits and states, and from the text.

The triple loss of DistilBERT exists in two versions. `distillation_terms` (triple.py) is a pure
function of plain tensors, a few lines to read beside the paper. `DistillationLoss`, which training
uses, computes the same for packed tokens, without ever holding the logits of all of them. It adds
the terms of later papers: hidden states of all layers and of whole sentences (layer_states.py),
attention maps and relations between tokens (relations.py).

References: Sanh et al. 2019, section 2; `Distiller.step` of the released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature

from torch import Tensor, nn

from minilm.errors import InputError, argument
from minilm.losses.elementary import IGNORED_LABEL, LossSum, cosine_distance
from minilm.losses.layer_states import LayerMap, check_layer_map, pooled_cosine, pooled_mse
from minilm.losses.layer_terms import (
    HIDDEN_TERMS,
    LAYER_TERMS,
    LayerComparison,
    RelationKinds,
    check_relations,
)
from minilm.losses.states import LayerSizes, States as States
from minilm.losses.triple import (
    DistillationTerms as DistillationTerms,
    Positions,
    check_choices,
    distillation_terms as distillation_terms,
    is_number,
)
from minilm.losses.vocabulary import fused_vocab_losses

TRIPLE_TERMS = ("kl", "mlm", "cosine", "mse")
POOLED_TERMS = ("pooled", "pooled_mse")
TERMS = (*TRIPLE_TERMS, *LAYER_TERMS, *POOLED_TERMS, "sentence_order")
# the items that a term is a mean over, if not attended tokens
ITEMS = {"pooled": "sequences", "pooled_mse": "sequences", "sentence_order": "pairs"}


class DistillationLoss(nn.Module):
    """The weighted sum of all terms over packed tokens; by default the triple loss.

    Only inputs of terms with a weight are computed: with `kl` and `mse` 0, vocabulary logits are
    computed at labelled tokens only; with `mlm` 0 as well, nowhere. Memory does not grow with
    tokens x vocabulary (see `minilm.losses.vocabulary`), nor with tokens x length (see
    `minilm.losses.relations`).

    If the widths of student and teacher differ, the terms that compare hidden states compare the
    teacher's with a learned linear map of the student's, the same one at all layers, as in
    TinyBERT's released code.

    Args:
        temperature: divides the logits of both sides of the divergence, which is multiplied by its
            square, so that the gradient keeps its size.
        kl, mlm, cosine, mse: weights of the terms; see `DistillationTerms`. The defaults are those
            DistilBERT was trained with.
        positions: the tokens of `kl` and `mse`: "attended" = all, "masked" = labelled ones.
        hidden_cosine: weight of 1 - cosine between hidden states after the layers that `layer_map`
            pairs (MiniALBERT); mean over attended tokens and pairs of layers.
        hidden_mse: weight of the squared difference of the same states (TinyBERT); mean over
            tokens, the numbers of a state and pairs.
        attention: weight of the divergence of attention maps at those layers; mean over tokens,
            heads and pairs. Student and teacher must have the same number of heads.
        relations: weight of the divergence of relations between tokens in the last layer that
            `layer_map` pairs (MiniLM); mean over tokens and relation heads, summed over the kinds.
        pooled: weight of 1 - cosine between the mean last states of a sequence; mean over
            sequences.
        pooled_mse: weight of the squared difference of these; mean over sequences and numbers.
        sentence_order: weight of the cross-entropy of the student's answers to "are the two
            segments in order?" (ALBERT); mean over pairs. Needs no teacher.
        layer_map: "uniform" = every application of a layer of the student with the teacher's at the
            same share of the depth; "last" = the last with the last; or the teacher's layer for
            each application of the student, counted from 0.
        relation_kinds: "qq_kk_vv" = queries, keys and values, each with themselves (MiniLMv2);
            "qk_vv" = queries with keys, values with values (MiniLM).
        relation_heads: the number of parts into which states are cut for `relations`, each with its
            own table; it must divide both widths. None = the teacher's attention heads.

    Raises:
        InputError: a weight is negative or not finite, no weight is above 0, or a setting does not
            exist.

    Example:
        >>> loss = minilm.DistillationLoss(temperature=2.0, kl=5.0, mlm=2.0, hidden_cosine=3.0)
        >>> loss.terms
        ('kl', 'mlm', 'cosine', 'hidden_cosine')

    References: those of `minilm.losses.layer_states` and `minilm.losses.relations`; Lan et al.
    2020, section 3.1, for the sentence order.
    """

    def __init__(
        self,
        temperature: float = 2.0,
        kl: float = 5.0,
        mlm: float = 2.0,
        cosine: float = 1.0,
        mse: float = 0.0,
        positions: Positions = "attended",
        *,
        hidden_cosine: float = 0.0,
        hidden_mse: float = 0.0,
        attention: float = 0.0,
        relations: float = 0.0,
        pooled: float = 0.0,
        pooled_mse: float = 0.0,
        sentence_order: float = 0.0,
        layer_map: LayerMap = "uniform",
        relation_kinds: RelationKinds = "qq_kk_vv",
        relation_heads: int | None = None,
    ) -> None:
        super().__init__()
        check_choices(temperature, positions)
        self.temperature = temperature
        self.kl, self.mlm, self.cosine, self.mse = kl, mlm, cosine, mse
        self.positions: Positions = positions
        self.hidden_cosine, self.hidden_mse = hidden_cosine, hidden_mse
        self.attention, self.relations = attention, relations
        self.pooled, self.pooled_mse = pooled, pooled_mse
        self.sentence_order = sentence_order
        self.layer_map: LayerMap = layer_map if isinstance(layer_map, str) else list(layer_map)
        self.relation_kinds: RelationKinds = relation_kinds
        self.relation_heads = relation_heads
        self.projection: nn.Linear | None = None
        self._layers: LayerComparison | None = None
        for name in TERMS:
            weight = getattr(self, name)
            if not is_number(weight) or weight < 0:
                raise InputError(
                    f"{argument(name)} is {weight!r}: a weight is a finite number of at least 0."
                )
        if not self.terms:
            raise InputError(f"All weights are 0: one of {', '.join(TERMS)} must be above 0.")
        check_layer_map(self.layer_map)
        check_relations(relation_kinds, relation_heads)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms that have a weight."""
        return self._among(TERMS)

    @property
    def compares_logits(self) -> bool:
        """Whether a term reads the teacher's vocabulary logits."""
        return self.kl > 0 or self.mse > 0

    @property
    def predicts_words(self) -> bool:
        """Whether a term reads the student's vocabulary logits."""
        return self.compares_logits or self.mlm > 0

    @property
    def compares_layers(self) -> bool:
        """Whether a term reads more than last hidden states, so that `fit_layers` is needed."""
        return bool(self._among(LAYER_TERMS))

    @property
    def compares_states(self) -> bool:
        """Whether a term reads any states of the teacher, not only its logits."""
        return bool(self._among(("cosine", *LAYER_TERMS, *POOLED_TERMS)))

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads outputs of the teacher."""
        return self.compares_logits or self.compares_states

    @staticmethod
    def items(term: str) -> str:
        """The items that a term on states is a mean over: "attended" tokens or "sequences"; or
        "pairs" for the sentence order."""
        return ITEMS.get(term, "attended")

    def _among(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if getattr(self, name) > 0)

    def to_dict(self) -> dict[str, float | str | list[int] | None]:
        """The arguments of this loss: those of the triple loss, and all others that differ from
        their defaults."""
        # they identify a run: runs with the triple loss only keep the identity that they had before
        # there were other terms
        triple = ("temperature", *TRIPLE_TERMS, "positions")
        defaults = {name: field.default for name, field in signature(type(self)).parameters.items()}
        values = {name: getattr(self, name) for name in defaults}
        return {n: v for n, v in values.items() if n in triple or v != defaults[n]}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items())

    def fit_widths(self, student_width: int, teacher_width: int) -> bool:
        """Make hidden states of two widths comparable.

        If the widths differ, the terms that compare hidden states compare the teacher's with a
        learned linear map of the student's. It is orthogonal at first, so that the angles between
        the student's states are kept.

        Args:
            student_width, teacher_width: H of both.

        Returns:
            Whether a projection is needed; it is then a parameter of this module.

        References: Jiao et al. 2020, section 3.1, equation 8, and the released code, which has one
        map for all layers.
        """
        self.projection = None
        projected = self._among(("cosine", *HIDDEN_TERMS, *POOLED_TERMS))
        if projected and student_width != teacher_width:
            self.projection = nn.Linear(student_width, teacher_width, bias=False)
            nn.init.orthogonal_(self.projection.weight)
        return self.projection is not None

    def fit_layers(self, student: LayerSizes, teacher: LayerSizes) -> None:
        """Determine which layers are compared, and in how many heads.

        Args:
            student, teacher: depth, width and heads of both.

        Raises:
            InputError: the layer map does not fit them, or heads that a term needs do not.
        """
        self._layers = LayerComparison.of(
            student,
            teacher,
            terms=self._among(LAYER_TERMS),
            layer_map=self.layer_map,
            relation_kinds=self.relation_kinds,
            relation_heads=self.relation_heads,
        )

    @property
    def layers(self) -> LayerComparison:
        """The quantities that are compared, and the layers.

        Raises:
            InputError: `fit_layers` has not been called.
        """
        if self._layers is None:
            raise InputError(
                f"{', '.join(self._among(LAYER_TERMS))} compare layers: call fit_layers first."
            )
        return self._layers

    def forward(
        self,
        student: States,
        teacher: States | None,
        labels: Tensor,
        counts: Mapping[str, float] | None = None,
        pairs: LossSum | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms.

        Args:
            student: the student's states; they get gradients.
            teacher: states of the same tokens in the same order, computed without gradients; None
                if no term reads it.
            labels: (T,) int64 in that order; -100 = no label.
            counts: the numbers to divide sums by: "attended" and "masked" tokens, for some terms
                "sequences" and "pairs", of the whole step, of which this batch may be a part;
                None = those of this batch.
            pairs: the cross-entropy of the student's answers about pairs, for `sentence_order`.

        Returns:
            "loss", the weighted sum, which carries the gradient; and for the log every term with a
            weight, unweighted and without gradient. All of at least float32.

        Raises:
            InputError: vocabularies or widths do not fit.
        """
        where = (labels != IGNORED_LABEL).nonzero()[:, 0]  # (n,)
        if counts is None:
            counts = {
                "attended": labels.shape[0],
                "masked": where.shape[0],
                "sequences": len(student.lengths),
                "pairs": 0.0 if pairs is None else float(pairs.items),
            }
        attended, masked = max(counts["attended"], 1), max(counts["masked"], 1)
        chosen = attended if self.positions == "attended" else masked

        means: dict[str, Tensor] = {}
        if self.predicts_words:
            everywhere = self.compares_logits and self.positions == "attended"
            rows = None if everywhere else where
            sums = fused_vocab_losses(
                student.logit_inputs(rows),
                _given(teacher).targets(rows) if self.compares_logits else None,
                labels if rows is None else labels[rows],
                kl=self.kl / chosen,
                mlm=self.mlm / masked,
                mse=self.mse / chosen,
                temperature=self.temperature,
            )
            loss = sums.total
            means = {"kl": sums.kl / chosen, "mlm": sums.mlm / masked, "mse": sums.mse / chosen}
        else:
            loss = _no_prediction(student)
        found = self._state_losses(student, _given(teacher)) if self.compares_states else {}
        if self.sentence_order > 0:
            if pairs is None:
                raise InputError(
                    "sentence_order needs pairs with labels: these sequences have none."
                )
            found["sentence_order"] = pairs
        for name, term in found.items():
            mean = term.sum / max(counts[self.items(name)], 1)
            loss = loss + getattr(self, name) * mean
            means[name] = mean.detach()
        return {"loss": loss, **{name: means[name] for name in self.terms}}

    def _state_losses(self, student: States, teacher: States) -> dict[str, LossSum]:
        """The terms with a weight that compare states of all attended tokens."""
        found: dict[str, LossSum] = {}
        if self._among(("cosine", *POOLED_TERMS)):
            hidden = self._projected(student.hidden, teacher.hidden)
            if self.cosine > 0:
                found["cosine"] = cosine_distance(hidden, teacher.hidden)
            if self.pooled > 0:
                found["pooled"] = pooled_cosine(hidden, teacher.hidden, student.lengths)
            if self.pooled_mse > 0:
                found["pooled_mse"] = pooled_mse(hidden, teacher.hidden, student.lengths)
        if self.compares_layers:
            found |= self.layers.losses(student, teacher, self._projected)
        return found

    def _projected(self, hidden: Tensor, like: Tensor) -> Tensor:
        """The student's states, projected to the teacher's width if necessary."""
        found: Tensor = hidden if self.projection is None else self.projection(hidden)
        if found.shape != like.shape:
            raise InputError(
                f"The student's states are {tuple(found.shape)}, the teacher's "
                f"{tuple(like.shape)}. If the widths differ, call fit_widths first."
            )
        return found


def _no_prediction(student: States) -> Tensor:
    """A zero that depends on the head: data-parallel training waits for every gradient."""
    zero = student.hidden[:0].sum()
    if student.transform is not None and student.bias is not None:
        zero = zero + student.transform(student.hidden[:0]).sum() + student.bias[:0].sum()
    return zero


def _given(teacher: States | None) -> States:
    if teacher is None:
        raise InputError(
            "teacher is None, but terms with a weight compare with a teacher's states."
        )
    return teacher
