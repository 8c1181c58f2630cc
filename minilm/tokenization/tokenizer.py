"""Text to ids and back: WordPiece (BERT, DistilBERT) and unigram (ALBERT).

The work is done by the Rust library `tokenizers`; this module makes it read every layout of model
directory (see `minilm.tokenization.files`) and return batches that go straight into a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minilm.checkpoints.atomic import replace_files
from minilm.checkpoints.json_file import json_bytes
from minilm.errors import CheckpointError, InputError, MinilmError, TokenizerFileError
from minilm.tokenization.files import complete, guarded, read_tokenizer

if TYPE_CHECKING:
    import tokenizers

Layout: TypeAlias = Literal["padded", "packed"]
Integers: TypeAlias = npt.NDArray[np.int64]


class Batch(Mapping[str, Tensor]):
    """What a tokenizer returns: a mapping of the tensors that a model's forward takes.

    The keys are `input_ids`, `attention_mask` and `token_type_ids`, each (B, S) int64, in the
    padded layout; `input_ids` (T,), `lengths` (B,) and `token_type_ids` (T,) in the packed one. So
    `model(**batch)` works with either. What a model has no use for is an attribute, never a key.

    Attributes:
        truncated: the indices of the texts (or pairs) that lost tokens to `max_length`.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        rows: Sequence[Row],
        truncated: list[int],
        has_offsets: bool,
    ) -> None:
        self._tensors = dict(tensors)
        self._rows = rows
        self._has_offsets = has_offsets
        self.truncated = truncated

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.items())
        return f"Batch({shapes}; {len(self.truncated)} truncated)"

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on another device."""
        moved = {k: v.to(device, non_blocking=non_blocking) for k, v in self._tensors.items()}
        return Batch(moved, self._rows, self.truncated, self._has_offsets)

    @property
    def offsets(self) -> list[list[tuple[int, int]]]:
        """For every text, its tokens' (start, end) in characters of the original string.

        In a pair each token counts in its own string (see `sequence_ids`). Special tokens that the
        tokenizer added have (0, 0). No entries for padding.
        """
        self._need_offsets("offsets")
        return [row.offsets for row in self._rows]

    @property
    def word_ids(self) -> list[list[int | None]]:
        """For every text, the index of the word each token belongs to; None for special tokens."""
        self._need_offsets("word_ids")
        return [row.word_ids for row in self._rows]

    @property
    def sequence_ids(self) -> list[list[int | None]]:
        """For every text, 0 or 1 for tokens of its first or second part, None for special ones."""
        return [row.sequence_ids for row in self._rows]

    def _need_offsets(self, name: str) -> None:
        if not self._has_offsets:
            raise InputError(f"batch.{name} needs tokenizer(..., return_offsets=True).")


class Pieces(NamedTuple):
    """The tokens of a text, without special tokens.

    ids: (n,) int64.
    offsets: (n, 2) int64, start and end of each token in characters of the text.
    """

    ids: Integers
    offsets: Integers


class Joined(NamedTuple):
    """Pieces with the special tokens around them.

    ids: (T,) int64.
    type_ids: (T,) int64 token types.
    starts: where the pieces of the first and of the second text begin.
    """

    ids: Integers
    type_ids: Integers
    starts: tuple[int, int]


class Row(Protocol):
    """One encoded text or pair: what a batch reads of the Rust library's Encoding."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def type_ids(self) -> list[int]: ...
    @property
    def sequence_ids(self) -> list[int | None]: ...
    @property
    def offsets(self) -> list[tuple[int, int]]: ...
    @property
    def word_ids(self) -> list[int | None]: ...


@dataclass
class _Assembled:
    """A row put together from encodings of its parts."""

    ids: list[int] = field(default_factory=list)
    type_ids: list[int] = field(default_factory=list)
    sequence_ids: list[int | None] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    word_ids: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class _Slot:
    """A place in the template of an encoded text or pair.

    Attributes:
        sequence: 0 for the first text, 1 for the second, None for a special token.
        token_id: of a special token.
        type_id: the token type of whatever comes here.
    """

    sequence: int | None
    token_id: int
    type_id: int


