"""How to read text files: options of every command that reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from minilm.data.text_records import EncodingErrors

Command = TypeVar("Command", bound=Callable[..., Any])


TEXT_KEY = click.option(
    "--text-key",
    "--text-column",
    "text_key",
    default="text",
    show_default=True,
    help="Key of the text in JSON objects; in Parquet files, the column.",
)


def text_options(function: Command) -> Command:
    """Adds --text-key, --document-per-line and --errors."""
    for add in reversed(
        (
            TEXT_KEY,
            click.option(
                "--document-per-line",
                is_flag=True,
                help="Each line of a .txt file is a document. Default: a blank line ends one.",
            ),
            click.option(
                "--errors",
                type=click.Choice(get_args(EncodingErrors)),
                default="strict",
                show_default=True,
                help="Bytes that are not UTF-8: stop (strict), replace them by U+FFFD, or ignore "
                "them.",
            ),
        )
    ):
        function = add(function)
    return function
