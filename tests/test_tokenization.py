"""Tokenizers: published ids, parity with transformers, batches, and files that must be refused."""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings, strategies as st

from minilm import (
    CheckpointError,
    DependencyError,
    InputError,
    MinilmError,
    Tokenizer,
    TokenizerFileError,
)
from minilm.tokenization import files, sentencepiece
from tokenizer_files import (
    NORMAL,
    PIECES,
    SPECIAL,
    UNKNOWN,
    charsmap,
    description,
    spiece,
    unigram,
    wordpiece,
    write_json,
)

# the vocabulary of transformers' tests/models/bert/test_tokenization_bert.py
TOY = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "want", "##want", "##ed", "wa", "un", "runn"]
TOY += ["##ing", ",", "low", "lowest"]

CASED = [*SPECIAL, *"ABCDEFGHIJabcdefghij0123456789.,-!?'", "##a", "##b", "##e", "##B", "##1", "é"]
CASED += ["The", "the", "bad", "##ge", "Ab", "##ce", "日", "##本", "e", "##́"]

HARD_LINES = [
    "",
    "   \t\n ",
    "A, naïve [MASK] AllenNLP sentence.",
    "İstanbul ŉ ß ﬁ ﬂ Å Å É",
    "日本語と中文 漢字가나다 ไทย ปี",
    "😊👍🏽 👨‍👩‍👧 🇩🇪",
    "nul\x00 bell\x07 vt\x0b del\x7f shy\xad zwsp\u200b ls\u2028ps\u2029 bom\ufeff nel\x85\xa0.",
    "ideographic\u3000space replacement\ufffd tab\tcr\rlf\n",
    "[CLS] in [SEP] the [MASK] text [PAD][UNK] [mask] [ MASK ]",
    "x" * 100 + " " + "x" * 101,
    "don't ``quote'' 92,000.50 $£€ a_b ^=+",
    "ａＢＣ１２①㎏™Ⅷ½ ΑΒΣς Жщ",
    "e\u0301 a\u0308\u0323 \u0301",
    "word " * 40,
]


# ------------------------------------------------------------------------------------------ reading


def rows(batch: Mapping[str, torch.Tensor], name: str = "input_ids") -> list[list[int]]:
    """The rows of a padded or packed batch, without padding."""
    if "lengths" in batch:
        return [row.tolist() for row in batch[name].split(batch["lengths"].tolist())]
    lengths = batch["attention_mask"].sum(1).tolist()
    return [row[:n].tolist() for row, n in zip(batch[name], lengths, strict=True)]


@pytest.fixture
def toy(tmp_path: Path) -> Tokenizer:
    return wordpiece(tmp_path / "toy", TOY)


@pytest.fixture
def cased(tmp_path: Path) -> Tokenizer:
    return wordpiece(tmp_path / "cased", CASED)


# --------------------------------------------------------------------- published values: WordPiece


def test_toy_vocabulary(toy: Tokenizer) -> None:
    tokens = toy.tokenize("UNwant\u00e9d,running")
    assert tokens == ["un", "##want", "##ed", ",", "runn", "##ing"]
    assert toy.convert_tokens_to_ids(tokens) == [9, 6, 7, 12, 10, 11]
    assert toy.tokenize("unwanted running") == ["un", "##want", "##ed", "runn", "##ing"]
    assert toy.tokenize("unwantedX running") == ["[UNK]", "runn", "##ing"]
    assert [toy.tokenize(text) for text in ("Test", "\xad", "")] == [["[UNK]"], [], []]


GREETING = " \tH{}LLo!how  \n Are yoU?  "


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("ah\u535a\u63a8zz", {}, "ah 博 推 zz"),
        (GREETING.format("e"), {}, "hello ! how are you ?"),
        ("H\u00e9llo", {}, "hello"),
        (GREETING.format("ä"), {"strip_accents": False}, "hällo ! how are you ?"),
        ("H\u00e9llo", {"strip_accents": False}, "héllo"),
        (GREETING.format("ä"), {"strip_accents": True}, "hallo ! how are you ?"),
        (GREETING.format("ä"), {"strip_accents": None}, "hallo ! how are you ?"),
        (GREETING.format("e"), {"do_lower_case": False}, "HeLLo ! how Are yoU ?"),
        (
            GREETING.format("ä"),
            {"do_lower_case": False, "strip_accents": False},
            "HäLLo ! how Are yoU ?",
        ),
        (
            GREETING.format("ä"),
            {"do_lower_case": False, "strip_accents": True},
            "HaLLo ! how Are yoU ?",
        ),
        (
            GREETING.format("e") + "[UNK]",
            {"do_lower_case": False},
            "HeLLo ! how Are yoU ? [UNK]",
        ),
        ("a\n'll !!to?'d of, can't.", {}, "a ' ll ! ! to ? ' d of , can ' t ."),
        ("a\u00a0b\tc\rd\u0005e\x00f", {}, "a b c def"),
        ("a$b`c^d+e=f-g.h", {}, "a $ b ` c ^ d + e = f - g . h"),
        ("ab\u535acd", {"tokenize_chinese_chars": False}, "ab博cd"),
    ],
)
def test_basic_tokenization(
    tmp_path: Path, text: str, options: dict[str, object], expected: str
) -> None:
    """The cases of transformers' tests for BERT's basic tokenizer, through a whole tokenizer."""
    words = [word for word in expected.split() if word not in SPECIAL]
    assert wordpiece(tmp_path, [*SPECIAL, *words], **options).tokenize(text) == expected.split()


