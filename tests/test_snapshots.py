"""Snapshots: complete or not there at every moment, found damaged when they are, never lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from minilm.errors import TrainingError
from minilm.files import safetensors_file
from minilm.training import snapshots
from minilm.training.snapshots import Snapshot, newest_snapshot, save_snapshot
from training_driver import Faults, Zygote, make_snapshot

FILES = ["manifest.json", "model.safetensors", "optimiser.safetensors", "state.json"]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A directory with the snapshots of steps 10 and 20."""
    for step in (10, 20):
        save_snapshot(tmp_path / "snapshots", make_snapshot(step))
    return tmp_path / "snapshots"


def name(step: int) -> str:
    return f"step-{step:08d}"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def newest(directory: Path) -> Snapshot:
    """The newest snapshot, which must be whole, with nothing passed over."""
    found = newest_snapshot(directory, say=pytest.fail)
    assert found is not None
    assert_same(found, make_snapshot(found.step))
    return found


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    assert (found.step, found.state) == (expected.step, expected.state)
    for part, wanted in ((found.model, expected.model), (found.optimiser, expected.optimiser)):
        assert part.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert part[key].dtype == tensor.dtype
            assert part[key].shape == tensor.shape
            same = part[key].contiguous().reshape(-1).view(torch.uint8)
            assert torch.equal(same, tensor.contiguous().reshape(-1).view(torch.uint8)), key


# --- saving and reading ---


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    place = save_snapshot(tmp_path / "run" / "snapshots", make_snapshot(120))
    assert place == tmp_path / "run" / "snapshots" / "step-00000120"
    assert names(place) == FILES
    assert newest(place.parent).step == 120


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    places = [save_snapshot(tmp_path / name, make_snapshot(3)) for name in ("a", "b")]
    for file in FILES:
        assert (places[0] / file).read_bytes() == (places[1] / file).read_bytes()


def test_a_run_without_snapshots_has_none(tmp_path: Path) -> None:
    assert newest_snapshot(tmp_path / "absent", say=pytest.fail) is None
    (tmp_path / "step-00000007.tmp-1-00").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "step-00000008").write_text("a file")
    assert newest_snapshot(tmp_path, say=pytest.fail) is None


def test_the_step_decides_which_is_newest_not_the_name(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_snapshot(tmp_path, make_snapshot(step))
    assert newest(tmp_path).step == 100_000_000


@pytest.mark.parametrize("keep", [2, 3])
def test_older_ones_are_removed(tmp_path: Path, keep: int) -> None:
    for step in (1, 2, 3, 4, 5):
        save_snapshot(tmp_path, make_snapshot(step), keep=keep)
    assert names(tmp_path) == [name(step) for step in (1, 2, 3, 4, 5)][-keep:]


def test_one_alone_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 2"):
        save_snapshot(tmp_path, make_snapshot(1), keep=1)


def test_a_snapshot_obeys_the_umask(tmp_path: Path) -> None:
    """The safetensors library makes private files: others of a group could not read them."""
    before = os.umask(0o027)
    try:
        place = save_snapshot(tmp_path, make_snapshot(1))
    finally:
        os.umask(before)
    assert {(place / file).stat().st_mode & 0o777 for file in FILES} == {0o640}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"best": float("nan")}, "is not JSON"),
        ({"path": Path("x")}, "is not JSON"),
        ({"names": (1, 2)}, "does not read back"),
        ({"counts": {1: 2}}, "does not read back"),
        ({"text": "x" * 10_000_000}, "more than 10,000,000 bytes"),
    ],
)
def test_a_state_that_json_would_change_is_refused(
    two: Path, state: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=f"step-00000030.*{message}"):
        save_snapshot(two, Snapshot(30, {}, {}, state))
    assert names(two) == [name(10), name(20)]


def test_a_dtype_without_a_name_is_refused(two: Path) -> None:
    tensors = {"phase": torch.zeros(2, dtype=torch.complex128)}
    with pytest.raises(TrainingError, match=r"step-00000030.*'phase'.*complex128"):
        save_snapshot(two, Snapshot(30, tensors, {}, {}))
    assert names(two) == [name(10), name(20)]


