"""Lower ends for any scores from 0 to 1: that they hold, and that they aren't lower than they need to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.scoring.betting import Betting
from adafv.scoring.bounds import Bounds, rows_to_show

TAIL = 0.0125


def low(values, clusters=None, tail=TAIL, seed=0) -> float:
    values = np.asarray(values, dtype=float)
    [found] = Betting(range(len(values)) if clusters is None else clusters, seed).lower_ends(values[None], tail)
    return float(found)


# Scores and their probabilities: alike captions, ones that seldom fail, losses, a coin, and a rare disaster.
WORLDS = {
    "captions": ([0.99, 0.9, 0.2], [0.8, 0.18, 0.02]),
    "seldom": ([1.0, 0.0], [0.99, 0.01]),
    "loss": ([0.5, 0.0, 1.0], [0.97, 0.02, 0.01]),
    "coin": ([0.0, 1.0], [0.5, 0.5]),
    "rare": ([0.6, 0.0], [0.998, 0.002]),
    "graded": ([0.0, 0.3, 0.6, 0.9, 1.0], [0.05, 0.05, 0.1, 0.3, 0.5]),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("rows", [40, 300])
def test_it_is_above_the_mean_no_more_often_than_it_says(world, rows):
    scores, odds = map(np.array, WORLDS[world])
    rng, repeats, tail = np.random.default_rng(rows), 400, 0.1
    values = rng.choice(scores, (repeats, rows), p=odds)
    above = (Betting(range(rows), 0).lower_ends(values, tail) > scores @ odds).sum()
    assert above <= repeats * tail + 3 * (repeats * tail * (1 - tail)) ** 0.5


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=2, max_size=5),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_it_holds_for_whatever_scores_and_clusters(world, most, seed):
    """Rows of one image score alike, and images have up to `most` rows."""
    scores, odds = map(np.array, zip(*world, strict=True))
    rng, repeats, tail = np.random.default_rng(seed), 200, 0.1
    clusters = np.repeat(np.arange(60), rng.integers(1, most + 1, 60))
    drawn = rng.choice(scores, (repeats, 60), p=odds / odds.sum())
    above = (Betting(clusters.tolist(), seed).lower_ends(drawn[:, clusters], tail) > scores @ odds / odds.sum()).sum()
    assert above <= repeats * tail + 4.5 * (repeats * tail * (1 - tail)) ** 0.5


@pytest.mark.parametrize("worth", [0.0, 0.5])
def test_it_holds_where_large_pictures_score_lower(worth):
    """Of pictures with one row all rows are right, of those with ten rows nine in ten."""
    repeats, tail, above = 200, 0.1, 0
    mean = (0.8 + 2 * (0.9 + 0.1 * worth)) / 2.8  # of rows; 0.98 or 0.99 of pictures
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        large = rng.random(300) < 0.2
        scores = np.where(large & (rng.random(300) < 0.1), worth, 1.0)
        sizes = np.where(large, 10, 1)
        above += low(np.repeat(scores, sizes), np.repeat(np.arange(300), sizes), tail) > mean
    assert above <= repeats * tail + 3 * (repeats * tail * (1 - tail)) ** 0.5


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_it_is_a_lower_end(rows):
    values = np.array([max(pair) for pair in rows])
    assert 0 <= low(values) <= values.mean() and low(values, tail=0.001) <= low(values, tail=0.2) + 1e-6


@pytest.mark.parametrize("least", [0.98, 0.9])
def test_where_all_agree_it_takes_a_third_more_rows_than_the_exact_one(least):
    rows = rows_to_show(least, TAIL)
    assert low([1.0] * (rows * 4 // 3 + 12)) >= least > low([1.0] * (rows * 5 // 4))


def test_scores_that_vary_little_are_known_better():
    assert low([0.9, 1.0] * 300) > 0.935 > 0.925 > low(([1.0] * 19 + [0.0]) * 30), "both are 0.95 on average"


def test_a_graded_score_shows_nearly_what_the_unproven_bound_does():
    values = np.array([0.5] * 990 + [0.0] * 6 + [1.0] * 4)
    exact = Bounds(range(1000), 0).lower_ends(values[None], TAIL)[0]
    assert exact - 0.003 < low(values) < exact


def test_rows_on_one_picture_count_as_one():
    values = np.array([1.0] * 280 + [0.5] * 20)
    repeated = low(np.repeat(values, 4), np.repeat(np.arange(300), 4))
    assert repeated == pytest.approx(low(values), abs=1e-6)


def test_a_larger_picture_counts_for_more():
    clusters = [0, 0, 0, *range(1, 300)]
    assert low([0, 0, 0] + [1] * 299, clusters) < low([1, 1, 1] + [1] * 298 + [0], clusters)


def test_the_seed_decides():
    values = np.random.default_rng(0).random(50)
    assert low(values, seed=1) == low(values, seed=1) != low(values, seed=2)