def test_uncased_ids(minilm_l6_dir: Path) -> None:
    """Ids of bert-base-uncased from bumblebee's tests."""
    tokenizer = Tokenizer.from_pretrained(minilm_l6_dir)
    batch = tokenizer("Test sentence with [MASK].")
    assert batch["input_ids"].tolist() == [[101, 3231, 6251, 2007, 103, 1012, 102]]
    pair = tokenizer("Question?", "Answer")
    assert pair["input_ids"].tolist() == [[101, 3160, 1029, 102, 3437, 102]]
    assert pair["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]
    assert tokenizer.vocab_size == 30522
    assert tokenizer.mask_token_id == 103
    assert tokenizer.model_max_length == 512
    assert tokenizer.all_special_ids == [0, 100, 101, 102, 103]


def test_uncased_offsets(minilm_l6_dir: Path) -> None:
    """From transformers' tests for BERT's tokenizers."""
    tokenizer = Tokenizer.from_pretrained(minilm_l6_dir)
    text = "A, naïve [MASK] AllenNLP sentence."
    batch = tokenizer(text, return_offsets=True)
    tokens = [tokenizer.id_to_token(index) for index in batch["input_ids"][0].tolist()]
    words = ["a", ",", "naive", "[MASK]", "allen", "##nl", "##p", "sentence", "."]
    ends = [(0, 0), (0, 1), (1, 2), (3, 8), (9, 15), (16, 21), (21, 23), (23, 24), (25, 33)]
    assert tokens == ["[CLS]", *words, "[SEP]"]
    assert batch.offsets == [[*ends, (33, 34), (0, 0)]]
    assert batch.word_ids == [[None, 0, 1, 2, 3, 4, 4, 4, 5, 6, None]]


def test_the_files_own_truncation_and_padding_are_off(minilm_l6_dir: Path) -> None:
    own = json.loads((minilm_l6_dir / "tokenizer.json").read_text(encoding="utf-8"))
    assert own["truncation"]["max_length"] == 128
    assert own["padding"]["strategy"] == {"Fixed": 128}
    tokenizer = Tokenizer.from_pretrained(minilm_l6_dir)
    assert tokenizer("word " * 200)["input_ids"].shape == (1, 202)
    assert tokenizer("word")["input_ids"].shape == (1, 3)


def test_case_follows_the_vocabulary_unless_told(tmp_path: Path) -> None:
    reactions = [*SPECIAL, "C", "O", "Br", "c", "o", "="]  # capital letters: cased
    assert wordpiece(tmp_path / "1", reactions).tokenize("CO=c") == ["[UNK]", "=", "c"]
    assert wordpiece(tmp_path / "2", reactions).tokenize("C O") == ["C", "O"]
    told = wordpiece(tmp_path / "3", reactions, do_lower_case=True)
    assert told.tokenize("C O") == ["c", "o"]
    # a few capital words put into an uncased vocabulary do not make it cased
    words = wordpiece(tmp_path / "4", [*SPECIAL, "COVID", "the", "t"])
    assert words.tokenize("The T") == ["the", "t"]


def test_vocab_txt_lines(tmp_path: Path) -> None:
    """Only line feeds end a line; a byte order mark is dropped; the last duplicate counts."""
    data = "\ufeff" + "\r\n".join([*SPECIAL, "a\u2028", "b", "c\x85d", "b"])
    (tmp_path / "vocab.txt").write_bytes(data.encode())
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.token_to_id("a\u2028") == 5
    assert tokenizer.token_to_id("c\x85d") == 7
    assert tokenizer.token_to_id("b") == 8
    assert tokenizer.vocab_size == 9


def test_tokenizer_json_comes_first_and_settings_win(tmp_path: Path) -> None:
    """As in transformers: explicit settings replace those of a BERT-style tokenizer.json."""
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": False,
    }
    write_json(tmp_path / "tokenizer.json", description(normalizer=normalizer))
    (tmp_path / "vocab.txt").write_text("nonsense", encoding="utf-8")
    assert Tokenizer.from_pretrained(tmp_path).tokenize("A a") == ["[UNK]", "a"]
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": True, "strip_accents": None})
    assert Tokenizer.from_pretrained(tmp_path).tokenize("A á") == ["a", "a"]
    verbatim = {"do_lower_case": True, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(tmp_path / "tokenizer_config.json", verbatim)
    assert Tokenizer.from_pretrained(tmp_path).tokenize("A a") == ["[UNK]", "a"]


# ------------------------------------------------------------------------ published values: ALBERT


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The test", "▁the ▁test"),
        ("  the \n\t test\u00a0 ", "▁the ▁test"),
        ("``test''", '▁ " test "'),
        ("falsé", "▁false"),
        ("in 2010, the", "▁in ▁2010 , ▁the"),
        ("in 2010", "▁in ▁2010"),
        ("in 92000, the", "▁in ▁9 2000 , ▁the"),
        ("the [MASK].", "▁the [MASK] ▁ ."),
        ("☃ test", "▁snow ▁test"),
        ("the 漢", "▁the ▁ 漢"),
        ("", ""),
    ],
)
def test_unigram_rules(tmp_path: Path, text: str, tokens: str) -> None:
    tokenizer = unigram(tmp_path)
    assert tokenizer.tokenize(text) == tokens.split()
    known = [piece for piece, _, _ in PIECES]
    ids = [known.index(token) if token in known else 1 for token in tokens.split()]
    assert rows(tokenizer(text)) == [[2, *ids, 3]]


def test_unigram_pairs_and_settings(tmp_path: Path) -> None:
    batch = unigram(tmp_path / "1")("the test", "in")
    assert rows(batch) == [[2, 9, 11, 3, 10, 3]]
    assert rows(batch, "token_type_ids") == [[0, 0, 0, 0, 1, 1]]
    accents = unigram(tmp_path / "2", keep_accents=True)
    assert rows(accents("falsé")) == [[2, 19, *map(accents.token_to_id, "s"), 1, 3]]
    case = unigram(tmp_path / "3", do_lower_case=False)
    assert case.tokenize("The the") == ["▁", "T", "h", "e", "▁the"]
    assert case.tokenize("the ☃") == ["▁the", "▁snow"]
    no_charsmap = unigram(tmp_path / "4", spiece(compiled=None))
    assert no_charsmap.tokenize("the ☃") == ["▁the", "▁", "☃"]


