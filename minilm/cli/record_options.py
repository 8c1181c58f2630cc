"""How to read labelled data: options of every command that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minilm.cli.options import Option, together
from minilm.data.records.base import Skips
from minilm.data.records.files import format_of, read_records
from minilm.data.records.lines import suffix_of
from minilm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


# options that are not for every format
_OF_FORMATS = ("quoting", "escape", "token_column", "tag_column", "delimiter")


def record_options() -> Option[Any]:
    """--format and what goes with it."""
    return together(
        [
            click.option(
                "--format",
                help="Format of the data: csv, tsv, json, jsonl, parquet, text, conll, squad, "
                "utterances, or glue:TASK such as glue:sst2. Default: by the file's name.",
            ),
            click.option(
                "--text-column",
                help="Column with the text (question, words). Default: found by its name; "
                "what is read is printed.",
            ),
            click.option(
                "--pair-column",
                help="Column with the second text of a pair (context, choices). Default: found "
                "by its name. For choice, several columns may be named, separated by commas.",
            ),
            click.option(
                "--label-column",
                help="Column with the label (tags, answers, intent). Default: found by its "
                "name. For multi-label, several columns of 0 and 1 may be named, separated by "
                "commas.",
            ),
            click.option(
                "--no-header",
                is_flag=True,
                help="The first line of a table is data; its columns are called 1, 2, ...",
            ),
            click.option(
                "--delimiter",
                help="Character between the columns of a table. Default: a comma in csv, a tab in "
                "tsv.",
            ),
            click.option(
                "--quoting/--no-quoting",
                default=None,
                help="Whether fields of a table may stand in quotes. Default: yes in csv, no in "
                "tsv.",
            ),
            click.option(
                "--escape",
                help="Escape character of a table: the character after it is taken literally, such "
                "as a quote after a backslash. Default: none.",
            ),
            click.option(
                "--token-column",
                help="Column of the words in a CoNLL file: its number (1 = the first, -1 = the "
                "last) or its name in CoNLL-U. Default: 1.",
            ),
            click.option(
                "--tag-column",
                help="Column of the tags in a CoNLL file, given in the same way. Default: -1, the "
                "last.",
            ),
            click.option("--encoding", help="Character encoding of the file. Default: utf-8."),
            click.option(
                "--on-bad-record",
                type=click.Choice(["raise", "skip"]),
                default="raise",
                show_default=True,
                help="Stop at a record that cannot be used, or leave it out, count and report it.",
            ),
            click.option(
                "--repair-offsets",
                is_flag=True,
                help="SQuAD: correct the offset of an answer that is not found there but occurs "
                "exactly once.",
            ),
        ]
    )


def read(
    path: Path, options: Mapping[str, Any], skips: Skips, *, labelled: bool = True
) -> Sequence[Mapping[str, Any]]:
    """The records of a file.

    Args:
        path: the file.
        options: the options of the command.
        skips: what to do with bad records.
        labelled: whether labels are needed.
    """
    given: dict[str, Any] = {}
    if options["no_header"]:
        given["header"] = False
    for name in ("encoding", "quoting", "escape"):
        if options[name] is not None:
            given[name] = options[name]
    for name in ("token_column", "tag_column"):
        if options[name] is not None:
            given[name] = _number_or_name(options[name])
    if options["delimiter"] is not None:
        given["delimiter"] = options["delimiter"].replace("\\t", "\t")
    if options["repair_offsets"]:
        given["repair_offsets"] = True
    format = options["format"] or format_of(path)
    if labelled and format == "text":
        raise InputError(
            f"{path}: plain text has no labels. Name the format of the file, such as --format tsv "
            "or conll."
        )
    unlabelled = {"squad": "labelled", "json": "labelled", "conll": "tagged"}.get(format)
    if unlabelled and not labelled:
        given[unlabelled] = False
    return read_records(path, format=format, skips=skips, **given)


def read_unlabelled(
    path: Path, train: Path, options: Mapping[str, Any], skips: Skips
) -> Sequence[Mapping[str, Any]]:
    """Records without labels that go with labelled ones.

    They are read like these; a text file (.txt) next to records of another format has one text a
    line.

    Args:
        path: the file.
        train: the file of labelled records.
        options: the options of the command.
        skips: what to do with bad records.
    """
    form = options["format"] or format_of(train)
    own = "text" if suffix_of(path) == ".txt" and suffix_of(train) != ".txt" else None
    own = own or options["format"] or format_of(path)
    if own != form:  # what says how to read the other format says nothing here
        other = {name: None for name in _OF_FORMATS if name in options}
        options = {**options, **other, "no_header": False, "repair_offsets": False}
    return read(path, {**options, "format": own}, skips, labelled=False)


def _number_or_name(column: str) -> int | str:
    try:
        return int(column)
    except ValueError:
        return column
