"""Words of a text in any script, and answers and entities that end where letters end."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch

import minilm
from minilm.tasks.tagging import Tagging
from minilm.tasks.utterances import INTENT
from minilm.tasks.words import whole_letters, word_spans
from task_data import VOCABULARY, save_start

ENTITY = {"O": 0, "B-LOC": 1, "I-LOC": 2}


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, 'Ada'!", ["Don", "'t", "stop", ",", "'", "Ada", "'", "!"]),
        ("l’été a_b 3.5", ["l", "’été", "a_b", "3", ".", "5"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("தமிழ் கொடு", ["தமிழ்", "கொடு"]),
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("San\u00adtiago de\u2060f", ["San\u00adtiago", "de\u2060f"]),
        ("new\u200byork a\x01b", ["new\u200byork", "a\x01b"]),
        ("\ufeffabc \u200f שלום\u200f, x", ["abc", "שלום\u200f", ",", "x"]),
        ("👍🏽👨\u200d👩\u200d👧 🇩🇪🇫🇷 1️⃣", ["👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "🇫🇷", "1️⃣"]),
        ("我爱北京NYC タワー", ["我", "爱", "北", "京", "NYC", "タワー"]),
        (" \u00a0x\u3000y\n", ["x", "y"]),
        ("\u200b \u00ad", []),
    ],
)
def test_words_of_a_text(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    "text",
    ["José Saramago's café", "Ångström, Việt Nam", "한국어 서울", "l'été’à", "Ελλάδα ἐν", "ガギグ"],
)
def test_words_do_not_depend_on_how_letters_are_composed(text: str) -> None:
    composed, apart = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert composed != apart
    assert [unicodedata.normalize("NFC", word) for word in words(apart)] == words(composed)


def test_letters_are_not_cut_from_their_marks() -> None:
    text = "cafe\u0323\u0301 \u0939\u093f 👍🏽."
    assert whole_letters(text, 0, 4) == (0, 6)
    assert whole_letters(text, 5, 6) == (3, 6)
    assert whole_letters(text, 7, 8) == (7, 9)
    assert whole_letters(text, 10, 11) == (10, 12)
    assert whole_letters(text, 0, 3) == (0, 3)


def fixed_predictor(directory: Path, labels: dict[str, int], always: int) -> minilm.Predictor:
    """A model that finds the same label everywhere."""
    path = save_start(
        directory, head="ForTokenClassification", id2label={n: name for name, n in labels.items()}
    )
    predictor = minilm.Predictor.from_pretrained(path)
    with torch.no_grad():
        predictor.model.classifier.weight.zero_()
        predictor.model.classifier.bias.zero_()
        predictor.model.classifier.bias[always] = 9.0
    return predictor


@pytest.mark.parametrize(
    "text",
    [
        "Jose\u0301 Saramago",
        "San\u00adtiago de Chile",
        "new\u200byork",
        "rome \ufffd oslo",  # a sign that the tokenizer leaves out
        "rome \ufffd\ufffd oslo",
        "हिन्दी में",
        "a\x01b \x02 c",
    ],
)
def test_what_the_model_cannot_see_cuts_no_entity(tmp_path: Path, text: str) -> None:
    found = fixed_predictor(tmp_path / "model", ENTITY, 2)(text)
    assert [entity["text"] for entity in found["entities"]] == [text]
    assert found["tags"] == ["I-LOC"] * len(found["tokens"])


def test_composed_and_decomposed_texts_have_the_same_entities(tmp_path: Path) -> None:
    path = save_start(
        tmp_path / "model",
        head="ForTokenClassification",
        id2label={n: t for t, n in ENTITY.items()},
    )
    predictor = minilm.Predictor.from_pretrained(path)
    for text in ("josé in são paulo", "ångström à rome, café", "één twee drieën"):
        composed, apart = (predictor(unicodedata.normalize(form, text)) for form in ("NFC", "NFD"))
        assert composed["tags"] == apart["tags"]
        assert [entity["text"] for entity in composed["entities"]] == [
            unicodedata.normalize("NFC", entity["text"]) for entity in apart["entities"]
        ]


def test_utterances_have_the_same_words(tmp_path: Path) -> None:
    labels = {**ENTITY, INTENT + "go": 3, INTENT + "stay": 4}
    predictor = fixed_predictor(tmp_path / "model", labels, 2)
    found = predictor("Jose\u0301 \ufffd New\u200bYork")
    assert found["intent"] in ("go", "stay")
    assert [entity["text"] for entity in found["entities"]] == ["Jose\u0301 \ufffd New\u200bYork"]


def filled(tags: list[str], labels: tuple[str, ...] = tuple(ENTITY)) -> list[str]:
    return Tagging(labels, 16)._filled(tags)


def test_unseen_words_are_what_their_neighbours_make_them() -> None:
    assert filled(["B-LOC", "", "I-LOC"]) == ["B-LOC", "I-LOC", "I-LOC"]
    assert filled(["I-LOC", "", "", "I-LOC", ""]) == ["I-LOC"] * 4 + ["O"]
    assert filled(["B-LOC", "", "B-LOC"]) == ["B-LOC", "O", "B-LOC"]
    assert filled(["", "I-LOC"]) == ["O", "I-LOC"]
    assert filled(["O", "", "I-LOC"]) == ["O", "O", "I-LOC"]
    assert filled(["", ""]) == ["O", "O"]
    assert filled([]) == []
    more = (*ENTITY, "B-PER", "I-PER")
    assert filled(["B-PER", "", "I-LOC"], more) == ["B-PER", "O", "I-LOC"]
    assert filled(["NOUN", "", "NOUN"], ("ADJ", "NOUN")) == ["NOUN", "ADJ", "NOUN"]


@pytest.mark.parametrize(
    "context", ["cafe\u0301", "CAFE\u0301", "cafe\u0323\u0301", "the naive\u0308", "हिन्दी"]
)
def test_answers_keep_the_marks_of_their_last_letter(tmp_path: Path, context: str) -> None:
    path = save_start(
        tmp_path / "model",
        head="ForQuestionAnswering",
        vocabulary=[*VOCABULARY, "cafe", "naive", "##न", "ह", "##द"],
    )
    found: list[dict[str, Any]] = minilm.Predictor.from_pretrained(path)("where", context)["n_best"]
    places = [(answer["start"], answer["end"]) for answer in found]
    assert len(places) == len(set(places))
    assert any(answer["answer"] == context.split()[-1] for answer in found)
    for start, end in places:
        assert whole_letters(context, start, end) == (start, end)
        assert context[start:end] in [answer["answer"] for answer in found]
