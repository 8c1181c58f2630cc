"""Search: exact against brute force, vectors kept between searches, refusals."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings, strategies as st

from minilm import DataError, Encoder, InputError
from minilm.checkpoints import hub
from minilm.cli import main
from minilm.data.text_files import TextFormat
from minilm.sentence.encoder import Vectors
from minilm.sentence.index import MANIFEST, VectorIndex
from minilm.sentence.passages import files_of, read_passages
from minilm.sentence.search import Passage, search
from minilm.sentence.similarity import (
    cosine_similarity,
    pairwise_cosine_similarity,
    semantic_search,
)
from saved import make_texts, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return Encoder.from_pretrained(model)


def distinct(count: int) -> list[str]:
    """Texts that differ in their words."""
    return [f"word{number} word{number + 1} word{2 * number % 7}" for number in range(count)]


def passages(texts: list[str]) -> list[Passage]:
    return [Passage(text, Path("a.txt"), line) for line, text in enumerate(texts, 1)]


def run(*arguments: object, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["search", *map(str, arguments)], input=text)


# --- similarity ---


def test_cosines_of_all_pairs_and_of_pairs_in_the_same_place() -> None:
    a, b = torch.randn(4, 5), torch.randn(3, 5)
    expected = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    assert torch.allclose(cosine_similarity(a, b.numpy()), expected, atol=1e-6)
    assert torch.allclose(pairwise_cosine_similarity(a[:3], b), expected[:3].diag(), atol=1e-6)
    assert cosine_similarity([1.0, 0.0], [[0.0, 0.0]]).item() == 0
    with pytest.raises(InputError, match="5 and 4 wide"):
        cosine_similarity(a, torch.randn(3, 4))
    with pytest.raises(InputError, match="4 and 3 vectors"):
        pairwise_cosine_similarity(a, b)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 12), st.integers(1, 9), st.data())
def test_chunks_change_nothing(
    corpus: int, queries: int, top: int, chunk: int, data: st.DataObject
) -> None:
    # few values, so that many scores are equal
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    texts = random.integers(0, 2, (corpus, 3)).astype(np.float32)
    asked = random.integers(0, 2, (queries, 3)).astype(np.float32)
    found = semantic_search(
        asked, texts, top_k=top, corpus_chunk_size=chunk, query_chunk_size=max(chunk // 2, 1)
    )
    assert len(found) == queries
    for query, hits in zip(asked, found, strict=True):
        scores = cosine_similarity(query, texts)[0].numpy() if corpus else np.zeros(0)
        expected = np.argsort(-scores, kind="stable")[:top]
        assert [hit["score"] for hit in hits] == pytest.approx(scores[expected].tolist(), abs=1e-6)
        assert len({hit["corpus_id"] for hit in hits}) == min(top, corpus)


def test_semantic_search_refuses_numbers_below_1() -> None:
    with pytest.raises(InputError, match="top_k is 0"):
        semantic_search([[1.0]], [[1.0]], top_k=0)


def test_the_encoder_compares(encoder: Encoder) -> None:
    vectors = encoder.encode(make_texts(5))
    assert torch.allclose(encoder.similarity(vectors, vectors).diag(), torch.ones(5), atol=1e-6)
    pairs = encoder.similarity_pairwise(vectors[:2], vectors[1:3])
    assert pairs.tolist() == pytest.approx([vectors[0] @ vectors[1], vectors[1] @ vectors[2]])


# --- passages ---


def test_the_hits_are_those_of_brute_force(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm.sentence.search.CHUNK", 7)
    texts, queries = make_texts(40, longest=12), make_texts(3, longest=6)
    found = search(encoder, queries, passages(texts), top_k=5)
    scores = encoder.encode(queries) @ encoder.encode(texts).T
    for row, hits in zip(scores, found.hits, strict=True):
        expected = np.sort(row)[::-1][:5]
        assert [hit.score for hit in hits] == pytest.approx(expected.tolist(), abs=1e-5)
        for hit in hits:
            assert texts[hit.passage.line - 1] == hit.passage.text
            assert hit.score == pytest.approx(float(row[hit.passage.line - 1]), abs=1e-5)
    assert (found.passages, found.encoded) == (40, 40)
    with pytest.raises(InputError, match="no query"):
        search(encoder, [], passages(texts))


def test_places_in_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\ntwo\n\n\nthree\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("four\n")
    (tmp_path / "sub" / "notes.md").write_text("# Nine\n\nten\n")
    (tmp_path / "x.jsonl").write_text('{"text": "five"}\n{"text": "six"}\n')
    (tmp_path / "t.csv").write_text('id,body\n1,"seven, or so"\n2,\n3,eight\n')
    found = list(read_passages(files_of([tmp_path, tmp_path / "x.jsonl"])))
    assert [(each.text, each.path.name, each.line) for each in found] == [
        ("one\ntwo", "b.txt", 1),
        ("three", "b.txt", 5),
        ("four", "a.txt", 1),
        ("# Nine", "notes.md", 1),
        ("ten", "notes.md", 3),
        ("five", "x.jsonl", 1),
        ("six", "x.jsonl", 2),
    ]
    rows = list(read_passages([tmp_path / "t.csv"], TextFormat(text_key="body")))
    assert [(each.text, each.line) for each in rows] == [("seven, or so", 2), ("eight", 4)]
    with pytest.raises(DataError, match="no column 'text'; it has: id, body"):
        list(read_passages([tmp_path / "t.csv"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="without .txt"):
        files_of([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        files_of([tmp_path / "none.csv"])


# --- the index ---


def test_only_what_changed_is_encoded_again(encoder: Encoder, tmp_path: Path) -> None:
    texts = distinct(30)
    query = ["word3 word4"]
    with VectorIndex(tmp_path / "index", encoder) as index:
        first = search(encoder, query, passages(texts), store=index)
    assert first.encoded == 30
    changed = ["word50 word51", *texts[5:], texts[7]]  # lines move, one text twice
    with VectorIndex(tmp_path / "index", encoder) as index:
        second = search(encoder, query, passages(changed), store=index)
    assert second.encoded == 1
    assert index.reused == 26  # 25 that stayed, one of them twice
    without = search(encoder, query, passages(changed))
    assert [hit.passage for hit in second.hits[0]] == [hit.passage for hit in without.hits[0]]
    assert [hit.score for hit in second.hits[0]] == pytest.approx(
        [hit.score for hit in without.hits[0]], abs=1e-5
    )
    # what is no longer there was dropped: 25 and the new one
    assert json.loads((tmp_path / "index" / MANIFEST).read_text())["texts"] == 26
    assert len(list((tmp_path / "index").glob("*.npy"))) == 2


def test_an_interrupted_search_leaves_the_old_index(encoder: Encoder, tmp_path: Path) -> None:
    texts = distinct(9)
    with VectorIndex(tmp_path, encoder) as index:
        search(encoder, ["a"], passages(texts), store=index)
    before = sorted(path.name for path in tmp_path.iterdir())

    def interrupted(texts: Sequence[str]) -> Vectors:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), VectorIndex(tmp_path, encoder) as index:
        index.vectors(["new"], interrupted)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with VectorIndex(tmp_path, encoder) as index:
        assert search(encoder, ["a"], passages(texts), store=index).encoded == 0


def test_an_index_is_one_models_alone(encoder: Encoder, tmp_path: Path) -> None:
    with VectorIndex(tmp_path, encoder) as index:
        search(encoder, ["a"], passages(["b"]), store=index)
    other = Encoder(encoder.model, encoder.tokenizer, max_length=encoder.max_length - 1)
    with pytest.raises(DataError, match="vectors of another model"):
        VectorIndex(tmp_path, other)
    with VectorIndex(tmp_path, other, rebuild=True) as index:
        assert search(other, ["a"], passages(["b"]), store=index).encoded == 1
    with pytest.raises(DataError, match="vectors of another model"):
        VectorIndex(tmp_path, encoder)


def test_what_is_no_index_or_damaged_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds thesis\.txt, but no index"):
        VectorIndex(tmp_path / "mine", encoder)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    with pytest.raises(DataError, match="is a file"):
        VectorIndex(tmp_path / "mine" / "thesis.txt", encoder)
    place = tmp_path / "index"
    with VectorIndex(place, encoder) as index:
        search(encoder, ["a"], passages(["b"]), store=index)
    with VectorIndex(place, encoder), pytest.raises(DataError, match="Another search"):
        VectorIndex(place, encoder)
    with VectorIndex(place, encoder) as index:
        search(encoder, ["a"], passages(["b", "c"]), store=index)
    (vectors,) = place.glob("vectors-*.npy")
    vectors.write_bytes(vectors.read_bytes()[:-8])
    with pytest.raises(DataError, match="cannot be read"):
        VectorIndex(place, encoder)
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps({**manifest, "name": "../../x"}))
    with pytest.raises(DataError, match="is damaged"):
        VectorIndex(place, encoder)


# --- the command ---


def test_the_command_prints_texts_with_their_places(model: Path, tmp_path: Path) -> None:
    texts = distinct(12)
    notes = tmp_path / "notes.txt"
    notes.write_text("\n\n".join(texts) + "\n")
    done = run(notes, texts[4], "--model", model, "--top", 2)
    assert done.exit_code == 0, done.output
    assert f" 1.000 {notes}:9\n" in done.stdout
    done = run(notes, "--model", model, "--top", 1, "--queries", "-", "--json",
               text=f"{texts[2]}\n\n{texts[7]}\n")  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["query"] for line in lines] == [texts[2], texts[7]]
    assert [line["hits"][0]["line"] for line in lines] == [5, 15]
    assert lines[0]["hits"][0]["text"] == texts[2]
    assert lines[0]["hits"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_the_command_keeps_an_index(model: Path, tmp_path: Path) -> None:
    notes, index = tmp_path / "notes.txt", tmp_path / "index"
    notes.write_text("a b\n\nc d\n")
    arguments = (notes, "a", "--model", model, "--index", index)
    assert "2 texts, 2 of them encoded now" in run(*arguments).stderr
    again = run(*arguments)
    assert "2 texts, 0 of them encoded now" in again.stderr
    assert again.stdout == run(notes, "a", "--model", model).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("notes.txt",), "Give TEXTS and a QUERY"),
        (("notes.txt", " "), "holds no query"),
        (("notes.txt", "a", "--rebuild"), "--rebuild needs --index"),
        (("none.txt", "a"), "none.txt does not exist"),
        (("blank.txt", "a"), "There is no text in"),
    ],
)
def test_what_cannot_be_searched_is_said(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("a\n")
    Path("blank.txt").write_text("\n \n")
    done = run(*arguments, "--model", model)
    assert done.exit_code == 2
    assert message in done.stderr


def test_outside_a_clone_a_model_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("a\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_SHIPPED_IN", tmp_path / "weights")
    done = run(tmp_path / "notes.txt", "a")
    assert done.exit_code == 2
    assert "weights/sentence-mini" in done.stderr
