"""Long token sequences cut into overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A part of a sequence of tokens.

    Attributes:
        start, end: the first token, and the one after the last.
    """

    start: int
    end: int

    def context(self, token: int) -> float:
        """How much context a token has here: its distance to the nearer end, and, between equals,
        the longer window. (The rule of BERT's code for answers.)
        """
        return min(token - self.start, self.end - 1 - token) + 0.01 * (self.end - self.start)


def cut(tokens: int, room: int, step: int) -> list[Window]:
    """Windows over a sequence.

    Args:
        tokens: number of tokens of the sequence.
        room: maximum number of tokens in a window.
        step: number of tokens between the starts of successive windows.

    Example:
        >>> [(w.start, w.end) for w in cut(10, room=6, step=3)]
        [(0, 6), (3, 9), (6, 10)]
    """
    windows = [Window(0, min(room, tokens))]
    while windows[-1].end < tokens:
        start = windows[-1].start + step
        windows.append(Window(start, min(start + room, tokens)))
    return windows


def max_context_window(windows: Sequence[Window], tokens: int) -> list[int]:
    """For every token, the window in which it has the most context; the first of equals."""
    found, most = [0] * tokens, [-1.0] * tokens
    for number, window in enumerate(windows):
        for token in range(window.start, window.end):
            if window.context(token) > most[token]:
                found[token], most[token] = number, window.context(token)
    return found
