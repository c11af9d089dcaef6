"""Synthetic scenes: one large object, several small ones, a sign, and clutter, drawn from a seed.

A scene is a grid of cells of 16 px, on a dark noisy background of some hue. One large shape covers 2x2 cells;
small shapes and small digits take one cell each, a sign with three digits takes two. What looks like what
decides how hard a scene is:

- In plain scenes kinds never repeat, nor do colours among the shapes or among the digits; but a digit may
  share a shape's colour: so "which shape is red" has one answer, and still the colour alone doesn't find it.
- Crowded scenes hold up to nine small shapes, made of a few kinds and a few colours: most share their colour
  with one thing and their kind with another. Only the pair of both is always one thing's own.
- Three scenes in five are cluttered with coloured specks of 2-4 px, because clean backgrounds are too easy: a
  rule that merely spreads its tokens then finds everything.

That is the style `plain`. In the style `textured` backgrounds have stripes, checks, gradients, clouds or grass under
specks in each scene, objects are shaded and of more sizes, and about five are small; none are crowded.

Everything follows from the seed: the same seed gives the same scene and the same pixels. The ranges at the
top of the file say which seeds are for training and which are never trained on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from adafv.worlds.drawn import textures

TRAINING_SEEDS = range(0, 1_000_000_000)
VALIDATION_SEEDS = range(1_000_000_000, 1_100_000_000)  # to look at while tuning the recipe
EVALUATION_SEEDS = range(2_000_000_000, 2_100_000_000)  # for published figures, datasets and benchmarks

CELL = 16  # px
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 40),
    "green": (40, 178, 60),
    "blue": (52, 84, 235),
    "yellow": (236, 216, 50),
    "purple": (146, 48, 196),
    "orange": (246, 136, 28),
    "cyan": (48, 208, 214),
    "pink": (246, 150, 196),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond", "moon", "arrow")
DIGITS = tuple("0123456789")

# The hues of backgrounds, much darker than the objects of the same name.
BACKGROUNDS = ("red", "green", "blue", "yellow", "purple")

# (columns, rows) of cells and how often a scene has them. Half fill 2x2 crops; the others make the
# any-resolution code pad and unpad (6x4, 4x6), or take fewer crops (6x3, 3x6) or more (9x6, 6x9, 9x9).
GRIDS: dict[tuple[int, int], float] = {
    (6, 6): 0.48, (6, 4): 0.08, (4, 6): 0.08, (6, 3): 0.08, (3, 6): 0.08, (9, 6): 0.06, (6, 9): 0.06, (9, 9): 0.08,
}  # fmt: skip
CROWDED_SHARE = 0.5
CROWD_KINDS, CROWD_COLOURS = 6, 5  # that a crowded scene's shapes are made of
CROWD_ROOM = 12  # cells that must be free for a crowd
SIGN_SHARE = 0.5
SIGN_CELLS, SIGN_DIGITS = 2, 3
CLUTTERED_SHARE = 0.6
SPECKS_PER_CELL = (0.4, 2.2)  # the least and the most in a cluttered scene: 14 to 79 on 6x6 cells

# Streams of random numbers that one seed feeds: drawing more from one leaves the others unchanged.
_LAYOUT_STREAM, _PIXEL_STREAM, QUESTION_STREAM = 0, 1, 2

Size = Literal["small", "large"]
StyleName = Literal["plain", "textured"]
Painter = Callable[[ImageDraw.ImageDraw, int], None]  # draws a shape over a square canvas of that side


@dataclass(frozen=True)
class Style:
    """How the scenes of a kind differ from those of another."""

    grids: dict[tuple[int, int], float]
    crowded: float = CROWDED_SHARE
    cluttered: float = CLUTTERED_SHARE
    specks_per_cell: tuple[float, float] = SPECKS_PER_CELL
    shapes: tuple[int, int] = (3, 5)  # the fewest and the most small ones
    digits: tuple[int, int] = (2, 3)
    least_small: int = CELL - 4  # px: the smallest side of a small object, and of a large one
    least_large: int = 2 * CELL - 6
    textured: bool = False


STYLES: dict[StyleName, Style] = {
    "plain": Style(GRIDS),
    "textured": Style(
        {(6, 6): 0.6, (6, 5): 0.1, (5, 6): 0.1, (6, 4): 0.1, (4, 6): 0.1},
        crowded=0.0,
        cluttered=1.0,
        specks_per_cell=(1.1, 2.2),  # 40 to 79 on 6x6 cells
        shapes=(3, 4),
        digits=(1, 2),
        least_small=CELL - 5,
        least_large=2 * CELL - 10,
        textured=True,
    ),
}


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene. `cell` is the (column, row) of its top-left cell; `box` is in pixels."""

    kind: str
    colour: str
    cell: tuple[int, int]
    size: Size
    box: tuple[int, int, int, int]  # left, top, right, bottom

    @property
    def is_digit(self) -> bool:
        return self.kind in DIGITS


