"""Snapshots that are written while training continues: of their own step, in order, never lost."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import minilm
from minilm.errors import TrainingError
from minilm.training import saving, snapshots
from minilm.training.saving import Saver, copied
from minilm.training.snapshots import Snapshot, newest_snapshot, read_snapshot
from test_observers import Diary
from toy import Line, run

PATIENCE = 60.0


class Gate:
    """Holds back the writing of snapshots until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.threads: set[int] = set()
        self._original = saving.save_snapshot

    def __call__(self, directory: Path, snapshot: Snapshot, **options: Any) -> Path:
        self.threads.add(threading.get_ident())
        assert self.opened.wait(PATIENCE)
        return self._original(directory, snapshot, **options)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(saving, "save_snapshot", made)
    yield made
    made.opened.set()


class Keeper(Diary):
    """Keeps the weights of every step, and does something after one of them."""

    def __init__(self, learner: Line, at: int = 0, action: Any = None) -> None:
        super().__init__()
        self.learner, self.at, self.action = learner, at, action
        self.weights: dict[int, Tensor] = {}
        self.snapshots_at: dict[int, list[int]] = {}

    def on_step(self, row: Mapping[str, Any]) -> None:
        self.weights[row["step"]] = self.learner.linear.weight.detach().clone()
        self.snapshots_at[row["step"]] = list(self.snapshots)
        if row["step"] == self.at:
            self.action()


def test_training_goes_on_while_a_snapshot_is_written(tmp_path: Path, gate: Gate) -> None:
    """Three steps are done before the first one is let through: it is of its own step even so."""
    learner = Line()
    keeper = Keeper(learner, 7, gate.opened.set)
    run(tmp_path, learner, observers=[keeper])
    assert keeper.snapshots_at[7] == []  # of step 4, not complete yet
    assert keeper.snapshots == [4, 8, 12]
    assert threading.get_ident() not in gate.threads
    assert len(gate.threads) == 1
    for step in (8, 12):
        found = read_snapshot(tmp_path / "run/snapshots", step)
        assert torch.equal(found.model["linear.weight"], keeper.weights[step])
        assert not torch.equal(keeper.weights[step], keeper.weights[step - 1])


def test_a_snapshot_holds_the_values_of_its_step(tmp_path: Path, gate: Gate) -> None:
    learner = Line()
    keeper = Keeper(learner, 7, gate.opened.set)
    run(tmp_path, learner, observers=[keeper], keep_snapshots=3)
    found = read_snapshot(tmp_path / "run/snapshots", 4)
    assert torch.equal(found.model["linear.weight"], keeper.weights[4])
    assert found.optimiser["linear.weight.step"] == 4
    assert (found.state["epoch"], found.state["index"]) == (0, 4)


def test_a_stop_waits_for_the_snapshot(tmp_path: Path, gate: Gate) -> None:
    """SIGTERM while one is being written: that one, and the one of the last step, are complete."""

    def stop() -> None:
        threading.Timer(0.2, gate.opened.set).start()
        os.kill(os.getpid(), signal.SIGTERM)

    learner = Line()
    keeper = Keeper(learner, 5, stop)
    result = run(tmp_path, learner, observers=[keeper])
    assert (result.finished, result.exit_code) == (False, 143)
    assert keeper.snapshots == [4, result.step]
    found = newest_snapshot(tmp_path / "run/snapshots", say=pytest.fail)
    assert found is not None
    assert found.step == result.step == 6


def test_an_error_in_training_waits_too(tmp_path: Path, gate: Gate) -> None:
    def fail() -> None:
        threading.Timer(0.2, gate.opened.set).start()
        raise KeyboardInterrupt

    learner = Line()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, learner, observers=[Keeper(learner, 5, fail)])
    found = newest_snapshot(tmp_path / "run/snapshots", say=pytest.fail)
    assert found is not None
    assert found.step == 4


def test_an_error_in_writing_ends_the_run_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(directory: Path, snapshot: Snapshot, **options: Any) -> Path:
        raise TrainingError(f"no room for {snapshot.step}")

    monkeypatch.setattr(saving, "save_snapshot", fail)
    learner = Line()
    keeper = Keeper(learner)
    with pytest.raises(TrainingError, match="no room for 4"):
        run(tmp_path, learner, observers=[keeper])
    assert 4 <= len(keeper.weights) <= 8  # at the latest where the next one is due


def test_a_bug_in_writing_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(directory: Path, snapshot: Snapshot, **options: Any) -> Path:
        raise ZeroDivisionError

    monkeypatch.setattr(saving, "save_snapshot", fail)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)


def test_older_snapshots_are_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    original = snapshots._digests

    def digests(place: Path) -> dict[str, str]:
        hashed.append(place.name.split(".tmp-")[0])
        return original(place)

    monkeypatch.setattr(snapshots, "_digests", digests)
    run(tmp_path, keep_snapshots=3)
    names = [f"step-{step:08d}" for step in (4, 8, 12)]
    assert hashed == names
    hashed.clear()
    run(tmp_path, keep_snapshots=3, steps=16, allow_changes=True)
    # the one it goes on from was read whole; the others, of another process, are checked once
    assert sorted(hashed) == ["step-00000004", *[f"step-{n:08d}" for n in (8, 12, 16)]][1:]


def test_one_that_was_cut_since_is_noticed_all_the_same(tmp_path: Path) -> None:
    """Trusted ones are looked at by size."""
    saver = Saver(tmp_path, 2, lambda: None)
    for step in (1, 2, 3):
        saver.save(Snapshot(step, {"w": torch.zeros(9)}, {}, {}), None, None)
        done = saver.collect(wait=True)
        assert done is not None
        assert (done.step, done.best, done.problem) == (step, None, None)
        if step == 2:
            os.truncate(tmp_path / "snapshots/step-00000002/model.safetensors", 20)
    saver.close()
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "step-00000001",
        "step-00000003",
    ]


def test_nothing_is_reported_twice_or_before_it_is_known(tmp_path: Path, gate: Gate) -> None:
    saver = Saver(tmp_path, 2, lambda: None)
    assert saver.collect(wait=True) is None
    best = Snapshot(4, {"w": torch.ones(2)}, {}, {})
    saver.save(Snapshot(4, {}, {}, {}), best, 4)
    assert saver.collect(wait=False) is None
    gate.opened.set()
    done = saver.collect(wait=True)
    assert done is not None
    assert (done.step, done.best) == (4, 4)
    assert saver.collect(wait=True) is None
    saver.close()
    assert torch.equal(read_snapshot(tmp_path / "best", 4).model["w"], torch.ones(2))


def test_copies_are_copies() -> None:
    tensor = torch.ones(3, requires_grad=True)
    copy = copied({"a": tensor})["a"]
    with torch.no_grad():
        tensor.fill_(2.0)
    assert copy.tolist() == [1.0, 1.0, 1.0]
    assert not copy.requires_grad


def test_the_observer_is_public() -> None:
    assert issubclass(Diary, minilm.Observer)
