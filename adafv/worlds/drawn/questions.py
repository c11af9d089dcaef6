"""What is asked about a scene, and the right answers.

A type is a function from a scene and a random generator to questions, entered in QUESTION_TYPES; adding one
is a function and a line there, and its words in VOCABULARY. Types:

- colour: "what color is the star?"        kind: "which shape is red?"      digit: "which digit is red?"
  Asked where the answer is unambiguous: of kinds and colours that only one thing has.
- exists: "is there a red star?" In the "no" cases the colour and the kind are both present, on different
  objects, so that only looking at the star, and not the mere presence of red, tells.
- absent: "is there a star?", where there may be none.
- relation: "what is left of the star?" A thing beside it, in the next cell.
- compare: "is the star left of the heart?", "are the star and the heart the same color?"
- count: "how many objects are red?", "how often is there a star?"
- sign: "what does the sign say?"          background: "what color is the background?"
- main: "what is the main object?" (the large one)      caption: "describe the image"

`Question.size` says what an answer needs to see: a small object, several things (objects, or a sign's digits), the
large one, or the whole scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from adafv.worlds.drawn.scenes import COLOURS, DIGITS, QUESTION_STREAM, SHAPES, Scene, SceneObject

T = TypeVar("T")

_FUNCTION_WORDS = (
    "what", "which", "color", "is", "are", "the", "a", "of", "in", "there", "shape", "digit", "object",
    "main", "describe", "image", "list", "all", "objects", "name", "?", ".", ",", "yes", "no",
    "left", "right", "above", "below", "and", "same", "how", "many", "often", "does", "say", "read",
    "sign", "background",
)  # fmt: skip
CONTENT_WORDS = (*SHAPES, *DIGITS, *COLOURS)
CATEGORY_WORDS = ("shape", "digit", "sign", "background")  # each names many kinds of things, or a part of the picture
VOCABULARY = (*CONTENT_WORDS, *_FUNCTION_WORDS)
SIDES = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}  # the next cell: (columns, rows) away


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    type: str
    size: Literal["small", "several", "large", "scene"]


def questions(scene: Scene, types: Iterable[str] | None = None, draws: int = 1) -> list[Question]:
    """The scene's questions, about twenty, of all types or those named; the same each time.

    For training, the hard types can be asked several times over: `draws`.
    """
    chosen = tuple(types) if types is not None else tuple(QUESTION_TYPES)
    unknown = sorted(set(chosen) - set(QUESTION_TYPES))
    if unknown:
        raise ValueError(f"unknown question types {unknown}; there are {', '.join(QUESTION_TYPES)}")
    asked: dict[str, Question] = {}
    for stream, (name, ask) in enumerate(QUESTION_TYPES.items()):
        if name in chosen:  # a generator per type: leaving one out changes none of the others
            rng = np.random.default_rng([scene.seed, QUESTION_STREAM, stream])
            for _ in range(draws if name in HARD_TYPES else 1):
                asked |= {question.text: question for question in ask(scene, rng)}
    return list(asked.values())


def ask_colour(scene: Scene, rng: np.random.Generator) -> list[Question]:
    about = _some(rng, [thing for thing in scene.objects[1:] if _alone(scene, kind=thing.kind)], 3)
    if rng.random() < 0.3 and _alone(scene, kind=scene.main.kind):
        about.append(scene.main)
    templates = ("what color is the {}?", "what is the color of the {}?")
    texts = [_one(rng, templates).format(thing.kind) for thing in about]
    return [Question(text, thing.colour, "colour", thing.size) for text, thing in zip(texts, about, strict=True)]


def ask_kind(scene: Scene, rng: np.random.Generator) -> list[Question]:
    shapes = [thing for thing in scene.objects if not thing.is_digit]
    colours = [thing.colour for thing in shapes]
    about = _some(rng, [thing for thing in shapes[1:] if colours.count(thing.colour) == 1], 2)
    return [_ask_which("shape", thing, "kind", rng) for thing in about]


def ask_digit(scene: Scene, rng: np.random.Generator) -> list[Question]:
    about = _some(rng, [thing for thing in scene.objects if thing.is_digit], 2)
    return [_ask_which("digit", thing, "digit", rng) for thing in about]


def _ask_which(noun: str, thing: SceneObject, type_: str, rng: np.random.Generator) -> Question:
    text = _one(rng, ("which {} is {}?", "what {} is {}?")).format(noun, thing.colour)
    return Question(text, thing.kind, type_, thing.size)


def ask_exists(scene: Scene, rng: np.random.Generator) -> list[Question]:
    pairs = {(thing.colour, thing.kind) for thing in scene.objects}
    asked = []
    for thing in _some(rng, scene.objects, 3):
        others = sorted({other.colour for other in scene.objects if (other.colour, thing.kind) not in pairs})
        present = rng.random() < 0.5 or not others
        colour = thing.colour if present else _one(rng, others)
        text = f"is there a {colour} {thing.kind}?"
        asked.append(Question(text, "yes" if present else "no", "exists", thing.size))
    return asked


def ask_absent(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One thing that is there or, as often, isn't."""
    there = sorted({thing.kind for thing in scene.objects[1:]})
    missing = sorted({*SHAPES, *DIGITS} - {thing.kind for thing in scene.objects})
    kind, answer = (_one(rng, there), "yes") if rng.random() < 0.5 else (_one(rng, missing), "no")
    return [Question(f"is there a {kind}?", answer, "absent", "scene")]


