"""Training batches: scenes as the processor crops them, and all of a scene's questions in one sequence.

Encoding a picture costs far more than reading a question, so about a dozen questions share each encoded
picture. They stand one after another behind the visual tokens, and `sequence_mask` and `positions` make each
see exactly what it would see alone: the visual tokens and itself, at the positions that it would have. One
sequence thus gives twelve times the supervision.

The crops are those of the processor, kept as uint8: a base picture resized some other way trains a model that
reads the processor's badly. Where each patch lies comes from packing patch numbers through the model's own
packing code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaNextModel, LlavaNextProcessor

from adafv.worlds.drawn.model import ANSWER, CROP, EOS, PATCH, TOKENS, model_config
from adafv.worlds.drawn.questions import CATEGORY_WORDS, CONTENT_WORDS, Question, questions
from adafv.worlds.drawn.scenes import COLOURS, Scene, render

PATCHES = (CROP // PATCH) ** 2  # per crop
NEWLINE, ABSENT = -1, -2  # in Batch.order: a newline embedding; no token, only padding
SHOWN = 0.3  # the share that a token and a thing must have in common for the token to show it
IGNORE = -100  # no target here (cross_entropy's own value)
_COLOUR_INDEX = {colour: i for i, colour in enumerate(COLOURS)}
ALIGNED_WORDS = (*CONTENT_WORDS, *CATEGORY_WORDS)  # content words first: ClsHead counts on it
_WORD_INDEX = {word: i for i, word in enumerate(ALIGNED_WORDS)}


@dataclass(frozen=True)
class Batch:
    """B scenes with C crops together, V visual tokens (padded), T text tokens (padded), W aligned words."""

    crops: Tensor  # uint8 [C, 3, CROP, CROP], all scenes' crops in a row
    order: Tensor  # int64 [B, V]: patch number among all C * PATCHES, or NEWLINE, or ABSENT
    row: Tensor  # int64 [B, V]: row of patches that a token or newline belongs to; -1 for the base crop
    shows: Tensor  # bool [B, V, W]: the token lies on an object that the word names
    on_object: Tensor  # bool [B, V, O]: the token lies on the o-th of the scene's objects (padded)
    crop_colour: Tensor  # int64 [C]: colour of the largest object in the crop; IGNORE where there is none
    crop_kind: Tensor  # int64 [C]: its kind, as an index into CONTENT_WORDS; IGNORE
    text: Tensor  # int64 [B, T]: question, <answer>, answer, </s>; the next question; ...
    segment: Tensor  # int64 [B, T]: which question a text token belongs to; -1 for padding
    offset: Tensor  # int64 [B, T]: place of a text token within its question
    target: Tensor  # int64 [B, T]: the next token where that is part of an answer, or IGNORE
    in_caption: Tensor  # bool [B, T]: belongs to a caption or its question
    asked: tuple[tuple[Question, ...], ...]


@dataclass(frozen=True)
class TokenPlaces:
    """Where the visual tokens of pictures of one size lie."""

    order: np.ndarray  # int64 [V]: patch number, or NEWLINE
    row: np.ndarray  # int64 [V]
    boxes: np.ndarray  # float [patches, 4]: left, top, right, bottom of every patch, in pixels of the picture
    crop_boxes: np.ndarray  # float [crops, 4]


@functools.cache
def layout(width: int, height: int) -> TokenPlaces:
    """The layout of a picture that fits its grid of crops without being resized, as all scenes do."""
    if (width, height) == (CROP, CROP):  # the first stages' pictures: one crop, no base, no newlines
        corners = [(0.0, 0.0)]
        crop_boxes, order = _boxes(corners, CROP, CROP), np.arange(PATCHES)
        return TokenPlaces(order, np.full(PATCHES, -1), _boxes(_patch_corners(corners), PATCH, PATCH), crop_boxes)
    rows, columns = math.ceil(height / CROP), math.ceil(width / CROP)
    left, top = (columns * CROP - width) // 2, (rows * CROP - height) // 2  # the processor's padding
    corners = [(float(x * CROP - left), float(y * CROP - top)) for y in range(rows) for x in range(columns)]
    base = _boxes(_patch_corners([(0.0, 0.0)]), PATCH, PATCH) * np.tile([width / CROP, height / CROP], 2)
    boxes = np.concatenate([base, _boxes(_patch_corners(corners), PATCH, PATCH)])
    crop_boxes = np.concatenate([[(0, 0, width, height)], _boxes(corners, CROP, CROP)])
    order = pack_order(width, height, crops=1 + rows * columns)
    ends = np.cumsum(order == NEWLINE) - (order == NEWLINE)
    return TokenPlaces(order, np.where(np.arange(len(order)) < PATCHES, -1, ends), boxes, crop_boxes)


def pack_order(width: int, height: int, crops: int) -> np.ndarray:
    """Patch numbers, and NEWLINE, in the order in which the model packs them; int64 [V]."""
    config = model_config()
    with torch.device("meta"):
        packer = LlavaNextModel(config)
    numbers = torch.arange(crops * PATCHES, dtype=torch.float64).view(crops, PATCHES, 1)
    newline = torch.full((1,), float(NEWLINE), dtype=torch.float64)
    packed, _ = packer.pack_image_features([numbers], [[height, width]], "default", newline)
    return packed[0][:, 0].long().numpy()


def _patch_corners(crop_corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    steps = range(0, CROP, PATCH)
    return [(x + dx, y + dy) for x, y in crop_corners for dy in steps for dx in steps]


def _boxes(corners: list[tuple[float, float]], width: float, height: float) -> np.ndarray:
    return np.array([(x, y, x + width, y + height) for x, y in corners])


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Common area of every two boxes: [n, 4], [m, 4] -> [n, m]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)


def make_batch(
    scenes: Sequence[Scene],
    processor: LlavaNextProcessor,
    encode: Callable[[str], list[int]],
    types: Sequence[str] | None = None,
    draws: int = 1,
) -> Batch:
    """`encode` turns words into token ids (a cached one: the same few hundred texts come again and again).
    `types` and `draws` are those of `questions`.
    """
    layouts = [layout(scene.width, scene.height) for scene in scenes]
    crops = [scene_crops(scene, processor) for scene in scenes]
    width = max(len(place.order) for place in layouts)
    order = np.full((len(scenes), width), ABSENT)
    row = np.full((len(scenes), width), -1)
    shows = np.zeros((len(scenes), width, len(ALIGNED_WORDS)), dtype=bool)
    on_object = np.zeros((len(scenes), width, max(len(scene.objects) for scene in scenes)), dtype=bool)
    labels = []
    first_patch = 0
    for b, (scene, place) in enumerate(zip(scenes, layouts, strict=True)):
        visual = len(place.order)
        order[b, :visual] = np.where(place.order >= 0, place.order + first_patch, place.order)
        row[b, :visual] = place.row
        touched = _on_objects(scene, place)
        on_object[b, :visual, : len(scene.objects)] = touched
        shows[b, :visual] = _words_shown(scene, place, touched)
        labels.append(_crop_labels(scene, place))
        first_patch += len(place.boxes)
    asked = tuple(tuple(questions(scene, types, draws)) for scene in scenes)
    text = [_sequence(each, encode) for each in asked]
    longest = max(each.shape[1] for each in text)
    padded = np.stack([
        np.pad(each, ((0, 0), (0, longest - each.shape[1])), constant_values=IGNORE) for each in text
    ])  # fmt: skip
    ids, segment, offset, target = (torch.from_numpy(padded[:, i]) for i in range(4))
    crop_labels = torch.from_numpy(np.concatenate(labels))
    return Batch(
        crops=torch.from_numpy(np.concatenate(crops)),
        order=torch.from_numpy(order),
        row=torch.from_numpy(row),
        shows=torch.from_numpy(shows),
        on_object=torch.from_numpy(on_object),
        crop_colour=crop_labels[:, 0],
        crop_kind=crop_labels[:, 1],
        text=ids.clamp(min=0),
        segment=segment.clamp(min=-1),
        offset=offset.clamp(min=0),
        target=target,
        in_caption=_in_caption(asked, segment),
        asked=asked,
    )


def scene_crops(scene: Scene, processor: LlavaNextProcessor) -> np.ndarray:
    """The processor's own crops before rescaling and normalisation: uint8 [crops, 3, CROP, CROP]."""
    if (scene.width, scene.height) == (CROP, CROP):
        return np.asarray(render(scene)).transpose(2, 0, 1)[None]
    pixels = processor.image_processor(render(scene), do_rescale=False, do_normalize=False)["pixel_values"]
    return np.asarray(pixels[0], dtype=np.uint8)


