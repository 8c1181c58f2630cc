"""`minilm plot`: the curves of training runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from minilm.training.curves import RunCurves, read_runs
from minilm.training.drawing import draw


def table(runs: list[RunCurves]) -> str:
    """A line for every held-out score of every run: last and best."""
    width = max(len("run"), *(len(run.name) for run in runs))
    lines = [f"{'run':<{width}}{'step':>9}  {'':<18}{'last':>10}{'best':>10}{'at step':>9}"]
    for run in runs:
        found = run.summary()
        loss = found["training"].get("loss")
        rows = [("training loss", _figure(loss), "", "")]
        rows += [
            (name, _figure(score["last"]), _figure(score["best"]), _count(score["best_step"]))
            for name, score in found["held_out"].items()
        ]
        names = [(run.name, f"{run.step:,}")] + [("", "")] * (len(rows) - 1)
        lines += [
            f"{name:<{width}}{step:>9}  {what:<18}{last:>10}{best:>10}{at:>9}"
            for (name, step), (what, last, best, at) in zip(names, rows, strict=True)
        ]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="curves.png",
    show_default=True,
    help="The PNG file to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(runs: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Draw the curves of training RUNS into one picture, and print their last and best figures.

    RUNS are the output directories of `minilm pretrain`, `distill` and `finetune`, going on or
    finished. Loss and its terms are drawn as logged (faint) and smoothed, beside the held-out
    scores. Needs the extra `plots`.

    \b
    Example:
      minilm plot runs/small-lr runs/large-lr -o learning-rates.png
    """
    curves = read_runs(runs)
    draw(curves, output)
    if as_json:
        found = {"picture": str(output), "runs": [run.summary() for run in curves]}
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(table(curves))
    click.echo(f"\n{output}")
