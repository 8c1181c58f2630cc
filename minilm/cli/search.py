"""`minilm search`: the texts that are closest in meaning to a query."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minilm.checkpoints.hub import SENTENCE_MODEL
from minilm.cli.help import Command
from minilm.cli.inputs import text_lines
from minilm.cli.model_options import loading, model_options
from minilm.cli.text_options import text_options
from minilm.files.progress import counted, is_watched

if TYPE_CHECKING:
    from minilm.sentence.search import Hit

_WIDTH = 88  # characters of a line of results
_SHOWN = 3  # lines of a text


@click.command(cls=Command)
@click.argument("texts", nargs=-1, required=True, metavar="TEXTS... [QUERY]")
@click.option(
    "--model",
    default=SENTENCE_MODEL,
    show_default=True,
    help="Sentence encoder: a directory or hub name, such as "
    "sentence-transformers/all-MiniLM-L6-v2. The default comes with a clone of the repository.",
)
@click.option(
    "--queries",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with one query on each line, instead of QUERY; - is standard input. Default: none.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of texts to print for each query.",
)
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    help="Directory that stores the vectors for later searches, which then encode new and "
    "changed texts only. Default: nothing is stored.",
)
@click.option(
    "--rebuild",
    is_flag=True,
    help="With --index: encode all texts again instead of reusing the stored vectors.",
)
@text_options
@model_options()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print JSON, one object a query: "query" and "hits", each with "score", "file", "line" '
    'and "text".',
)
def command(
    texts: tuple[str, ...],
    model: str,
    queries: str | None,
    top: int,
    index: Path | None,
    rebuild: bool,
    text_key: str,
    document_per_line: bool,
    errors: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the paragraphs of TEXTS whose meaning is closest to that of QUERY.

    TEXTS are files or directories: .txt and .md (paragraphs, with a blank line between them; or
    lines, with --document-per-line), .jsonl, .json, .csv, .tsv and .parquet with a column of texts.
    Texts are compared by the cosine of their sentence vectors, so they need not have a word in
    common. Texts that are longer than the model can read are truncated.

    \b
    Examples:
      minilm search texts.txt "repair a bike" --top 1
         0.433 texts.txt:1
               How to mend a flat tyre A hole in the inner tube of a bicycle
      minilm search faq.csv --text-column question "forgot my password" --top 3
      minilm search articles.txt --queries queries.txt --index articles.index --json
    """
    from minilm.data.text_files import TextFormat
    from minilm.sentence.encoder import SentenceEncoder
    from minilm.sentence.index import VectorIndex
    from minilm.sentence.passages import files_of, read_passages
    from minilm.sentence.search import search

    paths, asked = _queries(texts, queries)
    if rebuild and index is None:
        raise click.UsageError("--rebuild needs --index.")
    text_format = TextFormat(errors, text_key, document_per_line)
    files = files_of(paths)
    encoder = SentenceEncoder.from_pretrained(model, **loading(options))
    from tqdm.auto import tqdm

    store = nullcontext() if index is None else VectorIndex(index, encoder, rebuild=rebuild)
    with (
        tqdm(unit=" texts", file=sys.stderr, disable=not is_watched()) as bar,
        store as kept,
    ):
        found = search(
            encoder,
            asked,
            read_passages(files, text_format),
            top_k=top,
            store=kept,
            on_passages=bar.update,
        )
    if not found.passages:
        raise click.UsageError(f"There is no text in {', '.join(map(str, paths))}.")
    if found.truncated:
        click.echo(
            f"{counted(found.truncated, 'text')} cut at {encoder.max_length} tokens; for shorter "
            "ones: --document-per-line.",
            err=True,
        )
    if index is not None:
        click.echo(
            f"{counted(found.passages, 'text')}, {found.encoded:,} of them encoded now", err=True
        )
    for query, hits in zip(asked, found.hits, strict=True):
        if as_json:
            click.echo(json.dumps({"query": query, "hits": [_json(hit) for hit in hits]}))
        else:
            if len(asked) > 1:
                click.echo(f"# {query}")
            for hit in hits:
                click.echo(_shown(hit))


def _queries(texts: tuple[str, ...], queries: str | None) -> tuple[list[Path], list[str]]:
    """The files, and the queries."""
    if queries is None:
        if len(texts) < 2:
            raise click.UsageError("Give TEXTS and a QUERY behind them, or --queries FILE.")
        *places, query = texts
        asked = [query]
    else:
        places = list(texts)
        asked = list(text_lines(queries))
    asked = [query.strip() for query in asked if query.strip()]
    if not asked:
        where = "QUERY" if queries is None else queries
        raise click.UsageError(f"{where} holds no query.")
    return [Path(place) for place in places], asked


def _json(hit: Hit) -> dict[str, Any]:
    passage = hit.passage
    return {
        "score": hit.score,
        "file": str(passage.path),
        "line": passage.line,
        "text": passage.text,
    }


def _shown(hit: Hit) -> str:
    """Score and place, and the beginning of the text below them."""
    lines: Sequence[str] = textwrap.wrap(
        " ".join(hit.passage.text.split()), _WIDTH - 7, max_lines=_SHOWN, placeholder=" ..."
    )
    head = f"{hit.score:6.3f} {hit.passage.path}:{hit.passage.line}"
    return "\n".join([head, *(f"       {line}" for line in lines)])
