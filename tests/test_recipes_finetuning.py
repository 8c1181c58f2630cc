"""Fine-tuning as a recipe: its settings, its identity, runs beside each other, what is held out."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minilm.blocks.initialisation import seeded
from minilm.data.records.base import Skips
from minilm.errors import InputError, TrainingError
from minilm.learners.tasks import SoftTargets
from minilm.recipes.finetuning import FinetuningSettings, prepare, split_off
from minilm.training.settings import TrainingSettings
from task_data import colour_sets, colour_texts, quick, save_start, tagged_words, tiny_model


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return save_start(tmp_path_factory.mktemp("start"), **dropout)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def rows(output: Path) -> list[dict[str, Any]]:
    lines = (output / "run/log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# --- settings ---


def test_fields_of_the_loop_may_be_given_in_either_way() -> None:
    in_loop = FinetuningSettings(loop={"accumulation": 3, "betas": (0.8, 0.9)})
    assert in_loop == FinetuningSettings(accumulation=3, betas=(0.8, 0.9))
    assert in_loop.loop == {}
    same = FinetuningSettings(weight_decay=0.1, loop={"weight_decay": 0.1})
    assert same.weight_decay == 0.1


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"loop": {"steps": 5}}, "loop has 'steps': in fine-tuning, give epochs"),
        ({"loop": {"warmup": 5}}, "loop has 'warmup': in fine-tuning, give warmup, a share"),
        ({"loop": {"weight_decey": 1}}, "'weight_decey', which the loop does not know. It has"),
        ({"loop": {"epochs": 1}}, "'epochs', which the loop does not know"),
        ({"weight_decay": 0.2, "loop": {"weight_decay": 0.1}}, "weight_decay is 0.2, but 0.1 in"),
        ({"seed": 1, "loop": {"seed": 2}}, "seed is 1, but 2 in loop"),
    ],
)
def test_settings_that_contradict_each_other(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        FinetuningSettings(**given)


def test_nothing_to_learn_from() -> None:
    with pytest.raises(InputError, match="both 0: nothing would be learned"):
        SoftTargets(weight=0, label_weight=0)
    with pytest.warns(UserWarning, match="learning_rate is 0: the weights stay as they are"):
        FinetuningSettings(learning_rate=0.0)
    assert SoftTargets(weight=0, label_weight=1).label_weight == 1


def test_no_clipping_has_one_spelling() -> None:
    assert TrainingSettings(steps=1, max_gradient_norm=0).max_gradient_norm is None
    assert TrainingSettings(steps=1, max_gradient_norm=0.0) == TrainingSettings(
        steps=1, max_gradient_norm=None
    )


def test_without_clipping_the_weights_move(start: Path, tmp_path: Path) -> None:
    quick("classification", start, colour_texts(16), tmp_path, loop={"max_gradient_norm": 0})
    before, after = weights(start), weights(tmp_path)
    shared = [name for name in before if f"bert.{name}" in after]
    assert any(not torch.equal(before[name], after[f"bert.{name}"]) for name in shared)


def test_gradient_checkpointing_changes_no_loss(start: Path, tmp_path: Path) -> None:
    losses = {}
    for name, checkpointing in (("plain", False), ("less", True)):
        quick("classification", start, colour_texts(24), tmp_path / name, log_every=1,
              gradient_checkpointing=checkpointing)  # fmt: skip
        losses[name] = [row["loss"] for row in rows(tmp_path / name) if "loss" in row]
    assert len(losses["plain"]) == 3
    assert losses["less"] == pytest.approx(losses["plain"], rel=1e-5)


# --- identity ---


def test_other_dev_records_are_another_run(start: Path, tmp_path: Path) -> None:
    train, dev, other = colour_texts(16), colour_texts(8, seed=5), colour_texts(8, seed=6)
    said: list[str] = []
    first = quick("classification", start, train, tmp_path, dev=dev, evaluate_every=1)
    same = quick("classification", start, train, tmp_path, dev=dev, evaluate_every=1)
    assert same.scores == first.scores
    with pytest.raises(TrainingError, match=r"other settings:\n  the dev records differ\n"):
        quick("classification", start, train, tmp_path, dev=other, evaluate_every=1)
    with pytest.raises(TrainingError, match="the training records differ"):
        quick("classification", start, colour_texts(16, seed=9), tmp_path, dev=dev,
              evaluate_every=1)  # fmt: skip
    with pytest.raises(TrainingError, match="evaluate_every: 1 then, 2 now"):
        quick("classification", start, train, tmp_path, dev=dev, evaluate_every=2)
    anew = quick("classification", start, train, tmp_path, dev=other, evaluate_every=1,
                 allow_changes=True, say=said.append)  # fmt: skip
    assert "the evaluation differs: earlier scores are left out" in said
    assert anew.chosen == anew.steps == 2  # nothing before was evaluated on these
    assert [row["step"] for row in rows(tmp_path) if "held_out" in row] == [2]
    logged = next(row["held_out"]["accuracy"] for row in rows(tmp_path) if "held_out" in row)
    assert logged == pytest.approx(anew.scores["accuracy"])


def test_without_a_selection_evaluate_every_is_free(start: Path, tmp_path: Path) -> None:
    train, dev = colour_texts(16), colour_texts(8, seed=5)
    for every in (1, 2):
        done = quick("classification", start, train, tmp_path, dev=dev, evaluate_every=every,
                     select="last")  # fmt: skip
        assert done.finished


# --- several runs in one process ---


def prepared_weights(start: Path, seed: int) -> dict[str, torch.Tensor]:
    run, _, _ = prepare(
        "classification", start, colour_texts(16), dev=None, teacher=None, layers=None,
        settings=FinetuningSettings(seed=seed), skips=Skips(), device=torch.device("cpu"),
        say=lambda _: None,
    )  # fmt: skip
    return dict(run.model.state_dict())


def test_the_seed_of_a_run_leaves_the_shared_generator_alone(start: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = prepared_weights(start, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = prepared_weights(start, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["classifier.weight"], prepared_weights(start, 2)["classifier.weight"]
    )


def test_heads_made_in_two_threads_are_those_made_alone(start: Path) -> None:
    seeds = [1, 2] * 4
    alone = {seed: prepared_weights(start, seed) for seed in (1, 2)}
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: prepared_weights(start, seed), seeds))
    for seed, found in zip(seeds, together, strict=True):
        assert all(torch.equal(value, alone[seed][name]) for name, value in found.items())


def test_two_runs_at_the_same_time_are_each_the_run_it_is_alone(
    start: Path, tmp_path: Path
) -> None:
    """With dropout, fresh heads, other data orders; what a sweep with two jobs does."""

    def run(place: str, seed: int) -> dict[str, torch.Tensor]:
        output = tmp_path / f"{place}-{seed}"
        quick("classification", start, colour_texts(24), output, seed=seed, epochs=2)
        return weights(output)

    alone = {seed: run("alone", seed) for seed in (1, 2)}
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: run("together", seed), (1, 2)))
    for seed, found in zip((1, 2), together, strict=True):
        assert all(torch.equal(value, alone[seed][name]) for name, value in found.items())


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "albert"])
@pytest.mark.parametrize("initializer", ["normal", "truncated_normal"])
def test_seeded_draws_are_those_of_the_shared_generator(
    architecture: str, initializer: str
) -> None:
    """`tiny_model` seeds the shared generator, and draws once more after that."""
    head = "ForMaskedLM"
    config = tiny_model(architecture, head).config.replace(initializer=initializer)
    cls = type(tiny_model(architecture, head))
    torch.manual_seed(3)
    expected = cls(config)
    with seeded(3):
        found = cls(config)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


# --- what is held out ---


def test_every_class_stays_in_training() -> None:
    common = [{"text": f"a {n}", "label": "good" if n % 4 else "bad"} for n in range(40)]
    rare = [{"text": f"b {n}", "label": f"odd{n}"} for n in range(6)]
    for seed in range(5):
        rest, taken = split_off([*common, *rare], 0.3, seed, task="classification")
        assert {row["label"] for row in rest} >= {row["label"] for row in taken}
        assert len({row["label"] for row in rest}) == 8
        assert len(taken) == 14
        counts = Counter(row["label"] for row in taken)
        assert counts["good"] == pytest.approx(3 * counts["bad"], abs=2)


@pytest.mark.parametrize(
    ("task", "field", "records"),
    [("multi-label", "labels", colour_sets(12)), ("tagging", "tags", tagged_words(12))],
)
def test_every_one_of_several_classes_stays(
    task: str, field: str, records: list[dict[str, Any]]
) -> None:
    records = [*records, {**records[0], field: [*records[0][field][:-1], "only here"]}]
    whole = {name for row in records for name in row[field]}
    for seed in range(5):
        rest, taken = split_off(records, 0.5, seed, task=task)
        assert {name for row in rest for name in row[field]} == whole
        assert taken
        assert len(rest) + len(taken) == len(records)


def test_other_fields_with_the_class_are_found() -> None:
    records = [{"text": str(n), "intent": "a" if n else "b"} for n in range(10)]
    for seed in range(4):
        rest, _ = split_off(records, 0.9, seed, task="classification")
        assert {row["intent"] for row in rest} == {"a", "b"}


def test_numbers_are_no_classes() -> None:
    records = [{"text": str(n), "label": n / 10} for n in range(10)]
    rest, taken = split_off(records, 0.2, seed=0, task="regression")
    assert (len(rest), len(taken)) == (8, 2)


def test_records_that_are_all_needed() -> None:
    records = [{"text": str(n), "label": str(n)} for n in range(5)]
    with pytest.raises(InputError, match="None of 5 records can be held out: each is the only"):
        split_off(records, 0.2, seed=0, task="classification")
