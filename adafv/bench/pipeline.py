"""What the job keeps of its engine's speed, and that its memory doesn't grow with its input.

The same rows are labelled twice: by an engine in a process of its own, which finds them prepared in its memory, and by
a job that reads them from Parquet and writes labels. A job's start and end are the same for ten rows and ten million.
So its speed is counted from the end of the first batch to the end of the last, and its workers' idle share likewise;
what the start took is reported beside them.

A small model's time for a sample is less than what the pipeline takes of a CPU for it, so that on few cores the two
contend. Of a model of real proportions this is lost in the noise: `--model` also takes a preset of `shapes`, which is
written to a folder for the job to load.

With `--no-engine` workers answer without a model: whatever then grows with the rows is the pipeline's. While the job
runs, its process and Ray's object store are looked at each second.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch

from adafv.bench.examples import scene_row
from adafv.bench.process import apart, resident
from adafv.bench.shapes import PRESETS, Shape, Subject
from adafv.bench.table import table
from adafv.engine import Engine
from adafv.hardware import keep_freed_memory
from adafv.internals import object_store_bytes
from adafv.pipeline import schema
from adafv.pipeline.control.resources import Resources
from adafv.pipeline.isolation import Handler
from adafv.pipeline.options import JobOptions
from adafv.pipeline.run import run
from adafv.pipeline.sources.rows import to_table
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.label import GIVEN, Labelling, WorkerOptions
from adafv.pipeline.workers.model import resolve_model
from adafv.pipeline.workers.prepare import Preparation, Preparing
from adafv.pipeline.workers.samples import samples_of
from adafv.worlds.drawn import dataset

MIB = 2**20
SHARD_ROWS = 5000
SCENES = 200  # whose pictures and questions come again under other ids
WARM_UP = 1  # batches
TENTHS = 10


@dataclass(frozen=True)
class Throughput:
    """One job beside the engine alone. Rates are samples a second.

    Attributes:
        workers: how many, each with so many `threads`.
        engine: rate of one engine alone, with as many threads.
        job: rate of the job from its first batch's end to its last's.
        whole: rate of the job from its start to its end.
        first_seconds: until the first batch was labelled.
        idle_share: of the workers' time in between, not spent on labelling.
    """

    rows: int
    workers: int
    threads: int
    engine: float
    job: float
    whole: float
    first_seconds: float
    idle_share: float

    @property
    def kept(self) -> float:
        """The job's rate, as a share of its workers' engines'."""
        return self.job / (self.engine * self.workers)


@dataclass(frozen=True)
class Memory:
    """What was held in a tenth of a job's time, at most: bytes of the driver's own (what it sees of the object store is
    not among them), and in Ray's object store."""

    until_seconds: float
    driver_bytes: int
    store_bytes: int


def throughput(options: JobOptions, rows: int) -> Throughput:
    """Label so many rows with the engine alone, then as a job."""
    with tempfile.TemporaryDirectory(prefix="pipeline") as folder:
        job = job_in(Path(folder), options, rows)
        ran = apart(_job, job, Labelling)
        (low, high), threads = ran.resources.workers, ran.resources.threads
        workers = high or low
        engine = apart(_engine, job, Path(job.input[0]), ran.resources.batch_size, threads)
        first, rate, idle = _steady(Path(job.output), workers)
    return Throughput(rows, workers, threads, engine, rate, rows / ran.seconds, first - ran.started, idle)


def job_in(folder: Path, options: JobOptions, rows: int) -> JobOptions:
    """A job on so many rows that are written into `folder`, as is the model, where `options` name a preset's shape."""
    inputs, model = folder / "input", folder / "model"
    write_rows(inputs, rows)
    job = replace(options, input=(str(inputs),), output=str(folder / "output"))
    if options.model not in PRESETS:
        return job
    apart(save_model, PRESETS[options.model], str(model))
    return replace(job, model=str(model))


def save_model(shape: Shape, folder: str) -> None:
    """Write a model of that shape, with random weights, for a job to load."""
    Subject.build(shape, torch.device("cpu"), torch.float32).save(folder)


