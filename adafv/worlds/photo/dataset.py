"""Scenes and their questions as a Parquet dataset, with the columns of the drawn world's.

    python -m adafv.worlds.photo.dataset --scenes N --output DIR [--seed S] [--size 336x336|wide] [--question-types …]

One row per question; the rows of a scene stand together. `--seed` counts from the start of the evaluation range, whose
backgrounds and compositions no training has seen. `wide` draws the sizes that LLaVA-NeXT cuts into crops.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from adafv.worlds.drawn.dataset import Shown, rows_of, write
from adafv.worlds.photo.pictures import pictures
from adafv.worlds.photo.questions import QUESTION_TYPES, questions
from adafv.worlds.photo.scenes import EVALUATION_SEEDS, SINGLE, make_scene, render, wide_size

ONE, WIDE = f"{SINGLE[0]}x{SINGLE[1]}", "wide"


def rows(
    scenes: int, seed: int = 0, is_wide: bool = False, types: Iterable[str] | None = None
) -> Iterator[dict[str, object]]:
    """The rows of `scenes` scenes, from the `seed`-th of the evaluation range on."""
    drawn, chosen = pictures(), list(types) if types is not None else None

    def shown(number: int) -> Shown:
        scene = make_scene(number, drawn, wide_size(number) if is_wide else SINGLE)
        return render(scene, drawn), questions(scene, drawn, chosen)

    return rows_of(scenes, seed, EVALUATION_SEEDS, shown)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="write a dataset of the photo world's held-out scenes")
    parser.add_argument("--size", choices=(ONE, WIDE), default=ONE)
    write(parser, arguments, QUESTION_TYPES, _asked)


def _asked(options: argparse.Namespace, types: list[str]) -> Iterator[dict[str, object]]:
    return rows(options.scenes, options.seed, options.size == WIDE, types)


if __name__ == "__main__":
    main()
