"""Texts that are longer than the model can read: windows over them, whose logits are pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from minilm.errors import InputError, argument
from minilm.files.arrays import Integers
from minilm.tasks.task import as_rows
from minilm.tasks.windows import cut
from minilm.tokenization.tokenizer import Joined, Tokenizer

WINDOW_OPTIONS = ("windows", "doc_stride")
WindowPooling = Literal["mean", "max"]


@dataclass(frozen=True)
class LongTexts:
    """How to classify a text that is longer than a row.

    A text becomes several overlapping rows, whose logits are averaged or, for each class, reduced
    to the largest. The loss is on the pooled logits, so no single window has to justify the label.
    Of a pair the longer text is cut into windows, each of which also has the other text.

    Attributes:
        pooling: "mean" or "max".
        doc_stride: number of tokens between the starts of successive windows; None = half of the
            room in a row.
    """

    pooling: WindowPooling
    doc_stride: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self | None:
        """What `windows` and `doc_stride` among the options set; None without `windows`.

        Raises:
            InputError: a value is wrong, or there is a stride without windows.
        """
        pooling, stride = (options.get(name) for name in WINDOW_OPTIONS)
        if stride is not None and (not isinstance(stride, int) or stride < 1):
            raise InputError(
                f"{argument('doc_stride')} is {stride!r}: expected a whole number from 1."
            )
        if pooling is None:
            if stride is not None:
                raise InputError(
                    f"{argument('doc_stride')} is between windows: choose "
                    f"{argument('windows')}, mean or max, too."
                )
            return None
        if pooling not in get_args(WindowPooling):
            raise InputError(f"windows is {pooling!r:.60}: expected mean or max.")
        return cls(pooling, stride)

    def rows(
        self, tokenizer: Tokenizer, max_length: int, first: Integers, second: Integers | None
    ) -> tuple[tuple[Joined, ...], bool]:
        """The windows over a text or a pair.

        Args:
            tokenizer: the model's tokenizer.
            max_length: maximum length of a row in tokens.
            first, second: ids of the texts, without special tokens.

        Returns:
            At least one row, and whether tokens were lost: those of a pair's shorter text beyond
            half of a row.

        Raises:
            InputError: there is no room for any token.
        """
        room = max_length - tokenizer.num_special_tokens(pair=second is not None)
        if room < 1 + (second is not None):
            raise InputError(
                f"{argument('max_length')} is {max_length}: there is no room for any token."
            )
        if second is None:
            parts = self._parts(first, room)
            return tuple(tokenizer.join(part) for part in parts), False
        over_second = len(second) >= len(first)
        short, long = (first, second) if over_second else (second, first)
        kept = short if len(first) + len(second) <= room else short[: room // 2]
        parts = self._parts(long, room - len(kept))
        pairs = [(kept, part) if over_second else (part, kept) for part in parts]
        return tuple(tokenizer.join(*pair) for pair in pairs), len(kept) < len(short)

    def _parts(self, ids: Integers, room: int) -> list[Integers]:
        step = min(self.doc_stride or max(1, room // 2), room)
        return [ids[window.start : window.end] for window in cut(len(ids), room, step)]

    def pool(self, logits: Tensor, windows: Tensor) -> Tensor:
        """Pools (R, C) logits of windows, (B,) of each text, to (B, C) logits of texts."""
        if len(logits) == len(windows):
            return logits
        if self.pooling == "max":
            return as_rows(logits, windows).amax(dim=1)  # (B, W, C) -> (B, C)
        text = torch.arange(len(windows), device=logits.device).repeat_interleave(windows)  # (R,)
        sums = logits.new_zeros(len(windows), logits.shape[1]).index_add(0, text, logits)
        return sums / windows[:, None]
