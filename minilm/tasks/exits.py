"""Early exit of tasks on whole texts: checks, the file beside the model, scores by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minilm.errors import CheckpointError, InputError, setting
from minilm.files.arrays import Floats
from minilm.files.file_names import EXITS, TASK
from minilm.files.json_file import read_json
from minilm.models.early_exit import EveryExit, ExitHeads, ExitRule
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.batches import batches
from minilm.tasks.task import Sample, Task, run_model
from minilm.tasks.text_task import TextTask


def check_exits(task: Task[Any]) -> None:
    """Raise InputError unless texts of this task can exit early."""
    if not isinstance(task, TextTask):
        raise InputError(
            f"Exits are for classification, multi-label and regression: {task.name} needs all "
            "layers for every token."
        )
    if task.long_texts is not None:
        raise InputError(
            "Exits and windows over long texts do not go together: the answer for a text is that "
            "of all its windows, and none of them can leave by itself. Leave one of them out."
        )


def rule_of(
    threshold: float | None, patience: int | None, tolerance: float | None
) -> ExitRule | None:
    """The rule that a user's settings give; None without any.

    Raises:
        InputError: both a threshold and a patience, a tolerance alone, or a value out of range.
    """
    if threshold is None and patience is None:
        if tolerance is not None:
            raise InputError(
                f"{setting('exit_tolerance', tolerance)} goes with {setting('exit_patience')}: "
                "give that, too."
            )
        return None
    if threshold is not None and patience is not None:
        raise InputError(
            f"Give {setting('exit_threshold')} or {setting('exit_patience')}, not both."
        )
    return ExitRule(threshold=threshold, patience=patience, tolerance=tolerance)


def load_exits(directory: Path, model: PretrainedModel, task: Task[Any]) -> ExitHeads:
    """The exits of a checkpoint.

    Args:
        directory: directory of the checkpoint.
        model, task: loaded from it.

    Raises:
        InputError: the task cannot exit early, or the checkpoint has no exits.
        CheckpointError: exits.safetensors is missing, damaged or belongs to another model.
    """
    check_exits(task)
    path, described = directory / EXITS, directory / TASK
    settings: Mapping[str, Any] = {}
    if described.exists():
        settings = read_json(described, max_bytes=1_000_000, error=CheckpointError)
    if "exits" not in settings:
        if path.exists():
            raise CheckpointError(
                f"{path} is there, but {described} says nothing of exits: they are of another run. "
                "Take both from one run of minilm finetune --exits."
            )
        raise InputError(
            f"{directory} has no exits: every text needs all layers. Train some: "
            "minilm finetune --exits."
        )
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing, though {described} says that there are exits. Copy it, too."
        )
    heads = ExitHeads.read(path, model)
    said, applications = settings["exits"], len(heads.classifiers) + 1
    if not isinstance(said, dict) or said.get("applications") != applications:
        raise CheckpointError(
            f"{described}: exits is {said!r:.100}, but the model applies {applications} layers. "
            "Take all files from one run of minilm finetune --exits."
        )
    return heads


@torch.inference_mode()
def outputs_by_depth(
    model: PretrainedModel,
    heads: ExitHeads,
    task: Task[Any],
    samples: Sequence[Sample],
    tokens_per_batch: int,
) -> list[list[Floats]]:
    """What the task keeps of the outputs after 1 to L applications, for all samples in order."""
    exits = EveryExit(model, heads)
    depths = len(heads.classifiers) + 1
    found: list[dict[int, Floats]] = [{} for _ in range(depths)]
    for batch in batches(task, samples, tokens_per_batch):
        moved = batch.to(model.device)
        (logits,) = run_model(exits, moved, moved.lengths)  # (B, L, C)
        for outputs, of_depth in zip(found, logits.unbind(dim=1), strict=True):
            kept = task.outputs(of_depth, moved)
            outputs.update(zip(batch.samples.tolist(), kept, strict=True))
    return [[outputs[number] for number in range(len(samples))] for outputs in found]


def scores_by_depth(
    model: PretrainedModel,
    heads: ExitHeads,
    task: Task[Any],
    examples: Sequence[Any],
    samples: Sequence[Sample],
    tokens_per_batch: int,
) -> list[float]:
    """The task's own score after 1 to L applications, all texts leaving at the same depth."""
    found = outputs_by_depth(model, heads, task, samples, tokens_per_batch)
    return [
        float(task.scores(examples, task.decode(examples, samples, outputs))[task.metric])
        for outputs in found
    ]
