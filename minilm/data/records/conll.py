"""CoNLL files: a word and its tag in each line, a blank line after every sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minilm.data.records.base import Record, RecordError, Records, Skips, collect
from minilm.data.records.lines import numbered_lines, read_text
from minilm.errors import DataError, InputError, by_place, setting
from minilm.files.progress import counted

_DOCUMENT = "-DOCSTART-"
_CONLL_U = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
_NO_WORD = re.compile(r"\d+[-.]\d+\t")  # a range of words, or an empty word
_NAMES = re.compile(r"#\s*global\.columns\s*=\s*(.*)", re.IGNORECASE)


def read_conll(
    path: str | Path,
    *,
    token_column: int | str | None = None,
    tag_column: int | str = -1,
    tagged: bool = True,
    skips: Skips | None = None,
    encoding: str = "utf-8",
) -> Records:
    """Reads the sentences of a file, each as `{"tokens": [...], "tags": [...]}`.

    Columns are separated by tabs if the line has any, else by white space. Blank lines and lines
    that begin with -DOCSTART- end a sentence. Lines before a sentence that begin with # are
    comments, unless they have as many columns as the other lines: then # is the word. In CoNLL-U
    (ten columns separated by tabs, the first of which numbers the words) the lines of ranges
    ("1-2") and of empty words ("8.1") are left out.

    Args:
        path: the file, perhaps compressed.
        token_column: the column of the words: its number from 1, or from -1 backwards, or its name
            in a line "# global.columns = ..." or in CoNLL-U (FORM). None = the first column; if
            that numbers the words, it is an error.
        tag_column: the column of the tags, likewise.
        tagged: False = the records have no "tags".
        skips: what to do with sentences that have a line with a different number of columns than
            the first line, or with an empty word or tag. Such a sentence counts as one record.
        encoding: character encoding of the file.

    Raises:
        DataError: the file cannot be read or has no sentences, a sentence is bad and `skips` has
            the policy "raise", or the words are 1, 2, 3, ... in every sentence.
        InputError: there is no such column or encoding, or both columns are the same.
    """
    path = Path(path)
    lines = list(numbered_lines(read_text(path, encoding)))
    content = [(number, line) for number, line in lines if not _ends_sentence(line)]
    plain = [(number, line) for number, line in content if not line.startswith("#")]
    first = next(iter(plain or content), None)
    if first is None:
        return collect(path, (), skips or Skips())
    number, line = first
    count = len(_split(line))
    where = f"{path}, line {number}"
    names = _names(lines, count)
    token = _index("token_column", 1 if token_column is None else token_column, names, where)
    tag = _index("tag_column", tag_column, names, where) if tagged else None
    if tag == token:
        untagged = by_place(
            python="use tagged=False if the file has no tags",
            command="use minilm predict if the file has no tags",
        )
        raise InputError(
            f"{where}: words and tags both in column {token + 1} of {count}. Name another column "
            f"({setting('tag_column')}), or {untagged}."
        )
    tabs = "\t" in line
    if tabs and count == len(_CONLL_U):
        lines = [(number, line) for number, line in lines if not _NO_WORD.match(line)]
    records = collect(path, _sentences(lines, _Columns(count, tabs, token, tag)), skips or Skips())
    if token_column is None and count > 1 and _counts_words(records):
        shown = ", ".join(f"{i} {field!r:.20}" for i, field in enumerate(_split(line), 1))
        raise DataError(
            f"{where}: the words in column 1 are 1, 2, 3, ... in every sentence. Name the columns "
            f"of words and tags ({setting('token_column')} and {setting('tag_column')}); this line "
            f"has {shown}."
        )
    return records


@dataclass(frozen=True)
class _Columns:
    """The number of columns of a file, and those of words and tags, counted from 0."""

    count: int
    tabs: bool
    token: int
    tag: int | None

    def is_comment(self, line: str) -> bool:
        shape = (len(_split(line)), "\t" in line)
        return line.startswith("#") and shape != (self.count, self.tabs)

    def check(self, line: str) -> list[str]:
        """The columns of a line.

        Raises:
            RecordError: their number differs, or the word or the tag is empty.
        """
        columns = _split(line)
        if len(columns) != self.count:
            raise RecordError(
                f"expected {counted(self.count, 'column')}, found {len(columns)}.",
                "Is a blank line missing, or a blank inside a word?",
                reason="number of columns",
            )
        for what, index in (("word", self.token), ("tag", self.tag)):
            if index is not None and not columns[index]:
                raise RecordError(
                    f"the {what} in column {index + 1} is empty.",
                    "Fill it in, or leave the line empty to end the sentence.",
                    reason=f"empty {what}",
                )
        return columns


def _sentences(
    lines: list[tuple[int, str]], columns: _Columns
) -> Iterator[tuple[str, Record | RecordError]]:
    words: list[list[str]] = []
    place = ""
    bad: RecordError | None = None
    for number, line in [*lines, (len(lines) + 1, "")]:
        if _ends_sentence(line):
            if place:
                yield place, bad or _record(words, columns)
            words, place, bad = [], "", None
        elif bad is None and (place or not columns.is_comment(line)):
            place = place or f"line {number}"
            try:
                words.append(columns.check(line))
            except RecordError as problem:
                place, bad = f"line {number}", problem


def _record(words: list[list[str]], columns: _Columns) -> Record:
    record = {"tokens": [word[columns.token] for word in words]}
    if columns.tag is not None:
        record["tags"] = [word[columns.tag] for word in words]
    return record


def _split(line: str) -> list[str]:
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return re.split(" +", line.strip(" "))


def _ends_sentence(line: str) -> bool:
    return not line.strip() or line.startswith(_DOCUMENT)


def _names(lines: list[tuple[int, str]], count: int) -> list[str]:
    """The names of the columns in capitals; "" where the file gives none."""
    said = next((match[1].split() for _, line in lines[:20] if (match := _NAMES.match(line))), [])
    if len(said) == count:
        return [name.upper() for name in said]
    return list(_CONLL_U) if count == len(_CONLL_U) else [""] * count


def _counts_words(records: Records) -> bool:
    """Whether the "words" of every sentence are the numbers 1, 2, 3, ..."""
    count = 0
    for record in records:
        numbers = [str(number) for number in range(1, len(record["tokens"]) + 1)]
        if record["tokens"] not in (numbers, [str(int(number) - 1) for number in numbers]):
            return False
        count = max(count, len(numbers))
    return count > 1


def _index(name: str, column: int | str, names: list[str], where: str) -> int:
    """The number of a column, counted from 0.

    Raises:
        InputError: there is no such column.
    """
    count = len(names)
    if isinstance(column, str):
        if column.upper() in names:
            return names.index(column.upper())
        known = ", ".join(filter(None, names))
        raise InputError(
            f"{where}: {setting(name, column)}, but "
            + (f"the columns are {known}." if known else f"the {count} columns have no names.")
        )
    if not 1 <= abs(column) <= count:
        raise InputError(
            f"{where}: {setting(name, column)}, but there are {count} columns. They count from 1, "
            "or from -1 backwards."
        )
    return column - 1 if column > 0 else count + column
