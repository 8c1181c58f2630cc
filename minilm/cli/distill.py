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
    "--teacher",
    required=True,
    metavar="MODEL",
    help="Teacher: a BERT with a masked-LM head, as a directory or hub name.",
)
@click.option(
    "--layers",
    default="every_other",
    show_default=True,
    help="Teacher layers to initialise the student from: every_other, published "
    "(0,2,4,7,9,11), or a list such as 0,5,11.",
)
@click.option(
    "--from-scratch",
    is_flag=True,
    help="Initialise the student with random weights instead of the teacher's; the shape "
    "stays the same.",
)
@click.option(
    "--fold-token-types/--drop-token-types",
    default=True,
    show_default=True,
    help="Add the teacher's embedding of token type 0 to the student's position embeddings, "
    "or leave it out.",
)
@click.option(
    "--copy-mlm-transform/--fresh-mlm-transform",
    default=True,
    show_default=True,
    help="Copy the dense layer and norm of the teacher's masked-LM head, or initialise them "
    "at random.",
)
@click.option(
    "--freeze-positions/--train-positions",
    default=True,
    show_default=True,
    help="Keep the teacher's position embeddings fixed, as the released DistilBERT did, or "
    "train them; with --from-scratch they are always trained.",
)
@click.option(
    "--temperature",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Distillation temperature: divides the logits of teacher and student before the softmax.",
)
@click.option(
    "--kl",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Weight of the KL divergence from the teacher's predictions.",
)
@click.option(
    "--mlm",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Weight of the masked-LM loss on the true tokens.",
)
@click.option(
    "--cosine",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Weight of the cosine loss between the last hidden states of student and teacher.",
)
@click.option(
    "--mse",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Weight of the squared error between the logits of student and teacher.",
)
@click.option(
    "--positions",
    type=click.Choice(["attended", "masked"]),
    default="attended",
    show_default=True,
    help="Tokens over which the KL divergence and the squared error are computed: all "
    "attended ones, or the masked ones only.",
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

    Defaults are those of the paper and its released code, except for the size of a step (there up
    to 4,000 sequences). The same command goes on after an interruption; under torchrun it uses all
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
        from minilm.losses.distillation import DistillationLoss
        from minilm.models.distilbert import DistilBertForMaskedLM
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
