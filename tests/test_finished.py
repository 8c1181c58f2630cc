"""After the end: what a run still takes on the disk, and a run that was cleaned up."""

import json
from pathlib import Path
from typing import Any

import pytest

import minilm
from minilm.errors import TrainingError
from minilm.recipes.finetuning import FinetuningSettings
from minilm.tasks.prediction import Predictor
from minilm.training import finished
from task_data import colour_texts, save_start
from test_best import Scripted
from toy import Line, run

OPTIONS: dict[str, Any] = {"evaluate_every": 4, "select": "skill"}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_finished_run_says_what_it_takes(tmp_path: Path) -> None:
    said: list[str] = []
    run(tmp_path, said=said)
    size = sum(p.stat().st_size for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert f"{tmp_path / 'run'} takes {size / 1e6:,.1f} MB" in said[-1]
    assert "clean=True" in said[-1]


def test_a_cleaned_run_keeps_its_log_and_stays_finished(tmp_path: Path) -> None:
    first = run(tmp_path, Scripted(0.1, 0.9, 0.3), clean=True, **OPTIONS)
    assert {"finished.json", "log.jsonl", "settings.json"} <= set(names(tmp_path / "run"))
    assert not {"snapshots", "best"} & set(names(tmp_path / "run"))
    before = (tmp_path / "model.safetensors").read_bytes()
    log = (tmp_path / "run/log.jsonl").read_bytes()
    said: list[str] = []
    again = Scripted(0.1, 0.9, 0.3)
    assert run(tmp_path, again, said=said, **OPTIONS) == first
    assert first.chosen == 8
    assert again.asked == 0
    assert not again.training
    assert said == ["all steps are done and the snapshots are removed; the model does not change"]
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert (tmp_path / "run/log.jsonl").read_bytes() == log


def test_a_cleaned_run_cannot_go_on(tmp_path: Path) -> None:
    run(tmp_path, clean=True)
    with pytest.raises(TrainingError, match=r"settings.steps: 12 then, 13 now"):
        run(tmp_path, steps=13)
    with pytest.raises(TrainingError, match="finished run of 12 steps whose snapshots were remove"):
        run(tmp_path, steps=13, allow_changes=True)


def test_a_run_can_be_cleaned_later(tmp_path: Path) -> None:
    run(tmp_path)
    assert (tmp_path / "run/snapshots").exists()
    said: list[str] = []
    assert run(tmp_path, clean=True, said=said).finished
    assert "removed the snapshots of the run" in said[-1]
    assert not (tmp_path / "run/snapshots").exists()


def test_an_unfinished_run_is_not_cleaned(tmp_path: Path) -> None:
    class Stopping(minilm.Observer):
        def on_step(self, row: Any) -> None:
            if row["step"] == 5:
                raise ValueError

    with pytest.raises(TrainingError, match="Stopping failed"):
        run(tmp_path, observers=[Stopping()], clean=True)
    assert names(tmp_path / "run/snapshots") == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize("moment", range(3))
def test_cleaning_that_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Before the note is written the run can go on, afterwards it is finished."""

    class Killed(Exception):  # noqa: N818
        pass

    calls = iter(range(100))

    def mortal(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == moment:
                raise Killed
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(finished, "replace_files", mortal(finished.replace_files))
        patch.setattr(finished, "remove_snapshots", mortal(finished.remove_snapshots))
        with pytest.raises(Killed):
            run(tmp_path, Scripted(0.1, 0.9, 0.3), clean=True, **OPTIONS)
    result = run(tmp_path, Scripted(), clean=True, **OPTIONS)
    assert (result.finished, result.chosen) == (True, 8)
    assert not {"snapshots", "best"} & set(names(tmp_path / "run"))


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    run(tmp_path, clean=True)
    (tmp_path / "run/finished.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"finished\.json is damaged"):
        run(tmp_path, Line())


def test_a_cleaned_fine_tuning_run(tmp_path: Path) -> None:
    """The same call gives its scores again, and the model it left."""
    start = save_start(tmp_path / "start")
    settings = FinetuningSettings(epochs=1, batch_size=8)
    train, dev = colour_texts(16), colour_texts(8, seed=2)

    def go(**more: Any) -> Any:
        return minilm.finetune(
            "classification", start, train, tmp_path / "o", dev=dev, settings=settings, **more
        )

    first = go(clean=True)
    stored = (tmp_path / "o/model.safetensors").read_bytes()
    again = go()
    numbers = {
        name: value for name, value in first.scores.items() if isinstance(value, int | float)
    }
    assert again.scores == pytest.approx(numbers)
    assert (again.finished, again.chosen, again.steps) == (True, first.chosen, first.steps)
    assert (tmp_path / "o/model.safetensors").read_bytes() == stored
    assert Predictor.from_pretrained(tmp_path / "o")("red")["label"]
    assert json.loads((tmp_path / "o/run/finished.json").read_text())["steps"] == 2