def test_a_file_that_does_not_hold_what_was_written_is_not_published(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a library wrote zeros without noticing."""
    original = safetensors_file.save_file

    def write_zeros(tensors: dict[str, torch.Tensor], *rest: Any, **options: Any) -> None:
        original({key: torch.zeros_like(x) for key, x in tensors.items()}, *rest, **options)

    monkeypatch.setattr(safetensors_file, "save_file", write_zeros)
    with pytest.raises(TrainingError, match=r"model\.safetensors.*does not read back"):
        save_snapshot(two, make_snapshot(30))
    assert names(two) == [name(10), name(20)]
    assert newest(two).step == 20


def test_everything_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power cut cannot turn round: file, manifest, directory, rename, parent."""
    paths: dict[int, str] = {}
    done: list[str] = []
    monkeypatch.undo()
    open_, fsync, rename = os.open, os.fsync, os.rename

    def watched_open(path: Any, *rest: Any, **options: Any) -> int:
        descriptor = open_(path, *rest, **options)
        paths[descriptor] = Path(str(path)).name
        return descriptor

    def watched_fsync(descriptor: int) -> None:
        done.append(f"sync {paths[descriptor].split('.tmp-')[0]}")
        fsync(descriptor)

    def watched_rename(source: Any, destination: Any) -> None:
        done.append(f"rename to {Path(destination).name}")
        rename(source, destination)

    monkeypatch.setattr(os, "open", watched_open)
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    save_snapshot(tmp_path / "run" / "snapshots", make_snapshot(5))
    assert done == [
        f"sync {tmp_path.name}",  # the name "run" is in it
        "sync run",
        "sync model.safetensors",
        "sync optimiser.safetensors",
        "sync state.json",
        "sync manifest.json",
        "sync step-00000005",
        "rename to step-00000005",
        "sync snapshots",
    ]


# --- damage ---


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip_a_bit, cut, append, empty, remove, become_a_directory])
@pytest.mark.parametrize("file", [file for file in FILES if file != "manifest.json"])
def test_a_damaged_snapshot_is_passed_over_with_the_reason(
    two: Path, file: str, damage: Any
) -> None:
    damage(two / name(20) / file)
    said: list[str] = []
    found = newest_snapshot(two, say=said.append)
    assert found is not None
    assert_same(found, make_snapshot(10))
    assert len(said) == 1
    assert str(two / name(20) / file) in said[0]


def test_the_reason_is_exact(two: Path) -> None:
    path = two / name(20) / "model.safetensors"
    size = path.stat().st_size
    said: list[str] = []
    cut(path)
    newest_snapshot(two, say=said.append)
    assert f"has {size - 1:,} bytes, expected {size:,}" in said.pop()
    append(path)
    newest_snapshot(two, say=said.append)
    assert "is damaged: its SHA-256 is " in said.pop()
    path.unlink()
    newest_snapshot(two, say=said.append)
    assert f"{path} does not exist" in said.pop()


def change(**entries: Any) -> Any:
    def damage(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: os.truncate(path, 100), "is not valid JSON"),
        (empty, "is not valid JSON"),
        (remove, "does not exist"),
        (become_a_directory, "is a directory"),
        (change(step=21), "is that of step 21"),
        (change(step=None), "is that of step None"),
        (change(format=None), "has no format"),
        (change(files=None), "does not list"),
        (change(files={"../model.safetensors": {}}), "does not list"),
        (change(files={key: {"bytes": "1", "sha256": ""} for key in FILES[1:]}), "does not list"),
    ],
)
def test_a_damaged_manifest_is_passed_over_with_the_reason(
    two: Path, damage: Any, reason: str
) -> None:
    damage(two / name(20) / "manifest.json")
    said: list[str] = []
    found = newest_snapshot(two, say=said.append)
    assert found is not None
    assert found.step == 10
    assert len(said) == 1
    assert str(two / name(20) / "manifest.json") in said[0]
    assert reason in said[0]


def test_any_flipped_bit_of_a_tensor_file_is_found(two: Path) -> None:
    path = two / name(20) / "optimiser.safetensors"
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        said: list[str] = []
        found = newest_snapshot(two, say=said.append)
        assert found is not None
        assert found.step == 10, position


def test_a_renamed_snapshot_is_passed_over(two: Path) -> None:
    (two / name(20)).rename(two / name(30))
    said: list[str] = []
    found = newest_snapshot(two, say=said.append)
    assert found is not None
    assert found.step == 10
    assert "is that of step 20" in said[0]


def test_if_none_is_whole_the_run_does_not_start_anew_by_itself(two: Path) -> None:
    for step in (10, 20):
        cut(two / name(step) / "state.json")
    said: list[str] = []
    with pytest.raises(TrainingError, match="None of the 2 snapshots"):
        newest_snapshot(two, say=said.append)
    assert [text.count(name(step)) > 0 for step, text in zip((20, 10), said, strict=True)] == [
        True,
        True,
    ]


def test_a_newer_format_is_not_taken_for_damage(two: Path) -> None:
    change(format=2, minilm="9.1")(two / name(20) / "manifest.json")
    with pytest.raises(
        TrainingError, match=r"step-00000020 was written by minilm 9\.1 in format 2"
    ):
        newest_snapshot(two, say=pytest.fail)


@pytest.mark.parametrize("step", [15, 20, 25])
def test_a_damaged_one_does_not_count(two: Path, step: int) -> None:
    """After a fall-back the next save is before, at or after the damaged one."""
    flip_a_bit(two / name(20) / "model.safetensors")
    save_snapshot(two, make_snapshot(step))
    assert newest(two).step == step
    assert names(two) == [name(10), name(step)]  # what the run came from is still there


# --- what fails on the way ---


def error_of(action: Callable[[], object]) -> str | None:
    try:
        action()
    except TrainingError as problem:
        return str(problem)
    return None


def count_moments(directory: Path, step: int) -> list[str]:
    """The moments of a save into a copy of a directory."""
    copy = directory.with_name("dry")
    shutil.copytree(directory, copy)
    with Faults(None, lambda: None).installed() as faults:
        save_snapshot(copy, make_snapshot(step))
    shutil.rmtree(copy)
    return faults.moments


