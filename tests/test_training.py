"""The engine: schedules, parameter groups, updates, checks, the run directory."""

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import toy
from minilm.errors import MinilmError, TrainingError
from minilm.training.distributed import join
from minilm.training.learner import Learner
from minilm.training.optimiser import (
    build_optimiser,
    clip_gradients,
    optimiser_tensors,
    parameter_groups,
)
from minilm.training.record import check_record
from minilm.training.schedules import learning_rate
from minilm.training.settings import Schedule, TrainingSettings
from minilm.training.updates import Updater
from tiny import ALL_CLASSES, tiny


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "run/log.jsonl").read_text().splitlines()]


def rates(**settings: Any) -> list[float]:
    made = TrainingSettings(learning_rate=1.0, **settings)
    return [learning_rate(update, made) for update in range(1, made.steps + 1)]


def test_the_schedules_have_the_values_that_their_formulas_say() -> None:
    assert rates(steps=6, warmup=2, schedule="linear") == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates(steps=4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert rates(steps=5, warmup=1, schedule="polynomial") == [1.0, 0.8, 0.6, 0.4, 0.2]
    squared = rates(steps=4, schedule="polynomial", power=2.0)
    assert squared == [1.0, 0.5625, 0.25, 0.0625]
    assert rates(steps=4, warmup=2, schedule="constant") == [0.5, 1.0, 1.0, 1.0]
    cosine = rates(steps=6, warmup=2, schedule="cosine")
    half = math.sqrt(0.5) / 2
    assert cosine == pytest.approx([0.5, 1.0, 1.0, 0.5 + half, 0.5, 0.5 - half])
    stable = rates(steps=8, warmup=2, schedule="wsd", decay=0.5)
    decay = [1 - math.sqrt(done / 4) for done in range(4)]
    assert stable == pytest.approx([0.5, 1.0, 1.0, 1.0, *decay])
    assert rates(steps=3, schedule="wsd", decay=0.01) == [1.0, 1.0, 1.0]  # one step, the last


@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("warmup", [0, 1, 7, 16])
def test_no_update_has_rate_zero_or_more_than_the_full_one(schedule: Any, warmup: int) -> None:
    found = rates(steps=20, warmup=warmup, schedule=schedule)
    assert all(0 < rate <= 1 for rate in found)
    after = found[warmup:]
    assert after == sorted(after, reverse=True)
    if schedule != "wsd":  # its decay would overlap
        assert len(rates(steps=20, warmup=20, schedule=schedule)) == 20


@pytest.mark.parametrize("class_name", ALL_CLASSES)
def test_norms_and_biases_are_not_decayed_and_nothing_is_left_out(class_name: str) -> None:
    model = tiny(class_name)
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("bias" not in names[id(p)] for p in decayed["params"])
    assert all("norm" not in names[id(p)] and p.dim() == 2 for p in decayed["params"])
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in others["params"])
    found = [id(p) for group in (decayed, others) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_frozen_parameters_are_in_no_group() -> None:
    model = tiny("DistilBertModel")
    model.base.embeddings.position.requires_grad_(False)
    params = [id(p) for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert id(model.base.embeddings.position.weight) not in params


@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "DistilBertForSequenceClassification"])
def test_lower_layers_learn_more_slowly(class_name: str) -> None:
    model = tiny(class_name)  # three layers
    settings = TrainingSettings(
        steps=10, learning_rate=0.5, schedule="constant", layer_decay=0.5, max_gradient_norm=None
    )
    learner = Everything(model)
    updater = Updater(learner, settings, toy.ALONE)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    updater.update(1, [toy.Cloud().batch(0, np.arange(2))])
    groups = updater.optimiser.param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert len(rate) == sum(len(group["params"]) for group in groups) == len(before)
    for name, parameter in model.named_parameters():
        depth = 4
        if "embeddings." in name:
            depth = 0
        elif "layers." in name:
            depth = 1 + int(name.partition("layers.")[2].partition(".")[0])
        assert rate[id(parameter)] == 0.5 * 0.5 ** (4 - depth), name
        assert (id(parameter) in decayed) == (parameter.dim() == 2), name
        # the first update of Adam has the length of the rate, whatever the gradient
        moved = before[name] - parameter.detach()
        wanted = rate[id(parameter)] * (1 + 0.01 * before[name] * (parameter.dim() == 2))
        torch.testing.assert_close(moved, wanted, rtol=1e-5, atol=0)


