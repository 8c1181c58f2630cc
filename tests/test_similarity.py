"""What layers do: the measures, the models they are taken of, and the picture."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

import minilm
from memory_store import wordpiece
from minilm.cli import main
from minilm.compare.similarity import (
    Pair,
    attention_correlation,
    cka_matrix,
    layer_steps,
    linear_cka,
    observe,
    similarity,
)
from minilm.compare.similarity_picture import _finish, draw_similarity
from minilm.errors import CheckpointError, DependencyError, InputError
from tiny import tiny

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat", "tree", "and", "then"]
TEXTS = [
    "the cat sat on a mat and then ran under the tree",
    "short one",
    "a dog ran and the cat sat then the dog sat under a mat",
    "then the tree sat on the dog and a cat ran",
    "the dog and the cat ran under a tree then on a mat",
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- from input to output ---


def test_distance_and_angle_by_hand() -> None:
    states = [
        torch.tensor([[3.0, 0.0], [1.0, 0.0]]),
        torch.tensor([[0.0, 4.0], [1.0, 1.0]]),
        torch.tensor([[0.0, -4.0], [2.0, 2.0]]),
    ]
    found = layer_steps(states)
    assert found.distance == pytest.approx([(5 + 1) / 2, (8 + math.sqrt(2)) / 2])
    assert found.cosine == pytest.approx([(0 + math.sqrt(0.5)) / 2, (-1 + 1) / 2])
    assert found.angle == pytest.approx([(90 + 45) / 2, (180 + 0) / 2], abs=1e-5)


def test_rounding_never_leaves_the_angles() -> None:
    state = draw(50, 7).float()
    assert layer_steps([state, state * 3]).angle == pytest.approx([0.0], abs=1e-2)


def test_states_of_different_shapes_are_no_steps() -> None:
    with pytest.raises(InputError, match=r"\(3, 2\), \(3, 4\)"):
        layer_steps([torch.zeros(3, 2), torch.zeros(3, 4)])
    with pytest.raises(InputError, match="at least two"):
        layer_steps([torch.zeros(3, 2)])


# --- linear CKA ---


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.01, 100))
def test_cka_knows_no_rotation_scale_or_shift(seed: int, width: int, scale: float) -> None:
    x = draw(12, width, seed=seed)
    rotation = torch.linalg.qr(draw(width, width, seed=seed + 1)).Q
    assert linear_cka(x, scale * x @ rotation + 3.0) == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_cka_is_symmetric_and_between_0_and_1(seed: int, p: int, q: int) -> None:
    x, y = draw(9, p, seed=seed), draw(9, q, seed=seed + 1)
    found = linear_cka(x, y)
    assert -1e-12 <= found <= 1 + 1e-12
    assert found == pytest.approx(linear_cka(y, x), abs=1e-12)


def test_cka_is_the_alignment_of_the_centred_gram_matrices() -> None:
    """The definition by kernels, with which the formula by features agrees."""
    x, y = draw(20, 3), draw(20, 5, seed=1) + draw(20, 3) @ draw(3, 5, seed=2)
    centring = torch.eye(20, dtype=torch.float64) - 1 / 20
    k, m = (centring @ z @ z.T @ centring for z in (x, y))
    hsic = (k * m).sum()
    expected = float(hsic / (k.norm() * m.norm()))
    assert 0.1 < expected < 0.95
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)


def test_cka_by_hand() -> None:
    x = torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    y = torch.tensor([[0.0], [0.0], [1.0], [-1.0]])
    assert linear_cka(x, y) == 0.0
    assert linear_cka(x, x + y) == pytest.approx(0.5)  # correlation 1/sqrt 2, squared
    assert math.isnan(linear_cka(x, torch.ones(4, 2)))


def test_cka_of_every_pair() -> None:
    first, second = [draw(9, 3, seed=n) for n in (0, 1)], [draw(9, 4, seed=n) for n in (2, 3, 4)]
    found = cka_matrix(first, second)
    assert found == [[linear_cka(x, y) for y in second] for x in first]
    assert len({round(value, 6) for row in found for value in row}) == 6


def test_cka_needs_the_same_tokens() -> None:
    with pytest.raises(InputError, match="3 and 4 tokens"):
        linear_cka(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(InputError, match="1 tokens"):
        linear_cka(torch.zeros(1, 2), torch.zeros(1, 2))


# --- attention ---


def test_correlation_by_hand() -> None:
    one = torch.tensor([[[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]])  # one layer
    other = torch.stack([one[0], one[0].flip(-1), torch.full((3, 3), 1 / 3)])
    found = attention_correlation(one, other)
    assert found.shape == (1, 3)
    flipped = [np.corrcoef(row, row[::-1])[0, 1] for row in one[0].double().numpy()]
    assert found[0].tolist() == pytest.approx([1.0, np.mean(flipped), 0.0])
    assert flipped[0] == pytest.approx(-0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_correlation_is_symmetric_and_at_most_1(seed: int) -> None:
    one, other = draw(2, 5, 5, seed=seed).mul(4).softmax(-1), draw(3, 5, 5).mul(4).softmax(-1)
    found = attention_correlation(one, other)
    assert float(found.abs().max()) < 1
    torch.testing.assert_close(found, attention_correlation(other, one).T)
    assert attention_correlation(one, one).diagonal().tolist() == pytest.approx([1.0, 1.0])


def test_even_attention_is_like_nothing() -> None:
    """Also where rounding keeps the weights from being equal."""
    even = torch.full((1, 7, 7), 1 / 7)
    even[0, 0, 0] += 1e-8
    assert attention_correlation(even, draw(2, 7, 7).softmax(-1)).tolist() == [[0.0, 0.0]]


def test_maps_of_different_texts_are_not_compared() -> None:
    with pytest.raises(InputError, match="5 and 6 tokens"):
        attention_correlation(torch.zeros(1, 5, 5), torch.zeros(1, 6, 6))


# --- models ---


def save(directory: Path, class_name: str, **changes: int) -> str:
    tokenizer = wordpiece(*WORDS, size=61)
    model = tiny(class_name, dtype=torch.float32, **changes)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def test_what_is_observed_is_what_the_model_returns() -> None:
    model = tiny("BertModel", dtype=torch.float32)
    tokenizer = wordpiece(*WORDS, size=61)
    seen = observe("bert", model, tokenizer, TEXTS, max_tokens=31)
    rows = [tokenizer(text)["input_ids"] for text in (TEXTS[0], TEXTS[2], TEXTS[3])]
    assert seen.input_ids == [row[0].tolist() for row in rows]  # the short one is left out
    assert len(seen.states) == 4
    with torch.no_grad():
        outputs = [model(row, output_hidden_states=True, output_attentions=True) for row in rows]
    for layer, state in enumerate(seen.states):
        expected = torch.cat([output.hidden_states[layer][0] for output in outputs])
        torch.testing.assert_close(state, expected)
    for maps, output in zip(seen.maps, outputs, strict=True):
        expected = torch.stack([layer[0].mean(0) for layer in output.attentions])
        torch.testing.assert_close(maps, expected)
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))


def test_a_model_is_like_itself_and_another_is_not() -> None:
    tokenizer = wordpiece(*WORDS, size=61)
    bert, albert = tiny("BertModel", dtype=torch.float32), tiny("AlbertModel", dtype=torch.float32)
    seen = [
        observe(name, model, tokenizer, TEXTS, 2048)
        for name, model in (("a", bert), ("same", bert), ("albert", albert))
    ]
    found = similarity(seen)
    same, other = found.pairs
    assert (other.teacher, other.student) == ("a", "albert")
    assert np.diag(same.cka) == pytest.approx(np.ones(4))
    assert np.diag(same.attention) == pytest.approx(np.ones(3))
    assert same.matches() == [(n, pytest.approx(1.0)) for n in range(4)]
    assert np.array(other.cka).max() < 0.99
    assert np.array(other.attention).max() < 0.99
    assert found.steps["a"] == found.steps["same"] != found.steps["albert"]
    assert found.tokens == sum(len(row) for row in seen[0].input_ids)


def test_the_mean_of_the_attention_is_over_tokens() -> None:
    tokenizer = wordpiece(*WORDS, size=61)
    models = [tiny(name, dtype=torch.float32) for name in ("BertModel", "AlbertModel")]
    one, other = (observe(str(n), m, tokenizer, TEXTS, 2048) for n, m in enumerate(models))
    parts = [attention_correlation(a, b) for a, b in zip(one.maps, other.maps, strict=True)]
    weights = torch.tensor([len(row) for row in one.input_ids], dtype=torch.float64)
    expected = torch.einsum("n,nij->ij", weights / weights.sum(), torch.stack(parts))
    assert similarity([one, other]).pairs[0].attention == pytest.approx(expected.numpy())


def test_other_tokens_other_names_and_no_text() -> None:
    model = tiny("BertModel", dtype=torch.float32)
    seen = observe("a", model, wordpiece(*WORDS, size=61), TEXTS, 2048)
    other = observe("b", model, wordpiece(*reversed(WORDS), size=61), TEXTS, 2048)
    with pytest.raises(InputError, match="b tokenises the text otherwise than a"):
        similarity([seen, other])
    with pytest.raises(InputError, match="Two models are called a"):
        similarity([seen, seen])
    with pytest.raises(InputError, match="no paragraph"):
        observe("a", model, wordpiece(*WORDS, size=61), ["too short"], 2048)


def test_matches_are_looked_for_in_columns() -> None:
    pair = Pair("t", "s", [[0.9, 0.1, 0.3], [0.2, 0.8, 0.4]], [])
    assert pair.matches() == [(0, 0.9), (1, 0.8), (1, 0.4)]


# --- command and picture ---


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plot", *map(str, arguments)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("similarity")
    (place / "text.txt").write_text("\n".join(TEXTS))
    return [
        save(place / "bert", "BertForMaskedLM"),
        save(place / "albert", "AlbertForPreTraining", num_hidden_layers=5),
    ]


def test_the_command(models: list[str], tmp_path: Path) -> None:
    text = Path(models[0]).parent / "text.txt"
    picture = tmp_path / "layers.png"
    done = run("similarity", *models, "--text", text, "-o", picture, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    bert, albert = (minilm.load(model) for model in models)
    tokenizer = minilm.Tokenizer.from_pretrained(models[0])
    expected = similarity(
        [observe(n, m, tokenizer, TEXTS, 2048) for n, m in zip(models, (bert, albert), strict=True)]
    )
    assert found["models"][1]["angle"] == pytest.approx(expected.steps[models[1]].angle, abs=1e-4)
    assert len(found["models"][1]["distance"]) == 5
    cka = np.array(found["pairs"][0]["cka"])
    assert cka.shape == (4, 6)
    assert cka == pytest.approx(np.array(expected.pairs[0].cka), abs=1e-6)
    assert np.array(found["pairs"][0]["attention"]).shape == (3, 5)
    assert imread(picture).shape[1] == 1440
    plain = run("similarity", *models, "--text", text, "-o", picture)
    assert re.search(r"albert +1 .*°   ? ?\d \(0\.\d\d\)", plain.stdout)
    assert plain.stdout.splitlines()[-1] == str(picture)


def test_the_picture_shows_every_figure(models: list[str], tmp_path: Path) -> None:
    """As an SVG: text stays text, and every panel has its title."""
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    tokenizer = minilm.Tokenizer.from_pretrained(models[0])
    seen = [
        observe(name, minilm.load(path), tokenizer, TEXTS, 2048)
        for name, path in zip(("teacher", "cost in $"), models, strict=True)
    ]
    draw_similarity(similarity(seen[:1]), one)
    draw_similarity(similarity(seen), two)
    again = tmp_path / "again.svg"
    draw_similarity(similarity(seen), again)
    assert again.read_bytes() == two.read_bytes()
    for title in ("L2 distance", "angle between"):
        assert title in one.read_text()
    assert "linear CKA" not in one.read_text()
    for title in ("linear CKA", "correlation of the attention", "cost in $", "layer of teacher"):
        assert title in two.read_text()


def test_runs_are_still_drawn_without_a_command(tmp_path: Path) -> None:
    log = tmp_path / "similarity" / "run" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"step": 1, "loss": 2.0}\n')
    for words in ([log.parents[1]], ["curves", log.parents[1]]):
        done = run(*words, "-o", tmp_path / "curves.png")
        assert done.exit_code == 0, done.output
        assert "training loss" in done.stdout
    assert "Commands:" in run("--help").stdout


def test_what_is_refused(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> str:
        done = run("similarity", *arguments)
        assert done.exit_code == 2, done.output
        assert isinstance(done.exception, SystemExit)
        return done.stderr

    assert ".png or .svg" in refused(*models, "-o", tmp_path / "x.pdf")
    assert "Missing argument" in refused()
    assert "absent.txt" in refused(*models, "--text", tmp_path / "absent.txt")
    assert "Two models are called" in refused(models[0], models[0], "-o", tmp_path / "x.svg")
    tokenizer = minilm.Tokenizer.from_pretrained(models[0])
    found = similarity([observe("a", minilm.load(models[0]), tokenizer, TEXTS, 2048)])
    with pytest.raises(CheckpointError, match="nowhere"):
        draw_similarity(found, tmp_path / "nowhere" / "x.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"minilm\[plots\]"):
        draw_similarity(found, tmp_path / "x.svg")


def test_the_highest_marker_is_not_cut_off() -> None:
    axes = Figure().add_subplot()
    axes.plot([1, 2, 3], [0.300, 0.310, 0.301], marker="s")
    _finish(axes, "steps")
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert top > 1.05 * 0.310
