"""Processes share out an evaluation, and find to the bit what one of them finds alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation_driver import evaluations
from minilm.tokenization.tokenizer import Tokenizer
from minilm.training.distributed import Processes
from task_data import RECORDS, save_start
from toy import ALONE

TESTS = Path(__file__).parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def together(output: Path, processes: int) -> list[dict[str, Any]]:
    """What every process found."""
    command = [sys.executable, *TORCHRUN, str(processes), "evaluation_driver.py", str(output)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, cwd=TESTS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((output / f"{rank}.json").read_text()) for rank in range(processes)]


def test_the_scores_are_those_of_one_process_to_the_bit(tmp_path: Path) -> None:
    processes = 2
    torch.set_num_threads(1)
    (tmp_path / "start").mkdir()
    alone = evaluations(Tokenizer.from_pretrained(save_start(tmp_path / "start")), ALONE)
    shared = together(tmp_path, processes)
    for name, found in alone.items():
        if name == "stopped":
            assert found["scores"] is None
            assert [other[name]["scores"] for other in shared] == [None] * processes
            continue
        assert found["scores"], name
        for other in shared:
            assert other[name]["scores"] == found["scores"], name  # exactly
            assert other[name]["training"]
        calls = [other[name]["calls"] for other in shared]
        assert sum(calls) == found["calls"], name  # nothing is computed twice
        assert max(calls) - min(calls) <= found["calls"] / found["of"], name
    assert {*RECORDS, "mlm"} < set(alone)
    assert all(alone[name]["of"] > processes for name in (*RECORDS, "mlm"))


def test_a_single_process_has_its_own_arrays() -> None:
    arrays = {3: np.ones((2, 2), np.float32), 1: np.zeros(0, np.float32)}
    assert ALONE.gather(arrays) == arrays
    assert Processes(0, 1, torch.device("cpu")).sum_array(np.ones(2)).tolist() == [1, 1]
