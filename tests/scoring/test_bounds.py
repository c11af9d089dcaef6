"""Intervals near 0 and 1: Clopper and Pearson's where those apply, and what they promise where not."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from adafv.scoring.bounds import Bounds, rows_to_show


def mean(values, clusters=None, **more):
    values = np.asarray(values, dtype=float)
    return Bounds(range(len(values)) if clusters is None else clusters, 0, **more).mean(values, values == values)


@pytest.mark.parametrize(("right", "rows"), [(300, 300), (299, 300), (290, 300), (150, 300), (0, 40), (1, 1)])
def test_independent_rows_worth_0_or_1_have_clopper_and_pearsons_interval(right, rows):
    found = mean([1] * right + [0] * (rows - right), draws=100_000)
    low = beta.ppf(0.025, right, rows - right + 1) if right else 0.0
    high = beta.ppf(0.975, right + 1, rows - right) if right < rows else 1.0
    assert found.value == right / rows
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 / rows**0.5)


def test_rows_on_one_picture_count_as_one():
    """Ten copies of thirty rows say what the thirty say."""
    values = np.array([1.0] * 28 + [0.0] * 2)
    copies = mean(np.repeat(values, 10), np.repeat(np.arange(30), 10))
    assert astuple(copies) == pytest.approx(astuple(mean(values)), rel=1e-12)


def test_all_that_agree_show_no_more_than_their_pictures():
    found = mean([1.0] * 400, np.arange(400) // 4, draws=100_000)
    assert found.low == pytest.approx(0.025 ** (1 / 100), abs=0.001) and found.high == 1.0


def test_values_in_between_vary_less_than_their_extremes():
    half = mean([0.5] * 300)
    assert half.value == 0.5 and 0.48 < half.low < 0.5 < half.high < 0.52
    assert mean([0, 1] * 150).low < 0.45


def test_the_interval_holds_as_often_as_it_says():
    """Of captions that are mostly alike and now and then quite different: a plain bootstrap misses far more."""
    rng, truth, missed = np.random.default_rng(1), 0.02 * 0.2 + 0.98 * 0.99, 0
    for _ in range(400):
        values = np.where(rng.random(100) < 0.02, 0.2, 0.99)
        missed += mean(values, draws=1000).low > truth
    assert missed <= 400 * 0.025 + 3 * (400 * 0.025) ** 0.5


@pytest.mark.parametrize("tail", [1e-4, 2e-5])
def test_the_error_of_many_tests_may_be_divided_further_than_there_are_draws(tail):
    values = np.ones((1, 20))
    errors = [Bounds(range(20), seed).lower_ends(values, tail)[0] ** 20 for seed in range(40)]  # Clopper and Pearson's
    assert np.mean(errors) < 1.5 * tail


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_nothing_that_agrees_more_has_a_lower_end(rows):
    clusters, one, other = zip(*rows, strict=True)
    least, most = (np.array([pick(pair) for pair in zip(one, other, strict=True)]) for pick in (min, max))
    worse, better = mean(least, clusters, draws=200), mean(most, clusters, draws=200)
    assert worse.low <= better.low + 1e-12 and worse.high <= better.high + 1e-12
    assert 0 <= worse.low <= worse.value <= worse.high <= 1


def test_only_chosen_rows_count():
    values, chosen = np.array([1.0, 0.0, 1.0]), np.array([True, False, True])
    assert Bounds("abc", 0).mean(values, chosen).value == 1.0
    assert Bounds("aab", 0).mean(values, chosen).low < 1.0


def test_the_seed_decides():
    values = np.array([1.0] * 30 + [0.0])
    one, again, other = (Bounds(range(31), seed).mean(values, values >= 0) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(("least", "rows"), [(0.98, 183), (0.99, 368), (0.9, 36), (0.5, 6)])
def test_how_many_rows_it_takes(least, rows):
    assert rows_to_show(least) == rows
    assert mean([1.0] * (rows + rows // 20 + 1), draws=100_000).low > least > mean([1.0] * (rows - 1)).low - 0.01
