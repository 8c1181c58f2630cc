"""The tokenizer called in transformers' words: the same answers, or a clear refusal."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings, strategies as st
from tokenizers import AddedToken

import minilm
from minilm import Batch, InputError, Tokenizer
from tokenizer_files import SPECIAL, wordpiece

WORDS = [*SPECIAL, *"abcdefgh.,", "the", "bad", "##ge", "##s", "do", "dog", "##g", "cat", "<e>"]
TEXTS = ["the bad dog", "", "cat.", "a bad badge, [MASK] dogs of the cat do"]
PAIRS = ["cat", "the dogs, a cat", "", "bad dog"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    directory = tmp_path_factory.mktemp("words")
    ours = wordpiece(directory, WORDS, do_lower_case=True, model_max_length=9)
    return ours, transformers.BertTokenizer.from_pretrained(directory)


@pytest.fixture
def ours(tmp_path: Path) -> Tokenizer:
    return wordpiece(tmp_path / "ours", WORDS)


def same(ours: Any, theirs: Any) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[name].dtype == value.dtype
            assert ours[name].tolist() == value.tolist(), name
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(ours[name], value, strict=True)
        else:
            assert as_lists(ours[name]) == as_lists(value), name


def as_lists(value: Any) -> Any:
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


# ------------------------------------------------------------------------------------------ calling


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")  # transformers
@settings(max_examples=200, deadline=None)
@given(
    number=st.sampled_from([None, 1, 2, 4]),
    pairs=st.booleans(),
    words=st.booleans(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "add_special_tokens": st.booleans(),
            "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
            "truncation": st.sampled_from([True, False, "longest_first", "do_not_truncate"]),
            "max_length": st.sampled_from([4, 5, 8, 30]),
            "pad_to_multiple_of": st.sampled_from([None, 4]),
            "return_tensors": st.sampled_from([None, "pt", "np"]),
            "return_attention_mask": st.sampled_from([None, True, False]),
            "return_token_type_ids": st.sampled_from([None, True, False]),
            "return_special_tokens_mask": st.booleans(),
            "return_offsets_mapping": st.booleans(),
        },
    ),
)
def test_any_call(
    both: tuple[Tokenizer, Any],
    number: int | None,
    pairs: bool,
    words: bool,
    options: dict[str, Any],
) -> None:
    """Every combination of arguments gives what transformers gives; what it refuses, we refuse."""
    ours, theirs = both
    texts: Any = TEXTS[:number]
    others: Any = PAIRS[:number] if pairs else None
    if words:
        texts = [text.split() for text in texts if text]
        others = [["a", "cat"] for _ in texts] if pairs else None
    if number is None:
        texts, others = texts[0], others and others[0]
    options = {"return_tensors": None, **options, "is_split_into_words": words}
    expected_options = dict(options)
    if "max_length" in options and "truncation" not in options:
        expected_options["truncation"] = True
    if options["return_tensors"] and "padding" not in options:
        expected_options["padding"] = True
    try:
        expected = theirs(texts, others, **expected_options)
    except ValueError as problem:
        if "pad_to_multiple_of" not in str(problem):  # which we round up all the same
            with pytest.raises(InputError):  # rows of several lengths, as a tensor
                ours(texts, others, **options)
        return
    try:
        batch = ours(texts, others, **options)
    except InputError:
        if options["padding"] == "max_length":  # transformers gives rows longer than that
            padded = ours(texts, others, is_split_into_words=words)["input_ids"]
            assert padded.shape[1] > options.get("max_length", 9)
        else:  # it gives an array of lists
            assert expected["input_ids"].dtype == object
        return
    same(batch, expected)
    if words or options.get("return_offsets_mapping"):
        for index in range(1 if number is None else len(texts)):
            assert batch.word_ids(index) == expected.word_ids(index)
            assert batch.sequence_ids(index) == expected.sequence_ids(index)


@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
@pytest.mark.parametrize("max_length", range(3, 14))
def test_one_side_is_truncated(both: tuple[Tokenizer, Any], strategy: str, max_length: int) -> None:
    ours, theirs = both
    for text, pair in zip(TEXTS, PAIRS, strict=True):
        options = {"truncation": strategy, "max_length": max_length}
        needed = len(theirs([text], [pair])["input_ids"][0]) - max_length
        side = (text, pair)[strategy == "only_second"]
        if needed > 0 and needed >= len(theirs.tokenize(side)):
            with pytest.raises(InputError, match=f'truncation="{strategy}" would have to cut'):
                ours([text], [pair], **options)
        else:
            expected = theirs([text], [pair], **options)
            batch = ours([text], [pair], return_tensors=None, **options)
            same(batch, expected)
            assert batch.truncated == ([0] if needed > 0 else [])


def test_only_first_of_single_texts(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    expected = theirs(TEXTS, truncation="only_first", max_length=4)
    same(ours(TEXTS, truncation="only_first", max_length=4, return_tensors=None), expected)
    with pytest.raises(InputError, match=r"only_second.*needs pairs"):
        ours(TEXTS, truncation="only_second", max_length=4)


def test_the_names_of_transformers(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    for options in ({"text": TEXTS}, {"text": TEXTS, "text_pair": PAIRS}):
        same(ours(**options), theirs(**options, padding=True, return_tensors="pt"))
    with pytest.raises(InputError, match="pairs and text_pair are the same argument"):
        ours("a", "b", text_pair="c")
    with pytest.raises(InputError, match="texts and text are the same argument"):
        ours("a", text="b")


def test_without_arguments_nothing_changed(both: tuple[Tokenizer, Any]) -> None:
    ours, _ = both
    batch = ours(TEXTS, PAIRS)
    assert list(batch) == ["input_ids", "attention_mask", "token_type_ids"]
    lengths = batch["attention_mask"].sum(1)
    assert batch["input_ids"].shape == (4, int(lengths.max()))
    packed = ours(TEXTS, PAIRS, layout="packed")
    assert list(packed) == ["input_ids", "lengths", "token_type_ids"]
    assert packed["lengths"].tolist() == lengths.tolist()


def test_packed_in_other_words(both: tuple[Tokenizer, Any]) -> None:
    ours, _ = both
    packed = ours(
        TEXTS,
        layout="packed",
        padding=False,
        add_special_tokens=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        return_tensors="np",
        truncation=True,
    )
    assert sorted(packed) == ["input_ids", "lengths", "special_tokens_mask"]
    assert packed["input_ids"].tolist() == [n for t in TEXTS for n in ours.pieces(t)[0].ids[:9]]
    assert packed["lengths"].tolist() == [3, 0, 2, 9]
    for options in ({"padding": True}, {"return_attention_mask": True}, {"pad_to_multiple_of": 8}):
        with pytest.raises(InputError, match='layout="packed" has lengths instead'):
            ours(TEXTS, layout="packed", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "all"}, "padding must be True, False.*'all'"),
        ({"padding": 1.5}, "padding must be"),
        ({"truncation": "both"}, "truncation must be.*'both'"),
        ({"return_tensors": "tf"}, "return_tensors must be.*'tf'"),
        ({"return_tensors": True}, "return_tensors must be"),
        ({"padding": False}, "input_ids cannot become one tensor.*padding=True"),
        ({"padding": False, "return_tensors": "np"}, "input_ids cannot become one array"),
        ({"truncation": True}, "truncation=True needs max_length"),
        ({"padding": "max_length"}, 'padding="max_length" needs max_length'),
        (
            {"padding": "max_length", "max_length": 6, "truncation": False},
            "Text 3 has 14 tokens, more than max_length, 6.*truncation=True",
        ),
        ({"return_overflowing_tokens": True}, "return_overflowing_tokens=True.*tokenizer.pieces"),
        ({"stride": 4}, "stride=4 is not supported.*tokenizer.pieces"),
        ({"padding_side": "left"}, "padding_side='left' is not supported.*right"),
        ({"split_special_tokens": True}, "split_special_tokens"),
        ({"return_length": True}, "return_length=True.*attention_mask"),
        ({"max_len": 3}, "no argument 'max_len'"),
        ({"is_split_into_words": True}, r"list of words"),
    ],
)
def test_refused(ours: Tokenizer, options: dict[str, Any], message: str) -> None:
    texts: Any = "the dog" if "is_split_into_words" in options else TEXTS
    with pytest.raises(InputError, match=message):
        ours(texts, **options)


def test_harmless_values_of_refused_arguments(ours: Tokenizer) -> None:
    batch = ours(
        TEXTS, stride=0, return_overflowing_tokens=False, padding_side="right", verbose=False
    )
    assert batch["input_ids"].tolist() == ours(TEXTS)["input_ids"].tolist()


def test_words_of_a_text(ours: Tokenizer) -> None:
    """As scripts for token classification align the labels of words."""
    words = [["the", "badges", "dogs."], ["cat"]]
    batch = ours(words, is_split_into_words=True, truncation=True, max_length=8)
    assert batch.word_ids(batch_index=0) == [None, 0, 1, 1, 1, 2, 2, None]
    assert batch.word_ids[1] == [None, 0, None]
    assert batch.word_ids(1) == [None, 0, *[None] * 6]  # as long as a row of input_ids
    assert batch.offsets[0][2:5] == [(0, 3), (3, 5), (5, 6)]
    assert batch.truncated == [0]
    for bad in (["a", ["b"]], [["a"], "b"], [], [["a", 3]], 3, [3]):
        with pytest.raises(InputError, match="texts"):
            ours(bad, is_split_into_words=True)
    with pytest.raises(InputError, match="text 1 has a lone surrogate"):
        ours([["a"], ["b", "\ud800"]], is_split_into_words=True)


# ---------------------------------------------------------------------------------- ids and tokens


def test_encode_and_decode(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    for text, pair in zip(TEXTS, [None, *PAIRS[:3]][::-1], strict=True):
        pair = pair or None  # transformers takes an empty text for none
        for options in ({}, {"add_special_tokens": False}, {"max_length": 4, "truncation": True}):
            assert ours.encode(text, pair, **options) == theirs.encode(text, pair, **options)
    as_tensor = ours.encode(TEXTS[0], return_tensors="pt")
    assert as_tensor.tolist() == [theirs.encode(TEXTS[0])]
    assert ours.encode(TEXTS) == theirs(TEXTS)["input_ids"]

    ids = ours(TEXTS)["input_ids"]
    for skip in (False, True):
        expected = theirs.batch_decode(ids, skip_special_tokens=skip)
        assert ours.batch_decode(ids, skip_special_tokens=skip) == expected
        assert ours.batch_decode(ids.tolist(), skip) == expected
        assert ours.decode(ids[0], skip, clean_up_tokenization_spaces=False) == expected[0]
    assert ours.batch_decode(ids) == theirs.batch_decode(ids, skip_special_tokens=True)
    assert ours.decode(ours.token_to_id("dog") or 0) == "dog"
    assert ours.decode(torch.tensor(ours.token_to_id("dog"))) == "dog"
    with pytest.raises(InputError, match="clean_up_tokenization_spaces=True"):
        ours.decode(ids[0], clean_up_tokenization_spaces=True)
    with pytest.raises(InputError, match=r"shape \(4, .*batch_decode"):
        ours.decode(ids)


def test_conversion(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    for tokens in ("dog", "nothing", ["dog", "nothing", "[MASK]"], []):
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    for ids in (7, [7, 0, 2], []):
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    ids = ours("the dog")["input_ids"][0]
    assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == ["the", "dog"]
    with pytest.raises(InputError, match="No token has the id 999"):
        ours.convert_ids_to_tokens([999])
    assert ours.get_vocab() == theirs.get_vocab()
    ours.get_vocab().clear()
    assert len(ours) == len(theirs) == len(ours.get_vocab())
    for pair in (False, True):
        expected = theirs.num_special_tokens_to_add(pair)
        assert ours.num_special_tokens_to_add(pair) == ours.num_special_tokens(pair) == expected


def test_attributes_that_others_read(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    for name in ("padding_side", "truncation_side", "is_fast", "pad_token_type_id"):
        assert getattr(ours, name) == getattr(theirs, name)
    for role in ("cls", "sep", "pad", "unk", "mask"):
        assert getattr(ours, f"{role}_token") == getattr(theirs, f"{role}_token")
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    assert ours.model_input_names == theirs.model_input_names
    assert ours.model_max_length == theirs.model_max_length
    assert ours.name_or_path == theirs.name_or_path
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert sorted(ours.all_special_tokens) == sorted(theirs.all_special_tokens)
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    mask = ours.get_special_tokens_mask([2, 8, 3, 0], already_has_special_tokens=True)
    assert mask == theirs.get_special_tokens_mask([2, 8, 3, 0], already_has_special_tokens=True)
    with pytest.raises(InputError, match="already_has_special_tokens=True"):
        ours.get_special_tokens_mask([2])


# --------------------------------------------------------------------------------------- adding


def test_added_tokens_everywhere(ours: Tokenizer, tmp_path: Path) -> None:
    size = len(ours)
    before = ours.get_vocab()
    assert ours.add_tokens(["newword", "dog", "newword", "other word"]) == 2
    assert ours.add_tokens("newword") == 0
    assert ours.add_tokens(AddedToken("<tag>", lstrip=True), special_tokens=True) == 1
    new = {"newword": size, "other word": size + 1, "<tag>": size + 2}
    assert ours.get_vocab() == before | new
    assert ours.vocab_size == len(ours) == size + 3
    text = "the newword [MASK] other word <tag>cat"
    ids = [before["the"], size, before["[MASK]"], size + 1, size + 2, before["cat"]]
    assert ours.all_special_tokens == [*SPECIAL, "<tag>"]

    ours.save_pretrained(tmp_path / "saved")
    again = Tokenizer.from_pretrained(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for tokenizer in (ours, again, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):  # noqa: S301
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer(text, max_length=5)["input_ids"].tolist() == [[2, *ids[:3], 3]]
        assert tokenizer.decode(ids) == "the newword other word cat"
        assert tokenizer.id_to_token(size + 1) == "other word"
        assert tokenizer.token_to_id("<tag>") == size + 2
        assert tokenizer.convert_tokens_to_ids(["<tag>", "newword"]) == [size + 2, size]
        assert tokenizer.get_vocab() == before | new
        with pytest.raises(InputError, match=f"ids go from 0 to {size + 2}"):
            tokenizer.id_to_token(size + 3)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert len(theirs) == len(ours)


@pytest.mark.parametrize("name", ["Bert", "DistilBert", "Albert"])
def test_the_model_grows_with_the_tokenizer(ours: Tokenizer, name: str) -> None:
    config = getattr(minilm, f"{name}Config")(
        vocab_size=len(ours),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = getattr(minilm, f"{name}ForMaskedLM")(config).eval()
    batch = ours(TEXTS)
    before = model(**batch).logits
    assert ours.add_tokens(["zebra", "<x>"]) == 2
    model.resize_token_embeddings(len(ours))
    batch_after = ours(TEXTS)
    assert batch_after["input_ids"].tolist() == batch["input_ids"].tolist()
    torch.testing.assert_close(model(**batch_after).logits[..., : len(WORDS)], before)
    assert model(**ours("a zebra <x>")).logits.shape == (1, 5, len(ours))


def test_added_special_tokens(ours: Tokenizer, tmp_path: Path) -> None:
    size = len(ours)
    assert ours.add_special_tokens({"additional_special_tokens": ["<e>", "[S]"]}) == 1
    assert ours.add_special_tokens({"pad_token": "<p>", "mask_token": "<m>"}) == 2
    assert ours.add_special_tokens({"cls_token": "[CLS]", "extra_special_tokens": []}) == 0
    assert (ours.pad_token_id, ours.mask_token_id) == (size + 1, size + 2)
    assert ours("a [S] <e> <m>")["input_ids"].tolist() == [[2, 5, size, 23, size + 2, 3]]
    assert ours(["a", "a a"])["input_ids"][0].tolist() == [2, 5, 3, size + 1]
    assert ours.decode(ours.encode("a [S] <e> cat")) == "a cat"
    ours.save_pretrained(tmp_path / "saved")
    again = Tokenizer.from_pretrained(tmp_path / "saved")
    assert again.special_tokens_map == ours.special_tokens_map
    assert again.all_special_tokens == ours.all_special_tokens
    for role in ("cls", "sep", "unk", "speaker"):
        with pytest.raises(InputError, match=f"{role}_token cannot become '<new>'"):
            ours.add_special_tokens({f"{role}_token": "<new>"})
    assert ours.token_to_id("<new>") is None


@pytest.mark.parametrize("tokens", ["", [""], ["a", None], [b"a"], 3, ["\ud800"], [["a"]]])
def test_tokens_that_cannot_be_added(ours: Tokenizer, tokens: Any) -> None:
    before = ours.get_vocab()
    for special in (False, True):
        with pytest.raises(InputError, match=r"new_tokens\[|surrogate"):
            ours.add_tokens(tokens, special_tokens=special)
    assert ours.get_vocab() == before


def test_threads_share_a_grown_tokenizer(ours: Tokenizer) -> None:
    ours.add_tokens([f"word{i}" for i in range(50)])
    texts = [f"word{i} the word{49 - i}" for i in range(50)] * 4
    expected = [ours.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ours.encode, texts)) == expected


# ------------------------------------------------------------------------------------------ padding


@pytest.mark.parametrize("as_what", ["lists", "tensors", "batches", "one mapping"])
@pytest.mark.parametrize("options", [{}, {"pad_to_multiple_of": 8}, {"max_length": 20}])
def test_pad(both: tuple[Tokenizer, Any], as_what: str, options: dict[str, Any]) -> None:
    ours, theirs = both
    if "max_length" in options:
        options = {**options, "padding": "max_length"}
    rows = [theirs(text, return_special_tokens_mask=True) for text in TEXTS]
    expected = theirs.pad(rows, return_tensors="pt", **options)
    features: Any = [dict(row) for row in rows]
    if as_what == "tensors":
        features = [{k: torch.tensor(v) for k, v in row.items()} for row in features]
    if as_what == "batches":
        features = [ours(text, return_special_tokens_mask=True) for text in TEXTS]
    if as_what == "one mapping":
        features = {name: [row[name] for row in rows] for name in rows[0]}
    same(ours.pad(features, **options), expected)
    same(
        ours.pad(features, return_tensors=None, **options),
        {name: value.tolist() for name, value in expected.items()},
    )
    same(
        ours.pad(features, return_tensors="np", **options),
        theirs.pad(rows, return_tensors="np", **options),
    )


def test_pad_makes_or_drops_the_mask(ours: Tokenizer) -> None:
    rows = [{"input_ids": [2, 5, 3]}, {"input_ids": [2, 3]}]
    assert ours.pad(rows)["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert list(ours.pad(rows, return_attention_mask=False)) == ["input_ids"]
    batch = ours.pad({"input_ids": [2, 3], "label": 1}, padding="max_length", max_length=4)
    assert batch.input_ids.tolist() == [[2, 3, 0, 0]]
    assert batch.label.tolist() == [1]


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ([], {}, "input_ids, not nothing"),
        ([{"labels": 1}], {}, "input_ids, not labels"),
        ([{"input_ids": [1]}, {"labels": 1}], {}, "Text 1 must be a mapping with the entries"),
        ([[1, 2]], {}, "Text 0 must be a mapping"),
        ([{"input_ids": [1, 2], "attention_mask": [1]}], {}, "attention_mask must have as many"),
        ([{"input_ids": ["a"]}], {}, "input_ids of text 0 must be a row of integers"),
        ([{"input_ids": [[1], [2]]}], {}, "input_ids of text 0 must be a row of integers"),
        ([{"input_ids": [1], "labels": "a"}], {}, "labels cannot become one tensor"),
        (
            [{"input_ids": [1], "labels": [1]}, {"input_ids": [1, 2], "labels": [1, 2]}],
            {},
            "labels cannot become one tensor.*differ in length",
        ),
        (
            [{"input_ids": [1, 2]}],
            {"padding": "max_length", "max_length": 1},
            "Text 0 has 2 tokens",
        ),
        ([{"input_ids": [1]}], {"padding_side": "left"}, "padding_side"),
        ([{"input_ids": [1]}], {"padding": "max_length"}, "needs max_length"),
    ],
)
def test_pad_refuses(ours: Tokenizer, features: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ours.pad(features, **options)
    with pytest.raises(InputError, match="packed batch"):
        ours.pad(ours(TEXTS, layout="packed"))


def test_data_collators_of_transformers(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    rows = [dict(theirs(text)) for text in TEXTS]
    labelled = [{**row, "label": index} for index, row in enumerate(rows)]
    tagged = [{**row, "labels": [index] * len(row["input_ids"])} for index, row in enumerate(rows)]
    for make, features in (
        (transformers.DataCollatorWithPadding, labelled),
        (transformers.DataCollatorForTokenClassification, tagged),
    ):
        for options in ({}, {"pad_to_multiple_of": 8}):
            batch = make(ours, **options)(copy.deepcopy(features))
            expected = make(theirs, **options)(copy.deepcopy(features))
            same(batch, expected)
            assert isinstance(batch, Batch)
    for extra in ({}, {"return_special_tokens_mask": True}):
        collate = [
            transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5, seed=3)
            for tokenizer in (ours, theirs)
        ]
        mine, yours = (c([dict(theirs(text, **extra)) for text in TEXTS]) for c in collate)
        same(mine, yours)
        assert (mine["labels"] != -100).any()


# ------------------------------------------------------------------------------------------ batches


def test_entries_as_attributes(ours: Tokenizer) -> None:
    batch = ours(TEXTS)
    assert batch.input_ids is batch["input_ids"]
    labels = torch.arange(4)
    batch["labels"] = labels
    assert batch.labels is labels
    assert list(batch.keys()) == ["input_ids", "attention_mask", "token_type_ids", "labels"]
    assert dict(batch.items())["labels"] is batch.pop("labels")
    assert "labels" not in batch
    del batch["token_type_ids"]
    assert len(list(batch.values())) == 2
    batch.update(labels=labels)
    assert {**batch}.keys() == {"input_ids", "attention_mask", "labels"}
    assert not hasattr(batch, "token_type_ids")
    with pytest.raises(AttributeError, match="no 'ids'.*input_ids, attention_mask, labels"):
        batch.ids  # noqa: B018
    with pytest.raises(KeyError, match="ids"):
        batch["ids"]
    assert batch.get("ids") is None


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_batches_are_copied_and_sent(ours: Tokenizer, layout: Any) -> None:
    batch = ours(TEXTS, PAIRS, max_length=9, layout=layout, return_offsets=True)
    batch["note"] = "text"
    truncated, offsets, words = batch.truncated, batch.offsets, batch.word_ids
    assert truncated
    sent = pickle.loads(pickle.dumps(batch))  # noqa: S301 - our own bytes, as a data loader sends
    for other in (sent, copy.deepcopy(batch), copy.copy(batch), batch.copy(), batch.to("cpu")):
        assert isinstance(other, Batch)
        assert list(other) == list(batch)
        for name in set(batch) - {"note"}:
            torch.testing.assert_close(other[name], batch[name])
        assert (other.truncated, other.offsets, other.word_ids) == (truncated, offsets, words)
        other["labels"] = torch.zeros(4)
        assert "labels" not in batch
    moved = batch.to("meta", non_blocking=True)
    assert moved.input_ids.device.type == "meta"
    assert moved["note"] == "text"
    # transformers.Trainer and accelerate make a new one of the same type
    assert type(batch)({name: batch[name] for name in ("input_ids",)}).truncated == []


def test_models_take_batches(ours: Tokenizer) -> None:
    config = minilm.BertConfig(
        vocab_size=len(ours),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )
    model = minilm.BertForSequenceClassification(config).eval()
    batch = ours(TEXTS)
    batch["labels"] = torch.tensor([0, 1, 2, 0])
    assert model(**batch).loss is not None
    assert model(**batch.to("cpu")).logits.shape == (4, 3)


def test_threads_share_a_tokenizer_with_any_options(both: tuple[Tokenizer, Any]) -> None:
    tokenizer = both[0]
    calls: list[Callable[[], Any]] = [
        lambda: tokenizer(TEXTS, truncation=True)["input_ids"].tolist(),
        lambda: tokenizer(TEXTS, padding="max_length", max_length=12)["input_ids"].tolist(),
        lambda: tokenizer(TEXTS, add_special_tokens=False, return_tensors=None)["input_ids"],
        lambda: (
            tokenizer(TEXTS, PAIRS, truncation="longest_first", max_length=5)[0:0]
            if False
            else tokenizer([["the", "dog"]], is_split_into_words=True).word_ids
        ),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda call: call(), calls * 25))
    assert results == expected * 25
