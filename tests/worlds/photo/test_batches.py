"""What training reads shows what is asked about."""

from __future__ import annotations

import numpy as np
import torch

from adafv.worlds.photo.batches import PLACE_TYPES, SIGN_WINDOW, pair_batch, part, sign_batch, window
from adafv.worlds.photo.features import PATCH, SIDE
from adafv.worlds.photo.scenes import make_scene, make_sheet


def test_a_part_has_what_is_small_and_random_others(stand_ins):
    for seed in range(20):
        scene = make_scene(seed, stand_ins)
        kept = part(scene, 144, np.random.default_rng(seed)).tolist()
        assert kept == sorted(set(kept)) and len(kept) == 144
        small = [thing.box for thing in scene.things if not thing.is_main] + ([scene.sign.box] if scene.sign else [])
        middles = {
            patch: (patch % SIDE * PATCH + PATCH // 2, patch // SIDE * PATCH + PATCH // 2) for patch in range(SIDE**2)
        }
        shown = {
            patch
            for patch, (x, y) in middles.items()
            if any(left <= x < right and top <= y < bottom for left, top, right, bottom in small)
        }
        assert shown <= set(kept), f"scene {seed} lost patches of small things"
        others = part(scene, 144, np.random.default_rng(seed + 1)).tolist()
        assert set(others) - shown != set(kept) - shown, "the others aren't random"


class _Numbers:
    """As Features of scenes or sheets, of which each is its patch's number."""

    def __init__(self, pictures, make) -> None:
        self._pictures, self._make = pictures, make

    def scene(self, number: int):
        return self._make(number, self._pictures)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.arange(SIDE**2)[:, None]


def test_a_sign_is_asked_about_in_a_window_that_shows_it(stand_ins):
    rng = np.random.default_rng(0)
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [len(asked)]

    visual, packed = sign_batch(_Numbers(stand_ins, make_sheet), np.arange(30), stand_ins, encode, rng)
    assert visual.shape == (30, SIGN_WINDOW[0] * SIGN_WINDOW[1], 1) and len(packed.text) == 30
    for number, question, answer in zip(range(30), asked[::2], asked[1::2], strict=True):
        answer = answer.removesuffix("<|im_end|>")
        assert ("number" in question) == answer.isdigit()
        shown = set(visual[number, :, 0].tolist())
        boxes = [sign.box for sign in make_sheet(number, stand_ins).signs if sign.text == answer]
        assert any(_middles(box) <= shown for box in boxes), f"{answer} isn't in its window"


def test_a_pair_is_asked_about_places_and_shown(stand_ins):
    scenes, numbers = _Numbers(stand_ins, make_scene), np.arange(20)

    def encode(text: str) -> list[int]:
        return [len(text)]

    visual, packed, asked = pair_batch(scenes, numbers, 40, stand_ins, encode, np.random.default_rng(0))
    assert visual.shape == (20, 40, 1) and torch.equal(visual[:, :, 0], packed.places[:, :-1])
    assert (packed.places[:, -1] == SIDE**2).all(), "the question stands where it stands behind the whole"
    pairs = set()
    for number, questions in enumerate(asked):
        assert {question.type for question in questions} <= set(PLACE_TYPES)
        small = {thing.name: thing for thing in make_scene(number, stand_ins).things[1:]}
        pair = tuple(name for name in small if f"Where is the {name}?" in {question.text for question in questions})
        assert len(pair) == 2
        for name in pair:
            assert _middles(small[name].box) <= set(visual[number, :, 0].tolist()), f"{name} isn't shown whole"
        pairs.add(tuple(list(small).index(name) for name in pair))
    assert len(pairs) > 2, "always the same two"


def _middles(box: tuple[int, int, int, int]) -> set[int]:
    """The patches whose middles are in the box."""
    left, top, right, bottom = box
    return {
        row * SIDE + column
        for row in range(SIDE)
        for column in range(SIDE)
        if left <= column * PATCH + PATCH // 2 < right and top <= row * PATCH + PATCH // 2 < bottom
    }


def test_a_window_keeps_within_the_picture():
    for box in ((0, 0, 20, 20), (320, 320, 336, 336), (150, 10, 200, 40)):
        patches = window(box, 3, 5, (-1, 1))
        assert len(set(patches)) == 15 and patches.min() >= 0 and patches.max() < SIDE**2
        columns = patches % SIDE
        assert columns.max() - columns.min() == 4
