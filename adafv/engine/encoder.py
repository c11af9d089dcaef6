"""Pictures to visual tokens: each distinct one once, whatever the number of questions about it.

Questions about one picture stand together in most data sets, and where one batch ends and the next begins, they stand
in both. So the last picture of a batch is kept for the next.

On a CPU each picture goes through the tower by itself, since matrix products of other shapes round differently: so the
same bits come out of every batch. On an accelerator the crops of all pictures go through together, in passes of few
different shapes, each filled up with blank crops: a shape that comes again finds its kernels chosen and its memory at
hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.engine.sample import Sample
from adafv.models import Adapter, Encoded

# Crops that pass through an accelerator's vision tower together: enough to fill it, few enough to bound its
# activations. The last pass of a batch has a multiple of `_STEP`.
_MOST, _STEP = 64, 16


class Encoder:
    """Encodes the pictures of a batch.

    Args:
        needs: what the strategy needs beside the tokens, see `Adapter.encode`.
        together: whether the pictures of a batch go through the tower together.
    """

    def __init__(self, adapter: Adapter, needs: Collection[str], together: bool) -> None:
        self._adapter, self._needs, self._together = adapter, needs, together
        self._last: tuple[str, Encoded] | None = None

    def __call__(self, samples: Sequence[Sample], on_progress: Callable[[], None]) -> list[Encoded]:
        """Each sample's picture, [C · P, …]; one object for samples that show the same.

        Args:
            on_progress: called after each pass through the tower.
        """
        distinct = {sample.image_key: sample.crops for sample in samples}
        known = dict([self._last]) if self._last is not None and self._last[0] in distinct else {}
        new = {key: crops for key, crops in distinct.items() if key not in known}
        encode = self._all_at_once if self._together else self._one_by_one
        encoded = known | dict(zip(new, encode([*new.values()], on_progress), strict=True))
        self._last = samples[-1].image_key, encoded[samples[-1].image_key]
        return [encoded[sample.image_key] for sample in samples]

    def _one_by_one(self, pictures: Sequence[np.ndarray], on_progress: Callable[[], None]) -> list[Encoded]:
        encoded = []
        for crops in pictures:
            encoded.append(self._pass(torch.from_numpy(crops)).patches(slice(None)))
            on_progress()
        return encoded

    def _all_at_once(self, pictures: Sequence[np.ndarray], on_progress: Callable[[], None]) -> list[Encoded]:
        if not pictures:
            return []
        passes = []
        for crops in torch.from_numpy(np.concatenate(pictures)).split(_MOST):
            blank = -len(crops) % _STEP
            passes.append(self._pass(F.pad(crops, (0, 0, 0, 0, 0, 0, 0, blank))).first(len(crops)))
            on_progress()
        whole = Encoded.joined(passes)
        ends = np.cumsum([len(crops) for crops in pictures]).tolist()
        return [whole.patches(slice(end - len(crops), end)) for crops, end in zip(pictures, ends, strict=True)]

    def _pass(self, crops: Tensor) -> Encoded:
        device = self._adapter.model.device
        if device.type == "cuda":
            crops = crops.pin_memory()  # or the copy would wait for the device
        return self._adapter.encode(crops.to(device, non_blocking=True), also=self._needs)