def memory(options: JobOptions, rows: int) -> tuple[float, list[Memory]]:
    """Label so many rows without a model; (rows a second, what was held in each tenth of the time)."""
    with tempfile.TemporaryDirectory(prefix="pipeline") as folder:
        ran = apart(_job, job_in(Path(folder), options, rows), Constant)
    count = len(ran.seen)
    tenths = [ran.seen[count * tenth // TENTHS : count * (tenth + 1) // TENTHS] for tenth in range(TENTHS)]
    highest = [Memory(*(max(values) for values in zip(*tenth, strict=True))) for tenth in tenths if tenth]
    return rows / ran.seconds, highest


def write_rows(folder: Path, count: int) -> None:
    """So many rows of the testbed, in shards; ids are their numbers."""
    folder.mkdir()
    known = [*islice(dataset.rows(SCENES), count)]
    for start in range(0, count, SHARD_ROWS):
        numbers = range(start, min(start + SHARD_ROWS, count))
        table = pa.Table.from_pylist(
            [known[number % len(known)] | {"id": f"{number:09d}"} for number in numbers], schema=dataset.SCHEMA
        )
        pq.write_table(table, folder / f"{start:09d}.parquet")


class Constant(Handler):
    """Labels each sample with the same word: a worker's handler, without a model."""

    def __init__(self, options: WorkerOptions) -> None:
        self._strategy = options.engine.strategy

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        answer = {"answer": "no", "finish_reason": "stop", "strategy": self._strategy, "gpu_seconds": 0.0}
        common = answer | {"labelled_at": datetime.now(UTC), "visual_tokens": 1, "kept_tokens": 1, "kept_indices": [0]}
        return pa.Table.from_pylist([row | common for row in table.select(GIVEN).to_pylist()], schema=schema.RESULTS)


@dataclass(frozen=True)
class _Ran:
    """A job that has ended.

    Attributes:
        started: UNIX time; `seconds`: from then to its end.
        seen: each second the time since its start, bytes of the driver and bytes in the object store.
    """

    started: float
    seconds: float
    resources: Resources
    seen: list[tuple[float, int, int]]


def _job(options: JobOptions, handler: Callable[[WorkerOptions], Handler]) -> _Ran:
    """Run a job."""
    logging.basicConfig(level=logging.WARNING)
    seen: list[tuple[float, int, int]] = []
    done = threading.Event()
    started, start = time.time(), time.monotonic()
    watcher = threading.Thread(target=_watch, args=(start, done, seen), daemon=True)
    watcher.start()
    try:
        resources = run(options, handler).run.resources
    finally:
        done.set()
        watcher.join()
    assert resources is not None  # which only a run has that is read back from its record
    return _Ran(started, time.monotonic() - start, resources, seen)


def _watch(start: float, done: threading.Event, seen: list[tuple[float, int, int]]) -> None:
    while not done.wait(1.0):
        if ray.is_initialized():
            seen.append((time.monotonic() - start, resident("RssAnon"), _stored()))


def _stored() -> int:
    """Bytes in the object stores of all nodes."""
    return sum(object_store_bytes(node) for node in ray.nodes() if node["Alive"])


def _engine(options: JobOptions, inputs: Path, batch_size: int, threads: int) -> float:
    """Samples a second of an engine that finds its samples prepared, in batches as the job has them."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    settings = options.engine_on("cpu" if options.engine.device == "auto" else options.engine.device)
    engine = Engine.load(resolve_model(options.model, Storage()), settings)
    batches = [samples_of(table) for table in _prepared(options, inputs, batch_size)]
    for batch in batches[:WARM_UP]:
        engine.label(batch)
    start = time.perf_counter()
    for batch in batches:
        engine.label(batch)
    return sum(map(len, batches)) / (time.perf_counter() - start)


def _prepared(options: JobOptions, inputs: Path, batch_size: int) -> Iterator[pa.Table]:
    engine = options.engine_on("cpu")
    preparing = Preparing(
        Preparation.of(options, model=options.model, engine=engine, storage=Storage(), handler=Preparing)
    )
    for path in sorted(inputs.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size, columns=["id", "image", "question"]):
            yield preparing(to_table(map(scene_row, batch.to_pylist())), lambda: None)


def _steady(output: Path, workers: int) -> tuple[float, float, float]:
    """(UNIX time when the first batch was labelled, rate from then on, idle share of the workers from then on)."""
    columns = ["labelled_at", "gpu_seconds"]
    labels = pa.concat_tables(pq.read_table(path, columns=columns) for path in (output / "labels").glob("*.parquet"))
    times = labels.column("labelled_at").cast(pa.int64())  # microseconds
    first, last = pc.min(times).as_py(), pc.max(times).as_py()
    later = labels.filter(pc.greater(times, first))
    seconds = (last - first) / 1e6
    idle = 1 - pc.sum(later.column("gpu_seconds")).as_py() / (seconds * workers)
    return first / 1e6, later.num_rows / seconds, idle


def throughput_table(found: Sequence[Throughput]) -> str:
    columns = {"rows": "9,", "workers": "9", "threads": "9", "engine/s": "10.1f", "job/s": "8.1f", "kept": "7.1%"}
    columns |= {"idle": "7.1%", "whole/s": "9.1f", "first, s": "10.1f"}
    return table(
        columns,
        [
            (one.rows, one.workers, one.threads, one.engine, one.job, one.kept, one.idle_share, one.whole,
             one.first_seconds)
            for one in found
        ],
    )  # fmt: skip


def memory_table(rate: float, found: Sequence[Memory]) -> str:
    rows = [(one.until_seconds, one.driver_bytes / MIB, one.store_bytes / MIB) for one in found]
    columns = {"until, s": "9.0f", "driver, MiB": "13.0f", "object store, MiB": "19.0f"}
    return f"{table(columns, rows)}\n{rate:.0f} rows a second"
