"""Curves for TensorBoard: what it reads from its event files is what log.jsonl holds."""

import errno
import json
import runpy
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import minilm
from minilm.cli import main
from minilm.errors import DependencyError
from task_data import colour_texts, save_start
from toy import run


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a directory: steps and values by the name of the curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def logged(output: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of log.jsonl, in single precision."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (output / "run/log.jsonl").read_text().splitlines():
        row = json.loads(line)
        group, values = ("held_out", row["held_out"]) if "held_out" in row else ("train", row)
        for name, value in values.items():
            if name not in ("step", "epoch", "tokens", "seconds", "event", "message"):
                found.setdefault(f"{group}/{name}", []).append((row["step"], pytest.approx(value)))
    return found


def test_the_curves_are_those_of_the_log(tmp_path: Path) -> None:
    observer = minilm.TensorBoard(tmp_path / "curves")
    run(tmp_path / "a", observers=[observer], evaluate_every=5, log_every=4)
    shown = curves(tmp_path / "curves")
    assert shown == logged(tmp_path / "a")
    assert [step for step, _ in shown["train/loss"]] == [4, 8, 12]
    assert [step for step, _ in shown["held_out/squared_error"]] == [5, 10, 12]


def test_a_run_that_goes_on_continues_its_curves(tmp_path: Path) -> None:
    """What was written after the snapshot is dropped, as in the log."""

    class Stop(minilm.Observer):
        def on_step(self, row: Any) -> None:
            if row["step"] == 6:
                raise KeyboardInterrupt

    place = tmp_path / "curves"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", observers=[minilm.TensorBoard(place), Stop()], log_every=1)
    assert [step for step, _ in curves(place)["train/loss"]] == [1, 2, 3, 4, 5, 6]
    run(tmp_path / "a", observers=[minilm.TensorBoard(place)], log_every=1)
    shown = curves(place)
    assert [step for step, _ in shown["train/loss"]] == list(range(1, 13))
    assert shown == logged(tmp_path / "a")
    files = len(list(place.iterdir()))
    run(tmp_path / "a", observers=[minilm.TensorBoard(place)])
    assert len(list(place.iterdir())) == files  # a finished run has nothing to add


def test_a_full_disk_ends_the_curves_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Full:
        def __init__(self, directory: str, **options: Any) -> None:
            pass

        def add_scalar(self, *arguments: Any) -> None:
            calls.append(arguments)
            raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    observer = minilm.TensorBoard(tmp_path / "curves", said.append)
    monkeypatch.setattr(observer, "_open", Full)
    assert run(tmp_path / "a", observers=[observer], log_every=1).finished
    assert len(calls) == len(said) == 1
    assert "curves cannot be written (No space left on device)" in said[0]


def test_a_directory_that_cannot_be_made_ends_the_curves_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    observer = minilm.TensorBoard(tmp_path / "file" / "curves", said.append)
    assert run(tmp_path / "a", observers=[observer]).finished
    assert len(said) == 1
    assert "cannot be written" in said[0]


def test_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is read or written, with what to install."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match=r"pip install 'minilm\[tensorboard\]'"):
        minilm.TensorBoard(tmp_path / "curves")
    for command in (
        ["pretrain", "--corpus", "nowhere", "--steps", "1"],
        ["distill", "--corpus", "nowhere", "--teacher", "nowhere", "--steps", "1"],
        ["finetune", "--task", "classification", "--model", "nowhere", "--train", "nowhere"],
    ):
        output = tmp_path / "output"
        done = CliRunner().invoke(main, [*command, "--tensorboard", "--output", str(output)])
        assert done.exit_code == 2
        assert "pip install 'minilm[tensorboard]'" in done.stderr
        assert not output.exists()


def test_the_commands_write_them_into_the_run(tmp_path: Path) -> None:
    save_start(tmp_path / "start")
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(record) + "\n" for record in colour_texts(16)))
    command = ["finetune", "--task", "classification", "--model", tmp_path / "start",
               "--train", records, "--dev", records, "--epochs", 1, "--batch-size", 8,
               "--precision", "float32", "--output", tmp_path / "out", "--tensorboard",
               "--seeds", 2]  # fmt: skip
    done = CliRunner().invoke(main, list(map(str, command)))
    assert done.exit_code == 0, done.output
    for seed in (0, 1):
        output = tmp_path / f"out/seed-{seed}"
        shown = curves(output / "run/tensorboard")
        assert shown == logged(output)
        assert {"train/loss", "held_out/accuracy"} <= shown.keys()


def test_the_example_of_another_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The docstring's five lines get every step and evaluation across."""
    text = minilm.Observer.__doc__ or ""
    code = text.split("```python\n")[1].split("wandb.init")[0]

    class Service:
        def __init__(self) -> None:
            self.rows: list[tuple[int, dict[str, float]]] = []

        def log(self, values: dict[str, float], *, step: int) -> None:
            self.rows.append((step, values))

    file = tmp_path / "example.py"
    file.write_text(textwrap.dedent("        " + code.lstrip()))
    names = runpy.run_path(str(file), {"minilm": minilm, "wandb": (service := Service())})
    assert issubclass(names["WeightsAndBiases"], minilm.Observer)
    run(tmp_path / "a", observers=[names["WeightsAndBiases"]()], evaluate_every=6)
    rows = service.rows
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]
    assert rows[6][1].keys() == {"held_out/squared_error"}
