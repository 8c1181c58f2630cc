"""Options of every command that runs a model: device, precision, thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from minilm.cli.options import Option, together

if TYPE_CHECKING:
    from minilm.tasks.task import Task

DTYPES = ("float32", "bfloat16", "float16", "float64", "int8", "auto")
# threshold of a task -> its option
_THRESHOLDS = {
    "min_confidence": click.option(
        "--min-confidence",
        type=click.FloatRange(0, 1),
        help="For models with an out-of-scope label: predictions with a lower confidence get that "
        "label. Default: the value stored with the model.",
    ),
    "threshold": click.option(
        "--threshold",
        type=click.FloatRange(0, 1),
        help="For multi-label models: probability from which a label is given. Default: what is "
        "stored with the model.",
    ),
    "null_threshold": click.option(
        "--null-threshold",
        type=float,
        help="For question answering: no answer is given where its score exceeds that of the best "
        "answer by more than this. Default: the value stored with the model.",
    ),
}
_EXITS = ("exit_threshold", "exit_patience", "exit_tolerance")


def model_options() -> Option[Any]:
    """--device, --threads and --precision."""
    return together(
        [
            click.option(
                "--device",
                help="Device to run the model on, such as cpu or cuda. Default: the CPU.",
            ),
            threads_option(),
            click.option(
                "--precision",
                "--dtype",
                "precision",
                type=click.Choice(DTYPES),
                help="Number format of the model's weights in memory; int8 = quantise them to 8 "
                "bits, auto = as stored. Default: float32, or int8 where they are stored so.",
            ),
        ]
    )


def threads_option() -> Option[Any]:
    """--threads alone, of commands that run on the CPU in a precision of their own."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Number of CPU threads. Default: torch's choice.",
    )


def threshold_options(*names: str) -> Option[Any]:
    """The options of these thresholds, or of all."""
    return together([_THRESHOLDS[name] for name in names or _THRESHOLDS])


def exit_options() -> Option[Any]:
    """--exit-threshold, --exit-patience and --exit-tolerance."""
    return together(
        [
            click.option(
                "--exit-threshold",
                type=click.FloatRange(0, 1),
                help="For models with exits (finetune --exits): a text leaves the layers as soon "
                "as its answer has a higher probability than this. Default: all layers.",
            ),
            click.option(
                "--exit-patience",
                type=click.IntRange(min=1),
                help="For models with exits: a text leaves the layers when its answer has "
                "stayed the same after this number of layers in a row. Default: all "
                "layers.",
            ),
            click.option(
                "--exit-tolerance",
                type=click.FloatRange(min=0, min_open=True),
                help="With --exit-patience, for models that predict a number: two numbers that "
                "differ by less than this count as the same answer. Default: none; such models "
                "need it.",
            ),
        ]
    )


def loading(options: dict[str, Any]) -> dict[str, Any]:
    """Removes the options of `model_options` and `exit_options`, and sets the number of threads.

    Returns:
        Arguments of `from_pretrained`.

    Raises:
        click.UsageError: this machine has no such device.
    """
    import torch

    device, threads = options.pop("device"), options.pop("threads")
    if threads is not None:
        torch.set_num_threads(threads)
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as problem:
            reason = str(problem).splitlines()[0]
            raise click.UsageError(f"--device {device} cannot be used here: {reason}") from problem
    exits = {name: options.pop(name) for name in _EXITS if name in options}
    return {"device": device, "dtype": options.pop("precision"), **exits}


def given_thresholds(options: Mapping[str, Any]) -> dict[str, float]:
    """The thresholds that were given, by name."""
    return {name: options[name] for name in _THRESHOLDS if options.get(name) is not None}


def set_thresholds(task: Task[Any], options: Mapping[str, Any]) -> None:
    """Replaces thresholds stored with the model by those that were given.

    Raises:
        click.UsageError: the model has no such threshold.
    """
    given = given_thresholds(options)
    for name in given:
        option = "--" + name.replace("_", "-")
        if name not in task.threshold_names:
            raise click.UsageError(
                f"{option} cannot be used: models for {task.name} have no such threshold."
            )
        if name == "min_confidence" and getattr(task, "out_of_scope", None) is None:
            raise click.UsageError(
                f"{option} cannot be used: the model was not fine-tuned with --out-of-scope."
            )
    task.set_thresholds(given)
