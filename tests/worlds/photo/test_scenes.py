"""Scenes follow from their seeds, nothing overlaps, and what is held out stays out."""

from __future__ import annotations

import numpy as np
import pytest

from adafv.worlds.photo.pictures import THINGS
from adafv.worlds.photo.scenes import (
    EVALUATION_SEEDS,
    GAP,
    SINGLE,
    VALIDATION_SEEDS,
    Scene,
    make_scene,
    make_sheet,
    render,
)

SEEDS = (0, 1, 2, 3, VALIDATION_SEEDS.start, EVALUATION_SEEDS.start, EVALUATION_SEEDS.start + 1)


def _boxes(scene: Scene) -> list[tuple[int, int, int, int]]:
    return [each.box for each in (*scene.things, *scene.signs)]


@pytest.mark.parametrize("size", [SINGLE, (672, 336), (672, 672)])
def test_a_seed_is_a_scene(stand_ins, size):
    for seed in SEEDS:
        scene = make_scene(seed, stand_ins, size)
        assert scene == make_scene(seed, stand_ins, size)
        one, other = render(scene, stand_ins), render(scene, stand_ins)
        assert one.size == size and np.array_equal(np.asarray(one), np.asarray(other))
    assert make_scene(0, stand_ins) != make_scene(1, stand_ins)


def test_nothing_overlaps_or_is_there_twice(stand_ins):
    for scene in [make(seed, stand_ins) for make in (make_scene, make_sheet) for seed in range(40)]:
        boxes = _boxes(scene)
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert 0 <= left < right <= SINGLE[0] and 0 <= top < bottom <= SINGLE[1]
            for other in boxes[i + 1 :]:
                apart = max(other[0] - right, left - other[2], other[1] - bottom, top - other[3])
                assert apart >= GAP
        names = [thing.name for thing in scene.things]
        assert len(set(names)) == len(names) and [thing.is_main for thing in scene.things] == [
            i == 0 for i in range(len(names))
        ]


def test_a_sheet_is_full_of_signs(stand_ins):
    sheets = [make_sheet(seed, stand_ins) for seed in range(10)]
    assert all(len(sheet.signs) > 20 and not sheet.things for sheet in sheets)
    assert sheets[0] == make_sheet(0, stand_ins) != sheets[1]
    assert {sign.is_number for sheet in sheets for sign in sheet.signs} == {True, False}
    bare = Scene(**{**vars(sheets[0]), "signs": ()})
    difference = np.asarray(render(sheets[0], stand_ins)) != np.asarray(render(bare, stand_ins))
    for left, top, right, bottom in _boxes(sheets[0]):
        assert difference[top:bottom, left:right].any(-1).mean() > 0.5


def test_held_out_pictures_are_never_trained_on(stand_ins):
    trained = [make_scene(seed, stand_ins) for seed in range(150)]
    held_out = [make_scene(EVALUATION_SEEDS[i], stand_ins) for i in range(150)]
    assert not {scene.background for scene in trained} & {scene.background for scene in held_out}
    seen, met = ({thing.picture for scene in scenes for thing in scene.things} for scenes in (trained, held_out))
    several = {file for thing in stand_ins.things for file in thing.pictures[1:]}
    kept_back = several - seen
    assert kept_back and kept_back & met and several & seen


def test_a_thing_is_seen_where_its_box_is(stand_ins):
    """Without its main thing, a scene has other pixels there and the same ones elsewhere."""
    scene = make_scene(5, stand_ins)
    whole = np.asarray(render(scene, stand_ins)).astype(int)
    rest = Scene(**{**vars(scene), "things": scene.things[1:]})
    difference = np.abs(whole - np.asarray(render(rest, stand_ins)).astype(int)).sum(-1) > 0
    left, top, right, bottom = scene.main.box
    assert difference[top:bottom, left:right].mean() > 0.5
    difference[top:bottom, left:right] = False
    assert not difference.any()


def test_the_packages_pictures_make_scenes(photographs):
    assert {thing.name for thing in photographs.things} == THINGS and len(THINGS) == 100
    scene = make_scene(EVALUATION_SEEDS.start, photographs)
    assert np.asarray(render(scene, photographs)).std() > 5
