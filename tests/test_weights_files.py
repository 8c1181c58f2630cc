"""Files of weights: read faithfully or refused, replaced whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file

from malformed import PUBLISHED, Case, cases, raw_file, tiny_config, tiny_tensors, write_sharded
from minilm.checkpoints.weights import open_directory, open_weights, save_directory
from minilm.errors import CheckpointError
from minilm.files import atomic, safetensors_file
from minilm.files.file_names import check_shard_name
from minilm.files.safetensors_file import DTYPES, SafetensorsFile, write_weights

MEGABYTE = 2**20


def read_all(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of a directory."""
    with open_weights(path) if path.is_dir() else SafetensorsFile(path) as weights:
        return {name: weights.read(name) for name in weights.tensors}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        bits = [one.reshape(-1).view(torch.uint8) for one in (found[name], tensor)]
        assert torch.equal(*bits)


# --- reading ---


@pytest.mark.parametrize("write", [save_directory, None], ids=["one file", "shards"])
def test_headers_and_tensors(tmp_path: Path, write: Callable[..., None] | None) -> None:
    if write is None:
        write_sharded(tmp_path)
    else:
        write(tmp_path, tiny_config(), tiny_tensors())
    expected = tiny_tensors()
    with open_weights(tmp_path) as weights:
        assert weights.tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            info = weights.tensors[name]
            assert (info.dtype, info.shape) == (tensor.dtype, tuple(tensor.shape))
            assert info.file.parent == tmp_path
            assert torch.equal(weights.read(name), tensor)
    assert weights.metadata == ({} if write is None else {"format": "pt"})


def test_every_dtype(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(2, 3).to(dtype) for name, dtype in DTYPES.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        assert {name: info.dtype for name, info in file.tensors.items()} == DTYPES
    assert_same(read_all(tmp_path / "x.safetensors"), tensors)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("ok")])
def test_valid_files_of_the_library_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(PUBLISHED[name][0])
    assert_same(read_all(path), load_file(path))


@pytest.mark.parametrize(
    "case", [case for case in cases() if case.part == "weights"], ids=lambda case: case.name
)
def test_damaged_weights(case: Case, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    case.write(directory)
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        open_weights(directory)
    assert time.process_time() - start < 0.5
    for text in (str(directory), *case.expected):
        assert text in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8 + 1, 10**8, 4_000_001])
def test_a_huge_header_is_refused_without_reading_it(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b'{"a":')
        file.truncate(2 * 10**8)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(CheckpointError, match=f"header of {length:,} bytes"):
        SafetensorsFile(path)
    assert time.process_time() - start < 0.05
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2048


def test_the_largest_header_stays_within_bounds(tmp_path: Path) -> None:
    """The promise: at most twice the file and 64 MB."""
    entries = {
        f"{i:x}": {"dtype": "U8", "shape": [], "data_offsets": [i, i + 1]} for i in range(58_000)
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_file(text, bytes(len(entries))))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from minilm.files.safetensors_file import SafetensorsFile\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        f"with SafetensorsFile(Path({str(path)!r})) as file:\n"
        f"    assert len(file.tensors) == {len(entries)}\n"
        "print((peak() - before) * (1 if sys.platform == 'darwin' else 1024))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 2 * path.stat().st_size + 64 * MEGABYTE


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    """A memory map would crash the process, or change the tensors, when the file is cut."""
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(300, 300), "b": torch.randn(300, 300)}
    write_weights(path, tensors)
    with SafetensorsFile(path) as file:
        first = file.read("a")
        os.truncate(path, 100)
        assert torch.equal(first, tensors["a"])
        with pytest.raises(CheckpointError, match=r"x\.safetensors: tensor 'b' cannot be read"):
            file.read("b")
    first += 1  # its memory is its own


def test_a_replaced_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_weights(path, {"a": torch.zeros(1000)})
    with SafetensorsFile(path) as file:
        write_weights(path, {"a": torch.ones(1000)})
        assert torch.equal(file.read("a"), torch.zeros(1000))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_directory(tmp_path, tiny_config(), tiny_tensors())

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read: Permission"):
        open_weights(tmp_path)


