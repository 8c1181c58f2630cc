"""`minilm pretrain`: a language model from plain text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from minilm.cli.training import corpus_settings, run, training_options

if TYPE_CHECKING:
    from minilm.models.pretrained import PretrainedModel
    from minilm.recipes.runs import Recipe
    from minilm.training.distributed import Processes

ARCHITECTURES = ("bert", "distilbert", "albert")
OBJECTIVES = {"mlm": "single", "mlm+sop": "sentence_order", "mlm+nsp": "next_sentence"}
SHARING = ("all", "attention", "feed-forward", "none")
# options of a fresh model, which a checkpoint has settled
ALBERT_SHAPE = ("embedding_size", "sharing", "feed_forward_dropout")
SHAPE = (
    "model",
    "hidden_size",
    "heads",
    "intermediate_size",
    "positions",
    "dropout",
    "head_start",
    *ALBERT_SHAPE,
)


def _sharing(_: click.Context, __: click.Parameter, value: str) -> str | int:
    if value in SHARING:
        return value.replace("-", "_")
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise click.BadParameter(
        f"{value!r} is neither one of {', '.join(SHARING)} nor a number of layers."
    )


@click.command()
@click.option(
    "--objective",
    type=click.Choice(list(OBJECTIVES)),
    default="mlm",
    show_default=True,
    help="Pretraining objective: masked language modelling alone (mlm), with sentence-order "
    "prediction (mlm+sop, ALBERT) or with next-sentence prediction (mlm+nsp, BERT).",
)
@click.option(
    "--model",
    type=click.Choice(ARCHITECTURES),
    default="bert",
    show_default=True,
    help="Architecture of a fresh model.",
)
@click.option(
    "--layers",
    type=click.IntRange(min=1),
    help="Number of layers. Default: 12. With --from: stack the layers of the checkpoint "
    "again and again until there are this many (progressive stacking).",
)
@click.option(
    "--hidden-size",
    default=768,
    show_default=True,
    type=click.IntRange(min=1),
    help="Hidden size: the width of the token states.",
)
@click.option(
    "--heads",
    default=12,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of attention heads of a layer.",
)
@click.option(
    "--intermediate-size",
    type=click.IntRange(min=1),
    help="Inner width of the feed-forward blocks. Default: 4 times the hidden size.",
)
@click.option(
    "--positions",
    default=512,
    show_default=True,
    type=click.IntRange(min=3),
    help="Number of position embeddings: the longest sequence, in tokens, that the model can read.",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1),
    help="Dropout of hidden states and attention probabilities. Default: 0.1; for ALBERT 0, "
    "as in its version 2.",
)
@click.option(
    "--embedding-size",
    default=128,
    show_default=True,
    type=click.IntRange(min=1),
    help="ALBERT: width of the factorised word embeddings.",
)
@click.option(
    "--sharing",
    metavar=f"[{'|'.join(SHARING)}|N]",
    default="all",
    show_default=True,
    callback=_sharing,
    help="ALBERT: the parameters that all layers share; with a number N, groups of N "
    "successive layers share all their parameters.",
)
@click.option(
    "--feed-forward-dropout",
    is_flag=True,
    help="ALBERT: also apply dropout to the output of the feed-forward block, as Google's "
    "code does.",
)
@click.option(
    "--head-start",
    "--warm-start",
    is_flag=True,
    help="Warm-start a fresh model from statistics of the corpus: word vectors as embeddings, "
    "word frequencies as output bias, and some attention heads that look at neighbouring "
    "tokens. Saves the plateau of the first thousands of steps.",
)
@click.option(
    "--from",
    "start",
    metavar="MODEL",
    help="Start from a checkpoint, which also sets architecture and sizes.",
)
@click.option(
    "--gradient-checkpointing",
    is_flag=True,
    help="Recompute the activations of each layer in the backward pass: less memory, about a "
    "third more time.",
)
@click.option(
    "--sop-mode",
    type=click.Choice(["pure", "google"]),
    default="pure",
    show_default=True,
    help="Pairs for mlm+sop: as in the paper (pure), or as in the released code, which pairs "
    "leftover segments with random ones (google).",
)
@click.option(
    "--short-sequences",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Fraction of documents whose pairs are cut to a shorter length than --max-length, "
    "drawn at random.",
)
@training_options(learning_rate=1e-4, schedule="polynomial", warmup=0.01)
def command(
    objective: str,
    start: str | None,
    gradient_checkpointing: bool,
    sop_mode: str,
    short_sequences: float,
    **options: Any,
) -> None:
    """Train a model to predict masked tokens, and perhaps the order of two segments.

    Reads a token store and leaves a checkpoint that minilm and transformers load. Interrupt it as
    you like: the same command goes on where it stopped, and ends with the same weights. Under
    torchrun it uses all processes. A step is far smaller than BERT's 128,000 or ALBERT's two
    million tokens, for machines that are.

    \b
    Examples:
      minilm tokenize articles.txt --tokenizer DIR --output store
      minilm pretrain --corpus store --output bert-mini --layers 12 --hidden-size 256 --heads 4 \\
        --held-out 100 --epochs 1 --learning-rate 5e-4
      minilm pretrain --from bert-3 --layers 6 --corpus store --output bert-6 --epochs 1
      minilm pretrain --model albert --objective mlm+sop --masking ngrams --optimiser lamb \\
        --corpus store --output albert-mini --layers 12 --hidden-size 256 --heads 4 \\
        --held-out 100 --epochs 1 --learning-rate 2e-3
    """
    _check_options(objective, options["model"], start)
    segments = OBJECTIVES[objective]

    def build(_: Processes) -> Recipe:
        from minilm.checkpoints.hub import resolve
        from minilm.compression.growth import deepen
        from minilm.loader import load_masked_lm, load_pretraining
        from minilm.models.tasks import ForMaskedLM, ForPreTraining
        from minilm.recipes.corpus import with_warm_start
        from minilm.recipes.runs import masked_lm, pretraining
        from minilm.tokenization.tokenizer import Tokenizer
        from minilm.training.memory import hand_back_freed_memory

        corpus = corpus_settings(
            options, segments=segments, pair_mode=sop_mode, short_probability=short_sequences
        )
        tokenizer = None
        if start is None:
            model = _fresh(options, corpus.store, pairs=segments != "single")
            if options["head_start"]:
                click.echo("counting word vectors", err=True)
                with_warm_start(model, corpus)
        else:
            directory = resolve(start)
            tokenizer = Tokenizer.from_pretrained(directory)
            model = (load_masked_lm if segments == "single" else load_pretraining)(directory)
            if options["layers"] is not None:
                model = deepen(model, options["layers"])
        if gradient_checkpointing:
            hand_back_freed_memory()
            model.gradient_checkpointing_enable()
        if isinstance(model, ForMaskedLM):
            return masked_lm(model, corpus, tokenizer)
        assert isinstance(model, ForPreTraining)
        return pretraining(model, corpus, tokenizer)

    run(options, build)


def _check_options(objective: str, model: str, start: str | None) -> None:
    """Refuses options that would have no effect."""
    given = click.get_current_context().get_parameter_source

    def useless(*names: str) -> str:
        found = [name for name in names if given(name) is ParameterSource.COMMANDLINE]
        return ", ".join(f"--{name.replace('_', '-')}" for name in found)

    if start is not None and (names := useless(*SHAPE)):
        raise click.UsageError(f"--from brings a model with its own shape: leave out {names}.")
    if model != "albert" and (names := useless(*ALBERT_SHAPE)):
        raise click.UsageError(f"{names}: of --model albert only.")
    if objective == "mlm" and (names := useless("sop_mode", "short_sequences")):
        raise click.UsageError(f"{names}: of pairs only, so not of --objective mlm.")
    if objective == "mlm+nsp" and (names := useless("sop_mode")):
        raise click.UsageError(f"{names}: of --objective mlm+sop only.")
    if objective != "mlm" and start is None and model == "distilbert":
        raise click.UsageError(
            f"DistilBERT has no head for pairs: --objective mlm, not {objective}."
        )


def _fresh(
    options: Mapping[str, Any], store: str | os.PathLike[str], *, pairs: bool
) -> PretrainedModel:
    from minilm.config import AlbertConfig
    from minilm.data.token_store import TokenStore
    from minilm.loader import CLASSES, STEMS

    cls = CLASSES[f"{STEMS[options['model']]}{'ForPreTraining' if pairs else 'ForMaskedLM'}"]
    tokenizer = TokenStore.open(store).tokenizer()
    shape = {
        "num_hidden_layers": options["layers"] or 12,
        "hidden_size": options["hidden_size"],
        "num_attention_heads": options["heads"],
        "intermediate_size": options["intermediate_size"] or 4 * options["hidden_size"],
        "max_position_embeddings": options["positions"],
    }
    if options["dropout"] is not None:
        shape["hidden_dropout_prob"] = shape["attention_probs_dropout_prob"] = options["dropout"]
    config = cls.config_class(
        **shape, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_token_id
    )
    if isinstance(config, AlbertConfig):
        config = config.replace(
            embedding_size=options["embedding_size"],
            feed_forward_dropout=options["feed_forward_dropout"],
        ).with_sharing(options["sharing"])
    return cls(config)
