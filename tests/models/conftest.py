"""Random-weight checkpoints of several shapes, built once a session."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.tiny_models import Shape, build

SHAPES = {
    "next": Shape(),
    "next-wide": Shape(
        image=48, patch=12, layers=4, heads=2, hidden=64, pinpoints=((48, 96), (96, 48), (96, 96)), seed=1
    ),
    "next-first-layer": Shape(feature_layer=1, pinpoints=((32, 32), (64, 64)), seed=2),
    "next-last-layer": Shape(feature_layer=-1, seed=3),
    "next-two-layers": Shape(layers=4, feature_layer=[-3, -2], seed=4),
    "llava": Shape(family="llava", seed=5),
    "llava-no-template": Shape(family="llava", image=40, patch=10, template=False, seed=6),
}
# (height, width): one to five crops, odd aspect ratios, and pictures of which unpadding leaves nothing
SIZES = [(64, 64), (30, 61), (97, 33), (33, 97), (31, 32), (200, 40), (1, 1), (1, 300), (300, 2), (45, 64)]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    built = {}

    def get(name: str):
        if name not in built:
            built[name] = build(tmp_path_factory.mktemp(name), SHAPES[name])
        return built[name]

    return get


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A picture with structure: noise over a gradient, so that patches differ in mean and in texture."""
    random = np.random.default_rng(seed)
    gradient = np.linspace(0, 200, size[0] * size[1] * 3).reshape(*size, 3)
    return Image.fromarray((gradient + random.integers(0, 55, gradient.shape)).astype(np.uint8))
