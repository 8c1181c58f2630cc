"""`minilm compare`: what is measured is what it says, in every form of output."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import assume, given, strategies as st

import minilm
from minilm.cli import main
from minilm.cli.compare import _task_names
from minilm.compare.measure import CompareSettings, compare, component_sizes
from minilm.compare.page import page
from minilm.compare.report import markdown, table, table_rows
from minilm.compare.scatter import LEFT, _ticks, scatter
from minilm.compare.text_scores import help_topics, score_text
from minilm.errors import CheckpointError, InputError
from minilm.models.pretrained import PretrainedModel

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
SMALL = CompareSettings(texts=4, rounds=1, max_tokens=2000, memory=False)
FAST = ["--texts", "4", "--rounds", "1", "--max-tokens", "2000", "--no-memory"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT, a DistilBERT and an ALBERT with one vocabulary, the first two with cards."""
    place = tmp_path_factory.mktemp("compare")
    (place / "text.txt").write_text("\n\n".join(help_topics()[:12]))
    tokenizer = minilm.train_tokenizer([place / "text.txt"], place / "vocabulary", vocab_size=300)
    torch.manual_seed(0)
    models: dict[str, PretrainedModel] = {
        "teacher": minilm.BertForMaskedLM(minilm.BertConfig(num_hidden_layers=4, **SHAPE)),
        "student": minilm.DistilBertForMaskedLM(
            minilm.DistilBertConfig(num_hidden_layers=2, **SHAPE)
        ),
        "shared": minilm.AlbertForPreTraining(
            minilm.AlbertConfig(num_hidden_layers=4, embedding_size=16, **SHAPE)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    for name, method in (("teacher", "none"), ("student", "half of the layers <&>")):
        card = {"compression": method, "objective": "masked words"}
        (place / name / "card.json").write_text(json.dumps(card))
    return place


@pytest.fixture(scope="module")
def result(place: Path) -> dict[str, Any]:
    models = [place / name for name in ("teacher", "student", "shared")]
    return compare(models, help_topics()[:12], SMALL)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def test_sizes_and_ratios(result: dict[str, Any], place: Path) -> None:
    teacher, student, shared = result["models"]
    for row, name in zip(result["models"], ("teacher", "student", "shared"), strict=True):
        model = minilm.load(place / name)
        assert row["name"] == name
        assert row["class"] == type(model).__name__
        assert row["parameters"] == sum(row["components"].values()) == model.num_parameters()
        assert row["file_bytes"] == (place / name / "model.safetensors").stat().st_size
        assert row["flops_per_token"] == minilm.cost(model.config).flops
        relative = row["relative"]
        assert relative["parameters"] == row["parameters"] / teacher["parameters"]
        assert relative["bulk_speed"] == row["tokens_per_second"] / teacher["tokens_per_second"]
        assert row["one_text_seconds"] > 0
    assert (shared["layers"]["stored"], shared["layers"]["applied"]) == (1, 4)
    assert student["card"]["objective"] == "masked words"
    assert shared["card"] == {}
    layer = sum(p.numel() for p in minilm.load(place / "shared").base.groups[0].parameters())
    assert shared["components"]["layers"] == layer


def test_a_model_that_knows_the_answers(tmp_path: Path) -> None:
    """Accuracy counts masked places alone: a model that always says "the" gets those right."""
    text = ["the cat and the dog and the mouse are in the house of the king of the hill"] * 40
    documents = ["\n".join(text)]
    (tmp_path / "text.txt").write_text(documents[0])
    tokenizer = minilm.train_tokenizer(
        [tmp_path / "text.txt"], tmp_path / "vocabulary", vocab_size=60
    )
    model = minilm.BertForMaskedLM(
        minilm.BertConfig(num_hidden_layers=1, **{**SHAPE, "vocab_size": tokenizer.vocab_size})
    )
    the = tokenizer.token_to_id("the")
    assert the is not None
    with torch.no_grad():
        model.masked_lm_head.bias[the] = 100.0
    found = score_text(model, tokenizer, documents)
    ids = tokenizer(text[0])["input_ids"][0]
    assert found.masked_tokens == 40 * round(0.15 * (len(ids) - 2))
    share = float((ids == the).sum()) / (len(ids) - 2)
    assert found.masked_accuracy == pytest.approx(share, abs=0.1)
    assert found.sentence_order_accuracy is None
    again = score_text(model, tokenizer, documents)
    assert again == found
    assert score_text(model, tokenizer, documents, seed=1) != found
    few = score_text(model, tokenizer, documents, max_tokens=len(ids))
    assert few.masked_tokens == round(0.15 * (len(ids) - 2))


def test_half_of_the_pairs_are_swapped(place: Path) -> None:
    """A head that always says "in order" is right for every other pair."""
    model = minilm.AlbertForPreTraining.from_pretrained(place / "shared")
    tokenizer = minilm.Tokenizer.from_pretrained(place / "shared")
    with torch.no_grad():
        model.sentence_order_head.weight.zero_()
        model.sentence_order_head.bias.copy_(torch.tensor([1.0, 0.0]))
    found = score_text(model, tokenizer, help_topics()[:12])
    assert found.pairs > 20
    assert found.sentence_order_accuracy == pytest.approx(0.5, abs=0.5 / found.pairs)


def test_a_text_without_paragraphs(place: Path) -> None:
    model = minilm.BertForMaskedLM.from_pretrained(place / "teacher")
    tokenizer = minilm.Tokenizer.from_pretrained(place / "teacher")
    with pytest.raises(InputError, match="no paragraph"):
        score_text(model, tokenizer, ["", "a\n\nb"])


def test_every_figure_is_in_every_form(result: dict[str, Any]) -> None:
    rows = table_rows(result)
    plain, marked, html = table(result), markdown(result), page(result)
    assert {"parameters", "masked words right", "sentence order right"} <= {t for t, _ in rows}
    for title, values in rows:
        for value in values:
            assert value in plain, title
            assert value in marked, title
    assert "half of the layers &lt;&amp;&gt;" in html
    assert "<&>" not in html
    for text in (plain, marked, html):
        assert "shared stores 1 layer(s) and computes 4" in text
        assert "teacher stores" not in text
    assert len(re.findall(r"^\| ", marked, re.MULTILINE)) == len(rows) + 1
    assert not re.search(r"(?:src|href)=", html)  # nothing to fetch
    assert html.count("class='track'") == 3 * 5


def test_the_picture_shows_every_model_where_its_figures_are(result: dict[str, Any]) -> None:
    drawn = scatter(result)
    assert drawn is not None
    root = ElementTree.fromstring(drawn)
    name = "{http://www.w3.org/2000/svg}"
    dots = [dot for dot in root.iter(f"{name}circle") if dot.get("class") is None]
    models = sorted(result["models"], key=lambda m: -m["scores"]["masked_accuracy"])
    assert len(dots) == len(models) == 3
    labels = [text.text for text in root.iter(f"{name}text") if text.get("class") is None]
    assert labels == [model["name"] for model in models]
    for dot, model in zip(dots, models, strict=True):
        told = dot[0].text
        assert told is not None
        assert told.startswith(f"{model['name']}: {model['parameters'] / 1e6:.2f} million")
    widths = [float(dot.get("cx", "")) - LEFT for dot in dots]
    for one, other in combinations(range(3), 2):  # linear from zero
        assert widths[one] / widths[other] == pytest.approx(
            models[one]["parameters"] / models[other]["parameters"], rel=0.01
        )
        radii = [float(dots[n].get("r", "")) ** 2 for n in (one, other)]
        speeds = [models[n]["tokens_per_second"] for n in (one, other)]
        assert radii[0] / radii[1] == pytest.approx(speeds[0] / speeds[1], rel=0.05)
    heights = [float(dot.get("cy", "")) for dot in dots]
    assert heights == sorted(heights)  # the best on top
    assert drawn in page(result)


def test_no_picture_of_a_single_score(result: dict[str, Any]) -> None:
    models = [{**model, "scores": None} for model in result["models"][1:]]
    alone = {**result, "models": [result["models"][0], *models]}
    assert scatter(alone) is None
    assert "<svg" not in page(alone)


@given(st.floats(0, 1e8), st.floats(1e-4, 1e8))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    high = low + width
    assume(high > low * (1 + 1e-6))
    ticks = _ticks(low, high)
    assert 1 <= len(ticks) <= 10
    slack = 1e-6 * (high - low) + 1e-9
    assert low - slack <= min(ticks) <= max(ticks) <= high + slack
    assert len(set(ticks)) == len(ticks)


def test_the_command(place: Path, tmp_path: Path) -> None:
    models = [place / name for name in ("teacher", "student", "shared")]
    html = tmp_path / "page.html"
    svg = tmp_path / "picture.svg"
    pictures = ("--html", html, "--svg", svg)
    done = run(*models, *FAST, "--json", *pictures, "--text", place / "text.txt")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [model["name"] for model in found["models"]] == ["teacher", "student", "shared"]
    assert found["workload"]["source"] == "text.txt"
    assert "speed" in done.stderr
    assert html.read_text().startswith("<!doctype html>")
    assert svg.read_text().startswith("<svg")
    assert svg.read_text() in html.read_text()
    done = run(models[0], *FAST, "--svg", tmp_path / "none.svg")
    assert done.exit_code == 2
    assert "two models" in done.stderr
    assert not (tmp_path / "none.svg").exists()
    assert "parameters" in done.stdout  # what was measured is not lost
    done = run(models[0], "--svg", tmp_path / "picture.pdf")
    assert done.exit_code == 2
    assert "ends in .svg" in done.stderr
    done = run(models[0], *FAST, "--markdown")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("| | teacher |\n")
    assert "Python's help topics" in done.stdout


def test_an_encoder_without_a_language_model_has_no_scores(
    place: Path, minilm_l6_dir: Path
) -> None:
    done = run(minilm_l6_dir, *FAST, "--json")
    assert done.exit_code == 0, done.output
    (model,) = json.loads(done.stdout)["models"]
    assert model["scores"] is None
    assert model["relative"]["masked_accuracy"] is None
    assert "masked words" not in run(minilm_l6_dir, *FAST).stdout


def test_memory_is_of_the_encoder(place: Path) -> None:
    settings = CompareSettings(texts=2, rounds=1, max_tokens=200)
    (row,) = compare([place / "shared"], help_topics()[:2], settings)["models"]
    sizes = component_sizes(minilm.load(place / "shared"))
    held = 4 * (sizes["embeddings"] + sizes["layers"] + sizes["pooler"])
    assert row["memory"]["weights"] == pytest.approx(held, rel=0.1)
    assert row["memory"]["peak"] > held


def test_mistakes(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no model"):
        compare([], [], SMALL)
    with pytest.raises(InputError, match="same name"):
        compare([place / "teacher", place / "teacher"], help_topics()[:2], SMALL)
    with pytest.raises(InputError, match="rounds is 0"):
        CompareSettings(rounds=0)
    assert run(place / "teacher", "--json", "--markdown").exit_code == 2
    assert "does not exist" in run(place / "teacher", "--text", tmp_path / "none.txt").stderr
    monkeypatch.setattr("minilm.checkpoints.hub._SHIPPED_IN", tmp_path)
    assert "an installed package lacks" in run().stderr


def test_a_damaged_card_is_named(place: Path, tmp_path: Path) -> None:
    model = minilm.load(place / "teacher")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "card.json").write_text("[1")
    minilm.Tokenizer.from_pretrained(place / "teacher").save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"card\.json"):
        compare([tmp_path / "model"], help_topics()[:2], SMALL)


def test_fine_tuned_models_are_scored_on_their_task(place: Path, tmp_path: Path) -> None:
    records = [
        {"text": f"{word} number {number}", "label": word}
        for number in range(20)
        for word in ("import", "class")
    ]
    data = tmp_path / "dev.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = minilm.FinetuningSettings(epochs=1, learning_rate=1e-3, select="last")
    for name in ("teacher", "student"):
        minilm.finetune("classification", place / name, records, tmp_path / name, settings=settings)
    models = [tmp_path / "teacher", tmp_path / "student", place / "shared"]
    found = json.loads(run(*models, "--task", f"jsonl={data}", "--json", *FAST).stdout)["models"]
    scores = [minilm.Predictor.from_pretrained(m).evaluate(records)["accuracy"] for m in models[:2]]
    assert [model["tasks"] for model in found] == [
        {"jsonl dev.jsonl": {"metric": "accuracy", "score": scores[0]}},
        {"jsonl dev.jsonl": {"metric": "accuracy", "score": scores[1]}},
        {},
    ]
    shares = [model["relative"].get("task jsonl dev.jsonl") for model in found]
    assert shares == [1.0, scores[1] / scores[0], None]

    html = tmp_path / "page.html"
    other = tmp_path / "other.jsonl"
    other.write_text('{"tokens": ["a"], "tags": ["O"]}\n')
    told = run(*models, "--task", data, "--task", other, "--html", html, *FAST)
    assert "teacher: not scored on other.jsonl" in told.stderr
    assert "other.jsonl" not in told.stdout
    shown = told.stdout
    line = next(line for line in shown.splitlines() if "accuracy on dev.jsonl" in line)
    assert f"{scores[0]:.1%}" in line
    assert line.rstrip().endswith("–")
    assert "Accuracy on dev.jsonl" in html.read_text()


def test_tasks_of_the_same_file_name_are_told_apart() -> None:
    assert _task_names(["glue:sst2=a/dev.tsv", "b/dev.tsv"]) == ["sst2 dev.tsv", "dev.tsv"]
    assert _task_names(["a/dev.tsv", "b/dev.tsv"]) == ["a/dev.tsv", "b/dev.tsv"]
