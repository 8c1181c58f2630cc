"""`minilm cost`: what models cost, from their configurations alone."""

from __future__ import annotations

import dataclasses
import json

import click

from minilm.cli.help import Command

# `minilm cost --help` needs no torch: these are written out, and a test compares them
HEADS = (
    "none",
    "masked-lm",
    "pretraining",
    "next-sentence",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
)
OPTIMISERS = ("adamw", "lamb", "muon")


@click.command(cls=Command)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--head",
    type=click.Choice(HEADS),
    default="none",
    show_default=True,
    help="Head on top of the encoder; none = the encoder with its pooler.",
)
@click.option(
    "--length",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Sequence length in tokens.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Batch size in sequences, for the activations.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Precision of the stored weights.",
)
@click.option(
    "--optimiser",
    type=click.Choice(OPTIMISERS),
    default="adamw",
    show_default=True,
    help="Optimiser whose state is counted, in float32: AdamW and LAMB keep two moments of every "
    "parameter, Muon one of the weight matrices of layers and two of all others.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with bytes instead of MB.")
def command(
    models: tuple[str, ...],
    head: str,
    length: int,
    batch: int,
    dtype: str,
    optimiser: str,
    as_json: bool,
) -> None:
    """Count parameters, operations and training memory of every part of a MODEL.

    No weights are needed, only the configuration.

    MODEL is the name of a published model, with or without its owner, a directory or a config.json.
    The network is not used. For several models, a comparison is printed first.

    Activations are what the forward pass keeps for the backward pass, in float32 on a CPU, with the
    dropout of the configuration: dropout on attention maps keeps the maps. The masked-LM head works
    at 15 % of the tokens. The formula is in the documentation of `minilm.cost`.

    \b
    Example:
      minilm cost albert-base-v2 bert-base-uncased --head pretraining
        head pretraining, length 128, batch 32, dtype float32, optimiser adamw
                                parameters   if unshared      MFLOP     file ...
                                                            a token       MB ...
        albert-base-v2          11,813,810    89,780,402     175.98    47.26 ...
        bert-base-uncased      110,106,428   110,106,428     181.81   440.45 ...
        ...
    """
    from minilm.costs.counting import cost, table
    from minilm.costs.presets import find_config

    found = [
        (
            model,
            cost(
                find_config(model),
                length=length,
                batch=batch,
                head=head,
                dtype=dtype,
                optimiser=optimiser,
            ),
        )
        for model in models
    ]
    settings = {
        "head": head,
        "length": length,
        "batch": batch,
        "dtype": dtype,
        "optimiser": optimiser,
    }
    if as_json:
        results = [
            {
                "model": model,
                **dataclasses.asdict(counted.total),
                "components": {
                    name: dataclasses.asdict(part) for name, part in counted.parts.items()
                },
            }
            for model, counted in found
        ]
        click.echo(json.dumps({**settings, "models": results}, indent=2))
        return
    click.echo(", ".join(f"{name} {value}" for name, value in settings.items()))
    if len(found) > 1:
        click.echo("\n" + table([(model, counted.total) for model, counted in found]))
    for model, counted in found:
        click.echo(f"\n{model}\n{counted}")
        if counted.unshared > counted.parameters:
            saved = 1 - counted.parameters / counted.unshared
            click.echo(
                f"Its layers share weights: {100 * saved:.0f} % fewer parameters than with "
                "weights of their own, the same work and activations. Smaller, not faster."
            )
