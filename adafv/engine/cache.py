"""The keys and values of a batch: room for all of them made once, given back as answers end.

transformers' own cache grows by concatenation, so every token generated copies all keys and values of its batch. Its
static one reads room that isn't used yet. Here a step writes one column in place and reads the columns there are, and
rows whose answers have ended are dropped.

A sequence begins at the first column. Generated tokens go to columns behind the longest sequence of the batch, so that
between a shorter one and its answer there is a gap, which `BatchCache.seen` leaves out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


class BatchCache(Cache):
    """Keys and values of B rows and L + S columns: prompts of at most L positions, answers of at most S tokens.

    Args:
        depth: layers of the language model.
        rows, columns: B and L + S.

    Attributes:
        room: (B, L + S), as made.
        rows: that are being written; `start` and `end`: the columns.
    """

    def __init__(self, depth: int, rows: int, columns: int) -> None:
        self.room = (rows, columns)
        self.rows, self.start, self.end = slice(0, rows), 0, 0
        self._width, self._lengths = 0, torch.empty(0, dtype=torch.int64)
        self._next = self._lengths
        self._parts = [_Layer(self) for _ in range(depth)]
        super().__init__(layers=[*self._parts])

    def read(self, first: int, count: int, length: int) -> None:
        """Next come the prompts, `length` positions each, of `count` rows from `first` on."""
        self.rows, self.start, self.end = slice(first, first + count), 0, length

    def answer(self, width: int, lengths: Tensor, following: Tensor | None = None) -> None:
        """From now on `advance` makes room for a token of every row.

        Args:
            width: L.
            lengths: int64 [B], of the rows' prompts.
            following: int64 [B], the positions of the first tokens, where those aren't `lengths`.
        """
        self.rows, self.end = slice(0, self.room[0]), width
        self._width, self._lengths = width, lengths
        self._next = lengths if following is None else following

    def advance(self) -> Tensor:
        """Next comes one token of every row; its positions, int64 [B, 1]."""
        self.start, self.end = self.end, self.end + 1
        return self._next[:, None] + (self.start - self._width)

    def seen(self) -> Tensor:
        """bool [B, 1, 1, columns]: what a row's newest token may look at."""
        column = torch.arange(self.end, device=self._lengths.device)
        return ((column < self._lengths[:, None]) | (column >= self._width))[:, None, None]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows`, int64 [b], ascending."""
        self._lengths, self._next, self.rows = self._lengths[rows], self._next[rows], slice(0, len(rows))
        for layer in self._parts:
            layer.keep(rows)


class _Layer(CacheLayerMixin):
    """One layer's part. What is written where, it asks its cache."""

    is_sliding = False

    def __init__(self, cache: BatchCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self._cache.room
        self.dtype, self.device = key_states.dtype, key_states.device
        # Zeros, since what stands in gaps is multiplied by attention of 0, and 0 · NaN is NaN.
        self.keys = key_states.new_zeros(rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self._cache
        assert self.keys is not None and self.values is not None
        self.keys[at.rows, :, at.start : at.end] = key_states
        self.values[at.rows, :, at.start : at.end] = value_states
        if at.start == 0:  # a prompt sees nothing but itself
            return key_states, value_states
        return self.keys[:, :, : at.end], self.values[:, :, : at.end]

    def keep(self, rows: Tensor) -> None:
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_seq_length(self) -> int:
        return self._cache.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.end, 0

    def get_max_length(self) -> int:
        return self._cache.room[1]
