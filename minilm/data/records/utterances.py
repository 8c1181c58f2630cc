"""Utterances with an intent and a tag for every word, in three files with equal line numbers.

The layout of the ATIS and SNIPS data of Goo et al. (2018), "Slot-Gated Modeling for Joint Slot
Filling and Intent Prediction".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from minilm.data.records.base import Record, RecordError, Records, Skips, collect
from minilm.data.records.lines import numbered_lines, read_text
from minilm.errors import DataError

FILES = ("seq.in", "seq.out", "label")


def read_utterances(
    directory: str | Path, *, skips: Skips | None = None, encoding: str = "utf-8"
) -> Records:
    """Reads utterances, each as `{"tokens": [...], "tags": [...], "intent": "..."}`.

    Args:
        directory: holds seq.in (words separated by blanks), seq.out (as many tags) and label (the
            intent), an utterance in each line. Lines that are blank in all three are ignored.
        skips: what to do with utterances without an intent, or whose numbers of words and tags
            differ.
        encoding: character encoding of the files.

    Raises:
        DataError: a file is missing or cannot be read, their numbers of lines differ, there are no
            utterances, or an utterance is bad and `skips` has the policy "raise".
        InputError: there is no such encoding.
    """
    directory = Path(directory)
    columns = [
        [line.strip(" \t") for _, line in numbered_lines(read_text(directory / name, encoding))]
        for name in FILES
    ]
    counts = [len(column) for column in columns]
    if len(set(counts)) > 1:
        found = ", ".join(f"{name} {count}" for name, count in zip(FILES, counts, strict=True))
        raise DataError(
            f"{directory}: different numbers of lines ({found}). Line n of each belongs to "
            "utterance n; are they of the same split?"
        )
    return collect(directory, _utterances(columns), skips or Skips())


def _utterances(columns: list[list[str]]) -> Iterator[tuple[str, Record | RecordError]]:
    for number, (words, tags, intent) in enumerate(zip(*columns, strict=True), 1):
        if words or tags or intent:
            yield f"line {number}", _utterance(_split(words), _split(tags), intent)


def _utterance(tokens: list[str], tags: list[str], intent: str) -> Record | RecordError:
    if len(tokens) != len(tags):
        return RecordError(
            f"words in seq.in: {len(tokens)}, tags in seq.out: {len(tags)}.",
            "Every word needs one tag.",
            reason="number of tags",
        )
    if not tokens:
        return RecordError("no words in seq.in.", "Expected at least one.", reason="no words")
    if not intent:
        return RecordError("no intent in label.", "Expected one.", reason="no intent")
    return {"tokens": tokens, "tags": tags, "intent": intent}


def _split(line: str) -> list[str]:
    return re.split("[ \t]+", line) if line else []
