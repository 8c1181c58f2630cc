"""What the training commands share: options, and running a recipe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minilm.cli.options import Option, given_fields, options_of, refuse_idle, together
from minilm.files.json_file import without_nan
from minilm.files.progress import counted
from minilm.training.settings import TrainingSettings

if TYPE_CHECKING:
    from minilm.recipes.runs import Run
    from minilm.recipes.settings import Recipe
    from minilm.training.distributed import Processes
    from minilm.training.dry_run import DryRun
    from minilm.training.observers import Observer

_BEGAN = time.monotonic()  # before torch and the model are loaded
OUTPUT = click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory of the run and, at the end, of the trained model.",
)


# options that say where and how a run is carried out, not what it computes
NOT_THE_RUN = (
    *("output", "threads", "device", "allow_changes", "clean", "tensorboard", "dry_run", "as_json"),
)  # fmt: skip


def execution_options() -> list[Option[Any]]:
    """Options for where and how to run; none of them changes what the run computes."""
    return [
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="Number of CPU threads. Default: torch's choice.",
        ),
        click.option(
            "--device",
            help="Device to train on, such as cpu or cuda. Default: a GPU if there is one.",
        ),
        click.option(
            "--allow-changes",
            is_flag=True,
            help="Resume the run in --output although settings or data have changed.",
        ),
        click.option(
            "--clean",
            is_flag=True,
            help="When the run is finished, remove its snapshots and best weights, which take "
            "several times the space of the model; log and settings stay.",
        ),
        click.option(
            "--tensorboard",
            is_flag=True,
            help="Write curves for TensorBoard too, into OUTPUT/run/tensorboard. Needs the extra "
            "`tensorboard`.",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Measure a few steps, an evaluation and a snapshot, and print how long the run "
            "will take and the size of a snapshot. Nothing is written.",
        ),
    ]


def observers(
    options: Mapping[str, Any], output: Path, say: Callable[[str], None]
) -> list[Observer]:
    """The observers that the options ask for; DependencyError if they lack a package.

    Args:
        options: the options of the command.
        output: directory of the run.
        say: receives messages.
    """
    from minilm.training.tensorboard import EVENTS, TensorBoard

    return [TensorBoard(output / EVENTS, say)] if options["tensorboard"] else []


def recipe_options(recipe: type[Recipe]) -> Option[Any]:
    """The options of a command that trains: the recipe's fields, and how to run.

    Args:
        recipe: the command's recipe.
    """
    return together(
        [
            *options_of(recipe, usual_length=getattr(recipe, "usual_length", None)),
            OUTPUT,
            *execution_options(),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        ]
    )


def run(recipe_class: type[Recipe], options: Mapping[str, Any]) -> None:
    """Builds the recipe, trains, and prints the result.

    Args:
        recipe_class: the command's recipe.
        options: the options of the command.
    """
    import torch

    from minilm.training.distributed import join

    if (options["steps"] is None) == (options["epochs"] is None):
        raise click.UsageError("Give one of --steps and --epochs.")
    refuse_idle(options, {"evaluation_tokens": ["held_out"], "evaluate_every": ["held_out"]})
    recipe = recipe_class(**given_fields(recipe_class, options))
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    with join(options["device"]) as processes:

        def say(text: str) -> None:
            if processes.first:
                click.echo(text, err=True)

        watching = observers(options, options["output"], say)
        prepared = recipe.prepare(options["output"], say)
        settings = recipe.training_settings(prepared.data, processes.device)
        if options["dry_run"]:
            say("measuring a few steps")
            measured = prepared.dry_run(settings, processes, options["output"])
            found = plan(prepared, measured)
            found = {"sequences": prepared.data.count_samples(), **found}
            print_result({**found, "precision": settings.precision}, options, processes)
            return
        say(_headline(prepared, settings, processes))
        result = prepared.train(
            settings,
            options["output"],
            processes=processes,
            allow_changes=options["allow_changes"],
            observers=watching,
            clean=options["clean"],
            say=say,
        )
        summary = {
            "output": str(options["output"]),
            "steps": result.step,
            "finished": result.finished,
            **result.held_out,
        }
        print_result(summary, options, processes)
    if result.exit_code:
        raise SystemExit(result.exit_code)


def _headline(prepared: Run, settings: TrainingSettings, processes: Processes) -> str:
    trained = sum(p.numel() for p in prepared.learner.parameters() if p.requires_grad)
    kind = type(prepared.model).__name__
    loss = prepared.description.get("loss", {})
    if loss.get("projection"):
        kind += " with a projection to the teacher's width"
    return (
        f"{kind}, {counted(trained, 'parameter')} trained, {counted(settings.steps, 'step')}, "
        f"{settings.precision}, {counted(processes.world, 'process')} on {processes.device.type}"
    )


def plan(run: Run, measured: DryRun, *, evaluations_at_the_end: int = 0) -> dict[str, Any]:
    """The estimated cost of a whole run, including what this process has already done for it.

    Args:
        run: the run to estimate.
        measured: the measurement of its first steps.
        evaluations_at_the_end: number of evaluations of the finished model.
    """
    from minilm.bench.memory import peak_resident

    # drawn from the beginning of the process, imports included
    preparation = time.monotonic() - _BEGAN - measured.seconds_measuring
    total = (
        preparation + measured.seconds + evaluations_at_the_end * measured.seconds_per_evaluation
    )
    return {
        "model": type(run.model).__name__,
        "parameters": run.model.num_parameters(),
        "trained": measured.parameters,
        "tokens_per_step": round(measured.tokens_per_step),
        "steps_per_epoch": measured.steps_per_epoch,
        "steps": measured.steps,
        "epochs": round(measured.steps / measured.steps_per_epoch, 3),
        "seconds_of_preparation": round(preparation, 2),
        "seconds_per_step": round(measured.seconds_per_step, 4),
        "tokens_per_second": round(measured.tokens_per_step / measured.seconds_per_step),
        "evaluations": measured.evaluations + evaluations_at_the_end,
        "seconds_per_evaluation": round(measured.seconds_per_evaluation, 3),
        "snapshots": measured.snapshots,
        "seconds_per_snapshot": round(measured.seconds_per_snapshot, 3),
        "megabytes_per_snapshot": round(measured.bytes_per_snapshot / 1e6, 1),
        "seconds": round(total, 1),
        "hours": round(total / 3600, 3),
        "peak_megabytes": round(peak_resident() / 1e6),
        **{f"{name}_before": value for name, value in measured.held_out.items()},
    }


def print_result(
    found: Mapping[str, Any], options: Mapping[str, Any], processes: Processes
) -> None:
    """Prints names and values in the first process, as JSON if the options say so."""
    if not processes.first:
        return
    if options["as_json"]:
        click.echo(json.dumps(without_nan(found), indent=2))
        return
    width = 2 + max(map(len, found))
    for name, value in found.items():
        if isinstance(value, float):
            value = f"{value:.4f}"
        elif type(value) is int:  # not a bool
            value = f"{value:,}"
        click.echo(f"{name.replace('_', ' '):<{width}}{value}")
