"""`minilm evaluate`: how good a fine-tuned model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from minilm.cli.finetune import show_scores
from minilm.cli.record_options import read, record_options
from minilm.data.records.base import Skips

# tasks with a confusion matrix: what the names of its scores begin with
CONFUSED = {"classification": "", "utterances": "intent_"}


@click.command()
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@record_options()
@click.option("--device", help="Device to run the model on, such as cpu or cuda. Default: the CPU.")
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    help="For models with an out-of-scope label: predictions with a lower confidence get that "
    "label.",
)
@click.option("--confusion", is_flag=True, help="Also print the confusion matrix.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    data: Path,
    min_confidence: float | None,
    confusion: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score MODEL, a fine-tuned checkpoint, on DATA, whose answers are known.

    \b
    Example:
      minilm evaluate sentiment dev.tsv
    """
    from minilm.tasks.prediction import Predictor

    skips = Skips(options["on_bad_record"])
    predictor = Predictor.from_pretrained(model, device=options["device"])
    set_confidence(predictor.task, min_confidence)
    if confusion and predictor.task.name not in CONFUSED:
        raise click.UsageError(f"--confusion: {predictor.task.name} has no confusion matrix.")
    scores = predictor.evaluate(read(data, options, skips), skips=skips)
    if skips.count or skips.repaired:
        click.echo(skips.summary(), err=True)
    if as_json:
        click.echo(json.dumps(scores, indent=2))
        return
    click.echo(show_scores(scores))
    if confusion:
        prefix = CONFUSED[predictor.task.name]
        labels = list(scores[f"{prefix}classes"])
        width = max(map(len, labels)) + 2
        click.echo(f"\nrows: true, columns: predicted ({', '.join(labels)})")
        for label, row in zip(labels, scores[f"{prefix}confusion"], strict=True):
            click.echo(f"{label:<{width}}" + "".join(f"{count:>8,}" for count in row))


def set_confidence(task: Any, least: float | None) -> None:
    """Sets the confidence below which a prediction is out of scope.

    Raises:
        click.UsageError: the model has no label for that.
    """
    if least is None:
        return
    if getattr(task, "out_of_scope", None) is None:
        raise click.UsageError(
            "--min-confidence: the model has no out-of-scope label (finetune --out-of-scope)."
        )
    task.min_confidence = least
