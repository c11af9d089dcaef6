"""Outputs as jobs leave them, written row by row: labels, rejects and runs of which the sums are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adafv.pipeline import schema
from adafv.pipeline.rejects import ERRORS

START = datetime(2026, 11, 20, 12, tzinfo=UTC)


def label(id: str, seconds: float = 1.0, run: str = "r1", after: float = 10.0, **values: Any) -> dict[str, Any]:
    """One label that took a worker so many `seconds`, `after` seconds from START."""
    return {
        "id": id,
        "image": f"{id}.jpg",
        "question": "what?",
        "answer": "red",
        "finish_reason": "stop",
        "mean_logprob": -0.1,
        "strategy": "adafv",
        "visual_tokens": 100,
        "kept_tokens": 10,
        "prompt_tokens": 30,
        "output_tokens": 3,
        **{f"{stage}_ms": 100.0 for stage in ("fetch", "preprocess", "encode", "prune", "prefill", "decode")},
        "gpu_seconds": seconds,
        "run_id": run,
        "labelled_at": START + timedelta(seconds=after),
    } | values


def reject(id: str | None, error: str, after: float = 10.0, image: str = "x", **values: Any) -> dict[str, Any]:
    return {
        "id": id,
        "image": image,
        "question": "what?",
        "stage": ERRORS[error].stage if error in ERRORS else "decode",
        "error": error,
        "message": "m",
        "retryable": False,
        "run_id": "r1",
        "rejected_at": START + timedelta(seconds=after),
    } | values


def run(name: str = "r1", started: float = 0.0, **values: Any) -> dict[str, Any]:
    """The record of a run. Of its values may be given `input`, `seconds`, `worker_seconds`, `price`, `status`, `usd`,
    `stopped_by`, `devices`, `on`, `workers`, `earlier`, `config`.
    """
    given = {"status": "done", "input": 0, "labelled": 0, "seconds": 0.0, "worker_seconds": 0.0, "price": None}
    given["stopped_by"] = None
    given |= {"devices": [], "workers": 1, "earlier": [], "on": "cuda", "config": {}} | values
    begun = START + timedelta(seconds=started)
    return {
        "run_id": name,
        "status": given["status"],
        "stopped_by": given["stopped_by"],
        "started_at": begun.isoformat(),
        "ended_at": None if given["status"] == "running" else begun.isoformat(),
        "config": {"strategy": "adafv", "keep": 0.1} | given["config"],
        "hardware": {
            "device": given["on"],
            "devices": given["devices"],
            "workers": [given["workers"], given["workers"]],
        },
        "counts": {"input": given["input"], "labelled": given["labelled"]},
        "throughput": {"seconds": given["seconds"]},
        "cost": {
            "price_per_hour": given["price"],
            "worker_seconds": given["worker_seconds"],
            "usd": given.get("usd"),
        },
        "earlier": given["earlier"],
    }


def write(
    folder: Path,
    labels: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
    rejects: Sequence[dict[str, Any]] = (),
    files: int = 1,
) -> str:
    """An output under `folder`, its labels in so many files; the folder."""
    for part in ("labels", "rejects", "runs"):
        (folder / part).mkdir(parents=True)
    for number in range(files):
        table = pa.Table.from_pylist(list(labels[number::files]), schema=schema.labels_schema())
        pq.write_table(table, folder / "labels" / f"{number}.parquet", write_page_checksum=True)
    if rejects:
        table = pa.Table.from_pylist(list(rejects), schema=schema.REJECTS)
        pq.write_table(table, folder / "rejects" / "0.parquet", write_page_checksum=True)
    for record in runs:
        (folder / "runs" / f"{record['run_id'].replace('/', '_')}.json").write_text(json.dumps(record))
    return str(folder)
