"""Muon: torch's arithmetic in the precision of the processor, AdamW for the rest, exact resume."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from torch import Tensor, nn

import minilm
import toy
from minilm.data.batches import TokenBatch
from minilm.errors import TrainingError
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.models.tasks import ForMaskedLM
from minilm.training.muon import orthogonalise
from minilm.training.optimiser import build_optimiser, hidden_matrices
from minilm.training.settings import TrainingSettings
from minilm.training.snapshots import Snapshot, read_snapshot, write_snapshot
from minilm.training.updates import Updater
from tiny import tiny

KINDS = ["BertForMaskedLM", "DistilBertForMaskedLM", "AlbertForMaskedLM"]
SHAPES = [(6, 4), (4, 6), (5, 5), (1, 3)]


def batch(seed: int = 3) -> TokenBatch:
    lengths = torch.tensor([7, 3, 6])
    ids = torch.randint(1, 61, (16,), generator=torch.Generator().manual_seed(seed))
    labels = torch.where(torch.arange(16) % 3 == 1, (ids * 7) % 61, -100)
    return TokenBatch(np.arange(3), ids, lengths, labels)


def learner_of(kind: str, **changes: Any) -> MaskedLMLearner:
    model = tiny(kind, torch.float32, **changes)
    assert isinstance(model, ForMaskedLM)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    return MaskedLMLearner(model)


def updater_of(learner: MaskedLMLearner, **changes: Any) -> Updater:
    chosen = {"steps": 20, "learning_rate": 1e-2, "optimiser": "muon", **changes}
    return Updater(learner, TrainingSettings(**chosen), toy.ALONE)


def run(updater: Updater, first: int, last: int) -> list[float]:
    return [updater.update(step, [batch(step)]).terms["loss"] for step in range(first, last + 1)]


@given(
    st.sampled_from([(3, 3), (4, 9), (9, 4), (1, 5), (16, 64)]),
    st.integers(0, 10**6),
    st.floats(1e-4, 1e4),
)
@hypothesis_settings(deadline=None, max_examples=40)
def test_singular_values_come_near_one_and_the_directions_stay(
    shape: tuple[int, int], seed: int, scale: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=draw, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix * scale)
    inner = left.T @ found @ right.T  # diagonal, if the directions are the same
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), atol=1e-8, rtol=0)
    visible = values > 0.02 * matrix.norm()
    assert ((inner.diagonal()[visible] > 0.5) & (inner.diagonal()[visible] < 1.3)).all()
    torch.testing.assert_close(found, orthogonalise(matrix), atol=1e-8, rtol=0)


def test_a_gradient_of_zeros_moves_nothing_and_dtypes_stay() -> None:
    assert not orthogonalise(torch.zeros(3, 4)).any()
    assert orthogonalise(torch.ones(2, 3, dtype=torch.float16)).dtype == torch.float32
    assert orthogonalise(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_it_is_the_muon_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(value.detach().clone()) for value in ours]
    muon = minilm.Muon(ours, lr=0.03, weight_decay=0.2)
    reference = torch.optim.Muon(theirs, lr=0.03, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    # the reference orthogonalises in bfloat16 everywhere
    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self.clone())
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        muon.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_what_is_no_matrix_of_a_layer_is_trained_by_adamw() -> None:
    """All other parameters move as AdamW moves them, from the same gradients, to the bit."""
    learner = learner_of("AlbertForMaskedLM")
    other = copy.deepcopy(learner)
    muon = build_optimiser(learner, TrainingSettings(steps=1, optimiser="muon"))
    adamw = build_optimiser(other, TrainingSettings(steps=1))
    for _ in range(3):
        for one, two in zip(learner.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        muon.step()
        adamw.step()
    matrices = set(hidden_matrices(learner))
    for (name, one), two in zip(learner.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two) is (one not in matrices), name
        assert set(muon.state[one]) == (
            {"momentum_buffer"} if one in matrices else {"exp_avg", "exp_avg_sq", "step"}
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrices_of_layers_are_found(kind: str) -> None:
    learner = learner_of(kind)
    expected = [
        name
        for name, _ in learner.named_parameters()
        if name.endswith(
            tuple(
                f"{part}.weight"
                for part in (
                    *(f"attention.{x}" for x in ("query", "key", "value", "output")),
                    "feed_forward.intermediate",
                    "feed_forward.output",
                )
            )
        )
    ]
    assert len(expected) == (6 if kind.startswith("Albert") else 18)
    names = {parameter: name for name, parameter in learner.named_parameters()}
    assert [names[parameter] for parameter in hidden_matrices(learner)] == expected


def test_an_update_is_as_long_as_one_of_adamw() -> None:
    """The root mean square over the elements is about 0.2 of the rate for every shape."""
    for shape in [(64, 64), (64, 256), (256, 64)]:
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        minilm.Muon([weight], lr=0.1, weight_decay=0.0).step()
        assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.02, rel=0.25)


def test_decay_is_in_proportion_to_the_rate_alone() -> None:
    weight = nn.Parameter(torch.full((2, 3), 2.0))
    weight.grad = torch.zeros(2, 3)
    minilm.Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 3), 2.0 * 0.95))


def test_layers_of_different_depth_learn_at_different_rates() -> None:
    learner = learner_of("BertForMaskedLM", num_hidden_layers=2)
    updater = updater_of(learner, layer_decay=0.5, schedule="constant")
    updater.update(1, [batch()])
    found = {
        (group["orthogonalise"], round(group["lr"] / 1e-2, 6))
        for group in updater.optimiser.param_groups
    }
    assert found == {(True, 0.5), (True, 0.25), *((False, 0.5**n) for n in range(4))}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind: str) -> None:
    learner = learner_of(kind)
    updater = updater_of(learner)
    losses = [updater.update(step, [batch()]).terms["loss"] for step in range(1, 9)]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "AlbertForMaskedLM"])
def test_a_run_that_goes_on_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    straight = learner_of(kind)
    updater = updater_of(straight)
    wanted = run(updater, 1, 6)

    interrupted = updater_of(learner_of(kind))
    run(interrupted, 1, 3)
    write_snapshot(tmp_path, Snapshot(3, *interrupted.state(), {}))
    again = learner_of(kind)
    resumed = updater_of(again)
    snapshot = read_snapshot(tmp_path, 3)
    assert any(name.endswith("momentum_buffer") for name in snapshot.optimiser)
    resumed.restore(snapshot.model, snapshot.optimiser)
    assert run(resumed, 4, 6) == wanted[3:]
    for name, value in straight.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    # without the optimiser's tensors it does not
    forgetful = updater_of(learner_of(kind))
    forgetful.restore(snapshot.model, {})
    assert run(forgetful, 4, 6) != wanted[3:]


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_run_may_change_to_the_other_optimiser(before: str, after: str) -> None:
    first = updater_of(learner_of("BertForMaskedLM"), optimiser=before)
    losses = run(first, 1, 3)
    second = updater_of(learner_of("BertForMaskedLM"), optimiser=after)
    second.restore(*first.state())
    losses += run(second, 4, 8)
    assert all(map(math.isfinite, losses))
    keys = {key for state in second.optimiser.state.values() for key in state}
    assert ("momentum_buffer" in keys) == (after == "muon")


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"no layer is trained: use optimiser=\"adamw\""):
        build_optimiser(nn.Linear(3, 2), TrainingSettings(steps=1, optimiser="muon"))


def test_frozen_layers_are_left_out() -> None:
    learner = learner_of("BertForMaskedLM")
    for layer in list(learner.model.encoder.virtual_layers())[:2]:
        layer.requires_grad_(False)
    assert len(hidden_matrices(learner)) == 6


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((2, 2), {"lr": -1.0}, "lr is -1.0"),
        ((2, 2), {"momentum": 1.0}, "momentum is 1.0"),
        ((2, 2), {"weight_decay": math.nan}, "weight_decay is nan"),
        ((3,), {}, r"the shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(
    shape: tuple[int, ...], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        minilm.Muon([nn.Parameter(torch.ones(shape))], **{"lr": 0.1, **changes})
