"""`minilm bench`: speed and memory, side by side with other engines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from minilm.bench.contenders import BASE_CONFIGS, CONTENDERS, PRECISIONS, save_random
from minilm.bench.load import load_words
from minilm.bench.machine import machine_words
from minilm.bench.measure import SHORT_TEXTS, Clock, Settings, bench_encode
from minilm.bench.workload import BATCH_SIZE, SEED, TEXTS
from minilm.checkpoints.hub import resolve
from minilm.cli import SuggestingGroup
from minilm.cli.bench_distill import distill
from minilm.cli.bench_exits import exits
from minilm.cli.bench_finetune import finetune
from minilm.cli.bench_pretrain import pretrain
from minilm.cli.help import Command
from minilm.cli.machine_load import warn_if_busy
from minilm.files.progress import counted

OWN = ("minilm", "minilm-packed")
WORKLOADS = {
    "arrival": "batches in arrival order",
    "sorted": "batches sorted by length",
    **{f"one_text_{n}": f"one text of {n} tokens" for n in SHORT_TEXTS},
    "training": "forward and backward, arrival order",
}
CLOCKS = {"wall": "wall-clock time", "cpu": "processor time of all threads"}
# how people call precisions -> their names here
NAMES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


class ListOf(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Names that are separated by commas."""

    name = "list"

    def __init__(self, names: Sequence[str], also: Mapping[str, str] | None = None) -> None:
        self.names = names
        self.also = also or {}

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.names)}],..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        found = []
        for name in filter(None, (part.strip() for part in value.split(","))):
            known = self.also.get(name, name)
            if known not in self.names:
                self.fail(f"{name!r} is not one of {', '.join(self.names)}.", param, ctx)
            found.append(known)
        return tuple(found)


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Measure speed and memory, side by side with other engines."""


command.add_command(distill)
command.add_command(exits)
command.add_command(finetune)
command.add_command(pretrain)


@command.command("encode", cls=Command)
@click.argument("model_argument", metavar="[MODEL]", required=False)
@click.option("--model", help="Another way to give MODEL. Default: distilbert-base.")
@click.option(
    "--precision",
    "--dtype",
    "precisions",
    type=ListOf(PRECISIONS, NAMES),
    multiple=True,
    default=("float32",),
    show_default="float32",
    help="Precision of the weights, for all contenders: float32 (fp32), bfloat16 (bf16) or int8; "
    "several are measured one after the other.",
)
@click.option(
    "--against",
    type=ListOf([name for name in CONTENDERS if name not in OWN]),
    multiple=True,
    help="Other engines to compare with, separated by commas. Ratios are relative to the first. "
    "One that is not installed, or does not run in a precision, is left out with a message; "
    "pip install 'minilm[bench]' installs all. Default: none.",
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
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="Clock of the times: wall = the time that a user waits; cpu = the processor time of all "
    "threads of this process, which other work on the machine disturbs less.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Number of CPU threads. Default: torch's choice."
)
@click.option(
    "--memory", is_flag=True, help="Also measure peak memory, each contender in its own process."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def encode(
    model_argument: str | None,
    model: str | None,
    precisions: tuple[tuple[str, ...], ...],
    against: tuple[tuple[str, ...], ...],
    texts: int,
    batch_size: int,
    seed: int,
    rounds: int,
    training_batches: int,
    clock: Clock,
    threads: int | None,
    memory: bool,
    as_json: bool,
) -> None:
    """Encode texts of realistic lengths with every contender in turn.

    MODEL is distilbert-base (the default), albert-base or bert-base, with random weights; a
    directory, or a hub name.

    The default texts are a fixed sample: 512 texts of 6 to 512 tokens, half of them under 30,
    in batches of 32, in arrival order and sorted by length; then one text of 8, of 32 and of 128
    tokens. Rates count real tokens, not padding. Before anything is timed, the states of every
    contender are compared with those that minilm computes in float32.

    Times are medians over rounds, and in brackets the quartiles. With --json they are seconds,
    and several precisions give {"runs": [...]}.

    \b
    Examples:
      minilm bench encode albert-base --against transformers
        ...
        batches in arrival order              tokens/s ...  x transformers
          minilm                                   855 ...  6.30
          transformers                             136 ...  1.00
        ...
      minilm bench encode --against transformers,onnxruntime,openvino --precision fp32,bf16,int8
    """
    if model is not None and model_argument is not None:
        raise click.UsageError("Give MODEL or --model, not both.")
    model = model or model_argument or "distilbert-base"
    if threads is not None:
        torch.set_num_threads(threads)
    others = tuple(dict.fromkeys(name for names in against for name in names))
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        if model in BASE_CONFIGS:
            save_random(BASE_CONFIGS[model](), directory, seed)
        else:
            directory = resolve(model)
        for precision in dict.fromkeys(name for names in precisions for name in names):
            settings = Settings(
                dtype=precision,
                names=(*OWN, *others),
                reference=others[0] if others else None,
                texts=texts,
                batch_size=batch_size,
                seed=seed,
                rounds=rounds,
                training_batches=training_batches,
                memory=memory,
                clock=clock,
            )
            result = bench_encode(directory, settings, lambda text: click.echo(text, err=True))
            result["model"]["source"] = model
            warn_if_busy(result["machine"]["load"])
            results.append(result)
            if not as_json:  # at once: a later precision may find that an engine is wrong
                click.echo(("" if len(results) == 1 else "\n") + table(result))
    if as_json:
        click.echo(json.dumps(results[0] if len(results) == 1 else {"runs": results}, indent=2))


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    workload, machine, model = result["workload"], result["machine"], result["model"]
    ratios = workload["padding_ratio"]
    lines = [
        f"{model['source']} ({model['model_type']}) {model['dtype']}; largest difference from "
        f"float32: {result['max_difference']:.1e}",
        f"{counted(workload['texts'], 'text')}, {counted(workload['tokens'], 'token')} in batches "
        f"of {workload['batch_size']}, padding {ratios['arrival']:.2f} in arrival order, "
        f"{ratios['sorted']:.2f} sorted; medians of {counted(workload['rounds'], 'round')}, "
        f"{CLOCKS[workload['clock']]}",
        f"{machine_words(machine)}, matrix products at {machine['peak_gflops']:,.0f} GFLOP/s",
        load_words(machine["load"]),
    ]
    lines += [f"left out: {name}: {why}" for name, why in result["skipped"].items()]
    for key, title in WORKLOADS.items():
        rows = {name: found[key] for name, found in result["contenders"].items() if key in found}
        if not rows:
            continue
        versus = f"x {result['reference']}" if result["reference"] else ""
        heading = f"\n{title:<36}{'tokens/s':>10}{'ms':>11}{'(quartiles)':>18}{'of peak':>9}"
        lines.append(f"{heading}  {versus}".rstrip())
        for name, row in rows.items():
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            lines.append(
                f"  {name:<34}{row['tokens_per_second']:>10,.0f}{1000 * row['seconds']:>11,.1f}"
                f"{_quartiles(row):>18}{row['share_of_peak']:>9.0%}  {ratio}".rstrip()
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


def _quartiles(row: Mapping[str, float]) -> str:
    low, high = 1000 * row["lower_quartile"], 1000 * row["upper_quartile"]
    return f"({low:,.1f}–{high:,.1f})"