class Everything(Learner):
    """The gradient of every number of a model is 1."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def counts(self, batch: Any) -> dict[str, int]:
        return {}

    def forward(self, batch: Any, counts: Any) -> dict[str, torch.Tensor]:
        return {"loss": torch.stack([p.sum() for p in self.model.parameters()]).sum()}

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ()

    def eval_step(self, batch: Any) -> dict[str, tuple[float, float]]:
        return {}


def test_shared_layers_have_no_rate_of_their_own() -> None:
    settings = TrainingSettings(steps=10, layer_decay=0.9)
    with pytest.raises(TrainingError, match=r"AlbertModel share weights.*set layer_decay to 1"):
        build_optimiser(tiny("AlbertForMaskedLM"), settings)
    own = tiny("AlbertForMaskedLM", num_hidden_groups=3)
    assert len(build_optimiser(own, settings).param_groups) == 10  # 5 depths, decayed or not


def test_a_largest_norm_of_zero_is_no_clipping(tmp_path: Path) -> None:
    """In Python as on the command line, where it says so."""
    assert TrainingSettings(steps=1, max_gradient_norm=0).max_gradient_norm is None
    toy.run(tmp_path / "zero", max_gradient_norm=0.0)
    toy.run(tmp_path / "none", max_gradient_norm=None)
    zero, none = rows(tmp_path / "zero"), rows(tmp_path / "none")
    assert [row["loss"] for row in zero if "loss" in row][-1] < zero[0]["loss"]
    for one, other in zip(zero, none, strict=True):
        assert one.get("loss") == other.get("loss")


@pytest.mark.parametrize("limit", [None, 0.01, 1e9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_are_clipped_as_by_torch(limit: float | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    both = [[nn.Parameter(torch.zeros(3, 4, dtype=dtype)) for _ in range(3)] for _ in range(2)]
    for own, other in zip(*both, strict=True):
        own.grad = torch.randn(4, 3, dtype=dtype).T  # not contiguous
        other.grad = own.grad.clone()
    both[0][2].grad = both[1][2].grad = None
    norm = clip_gradients(both[0], limit)
    wanted = nn.utils.clip_grad_norm_(both[1], float("inf") if limit is None else limit)
    assert norm == pytest.approx(float(wanted), rel=2 * torch.finfo(dtype).eps)
    for own, other in zip(both[0][:2], both[1][:2], strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_the_norm_shows_that_a_gradient_is_not_finite(bad: float) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1.0, bad, 0.0])
    assert not math.isfinite(clip_gradients([parameter], 1.0))
    assert clip_gradients([nn.Parameter(torch.zeros(3))], 1.0) == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"warmup": 11}, "only 10 steps"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"betas": (0.9, 1.0)}, "betas is 1.0"),
        ({"betas": (0.9,)}, r"betas is \(0.9,\): expected two numbers"),
        ({"schedule": "cos"}, "linear, cosine, wsd, polynomial, constant"),
        ({"schedule": "wsd", "warmup": 6, "decay": 0.5}, "take 6 and 5 steps"),
        ({"decay": 0.0}, "decay is 0.0"),
        ({"layer_decay": 1.1}, "layer_decay is 1.1"),
        ({"precision": "float8"}, "float32, bfloat16, float16"),
        ({"keep_snapshots": 1}, "keep_snapshots is 1"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        TrainingSettings(**{"steps": 10, **changes})


@pytest.mark.parametrize("accumulation", [1, 2, 3, 12])
def test_a_step_equals_plain_gradient_descent_however_it_is_cut(accumulation: int) -> None:
    """Against torch's AdamW on the whole step at once; 12 parts leave some empty."""
    settings = TrainingSettings(
        steps=5, learning_rate=0.1, accumulation=accumulation, max_gradient_norm=0.5
    )
    data, learner, plain = toy.Cloud(), toy.Line(), toy.Line()
    updater = Updater(learner, settings, toy.ALONE)
    optimiser = torch.optim.AdamW(parameter_groups(plain, 0.01), lr=0.1, eps=1e-6)
    for step, samples in enumerate(data.steps(0), start=1):
        parts = data.split(0, samples, accumulation)
        outcome = updater.update(step, [data.batch(0, part) for part in parts])

        whole = data.batch(0, samples)
        loss = (plain.linear(plain.norm(whole.x))[:, 0] - whole.y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimiser.step()
        assert outcome.terms["loss"] == pytest.approx(loss.item(), rel=1e-12)
        assert outcome.terms["error"] == pytest.approx(loss.item(), rel=1e-12)
        assert outcome.gradient_norm == pytest.approx(float(norm), rel=1e-12)
        assert outcome.tokens == 16
    for ours, theirs in zip(learner.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("trial", range(20))
def test_what_is_not_finite_never_reaches_the_weights(trial: int, tmp_path: Path) -> None:
    """In data, weights or gradients, at a random step; the message names step and samples."""
    rng = np.random.default_rng(trial)
    learner = toy.Line()
    kind = ("data", "weights", "gradient")[trial % 3]
    data = toy.Cloud(poison=int(rng.integers(40)) if kind == "data" else None)
    at = int(rng.integers(1, 6))
    poisoned = {}

    original = toy.Line.forward

    def forward(self: toy.Line, batch: Any, counts: Any) -> Any:
        poisoned["step"] = poisoned.get("step", 0) + 1
        if kind == "weights" and poisoned["step"] == at:
            with torch.no_grad():
                self.linear.bias.fill_(math.inf)
        return original(self, batch, counts)

    learner.forward = forward.__get__(learner)  # type: ignore[method-assign]
    if kind == "gradient":
        calls = iter(range(1, 100))
        learner.linear.weight.register_hook(lambda g: g * math.nan if next(calls) == at else g)
    with pytest.raises(
        TrainingError, match=r"Step \d+: the loss or its gradient is not finite"
    ) as e:
        toy.run(tmp_path, learner=learner, data=data, snapshot_every=1)
    step = int(str(e.value).split()[1].rstrip(":"))
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, step))
    samples = {int(s) for s in data.steps(0)[step - 1]}
    listed = str(e.value).split("Samples of the step: ")[1].split(". Lower")[0]
    assert {int(s) for s in listed.split(", ")} == samples
    if kind == "data":
        assert data.poison in samples
    else:
        assert step == at
    if kind != "weights":
        assert all(bool(p.isfinite().all()) for p in learner.parameters())


