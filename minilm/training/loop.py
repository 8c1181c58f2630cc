"""A training run: how it starts or resumes, and how it ends. Its steps are taken in session.py:

    data.steps(epoch) -> the samples of a step -> data.split -> data.batch      (steps.py)
        -> learner(batch) -> loss terms -> gradients -> checks -> optimiser     (updates.py)
        -> observers: log.jsonl, progress, the user's own                       (observers.py)
        -> now and then an evaluation and a snapshot                            (best.py, saving.py)

A run lives in a directory: OUTPUT/run/ holds settings.json, log.jsonl and snapshots/; what the run
was for, a model that loads, appears in OUTPUT itself at the end. The same command goes on where a
killed run stopped. As all randomness is a function of (seed, step, sample), and on a GPU that of
dropout one of (seed, step, micro-batch, process), a snapshot holds no generator, and the weights
at the end do not show that the run was ever interrupted.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minilm.errors import TrainingError
from minilm.files.atomic import make_directory
from minilm.training.best import Best
from minilm.training.distributed import Processes
from minilm.training.finished import Finished, clean_up, finished_before
from minilm.training.learner import Learner, TrainingBatch, TrainingData
from minilm.training.lock import locked
from minilm.training.log import LOG
from minilm.training.observers import Observer
from minilm.training.optimiser import build_optimiser
from minilm.training.record import SETTINGS, check_record, environment
from minilm.training.saving import SNAPSHOTS
from minilm.training.session import Session
from minilm.training.settings import TrainingSettings
from minilm.training.signals import StopRequest
from minilm.training.snapshots import Snapshot, newest_snapshot
from minilm.training.updates import Updater


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        step: number of updates done.
        finished: False if it was asked to stop before the end.
        held_out: the last evaluation, or the best one if the settings select it.
        chosen: number of updates after which the run had the weights that it ends with.
        exit_code: what a command should exit with: 0, or 128 plus the signal's number.
    """

    step: int
    finished: bool
    held_out: Mapping[str, float]
    chosen: int
    exit_code: int = 0


def train(
    learner: Learner,
    data: TrainingData,
    settings: TrainingSettings,
    output: Path,
    *,
    processes: Processes,
    finish: Callable[[Path], None],
    held_out: Sequence[TrainingBatch] = (),
    description: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    allow_changes: bool = False,
    observers: Sequence[Observer] = (),
    clean: bool = False,
    command: Mapping[str, Any] | None = None,
    reload: Callable[[Path], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Starts or resumes training, and trains until all steps are done or a signal asks to stop.

    With `settings.select` it may end earlier, and ends with the best weights.

    Args:
        learner: what is trained.
        data: what it learns from.
        settings: the settings of the loop.
        output: the run's directory; created. If it holds a run, that run is resumed.
        processes: see `minilm.training.distributed.join`.
        finish: writes the trained model into the directory it is given; called at the end by the
            first process.
        held_out: batches to evaluate on; the same in every process.
        description: JSON values that say what is trained on what; they must be the same when a run
            resumes.
        evaluation: JSON values that identify `held_out`; if they have changed when a run resumes,
            `allow_changes` is needed, and the choice of the best evaluation starts afresh.
        allow_changes: resume although settings or data have changed since the start.
        observers: objects whose methods are called at every event, in the first process.
        clean: whether to remove the snapshots and best weights of the finished run.
        command: JSON values that say with which command and options the run was started; kept in
            settings.json, never compared.
        reload: loads what `finish` wrote into the learner; called in all processes if the run was
            finished and cleaned before.
        say: receives messages.

    Returns:
        How it ended, with the learner in eval mode. After SIGINT, SIGTERM or SIGUSR1 everything is
        saved first.

    Raises:
        TrainingError: settings or data differ from those that the run was started with; another
            process is training it; numbers are not finite; a snapshot cannot be written; an
            observer failed.
    """
    if settings.select is not None and not held_out:
        raise TrainingError(
            f"select is {settings.select!r}, but nothing is held out to evaluate on."
        )
    build_optimiser(learner, settings)  # what it refuses leaves no run behind
    run = (output / LOG).parent
    record = {
        "settings": settings.to_dict(),
        "data": dict(data.fingerprint),
        "description": dict(description or {}),
        "evaluation": dict(evaluation or {}),
    }
    with ExitStack() as stack:
        with processes.waiting_for_first():
            if processes.first:
                _make_directory(run)
                stack.enter_context(locked(run))
                check_record(run, record, environment(processes), allow_changes, say, command)
        if (before := finished_before(run, settings, processes, say)) is not None:
            reload(output)
            learner.eval()
            return Result(before.step, True, before.held_out, before.chosen)
        updater = Updater(learner, settings, processes)
        snapshot = _common_snapshot(run / SNAPSHOTS, processes, say)
        best = Best(run, settings, processes.first, evaluation)
        session = Session(updater, settings, run, processes, held_out, best, observers, say)
        if snapshot is not None:
            session.restore(snapshot)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stop = stack.enter_context(StopRequest())
        ended = False  # all that was to be done is done, the model is written
        try:
            finished = session.run(data, stop)
            chosen = session.choose() if finished else session.step
            learner.eval()
            with processes.waiting_for_first():
                if finished and processes.first:
                    finish(output)
                    end = Finished(settings.steps, session.step, chosen, session.scores)
                    clean_up(run, end, clean, say)
            ended = finished
        finally:
            session.end(ended)
        session.raise_failure_of_observers(finished)
        if not finished and processes.first:
            say(f"stopped after step {session.step:,}; the same command resumes from there")
        # a process that got no signal itself was stopped by one that another got
        exit_code = 0 if finished else stop.exit_code or 128 + signal.SIGTERM
    return Result(session.step, finished, session.scores, chosen, exit_code)


def _make_directory(run: Path) -> None:
    """Makes the directory of a run, and refuses one with snapshots but without settings."""
    try:
        make_directory(run / SNAPSHOTS)
    except OSError as problem:
        raise TrainingError(f"{run} cannot be created: {problem.strerror or problem}.") from problem
    if not (run / SETTINGS).exists() and any((run / SNAPSHOTS).iterdir()):
        raise TrainingError(
            f"{run} holds snapshots, but no {SETTINGS} that describes them. Remove the "
            "directory, or take another output."
        )


def _common_snapshot(
    directory: Path, processes: Processes, say: Callable[[str], None]
) -> Snapshot | None:
    """The newest sound snapshot; the first process chooses, the others take the same."""
    with processes.waiting_for_first():
        found = newest_snapshot(directory, say=say) if processes.first else None
    step = processes.agree(-1 if found is None else found.step)
    if step < 0 or processes.first:
        return found
    same = newest_snapshot(directory, say=lambda _: None)
    if same is None or same.step != step:
        raise TrainingError(
            f"{directory}: the first process resumes from step {step}, this one "
            "cannot read that snapshot. Is the directory shared?"
        )
    return same
