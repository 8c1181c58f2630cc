"""The recipes for Ray Data and Spark: the same vectors as `Encoder.encode`, in local mode."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import minilm
from saved import make_texts, save_tiny

ENGINES = Path(__file__).parents[2] / "examples/engines"
HAS_RAY = importlib.util.find_spec("ray") is not None
HAS_SPARK = importlib.util.find_spec("pyspark") is not None
CASES = [
    pytest.param("ray_data", marks=pytest.mark.skipif(not HAS_RAY, reason="ray is absent")),
    pytest.param(
        "spark",
        marks=[
            pytest.mark.skipif(not HAS_SPARK, reason="pyspark is absent"),
            pytest.mark.skipif(shutil.which("java") is None, reason="java is absent"),
        ],
    ),
]


def lines_of_code(path: Path) -> int:
    """Lines of a recipe without its docstring, imports and blank lines."""
    body = path.read_text().split('"""', 2)[2]
    lines = [line.strip() for line in body.splitlines()]
    return sum(bool(line) and not line.startswith(("import ", "from ")) for line in lines)


@pytest.mark.parametrize("name", ["ray_data", "spark"])
def test_a_recipe_is_short(name: str) -> None:
    assert 5 < lines_of_code(ENGINES / f"{name}.py") < 20


@pytest.mark.clients
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_an_engine_gives_the_vectors_of_encode(tmp_path: Path, name: str) -> None:
    model = save_tiny(tmp_path / "model")
    texts = [*make_texts(300), "", "word1"]
    table = pa.table({"id": [f"id{n}" for n in range(302)], "text": texts})
    (tmp_path / "texts").mkdir()
    for part in range(2):  # as such data comes
        piece = table.slice(part * 151, 151)
        parquet.write_table(piece, tmp_path / f"texts/{part}.parquet")
    here = str(Path(minilm.__file__).parents[1])  # the workers' minilm is this one
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0", "SPARK_LOCAL_IP": "127.0.0.1"}
    settings["PYSPARK_PYTHON"] = sys.executable
    done = subprocess.run(
        [sys.executable, ENGINES / f"{name}.py", model, tmp_path / "texts", tmp_path / "vectors"],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = parquet.read_table(tmp_path / "vectors").sort_by("id")
    expected = table.sort_by("id")
    assert found["id"].to_pylist() == expected["id"].to_pylist()
    assert found["text"].to_pylist() == expected["text"].to_pylist()
    vectors = np.array(found["vector"].to_pylist(), np.float32)
    encoder = minilm.Encoder.from_pretrained(model)
    assert vectors.shape == (302, 16)
    assert vectors == pytest.approx(encoder.encode(expected["text"].to_pylist()), abs=1e-5)
