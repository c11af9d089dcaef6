"""Questions: every answer is derived again here, from the text and the scene alone, by other code."""

import re

import pytest

from adafv.worlds.drawn.model import TOKENS, build_tokenizer
from adafv.worlds.drawn.questions import CONTENT_WORDS, QUESTION_TYPES, VOCABULARY, questions
from adafv.worlds.drawn.scenes import COLOURS, DIGITS, SHAPES, make_scene

SCENES = [make_scene(seed) for seed in range(150)]
ASKED = [(scene, question) for scene in SCENES for question in questions(scene)]


def named(text, words):
    return [word for word in re.findall(r"\w+", text) if word in words]


def right_answer(scene, text):
    """What a person would answer who sees the list of things and reads the question."""
    kinds, colours = named(text, SHAPES + DIGITS), named(text, COLOURS)
    if "main" in text:
        biggest = max(scene.objects, key=lambda thing: thing.box[2] - thing.box[0])
        return f"{biggest.colour} {biggest.kind}"
    if "image" in text:
        return sorted((thing.colour, thing.kind) for thing in scene.objects)
    if "sign" in text:
        return " ".join(scene.sign.text)
    if "background" in text:
        return scene.background
    if "how many" in text:
        return str(len([thing for thing in scene.objects if thing.colour == colours[0]]))
    if "how often" in text:
        return str(len([thing for thing in scene.objects if thing.kind == kinds[0]]))
    if "same color" in text:
        one, other = (the_one(scene, kind) for kind in kinds)
        return "yes" if one.colour == other.colour else "no"
    if side := re.search(r"left of|right of|above|below", text):
        return beside(scene, text, side)
    if "is there" in text:
        found = [thing for thing in scene.objects if thing.kind == kinds[0] and thing.colour in (colours or COLOURS)]
        return "yes" if found else "no"
    if kinds:
        return the_one(scene, kinds[0]).colour
    among = DIGITS if "digit" in text else SHAPES
    (answer,) = [thing.kind for thing in scene.objects if thing.colour == colours[0] and thing.kind in among]
    return answer


def the_one(scene, name):
    """The only thing of that name, "star" or "red star"."""
    words = name.split()
    (thing,) = [
        thing for thing in scene.objects if thing.kind == words[-1] and (len(words) == 1 or thing.colour == words[0])
    ]
    return thing


def beside(scene, text, side):
    name = r"the ((?:\w+ )?\w+)\b"
    other = the_one(scene, re.search(f"{side[0]} {name}", text)[1])
    if text.startswith("is "):
        one = the_one(scene, re.match(f"is {name} {side[0]}", text)[1])
        axis, less = {"left": (0, True), "righ": (0, False), "abov": (1, True), "belo": (1, False)}[side[0][:4]]
        assert one.cell[axis] != other.cell[axis]
        return "yes" if (one.cell[axis] < other.cell[axis]) == less else "no"
    middle = [(other.box[0] + other.box[2]) / 2, (other.box[1] + other.box[3]) / 2]
    column, row = int(middle[0] // 16), int(middle[1] // 16)
    column += {"left": -1, "righ": 1}.get(side[0][:4], 0)
    row += {"abov": -1, "belo": 1}.get(side[0][:4], 0)
    cell = (column * 16, row * 16, column * 16 + 16, row * 16 + 16)
    (found,) = [
        thing
        for thing in scene.objects
        if thing.box[0] < cell[2] and thing.box[2] > cell[0] and thing.box[1] < cell[3] and thing.box[3] > cell[1]
    ]
    return f"{found.colour} {found.kind}"


def test_answers_follow_from_the_scene():
    for scene, question in ASKED:
        answer: object = question.answer
        if question.type == "caption":
            words = question.answer.split()
            answer = sorted(zip(words[::2], words[1::2], strict=True))
        assert answer == right_answer(scene, question.text), (scene, question)


SEVERAL, SCENE = {"relation", "compare", "count", "sign"}, {"caption", "absent", "background"}


def test_size_is_that_of_what_is_asked_about():
    for scene, question in ASKED:
        if question.type in SEVERAL | SCENE:
            assert question.size == ("several" if question.type in SEVERAL else "scene")
        elif question.type == "exists":
            sizes = {thing.size for thing in scene.objects if thing.kind in question.text}
            assert question.size in sizes
        else:
            kind = named(question.text, SHAPES + DIGITS) or named(question.answer, SHAPES + DIGITS)
            colour = named(question.text, COLOURS) or named(question.answer, COLOURS)
            assert question.size == the_one(scene, f"{colour[0]} {kind[0]}").size


def test_no_cases_swap_colours_and_kinds_that_are_both_present():
    cases = [(scene, question) for scene, question in ASKED if (question.type, question.answer) == ("exists", "no")]
    assert len(cases) > 100
    for scene, question in cases:
        assert named(question.text, [thing.kind for thing in scene.objects])
        assert named(question.text, [thing.colour for thing in scene.objects])


def test_yes_and_no_are_equally_likely():
    for type_ in ("exists", "absent", "compare"):
        answers = [question.answer for _, question in ASKED if question.type == type_]
        assert set(answers) == {"yes", "no"}
        assert 0.38 < answers.count("yes") / len(answers) < 0.62, type_


def test_counts_are_not_mostly_one():
    answers = [question.answer for _, question in ASKED if question.type == "count"]
    assert len(set(answers)) >= 5 and max(map(answers.count, set(answers))) < 0.45 * len(answers)


def test_captions_name_the_large_object_first_and_the_others_in_reading_order():
    for scene in SCENES:
        (caption,) = questions(scene, ["caption"])
        words = caption.answer.split()
        pairs = list(zip(words[::2], words[1::2], strict=True))
        cells = {(thing.colour, thing.kind): (thing.cell[1], thing.cell[0]) for thing in scene.objects}
        assert pairs[0] == (scene.main.colour, scene.main.kind)
        assert [cells[pair] for pair in pairs[1:]] == sorted(cells[pair] for pair in pairs[1:])


def test_same_scene_same_questions_whatever_other_types_are_asked():
    for scene in SCENES[:20]:
        together = questions(scene)
        assert together == questions(make_scene(scene.seed))
        for name in QUESTION_TYPES:
            assert questions(scene, [name]) == [each for each in together if each.type == name]


def test_scenes_are_asked_whatever_they_have_an_answer_to():
    always = set(QUESTION_TYPES) - {"sign", "kind", "relation"}
    for scene in SCENES:
        types = {question.type for question in questions(scene)}
        assert always <= types and ("sign" in types) == (scene.sign is not None)
        assert 14 <= len(questions(scene)) <= 22
    assert {question.type for _, question in ASKED} == set(QUESTION_TYPES)


def test_most_questions_are_about_small_objects():
    assert sum(question.size in ("small", "several") for _, question in ASKED) > 0.7 * len(ASKED)


def test_unknown_types_are_refused():
    with pytest.raises(ValueError, match="counting"):
        questions(SCENES[0], ["colour", "counting"])


def test_every_word_is_one_token():
    tokenizer = build_tokenizer()
    for _, question in ASKED:
        ids = tokenizer(f"{question.text} {question.answer}")["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == len(re.findall(r"\w+|[^\w\s]", f"{question.text} {question.answer}"))
    assert len(set(VOCABULARY)) == len(VOCABULARY) and set(CONTENT_WORDS) <= set(VOCABULARY) < set(TOKENS)