def normalise(crops: Tensor, processor: LlavaNextProcessor) -> Tensor:
    """uint8 [C, 3, h, w] -> float [C, 3, h, w], as the processor rescales and normalises."""
    mean = torch.tensor(processor.image_processor.image_mean).view(3, 1, 1)
    deviation = torch.tensor(processor.image_processor.image_std).view(3, 1, 1)
    return (crops.float() * processor.image_processor.rescale_factor - mean) / deviation


def _on_objects(scene: Scene, place: TokenPlaces) -> np.ndarray:
    """bool [V, O]: the token shows a good part of the object, or the object fills a good part of it."""
    return _touch([thing.box for thing in scene.objects], place) >= SHOWN


def _touch(boxes: Sequence[tuple[int, int, int, int]], place: TokenPlaces) -> np.ndarray:
    """float [V, O]: what a token and a box have in common, as a share of the smaller one; 0 for newlines."""
    things = np.array(boxes, dtype=float).reshape(-1, 4)
    areas = (things[:, 2:] - things[:, :2]).prod(-1)
    patch_areas = (place.boxes[:, 2:] - place.boxes[:, :2]).prod(-1)
    share = overlap(place.boxes, things) / np.minimum(patch_areas[:, None], areas[None])
    return share[place.order] * (place.order >= 0)[:, None]


