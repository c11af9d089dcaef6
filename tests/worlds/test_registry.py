"""Every world has what a comparison needs, or says what it lacks."""

from __future__ import annotations

import pytest

from adafv.worlds.drawn.dataset import SCHEMA
from adafv.worlds.drawn.score import CAPTION, Truth
from adafv.worlds.registry import WORLDS


@pytest.mark.parametrize("name", WORLDS)
def test_right_answers_are_worth_all(name):
    world = WORLDS[name]
    if reason := world.missing():
        assert "make photo" in reason
        pytest.skip(reason)
    rows = list(world.rows(2, 7000))
    assert len({row["id"] for row in rows}) == len(rows) and len({row["scene"] for row in rows}) == 2
    for row in rows:
        assert list(row) == SCHEMA.names
        truth = Truth(str(row["answer"]), str(row["type"]), str(row["size"]))
        assert world.points(truth.answer, truth) == 1.0 and world.points("nonsense", truth) == 0.0
    assert CAPTION in {row["type"] for row in rows}
    assert [row["id"] for row in world.rows(1, 7001)] == [
        row["id"] for row in rows if row["scene"] == rows[-1]["scene"]
    ]
