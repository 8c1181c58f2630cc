"""`minilm bench exits`: score and speed of early exit, against all layers for every text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch

from minilm.bench.exits import (
    BATCH_SIZE,
    FULL,
    PATIENCE,
    THRESHOLDS,
    ExitBenchSettings,
    bench_exits,
)
from minilm.bench.load import load_words
from minilm.bench.machine import machine_words
from minilm.bench.measure import DisagreementError
from minilm.checkpoints.hub import resolve
from minilm.cli.help import Command
from minilm.cli.machine_load import warn_if_busy
from minilm.cli.record_options import read, record_options
from minilm.data.records.base import Skips

count = click.IntRange(min=1)


@click.command("exits", cls=Command)
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@record_options()
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(0, 1),
    multiple=True,
    help="A text leaves as soon as its answer has a higher probability than this; may be given "
    f"several times. Default: {', '.join(map(str, THRESHOLDS))}.",
)
@click.option(
    "--patience",
    type=count,
    multiple=True,
    help="A text leaves when its answer has stayed the same this many times in a row; may be given "
    f"several times. Default: {', '.join(map(str, PATIENCE))}.",
)
@click.option(
    "--exit-tolerance",
    "tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="For models that predict a number: difference below which two numbers count as the same "
    "answer. Default: none; --patience is then not measured for such models.",
)
@click.option(
    "--depth",
    "depths",
    type=count,
    multiple=True,
    help="For comparison: all texts leave after this many layers; may be given several times. "
    "Default: a quarter, a half and three quarters of all.",
)
@click.option(
    "--texts", type=count, metavar="N", help="Number of records to measure with. Default: all."
)
@click.option(
    "--batch-size", default=BATCH_SIZE, show_default=True, type=count, help="Batch size in texts."
)
@click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=count,
    help="Number of timing rounds; the median is reported.",
)
@click.option("--threads", type=count, help="Number of CPU threads. Default: torch's choice.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def exits(
    model: str,
    data: Path,
    thresholds: tuple[float, ...],
    patience: tuple[int, ...],
    tolerance: float | None,
    depths: tuple[int, ...],
    texts: int | None,
    batch_size: int,
    rounds: int,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure early exit of MODEL, fine-tuned with --exits, on labelled DATA.

    Every rule and full depth take the same batches in turn, in the order of DATA. The table shows
    the score, how many layers a text went through on average, texts a second, and the speed-up over
    full depth: the median of the rounds, and in brackets the lowest and the highest. Thresholds
    that were chosen on DATA flatter the score on it: measure the chosen one on other data.

    \b
    Examples:
      minilm finetune --task classification --model albert-mini --format glue:sst2 \\
        --train train.tsv --dev dev.tsv --epochs 2 --learning-rate 3e-4 --exits \\
        --evaluate-every 500 --output sentiment
      minilm bench exits sentiment dev.tsv --format glue:sst2 --threshold 0.9 --patience 2
        ...
                                accuracy   layers    same   texts/s   x full depth
        full depth                0.8200     6.00  100.0%     548.6   1.00 (1.00 to 1.00)
        threshold 0.9             0.8211     2.33   99.0%     922.3   1.69 (1.68 to 1.70)
        patience 2                0.8200     3.23   98.4%     842.7   1.54 (1.53 to 1.54)
        ...
    """
    if threads is not None:
        torch.set_num_threads(threads)
    skips = Skips(options["on_bad_record"])
    records = read(data, options, skips)
    settings = ExitBenchSettings(
        thresholds=thresholds or THRESHOLDS,
        patience=patience or PATIENCE,
        tolerance=tolerance,
        depths=depths or None,
        batch_size=batch_size,
        rounds=rounds,
    )
    try:
        result = bench_exits(
            Path(resolve(model)),
            records[:texts],
            settings,
            skips=skips,
            columns=options,
            say=lambda text: click.echo(text, err=True),
        )
    except DisagreementError as error:
        click.echo(f"error: {error}", err=True)
        click.get_current_context().exit(1)
    if skips.count or skips.repaired:
        click.echo(skips.summary(), err=True)
    result["model"]["source"], result["workload"]["source"] = model, str(data)
    warn_if_busy(result["machine"]["load"])
    click.echo(json.dumps(result, indent=2) if as_json else table(result))


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    model, workload, machine = result["model"], result["workload"], result["machine"]
    rows = result["rules"]
    metric = result["metric"].replace("_", " ")
    lines = [
        f"{model['source']}: {model['model_type']}, layers applied {model['applications']}, "
        f"parameters {model['parameters']:,}, of all exits {model['exit_parameters']:,}",
        f"{workload['source']}: {workload['texts']:,} texts, {workload['tokens']:,} tokens, in "
        f"batches of {workload['batch_size']}; rounds {workload['rounds']}",
        machine_words(machine),
        load_words(machine["load"]),
        "",
        f"{'':<18}{metric:>14}{'layers':>9}{'same':>8}{'texts/s':>10}   x {FULL}",
    ]
    for name, row in rows.items():
        ratio = row["speedup"]
        same = "" if row["same_answers"] is None else f"{row['same_answers']:.1%}"
        lines.append(
            f"{name:<18}{row['score']:>14.4f}{row['mean_applications']:>9.2f}{same:>8}"
            f"{row['texts_per_second']:>10,.1f}   {ratio['median']:.2f} "
            f"({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
        )
    best = result["fastest_at_full_score"]
    lines.append("")
    if best is None:
        lines.append(f"no rule keeps the {metric} of full depth on these texts")
    else:
        ratio = rows[best]["speedup"]["median"]
        lines.append(f"fastest that keeps the {metric} of full depth: {best}, {ratio:.2f} times")
    return "\n".join(lines)
