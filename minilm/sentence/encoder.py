"""Texts to vectors: many texts, no padding, results in the order of the texts."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.checkpoints.hub import resolve
from minilm.errors import InputError
from minilm.loader import load
from minilm.models.pretrained import PretrainedModel
from minilm.sentence.files import read_sentence_settings
from minilm.tokenization.tokenizer import Tokenizer

Pooling = Literal["mean", "cls"]
Vectors = npt.NDArray[np.float32]

# Texts that are tokenised and sorted together: enough that a batch holds texts of one or two
# lengths, few enough that a stream of any length fits into memory.
CHUNK = 4096
# On a CPU the speed is the same, within noise, from 512 to 16,384 tokens (fp32, DistilBERT-base and
# MiniLM-L6); memory grows with it. A GPU may want more.
TOKENS_PER_BATCH = 4096


class Encoder:
    """Turns texts into one vector each, with a model and its tokenizer.

    Texts are tokenised some thousand at a time, sorted by length and packed into batches by a
    budget of tokens, without any padding; the vectors come back in the order of the texts. Batches
    do not change results beyond rounding.

    A text longer than `max_length` is cut, and a warning says how many were. An empty text is a
    text like any other: its vector is that of the special tokens alone.

    Args:
        model: any minilm model in eval mode; heads are not used.
        tokenizer: the one that belongs to the model.
        pooling: how the states of a text's tokens become its vector when `encode` is not told:
            "mean" of all its tokens, special ones included, as sentence-transformers averages; or
            "cls", the state of the first token.
        max_length: after how many tokens a text is cut when `encode` is not told, special tokens
            included; None = what the model takes.

    Attributes:
        model, tokenizer, pooling, max_length: as given.

    Raises:
        InputError: an argument does not fit the model.

    Example:
        >>> encoder = minilm.Encoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        >>> a, b, c = encoder.encode(["A cat sits.", "A kitten sits.", "Stocks fell."])
        >>> a @ b > a @ c
        True

    References: Reimers and Gurevych 2019, "Sentence-BERT", section 3.
    """

    def __init__(
        self,
        model: PretrainedModel,
        tokenizer: Tokenizer,
        *,
        pooling: str = "mean",
        max_length: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = self._checked_length(
            model.config.max_position_embeddings if max_length is None else max_length
        )

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Loads a model and its tokenizer from a directory or from the hub.

        If the checkpoint was made with sentence-transformers, its own length and pooling become the
        defaults of `encode`: all-MiniLM-L6-v2 takes 512 tokens but was made to be used with 256,
        and that is where its users expect a text to be cut.

        Args:
            path_or_repo: a directory (no network is touched), or a hub name.
            revision, token, cache_dir, local_files_only: for hub names, as in huggingface_hub.
            dtype: of the parameters; None = float32, "auto" = as stored. "bfloat16" is faster on
                processors made for it.
            device: where the model runs.

        Raises:
            MinilmError: a file is missing, damaged or unsupported.
        """
        directory = resolve(
            path_or_repo,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        settings = read_sentence_settings(directory)
        model = load(directory, dtype=dtype, device=device)
        longest = model.config.max_position_embeddings
        return cls(
            model,
            Tokenizer.from_pretrained(directory),
            pooling=settings.pooling or "mean",
            max_length=min(settings.max_length or longest, longest),
        )

    def encode(
        self,
        texts: Iterable[str],
        *,
        pooling: Pooling | None = None,
        normalize: bool = True,
        max_length: int | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        progress: bool = False,
    ) -> Vectors:
        """Encodes texts.

        Args:
            texts: N strings; a list, a generator or any other iterable.
            pooling: "mean" or "cls"; None = as the encoder was made.
            normalize: scale every vector to length 1, so that a dot product is a cosine.
            max_length: cut texts after so many tokens; None = as the encoder was made.
            tokens_per_batch: how many tokens go through the model at once. Memory grows with it; a
                longer text still goes alone.
            progress: show a progress bar on stderr.

        Returns:
            (N, H) float32, whatever the model's dtype; (0, H) for no texts.

        Raises:
            InputError: an argument is wrong, an item is no string or the model is in training mode.
        """
        if not isinstance(texts, Sequence):
            texts = list(texts)
        stream = self.encode_stream(
            texts,
            pooling=pooling,
            normalize=normalize,
            max_length=max_length,
            tokens_per_batch=tokens_per_batch,
            progress=progress,
        )
        vectors = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        done = 0
        for chunk in stream:
            vectors[done : done + len(chunk)] = chunk
            done += len(chunk)
        return vectors

    def encode_stream(
        self,
        texts: Iterable[str],
        *,
        pooling: Pooling | None = None,
        normalize: bool = True,
        max_length: int | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        progress: bool = False,
    ) -> Iterator[Vectors]:
        """Encodes texts without ever holding all of them, or all vectors.

        Args:
            texts: any iterable, read a chunk at a time.
            pooling, normalize, max_length, tokens_per_batch, progress: as for `encode`.

        Returns:
            An iterator of (n, H) float32 arrays, in the order of the texts; n is 4096 for all but
            the last. Nothing for no texts.

        Raises:
            InputError: as for `encode`; of an item, once it is reached.
        """
        if isinstance(texts, str):
            raise InputError("texts is one string: give a list, encode([text]).")
        if self.model.training:
            raise InputError(
                "The model is in training mode, where dropout would change every vector: call "
                "model.eval() first."
            )
        mode = pooling or self.pooling
        if mode not in get_args(Pooling):
            raise InputError(
                f"pooling is {mode!r}: minilm has {' and '.join(map(repr, get_args(Pooling)))}; "
                "choose one of them."
            )
        if tokens_per_batch < 1:
            raise InputError(f"tokens_per_batch is {tokens_per_batch}: expected at least 1.")
        length = self.max_length if max_length is None else self._checked_length(max_length)
        return self._stream(texts, mode, normalize, length, tokens_per_batch, progress)

    def _stream(
        self,
        texts: Iterable[str],
        pooling: str,
        normalize: bool,
        max_length: int,
        budget: int,
        progress: bool,
    ) -> Iterator[Vectors]:
        from tqdm import tqdm

        seen = cut = 0
        total = len(texts) if isinstance(texts, Sized) else None
        with tqdm(total=total, unit=" texts", file=sys.stderr, disable=not progress) as bar:
            for chunk in _chunks(texts):
                try:
                    batch = self.tokenizer(chunk, max_length=max_length, layout="packed")
                except InputError as error:
                    if seen == 0:
                        raise
                    raise InputError(f"After the first {seen} texts: {error}") from error
                lengths = batch["lengths"].tolist()
                ids = torch.split(batch["input_ids"], lengths)
                types = torch.split(batch["token_type_ids"], lengths)
                vectors = np.empty((len(chunk), self.model.config.hidden_size), np.float32)
                for rows in pack(lengths, budget):
                    vectors[rows] = self._encode_rows(
                        torch.cat([ids[row] for row in rows]),
                        torch.cat([types[row] for row in rows]),
                        torch.tensor([lengths[row] for row in rows]),
                        pooling,
                        normalize,
                    )
                    bar.update(len(rows))
                seen += len(chunk)
                cut += len(batch.truncated)
                yield vectors
        if cut:
            warnings.warn(
                f"{cut} of {seen} texts were longer than {max_length} tokens and were cut.",
                stacklevel=2,
            )

    @torch.inference_mode()
    def _encode_rows(
        self, ids: Tensor, types: Tensor, lengths: Tensor, pooling: str, normalize: bool
    ) -> Vectors:
        """(T,) ids of B texts, one behind the other -> (B, H)."""
        ids, types, lengths = (x.to(self.model.device) for x in (ids, types, lengths))
        states = self.model.base(ids, None, types, lengths=lengths).last_hidden_state  # (T, H)
        if pooling == "cls":
            vectors = states[lengths.cumsum(0) - lengths].float()  # (B, H)
        else:
            text = torch.arange(len(lengths), device=ids.device).repeat_interleave(lengths)  # (T,)
            sums = states.new_zeros((len(lengths), states.shape[1]), dtype=torch.float32)
            vectors = sums.index_add_(0, text, states.float()) / lengths[:, None]  # (B, H)
        if normalize:
            vectors = F.normalize(vectors, dim=1)
        result: Vectors = vectors.cpu().numpy()
        return result

    def _checked_length(self, max_length: int) -> int:
        longest = self.model.config.max_position_embeddings
        if not 1 <= max_length <= longest:
            raise InputError(
                f"max_length is {max_length}: the model takes 1 to {longest} tokens "
                "(max_position_embeddings)."
            )
        return max_length


def pack(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Sorts texts by length and cuts the line into batches.

    Args:
        lengths: tokens of each text.
        budget: the most tokens of a batch, unless a single text has more.

    Yields:
        The numbers of the texts of one batch, shortest text first.
    """
    rows: list[int] = []
    used = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and used + lengths[row] > budget:
            yield rows
            rows, used = [], 0
        rows.append(row)
        used += lengths[row]
    if rows:
        yield rows


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of up to CHUNK texts, each checked to be a string."""
    rest = iter(texts)
    start = 0
    while chunk := list(islice(rest, CHUNK)):
        for number, text in enumerate(chunk, start):
            if not isinstance(text, str):
                raise InputError(f"texts[{number}] must be a string, not {type(text).__name__}.")
        start += len(chunk)
        yield chunk
