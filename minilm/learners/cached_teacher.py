"""A teacher whose outputs are stored: it runs only for samples that it has not seen yet.

    batch -> digest of each sample -> in the cache?  yes: read      no: teacher -> cache
          -> states, or likeliest words, in the order of the student's

The loss always uses the stored values, also in the step in which they were computed: so with
float16 or the K likeliest words, losses do not depend on whether a target was in the cache before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minilm.blocks.int8 import float_weight
from minilm.blocks.layout import Packed
from minilm.data.batches import TokenBatch
from minilm.data.teacher_cache import TeacherCache, sample_digests, stored_identity
from minilm.data.teacher_parts import Column, Rows
from minilm.errors import DataError, InputError, argument, setting
from minilm.files.arrays import Flags, Integers
from minilm.files.progress import counted
from minilm.learners.tokens import encode, states
from minilm.losses.distillation import DistillationLoss, States
from minilm.losses.elementary import IGNORED_LABEL
from minilm.losses.top_predictions import TopPredictions, check_top_k
from minilm.losses.vocabulary import top_predictions
from minilm.models.pretrained import PretrainedModel
from minilm.outputs import EncoderOutput

CacheDtype = Literal["float32", "float16"]
# terms that do not read the teacher, and those that read only its last hidden states
WITHOUT_TEACHER = ("mlm", "sentence_order")
OF_LOGITS = ("kl", "mse")
COVERED = (*OF_LOGITS, "cosine", "pooled", "pooled_mse")


@dataclass(frozen=True)
class StoredTargets:
    """The outputs of a teacher that are stored for each sample.

    Attributes:
        dtype: dtype of the numbers on disk. With float32 the losses are those of a run without a
            cache, up to rounding.
        top_k: store this many likeliest words at each position instead of the last hidden states;
            None = the states.
        positions: the tokens to store: all "attended" ones, or the "masked" ones only.
        temperature: temperature of the likeliest words; 0 for states, which do not depend on it.
    """

    dtype: CacheDtype
    top_k: int | None
    positions: Literal["attended", "masked"]
    temperature: float

    @classmethod
    def of(
        cls,
        loss: DistillationLoss,
        directory: Path,
        dtype: CacheDtype = "float32",
        top_k: int | None = None,
    ) -> StoredTargets:
        """The targets that a loss needs.

        Args:
            loss: terms and weights.
            directory: the directory of the cache. If it holds the targets of all attended tokens
                already, they are used even if those of the masked ones would be enough.
            dtype, top_k: see the attributes.

        Raises:
            InputError: the loss reads outputs that cannot be stored.
            DataError: cache.json is damaged.
        """
        terms = [name for name in loss.terms if name not in WITHOUT_TEACHER]
        if not terms:
            raise InputError(
                "The loss reads nothing of the teacher, so there is nothing to store: leave out "
                f"{argument('teacher_cache')}, or give kl, mse or cosine a weight."
            )
        beyond = [name for name in terms if name not in COVERED]
        if beyond:
            raise InputError(
                f"The teacher cache stores last hidden states, from which {', '.join(beyond)} "
                f"cannot be computed: it covers {', '.join(COVERED)}. Leave out "
                f"{argument('teacher_cache')}, or set the weights {_names(beyond)} to 0."
            )
        others = [name for name in terms if name != "kl"]
        if top_k is not None and others:
            raise InputError(
                f"{setting('teacher_cache_top_k', top_k)} stores only the likeliest words, which "
                f"is enough for kl, but not for {', '.join(others)}. Set the weights "
                f"{_names(others)} to 0, or leave it out to store hidden states."
            )
        masked = loss.positions == "masked" and not set(terms) - set(OF_LOGITS)
        positions: Literal["attended", "masked"] = "masked" if masked else "attended"
        if (stored_identity(directory) or {}).get("positions") == "attended":
            positions = "attended"
        return cls(dtype, top_k, positions, 0.0 if top_k is None else loss.temperature)

    @property
    def is_exact(self) -> bool:
        """Whether the losses are those of a run without a cache, up to rounding."""
        return self.dtype == "float32" and self.top_k is None

    def identity(self) -> dict[str, Any]:
        """JSON values for cache.json."""
        what: dict[str, Any] = {"targets": "last hidden states"}
        if self.top_k is not None:
            what = {"targets": f"{self.top_k} likeliest words", "temperature": self.temperature}
        return {**what, "dtype": self.dtype, "positions": self.positions}

    def columns(self, hidden_size: int, vocab_size: int) -> dict[str, Column]:
        """The columns in which the targets are stored.

        Raises:
            InputError: the vocabulary does not have that many words.
        """
        dtype = np.dtype(self.dtype)
        if self.top_k is None:
            return {"hidden": Column(dtype, (hidden_size,))}
        check_top_k(self.top_k, vocab_size)
        words = np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)
        return {
            "log_probabilities": Column(dtype, (self.top_k,)),
            "words": Column(words, (self.top_k,)),
            "rest": Column(dtype),
        }


@dataclass(frozen=True, eq=False)
class PredictedStates(States):
    """The states of a teacher of which only the likeliest words are stored, without hidden states.

    Attributes:
        top: the likeliest words of all T tokens; NaN where nothing was stored.
    """

    top: TopPredictions | None = None

    def targets(self, where: Tensor | None) -> TopPredictions:
        """The likeliest words of the tokens with the numbers `where`; None = all tokens."""
        assert self.top is not None
        return self.top if where is None else self.top[where]


class CachedTeacher:
    """Returns a teacher's outputs from a cache, and runs the teacher for those that are missing.

    Args:
        cache: where targets are stored.
        stored: which outputs they are.

    Attributes:
        stored: see the argument.
        computed, read: numbers of samples for which the teacher did and did not have to run.
        writes: whether new targets are stored; a dry run sets it to False.
    """

    def __init__(self, cache: TeacherCache, stored: StoredTargets) -> None:
        self.cache = cache
        self.stored = stored
        self.computed = self.read = 0
        self.writes = True
        self._epoch: int | None = None
        self._stale = False

    def begin(self, epoch: int | None) -> None:
        """Called with the epoch of the next batches, before the processes agree on their counts.

        Between epochs samples move from process to process. So each process writes its targets
        before that agreement and looks for those of the others after it, and no sample is computed
        twice.
        """
        if epoch is not None and epoch != self._epoch:
            self.cache.flush()
            self._epoch, self._stale = epoch, True

    @torch.no_grad()
    def states(self, batch: TokenBatch, teacher: PretrainedModel) -> States:
        """The teacher's side of the loss, in the inner order of a packed batch.

        Values that are not stored are NaN, so that a term that reads them does not go unnoticed.

        Raises:
            DataError: the cache has another precision, is damaged, or cannot be written.
        """
        self.cache.settle_precision(_precision(teacher))
        lengths: Integers = batch.lengths.cpu().numpy()
        labels: Integers = batch.labels.cpu().numpy()
        chosen = None if self.stored.positions == "attended" else labels != IGNORED_LABEL
        digests = sample_digests(batch.input_ids.cpu().numpy(), lengths, chosen)
        missing = self._missing(digests)
        found = self._compute(batch, teacher, missing, digests, lengths, chosen)
        self.computed += len(found)
        self.read += len(digests) - len(found)
        rows = [
            found[number] if number in found else self.cache.read(digest)
            for number, digest in enumerate(digests)
        ]
        layout = Packed.from_lengths(lengths.tolist(), batch.input_ids.device)

        def column(name: str) -> Tensor:
            values = torch.from_numpy(_filled([each[name] for each in rows], chosen))
            return layout.pack(values.to(batch.input_ids.device))

        if self.stored.top_k is None:
            hidden = column("hidden").to(teacher.dtype)
            kept = states(teacher, EncoderOutput(last_hidden_state=hidden))
            return replace(kept, lengths=layout.lengths)
        top = TopPredictions(
            column("log_probabilities"),
            column("words").long(),
            column("rest"),
            teacher.config.vocab_size,
            self.stored.temperature,
        )
        matrix = float_weight(teacher.get_input_embeddings())
        return PredictedStates(matrix[:0], None, matrix, None, layout.lengths, top=top.to_one())

    def _missing(self, digests: Sequence[bytes]) -> Flags:
        missing = np.array([digest not in self.cache for digest in digests], dtype=np.bool_)
        if missing.any() and (self._stale or self.cache.may_have_grown()):
            self.cache.look_again()
            missing = np.array([digest not in self.cache for digest in digests], dtype=np.bool_)
        self._stale = False
        return missing

    def _compute(
        self,
        batch: TokenBatch,
        teacher: PretrainedModel,
        missing: Flags,
        digests: Sequence[bytes],
        lengths: Integers,
        chosen: Flags | None,
    ) -> dict[int, Rows]:
        """Runs the teacher for the missing samples of a batch; the keys are their places in it."""
        numbers = np.flatnonzero(missing)
        if not len(numbers):
            return {}
        tokens = np.repeat(missing, lengths)  # (T,)
        part = batch if missing.all() else _part(batch, numbers, tokens)
        wanted = np.ones(part.tokens, np.bool_) if chosen is None else chosen[tokens]
        encoded = encode(teacher, part, None)
        # numbers in the inner order of the wanted tokens, listed in the caller's order
        place = torch.arange(part.tokens, device=part.input_ids.device)
        inner = encoded.layout.pack(place).argsort()[torch.from_numpy(wanted).to(place.device)]
        tensors = self._targets(states(teacher, encoded), inner)
        with np.errstate(over="ignore"):  # checked below
            arrays = {
                name: values.cpu().numpy().astype(self.cache.columns[name].dtype)
                for name, values in tensors.items()
            }
        finite = all(np.isfinite(array).all() for array in arrays.values())
        if not finite and all(bool(values.isfinite().all()) for values in tensors.values()):
            raise DataError(
                f"The teacher's numbers are too large for {self.stored.dtype}: store them as "
                f"float32 ({setting('teacher_cache_dtype', 'float32')}), in another directory."
            )
        found: dict[int, Rows] = {}
        ends = np.append(0, wanted.cumsum())[lengths[numbers].cumsum()].tolist()  # in rows
        for number, start, stop in zip(numbers.tolist(), [0, *ends[:-1]], ends, strict=True):
            found[number] = {name: array[start:stop] for name, array in arrays.items()}
            # values that are not finite end the run, and are not stored
            if self.writes and finite:
                self.cache.add(digests[number], found[number])
        return found

    def _targets(self, teacher: States, where: Tensor) -> dict[str, Tensor]:
        """The values to store for some tokens, in at least float32."""
        if self.stored.top_k is None:
            return {"hidden": teacher.hidden.index_select(0, where).float()}
        inputs = teacher.logit_inputs(where)
        top = top_predictions(inputs, self.stored.top_k, self.stored.temperature)
        return {
            "log_probabilities": top.log_probabilities,
            "words": top.words,
            "rest": top.rest,
        }


@contextmanager
def kept(targets: CachedTeacher | None, say: Callable[[str], None]) -> Iterator[None]:
    """Writes the last targets when the block ends, also if it ends by an exception.

    Args:
        targets: the cached teacher; None = do nothing.
        say: called with a message about how often the teacher ran, or about targets that could not
            be written at the end.
    """
    if targets is None:
        yield
        return
    try:
        yield
    finally:
        try:
            targets.cache.flush()
        except DataError as problem:  # only the last targets are lost
            say(f"warning: {problem}")
        if targets.read or targets.computed:
            say(
                f"teacher cache: targets of {counted(targets.read, 'sample')} read, of "
                f"{targets.computed:,} computed"
            )


def _part(batch: TokenBatch, numbers: Integers, tokens: Flags) -> TokenBatch:
    """Some samples of a batch, with only the fields that a teacher reads."""
    where = torch.from_numpy(np.flatnonzero(tokens)).to(batch.input_ids.device)
    rows = torch.from_numpy(numbers).to(batch.lengths.device)
    return TokenBatch(
        batch.samples[numbers],
        batch.input_ids[where],
        batch.lengths[rows],
        batch.labels[where],
    )


def _filled(parts: Sequence[npt.NDArray[Any]], chosen: Flags | None) -> npt.NDArray[Any]:
    """The rows of all samples in one line, (T, ...), with NaN or 0 where nothing was chosen."""
    together = np.concatenate(parts)
    if together.dtype.kind == "u":
        together = together.astype(np.int64)
    if chosen is None:
        return together
    fill = np.nan if together.dtype.kind == "f" else 0
    line = np.full((len(chosen), *together.shape[1:]), fill, together.dtype)
    line[chosen] = together
    return line


def _names(terms: Sequence[str]) -> str:
    """The names of loss weights as in Python or on the command line."""
    return ", ".join(map(argument, terms))


def _precision(teacher: PretrainedModel) -> str:
    """The dtype in which a teacher computes its products here."""
    kind = teacher.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else teacher.dtype
    return str(dtype).removeprefix("torch.")
