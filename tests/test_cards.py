"""Cards: what they say, that their head is YAML, and that a user's own text is never replaced."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import minilm
from minilm.cli import main
from minilm.cli.distill import command as distill
from minilm.recipes.card import (
    README,
    Card,
    command_line,
    is_hub_name,
    is_untouched,
    run_card,
    usage,
    write_card,
)
from minilm.recipes.distillation import DistillationRecipe
from minilm.recipes.settings import given_options
from saved import save_tiny
from task_data import colour_texts, save_start

WEIGHTS = Path(__file__).parent.parent / "weights"
SHIPPED = sorted(path.name for path in WEIGHTS.iterdir())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def head(text: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert found is not None, text[:200]
    values = yaml.safe_load(found[1])
    assert isinstance(values, dict)
    return values


def code(text: str) -> str:
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


# --- the text ---


def card(**changes: Any) -> Card:
    known: dict[str, Any] = {
        "class_name": "BertForSequenceClassification",
        "parameters": 1_234_567,
        "command": {"name": "finetune", "options": {"task": "classification", "train": "a.tsv"}},
        "steps": 50,
        "samples": 160,
        "scores": {"accuracy": 0.875, "loss": 0.25, "classes": {"a": {}}, "examples": 40},
    }
    return run_card("colours", **{**known, **changes})


def test_the_head_is_yaml_and_the_figures_have_units() -> None:
    text = card().text()
    assert head(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["minilm"],
        "metrics": ["accuracy"],
    }
    assert "1,234,567 parameters" in text
    assert "| accuracy | 87.5% |" in text
    assert "| loss (nats) | 0.250 |" in text
    assert "| examples | 40 |" in text
    assert "classes" not in text
    assert "minilm finetune --task classification --train a.tsv --output colours" in text
    assert "Licence" in text


@pytest.mark.parametrize("name", ['a"b', "a: b", "- x", "日本 #1", "tab\there", "😀", "yes", "1e3"])
def test_any_name_is_a_string_in_the_head(name: str) -> None:
    made = Card(name="x", summary="", use="", tags=[name], base_models=[name])
    found = head(made.text())
    clean = "".join(letter for letter in name if letter.isprintable())
    assert found["tags"] == ["minilm", clean]
    assert found["base_model"] == [clean]


def test_directories_of_this_machine_stay_out(tmp_path: Path) -> None:
    options = {
        "task": "classification",
        "train": str(tmp_path / "secret" / "train.tsv"),
        "model": str(tmp_path / "base"),
        "dev": "data/dev.tsv",
    }
    text = card(command={"name": "finetune", "options": options}).text()
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "--train train.tsv --model base --dev data/dev.tsv" in text  # relative: as it was given
    assert "base_model" not in head(text)


def test_a_run_from_python_shows_no_command() -> None:
    options = {"task": "classification", "model": "bert-base-uncased", "epochs": 2}
    text = card(command={"name": "finetune", "options": options}).text()
    assert "minilm finetune --" not in text
    assert "* epochs: 2" in text
    assert head(text)["base_model"] == ["bert-base-uncased"]


def test_what_is_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    names = ["albert/albert-base-v2", "bert-base-uncased"]
    others = ["here", "bert-mini", "/a/b", "../a", "a/b/c", None, ""]
    assert [name for name in [*names, *others] if is_hub_name(name)] == names


def test_a_command_is_written_as_it_is_typed() -> None:
    options = {"betas": [0.9, 0.98], "layers": [0, 5], "head-start": True, "text": "a b", "x": None}
    options |= {"exits": False}
    line = command_line("pretrain", options, "--output", "out")
    expected = (
        "minilm pretrain --betas 0.9 0.98 --layers 0,5 --head-start --text 'a b' --output out"
    )
    assert line == expected


def test_a_switch_that_is_turned_off_is_written_as_its_other_option() -> None:
    recipe = DistillationRecipe.released(corpus="store", teacher="bert-mini")
    words = command_line("distill", given_options(recipe), "--output", "out").split()
    assert {"--drop-token-types", "--freeze-positions"} <= set(words)
    assert "--fold-token-types" not in words
    parsed = distill.make_context("distill", words[2:]).params
    assert parsed["fold_token_types"] is False
    assert parsed["freeze_positions"] is True


# --- files ---


def test_a_card_is_renewed_until_somebody_edits_it(tmp_path: Path) -> None:
    said: list[str] = []
    assert write_card(tmp_path, card(), said.append) == README
    path = tmp_path / README
    assert is_untouched(path.read_text())
    assert write_card(tmp_path, card(steps=51), said.append) == README
    assert "51 updates" in path.read_text()
    assert said == []
    path.write_text(path.read_text().replace("51 updates", "51 of my updates"))
    assert write_card(tmp_path, card(steps=52), said.append) is None
    assert "51 of my updates" in path.read_text()
    assert "is not replaced" in said[0]
    path.write_text("My own notes.\n")
    assert write_card(tmp_path, card(), said.append) is None
    assert path.read_text() == "My own notes.\n"


@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "AlbertModel"])
def test_the_lines_of_code_run(
    class_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "it", class_name)
    exec(usage("it", class_name), {})  # noqa: S102


# --- what commands write ---


def test_fine_tuning_writes_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_start(tmp_path / "start")
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(each) + "\n" for each in colour_texts(24)))
    options = ["--task", "classification", "--model", "start", "--train", train, "--epochs", 1]
    result = run("finetune", *options, "--hold-out", 0.5, "--output", "out", "--batch-size", 4)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / README).read_text()
    assert str(tmp_path) not in text
    found = head(text)
    assert found["pipeline_tag"] == "text-classification"
    assert found["metrics"][0] == "accuracy"
    for words in ("--train train.jsonl", "* training: 12 examples", "| accuracy |", "--output out"):
        assert words in text
    exec(code(text), {})  # noqa: S102
    # the same command again renews it, unless it was edited
    path = tmp_path / "out" / README
    path.write_text("mine")
    again = run("finetune", *options, "--hold-out", 0.5, "--output", "out", "--batch-size", 4)
    assert again.exit_code == 0, again.output
    assert path.read_text() == "mine"


def test_fine_tuning_from_python_writes_a_card(tmp_path: Path) -> None:
    start = save_start(tmp_path / "start")
    settings = minilm.FinetuningSettings(epochs=1, batch_size=4)
    minilm.finetune("classification", start, colour_texts(8), tmp_path / "out", settings=settings)
    text = (tmp_path / "out" / README).read_text()
    assert str(tmp_path) not in text
    assert "started from Python" in text
    assert "* batch-size: 4" in text
    assert "Nothing was held out" in text


def test_pretraining_and_distilling_write_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n\n".join(f"The cat {n} runs over the hill. Then it sleeps." for n in range(40))
    Path("text.txt").write_text(text)
    tokenizer = minilm.train_tokenizer([Path("text.txt")], Path("words"), vocab_size=90)
    minilm.tokenize_corpus([Path("text.txt")], tokenizer, Path("store"), workers=1)
    loop = ["--steps", 2, "--held-out", 4, "--precision", "float32", "--max-length", 32]
    shape = ["--layers", 2, "--hidden-size", 16, "--heads", 2, "--positions", 32]
    made = run("pretrain", "--corpus", tmp_path / "store", "--output", "teacher", *shape, *loop)
    assert made.exit_code == 0, made.output
    text = Path("teacher", README).read_text()
    assert head(text)["pipeline_tag"] == "fill-mask"
    assert "minilm pretrain " in text
    assert "--corpus store " in text
    assert str(tmp_path) not in text
    assert "| accuracy at masked tokens |" in text
    assert "* held-out documents at the end of the store: 4" in text
    exec(code(text), {})  # noqa: S102
    made = run("distill", "--teacher", "teacher", "--corpus", "store", "--output", "small", *loop)
    assert made.exit_code == 0, made.output
    text = Path("small", README).read_text()
    assert "distillation" in head(text)["tags"]
    assert "--teacher teacher " in text


def test_conversion_keeps_the_head_of_its_source(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", "BertForMaskedLM")
    lines = "---\nlicense: mit\nlanguage: fr\n---\n\n# Mine\n\nText.\n\n```text\n# code\n```\n"
    (source / README).write_text(lines)
    result = run("convert", source, tmp_path / "new", "--dtype", "float16")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "new" / README) in result.stdout.splitlines()
    text = (tmp_path / "new" / README).read_text()
    assert head(text) == {"license": "mit", "language": "fr"}
    assert "### Mine" in text
    assert "\n# code\n" in text
    assert "minilm convert --dtype float16 source new" in text
    assert str(tmp_path) not in text
    assert is_untouched(text)
    # and of one that has none
    (source / README).unlink()
    assert run("convert", source, tmp_path / "other").exit_code == 0
    found = head((tmp_path / "other" / README).read_text())
    assert found["pipeline_tag"] == "fill-mask"
    assert "license" not in found


def test_a_conversion_to_8_bits_says_so(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", "BertForMaskedLM")
    (source / README).write_text("---\nlicense: mit\nlibrary_name: transformers\n---\n\n# Mine\n")
    assert run("convert", source, tmp_path / "small", "--dtype", "int8").exit_code == 0
    text = (tmp_path / "small" / README).read_text()
    assert head(text) == {"license": "mit", "library_name": "minilm"}
    assert "stored in 8 bits (int8)" in text
    # as it is stored, and back in 32 bits
    assert run("convert", tmp_path / "small", tmp_path / "again").exit_code == 0
    again = (tmp_path / "again" / README).read_text().split("## The card of")[0]
    assert "stored in 8 bits (int8)" in again
    options = ("--dtype", "float32")
    assert run("convert", tmp_path / "small", tmp_path / "back", *options).exit_code == 0
    back = (tmp_path / "back" / README).read_text().split("## The card of")[0]
    assert "8 bits" not in back
    assert head(back) == {"license": "mit", "library_name": "transformers"}


# --- the models of the repository ---


@pytest.mark.parametrize("name", SHIPPED)
def test_the_cards_of_the_shipped_models(name: str) -> None:
    text = (WEIGHTS / name / README).read_text()
    found = head(text)
    assert found["license"] == "apache-2.0"
    assert found["language"] == ["en"]
    assert "minilm" in found["tags"]
    assert found["datasets"] == ["wikipedia"]
    sentence = name == "sentence-mini"
    assert found["library_name"] == ("sentence-transformers" if sentence else "transformers")
    assert found["pipeline_tag"] == ("sentence-similarity" if sentence else "fill-mask")
    assert found["metrics"]
    assert "## Licence" in text
    assert "CC BY-SA" in text
    assert len([line for line in code(text).splitlines() if line.strip()]) <= 5
    exec(code(text), {})  # noqa: S102
