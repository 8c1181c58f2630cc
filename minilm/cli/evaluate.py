"""`minilm evaluate`: how good a fine-tuned model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from minilm.cli.finetune import show_scores
from minilm.cli.help import Command
from minilm.cli.model_options import (
    exit_options,
    loading,
    model_options,
    set_thresholds,
    threshold_options,
)
from minilm.cli.record_options import read, record_options
from minilm.data.records.base import Skips
from minilm.files.json_file import without_nan
from minilm.files.progress import is_watched

# tasks with a confusion matrix: what the names of its scores begin with
CONFUSED = {"classification": "", "utterances": "intent_"}


@click.command(cls=Command)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@record_options()
@model_options()
@threshold_options()
@exit_options()
@click.option(
    "--tune-thresholds",
    is_flag=True,
    help="First set the model's thresholds to the best values for DATA, and store them with the "
    "model. Scores on the same DATA are then too high: take them from other data.",
)
@click.option("--confusion", is_flag=True, help="Also print the confusion matrix.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    data: Path,
    tune_thresholds: bool,
    confusion: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score the fine-tuned MODEL on the labelled records of DATA.

    \b
    Examples:
      minilm evaluate sentiment dev.tsv --format glue:sst2
        accuracy                    0.8463
        ...
        class  precision    recall        f1   support
        ...
      minilm evaluate topics dev.jsonl --tune-thresholds
      minilm evaluate sentiment dev.tsv --exit-threshold 0.95
    """
    from minilm.tasks.prediction import Predictor

    skips = Skips(options["on_bad_record"])
    if tune_thresholds and not Path(model).is_dir():
        raise click.UsageError("--tune-thresholds stores them with the model: give its directory.")
    predictor = Predictor.from_pretrained(model, **loading(options))
    predictor.task.name_columns(options)
    set_thresholds(predictor.task, options)
    if confusion and predictor.task.name not in CONFUSED:
        raise click.UsageError(f"--confusion: {predictor.task.name} has no confusion matrix.")
    records = read(data, options, skips)
    if tune_thresholds:
        skipped = Skips(options["on_bad_record"])
        predictor.tune(records, skips=skipped, progress=is_watched())
        predictor.save_thresholds(model)
        for name, value in predictor.task.thresholds.items():
            click.echo(f"{name} {value:.4f}, stored with {model}", err=True)
    scores = predictor.evaluate(records, skips=skips, progress=is_watched())
    for note in predictor.task.take_notes():
        click.echo(note, err=True)
    if skips.count or skips.repaired:
        click.echo(skips.summary(), err=True)
    if as_json:
        click.echo(json.dumps(without_nan(scores), indent=2))
        return
    click.echo(show_scores(scores))
    if confusion:
        prefix = CONFUSED[predictor.task.name]
        labels = list(scores[f"{prefix}classes"])
        width = max(map(len, labels)) + 2
        click.echo(f"\nrows: true, columns: predicted ({', '.join(labels)})")
        for label, row in zip(labels, scores[f"{prefix}confusion"], strict=True):
            click.echo(f"{label:<{width}}" + "".join(f"{count:>8,}" for count in row))
