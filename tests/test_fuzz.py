"""The fuzzer: it notices what it should, and every reader stands a few hundred broken inputs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import fuzz
from fuzz import Checker, mutate
from fuzz_targets import TARGETS, Read
from minilm.errors import DataError

DRIVER = Path(fuzz.__file__)


@pytest.mark.filterwarnings("ignore")  # readers warn about odd files, as they should
@pytest.mark.parametrize("name", TARGETS)
def test_every_reader_stands_broken_inputs(tmp_path: Path, name: str) -> None:
    target = TARGETS[name]
    checker = Checker(target.read, tmp_path, name)
    try:
        for seed in target.seeds:
            checker.check(seed)
        assert checker.counts["accepted"], "no seed is valid"
        drawn = random.Random(f"test {name}")
        for _ in range(150):
            checker.check(mutate(drawn, target.seeds, target.words))
    finally:
        checker.close()
    assert checker.found == {}
    assert sum(checker.counts.values()) == 150 + len(target.seeds)


# --- what is noticed ---


class Panic(BaseException):
    """As the Rust library raises it."""


def _raise(error: BaseException) -> Read:
    def read(directory: Path, data: bytes) -> None:
        raise error

    return read


def _hang(directory: Path, data: bytes) -> None:
    end = time.process_time() + 60
    while time.process_time() < end:
        try:
            sum(range(1000))
        except Exception:  # an overall handler on the way must not hide it
            continue


def _fill(directory: Path, data: bytes) -> None:
    assert len(bytearray(b"x") * (fuzz._peak() - fuzz._memory() + 150 * 2**20))


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (_raise(ValueError("a bug")), "ValueError"),
        (_raise(Panic("a panic")), "Panic"),
        (_hang, "Hang"),
        (_fill, "MemoryUseError"),
    ],
    ids=["exception", "panic", "hang", "memory"],
)
def test_findings_are_noticed_and_kept(
    tmp_path: Path, read: Callable[[Path, bytes], object], words: str
) -> None:
    checker = Checker(read, tmp_path, "broken")
    checker.check(b"input")
    checker.check(b"the same place again") if read is not _hang else None
    checker.close()
    assert checker.counts["finding"] >= 1
    assert len(checker.found) == 1
    assert words in next(iter(checker.found))
    assert (tmp_path / "broken-1").read_bytes() == b"input"
    assert words in (tmp_path / "broken-1.txt").read_text()


def test_refusals_are_no_findings(tmp_path: Path) -> None:
    checker = Checker(_raise(DataError("x.csv is damaged")), tmp_path, "good")
    checker.check(b"")
    checker.close()
    assert checker.counts == {"refused": 1}
    assert checker.found == {}


def test_mutations_are_the_same_for_a_seed() -> None:
    first, second = (
        [mutate(random.Random(seed), (b"some text",), (b"word",)) for seed in range(50)]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 40


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, str(DRIVER), "--engine", "mutations", "--findings", str(tmp_path)]
    result = subprocess.run(
        [*command, "--target", "vocab,csv", "--inputs", "60", "--minutes", "5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    summaries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [summary["target"] for summary in summaries] == ["vocab", "csv"]
    assert all(summary["inputs"] == 60 and not summary["findings"] for summary in summaries)
    wrong = subprocess.run(
        [*command, "--target", "nothing"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "no target 'nothing'" in wrong.stderr
