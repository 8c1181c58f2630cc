"""`minilm predict --output`: the predictions of `minilm predict`, in parts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

import minilm
from minilm.cli import main
from minilm.data.parts import Parts
from minilm.errors import DataError
from task_data import save_start

pytestmark = pytest.mark.filterwarnings("default:.*(was|were) cut")
LINES = ["the red thing", "", "{smile} blue", "a thing in rome " * 30, *["blue", "red is it"] * 9]
BAD = ['{"id": 5, "text": "red"}', '{"text"', "", '{"text": " "}', '{"text": "blue"}', "[1]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parts")
    colours = {"id2label": {0: "red", 1: "blue"}}
    save_start(path / "classes", head="ForSequenceClassification", **colours)
    save_start(path / "tags", head="ForTokenClassification", id2label={0: "O", 1: "B-LOC"})
    (path / "texts.txt").write_text("\n".join(LINES) + "\n")
    (path / "texts.txt.gz").write_bytes(gzip.compress((path / "texts.txt").read_bytes()))
    rows = [{"id": n, "text": line or "x"} for n, line in enumerate(LINES)]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), path / "rows.parquet", row_group_size=9)
    (path / "bad.jsonl").write_text("".join(f"{line}\n" for line in BAD))
    return path


@pytest.fixture(autouse=True)
def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def written(directory: Path) -> str:
    """As `cat DIRECTORY/part-*.jsonl`."""
    return "".join(path.read_text() for path in sorted(directory.glob("part-*.jsonl")))


def same(found: Any, expected: Any) -> bool:
    """Equal but for the last digits of confidences, which depend on what is predicted together."""
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    if isinstance(found, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == (pytest.approx(expected, abs=1e-5) if type(found) is float else expected))


@pytest.mark.parametrize("data", ["texts.txt", "texts.txt.gz", "rows.jsonl", "rows.parquet"])
def test_parts_hold_what_is_printed_without_them(tmp_path: Path, data: str) -> None:
    output = tmp_path / "predictions"
    more = ["--format", "text"] if data.endswith(".gz") else []
    printed = run("predict", "classes", data, *more)
    assert printed.exit_code == 0, printed.output
    for shard in ("2/2", "1/2"):
        result = run(
            *("predict", "classes", data, "-o", output, "--part-rows", 5, "--workers", 1),
            *("--shard", shard),
        )
        assert result.exit_code == 0, result.output
        assert result.stdout == ""
    found = objects(written(output))
    assert len(found) == len(LINES)
    expected = objects(printed.stdout)
    assert same(found, expected)
    assert not same([*found[:-1], {**found[-1], "label": "green"}], expected)
    assert f"{output}: shard 1/2 is complete: 3 parts" in result.stderr
    if data == "texts.txt":
        assert "1 blank line without a prediction" in result.stderr


def test_workers_and_shards_change_no_byte(tmp_path: Path) -> None:
    def predict(name: str, **options: Any) -> dict[str, bytes]:
        minilm.predict_file(
            "classes", "texts.txt", tmp_path / name, **{"part_rows": 4, "workers": 1, **options}
        )
        return {p.name: p.read_bytes() for p in (tmp_path / name).glob("part-*")}

    expected = predict("one")
    assert len(expected) == 6
    assert predict("two", workers=2) == expected
    predict("three", shard="2/2")
    assert predict("three", shard="1/2") == expected


def test_bad_records(tmp_path: Path) -> None:
    output = tmp_path / "predictions"
    options = ["predict", "classes", "bad.jsonl", "-o", output, "--part-rows", 1, "--workers", 1]
    result = run(*options)
    assert result.exit_code == 2
    assert "bad.jsonl, line 2: Expecting ':' delimiter" in result.stderr
    assert Parts.open(output).status()["parts_done"] == 1
    result = run(*options, "--on-bad-record", "skip")  # goes on
    assert result.exit_code == 0, result.output
    assert '3 records skipped: see "error"' in result.stderr
    assert "1 blank line without a prediction" in result.stderr
    found = objects(written(output))
    assert [row["line"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert ["error" in row for row in found] == [False, True, True, True, False, True]
    assert found[0]["id"] == 5
    assert Parts.open(output).status()["counts"] == {"blank": 1, "skipped": 3}


def test_other_models_thresholds_and_columns_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "predictions"
    minilm.predict_file("classes", "rows.jsonl", output, workers=1)
    with pytest.raises(DataError, match="begun with another model"):
        minilm.predict_file("tags", "rows.jsonl", output, workers=1)
    with pytest.raises(DataError, match="begun with other data"):
        minilm.predict_file("classes", "texts.txt", output, workers=1)
    columns = {"text_column": "id"}
    with pytest.raises(DataError, match="begun with text_column None, not 'id'"):
        minilm.predict_file("classes", "rows.jsonl", output, workers=1, columns=columns)
    with pytest.raises(DataError, match="holds predictions, expected vectors"):
        minilm.EncodedTexts.open(output)


def test_columns_that_are_guessed_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"review_text": "red", "note": "x"}\n')
    arguments = ["predict", "classes", tmp_path / "rows.jsonl"]
    printed = run(*arguments)
    result = run(*arguments, "-o", tmp_path / "predictions", "--workers", 1)
    assert result.exit_code == printed.exit_code
    guesses = [line for line in printed.stderr.splitlines() if "review_text" in line]
    assert [line for line in result.stderr.splitlines() if "review_text" in line] == guesses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "-o", "out"], "put them into a file"),
        (["texts.txt", "-o", "out", "--batch-size", "3"], "--batch-size is for predictions"),
        (["texts.txt", "-o", "out", "--delimiter", ";"], "--delimiter is not for --output"),
        (["texts.txt", "-o", "out", "--format", "csv"], "expected one of text, jsonl, parquet"),
        (["texts.txt", "--shard", "1/2"], "--shard is for a directory as output"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], message: str) -> None:
    result = run("predict", "classes", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not Path("out").exists()
