"""Textured backgrounds: stripes, checks, gradients, clouds and grass, in two shades of a hue."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Field = Callable[[np.random.Generator, int, int], np.ndarray]  # float [height, width]: 0 dark, 1 light

GRAIN = 8  # brightness that pixels differ by


def paint(texture: str, hue: tuple[int, int, int], rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """One of TEXTURES as an RGB picture. The lightest shade stays duller than an object of the same name."""
    field = TEXTURES[texture](rng, width, height)[..., None].astype(np.float32)
    colour = np.array(hue, dtype=np.float32)
    dark = rng.uniform(0.1, 0.25) * colour + rng.uniform(5, 35)
    light = rng.uniform(0.3, 0.5) * colour + rng.uniform(35, 70)
    grain = rng.integers(-GRAIN, GRAIN + 1, size=(height, width, 3), dtype=np.int8)
    return Image.fromarray(np.clip(dark + field * (light - dark) + grain, 0, 255).astype(np.uint8))


def _stripes(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return _wave(_along(rng.uniform(0, math.pi), width, height), rng)


def _checks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    angle, period = rng.uniform(0, math.pi / 2), rng.uniform(8, 24)
    sides = (_along(angle + turn, width, height) % period < period / 2 for turn in (0, math.pi / 2))
    one, other = sides
    return (one ^ other).astype(float)


def _gradient(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    if rng.random() < 0.5:
        return _stretched(_along(rng.uniform(0, 2 * math.pi), width, height))
    x, y = np.meshgrid(np.arange(width) - rng.integers(width), np.arange(height) - rng.integers(height))
    return _stretched(np.hypot(x, y))


def _clouds(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise of three sizes, each smooth."""
    field = np.zeros((height, width))
    for cells, weight in ((3, 1.0), (7, 0.6), (15, 0.3)):
        coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        field += weight * np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))
    return _stretched(field)


def _grass(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Strokes that lean about the same way, over each other."""
    canvas = Image.new("L", (width, height), 60)
    draw = ImageDraw.Draw(canvas)
    lean = rng.uniform(-0.5, 0.5)
    strokes = width * height // 20
    foot = rng.uniform((0, 0), (width, height + 6), size=(strokes, 2))
    length, angle = rng.uniform(4, 10, strokes), lean + rng.normal(0, 0.3, strokes)
    tip = foot - np.stack([-np.sin(angle), np.cos(angle)], 1) * length[:, None]
    for one, other, brightness in zip(foot, tip, rng.integers(0, 256, strokes), strict=True):
        draw.line((*one, *other), fill=int(brightness))
    return np.asarray(canvas) / 255


def _along(angle: float, width: int, height: int) -> np.ndarray:
    """float [height, width]: how far each pixel lies in that direction."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return x * math.cos(angle) + y * math.sin(angle)


def _wave(distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft or hard bands, 5 to 16 px from one to the next."""
    wave = np.sin(2 * math.pi * distance / rng.uniform(5, 16) + rng.uniform(0, 2 * math.pi))
    return np.clip(0.5 + rng.uniform(0.5, 3) * wave, 0, 1)


def _stretched(field: np.ndarray) -> np.ndarray:
    low, high = field.min(), field.max()
    return (field - low) / max(high - low, 1e-6)


TEXTURES: dict[str, Field] = {
    "stripes": _stripes,
    "checks": _checks,
    "gradient": _gradient,
    "clouds": _clouds,
    "grass": _grass,
}