def test_unigram_equals_transformers(tmp_path: Path) -> None:
    """transformers' own pipeline; the rule for digits and commas is put in by hand there."""
    scores = [(piece, score - 100 * (piece in ("▁2010,", "2000,"))) for piece, score, _ in PIECES]
    theirs = transformers.AlbertTokenizer(
        vocab=scores, _spm_precompiled_charsmap=charsmap({"☃": "snow"})
    )
    check_parity(unigram(tmp_path), theirs, [*HARD_LINES, "in 2010, the test ☃ falsé, ``the''"])


# tests/models/albert/test_tokenization_albert.py of transformers, and bumblebee's tests
ALBERT_IDS: dict[str, list[int]] = {
    "Test sentence with [MASK].": [1289, 5123, 29, 4, 13, 9],
    "This is a test": [48, 25, 21, 1289],
    "I was born in 92000, and this is falsé.": [
        *(31, 23, 386, 19, 561, 3050, 15, 17, 48, 25, 4997, 9),
    ],
    "foo": [4310, 111],
    "foo bar": [4310, 111, 748],
    "The quick brown fox jumps over the lazy dog.": [
        *(14, 2231, 886, 2385, 17659, 84, 14, 16792, 1952, 9),
    ],
    "BERT is designed to pre-train deep bidirectional representations from unlabeled text by "
    "jointly conditioning on both left and right context in all layers.": [
        *(11502, 25, 1006, 20, 782, 8, 11809, 855, 1732, 19393, 18667, 37, 367, 21018, 69, 1854),
        *(34, 11860, 19124, 27, 156, 225, 17, 193, 4141, 19, 65, 9124, 9),
    ],
    "Transformers (formerly known as pytorch-transformers and pytorch-pretrained-bert) provides "
    "general-purpose architectures (BERT, GPT-2, RoBERTa, XLM, DistilBert, XLNet...) for Natural "
    "Language Understanding (NLU) and Natural Language Generation (NLG) with over 32+ pretrained "
    "models in 100+ languages and deep interoperability between Jax, PyTorch and TensorFlow.": [
        *(21970, 13, 5, 6092, 167, 28, 7103, 2153, 673, 8, 7028, 12051, 18, 17, 7103, 2153, 673),
        *(8, 3515, 18684, 8, 4461, 6, 1927, 297, 8, 12060, 2607, 18, 13, 5, 4461, 15, 10538, 38),
        *(8, 135, 15, 822, 58, 15, 993, 10363, 15, 1460, 8005, 4461, 15, 993, 255, 2328, 9, 9, 9),
        *(6, 26, 1112, 816, 3260, 13, 5, 103, 2377, 6, 17, 1112, 816, 2782, 13, 5, 103, 10641, 6),
        *(29, 84, 2512, 2430, 782, 18684, 2761, 19, 808, 2430, 2556, 17, 855, 1480, 9477, 4091),
        *(128, 11712, 15, 7103, 2153, 673, 17, 24883, 9990, 9),
    ],
    "This is a test 😊\nI was born in 92000, and this is falsé.\n生活的真谛是\nHi  Hello\n"
    "Hi   Hello\n\n \n  \n Hello\n<s>\nhi<s>there\n"
    "The following string should be properly encoded: Hello.\n"
    "But ird and ปี   ird   ด\nHey how are you doing": [
        *(48, 25, 21, 1289, 13, 1, 31, 23, 386, 19, 561, 3050, 15, 17, 48, 25, 4997, 9, 13, 1),
        *(4148, 10975, 4148, 10975, 10975, 13, 1, 18, 1, 4148, 1, 18, 1, 1887, 14, 249, 3724, 378),
        *(44, 7428, 13665, 45, 10975, 9, 47, 31, 897, 17, 13, 1, 31, 897, 13, 1, 8409, 184, 50),
        *(42, 845),
    ],
}


@pytest.mark.slow
def test_albert_base_ids(tmp_path: Path) -> None:
    """The published 30k model. MINILM_ALBERT_SPIECE names the spiece.model of albert-base-v2."""
    source = os.environ.get("MINILM_ALBERT_SPIECE")
    if source is None:
        pytest.fail("set MINILM_ALBERT_SPIECE to the spiece.model of albert/albert-base-v2")
    data = Path(source).read_bytes()
    tokenizer = unigram(tmp_path / "1", data)
    assert tokenizer.vocab_size == 30000
    assert tokenizer.id_to_token(29999) == "▁eloquent"
    assert tokenizer.all_special_ids == [0, 1, 2, 3, 4]
    for text, ids in ALBERT_IDS.items():
        assert rows(tokenizer(text)) == [[2, *ids, 3]]
    pair = tokenizer("Question?", "Answer")
    assert rows(pair) == [[2, 1301, 60, 3, 1623, 3]]
    assert rows(pair, "token_type_ids") == [[0, 0, 0, 0, 1, 1]]
    accents = unigram(tmp_path / "2", data, keep_accents=True)
    kept = [31, 23, 386, 19, 561, 3050, 15, 17, 48, 25, 8256, 18, 1, 9]
    assert rows(accents("I was born in 92000, and this is falsé.")) == [[2, *kept, 3]]


# ------------------------------------------------------------------------ parity with transformers


