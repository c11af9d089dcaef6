"""Ask a model in a folder about scenes, by our own engine with nothing pruned, and score it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from adafv.engine import Engine, EngineOptions, Preparer, load_model
from adafv.worlds.drawn.questions import questions
from adafv.worlds.drawn.scenes import Scene, render
from adafv.worlds.drawn.score import Score, Truth, score

UNPRUNED = EngineOptions(strategy="none", keep=1.0, max_new_tokens=32)  # a caption has at most 26 words


def evaluate(
    folder: Path, scenes: Sequence[Scene], types: Sequence[str] | None = None, options: EngineOptions = UNPRUNED
) -> Score:
    """`types` of the questions, or all."""
    truth: dict[str, Truth] = {}
    labels: dict[str, str | None] = {}
    for scene in scenes:
        asked = questions(scene, types)
        said = answer(folder, scene, [each.text for each in asked], options)
        for number, (question, text) in enumerate(zip(asked, said, strict=True)):
            id_ = f"{scene.seed}-{number}"
            truth[id_] = Truth(question.answer, question.type, question.size)
            labels[id_] = text
    return score(labels, truth)


def answer(folder: Path, scene: Scene, asked: Sequence[str], options: EngineOptions = UNPRUNED) -> list[str]:
    """The model's greedy answers to questions on one scene."""
    engine, preparer = _loaded(folder, options)
    picture = render(scene)
    samples = [preparer.prepare(f"{scene.seed}-{number}", picture, text) for number, text in enumerate(asked)]
    return [label.answer or "" for label in engine.label(samples)]


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path, options: EngineOptions) -> tuple[Engine, Preparer]:
    adapter, processing = load_model(str(folder), options)
    return Engine(adapter, processing, options), Preparer(processing, options)
