"""`minilm finetune`, `evaluate`, `predict`, `classify`, `tag` and `answer` from end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from click.testing import CliRunner, Result

import minilm
from minilm.cli import main
from minilm.cli.finetune import TASKS as NAMES
from minilm.tasks.catalogue import TASKS
from task_data import (
    Record,
    colour_pairs,
    colour_sets,
    colour_texts,
    questions,
    red_counts,
    save_start,
    tagged_words,
    utterances,
)

LOOP = ["--precision", "float32", "--learning-rate", 0.01, "--batch-size", 8]


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def finetune(task: str, train: object, output: object, *more: object) -> Result:
    return run("finetune", "--task", task, "--model", "start", "--train", train, "--output", output,
               *LOOP, *more)  # fmt: skip


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result, *words: str) -> None:
    """Explained in a message, not by a traceback."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write_table(path: Path, rows: Sequence[Record], *columns: str) -> None:
    lines = ["\t".join(columns), *("\t".join(str(row[c]) for c in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Record]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_conll(path: Path, rows: Sequence[Record]) -> None:
    sentences = [
        "".join(f"{word}\t{tag}\n" for word, tag in zip(row["tokens"], row["tags"], strict=True))
        for row in rows
    ]
    path.write_text("\n".join(sentences), encoding="utf-8")


def write_squad(path: Path, rows: Sequence[Record]) -> None:
    paragraphs = [
        {"context": row["context"], "qas": [{**row, "is_impossible": not row["answers"]}]}
        for row in rows
    ]
    data = [{"title": "t", "paragraphs": paragraphs}]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data in many formats and models made by the command."""
    place = tmp_path_factory.mktemp("commands")
    save_start(place / "start")
    for name, count, seed in (("train", 120, 1), ("dev", 24, 50)):
        write_table(place / f"{name}.tsv", colour_texts(count, seed), "text", "label")
        write_lines(place / f"{name}.jsonl", colour_texts(count, seed))
        write_conll(place / f"{name}.conll", tagged_words(count, seed))
        write_squad(place / f"{name}.json", questions(count, seed))
    rows = utterances(40)
    (place / "spoken").mkdir()
    for file, key in (("seq.in", "tokens"), ("seq.out", "tags"), ("label", "intent")):
        lines = [row[key] if key == "intent" else " ".join(row[key]) for row in rows]
        (place / "spoken" / file).write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        done(finetune("classification", "train.tsv", "colours", "--dev", "dev.tsv", "--epochs", 6))
        done(finetune("tagging", "train.conll", "tags", "--dev", "dev.conll", "--epochs", 6))
        done(finetune("answering", "train.json", "answers", "--dev", "dev.json", "--epochs", 6))
    return place


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.mark.parametrize(
    "command", ["finetune", "evaluate", "predict", "classify", "tag", "answer"]
)
def test_help_shows_an_example_that_is_right(command: str) -> None:
    shown = done(run(command, "--help")).stdout
    assert "Example" in shown
    assert f"  minilm {command} " in shown or f"| minilm {command} " in shown


def test_the_command_knows_all_tasks() -> None:
    assert set(NAMES) == set(TASKS)


# --- finetune ---


def test_finetune_prints_scores_and_leaves_a_model(tmp_path: Path) -> None:
    result = done(finetune("classification", "train.tsv", tmp_path / "a", "--dev", "dev.tsv",
                           "--epochs", 2))  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[0].startswith("accuracy  ")
    assert [line.split()[0] for line in lines[-4:]] == ["class", "blue", "green", "red"]
    assert "training: 120 examples" in result.stderr
    assert "dev: 24 examples" in result.stderr
    assert "weights after step" in result.stderr
    assert minilm.load(tmp_path / "a").config.id2label == {0: "blue", 1: "green", 2: "red"}
    again = run("finetune", "--task", "classification", "--model", "start", "--train", "train.tsv",
                "--output", tmp_path / "a", *LOOP, "--dev", "dev.tsv", "--epochs", 2)  # fmt: skip
    assert "all steps are done" in again.stderr
    assert done(again).stdout == result.stdout


def test_finetune_and_evaluate_agree_in_json(tmp_path: Path) -> None:
    result = done(finetune("classification", "train.jsonl", tmp_path / "a", "--dev", "dev.jsonl",
                           "--epochs", 1, "--json"))  # fmt: skip
    found = json.loads(result.stdout)
    assert found["output"] == str(tmp_path / "a")
    assert [run["steps"] for run in found["runs"]] == [15]
    scores = json.loads(done(run("evaluate", tmp_path / "a", "dev.tsv", "--json")).stdout)
    assert scores.pop("truncated") == 0
    assert scores.keys() == found["scores"].keys()
    assert scores["confusion"] == found["scores"]["confusion"]
    assert scores["accuracy"] == found["scores"]["accuracy"] == found["runs"][0]["accuracy"]
    assert sum(map(sum, scores["confusion"])) == scores["examples"] == 24


def test_without_dev_nothing_is_printed(tmp_path: Path) -> None:
    result = done(finetune("regression", write_counts(tmp_path), tmp_path / "a", "--epochs", 1))
    assert result.stdout == ""
    assert "weights after step 2 of 2" in result.stderr
    result = done(finetune("regression", write_counts(tmp_path), tmp_path / "b", "--epochs", 1,
                           "--json"))  # fmt: skip
    assert json.loads(result.stdout)["scores"] == {}


def write_counts(directory: Path) -> Path:
    write_lines(directory / "counts.jsonl", red_counts(16))
    return directory / "counts.jsonl"


def test_finetune_with_every_option(tmp_path: Path) -> None:
    result = finetune(
        "classification", "train.tsv", tmp_path / "a", "--hold-out", 0.25, "--teacher", "colours",
        "--temperature", 3, "--soft-targets", 0.25, "--labels", 0.75, "--epochs", 1, "--warmup",
        0.2, "--max-length", 30, "--evaluate-every", 5, "--snapshot-every", 4, "--select", "loss",
        "--patience", 9, "--balance", "weights", "--freeze-embeddings", "--freeze-layers", 1,
        "--out-of-scope", "red", "--schedule", "constant", "--accumulation", 2, "--weight-decay",
        0.1, "--seed", 4, "--log-every", 1, "--threads", 1, "--device", "cpu", "--format", "tsv",
        "--text-column", "text", "--label-column", "label", "--delimiter", "\\t", "--encoding",
        "utf-8", "--on-bad-record", "skip", "--json",
    )  # fmt: skip
    found = json.loads(done(result).stdout)
    assert found["scores"]["examples"] == 30
    assert "out_of_scope_recall" in found["scores"]
    stored = json.loads((tmp_path / "a/run/settings.json").read_text())
    settings, description = stored["settings"], stored["description"]
    assert (settings["steps"], settings["warmup"], settings["patience"]) == (12, 2, 9)
    assert (settings["select"], settings["seed"], settings["accumulation"]) == ("loss", 4, 2)
    assert (settings["schedule"], settings["weight_decay"]) == ("constant", 0.1)
    assert (settings["evaluate_every"], settings["snapshot_every"]) == (5, 4)
    assert description["soft_targets"] == {"temperature": 3, "weight": 0.25, "label_weight": 0.75}
    assert (description["freeze_embeddings"], description["freeze_layers"]) == (True, 1)
    assert description["balance"] == stored["data"]["balance"] == "weights"
    fields = {"label": ["label"], "text": ["text"]}
    wanted = {"fields": fields, "max_length": 30, "out_of_scope": "red", "min_confidence": 0.0}
    wanted |= {"texts": [1]}
    assert description["settings"] == wanted


def test_several_seeds_give_mean_and_deviation(tmp_path: Path) -> None:
    rows = colour_texts(40)
    rows[7]["label"] = ""
    write_table(tmp_path / "train.tsv", rows, "text", "label")
    result = done(finetune("classification", tmp_path / "train.tsv", tmp_path / "a", "--dev",
                           "dev.tsv", "--epochs", 1, "--seeds", 2, "--seed", 5, "--json",
                           "--on-bad-record", "skip"))  # fmt: skip
    found = json.loads(result.stdout)
    assert [Path(run["output"]).name for run in found["runs"]] == ["seed-5", "seed-6"]
    assert all((tmp_path / "a" / name / "task.json").exists() for name in ("seed-5", "seed-6"))
    for name in ("accuracy", "macro_f1"):
        values = [run[name] for run in found["runs"]]
        assert found["scores"][name] == pytest.approx(
            {"mean": fmean(values), "deviation": stdev(values), "lowest": min(values),
             "highest": max(values)}
        )  # fmt: skip
    assert found["runs"][0]["calibration_error"] != found["runs"][1]["calibration_error"]
    assert result.stderr.count("1 of 64 records skipped: 1 no proper label") == 2
    assert "seed 6" in result.stderr
    table = done(finetune("classification", "train.tsv", tmp_path / "b", "--dev", "dev.tsv",
                          "--epochs", 1, "--seeds", 2)).stdout  # fmt: skip
    assert " ± " in table.splitlines()[0]
    assert table.splitlines()[0].startswith("accuracy  ")


def test_a_share_is_held_out(tmp_path: Path) -> None:
    result = done(finetune("classification", "train.tsv", tmp_path / "a", "--hold-out", 0.1,
                           "--epochs", 1, "--json"))  # fmt: skip
    assert json.loads(result.stdout)["scores"]["examples"] == 12
    assert "training: 108 examples" in result.stderr


def test_a_student_of_a_teacher(tmp_path: Path) -> None:
    result = done(run("finetune", "--task", "classification", "--teacher", "colours", "--layers",
                      "0, 1", "--train", "train.tsv", "--dev", "dev.tsv", "--output",
                      tmp_path / "a", *LOOP, "--epochs", 1))  # fmt: skip
    assert result.stdout.startswith("accuracy")
    config = minilm.load(tmp_path / "a").config
    assert (config.model_type, config.num_hidden_layers) == ("distilbert", 2)


def test_every_task_is_a_command_away(tmp_path: Path) -> None:
    write_lines(tmp_path / "sets.jsonl", colour_sets(16))
    choices = [{"prompt": "a", "choices": ["red", "a", "b"], "label": n % 2} for n in range(9)]
    write_lines(tmp_path / "choices.jsonl", choices)
    write_table(tmp_path / "pairs.tsv", colour_pairs(16), "text", "text_pair", "label")
    cases = [
        ("multi-label", tmp_path / "sets.jsonl", "micro f1"),
        ("choice", tmp_path / "choices.jsonl", "accuracy"),
        ("classification", tmp_path / "pairs.tsv", "accuracy"),
        ("regression", write_counts(tmp_path), "spearman"),
        ("utterances", "spoken", "both right"),
    ]
    for number, (task, train, metric) in enumerate(cases):
        result = done(finetune(task, train, tmp_path / str(number), "--hold-out", 0.2, "--epochs",
                               1))  # fmt: skip
        assert metric in result.stdout
        scored = done(run("evaluate", tmp_path / str(number), train))
        assert metric in scored.stdout
        predicted = objects(done(run("predict", tmp_path / str(number), train)).stdout)
        assert len(predicted) == {"choice": 9, "utterances": 40}.get(task, 16)


# --- columns, encodings, bad files ---


def test_columns_by_name_and_by_number(tmp_path: Path) -> None:
    rows = [{"stars": row["label"], "id": n, "review": row["text"]}
            for n, row in enumerate(colour_texts(24))]  # fmt: skip
    write_table(tmp_path / "a.tsv", rows, "stars", "id", "review")
    names = ["--text-column", "review", "--label-column", "stars"]
    done(finetune("classification", tmp_path / "a.tsv", tmp_path / "a", "--epochs", 1, *names))
    found = objects(done(run("predict", "colours", tmp_path / "a.tsv", *names)).stdout)
    assert [row["id"] for row in found] == [str(n) for n in range(24)]
    right = [row["label"] == wanted["stars"] for row, wanted in zip(found, rows, strict=True)]
    assert sum(right) > 20
    text = "\n".join(f"{row['stars']};{row['review']}" for row in rows)
    (tmp_path / "b.csv").write_text(text)
    numbers = ["--no-header", "--delimiter", ";", "--text-column", 2, "--label-column", 1]
    scores = done(run("evaluate", "colours", tmp_path / "b.csv", *numbers, "--json"))
    assert json.loads(scores.stdout)["examples"] == 24
    assert json.loads(scores.stdout)["accuracy"] == sum(right) / 24
    refused(
        run("evaluate", "colours", tmp_path / "a.tsv", "--text-column", "Review"),
        "a.tsv, line 2: There is no field 'Review' for text; it has 'stars', 'id', 'review'.",
    )
    # both names are among those that are known
    found = done(run("evaluate", "colours", tmp_path / "a.tsv", "--json"))
    assert json.loads(found.stdout)["examples"] == 24


def test_pairs_by_column(tmp_path: Path) -> None:
    rows = [{"a": row["text"], "b": row["text_pair"], "label": row["label"]}
            for row in colour_pairs(16)]  # fmt: skip
    write_table(tmp_path / "a.tsv", rows, "a", "b", "label")
    result = done(finetune("classification", tmp_path / "a.tsv", tmp_path / "a", "--epochs", 1,
                           "--text-column", "a", "--pair-column", "b", "--max-length",
                           24))  # fmt: skip
    assert "training: 16 examples" in result.stderr
    found = done(run("classify", tmp_path / "a", "the red thing", "--pair", "a blue thing"))
    assert found.stdout.count("\t") == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no record in it"]),
        ("text\tlabel\n", ["no record in it"]),
        ("text\tlabel\na\tred\nb\n", ["line 3: expected 2 fields, found 1", "ragged"]),
        ("text\tlabel\na\tred\nb\tblue\tx\n", ["line 3: expected 2 fields, found 3"]),
        ("text\ttext\na\tred\n", ["line 1: the header has 2 columns 'text'"]),
        ("words\tlabel\na\tred\nb\tblue\n", ["line 2: There is no 'text'", "--text-column"]),
        ("text\tclasses\na\tred\nb\tblue\n", ["There is no 'label'", "--label-column"]),
        ("text\tlabel\na\tred\nb\tred\n", ["1 label (red)", "nothing to tell apart"]),
        ("text\tlabel\na\tred\n \tblue\n", ["line 3: text is empty"]),
        ("text\tlabel\na\tred\nb\tblue\nc\t\n", ["line 4: The label is ''"]),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "a.tsv").write_text(text)
    result = finetune("classification", tmp_path / "a.tsv", tmp_path / "out")
    refused(result, *[word for word in words if word != "ragged"])
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_bad_records_of_a_file_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [f"{row['text']}\t{row['label']}" for row in colour_texts(12)]
    bad = ["ragged", "a\tred\tx", "\tred", " \tblue"]
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *rows[:6], *bad, *rows[6:]]))
    result = done(finetune("classification", tmp_path / "a.tsv", tmp_path / "out", "--epochs", 1,
                           "--on-bad-record", "skip"))  # fmt: skip
    assert "4 of 16 records skipped: 2 ragged row, 2 empty text; first: " in result.stderr
    assert "a.tsv, line 8: expected 2 fields, found 1." in result.stderr
    assert "training: 12 examples" in result.stderr
    result = done(run("evaluate", "colours", tmp_path / "a.tsv", "--on-bad-record", "skip",
                      "--json"))  # fmt: skip
    assert json.loads(result.stdout)["examples"] == 12
    assert "4 of 16 records skipped" in result.stderr
    (tmp_path / "b.tsv").write_text("text\tlabel\n\tred\n \tblue\n")
    refused(finetune("classification", tmp_path / "b.tsv", tmp_path / "b", "--on-bad-record",
                     "skip"), "nothing to train on. 2 of 2 records skipped: 2 empty")  # fmt: skip


def test_bytes_of_another_encoding(tmp_path: Path) -> None:
    lines = ["text\tlabel", *(f"thé {row['text']}\t{row['label']}" for row in colour_texts(8))]
    mixed = "\n".join(lines[:4]).encode() + b"\n" + "\n".join(lines[4:]).encode("latin-1")
    (tmp_path / "a.tsv").write_bytes(mixed)
    refused(finetune("classification", tmp_path / "a.tsv", tmp_path / "a"),
            "a.tsv, line 5: byte 3 (0xe9) is not UTF-8", "--encoding latin-1")  # fmt: skip
    (tmp_path / "b.tsv").write_bytes("\n".join(lines).encode("latin-1"))
    result = done(run("predict", "colours", tmp_path / "b.tsv", "--encoding", "latin-1"))
    assert len(objects(result.stdout)) == 8
    refused(run("predict", "colours", stdin=b"th\xe9\n"), "standard input, line 1: byte 3 (0xe9)")
    refused(
        run("predict", "colours", tmp_path / "b.tsv", "--encoding", "rot"), "not a text encoding"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "start", "--layers", "0"], ["--model or --layers, not both"]),
        ([], ["--model", "--teacher and --layers"]),
        (["--layers", "0"], ["--layers needs a --teacher"]),
        (["--model", "start", "--dev", "dev.tsv", "--hold-out", 0.1], ["not both"]),
        (["--model", "start", "--hold-out", 1], ["--hold-out"]),
        (["--model", "start", "--patience", 2], ["give --dev or --hold-out"]),
        (["--model", "start", "--evaluate-every", 2], ["--evaluate-every", "give --dev or"]),
        (["--model", "start", "--select", "f7", "--dev", "dev.tsv"], ["select is 'f7'"]),
        (["--model", "start", "--max-length", 65], ["--max-length is 65", "1 to 64"]),
        (["--model", "start", "--out-of-scope", "pink"], ["--out-of-scope is 'pink'"]),
        (["--model", "start", "--teacher", "start"], ["with no head for classification"]),
        (["--model", "start", "--teacher", "tags"], ["with no head for classification"]),
        (["--model", "start", "--balance", "some"], ["'some'", "weights"]),
        (["--model", "start", "--format", "xml"], ["no format 'xml'", "tsv"]),
        (
            ["--model", "start", "--repair-offsets"],
            ["--repair-offsets is not for the format tsv", "--delimiter, --no-header, --quoting"],
        ),
        (["--model", "start", "--dev", "nowhere.tsv"], ["nowhere.tsv does not exist"]),
        (["--model", "start", "--freeze-layers", 3], ["The model has 2 layers"]),
        (["--teacher", "colours", "--layers", "some"], ["some"]),
        (["--teacher", "colours", "--layers", "5"], ["5"]),
        (["--model", "start", "--temperature", 0], ["--temperature"]),
    ],
)
def test_wrong_use_of_finetune(tmp_path: Path, options: list[object], words: list[str]) -> None:
    refused(run("finetune", "--task", "classification", "--train", "train.tsv", "--output",
                tmp_path / "out", *LOOP, *options), *words)  # fmt: skip


def test_a_task_must_be_one(tmp_path: Path) -> None:
    refused(finetune("sorting", "train.tsv", tmp_path / "out"), "'sorting'", "multi-label")
    refused(finetune("classification", "train.tsv", "start"), "start holds config.json")
    refused(finetune("tagging", "train.conll", tmp_path / "out", "--balance", "sampling"),
            "tagging has not one class")  # fmt: skip
    refused(finetune("regression", write_counts(tmp_path), tmp_path / "out", "--balance",
                     "weights"), "regression has no classes")  # fmt: skip


# --- evaluate ---


def test_evaluate_prints_a_table_and_the_confusion() -> None:
    result = done(run("evaluate", "colours", "dev.tsv", "--confusion"))
    lines = result.stdout.splitlines()
    assert lines[0].startswith("accuracy ")
    at = next(n for n, line in enumerate(lines) if line.startswith("rows: true"))
    assert [line.split()[0] for line in lines[at + 1 :]] == ["blue", "green", "red"]
    counts = [int(cell) for line in lines[at + 1 :] for cell in line.split()[1:]]
    assert (len(counts), sum(counts)) == (9, 24)
    assert result.stderr == "text from text, label from label\n"
    found = json.loads(done(run("evaluate", "tags", "dev.conll", "--json")).stdout)
    assert found["f1"] > 0.8
    assert set(found["classes"]) == {"COL", "LOC"}
    found = json.loads(done(run("evaluate", "answers", "dev.json", "--json")).stdout)
    assert found["exact"] > 80


def test_evaluate_refuses_what_does_not_fit() -> None:
    refused(run("evaluate", "start", "dev.tsv"), "no head for a task", "minilm finetune --help")
    refused(run("evaluate", "colours", "dev.conll"), "There is no 'text'")
    refused(run("evaluate", "colours", "nowhere.tsv"), "nowhere.tsv does not exist")
    refused(run("evaluate", "nowhere", "dev.tsv"), "nowhere")
    refused(run("evaluate", "tags", "dev.conll", "--confusion"), "tagging has no confusion matrix")
    for command in ("evaluate", "predict"):
        refused(run(command, "colours", "dev.tsv", "--min-confidence", 0.5),
                "was not fine-tuned with --out-of-scope")  # fmt: skip


def test_unsure_predictions_are_out_of_scope(tmp_path: Path) -> None:
    done(finetune("classification", "train.tsv", tmp_path / "a", "--epochs", 1, "--out-of-scope",
                  "red"))  # fmt: skip
    texts = "the blue thing\nthe green thing\n"
    sure = objects(done(run("predict", tmp_path / "a", stdin=texts)).stdout)
    limit = sorted(row["confidence"] for row in sure)
    least = sum(limit) / 2
    found = objects(done(run("predict", tmp_path / "a", "--min-confidence", least,
                             stdin=texts)).stdout)  # fmt: skip
    for before, after in zip(sure, found, strict=True):
        wanted = before["label"] if before["confidence"] >= least else "red"
        assert after == {**before, "label": wanted}
    scores = json.loads(done(run("evaluate", tmp_path / "a", "dev.tsv", "--min-confidence", 1,
                                 "--json")).stdout)  # fmt: skip
    assert scores["in_scope_accuracy"] == 0
    assert scores["out_of_scope_recall"] == 1


# --- predict ---


def test_predict_from_standard_input_keeps_order_and_ids() -> None:
    lines = ['{"text": "the red thing is here"}', "", '{"id": 7, "text": "the blue thing is here"}',
             '  {"id": "x", "text": "the green thing is here", "label": "?"}']  # fmt: skip
    jsonl = ("--format", "jsonl")
    result = done(run("predict", "colours", *jsonl, stdin="\r\n".join(lines)))
    found = objects(result.stdout)
    assert [row.get("label") for row in found] == ["red", None, "blue", "green"]
    assert [row.get("id") for row in found] == [None, None, 7, "x"]
    assert [row["line"] for row in found] == [1, 2, 3, 4]
    assert result.stderr == "1 blank line without a prediction\n"
    again = run("predict", "colours", "-", *jsonl, stdin="\n".join(lines))
    assert objects(done(again).stdout) == found
    named = '{"review": "the red thing is here", "text": "blue"}\n'
    found = objects(done(run("predict", "colours", "--text-column", "review", stdin=named)).stdout)
    assert [row["label"] for row in found] == ["red"]
    assert done(run("predict", "colours", stdin="")).stdout == ""


def test_predict_from_files_keeps_order() -> None:
    tables = done(run("predict", "colours", "dev.tsv")).stdout
    lines = objects(done(run("predict", "colours", "dev.jsonl")).stdout)
    # a table has a header
    assert objects(tables) == [{**row, "line": row["line"] + 1} for row in lines]
    wanted = [row["label"] for row in colour_texts(24, 50)]
    found = [row["label"] for row in objects(tables)]
    assert len(found) == 24
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) > 20
    rows = objects(done(run("predict", "answers", "dev.json")).stdout)
    assert [row["id"] for row in rows] == [f"q{n}" for n in range(24)]
    rows = objects(done(run("predict", "tags", "dev.conll")).stdout)
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in tagged_words(24, 50)]


def test_predict_reads_files_without_answers(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("id", "question", "context")} for row in questions(5)]
    paragraphs = [{"context": row["context"], "qas": [row]} for row in rows]
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    assert len(objects(done(run("predict", "answers", tmp_path / "a.json")).stdout)) == 5
    (tmp_path / "a.conll").write_text("the\nred\n\nin\nparis\n")
    found = objects(done(run("predict", "tags", tmp_path / "a.conll")).stdout)
    assert [row["tokens"] for row in found] == [["the", "red"], ["in", "paris"]]
    (tmp_path / "a.tsv").write_text("text\nthe red thing\n")
    assert len(objects(done(run("predict", "colours", tmp_path / "a.tsv")).stdout)) == 1


def test_predict_leaves_out_bad_records(tmp_path: Path) -> None:
    rows: list[Record] = [{"id": n, "text": text} for n, text in
                          enumerate(["a red thing", " ", "a blue thing", None, 5])]  # fmt: skip
    write_lines(tmp_path / "a.jsonl", rows)
    refused(run("predict", "tags", tmp_path / "a.jsonl", "--text-column", "words"), "'words'")
    result = run("predict", "colours", tmp_path / "a.jsonl")
    assert (result.exit_code, "a.jsonl, line 2: text is empty" in result.stderr) == (2, True)
    result = done(run("predict", "colours", tmp_path / "a.jsonl", "--on-bad-record", "skip"))
    found = objects(result.stdout)
    assert [row["id"] for row in found] == [0, 1, 2, 3, 4]
    assert ["error" in row for row in found] == [False, True, False, True, True]
    assert found[1]["error"].endswith(
        "a.jsonl, line 2: text is empty. Remove the record or skip it."
    )
    assert '3 records skipped: see "error" in the output' in result.stderr
    lines = '{"text": "the red thing"}\n{"id": 1, "colour": "a"}\n'
    result = done(
        run("predict", "colours", "--format", "jsonl", "--on-bad-record", "skip", stdin=lines)
    )
    assert ["error" in row for row in objects(result.stdout)] == [False, True]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a"', ["standard input, line 2:", "Expected JSON"]),
        ('{"text": "a", "text": "b"}', ["line 2: the key 'text' occurs 2 times"]),
        ('{"id": "\\ud800", "text": "a"}', ["line 2: half a surrogate pair"]),
        ('{"id": NaN, "text": "a"}', ["line 2: NaN is not a finite number"]),
    ],
)
def test_predict_names_the_line_that_is_no_json(line: str, words: list[str]) -> None:
    stdin = f'{{"text": "a red thing"}}\n{line}\n{{"text": "a blue thing"}}\n'
    result = run("predict", "colours", "--format", "jsonl", stdin=stdin)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert [row["line"] for row in objects(result.stdout)] == [1]
    for word in words:
        assert word in result.stderr
    result = run("predict", "colours", "--format", "jsonl", "--on-bad-record", "skip", stdin=stdin)
    assert ["error" in row for row in objects(done(result).stdout)] == [False, True, False]


# --- the short forms ---


def test_classify() -> None:
    result = done(run("classify", "colours", "the red thing is here", "the blue thing is here"))
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [
        ("red", "the red thing is here"),
        ("blue", "the blue thing is here"),
    ]
    assert all(0.5 < float(row[1]) <= 1 for row in rows)
    again = done(
        run("classify", "colours", stdin="the red thing is here\n\nthe blue thing is here")
    )
    assert again.stdout.splitlines()[1] == "-\t-\t"
    labels = [line.split("\t")[0] for line in again.stdout.splitlines()]
    assert labels == [rows[0][0], "-", rows[1][0]]
    found = objects(done(run("classify", "colours", "the red thing is here", "--json")).stdout)
    assert [(row["text"], row["label"]) for row in found] == [("the red thing is here", "red")]
    refused(run("classify", "colours", " "), "text is empty")
    refused(run("classify", "tags", "a"), "was fine-tuned for tagging, not for classification or")


def test_classify_says_values_labels_and_intents(tmp_path: Path) -> None:
    done(finetune("regression", write_counts(tmp_path), tmp_path / "value", "--epochs", 1))
    value, text = done(run("classify", tmp_path / "value", "red blue")).stdout.strip().split("\t")
    assert text == "red blue"
    assert -5 < float(value) < 5
    write_lines(tmp_path / "sets.jsonl", [{"text": "the thing", "labels": []}] * 20 +
                [{"text": "red", "labels": ["red"]}])  # fmt: skip
    done(finetune("multi-label", tmp_path / "sets.jsonl", tmp_path / "sets", "--epochs", 4))
    assert done(run("classify", tmp_path / "sets", "the thing")).stdout == "-\tthe thing\n"
    done(finetune("utterances", "spoken", tmp_path / "spoken", "--epochs", 4))
    refused(run("classify", tmp_path / "spoken", "go", "--pair", "stop"), "takes one text")
    assert (
        "rows: true" in done(run("evaluate", tmp_path / "spoken", "spoken", "--confusion")).stdout
    )
    shown = done(run("classify", tmp_path / "spoken", "is the red thing in paris")).stdout
    assert shown.split("\t")[0] in ("ask", "tell", "other")
    tags = done(run("tag", tmp_path / "spoken", "is the red thing in paris", "--json")).stdout
    assert json.loads(tags)["intent"] == shown.split("\t")[0]


def test_tag() -> None:
    text = "the red in Paris and it"
    result = done(run("tag", "tags", text))
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:4] for row in rows] == [["4", "7", "COL", "red"], ["11", "16", "LOC", "Paris"]]
    lines = done(run("tag", "tags", stdin=f"\n{text}\n")).stdout.splitlines()
    assert [line.split("\t")[:5] for line in lines] == [["2", *row[:4]] for row in rows]
    found = json.loads(done(run("tag", "tags", text, "--json")).stdout)
    assert found["text"] == text
    assert found["tags"] == ["O", "B-COL", "O", "B-LOC", "O", "O"]
    refused(run("tag", "colours", text), "was fine-tuned for classification", "minilm predict")


def test_tag_without_entities(tmp_path: Path) -> None:
    rows = [{"tokens": ["the", "red"], "tags": ["DET", "ADJ"]}] * 16
    write_lines(tmp_path / "a.jsonl", rows)
    done(finetune("tagging", tmp_path / "a.jsonl", tmp_path / "a", "--epochs", 8))
    assert done(run("tag", tmp_path / "a", "the red")).stdout == "the/DET red/ADJ\n"


def test_answer(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the thing is in rome and\nit is very here", encoding="utf-8")
    result = done(run("answer", "answers", "it is in", text))
    shown, confidence, span = result.stdout.strip().split("\t")
    assert (shown, span) == ("rome", "16-20")
    assert 0.3 < float(confidence) <= 1
    assert done(run("answer", "answers", "it is in", "-", stdin=text.read_text())).stdout == (
        result.stdout
    )
    assert len(done(run("answer", "answers", "it is in", text, "--n-best", 4)).stdout.split("\n")
               ) == 5  # fmt: skip
    found = json.loads(done(run("answer", "answers", "it is in", text, "--n-best", 3,
                                "--json")).stdout)  # fmt: skip
    assert (found["answer"], len(found["n_best"])) == ("rome", 3)
    text.write_text("the thing is here and it is very here")
    result = done(run("answer", "answers", "it is in", text))
    assert result.stdout.startswith("-\t")
    assert result.stdout.endswith("no answer in the text\n")
    refused(run("answer", "answers", "it is in", "nowhere.txt"), "nowhere.txt")
    refused(run("answer", "answers", " ", text), "question is empty")
    text.write_text("\n")
    refused(run("answer", "answers", "it is in", text), "context is empty")
    refused(run("answer", "colours", "it is in", text), "was fine-tuned for classification")