def check_parity(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    """Ids, types, offsets, words and decoding, with and without truncation, single and in pairs."""
    others = texts[::-1]
    for pairs in (None, others):
        expected = theirs(
            texts,
            pairs,
            padding=False,
            truncation=False,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        for layout in ("padded", "packed"):
            compare(ours(texts, pairs, layout=layout, return_offsets=True), expected)
            assert rows(ours(texts, pairs, layout=layout)) == expected["input_ids"]
        for max_length in (3, 4, 7, 12):
            limited = theirs(
                texts,
                pairs,
                padding=False,
                truncation=True,
                max_length=max_length,
                return_offsets_mapping=True,
                return_token_type_ids=True,
            )
            batch = ours(texts, pairs, max_length=max_length, return_offsets=True)
            compare(batch, limited)
            longer = [i for i, ids in enumerate(expected["input_ids"]) if len(ids) > max_length]
            assert batch.truncated == longer
    for ids in expected["input_ids"]:
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def compare(batch: Any, expected: Any) -> None:
    n_texts = len(expected["input_ids"])
    assert rows(batch) == expected["input_ids"]
    assert rows(batch, "token_type_ids") == expected["token_type_ids"]
    assert batch.offsets == [[tuple(pair) for pair in row] for row in expected["offset_mapping"]]
    assert batch.word_ids == [expected.word_ids(i) for i in range(n_texts)]
    assert batch.sequence_ids == [expected.sequence_ids(i) for i in range(n_texts)]


@pytest.fixture(scope="module")
def two_minilms(minilm_l6_dir: Path) -> tuple[Tokenizer, Any]:
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_l6_dir)
    return Tokenizer.from_pretrained(minilm_l6_dir), theirs


@pytest.fixture(scope="module")
def two_cased(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    directory = tmp_path_factory.mktemp("cased")
    ours = wordpiece(directory, CASED)
    return ours, transformers.BertTokenizerFast.from_pretrained(directory, do_lower_case=False)


awkward = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="ABCabeg1日本é\u0301 .,!-'[]MASK\t\x00\xad\u200b", max_size=60),
    st.lists(st.sampled_from([*CASED, *HARD_LINES, " "]), max_size=12).map("".join),
)
quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def test_parity_uncased(two_minilms: tuple[Tokenizer, Any]) -> None:
    check_parity(*two_minilms, HARD_LINES)


