"""`minilm finetune`: a model for a task, from a checkpoint and labelled data."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minilm.cli.help import Command
from minilm.cli.model_options import threshold_options
from minilm.cli.options import (
    LAYERS,
    given_fields,
    given_options,
    options_of,
    refuse_idle,
    together,
)
from minilm.cli.record_options import read, read_unlabelled, record_options
from minilm.cli.training import (
    NOT_THE_RUN,
    OUTPUT,
    execution_options,
    observers,
    plan,
    print_result,
)
from minilm.data.records.base import Skips
from minilm.files.json_file import without_nan
from minilm.learners.soft_targets import SoftTargets
from minilm.metrics.score_table import score_named
from minilm.recipes.finetuning_settings import FinetuningSettings

if TYPE_CHECKING:
    from minilm.recipes.finetuning import Finetuned
    from minilm.training.distributed import Processes

TASKS = (
    "classification",
    "multi-label",
    "regression",
    "tagging",
    "answering",
    "choice",
    "utterances",
)
_COUNT = click.IntRange(min=1)
# options of the tasks themselves
TASK_OPTIONS = (
    "out_of_scope",
    "min_confidence",
    "threshold",
    "null_threshold",
    "tune_thresholds",
    "windows",
    "doc_stride",
    "max_query",
    "n_best",
    "max_answer",
)

# options -> the one without which they have no effect
_NEEDS = {
    "temperature": ["teacher"],
    "soft_weight": ["teacher"],
    "label_weight": ["teacher"],
    "labelled_share": ["unlabelled"],
}


@click.command(cls=Command)
@click.option("--task", required=True, type=click.Choice(TASKS), help="Task to fine-tune for.")
@click.option(
    "--model",
    metavar="MODEL",
    help="Checkpoint to fine-tune: a directory, a hub "
    "name or a short name. Default: none; give "
    "--model, or --teacher and --layers.",
)
@click.option(
    "--train",
    required=True,
    type=click.Path(path_type=Path),
    help="File of labelled records to train on.",
)
@click.option(
    "--dev",
    type=click.Path(path_type=Path),
    help="File of labelled records to evaluate on (dev set). Default: none, and the last "
    "weights are kept.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Fraction of the training records to hold out for evaluation instead of --dev, drawn "
    "at random with the same fraction of every class; each class keeps at least one training "
    "record. Default: none.",
)
@OUTPUT
@record_options()
@click.option(
    "--teacher",
    metavar="MODEL",
    help="Fine-tuned model to distil from: the student also learns its predictions. Default: none.",
)
@click.option(
    "--unlabelled",
    type=click.Path(path_type=Path),
    help="With --teacher: file of more records to learn from. Their labels are not read: the "
    "teacher's predictions take their place. A file as for --train, or a text file (.txt). "
    "Default: none.",
)
@click.option(
    "--layers",
    type=LAYERS,
    help="Teacher layers to initialise the student from, instead of --model: every_other, "
    "published (0,2,4,7,9,11) or a list such as 0,2,4. Default: none.",
)
@click.option(
    "--temperature",
    default=SoftTargets.temperature,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="With --teacher: distillation temperature, which divides the logits of teacher and "
    "student before the softmax.",
)
@click.option(
    "--soft-targets",
    "soft_weight",
    default=SoftTargets.weight,
    show_default=True,
    type=click.FloatRange(min=0),
    help="With --teacher: weight of the loss on its predictions (soft targets).",
)
@click.option(
    "--labels",
    "label_weight",
    default=SoftTargets.label_weight,
    show_default=True,
    type=click.FloatRange(min=0),
    help="With --teacher: weight of the loss on the labels (hard targets).",
)
@together(options_of(FinetuningSettings))
@click.option(
    "--seeds",
    type=_COUNT,
    help="Number of runs, with --seed and the seeds after it; their scores are averaged. "
    "Default: one run.",
)
@click.option(
    "--out-of-scope",
    help="Label of out-of-scope (out-of-distribution) texts, which belong to none of the other "
    "classes. Default: none.",
)
@threshold_options()
@click.option(
    "--tune-thresholds",
    is_flag=True,
    default=None,
    help="Choose the threshold of the labels (multi-label), or the minimum confidence (with "
    "--out-of-scope), that gives the best score on the dev set. Question answering always "
    "does so.",
)
@click.option(
    "--windows",
    "--long-texts",
    "windows",
    type=click.Choice(["mean", "max"]),
    help="Texts and pairs longer than --max-length: classify windows over them and pool their "
    "logits. Default: long texts are truncated.",
)
@click.option(
    "--doc-stride",
    type=_COUNT,
    help="Tokens between the starts of successive windows. Default: 128 over the context of a "
    "question, half a window with --windows.",
)
@click.option(
    "--max-query",
    type=_COUNT,
    help="Question answering: maximum length of the question in tokens. Default: 64.",
)
@click.option(
    "--n-best",
    type=_COUNT,
    help="Question answering: number of candidate answers to consider. Default: 20.",
)
@click.option(
    "--max-answer",
    type=_COUNT,
    help="Question answering: maximum length of an answer in tokens. Default: 30.",
)
@together(execution_options())
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def command(
    task: str,
    model: str | None,
    train: Path,
    dev: Path | None,
    hold_out: float | None,
    output: Path,
    teacher: str | None,
    unlabelled: Path | None,
    layers: str | list[int] | None,
    seeds: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune a model for a task, and write a checkpoint that minilm and transformers load.

    The weights of the best evaluation are kept. If a run is interrupted, the same command resumes
    it. Under torchrun it uses all processes.

    \b
    Task            Fields of a record
    classification  text (and text_pair), label
    multi-label     text (and text_pair), labels: names, or 0 and 1 for each label
    regression      text (and text_pair), label: a number
    tagging         tokens, tags: entities (IOB1, IOB2, BIOES, BILOU) or parts of speech
    answering       question, context, answers: as in SQuAD
    choice          prompt (or context and question), choices, label: the number of the right one
    utterances      tokens, tags, intent: intent and slots together

    \b
    Examples:
      minilm finetune --task classification --model distilbert-mini --format glue:sst2 \\
        --train train.tsv --dev dev.tsv --epochs 3 --learning-rate 3e-4 \\
        --average-weights 0.999 --evaluate-every 500 --output sentiment
        accuracy                    0.8463
        ...
        class  precision    recall        f1   support
        ...
      minilm finetune --task tagging --model bert-base-cased --train train.conll --dev dev.conll \\
        --output entities
      minilm finetune --task classification --teacher sentiment-bert --layers every_other \\
        --train train.tsv --dev dev.tsv --output sentiment-small --seeds 3
      minilm finetune --task classification --model small --teacher large --train few.tsv \\
        --unlabelled many.txt --dev dev.tsv --output taught
    """
    import torch

    from minilm.recipes.finetuning import finetune, prepare
    from minilm.recipes.hold_out import mean_and_deviation, split_off
    from minilm.training.distributed import join
    from minilm.training.memory import keep_freed_memory

    if dev is not None and hold_out is not None:
        raise click.UsageError("Give --dev or --hold-out, not both.")
    if model is None and layers is None:
        raise click.UsageError(
            "Say what to start from: --model, a directory or hub name, or --teacher and --layers."
        )
    if model is not None and layers is not None:
        raise click.UsageError("Give --model or --layers, not both.")
    if layers is not None and teacher is None:
        raise click.UsageError("--layers needs a --teacher, whose layers the student starts from.")
    if unlabelled is not None and teacher is None:
        raise click.UsageError(
            "--unlabelled needs a --teacher, whose predictions stand for the labels: fine-tune one "
            "on the labelled records first."
        )
    refuse_idle({**options, "teacher": teacher, "unlabelled": unlabelled}, _NEEDS)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    if not options["gradient_checkpointing"]:
        keep_freed_memory()
    observers(options, output, click.echo)  # what it needs is there, or nothing begins
    skips = Skips(options["on_bad_record"])
    records = read(train, options, skips)
    dev_records = None if dev is None else read(dev, options, skips)
    more = None if unlabelled is None else read_unlabelled(unlabelled, train, options, skips)
    if hold_out is not None:
        records, dev_records = split_off(records, hold_out, seed=0, task=task, columns=options)
    runs: list[Finetuned] = []
    with join(options["device"]) as processes:

        def say(text: str) -> None:
            if processes.first:
                click.echo(text, err=True)

        if options["dry_run"]:
            _dry_run(
                prepare(
                    task,
                    model,
                    records,
                    dev=dev_records,
                    teacher=teacher,
                    unlabelled=more,
                    layers=layers,  # type: ignore[arg-type]
                    settings=_settings(options),
                    skips=skips,
                    device=processes.device,
                    say=say,
                ),
                output,
                seeds or 1,
                {**options, "as_json": as_json},
                processes,
            )
            return
        for number in range(seeds or 1):
            options["seed"] += bool(number)
            if seeds:
                say(f"seed {options['seed']}")
            place = output / f"seed-{options['seed']}" if seeds else output
            runs.append(
                finetune(
                    task,
                    model,
                    records,
                    place,
                    dev=dev_records,
                    teacher=teacher,
                    unlabelled=more,
                    layers=layers,  # type: ignore[arg-type]
                    settings=_settings(options),
                    skips=deepcopy(skips),  # of this run alone, beside what the readers counted
                    processes=processes,
                    allow_changes=options["allow_changes"],
                    observers=observers(options, place, say),
                    clean=options["clean"],
                    command=_command(options["seed"] if seeds else None),
                    say=say,
                )
            )
            if not runs[-1].finished:
                raise SystemExit(runs[-1].exit_code)
        if processes.first:
            scores = [run.scores for run in runs]
            summary = mean_and_deviation(scores) if seeds and dev_records is not None else scores[0]
            _print(output, runs, summary, as_json)


