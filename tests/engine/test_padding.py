"""Rows of different lengths as one tensor."""

from __future__ import annotations

import pytest
import torch

from adafv.engine.padding import padded


@pytest.mark.parametrize("lengths", [[3], [2, 2, 2], [2, 4, 1], [0, 3], [0, 0]])
@pytest.mark.parametrize("width", [(), (5,)])
def test_padded(lengths, width):
    rows = [torch.rand(length, *width) + row for row, length in enumerate(lengths)]
    out = padded(rows, -1)
    assert out.shape == (len(rows), max(lengths), *width)
    for row, one in zip(rows, out, strict=True):
        assert torch.equal(one[: len(row)], row) and bool((one[len(row) :] == -1).all())
