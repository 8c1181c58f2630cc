"""`predict`, `classify`, `tag`, `answer` and `encode` on many texts."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import minilm
from minilm.cli import main
from minilm.errors import InputError
from minilm.tasks.prediction import FIRST_CHUNK, Input, Predictor
from task_data import save_start

pytestmark = pytest.mark.filterwarnings("default:.*(was|were) cut")
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "classes": ("ForSequenceClassification", {"id2label": {0: "red", 1: "blue"}}),
    "labels": (
        "ForSequenceClassification",
        {"id2label": {0: "red", 1: "blue"}, "problem_type": "multi_label_classification"},
    ),
    "tags": ("ForTokenClassification", {"id2label": {0: "O", 1: "B-LOC", 2: "I-LOC"}}),
    "answers": ("ForQuestionAnswering", {}),
    "masks": ("ForMaskedLM", {}),
    "plain": ("Model", {}),
}
LINES = ["the red thing", "", "{smile} blue", "a thing in rome " * 30]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands")
    for name, (head, more) in HEADS.items():
        save_start(path / name, head=head, **more)
    (path / "texts.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    (path / "context.txt").write_text("the thing is in rome and\nit is very here")
    (path / "bad.jsonl").write_text(
        '{"id": 5, "text": "red"}\n{"text"\n\n{"text": " "}\n{"text": "blue"}\n'
    )
    return path


@pytest.fixture(autouse=True)
def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def done(*arguments: object, stdin: str | None = None) -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


STDIN = "\n".join(LINES)


def test_a_text_file_has_a_prediction_for_every_line() -> None:
    result = run("predict", "classes", "texts.txt")
    found = objects(result.stdout)
    assert [row["line"] for row in found] == [1, 2, 3, 4]
    assert ["error" in row for row in found] == [False, True, False, False]
    assert [row.get("truncated") for row in found] == [None, None, None, True]
    assert "1 of 3 records was longer than 64 tokens and was cut" in result.stderr
    assert "1 blank line without a prediction" in result.stderr
    assert objects(done("predict", "classes", "--format", "text", "texts.txt")) == found
    from_stdin = objects(done("predict", "classes", stdin=STDIN))
    assert [row.get("label") for row in from_stdin] == [row.get("label") for row in found]
    assert from_stdin[1] == {"line": 2, "error": "standard input, line 2: nothing is there."}


def test_text_files_may_be_compressed_or_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"red\n\nblue\n"))
    assert [row["line"] for row in objects(done("predict", "classes", tmp_path / "a.txt.gz"))] == [
        1,
        2,
        3,
    ]
    (tmp_path / "a.txt").write_bytes("r\u00e9d\nblue\n".encode("latin-1"))
    result = run("predict", "classes", tmp_path / "a.txt")
    assert result.exit_code == 2
    assert "a.txt, line 1: byte 2 (0xe9) is not UTF-8" in result.stderr
    assert (
        len(objects(done("predict", "classes", tmp_path / "a.txt", "--encoding", "latin-1"))) == 2
    )


def test_a_line_with_a_brace_is_text_unless_json_was_asked_for() -> None:
    line = '{"text": "red"}\n'
    result = run("predict", "classes", stdin=line)
    assert result.exit_code == 0
    assert "for JSON say --format jsonl" in result.stderr
    asked = run("predict", "classes", "--format", "jsonl", stdin=line)
    assert asked.stderr == ""
    assert (
        objects(asked.stdout)[0]["label"]
        == objects(done("classify", "classes", "red", "--json"))[0]["label"]
    )
    column = run("predict", "classes", "--text-column", "text", stdin=line)
    assert objects(column.stdout) == objects(asked.stdout)
    assert run("predict", "classes", stdin="{smile}\n{").exit_code == 0
    # a question needs more than a text, so it is JSON
    record = '{"id": 1, "question": "where", "context": "in rome"}\n'
    assert objects(done("predict", "answers", stdin=record))[0]["id"] == 1
    wrong = run("predict", "classes", "--format", "csv", stdin="text\nred\n")
    assert wrong.exit_code == 2
    assert "standard input is text or jsonl" in wrong.stderr


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_answers_before_a_bad_line_are_kept(source: str, home: Path) -> None:
    text = (home / "bad.jsonl").read_text()
    given = ("bad.jsonl",) if source == "file" else ("-", "--format", "jsonl")
    name = "bad.jsonl" if source == "file" else "standard input"
    stdin = None if source == "file" else text
    stopped = run("predict", "classes", *given, stdin=stdin)
    assert stopped.exit_code == 2
    assert [(row["line"], row["id"]) for row in objects(stopped.stdout)] == [(1, 5)]
    assert f"{name}, line 2: Expecting" in stopped.stderr
    went_on = run("predict", "classes", *given, "--on-bad-record", "skip", stdin=stdin)
    assert went_on.exit_code == 0
    found = objects(went_on.stdout)
    if source == "file":  # whose blank lines are no records
        found.insert(2, {"line": 3, "error": ""})
    assert [row["line"] for row in found] == [1, 2, 3, 4, 5]
    assert ["error" in row for row in found] == [False, True, True, True, False]
    assert found[3]["error"].startswith(f"{name}, line 4: text is empty")
    assert "2 records skipped" in went_on.stderr


def test_rows_of_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nred,1\nblue,2,3\n ,4\nrome,5\n")
    result = run("predict", "classes", tmp_path / "a.csv")
    assert (result.exit_code, len(objects(result.stdout))) == (2, 1)
    assert "a.csv, line 3" in result.stderr
    found = objects(done("predict", "classes", tmp_path / "a.csv", "--on-bad-record", "skip"))
    assert [row["line"] for row in found] == [2, 3, 4, 5]
    assert ["error" in row for row in found] == [False, True, True, False]


def test_classify_keeps_the_place_of_every_line() -> None:
    rows = [
        line.split("\t") for line in done("classify", "classes", "-f", "texts.txt").splitlines()
    ]
    assert [row[2] for row in rows] == LINES
    assert rows[1] == ["-", "-", ""]
    labels = done("classify", "labels", stdin=STDIN).splitlines()
    assert labels[1] == "-\t"
    found = objects(done("classify", "classes", "--json", stdin=STDIN))
    assert [(row["line"], row["text"]) for row in found] == list(enumerate(LINES, 1))
    assert run("classify", "classes", "red", "-f", "texts.txt").exit_code == 2
    assert run("classify", "classes", " ").exit_code == 2


def test_thresholds_of_the_command_line() -> None:
    every = done("classify", "labels", "red", "blue", "--threshold", 0).splitlines()
    assert [line.split("\t")[0] for line in every] == ["red, blue"] * 2
    assert done("classify", "labels", "red", "--threshold", 1) == "-\tred\n"
    assert objects(done("predict", "labels", "--threshold", 0, stdin="red"))[0]["labels"] == [
        "red",
        "blue",
    ]
    wrong = run("classify", "classes", "red", "--threshold", 0.5)
    assert wrong.exit_code == 2
    assert "--threshold cannot be used: models for classification" in wrong.stderr
    none = ("answer", "answers", "it is in", "context.txt", "--null-threshold")
    assert done(*none, -1e6).startswith("-\t")
    assert not done(*none, 1e6).startswith("-\t")


def test_tag_says_which_text() -> None:
    assert done("tag", "tags", "red in rome").count("\t") % 4 == 0  # one text needs no number
    several = [line.split("\t") for line in done("tag", "tags", "red", "in rome").splitlines()]
    assert {row[0] for row in several} <= {"1", "2"}
    alone = [line.split("\t") for line in done("tag", "tags", "in rome").splitlines()]
    assert [row[1:5] for row in several if row[0] == "2"] == [row[:4] for row in alone]
    lines = [line.split("\t") for line in done("tag", "tags", stdin=STDIN).splitlines()]
    assert {row[0] for row in lines} <= {"1", "3", "4"}
    assert all(LINES[int(row[0]) - 1][int(row[1]) : int(row[2])] == row[4] for row in lines)
    found = objects(done("tag", "tags", "-f", "texts.txt", "--json"))
    assert [(row["line"], row["text"]) for row in found] == list(enumerate(LINES, 1))


def test_answers_to_many_questions() -> None:
    one = done("answer", "answers", "where", "context.txt")
    lines = done("answer", "answers", "-", "context.txt", stdin="who\n\nwhere\n").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "2", "3"]
    assert lines[1] == "2\t-\t"
    assert lines[2].split("\t")[1] == one.split("\t")[0]
    found = objects(
        done("answer", "answers", "-", "context.txt", "--json", "--n-best", 2, stdin="who\n\nit")
    )
    assert [row["line"] for row in found] == [1, 2, 3]
    assert [len(row.get("n_best", ())) for row in found] == [2, 0, 2]
    both = run("answer", "answers", "-", "-", stdin="a")
    assert (both.exit_code, "cannot both be" in both.stderr) == (2, True)


def test_many_texts_go_through_the_model_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes: list[int] = []
    outputs = Predictor._run

    def counting(self: Predictor, samples: Any, progress: bool) -> Any:
        sizes.append(len(samples))
        return outputs(self, samples, progress)

    monkeypatch.setattr(Predictor, "_run", counting)
    (tmp_path / "many.txt").write_text("the red thing\n" * 200)
    for command in ("classify", "tag", "predict"):
        sizes.clear()
        model = "tags" if command == "tag" else "classes"
        given = (tmp_path / "many.txt",) if command == "predict" else ("-f", tmp_path / "many.txt")
        done(command, model, *given)
        assert sizes == [FIRST_CHUNK, 4 * FIRST_CHUNK, 200 - 5 * FIRST_CHUNK]
    sizes.clear()
    done("classify", "classes", "--batch-size", 1, stdin="red\nblue\nrome\n")
    assert sizes == [1, 1, 1]


def test_predictions_come_before_the_input_ends(home: Path) -> None:
    read: list[int] = []

    def endless() -> Iterator[Input]:
        for number in range(10**6):
            read.append(number)
            yield Input(f"pipe, line {number}", {"text": "red"})

    found = Predictor.from_pretrained(home / "classes").predict_inputs(endless(), chunk=2)
    assert [next(found)[0].place for _ in range(3)] == [f"pipe, line {n}" for n in range(3)]
    assert len(read) == 4


def test_encode_prints_json() -> None:
    result = run("encode", "plain", "texts.txt", "--json")
    assert result.exit_code == 0
    found = objects(result.stdout)
    assert [row["line"] for row in found] == [1, 2, 3, 4]
    assert [row.get("truncated") for row in found] == [None, None, None, True]
    assert "1 of 4 texts was longer than 64 tokens and was cut" in result.stderr
    expected = minilm.Encoder.from_pretrained("plain").encode(LINES[:3])
    torch.testing.assert_close(
        torch.tensor([row["vector"] for row in found[:3]]), torch.tensor(expected)
    )
    for wrong in ((), ("--json", "-o", "a.npy")):
        refused = run("encode", "plain", "texts.txt", *wrong)
        assert (refused.exit_code, "one of --output and --json" in refused.stderr) == (2, True)


COMMANDS = [
    ("predict", "classes", "texts.txt"),
    ("classify", "classes", "red"),
    ("tag", "tags", "red"),
    ("answer", "answers", "where", "context.txt"),
    ("encode", "plain", "context.txt", "--json"),
    ("fill-mask", "masks", "the [MASK]"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_device_threads_and_precision(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", said.append)
    dtypes: list[torch.dtype] = []
    loaded = minilm.models.pretrained.PretrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def noting(cls: Any, *arguments: Any, **options: Any) -> Any:
        model = loaded(cls, *arguments, **options)
        dtypes.append(model.dtype)
        return model

    monkeypatch.setattr(
        minilm.models.pretrained.PretrainedModel, "from_pretrained", classmethod(noting)
    )
    done(*command, "--device", "cpu", "--threads", 3, "--precision", "bfloat16")
    assert said == [3]
    assert dtypes == [torch.bfloat16]
    wrong = run(*command, "--device", "nonsense")
    assert (wrong.exit_code, "--device nonsense cannot be used here" in wrong.stderr) == (2, True)


def test_predict_says_which_columns_it_guesses(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("title,review,text,stars\nred,a thing,,5\n")
    assert run("predict", "classes", path).stderr.startswith("error:")
    path.write_text("title,review,stars\nred,a thing,5\nblue,a thing,1\n")
    result = run("predict", "classes", path)
    assert result.stderr == f"{path}, line 2: text from title, text_pair from review\n"
    assert [row["line"] for row in objects(result.stdout)] == [2, 3]
    for own in ("classes --text-column review", "classes --text-column title --pair-column review"):
        assert run("predict", *own.split()[:1], path, *own.split()[1:]).stderr == ""
    assert run("predict", "classes", "-", stdin="red\n").stderr == ""


def test_predictions_for_parquet_say_which_row(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "table.parquet"
    days = pandas.to_datetime(["2020-01-01", "2020-01-02"])
    pandas.DataFrame({"text": ["red", "blue"], "id": days}).to_parquet(path)
    found = objects(done("predict", "classes", path))
    assert [(row["row"], row["id"][:10]) for row in found] == [(1, "2020-01-01"), (2, "2020-01-02")]
    path = tmp_path / "list.json"
    path.write_text('[{"text": "red"}, {"text": "blue"}]')
    assert [row["record"] for row in objects(done("predict", "classes", path))] == [1, 2]


@pytest.mark.parametrize("command", [("predict", "classes"), ("classify", "classes", "-f")])
def test_texts_compressed_by_bzip2(command: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "texts.txt.BZ2"
    path.write_bytes(bz2.compress(b"red\nblue\n"))
    assert len(done(*command, path).splitlines()) == 2


def test_notes_on_columns_do_not_pile_up(home: Path) -> None:
    predictor = Predictor.from_pretrained(home / "classes")
    rows = [{"text": "red", f"key{n}": n} for n in range(20)]
    assert len(list(predictor.predict_each(rows))) == len(predictor.predict(rows)) == 20
    assert predictor.task.take_notes() == []


def test_a_predictor_takes_one_text_or_a_list(home: Path) -> None:
    predictor = Predictor.from_pretrained(home / "classes")
    texts = ["the red thing", "blue in rome"]
    one, several = predictor(texts[0]), predictor(texts)
    assert [found["label"] for found in several] == [predictor(text)["label"] for text in texts]
    assert several[0]["confidence"] == pytest.approx(one["confidence"], abs=1e-6)
    assert predictor([]) == []
    pairs = predictor(texts, ["it is", "very here"])
    assert pairs[1]["confidence"] == pytest.approx(
        predictor(texts[1], "very here")["confidence"], abs=1e-6
    )
    same = predictor(texts, "it is")
    assert same[0] == pairs[0]
    with pytest.raises(InputError, match="2 texts and 1 second text:"):
        predictor(texts, ["it is"])
    with pytest.raises(InputError, match="Item 1 is a int"):
        predictor(["red", 5])  # type: ignore[list-item]
