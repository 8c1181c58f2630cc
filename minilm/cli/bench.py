"""`minilm bench`: speed and memory, side by side with other engines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from minilm.bench.contenders import BASE_CONFIGS, CONTENDERS, save_random
from minilm.bench.measure import Settings, bench_encode
from minilm.bench.workload import BATCH_SIZE, SEED, TEXTS
from minilm.checkpoints.hub import resolve
from minilm.cli import SuggestingGroup
from minilm.cli.bench_distill import distill
from minilm.cli.bench_exits import exits
from minilm.cli.bench_finetune import finetune
from minilm.cli.bench_pretrain import pretrain
from minilm.cli.help import Command

OWN = ("minilm", "minilm-packed")
WORKLOADS = {
    "arrival": "batches in arrival order",
    "sorted": "batches sorted by length",
    "one_text": "one text of up to 32 tokens",
    "training": "forward and backward, arrival order",
}


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Measure speed and memory, side by side with other engines."""


command.add_command(distill)
command.add_command(exits)
command.add_command(finetune)
command.add_command(pretrain)


@command.command("encode", cls=Command)
@click.option(
    "--model",
    default="distilbert-base",
    show_default=True,
    help=f"One of {', '.join(BASE_CONFIGS)} (random weights), a directory or a hub name.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of the weights, for all contenders.",
)
@click.option(
    "--against",
    type=click.Choice([name for name in CONTENDERS if name not in OWN]),
    multiple=True,
    help="Another engine to compare with. May be given several times; ratios are relative to "
    "the first. Default: none.",
)
@click.option(
    "--texts",
    default=TEXTS,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of texts to encode.",
)
@click.option(
    "--batch-size",
    default=BATCH_SIZE,
    show_default=True,
    type=click.IntRange(min=1),
    help="Batch size in texts.",
)
@click.option(
    "--seed",
    default=SEED,
    show_default=True,
    type=click.IntRange(min=0),
    help="Random seed of text lengths, token ids and random weights.",
)
@click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of timing rounds; the median is reported.",
)
@click.option(
    "--training-batches",
    default=4,
    show_default=True,
    type=click.IntRange(min=0),
    help="Number of batches that also run forward and backward; 0 = none.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Number of CPU threads. Default: torch's choice."
)
@click.option(
    "--memory", is_flag=True, help="Also measure peak memory, each contender in its own process."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def encode(
    model: str,
    dtype: str,
    against: tuple[str, ...],
    texts: int,
    batch_size: int,
    seed: int,
    rounds: int,
    training_batches: int,
    threads: int | None,
    memory: bool,
    as_json: bool,
) -> None:
    """Encode texts of realistic lengths with every contender in turn.

    The default texts are the standard draw: 512 texts of 6 to 512 tokens, half of them under 30,
    in batches of 32, in arrival order and sorted by length. Rates count real tokens, not padding.

    \b
    Example:
      minilm bench encode --model albert-base --against transformers
        ...
        batches in arrival order              tokens/s ... x transformers
          minilm                                   855 ... 6.30
          transformers                             136 ... 1.00
        ...
    """
    if threads is not None:
        torch.set_num_threads(threads)
    names = (*OWN, *dict.fromkeys(against))
    settings = Settings(
        dtype=dtype,
        names=names,
        reference=against[0] if against else None,
        texts=texts,
        batch_size=batch_size,
        seed=seed,
        rounds=rounds,
        training_batches=training_batches,
        memory=memory,
    )
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        if model in BASE_CONFIGS:
            save_random(BASE_CONFIGS[model](), directory, seed)
        else:
            directory = resolve(model)
        result = bench_encode(directory, settings, lambda text: click.echo(text, err=True))
    result["model"]["source"] = model
    click.echo(json.dumps(result, indent=2) if as_json else table(result))


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    workload, machine, model = result["workload"], result["machine"], result["model"]
    ratios = workload["padding_ratio"]
    lines = [
        f"{model['source']} ({model['model_type']}) {model['dtype']}, torch {machine['torch']}, "
        f"{machine['threads']} threads, matrix products at {machine['peak_gflops']:,.0f} GFLOP/s",
        f"{workload['texts']} texts, {workload['tokens']:,} tokens in batches of "
        f"{workload['batch_size']}, padding {ratios['arrival']:.2f} in arrival order, "
        f"{ratios['sorted']:.2f} sorted; medians of {workload['rounds']} rounds",
        f"largest difference between contenders: {result['max_difference']:.1e}",
    ]
    for key, title in WORKLOADS.items():
        rows = {name: found[key] for name, found in result["contenders"].items() if key in found}
        if not rows:
            continue
        versus = f"x {result['reference']}" if result["reference"] else ""
        lines.append(f"\n{title:<36}{'tokens/s':>10}{'ms':>11}{'of peak':>9}  {versus}".rstrip())
        for name, row in rows.items():
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            lines.append(
                f"  {name:<34}{row['tokens_per_second']:>10,.0f}{1000 * row['seconds']:>11,.1f}"
                f"{row['share_of_peak']:>9.0%}  {ratio}".rstrip()
            )
    memory = {name: row["memory"] for name, row in result["contenders"].items() if "memory" in row}
    if memory:
        lines.append(
            f"\n{'peak memory, arrival order':<36}{'peak MB':>10}{'loaded MB':>11}"
            f"{'weights MB':>12}"
        )
        for name, found in memory.items():
            lines.append(
                f"  {name:<34}{found['peak'] / 1e6:>10,.0f}{found['loaded'] / 1e6:>11,.0f}"
                f"{found['weights'] / 1e6:>12,.1f}"
            )
    return "\n".join(lines)
