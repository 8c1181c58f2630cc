"""The likeliest words of a teacher instead of all words: the others count as one.

For K words S and the rest, with q the teacher's and p the student's softmax of logits / T:

    KL_K = T^2 [ sum_{i in S} q_i log(q_i / p_i) + q_rest log(q_rest / p_rest) ]

where q_rest and p_rest are the total probabilities of all other words. By the chain rule of the
divergence

    KL = KL_K + T^2 q_rest KL( q | rest  ||  p | rest ),

so KL_K is KL without the divergence within the rest, and never larger: the student learns the total
probability of the rest, not how it is divided. Both are 0 if the distributions are equal.

References: Cover and Thomas, Elements of Information Theory, section 2.5 (chain rule); Tan et al.
2019, multilingual translation with knowledge distillation, keep the K likeliest words as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minilm.errors import InputError
from minilm.losses.elementary import LossSum
from minilm.losses.precision import at_least_float32


@dataclass(frozen=True, eq=False)
class TopPredictions:
    """The K likeliest words of each row.

    Attributes:
        log_probabilities: (N, K) log q of these words.
        words: (N, K) int64 ids of these words; no two of a row are the same.
        rest: (N,) log of the total probability of all other words.
        vocab_size: V, more than K.
        temperature: T, by which the logits were divided.
    """

    log_probabilities: Tensor
    words: Tensor
    rest: Tensor
    vocab_size: int
    temperature: float

    def __getitem__(self, rows: slice | Tensor) -> TopPredictions:
        """Some of the rows."""
        return TopPredictions(
            self.log_probabilities[rows],
            self.words[rows],
            self.rest[rows],
            self.vocab_size,
            self.temperature,
        )

    def __len__(self) -> int:
        return self.words.shape[0]

    def to_one(self) -> TopPredictions:
        """Normalised to add up to 1, which rounded numbers may not."""
        everything = torch.cat([self.log_probabilities, self.rest[:, None]], 1).float()
        exact = everything - everything.logsumexp(1, keepdim=True)
        return TopPredictions(
            exact[:, :-1], self.words, exact[:, -1], self.vocab_size, self.temperature
        )


def top_of_logits(logits: Tensor, top_k: int, temperature: float) -> TopPredictions:
    """The likeliest words of rows of logits.

    Args:
        logits: (N, V), of at least float32.
        top_k: K, from 1 to V - 1.
        temperature: T.

    Raises:
        InputError: `top_k` or `temperature` is out of range.

    Example:
        >>> top = top_of_logits(torch.tensor([[0.0, 3.0, 1.0]]), top_k=1, temperature=1.0)
        >>> top.words.tolist()
        [[1]]
    """
    vocab_size = logits.shape[-1]
    check_top_k(top_k, vocab_size)
    if not temperature > 0:
        raise InputError(f"temperature is {temperature!r}: expected a number above 0.")
    softened = logits / temperature
    total = softened.logsumexp(-1, keepdim=True)
    values, words = softened.topk(top_k, dim=-1)
    # summed over the other words, as 1 minus the sum of these would lose all digits
    rest = softened.scatter_(1, words, -torch.inf).logsumexp(-1)
    return TopPredictions(values - total, words, rest - total[:, 0], vocab_size, temperature)


def top_divergence(student: Tensor, teacher: TopPredictions) -> LossSum:
    """KL_K of a student's logits; the formula is above.

    Args:
        student: (N, V) logits.
        teacher: the likeliest words of N rows, at its temperature.

    Returns:
        The sum over N rows in nats, times temperature squared.
    """
    log_p = (at_least_float32(student) / teacher.temperature).log_softmax(-1)
    of_top = log_p.gather(1, teacher.words)
    of_rest = log_p.scatter(1, teacher.words, -torch.inf).logsumexp(-1)
    log_q = torch.cat([teacher.log_probabilities, teacher.rest[:, None]], 1)
    log_p = torch.cat([of_top, of_rest[:, None]], 1)
    # where the logarithm of the rest is -inf, the rest has no probability
    each = torch.where(log_q.isneginf(), 0, log_q.exp() * (log_q - log_p))
    return LossSum(each.sum() * teacher.temperature**2, len(teacher))


def check_top_k(top_k: int, vocab_size: int) -> None:
    """Raise InputError unless the vocabulary has more than this many words, at least 1."""
    if not 1 <= top_k < vocab_size:
        raise InputError(
            f"top_k is {top_k}; expected from 1 to {vocab_size - 1}, one less than the size of the "
            "vocabulary."
        )
