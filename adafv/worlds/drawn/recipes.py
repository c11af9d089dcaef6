"""The models, and what each is trained on: stages, each from where the last one ended.

`testbed` has seven:

- `small`: one crop, 3x3 cells, simple questions. Binding colours to kinds is learnt here, where a step is cheapest.
- `drop`: the same, and on half of the steps every scene loses a random share of its visual tokens. In a
  prototype without this, accuracy under pruning was brittle and even rose as the budget fell. Dropping at random
  favours no strategy but `random`.
- `anyres`: the real pictures, with base, crops, newlines and all sizes; tokens are dropped on half of the
  steps, and captions count half: what was dropped no caption can name.
- `objects`: alignment asked each word to find some object that it names; now it has to find each of them, so that
  "digit" speaks of every digit. [CLS] is left alone.
- `all`: questions of all types.
- `relate`: hard questions, several times as many, on one crop again: on large pictures they are hardly learnt.
- `rest`: all questions on all pictures.

The `textured-` models learn from pictures that fit one crop, then from the real ones, without the alignment loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adafv.worlds.drawn.family import Family
from adafv.worlds.drawn.llava import LlavaNext, Onevision
from adafv.worlds.drawn.model import ModelSize
from adafv.worlds.drawn.questions import HARD_TYPES, QUESTION_TYPES, SIMPLE_TYPES, TEXTURED_TYPES
from adafv.worlds.drawn.qwen import Qwen
from adafv.worlds.drawn.scenes import StyleName


@dataclass(frozen=True)
class Stage:
    name: str
    steps: int
    learning_rate: float
    grid: tuple[int, int] | None  # of the scenes; None: all that there are
    dropped: float  # share of the steps on which visual tokens are dropped
    caption_weight: float  # of a caption's words in the loss: two words in five are theirs
    every_object: bool = False  # alignment: a word has to find all objects that it names, not just one of them
    cls_weight: float = 0.5
    types: tuple[str, ...] = SIMPLE_TYPES  # of the questions
    draws: int = 1  # how often the hard types are asked
    scenes: int = 32  # a step reads
    batches: int | None = None  # how many different ones there are, which come again and again; None: all differ
    patches_weight: float = 0.0  # of the loss that has visual tokens tell what they show


@dataclass(frozen=True)
class Curriculum:
    """A model and how it is trained."""

    family: Family
    style: StyleName
    stages: tuple[Stage, ...]
    types: tuple[str, ...]  # what it is evaluated on
    alignment: float = 0.0  # weight of the alignment loss
    dtype: str = "float32"  # of the saved weights
    tower: str | None = None  # the embedded model whose vision tower it begins with

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.stages)


_ASKED = (*SIMPLE_TYPES, "absent", "background")
# The tower alone first, as a published one has learnt to see before it meets a language model.
_TOWER = Stage("tower", 1500, 2e-3, (3, 3), 0.0, 1.0, types=(), scenes=48, batches=400, patches_weight=1.0)
_FIRST = Stage("small", 600, 1.5e-3, (3, 3), 0.0, 1.0, types=_ASKED, scenes=16, patches_weight=0.1)
_REAL = Stage("pictures", 400, 1e-3, None, 0.0, 1.0, types=_ASKED, scenes=16, patches_weight=0.1)
_AGAIN = replace(_REAL, name="pictures again", steps=600, learning_rate=8e-4)

PLANS = {
    "testbed": Curriculum(
        LlavaNext(),
        "plain",
        (
            Stage("small", 1200, 1.5e-3, (3, 3), 0.0, 1.0),
            Stage("drop", 450, 7e-4, (3, 3), 0.5, 1.0),
            Stage("anyres", 1800, 1e-3, None, 0.5, 0.5),
            Stage("objects", 250, 4e-4, None, 0.5, 0.5, every_object=True, cls_weight=0.0),
            Stage("all", 1200, 8e-4, None, 0.5, 0.5, True, 0.25, tuple(QUESTION_TYPES)),
            Stage("relate", 700, 1e-3, (3, 3), 0.0, 1.0, True, 0.25, (*HARD_TYPES, "colour", "absent"), draws=4),
            Stage("rest", 500, 8e-4, None, 0.5, 0.5, True, 0.25, tuple(QUESTION_TYPES), draws=2),
        ),
        tuple(QUESTION_TYPES),
        alignment=0.5,
    ),
    "textured-clip": Curriculum(
        LlavaNext(),
        "textured",
        (replace(_TOWER, steps=500, learning_rate=1.5e-3), _FIRST, _REAL, _AGAIN),
        TEXTURED_TYPES,
        dtype="bfloat16",
        tower="testbed",
    ),
    "textured-siglip": Curriculum(
        Onevision(ModelSize(vision_layers=3)),
        "textured",
        (
            replace(_TOWER, steps=300, learning_rate=1.5e-3, batches=200),
            replace(_FIRST, steps=450),
            replace(_REAL, steps=350),
        ),
        TEXTURED_TYPES,
        dtype="bfloat16",
        tower="testbed",
    ),
    "textured-qwen": Curriculum(
        Qwen(),
        "textured",
        (
            replace(_TOWER, steps=600, batches=150),
            replace(_TOWER, name="tower again", steps=700),
            _FIRST,
            _REAL,
        ),
        TEXTURED_TYPES,
        dtype="bfloat16",
    ),
}
