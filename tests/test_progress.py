"""Progress is shown where somebody sees it: on a terminal and in a notebook."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from minilm.files.progress import counted, cut_message, is_watched
from minilm.tasks import prediction
from task_data import save_start


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_a_count_agrees_with_its_unit() -> None:
    assert [counted(n, "text") for n in (0, 1, 1234)] == ["0 texts", "1 text", "1,234 texts"]
    assert [counted(n, "batch") for n in (1, 2)] == ["1 batch", "2 batches"]
    assert counted(2, "process") == "2 processes"


def test_of_one_text_the_verb_is_singular() -> None:
    assert cut_message(1, 1, "text", 1) == "1 of 1 text was longer than 1 token and was cut."
    assert cut_message(1, 3, "text", 64) == "1 of 3 texts was longer than 64 tokens and was cut."
    assert cut_message(2, 3, "text", 64) == "2 of 3 texts were longer than 64 tokens and were cut."


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("shell", ["none", "script", "terminal", "notebook"])
def test_who_watches(terminal: bool, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Stream(terminal))
    if shell == "none":
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
    else:
        found = {"script": None, "terminal": object(), "notebook": SimpleNamespace(kernel=1)}[shell]
        module = ModuleType("IPython")
        module.get_ipython = lambda: found  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", module)
    assert is_watched() == (terminal or shell == "notebook")


def test_an_evaluation_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_start(tmp_path / "model", head="ForSequenceClassification", num_labels=3)
    predictor = prediction.Predictor.from_pretrained(path)
    records = [{"text": text, "label": "LABEL_1"} for text in ("the red thing", "a thing")]
    monkeypatch.setattr(prediction, "DELAY", 0)
    silent = predictor.evaluate(records)
    assert capsys.readouterr().err == ""
    assert predictor.evaluate(records, progress=True) == silent
    assert "100%" in capsys.readouterr().err