def test_steps_that_are_not_finite_can_be_left_out(tmp_path: Path) -> None:
    data = toy.Cloud(poison=5)
    result = toy.run(tmp_path, data=data, on_nonfinite="skip", steps=10)
    assert result.finished
    skipped = [row["step"] for row in rows(tmp_path) if row.get("skipped")]
    assert len(skipped) == 2  # once an epoch
    assert math.isnan(next(row for row in rows(tmp_path) if row.get("skipped"))["loss"])
    with pytest.raises(TrainingError, match="2 times in a row"):
        toy.run(tmp_path / "b", data=_AllBad(), on_nonfinite="skip", max_skips=1)


class _AllBad(toy.Cloud):
    def batch(self, epoch: int, samples: Any) -> Any:
        batch = super().batch(epoch, samples)
        batch.y.fill_(math.nan)
        return batch


def test_a_run_leaves_model_log_and_snapshots(tmp_path: Path) -> None:
    said: list[str] = []
    result = toy.run(tmp_path, said=said, evaluate_every=5)
    assert result.finished
    assert result.exit_code == 0
    assert result.step == 12
    steps = [row["step"] for row in rows(tmp_path) if "loss" in row]
    assert steps == list(range(1, 13))
    assert [row["epoch"] for row in rows(tmp_path) if "loss" in row] == [0] * 5 + [1] * 5 + [2] * 2
    evaluated = [row["step"] for row in rows(tmp_path) if "held_out" in row]
    assert evaluated == [5, 10, 12]
    last = rows(tmp_path)[-1]["held_out"]["squared_error"]
    assert last == result.held_out["squared_error"]
    assert last < rows(tmp_path)[0]["loss"] / 2  # it learns
    names = sorted(path.name for path in (tmp_path / "run/snapshots").iterdir())
    assert [int(name.removeprefix("step-")) for name in names] == [8, 12]
    assert (tmp_path / "model.safetensors").exists()


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    toy.run(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes(), rows(tmp_path)
    said: list[str] = []
    assert toy.run(tmp_path, said=said).finished
    assert "all steps are done" in said
    assert ((tmp_path / "model.safetensors").read_bytes(), rows(tmp_path)) == before


def test_other_settings_or_data_are_refused_and_named(tmp_path: Path) -> None:
    toy.run(tmp_path, steps=8)
    with pytest.raises(TrainingError, match=r"settings.learning_rate: 0.1 then, 0.2 now"):
        toy.run(tmp_path, steps=8, learning_rate=0.2)
    with pytest.raises(TrainingError, match=r"data.size: 40 then, 48 now"):
        toy.run(tmp_path, steps=8, data=toy.Cloud(48))
    assert toy.run(tmp_path, steps=8, log_every=3, workers=1).finished
    assert toy.run(tmp_path, steps=9, allow_changes=True).step == 9


def test_snapshots_of_an_unknown_run_are_refused(tmp_path: Path) -> None:
    """As a killed run leaves them whose directory was moved away while it worked."""
    toy.run(tmp_path, steps=8)
    (tmp_path / "run" / "settings.json").unlink()
    with pytest.raises(TrainingError, match=r"holds snapshots, but no settings\.json"):
        toy.run(tmp_path, steps=8)


def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (0, 1, 3):
        toy.run(tmp_path / str(workers), learner=toy.Line(dropout=0.3), workers=workers)
    contents = {(tmp_path / w / "model.safetensors").read_bytes() for w in "013"}
    assert len(contents) == 1


def test_dropout_differs_between_steps_and_seeds_but_not_between_runs(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(found))  # the caller's generator has no influence
        toy.run(tmp_path / name, learner=toy.Line(dropout=0.5), seed=seed)
        found.append((tmp_path / name / "model.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    learner = toy.Line(dropout=0.5)
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    toy.run(tmp_path, learner=learner)
    assert torch.equal(torch.rand(2), expected)


def test_a_snapshot_of_another_model_is_refused() -> None:
    settings = TrainingSettings(steps=1)
    line = Updater(toy.Line(), settings, toy.ALONE)
    model, optimiser = line.state()
    with pytest.raises(TrainingError, match=r"(?s)another model.*linear\.weight"):
        line.restore({**model, "linear.weight": torch.zeros(2, 3)}, optimiser)
    with pytest.raises(TrainingError, match=r"norm\.scale\.exp_avg"):
        line.restore(model, {"norm.scale.exp_avg": torch.zeros(3)})


def test_the_optimisers_state_is_named_by_parameter() -> None:
    learner = toy.Line()
    optimiser = build_optimiser(learner, TrainingSettings(steps=1))
    assert optimiser_tensors(optimiser, learner) == {}
    sum(p.sum() for p in learner.parameters()).backward()
    optimiser.step()
    names = set(optimiser_tensors(optimiser, learner))
    assert {"linear.weight.exp_avg", "linear.weight.exp_avg_sq", "linear.weight.step"} <= names


def test_an_output_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MinilmError, match="cannot be created"):
        toy.run(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("device", "key", "now", "what"),
    [
        ("cpu", "processes", 2, "the last bits of the weights may differ"),
        ("cuda", "processes", 2, "dropout draws other masks"),
        ("cuda", "device", "cpu", "dropout draws other masks"),
        ("cpu", "device", "cuda", "dropout draws other masks"),
        ("cuda", "torch", "3.0", "the last bits of the weights may differ"),
    ],
)
def test_what_another_environment_changes_is_said(
    device: str, key: str, now: Any, what: str, tmp_path: Path
) -> None:
    said: list[str] = []
    then = {"processes": 1, "device": device, "torch": "2.13"}
    check_record(tmp_path, {"settings": {"steps": 3}}, then, False, said.append)
    check_record(tmp_path, {"settings": {"steps": 3}}, then, False, said.append)
    assert said == []
    check_record(tmp_path, {"settings": {"steps": 3}}, {**then, key: now}, False, said.append)
    (note,) = said
    assert note.startswith(f"note: {key} was ")
    assert what in note


def test_the_first_process_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It evaluates the finished model alone, for longer than the half an hour of gloo."""
    asked: dict[str, Any] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda name, **more: asked.update(more))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: asked.update(left=True))
    with join("cpu") as processes:
        assert (processes.rank, processes.world, processes.first) == (1, 2, False)
    assert asked["timeout"] >= timedelta(hours=2)
    assert asked["left"]


@pytest.mark.parametrize(
    ("class_name", "changes", "shared"),
    [
        ("AlbertForMaskedLM", {}, 6),  # one layer, applied three times
        ("AlbertForMaskedLM", {"num_hidden_groups": 3, "inner_group_num": 1}, 0),
        ("BertForMaskedLM", {}, 0),
    ],
)
def test_what_is_applied_several_times_has_a_decay_of_its_own(
    class_name: str, changes: dict[str, Any], shared: int
) -> None:
    model = tiny(class_name, **changes)
    plain = parameter_groups(model, 0.1)
    if not shared:
        with pytest.raises(TrainingError, match="no layers share weights"):
            parameter_groups(model, 0.1, 0.01)
        return
    decayed, several, others = parameter_groups(model, 0.1, 0.01)
    assert [group["weight_decay"] for group in (decayed, several, others)] == [0.1, 0.01, 0.0]
    names = {id(p): name for name, p in model.named_parameters()}
    found = [names[id(p)] for p in several["params"]]
    assert len(found) == shared
    assert all(".groups.0.layers.0." in name and name.endswith(".weight") for name in found)
    together = {id(p) for group in (decayed, several) for p in group["params"]}
    assert together == {id(p) for p in plain[0]["params"]}
    # and it reaches every optimiser
    for optimiser in ("adamw", "lamb", "muon"):
        settings = TrainingSettings(
            steps=1, weight_decay=0.1, shared_weight_decay=0.01, optimiser=optimiser
        )
        groups = build_optimiser(model, settings).param_groups
        decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert {decays[id(p)] for p in several["params"]} == {0.01}