def test_what_is_no_directory(tmp_path: Path) -> None:
    save_directory(tmp_path, tiny_config(), tiny_tensors())
    with pytest.raises(CheckpointError, match=r"is a file\. Give the directory"):
        open_weights(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        open_weights(tmp_path / "nowhere")


def test_links_inside_the_directory_are_followed(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    shard.rename(tmp_path / "moved")
    shard.symlink_to("moved")
    assert_same(read_all(tmp_path), tiny_tensors())


@pytest.mark.parametrize(
    "name", ["a.safetensors", "model-00001-of-00010.safetensors", "A_b.safetensors"]
)
def test_shard_names_that_are_fine(name: str) -> None:
    assert check_shard_name(name, ".safetensors", Path("index")) == name


def test_open_files_are_closed_on_errors(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    os.truncate(tmp_path / "model-00002-of-00002.safetensors", 20)
    before = os.listdir("/dev/fd")
    for _ in range(20):
        with pytest.raises(CheckpointError):
            open_weights(tmp_path)
    assert len(os.listdir("/dev/fd")) <= len(before)


# --- damage at random ---


def test_a_cut_file_is_never_read(tmp_path: Path) -> None:
    whole = save(tiny_tensors(), {"format": "pt"})
    path = tmp_path / "x.safetensors"
    cuts = random.Random(0).sample(range(len(whole)), 1000)
    for cut in [*cuts, *range(20), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            SafetensorsFile(path)


VALID = save({"a": torch.arange(4.0), "bc": torch.arange(6).reshape(2, 3)}, {"format": "pt"})

edits = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.integers(0, len(VALID) - 1), st.integers(0, 255)),
        st.tuples(st.just("bit"), st.integers(0, len(VALID) - 1), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.integers(0, len(VALID)), st.just(0)),
        st.tuples(st.just("copy"), st.integers(0, len(VALID)), st.integers(1, 40)),
        st.tuples(st.just("digit"), st.integers(0, 40), st.integers(0, 9)),
    ),
    min_size=1,
    max_size=4,
)


def mutated(changes: list[tuple[str, int, int]]) -> bytes:
    """The valid file after some edits."""
    data = bytearray(VALID)
    for kind, place, value in changes:
        place = min(place, len(data) - 1)
        if place < 0:
            break
        match kind:
            case "byte":
                data[place] = value
            case "bit":
                data[place] ^= 1 << value
            case "cut":
                del data[place:]
            case "copy":
                data[place:place] = data[place : place + value]
            case "digit":
                digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
                if digits:
                    data[digits[place % len(digits)]] = 48 + value
    return bytes(data)


def assert_refused_or_faithful(path: Path, data: bytes) -> None:
    """What minilm reads is what the safetensors library reads; all else is one kind of error."""
    path.write_bytes(data)
    try:
        found = read_all(path)
    except CheckpointError as error:
        message = str(error)
    else:
        assert_same(found, load_file(path))
        return
    assert str(path) in message


few = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
many = settings(few, max_examples=5_000)


@few
@given(edits)
def test_mutations(tmp_path: Path, changes: list[tuple[str, int, int]]) -> None:
    assert_refused_or_faithful(tmp_path / "x.safetensors", mutated(changes))


@pytest.mark.slow
@many
@given(edits)
def test_many_mutations(tmp_path: Path, changes: list[tuple[str, int, int]]) -> None:
    assert_refused_or_faithful(tmp_path / "x.safetensors", mutated(changes))


@few
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes(tmp_path: Path, data: bytes, as_header: bool) -> None:
    assert_refused_or_faithful(tmp_path / "x.safetensors", raw_file(data) if as_header else data)


# --- writing ---


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = tiny_tensors() | {"half": torch.ones(3).half(), "ids": torch.arange(3)}
    save_directory(tmp_path / "a", tiny_config(), tensors)
    config, weights = open_directory(tmp_path / "a")
    with weights:
        loaded = {name: weights.read(name) for name in reversed(list(weights.tensors))}
    save_directory(tmp_path / "b", config, loaded)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_bytes_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    write_weights(tmp_path / "x.safetensors", tiny_tensors())
    expected = save(tiny_tensors(), {"format": "pt"})
    assert (tmp_path / "x.safetensors").read_bytes() == expected


def test_any_layout_in_memory(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    tensors = {
        "base": base,
        "same": base,
        "rows": base[2:4],
        "transposed": base.T,
        "expanded": base[:, :1].expand(6, 5),
        "strided": base[::2, 1::2],
        "parameter": torch.nn.Parameter(base),
        "scalar": torch.tensor(2.0),
        "nothing": torch.zeros(0, 3),
        "nothing else": torch.zeros(3, 0),
    }
    write_weights(tmp_path / "x.safetensors", tensors)
    assert_same(read_all(tmp_path / "x.safetensors"), {k: v.detach() for k, v in tensors.items()})


@pytest.mark.parametrize("mapped", [False, True], ids=["our tensors", "memory-mapped tensors"])
def test_edit_one_tensor_and_save_to_the_same_path(tmp_path: Path, mapped: bool) -> None:
    """safetensors #762 wrote zeros here."""
    path = tmp_path / "model.safetensors"
    tensors = {name: torch.randn(100, 100) for name in "abc"}
    write_weights(path, tensors)
    loaded = load_file(path) if mapped else read_all(path)
    loaded["b"] = tensors["b"] = torch.ones(5)
    write_weights(path, loaded)
    assert_same(read_all(path), tensors)


def test_new_files_have_the_permissions_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_directory(tmp_path, tiny_config(), tiny_tensors())
    finally:
        os.umask(before)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_everything_is_on_the_disk_before_anything_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    opened: dict[int, str] = {}
    open_, sync, replace = os.open, os.fsync, os.replace

    def recorded_open(path: Path, *arguments: int) -> int:
        descriptor = open_(path, *arguments)
        opened[descriptor] = path.name.partition(".tmp-")[0]
        return descriptor

    def recorded_sync(descriptor: int) -> None:
        steps.append(f"sync {opened[descriptor]}")
        sync(descriptor)

    def recorded_replace(source: Path, target: Path) -> None:
        steps.append(f"move {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "open", recorded_open)
    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    save_directory(tmp_path, tiny_config(), tiny_tensors())
    assert steps == [
        "sync .model.safetensors",
        "sync .config.json",
        "move model.safetensors",
        "move config.json",
        f"sync {tmp_path.name}",
    ]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
def test_a_failed_save_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    save_directory(tmp_path, tiny_config(), tiny_tensors())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(CheckpointError, match=os.strerror(code)) as caught:
            save_directory(tmp_path, tiny_config(), {"a": torch.ones(3)})
    assert str(tmp_path / "model.safetensors") in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk, in a process of its own."""
    save_directory(tmp_path, tiny_config(), tiny_tensors())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = (
        "import resource, signal, torch\n"
        "from pathlib import Path\n"
        "from minilm.checkpoints.weights import save_directory\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"save_directory(Path({str(tmp_path)!r}), {{}}, {{'a': torch.ones(100_000)}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "minilm.errors.CheckpointError" in done.stderr
    assert str(tmp_path / "model.safetensors") in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_library_refusing_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors_file, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be written: .*No space"):
        write_weights(tmp_path / "x.safetensors", tiny_tensors())
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file cannot be created"):
        save_directory(tmp_path / "file", {}, {})
    with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be written"):
        write_weights(tmp_path / "nowhere" / "x.safetensors", {})
    (tmp_path / "model" / "config.json").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"config\.json is a directory"):
        save_directory(tmp_path / "model", {}, {})
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


def test_what_a_killed_save_left_is_cleared_later(tmp_path: Path) -> None:
    old = tmp_path / f".model.safetensors.tmp-{'0' * 16}"
    new = tmp_path / f".model.safetensors.tmp-{'1' * 16}"
    for path in (old, new):
        path.write_bytes(b"half")
    hours_ago = time.time() - 2 * atomic.ABANDONED
    os.utime(old, (hours_ago, hours_ago))
    save_directory(tmp_path, tiny_config(), tiny_tensors())
    assert not old.exists()
    assert new.exists()
    assert_same(read_all(tmp_path), tiny_tensors())


def test_one_file_takes_over_from_shards(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]")
    tensors = {"a": torch.ones(3)}
    save_directory(tmp_path, {"model_type": "bert"}, tensors)
    assert not (tmp_path / "model.safetensors.index.json").exists()
    assert (tmp_path / "vocab.txt").exists()
    assert_same(read_all(tmp_path), tensors)


# --- reading while someone saves ---


def test_readers_never_see_a_half_written_or_mixed_save(tmp_path: Path) -> None:
    """100 readers during 100 saves of models that differ in config and weights."""

    def save_number(number: int) -> None:
        tensors = {"a": torch.full((50, 50), float(number)), "b": torch.full((7,), float(number))}
        save_directory(tmp_path, {"number": number}, tensors)

    save_number(0)
    done = threading.Event()
    problems: list[object] = []
    seen: set[int] = set()

    def read_until_done() -> None:
        while not done.is_set():
            try:
                config, weights = open_directory(tmp_path)
                with weights:
                    values = {v for n in ("a", "b") for v in weights.read(n).unique().tolist()}
                if values != {config["number"]}:
                    problems.append((config, values))
                seen.add(config["number"])
                done.wait(0.3)
            except BaseException as error:
                problems.append(error)
                return

    readers = [threading.Thread(target=read_until_done) for _ in range(100)]
    for reader in readers:
        reader.start()
    number = 0
    # on a busy machine the readers may hardly get a turn during the first hundred
    while number < 100 or (len(seen) <= 10 and number < 5000):
        number += 1
        save_number(number)
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert len(seen) > 10


def test_a_reader_between_the_two_files_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer stops after moving the weights: the reader must not take the old config."""
    save_directory(tmp_path, {"number": 1}, {"a": torch.full((2,), 1.0)})
    replace, between, go_on = os.replace, threading.Event(), threading.Event()

    def slow_replace(source: Path, target: Path) -> None:
        replace(source, target)
        if target.name == "model.safetensors":
            between.set()
            go_on.wait(10)

    monkeypatch.setattr(os, "replace", slow_replace)
    new = {"a": torch.full((2,), 2.0)}
    writer = threading.Thread(target=save_directory, args=(tmp_path, {"number": 2}, new))
    writer.start()
    assert between.wait(10)
    threading.Timer(0.2, go_on.set).start()
    config, weights = open_directory(tmp_path)
    with weights:
        assert config["number"] == weights.read("a")[0] == 2
    writer.join()


def test_a_save_that_was_killed_between_the_two_files_delays_nobody(tmp_path: Path) -> None:
    save_directory(tmp_path, tiny_config(), tiny_tensors())
    left = tmp_path / f".config.json.tmp-{'0' * 16}"
    left.write_text("{}")
    minute_ago = time.time() - 60
    os.utime(left, (minute_ago, minute_ago))
    start = time.perf_counter()
    open_directory(tmp_path)[1].close()
    assert time.perf_counter() - start < 0.5