class Tokenizer:
    """Turns texts into ids, and ids into text.

    Usually made by `from_pretrained`. The constructor takes any tokenizer of the tokenizers
    library, for vocabularies with rules of their own (reaction SMILES, say, which BERT's splitting
    at punctuation would tear apart). Encoding changes nothing inside, so threads may share one.

    Args:
        backend: the tokenizer to wrap; it is completed in place with what `from_pretrained` also
            sees to: special tokens recognised in text, `[CLS] A [SEP] B [SEP]` if it has no
            template, its own truncation and padding off.
        special_tokens: role ("cls", "sep", "pad", "unk", "mask") to token; the customary spellings
            ([CLS] [SEP] [PAD] [UNK] [MASK], <pad> <unk>) are found without.
        model_max_length: the longest input the model takes, for information.
        source: where the backend comes from, for messages.

    Attributes:
        cls_token, sep_token, pad_token, unk_token: the special tokens.
        cls_token_id, sep_token_id, pad_token_id, unk_token_id: their ids.
        model_max_length: the longest input that the files name, or None. Nothing is truncated to it
            by itself; pass `max_length`.
        vocab_size: the largest id plus one: the rows an embedding needs.
        backend: the wrapped tokenizer.

    Raises:
        TokenizerFileError: the vocabulary lacks a special token, or the backend does not work.

    Example:
        >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "small", "model"]
        >>> ids = {word: i for i, word in enumerate(words)}
        >>> backend = Backend(models.WordPiece(ids, unk_token="[UNK]"))
        >>> backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        >>> tokenizer = Tokenizer(backend)
        >>> batch = tokenizer(["a small model", "a [MASK]"])
        >>> batch["input_ids"].tolist()
        [[2, 5, 6, 7, 3], [2, 5, 4, 3, 0]]
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        model_max_length: int | None = None,
        source: str = "backend",
    ) -> None:
        self._special_tokens = complete(backend, special_tokens or {}, source)
        self._template = _learn_template(backend, 1, source)
        self._pair_template = _learn_template(backend, 2, source)
        self._vocabulary = backend.get_vocab(with_added_tokens=True)
        self._source = source
        self.backend = backend
        self.model_max_length = model_max_length
        self.vocab_size = max(self._vocabulary.values()) + 1
        self.cls_token = self._special_tokens["cls"]
        self.sep_token = self._special_tokens["sep"]
        self.pad_token = self._special_tokens["pad"]
        self.unk_token = self._special_tokens["unk"]
        self.cls_token_id = self._vocabulary[self.cls_token]
        self.sep_token_id = self._vocabulary[self.sep_token]
        self.pad_token_id = self._vocabulary[self.pad_token]
        self.unk_token_id = self._vocabulary[self.unk_token]

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Tokenizer:
        """Reads the tokenizer of a model directory, or of a repository on the hub.

        The first of these files that is there: `tokenizer.json`; `vocab.txt` (WordPiece, BERT's
        basic tokenizer; `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` from
        tokenizer_config.json, which also win over a BERT-style tokenizer.json); `spiece.model`
        (ALBERT; `do_lower_case`, `keep_accents`; needs the extra `sentencepiece`). A vocab.txt
        without `do_lower_case` is cased if single capital letters are among its tokens.

        Args:
            path_or_repo: a local directory (read without any network), or a hub name.
            revision: branch, tag or commit of the repository.
            token: hub token, for private repositories.
            cache_dir: folder of downloaded files.
            local_files_only: use only what the cache has.

        Raises:
            TokenizerFileError: a file is missing, damaged or not supported.
            HubError: a download failed.
            DependencyError: spiece.model without the package `protobuf`.
        """
        from minilm.checkpoints.hub import resolve

        directory = resolve(
            path_or_repo,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            weights=False,
        )
        parts = read_tokenizer(directory)
        return cls(
            parts.backend,
            special_tokens=parts.special_tokens,
            model_max_length=parts.model_max_length,
            source=parts.source,
        )

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} tokens from {self._source})"

    @property
    def mask_token(self) -> str:
        """The mask token; a `TokenizerFileError` if the vocabulary has none."""
        if "mask" not in self._special_tokens:
            raise TokenizerFileError(
                f"{self._source}: the vocabulary has no mask token. If it has one under another "
                "name, say so as mask_token in tokenizer_config.json."
            )
        return self._special_tokens["mask"]

    @property
    def mask_token_id(self) -> int:
        """The id of the mask token; a `TokenizerFileError` if the vocabulary has none."""
        return self._vocabulary[self.mask_token]

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of all special tokens, in order: those with a role and those that were added."""
        added = self.backend.get_added_tokens_decoder().items()
        return sorted(index for index, token in added if token.special)

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        layout: Layout = "padded",
        return_offsets: bool = False,
    ) -> Batch:
        """Encodes texts, or pairs of texts.

        Args:
            texts: one text or several; one text gives a batch of one.
            pairs: the second text of each pair.
            max_length: the longest result in tokens, special tokens included; None truncates
                nothing (a model itself refuses what is too long for it). Pairs lose tokens from
                the longer side first, as with Hugging Face's `truncation=True`.
            layout: "padded", rows padded on the right to the longest, or "packed", all tokens in a
                row without any padding.
            return_offsets: also keep `batch.offsets` and `batch.word_ids`; a little slower.

        Returns:
            A `Batch`; `batch.truncated` says which texts lost tokens.

        Raises:
            InputError: no texts, a text that is no string or no valid Unicode, more or fewer pairs
                than texts, or a max_length without room for the special tokens.
        """
        if layout not in ("padded", "packed"):
            raise InputError(f'layout must be "padded" or "packed", not {layout!r}.')
        firsts = _strings("texts", texts)
        seconds = None if pairs is None else _strings("pairs", pairs)
        if seconds is not None and len(seconds) != len(firsts):
            raise InputError(f"{len(firsts)} texts, but {len(seconds)} pairs; give one for each.")

        rows: Sequence[Row]
        truncated: list[int] = []
        if max_length is not None:
            rows, truncated = self._encode_truncated(firsts, seconds, max_length, return_offsets)
        elif seconds is not None:
            rows = self._encode(list(zip(firsts, seconds, strict=True)), return_offsets)
        else:
            rows = self._encode(firsts, return_offsets)
        make_tensors = _packed if layout == "packed" else self._padded
        return Batch(make_tensors(rows), rows, truncated, return_offsets)

    def pieces(self, texts: str | Sequence[str]) -> list[Pieces]:
        """The tokens of texts without any special tokens, for callers who cut windows themselves.

        Raises:
            InputError: as for calling the tokenizer.
        """
        encodings = self._encode(_strings("texts", texts), special_tokens=False)
        return [
            Pieces(np.array(found.ids, np.int64), np.array(found.offsets, np.int64).reshape(-1, 2))
            for found in encodings
        ]

    def join(self, first: Integers, second: Integers | None = None) -> Joined:
        """Puts pieces into the template, as a whole text or pair would be.

        Args:
            first: (n,) ids without special tokens.
            second: (m,) ids of the other text of a pair.
        """
        template = self._template if second is None else self._pair_template
        parts = (first, second)
        ids: list[Integers] = []
        types: list[Integers] = []
        starts = [0, 0]
        for slot in template:
            part = np.array([slot.token_id]) if slot.sequence is None else parts[slot.sequence]
            assert part is not None
            if slot.sequence is not None:
                starts[slot.sequence] = sum(map(len, ids))
            ids.append(part)
            types.append(np.full(len(part), slot.type_id))
        return Joined(np.concatenate(ids), np.concatenate(types), (starts[0], starts[1]))

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many special tokens `join` adds to a text, or to a pair."""
        return sum(
            slot.sequence is None for slot in (self._pair_template if pair else self._template)
        )

    def tokenize(self, text: str) -> list[str]:
        """The tokens of one text, without the special tokens of the template."""
        (encoding,) = self._encode(_strings("text", text), special_tokens=False)
        return encoding.tokens

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """The ids of tokens; the unknown token's for those not in the vocabulary."""
        return [self._vocabulary.get(token, self.unk_token_id) for token in tokens]

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, or None if it is not in the vocabulary."""
        return self._vocabulary.get(token)

    def id_to_token(self, index: int) -> str:
        """The token with this id.

        Raises:
            InputError: no token has this id.
        """
        token = self.backend.id_to_token(index) if 0 <= index < self.vocab_size else None
        if token is None:
            raise InputError(
                f"No token has the id {index}; ids go from 0 to {self.vocab_size - 1}."
            )
        return token

    def decode(self, ids: Iterable[int] | Tensor, *, skip_special_tokens: bool = True) -> str:
        """The text of one sequence of ids, as far as the vocabulary keeps it (case, spacing).

        Args:
            ids: the ids, in one dimension.
            skip_special_tokens: leave out [CLS], [SEP], [PAD] and the like.

        Raises:
            InputError: an id is outside the vocabulary (-100 of labels, say), or `ids` has more
                than one dimension.
        """
        numbers = ids.reshape(-1).tolist() if isinstance(ids, Tensor) else list(ids)
        if isinstance(ids, Tensor) and ids.dim() != 1:
            raise InputError(f"ids has the shape {tuple(ids.shape)}; decode takes one dimension.")
        for position, number in enumerate(numbers):
            if not isinstance(number, int | np.integer) or not 0 <= number < self.vocab_size:
                raise InputError(
                    f"ids[{position}] is {number!r}; decode takes one sequence of ids from 0 to "
                    f"{self.vocab_size - 1}."
                )
        with guarded(MinilmError, "decode"):
            return self.backend.decode(numbers, skip_special_tokens=skip_special_tokens)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json and tokenizer_config.json.

        Both this class and transformers' AutoTokenizer read them back and give the same ids.

        Raises:
            CheckpointError: the directory cannot be written.
        """
        settings: dict[str, object] = {
            f"{role}_token": token for role, token in self._special_tokens.items()
        }
        # the class of transformers that takes tokenizer.json as it is
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        if self.model_max_length is not None:
            settings["model_max_length"] = self.model_max_length
        with guarded(MinilmError, "save_pretrained"):
            description = self.backend.to_str(pretty=True).encode()
        target = Path(directory)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise CheckpointError(f"{target} cannot be made: {problem.strerror}.") from problem
        replace_files(
            {
                target / "tokenizer.json": lambda path: path.write_bytes(description),
                target / "tokenizer_config.json": lambda path: path.write_bytes(
                    json_bytes(settings)
                ),
            }
        )

    def _encode(
        self,
        inputs: Sequence[str | tuple[str, str]],
        offsets: bool = True,
        special_tokens: bool = True,
    ) -> list[tokenizers.Encoding]:
        """Encodes whole texts or pairs; an error names the first one that fails."""
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        try:
            with guarded(MinilmError, "texts"):
                return encode(inputs, add_special_tokens=special_tokens)
        except MinilmError:
            for index, text in enumerate(inputs):
                _check_unicode(index, text)
                with guarded(MinilmError, f"text {index} ({text!r:.60})"):
                    encode([text], add_special_tokens=special_tokens)
            raise

    def _encode_truncated(
        self, firsts: list[str], seconds: list[str] | None, max_length: int, offsets: bool
    ) -> tuple[list[_Assembled], list[int]]:
        """Encodes the texts without special tokens and puts what fits into the template.

        The Rust library could truncate as well, but it would have to be told by a change of state
        that other threads see, and it keeps every combination of the pieces that it cut off: for a
        pair of long texts that takes minutes and gigabytes.

        Returns:
            The rows, and the indices of those that lost tokens.
        """
        template = self._template if seconds is None else self._pair_template
        n_special = sum(slot.sequence is None for slot in template)
        room = max_length - n_special
        if room < 0:
            raise InputError(
                f"max_length is {max_length}, but the special tokens alone need {n_special}."
            )
        parts = [self._encode(firsts, offsets, special_tokens=False)]
        if seconds is not None:
            parts.append(self._encode(seconds, offsets, special_tokens=False))

        rows, truncated = [], []
        for index, texts in enumerate(zip(*parts, strict=True)):
            keep = _longest_first([len(text) for text in texts], room)
            if sum(keep) < sum(map(len, texts)):
                truncated.append(index)
            rows.append(_assemble(template, texts, keep, offsets))
        return rows, truncated

    def _padded(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        lengths, ids, type_ids = _flatten(rows)
        attended = np.arange(lengths.max()) < lengths[:, None]  # (B, S)
        input_ids = np.full(attended.shape, self.pad_token_id, dtype=np.int64)
        input_ids[attended] = ids
        token_type_ids = np.zeros(attended.shape, dtype=np.int64)
        token_type_ids[attended] = type_ids
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attended.astype(np.int64)),
            "token_type_ids": torch.from_numpy(token_type_ids),
        }


