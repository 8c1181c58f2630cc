"""`minilm pretrain`: a language model from plain text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from minilm.cli.training import corpus_settings, run, training_options

if TYPE_CHECKING:
    from minilm.models.tasks import ForMaskedLM
    from minilm.recipes.runs import Recipe
    from minilm.training.distributed import Processes

ARCHITECTURES = ("bert", "distilbert", "albert")
# options of a fresh model, which a checkpoint has settled
SHAPE = (
    "model",
    "layers",
    "hidden_size",
    "heads",
    "intermediate_size",
    "positions",
    "dropout",
)


@click.command()
@click.option(
    "--model",
    type=click.Choice(ARCHITECTURES),
    default="bert",
    show_default=True,
    help="Architecture of a fresh model.",
)
@click.option("--layers", default=12, show_default=True, type=click.IntRange(min=1))
@click.option("--hidden-size", default=768, show_default=True, type=click.IntRange(min=1))
@click.option("--heads", default=12, show_default=True, type=click.IntRange(min=1))
@click.option("--intermediate-size", type=click.IntRange(min=1), help="Default: 4 hidden sizes.")
@click.option("--positions", default=512, show_default=True, type=click.IntRange(min=3))
@click.option("--dropout", default=0.1, show_default=True, type=click.FloatRange(0, 1))
@click.option(
    "--from", "start", metavar="MODEL", help="Start from a checkpoint, which also sets the shape."
)
@training_options(learning_rate=1e-4, schedule="polynomial", warmup=0.01)
def command(
    model: str,
    layers: int,
    hidden_size: int,
    heads: int,
    intermediate_size: int | None,
    positions: int,
    dropout: float,
    start: str | None,
    **options: Any,
) -> None:
    """Train a model to predict masked tokens.

    Reads a token store and leaves a checkpoint that minilm and transformers load. Interrupt it as
    you like: the same command goes on where it stopped, and ends with the same weights. Under
    torchrun it uses all processes. Defaults are BERT's; a step is far smaller than BERT's 128,000
    tokens, for machines that are.

    \b
    Example:
      minilm tokenize articles.txt --tokenizer DIR --output store
      minilm pretrain --corpus store --output bert-mini --layers 12 --hidden-size 256 --heads 4 \\
        --held-out 100 --epochs 1 --learning-rate 5e-4
    """
    given = click.get_current_context().get_parameter_source
    useless = [name for name in SHAPE if given(name) is ParameterSource.COMMANDLINE]
    if start is not None and useless:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise click.UsageError(f"--from brings a model with its own shape: leave out {names}.")
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": hidden_size,
        "num_attention_heads": heads,
        "intermediate_size": intermediate_size or 4 * hidden_size,
        "max_position_embeddings": positions,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }

    def build(_: Processes) -> Recipe:
        from minilm.checkpoints.hub import resolve
        from minilm.loader import load_masked_lm
        from minilm.recipes.runs import masked_lm
        from minilm.tokenization import Tokenizer

        corpus = corpus_settings(options)
        if start is None:
            return masked_lm(_fresh(model, shape, corpus.store), corpus)
        directory = resolve(start)
        return masked_lm(load_masked_lm(directory), corpus, Tokenizer.from_pretrained(directory))

    run(options, build)


def _fresh(model: str, shape: dict[str, Any], store: str | os.PathLike[str]) -> ForMaskedLM:
    from minilm.data.token_store import TokenStore
    from minilm.loader import CLASSES, STEMS
    from minilm.models.tasks import ForMaskedLM

    cls = CLASSES[f"{STEMS[model]}ForMaskedLM"]
    tokenizer = TokenStore.open(store).tokenizer()
    config = cls.config_class(
        **shape, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_token_id
    )
    fresh = cls(config)
    assert isinstance(fresh, ForMaskedLM)
    return fresh
