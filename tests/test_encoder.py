"""The encoder: sentence-transformers' numbers, in the order of the texts, whatever the batches."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from hypothesis import given, strategies as st

import minilm
import minilm.sentence.encoder
from minilm import ConfigError, Encoder, InputError
from minilm.cli import main
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
    with pytest.warns(UserWarning, match="1 of 24 texts was longer than 256 tokens"):
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
    with pytest.warns(UserWarning, match="1 of 3 texts was longer than 20 tokens and was cut"):
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
    with pytest.raises(InputError, match=r"'max \+ mean': minilm has"):
        encoder.encode(["word1"])
    assert encoder.encode(["word1"], pooling="mean").shape == (1, 16)


@pytest.mark.parametrize("content", ['{"max_seq_length": "256"}', '{"max_seq_length": 0}', "[]"])
def test_damaged_settings_are_named(tmp_path: Path, content: str) -> None:
    save_tiny(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"sentence_bert_config\.json"):
        Encoder.from_pretrained(tmp_path)


# --- the words of sentence-transformers ---


def test_one_string_gives_one_vector(encoder: Encoder) -> None:
    vector = encoder.encode("word1 word2")
    assert vector.shape == (16,)
    assert np.array_equal(vector, encoder.encode(["word1 word2"])[0])


def test_sizes_and_places(encoder: Encoder) -> None:
    assert minilm.SentenceEncoder is minilm.Encoder
    assert encoder.get_sentence_embedding_dimension() == encoder.get_embedding_dimension() == 16
    assert encoder.max_seq_length == 20
    assert encoder.device == torch.device("cpu")
    encoder.max_seq_length = 4
    with pytest.warns(UserWarning, match="longer than 4 tokens"):
        encoder.encode(["word1 word2 word3"])
    with pytest.raises(InputError, match="max_length is 21"):
        encoder.max_seq_length = 21


def test_tensors(encoder: Encoder) -> None:
    texts = make_texts(5)
    expected = encoder.encode(texts)
    for options in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
        found = encoder.encode(texts, **options)
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, torch.from_numpy(expected))
    assert encoder.encode("word1", convert_to_tensor=True).shape == (16,)
    assert encoder.encode([], convert_to_tensor=True).shape == (0, 16)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_no_more_texts_at_once_than_asked(
    encoder: Encoder, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = make_texts(20)
    expected = encoder.encode(texts)
    sizes = []
    forward = encoder.model.base.forward

    def watched(*arguments: Any, lengths: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(lengths))
        return forward(*arguments, lengths=lengths, **options)

    monkeypatch.setattr(encoder.model.base, "forward", watched)
    assert encoder.encode(texts, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)
    assert sum(sizes) == 20
    assert max(sizes) == min(batch_size, 20)


def test_the_progress_bar_by_its_other_name(
    encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.encode(make_texts(7), show_progress_bar=True)
    assert "7/7" in capsys.readouterr().err
    encoder.encode(make_texts(7), show_progress_bar=False, progress=True)
    assert capsys.readouterr().err == ""


def test_a_step_of_scikit_learn(encoder: Encoder) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    texts = [f"word{number % 2} word{number}" for number in range(10)]
    labels = [number % 2 for number in range(10)]
    pipeline = make_pipeline(FunctionTransformer(encoder.encode), LogisticRegression())
    assert pipeline.fit(texts, labels).score(texts, labels) > 0.5
    assert np.array_equal(
        FunctionTransformer(encoder.encode).fit_transform(np.array(texts)), encoder.encode(texts)
    )


# --- the files of sentence-transformers, of version 6 and of those before ---

OLD, NEW = "sentence_transformers.models", "sentence_transformers.base.modules.module"


def write(directory: Path, **files: Any) -> Path:
    """A tiny checkpoint with these files: modules, transformer, pooling, prompts, tokenizer."""
    names = {
        "modules": "modules.json",
        "transformer": "sentence_bert_config.json",
        "pooling": "1_Pooling/config.json",
        "prompts": "config_sentence_transformers.json",
        "tokenizer": "tokenizer_config.json",
    }
    save_tiny(directory)
    for key, content in files.items():
        path = directory / names[key]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return directory


def modules(*kinds: str, package: str = OLD) -> list[dict[str, Any]]:
    return [
        {
            "idx": n,
            "name": str(n),
            "path": f"{n}_{kind}" if n else "",
            "type": f"{package}.{kind}",
        }
        for n, kind in enumerate(kinds)
    ]


def by_hand(
    directory: Path, text: str, *, pooling: str, skipped: int = 0, length: int = 20
) -> np.ndarray:
    """One vector as transformers computes it."""
    model = transformers.AutoModel.from_pretrained(directory).eval()
    tokenizer = transformers.BertTokenizerFast(str(directory / "vocab.txt"))
    batch = tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state[0, skipped:]
    return np.asarray(states[0] if pooling == "cls" else states.mean(0))


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}, "mean"),
        ({"embedding_dimension": 16}, "mean"),
    ],
)
@pytest.mark.parametrize("package", [OLD, NEW])
def test_pooling_as_the_files_say(
    tmp_path: Path, config: dict[str, Any], pooling: str, package: str
) -> None:
    listed = modules("Transformer", "Pooling", package=package)
    directory = write(tmp_path, pooling=config, modules=listed)
    found = Encoder.from_pretrained(directory).encode("word3 word9 word4", normalize=False)
    expected = by_hand(directory, "word3 word9 word4", pooling=pooling)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"pooling_mode": "max"}, "'max'"),
        ({"pooling_mode": "weightedmean"}, "'weightedmean'"),
        ({"pooling_mode": "lasttoken"}, "'lasttoken'"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "'mean_sqrt_len_tokens'"),
        ({"pooling_mode": ["cls", "mean"]}, r"'cls \+ mean'"),
        ({"pooling_mode_max_tokens": True}, "'max'"),
        ({"pooling_mode_lasttoken": True}, "'lasttoken'"),
        ({"pooling_mode_weightedmean_tokens": True}, "'weightedmean'"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "'mean_sqrt_len_tokens'"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            r"'cls \+ mean'",
        ),
    ],
)
def test_other_pooling_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], name: str
) -> None:
    encoder = Encoder.from_pretrained(write(tmp_path, pooling=config))
    with pytest.raises(InputError, match=f"pooling is {name}"):
        encoder.encode(["word1"])


@pytest.mark.parametrize(
    "listed",
    [
        [*modules("Transformer", "Pooling", "Dense")],
        [*modules("Transformer", "Pooling", package="somebody.else")],
        [*modules("Transformer", "Normalize", "Pooling")],
        [*modules("Transformer", "Pooling", "Pooling")],
        [*modules("Pooling")],
        [],
        [{"path": ""}],
        {"type": "Transformer"},
        [{"type": f"{OLD}.Transformer", "path": "../elsewhere"}],
        [{"type": f"{OLD}.Transformer", "path": "/etc"}],
    ],
)
def test_modules_that_make_other_vectors_are_refused(tmp_path: Path, listed: Any) -> None:
    with pytest.raises(ConfigError, match=r"modules\.json"):
        Encoder.from_pretrained(write(tmp_path, modules=listed))


@pytest.mark.parametrize("package", [OLD, NEW])
def test_modules_that_normalise(tmp_path: Path, package: str) -> None:
    kinds = ("Transformer", "Pooling", "Normalize")
    for number in (2, 3):
        listed = modules(*kinds[:number], package=package)
        directory = write(tmp_path / str(number), modules=listed)
        encoder = Encoder.from_pretrained(directory)
        raw = by_hand(directory, "word3 word9", pooling="mean")
        unit = raw / np.linalg.norm(raw)
        assert encoder.encode("word3 word9") == pytest.approx(unit, abs=1e-5)
        assert encoder.encode("word3 word9", normalize=False) == pytest.approx(raw, abs=1e-5)
        assert encoder.encode("word3 word9", normalize_embeddings=True) == pytest.approx(
            unit, abs=1e-5
        )
        # sentence-transformers' own switch adds a step, it does not take the model's away
        left = encoder.encode("word3 word9", normalize_embeddings=False)
        assert left == pytest.approx(unit if number == 3 else raw, abs=1e-5)


PROMPTS = {"query": "word7 word8 ", "passage": "word5 ", "empty": None}


@pytest.mark.parametrize(
    ("default", "arguments", "prompt"),
    [
        ("query", {}, "word7 word8 "),
        ("passage", {}, "word5 "),
        ("document", {}, ""),
        (None, {}, ""),
        ("query", {"prompt": ""}, ""),
        ("query", {"prompt": "word2 "}, "word2 "),
        ("query", {"prompt_name": "passage"}, "word5 "),
        ("query", {"prompt_name": "empty"}, ""),
        ("query", {"prompt_name": "document"}, ""),
        (None, {"prompt_name": "query"}, "word7 word8 "),
        (None, {"prompt": "word2 ", "prompt_name": "query"}, "word2 "),
    ],
)
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_prompts(
    tmp_path: Path,
    default: str | None,
    arguments: dict[str, str],
    prompt: str,
    include: bool,
    pooling: str,
) -> None:
    directory = write(
        tmp_path,
        prompts={"prompts": PROMPTS, "default_prompt_name": default, "similarity_fn_name": None},
        pooling={"pooling_mode": pooling, "include_prompt": include},
    )
    encoder = Encoder.from_pretrained(directory)
    found = encoder.encode(["word3", "word4 word9"], normalize=False, **arguments)
    # the prompt's tokens and the [CLS] before them are not pooled
    skipped = 0 if include or not prompt else 1 + len(prompt.split())
    for text, vector in zip(["word3", "word4 word9"], found, strict=True):
        expected = by_hand(directory, prompt + text, pooling=pooling, skipped=skipped)
        assert np.abs(vector - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ([], "word7 word8 "),
        (["--prompt-name", "passage"], "word5 "),
        (["--prompt", "word2 "], "word2 "),
        (["--prompt", ""], ""),
    ],
)
def test_prompts_of_the_command(tmp_path: Path, options: list[str], prompt: str) -> None:
    files = {"prompts": PROMPTS, "default_prompt_name": "query"}
    directory = write(tmp_path / "model", prompts=files)
    (tmp_path / "texts.txt").write_text("word3\nword4 word9\n")
    output = tmp_path / "vectors.npy"
    arguments = ["encode", str(directory), str(tmp_path / "texts.txt"), "-o", str(output)]
    assert CliRunner().invoke(main, [*arguments, *options]).exit_code == 0
    expected = Encoder.from_pretrained(save_tiny(tmp_path / "plain")).encode(
        [prompt + "word3", prompt + "word4 word9"]
    )
    assert np.load(output) == pytest.approx(expected, abs=1e-5)
    both = CliRunner().invoke(main, [*arguments, "--prompt", "a", "--prompt-name", "query"])
    assert both.exit_code == 2
    assert "not both" in both.stderr


def test_a_text_of_which_nothing_is_left_behind_its_prompt(tmp_path: Path) -> None:
    pooling = {"pooling_mode": "mean", "include_prompt": False}
    encoder = Encoder.from_pretrained(write(tmp_path, pooling=pooling))
    with pytest.warns(UserWarning, match="2 of 2 texts were longer than 3 tokens"):
        found = encoder.encode(["word1", "word2"], prompt="word3 word4 ", max_length=3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "config",
    [
        {"prompts": ["query"]},
        {"prompts": {"query": 3}},
        {"prompts": {"query": "x"}, "default_prompt_name": "passage"},
        {"default_prompt_name": ["query"]},
    ],
)
def test_damaged_prompts_are_named(tmp_path: Path, config: Any) -> None:
    with pytest.raises(ConfigError, match=r"config_sentence_transformers\.json"):
        Encoder.from_pretrained(write(tmp_path, prompts=config))


@pytest.mark.parametrize(
    ("transformer", "tokenizer", "length"),
    [
        ({"max_seq_length": 7, "do_lower_case": False}, {}, 7),
        ({"max_seq_length": 7}, {"model_max_length": 12}, 7),
        ({"max_seq_length": 12}, {"model_max_length": 7}, 12),
        ({"max_seq_length": None}, {"model_max_length": 7}, 7),
        ({"transformer_task": "feature-extraction"}, {"model_max_length": 7}, 7),
        ({"processing_kwargs": {"text": {"max_length": 7}}}, {"model_max_length": 12}, 7),
        ({"processing_kwargs": {"common": {"max_length": 7, "padding": True}}}, {}, 7),
        (None, {"model_max_length": 7}, 7),
        (None, {"model_max_length": 512}, 20),
        (None, {"model_max_length": 1e30}, 20),
        ({"max_seq_length": 512}, {"model_max_length": 1e30}, 20),
    ],
)
def test_lengths(tmp_path: Path, transformer: Any, tokenizer: Any, length: int) -> None:
    files = {} if transformer is None else {"transformer": transformer}
    directory = write(tmp_path, tokenizer=tokenizer, **files)
    encoder = Encoder.from_pretrained(directory)
    assert encoder.max_length == length
    text = "word1 word2 word3 word4 word5 word6 word7 " * 4
    with pytest.warns(UserWarning, match=f"longer than {length} tokens"):
        found = encoder.encode(text, normalize=False)
    expected = by_hand(directory, text, pooling="mean", length=length)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["distilbert", "albert"])
def test_settings_under_the_older_names(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / f"sentence_{name}_config.json").write_text('{"max_seq_length": 7}')
    assert Encoder.from_pretrained(tmp_path).max_length == 7


@pytest.mark.parametrize(
    "config",
    [
        {"transformer_task": "sequence-classification"},
        {"modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}},
        {"processing_kwargs": {"text": {"add_special_tokens": False}}},
        {"processing_kwargs": {"text": {"truncation": False}}},
        {"processing_kwargs": {"text": {"max_length": "7"}}},
        {"processing_kwargs": ["text"]},
        {"max_seq_length": True},
        {"max_seq_length": 7.5},
    ],
)
def test_settings_that_make_other_vectors_are_refused(tmp_path: Path, config: Any) -> None:
    with pytest.raises(ConfigError, match=r"sentence_bert_config\.json"):
        Encoder.from_pretrained(write(tmp_path, transformer=config))


def test_lower_case_is_a_setting_too(tmp_path: Path) -> None:
    cased = {"do_lower_case": False}
    for name, asked in (("plain", False), ("lower", True)):
        write(tmp_path / name, tokenizer=cased, transformer={"do_lower_case": asked})
    plain, lower = (Encoder.from_pretrained(tmp_path / name) for name in ("plain", "lower"))
    assert not np.array_equal(plain.encode("Word3 WORD9"), plain.encode("word3 word9"))
    assert np.array_equal(lower.encode("Word3 WORD9"), plain.encode("word3 word9"))
    assert np.array_equal(lower.encode("word3 [MASK]"), plain.encode("word3 [MASK]"))


def test_an_encoder_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "0_Transformer", transformer={"max_seq_length": 7})
    listed = modules("Transformer", "Pooling")
    listed[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    encoder = Encoder.from_pretrained(tmp_path)
    assert (encoder.max_length, encoder.pooling) == (7, "cls")
    plain = Encoder.from_pretrained(tmp_path / "0_Transformer")
    assert np.array_equal(encoder.encode("word3"), plain.encode("word3", pooling="cls"))


# --- wrong arguments ---


def test_a_stream_of_one_string_is_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"texts is one string: give a list"):
        encoder.encode_stream("word1 word2")


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
        ({"batch_size": 0}, "batch_size is 0"),
        ({"prompt_name": "passage"}, "prompt_name is 'passage': .* 'query', 'document'"),
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
