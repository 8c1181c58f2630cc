"""The batch that a tokenizer returns, and the padding of its rows to one length."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch

from minilm.errors import InputError
from minilm.files.arrays import Integers

TensorType: TypeAlias = Literal["pt", "np"] | None
Strategy: TypeAlias = Literal["longest", "max_length", "do_not_pad"]


class Row(Protocol):
    """One encoded text or pair: the part of the Rust library's Encoding that a batch reads."""

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


class PerText(list[list[int | None]]):
    """One list for each text, `batch.word_ids[i]`, or as in transformers `batch.word_ids(i)`.

    The call also gives None at padding, so that its result is as long as a row of `input_ids`.
    """

    def __init__(self, rows: Iterable[list[int | None]], width: int) -> None:
        super().__init__(rows)
        self._width = width

    def __call__(self, batch_index: int = 0) -> list[int | None]:
        row = self[batch_index]
        return row + [None] * (self._width - len(row))


class Batch(UserDict[str, Any]):
    """The result of a tokenizer: a mapping of the tensors that a model's forward takes.

    The keys are `input_ids`, `attention_mask` and `token_type_ids`, each (B, S) int64, in the
    padded layout; `input_ids` (T,), `lengths` (B,) and `token_type_ids` (T,) in the packed one. So
    `model(**batch)` works with either. Entries can be set and deleted (`batch["labels"] = labels`),
    and read as attributes (`batch.input_ids`). Values that a model does not use are attributes, not
    keys, unless the call asked for them.

    Attributes:
        truncated: the indices of the texts (or pairs) that were cut to `max_length`.
    """

    def __init__(
        self,
        tensors: Mapping[str, Any] | None = None,
        rows: Sequence[Row] = (),
        truncated: Sequence[int] = (),
        has_offsets: bool = False,
        width: int = 0,
    ) -> None:
        super().__init__()
        self.data.update(tensors or {})
        self._rows = rows
        self._width = width
        self._has_offsets = has_offsets
        self.truncated = list(truncated)

    def __getattr__(self, name: str) -> Any:
        entries = self.__dict__.get("data", {})  # empty while a copy is being made
        if name in entries:
            return entries[name]
        raise AttributeError(f"Batch has no {name!r}; its entries are {', '.join(entries)}.")

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name} {tuple(value.shape) if hasattr(value, 'shape') else type(value).__name__}"
            for name, value in self.items()
        )
        return f"Batch({shapes}; {len(self.truncated)} truncated)"

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """A new batch with the tensors on another device; this batch does not change."""
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in self.items()
        }
        return Batch(moved, self._rows, self.truncated, self._has_offsets, self._width)

    @property
    def offsets(self) -> list[list[tuple[int, int]]]:
        """For every text, (start, end) of each token in characters of the original string.

        In a pair the offsets are those in the token's own string (see `sequence_ids`), and in a
        text given as words, those in its own word. Special tokens that the tokenizer added have
        (0, 0). There are no entries for padding.
        """
        self._need_offsets("offsets")
        return [row.offsets for row in self._rows]

    @property
    def word_ids(self) -> PerText:
        """For every text, the index of the word each token belongs to; None for special tokens."""
        self._need_offsets("word_ids")
        return PerText((row.word_ids for row in self._rows), self._width)

    @property
    def sequence_ids(self) -> PerText:
        """For every text, 0 or 1 for tokens of its first or second part, None for special ones."""
        return PerText((row.sequence_ids for row in self._rows), self._width)

    def _need_offsets(self, name: str) -> None:
        if not self._has_offsets:
            raise InputError(f"batch.{name} needs tokenizer(..., return_offsets=True).")


def columns(rows: Sequence[Row], asked: Mapping[str, bool]) -> tuple[Integers, dict[str, Integers]]:
    """The values of all tokens, row after row; far faster than tensors from nested lists.

    Args:
        rows: the encoded texts.
        asked: the names of the columns besides `input_ids`, and whether each is requested.

    Returns:
        The lengths of the rows, (B,), and the values of each column by name, (T, ...).
    """
    ids = [row.ids for row in rows]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    total = int(lengths.sum())
    values = {"input_ids": np.fromiter(chain.from_iterable(ids), np.int64, total)}
    if asked["lengths"]:
        values["lengths"] = lengths
    if asked["attention_mask"]:
        values["attention_mask"] = np.ones(total, np.int64)
    if asked["token_type_ids"]:
        type_ids = chain.from_iterable(row.type_ids for row in rows)
        values["token_type_ids"] = np.fromiter(type_ids, np.int64, total)
    if asked["special_tokens_mask"]:
        special = (which is None for row in rows for which in row.sequence_ids)
        values["special_tokens_mask"] = np.fromiter(special, np.int64, total)
    if asked["offset_mapping"]:
        ends = chain.from_iterable(offset for row in rows for offset in row.offsets)
        values["offset_mapping"] = np.fromiter(ends, np.int64, 2 * total).reshape(total, 2)
    return lengths, values


@dataclass(frozen=True)
class Padding:
    """How rows are padded.

    Attributes:
        pad: False leaves rows as long as they are.
        length: pad to this length; None = that of the longest row.
        multiple: the length is rounded up to a multiple of this.
    """

    pad: bool = True
    length: int | None = None
    multiple: int | None = None


