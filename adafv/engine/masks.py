"""Which tokens a grammar allows next, for the rows of a batch: made beside an accelerator's work.

When a step's tokens are chosen, the host has them fetched, moves each row's matcher on and makes the next masks, in a
thread, while the device is at the next step (`BatchMasks.advance`). So masks are there when its scores are. On a CPU
they are made at once: they take some microseconds a row, and a thread's turns with Python's lock take more.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from adafv.engine.grammar import Grammar
from adafv.uploading import uploaded


class BatchMasks(LogitsProcessor):
    """Leaves only those tokens a chance that the grammar allows."""

    def __init__(self, grammar: Grammar) -> None:
        from llguidance import LLExecutor

        self._grammar, self._executor = grammar, LLExecutor()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._matchers: list[Any] = []
        self._next: Future[np.ndarray] | np.ndarray | None = None

    def begin(self, rows: int) -> None:
        """Begin so many answers."""
        self._matchers = [self._grammar.begin() for _ in range(rows)]
        self._next = self._make()

    def keep(self, flags: Sequence[bool]) -> None:
        """Drop the rows whose flag is false. Called before `advance`."""
        self._matchers = [one for one, stays in zip(self._matchers, flags, strict=True) if stays]

    def advance(self, chosen: Tensor) -> None:
        """Begin with the masks behind the rows' next tokens, int64 [b]."""
        if chosen.device.type != "cuda":
            self._next = self._make(chosen.tolist(), together=False)
            return
        copied = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=True).copy_(chosen, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def make() -> np.ndarray:
            arrived.synchronize()
            return self._make(copied.tolist())

        self._next = self._thread.submit(make)

    def _make(self, tokens: Sequence[int] = (), together: bool = True) -> np.ndarray:
        """int32 [b, W]: the next masks, a bit for each token, the lowest first. All is allowed behind an end.

        Args:
            together: in several threads.
        """
        masks = np.full((len(self._matchers), (self._grammar.vocabulary + 31) // 32), -1, dtype=np.int32)
        for matcher, token in zip(self._matchers, tokens, strict=False):
            if not matcher.is_stopped():
                matcher.consume_token(token)
        going = [(matcher, row) for row, matcher in enumerate(self._matchers) if not _has_ended(matcher)]
        first, size = masks.ctypes.data, masks.strides[0]
        if together and going:
            self._executor.unsafe_compute_mask_ptr(going, first, size, len(masks))
        elif going:
            for matcher, row in going:
                matcher.unsafe_compute_mask_ptr(first + row * size, size)
        return masks

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        assert self._next is not None  # there is a batch
        masks = self._next if isinstance(self._next, np.ndarray) else self._next.result()
        return scores.masked_fill(_unpacked(~masks, scores), -torch.inf)


def _has_ended(matcher: Any) -> bool:
    """Whether the end token has been given."""
    return matcher.is_stopped() and (matcher.is_error() or matcher.stop_reason() == "EndOfSentence")


def _unpacked(masks: np.ndarray, scores: Tensor) -> Tensor:
    """bool [b, V], like the scores, of masks [b, W]."""
    if scores.device.type == "cpu":
        bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little", count=scores.shape[1])
        return torch.from_numpy(bits.view(np.bool_))
    there = uploaded(torch.from_numpy(masks), scores.device)
    places = torch.arange(32, dtype=torch.int32, device=scores.device)
    return ((there[:, :, None] >> places) & 1).bool().flatten(1)[:, : scores.shape[1]]
