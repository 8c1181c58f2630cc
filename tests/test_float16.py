"""Training in float16: the loss is scaled, a step that overflows is computed again."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import toy
from minilm.data.batches import TokenBatch
from minilm.errors import TrainingError
from minilm.learners.distillation import DistillationLearner
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.losses.distillation import DistillationLoss
from minilm.models.tasks import ForMaskedLM
from minilm.training.learner import Learner
from minilm.training.settings import TrainingSettings
from minilm.training.updates import Outcome, Updater
from tiny import tiny

LENGTHS = (7, 3, 1, 7, 5)


def batch() -> TokenBatch:
    ids = torch.randint(1, 61, (sum(LENGTHS),), generator=torch.Generator().manual_seed(3))
    labels = torch.where(torch.arange(len(ids)) % 3 == 1, (ids * 7) % 61, -100)
    return TokenBatch(np.arange(len(LENGTHS)), ids, torch.tensor(LENGTHS), labels)


def model(class_name: str) -> ForMaskedLM:
    found = tiny(class_name, torch.float32, attention_probs_dropout_prob=0.1)
    assert isinstance(found, ForMaskedLM)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(0.3)
    return found


def learner_of(kind: str) -> Learner:
    if kind == "distillation":
        return DistillationLearner(
            model("DistilBertForMaskedLM"), model("BertForMaskedLM"), DistillationLoss(mse=0.1)
        )
    return MaskedLMLearner(model(kind))


def updater_of(learner: Learner, precision: Any, **more: Any) -> Updater:
    settings = TrainingSettings(steps=20, learning_rate=1e-3, precision=precision, **more)
    return Updater(learner, settings, toy.ALONE)


def steps(updater: Updater, first: int, last: int) -> list[Outcome]:
    return [updater.update(step, [batch()]) for step in range(first, last + 1)]


@pytest.mark.parametrize("optimiser", ["adamw", "lamb", "muon"])
@pytest.mark.parametrize("kind", ["BertForMaskedLM", "AlbertForMaskedLM", "distillation"])
def test_it_learns_what_float32_learns(kind: str, optimiser: Any) -> None:
    found, wanted = (
        steps(updater_of(learner_of(kind), precision, optimiser=optimiser), 1, 8)
        for precision in ("float16", "float32")
    )
    for one, other in zip(found, wanted, strict=True):
        assert not one.skipped
        assert one.terms["loss"] == pytest.approx(other.terms["loss"], rel=5e-3)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=2e-2)
    assert found[-1].terms["loss"] < found[0].terms["loss"]
    assert found[-1].terms["loss"] != wanted[-1].terms["loss"]  # the products are in float16


class Product(Learner):
    """weight * factor * (sum of the samples), so that the gradient is known; in float16."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, 1))
        self.factor = factor

    def counts(self, batch: Any) -> dict[str, int]:
        return {}

    def forward(self, batch: Any, counts: Any) -> dict[str, Tensor]:
        x = torch.full((1, 1), self.factor)
        return {"loss": torch.nn.functional.linear(x, self.weight).float().sum()}

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ()

    def eval_step(self, batch: Any) -> dict[str, tuple[float, float]]:
        return {}


def test_a_step_that_overflows_is_computed_again() -> None:
    """A gradient of 5 is at most 65504 times 2^-3.7: the scale falls from 2^16 to 2^13."""
    learner = Product(5.0)
    updater = updater_of(learner, "float16", max_gradient_norm=None)
    assert updater.loss_scale == 2**16
    outcome = updater.update(1, [toy.Cloud().batch(0, np.arange(2))])
    assert updater.loss_scale == 2**13
    assert (outcome.skipped, outcome.gradient_norm) == (False, 5.0)
    # one update of AdamW, with the full rate
    assert float(learner.weight.detach()) == pytest.approx(1 - 1e-3 - 1e-5, abs=1e-7)


def test_without_a_scale_small_gradients_would_vanish() -> None:
    learner = Product(1e-7)
    updater = updater_of(learner, "float16", max_gradient_norm=None)
    outcome = updater.update(1, [toy.Cloud().batch(0, np.arange(2))])
    assert outcome.gradient_norm == pytest.approx(1e-7, rel=0.2)


def test_what_is_no_overflow_still_ends_the_run() -> None:
    for factor in (math.nan, 1e30):  # of the loss itself; the latter is infinite in float16
        updater = updater_of(Product(factor), "float16")
        with pytest.raises(TrainingError, match="not finite"):
            updater.update(1, [toy.Cloud().batch(0, np.arange(2))])


class Root(Product):
    """A loss that is finite, with a gradient that is not."""

    def forward(self, batch: Any, counts: Any) -> dict[str, Tensor]:
        return {"loss": (self.weight - 1).sqrt().sum()}


def test_a_gradient_that_no_scale_makes_finite_ends_the_run() -> None:
    updater = updater_of(Root(1.0), "float16")
    with pytest.raises(TrainingError, match="gradient_norm"):
        updater.update(1, [toy.Cloud().batch(0, np.arange(2))])
    assert updater.loss_scale < 1


class Steep(Product):
    """A loss with a finite gradient, whose square is not."""

    def forward(self, batch: Any, counts: Any) -> dict[str, Tensor]:
        return {"loss": (self.weight * 1e30).sum()}


def test_a_norm_that_no_scale_makes_finite_ends_the_run() -> None:
    updater = updater_of(Steep(1.0), "float16")
    with pytest.raises(TrainingError, match="gradient_norm inf"):
        updater.update(1, [toy.Cloud().batch(0, np.arange(2))])


def test_the_scale_is_part_of_the_state() -> None:
    whole = updater_of(learner_of("BertForMaskedLM"), "float16")
    steps(whole, 1, 3)
    whole._scaler.load_state_dict({**whole._scaler.state_dict(), "scale": 512.0})
    model_state, optimiser = whole.state()
    saved = (
        {name: value.clone() for name, value in model_state.items()},
        {name: value.clone() for name, value in optimiser.items()},
    )
    rest = steps(whole, 4, 6)
    again = updater_of(learner_of("BertForMaskedLM"), "float16")
    again.restore(*saved)
    assert again.loss_scale == 512
    assert [one.terms for one in steps(again, 4, 6)] == [one.terms for one in rest]
    for key in ("scale", "_growth_tracker"):
        assert again._scaler.state_dict()[key] == whole._scaler.state_dict()[key]
    assert whole._scaler.state_dict()["_growth_tracker"] == 6


def test_a_run_that_was_interrupted_goes_on_with_its_scale(tmp_path: Path) -> None:
    def run(name: str, steps: int) -> bytes:
        output = tmp_path / name
        toy.run(
            output,
            toy.Line().float(),
            Singles(),
            precision="float16",
            schedule="constant",
            steps=steps,
            allow_changes=True,
        )
        return (output / "model.safetensors").read_bytes()

    whole, half = run("whole", 12), run("parts", 4)
    assert half != whole
    assert run("parts", 12) == whole


class Singles(toy.Cloud):
    """Points in float32."""

    def batch(self, epoch: int, samples: Any) -> toy.Points:
        found = super().batch(epoch, samples)
        return toy.Points(found.samples, found.x.float(), found.y.float())


def test_weights_in_float16_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"convert the model with \.float\(\)"):
        updater_of(MaskedLMLearner(model("BertForMaskedLM").half()), "float16")
