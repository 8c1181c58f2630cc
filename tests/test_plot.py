"""`minilm plot`: what is read from logs, and what can be seen in the picture."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from matplotlib.image import imread

import toy
from minilm.cli import main
from minilm.errors import CheckpointError, DataError, DependencyError, InputError
from minilm.training.curves import Curve, read_run, read_runs
from minilm.training.drawing import draw

BLUE, ORANGE, GREEN = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)


def write_run(
    directory: Path, steps: int = 90, terms: tuple[str, ...] = ("mlm",), start: float = 8.0
) -> Path:
    """The log of an invented run: the loss falls, with an evaluation every 30 steps."""
    lines: list[dict[str, Any]] = [{"event": "started", "step": 0}]
    for step in range(1, steps + 1):
        loss = start * math.exp(-step / 40) + 0.5 * (step % 2)
        lines.append(
            {
                "step": step,
                "epoch": 0,
                "tokens": 100 * step,
                "loss": loss,
                **{name: loss / (1 + number) for number, name in enumerate(terms)},
                "learning_rate": 1e-3 * (1 - step / 100),
                "gradient_norm": 1.0 + step % 3,
                "tokens_per_second": 1000.0,
                "seconds": step / 10,
            }
        )
        if step % 30 == 0:
            scores = {"masked_loss": start / step, "masked_accuracy": 0.5 - 1 / step}
            lines.append({"step": step, "held_out": scores})
    log = directory / "run" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def curve(values: list[float] | npt.NDArray[np.float64]) -> Curve:
    return Curve(np.arange(1, len(values) + 1), np.array(values, dtype=float))


def pixels(picture: Path, colour: tuple[int, int, int]) -> int:
    """How many have exactly this colour."""
    image = np.rint(imread(picture)[..., :3] * 255)
    return int((image == colour).all(axis=-1).sum())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plot", *map(str, arguments)])


# --- reading ---


def test_every_number_is_a_curve(tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path / "small", terms=("kl", "mlm", "cosine")))
    assert found.name == "small"
    assert found.step == 90
    assert found.terms == ["mlm", "cosine"]  # kl is the loss itself here
    assert found.training["loss"].steps.tolist() == list(range(1, 91))
    assert found.training["learning_rate"].values[9] == pytest.approx(9e-4)
    assert found.held_out["masked_loss"].steps.tolist() == [30, 60, 90]
    assert found.held_out["masked_loss"].values.tolist() == pytest.approx([8 / 30, 8 / 60, 8 / 90])


def test_the_log_of_the_engine(tmp_path: Path) -> None:
    toy.run(tmp_path, steps=12, evaluate_every=5)
    found = read_run(tmp_path)
    assert found.step == 12
    assert found.training["loss"].steps.tolist() == list(range(1, 13))
    assert found.terms == []
    assert found.held_out["squared_error"].steps.tolist() == [5, 10, 12]
    draw([found], tmp_path / "curves.png")


def test_a_run_is_found_by_its_directory_or_log(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "small")
    for place in (directory, directory / "run", directory / "run" / "log.jsonl"):
        assert read_run(place).name == "small"
    (tmp_path / "loose.jsonl").write_bytes((directory / "run" / "log.jsonl").read_bytes())
    assert read_run(tmp_path / "loose.jsonl").name == tmp_path.name


def test_equal_names_become_paths(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name) for name in ("a/out", "b/out", "c")]
    assert [run.name for run in read_runs(paths)] == [str(paths[0]), str(paths[1]), "c"]


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    log = write_run(tmp_path / "small", steps=3) / "run" / "log.jsonl"
    whole = log.read_bytes()
    begin = whole[:-1].rindex(b"\n") + 1
    for end in range(begin, len(whole)):
        log.write_bytes(whole[:end])
        complete = whole[end:] == b"\n"
        assert read_run(log).step == (3 if complete else 2), end


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"step": 4, "loss": \n', "no valid JSON"),
        (b"\x00\x00\x00\x00\n", "no valid JSON"),
        (b'{"step": 4, "loss": "\xff"}\n', "no valid JSON"),
        (b"[" * 100_000 + b"\n", "no valid JSON"),
        (b"[1, 2]\n", "no object"),
        (b"\n", "no valid JSON"),
        (b'{"loss": 1.0}\n', '"step" is None, expected a whole number'),
        (b'{"step": "4", "loss": 1.0}\n', "\"step\" is '4'"),
        (b'{"step": true, "loss": 1.0}\n', '"step" is True'),
        (b'{"step": 4, "loss": "low"}\n', "'loss' is 'low', expected a number"),
        (b'{"step": 4, "loss": null}\n', "'loss' is None, expected a number"),
        (b'{"step": 4, "held_out": 3}\n', '"held_out" is not an object'),
        (b'{"step": 4, "held_out": {"masked_loss": []}}\n', "'masked_loss' is [], expected"),
        (b'{"step": 3, "loss": 1.0}\n', "step 3 comes after step 3"),
        (b'{"step": 4, "loss": 1' + b"0" * 400 + b"}\n", "expected a number"),
        (b'{"step": 4' + b"0" * 400 + b', "loss": 1}\n', "expected a whole number"),
        (b'{"step": -4, "loss": 1}\n', "expected a whole number"),
    ],
    ids=range(17),
)
def test_damage_names_file_and_line(line: bytes, message: str, tmp_path: Path) -> None:
    log = write_run(tmp_path / "small", steps=3) / "run" / "log.jsonl"
    log.write_bytes(log.read_bytes() + line + b'{"step": 9, "loss": 1.0}\n')
    with pytest.raises(DataError) as caught:
        read_run(log)
    assert str(caught.value).startswith(f"{log}, line 5: ")
    assert message in str(caught.value)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing does not exist"):
        read_run(tmp_path / "missing")
    with pytest.raises(DataError, match=r"not a training run: .*run/log\.jsonl does not exist"):
        read_run(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"event": "started", "step": 0}\n{"step": 1, "lo')
    with pytest.raises(DataError, match="no step yet"):
        read_run(tmp_path)


# --- figures ---


def test_smoothing_keeps_lines_and_takes_noise_away() -> None:
    line = curve(np.linspace(3.0, 1.0, 301))
    smooth = line.smoothed()
    assert smooth.steps.tolist() == line.steps.tolist()
    np.testing.assert_allclose(smooth.values[10:-10], line.values[10:-10], atol=1e-12)
    noise = np.random.default_rng(0).normal(size=301)
    noisy = curve(line.values + noise).smoothed()
    assert np.abs(noisy.values - line.values).mean() < 0.5 * np.abs(noise).mean()


def test_smoothing_leaves_out_what_is_not_finite() -> None:
    values = np.full(300, 2.0)
    values[[20, 50, 51]] = np.nan, np.inf, -np.inf
    np.testing.assert_allclose(curve(values).smoothed().values, 2.0)
    assert np.isnan(curve([math.nan, math.nan]).smoothed().values).all()
    assert curve([5.0]).smoothed().values.tolist() == [5.0]


def test_a_long_curve_is_smoothed_at_some_of_its_steps() -> None:
    smooth = curve(np.full(200_000, 7.0)).smoothed()
    assert len(smooth.steps) == 1000
    assert (smooth.steps[0], smooth.steps[-1]) == (1, 200_000)
    np.testing.assert_allclose(smooth.values, 7.0)


def test_the_best_is_finite() -> None:
    values = curve([math.nan, 3.0, 1.0, math.inf, -math.inf, 2.0])
    assert values.best(highest=False) == (3, 1.0)
    assert values.best(highest=True) == (2, 3.0)
    assert curve([math.nan]).best(highest=True) is None


# --- the picture ---


def test_each_run_has_its_colour(tmp_path: Path) -> None:
    runs = read_runs(
        [write_run(tmp_path / "a"), write_run(tmp_path / "b", terms=("kl", "mlm"), start=5.0)]
    )
    draw(runs, tmp_path / "both.png")
    draw(runs[:1], tmp_path / "one.png")
    assert min(pixels(tmp_path / "both.png", colour) for colour in (BLUE, ORANGE)) > 1000
    assert pixels(tmp_path / "both.png", GREEN) == 0
    assert pixels(tmp_path / "one.png", BLUE) > 1000
    assert pixels(tmp_path / "one.png", ORANGE) == 0
    height, width = imread(tmp_path / "both.png").shape[:2]
    assert min(height, width) > 900


def test_losses_of_other_terms_have_their_own_panel(tmp_path: Path) -> None:
    """A student's loss is a sum that its teacher's is not: they say nothing about each other."""
    logs = {"teacher": {"mlm": 1.0}, "student": {"kl": 5.0, "mlm": 2.0, "cosine": 1.0},
            "other": {"kl": 1.0, "mlm": 2.0, "cosine": 1.0}}  # fmt: skip
    random = np.random.default_rng(0)
    for name, weights in logs.items():
        (tmp_path / name / "run").mkdir(parents=True)
        lines = []
        for step in range(1, 40):
            terms = {term: float(random.uniform(1, 3)) for term in weights}
            loss = sum(weight * terms[term] for term, weight in weights.items())
            lines.append({"step": step, "loss": loss, **terms, "masked_share": 0.15})
        log = tmp_path / name / "run" / "log.jsonl"
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = read_runs([tmp_path / name for name in logs])
    assert [dict(run.objective) for run in runs] == list(logs.values())
    assert runs[0].terms == []  # neither the loss itself nor the share of masked tokens
    draw(runs, tmp_path / "curves.svg")
    texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "curves.svg").read_text()))
    titles = {"training loss = MLM", "training loss = 5 KL + 2 MLM + cosine",
              "training loss = KL + 2 MLM + cosine"}  # fmt: skip
    assert {text for text in texts if text.startswith("training loss")} == titles
    assert "share of tokens that are masked" in texts
    assert "15.0%" in texts or "15%" in texts
    first = (tmp_path / "curves.svg").read_bytes()
    draw(runs, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_bytes() == first


def test_weights_that_the_log_does_not_tell(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "short", steps=2, terms=("kl", "mlm")))
    assert run.objective == (("kl", None), ("mlm", None))
    run = read_run(write_run(tmp_path / "collinear", terms=("kl", "mlm")))
    assert run.objective == (("kl", None), ("mlm", None))
    assert read_run(write_run(tmp_path / "one")).objective == (("mlm", 1.0),)
    log = tmp_path / "one" / "run" / "log.jsonl"
    log.write_text(log.read_text().replace('"mlm": ', '"mlm": 1'))  # no sum of its terms any more
    assert read_run(tmp_path / "one").objective == (("mlm", None),)


def test_logs_of_all_shapes_are_drawn(tmp_path: Path) -> None:
    """Warnings are errors here, so a label or a limit that matplotlib dislikes would show."""
    lines = {
        "one_step": ['{"step": 1, "loss": 2.5, "gradient_norm": 0.0, "learning_rate": 0.0}'],
        "_$only$_scores": ['{"step": 7, "held_out": {"masked_accuracy": 0.0, "new_$core": 1.0}}'],
        "diverged": [
            '{"step": 1, "loss": 3.0, "gradient_norm": Infinity}',
            '{"step": 2, "loss": NaN, "gradient_norm": NaN, "skipped": true}',
            '{"step": 3, "loss": NaN, "gradient_norm": NaN, "skipped": true}',
            '{"step": 3, "held_out": {"masked_loss": NaN}}',
        ],
    }
    runs = []
    for name, log in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("".join(f"{line}\n" for line in log))
        draw(read_runs([tmp_path / name]), tmp_path / f"{name}.png")
        runs.append(tmp_path / name)
    assert pixels(tmp_path / "one_step.png", BLUE) > 100
    many = [write_run(tmp_path / f"run{index}", steps=5) for index in range(20)]
    draw(read_runs([*runs, *many]), tmp_path / "all.png")
    assert pixels(tmp_path / "all.png", ORANGE) > 100


def test_the_picture_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = read_runs([write_run(tmp_path / "a")])
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr("matplotlib.figure.Figure.savefig", _disk_full)
        with pytest.raises(CheckpointError, match="No space left"):
            draw(runs, picture)
    assert picture.read_bytes() == b"old"
    draw(runs, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "curves.png"]
    with pytest.raises(CheckpointError, match="cannot be written"):
        draw(runs, tmp_path / "missing" / "curves.png")


def _disk_full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_wrong_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = read_runs([write_run(tmp_path / "a")])
    with pytest.raises(InputError, match=r"give a name that ends in \.png or \.svg"):
        draw(runs, tmp_path / "curves.jpg")
    with pytest.raises(InputError, match="runs is empty"):
        draw([], tmp_path / "curves.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"pip install 'minilm\[plots\]'"):
        draw(runs, tmp_path / "curves.png")


# --- the command ---


def test_command(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", steps=60, start=4.0)]
    done = run(*runs, "-o", tmp_path / "curves.png")
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1][:2] == ["a", "90"]
    assert rows[2] == ["masked_loss", "0.0889", "0.0889", "90"]
    assert rows[4][:2] == ["b", "60"]
    assert rows[6] == ["masked_accuracy", "0.4833", "0.4833", "60"]
    assert pixels(tmp_path / "curves.png", ORANGE) > 1000


def test_command_json(tmp_path: Path) -> None:
    log = write_run(tmp_path / "a") / "run" / "log.jsonl"
    with log.open("a") as file:
        file.write('{"step": 95, "loss": NaN}\n{"step": 95, "held_out": {"masked_loss": 7.5}}\n')
    done = run(tmp_path / "a", "-o", tmp_path / "curves.png", "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["runs"]
    assert found["step"] == 95
    assert found["training"]["loss"] is None
    assert found["held_out"]["masked_loss"] == {
        "step": 95,
        "last": 7.5,
        "best": pytest.approx(8 / 90),
        "best_step": 90,
    }
    assert found["held_out"]["masked_accuracy"]["best_step"] == 90


def test_command_errors(tmp_path: Path) -> None:
    done = run(tmp_path, "-o", tmp_path / "curves.png")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "curves.png").exists()


def test_the_command_loads_neither_torch_nor_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys; from minilm.cli import main\n"
        "main(['plot', *sys.argv[1:]], standalone_mode=False)\n"
        "loaded = {'torch', 'matplotlib.pyplot'} & set(sys.modules); assert not loaded, loaded"
    )
    arguments = [str(write_run(tmp_path / "a")), "-o", str(tmp_path / "curves.png")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)
