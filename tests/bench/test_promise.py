"""Calibrations repeated on a table where the truth is known."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from adafv.bench.promise import Terms, looks_of, repeat, summary
from adafv.bench.signals import SIGNALS, ContenderAnswers, Survey
from adafv.pipeline.errors import UsageError


def survey(rows: int = 1500) -> Survey:
    """A third of the answers is wrong, where the model isn't sure."""
    random = np.random.default_rng(0)
    wrong = np.arange(rows) % 3 == 0
    sure = np.where(wrong, -1.0, -0.1) + random.normal(0, 0.01, rows)
    looks = [
        ContenderAnswers(keep, said, np.full(rows, read + 3.0), np.full(rows, read), dict.fromkeys(SIGNALS, sure))
        for keep, said, read in (
            (1.0, ["yes"] * rows, 200.0),
            (0.1, ["no" if each else "yes" for each in wrong], 30.0),
        )
    ]
    return Survey([str(n) for n in range(rows)], [str(n) for n in range(rows)], [("all",)] * rows, looks)


def test_what_is_sure_is_not_asked_again():
    found = repeat(survey(), Terms(0.98, 1500, 400, 5, 0))
    assert found.chosen == found.kept == 5 and found.worst >= 0.98 and found.keeps == {"0.1": 5}
    assert found.escalated_share == pytest.approx(1 / 3, abs=0.02)
    assert found.prompt_tokens == pytest.approx(30 + found.escalated_share * 200) and found.unpruned == 200


def test_looks_are_held_against_the_unpruned_one():
    unpruned, pruned = looks_of(survey())
    assert unpruned.agrees.all() and pruned.agrees.mean() == pytest.approx(2 / 3)


def test_a_line_for_each_world():
    found = asdict(repeat(survey(), Terms(0.98, 1500, 400, 2, 0)))
    _, *lines = summary([{"world": name, "promise": found} for name in ("drawn", "photo")]).splitlines()
    assert [line.split()[0] for line in lines] == ["drawn", "photo"]
    share = f"{100 * found['prompt_tokens'] / found['unpruned']:.1f}"
    assert lines[0].split()[1:3] == ["100.0", f"{found['agreement']:.4f}"] and lines[0].split()[-1] == share


def test_a_sample_that_shows_nothing_is_said():
    with pytest.raises(UsageError, match=r"none of 2 samples of 50 shows an agreement of 0\.98"):
        repeat(survey(), Terms(0.98, 1500, 50, 2, 0))
