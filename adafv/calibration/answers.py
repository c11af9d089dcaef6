"""A candidate's answers and costs, read from its output. Each worker's first batch is slower, since caches are cold.
It is a twentieth of a small sample and nothing of a data set, so its time isn't counted. Nor are reused labels, which
took none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from adafv.pipeline.outputs.ledger import DIGEST, Ledger, digest_labels
from adafv.pipeline.outputs.reader import read_labels
from adafv.pipeline.record.audit import first_image
from adafv.pipeline.store.storage import Storage

COLUMNS = (
    "id", "image", "images", "question", "answer", "confidence", "visual_tokens", "kept_tokens", "prompt_tokens",
    "output_tokens", "encode_ms", "gpu_seconds", "cost_usd", "run_id", "worker", "labelled_at",
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """The labels of one output.

    Attributes:
        rows: by id; `image` is the `first_image`.
        seconds: of a worker, per sample; None without labels. `encode_seconds`: of these, to encode the image.
        kept_tokens, visual_tokens: per sample; `tokens`: those of the language model, prompt and answer.
        usd_per_hour: of a worker, as recorded; None without a price.
    """

    rows: dict[str, dict[str, Any]]
    seconds: float | None
    encode_seconds: float
    kept_tokens: float
    visual_tokens: float
    tokens: float
    usd_per_hour: float | None = None


def cost_per_1000(seconds: float, price_per_hour: float) -> float:
    """USD for 1,000 samples of so many worker seconds."""
    return 1000 * seconds * price_per_hour / 3600


def read_answers(uri: str, sample: Ledger, storage: Storage, among: Collection[str] | None = None) -> Answers:
    """The labels of drawn rows: an output may also hold those of an earlier sample.

    Args:
        among: ids of the rows to use, if not all. Rows that only fit the model's context pruned are longer than others.
    """
    rows: dict[str, dict[str, Any]] = {}
    for batch in read_labels(uri, COLUMNS, storage):
        drawn = sample.contains(np.frombuffer(digest_labels(batch), DIGEST))
        for row in batch.filter(pa.array(drawn)).to_pylist():
            image = first_image(row)
            del row["images"]  # long
            rows[row["id"]] = row | {"image": image}
    timed = [row for row in rows.values() if row["gpu_seconds"]]
    later = _without_first_batches(timed)
    if among is not None:
        rows = {id: row for id, row in rows.items() if id in among}
        later = [row for row in later if row["id"] in rows] or [row for row in timed if row["id"] in rows] or later
    found = [*rows.values()]
    return Answers(
        rows=rows,
        seconds=_mean([row["gpu_seconds"] for row in later]) if later else None,
        encode_seconds=_mean([row["encode_ms"] / 1000 for row in later]),
        kept_tokens=_mean([row["kept_tokens"] for row in found]),
        visual_tokens=_mean([row["visual_tokens"] for row in found]),
        tokens=_mean([row["prompt_tokens"] + row["output_tokens"] for row in found]),
        usd_per_hour=_price(later),
    )


def _without_first_batches(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without each worker's first batch, unless there is no other."""
    first: dict[tuple[str, str], datetime] = {}
    for row in rows:
        worker = row["run_id"], row["worker"]
        first[worker] = min(row["labelled_at"], first.get(worker, row["labelled_at"]))
    return [row for row in rows if row["labelled_at"] > first[row["run_id"], row["worker"]]] or rows


def _price(rows: list[dict[str, Any]]) -> float | None:
    costs, seconds = [row["cost_usd"] for row in rows], sum(row["gpu_seconds"] for row in rows)
    return None if None in costs or not seconds else 3600 * sum(costs) / seconds


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
