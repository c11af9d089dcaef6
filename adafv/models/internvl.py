"""InternVL 2.5, 3 and 3.5: tiles and a thumbnail through InternViT, each 2 × 2 patches merged into one visual token.

InternViT has [CLS]. Saliency is its attention to a patch, in the layer that feeds the projector, and a visual token's
is the mean of its four patches': a merged token is worth keeping if its patches are. Keys likewise. Similarity is
LLaVA's: the projector leads the four patches, side by side, into the language model's space.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, cast

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.internvl.modeling_internvl import InternVLModel

from adafv.counting import Sizes
from adafv.models.geometry import Geometry, tiled
from adafv.models.packing import pack
from adafv.models.tower import Tower, TowerAdapter, feature_depths, patch_coverage, patches_per_side


class InternVLAdapter(TowerAdapter):
    """`InternVLForConditionalGeneration`, for images."""

    image_processors: ClassVar[tuple[Any, ...]] = (GotOcr2ImageProcessorPil,)
    image_arguments: ClassVar[Mapping[str, Any]] = {"crop_to_patches": True}

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        super().__init__(model, normalisation)
        inner = cast(Any, model).model
        self._projector = inner.multi_modal_projector
        layers = model.config.vision_config.num_hidden_layers
        (depth,) = feature_depths(model.config)
        self._tower = Tower(
            inner.vision_tower,
            [depth],
            leading=1,
            layers="layer",
            attention="attention",
            norm=None if depth == layers else "layernorm",  # which the projector sees behind the last layer only
            merge=partial(_shuffled, model.config),
        )
        pack(model)

    @classmethod
    def takes(cls, config: PretrainedConfig) -> bool:
        return config.vision_feature_select_strategy == "default" and isinstance(config.vision_feature_layer, int)

    @classmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        columns = rows = 1
        if image_processor.max_patches > 1:
            tile = image_processor.size.height, image_processor.size.width
            least, most = image_processor.min_patches, image_processor.max_patches
            columns, rows = get_optimal_tiled_canvas(image_size, tile, least, most)
        per_side = int(patches_per_side(config) * config.downsample_ratio)
        return tiled(rows, columns, per_side, patch_coverage(config))

    @classmethod
    def sizes(cls, config: PretrainedConfig) -> Sizes:
        return Sizes.of(config, feature_depths(config))

    @classmethod
    def image_text(cls, config: PretrainedConfig, tokenizer: Any, geometry: Geometry) -> str:
        placeholder = super().image_text(config, tokenizer, geometry)
        return f"{tokenizer.start_image_token}{placeholder}{tokenizer.end_image_token}"


def _shuffled(config: PretrainedConfig, patches: Tensor) -> Tensor:
    """[C, P', D · P / P']: patches [C, P, D] side by side, by the model's own code."""
    side = patches_per_side(config)
    square = patches.reshape(len(patches), side, side, -1)
    return InternVLModel.pixel_shuffle(cast(Any, None), square, scale_factor=config.downsample_ratio).flatten(1, 2)
