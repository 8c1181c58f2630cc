"""Hyper-parameters searched by optuna: the sweep of the page on training, as it stands there."""

import re
import runpy
from pathlib import Path

import pytest

import minilm
from task_data import colour_texts, save_start

PAGE = Path(__file__).parents[2] / "examples" / "training.md"


def test_the_sweep_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials run at the same time, each in its own output, and the best one is found."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = re.search(r"```text\n([^`]*optuna\.create_study[^`]*)```", PAGE.read_text())
    assert found is not None
    code = (
        found[1]
        .replace("n_trials=20", "n_trials=4")
        .replace("optuna.create", "study = optuna.create")
    )
    code = code.replace(").optimize(", ")\nstudy.optimize(")
    assert code.count("n_trials=4") == code.count("study.optimize(") == 1
    script = tmp_path / "sweep.py"
    script.write_text(code)
    monkeypatch.chdir(tmp_path)
    records = colour_texts(24)
    names = {
        "minilm": minilm,
        "optuna": optuna,
        "train": records[:16],
        "dev": records[16:],
        "start": save_start(tmp_path / "start"),
    }
    study = runpy.run_path(str(script), names)["study"]
    values = [trial.value for trial in study.trials]
    assert len(values) == 4
    assert study.best_value == max(values)
    for trial in study.trials:
        output = tmp_path / f"sweep/trial-{trial.number}"
        assert minilm.Predictor.from_pretrained(output).task.labels
        # what was tried is what the run was
        settings = (output / "run/settings.json").read_text()
        assert str(trial.params["learning_rate"]) in settings
