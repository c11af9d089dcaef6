"""Questions: every answer is derived again here, from the text and the scene alone, by other code."""

import re

import pytest

from adafv.testbed.model import TOKENS, build_tokenizer
from adafv.testbed.questions import CONTENT_WORDS, QUESTION_TYPES, VOCABULARY, questions
from adafv.testbed.scenes import COLOURS, DIGITS, SHAPES, make_scene

SCENES = [make_scene(seed) for seed in range(150)]
ASKED = [(scene, question) for scene in SCENES for question in questions(scene)]


def named(text, words):
    return [word for word in re.findall(r"\w+", text) if word in words]


def right_answer(scene, text):
    kinds, colours = named(text, SHAPES + DIGITS), named(text, COLOURS)
    if "main" in text:
        biggest = max(scene.objects, key=lambda thing: thing.box[2] - thing.box[0])
        return f"{biggest.colour} {biggest.kind}"
    if "image" in text:
        return sorted((thing.colour, thing.kind) for thing in scene.objects)
    if kinds and colours:
        found = any((thing.kind, thing.colour) == (kinds[0], colours[0]) for thing in scene.objects)
        return "yes" if found else "no"
    if kinds:
        (answer,) = [thing.colour for thing in scene.objects if thing.kind == kinds[0]]
        return answer
    among = DIGITS if "digit" in text else SHAPES
    (answer,) = [thing.kind for thing in scene.objects if thing.colour == colours[0] and thing.kind in among]
    return answer


def test_answers_follow_from_the_scene():
    for scene, question in ASKED:
        answer: object = question.answer
        if question.type == "caption":
            words = question.answer.split()
            answer = sorted(zip(words[::2], words[1::2], strict=True))
        assert answer == right_answer(scene, question.text), (scene, question)


def test_size_is_that_of_the_object_asked_about():
    for scene, question in ASKED:
        if question.type == "caption":
            assert question.size == "scene"
            continue
        asked_kind = named(question.text, SHAPES + DIGITS) or named(question.answer, SHAPES + DIGITS)
        (size,) = [thing.size for thing in scene.objects if thing.kind == asked_kind[0]]
        assert question.size == size


def test_no_cases_swap_colours_and_kinds_that_are_both_present():
    cases = [(scene, question) for scene, question in ASKED if question.answer == "no"]
    assert len(cases) > 100
    for scene, question in cases:
        assert named(question.text, [thing.kind for thing in scene.objects])
        assert named(question.text, [thing.colour for thing in scene.objects])


def test_yes_and_no_are_equally_likely():
    answers = [question.answer for _, question in ASKED if question.type == "exists"]
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_captions_name_the_large_object_first_and_the_others_in_reading_order():
    for scene in SCENES:
        (caption,) = questions(scene, ["caption"])
        kinds = caption.answer.split()[1::2]
        cells = {thing.kind: (thing.cell[1], thing.cell[0]) for thing in scene.objects}
        assert kinds[0] == scene.main.kind
        assert [cells[kind] for kind in kinds[1:]] == sorted(cells[kind] for kind in kinds[1:])


def test_same_scene_same_questions_whatever_other_types_are_asked():
    for scene in SCENES[:20]:
        together = questions(scene)
        assert together == questions(make_scene(scene.seed))
        for name in QUESTION_TYPES:
            assert questions(scene, [name]) == [each for each in together if each.type == name]


def test_every_scene_is_asked_every_type():
    for scene in SCENES:
        assert {question.type for question in questions(scene)} == set(QUESTION_TYPES)
        assert 9 <= len(questions(scene)) <= 13


def test_most_questions_are_about_small_objects():
    assert sum(question.size == "small" for _, question in ASKED) > 0.7 * len(ASKED)


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
