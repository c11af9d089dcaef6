"""The frozen tower's features of training scenes, computed once and kept on disk.

A shard of SHARD scenes is a file with bfloat16 [SHARD, 576, 384] as uint16: 221 MB.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Dinov2Model

from adafv.hardware import has_amx
from adafv.worlds.photo.cache import unpacked_folder
from adafv.worlds.photo.parts import load_tower
from adafv.worlds.photo.pictures import Pictures
from adafv.worlds.photo.scenes import Scene, make_scene, render

CROP, PATCH = 336, 14  # px
SIDE = CROP // PATCH  # patches
# Of the tower's 13 hidden states. The package's author tuned the last layers for saliency: a linear probe names 66 % of
# things from layer 8's patches, 50 % from layer 10's.
FEATURE_LAYER = -5
DEPTH = 13 + FEATURE_LAYER  # layers that training needs
SHARD = 500  # scenes
BATCH = 10
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what DINOv2 was trained with


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """float [B, 3, h, w], as the processor rescales and normalises pictures of the right size."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGE_MEAN, IMAGE_STD))
    return (pixels.float() / 255 - mean) / std


@torch.inference_mode()
def encode(tower: Dinov2Model, pixels: Tensor) -> Tensor:
    """Features without [CLS]: float [B, 3, h, w] -> [B, patches, 384] of the tower's type."""
    hidden = tower(pixels.to(tower.dtype), output_hidden_states=True).hidden_states
    return hidden[DEPTH][:, 1:]


def training_dtype() -> torch.dtype:
    """bfloat16 where the processor has AMX; elsewhere its products take longer than float32's, up to eight times."""
    return torch.bfloat16 if has_amx() else torch.float32


@functools.cache
def training_tower() -> Dinov2Model:
    """Without the layers behind the features."""
    tower = load_tower(unpacked_folder())
    torch.nn.Module.to(tower, training_dtype())  # in place; the type of transformers' own `to` takes no dtype
    tower.encoder.layer = tower.encoder.layer[:DEPTH]
    return tower


class Features:
    """Shards of scenes with consecutive seeds, computed when they are first asked for.

    Args:
        folder: where they are kept.
        seeds: of the scenes, in their order.
        pictures: what the scenes are made of.
        tower: makes the tower, the first time that a shard is missing.
        shard: how many scenes a shard holds.
        make: draws a seed's scene.
    """

    def __init__(
        self,
        folder: Path,
        seeds: range,
        pictures: Pictures,
        tower: Callable[[], Dinov2Model],
        shard: int = SHARD,
        make: Callable[[int, Pictures], Scene] = make_scene,
    ) -> None:
        self._folder, self._seeds, self._pictures, self._tower, self.shard = folder, seeds, pictures, tower, shard
        self._make = make
        self._open: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> Tensor:
        """bfloat16 [576, 384] of the scene with the number-th seed."""
        shard, place = divmod(number, self.shard)
        if shard not in self._open:
            self._open[shard] = np.load(self._computed(shard), mmap_mode="r")
        return torch.from_numpy(self._open[shard][place].copy()).view(torch.bfloat16)

    def scene(self, number: int) -> Scene:
        return self._make(self._seeds[number], self._pictures)

    def _computed(self, shard: int) -> Path:
        """The file of a shard, which appears under its name when it is whole."""
        path = self._folder / f"{self._seeds.start}-{shard:05d}.npy"
        if path.is_file():
            return path
        self._folder.mkdir(parents=True, exist_ok=True)
        tower, found = self._tower(), []
        for start in range(shard * self.shard, (shard + 1) * self.shard, BATCH):
            numbers = range(start, min(start + BATCH, (shard + 1) * self.shard))
            images = [render(self.scene(number), self._pictures) for number in numbers]
            found.append(encode(tower, to_pixels(images)).bfloat16().view(torch.uint16).numpy())
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, np.concatenate(found))
        os.replace(partial, path)
        print(f"features of {self.shard} scenes from seed {self._seeds[shard * self.shard]}", flush=True)
        return path
