"""The real pipeline with a simulated engine: what bounds a job on many workers, other than its GPUs.

A worker that only waits takes next to no CPU, so one machine holds many; and one that is so many times as fast as a
real one gives the driver as much to do as so many. Workers are on a Ray cluster of several nodes on this machine, which
believes in GPUs that it is told of. Some are slow (stragglers), and some are killed (preemption). Pictures are a few
bytes and nobody decodes them: what they take of a CPU, CPU nodes have plenty of, and `jobs/bench.py pipeline` measures.

What a part of the job takes of a CPU for a row is measured with two numbers of rows, as the difference; so neither its
start counts, nor what else the machine is doing. A part that there is one of, such as the driver, can do no more rows a
second than fit into a second of its CPU time.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adafv.bench.process import apart, resident
from adafv.bench.table import table as text_table
from adafv.pipeline import schema
from adafv.pipeline.isolation import Handler
from adafv.pipeline.options import JobOptions
from adafv.pipeline.workers import samples
from adafv.pipeline.workers.label import GIVEN, WorkerOptions
from adafv.pipeline.workers.prepare import Preparation

# Variables of a node's environment: what its workers are called, samples a second, which share of them is slow.
DEVICE, RATE, SLOW = "ADAFV_SIMULATED_DEVICE", "ADAFV_SIMULATED_RATE", "ADAFV_SIMULATED_SLOW"
SLOWNESS = 3.0  # of stragglers
FILE_ROWS = 10_000
EVERY = 1.0  # seconds between two looks at the processes
TICK = os.sysconf("SC_CLK_TCK")
# By the first of these that a process's command line holds; of those that there is one of, one core is the limit.
PARTS = {
    "gcs_server": "Ray's head service",
    "raylet/raylet": "Ray's node services",
    "MapWorker": "workers",
    "agent": "Ray's agents",
    "Agent": "Ray's agents",
    "ray::": "read, fetch, prepare",  # also while it waits for the next task, and is called ray::IDLE
}
ALONE = ("driver", "Ray's head service")


class Simulated(Handler):
    """A worker's handler: says the same of each sample, and takes its time, which is no CPU's.

    How fast it is, in samples a second, and what it calls itself are variables of the environment: those of the node.
    """

    def __init__(self, options: WorkerOptions) -> None:
        rate = float(os.environ.get(RATE, "75"))
        slow = random.random() < float(os.environ.get(SLOW, "0"))
        self._seconds = (SLOWNESS if slow else 1.0) / rate
        device = os.environ.get(DEVICE, "simulated")
        price = options.tariff.of(device, None)
        self._values = {
            "model": options.model,
            "strategy": options.engine.strategy,
            "worker_device": device,
            "answer": "no",
            "finish_reason": "stop",
            "mean_logprob": -0.1,
            "visual_tokens": 2880,
            "kept_tokens": 288,
            "kept_indices": list(range(0, 2880, 10)),
            "kept_cues": [1] * 288,
            "images": [{"image": "x", "uri": "x", "panels": 1, "visual_tokens": 2880, "kept_tokens": 288}],
            "output_tokens": 8,
            "gpu_seconds": self._seconds,
            "cost_usd": None if price is None else self._seconds * price / 3600,
            **dict.fromkeys((f"{stage}_ms" for stage in ("encode", "prune", "prefill", "decode")), 1.0),
            **dict.fromkeys((f"worker_{step}_s" for step in schema.STARTING), 0.0),
        }
        self._made: dict[int, pa.Table] = {}  # by number of rows: what is the same each time

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        time.sleep(table.num_rows * self._seconds)
        count = table.num_rows
        if count not in self._made:
            self._made[count] = pa.Table.from_pylist([self._values | {"batch_size": count}] * count, schema.RESULTS)
        given = {name: table.column(name) for name in GIVEN if name in schema.RESULTS.names}
        given["labelled_at"] = pa.array([datetime.now(UTC)] * count, schema.TIME)
        result = self._made[count]
        for name, column in given.items():
            place = schema.RESULTS.get_field_index(name)
            result = result.set_column(place, schema.RESULTS.field(place), column)
        return result


class Unprepared(Handler):
    """The preparing stage's handler: passes rows on with a picture of no size."""

    def __init__(self, preparation: Preparation) -> None:
        picture = {"crops": bytes(12), "shape": [1, 3, 2, 2], "size": [2, 2], "key": "k", "visual_tokens": 2880}
        values = {
            "preprocess_ms": 1.0,
            samples.NAMES: [{"image": "x", "uri": "x"}],
            "pictures": [picture],
            "input_ids": [1] * 60,
        }
        self._values = values | {"question_places": [*range(1, 20)], "fits_unpruned": True}

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        return pa.table(
            [table.column(field.name) if field.name in samples.PASSED_ON
             else pa.array([self._values[field.name]] * table.num_rows, field.type) for field in samples.SCHEMA],
            schema=samples.SCHEMA,
        )  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What is simulated.

    Attributes:
        workers: on so many `nodes` besides the head.
        rate: samples a second of each; `slow`: which share of them takes three times as long.
        kill_every: seconds after which one more worker is killed; None for never.
    """

    nodes: int
    workers: int
    rate: float
    slow: float = 0.0
    kill_every: float | None = None


@dataclass(frozen=True)
class Scaled:
    """One job. Rates are rows a second.

    Attributes:
        plan_seconds: from listing the input to knowing what is to do; `seconds`: from then to the end.
        first_label: seconds until the first labels came out, `first_label_rows` of them.
        killed: workers.
        cpu: seconds of CPU time by part.
        driver_mib: what the driver held at most.
    """

    rows: int
    plan_seconds: float
    seconds: float
    first_label: float
    killed: int
    cpu: dict[str, float]
    driver_mib: float
    first_label_rows: int

    @property
    def rate(self) -> float:
        """From the first labels on, without these: they took the time before."""
        return (self.rows - self.first_label_rows) / (self.seconds - self.first_label)


def run(options: JobOptions, sizes: Sequence[int], load: Load) -> list[Scaled]:
    """A job for each number of rows."""
    with tempfile.TemporaryDirectory(prefix="scale") as folder:
        found = []
        for rows in sizes:
            write_rows(Path(folder, f"{rows}"), rows)
            found.append(apart(_measure, options, Path(folder), rows, load))
        return found


def write_rows(folder: Path, count: int) -> None:
    """So many rows with pictures of a few bytes."""
    folder.mkdir()
    for start in range(0, count, FILE_ROWS):
        ids = [f"{number:09d}" for number in range(start, min(start + FILE_ROWS, count))]
        columns = {"id": ids, "image": [b"GIF89a"] * len(ids), "question": ["What is it?"] * len(ids)}
        pq.write_table(pa.table(columns), folder / f"{start:09d}.parquet", row_group_size=1000)


def _measure(options: JobOptions, folder: Path, rows: int, load: Load) -> Scaled:
    from adafv.pipeline import run as job

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("adafv").setLevel(logging.INFO)
    os.environ |= {RATE: f"{load.rate}", SLOW: f"{load.slow}", "RAY_raylet_start_wait_time_s": "400"}
    given = options.changed(
        input=(str(folder / f"{rows}"),),
        output=str(folder / f"{rows}-out"),
        device="cuda",
        workers=f"{load.workers}",
    )
    with _cluster(load), _Watch(load.kill_every) as watch:
        ran = job.run(given, Simulated, Unprepared).run
    assert ran.tally.labelled == rows and ran.first_label is not None
    return Scaled(
        rows, ran.plan_seconds, ran.seconds, ran.first_label, watch.killed, dict(watch.seconds()), watch.driver_mib,
        ran.first_label_rows,
    )  # fmt: skip


@contextmanager
def _cluster(load: Load) -> Iterator[None]:
    """Ray with a head for reading and preparing, and nodes for the workers; this process is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=4, num_gpus=0, object_store_memory=512 * 2**20)
        for node in range(load.nodes):
            gpus = load.workers // load.nodes + (node < load.workers % load.nodes)
            cluster.add_node(num_cpus=gpus + 1, num_gpus=gpus)
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


