"""Choosing the best evaluation, and ending a run that gets no better."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from minilm.errors import TrainingError
from minilm.training.best import Best
from minilm.training.settings import TrainingSettings
from test_observers import Broken, Diary
from toy import Cloud, Line, Points, run

WEIGHTS = "linear.weight"


class Scripted(Line):
    """A line whose evaluations give what a script says, one number after the other."""

    def __init__(self, *script: float) -> None:
        super().__init__()
        self.script = dict(enumerate(script, start=1))
        self.at: dict[int, Tensor] = {}
        self.asked = 0

    def eval_scores(self, means: Any, outputs: Any) -> dict[str, float]:
        self.asked += 1
        self.at[self.asked] = self.linear.weight.detach().clone()
        return {"skill": self.script[self.asked]}


def chosen(output: Path) -> Tensor:
    return load_file(output / "model.safetensors")[WEIGHTS]


def test_the_best_weights_are_the_result(tmp_path: Path) -> None:
    learner = Scripted(0.1, 0.7, 0.4, 0.7, 0.2, 0.3)
    result = run(tmp_path, learner, evaluate_every=2, select="skill")
    assert (result.step, result.chosen, result.finished) == (12, 4, True)
    assert result.held_out == {"skill": 0.7}
    assert torch.equal(chosen(tmp_path), learner.at[2])  # the first of two equals
    assert not torch.equal(learner.at[2], learner.at[6])


def test_of_a_loss_the_lowest_is_the_best(tmp_path: Path) -> None:
    class Loss(Scripted):
        def eval_scores(self, means: Any, outputs: Any) -> dict[str, float]:
            return {"skill_loss": super().eval_scores(means, outputs)["skill"]}

    assert run(tmp_path, Loss(3, 1, 2), evaluate_every=4, select="skill_loss").chosen == 8


def test_what_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    assert run(tmp_path, Scripted(0.1, float("nan"), 0.05), evaluate_every=4, select="skill"
               ).chosen == 4  # fmt: skip


class WithLoss(Scripted):
    """Gives the loss of a second script too."""

    def __init__(self, skills: Sequence[float], losses: Sequence[float | None]) -> None:
        super().__init__(*skills)
        self.losses = losses

    def eval_scores(self, means: Any, outputs: Any) -> dict[str, float]:
        scores = super().eval_scores(means, outputs)
        loss = self.losses[self.asked - 1]
        return scores if loss is None else {**scores, "loss": loss}


@pytest.mark.parametrize(
    ("skills", "losses", "best"),
    [
        ((0.5, 0.5, 0.5), (1.0, 0.2, 0.3), 2),  # of equals the one with the lower loss
        ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), 1),  # of equals in both the first
        ((0.5, 0.6, 0.6), (0.1, 0.9, 0.9), 2),  # a better score, whatever its loss
        ((0.5, 0.6, 0.5), (0.9, 0.9, 0.1), 2),
        ((0.5, 0.5, 0.5), (None, None, 0.1), 3),  # before there was none
    ],
)
def test_of_equal_scores_the_lower_loss_decides(
    tmp_path: Path, skills: Sequence[float], losses: Sequence[float | None], best: int
) -> None:
    learner = WithLoss(skills, losses)
    result = run(tmp_path, learner, evaluate_every=4, select="skill")
    assert result.chosen == 4 * best
    assert torch.equal(chosen(tmp_path), learner.at[best])


NAN = float("nan")


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([(0.5, NAN), (0.5, 0.8), (0.5, NAN)], 2),
        ([(NAN, 0.1), (NAN, 0.0), (0.1, 9.0)], 3),
        ([(0.5, NAN), (0.5, NAN)], 1),
        ([(0.5, float("inf")), (0.5, 7.0)], 2),
    ],
)
def test_a_loss_that_is_no_number_loses(
    tmp_path: Path, evaluations: Sequence[tuple[float, float]], best: int
) -> None:
    settings = TrainingSettings(steps=9, select="skill")
    found = Best(tmp_path, settings, first=False)
    for step, (skill, loss) in enumerate(evaluations, start=1):
        found.update(step, {"skill": skill, "loss": loss}, dict)
    assert found.step == best


def test_patience_counts_an_evaluation_with_a_lower_loss_as_better(tmp_path: Path) -> None:
    learner = WithLoss([0.5] * 6, [0.9, 0.8, 0.7, 0.7, 0.7, 0.1])
    result = run(tmp_path, learner, evaluate_every=2, select="skill", patience=2)
    assert (result.step, result.chosen) == (10, 6)


def test_without_select_the_last_weights_are_the_result(tmp_path: Path) -> None:
    learner = Scripted(0.9, 0.1, 0.1)
    assert run(tmp_path, learner, evaluate_every=4).chosen == 12
    assert torch.equal(chosen(tmp_path), learner.at[3])
    assert not (tmp_path / "run" / "best").exists()


def test_patience_ends_a_run_and_it_stays_ended(tmp_path: Path) -> None:
    script = (0.1, 0.5, 0.4, 0.3, 0.9, 0.9)
    options: dict[str, Any] = {"evaluate_every": 2, "select": "skill", "patience": 2}
    said: list[str] = []
    result = run(tmp_path, Scripted(*script), said=said, **options)
    assert (result.step, result.chosen, result.finished) == (8, 4, True)
    assert any("no better for 2 evaluations" in line for line in said)
    before = chosen(tmp_path)
    learner = Scripted(*script)
    result = run(tmp_path, learner, **options)
    assert (result.step, result.chosen, learner.asked) == (8, 4, 0)
    assert torch.equal(chosen(tmp_path), before)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("moment", range(1, 7))
@pytest.mark.parametrize("script", [(0.1, 0.5, 0.4, 0.6, 0.3, 0.2), (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)])
def test_a_killed_run_goes_on_to_the_same_choice(
    tmp_path: Path, moment: int, script: tuple[float, ...]
) -> None:
    """Killed after any evaluation, before or after its snapshot."""

    class Mortal(Scripted):
        def eval_scores(self, means: Any, outputs: Any) -> dict[str, float]:
            scores = super().eval_scores(means, outputs)
            if self.asked == moment:
                raise KilledError
            return scores

    options: dict[str, Any] = {"evaluate_every": 2, "select": "skill", "snapshot_every": 5}
    whole = run(tmp_path / "whole", Scripted(*script), **options)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", Mortal(*script), **options)
    states = sorted((tmp_path / "killed/run/snapshots").glob("step-*/state.json"))
    evaluated = json.loads(states[-1].read_text())["evaluated"] if states else 0
    rest = Scripted(*script[evaluated // 2 :])
    resumed = run(tmp_path / "killed", rest, **options)
    assert (resumed.chosen, resumed.held_out) == (whole.chosen, whole.held_out)
    assert torch.equal(chosen(tmp_path / "killed"), chosen(tmp_path / "whole"))


def test_weights_of_the_best_evaluation_that_are_gone_are_an_error(tmp_path: Path) -> None:
    options: dict[str, Any] = {"evaluate_every": 4, "select": "skill"}
    run(tmp_path, Scripted(0.9, 0.1, 0.1), **options)
    (tmp_path / "run/best/step-00000004/model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"best evaluation, after step 4, cannot be read"):
        run(tmp_path, Scripted(0.9, 0.1, 0.1), **options)


def test_weights_that_are_gone_are_missed_before_a_run_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"evaluate_every": 4, "select": "skill"}
    with pytest.raises(TrainingError, match="Broken"):
        run(tmp_path, Scripted(0.9), observers=[Broken("on_step", 5)], **options)
    shutil.rmtree(tmp_path / "run/best")
    diary = Diary()
    with pytest.raises(TrainingError, match=r"after step 4, cannot be read.*Restore them from"):
        run(tmp_path, Scripted(0.1, 0.1), observers=[diary], **options)
    assert diary.steps == []


def test_a_score_that_is_not_given(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"select is 'f1': the evaluation gives squared_error"):
        run(tmp_path, evaluate_every=4, select="f1")


def test_select_needs_something_held_out(tmp_path: Path) -> None:
    class Blind(Cloud):
        def held_out(self) -> list[Points]:
            return []

    with pytest.raises(TrainingError, match="nothing is held out"):
        run(tmp_path, data=Blind(), select="squared_error")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 3}, "patience needs select"),
        ({"patience": 0, "select": "loss"}, "patience is 0: expected a whole number from 1"),
    ],
)
def test_settings_without_sense(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        TrainingSettings(steps=1, **settings)


def test_scores_of_batches_are_means_as_before(tmp_path: Path) -> None:
    result = run(tmp_path, evaluate_every=6, select="squared_error")
    rows: Sequence[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()
    ]
    found = {row["step"]: row["held_out"]["squared_error"] for row in rows if "held_out" in row}
    assert result.held_out["squared_error"] == min(found.values())
