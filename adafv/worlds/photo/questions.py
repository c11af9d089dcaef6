"""What is asked about a scene, in plain English, and the right answers.

Each kind draws from its own stream of the scene's seed, so a new kind leaves the questions of the others as
they are. `main` and `caption` are about the large thing or all of them, the other kinds about small things.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from adafv.worlds.photo.pictures import CATEGORIES, Pictures
from adafv.worlds.photo.scenes import QUESTION_STREAM, Placed, Scene

T = TypeVar("T")

MOST_PER_KIND = 3  # questions of one kind about one scene


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    type: str
    size: str  # of what it is about: "small", "large", or "scene"


Asker = Callable[[Scene, Pictures, np.random.Generator], list[Question]]


def questions(scene: Scene, pictures: Pictures, types: Iterable[str] | None = None) -> list[Question]:
    """The scene's questions, of these types (default: all), in the order of QUESTION_TYPES.

    Raises:
        ValueError: there is no such type.
    """
    wanted = set(QUESTION_TYPES) if types is None else set(types)
    if unknown := sorted(wanted - set(QUESTION_TYPES)):
        raise ValueError(f"no such question types: {', '.join(unknown)}; there are {', '.join(QUESTION_TYPES)}")
    asked = []
    for number, (type_, ask) in enumerate(QUESTION_TYPES.items()):
        if type_ in wanted:
            rng = np.random.default_rng([scene.seed, QUESTION_STREAM, number])
            asked += ask(scene, pictures, rng)
    return asked


def region(placed: Placed, scene: Scene) -> str:
    """Where its centre lies on a grid of 3 x 3: "top left", "middle", "bottom", ..."""
    (x, y), (width, height) = placed.centre, scene.size
    across = ("left", "middle", "right")[min(2, int(3 * x / width))]
    down = ("top", "middle", "bottom")[min(2, int(3 * y / height))]
    if across == "middle":
        return down
    return across if down == "middle" else f"{down} {across}"


def with_article(name: str) -> str:
    """ "otter" -> "an otter"; what looks like a plural gets none."""
    counted = name.partition(" of ")[0]
    if counted.endswith("s") and not counted.endswith("us"):
        return name
    return ("an " if name[0] in "aeiou" else "a ") + name


def in_words(place: str) -> str:
    """ "left" -> "on the left", "top left" -> "at the top left", "middle" -> "in the middle" """
    return {"middle": "in the middle", "left": "on the left", "right": "on the right"}.get(place, f"at the {place}")


def ask_what(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    """Of regions that hold the centre of one thing alone."""
    held = Counter(region(thing, scene) for thing in scene.things)
    alone = [thing for thing in _small(scene) if held[region(thing, scene)] == 1]
    return [
        Question(f"What is {in_words(region(thing, scene))} of the image?", thing.name, "what", "small")
        for thing in _some(rng, alone)
    ]


def ask_where(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    return [
        Question(f"Where is the {thing.name}?", in_words(region(thing, scene)), "where", "small")
        for thing in _some(rng, _small(scene))
    ]


def ask_exists(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    return [_is_there(thing.name, "Yes", "exists") for thing in _some(rng, _small(scene), 2)]


def ask_absent(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    """Half of the time a near miss: something else of the category of a small thing."""
    there = {thing.name for thing in scene.things}
    near = {thing.thing.category for thing in _small(scene)} - {None}
    missing = [thing for thing in pictures.things if thing.name not in there]
    near_misses = [thing for thing in missing if thing.category in near]
    asked = []
    for _ in range(2):
        among = near_misses if near_misses and rng.random() < 0.5 else missing
        asked.append(_is_there(among[rng.integers(len(among))].name, "No", "absent"))
    return asked


def _is_there(name: str, answer: str, type_: str) -> Question:
    verb = "Is" if with_article(name) != name else "Are"
    return Question(f"{verb} there {with_article(name)} in the image?", answer, type_, "small")


def ask_main(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    return [Question("What is the largest object in the image?", scene.main.name, "main", "large")]


def ask_category(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    """Of categories that one thing alone is of, and a small one."""
    held = Counter(thing.thing.category for thing in scene.things)
    alone = [thing for thing in _small(scene) if thing.thing.category and held[thing.thing.category] == 1]
    return [
        Question(f"Which {CATEGORIES[str(thing.thing.category)][0]} is in the image?", thing.name, "category", "small")
        for thing in _some(rng, alone, 2)
    ]


def ask_count(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    """How many there are of a category that is there, and one in four times of one that may not be."""
    held = Counter(thing.thing.category for thing in scene.things)
    there = sorted(category for category in held if category)
    among = there if there and rng.random() < 0.75 else list(CATEGORIES)
    category = among[rng.integers(len(among))]
    return [Question(f"How many {CATEGORIES[category][1]} are there?", str(held[category]), "count", "scene")]


def ask_number(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    if scene.sign is None or not scene.sign.is_number:
        return []
    return [Question("What number is on the sign?", scene.sign.text, "number", "small")]


def ask_word(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    if scene.sign is None or scene.sign.is_number:
        return []
    return [Question("What does the sign say?", scene.sign.text, "word", "small")]


def ask_plate(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    return [Question("What color is the sign?", scene.sign.colour, "plate", "small")] if scene.sign else []


def ask_side(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    """Of two small things whose boxes don't stand above one another."""
    pairs = [(a, b) for a in _small(scene) for b in _small(scene) if a.box[2] <= b.box[0] or b.box[2] <= a.box[0]]
    return [
        Question(
            f"Is the {one.name} to the left or to the right of the {other.name}?",
            "left" if one.box[2] <= other.box[0] else "right",
            "side",
            "small",
        )
        for one, other in _some(rng, pairs, 2)
    ]


def ask_caption(scene: Scene, pictures: Pictures, rng: np.random.Generator) -> list[Question]:
    """The main thing, the small ones in reading order, and what the sign says."""
    parts = [with_article(thing.name) for thing in _small(scene)]
    if scene.sign:
        parts.append(f"a {scene.sign.colour} sign that says {scene.sign.text}")
    text = f"The image shows {with_article(scene.main.name)}" + (" with " + ", ".join(parts) if parts else "") + "."
    return [Question("Describe the image.", text, "caption", "scene")]


def _small(scene: Scene) -> list[Placed]:
    return [thing for thing in scene.things if not thing.is_main]


QUESTION_TYPES: dict[str, Asker] = {
    "what": ask_what,
    "where": ask_where,
    "exists": ask_exists,
    "absent": ask_absent,
    "main": ask_main,
    "category": ask_category,
    "count": ask_count,
    "number": ask_number,
    "word": ask_word,
    "plate": ask_plate,
    "side": ask_side,
    "caption": ask_caption,
}


def _some(rng: np.random.Generator, among: list[T], most: int = MOST_PER_KIND) -> list[T]:
    return [among[i] for i in rng.permutation(len(among))[:most]]