def test_parity_uncased_vocab_txt(minilm_l6_dir: Path, tmp_path: Path) -> None:
    """The same vocabulary without its tokenizer.json."""
    lines = (minilm_l6_dir / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    ours = wordpiece(tmp_path, lines)
    check_parity(ours, transformers.BertTokenizerFast.from_pretrained(tmp_path), HARD_LINES)


def test_parity_cased(two_cased: tuple[Tokenizer, Any]) -> None:
    check_parity(*two_cased, HARD_LINES)


@quick
@given(texts=st.lists(awkward, min_size=1, max_size=4))
def test_parity_uncased_generated(two_minilms: tuple[Tokenizer, Any], texts: list[str]) -> None:
    check_parity(*two_minilms, texts)


@quick
@given(texts=st.lists(awkward, min_size=1, max_size=4))
def test_parity_cased_generated(two_cased: tuple[Tokenizer, Any], texts: list[str]) -> None:
    check_parity(*two_cased, texts)


# --------------------------------------------------------------------------------- special tokens


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("as_object", [False, True])
def test_special_tokens_by_name(tmp_path: Path, file: str, as_object: bool) -> None:
    names = {"cls": "<s>", "sep": "</s>", "pad": "<p>", "unk": "<u>", "mask": "<m>"}
    tokens = [*names.values(), "a"]
    write_json(
        tmp_path / file,
        {
            f"{role}_token": {"content": token, "lstrip": False} if as_object else token
            for role, token in names.items()
        },
    )
    tokenizer = wordpiece(tmp_path, tokens)
    assert rows(tokenizer("a <m> ?")) == [[0, 5, 4, 3, 1]]
    assert tokenizer.mask_token == "<m>"
    assert tokenizer.pad_token_id == 2
    assert rows(tokenizer("a", "a")) == [[0, 5, 1, 5, 1]]


@pytest.mark.parametrize("role", ["cls", "sep", "pad", "unk"])
def test_missing_special_token(tmp_path: Path, role: str) -> None:
    tokens = [token for token in SPECIAL if token != f"[{role.upper()}]"]
    with pytest.raises(TokenizerFileError, match=rf"vocab\.txt.*\[{role.upper()}\].*{role}_token"):
        wordpiece(tmp_path, [*tokens, "a"])


def test_missing_mask_matters_on_use(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path, [*SPECIAL[:4], "a"])
    assert rows(tokenizer("a")) == [[2, 4, 3]]
    for name in ("mask_token", "mask_token_id"):
        with pytest.raises(TokenizerFileError, match=r"vocab\.txt.*mask token"):
            getattr(tokenizer, name)


def test_added_tokens(tmp_path: Path) -> None:
    """Both places where transformers keeps tokens that users add to a vocab.txt."""
    write_json(tmp_path / "added_tokens.json", {"[NEW]": 7, "newer": 6})
    plain = wordpiece(tmp_path, [*SPECIAL, "a"])
    assert rows(plain("a[NEW] newer")) == [[2, 5, 7, 6, 3]]
    assert plain.vocab_size == 8
    decoder = {
        "6": {"content": "[E1]", "special": True, "normalized": False},
        "5": {"content": "a", "lstrip": True},
    }
    tokenizer = wordpiece(tmp_path, [*SPECIAL, "a"], added_tokens_decoder=decoder)
    assert rows(tokenizer("[E1]a")) == [[2, 6, 5, 3]]
    assert tokenizer.all_special_ids == [0, 1, 2, 3, 4, 6]
    assert tokenizer.decode([6, 5]) == "a"


@pytest.mark.parametrize(
    "added", [{"[NEW]": 9}, {"a": 6}, {"[NEW]": "x"}, {"[NEW]": [1]}, {"": 6}, {"[NEW]": None}]
)
def test_added_tokens_that_do_not_fit(tmp_path: Path, added: dict[str, object]) -> None:
    write_json(tmp_path / "added_tokens.json", added)
    with pytest.raises(TokenizerFileError, match=r"added_tokens\.json"):
        wordpiece(tmp_path, [*SPECIAL, "a"])


# ------------------------------------------------------------------------------------------ batches


def test_padded_and_packed_hold_the_same(cased: Tokenizer) -> None:
    texts, pairs = ["A bad badge", "", "the 日本"], ["e", "The B", ""]
    padded, packed = cased(texts, pairs), cased(texts, pairs, layout="packed")
    assert list(padded) == ["input_ids", "attention_mask", "token_type_ids"]
    assert list(packed) == ["input_ids", "lengths", "token_type_ids"]
    assert {value.dtype for value in (*padded.values(), *packed.values())} == {torch.int64}
    assert packed["lengths"].tolist() == padded["attention_mask"].sum(1).tolist()
    mask = padded["attention_mask"].bool()
    for name in ("input_ids", "token_type_ids"):
        torch.testing.assert_close(padded[name][mask], packed[name])
        assert (padded[name][~mask] == 0).all()
    assert not mask.all()
    assert repr(packed) == "Batch(input_ids (19,), lengths (3,), token_type_ids (19,); 0 truncated)"


def test_padding_uses_the_pad_token(toy: Tokenizer) -> None:
    assert toy.pad_token_id == 3
    assert toy(["low lowest", "low"])["input_ids"].tolist() == [[1, 13, 14, 2], [1, 13, 2, 3]]


@pytest.mark.parametrize("name", ["Bert", "DistilBert", "Albert"])
def test_batches_go_into_models(cased: Tokenizer, name: str) -> None:
    import minilm

    config = getattr(minilm, f"{name}Config")(
        vocab_size=cased.vocab_size,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = getattr(minilm, f"{name}Model")(config).eval()
    texts = ["A bad badge", "the"]
    batch = cased(texts)
    padded = model(**batch).last_hidden_state
    packed = model(**cased(texts, layout="packed")).last_hidden_state
    torch.testing.assert_close(padded[batch["attention_mask"].bool()], packed)


def test_one_text_is_a_batch_of_one(cased: Tokenizer) -> None:
    assert rows(cased("the bad")) == rows(cased(["the bad"]))
    assert rows(cased("the", "bad")) == rows(cased(("the",), ["bad"]))


def test_to_keeps_everything(cased: Tokenizer) -> None:
    batch = cased(["a bad badge", "the"], max_length=4, return_offsets=True)
    moved = batch.to("meta")
    assert moved["input_ids"].device.type == "meta"
    assert batch["input_ids"].device.type == "cpu"
    assert moved.truncated == batch.truncated == [0]
    assert moved.offsets == batch.offsets


def test_offsets_have_to_be_asked_for(cased: Tokenizer) -> None:
    batch = cased("the", "bad")
    assert batch.sequence_ids == [[None, 0, None, 1, None]]
    for name in ("offsets", "word_ids"):
        with pytest.raises(InputError, match=f"batch.{name} needs .*return_offsets=True"):
            getattr(batch, name)


def test_offsets_index_the_original_strings(cased: Tokenizer) -> None:
    texts, pairs = ["😊 the\xad bad日"], ["É́ badge"]
    batch = cased(texts, pairs, return_offsets=True)
    spans = [
        (texts[0], pairs[0])[which][start:end]
        for (start, end), which in zip(batch.offsets[0], batch.sequence_ids[0], strict=True)
        if which is not None
    ]
    assert spans == ["😊", "the", "bad", "日", "É́", "bad", "ge"]


def test_truncation_is_reported(cased: Tokenizer) -> None:
    texts = ["a b c d", "a", "a b c", "a b"]
    batch = cased(texts, max_length=4, layout="packed")
    assert batch.truncated == [0, 2]
    assert rows(batch) == rows(cased(["a b", "a", "a b", "a b"]))
    assert cased(texts, max_length=6).truncated == []
    assert cased(texts).truncated == []
    assert rows(cased("a", max_length=2)) == [[cased.cls_token_id, cased.sep_token_id]]


@given(
    first=st.integers(0, 9), second=st.integers(0, 9), room=st.integers(0, 12), layout=st.booleans()
)
@quick
def test_pairs_lose_the_longer_side_first(
    two_cased: tuple[Tokenizer, Any], first: int, second: int, room: int, layout: bool
) -> None:
    tokenizer = two_cased[0]
    batch = tokenizer("a " * first, "b " * second, max_length=room + 3)
    (which,) = batch.sequence_ids
    kept = which.count(0), which.count(1)
    assert sum(kept) == min(first + second, room)
    assert batch.truncated == ([0] if first + second > room else [])
    for kept_here, here, kept_there in ((kept[0], first, kept[1]), (kept[1], second, kept[0])):
        # a side that lost tokens ends at least as long as the other, give or take the odd one
        assert kept_here == here or kept_here >= kept_there - 1


@pytest.mark.timeout(60)
def test_long_pairs_take_linear_time(cased: Tokenizer) -> None:
    """The Rust library would build every combination of cut-off pieces: minutes and gigabytes."""
    batch = cased("a " * 30_000, "b " * 30_000, max_length=8, return_offsets=True)
    assert batch["input_ids"].shape == (1, 8)
    assert batch.sequence_ids == [[None, 0, 0, None, 1, 1, 1, None]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t([]), "texts is empty"),
        (lambda t: t(["a"], []), "pairs is empty"),
        (lambda t: t(["a", None]), r"texts\[1\] must be a string, not NoneType"),
        (lambda t: t([("a", "b")]), r"texts\[0\] must be a string, not tuple"),
        (lambda t: t("a", [b"b"]), r"pairs\[0\] must be a string, not bytes"),
        (lambda t: t(3), "texts must be a string or strings, not int"),
        (lambda t: t(["a", "b"], ["c"]), "2 texts, but 1 pair;"),
        (lambda t: t("a", max_length=1), "max_length is 1, .*need 2"),
        (lambda t: t("a", "b", max_length=2), "max_length is 2, .*need 3"),
        (lambda t: t("a", layout="flat"), "layout must be .*'flat'"),
        (lambda t: t(["a", "b\ud800"]), "text 1 has a lone surrogate .* at character 1"),
        (lambda t: t(["a", "b"], ["c", "\udfff"]), "text 1 has a lone surrogate"),
        (lambda t: t(["a", "\ud800"], max_length=5), "text 1 has a lone surrogate"),
        (lambda t: t.tokenize("\ud800"), "text 0 has a lone surrogate"),
        (lambda t: t.decode([5, -100]), r"ids\[1\] is -100"),
        (lambda t: t.decode([10**9]), r"ids\[0\] is 1000000000"),
        (lambda t: t.decode([[5]]), r"ids\[0\] is \[5\]"),
        (lambda t: t.decode(torch.zeros(2, 2)), r"shape \(2, 2\).*one dimension"),
        (lambda t: t.decode(torch.tensor(-1)), r"ids\[0\] is -1"),
        (lambda t: t.decode(["a"]), r"ids\[0\] is 'a'"),
        (lambda t: t.id_to_token(-1), "No token has the id -1"),
    ],
)
def test_wrong_arguments(cased: Tokenizer, call: Callable[[Any], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(cased)


# -------------------------------------------------------------------------- ids and text, in memory


def test_tokens_and_ids(cased: Tokenizer) -> None:
    assert cased.token_to_id("The") == CASED.index("The")
    assert cased.token_to_id("nothing") is None
    assert cased.id_to_token(CASED.index("##ge")) == "##ge"
    assert cased.convert_tokens_to_ids(["bad", "nothing"]) == [CASED.index("bad"), 1]


def test_decode(cased: Tokenizer) -> None:
    batch = cased("The badge, bad!")
    assert cased.decode(batch["input_ids"][0]) == "The badge, bad!"
    kept = cased.decode(batch["input_ids"][0].tolist(), skip_special_tokens=False)
    assert kept == "[CLS] The badge, bad! [SEP]"
    assert cased.decode(np.array([CASED.index("The")])) == "The"
    assert cased.decode([]) == ""


def test_threads_and_pickles_share_no_state(cased: Tokenizer) -> None:
    texts = ["a bad badge the"] * 20
    expected = {length: rows(cased(texts, max_length=length)) for length in (3, 4, 5, 6)}
    copy = pickle.loads(pickle.dumps(cased))  # noqa: S301 - our own bytes, as a data loader sends
    with ThreadPoolExecutor(4) as pool:
        for length, result in zip(
            [3, 4, 5, 6] * 10,
            pool.map(lambda n: rows(copy(texts, max_length=n)), [3, 4, 5, 6] * 10),
            strict=True,
        ):
            assert result == expected[length]


def test_constructor_takes_any_backend() -> None:
    """Reaction SMILES: a vocabulary that needs another way of splitting."""
    from tokenizers import Regex, Tokenizer as Backend, models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "C", "[C@H]", "=", "Br"])}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\[[^\]]+]|Br|."), "isolated")
    backend.enable_truncation(2)
    tokenizer = Tokenizer(backend, special_tokens={"mask": "="}, model_max_length=9)
    assert rows(tokenizer("C[C@H]Br", "C")) == [[2, 5, 6, 8, 3, 5, 3]]
    assert tokenizer.mask_token_id == 7
    assert tokenizer.model_max_length == 9
    with pytest.raises(TokenizerFileError, match="backend: the pad token"):
        Tokenizer(backend, special_tokens={"pad": "nothing"})