class _Watch:
    """Looks at the processes of this job each second, as a context, and kills a worker now and then."""

    def __init__(self, kill_every: float | None) -> None:
        self._kill_every = kill_every
        self._seen: dict[int, tuple[str, float]] = {}  # by process number: its part, and its CPU time
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.driver_mib = 0.0
        self.killed = 0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def seconds(self) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for part, seconds in self._seen.values():
            found[part] += seconds
        return found

    def _run(self) -> None:
        struck = time.monotonic()
        while not self._done.wait(EVERY):
            for pid, part, seconds in _processes():
                self._seen[pid] = part, seconds
            self.driver_mib = max(self.driver_mib, resident("RssAnon") / 2**20)
            if self._kill_every is not None and time.monotonic() - struck >= self._kill_every:
                struck = time.monotonic()
                self.killed += int(_kill_worker())


def _kill_worker() -> bool:
    workers = [pid for pid, part, _ in _processes() if part == "workers" and "MapWorker" in _title(pid)]
    if workers:
        with suppress(ProcessLookupError):
            os.kill(random.choice(workers), signal.SIGKILL)
    return bool(workers)


def _processes() -> Iterator[tuple[int, str, float]]:
    """This process and those below it: number, part, seconds of CPU time. A worker's child counts with the worker."""
    children, times = defaultdict(list), {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            children[int(fields[1])].append(pid)
            times[pid] = (int(fields[11]) + int(fields[12])) / TICK
    own = os.getpid()
    yield own, "driver", times[own]
    waiting = [(pid, "") for pid in children[own]]
    while waiting:
        pid, above = waiting.pop()
        part = above or _part(_title(pid))
        waiting += [(child, part if part in ("workers", "read, fetch, prepare") else "") for child in children[pid]]
        yield pid, part, times[pid]


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


@cache
def _part(title: str) -> str:
    return next((part for mark, part in PARTS.items() if mark in title), "other of Ray's")


def per_row(found: Sequence[Scaled]) -> dict[str, float]:
    """Microseconds of CPU time that each further row took, by part: from the smallest job to the largest."""
    least, most = min(found, key=lambda one: one.rows), max(found, key=lambda one: one.rows)
    more = most.rows - least.rows
    return {part: 1e6 * (most.cpu[part] - least.cpu.get(part, 0.0)) / more for part in most.cpu} if more else {}


def figures(found: Sequence[Scaled]) -> list[dict[str, Any]]:
    return [asdict(one) | {"rate": one.rate} for one in found] + [{"cpu_us_per_row": per_row(found)}]


def table(found: Sequence[Scaled], load: Load) -> str:
    lines = [
        f"{load.workers} workers of {load.rate:g} samples/s on {load.nodes} nodes: at most "
        f"{load.workers * load.rate * (1 - load.slow * (1 - 1 / SLOWNESS)):,.0f} a second",
        text_table(
            {
                "rows": "11,",
                "plan, s": "9.1f",
                "rows/s": "9.0f",
                "first, s": "10.1f",
                "killed": "8",
                "driver, MiB": "13.0f",
            },
            [(one.rows, one.plan_seconds, one.rate, one.first_label, one.killed, one.driver_mib) for one in found],
        ),
    ]
    lines.append(f"{'CPU time, us for each further row':<36}{'one core does, rows/s':>23}")
    for part, micros in sorted(per_row(found).items(), key=lambda item: -item[1]):
        limit = f"{1e6 / micros:,.0f}" if part in ALONE and micros > 0 else ""
        lines.append(f"  {part:<22}{micros:>12.0f}{limit:>23}")
    return "\n".join(lines)
