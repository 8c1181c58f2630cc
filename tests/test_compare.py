"""`minilm compare`: what is measured is what it says, in every form of output."""

import json
import re
from dataclasses import replace
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import assume, given, strategies as st

import minilm
from minilm.bench.machine import describe_machine, machine_words
from minilm.checkpoints.hub import LANGUAGE_MODELS
from minilm.cli import main
from minilm.cli.compare import _task_names
from minilm.compare.measure import CompareSettings, compare, component_sizes
from minilm.compare.page import page
from minilm.compare.quantities import Quantity, Value, median_error, quantities, share_error
from minilm.compare.report import markdown, table, table_rows
from minilm.compare.scatter import LEFT, SHADES, _ticks, scatter
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
    plain, marked, html = table(result, width=1000), markdown(result), page(result)
    titles = {title for title, _ in rows}
    assert {"parameters, million", "masked words right, %", "sentence order right, %"} <= titles
    for title, values in rows:
        for value in values:
            for form in (plain, marked) if value != "–" else (marked,):
                assert value in form, title
    assert "half of the layers &lt;&amp;&gt;" in html
    assert "<&>" not in html
    pairs = result["models"][2]["scores"]["pairs"]
    for text in (plain, marked, html):
        assert "shared stores 1 layer and computes 4" in text
        assert "teacher stores" not in text
        assert f"{pairs} pairs, every other one swapped; guessing gets 50%" in text
        for name in ("date", "processor", "instructions", "minilm", "torch", "python"):
            assert str(result["machine"][name]) in text, name
    assert len(re.findall(r"^\| ", marked, re.MULTILINE)) == len(rows) + 1
    assert not re.search(r"(?:src|href)=", html)  # nothing to fetch


def test_the_number_format_is_that_of_the_weights(result: dict[str, Any], place: Path) -> None:
    assert " tokens), the models in turn, in float32." in markdown(result)
    half = compare([place / "student"], help_topics()[:2], replace(SMALL, dtype="bfloat16"))
    assert "the models in turn, in bfloat16." in markdown(half)
    small = compare([place / "student"], help_topics()[:2], replace(SMALL, dtype="int8"))
    both = {**result, "models": [result["models"][0], small["models"][0]]}
    assert "the models in turn, teacher in float32, student in int8." in markdown(both)