# ------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "minilm"])
def test_save_and_load(tmp_path: Path, minilm_l6_dir: Path, kind: str) -> None:
    makers: dict[str, Callable[[], Tokenizer]] = {
        "wordpiece": lambda: wordpiece(tmp_path / "in", CASED, model_max_length=77),
        "unigram": lambda: unigram(tmp_path / "in", keep_accents=True, model_max_length=1e30),
        "minilm": lambda: Tokenizer.from_pretrained(minilm_l6_dir),
    }
    ours = makers[kind]()
    target = tmp_path / "new" / "directory"
    ours.save_pretrained(target)
    first = {path.name: path.read_bytes() for path in target.iterdir()}
    assert set(first) == {"tokenizer.json", "tokenizer_config.json"}
    again = Tokenizer.from_pretrained(target)
    lines = [*HARD_LINES, "The badge", "in 2010, ☃"]
    assert rows(again(lines, lines)) == rows(ours(lines, lines))
    assert again.model_max_length == ours.model_max_length
    assert again.mask_token_id == ours.mask_token_id
    again.save_pretrained(target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == first
    check_parity(ours, transformers.AutoTokenizer.from_pretrained(target), lines)


def test_saved_beside_a_model_config(tmp_path: Path, cased: Tokenizer) -> None:
    """transformers looks at the model type as well; the ids stay ours."""
    write_json(tmp_path / "config.json", {"model_type": "albert"})
    cased.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(HARD_LINES)["input_ids"] == rows(cased(HARD_LINES))
    assert theirs.mask_token_id == cased.mask_token_id
    assert theirs.pad_token_id == cased.pad_token_id


def test_save_where_it_cannot(tmp_path: Path, cased: Tokenizer) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="file"):
        cased.save_pretrained(tmp_path / "file")


