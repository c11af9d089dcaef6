"""The losses where their right value is known."""

import math

import pytest
import torch

from adafv.worlds.drawn.attention import block_mask
from adafv.worlds.drawn.batches import ABSENT
from adafv.worlds.drawn.family import NEWLINE
from adafv.worlds.drawn.losses import (
    ALIGNMENT_SCALE,
    Outputs,
    alignment_loss,
    answer_loss,
    own_positions,
    positions,
)


def test_mask_and_positions_by_hand():
    """A prefix of two (of width three), then a question of two tokens, one of one, and padding: two blocks of two."""
    prefix_length, segment = torch.tensor([2]), torch.tensor([[0, 0, 1, -1]])
    mask = block_mask(prefix_length, 3, segment, 2)[:, 0].int().tolist()
    assert mask == [
        [
            [1, 1, 0, 0, 0, 1, 0],  # there is no block before the first
            [1, 1, 0, 0, 0, 1, 1],
        ],
        [
            [1, 1, 0, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 0, 0],  # padding sees the picture; nobody sees it
        ],
    ]
    across = block_mask(prefix_length, 0, torch.tensor([[0, 1, 1, 1]]), 2)[:, 0].int().tolist()
    assert across == [[[0, 0, 1, 0], [0, 0, 0, 1]], [[0, 1, 1, 0], [0, 1, 1, 1]]]
    offset = torch.tensor([[0, 1, 0, 0]])
    assert positions(prefix_length, 3, offset).tolist() == [[0, 1, 2, 2, 3, 2, 2]]
    place = torch.tensor([[[2, 2]], [[2, 2]], [[2, 3]]])  # one row of two tokens, behind two of text
    assert own_positions(2, place, torch.tensor([4]), offset).tolist() == [
        [[0, 1, 2, 2, 4, 5, 4, 4]],
        [[0, 1, 2, 2, 4, 5, 4, 4]],
        [[0, 1, 2, 3, 4, 5, 4, 4]],
    ]


def outputs(logits, target, in_caption):
    return Outputs(logits, torch.tensor(target), torch.tensor(in_caption), torch.empty(0), torch.empty(0))


def test_answer_loss_weighs_captions():
    logits = torch.tensor([[20.0, 0.0], [0.0, 0.0]])  # sure and right; undecided, at a cost of log 2
    both = outputs(logits, [0, 0], [False, True])
    assert answer_loss(both, 1.0).item() == pytest.approx(math.log(2) / 2, abs=1e-4)
    assert answer_loss(both, 0.5).item() == pytest.approx(math.log(2) / 3, abs=1e-4)
    swapped = outputs(logits, [0, 0], [True, False])
    assert answer_loss(swapped, 0.5).item() == pytest.approx(math.log(2) / 1.5, abs=1e-4)


def scene():
    """Two words, each shown by one of three patches, and a newline and padding that must not count."""
    words = torch.eye(4)[:2]
    visual = torch.eye(4)[[0, 1, 2, 0, 0]][None]
    shows = torch.zeros(1, 5, 2, dtype=torch.bool)
    shows[0, 0, 0] = shows[0, 1, 1] = True
    order = torch.tensor([[0, 1, 2, NEWLINE, ABSENT]])
    return visual, words, shows, order


def test_alignment_loss_is_near_zero_when_aligned_and_ignores_newlines_and_padding():
    visual, words, shows, order = scene()
    loss = alignment_loss(visual, words, shows, order).item()
    assert loss == pytest.approx(0, abs=1e-6)
    visual[0, 3:] *= -1  # what stands in newlines and padding makes no difference
    assert alignment_loss(visual, words, shows, order).item() == pytest.approx(loss, abs=1e-6)


def test_alignment_loss_is_large_when_words_point_at_the_wrong_patches():
    visual, words, shows, order = scene()
    assert alignment_loss(visual, words.flip(0), shows, order).item() > ALIGNMENT_SCALE


def test_alignment_loss_knows_uniform_similarity():
    visual, words, shows, order = scene()
    loss = alignment_loss(torch.ones_like(visual), torch.ones_like(words), shows, order).item()
    assert loss == pytest.approx(math.log(3) + math.log(2), abs=1e-5)  # three patches, two words


def test_every_object_asks_for_more_than_one_object():
    """A word that names two objects and points at one: enough for the one loss, not for the other."""
    words, order = torch.eye(2), torch.tensor([[0, 1, 2]])
    shows = torch.tensor([[[True, False], [True, False], [False, True]]])
    on_object = torch.eye(3, dtype=torch.bool)[None]
    visual = torch.tensor([[[1.0, 0.0], [0.0, 0.2], [0.0, 1.0]]])
    lax, strict = (alignment_loss(visual, words, shows, order, objects).item() for objects in (None, on_object))
    assert strict > lax + ALIGNMENT_SCALE / 4
    both = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])  # two objects share the word's log 2 each, one has none
    assert alignment_loss(both, words, shows, order, on_object).item() == pytest.approx(math.log(2) * 2 / 3, abs=1e-4)
    one_object = torch.tensor([[[True, False], [True, False], [False, True]]])
    assert alignment_loss(visual, words, shows, order, one_object).item() == pytest.approx(lax, abs=1e-5)
