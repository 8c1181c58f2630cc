"""Every malformed model directory gives one clear error, quickly and without side effects."""

import resource
import sys
import time
from pathlib import Path

import pytest

import minilm
from malformed import Case, cases, write_sharded, write_valid

MEGABYTE = 2**20


@pytest.fixture(scope="module", autouse=True)
def _imports_done(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Importing the models takes time of its own; it is not a case's."""
    directory = tmp_path_factory.mktemp("valid")
    write_valid(directory)
    minilm.load(directory)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_one_clear_error(case: Case, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    case.write(directory)
    before = sorted(tmp_path.rglob("*"))
    peak = _peak_memory()
    start = time.process_time()
    with pytest.raises(minilm.MinilmError) as caught:
        minilm.load(directory)
    seconds = time.process_time() - start
    message = str(caught.value)
    for text in (str(directory), *case.expected):
        assert text in message
    assert message.isprintable() or message.replace("\n", "").isprintable()
    assert len(message) < 3000
    assert seconds < 1
    assert _peak_memory() - peak < 50 * MEGABYTE
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("write", [write_valid, write_sharded])
def test_what_the_cases_break_is_valid(write, tmp_path: Path) -> None:
    write(tmp_path)
    assert isinstance(minilm.load(tmp_path), minilm.BertModel)


def test_there_are_enough() -> None:
    assert len(cases()) >= 60


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
