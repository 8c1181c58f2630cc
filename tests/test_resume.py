"""A run that was interrupted ends with the same bytes as one that was not.

The full counts take a few minutes:

    pytest -m slow tests/test_resume.py
"""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from minilm.training.snapshots import Snapshot, newest_snapshot, save_snapshot
from training_driver import Faults, Zygote, make_data

STEPS, EPOCH = 14, 9
INTERVAL = 3  # steps between snapshots
EVALUATE_EVERY = 5
RECIPES = ["mlm", "distillation"]
CIRCUMSTANCES = ("seconds", "tokens_per_second")
Result = dict[str, Any]


class Runs:
    """Starts runs, and knows how they end when nothing disturbs them."""

    def __init__(self, zygote: Zygote, directory: Path) -> None:
        self._zygote = zygote
        self._directory = directory
        self.undisturbed = cache(self._undisturbed)

    def start(
        self,
        output: Path,
        recipe: str = "mlm",
        *,
        ranks: int = 1,
        strike: dict[str, Any] | None = None,
        kill_after: float | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Starts a run, or one that goes on; see `training_driver.train`."""
        defaults = {
            "steps": STEPS,
            "warmup": 2,
            "learning_rate": 1e-3,
            "snapshot_every": INTERVAL,
            "evaluate_every": EVALUATE_EVERY,
        }
        return self._zygote.run(
            "train",
            recipe=recipe,
            output=str(output),
            ranks=ranks,
            strike=strike or {},
            kill_after=kill_after,
            settings={**defaults, **settings},
        )

    def _undisturbed(
        self, recipe: str = "mlm", ranks: int = 1, accumulation: int = 1
    ) -> tuple[Result, float]:
        output = self._directory / f"{recipe}-{ranks}-{accumulation}"
        answer = self.start(output, recipe, ranks=ranks, accumulation=accumulation)
        assert answer["finished"], answer
        return result(output), answer["seconds"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with Zygote() as zygote:
        yield Runs(zygote, tmp_path_factory.mktemp("undisturbed"))


def result(output: Path) -> Result:
    """All that must be the same: weights, optimiser, where the data stands, log."""
    last = output / f"run/snapshots/step-{STEPS:08d}"
    files = [output / "model.safetensors", output / "config.json", *sorted(last.iterdir())]
    return {"log": log(output), **{path.name: path.read_bytes() for path in files}}


def rows(output: Path) -> list[dict[str, Any]]:
    lines = (output / "run/log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def log(output: Path) -> list[dict[str, Any]]:
    """The log without events and seconds."""
    return [
        {key: value for key, value in row.items() if key not in CIRCUMSTANCES}
        for row in rows(output)
        if "event" not in row
    ]


def assert_same(output: Path, expected: Result) -> None:
    found = result(output)
    assert found["log"] == expected["log"]
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def saved_step(output: Path) -> int:
    """The step of the newest snapshot, which must be whole; 0 if there is none."""
    found = newest_snapshot(output / "run/snapshots", say=pytest.fail)
    return 0 if found is None else found.step


def logged_step(output: Path) -> int:
    """The last step that a run wrote down; its last line may be cut short."""
    path = output / "run/log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def test_the_log_has_every_step_and_evaluation(runs: Runs) -> None:
    """What the other tests compare is there, and an epoch ends where they think."""
    data = make_data()[0]
    assert [len(data.steps(epoch)) for epoch in (0, 1)] == [EPOCH, EPOCH]
    found, _ = runs.undisturbed()
    assert [row["step"] for row in found["log"] if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in found["log"] if "held_out" in row] == [5, 10, 14]
    names = ["model.safetensors", "optimiser.safetensors", "state.json", "manifest.json"]
    assert {*names, "config.json", "log"} == found.keys()


# --- the same seed ---


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_gives_the_same_bytes(runs: Runs, recipe: str, tmp_path: Path) -> None:
    """Twice, and with threads that prepare the batches."""
    expected, _ = runs.undisturbed(recipe)
    for workers in (0, 2):
        runs.start(tmp_path / str(workers), recipe, workers=workers)
        assert_same(tmp_path / str(workers), expected)


def test_another_seed_gives_other_bytes(runs: Runs, tmp_path: Path) -> None:
    """The seed of the engine is that of dropout alone: even that much would be noticed."""
    expected, _ = runs.undisturbed()
    runs.start(tmp_path, seed=1)
    assert result(tmp_path)["model.safetensors"] != expected["model.safetensors"]
    assert result(tmp_path)["log"] != expected["log"]


# --- asked to stop ---

# the first step, within an epoch, around its end, at an evaluation, the last step but one
POINTS = (1, 4, EPOCH - 1, EPOCH, EPOCH + 1, STEPS - 1)
CASES = list(product((1, 2), (0, 2), (1, 4)))  # processes, workers, accumulation
# every point, every case and more with two processes than with one
DEFAULT = {(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 7)}


@pytest.mark.parametrize(
    ("point", "ranks", "workers", "accumulation"),
    [
        pytest.param(
            point,
            *case,
            marks=() if (i, j) in DEFAULT else pytest.mark.slow,
            id=f"step {point}, {case[0]} processes, {case[1]} workers, {case[2]} micro-batches",
        )
        for (i, point), (j, case) in product(enumerate(POINTS), enumerate(CASES))
    ],
)
def test_saving_and_going_on_changes_nothing(
    runs: Runs, tmp_path: Path, point: int, ranks: int, workers: int, accumulation: int
) -> None:
    """Parameters, optimiser, position and every logged number, with 0 difference."""
    expected, _ = runs.undisturbed(ranks=ranks, accumulation=accumulation)
    strike = {
        "in": "forward",
        "call": (point - 1) * accumulation,
        "signal": signal.SIGTERM,
        "rank": ranks - 1,  # one process hears it, all stop
    }
    sizes = {"ranks": ranks, "workers": workers, "accumulation": accumulation}
    answer = runs.start(tmp_path, **sizes, strike=strike)
    assert (answer["step"], answer["finished"]) == (point, False)
    assert saved_step(tmp_path) == point
    answer = runs.start(tmp_path, **sizes)
    assert answer["status"] == 0
    assert f"going on after step {point}" in answer["said"]
    assert_same(tmp_path, expected)


# where a signal may come, which call of it, and the step that is saved then
STOPS = [
    *[("forward", call, call + 1) for call in range(10)],
    *[("batch", call, call + 1) for call in range(4)],
    ("eval_step", 0, 5),  # in an evaluation, which is broken off and made up for later
    ("eval_step", 1, 5),
    ("eval_step", 7, 10),
    ("save", 0, 4),  # in a snapshot: a step more
    ("save", 1, 7),
    ("save", 2, 10),
]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
SOON = [0, 11, 14, 15, 17]


@pytest.mark.parametrize(
    "number", [n if n in SOON else pytest.param(n, marks=pytest.mark.slow) for n in range(20)]
)
def test_a_signal_saves_within_a_step(runs: Runs, tmp_path: Path, number: int) -> None:
    where, call, step = STOPS[number]
    sent = SIGNALS[number % 3]
    expected, _ = runs.undisturbed()
    strike = {"in": where, "call": call, "signal": sent, "moment": number}
    answer = runs.start(tmp_path, strike=strike)
    assert answer["status"] == answer["code"] == 128 + sent
    assert (answer["step"], answer["finished"]) == (step, False)
    assert f"stopped after step {step}; the same command resumes from there" in answer["said"]
    assert saved_step(tmp_path) == step
    assert not (tmp_path / "model.safetensors").exists()
    assert runs.start(tmp_path)["status"] == 0
    assert_same(tmp_path, expected)


def test_an_evaluation_made_up_for_is_logged_once(runs: Runs, tmp_path: Path) -> None:
    """Also if the run is killed before the next snapshot."""
    expected, _ = runs.undisturbed()
    runs.start(tmp_path, strike={"in": "eval_step", "call": 1, "signal": signal.SIGTERM})
    runs.start(tmp_path, strike={"in": "forward", "call": 0, "signal": signal.SIGKILL})
    assert runs.start(tmp_path)["status"] == 0
    assert_same(tmp_path, expected)


# --- killed ---


@pytest.mark.parametrize(
    ("recipe", "kills"),
    [
        ("mlm", 6),
        pytest.param("mlm", 50, marks=pytest.mark.slow),
        pytest.param("distillation", 50, marks=pytest.mark.slow),
    ],
)
def test_kill_9_at_random_moments(runs: Runs, tmp_path: Path, recipe: str, kills: int) -> None:
    """Run after run is killed again and again, until it ends."""
    expected, seconds = runs.undisturbed(recipe)
    draw = random.Random(20)
    struck = finished = 0
    while struck < kills or (tmp_path / str(finished)).exists():
        output = tmp_path / str(finished)
        output.mkdir(exist_ok=True)
        before = saved_step(output)
        limit = draw.uniform(0, seconds) if struck < kills else None
        answer = runs.start(output, recipe, kill_after=limit)
        if answer["status"] == 0:
            assert_same(output, expected)
            finished += 1
        else:
            assert answer["status"] == -signal.SIGKILL
            struck += 1
            saved = saved_step(output)
            assert saved >= before
            # the next one is not taken before the last one is complete
            assert logged_step(output) - saved <= 2 * INTERVAL
    assert struck == kills
    assert finished > 0


def test_kill_9_of_two_processes(runs: Runs, tmp_path: Path) -> None:
    expected, _ = runs.undisturbed(ranks=2)
    strike = {"in": "forward", "call": 10, "signal": signal.SIGKILL}
    assert runs.start(tmp_path, ranks=2, strike=strike)["status"] == -signal.SIGKILL
    assert saved_step(tmp_path) == 9
    assert runs.start(tmp_path, ranks=2)["status"] == 0
    assert_same(tmp_path, expected)


def kill_in_save(call: int, moment: int) -> dict[str, Any]:
    return {"in": "save", "call": call, "moment": moment, "signal": signal.SIGKILL}


# moments of a save after which something else is on the disk than before
STAGES = ("after mkdir step", "half of", "after rename", "after rmdir")


@pytest.mark.parametrize(
    ("recipe", "every_moment"),
    [
        ("mlm", False),
        pytest.param("mlm", True, marks=pytest.mark.slow),
        pytest.param("distillation", True, marks=pytest.mark.slow),
    ],
)
def test_kill_9_at_every_stage_of_a_save(
    runs: Runs, tmp_path: Path, recipe: str, every_moment: bool
) -> None:
    """The third save of a run, which also removes the first snapshot.

    By default at the stages that differ most; test_snapshots.py strikes at every moment of a save.
    """
    expected, _ = runs.undisturbed(recipe)
    base = tmp_path / "base"
    runs.start(base, recipe, strike=kill_in_save(2, 0))
    assert (saved_step(base), logged_step(base)) == (6, 9)
    moments = moments_of_a_save(base)
    saved = []
    for number, moment in enumerate(moments):
        if not every_moment and not moment.startswith(STAGES):
            continue
        output = tmp_path / str(number)
        shutil.copytree(base, output)
        answer = runs.start(output, recipe, strike=kill_in_save(0, number))
        assert answer["status"] == -signal.SIGKILL, moment
        saved.append(saved_step(output))
        assert logged_step(output) == 9
        assert runs.start(output, recipe)["status"] == 0, moment
        assert_same(output, expected)
        left = sorted(path.name for path in (output / "run/snapshots").iterdir())
        assert left == ["step-00000012", "step-00000014"], moment
        shutil.rmtree(output)
    assert saved == sorted(saved)
    assert set(saved) == {6, 9}


def moments_of_a_save(base: Path) -> list[str]:
    """What happens in the save of step 9, with the snapshots of steps 3 and 6 there."""
    copy = base.with_name("dry")
    shutil.copytree(base / "run/snapshots", copy)
    found = newest_snapshot(copy, say=pytest.fail)
    assert found is not None
    with Faults(None, lambda: None).installed() as faults:
        save_snapshot(copy, Snapshot(9, found.model, found.optimiser, found.state))
    return faults.moments


# --- damaged, and a full disk ---


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_damaged_newest_snapshot_costs_one_interval(
    runs: Runs, tmp_path: Path, recipe: str
) -> None:
    expected, _ = runs.undisturbed(recipe)
    runs.start(tmp_path, recipe, strike=kill_in_save(2, 0))
    damaged = tmp_path / "run/snapshots/step-00000006/optimiser.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    answer = runs.start(tmp_path, recipe)
    assert answer["status"] == 0
    assert f"{damaged} is damaged: its SHA-256 is" in answer["said"][0]
    assert answer["said"][1] == "going on after step 3"
    assert_same(tmp_path, expected)


def test_without_a_whole_snapshot_nothing_is_overwritten(runs: Runs, tmp_path: Path) -> None:
    runs.start(tmp_path, strike=kill_in_save(2, 0))
    for step in (3, 6):
        (tmp_path / f"run/snapshots/step-0000000{step}/manifest.json").unlink()
    before = (tmp_path / "run/log.jsonl").read_bytes()
    answer = runs.start(tmp_path)
    assert answer["status"] == 1
    assert "None of the 2 snapshots in" in answer["error"]
    assert (tmp_path / "run/log.jsonl").read_bytes() == before


def test_a_full_disk_costs_a_snapshot_not_the_run(runs: Runs, tmp_path: Path) -> None:
    expected, _ = runs.undisturbed()
    answer = runs.start(tmp_path, strike={"in": "save", "call": 1, "file_limit": 30_000})
    assert answer["status"] == 0
    assert any(
        "step-00000006 cannot be written" in line and "last snapshot is of step 3" in line
        for line in answer["said"]
    )
    events = [row for row in rows(tmp_path) if "event" in row]
    assert [(row["event"], row["step"]) for row in events] == [("save failed", 6)]
    assert_same(tmp_path, expected)


def test_a_full_disk_ends_a_run_that_asks_for_it(runs: Runs, tmp_path: Path) -> None:
    expected, _ = runs.undisturbed()
    strike = {"in": "save", "call": 1, "file_limit": 30_000}
    answer = runs.start(tmp_path, strike=strike, on_save_error="raise")
    assert answer["status"] == 1
    assert "step-00000006 cannot be written" in answer["error"]
    assert saved_step(tmp_path) == 3
    assert runs.start(tmp_path)["status"] == 0  # with room again
    assert_same(tmp_path, expected)
