"""LLaVA-NeXT: LLaVA with any-resolution crops, unpadding, and a newline embedding after each row of the image.

The cues are LLaVA's. Each crop has a [CLS] of its own: saliency compares the patches of one crop by what that crop
shows, and base crop and tiles by how much of their attention goes to patches at all.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, image_size_to_num_patches

from adafv.models.geometry import Geometry, Panel
from adafv.models.llava import LlavaAdapter
from adafv.models.tower import patch_coverage, patches_per_side

NEWLINE = -1  # what stands for one in a `Geometry.source`


class LlavaNextAdapter(LlavaAdapter):
    """`LlavaNextForConditionalGeneration` with a CLIP or DINOv2 vision tower."""

    image_processors: ClassVar[tuple[Any, ...]] = (LlavaNextImageProcessorPil,)

    @classmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        refuse_other_grids(config, image_processor)
        crops = image_size_to_num_patches(image_size, config.image_grid_pinpoints, config.vision_config.image_size)
        side = patches_per_side(config)
        source = _pack(config, torch.arange(crops * side * side).view(crops, side * side, 1), image_size)
        rows = int((source == NEWLINE).sum())
        columns = (len(source) - side * side) // rows - 1 if rows else 0
        panels = base_panel(config), *tiles_panel(config, image_size, rows, columns)
        return Geometry(crops=crops, source=source, panels=panels)

    @property
    def newline(self) -> Tensor | None:
        return cast(Any, self.model).model.image_newline


def _pack(config: PretrainedConfig, index: Tensor, image_size: tuple[int, int]) -> np.ndarray:
    """int64 [L]: `index` [C, P, 1] through the model's own packing code, which reads only the model's `config`."""
    packed, _ = LlavaNextModel.pack_image_features(
        cast(Any, SimpleNamespace(config=config)),
        [index],
        image_sizes=[list(image_size)],
        vision_feature_select_strategy="default",
        image_newline=torch.tensor([NEWLINE]),
    )
    return packed[0].squeeze(-1).numpy()


def refuse_other_grids(config: PretrainedConfig, image_processor: Any) -> None:
    """Raise a ValueError for an image processor that cuts by other grids than the model packs by: of another grid there
    may be as many crops, which would be taken to lie elsewhere.
    """
    known = config.image_grid_pinpoints
    used = getattr(image_processor, "image_grid_pinpoints", known)
    if [*map(tuple, used)] != [*map(tuple, known)]:
        raise ValueError(
            f"the image processor has image_grid_pinpoints {used}, and the model packs crops by its own, {known}"
        )


def base_panel(config: PretrainedConfig) -> Panel:
    """The base crop's: the whole image, stretched to a square. Where its side is no multiple of the patch's, pixels are
    left over at the right and at the bottom.
    """
    side = patches_per_side(config)
    end = patch_coverage(config)
    return Panel(rows=side, columns=side, top=0.0, left=0.0, bottom=end, right=end)


def tiles_panel(config: PretrainedConfig, image_size: tuple[int, int], rows: int, columns: int) -> tuple[Panel, ...]:
    """The panel of the crops behind the base crop, as many rows and columns of patches as unpadding leaves; none where
    an image is so narrow that it leaves nothing.

    The processor scales the image into the best resolution's canvas and pads it; the model then cuts as many rows (or
    columns) of patches off either side.
    """
    if rows == 0 or columns == 0:
        return ()
    canvas = select_best_resolution(image_size, config.image_grid_pinpoints)
    blank = np.broadcast_to(np.uint8(0), (3, *image_size))  # only its shape is read
    drawn = get_patch_output_size(blank, canvas, input_data_format=ChannelDimension.FIRST)
    patch = config.vision_config.image_size / patches_per_side(config)  # with its share of what is left over
    top, bottom = _span(rows, canvas[0], drawn[0], patch)
    left, right = _span(columns, canvas[1], drawn[1], patch)
    return (Panel(rows=rows, columns=columns, top=top, left=left, bottom=bottom, right=right),)


def _span(patches: int, canvas: int, drawn: int, patch: float) -> tuple[float, float]:
    """Where the `patches` left of a canvas side begin and end, in fractions of the `drawn` pixels on it."""
    start = (round(canvas / patch) - patches) // 2 * patch - (canvas - drawn) // 2
    return start / drawn, (start + patches * patch) / drawn
