"""The running average of the weights: what is evaluated, chosen, kept, and where a run ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from minilm.errors import TrainingError
from minilm.training.averaging import PREFIX, WeightAverage
from minilm.training.settings import TrainingSettings
from minilm.training.snapshots import read_snapshot
from minilm.training.updates import Updater
from test_observers import Broken
from toy import ALONE, Cloud, Line, run

DECAY = 0.7


def expected(values: list[Tensor], decay: float) -> Tensor:
    """The definition, as a sum."""
    weights = [decay ** (len(values) - 1 - place) for place in range(len(values))]
    return torch.stack([w * v for w, v in zip(weights, values, strict=True)]).sum(0) / sum(weights)


class Watched(Line):
    """Keeps the weights that it is evaluated with."""

    def __init__(self, *script: float) -> None:
        super().__init__(dropout=0.2)
        self.script = script
        self.evaluated: list[Tensor] = []

    def eval_scores(self, means: Any, outputs: Any) -> dict[str, float]:
        self.evaluated.append(self.linear.weight.detach().clone())
        return {"skill": self.script[len(self.evaluated) - 1]} if self.script else dict(means)


def learned(output: Path, steps: int = 12) -> list[Tensor]:
    """The weights after each update, from snapshots of every step."""
    snapshots = [read_snapshot(output / "run/snapshots", step) for step in range(1, steps + 1)]
    return [snapshot.model["linear.weight"] for snapshot in snapshots]


def result(output: Path) -> Tensor:
    return load_file(output / "model.safetensors")["linear.weight"]


EACH: dict[str, Any] = {"snapshot_every": 1, "keep_snapshots": 20}


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=30),
    st.floats(0.001, 0.9999),
)
@hypothesis_settings(deadline=None)
def test_it_is_the_sum_of_its_definition(numbers: list[float], decay: float) -> None:
    module = nn.Linear(1, 1, bias=False).double()
    average = WeightAverage(module, decay)
    values = [torch.tensor([[number]], dtype=torch.float64) for number in numbers]
    for value in values:
        module.weight.data.copy_(value)
        average.update()
    with average.applied():
        torch.testing.assert_close(module.weight.detach(), expected(values, decay))
    assert torch.equal(module.weight.detach(), values[-1])


def test_weights_of_half_precision_are_averaged_in_float32() -> None:
    module = nn.Linear(2, 2).to(torch.bfloat16)
    average = WeightAverage(module, 0.999)
    average.update()
    assert {value.dtype for name, value in average.state().items() if "weight" in name} == {
        torch.float32
    }
    with average.applied():
        assert module.weight.dtype == torch.bfloat16


def test_what_is_not_trained_is_not_averaged() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].bias.requires_grad_(False)
    average = WeightAverage(module, 0.9)
    average.update()
    names = {name.removeprefix(PREFIX) for name in average.state()}
    assert names == {"0.weight", "1.weight", "1.bias", "updates"}


def test_the_average_is_evaluated_and_is_the_result(tmp_path: Path) -> None:
    plain, averaged = Watched(), Watched()
    run(tmp_path / "plain", plain, evaluate_every=4, **EACH)
    run(tmp_path / "a", averaged, evaluate_every=4, average_weights=DECAY, **EACH)
    weights = learned(tmp_path / "a")
    for one, other in zip(learned(tmp_path / "plain"), weights, strict=True):
        assert torch.equal(one, other)  # nothing else is learned
    for place, found in zip((4, 8, 12), averaged.evaluated, strict=True):
        torch.testing.assert_close(found, expected(weights[:place], DECAY))
    assert torch.equal(result(tmp_path / "a"), averaged.evaluated[-1])
    assert torch.equal(averaged.linear.weight, averaged.evaluated[-1])
    assert not torch.equal(result(tmp_path / "a"), result(tmp_path / "plain"))


@pytest.mark.parametrize("call", [3, 4, 9, 12])
def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path: Path, call: int) -> None:
    options: dict[str, Any] = {"evaluate_every": 4, "average_weights": DECAY}
    run(tmp_path / "whole", Watched(), **options)
    with pytest.raises(TrainingError, match="Broken"):
        run(tmp_path / "a", Watched(), observers=[Broken("on_step", call)], **options)
    run(tmp_path / "a", Watched(), **options)
    assert torch.equal(result(tmp_path / "a"), result(tmp_path / "whole"))


def test_the_best_average_is_the_result(tmp_path: Path) -> None:
    script = (0.1, 0.7, 0.4, 0.2)
    options: dict[str, Any] = {"evaluate_every": 3, "select": "skill", "average_weights": DECAY}
    learner = Watched(*script)
    assert run(tmp_path / "whole", learner, **options, **EACH).chosen == 6
    assert torch.equal(result(tmp_path / "whole"), learner.evaluated[1])
    torch.testing.assert_close(
        learner.evaluated[1], expected(learned(tmp_path / "whole")[:6], DECAY)
    )
    # the snapshot that is taken together with the best weights is of those that learn
    with pytest.raises(TrainingError, match="Broken"):
        run(tmp_path / "a", Watched(*script), observers=[Broken("on_step", 7)], **options, **EACH)
    rest = Watched(*script[2:])
    assert run(tmp_path / "a", rest, **options, **EACH).chosen == 6
    assert torch.equal(result(tmp_path / "a"), result(tmp_path / "whole"))
    for one, other in zip(learned(tmp_path / "a"), learned(tmp_path / "whole"), strict=True):
        assert torch.equal(one, other)


def test_it_can_be_left_out_and_taken_up_again(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Broken"):
        run(tmp_path, Watched(), observers=[Broken("on_step", 3)], average_weights=DECAY)
    with pytest.raises(TrainingError, match=r"settings.average_weights: 0.7 then, None now"):
        run(tmp_path, Watched())
    with pytest.raises(TrainingError, match="Broken"):
        run(tmp_path, Watched(), observers=[Broken("on_step", 3)], allow_changes=True, **EACH)
    run(tmp_path, Watched(), average_weights=DECAY, allow_changes=True, **EACH)
    begun = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-2])["step"]
    assert begun == 12
    last = read_snapshot(tmp_path / "run/snapshots", 12)
    since = 12 - int(last.optimiser[f"{PREFIX}updates"])
    assert 0 < since < 12
    weights = [
        read_snapshot(tmp_path / "run/snapshots", step).model["linear.weight"]
        for step in range(since + 1, 13)
    ]
    torch.testing.assert_close(result(tmp_path), expected(weights, DECAY))


def test_an_update_that_is_left_out_does_not_count() -> None:
    settings = TrainingSettings(
        steps=9, learning_rate=0.1, on_nonfinite="skip", average_weights=DECAY
    )
    updater = Updater(Line(), settings, ALONE)
    data = Cloud(poison=9)
    for step, sample in enumerate([1, 9, 2], start=1):
        updater.update(step, [data.batch(0, torch.tensor([sample]).numpy())])
    assert int(updater.state()[1][f"{PREFIX}updates"]) == 2


def test_averages_of_another_model_are_refused() -> None:
    average = WeightAverage(nn.Linear(2, 2), DECAY)
    average.update()
    for other in (nn.Linear(3, 2), nn.Linear(2, 2, bias=False)):
        with pytest.raises(TrainingError, match="averages of weights that are not trained here"):
            WeightAverage(other, DECAY).restore(average.state())


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, "0.9"])
def test_decays_out_of_range_are_refused(decay: Any) -> None:
    with pytest.raises(TrainingError, match="average_weights is"):
        TrainingSettings(steps=1, average_weights=decay)
