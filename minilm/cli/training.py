"""What the training commands share: options, and running a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minilm.cli.options import Option, given_fields, options_of, together
from minilm.training.settings import TrainingSettings

if TYPE_CHECKING:
    from minilm.recipes.runs import Run
    from minilm.recipes.settings import TextRecipe
    from minilm.training.distributed import Processes

OUTPUT = click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory of the run and, at the end, of the trained model.",
)


def execution_options() -> list[Option[Any]]:
    """Where a run is carried out; nothing here is part of what it computes."""
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
    ]


def recipe_options(recipe: type[TextRecipe]) -> Option[Any]:
    """The options of a command that trains on a token store: the recipe's fields, and how to run.

    Args:
        recipe: the command's.
    """
    return together(
        [
            *options_of(recipe, usual_length=recipe.usual_length),
            OUTPUT,
            *execution_options(),
            click.option(
                "--dry-run",
                is_flag=True,
                help="Measure a few steps, print the cost of the run, write nothing.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        ]
    )


def run(recipe_class: type[TextRecipe], options: Mapping[str, Any]) -> None:
    """Builds the recipe, trains, prints what came out.

    Args:
        recipe_class: the command's.
        options: of the command.
    """
    import torch

    from minilm.training.distributed import join

    if (options["steps"] is None) == (options["epochs"] is None):
        raise click.UsageError("Give one of --steps and --epochs.")
    recipe = recipe_class(**given_fields(recipe_class, options))
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    with join(options["device"]) as processes:

        def say(text: str) -> None:
            if processes.first:
                click.echo(text, err=True)

        prepared = recipe.prepare(options["output"], say)
        settings = recipe.training_settings(prepared.data, processes.device)
        if options["dry_run"]:
            _print(_plan(prepared, settings, processes, say), options, processes)
            return
        say(_headline(prepared, settings, processes))
        result = prepared.train(
            settings,
            options["output"],
            processes=processes,
            allow_changes=options["allow_changes"],
            say=say,
        )
        summary = {
            "output": str(options["output"]),
            "steps": result.step,
            "finished": result.finished,
            **result.held_out,
        }
        _print(summary, options, processes)
    if result.exit_code:
        raise SystemExit(result.exit_code)


def _headline(prepared: Run, settings: TrainingSettings, processes: Processes) -> str:
    trained = sum(p.numel() for p in prepared.learner.parameters() if p.requires_grad)
    kind = type(prepared.model).__name__
    loss = prepared.description.get("loss", {})
    if loss.get("projection"):
        kind += " with a projection to the teacher's width"
    return (
        f"{kind}, {trained:,} parameters trained, {settings.steps:,} steps, {settings.precision}, "
        f"{processes.world} process(es) on {processes.device.type}"
    )


def _plan(
    prepared: Run, settings: TrainingSettings, processes: Processes, say: Callable[[str], None]
) -> dict[str, Any]:
    from minilm.bench.memory import peak_resident

    say("measuring a few steps")
    measured = prepared.dry_run(settings, processes)
    return {
        "model": type(prepared.model).__name__,
        "parameters": prepared.model.num_parameters(),
        "trained": measured.parameters,
        "sequences": sum(map(len, prepared.data.steps(0))),
        "tokens_per_step": round(measured.tokens_per_step),
        "steps_per_epoch": measured.steps_per_epoch,
        "steps": settings.steps,
        "epochs": round(settings.steps / measured.steps_per_epoch, 3),
        "precision": settings.precision,
        "seconds_per_step": round(measured.seconds_per_step, 4),
        "tokens_per_second": round(measured.tokens_per_step / measured.seconds_per_step),
        "hours": round(settings.steps * measured.seconds_per_step / 3600, 3),
        "peak_megabytes": round(peak_resident() / 1e6),
        **{f"{name}_before": value for name, value in measured.held_out.items()},
    }


def _print(found: Mapping[str, Any], options: Mapping[str, Any], processes: Processes) -> None:
    if not processes.first:
        return
    if options["as_json"]:
        click.echo(json.dumps(found, indent=2))
        return
    width = 2 + max(map(len, found))
    for name, value in found.items():
        if isinstance(value, float):
            value = f"{value:.4f}"
        elif type(value) is int:  # not a bool
            value = f"{value:,}"
        click.echo(f"{name.replace('_', ' '):<{width}}{value}")
