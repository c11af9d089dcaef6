"""What a report of many labels takes: seconds, and the most memory, by the number of labels.

An output with N labels of all columns, in files such as the sink writes, by three runs of which one was killed, with a
reject for every hundred labels; and a folder with the few pictures that they are of. A process of its own makes the
report and its page, and nothing else, so that the memory is a report's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from adafv.bench.process import resident
from adafv.bench.table import table as text_table
from adafv.pipeline import schema
from adafv.pipeline.outputs.sink import ROWS

RUNS, IMAGES, REJECTS_OF = 3, 200, 100
SIDE, KEPT = 24, 58  # LLaVA-1.5 at 10 %
START = datetime(2026, 6, 1, tzinfo=UTC)
MIB = 2**20
DEVICE = {"device": "NVIDIA A10G", "instance": "g5.12xlarge", "workers": 4}


@dataclass(frozen=True)
class ReportTimes:
    """One N: seconds for the figures and for the page, the process's largest resident set, and the page's size."""

    rows: int
    report_seconds: float
    page_seconds: float
    peak_bytes: int
    page_bytes: int

    @property
    def seconds(self) -> float:
        return self.report_seconds + self.page_seconds


def write_data(folder: Path, rows: int) -> None:
    """`rows` labels in folder/output, of pictures in folder/input."""
    for part in ("input", "output/labels", "output/rejects", "output/runs"):
        (folder / part).mkdir(parents=True)
    for number in range(IMAGES):
        Image.new("RGB", (640, 480), (number, 80, 160)).save(folder / "input" / f"{number}.jpg")
    random = np.random.default_rng(0)
    for number, first in enumerate(range(0, rows, ROWS)):
        some = np.arange(first, min(first + ROWS, rows))
        run_id = f"run-{number % RUNS}"
        labels = _table(_labels(some, run_id, folder / "input", random), schema.LABELS)
        pq.write_table(labels, folder / f"output/labels/{number:05d}.parquet", compression="zstd")
        rejects = pa.Table.from_pydict(_rejects(some[::REJECTS_OF], run_id), schema.REJECTS)
        pq.write_table(rejects, folder / f"output/rejects/{number:05d}.parquet", compression="zstd")
    for number in range(RUNS):
        record = _run(f"run-{number}", number, rows, str(folder / "input"))
        (folder / f"output/runs/run-{number}.json").write_text(json.dumps(record))


def _table(columns: dict[str, Any], kind: pa.Schema) -> pa.Table:
    """`columns` as a table of that kind, in which those that aren't given are null."""
    rows = len(columns["id"])
    return pa.Table.from_pydict({field.name: pa.nulls(rows, field.type) for field in kind} | columns, kind)


def _labels(rows: np.ndarray, run_id: str, folder: Path, random: np.random.Generator) -> dict[str, Any]:
    count = len(rows)
    text, seconds = random.integers(5, KEPT, count), random.lognormal(-1.5, 0.6, count)
    given = {
        "id": [f"image-{row:012d}" for row in rows],
        "image": [f"{row % IMAGES}.jpg" for row in rows],
        "question": [f"What is left of object {row % 97} in the picture?" for row in rows],
        "answer": [f"a thing of kind {row % 1009}" for row in rows],
        "finish_reason": random.choice(["stop", "length"], count, p=[0.97, 0.03]),
        "mean_logprob": -random.exponential(0.3, count),
        "kept_indices": _lists(np.sort(random.permuted(_repeated(np.arange(SIDE**2), count), axis=1)[:, :KEPT])),
        "kept_cues": _lists(random.integers(0, 4, (count, KEPT), np.int8)),
        "grid": pa.repeat(_grid(), count),
        "from_text": text,
        "from_saliency": KEPT - text,
        "gpu_seconds": seconds,
        "labelled_at": [START + timedelta(seconds=float(row) / 50) for row in rows],
    }
    alike: dict[str, Any] = {"visual_tokens": SIDE**2, "kept_tokens": KEPT, "prompt_tokens": KEPT + 40}
    alike |= {"output_tokens": 6, "strategy": "adafv", "model": "llava", "batch_size": 32}
    alike |= {"run_id": run_id, "worker": "host/1", "prompt": None, "cost_usd": None}
    part = {"panels": 1, "visual_tokens": SIDE**2, "kept_tokens": KEPT}
    given["image_uri"] = [f"{folder}/{image}" for image in given["image"]]
    named = zip(given["image"], given["image_uri"], strict=True)
    given["images"] = [[part | {"image": image, "uri": uri, "key": image}] for image, uri in named]
    given |= {name: [value] * count for name, value in alike.items()}
    return given | {f"{stage}_ms": 1000 * seconds / len(schema.STAGES) for stage in schema.STAGES}


