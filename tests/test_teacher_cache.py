"""The teacher cache: the same losses, the teacher once for each sample and mask, nothing foreign."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file

from minilm.data.teacher_cache import MANIFEST, Column, TeacherCache, sample_digests
from minilm.errors import DataError, InputError
from minilm.learners import cached_teacher
from minilm.learners.cached_teacher import StoredTargets
from minilm.learners.distillation import DistillationLearner
from minilm.losses.distillation import DistillationLoss
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
COLUMNS = {"hidden": Column(np.dtype(np.float32), (3,)), "rest": Column(np.dtype(np.float16))}


@pytest.fixture(autouse=True)
def unwatched() -> Iterator[None]:
    """`watch` replaces a function of the module; this puts it back."""
    before = cached_teacher.encode
    yield
    cached_teacher.encode = before


def rows_of(number: int, size: int) -> dict[str, Any]:
    draw = np.random.default_rng(number)
    return {
        "hidden": draw.random((size, 3), dtype=np.float32),
        "rest": draw.random(size).astype(np.float16),
    }


def name_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def filled(directory: Path, numbers: range, **options: Any) -> TeacherCache:
    cache = TeacherCache(directory, {"teacher": "f00d", "seed": 1}, COLUMNS, **options)
    cache.settle_precision("float32")
    for number in numbers:
        cache.add(name_of(number), rows_of(number, number % 4))
    cache.flush()
    return cache


def assert_holds(cache: TeacherCache, numbers: range) -> None:
    for number in numbers:
        found, wanted = cache.read(name_of(number)), rows_of(number, number % 4)
        for name in COLUMNS:
            assert found[name].dtype == wanted[name].dtype
            np.testing.assert_array_equal(found[name], wanted[name])


def parts_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("part-*.safetensors"))


# --- files ---


@pytest.mark.parametrize("part_bytes", [1, 100, 2**20])
def test_what_was_stored_is_read_back(part_bytes: int, tmp_path: Path) -> None:
    numbers = range(12)
    cache = filled(tmp_path / "cache", numbers, part_bytes=part_bytes)
    assert_holds(cache, numbers)
    again = filled(tmp_path / "cache", range(0))
    assert len(again) == len(cache) == 12
    assert_holds(again, numbers)
    assert name_of(12) not in again
    with pytest.raises(KeyError):
        again.read(name_of(12))
    count = len(parts_of(tmp_path / "cache"))
    assert count == 1 if part_bytes > 1000 else count > 2


def test_targets_that_wait_are_read_and_stored_once(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "cache", {}, COLUMNS)
    rows = rows_of(1, 4)
    cache.add(name_of(1), rows)
    wanted = rows["hidden"].copy()
    rows["hidden"][:] = 0  # the caller's own again
    cache.add(name_of(1), rows)
    np.testing.assert_array_equal(cache.read(name_of(1))["hidden"], wanted)
    assert not (tmp_path / "cache").exists()
    cache.flush()
    cache.add(name_of(1), rows)
    cache.flush()
    assert len(parts_of(tmp_path / "cache")) == 1


def test_a_part_is_written_when_its_first_target_has_waited(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "cache", {}, COLUMNS, part_seconds=-1)
    cache.add(name_of(1), rows_of(1, 1))
    assert len(parts_of(tmp_path / "cache")) == 1


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    one, other = (filled(tmp_path / "cache", range(0)) for _ in range(2))
    one.add(name_of(3), rows_of(3, 3))
    other.add(name_of(5), rows_of(5, 1))
    one.flush()
    other.flush()
    assert name_of(5) not in one
    assert one.may_have_grown()
    for cache in (one, other):
        cache.look_again()
        assert not cache.may_have_grown()
        assert_holds(cache, range(3, 4))
        assert_holds(cache, range(5, 6))


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "cache", {}, COLUMNS)
    rows = rows_of(1, 2)
    with pytest.raises(InputError, match=r"hidden is float64 \(2, 3\), expected float32"):
        cache.add(name_of(1), {**rows, "hidden": rows["hidden"].astype(np.float64)})
    with pytest.raises(InputError, match="hidden"):
        cache.add(name_of(1), {**rows, "hidden": rows["hidden"][:, :2]})
    with pytest.raises(InputError, match="digests"):
        TeacherCache(tmp_path / "cache", {}, {"digests": COLUMNS["rest"]})


# --- nothing damaged or foreign ---


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path / "cache", range(12))
    (part,) = parts_of(tmp_path / "cache")
    content = bytearray(part.read_bytes())
    place = content.find(rows_of(7, 3)["hidden"].tobytes())
    assert place > 0
    content[place + 5] ^= 1
    part.write_bytes(content)
    cache = filled(tmp_path / "cache", range(0))
    assert_holds(cache, range(7))
    with pytest.raises(DataError, match=rf"{part.name} is damaged.*Remove {part.name}"):
        cache.read(name_of(7))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_part_that_was_cut_short_is_refused(share: float, tmp_path: Path) -> None:
    filled(tmp_path / "cache", range(12))
    (part,) = parts_of(tmp_path / "cache")
    content = part.read_bytes()
    part.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"{part.name}.*Remove {part.name}"):
        filled(tmp_path / "cache", range(0))
    part.unlink()
    assert len(filled(tmp_path / "cache", range(0))) == 0


def test_a_part_that_is_lost_while_it_is_read(tmp_path: Path) -> None:
    cache = filled(tmp_path / "cache", range(12))
    (part,) = parts_of(tmp_path / "cache")
    part.unlink()
    with pytest.raises(DataError, match=part.name):
        cache.read(name_of(7))


def test_a_part_of_another_cache_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "cache", range(4))
    other = TeacherCache(tmp_path / "other", {"teacher": "beef", "seed": 1}, COLUMNS)
    other.settle_precision("float32")
    other.add(name_of(9), rows_of(9, 1))
    other.flush()
    (part,) = parts_of(tmp_path / "other")
    part.rename(tmp_path / "cache" / part.name)
    with pytest.raises(DataError, match=rf"{part.name} belongs to another teacher cache"):
        filled(tmp_path / "cache", range(0))


def test_a_part_with_other_columns_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "cache", range(4))
    wide = {**COLUMNS, "hidden": Column(np.dtype(np.float32), (4,))}
    with pytest.raises(DataError, match=r"part-.*other targets.*hidden"):
        TeacherCache(tmp_path / "cache", {"teacher": "f00d", "seed": 1}, wide)


@pytest.mark.parametrize(
    ("identity", "named"),
    [
        ({"teacher": "beef", "seed": 1}, "its teacher is 'f00d', that of this run 'beef'"),
        ({"teacher": "f00d", "seed": 2}, "its seed is 1, that of this run 2"),
        ({"teacher": "f00d"}, "its seed is 1, that of this run None"),
        ({"teacher": "f00d", "seed": 1, "new": 0}, "its new is None, that of this run 0"),
    ],
)
def test_targets_of_something_else_are_refused(
    identity: dict[str, Any], named: str, tmp_path: Path
) -> None:
    filled(tmp_path / "cache", range(4))
    with pytest.raises(DataError) as problem:
        TeacherCache(tmp_path / "cache", identity, COLUMNS)
    assert named in str(problem.value)
    assert str(tmp_path / "cache") in str(problem.value)


def test_another_precision_is_refused_at_the_first_target(tmp_path: Path) -> None:
    filled(tmp_path / "cache", range(4))
    cache = TeacherCache(tmp_path / "cache", {"teacher": "f00d", "seed": 1}, COLUMNS)
    with pytest.raises(DataError, match="its precision is 'float32', that of this run 'bfloat16'"):
        cache.settle_precision("bfloat16")


def test_two_runs_that_begin_a_cache_at_once_do_not_mix(tmp_path: Path) -> None:
    one, other = (TeacherCache(tmp_path / "cache", {"seed": seed}, COLUMNS) for seed in (1, 2))
    one.add(name_of(1), rows_of(1, 1))
    other.add(name_of(2), rows_of(2, 2))
    one.flush()
    with pytest.raises(DataError, match="its seed is 1, that of this run 2"):
        other.flush()
    assert len(parts_of(tmp_path / "cache")) == 1


@pytest.mark.parametrize("content", ["{", '{"seed": 1, "seed": 1}', "[]", ""])
def test_a_damaged_manifest_is_refused(content: str, tmp_path: Path) -> None:
    filled(tmp_path / "cache", range(4))
    (tmp_path / "cache" / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=MANIFEST):
        filled(tmp_path / "cache", range(0))


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds notes.txt, but no cache.json"):
        filled(tmp_path, range(4))
    with pytest.raises(DataError, match="Give a new directory"):
        filled(tmp_path / "notes.txt", range(4))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@contextmanager
def files_limited(size: int) -> Iterator[None]:
    """No file can grow beyond a size: a full disk, for this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_a_cache_that_can_be_used(tmp_path: Path) -> None:
    cache = filled(tmp_path / "cache", range(4))
    cache.add(name_of(4), {**rows_of(4, 0), "hidden": np.zeros((9999, 3), np.float32)})
    with (
        files_limited(50_000),
        pytest.raises(DataError, match=r"cannot be written: .*The 1 parts .* whole.*Make room"),
    ):
        cache.flush()
    assert name_of(4) not in cache
    assert_holds(cache, range(4))
    assert_holds(filled(tmp_path / "cache", range(5, 8)), range(4))
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {MANIFEST, *(path.name for path in parts_of(tmp_path / "cache"))}


# --- digests ---


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=6))
def test_a_digest_is_of_the_sample_alone(samples: list[list[int]]) -> None:
    ids = np.array([number for sample in samples for number in sample])
    lengths = np.array([len(sample) for sample in samples])
    together = sample_digests(ids, lengths)
    alone = [sample_digests(np.array(s), np.array([len(s)]))[0] for s in samples]
    assert together == alone
    assert len(set(together)) == len({tuple(sample) for sample in samples})


def test_a_digest_knows_of_which_positions_targets_are() -> None:
    ids, lengths = np.arange(4), np.array([4])
    masks = [np.array(mask, np.bool_) for mask in ([0, 1, 0, 0], [0, 1, 1, 0])]
    found = {sample_digests(ids, lengths, mask)[0] for mask in masks}
    assert len(found | set(sample_digests(ids, lengths))) == 3


# --- training ---


def log_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "run/log.jsonl").read_text().splitlines()]


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
    distil(tmp_path / "whole", tmp_path / "cache", rounds=1)
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
    updater = Updater(DistillationLearner(*models, loss, targets), TrainingSettings(steps=4), ALONE)
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
    with pytest.raises(Exception, match=r"teacher.*weights that are not finite"):
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
