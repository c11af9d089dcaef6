"""Cascades, on tables where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from adafv.calibration.cascades import ERROR, LEADS, THRESHOLDS, BudgetAnswers, cheapest
from adafv.calibration.cascades import family as family_of
from adafv.calibration.demand import LOSS, Demand
from adafv.scoring.betting import Betting
from adafv.scoring.bounds import Bounds


def look(keep: float, agrees, confidence=None, tokens: float = 100.0, seconds: float = 0.01) -> BudgetAnswers:
    agrees = np.asarray(agrees, dtype=float)
    confidence = np.full(len(agrees), -0.5) if confidence is None else np.asarray(confidence)
    many = np.full(len(agrees), tokens)
    return BudgetAnswers(keep, agrees, agrees, None, confidence, many, many, seconds, seconds / 2)


def family(strategy, first, second, bounds, least, families):
    return family_of(strategy, first, second, bounds, Demand("normalised", least), families)


def drawn(rows: int, seed: int, curve: float = 1.0):
    """Confidences, and whether answers agree: the surer, the likelier. And the true agreement by threshold."""
    random = np.random.default_rng(seed)
    odds = random.normal(2, 2, rows)
    right = random.random(rows) < 1 / (1 + np.exp(-curve * odds - 1))
    return -np.logaddexp(0, -odds), right


def bounds(rows: int) -> Bounds:
    return Bounds(range(rows), 0, draws=2000)


def test_what_would_have_been_answered():
    """Two of four rows are asked again: of these one agrees then; of the others one does."""
    first = look(0.1, [1, 0, 0, 1], [-0.01, -0.02, -3.0, -4.0], tokens=20.0, seconds=0.01)
    second = look(0.5, [0, 0, 1, 0], tokens=60.0, seconds=0.04)
    found = family("adafv", first, second, bounds(4), 0.5, 1)
    cascade = next(cascade for cascade in found.cascades if cascade.threshold < -0.5)
    assert (cascade.agreement, cascade.escalated_share) == (0.5, 0.5)
    assert (cascade.tokens, cascade.seconds) == (20 + 60 / 2, pytest.approx(0.01 + 0.02 / 2))
    assert found.cascades[0].escalated_share == 1 and found.cascades[0].agreement == 0.25


def test_the_walk_ends_at_the_first_that_is_not_shown():
    confidence, right = drawn(800, 0)
    found = family("adafv", look(0.1, right, confidence), look(1.0, np.ones(800)), bounds(800), 0.95, 4)
    assert found.chosen is not None
    at = found.cascades.index(found.chosen)
    assert all(cascade.low >= 0.95 for cascade in found.cascades[: at + 1]) and found.cascades[at + 1].low < 0.95
    shares = [cascade.escalated_share for cascade in found.cascades]
    assert shares == sorted(shares, reverse=True)


def test_a_second_look_that_fails_by_itself_ends_it_at_once():
    """Lower thresholds would pass, but a walk that skips what fails would be a search."""
    confidence, right = drawn(800, 0)
    good = np.where(confidence > -0.5, 1, right)
    second = look(0.5, confidence < -0.5)  # wrong where the first is sure
    found = family("adafv", look(0.1, good, confidence), second, bounds(800), 0.9, 1)
    assert found.chosen is None and max(cascade.low for cascade in found.cascades) > 0.9


def test_too_few_rows_show_nothing():
    found = family("adafv", look(0.1, [1] * 50), look(1.0, [1] * 50), bounds(50), 0.98, 4)
    assert found.chosen is None and cheapest([found]) is None


def test_where_all_agree_the_bound_is_clopper_and_pearsons():
    found = family("adafv", look(0.1, [1] * 300), look(1.0, [1] * 300), Bounds(range(300), 0), 0.98, 4)
    assert found.cascades[0].low == pytest.approx((ERROR / 4) ** (1 / 300), abs=1e-3)


def test_fewer_positions_are_cheaper_whatever_was_measured():
    confidence, right = drawn(2000, 1)
    whole, near = look(1.0, np.ones(2000), tokens=200.0), bounds(2000)
    small = family("adafv", look(0.05, right, confidence, 20.0, seconds=0.05), whole, near, 0.95, 2)
    large = family("adafv", look(0.5, right, confidence, 110.0, seconds=0.01), whole, near, 0.95, 2)
    assert small.chosen is not None and large.chosen is not None
    assert cheapest([large, small]) is small.chosen


@pytest.mark.parametrize("demand", [0.9, 0.98])
def test_the_promise_holds_after_choosing_among_plans(demand):
    """60 samples of 400 rows: of the cascades that are chosen, at most 5 % agree less than demanded in truth."""
    budgets = {0.05: (0.8, 20.0), 0.1: (0.9, 27.0), 0.25: (1.0, 60.0), 0.5: (1.2, 110.0)}
    whole = look(1.0, np.ones(400), tokens=200.0)
    truth = {keep: drawn(50_000, 99, curve) for keep, (curve, _) in budgets.items()}
    below = chosen = 0
    for seed in range(60):
        near = Bounds(range(400), seed, draws=600)
        found = []
        for keep, (curve, tokens) in budgets.items():
            confidence, right = drawn(400, 1000 + seed, curve)
            found.append(family("adafv", look(keep, right, confidence, tokens), whole, near, demand, len(budgets)))
        cascade = cheapest(found)
        if cascade is not None:
            chosen += 1
            confidence, right = truth[cascade.keep]
            below += bool(np.where(confidence < cascade.threshold, 1, right).mean() < demand)
    assert chosen == 60 and below <= 0.05 * chosen


def test_the_promise_holds_for_a_loss_of_accuracy():
    """Where the first answer isn't the unpruned one it is as right, less right, or more."""
    demand, whole = Demand("exact", -0.02, LOSS), look(1.0, np.full(800, 0.5), tokens=200.0)

    def scored(rows: int, seed: int):
        confidence, same = drawn(rows, seed)
        changed = np.random.default_rng(seed).choice([0.0, 0.5, 1.0], rows, p=[0.35, 0.55, 0.1])
        return confidence, np.where(same, 0.5, changed)

    below = chosen = 0
    sure, truth = scored(50_000, 7)
    for seed in range(40):
        confidence, scores = scored(800, 1000 + seed)
        first = look(0.1, scores, confidence, 20.0)
        cascade = family_of("adafv", first, whole, Betting(range(800), seed), demand, 1).chosen
        if cascade is not None:
            chosen += 1
            below += bool(demand.figure(np.where(sure < cascade.threshold, 0.5, truth).mean()) < demand.least)
            assert cascade.low >= -0.02 and cascade.escalated_share < 0.9
    assert chosen > 33 and below <= 0.05 * chosen + 2


def test_thresholds_are_fixed_and_can_be_written_down():
    assert list(THRESHOLDS) == sorted(set(THRESHOLDS), reverse=True)
    assert [*map(float, map("{:g}".format, THRESHOLDS))] == [*THRESHOLDS]
    assert THRESHOLDS[0] > -1e-5 and THRESHOLDS[-1] < -6
    assert list(LEADS) == sorted(set(LEADS), reverse=True) and (LEADS[0], LEADS[-1]) == (1, 0)
