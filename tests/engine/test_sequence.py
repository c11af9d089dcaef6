"""Prompts are sorted into groups of like length, and lose their padding."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from adafv.engine.sequence import Prompts, grouped


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


def test_padding_is_cut_off():
    padded = Prompts(
        rows=[3],
        embeds=torch.arange(10.0).view(1, 5, 2),
        lengths=torch.tensor([3]),
        positions=torch.arange(15).view(3, 1, 5),
        following=torch.tensor([7]),
        deepstack=torch.arange(20.0).view(2, 1, 5, 2),
        blocks=torch.tensor([[0, 0, -1, -1, -1]]),
    )
    cut = padded.unpadded()
    assert torch.equal(cut.embeds, padded.embeds[:, :3]) and torch.equal(cut.positions, padded.positions[..., :3])
    assert torch.equal(cut.deepstack, padded.deepstack[:, :, :3]) and cut.blocks.tolist() == [[0, 0, -1]]
    assert (cut.rows, cut.following) == (padded.rows, padded.following)
