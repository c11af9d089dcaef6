"""The campaign's input, and what must be true of an output when a job has ended."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adafv.worlds.drawn.dataset import rows as testbed_rows
from tests.services import S3Server

FILES = 8  # of the input, half of them Parquet and half JSON lines
QUESTIONS_PER_SCENE = 10  # fewer than there are
COMPARED = ("prompt", "answer", "finish_reason", "kept_indices")


def write_input(folder: Path, rows: int, seed: int, repeated: float = 0.0) -> None:
    """`rows` questions on testbed scenes under `folder`/rows, in random order, their pictures under `folder`/images.

    In random order, so that each row's image is a fetch of its own. A share of them, `repeated`, asks what another does
    about the same pixels, in a file of another name.
    """
    questions = []
    (folder / "images").mkdir(parents=True)
    (folder / "rows").mkdir()
    for row in islice(testbed_rows(rows // QUESTIONS_PER_SCENE + 1), rows):
        image: Any = row["image"]
        path = folder / "images" / image["path"]
        if not path.exists():
            path.write_bytes(image["bytes"])
        questions.append({"id": row["id"], "image": image["path"], "question": row["question"]})
    originals = questions[: round(rows * (1 - repeated))]
    for number in range(rows - len(originals)):
        original = originals[number]
        path = folder / "images" / f"again-{original['image']}"
        if not path.exists():
            path.write_bytes((folder / "images" / original["image"]).read_bytes())
        questions[len(originals) + number] = original | {"id": f"again-{original['id']}", "image": path.name}
    random.Random(seed).shuffle(questions)
    for i in range(FILES):
        part = questions[i::FILES]
        if i % 2:
            (folder / "rows" / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        else:
            pq.write_table(pa.Table.from_pylist(part), folder / "rows" / f"{i}.parquet", row_group_size=100)


def labels(store: S3Server, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """Every row of every Parquet file under labels/, read without the project's own code."""
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/labels/")
    found: list[dict[str, Any]] = []
    for key in (item["Key"] for page in pages for item in page.get("Contents", ())):
        data = store.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        found += pq.read_table(io.BytesIO(data), columns=["id", *COMPARED]).to_pylist()
    return found


@dataclass(frozen=True)
class Verdict:
    """An output against the reference: how many rows were checked, and the ids of which something is wrong."""

    rows: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    differing: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not (self.lost or self.twice or self.differing or self.unknown)

    def __str__(self) -> str:
        parts = [f"{self.rows:,} rows"]
        for name in ("lost", "twice", "differing", "unknown"):
            ids = getattr(self, name)
            parts.append(f"{len(ids)} {name}" + (f" ({', '.join(ids[:3])})" if ids else ""))
        return ", ".join(parts)


def check(found: list[dict[str, Any]], reference: list[dict[str, Any]]) -> Verdict:
    """`found` must have the ids of `reference`, each once, and all that the job is to answer for alike."""
    times = Counter(row["id"] for row in found)
    expected = {row["id"]: [row[name] for name in COMPARED] for row in reference}
    differing = {row["id"] for row in found if [row[name] for name in COMPARED] != expected.get(row["id"])}
    return Verdict(
        rows=len(found),
        lost=tuple(sorted(expected.keys() - times.keys())),
        twice=tuple(sorted(id for id, number in times.items() if number > 1)),
        differing=tuple(sorted(differing & expected.keys())),
        unknown=tuple(sorted(times.keys() - expected.keys())),
    )