def _command(seed: int | None) -> dict[str, Any]:
    """The running command with its options, for one of its seeds."""
    options = given_options(without=NOT_THE_RUN)
    if seed is not None:
        options = {**options, "seed": seed}
        del options["seeds"]
    return {"name": "finetune", "options": options}


def _dry_run(
    prepared: Any, output: Path, seeds: int, options: Mapping[str, Any], processes: Processes
) -> None:
    run, loop, _ = prepared
    if processes.first:
        click.echo("measuring an evaluation, a few steps and a snapshot", err=True)
    # the teacher's predictions are made once, not in the steps that are measured
    predictions, teacher = run.learner.predictions, run.learner.teacher
    began = time.monotonic()
    of_teacher = 0.0 if predictions is None else predictions.estimate(teacher) / processes.world
    estimating = time.monotonic() - began
    measured = run.dry_run(loop, processes, output)
    measured = replace(measured, seconds_measuring=measured.seconds_measuring + estimating)
    # at the end the scores of the chosen weights are computed
    found = plan(run, measured, evaluations_at_the_end=int(bool(run.held_out)))
    if predictions is not None:
        found["seconds"] = round(found["seconds"] + of_teacher, 1)
        found["hours"] = round(found["seconds"] / 3600, 3)
        found["seconds_of_teacher"] = round(of_teacher, 4)
    if seeds > 1:
        found |= {"runs": seeds, "seconds_of_all_runs": round(seeds * found["seconds"], 1)}
    print_result({**found, "precision": loop.precision}, options, processes)


