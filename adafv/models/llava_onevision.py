"""LLaVA-OneVision: LLaVA-NeXT's crops with a SigLIP tower, and large images' patches interpolated to fewer.

SigLIP has no [CLS]. Saliency is the attention that each patch receives, averaged over all of its crop's patches and
the heads, in the layer that feeds the projector. Similarity is LLaVA's.

An image of more patches than `vision_aspect_ratio` allows (`anyres_max_9`: nine crops' worth) has its tiles' projected
patches interpolated bilinearly to so many. Such a visual token is made of up to four patches: its saliency, keys and
hidden state are made of theirs with the same weights, by the model's own code. (Projecting an interpolated hidden state
is not the same as interpolating projected ones; only strategies that merge tokens do so.)

Where a prompt shows several images, each is padded to a square and is one crop, with one newline behind it.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionModel,
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
    unpad_image,
)

from adafv.models.adapter import Encoded
from adafv.models.geometry import Geometry
from adafv.models.llava_next import NEWLINE, LlavaNextAdapter, base_panel, refuse_other_grids, tiles_panel
from adafv.models.tower import patches_per_side


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """`LlavaOnevisionForConditionalGeneration`, for images."""

    image_processors: ClassVar[tuple[Any, ...]] = (LlavaOnevisionImageProcessorPil,)

    @classmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        if isinstance(image_processor, _MultiImageProcessor):
            return _padded_to_square(config, image_size)
        refuse_other_grids(config, image_processor)
        crops = image_size_to_num_patches(image_size, config.image_grid_pinpoints, config.vision_config.image_size)
        side = patches_per_side(config)
        index = torch.arange(crops * side * side, dtype=torch.float64).view(crops, side * side, 1)
        packed = _pack(config, index, image_size, torch.tensor([NEWLINE])).squeeze(-1).numpy()
        ends = packed == NEWLINE
        size = _unpadded(config, image_size)
        rows = int(ends.sum())
        columns = (len(packed) - side * side) // rows - 1 if rows else 0
        source = packed.astype(np.int64)
        if (rows, columns) != size:  # interpolated: rows of the table behind the patches, see `arrange`
            made = ~ends & (np.arange(len(packed)) >= side * side)
            source[made] = crops * side * side + np.arange(rows * columns)
        panels = (replace(panel, rows=rows, columns=columns) for panel in tiles_panel(config, image_size, *size))
        return Geometry(crops=crops, source=source, panels=(base_panel(config), *panels))

    @classmethod
    def multi_image_processor(cls, image_processor: Any) -> Any:
        return _MultiImageProcessor(image_processor)

    def arrange(self, image: Encoded, geometry: Geometry, image_size: tuple[int, int]) -> Encoded:
        side = patches_per_side(self.model.config)
        if geometry.source.max() < geometry.crops * side * side:
            return image

        def with_interpolated(table: Tensor) -> Tensor:
            crops = table.reshape(geometry.crops, side * side, -1)
            made = _pack(self.model.config, crops, image_size)[side * side :]
            return torch.cat([table, made.reshape(len(made), *table.shape[1:])])

        return image.mapped(with_interpolated)


class _MultiImageProcessor:
    """The image processor, told that its image is not the only one."""

    def __init__(self, image_processor: Any) -> None:
        self._images, self._other = image_processor, Image.new("RGB", (1, 1))

    def __call__(self, image: Image.Image, **arguments: Any) -> dict[str, Any]:
        return {"pixel_values": self._images([[image, self._other]], **arguments)["pixel_values"][:1]}


def _padded_to_square(config: PretrainedConfig, image_size: tuple[int, int]) -> Geometry:
    """The geometry of an image in the middle of a square of padding, which is one crop."""
    whole, square = base_panel(config), max(image_size)
    ends = []
    for pixels in image_size:
        before = (square - pixels) // 2
        ends.append((-before / pixels, (whole.bottom * square - before) / pixels))
    (top, bottom), (left, right) = ends
    panel = replace(whole, top=top, left=left, bottom=bottom, right=right)
    source = np.append(np.arange(panel.rows * panel.columns), NEWLINE)
    return Geometry(crops=1, source=source, panels=(panel,))


def _pack(
    config: PretrainedConfig, crops: Tensor, image_size: tuple[int, int], newline: Tensor | None = None
) -> Tensor:
    """[L, D]: crops [C, P, D] through the model's own packing code, which reads only the model's `config`."""
    packed, _ = LlavaOnevisionModel.pack_image_features(
        cast(Any, SimpleNamespace(config=config)),
        _Crops([crops]),
        image_sizes=[list(image_size)],
        image_newline=newline,
        vision_aspect_ratio=config.vision_aspect_ratio,
    )
    return packed[0]


class _Crops(list[Tensor]):
    """Crops of one image, which the packing code goes through. It also counts what it packed, for nobody here, and asks
    for the first crop to learn where to put the number: on a GPU that would wait for all that is queued.
    """

    def __getitem__(self, index: Any) -> Any:
        return torch.empty(0)


def _unpadded(config: PretrainedConfig, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches that unpadding leaves of the tiles, before any interpolation."""
    tall, wide = get_anyres_image_grid_shape(image_size, config.image_grid_pinpoints, config.vision_config.image_size)
    side = patches_per_side(config)
    rows, columns = unpad_image(torch.empty(1, tall * side, wide * side), image_size).shape[1:]
    return rows, columns
