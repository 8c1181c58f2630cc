"""The memory of encoding does not grow with the number of texts.

An hour beside other work: pytest -m slow -s tests/test_encode_memory.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import minilm
from saved import make_texts, save_tiny

# after a million lines caches and the allocator have what they keep
FEW, MANY = 1_000_000, 10_000_000
BLOCK = 10_000  # lines that are generated, and repeated with their number in front


def write_texts(path: Path, count: int) -> None:
    lines = make_texts(BLOCK, longest=5)
    with path.open("w") as file:
        for start in range(0, count, BLOCK):
            number = f"word{start // BLOCK % 50} "
            file.write("".join(f"{number}{line}\n" for line in lines))


def peak_of(*arguments: object) -> int:
    """The largest resident memory, in bytes, of a command and its workers, whichever has most."""
    process = subprocess.Popen([sys.executable, "-m", "minilm.cli", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted in kB on Linux")
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_is_flat_over_ten_million_lines(tmp_path: Path, workers: int) -> None:
    save_tiny(
        tmp_path / "model",
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    many = MANY if workers == 1 else 2 * FEW
    peaks = []
    for count in (FEW, many):
        texts, output = tmp_path / "texts.txt", tmp_path / f"vectors-{count}"
        write_texts(texts, count)
        peaks.append(
            peak_of("encode", tmp_path / "model", texts, "-o", output, "--workers", workers)
        )
        vectors = minilm.EncodedTexts.open(output)
        assert vectors.shape == (count, 8)
        print(f"{workers} workers, {count:,} lines: peak {peaks[-1] / 2**20:.1f} MiB")
    held = many * 8 * 4  # all vectors alone
    assert peaks[1] - peaks[0] < min(24 * 2**20, held / 2)
