"""The package of measures as a whole, and correlations against scipy."""

import doctest
import importlib
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

from minilm.errors import InputError
from minilm.metrics.correlation import pearson, spearman

MODULES = [
    f"minilm.metrics.{name}" for name in ("answers", "classification", "correlation", "entities")
]

# coarse numbers have ties, fine ones do not
NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=40)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_measures_need_no_torch() -> None:
    code = (
        f"import sys, {', '.join(MODULES)}; heavy = {{'torch', 'tokenizers', 'sklearn', 'scipy'}} "
        "& set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@settings(max_examples=150, deadline=None)
@given(PAIRS)
def test_correlations_are_scipys(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    with warnings.catch_warnings():  # scipy's, of constant and nearly constant input
        warnings.simplefilter("ignore")
        expected_pearson = scipy.stats.pearsonr(x, y).statistic
        expected_spearman = scipy.stats.spearmanr(x, y).statistic
    assert pearson(x, y) == pytest.approx(expected_pearson, abs=1e-9, nan_ok=True)
    assert spearman(x, y) == pytest.approx(expected_spearman, abs=1e-12, nan_ok=True)


def test_equal_values_share_their_mean_rank() -> None:
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    assert spearman([1, 7, 7, 9], [10, 20, 30, 40]) == pytest.approx(math.sqrt(0.9), abs=1e-15)


def test_spearman_asks_for_order_and_pearson_for_a_line() -> None:
    x = [1.0, 2.0, 3.0, 4.0]
    assert spearman(x, [-1, -10, -100, -math.inf]) == -1.0
    assert pearson(x, [-1, -10, -100, -1000]) > -0.9
    assert pearson(x, [5, 3, 1, -1]) == pytest.approx(-1.0, abs=1e-15)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_the_scale_of_numbers_does_not_matter(scale: float) -> None:
    x, y = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 4.0, 2.0, 3.0])
    assert pearson(x * scale, y * scale) == pytest.approx(pearson(x, y), rel=1e-12)


@pytest.mark.parametrize("measure", [pearson, spearman])
@pytest.mark.parametrize("odd", [[2, 2, 2], [1, math.nan, 3]])
def test_what_has_no_correlation_is_nan(measure, odd) -> None:
    assert math.isnan(measure(odd, [1, 2, 3]))
    assert math.isnan(measure([1, 2, 3], odd))


def test_infinity_has_a_rank_but_no_mean() -> None:
    assert spearman([1, 2, math.inf], [1, 2, 3]) == 1.0
    assert math.isnan(pearson([1, 2, math.inf], [1, 2, 3]))


@pytest.mark.parametrize("measure", [pearson, spearman])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2, 3], r"got \(2,\) and \(3,\)"),
        ([[1], [2]], [[1], [2]], r"two arrays \(N,\)"),
        ([1], [1], "at least 2 pairs, got 1"),
        ([], [], "at least 2 pairs, got 0"),
    ],
)
def test_correlations_of_wrong_input(measure, x, y, message) -> None:
    with pytest.raises(InputError, match=message):
        measure(x, y)
