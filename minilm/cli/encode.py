"""`minilm encode`: a file of texts to a file of vectors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np

from minilm.cli.help import Command
from minilm.cli.inputs import text_lines
from minilm.cli.model_options import loading, model_options
from minilm.cli.part_options import (
    display,
    given_part_options,
    part_options,
    refuse_part_options,
    say_result,
)
from minilm.cli.text_options import TEXT_KEY
from minilm.data.row_files import RowFile, RowReader, is_rows, row_format
from minilm.files.atomic import replace_files
from minilm.files.progress import counted, is_watched
from minilm.sentence.encoder import (
    CHUNK,
    TOKENS_PER_BATCH,
    Encoder,
    Pooling,
    Vectors,
    VectorStream,
)


def write_rows(path: Path, chunks: Iterable[Vectors], width: int) -> int:
    """Writes a .npy file chunk by chunk, without knowing the number of rows beforehand.

    Args:
        path: the file.
        chunks: (n, width) float32 arrays.
        width: number of values in every row.

    Returns:
        The number of rows written.
    """
    rows = 0
    with path.open("wb") as file:
        _write_header(file, rows, width)
        begin = file.tell()
        for chunk in chunks:
            file.write(chunk.tobytes())
            rows += len(chunk)
        file.seek(0)
        _write_header(file, rows, width)  # numpy leaves room for the first axis to grow
        assert file.tell() == begin
    return rows


def _write_header(file: BinaryIO, rows: int, width: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, header)


@click.command(cls=Command)
@click.argument("model")
@click.argument("texts", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="NumPy file (.npy) to write: a float32 array with one row for each line, which appears "
    "when it is complete. Or, without .npy at the end, a directory of parts, for many texts. "
    "Default: none; give --output or --json.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "jsonl", "parquet"]),
    help="Format of TEXTS: one text a line, JSON lines or Parquet. Default: by the file's name; "
    "text of standard input.",
)
@TEXT_KEY
@click.option(
    "--output-format",
    type=click.Choice(["npy", "parquet"]),
    help="With a directory as output: format of the parts. Parquet has the columns row and vector. "
    "Default: npy.",
)
@part_options()
@click.option(
    "--pooling",
    type=click.Choice(["mean", "cls"]),
    help="How the vector of a text is made: the mean of its token states, or the state of its "
    "first token ([CLS]). Default: what the checkpoint's 1_Pooling/config.json says, or "
    "mean.",
)
@click.option("--no-normalize", is_flag=True, help="Do not scale the vectors to length 1.")
@model_options()
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    help="Maximum length in tokens at which texts are truncated. Default: what the "
    "checkpoint's sentence_bert_config.json or tokenizer_config.json says, or what the "
    "model can read.",
)
@click.option("--prompt", help="Text to put before every line, such as 'query: '. Default: none.")
@click.option(
    "--prompt-name",
    help="Name of a prompt of the checkpoint, instead of --prompt. Default: the one that its "
    "config_sentence_transformers.json names, or none.",
)
@click.option(
    "--tokens-per-batch",
    type=click.IntRange(min=1),
    default=TOKENS_PER_BATCH,
    show_default=True,
    help="Batch size: number of tokens that go through the model at once.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Instead of --output: print JSON, one object a line: "line", "vector", and "truncated": '
    "true if the text was cut.",
)
def command(
    model: str,
    texts: str,
    output: Path | None,
    form: str | None,
    text_key: str,
    output_format: str | None,
    pooling: Pooling | None,
    no_normalize: bool,
    max_length: int | None,
    prompt: str | None,
    prompt_name: str | None,
    tokens_per_batch: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn every line of TEXTS (UTF-8; "-" for standard input) into a row of OUTPUT.

    Row n is line n: an empty line is a text too. From JSON lines (.jsonl) and Parquet, the key or
    column "text" is read. Texts and vectors are streamed, so the file may have any number of lines.

    If OUTPUT is a directory, it holds the vectors in parts, which several processes (--workers) and
    machines (--shard) make. After an interruption, the same command makes the parts that are
    missing. minilm parts says whether all are there; minilm.EncodedTexts.open reads them in Python.

    \b
    Examples:
      minilm encode sentence-mini texts.txt -o vectors.npy
        vectors.npy: 6 rows, 0.4 s
      minilm encode sentence-transformers/all-MiniLM-L6-v2 texts.txt --json
      minilm encode sentence-mini texts.parquet -o vectors --workers 8 --shard 1/4
    """
    if (output is None) != as_json:
        raise click.UsageError("Give one of --output and --json.")
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("Give --prompt or --prompt-name, not both.")
    if output is not None and texts != "-" and output.resolve() == Path(texts).resolve():
        raise click.UsageError(f"{output} is the file of the texts: give another output.")
    if output is not None and not output.absolute().parent.is_dir():
        raise click.UsageError(f"The directory {output.parent} does not exist.")
    how: dict[str, Any] = {
        "pooling": pooling,
        "normalize": not no_normalize,
        "max_length": max_length,
        "prompt": prompt,
        "prompt_name": prompt_name,
        "tokens_per_batch": tokens_per_batch,
    }
    if output is not None and output.suffix != ".npy":
        if texts == "-":
            raise click.UsageError(
                f"{output} is a directory of parts, for which the texts are read several times: "
                "put them into a file, or give an output that ends in .npy."
            )
        if output.is_file():
            raise click.UsageError(f"{output} is a file: give a directory, or a name with .npy.")
        how |= {"format": form, "text_key": text_key, "output_format": output_format or "npy"}
        _write_parts(model, Path(texts), output, how, options)
        return
    shown = "--json writes none" if output is None else f"{output} is a file"
    refuse_part_options(options, shown)
    if output_format is not None:
        raise click.UsageError(f"--output-format is for a directory as output, and {shown}.")
    if output is not None and output.is_dir():
        raise click.UsageError(f"{output} is a directory: give a file, or a name without .npy.")
    encoder = Encoder.from_pretrained(model, **loading(options))
    stream = encoder.encode_stream(_texts(texts, form, text_key), **how, progress=is_watched())
    if output is None:
        _print(stream)
        return
    start = time.perf_counter()
    rows = 0

    def write(path: Path) -> None:
        nonlocal rows
        rows = write_rows(path, stream, encoder.get_embedding_dimension())

    replace_files({output: write})
    seconds = time.perf_counter() - start
    click.echo(f"{output}: {counted(rows, 'row')}, {seconds:.1f} s", err=True)