def ask_relation(scene: Scene, rng: np.random.Generator) -> list[Question]:
    cells = {cell: thing for thing in scene.objects for cell in _cells(thing)}
    beside = [
        (thing, side, cells[cell])
        for thing in scene.objects[1:]
        for side, (columns, rows) in SIDES.items()
        if (cell := (thing.cell[0] + columns, thing.cell[1] + rows)) in cells
    ]
    of = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
    return [
        Question(f"what is {of[side]} the {_name(scene, thing)}?", _pair(other), "relation", "several")
        for thing, side, other in _some(rng, beside, 2)
    ]


def ask_compare(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Where two small things stand to each other, and whether they share a colour."""
    one, other = _some(rng, scene.objects[1:], 2)
    columns, rows = one.cell[0] - other.cell[0], one.cell[1] - other.cell[1]
    sides = (("left", "right", columns), ("above", "below", rows))
    low, high, distance = _one(rng, [side for side in sides if side[2] != 0])
    asked, right = _one(rng, (low, high)), low if distance < 0 else high
    text = f"is the {_name(scene, one)} {asked}{' of' * (asked in ('left', 'right'))} the {_name(scene, other)}?"
    placed = Question(text, "yes" if asked == right else "no", "compare", "several")
    return [placed, *_ask_same_colour(scene, rng)]


def _ask_same_colour(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Of things that their kind alone names; as often yes as no, as far as there are such."""
    things = [thing for thing in scene.objects if _alone(scene, kind=thing.kind)]
    couples = [(one, other) for one in things for other in things if one.kind != other.kind]
    wanted = rng.random() < 0.5
    fit = [couple for couple in couples if (couple[0].colour == couple[1].colour) == wanted] or couples
    if not fit:
        return []
    one, other = _one(rng, fit)
    text = f"are the {one.kind} and the {other.kind} the same color?"
    return [Question(text, "yes" if one.colour == other.colour else "no", "compare", "several")]


def ask_count(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """How many have a colour, or are of a kind: one in six times none, half of the times several, if there are."""
    asked = []
    for text, words, of in (
        ("how many objects are {}?", tuple(COLOURS), [thing.colour for thing in scene.objects]),
        ("how often is there a {}?", SHAPES, [thing.kind for thing in scene.objects if not thing.is_digit]),
    ):
        missing = [word for word in words if word not in of]
        several = [word for word in words if of.count(word) > 1]
        fate = rng.random()
        among = missing if fate < 1 / 6 else several if fate < 4 / 6 else []
        word = _one(rng, among or sorted(set(of)))
        asked.append(Question(text.format(word), str(of.count(word)), "count", "several"))
    return asked


def ask_sign(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """What stands on the sign, digit by digit. Nothing is asked where there is none."""
    text = _one(rng, ("what does the sign say?", "read the sign."))
    return [Question(text, " ".join(scene.sign.text), "sign", "several")] if scene.sign else []


def ask_background(scene: Scene, rng: np.random.Generator) -> list[Question]:
    return [Question("what color is the background?", scene.background, "background", "scene")]


def ask_main(scene: Scene, rng: np.random.Generator) -> list[Question]:
    text = _one(rng, ("what is the main object?", "name the main object."))
    return [Question(text, _pair(scene.main), "main", "large")]


def ask_caption(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """All objects as "colour kind" pairs: the large one, then the small ones in reading order."""
    text = _one(rng, ("describe the image", "list all objects in the image."))
    return [Question(text, " ".join(_pair(thing) for thing in scene.objects), "caption", "scene")]


QUESTION_TYPES: dict[str, Callable[[Scene, np.random.Generator], list[Question]]] = {
    "colour": ask_colour,
    "kind": ask_kind,
    "digit": ask_digit,
    "exists": ask_exists,
    "main": ask_main,
    "caption": ask_caption,
    "absent": ask_absent,
    "relation": ask_relation,
    "compare": ask_compare,
    "count": ask_count,
    "sign": ask_sign,
    "background": ask_background,
}
# What a model learns first, and what it learns last; the others come by themselves.
SIMPLE_TYPES = ("colour", "kind", "digit", "exists", "main", "caption")
TEXTURED_TYPES = ("colour", "kind", "digit", "main", "caption", "background")  # what models of textured scenes learn
HARD_TYPES = ("relation", "compare", "count", "sign")


def _pair(thing: SceneObject) -> str:
    return f"{thing.colour} {thing.kind}"


def _alone(scene: Scene, kind: str) -> bool:
    """Whether just one thing is of that kind."""
    return sum(thing.kind == kind for thing in scene.objects) == 1


def _name(scene: Scene, thing: SceneObject) -> str:
    """Its kind, or colour and kind where the kind alone would be ambiguous."""
    return thing.kind if _alone(scene, thing.kind) else _pair(thing)


def _cells(thing: SceneObject) -> list[tuple[int, int]]:
    (column, row), side = thing.cell, 2 if thing.size == "large" else 1
    return [(column + dx, row + dy) for dx in range(side) for dy in range(side)]


def _some(rng: np.random.Generator, among: Iterable[T], count: int) -> list[T]:
    things = list(among)
    return [things[i] for i in rng.permutation(len(things))[:count]]


def _one(rng: np.random.Generator, among: Iterable[T]) -> T:
    options = list(among)
    return options[rng.integers(len(options))]
