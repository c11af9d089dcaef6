"""Which tokens a grammar allows next, for the rows of a batch.

Sampling needs a mask over all tokens. Greedy decoding on a CPU doesn't: if the grammar accepts the most probable token,
no mask can change the choice. So there the host asks for that token first, which takes a few microseconds, and makes
a mask only for rows whose token is refused.

An accelerator would have to wait for that. So there the masks are made beside its work: when a step's tokens are
chosen, a thread fetches them, moves each row's matcher on and makes the next masks, while the device is at the next
step.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adafv.engine.grammar import Grammar
from adafv.uploading import uploaded


class BatchMasks:
    """Rows of answers that a grammar constrains.

    Args:
        rows: how many answers begin.
        device: of their scores.
    """

    def __init__(self, grammar: Grammar, rows: int, device: torch.device) -> None:
        self._grammar = grammar
        self._matchers = [grammar.begin() for _ in range(rows)]
        beside = device.type == "cuda"
        self._next = _threads()[0].submit(self._made, range(rows), _threads()[1]) if beside else None
        self._taken = False  # whether the newest tokens have been

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these. Called before `advance`."""
        self._matchers = [self._matchers[row] for row in rows]

    def advance(self, chosen: Tensor) -> None:
        """Take the rows' next tokens, int64 [b]."""
        if chosen.device.type != "cuda":
            if not self._taken:
                self._consume(chosen.tolist())
            self._taken, self._next = False, None
            return
        copied = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=True).copy_(chosen, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def make() -> np.ndarray:
            arrived.synchronize()
            self._consume(copied.tolist())
            return self._made(range(len(self._matchers)), _threads()[1])

        self._next = _threads()[0].submit(make)

    def masked(self, scores: Tensor) -> Tensor:
        """The scores [b, V], with -inf for tokens that the grammar refuses. All is allowed after an end token."""
        masks = self._made(range(len(self._matchers))) if self._next is None else self._next.result()
        return scores.masked_fill(_refused(masks, scores), -torch.inf)

    def choose(self, scores: Tensor) -> Tensor:
        """int64 [b]: the allowed token of the highest score [b, V] in each row, of equals the first."""
        if scores.device.type != "cpu":
            return self.masked(scores).argmax(dim=1)
        best = scores.numpy()  # some small operations on a step's few rows: NumPy begins each in a tenth of the time
        chosen = best.argmax(axis=1)
        refused = [row for row, token in enumerate(chosen.tolist()) if not self._accepts(row, token)]
        if refused:
            allowed = _bits(self._made(refused), best.shape[1])
            again = np.where(allowed, best[refused], -np.inf).argmax(axis=1)
            chosen[refused] = again
            self._consume(again.tolist(), refused)
        self._taken = True
        return torch.from_numpy(chosen)

    def _accepts(self, row: int, token: int) -> bool:
        """Whether the grammar allows the row's next token, which it then takes."""
        matcher = self._matchers[row]
        if matcher.is_stopped():
            return token in self._grammar.ends or _has_ended(matcher)
        return matcher.try_consume_tokens([token]) == 1

    def _consume(self, tokens: Sequence[int], rows: Sequence[int] | None = None) -> None:
        for row, token in zip(range(len(tokens)) if rows is None else rows, tokens, strict=True):
            if not self._matchers[row].is_stopped():
                self._matchers[row].consume_token(token)

    def _made(self, rows: Sequence[int], executor: Any = None) -> np.ndarray:
        """int32 [r, W]: the masks of some rows, a bit for each token, the lowest first; by several threads if there is
        an executor.
        """
        masks = np.full((len(rows), (self._grammar.vocabulary + 31) // 32), -1, dtype=np.int32)
        first, size = masks.ctypes.data, masks.strides[0]
        matchers = [(self._matchers[row], place) for place, row in enumerate(rows)]
        going = [(matcher, place) for matcher, place in matchers if not _has_ended(matcher)]
        if executor is not None and going:
            executor.unsafe_compute_mask_ptr(going, first, size, len(masks))
        else:
            for matcher, place in going:
                matcher.unsafe_compute_mask_ptr(first + place * size, size)
        return masks


@cache
def _threads() -> tuple[ThreadPoolExecutor, Any]:
    """The thread that makes masks, and llguidance's for the rows of a batch."""
    from llguidance import LLExecutor

    return ThreadPoolExecutor(1, thread_name_prefix="masks"), LLExecutor()


def _has_ended(matcher: Any) -> bool:
    """Whether the end token has been given."""
    return matcher.is_stopped() and (matcher.is_error() or matcher.stop_reason() == "EndOfSentence")


def _refused(masks: np.ndarray, scores: Tensor) -> Tensor:
    """bool [b, V], like the scores, by masks [b, W] of what is allowed."""
    if scores.device.type == "cpu":
        return torch.from_numpy(_bits(~masks, scores.shape[1]))
    there = uploaded(torch.from_numpy(~masks), scores.device)
    places = torch.arange(32, dtype=torch.int32, device=scores.device)
    return ((there[:, :, None] >> places) & 1).bool().flatten(1)[:, : scores.shape[1]]


def _bits(masks: np.ndarray, count: int) -> np.ndarray:
    """bool [b, count]: the bits of int32 [b, W], the lowest first."""
    return np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little", count=count).view(np.bool_)