@dataclass(frozen=True)
class Sign:
    """A bright plate with dark digits on it. `cell` is its left cell; `box` is in pixels."""

    text: str  # such as "472"
    cell: tuple[int, int]
    box: tuple[int, int, int, int]

    def digits(self) -> list[tuple[str, tuple[int, int, int, int]]]:
        """Each digit and its box."""
        left, top, right, bottom = self.box
        side, pitch = bottom - top - 3, (right - left) / SIGN_DIGITS
        starts = [round(left + (i + 0.5) * pitch - side / 2) for i in range(SIGN_DIGITS)]
        return [(digit, (x, top + 2, x + side, top + 2 + side)) for digit, x in zip(self.text, starts, strict=True)]


@dataclass(frozen=True)
class Scene:
    """What stands where. The first object is the large one; the small ones follow in reading order."""

    seed: int
    grid: tuple[int, int]  # columns, rows
    background: str  # one of BACKGROUNDS
    specks: int
    objects: tuple[SceneObject, ...]
    sign: Sign | None
    texture: str | None = None  # of the background: one of TEXTURES, in the style that has such

    @property
    def width(self) -> int:
        return self.grid[0] * CELL

    @property
    def height(self) -> int:
        return self.grid[1] * CELL

    @property
    def main(self) -> SceneObject:
        return self.objects[0]


def make_scene(seed: int, grid: tuple[int, int] | None = None, style: StyleName = "plain") -> Scene:
    """The scene of this seed; `grid` (columns, rows) fixes its size, which is otherwise drawn from the style's."""
    look = STYLES[style]
    rng = np.random.default_rng([seed, _LAYOUT_STREAM])
    drawn = list(look.grids)[rng.choice(len(look.grids), p=list(look.grids.values()))]
    columns, rows = grid or drawn
    if columns < 3 or rows < 3:
        raise ValueError(f"a scene needs at least 3x3 cells for its objects, got {columns}x{rows}")
    corner = (int(rng.integers(columns - 1)), int(rng.integers(rows - 1)))
    taken = {(corner[0] + dx, corner[1] + dy) for dx in (0, 1) for dy in (0, 1)}
    sign = _make_sign(rng, columns, rows, taken)
    free = [(x, y) for y in range(rows) for x in range(columns) if (x, y) not in taken]
    things = _plain(rng, len(free), look)
    if len(free) >= CROWD_ROOM and rng.random() < look.crowded:
        things = _crowd(rng, len(free))
    (main_kind, main_colour), *small = things
    cells = [free[i] for i in sorted(rng.choice(len(free), len(small), replace=False))]
    objects = [_place(rng, main_kind, main_colour, corner, "large", look)]
    for i, cell in zip(rng.permutation(len(small)), cells, strict=True):
        kind, colour = small[i]
        objects.append(_place(rng, kind, colour, cell, "small", look))
    specks = 0
    if rng.random() < look.cluttered:
        specks = round(float(rng.uniform(*look.specks_per_cell)) * columns * rows)
    (background,) = _pick(rng, BACKGROUNDS, 1)
    texture = _pick(rng, tuple(textures.TEXTURES), 1)[0] if look.textured else None
    return Scene(seed, (columns, rows), background, specks, tuple(objects), sign, texture)


