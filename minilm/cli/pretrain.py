"""`minilm pretrain`: a language model from plain text."""

from __future__ import annotations

from typing import Any

import click

from minilm.cli.help import Command
from minilm.cli.options import given_flags
from minilm.cli.training import recipe_options, run
from minilm.recipes.pretraining import ALBERT_SHAPE, PAIRS, SHAPE, PretrainingRecipe


@click.command(cls=Command)
@recipe_options(PretrainingRecipe)
def command(**options: Any) -> None:
    """Train a model to predict masked tokens, and with --objective also the order of segments.

    The command reads a token store and writes a checkpoint that minilm and transformers load. If a
    run is interrupted, the same command resumes it and ends with the same weights. Under torchrun
    it uses all processes. The default batch size of a step suits a small machine: BERT's paper has
    128,000 tokens in a step, ALBERT's two million.

    \b
    Examples:
      minilm tokenize articles.txt --tokenizer vocabulary --output store
      minilm pretrain --from bert-12 --corpus store --output first-bert --held-out 200 \\
        --max-length 128 --tokens-per-step 4096 --steps 3600 --learning-rate 1e-3
        output           first-bert
        steps            3,600
        finished         True
        masked loss      3.4270
        masked accuracy  0.4110
      minilm pretrain --corpus store --output bert-3 --layers 3 --hidden-size 256 --heads 4 \\
        --head-start --held-out 200 --epochs 1 --learning-rate 5e-4
      minilm pretrain --from bert-3 --layers 6 --corpus store --output bert-6 --epochs 1
      minilm pretrain --model albert --objective mlm+sop --masking ngrams --optimiser lamb \\
        --corpus store --output albert --layers 12 --hidden-size 256 --heads 4 \\
        --held-out 100 --epochs 1 --learning-rate 2e-3
    """
    _check_options(options["objective"], options["model"], options["start"], options["layers"])
    run(PretrainingRecipe, options)


def _check_options(objective: str, model: str, start: str | None, layers: int | None) -> None:
    """Refuses options that would have no effect, also where their value is the default."""
    if start is not None and (names := given_flags(*SHAPE)):
        raise click.UsageError(
            f"The checkpoint of --from sets the shape of the model: leave out {names}."
        )
    if (start is None or layers is None) and (names := given_flags("new_layers")):
        raise click.UsageError(f"{names} can be used with --from and --layers only.")
    if model != "albert" and (names := given_flags(*ALBERT_SHAPE)):
        raise click.UsageError(f"{names} can be used with --model albert only.")
    if objective == "mlm" and (names := given_flags(*PAIRS)):
        raise click.UsageError(
            f"{names} can be used with --objective mlm+sop or mlm+nsp only: mlm reads no pairs."
        )
    if objective == "mlm+nsp" and (names := given_flags("sop_mode")):
        raise click.UsageError(f"{names} can be used with --objective mlm+sop only.")
    if objective != "mlm" and start is None and model == "distilbert":
        raise click.UsageError(
            f"DistilBERT has no head for pairs: use --objective mlm instead of {objective}."
        )
