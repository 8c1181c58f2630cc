"""What layers do to a text, and whether the layers of two models do the same: three measures.

- From the input of a layer to its output: L2 distance and angle, ALBERT's figure 1.
- Between the states of two models: linear CKA, which ignores rotation and scale.
- Between the attention of two models: correlation of the weights that a token gives the others.

The maps of a layer are averaged over its heads before they are compared: models may have different
numbers of heads, and their order means nothing. Matching every head with its most similar one would
find similarity by chance, and more of it with more heads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minilm.errors import InputError
from minilm.models.pretrained import PretrainedModel
from minilm.tokenization.tokenizer import Tokenizer

MAX_LENGTH = 128  # tokens to which paragraphs are cut
SHORTEST = 8  # tokens of a paragraph that is looked at, special tokens included


@dataclass(frozen=True)
class LayerSteps:
    """How far each application of a layer moves the tokens, means over tokens.

    Attributes:
        distance: L2 distance between input and output of each application.
        cosine: cosine of the angle between them.
        angle: that angle in degrees.
    """

    distance: list[float]
    cosine: list[float]
    angle: list[float]


def layer_steps(states: Sequence[Tensor]) -> LayerSteps:
    """Compares the input of every application of a layer with its output.

    Args:
        states: L + 1 tensors (T, H): the state after the embeddings, then after every application.

    Raises:
        InputError: fewer than two states, or states of different shapes.

    Example:
        >>> layer_steps([torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])])
        LayerSteps(distance=[5.0], cosine=[0.0], angle=[90.0])

    References: Lan et al. 2020, section 4.3 and figure 1.
    """
    if len(states) < 2 or len({tuple(state.shape) for state in states}) > 1:
        raise InputError(
            f"states have the shapes {[tuple(state.shape) for state in states]}: expected at least "
            "two of the same shape (T, H)."
        )
    distances, cosines, angles = [], [], []
    for before, after in itertools.pairwise(states):
        before, after = before.double(), after.double()  # (T, H)
        lengths = before.norm(dim=-1) * after.norm(dim=-1)  # (T,)
        cosine = ((before * after).sum(dim=-1) / lengths.clamp(min=1e-12)).clamp(-1, 1)
        distances.append(float((after - before).norm(dim=-1).mean()))
        cosines.append(float(cosine.mean()))
        angles.append(float(cosine.acos().mean() * (180 / math.pi)))
    return LayerSteps(distances, cosines, angles)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of vectors for the same tokens.

    It is 1 if one set is the other up to rotation, scale and shift, and 0 if no direction of one
    varies with any of the other. It is biased upwards for few tokens: take several times as many as
    a vector has dimensions.

    Args:
        x: (T, P) one vector for each token.
        y: (T, Q) one vector for each of the same tokens.

    Returns:
        A number from 0 to 1; NaN if all vectors of one set are equal.

    Raises:
        InputError: the numbers of tokens differ, or there are fewer than two.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
        >>> round(linear_cka(x, 3 * x.flip(1) + 1), 6)
        1.0

    References: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited",
    section 3.
    """
    return cka_matrix([x], [y])[0][0]


def cka_matrix(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[list[float]]:
    """Linear CKA of every state of one model with every state of another.

    Args:
        first: (T, P) states each.
        second: (T, Q) states each, of the same tokens.

    Returns:
        A row for each of `first`, a column for each of `second`.

    Raises:
        InputError: see `linear_cka`.
    """
    rows = {state.shape[0] for state in (*first, *second)}
    if len(rows) != 1 or min(rows) < 2:
        raise InputError(
            f"The states have {' and '.join(map(str, sorted(rows)))} tokens; expected the same "
            "tokens for all states, at least two."
        )
    centred = [_centred(state) for state in first], [_centred(state) for state in second]
    own = [[float((x.T @ x).norm()) for x in states] for states in centred]
    return [
        [
            float((y.T @ x).square().sum()) / (norm * other) if norm * other else math.nan
            for y, other in zip(centred[1], own[1], strict=True)
        ]
        for x, norm in zip(centred[0], own[0], strict=True)
    ]


def _centred(state: Tensor) -> Tensor:
    state = state.double()
    return state - state.mean(dim=0)


def attention_correlation(first: Tensor, second: Tensor) -> Tensor:
    """How similar two models' attention is: correlation of weights, mean over attending tokens.

    Evenly spread attention, as in an untrained model, correlates with nothing; a divergence would
    find it close to every map that is not sharp.

    Args:
        first: (L, S, S) maps of one text, averaged over heads: every row is a distribution over the
            S tokens.
        second: (M, S, S) maps of another model for the same text.

    Returns:
        (L, M) float64, each a mean of S Pearson correlations: 1 for equal maps, 0 for a token whose
        weights are all equal in one of them.

    Raises:
        InputError: the maps are of texts of different lengths.

    Example:
        >>> one = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]])
        >>> attention_correlation(one, one).tolist()  # the second token looks nowhere in particular
        [[0.5]]
    """
    if first.shape[-2:] != second.shape[-2:]:
        raise InputError(
            f"The maps are of texts of {first.shape[-1]} and {second.shape[-1]} tokens: expected "
            "those of one text."
        )
    one, other = (_unit_rows(maps) for maps in (first, second))
    sums: Tensor = torch.einsum("lst,mst->lm", one, other)
    return sums / first.shape[-1]


def _unit_rows(maps: Tensor) -> Tensor:
    """Rows less their mean, of length 1; zeros for a row of equal weights, up to rounding."""
    rows = maps.double()
    rows = rows - rows.mean(dim=-1, keepdim=True)
    length = rows.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-6, rows / length.clamp(min=1e-6), 0.0)


