"""SQuAD's measures: results worked out by hand from the official scripts' rules."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from minilm.errors import InputError
from minilm.metrics.answers import answer_f1, exact_match, normalise_answer, squad_v1, squad_v2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("The Cat", "cat"),
        ("a an the", ""),
        ("A. The!", ""),
        ("theatre of an anthem", "theatre of anthem"),
        ("  two \t words\n", "two words"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),  # punctuation goes before articles
        ("a, b", "b"),
        ("$1,000.50", "100050"),
        ("“quoted” – text", "“quoted” – text"),  # ASCII punctuation alone
        ("«the» end", "« » end"),
        ("ÉCOLE", "école"),
        ("the\u00a0cat", "cat"),
        ("à la carte", "à la carte"),  # à is a letter of its own
        ("snake_the_case", "snakethecase"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


@pytest.mark.parametrize(
    ("predicted", "golds", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the denver broncos!", ["Denver Broncos", "Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),  # precision 1, recall 1/2
        ("Broncos", ["Denver Broncos", "Broncos"], 1, 1),
        ("in the year 1990", ["1990", "year of 1990"], 0, 2 / 3),  # of the second: 2/3 and 2/3
        ("b b b", ["b b c"], 0, 2 / 3),  # two of b are shared, not three
        ("x y", ["y x"], 0, 1),
        ("cat", ["dog"], 0, 0),
        ("", ["dog"], 0, 0),
        ("cat", ["the"], 0, 0),
    ],
)
def test_single_answers(predicted: str, golds: list[str], exact: float, f1: float) -> None:
    assert exact_match(predicted, golds) == exact
    for empty_agrees in (False, True):
        got = answer_f1(predicted, golds, empty_agrees=empty_agrees)
        assert got == pytest.approx(f1, abs=1e-15)


@pytest.mark.parametrize("predicted", ["", "the", "..."])
def test_two_answers_without_words(predicted: str) -> None:
    assert exact_match(predicted, [""]) == 1.0
    assert answer_f1(predicted, [""]) == 0.0  # SQuAD 1.1
    assert answer_f1(predicted, ["a"], empty_agrees=True) == 1.0  # SQuAD 2.0


def test_squad_1() -> None:
    golds = {
        "q1": ["Denver Broncos", "The Broncos"],
        "q2": ["gold"],
        "q3": ["the year 1990"],
        "q4": ["nobody answers"],
    }
    predictions = {"q1": "broncos", "q2": "silver", "q3": "1990", "other": "ignored"}
    result = squad_v1(predictions, golds)
    assert result == {
        "exact_match": 100 * 1 / 4,
        "f1": pytest.approx(100 * (1 + 0 + 2 / 3 + 0) / 4),
        "total": 4,
        "missing": 1,
    }


V2_GOLDS = {
    "a": ["the cat", "a dog"],
    "b": ["red house"],
    "c": [],
    "d": [],
    "e": ["The"],  # counts as answerable, but only an answer without words is right
}
V2_PREDICTIONS = {"a": "dog", "b": "house", "c": "", "d": "something", "e": "", "f": "ignored"}


def test_squad_2_without_scores() -> None:
    assert squad_v2(V2_PREDICTIONS, V2_GOLDS) == {
        "exact": 100 * 3 / 5,  # a, c, e
        "f1": pytest.approx(100 * (3 + 2 / 3) / 5),
        "total": 5,
        "HasAns_exact": pytest.approx(100 * 2 / 3),
        "HasAns_f1": pytest.approx(100 * (2 + 2 / 3) / 3),
        "HasAns_total": 3,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }


def test_squad_2_with_scores() -> None:
    scores = {"f": 0.0, "a": 0.9, "b": 0.1, "c": 0.5, "d": 0.6, "e": 0.2}
    result = squad_v2(V2_PREDICTIONS, V2_GOLDS, scores, threshold=0.5)
    # d becomes "", which is right; so does a, which is wrong
    assert result["exact"] == pytest.approx(100 * 3 / 5)  # c, d, e
    assert result["f1"] == pytest.approx(100 * (3 + 2 / 3) / 5)
    assert result["HasAns_exact"] == pytest.approx(100 * 1 / 3)
    assert result["HasAns_f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert result["NoAns_exact"] == result["NoAns_f1"] == 100.0
    # Points, all silent: 2 (c, d). In the order b, e, c, d, a they become
    # exact: 2, 3, 3, 2, 3 and F1: 2 2/3, 3 2/3, 3 2/3, 2 2/3, 3 2/3.
    assert result["best_exact"] == pytest.approx(100 * 3 / 5)
    assert result["best_exact_thresh"] == 0.2
    assert result["best_f1"] == pytest.approx(100 * (3 + 2 / 3) / 5)
    assert result["best_f1_thresh"] == 0.2
    assert list(result)[-4:] == ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]


def test_the_threshold_itself_still_answers() -> None:
    golds, predictions = {"q": ["cat"]}, {"q": "cat"}
    assert squad_v2(predictions, golds, {"q": 0.5}, threshold=0.5)["exact"] == 100.0
    assert squad_v2(predictions, golds, {"q": 0.5}, threshold=0.49)["exact"] == 0.0
    assert squad_v2(predictions, golds, {"q": 1.0})["exact"] == 100.0
    assert squad_v2(predictions, golds, {"q": 1.01})["exact"] == 0.0


def test_parts_without_questions_are_left_out() -> None:
    answerable = squad_v2({"q": "cat"}, {"q": ["cat"]})
    assert set(answerable) == {"exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"}
    assert "HasAns_total" not in squad_v2({"q": "cat"}, {"q": []})


def test_habits_of_the_sweep() -> None:
    # a prediction that normalises to nothing is right, but costs the sweep a point
    result = squad_v2({"n": "the"}, {"n": []}, {"n": -1.0})
    assert result["exact"] == 100.0
    assert (result["best_exact"], result["best_exact_thresh"]) == (100.0, 0.0)
    result = squad_v2({"n": "the", "q": "x"}, {"n": [], "q": ["x"]}, {"n": 0.1, "q": 0.2})
    assert result["exact"] == 100.0
    assert (result["best_exact"], result["best_exact_thresh"]) == (50.0, 0.0)
    # of two questions with one score, the first in the order of the scores is answered alone
    golds, predictions = {"n": [], "q": ["x"]}, {"n": "y", "q": "x"}
    result = squad_v2(predictions, golds, {"q": 0.3, "n": 0.3})
    assert (result["best_exact"], result["best_exact_thresh"]) == (100.0, 0.3)
    result = squad_v2(predictions, golds, {"n": 0.3, "q": 0.3})
    assert (result["best_exact"], result["best_exact_thresh"]) == (50.0, 0.0)


QUESTION = st.tuples(
    st.sampled_from([[], ["x"], ["x y"], ["z", "x y z"]]), st.sampled_from(["", "x", "x y", "z"])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(QUESTION, min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_the_best_threshold_is_the_best_of_all(questions, rng) -> None:
    golds = {f"q{i}": gold for i, (gold, _) in enumerate(questions)}
    predictions = {f"q{i}": predicted for i, (_, predicted) in enumerate(questions)}
    levels = rng.sample(range(1, 100), len(questions))
    no_answer = {question: level / 100 for question, level in zip(golds, levels, strict=True)}
    result = squad_v2(predictions, golds, no_answer)

    def mean(measure, threshold: float) -> float:
        total = 0.0
        for question, answers in golds.items():
            silent = no_answer[question] > threshold
            total += measure("" if silent else predictions[question], answers or [""])
        return 100 * total / len(golds)

    def f1(predicted: str, answers: list[str]) -> float:
        return answer_f1(predicted, answers, empty_agrees=True)

    for name, measure in (("exact", exact_match), ("f1", f1)):
        every = {at: mean(measure, at) for at in [0.0, *sorted(no_answer.values())]}
        best = max(every.values())
        assert result[f"best_{name}"] == pytest.approx(best)
        reached = every[result[f"best_{name}_thresh"]]
        assert reached == pytest.approx(best)
        if name == "exact":  # sums of thirds are rounded, and a tie may then go to a later one
            lower = [v for at, v in every.items() if at < result["best_exact_thresh"]]
            assert all(value < best - 1e-9 for value in lower)
        # the reported figures at a threshold agree with the same computation
        at = sorted(no_answer.values())[len(questions) // 2]
        assert squad_v2(predictions, golds, no_answer, at)[name] == pytest.approx(every[at])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_match("x", []), "gold answers are an empty list"),
        (lambda: exact_match("x", "x"), r"the string 'x': give a list, \[answer\]"),
        (lambda: answer_f1("x", []), "at least one"),
        (lambda: answer_f1("x", "x"), "give a list"),
        (lambda: squad_v1({}, {}), "golds is empty"),
        (lambda: squad_v1({}, {"q": []}), "of question 'q' are an empty list.* squad_v2"),
        (lambda: squad_v1({}, {"q": "x"}), "of question 'q' are the string"),
        (lambda: squad_v2({}, {}), "golds is empty"),
        (lambda: squad_v2({"q": "x"}, {"q": "x"}), "of question 'q' are the string"),
        (
            lambda: squad_v2({"q": "x"}, {"q": [], "r": [], "s": []}),
            "Missing prediction for 2 of 3 questions, the first is 'r'",
        ),
        (
            lambda: squad_v2({"q": "x"}, {"q": []}, {"r": 0.5}),
            "Missing no-answer score for 1 of 1 question, the first is 'q'",
        ),
        (lambda: squad_v2({"q": "x"}, {"q": []}, {"q": math.nan}), "'q' is nan"),
    ],
)
def test_wrong_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
