"""Estimates what labelling a number of rows takes, from a recorded run.

A run has three parts. **Start-up**: from the first row requested until workers begin their first batches, on average;
they load the model. **Steady**: rows come out at an even rate. **Tail**: workers that finish wait for the last one's
batch, and the last file is written. Start-up and tail don't depend on the number of rows, so each is estimated by
itself. Speed is taken to grow in proportion to the workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adafv.pipeline.record.prices import recorded_price

BUSY = 0.8  # share of the workers' time; below it they wait for rows


@dataclass(frozen=True)
class RunEstimate:
    """Seconds of each part, and worker-seconds in all."""

    rows: int
    workers: int
    start: float
    steady: float
    tail: float
    worker_seconds: float

    @property
    def seconds(self) -> float:
        return self.start + self.steady + self.tail

    def cost_usd(self, price_per_hour: float | None) -> float | None:
        return None if price_per_hour is None else self.worker_seconds * price_per_hour / 3600


@dataclass(frozen=True)
class Measured:
    """A run's speed.

    Attributes:
        devices: what its workers ran on: device, cloud instance, number of workers.
        workers: how many at once.
        rows: rows after each worker's first batches, over `seconds`.
        start: mean seconds until workers began their first batches; `held`: how many of these a worker was held for.
        end: seconds from the last batch to the end.
        batch: seconds that a worker takes for what it hands over together.
        label, prepare, fetch: seconds per row: of a worker, of a CPU, and waiting for the image.
        busy: the share of the workers' time, over `seconds`, in which they labelled.
        config: the run's options.
    """

    run_id: str
    started: str
    devices: tuple[tuple[str, str | None, int], ...]
    workers: int
    price_per_hour: float | None
    rows: int
    seconds: float
    start: float
    held: float
    end: float
    batch: float
    label: float
    prepare: float
    fetch: float
    busy: float
    config: Mapping[str, Any]

    @classmethod
    def of(cls, record: dict[str, Any]) -> Measured | None:
        """From a run's record; None if that says too little: too few rows, or an older version's record."""
        times, totals, hardware = record["throughput"], record["totals"], record["hardware"] or {}
        counts = record["counts"]
        start, held_steadily = times.get("first_batch_seconds"), times.get("steady_worker_seconds", 0.0)
        seen = sum(each["workers"] for each in hardware.get("devices", ()))
        rows = counts["labelled"] + counts["rejected"]
        if start is None or held_steadily <= 0 or not times["steady_rows"] or not seen or not totals.get("gpu_seconds"):
            return None
        later = round(times["steady_rows"] * rows / counts["labelled"])
        workers = min(seen, hardware["workers"][1] or seen)  # a restarted worker counts twice in `seen`
        seconds = held_steadily / workers
        label = (totals["gpu_seconds"] + totals.get("rejected_gpu_seconds", 0.0)) / rows
        held = record["cost"]["worker_seconds"] / workers - (times["seconds"] - start)
        return cls(
            run_id=record["run_id"],
            started=record["started_at"],
            devices=tuple((each["device"], each["instance"], each["workers"]) for each in hardware["devices"]),
            workers=workers,
            price_per_hour=recorded_price(record["cost"]),
            rows=later,
            seconds=seconds,
            start=start,
            held=min(max(0.0, held), start),
            end=max(0.0, times["seconds"] - times["last_batch_seconds"]),
            batch=label * times["first_label_rows"],
            label=label,
            prepare=totals["preprocess_ms"] / 1000 / rows,
            fetch=totals["fetch_ms"] / 1000 / rows,
            config=record.get("config") or {},
            busy=min(1.0, label * later / held_steadily),
        )

    @property
    def device(self) -> str:
        return ", ".join(device for device, _, _ in self.devices)

    @property
    def rows_per_second(self) -> float:
        """Per worker."""
        return self.rows / self.seconds / self.workers

    @property
    def is_fed(self) -> bool:
        """Whether labelling is the bottleneck; otherwise workers wait for rows."""
        return self.busy >= BUSY

    def estimate(self, rows: int, workers: int | None = None) -> RunEstimate:
        """For `rows`, with as many workers as measured unless given."""
        workers = workers or self.workers
        if not rows:
            return RunEstimate(0, workers, 0.0, 0.0, 0.0, 0.0)
        steady = rows / (self.rows_per_second * workers)
        tail = self.end + (self.batch if workers > 1 else 0.0)
        return RunEstimate(rows, workers, self.start, steady, tail, workers * (self.held + steady + tail))

    def rows_within(self, seconds: float, workers: int) -> int:
        """How many rows `workers` do in `seconds`, start-up and tail included."""
        empty = self.estimate(1, workers)
        return max(0, int((seconds - empty.start - empty.tail) * self.rows_per_second * workers))

    def workers_within(self, rows: int, seconds: float) -> int | None:
        """How many workers do `rows` in `seconds`; None if no number does."""
        left = seconds - self.start - self.end - self.batch
        return max(1, -int(-rows // (self.rows_per_second * left))) if left > 0 else None
