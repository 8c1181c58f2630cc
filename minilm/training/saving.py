"""Snapshots written in the background: training waits for a copy of its tensors, not for the disk.

One thread first writes the best weights, if there are new ones, then the snapshot that names them,
and then removes what no snapshot needs any more. Whenever the process is killed, the newest whole
snapshot is there, and the best weights that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from minilm.errors import TrainingError
from minilm.training.snapshots import (
    Snapshot,
    remove_snapshots,
    save_snapshot,
    snapshot_states,
    write_snapshot,
)

SNAPSHOTS, BEST = "snapshots", "best"  # in the directory of a run


@dataclass(frozen=True)
class Saved:
    """What became of a snapshot.

    Attributes:
        step: the step of the snapshot.
        best: step of the best weights that were written with it; None = there were none.
        problem: why it could not be written; None = it is complete.
    """

    step: int
    best: int | None
    problem: TrainingError | None


class Saver:
    """Writes the snapshots of a run, one at a time, in a thread of its own.

    Args:
        run: the run's directory.
        keep: number of whole snapshots to keep.
        before: called before each snapshot is written, to write what must be on the disk first.
    """

    def __init__(self, run: Path, keep: int, before: Callable[[], None]) -> None:
        self._run = run
        self._keep = keep
        self._before = before
        self._pool = ThreadPoolExecutor(1, "snapshots")
        self._job: Future[None] | None = None
        self._job_steps: tuple[int, int | None] = (-1, None)
        self._trusted: set[int] = set()

    def trust(self, step: int) -> None:
        """Notes that the snapshot of this step was read and found whole."""
        self._trusted.add(step)

    def save(self, snapshot: Snapshot, best: Snapshot | None, best_step: int | None) -> None:
        """Hands over a snapshot to be written. The previous one must have been collected.

        Args:
            snapshot: its tensors must not change any more.
            best: the best weights, if they are not on the disk yet.
            best_step: the step of the best weights that `snapshot` names.
        """
        assert self._job is None
        self._job_steps = snapshot.step, None if best is None else best.step
        self._job = self._pool.submit(self._write, snapshot, best, best_step)

    def collect(self, *, wait: bool) -> Saved | None:
        """What became of the last snapshot that was handed over; None = nothing new.

        Args:
            wait: whether to wait until it is known.
        """
        if self._job is None or not (wait or self._job.done()):
            return None
        problem = self._job.exception()
        self._job = None
        if problem is not None and not isinstance(problem, TrainingError):
            raise problem
        step, best = self._job_steps
        if problem is None:
            self._trusted.add(step)
        return Saved(step, best, problem)

    def close(self) -> None:
        """Waits for the one that is being written."""
        self._pool.shutdown()

    def _write(self, snapshot: Snapshot, best: Snapshot | None, best_step: int | None) -> None:
        if best is not None:
            write_snapshot(self._run / BEST, best)
        self._before()
        directory = self._run / SNAPSHOTS
        save_snapshot(directory, snapshot, keep=self._keep, trusted=self._trusted)
        states = snapshot_states(directory).values()
        named = {state["best"]["step"] for state in states if "best" in state} | {best_step}
        remove_snapshots(self._run / BEST, keep={step for step in named if step is not None})


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that the next update does not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
