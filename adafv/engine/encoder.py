"""Images to visual tokens: each distinct one once, whatever the number of questions about it.

Questions about one image stand together in most data sets, and where one batch ends and the next begins, they stand
in both. So the images of a batch's last sample are kept for the next.

On a CPU each image goes through the tower by itself, since matrix products of other shapes round differently: so the
same bits come out of every batch. On an accelerator the crops of all images go through together, in passes of few
different shapes, each filled up with blank crops: repeated shapes reuse tuned kernels and cached memory. Images of
families that don't cut them to one size go through together as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.engine.sample import Sample
from adafv.models import Adapter, Encoded
from adafv.uploading import uploaded

# Crops that pass through an accelerator's vision tower together: enough to fill it, few enough to bound its
# activations. The last pass of a batch has a multiple of `_STEP`.
_MOST, _STEP = 64, 16

# Likewise pixels, of images that have no common size; a larger image goes by itself.
_PIXELS = _MOST * 336**2


class Encoder:
    """Encodes the images of a batch.

    Args:
        needs: what the strategy needs beside the tokens, see `Adapter.encode`.
        together: whether the images of a batch go through the tower together.
    """

    def __init__(self, adapter: Adapter, needs: Collection[str], together: bool) -> None:
        self._adapter, self._needs, self._together = adapter, needs, together
        self._last: dict[str, Encoded] = {}

    def __call__(self, samples: Sequence[Sample], on_progress: Callable[[], None]) -> list[Encoded]:
        """The samples' images, one after the other, [C · P, …] each; one object for those that are the same.

        Args:
            on_progress: called after each pass through the tower.
        """
        shown = [image for sample in samples for image in sample.images]
        distinct = {image.key: image.crops for image in shown}
        known = {key: encoded for key, encoded in self._last.items() if key in distinct}
        new = {key: crops for key, crops in distinct.items() if key not in known}
        together = self._packed if self._adapter.sizes_vary else self._all_at_once
        encode = together if self._together else self._one_by_one
        encoded = known | dict(zip(new, encode([*new.values()], on_progress), strict=True))
        last = {image.key: encoded[image.key] for image in samples[-1].images}
        # What went through together is one tensor: a part of it would keep the whole batch, 3 GB at 7B and 128 images.
        self._last = {key: each.copied() if self._together else each for key, each in last.items()}
        return [encoded[image.key] for image in shown]

    def _one_by_one(self, images: Sequence[np.ndarray], on_progress: Callable[[], None]) -> list[Encoded]:
        encoded = []
        for crops in images:
            encoded.append(self._pass(torch.from_numpy(crops)).patches(slice(None)))
            on_progress()
        return encoded

    def _all_at_once(self, images: Sequence[np.ndarray], on_progress: Callable[[], None]) -> list[Encoded]:
        if not images:
            return []
        passes = []
        for crops in torch.from_numpy(np.concatenate(images)).split(_MOST):
            blank = -len(crops) % _STEP
            passes.append(self._pass(F.pad(crops, (0, 0, 0, 0, 0, 0, 0, blank))).some(slice(len(crops))))
            on_progress()
        whole = Encoded.joined(passes)
        ends = np.cumsum([len(crops) for crops in images]).tolist()
        return [whole.patches(slice(end - len(crops), end)) for crops, end in zip(images, ends, strict=True)]

    def _packed(self, images: Sequence[np.ndarray], on_progress: Callable[[], None]) -> list[Encoded]:
        encoded: list[Encoded] = []
        while len(encoded) < len(images):
            ends = np.cumsum([crops.size // 3 for crops in images[len(encoded) :]])
            some = images[len(encoded) : len(encoded) + max(1, int(np.searchsorted(ends, _PIXELS, side="right")))]
            moved = self._moved(torch.from_numpy(np.concatenate([crops.reshape(-1) for crops in some])))
            parts = moved.split([crops.size for crops in some])
            crops = [part.view(crops.shape) for part, crops in zip(parts, some, strict=True)]
            encoded += [each.patches(slice(None)) for each in self._adapter.encode_packed(crops, also=self._needs)]
            on_progress()
        return encoded

    def _pass(self, crops: Tensor) -> Encoded:
        return self._adapter.encode(self._moved(crops), also=self._needs)

    def _moved(self, pixels: Tensor) -> Tensor:
        return pixels if self._adapter.on_host else uploaded(pixels, self._adapter.model.device)
