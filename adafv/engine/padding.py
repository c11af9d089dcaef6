"""Rows of different lengths as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def padded(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """[B, longest, ...] of at least one row [length, ...], filled up with `value` at the end."""
    if len(rows) == 1:
        return rows[0][None]  # no copy
    if all(len(row) == len(rows[0]) for row in rows):
        return torch.stack(list(rows))  # one copy; the other way it is one a row
    return pad_sequence(list(rows), batch_first=True, padding_value=value)