def _packed(rows: Sequence[Row]) -> dict[str, Tensor]:
    lengths, ids, type_ids = _flatten(rows)
    return {
        "input_ids": torch.from_numpy(ids),
        "lengths": torch.from_numpy(lengths),
        "token_type_ids": torch.from_numpy(type_ids),
    }


def _flatten(rows: Sequence[Row]) -> tuple[Integers, Integers, Integers]:
    """Lengths (B,), ids (T,) and token types (T,); far faster than tensors of nested lists."""
    ids = [row.ids for row in rows]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    total = int(lengths.sum())
    type_ids = chain.from_iterable(row.type_ids for row in rows)
    return (
        lengths,
        np.fromiter(chain.from_iterable(ids), np.int64, total),
        np.fromiter(type_ids, np.int64, total),
    )


def _learn_template(backend: tokenizers.Tokenizer, n_texts: int, source: str) -> list[_Slot]:
    """Where special tokens and texts go, seen in an example."""
    with guarded(TokenizerFileError, source):
        encoding = backend.encode("a", "a" if n_texts == 2 else None)
    slots: list[_Slot] = []
    columns = (encoding.sequence_ids, encoding.ids, encoding.type_ids)
    for sequence, token_id, type_id in zip(*columns, strict=True):
        if sequence is None or not slots or slots[-1].sequence != sequence:
            slots.append(_Slot(sequence, token_id, type_id))
    texts = [slot.sequence for slot in slots if slot.sequence is not None]
    if sorted(texts) != list(range(n_texts)):
        raise TokenizerFileError(
            f"{source}: encoding {n_texts} text(s) 'a' leaves tokens of texts {texts}, expected "
            "each text once. Check the normalizer and the post_processor."
        )
    return slots


