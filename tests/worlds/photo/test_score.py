"""What an answer about a photo scene is worth."""

from __future__ import annotations

import pytest

from adafv.worlds.drawn.score import Truth
from adafv.worlds.photo.questions import ask_caption
from adafv.worlds.photo.scenes import make_scene
from adafv.worlds.photo.score import named, points

CAPTION = "The image shows an otter with a great blue heron, two pears, a red sign that says 42."


@pytest.mark.parametrize(
    ("label", "answer", "worth"),
    [("The Great Blue Heron.", "great blue heron", 1.0), ("yes", "Yes", 1.0), ("heron", "great blue heron", 0.0)],
)
def test_a_short_answer_is_right_or_wrong(label, answer, worth):
    assert points(label, Truth(answer, "what", "small")) == worth


@pytest.mark.parametrize(
    ("label", "worth"),
    [
        (CAPTION, 1.0),
        ("the image shows a great blue heron with an otter, a red sign that says 42, two pears", 1.0),
        ("The image shows an otter with a great blue heron.", 4 / 6),
        ("The image shows an otter with a cat, a blue sign that says 42, two pears.", 4 / 8),
        ("The image shows", 0.0),
    ],
)
def test_a_caption_is_worth_the_f1_of_what_it_names(label, worth):
    assert points(label, Truth(CAPTION, "caption", "scene")) == pytest.approx(worth)


def test_every_thing_of_a_caption_is_one_name(stand_ins):
    for seed in range(2_000_000_000, 2_000_000_020):
        scene = make_scene(seed, stand_ins)
        [caption] = ask_caption(scene, stand_ins, None)
        assert len(named(caption.answer)) == len(scene.things) + (scene.sign is not None)
