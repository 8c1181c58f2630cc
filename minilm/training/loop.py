"""The training loop: steps in order, evaluations, snapshots, and going on after an interruption.

    data.steps(epoch) -> the samples of a step -> data.split -> data.batch      (steps.py)
        -> learner(batch) -> loss terms -> gradients -> checks -> optimiser     (updates.py)
        -> log.jsonl, now and then an evaluation and a snapshot                 (here)

A run lives in a directory: OUTPUT/run/ holds settings.json, log.jsonl and snapshots/; what the run
was for, a model that loads, appears in OUTPUT itself at the end. The same command goes on where a
killed run stopped. As all randomness is a function of (seed, step, sample), and on a GPU that of
dropout one of (seed, step, micro-batch, process), a snapshot holds no generator, and the weights
at the end do not show that the run was ever interrupted.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from minilm.errors import TrainingError
from minilm.files.atomic import make_directory
from minilm.files.progress import is_watched
from minilm.training.best import Best
from minilm.training.distributed import Processes
from minilm.training.lock import locked
from minilm.training.log import LOG, Log, Progress
from minilm.training.record import SETTINGS, check_record, environment
from minilm.training.settings import TrainingSettings
from minilm.training.signals import StopRequest
from minilm.training.snapshots import Snapshot, newest_snapshot, save_snapshot
from minilm.training.steps import DataPosition, prepared_steps
from minilm.training.updates import Learner, Outcome, TrainingBatch, TrainingData, Updater

SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        step: updates done.
        finished: False if it was asked to stop before the end.
        held_out: the last evaluation, or the best one if the settings select it.
        chosen: updates before the weights that the run ends with.
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
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Trains, or goes on training, until all steps are done or a signal asks to stop.

    With `settings.select` it may end earlier, and ends with the best weights.

    Args:
        learner: what is trained.
        data: what it learns from.
        settings: numbers of the loop.
        output: the run's directory; created. If it holds a run, that one goes on.
        processes: see `minilm.training.distributed.join`.
        finish: writes the trained model into the directory it is given; called at the end by the
            first process.
        held_out: batches to evaluate on; the same in every process.
        description: JSON values that say what is trained on what; a run that goes on must be told
            the same.
        evaluation: JSON values that identify `held_out`; if they are others when a run goes on, it
            must be allowed, and the choice of the best evaluation starts anew.
        allow_changes: go on although settings or data are others than at the start.
        say: takes messages.

    Returns:
        How it ended, with the learner in eval mode. After SIGINT, SIGTERM or SIGUSR1 everything is
        saved first.

    Raises:
        TrainingError: other settings or data than the run was started with; another process is at
            it; numbers that are not finite; a snapshot that cannot be written.
    """
    if settings.select is not None and not held_out:
        raise TrainingError(
            f"select is {settings.select!r}, but nothing is held out to evaluate on."
        )
    run = (output / LOG).parent
    with ExitStack() as stack:
        if processes.first:
            try:
                make_directory(run / SNAPSHOTS)
            except OSError as problem:
                raise TrainingError(
                    f"{run} cannot be created: {problem.strerror or problem}."
                ) from problem
            stack.enter_context(locked(run))
            if not (run / SETTINGS).exists() and any((run / SNAPSHOTS).iterdir()):
                raise TrainingError(
                    f"{run} holds snapshots, but no {SETTINGS} that says what they are of. Remove "
                    "the directory, or take another output."
                )
            record = {
                "settings": settings.to_dict(),
                "data": dict(data.fingerprint),
                "description": dict(description or {}),
                "evaluation": dict(evaluation or {}),
            }
            check_record(run, record, environment(processes), allow_changes, say)
        processes.wait()
        updater = Updater(learner, settings, processes)
        snapshot = _common_snapshot(run / SNAPSHOTS, processes, say)
        best = Best(run, settings, processes.first, evaluation)
        session = _Session(updater, settings, run, processes, held_out, best, say)
        if snapshot is not None:
            session.restore(snapshot)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stop = stack.enter_context(StopRequest())
        finished = session.run(data, stop)
        chosen = session.choose() if finished else session.step
        learner.eval()
        if finished and processes.first:
            finish(output)
        processes.wait()
        if not finished and processes.first:
            say(f"stopped after step {session.step:,}; the same command goes on from there")
        # a process that got no signal itself was stopped by one that another got
        exit_code = 0 if finished else stop.exit_code or 128 + signal.SIGTERM
    return Result(session.step, finished, session.scores, chosen, exit_code)


