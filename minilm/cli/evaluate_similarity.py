"""`minilm evaluate-similarity`: sentence vectors against people's judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from minilm.cli.finetune import show_scores
from minilm.cli.help import Command
from minilm.cli.model_options import loading, model_options
from minilm.cli.record_options import read, record_options
from minilm.data.records.base import Skips
from minilm.files.json_file import without_nan
from minilm.files.progress import is_watched


@click.command(cls=Command)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@record_options()
@click.option(
    "--num-layers",
    type=click.IntRange(min=1),
    help="Number of layers of the model to use, from the first one on, as a control. Default: all.",
)
@model_options()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, data: Path, num_layers: int | None, as_json: bool, **options: Any) -> None:
    """Score the sentence vectors of MODEL on pairs of texts with judgements of similarity.

    MODEL is a sentence encoder; nothing is trained. Each record of DATA has two texts and a number
    that says how similar they are, such as in STS-B. The command prints Spearman's and Pearson's
    correlation of these numbers with the cosines of the vectors.

    \b
    Examples:
      minilm evaluate-similarity sentence-mini dev.tsv --format glue:stsb
        spearman                    0.8390
        ...
        pairs                        1,500
      minilm evaluate-similarity teacher dev.tsv --format glue:stsb --num-layers 3
    """
    from minilm.sentence.encoder import SentenceEncoder
    from minilm.sentence.evaluation import similarity_scores
    from minilm.tasks.texts import Regression

    skips = Skips(options["on_bad_record"])
    encoder = SentenceEncoder.from_pretrained(
        model, num_hidden_layers=num_layers, **loading(options)
    )
    records = read(data, options, skips)
    task = Regression.learn(records, encoder.max_length, options)
    examples = task.examples(records, skips, labelled=True)
    for note in task.take_notes():
        click.echo(note, err=True)
    if skips.count or skips.repaired:
        click.echo(skips.summary(), err=True)
    pairs = [(each.text, each.pair, each.label) for each in examples if each.pair is not None]
    if len(pairs) < max(len(examples), 2):
        raise click.UsageError(
            f"{data} has {len(pairs)} pairs among {len(examples)} records: expected two texts and "
            "a score in each. Name the columns: --text-column A --text-column B --label-column C."
        )
    first, second, gold = (list(values) for values in zip(*pairs, strict=True))
    scores = similarity_scores(encoder, first, second, gold, progress=is_watched())
    scores = {**scores, "pairs": len(pairs)}
    if as_json:
        click.echo(json.dumps(without_nan(scores), indent=2))
    else:
        click.echo(show_scores(scores))
