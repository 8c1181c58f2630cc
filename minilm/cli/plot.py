"""`minilm plot`: the curves of training runs, and the layers of models compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minilm.cli import SuggestingGroup
from minilm.cli.help import Command
from minilm.cli.model_options import threads_option
from minilm.files.progress import counted
from minilm.training.curves import RunCurves, read_runs
from minilm.training.drawing import check_destination, draw

if TYPE_CHECKING:
    from minilm.compare.similarity import Similarity


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


class _PlotGroup(SuggestingGroup):
    """A group whose arguments are those of its command `curves` unless they name another."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", *ctx.help_option_names}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["curves", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_PlotGroup)
def command() -> None:
    """Draw the curves of training runs, or compare the layers of models.

    The default command is `curves`. A run whose directory has the name of a command is written with
    its path, as in `minilm plot ./similarity`.

    \b
    Examples:
      minilm plot runs/small-lr runs/large-lr -o learning-rates.png
      minilm plot similarity bert-mini albert-1x12-mini -o layers.svg
    """


@command.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="curves.png",
    show_default=True,
    help="PNG or SVG file to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def curves(runs: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Draw the curves of training RUNS into one picture, and print their last and best figures.

    RUNS are the output directories of `minilm pretrain`, `distill` and `finetune`, finished or
    not. Loss and its terms are drawn as logged (faint) and smoothed, beside the held-out
    scores. Losses that are sums of other terms, such as those of a teacher and its student, have a
    panel each. Needs the extra `plots`.

    \b
    Example:
      minilm plot curves runs/bert-3 -o curves.png
        run          step                          last      best  at step
        bert-3      2,000  training loss         4.1...
                           masked_loss           4.1770    4.1770    2,000
                           masked_accuracy       0.3090    0.3090    2,000

        curves.png
    """
    check_destination(output)
    found = read_runs(runs)
    draw(found, output)
    if as_json:
        result = {"picture": str(output), "runs": [run.summary() for run in found]}
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(table(found))
    click.echo(f"\n{output}")


@command.command(cls=Command)
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL]...")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="Text to run the models on: one paragraph a line, a blank line between documents (.txt or "
    ".jsonl, also .gz or .xz). Default: Python's help topics.",
)
@click.option(
    "--max-tokens",
    default=2048,
    show_default=True,
    type=click.IntRange(min=1),
    help="Maximum number of tokens of the text to run the models on.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="similarity.png",
    show_default=True,
    help="PNG or SVG file to write.",
)
@threads_option()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def similarity(
    models: tuple[str, ...],
    text: Path | None,
    max_tokens: int,
    output: Path,
    threads: int | None,
    as_json: bool,
) -> None:
    """Draw how layers change the states of a text, and how similar layers of two models are.

    For every MODEL: the L2 distance and the angle between input and output of each application of a
    layer (ALBERT's figure 1). For the first MODEL (a teacher) and each of the others (its
    students): linear CKA of their states (Kornblith et al. 2019), and correlation of their
    attention weights, averaged over heads. All models must have the same tokenizer. Needs the extra
    `plots`.

    \b
    Example:
      minilm plot similarity bert-mini distilbert-mini -o layers.svg
        model            layer  L2 distance    angle   most like state of bert-mini (CKA)
        bert-mini            1        17.01    74.2°
        ...
        distilbert-mini      1        16.04    75.0°    1 (0.98)
        ...
        layers.svg
    """
    from minilm.compare.similarity_picture import draw_similarity

    check_destination(output)
    import torch

    from minilm.compare.similarity import compare_layers
    from minilm.compare.text_scores import help_topics
    from minilm.data.text_files import read_documents

    if threads is not None:
        torch.set_num_threads(threads)
    documents = (
        help_topics() if text is None else [document.text for document in read_documents(text)]
    )
    found = compare_layers(
        models,
        [line for document in documents for line in document.splitlines()],
        max_tokens=max_tokens,
        say=lambda line: click.echo(line, err=True),
    )
    draw_similarity(found, output)
    if as_json:
        click.echo(json.dumps({"picture": str(output), **found.to_json()}, indent=2))
        return
    click.echo(similarity_table(found))
    click.echo(f"\n{output}")


def similarity_table(found: Similarity) -> str:
    """A line for every application of a layer of every model.

    Args:
        found: what `minilm.compare.similarity.similarity` returned.
    """
    matches = {pair.student: pair.matches() for pair in found.pairs}
    width = max(len("model"), *map(len, found.steps))
    lines = [f"{'model':<{width}}{'layer':>7}{'L2 distance':>13}{'angle':>9}"]
    if matches:
        lines[0] += f"   most like state of {found.pairs[0].teacher} (CKA)"
    for name, steps in found.steps.items():
        for number, (distance, angle) in enumerate(
            zip(steps.distance, steps.angle, strict=True), 1
        ):
            label = name if number == 1 else ""
            line = f"{label:<{width}}{number:>7}{distance:>13.2f}{angle:>8.1f}°"
            if name in matches:
                state, cka = matches[name][number]
                line += f"   {state:>2} ({cka:.2f})"
            lines.append(line)
    lines.append(f"\n{counted(found.texts, 'text')}, {counted(found.tokens, 'token')}")
    return "\n".join(lines)
