"""Cosines by way of directions, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from adafv.pruning.directions import Directions


def cosines(left, right):
    return F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).transpose(-1, -2)


@pytest.fixture
def vectors():
    return torch.randn(2, 10, 6) * torch.logspace(-3, 3, 10)[:, None]


def test_cosines_do_not_ask_how_long_vectors_are(vectors):
    others = torch.randn(2, 7, 6)
    torch.testing.assert_close(Directions.of(vectors).cosines(Directions.of(others)), cosines(vectors, others))


def test_what_has_no_direction_is_like_nothing():
    assert (Directions.of(torch.zeros(1, 2, 3)).cosines(Directions.of(torch.ones(1, 2, 3))) == 0).all()


def test_bfloat16_is_compared_in_float32(vectors):
    half = vectors.bfloat16()
    wide = Directions.of(half)
    assert wide.vectors.dtype == wide.length.dtype == torch.float32
    torch.testing.assert_close(wide.cosines(wide), cosines(half.float(), half.float()))


def test_parts(vectors):
    """Some samples, some of each sample's vectors, blocks of them, and what is left out of them."""
    all_, alike = Directions.of(vectors), cosines(vectors, vectors)
    one = all_.rows(slice(1, 2))
    torch.testing.assert_close(one.cosines(one), alike[1:])

    places = torch.tensor([[3, 0, 9], [9, 9, 1]])
    rows = torch.arange(2)[:, None]
    torch.testing.assert_close(all_.at(places).cosines(all_), alike[rows, places])
    torch.testing.assert_close(one.at(places[1:]).cosines(one), alike[1:, [9, 9, 1]])

    blocks = all_.in_blocks(4)
    got = blocks.cosines(blocks)
    torch.testing.assert_close(got[:, 1], alike[:, 4:8, 4:8])
    torch.testing.assert_close(got[:, 2, :2, :2], alike[:, 8:, 8:])
    assert (got[:, 2, 2:] == 0).all() and (got[:, 2, :, 2:] == 0).all()

    valid = torch.ones(2, 10, dtype=torch.bool)
    assert torch.equal(all_.where(valid).cosines(all_), all_.cosines(all_))
    valid[0, 7:] = False
    bad = Directions.of(vectors.masked_fill(~valid[:, :, None], torch.nan)).where(valid)
    torch.testing.assert_close(bad.cosines(bad), alike * valid[:, :, None] * valid[:, None])


def test_an_infinite_vector_has_no_finite_length():
    bad = torch.tensor([[[1.0, torch.inf], [torch.nan, 0], [3, 4]]])
    assert Directions.of(bad).length.isfinite().tolist() == [[False, False, True]]
