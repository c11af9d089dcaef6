"""A tiny Qwen2.5-VL: patches of 4 px, merged by two times two. Each layer of the tower sees the whole picture.

A picture of 96 x 96 px gives 144 visual tokens of 8 px, each with a position of three numbers.

The prompt is `<s> <vision> <image>... </vision> question <answer>`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from adafv.worlds.drawn.attention import by_pictures
from adafv.worlds.drawn.family import Family, ProcessorParts, Seen, TokenPlaces
from adafv.worlds.drawn.model import BOS, CHAT_TEMPLATE, IMAGE, SPECIAL_IDS, TOKENS, build_tokenizer, start

VISION, END_OF_VISION, VIDEO = "<vision>", "</vision>", "<video>"
PATCH, MERGED = 4, 8  # px: a patch's side, a token's
SMALLEST, LARGEST = 48 * 48, 144 * 144  # px of a picture after resizing: none of the scenes is resized


@dataclass(frozen=True)
class Qwen(Family):
    vision_hidden: int = 64
    vision_mlp: int = 160
    vision_layers: int = 3
    text_hidden: int = 128
    text_mlp: int = 320
    text_layers: int = 3
    heads: int = 4

    tokens = (*TOKENS, VISION, END_OF_VISION, VIDEO)
    start = (BOS, VISION)
    question_start = (END_OF_VISION,)

    def build_model(self, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
        return start(Qwen2_5_VLForConditionalGeneration(self._config()), seed)

    def _config(self) -> Qwen2_5_VLConfig:
        head = self.text_hidden // self.heads // 2
        text = {
            "vocab_size": len(self.tokens),
            "hidden_size": self.text_hidden,
            "intermediate_size": self.text_mlp,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [head // 4, head * 3 // 8, head * 3 // 8],  # as published: 16, 24, 24
            },
            **SPECIAL_IDS,
        }
        vision = {
            "depth": self.vision_layers,
            "hidden_size": self.vision_hidden,
            "intermediate_size": self.vision_mlp,
            "num_heads": self.heads,
            "out_hidden_size": self.text_hidden,
            "patch_size": PATCH,
            "fullatt_block_indexes": list(range(self.vision_layers)),
        }
        return Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=self.tokens.index(IMAGE),
            video_token_id=self.tokens.index(VIDEO),
            vision_start_token_id=self.tokens.index(VISION),
            vision_end_token_id=self.tokens.index(END_OF_VISION),
            tie_word_embeddings=True,
        )

    def build_processor(self) -> ProcessorParts:
        images = Qwen2VLImageProcessorPil(
            patch_size=PATCH,
            merge_size=MERGED // PATCH,
            temporal_patch_size=2,
            size={"shortest_edge": SMALLEST, "longest_edge": LARGEST},
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )
        template = CHAT_TEMPLATE.replace(IMAGE, f"{VISION} {IMAGE} {END_OF_VISION}")
        more = {"vision_token": VISION, "end_of_vision_token": END_OF_VISION, "video_token": VIDEO}
        return ProcessorParts(images, build_tokenizer(self.tokens, more, chat_template=template))

    @functools.cache  # noqa: B019  (a family lives as long as the process)
    def places(self, width: int, height: int) -> TokenPlaces:
        rows, columns = height // MERGED, width // MERGED
        y, x = (each.ravel() for each in np.indices((rows, columns)))
        boxes = np.stack([x, y, x + 1, y + 1], 1).astype(float) * MERGED
        return TokenPlaces(
            order=np.arange(rows * columns),
            row=y,
            boxes=boxes,
            crop_boxes=np.array([(0.0, 0.0, width, height)]),
            position=len(self.start) + np.stack([np.zeros_like(x), y, x]),
        )

    def pixels(self, picture: Image.Image, processor: Any) -> np.ndarray:
        return np.asarray(processor.image_processor(picture)["pixel_values"], dtype=np.float32)

    def look(self, model: Any, pixels: Tensor, sizes: list[tuple[int, int]], processor: Any) -> Seen:
        tower = model.model.visual
        grid = torch.tensor([[1, height // PATCH, width // PATCH] for width, height in sizes])
        if len(set(sizes)) > 1:
            return Seen(tokens=tower(pixels, grid).pooler_output, cls=None)
        with by_pictures(tower):
            ends = torch.tensor([0, len(pixels)], dtype=torch.int32)
            out = tower(pixels, grid, cu_seqlens=ends, pictures=len(sizes))
        return Seen(tokens=out.pooler_output, cls=None)
