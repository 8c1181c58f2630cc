"""The encoder: sentence-transformers' numbers, in the order of the texts, whatever the batches."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, strategies as st

import minilm
import minilm.sentence.encoder
from minilm import ConfigError, Encoder, InputError
from minilm.sentence.encoder import pack
from saved import make_texts, save_tiny


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def encoder(tiny_dir: Path) -> Encoder:
    return Encoder.from_pretrained(tiny_dir)


# --- the numbers ---


def test_equals_sentence_transformers_on_a_real_model(minilm_l6_dir: Path) -> None:
    texts = [
        "A cat sits on the mat.",
        "",
        "Ein Mädchen läuft über die Straße, 東京 2024!",
        "word " * 400,
        *make_texts(20, longest=60),
    ]
    encoder = Encoder.from_pretrained(minilm_l6_dir)
    with pytest.warns(UserWarning, match="1 of 24 texts were longer than 256 tokens"):
        found = encoder.encode(texts)
    # what sentence-transformers runs for this checkpoint: 256 tokens, masked mean, normalise
    model = transformers.AutoModel.from_pretrained(minilm_l6_dir).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_l6_dir)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    means = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    expected = torch.nn.functional.normalize(means, dim=1).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("class_name", ["BertModel", "DistilBertModel", "AlbertForMaskedLM"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_text_as_if_it_were_alone(
    tmp_path: Path, class_name: str, pooling: Any, normalize: bool
) -> None:
    encoder = Encoder.from_pretrained(save_tiny(tmp_path, class_name))
    texts = make_texts(30)
    found = encoder.encode(texts, pooling=pooling, normalize=normalize, tokens_per_batch=50)
    with torch.no_grad():
        for text, vector in zip(texts, found, strict=True):
            states = encoder.model.base(**encoder.tokenizer(text)).last_hidden_state[0]
            expected = states[0] if pooling == "cls" else states.mean(0)
            if normalize:
                expected = expected / expected.norm()
            assert np.abs(vector - expected.numpy()).max() < 1e-5


@pytest.mark.parametrize("budget", [1, 7, 64, 10**9])
def test_the_budget_changes_nothing(encoder: Encoder, budget: int) -> None:
    texts = make_texts(60)
    assert encoder.encode(texts, tokens_per_batch=budget) == pytest.approx(
        encoder.encode(texts), abs=1e-5
    )


def test_half_precision_models_give_float32(tiny_dir: Path, encoder: Encoder) -> None:
    texts = make_texts(10)
    half = Encoder.from_pretrained(tiny_dir, dtype="bfloat16").encode(texts)
    assert half.dtype == np.float32
    assert (half * encoder.encode(texts)).sum(1) == pytest.approx(1.0, abs=0.02)


# --- streams ---


def test_a_stream_reads_and_gives_chunks_in_order(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = make_texts(20)
    whole = encoder.encode(texts)
    monkeypatch.setattr(minilm.sentence.encoder, "CHUNK", 8)
    read = 0

    def reader() -> Iterator[str]:
        nonlocal read
        for text in texts:
            read += 1
            yield text

    stream = encoder.encode_stream(reader())
    first = next(stream)
    assert read == 8
    chunks = [first, *stream]
    assert [len(chunk) for chunk in chunks] == [8, 8, 4]
    assert np.concatenate(chunks) == pytest.approx(whole, abs=1e-5)


def test_generators_and_tuples_are_texts_too(encoder: Encoder) -> None:
    texts = make_texts(5)
    expected = encoder.encode(texts)
    assert np.array_equal(encoder.encode(text for text in texts), expected)
    assert np.array_equal(encoder.encode(tuple(texts)), expected)


def test_no_texts(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.encode([]).dtype == np.float32
    assert list(encoder.encode_stream(iter([]))) == []


def test_an_empty_text_is_its_special_tokens(encoder: Encoder) -> None:
    ids = torch.tensor([[encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id]])
    with torch.no_grad():
        expected = encoder.model.base(ids).last_hidden_state[0].mean(0).numpy()
    found = encoder.encode(["", "   "], normalize=False)
    assert found == pytest.approx(np.stack([expected, expected]), abs=1e-5)


def test_progress_goes_to_stderr(encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    encoder.encode(make_texts(7), progress=True)
    shown = capsys.readouterr()
    assert "7/7" in shown.err
    assert shown.out == ""


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(pack(lengths, budget))
    line = [row for rows in batches for row in rows]
    assert sorted(line) == list(range(len(lengths)))
    assert [lengths[row] for row in line] == sorted(lengths)
    for rows in batches:
        assert len(rows) == 1 or sum(lengths[row] for row in rows) <= budget


# --- lengths and settings ---


def test_long_texts_are_cut_and_reported(encoder: Encoder) -> None:
    assert encoder.max_length == 20
    texts = ["word1 " * 30, "word2", "word1 " * 18]
    with pytest.warns(UserWarning, match="1 of 3 texts were longer than 20 tokens and were cut"):
        found = encoder.encode(texts)
    assert found[0] == pytest.approx(found[2], abs=1e-5)
    with pytest.warns(UserWarning, match="2 of 3 texts were longer than 5 tokens"):
        shorter = encoder.encode(texts, max_length=5)
    assert shorter[0] == pytest.approx(encoder.encode(["word1 word1 word1"])[0], abs=1e-5)
    assert shorter[1] == pytest.approx(found[1], abs=1e-5)


def test_the_checkpoints_own_length_and_pooling_are_the_defaults(tmp_path: Path) -> None:
    plain = Encoder.from_pretrained(save_tiny(tmp_path))
    assert (plain.max_length, plain.pooling) == (20, "mean")
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    encoder = Encoder.from_pretrained(tmp_path)
    assert (encoder.max_length, encoder.pooling) == (7, "cls")
    texts = make_texts(5, longest=5)
    assert np.array_equal(encoder.encode(texts), plain.encode(texts, pooling="cls"))
    assert np.array_equal(encoder.encode(texts, pooling="mean"), plain.encode(texts))


def test_a_length_beyond_the_model_becomes_the_models(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 512}')
    assert Encoder.from_pretrained(tmp_path).max_length == 20


def test_a_pooling_that_minilm_lacks_must_be_chosen(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True})
    )
    encoder = Encoder.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"'mean \+ pooling_mode_max_tokens': minilm has"):
        encoder.encode(["word1"])
    assert encoder.encode(["word1"], pooling="mean").shape == (1, 16)


@pytest.mark.parametrize("content", ['{"max_seq_length": "256"}', '{"max_seq_length": 0}', "[]"])
def test_damaged_settings_are_named(tmp_path: Path, content: str) -> None:
    save_tiny(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"sentence_bert_config\.json"):
        Encoder.from_pretrained(tmp_path)


# --- wrong arguments ---


def test_one_string_is_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"texts is one string: give a list"):
        encoder.encode("word1 word2")


def test_wrong_items_are_named_by_their_place_in_the_stream(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm.sentence.encoder, "CHUNK", 4)
    with pytest.raises(InputError, match=r"texts\[5\] must be a string, not int"):
        encoder.encode([*make_texts(5), 7])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"After the first 4 texts: text 1 has a lone surrogate"):
        encoder.encode([*make_texts(5), "\ud800"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"tokens_per_batch": 0}, "tokens_per_batch is 0"),
        ({"max_length": 21}, "max_length is 21: the model takes 1 to 20 tokens"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 1}, "the special tokens alone need 2"),
    ],
)
def test_wrong_arguments(encoder: Encoder, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode(["word1"], **arguments)


def test_a_model_in_training_mode_is_refused(encoder: Encoder) -> None:
    encoder.model.train()
    with pytest.raises(InputError, match=r"call model.eval\(\) first"):
        encoder.encode(["word1"])
