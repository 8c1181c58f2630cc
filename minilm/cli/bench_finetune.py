"""`minilm bench finetune`: fine-tuning a classifier, side by side with a straightforward loop."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from minilm.bench.contenders import read_base_config
from minilm.bench.distillation import computes_bfloat16
from minilm.bench.finetuning import (
    BATCH_SIZE,
    CONFIGS,
    FinetuningBenchSettings,
    bench_finetuning,
    random_texts,
    read_texts,
    save_start,
)
from minilm.bench.load import load_words
from minilm.bench.machine import machine_words
from minilm.bench.measure import DisagreementError
from minilm.bench.workload import SEED
from minilm.checkpoints.hub import resolve
from minilm.cli.bench_distill import PRECISIONS
from minilm.cli.help import Command
from minilm.cli.machine_load import extremes, warn_if_busy
from minilm.training.memory import keep_freed_memory

count = click.IntRange(min=1)


@click.command("finetune", cls=Command)
@click.option(
    "--model",
    default="minilm-l6",
    show_default=True,
    help=f"One of {', '.join(CONFIGS)} (random weights), a directory or a hub name.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Texts and labels, as `minilm finetune --task classification` reads them. Default: random "
    "ids with the lengths of SST-2.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="Precision of matrix products; auto = both where the processor computes in bfloat16.",
)
@click.option("--alone", is_flag=True, help="Measure minilm only; does not need transformers.")
@click.option(
    "--bucketed", is_flag=True, help="Also measure transformers with texts sorted by length."
)
@click.option(
    "--batches",
    default=8,
    show_default=True,
    type=count,
    help="Number of batches, one training step each.",
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
@click.option(
    "--seed",
    default=SEED,
    show_default=True,
    type=click.IntRange(min=0),
    help="Random seed of texts and weights.",
)
@click.option("--threads", type=count, help="Number of CPU threads. Default: torch's choice.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def finetune(
    ctx: click.Context,
    model: str,
    data: Path | None,
    dtype: str,
    alone: bool,
    bucketed: bool,
    batches: int,
    batch_size: int,
    rounds: int,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Fine-tune a classifier with minilm's engine and with a loop of transformers models, in turn.

    A step is forward, loss on the labels, backward, clipping and AdamW. Both sides have the same
    weights and the same texts, tokenised beforehand; minilm packs them, the loop pads every batch
    to its longest text. Losses and gradients are compared before anything is timed; if they
    differ, the exit code is 1. Rates count real tokens, not padding. Ratios are those of the
    seconds of each round: the median, and in brackets the lowest and the highest.

    \b
    Examples:
      minilm bench finetune --bucketed
        ...
        float32                          tokens/s  texts/s  s/step ...
          minilm ...                                         0.131 ...
          transformers ...                                   0.387 ...
          transformers-bucketed ...                          0.186 ...
        ...
      minilm bench finetune --model distilbert-base --batches 2 --rounds 3 --dtype both
      minilm bench finetune --model bert-base-uncased --data train.tsv
    """
    if data is not None and model in CONFIGS:
        raise click.UsageError("--data needs a --model that has a tokenizer: a directory or name.")
    if alone and bucketed:
        raise click.UsageError("--bucketed is a loop of transformers: leave out --alone.")
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()  # as `minilm finetune` does; here both sides have it
    if dtype == "auto":
        dtype = "both" if computes_bfloat16() else "float32"
    settings = FinetuningBenchSettings(
        precisions=PRECISIONS[dtype],
        loops=("minilm",) + ("transformers",) * (not alone) + ("transformers-bucketed",) * bucketed,
        rounds=rounds,
    )
    numbers = {"batches": batches, "batch_size": batch_size, "seed": seed}
    start = CONFIGS[model] if model in CONFIGS else Path(resolve(model))
    if data is None:
        config = read_base_config(start) if isinstance(start, Path) else start
        texts = random_texts(config, **numbers)
    else:
        assert isinstance(start, Path)
        texts = read_texts(data, start, **numbers)
    with tempfile.TemporaryDirectory() as temporary:
        save_start(start, texts.task, Path(temporary), seed)
        try:
            result = bench_finetuning(
                Path(temporary), texts, settings, lambda text: click.echo(text, err=True)
            )
        except DisagreementError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
    result["model"]["source"] = model
    result["workload"]["source"] = "lengths of SST-2, random ids" if data is None else str(data)
    warn_if_busy(result["machine"]["load"])
    click.echo(json.dumps(result, indent=2) if as_json else table(result))


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    model, machine, workload = result["model"], result["machine"], result["workload"]
    peaks = ", ".join(f"{peak:,.0f} in {name}" for name, peak in machine["peak_gflops"].items())
    lines = [
        f"{model['source']}: {model['model_type']}, layers {model['layers']}, hidden size "
        f"{model['hidden_size']}, vocabulary {model['vocab_size']:,}, labels {model['labels']}",
        f"{workload['source']}: {workload['texts']:,} texts, {workload['tokens']:,} tokens, the "
        f"longest {workload['longest']}; {workload['padding']:.0%} of a padded batch is padding",
        f"batches {workload['batches']} of {workload['batch_size']} texts, rounds "
        f"{workload['rounds']}, medians",
        f"{machine_words(machine)}, matrix products at GFLOP/s: {peaks}"
        + ("" if machine["computes_bfloat16"] else "; no bfloat16 arithmetic, it is emulated"),
        load_words(machine["load"]),
    ]
    for name, value in result["max_relative_difference"].items():
        lines.append(f"largest relative difference of losses and gradients: {value:.1e} in {name}")
    for precision in machine["peak_gflops"]:
        rows = {n: r for n, r in result["contenders"].items() if r["precision"] == precision}
        references = list(next(iter(rows.values()))["ratios"])
        heads = "".join(f"  {'x ' + name:<23}" for name in references)
        lines.append(
            f"\n{precision:<32}{'tokens/s':>9}{'texts/s':>9}{'s/step':>8}{'(rounds)':>18}{'padding':>9}"
            f"{'of peak':>9}{heads}".rstrip()
        )
        for name, row in rows.items():
            ratios = "".join(f"  {_ratio(row['ratios'][other]):<23}" for other in references)
            lines.append(
                f"  {name:<30}{row['tokens_per_second']:>9,.0f}{row['examples_per_second']:>9,.1f}"
                f"{row['seconds']:>8.3f}{extremes(row):>18}{row['padding']:>9.0%}{row['share_of_peak']:>9.0%}"
                f"{ratios}".rstrip()
            )
    return "\n".join(lines)


def _ratio(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f})"
