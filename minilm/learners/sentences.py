"""Trains a student on a teacher's sentence vectors: batches of texts, loss, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minilm.data.batches import cut_steps, split_evenly
from minilm.data.randomness import Stream, generator
from minilm.errors import InputError, argument
from minilm.files.arrays import Integers
from minilm.learners.base import ModelLearner
from minilm.losses.elementary import cosine_distance
from minilm.models.pretrained import PretrainedModel
from minilm.sentence.encoder import pack, pool
from minilm.sentence.targets import SentenceTargets


@dataclass(frozen=True, kw_only=True)
class SentenceLoss:
    """The weights of the terms that compare a student's outputs with its teacher's.

    Attributes:
        vectors: weight of the cosine distance between the vectors of a text; mean over texts.
        states: weight of the cosine distance between the states of a token; mean over tokens.

    Raises:
        InputError: a weight is negative or not finite, or both are 0.
    """

    vectors: float = 1.0
    states: float = 1.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"{argument(name)} is {weight}: expected a weight of 0 or more.")
        if not any(asdict(self).values()):
            raise InputError(
                f"{argument('vectors')} and {argument('states')} are 0: nothing is learned. Give "
                "one of them a weight."
            )


@dataclass(frozen=True, eq=False)
class SentenceBatch:
    """Texts with the teacher's outputs for them.

    Attributes:
        samples: (B,) the numbers of the texts.
        input_ids: (T,) int64, the texts in one line.
        lengths: (B,) int64, tokens of each text; they sum to T.
        vectors: (B, H) float16, the teacher's vectors.
        states: (T, H) float16, the teacher's last hidden states; None if they are not learned.
    """

    samples: Integers
    input_ids: Tensor
    lengths: Tensor
    vectors: Tensor
    states: Tensor | None

    @property
    def tokens(self) -> int:
        """T, the number of tokens."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device) -> SentenceBatch:
        """The same batch with its tensors on another device."""
        return SentenceBatch(
            self.samples,
            self.input_ids.to(device),
            self.lengths.to(device),
            self.vectors.to(device),
            None if self.states is None else self.states.to(device),
        )


class SentenceData:
    """Texts with a teacher's targets, in steps of about the same size; see `TrainingData`.

    Args:
        targets: the targets of all texts.
        texts: the numbers of the texts to learn from.
        tokens_per_step: the most tokens in a step.
        seed: seed of the order, which changes with every epoch.
    """

    def __init__(
        self, targets: SentenceTargets, texts: Integers, *, tokens_per_step: int, seed: int
    ) -> None:
        self._targets, self._texts = targets, texts
        self._tokens_per_step, self._seed = tokens_per_step, seed
        self.fingerprint: dict[str, Any] = {
            **targets.identity,
            "learned": len(texts),
            "tokens_per_step": tokens_per_step,
            "seed": seed,
        }

    def steps(self, epoch: int) -> Sequence[Integers]:
        """The texts of every step of an epoch."""
        order = generator(self._seed, Stream.ORDER, epoch).permutation(self._texts)
        return cut_steps(order, self._targets.lengths, self._tokens_per_step)

    def count_steps(self, epochs: int) -> int:
        """The number of steps in this many epochs."""
        return sum(len(self.steps(epoch)) for epoch in range(epochs))

    def count_samples(self) -> int:
        """The number of texts in an epoch."""
        return len(self._texts)

    def split(self, epoch: int, samples: Integers, parts: int) -> list[Integers]:
        """Divides the texts of a step into exactly this many parts, balanced by tokens."""
        return split_evenly(samples, self._targets.lengths[samples], parts)

    def batch(self, epoch: int, samples: Integers) -> SentenceBatch:
        """The batch of these texts and their targets."""
        return sentence_batch(self._targets, samples)


def sentence_batch(targets: SentenceTargets, texts: Integers) -> SentenceBatch:
    """The batch of the texts with these numbers, (B,), and their targets."""
    ids, vectors, states = targets.gather(texts)
    return SentenceBatch(
        texts,
        torch.from_numpy(ids),
        torch.from_numpy(targets.lengths[texts]),
        torch.from_numpy(vectors),
        None if states is None else torch.from_numpy(states),
    )


def held_out_batches(
    targets: SentenceTargets, texts: Integers, tokens_per_batch: int
) -> list[SentenceBatch]:
    """Texts in batches of at most this many tokens, shortest first."""
    rows = pack(targets.lengths[texts].tolist(), tokens_per_batch)
    return [sentence_batch(targets, texts[np.array(each)]) for each in rows]


class SentenceLearner(ModelLearner):
    """Learns to compute the sentence vectors of a teacher.

    The teacher itself is not needed: its vectors were computed before, once for every text.

    Args:
        student: a model as wide as the teacher's vectors; heads are not used.
        loss: terms and weights.
        pooling: how token states become a vector: "mean" or "cls".

    References: Reimers and Gurevych 2020, section 2.
    """

    def __init__(self, student: PretrainedModel, loss: SentenceLoss, *, pooling: str) -> None:
        super().__init__(student.device)
        self.student = student
        self.loss = loss
        self.pooling = pooling
        self._terms = [name for name, weight in asdict(loss).items() if weight]

    def counts(self, batch: SentenceBatch) -> Mapping[str, int]:
        """The numbers of texts and tokens."""
        return {"texts": len(batch.samples), "tokens": batch.tokens}

    def forward(self, batch: SentenceBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """ "loss", and the terms that have a weight: "vectors", "states"."""
        if batch.tokens == 0:
            return self.empty_terms(*self._terms)
        states = self._states(batch)
        vectors = pool(states, batch.lengths, self.pooling)
        terms = {}
        if self.loss.vectors:
            distances = cosine_distance(vectors, batch.vectors)
            terms["vectors"] = distances.sum / max(counts["texts"], 1)
        if self.loss.states:
            assert batch.states is not None
            distances = cosine_distance(states, batch.states)
            terms["states"] = distances.sum / max(counts["tokens"], 1)
        loss = torch.stack([getattr(self.loss, name) * terms[name] for name in terms]).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """See `eval_step`."""
        return ("vector_cosine",)

    @torch.no_grad()
    def eval_step(self, batch: SentenceBatch) -> Mapping[str, tuple[float, float]]:
        """The cosine between the vectors of student and teacher, mean over texts."""
        vectors = pool(self._states(batch), batch.lengths, self.pooling)
        distances, texts = float(cosine_distance(vectors, batch.vectors).sum), len(batch.samples)
        return {"vector_cosine": (texts - distances, texts)}

    def _states(self, batch: SentenceBatch) -> Tensor:
        """The student's states, (T, H), with the texts in the order of the batch."""
        encoded = self.student.base(batch.input_ids, lengths=batch.lengths)
        states: Tensor = encoded.last_hidden_state
        return states
