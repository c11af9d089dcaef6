"""Idefics3 and SmolVLM: tiles and the whole image through SigLIP, squares of patches merged into one visual token.

SigLIP has no [CLS]. Saliency is the attention that each patch receives, averaged over all of its crop's patches and the
heads, in the last layer, and a visual token's is the mean of the patches that are merged into it (`scale_factor`
squared: 4 to 16). Keys likewise. Similarity is LLaVA's: the connector leads a square's patches, side by side, into the
language model's space.

Each tile stands in the prompt as a run of visual tokens behind a marker with its row and column. The markers are text:
they stay, so that what is left of a tile is known to be of that tile.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
    get_resize_output_image_size,
)
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from adafv.counting import Sizes
from adafv.models.geometry import Geometry, tiled
from adafv.models.packing import pack
from adafv.models.tower import Tower, TowerAdapter, patch_coverage, patches_per_side, square_side


class Idefics3Adapter(TowerAdapter):
    """`Idefics3ForConditionalGeneration` and `SmolVLMForConditionalGeneration`, for images."""

    image_processors: ClassVar[tuple[Any, ...]] = (Idefics3ImageProcessorPil, SmolVLMImageProcessorPil)

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        super().__init__(model, normalisation)
        inner = cast(Any, model).model
        self._projector = inner.connector.modality_projection
        depths, merge = [model.config.vision_config.num_hidden_layers], partial(_shuffled, model.config)
        self._tower = Tower(inner.vision_model, depths, leading=0, merge=merge)
        self._per_side = patches_per_side(model.config)
        pack(model)

    @classmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        side, tile = square_side(config.vision_config.image_size), image_processor.max_image_size["longest_edge"]
        if side != tile:
            raise ValueError(f"the image processor makes tiles of {tile} pixels, and the vision tower sees {side}")
        rows, columns = _tiles(image_processor, image_size)
        per_side = patches_per_side(config) // config.scale_factor
        return tiled(rows, columns, per_side, patch_coverage(config), text_between=True)

    @classmethod
    def sizes(cls, config: PretrainedConfig) -> Sizes:
        return Sizes.of(config, [config.vision_config.num_hidden_layers])

    @classmethod
    def image_text(cls, config: PretrainedConfig, tokenizer: Any, geometry: Geometry) -> str:
        *tiles, _ = geometry.panels
        rows, columns = len({panel.top for panel in tiles}), len({panel.left for panel in tiles})
        return get_image_prompt_string(
            rows,
            columns,
            1,
            getattr(tokenizer, "fake_image_token", "<fake_token_around_image>"),
            super().image_text(config, tokenizer, geometry),
            getattr(tokenizer, "global_image_token", "<global-img>"),
        )

    @property
    def language_model(self) -> Any:
        return cast(Any, self.model).model.text_model

    def tower_arguments(self, crops: Tensor) -> dict[str, Tensor]:
        # All of them, which the tower would find out on the host.
        shown = torch.ones(len(crops), self._per_side, self._per_side, dtype=torch.bool, device=crops.device)
        return {"patch_attention_mask": shown}


def _shuffled(config: PretrainedConfig, patches: Tensor) -> Tensor:
    """[C, P', D · P / P']: patches [C, P, D] side by side, by the model's own code."""
    return Idefics3Connector.pixel_shuffle(cast(Any, None), patches, config.scale_factor)


def _tiles(image_processor: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that an image is split into, by the processor's own code run on shapes; 1 and 1
    where it is not split.
    """
    if not image_processor.do_image_splitting:
        return 1, 1
    shapes = copy.copy(image_processor)
    shapes.resize = _resized
    blank = _blank(*image_size)
    if image_processor.do_resize:
        blank = _resized(blank, image_processor.size)
    blank = shapes.resize_for_vision_encoder(blank, image_processor.max_image_size["longest_edge"])
    _, rows, columns = shapes.split_images(blank, image_processor.max_image_size)
    return rows or 1, columns or 1


def _resized(image: np.ndarray, size: Any, resample: Any = None) -> np.ndarray:
    """A blank image of the shape that the processor's own `resize` makes of [3, H, W]."""
    if size.longest_edge:
        return _blank(*get_resize_output_image_size(image, resolution_max_side=size.longest_edge))
    return _blank(size.height, size.width)


def _blank(height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (3, height, width))
