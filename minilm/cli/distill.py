"""`minilm distill`: a small student from a large teacher."""

from __future__ import annotations

from typing import Any

import click

from minilm.cli.help import Command
from minilm.cli.options import given_flags, refuse_idle
from minilm.cli.training import recipe_options, run
from minilm.recipes.distillation import DistillationRecipe

# options -> the terms of the loss that read them
_NEEDS = {
    "temperature": ("kl",),
    "positions": ("kl", "mse"),
    "layer_map": ("hidden_cosine", "hidden_mse", "attention", "relations"),
    "relation_kinds": ("relations",),
    "relation_heads": ("relations",),
}


@click.command(cls=Command)
@recipe_options(DistillationRecipe)
def command(**options: Any) -> None:
    """Distil a student from a teacher: by default a DistilBERT from a BERT, with the triple loss.

    The defaults are those of the paper and its released code, except for the batch size of a step
    (there up to 4,000 sequences). A student of another architecture or shape is initialised from
    those parts of its teacher that fit, and the command prints which: with --student albert the
    student shares its layers and factorises its embeddings. If a run is interrupted, the same
    command resumes it. Under torchrun it uses all processes.

    \b
    Examples:
      minilm distill --teacher bert-mini --corpus store --output distilbert-mini --held-out 200 \\
        --max-length 128 --temperature 1 --kl 1 --mlm 0.2 --cosine 0.2 --tokens-per-step 2048 \\
        --steps 2400 --learning-rate 1e-3 --train-positions
        output           distilbert-mini
        steps            2,400
        finished         True
        masked loss      3.3360
        masked accuracy  0.4298
        ...

    An ALBERT: 3 layers, applied 4 times, and embeddings 128 wide.

    \b
      minilm distill --teacher bert-base-uncased --corpus store --output shared \\
        --student albert --inner-layers 3 --layers 4 --held-out 200 --epochs 3

    Progressive sharing: 4 groups of 3 layers first, averaged half-way.

    \b
      minilm distill --teacher bert-base-uncased --corpus store --output apart \\
        --student albert --inner-layers 3 --layers 4 --groups 4 --held-out 200 --epochs 1
      minilm convert apart tied --share all
      minilm distill --teacher bert-base-uncased --corpus store --output shared \\
        --from tied --held-out 200 --epochs 2
    """
    refuse_idle(options, _NEEDS)
    if options["student"] != "distilbert" and (flag := given_flags("fold_token_types")):
        raise click.UsageError(f"{flag} can be used with --student distilbert only.")
    taken = ["fold_token_types", "copy_mlm_transform"]
    if options["freeze_positions"]:
        taken.append("freeze_positions")
    if options["from_scratch"] and (names := given_flags(*taken)):
        raise click.UsageError(
            f"--from-scratch takes no weights of the teacher: leave out {names}."
        )
    run(DistillationRecipe, options)
