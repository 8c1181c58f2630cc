"""Columns of public data sets, and what they are read as.

A text's value is the name of its column, so that an example shows which columns it is made of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minilm.data.records.base import Skips
from minilm.errors import DataError
from minilm.tasks.catalogue import TASKS
from minilm.tasks.choices import MultipleChoice
from minilm.tasks.multi_label import MultiLabel
from minilm.tasks.texts import Classification

Row = dict[str, Any]


def row(columns: str, **values: Any) -> Row:
    """Columns whose values are their names, and others."""
    return {**{name: name for name in columns.split()}, **values}


def rows(given: Row) -> list[Row]:
    """Two records that differ in every label there is."""
    return [given, {name: _another(value) for name, value in given.items()}]


def _another(value: Any) -> Any:
    if isinstance(value, bool) or value in (0, 1, "0", "1"):
        return type(value)(1 - int(value))
    if isinstance(value, list):
        return [_another(part) for part in value] if value and value[0] in (0, 1) else value[::-1]
    return {"yes": "no", "A": "B"}.get(value, value) if isinstance(value, str) else value


def frame(name: str, labels: int = 2) -> Row:
    return row("premise hypothesis", label=labels - 2, idx=7, **({"uid": "u"} if name else {}))


WORDS = ["EU", "rejects"]
CHOICES = ["one", "two", "three"]
KEYED = {"text": CHOICES, "label": ["A", "B", "C"]}
SQUAD = {"text": ["text"], "answer_start": [3]}

# data set, task, record, its texts as the model gets them, the column of the label
TEXTS: list[tuple[str, str, Row, tuple[str, str | None], str]] = [
    ("glue/cola", "classification", row("sentence", label=0, idx=3), ("sentence", None), "label"),
    ("glue/sst2", "classification", row("sentence", label=0, idx=3), ("sentence", None), "label"),
    ("glue/mrpc", "classification", row("sentence1 sentence2", label=0, idx=3),
     ("sentence1", "sentence2"), "label"),
    ("glue/qqp", "classification", row("question1 question2", label=0, idx=3),
     ("question1", "question2"), "label"),
    ("glue/stsb", "regression", row("sentence1 sentence2", label=3.5, idx=3),
     ("sentence1", "sentence2"), "label"),
    ("glue/mnli", "classification", frame(""), ("premise", "hypothesis"), "label"),
    ("glue/qnli", "classification", row("question sentence", label=0, idx=3),
     ("question", "sentence"), "label"),
    ("glue/rte", "classification", row("sentence1 sentence2", label=0, idx=3),
     ("sentence1", "sentence2"), "label"),
    ("glue/wnli", "classification", row("sentence1 sentence2", label=0, idx=3),
     ("sentence1", "sentence2"), "label"),
    ("glue/ax", "classification", frame(""), ("premise", "hypothesis"), "label"),
    ("MRPC as published", "classification",
     {"Quality": "1", "#1 ID": "7", "#2 ID": "8", "#1 String": "a", "#2 String": "b"},
     ("a", "b"), "Quality"),
    ("QQP as published", "classification",
     row("question1 question2", id="5", qid1="7", qid2="8", is_duplicate="0"),
     ("question1", "question2"), "is_duplicate"),
    ("MNLI as published", "classification",
     row("promptID pairID genre sentence1_parse sentence2_parse sentence1 sentence2",
         gold_label="yes"), ("sentence1", "sentence2"), "gold_label"),
    ("nyu-mll/multi_nli", "classification",
     row("promptID pairID premise_parse hypothesis_parse premise hypothesis genre", label=1),
     ("premise", "hypothesis"), "label"),
    ("super_glue/boolq", "classification", row("question passage", label=1, idx=7),
     ("question", "passage"), "label"),
    ("google/boolq", "classification", row("question passage", answer=True),
     ("question", "passage"), "answer"),
    ("super_glue/cb", "classification", frame(""), ("premise", "hypothesis"), "label"),
    ("super_glue/rte", "classification", frame(""), ("premise", "hypothesis"), "label"),
    ("snli", "classification", row("premise hypothesis", label=0), ("premise", "hypothesis"),
     "label"),
    ("anli", "classification", row("uid premise hypothesis reason", label=0),
     ("premise", "hypothesis"), "label"),
    ("paws", "classification", row("sentence1 sentence2", id=7, label=0),
     ("sentence1", "sentence2"), "label"),
    ("scitail/snli_format", "classification",
     row("sentence1_parse sentence1 sentence2_parse sentence2 annotator_labels", gold_label="yes"),
     ("sentence1", "sentence2"), "gold_label"),
    ("scitail/dgem_format", "classification",
     row("premise hypothesis hypothesis_graph_structure", label="yes"), ("premise", "hypothesis"),
     "label"),
    ("sick", "classification",
     row("sentence_A sentence_B entailment_AB entailment_BA sentence_A_original", id="7", label=0,
         relatedness_score=3.5), ("sentence_A", "sentence_B"), "label"),
    ("sentence-transformers/stsb", "regression", row("sentence1 sentence2", score=0.5),
     ("sentence1", "sentence2"), "score"),
    ("SetFit/mrpc", "classification", row("text1 text2 label_text", label=0, idx=7),
     ("text1", "text2"), "label"),
    ("wiki_qa", "classification", row("question_id question document_title answer", label=0),
     ("question", "answer"), "label"),
    ("imdb", "classification", row("text", label=0), ("text", None), "label"),
    ("IMDB of Kaggle", "classification", row("review", sentiment="yes"), ("review", None),
     "sentiment"),
    ("ag_news", "classification", row("text", label=0), ("text", None), "label"),
    ("AG News of Kaggle", "classification",
     {"Class Index": 1, "Title": "Title", "Description": "d"}, ("Title", "d"), "Class Index"),
    ("dbpedia_14", "classification", row("title content", label=0), ("title", "content"), "label"),
    ("amazon_polarity", "classification", row("title content", label=0), ("title", "content"),
     "label"),
    ("amazon_reviews_multi", "classification",
     row("review_id product_id reviewer_id review_body review_title language product_category",
         stars=1), ("review_title", "review_body"), "stars"),
    ("yelp_review_full", "classification", row("text", label=0), ("text", None), "label"),
    ("emotion", "classification", row("text", label=0), ("text", None), "label"),
    ("tweet_eval", "classification", row("text", label=0), ("text", None), "label"),
    ("rotten_tomatoes", "classification", row("text", label=0), ("text", None), "label"),
    ("banking77", "classification", row("text", label=0), ("text", None), "label"),
    ("BANKING77 as published", "classification", row("text", category="yes"), ("text", None),
     "category"),
    ("clinc_oos", "classification", row("text", intent=0), ("text", None), "intent"),
    ("financial_phrasebank", "classification", row("sentence", label=0), ("sentence", None),
     "label"),
    ("hate_speech18", "classification",
     row("text", user_id=7, subforum_id=8, num_contexts=9, label=0), ("text", None), "label"),
    ("hate_speech_offensive", "classification",
     row("tweet", count=3, hate_speech_count=7, neither_count=8, **{"class": 0}), ("tweet", None),
     "class"),
    ("tweets_hate_speech_detection", "classification", row("tweet", label=0), ("tweet", None),
     "label"),
    ("sms_spam", "classification", row("sms", label=0), ("sms", None), "label"),
    ("snips", "classification", row("text", category="yes"), ("text", None), "category"),
    ("aspects (ABSA)", "classification", row("sentence aspect", label="yes"),
     ("sentence", "aspect"), "label"),
    ("passages (MS MARCO)", "classification", row("query passage", label=0), ("query", "passage"),
     "label"),
    ("contexts", "classification", row("context question", label=0), ("question", "context"),
     "label"),
    ("titled texts", "classification", row("text title", label=0), ("title", "text"), "label"),
    ("go_emotions", "multi-label", row("text id", labels=["a", "b", "c"]), ("text", None),
     "labels"),
    ("toxic comments of Kaggle", "multi-label",
     row("comment_text", id="7", toxic=1, severe_toxic=0, obscene=0, threat=1),
     ("comment_text", None), "toxic + severe_toxic + obscene + threat"),
    ("go_emotions/raw", "multi-label",
     row("text id author", created_utc=1.5e9, rater_id=7, example_very_unclear=True, joy=0),
     ("text", None), "example_very_unclear + joy"),
]  # fmt: skip

# data set, task, record, the columns of words or contexts, and of the labels
SPANS: list[tuple[str, str, Row, dict[str, str]]] = [
    ("conll2003", "tagging",
     row("id", tokens=WORDS, pos_tags=[3, 4], chunk_tags=[5, 6], ner_tags=[3, 0]),
     {"tokens": "tokens", "tags": "ner_tags"}),
    ("wnut_17", "tagging", row("id", tokens=WORDS, ner_tags=[3, 0]),
     {"tokens": "tokens", "tags": "ner_tags"}),
    ("wikiann", "tagging",
     row("", tokens=WORDS, ner_tags=[3, 0], langs=["en", "en"], spans=["ORG: EU"]),
     {"tokens": "tokens", "tags": "ner_tags"}),
    ("ontonotes5", "tagging", row("", tokens=WORDS, tags=[3, 0]),
     {"tokens": "tokens", "tags": "tags"}),
    ("few_nerd", "tagging", row("id", tokens=WORDS, ner_tags=[3, 0], fine_ner_tags=[9, 0]),
     {"tokens": "tokens", "tags": "ner_tags"}),
    ("ncbi_disease", "tagging", row("id", tokens=WORDS, ner_tags=[1, 0]),
     {"tokens": "tokens", "tags": "ner_tags"}),
    ("universal_dependencies", "tagging",
     row("idx text", tokens=WORDS, lemmas=WORDS, upos=[1, 2], xpos=["NNP", "VBZ"], head=["2", "0"]),
     {"tokens": "tokens", "tags": "upos"}),
    ("tokens and upos", "tagging", row("", tokens=WORDS, upos=["PROPN", "VERB"]),
     {"tokens": "tokens", "tags": "upos"}),
    ("words and labels (LayoutLM)", "tagging", row("id", words=WORDS, labels=["B-X", "O"]),
     {"tokens": "words", "tags": "labels"}),
    ("atis", "utterances", row("", text="EU rejects", slots="B-x O", intent="yes"),
     {"text": "text", "tags": "slots", "intent": "intent"}),
    ("snips with slots", "utterances", row("", tokens=WORDS, slots=["B-x", "O"], label="yes"),
     {"tokens": "tokens", "tags": "slots", "intent": "label"}),
    ("squad", "answering", row("id title question", context="my text", answers=SQUAD),
     {"id": "id", "question": "question", "context": "context", "answers": "answers"}),
    ("squad_v2", "answering",
     row("id title question context", answers={"text": [], "answer_start": []}),
     {"id": "id", "question": "question", "context": "context", "answers": "answers"}),
    ("adversarial_qa", "answering",
     row("id title question", context="my text", answers=SQUAD, metadata={"split": "train"}),
     {"id": "id", "question": "question", "context": "context", "answers": "answers"}),
    ("xquad", "answering", row("id question", context="my text", answers=SQUAD),
     {"id": "id", "question": "question", "context": "context", "answers": "answers"}),
    ("passages with questions", "answering", row("question", passage="my text", answers=SQUAD),
     {"question": "question", "context": "passage", "answers": "answers"}),
]  # fmt: skip

# data set, record, the first text, the second texts, the number of the right one
CHOSEN: list[tuple[str, Row, str, list[str], int]] = [
    ("race", row("example_id article question", options=CHOICES, answer="B"), "article",
     ["question one", "question two", "question three"], 1),
    ("race with a blank", row("article", question="It is _ .", options=CHOICES, answer="B"),
     "article", ["It is one .", "It is two .", "It is three ."], 1),
    ("swag",
     {**row("video-id fold-ind startphrase sent1 sent2 gold-source"),
      **{f"ending{n}": choice for n, choice in enumerate(CHOICES)}, "label": 1},
     "sent1", ["sent2 one", "sent2 two", "sent2 three"], 1),
    ("hellaswag", row("activity_label ctx_a ctx_b ctx source_id", endings=CHOICES, label="1"),
     "ctx", CHOICES, 1),
    ("commonsense_qa", row("id question question_concept", choices=KEYED, answerKey="C"),
     "question", CHOICES, 2),
    ("ai2_arc", row("id question", choices={"text": CHOICES, "label": ["1", "2", "3"]},
                    answerKey="1"), "question", CHOICES, 0),
    ("openbookqa", row("id question_stem", choices=KEYED, answerKey="A"), "question_stem",
     CHOICES, 0),
    ("piqa", row("goal", sol1="one", sol2="two", label=0), "goal", CHOICES[:2], 0),
    ("social_i_qa", row("context question", answerA="one", answerB="two", answerC="three",
                        label="3"), "context",
     ["question one", "question two", "question three"], 2),
    ("winogrande", row("sentence", option1="one", option2="two", answer="2"), "sentence",
     CHOICES[:2], 1),
    ("super_glue/copa", row("premise question", choice1="one", choice2="two", label=0, idx=7),
     "premise", ["question one", "question two"], 0),
    ("cosmos_qa", row("id context question", answer0="one", answer1="two", label=1), "context",
     ["question one", "question two"], 1),
    ("mmlu", row("question subject", choices=CHOICES, answer=2), "question", CHOICES, 2),
    ("logiqa", row("context query", options=CHOICES, correct_option=1), "context",
     ["query one", "query two", "query three"], 1),
    ("reclor", row("id_string context question", answers=CHOICES, label=1), "context",
     ["question one", "question two", "question three"], 1),
    ("contexts with endings", row("context question", endings=CHOICES, label=1), "context",
     ["question one", "question two", "question three"], 1),
    ("the answer itself", row("question", options=CHOICES, answer="two"), "question", CHOICES, 1),
]  # fmt: skip

# data set, task, record, what is said
REFUSED: list[tuple[str, str, Row, str]] = [
    ("super_glue/wic", "classification",
     row("word sentence1 sentence2", start1=3, start2=4, end1=5, end2=6, idx=7, label=0),
     "'word', 'start1', 'start2' say which words are meant .* no task here reads that"),
    ("super_glue/wsc", "classification",
     row("text span1_text span2_text", span1_index=3, span2_index=4, idx=7, label=0),
     "'span1_text', 'span2_text' say which words are meant"),
    ("super_glue/multirc", "classification", row("paragraph question answer", label=0),
     "'question', 'paragraph', 'answer' are 3 texts, and a model reads one or two. Say which"),
    ("super_glue/record", "answering",
     row("passage query", entities=["a"], answers=["a"], idx=7), "expected a list of .*answer_st"),
    ("super_glue/record", "classification", row("passage query", answers=["a"]),
     "There is no 'label'"),
    ("yahoo_answers_topics", "classification",
     row("question_title question_content best_answer", topic=1),
     "'question_title', 'question_content', 'best_answer' are 3 texts"),
    ("scitail/predictor_format", "classification",
     row("answer sentence1 sentence2 question", gold_label="yes"), "are 4 texts"),
    ("trec", "classification", row("text", coarse_label=0, fine_label=1),
     "'coarse_label', 'fine_label' could each be the label. Say which field it is"),
    ("sick", "regression", row("sentence_A sentence_B", label=0, relatedness_score=3.5),
     "'relatedness_score', 'label' could each be the label|"
     "'label', 'relatedness_score' could each be the label"),
    ("tweet_qa", "answering", row("Question Answer Tweet qid"), "There is no 'context'"),
    ("ontonotes by documents", "tagging", row("document_id", sentences=[{"words": WORDS}]),
     "There is no 'tags'"),
    ("a text alone", "multi-label", row("text"), "There is no 'labels'"),
]  # fmt: skip

FROM_ONE = {"winogrande": {"answer": "1"}, "social_i_qa": {"label": "1"}}
EVERY = [*TEXTS, *SPANS, *CHOSEN, *REFUSED]


def test_there_are_many() -> None:
    assert len({case[0] for case in EVERY}) >= 80


def read(task: str, given: Row, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """The task that records teach, and the example of the first one."""
    records = rows(given)
    made = TASKS[task].learn(records, 16, options or {})
    return made, made.examples(records, Skips(), labelled=True)[0]


@pytest.mark.parametrize(("name", "task", "given", "texts", "label"), TEXTS, ids=lambda x: str(x))
def test_texts(name: str, task: str, given: Row, texts: tuple[str, str | None], label: str) -> None:
    made, example = read(task, given)
    assert (example.text, example.pair) == texts
    assert " + ".join(made.known["label" if "label" in made.known else "labels"]) == label
    assert example.label is not None
    unread = {column for column in given if column not in sum(made.known.values(), ())}
    (note,) = made.take_notes()
    assert note.endswith(f"; not read: {', '.join(c for c in given if c in unread)}") or not unread
    # a checkpoint reads the same of records without labels, and of such as have them
    again = type(made).restore(made.labels, made.settings()).remember(made.settings())
    for record in (given, {key: x for key, x in given.items() if key not in label.split(" + ")}):
        (other,) = again.examples([record], Skips(), labelled=False)
        assert (other.text, other.pair) == texts


@pytest.mark.parametrize(("name", "task", "given", "columns"), SPANS, ids=lambda x: str(x))
def test_words_and_answers(name: str, task: str, given: Row, columns: dict[str, str]) -> None:
    made, example = read(task, given)
    found = {field: made.known[field] for field in columns}
    assert found == {field: (column,) for field, column in columns.items()}
    if task != "answering":
        assert example.words == WORDS
        assert len(example.tags) == len(WORDS)


@pytest.mark.parametrize(
    ("name", "given", "prompt", "endings", "label"), CHOSEN, ids=lambda x: str(x)
)
def test_choices(name: str, given: Row, prompt: str, endings: list[str], label: int) -> None:
    first = FROM_ONE.get(name, {})  # labels count from 1, as all records together show
    made = TASKS["choice"].learn([given, {**given, **first}] * 2, 16, {})
    assert made.first == bool(first)
    example = made.examples([given], Skips(), labelled=True)[0]
    assert (example.prompt, example.endings, example.label) == (prompt, endings, label)
    assert example.choices == tuple(CHOICES[: len(endings)])


@pytest.mark.parametrize(("name", "task", "given", "message"), REFUSED, ids=lambda x: str(x))
def test_what_is_refused(name: str, task: str, given: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(task, given)


def test_what_is_refused_can_be_named() -> None:
    given = row("paragraph question answer", label=0)
    options = {"text_column": "paragraph", "pair_column": "answer"}
    _, example = read("classification", given, options)
    assert (example.text, example.pair) == ("paragraph", "answer")
    made, _ = read("classification", row("text", coarse=0, fine="yes"), {"label_column": "fine"})
    assert made.labels == ("no", "yes")


@pytest.mark.parametrize(
    "labels",
    [
        [[0, 1, 0], [1, 1, 0]],
        [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]],
        [[False, True, False], [True, True, False]],
        [np.array([0, 1, 0]), np.array([1, 1, 0])],
        ["0,1,0", "1,1,0"],
        ["[0, 1, 0]", "[1, 1, 0]"],
    ],
)
def test_zeros_and_ones_are_a_class_each(labels: list[Any]) -> None:
    records = [{"text": "a", "labels": value} for value in labels]
    made = TASKS["multi-label"].learn(records, 16, {})
    assert made.labels == ("0", "1", "2")
    assert "labels are zeros and ones for 3 classes, called 0 to 2" in made.take_notes()
    examples = made.examples(records, Skips(), labelled=True)
    assert [example.label.tolist() for example in examples] == [[0, 1, 0], [1, 1, 0]]
    again = type(made).restore(made.labels, made.settings()).remember(made.settings())
    assert again.examples(records[:1], Skips(), labelled=True)[0].label.tolist() == [0, 1, 0]
    for wrong in ([0, 1], [0, 2, 0], [0, 0.5, 1], "a,b,c"):
        with pytest.raises(DataError, match="labels is"):
            made.examples([{"text": "a", "labels": wrong}], Skips(), labelled=True)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([["a", "a"], ["b"]], ("a", "b")),
        ([[1], [0]], ("0", "1")),  # numbers of classes, one for each text
        ([[0, 1], [1]], ("0", "1")),
        ([[27], [0, 1]], ("0", "1", "27")),
        (["['a', 'b']", "['b']"], ("a", "b")),
        (["a, b", ""], ("a", "b")),
    ],
)
def test_lists_of_names(labels: list[Any], names: tuple[str, ...]) -> None:
    records = [{"text": "a", "labels": value} for value in labels]
    made = TASKS["multi-label"].learn(records, 16, {})
    assert made.labels == names
    assert len(made.examples(records, Skips(), labelled=True)) == 2


def test_columns_of_labels_by_name() -> None:
    records = [
        {"text": "a", "toxic": "1", "threat": "0", "other": 1},
        {"text": "b", "toxic": 0, "threat": 1.0, "other": 0},
    ]
    made = TASKS["multi-label"].learn(records, 16, {"label_column": "toxic, threat"})
    assert made.labels == ("toxic", "threat")
    examples = made.examples(records, Skips(), labelled=True)
    assert [example.label.tolist() for example in examples] == [[1, 0], [0, 1]]
    with pytest.raises(DataError, match="threat of labels is None, expected 0 or 1"):
        made.examples([{"text": "a", "toxic": 1, "threat": None}], Skips(), labelled=True)


def test_one_label_in_a_column_of_its_own() -> None:
    rows = [{"text": "x", "toxic": flag} for flag in ("0", "1", 1, False)]
    task = MultiLabel.learn(rows, 8, {"label_column": "toxic"})
    assert task.labels == ("toxic",)
    found = [e.label.tolist() for e in task.examples(rows, Skips(), labelled=True)]
    assert found == [[0], [1], [1], [0]]
    again = MultiLabel.restore(task.labels, task.settings()).remember(task.settings())
    assert [e.label.tolist() for e in again.examples(rows, Skips(), labelled=True)] == found
    numbers = [{"text": "x", "labels": labels} for labels in ([0], [1], [0])]
    assert MultiLabel.learn(numbers, 8, {}).labels == ("0", "1")


def test_as_many_texts_as_in_training() -> None:
    pairs = [{"question": "q", "passage": "p", "label": label} for label in "ab"]
    singles = [{"review": "r", "label": label} for label in "ab"]
    for learned in (pairs, singles, [*pairs, *singles]):
        task = Classification.learn(learned, 8, {})
        task = Classification.restore(task.labels, task.settings()).remember(task.settings())
        for record in ({"title": "t", "text": "b"}, {"text": "b"}):
            known = {2} if learned is pairs else {1} if learned is singles else {1, 2}
            if len(record) in known:
                (example,) = task.examples([record], Skips(), labelled=False)
                assert (example.pair is None) == (len(record) == 1)
            else:
                with pytest.raises(DataError, match="training read"):
                    task.examples([record], Skips(), labelled=False)
        # named by our names, it is meant so
        (example,) = task.examples([{"text": "b", "text_pair": None}], Skips(), labelled=False)
        assert example.pair is None


def test_columns_that_some_records_have_are_one_line() -> None:
    rows = [
        {"text": "x", "label": str(n % 2), **{f"k{bit}": 1 for bit in range(6) if n >> bit & 1}}
        for n in range(64)
    ]
    task = Classification.learn(rows, 8, {})
    task.examples(rows, Skips(), labelled=True)
    (note,) = task.take_notes()
    assert note == "text from text, label from label; not read: k0, k1, k2, k3, k4, k5"


def test_choices_that_are_numbers_are_chosen_by_their_texts() -> None:
    choices = ["1", "2", "3", "4"]
    rows = [{"question": "q", "choices": choices, "answer": answer} for answer in "324"]
    task = MultipleChoice.learn(rows, 8, {})
    task = MultipleChoice.restore((), task.settings()).remember(task.settings())
    assert [e.label for e in task.examples(rows, Skips(), labelled=True)] == [2, 1, 3]
    numbered = [{**row, "answer": int(row["answer"]) - 1} for row in rows]
    task = MultipleChoice.learn(numbered, 8, {})
    assert [e.label for e in task.examples(numbered, Skips(), labelled=True)] == [2, 1, 3]
    floats = [{**row, "answer": float(row["answer"])} for row in numbered]
    assert [e.label for e in task.examples(floats, Skips(), labelled=True)] == [2, 1, 3]


def test_a_column_for_each_choice_may_be_named() -> None:
    row = {"question": "q", "A": "x", "B": "y", "C": "z", "answer": "C"}
    with pytest.raises(DataError, match="pair_column"):
        MultipleChoice.learn([row], 8, {}).examples([row], Skips(), labelled=True)
    task = MultipleChoice.learn([row], 8, {"pair_column": "A, B, C"})
    (example,) = task.examples([row], Skips(), labelled=True)
    assert (example.choices, example.label) == (("x", "y", "z"), 2)


@pytest.mark.parametrize("mark", [-1, "-"])
def test_a_class_that_may_mean_none_is_said(mark: int | str) -> None:
    rows = [{"text": "x", "label": label} for label in ("a", "b", mark)]
    task = Classification.learn(rows, 8, {})
    assert any("take them out" in note for note in task.take_notes())
    assert not Classification.learn(rows[:2], 8, {}).take_notes()
