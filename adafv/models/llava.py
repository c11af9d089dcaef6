"""LLaVA-1.5: one crop, a CLIP tower, a two-layer projector.

Saliency is the [CLS] row of the layer whose output feeds the projector (`vision_feature_layer`, -2 as published).
The layers after it are dropped: nothing reads them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PretrainedConfig, PreTrainedModel
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from adafv.counting import Sizes
from adafv.models.adapter import Adapter, Encoded
from adafv.models.attention import capture
from adafv.models.geometry import Geometry, Panel
from adafv.models.packing import pack


class LlavaAdapter(Adapter):
    """`LlavaForConditionalGeneration` with a CLIP vision tower."""

    model_class: ClassVar[type[PreTrainedModel]] = LlavaForConditionalGeneration
    image_processors: ClassVar[tuple[Any, ...]] = (CLIPImageProcessorPil, LlavaImageProcessorPil)

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        super().__init__(model, normalisation)
        refuse_unsupported(model.config)
        inner = cast(Any, model).model
        self._tower: PreTrainedModel = inner.vision_tower
        self._projector: nn.Module = inner.multi_modal_projector
        self._depths = feature_depths(model.config)
        encoder = getattr(self._tower, "vision_model", self._tower).encoder
        encoder.layers = encoder.layers[: max(self._depths)]
        self._attention = encoder.layers[-1].self_attn
        capture(self._tower, self._attention)
        pack(model)

    @classmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        refuse_unsupported(config)
        side = config.vision_config.image_size // config.vision_config.patch_size
        panel = Panel(side, side, *_covered(image_processor, image_size))
        return Geometry(crops=1, source=np.arange(side * side), panels=(panel,))

    @classmethod
    def feature_width(cls, config: PretrainedConfig) -> int:
        return config.vision_config.hidden_size * len(feature_depths(config))

    @torch.inference_mode()
    def encode(self, crops: Tensor, also: Collection[str] = ()) -> Encoded:
        self._attention.returns_keys = "keys" in also
        several = len(self._depths) > 1
        out = self._tower(self.normalise(crops), output_attentions=True, output_hidden_states=several)
        if several:
            features = torch.cat([out.hidden_states[depth] for depth in self._depths], dim=-1)
        else:
            features = out.last_hidden_state  # of the feature layer: the later ones are gone
        (captured,) = out.attentions
        hidden = features[:, 1:]
        kept = hidden if "hidden" in also else None
        shared = self.text_tower.project(hidden) if self.text_tower and "clip_visual" in also else None
        return Encoded(self._projector(hidden), captured.saliency, captured.keys, kept, shared)

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Tensor:
        return self._projector(hidden.to(self.model.dtype))

    @property
    def newline(self) -> Tensor | None:
        return None


def feature_depths(config: PretrainedConfig) -> list[int]:
    """How many encoder layers lie below each feature layer: -2 of 24 layers is the output of the 23rd."""
    layers = config.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else list(layers)
    count = config.vision_config.num_hidden_layers
    depths = [layer if layer >= 0 else count + 1 + layer for layer in layers]
    if not all(1 <= depth <= count for depth in depths):
        raise ValueError(f"vision_feature_layer is {layers}; each must name one of the tower's {count} layers' outputs")
    return depths


def sizes_of(config: PretrainedConfig) -> Sizes:
    """What decides how much work the model makes."""
    return Sizes.of(config, feature_depths(config))


def refuse_unsupported(config: PretrainedConfig) -> None:
    """Raise a ValueError for a configuration without a [CLS] token apart from the visual tokens."""
    tower = config.vision_config.model_type
    if tower != "clip_vision_model":
        raise ValueError(f"the vision tower is {tower!r}; saliency needs CLIP's [CLS] token ('clip_vision_model')")
    if config.vision_feature_select_strategy != "default":
        raise ValueError(
            f"vision_feature_select_strategy is {config.vision_feature_select_strategy!r}; only 'default', which "
            "leaves [CLS] out of the visual tokens, can be pruned"
        )


def _covered(image_processor: Any, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of the square that the processor shows the model, in fractions of the image."""
    height, width = image_size
    if getattr(image_processor, "do_pad", False):
        side = max(height, width)
        vertical, horizontal = _centred(side, height), _centred(side, width)
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
    start = (pixels - window) // 2
    return start / pixels, (start + window) / pixels
