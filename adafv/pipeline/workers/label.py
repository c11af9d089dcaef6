"""The worker: an actor that holds the model and labels one batch after the other.

Rejects of earlier stages pass through, so that every row reaches the sink once. The model is loaded at the first row
that needs it. What an answer cost is worked out here: the time that the batch held the worker, shared among its rows.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline.outputs import schema
from adafv.pipeline.storage import Storage
from adafv.pipeline.workers.model import resolve_model
from adafv.pipeline.workers.prepare import samples_of

if TYPE_CHECKING:
    from adafv.engine import Engine, EngineOptions, Label

KEPT = ("id", "image", "question", "prompt", "fetch_ms", "preprocess_ms")  # columns that a label takes from its row
FROM_LABEL = [
    "answer",
    "finish_reason",
    "mean_logprob",
    "visual_tokens",
    "kept_tokens",
    "kept_indices",
    "from_text",
    "from_saliency",
    "prompt_tokens",
    "output_tokens",
    "batch_size",
    "encode_ms",
    "prune_ms",
    "prefill_ms",
    "decode_ms",
]


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker needs to know.

    Attributes:
        model: as the user named it; `path`: the same, where local with its full path.
        threads: of torch, on a CPU.
    """

    model: str
    path: str
    engine: EngineOptions
    storage: Storage
    run_id: str
    price_per_hour: float | None
    threads: int


class Worker:
    """Labels tables of samples."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._started = time.time()
        self._name = f"{socket.gethostname()}/{os.getpid()}"

    @cached_property
    def _engine(self) -> Engine:
        import torch

        from adafv.engine import Engine

        torch.set_num_threads(self._options.threads)
        return Engine.load(resolve_model(self._options.path, self._options.storage), self._options.engine)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Samples and rejects (`prepare.SCHEMA`) in, labels and rejects (`schema.RESULTS`) out."""
        rejected = table.filter(pc.is_valid(table.column("error")))
        results = rejected.select([*KEPT, "error", "message"]).to_pylist()
        good = table.filter(pc.is_null(table.column("error")))
        if good.num_rows:
            results += self._label(good)
        common = {"run_id": self._options.run_id, "worker": self._name, "worker_started": self._started}
        return pa.Table.from_pylist([row | common for row in results], schema=schema.RESULTS)

    def _label(self, table: pa.Table) -> list[dict[str, Any]]:
        engine, samples = self._engine, samples_of(table)
        start = time.perf_counter()
        labels = engine.label(samples)
        seconds = (time.perf_counter() - start) / len(samples)
        price = self._options.price_per_hour
        common = {
            "model": self._options.model,
            "strategy": self._options.engine.strategy,
            "gpu_seconds": seconds,
            "cost_usd": None if price is None else seconds * price / 3600,
            "labelled_at": datetime.now(UTC),
        }
        given = table.select(KEPT).to_pylist()
        return [row | columns_of(label) | common for row, label in zip(given, labels, strict=True)]


def columns_of(label: Label) -> dict[str, Any]:
    """The label's own columns of the output."""
    columns = {name: getattr(label, name) for name in FROM_LABEL}
    grid = [{name: getattr(panel, name) for name in schema.GRID.value_type.names} for panel in label.grid]
    return columns | {"grid": grid}
