"""`minilm distill-sentences`: a small sentence encoder from a large one."""

from __future__ import annotations

from typing import Any

import click

from minilm.cli.help import Command
from minilm.cli.training import recipe_options, run
from minilm.recipes.sentences import SentenceDistillationRecipe


@click.command(cls=Command)
@recipe_options(SentenceDistillationRecipe)
def command(**options: Any) -> None:
    """Distil a small sentence encoder that reproduces the vectors of a large one.

    The student is an ALBERT with shared layers and factorised embeddings. The teacher, such as
    all-MiniLM-L6-v2, reads each sentence once. If a run is interrupted, the same command resumes
    it. Under torchrun it uses all processes.

    \b
    Example:
      minilm distill-sentences --teacher sentence-transformers/all-MiniLM-L6-v2 \\
        --texts sentences.txt --output sentence-mini --steps 900 --embedding-size 72 --held-out 200
        output           sentence-mini
        steps            900
        finished         True
        ...
    """
    run(SentenceDistillationRecipe, options)
