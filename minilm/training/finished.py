"""The end of a run: what its directory still holds, and cleaning it up."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from minilm.errors import TrainingError, setting
from minilm.files.atomic import replace_files
from minilm.files.json_file import json_bytes, read_json
from minilm.files.progress import counted
from minilm.training.best import from_json, to_json
from minilm.training.distributed import Processes
from minilm.training.saving import BEST, SNAPSHOTS
from minilm.training.settings import TrainingSettings
from minilm.training.snapshots import remove_snapshots

FINISHED = "finished.json"


@dataclass(frozen=True)
class Finished:
    """What is remembered of a finished run without snapshots.

    Attributes:
        steps: number of updates that were asked for.
        step: number of updates done.
        chosen: number of updates after which the run had the weights that it ended with.
        held_out: the scores of these weights.
    """

    steps: int
    step: int
    chosen: int
    held_out: Mapping[str, float]


def clean(run: Path, finished: Finished) -> None:
    """Removes the snapshots and best weights of a finished run; log and settings stay.

    If this is interrupted at any point, the run either is remembered as finished or can resume.

    Args:
        run: the run's directory.
        finished: what to remember.
    """
    content = json_bytes(
        {
            "steps": finished.steps,
            "step": finished.step,
            "chosen": finished.chosen,
            "held_out": to_json(finished.held_out),
        }
    )
    replace_files({run / FINISHED: lambda path: path.write_bytes(content)})
    for directory in (run / SNAPSHOTS, run / BEST):
        remove_snapshots(directory)
        shutil.rmtree(directory, ignore_errors=True)


def read_finished(run: Path) -> Finished | None:
    """What `clean` left, or None.

    Raises:
        TrainingError: the file is damaged.
    """
    path = run / FINISHED
    if not path.exists():
        return None
    found = read_json(path, max_bytes=1_000_000, error=TrainingError)
    try:
        scores = from_json(found["held_out"])
        return Finished(found["steps"], found["step"], found["chosen"], scores)
    except (KeyError, TypeError, AttributeError):
        raise TrainingError(
            f"{path} is damaged. Remove {run} and keep the model, or train in another output."
        ) from None


def clean_up(run: Path, end: Finished, wanted: bool, say: Callable[[str], None]) -> None:
    """Cleans a run that has just finished, or says how much could be removed.

    Args:
        run: the run's directory.
        end: how the run ended.
        wanted: whether to clean it.
        say: receives the message.
    """
    size = megabytes(run)
    if wanted:
        clean(run, end)
        say(f"removed the snapshots of the run, {size - megabytes(run):,.1f} MB")
    else:
        say(
            f"{run} takes {size:,.1f} MB. The finished model does not need it; remove it, or "
            f"have {setting('clean', True)} remove it at the end of a run"
        )


def finished_before(
    run: Path, settings: TrainingSettings, processes: Processes, say: Callable[[str], None]
) -> Finished | None:
    """How the run ended, if it is finished and was cleaned; the same in all processes.

    Raises:
        TrainingError: more steps are asked for now than it had.
    """
    found = read_finished(run) if processes.first else None
    if processes.agree(-1 if found is None else found.step) < 0:
        return None
    found = found or read_finished(run)
    if found is None:
        raise TrainingError(f"{run / FINISHED} cannot be read here. Is the directory shared?")
    if found.steps != settings.steps:
        raise TrainingError(
            f"{run.parent} holds a finished run of {counted(found.steps, 'step')} whose snapshots "
            "were removed: it cannot resume. Start from its model, in another output."
        )
    if processes.first:
        clean(run, found)  # what an interruption may have left
        say("all steps are done and the snapshots are removed; the model does not change")
    return found


def megabytes(directory: Path) -> float:
    """The size of all files below a directory, in units of 1,000,000 bytes."""
    size = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size / 1e6