@dataclass(frozen=True, eq=False)
class Observation:
    """What a model computed for some texts.

    Attributes:
        name: name of the model.
        input_ids: (S,) token ids of each text.
        states: L + 1 tensors (T, H), all tokens of all texts in a row.
        maps: (L, S, S) for each text, averaged over heads.
    """

    name: str
    input_ids: list[list[int]]
    states: list[Tensor]
    maps: list[Tensor]


@torch.no_grad()
def observe(
    name: str, model: PretrainedModel, tokenizer: Tokenizer, texts: Iterable[str], max_tokens: int
) -> Observation:
    """Runs a model over the first texts and keeps all states and attention maps.

    Args:
        name: name for messages and pictures.
        model: any model; its encoder is run in eval mode.
        tokenizer: the model's tokenizer.
        texts: paragraphs; those of fewer than 8 tokens are left out, long ones are cut at 128.
        max_tokens: stop after about this many tokens.

    Raises:
        InputError: no text is long enough.
    """
    encoder = model.base.eval()
    longest = min(MAX_LENGTH, model.config.max_position_embeddings)
    ids: list[list[int]] = []
    states: list[tuple[Tensor, ...]] = []
    maps: list[Tensor] = []
    seen = 0
    for text in texts:
        if seen >= max_tokens:
            break
        row = tokenizer(text, max_length=longest)["input_ids"]  # (1, S)
        if row.shape[1] < SHORTEST:
            continue
        output = encoder(row.to(model.device), output_hidden_states=True, output_attentions=True)
        ids.append(row[0].tolist())
        states.append(tuple(state[0].float().cpu() for state in output.hidden_states))
        maps.append(
            torch.stack([layer[0].float().mean(dim=0).cpu() for layer in output.attentions])
        )
        seen += row.shape[1]
    if not ids:
        raise InputError(
            f"The text has no paragraph (line) of {SHORTEST} tokens or more: there is nothing to "
            "compare the layers on."
        )
    return Observation(name, ids, [torch.cat(parts) for parts in zip(*states, strict=True)], maps)


@dataclass(frozen=True)
class Pair:
    """How similar the layers of two models are.

    Attributes:
        teacher: name of the first model.
        student: name of the other model.
        cka: linear CKA; a row for each state of the teacher, the embeddings first, a column for
            each of the student.
        attention: correlation of the attention; a row for each layer of the teacher, a column for
            each of the student.
    """

    teacher: str
    student: str
    cka: list[list[float]]
    attention: list[list[float]]

    def matches(self) -> list[tuple[int, float]]:
        """For every state of the student, the teacher's most similar one by CKA, and its CKA."""
        columns = list(zip(*self.cka, strict=True))
        return [max(enumerate(column), key=lambda entry: entry[1]) for column in columns]


@dataclass(frozen=True)
class Similarity:
    """The layers of one or several models on the same text.

    Attributes:
        texts: number of paragraphs.
        tokens: number of their tokens.
        steps: the steps of every model, by its name.
        pairs: the first model with each of the others.
    """

    texts: int
    tokens: int
    steps: dict[str, LayerSteps]
    pairs: list[Pair]

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "models": [{"name": name, **vars(steps)} for name, steps in self.steps.items()],
            "pairs": [vars(pair) for pair in self.pairs],
        }


def similarity(observations: Sequence[Observation]) -> Similarity:
    """Compares layers with their inputs, and the first model with each of the others.

    Args:
        observations: observations on the same texts; the first is the teacher's.

    Raises:
        InputError: two models have the same name, or tokenise the texts differently.
    """
    teacher, *students = observations
    names = [observation.name for observation in observations]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"Two models are called {twice[0]}: give each of them once.")
    for student in students:
        if student.input_ids != teacher.input_ids:
            raise InputError(
                f"{student.name} tokenises the text otherwise than {teacher.name}: states are "
                "compared token by token, so the models must have the same tokenizer."
            )
    return Similarity(
        texts=len(teacher.input_ids),
        tokens=sum(map(len, teacher.input_ids)),
        steps={seen.name: layer_steps(seen.states) for seen in observations},
        pairs=[
            Pair(
                teacher.name,
                student.name,
                cka_matrix(teacher.states, student.states),
                _mean_correlation(teacher, student),
            )
            for student in students
        ],
    )


def _mean_correlation(teacher: Observation, student: Observation) -> list[list[float]]:
    """The correlation of the attention, mean over all tokens of all texts."""
    total = torch.zeros(teacher.maps[0].shape[0], student.maps[0].shape[0], dtype=torch.float64)
    for ids, one, other in zip(teacher.input_ids, teacher.maps, student.maps, strict=True):
        total += len(ids) * attention_correlation(one, other)
    found: list[list[float]] = (total / sum(map(len, teacher.input_ids))).tolist()
    return found


def compare_layers(
    models: Sequence[str],
    texts: Sequence[str],
    *,
    max_tokens: int = 2048,
    say: Callable[[str], None] = lambda _: None,
) -> Similarity:
    """Loads models and compares their layers on a text, as `minilm plot similarity` does.

    Args:
        models: directories or hub names; the first is the teacher.
        texts: paragraphs.
        max_tokens: number of tokens of the text to use.
        say: receives messages.

    Raises:
        MinilmError: a model cannot be loaded; see also `observe` and `similarity`.
    """
    from minilm.checkpoints.hub import resolve
    from minilm.loader import load

    observations = []
    for name in models:
        say(f"running {name}")
        directory = resolve(name)
        tokenizer = Tokenizer.from_pretrained(directory)
        observations.append(observe(name, load(directory), tokenizer, texts, max_tokens))
    say("comparing the layers")
    return similarity(observations)
