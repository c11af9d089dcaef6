"""LLaVA-1.5: one crop, a CLIP, DINOv2 or SigLIP tower, a two-layer projector.

Both cues are the paper's. Saliency is the [CLS] row of the layer whose output feeds the projector
(`vision_feature_layer`, -2 as published): [CLS] was trained to sum the image up. A SigLIP tower (llava-interleave)
has no [CLS]; there it is the attention that each patch receives from all. Similarity is the cosine between the
question's input embeddings and the projected patches: the projector was trained to put them into one space.

`vision_feature_select_strategy` says whether the first position is left out (`default`) or not (`full`). It is [CLS]
in CLIP and DINOv2, and the first patch in SigLIP, so that CLIP and DINOv2 go with `default` and SigLIP with `full`.
Others, as Pixtral's tower, are for the general adapter.

A DINOv2 tower interpolates its positions, so its crops may have another size than `image_size`, the one it was trained
at: they are what the image processor makes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from adafv.counting import Sizes
from adafv.models.geometry import Geometry, Panel
from adafv.models.packing import pack
from adafv.models.tower import Tower, TowerAdapter, feature_depths, patch_coverage, patches_per_side, square_side

CLIP, DINOV2, SIGLIP = "clip_vision_model", "dinov2", "siglip_vision_model"
_STRATEGY = {CLIP: "default", DINOV2: "default", SIGLIP: "full"}
# How transformers builds each tower; CLIP's last norm is for [CLS] only.
_TOWERS: dict[str, dict[str, Any]] = {
    CLIP: {"leading": 1},
    DINOV2: {"leading": 1, "layers": "layer", "attention": "attention", "norm": "layernorm"},
    SIGLIP: {"leading": 0, "norm": "post_layernorm"},
}


class LlavaAdapter(TowerAdapter):
    """`LlavaForConditionalGeneration` with a CLIP, DINOv2 or SigLIP vision tower."""

    image_processors: ClassVar[tuple[Any, ...]] = (
        BitImageProcessorPil,
        CLIPImageProcessorPil,
        LlavaImageProcessorPil,
        SiglipImageProcessorPil,
    )

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        super().__init__(model, normalisation)
        inner = cast(Any, model).model
        self._projector = inner.multi_modal_projector
        tower = model.config.vision_config.model_type
        self._tower = Tower(inner.vision_tower, feature_depths(model.config), **_TOWERS[tower])
        pack(model)

    @classmethod
    def takes(cls, config: PretrainedConfig) -> bool:
        return _STRATEGY.get(config.vision_config.model_type) == config.vision_feature_select_strategy

    @classmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        side, share = patches_per_side(config), patch_coverage(config)
        if config.vision_config.model_type == DINOV2:
            side, share = _interpolated(config, image_processor)
        top, left, bottom, right = _covered(image_processor, image_size)
        bottom, right = top + (bottom - top) * share, left + (right - left) * share
        panel = Panel(rows=side, columns=side, top=top, left=left, bottom=bottom, right=right)
        return Geometry(crops=1, source=np.arange(side * side), panels=(panel,))

    @classmethod
    def sizes(cls, config: PretrainedConfig) -> Sizes:
        sizes = Sizes.of(config, feature_depths(config))
        is_interpolated = config.vision_config.model_type == DINOV2
        return replace(sizes, patches=config.image_seq_length) if is_interpolated else sizes

    @classmethod
    def feature_width(cls, config: PretrainedConfig) -> int:
        if config.vision_config.model_type != CLIP:
            return super().feature_width(config)
        return config.vision_config.hidden_size * len(feature_depths(config))


def _interpolated(config: PretrainedConfig, image_processor: Any) -> tuple[int, float]:
    """How many patches stand side by side in the crops that the processor makes, and the share of a side they cover."""
    crop = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    side, patch = square_side((crop.height, crop.width)), square_side(config.vision_config.patch_size)
    return side // patch, side // patch * patch / side


def _covered(image_processor: Any, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of the square that the processor shows the model, in fractions of the image."""
    if getattr(image_processor, "do_pad", False):
        side = max(image_size)  # where an odd number of pixels is missing, the smaller half comes before the image
        vertical, horizontal = (_window(-((side - pixels) // 2), side, pixels) for pixels in image_size)
    elif image_processor.do_center_crop:
        resized, crop = _resized(image_processor.size, image_size), image_processor.crop_size
        vertical, horizontal = _centred(crop.height, resized[0]), _centred(crop.width, resized[1])
    else:
        vertical = horizontal = (0.0, 1.0)
    return vertical[0], horizontal[0], vertical[1], horizontal[1]


def _resized(size: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the image after the processor's resizing to `size`."""
    if not size.shortest_edge:
        return size.height, size.width
    blank = np.broadcast_to(np.uint8(0), (3, *image_size))  # only its shape is read
    return get_resize_output_image_size(
        blank, size=size.shortest_edge, default_to_square=False, input_data_format=ChannelDimension.FIRST
    )


def _centred(window: int, pixels: int) -> tuple[float, float]:
    """Where a window centred on a side of `pixels` begins and ends, in fractions of the side."""
    return _window((pixels - window) // 2, window, pixels)


def _window(start: int, length: int, pixels: int) -> tuple[float, float]:
    return start / pixels, (start + length) / pixels