def _texts(source: str, form: str | None, text_key: str) -> Iterable[str]:
    """The texts, one after the other."""
    if form is None and source != "-" and is_rows(Path(source)):
        form = row_format(Path(source))
    if form in (None, "text"):
        return text_lines(source)
    if source == "-":
        raise click.UsageError(f"--format {form}: standard input is text. Put it into a file.")
    file = RowFile.scan(Path(source), CHUNK, form)
    return _rows(file, text_key)


def _rows(file: RowFile, text_key: str) -> Iterator[str]:
    with RowReader(file) as reader:
        yield from reader.texts(0, file.rows, text_key)


def _print(stream: VectorStream) -> None:
    """Vectors as JSON lines."""
    done = 0
    for vectors in stream:
        for row, vector in enumerate(vectors):
            cut = {"truncated": True} if row in stream.truncated else {}
            click.echo(json.dumps({"line": done + row + 1, "vector": vector.tolist(), **cut}))
        done += len(vectors)


def _write_parts(
    model: str, texts: Path, output: Path, how: dict[str, Any], options: dict[str, Any]
) -> None:
    """Makes the parts of a directory."""
    from minilm.sentence.bulk import encode_file

    how |= given_part_options(options, options["threads"])
    options["threads"] = None  # of the workers, not of this process
    how |= loading(options)
    with display("text") as shown:
        result = encode_file(
            model, texts, output, **how, progress=shown.progress, on_bytes=shown.on_bytes
        )
    say_result(result, output, how.get("shard"), "text")
