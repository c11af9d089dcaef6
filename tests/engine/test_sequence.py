"""Prompts are sorted into groups of like length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adafv.engine.sequence import grouped


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60), most=st.integers(1, 2000))
def test_groups_hold_each_sequence_once_and_next_to_no_padding(lengths, most):
    groups = grouped(lengths, most)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[row] for row in group)
        assert len(group) == 1 or len(group) * longest <= most
        assert sum(lengths[row] for row in group) >= 0.95 * len(group) * longest


def test_like_lengths_are_read_together_up_to_the_limit():
    assert grouped([100, 40, 99, 41, 100], most=1000) == [[1, 3], [2, 0, 4]]
    assert grouped([10] * 5, most=20) == [[0, 1], [2, 3], [4]]
    assert grouped([50, 10], most=20) == [[1], [0]]
