"""What no prompt has written to is multiplied by attention of 0: it must be a number."""

from __future__ import annotations

import pytest
import torch

from adafv.engine.cache import BatchCache


@pytest.fixture
def empty_is_nan():
    """New memory is full of NaN, as it may be."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def test_masked_columns_are_zeros(empty_is_nan):
    cache = BatchCache(depth=1, rows=3, columns=8)
    for first, count, length in ((0, 2, 3), (2, 1, 5)):  # two groups of prompts
        cache.begin_prefill(first, count, length)
        cache.update(*torch.ones(2, count, 2, length, 4), layer_idx=0)
    (layer,) = cache.layers
    for each in (layer.keys, layer.values):
        assert not each.isnan().any()
        assert (each[:2, :, :3] == 1).all() and (each[:2, :, 3:] == 0).all() and (each[2, :, :5] == 1).all()
