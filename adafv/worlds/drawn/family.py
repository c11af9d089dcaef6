"""What training needs to know of a model's family, beyond transformers' own classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

NEWLINE = -1  # in `TokenPlaces.order`: a newline embedding


@dataclass(frozen=True)
class TokenPlaces:
    """Where the visual tokens of pictures of one size lie."""

    order: np.ndarray  # int64 [V]: patch number, or NEWLINE
    row: np.ndarray  # int64 [V]: row of patches that a token or newline belongs to; -1 for the base crop
    boxes: np.ndarray  # float [patches, 4]: left, top, right, bottom of every patch, in pixels of the picture
    crop_boxes: np.ndarray  # float [crops, 4]
    position: np.ndarray | None = None  # int64 [3, V]: a token's own position; None where tokens are counted


@dataclass(frozen=True)
class Seen:
    """What a tower made of a batch's pictures, patch by patch, of all pictures in a row."""

    tokens: Tensor  # [P, D]: the language model's input, behind projector or merger
    cls: Tensor | None  # [C, S]: the tower's state of [CLS] per crop, where it has such


class Family(ABC):
    """A kind of model: how it is built, cuts pictures, and is trained."""

    tokens: tuple[str, ...]  # a token's id is its place
    start: tuple[str, ...]  # what stands before the visual tokens
    question_start: tuple[str, ...] = ()  # what stands behind them, before each question
    has_cls: bool = False

    @abstractmethod
    def build_model(self, seed: int = 0) -> Any:
        """An untrained model."""

    @abstractmethod
    def build_processor(self) -> Any:
        """With `image_processor`, `tokenizer` and `save_pretrained`."""

    @abstractmethod
    def places(self, width: int, height: int) -> TokenPlaces:
        """Of a picture of that size, in pixels, in training."""

    @abstractmethod
    def pixels(self, picture: Image.Image, processor: Any) -> np.ndarray:
        """[n, ...]: the picture's crops or patches as `look` takes them, of all pictures in a row."""

    @abstractmethod
    def look(self, model: Any, pixels: Tensor, sizes: list[tuple[int, int]], processor: Any) -> Seen:
        """sizes: (width, height) of the pictures."""

    def newline(self, model: Any) -> Tensor | None:
        """[D], where there are such embeddings."""
        return None


@dataclass(frozen=True)
class ProcessorParts:
    """A processor's two parts, where transformers' own asks for torchvision, to read films."""

    image_processor: Any
    tokenizer: Any

    def save_pretrained(self, folder: Path) -> None:
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def initialise(model: Any, seed: int) -> None:
    """Weights are normal with deviation 0.7/sqrt(fan in), wider than the published families' own at this size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:
                fan_in = weight[0].numel()
            elif name.endswith(("class_embedding", "image_newline")):
                fan_in = weight.numel()
            else:
                continue
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.7 / fan_in**0.5)
