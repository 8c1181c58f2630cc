"""Two processes train the same model as one, with dropout: torchrun, gloo."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from task_data import RECORDS

TESTS = Path(__file__).parent
DRIVER = TESTS / "distributed_driver.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
PRETRAINING = ("mlm", "distillation", "mlm+sop")
ACCUMULATIONS = ("1", "4")
CIRCUMSTANCES = ("seconds", "tokens_per_second")


def train(output: Path, processes: int) -> Path:
    """All objectives with each accumulation, in directories of their own."""
    start = [] if processes == 1 else [*TORCHRUN, str(processes)]
    command = [sys.executable, *start, str(DRIVER), str(output), *ACCUMULATIONS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, cwd=TESTS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "run/log.jsonl").read_text().splitlines()]


def close(ours: Any, theirs: Any, bound: float) -> None:
    """Equal within a bound, through dictionaries."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - set(CIRCUMSTANCES):
            close(ours[key], theirs[key], bound)
    else:
        assert ours == pytest.approx(theirs, rel=0, abs=bound)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, which takes every step at once or in parts."""
    return train(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("two"), 2)


def test_the_losses_are_those_on_record(one: Path) -> None:
    """Data, masks, weights, loss and optimiser together: none of them drifts unnoticed.

    After a change that is meant, `python tests/distributed_driver.py DIR 1` and put the "loss" of
    every line of DIR/1/*/run/log.jsonl into golden_losses.json, in a commit of its own.
    """
    golden = json.loads((TESTS / "golden_losses.json").read_text())
    for objective, expected in golden.items():
        found = [row["loss"] for row in log_of(one / "1" / objective) if "loss" in row]
        assert found == pytest.approx(expected, rel=0, abs=1e-9), objective


@pytest.mark.parametrize(("processes", "accumulation"), [(1, "4"), (2, "1"), (2, "4")])
def test_however_a_step_is_shared_out_it_is_the_same(
    processes: int, accumulation: str, one: Path, two: Path
) -> None:
    """Of every learner, with dropout: weights, losses, norms and evaluations."""
    alone, others = one / "1", (one if processes == 1 else two) / accumulation
    names = {path.name for path in alone.iterdir()}
    assert names == {path.name for path in others.iterdir()}
    assert names == {*PRETRAINING, *(f"{name} float32" for name in PRETRAINING), *RECORDS}
    for name in sorted(names):
        single = name.endswith("float32")
        weights = load_file(alone / name / "model.safetensors")
        other_weights = load_file(others / name / "model.safetensors")
        assert weights.keys() == other_weights.keys()
        for key, value in weights.items():
            apart = float((value - other_weights[key]).abs().max())
            assert apart < (1e-5 if single else 1e-10), (name, key)
        log, other_log = log_of(alone / name), log_of(others / name)
        assert len([row for row in log if "loss" in row]) == (20 if name in PRETRAINING else 5)
        if name in PRETRAINING:
            assert log[-1]["held_out"]["masked_loss"] > 0
        assert len(log) == len(other_log)
        for row, other in zip(log, other_log, strict=True):
            # questions compute their loss in float32
            close(row, other, 1e-3 if single else 1e-6 if name in RECORDS else 1e-10)