def _make_sign(rng: np.random.Generator, columns: int, rows: int, taken: set[tuple[int, int]]) -> Sign | None:
    """A sign on two free cells side by side, which it takes; None where there are none, and in half of the scenes."""
    places = [
        (x, y) for y in range(rows) for x in range(columns - 1) if not {(x, y), (x + 1, y)} & taken
    ]  # fmt: skip
    wanted = rng.random() < SIGN_SHARE
    if not places or not wanted:
        return None
    x, y = places[rng.integers(len(places))]
    taken |= {(x, y), (x + 1, y)}
    text = "".join(DIGITS[i] for i in rng.integers(len(DIGITS), size=SIGN_DIGITS))
    left, top = x * CELL + int(rng.integers(1, 4)), y * CELL + int(rng.integers(3))
    return Sign(text, (x, y), (left, top, left + SIGN_CELLS * CELL - 4, top + CELL - 2))


def _plain(rng: np.random.Generator, room: int, look: Style) -> list[tuple[str, str]]:
    """(kind, colour) of the large shape, the small shapes and the digits; no kind twice."""
    shapes, digits = (int(rng.integers(least, most + 1)) for least, most in (look.shapes, look.digits))
    if shapes + digits > room:
        shapes, digits = 3, room - 3
    kinds, colours = _pick(rng, SHAPES, shapes + 1), _pick(rng, tuple(COLOURS), shapes + 1)
    return [*zip(kinds, colours, strict=True), *_digits(rng, digits)]


def _crowd(rng: np.random.Generator, room: int) -> list[tuple[str, str]]:
    """Likewise, of few kinds and few colours; no pair twice."""
    kinds, colours = _pick(rng, SHAPES, CROWD_KINDS), _pick(rng, tuple(COLOURS), CROWD_COLOURS)
    pairs = [(kind, colour) for kind in kinds for colour in colours]
    digits = int(rng.integers(1, 4))
    shapes = min(int(rng.integers(6, 10)), room - digits - 1)
    chosen = [pairs[i] for i in rng.choice(len(pairs), shapes + 1, replace=False)]
    return [*chosen, *_digits(rng, digits)]


