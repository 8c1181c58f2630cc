"""What a dry run foretells, against what the run takes, by a clock that the test moves."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minilm.cli import main
from minilm.files.arrays import Integers
from minilm.training import dry_run as module, saving, snapshots
from minilm.training.distributed import Processes
from minilm.training.dry_run import DryRun, dry_run
from minilm.training.settings import TrainingSettings
from task_data import colour_texts, save_start
from test_observers import Diary
from toy import ALONE, Cloud, Line, Points, run

SECONDS = {"batch": 0.5, "forward": 1.0, "eval_step": 2.0, "write": 4.0, "steps": 3.0}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, what: str) -> None:
        self.now += SECONDS[what]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # writing takes its time from training
    original = snapshots.write_snapshot

    def write(directory: Path, snapshot: Any) -> Path:
        made.spend("write")
        return original(directory, snapshot)

    for owner in (snapshots, saving, module):
        monkeypatch.setattr(owner, "write_snapshot", write)
    return made


class SlowLine(Line):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, batch: Points, counts: Any) -> Any:
        self.clock.spend("forward")
        return super().forward(batch, counts)

    def eval_step(self, batch: Points) -> Mapping[str, tuple[float, float]]:
        self.clock.spend("eval_step")
        return super().eval_step(batch)


class SlowCloud(Cloud):
    """Whose epochs are drawn up once each, as those of sentence pairs are."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.drawn: set[int] = set()

    def steps(self, epoch: int) -> Any:
        if epoch not in self.drawn:
            self.clock.spend("steps")
            self.drawn.add(epoch)
        return super().steps(epoch)

    def batch(self, epoch: int, samples: Integers) -> Points:
        if epoch < 1000:  # those held out are made once
            self.clock.spend("batch")
        return super().batch(epoch, samples)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 40},
        {"steps": 40, "evaluate_every": 5, "snapshot_every": 10},
        {"steps": 60, "evaluate_every": 4, "snapshot_every": 25, "select": "squared_error"},
        {"steps": 7, "evaluate_every": 0, "snapshot_every": 0},
    ],
)
def test_it_foretells_the_whole_run(tmp_path: Path, clock: Clock, options: dict[str, Any]) -> None:
    """Data, evaluations and snapshots included, within a quarter."""
    options = {"learning_rate": 0.1, "snapshot_every": 4, **options}
    settings = TrainingSettings(**options)
    data = SlowCloud(clock)
    measured = dry_run(SlowLine(clock), data, settings, ALONE, data.held_out(), tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing is left
    assert measured.seconds_per_step == pytest.approx(1.5)
    assert measured.seconds_per_evaluation == pytest.approx(4.0)
    assert measured.seconds_per_snapshot == pytest.approx(4.0)
    diary = Diary()
    began = clock.now
    run(tmp_path, SlowLine(clock), SlowCloud(clock), observers=[diary], **options)
    assert measured.seconds == pytest.approx(clock.now - began, rel=0.25)
    assert measured.evaluations == len(diary.evaluations)
    if "select" not in options:
        assert measured.snapshots == len(diary.snapshots)
    # what is logged counts the wait for the data as well
    assert [row["tokens_per_second"] for row in diary.steps][1:4] == [round(16 / 1.5, 1)] * 3


def figures(**changes: Any) -> DryRun:
    values: dict[str, Any] = {
        "parameters": 1,
        "tokens_per_step": 1.0,
        "steps": 100,
        "steps_per_epoch": 50,
        "seconds_of_first_step": 2.0,
        "seconds_per_step": 1.0,
        "seconds_per_epoch": 10.0,
        "evaluations": 3,
        "seconds_per_evaluation": 20.0,
        "snapshots": 4,
        "seconds_per_copy": 0.5,
        "seconds_per_snapshot": 5.0,
        "bytes_per_snapshot": 1,
        "background_is_free": False,
        "seconds_measuring": 0.0,
        "held_out": {},
    }
    return DryRun(**{**values, **changes})


def test_the_sum() -> None:
    training = 2.0 + 99.0 + 2 * 10.0 + 3 * 20.0 + 4 * 0.5
    assert figures().seconds == training + 4 * 5.0
    # beside training, but the last one is waited for
    assert figures(background_is_free=True).seconds == training + 5.0
    # a disk that is slower than training decides
    slow = figures(background_is_free=True, seconds_per_snapshot=100.0)
    assert slow.seconds == 4 * 100.0 + 100.0


def test_all_processes_take_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the clock of the first one says, as a step that only some take never ends."""

    class Other(Processes):
        def agree(self, number: int) -> int:
            asked.append(number)
            return answers.pop(0)

    monkeypatch.setattr(module, "LEAST_SECONDS", 0.0)  # of its own it would do the least
    asked: list[int] = []
    answers = [False, True, True, False]
    taken: list[int] = []

    class Counted(Cloud):
        def batch(self, epoch: int, samples: Integers) -> Points:
            taken.append(epoch)
            return super().batch(epoch, samples)

    data = Counted()
    held_out = data.held_out()
    taken.clear()
    alone = Other(0, 1, ALONE.device)
    dry_run(Line(), data, TrainingSettings(steps=40), alone, held_out)
    assert answers == []
    assert asked == [True, True, False, False]
    assert len(taken) == 5 + 1


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = TrainingSettings(steps=4)
    # the nearest directory above is taken
    found = dry_run(Line(), Cloud(), settings, ALONE, output=tmp_path / "file" / "below")
    assert found.bytes_per_snapshot > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_the_command_foretells_fine_tuning_and_leaves_nothing(tmp_path: Path) -> None:
    save_start(tmp_path / "start")
    for name, seed in (("train", 1), ("dev", 2)):
        lines = [json.dumps(record) for record in colour_texts(24, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    arguments = ["finetune", "--task", "classification", "--model", tmp_path / "start"]
    arguments += ["--train", tmp_path / "train.jsonl", "--dev", tmp_path / "dev.jsonl"]
    arguments += ["--output", tmp_path / "new" / "model", "--batch-size", 8, "--epochs", 2]
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(main, [*map(str, arguments), "--dry-run", "--seeds", "3", "--json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert sorted(tmp_path.rglob("*")) == before
    assert (plan["steps"], plan["steps_per_epoch"], plan["runs"]) == (6, 3, 3)
    # every step, and once more for the scores of the model that was chosen
    assert plan["evaluations"] == 7
    assert plan["seconds"] > 5 * plan["seconds_per_step"]
    assert plan["seconds_of_all_runs"] == pytest.approx(3 * plan["seconds"], abs=0.2)
    assert 0 <= plan["accuracy_before"] <= 1

    done = CliRunner().invoke(main, [*map(str, arguments), "--clean"])
    assert done.exit_code == 0, done.output
    assert "removed the snapshots of the run" in done.stderr
    left = sorted(path.name for path in (tmp_path / "new/model/run").iterdir())
    assert {*left} - {"lock"} == {"finished.json", "log.jsonl", "settings.json"}
