"""Whatever watches a run: it is told everything once, and cannot lose the run anything."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tqdm.std
from safetensors.torch import load_file

import minilm
import toy
from minilm.errors import TrainingError
from minilm.training import progress
from minilm.training.distributed import Processes
from minilm.training.progress import Progress
from minilm.training.settings import TrainingSettings
from minilm.training.snapshots import newest_snapshot
from toy import ALONE, run


class Diary(minilm.Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.steps: list[Mapping[str, Any]] = []
        self.evaluations: list[tuple[int, Mapping[str, float]]] = []
        self.snapshots: list[int] = []
        self.events: list[Mapping[str, Any]] = []
        self.frame: list[Any] = []

    def on_start(self, step: int, settings: TrainingSettings) -> None:
        self.frame.append((step, settings.steps))

    def on_step(self, row: Mapping[str, Any]) -> None:
        self.steps.append(row)

    def on_evaluation(self, step: int, scores: Mapping[str, float]) -> None:
        self.evaluations.append((step, scores))

    def on_snapshot(self, step: int) -> None:
        self.snapshots.append(step)

    def on_event(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def on_end(self, step: int, finished: bool) -> None:
        self.frame.append((step, finished))


def test_an_observer_is_told_everything_once(tmp_path: Path) -> None:
    diary = Diary()
    result = run(tmp_path, observers=[diary], evaluate_every=5, log_every=4)
    assert diary.frame == [(0, 12), (12, True)]
    assert [row["step"] for row in diary.steps] == list(range(1, 13))  # not the logged ones alone
    keys = {"step", "epoch", "tokens", "loss", "error", "learning_rate", "gradient_norm"}
    assert keys | {"tokens_per_second", "seconds"} == diary.steps[0].keys()
    assert [step for step, _ in diary.evaluations] == [5, 10, 12]
    assert diary.evaluations[-1][1] == result.held_out
    assert diary.snapshots == [4, 8, 12]
    assert diary.events == []


def test_an_observer_is_told_of_a_run_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Broken failed in on_step"):
        run(tmp_path, observers=[Broken("on_step", 4)])
    diary = Diary()
    run(tmp_path, observers=[diary])
    assert diary.frame == [(5, 12), (12, True)]
    assert [row["step"] for row in diary.steps] == list(range(6, 13))
    assert [(event["event"], event["step"]) for event in diary.events] == [("resumed", 5)]


def test_an_observer_cannot_change_the_run(tmp_path: Path) -> None:
    class Vandal(minilm.Observer):
        def on_step(self, row: Any) -> None:
            row.clear()

        def on_evaluation(self, step: int, scores: Any) -> None:
            scores.clear()

    diary = Diary()
    result = run(tmp_path, observers=[Vandal(), diary], select="squared_error", evaluate_every=4)
    assert result.held_out.keys() == {"squared_error"}
    assert all("loss" in row for row in diary.steps)
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 15


class Broken(minilm.Observer):
    """Fails in one of its methods, at the given call of it."""

    def __init__(self, method: str, call: int) -> None:
        calls = iter(range(1, 1_000))

        def fail(*arguments: Any) -> None:
            if next(calls) == call:
                raise ValueError("no network")

        setattr(self, method, fail)


@pytest.mark.parametrize(
    ("method", "call", "saved"),
    [
        ("on_start", 1, 1),
        ("on_step", 1, 2),
        ("on_step", 7, 8),
        ("on_evaluation", 1, 6),
        ("on_step", 12, 12),
    ],
)
def test_one_that_fails_ends_the_run_and_loses_nothing(
    tmp_path: Path, method: str, call: int, saved: int
) -> None:
    """A snapshot is taken first, and the run goes on to the same bytes."""
    run(tmp_path / "whole", evaluate_every=5)
    diary = Diary()
    message = rf"The observer Broken failed in {method}: ValueError: no network.*step {saved}:"
    with pytest.raises(TrainingError, match=message) as caught:
        run(tmp_path / "a", observers=[Broken(method, call), diary], evaluate_every=5)
    assert isinstance(caught.value.__cause__, ValueError)
    found = newest_snapshot(tmp_path / "a/run/snapshots", say=pytest.fail)
    assert found is not None
    assert found.step == saved
    assert diary.frame == [(0, 12), (saved, False)]  # the others hear of the end
    assert not (tmp_path / "a/model.safetensors").exists()
    assert run(tmp_path / "a", evaluate_every=5).finished
    whole, resumed = (load_file(tmp_path / each / "model.safetensors") for each in ("whole", "a"))
    assert all(bool((whole[name] == resumed[name]).all()) for name in whole)


@pytest.mark.parametrize(("method", "call"), [("on_snapshot", 3), ("on_end", 1)])
def test_one_that_fails_at_the_end_keeps_no_model_back(
    tmp_path: Path, method: str, call: int
) -> None:
    with pytest.raises(TrainingError, match="The run is finished all the same"):
        run(tmp_path, observers=[Broken(method, call)])
    assert (tmp_path / "model.safetensors").exists()


def test_a_model_that_cannot_be_written_is_no_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(toy, "save_file", fail)
    diary = Diary()
    with pytest.raises(OSError, match="disk full"):
        run(tmp_path, observers=[diary])
    assert diary.frame == [(0, 12), (12, False)]


def test_what_is_no_observer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"observers holds <built-in function print>.*Observer"):
        run(tmp_path, observers=[print])


@pytest.mark.parametrize("rank", [0, 1])
def test_what_fails_in_the_first_process_ends_the_others(tmp_path: Path, rank: int) -> None:
    """They are told at the next place where they wait for it, and say so."""

    class Together(Processes):
        def agree(self, number: int) -> int:
            asked.append(number)
            return 1

    asked: list[int] = []
    (tmp_path / "file").write_text("")
    message = "cannot be created" if rank == 0 else "The first process has failed"
    with pytest.raises(TrainingError, match=message):
        run(tmp_path / "file", processes=Together(rank, 1, ALONE.device))
    assert asked == [1 - rank]


SECOND = Processes(1, 1, ALONE.device)  # of a world of one, so that nobody is waited for


def test_only_the_first_process_tells(tmp_path: Path) -> None:
    diary = Diary()
    run(tmp_path, observers=[diary], processes=SECOND)
    assert diary.frame == []
    assert not (tmp_path / "run").exists()


# --- the progress bar ---


class Stream:
    """Standard error, on a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal
        self.text = ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


ROW = {"step": 1, "loss": 0.5, "tokens_per_second": 100.0}


def watched(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> tuple[Stream, list[str]]:
    """What one step and an evaluation show."""
    stream, said = Stream(terminal), list[str]()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress(said.append)
    shown.on_start(0, TrainingSettings(steps=2))
    shown.on_step(ROW)
    shown.on_evaluation(1, {"f1": 0.25})
    shown.on_step({**ROW, "step": 2})
    shown.on_end(2, True)
    return stream, said


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, said = watched(monkeypatch, terminal=True)
    assert "/2" in stream.text
    assert said == ["step 1 held out  f1 0.2500"]


def test_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, said = watched(monkeypatch, terminal=False)
    assert stream.text == ""
    assert said == [
        "step 1 held out  f1 0.2500",
        "step 2 of 2  loss 0.500  100 tokens/s  0:00:00 left",
    ]


def test_a_notebook_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """There standard error is no terminal."""

    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(progress, "tqdm", tqdm.std.tqdm)  # without a browser to draw in
    stream, said = watched(monkeypatch, terminal=False)
    assert "/2" in stream.text
    assert said == ["step 1 held out  f1 0.2500"]
