"""Files of the teacher cache: whole, shared, and nothing damaged or foreign."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from minilm.data.teacher_cache import MANIFEST, TeacherCache, sample_digests
from minilm.data.teacher_parts import Column
from minilm.errors import DataError, InputError

COLUMNS = {"hidden": Column(np.dtype(np.float32), (3,)), "rest": Column(np.dtype(np.float16))}


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
    assert count == 1 if part_bytes > 1000 else count > 1


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


def test_a_process_that_has_written_nothing_reads_what_another_has_begun(tmp_path: Path) -> None:
    one, other = (filled(tmp_path / "cache", range(0)) for _ in range(2))
    assert not (tmp_path / "cache").exists()
    one.add(name_of(3), rows_of(3, 3))
    one.flush()
    assert other.may_have_grown()
    other.look_again()
    assert_holds(other, range(3, 4))
    stranger = TeacherCache(tmp_path / "new", {"seed": 2}, COLUMNS)
    filled(tmp_path / "new", range(1))
    with pytest.raises(DataError, match="its seed is 1, that of this run 2"):
        stranger.look_again()


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
        pytest.raises(
            DataError, match=r"cannot be written: .*The parts already .* \(1\) stay.*Make room"
        ),
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
