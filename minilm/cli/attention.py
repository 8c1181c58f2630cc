"""`minilm attention`: where the heads of a model look, as an HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from minilm.cli.help import Command
from minilm.cli.model_options import loading, model_options
from minilm.files.progress import counted

MAX_LENGTH = 64


@click.command(cls=Command)
@click.argument("model")
@click.argument("text")
@click.option("--pair", help="Second text, for models that read pairs of texts. Default: none.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="attention.html",
    show_default=True,
    help="HTML file to write. It needs no other file and no network.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=3),
    default=MAX_LENGTH,
    show_default=True,
    help="Maximum length in tokens at which the text is truncated. The size of the page grows with "
    "its square.",
)
@model_options()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Instead of a page: print JSON, with "tokens" and "attention": for each layer and head a '
    "matrix whose rows sum to 1.",
)
def command(
    model: str,
    text: str,
    pair: str | None,
    output: Path,
    max_length: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the attention of MODEL on TEXT, for each layer and head, as an HTML page.

    The page shades the tokens by the attention of the token under the pointer, draws the map of the
    chosen layer and head, and small maps of all of them. For an ALBERT, whose layers are shared,
    every application counts as a layer.

    \b
    Example:
      minilm attention bert-mini "The cat sat because it was tired." -o cat.html
        cat.html: 12 layers, 4 heads, 11 tokens, 0.02 MB
    """
    from minilm.checkpoints.hub import resolve
    from minilm.files.atomic import replace_files
    from minilm.loader import check_vocabulary, load
    from minilm.pages.attention import attention_maps, attention_page
    from minilm.tokenization.tokenizer import Tokenizer

    directory = resolve(model)
    tokenizer = Tokenizer.from_pretrained(directory)
    network = load(directory, new_parts="allow", **loading(options))
    check_vocabulary(network.config, tokenizer)
    length = min(max_length, network.config.max_position_embeddings)
    maps = attention_maps(network, tokenizer, text, pair, max_length=length)
    if as_json:
        found = {"tokens": list(maps.tokens), "attention": maps.weights.tolist()}
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    name = Path(model).name
    page = attention_page(
        f"Attention of {name}", maps, note=text if pair is None else f"{text} | {pair}"
    )
    replace_files({output: lambda path: path.write_text(page, encoding="utf-8")})
    layers, heads, tokens, _ = maps.weights.shape
    size = len(page.encode("utf-8")) / 1e6
    click.echo(
        f"{output}: {counted(layers, 'layer')}, {counted(heads, 'head')}, "
        f"{counted(tokens, 'token')}, {size:.2f} MB"
    )
