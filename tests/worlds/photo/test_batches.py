"""What training reads shows what is asked about."""

from __future__ import annotations

import numpy as np
import torch

from adafv.worlds.photo.batches import SIGN_WINDOW, part, sign_batch, window
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


class _Sheets:
    """As Features, of which each is its patch's number."""

    def __init__(self, pictures) -> None:
        self._pictures = pictures

    def scene(self, number: int):
        return make_sheet(number, self._pictures)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.arange(SIDE**2)[:, None]


def test_a_sign_is_asked_about_in_a_window_that_shows_it(stand_ins):
    rng = np.random.default_rng(0)
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [len(asked)]

    visual, packed = sign_batch(_Sheets(stand_ins), np.arange(30), stand_ins, encode, rng)
    assert visual.shape == (30, SIGN_WINDOW[0] * SIGN_WINDOW[1], 1) and len(packed.text) == 30
    for number, question, answer in zip(range(30), asked[::2], asked[1::2], strict=True):
        answer = answer.removesuffix("<|im_end|>")
        assert ("number" in question) == answer.isdigit()
        shown = set(visual[number, :, 0].tolist())
        boxes = [sign.box for sign in make_sheet(number, stand_ins).signs if sign.text == answer]
        assert any(_middles(box) <= shown for box in boxes), f"{answer} isn't in its window"


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
