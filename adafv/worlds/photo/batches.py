"""What training reads: patches with the names of what they show, and scenes packed with their questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Dinov2Model

from adafv.worlds.photo.crops import next_order, next_pixels
from adafv.worlds.photo.features import PATCH, SIDE, Features
from adafv.worlds.photo.features import encode as encode_crops
from adafv.worlds.photo.packed import Packed, pack
from adafv.worlds.photo.pictures import VISIBLE, Pictures
from adafv.worlds.photo.questions import Question, ask_number, ask_word, questions
from adafv.worlds.photo.scenes import (
    SIGN_COLOURS,
    SIGN_WORDS,
    Box,
    Placed,
    Scene,
    make_scene,
    render,
    wide_size,
)

Encode = Callable[[str], list[int]]
BACKGROUND = "background"
NAME_QUESTION = "What is this?"
SIGN_WINDOW = (4, 7)  # patches: rows, columns
PLACE_TYPES = ("what", "where", "side")  # questions about where small things are


def patch_names(pictures: Pictures) -> list[str]:
    """What a patch may show: each thing, each sign, and the background."""
    texts = [*map(str, range(10, 100)), *SIGN_WORDS]
    signs = [f"{colour} {text}" for colour in SIGN_COLOURS for text in texts]
    return [*(thing.name for thing in pictures.things), *signs, BACKGROUND]


def patch_labels(scene: Scene, pictures: Pictures, index: dict[str, int]) -> np.ndarray:
    """int64 [576]: what each patch's middle shows, as an index into patch_names; row by row."""
    labels = np.full((SIDE, SIDE), index[BACKGROUND])
    for placed in scene.things:
        _label(labels, placed.box, index[placed.name], _opacity(placed, pictures))
    for sign in scene.signs:
        _label(labels, sign.box, index[f"{sign.colour} {sign.text}"])
    return labels.reshape(-1)


def _opacity(placed: Placed, pictures: Pictures) -> np.ndarray:
    """bool [height, width] of the box: whether the thing is visible there."""
    left, top, right, bottom = placed.box
    channel = pictures.stamp(placed.picture).getchannel("A").resize((right - left, bottom - top))
    if placed.mirrored:
        channel = channel.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(channel) > VISIBLE


def _label(labels: np.ndarray, box: Box, label: int, opacity: np.ndarray | None = None) -> None:
    middles = np.arange(SIDE) * PATCH + PATCH // 2
    columns = np.flatnonzero((middles >= box[0]) & (middles < box[2]))
    rows = np.flatnonzero((middles >= box[1]) & (middles < box[3]))
    for row in rows:
        for column in columns:
            if opacity is None or opacity[middles[row] - box[1], middles[column] - box[0]]:
                labels[row, column] = label


def window(box: Box, rows: int, columns: int, off: tuple[int, int] = (0, 0)) -> np.ndarray:
    """int64 [rows * columns]: the patches of a window around the middle of the box, or so many rows and columns off."""
    row = _first(box[1] + box[3], rows, off[0])
    column = _first(box[0] + box[2], columns, off[1])
    return (np.arange(row, row + rows)[:, None] * SIDE + np.arange(column, column + columns)).reshape(-1)


def _first(twice: int, patches: int, off: int) -> int:
    """Where so many patches begin whose middle is `off` patches from twice / 2 px."""
    start = int(twice / 2 / PATCH - patches / 2 + 0.5) + off
    return min(max(start, 0), SIDE - patches)


def name_batch(
    features: Features, numbers: np.ndarray, side: int, pictures: Pictures, encode: Encode, rng: np.random.Generator
) -> tuple[Tensor, Packed]:
    """One thing of each of these scenes, seen through a window, and the question what it is."""
    visual, rows = [], []
    for number in numbers:
        scene = features.scene(int(number))
        placed = scene.things[rng.integers(len(scene.things))]
        down, right = (int(each) for each in rng.integers(-1, 2, size=2))
        visual.append(features[int(number)][window(placed.box, side, side, (down, right))])
        rows.append([turn(NAME_QUESTION, placed.name, encode)])
    return torch.stack(visual), pack(rows)


