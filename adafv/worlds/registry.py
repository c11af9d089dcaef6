"""The worlds by name: a model, and held-out scenes whose pictures are made as they are asked for.

Adding one is an entry in `WORLDS`. Its rows have the columns of `drawn.dataset.SCHEMA`; its captions and other answers
are scored by its `points`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from adafv.embedded import OF_WORLDS, own_model
from adafv.hardware import has_amx
from adafv.worlds.drawn import dataset as drawn
from adafv.worlds.drawn.questions import TEXTURED_TYPES
from adafv.worlds.drawn.score import Truth
from adafv.worlds.drawn.score import named as drawn_named
from adafv.worlds.drawn.score import points as drawn_points
from adafv.worlds.photo import dataset as photo
from adafv.worlds.photo.score import named as photo_named
from adafv.worlds.photo.score import points as photo_points


class Points(Protocol):
    """What an answer is worth, from 0 to 1."""

    def __call__(self, label: str, truth: Truth) -> float: ...


@dataclass(frozen=True, kw_only=True)
class World:
    """A yardstick: pictures with questions whose answers are known, and a model that answers them.

    Attributes:
        name: as `--worlds` takes it.
        model: as `--model` takes it: one of `adafv.embedded.OWN_MODELS`.
        rows: `rows(scenes, seed)` are the questions on so many held-out scenes from the seed-th on. FileNotFoundError
            where its pictures aren't there.
        points: what an answer is worth, from 0 to 1.
        named: the things that a caption names.
        scenes: as many as a comparison over worlds takes, unless it is told.
        batch_size: questions that the model is asked at once.
        dtype: as `--dtype` takes it, where the command line leaves that open.
    """

    name: str
    model: str
    rows: Callable[[int, int], Iterator[dict[str, object]]] = drawn.rows
    points: Points = drawn_points
    named: Callable[[str], list[str]] = drawn_named
    scenes: int = 60
    batch_size: int = 64
    dtype: str = "auto"

    def missing(self) -> str | None:
        """What it lacks here, and how to get that; None where nothing is missing."""
        try:
            own_model(self.model)
            next(self.rows(1, 0))
        except FileNotFoundError as error:
            return str(error)
        return None


_textured = partial(drawn.rows, types=TEXTURED_TYPES, style="textured")

WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        World(name="testbed", model="testbed"),
        World(name="testbed-emerged", model="testbed-emerged"),
        *(World(name=name, model=name, rows=_textured) for name in OF_WORLDS),
        World(
            name="photo",
            model="testbed-photo",
            rows=photo.rows,
            points=photo_points,
            named=photo_named,
            scenes=6,
            batch_size=8,
            dtype="bfloat16" if has_amx() else "auto",  # float32 takes three times as long there
        ),
    )
}
