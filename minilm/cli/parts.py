"""`minilm parts`: whether a directory of parts is complete."""

from __future__ import annotations

import json
from pathlib import Path

import click

from minilm.cli.help import Command
from minilm.files.progress import counted


@click.command(cls=Command)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--verify",
    is_flag=True,
    help="Read all parts and compare their digests with those that were recorded. The record of a "
    "damaged part is removed; the command that made the part will then make it again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(context: click.Context, directory: Path, verify: bool, as_json: bool) -> None:
    """Check whether vectors or predictions are complete: all parts, of all shards and machines.

    DIRECTORY is what minilm encode or minilm predict wrote with --output. The exit code is 0 if all
    parts are there, and 1 if some are missing or, with --verify, damaged.

    \b
    Examples:
      minilm parts vectors
        vectors: complete: 4 of 4 parts, 400,000 of 400,000 rows of vectors
      minilm parts vectors --verify --json
    """
    from minilm.data.parts import Parts

    parts = Parts.open(directory)
    damaged = parts.damaged() if verify else []
    for part in damaged:
        parts.forget(part)
    status = {**parts.status(), "damaged": damaged}
    if as_json:
        click.echo(json.dumps(status))
    else:
        state = "complete" if status["complete"] else "not complete"
        click.echo(
            f"{directory}: {state}: "
            f"{status['parts_done']:,} of {counted(status['parts'], 'part')}, "
            f"{status['rows_done']:,} of {counted(status['rows'], 'row')} of {status['kind']}"
        )
        for number in damaged:
            click.echo(f"damaged: {parts.path(number).name}")
        missing = [number for number in status["missing"] if number not in damaged]
        if missing:
            click.echo(f"missing: {_listed(missing)}")
    context.exit(0 if status["complete"] else 1)


def _listed(numbers: list[int]) -> str:
    """Numbers, with neighbours as "5-9", and not too many of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    shown = ["-".join(map(str, run)) for run in runs[:20]]
    return "parts " + ", ".join(shown) + (", ..." if len(runs) > 20 else "")
