"""The likeliest words of a teacher instead of all of them: what is left out counts as one word.

For K words S and the rest, with q the teacher's and p the student's softmax of logits / T:

    KL_K = T^2 [ sum_{i in S} q_i log(q_i / p_i) + q_rest log(q_rest / p_rest) ]

where q_rest and p_rest are what each gives to all other words together. By the chain rule of the
divergence

    KL = KL_K + T^2 q_rest KL( q | rest  ||  p | rest ),

so KL_K is never larger than KL, by no more than what the teacher leaves to the rest says: the
student learns how much to give to the rest, not how to share it out. Both are 0 for equals.

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
        words: (N, K) int64, which they are; no two of a row are the same.
        rest: (N,) log of what is left for all other words.
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
        """The same, made to add up to 1: numbers that were rounded no longer do."""
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
        InputError: no such number of words, or no such temperature.

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
    # the sum of the others, not 1 minus that of these: the difference would lose all digits
    rest = softened.scatter_(1, words, -torch.inf).logsumexp(-1)
    return TopPredictions(values - total, words, rest - total[:, 0], vocab_size, temperature)


def top_divergence(student: Tensor, teacher: TopPredictions) -> LossSum:
    """KL_K of a student's logits; the formula is above.

    Args:
        student: (N, V) logits.
        teacher: of N rows, at its temperature.

    Returns:
        In nats, times temperature squared; over the N rows.
    """
    log_p = (at_least_float32(student) / teacher.temperature).log_softmax(-1)
    of_top = log_p.gather(1, teacher.words)
    of_rest = log_p.scatter(1, teacher.words, -torch.inf).logsumexp(-1)
    log_q = torch.cat([teacher.log_probabilities, teacher.rest[:, None]], 1)
    log_p = torch.cat([of_top, of_rest[:, None]], 1)
    # nothing is left for the rest where its logarithm is -inf
    each = torch.where(log_q.isneginf(), 0, log_q.exp() * (log_q - log_p))
    return LossSum(each.sum() * teacher.temperature**2, len(teacher))


def check_top_k(top_k: int, vocab_size: int) -> None:
    """Raises InputError unless there can be that many words and a rest."""
    if not 1 <= top_k < vocab_size:
        raise InputError(
            f"top_k is {top_k}; expected from 1 to {vocab_size - 1}, fewer than the vocabulary has "
            "words."
        )
