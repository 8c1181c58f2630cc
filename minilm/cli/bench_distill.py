"""`minilm bench distill`: a distillation step, side by side with a straightforward loop."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from minilm.bench.distillation import (
    WORKLOADS,
    DistillationSettings,
    bench_distillation,
    computes_bfloat16,
)
from minilm.bench.distillation_loops import LOOPS, save_models
from minilm.bench.load import load_words
from minilm.bench.machine import machine_words
from minilm.bench.workload import SEED
from minilm.cli.help import Command
from minilm.cli.machine_load import extremes, warn_if_busy
from minilm.config import BertConfig
from minilm.files.progress import counted
from minilm.models.bert import BertForMaskedLM
from minilm.training.settings import Precision

PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "float32": ("float32",),
    "bfloat16": ("bfloat16",),
    "both": ("float32", "bfloat16"),
}
TITLES = {
    "published": "one batch of 16 texts",
    "eight": "eight batches of 16 texts",
}
count = click.IntRange(min=1)


@click.command("distill", cls=Command)
@click.option(
    "--teacher",
    help="Teacher: a BERT with a masked-LM head, as a directory or hub name. Default: random "
    "weights.",
)
@click.option(
    "--hidden-size",
    default=768,
    show_default=True,
    type=count,
    help="Hidden size of a random teacher.",
)
@click.option(
    "--layers",
    default=12,
    show_default=True,
    type=count,
    help="Number of layers of a random teacher.",
)
@click.option(
    "--vocab-size",
    default=30522,
    show_default=True,
    type=count,
    help="Vocabulary size of a random teacher.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="Precision of matrix products; auto = both where the processor computes in bfloat16.",
)
@click.option(
    "--workload",
    type=click.Choice([*WORKLOADS, "both"]),
    default="both",
    show_default=True,
    help="Texts to train on: one batch of 683 tokens, padded six-fold (published), or eight "
    "batches in a row (eight).",
)
@click.option("--alone", is_flag=True, help="Measure minilm only; does not need transformers.")
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
    help="Random seed of token ids, labels and random weights.",
)
@click.option("--threads", type=count, help="Number of CPU threads. Default: torch's choice.")
@click.option(
    "--memory", is_flag=True, help="Also measure peak memory, each contender in its own process."
)
@click.option(
    "--memory-tokens",
    type=count,
    metavar="N",
    help="Also measure minilm's peak memory for one step of N tokens. Default: not measured.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def distill(
    teacher: str | None,
    hidden_size: int,
    layers: int,
    vocab_size: int,
    dtype: str,
    workload: str,
    alone: bool,
    rounds: int,
    seed: int,
    threads: int | None,
    memory: bool,
    memory_tokens: int | None,
    as_json: bool,
) -> None:
    """Take distillation steps with minilm's engine and with a loop of transformers models, in turn.

    A step is the teacher's forward pass, the student's, the published loss (5 KL over all attended
    tokens, 2 masked LM, 1 cosine, temperature 2), backward, clipping and AdamW. The student has
    half the teacher's layers. Both sides have the same weights, and their losses and gradients are
    compared before anything is timed. Rates count real tokens, not padding.

    The default sizes, BERT-base to DistilBERT-base, need about 12 GB of memory and, on two cores,
    minutes for each round: the straightforward loop is slow.

    \b
    Examples:
      minilm bench distill --dtype float32 --rounds 1
        ...
        ..., padding 6.0                      tokens/s   s/step ...  x transformers
          minilm                                   148     4.60 ...            5.78
          transformers                              26    26.60 ...            1.00
        ...
      minilm bench distill --memory --memory-tokens 16384
      minilm bench distill --hidden-size 256 --layers 4 --rounds 1
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if dtype == "auto":
        dtype = "both" if computes_bfloat16() else "float32"
    settings = DistillationSettings(
        precisions=PRECISIONS[dtype],
        loops=("minilm",) if alone else tuple(LOOPS),
        workloads=tuple(WORKLOADS) if workload == "both" else (workload,),
        rounds=rounds,
        seed=seed,
        memory=memory,
        memory_tokens=memory_tokens,
    )
    with tempfile.TemporaryDirectory() as temporary:
        if teacher is None:
            config = BertConfig(
                vocab_size=vocab_size,
                hidden_size=hidden_size,
                num_hidden_layers=layers,
                num_attention_heads=max(1, hidden_size // 64),
                intermediate_size=4 * hidden_size,
            )
            torch.manual_seed(seed)
            model = BertForMaskedLM(config)
        else:
            model = BertForMaskedLM.from_pretrained(teacher)
        save_models(model, Path(temporary), seed)
        del model
        result = bench_distillation(
            Path(temporary), settings, lambda text: click.echo(text, err=True)
        )
    result["models"]["source"] = teacher or "random weights"
    warn_if_busy(result["machine"]["load"])
    click.echo(json.dumps(result, indent=2) if as_json else table(result))


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    models, machine = result["models"], result["machine"]
    teacher, student = models["teacher"], models["student"]
    peaks = ", ".join(f"{peak:,.0f} in {name}" for name, peak in machine["peak_gflops"].items())
    differences = ", ".join(
        f"{value:.1e} in {name}" for name, value in result["max_relative_difference"].items()
    )
    lines = [
        f"teacher {counted(teacher['layers'], 'layer')}, student {student['layers']}, hidden size "
        f"{teacher['hidden_size']}, vocabulary {teacher['vocab_size']:,} ({models['source']}); "
        f"rounds {result['rounds']}, medians",
        f"{machine_words(machine)}, matrix products at GFLOP/s: {peaks}"
        + ("" if machine["computes_bfloat16"] else "; no bfloat16 arithmetic, it is emulated"),
        load_words(machine["load"]),
    ]
    if differences:
        lines.append(f"largest relative difference of losses and gradient norms: {differences}")
    for key, workload in result["workloads"].items():
        title = f"{TITLES[key]}, padding {workload['padding_ratio']:.1f}"
        rows = _rows(result, key)
        references = list(next(iter(rows.values()))["ratios"])
        heads = "".join(f"  x {name}" for name in references)
        lines.append(
            f"\n{title:<36}{'tokens/s':>10}{'s/step':>9}{'(rounds)':>18}{'GFLOP/s':>9}"
            f"{'of peak':>9}{heads}"
        )
        for name, row in rows.items():
            ratios = "".join(f"{row['ratios'][other]:>{len(other) + 4}.2f}" for other in references)
            lines.append(
                f"  {name:<34}{row['tokens_per_second']:>10,.0f}{row['seconds']:>9.2f}"
                f"{extremes(row):>18}{row['gflops']:>9,.1f}{row['share_of_peak']:>9.0%}{ratios}"
            )
    for key in ("memory", "memory_of_tokens"):
        rows = _rows(result, key)
        if not rows:
            continue
        tokens = next(iter(rows.values()))["tokens"]
        title = f"peak memory, a step of {tokens:,} tokens"
        lines.append(f"\n{title:<36}{'peak MB':>10}{'loaded MB':>11}")
        for name, row in rows.items():
            lines.append(f"  {name:<34}{row['peak'] / 1e6:>10,.0f}{row['loaded'] / 1e6:>11,.0f}")
        if key == "memory_of_tokens":
            logits = 4 * tokens * teacher["vocab_size"] / 1e6
            lines.append(f"  {'(logits of one model in float32)':<34}{logits:>10,.0f}")
    return "\n".join(lines)


def _rows(result: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    return {name: found[key] for name, found in result["contenders"].items() if key in found}