def _assemble(
    template: Sequence[_Slot],
    texts: Sequence[tokenizers.Encoding],
    keep: Sequence[int],
    offsets: bool,
) -> _Assembled:
    """Fills a template with the first `keep[i]` tokens of each text."""
    row = _Assembled()
    for slot in template:
        if slot.sequence is None:
            n_tokens = 1
            row.ids.append(slot.token_id)
            row.offsets.append((0, 0))
            row.word_ids.append(None)
        else:
            text, n_tokens = texts[slot.sequence], keep[slot.sequence]
            row.ids += text.ids[:n_tokens]
            if offsets:
                row.offsets += text.offsets[:n_tokens]
                row.word_ids += text.word_ids[:n_tokens]
        row.type_ids += [slot.type_id] * n_tokens
        row.sequence_ids += [slot.sequence] * n_tokens
    return row


def _longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens a text keeps, or each of two, when the longer one is shortened first.

    As the tokenizers library counts: once both are equally long they share, and of an odd number
    the longer text keeps the extra token, the second one in a tie.
    """
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    shorter = min(lengths)
    if 2 * shorter > room:
        shorter = room // 2
    kept = [shorter, room - shorter]
    return kept[::-1] if lengths[0] > lengths[1] else kept


def _strings(name: str, texts: str | Sequence[str]) -> list[str]:
    """A list of at least one string."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable):
        raise InputError(f"{name} must be a string or strings, not {type(texts).__name__}.")
    strings = list(texts)
    if not strings:
        raise InputError(f"{name} is empty; give at least one string.")
    for index, text in enumerate(strings):
        if not isinstance(text, str):
            raise InputError(f"{name}[{index}] must be a string, not {type(text).__name__}.")
    return strings


def _check_unicode(index: int, text: str | tuple[str, str]) -> None:
    for part in (text,) if isinstance(text, str) else text:
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as problem:
            raise InputError(
                f"text {index} has a lone surrogate ({part[problem.start]!r}) at character "
                f"{problem.start}, which is no valid Unicode. Decode the source with "
                'errors="replace".'
            ) from problem