def _settings(options: Mapping[str, Any]) -> FinetuningSettings:
    return FinetuningSettings(
        **given_fields(FinetuningSettings, options),
        options={name: options[name] for name in TASK_OPTIONS if options[name] is not None},
        soft_targets=SoftTargets(
            options["temperature"], options["soft_weight"], options["label_weight"]
        ),
    )


def _print(output: Path, runs: list[Finetuned], summary: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        result = {
            "output": str(output),
            "scores": summary,
            "runs": [
                {"output": str(run.output), "steps": run.steps, "chosen": run.chosen, **run.scores}
                for run in runs
            ],
        }
        click.echo(json.dumps(without_nan(result), indent=2))
        return
    if summary:
        click.echo(show_scores(summary))
    chosen = ", ".join(f"{run.chosen:,} of {run.steps:,}" for run in runs)
    click.echo(f"{output}: weights after step {chosen}", err=True)


def show_scores(scores: Mapping[str, Any]) -> str:
    """Scores as lines of text: numbers first, then a table of classes if there are some."""
    lines = []
    for name, value in scores.items():
        unit = {"percent": " (%)", "nats": " (nats)"}.get(score_named(name, scores).unit, "")
        label = name.replace("_", " ") + unit
        if isinstance(value, int):
            lines.append(f"{label:<24}{value:>10,}")
        elif isinstance(value, float):
            lines.append(f"{label:<24}{value:>10.4f}")
        elif isinstance(value, dict) and "mean" in value:
            spread = f"{value['mean']:>10.4f} ± {value['deviation']:.4f}"
            lines.append(f"{label:<24}{spread}  ({value['lowest']:.4f} to {value['highest']:.4f})")
    for name, table in scores.items():
        if name.endswith("classes") and table:
            width = max(len("class"), *map(len, table)) + 2
            lines.append("")
            lines.append(f"{'class':<{width}}precision    recall        f1   support")
            lines += [
                f"{label:<{width}}{row['precision']:>9.4f}{row['recall']:>10.4f}"
                f"{row['f1']:>10.4f}{row['support']:>10,}"
                for label, row in table.items()
            ]
    return "\n".join(lines)