def padding_strategy(padding: object) -> Strategy:
    """The full name of a value of transformers' `padding`.

    Raises:
        InputError: the strategy is unknown.
    """
    if isinstance(padding, bool):
        return "longest" if padding else "do_not_pad"
    for strategy in ("longest", "max_length", "do_not_pad"):
        if padding == strategy:
            return strategy
    raise InputError(
        f'padding must be True, False, "longest", "max_length" or "do_not_pad", not {padding!r}.'
    )


def padded(
    columns: Mapping[str, Integers], lengths: Integers, padding: Padding, fill: Mapping[str, int]
) -> dict[str, Any]:
    """Rows of tokens, padded on the right.

    Args:
        columns: name to values (T, ...) of all rows, one after another.
        lengths: (B,) number of tokens of each row.
        padding: how to pad.
        fill: name to padding value; 0 for a name that is absent.

    Returns:
        Name to array (B, S, ...), or without padding and with rows of different lengths, to a list
        of (S, ...) arrays.

    Raises:
        InputError: a row is longer than `padding.length`.
    """
    shortest, longest = int(lengths.min()), int(lengths.max())
    if not padding.pad and shortest < longest:
        ends = lengths.cumsum()[:-1]
        return {name: np.split(values, ends) for name, values in columns.items()}
    width = longest if padding.length is None else padding.length
    if padding.multiple is not None:
        width = -(-width // padding.multiple) * padding.multiple
    if longest > width:
        raise InputError(
            f"Text {int(lengths.argmax())} has {longest} tokens, more than max_length, {width}. "
            "Give truncation=True, or a larger max_length."
        )
    shape = (len(lengths), width)
    if shortest == width:
        return {name: values.reshape(shape + values.shape[1:]) for name, values in columns.items()}
    attended = np.arange(width) < lengths[:, None]  # (B, S)
    arrays = {}
    for name, values in columns.items():
        arrays[name] = np.full(shape + values.shape[1:], fill.get(name, 0), values.dtype)
        arrays[name][attended] = values
    return arrays


def convert(name: str, values: Any, tensor_type: TensorType) -> Any:
    """One entry of a batch as a tensor ("pt"), an array ("np") or lists (None).

    Raises:
        InputError: the rows differ in length, or do not hold numbers.
    """
    if tensor_type is None:
        return _to_lists(values)
    try:
        if isinstance(values, np.ndarray):
            return torch.from_numpy(values) if tensor_type == "pt" else values
        values = _to_lists(values)
        return torch.tensor(values) if tensor_type == "pt" else np.array(values)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise InputError(
            f"{name} cannot become one {'tensor' if tensor_type == 'pt' else 'array'}: its rows "
            "differ in length or are not numbers. Pad it first (padding=True), remove it, or give "
            "return_tensors=None for lists."
        ) from problem


def _to_lists(values: Any) -> Any:
    if isinstance(values, list):
        return [_to_lists(value) for value in values]
    return values.tolist() if hasattr(values, "tolist") else values


# the entries with one value for each token
_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")


def pad_features(
    features: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    padding: Padding,
    fill: Mapping[str, int],
    *,
    with_mask: bool,
    tensor_type: TensorType,
) -> Batch:
    """Implements `Tokenizer.pad`.

    Raises:
        InputError: there is nothing to pad, or the features do not fit together.
    """
    entries = _by_name(features)
    if not entries.get("input_ids") or "lengths" in entries:
        raise InputError(
            f"pad takes encoded texts with input_ids, not {', '.join(entries) or 'nothing'}"
            f"{' of a packed batch' if 'lengths' in entries else ''}."
        )
    tokens = {name: _rows(name, entries.pop(name)) for name in _PER_TOKEN if name in entries}
    lengths = np.array([len(row) for row in tokens["input_ids"]], np.int64)
    if not with_mask:
        tokens.pop("attention_mask", None)
    elif "attention_mask" not in tokens:
        tokens["attention_mask"] = [np.ones(length, np.int64) for length in lengths]
    for name, rows in tokens.items():
        if [len(row) for row in rows] != lengths.tolist():
            raise InputError(f"{name} must have as many values as input_ids in every text.")
    arrays = padded(
        {name: np.concatenate(rows) for name, rows in tokens.items()}, lengths, padding, fill
    )
    return Batch({k: convert(k, v, tensor_type) for k, v in {**arrays, **entries}.items()})


def _by_name(features: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of all texts, by name."""
    if isinstance(features, Mapping):
        ids = features.get("input_ids", ())
        if "lengths" in features or (len(ids) and np.ndim(ids[0]) > 0):
            return {name: list(values) for name, values in features.items()}
        features = [features]  # one text
    for index, feature in enumerate(features):
        if not isinstance(feature, Mapping) or set(feature) != set(features[0]):
            raise InputError(
                f"Text {index} must be a mapping with the entries of text 0, not {feature!r:.60}."
            )
    names = list(features[0]) if features else []
    return {name: [feature[name] for feature in features] for name in names}


def _rows(name: str, rows: Iterable[Any]) -> list[Integers]:
    """Converts to rows of integers (S,); a batch of one text, (1, S), becomes that text."""
    arrays = []
    for index, row in enumerate(rows):
        array = np.asarray(row)
        if array.ndim == 2 and len(array) == 1:
            array = array[0]
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
            raise InputError(f"{name} of text {index} must be a row of integers, not {row!r:.60}.")
        arrays.append(array.astype(np.int64))
    return arrays
