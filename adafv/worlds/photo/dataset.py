"""Scenes and their questions as a Parquet dataset, with the columns of the drawn world's.

    python -m adafv.worlds.photo.dataset --scenes N --output DIR [--seed S] [--size 336x336|wide] [--question-types …]

One row per question; the rows of a scene stand together. `--seed` counts from the start of the evaluation range, whose
backgrounds and compositions no training has seen. `wide` draws the sizes that LLaVA-NeXT cuts into crops.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from adafv.worlds.drawn.dataset import write_shards
from adafv.worlds.photo.pictures import pictures
from adafv.worlds.photo.questions import QUESTION_TYPES, questions
from adafv.worlds.photo.scenes import EVALUATION_SEEDS, SINGLE, SIZES, Scene, make_scene, render

WIDE = "wide"
_SIZE_STREAM = 3


def rows(
    scenes: int, seed: int = 0, is_wide: bool = False, types: Iterable[str] | None = None
) -> Iterator[dict[str, object]]:
    """The rows of `scenes` scenes, from the `seed`-th of the evaluation range on."""
    if scenes < 1 or seed < 0 or seed + scenes > len(EVALUATION_SEEDS):
        raise ValueError(
            f"scenes must be at least 1, seed at least 0, and both together at most {len(EVALUATION_SEEDS)}; "
            f"got scenes {scenes}, seed {seed}"
        )
    drawn, chosen = pictures(), list(types) if types is not None else None
    for number in range(seed, seed + scenes):
        scene = make_scene(EVALUATION_SEEDS[number], drawn, wide_size(EVALUATION_SEEDS[number]) if is_wide else SINGLE)
        name = f"scene-{number:06d}"
        picture = {"bytes": _png(scene), "path": f"{name}.png"}
        for i, question in enumerate(questions(scene, drawn, chosen)):
            yield {
                "id": f"{name}-q{i:02d}",
                "image": picture,
                "question": question.text,
                "answer": question.answer,
                "type": question.type,
                "size": question.size,
                "scene": scene.seed,
            }


def wide_size(seed: int) -> tuple[int, int]:
    """Width and height of the seed's scene for LLaVA-NeXT."""
    rng = np.random.default_rng([seed, _SIZE_STREAM])
    return list(SIZES)[rng.choice(len(SIZES), p=list(SIZES.values()))]


def _png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    render(scene, pictures()).save(buffer, format="PNG")
    return buffer.getvalue()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="write a dataset of the photo world's held-out scenes")
    parser.add_argument("--scenes", type=int, required=True, help="how many; about twenty questions each")
    parser.add_argument("--seed", type=int, default=0, help="the first scene's place in the held-out range")
    parser.add_argument("--output", type=Path, required=True, help="folder for the Parquet shards")
    parser.add_argument("--size", choices=(f"{SINGLE[0]}x{SINGLE[1]}", WIDE), default=f"{SINGLE[0]}x{SINGLE[1]}")
    parser.add_argument(
        "--question-types", default=",".join(QUESTION_TYPES), help="comma-separated; default: %(default)s"
    )
    parser.add_argument("--shard-rows", type=int, default=5000)
    options = parser.parse_args(arguments)
    types = options.question_types.split(",")
    try:
        asked = rows(options.scenes, options.seed, options.size == WIDE, types)
        shards = write_shards(options.output, asked, options.shard_rows)
    except (ValueError, FileExistsError, FileNotFoundError) as error:
        parser.error(str(error))
    total = sum(pq.read_metadata(shard).num_rows for shard in shards)
    print(f"{options.output}: {total} questions on {options.scenes} scenes in {len(shards)} shards")


if __name__ == "__main__":
    main()
