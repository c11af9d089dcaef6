"""Calibrations repeated on a table where the truth is known."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from adafv.bench.promise import Terms, look_of, repeat, summary
from adafv.calibration.cascades import BudgetAnswers
from adafv.pipeline.errors import UsageError

ROWS = 1500
QUESTIONS = [str(number) for number in range(ROWS)]
WRONG = np.arange(ROWS) % 3 == 0


@pytest.fixture(scope="module")
def looks() -> list[BudgetAnswers]:
    """A third of the answers is wrong, where the model isn't sure."""
    sure = np.where(WRONG, -1.0, -0.1) + np.random.default_rng(0).normal(0, 0.01, ROWS)
    said = {1.0: ["yes"] * ROWS, 0.1: ["no" if wrong else "Yes." for wrong in WRONG]}
    labels = {
        keep: [SimpleNamespace(answer=one, mean_logprob=logprob, prompt_tokens=read, output_tokens=3)
               for one, logprob in zip(said[keep], sure, strict=True)]
        for keep, read in ((1.0, 200), (0.1, 30))
    }  # fmt: skip
    return [look_of(keep, labels[keep], labels[1.0]) for keep in labels]


def test_what_is_sure_is_not_asked_again(looks):
    found = repeat(QUESTIONS, looks, Terms(0.98, 1500, 400, 5, 0))
    assert found.chosen == found.kept == 5 and found.worst >= 0.98 and found.keeps == {"0.1": 5}
    assert found.escalated_share == pytest.approx(1 / 3, abs=0.02)
    assert found.prompt_tokens == pytest.approx(30 + found.escalated_share * 200) and found.unpruned == 200


def test_looks_are_held_against_the_unpruned_one(looks):
    unpruned, pruned = looks
    assert unpruned.agrees.all() and (pruned.agrees == ~WRONG).all(), "case and full stops make no difference"
    assert pruned.tokens.tolist() == [33] * ROWS


def test_a_line_for_each_world(looks):
    found = asdict(repeat(QUESTIONS, looks, Terms(0.98, 1500, 400, 2, 0)))
    _, *lines = summary([{"world": name, "promise": found} for name in ("drawn", "photo")]).splitlines()
    assert [line.split()[0] for line in lines] == ["drawn", "photo"]
    share = f"{100 * found['prompt_tokens'] / found['unpruned']:.1f}"
    assert lines[0].split()[1:3] == ["100.0", f"{found['agreement']:.4f}"] and lines[0].split()[-1] == share


def test_a_sample_that_shows_nothing_is_said(looks):
    with pytest.raises(UsageError, match=r"none of 2 samples of 50 shows an agreement of 0\.98"):
        repeat(QUESTIONS, looks, Terms(0.98, 1500, 50, 2, 0))
