"""What uses a head refuses a checkpoint that does not store all of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import minilm
from minilm.cli import main
from minilm.compare.measure import CompareSettings, compare
from minilm.errors import CheckpointError
from minilm.loader import load_finetuned, missing_tensors
from task_data import colour_texts, quick, save_start

# architecture, head, what is not stored, as the hub spells it
CASES = [
    ("bert", "ForSequenceClassification", ["classifier.weight", "classifier.bias"]),
    ("bert", "ForSequenceClassification", ["classifier.bias"]),
    ("bert", "ForSequenceClassification", ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]),
    ("bert", "ForTokenClassification", ["classifier.weight"]),
    ("bert", "ForQuestionAnswering", ["qa_outputs.weight", "qa_outputs.bias"]),
    ("bert", "ForMultipleChoice", ["bert.pooler.dense.bias"]),
    ("distilbert", "ForSequenceClassification", ["pre_classifier.weight"]),
    ("distilbert", "ForSequenceClassification", ["pre_classifier.bias", "classifier.weight"]),
    ("distilbert", "ForTokenClassification", ["classifier.bias"]),
    ("distilbert", "ForQuestionAnswering", ["qa_outputs.bias"]),
    ("distilbert", "ForMultipleChoice", ["pre_classifier.weight"]),
    ("albert", "ForSequenceClassification", ["classifier.weight"]),
    ("albert", "ForSequenceClassification", ["albert.pooler.weight"]),
    ("albert", "ForTokenClassification", ["classifier.weight"]),
    ("albert", "ForQuestionAnswering", ["qa_outputs.weight"]),
    ("albert", "ForMultipleChoice", ["albert.pooler.bias", "classifier.bias"]),
]
IDS = [f"{kind}{head} {missing[0]}" for kind, head, missing in CASES]
COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "ForSequenceClassification": lambda path: ["classify", str(path), "the red"],
    "ForTokenClassification": lambda path: ["tag", str(path), "the red"],
    "ForQuestionAnswering": lambda path: ["answer", str(path), "where", str(path / "vocab.txt")],
    "ForMultipleChoice": lambda path: ["predict", str(path)],
}


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def leave_out(directory: Path, *names: str) -> Path:
    """The checkpoint without these tensors."""
    stored = load_file(directory / "model.safetensors")
    assert set(names) <= stored.keys()
    kept = {name: tensor for name, tensor in stored.items() if name not in names}
    save_file(kept, directory / "model.safetensors", {"format": "pt"})
    return directory


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(("architecture", "head", "missing"), CASES, ids=IDS)
def test_every_part_of_every_head(
    tmp_path: Path, architecture: str, head: str, missing: list[str]
) -> None:
    directory = save_start(tmp_path / "model", architecture, head)
    assert missing_tensors(load_finetuned(directory)) == []
    leave_out(directory, *missing)
    model = minilm.load(directory, new_parts="allow")
    assert sorted(missing_tensors(model)) == sorted(missing)
    for load in (load_finetuned, minilm.Predictor.from_pretrained):
        with pytest.raises(CheckpointError, match="does not store") as caught:
            load(directory)
        for name in missing:
            assert name in str(caught.value)
    refused(run(*COMMANDS[head](directory), stdin="{}"), *missing, type(model).__name__)


def test_an_encoder_that_config_json_calls_a_classifier(tmp_path: Path) -> None:
    directory = save_start(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (directory / "config.json").write_text(json.dumps(config))
    refused(run("classify", directory, "the red"), "classifier.weight, classifier.bias")
    config["architectures"] = ["BertModel"]
    (directory / "config.json").write_text(json.dumps(config))
    refused(run("classify", directory, "the red"), "BertModel", "no head for a task")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of colours and records for it, in one directory."""
    place = tmp_path_factory.mktemp("heads")
    save_start(place / "start")
    quick("classification", place / "start", colour_texts(24), place / "whole")
    lines = [json.dumps(record) + "\n" for record in colour_texts(12, 9)]
    (place / "data.jsonl").write_text("".join(lines))
    shutil.copytree(place / "whole", place / "headless")
    leave_out(place / "headless", "classifier.weight", "classifier.bias")
    return place


def test_evaluate_and_predict(classifier: Path) -> None:
    for command in ("evaluate", "predict"):
        whole = run(command, classifier / "whole", classifier / "data.jsonl")
        assert whole.exit_code == 0, whole.output
        headless = run(command, classifier / "headless", classifier / "data.jsonl")
        refused(headless, "does not store classifier.weight, classifier.bias")


def test_compare_on_a_task(classifier: Path) -> None:
    arguments = ["--texts", 2, "--rounds", 1, "--max-tokens", 200, "--no-memory"]
    data = ["--task", classifier / "data.jsonl"]
    assert run("compare", classifier / "whole", *data, *arguments).exit_code == 0
    headless = run("compare", classifier / "whole", classifier / "headless", *data, *arguments)
    refused(headless, "does not store classifier.weight, classifier.bias")
    assert run("compare", classifier / "headless", *arguments).exit_code == 0


@pytest.mark.parametrize("layers", [None, [0]])
def test_a_teacher(classifier: Path, tmp_path: Path, layers: Any) -> None:
    start = None if layers else classifier / "start"
    with pytest.raises(CheckpointError, match="does not store classifier.weight, classifier.bias"):
        quick("classification", start, colour_texts(24), tmp_path / "out",
              teacher=classifier / "headless", layers=layers)  # fmt: skip
    assert not (tmp_path / "out").exists()
    quick("classification", start, colour_texts(24), tmp_path / "out",
          teacher=classifier / "whole", layers=layers)  # fmt: skip


def test_a_start_for_fine_tuning_may_lack_its_head(classifier: Path, tmp_path: Path) -> None:
    done = quick("classification", classifier / "headless", colour_texts(24), tmp_path / "out")
    assert done.finished


def test_compare_leaves_out_what_no_stored_head_says(tmp_path: Path) -> None:
    text = ["\n".join("the red thing is in rome . it is very here . a blue thing" for _ in "abc")]
    text += [". ".join(f"The {c} is in it" for c in "abcdefghijklmnop") + "."]
    settings = CompareSettings(texts=2, rounds=1, memory=False)
    names = {
        "whole": [],
        "no order": ["sop_classifier.classifier.weight"],
        "no pooler": ["albert.pooler.weight"],
        "no words": ["predictions.dense.weight"],
    }
    for name, missing in names.items():
        save_start(tmp_path / name, "albert", "ForPreTraining")
        if missing:
            leave_out(tmp_path / name, *missing)
    found = compare([tmp_path / name for name in names], text, settings)["models"]
    whole, order, pooler, words = (model["scores"] for model in found)
    assert whole["pairs"] > 0
    assert whole["sentence_order_accuracy"] is not None
    for scores in (order, pooler):
        assert (scores["sentence_order_accuracy"], scores["pairs"]) == (None, 0)
        assert scores["masked_loss"] == whole["masked_loss"]
    assert words is None
