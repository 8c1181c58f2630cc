"""`minilm encode`: a file of texts to a file of vectors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np

from minilm.cli.inputs import text_lines
from minilm.cli.model_options import loading, model_options
from minilm.files.atomic import replace_files
from minilm.files.progress import is_watched
from minilm.sentence.encoder import TOKENS_PER_BATCH, Encoder, Pooling, Vectors


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
@model_options()
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

    Row n is line n: an empty line is a text too. Neither the texts nor the vectors are ever all in
    memory, so the file may have any number of lines.

    \b
    Examples:
      minilm encode sentence-transformers/all-MiniLM-L6-v2 texts.txt -o vectors.npy
      minilm encode sentence-transformers/all-MiniLM-L6-v2 texts.txt --json
    """
    if (output is None) != as_json:
        raise click.UsageError("Give one of --output and --json.")
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("Give --prompt or --prompt-name, not both.")
    if output is not None and texts != "-" and output.resolve() == Path(texts).resolve():
        raise click.UsageError(f"{output} is the file of the texts: give another output.")
    if output is not None and not output.absolute().parent.is_dir():
        raise click.UsageError(f"The directory {output.parent} does not exist.")
    encoder = Encoder.from_pretrained(model, **loading(options))
    how: dict[str, Any] = {
        "pooling": pooling,
        "normalize": not no_normalize,
        "max_length": max_length,
        "prompt": prompt,
        "prompt_name": prompt_name,
        "tokens_per_batch": tokens_per_batch,
        "progress": is_watched(),
    }
    lines = text_lines(texts)
    stream = encoder.encode_stream(lines, **how)
    if output is None:
        done = 0
        for vectors in stream:
            for row, vector in enumerate(vectors):
                cut = {"truncated": True} if row in stream.truncated else {}
                click.echo(json.dumps({"line": done + row + 1, "vector": vector.tolist(), **cut}))
            done += len(vectors)
        return
    start = time.perf_counter()
    rows = 0

    def write(path: Path) -> None:
        nonlocal rows
        rows = write_rows(path, stream, encoder.get_embedding_dimension())

    replace_files({output: write})
    seconds = time.perf_counter() - start
    click.echo(f"{output}: {rows:,} rows, {seconds:.1f} s", err=True)
