"""What a run will cost, measured on its first steps."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from minilm.errors import TrainingError
from minilm.training.distributed import Processes
from minilm.training.learner import Learner, TrainingBatch, TrainingData
from minilm.training.saving import copied
from minilm.training.settings import TrainingSettings, is_due
from minilm.training.snapshots import Snapshot, write_snapshot
from minilm.training.steps import prepared_steps
from minilm.training.updates import Updater

LEAST_SECONDS = 2.0  # steps are measured for so long,
MOST_STEPS = 20  # or this many of them


@dataclass(frozen=True)
class DryRun:
    """Measurements of a few real steps, an evaluation and a snapshot.

    Attributes:
        parameters: number of trained parameters.
        tokens_per_step: mean over the steps that were taken.
        steps: number of steps of the whole run.
        steps_per_epoch: number of steps of the first epoch.
        seconds_of_first_step: time of the first step, which also allocates memory and makes the
            optimiser.
        seconds_per_step: mean of the other steps, including the wait for their data.
        seconds_per_epoch: time to plan the steps of an epoch, as far as its first step waits for
            it.
        evaluations: number of evaluations of the whole run, unless it is stopped early.
        seconds_per_evaluation: 0 if nothing is held out.
        snapshots: number of snapshots of the whole run. With `select` one follows every better
            evaluation; half of the evaluations are assumed to be better.
        seconds_per_copy: how long training is interrupted for a snapshot.
        seconds_per_snapshot: how long it takes to write one in the background.
        bytes_per_snapshot: its size on the disk.
        background_is_free: whether writing does not slow down training: there are processor cores
            to spare, or training is on a GPU.
        seconds_measuring: how long the measurement took.
        held_out: the scores before any training.
    """

    parameters: int
    tokens_per_step: float
    steps: int
    steps_per_epoch: int
    seconds_of_first_step: float
    seconds_per_step: float
    seconds_per_epoch: float
    evaluations: int
    seconds_per_evaluation: float
    snapshots: int
    seconds_per_copy: float
    seconds_per_snapshot: float
    bytes_per_snapshot: int
    background_is_free: bool
    seconds_measuring: float
    held_out: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Estimated seconds of the whole run, from the first step to the last snapshot."""
        epochs = -(-self.steps // self.steps_per_epoch)
        training = (
            self.seconds_of_first_step
            + (self.steps - 1) * self.seconds_per_step
            + epochs * self.seconds_per_epoch
            + self.evaluations * self.seconds_per_evaluation
            + self.snapshots * self.seconds_per_copy
        )
        writing = self.snapshots * self.seconds_per_snapshot
        # each snapshot waits for the one before, the end of the run for the last
        if self.background_is_free:
            return max(training, writing) + self.seconds_per_snapshot
        return training + writing


def dry_run(
    learner: Learner,
    data: TrainingData,
    settings: TrainingSettings,
    processes: Processes,
    held_out: Sequence[TrainingBatch] = (),
    output: Path | None = None,
    steps: int = 4,
) -> DryRun:
    """Takes a few real steps, which change the learner and leave nothing on the disk.

    Args:
        learner, data, settings, processes, held_out: as for `minilm.training.loop.train`.
        output: the run's directory, which need not exist: a snapshot is written to its disk, and
            removed again. None = the directory for temporary files.
        steps: the least number of steps; one more is taken first to warm up.
    """
    started = time.monotonic()
    updater = Updater(learner, settings, processes)
    scores, evaluating = _evaluation(updater, held_out, processes)
    per_epoch = data.count_steps(1)
    began = time.monotonic()
    # not one that was drawn up before; its first step, since others may be drawn up later
    next(iter(data.steps(1 if settings.steps > per_epoch else 0)), None)
    drawing_up = time.monotonic() - began
    prepared = prepared_steps(data, settings, processes)
    seconds: list[float] = []
    tokens: list[int] = []
    # clocks differ between processes, the number of steps must not
    while len(seconds) <= steps or (
        len(seconds) <= MOST_STEPS and processes.agree(sum(seconds) < LEAST_SECONDS)
    ):
        began = time.monotonic()
        _, batches = next(prepared)
        outcome = updater.update(min(len(seconds) + 1, settings.steps), batches)
        seconds.append(time.monotonic() - began)
        tokens.append(outcome.tokens)
    prepared.close()
    copying, writing, size = _snapshot(updater, output) if processes.first else (0.0, 0.0, 0)
    return DryRun(
        parameters=sum(p.numel() for p in learner.parameters() if p.requires_grad),
        tokens_per_step=fmean(tokens),
        steps=settings.steps,
        steps_per_epoch=per_epoch,
        seconds_of_first_step=seconds[0],
        seconds_per_step=fmean(seconds[1:]),
        seconds_per_epoch=drawing_up,
        evaluations=_times(settings.evaluate_every, settings) if held_out else 0,
        seconds_per_evaluation=evaluating,
        snapshots=_snapshots(settings),
        seconds_per_copy=copying,
        seconds_per_snapshot=writing,
        bytes_per_snapshot=size,
        background_is_free=processes.device.type != "cpu"
        or torch.get_num_threads() * processes.world < (os.cpu_count() or 1),
        seconds_measuring=time.monotonic() - started,
        held_out=scores,
    )


def _evaluation(
    updater: Updater, held_out: Sequence[TrainingBatch], processes: Processes
) -> tuple[Mapping[str, float], float]:
    """Scores, and seconds; a short one is done twice, as the first also allocates."""
    if not held_out:
        return {}, 0.0
    scores: Mapping[str, float] = {}
    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        scores = updater.evaluate(held_out) or {}
        seconds = time.monotonic() - began
        if processes.agree(seconds > LEAST_SECONDS):
            break
    return scores, seconds


def _snapshot(updater: Updater, output: Path | None) -> tuple[float, float, int]:
    """Seconds of the copy, seconds of writing it, and bytes on the disk."""
    began = time.monotonic()
    model, optimiser = map(copied, updater.state())
    copying = time.monotonic() - began
    place = None if output is None else next(p for p in (output, *output.parents) if p.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".dry-run-") as directory:
            began = time.monotonic()
            made = write_snapshot(Path(directory), Snapshot(0, model, optimiser, {}))
            writing = time.monotonic() - began
            size = sum(file.stat().st_size for file in made.iterdir())
    except OSError as problem:
        raise TrainingError(
            f"{place} cannot be written: {problem.strerror or problem}."
        ) from problem
    return copying, writing, size


def _times(every: int, settings: TrainingSettings) -> int:
    """How often something done every `every` steps and at the end is done."""
    return 1 if every == 0 else -(-settings.steps // every)


def _snapshots(settings: TrainingSettings) -> int:
    regular = _times(settings.snapshot_every, settings)
    if settings.select is None or settings.evaluate_every == 0:
        return regular
    others = sum(
        not is_due(step, settings.snapshot_every, settings.steps)
        for step in range(settings.evaluate_every, settings.steps, settings.evaluate_every)
    )
    return regular + others // 2
