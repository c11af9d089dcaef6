"""The runs of an output, from `runs/<run_id>.json`. A killed run has written its record only at its start; its last
label is then the last that is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adafv.counting import Sizes
from adafv.pipeline.passed import Passed
from adafv.pipeline.record.prices import recorded_price
from adafv.pipeline.record.run_record import read_records
from adafv.pipeline.store.output import Output

ENDED = ("done", "stopped", "failed")


@dataclass(frozen=True)
class DeviceUse:
    """What a number of workers ran on: GPU or processor and, if known, the cloud instance."""

    name: str
    instance: str | None
    workers: int

    def __str__(self) -> str:
        return self.name if self.instance is None else f"{self.name} ({self.instance})"


@dataclass(frozen=True)
class RecordedRun:
    """One execution. A resumed one is another, under the same name.

    Attributes:
        stopped_by: the option whose limit stopped it, such as max-cost.
        input: rows in its input, including those labelled before.
        seconds: from the first row requested to the last one written.
        worker_seconds: how long workers were held, idle time included.
        workers: the least number.
        price: USD per worker hour as given then; with prices by device, the mean over time.
        on: `cuda` or `cpu`: whether a worker is a GPU, or a share of a machine.
        gpus: per worker; 1 on CPUs.
        devices: what its workers ran on; empty for a killed run.
        config: its options, without secrets, and the `folder` where it was started.
        sizes: its model's.
        audit: the record's audit of its rows.
        passed_over: input that made no row.
    """

    run_id: str
    status: str
    stopped_by: str | None
    started: datetime
    input: int
    labelled: int
    seconds: float
    worker_seconds: float
    workers: int
    price: float | None
    on: str | None
    gpus: int
    devices: tuple[DeviceUse, ...]
    config: dict[str, Any]
    sizes: Sizes | None
    passed_over: tuple[Passed, ...] = ()
    audit: dict[str, Any] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the record says how long it took."""
        return self.status in ENDED


def read_runs(output: Output) -> list[RecordedRun]:
    """All executions, the earliest first.

    Raises:
        UsageError: a file under runs/ is no record of a run.
    """
    return sorted(read_records(output, _run), key=lambda run: run.started)


def _run(record: dict[str, Any]) -> RecordedRun:
    hardware = record["hardware"] or {}
    return RecordedRun(
        run_id=record["run_id"],
        status=record["status"],
        stopped_by=record.get("stopped_by"),
        started=datetime.fromisoformat(record["started_at"]),
        input=record["counts"]["input"],
        labelled=record["counts"]["labelled"],
        seconds=record["throughput"]["seconds"],
        worker_seconds=record["cost"]["worker_seconds"],
        workers=(hardware.get("workers") or [1])[0],
        price=recorded_price(record["cost"]),
        on=hardware.get("device"),
        gpus=hardware.get("gpus_per_worker") or 1,
        devices=tuple(
            DeviceUse(each["device"], each["instance"], each["workers"]) for each in hardware.get("devices", ())
        ),
        config=record["config"] | {"folder": record.get("folder")},
        sizes=Sizes.from_json(record["model"]) if record.get("model") else None,
        passed_over=tuple(Passed(**one) for one in record.get("passed_over", ())),
        audit=record.get("audit"),
    )
