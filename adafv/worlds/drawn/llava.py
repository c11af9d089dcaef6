"""The families that cut pictures into crops: LLaVA-NeXT with a CLIP tower, LLaVA-OneVision with a SigLIP one."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    LlavaNextModel,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from adafv.worlds.drawn import model as llava_next
from adafv.worlds.drawn.attention import plainly
from adafv.worlds.drawn.family import NEWLINE, Family, ProcessorParts, Seen, TokenPlaces
from adafv.worlds.drawn.model import (
    BOS,
    CHAT_TEMPLATE,
    CROP,
    GRID_PINPOINTS,
    IMAGE,
    PATCH,
    TOKENS,
    ModelSize,
    build_tokenizer,
    model_config,
    start,
    text_config,
)  # fmt: skip

PATCHES = (CROP // PATCH) ** 2  # per crop
VIDEO = "<video>"


@dataclass(frozen=True)
class LlavaNext(Family):
    size: ModelSize = field(default_factory=ModelSize)

    tokens = TOKENS
    start = (BOS,)
    has_cls = True

    def build_model(self, seed: int = 0) -> Any:
        return llava_next.build_model(self.size, seed)

    def build_processor(self) -> Any:
        return llava_next.build_processor()

    def places(self, width: int, height: int) -> TokenPlaces:
        return layout(width, height)

    def pixels(self, picture: Image.Image, processor: Any) -> np.ndarray:
        """The processor's own crops before rescaling and normalisation: uint8 [crops, 3, CROP, CROP]."""
        if picture.size == (CROP, CROP):  # the first stages' pictures: one crop
            return np.asarray(picture).transpose(2, 0, 1)[None]
        pixels = processor.image_processor(picture, do_rescale=False, do_normalize=False)["pixel_values"]
        return np.asarray(pixels[0], dtype=np.uint8)

    def look(self, model: Any, pixels: Tensor, sizes: list[tuple[int, int]], processor: Any) -> Seen:
        with plainly(model.model.vision_tower):
            states = self.encode_crops(model, normalise(pixels, processor))
        first = int(self.has_cls)
        tokens = model.model.multi_modal_projector(states[:, first:]).flatten(0, 1)
        return Seen(tokens, cls=states[:, 0] if first else None)

    def encode_crops(self, model: Any, pixels: Tensor) -> Tensor:
        """The tower's hidden states at the feature layer: [C, 1 + PATCHES, D]. Layers after it are not run."""
        tower = model.model.vision_tower
        states = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[: model.config.vision_feature_layer + 1]:
            states = layer(states, None)
        return states

    def newline(self, model: Any) -> Tensor:
        return model.model.image_newline


LLAVA_NEXT = LlavaNext()


@dataclass(frozen=True)
class Onevision(LlavaNext):
    """Its crops are LLaVA-NeXT's. None of the scenes is so large that patches would be interpolated."""

    tokens = (*TOKENS, VIDEO)
    has_cls = False

    def build_model(self, seed: int = 0) -> LlavaOnevisionForConditionalGeneration:
        vision = SiglipVisionConfig(
            hidden_size=self.size.vision_hidden,
            intermediate_size=self.size.vision_mlp,
            num_hidden_layers=self.size.vision_layers,
            num_attention_heads=self.size.heads,
            image_size=CROP,
            patch_size=PATCH,
            vision_use_head=False,
        )
        config = LlavaOnevisionConfig(
            vision_config=vision,
            text_config=text_config(self.size, len(self.tokens)),
            image_token_index=TOKENS.index(IMAGE),
            video_token_index=self.tokens.index(VIDEO),
            image_grid_pinpoints=GRID_PINPOINTS,
            vision_aspect_ratio="anyres_max_9",
            tie_word_embeddings=True,
        )
        return start(LlavaOnevisionForConditionalGeneration(config), seed)

    def build_processor(self) -> Any:
        images = LlavaOnevisionImageProcessorPil(
            size={"height": CROP, "width": CROP},
            image_grid_pinpoints=GRID_PINPOINTS,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )
        return ProcessorParts(images, build_tokenizer(self.tokens, {"video_token": VIDEO}, chat_template=CHAT_TEMPLATE))

    def encode_crops(self, model: Any, pixels: Tensor) -> Tensor:
        """[C, PATCHES, D]"""
        tower = model.model.vision_tower
        states = tower.embeddings(pixels)
        for layer in tower.encoder.layers:
            states = layer(states, None)
        return states


@functools.cache
def layout(width: int, height: int) -> TokenPlaces:
    """The layout of a picture that fits its grid of crops without being resized, as all scenes do."""
    if (width, height) == (CROP, CROP):  # the first stages' pictures: one crop, no base, no newlines
        corners = [(0.0, 0.0)]
        crop_boxes, order = _boxes(corners, CROP, CROP), np.arange(PATCHES)
        return TokenPlaces(order, np.full(PATCHES, -1), _boxes(_patch_corners(corners), PATCH, PATCH), crop_boxes)
    rows, columns = math.ceil(height / CROP), math.ceil(width / CROP)
    left, top = (columns * CROP - width) // 2, (rows * CROP - height) // 2  # the processor's padding
    corners = [(float(x * CROP - left), float(y * CROP - top)) for y in range(rows) for x in range(columns)]
    base = _boxes(_patch_corners([(0.0, 0.0)]), PATCH, PATCH) * np.tile([width / CROP, height / CROP], 2)
    boxes = np.concatenate([base, _boxes(_patch_corners(corners), PATCH, PATCH)])
    crop_boxes = np.concatenate([[(0, 0, width, height)], _boxes(corners, CROP, CROP)])
    order = pack_order(width, height, crops=1 + rows * columns)
    ends = np.cumsum(order == NEWLINE) - (order == NEWLINE)
    return TokenPlaces(order, np.where(np.arange(len(order)) < PATCHES, -1, ends), boxes, crop_boxes)


def pack_order(width: int, height: int, crops: int) -> np.ndarray:
    """Patch numbers, and NEWLINE, in the order in which the model packs them; int64 [V]."""
    config = model_config()
    with torch.device("meta"):
        packer = LlavaNextModel(config)
    numbers = torch.arange(crops * PATCHES, dtype=torch.float64).view(crops, PATCHES, 1)
    newline = torch.full((1,), float(NEWLINE), dtype=torch.float64)
    packed, _ = packer.pack_image_features([numbers], [[height, width]], "default", newline)
    return packed[0][:, 0].long().numpy()


def _patch_corners(crop_corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    steps = range(0, CROP, PATCH)
    return [(x + dx, y + dy) for x, y in crop_corners for dy in steps for dx in steps]


def _boxes(corners: list[tuple[float, float]], width: float, height: float) -> np.ndarray:
    return np.array([(x, y, x + width, y + height) for x, y in corners])


def normalise(crops: Tensor, processor: Any) -> Tensor:
    """uint8 [C, 3, h, w] -> float [C, 3, h, w], as the processor rescales and normalises."""
    mean = torch.tensor(processor.image_processor.image_mean).view(3, 1, 1)
    deviation = torch.tensor(processor.image_processor.image_std).view(3, 1, 1)
    return (crops.float() * processor.image_processor.rescale_factor - mean) / deviation
