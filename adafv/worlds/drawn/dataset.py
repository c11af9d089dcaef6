"""Scenes and their questions as a Parquet dataset: what a job reads, and the truth that it is scored by.

    python -m adafv.worlds.drawn.dataset --scenes N --output DIR [--seed S] [--style textured] [--question-types ...]

One row per question; the rows of a scene stand together, each with the picture as PNG, since that is how the
public VQA datasets are laid out. `--seed` counts from the start of the evaluation range, so that no figure
can come from a scene that the model was trained on. A shard is visible under its name only when it is whole.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from adafv.worlds.drawn.questions import QUESTION_TYPES, questions
from adafv.worlds.drawn.scenes import EVALUATION_SEEDS, STYLES, StyleName, make_scene, render

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # scene-000123-q04
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("type", pa.string()),
        ("size", pa.string()),
        ("scene", pa.int64()),  # the seed: make_scene(seed, style=...) has the objects
    ]
)


# A scene: its picture, and what is asked about it, each with `text`, `answer`, `type` and `size`.
Shown = tuple[Image.Image, Sequence[Any]]


def rows(
    scenes: int, seed: int = 0, types: Iterable[str] | None = None, style: StyleName = "plain"
) -> Iterator[dict[str, object]]:
    """The rows of `scenes` scenes, from the `seed`-th of the evaluation range on."""
    chosen = list(types) if types is not None else None

    def shown(number: int) -> Shown:
        scene = make_scene(number, style=style)
        return render(scene), questions(scene, chosen)

    return rows_of(scenes, seed, EVALUATION_SEEDS, shown)


def rows_of(scenes: int, seed: int, seeds: range, shown: Callable[[int], Shown]) -> Iterator[dict[str, object]]:
    """Likewise of any world; `shown`: the picture of a scene, by its seed, and what is asked about it."""
    if scenes < 1 or seed < 0 or seed + scenes > len(seeds):
        raise ValueError(
            f"scenes must be at least 1, seed at least 0, and both together at most {len(seeds)}; "
            f"got scenes {scenes}, seed {seed}"
        )
    for number in range(seed, seed + scenes):
        name, (image, asked) = f"scene-{number:06d}", shown(seeds[number])
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        picture = {"bytes": buffer.getvalue(), "path": f"{name}.png"}
        for i, question in enumerate(asked):
            yield {
                "id": f"{name}-q{i:02d}",
                "image": picture,
                "question": question.text,
                "answer": question.answer,
                "type": question.type,
                "size": question.size,
                "scene": seeds[number],
            }


def write_shards(output: Path, asked: Iterable[dict[str, object]], shard_rows: int = 5000) -> list[Path]:
    """Write shards of about `shard_rows` rows, no scene split over two, and return their paths.

    Raises:
        FileExistsError: there are Parquet files in the folder.
    """
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be at least 1, got {shard_rows}")
    output.mkdir(parents=True, exist_ok=True)
    if any(output.glob("*.parquet")):
        raise FileExistsError(f"{output} already holds Parquet files: give a new folder, or delete them")
    written: list[Path] = []
    pending: list[dict[str, object]] = []
    for row in asked:
        if len(pending) >= shard_rows and row["scene"] != pending[-1]["scene"]:
            written.append(_write_shard(output, len(written), pending))
            pending = []
        pending.append(row)
    if pending:
        written.append(_write_shard(output, len(written), pending))
    return written


def _write_shard(output: Path, number: int, shard: list[dict[str, object]]) -> Path:
    path = output / f"part-{number:05d}.parquet"
    partial = output / f".{path.name}.partial"
    pq.write_table(pa.Table.from_pylist(shard, schema=SCHEMA), partial)
    os.replace(partial, path)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="write a testbed dataset of held-out scenes")
    parser.add_argument("--style", choices=list(STYLES), default="plain", help="of the scenes; default: %(default)s")
    write(parser, arguments, QUESTION_TYPES, lambda asked, types: rows(asked.scenes, asked.seed, types, asked.style))


def write(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    question_types: Iterable[str],
    rows: Callable[[argparse.Namespace, list[str]], Iterable[dict[str, object]]],
) -> None:
    """The command of any world: write the rows that the options and the types of questions ask for."""
    parser.add_argument("--scenes", type=int, required=True, help="how many; a dozen or two of questions each")
    parser.add_argument("--seed", type=int, default=0, help="the first scene's place in the held-out range")
    parser.add_argument("--output", type=Path, required=True, help="folder for the Parquet shards")
    parser.add_argument(
        "--question-types", default=",".join(question_types), help="comma-separated; default: %(default)s"
    )
    parser.add_argument("--shard-rows", type=int, default=5000)
    options = parser.parse_args(arguments)
    try:
        shards = write_shards(options.output, rows(options, options.question_types.split(",")), options.shard_rows)
    except (ValueError, FileExistsError, FileNotFoundError) as error:
        parser.error(str(error))
    total = sum(pq.read_metadata(shard).num_rows for shard in shards)
    print(f"{options.output}: {total} questions on {options.scenes} scenes in {len(shards)} shards")


if __name__ == "__main__":
    main()
