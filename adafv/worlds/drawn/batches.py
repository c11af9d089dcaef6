"""Training batches: scenes as the processor crops them, and all of a scene's questions in one sequence.

Encoding a picture costs far more than reading a question, so about a dozen questions share each encoded
picture. They stand one after another behind the visual tokens, and `block_mask` and `positions` make each
see exactly what it would see alone: the visual tokens and itself, at the positions that it would have. One
sequence thus gives twelve times the supervision.

The crops are those of the processor, kept as uint8: a base picture resized some other way trains a model that
reads the processor's badly. Where each patch lies comes from packing patch numbers through the model's own
packing code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adafv.worlds.drawn.family import NEWLINE, Family, TokenPlaces
from adafv.worlds.drawn.llava import LLAVA_NEXT
from adafv.worlds.drawn.model import ANSWER, EOS, PATCH, TOKENS
from adafv.worlds.drawn.questions import CATEGORY_WORDS, CONTENT_WORDS, Question, questions
from adafv.worlds.drawn.scenes import COLOURS, Scene, render

ABSENT = -2  # in Batch.order, beside NEWLINE: no token, only padding
SHOWN = 0.3  # the share that a token and a thing must have in common for the token to show it
IGNORE = -100  # no target here (cross_entropy's own value)
_COLOUR_INDEX = {colour: i for i, colour in enumerate(COLOURS)}
ALIGNED_WORDS = (*CONTENT_WORDS, *CATEGORY_WORDS)  # content words first: ClsHead counts on it
_WORD_INDEX = {word: i for i, word in enumerate(ALIGNED_WORDS)}


@dataclass(frozen=True)
class Batch:
    """B scenes with C crops together, V visual tokens (padded), T text tokens (padded), W aligned words."""

    pixels: Tensor  # all scenes' crops or patches in a row, as the family takes them
    sizes: list[tuple[int, int]]  # width, height of the scenes
    start: Tensor  # int64 [S]: what stands before the visual tokens
    order: Tensor  # int64 [B, V]: patch number among all scenes', or NEWLINE, or ABSENT
    place: Tensor | None  # int64 [3, B, V]: positions of visual tokens, where they have their own
    after: Tensor | None  # int64 [B]: the position behind them
    row: Tensor  # int64 [B, V]: row of patches that a token or newline belongs to; -1 for the base crop
    shows: Tensor  # bool [B, V, W]: the token lies on an object that the word names
    on_object: Tensor  # bool [B, V, O]: the token lies on the o-th of the scene's objects (padded)
    crop_colour: Tensor  # int64 [C]: colour of the largest object in the crop; IGNORE where there is none
    crop_kind: Tensor  # int64 [C]: its kind, as an index into CONTENT_WORDS; IGNORE
    longest: int  # tokens of a question with its answer; T is a multiple of it
    text: Tensor  # int64 [B, T]: question, <answer>, answer, </s>; the next question; ...
    segment: Tensor  # int64 [B, T]: which question a text token belongs to; -1 for padding
    offset: Tensor  # int64 [B, T]: place of a text token within its question
    target: Tensor  # int64 [B, T]: the next token where that is part of an answer, or IGNORE
    in_caption: Tensor  # bool [B, T]: belongs to a caption or its question
    asked: tuple[tuple[Question, ...], ...]


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Common area of every two boxes: [n, 4], [m, 4] -> [n, m]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)


def make_batch(
    scenes: Sequence[Scene],
    processor: Any,
    encode: Callable[[str], list[int]],
    types: Sequence[str] | None = None,
    draws: int = 1,
    family: Family = LLAVA_NEXT,
) -> Batch:
    """`encode` turns words into token ids (a cached one: the same few hundred texts come again and again).
    `types` and `draws` are those of `questions`.
    """
    layouts = [family.places(scene.width, scene.height) for scene in scenes]
    pixels = [family.pixels(render(scene), processor) for scene in scenes]
    width = max(len(place.order) for place in layouts)
    order = np.full((len(scenes), width), ABSENT)
    row = np.full((len(scenes), width), -1)
    shows = np.zeros((len(scenes), width, len(ALIGNED_WORDS)), dtype=bool)
    on_object = np.zeros((len(scenes), width, max(len(scene.objects) for scene in scenes)), dtype=bool)
    position = np.zeros((3, len(scenes), width), dtype=np.int64)
    after = np.zeros(len(scenes), dtype=np.int64)
    labels = []
    first_patch = 0
    for b, (scene, place) in enumerate(zip(scenes, layouts, strict=True)):
        visual = len(place.order)
        order[b, :visual] = np.where(place.order >= 0, place.order + first_patch, place.order)
        row[b, :visual] = place.row
        if place.position is not None:
            position[:, b, :visual] = place.position
            after[b] = place.position.max() + 1
        touched = _on_objects(scene, place)
        on_object[b, :visual, : len(scene.objects)] = touched
        shows[b, :visual] = _words_shown(scene, place, touched)
        labels.append(_crop_labels(scene, place))
        first_patch += len(place.boxes)
    asked = tuple(tuple(questions(scene, types, draws)) for scene in scenes)
    before = [family.tokens.index(word) for word in family.question_start]
    text = [_sequence(each, encode, before) for each in asked]
    block = max(1, *((np.bincount(each[1]).max() if each.size else 0) for each in text))
    longest = math.ceil(max(each.shape[1] for each in text) / block) * block
    padded = np.stack([
        np.pad(each, ((0, 0), (0, longest - each.shape[1])), constant_values=IGNORE) for each in text
    ])  # fmt: skip
    ids, segment, offset, target = (torch.from_numpy(padded[:, i]) for i in range(4))
    moves = layouts[0].position is not None
    crop_labels = torch.from_numpy(np.concatenate(labels))
    return Batch(
        pixels=torch.from_numpy(np.concatenate(pixels)),
        sizes=[(scene.width, scene.height) for scene in scenes],
        start=torch.tensor([family.tokens.index(word) for word in family.start]),
        order=torch.from_numpy(order),
        place=torch.from_numpy(position) if moves else None,
        after=torch.from_numpy(after) if moves else None,
        row=torch.from_numpy(row),
        shows=torch.from_numpy(shows),
        on_object=torch.from_numpy(on_object),
        crop_colour=crop_labels[:, 0],
        crop_kind=crop_labels[:, 1],
        longest=int(block),
        text=ids.clamp(min=0),
        segment=segment.clamp(min=-1),
        offset=offset.clamp(min=0),
        target=target,
        in_caption=_in_caption(asked, segment),
        asked=asked,
    )


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


def _sequence(asked: Sequence[Question], encode: Callable[[str], list[int]], before: list[int]) -> np.ndarray:
    """int64 [4, T]: ids, segments, offsets and targets of the questions with their answers."""
    parts = []
    for number, question in enumerate(asked):
        prompt = [*before, *encode(question.text), TOKENS.index(ANSWER)]
        answer = [*encode(question.answer), TOKENS.index(EOS)]
        ids = prompt + answer
        targets = [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]
        parts.append(np.array([ids, [number] * len(ids), range(len(ids)), targets]))
    return np.concatenate(parts, axis=1) if parts else np.zeros((4, 0), dtype=np.int64)


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