def _repeated(row: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(row, (count, len(row)))


def _lists(values: np.ndarray) -> pa.Array:
    """A list of each row of `values` [N, K]."""
    count, length = values.shape
    kind = pa.int8() if values.dtype == np.int8 else pa.int32()
    return pa.ListArray.from_arrays(
        pa.array(np.arange(0, (count + 1) * length, length), pa.int32()), pa.array(values.reshape(-1), kind)
    )


def _grid() -> pa.Scalar:
    panel = {"rows": SIDE, "columns": SIDE, "top": 0.0, "left": 0.0, "bottom": 1.0, "right": 1.0}
    return pa.scalar([panel], schema.GRID)


def _rejects(rows: np.ndarray, run_id: str) -> dict[str, Any]:
    count = len(rows)
    return {
        "id": [f"reject-{row:012d}" for row in rows],
        "image": [f"gone/{row}.jpg" for row in rows],
        "question": ["What is in the picture?"] * count,
        "stage": ["fetch"] * count,
        "error": ["image_not_found"] * count,
        "message": [f"no file 'gone/{row}.jpg'" for row in rows],
        "retryable": [False] * count,
        "image_uri": [f"/gone/{row}.jpg" for row in rows],
        "run_id": [run_id] * count,
        "rejected_at": [START + timedelta(seconds=float(row) / 50) for row in rows],
    }


def _run(name: str, number: int, rows: int, input: str) -> dict[str, Any]:
    """The record of a run; the last but one was killed."""
    killed = number == RUNS - 2
    return {
        "run_id": name,
        "status": "running" if killed else "done",
        "started_at": (START + timedelta(seconds=60 * number)).isoformat(),
        "config": {"input": [input], "image_root": None, "id_column": "id", "image_column": "image"},
        "hardware": {"device": "cuda", "devices": [DEVICE], "workers": [4, 4]},
        "counts": {"input": rows + rows // REJECTS_OF, "labelled": rows // RUNS},
        "throughput": {"seconds": 0.0 if killed else rows / 50},
        "cost": {"price_per_hour": 1.0, "worker_seconds": 0.0 if killed else rows / 10},
        "earlier": [],
    }


def measure(folder: Path, rows: int) -> ReportTimes:
    """Make the report of what `write_data` wrote, and its page. For a process of its own."""
    from adafv.pipeline.store.storage import Storage
    from adafv.reporting.page import render
    from adafv.reporting.pictures import Access
    from adafv.reporting.report import make_report

    start = time.perf_counter()
    report = make_report(folder / "output", storage=Storage())
    figures = time.perf_counter()
    page = render(report, Access(Storage()))
    end = time.perf_counter()
    if (report.labelled, report.count.duplicates) != (rows, 0):
        raise AssertionError(f"{report.labelled} labels, {report.count.duplicates} twice; wrong for {rows}")
    return ReportTimes(rows, figures - start, end - figures, resident("VmHWM"), len(page.encode()))


def table(found: Sequence[ReportTimes]) -> str:
    columns = {"labels": "13,", "report s": "10.1f", "page s": "8.1f", "peak MiB": "10.0f", "page kB": "9.0f"}
    return text_table(
        columns,
        [
            (one.rows, one.report_seconds, one.page_seconds, one.peak_bytes / MIB, one.page_bytes / 1000)
            for one in found
        ],
    )
