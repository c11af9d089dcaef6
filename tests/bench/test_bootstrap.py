"""Intervals, where they are known."""

from __future__ import annotations

import numpy as np
import pytest

from adafv.bench.bootstrap import Bootstrap

EVERY = np.ones(400, dtype=bool)


def test_the_interval_of_independent_rows_is_the_normal_one():
    values = (np.arange(400) % 5 == 0).astype(float)  # 0.2, so the error of the mean is sqrt(.2 · .8 / 400) = 0.02
    found = Bootstrap(range(400), seed=0, draws=5000).mean(values, EVERY)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 1.96 * 0.02, 0.2 + 1.96 * 0.02), abs=0.004)


def test_rows_of_a_cluster_count_as_one():
    """Ten copies of each of forty values say no more than the forty."""
    values = (np.arange(400) // 10 % 5 == 0).astype(float)
    found = Bootstrap(np.arange(400) // 10, seed=0, draws=5000).mean(values, EVERY)
    error = np.sqrt(0.2 * 0.8 / 40)
    assert (found.low, found.high) == pytest.approx((0.2 - 1.96 * error, 0.2 + 1.96 * error), abs=0.03)


def test_differences_are_paired():
    """Both find the same rows hard: their means vary, their difference doesn't."""
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    found = Bootstrap(range(400), seed=0).difference(hard - 0.1, hard, EVERY)
    assert (found.value, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1), abs=1e-6)
    opposed = Bootstrap(range(400), seed=0, draws=5000).difference(hard, 1 - hard, EVERY)
    width = 2 * 1.96 * 2 * hard.std() / 20
    assert opposed.high - opposed.low == pytest.approx(width, rel=0.1), "what the one finds hard the other finds easy"


def test_only_chosen_rows_count():
    """Two clusters of three have a chosen row; a draw that holds neither says nothing."""
    values, chosen = np.array([1.0, 0.0, 5.0, 7.0]), np.array([True, True, False, False])
    found = Bootstrap(["a", "b", "b", "c"], seed=0).mean(values, chosen)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_clusters_of_other_sizes_are_weighted_by_their_rows():
    values = np.array([1.0, 0.0, 0.0, 0.0])
    assert Bootstrap(["a", "b", "b", "b"], seed=0).mean(values, np.ones(4, dtype=bool)).value == 0.25


def test_where_all_agree_the_interval_is_a_point():
    found = Bootstrap(range(400), seed=0).mean(np.ones(400), EVERY)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_seed_decides():
    values = np.random.default_rng(0).random(400)
    once, again, other = (Bootstrap(range(400), seed).mean(values, EVERY) for seed in (1, 1, 2))
    assert once == again != other
