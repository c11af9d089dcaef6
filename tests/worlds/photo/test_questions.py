"""Questions are right, by what stands in the scene."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from adafv.worlds.photo.pictures import CATEGORIES
from adafv.worlds.photo.questions import QUESTION_TYPES, in_words, questions, region, with_article
from adafv.worlds.photo.scenes import EVALUATION_SEEDS, make_scene

SCENES = 30


@pytest.fixture(scope="module")
def asked(stand_ins):
    scenes = [make_scene(EVALUATION_SEEDS[i], stand_ins) for i in range(SCENES)]
    return [(scene, question) for scene in scenes for question in questions(scene, stand_ins)]


def _of(asked, type_):
    found = [(scene, question) for scene, question in asked if question.type == type_]
    assert found, type_
    return found


def test_every_kind_is_asked(asked):
    assert {question.type for _, question in asked} == set(QUESTION_TYPES)


def test_a_kind_alone_is_asked_the_same(stand_ins):
    scene = make_scene(7, stand_ins)
    every = questions(scene, stand_ins)
    for type_ in QUESTION_TYPES:
        assert questions(scene, stand_ins, [type_]) == [each for each in every if each.type == type_]
    with pytest.raises(ValueError, match="no such question types: colour"):
        questions(scene, stand_ins, ["colour"])


def test_what_and_where_name_one_thing(asked):
    for scene, question in _of(asked, "what"):
        place = question.text.removeprefix("What is ").removesuffix(" of the image?")
        there = [thing.name for thing in scene.things if in_words(region(thing, scene)) == place]
        assert there == [question.answer]
    for scene, question in _of(asked, "where"):
        (thing,) = [each for each in scene.things if question.text == f"Where is the {each.name}?"]
        assert question.answer == in_words(region(thing, scene))


def test_a_region_is_a_third_of_the_picture(asked):
    scene, _ = asked[0]
    for thing in scene.things:
        place = region(thing, scene)
        x, y = thing.centre
        assert ("left" in place) == (3 * x < scene.size[0]) and ("bottom" in place) == (3 * y >= 2 * scene.size[1])


def test_existence(asked):
    for type_, answer in (("exists", "Yes"), ("absent", "No")):
        for scene, question in _of(asked, type_):
            name = re.fullmatch(r"(?:Is|Are) there (?:an? )?(.+) in the image\?", question.text)[1]
            assert (name in {thing.name for thing in scene.things}) == (answer == "Yes") and question.answer == answer


def test_categories_and_counts(asked):
    for scene, question in _of(asked, "category"):
        (thing,) = [each for each in scene.things if each.name == question.answer]
        assert question.text == f"Which {CATEGORIES[thing.thing.category][0]} is in the image?"
        assert Counter(each.thing.category for each in scene.things)[thing.thing.category] == 1
    for scene, question in _of(asked, "count"):
        (category,) = [each for each, (_, many) in CATEGORIES.items() if f"How many {many} " in question.text]
        assert int(question.answer) == sum(thing.thing.category == category for thing in scene.things)


def test_signs_and_sides(asked):
    for type_ in ("number", "word"):
        for scene, question in _of(asked, type_):
            assert question.answer == scene.sign.text and scene.sign.is_number == (type_ == "number")
    for scene, question in _of(asked, "side"):
        by_name = {thing.name: thing for thing in scene.things}
        one, other = re.fullmatch(r"Is the (.+) to the left or to the right of the (.+)\?", question.text).groups()
        assert (by_name[one].centre[0] < by_name[other].centre[0]) == (question.answer == "left")


def test_a_caption_names_everything(asked):
    for scene, question in _of(asked, "caption"):
        assert all(thing.name in question.answer for thing in scene.things)
        assert scene.sign is None or scene.sign.text in question.answer


@pytest.mark.parametrize(
    ("name", "expected"),
    [("otter", "an otter"), ("lion", "a lion"), ("cherries", "cherries"),
     ("bunch of grapes", "a bunch of grapes"), ("hippopotamus", "a hippopotamus")],
)  # fmt: skip
def test_articles(name, expected):
    assert with_article(name) == expected
