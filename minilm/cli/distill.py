"""`minilm distill`: a small student from a large teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from minilm.cli.training import corpus_settings, run, training_options

if TYPE_CHECKING:
    from minilm.recipes.runs import Recipe
    from minilm.training.distributed import Processes


@click.command()
@click.option(
    "--teacher", required=True, metavar="MODEL", help="A BERT with a masked-LM head; DIR or name."
)
@click.option(
    "--layers",
    default="every_other",
    show_default=True,
    help="Teacher layers to start from: every_other, published (0,2,4,7,9,11), or a list: 0,5,11.",
)
@click.option("--from-scratch", is_flag=True, help="Start from random weights in the same shape.")
@click.option(
    "--fold-token-types/--drop-token-types",
    default=True,
    show_default=True,
    help="Add the teacher's first token type to the positions, or leave it out.",
)
@click.option(
    "--copy-mlm-transform/--fresh-mlm-transform",
    default=True,
    show_default=True,
    help="Where the dense layer of the masked-LM head comes from.",
)
@click.option(
    "--freeze-positions/--train-positions",
    default=True,
    show_default=True,
    help="DistilBERT's position table stayed as its teacher's; a random one is always trained.",
)
@click.option(
    "--temperature", default=2.0, show_default=True, type=click.FloatRange(0, min_open=True)
)
@click.option(
    "--kl", default=5.0, show_default=True, type=click.FloatRange(min=0), help="Weight of KL."
)
@click.option(
    "--mlm", default=2.0, show_default=True, type=click.FloatRange(min=0), help="Of the labels."
)
@click.option(
    "--cosine",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Of the directions of the last states.",
)
@click.option(
    "--mse", default=0.0, show_default=True, type=click.FloatRange(min=0), help="Of the logits."
)
@click.option(
    "--positions",
    type=click.Choice(["attended", "masked"]),
    default="attended",
    show_default=True,
    help="Where KL and MSE look.",
)
@training_options(
    max_length=512,
    masking="rare-tokens",
    learning_rate=5e-4,
    betas=(0.9, 0.98),
    weight_decay=0.0,
    max_gradient_norm=5.0,
    tokens_per_step=16384,
)
def command(
    teacher: str,
    layers: str,
    from_scratch: bool,
    fold_token_types: bool,
    copy_mlm_transform: bool,
    freeze_positions: bool,
    temperature: float,
    kl: float,
    mlm: float,
    cosine: float,
    mse: float,
    positions: Literal["attended", "masked"],
    **options: Any,
) -> None:
    """Distil DistilBERT from BERT: every other layer of the teacher, and the triple loss.

    Defaults are those of the paper and its released code, but for the size of a step (there up to
    4,000 sequences). The same command goes on after an interruption; under torchrun it uses all
    processes.

    \b
    Example:
      minilm tokenize articles.txt --tokenizer bert-base-uncased --output store
      minilm distill --teacher bert-base-uncased --corpus store --output student \\
        --held-out 200 --epochs 3
    """

    def build(_: Processes) -> Recipe:
        from minilm.checkpoints.hub import resolve
        from minilm.compression.students import init_student
        from minilm.loader import load_masked_lm
        from minilm.models.distilbert import DistilBertForMaskedLM
        from minilm.objectives.distillation import DistillationLoss
        from minilm.recipes.runs import distillation
        from minilm.tokenization.tokenizer import Tokenizer

        directory = resolve(teacher)
        model = load_masked_lm(directory)
        student = init_student(
            model,
            layers=_layers(layers),
            fold_token_types=fold_token_types,
            copy_mlm_transform=copy_mlm_transform,
            freeze_position_embeddings=freeze_positions and not from_scratch,
            masked_lm=True,
        )
        assert isinstance(student, DistilBertForMaskedLM)
        if from_scratch:
            student = DistilBertForMaskedLM(student.config).to(student.device, student.dtype)
        loss = DistillationLoss(
            temperature=temperature, kl=kl, mlm=mlm, cosine=cosine, mse=mse, positions=positions
        )
        return distillation(
            student,
            model,
            loss,
            corpus_settings(options),
            Tokenizer.from_pretrained(directory),
        )

    run(options, build)


def _layers(text: str) -> Any:
    """A rule's name, or a list of numbers."""
    parts = [part.strip() for part in text.split(",")]
    return [int(part) for part in parts] if all(map(str.isdecimal, parts)) else text