# ------------------------------------------------------------------- files that must not be trusted


def wordpiece_model(**changes: object) -> dict[str, Any]:
    model: dict[str, Any] = description()["model"]
    return model | changes


def bpe(vocabulary: list[str], **changes: object) -> dict[str, Any]:
    ids = {token: index for index, token in enumerate([*SPECIAL, *vocabulary])}
    return {"type": "BPE", "vocab": ids, "merges": [], "unk_token": "[UNK]"} | changes


def added_token(index: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, "special": True} | flags


def precompiled(data: bytes | None) -> dict[str, Any]:
    text = None if data is None else base64.b64encode(data).decode()
    return {"type": "Precompiled", "precompiled_charsmap": text}


TEMPLATE: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}
UNIGRAM = {"type": "Unigram", "unk_id": 1, "vocab": [[token, 0.0] for token in [*SPECIAL, "a"]]}

# "panic" marks those that make the Rust library panic, with tokenizers 0.23
MALFORMED: dict[str, dict[str, Any]] = {
    "panic: empty charsmap": {"normalizer": precompiled(b"")},
    "panic: null charsmap": {"normalizer": precompiled(None)},
    "panic: charsmap too short": {"normalizer": precompiled(b"\0\0")},
    "panic: charsmap with a wrong size": {"normalizer": precompiled(b"\xff\xff\xff\xff\0\0")},
    "panic: charsmap whose trie is too small": {"normalizer": precompiled(charsmap({}, size=1))},
    "panic: template without its special token": {"post_processor": TEMPLATE},
    "panic: pieces of length 0": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "panic: merge longer than any token": {"model": bpe(["a"], merges=["[MASK] a"])},
    "panic: prefix longer than a token": {
        "model": bpe(["a", "b", "ab"], merges=["a b"], continuing_subword_prefix="#" * 9)
    },
    "panic: decoder strips more than there is": {
        "decoder": {"type": "Strip", "content": "a", "start": 9, "stop": 9}
    },
    "bad regex in Split": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(["},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "bad regex in Replace": {
        "normalizer": {"type": "Replace", "pattern": {"Regex": "(["}, "content": ""}
    },
    "unigram unk_id out of range": {"model": UNIGRAM | {"unk_id": 99}},
    "unigram without unk_id": {"model": UNIGRAM | {"unk_id": None}},
    "unigram without pieces": {"model": UNIGRAM | {"vocab": []}},
    "unigram with a null score": {"model": UNIGRAM | {"vocab": [["a", None]]}},
    "negative token id": {"model": wordpiece_model(vocab={"[PAD]": -1})},
    "vocabulary of another type": {"model": wordpiece_model(vocab=[1, 2])},
    "empty vocabulary": {"model": wordpiece_model(vocab={})},
    "unknown token missing": {"model": wordpiece_model(unk_token="nothing")},
    "unknown kind of model": {"model": {"type": "Magic"}},
    "unknown normaliser": {"normalizer": {"type": "Magic"}},
    "no model": {"model": None},
    "negative id of an added token": {"added_tokens": [added_token(-7, "x")]},
    "added token without content": {"added_tokens": [{"id": 7}]},
    "added tokens of another type": {"added_tokens": {"a": 1}},
    "dropout out of range": {"model": bpe(["a"], dropout=7.0)},
    "character of two letters": {
        "pre_tokenizer": {"type": "Metaspace", "replacement": "ab", "prepend_scheme": "always"}
    },
    "template without the text": {"post_processor": TEMPLATE | {"single": [], "pair": []}},
    "template with one text of two": {
        "post_processor": TEMPLATE | {"single": TEMPLATE["pair"][:1], "pair": TEMPLATE["pair"][:1]}
    },
    "normaliser that removes all": {
        "normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    },
    "lone surrogate": {"model": wordpiece_model(unk_token="\ud800")},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_tokenizer_json(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "tokenizer.json", description(**MALFORMED[name]))
    with pytest.raises(TokenizerFileError, match=r"tokenizer\.json") as caught:
        Tokenizer.from_pretrained(tmp_path)
    cause = caught.value.__cause__
    if name.startswith("panic"):
        assert type(cause).__name__ == "PanicException"
        assert not isinstance(cause, Exception)


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 5}},
        {"truncation": {"max_length": 0, "strategy": "OnlyFirst", "stride": 0}},
        {"truncation": "nonsense"},
        {"padding": {"strategy": {"Fixed": 10**12}, "pad_id": 0, "pad_to_multiple_of": 0}},
        {"model": wordpiece_model(max_input_chars_per_word=0)},
        {"added_tokens": [added_token(99, "")]},
        {"added_tokens": [added_token(99, "x")]},
    ],
)
def test_harmless_once_switched_off(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Settings that panic or exhaust memory elsewhere are not even read, or do no harm."""
    write_json(tmp_path / "tokenizer.json", description(**changes))
    assert Tokenizer.from_pretrained(tmp_path)("a b ä")["input_ids"].shape == (1, 5)


def test_panic_while_encoding_names_the_text(tmp_path: Path) -> None:
    """A charsmap whose trie ends early: only bytes from 0x90 on fall out of it."""
    damaged = precompiled(charsmap({}, size=256 + 0x90))
    write_json(tmp_path / "tokenizer.json", description(normalizer=damaged))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    for options in ({}, {"return_offsets": True}, {"max_length": 9}):
        with pytest.raises(MinilmError, match=r"text 2 \('é'\)"):
            tokenizer(["a", "b", "é"], **options)
    with pytest.raises(MinilmError, match=r"text 1 .*'é'"):
        tokenizer(["a", "b"], ["a", "é"])
    assert rows(tokenizer(["a", "b"])) == [[2, 5, 3], [2, 6, 3]]


def test_interrupts_pass() -> None:
    with pytest.raises(KeyboardInterrupt), files.guarded(MinilmError, "here"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b'{"a": 1, "a": 2}', b"\xff", b'{"version": NaN}', b"[" * 10000],
)
@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
def test_not_json(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL), encoding="utf-8")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerFileError, match=name.replace(".", r"\.")):
        Tokenizer.from_pretrained(tmp_path)


def test_cut_tokenizer_json(tmp_path: Path) -> None:
    whole = json.dumps(description()).encode()
    for end in range(0, len(whole), 17):
        (tmp_path / "tokenizer.json").write_bytes(whole[:end])
        with pytest.raises(TokenizerFileError, match=r"tokenizer\.json"):
            Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_lower_case": "yes"}, "do_lower_case must be true, false or null, not 'yes'"),
        ({"strip_accents": 1}, "strip_accents"),
        ({"tokenize_chinese_chars": []}, "tokenize_chinese_chars"),
        ({"cls_token": 3}, "cls_token must be a string or an object with content, not 3"),
        ({"pad_token": {"text": "x"}}, "pad_token"),
        ({"mask_token": ""}, "mask_token"),
        ({"model_max_length": "512"}, "model_max_length must be a positive number, not '512'"),
        ({"model_max_length": -1}, "model_max_length"),
        ({"model_max_length": True}, "model_max_length"),
        ({"added_tokens_decoder": {"x": {"content": "y"}}}, "added token"),
        ({"added_tokens_decoder": {"5": {}}}, "added token with id 5"),
        (
            {"added_tokens_decoder": {"5": {"content": "y", "lstrip": "z"}}},
            "added token with id 5.*flags",
        ),
    ],
)
def test_malformed_settings(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(TokenizerFileError, match=message) as caught:
        wordpiece(tmp_path, SPECIAL, **options)
    assert "tokenizer_config.json" in str(caught.value)


def test_malformed_vocab_txt(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[PAD]\n[UNK]\n\xff\xfe\n")
    with pytest.raises(TokenizerFileError, match=r"vocab\.txt, line 3: not UTF-8"):
        Tokenizer.from_pretrained(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(TokenizerFileError, match=r"vocab\.txt: the cls token"):
        Tokenizer.from_pretrained(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(TokenizerFileError, match=r"vocab\.txt is a directory"):
        Tokenizer.from_pretrained(tmp_path)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerFileError, match=r"none of tokenizer\.json, vocab\.txt, spiece"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "spiece.model"])
def test_size_limit(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"x" * 101)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    with pytest.raises(TokenizerFileError, match=rf"{name}.*101"):
        Tokenizer.from_pretrained(tmp_path)


MALFORMED_SPIECE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no pieces"),
    "text": (b"this is no protocol buffer", "damaged|no pieces"),
    "no unknown piece": (spiece([PIECES[0], *PIECES[2:]]), "one unknown piece, found 0"),
    "two unknown pieces": (spiece([*PIECES, ("?", 0.0, UNKNOWN)]), "one unknown piece, found 2"),
    "BPE": (spiece(model_type=2), "model_type is 2"),
    "fewer pieces than stated": (spiece(vocab_size=99), "cut short"),
    "empty piece": (spiece([*PIECES, ("", -1.0, NORMAL)]), "is empty or a duplicate"),
    "duplicate piece": (spiece([*PIECES, PIECES[9]]), "'▁the'. is empty or a duplicate"),
    "NaN": (spiece([*PIECES, ("x!", float("nan"), NORMAL)]), "score .* is nan"),
    "infinity": (spiece([*PIECES, ("x!", float("inf"), NORMAL)]), "score .* is inf"),
    "not UTF-8": (spiece([*PIECES, (b"\xff", -1.0, NORMAL)]), "not UTF-8"),
    "no dummy prefix": (spiece(switches={3: 0}), "add_dummy_prefix is false"),
    "whitespace kept": (spiece(switches={4: 0}), "remove_extra_whitespaces is false"),
    "whitespace not escaped": (spiece(switches={5: 0}), "escape_whitespaces is false"),
    "damaged charsmap": (spiece(compiled=b"\xff\xff\xff\xff\0"), "damaged or not supported"),
    "charsmap cut": (spiece(compiled=charsmap({}, size=1)), "tokenizers library failed"),
    "no separator": (spiece([p for p in PIECES if p[0] != "[SEP]"]), "sep token"),
}


@pytest.mark.parametrize("name", MALFORMED_SPIECE)
def test_malformed_spiece_model(tmp_path: Path, name: str) -> None:
    data, message = MALFORMED_SPIECE[name]
    with pytest.raises(TokenizerFileError, match=message) as caught:
        unigram(tmp_path, data)
    assert "spiece.model" in str(caught.value)


def test_cut_spiece_model(tmp_path: Path) -> None:
    """No part of the file passes for the whole, wherever it ends."""
    whole = spiece(PIECES[:9], compiled=None)
    assert unigram(tmp_path, whole).vocab_size == 9
    for end in range(len(whole)):
        with pytest.raises(TokenizerFileError, match=r"spiece\.model"):
            unigram(tmp_path, whole[:end])


def test_spiece_model_without_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentencepiece._message_class.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(DependencyError, match=r"pip install 'minilm\[sentencepiece\]'"):
        unigram(tmp_path)


def test_a_wrong_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(MinilmError, match="nowhere"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")
