"""What is asked about a scene, and the right answers.

A type is a function from a scene and a random generator to questions, entered in QUESTION_TYPES; adding one
is a function and a line there, and its words in VOCABULARY. Types:

- colour: "what color is the star?"        kind: "which shape is red?"      digit: "which digit is red?"
- exists: "is there a red star?" In the "no" cases the colour and the kind are both present, on different
  objects, so that only looking at the star, and not the mere presence of red, tells.
- main: "what is the main object?" (the large one)      caption: "describe the image"

`Question.size` says what an answer needs to see: a small object, the large one, or the whole scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adafv.testbed.scenes import COLOURS, DIGITS, QUESTION_STREAM, SHAPES, Scene, SceneObject

_FUNCTION_WORDS = (
    "what", "which", "color", "is", "are", "the", "a", "of", "in", "there", "shape", "digit", "object",
    "main", "describe", "image", "list", "all", "objects", "name", "?", ".", ",", "yes", "no",
)  # fmt: skip
CONTENT_WORDS = (*SHAPES, *DIGITS, *COLOURS)
CATEGORY_WORDS = ("shape", "digit")  # each names many kinds
VOCABULARY = (*CONTENT_WORDS, *_FUNCTION_WORDS)


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    type: str
    size: Literal["small", "large", "scene"]


def questions(scene: Scene, types: Iterable[str] | None = None) -> list[Question]:
    """The scene's questions, about twelve, of all types or those named; the same each time."""
    chosen = tuple(types) if types is not None else tuple(QUESTION_TYPES)
    unknown = sorted(set(chosen) - set(QUESTION_TYPES))
    if unknown:
        raise ValueError(f"unknown question types {unknown}; there are {', '.join(QUESTION_TYPES)}")
    asked = []
    for stream, (name, ask) in enumerate(QUESTION_TYPES.items()):
        if name in chosen:  # a generator per type: leaving one out changes none of the others
            asked += ask(scene, np.random.default_rng([scene.seed, QUESTION_STREAM, stream]))
    return asked


def ask_colour(scene: Scene, rng: np.random.Generator) -> list[Question]:
    about = _some(rng, scene.objects[1:], 3)
    if rng.random() < 0.3:
        about.append(scene.main)
    templates = ("what color is the {}?", "what is the color of the {}?")
    texts = [_one(rng, templates).format(thing.kind) for thing in about]
    return [Question(text, thing.colour, "colour", thing.size) for text, thing in zip(texts, about, strict=True)]


def ask_kind(scene: Scene, rng: np.random.Generator) -> list[Question]:
    about = _some(rng, [thing for thing in scene.objects[1:] if not thing.is_digit], 2)
    return [_ask_which("shape", thing, "kind", rng) for thing in about]


def ask_digit(scene: Scene, rng: np.random.Generator) -> list[Question]:
    about = _some(rng, [thing for thing in scene.objects if thing.is_digit], 2)
    return [_ask_which("digit", thing, "digit", rng) for thing in about]


def _ask_which(noun: str, thing: SceneObject, type_: str, rng: np.random.Generator) -> Question:
    text = _one(rng, ("which {} is {}?", "what {} is {}?")).format(noun, thing.colour)
    return Question(text, thing.kind, type_, thing.size)


def ask_exists(scene: Scene, rng: np.random.Generator) -> list[Question]:
    asked = []
    for thing in _some(rng, scene.objects, 3):
        others = [other.colour for other in scene.objects if other.colour != thing.colour]
        present = rng.random() < 0.5
        colour = thing.colour if present else _one(rng, others)
        text = f"is there a {colour} {thing.kind}?"
        asked.append(Question(text, "yes" if present else "no", "exists", thing.size))
    return asked


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
}


def _pair(thing: SceneObject) -> str:
    return f"{thing.colour} {thing.kind}"


def _some(rng: np.random.Generator, among: Iterable[SceneObject], count: int) -> list[SceneObject]:
    things = list(among)
    return [things[i] for i in rng.permutation(len(things))[:count]]


def _one(rng: np.random.Generator, among: Iterable[str]) -> str:
    options = list(among)
    return options[rng.integers(len(options))]