def many_rounds(result: dict[str, Any], **rounds: list[list[float]]) -> dict[str, Any]:
    """The result with other timings: for each figure of speed, the rounds of every model."""
    models = []
    for number, model in enumerate(result["models"]):
        own = {name: values[number] for name, values in rounds.items()}
        medians = {name: sorted(values)[len(values) // 2] for name, values in own.items()}
        models.append({**model, **medians, "rounds": own})
    return {**result, "models": models, "workload": {**result["workload"], "rounds": 5}}


def found(result: dict[str, Any], title: str) -> Quantity:
    return next(quantity for quantity in quantities(result) if quantity.title == title)


def test_a_terminal_is_never_too_narrow(result: dict[str, Any]) -> None:
    many = {**result, "models": [{**m, "name": f"{m['name']}-{n}-of-some-length"}
            for n in range(4) for m in result["models"]]}  # fmt: skip
    for width in (60, 80, 120):
        for shown in (table(result, width), table(many, width)):
            longest = max(shown.splitlines(), key=len)
            assert len(longest) <= width, longest
    blocks = table(many, 80).split("\n\n")
    headed = [block for block in blocks if "parameters, million" in block]
    assert len(headed) > 1
    for block in headed:  # the first model stands in front of every table
        line = next(line for line in block.splitlines() if line.startswith("parameters"))
        cells = re.split(r" {2,}", line)
        assert cells[1] == f"{many['models'][0]['parameters'] / 1e6:.2f}"


def test_bars_stand_for_what_was_measured(result: dict[str, Any]) -> None:
    """Widths are shares of the longest bar; a model without a figure has no empty track."""
    times = [[0.020, 0.019, 0.021, 0.020, 0.030], [0.010] * 5, [0.0201, 0.019, 0.022, 0.02, 0.021]]
    measured = many_rounds(result, one_text_seconds=times, tokens_per_second=[[100.0] * 5] * 3)
    html = page(measured)
    sections = {
        re.sub("<.*?>", "", title): body
        for title, body in re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", html, re.DOTALL)
    }
    alone = result["workload"]["one_text_tokens"]
    one_text = sections[f"One text of {alone} tokens (ms)"]
    assert "Shorter is better; the mark is the quartiles of the rounds." in one_text
    assert re.findall(r"<span>([\d.]+ ms ±[\d.]+)</span>", one_text) == [
        "20.0 ms ±0.5", "10.0 ms ±0.0", "20.1 ms ±0.5"]  # fmt: skip
    widths = [float(width) for width in re.findall(r'<div style="width:([\d.]+)%', one_text)]
    top = 21.0  # the longest mark ends at the right
    assert widths == pytest.approx([100 * t / top for t in (20.0, 10.0, 20.1)], abs=0.01)
    marks = re.findall(r'class="error" style="left:([\d.]+)%;width:([\d.]+)%', one_text)
    assert [float(left) for left, _ in marks] == pytest.approx(
        [100 * t / top for t in (20.0, 10.0, 20.0)], abs=0.01
    )
    assert [float(width) for _, width in marks] == pytest.approx(
        [100 / top, 0, 100 / top], abs=0.01
    )
    order = sections["Sentence order right"]
    assert order.count("class='track'") == 1  # the others have no head for it
    assert "Not measured for teacher, student." in order
    assert 'class="chance" style="left:50.00%"' in order
    assert sections["Masked words right"].count("class='track'") == 3
    assert "Longer is better; the mark is one standard error." in sections["Masked words right"]
    shares = re.findall(r"width:([\d.]+)%;background:var\(--c\d\)", sections["Parameters"])
    assert max(sum(map(float, shares[n : n + 4])) for n in (0, 4, 8)) == pytest.approx(100, abs=0.1)
    assert "seconds" not in html


def test_a_part_that_no_model_has_is_not_shown(result: dict[str, Any]) -> None:
    models = [
        {**model, "components": {**model["components"], "pooler": 0}} for model in result["models"]
    ]
    assert "pooler" in page(result)
    for form in (page, table, markdown):
        assert "pooler" not in form({**result, "models": models})


def test_a_difference_within_the_error_is_not_shown_as_one(result: dict[str, Any]) -> None:
    def scored(*accuracies: float, cases: int) -> Quantity:
        models = [
            {**model, "scores": {**model["scores"], "masked_accuracy": share,
             "masked_tokens": cases}}
            for model, share in zip(result["models"], accuracies, strict=True)
        ]  # fmt: skip
        return found({**result, "models": models}, "masked words right")

    few = scored(0.348, 0.345, 0.335, cases=5735)
    assert [few.cell(value) for value in few.values] == [
        "34.8 ±0.6", "34.5 ±0.6 (≈)", "33.5 ±0.6 (96%)"]  # fmt: skip
    many = scored(0.348, 0.345, 0.335, cases=500_000)
    assert [many.cell(value) for value in many.values][1] == "34.5 ±0.1 (99%)"

    # rounds in which the machine was slow hit both models and say nothing about either
    bulk = [[100, 101, 50, 99, 100], [100.5, 100, 51, 99.5, 99], [110, 111, 55, 109, 110]]
    alone = [[0.01] * 5] * 3
    measured = many_rounds(result, tokens_per_second=bulk, one_text_seconds=alone)
    speed = found(measured, "in bulk, tokens a second")
    assert [speed.show_share(value) for value in speed.values if value] == ["", "(≈)", "(1.10x)"]
    one = found(many_rounds(result, tokens_per_second=[[100], [101], [90]], one_text_seconds=[[1]]
                * 3), "in bulk, tokens a second")  # fmt: skip
    assert [one.cell(value) for value in one.values] == ["100", "101 (1.01x)", "90 (0.90x)"]


def test_errors_are_those_of_the_textbook() -> None:
    assert share_error(0.5, 100) == pytest.approx(0.05)
    assert share_error(0.0, 0) == 0.0
    assert median_error([3.0]) == 0.0
    drawn = torch.randn(2000, 99, generator=torch.Generator().manual_seed(0))
    spread = float(drawn.median(dim=1).values.std())
    claimed = sum(median_error(row) for row in drawn[:200].tolist()) / 200
    assert claimed == pytest.approx(spread, rel=0.1)
    percent = Quantity("score", "%", "score", [], digits=1)
    assert percent.show(Value(34.84)) == "34.8%"
    assert percent.show_error(Value(34.84)) == ""


def test_the_picture_shows_every_model_where_its_figures_are(result: dict[str, Any]) -> None:
    alone = [[0.01]] * 3
    speeds = [[400.0], [800.0], [500.0]]
    measured = many_rounds(result, tokens_per_second=speeds, one_text_seconds=alone)
    drawn = scatter(measured)
    assert drawn is not None
    root = ElementTree.fromstring(drawn)
    name = "{http://www.w3.org/2000/svg}"
    dots = {str(dot[0].text).split(":")[0]: dot for dot in root.iter(f"{name}circle")}
    models = sorted(measured["models"], key=lambda m: -m["scores"]["masked_accuracy"])
    assert len(dots) == len(models) == 3
    labels = [text.text for text in root.iter(f"{name}text") if text.get("class") == "name"]
    assert labels == [model["name"] for model in models]
    for model in models:
        told = str(dots[model["name"]][0].text)
        assert told.startswith(f"{model['name']}: {model['parameters'] / 1e6:.2f} million")
        assert f"{model['scores']['masked_accuracy']:.1%} ±" in told
    for one, other in combinations(models, 2):  # linear from zero
        first, second = dots[one["name"]], dots[other["name"]]
        widths = [float(dot.get("cx", "")) - LEFT for dot in (first, second)]
        assert widths[0] / widths[1] == pytest.approx(
            one["parameters"] / other["parameters"], rel=0.01
        )
        radii = [float(dot.get("r", "")) ** 2 for dot in (first, second)]
        assert radii[0] / radii[1] == pytest.approx(
            one["file_bytes"] / other["file_bytes"], rel=0.05
        )
    heights = [float(dots[model["name"]].get("cy", "")) for model in models]
    assert heights == sorted(heights)  # the best on top
    shades = {model: dot.get("class") for model, dot in dots.items()}
    assert shades == {"teacher": "dot s0", "student": f"dot s{SHADES - 1}", "shared": "dot s1"}
    marks = list(root.iter(f"{name}line"))
    right = sum(model["scores"]["masked_accuracy"] > 0 for model in models)
    assert sum(mark.get("class") == "error" for mark in marks) == right > 0
    assert drawn in page(measured)


def test_speeds_that_hardly_differ_have_nearly_one_colour(result: dict[str, Any]) -> None:
    speeds = [[100.0], [103.0], [98.0]]
    drawn = scatter(many_rounds(result, tokens_per_second=speeds, one_text_seconds=[[0.01]] * 3))
    assert drawn is not None
    assert set(re.findall(r"dot s(\d)", drawn)) <= {str(SHADES - 2), str(SHADES - 1)}


def test_the_picture_in_the_repository_is_of_the_shipped_models() -> None:
    root = Path(__file__).parent.parent
    drawn = ElementTree.parse(root / "examples" / "shipped-models.svg")
    told = [str(title.text) for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(words.split(":")[0] for words in told) == sorted(LANGUAGE_MODELS)
    for words in told:
        directory = root / "weights" / words.split(":")[0]
        parameters = minilm.load(directory).num_parameters() / 1e6
        size = (directory / "model.safetensors").stat().st_size / 1e6
        assert f": {parameters:.2f} million parameters, " in words
        assert words.endswith(f"file of {size:.1f} MB")


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


def test_a_busy_machine_is_said_everywhere(result: dict[str, Any]) -> None:
    load = {"cpus": 2, "load_average": 3.0, "others_before": 0.6, "others_during": 0.63}
    for busy in (True, False):
        machine = {**result["machine"], "load": {**load, "busy": busy}}
        for form in (page, table, markdown):
            shown = " ".join(form({**result, "machine": machine}).split())
            assert ("busy with other work meanwhile (63% of its 2 CPUs)" in shown) is busy


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert abs(date.fromisoformat(machine["date"]) - date.today()).days <= 1
    assert machine["threads"] == torch.get_num_threads()
    assert machine["torch"] == torch.__version__
    assert machine["minilm"] == minilm.__version__
    assert machine["processor"].strip()
    shown = machine_words({**machine, "threads": 1})
    assert shown.startswith(f"{machine['processor']} ({machine['instructions']}), 1 thread, torch ")
    assert "\n" not in machine["processor"]


def test_timing_shows_its_progress(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minilm.compare.measure.DELAY", 0)
    for watched in (False, True):
        monkeypatch.setattr("minilm.compare.measure.is_watched", lambda watched=watched: watched)
        compare([place / "student"], help_topics()[:2], SMALL)
        shown = capsys.readouterr().err
        for what in ("one text", "in bulk"):
            assert (what in shown) is watched, what


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
    # of the one layer that is applied four times, once
    assert row["memory"]["copies"] == pytest.approx(4 * sizes["layers"], rel=0.1)


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
        {"jsonl dev.jsonl": {"metric": "accuracy", "score": scores[0], "examples": 40}},
        {"jsonl dev.jsonl": {"metric": "accuracy", "score": scores[1], "examples": 40}},
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
    assert f"{100 * scores[0]:.1f} ±" in line
    assert line.rstrip().endswith("–")
    assert "Accuracy on dev.jsonl" in html.read_text()


def test_tasks_of_the_same_file_name_are_told_apart() -> None:
    assert _task_names(["glue:sst2=a/dev.tsv", "b/dev.tsv"]) == ["sst2 dev.tsv", "dev.tsv"]
    assert _task_names(["a/dev.tsv", "b/dev.tsv"]) == ["a/dev.tsv", "b/dev.tsv"]