class _Session:
    """The part of a run that one process start does."""

    def __init__(
        self,
        updater: Updater,
        settings: TrainingSettings,
        run: Path,
        processes: Processes,
        held_out: Sequence[TrainingBatch],
        best: Best,
        say: Callable[[str], None],
    ) -> None:
        self._updater = updater
        self._settings = settings
        self._run = run
        self._processes = processes
        self._held_out = held_out
        self._say = say
        self.step = 0
        self.scores: dict[str, float] = {}
        self._best = best
        self._position = DataPosition()
        self._tokens = 0
        self._skips = 0  # in a row
        self._evaluated = 0  # the step of the last evaluation
        self._saved = -1  # the step of the last snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to where a snapshot was taken."""
        if snapshot.step > self._settings.steps:
            raise TrainingError(
                f"{self._run.parent} holds a run that has done {snapshot.step:,} steps, more than "
                f"the {self._settings.steps:,} asked for. Ask for more, or take another output."
            )
        self._updater.restore(snapshot.model, snapshot.optimiser)
        state = snapshot.state
        self.step = self._saved = snapshot.step
        self.scores = dict(state["scores"])
        self._position = DataPosition(state["epoch"], state["index"])
        self._tokens = state["tokens"]
        self._skips = state["skips"]
        self._evaluated = state["evaluated"]
        # "best" is not in snapshots of earlier versions
        if "best" in state and not self._best.restore(state["best"]):
            self.scores, self._evaluated = {}, 0
            if self._processes.first:
                self._say("the evaluation differs: earlier scores are left out")
        if self._processes.first:
            done = self.step == self._settings.steps or self._best.should_stop
            self._say("all steps are done" if done else f"going on after step {self.step:,}")

    def run(self, data: TrainingData, stop: StopRequest) -> bool:
        """Does what is left to do; False if it was asked to stop before the end."""
        first = self._processes.first
        with Log(self._run / LOG.name if first else None, self.step, self._evaluated) as log:
            progress = Progress(
                self.step,
                self._settings.steps,
                self._say if first else lambda _: None,
                bar=first and is_watched(),
            )
            try:
                return self._run_steps(data, stop, log, progress)
            finally:
                progress.close()

    def choose(self) -> int:
        """Goes back to the best weights if the settings say so; the step they are of."""
        self._processes.wait()  # until the first process has written them
        found = self._best.weights()
        if found is None:
            return self.step
        weights, self.scores = found
        self._updater.restore(weights, {})
        assert self._best.step is not None
        return self._best.step

    def _run_steps(
        self, data: TrainingData, stop: StopRequest, log: Log, progress: Progress
    ) -> bool:
        settings = self._settings
        if 0 < self.step < settings.steps:
            log.write({"event": "resumed", "step": self.step})
        # an evaluation that a signal cut short is made up for first
        if not self._evaluate_if_due(stop, log, progress):
            return False
        if self._best.should_stop:
            return True
        steps = prepared_steps(data, settings, self._processes, self._position)
        started = time.monotonic()
        for position, batches in islice(steps, settings.steps - self.step):
            began = time.monotonic()
            outcome = self._updater.update(self.step + 1, batches, lambda: stop.requested)
            self._count(outcome)
            self.step += 1
            self._position = position
            self._tokens += outcome.tokens
            now = time.monotonic()
            row = _row(outcome, self.step, position.epoch, self._tokens, now - began, now - started)
            if _due(self.step, settings.log_every, settings.steps) or outcome.skipped:
                log.write(row)
            progress.step(self.step, row)
            stopped = outcome.stop or not self._evaluate_if_due(stop, log, progress)
            better, should_stop = self._best.step == self.step, self._best.should_stop
            due = _due(self.step, settings.snapshot_every, settings.steps)
            if stopped or better or should_stop or due:
                self._save(log, progress, must=stopped)
            if stopped:
                return False
            if should_stop:
                progress.note(f"early stopping: no better for {self._best.bad_evals} evaluations")
                return True
        return True

    def _count(self, outcome: Outcome) -> None:
        """Bears a few skipped updates in a row, no more."""
        self._skips = self._skips + 1 if outcome.skipped else 0
        if self._skips > self._settings.max_skips:
            raise TrainingError(
                f"Step {self.step + 1}: the loss or its gradient was not finite {self._skips} "
                "times in a row. Lower the learning rate or inspect the data."
            )

    def _evaluate_if_due(self, stop: StopRequest, log: Log, progress: Progress) -> bool:
        """Evaluates where the settings say so; False if a signal came in between."""
        settings = self._settings
        due = self.step > 0 and _due(self.step, settings.evaluate_every, settings.steps)
        if not due or not self._held_out or self._evaluated == self.step:
            return True
        scores = self._updater.evaluate(self._held_out, lambda: stop.requested)
        if scores is None:
            return False
        self.scores, self._evaluated = scores, self.step
        log.write({"step": self.step, "held_out": scores})
        if self._processes.first:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            progress.note(f"step {self.step:,} held out  {shown}")
        self._best.update(self.step, scores, lambda: self._updater.state()[0])
        return True

    def _save(self, log: Log, progress: Progress, *, must: bool) -> None:
        if self._saved == self.step:
            return
        if self._processes.first:
            model, optimiser = self._updater.state()
            state = {
                "epoch": self._position.epoch,
                "index": self._position.index,
                "tokens": self._tokens,
                "skips": self._skips,
                "evaluated": self._evaluated,
                "scores": self.scores,
                "best": self._best.state(),
            }
            snapshot = Snapshot(self.step, model, optimiser, state)
            try:
                log.sync()
                save_snapshot(self._run / SNAPSHOTS, snapshot, keep=self._settings.keep_snapshots)
            except TrainingError as problem:
                if must or self._settings.on_save_error == "raise" or self._saved < 0:
                    raise
                progress.note(
                    f"warning: {problem} The run goes on; the last snapshot is of step "
                    f"{self._saved:,}."
                )
                log.write({"event": "save failed", "step": self.step, "reason": str(problem)})
                return
        self._saved = self.step


def _row(
    outcome: Outcome, step: int, epoch: int, tokens: int, seconds: float, since: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step": step,
        "epoch": epoch,
        "tokens": tokens,
        **outcome.terms,
        "learning_rate": outcome.learning_rate,
        "gradient_norm": outcome.gradient_norm,
        "tokens_per_second": round(outcome.tokens / seconds, 1),
        "seconds": round(since, 3),
    }
    return {**row, "skipped": True} if outcome.skipped else row


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _common_snapshot(
    directory: Path, processes: Processes, say: Callable[[str], None]
) -> Snapshot | None:
    """The newest sound snapshot; the first process chooses, the others take the same."""
    found = newest_snapshot(directory, say=say) if processes.first else None
    step = processes.agree(-1 if found is None else found.step)
    if step < 0 or processes.first:
        return found
    same = newest_snapshot(directory, say=lambda _: None)
    if same is None or same.step != step:
        raise TrainingError(
            f"{directory}: the first process goes on from step {step}, this one "
            "cannot read that snapshot. Is the directory shared?"
        )
    return same
