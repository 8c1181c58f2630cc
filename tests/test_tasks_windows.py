"""Windows over long texts, and the way from words and answers to tokens and back."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import minilm
from minilm.data.records.base import Skips
from minilm.files.arrays import Floats
from minilm.metrics.answers import squad_v2
from minilm.tasks.answering import QuestionAnswering, QuestionExample
from minilm.tasks.tagging import Tagging, WordsExample
from minilm.tasks.task import Sample
from minilm.tasks.utterances import Utterances
from minilm.tasks.windows import Window, cut, max_context_window
from minilm.tokenization.tokenizer import Tokenizer
from task_data import COLOURS, FILLERS, PLACES, Record, save_start

QUICK = settings(deadline=None, max_examples=150)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """WordPiece of words and characters, and a unigram vocabulary."""
    place = tmp_path_factory.mktemp("tokenizers")
    text = place / "text.txt"
    draw = random.Random(1)
    words = [*COLOURS, *PLACES, *FILLERS, "isn't", "3.5%", "e-mail", "naïve", "(so)"]
    lines = (" ".join(draw.choices(words, k=9)) for _ in range(200))
    text.write_text("\n\n".join(lines), encoding="utf-8")
    unigram = minilm.train_tokenizer([text], place / "unigram", kind="unigram", vocab_size=70)
    wordpiece = Tokenizer.from_pretrained(save_start(place / "wordpiece"))
    return {"wordpiece": wordpiece, "unigram": unigram}


# --- windows ---


@QUICK
@given(tokens=st.integers(0, 200), room=st.integers(1, 40), step=st.integers(1, 40))
def test_windows_cover_everything_in_order(tokens: int, room: int, step: int) -> None:
    step = min(step, room)
    windows = cut(tokens, room, step)
    assert windows[0].start == 0
    assert windows[-1].end == tokens
    assert {n for w in windows for n in range(w.start, w.end)} == set(range(tokens))
    for one, following in pairwise(windows):
        assert one.end - one.start == room  # only the last one is shorter
        assert following.start - one.start == step
        assert one.end < following.end
    assert 0 <= windows[-1].end - windows[-1].start <= room


@QUICK
@given(tokens=st.integers(0, 120), room=st.integers(1, 30), step=st.integers(1, 30))
def test_every_token_is_at_home_where_it_has_the_most_context(
    tokens: int, room: int, step: int
) -> None:
    windows = cut(tokens, room, min(step, room))
    found = max_context_window(windows, tokens)
    assert len(found) == tokens
    for token, home in enumerate(found):
        scores = {
            number: min(token - w.start, w.end - 1 - token) + 0.01 * (w.end - w.start)
            for number, w in enumerate(windows)
            if w.start <= token < w.end
        }
        assert home == max(scores, key=lambda number: (scores[number], -number))


def test_context_by_hand() -> None:
    windows = [Window(0, 6), Window(3, 9), Window(6, 10)]
    assert windows == cut(10, room=6, step=3)
    assert windows[0].context(2) == pytest.approx(2.06)
    assert windows[0].context(5) == pytest.approx(0.06)
    assert max_context_window(windows, 10) == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


# --- words and their tokens ---

LATIN = ["ä", "é", "e\u0301", "ß", "İ", "ﬁ", "½", "…"]
FAR = ["中", "文", "ไทย", "שלום", "\U0001f600", "\U0001f468\u200d\U0001f469"]
INVISIBLE = ["\u200b", "\ufeff", "\x01", "\x7f", "\u0301", " "]
KNOWN = ["red", "the", "paris", "[SEP]", "##a", "x" * 120]
PARTS = st.sampled_from([*"abz019.,-'’_%&#@()[]", *LATIN, *FAR, *INVISIBLE, *KNOWN])
WORDS = st.lists(PARTS, min_size=1, max_size=4).map("".join).filter(lambda word: word.strip() != "")
SENTENCES = st.lists(WORDS, min_size=1, max_size=12)


def tagger(max_length: int = 12) -> Tagging:
    return Tagging(["O", "B-X", "I-X", "B-Y", "I-Y"], max_length)


def tags_for(count: int) -> list[str]:
    return [("O", "B-X", "B-Y", "I-Y")[n % 4] for n in range(count)]


def first_tokens(words: Sequence[str], tokenizer: Tokenizer) -> list[int | None]:
    """The number of the first token that stands for a part of a word, and ends in it."""
    offsets = tokenizer.pieces([" ".join(words)])[0].offsets.tolist()
    firsts: list[int | None] = []
    begin = 0
    for word in words:
        end = begin + len(word)
        own = [n for n, (a, b) in enumerate(offsets) if a < b and a < end and begin < b <= end]
        firsts.append(own[0] if own else None)
        begin = end + 1
    return firsts


def one_hot(sample: Sample, labels: int) -> Floats:
    """Outputs that say the labels for certain."""
    outputs = np.zeros((len(sample.rows[0].ids), labels), np.float32)
    for token, label in enumerate(sample.label):
        outputs[token, max(label, 0)] = 20
    return outputs


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
@settings(deadline=None, max_examples=200)
@given(words=SENTENCES, max_length=st.integers(3, 30))
def test_every_word_with_tokens_is_labelled_once(
    tokenizers: dict[str, Tokenizer], kind: str, words: list[str], max_length: int
) -> None:
    tokenizer, task, tags = tokenizers[kind], tagger(max_length), tags_for(len(words))
    records = [{"tokens": words, "tags": tags}]
    examples = task.examples(records, Skips(), labelled=True)
    gold = list(examples[0].tags or ())
    assert examples[0].words == words
    samples = task.samples(examples, tokenizer)
    pieces = tokenizer.pieces([" ".join(words)])[0]
    firsts = first_tokens(words, tokenizer)
    labelled: dict[int, tuple[int, str]] = {}
    for sample in samples:
        row, label = sample.rows[0], sample.label
        assert 2 <= len(row.ids) <= max_length
        assert len(label) == len(row.ids)
        assert sorted(np.flatnonzero(label != -100)) == sorted(sample.decode_info.tokens)
        for word, token in zip(sample.decode_info.words, sample.decode_info.tokens, strict=True):
            assert word not in labelled
            labelled[int(word)] = int(row.ids[token]), task.labels[label[token]]
    assert labelled == {
        word: (int(pieces.ids[token]), gold[word])
        for word, token in enumerate(firsts)
        if token is not None
    }
    assert [sample.decode_info.first for sample in samples] == [True] + [False] * (len(samples) - 1)

    outputs = [one_hot(sample, len(task.labels)) for sample in samples]
    (found,) = task.decode(examples, samples, outputs)
    assert found["tokens"] == words
    seen = [word for word, token in enumerate(firsts) if token is not None]
    for word, tag in enumerate(found["tags"]):
        before = next((gold[n] for n in reversed(seen) if n < word), "O")
        after = next((gold[n] for n in seen if n > word), "O")
        hidden = after if after[0] == "I" and before != "O" and before[2:] == after[2:] else "O"
        assert tag == (gold[word] if word in seen else hidden)
    for entity in found["entities"]:
        assert " ".join(words)[entity["start"] : entity["end"]] == entity["text"]
        assert 0.9 < entity["confidence"] <= 1


@QUICK
@given(words=st.lists(WORDS.filter(lambda word: " " not in word), min_size=1, max_size=8))
def test_words_are_labelled_if_they_have_tokens_of_their_own(
    tokenizers: dict[str, Tokenizer], words: list[str]
) -> None:
    tokenizer, task = tokenizers["wordpiece"], tagger(256)
    examples = task.examples(
        [{"tokens": words, "tags": ["O"] * len(words)}], Skips(), labelled=True
    )
    (sample,) = task.samples(examples, tokenizer)
    wanted = [n for n, word in enumerate(words) if len(tokenizer.pieces([word])[0].ids)]
    assert sorted(sample.decode_info.words.tolist()) == wanted


def test_a_long_sentence_by_hand(tokenizers: dict[str, Tokenizer]) -> None:
    task = tagger(max_length=6)  # four words a window, three from one to the next
    words = ["the", "red", "thing", "is", "in", "paris", "here"]
    tags = ["O", "B-X", "I-X", "O", "O", "B-Y", "O"]
    examples = task.examples([{"tokens": words, "tags": tags}], Skips(), labelled=True)
    samples = task.samples(examples, tokenizers["wordpiece"])
    assert [len(sample.rows[0].ids) for sample in samples] == [6, 6]
    assert [sample.decode_info.words.tolist() for sample in samples] == [[0, 1, 2, 3], [4, 5, 6]]
    assert samples[0].label.tolist() == [-100, 0, 1, 2, 0, -100]
    assert samples[1].label.tolist() == [-100, -100, 0, 3, 0, -100]


@QUICK
@given(text=st.lists(PARTS | st.sampled_from([" ", "\n", "\t"]), min_size=1).map("".join))
def test_a_text_is_split_into_words_that_cover_it(
    tokenizers: dict[str, Tokenizer], text: str
) -> None:
    if not text.strip():
        return
    task = tagger()
    examples = task.examples([{"text": text}], Skips(), labelled=False)
    spans = examples[0].spans
    covered = [n for start, end in spans for n in range(start, end)]
    assert covered == sorted(set(covered))
    assert not any(text[n].isspace() for n in covered)
    # what cannot be seen is a part of words, and nothing where there is no word before it
    seen = {n for n, letter in enumerate(text) if unicodedata.category(letter)[0] not in "CZ"}
    assert seen <= set(covered)
    samples = task.samples(examples, tokenizers["wordpiece"])
    outputs = [np.zeros((len(s.rows[0].ids), 5), np.float32) for s in samples]
    for output in outputs:
        output[:, 1] = 3
    (found,) = task.decode(examples, samples, outputs)
    assert len(found["tags"]) == len(found["tokens"]) == len(spans)
    for entity in found["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert entity["text"].strip() == entity["text"] != ""


def test_what_an_apostrophe_glues_is_a_word() -> None:
    (example,) = tagger().examples([{"text": "Isn't Ada’s a_b 3.5?"}], Skips(), labelled=False)
    assert example.words == ["Isn", "'t", "Ada", "’s", "a_b", "3", ".", "5", "?"]


def test_entities_of_several_words_have_the_least_confidence() -> None:
    task = tagger()
    example = WordsExample("the red thing", ((0, 3), (4, 7), (8, 13)))
    prediction = task._prediction(example, ["O", "B-X", "I-X"], np.array([1.0, 0.9, 0.6]))
    assert prediction["entities"] == [
        {"type": "X", "text": "red thing", "start": 4, "end": 13, "confidence": 0.6}
    ]


def test_tags_of_every_scheme_are_read_as_iob2() -> None:
    records = [{"tokens": ["a"] * 5, "tags": ["S-X", "O", "B-Y", "I-Y", "E-Y"]}]
    task = Tagging.learn(records, 16, {})
    assert task.labels == ("O", "B-X", "I-X", "B-Y", "I-Y")
    (example,) = task.examples(records, Skips(), labelled=True)
    assert example.tags == ("B-X", "O", "B-Y", "I-Y", "I-Y")
    iob1 = [{"tokens": ["a"] * 4, "tags": ["I-X", "I-X", "B-X", "O"]}]
    (example,) = task.examples(iob1, Skips(), labelled=True)
    assert example.tags == ("B-X", "I-X", "B-X", "O")
    numbers: list[Record] = [
        {"tokens": ["a", "b"], "ner_tags": [1, 0]},
        {"words": ["c"], "ner_tags": ["10"]},
    ]
    plain = Tagging.learn(numbers, 16, {})
    assert set(plain.labels) == {"0", "1", "10"}
    assert not plain.has_entities
    found = plain.scores(
        plain.examples(numbers, Skips(), labelled=True),
        [{"tags": ["1", "1"]}, {"tags": ["10"]}],
    )
    assert found["token_accuracy"] == pytest.approx(2 / 3)
    assert "f1" not in found


def test_an_utterance_has_its_intent_in_its_first_window_only(
    tokenizers: dict[str, Tokenizer],
) -> None:
    words = ["the", "red", "thing", "is", "in", "paris", "here"]
    records = [
        {"tokens": words, "tags": ["O", "B-X", *["O"] * 5], "intent": "tell"},
        {"tokens": ["is", "it"], "tags": ["O", "O"], "intent": "ask"},
    ]
    task = Utterances.learn(records, 6, {})
    assert task.labels == ("O", "B-X", "I-X", "intent=ask", "intent=tell")
    examples = task.examples(records, Skips(), labelled=True)
    samples = task.samples(examples, tokenizers["wordpiece"])
    assert [sample.label[0] for sample in samples] == [4, -100, 3]
    outputs = []
    for sample in samples:
        output = one_hot(sample, 5)
        output[1:, 3:] = 50  # intents are no tags, wherever they are large
        output[0, :3] = 50  # and tags no intents
        outputs.append(output)
    outputs[1][0] = [0, 0, 0, 99, 0]  # not the first window
    found = task.decode(examples, samples, outputs)
    assert [p["intent"] for p in found] == ["tell", "ask"]
    assert found[0]["tags"] == records[0]["tags"]
    task.out_of_scope, task.min_confidence = "ask", 1.0
    outputs[0][0, 3:] = [0, 1]
    (unsure, _) = task.decode(examples, samples, outputs)
    assert unsure["intent"] == "ask"
    assert unsure["confidence"] == pytest.approx(1 / (1 + np.exp(-1)))


# --- answers and their tokens ---

# without '', which ALBERT's tokenizer takes for one character
SPACES = [" ", " ", "  ", "\n"]
LETTERS = st.sampled_from([*"abc1.,-", *SPACES, "é", "\U0001f600", "中", "½", "red ", "in "])
CONTEXTS = st.lists(LETTERS, min_size=1, max_size=60).map("".join).filter(lambda t: t.strip() != "")


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, str, int]:
    context = draw(CONTEXTS)
    start = draw(st.integers(0, len(context) - 1))
    end = draw(st.integers(start + 1, min(len(context), start + 12)))
    text = context[start:end]
    if not text.strip():
        return context, context, 0
    return context, text, start


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
@settings(deadline=None, max_examples=200)
@given(question=asked(), max_length=st.integers(8, 40), stride=st.integers(1, 20))
def test_the_labelled_span_holds_the_answer(
    tokenizers: dict[str, Tokenizer],
    kind: str,
    question: tuple[str, str, int],
    max_length: int,
    stride: int,
) -> None:
    context, answer, start = question
    task = QuestionAnswering.learn([], max_length, {"doc_stride": stride, "max_query": 3})
    tokenizer = tokenizers[kind]
    record = {"question": "the red thing is in", "context": context,
              "answers": [{"text": answer, "answer_start": start}]}  # fmt: skip
    examples = task.examples([record], Skips(), labelled=True)
    samples = task.samples(examples, tokenizer)
    offsets = tokenizer.pieces([context])[0].offsets
    inside = [n for n, (a, b) in enumerate(offsets) if b > start and a < start + len(answer)]
    room = max_length - len(samples[0].rows[0].ids[: samples[0].decode_info.first]) - 1
    windows = cut(len(offsets), room, min(stride, room))
    assert len(windows) == len(samples)
    begin = start + len(answer) - len(answer.lstrip())
    end = start + len(answer.rstrip())
    for window, sample in zip(windows, samples, strict=True):
        assert len(sample.rows[0].ids) <= max_length
        place = sample.decode_info
        assert place.offsets.tolist() == offsets[window.start : window.end].tolist()
        whole = bool(inside) and window.start <= inside[0] and inside[-1] < window.end
        if not whole:
            assert sample.label == (0, 0)
            continue
        first, last = (number - place.first for number in sample.label)
        assert (first + window.start, last + window.start) == (inside[0], inside[-1])
        assert place.offsets[first, 0] <= begin
        assert place.offsets[last, 1] >= end
    if len(inside) <= room - min(stride, room) + 1:
        assert any(sample.label != (0, 0) for sample in samples)
    here = np.concatenate([np.flatnonzero(s.decode_info.best_here) + w.start
                           for w, s in zip(windows, samples, strict=True)])  # fmt: skip
    assert sorted(here) == list(range(len(offsets)))


WORDS8 = ["red", "blue", "green", "paris", "rome", "oslo", "the", "a"]


def answering(**options: Any) -> QuestionAnswering:
    return QuestionAnswering.learn([{"answers": []}], options.pop("max_length", 32), options)


def asking(
    task: QuestionAnswering, tokenizer: Tokenizer, words: Sequence[str] = WORDS8
) -> tuple[list[QuestionExample], list[Sample]]:
    examples = task.examples([{"question": "it is", "context": " ".join(words)}], Skips(),
                             labelled=False)  # fmt: skip
    return examples, task.samples(examples, tokenizer)


def decoded(
    task: QuestionAnswering, tokenizer: Tokenizer, scores: dict[tuple[int, int], float]
) -> dict[str, Any]:
    """The prediction when (word, 0 = start or 1 = end) has this score, -1 the [CLS]."""
    examples, (sample,) = asking(task, tokenizer)
    output = np.zeros((len(sample.rows[0].ids), 2), np.float32)
    for (word, side), score in scores.items():
        output[0 if word < 0 else sample.decode_info.first + word, side] = score
    (found,) = task.decode(examples, [sample], [output])
    return found


@pytest.fixture(scope="module")
def wordpiece(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["wordpiece"]


def test_the_best_span_is_the_answer(wordpiece: Tokenizer) -> None:
    found = decoded(answering(), wordpiece, {(1, 0): 5, (3, 1): 4})
    assert (found["answer"], found["start"], found["end"]) == ("blue green paris", 4, 20)
    assert found["question"] == "it is"
    assert found["no_answer_score"] == pytest.approx(-9)
    assert found["n_best"][0]["answer"] == "blue green paris"


def test_an_end_is_never_before_its_start(wordpiece: Tokenizer) -> None:
    found = decoded(answering(), wordpiece, {(5, 0): 5, (2, 1): 5, (6, 1): 1})
    assert found["answer"] == "oslo the"
    assert all(one["start"] < one["end"] for one in found["n_best"])


def test_answers_have_a_longest_length(wordpiece: Tokenizer) -> None:
    scores = {(0, 0): 6.0, (4, 1): 5.0, (2, 1): 2.0}
    assert decoded(answering(max_answer=5), wordpiece, scores)["answer"].endswith("rome")
    assert decoded(answering(max_answer=4), wordpiece, scores)["answer"] == "red blue green"
    assert decoded(answering(max_answer=1), wordpiece, scores)["answer"] == "red"


def test_the_answer_never_leaves_the_context(wordpiece: Tokenizer) -> None:
    task = answering()
    examples, (sample,) = asking(task, wordpiece)
    output = np.full((len(sample.rows[0].ids), 2), 50, np.float32)
    output[0] = -50  # not [CLS]
    first = sample.decode_info.first
    output[first : first + len(WORDS8)] = np.arange(len(WORDS8))[:, None]
    (found,) = task.decode(examples, [sample], [output])
    assert found["answer"] == "a"
    context = " ".join(WORDS8)
    for one in found["n_best"]:
        assert context[one["start"] : one["end"]] == one["answer"]


def test_nothing_is_answered_where_the_threshold_says_so(wordpiece: Tokenizer) -> None:
    task = answering()
    scores = {(1, 0): 5.0, (1, 1): 5.0, (-1, 0): 6.0, (-1, 1): 6.0}
    found = decoded(task, wordpiece, scores)
    assert (found["answer"], found["start"], found["end"]) == ("", None, None)
    assert found["no_answer_score"] == pytest.approx(2)
    assert found["n_best"][0]["answer"] == "blue"
    assert 0.5 < found["confidence"] < 1
    total = found["confidence"] + sum(one["confidence"] for one in found["n_best"])
    assert total == pytest.approx(1)
    task.null_threshold = 2.0
    assert decoded(task, wordpiece, scores)["answer"] == "blue"
    task.null_threshold = 1.99
    assert decoded(task, wordpiece, scores)["answer"] == ""
    task.unanswerable = False
    found = decoded(task, wordpiece, scores)
    assert found["answer"] == "blue"
    assert sum(one["confidence"] for one in found["n_best"]) == pytest.approx(1)


def test_candidates_come_in_order_and_are_limited(wordpiece: Tokenizer) -> None:
    draw = np.random.default_rng(3)
    scores = {(word, side): float(draw.normal()) for word in range(8) for side in (0, 1)}
    found = decoded(answering(n_best=6, max_answer=3), wordpiece, scores)
    wanted = sorted(
        ((scores[a, 0] + scores[b, 1], a, b) for a in range(8) for b in range(a, min(8, a + 3))),
        reverse=True,
    )
    starts = sorted(range(8), key=lambda word: -scores[word, 0])[:6]
    ends = sorted(range(8), key=lambda word: -scores[word, 1])[:6]
    wanted = [row for row in wanted if row[1] in starts and row[2] in ends][:6]
    assert [one["answer"] for one in found["n_best"]] == [
        " ".join(WORDS8[a : b + 1]) for _, a, b in wanted
    ]
    confidences = [one["confidence"] for one in found["n_best"]]
    assert confidences == sorted(confidences, reverse=True)


def test_a_token_counts_where_it_has_the_most_context(wordpiece: Tokenizer) -> None:
    task = answering(max_length=9, doc_stride=2)  # four words a window
    examples, samples = asking(task, wordpiece)
    assert [len(s.decode_info.offsets) for s in samples] == [4, 4, 4]
    assert [s.decode_info.best_here.tolist() for s in samples] == [
        [True, True, True, False],
        [False, True, True, False],
        [False, True, True, True],
    ]
    outputs = [np.zeros((9, 2), np.float32) for _ in samples]
    outputs[0][samples[0].decode_info.first + 3] = 12  # paris, at the edge
    outputs[1][samples[1].decode_info.first + 2] = 5  # rome
    for output, null in zip(outputs, (30, -20, 30), strict=True):
        output[0] = null
    (found,) = task.decode(examples, samples, outputs)
    # no answer begins with a word that is not at home, but it may end with one
    assert found["answer"] == "green paris"
    assert found["no_answer_score"] == pytest.approx(-40 - 12)
    outputs[0][samples[0].decode_info.first + 3, 1] = 0
    (found,) = task.decode(examples, samples, outputs)
    assert found["answer"] == "rome"


def test_a_context_without_tokens_has_no_answer(wordpiece: Tokenizer) -> None:
    task = answering()
    task.unanswerable = False
    examples, samples = asking(task, wordpiece, ["\x01"])
    outputs = [np.zeros((len(s.rows[0].ids), 2), np.float32) for s in samples]
    (found,) = task.decode(examples, samples, outputs)
    assert (found["answer"], found["n_best"], found["confidence"]) == ("", [], 1.0)
    assert found["no_answer_score"] == 1e9


@QUICK
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["", "red", "red thing"]), st.sampled_from(["red", "blue", "a"]),
                  st.integers(-4, 4)),
        min_size=1,
        max_size=8,
    )
)  # fmt: skip
def test_the_threshold_is_the_best_there_is(rows: list[tuple[str, str, int]]) -> None:
    task = answering(max_answer=7)
    examples = [
        QuestionExample("same", "?", "x", ((gold, 0),) if gold else ()) for gold, _, _ in rows
    ]
    predictions = [
        {"n_best": [{"answer": answer}], "no_answer_score": float(margin)}
        for _, answer, margin in rows
    ]
    golds = {str(n): [gold] if gold else [] for n, (gold, _, _) in enumerate(rows)}

    def f1_at(threshold: float) -> float:
        said = {str(n): "" if margin > threshold else answer
                for n, (_, answer, margin) in enumerate(rows)}  # fmt: skip
        return squad_v2(said, golds)["f1"]

    tuned = task.tune(examples, predictions)
    assert (tuned.max_answer, tuned.unanswerable) == (7, True)
    if all(gold for gold, _, _ in rows):
        assert tuned is task
        return
    best = max(f1_at(threshold) for threshold in np.arange(-5, 5, 0.5))
    assert f1_at(tuned.null_threshold) == pytest.approx(best)
    assert QuestionAnswering.restore((), tuned.settings()).null_threshold == tuned.null_threshold


def test_a_threshold_is_not_looked_for_where_all_can_be_answered() -> None:
    task = answering()
    task.unanswerable = False
    examples = [QuestionExample("a", "?", "x", ())]
    assert task.tune(examples, [{"n_best": [], "no_answer_score": 1.0}]) is task


def test_scores_of_answers(tmp_path: Path) -> None:
    task = answering()
    examples = [
        QuestionExample("a", "?", "red thing", (("red thing", 0),)),
        QuestionExample("a", "?", "blue", ()),
    ]
    found = task.scores(examples, [{"answer": "the red"}, {"answer": ""}])
    assert found["exact"] == 50
    assert found["f1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert found["HasAns_f1"] == pytest.approx(200 / 3)
    assert found["NoAns_f1"] == 100
    assert task.scores(examples[:1], [{"answer": "Red  thing"}]) == {"exact": 100, "f1": 100}
