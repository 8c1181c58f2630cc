"""`minilm bench pretrain`: ALBERT's pretraining, side by side with a straightforward loop."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from minilm.bench.distillation import computes_bfloat16
from minilm.bench.load import load_words
from minilm.bench.machine import machine_words
from minilm.bench.pretraining import LOOPS, PretrainingSettings, bench_pretraining
from minilm.bench.workload import SEED
from minilm.cli.bench_distill import PRECISIONS
from minilm.cli.help import Command
from minilm.cli.machine_load import extremes, warn_if_busy
from minilm.config import AlbertConfig
from minilm.files.progress import counted
from minilm.models.albert import AlbertForPreTraining

count = click.IntRange(min=1)


@click.command("pretrain", cls=Command)
@click.option(
    "--hidden-size",
    default=768,
    show_default=True,
    type=count,
    help="Hidden size of the ALBERT model.",
)
@click.option(
    "--layers",
    default=12,
    show_default=True,
    type=count,
    help="Number of layers of the ALBERT model.",
)
@click.option(
    "--vocab-size",
    default=30000,
    show_default=True,
    type=count,
    help="Vocabulary size of the ALBERT model.",
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
    "--batches",
    default=8,
    show_default=True,
    type=count,
    help="Number of batches, of 16 texts each.",
)
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    type=count,
    help="Number of timing rounds; the median is reported.",
)
@click.option(
    "--seed",
    default=SEED,
    show_default=True,
    type=click.IntRange(min=0),
    help="Random seed of token ids, labels and weights.",
)
@click.option("--threads", type=count, help="Number of CPU threads. Default: torch's choice.")
@click.option(
    "--memory-tokens",
    type=count,
    metavar="N",
    help="Also measure peak memory for one step of N tokens, with and without gradient "
    "checkpointing. Default: not measured.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pretrain(
    hidden_size: int,
    layers: int,
    vocab_size: int,
    dtype: str,
    alone: bool,
    batches: int,
    rounds: int,
    seed: int,
    threads: int | None,
    memory_tokens: int | None,
    as_json: bool,
) -> None:
    """Take ALBERT's training steps with minilm's engine and with a transformers loop, in turn.

    A step is masked LM and sentence order, backward, clipping and AdamW, on random ids and weights.
    Losses and gradients of both sides are compared before anything is timed. Rates count real
    tokens, not padding.

    \b
    Examples:
      minilm bench pretrain
        ...
        8 batches of 16 texts, padding 3.1    tokens/s ...  x transformers
          minilm                                   555 ...            4.91
          transformers                             113 ...            1.00
        ...
      minilm bench pretrain --alone --layers 24 --batches 1 --memory-tokens 4096
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if dtype == "auto":
        dtype = "both" if computes_bfloat16() else "float32"
    settings = PretrainingSettings(
        precisions=PRECISIONS[dtype],
        loops=("minilm",) if alone else tuple(LOOPS),
        batches=batches,
        rounds=rounds,
        seed=seed,
        memory_tokens=memory_tokens,
    )
    config = AlbertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden_size // 64),
        intermediate_size=4 * hidden_size,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    with tempfile.TemporaryDirectory() as temporary:
        torch.manual_seed(seed)
        AlbertForPreTraining(config).save_pretrained(temporary)
        result = bench_pretraining(
            Path(temporary), settings, lambda text: click.echo(text, err=True)
        )
    warn_if_busy(result["machine"]["load"])
    click.echo(json.dumps(result, indent=2) if as_json else table(result))


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    model, machine, workload = result["model"], result["machine"], result["workload"]
    peaks = ", ".join(f"{peak:,.0f} in {name}" for name, peak in machine["peak_gflops"].items())
    lines = [
        f"ALBERT of {counted(model['layers'], 'layer')}, hidden size {model['hidden_size']}, "
        f"vocabulary {model['vocab_size']:,}; rounds {workload['rounds']}, medians",
        f"{machine_words(machine)}, matrix products at GFLOP/s: {peaks}",
        load_words(machine["load"]),
    ]
    for name, value in result["max_relative_difference"].items():
        lines.append(f"largest relative difference of losses and gradients: {value:.1e} in {name}")
    batches = counted(workload["batches"], "batch")
    title = f"{batches} of 16 texts, padding {workload['padding_ratio']:.1f}"
    lines.append(
        f"\n{title:<36}{'tokens/s':>10}{'s/step':>9}{'(rounds)':>18}{'of peak':>9}  x transformers"
    )
    for name, row in result["contenders"].items():
        ratio = "" if row["ratio"] is None else f"{row['ratio']:>16.2f}"
        lines.append(
            f"  {name:<34}{row['tokens_per_second']:>10,.0f}{row['seconds']:>9.2f}"
            f"{extremes(row):>18}{row['share_of_peak']:>9.0%}{ratio}"
        )
    memory = result.get("memory")
    if memory is not None:
        title = f"peak memory, a step of {memory['tokens']:,} tokens"
        lines.append(f"\n{title:<36}{'peak MB':>10}{'before MB':>11}{'s/step':>9}")
        names = {"without": "without", "with_checkpointing": "with"}
        for key, word in names.items():
            found = memory[key]
            lines.append(
                f"  {word + ' gradient checkpointing':<34}{found['peak'] / 1e6:>10,.0f}"
                f"{found['prepared'] / 1e6:>11,.0f}{found['seconds']:>9.2f}"
            )
    return "\n".join(lines)
