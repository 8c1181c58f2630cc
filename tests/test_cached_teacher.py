"""Distillation with a teacher cache: the same losses, the teacher once for each sample and mask."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minilm.data.teacher_cache import TeacherCache
from minilm.errors import DataError, InputError, TrainingError
from minilm.learners import cached_teacher
from minilm.learners.cached_teacher import PredictedStates, StoredTargets
from minilm.learners.distillation import DistillationLearner
from minilm.losses.distillation import DistillationLoss
from minilm.losses.elementary import kl_divergence
from minilm.losses.top_predictions import top_divergence, top_of_logits
from minilm.training.settings import TrainingSettings
from minilm.training.updates import Updater
from teacher_cache_driver import (
    HELD_OUT,
    ROUND,
    Watched,
    make_data,
    make_models,
    open_cache,
    run,
    watch,
)
from toy import ALONE

TESTS = Path(__file__).parent
DRIVER = TESTS / "teacher_cache_driver.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
TERMS = ("loss", "kl", "mlm", "cosine", "mse")


@pytest.fixture(autouse=True)
def unwatched() -> Iterator[None]:
    """`watch` replaces a function of the module; this puts it back."""
    before = cached_teacher.encode
    yield
    cached_teacher.encode = before


def log_of(output: Path) -> list[dict[str, Any]]:
    """Steps and evaluations."""
    lines = (output / "run/log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "event" not in row]


def assert_same_losses(one: Path, other: Path, bound: float = 1e-6) -> None:
    a, b = log_of(one), log_of(other)
    assert len(a) == len(b) > 10
    for row, same in zip(a, b, strict=True):
        for name in set(TERMS) & row.keys():
            assert same[name] == pytest.approx(row[name], rel=bound, abs=bound), (row, name)
        for name, value in row.get("held_out", {}).items():
            assert same["held_out"][name] == pytest.approx(value, rel=bound, abs=bound)


def distil(
    output: Path,
    cache: Path | None,
    loss: DistillationLoss | None = None,
    dtype: torch.dtype = torch.float32,
    rounds: int | None = 1,
    how: dict[str, Any] | None = None,
    **loop: Any,
) -> Watched:
    """Trains in this process; what the teacher was asked for by the cache."""
    loss = loss or DistillationLoss(mse=0.01)
    models = make_models(dtype)
    targets = None if cache is None else open_cache(cache, loss, models[1], **(how or {}))
    before = cached_teacher.encode
    watched = watch(models[1])
    try:
        data, _ = make_data(rounds)
        run(output, targets, models, loss, ALONE, data=data, **loop)
    finally:
        cached_teacher.encode = before
    if targets is not None:
        assert targets.computed == len(watched.samples)
    return watched


@pytest.mark.parametrize(
    "terms",
    [
        {"mse": 0.01},
        {"positions": "masked", "cosine": 0.0, "mse": 0.01},
        {"kl": 0.0, "mlm": 0.0},
    ],
)
def test_the_same_losses_with_and_without(terms: dict[str, Any], tmp_path: Path) -> None:
    """Two epochs with dropout in the student, then another run that only reads."""
    loss = DistillationLoss(**terms)
    assert distil(tmp_path / "without", None, loss).calls == 0
    first = distil(tmp_path / "first", tmp_path / "cache", loss)
    assert_same_losses(tmp_path / "without", tmp_path / "first")
    # both epochs and every evaluation: each sample once
    held_out = HELD_OUT if loss.compares_logits else 0
    assert len(first.samples) == len(set(first.samples)) == ROUND + held_out
    second = distil(tmp_path / "second", tmp_path / "cache", loss)
    assert_same_losses(tmp_path / "without", tmp_path / "second")
    assert second.calls == 0


def test_the_comparison_would_notice_another_target(tmp_path: Path) -> None:
    loss = DistillationLoss()
    distil(tmp_path / "without", None, loss)
    distil(tmp_path / "rounded", tmp_path / "cache", loss, how={"dtype": "float16"})
    with pytest.raises(AssertionError):
        assert_same_losses(tmp_path / "without", tmp_path / "rounded")
    assert_same_losses(tmp_path / "without", tmp_path / "rounded", 1e-2)


def test_micro_batches_read_what_whole_steps_have_stored(tmp_path: Path) -> None:
    distil(tmp_path / "without", None)
    distil(tmp_path / "whole", tmp_path / "cache")
    split = distil(tmp_path / "split", tmp_path / "cache", accumulation=3)
    assert_same_losses(tmp_path / "without", tmp_path / "split", 1e-5)
    assert split.calls == 0


def test_another_student_and_other_weights_read_the_same_targets(tmp_path: Path) -> None:
    distil(tmp_path / "first", tmp_path / "cache")
    loss = DistillationLoss(temperature=1.0, kl=1.0, mlm=0.0, cosine=0.0, positions="masked")
    distil(tmp_path / "without", None, loss)
    assert distil(tmp_path / "other", tmp_path / "cache", loss).calls == 0
    assert_same_losses(tmp_path / "without", tmp_path / "other")


def test_every_round_of_masks_is_computed_once(tmp_path: Path) -> None:
    data, _ = make_data(2)
    steps = data.count_steps(4)
    watched = distil(tmp_path / "run", tmp_path / "cache", rounds=2, steps=steps, evaluate_every=0)
    assert len(watched.samples) == len(set(watched.samples)) == 2 * ROUND + HELD_OUT
    fresh = distil(tmp_path / "fresh", tmp_path / "other", rounds=None, steps=data.count_steps(2))
    assert len(fresh.samples) == 2 * ROUND + HELD_OUT


def test_only_the_missing_samples_of_a_batch_are_computed(tmp_path: Path) -> None:
    """The order of samples and of tokens survives a batch of which a part is known."""
    loss = DistillationLoss()
    models = make_models()
    data, _ = make_data()
    targets = open_cache(tmp_path / "cache", loss, models[1])
    watched = watch(models[1])
    samples = np.array([7, 2, 11, 5, 1])
    targets.states(data.batch(0, samples[[1, 3]]), models[1])
    mixed = targets.states(data.batch(0, samples), models[1])
    assert [len(watched.samples), targets.computed, targets.read] == [5, 5, 2]
    learner = DistillationLearner(*models, loss)
    whole = learner._teacher_states(data.batch(0, samples))
    torch.testing.assert_close(mixed.hidden, whole.hidden, rtol=0, atol=1e-6)


def test_what_was_not_stored_is_not_a_number(tmp_path: Path) -> None:
    loss = DistillationLoss(cosine=0.0, positions="masked")
    models = make_models()
    data, _ = make_data()
    batch = data.batch(0, np.arange(5))
    targets = open_cache(tmp_path / "cache", loss, models[1])
    found = targets.states(batch, models[1])
    known = ~found.hidden.isnan().any(1)
    assert int(known.sum()) == int((batch.labels != -100).sum())
    broken = DistillationLoss()(found, found, torch.full((batch.tokens,), -100))
    assert bool(broken["loss"].isnan())


def test_a_rehearsal_leaves_nothing(tmp_path: Path) -> None:
    loss = DistillationLoss()
    models = make_models()
    targets = open_cache(tmp_path / "cache", loss, models[1], part_bytes=1)
    targets.writes = False
    data, _ = make_data()
    updater = Updater(
        DistillationLearner(*models, loss, targets=targets), TrainingSettings(steps=4), ALONE
    )
    updater.update(1, [data.batch(0, np.arange(5))])
    assert targets.computed == 5
    assert not (tmp_path / "cache").exists()


def test_states_beyond_float16_are_refused(tmp_path: Path) -> None:
    loss = DistillationLoss()
    models = make_models()
    with torch.no_grad():
        models[1].base.layers[-1].feed_forward_norm.bias += 1e5
    targets = open_cache(tmp_path / "cache", loss, models[1], dtype="float16")
    data, _ = make_data()
    with pytest.raises(DataError, match="too large for float16.*teacher_cache_dtype"):
        targets.states(data.batch(0, np.arange(5)), models[1])


def test_a_teacher_that_is_not_finite_is_named_and_not_stored(tmp_path: Path) -> None:
    models = make_models()
    with torch.no_grad():
        models[1].base.layers[-1].feed_forward_norm.bias[0] = float("nan")
    targets = open_cache(tmp_path / "cache", DistillationLoss(), models[1])
    with pytest.raises(TrainingError, match=r"teacher.*weights that are not finite"):
        run(tmp_path / "run", targets, models, DistillationLoss(), ALONE)
    assert not (tmp_path / "cache").exists()


# --- what a loss needs ---


@pytest.mark.parametrize(
    ("terms", "positions"),
    [
        ({}, "attended"),
        ({"positions": "masked"}, "attended"),  # the cosine looks at all
        ({"positions": "masked", "cosine": 0.0}, "masked"),
        ({"positions": "masked", "cosine": 0.0, "kl": 0.0, "mse": 1.0}, "masked"),
        ({"cosine": 0.0}, "attended"),
    ],
)
def test_no_more_than_a_loss_reads_is_stored(
    terms: dict[str, Any], positions: str, tmp_path: Path
) -> None:
    stored = StoredTargets.of(DistillationLoss(**terms), tmp_path)
    assert stored.positions == positions
    assert stored.is_exact
    assert not StoredTargets.of(DistillationLoss(**terms), tmp_path, "float16").is_exact


def test_a_loss_that_reads_more_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reads nothing of the teacher"):
        StoredTargets.of(DistillationLoss(kl=0.0, cosine=0.0), tmp_path)
    with pytest.raises(InputError, match=r"not for cosine, mse|not for mse, cosine"):
        StoredTargets.of(DistillationLoss(mse=1.0), tmp_path, top_k=3)
    too_many = StoredTargets.of(DistillationLoss(cosine=0.0), tmp_path, top_k=61)
    with pytest.raises(InputError, match="expected from 1 to 60"):
        too_many.columns(16, 61)

    class Beyond(DistillationLoss):
        terms = ("kl", "attention")

    with pytest.raises(InputError, match=r"attention cannot be computed: it covers kl, mse, cos"):
        StoredTargets.of(Beyond(), tmp_path)


# --- the likeliest words ---


@pytest.mark.parametrize("positions", ["attended", "masked"])
def test_the_likeliest_words_give_the_divergence_over_them(positions: Any, tmp_path: Path) -> None:
    """In the loss of a step, against the formula over plain logits."""
    loss = DistillationLoss(cosine=0.0, mlm=0.0, kl=1.0, temperature=1.5, positions=positions)
    models = make_models(torch.float64)
    targets = open_cache(tmp_path / "cache", loss, models[1], top_k=5)
    data, _ = make_data()
    batch = data.batch(0, np.arange(6))
    learner = DistillationLearner(*models, loss, targets=targets).eval()
    packed = {"input_ids": batch.input_ids, "lengths": batch.lengths}
    with torch.no_grad():
        student, teacher = (model(**packed).logits for model in models)
    chosen = slice(None) if positions == "attended" else batch.labels != -100
    student, teacher = student[chosen], teacher[chosen]
    wanted = top_divergence(student, top_of_logits(teacher, 5, 1.5)).mean()
    for _ in range(2):  # computed, then read
        found = learner(batch, learner.counts(batch))["kl"]
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
        targets.cache.flush()
    assert wanted < kl_divergence(student, teacher, 1.5).mean() - 1e-3
    assert isinstance(targets.states(batch, models[1]), PredictedStates)


def test_training_on_the_likeliest_words(tmp_path: Path) -> None:
    """The evaluation, which must be comparable with that of other runs, asks the teacher itself."""
    loss = DistillationLoss(cosine=0.0)
    how = {"top_k": 58}  # of 61: hardly anything is left to the rest
    distil(tmp_path / "without", None, loss)
    first = distil(tmp_path / "first", tmp_path / "cache", loss, how=how)
    assert len(first.samples) == ROUND
    assert distil(tmp_path / "second", tmp_path / "cache", loss, how=how).calls == 0
    assert_same_losses(tmp_path / "first", tmp_path / "second")
    assert_same_losses(tmp_path / "without", tmp_path / "second", 1e-2)
    few = distil(tmp_path / "few", tmp_path / "other", loss, how={"top_k": 1, "dtype": "float16"})
    assert len(few.samples) == ROUND
    whole, kept = (log_of(tmp_path / name)[0]["kl"] for name in ("without", "few"))
    assert 0 < kept < whole - 1e-2


def test_the_likeliest_words_are_not_translated(tmp_path: Path) -> None:
    loss = DistillationLoss(cosine=0.0)
    student, teacher = make_models()
    targets = open_cache(tmp_path / "words", loss, teacher, top_k=4)
    with pytest.raises(InputError, match="shared_entries.*leave out teacher_cache_top_k"):
        DistillationLearner(student, teacher, loss, shared_entries="first", targets=targets)
    targets = open_cache(tmp_path / "states", loss, teacher)
    DistillationLearner(student, teacher, loss, shared_entries="first", targets=targets)


def test_targets_of_another_temperature_are_refused(tmp_path: Path) -> None:
    loss = DistillationLoss(cosine=0.0)
    _, teacher = make_models()
    distil(tmp_path / "run", tmp_path / "cache", loss, how={"top_k": 5}, steps=1)
    colder = DistillationLoss(cosine=0.0, temperature=1.0)
    with pytest.raises(DataError, match=r"its temperature is 2.0, that of this run 1.0"):
        open_cache(tmp_path / "cache", colder, teacher, top_k=5)
    with pytest.raises(DataError, match=r"targets is '5 likeliest words', that .* '6 likeliest"):
        open_cache(tmp_path / "cache", loss, teacher, top_k=6)


# --- interrupted, and by two processes ---


def drive(output: Path, cache: Path, *start: str, kill_at: int | None = None, **how: Any) -> int:
    arguments = [str(output), str(cache), json.dumps(how), *([str(kill_at)] if kill_at else [])]
    done = subprocess.run(
        [sys.executable, *start, str(DRIVER), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=TESTS,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def test_killed_in_the_middle_the_run_goes_on(tmp_path: Path) -> None:
    loss = DistillationLoss()
    loop = {"snapshot_every": 1}
    distil(tmp_path / "whole", None, loss, torch.float64, **loop)
    output, cache = tmp_path / "run", tmp_path / "cache"
    killed = drive(output, cache, kill_at=4, part_bytes=1500, loop=loop)
    assert killed == -signal.SIGKILL
    stored = len(filled_by_tests(cache))
    assert 0 < stored < ROUND
    rest = distil(output, cache, loss, torch.float64, **loop)
    assert len(rest.samples) == len(set(rest.samples))
    assert len(rest.samples) + stored == ROUND + HELD_OUT
    assert_same_losses(tmp_path / "whole", output)
    one, other = (load_file(path / "model.safetensors") for path in (tmp_path / "whole", output))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6)


def filled_by_tests(directory: Path) -> TeacherCache:
    """What is on the disk of the tiny teacher's targets."""
    loss, (_, teacher) = DistillationLoss(), make_models(torch.float64)
    return open_cache(directory, loss, teacher).cache


def test_two_processes_ask_the_teacher_once(tmp_path: Path) -> None:
    """Their samples change hands between epochs; losses are those of one process without cache."""
    distil(tmp_path / "alone", None, DistillationLoss(), torch.float64)
    output, cache = tmp_path / "run", tmp_path / "cache"
    assert drive(output, cache, *TORCHRUN, "2", part_bytes=2**20, loop={}) == 0
    assert_same_losses(tmp_path / "alone", output)
    asked = [json.loads((output / f"teacher-{rank}.json").read_text()) for rank in range(2)]
    samples = [tuple(sample) for each in asked for sample in each["samples"]]
    assert all(len(each["samples"]) > 5 for each in asked)
    assert len(samples) == len(set(samples)) == ROUND + HELD_OUT
    assert len(filled_by_tests(cache)) == ROUND + HELD_OUT
