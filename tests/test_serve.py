"""examples/serve: the service answers what the encoder computes, over a real connection."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minilm

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "weights" / "sentence-mini"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of the service, started as its docstring says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "examples" / "serve"),
         "service:app", "--port", "0"],
        env={**os.environ, "MINILM_MODEL": str(MODEL), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:  # ends with the process
            lines.append(line)
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.fail("".join(lines))
        rest = threading.Thread(target=process.stderr.read)  # or a full pipe would stop it
        rest.start()
        yield int(found[1])
        process.terminate()
        rest.join()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ask(port: int, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    head = {"content-type": "application/json"}
    connection.request("POST", "/embed", json.dumps(body), head)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_vectors_are_those_of_the_encoder(port: int) -> None:
    texts = ["a flat tyre", "", "Zürich liegt am See", "a " * 5000]
    status, answer = ask(port, {"texts": texts})
    assert status == 200
    with pytest.warns(UserWarning, match="1 of 4 texts"):
        expected = minilm.Encoder.from_pretrained(MODEL).encode(texts)
    np.testing.assert_allclose(np.array(answer["vectors"]), expected, atol=1e-5)
    assert ask(port, {"texts": []}) == (200, {"vectors": []})


def test_wrong_requests_are_refused(port: int) -> None:
    for body, field in (
        ({"texts": "one text"}, ["body", "texts"]),
        ({"texts": ["a"] * 257}, ["body", "texts"]),
        ({"texts": ["a" * 20_001]}, ["body", "texts", 0]),
        ({"text": ["a"]}, ["body", "texts"]),
    ):
        status, answer = ask(port, body)
        assert status == 422
        assert answer["detail"][0]["loc"] == field
