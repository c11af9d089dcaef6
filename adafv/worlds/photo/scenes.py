"""Scenes: photographed things over a photograph, perhaps with a sign, drawn from a seed.

A scene has one large thing, several small ones, and in most a plate with a number or a short word. Nothing
overlaps, and no thing is there twice. The seed's range decides what a scene is made of: those for training
never show the held-out backgrounds, nor the held-out second pictures of things. A sheet has nothing but signs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adafv.worlds.photo.pictures import Pictures, Thing

TRAINING_SEEDS = range(0, 1_000_000_000)
VALIDATION_SEEDS = range(1_000_000_000, 1_100_000_000)  # to look at while tuning the recipe
EVALUATION_SEEDS = range(2_000_000_000, 2_100_000_000)  # for published figures, datasets and benchmarks

SINGLE = (336, 336)  # one crop
SIZES: dict[tuple[int, int], float] = {(672, 336): 0.4, (336, 672): 0.4, (672, 672): 0.2}  # LLaVA-NeXT's; shares
SMALL = (38, 62)  # px, the longer side
MAIN = (110, 165)
SMALL_THINGS = (3, 6)  # in one crop of 336 x 336 px; in proportion in larger pictures
GAP = 4  # px between things
TRIES = 60  # places tried for a thing before it is left out
SIGN_SHARE = 0.7
WORD_SHARE = 0.4  # of signs
SIGN_WORDS = (
    "OPEN", "STOP", "EXIT", "SALE", "TAXI", "BUS", "ZOO", "FARM", "CAFE", "SHOP", "MENU", "FREE", "PARK", "PULL",
    "PUSH", "HELP", "INFO", "HOT", "COLD", "WET", "SLOW", "FAST", "ROAD", "WAY", "GATE", "DOCK", "BANK", "HOTEL",
    "BEACH", "LAKE", "NORTH", "SOUTH", "EAST", "WEST",
)  # fmt: skip
SIGN_COLOURS = {"red": (190, 30, 30), "blue": (30, 50, 180), "green": (20, 120, 40), "yellow": (230, 200, 40)}
SIGN_HEIGHT, SIGN_FONT, SIGN_MARGIN = 30, 22, 6  # px
SHEET_SIGNS = 60  # tried in a sheet: some 35 find room
SECOND_PICTURES_HELD_OUT = 2  # of the things with several pictures, one in so many has its second ones held out

# Streams of random numbers that one seed feeds: drawing more from one leaves the others unchanged.
_LAYOUT_STREAM, _BACKGROUND_STREAM, QUESTION_STREAM, _SIZE_STREAM, _SHEET_STREAM = range(5)

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Placed:
    """A thing in a scene."""

    thing: Thing
    picture: str
    mirrored: bool
    is_main: bool
    box: Box

    @property
    def name(self) -> str:
        return self.thing.name

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class Sign:
    text: str  # "42" or "OPEN"
    colour: str
    box: Box

    @property
    def is_number(self) -> bool:
        return self.text.isdigit()


@dataclass(frozen=True)
class Scene:
    """What stands where. The first thing is the main one, the small ones follow in reading order."""

    seed: int
    size: tuple[int, int]  # width, height in px
    background: str
    window: tuple[float, float, float]  # of the background: left, top and width, as shares of what is possible
    things: tuple[Placed, ...]
    signs: tuple[Sign, ...]

    @property
    def main(self) -> Placed:
        return self.things[0]

    @property
    def sign(self) -> Sign | None:
        return self.signs[0] if self.signs else None


def is_held_out(seed: int) -> bool:
    return seed not in TRAINING_SEEDS


def make_scene(seed: int, pictures: Pictures, size: tuple[int, int] = SINGLE) -> Scene:
    """The scene of this seed at that size."""
    rng = np.random.default_rng([seed, _LAYOUT_STREAM])
    scale = size[0] * size[1] / (SINGLE[0] * SINGLE[1])
    small = round(float(rng.integers(SMALL_THINGS[0], SMALL_THINGS[1] + 1)) * (1 + scale) / 2)
    chosen = [pictures.things[i] for i in rng.choice(len(pictures.things), small + 1, replace=False)]
    room = _Room(rng, size, is_held_out(seed))
    main = _place(rng, pictures, chosen[0], room, is_main=True)
    sign = _make_sign(rng, room)
    others = [_place(rng, pictures, thing, room, is_main=False) for thing in chosen[1:]]
    placed = sorted((each for each in others if each), key=lambda each: (each.centre[1], each.centre[0]))
    if main is None:
        raise AssertionError(f"an empty picture of {size} has room for its main thing")
    return Scene(seed, size, *_choose_background(seed, pictures), (main, *placed), (sign,) if sign else ())


def make_sheet(seed: int, pictures: Pictures) -> Scene:
    """As many signs as find room, and no thing: reading is learnt sooner from these than from scenes' single signs."""
    rng = np.random.default_rng([seed, _SHEET_STREAM])
    room = _Room(rng, SINGLE, is_held_out(seed))
    signs = [_make_sign(rng, room) for _ in range(SHEET_SIGNS)]
    return Scene(seed, SINGLE, *_choose_background(seed, pictures), (), tuple(sign for sign in signs if sign))