def test_the_moments_cover_a_whole_save(two: Path) -> None:
    moments = [moment.split(".tmp-")[0] for moment in count_moments(two, 30)]
    for file in FILES:
        for call in ("before open", "half of", "after chmod", "before fsync", "after fsync"):
            assert any(m.startswith(call) for m in moments), (call, file)
    assert moments.count("before rename step-00000030") == 1
    assert moments.count("after rename step-00000030") == 1
    assert "after rename step-00000010" in moments  # the oldest one goes
    assert len(moments) > 60


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_an_error_at_any_moment_leaves_whole_snapshots(two: Path, code: int) -> None:
    failed = 0
    moments = count_moments(two, 30)
    every = 1 if code == errno.ENOSPC else 5
    for number, moment in list(enumerate(moments))[::every]:
        directory = two.with_name(f"trial-{number}")
        shutil.copytree(two, directory)

        def strike() -> None:
            raise OSError(code, os.strerror(code))

        with Faults(number, strike).installed():
            error = error_of(partial(save_snapshot, directory, make_snapshot(30)))
        if error is None:
            assert newest(directory).step == 30, moment
        else:
            failed += 1
            assert f"{directory / name(30)} cannot be written: {os.strerror(code)}" in error
            # the name may be there when the error came after it
            assert newest(directory).step in (20, 30), moment
            assert {name(10), name(20)} <= set(names(directory)), moment
            assert not [entry for entry in names(directory) if ".tmp-" in entry], moment
        shutil.rmtree(directory)
    assert failed * every >= moments.index(next(m for m in moments if m.startswith("after rename")))


def test_ctrl_c_during_a_save_leaves_nothing(two: Path) -> None:
    def strike() -> None:
        raise KeyboardInterrupt

    with Faults(20, strike).installed(), pytest.raises(KeyboardInterrupt):
        save_snapshot(two, make_snapshot(30))
    assert names(two) == [name(10), name(20)]


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_text("")
    with pytest.raises(TrainingError, match="step-00000001 cannot be written: File exists"):
        save_snapshot(tmp_path / "snapshots", make_snapshot(1))


def test_a_full_disk(two: Path, zygote: Zygote) -> None:
    """The kernel refuses to let any file grow beyond so many bytes."""
    size = (two / name(20) / "model.safetensors").stat().st_size
    for limit in (0, 1, 100, size - 1):
        answer = zygote.run("save", directory=str(two), step=30, file_limit=limit)
        assert f"{two / name(30)} cannot be written" in answer["error"]
        assert "too large" in answer["error"]
        assert names(two) == [name(10), name(20)]
        assert newest(two).step == 20
    answer = zygote.run("save", directory=str(two), step=30, file_limit=size)
    assert answer["error"] == ""
    assert newest(two).step == 30


# --- what is killed on the way ---


@pytest.mark.parametrize("damaged", [False, True], ids=["new step", "over a damaged one"])
def test_kill_9_at_every_moment_of_a_save(two: Path, zygote: Zygote, damaged: bool) -> None:
    """The next start finds a whole snapshot; the next save clears away what was left."""
    step, before = (20, 10) if damaged else (30, 20)
    if damaged:
        cut(two / name(20) / "model.safetensors")
    moments = count_moments(two, step)
    found_new = []
    for number, moment in enumerate(moments):
        directory = two.with_name(f"trial-{number}")
        shutil.copytree(two, directory)
        answer = zygote.run("save", directory=str(directory), step=step, strike_at=number)
        assert answer["status"] == -signal.SIGKILL, moment
        found = newest_snapshot(directory, say=lambda _: None)
        assert found is not None, moment
        assert found.step in (before, step), moment
        assert_same(found, make_snapshot(found.step))
        found_new.append(found.step == step)
        save_snapshot(directory, make_snapshot(40))
        assert names(directory) == [name(found.step), name(40)], moment
        shutil.rmtree(directory)
    # before its rename it is not there, from then on it is
    assert found_new == sorted(found_new)
    assert set(found_new) == {False, True}


def test_what_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        theirs = tmp_path / f"step-00000020.tmp-{other.pid}-0123abcd"
        # of a process that is dead now and had the number that this one has
        earlier = tmp_path / f"step-00000020.tmp-{os.getpid()}-0123abcd"
        for path in (theirs, earlier):
            path.mkdir()
            (path / "model.safetensors").write_bytes(b"half")
        save_snapshot(tmp_path, make_snapshot(30))
        assert names(tmp_path) == [theirs.name, name(30)]
        other.communicate(b"\n", timeout=30)
    save_snapshot(tmp_path, make_snapshot(40))
    assert names(tmp_path) == [name(30), name(40)]


def test_where_a_process_cannot_be_asked_age_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots.os, "name", "nt")
    monkeypatch.setattr(os, "kill", pytest.fail)
    old, new = (tmp_path / f"step-00000020.tmp-{pid}-00" for pid in (1, 2))
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))
    snapshots._remove_abandoned(tmp_path)
    assert names(tmp_path) == [new.name]
