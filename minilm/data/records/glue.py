"""The files of the GLUE tasks, as its own archive has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from minilm.data.records.base import Record, RecordError, Records, Skips, collect
from minilm.data.records.lines import read_text
from minilm.data.records.tables import NumberedRow, named_rows, plain_rows
from minilm.errors import DataError, InputError


@dataclass(frozen=True)
class _Task:
    """The columns of a task, and its labels as they are in the files; none for scores."""

    text: str
    text_pair: str | None
    label: str
    labels: tuple[str, ...]


_YES_NO = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")

_TASKS = {
    "cola": _Task("sentence", None, "label", _YES_NO),
    "sst2": _Task("sentence", None, "label", _YES_NO),
    "mrpc": _Task("#1 String", "#2 String", "Quality", _YES_NO),
    "stsb": _Task("sentence1", "sentence2", "score", ()),
    "qqp": _Task("question1", "question2", "is_duplicate", _YES_NO),
    "mnli": _Task(
        "sentence1", "sentence2", "gold_label", ("entailment", "neutral", "contradiction")
    ),
    "qnli": _Task("question", "sentence", "label", _ENTAILMENT),
    "rte": _Task("sentence1", "sentence2", "label", _ENTAILMENT),
    "wnli": _Task("sentence1", "sentence2", "label", _YES_NO),
}

# Files without a header: train and dev of CoLA, and STS-B as it was before GLUE.
_HEADERLESS = {
    "cola": ("source", "label", "star", "sentence"),
    "stsb": ("genre", "filename", "year", "old_index", "score", "sentence1", "sentence2"),
}
_STSB_LICENCES = 2  # columns that only some rows of the old STS-B have, at their end
_MAX_SCORE = 5.0


def read_glue(
    path: str | Path, task: str, *, skips: Skips | None = None, encoding: str = "utf-8"
) -> Records:
    """Reads the examples of a GLUE file: train, dev or test.

    Quotes are ordinary characters in all of them. The original files of MRPC
    (msr_paraphrase_*.txt) and of STS-B (sts-*, without a header) can be read too.

    Args:
        path: the file, perhaps .gz or .xz.
        task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli.
        skips: what to do with rows whose number of fields differs from the header's, or whose
            label is not one of the task.
        encoding: character encoding of the file.

    Returns:
        Records of "text", "text_pair" if the task has pairs, and "label" if the file has labels: a
        string as in the file ("1", "entailment"), or for stsb a number from 0 to 5.

    Raises:
        DataError: the file cannot be read, has no examples or lacks columns of the task, or a row
            is bad and `skips` has the policy "raise".
        InputError: there is no such task or encoding.

    References:
        Wang et al. (2019), "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural
        Language Understanding".
    """
    if task not in _TASKS:
        raise InputError(f"no GLUE task {task!r}; there are {', '.join(_TASKS)}.")
    path = Path(path)
    rows = plain_rows(read_text(path, encoding), "\t")
    columns, rows = _columns(path, task, rows)
    advice = "GLUE's files have a tab between two fields and nowhere else; is the row cut off?"
    found = (
        (place, row if isinstance(row, RecordError) else _example(row, _TASKS[task]))
        for place, row in named_rows(rows, columns, advice)
    )
    return collect(path, found, skips or Skips())


def _columns(
    path: Path, task: str, rows: Iterator[NumberedRow]
) -> tuple[Sequence[str], Iterator[NumberedRow]]:
    """The names of the columns, and the rows below them.

    Raises:
        DataError: the columns are not those of the task.
    """
    wanted = [name for name in (_TASKS[task].text, _TASKS[task].text_pair) if name]
    for number, fields in rows:
        if isinstance(fields, RecordError):
            continue
        if set(wanted) <= set(fields):
            return fields, rows
        if task in _HEADERLESS:
            columns = _HEADERLESS[task]
            return columns, _without_licences(chain([(number, fields)], rows), len(columns))
        raise DataError(
            f"{path}, line {number}: columns {', '.join(fields):.200}; {task} has "
            f"{', '.join(wanted)}. Is it the file of another task?"
        )
    return [], rows


def _without_licences(rows: Iterator[NumberedRow], count: int) -> Iterator[NumberedRow]:
    for number, fields in rows:
        if isinstance(fields, list) and len(fields) == count + _STSB_LICENCES:
            fields = fields[:count]
        yield number, fields


def _example(row: Record, task: _Task) -> Record | RecordError:
    example = {"text": row[task.text]}
    if task.text_pair:
        example["text_pair"] = row[task.text_pair]
    if task.label not in row:
        return example
    label = row[task.label]
    if task.labels and label in task.labels:
        return {**example, "label": label}
    if not task.labels and (score := _score(label)) is not None:
        return {**example, "label": score}
    expected = ", ".join(task.labels) or f"a number from 0 to {_MAX_SCORE:g}"
    return RecordError(
        f"the label is {label!r:.80}, expected {expected}.",
        "Is it the file of another task?",
        reason="unknown label",
    )


def _score(text: str) -> float | None:
    try:
        score = float(text)
    except ValueError:
        return None
    return score if 0 <= score <= _MAX_SCORE else None
