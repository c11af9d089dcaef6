"""LLaVA-NeXT's crops of a picture, and the order in which their patches stand before the language model."""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Dinov2Config, LlavaNextConfig
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from adafv.models.llava_next import LlavaNextAdapter
from adafv.worlds.photo.features import CROP, IMAGE_MEAN, IMAGE_STD, PATCH

PINPOINTS = [[CROP, 2 * CROP], [2 * CROP, CROP], [2 * CROP, 2 * CROP], [3 * CROP, CROP], [CROP, 3 * CROP]]


def next_images() -> LlavaNextImageProcessorPil:
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": CROP},
        crop_size={"height": CROP, "width": CROP},
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        image_grid_pinpoints=PINPOINTS,
    )


def next_pixels(image: Image.Image) -> Tensor:
    """float [C, 3, CROP, CROP]: the whole picture small, then the crops of it row by row, normalised."""
    return torch.as_tensor(np.asarray(next_images()(image)["pixel_values"][0]))


@functools.cache
def next_order(size: tuple[int, int]) -> Tensor:
    """int64 [V] of a picture of that width and height: a patch's place among the crops', or -1 for a row's end."""
    vision = Dinov2Config(image_size=CROP, patch_size=PATCH)
    config = LlavaNextConfig(vision_config=vision, image_grid_pinpoints=PINPOINTS)
    return torch.from_numpy(LlavaNextAdapter.geometry(config, None, size[::-1]).source)
