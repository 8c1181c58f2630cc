"""`minilm compare`: checkpoints side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from minilm.checkpoints.hub import LANGUAGE_MODELS
from minilm.cli.help import Command
from minilm.cli.model_options import DTYPES, threads_option

count = click.IntRange(min=1)


@click.command(cls=Command)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="Text to predict masked words of: one paragraph a line, a blank line between documents "
    "(.txt or .jsonl, also .gz or .xz). Default: Python's help topics.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="[FORMAT=]FILE",
    help="Labelled data of the task that the models were fine-tuned for, as in `minilm "
    "evaluate`. May be given several times. Default: none.",
)
@click.option(
    "--max-tokens",
    default=40_000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Maximum number of tokens of the text to predict masked words in; 0 = all.",
)
@click.option(
    "--texts", default=512, show_default=True, type=count, help="Number of texts to time."
)
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    type=count,
    help="Number of timing rounds; the median is reported.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Number format of all models' weights in memory; int8 = quantise them to 8 bits, auto = "
    "as stored. Default: float32, or int8 where they are stored so.",
)
@threads_option()
@click.option(
    "--no-memory",
    is_flag=True,
    help="Do not measure memory, which takes a new process for each model.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table.")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    help="Also write an HTML page with charts. Default: none.",
)
@click.option(
    "--svg",
    type=click.Path(path_type=Path),
    help="Also write only the scatter plot of that page, for light and dark: parameters against "
    "masked-LM accuracy (or the score of the first task), colour for speed, area for file size. "
    "Default: none.",
)
def command(
    models: tuple[str, ...],
    text: Path | None,
    tasks: tuple[str, ...],
    max_tokens: int,
    texts: int,
    rounds: int,
    dtype: str | None,
    threads: int | None,
    no_memory: bool,
    as_json: bool,
    as_markdown: bool,
    html: Path | None,
    svg: Path | None,
) -> None:
    """Compare checkpoints on the CPU: parameters, file sizes, memory, speed and scores.

    The score is the masked-LM accuracy, for models with a masked-LM head, and the metric of a task,
    for models that were fine-tuned for it (--task).

    The other models are compared with the first MODEL. Without any MODEL, the language models of
    the repository are compared: a BERT, the DistilBERT distilled from it, and three ALBERTs
    distilled from that.

    \b
    Examples:
      minilm compare
                                  bert-mini        distilbert-mini    albert-3x2-mini   ...
        ...
        parameters                11,633,216       6,894,144 (59%)    3,484,352 (30%)   ...
        one text of 32 tokens     12.9 ms          6.7 ms (1.93 x)    6.7 ms (1.93 x)   ...
        in bulk, tokens a second  7,510            15,081 (2.01 x)    14,918 (1.99 x)   ...
        masked words right        39.7%            39.5% (99%)        38.6% (97%)       ...
        ...
      minilm compare bert-base-uncased distilbert-base-uncased albert-base-v2 --html page.html
      minilm compare sst2-bert sst2-distilbert --task glue:sst2=dev.tsv
    """
    import torch

    from minilm.cli.machine_load import warn_if_busy
    from minilm.compare.measure import CompareSettings, compare
    from minilm.compare.page import page
    from minilm.compare.report import markdown, table
    from minilm.compare.scatter import scatter
    from minilm.compare.text_scores import help_topics
    from minilm.data.text_files import read_documents
    from minilm.errors import InputError
    from minilm.files.atomic import replace_files

    if as_json and as_markdown:
        raise click.UsageError("Choose one of --json and --markdown.")
    if svg is not None and svg.suffix.lower() != ".svg":
        raise InputError(f"--svg {svg}: the picture is an SVG; give a name that ends in .svg.")
    if threads is not None:
        torch.set_num_threads(threads)
    settings = CompareSettings(
        texts=texts, rounds=rounds, max_tokens=max_tokens or None, memory=not no_memory, dtype=dtype
    )
    if text is None:
        documents = help_topics()
    else:
        documents = [document.text for document in read_documents(text)]
    result = compare(
        models or LANGUAGE_MODELS,
        documents,
        settings,
        lambda line: click.echo(line, err=True),
        tasks=dict(zip(_task_names(tasks), map(_records, tasks), strict=True)),
        source="Python's help topics" if text is None else text.name,
    )
    warn_if_busy(result["machine"]["load"])
    # before the pictures: one that cannot be drawn must not take the figures away
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        width = shutil.get_terminal_size().columns
        click.echo(markdown(result) if as_markdown else table(result, width))
    if html is not None:
        replace_files({html: lambda path: path.write_text(page(result), encoding="utf-8")})
    if svg is not None:
        picture = scatter(result)
        if picture is None:
            raise InputError(
                "--svg needs two models with the same kind of score: two with a masked-LM head, or "
                "two that are fine-tuned for a --task."
            )
        replace_files({svg: lambda path: path.write_text(picture, encoding="utf-8")})


def _task_names(tasks: Sequence[str]) -> list[str]:
    """Format and file of each task; with the whole path where that is not enough."""
    names = []
    for task in tasks:
        form, _, file = task.rpartition("=")
        names.append(f"{form.removeprefix('glue:')} {Path(file).name}".strip())
    return [
        task if names.count(name) > 1 else name for task, name in zip(tasks, names, strict=True)
    ]


def _records(task: str) -> Sequence[Mapping[str, Any]]:
    from minilm.data.records.files import read_records

    form, _, file = task.rpartition("=")
    return read_records(file, format=form or None)
