"""A picture made smaller until the model sees no more tokens than a budget allows, and none is pruned.

A model that takes pictures of any size, or cuts them into tiles, is given a smaller one. LLaVA-1.5 and LLaVA-NeXT take
crops of one size: they see the picture as one crop, of fewer patches, whose positions are interpolated. Where no
picture is small enough for a model, it sees the fewest tokens that it can.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
from PIL import Image

from adafv.engine import EngineOptions, Preparer, Sample
from adafv.models import Adapter, Geometry, Panel, Processing
from adafv.models.tower import patches_per_side, square_side
from adafv.pipeline.images.decode import decode
from adafv.pipeline.sources.rows import Row

_ONE_CROP = ("llava", "llava_next")  # model types

Size = tuple[int, int]  # height and width, in pixels


class Resizer:
    """Makes samples of smaller pictures.

    Args:
        options: `keep` of these says how small.

    Attributes:
        processing: what an engine needs that labels the samples.
    """

    def __init__(self, processing: Processing, options: EngineOptions, max_pixels: int) -> None:
        self._stock, self._max_pixels = processing, max_pixels
        self._budget = replace(options, strategy="uniform").kept_of
        self._is_one_crop = processing.config.model_type in _ONE_CROP
        self.processing = _of_patches(processing) if self._is_one_crop else processing
        self._preparer = Preparer(self.processing, options)

    def __call__(self, row: Row) -> Sample:
        """The row, which the model can be asked as it stands."""
        images = [self._decoded(image.data or b"") for image in row.images]
        sizes = self._sizes([(image.height, image.width) for image in images])
        smaller = [
            image.resize((width, height), Image.Resampling.BICUBIC)
            for image, (height, width) in zip(images, sizes, strict=True)
        ]
        return self._preparer.converse(row.id or "", smaller, row.conversation, row.choices)

    def _decoded(self, data: bytes) -> Image.Image:
        image = decode(data, self._max_pixels)
        if not isinstance(image, Image.Image):
            raise AssertionError(f"a picture that was decoded before can't be decoded: {image}")
        return image

    def _sizes(self, sizes: Sequence[Size]) -> list[Size]:
        """Those that a row's pictures are to have."""

        single = len(sizes) == 1
        budgets = [self._budget(self._stock.geometry(size, single).visual_tokens) for size in sizes]
        if self._is_one_crop:
            return [self._crop(min(budgets))] * len(sizes) if sizes else []
        return [self._stock.fitted(size, budget, single) for size, budget in zip(sizes, budgets, strict=True)]

    def _crop(self, budget: int) -> Size:
        """Of one crop, about a square as the model's own are, with as many patches as the budget and a crop hold."""
        most, patch = (each(self._stock.config) for each in (patches_per_side, _patch))
        rows = min(most, math.isqrt(budget))
        return rows * patch, min(most, budget // rows) * patch


def of_one_shape(samples: Sequence[Sample], batches: Iterable[Sequence[int]]) -> list[list[int]]:
    """The batches, of places of samples, in parts whose crops are of one shape, as an accelerator needs them."""
    parts: dict[tuple[object, ...], list[int]] = {}
    for number, batch in enumerate(batches):
        for place in batch:
            shapes = {image.crops.shape[1:] for image in samples[place].images}
            parts.setdefault((number, *shapes), []).append(place)
    return list(parts.values())


def _of_patches(processing: Processing) -> Processing:
    """The same for pictures that are one crop each, a whole number of patches high and wide."""
    patch = _patch(processing.config)

    @lru_cache(maxsize=256)
    def geometry(size: Size, single: bool = True) -> Geometry:
        rows, columns = size[0] // patch, size[1] // patch
        panel = Panel(rows=rows, columns=columns)
        return Geometry(crops=1, source=np.arange(rows * columns), panels=(panel,))

    def crops(image: Image.Image, single: bool = True) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)[None])

    other: Any = copy.copy(processing)
    other.geometry, other.crops = geometry, crops
    return cast(Processing, other)


def _patch(config: Any) -> int:
    return square_side(config.vision_config.patch_size)


def interpolate(adapter: Adapter) -> None:
    """Let the tower of a model that takes crops of one size take others. Those of its own size it sees as before."""
    if adapter.model.config.model_type not in _ONE_CROP or adapter.model.config.vision_config.model_type == "dinov2":
        return
    tower = cast(Any, adapter.model).model.vision_tower
    embeddings = getattr(tower, "vision_model", tower).embeddings
    stock = embeddings.forward
    embeddings.forward = lambda pixel_values, **_: stock(pixel_values, interpolate_pos_encoding=True)
