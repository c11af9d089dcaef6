"""A part of a scene shows all that is small in it."""

from __future__ import annotations

import numpy as np

from adafv.worlds.photo.batches import part
from adafv.worlds.photo.features import PATCH, SIDE
from adafv.worlds.photo.scenes import make_scene


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
