"""Converts a teacher's embeddings to tables of another width, and its masked-LM head with them.

ALBERT's tables are E wide. Their sum goes through a norm over E numbers and then through a matrix
to the hidden size H; BERT's tables are H wide, and so is their norm. The conversion has to preserve
the *sum* z of word, position and token type, which is all that the norm reads, and only its
direction, as a norm removes the mean and the length. So

* the basis consists of the E - 1 directions with most of the variance of the sums, with all words
  and all positions equally likely: the first right singular vectors of the table of sums;
* it is rotated so that the coordinates of every row sum to 0 and the student's norm removes nothing
  (E - 1 directions, because one is lost to the norm's mean);
* the matrix to H rotates back and includes the gain of the teacher's norm; its bias follows.

The student's embeddings are then the teacher's, without the directions left out. A basis of words
only would leave out most of the positions.

The head multiplies by the same table, so its vectors have to be E wide as well. The teacher's way
to them, a matrix, an activation and a norm, cannot be preserved in another basis. It is replaced by
the matrix closest to it in squared error, if states are distributed as the teacher's last norm
suggests (`fold_head`).

References: Lan et al. 2020, section 3.1; Eckart & Young 1936 (truncated singular value
decomposition); Bussgang 1952 (the best linear map in place of a non-linear one).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minilm.blocks.embeddings import Embeddings
from minilm.blocks.heads import MaskedLMHead

# An activation is practically linear this far above 0, in standard deviations of its input.
OFFSET = 3.0
QUADRATURE = torch.linspace(-6, 6, 241, dtype=torch.float64)  # standard deviations


@dataclass(frozen=True)
class EmbeddingMap:
    """The map from rows of a teacher's tables to rows of a student's.

    Attributes:
        directions: the number of the teacher's directions that are kept.
        rows: (E', E) float64; a row of the teacher times its transpose is one of the student.
        widened: (H, E') float64, the student's projection; None = not determined by the map.
        gain: the gain of the student's norm, one number for all coordinates.
        bias: (H,) float64, the bias that the teacher's embeddings add after the norm; None as for
            `widened`.
        retained_energy: for each table, the share of the squared numbers of the centred rows that
            is kept, 0 to 1.
    """

    directions: int
    rows: Tensor
    widened: Tensor | None
    gain: float
    bias: Tensor | None
    retained_energy: dict[str, float]


def factorise(teacher: Embeddings, size: int, hidden_size: int | None) -> EmbeddingMap:
    """The map to tables of width `size` that preserves most of the teacher's sums.

    Args:
        teacher: embeddings of any architecture, with or without a projection.
        size: E', the width of the student's tables.
        hidden_size: H of student and teacher, if they are the same and the student has a
            projection; else None.

    Returns:
        The map. If `size` is the teacher's own E or more, nothing is lost: with its projection the
        student computes the same.
    """
    width = teacher.embedding_size
    tables = _tables(teacher)
    kept = min(size, width) - 1
    # without the constant vector, which could take the place of others without variance
    free = _sum_free(width)  # (E, E - 1)
    moment = free.T @ _second_moment(tables, teacher) @ free
    # eigenvalues ascend, so the last vectors have most of the variance
    basis = free @ torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :kept]  # (E, k)
    turned = _sum_free(size)[:, :kept] @ basis.T  # (E', E)
    # rows keep their mean square, to which the norm adds its epsilon
    scale = (size / width) ** 0.5
    energy = {
        name: min(float((rows @ basis).square().sum() / rows.square().sum().clamp_min(1e-300)), 1.0)
        for name, rows in tables.items()
    }
    widened = bias = None
    if hidden_size is not None:
        after, bias = _after_norm(teacher)
        widened = after @ turned.T / scale  # (H, E')
    return EmbeddingMap(kept, turned * scale, widened, 1.0, bias, energy)


def widen(teacher: Embeddings) -> EmbeddingMap:
    """The map from an ALBERT's tables to tables of full width without a projection.

    It cannot be exact. The teacher normalises E numbers and then projects; here the rows are
    projected first, and H numbers are normalised: all sums get the same length and the mean 0.

    Args:
        teacher: embeddings with a projection.
    """
    tables = _tables(teacher)
    after, bias = _after_norm(teacher)
    spread = _second_moment(tables, teacher)
    hidden, width = after.shape
    # the mean length of the sums that the student's norm gives the same length
    share = (after @ spread * after).sum() / spread.trace()
    gain = float((share * width / hidden).sqrt())
    rows = (after - after.mean(0)) @ _centring(width) / gain
    return EmbeddingMap(width - 1, rows, None, gain, bias, dict.fromkeys(tables, 1.0))


def _tables(embeddings: Embeddings) -> dict[str, Tensor]:
    """Word, position and perhaps token-type table, (rows, E) float64, without the rows' means."""
    parts = {
        "words": embeddings.word,
        "positions": embeddings.position,
        "token types": embeddings.token_type,
    }
    rows = {name: _exact(part.weight) for name, part in parts.items() if part is not None}
    return {name: table - table.mean(1, keepdim=True) for name, table in rows.items()}


def _second_moment(tables: dict[str, Tensor], embeddings: Embeddings) -> Tensor:
    """E[z zᵀ] of the sums of a word, a position and token type 0, (E, E)."""
    words, positions = tables["words"], tables["positions"]
    mean = words.mean(0) + positions.mean(0)
    if embeddings.token_type is not None:
        mean = mean + tables["token types"][0]
    moment = torch.outer(mean, mean)
    for table in (words, positions):
        centred = table - table.mean(0)
        moment += centred.T @ centred / len(table)
    return moment


def _after_norm(embeddings: Embeddings) -> tuple[Tensor, Tensor]:
    """What the embeddings apply after normalisation: a matrix (H, E) and a vector (H,)."""
    gain, bias = _exact(embeddings.norm.weight), _exact(embeddings.norm.bias)
    if embeddings.projection is None:
        return gain.diag(), bias
    matrix, shift = _exact(embeddings.projection.weight), _exact(embeddings.projection.bias)
    return matrix * gain, matrix @ bias + shift


def _sum_free(size: int) -> Tensor:
    """(size, size - 1) orthonormal columns, each of which sums to 0 (Helmert's)."""
    columns = torch.ones(size, size, dtype=torch.float64).triu()[:, : size - 1]
    steps = torch.arange(1, size, dtype=torch.float64)
    columns[torch.arange(1, size), torch.arange(size - 1)] = -steps
    return columns / (steps * (steps + 1)).sqrt()


def _exact(values: Tensor) -> Tensor:
    """The values in float64 on the CPU, which has all decompositions."""
    return values.detach().cpu().double()


def _centring(size: int) -> Tensor:
    """The (size, size) matrix that removes the mean of a vector."""
    return torch.eye(size, dtype=torch.float64) - 1 / size


@torch.no_grad()
def fold_head(
    teacher: MaskedLMHead,
    words: Tensor,
    student: MaskedLMHead,
    rows: Tensor,
    last_gain: Tensor,
    last_bias: Tensor,
) -> None:
    """Give the head of a student the values with which it is closest to its teacher's.

    The states h that a head reads come from a norm: they are `last_gain` times numbers of variance
    1, plus `last_bias`. If these are taken as normally distributed, they determine the linear map
    closest to the teacher's activation and norm, and with it the vectors that the student has to
    multiply by its words. Its activation is used where it is practically linear. The constant part
    that the student's table cannot express goes into the bias of every word.

    Args:
        teacher: the teacher's head; its dense layer is (E, H).
        words: (V', E), the rows of the teacher's table that the student has.
        student: the student's head, with a dense layer (E', H); filled in place. The biases of its
            first V' words are the teacher's already.
        rows: (E', E), as in `EmbeddingMap`.
        last_gain, last_bias: (H,), weight and bias of the norm that the states come from.
    """
    gain, bias = _exact(last_gain), _exact(last_bias)
    dense, offset = _exact(teacher.dense.weight), _exact(teacher.dense.bias)
    # by quadrature: mean and mean square of the activations, and their mean slope
    mean, deviation = dense @ bias + offset, (dense * gain).square().sum(1).sqrt()  # (E,)
    weights = (-QUADRATURE.square() / 2).exp()
    weights /= weights.sum()
    values = teacher.activation(mean[:, None] + deviation[:, None] * QUADRATURE)  # (E, n)
    first, second = values @ weights, values.square() @ weights
    slope = (values * QUADRATURE) @ weights / deviation.clamp_min(1e-12)
    length = (second.mean() - first.mean().square() + teacher.norm.eps).sqrt()

    scale = _exact(teacher.norm.weight) / length  # (E,)
    vectors_mean = scale * (first - first.mean()) + _exact(teacher.norm.bias)  # (E,)
    linear = scale[:, None] * (_centring(len(mean)) @ (slope[:, None] * dense))  # (E, H)
    # the student's vector with the same products with all words, as closely as its table allows
    back = torch.linalg.pinv(rows.T)  # (E', E)
    matrix, constant = back @ linear, back @ vectors_mean

    size = float((matrix * gain).square().sum(1).mean().sqrt())
    student.dense.weight.copy_(matrix / size)
    student.dense.bias.copy_(OFFSET - matrix @ bias / size)
    student.norm.weight.fill_(size)
    student.norm.bias.copy_(constant)
    lost = _exact(words) @ (vectors_mean - rows.T @ constant)
    student.bias[: len(words)] += lost.to(student.bias)
