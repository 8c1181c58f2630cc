"""What a run will cost, measured on its first steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

from minilm.training.distributed import Processes
from minilm.training.settings import TrainingSettings
from minilm.training.steps import prepared_steps
from minilm.training.updates import Learner, TrainingBatch, TrainingData, Updater


@dataclass(frozen=True)
class DryRun:
    """Figures of a few real steps.

    Attributes:
        parameters: numbers that are trained.
        tokens_per_step: mean over the steps of the first epoch that were taken.
        steps_per_epoch: of the first epoch.
        seconds_per_step: median, without the first step, which allocates.
        held_out: scores before any training.
    """

    parameters: int
    tokens_per_step: float
    steps_per_epoch: int
    seconds_per_step: float
    held_out: Mapping[str, float]


def dry_run(
    learner: Learner,
    data: TrainingData,
    settings: TrainingSettings,
    processes: Processes,
    held_out: Sequence[TrainingBatch] = (),
    steps: int = 4,
) -> DryRun:
    """Takes a few real steps, which change the learner and write nothing.

    Args:
        learner, data, settings, processes, held_out: as for `minilm.training.loop.train`.
        steps: how many; one more is taken first to warm up.
    """
    updater = Updater(learner, settings, processes)
    scores = updater.evaluate(held_out) if held_out else None
    seconds, tokens = [], []
    for number, (_, batches) in enumerate(
        islice(prepared_steps(data, settings, processes), steps + 1), start=1
    ):
        began = time.monotonic()
        outcome = updater.update(min(number, settings.steps), batches)
        seconds.append(time.monotonic() - began)
        tokens.append(outcome.tokens)
    return DryRun(
        parameters=sum(p.numel() for p in learner.parameters() if p.requires_grad),
        tokens_per_step=sum(tokens) / len(tokens),
        steps_per_epoch=data.count_steps(1),
        seconds_per_step=median(seconds[1:]),
        held_out=scores or {},
    )
