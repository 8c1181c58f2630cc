"""Commands that write results in parts: their options, and how they show progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minilm.cli.options import Option, together
from minilm.files.progress import DELAY, counted, duration, is_watched

if TYPE_CHECKING:
    from tqdm import tqdm

    from minilm.data.part_runs import PartsProgress, ShardResult

PART_OPTIONS = ("shard", "workers", "part_rows")
_LOG_EVERY = 60.0  # seconds between two lines of progress where nobody watches


def part_options() -> Option[Any]:
    """--shard, --workers and --part-rows."""
    return together(
        [
            click.option(
                "--shard",
                metavar="I/N",
                help="With a directory as output: which share of the parts to make, such as 2/8 on "
                "the second of eight machines. Default: 1/1, all of them.",
            ),
            click.option(
                "--workers",
                type=click.IntRange(min=1),
                help="With a directory as output: number of processes. Default: torch's number of "
                "threads divided by --threads; 1 on a GPU.",
            ),
            click.option(
                "--part-rows",
                type=click.IntRange(min=1),
                help="With a directory as output: number of records in a part. An interruption "
                "costs each worker at most one part. Default: 16384.",
            ),
        ]
    )


def given_part_options(options: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """Removes the options of `part_options` and returns those that were given.

    Args:
        options: the options of the command.
        threads: the option --threads, which applies to every worker.

    Returns:
        Those that were given, as arguments of `encode_file` and `predict_file`.
    """
    taken = {name: options.pop(name) for name in PART_OPTIONS}
    taken["threads"] = threads
    return {name: value for name, value in taken.items() if value is not None}


def refuse_part_options(options: dict[str, Any], output: str) -> None:
    """Removes the options of `part_options`, for an output that is not written in parts.

    Raises:
        click.UsageError: one of them was given.
    """
    for name in PART_OPTIONS:
        if options.pop(name) is not None:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} is for a directory as output, and {output}.")


@dataclass
class Display:
    """Shows progress: a bar if somebody watches, or else a line every minute.

    Attributes:
        unit: the name of a row, such as "text".
    """

    unit: str
    _reading: tqdm[Any] | None = None
    _working: tqdm[Any] | None = None
    _said: float = field(default_factory=time.monotonic)

    def on_bytes(self, count: int) -> None:
        """Shows how much of the input was read, before the work begins."""
        if self._reading is None:
            self._reading = self._open(desc="reading", unit="B", unit_scale=True, delay=DELAY)
        self._reading.update(count)

    def progress(self, state: PartsProgress) -> None:
        """Shows the progress of the parts, of all workers together."""
        if self._working is None:
            self.close()
            self._working = self._open(
                total=state.rows, initial=state.rows_done, unit=f" {self.unit}s", smoothing=0.05
            )
        self._working.update(state.rows_done - self._working.n)
        self._working.set_postfix_str(f"part {state.parts_done} of {state.parts}", refresh=False)
        if not is_watched() and time.monotonic() - self._said > _LOG_EVERY:
            self._said = time.monotonic()
            click.echo(self._line(state), err=True)

    def close(self) -> None:
        """Removes the bars."""
        for bar in (self._reading, self._working):
            if bar is not None:
                bar.close()

    def _line(self, state: PartsProgress) -> str:
        left = state.seconds_left
        return (
            f"{state.parts_done} of {counted(state.parts, 'part')}, {state.rows_done:,} of "
            f"{counted(state.rows, self.unit)}, {state.rate:,.0f} a second"
            + ("" if left is None else f", {duration(left)} left")
        )

    def _open(self, **options: Any) -> tqdm[Any]:
        from tqdm import tqdm

        return tqdm(file=sys.stderr, disable=not is_watched(), **options)


@contextmanager
def display(unit: str) -> Iterator[Display]:
    """A display of progress, which is removed at the end."""
    shown = Display(unit)
    try:
        yield shown
    finally:
        shown.close()


def say_result(result: ShardResult, directory: Path, shard: str | None, unit: str) -> None:
    """Prints how many parts and rows of a shard were made, on stderr."""
    what = "complete" if shard is None else f"shard {shard} is complete"
    rows = counted(result.rows, unit)
    made = f"{result.rows_made:,} of {rows} in {result.seconds:.1f} s"
    if result.rows_made == 0:
        made = f"{rows}, nothing was left to do"
    elif result.rows_made == result.rows:
        made = f"{rows} in {result.seconds:.1f} s"
    rest = ""
    if result.missing:
        rest = f"; {counted(result.missing, 'part')} of other shards still missing"
    elif shard is not None:
        rest = "; so are all others"
    click.echo(f"{directory}: {what}: {counted(result.parts, 'part')}, {made}{rest}", err=True)
