"""`minilm verify`: proof that a checkpoint gives Hugging Face's numbers."""

from __future__ import annotations

import json
import math

import click
import torch

from minilm.cli.help import Command
from minilm.cli.model_options import threads_option
from minilm.parity import verify
from minilm.parity.int8 import is_int8_checkpoint, verify_int8
from minilm.parity.reference_values import verify_as


@click.command(cls=Command)
@click.argument("model")
@click.option(
    "--as",
    "name",
    metavar="NAME",
    help="Compare with the outputs that were published for the checkpoint NAME, such as "
    "distilbert-base-uncased, instead of with transformers. An unknown name prints the "
    "list of names. Default: compare with transformers.",
)
@click.option(
    "--class",
    "class_name",
    metavar="CLASS",
    help="Compare this class only, such as BertForMaskedLM. Default: the base model and every "
    "head that is stored.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Largest absolute difference that is accepted in float32. Default: 1e-5 for hidden "
    "states and 2e-5 for logits, or three times the rounding error of transformers itself "
    "where that is more; with --as, as much as the published digits allow.",
)
@click.option(
    "--float",
    "original",
    metavar="DIR",
    help="For a MODEL stored in int8: the float checkpoint that it was made from, to compare "
    "weights and states with. Default: the float numbers that the stored weights stand for.",
)
@click.option("--seed", default=0, show_default=True, help="Random seed of the inputs.")
@threads_option()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every comparison.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    name: str | None,
    class_name: str | None,
    tolerance: float | None,
    original: str | None,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare MODEL with transformers, module by module, on the same weights.

    Both libraries load the files of MODEL. Every layer, the pooler and every head that is stored
    are compared on the CPU in float64 and float32, with ragged masks of every kind, as padded and
    packed calls. Prints the largest |difference| of each module and the first module that diverges.

    transformers cannot read a MODEL stored in int8. For such a model, the command compares its
    products with exact integer arithmetic, and single texts with the same texts in a batch (both
    must be bit-identical), and the cosine of its states with those of a float model.

    Exit code: 0 = equal within the tolerances, 1 = different, 2 = cannot be compared.

    \b
    Examples:
      minilm verify albert-mini
        against transformers 5.23.0 with eager attention
        largest |difference|      float64  allowed     float32  allowed
        AlbertModel
          embeddings              3.1e-15    1e-10     0.0e+00    1e-05
          attention maps          4.0e-14    1e-10     3.2e-06    1e-05
          layer 0                 7.3e-15    1e-10     4.2e-06    1e-05
        ...
        Equal within tolerance in 1046 of 1046 comparisons.
      minilm verify distilbert-base-uncased --as distilbert-base-uncased
    """
    if tolerance is not None and math.isnan(tolerance):
        raise click.UsageError("--tolerance is not a number.")
    if threads is not None:
        torch.set_num_threads(threads)
    if is_int8_checkpoint(model):
        if name is not None or class_name is not None or tolerance is not None:
            raise click.UsageError("--as, --class and --tolerance are not for int8 checkpoints.")
        report = verify_int8(model, original, seed)
    elif original is not None:
        raise click.UsageError("--float is for checkpoints stored in int8.")
    elif name is None:
        report = verify(model, class_name=class_name, tolerance=tolerance, seed=seed, progress=True)
    elif class_name is None:
        report = verify_as(model, name, tolerance=tolerance, progress=True)
    else:
        raise click.UsageError(
            "--class cannot be combined with --as: published values name their class."
        )
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report)
    if not report.passed:
        ctx.exit(1 if report.rows else 2)
