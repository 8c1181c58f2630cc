"""`minilm train-tokenizer`: text files to a vocabulary."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import get_args

import click

from minilm.cli.help import Command
from minilm.cli.text_options import text_options
from minilm.data.text_records import EncodingErrors
from minilm.files.progress import is_watched
from minilm.tokenization.training import CHARACTER_COVERAGE, Kind, train_tokenizer


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to write the tokenizer into. It appears when it is complete.",
)
@click.option(
    "--kind",
    type=click.Choice(get_args(Kind)),
    default="wordpiece",
    show_default=True,
    help="Kind of tokenizer: wordpiece for BERT and DistilBERT, unigram for ALBERT.",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(min=1),
    default=8000,
    show_default=True,
    help="Vocabulary size, the five special tokens included.",
)
@click.option("--cased", is_flag=True, help="Keep upper case and accents.")
@click.option(
    "--character-coverage",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=CHARACTER_COVERAGE,
    show_default=True,
    help="Fraction of the text's characters that the alphabet must cover; rarer characters "
    "become unknown.",
)
@click.option(
    "--documents",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of documents, from the first one on, to learn from: unigram takes minutes on a "
    "large corpus. Default: all documents.",
)
@text_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    files: tuple[Path, ...],
    output: Path,
    kind: Kind,
    vocab_size: int,
    cased: bool,
    character_coverage: float,
    documents: int | None,
    text_key: str,
    document_per_line: bool,
    errors: EncodingErrors,
    as_json: bool,
) -> None:
    """Learn a vocabulary from text FILES and write it as a tokenizer.

    FILES end in .txt or .md (a blank line between documents), .jsonl (one object a line) or .json
    (the same, or a list of objects), also followed by .gz or .xz, or in .parquet. The same files
    and options give the same vocabulary. It works in minilm, as in `minilm tokenize --tokenizer
    OUTPUT`, and in transformers.

    \b
    Examples:
      minilm train-tokenizer articles.txt --vocab-size 4000 -o vocabulary
        vocabulary: 4,000 tokens, 22.9 s
      minilm train-tokenizer part-*.jsonl.gz --kind unigram --vocab-size 30000 -o vocabulary
    """
    start = time.perf_counter()
    tokenizer = train_tokenizer(
        files,
        output,
        kind=kind,
        vocab_size=vocab_size,
        cased=cased,
        character_coverage=character_coverage,
        documents=documents,
        encoding_errors=errors,
        text_key=text_key,
        document_per_line=document_per_line,
        progress=is_watched(),
    )
    seconds = time.perf_counter() - start
    if as_json:
        found = {
            "output": str(output),
            "kind": kind,
            "vocab_size": tokenizer.vocab_size,
            "seconds": seconds,
        }
        click.echo(json.dumps(found, indent=2))
        return
    if tokenizer.vocab_size < vocab_size:
        click.echo(
            f"The text yields only {tokenizer.vocab_size:,} tokens; {vocab_size:,} were asked for.",
            err=True,
        )
    click.echo(f"{output}: {tokenizer.vocab_size:,} tokens, {seconds:.1f} s")
