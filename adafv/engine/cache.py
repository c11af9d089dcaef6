"""The keys and values of a batch: room for all of them made once, given back as answers end.

transformers' own cache grows by concatenation, so every token generated copies all keys and values of its batch. Its
static one reads room that isn't used yet. Here a step writes one column in place and reads the columns there are, and
rows whose answers have ended are dropped.

No part refers back to the whole: a cycle would keep a batch's keys and values, hundreds of MB, until Python's next
collection of cycles, and the next batch would be given memory that has to be faulted in page by page.

A sequence begins at the first column. Generated tokens go to columns after the longest sequence of the batch, so that
there are columns between a shorter one and its answer that `BatchCache.mask` leaves out.

Some layers keep states of other kinds (of convolutions, of linear attention). Their models have transformers' own cache
for each row (`RowCaches`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from adafv.models import Adapter


@dataclass
class _Place:
    """Where the next keys and values go: `rows` that are being written, and from column `start` up to `end`."""

    rows: slice
    start: int = 0
    end: int = 0


class BatchCache(Cache):
    """Keys and values of B rows and L + S columns: prompts of at most L positions, answers of at most S tokens.

    Args:
        depth: layers of the language model.
        rows, columns: B and L + S.
    """

    def __init__(self, depth: int, rows: int, columns: int) -> None:
        self._rows, self._at = rows, _Place(slice(0, rows))
        self._width, self._lengths = 0, torch.empty(0, dtype=torch.int64)
        self._next = self._lengths
        self._branches: Tensor | None = None
        super().__init__(layers=[_Layer(rows, columns, self._at) for _ in range(depth)])

    def forward(
        self, adapter: Adapter, embeds: Tensor, positions: Tensor, mask: Tensor | None, *others: Tensor | None
    ) -> Tensor:
        """`Adapter.forward` of the rows that are expected."""
        return adapter.forward(embeds, positions, mask, self, *others)

    def begin_prefill(self, first: int, count: int, length: int) -> None:
        """Expect the prompts, `length` positions each, of `count` rows from `first` on."""
        self._at.rows, self._at.start, self._at.end = slice(first, first + count), 0, length

    def repeat(self, times: int) -> None:
        """Have so many rows of each one, one after the other. Called after prefill."""
        self._rows *= times
        self.batch_repeat_interleave(times)

    def begin_decode(self, width: int, lengths: Tensor, following: Tensor) -> None:
        """From now on `advance` makes room for a token of every row.

        Args:
            width: L.
            lengths: int64 [B], of the rows' prompts.
            following: int64 [B], the positions of the first tokens.
        """
        self._at.rows, self._at.end = slice(0, self._rows), width
        self._width, self._lengths, self._next = width, lengths, following

    def advance(self) -> Tensor:
        """Expect one token of every row. Returns its positions, int64 [B, 1]."""
        self._at.start, self._at.end = self._at.end, self._at.end + 1
        return self._next[:, None] + (self._at.start - self._width)

    def begin_branches(self, width: int, length: int, places: Tensor) -> None:
        """Expect so many tokens of every row after its prompt's L = `width` positions, in the place of any before.

        Args:
            places: int64 [B, length], how many tokens stand before each of them.
        """
        self._width, self._branches = width, places
        self._at.rows, self._at.start, self._at.end = slice(0, self._rows), width, width + length

    def mask(self) -> Tensor:
        """bool [B, 1, 1, columns]: the attention mask of each row's newest token, True where it attends."""
        column = torch.arange(self._at.end, device=self._lengths.device)
        return ((column < self._lengths[:, None]) | (column >= self._width))[:, None, None]

    def within(self, window: int) -> Tensor:
        """bool [B, 1, T, columns]: which columns lie so near before each of the newest tokens."""
        columns = torch.arange(
            self._at.end, device=(self._branches if self._branches is not None else self._lengths).device
        )
        if self._branches is not None:
            after = self._branches
        else:
            after = self._lengths[:, None] + columns[: self._at.end - self._width]
        places = torch.cat([columns[: self._width].expand(len(after), -1), after], dim=1)
        return (places[:, self._at.start :, None] - places[:, None] < window)[:, None]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows`, int64 [b], ascending."""
        self._lengths, self._next, self._at.rows = self._lengths[rows], self._next[rows], slice(0, len(rows))
        self.batch_select_indices(rows)


class RowCaches(BatchCache):
    """A cache of transformers' for each row, for models with `Adapter.states`. Rows take each step one by one."""

    def __init__(self, adapter: Adapter, rows: int, columns: int) -> None:
        super().__init__(0, rows, columns)
        self._config = adapter.model.config.get_text_config()
        self._all: list[DynamicCache] = []  # and of those the ones that are expected
        self._now = self._all

    def forward(
        self, adapter: Adapter, embeds: Tensor, positions: Tensor, mask: Tensor | None, *others: Tensor | None
    ) -> Tensor:
        rows = zip(embeds.split(1), positions.split(1, dim=-2), self._now, strict=True)
        return torch.cat([adapter.forward(*row[:2], None, row[2], *others) for row in rows])

    def begin_prefill(self, first: int, count: int, length: int) -> None:
        super().begin_prefill(first, count, length)
        self._now = [DynamicCache(config=self._config) for _ in range(count)]
        self._all += self._now

    def repeat(self, times: int) -> None:
        super().repeat(times)
        self._all = [copy.deepcopy(row) for row in self._all for _ in range(times)]

    def begin_decode(self, width: int, lengths: Tensor, following: Tensor) -> None:
        super().begin_decode(width, lengths, following)
        self._now = self._all

    def begin_branches(self, width: int, length: int, places: Tensor) -> None:
        super().begin_branches(width, length, places)
        self._now = copy.deepcopy(self._all)

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self._now = self._all = [self._all[row] for row in rows.tolist()]


def cache_for(adapter: Adapter, rows: int, columns: int) -> BatchCache:
    """A cache of so many rows and columns for an adapter's language model."""
    return RowCaches(adapter, rows, columns) if adapter.states else BatchCache(adapter.depth, rows, columns)


class _Layer(CacheLayerMixin):
    """One layer's part: room for so many rows and columns, written `at` a place that all layers share."""

    is_sliding = False

    def __init__(self, rows: int, columns: int, at: _Place) -> None:
        super().__init__()
        self._rows, self._columns, self._at = rows, columns, at

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self._rows, self._columns
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = value_states.new_empty(rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self._at
        assert self.keys is not None and self.values is not None
        self.keys[at.rows, :, at.start : at.end] = key_states
        self.values[at.rows, :, at.start : at.end] = value_states
        if at.start == 0:  # a prompt sees nothing but itself
            # The columns after it are masked: they get attention of 0, and 0 · NaN is NaN.
            self.values[at.rows, :, at.end :] = 0
            self.keys[at.rows, :, at.end :] = 0
            return key_states, value_states
        return self.keys[:, :, : at.end], self.values[:, :, : at.end]

    def batch_repeat_interleave(self, repeats: int) -> None:
        assert self.keys is not None and self.values is not None
        self.keys, self.values = (each.repeat_interleave(repeats, dim=0) for each in (self.keys, self.values))

    def batch_select_indices(self, indices: Tensor) -> None:
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[indices], self.values[indices]

    def get_seq_length(self) -> int:
        return self._at.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._at.end, 0

    def get_max_length(self) -> int:
        return self._columns