def _choose_background(seed: int, pictures: Pictures) -> tuple[str, tuple[float, float, float]]:
    """The picture, and the window of it."""
    rng = np.random.default_rng([seed, _BACKGROUND_STREAM])
    motifs = pictures.motifs(is_held_out(seed))
    files = motifs[rng.integers(len(motifs))]
    left, top, share = rng.random(3)
    window = (float(left), float(top), 0.45 + 0.55 * float(share))
    return files[rng.integers(len(files))], window


def wide_size(seed: int) -> tuple[int, int]:
    """Width and height of the seed's scene for LLaVA-NeXT: one of SIZES."""
    rng = np.random.default_rng([seed, _SIZE_STREAM])
    return list(SIZES)[rng.choice(len(SIZES), p=list(SIZES.values()))]


class _Room:
    """Where there is room: boxes that don't come closer to one another than GAP."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], held_out: bool) -> None:
        self._rng, self._size, self._taken = rng, size, list[Box]()
        self.held_out = held_out
        self.main_scale = min(size) / min(SINGLE)

    def take(self, width: int, height: int) -> Box | None:
        """A free box of that size, or None where none was found."""
        for _ in range(TRIES):
            x = int(self._rng.integers(self._size[0] - width + 1))
            y = int(self._rng.integers(self._size[1] - height + 1))
            box = (x, y, x + width, y + height)
            if not any(_close(box, other) for other in self._taken):
                self._taken.append(box)
                return box
        return None


def _close(one: Box, other: Box) -> bool:
    return (
        one[0] < other[2] + GAP and other[0] < one[2] + GAP and one[1] < other[3] + GAP and other[1] < one[3] + GAP
    )  # fmt: skip


def _place(rng: np.random.Generator, pictures: Pictures, thing: Thing, room: _Room, is_main: bool) -> Placed | None:
    low, high = MAIN if is_main else SMALL
    side = float(rng.uniform(low, high)) * (room.main_scale if is_main else 1)
    picture = _picture(rng, thing, room.held_out)
    width, height = pictures.stamp(picture).size
    factor = side / max(width, height)
    box = room.take(max(8, round(width * factor)), max(8, round(height * factor)))
    mirrored = bool(rng.random() < 0.5)
    return Placed(thing, picture, mirrored, is_main, box) if box else None


def _picture(rng: np.random.Generator, thing: Thing, held_out: bool) -> str:
    """One of the thing's pictures; of some things the second ones are seen in held-out scenes only."""
    is_kept_back = len(thing.name) % SECOND_PICTURES_HELD_OUT == 0
    files = thing.pictures[:1] if is_kept_back and not held_out else thing.pictures
    return files[rng.integers(len(files))]


def _make_sign(rng: np.random.Generator, room: _Room) -> Sign | None:
    is_there, is_word = rng.random() < SIGN_SHARE, rng.random() < WORD_SHARE
    word, number = SIGN_WORDS[rng.integers(len(SIGN_WORDS))], str(rng.integers(10, 100))
    colour = list(SIGN_COLOURS)[rng.integers(len(SIGN_COLOURS))]
    text = word if is_word else number
    width = round(sign_font().getlength(text)) + 2 * SIGN_MARGIN
    box = room.take(width, SIGN_HEIGHT) if is_there else None
    return Sign(text, colour, box) if box else None


@functools.cache
def sign_font() -> ImageFont.FreeTypeFont:
    """The font that Pillow brings along."""
    font = ImageFont.load_default(size=SIGN_FONT)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType, which signs are drawn with")
    return font


def render(scene: Scene, pictures: Pictures) -> Image.Image:
    """The scene as an RGB picture of scene.size."""
    image = _background(scene, pictures)
    for placed in scene.things:
        left, top, right, bottom = placed.box
        stamp = pictures.stamp(placed.picture).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        if placed.mirrored:
            stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.paste(stamp, (left, top), stamp)
    for sign in scene.signs:
        left, top, right, bottom = sign.box
        drawing = ImageDraw.Draw(image)
        drawing.rectangle((left, top, right - 1, bottom - 1), fill=SIGN_COLOURS[sign.colour])
        ink = "black" if sign.colour == "yellow" else "white"
        middle = ((left + right) / 2, (top + bottom) / 2)
        drawing.text(middle, sign.text, fill=ink, font=sign_font(), anchor="mm")
    return image


def _background(scene: Scene, pictures: Pictures) -> Image.Image:
    picture = pictures.background(scene.background)
    across, down, share = scene.window
    width, height = scene.size
    factor = share * min(picture.width / width, picture.height / height)
    cut_width, cut_height = width * factor, height * factor
    left, top = across * (picture.width - cut_width), down * (picture.height - cut_height)
    box = (left, top, left + cut_width, top + cut_height)
    return picture.resize(scene.size, Image.Resampling.BILINEAR, box=box)