def _digits(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    return list(zip(_pick(rng, DIGITS, count), _pick(rng, tuple(COLOURS), count), strict=True))


def _pick(rng: np.random.Generator, among: tuple[str, ...], count: int) -> list[str]:
    return [among[i] for i in rng.choice(len(among), count, replace=False)]


def _place(
    rng: np.random.Generator, kind: str, colour: str, cell: tuple[int, int], size: Size, look: Style
) -> SceneObject:
    """Give the object a side and a place inside its cells, both a little random."""
    room, least = (2 * CELL, look.least_large) if size == "large" else (CELL, look.least_small)
    side = int(rng.integers(least, room - 1))
    left = cell[0] * CELL + int(rng.integers(room - side + 1))
    top = cell[1] * CELL + int(rng.integers(room - side + 1))
    return SceneObject(kind, colour, cell, size, (left, top, left + side, top + side))


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of scene.width x scene.height pixels."""
    rng = np.random.default_rng([scene.seed, _PIXEL_STREAM])
    image = _background(scene, rng)
    palette = list(COLOURS.values())
    for x, y, side, colour in zip(
        rng.integers(scene.width, size=scene.specks),
        rng.integers(scene.height, size=scene.specks),
        rng.integers(2, 5, size=scene.specks),
        rng.integers(len(palette), size=scene.specks),
        strict=True,
    ):
        image.paste(palette[colour], (int(x), int(y), int(x + side), int(y + side)))
    for thing in scene.objects:  # after the specks: clutter surrounds the objects and doesn't hide them
        tint = np.clip(COLOURS[thing.colour] + rng.integers(-9, 10, size=3), 0, 255)
        red, green, blue = (int(channel) for channel in tint)
        mask = stencil(thing.kind, thing.box[2] - thing.box[0])
        if scene.texture is None:
            image.paste((red, green, blue), thing.box, mask)
        else:
            image.paste(_shaded(tint, mask.width, rng), thing.box, mask)
    if scene.sign is not None:
        _paint_sign(image, scene.sign)
    return image


def _background(scene: Scene, rng: np.random.Generator) -> Image.Image:
    hue = COLOURS[scene.background]
    if scene.texture is not None:
        return textures.paint(scene.texture, hue, rng, scene.width, scene.height)
    shade = (rng.uniform(0.14, 0.3) * np.array(hue) + rng.integers(12, 30)).astype(int)
    noise = rng.integers(-24, 25, size=(scene.height, scene.width, 3), dtype=np.int16)
    return Image.fromarray(np.clip(noise + shade, 0, 255).astype(np.uint8))


def _shaded(tint: np.ndarray, side: int, rng: np.random.Generator) -> Image.Image:
    """A square of that colour, darker towards one corner."""
    fall = rng.uniform(0.1, 0.35) * _ramp(side)[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    return Image.fromarray((tint.astype(np.float32) * (1 - fall)).astype(np.uint8))


@functools.cache
def _ramp(side: int) -> np.ndarray:
    """float32 [side, side, 1]: from 0 in one corner to 1 in the other."""
    steps = np.linspace(0, 0.5, side, dtype=np.float32)
    return (steps[:, None] + steps)[..., None]


def _paint_sign(image: Image.Image, sign: Sign) -> None:
    image.paste((225, 225, 225), sign.box)
    for digit, box in sign.digits():
        image.paste((20, 20, 20), box, stencil(digit, box[2] - box[0]))


@functools.cache
def stencil(kind: str, side: int) -> Image.Image:
    """The mask ("L", side x side) through which an object's colour is painted."""
    if kind in DIGITS:
        return _digit(kind, side)
    scale = 8  # draw large and shrink, for smooth edges
    canvas = Image.new("L", (side * scale, side * scale), 0)
    _SHAPE_PAINTERS[kind](ImageDraw.Draw(canvas), side * scale - 1)
    return canvas.resize((side, side), Image.Resampling.BOX)


def _polygon(*points: tuple[float, float]) -> Painter:
    def paint(draw: ImageDraw.ImageDraw, side: int) -> None:
        draw.polygon([(x * side, y * side) for x, y in points], fill=255)

    return paint


def _circle(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.ellipse((0, 0, side, side), fill=255)


def _ring(draw: ImageDraw.ImageDraw, side: int) -> None:
    _circle(draw, side)
    draw.ellipse((0.28 * side, 0.28 * side, 0.72 * side, 0.72 * side), fill=0)


def _moon(draw: ImageDraw.ImageDraw, side: int) -> None:
    _circle(draw, side)
    draw.ellipse((0.32 * side, -0.08 * side, 1.16 * side, 0.76 * side), fill=0)


def _heart(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.ellipse((0, 0.04 * side, 0.54 * side, 0.58 * side), fill=255)
    draw.ellipse((0.46 * side, 0.04 * side, side, 0.58 * side), fill=255)
    draw.polygon([(0.04 * side, 0.46 * side), (0.96 * side, 0.46 * side), (0.5 * side, side)], fill=255)


def _star_points() -> list[tuple[float, float]]:
    angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
    radii = (0.53, 0.21) * 5
    return [(0.5 + r * math.cos(a), 0.53 + r * math.sin(a)) for a, r in zip(angles, radii, strict=True)]


_SHAPE_PAINTERS: dict[str, Painter] = {
    "circle": _circle,
    "square": _polygon((0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)),
    "triangle": _polygon((0.5, 0.02), (1, 0.96), (0, 0.96)),
    "star": _polygon(*_star_points()),
    "heart": _heart,
    "cross": _polygon(
        (0.34, 0), (0.66, 0), (0.66, 0.34), (1, 0.34), (1, 0.66), (0.66, 0.66),
        (0.66, 1), (0.34, 1), (0.34, 0.66), (0, 0.66), (0, 0.34), (0.34, 0.34),
    ),
    "ring": _ring,
    "diamond": _polygon((0.5, 0), (0.92, 0.5), (0.5, 1), (0.08, 0.5)),
    "moon": _moon,
    "arrow": _polygon((0, 0.32), (0.5, 0.32), (0.5, 0.04), (1, 0.5), (0.5, 0.96), (0.5, 0.68), (0, 0.68)),
}  # fmt: skip

# 5x7 dot matrix, a row of bits per line. Drawn from this table so that no font file can change the pixels.
_DOTS = {
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14), "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8), "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
}  # fmt: skip


def _digit(kind: str, side: int) -> Image.Image:
    bits = range(4, -1, -1)
    dots = np.array([[255 * (row >> bit & 1) for bit in bits] for row in _DOTS[kind]], dtype=np.uint8)
    width = round(side * 0.8)
    glyph = Image.fromarray(np.kron(dots, np.ones((8, 8), dtype=np.uint8))).resize((width, side), Image.Resampling.BOX)
    canvas = Image.new("L", (side, side), 0)
    canvas.paste(glyph, ((side - width) // 2, 0))
    return canvas
