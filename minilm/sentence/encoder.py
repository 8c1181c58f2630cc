"""Encodes texts to vectors: many at once, without padding, results in the order of the texts."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import normalizers
from torch import Tensor

from minilm.checkpoints.hub import resolve
from minilm.errors import InputError, argument
from minilm.files.progress import cut_message
from minilm.loader import check_vocabulary, load
from minilm.models.pretrained import PretrainedModel
from minilm.sentence.files import NO_PROMPTS, read_sentence_settings
from minilm.sentence.similarity import cosine_similarity, pairwise_cosine_similarity
from minilm.tokenization.tokenizer import Tokenizer

Pooling = Literal["mean", "cls"]
Vectors = npt.NDArray[np.float32]

# Number of texts that are tokenised and sorted together: enough that a batch holds texts of one or
# two lengths, few enough that a stream of any length fits into memory.
CHUNK = 4096
# On a CPU the speed is the same, within noise, from 512 to 16,384 tokens (fp32, DistilBERT-base and
# MiniLM-L6); memory grows with it. A GPU may want more.
TOKENS_PER_BATCH = 4096


class SentenceEncoder:
    """Encodes each text to a vector, with a model and its tokenizer; also called `Encoder`.

    Texts are tokenised some thousand at a time, sorted by length and packed into batches of a
    limited number of tokens, without padding; the vectors come in the order of the texts. Batching
    does not change results beyond rounding.

    A text longer than `max_length` is cut, and a warning says how many were. An empty text has a
    vector too: that of the special tokens alone.

    On a CPU that also does other work, set the environment variable OMP_WAIT_POLICY=PASSIVE before
    torch is imported, as minilm's commands do: threads that spin while they wait for each other can
    make a single text take several times as long.

    `encode` also accepts the arguments of sentence-transformers' `encode`, so a `SentenceEncoder`
    works in tools that call it; in scikit-learn, use `FunctionTransformer(encoder.encode)` as a
    step of a pipeline.

    Args:
        model: any minilm model in eval mode; heads are not used.
        tokenizer: the model's tokenizer.
        pooling: default pooling of `encode`: "mean", over all tokens of a text, special tokens
            included, as in sentence-transformers; or "cls", the state of the first token.
        max_length: default length in tokens at which `encode` cuts texts, special tokens included;
            None = the longest that the model accepts.
        prompts: texts to put before every text, by name. "query" and "document" are empty unless
            they are given.
        default_prompt_name: name of the default prompt of `encode`; None = no prompt.
        include_prompt: False = the tokens of a prompt, and the special tokens before them, are
            input of the model but not pooled.
        unit_length: whether the model itself ends with scaling vectors to length 1, so that
            `normalize_embeddings=False` leaves them so.

    Attributes:
        model, tokenizer, pooling, max_length, prompts, default_prompt_name, include_prompt,
            unit_length: as given.
        max_seq_length: another name of max_length.
        device: the device of the model.

    Raises:
        InputError: an argument does not fit the model, or the tokenizer has more tokens than the
            model.

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
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        include_prompt: bool = True,
        unit_length: bool = False,
    ) -> None:
        check_vocabulary(model.config, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = self._checked_length(
            model.config.max_position_embeddings if max_length is None else max_length
        )
        self.prompts = {**NO_PROMPTS, **(prompts or {})}
        self.default_prompt_name = default_prompt_name
        self.include_prompt = include_prompt
        self.unit_length = unit_length

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
        num_hidden_layers: int | None = None,
    ) -> Self:
        """Loads a model and its tokenizer from a directory or from the hub.

        If the checkpoint was made with sentence-transformers, its maximum length, pooling and
        default prompt become the defaults of `encode`: all-MiniLM-L6-v2 accepts 512 tokens but is
        meant to be used with 256, where its users expect a text to be cut. Otherwise the length is
        the tokenizer's `model_max_length`, or the model's maximum if that is less.

        Args:
            path_or_repo: a directory (no network is touched), or a hub name.
            revision, token, cache_dir, local_files_only: for hub names, as in huggingface_hub.
            dtype: dtype of the parameters; None = float32, "auto" = as stored. "bfloat16" is faster
                on processors made for it.
            device: the device of the model; None = torch's default device.
            num_hidden_layers: number of layers to use, from the first on; None = all of them.

        Raises:
            MinilmError: a file is missing, damaged or unsupported, or the checkpoint has modules
                or a pooling that minilm does not implement.
        """
        directory = resolve(
            path_or_repo,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        settings = read_sentence_settings(directory)
        shallow: dict[str, Any] = (
            {} if num_hidden_layers is None else {"num_hidden_layers": num_hidden_layers}
        )
        model = load(
            directory / settings.folder, dtype=dtype, device=device, new_parts="allow", **shallow
        )
        tokenizer = Tokenizer.from_pretrained(directory / settings.folder)
        if settings.lower_case:
            steps = [normalizers.Lowercase(), tokenizer.backend.normalizer]
            tokenizer.backend.normalizer = normalizers.Sequence([step for step in steps if step])
        longest = model.config.max_position_embeddings
        return cls(
            model,
            tokenizer,
            pooling=settings.pooling or "mean",
            max_length=min(settings.max_length or tokenizer.model_max_length or longest, longest),
            prompts=settings.prompts,
            default_prompt_name=settings.default_prompt_name,
            include_prompt=settings.include_prompt,
            unit_length=settings.unit_length,
        )

    @property
    def max_seq_length(self) -> int:
        """The length at which a text is cut, in tokens, special tokens included."""
        return self.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.max_length = self._checked_length(value)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.device

    def get_embedding_dimension(self) -> int:
        """H, the dimension of the vectors."""
        return self.model.config.hidden_size

    get_sentence_embedding_dimension = get_embedding_dimension

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """The cosine of every vector with every other: (N, H) and (M, H) -> (N, M) float32."""
        return cosine_similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """The cosine of each vector with the one in the same place: two (N, H) -> (N,) float32."""
        return pairwise_cosine_similarity(embeddings1, embeddings2)

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        pooling: Pooling | None = None,
        normalize: bool = True,
        normalize_embeddings: bool | None = None,
        max_length: int | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        progress: bool = False,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Encodes texts.

        Args:
            texts: N strings in a list, a generator or another iterable; or one string.
            prompt: a text to put before every text; None = the prompt of `prompt_name`, "" = none.
            prompt_name: a key of `prompts`; None = the encoder's default.
            batch_size: maximum number of texts in a batch; None = limited only by
                `tokens_per_batch`, which always applies.
            pooling: "mean" or "cls"; None = the encoder's default.
            normalize: scale every vector to length 1, so that a dot product is a cosine.
            normalize_embeddings: instead of `normalize`, with its meaning in
                sentence-transformers: False leaves the vectors as the model's own modules return
                them, which is at length 1 if the last module is Normalize.
            max_length: length at which texts are cut, in tokens; None = the encoder's default.
            tokens_per_batch: maximum number of tokens in a batch. Memory grows with it; a longer
                text is a batch of its own.
            progress, show_progress_bar: show a progress bar on stderr.
            convert_to_numpy: False = return a tensor. Differs from sentence-transformers, which
                returns a list of tensors.
            convert_to_tensor: True = return a tensor, on the model's device.

        Returns:
            A float32 array or tensor, whatever the model's dtype: (N, H); (0, H) for no texts, (H,)
            for one string.

        Raises:
            InputError: an argument is wrong, an item is not a string or the model is in training
                mode.
        """
        if not isinstance(texts, Iterable):
            raise InputError(f"texts is a {type(texts).__name__}: expected a string or a list.")
        rows = [texts] if isinstance(texts, str) else texts
        rows = rows if isinstance(rows, Sequence) else list(rows)
        stream = self.encode_stream(
            rows,
            prompt=prompt,
            prompt_name=prompt_name,
            batch_size=batch_size,
            pooling=pooling,
            normalize=normalize,
            normalize_embeddings=normalize_embeddings,
            max_length=max_length,
            tokens_per_batch=tokens_per_batch,
            progress=progress,
            show_progress_bar=show_progress_bar,
        )
        vectors = np.empty((len(rows), self.get_embedding_dimension()), np.float32)
        done = 0
        for chunk in stream:
            vectors[done : done + len(chunk)] = chunk
            done += len(chunk)
        result = vectors[0] if isinstance(texts, str) else vectors
        if convert_to_tensor or not convert_to_numpy:
            return torch.from_numpy(result).to(self.device)
        return result

    def encode_stream(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        pooling: Pooling | None = None,
        normalize: bool = True,
        normalize_embeddings: bool | None = None,
        max_length: int | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        progress: bool = False,
        show_progress_bar: bool | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> VectorStream:
        """Encodes texts without holding all texts or all vectors in memory.

        Args:
            texts: any iterable, read a chunk at a time.
            prompt, prompt_name, batch_size, pooling, normalize, normalize_embeddings, max_length,
                tokens_per_batch, progress, show_progress_bar: as for `encode`.
            on_batch: called after every batch with its number of texts, to show progress.

        Returns:
            An iterator over (n, H) float32 arrays, in the order of the texts; n is 4096 for all but
            the last one. It is empty without texts. Its attribute `truncated` says which texts were
            cut.

        Raises:
            InputError: as for `encode`; for a wrong item, when it is reached.
        """
        if isinstance(texts, str):
            raise InputError("texts is one string: give a list, encode_stream([text]).")
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
        for name, value in (("tokens_per_batch", tokens_per_batch), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: expected at least 1.")
        if normalize_embeddings is not None:
            normalize = normalize_embeddings or self.unit_length
        return VectorStream(
            self._stream(
                texts,
                prompt=self.resolve_prompt(prompt, prompt_name),
                pooling=mode,
                normalize=normalize,
                max_length=self.max_length
                if max_length is None
                else self._checked_length(max_length),
                batch_size=batch_size,
                budget=tokens_per_batch,
                progress=progress if show_progress_bar is None else show_progress_bar,
                on_batch=on_batch,
            )
        )

    def _stream(
        self,
        texts: Iterable[str],
        *,
        prompt: str,
        pooling: str,
        normalize: bool,
        max_length: int,
        batch_size: int | None,
        budget: int,
        progress: bool,
        on_batch: Callable[[int], object] | None,
    ) -> Iterator[tuple[Vectors, Sequence[int]]]:
        """Yields vectors of some texts, and which of these texts were cut."""
        from tqdm.auto import tqdm

        skipped = 0  # tokens of each text that are not pooled: the prompt's, and [CLS] before it
        if prompt and not self.include_prompt:
            skipped = self.tokenizer(prompt, max_length=max_length)["input_ids"].shape[1] - 1
        seen = cut = 0
        total = len(texts) if isinstance(texts, Sized) else None
        with tqdm(total=total, unit=" texts", file=sys.stderr, disable=not progress) as bar:
            for chunk in _chunks(texts):
                try:
                    batch = self.tokenizer(
                        [prompt + text for text in chunk], max_length=max_length, layout="packed"
                    )
                except InputError as error:
                    if seen == 0:
                        raise
                    raise InputError(f"After the first {seen} texts: {error}") from error
                lengths = batch["lengths"].tolist()
                ids = torch.split(batch["input_ids"], lengths)
                types = torch.split(batch["token_type_ids"], lengths)
                vectors = np.empty((len(chunk), self.get_embedding_dimension()), np.float32)
                for rows in pack(lengths, budget, batch_size):
                    vectors[rows] = self._encode_rows(
                        torch.cat([ids[row] for row in rows]),
                        torch.cat([types[row] for row in rows]),
                        torch.tensor([lengths[row] for row in rows]),
                        pooling=pooling,
                        normalize=normalize,
                        skipped=skipped,
                    )
                    bar.update(len(rows))
                    if on_batch is not None:
                        on_batch(len(rows))
                seen += len(chunk)
                cut += len(batch.truncated)
                yield vectors, batch.truncated
        if cut:
            warnings.warn(cut_message(cut, seen, "text", max_length), stacklevel=3)

    @torch.inference_mode()
    def _encode_rows(
        self,
        ids: Tensor,
        types: Tensor,
        lengths: Tensor,
        *,
        pooling: str,
        normalize: bool,
        skipped: int,
    ) -> Vectors:
        """(T,) ids of B texts, one after another -> (B, H)."""
        ids, types, lengths = (x.to(self.device) for x in (ids, types, lengths))
        states = self.model.base(ids, None, types, lengths=lengths).last_hidden_state  # (T, H)
        vectors = pool(states, lengths, pooling, skipped)
        if normalize:
            vectors = F.normalize(vectors, dim=1)
        result: Vectors = vectors.cpu().numpy()
        return result

    def resolve_prompt(self, prompt: str | None = None, name: str | None = None) -> str:
        """The text that `encode` puts before every text.

        Args:
            prompt: the argument `prompt` of `encode`.
            name: the argument `prompt_name` of `encode`.

        Raises:
            InputError: there is no prompt of this name.
        """
        name = self.default_prompt_name if name is None else name
        if prompt is None and name is not None and name not in self.prompts:
            known = ", ".join(map(repr, self.prompts))
            raise InputError(
                f"{argument('prompt_name')} is {name!r}: the encoder has prompts named {known}."
            )
        return prompt if prompt is not None else self.prompts.get(name or "", "")

    def _checked_length(self, max_length: int) -> int:
        longest = self.model.config.max_position_embeddings
        if not 1 <= max_length <= longest:
            raise InputError(
                f"{argument('max_length')} is {max_length}: the model takes 1 to {longest} tokens "
                "(max_position_embeddings)."
            )
        return max_length


Encoder = SentenceEncoder


class VectorStream(Iterator[Vectors]):
    """An iterator over vectors of texts, some at a time.

    Args:
        chunks: (n, H) float32 arrays, each with the rows whose texts were cut.

    Attributes:
        truncated: the rows of the latest array whose texts were longer than `max_length`.
    """

    def __init__(self, chunks: Iterator[tuple[Vectors, Sequence[int]]]) -> None:
        self._chunks = chunks
        self.truncated: frozenset[int] = frozenset()

    def __next__(self) -> Vectors:
        vectors, truncated = next(self._chunks)
        self.truncated = frozenset(truncated)
        return vectors


def pool(states: Tensor, lengths: Tensor, pooling: str, skipped: int = 0) -> Tensor:
    """Pools token states to one vector for each text.

    Args:
        states: (T, H) token states of B texts, one after another.
        lengths: (B,) number of tokens of each text.
        pooling: "mean" or "cls".
        skipped: number of tokens at the beginning of each text that are not pooled.

    Returns:
        (B, H) float32.
    """
    first = lengths.cumsum(0) - lengths  # (B,)
    if pooling == "cls":
        return states[first + skipped * (lengths > skipped)].float()
    states = states.float()
    text = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths)  # (T,)
    if skipped:
        position = torch.arange(len(text), device=states.device) - first[text]  # (T,)
        states = states * (position >= skipped)[:, None]
    sums = states.new_zeros((len(lengths), states.shape[1])).index_add_(0, text, states)
    return sums / (lengths - skipped).clamp(min=1)[:, None]


def pack(lengths: Sequence[int], budget: int, batch_size: int | None = None) -> Iterator[list[int]]:
    """Sorts texts by length and splits them into batches.

    Args:
        lengths: number of tokens of each text.
        budget: maximum number of tokens of a batch, unless a single text has more.
        batch_size: maximum number of texts of a batch; None = no limit.

    Yields:
        The numbers of the texts of one batch, shortest text first.
    """
    rows: list[int] = []
    used = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and (used + lengths[row] > budget or len(rows) == batch_size):
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
