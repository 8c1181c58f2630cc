"""`minilm encode`: a file of texts to a file of vectors."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import click
import numpy as np

from minilm.errors import InputError
from minilm.files.atomic import replace_files
from minilm.models.pretrained import DTYPES
from minilm.sentence.encoder import TOKENS_PER_BATCH, Encoder, Pooling, Vectors


def read_lines(file: BinaryIO, name: str) -> Iterator[str]:
    r"""The lines of a UTF-8 file, without line ends (\n or \r\n); empty lines too.

    Only these end a line: other characters that Unicode calls line ends belong to the text.

    Raises:
        InputError: bytes that are not UTF-8, or a file that cannot be read; names the line.
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


def write_rows(path: Path, chunks: Iterable[Vectors], width: int) -> int:
    """Writes a .npy file chunk by chunk, without knowing beforehand how many rows will come.

    Args:
        path: the file.
        chunks: (n, width) float32 arrays.
        width: of every row.

    Returns:
        How many rows were written.
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


@click.command()
@click.argument("model")
@click.argument("texts", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The .npy file to write: (lines, width) float32. It appears when it is complete.",
)
@click.option(
    "--pooling",
    type=click.Choice(["mean", "cls"]),
    help="Average of a text's tokens or state of its first one. Default: what the checkpoint's "
    "1_Pooling/config.json says, or mean.",
)
@click.option("--no-normalize", is_flag=True, help="Do not scale the vectors to length 1.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", *DTYPES]),
    default="float32",
    show_default=True,
    help="Precision of the model; auto = as stored. The output is always float32.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    help="Maximum length in tokens at which texts are truncated. Default: what the "
    "checkpoint's sentence_bert_config.json or tokenizer_config.json says, or what the "
    "model can read.",
)
@click.option("--prompt", help="Text to put before every line, such as 'query: '.")
@click.option(
    "--prompt-name",
    help="Instead: the name of one of the checkpoint's prompts. Default: the one that its "
    "config_sentence_transformers.json names, or none.",
)
@click.option(
    "--tokens-per-batch",
    type=click.IntRange(min=1),
    default=TOKENS_PER_BATCH,
    show_default=True,
    help="Batch size in tokens.",
)
def command(
    model: str,
    texts: str,
    output: Path,
    pooling: Pooling | None,
    no_normalize: bool,
    dtype: str,
    max_length: int | None,
    prompt: str | None,
    prompt_name: str | None,
    tokens_per_batch: int,
) -> None:
    """Turn every line of TEXTS (UTF-8; "-" for standard input) into a row of OUTPUT.

    Row n is line n: an empty line is a text too. Neither the texts nor the vectors are ever all in
    memory, so the file may have any number of lines.

    \b
    Example:
      minilm encode sentence-transformers/all-MiniLM-L6-v2 texts.txt -o vectors.npy
    """
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("Give --prompt or --prompt-name, not both.")
    if texts != "-" and output.resolve() == Path(texts).resolve():
        raise click.UsageError(f"{output} is the file of the texts: give another output.")
    if not output.absolute().parent.is_dir():
        raise click.UsageError(f"The directory {output.parent} does not exist.")
    encoder = Encoder.from_pretrained(model, dtype=dtype)
    start = time.perf_counter()
    rows = 0

    def write(path: Path) -> None:
        nonlocal rows
        stream = encoder.encode_stream(
            lines,
            pooling=pooling,
            normalize=not no_normalize,
            max_length=max_length,
            prompt=prompt,
            prompt_name=prompt_name,
            tokens_per_batch=tokens_per_batch,
            progress=sys.stderr.isatty(),
        )
        rows = write_rows(path, stream, encoder.get_embedding_dimension())

    with nullcontext(sys.stdin.buffer) if texts == "-" else open(texts, "rb") as file:
        lines = read_lines(file, "standard input" if texts == "-" else texts)
        replace_files({output: write})
    seconds = time.perf_counter() - start
    click.echo(f"{output}: {rows:,} rows, {seconds:.1f} s", err=True)
