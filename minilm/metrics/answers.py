"""SQuAD's metrics of answers, 1.1 and 2.0, with the official scripts' results and names."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from minilm.errors import InputError
from minilm.files.progress import counted

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Normalises an answer for comparison: lower case, no punctuation, no articles, single spaces.

    Only ASCII punctuation is removed, and before articles: "a.b" becomes "ab", and "the-end"
    becomes "theend", with its article.

    Example:
        >>> normalise_answer(" The  U.S., an  ally")
        'us ally'
    """
    text = text.lower().translate(WITHOUT_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", text).split())


def exact_match(predicted: str, golds: Sequence[str]) -> float:
    """1 if the normalised answer equals that of any gold answer, else 0.

    Args:
        predicted: the predicted answer.
        golds: one or more right answers.

    Raises:
        InputError: there is no gold answer, or `golds` is one string instead of a list.

    Example:
        >>> exact_match("The cat.", ["a dog", "cat"])
        1.0
    """
    _check_golds(golds)
    return float(normalise_answer(predicted) in map(normalise_answer, golds))


def answer_f1(predicted: str, golds: Sequence[str], *, empty_agrees: bool = False) -> float:
    """F1 of the words that the answer shares with the gold answer with which it is highest.

    Words are separated by the spaces of the normalised answers; a word counts as often as it is in
    both.

    Args:
        predicted: the predicted answer.
        golds: one or more right answers.
        empty_agrees: whether two answers without any words score 1, as in SQuAD 2.0's script,
            instead of 0, as in that of 1.1 (although they match exactly).

    Returns:
        0 to 1, the highest over the gold answers.

    Raises:
        InputError: there is no gold answer, or `golds` is one string instead of a list.

    Example:
        >>> answer_f1("the big red cat", ["red cat", "dog"])
        0.8
    """
    _check_golds(golds)
    words = normalise_answer(predicted).split()

    def f1(gold: str) -> float:
        gold_words = normalise_answer(gold).split()
        if not words and not gold_words:
            return float(empty_agrees)
        shared = (Counter(words) & Counter(gold_words)).total()
        if shared == 0:
            return 0.0
        precision, recall = shared / len(words), shared / len(gold_words)
        return 2 * precision * recall / (precision + recall)

    return max(map(f1, golds))


def squad_v1(
    predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """The result of SQuAD 1.1's evaluation script.

    Args:
        predictions: the answer to each question, by the question's id. A question without one
            scores 0, as in the script; answers to other questions are ignored.
        golds: one or more right answers to each question.

    Returns:
        "exact_match" and "f1": means over all questions, in percent; and, in addition to the
        script, "total": the number of questions, and "missing": those without a prediction.

    Raises:
        InputError: there are no questions, or one has no gold answer.

    Example:
        >>> squad_v1({"q1": "the cat"}, {"q1": ["cat"], "q2": ["dog"]})
        {'exact_match': 50.0, 'f1': 50.0, 'total': 2, 'missing': 1}

    References: Rajpurkar et al. 2016, "SQuAD", section 6.1; evaluate-v1.1.py.
    """
    _check_questions(golds)
    exact = f1 = 0.0
    missing = 0
    for question, answers in golds.items():
        _check_golds(answers, question)
        if question not in predictions:
            missing += 1
            continue
        exact += exact_match(predictions[question], answers)
        f1 += answer_f1(predictions[question], answers)
    total = len(golds)
    return {
        "exact_match": 100.0 * exact / total,
        "f1": 100.0 * f1 / total,
        "total": total,
        "missing": missing,
    }


def squad_v2(
    predictions: Mapping[str, str],
    golds: Mapping[str, Sequence[str]],
    no_answer_scores: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """The result of SQuAD 2.0's evaluation script, where some questions have no answer.

    Args:
        predictions: the answer to each question, by the question's id; "" = it has none. Answers
            to other questions are ignored.
        golds: right answers to each question; an empty list = it has none.
        no_answer_scores: how sure the model is that a question has no answer (the script's
            na-probs; on any scale). None = use the predictions as they are.
        threshold: a question with a higher no-answer score counts as answered with "".

    Returns:
        "exact" and "f1" over all questions, in percent, and "total", their number; the same with
        the prefix "HasAns_" over questions with an answer, and with "NoAns_" over the others; a
        group without questions is left out. With scores also "best_exact", "best_exact_thresh",
        "best_f1" and "best_f1_thresh": the result of the best threshold, and the lowest such
        threshold. As in the script, questions with equal scores are taken one by one, so that no
        threshold may reach the best result, and a best threshold below all scores is reported as 0.

    Raises:
        InputError: there are no questions, or one has no prediction or score. (Differs from the
            script, which leaves out questions without a prediction, or fails: to evaluate a part of
            the questions, give the golds of that part.)

    Example:
        >>> result = squad_v2({"q1": "the cat", "q2": "dog"}, {"q1": ["cat"], "q2": []})
        >>> result["exact"], result["HasAns_f1"], result["NoAns_f1"]
        (50.0, 100.0, 0.0)

    References: Rajpurkar et al. 2018, "Know What You Don't Know"; evaluate-v2.0.py.
    """
    _check_questions(golds)
    _check_complete("prediction", predictions, golds)
    exact, f1 = {}, {}
    for question, answers in golds.items():
        _check_string(answers, question)
        # the script ignores answers that normalise to nothing; without answers, "" is right
        right = [answer for answer in answers if normalise_answer(answer)] or [""]
        exact[question] = exact_match(predictions[question], right)
        f1[question] = answer_f1(predictions[question], right, empty_agrees=True)
    answerable = {question: len(answers) > 0 for question, answers in golds.items()}
    if no_answer_scores is None:
        return _figures(exact, f1, answerable)

    _check_complete("no-answer score", no_answer_scores, golds)
    for question, score in no_answer_scores.items():
        if math.isnan(score):
            raise InputError(f"The no-answer score of question {question!r} is nan, not a number.")

    def thresholded(scores: Mapping[str, float]) -> dict[str, float]:
        return {
            question: float(not answerable[question])
            if no_answer_scores[question] > threshold
            else score
            for question, score in scores.items()
        }

    result = _figures(thresholded(exact), thresholded(f1), answerable)
    for name, scores in (("exact", exact), ("f1", f1)):
        best, at = _best_threshold(scores, predictions, no_answer_scores, answerable)
        result |= {f"best_{name}": best, f"best_{name}_thresh": at}
    return result


def _figures(
    exact: Mapping[str, float], f1: Mapping[str, float], answerable: Mapping[str, bool]
) -> dict[str, float]:
    parts = {
        "": list(answerable),
        "HasAns_": [question for question, has in answerable.items() if has],
        "NoAns_": [question for question, has in answerable.items() if not has],
    }
    result: dict[str, float] = {}
    for prefix, questions in parts.items():
        if questions:
            for name, scores in (("exact", exact), ("f1", f1)):
                total = sum(scores[question] for question in questions)
                result[prefix + name] = 100.0 * total / len(questions)
            result[prefix + "total"] = len(questions)
    return result


def _best_threshold(
    scores: Mapping[str, float],
    predictions: Mapping[str, str],
    no_answer_scores: Mapping[str, float],
    answerable: Mapping[str, bool],
) -> tuple[float, float]:
    """The highest mean score of any threshold, in percent, and the lowest such threshold.

    As in the script, at first every question counts as answered with "", at a threshold that is
    called 0 whatever the scores are; then one question after the other gets its prediction, in
    ascending order of no-answer scores, with equal scores in the order of `no_answer_scores`. A
    question without an answer loses its point if its prediction is not "", even if that normalises
    to nothing.
    """
    points = best = float(sum(not has for has in answerable.values()))
    best_at = 0.0
    for question in sorted(no_answer_scores, key=lambda q: no_answer_scores[q]):
        if question not in scores:
            continue
        if answerable[question]:
            points += scores[question]
        elif predictions[question]:
            points -= 1
        if points > best:
            best, best_at = points, no_answer_scores[question]
    return 100.0 * best / len(scores), best_at


def _check_questions(golds: Mapping[str, Sequence[str]]) -> None:
    if not golds:
        raise InputError("golds is empty: expected at least one question.")


def _check_complete(
    what: str, given: Mapping[str, object], golds: Mapping[str, Sequence[str]]
) -> None:
    missing = [question for question in golds if question not in given]
    if missing:
        raise InputError(
            f"Missing {what} for {len(missing):,} of {counted(len(golds), 'question')}, the first "
            f"is {missing[0]!r}: give one for every question, or the golds of fewer questions."
        )


def _check_golds(golds: Sequence[str], question: str | None = None) -> None:
    _check_string(golds, question)
    if not golds:
        of = "" if question is None else f" of question {question!r}"
        raise InputError(
            f"The gold answers{of} are an empty list: expected at least one. For questions without "
            "an answer, use squad_v2."
        )


def _check_string(golds: Sequence[str], question: str | None = None) -> None:
    if isinstance(golds, str):
        of = "" if question is None else f" of question {question!r}"
        raise InputError(f"The gold answers{of} are the string {golds!r}: give a list, [answer].")