def _words_shown(scene: Scene, place: TokenPlaces, on_object: np.ndarray) -> np.ndarray:
    """bool [V, W]: the token shows a thing of that colour, kind or category. on_object bool [V, O]"""
    shown = np.zeros((len(on_object), len(ALIGNED_WORDS)), dtype=bool)
    for i, thing in enumerate(scene.objects):
        for word in (thing.kind, thing.colour, "digit" if thing.is_digit else "shape"):
            shown[:, _WORD_INDEX[word]] |= on_object[:, i]
    signs = [scene.sign.box] if scene.sign else []
    shown[:, _WORD_INDEX["sign"]] = (_touch(signs, place) >= SHOWN).any(1)
    for digit, box in scene.sign.digits() if scene.sign else ():
        shown[:, _WORD_INDEX[digit]] |= _touch([box], place)[:, 0] >= SHOWN
    touched = _touch([*(thing.box for thing in scene.objects), *signs], place).any(1)
    on_picture = _touch([(0, 0, scene.width, scene.height)], place)[:, 0] > 0.5  # rather than on the padding
    shown[:, _WORD_INDEX["background"]] = on_picture & ~touched
    return shown


def _crop_labels(scene: Scene, place: TokenPlaces) -> np.ndarray:
    """int64 [crops, 2]: colour and kind of the object of which a crop holds most; IGNORE if next to none."""
    held = overlap(place.crop_boxes, np.array([thing.box for thing in scene.objects], dtype=float))
    labels = np.full((len(held), 2), IGNORE)
    for crop, areas in enumerate(held):
        thing = scene.objects[int(areas.argmax())]
        if areas.max() >= PATCH * PATCH:
            labels[crop] = _COLOUR_INDEX[thing.colour], _WORD_INDEX[thing.kind]
    return labels


def _sequence(asked: Sequence[Question], encode: Callable[[str], list[int]]) -> np.ndarray:
    """int64 [4, T]: ids, segments, offsets and targets of the questions with their answers."""
    parts = []
    for number, question in enumerate(asked):
        prompt = [*encode(question.text), TOKENS.index(ANSWER)]
        answer = [*encode(question.answer), TOKENS.index(EOS)]
        ids = prompt + answer
        targets = [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]
        parts.append(np.array([ids, [number] * len(ids), range(len(ids)), targets]))
    return np.concatenate(parts, axis=1)


def _in_caption(asked: Sequence[Sequence[Question]], segment: Tensor) -> Tensor:
    """segment [B, T] -> bool [B, T]"""
    found = torch.zeros_like(segment, dtype=torch.bool)
    for b, each in enumerate(asked):
        for number, question in enumerate(each):
            if question.type == "caption":
                found[b] |= segment[b] == number
    return found


def random_keep(batch: Batch, rng: np.random.Generator, least: float) -> Tensor:
    """bool [B, V]: a random share of each scene's visual tokens, between `least` and all of them.

    Newlines carry no picture. Whoever prunes may drop them all or keep those of rows that keep a token, so
    either happens to half of the scenes. Few tokens are as likely as many: the share is drawn evenly on a
    logarithmic scale.
    """
    is_patch = batch.order.numpy() >= 0
    share = np.exp(rng.uniform(np.log(least), 0, size=(len(is_patch), 1)))
    budget = np.maximum(1, np.round(share * is_patch.sum(1, keepdims=True)))
    lottery = np.where(is_patch, rng.random(is_patch.shape), 2.0)
    keep = (lottery.argsort(1).argsort(1) < budget) & is_patch
    with_newlines = rng.random(len(keep)) < 0.5
    row, is_newline = batch.row.numpy(), batch.order.numpy() == NEWLINE
    for b in np.flatnonzero(with_newlines):
        keep[b] |= is_newline[b] & np.isin(row[b], row[b][keep[b]])
    return torch.from_numpy(keep)
