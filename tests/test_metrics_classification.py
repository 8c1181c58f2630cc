"""Measures of classes, against scikit-learn and by hand."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import example, given, settings, strategies as st

from minilm.errors import InputError
from minilm.metrics.classification import (
    F1Scores,
    accuracy,
    confusion_matrix,
    expected_calibration_error,
    matthews,
    multilabel_precision_recall_f1,
    precision_recall_f1,
    subset_accuracy,
)


@st.composite
def labelled(draw):
    """C, and gold and predicted classes of some items."""
    classes = draw(st.integers(1, 5))
    number = st.integers(0, classes - 1)
    pairs = draw(st.lists(st.tuples(number, number), min_size=1, max_size=40))
    gold, predicted = np.array(pairs, dtype=np.int64).T
    return classes, gold, predicted


@st.composite
def label_sets(draw):
    """Gold and predicted labels of some items, (N, C) of 0 and 1."""
    items, classes = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    bits = st.lists(st.integers(0, 1), min_size=items * classes, max_size=items * classes)
    return tuple(np.array(draw(bits), dtype=np.int64).reshape(items, classes) for _ in range(2))


def as_tuple(scores: F1Scores) -> tuple[float, float, float]:
    return scores.precision, scores.recall, scores.f1


@settings(max_examples=60, deadline=None)
@given(labelled())
@example((3, np.array([1, 1]), np.array([1, 1])))  # one class only
@example((2, np.array([1, 1, 0]), np.array([0, 0, 0])))  # nothing predicted positive
@example((2, np.array([0, 0]), np.array([1, 1])))  # everything wrong
def test_single_labels_are_scored_as_by_scikit_learn(case) -> None:
    classes, gold, predicted = case
    every = list(range(classes))
    assert accuracy(gold, predicted) == sk.accuracy_score(gold, predicted)
    matrix = confusion_matrix(gold, predicted, classes)
    with warnings.catch_warnings():  # scikit-learn's, of a single class
        warnings.simplefilter("ignore")
        expected_matrix = sk.confusion_matrix(gold, predicted, labels=every)
        expected_matthews = sk.matthews_corrcoef(gold, predicted)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == expected_matrix.tolist()
    assert matthews(gold, predicted) == pytest.approx(expected_matthews, abs=1e-12)

    per_class = precision_recall_f1(gold, predicted, classes)
    p, r, f, support = sk.precision_recall_fscore_support(
        gold, predicted, labels=every, zero_division=0
    )
    assert [as_tuple(x) for x in per_class] == [
        pytest.approx(row, abs=1e-12) for row in zip(p, r, f, strict=True)
    ]
    assert [x.support for x in per_class] == support.tolist()
    for average in ("macro", "micro", "weighted"):
        scores = precision_recall_f1(gold, predicted, classes, average)
        expected = sk.precision_recall_fscore_support(
            gold, predicted, average=average, zero_division=0
        )
        assert as_tuple(scores) == pytest.approx(expected[:3], abs=1e-12), average
        assert scores.support == len(gold)


@settings(max_examples=40, deadline=None)
@given(label_sets())
def test_several_labels_are_scored_as_by_scikit_learn(case) -> None:
    gold, predicted = case
    assert subset_accuracy(gold, predicted) == np.mean(
        [a.tolist() == b.tolist() for a, b in zip(gold, predicted, strict=True)]
    )
    if gold.shape[1] == 1:  # which scikit-learn takes for single labels
        return
    assert subset_accuracy(gold, predicted) == sk.accuracy_score(gold, predicted)
    for average in ("macro", "micro", "weighted"):
        scores = multilabel_precision_recall_f1(gold, predicted, average)
        expected = sk.precision_recall_fscore_support(
            gold, predicted, average=average, zero_division=0
        )
        assert as_tuple(scores) == pytest.approx(expected[:3], abs=1e-12), average
        assert scores.support == gold.sum()


@settings(max_examples=30, deadline=None)
@given(labelled(), st.integers(0, 4))
def test_binary_is_one_class_against_the_rest(case, positive: int) -> None:
    classes, gold, predicted = case
    positive %= classes
    scores = precision_recall_f1(gold, predicted, classes, "binary", positive=positive)
    expected = sk.precision_recall_fscore_support(
        gold == positive, predicted == positive, average="binary", zero_division=0
    )
    assert as_tuple(scores) == pytest.approx(expected[:3], abs=1e-12)
    assert scores.support == (gold == positive).sum()


def test_by_hand() -> None:
    gold, predicted = [0, 0, 1, 1, 1, 3], [0, 1, 1, 1, 0, 1]
    assert confusion_matrix(gold, predicted, 4).tolist() == [
        [1, 1, 0, 0],
        [1, 2, 0, 0],
        [0, 0, 0, 0],
        [0, 1, 0, 0],
    ]
    per_class = precision_recall_f1(gold, predicted, 4)
    assert per_class == (
        F1Scores(1 / 2, 1 / 2, 1 / 2, 2),
        F1Scores(2 / 4, 2 / 3, 4 / 7, 3),
        F1Scores(0.0, 0.0, 0.0, 0),
        F1Scores(0.0, 0.0, 0.0, 1),
    )
    # class 2 occurs on neither side and is left out of the mean, class 3 is not
    macro = precision_recall_f1(gold, predicted, 4, "macro")
    assert macro.f1 == pytest.approx((1 / 2 + 4 / 7 + 0) / 3)
    # 3 of 6 right: (3 * 6 - (2 * 2 + 3 * 4)) / sqrt((36 - 14) * (36 - 20))
    assert matthews(gold, predicted) == pytest.approx(2 / np.sqrt(22 * 16))


def test_matthews_of_many_items_is_exact() -> None:
    gold = np.arange(300_000) % 3  # whose products do not fit into 64 bits
    assert matthews(gold, gold) == 1.0
    assert matthews(gold, 2 - gold) == pytest.approx(0.0, abs=1e-12)
    assert matthews(gold % 2, 1 - gold % 2) == -1.0


def test_calibration_by_hand() -> None:
    # With two bins, a confidence of 1/2 belongs to the lower one: |1 - 1/2| / 2 + |0 - 3/4| / 2.
    # It is class 0 that is predicted there, the first of equals.
    probabilities = [[0.5, 0.5], [0.75, 0.25]]
    assert expected_calibration_error(probabilities, [0, 1], bins=2) == 0.625
    assert expected_calibration_error(probabilities, [1, 1], bins=2) == 0.625
    assert expected_calibration_error(probabilities, [0, 0], bins=1) == 0.375
    assert expected_calibration_error([[1.0, 0.0]] * 4, [0, 0, 0, 0]) == 0.0
    assert expected_calibration_error([[1.0, 0.0]] * 4, [1, 1, 1, 0]) == 0.75


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6), st.integers(1, 20))
def test_calibration_bin_by_bin(seed: int, items: int, classes: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = np.exp(3 * rng.normal(size=(items, classes)))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    gold = rng.integers(classes, size=items)
    error = 0.0
    for number in range(bins):
        of_bin = []
        for row, right in zip(probabilities.tolist(), gold.tolist(), strict=True):
            if number / bins < max(row) <= (number + 1) / bins:
                of_bin.append((max(row), row.index(max(row)) == right))
        if of_bin:
            confidence = sum(c for c, _ in of_bin) / len(of_bin)
            share = sum(hit for _, hit in of_bin) / len(of_bin)
            error += len(of_bin) / items * abs(share - confidence)
    measured = expected_calibration_error(probabilities, gold, bins)
    assert measured == pytest.approx(error, abs=1e-12)


def test_probabilities_may_have_the_rounding_of_half_precision() -> None:
    assert expected_calibration_error([[0.75, 0.254]], [0]) == 0.25
    # above 1 is still the highest bin
    above = expected_calibration_error([[1.005, 0.0], [0.75, 0.25]], [1, 0], bins=2)
    assert above == pytest.approx((1.005 - 0.25) / 2)
    with pytest.raises(InputError, match="whose sum is 1; apply a softmax"):
        expected_calibration_error([[0.75, 0.27]], [0])


@pytest.mark.parametrize(
    "call",
    [
        accuracy,
        matthews,
        lambda gold, predicted: confusion_matrix(gold, predicted, 3),
        lambda gold, predicted: precision_recall_f1(gold, predicted, 3, "macro"),
    ],
)
def test_wrong_single_labels(call) -> None:
    with pytest.raises(InputError, match="at least one item"):
        call([], [])
    with pytest.raises(InputError, match=r"got \(2,\) and \(1,\)"):
        call([0, 1], [0])
    with pytest.raises(InputError, match=r"two arrays \(N,\) of one shape"):
        call([[0, 1]], [[0, 1]])
    with pytest.raises(InputError, match="predicted: expected whole numbers, got float64"):
        call([0, 1], [0.2, 0.8])


@pytest.mark.parametrize(
    "call", [subset_accuracy, lambda g, p: multilabel_precision_recall_f1(g, p, "micro")]
)
def test_wrong_label_sets(call) -> None:
    with pytest.raises(InputError, match="at least one item"):
        call(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(InputError, match=r"two arrays \(N, C\) of one shape, got \(2,\)"):
        call([0, 1], [0, 1])
    with pytest.raises(InputError, match="predicted: expected only 0 and 1, got 0 to 2"):
        call([[0, 1]], [[0, 2]])
    with pytest.raises(InputError, match="gold: expected only 0 and 1, got -1 to 1"):
        call([[-1, 1]], [[0, 1]])


def test_wrong_classes_and_averages() -> None:
    with pytest.raises(InputError, match=r"gold\[1\] is -100: expected 0 to 2. Leave out"):
        confusion_matrix([0, -100], [0, 0], 3)
    with pytest.raises(InputError, match=r"predicted\[0\] is 3: expected 0 to 2"):
        precision_recall_f1([0], [3], 3)
    with pytest.raises(InputError, match="classes is 0"):
        confusion_matrix([0], [0], 0)
    with pytest.raises(InputError, match="positive is 2: expected a class, 0 to 1"):
        precision_recall_f1([0], [0], 2, "binary", positive=2)
    with pytest.raises(InputError, match="'mikro': expected one of 'macro', .* 'binary'"):
        precision_recall_f1([0], [0], 2, "mikro")
    with pytest.raises(InputError, match="'binary': expected one of 'macro'"):
        multilabel_precision_recall_f1([[0]], [[0]], "binary")


@pytest.mark.parametrize(
    ("probabilities", "gold", "bins", "message"),
    [
        ([0.5, 0.5], [0, 1], 15, r"expected \(N, C\) numbers"),
        (np.zeros((0, 2)), [], 15, r"N and C at least 1"),
        ([[0.5, 0.5]], [0, 1], 15, "of one shape"),
        ([[1.5, -0.5]], [0], 15, "softmax"),
        ([[2.0, 3.0]], [0], 15, "softmax"),
        ([[np.nan, 0.5]], [0], 15, "softmax"),
        ([[0.5, 0.5]], [2], 15, "expected classes 0 to 1, got 2 to 2"),
        ([[0.5, 0.5]], [-100], 15, "-100"),
        ([[0.5, 0.5]], [0], 0, "bins is 0"),
    ],
)
def test_wrong_probabilities(probabilities, gold, bins, message) -> None:
    with pytest.raises(InputError, match=message):
        expected_calibration_error(probabilities, gold, bins)
