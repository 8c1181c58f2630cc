"""Reads labelled data of any format, by the file's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from minilm.data.records.base import Records, Skips
from minilm.data.records.conll import read_conll
from minilm.data.records.glue import read_glue
from minilm.data.records.json_files import read_json_file
from minilm.data.records.json_lines import read_json_lines
from minilm.data.records.lines import suffix_of
from minilm.data.records.parquet import read_parquet
from minilm.data.records.squad import read_squad
from minilm.data.records.tables import read_table
from minilm.data.records.texts import read_texts
from minilm.data.records.utterances import FILES, read_utterances
from minilm.errors import InputError, argument, by_place, setting

_GLUE = "glue:"

_READERS: dict[str, Callable[..., Records]] = {
    "csv": partial(read_table, usual_delimiter=","),
    "tsv": partial(read_table, usual_delimiter="\t"),
    "json": read_json_file,
    "jsonl": read_json_lines,
    "parquet": read_parquet,
    "text": read_texts,
    "conll": read_conll,
    "squad": read_squad,
    "utterances": read_utterances,
}

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
    ".conllu": "conll",
    ".json": "json",
}

_NOT_READ = {
    ".xlsx": "Excel: save it as CSV",
    ".xls": "Excel: save it as CSV",
    ".ods": "LibreOffice: save it as CSV",
    ".zip": "an archive: unpack it",
    ".arrow": "Arrow: write it as Parquet (datasets: to_parquet)",
    ".feather": "Arrow: write it as Parquet (pandas: to_parquet)",
    ".pkl": "a pickle, which can run code: write it as Parquet or CSV",
    ".pickle": "a pickle, which can run code: write it as Parquet or CSV",
}
# arguments of readers that are not options
_INTERNAL = ("path", "task", "skips", "usual_delimiter")


def read_records(
    path: str | Path, *, format: str | None = None, skips: Skips | None = None, **options: Any
) -> Records:
    """Reads the records of a file, or of a directory with utterances.

    Args:
        path: the file or directory.
        format: "csv", "tsv", "json", "jsonl", "parquet", "text", "conll", "squad", "utterances",
            or "glue:" and a task such as "glue:sst2". None = as the end of the name says: .csv,
            .tsv, .tab, .json, .jsonl, .ndjson, .parquet, .txt (a text in each line), .conll,
            .conllu, .iob or .bio, perhaps followed by .gz, .xz or .bz2; a directory with a file
            seq.in has utterances.
        skips: what to do with records that cannot be used.
        options: further arguments of the format's own reader, such as header=False.

    Raises:
        DataError: the records cannot be read.
        InputError: the format or an option is unknown.
    """
    path = Path(path)
    format = format or format_of(path)
    if format.startswith(_GLUE):
        reader: Callable[..., Records] = partial(read_glue, task=format.removeprefix(_GLUE))
    elif format in _READERS:
        reader = _READERS[format]
    else:
        raise InputError(f"no format {format!r:.80}; {_known()}.")
    known = [name for name in inspect.signature(reader).parameters if name not in _INTERNAL]
    unknown = [name for name in options if name not in known]
    if unknown:
        name = unknown[0]
        python = f"{name!r:.80} is not an option of the format {format!r:.80}"
        command = f"{setting(name, options[name])} is not for the format {format}"
        # on the command line "header" is --no-header, and some have no option
        spelled = [(argument(one), setting(one, False)) for one in known]
        options_of = [next((w for w in words if w.startswith("--")), "") for words in spelled]
        has = by_place(python=", ".join(known), command=", ".join(filter(None, options_of)))
        raise InputError(f"{by_place(python=python, command=command)}; it has: {has}.")
    return reader(path, skips=skips, **options)


def format_of(path: Path) -> str:
    """The format of a file, by its name.

    Raises:
        InputError: the name tells no format.
    """
    if path.is_dir():
        if (path / FILES[0]).exists():
            return "utterances"
        raise InputError(f"{path} is a directory without {FILES[0]}. Name a file; {_known()}.")
    suffix = suffix_of(path)
    if suffix in _NOT_READ:
        raise InputError(f"{path} is {_NOT_READ[suffix]}.")
    if suffix not in _FORMATS:
        raise InputError(
            f"{path}: its name does not tell the format (known: {', '.join(_FORMATS)}). "
            f"Give {setting('format')}; {_known()}."
        )
    return _FORMATS[suffix]


def _known() -> str:
    return f"there are {', '.join(_READERS)} and {_GLUE}TASK, e.g. {_GLUE}sst2"