def sign_batch(
    features: Features, numbers: np.ndarray, pictures: Pictures, encode: Encode, rng: np.random.Generator
) -> tuple[Tensor, Packed]:
    """One sign of each of these sheets, seen through a window, and the question what it says."""
    visual, rows = [], []
    for number in numbers:
        sheet = features.scene(int(number))
        sign = sheet.signs[rng.integers(len(sheet.signs))]
        alone = replace(sheet, signs=(sign,))
        [question] = ask_number(alone, pictures, rng) + ask_word(alone, pictures, rng)
        visual.append(features[int(number)][window(sign.box, *SIGN_WINDOW)])
        rows.append([turn(question.text, question.answer, encode)])
    return torch.stack(visual), pack(rows)


def scene_batch(
    features: Features, numbers: np.ndarray, pictures: Pictures, encode: Encode
) -> tuple[Tensor, Packed, list[list[Question]]]:
    """Whole scenes with all of their questions."""
    asked = [questions(features.scene(int(number)), pictures) for number in numbers]
    return torch.stack([features[int(number)] for number in numbers]), _pack(asked, encode), asked


def _pack(asked: list[list[Question]], encode: Encode) -> Packed:
    return pack([[turn(question.text, question.answer, encode) for question in each] for each in asked])


def part_batch(
    features: Features, numbers: np.ndarray, patches: int, pictures: Pictures, encode: Encode, rng: np.random.Generator
) -> tuple[Tensor, Packed]:
    """As scene_batch, of so many patches of each scene, which stand where they stand in the whole."""
    visual, packed, _ = scene_batch(features, numbers, pictures, encode)
    return _part_of(visual, packed, [part(features.scene(int(number)), patches, rng) for number in numbers])


def pair_batch(
    features: Features, numbers: np.ndarray, patches: int, pictures: Pictures, encode: Encode, rng: np.random.Generator
) -> tuple[Tensor, Packed, list[list[Question]]]:
    """Two small things of each scene, with so many patches, and the questions about their places."""
    scenes = [_pair(features.scene(int(number)), rng) for number in numbers]
    asked = [questions(scene, pictures, PLACE_TYPES) for scene in scenes]
    visual = torch.stack([features[int(number)] for number in numbers])
    packed = _pack(asked, encode)
    return *_part_of(visual, packed, [part(scene, patches, rng) for scene in scenes]), asked


def _pair(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with its main thing and at most two others."""
    small = scene.things[1:]
    chosen = np.sort(rng.permutation(len(small))[:2])
    return replace(scene, things=(scene.main, *(small[i] for i in chosen)), signs=())


def _part_of(visual: Tensor, packed: Packed, parts: list[Tensor]) -> tuple[Tensor, Packed]:
    kept = torch.stack(parts)
    end = torch.full((len(kept), 1), visual.shape[1])
    return visual[torch.arange(len(kept))[:, None], kept], replace(packed, places=torch.cat([kept, end], dim=1))


def part(scene: Scene, patches: int, rng: np.random.Generator) -> Tensor:
    """int64 [patches], ascending: those whose middles show what is small, and random others."""
    order = rng.random((SIDE, SIDE))
    middles = np.arange(SIDE) * PATCH + PATCH // 2
    for box in (*(thing.box for thing in scene.things[1:]), *(sign.box for sign in scene.signs)):
        across, down = ((middles >= box[i]) & (middles < box[i + 2]) for i in (0, 1))
        order -= np.outer(down, across)
    return torch.from_numpy(np.sort(order.reshape(-1).argsort()[:patches]))


def wide_scene(
    seed: int, pictures: Pictures, tower: Dinov2Model, encode: Encode
) -> tuple[Tensor, Tensor, Packed, list[list[Question]]]:
    """A scene in LLaVA-NeXT's crops, with all of its questions: the features of all crops' patches [n, d], the order in
    which they stand before the language model [V] (-1 for a row's end), and the questions packed and as they are.
    """
    scene = make_scene(seed, pictures, wide_size(seed))
    asked = questions(scene, pictures)
    features = encode_crops(tower, next_pixels(render(scene, pictures))).flatten(0, 1)
    return features, next_order(scene.size), _pack([asked], encode), [asked]


def turn(question: str, answer: str, encode: Encode) -> tuple[list[int], list[int]]:
    """The ids behind the picture, as the chat template writes them: the question's, and the answer's."""
    return encode(f"\n{question}<|im_end|>\n<|im_start|>assistant\n"), encode(f"{answer}<|im_end|>")
