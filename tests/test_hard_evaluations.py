"""Evaluations and best weights never end a run that training survives, nor does a full disk."""

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import minilm
from minilm.data.records.base import Skips
from minilm.errors import TrainingError
from minilm.files.json_file import without_nan
from minilm.learners.tasks import TaskLearner
from minilm.recipes.finetuning import FinetuningSettings, prepare
from minilm.recipes.hold_out import mean_and_deviation
from minilm.tasks.prediction import Predictor
from minilm.training import saving
from minilm.training.distributed import Processes
from minilm.training.settings import TrainingSettings
from minilm.training.snapshots import newest_snapshot, snapshot_states
from minilm.training.updates import Updater
from task_data import questions, save_start
from test_best import Scripted, chosen
from test_observers import Diary
from toy import ALONE, Line, Points, run

NAN, INF = math.nan, math.inf


# --- scores that are no numbers ---


@pytest.mark.parametrize("script", [(NAN, 0.5, 0.4), (0.5, NAN, 0.4), (0.1, 0.5, INF - INF)])
def test_a_score_that_is_no_number_costs_no_snapshot(
    tmp_path: Path, script: tuple[float, ...]
) -> None:
    diary = Diary()
    learner = Scripted(*script)
    result = run(tmp_path, learner, evaluate_every=4, select="skill", observers=[diary])
    best = 4 * (script.index(0.5) + 1)
    assert (result.step, result.chosen, result.held_out) == (12, best, {"skill": 0.5})
    assert torch.equal(chosen(tmp_path), learner.at[best // 4])
    assert diary.snapshots == [4, 8, 12]
    assert [(e["event"], e["step"]) for e in diary.events] == [
        ("not a number", 4 * (1 + [math.isnan(x) for x in script].index(True)))
    ]
    assert "the held-out records do not determine it" in diary.events[0]["message"]


def test_a_run_goes_on_from_a_snapshot_with_such_a_score(tmp_path: Path) -> None:
    class Killed(Exception):  # noqa: N818
        pass

    class Mortal(Scripted):
        def eval_scores(self, means: Any, outputs: Any) -> dict[str, float]:
            scores = super().eval_scores(means, outputs)
            if self.asked == 3:
                raise Killed
            return scores

    with pytest.raises(Killed):
        run(tmp_path, Mortal(NAN, NAN, 0.5), evaluate_every=4, select="skill")
    found = newest_snapshot(tmp_path / "run/snapshots", say=pytest.fail)
    assert found is not None
    assert (found.step, found.state["scores"]) == (8, {"skill": None})
    assert found.state["best"]["scores"] == {"skill": None}
    result = run(tmp_path, Scripted(0.5), evaluate_every=4, select="skill")
    assert (result.chosen, result.held_out) == (12, {"skill": 0.5})


def test_a_run_whose_loss_is_no_number_says_that_it_diverged(tmp_path: Path) -> None:
    class Diverging(Scripted):
        def eval_scores(self, means: Any, outputs: Any) -> dict[str, float]:
            return {"loss": super().eval_scores(means, outputs)["skill"]}

    said: list[str] = []
    run(tmp_path, Diverging(1.0, NAN, NAN), evaluate_every=4, said=said)
    warnings = [line for line in said if line.startswith("warning: ")]
    assert len(warnings) == 1  # once is enough
    assert "held-out loss not a number: the run has probably diverged" in warnings[0]
    assert "Lower the learning rate (0.1), lengthen the warm-up (0 steps)" in warnings[0]


def test_a_question_that_no_batch_asks_has_no_score(tmp_path: Path) -> None:
    class TwoQuestions(Line):
        @property
        def metric_names(self) -> tuple[str, ...]:
            return ("squared_error", "never_asked")

    assert run(tmp_path, TwoQuestions()).held_out.keys() == {"squared_error"}


# --- weights that are not finite ---


class Bursting(Line):
    """Its weights burst in an update, after which loss and gradient are looked at no more."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.seen = at, 0

    def forward(self, batch: Points, counts: Any) -> Any:
        self.seen += 1
        terms = super().forward(batch, counts)
        if self.seen == self.at:
            self.linear.weight.register_hook(self._burst)
        return terms

    def _burst(self, gradient: torch.Tensor) -> None:
        with torch.no_grad():
            self.linear.weight.fill_(INF)


@pytest.mark.parametrize("at", [4, 12])
def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, at: int) -> None:
    message = (
        rf"After step {at} there are NaN or infinite values in 1 tensor, such as 'linear\.weight': "
        "the run has "
    )
    with pytest.raises(TrainingError, match=message + "diverged.*Lower the learning rate"):
        run(tmp_path, Bursting(at))
    assert not (tmp_path / "model.safetensors").exists()
    for step in snapshot_states(tmp_path / "run/snapshots"):
        path = tmp_path / f"run/snapshots/step-{step:08d}/model.safetensors"
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_learning_rate_beyond_all_numbers(tmp_path: Path, rank: int) -> None:
    """All processes end alike: none waits for one that is gone."""

    class Single(Line):
        def forward(self, batch: Points, counts: Any) -> Any:
            return super().forward(Points(batch.samples, batch.x.float(), batch.y.float()), counts)

        def eval_step(self, batch: Points) -> Any:
            return {"squared_error": (0.0, 1)}

    with pytest.raises(TrainingError, match=r"After step 1 .* NaN or infinite .*diverged"):
        run(
            tmp_path,
            Single().float(),
            processes=Processes(rank, 1, ALONE.device),
            accumulation=2,
            steps=2,
            snapshot_every=1,
            learning_rate=1e39,
            weight_decay=0.0,
        )
    assert not (tmp_path / "model.safetensors").exists()


# --- a full disk ---


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[int], bool]]:
    """Says, by directory and step, whether there is room for a snapshot."""
    rooms: dict[str, Callable[[int], bool]] = {}
    original = saving.write_snapshot

    def write(directory: Path, snapshot: Any) -> Path:
        if not rooms.get(directory.name, lambda _: True)(snapshot.step):
            raise TrainingError(f"no room for {directory.name} {snapshot.step}")
        return original(directory, snapshot)

    monkeypatch.setattr(saving, "write_snapshot", write)
    monkeypatch.setattr("minilm.training.snapshots.write_snapshot", write)
    return rooms


def best_on_disk(output: Path) -> set[int]:
    return set(snapshot_states(output / "run/best"))


def named(output: Path) -> set[int]:
    return {s["best"]["step"] for s in snapshot_states(output / "run/snapshots").values()}


OPTIONS: dict[str, Any] = {"evaluate_every": 2, "select": "skill", "snapshot_every": 2}


def test_best_weights_that_find_no_room_are_kept_in_memory(
    tmp_path: Path, room: dict[str, Any]
) -> None:
    room["best"] = lambda step: step < 4
    learner, diary = Scripted(0.1, 0.2, 0.3, 0.2, 0.1, 0.2), Diary()
    result = run(tmp_path, learner, observers=[diary], **OPTIONS)
    assert (result.finished, result.chosen) == (True, 6)
    assert torch.equal(chosen(tmp_path), learner.at[3])
    assert {event["event"] for event in diary.events} == {"save failed"}
    assert "the last snapshot is of step 2" in diary.events[0]["message"]
    # no snapshot names weights that are not there
    assert diary.snapshots == [2]
    assert named(tmp_path) == best_on_disk(tmp_path) == {2}


def test_after_a_full_disk_every_snapshot_names_weights_that_are_there(
    tmp_path: Path, room: dict[str, Any]
) -> None:
    """The run's snapshot is larger than the best weights: for these alone there is still room."""
    room["snapshots"] = lambda step: step < 4
    run(tmp_path, Scripted(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), **OPTIONS)
    assert named(tmp_path) == {2}
    assert 2 in best_on_disk(tmp_path)
    # the same command resumes from step 2, finds none better, and ends with step 2
    room.clear()
    result = run(tmp_path, Scripted(0.05, 0.05, 0.05, 0.05, 0.05), **OPTIONS)
    assert result.chosen == 2


def test_when_there_is_room_again_what_was_kept_is_written(
    tmp_path: Path, room: dict[str, Any]
) -> None:
    room["best"] = lambda step: step != 4 or len(tries) > 1
    tries: list[int] = []
    original = room["best"]

    def counted(step: int) -> bool:
        if step == 4:
            tries.append(step)
        return bool(original(step))

    room["best"] = counted
    diary = Diary()
    run(tmp_path, Scripted(0.1, 0.5, 0.3, 0.2, 0.1, 0.2), observers=[diary], **OPTIONS)
    assert tries == [4, 4]  # with its own snapshot in vain, then with the next
    assert diary.snapshots == [2, 6, 8, 10, 12]
    assert best_on_disk(tmp_path) == named(tmp_path) == {4}


def test_a_full_disk_ends_a_run_that_asks_for_it(tmp_path: Path, room: dict[str, Any]) -> None:
    room["best"] = lambda step: step < 4
    with pytest.raises(TrainingError, match="no room for best 4"):
        run(tmp_path, Scripted(*[0.1 * n for n in range(6)]), on_save_error="raise", **OPTIONS)


def test_without_any_snapshot_there_is_nothing_to_go_on_from(
    tmp_path: Path, room: dict[str, Any]
) -> None:
    room["best"] = lambda step: False
    with pytest.raises(TrainingError, match="no room for best 2"):
        run(tmp_path, Scripted(*[0.1 * n for n in range(6)]), **OPTIONS)


def test_the_best_weights_that_older_snapshots_name_stay(tmp_path: Path) -> None:
    run(tmp_path, Scripted(*[0.1 * n for n in range(6)]), keep_snapshots=4, **OPTIONS)
    assert named(tmp_path) == best_on_disk(tmp_path) == {6, 8, 10, 12}


def test_a_real_error_of_the_system_is_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    original = Path.mkdir

    def mkdir(self: Path, *arguments: Any, **options: Any) -> None:
        if self.parent.name == "best" and self.name.startswith("step-00000004"):
            raise full
        original(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    said: list[str] = []
    run(tmp_path, Scripted(0.1, 0.2, 0.1, 0.1, 0.1, 0.1), said=said, **OPTIONS)
    assert any("best/step-00000004 cannot be written: No space left" in line for line in said)


# --- fine-tuning ---


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize(
    "labels", [[0.5], [0.5, 0.5, 0.5]], ids=["one record", "records all alike"]
)
def test_a_correlation_that_does_not_exist(
    start: Path, tmp_path: Path, labels: list[float]
) -> None:
    train = [{"text": f"the red thing {n}", "label": n / 8} for n in range(8)]
    dev = [{"text": f"a blue thing {n}", "label": label} for n, label in enumerate(labels)]
    said: list[str] = []
    done = minilm.finetune(
        "regression",
        start,
        train,
        tmp_path,
        dev=dev,
        settings=FinetuningSettings(epochs=2, batch_size=4),
        say=said.append,
    )
    assert done.finished
    assert math.isnan(done.scores["spearman"])
    assert math.isfinite(done.scores["mean_squared_error"])
    assert len([line for line in said if "pearson, spearman not a number" in line]) == 1
    stored = json.loads((tmp_path / "task.json").read_text())
    assert stored["dev"]["spearman"] is None
    scores = Predictor.from_pretrained(tmp_path).evaluate(dev)
    assert math.isnan(scores["pearson"])
    assert math.isnan(mean_and_deviation([scores, scores])["pearson"]["mean"])


def test_json_has_null_for_what_is_no_number() -> None:
    value = {"a": [1.0, NAN, {"b": -INF}], "c": (True, None, "nan", 3)}
    assert without_nan(value) == {"a": [1.0, None, {"b": None}], "c": [True, None, "nan", 3]}


def test_answers_are_selected_by_the_score_that_is_reported(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the threshold for "no answer" that suits the dev records, as at the end of the run."""
    evaluations: list[dict[str, float]] = []
    original = TaskLearner.eval_scores

    def eval_scores(self: TaskLearner, means: Any, outputs: Any) -> dict[str, float]:
        evaluations.append(original(self, means, outputs))
        return evaluations[-1]

    monkeypatch.setattr(TaskLearner, "eval_scores", eval_scores)
    train, dev = questions(48), questions(24, seed=2)
    settings = FinetuningSettings(epochs=2, batch_size=8, loop={"precision": "float32"})
    done = minilm.finetune("answering", start, train, tmp_path, dev=dev, settings=settings)
    assert done.scores["f1"] == max(scores["f1"] for scores in evaluations)
    task = Predictor.from_pretrained(tmp_path).task
    assert task.null_threshold != 0.0  # type: ignore[attr-defined]


def test_thresholds_are_tuned_for_each_evaluation_anew(start: Path) -> None:
    records = questions(16)
    recipe, _, _ = prepare(
        "answering",
        start,
        records,
        dev=records,
        teacher=None,
        layers=None,
        settings=FinetuningSettings(),
        skips=Skips(),
        device=torch.device("cpu"),
        say=lambda _: None,
    )
    learner = recipe.learner
    updater = Updater(learner, TrainingSettings(steps=1), ALONE)
    first, second = (updater.evaluate(recipe.held_out) for _ in range(2))
    assert first is not None
    assert 0 <= first["f1"] <= 100
    assert first == second
    assert isinstance(learner, TaskLearner)
    assert learner.task.null_threshold == 0.0
