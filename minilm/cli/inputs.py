"""The inputs of predictions: texts, lines of text or JSON, and the records of a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from minilm.cli.record_options import read
from minilm.data.records.base import RecordError, Records, Skips
from minilm.data.records.json_lines import strict_json
from minilm.data.records.lines import is_compressed, numbered_lines, read_text, suffix_of
from minilm.errors import InputError
from minilm.tasks.layouts import SETTINGS
from minilm.tasks.prediction import Input

if TYPE_CHECKING:
    from minilm.tasks.task import Task

STDIN = "standard input"
RECORDS_ONLY = ("answering", "choice")  # tasks for which a text alone says too little


def read_lines(file: BinaryIO, name: str) -> Iterator[str]:
    r"""The lines of a UTF-8 file, without line ends (\n or \r\n); empty lines too.

    Only these end a line: other characters that Unicode calls line ends belong to the text.

    Raises:
        InputError: bytes are not UTF-8, or the file cannot be read; the message names the line.
    """
    number = 0
    try:
        for number, line in enumerate(file, 1):
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            yield text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as problem:
        raise InputError(
            f"{name}, line {number}: byte {problem.start + 1} "
            f"(0x{problem.object[problem.start]:02x}) is not UTF-8. Convert the file first, e.g. "
            f"iconv -f latin1 -t utf-8."
        ) from problem
    except OSError as problem:
        raise InputError(
            f"{name} cannot be read after line {number}: {problem.strerror or problem}."
        ) from problem


def text_lines(path: str, encoding: str | None = None) -> Iterator[str]:
    """The lines of a text file, or of standard input for "-"."""
    if path == "-":
        yield from read_lines(sys.stdin.buffer, STDIN)
    elif encoding is None and not is_compressed(Path(path)):  # need not be held whole
        with open(path, "rb") as file:
            yield from read_lines(file, path)
    else:
        for _, line in numbered_lines(read_text(Path(path), encoding or "utf-8")):
            yield line


def of_lines(lines: Iterable[str], source: str, field: str = "text") -> Iterator[Input]:
    """Each line as a text; a blank one keeps its place."""
    for number, line in enumerate(lines, 1):
        yield Input(f"{source}, line {number}", {field: line} if line.strip() else None)


def of_texts(texts: Sequence[str], path: str | None, pair: str | None = None) -> Iterator[Input]:
    """The texts of the command line, or else the lines of a file or of standard input.

    Raises:
        click.UsageError: both are given.
    """
    if texts and path is not None:
        raise click.UsageError("Give texts or --file, not both.")
    if texts:
        inputs = iter([Input(f"text {n}", {"text": text}) for n, text in enumerate(texts, 1)])
    else:
        path = path or "-"
        inputs = of_lines(text_lines(path), STDIN if path == "-" else path)
    for item in inputs:
        record = item.record
        more = {} if pair is None else {"text_pair": pair}
        yield Input(item.place, {**record, **more} if isinstance(record, Mapping) else record)


def of_data(data: str, options: Mapping[str, Any], task: str) -> Iterable[Input]:
    """The inputs of `minilm predict`; see its help.

    Args:
        data: a file, or "-" for standard input.
        options: the options of the command.
        task: name of the model's task.

    Raises:
        click.UsageError: standard input cannot have this format.
        MinilmError: the file cannot be read.
    """
    named = any(options[name] for name in SETTINGS)
    form = options["format"] or _format(data, named or task in RECORDS_ONLY)
    source = STDIN if data == "-" else data
    if form == "text":
        return _hinting(of_lines(text_lines(data, options["encoding"]), source), options["format"])
    if data != "-":
        return _of_file(Path(data), options)
    if form != "jsonl":
        raise click.UsageError(f"--format {form}: {STDIN} is text or jsonl. Put it into a file.")
    return _of_json(text_lines(data), source)


def _format(data: str, records: bool) -> str | None:
    """The format of data without --format; None = the readers take it from the file's name."""
    if data == "-":
        return "jsonl" if records else "text"
    path = Path(data)
    return "text" if path.is_file() and suffix_of(path) == ".txt" else None


def _hinting(inputs: Iterator[Input], said: str | None) -> Iterator[Input]:
    """The same inputs; prints a hint if JSON is read as text."""
    for number, item in enumerate(inputs):
        line = item.record["text"] if isinstance(item.record, Mapping) else ""
        if number == 0 and said is None and line.startswith("{") and line.endswith("}"):
            click.echo(
                f"{item.place} looks like JSON and is read as text; for JSON say --format jsonl",
                err=True,
            )
        yield item


def _of_json(lines: Iterable[str], source: str) -> Iterator[Input]:
    for number, line in enumerate(lines, 1):
        record: Mapping[str, Any] | RecordError | None = None
        if line.strip():
            try:
                record = strict_json(line)
            except RecordError as problem:
                record = problem
            if not isinstance(record, Mapping | RecordError):
                record = RecordError("expected a JSON object {...}.", reason="no object")
        yield Input(f"{source}, line {number}", record)


class _Kept(Skips):
    """Keeps the errors of records, so that each is reported in its place."""

    def __init__(self) -> None:
        super().__init__("skip")
        self.problems: dict[int, Input] = {}

    def refuse(self, where: str, problem: str, advice: str = "", *, reason: str) -> None:
        error = RecordError(problem, advice, reason=reason)
        self.problems[self.total - 1] = Input(where, error)
        super().refuse(where, problem, advice, reason=reason)


def _of_file(path: Path, options: Mapping[str, Any]) -> list[Input]:
    skips = _Kept()
    records = read(path, options, skips, labelled=False)
    assert isinstance(records, Records)
    good = iter([Input(records.where(n), record) for n, record in enumerate(records)])
    return [
        skips.problems[n] if n in skips.problems else next(good)
        for n in range(len(records) + len(skips.problems))
    ]


def line_of(item: Input) -> dict[str, int]:
    """The origin of an input: {"line": n}, or {"row": n} or {"record": n} where those are counted.

    Empty for an input that is known by its id, and for a text of the command line.
    """
    found = re.search(r", (line|row|record) (\d+)$", item.place)
    return {found[1]: int(found[2])} if found else {}


def saying_guesses(inputs: Iterable[Input], task: Task[Any]) -> Iterator[Input]:
    """The same inputs; prints which columns are read if they were guessed from their names."""
    kinds, said = set(), {""}
    for item in inputs:
        record = item.record
        if isinstance(record, Mapping) and (columns := frozenset(record)) not in kinds:
            kinds.add(columns)
            with suppress(RecordError):  # which is said in the record's place
                guesses = task.layouts([record], labelled=False).guesses(record)
                if guesses not in said:
                    click.echo(f"{item.place}: {guesses}", err=True)
                    said.add(guesses)
        yield item
