"""What training reads: patches with the names of what they show, and scenes packed with their questions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adafv.worlds.photo.features import PATCH, SIDE, Features
from adafv.worlds.photo.packed import Packed, pack
from adafv.worlds.photo.pictures import VISIBLE, Pictures
from adafv.worlds.photo.questions import Question, questions
from adafv.worlds.photo.scenes import SIGN_COLOURS, SIGN_WORDS, Box, Placed, Scene

Encode = Callable[[str], list[int]]
BACKGROUND = "background"
NAME_QUESTION = "What is this?"


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
    if scene.sign:
        _label(labels, scene.sign.box, index[f"{scene.sign.colour} {scene.sign.text}"])
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


def window(placed: Placed, side: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [side * side]: the patches of a square that shows the thing, a patch off its middle at most."""
    column, row = (int(at / PATCH - side / 2 + 0.5) + int(rng.integers(-1, 2)) for at in placed.centre)
    column, row = (min(max(at, 0), SIDE - side) for at in (column, row))
    return (np.arange(row, row + side)[:, None] * SIDE + np.arange(column, column + side)).reshape(-1)


def name_batch(
    features: Features,
    numbers: np.ndarray,
    side: int,
    pictures: Pictures,
    encode: Encode,
    rng: np.random.Generator,
    things: int | None = None,
) -> tuple[Tensor, Packed]:
    """One thing of each of these scenes, of the first so many `things` by name, seen through a window, and the
    question what it is. Scenes without such a thing are left out.
    """
    known = {thing.name for thing in pictures.things[:things]}
    visual, rows = [], []
    for number in numbers:
        scene = features.scene(int(number))
        among = [each for each in scene.things if each.name in known]
        if not among:
            continue
        placed = among[rng.integers(len(among))]
        visual.append(features[int(number)][window(placed, side, rng)])
        rows.append([turn(NAME_QUESTION, placed.name, encode)])
    return torch.stack(visual), pack(rows)


def scene_batch(
    features: Features, numbers: np.ndarray, pictures: Pictures, encode: Encode
) -> tuple[Tensor, Packed, list[list[Question]]]:
    """Whole scenes with all of their questions."""
    asked = [questions(features.scene(int(number)), pictures) for number in numbers]
    rows = [[turn(question.text, question.answer, encode) for question in each] for each in asked]
    return torch.stack([features[int(number)] for number in numbers]), pack(rows), asked


def turn(question: str, answer: str, encode: Encode) -> tuple[list[int], list[int]]:
    """The ids behind the picture, as the chat template writes them: the question's, and the answer's."""
    return encode(f"\n{question}<|im_end|>\n<|im_start|>assistant\n"), encode(f"{answer}<|im_end|>")
