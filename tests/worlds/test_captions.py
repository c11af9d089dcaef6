"""What a caption names, held against what is there."""

from __future__ import annotations

import pytest

from adafv.worlds.captions import f1, hallucinated, recalled

THERE = ["cat", "dog", "pear", "sign"]


@pytest.mark.parametrize(
    ("said", "wrong", "found", "both"),
    [
        (THERE, 0, 1, 1),
        (["dog", "cat"], 0, 1 / 2, 2 / 3),
        (["cat", "fox", "owl"], 2 / 3, 1 / 4, 2 / 7),
        (["cat", "cat", "fox"], 1 / 2, 1 / 4, 2 / 7),  # said twice, it is one thing that is there
        ([], 0, 0, 0),
    ],
)
def test_shares(said, wrong, found, both):
    assert hallucinated(said, THERE) == pytest.approx(wrong)
    assert recalled(said, THERE) == pytest.approx(found)
    assert f1(said, THERE) == pytest.approx(both)
