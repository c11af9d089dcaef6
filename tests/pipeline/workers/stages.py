"""What a row passes between the fetcher and the sink, without its processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from adafv.engine import EngineOptions
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.label import Labelling, WorkerOptions
from adafv.pipeline.workers.prepare import Preparation, Preparing


def preparing(model: Path, engine: EngineOptions) -> Preparing:
    return Preparing(
        Preparation(
            model=str(model), engine=engine, storage=Storage(), max_pixels=10**6, max_bytes=10**6, timeout=60.0,
            handler=Preparing,
        )
    )  # fmt: skip


def worker_options(model: str | Path, engine: EngineOptions, **changes: Any) -> WorkerOptions:
    options = WorkerOptions(
        model="m", path=str(model), engine=engine, storage=Storage(), run_id="run", tariff=Tariff(), threads=1,
        batch_timeout=60.0, handler=Labelling,
    )  # fmt: skip
    return replace(options, **changes)
