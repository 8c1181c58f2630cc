"""Sentence boundaries."""

import re
import time

import pytest
from hypothesis import given, settings, strategies as st

from minilm.data.sentence_splitting import split_sentences

# "|" marks the boundaries
CASES = [
    "It costs 3.14 dollars.| Really?!| Yes... maybe.| No…| Perhaps…| And then.",
    "J. R. R. Tolkien wrote it.| C. S. Lewis read it.",
    "He lives in the U.S. and works for Dr. Smith.",
    "The U.S. Court of Appeals ruled.| He moved to the U.S.| In 1990 he died.",
    "Send it at 5 p.m.| The train left.| He was born in Washington, D.C.| He died there.",
    "Fruit, e.g. Apples, i.e. Granny Smith, etc.| The rest is gone.",
    "Mr. and Mrs. Jones vs. No. 5.| See Fig. 3, Vol. IV, pp. 5-7 and Sec. 2.",
    "No.| He said no.| Then?",
    "He was born c. 1850 near St. Louis.| Gen. Grant won.| Smith et al. Reported it.",
    "Acme Inc. Reported a loss.| It was bought by Acme Inc.| The end.",
    '"Is it you?" he asked.| He said "Go away."| Then he left.| (This is it.)| The end.',
    "“Is it you?” she asked.| “Yes.”| ‘No!’| She left.",
    "1. The first.| 2. The second.| (3) And a. or b. as well.",
    "It was in 1990.| He was 27.| Born free.",
    "Visit www.example.com or mail a.b@c.de.| Version 2.0.| Next!",
    "Yahoo! is a company.| Was it?| Yes, iOS. macOS too.",
    "The year ended.[3]| It began.[12][13]| Again.",
    "wait...what?| Hello!World and A.B.C",
    "He said . . . nothing.| I quote: a ... b. C , D. ; and so on.",
    "A line\n|ends a sentence\r\n|always\u2028|so.",
    "我来到北京。|你好吗？|他说：“我很好。”|然后走了！|真的……好。",
    "これはペンです。|「元気ですか？」と彼は言った。|「はい。」|彼は笑った！",
    "สวัสดีครับ ผมชื่อจอห์น วันนี้อากาศดี",
    "यह एक वाक्य है।| यह दूसरा है।|और।",
    "هل أنت هنا؟| نعم أنا هنا.| جيد.",
    "Das ist z.B. ein Satz, d.h. gut.| Am 3. Oktober kam Dr. Müller im 19. Jahrhundert usw. an.",
    "Er sagte: „Geh weg!“| Dann ging er.| »Warum?«| Ludwig XIV. war König.",
    "M. Dupont est venu.| « Qui est là ? » demanda-t-il.| « Oui ! »| C'est tout, cf. Infra.",
    "¿Dónde está?| ¡Aquí!| El Sr. Pérez llegó.| ¿Y qué?",
    "Это предложение.| Это второе!| А. С. Пушкин писал.",
    ". . . ... !",
    "",
    " \n\t\n ",
]


@pytest.mark.parametrize("marked", CASES)
def test_boundaries(marked: str) -> None:
    expected = [part.strip() for part in marked.split("|") if part.strip()]
    assert split_sentences(marked.replace("|", "")) == expected


def check(text: str) -> None:
    """Nothing but white space is lost, and nothing is changed."""
    sentences = split_sentences(text)
    position = 0
    for sentence in sentences:
        assert sentence
        assert sentence == sentence.strip()
        assert not re.search("[\n\r\f\v\u2028\u2029]", sentence)
        found = text.index(sentence, position)
        assert not text[position:found].strip()
        position = found + len(sentence)
    assert not text[position:].strip()


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("aBcDr .!?…。「」\"'“”()[]1 23\n\r\xa0\u2028\x85é中\u0301\0")))
def test_sentences_are_exact_substrings(text: str) -> None:
    check(text)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_split(text: str) -> None:
    check(text)


PIECES = ["“", '"', ".", "!", "a.", ". ", "? ", "1. ", "A. ", "a.b", '!"', "“a.” ", "[1] ", "。"]
PIECES += [".\xa0", "Dr. ", "Dr.\xa0", '. "', ".[1]", "a ", " ", ".  ", "\n", "」", "U.S. ", "(a. "]


@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear_in_the_length(piece: str) -> None:
    # what takes quadratic time takes minutes here
    start = time.process_time()
    for text in (piece * (200_000 // len(piece)), ". " + piece * (200_000 // len(piece)) + ". b"):
        split_sentences(text)
    assert time.process_time() - start < 5
