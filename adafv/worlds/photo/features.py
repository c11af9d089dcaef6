"""The frozen tower's features of training scenes, computed once and kept on disk.

    python -m adafv.worlds.photo.features --scenes N

A shard holds SHARD scenes of consecutive seeds, bfloat16 [SHARD, 576, 384] as uint16: 221 MB. Shards that
exist are left alone, so the command may be stopped and run again, also beside a training that reads them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Dinov2Model

from adafv.worlds.photo.cache import cache_folder, unpacked_folder
from adafv.worlds.photo.parts import load_tower
from adafv.worlds.photo.pictures import pictures
from adafv.worlds.photo.scenes import TRAINING_SEEDS, VALIDATION_SEEDS, make_scene, render

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


def training_tower() -> Dinov2Model:
    """In bfloat16, without the layers behind the features."""
    tower = load_tower(unpacked_folder()).bfloat16()
    tower.encoder.layer = tower.encoder.layer[:DEPTH]
    return tower


class Features:
    """The shards of training or of validation scenes."""

    def __init__(self, folder: Path, seeds: range) -> None:
        self._folder, self._seeds = folder, seeds
        self._open: dict[int, np.ndarray] = {}

    def path(self, shard: int) -> Path:
        return self._folder / f"{self._seeds.start}-{shard:05d}.npy"

    def __len__(self) -> int:
        """How many scenes there are, counted up to the first shard that is missing."""
        shard = 0
        while self.path(shard).is_file():
            shard += 1
        return shard * SHARD

    def __getitem__(self, number: int) -> Tensor:
        """bfloat16 [576, 384] of the scene with the number-th seed."""
        shard, place = divmod(number, SHARD)
        if shard not in self._open:
            self._open[shard] = np.load(self.path(shard), mmap_mode="r")
        return torch.from_numpy(self._open[shard][place].copy()).view(torch.bfloat16)

    def seed(self, number: int) -> int:
        return self._seeds[number]

    def compute(self, shard: int, tower: Dinov2Model) -> None:
        """Compute a shard that is missing; it appears under its name when it is whole."""
        if self.path(shard).is_file():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        found, drawn = [], pictures()
        for start in range(shard * SHARD, (shard + 1) * SHARD, BATCH):
            images = [render(make_scene(self._seeds[i], drawn), drawn) for i in range(start, start + BATCH)]
            found.append(encode(tower, to_pixels(images)).bfloat16().view(torch.uint16).numpy())
        partial = self.path(shard).with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, np.concatenate(found))
        os.replace(partial, self.path(shard))


def training_features() -> Features:
    return Features(cache_folder() / "features", TRAINING_SEEDS)


def validation_features() -> Features:
    return Features(cache_folder() / "features", VALIDATION_SEEDS)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="compute and keep the tower's features of training scenes")
    parser.add_argument("--scenes", type=int, required=True, help=f"how many, a multiple of {SHARD}")
    scenes = parser.parse_args(arguments).scenes
    tower = training_tower()
    validation_features().compute(0, tower)
    for shard in range(scenes // SHARD):
        training_features().compute(shard, tower)
        print(f"{(shard + 1) * SHARD} scenes", flush=True)


if __name__ == "__main__":
    main()
