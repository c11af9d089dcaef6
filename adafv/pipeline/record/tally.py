"""What has come in of a run so far: counts and sums of labels, rejects by error, and each worker's times."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline import schema
from adafv.pipeline.record.audit import Audit
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.record.reasons import Reasons

SUMMED = [
    "visual_tokens",
    "kept_tokens",
    "prompt_tokens",
    "output_tokens",
    *(f"{stage}_ms" for stage in schema.STAGES),
    "gpu_seconds",
    "cost_usd",
]


class Device(NamedTuple):
    """What a worker runs on: processor or GPU, cloud instance, and the attention implementation."""

    device: str
    instance: str | None = None
    attention: str | None = None


@dataclass
class Span:
    """A worker's labels, without reused ones, by its own clock in seconds since the epoch. Batches may come in any
    order, since a worker has two tables of several batches at a time.

    Attributes:
        began: the start of its first batch.
        first: its first batches: when each was labelled, and its labels.
        last: when its newest batch was labelled; `rows`: labels so far.
    """

    FIRST: ClassVar[int] = 2

    began: float = math.inf
    first: list[tuple[float, int]] = field(default_factory=list)
    last: float = 0.0
    rows: int = 0

    def add(self, began: float, labelled: float, rows: int) -> None:
        """Add a batch."""
        self.began, self.last, self.rows = min(self.began, began), max(self.last, labelled), self.rows + rows
        self.first = sorted([*self.first, (labelled, rows)])[: self.FIRST]

    @property
    def steady(self) -> tuple[int, float]:
        """Labels after the first batches, and their seconds. A worker waits once between its first and second batch.
        If there are no more, labels after the first."""
        early = self.first if self.last > self.first[-1][0] else self.first[:1]
        return self.rows - sum(rows for _, rows in early), self.last - early[-1][0]


@dataclass
class Tally:
    labelled: int = 0
    reused: int = 0  # labels reused from other rows
    truncated: int = 0  # labels whose answer was cut off
    flags: Counter[str] = field(default_factory=Counter)  # of labels' answers
    batches: float = 0.0  # of the labels, whole up to rounding
    rejected: Counter[str] = field(default_factory=Counter)
    reasons: Reasons = field(default_factory=Reasons)
    totals: Counter[str] = field(default_factory=Counter)  # of the labels
    rejected_seconds: float = 0.0  # that rejects held workers, such as those with `answer_incomplete`
    audit: Audit = field(default_factory=Audit)
    workers: dict[str, float] = field(default_factory=dict)  # name: when it started, in seconds of the epoch
    devices: dict[str, Device] = field(default_factory=dict)  # name: what it runs on
    actors: dict[str, str] = field(default_factory=dict)  # name: Ray's name of it
    gone: dict[str, float] = field(default_factory=dict)  # name: when it was first missing
    lost: int = 0  # how many of those Ray Data has not ended itself
    starts: dict[str, tuple[float, ...]] = field(default_factory=dict)  # name: seconds of `schema.STARTING`
    spans: dict[str, Span] = field(default_factory=dict)  # name: from its first batch to its last

    @property
    def rows(self) -> int:
        return self.labelled + self.rejected.total()

    def add(self, table: pa.Table, labels: pa.Table, rejects: pa.Table) -> None:
        """Count a table of `schema.RESULTS`, made of these labels and rejects."""
        self.labelled += labels.num_rows
        if "duplicate_of" in labels.column_names:
            self.reused += labels.num_rows - labels.column("duplicate_of").null_count
        self.truncated += pc.sum(pc.equal(labels.column("finish_reason"), "length")).as_py() or 0
        self.flags.update(pc.list_flatten(labels.column("flags")).to_pylist())
        self.batches += pc.sum(pc.divide(1.0, labels.column("batch_size"))).as_py() or 0.0
        self.rejected.update(rejects.column("error").to_pylist())
        self.reasons.add(rejects)
        self.audit.add(labels)
        for name in SUMMED:
            self.totals[name] += pc.sum(labels.column(name)).as_py() or 0
        self.rejected_seconds += pc.sum(rejects.column("gpu_seconds")).as_py() or 0.0
        self._note_workers(table)

    def _note_workers(self, table: pa.Table) -> None:
        """The table has whole batches. Rejects have a `labelled_at` only if the model answered, such as those with
        `answer_incomplete`."""
        starting = [f"worker_{step}_s" for step in schema.STARTING]
        known = ["worker", "worker_actor", "worker_started", *(f"worker_{name}" for name in Device._fields), *starting]
        figures = [([], "count_all"), ("error", "count"), ("gpu_seconds", "sum")]
        batches = table.group_by([*known, "labelled_at"]).aggregate(figures)
        for row in batches.to_pylist():  # few batches, many rows
            self.workers.setdefault(row["worker"], row["worker_started"])
            if row["worker_device"] is not None:  # unknown for a worker with only rejects
                self.devices[row["worker"]] = Device(*(row[f"worker_{name}"] for name in Device._fields))
                self.starts.setdefault(row["worker"], tuple(row[name] or 0.0 for name in starting))
            if row["worker_actor"] is not None:
                self.actors[row["worker"]] = row["worker_actor"]
            if row["labelled_at"] is not None and row["gpu_seconds_sum"]:  # reused labels took none, in no batch
                labelled, took = row["labelled_at"].timestamp(), row["gpu_seconds_sum"]
                labels = row["count_all"] - row["error_count"]
                self.spans.setdefault(row["worker"], Span()).add(labelled - took, labelled, labels)

    def worker_seconds(self, now: float) -> float:
        """How long workers have been held, idle time included."""
        return sum(self._held(now).values())

    def usd(self, now: float, tariff: Tariff) -> float | None:
        """The cost of that; None if a device's price is unknown. A worker without labels has no known device: it
        counts at the others' mean price; without others, at the lowest, so that --max-cost ends also a run of nothing
        but rejects."""
        if not tariff.is_given:
            return None
        devices, held = self.devices.copy(), self._held(now)  # a copy: another thread may add to it
        rates = {name: tariff.of(on.device, on.instance) for name, on in devices.items() if name in held}
        known = [rate for rate in rates.values() if rate is not None]
        if len(known) < len(rates):
            return None
        mean = sum(known) / len(known) if known else tariff.least
        return sum(seconds * (rates.get(name, mean) or 0.0) for name, seconds in held.items()) / 3600

    def note_gone(
        self,
        alive: Collection[tuple[str, int]],
        now: float,
        unlisted: Collection[str] = (),
        ended: Collection[str] = (),
    ) -> None:
        """Note which workers are not `alive`, by actor and process number. `unlisted` actors may be alive; `ended` ones
        are gone, but not lost."""
        for name, actor in self.actors.copy().items():
            there = actor in unlisted or (actor, int(name.rpartition("/")[2])) in alive
            if name not in self.gone and not there:
                self.gone[name] = now
                self.lost += actor not in ended

    def start_seconds(self) -> dict[str, list[float]]:
        """The seconds that each worker took, by step of `schema.STARTING`."""
        starts = list(self.starts.values())
        return {step: [one[index] for one in starts] for index, step in enumerate(schema.STARTING)} if starts else {}

    def _held(self, now: float) -> dict[str, float]:
        """How long each worker has been held."""
        workers = self.workers.copy()  # a copy: another thread may add to it
        return {name: max(0.0, self.gone.get(name, now) - started) for name, started in workers.items()}
