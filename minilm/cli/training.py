"""What the training commands share: options, and running a recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from minilm.training.settings import (
    OnNonfinite,
    OnSaveError,
    Optimiser,
    Precision,
    Schedule,
    TrainingSettings,
)

if TYPE_CHECKING:
    from minilm.recipes.corpus import CorpusSettings
    from minilm.recipes.runs import Recipe
    from minilm.training.distributed import Processes

EVALUATIONS = 20  # in a run, unless --evaluate-every says otherwise
SNAPSHOTS = 20
MASKING = {
    "tokens": "tokens",
    "whole-words": "whole_words",
    "ngrams": "ngrams",
    "rare-tokens": "rare_tokens",
}

Command = TypeVar("Command", bound=Callable[..., Any])


Option = Callable[[Command], Command]
_COUNT = click.IntRange(min=1)
_NATURAL = click.IntRange(min=0)
_POSITIVE = click.FloatRange(min=0)
OUTPUT = click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory of the run and, at the end, of the trained model.",
)


def training_options(**defaults: Any) -> Option[Any]:
    """The options of corpus and loop.

    Args:
        **defaults: by the name of the option; defaults in which a command differs.
    """
    option = _with(defaults)
    options = [
        click.option(
            "--corpus",
            required=True,
            type=click.Path(path_type=Path),
            help="Token store, made by `minilm tokenize`.",
        ),
        OUTPUT,
        option(
            "--held-out", _NATURAL, "Documents at the end of the store held out for evaluation.", 0
        ),
        option("--max-length", _COUNT, "Maximum sequence length in tokens.", 128),
        option(
            "--min-length",
            _COUNT,
            "Minimum sequence length in tokens; shorter sequences are left out.",
            12,
        ),
        option(
            "--masking",
            click.Choice(list(MASKING)),
            "Which tokens are predicted: any, whole words, n-grams of words (ALBERT), or rarer "
            "tokens more often (DistilBERT).",
            "tokens",
        ),
        option("--max-ngram", _COUNT, "Longest n-gram in words, with --masking ngrams.", 3),
        option("--mask-probability", _POSITIVE, "Mask ratio: fraction of tokens to predict.", 0.15),
        option(
            "--max-predictions",
            _COUNT,
            "Maximum number of predicted tokens in a sequence. Default: no limit.",
            None,
        ),
        option(
            "--tokens-per-step",
            _COUNT,
            "Batch size of a step in tokens, over all processes and micro-batches.",
            8192,
        ),
        option("--steps", _COUNT, "Number of training steps (updates); instead of --epochs.", None),
        option("--epochs", _COUNT, "Number of passes over the corpus; instead of --steps.", None),
        option(
            "--learning-rate",
            _POSITIVE,
            "Peak learning rate, reached at the end of the warm-up.",
            5e-4,
        ),
        option(
            "--warmup",
            _POSITIVE,
            "Warm-up steps of the learning rate; below 1, the fraction of all steps.",
            0.05,
        ),
        option(
            "--evaluation-tokens",
            _COUNT,
            "Maximum number of held-out tokens to evaluate on.",
            65536,
        ),
        option(
            "--evaluate-every",
            _NATURAL,
            "Number of steps between evaluations; 0 = only at the end. Default: "
            f"{EVALUATIONS} evaluations in a run.",
            None,
        ),
        option(
            "--snapshot-every",
            _NATURAL,
            "Number of steps between snapshots, from which an interrupted run resumes; 0 = only "
            f"at the end. Default: {SNAPSHOTS} snapshots in a run.",
            None,
        ),
        *_loop(defaults),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Measure a few steps, print the cost of the run, write nothing.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ]
    return together(options)


def loop_options(**defaults: Any) -> Option[Any]:
    """The options of the loop that every kind of training has."""
    return together(_loop(defaults))


def together(options: Sequence[Option[Any]]) -> Option[Any]:
    """Several options as one decorator, in this order."""

    def decorate(function: Command) -> Command:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def _with(defaults: Mapping[str, Any]) -> Callable[[str, Any, str, Any], Option[Any]]:
    def option(names: str, kind: Any, text: str, default: Any) -> Option[Any]:
        declarations = names.split()  # the first is the name, the others are aliases
        field = declarations[0].removeprefix("--").replace("-", "_")
        default = defaults.get(field, default)
        return click.option(*declarations, type=kind, default=default, show_default=True, help=text)

    return option


def _loop(defaults: Mapping[str, Any]) -> list[Option[Any]]:
    option = _with(defaults)
    return [
        option(
            "--schedule",
            click.Choice(get_args(Schedule)),
            "Learning rate schedule after the warm-up.",
            "linear",
        ),
        option("--power", _POSITIVE, "Exponent of the polynomial schedule.", 1.0),
        option(
            "--optimiser",
            click.Choice(get_args(Optimiser)),
            "Optimiser: AdamW, or LAMB for large batches.",
            "adamw",
        ),
        option(
            "--betas",
            (float, float),
            "Decay rates of the optimiser's running means of gradients and their squares.",
            (0.9, 0.999),
        ),
        option("--epsilon --eps", _POSITIVE, "Epsilon in the denominator of the optimiser.", 1e-6),
        option(
            "--weight-decay",
            _POSITIVE,
            "Weight decay of the optimiser; norms and biases are never decayed.",
            0.01,
        ),
        option(
            "--max-gradient-norm --max-grad-norm",
            _POSITIVE,
            "Gradient clipping: the largest norm of the gradient; 0 = no clipping.",
            1.0,
        ),
        option(
            "--accumulation --gradient-accumulation-steps",
            _COUNT,
            "Gradient accumulation: number of micro-batches that a step is divided into to save "
            "memory. The batch size of a step stays the same.",
            1,
        ),
        option(
            "--precision",
            click.Choice(["auto", *get_args(Precision)]),
            "Precision of matrix products (autocast); auto = bfloat16 where the hardware computes "
            "in it.",
            "auto",
        ),
        option(
            "--seed",
            click.IntRange(0, 2**63 - 1),
            "Random seed of fresh weights, data order, masks and dropout.",
            0,
        ),
        option("--log-every", _NATURAL, "Number of steps between lines of log.jsonl.", 1),
        option(
            "--keep-snapshots",
            click.IntRange(min=2),
            "Number of snapshots to keep; older ones are deleted.",
            2,
        ),
        option(
            "--workers --num-workers",
            _NATURAL,
            "Number of threads that prepare batches in the background; 0 = none.",
            0,
        ),
        option("--threads", _COUNT, "Number of CPU threads. Default: torch's choice.", None),
        option(
            "--device",
            str,
            "Device to train on, such as cpu or cuda. Default: a GPU if there is one.",
            None,
        ),
        option(
            "--on-nonfinite",
            click.Choice(get_args(OnNonfinite)),
            "When the loss or gradient is not finite: end the run (raise), or skip the step.",
            "raise",
        ),
        option(
            "--max-skips",
            _NATURAL,
            "Maximum number of steps skipped in a row, with --on-nonfinite skip.",
            3,
        ),
        option(
            "--on-save-error",
            click.Choice(get_args(OnSaveError)),
            "When a snapshot cannot be written, but an older one exists: warn and continue, or end "
            "the run (raise).",
            "warn",
        ),
        click.option(
            "--allow-changes",
            is_flag=True,
            help="Resume the run in --output although settings or data have changed.",
        ),
    ]


def corpus_settings(options: Mapping[str, Any], **more: Any) -> CorpusSettings:
    """The corpus that the options describe.

    Args:
        options: of the command.
        **more: settings that not every training command has.
    """
    from minilm.recipes.corpus import CorpusSettings

    return CorpusSettings(
        store=options["corpus"],
        held_out=options["held_out"],
        max_length=options["max_length"],
        min_length=options["min_length"],
        masking=MASKING[options["masking"]],  # type: ignore[arg-type]
        probability=options["mask_probability"],
        max_predictions=options["max_predictions"],
        max_ngram=options["max_ngram"],
        tokens_per_step=options["tokens_per_step"],
        tokens_per_evaluation=options["evaluation_tokens"],
        seed=options["seed"],
        **more,
    )


def run(options: Mapping[str, Any], build: Callable[[Processes], Recipe]) -> None:
    """Builds the recipe, trains, prints what came out.

    Args:
        options: of the command.
        build: makes the recipe.
    """
    import torch

    from minilm.training.distributed import join

    if (options["steps"] is None) == (options["epochs"] is None):
        raise click.UsageError("Give one of --steps and --epochs.")
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    with join(options["device"]) as processes:

        def say(text: str) -> None:
            if processes.first:
                click.echo(text, err=True)

        torch.manual_seed(options["seed"])
        recipe = build(processes)
        settings = _settings(options, recipe, processes)
        if options["dry_run"]:
            _print(_plan(recipe, settings, processes, say), options, processes)
            return
        say(_headline(recipe, settings, processes))
        result = recipe.train(
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


def _settings(options: Mapping[str, Any], recipe: Recipe, processes: Processes) -> TrainingSettings:
    from minilm.training.updates import best_precision

    steps = options["steps"]
    if steps is None:
        steps = recipe.data.count_steps(options["epochs"])
    warmup = options["warmup"]
    if not math.isfinite(warmup):
        raise click.BadParameter(f"{warmup} is not a number of steps.", param_hint="--warmup")

    def every(name: str, times: int) -> int:
        given = options[name]
        return -(-steps // times) if given is None else int(given)

    precision = options["precision"]
    if precision == "auto":
        precision = best_precision(processes.device)
    return TrainingSettings(
        steps=steps,
        learning_rate=options["learning_rate"],
        warmup=round(warmup * steps if warmup < 1 else warmup),
        evaluate_every=every("evaluate_every", EVALUATIONS),
        snapshot_every=every("snapshot_every", SNAPSHOTS),
        **{**loop_settings(options), "precision": precision},
    )


def loop_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `TrainingSettings` that the options of the loop give."""
    names = (
        "schedule",
        "power",
        "optimiser",
        "betas",
        "epsilon",
        "weight_decay",
        "accumulation",
        "precision",
        "seed",
        "log_every",
        "keep_snapshots",
        "workers",
        "on_nonfinite",
        "max_skips",
        "on_save_error",
    )
    found = {name: options[name] for name in names}
    return {**found, "max_gradient_norm": options["max_gradient_norm"] or None}


def _headline(recipe: Recipe, settings: TrainingSettings, processes: Processes) -> str:
    trained = sum(p.numel() for p in recipe.learner.parameters() if p.requires_grad)
    kind = type(recipe.model).__name__
    loss = recipe.description.get("loss", {})
    if loss.get("projection"):
        kind += " with a projection to the teacher's width"
    return (
        f"{kind}, {trained:,} parameters trained, {settings.steps:,} steps, {settings.precision}, "
        f"{processes.world} process(es) on {processes.device.type}"
    )


def _plan(
    recipe: Recipe, settings: TrainingSettings, processes: Processes, say: Callable[[str], None]
) -> dict[str, Any]:
    from minilm.bench.memory import peak_resident

    say("measuring a few steps")
    measured = recipe.dry_run(settings, processes)
    return {
        "model": type(recipe.model).__name__,
        "parameters": recipe.model.num_parameters(),
        "trained": measured.parameters,
        "sequences": sum(map(len, recipe.data.steps(0))),
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
