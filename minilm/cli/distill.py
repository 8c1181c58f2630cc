"""`minilm distill`: a small student from a large teacher."""

from __future__ import annotations

from typing import Any

import click

from minilm.cli.training import recipe_options, run
from minilm.recipes.distillation import DistillationRecipe


@click.command()
@recipe_options(DistillationRecipe)
def command(**options: Any) -> None:
    """Distil DistilBERT from BERT: every other layer of the teacher, and the triple loss.

    Defaults are those of the paper and its released code, except for the size of a step (there up
    to 4,000 sequences). The same command goes on after an interruption; under torchrun it uses all
    processes.

    \b
    Example:
      minilm tokenize articles.txt --tokenizer bert-base-uncased --output store
      minilm distill --teacher bert-base-uncased --corpus store --output student \\
        --held-out 200 --epochs 3
    """
    run(DistillationRecipe, options)
